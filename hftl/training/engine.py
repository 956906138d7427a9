"""The training loop: for each stage prepare, train, evaluate, checkpoint; at the end open the test split once.

The host model, on the CPU, always holds the best weights so far. A stage trains a copy of it: freeze the copy, give it a new
optimizer and schedule, wrap both with Accelerate, take steps, evaluate after each epoch, and copy the weights back whenever the
validation metric is better. Nothing else crosses from one stage to the next.

Shapes: B examples in a micro-batch, K classes.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, broadcast
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel

from hftl.data.loader import Samples, evaluation_batches, steps_per_epoch, training_batches
from hftl.data.source import Splits, load_splits
from hftl.errors import RecipeError, RunError, did_you_mean
from hftl.evaluation.metrics import Predictions, compute_metrics, quick_metrics
from hftl.evaluation.predict import predict_logits
from hftl.evaluation.report import write_figures
from hftl.models import load_classifier, save_classifier
from hftl.recipe import LOCAL, Recipe, Stage, difference
from hftl.run import RunDirectory, append_json_line, environment_record, now, read_json, write_json, write_manifest, write_text
from hftl.training.checkpoint import (
    Progress,
    latest_checkpoint,
    load_best_weights,
    load_progress,
    load_training_state,
    save_checkpoint,
)
from hftl.training.experiment import Experiment, class_counts, facts, make_plan, make_samples, prepare_experiment, serving_samples
from hftl.training.journal import Journal
from hftl.training.loss import class_weights, make_loss
from hftl.training.machine import EnergyMeter, mixed_precision, process_state
from hftl.training.plan import plan_footer, plan_table
from hftl.training.stage import freeze, make_optimizer, make_schedule, param_groups, train_mode

# What may differ between a stopped run and its continuation: none of it changes what is computed.
FREE_TO_CHANGE = ("run.workers:", "run.log_every:", "run.trackers:", "run.evaluation_batch_size:", "card.")


def train(
    recipe: Recipe, run: RunDirectory, *, resume: bool = False, console: Console | None = None, source: str = "recipe"
) -> RunDirectory:
    """Carry out a recipe and write everything about it into the run directory.

    Raises:
        RecipeError, DataError: the recipe or its data cannot be used; nothing has been written.
        RunError: the directory holds another run, there is nothing to resume, or the loss is no longer finite.
    """
    started = time.perf_counter()
    checkpoint = _claim(run, recipe, resume=resume)
    process_state().wait_for_everyone()  # no process writes before all have looked
    accelerator = make_accelerator(recipe, run)
    with accelerator.main_process_first():  # the others find its prepared data in the cache
        experiment = prepare_experiment(recipe)
        samples = {
            split: make_samples(recipe, experiment.classifier, dataset, train=split == "train")
            for split, dataset in (("train", experiment.splits.train), ("validation", experiment.splits.validation))
        }
    plan = make_plan(experiment, source=source, measure=accelerator.device)
    _check_batch_sizes(recipe, accelerator)
    accelerator.wait_for_everyone()
    progress = Progress.at_start_of(0)
    if checkpoint is not None:
        _check_same_data(experiment.splits, run)
        progress = load_progress(checkpoint, accelerator)
        experiment.classifier.model.load_state_dict(load_best_weights(checkpoint))
    if accelerator.is_main_process:
        write_text(run.recipe, recipe.to_yaml())
        write_json(run.plan, plan.to_dict())
        write_json(run.data, facts(experiment, samples["train"]))
        write_json(run.environment, _environment(accelerator, recipe))
    if recipe.run.trackers:
        accelerator.init_trackers(recipe.name, config={"recipe": recipe.to_yaml()})
    with Journal(run, accelerator, console or Console(stderr=True)) as journal:
        if accelerator.is_main_process:
            journal.console.print(plan_table(plan), "", plan_footer(plan), "", sep="\n", highlight=False)
        if checkpoint is not None:
            journal.say(
                f"continuing at stage {list(recipe.stages)[progress.stage]}, after epoch {progress.epoch} ({checkpoint.name})"
            )
        for number in range(progress.stage, len(recipe.stages)):
            if number > progress.stage:
                progress = Progress.at_start_of(
                    number, step=progress.step, seconds=progress.seconds, cpu_joules=progress.cpu_joules
                )
            if not progress.stage_done:
                progress = _train_stage(number, experiment, samples, run, accelerator, journal, progress, checkpoint)
            checkpoint = None
        _finish(experiment, samples["validation"], run, accelerator, journal, progress)
        journal.record("finished", seconds=round(time.perf_counter() - started, 2), training_seconds=round(progress.seconds, 2))
    return run


def _train_stage(
    number: int,
    experiment: Experiment,
    samples: dict[str, Samples],
    run: RunDirectory,
    accelerator: Accelerator,
    journal: Journal,
    progress: Progress,
    checkpoint: Path | None,
) -> Progress:
    """Train one stage, from its start or from a checkpoint inside it; the host model then holds the stage's best weights."""
    recipe, host, chain = experiment.recipe, experiment.classifier.model, experiment.classifier.chain
    name, stage = list(recipe.stages.items())[number]
    trains = chain.select(stage.unfreeze)
    batch_size = stage.batch_size or recipe.run.batch_size
    per_epoch = steps_per_epoch(len(samples["train"]), batch_size)
    energy = EnergyMeter()
    epochs_before = sum(earlier.epochs for earlier in list(recipe.stages.values())[:number])

    working = copy.deepcopy(host).to(accelerator.device)
    freeze(working, chain, trains)  # before wrapping: DDP fixes its set of parameters when it wraps
    optimizer = make_optimizer(stage, param_groups(working, chain, stage))
    schedule = make_schedule(optimizer, stage, steps=per_epoch * stage.epochs, steps_per_epoch=per_epoch)
    model, optimizer, schedule = accelerator.prepare(working, optimizer, schedule)
    if checkpoint is not None:
        load_training_state(checkpoint, accelerator)
    weights = class_weights(stage, class_counts(experiment), experiment.splits.label_names)
    example_loss = make_loss(stage, weights)

    done = progress.epoch * per_epoch
    journal.stage_start(
        name,
        number=number + 1,
        stages=len(recipe.stages),
        step=progress.step,
        done=done,
        steps=per_epoch * stage.epochs,
        trains=trains,
    )
    for epoch in range(progress.epoch + 1, stage.epochs + 1):
        epoch_started = time.perf_counter()
        energy.start()
        train_mode(working, chain, trains)
        step, last_step, logged_step = progress.step, progress.step + per_epoch, progress.step
        epoch_loss, logged_loss = 0.0, 0.0
        step_loss, step_index = torch.zeros((), device=accelerator.device), list[int]()
        batches = training_batches(
            samples["train"],
            batch_size=batch_size,
            seed=recipe.run.seed,
            epoch=epochs_before + epoch,
            accumulation=recipe.run.gradient_accumulation,
            processes=accelerator.num_processes,
            rank=accelerator.process_index,
            workers=recipe.run.workers,
        )
        _seed_step(recipe.run.seed, step, accelerator.process_index)
        for batch in batches:
            batch = batch.to(accelerator.device)
            with nullcontext() if batch.completes_step else accelerator.no_sync(model):
                logits = model(**batch.inputs).logits  # (B, K)
                loss = (example_loss(logits.float(), batch.labels) * batch.weight).sum()
                # The weights divide by the examples of the whole step; DDP divides by the processes once more.
                accelerator.backward(loss * accelerator.num_processes)
            step_loss += loss.detach()
            step_index += batch.index.tolist()
            if not batch.completes_step:
                continue
            value = float(accelerator.reduce(step_loss, "sum"))
            if not math.isfinite(value):  # the same on every process, so all of them stop
                raise _not_finite(value, [samples["train"].ids[index] for index in step_index], name, step)
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), stage.max_grad_norm) if stage.max_grad_norm else None
            rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            journal.advance()
            epoch_loss, logged_loss = epoch_loss + value, logged_loss + value
            if step % recipe.run.log_every == 0 or step == last_step:
                norm = None if grad_norm is None else float(grad_norm)
                journal.step(name, epoch=epoch, step=step, loss=logged_loss / (step - logged_step), grad_norm=norm, lr=rates)
                logged_loss, logged_step = 0.0, step
                energy.update()
            step_loss.zero_()
            step_index.clear()
            _seed_step(recipe.run.seed, step, accelerator.process_index)

        validation = quick_metrics(_predict(model, samples["validation"], recipe, accelerator))
        rank = _rank(validation, recipe)
        best = rank > progress.best_rank
        if best:
            _copy_weights(model, host, accelerator)
        seconds = time.perf_counter() - epoch_started
        energy.update()
        progress = Progress(
            stage=number,
            epoch=epoch,
            step=step,
            best_epoch=epoch if best else progress.best_epoch,
            best_rank=rank if best else progress.best_rank,
            stage_done=epoch == stage.epochs or _is_patience_over(stage, epoch, epoch if best else progress.best_epoch),
            seconds=progress.seconds + seconds,
            cpu_joules=_sum_if_known(progress.cpu_joules, energy.joules),
        )
        journal.evaluation(
            name,
            epoch=epoch,
            epochs=stage.epochs,
            step=step,
            train_loss=epoch_loss / per_epoch,
            validation=validation,
            metric=recipe.run.metric,
            best=best,
            seconds=seconds,
        )
        save_checkpoint(run.checkpoints, accelerator, progress, host.state_dict())
        if progress.stage_done:
            break
    journal.record(
        "stage_end",
        stage=name,
        best_epoch=progress.best_epoch,
        best_metric=progress.best_rank[0] * (-1 if recipe.run.metric == "log_loss" else 1),
        stopped_early=epoch < stage.epochs,
    )
    accelerator.free_memory(model, optimizer, schedule)
    return progress


