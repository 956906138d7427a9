"""The metrics of a split of one label an example, from its predictions alone.

Point values are a line of NumPy each; intervals say how far they would move on another sample of the same size.
`hftl.evaluation.streaming` has the same as metrics of the library `evaluate`. Everything is finite or None: no nan reaches a JSON
file.

Shapes: N examples, K classes, R resamples, C non-empty cells of a confusion matrix.

References: Wilson 1927, doi:10.1080/01621459.1927.10502953 (interval of a share); Efron & Tibshirani 1993, chapter 13 (percentile
bootstrap); DeLong et al. 1988, doi:10.2307/2531595, in ranks as in Sun & Xu 2014, doi:10.1109/LSP.2014.2337313 (interval of an
AUC); Cohen 1960, doi:10.1177/001316446002000104 (kappa); Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006 (Matthews
correlation of K classes); Guo et al. 2017, arXiv:1706.04599 (expected calibration error); Broecker & Smith 2007,
doi:10.1175/WAF993.1 (which calibration error is chance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logit, softmax

from hftl.evaluation.intervals import (
    LEVEL,
    PORTION,
    RESAMPLES,
    margins_of_cells,
    mean_interval,
    percentiles,
    resamples,
    wilson_interval,
    z_of,
)
from hftl.evaluation.predictions import Predictions, check_label_names
from hftl.evaluation.targets import Floats, Integers
from hftl.names import CHOOSERS, ONE_LABEL
from hftl.wording import quoted

BINS = 15

CONFIDENT = 0.9  # the top probability from which on an error is called confident

SHOWN_ERRORS = 5

TOP = 3

MOST_RESAMPLES = 20_000
"""Of a bootstrap interval that is wider than 95 %."""


def quick_metrics(predictions: Predictions) -> dict[str, float]:
    """What may choose the weights, `names.CHOOSERS`; auc where it is defined. Without intervals, for the end of each epoch."""
    return _point_values(predictions, CHOOSERS[ONE_LABEL])


def compute_metrics(predictions: Predictions, label_names: Sequence[str], *, skipped: int = 0) -> dict[str, Any]:
    """Every metric of a split, JSON-ready: floats are finite, what is undefined is None (`records.metrics.OneLabelMetrics`).

    - `n` examples; `skipped`, how many more the source's split had that were left out on request.
    - `accuracy` with its Wilson interval; all intervals are at 95 %.
    - `balanced_accuracy`, the mean recall of the classes that have an example; `kappa`, Cohen's, scikit-learn's
      ``cohen_kappa_score``, and 0 where it has none.
    - `top_3_accuracy` with its Wilson interval, where there are more than three classes: the share of the examples whose class is
      among the three most probable ones.
    - `macro_f1` is scikit-learn's ``f1_score(labels=present, average="macro")``, where the present classes are those with an
      example in the split (or in the resample); `mcc` is scikit-learn's ``matthews_corrcoef``. The intervals of these four are
      percentile bootstrap intervals over 1,000 resamples of the examples with a fixed seed; None when the resamples do not differ
      (nothing, or everything, is wrong), where the bootstrap would claim a certainty that it does not have.
    - `auc` with DeLong's interval on the logit scale; both None when a class is absent, and then `auc_undefined` says why.
      At an `auc` of exactly 0 or 1 DeLong's variance is 0 and says nothing: `auc_interval` is None.
    - `log_loss`, natural logarithm; its interval is that of a mean by the normal approximation, None where the losses are equal.
    - `expected_calibration_error` over 15 bins, `expected_calibration_error_by_chance` (see `calibration_error_by_chance`) and
      `mean_confidence`, the mean top probability.
    - `majority_label`, the split's most frequent class, and `majority_accuracy` (Wilson), what always answering it reaches here.
    - `per_class`: a class without examples has n 0 and recall and f1 None; precision is None where a class was never predicted;
      the intervals of both are Wilson's.
    - `confusion`: K x K counts, rows true, columns predicted.
    - `errors`: how many `n`, how many made with a top probability of 0.9 or more, and the five most confident.
    - `size_unit` and `by_size` (see `accuracy_by_size`); both None where the predictions have no sizes.

    Raises:
        DataError: there are not K label names.
    """
    check_label_names(predictions, label_names)
    labels, predicted, probabilities = predictions.labels, predictions.predicted, predictions.probabilities
    point = _point_values(predictions, POINT_VALUES)
    confusion = confusion_matrix(predicted, labels, classes=len(label_names))
    correct = int(np.trace(confusion))
    bootstrapped, loss_interval = _bootstrap_intervals(confusion, OF_MARGINS), _loss_interval(predictions)
    auc = _auc_with_interval(probabilities, labels, label_names)
    majority = int(confusion.sum(axis=1).argmax())
    frequent = int(confusion.sum(axis=1).max())
    return {
        "n": len(predictions),
        "skipped": skipped,
        "accuracy": point["accuracy"],
        "accuracy_interval": wilson_interval(correct, len(predictions)),
        **_top_accuracy(predictions),
        **{key: value for name in OF_MARGINS for key, value in ((name, point[name]), (f"{name}_interval", bootstrapped[name]))},
        "log_loss": point["log_loss"],
        "log_loss_interval": loss_interval,
        "auc": point.get("auc"),
        "auc_interval": None if isinstance(auc, str) else auc[1],
        **({"auc_undefined": auc} if isinstance(auc, str) else {}),
        "expected_calibration_error": point["expected_calibration_error"],
        "expected_calibration_error_by_chance": calibration_error_by_chance(probabilities),
        "mean_confidence": float(probabilities.max(axis=1).mean()),
        "majority_accuracy": frequent / len(predictions),
        "majority_accuracy_interval": wilson_interval(frequent, len(predictions)),
        "majority_label": label_names[majority],
        "per_class": _per_class(confusion, label_names),
        "confusion": confusion.tolist(),
        "errors": _errors(predictions, label_names),
        "size_unit": predictions.size_unit,
        "by_size": None if predictions.sizes is None else accuracy_by_size(predictions.sizes, predicted == labels),
    }


def interval_of(predictions: Predictions, metric: str, *, level: float) -> list[float] | None:
    """The interval of one metric that may choose the weights, as `compute_metrics` gives it at 95 %; None where that has none.

    A bootstrap takes more resamples the closer the level is to 1, so that as many lie outside: 1,000 at 95 %, 2,000 at 97.5 %, and
    20,000 at the most.
    """
    if metric == "accuracy":
        return wilson_interval(int((predictions.predicted == predictions.labels).sum()), len(predictions), level=level)
    if metric == "log_loss":
        return _loss_interval(predictions, level=level)
    if metric == "auc":
        auc = _auc_with_interval(predictions.probabilities, predictions.labels, level=level)
        return None if isinstance(auc, str) else auc[1]
    confusion = confusion_matrix(predictions.predicted, predictions.labels, classes=predictions.logits.shape[1])
    return _bootstrap_intervals(confusion, [metric], level=level, number=resamples_at(level))[metric]


def resamples_at(level: float) -> int:
    """How many resamples an interval of a level needs, so that as many lie outside as at 95 %, see `interval_of`."""
    return min(MOST_RESAMPLES, round(RESAMPLES * (1 - LEVEL) / (1 - level)))


def _loss_interval(predictions: Predictions, *, level: float = LEVEL) -> list[float] | None:
    interval = mean_interval(losses(predictions.logits, predictions.labels), level=level)
    return interval and [max(0.0, interval[0]), interval[1]]


def losses(logits: NDArray[Any], labels: Integers) -> Floats:
    """(N,) -log p(true class)."""
    return np.asarray(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels])


def confusion_matrix(predicted: Sequence[int] | Integers, labels: Sequence[int] | Integers, *, classes: int) -> Integers:
    """(K, K) counts, rows true, columns predicted."""
    cells = np.asarray(labels, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def macro_f1(true_positives: NDArray[Any], true_counts: NDArray[Any], predicted_counts: NDArray[Any]) -> Floats:
    """Mean over the classes with examples of F1 = 2 TP / (examples + predictions); (..., K) each, result (...).

    A class without examples does not enter the mean, although predicting it costs the others their recall.
    """
    present = true_counts > 0
    f1 = np.divide(2.0 * true_positives, true_counts + predicted_counts, out=np.zeros(true_counts.shape), where=present)
    return np.asarray(f1.sum(axis=-1) / present.sum(axis=-1))


def matthews_correlation(true_positives: NDArray[Any], true_counts: NDArray[Any], predicted_counts: NDArray[Any]) -> Floats:
    """Correlation of true and predicted class, -1 to 1; (..., K) each, result (...). 0 when either is constant (Gorodkin 2004)."""
    t, p = true_counts.astype(np.float64), predicted_counts.astype(np.float64)
    size = t.sum(axis=-1)
    covariance = true_positives.sum(axis=-1) * size - (t * p).sum(axis=-1)
    variance = (size**2 - (t * t).sum(axis=-1)) * (size**2 - (p * p).sum(axis=-1))
    return np.asarray(np.divide(covariance, np.sqrt(variance), out=np.zeros(covariance.shape), where=variance > 0))


def balanced_accuracy(true_positives: NDArray[Any], true_counts: NDArray[Any], predicted_counts: NDArray[Any]) -> Floats:
    """Mean over the classes with examples of TP / examples; (..., K) each, result (...)."""
    present = true_counts > 0
    recall = np.divide(true_positives, true_counts, out=np.zeros(true_counts.shape), where=present)
    return np.asarray(recall.sum(axis=-1) / present.sum(axis=-1))


def cohen_kappa(true_positives: NDArray[Any], true_counts: NDArray[Any], predicted_counts: NDArray[Any]) -> Floats:
    """(accuracy - chance) / (1 - chance), chance being what answers drawn with the frequencies of the predictions would reach.

    (..., K) each, result (...). 0 where both are constant and the same, so that nothing is beyond chance (Cohen 1960).
    """
    t, p = true_counts.astype(np.float64), predicted_counts.astype(np.float64)
    size = t.sum(axis=-1)
    chance = (t * p).sum(axis=-1) / size**2
    accuracy = true_positives.sum(axis=-1) / size
    return np.asarray(np.divide(accuracy - chance, 1 - chance, out=np.zeros(chance.shape), where=chance < 1))


OF_MARGINS: Mapping[str, Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], Floats]] = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "mcc": matthews_correlation,
    "kappa": cohen_kappa,
}
"""The metrics that depend on the examples through true positives, examples and predictions of each class alone."""


@dataclass(frozen=True)
class CalibrationBin:
    """The examples whose top probability lies in (low, high]."""

    low: float
    high: float
    n: int
    correct: int
    confidence: float | None
    """Mean top probability; None when the bin is empty."""


def calibration_bins(probabilities: Floats, labels: Integers, *, bins: int = BINS) -> list[CalibrationBin]:
    """Examples by their top probability, in `bins` bins of equal width over (0, 1], each closed on the right."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = _bin_of(confidence, bins)
    n = np.bincount(place, minlength=bins)
    right = np.bincount(place, weights=correct, minlength=bins)
    total = np.bincount(place, weights=confidence, minlength=bins)
    return [
        CalibrationBin(float(edges[i]), float(edges[i + 1]), int(n[i]), int(right[i]), float(total[i] / n[i]) if n[i] else None)
        for i in range(bins)
    ]


