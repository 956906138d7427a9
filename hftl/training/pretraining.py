"""Pretraining further on the texts of a task: masked language modelling of a recipe's transformer, `hftl pretrain`.

A short loop of its own beside the engine's: no stages, no classes, no validation metric, one set of weights. Read from `pretrain`
downwards. What is written is a checkpoint that recipes name as `model.checkpoint`, and in it provenance.json:

    {"pretraining": {"base": {...}, "texts": [...], "steps", "tokens", "held_out": [{"step", "loss"}], ..., "file"}}

While it is trained the folder has checkpoints/ alone. Each step depends on (seed, step, process), each mask on (seed, epoch, row),
so that a run that was stopped goes on bit for bit.

Devlin et al. 2019, arXiv:1810.04805; Sun et al. 2019, arXiv:1905.05583; Gururangan et al. 2020, arXiv:2004.10964.

Shapes: (B, T) rows of T tokens, of which M places are masked; V tokens of the vocabulary.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from rich.console import Console, ConsoleOptions, RenderResult
from torch import nn

from hftl.data.masked_text import MaskedRows
from hftl.environment import now, package_versions
from hftl.errors import RunError
from hftl.files import PARTIAL, check_name, fingerprint, flush, write_json
from hftl.models.attention import use_fast_dropout_attention
from hftl.models.fast_training import use_fast_training
from hftl.models.masked_lm import AtPlaces
from hftl.recipe import AdamW, LinearSchedule, Recipe, local_name
from hftl.records.pretraining import FILE, PRETRAINED
from hftl.run import RunDirectory
from hftl.signals import Stopped, deferred
from hftl.system import LOCK
from hftl.terminal import Say, Shown
from hftl.training.checkpoint import checkpoint_bytes, load_training_state, newest_checkpoint, read_state, save_checkpoint
from hftl.training.checks import number_format
from hftl.training.machine import (
    LEAST_SCALE,
    begin_scaling,
    disk_errors,
    explain_dead_processes,
    gradient_scale,
    process_state,
    tokens_per_batch,
)
from hftl.training.pretraining_task import PretrainSettings, Task, prepare
from hftl.training.stage import ParamGroup, decayed_parameters, make_optimizer, make_schedule
from hftl.training.step import seed_step, update
from hftl.training.threads import Threads
from hftl.training.together import one_answer
from hftl.training.watch import Watch
from hftl.wording import count, duration, size

CHECKPOINTS = "checkpoints"
MAX_GRAD_NORM = 1.0
POINTS = 200
"""Of the curve of losses that is kept, at most."""
SECONDS_QUIET = 20.0
"""Between two lines about how far it has come."""


@dataclass(frozen=True)
class Pretrained(Shown):
    """A checkpoint that was pretrained further."""

    path: Path
    """The folder: a recipe's `model.checkpoint`."""
    facts: dict[str, Any]
    """What provenance.json says of it."""

    @property
    def losses(self) -> list[float]:
        """On the masked places of the texts that were held out, in nats: at the start, after each epoch, and at the end."""
        return [measured["loss"] for measured in self.facts["held_out"]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, last, held_out = self.losses[0], self.losses[-1], count(self.facts["held_out_texts"], "text")
        yield f"{self.path}: {self.facts['tokens']:,} tokens, {count(self.facts['steps'], 'step')}"
        yield f"  loss at the masked places of {held_out} held out: {first:.3f} before, {last:.3f} after"
        yield f"  perplexity of a masked token: {math.exp(first):,.1f} before, {math.exp(last):,.1f} after"
        if last > first:
            rate = self.facts["lr"]
            yield f"  It guesses worse than before: take a lower rate, --lr {rate / 10:.2g} (it was {rate:.2g}), or more texts"


@dataclass(frozen=True)
class Place:
    """Where training stands: what a checkpoint says beside the weights."""

    asked: dict[str, Any]
    """What the run is of; it goes on as itself, or not at all."""
    step: int = 0
    since_point: tuple[float, int] = (0.0, 0)
    """Sum of the losses, and number, of the steps since the last point of the curve."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """{"step", "loss"} on the texts that are learned from."""
    held_out: list[dict[str, Any]] = field(default_factory=list)
    """The same on those that are held out; the first is of step 0."""
    seconds: float = 0.0
    threads: int | None = None
    sessions: int = 1

    @property
    def name(self) -> str:
        return f"{self.step:08d}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def after_step(self, loss: float, *, every: int) -> Place:
        """With one more step taken; of `every` steps the curve gets a point, their mean."""
        total, number, step = self.since_point[0] + loss, self.since_point[1] + 1, self.step + 1
        if step % every:
            return replace(self, step=step, since_point=(total, number))
        return replace(self, step=step, since_point=(0.0, 0), curve=[*self.curve, {"step": step, "loss": total / number}])


@explain_dead_processes()
def pretrain(recipe: Recipe, output: Path, settings: PretrainSettings, *, resume: bool = False, say: Say) -> Pretrained:
    """Pretrain the transformer of a recipe further on its training texts and `data.unlabelled`, and write it as a checkpoint.

    Signals are obeyed after the step in which they come, when a checkpoint is written.

    Args:
        output: a new folder.
        settings: how.
        resume: go on with one that was stopped, in this folder.
        say: is told, by the main process, how it goes.

    Raises:
        RecipeError: the recipe is not of texts and a transformer that guesses masked tokens.
        DataError: the texts cannot be read, or there is none to learn from.
        RunError: the folder holds something else, or training cannot go on.
        Stopped: a signal asked for it.
    """
    state = process_state(minutes=recipe.run.timeout_minutes)
    say = say if state.is_main_process else _silent
    with one_answer():
        check_output(output, resume=resume)
    task = prepare(recipe, settings, say)
    accelerator, folder = task.accelerator, RunDirectory(output)
    with (
        _locked(folder, accelerator, resume=resume),
        disk_errors(folder),
        deferred() as noted,
        Threads(accelerator.device) as threads,
    ):
        for line in task.said():
            say(line)
        place, checkpoint = _begin(task, output, say)
        for line in threads.choose(place.threads):
            say(line)
        last_saved = None if checkpoint is None else checkpoint.name
        watch = Watch(accelerator, noted, threads, minutes=recipe.run.checkpoint_minutes, last_saved=last_saved)
        training = open_training(task, checkpoint)
        place = _train(training, place, output, watch, say)
        facts = _facts(task, place)
        with one_answer():
            if accelerator.is_main_process:
                _write(training, facts, output)
        accelerator.free_memory(training.model, training.optimizer, training.schedule)
    result = Pretrained(output, facts)
    for line in str(result).splitlines():
        say(line)
    return result


def _silent(line: str) -> None:
    """Of several processes the main one speaks."""


# --- before the first step ----------------------------------------------------------------------------------------------------


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse a place that cannot be written, holds something else, or is finished.

    Raises:
        RunError: see above.
    """
    check_name(output)
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is a file; name a new folder")
    if (output / FILE).is_file():
        raise RunError(f"{output}: was pretrained to its end, and is not written over. Name another folder")
    begun = (output / CHECKPOINTS).is_dir()
    if resume and not begun:
        raise RunError(f"{output}: nothing to go on with (there is no {CHECKPOINTS}/ in it). Leave out --resume to start")
    if not resume and begun:
        raise RunError(f"{output}: was begun and stopped. Go on with --resume, or name another folder")
    if not resume and output.is_dir() and any(path.name != LOCK for path in output.iterdir()):
        raise RunError(f"{output} is not empty. Name a new folder")


@contextmanager
def _locked(folder: RunDirectory, accelerator: Accelerator, *, resume: bool) -> Iterator[None]:
    """Hold the folder for all processes; it is made."""
    with ExitStack() as held:
        with one_answer():
            if accelerator.is_main_process:
                held.enter_context(folder.lock())
                check_output(folder.path, resume=resume)  # once more: another process may have written it until now
                (folder.path / CHECKPOINTS).mkdir(exist_ok=True)
        yield


def _begin(task: Task, output: Path, say: Say) -> tuple[Place, Path | None]:
    """Where to begin: at the newest checkpoint, or at the first step."""
    checkpoint, passed_over = newest_checkpoint(output / CHECKPOINTS)
    for reason in passed_over:
        say(f"passed over the checkpoint {reason}")
    if checkpoint is None:
        needed = 3 * checkpoint_bytes(task.network.model, optimizer_bytes=8 * task.network.facts["parameters"])
        with one_answer():
            if (free := shutil.disk_usage(output).free) < needed:
                what = f"checkpoints take {size(needed)}, and {size(free)} are free"
                raise RunError(f"{output}: {what}. Make room, or name another disk")
        return Place(task.asked), None
    place = Place(**read_state(checkpoint, processes=task.accelerator.num_processes))
    before, now = dict(_flat(place.asked)), dict(_flat(json.loads(json.dumps(task.asked))))  # as it came back from the file
    changed = [f"  {key}: {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value]
    if changed:
        way_out = "  Go on without the change, or name another folder"
        raise RunError("\n".join([f"{output}: this is not what was begun there:", *changed, way_out]))
    say(f"continuing after step {place.step:,} of {task.steps:,}")
    total, number = place.since_point
    return replace(place, since_point=(total, number), sessions=place.sessions + 1), checkpoint


@dataclass(frozen=True)
class Training:
    """The network with its optimizer and schedule, as Accelerate has prepared them."""

    task: Task
    bare: AtPlaces
    """As it is called to measure: outside its wrapper, where several processes train."""
    model: nn.Module
    optimizer: AcceleratedOptimizer
    schedule: AcceleratedScheduler


def open_training(task: Task, checkpoint: Path | None) -> Training:
    """Make the network ready for its first step, or for the next one after a checkpoint."""
    accelerator, settings = task.accelerator, task.settings
    bare = task.network.model.to(accelerator.device)
    use_fast_dropout_attention(bare.network)
    if task.recipe.run.gradient_checkpointing:
        bare.network.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    if accelerator.num_processes == 1 and accelerator.device.type == "cpu":  # DDP waits for every gradient to come from autograd
        use_fast_training(bare)
    decayed = decayed_parameters(bare)
    names = [name for name, parameter in bare.named_parameters() if parameter.requires_grad]
    groups = [
        ParamGroup("decayed", tuple(n for n in names if n in decayed), task.lr, settings.weight_decay, l1=0.0, hidden=False),
        ParamGroup("others", tuple(n for n in names if n not in decayed), task.lr, weight_decay=0.0, l1=0.0, hidden=False),
    ]
    optimizer = make_optimizer(AdamW(), bare, groups, lr=task.lr)
    schedule = make_schedule(optimizer, LinearSchedule(warmup=settings.warmup), steps=task.steps, steps_per_epoch=task.steps)
    model, optimizer, schedule = accelerator.prepare(bare, optimizer, schedule)
    if checkpoint is None:
        begin_scaling(accelerator)
    else:
        load_training_state(checkpoint, accelerator)
    return Training(task, bare, model, optimizer, schedule)


# --- training -----------------------------------------------------------------------------------------------------------------


def _train(training: Training, place: Place, output: Path, watch: Watch, say: Say) -> Place:
    """Take the steps that are left, measure after each epoch, write checkpoints, and stop where a signal has come."""
    task, accelerator = training.task, training.task.accelerator
    began, before, said_at, first = time.monotonic(), place.seconds, time.monotonic(), place.step

    def save() -> None:
        nonlocal place
        saving = time.monotonic()
        place = replace(place, seconds=before + saving - began, threads=torch.get_num_threads())
        with _tied_weights_are_no_news():
            save_checkpoint(output / CHECKPOINTS, accelerator, place, {})
        watch.saved(place, seconds=time.monotonic() - saving)

    if not place.held_out:
        place = _measure(training, place, say)
    while place.step < task.steps:
        loss = take_step(training, place.step)
        place = place.after_step(loss, every=max(1, task.steps // POINTS))
        if task.ends_epoch(place.step) or place.step == task.steps:
            place = _measure(training, place, say)
        if time.monotonic() - said_at > SECONDS_QUIET:
            said_at, taken = time.monotonic(), place.step - first
            seconds = (said_at - began) / taken  # a step, measuring and saving included
            rate, left = task.tokens_per_step / seconds, duration((task.steps - place.step) * seconds)
            say(f"step {place.step:,} of {task.steps:,}: loss {loss:.3f}, {rate:,.0f} tokens a second, about {left} left")
        if place.step == task.steps or watch.is_due():
            save()
        for line in watch.threads.adapt():
            say(line)
        if (signal := watch.signal()) is not None:
            if watch.last_saved != place.name:
                save()
            say(f"stopped after step {place.step:,}; saved. The same command goes on with --resume")
            raise Stopped(signal, saved=True)
    return place


def _measure(training: Training, place: Place, say: Say) -> Place:
    """With the loss on the texts that are held out."""
    loss = held_out_loss(training)
    epochs = place.step * training.task.batch_size / len(training.task.text)
    say(f"after {epochs:.3g} epochs, step {place.step:,}: loss {loss:.4f} on texts held out, perplexity {math.exp(loss):,.1f}")
    return replace(place, held_out=[*place.held_out, {"step": place.step, "loss": loss}])


def take_step(training: Training, step: int) -> float:
    """Train on the rows of a step, counted from 0; the mean loss at its masked places, over all processes.

    Raises:
        RunError: the loss or its gradient is no longer finite.
    """
    task, accelerator = training.task, training.task.accelerator
    seed, share = task.recipe.run.seed, task.settings.mask
    seed_step(seed, step, accelerator.process_index)
    training.model.train()
    own = task.text.at_step(step, task.batch_size, seed=seed)[accelerator.process_index :: accelerator.num_processes]
    at_once = task.rows_at_once(len(own))
    pieces = [task.text.masked(own[start : start + at_once], seed=seed, share=share) for start in range(0, len(own), at_once)]
    masked = torch.tensor(float(sum(len(piece.places) for piece in pieces)), device=accelerator.device)
    masked = accelerator.reduce(masked, "sum").clamp(min=1)
    loss_sum = torch.zeros((), device=accelerator.device)
    for number, piece in enumerate(pieces, 1):
        with accelerator.no_sync(training.model) if number < len(pieces) else nullcontext():
            # The places of the whole step divide; DDP divides by the processes once more.
            loss = _losses(training.model, piece, accelerator.device) / masked
            accelerator.backward(loss * accelerator.num_processes)
        loss_sum += loss.detach()
    value = float(accelerator.reduce(loss_sum, "sum"))
    grad_norm = float(accelerator.clip_grad_norm_(training.model.parameters(), MAX_GRAD_NORM))
    helpless = not math.isfinite(grad_norm) and gradient_scale(accelerator) <= LEAST_SCALE
    if not math.isfinite(value) or helpless:
        what = f"the loss is {value}" if not math.isfinite(value) else f"the norm of the gradient is {grad_norm}"
        raise RunError(f"step {step + 1}: {what}. The last checkpoint stands. A rate that is too high is the usual cause: --lr")
    update(accelerator, training.optimizer, training.schedule)
    return value


@torch.no_grad()
def held_out_loss(training: Training) -> float:
    """The mean loss at the masked places of the texts that were held out, whose masks are always the same."""
    task, accelerator = training.task, training.task.accelerator
    training.bare.eval()
    own = range(accelerator.process_index, len(task.held_out), accelerator.num_processes)
    at_once = max(1, tokens_per_batch(task.recipe, accelerator.device) // task.held_out.length)
    loss_sum, number = torch.zeros((), device=accelerator.device), 0
    for start in range(0, len(own), at_once):
        piece = task.held_out.held_out(own[start : start + at_once], share=task.settings.mask)
        loss_sum += _losses(training.bare, piece, accelerator.device)
        number += len(piece.places)
    total, places = accelerator.reduce(torch.stack([loss_sum, torch.tensor(float(number)).to(loss_sum)]), "sum").tolist()
    return float(total / places)


def _flat(asked: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a run is of, option by option."""
    for key, value in asked.items():
        yield from value.items() if isinstance(value, dict) else ((key, value),)


def _losses(model: nn.Module, rows: MaskedRows, device: torch.device) -> torch.Tensor:
    """The sum of the losses at the masked places, float32."""
    inputs, places, targets = (torch.from_numpy(some).to(device) for some in (rows.inputs, rows.places, rows.targets))
    logits = model(inputs, places)  # (M, V)
    return nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


@contextmanager
def _tied_weights_are_no_news() -> Iterator[None]:
    """Accelerate warns of the head's matrix, which is that of the embeddings and is stored once, at each checkpoint."""
    log = logging.getLogger("accelerate.utils.other")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


# --- after the last step ------------------------------------------------------------------------------------------------------


def _facts(task: Task, place: Place) -> dict[str, Any]:
    recipe = task.recipe
    options = (f" --{name} {value:g}" for name in ("epochs", "tokens", "lr") if (value := getattr(task.settings, name)) is not None)
    digests = task.asked["texts"].values()
    return {
        "base": task.network.facts,
        "texts": [
            {"name": local_name(some.name), "texts": len(some.dataset), "left_out": dict(some.left_out), "sha256": digest}
            for some, digest in zip(task.found, digests, strict=True)
        ],
        "held_out_texts": task.held_out.texts,
        "settings": task.settings.model_dump(),
        "command": f"hftl pretrain {recipe.name}{''.join(options)}",
        "lr": task.lr,
        "seed": recipe.run.seed,
        "length": task.text.length,
        "batch_size": task.batch_size,
        "rows": len(task.text),
        "steps": place.step,
        "tokens": place.step * task.tokens_per_step,
        "number_format": number_format(task.accelerator),
        "processes": task.accelerator.num_processes,
        "held_out": place.held_out,
        "curve": place.curve,
        "seconds": place.seconds,
        "sessions": place.sessions,
        "versions": {name: version for name, version in package_versions().items() if version is not None},
        "time": now(),
    }


def _write(training: Training, facts: dict[str, Any], output: Path) -> None:
    """Write the checkpoint: provenance.json is last, and only then what it was trained from goes."""
    beside = output / f"model{PARTIAL}"
    shutil.rmtree(beside, ignore_errors=True)
    training.bare.to("cpu")
    training.task.network.save(beside)
    files = sorted(beside.iterdir())
    for file in files:
        flush(file)
        file.replace(output / file.name)
    beside.rmdir()
    weights = next(file.name for file in files if file.suffix == ".safetensors")
    facts["file"] = fingerprint(output / weights)
    write_json(output / FILE, {PRETRAINED: facts})
    shutil.rmtree(output / CHECKPOINTS)


# --- the plan -----------------------------------------------------------------------------------------------------------------

MEASURED = 3
"""Steps that are measured, after one that is not."""


@dataclass(frozen=True)
class PretrainingPlan(Shown):
    """What pretraining would cost here, by a few real steps."""

    lines: Sequence[str]
    steps: int
    tokens: int
    tokens_per_second: float
    memory: int
    """Bytes: on a GPU the most that was allocated, else those of this process after the steps."""

    @property
    def seconds(self) -> float:
        """Of all steps; what measuring and saving take is not in it."""
        return self.tokens / self.tokens_per_second

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines
        rate = f"{self.tokens_per_second:,.0f} tokens a second here, by {MEASURED} steps"
        yield f"{rate}: about {duration(self.seconds)}; memory {size(self.memory)}"


def plan_pretraining(recipe: Recipe, settings: PretrainSettings, say: Say) -> PretrainingPlan:
    """What `pretrain` would do and how long that would take. A few steps are taken, and thrown away.

    Raises:
        RecipeError, DataError: as `pretrain`.
    """
    state = process_state(minutes=recipe.run.timeout_minutes)
    task = prepare(recipe, settings, say if state.is_main_process else _silent)
    device = task.accelerator.device

    def steps(numbers: range) -> float:
        began = time.perf_counter()
        for number in numbers:
            take_step(training, number)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - began

    with Threads(device) as threads:
        threads.choose()
        training = open_training(task, None)
        steps(range(1))
        rate = MEASURED * task.tokens_per_step / steps(range(1, 1 + MEASURED))
    task.accelerator.free_memory(training.model, training.optimizer, training.schedule)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return PretrainingPlan(list(task.said()), task.steps, task.tokens, rate, memory)
