"""Deterministic batches: which examples make step s of epoch e, and who computes them.

A step is planned for the whole world first, then dealt out to processes and micro-batches, so that the same recipe sees the
same examples in the same steps on one process or eight. What sample i of epoch e looks like depends on (seed, e, i) alone:
samplers yield `Position`s, and no loader worker has a state worth keeping.

Shapes: B examples in a micro-batch, L tokens, N examples in a split.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hftl.errors import HftlError

# Batches of similar length are cut from pools of this many batches: enough to make padding rare, few enough to stay random.
POOL = 50


class Samples(Protocol):
    """A split, preprocessed on demand.

    `ids` name the samples, `labels` are class indices, `lengths` are in tokens as the model sees them (None for pictures). `sizes`
    are those of the originals, in `size_unit`: tokens before the cut, pixels of the file.
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def labels(self) -> Sequence[int]: ...
    @property
    def lengths(self) -> Sequence[int] | None: ...
    @property
    def sizes(self) -> Sequence[int]: ...
    @property
    def size_unit(self) -> Literal["tokens", "pixels"]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """What sample `index` looks like in `epoch`; `position` is (epoch, index)."""

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Model inputs by the names of `forward`, plus "labels" (B,) and "index" (B,), both int64."""


@dataclass(frozen=True, slots=True)
class Position:
    """One place in a batch. A filler has `counts` False: it keeps a process busy and is left out of every sum."""

    epoch: int
    index: int
    counts: bool = True


@dataclass(frozen=True)
class Batch:
    """What one process computes at once."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    """(B,) int64 class indices."""
    index: torch.Tensor
    """(B,) int64 places in the split."""
    weight: torch.Tensor
    """(B,) float32: 1 / examples of the whole step in training, 1 in evaluation; 0 for a filler."""
    completes_step: bool = True

    def to(self, device: torch.device) -> Batch:
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels.to(device), self.index.to(device), self.weight.to(device), self.completes_step)


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Optimizer steps of one epoch: ``steps_per_epoch(100, 32) == 4``. The last one may be smaller, no example is dropped.

    A last step of one example would be too small for BatchNorm, and joins the one before: ``steps_per_epoch(65, 32) == 2``.
    """
    return max(1, -(-size // batch_size) - (size % batch_size == 1))


def plan_epoch(size: int, *, batch_size: int, seed: int, epoch: int, lengths: Sequence[int] | None = None) -> list[list[int]]:
    """Indices of each step of an epoch, every example once, in an order that depends on (seed, epoch) alone.

    With `lengths`, examples of similar length share a step: each pool of 50 random batches is sorted by length, cut, and the
    batches are shuffled.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(size)
    if lengths is not None:
        known = np.asarray(lengths)
        pools = [order[start : start + POOL * batch_size] for start in range(0, size, POOL * batch_size)]
        order = np.concatenate([pool[np.argsort(known[pool], kind="stable")] for pool in pools])
    starts = [batch_size * step for step in range(steps_per_epoch(size, batch_size))]
    steps = [order[start:end].tolist() for start, end in zip(starts, [*starts[1:], size], strict=True)]
    if lengths is not None:
        steps = [steps[place] for place in generator.permutation(len(steps))]
    return steps


def deal(step: Sequence[int], *, epoch: int, accumulation: int, processes: int, rank: int) -> list[list[Position]]:
    """The micro-batches of one step that process `rank` computes; one filler where there is no example left for it.

    Seven examples, two micro-batches, two processes: rank 0 gets [0, 4] and [1, 5], rank 1 gets [2, 6] and [3].
    """
    micro_batches = [
        [Position(epoch, index) for index in step[part::accumulation][rank::processes]] for part in range(accumulation)
    ]
    return [micro_batch or [Position(epoch, step[0], counts=False)] for micro_batch in micro_batches]


def training_batches(
    samples: Samples,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    accumulation: int = 1,
    processes: int = 1,
    rank: int = 0,
    workers: int = 0,
) -> Iterator[Batch]:
    """Micro-batches of one epoch from its step `start` on, for one process, in order; `completes_step` marks the last of each step.

    Raises:
        HftlError: a sample cannot be read any more.
    """
    steps = plan_epoch(len(samples), batch_size=batch_size, seed=seed, epoch=epoch, lengths=samples.lengths)[start:]
    dealt = [
        (micro_batch, len(step), part == accumulation - 1)
        for step in steps
        for part, micro_batch in enumerate(deal(step, epoch=epoch, accumulation=accumulation, processes=processes, rank=rank))
    ]
    loader = _loader(samples, [positions for positions, _, _ in dealt], workers)
    for (positions, size, last), tensors in zip(dealt, loader, strict=True):
        yield _batch(tensors, [position.counts / size for position in positions], completes_step=last)


def evaluation_batches(
    samples: Samples, *, batch_size: int, processes: int = 1, rank: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """Every sample once over all processes, longest first, as many batches for each process (fillers make up the number).

    Raises:
        HftlError: a sample cannot be read any more.
    """
    lengths = samples.lengths
    order = np.arange(len(samples)) if lengths is None else np.argsort(-np.asarray(lengths), kind="stable")
    batches = [
        [Position(0, int(index)) for index in order[start : start + batch_size]] for start in range(0, len(order), batch_size)
    ]
    while len(batches) % processes:
        batches.append([Position(0, int(order[-1]), counts=False)])
    mine = batches[rank::processes]
    for positions, tensors in zip(mine, _loader(samples, mine, workers), strict=True):
        yield _batch(tensors, [float(position.counts) for position in positions], completes_step=True)


class _AtPositions(Dataset[dict[str, Any] | HftlError]):
    """Looks samples up by position, in the loader's workers."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, position: Position) -> dict[str, Any] | HftlError:
        try:
            return self.samples[position.epoch, position.index]
        except HftlError as error:  # as a value: a worker's exceptions arrive with its traceback in their message
            return error

    def collate(self, samples: list[dict[str, Any] | HftlError]) -> dict[str, torch.Tensor] | HftlError:
        errors = [sample for sample in samples if isinstance(sample, HftlError)]
        return errors[0] if errors else self.samples.collate([sample for sample in samples if isinstance(sample, dict)])


def _loader(samples: Samples, batches: list[list[Position]], workers: int) -> Iterator[dict[str, torch.Tensor]]:
    dataset = _AtPositions(samples)
    loader: DataLoader[dict[str, Any] | HftlError] = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_outlive_one_signal,
        # Of its own: a loader that starts, in the middle of an epoch after a resume, must not take a number out of dropout's.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, HftlError):
            raise batch
        yield batch


def _outlive_one_signal(worker: int) -> None:
    """A signal to all processes of a job is the main one's to obey: without its workers it could not finish the step and save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _batch(tensors: dict[str, torch.Tensor], weights: list[float], *, completes_step: bool) -> Batch:
    inputs = {name: tensor for name, tensor in tensors.items() if name not in {"labels", "index"}}
    return Batch(inputs, tensors["labels"], tensors["index"], torch.tensor(weights, dtype=torch.float32), completes_step)
