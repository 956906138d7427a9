"""Tuning: which values of a recipe are best by validation, and what the best of so many is worth.

Each trial is drawn, fitted and written down; whoever dies in between leaves its trial to the next process, which goes on from its
checkpoint. The best one keeps its checkpoints and can be finished; test is opened for it alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult

from hftl.environment import now
from hftl.errors import Problem, RecipeError, RunError
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.selection import RESAMPLES, Corrected, corrected_for_choice
from hftl.files import write_json, write_text
from hftl.names import METRICS, as_rank
from hftl.recipe import Recipe
from hftl.records.metrics import interval_of, read_metrics, value_of
from hftl.run import RunDirectory
from hftl.studies.cost import StudyPlan, plan_study
from hftl.studies.grid import told
from hftl.studies.page import write_page, write_table
from hftl.studies.search import STORAGE, Asked, Drawn, Pruner, Sampler, Search, draw_values, open_search, shown_storage
from hftl.studies.search_figures import write_figures
from hftl.studies.space import Range, Space, Value, even_values
from hftl.studies.study import Question, StudyDirectory, check_same_question, open_study
from hftl.studies.trials import Experiments, Pruned, Trial, all_failed, lighten, read_trial, run_trial, sealed
from hftl.studies.turns import claim_trial, joined, refuse_others, token_of, turn
from hftl.terminal import Say, Shown
from hftl.training.engine import Evaluation
from hftl.wording import count, duration, listed

SHOWN = 10
"""Trials in the table of the page, the best first; table.csv has all."""
MOST_POINTS = 10_000
"""Of a grid: all of them are written down before the first trial."""
DRAWN = 8
"""Trials that are drawn to say what a study costs."""


@dataclass(frozen=True)
class Settings:
    """How a space is searched."""

    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    trials: int | None = None
    """In all, over all processes and sessions."""
    minutes: float | None = None
    """After which this session begins no further trial."""
    storage: str = STORAGE

    def question(self, space: Space) -> Question:
        """As study.yaml has it; a password of the storage is left out."""
        limits = {key: value for key, value in (("trials", self.trials), ("minutes", self.minutes)) if value is not None}
        kept = {"sampler": self.sampler, "pruner": self.pruner, "storage": shown_storage(self.storage)}
        return Question("tune", {"space": space.words, **kept, **limits})


def check_settings(space: Space, settings: Settings, *, source: str = "recipe") -> None:
    """Refuse what cannot be searched.

    Raises:
        RecipeError: everything that is wrong, in one report.
    """
    problems = []
    ranges = [dimension for dimension in space.dimensions if isinstance(dimension, Range)]
    if settings.trials is not None and settings.trials < 1:
        problems.append(Problem("--trials", f"{settings.trials}: at least 1"))
    if settings.minutes is not None and not settings.minutes > 0:
        problems.append(Problem("--minutes", f"{settings.minutes:g}: more than 0"))
    if settings.trials is None and settings.minutes is None and settings.sampler != "grid":
        problems.append(Problem("--trials", "either --trials or --minutes says when to end"))
    if settings.sampler == "grid":
        for dimension in (each for each in ranges if not each.whole):
            values = "|".join(f"{value:g}" for value in even_values(dimension.low, dimension.high, log=dimension.log))
            help = f"for example {dimension.key}={values}"
            problems.append(
                Problem(f"--space {dimension.key}", "a grid needs values, and a range of numbers has no end of them", (help,))
            )
        if not problems and (points := space.grid_size()) > MOST_POINTS:
            what = f"a grid of {points:,} points, and more than {MOST_POINTS:,} are not laid out"
            help = "fewer values of each key make a smaller one; --sampler random or tpe takes --trials of any space"
            problems.append(Problem("--sampler", what, (help,)))
    if settings.sampler == "cmaes" and len(ranges) < 2:
        problems.append(Problem("--sampler", "cmaes needs two ranges of numbers or more; tpe takes any space"))
    if problems:
        raise RecipeError(source, problems)


def tune(
    study: StudyDirectory,
    recipe: Recipe,
    space: Space,
    settings: Settings,
    *,
    join: bool,
    finish: Callable[[str], RunDirectory],
    say: Say,
    experiments: Experiments,
) -> None:
    """Run a tuning study, or go on with it, and write its table, figures, page and best recipe.

    Args:
        join: beside other processes at the same study.
        finish: finishes the trial of a name, which is the best one; called when no trial is running.
        experiments: what was read for the recipe already, which its trials share.

    Raises:
        RunError: the folder holds another study, the storage cannot be used, or every trial failed.
        Stopped: a signal asked for it.
    """
    deadline = None if settings.minutes is None else time.monotonic() + 60 * settings.minutes
    begun, ran = now(), 0
    with _entered(study, recipe, settings.question(space), join=join) as held:
        with turn(study):
            search = held.enter_context(closing(_search(study, recipe, space, settings)))
        if settings.sampler == "grid":
            say(said_of_grid(space.grid_size(), settings))
        while deadline is None or time.monotonic() < deadline:
            taken = _take(study, search, limit=settings.trials)
            if taken is None:
                break
            asked, release = taken
            try:
                trial = _run(study, recipe, space, asked, experiments, search)
                with turn(study):
                    search.tell(asked, trial.state, trial.value)
                    _keep_the_best_alone(study, search, recipe)
            finally:
                release()
            ran += 1
            number = f"{asked.number + 1}" + ("" if settings.trials is None else f" of {settings.trials}")
            say(f"trial {number}  {trial.name}: {told(trial, recipe)}; {in_short(asked.values)}")
        study.note({"time": begun, "until": now(), "trials": ran})
        with turn(study):
            _conclude(study, recipe, space, search, finish=finish, say=say)


def said_of_grid(points: int, settings: Settings) -> str:
    """How much of a grid the trials are, before they begin."""
    if settings.trials is not None and settings.trials < points:
        return f"the grid has {points:,} points, and --trials {settings.trials:,} of them are tried, in an order of chance"
    within = "" if settings.minutes is None else f" as far as {settings.minutes:g} minutes go, in an order of chance"
    return f"the grid has {count(points, 'point')}: a trial each{within}"


@contextmanager
def _entered(study: StudyDirectory, recipe: Recipe, question: Question, *, join: bool) -> Iterator[ExitStack]:
    """Be at work on the study: alone, or as one of several; yields what is let go of when the work ends."""
    check_same_question(study, recipe, question)  # before anything is written
    with ExitStack() as held:
        with turn(study):
            held.enter_context(open_study(study, recipe, question, shared=join))
            if join:
                held.enter_context(joined(study))
            else:
                refuse_others(study)
        yield held


def _search(study: StudyDirectory, recipe: Recipe, space: Space, settings: Settings) -> Search:
    return open_search(
        study.path,
        settings.storage,
        space,
        sampler=settings.sampler,
        pruner=settings.pruner,
        metric=recipe.run.chooser,
        seed=recipe.run.seed,
        epochs=space.most_epochs(recipe),
        token=token_of(study),
    )


def name_of(number: int) -> str:
    """Of a trial, and its folder."""
    return f"trial-{number:04d}"


def _take(study: StudyDirectory, search: Search, *, limit: int | None) -> tuple[Asked, Callable[[], None]] | None:
    """The next trial for this process: one whose process is gone, or a new one; None: there are enough."""
    with turn(study):
        drawn = search.drawn()
        for left in (each for each in drawn if each.state is None):
            release = claim_trial(study, name_of(left.number))
            if release is not None:
                return search.again(left.number), release
        asked = search.ask() if limit is None or len(drawn) < limit else None
        if asked is None:
            return None
        release = claim_trial(study, name_of(asked.number))
        assert release is not None  # it was drawn in this turn
        return asked, release


def _run(study: StudyDirectory, recipe: Recipe, space: Space, asked: Asked, experiments: Experiments, search: Search) -> Trial:
    """Fit a trial, which the pruner may end after any epoch but the last."""
    run = study.trial(name_of(asked.number))
    try:
        chosen = space.recipe(recipe, asked.values, source=run.path.name)
    except RecipeError as error:
        trial = Trial(run.path.name, "failed", None, reason=" ".join(str(error).split()))
        write_json(run.trial, asdict(trial))
        return trial
    epochs = {name: stage.epochs for name, stage in chosen.stages.items()}

    def watch(evaluation: Evaluation) -> None:
        before = sum(epochs[name] for name in list(epochs)[: list(epochs).index(evaluation.stage)])
        epoch = before + evaluation.epoch
        if asked.report(epoch, _best_so_far(run, recipe.run.chooser)) and epoch < sum(epochs.values()):
            raise Pruned(f"behind the other trials after {count(epoch, 'epoch')} of {sum(epochs.values())}")

    def leads(metrics: Mapping[str, float]) -> bool:
        best = next(iter(_complete(study, search.drawn(), recipe)), None)
        return best is None or _order(metrics, recipe) <= _order(best.metrics, recipe)

    return run_trial(run, sealed(chosen), experiments, watch, keep=leads)


def _best_so_far(run: RunDirectory, metric: str) -> float:
    """What the trial would deliver now, over all of its sessions."""
    values = [float(record["validation"][metric]) for record in run.read_history() if record["event"] == "evaluation"]
    return max(values, key=lambda value: as_rank(metric, value))


# --- the best one -------------------------------------------------------------------------------------------------------------


def _complete(study: StudyDirectory, drawn: Sequence[Drawn], recipe: Recipe) -> list[Trial]:
    """The complete trials, the best first: by the recipe's metric, then by the log loss, then the earlier one."""
    done = (read_trial(study.trial(name_of(each.number))) for each in drawn if each.state == "complete")
    complete = [trial for trial in done if trial is not None and trial.value is not None]
    return sorted(complete, key=lambda trial: (_order(trial.metrics, recipe), trial.name))


