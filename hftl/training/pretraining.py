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

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from accelerate.utils import set_seed
from pydantic import Field, model_validator
from rich.console import Console, ConsoleOptions, RenderResult
from torch import nn

from hftl.data.masked_text import MaskedRows, PackedText, pack
from hftl.data.unlabelled import Texts, hold_out, read_unlabelled
from hftl.environment import now, package_versions
from hftl.errors import DataError, RecipeError, RunError
from hftl.files import check_name, fingerprint, flush, write_json
from hftl.models import masked_lm
from hftl.models.attention import use_fast_dropout_attention
from hftl.models.fast_training import use_fast_training
from hftl.models.masked_lm import AtPlaces, MaskedLanguageModel
from hftl.recipe import AdamW, LinearSchedule, Recipe, TextData, Transformer, Windows
from hftl.recipe.section import Fraction, Positive, Section
from hftl.records.pretraining import FILE, PRETRAINED
from hftl.run import RunDirectory
from hftl.signals import Stopped, deferred
from hftl.terminal import Say, Shown
from hftl.training.checkpoint import checkpoint_bytes, load_training_state, newest_checkpoint, read_state, save_checkpoint
from hftl.training.checks import number_format
from hftl.training.experiment import read_data
from hftl.training.machine import (
    LEAST_SCALE,
    begin_scaling,
    disk_errors,
    explain_dead_processes,
    gradient_scale,
    make_accelerator,
    process_state,
    tokens_per_batch,
)
from hftl.training.stage import ParamGroup, decayed_parameters, make_optimizer, make_schedule
from hftl.training.step import seed_step, update
from hftl.training.threads import Threads
from hftl.training.together import check_same, main_first, one_answer
from hftl.training.watch import Watch
from hftl.wording import count, duration, listed, size

CHECKPOINTS = "checkpoints"
MAX_GRAD_NORM = 1.0
LOGGED = 200
"""Points of the curve of losses that is kept, at most."""
SECONDS_QUIET = 20.0
"""Between two lines about how far it has come."""