def expected_calibration_error(probabilities: Floats, labels: Integers, *, bins: int = BINS) -> float:
    """Sum over the bins b of n_b / N * |accuracy_b - mean confidence_b| (Guo et al. 2017, equation 3)."""
    filled = [b for b in calibration_bins(probabilities, labels, bins=bins) if b.confidence is not None]
    return sum(abs(b.correct - b.n * b.confidence) for b in filled if b.confidence is not None) / len(labels)


def calibration_error_by_chance(probabilities: Floats, *, bins: int = BINS) -> list[float]:
    """The 95 % range of `expected_calibration_error` if every confidence were exactly right, on as many examples.

    A model that is right with probability c whenever it says c still shows an error above 0, since n examples do not come out even.
    Each of 1,000 times every answer is drawn right with the probability that the model stated (consistency resampling, Broecker &
    Smith 2007; the confidences stay as they are). An error inside the range is no sign of bad calibration. The seed is fixed.
    """
    confidence = probabilities.max(axis=1)
    place = _bin_of(confidence, bins)
    generator = np.random.default_rng(0)
    total = np.zeros(RESAMPLES)
    for stated in (confidence[place == b] for b in np.unique(place)):
        expected, portion = stated.sum(), max(1, PORTION // len(stated))
        for start in range(0, RESAMPLES, portion):
            drawn = generator.random((min(portion, RESAMPLES - start), len(stated))) < stated
            total[start : start + portion] += np.abs(drawn.sum(axis=1) - expected)
    low, high = np.quantile(total / len(confidence), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def accuracy_by_size(sizes: Integers, correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Accuracy of small to large examples, (N,) each: low and high size of a bin (both inside), n, accuracy and its interval.

    There are up to four bins of about as many examples. They end at the quartiles, which are sizes that occur, so equal sizes are
    never parted; where many are equal the bins are fewer: sizes 1, 2, 2, 2, 9 give 1 to 2 and 9 to 9.
    """
    ends = np.unique(np.quantile(sizes, [0.25, 0.5, 0.75, 1.0], method="inverted_cdf"))
    place = np.searchsorted(ends, sizes, side="left")
    rows = []
    for b in range(len(ends)):
        inside = place == b
        hits, n = int(correct[inside].sum()), int(inside.sum())
        low, high = int(sizes[inside].min()), int(sizes[inside].max())
        rows.append({"low": low, "high": high, "n": n, "accuracy": hits / n, "accuracy_interval": wilson_interval(hits, n)})
    return rows


def _top_accuracy(predictions: Predictions) -> dict[str, Any]:
    """The share of examples whose class is among the three most probable, with its interval; nothing where three are all of them.

    Of equal logits the class that comes first counts as the more probable one, as in `Predictions.predicted`.
    """
    if predictions.logits.shape[1] <= TOP:
        return {}
    top = np.argsort(-predictions.logits, axis=1, kind="stable")[:, :TOP]
    hits = int((top == predictions.labels[:, None]).any(axis=1).sum())
    return {f"top_{TOP}_accuracy": hits / len(predictions), f"top_{TOP}_accuracy_interval": wilson_interval(hits, len(predictions))}


def _per_class(confusion: Integers, label_names: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for index, name in enumerate(label_names):
        hits, n, predicted = int(confusion[index, index]), int(confusion[index].sum()), int(confusion[:, index].sum())
        rows.append(
            {
                "label": name,
                "precision": hits / predicted if predicted else None,
                "precision_interval": wilson_interval(hits, predicted) if predicted else None,
                "recall": hits / n if n else None,
                "recall_interval": wilson_interval(hits, n) if n else None,
                "f1": 2 * hits / (n + predicted) if n else None,
                "n": n,
            }
        )
    return rows


def _errors(predictions: Predictions, label_names: Sequence[str]) -> dict[str, Any]:
    """How many errors, how many of them confident, and the most confident ones; of equal ones the first in the split."""
    confidence = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return {
        "n": len(wrong),
        "confident": int((confidence[wrong] >= CONFIDENT).sum()),
        "most_confident": [
            {
                "id": predictions.ids[i],
                "label": label_names[predictions.labels[i]],
                "prediction": label_names[predictions.predicted[i]],
                "confidence": float(confidence[i]),
            }
            for i in order[:SHOWN_ERRORS].tolist()
        ],
    }


def _bootstrap_intervals(
    confusion: Integers, names: Iterable[str], *, level: float = LEVEL, number: int = RESAMPLES
) -> dict[str, list[float] | None]:
    """Percentile intervals of metrics in `OF_MARGINS`."""
    true, predicted = np.nonzero(confusion)
    of_margins = margins_of_cells(true, predicted, classes=len(confusion))
    found: dict[str, list[Floats]] = {name: [] for name in names}
    for drawn in resamples(confusion[true, predicted], classes=len(confusion), number=number):
        true_positives, true_counts, predicted_counts = (drawn @ of_margin for of_margin in of_margins)  # (R, K) each
        for name, values in found.items():
            values.append(OF_MARGINS[name](true_positives, true_counts, predicted_counts))
    return {name: percentiles(np.concatenate(values), level=level) for name, values in found.items()}


def _auc_with_interval(
    probabilities: Floats, labels: Integers, label_names: Sequence[str] | None = None, *, level: float = LEVEL
) -> tuple[float, list[float] | None] | str:
    """AUC and its interval, or the reason why there is none. The interval is symmetric in logit(AUC): it stays in (0, 1)."""
    found = auc_influence(probabilities, labels, label_names)
    if isinstance(found, str):
        return found
    return found[0], auc_interval(*found, level=level)


def auc_interval(area: float, influence: Floats, *, level: float = LEVEL) -> list[float] | None:
    """DeLong's interval of an AUC from how each example moves it, on the logit scale; None where its variance says nothing."""
    error = float(np.sqrt((influence**2).sum()))
    if error == 0.0 or area in (0.0, 1.0):
        return None
    spread = z_of(level) * error / (area * (1.0 - area))
    return [float(expit(logit(area) - spread)), float(expit(logit(area) + spread))]


def auc_influence(probabilities: Floats, labels: Integers, label_names: Sequence[str] | None = None) -> tuple[float, Floats] | str:
    """AUC, and (N,) how each example moves it; or the reason why there is none.

    For one class against the rest, V(i) of a positive example is the share of negatives it beats, of a negative the share of
    positives that beat it, ties counting half; the AUC is the mean of V over either. DeLong's variance is
    var(V over m positives) / m + var(V over n negatives) / n. Written as a sum over examples of each one's squared influence on the
    AUC, it also holds for a mean of K AUCs, whose influences add up, and for a difference of two models', whose influences differ.
    """
    size, classes = probabilities.shape
    counts = np.bincount(labels, minlength=classes)
    if (counts == 0).any():
        absent = [label_names[k] if label_names else str(k) for k in np.flatnonzero(counts == 0).tolist()]
        return f"no example of {quoted(absent, 5)} in the split"
    versus = [1] if classes == 2 else list(range(classes))
    area, influence = 0.0, np.zeros(size)
    for k in versus:
        auc, moved = against_the_rest(probabilities[:, k], labels == k)
        area += auc / len(versus)
        influence += moved / len(versus)
    return min(1.0, area), influence  # a mean of ones may round to more


def _ranks(scores: NDArray[Any]) -> Floats:
    """(N,) the places of the scores in ascending order, from 1; equal ones share the mean of theirs."""
    _, place, times = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(times) - (times - 1) / 2)[place])


def against_the_rest(scores: NDArray[Any], positive: NDArray[np.bool_]) -> tuple[float, Floats]:
    """AUC of one class, (N,) scores of it and whether each example is of it, and (N,) how each example moves it."""
    m, n = int(positive.sum()), int((~positive).sum())
    ranks = _ranks(scores)
    above = np.empty(len(scores))
    above[positive] = (ranks[positive] - _ranks(scores[positive])) / n
    above[~positive] = 1.0 - (ranks[~positive] - _ranks(scores[~positive])) / m
    auc = float(above[positive].mean())
    # m - 1 and n - 1 as in an unbiased variance; a single example has no spread to estimate and adds nothing.
    return auc, (above - auc) / np.where(positive, np.sqrt(m * max(1, m - 1)), np.sqrt(n * max(1, n - 1)))


def _of_margins(metric: Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], Any]) -> Callable[[Predictions], float]:
    return lambda predictions: float(metric(*margins(predictions.predicted, predictions.labels)))


