"""All runs and studies below a folder, as one table: what was tried, what came of it, and how often test rows were opened for it.

Only files are read, so it starts fast. A condition on a run is written ``KEY=VALUE``, with one of these between them:

    =  !=        the same, or not: a number, a word in any case, or of a place its last part (``data=imdb``)
    ~            the text holds it, in any case (``model~bert``)
    >  >=  <  <= a number

A key is a dotted key of the recipe (``stages.all.lr``; `data` and `model` are short for the source and the checkpoint), a metric
(``accuracy``, of validation; ``test.accuracy``), or a column: kind, state, name, path, date, seconds, opened, rows_opened, recipes.
A run that lacks the key does not meet the condition.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from hftl.errors import HftlError, Problem, RecipeError, RunError, did_you_mean, printable
from hftl.files import read_text
from hftl.ledger import Counted, Opening, counted, ledger_path, read_ledger
from hftl.names import METRICS
from hftl.recipe import flat, load_recipe, local_name
from hftl.records.data import read_data
from hftl.records.environment import read_environment
from hftl.records.metrics import read_metrics
from hftl.records.openings import read_openings
from hftl.records.trial import read_trial_record
from hftl.run import RunDirectory
from hftl.studies.study import StudyDirectory, read_question
from hftl.terminal import Shown
from hftl.wording import count, duration

if TYPE_CHECKING:
    from pandas import DataFrame

SHORT = {"data": "data.source", "model": "model.checkpoint"}
_PLACES = ("data.source", "model.checkpoint", "model.vectors")
_TRACES = ("plan.json", "data.json", "environment.json", "history.jsonl", "metrics.json")
"""One of these beside recipe.yaml makes a folder a run."""
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
}


_WIDE = 130
"""Columns of a terminal from which on every column of the list is shown; below, what tells runs apart is not cut."""
_NARROW = (0, 2, 4, 5)
"""The columns of a narrow one: run, model, validation and test."""


@dataclass(frozen=True)
class Row:
    """A run, a trial of a study, or a study."""

    path: Path
    kind: str
    """ "run", "trial", or a study's command: "ablate", "tune", ..."""
    state: str
    """ "finished" or "unfinished"; of a trial "complete", "pruned" or "failed"."""
    name: str
    date: str
    """UTC, ISO 8601: when it was last written to."""
    recipe: Mapping[str, Any]
    """Dotted key -> value."""
    validation: Mapping[str, Any] = field(default_factory=dict)
    """Metrics; of a study those of its best: of tuning a trial, of a baseline a method, otherwise the mean of an arm's trials."""
    test: Mapping[str, Any] = field(default_factory=dict)
    """Metrics with their intervals; empty: it is shut, or there is none."""
    seconds: float | None = None
    """Of training."""
    trials: int | None = None
    """Of a study, those that are done."""
    opened: int = 0
    """How often this run has opened its test split."""
    test_rows: str | None = None
    """A digest of what the test rows hold."""
    id: str | None = None
    """The random id of a run that has opened them."""
    of_rows: Counted | None = None
    """How often all runs of this user on this machine have opened the same test rows."""

    def values(self) -> dict[str, Any]:
        """Everything that a condition may be about, by its key."""
        own = {f"test.{key}": value for key, value in self.test.items() if isinstance(value, int | float)}
        metrics = {key: value for key, value in self.validation.items() if isinstance(value, int | float)}
        columns = {
            "kind": self.kind,
            "state": self.state,
            "path": str(self.path),
            "date": self.date,
            "seconds": self.seconds,
            "opened": self.opened,
            "rows_opened": self.of_rows.openings if self.of_rows else None,
            "recipes": self.of_rows.recipes if self.of_rows else None,
        }
        found = {**self.recipe, **metrics, **{f"validation.{key}": value for key, value in metrics.items()}, **own, **columns}
        return {**found, **{short: found.get(key) for short, key in SHORT.items()}}


