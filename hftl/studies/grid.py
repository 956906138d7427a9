"""A grid of trials: each arm with each seed, or on each fold, all judged by the rows that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hftl.environment import now
from hftl.evaluation.predictions import Predictions
from hftl.recipe import Recipe
from hftl.studies.study import StudyDirectory, trial_name
from hftl.studies.trials import Experiments, Trial, all_failed, divided, lighten, run_trial, sealed
from hftl.terminal import Say
from hftl.wording import count, duration


@dataclass(frozen=True)
class Cell:
    """One trial of a grid."""

    arm: str
    part: str
    """"seed0", or "fold2"."""
    recipe: Recipe

    @property
    def name(self) -> str:
        return trial_name((self.arm, self.part))


def seeded(arms: Mapping[str, Recipe], seeds: int) -> list[Cell]:
    """Each arm with each of so many seeds, from the recipe's own on; the division of the rows stays that of the recipe."""
    return [
        Cell(arm, f"seed{recipe.run.seed + offset}", sealed(divided(recipe), seed=recipe.run.seed + offset))
        for offset in range(seeds)
        for arm, recipe in arms.items()
    ]


def folded(arms: Mapping[str, Recipe], folds: int) -> list[Cell]:
    """Each arm on each of so many folds of its training rows."""
    return [
        Cell(arm, f"fold{fold}", sealed(divided(recipe, fold=f"{fold}/{folds}")))
        for fold in range(1, folds + 1)
        for arm, recipe in arms.items()
    ]


def run_grid(
    study: StudyDirectory, cells: list[Cell], *, say: Say, keep: bool = False, experiments: Experiments | None = None
) -> dict[str, list[Trial]]:
    """Run the trials that are not done, and return all by arm, in the order of the cells.

    Args:
        keep: the trials' checkpoints stay, so that they can be finished.
        experiments: what was read and built for the arms already.

    Raises:
        RunError: every trial failed, with the reasons.
    """
    experiments = experiments or Experiments()
    begun = now()
    trials: dict[str, list[Trial]] = {}
    for number, cell in enumerate(cells, start=1):
        run = study.trial(cell.name)
        is_new = not run.trial.is_file()
        trial = run_trial(run, cell.recipe, experiments, keep=lambda metrics: keep)
        if not keep:
            lighten(run)
        trials.setdefault(cell.arm, []).append(trial)
        if is_new:
            say(f"trial {number} of {len(cells)}  {trial.name}: {told(trial, cell.recipe)}")
    study.note({"time": begun, "until": now(), "trials": len(cells)})
    failed = [trial for row in trials.values() for trial in row if trial.state == "failed"]
    if len(failed) == len(cells):
        raise all_failed(study.path, failed)
    return trials


def told(trial: Trial, recipe: Recipe) -> str:
    """A trial in a line."""
    if trial.value is None:
        return f"failed: {trial.reason}"
    ended = {"complete": "", "pruned": f", pruned after {count(trial.epochs, 'epoch')}", "failed": ""}[trial.state]
    return f"{recipe.run.chooser} {trial.value:.4f}{ended}, {duration(trial.seconds)}"


def correct_rows(study: StudyDirectory, trials: list[Trial]) -> NDArray[np.bool_]:
    """(S, N): which rows of validation each complete trial gets right."""
    return np.stack([_correct(study, trial) for trial in trials if trial.state == "complete"])


def _correct(study: StudyDirectory, trial: Trial) -> NDArray[np.bool_]:
    return Predictions.load(study.trial(trial.name).predictions("validation")).right


def rows_of(trials: Mapping[str, list[Trial]], cells: list[Cell]) -> Iterator[dict[str, Any]]:
    """The table with a row for each trial."""
    by_name = {trial.name: trial for row in trials.values() for trial in row}
    for cell in cells:
        trial = by_name[cell.name]
        yield {
            "arm": cell.arm,
            "part": cell.part,
            "state": trial.state,
            cell.recipe.run.chooser: trial.value,
            "epochs": trial.epochs,
            "steps": trial.steps,
            "seconds": trial.seconds,
            "flops": trial.flops,
            "reason": trial.reason,
        }