def _finish(
    experiment: Experiment,
    validation: Samples,
    run: RunDirectory,
    accelerator: Accelerator,
    journal: Journal,
    progress: Progress,
) -> None:
    """Save the model, predict validation and (once) test, and write metrics.json, which marks the run as finished, and figures."""
    recipe, splits = experiment.recipe, experiment.splits
    model = accelerator.prepare_model(copy.deepcopy(experiment.classifier.model).to(accelerator.device), evaluation_mode=True)
    predictions = {"validation": _predict(model, validation, recipe, accelerator)}
    if splits.test is not None:
        with accelerator.main_process_first():
            test = make_samples(recipe, experiment.classifier, splits.test, train=False)
        if accelerator.is_main_process:
            append_json_line(run.test_openings, {"time": now(), "by": "hftl train"})
        predictions["test"] = _predict(model, test, recipe, accelerator)
    if accelerator.is_main_process:
        save_classifier(experiment.classifier, run.model)
        metrics = {}
        for split, predicted in predictions.items():
            predicted.save(run.predictions(split), splits.label_names)
            metrics[split] = compute_metrics(predicted, splits.label_names)
        serving_samples(experiment, validation).save(run.serving)
        write_manifest(run)
        joules = None if progress.cpu_joules is None else round(progress.cpu_joules)
        cost = {"seconds": round(progress.seconds, 1), "cpu_energy_joules": joules}
        write_json(run.environment, {**_environment(accelerator, recipe), **cost})
        write_json(run.metrics, metrics)
        write_figures(run)
        shutil.rmtree(run.checkpoints, ignore_errors=True)  # model/ has the best weights, and a finished run is not continued
        for split, values in metrics.items():
            low, high = values["accuracy_interval"]
            opened = " (opened once)" if split == "test" else ""
            journal.say(
                f"{split}{opened}: accuracy {values['accuracy']:.4f} [{low:.4f}, {high:.4f}], n = {values['n']:,}"
                f" · macro F1 {values['macro_f1']:.4f} · majority {values['majority_accuracy']:.4f}"
            )
    accelerator.wait_for_everyone()


