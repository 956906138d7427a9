"""The training loop: for each stage prepare, train, evaluate, checkpoint; at the end open the test split once.

The host model, on the CPU, always holds the best weights so far. A stage trains a copy of it: freeze the copy, give it a new
optimizer and schedule, wrap both with Accelerate, take steps, evaluate after each epoch, and copy the weights back whenever the
validation metric is better than that of the weights that the host has. So a stage that improves nothing leaves nothing behind, and
what is delivered is the best of the run. Nothing else crosses from one stage to the next.

Shapes: B examples in a micro-batch, K classes.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel

from hftl.data.audit import Audit
from hftl.data.loader import Samples, training_batches
from hftl.errors import RunError
from hftl.evaluation.metrics import quick_metrics
from hftl.facts import continued, with_facts
from hftl.files import write_json, write_text
from hftl.models.attention import use_fast_dropout_attention
from hftl.models.boundary import Boundary
from hftl.models.fast_training import use_fast_training
from hftl.names import as_rank
from hftl.recipe import ImageData, Recipe
from hftl.run import RunDirectory, remove_partial
from hftl.signals import Stopped, deferred
from hftl.training.cache import computed_once, loader_processes
from hftl.training.checkpoint import (
    Progress,
    load_best_weights,
    load_progress,
    load_training_state,
    newest_checkpoint,
    save_checkpoint,
)
from hftl.training.checks import (
    check_batch_sizes,
    check_same_data,
    check_same_precision,
    check_space,
    claim,
    number_format,
)
from hftl.training.experiment import (
    Experiment,
    audit,
    class_counts,
    facts,
    make_plan,
    make_samples,
    prepare_experiment,
)
from hftl.training.finish import finish, predict_split
from hftl.training.journal import Journal
from hftl.training.loss import class_weights, make_loss
from hftl.training.machine import disk_errors, make_accelerator, others_alive, process_state, tokens_per_batch
from hftl.training.origin import base_record, check_same_base, other_versions, pinned
from hftl.training.plan import Plan, plan_on_record
from hftl.training.proof import group_hashes, prove_freeze, tensors_of
from hftl.training.resolved import ResolvedStage
from hftl.training.sittings import look_at_threads, note_cache, note_sitting, sittings
from hftl.training.stage import compile_layers, freeze, make_optimizer, make_schedule, shard_units, train_mode
from hftl.training.threads import Threads
from hftl.training.together import check_same, claim_together, main_first, one_answer
from hftl.training.watch import Cost, Watch


@others_alive()
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
    started = time.perf_counter()
    process_state(minutes=recipe.run.timeout_minutes)
    claim_together(run, recipe, resume=resume)  # no process writes before all have looked
    with one_answer():
        accelerator = make_accelerator(recipe, run)
    threads = Threads(accelerator.device)
    prepared = _prepare(recipe, run, accelerator, resume=resume, source=source)
    recipe, experiment, samples = prepared.recipe, prepared.experiment, prepared.samples
    with (
        _locked(run, recipe, accelerator, resume=resume),
        Journal(run, accelerator, console or Console(stderr=True)) as journal,
        disk_errors(run),
        deferred() as noted,
        threads,
    ):
        progress, checkpoint = _begin(prepared, run, accelerator, journal, threads, resume=resume)
        last_saved = None if checkpoint is None else checkpoint.name
        watch = Watch(accelerator, noted, threads, minutes=recipe.run.checkpoint_minutes, last_saved=last_saved)
        for number in range(progress.stage, len(recipe.stages)):
            if number > progress.stage:
                progress = progress.next_stage()
            if not progress.stage_done:
                progress = _train_stage(number, experiment, samples, run, accelerator, journal, watch, progress, checkpoint)
            checkpoint = None
        finish(experiment, samples["validation"], run, accelerator, journal, watch, progress)
        journal.record("finished", seconds=round(time.perf_counter() - started, 2), training_seconds=round(progress.seconds, 2))
    return run


@contextmanager
def _locked(run: RunDirectory, recipe: Recipe, accelerator: Accelerator, *, resume: bool) -> Iterator[None]:
    """Hold the run directory, for all processes of the run."""
    with ExitStack() as held:
        with one_answer():
            if accelerator.is_main_process:
                held.enter_context(run.lock())
                claim(run, recipe, resume=resume)  # once more: another process may have had it until now
        yield


# --- before the first step ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prepared:
    """What a run has before its first step, compared with what it was started with and over all processes."""

    recipe: Recipe
    """With the facts that hold for what was read; its branches of the Hub are as the user gave them."""
    experiment: Experiment
    samples: dict[str, Samples]
    plan: Plan
    facts: dict[str, Any]
    """What data.json records."""
    begun: bool
    """An earlier sitting has written what the run is of."""
    findings: Audit | None
    """Of the audit, which the main process makes once a run."""
    said: tuple[str, ...]
    """Lines for the opening."""


def _prepare(recipe: Recipe, run: RunDirectory, accelerator: Accelerator, *, resume: bool, source: str) -> _Prepared:
    """Read the data, build the model and make the plan. Nothing is written."""
    said: tuple[str, ...] = ()
    with main_first():
        if resume:
            recipe, said = continued(recipe, run.load_recipe())
        experiment = prepare_experiment(pinned(recipe, run) if resume else recipe)
        recipe = with_facts(recipe, card=experiment.recipe.card, name=experiment.recipe.name)
        samples = {
            split: make_samples(recipe, experiment.classifier, dataset, train=split == "train")
            for split, dataset in (("train", experiment.splits.train), ("validation", experiment.splits.validation))
        }
    recorded, base = facts(experiment, samples["train"]), base_record(experiment.classifier)
    if accelerator.num_processes > 1:
        computes = {"device": accelerator.device.type, "number format": number_format(accelerator)}
        check_same({"data": recorded, "model": base, **computes})
    begun = resume and run.environment.is_file()  # it is written last of what is written before the first step
    if begun:
        check_same_data(experiment.splits, run)
        check_same_precision(accelerator, run)
        said = (*said, *check_same_base(base, run), *other_versions(run))
    findings = None
    with one_answer():
        plan = make_plan(experiment, source=source, measure=accelerator.device)
        check_batch_sizes(experiment, samples["train"], accelerator)
        if accelerator.is_main_process:
            check_space(experiment, plan, run)
            findings = None if run.audit.is_file() else audit(experiment, samples)
    said = (*said, *experiment.said_of_facts)
    return _Prepared(recipe, experiment, samples, plan, recorded | {"base": base}, begun, findings, said)


def _begin(
    prepared: _Prepared, run: RunDirectory, accelerator: Accelerator, journal: Journal, threads: Threads, *, resume: bool
) -> tuple[Progress, Path | None]:
    """Find the newest checkpoint, write down what the run is of, and say where it begins; the checkpoint is None at the start."""
    recipe, plan, said = prepared.recipe, prepared.plan, prepared.said
    checkpoint, passed_over = newest_checkpoint(run.checkpoints)
    progress = Progress.at_the_start()
    if checkpoint is not None:
        progress = load_progress(checkpoint, processes=accelerator.num_processes)
        prepared.experiment.classifier.model.load_state_dict(load_best_weights(checkpoint))
        if prepared.begun:
            plan, differs = plan_on_record(plan, run)
            said = (*said, *differs)
    recorded = progress.threads
    chosen = threads.choose(recorded)
    accelerator.wait_for_everyone()  # all have read what the main process writes now
    if accelerator.is_main_process:
        remove_partial(run)
        if checkpoint is None:  # what an earlier start has left is not of these weights
            for left in (run.predictions("test").parent, run.model):
                shutil.rmtree(left, ignore_errors=True)
        write_text(run.recipe, recipe.to_yaml())
        if checkpoint is None or not prepared.begun:  # otherwise what was recorded at the start stands: it is what the run is of
            write_json(run.plan, plan.to_dict())
            write_json(run.data, prepared.facts)
        note_sitting(run, accelerator, afresh=checkpoint is None, sittings=sittings(run) + 1)
        if prepared.findings is not None:
            write_json(run.audit, prepared.findings.to_dict())
    if recipe.run.trackers:
        accelerator.init_trackers(recipe.name, config={"recipe": recipe.to_yaml()})
    journal.cut_history(progress.history_bytes)
    journal.opening(plan, [*said, *([] if prepared.findings is None else prepared.findings.lines())])
    for line in chosen:
        journal.threads(line)
    for reason in passed_over:
        journal.say(f"passed over the checkpoint {reason}")
    if checkpoint is not None:
        journal.continues(list(recipe.stages), progress, metric=recipe.run.metric, checkpoint=checkpoint.name)
        if recorded is not None and recorded != torch.get_num_threads():
            journal.say(f"with {torch.get_num_threads()} threads instead of {recorded}: sums round differently")
    elif resume:
        journal.say("no checkpoint yet: starting at the first step")
    return progress, checkpoint


# --- a stage ------------------------------------------------------------------------------------------------------------------


def _train_stage(
    number: int,
    experiment: Experiment,
    samples: dict[str, Samples],
    run: RunDirectory,
    accelerator: Accelerator,
    journal: Journal,
    watch: Watch,
    progress: Progress,
    checkpoint: Path | None,
) -> Progress:
    """Train one stage, from its start or from a checkpoint inside it; the host model then holds the best weights so far."""
    recipe, host, chain = experiment.recipe, experiment.classifier.model, experiment.classifier.chain
    stage = experiment.stages[number]
    name, trains, per_epoch = stage.name, stage.trains, stage.steps_per_epoch

    working = copy.deepcopy(host).to(accelerator.device)
    use_fast_dropout_attention(working)
    if isinstance(recipe.data, ImageData) and not accelerator.is_fsdp2:  # it shards contiguous parameters only
        working.to(memory_format=torch.channels_last)  # convolutions are 1.2 times as fast
    freeze(working, chain, trains)  # before wrapping: DDP fixes its set of parameters when it wraps
    if accelerator.num_processes == 1 and accelerator.device.type == "cpu":  # DDP waits for every gradient to come from autograd
        use_fast_training(working)
    if recipe.run.compile:
        boundary = experiment.boundaries.get(name)
        compile_layers(working, chain, trains, door=boundary.door if isinstance(boundary, Boundary) else None)
    optimizer = make_optimizer(stage.optimizer, working, stage.param_groups, lr=stage.lr)
    schedule = make_schedule(optimizer, stage.schedule, steps=stage.steps, steps_per_epoch=per_epoch)
    if accelerator.is_fsdp2 and "FSDP_TRANSFORMER_CLS_TO_WRAP" not in os.environ:
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = shard_units(working, chain)
    model, optimizer, schedule = accelerator.prepare(working, optimizer, schedule)
    if checkpoint is None:
        progress = replace(progress, hashes=group_hashes(tensors_of(host), chain))
    else:
        load_training_state(checkpoint, accelerator)
    weights = class_weights(recipe.stages[name], class_counts(experiment), experiment.splits.label_names)
    example_loss = make_loss(stage.loss, weights)
    cost = Cost(progress)

    def save(progress: Progress) -> None:
        began = time.monotonic()
        progress = replace(cost.so_far(progress), history_bytes=journal.history_bytes(), threads=torch.get_num_threads())
        save_checkpoint(run.checkpoints, accelerator, progress, host.state_dict())
        watch.saved(progress, seconds=time.monotonic() - began)

    def stop_if_asked(progress: Progress) -> None:
        look_at_threads(watch, run, journal)
        if (signal := watch.signal()) is not None:
            if watch.last_saved != progress.name:
                save(progress)
            journal.stopped(name, step=progress.step)
            raise Stopped(signal, saved=True)

    journal.stage_start(
        name,
        number=number + 1,
        stages=len(recipe.stages),
        step=progress.step,
        done=progress.epoch * per_epoch + progress.offset,
        steps=stage.steps,
        trains=trains,
        resumed=checkpoint is not None,
    )
    samples = computed_once(samples, working, name, experiment, accelerator, journal, progress, partial(stop_if_asked, progress))
    if isinstance(boundary := experiment.boundaries.get(name), Boundary):
        note_cache(name, samples, boundary.group, recipe, run, accelerator, journal, resumed=checkpoint is not None)
    for epoch in range(progress.epoch + 1, stage.epochs + 1):
        train_mode(working, chain, trains)
        step_loss, step_weight, step_index = torch.zeros((), device=accelerator.device), 0.0, list[int]()
        batches = training_batches(
            samples["train"],
            batch_size=stage.batch_size,
            seed=recipe.run.seed,
            epoch=stage.epochs_before + epoch,
            start=progress.offset,
            accumulation=recipe.run.gradient_accumulation,
            tokens_per_batch=tokens_per_batch(recipe, accelerator.device),
            processes=accelerator.num_processes,
            rank=accelerator.process_index,
            workers=loader_processes(samples["train"], recipe, accelerator),
        )
        _seed_step(recipe.run.seed, progress.step, accelerator.process_index)
        for batch in batches:
            batch = batch.to(accelerator.device)
            with nullcontext() if batch.completes_step else accelerator.no_sync(model):
                logits = model(**batch.inputs).logits  # (B, K)
                loss = (example_loss(logits.float(), batch.labels) * batch.weight).sum()
                # The weights divide by the examples of the whole step; DDP divides by the processes once more.
                accelerator.backward(loss * accelerator.num_processes)
            step_loss += loss.detach()
            step_weight += float(batch.weight.sum())
            step_index += batch.index.tolist()
            if not batch.completes_step:
                continue
            value, weight = accelerator.reduce(torch.stack([step_loss, torch.tensor(step_weight).to(step_loss)]), "sum").tolist()
            if abs(weight - 1) > 1e-3:
                raise RuntimeError(f"step {progress.step + 1}: {weight:.3f} times its examples were computed, not each one once")
            grad_norm = float(accelerator.clip_grad_norm_(model.parameters(), stage.max_grad_norm or math.inf))
            if not math.isfinite(value + grad_norm):  # the same on every process, so all of them stop, before the weights are lost
                ids = gather_object([samples["train"].ids[index] for index in step_index])
                raise _not_finite(value, grad_norm, ids, name, progress.step)
            rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress = progress.after_step(value)
            journal.advance()
            if progress.step % recipe.run.log_every == 0 or progress.offset == per_epoch:
                mean_loss = progress.logged_loss / progress.logged_steps
                journal.step(name, epoch=epoch, step=progress.step, loss=mean_loss, grad_norm=grad_norm, lr=rates)
                progress = replace(cost.so_far(progress), logged_loss=0.0, logged_steps=0)
            step_loss.zero_()
            step_weight = 0.0
            step_index.clear()
            _seed_step(recipe.run.seed, progress.step, accelerator.process_index)
            stop_if_asked(progress)
            if watch.is_due():
                save(progress)

        if accelerator.is_fsdp2:  # BatchNorm's statistics are the main process's, which are saved; DDP sees to that itself
            for buffer in working.buffers():
                broadcast(buffer)
        predicted = predict_split(model, samples["validation"], recipe, accelerator, partial(stop_if_asked, progress))
        validation = quick_metrics(predicted)
        rank = _rank(validation, recipe)
        kept = progress.is_kept(rank, keep=recipe.run.keep)
        if kept:
            _copy_weights(model, host, accelerator)
        progress = cost.so_far(progress)
        journal.evaluation(
            name,
            epoch=epoch,
            epochs=stage.epochs,
            step=progress.step,
            train_loss=progress.epoch_loss / per_epoch,
            validation=validation,
            metric=recipe.run.metric,
            kept=kept,
            seconds=progress.seconds - progress.epoch_began,
        )
        progress = progress.after_epoch(rank, kept=kept)
        if epoch == stage.epochs or _is_patience_over(stage, progress):
            progress = replace(progress, stage_done=True)
            kept_any = progress.kept_stage == progress.stage
            for line in prove_freeze(name, trains, chain, model, progress.hashes, run, accelerator, kept=kept_any):
                journal.say(f"  {line}")
            journal.stage_end(list(recipe.stages), progress, metric=recipe.run.metric, stopped_early=epoch < stage.epochs)
        if progress.stage_done or watch.is_worth_it():
            save(progress)
        stop_if_asked(progress)
        if progress.stage_done:
            break
    accelerator.free_memory(model, optimizer, schedule)
    return progress


def _rank(validation: dict[str, float], recipe: Recipe) -> tuple[float, float]:
    """How good an epoch is, higher is better: the recipe's metric, then the log loss, which tells ties apart."""
    metric = recipe.run.metric
    if metric not in validation:
        raise RunError(f"run.metric: {metric} is undefined on the validation split, which lacks a class")
    value = validation[metric]
    return as_rank(metric, value), as_rank("log_loss", validation["log_loss"])


def _is_patience_over(stage: ResolvedStage, progress: Progress) -> bool:
    return stage.early_stopping is not None and progress.epoch - progress.best_epoch >= stage.early_stopping


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout depends on (seed, step, process) alone, so a continued run draws what the run in one piece would have drawn."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def _not_finite(loss: float, grad_norm: float, ids: list[str], stage: str, step: int) -> RunError:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.3f} and the norm of its gradient {grad_norm}"
    return RunError(
        f"stage {stage}, step {step + 1}: {what}. The last checkpoint stands. A rate that is too high"
        f" is the usual cause, and then the run starts again with a lower one. Its examples: {', '.join(ids)}"
    )


def _copy_weights(model: nn.Module, host: PreTrainedModel, accelerator: Accelerator) -> None:
    """Copy a stage's weights to the host model of every process."""
    weights = accelerator.get_state_dict(model)
    if weights:  # under FSDP only the main process holds the whole
        host.load_state_dict(weights)
    if accelerator.num_processes > 1:
        for tensor in host.state_dict().values():
            tensor.copy_(broadcast(tensor.to(accelerator.device)))
