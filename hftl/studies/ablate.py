"""Ablation and repetition: do stages pay here, and how much of a difference is luck?

Each arm is fitted with each seed on the same rows; what is compared is which rows of validation each gets right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from hftl.errors import RecipeError
from hftl.evaluation.compare import holm
from hftl.evaluation.seeds import PairedDifference, Spread, paired_difference, spread
from hftl.files import write_text
from hftl.names import METRICS, as_rank
from hftl.recipe import Recipe
from hftl.studies.arms import SCRATCH, arms_of, with_stages
from hftl.studies.cost import StudyPlan, plan_study
from hftl.studies.grid import Cell, correct_rows, folded, rows_of, run_grid, seeded
from hftl.studies.page import draw_arms, write_page, write_table
from hftl.studies.study import Question, StudyDirectory, open_study
from hftl.studies.trials import Experiments, Trial
from hftl.terminal import Say
from hftl.training.planning import make_plan
from hftl.wording import count, duration, listed

Budget = Literal["equal-steps", "equal-cost"]


def ablation(
    recipe: Recipe, over: Sequence[str], *, seeds: int, budget: Budget, open_test: bool, source: str = "recipe"
) -> tuple[dict[str, Recipe], Question]:
    """The arms of an ablation and its question; with "equal-cost" each arm has the epochs that cost what the first arm does.

    Raises:
        RecipeError: arms that cannot be compared, or fewer than one seed.
    """
    if seeds < 1:
        raise RecipeError.single("--seeds", f"{seeds}: at least 1", source="the question")
    arms = arms_of(recipe, over, source=source)
    settings = {"over": list(over), "seeds": seeds, "budget": budget, "test": "open" if open_test else "sealed"}
    return arms, Question("ablate", settings)


def at_equal_cost(arms: Mapping[str, Recipe], experiments: Experiments) -> dict[str, Recipe]:
    """The arms with as many epochs of their last stage as come nearest to the operations of the first arm, at least one."""
    adjusted: dict[str, Recipe] = {}
    budget = 0.0
    for name, recipe in arms.items():
        plan = make_plan(experiments.of(recipe), source=name)
        if not adjusted:
            budget, adjusted[name] = plan.flops, recipe
            continue
        last, stage = plan.stages[-1], list(recipe.stages)[-1]
        epochs = max(1, round((budget - (plan.flops - last.flops)) / (last.flops / last.epochs)))
        stages = {**recipe.stages, stage: recipe.stages[stage].model_copy(update={"epochs": epochs})}
        adjusted[name] = with_stages(recipe, stages)
    return adjusted


def plan_ablation(arms: Mapping[str, Recipe], question: Question) -> StudyPlan:
    """What an ablation costs.

    Raises:
        RecipeError, DataError: an arm cannot be carried out.
    """
    experiments = Experiments()
    if question.settings["budget"] == "equal-cost":
        arms = at_equal_cost(arms, experiments)
    return plan_study(f"ablate over {listed(arms)}", arms, times=question.settings["seeds"], experiments=experiments)


def ablate(
    study: StudyDirectory, recipe: Recipe, arms: Mapping[str, Recipe], question: Question, *, say: Say, experiments: Experiments
) -> list[Cell]:
    """Run an ablation, or go on with it, and write its table, figure and page. Returns its trials, for those who open test.

    Args:
        experiments: what was read for the recipe already, which its trials share.

    Raises:
        RunError: the folder holds another study, or every trial failed.
        Stopped: a signal asked for it.
    """
    with open_study(study, recipe, question):
        if question.settings["budget"] == "equal-cost":
            arms = at_equal_cost(arms, experiments)
        cells = seeded(arms, question.settings["seeds"])
        trials = run_grid(study, cells, say=say, keep=question.settings["test"] == "open", experiments=experiments)
        summary = _write(study, recipe, cells, trials, title=f"{recipe.name}: {listed(arms)}")
        metric = recipe.run.chooser
        means = {row.arm: as_rank(metric, row.spread.mean) for row in summary if row.spread is not None}
        best = max(means, key=lambda arm: means[arm])
        write_text(study.best, arms[best].to_yaml())
    return cells


def repetition(*, seeds: int | None, folds: int | None) -> Question:
    """The question of a repetition.

    Raises:
        RecipeError: neither or both are given, or fewer than two.
    """
    if (seeds is None) == (folds is None):
        raise RecipeError.single("--seeds", "either --seeds or --folds says how often", source="the question")
    key, number = ("seeds", seeds) if seeds is not None else ("folds", folds)
    assert number is not None
    if number < 2:
        raise RecipeError.single(f"--{key}", f"{number}: a spread takes 2 or more", source="the question")
    return Question("repeat", {key: number})


def repeat(study: StudyDirectory, recipe: Recipe, question: Question, *, say: Say, experiments: Experiments) -> None:
    """Fit a recipe with several seeds, or on several folds, and write the mean and the spread.

    Args:
        experiments: what was read for the recipe already, which its trials share.

    Raises:
        RunError: the folder holds another study, or every trial failed.
        Stopped: a signal asked for it.
    """
    with open_study(study, recipe, question):
        cells = cells_of_repetition(recipe, question)
        trials = run_grid(study, cells, say=say, experiments=experiments)
        title = f"{recipe.name}, {count(len(cells), next(iter(question.settings))[:-1])}"
        more = [f"On the card of a run of this recipe: hftl card RUN --study {study.path}"] if "seeds" in question.settings else []
        _write(study, recipe, cells, trials, title=title, more=more)


def cells_of_repetition(recipe: Recipe, question: Question) -> list[Cell]:
    """Its trials."""
    arms, settings = {recipe.name: recipe}, question.settings
    return seeded(arms, settings["seeds"]) if "seeds" in settings else folded(arms, settings["folds"])


def _write(
    study: StudyDirectory,
    recipe: Recipe,
    cells: list[Cell],
    trials: Mapping[str, list[Trial]],
    *,
    title: str,
    more: Sequence[str] = (),
) -> list[ArmSummary]:
    write_table(study, pd.DataFrame(list(rows_of(trials, cells))))
    summary = summarise(study, trials)
    draw_arms(study, trials, metric=recipe.run.chooser)
    sentences = [*in_words(summary, recipe, trials), *more]
    write_page(study, title=title, sentences=sentences, table=shown(summary), figures=["arms.png"])
    return summary


@dataclass(frozen=True)
class ArmSummary:
    """What an arm came to, over its complete trials."""

    arm: str
    spread: Spread | None
    """None: no trial was completed."""
    trials: int
    against_first: PairedDifference | None
    """None: of the first arm itself, or no seed that both have completed."""
    p: float | None
    """Holm's, over all comparisons with the first arm."""
    flops: float
    """Planned, of a trial."""
    seconds: float
    """Of training, a trial."""


