"""The boundary cache: what a frozen prefix makes of every example, computed once.

In a stage whose first groups are frozen, the activation that enters the first training group is the same in every epoch. It is
computed once, kept on disk (`hftl.store`) and read from there: in the epochs and evaluations of this stage, in later stages that
freeze as much or more, in a continued run, and in other runs. The key covers all that decides what it is: the weights of the
prefix, the model's configuration, the contents as the model gets them, the number format, the kind of device, and the versions of
the libraries that compute. With augmentation there are as many activations of a picture as it has views.

Texts are kept without their padding. In bf16 the activation is rounded to bf16, as the first matrix product behind the boundary
would round it; in float32 nothing is rounded.

Shapes: N examples, B in a batch, T tokens of the longest, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from transformers import PreTrainedModel

from hftl import store
from hftl.data.loader import Samples, evaluation_batches, transfer
from hftl.errors import RunError
from hftl.models.boundary import ACTIVATION, Boundary, Doorway
from hftl.models.chain import Chain
from hftl.recipe import Recipe
from hftl.store import Builder, Rows, why_no_room

_LAYOUT = "hftl-activations-1"  # part of the key: change it whenever what is stored changes
_LIBRARIES = ("torch", "transformers", "timm")
MARK_EVERY = 20
"""Batches between two notes of how far a build is; an interrupted one repeats at most so many."""


@dataclass(frozen=True)
class Prefix:
    """The frozen part of a stage's model, where it ends, and where a stored activation may come from."""

    model: PreTrainedModel
    """In training, on its device."""
    chain: Chain
    boundary: Boundary
    doorway: Doorway
    earlier: Sequence[Boundary]
    """Boundaries of other stages that lie further up: what is stored there saves a part of the way."""
    hashes: Mapping[str, Mapping[str, str]]
    """Of the layer groups, see `hftl.training.proof`."""


