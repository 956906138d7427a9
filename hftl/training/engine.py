"""The training loop: for each stage prepare, train, evaluate, checkpoint; at the end open the test split once.

The host model, on the CPU, always holds the best weights so far. A stage trains a copy of it: freeze the copy, give it a new
optimizer and schedule, wrap both with Accelerate, take steps, evaluate after each epoch, and copy the weights back whenever the
validation metric is better than that of the weights that the host has. So a stage that improves nothing leaves nothing behind, and
what is delivered is the best of the run. Nothing else crosses from one stage to the next.

Shapes: B examples in a micro-batch, K classes.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, broadcast, gather_object
from datasets import disable_progress_bars
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel

from hftl.data.loader import Samples, evaluation_batches, steps_per_epoch, training_batches
from hftl.data.source import Splits, load_splits
from hftl.errors import RecipeError, RunError, did_you_mean
from hftl.evaluation.metrics import Predictions, compute_metrics, quick_metrics, stored_label_names
from hftl.evaluation.predict import predict_logits
from hftl.evaluation.report import write_figures
from hftl.evaluation.verdict import verdict
from hftl.facts import continued, contradictions, with_facts
from hftl.ledger import count_openings, note_opening
from hftl.models import load_classifier, save_classifier
from hftl.models.attention import use_fast_dropout_attention
from hftl.models.boundary import Boundary
from hftl.models.fast_training import use_fast_training
from hftl.names import as_rank
from hftl.recipe import LOCAL, ImageData, Recipe, Stage, TextData, Timm, Transformer, without_places
from hftl.run import (
    RunDirectory,
    check_sealed,
    environment_record,
    read_json,
    read_json_lines,
    write_json,
    write_manifest,
    write_text,
)
from hftl.signals import Stopped, deferred
from hftl.training.cache import computed_once, loader_processes, where_from
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
    check_same_recipe,
    check_space,
    claim,
    missing,
    number_format,
    other_precision,
)
from hftl.training.experiment import (
    Experiment,
    audit,
    class_counts,
    facts,
    make_plan,
    make_samples,
    prepare_experiment,
    serving_samples,
)
from hftl.training.journal import Journal
from hftl.training.loss import class_weights, make_loss
from hftl.training.machine import (
    check_compile,
    disk_errors,
    mixed_precision,
    others_alive,
    process_state,
    settle_fsdp,
    tokens_per_batch,
    tune_kernels,
)
from hftl.training.origin import base_record, check_same_base, earlier_versions, other_versions
from hftl.training.plan import plan_on_record
from hftl.training.proof import group_hashes, prove, write_proof
from hftl.training.stage import compile_layers, freeze, make_optimizer, make_schedule, param_groups, shard_units, train_mode
from hftl.training.threads import Threads
from hftl.training.together import check_same, claim_together, main_first, one_answer
from hftl.training.watch import Cost, Watch

log = logging.getLogger(__name__)


@others_alive()
def train(
    recipe: Recipe, run: RunDirectory, *, resume: bool = False, console: Console | None = None, source: str = "recipe"
) -> RunDirectory:
    """Carry out a recipe and write everything about it into the run directory.

    SIGINT and SIGTERM are obeyed after the step, or the batch of an evaluation, in which they come, when a checkpoint is written.

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
    with main_first():
        said: tuple[str, ...] = ()
        if resume:
            recipe, said = continued(recipe, run.load_recipe())
        experiment = prepare_experiment(_pinned(recipe, run) if resume else recipe)
        recipe = with_facts(recipe, card=experiment.recipe.card, name=experiment.recipe.name)
        samples = {
            split: make_samples(recipe, experiment.classifier, dataset, train=split == "train")
            for split, dataset in (("train", experiment.splits.train), ("validation", experiment.splits.validation))
        }
    base = base_record(experiment.classifier)
    if accelerator.num_processes > 1:
        computes = {"device": accelerator.device.type, "number format": number_format(accelerator)}
        check_same({"data": facts(experiment, samples["train"]), "model": base, **computes})
    begun = resume and run.environment.is_file()  # it is written last of what is written before the first step
    if begun:
        check_same_data(experiment.splits, run)
        check_same_precision(accelerator, run)
        said = (*said, *check_same_base(base, run), *other_versions(run))
    plan = make_plan(experiment, source=source, measure=accelerator.device)
    check_batch_sizes(experiment, samples["train"], accelerator)
    findings = None  # of the audit, once a run and by one process
    if accelerator.is_main_process:
        check_space(experiment, plan, run)
        findings = None if run.audit.is_file() else audit(experiment, samples)
    with (
        run.lock() if accelerator.is_main_process else nullcontext(),
        Journal(run, accelerator, console or Console(stderr=True)) as journal,
        disk_errors(run),
        deferred() as noted,
        threads,
    ):
        if accelerator.is_main_process:
            claim(run, recipe, resume=resume)  # once more: another process may have had it until now
        accelerator.wait_for_everyone()
        checkpoint, passed_over = newest_checkpoint(run.checkpoints)
        progress = Progress.at_the_start()
        if checkpoint is not None:
            progress = load_progress(checkpoint, processes=accelerator.num_processes)
            experiment.classifier.model.load_state_dict(load_best_weights(checkpoint))
            if begun:
                plan, differs = plan_on_record(plan, run)
                said = (*said, *differs)
        recorded = progress.threads
        chosen = threads.choose(recorded)
        accelerator.wait_for_everyone()  # all have read what the main process writes now
        if accelerator.is_main_process:
            if checkpoint is None:  # what an earlier start has left is not of these weights
                for left in (run.predictions("test").parent, run.model):
                    shutil.rmtree(left, ignore_errors=True)
            write_text(run.recipe, recipe.to_yaml())
            if checkpoint is None or not begun:  # otherwise what was recorded at the start stands: it is what the run is of
                write_json(run.plan, plan.to_dict())
                write_json(run.data, facts(experiment, samples["train"]) | {"base": base})
            write_json(run.environment, _environment(accelerator, recipe) | _carried(run) | {"sittings": _sittings(run) + 1})
            if findings is not None:
                write_json(run.audit, findings.to_dict())
        if recipe.run.trackers:
            accelerator.init_trackers(recipe.name, config={"recipe": recipe.to_yaml()})
        journal.cut_history(progress.history_bytes)
        journal.opening(plan, [*said, *experiment.said_of_facts, *([] if findings is None else findings.lines())])
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
        last_saved = None if checkpoint is None else checkpoint.name
        watch = Watch(accelerator, noted, threads, minutes=recipe.run.checkpoint_minutes, last_saved=last_saved)
        for number in range(progress.stage, len(recipe.stages)):
            if number > progress.stage:
                progress = progress.next_stage()
            if not progress.stage_done:
                progress = _train_stage(number, experiment, samples, run, accelerator, journal, watch, progress, checkpoint)
            checkpoint = None
        _finish(experiment, samples["validation"], run, accelerator, journal, watch, progress)
        journal.record("finished", seconds=round(time.perf_counter() - started, 2), training_seconds=round(progress.seconds, 2))
    return run


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
    name, stage = list(recipe.stages.items())[number]
    trains = chain.select(stage.unfreeze)
    batch_size = stage.batch_size or recipe.run.batch_size
    per_epoch = steps_per_epoch(len(samples["train"]), batch_size)
    epochs_before = sum(earlier.epochs for earlier in list(recipe.stages.values())[:number])

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
    optimizer = make_optimizer(stage, param_groups(working, chain, stage))
    schedule = make_schedule(optimizer, stage, steps=per_epoch * stage.epochs, steps_per_epoch=per_epoch)
    if accelerator.is_fsdp2 and "FSDP_TRANSFORMER_CLS_TO_WRAP" not in os.environ:
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = shard_units(working, chain)
    model, optimizer, schedule = accelerator.prepare(working, optimizer, schedule)
    if checkpoint is None:
        progress = replace(progress, hashes=group_hashes(_tensors(host), chain))
    else:
        load_training_state(checkpoint, accelerator)
    weights = class_weights(stage, class_counts(experiment), experiment.splits.label_names)
    example_loss = make_loss(stage, weights)
    cost = Cost(progress)

    def save(progress: Progress) -> None:
        began = time.monotonic()
        progress = replace(cost.so_far(progress), history_bytes=journal.history_bytes(), threads=torch.get_num_threads())
        save_checkpoint(run.checkpoints, accelerator, progress, host.state_dict())
        watch.saved(progress, seconds=time.monotonic() - began)

    def stop_if_asked(progress: Progress) -> None:
        _look_at_threads(watch, run, journal)
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
        steps=per_epoch * stage.epochs,
        trains=trains,
        resumed=checkpoint is not None,
    )
    samples = computed_once(samples, working, name, experiment, accelerator, journal, progress, partial(stop_if_asked, progress))
    if isinstance(boundary := experiment.boundaries.get(name), Boundary):
        _note_cache(name, samples, boundary.group, recipe, run, accelerator, journal, resumed=checkpoint is not None)
    for epoch in range(progress.epoch + 1, stage.epochs + 1):
        train_mode(working, chain, trains)
        step_loss, step_weight, step_index = torch.zeros((), device=accelerator.device), 0.0, list[int]()
        batches = training_batches(
            samples["train"],
            batch_size=batch_size,
            seed=recipe.run.seed,
            epoch=epochs_before + epoch,
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
        validation = quick_metrics(_predict(model, samples["validation"], recipe, accelerator, partial(stop_if_asked, progress)))
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
            _prove_freeze(name, trains, experiment, model, progress, run, accelerator, journal)
            journal.stage_end(list(recipe.stages), progress, metric=recipe.run.metric, stopped_early=epoch < stage.epochs)
        if progress.stage_done or watch.is_worth_it():
            save(progress)
        stop_if_asked(progress)
        if progress.stage_done:
            break
    accelerator.free_memory(model, optimizer, schedule)
    return progress


def _finish(
    experiment: Experiment,
    validation: Samples,
    run: RunDirectory,
    accelerator: Accelerator,
    journal: Journal,
    watch: Watch,
    progress: Progress,
) -> None:
    """Predict validation and, unless it stays sealed, test once; save the model and what belongs to it.

    metrics.json marks the run as finished.
    """
    recipe, splits = experiment.recipe, experiment.splits
    model = accelerator.prepare_model(copy.deepcopy(experiment.classifier.model).to(accelerator.device), evaluation_mode=True)

    def stop_if_asked() -> None:
        _look_at_threads(watch, run, journal)
        if (signal := watch.signal()) is not None:  # the checkpoint of the last stage's end stands
            journal.stopped(list(recipe.stages)[-1], step=progress.step)
            raise Stopped(signal, saved=True)

    predictions = {"validation": _predict(model, validation, recipe, accelerator, stop_if_asked)}
    if splits.test is not None and recipe.opens_test:
        if run.predictions("test").is_file():
            # A run that was stopped after it had opened test does not open it again.
            predictions["test"] = Predictions.load(run.predictions("test"))
        else:
            with main_first():
                test = make_samples(recipe, experiment.classifier, splits.test, train=False)
            if accelerator.is_main_process:
                _open(run, splits, by="hftl train", say=journal.say)
            predictions["test"] = _predict(model, test, recipe, accelerator, stop_if_asked)
    if accelerator.is_main_process:
        for split, predicted in predictions.items():
            predicted.save(run.predictions(split), splits.label_names)
        save_classifier(experiment.classifier, run.model)
        serving_samples(experiment, validation).save(run.serving)
        joules = None if progress.cpu_joules is None else round(progress.cpu_joules)
        cost = {"seconds": round(progress.seconds, 1), "cpu_energy_joules": joules, "sittings": _sittings(run)}
        write_json(run.environment, {**_environment(accelerator, recipe), **_carried(run), **cost})
        _conclude(run, predictions, say=journal.say)
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # model/ has the best weights, and a finished run is not continued
        if splits.test is not None and "test" not in predictions:
            journal.say(f"the test split stays shut (n = {len(splits.test):,}); to open it, once:  hftl test {run.path}")
    accelerator.wait_for_everyone()


def _conclude(run: RunDirectory, predictions: Mapping[str, Predictions], *, say: Callable[[str], None]) -> None:
    """Write what follows from the predictions of a run, metrics.json last, and say how good the model is and where it is worst."""
    write_manifest(run)
    if (problem := count_openings(run)) is not None:
        say(problem)
    data, label_names = read_json(run.data), stored_label_names(run.predictions("validation"))
    skipped = Counter(entry["split"] for entry in data["skipped"])
    metrics = {split: compute_metrics(predicted, label_names, skipped=skipped[split]) for split, predicted in predictions.items()}
    write_figures(run, metrics)
    write_json(run.metrics, metrics)
    recipe = run.load_recipe()
    for line in verdict(
        metrics,
        openings=read_json(run.test_ledger) if run.test_ledger.is_file() else None,
        stage=list(recipe.stages)[-1],
        weighted=list(recipe.stages.values())[-1].class_weights is not None,
        enlarge=_key_of_validation(recipe.data, data, n=metrics["validation"]["n"]),
    ):
        say(line)


def _key_of_validation(section: TextData | ImageData, data: Mapping[str, Any], *, n: int) -> str | None:
    """The key that makes a validation split of n rows larger; None: it is the source's own, and whole."""
    if section.max_validation_samples == n:
        return "data.max_validation_samples"
    return None if data["validation"] == "given" else "data.validation_fraction"


def complete(recipe: Recipe, run: RunDirectory, *, say: Callable[[str], object]) -> None:
    """Draw what a finished run lacks of its figures; the card is written, as after training, by the caller.

    Raises:
        RunError: the run lacks nothing, is another recipe's or in use, or cannot be written.
        RecipeError: a fact that is given now contradicts what was read.
    """
    if not (lacks := missing(run)):
        claim(run, recipe, resume=True)
    check_same_recipe(run, recipe)
    recipe, said = continued(recipe, run.load_recipe())
    if problems := contradictions(recipe, read_json(run.data)):
        raise RecipeError(str(run.recipe), problems)
    with run.lock(), disk_errors(run):
        for line in (f"{run.path}: this run is finished but for {', '.join(lacks)}: written now, from what it has", *said):
            say(line)
        write_text(run.recipe, recipe.to_yaml())
        if any(name != run.card.name for name in lacks):
            write_figures(run, read_json(run.metrics))
        shutil.rmtree(run.checkpoints, ignore_errors=True)


@others_alive()
def open_test(run: RunDirectory, *, say: Callable[[str], None]) -> None:
    """Open the sealed test split of a finished run, once, and put its results beside those of validation.

    Raises:
        RunError: the run is not finished, has no test split, or has opened it; or the data are not those of the run.
    """
    if not run.finished:
        raise RunError(f"{run.path}: the run is not finished; there is no model to test")
    if "test" in read_json(run.metrics):
        times = ", ".join(record["time"] for record in read_json_lines(run.test_openings))
        raise RunError(
            f"{run.path}: its test split was opened already ({times}), and is opened once. To see that the saved model still gives"
            f" the numbers on record, which is written down as another opening:  hftl evaluate {run.path} --split test."
            f" Its card again:  hftl card {run.path}"
        )
    check_sealed(run)
    main, stored = process_state().is_main_process, run.predictions("test")
    with run.lock() if main else nullcontext():
        if not stored.is_file():  # otherwise an earlier call was stopped when it had opened the split, which is not done again
            predictions = _evaluate(run, split="test", source=None, opened_by="hftl test", say=say)
            if main:
                predictions.save(stored, stored_label_names(run.predictions("validation")))
        if main:
            _conclude(run, {split: Predictions.load(run.predictions(split)) for split in ("validation", "test")}, say=say)
            (run.figures / "confusion_matrix_validation.png").unlink(missing_ok=True)  # the figures are of test now


@others_alive()
def evaluate(run: RunDirectory, *, split: str, source: str | None = None, opened_by: str | None = "hftl evaluate") -> Predictions:
    """What a finished run's saved model says about a split of its recipe's data, or of the same data at `source`.

    Opening the test split again is written down in the run directory, and shown on the card; `opened_by` None: the run is not
    one's own, and nothing is written.

    Raises:
        RunError: the run is not finished, its data have no such split, the test split is still sealed, or the data are not those of
            the run.
    """
    if not run.finished:
        raise RunError(f"{run.path}: the run is not finished; there is no model to evaluate")
    if split == "test" and "test" not in read_json(run.metrics) and not run.load_recipe().opens_test:
        raise RunError(f"{run.path}: its test split is sealed; to open it, once:  hftl test {run.path}")
    return _evaluate(run, split=split, source=source, opened_by=opened_by, say=log.warning)


def _evaluate(
    run: RunDirectory, *, split: str, source: str | None, opened_by: str | None, say: Callable[[str], None]
) -> Predictions:
    recipe = run.load_recipe()
    if source is None and run.published_as is not None:  # a stranger's recipe names no file of this machine
        recipe = without_places(recipe)
    source = source or recipe.data.source
    # The rows of then, where they come from the Hub and have moved on.
    revision = read_json(run.data).get("revision") if source == recipe.data.source else None
    # Duplicates are refused before training, not after it: what was trained on is what is read now, and the fingerprints tell.
    on_duplicate = "keep" if recipe.data.on_duplicate == "error" else recipe.data.on_duplicate
    changed = {"source": source, "revision": revision, "on_duplicate": on_duplicate}
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=changed)})
    if source.startswith(LOCAL):
        raise RunError(f"{run.path}: its data lay on the author's machine; with your copy: hftl verify {run.path} --data PATH")
    disable_progress_bars()
    accelerator = make_accelerator(recipe, run)
    if opened_by is not None and accelerator.is_main_process:  # one's own run; of a published one other machines are the rule
        for line in (*other_versions(run), *other_precision(accelerator, run)):
            say(line)
    classifier = load_classifier(run.model)
    with main_first():
        splits = load_splits(recipe.data, seed=recipe.run.seed)
        check_same_data(splits, run)
        dataset = {"train": splits.train, "validation": splits.validation, "test": splits.test}.get(split)
        if dataset is None:
            raise RunError(f'the data of {run.path} have no split "{split}"')
        samples = make_samples(recipe, classifier, dataset, train=False)
    if split == "test" and opened_by is not None and accelerator.is_main_process:
        _open(run, splits, by=opened_by, say=say)
    model = accelerator.prepare_model(classifier.model.to(accelerator.device), evaluation_mode=True)
    predictions = _predict(model, samples, recipe, accelerator)
    if split == "test" and opened_by is not None and accelerator.is_main_process and (problem := count_openings(run)) is not None:
        say(problem)
    return predictions