class PretrainSettings(Section):
    """How a model is pretrained further."""

    epochs: Annotated[float, Field(gt=0.0)] | None = None
    """Passes over the texts. None: 1, unless `tokens` says how many."""
    tokens: Positive | None = None
    """Instead of epochs: tokens that are read in all."""
    lr: Annotated[float, Field(gt=0.0)] | None = None
    """Highest learning rate. None: 1e-4 from 60 million parameters on, else 3e-4; three times that from random weights."""
    warmup: Fraction = 0.06
    """Share of the steps over which the rate rises from 0; then it falls to 0 in a line."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    mask: Annotated[float, Field(gt=0.0, le=0.5)] = 0.15
    """Share of the tokens that are masked, by whole words."""

    @classmethod
    def _title(cls, values: Any) -> str:
        return "the settings of pretraining"

    @model_validator(mode="after")
    def _one_budget(self) -> PretrainSettings:
        if self.epochs is not None and self.tokens is not None:
            raise ValueError("epochs and tokens both say how long it is trained; leave one out")
        return self


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


@dataclass(frozen=True)
class Place:
    """Where training stands: what a checkpoint says beside the weights."""

    asked: dict[str, Any]
    """What the run is of; it goes on as itself, or not at all."""
    step: int = 0
    logged: tuple[float, int] = (0.0, 0)
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


@dataclass(frozen=True)
class Task:
    """What is to be done, before anything is trained."""

    recipe: Recipe
    settings: PretrainSettings
    found: list[Texts]
    network: MaskedLanguageModel
    text: PackedText
    held_out: PackedText
    accelerator: Accelerator
    asked: dict[str, Any]

    @property
    def batch_size(self) -> int:
        """Rows of a step, over all processes."""
        return self.recipe.run.batch_size

    @property
    def steps(self) -> int:
        tokens = self.settings.tokens
        rows = (self.settings.epochs or 1) * len(self.text) if tokens is None else tokens / self.text.length
        return max(1, round(rows / self.batch_size))

    @property
    def tokens(self) -> int:
        """That are read in all."""
        return self.steps * self.batch_size * self.text.length

    @property
    def lr(self) -> float:
        facts = self.network.facts
        rate = 1e-4 if facts["parameters"] >= 60_000_000 else 3e-4
        return self.settings.lr or (rate if facts["pretrained"] else 3 * rate)

    def rows_at_once(self, rows: int) -> int:
        """Of `rows` of a step that one process has those of a micro-batch."""
        fit = tokens_per_batch(self.recipe, self.accelerator.device) // self.text.length
        return max(1, min(fit, -(-rows // self.recipe.run.gradient_accumulation)))

    def said(self) -> Iterator[str]:
        """Lines about it."""
        for some in self.found:
            yield some.said
        text, facts = self.text, self.network.facts
        yield (
            f"{count(text.texts, 'text')} in {count(len(text), 'row')} of {text.length} tokens, and"
            f" {self.held_out.texts:,} held out in {count(len(self.held_out), 'row')} to measure the loss by"
        )
        if new := facts["new_parameters"]:
            yield f"the checkpoint has no head that guesses masked tokens: {listed(new, 3)} begin at random"
        times = self.tokens / (len(text) * text.length)
        yield (
            f"{self.tokens:,} tokens, {times:.2g} times the texts: {count(self.steps, 'step')} of {count(self.batch_size, 'row')},"
            f" rate {self.lr:g}, {self.settings.mask:.0%} of the tokens masked"
        )
        if self.recipe.run.compile:
            yield "run.compile is for `hftl train` alone: nothing is compiled here"


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
    folder = RunDirectory(output)
    check_output(output, resume=resume)
    process_state(minutes=recipe.run.timeout_minutes)
    task = prepare(recipe, settings, say)
    accelerator = task.accelerator
    say = say if accelerator.is_main_process else lambda line: None
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
        watch = Watch(
            accelerator,
            noted,
            threads,
            minutes=recipe.run.checkpoint_minutes,
            last_saved=None if checkpoint is None else checkpoint.name,
        )
        trained = open_training(task, checkpoint)
        place = _train(trained, place, output, watch, say)
        with one_answer():
            if accelerator.is_main_process:
                facts = _write(task, place, output)
        accelerator.wait_for_everyone()
        accelerator.free_memory(trained.model, trained.optimizer, trained.schedule)
    facts = facts if accelerator.is_main_process else _facts(task, place)
    result = Pretrained(output, facts)
    for line in str(result).splitlines():
        say(line)
    return result


# --- before -------------------------------------------------------------------------------------------------------------------


def prepare(recipe: Recipe, settings: PretrainSettings, say: Say) -> Task:
    """Read the texts and build the network; nothing is written."""
    data, model = recipe.data, recipe.model
    if not isinstance(data, TextData):
        raise RecipeError.single("data.kind", "pictures have no words to mask", "name a recipe of texts", source=recipe.name)
    if not isinstance(model, Transformer):
        what = f"{model.family} has no head that guesses masked tokens"
        help = "word vectors are learned with `hftl vectors`; here name a recipe of a transformer"
        raise RecipeError.single("model.family", what, help, source=recipe.name)
    length = data.windows.length if isinstance(data.windows, Windows) else data.max_length
    with one_answer():
        accelerator = make_accelerator(recipe, None)
        if accelerator.is_fsdp2:
            raise RunError("FSDP: pretraining does not shard. Use recipes/accelerate/multi_gpu.yaml")
    with main_first():
        undivided = read_data(recipe)
        found = read_unlabelled(data, undivided, undivided.divided(data, seed=recipe.run.seed), say)
        set_seed(recipe.run.seed)
        network = masked_lm.build(model, length=length)
        try:
            kept, held = hold_out(found, seed=recipe.run.seed)
        except ValueError as error:
            what = f"no text to learn from: {error}, and the loss is measured on some that are not learned from"
            raise DataError.single("data.unlabelled", what, "name more texts: data.unlabelled", source=data.source) from None
    text, held_out = (pack((t for some in side for t in some.texts), network.tokenizer, length=length) for side in (kept, held))
    for side in (text, held_out):
        if not (side.kinds > 0).any():
            raise DataError.single("data.source", "the tokenizer finds no word in the texts", source=data.source)
    parts = accelerator.num_processes * recipe.run.gradient_accumulation
    if recipe.run.batch_size < parts:
        raise RecipeError.single(
            "run.batch_size", f"fewer rows than the {parts} parts of a step (processes x run.gradient_accumulation)"
        )
    asked = {
        "settings": settings.model_dump(),
        "run": {key: getattr(recipe.run, key) for key in ("seed", "batch_size", "gradient_accumulation", "tokens_per_batch")},
        "number format": number_format(accelerator),
        "length": length,
        "texts": {some.name: some.sha256 for some in found},
        "model": {**network.facts, "dropout": model.dropout},
        "rows": [len(text), len(held_out)],
    }
    check_same(asked)
    return Task(recipe, settings, found, network, text, held_out, accelerator, asked)


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
    if not resume and output.is_dir() and any(output.iterdir()):
        raise RunError(f"{output} is not empty. Name a new folder")


@contextmanager
def _locked(folder: RunDirectory, accelerator: Accelerator, *, resume: bool) -> Iterator[None]:
    """Hold the folder for all processes; it is made."""
    with ExitStack() as held:
        with one_answer():
            if accelerator.is_main_process:
                check_output(folder.path, resume=resume)  # once more: another process may have written it until now
                held.enter_context(folder.lock())
                (folder.path / CHECKPOINTS).mkdir(exist_ok=True)
        yield


def _begin(task: Task, output: Path, say: Say) -> tuple[Place, Path | None]:
    """Where to begin: at the newest checkpoint, or at the first step."""
    accelerator = task.accelerator
    checkpoint, passed_over = newest_checkpoint(output / CHECKPOINTS)
    for reason in passed_over:
        say(f"passed over the checkpoint {reason}")
    if checkpoint is None:
        with one_answer():
            needed = 3 * checkpoint_bytes(task.network.model, optimizer_bytes=8 * task.network.facts["parameters"])
            if (free := shutil.disk_usage(output).free) < needed:
                raise RunError(
                    f"{output}: checkpoints take {size(needed)}, and {size(free)} are free. Make room, or name another disk"
                )
        return Place(task.asked), None
    place = Place(**read_state(checkpoint, processes=accelerator.num_processes))
    changed = [
        f"  {key}: {place.asked[key]} -> {value}" for key, value in _as_json(task.asked).items() if place.asked.get(key) != value
    ]
    if changed:
        raise RunError(
            "\n".join([f"{output}: this is not what was begun there:", *changed, "  Go on without the change, or elsewhere"])
        )
    say(f"continuing after step {place.step:,} of {task.steps:,}")
    return replace(place, logged=tuple(place.logged), sessions=place.sessions + 1), checkpoint


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """As a file gives them back: lists for tuples."""
    import json

    read: dict[str, Any] = json.loads(json.dumps(values))
    return read


# --- training -----------------------------------------------------------------------------------------------------------------


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
        bare.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if accelerator.num_processes == 1 and accelerator.device.type == "cpu":
        use_fast_training(bare)
    decayed = decayed_parameters(bare)
    names = [name for name, parameter in bare.named_parameters() if parameter.requires_grad]
    groups = [
        ParamGroup("decayed", tuple(n for n in names if n in decayed), task.lr, settings.weight_decay, l1=0.0, hidden=False),
        ParamGroup("others", tuple(n for n in names if n not in decayed), task.lr, 0.0, l1=0.0, hidden=False),
    ]
    optimizer = make_optimizer(AdamW(), bare, groups, lr=task.lr)
    schedule = make_schedule(optimizer, LinearSchedule(warmup=settings.warmup), steps=task.steps, steps_per_epoch=task.steps)
    model, optimizer, schedule = accelerator.prepare(bare, optimizer, schedule)
    if checkpoint is None:
        begin_scaling(accelerator)
    else:
        load_training_state(checkpoint, accelerator)
    return Training(task, bare, model, optimizer, schedule)


def _train(training: Training, place: Place, output: Path, watch: Watch, say: Say) -> Place:
    """Take the steps that are left, measure after each epoch, and write checkpoints."""
    task, accelerator = training.task, training.task.accelerator
    began, before, said_at, first = time.monotonic(), place.seconds, time.monotonic(), place.step
    every = max(1, task.steps // LOGGED)

    def so_far() -> Place:
        return replace(place, seconds=before + time.monotonic() - began, threads=torch.get_num_threads())

    def save() -> None:
        saving = time.monotonic()
        with _tied_weights_are_no_news():
            save_checkpoint(output / CHECKPOINTS, accelerator, so_far(), {})
        watch.saved(place, seconds=time.monotonic() - saving)

    def stop_if_asked() -> None:
        for line in watch.threads.adapt():
            say(line)
        if (signal := watch.signal()) is not None:
            if watch.last_saved != place.name:
                save()
            say(f"stopped after step {place.step:,}; saved. The same command goes on with --resume")
            raise Stopped(signal, saved=True)

    def measured() -> Place:
        loss = held_out_loss(training)
        done = place.step * task.batch_size / len(task.text)
        say(f"after {done:.3g} epochs, step {place.step:,}: loss {loss:.4f} on texts held out, perplexity {math.exp(loss):,.1f}")
        return replace(place, held_out=[*place.held_out, {"step": place.step, "loss": loss}])

    if not place.held_out:
        place = measured()
    while place.step < task.steps:
        loss = take_step(training, place.step)
        total, number = place.logged[0] + loss, place.logged[1] + 1
        place = replace(place, step=place.step + 1, logged=(total, number))
        if place.step % every == 0:
            point = {"step": place.step, "loss": total / number}
            place = replace(place, logged=(0.0, 0), curve=[*place.curve, point])
        ends_epoch = place.step * task.batch_size // len(task.text) > (place.step - 1) * task.batch_size // len(task.text)
        if ends_epoch or place.step == task.steps:
            place = measured()
        if (seconds := time.monotonic() - began) and time.monotonic() - said_at > SECONDS_QUIET:
            said_at, taken = time.monotonic(), place.step - first
            rate = taken * task.batch_size * task.text.length / seconds
            left = duration((task.steps - place.step) * seconds / taken)
            say(f"step {place.step:,} of {task.steps:,}: loss {loss:.3f}, {rate:,.0f} tokens a second, about {left} left")
        if place.step == task.steps or watch.is_due():
            save()
        stop_if_asked()
    return so_far()


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
    masked = accelerator.reduce(masked, "sum")
    loss_sum = torch.zeros((), device=accelerator.device)
    for number, piece in enumerate(pieces, 1):
        with accelerator.no_sync(training.model) if number < len(pieces) else ExitStack():
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
    sums = torch.zeros(2, dtype=torch.float64 if accelerator.device.type != "mps" else torch.float32, device=accelerator.device)
    for start in range(0, len(own), at_once):
        piece = task.held_out.held_out(own[start : start + at_once], share=task.settings.mask)
        sums += torch.stack([_losses(training.bare, piece, accelerator.device).to(sums), sums.new_tensor(len(piece.places))])
    total, number = accelerator.reduce(sums, "sum").tolist()
    return float(total / number)


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


# --- after --------------------------------------------------------------------------------------------------------------------


def _facts(task: Task, place: Place) -> dict[str, Any]:
    recipe, settings = task.recipe, task.settings
    options = "".join(
        f" --{name} {value:g}"
        for name, value in settings.model_dump().items()
        if value is not None and name in ("epochs", "tokens", "lr")
    )
    return {
        "base": task.network.facts,
        "texts": [
            {"name": _place(some.name), "texts": len(some.dataset), "left_out": dict(some.left_out), "sha256": digest}
            for some, digest in zip(task.found, task.asked["texts"].values(), strict=True)
        ],
        "held_out_texts": task.held_out.texts,
        "settings": settings.model_dump(),
        "command": f"hftl pretrain {recipe.name}{options}",
        "lr": task.lr,
        "seed": recipe.run.seed,
        "length": task.text.length,
        "batch_size": task.batch_size,
        "rows": len(task.text),
        "steps": place.step,
        "tokens": place.step * task.batch_size * task.text.length,
        "number_format": number_format(task.accelerator),
        "processes": task.accelerator.num_processes,
        "held_out": place.held_out,
        "curve": place.curve,
        "seconds": place.seconds,
        "sessions": place.sessions,
        "versions": {name: version for name, version in package_versions().items() if version is not None},
        "time": now(),
    }


def _place(name: str) -> str:
    """What texts are called: a split's name, or that of a file without where it lies."""
    return Path(name).name if "/" in name or "\\" in name else name


