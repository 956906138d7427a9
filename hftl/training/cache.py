"""The boundary cache: what a frozen prefix makes of every example, computed once.

In a stage whose first groups are frozen, the activation that enters the first training group is the same in every epoch. It is
computed once, kept on disk (`hftl.store`) and read from there: in the epochs and evaluations of this stage, in later stages that
freeze as much or more, in a continued run, and in other runs. The key covers all that decides what it is: the weights of the
prefix, the model's configuration, the contents as the model gets them, the number format, the kind of device, and the versions of
the libraries that compute. With augmentation there are as many activations of a picture as it has views.

Texts are kept without their padding. A run in float32 keeps float32, and nothing is rounded. A run in bf16 keeps bf16: what enters
matrix products behind the boundary is rounded so anyway, what enters sums beside them is rounded here (by 0.4 % at the most). There
the best epoch of a stage is chosen by logits from rounded activations; the predictions at the end of a run, and the metrics that
are reported, are computed from the inputs, without the cache.

An entry that is gone is computed again to the same bits; in bf16 as long as the entry that it was computed from is there.

Shapes: N examples, B in a batch, T tokens of the longest, D features.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import uuid4

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from transformers import PreTrainedModel

from hftl import store
from hftl.data.batches import MANY, SHORT, SHORT_WIDTH, WIDTH
from hftl.data.content import content_of
from hftl.data.loader import Samples, evaluation_batches, transfer
from hftl.models.boundary import ACTIVATION, Boundary, BoundaryHooks
from hftl.models.chain import Chain
from hftl.recipe import Recipe
from hftl.store import SPARE, Builder, NoRoom, Rows
from hftl.training.average import average_bytes, trained_tensors
from hftl.training.checkpoint import KEPT, checkpoint_bytes
from hftl.training.experiment import Experiment
from hftl.training.journal import Journal
from hftl.training.machine import evaluation_batch_size, loader_workers, tokens_per_batch

if TYPE_CHECKING:
    from hftl.data.image import ImageSamples

if TYPE_CHECKING:  # both know this module
    from hftl.training.open_run import OpenRun
    from hftl.training.working import Working

_LAYOUT = "hftl-activations-2"  # part of the key: change it whenever what is stored changes, or how glove_modeling.py rounds
_LIBRARIES = ("torch", "transformers", "timm")
MARK_EVERY = 20
"""Batches between two notes of how far a build is; an interrupted one repeats at most so many."""
ATTEMPTS = 2
"""So often an entry is built where somebody removes the cache meanwhile; then the run goes without."""


class StoredSamples:
    """Samples of which the activation at a boundary is stored; what else they are, they stay.

    `views` is how many views a sample has: row ``index * views + epoch % views`` is what epoch `epoch` sees of it.
    """

    def __init__(self, samples: Samples, rows: Rows, boundary: Boundary, *, views: int) -> None:
        self.ids, self.targets, self.weights, self.lengths = samples.ids, samples.targets, samples.weights, samples.lengths
        self._samples, self._rows, self._boundary, self._views = samples, rows, boundary, views

    @property
    def sizes(self) -> Sequence[int] | np.ndarray:
        return self._samples.sizes

    @property
    def size_unit(self) -> Literal["tokens", "pixels"]:
        return self._samples.size_unit

    @property
    def fingerprint(self) -> str:
        return self._samples.fingerprint

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """The sample's stored row as "activation", and where the boundary is one of tokens, what the samples have themselves."""
        epoch, index = position
        own = self._samples[position] if self._boundary.per_token else {}
        return {**own, ACTIVATION: self._rows[index * self._views + epoch % self._views]}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The model's inputs with "activation", (B, T, D) or (B, ...); zeros where there is padding."""
        rows = [sample.pop(ACTIVATION) for sample in samples]
        if not self._boundary.per_token:
            return {ACTIVATION: _tensor(np.stack(rows))}
        batch = self._samples.collate(samples)
        mask = batch["attention_mask"].numpy().astype(bool)
        activation = np.zeros((*mask.shape, *self._boundary.shape), dtype=rows[0].dtype)
        for place, row in enumerate(rows):
            activation[place, mask[place]] = row
        return {**batch, ACTIVATION: _tensor(activation)}

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """The same inputs on `device`."""
        return transfer(inputs, device)


