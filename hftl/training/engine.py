"""Training: prepare the experiment, fit its stages, finish with the test split opened once.

The host model, on the CPU, always holds the best weights so far. A stage trains a copy of it (`hftl.training.working`): take steps,
evaluate after each epoch, and give the weights to the host whenever the validation metric is better than that of the weights that
the host has. So a stage that improves nothing leaves nothing behind, and what is delivered is the best of the run. Nothing else
crosses from one stage to the next.

`train` is the three in a row. A study calls `prepare` and `fit`, and so keeps away from the test split: `finish` alone
opens it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate.utils import gather_object
from rich.console import Console

from hftl.data.loader import Samples
from hftl.errors import RunError
from hftl.evaluation.predictions import Predictions
from hftl.facts import continued, with_facts
from hftl.models.boundary import Boundary
from hftl.names import as_rank
from hftl.recipe import Recipe, judged
from hftl.run import RunDirectory
from hftl.training.cache import cached_samples, loader_processes
from hftl.training.experiment import Experiment, prepare_experiment, stage_loss, teacher_answers
from hftl.training.finish import finish, predict_split
from hftl.training.loss import ExampleLoss
from hftl.training.machine import explain_dead_processes, gradient_scale, process_state
from hftl.training.open_run import OpenRun, open_run, prepare_computer
from hftl.training.origin import pinned
from hftl.training.progress import Progress
from hftl.training.proof import group_hashes, prove_freeze, tensors_of
from hftl.training.resolved import ResolvedStage
from hftl.training.sessions import record_cache
from hftl.training.step import NotFinite, batches_of_epoch, seed_step, take_step
from hftl.training.teacher import write_teacher
from hftl.training.together import main_first
from hftl.training.working import Working, open_stage


@explain_dead_processes()
def train(
    recipe: Recipe, run: RunDirectory, *, resume: bool = False, console: Console | None = None, source: str = "recipe"
) -> RunDirectory:
    """Carry out a recipe and write everything about it into the run directory.

    SIGINT, SIGTERM and SIGHUP are obeyed after the step, or the batch of an evaluation, in which they come, when a checkpoint is
    written.

    Raises:
        RecipeError, DataError: the recipe or its data cannot be used; nothing has been written.
        RunError: the directory holds another run or is in use, no checkpoint verifies, the disk is too small or full, the loss is
            no longer finite, or another process or a loader's worker has died.
        Stopped: a signal asked for it.
    """
    computer = prepare_computer(recipe, run, resume=resume)
    experiment = prepare(recipe, continues=run if resume else None)
    with open_run(experiment, run, resume=resume, console=console, source=source, computer=computer) as opened:
        fit(experiment, opened)
        finish(experiment, opened, open_test=experiment.recipe.opens_test)
    return run


# --- prepare ------------------------------------------------------------------------------------------------------------------


def prepare(recipe: Recipe, *, continues: RunDirectory | None = None) -> Experiment:
    """Read the data and build the model; nothing is written.

    Args:
        continues: a run of this recipe that was stopped: the commits of the Hub that it was started with are read again, and the
            facts of its card that hold stay.

    Raises:
        RecipeError, DataError: the recipe or its data cannot be used.
    """
    process_state(minutes=recipe.run.timeout_minutes)
    with main_first():
        if continues is None:
            experiment = prepare_experiment(recipe)
        else:
            started = continues.load_recipe()
            recipe, said = continued(recipe, started)
            recipe = judged(recipe, started.run.chooser)
            experiment = prepare_experiment(pinned(recipe, continues))
            asked = with_facts(recipe, card=experiment.recipe.card, name=experiment.recipe.name)
            experiment = replace(experiment, asked=asked, said_of_facts=(*said, *experiment.said_of_facts))
        experiment.samples  # noqa: B018  # what reading them leaves in the cache is there for the other processes
    return experiment


# --- fit ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """What an epoch has come to, on the validation split."""

    stage: str
    epoch: int
    """Of the stage, from 1."""
    step: int
    """Optimizer steps over all stages."""
    value: float
    """Of the recipe's metric, `run.metric`."""
    metrics: Mapping[str, float]
    kept: bool
    """They are the best weights so far."""
    predictions: Predictions
    """Of the epoch, in the order of the split."""


Report = Callable[[Evaluation], None]


def fit(experiment: Experiment, run: OpenRun, report: Report | None = None) -> dict[str, torch.Tensor]:
    """Train the stages that are left, and give the best weights of the run, which the experiment's model then has.

    Args:
        report: is told of each epoch after its evaluation, on every process the same. What it raises ends training there; the
            last checkpoint stands.

    Raises:
        RunError: the loss is no longer finite, or a checkpoint cannot be written.
        Stopped: a signal asked for it.
    """
    checkpoint = run.checkpoint
    keep_answers(experiment, run)
    for stage in experiment.stages[run.progress.cursor.stage :]:
        if stage.number > run.progress.cursor.stage:
            run.progress = run.progress.next_stage()
        if not run.progress.cursor.stage_done:
            _fit_stage(stage, experiment, run, checkpoint, report)
        checkpoint = None
    return run.host.state_dict()


