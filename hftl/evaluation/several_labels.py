"""Several labels an example: each logit goes through a sigmoid, and each label whose probability reaches its threshold is answered.

The thresholds are chosen on validation and stored with the model; without them each is 0.5.

Shapes: N examples, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logsumexp

from hftl.errors import Problem
from hftl.evaluation import several_metrics
from hftl.evaluation.predictions import Predictions, list_matrix
from hftl.evaluation.targets import Floats, Integers, Interval, Scores, Thresholds
from hftl.evaluation.verdict import opened, small_validation
from hftl.names import HEADLINES, NO_LABEL, SEVERAL_LABELS
from hftl.records.metrics import Metrics, SeveralLabelsMetrics, SplitMetrics, f1_of, of_several_labels
from hftl.run import several_split_facts
from hftl.wording import quoted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hftl.run import RunDirectory

NAMED = 5


class SeveralLabels:
    """See `hftl.evaluation.targets.Target`; labels are (N, K) of 0 and 1."""

    columns: Mapping[str, pa.DataType] = {
        "label": pa.list_(pa.string()),
        "prediction": pa.list_(pa.string()),
        "has_label": pa.list_(pa.int8()),
    }
    headline = HEADLINES[SEVERAL_LABELS]

    # --- an example ---

    def shape(self, count: int, classes: int) -> tuple[int, ...]:
        """(N, K)"""
        return (count, classes)

    def problems(self, ids: Sequence[str], labels: Integers, classes: int) -> Iterator[Problem]:
        """Other numbers than 0 and 1."""
        bad = np.flatnonzero(((labels != 0) & (labels != 1)).any(axis=1))
        if bad.size:
            yield Problem("labels", f"other than 0 and 1 for {quoted((ids[i] for i in bad.tolist()), 5)}")

    def probabilities(self, logits: NDArray[np.float32]) -> Floats:
        """Sigmoid, in float64."""
        return np.asarray(expit(logits.astype(np.float64)))

    def fused(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """log mean p - log mean (1 - p), of which the sigmoid is mean p, where p are the sigmoids."""
        wide = logits.astype(np.float64)
        return np.asarray(logsumexp(log_expit(wide), axis=1) - logsumexp(log_expit(-wide), axis=1), dtype=np.float32)

    def thresholds(self, logits: NDArray[np.float32], labels: Integers) -> Thresholds:
        """As `hftl.evaluation.several_metrics.choose_thresholds`."""
        return several_metrics.choose_thresholds(self.probabilities(logits), labels)

    def predicted(self, logits: NDArray[np.float32], thresholds: Thresholds) -> Integers:
        """(N, K) 1 where the probability of a label reaches its threshold."""
        least = 0.5 if thresholds is None else np.asarray(thresholds, dtype=np.float64)
        return np.asarray(self.probabilities(logits) >= least, dtype=np.int64)

    def right(self, predicted: Integers, labels: Integers) -> NDArray[np.bool_]:
        """The same set of labels."""
        return np.asarray((predicted == labels).all(axis=1))

    def confidence(self, probabilities: Floats, predicted: Integers) -> Floats:
        """The probability of the whole answer, as if its labels were independent: a product over all K."""
        return np.asarray(np.where(predicted == 1, probabilities, 1 - probabilities).prod(axis=1))

    def named(self, labels: Integers, label_names: Sequence[str]) -> list[str]:
        """ "joy, anger", or "no label"."""
        return [", ".join(own) or NO_LABEL for own in self._lists(labels, label_names)]

    def _lists(self, labels: Integers, label_names: Sequence[str]) -> list[list[str]]:
        return [[label_names[place] for place in np.flatnonzero(row).tolist()] for row in labels]

    def has(self, labels: Integers, place: int) -> NDArray[np.bool_]:
        """It has the label."""
        return np.asarray(labels[:, place] == 1)

    def reordered(self, labels: Integers, order: Integers) -> Integers:
        """Its columns in that order."""
        return np.asarray(labels[:, order])

    # --- a file ---

    def stored(self, predictions: Predictions, label_names: Sequence[str]) -> dict[str, pa.Array]:
        """Two columns of lists of names, and K numbers of 0 and 1 a row."""
        return {
            "label": pa.array(self._lists(predictions.labels, label_names), pa.list_(pa.string())),
            "prediction": pa.array(self._lists(predictions.predicted, label_names), pa.list_(pa.string())),
            "has_label": pa.array(predictions.labels.astype(np.int8).tolist(), pa.list_(pa.int8())),
        }

    def read(self, table: pa.Table) -> Integers:
        """The true labels."""
        return np.asarray(list_matrix(table["has_label"], "column has_label"), dtype=np.int64)

    def contradictions(
        self, table: pa.Table, predictions: Predictions, label_names: Sequence[str]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Both columns of names."""
        sides = (("label", "has_label", predictions.labels), ("prediction", "the logits and thresholds", predictions.predicted))
        for column, origin, expected in sides:
            same = zip(table[column].to_pylist(), self._lists(expected, label_names), strict=True)
            yield f"column {column} does not follow from {origin}", np.array([one != other for one, other in same])

    def split_facts(self, predictions: Predictions, label_names: Sequence[str]) -> dict[str, Any]:
        """As `hftl.run.several_split_facts`."""
        own = (np.flatnonzero(row).tolist() for row in predictions.labels)
        return several_split_facts(predictions.ids, own, label_names)

    # --- a split ---

    def quick_metrics(self, predictions: Predictions) -> dict[str, float]:
        """As `hftl.evaluation.several_metrics.quick_metrics`."""
        return several_metrics.quick_metrics(predictions)

    def metrics(self, predictions: Predictions, label_names: Sequence[str], *, skipped: int) -> SeveralLabelsMetrics:
        """As `hftl.evaluation.several_metrics.compute_metrics`."""
        return cast("SeveralLabelsMetrics", several_metrics.compute_metrics(predictions, label_names, skipped=skipped))

    def interval(self, predictions: Predictions, metric: str, *, level: float) -> list[float] | None:
        """As `hftl.evaluation.several_metrics.interval_of`."""
        return several_metrics.interval_of(predictions, metric, level=level)

    def figures(self, split: str) -> Mapping[str, Callable[[RunDirectory, SplitMetrics], Figure]]:
        """How well each label is found, and what its threshold does."""
        from hftl.evaluation import report  # with it comes matplotlib, which only drawing needs

        def thresholds(run: RunDirectory, values: SplitMetrics) -> Figure:
            return report.thresholds_figure(Predictions.load(run.predictions(split)), values, split)

        return {
            f"labels_{split}.png": lambda run, values: report.labels_figure(values, split),
            f"thresholds_{split}.png": thresholds,
        }

    def names_shown(self, values: SplitMetrics) -> list[str]:
        """All labels: the figure has a bar for each."""
        return [row["label"] for row in values["per_class"]]

    def verdict(
        self,
        metrics: Metrics,
        *,
        openings: Mapping[str, Any] | None,
        stage: str,
        weighted: bool,
        enlarge: str | None,
    ) -> Iterator[str]:
        """Macro F1 against answering every label, the labels that are never found and the one that is found worst."""
        of_splits = {split: of_several_labels(values) for split, values in metrics.items()}
        for split, values in of_splits.items():
            interval = values["macro_f1_interval"]
            between = "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
            yield (
                f"{split}{opened(openings) if split == 'test' else ''}: macro F1 {values['macro_f1']:.4f}{between},"
                f" n = {values['n']:,} · micro F1 {values['micro_f1']:.4f} · exact match {values['accuracy']:.4f}"
                f" · every label always {values['every_label_macro_f1']:.4f}"
            )
        split = "test" if "test" in metrics else "validation"
        values = of_splits[split]
        advice = f"try: another stages.{stage}.lr, or more stages.{stage}.epochs"
        if (values["macro_f1_interval"] or [values["macro_f1"]])[0] <= values["every_label_macro_f1"]:
            yield f"  not shown to be better than to answer every label always. {advice}"
        rows = [row for row in values["per_class"] if row["n"]]
        never = [row["label"] for row in rows if not row["f1"]]
        if never:
            yield f"  never found on {split}: {quoted(never, NAMED)}. {advice}"
        worst = min((row for row in rows if row["f1"]), key=f1_of, default=None)
        if worst is not None and f1_of(worst) < 1:
            recall_interval = worst["recall_interval"]
            assert recall_interval is not None  # the label has examples
            low, high = recall_interval
            yield (
                f'  worst label on {split}: "{worst["label"]}", F1 {f1_of(worst):.3f}, recall {worst["recall"]:.3f}'
                f" [{low:.3f}, {high:.3f}], n = {worst['n']:,}"
            )
        yield from small_validation(metrics["validation"], enlarge)

    def scores(self, candidates: Sequence[Predictions], metric: str) -> Scores:
        """Each at its own thresholds."""
        own = [each if each.thresholds is not None else each.choose_thresholds() for each in candidates]
        return lambda weights: np.stack([several_metrics.VALUES[metric](each, weights) for each in own], axis=1)

    # --- two models on the same rows ---

    def paired_intervals(self, one: Predictions, two: Predictions) -> dict[str, Interval]:
        """By the bootstrap, of the AUC by DeLong, and of means as that of a mean."""
        found = several_metrics.paired_intervals(one, two)
        return {name: None if interval is None else (interval[0], interval[1]) for name, interval in found.items()}


TARGET = SeveralLabels()