class _EveryView:
    """Samples with a row for each of their views, in the order of the stored rows."""

    def __init__(self, samples: Samples, views: int) -> None:
        self._samples, self._views = samples, views
        self.collate, self.to_device = samples.collate, samples.to_device
        self.lengths = None if samples.lengths is None else np.repeat(np.asarray(samples.lengths), views)
        self.targets = np.repeat(samples.targets, views, axis=0)
        self.weights: None = None  # nothing is learned from them

    def __len__(self) -> int:
        return len(self._samples) * self._views

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        _, row = position
        return self._samples[row % self._views, row // self._views]


def cached_samples(working: Working, experiment: Experiment, run: OpenRun) -> dict[str, Samples]:
    """The splits as the stage takes them, from the cache: what leaves frozen layers, and where those compute, decoded pictures.

    What is not there yet is built now, by all processes together; a signal interrupts it, and the next build goes on from there. A
    build leaves the model in evaluation mode. Where there is no room, or no one place, the journal says so, and the samples are
    returned as they are.
    """
    samples, recipe, chain = dict(experiment.samples), experiment.recipe, experiment.classifier.chain
    samples["train"] = experiment.training_samples(working.stage)
    boundary, model, progress = experiment.boundaries.get(working.stage.name), working.bare, run.progress
    accelerator, journal = run.accelerator, run.journal
    if not recipe.run.cache_gb:
        return samples
    # The disk's next checkpoints come first.
    stage = working.stage
    trained = trained_tensors(model, working.chain_of_copy, stage.trains)
    of_average = average_bytes(stage.average, trained, epochs=stage.epochs)
    spare = SPARE + (KEPT + 2) * checkpoint_bytes(model, optimizer_bytes=8 * model.num_parameters() + of_average)
    build = Build(
        recipe, accelerator, journal, run.stop_if_asked, spare, resumed=progress.cursor.epoch + progress.cursor.offset > 0
    )
    cached = dict(samples)
    if isinstance(boundary, Boundary) and accelerator.distributed_type is DistributedType.FSDP:
        journal.say("under FSDP, which keeps a model in pieces, frozen layers are computed in every epoch")
    elif isinstance(boundary, Boundary):
        place = {group: number for number, group in enumerate(chain.names)}
        before = [experiment.boundaries.get(stage) for stage in list(recipe.stages)[: progress.cursor.stage]]
        earlier = [other for other in before if isinstance(other, Boundary) and place[other.group] < place[boundary.group]]
        content = content_of(recipe.data)
        prefix = Prefix(build, model, chain, boundary, BoundaryHooks(model, boundary), earlier, progress.hashes)
        at_size = prefix
        if working.stage.image_size is not None and (own_boundary := experiment.training_boundary(working.stage)) is not None:
            at_size = replace(prefix, boundary=own_boundary, earlier=())  # what is stored of another size is no part of the way
        for split, own in samples.items():
            mixed = split == "train" and working.stage.mix is not None  # what is mixed is another picture in every step
            if (views := content.num_views(train=split == "train")) and not mixed:
                cached[split] = (at_size if split == "train" else prefix).stored(own, views)
    for own in cached.values():
        if own.size_unit == "pixels" and not isinstance(own, StoredSamples):
            build.decode(cast("ImageSamples", own))
    return cached


def where_from(samples: Mapping[str, Samples]) -> dict[str, str]:
    """For each split "stored" where what enters the stage's first training group is read from the cache; otherwise "computed"."""
    return {split: "stored" if isinstance(own, StoredSamples) else "computed" for split, own in samples.items()}


def loader_processes(samples: Samples, recipe: Recipe, accelerator: Accelerator) -> int:
    """How many processes load these samples for one training process."""
    if isinstance(samples, StoredSamples):  # there is nothing left to do for them
        return 0
    return loader_workers(
        recipe.run.workers,
        device=accelerator.device,
        pictures=samples.size_unit == "pixels",
        processes_here=int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes)),
    )


@dataclass(frozen=True)
class Build:
    """What all that a stage computes once has in common."""

    recipe: Recipe
    accelerator: Accelerator
    journal: Journal
    after_batch: Callable[[], None]
    spare: int
    """Bytes of the disk that stay free."""
    resumed: bool
    """The stage goes on in its middle."""

    @property
    def budget(self) -> float:
        return self.recipe.run.cache_gb * 1e9

    @property
    def bf16(self) -> bool:
        return str(self.accelerator.mixed_precision) == "bf16"

    @property
    def plan_of_batches(self) -> str:
        """What decides in which batches a prefix computes, and so how its sums round."""
        return plan_of_batches(self.recipe, self.accelerator)

    @property
    def tokens_per_batch(self) -> int:
        return tokens_per_batch(self.recipe, self.accelerator.device)

    def find(self, key: str) -> Rows | None:
        """The entry of a key where every process finds it; otherwise none of them has it."""
        rows = store.find(key)
        return rows if all(gather_object([rows is not None])) else None

    def decode(self, samples: ImageSamples) -> None:
        """Have the pictures decoded by the main process; the others look out for signals with it until that is done."""
        accelerator = self.accelerator

        def is_done(here: bool) -> bool:
            return float(accelerator.reduce(torch.tensor(float(here), device=accelerator.device), "sum")) > 0

        def poll_signals() -> None:
            is_done(False)
            self.after_batch()

        if accelerator.is_main_process:
            reason = samples.decode_once(budget=self.budget, spare=self.spare, after_batch=poll_signals)
            if reason is not None:
                self.journal.say(reason)
            is_done(True)
            _of_main(samples.decoded_key)
        else:
            while not is_done(False):
                self.after_batch()
            samples.find_decoded(_of_main(None))