@dataclass(frozen=True, repr=False)
class Runs(Shown):
    """Runs, trials and studies, in the order that was asked for."""

    folder: Path
    rows: Sequence[Row]
    problems: Sequence[str]
    """What could not be read, and why."""
    metric: str = "accuracy"
    """The one that is shown."""

    @property
    def table(self) -> DataFrame:
        """A row for each, with every key that a condition may be about."""
        from pandas import DataFrame

        return DataFrame([row.values() for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {"folder": str(self.folder), "rows": [_as_json(row) for row in self.rows], "problems": list(self.problems)}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide, bare = options.max_width >= _WIDE, METRICS[self.metric].bare
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        columns = ("run", "data", "model", "stages", f"{bare},\nvalidation", f"{bare},\ntest", "opened", "time", "date")
        shown = [number for number in range(len(columns)) if wide or number in _NARROW]
        for number in shown:
            right, folds = 4 <= number < 8, number in (0, 3)
            table.add_column(columns[number], justify="right" if right else "left", overflow="fold", no_wrap=not folds)
        for row in self.rows:
            cells = list(self._cells(row))
            table.add_row(*(_lines(cells[number], " " if wide and number else "\n") for number in shown))
        yield table if self.rows else f"no run in {printable(str(self.folder))} is to be shown"
        if self.rows and not wide:
            yield f"\nA terminal of {_WIDE} columns shows data, stages, openings, time and date too; --json everything."
        said = dict.fromkeys(_of_test_rows(row) for row in self.rows if row.of_rows is not None and row.of_rows.openings > 1)
        for line in [*said, *(f"not read: {problem}" for problem in self.problems)]:
            yield ""
            yield printable(line).replace("[", r"\[")

    def _cells(self, row: Row) -> Iterator[str]:
        trials = f", {count(row.trials, 'trial')}" if row.trials else ""
        what = "" if row.kind == "run" else f"\n({row.kind}{trials})"
        state = "" if row.state in {"finished", "complete"} else f" [{row.state}]"
        yield f"{' '.join(str(_beneath(row.path, self.folder)).split())}{what}{state}".replace("[", r"\[")
        yield local_name(str(row.recipe["data.source"]))
        model = row.recipe.get("model.checkpoint") or row.recipe.get("model.vectors")
        yield f"{row.recipe['model.family']}" if model is None else local_name(str(model))
        stages = {key.split(".")[1] for key in row.recipe if key.endswith(".epochs")}
        order = [name for name in row.recipe.get("stages", ()) if name in stages] or sorted(stages)
        yield ", ".join(f"{name} x {row.recipe[f'stages.{name}.epochs']}" for name in order)
        yield _number(row.validation.get(self.metric))
        interval = row.test.get(f"{self.metric}_interval")
        beside = "\n\\[{:.3f}, {:.3f}]".format(*interval) if interval else ""
        yield f"{_number(row.test.get(self.metric))}{beside}"
        of_rows = "" if row.of_rows is None or not row.of_rows.openings else f" of {row.of_rows.openings}"
        yield f"{row.opened}{of_rows}" if row.opened or of_rows else "-"
        yield "-" if row.seconds is None else duration(row.seconds)
        yield row.date[:10]


def _lines(cell: str, between: str) -> str:
    """A cell that may have two lines, without what a terminal would act on."""
    return between.join(printable(" ".join(line.split())) for line in cell.split("\n"))


def _beneath(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path != folder else path


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _as_json(row: Row) -> dict[str, Any]:
    of_rows = None if row.of_rows is None else vars(row.of_rows)
    return {**{key: value for key, value in vars(row).items() if key != "id"}, "path": str(row.path), "of_rows": of_rows}


def _of_test_rows(row: Row) -> str:
    assert row.of_rows is not None
    times, recipes = count(row.of_rows.openings, "time"), count(row.of_rows.recipes, "recipe")
    warning = " Whoever picks the best of them by test has chosen by it." if row.of_rows.recipes > 1 else ""
    return f"The test rows of {local_name(str(row.recipe['data.source']))} have been opened {times} by {recipes}.{warning}"


# --- reading ------------------------------------------------------------------------------------------------------------------


def find_runs(folder: Path, *, where: Sequence[str] = (), sort: str = "date", trials: bool = False) -> Runs:
    """Every run and study below a folder that meets all conditions, in order.

    Args:
        folder: where to look; a run or a study itself is one, too.
        where: conditions, see this module.
        sort: a key: of a metric the best first, "date" the newest first, everything else from low to high. Those without it last.
        trials: the trials of studies too.

    Raises:
        RunError: no such folder.
        RecipeError: a condition, or a key that no run here has.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    problems: list[str] = []
    rows = list(_read_all(folder, problems, trials=trials))
    try:
        known, damaged = read_ledger()
    except OSError as error:
        known, damaged = {}, f"{ledger_path()}: {error.strerror}"
    problems += [] if damaged is None else [damaged]
    rows = [_with_count(row, rows, known) for row in rows]
    tests = [_condition(text) for text in where]
    _check_keys([(f"--where {text}", key) for text, (key, _, _) in zip(where, tests, strict=True)] + [("--sort", sort)], rows)
    rows = [row for row in rows if all(_meets(row.values(), *test) for test in tests)]
    bare = sort.removeprefix("validation.").removeprefix("test.")
    return Runs(folder, _sorted(rows, sort), problems, bare if bare in METRICS else "accuracy")


def _read_all(folder: Path, problems: list[str], *, trials: bool) -> Iterator[Row]:
    """Every run and study, by path; what cannot be read becomes a line of `problems`."""

    def said(error: Exception) -> None:
        problems.append(" ".join(str(error).split()))

    for here, below, names in os.walk(folder, onerror=said):
        below[:] = sorted(name for name in below if not name.startswith("."))
        path, files = Path(here), set(names)
        read = _read_study if "study.yaml" in files else _read_run if files.intersection(_TRACES) else None
        if read is None or (read is _read_run and len(files.intersection({*_TRACES, "recipe.yaml"})) < 2):
            continue
        below[:] = ["trials"] if read is _read_study and trials and "trials" in below else []
        try:
            yield read(path)
        except HftlError as error:
            said(error)


def _read_run(path: Path) -> Row:
    run = RunDirectory(path)
    recipe = run.load_recipe()
    metrics = read_metrics(run) if run.finished else {}
    data = read_data(run) if run.data.is_file() else None  # a run that is not finished may lack some of its files
    environment = read_environment(run) if run.environment.is_file() else None
    openings = read_openings(run)
    trial = read_trial_record(run)
    seconds = trial["seconds"] if trial else environment.get("seconds") if environment else None
    state = "finished" if run.finished else "unfinished" if trial is None else trial["state"]
    return Row(
        path,
        "run" if trial is None else "trial",
        state,
        recipe.name,
        environment["time"] if environment else _changed(run.recipe),
        {**dict(flat(recipe)), "stages": list(recipe.stages)},
        validation={**metrics["validation"]} if metrics else trial["metrics"] if trial else {},
        test={**metrics["test"]} if "test" in metrics else {},
        seconds=None if seconds is None else float(seconds),
        opened=len(openings),
        test_rows=data.get("test_rows") if data else None,
        id=openings[0]["run"] if openings else None,
    )


def _read_study(path: Path) -> Row:
    study = StudyDirectory(path)
    question, recipe = read_question(study), load_recipe(study.best if study.best.is_file() else study.recipe)
    read = (read_trial_record(RunDirectory(file.parent)) for file in sorted(study.trials.glob("*/trial.json")))
    done = [trial for trial in read if trial is not None]
    arms: dict[str, list[Mapping[str, float]]] = {}
    for trial in done:
        if trial["state"] == "complete":
            arm = trial["name"] if question.kind == "tune" else trial["name"].rpartition("-")[0]
            arms.setdefault(arm, []).append(trial["metrics"])
    chooser = recipe.run.chooser
    means = [*map(_mean, arms.values()), *(_methods(study) if question.kind == "baseline" else ())]
    judged = [metrics for metrics in means if chooser in metrics]
    best: Mapping[str, float] = (max if METRICS[chooser].higher_is_better else min)(
        judged, key=lambda metrics: metrics[chooser], default={}
    )
    return Row(
        path,
        question.kind,
        "finished" if study.page.is_file() else "unfinished",
        recipe.name,
        _changed(study.page if study.page.is_file() else study.question),
        {**dict(flat(recipe)), "stages": list(recipe.stages)},
        validation=best,
        seconds=sum(trial["seconds"] for trial in done) if done else None,
        trials=len(done),
    )


def _mean(of_trials: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each metric that all of them have."""
    shared = [key for key in of_trials[0] if all(key in metrics for metrics in of_trials)]
    return {key: fmean(metrics[key] for metrics in of_trials) for key in shared}


def _methods(study: StudyDirectory) -> Iterator[dict[str, float]]:
    """What each method of a baseline reached, by metric."""
    if study.table.is_file():
        for row in csv.DictReader(read_text(study.table).splitlines()):
            yield {key: float(value) for key, value in row.items() if key in METRICS}


def _changed(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _with_count(row: Row, rows: Sequence[Row], known: Mapping[str, Sequence[Opening]]) -> Row:
    """The row with how often its test rows were opened: what the ledger knows, and what runs here know beside it."""
    if row.test_rows is None:
        return row
    here = {other.id: other.opened for other in rows if other.test_rows == row.test_rows and other.id is not None}
    return Row(**{**vars(row), "of_rows": counted(known.get(row.test_rows, ()), here)})


# --- conditions and order -----------------------------------------------------------------------------------------------------


def _condition(text: str) -> tuple[str, str, str]:
    """ "accuracy>0.8" -> ("accuracy", ">", "0.8").

    Raises:
        RecipeError: it is none, or compares with what is no number.
    """
    found = re.fullmatch(r"\s*([\w.-]+)\s*(!=|>=|<=|=|~|>|<)\s*(.*?)\s*", text)
    if found is None:
        help = "a condition is written KEY=VALUE, KEY!=VALUE, KEY~PART, KEY>NUMBER, KEY>=NUMBER, KEY<NUMBER or KEY<=NUMBER"
        raise RecipeError("--where", [Problem(text, "is no condition", (help,))])
    key, operator, value = found.groups()
    # A date is compared as text, which for ISO 8601 is its order.
    if operator in _OPERATORS and key != "date" and _as_number(value) is None:
        raise RecipeError("--where", [Problem(text, f'"{value}" is not a number')])
    return key, operator, value


def _meets(values: Mapping[str, Any], key: str, operator: str, wanted: str) -> bool:
    value = values.get(key)
    if value is None:
        return False
    if operator in _OPERATORS:
        if key == "date":
            order = (str(value)[: len(wanted)] > wanted) - (str(value)[: len(wanted)] < wanted)
            return _OPERATORS[operator](order, 0)
        number, bound = _as_number(value), _as_number(wanted)
        return number is not None and bound is not None and _OPERATORS[operator](number, bound)
    if operator == "~":
        return wanted.lower() in str(value).lower()
    return _is(key, value, wanted) == (operator == "=")


def _is(key: str, value: Any, wanted: str) -> bool:
    number, other = _as_number(value), _as_number(wanted)
    if number is not None and other is not None:
        return number == other
    names = {str(value).lower()}
    if SHORT.get(key, key) in _PLACES:
        names |= {local_name(str(value)).lower(), re.split(r"[\\/]", str(value).rstrip("\\/"))[-1].lower()}
    return wanted.lower() in names


def _as_number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _check_keys(asked: Sequence[tuple[str, str]], rows: Sequence[Row]) -> None:
    """Refuse a key that no run here has, and no run could have.

    Raises:
        RecipeError: all such keys.
    """
    known = {"date", *SHORT, *METRICS, *(f"{split}.{metric}" for split in ("validation", "test") for metric in METRICS)}
    for row in rows:
        known |= row.values().keys()
    problems = [
        Problem(place, f'no run here has "{key}".{did_you_mean(key, known)}', ("see the recipe's keys with: hftl schema",))
        for place, key in asked
        if rows and key not in known
    ]
    if problems:
        raise RecipeError("hftl runs", problems)


def _sorted(rows: Sequence[Row], sort: str) -> list[Row]:
    metric = METRICS.get(sort.removeprefix("validation.").removeprefix("test."))
    falling = sort == "date" or (metric is not None and metric.higher_is_better)
    keyed = [(row, row.values().get(sort)) for row in sorted(rows, key=lambda row: row.path)]
    there = [(row, value) for row, value in keyed if value is not None]
    if all(_as_number(value) is not None for _, value in there):
        there.sort(key=lambda pair: float(pair[1]), reverse=falling)
    else:
        there.sort(key=lambda pair: str(pair[1]).lower(), reverse=falling)
    return [row for row, _ in there] + [row for row, value in keyed if value is None]