def _open(run: RunDirectory, splits: Splits, *, by: str, say: Callable[[str], None]) -> None:
    """Write an opening of the test split down before the split is looked at; one that was cut short is continued."""
    cut_short = any(read_json_lines(run.test_openings)) and "test" not in (read_json(run.metrics) if run.finished else {})
    problem = note_opening(run, rows=splits.facts["test_rows"], by=f"{by}, continued" if cut_short else by)
    if problem is not None:
        say(problem)


def make_accelerator(recipe: Recipe, run: RunDirectory) -> Accelerator:
    """Accelerate as the launcher set it up (processes, device, FSDP), with the recipe's number format and trackers.

    Raises:
        RecipeError: the machine cannot do what the recipe asks for, or a tracker is unknown or not installed.
        RunError: the launcher asks for an FSDP that hftl does not do.
    """
    state = process_state()
    precision = mixed_precision(recipe.run, state.device)
    check_compile(recipe.run, state.device)
    tune_kernels(recipe.run, state.device)
    known = [tracker.value for tracker in LoggerType if tracker is not LoggerType.ALL]
    for name in recipe.run.trackers:
        if name not in known:
            raise RecipeError.single(
                "run.trackers", f'no tracker "{name}".{did_you_mean(name, known)}', f"allowed: {', '.join(known)}"
            )
        if name not in {tracker.value for tracker in get_available_trackers()}:
            package = '"hftl[tensorboard]"' if name == "tensorboard" else name
            raise RecipeError.single("run.trackers", f'the package of tracker "{name}" is not installed', f"pip install {package}")
    AcceleratorState._reset_state()  # a process may train several recipes, each with its own number format
    accelerator = Accelerator(
        cpu=state.device.type == "cpu",
        mixed_precision=precision,
        step_scheduler_with_optimizer=False,
        log_with=list(recipe.run.trackers) or None,
        project_dir=str(run.path),
    )
    settle_fsdp(accelerator)
    return accelerator