@dataclass(frozen=True)
class Prefix:
    """The frozen part of a stage's model, where it ends, and where a stored activation may come from."""

    build: Build
    model: PreTrainedModel
    """In training, on its device."""
    chain: Chain
    boundary: Boundary
    hooks: BoundaryHooks
    earlier: Sequence[Boundary]
    """Boundaries of stages before this one that lie further up: what is stored there saves a part of the way. Not of later stages:
    what starts from an activation in bf16 rounds once more, and an entry must not depend on what else happens to be stored."""
    hashes: Mapping[str, Mapping[str, str]]
    """Hashes of the layer groups, see `hftl.training.proof`."""

    def stored(self, samples: Samples, views: int) -> Samples:
        """The samples with the activation at the boundary, from the store or computed now; as they are where there is no room."""
        key = self._key(self.boundary, samples, views)
        rows = self.build.find(key)
        for _ in range(ATTEMPTS if rows is None else 0):
            builder = self._begin(key, samples, views)
            if builder is None:
                return samples
            self._compute(builder, samples, views)
            rows = self._finish(builder, key)
            if rows is not None:
                break
            self.build.journal.say(f"the cache folder {store.cache_folder()} (HFTL_CACHE) was removed while it was written to")
        if rows is None:
            self.build.journal.say(f"what enters {self.boundary.group} is computed anew in every epoch")
            return samples
        self._see_number_format(samples)  # also after a build: one that was complete but for its last step computes nothing
        return StoredSamples(samples, rows, self.boundary, views=views)

    def _key(self, boundary: Boundary, samples: Samples, views: int) -> str:
        """Key of an entry."""
        frozen = self.chain.names[: self.chain.names.index(boundary.group)]
        return key_of_frozen(
            self.build.recipe,
            self.build.accelerator,
            self.model,
            {name: dict(self.hashes[name]) for name in frozen},
            samples,
            {
                "layout": _LAYOUT,
                "boundary": [boundary.group, boundary.entry_module, boundary.per_token, list(boundary.shape)],
                "views": views,
            },
        )

    def _begin(self, key: str, samples: Samples, views: int) -> Builder | None:
        """A new build, or one that was interrupted; None, and a line of the journal, where there is no room for it."""
        accelerator, boundary = self.build.accelerator, self.boundary
        every = _EveryView(samples, views)
        # Beside a run that builds the same at this moment, and not into its files.
        beside = _of_main(uuid4().hex if accelerator.is_main_process and store.is_being_built(key) else "")
        make = partial(
            Builder,
            key,
            lengths=np.asarray(every.lengths) if boundary.per_token else len(every),
            row_shape=boundary.shape,
            dtype=np.uint16 if self.build.bf16 else np.float32,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            batch_plan=f"{self.build.plan_of_batches}{beside}",
        )
        builder, reason = None, None
        if accelerator.is_main_process:
            try:
                builder = make(budget=self.build.budget, spare=self.build.spare)
            except NoRoom as full:
                reason = str(full)
        reason = _of_main(reason) or _why_not_shared(accelerator)
        if reason is None:
            return builder or make()
        if builder is not None:
            builder.discard()
        line = f"{reason} (run.cache_gb): what enters {boundary.group} is computed anew in every epoch"
        if self.build.resumed:
            line += "; if it came from the cache before the interruption, sums round differently from here on"
        self.build.journal.say(line)
        return None

    def _compute(self, builder: Builder, samples: Samples, views: int) -> None:
        """Write what this process computes of the activations, from the batch on that no process has marked."""
        build, accelerator, boundary = self.build, self.build.accelerator, self.boundary
        done = min(gather_object([builder.done]))  # `after_batch` is for all processes, as often for each of them
        what = f"what enters {boundary.group} is computed once, for {len(samples):,} examples"
        build.journal.say(what if not done else f"{what}: going on where it was interrupted")
        source, nearer = self._nearest(samples, views)
        if build.resumed and build.bf16 and self.earlier and nearer is None:  # one rounding less than from an activation
            build.journal.say("  if it came from another activation before the interruption, sums round differently from here on")
        batches = evaluation_batches(
            _EveryView(source, views),  # type: ignore[arg-type]  # as much of samples as a loader needs
            batch_size=evaluation_batch_size(build.recipe),
            tokens_per_batch=build.tokens_per_batch,
            processes=accelerator.num_processes,
            rank=accelerator.process_index,
            workers=loader_processes(source, build.recipe, accelerator),
            start=done,
        )
        self.model.eval()  # type: ignore[no-untyped-call]
        number = done
        try:
            for number, batch in enumerate(batches, start=done + 1):
                with torch.inference_mode(), accelerator.autocast():
                    activation = self.hooks.capture(batch.to(accelerator.device).inputs)
                stored = activation.to(torch.bfloat16 if build.bf16 else torch.float32).cpu().contiguous()
                values = stored.view(torch.uint16).numpy() if build.bf16 else stored.numpy()
                for place, (row, counts) in enumerate(zip(batch.index.tolist(), batch.weight.tolist(), strict=True)):
                    if counts:
                        real = batch.inputs["attention_mask"][place].numpy().astype(bool) if boundary.per_token else ...
                        builder.write(row, values[place][real])
                if number % MARK_EVERY == 0:
                    builder.mark(number)
                build.after_batch()
        except BaseException:
            builder.close()
            raise
        finally:
            if nearer is not None:
                nearer.close()
        builder.mark(number)

    def _nearest(self, samples: Samples, views: int) -> tuple[Samples, BoundaryHooks | None]:
        """Where to start from: the last activation on the way that is stored, or the samples themselves."""
        for earlier in sorted(self.earlier, key=lambda boundary: -self.chain.names.index(boundary.group)):
            rows = self.build.find(self._key(earlier, samples, views))
            if rows is not None:
                hooks = BoundaryHooks(self.model, earlier)
                return StoredSamples(samples, rows, earlier, views=views), hooks
        return samples, None

    def _finish(self, builder: Builder, key: str) -> Rows | None:
        """The whole entry, once all processes have written their part of it; None where somebody has removed it meanwhile."""
        accelerator = self.build.accelerator
        accelerator.wait_for_everyone()
        built, removed = None, False
        if accelerator.is_main_process:
            try:
                built = builder.finish()  # held until all have found it
            except store.Removed:
                removed = True
        if any(gather_object([removed])):
            builder.close()
            return None
        rows = self.build.find(key)
        del built
        return rows

    def _see_number_format(self, samples: Samples) -> None:
        """Show the hooks one activation, so that a stored one reaches the suffix in the format of a live one."""
        inputs = samples.to_device(samples.collate([samples[0, 0]]), self.build.accelerator.device)
        with torch.inference_mode(), self.build.accelerator.autocast():
            self.hooks.capture(inputs)