def evaluate(run: RunDirectory, *, split: str, source: str | None = None, opened_by: str | None = "hftl evaluate") -> Predictions:
    """What a finished run's saved model says about a split of its recipe's data, or of the same data at `source`.

    Opening the test split again is written down in the run directory, and shown on the card; `opened_by` None: the run is not
    one's own, and nothing is written.

    Raises:
        RunError: the run is not finished, its data have no such split, or they are not those of the run.
    """
    if not run.finished:
        raise RunError(f"{run.path}: the run is not finished; there is no model to evaluate")
    recipe = run.load_recipe()
    source = source or recipe.data.source
    # The rows of then, where they come from the Hub and have moved on.
    revision = read_json(run.data).get("revision") if source == recipe.data.source else None
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source, "revision": revision})})
    if source.startswith(LOCAL):
        raise RunError(f"{run.path}: its data lay on the author's machine; with your copy: hftl verify {run.path} --data PATH")
    accelerator = make_accelerator(recipe, run)
    classifier = load_classifier(run.model)
    with accelerator.main_process_first():
        splits = load_splits(recipe.data, seed=recipe.run.seed)
        _check_same_data(splits, run)
        dataset = {"train": splits.train, "validation": splits.validation, "test": splits.test}.get(split)
        if dataset is None:
            raise RunError(f'the data of {run.path} have no split "{split}"')
        samples = make_samples(recipe, classifier, dataset, train=False)
    if split == "test" and opened_by is not None and accelerator.is_main_process:
        append_json_line(run.test_openings, {"time": now(), "by": opened_by})
    model = accelerator.prepare_model(classifier.model.to(accelerator.device), evaluation_mode=True)
    return _predict(model, samples, recipe, accelerator)


