"""What evaluation knows of a kind of target: how logits answer, what is stored, which metrics, figures and words say how well.

Predictions, figures, comparisons and verdicts ask a `Target` and do not ask which it is. A further kind is a module with one,
`TARGET`, and a line in `TARGETS`. `hftl.data.targets` has the other half: how targets are read, counted and divided.

Shapes: N examples, K classes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hftl.errors import Problem
from hftl.names import ONE_LABEL, SEVERAL_LABELS
from hftl.records.metrics import Metrics, SplitMetrics, kind_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hftl.evaluation.predictions import Predictions
    from hftl.run import RunDirectory

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

Interval = tuple[float, float] | None

Thresholds = tuple[float, ...] | None
"""Of an answer of several labels the probability from which on each label is one of them, K numbers; None: no other than 0.5, or
an answer that has none."""


Scores = Callable[[Floats], Floats]
"""Takes (R, N) weights of the rows to the (R, C) values of a metric of C candidates; NaN where it is undefined."""


class Target(Protocol):
    """One kind of target."""

    columns: Mapping[str, pa.DataType]
    """Of a file of predictions: those that say what is true and what was predicted, strings dictionary-encoded."""

    # --- an example ---

    def shape(self, count: int, classes: int) -> tuple[int, ...]:
        """Of the labels of `count` examples."""

    def problems(self, ids: Sequence[str], labels: Integers, classes: int) -> Iterator[Problem]:
        """Labels of the right shape that cannot be."""

    def probabilities(self, logits: NDArray[np.float32]) -> Floats:
        """(N, K) what the logits say about each class."""

    def fused(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, K) logits whose probabilities are the mean of those of (N, V, K) logits, of V views of each example."""

    def thresholds(self, logits: NDArray[np.float32], labels: Integers) -> Thresholds:
        """What these examples choose for the answers of a model; None where there is nothing to choose."""

    def predicted(self, logits: NDArray[np.float32], thresholds: Thresholds) -> Integers:
        """What the logits answer, as labels are written."""

    def right(self, predicted: Integers, labels: Integers) -> NDArray[np.bool_]:
        """(N,) whether the whole answer is right."""

    def confidence(self, probabilities: Floats, predicted: Integers) -> Floats:
        """(N,) the probability of the answer."""

    def named(self, labels: Integers, label_names: Sequence[str]) -> list[str]:
        """N labels in words."""

    def has(self, labels: Integers, place: int) -> NDArray[np.bool_]:
        """(N,) whether an example is of a class."""

    def reordered(self, labels: Integers, order: Integers) -> Integers:
        """The same labels where class `order[k]` is class k; `order` is (K,)."""

    # --- a file ---

    def stored(self, predictions: Predictions, label_names: Sequence[str]) -> dict[str, pa.Array]:
        """The columns `columns`."""

    def read(self, table: pa.Table) -> Integers:
        """The labels of a table that has these columns."""

    def contradictions(
        self, table: pa.Table, predictions: Predictions, label_names: Sequence[str]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """What of the columns that people read may differ from the numbers, and for each row whether it does."""

    def split_facts(self, predictions: Predictions, label_names: Sequence[str]) -> dict[str, Any]:
        """What data.json has to say about these rows, see `hftl.run.split_facts`."""

    # --- a split ---

    headline: str
    """The metric that a card opens with."""

    def quick_metrics(self, predictions: Predictions) -> dict[str, float]:
        """What may choose the weights, without intervals."""

    def metrics(self, predictions: Predictions, label_names: Sequence[str], *, skipped: int) -> SplitMetrics:
        """What metrics.json has of a split."""

    def interval(self, predictions: Predictions, metric: str, *, level: float) -> list[float] | None:
        """That of one of `quick_metrics`, made as `metrics` makes it, of another level than 95 %; None where `metrics` has none."""

    def figures(self, split: str) -> Mapping[str, Callable[[RunDirectory, SplitMetrics], Figure]]:
        """The files of figures that show a split, each with what draws it from a run and the split's metrics."""

    def names_shown(self, values: SplitMetrics) -> list[str]:
        """The classes that the figures name, from the metrics of a split."""

    def verdict(
        self,
        metrics: Metrics,
        *,
        openings: Mapping[str, Any] | None,
        stage: str,
        weighted: bool,
        enlarge: str | None,
    ) -> Iterator[str]:
        """How good the model is and where it is worst, see `hftl.evaluation.verdict`."""

    def scores(self, candidates: Sequence[Predictions], metric: str) -> Scores:
        """The metric of each of C candidates on the same rows, by weights of the rows; see `hftl.evaluation.selection`."""

    # --- two models on the same rows ---

    def paired_intervals(self, one: Predictions, two: Predictions) -> dict[str, Interval]:
        """95 % intervals of the differences, second minus first, of what `quick_metrics` gives."""


TARGETS: Mapping[str, str] = {
    ONE_LABEL: "hftl.evaluation.one_label",
    SEVERAL_LABELS: "hftl.evaluation.several_labels",
}
"""Kind of target -> the module that has it as `TARGET`; imported when it is asked for, since what it says needs predictions."""


def target_of_metrics(values: SplitMetrics) -> Target:
    """The kind of target that the metrics of a split are about."""
    return target_named(kind_of(values))


def target_named(kind: str) -> Target:
    """What evaluation knows of a kind of target, by its name in `hftl.names`."""
    target: Target = importlib.import_module(TARGETS[kind]).TARGET
    return target