def plan_of_batches(recipe: Recipe, accelerator: Accelerator) -> str:
    """What decides in which batches frozen layers compute, and so how their sums round."""
    widths = f"{WIDTH} {MANY} {SHORT} {SHORT_WIDTH}"
    return f"{evaluation_batch_size(recipe)} {tokens_per_batch(recipe, accelerator.device)} {widths}"


def key_of_frozen(
    recipe: Recipe,
    accelerator: Accelerator,
    model: PreTrainedModel,
    weights: Mapping[str, Mapping[str, str]],
    samples: Samples,
    what: Mapping[str, Any],
) -> str:
    """Key of `what` frozen layers compute of samples; the main process, which reads every picture for it, tells the others.

    `weights` are the hashes of the layer groups that compute, see `hftl.training.proof`.
    """
    if not accelerator.is_main_process:
        return str(_of_main(None))
    # Names of classes and rates of dropout have no say in what a frozen layer computes.
    config = {
        name: value
        for name, value in model.config.to_dict().items()
        if name not in {"id2label", "label2id", "problem_type", "thresholds", "_name_or_path"} and "drop" not in name
    }
    key = store.key_of(
        {
            **what,
            "weights": weights,
            "model": [type(model).__name__, json.dumps(config, sort_keys=True, default=str)],
            "batches": plan_of_batches(recipe, accelerator),
            "samples": samples.fingerprint,
            "precision": str(accelerator.mixed_precision),
            "device": accelerator.device.type,
            "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        }
    )
    return str(_of_main(key))


def _of_main(value: str | None) -> str | None:
    """What the main process has, on every process."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def _why_not_shared(accelerator: Accelerator) -> str | None:
    """None where all processes see what one of them writes into the cache folder; otherwise a sentence."""
    if accelerator.num_processes == 1:
        return None
    trial = store.cache_folder() / f".seen-{_of_main(uuid4().hex)}"
    if accelerator.is_main_process:
        trial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        trial.touch()
    accelerator.wait_for_everyone()
    seen = all(gather_object([trial.exists()]))
    if accelerator.is_main_process:
        trial.unlink(missing_ok=True)
    return None if seen else f"the cache folder {store.cache_folder()} (HFTL_CACHE) is not on a disk that all processes share"


def _tensor(values: np.ndarray) -> torch.Tensor:
    """As they were stored: uint16 stands for bfloat16, which NumPy does not have."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