def make_accelerator(recipe: Recipe, run: RunDirectory) -> Accelerator:
    """Accelerate as the launcher set it up (processes, device, FSDP), with the recipe's number format and trackers.

    Raises:
        RecipeError: the machine cannot do what the recipe asks for, or a tracker is unknown or not installed.
    """
    state = process_state()
    precision = mixed_precision(recipe.run, state.device)
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
    return Accelerator(
        cpu=state.device.type == "cpu",
        mixed_precision=precision,
        step_scheduler_with_optimizer=False,
        log_with=list(recipe.run.trackers) or None,
        project_dir=str(run.path),
    )


def _claim(run: RunDirectory, recipe: Recipe, *, resume: bool) -> Path | None:
    """The checkpoint to resume from, or None to start; refuses to write over anything."""
    if run.path.exists() and not run.path.is_dir():
        raise RunError(f"{run.path} is a file; a run needs a folder of its own")
    if not resume:
        if run.path.exists() and any(run.path.iterdir()):
            if run.finished:
                raise RunError(f"{run.path} holds a finished run, which is never written over. Choose another place with --run-dir")
            raise RunError(f"{run.path} is not empty. Continue that run with --resume, or choose another place with --run-dir")
        return None
    if run.finished:
        raise RunError(f"{run.path}: this run is finished; there is nothing to resume")
    changed = [line for line in difference(run.load_recipe(), recipe) if not line.startswith(FREE_TO_CHANGE)]
    if changed:
        raise RunError(
            "\n".join([f"{run.path}: the recipe is not the one this run was started with:", *(f"  {line}" for line in changed)])
        )
    return latest_checkpoint(run.checkpoints)


def _check_batch_sizes(recipe: Recipe, accelerator: Accelerator) -> None:
    """A step's examples must be enough for every process and micro-batch."""
    parts = accelerator.num_processes * recipe.run.gradient_accumulation
    for name, stage in recipe.stages.items():
        if (stage.batch_size or recipe.run.batch_size) < parts:
            what = (
                f"fewer than the {accelerator.num_processes} processes x {recipe.run.gradient_accumulation} micro-batches of a step"
            )
            raise RecipeError.single(f"stages.{name}.batch_size", what)


def _predict(model: nn.Module, samples: Samples, recipe: Recipe, accelerator: Accelerator) -> Predictions:
    batches = evaluation_batches(
        samples,
        batch_size=recipe.run.evaluation_batch_size,
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
        workers=recipe.run.workers,
    )
    logits = predict_logits(model, batches, accelerator, size=len(samples))
    labels, sizes = np.asarray(samples.labels, dtype=np.int64), np.asarray(samples.sizes, dtype=np.int64)
    return Predictions(list(samples.ids), labels, logits, sizes=sizes, size_unit=samples.size_unit)


def _rank(validation: dict[str, float], recipe: Recipe) -> tuple[float, float]:
    """How good an epoch is, higher is better: the recipe's metric, then the log loss, which tells ties apart."""
    metric = recipe.run.metric
    if metric not in validation:
        raise RunError(f"run.metric: {metric} is undefined on the validation split, which lacks a class")
    value = validation[metric]
    return (-value if metric == "log_loss" else value, -validation["log_loss"])


def _sum_if_known(so_far: float | None, more: float | None) -> float | None:
    return None if so_far is None or more is None else so_far + more


def _is_patience_over(stage: Stage, epoch: int, best_epoch: int) -> bool:
    return stage.early_stopping is not None and epoch - best_epoch >= stage.early_stopping


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout depends on (seed, step, process) alone, so a continued run draws what the run in one piece would have drawn."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def _not_finite(loss: float, ids: list[str], stage: str, step: int) -> RunError:
    return RunError(
        f"stage {stage}, step {step + 1}: the loss is {loss}. The last checkpoint stands. A rate that is too high"
        f" is the usual cause, and then the run starts again with a lower one. Its examples here: {', '.join(ids)}"
    )


def _check_same_data(splits: Splits, run: RunDirectory) -> None:
    """Refuse to continue or compare a run on other rows than it was started with."""
    recorded = read_json(run.data).get("splits", {})
    changed = [name for name, facts in splits.facts["splits"].items() if facts != recorded.get(name)]
    if changed:
        raise RunError(f"{run.path}: the data are not those of this run any more (changed: {', '.join(changed)}; see data.json)")


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
        "precision": "bf16" if accelerator.mixed_precision == "bf16" else "fp32",
    }
