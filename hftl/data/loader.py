"""Loading planned batches: in worker processes, and handed to the one that computes.

What is in which batch is planned in `hftl.data.batches`. What sample i of epoch e looks like depends on (seed, e, i) alone:
samplers yield `Position`s, and no loader worker has a state worth keeping. A batch is made when its turn comes.

Shapes: B examples in a micro-batch, L tokens, N examples in a split.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from multiprocessing.queues import Queue
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from hftl import system
from hftl.data.batches import TOKENS_PER_BATCH, Position, Sampling, deal, draw_epoch, evaluation_plan, micro_batches, plan_epoch
from hftl.data.mixing import StepMix, partners_of, plan_mix
from hftl.errors import HftlError, RunError
from hftl.recipe import Mix
from hftl.signals import Stopped, noted

log = logging.getLogger(__name__)

# Seconds after which the wait for a worker looks whether a signal has come, and how often it does before it obeys: a step that is
# nearly loaded is still finished and saved, a worker that hangs on a network disk is not waited for.
POLL_SECONDS, POLLS = 5, 3


class WorkerError(RunError):
    """A loader's worker cannot be started or has died; the process that it works for says so."""

    everywhere = True


class Samples(Protocol):
    """A split, preprocessed on demand.

    `ids` name the samples, `targets` are what is to be predicted of each (class indices), `weights` what each counts for in the
    loss, (N,) float32 (None: all the same), `lengths` are in tokens as the model sees
    them (None for pictures). `sizes` are those of the originals, in `size_unit`: tokens before the cut, pixels of the file.
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def targets(self) -> np.ndarray: ...
    @property
    def weights(self) -> np.ndarray | None: ...
    @property
    def lengths(self) -> Sequence[int] | np.ndarray | None: ...
    @property
    def sizes(self) -> Sequence[int] | np.ndarray: ...
    @property
    def size_unit(self) -> Literal["tokens", "pixels"]: ...
    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of everything that decides what the model gets."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """What the model gets of sample `index` in `epoch`, before it is put into a batch; `position` is (epoch, index)."""

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """What a loader hands over: inputs by the names of `forward`."""

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """Model inputs on `device`, from those of `collate`: what is cheaper to carry than to compute there is computed there."""


def transfer(inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The same inputs on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}


@dataclass(frozen=True)
class Partners:
    """With whom the pictures of a batch are mixed."""

    how: StepMix
    places: torch.Tensor
    """(B,) int64: where the partner of each example is among what was loaded, which begins with the examples themselves."""
    targets: torch.Tensor
    """(B,), of the partners."""
    weight: torch.Tensor
    """(B,), of the partners, as `Batch.weight` is of the examples."""


@dataclass(frozen=True)
class Batch:
    """What one process computes at once."""

    inputs: dict[str, torch.Tensor]
    """Of the examples; behind them, until they are mixed, the partners that are none of them."""
    targets: torch.Tensor
    """(B,) int64 class indices."""
    index: torch.Tensor
    """(B,) int64 places in the split."""
    weight: torch.Tensor
    """(B,) float32: in training the share of each example's weight in the sum over the whole step, 1 / its examples where all weigh
    the same; 1 in evaluation; 0 for padding."""
    completes_step: bool = True
    to_device: Callable[[dict[str, torch.Tensor], torch.device], dict[str, torch.Tensor]] = transfer
    """Makes the model's inputs of what the loader handed over: `Samples.to_device`, and once that is done, `transfer`."""
    partners: Partners | None = None
    """None: pictures as they are, or mixed already."""
    partner_targets: torch.Tensor | None = None
    """(B,), once pictures are mixed: the targets of the partners."""
    partner_weight: torch.Tensor | None = None
    """(B,), then too."""
    share: float = 1.0
    """Of each picture's own in its mixture; what is left is its partner's."""

    def to(self, device: torch.device) -> Batch:
        """The batch as the model takes it, on `device`: mixed, where it has partners."""
        inputs, partner_targets, share = self.to_device(self.inputs, device), self.partner_targets, self.share
        partner_weight = self.partner_weight
        if self.partners is not None:
            loaded = inputs["pixel_values"]
            pictures, share = self.partners.how.mixed(loaded[: len(self.index)], loaded[self.partners.places.to(device)])
            inputs, partner_targets = {**inputs, "pixel_values": pictures}, self.partners.targets.to(device)
            partner_weight = self.partners.weight.to(device)
        return Batch(
            inputs,
            self.targets.to(device),
            self.index.to(device),
            self.weight.to(device),
            self.completes_step,
            partner_targets=partner_targets,
            partner_weight=partner_weight,
            share=share,
        )


