"""Which examples make step s of epoch e, and who computes them: arithmetic on lengths, before anything is loaded.

A step is planned for the whole world first, then divided among processes and micro-batches, so that the same recipe sees the
same examples in the same steps on one process or eight.

Texts are padded to the longest of a micro-batch, so texts of similar length share a step, and a budget of tokens says how many of
them are computed at once. A plan is arrays of places: a million examples take 8 MB.

Shapes: L tokens, N examples in a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

# Batches of similar length are cut from pools of this many batches: enough to make padding rare, few enough to stay random. In
# small sets a pool is a quarter of an epoch at the most: sorted as one pool, every epoch would have nearly the same batches.
POOL, POOLS = 50, 4
# Texts are padded to a multiple of so many tokens. oneDNN prepares a kernel for every shape that it meets and keeps it: with a new
# length in every batch there are hundreds of them. Half of it, 4 tokens a text, is what it costs.
WIDTH = 8
# That is much of a short text, and of short texts there are few lengths. A split of so many texts, none longer than this, is padded
# to a multiple of 2: a new shape costs MiniLM 0.08 s, and a step of 32 questions takes 0.04 s less (18.4 tokens each became 15.2).
MANY, SHORT, SHORT_WIDTH = 1_000, 64, 2
TOKENS_PER_BATCH = 16_384

Sampling = Literal["balanced", "sqrt"] | None
"""How an epoch draws its examples; None: each once."""
# Added to the epoch of an example for each time that it was drawn before in the same epoch, so that a picture's next view is
# another one: an epoch that no run reaches, and prime, so that it is another one also where views repeat every few epochs.
AGAIN = 1_000_003

Length = TypeVar("Length", int, np.ndarray)


@dataclass(frozen=True, slots=True)
class Position:
    """One place in a batch. Padding keeps a process busy where there is no example for it, and is left out of every sum."""

    epoch: int
    """Which view of the example is seen: the epoch's number and, of an example that is drawn again in it, another."""
    index: int
    is_padding: bool = False