def keep_answers(experiment: Experiment, run: OpenRun) -> None:
    """Ask the teacher, where there is one, and write its answers beside the run, which goes on without it from then on."""
    answers = teacher_answers(experiment, run.accelerator, run.journal.say)
    if experiment.teacher is not None and answers is not None and run.accelerator.is_main_process:
        write_teacher(experiment.teacher, answers, run.directory)
    run.accelerator.wait_for_everyone()


def _fit_stage(stage: ResolvedStage, experiment: Experiment, run: OpenRun, checkpoint: Path | None, report: Report | None) -> None:
    """Train one stage, from its start or from a checkpoint inside it; the host model then holds the best weights so far."""
    working = open_stage(experiment, stage, run.accelerator, checkpoint=checkpoint)
    if checkpoint is None:
        run.progress = replace(run.progress, hashes=group_hashes(tensors_of(run.host), working.chain))
    example_loss = stage_loss(experiment, stage)
    run.begin_cost()
    run.journal.stage_start(
        stage.name,
        number=stage.number + 1,
        stages=len(experiment.stages),
        step=run.progress.cursor.step,
        done=run.progress.cursor.epoch * stage.steps_per_epoch + run.progress.cursor.offset,
        steps=stage.steps,
        trains=stage.trains,
        resumed=checkpoint is not None,
    )
    samples = cached_samples(working, experiment, run)
    if isinstance(boundary := experiment.boundaries.get(stage.name), Boundary):
        record_cache(
            stage.name,
            samples,
            boundary.group,
            run.recipe,
            run.directory,
            run.accelerator,
            run.journal,
            resumed=checkpoint is not None,
        )

    while True:
        _train_epoch(working, samples["train"], example_loss, run)
        evaluation = _end_epoch(working, samples["validation"], run)
        if (run.progress.cursor.stage_done and not run.light) or run.watch.epoch_checkpoint_pays():
            run.save()
        run.stop_if_asked()
        if report is not None:
            report(evaluation)
        if run.progress.cursor.stage_done:
            break

    working.close()


def _train_epoch(working: Working, samples: Samples, example_loss: ExampleLoss, run: OpenRun) -> None:
    """Take the steps that are left of the epoch in which the run stands."""
    stage, recipe, accelerator, epoch = working.stage, run.recipe, run.accelerator, run.progress.cursor.epoch + 1
    working.train_mode()
    batches = batches_of_epoch(
        samples,
        stage,
        recipe,
        accelerator,
        epoch=stage.epochs_before + epoch,
        start=run.progress.cursor.offset,
        workers=loader_processes(samples, recipe, accelerator),
    )
    while True:
        seed_step(recipe.run.seed, run.progress.cursor.step, accelerator.process_index)
        try:
            step = take_step(working, batches, example_loss)
        except NotFinite as error:
            ids = gather_object([samples.ids[row] for row in error.rows])
            raise _not_finite(error, ids, stage.name, run.progress.cursor.step, fp16=accelerator.scaler is not None) from None
        if step is None:
            break

        run.progress = run.progress.after_step(step.loss, skipped=step.grad_norm is None)
        working.after_step(run.progress.cursor.epoch * stage.steps_per_epoch + run.progress.cursor.offset)
        if step.grad_norm is None:
            run.journal.skipped(stage.name, epoch=epoch, step=run.progress.cursor.step, scale=gradient_scale(accelerator))
        run.journal.advance()
        if run.progress.cursor.step % recipe.run.log_every == 0 or run.progress.cursor.offset == stage.steps_per_epoch:
            mean_loss = run.progress.losses.logged / run.progress.losses.logged_steps
            run.journal.step(
                stage.name, epoch=epoch, step=run.progress.cursor.step, loss=mean_loss, grad_norm=step.grad_norm, lr=step.rates
            )
            run.note_cost()
            run.progress = run.progress.after_log()
        run.stop_if_asked()
        if run.watch.is_due():
            run.save()


@dataclass(frozen=True)
class _Judged:
    """What the validation split says of weights."""

    predictions: Predictions
    metrics: dict[str, float]
    rank: tuple[float, float]