def _predict(
    model: nn.Module, samples: Samples, recipe: Recipe, accelerator: Accelerator, after_batch: Callable[[], None] | None = None
) -> Predictions:
    batches = evaluation_batches(
        samples,
        batch_size=recipe.run.evaluation_batch_size,
        tokens_per_batch=tokens_per_batch(recipe, accelerator.device),
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
        workers=loader_processes(samples, recipe, accelerator),
    )
    logits = predict_logits(model, batches, accelerator, size=len(samples), after_batch=after_batch)
    labels, sizes = np.asarray(samples.labels, dtype=np.int64), np.asarray(samples.sizes, dtype=np.int64)
    return Predictions(list(samples.ids), labels, logits, sizes=sizes, size_unit=samples.size_unit)


def _rank(validation: dict[str, float], recipe: Recipe) -> tuple[float, float]:
    """How good an epoch is, higher is better: the recipe's metric, then the log loss, which tells ties apart."""
    metric = recipe.run.metric
    if metric not in validation:
        raise RunError(f"run.metric: {metric} is undefined on the validation split, which lacks a class")
    value = validation[metric]
    return as_rank(metric, value), as_rank("log_loss", validation["log_loss"])


def _is_patience_over(stage: Stage, progress: Progress) -> bool:
    return stage.early_stopping is not None and progress.epoch - progress.best_epoch >= stage.early_stopping