def _write(task: Task, place: Place, output: Path) -> dict[str, Any]:
    """Write the checkpoint, whole or not at all: provenance.json is last, and only then what it was trained from goes."""
    beside = output / "model.partial"
    shutil.rmtree(beside, ignore_errors=True)
    task.network.model.to("cpu")
    task.network.save(beside)
    files = sorted(beside.iterdir())
    for file in files:
        flush(file)
        file.replace(output / file.name)
    beside.rmdir()
    weights = sorted(file.name for file in files if file.suffix == ".safetensors")
    facts = {**_facts(task, place), "file": fingerprint(output / weights[0])}
    write_json(output / FILE, {PRETRAINED: facts})
    shutil.rmtree(output / CHECKPOINTS)
    return facts


# --- the plan -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PretrainingPlan(Shown):
    """What pretraining would cost here, by a few real steps."""

    lines: Sequence[str]
    steps: int
    tokens: int
    tokens_per_second: float
    memory: int
    """Bytes of this process after them."""

    @property
    def seconds(self) -> float:
        return self.tokens / self.tokens_per_second

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.lines
        yield f"{self.tokens_per_second:,.0f} tokens a second here: about {duration(self.seconds)}; memory {size(self.memory)}"


MEASURED = 3
"""Steps that are measured, after one that is not."""


def plan_pretraining(recipe: Recipe, settings: PretrainSettings, say: Say) -> PretrainingPlan:
    """What `pretrain` would do and how long that would take. A few steps are taken, and thrown away.

    Raises:
        RecipeError, DataError: as `pretrain`.
    """
    process_state(minutes=recipe.run.timeout_minutes)
    task = prepare(recipe, settings, say)
    with Threads(task.accelerator.device) as threads:
        threads.choose()
        training = open_training(task, None)
        take_step(training, 0)
        began = time.perf_counter()
        for step in range(1, 1 + MEASURED):
            take_step(training, step)
        if task.accelerator.device.type != "cpu":
            torch.accelerator.synchronize(task.accelerator.device)
        seconds = time.perf_counter() - began
    task.accelerator.free_memory(training.model, training.optimizer, training.schedule)
    rate = MEASURED * task.batch_size * task.text.length / seconds
    memory = psutil.Process().memory_info().rss
    if task.accelerator.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(task.accelerator.device)
    return PretrainingPlan(list(task.said()), task.steps, task.tokens, rate, memory)
