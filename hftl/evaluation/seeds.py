"""Several runs of one recipe, by seed: how far they lie apart, and whether two recipes differ.

Shapes: S seeds, N rows of the split that all runs share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from hftl.evaluation.compare import mcnemar

Floats = NDArray[np.float64]
LEVEL = 0.975
"""Of both sides' quantiles, for 95 % intervals."""


@dataclass(frozen=True)
class Spread:
    """Values of one recipe over seeds."""

    mean: float
    deviation: float | None
    """Sample standard deviation over seeds; None: of a single one it is not known."""
    new_seed: tuple[float, float] | None
    """95 % prediction interval for one more seed, on the same rows; None: two seeds or fewer tell too little."""


def spread(values: list[float]) -> Spread:
    """Mean, standard deviation, and the interval ``mean ± t(S - 1) s sqrt(1 + 1 / S)`` in which one more seed is expected.

    Of 0.80, 0.85 and 0.90: mean 0.85, s = 0.05, t(2) = 4.303, and 0.85 ± 4.303 * 0.05 * 1.155 = 0.85 ± 0.248. It ends where no
    share can lie: at 0 and at 1 where all values are within.
    """
    mean, size = float(np.mean(values)), len(values)
    if size < 2:
        return Spread(mean, None, None)
    deviation = float(np.std(values, ddof=1))
    reach = float(stdtrit(size - 1, LEVEL)) * deviation * math.sqrt(1 + 1 / size)
    least, most = (0.0, 1.0) if all(0 <= value <= 1 for value in values) else (-math.inf, math.inf)
    return Spread(mean, deviation, (max(least, mean - reach), min(most, mean + reach)) if size > 2 else None)


@dataclass(frozen=True)
class PairedDifference:
    """How much more often one recipe is right than another, on the same rows and by the same seeds."""

    difference: float
    """Of accuracies, the second's minus the first's."""
    interval: tuple[float, float] | None
    """95 %; None: nothing varies."""
    p: float
    """Two-sided."""


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedDifference:
    """Compare which rows two recipes get right, (S, N) each; new rows and new seeds would give another difference.

    With d(s, i) = second - first, the mean of d has the variance ``A + B``, A = var over rows of the mean over seeds / N, B = var
    over seeds of the mean over rows / S, and t has Welch and Satterthwaite's (A + B)² / (A² / (N - 1) + B² / (S - 1)) degrees of
    freedom. With one seed B cannot be known: the interval is for new rows alone, and p is McNemar's exact one (mid-p).
    """
    d = second.astype(float) - first.astype(float)
    seeds, rows = d.shape
    difference = float(d.mean())
    of_rows = float(np.var(d.mean(axis=0), ddof=1)) / rows if rows > 1 else 0.0
    of_seeds = float(np.var(d.mean(axis=1), ddof=1)) / seeds if seeds > 1 else 0.0
    variance = of_rows + of_seeds
    exact = mcnemar(int((first & ~second).sum()), int((second & ~first).sum())) if seeds == 1 else None
    if variance == 0:  # no row differs, or every one does
        return PairedDifference(difference, None, float(difference == 0) if exact is None else exact)
    freedom = variance**2 / (of_rows**2 / (rows - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0))
    error = math.sqrt(variance)
    reach = float(stdtrit(freedom, LEVEL)) * error
    p = 2 * float(stdtr(freedom, -abs(difference) / error)) if exact is None else exact
    return PairedDifference(difference, (difference - reach, difference + reach), p)