def _order(metrics: Mapping[str, float], recipe: Recipe) -> tuple[float, float]:
    """What sorts trials, the best first."""
    return -as_rank(recipe.run.chooser, metrics[recipe.run.chooser]), metrics["log_loss"]


def _keep_the_best_alone(study: StudyDirectory, search: Search, recipe: Recipe) -> None:
    """Take the checkpoints of each trial that is done but the best one's."""
    drawn = search.drawn()
    best = next((trial.name for trial in _complete(study, drawn, recipe)), None)
    for each in drawn:
        if each.state is not None and name_of(each.number) != best:
            lighten(study.trial(name_of(each.number)))


def _conclude(
    study: StudyDirectory, recipe: Recipe, space: Space, search: Search, *, finish: Callable[[str], RunDirectory], say: Say
) -> None:
    """Write down what the trials that are done have come to; where none is running, the best one is finished first."""
    drawn = search.drawn()
    complete, running = _complete(study, drawn, recipe), [each for each in drawn if each.state is None]
    done = {each.number: trial for each in drawn if (trial := read_trial(study.trial(name_of(each.number)))) is not None}
    failed = [trial for trial in done.values() if trial.state == "failed"]
    if not complete:
        if failed and not running and len(failed) == len(done):
            raise all_failed(study.path, failed)
        raise RunError(f"{study.path}: no trial is complete yet; the same command goes on with the study")
    best, values = complete[0], next(each.values for each in drawn if name_of(each.number) == complete[0].name)
    rows = [Predictions.load(study.trial(trial.name).predictions("validation")) for trial in complete]
    corrected = corrected_for_choice(rows, recipe.run.chooser)
    write_text(study.best, space.recipe(recipe, values).to_yaml())
    write_json(
        study.chosen,
        {
            "trial": best.name,
            "metric": recipe.run.chooser,
            "value": best.value,
            "corrected": None if corrected is None else corrected.value,
            "corrected_interval": None if corrected is None or corrected.interval is None else list(corrected.interval),
            "complete": len(complete),
        },
    )
    if running:
        say(f"{count(len(running), 'trial')} of other processes still running: whichever ends last finishes the best one")
    else:
        finish(best.name)
    write_table(study, pd.DataFrame(list(_rows(drawn, done, space, recipe))))
    importance = search.importance()
    figures = write_figures(study, drawn, done, space, importance, metric=recipe.run.chooser)
    sentences = list(in_words(study, recipe, drawn, done, complete, values, corrected, importance))
    write_page(
        study,
        title=f"{recipe.name}: the best of {count(len(drawn), 'trial')}",
        sentences=sentences,
        table=_shown(complete, drawn, space, recipe),
        figures=figures,
    )


