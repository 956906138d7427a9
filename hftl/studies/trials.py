"""Trials: single fits of a study, on data and a model that are read and built once for all that share them."""

from __future__ import annotations

import copy
import gc
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from hftl.data.source import DIVISION, Splits, Undivided
from hftl.errors import DataError, RecipeError, RunError
from hftl.evaluation.predictions import Predictions
from hftl.files import write_json
from hftl.recipe import Recipe
from hftl.records.plan import read_plan
from hftl.records.trial import State, read_trial_record
from hftl.run import InUse, RunDirectory
from hftl.system import FROZEN_BY_PYTHON
from hftl.training.checkpoint import CheckpointError
from hftl.training.engine import Evaluation, fit
from hftl.training.experiment import Experiment, judged_by_its_data, prepare_experiment, read_data
from hftl.training.finish import predict_split
from hftl.training.open_run import OpenRun, open_run, prepare_computer
from hftl.wording import count

Watcher = Callable[[Evaluation], None]
"""Is told of each epoch of a trial; raises `Pruned` to end it."""

Keep = Callable[[Mapping[str, float]], bool]
"""Whether a trial may have to be finished, by the metrics of its best epoch."""


class Pruned(Exception):
    """A trial is not worth its next epoch."""


class StudyLost(RunError):
    """What several processes share of a study does not answer. Its trials stay as they are, and go on later."""


@dataclass(frozen=True)
class Trial:
    """What a trial came to, as `TrialRecord` has it."""

    name: str
    state: State
    value: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    reason: str | None = None


def sealed(recipe: Recipe, *, seed: int | None = None) -> Recipe:
    """The recipe as a trial has it: its test split shut, no trackers; with another seed where one is given."""
    changed = {"test": "sealed", "trackers": (), **({} if seed is None else {"seed": seed})}
    return recipe.model_copy(update={"run": recipe.run.model_copy(update=changed)})


def divided(recipe: Recipe, **changed: str) -> Recipe:
    """The recipe with its rows divided by its own seed, whatever seed a trial gets."""
    split_seed = recipe.run.seed if recipe.data.split_seed is None else recipe.data.split_seed
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"split_seed": split_seed, **changed})})


def all_failed(study: Path, failed: Sequence[Trial]) -> RunError:
    """What a study says of which every trial failed: each reason once."""
    reasons = dict.fromkeys(str(trial.reason) for trial in failed)
    return RunError("\n".join([f"{study}: {count(len(failed), 'trial')}, and all failed:", *(f"  {each}" for each in reasons)]))


class Experiments:
    """The experiment of each trial's recipe; what the recipe before it had as well, data or model, is not read or built again."""

    def __init__(self) -> None:
        self._read: tuple[object, Undivided] | None = None
        self._splits: tuple[object, Splits] | None = None
        self._experiment: tuple[object, Experiment] | None = None
        self._initial: dict[str, torch.Tensor] = {}

    def splits_of(self, recipe: Recipe) -> Splits:
        """The rows of a recipe; a source is read once for all that only divide it otherwise, and what was divided last is kept.

        Raises:
            RecipeError, DataError: the data cannot be used.
        """
        of_data = divided(recipe).data  # a seed that has no say in the rows divides them no second time
        if self._splits is None or self._splits[0] != of_data:
            self._splits = (of_data, self._reading(recipe).divided(recipe.data, seed=recipe.run.seed))
        return self._splits[1]

    def judged(self, recipe: Recipe) -> Recipe:
        """The recipe with the metric that picks the weights and compares trials, where it leaves that to the data.

        Raises:
            RecipeError, DataError: the data, which are read to know it, cannot be used.
        """
        return judged_by_its_data(recipe, read=lambda: self._reading(recipe))

    def _reading(self, recipe: Recipe) -> Undivided:
        of_source = recipe.data.model_copy(update=dict.fromkeys(DIVISION))
        if self._read is None or self._read[0] != of_source:
            self._read = (of_source, read_data(recipe))
        return self._read[1]

    def of(self, recipe: Recipe) -> Experiment:
        """The experiment of a recipe, its model as it is before training.

        Raises:
            RecipeError, DataError: the data or the checkpoint cannot be used.
        """
        of_model = (divided(recipe).data, recipe.model, recipe.teacher, recipe.run.seed)
        if self._experiment is not None and self._experiment[0] == of_model:
            experiment = self._experiment[1].with_stages(recipe)
            experiment.classifier.model.load_state_dict(self._initial)
            return experiment
        self._experiment = None  # two models at once may be more than the machine holds
        experiment = prepare_experiment(recipe, splits=self.splits_of(recipe))
        self._experiment = (of_model, experiment)
        gc.collect()  # what is not needed any more is not to stay while `standing` holds
        self._initial = {name: tensor.clone() for name, tensor in experiment.classifier.model.state_dict().items()}
        return experiment