def _look_at_threads(watch: Watch, run: RunDirectory, journal: Journal) -> None:
    """Another number of threads where others want the cores, or have left them: said, and written down for a resume."""
    for line in watch.threads.look():
        journal.threads(line)
        if journal.accelerator.is_main_process:
            write_json(run.environment, read_json(run.environment) | {"threads": torch.get_num_threads()})


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout depends on (seed, step, process) alone, so a continued run draws what the run in one piece would have drawn."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def _not_finite(loss: float, grad_norm: float, ids: list[str], stage: str, step: int) -> RunError:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.3f} and the norm of its gradient {grad_norm}"
    return RunError(
        f"stage {stage}, step {step + 1}: {what}. The last checkpoint stands. A rate that is too high"
        f" is the usual cause, and then the run starts again with a lower one. Its examples: {', '.join(ids)}"
    )


def _pinned(recipe: Recipe, run: RunDirectory) -> Recipe:
    """The recipe with the commits of data set and checkpoint that the run was started with: branches of the Hub may move on."""
    recorded = read_json(run.data) if run.data.is_file() else {}
    of_data, of_model = recorded.get("revision"), recorded.get("model", {}).get("revision")
    pinned = recipe
    if of_data is not None:
        pinned = pinned.model_copy(update={"data": recipe.data.model_copy(update={"revision": of_data})})
    if (
        of_model is not None
        and isinstance(recipe.model, Transformer | Timm)
        and not Path(recipe.model.checkpoint).expanduser().is_dir()
    ):
        pinned = pinned.model_copy(update={"model": recipe.model.model_copy(update={"revision": of_model})})
    return recipe if pinned is recipe else with_facts(pinned, card=recipe.card, name=recipe.name)