# --- in words -----------------------------------------------------------------------------------------------------------------


def in_short(values: Mapping[str, Value]) -> str:
    """ "stages.all.lr 3.2e-05, stages.head.epochs 2"."""
    return ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items())


def in_words(
    study: StudyDirectory,
    recipe: Recipe,
    drawn: Sequence[Drawn],
    done: Mapping[int, Trial],
    complete: Sequence[Trial],
    values: Mapping[str, Value],
    corrected: Corrected | None,
    importance: Mapping[str, float] | None,
) -> Iterator[str]:
    """What a tuning study has come to, in sentences."""
    metric, best = recipe.run.chooser, complete[0]
    states = [each.state for each in drawn]
    others = [
        f"{states.count(state)} {word}"
        for state, word in (("pruned", "pruned"), ("failed", "failed"), (None, "running"))
        if state in states
    ]
    of = f"{count(len(complete), 'complete trial')}{f' ({listed(others)})' if others else ''}"
    yield f"The best of {of} is {best.name}: {METRICS[metric]} {best.value:.4f} on validation, with {in_short(values)}."
    if corrected is None:
        yield "Nothing was chosen among several, so there is nothing to correct."
    else:
        between = "" if corrected.interval is None else " [{:.4f}, {:.4f}]".format(*corrected.interval)
        yield (
            f"The best of many looks better than it is. Corrected for the choice: {metric} {corrected.value:.4f}{between}. The best"
            f" trial of a resample of the rows was scored on the rows that it had left out, {RESAMPLES:,} times; which epoch"
            " of a trial counts was chosen by the same rows, and is not corrected for."
        )
    run = study.trial(best.name)
    metrics = read_metrics(run) if run.finished else {}
    if "test" in metrics:
        of_test = metrics["test"]
        value, interval = value_of(of_test, metric), interval_of(of_test, metric)
        said = "undefined" if value is None else f"{value:.4f}"
        between = "" if interval is None else " [{:.4f}, {:.4f}]".format(*interval)
        yield f"Test, opened for it alone: {metric} {said}{between}, n = {of_test['n']:,}."
    elif run.finished:
        yield f"Its test split is shut; once: hftl test {run.path}"
    yield "Its recipe is best.yaml, and its run directory has the model." if run.finished else "Its recipe is best.yaml."
    if importance is None:
        yield "Which key matters cannot be said by so few trials, or by trials that are so alike."
    else:
        first = max(importance, key=lambda key: importance[key])
        yield f"What decides most whether a trial is among the best tenth: {first} ({100 * importance[first]:.0f} % by PED-ANOVA)."
    seconds = sum(trial.seconds for trial in done.values())
    yield f"Training took {duration(seconds)} in all trials together, {sum(trial.epochs for trial in done.values()):,} epochs."
    for trial in (trial for trial in done.values() if trial.state == "failed"):
        yield f"Trial {trial.name} failed: {trial.reason}"