@contextmanager
def standing() -> Iterator[None]:
    """Leave what is there already out of the searches for what nobody needs, with which each stage ends, until this is over."""
    if gc.get_freeze_count() >= FROZEN_BY_PYTHON:
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def read_trial(run: RunDirectory) -> Trial | None:
    """What a trial came to; None: it is not done.

    Raises:
        RunError: its trial.json is not as hftl writes it.
    """
    record = read_trial_record(run)
    return None if record is None else Trial(**record)


def run_trial(
    run: RunDirectory,
    recipe: Recipe,
    experiments: Experiments,
    watcher: Watcher | None = None,
    *,
    keep: Keep = lambda metrics: False,
) -> Trial:
    """Fit a recipe in a trial's folder, or go on where an earlier session was stopped; one that is done is read.

    The test split is not opened: a trial is fitted, and not finished. Where `keep` asks for it, the folder gets a checkpoint of
    its end, so that `hftl.training.engine.train` can finish it, until `lighten` takes that.

    Raises:
        RunError: the disk is full, or another process works on the trial.
        Stopped: a signal asked for it; the same call goes on.
    """
    if (done := read_trial(run)) is not None:
        return done
    try:
        trial = _fit(run, recipe, experiments, watcher, keep)
    except (CheckpointError, InUse, StudyLost):  # the next trial would find the same disk; or this one is somebody else's
        raise
    except (RecipeError, DataError, RunError) as error:
        run.path.mkdir(parents=True, exist_ok=True)
        trial = Trial(run.path.name, "failed", None, reason=_one_line(error))
    write_json(run.trial, asdict(trial))
    return trial


def _fit(run: RunDirectory, recipe: Recipe, experiments: Experiments, watcher: Watcher | None, keep: Keep) -> Trial:
    resume = run.recipe.is_file()
    computer = prepare_computer(recipe, run, resume=resume)
    experiment = experiments.of(recipe)
    best: Predictions | None = None
    state: State = "complete"
    reason = None

    def report(evaluation: Evaluation) -> None:
        nonlocal best
        if evaluation.kept:
            best = evaluation.predictions
        if watcher is not None:
            watcher(evaluation)

    quiet = Console(quiet=True)
    with standing(), open_run(experiment, run, resume=resume, console=quiet, computer=computer, light=True) as opened:
        try:
            fit(experiment, opened, report)
        except Pruned as pruned:
            state, reason = "pruned", str(pruned) or None
        predictions = (best or _of_best_weights(experiment, opened)).choose_thresholds()
        progress = opened.progress
        metrics = predictions.quick_metrics()
        if state == "complete":
            predictions.save(run.predictions("validation"), experiment.splits.label_names)
            if keep(metrics) and opened.watch.last_saved != progress.name:
                opened.save()
    return Trial(
        run.path.name,
        state,
        metrics[recipe.run.chooser],
        metrics,
        epochs=sum(record["event"] == "evaluation" for record in run.read_history()),
        steps=progress.cursor.step,
        seconds=round(progress.spent.seconds, 2),
        flops=read_plan(run)["flops"],
        reason=reason,
    )


def _of_best_weights(experiment: Experiment, opened: OpenRun) -> Predictions:
    """The predictions of the best epoch, which an earlier session has seen."""
    accelerator = opened.accelerator
    model = accelerator.prepare_model(copy.deepcopy(opened.host).to(accelerator.device), evaluation_mode=True)
    return predict_split(model, experiment.samples["validation"], opened.recipe, accelerator, opened.stop_if_asked)


def lighten(run: RunDirectory) -> None:
    """Take the checkpoints of a trial that has not won."""
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