def training_batches(
    samples: Samples,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    accumulation: int = 1,
    sampling: Sampling = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    processes: int = 1,
    rank: int = 0,
    workers: int = 0,
    mix: Mix | None = None,
) -> Iterator[Batch]:
    """Micro-batches of one epoch from its step `start` on, for one process, in order; `completes_step` marks the last of each step.

    `tokens_per_batch` cuts steps of texts into more micro-batches than `accumulation` does; it does not change what a step is. With
    `sampling` the epoch is of as many draws as there are samples, see `draw_epoch`.
    `mix` says how pictures are mixed; what is loaded for a batch is then its examples and those partners that are none of them.

    Raises:
        HftlError: a sample cannot be read any more.
    """
    lengths = None if samples.lengths is None else np.asarray(samples.lengths)
    drawn = None if sampling is None else draw_epoch(samples.targets, sampling, seed=seed, epoch=epoch)
    if drawn is not None and lengths is not None:
        lengths = lengths[drawn.rows]
    steps = plan_epoch(len(samples), batch_size=batch_size, seed=seed, epoch=epoch, lengths=lengths)[start:]

    def total_weight(rows: np.ndarray) -> float:
        return len(rows) if samples.weights is None else float(samples.weights[rows].sum(dtype=np.float64))

    def planned() -> Iterator[_Planned]:
        for place, step in enumerate(steps, start=start):
            how = plan_mix(mix, seed=seed, epoch=epoch, step=place)
            partner = {} if how is None else dict(zip(step.tolist(), partners_of(step).tolist(), strict=True))
            parts = micro_batches(
                step, accumulation=accumulation, processes=processes, lengths=lengths, tokens_per_batch=tokens_per_batch
            )
            for number, part in enumerate(parts, start=1):
                own = deal(part, step, epoch=epoch, processes=processes, rank=rank)
                partners = [] if how is None else [Position(epoch, partner[place.index]) for place in own]
                if drawn is not None:
                    own, partners = ([drawn.position(place) for place in places] for places in (own, partners))
                yield _Planned(own, partners, how, total_weight(step if drawn is None else drawn.rows[step]), number == len(parts))

    for_loader, for_batches = tee(planned())
    loader = _loader(samples, ([*each.own, *each.more] for each in for_loader), workers)
    for tensors, each in zip(loader, for_batches, strict=True):
        batch = _batch(samples, tensors, each.own, each.shares(each.own, samples.weights), completes_step=each.last)
        yield batch if each.how is None else replace(batch, partners=_partners(samples, each, each.how))


@dataclass(frozen=True)
class _Planned:
    """What one process loads and computes at once."""

    own: list[Position]
    partners: list[Position]
    """Of each of its own; none where pictures are not mixed."""
    how: StepMix | None
    total: float
    """The weights of all examples of the step: their number, where each weighs 1."""
    last: bool

    def shares(self, positions: Sequence[Position], weights: np.ndarray | None) -> list[float]:
        """What each position, its own or their partners, counts for in the mean over the step; `weights` are those of the split."""
        of_each = [1.0 if weights is None else float(weights[position.index]) for position in positions]
        padding = [position.is_padding for position in self.own]
        return [0.0 if pads else weight / self.total for weight, pads in zip(of_each, padding, strict=True)]

    @property
    def more(self) -> list[Position]:
        """The partners that are to be loaded beside a process's own examples, each once."""
        here = {(position.epoch, position.index) for position in self.own}
        return [each for each in dict.fromkeys(self.partners) if (each.epoch, each.index) not in here]


def _partners(samples: Samples, planned: _Planned, how: StepMix) -> Partners:
    loaded = [*planned.own, *planned.more]
    place = {(position.epoch, position.index): place for place, position in enumerate(loaded)}
    targets = samples.targets[np.array([each.index for each in planned.partners])].astype(np.int64)
    places = torch.tensor([place[each.epoch, each.index] for each in planned.partners])
    weight = torch.tensor(planned.shares(planned.partners, samples.weights), dtype=torch.float32)
    return Partners(how, places, torch.from_numpy(targets), weight)


