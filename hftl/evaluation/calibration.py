"""How sure a model may be believed to be: one temperature for its logits, and a confidence above which it is rarely wrong.

Both are learned from rows that the model was not trained on. A temperature changes no answer, and no order of the confidences
of two classes; of more classes it may (Guo et al. 2017, arXiv:1706.04599).

Shapes: N rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from hftl.evaluation.intervals import wilson_interval
from hftl.evaluation.targets import Floats, Integers

_COLDEST, _HOTTEST = 0.05, 20.0


def temperature_of(logits: Floats, labels: Integers) -> float:
    """What logits are divided by so that the log loss of these rows is the least, from 0.05 to 20.

    Each row counts as its label by (N + 1) / (N + 2) and as the other classes by the rest, or N rows that are all right would make
    certain of any confidence (Platt 1999). Of logits (4, 0) that are right 3 times of 4 the right share is (3 x 5 + 1) / 24 = 2/3,
    and the temperature 4 / ln 2 = 5.77 makes the confidence just that.
    """
    rows, number, classes = np.arange(len(labels)), len(labels), logits.shape[1]
    targets = np.full(logits.shape, 1 / ((number + 2) * (classes - 1)))
    targets[rows, labels] = (number + 1) / (number + 2)

    def log_loss(log_temperature: float) -> float:
        return -float((targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    found = minimize_scalar(log_loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def confidences_of(logits: Floats, temperature: float) -> Floats:
    """(N,) the probability of the answer."""
    return np.asarray(softmax(logits / temperature, axis=1).max(axis=1))


def lowest_confidence(confidences: Floats, right: np.ndarray, noise: float) -> float | None:
    """The lowest confidence of a row such that of all rows as sure as it or surer at most the share `noise` is wrong.

    Of 0.9 (right), 0.8 (wrong), 0.7 (right) and a noise of 0.4 it is 0.7: 1 of 3. None: there is no such row.
    """
    order = np.argsort(-confidences, kind="stable")
    sure = confidences[order]
    shares = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    last_of_equals = np.append(sure[1:] < sure[:-1], True)
    fitting = np.flatnonzero((shares <= noise) & last_of_equals)
    return float(sure[fitting[-1]]) if len(fitting) else None


@dataclass(frozen=True)
class Believed:
    """A confidence from which on a model is believed, and how often it is wrong there."""

    temperature: float
    confidence: float
    rows: int
    """As sure as that, of those by which the noise was measured."""
    wrong: int
    of: int
    """All of these."""

    @property
    def noise(self) -> float:
        """The share of wrong answers among the believed ones; 0 where there are none."""
        return self.wrong / self.rows if self.rows else 0.0

    @property
    def interval(self) -> list[float]:
        """Wilson's 95 % interval of it."""
        return wilson_interval(self.wrong, self.rows) if self.rows else [0.0, 1.0]


def believed(logits: Floats, labels: Integers, *, noise: float, confidence: float | None = None) -> Believed | None:
    """The temperature, and the lowest confidence at which at most the share `noise` of these rows is wrong.

    Because the rows that a confidence was chosen by flatter it, its noise is measured on others: each half of the rows by the
    temperature and the confidence that the other half has chosen. A `confidence` that is given is not chosen. None: at none so
    few are wrong.
    """
    right = logits.argmax(axis=1) == labels

    def choose(rows: Integers) -> tuple[float, float | None]:
        temperature = temperature_of(logits[rows], labels[rows])
        return temperature, confidence or lowest_confidence(confidences_of(logits[rows], temperature), right[rows], noise)

    everything = np.arange(len(labels))
    temperature, chosen = choose(everything)
    if chosen is None:
        return None
    halves = np.array_split(np.random.default_rng(0).permutation(everything), 2)
    sure = wrong = 0
    for chosen_by, measured in (halves, halves[::-1]):
        own, limit = choose(chosen_by)
        if limit is not None:
            kept = confidences_of(logits[measured], own) >= limit
            sure, wrong = sure + int(kept.sum()), wrong + int((kept & ~right[measured]).sum())
    return Believed(temperature, chosen, sure, wrong, len(labels))