def padded_width(length: Length) -> Length:
    """Tokens that a text counts for in a budget: lengths 1, 8, 9 give 8, 8, 16."""
    return -(-length // WIDTH) * WIDTH


def width_multiple(lengths: Sequence[int] | np.ndarray) -> int:
    """What the widths of a split's batches are a multiple of: 2 for many short texts, 8 for others."""
    return SHORT_WIDTH if len(lengths) >= MANY and max(lengths) <= SHORT else WIDTH


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Optimizer steps of one epoch: ``steps_per_epoch(100, 32) == 4``. The last one may be smaller, no example is dropped.

    A last step of one example would be too small for BatchNorm, and joins the one before: ``steps_per_epoch(65, 32) == 2``.
    """
    return max(1, -(-size // batch_size) - (size % batch_size == 1))


def plan_epoch(
    size: int, *, batch_size: int, seed: int, epoch: int, lengths: Sequence[int] | np.ndarray | None = None
) -> list[np.ndarray]:
    """Indices of each step of an epoch, every example once, in an order that depends on (seed, epoch) alone.

    With `lengths`, examples of similar length share a step: each pool of 50 random batches, or of a quarter of a small epoch's, is
    sorted by length and cut, and the batches are shuffled.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(size)
    if lengths is not None:
        known = np.asarray(lengths)
        together = batch_size * max(1, min(POOL, size // (POOLS * batch_size)))
        for start in range(0, size, together):
            pool = order[start : start + together]
            pool[:] = pool[np.argsort(known[pool], kind="stable")]
    starts = [batch_size * step for step in range(steps_per_epoch(size, batch_size))]
    steps = [order[start:end] for start, end in zip(starts, [*starts[1:], size], strict=True)]
    if lengths is not None:
        steps = [steps[place] for place in generator.permutation(len(steps))]
    return steps


def expected_draws(targets: np.ndarray, sampling: Literal["balanced", "sqrt"]) -> np.ndarray:
    """How often an epoch draws each example in the mean, (N,); their sum is N.

    In proportion to 1 over n, the number of examples of its class: each class makes up as much of the epoch as any other. Or to 1
    over the root of n: a class makes up a share in proportion to the root of n. Of classes of 1 and 4 examples "balanced" draws the
    one 2.5 times and each of the four 0.625 times; "sqrt" 5 / 3 and 5 / 6 times, shares of 1 : 2. An example of several labels has
    the n of its rarest one, and one of no label the number of those.

    Args:
        targets: (N,) class numbers or, of several labels, (N, K) of 0 and 1.
    """
    if targets.ndim == 1:
        sizes = np.bincount(targets)[targets]
    else:
        of_label = targets.sum(axis=0, dtype=np.int64)
        sizes = np.where(targets == 1, of_label, len(targets) + 1).min(axis=1)
        without = sizes > len(targets)
        sizes = np.where(without, without.sum(), sizes)
    shares = sizes ** (-1.0 if sampling == "balanced" else -0.5)
    return np.asarray(shares * (len(targets) / shares.sum()))


@dataclass(frozen=True)
class Drawn:
    """What an epoch is made of where `sampling` draws it: N draws, from which the plan makes steps as it does from N examples."""

    rows: np.ndarray
    """(N,) the example of each draw, in ascending order."""
    before: np.ndarray
    """(N,) how often it was drawn before."""

    def position(self, place: Position) -> Position:
        """The example at a draw, in place of the draw's number."""
        epoch = place.epoch + AGAIN * int(self.before[place.index])
        return Position(epoch, int(self.rows[place.index]), place.is_padding)


def draw_epoch(targets: np.ndarray, sampling: Literal["balanced", "sqrt"], *, seed: int, epoch: int) -> Drawn:
    """The draws of an epoch, which depend on (seed, epoch) alone: every example as often as expected, rounded up or down by chance.

    So a class has its share of every epoch almost exactly, and no example is drawn twice while another of its class waits for its
    first time; N independent draws would leave out one example in three even where all classes are of one size.
    """
    expected = expected_draws(targets, sampling)
    generator = np.random.default_rng([seed, epoch, 1])  # not the one of `plan_epoch`, which puts the draws in order
    order = generator.permutation(len(targets))
    order = order[np.argsort(expected[order], kind="stable")]
    ends = np.cumsum(expected[order])  # on a line each example has a piece as long as it is expected, and the draws lie 1 apart
    places = np.searchsorted(ends, generator.random() + np.arange(len(targets)), side="right")
    rows = np.sort(order[places.clip(max=len(targets) - 1)])  # a sum of rounded numbers may end a little before N
    return Drawn(rows, np.arange(len(rows)) - np.searchsorted(rows, rows))


def micro_batches(
    step: np.ndarray, *, accumulation: int, processes: int, lengths: np.ndarray | None, tokens_per_batch: int
) -> list[np.ndarray]:
    """The micro-batches of one step, over all processes: `accumulation` equal parts, each cut where the budget asks for it.

    Sorted by length, a part is cut so that no process, which gets every `processes`-th example, computes more than
    `tokens_per_batch` padded tokens at once; one example that is longer is a micro-batch of its own. Every process gets as many
    micro-batches as the others, of about the same lengths: under FSDP each of them is a collective operation. Lengths 8, 8, 16 and
    16, one process and a budget of 32 give [8, 8], [16, 16].
    """
    cut: list[np.ndarray] = []
    for part in (step[number::accumulation] for number in range(accumulation)):
        if lengths is None or not len(part):
            cut.append(part)
            continue
        part = part[np.argsort(lengths[part], kind="stable")]
        widths = padded_width(lengths[part])
        shares = np.arange(processes, processes + len(part)) // processes  # examples of the busiest process: 1, 1, 2, 2 for two
        start = 0
        while start < len(part):
            tokens = widths[start:] * shares[: len(part) - start]  # of that process, if the micro-batch ended with this example
            size = max(processes, int(np.searchsorted(tokens, tokens_per_batch, side="right")))
            cut.append(part[start : start + size])
            start += size
    return cut


def deal(micro_batch: np.ndarray, step: np.ndarray, *, epoch: int, processes: int, rank: int) -> list[Position]:
    """What process `rank` computes of a micro-batch of `step`; padding where there is no example left for it.

    Of [4, 2, 0] with two processes rank 0 gets 4 and 0, rank 1 gets 2; of three processes and [4, 2] the last one gets padding.
    """
    share = [Position(epoch, index) for index in micro_batch[rank::processes].tolist()]
    return share or [Position(epoch, int(step[0]), is_padding=True)]


def evaluation_plan(
    size: int, lengths: Sequence[int] | np.ndarray | None, *, batch_size: int, tokens_per_batch: int
) -> list[np.ndarray]:
    """Indices of each batch, over all processes."""
    if lengths is None:
        return [np.arange(start, min(start + batch_size, size)) for start in range(0, size, batch_size)]
    known = np.asarray(lengths)
    order = np.argsort(-known, kind="stable")
    widths = padded_width(known[order])
    batches = []
    start = 0
    while start < size:
        count = max(1, tokens_per_batch // max(1, int(widths[start])))  # the first of them is the longest
        batches.append(order[start : start + count])
        start += count
    return batches


def padding_share(
    lengths: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    accumulation: int = 1,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    processes: int = 1,
) -> float:
    """Share of padding among all tokens that an epoch of training computes, as planned; 1,000,000 texts take a second.

    Texts of 6 and 8 tokens in one batch: 2 of 16 tokens, 0.125.
    """
    known = np.asarray(lengths)
    multiple = width_multiple(known)
    computed = 0
    for step in plan_epoch(len(known), batch_size=batch_size, seed=seed, epoch=epoch, lengths=known):
        for part in micro_batches(
            step, accumulation=accumulation, processes=processes, lengths=known, tokens_per_batch=tokens_per_batch
        ):
            for rank in range(min(processes, len(part))):
                share = part[rank::processes]  # sorted by length
                computed += -(-int(known[share[-1]]) // multiple) * multiple * len(share)
    return 1 - int(known.sum()) / computed if computed else 0.0