def _carried(run: RunDirectory) -> dict[str, Any]:
    """What environment.json keeps of earlier sittings."""
    if not run.environment.is_file():
        return {}
    before, cached = earlier_versions(run), read_json(run.environment).get("cached")
    return ({"packages_before": before} if before else {}) | ({"cached": cached} if cached else {})


def _note_cache(
    stage: str,
    samples: Mapping[str, Samples],
    group: str,
    recipe: Recipe,
    run: RunDirectory,
    accelerator: Accelerator,
    journal: Journal,
    *,
    resumed: bool,
) -> None:
    """Write down where a stage has what enters its first training group from; in bf16 that decides how its sums round."""
    found = where_from(samples)
    if accelerator.is_main_process:
        environment = read_json(run.environment)
        cached = environment.get("cached", {})
        if resumed and stage in cached:
            found = {split: here if here == cached[stage].get(split) else "both" for split, here in found.items()}
        write_json(run.environment, environment | {"cached": cached | {stage: found}})
    if number_format(accelerator) != "bf16":
        return
    if "stored" in where_from(samples).values():
        journal.say(f"  what enters {group} is stored in bf16: computed anew in every epoch, its sums would round differently")
    elif recipe.run.cache_gb:  # otherwise the recipe says so, and room has no say
        journal.say(
            f"  what enters {group} is computed anew in bf16: stored, for which there was no room, its sums would round differently"
        )