def evaluation_batches(
    samples: Samples,
    *,
    batch_size: int,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    processes: int = 1,
    rank: int = 0,
    workers: int = 0,
    epoch: int = 0,
    start: int = 0,
) -> Iterator[Batch]:
    """Every sample once over all processes, longest first, as many batches for each process (padding makes up the number).

    Pictures come `batch_size` at a time; texts as many as `tokens_per_batch` padded tokens hold, whatever their number. `epoch` is
    the view that samples show which differ by epoch, `start` the number of this process's batches that are left out.

    Raises:
        HftlError: a sample cannot be read any more.
    """
    batches = evaluation_plan(len(samples), samples.lengths, batch_size=batch_size, tokens_per_batch=tokens_per_batch)
    padding = Position(epoch, int(batches[-1][-1]), is_padding=True)  # the shortest text
    per_process = -(-len(batches) // processes)

    def planned() -> Iterator[list[Position]]:
        for number in range(start, per_process):
            place = number * processes + rank
            batch = batches[place].tolist() if place < len(batches) else []
            yield [Position(epoch, index) for index in batch] or [padding]

    for_loader, for_batches = tee(planned())
    for tensors, positions in zip(_loader(samples, for_loader, workers), for_batches, strict=True):
        yield _batch(
            samples, tensors, positions, [0.0 if position.is_padding else 1.0 for position in positions], completes_step=True
        )


class _AtPositions(Dataset[dict[str, Any] | HftlError]):
    """Looks samples up by position, in the loader's workers."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, position: Position) -> dict[str, Any] | HftlError:
        try:
            return self.samples[position.epoch, position.index]
        except HftlError as error:  # as a value: a worker's exceptions arrive with its traceback in their message
            return error

    def collate(self, samples: list[dict[str, Any] | HftlError]) -> dict[str, torch.Tensor] | _ByPipe | HftlError:
        errors = [sample for sample in samples if isinstance(sample, HftlError)]
        if errors:
            return errors[0]
        batch = self.samples.collate([sample for sample in samples if isinstance(sample, dict)])
        return batch if get_worker_info() is None else _handed_over(batch)


@dataclass(frozen=True)
class _ByPipe:
    """A batch for which shared memory has no room: as bytes, which are slower."""

    arrays: dict[str, np.ndarray]
    reason: str


def _handed_over(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | _ByPipe:
    """A worker's batch in shared memory, or as bytes.

    torch would put it there by itself, in a thread that loses the batch where there is no room, as in a container whose /dev/shm
    has 64 MB: whoever waits for it waits for ever.
    """
    try:
        for tensor in batch.values():
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # no room, or no file descriptor
        return _ByPipe({name: tensor.numpy() for name, tensor in batch.items()}, str(error))
    return batch


def _loader(samples: Samples, batches: Iterable[list[Position]], workers: int) -> Iterator[dict[str, torch.Tensor]]:
    dataset = _AtPositions(samples)
    loader: DataLoader[dict[str, Any] | HftlError] = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dataset.collate,
        num_workers=workers,
        timeout=POLL_SECONDS if workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin,
        # As Linux had it before Python 3.14: a forked worker has the samples, which need not be sent to it.
        multiprocessing_context="fork" if workers and system.FORKS_WORKERS else None,
        # Of its own: a loader that starts, in the middle of an epoch after a resume, must not take a number out of dropout's.
        generator=torch.Generator(),
    )
    _check_open_files(workers)
    try:
        loaded = iter(loader)
    except OSError as error:  # of processes, open files or semaphores there may be no more
        raise _no_workers(workers, error) from error
    slow = 0
    while (batch := _next(loaded, workers)) is not None:
        if isinstance(batch, HftlError):
            raise batch
        if isinstance(batch, _ByPipe):
            slow += 1
            if slow == 1:
                log.warning(
                    "%s", f"/dev/shm has no room for what {workers} loader processes load ({batch.reason}): pipes are slower"
                )
            batch = {name: torch.from_numpy(array) for name, array in batch.arrays.items()}
        yield batch


def _next(loaded: Iterator[Any], workers: int) -> Any:
    """The next batch; None after the last.

    Raises:
        Stopped: a signal has come, and no batch for 10 to 15 seconds.
        WorkerError: the workers can hand nothing over any more.
    """
    polls = 0
    while True:
        try:
            return next(loaded, None)
        except RuntimeError as error:
            message = str(error)
            if message.startswith("Too many open files"):
                raise _no_workers(workers, error) from error
            if not message.startswith("DataLoader timed out"):
                raise
            # With a timeout torch does not ask whether the thread that copies batches for a GPU is alive.
            thread = getattr(loaded, "_pin_memory_thread", None)
            if thread is not None and not thread.is_alive():
                raise _no_workers(workers, "the thread that takes their batches has ended") from error
        if (number := noted()) is not None:
            polls += 1
            if polls == POLLS:
                raise Stopped(number)


def _check_open_files(workers: int) -> None:
    """Have as many open files allowed as the workers take, before half of them are there: their pipes, and batches on their way.

    Raises:
        WorkerError: this process may not open so many.
    """
    more = 16 * workers
    if (refused := system.allow_open_files(more)) is not None:
        needed, most = refused
        fit = max(0, most - (needed - more)) // 16
        raise _no_workers(workers, f"{needed} files would be open, and at most {most} may; {fit} processes would fit")


def _no_workers(workers: int, reason: OSError | RuntimeError | str) -> WorkerError:
    what = f"{workers} loader processes cannot be had here: {getattr(reason, 'strerror', None) or reason}"
    return WorkerError(f"{what}. Fewer need less (run.workers=1), and run.workers=0 needs none; see also: ulimit -n, df /dev/shm")


def _begin(worker: int) -> None:
    """Prepare a worker.

    A signal to all processes of a job is the main one's to obey: without its workers it could not finish the step and save. And a
    worker that cannot hand over a batch ends, which is noticed; multiprocessing would drop the batch, and be waited for.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]  # multiprocessing's own hook


def _end(error: Exception, batch: object) -> NoReturn:
    sys.stderr.write(f"hftl: a loader process cannot hand over what it loaded: {error}\n")
    sys.stderr.flush()
    os._exit(1)


def _batch(
    samples: Samples,
    inputs: dict[str, torch.Tensor],
    positions: Sequence[Position],
    weights: Sequence[float],
    *,
    completes_step: bool,
) -> Batch:
    index = np.array([position.index for position in positions])
    targets = torch.from_numpy(samples.targets[index].astype(np.int64))
    weight = torch.tensor(weights, dtype=torch.float32)
    return Batch(inputs, targets, torch.from_numpy(index), weight, completes_step, samples.to_device)