def _point_values(predictions: Predictions, names: Iterable[str]) -> dict[str, float]:
    values = {name: POINT_VALUES[name](predictions) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def area_under_curve(logits: NDArray[Any], labels: Integers) -> float | None:
    """Area under the ROC curve from logits: class 1 against class 0, or the mean over classes of each against the rest.

    None when a class is absent from the labels.
    """
    auc = _auc_with_interval(softmax(np.asarray(logits, dtype=np.float64), axis=1), labels)
    return None if isinstance(auc, str) else auc[0]


def _bin_of(confidence: Floats, bins: int) -> Integers:
    """(N,) number of the bin of (0, 1], closed on the right, in which each confidence lies."""
    return np.asarray(np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], confidence, side="left"), dtype=np.int64)


def margins(predicted: Sequence[int] | Integers, labels: Sequence[int] | Integers) -> tuple[Integers, Integers, Integers]:
    """True positives, examples and predictions of each class, (K,) each."""
    z, y = np.asarray(predicted), np.asarray(labels)
    classes = int(max(z.max(), y.max())) + 1
    return np.bincount(y[z == y], minlength=classes), np.bincount(y, minlength=classes), np.bincount(z, minlength=classes)


POINT_VALUES: Mapping[str, Callable[[Predictions], float | None]] = {
    "accuracy": lambda predictions: float(np.mean(predictions.predicted == predictions.labels)),
    **{name: _of_margins(metric) for name, metric in OF_MARGINS.items()},
    "log_loss": lambda predictions: float(losses(predictions.logits, predictions.labels).mean()),
    "auc": lambda predictions: area_under_curve(predictions.logits, predictions.labels),
    "expected_calibration_error": lambda predictions: expected_calibration_error(predictions.probabilities, predictions.labels),
}
"""What a split's predictions come to, a number a metric; None where it is undefined."""