def _end_epoch(working: Working, samples: Samples, run: OpenRun) -> Evaluation:
    """Evaluate the epoch, give its weights to the host where they are better, and see whether it was the stage's last.

    At the last one a soup is made of the best epochs, where the stage asks for that; a stop during either repeats both.
    """
    stage, recipe, epoch = working.stage, run.recipe, run.progress.cursor.epoch + 1
    with working.to_evaluate():
        judged = _judge(working, samples, run)
        kept = run.progress.is_kept(judged.rank, keep=recipe.run.keep)
        if kept:
            working.give_weights_to(run.host)
    is_last = _is_last(stage, run.progress.after_epoch(judged.rank, kept=kept))
    soup = None
    if working.soup is not None:
        working.soup.add(epoch, judged.rank)
        soup = working.soup.cook(lambda: _judge(working, samples, run)) if is_last else None
    run.note_cost()
    run.journal.evaluation(
        stage.name,
        epoch=epoch,
        epochs=stage.epochs,
        step=run.progress.cursor.step,
        train_loss=run.progress.losses.epoch / stage.steps_per_epoch,
        validation=judged.metrics,
        metric=recipe.run.chooser,
        kept=kept,
        seconds=run.progress.spent.seconds - run.progress.spent.epoch_began,
    )
    run.progress = run.progress.after_epoch(judged.rank, kept=kept)
    if working.after_epoch(judged.rank[0]) and not is_last:
        run.journal.say("  no better for a while: lower rates from here on")
    if soup is not None and _serve(working, *soup, run):
        judged, kept = soup[1], True
    if is_last:
        run.progress = run.progress.after_last_epoch()
        _end_stage(working, run)
    value = judged.metrics[recipe.run.chooser]
    return Evaluation(stage.name, epoch, run.progress.cursor.step, value, judged.metrics, kept, judged.predictions)


def _judge(working: Working, samples: Samples, run: OpenRun) -> _Judged:
    """Evaluate the weights that are in place."""
    predictions = predict_split(working.model, samples, run.recipe, run.accelerator, run.stop_if_asked)
    metrics = predictions.quick_metrics()
    return _Judged(predictions, metrics, _rank(metrics, run.recipe))


def _is_last(stage: ResolvedStage, progress: Progress) -> bool:
    """Whether the epoch that is done is the last of its stage."""
    patience, best, epoch = stage.early_stopping, progress.stage_best, progress.cursor.epoch
    assert best is not None  # this epoch at least
    return epoch == stage.epochs or (patience is not None and epoch - best.epoch >= patience)


def _serve(working: Working, epochs: tuple[int, ...], judged: _Judged, run: OpenRun) -> bool:
    """Give the soup of these epochs to the host where it is better; whether it is."""
    assert working.soup is not None
    kept = run.progress.is_kept(judged.rank, keep=run.recipe.run.keep)
    if kept:
        with working.soup.of(*epochs):
            working.give_weights_to(run.host)
    run.journal.soup(working.stage.name, epochs, validation=judged.metrics, metric=run.recipe.run.chooser, kept=kept)
    run.progress = run.progress.after_soup(epochs, judged.rank, kept=kept)
    return kept


def _end_stage(working: Working, run: OpenRun) -> None:
    """Prove that what was frozen is as it was, and write down what the stage has come to."""
    stage, progress = working.stage, run.progress
    kept_any = progress.leaves_weights
    lines = prove_freeze(
        stage.name,
        stage.trains,
        working.chain,
        working.tensors(),
        progress.hashes,
        run.directory,
        run.accelerator,
        kept=kept_any,
        under_adapters=working.hashes_under_adapters(),
    )
    for line in lines:
        run.journal.say(f"  {line}")
    run.journal.stage_end(
        list(run.recipe.stages), progress, metric=run.recipe.run.chooser, stopped_early=progress.cursor.epoch < stage.epochs
    )


def _rank(validation: dict[str, float], recipe: Recipe) -> tuple[float, float]:
    """How good an epoch is, higher is better: the recipe's metric, then the log loss, which tells ties apart."""
    metric = recipe.run.chooser
    if metric not in validation:
        raise RunError(f"run.metric: {metric} is undefined on the validation split, which lacks a class")
    value = validation[metric]
    return as_rank(metric, value), as_rank("log_loss", validation["log_loss"])


def _not_finite(error: NotFinite, ids: list[str], stage: str, step: int, *, fp16: bool) -> RunError:
    what = f"the loss is {error.loss}"
    if math.isfinite(error.loss):
        what = f"the loss is {error.loss:.3f} and the norm of its gradient {error.grad_norm}"
    return RunError(
        f"stage {stage}, step {step + 1}: {what}. The last checkpoint stands. A rate that is too high"
        f" is the usual cause, and then the run starts again with a lower one."
        f"{' In fp16 numbers end at 65,504; with run.precision=fp32 they do not.' if fp16 else ''} Its examples: {', '.join(ids)}"
    )