def _sittings(run: RunDirectory) -> int:
    """How often the run was started or continued so far."""
    return int(read_json(run.environment).get("sittings", 0)) if run.environment.is_file() else 0


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _prove_freeze(
    name: str,
    trains: Sequence[str],
    experiment: Experiment,
    model: nn.Module,
    progress: Progress,
    run: RunDirectory,
    accelerator: Accelerator,
    journal: Journal,
) -> None:
    """Compare what the stage did with what it said it would do, and write that down.

    Raises:
        RunError: a frozen group has changed.
    """
    weights = accelerator.get_state_dict(
        model
    )  # by all processes: under FSDP they put them together, and the main process has them
    if not accelerator.is_main_process:
        return
    chain = experiment.classifier.chain
    after = group_hashes({**_tensors(accelerator.unwrap_model(model)), **weights}, chain)
    proof = prove(name, trains, progress.hashes, after, kept=progress.kept_stage == progress.stage)
    write_proof(run, proof)
    for group in proof["groups"]:
        if not group["ok"] and not group["trains"]:
            raise RunError(f"stage {name}: the frozen group {group['name']} has changed, a defect of hftl; see {run.freeze_proof}")
        if not group["ok"]:
            journal.say(f"  {group['name']} was to train in stage {name} and has not moved: its rate or its gradient is too small")


def _copy_weights(model: nn.Module, host: PreTrainedModel, accelerator: Accelerator) -> None:
    """Copy a stage's weights to the host model of every process."""
    weights = accelerator.get_state_dict(model)
    if weights:  # under FSDP only the main process holds the whole
        host.load_state_dict(weights)
    if accelerator.num_processes > 1:
        for tensor in host.state_dict().values():
            tensor.copy_(broadcast(tensor.to(accelerator.device)))


def _environment(accelerator: Accelerator, recipe: Recipe) -> dict[str, object]:
    device = accelerator.device
    return {
        **environment_record(),
        "processes": accelerator.num_processes,
        "distributed": accelerator.distributed_type.value,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": number_format(accelerator),
        "threads": torch.get_num_threads(),
    }