def _rows(drawn: Sequence[Drawn], done: Mapping[int, Trial], space: Space, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """The table with a row for each trial."""
    for each in drawn:
        trial = done.get(each.number, Trial(name_of(each.number), "failed", None, reason="not done yet"))
        yield {
            "trial": trial.name,
            "state": each.state or "running",
            recipe.run.chooser: trial.value,
            **{dimension.key: each.values.get(dimension.key) for dimension in space.dimensions},
            "epochs": trial.epochs,
            "steps": trial.steps,
            "seconds": trial.seconds,
            "flops": trial.flops,
            "reason": trial.reason,
        }


def _shown(complete: Sequence[Trial], drawn: Sequence[Drawn], space: Space, recipe: Recipe) -> list[list[str]]:
    """The table of the page, its head first."""
    keys = [dimension.key for dimension in space.dimensions]
    by_name = {name_of(each.number): each.values for each in drawn}
    rows = [["trial", recipe.run.chooser, *keys, "time"]]
    for trial in complete[:SHOWN]:
        values = (by_name[trial.name].get(key, "-") for key in keys)
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
        rows.append([trial.name, f"{trial.value:.4f}", *cells, duration(trial.seconds)])
    return rows


# --- the plan -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class TuningPlan(Shown):
    """What a tuning study costs, by some trials that are drawn at random."""

    drawn: StudyPlan
    trials: int | None
    """None: as many as the minutes allow."""
    pruner: Pruner
    points: int | None = None
    """Of the grid; None: the sampler is another."""

    @property
    def seconds_each(self) -> float:
        """Of a trial that finds what leaves frozen layers computed already, on the average."""
        arms = self.drawn.arms[1:] or self.drawn.arms
        return sum(arm.flops for arm in arms) / len(arms) / self.drawn.rate

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.drawn
        yield ""
        if self.trials is None:
            yield f"Such trials take about {duration(self.seconds_each)} each, and the minutes say how many there are."
            return
        if self.points:
            yield f"The grid has {count(self.points, 'point')}; {self.trials:,} of them are tried."
        seconds = self.drawn.seconds + max(0, self.trials - len(self.drawn.arms)) * self.seconds_each
        least = "" if self.pruner == "none" else f" at the most, as {self.pruner} ends some of them early"
        yield f"The study: {count(self.trials, 'trial')}, about {duration(seconds)}{least}; beside it a second or so for each."


def plan_tuning(recipe: Recipe, space: Space, settings: Settings) -> TuningPlan:
    """What a tuning study costs, by a few trials that are drawn and not fitted.

    Raises:
        RecipeError, DataError: a trial cannot be carried out.
        RunError: Optuna is not installed.
    """
    grid = list(space.grid()) if settings.sampler == "grid" else []
    trials = settings.trials if not grid else min(len(grid), settings.trials or len(grid))
    number = min(DRAWN, trials or DRAWN)
    chosen = grid[:number] if grid else draw_values(space, number, seed=recipe.run.seed)
    arms = {f"{place} drawn": sealed(space.recipe(recipe, values)) for place, values in enumerate(chosen, start=1)}
    return TuningPlan(plan_study("drawn at random", arms, times=1), trials, settings.pruner, len(grid) or None)
