"""The learning curve: what more labels would bring, by fits on growing parts of train, all judged by the same validation rows.

Each seed draws its rows anew (`data.sample_seed`), so that the spread over seeds is also that of which rows are labelled; the parts
of a seed are nested: a larger one holds every smaller one. The mean error over seeds is fitted by a power law,
``error(n) = a + b n^-c`` with a, b >= 0 and 0 < c <= 2. Its intervals are of 500 bootstrap resamples: of the validation rows and of
the seeds, both the same for all sizes.

Shapes: S seeds, N validation rows, K sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hftl.errors import Problem, RecipeError, RunError
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.report import BLUE, INK, STYLE, WIDTH, save_figure
from hftl.recipe import Recipe
from hftl.studies.arms import head_alone
from hftl.studies.cost import StudyPlan, plan_study
from hftl.studies.grid import Cell, correct_rows, rows_of, run_grid, seeded
from hftl.studies.page import write_page, write_table
from hftl.studies.study import Question, StudyDirectory, open_study
from hftl.studies.trials import Experiments, Trial
from hftl.terminal import Say
from hftl.wording import count

Floats = NDArray[np.float64]
RESAMPLES = 500
ENOUGH = 4
"""Sizes: with fewer the fit of three numbers is no check of anything."""


@dataclass(frozen=True)
class PowerLaw:
    """``error(n) = a + b n^-c``."""

    a: float
    """The error that no number of labels takes away."""
    b: float
    c: float

    def __call__(self, n: float) -> float:
        return float(self.a + self.b * n**-self.c)


def fit_power_law(sizes: Sequence[int], errors: Sequence[float] | Floats) -> PowerLaw:
    """The least squares fit with a, b >= 0: for each c of a grid a and b are a regression; the grid is refined around the best.

    Raises:
        ValueError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError("a power law takes two sizes or more")
    n, y = np.asarray(sizes, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    low, high = 0.01, 2.0
    for _ in range(6):
        c = np.linspace(low, high, 60)
        x = (n[None, :] / n[0]) ** -c[:, None]  # (C, K); of n / n[0], so that no number is tiny
        mean_x, mean_y = x.mean(axis=1), float(y.mean())
        b = ((x - mean_x[:, None]) * (y - mean_y)).sum(axis=1) / ((x - mean_x[:, None]) ** 2).sum(axis=1)
        a = mean_y - b * mean_x
        through = (x * y).sum(axis=1) / (x * x).sum(axis=1)
        b, a = np.where(a < 0, through, b), np.where(a < 0, 0.0, a)
        b, a = np.where(b < 0, 0.0, b), np.where(b < 0, mean_y, a)
        best = int(np.argmin(((a[:, None] + b[:, None] * x - y) ** 2).sum(axis=1)))
        found = PowerLaw(float(a[best]), float(b[best] * n[0] ** c[best]), float(c[best]))
        step = float(c[1] - c[0])
        low, high = max(0.01, c[best] - step), min(2.0, c[best] + step)
    return found


@dataclass(frozen=True)
class Curve:
    """A fitted learning curve."""

    sizes: tuple[int, ...]
    errors: tuple[float, ...]
    """Mean over seeds."""
    law: PowerLaw
    laws: tuple[PowerLaw, ...]
    """Of the resamples."""
    left_out: tuple[float, float, float] | None
    """The error at the largest size that the others predict, and its 95 % interval; None: fewer than three sizes."""

    def gain(self, more: int) -> tuple[float, float, float]:
        """How much the error falls with so many labels more than the largest size, and its 95 % interval."""
        largest = self.sizes[-1]
        gains = [law(largest) - law(largest + more) for law in self.laws]
        low, high = np.quantile(gains, [0.025, 0.975])
        return self.law(largest) - self.law(largest + more), float(low), float(high)

    def band(self, n: float) -> tuple[float, float]:
        """95 % interval of the error at n labels."""
        low, high = np.quantile([law(n) for law in self.laws], [0.025, 0.975])
        return float(low), float(high)

    @property
    def doubts(self) -> list[str]:
        """Why the fit is not to be trusted; empty: nothing speaks against it."""
        found = []
        if len(self.sizes) < ENOUGH:
            found.append(f"{count(len(self.sizes), 'size')} are too few for a law of three numbers; {ENOUGH} or more are needed")
        if self.left_out is not None and not self.left_out[1] <= self.errors[-1] <= self.left_out[2]:
            found.append(
                f"the smaller sizes predict an accuracy of {1 - self.left_out[0]:.4f} [{1 - self.left_out[2]:.4f},"
                f" {1 - self.left_out[1]:.4f}] at {self.sizes[-1]:,}, and {1 - self.errors[-1]:.4f} was measured"
            )
        return found


def fit_curve(wrong: Mapping[int, NDArray[np.bool_]]) -> Curve:
    """The curve of what each size gets wrong, (S, N) each, of ascending sizes on the same N rows.

    Raises:
        ValueError: fewer than two sizes.
    """
    sizes = tuple(wrong)
    errors = [float(own.mean()) for own in wrong.values()]
    generator = np.random.default_rng(0)
    rows = next(iter(wrong.values())).shape[1]
    resampled = np.empty((RESAMPLES, len(sizes)))
    for i in range(RESAMPLES):
        weights = generator.multinomial(rows, np.full(rows, 1 / rows)) / rows
        places = generator.random(max(len(own) for own in wrong.values()))  # a seed has its rows and its head at every size
        for j, own in enumerate(wrong.values()):
            seeds = (places[: len(own)] * len(own)).astype(np.int64)
            resampled[i, j] = float((own[seeds].mean(axis=0) * weights).sum())
    laws = tuple(fit_power_law(sizes, own) for own in resampled)
    left_out = None
    if len(sizes) > 2:
        others = [fit_power_law(sizes[:-1], own[:-1])(sizes[-1]) for own in resampled]
        low, high = np.quantile(others, [0.025, 0.975])
        left_out = (fit_power_law(sizes[:-1], errors[:-1])(sizes[-1]), float(low), float(high))
    return Curve(sizes, tuple(errors), fit_power_law(sizes, errors), laws, left_out)


# --- the study ----------------------------------------------------------------------------------------------------------------


def question_of(sizes: Sequence[int], *, seeds: int, full: bool, source: str = "recipe") -> Question:
    """The question of a learning curve.

    Raises:
        RecipeError: fewer than two sizes, one that is none, or no seed.
    """
    problems = [Problem("--sizes", f"{size}: a size is 1 or more") for size in sizes if size < 1]
    if len(set(sizes)) < 2:
        problems.append(Problem("--sizes", "a curve takes two sizes or more; four or more can be checked"))
    if seeds < 1:
        problems.append(Problem("--seeds", f"{seeds}: at least 1"))
    if problems:
        raise RecipeError(source, problems)
    return Question("curve", {"sizes": sorted(set(sizes)), "fits": "full" if full else "head alone", "seeds": seeds})


def cells_of(recipe: Recipe, question: Question) -> list[Cell]:
    """The trials: each size with each seed, on rows that the seed draws; of the recipe's stages, or of the head alone."""
    return [
        replace(cell, recipe=with_data(cell.recipe, sample_seed=cell.recipe.run.seed))
        for cell in seeded(arms_of_sizes(recipe, question), question.settings["seeds"])
    ]


def with_data(recipe: Recipe, **changed: object) -> Recipe:
    """The recipe with other values in its section `data`."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changed)})


def arms_of_sizes(recipe: Recipe, question: Question) -> dict[str, Recipe]:
    """The recipe at each size."""
    own = recipe if question.settings["fits"] == "full" else head_alone(recipe)
    return {str(size): with_data(own, max_train_samples=size) for size in question.settings["sizes"]}


def plan_curve(recipe: Recipe, question: Question, *, source: str = "recipe") -> StudyPlan:
    """What a learning curve costs.

    Raises:
        RecipeError, DataError: the recipe cannot be carried out, or a size is larger than train.
    """
    experiments = Experiments()
    check_sizes(recipe, question, experiments, source=source)
    return plan_study("curve", arms_of_sizes(recipe, question), times=question.settings["seeds"], experiments=experiments)


def check_sizes(recipe: Recipe, question: Question, experiments: Experiments, *, source: str) -> None:
    """Refuse sizes that train does not have, and those that have no room for each class.

    `experiments` keeps what was read for the trials.

    Raises:
        RecipeError: such sizes.
        DataError: the data cannot be used.
    """
    splits = experiments.splits_of(with_data(recipe, max_train_samples=None))
    of_source = len(splits.train) - sum(each["n"] for each in splits.facts.get("extra", ()))  # a size counts no others
    rows, classes = of_source, len(splits.label_names)
    problems = [
        Problem("--sizes", f"{size:,}: train has {rows:,} rows" if size > rows else f"{size}: there are {classes} classes")
        for size in question.settings["sizes"]
        if not classes <= size <= rows
    ]
    if problems:
        raise RecipeError(source, problems)


def curve(
    study: StudyDirectory, recipe: Recipe, question: Question, *, say: Say, experiments: Experiments, source: str = "recipe"
) -> None:
    """Fit each size with each seed, or go on with it, and write table, figure and page.

    Args:
        experiments: what was read for the recipe already, which its trials share.

    Raises:
        RecipeError, DataError: the recipe cannot be used, or a size is larger than train.
        RunError: the folder holds another study, every trial failed, or fewer than two sizes have a complete trial.
        Stopped: a signal asked for it.
    """
    check_sizes(recipe, question, experiments, source=source)
    with open_study(study, recipe, question):
        cells = cells_of(recipe, question)
        trials = run_grid(study, cells, say=say, experiments=experiments)
        write_table(study, pd.DataFrame(list(rows_of(trials, cells))).rename(columns={"arm": "size"}))
        done = {int(size): [trial for trial in row if trial.state == "complete"] for size, row in trials.items()}
        done = {size: row for size, row in done.items() if row}
        if len(done) < 2:
            raise RunError(f"{study.path}: fewer than two sizes have a complete trial; table.csv has the reasons of the others")
        _check_same_rows(study, [trial for row in done.values() for trial in row])
        found = fit_curve({size: ~correct_rows(study, row) for size, row in done.items()})
        _draw(study, found, done)
        fits = "the recipe's stages" if question.settings["fits"] == "full" else "the head alone, on frozen features"
        failed = [trial for row in trials.values() for trial in row if trial.state == "failed"]
        sentences = [f"Fits: {fits}.", *in_words(found), *(f"Trial {trial.name} failed: {trial.reason}" for trial in failed)]
        write_page(
            study, title=f"{recipe.name}: learning curve", sentences=sentences, table=_shown(found, done), figures=["curve.png"]
        )


def _check_same_rows(study: StudyDirectory, trials: Sequence[Trial]) -> None:
    ids = [Predictions.load(study.trial(trial.name).predictions("validation")).ids for trial in trials]
    if any(own != ids[0] for own in ids[1:]):
        raise RunError(f"{study.path}: the trials were not judged by the same validation rows; the data have changed meanwhile")


def in_words(found: Curve) -> list[str]:
    """What the curve says, and whether it is to be trusted."""
    more = found.sizes[-1]
    gain, low, high = found.gain(more)
    said = [
        f"{count(more, 'more label')}, twice as many: {100 * gain:+.1f} points of accuracy [{100 * low:.1f}, {100 * high:.1f}].",
        f"error(n) = {found.law.a:.3f} + {found.law.b:.3g} n^-{found.law.c:.2f}; the interval is of {RESAMPLES} resamples of rows"
        " and seeds.",
    ]
    if found.doubts:
        return [*(f"The fit is not to be trusted: {doubt}." for doubt in found.doubts), *said]
    assert found.left_out is not None
    predicted, least, most = found.left_out
    check = (
        f"Check: without the largest size the curve predicts {1 - predicted:.4f} [{1 - most:.4f}, {1 - least:.4f}] there;"
        f" {1 - found.errors[-1]:.4f} was measured."
    )
    return [*said, check]


def _shown(found: Curve, done: Mapping[int, Sequence[Trial]]) -> list[list[str]]:
    rows = [["labels", "n", "accuracy", "of the curve", "95 % interval"]]
    for size, error in zip(found.sizes, found.errors, strict=True):
        low, high = found.band(size)
        own = [f"{1 - error:.4f}", f"{1 - found.law(size):.4f}", f"{1 - high:.4f} to {1 - low:.4f}"]
        rows.append([f"{size:,}", str(len(done[size])), *own])
    return rows


def _draw(study: StudyDirectory, found: Curve, done: Mapping[int, Sequence[Trial]]) -> None:
    """figures/curve.png: accuracy over labels, each trial, the curve with its band, dashed where nothing was measured."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
        axes: Axes = figure.subplots()
        first, last = found.sizes[0], found.sizes[-1]
        places = np.geomspace(first, 2 * last, 60)
        band = np.array([found.band(n) for n in places])
        axes.fill_between(places, 1 - band[:, 1], 1 - band[:, 0], color=BLUE, alpha=0.15, linewidth=0)
        for part, style in ((places[places <= last], "-"), (places[places >= last * 0.98], "--")):
            axes.plot(part, [1 - found.law(n) for n in part], color=BLUE, linestyle=style)
        for size, trials in done.items():
            values = [trial.metrics["accuracy"] for trial in trials]
            axes.plot([size] * len(values), values, "o", color=INK, alpha=0.5, markersize=5)
        axes.set_xscale("log")
        axes.set_xticks([*found.sizes, 2 * last], [f"{size:,}" for size in (*found.sizes, 2 * last)])
        axes.minorticks_off()
        axes.set_xlabel("labelled training rows")
        axes.set_title("accuracy on validation: each trial, and the fitted curve")
        study.figures.mkdir(parents=True, exist_ok=True)
        save_figure(figure, study.figures / "curve.png")
