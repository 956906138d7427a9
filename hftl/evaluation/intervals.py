"""Intervals: Wilson's for shares, the bootstrap over cells of a confusion matrix, the normal one of a mean; 95 % unless asked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtri

from hftl.evaluation.targets import Floats, Integers

RESAMPLES = 1_000

LEVEL = 0.95


def z_of(level: float) -> float:
    """How many standard deviations around the mean hold so much of a normal distribution: 1.96 hold 0.95."""
    return float(ndtri(0.5 + level / 2))


Z = z_of(LEVEL)

# Resamples are drawn in portions of about this many counts, 8 bytes each: 32 MB.
PORTION = 4_000_000


def wilson_interval(successes: int, trials: int, *, level: float = LEVEL) -> list[float]:
    """Wilson score interval of a share. ``wilson_interval(8, 10)`` is [0.490, 0.943]."""
    z = z_of(level)
    share, z2 = successes / trials, z * z
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # Where nothing or everything succeeds that end is 0 or 1, which rounding would miss.
    return [0.0 if successes == 0 else float(middle - half), 1.0 if successes == trials else float(middle + half)]


def mean_interval(values: Floats, *, level: float = LEVEL) -> list[float] | None:
    """Interval of the mean of values: mean +- 1.96 * s / sqrt(n) at 95 %. None when they do not differ."""
    if len(values) < 2 or values.min() == values.max():
        return None
    mean, half = float(values.mean()), z_of(level) * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
    return [mean - half, mean + half]


def resamples(counts: Integers, *, classes: int, number: int = RESAMPLES) -> Iterator[Integers]:
    """How many examples of each cell, (C,) with `counts` of them, are in a resample of all with replacement: (R, C) at a time.

    Drawing examples changes the counts by a multinomial draw: exact, and as fast for a million examples as for ten. There are
    `number` resamples in all; the seed is fixed.
    """
    generator = np.random.default_rng(0)
    portion = max(1, min(number, PORTION // max(len(counts), classes)))
    for start in range(0, number, portion):
        yield generator.multinomial(counts.sum(), counts / counts.sum(), size=min(portion, number - start))


def margins_of_cells(true: Integers, predicted: Integers, *, classes: int) -> tuple[csr_array, csr_array, csr_array]:
    """Matrices (C, K) that take counts of cells to true positives, examples and predictions of each class.

    A cell is a kind of example: of the class `true`, and taken for `predicted`, (C,) each.
    """
    cells, ones = np.arange(len(true)), np.ones(len(true))
    shape = (len(true), classes)
    return (
        csr_array(((true == predicted).astype(np.float64), (cells, true)), shape=shape),
        csr_array((ones, (cells, true)), shape=shape),
        csr_array((ones, (cells, predicted)), shape=shape),
    )


def percentiles(values: Floats, *, level: float = LEVEL) -> list[float] | None:
    """The middle of some values, 95 % of them unless asked; None where they do not differ."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return None if low == high else [float(low), float(high)]
