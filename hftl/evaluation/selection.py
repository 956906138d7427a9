"""The best of many looks better than it is: its value, corrected for the choice.

Bootstrap bias correction (Tsamardinos, Greasidou and Borboudakis, 2018, "Bootstrapping the out-of-sample predictions for efficient
and accurate cross-validation", Machine Learning 107): choose the best candidate on a resample of the rows, score that one on the
rows that the resample has left out, and take the mean over resamples. It needs the predictions of each candidate and no model.

Shapes: C candidates, N rows, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hftl.evaluation.intervals import PORTION, percentiles
from hftl.evaluation.metrics import OF_MARGINS, losses
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.targets import Floats, Scores
from hftl.names import as_rank

RESAMPLES = 1_000


@dataclass(frozen=True)
class Corrected:
    """What the best of several candidates is worth."""

    chosen: float
    """Of the metric, by all rows: what the best one shows."""
    value: float
    """The same without the advantage of having been chosen by these rows."""
    interval: tuple[float, float] | None
    """The middle 95 % over resamples; None: they do not differ."""


def corrected_for_choice(candidates: Sequence[Predictions], metric: str) -> Corrected | None:
    """The value of the best of several candidates, on the same rows, corrected for having been the best.

    Candidates that are equally good on a resample count alike. None: there is one candidate, so nothing was chosen; or every
    resample lacks a class without which the metric is undefined.
    """
    if len(candidates) < 2:
        return None
    of_weights, size = candidates[0].target.scores(candidates, metric), len(candidates[0].ids)
    every = np.asarray([as_rank(metric, value) for value in of_weights(np.ones((1, size)))[0]])
    generator = np.random.default_rng(0)
    portion = max(1, PORTION // (size * max(1, len(candidates)) ** (metric == "auc")))
    found: list[Floats] = []
    for start in range(0, RESAMPLES, portion):
        number = min(portion, RESAMPLES - start)
        drawn = generator.multinomial(size, np.full(size, 1 / size), size=number).astype(np.float64)
        inside, outside = of_weights(drawn), of_weights((drawn == 0).astype(np.float64))
        rank = inside * as_rank(metric, 1.0)
        best = np.nanmax(np.where(np.isnan(rank), -np.inf, rank), axis=1, keepdims=True)
        chosen = (rank == best) & ~np.isnan(outside)
        count = chosen.sum(axis=1)
        total = np.where(chosen, outside, 0.0).sum(axis=1)
        found.append(total[count > 0] / count[count > 0])
    values = np.concatenate(found)
    if not len(values):
        return None
    interval = percentiles(values)
    return Corrected(
        as_rank(metric, float(np.nanmax(every))), float(values.mean()), None if interval is None else (interval[0], interval[1])
    )


def scores(candidates: Sequence[Predictions], metric: str) -> Scores:
    """Of one label an example."""
    labels = candidates[0].labels
    if metric == "accuracy":
        return _mean(np.stack([each.right.astype(np.float64) for each in candidates], axis=1))
    if metric == "log_loss":
        return _mean(np.stack([np.asarray(losses(each.logits, labels), dtype=np.float64) for each in candidates], axis=1))
    if metric in OF_MARGINS:
        return _margins(np.stack([each.predicted for each in candidates]), labels, candidates[0].logits.shape[1], metric)
    assert metric == "auc", metric
    return _areas(np.stack([softmax(np.asarray(each.logits, dtype=np.float64), axis=1) for each in candidates]), labels)


def _mean(of_rows: Floats) -> Scores:
    """Of a value for each row, (N, C)."""

    def of_weights(weights: Floats) -> Floats:
        total = weights.sum(axis=1, keepdims=True)
        return np.where(total > 0, weights @ of_rows / np.maximum(total, 1.0), np.nan)

    return of_weights


def _margins(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int, metric: str) -> Scores:
    """Of how often each class is right, is there and is predicted."""
    candidates, size = predicted.shape
    one_hot = np.eye(classes)
    said = one_hot[predicted].transpose(1, 0, 2).reshape(size, candidates * classes)
    right = said * np.tile(one_hot[labels], (1, candidates))

    def of_weights(weights: Floats) -> Floats:
        shape = (len(weights), candidates, classes)
        true_counts = np.broadcast_to((weights @ one_hot[labels])[:, None, :], shape)
        is_there = weights.sum(axis=1) > 0
        values = np.full((len(weights), candidates), np.nan)
        values[is_there] = OF_MARGINS[metric](
            (weights @ right).reshape(shape)[is_there], true_counts[is_there], (weights @ said).reshape(shape)[is_there]
        )
        return values

    return of_weights


def _areas(probabilities: Floats, labels: NDArray[np.int64]) -> Scores:
    """Area under the curve of each candidate, (C, N, K): of class 1, or the mean over classes of each against the rest."""
    classes = probabilities.shape[2]
    versus = [1] if classes == 2 else list(range(classes))

    def of_weights(weights: Floats) -> Floats:
        values = np.zeros((len(weights), len(probabilities)))
        for number, given in enumerate(probabilities):
            for k in versus:
                order = np.argsort(given[:, k], kind="stable")
                starts = np.flatnonzero(np.r_[True, np.diff(given[order, k]) > 0])  # rows of one probability are a tie
                positive = np.add.reduceat(weights[:, order] * (labels[order] == k), starts, axis=1)
                negative = np.add.reduceat(weights[:, order] * (labels[order] != k), starts, axis=1)
                below = np.cumsum(negative, axis=1) - negative / 2
                pairs = positive.sum(axis=1) * negative.sum(axis=1)
                area = np.divide((positive * below).sum(axis=1), pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
                values[:, number] += area / len(versus)
        return values

    return of_weights