def summarise(study: StudyDirectory, trials: Mapping[str, list[Trial]]) -> list[ArmSummary]:
    """Mean and spread of each arm, its paired difference from the first one, and what it cost."""
    first = next(iter(trials.values()))
    differences = {arm: None if row is first else _difference(study, first, row) for arm, row in trials.items()}
    compared = {arm: found.p for arm, found in differences.items() if found is not None}
    corrected = dict(zip(compared, holm(list(compared.values())), strict=True))
    summary = []
    for arm, row in trials.items():
        complete = [trial for trial in row if trial.state == "complete"]
        values = [trial.value for trial in complete if trial.value is not None]
        n = max(1, len(complete))
        flops, seconds = sum(trial.flops for trial in complete) / n, sum(trial.seconds for trial in complete) / n
        own = spread(values) if values else None
        summary.append(ArmSummary(arm, own, len(complete), differences[arm], corrected.get(arm), flops, seconds))
    return summary


def _difference(study: StudyDirectory, first: list[Trial], other: list[Trial]) -> PairedDifference | None:
    """By the seeds that both arms have completed; None: by none, or on folds, whose rows differ."""
    pairs = [(one, two) for one, two in zip(first, other, strict=True) if one.state == two.state == "complete"]
    if not pairs:
        return None
    return paired_difference(correct_rows(study, [one for one, _ in pairs]), correct_rows(study, [two for _, two in pairs]))