class StoredSamples:
    """Samples of which the activation at a boundary is stored; what else they are, they stay.

    `views` is how many looks a sample has: row ``index * views + epoch % views`` is what epoch `epoch` sees of it.
    """

    def __init__(self, samples: Samples, rows: Rows, boundary: Boundary, *, views: int) -> None:
        self.ids, self.labels, self.lengths = samples.ids, samples.labels, samples.lengths
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
        own = self._samples[position] if self._boundary.per_token else {"label": int(self.labels[index]), "index": index}
        return {**own, ACTIVATION: self._rows[index * self._views + epoch % self._views]}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The model's inputs with "activation", (B, T, D) or (B, ...); zeros where there is padding."""
        rows = [sample.pop(ACTIVATION) for sample in samples]
        if not self._boundary.per_token:
            batch = {name: torch.tensor([sample[key] for sample in samples]) for name, key in (("labels", "label"), ("index",) * 2)}
            return {ACTIVATION: _tensor(np.stack(rows)), **batch}
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

    def __len__(self) -> int:
        return len(self._samples) * self._views

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        _, row = position
        return {**self._samples[row % self._views, row // self._views], "index": row}


def stored_samples(
    samples: Samples,
    prefix: Prefix,
    *,
    recipe: Recipe,
    views: int,
    accelerator: Accelerator,
    workers: int,
    after_batch: Callable[[], None],
    say: Callable[[str], None],
) -> Samples:
    """The samples with the activation at the boundary stored; built now where it is not there yet, by all processes together.

    Where there is no room for it, `say` tells so, and the samples are returned as they are. `after_batch` is called after each
    batch of a build and may raise to interrupt it; the next build goes on from there.

    Raises:
        RunError: the processes do not see one cache folder.
    """
    boundary = prefix.boundary
    key = _key(prefix, boundary, samples, views, accelerator)
    rows = _found(key, accelerator)
    if rows is None:
        nbytes = stored_bytes(boundary, samples, views=views, precision=accelerator.mixed_precision)
        answer = [why_no_room(nbytes, budget=recipe.run.cache_gb * 1e9, key=key) if accelerator.is_main_process else None]
        broadcast_object_list(answer)
        if answer[0] is not None:
            say(f"{answer[0]} (run.cache_gb): what enters {boundary.group} is computed anew in every epoch")
            return samples
        rows = _build(key, samples, prefix, recipe, views, accelerator, workers, after_batch, say)
    _see_number_format(samples, prefix, accelerator)
    return StoredSamples(samples, rows, boundary, views=views)


def stored_bytes(boundary: Boundary, samples: Samples, *, views: int, precision: str) -> int:
    """Size of the stored activations: of 25,000 texts of 230 tokens and 768 features in bf16 8.8 GB, of their [CLS] 38 MB."""
    items = int(np.asarray(samples.lengths).sum()) if boundary.per_token else len(samples)
    return items * views * int(np.prod(boundary.shape)) * (2 if precision == "bf16" else 4)


def _build(
    key: str,
    samples: Samples,
    prefix: Prefix,
    recipe: Recipe,
    views: int,
    accelerator: Accelerator,
    workers: int,
    after_batch: Callable[[], None],
    say: Callable[[str], None],
) -> Rows:
    boundary, bf16 = prefix.boundary, accelerator.mixed_precision == "bf16"
    every = _EveryView(samples, views)
    builder = Builder(
        key,
        lengths=np.asarray(every.lengths) if boundary.per_token else len(every),
        row_shape=boundary.shape,
        dtype=np.uint16 if bf16 else np.float32,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
        dealt=f"{recipe.run.evaluation_batch_size} {recipe.run.tokens_per_batch}",
    )
    what = f"what enters {boundary.group} is computed once, for {len(samples):,} examples"
    say(what if not builder.done else f"{what}: going on where it was interrupted")
    source, nearer = _nearest(samples, prefix, views, accelerator)
    batches = evaluation_batches(
        _EveryView(source, views),  # type: ignore[arg-type]  # as much of samples as a loader needs
        batch_size=recipe.run.evaluation_batch_size,
        tokens_per_batch=recipe.run.tokens_per_batch,
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
        workers=workers if source is samples else 0,
        start=builder.done,
    )
    prefix.model.eval()  # type: ignore[no-untyped-call]
    number = builder.done
    try:
        for number, batch in enumerate(batches, start=builder.done + 1):
            with torch.inference_mode(), accelerator.autocast():
                activation = prefix.doorway.capture(batch.to(accelerator.device).inputs)
            stored = activation.to(torch.bfloat16 if bf16 else torch.float32).cpu().contiguous()
            values = stored.view(torch.uint16).numpy() if bf16 else stored.numpy()
            for place, (row, counts) in enumerate(zip(batch.index.tolist(), batch.weight.tolist(), strict=True)):
                if counts:
                    real = batch.inputs["attention_mask"][place].numpy().astype(bool) if boundary.per_token else ...
                    builder.write(row, values[place][real])
            if number % MARK_EVERY == 0:
                builder.mark(number)
            after_batch()
    finally:
        if nearer is not None:
            nearer.close()
    builder.mark(number)
    accelerator.wait_for_everyone()
    built = builder.finish() if accelerator.is_main_process else None  # held until all have found it
    accelerator.wait_for_everyone()
    rows = _found(key, accelerator)
    del built
    if rows is None:
        raise RunError(f"{store.cache_folder()}: what another process has put there is not to be seen; HFTL_CACHE must be shared")
    return rows


def _nearest(samples: Samples, prefix: Prefix, views: int, accelerator: Accelerator) -> tuple[Samples, Doorway | None]:
    """Where to start from: the last activation on the way that is stored, or the samples themselves."""
    for earlier in sorted(prefix.earlier, key=lambda boundary: -prefix.chain.names.index(boundary.group)):
        rows = _found(_key(prefix, earlier, samples, views, accelerator), accelerator)
        if rows is not None:
            doorway = Doorway(prefix.model, earlier)
            return StoredSamples(samples, rows, earlier, views=views), doorway
    return samples, None


def _found(key: str, accelerator: Accelerator) -> Rows | None:
    """The entry of a key where every process finds it; otherwise none of them has it."""
    rows = store.find(key)
    return rows if all(gather_object([rows is not None])) else None


def _see_number_format(samples: Samples, prefix: Prefix, accelerator: Accelerator) -> None:
    """Let the doorway see one activation, so that a stored one is given to the suffix in the format of a live one."""
    inputs = samples.to_device(samples.collate([samples[0, 0]]), accelerator.device)
    with torch.inference_mode(), accelerator.autocast():
        prefix.doorway.capture({name: tensor for name, tensor in inputs.items() if name not in {"labels", "index"}})


def _key(prefix: Prefix, boundary: Boundary, samples: Samples, views: int, accelerator: Accelerator) -> str:
    frozen = prefix.chain.names[: prefix.chain.names.index(boundary.group)]
    return store.key_of(
        {
            "layout": _LAYOUT,
            "boundary": [boundary.group, boundary.door, boundary.per_token, list(boundary.shape)],
            "weights": {name: dict(prefix.hashes[name]) for name in frozen},
            "model": [type(prefix.model).__name__, prefix.model.config.to_json_string()],
            "samples": samples.fingerprint,
            "views": views,
            "precision": str(accelerator.mixed_precision),
            "device": accelerator.device.type,
            "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        }
    )


def _tensor(values: np.ndarray) -> torch.Tensor:
    """As they were stored: uint16 stands for bfloat16, which NumPy does not have."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
