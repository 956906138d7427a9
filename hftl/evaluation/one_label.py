"""One label an example: the classes exclude each other, logits go through a softmax, and the largest one is the answer.

Shapes: N examples, K classes, R resamples, C cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp, softmax

from hftl.errors import Problem
from hftl.evaluation.intervals import Z, margins_of_cells, mean_interval, percentiles, resamples
from hftl.evaluation.metrics import OF_MARGINS, auc_influence, compute_metrics, interval_of, losses, quick_metrics
from hftl.evaluation.predictions import TEXT, Predictions
from hftl.evaluation.selection import scores
from hftl.evaluation.targets import Floats, Integers, Interval, Scores, Thresholds
from hftl.evaluation.verdict import verdict
from hftl.names import HEADLINES, ONE_LABEL
from hftl.records.metrics import Metrics, OneLabelMetrics, SplitMetrics, of_one_label
from hftl.run import split_facts
from hftl.wording import quoted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hftl.run import RunDirectory


class OneLabel:
    """See `hftl.evaluation.targets.Target`; labels are class indices, (N,)."""

    columns: Mapping[str, pa.DataType] = {"label": TEXT, "prediction": TEXT, "label_index": pa.int64()}

    # --- an example ---

    def shape(self, count: int, classes: int) -> tuple[int, ...]:
        """(N,)"""
        return (count,)

    def problems(self, ids: Sequence[str], labels: Integers, classes: int) -> Iterator[Problem]:
        """Labels outside 0..K-1."""
        bad = np.flatnonzero((labels < 0) | (labels >= classes))
        if bad.size:
            yield Problem("labels", f"outside 0..{classes - 1} for {quoted((ids[i] for i in bad.tolist()), 5)}")

    def probabilities(self, logits: NDArray[np.float32]) -> Floats:
        """Softmax, in float64."""
        return np.asarray(softmax(logits.astype(np.float64), axis=1))

    def fused(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logarithm of the mean of the softmaxes: log mean p, of which the softmax is mean p."""
        mean = logsumexp(log_softmax(logits.astype(np.float64), axis=2), axis=1) - np.log(logits.shape[1])
        return np.asarray(mean, dtype=np.float32)

    def thresholds(self, logits: NDArray[np.float32], labels: Integers) -> Thresholds:
        """None: the largest logit is the answer."""
        return None

    def predicted(self, logits: NDArray[np.float32], thresholds: Thresholds) -> Integers:
        """(N,) index of the largest logit; of equal ones the first."""
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)

    def right(self, predicted: Integers, labels: Integers) -> NDArray[np.bool_]:
        """The same class."""
        return np.asarray(predicted == labels)

    def confidence(self, probabilities: Floats, predicted: Integers) -> Floats:
        """The top probability."""
        return np.asarray(probabilities.max(axis=1))

    def named(self, labels: Integers, label_names: Sequence[str]) -> list[str]:
        """The name of the class."""
        return [label_names[label] for label in labels.tolist()]

    def has(self, labels: Integers, place: int) -> NDArray[np.bool_]:
        """It is the class."""
        return np.asarray(labels == place)

    def reordered(self, labels: Integers, order: Integers) -> Integers:
        """The place of each class in `order`."""
        return np.asarray(np.argsort(order)[labels])

    # --- a file ---

    def stored(self, predictions: Predictions, label_names: Sequence[str]) -> dict[str, pa.Array]:
        """Two columns of names, and the true class's index."""
        return {
            "label": pa.array(self.named(predictions.labels, label_names), pa.string()),
            "prediction": pa.array(self.named(predictions.predicted, label_names), pa.string()),
            "label_index": pa.array(predictions.labels, pa.int64()),
        }

    def read(self, table: pa.Table) -> Integers:
        """The true classes' indices."""
        return np.asarray(table["label_index"].to_numpy())

    def contradictions(
        self, table: pa.Table, predictions: Predictions, label_names: Sequence[str]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Both columns of names."""
        sides = (("label", "label_index", predictions.labels), ("prediction", "the logits", predictions.predicted))
        for column, origin, expected in sides:
            places = pc.index_in(table[column], value_set=pa.array(label_names, pa.string())).fill_null(-1).to_numpy()
            yield f"column {column} does not follow from {origin}", places != expected

    def split_facts(self, predictions: Predictions, label_names: Sequence[str]) -> dict[str, Any]:
        """As `hftl.run.split_facts`."""
        return split_facts(predictions.ids, predictions.labels.tolist(), label_names)

    # --- a split ---

    headline = HEADLINES[ONE_LABEL]

    def quick_metrics(self, predictions: Predictions) -> dict[str, float]:
        """As `hftl.evaluation.metrics.quick_metrics`."""
        return quick_metrics(predictions)

    def metrics(self, predictions: Predictions, label_names: Sequence[str], *, skipped: int) -> OneLabelMetrics:
        """As `hftl.evaluation.metrics.compute_metrics`."""
        return cast("OneLabelMetrics", compute_metrics(predictions, label_names, skipped=skipped))

    def interval(self, predictions: Predictions, metric: str, *, level: float) -> list[float] | None:
        """As `hftl.evaluation.metrics.interval_of`."""
        return interval_of(predictions, metric, level=level)

    def figures(self, split: str) -> Mapping[str, Callable[[RunDirectory, SplitMetrics], Figure]]:
        """Confusion matrix and calibration."""
        from hftl.evaluation import report  # with it comes matplotlib, which only drawing needs

        def calibration(run: RunDirectory, values: SplitMetrics) -> Figure:
            return report.calibration_figure(Predictions.load(run.predictions(split)), of_one_label(values), split)

        return {
            f"confusion_matrix_{split}.png": lambda run, values: report.confusion_figure(of_one_label(values), split),
            "calibration.png": calibration,
        }

    def names_shown(self, values: SplitMetrics) -> list[str]:
        """All classes: the confusion matrix has a row for each."""
        return [row["label"] for row in of_one_label(values)["per_class"]]

    def verdict(
        self,
        metrics: Metrics,
        *,
        openings: Mapping[str, Any] | None,
        stage: str,
        weighted: bool,
        enlarge: str | None,
    ) -> Iterator[str]:
        """As `hftl.evaluation.verdict.verdict`."""
        of_splits = {split: of_one_label(values) for split, values in metrics.items()}
        return verdict(of_splits, openings=openings, stage=stage, weighted=weighted, enlarge=enlarge)

    def scores(self, candidates: Sequence[Predictions], metric: str) -> Scores:
        """As `hftl.evaluation.selection.scores`."""
        return scores(candidates, metric)

    # --- two models on the same rows ---

    def paired_intervals(self, one: Predictions, two: Predictions) -> dict[str, Interval]:
        """By the bootstrap, of the AUC by DeLong, and of the log loss as that of a mean."""
        loss_differences = losses(two.logits, two.labels) - losses(one.logits, one.labels)
        return {
            **_bootstrapped(one, two),
            "auc": _of_auc(one, two),
            "log_loss": _as_pair(mean_interval(loss_differences)),
        }


TARGET = OneLabel()


def _bootstrapped(one: Predictions, two: Predictions) -> dict[str, Interval]:
    """Paired percentile intervals: both runs are looked at on the same 1,000 resamples of the rows.

    A row enters by its class and the two answers alone, so rows that agree in the three are one cell.
    """
    classes = one.logits.shape[1]
    cells, counts = np.unique(np.stack([one.labels, one.predicted, two.predicted]), axis=1, return_counts=True)
    true, predicted, other = cells
    found: dict[str, list[NDArray[np.float64]]] = {metric: [] for metric in ("accuracy", *OF_MARGINS)}
    maps = margins_of_cells(true, predicted, classes=classes), margins_of_cells(true, other, classes=classes)
    for drawn in resamples(counts, classes=classes):
        (hits, n, answers), (other_hits, _, other_answers) = ([drawn @ of_margin for of_margin in of_run] for of_run in maps)
        found["accuracy"].append((other_hits.sum(axis=1) - hits.sum(axis=1)) / len(one))
        for name, metric in OF_MARGINS.items():
            found[name].append(metric(other_hits, n, other_answers) - metric(hits, n, answers))
    return {metric: _as_pair(percentiles(np.concatenate(values))) for metric, values in found.items()}


def _of_auc(one: Predictions, two: Predictions) -> Interval:
    """DeLong's interval of the difference of two AUCs on the same rows."""
    found = [auc_influence(predictions.probabilities, predictions.labels) for predictions in (one, two)]
    if any(isinstance(influence, str) for influence in found):
        return None
    (area, influence), (other_area, other_influence) = (pair for pair in found if not isinstance(pair, str))
    error = float(np.sqrt(((other_influence - influence) ** 2).sum()))
    return None if error == 0 else (other_area - area - Z * error, other_area - area + Z * error)


def _as_pair(interval: list[float] | None) -> Interval:
    return None if interval is None else (interval[0], interval[1])