def in_words(summary: Sequence[ArmSummary], recipe: Recipe, trials: Mapping[str, list[Trial]]) -> Iterator[str]:
    """What a study of arms has come to, in sentences."""
    metric, first = METRICS[recipe.run.chooser].bare, summary[0]
    for row in summary:
        if row.spread is None:
            yield f"{row.arm}: no trial was completed."
        elif row is first and row.spread.deviation is not None:
            more = "two are too few to say what one more would give"
            if row.spread.new_seed is not None:
                more = "one more is expected between {:.3f} and {:.3f}".format(*row.spread.new_seed)
            yield (
                f"{row.arm}: {metric} {row.spread.mean:.4f} on validation, the mean of {row.trials}; standard deviation"
                f" {row.spread.deviation:.4f}; {more}."
            )
        elif row is first:
            yield f"{row.arm}: {metric} {row.spread.mean:.4f} on validation, of a single seed: how much of it is luck is not known."
        elif row.against_first is not None and row.p is not None:
            cost = f", at {row.flops / first.flops:.2f} times the cost" if first.flops else ""
            yield f"{row.arm}: {_verdict(row.against_first, row.p, first.arm)}{cost}."
            if row.arm == SCRATCH:
                yield f"What pretraining buys, {first.arm} minus {SCRATCH}: accuracy {_signed(row.against_first, turned=True)}."
    for trial in (trial for row in trials.values() for trial in row if trial.state == "failed"):
        yield f"Trial {trial.name} failed: {trial.reason}"
    yield "All of this is validation. Whoever chooses by it tests the choice once, on rows that had no say."


def _verdict(found: PairedDifference, p: float, first: str) -> str:
    shown = "p below 0.0001" if p < 0.0001 else f"p = {p:.4f}"
    what = "not settled against" if p >= 0.05 else "better than" if found.difference > 0 else "worse than"
    return f"{what} {first}: accuracy {_signed(found)}, {shown} (Holm)"


def _signed(found: PairedDifference, *, turned: bool = False) -> str:
    """A difference with its interval, second minus first; `turned`: first minus second."""
    ends = [] if found.interval is None else list(found.interval)
    difference, *ends = [0.0 - value if turned else value for value in (found.difference, *ends)]
    return f"{difference:+.4f}" + ("" if not ends else f" [{min(ends):+.4f}, {max(ends):+.4f}]")


def shown(summary: Sequence[ArmSummary]) -> list[list[str]]:
    """The table of the page, its head first; a column that says nothing of any arm is left out."""
    repeated, several = any(row.trials > 1 for row in summary), len(summary) > 1
    head = ["arm", *(["n", "mean", "deviation"] if repeated else ["value"])]
    rows = [[*head, *([f"against {summary[0].arm}", "p (Holm)"] if several else []), "time", "TFLOP"]]
    for row in summary:
        own, against = row.spread, row.against_first
        mean = "-" if own is None else f"{own.mean:.4f}"
        deviation = "-" if own is None or own.deviation is None else f"{own.deviation:.4f}"
        p = "-" if row.p is None else "< 0.0001" if row.p < 0.0001 else f"{row.p:.4f}"
        rows.append(
            [
                row.arm,
                *([str(row.trials), mean, deviation] if repeated else [mean]),
                *(["-" if against is None else _signed(against), p] if several else []),
                duration(row.seconds),
                f"{row.flops / 1e12:,.2f}",
            ]
        )
    return rows
