"""The metrics of a split of several labels an example, from its predictions alone.

Every metric is a function of the predictions and of weights of the rows: ones give its value, counts of a resample those of the
bootstrap, the same counts for two models their paired difference. Nothing here is nan but a metric that no label defines.

Shapes: N examples, K labels, R resamples.

References: Godbole & Sarawagi 2004, doi:10.1007/978-3-540-24775-3_5 (Hamming loss, metrics of an example); DeLong et al. 1988,
doi:10.2307/2531595 (interval of an AUC); Efron & Tibshirani 1993, chapter 13 (percentile bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hftl.evaluation.intervals import LEVEL, RESAMPLES, Z, mean_interval, percentiles, resamples, wilson_interval
from hftl.evaluation.metrics import accuracy_by_size, against_the_rest, auc_interval, macro_f1, resamples_at
from hftl.evaluation.predictions import Predictions, check_label_names
from hftl.evaluation.targets import Floats, Integers
from hftl.names import CHOOSERS, SEVERAL_LABELS


def choose_thresholds(probabilities: Floats, labels: Integers) -> tuple[float, ...]:
    """For each label the probability from which on it is an answer, so that its F1 on these examples is highest.

    It lies half way between two probabilities that occur, or below all of them; of equal F1 the highest is taken. A label that no
    example has, or every one, keeps 0.5.

    Probabilities 0.9, 0.6, 0.4, 0.1 of examples that have the label, have it not, have it, have it not: answering for the first
    alone gives F1 2 / (1 + 2) = 0.67, for the first three 4 / (3 + 2) = 0.8, for all 4 / (4 + 2) = 0.67. So 0.25.
    """
    return tuple(_threshold(probabilities[:, k], labels[:, k] > 0) for k in range(labels.shape[1]))


def _threshold(scores: Floats, positive: NDArray[np.bool_]) -> float:
    if not 0 < positive.sum() < len(positive):
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    hits, answers = np.cumsum(positive[order]), np.arange(1, len(scores) + 1)
    f1 = 2 * hits / (answers + positive.sum())
    f1[:-1][ordered[:-1] == ordered[1:]] = -1.0  # no threshold parts equal probabilities
    best = int(f1.argmax())
    return float((ordered[best] + (ordered[best + 1] if best + 1 < len(ordered) else 0.0)) / 2)


def quick_metrics(predictions: Predictions) -> dict[str, float]:
    """What may choose the weights, at the thresholds that these examples choose unless they have some; auc where it is defined."""
    if predictions.thresholds is None:
        predictions = predictions.choose_thresholds()
    values = {name: point_value(predictions, name) for name in CHOOSERS[SEVERAL_LABELS]}
    return {name: value for name, value in values.items() if value is not None}


def point_value(predictions: Predictions, name: str) -> float | None:
    """The value of one metric; None where it is undefined."""
    value = float(VALUES[name](predictions, np.ones((1, len(predictions))))[0])
    return None if np.isnan(value) else value


def compute_metrics(predictions: Predictions, label_names: Sequence[str], *, skipped: int = 0) -> dict[str, Any]:
    """Every metric of a split, JSON-ready: floats are finite, what is undefined is None. All intervals are at 95 %.

    - `target` "several_labels", `n` examples; `skipped` as of one label.
    - `accuracy`: the share of examples whose whole set of labels is right (exact match, Wilson).
    - `micro_f1`, `macro_f1`: scikit-learn's, the second over the labels that an example here has; `samples_f1` the mean over
      examples of 2 |true and predicted| / (|true| + |predicted|), 1 where both are empty.
    - `mean_average_precision`: the mean over the labels that an example here has of scikit-learn's ``average_precision_score``.
    - `auc`: the mean over the labels that some examples have and some have not, with DeLong's interval; `auc_undefined` says why
      there is none.
    - `hamming_loss`: the share of wrong answers, over examples and labels; `log_loss`: the mean binary cross-entropy of an answer.
    - The intervals of micro and macro F1 and of the mean average precision are percentile bootstrap intervals over 1,000 resamples
      of the examples with a fixed seed, those of the means by the normal approximation; None where nothing differs.
    - `majority_label`: the set of labels that most examples have, and `majority_accuracy` (Wilson), what always answering it
      reaches; `every_label_macro_f1`: what always answering every label reaches, the least that a macro F1 has to beat.
    - `labels`: mean number of labels of an example, `true` and `predicted`, and how many examples have none of them.
    - `per_class`: of each label `n`, precision and recall (Wilson), `f1`, `average_precision`, `auc`, and its `threshold`.
    - `size_unit` and `by_size`, see `accuracy_by_size`: of whole answers.

    Raises:
        DataError: there are not K label names.
    """
    check_label_names(predictions, label_names)
    n, right = len(predictions), predictions.right
    sets, rows = np.unique(predictions.labels, axis=0, return_counts=True)
    majority = int(rows.argmax())
    intervals = {
        **{name: interval_of(predictions, name) for name in CHOOSERS[SEVERAL_LABELS] if name not in BOOTSTRAPPED},
        **_bootstrap_intervals(predictions, BOOTSTRAPPED),
    }
    return {
        "target": SEVERAL_LABELS,
        "n": n,
        "skipped": skipped,
        **{
            key: value
            for name in CHOOSERS[SEVERAL_LABELS]
            for key, value in ((name, point_value(predictions, name)), (f"{name}_interval", intervals[name]))
        },
        **({} if _areas(predictions) is not None else {"auc_undefined": "of every label all examples have it, or none"}),
        "majority_accuracy": int(rows[majority]) / n,
        "majority_accuracy_interval": wilson_interval(int(rows[majority]), n),
        "majority_label": predictions.target.named(sets[majority : majority + 1], label_names)[0],
        "every_label_macro_f1": _every_label(predictions.labels),
        "labels": {
            "true": float(predictions.labels.sum(axis=1).mean()),
            "predicted": float(predictions.predicted.sum(axis=1).mean()),
            "without": int((predictions.labels.sum(axis=1) == 0).sum()),
            "without_predicted": int((predictions.predicted.sum(axis=1) == 0).sum()),
        },
        "per_class": list(_per_class(predictions, label_names)),
        "size_unit": predictions.size_unit,
        "by_size": None if predictions.sizes is None else accuracy_by_size(predictions.sizes, right),
    }


def interval_of(predictions: Predictions, metric: str, *, level: float = LEVEL) -> list[float] | None:
    """The interval of one of `quick_metrics`; a bootstrap takes more resamples at a higher level, as that of one label does."""
    if metric == "accuracy":
        return wilson_interval(int(predictions.right.sum()), len(predictions), level=level)
    if metric in OF_ROWS:
        return _within_0(mean_interval(OF_ROWS[metric](predictions), level=level))
    if metric == "auc":
        areas = _areas(predictions)
        return None if areas is None else auc_interval(*areas, level=level)
    return _bootstrap_intervals(predictions, [metric], level=level, number=resamples_at(level))[metric]


def _within_0(interval: list[float] | None) -> list[float] | None:
    return interval and [max(0.0, interval[0]), interval[1]]


def _every_label(labels: Integers) -> float:
    """Macro F1 of answering every label always."""
    counts = labels.sum(axis=0).astype(np.float64)
    return float(macro_f1(counts, counts, np.full(len(counts), float(len(labels)))))


def _per_class(predictions: Predictions, label_names: Sequence[str]) -> Iterator[dict[str, Any]]:
    truth, said = predictions.labels, predictions.predicted
    one = np.ones((1, len(predictions)))
    for k, name in enumerate(label_names):
        hits, n, predicted = int((truth[:, k] & said[:, k]).sum()), int(truth[:, k].sum()), int(said[:, k].sum())
        both = 0 < n < len(truth)
        yield {
            "label": name,
            "precision": hits / predicted if predicted else None,
            "precision_interval": wilson_interval(hits, predicted) if predicted else None,
            "recall": hits / n if n else None,
            "recall_interval": wilson_interval(hits, n) if n else None,
            "f1": 2 * hits / (n + predicted) if n else None,
            "average_precision": float(average_precision(predictions.logits[:, k], truth[:, k] > 0, one)[0]) if n else None,
            "auc": against_the_rest(predictions.logits[:, k], truth[:, k] > 0)[0] if both else None,
            "threshold": 0.5 if predictions.thresholds is None else predictions.thresholds[k],
            "n": n,
        }


# --- a metric, by weights of the rows -----------------------------------------------------------------------------------------


def losses(predictions: Predictions) -> Floats:
    """(N,) the mean over the labels of the binary cross-entropy."""
    logits = predictions.logits.astype(np.float64)
    return np.asarray((np.logaddexp(0, logits) - logits * predictions.labels).mean(axis=1))


def samples_f1(predictions: Predictions) -> Floats:
    """(N,) F1 of the set of labels of each example, 1 where there is none and none is predicted."""
    truth, said = predictions.labels, predictions.predicted
    both, all_of_them = (truth & said).sum(axis=1), truth.sum(axis=1) + said.sum(axis=1)
    return np.asarray(np.divide(2.0 * both, all_of_them, out=np.ones(len(truth)), where=all_of_them > 0))


OF_ROWS: Mapping[str, Callable[[Predictions], Floats]] = {
    "samples_f1": samples_f1,
    "hamming_loss": lambda predictions: np.asarray((predictions.predicted != predictions.labels).mean(axis=1)),
    "log_loss": losses,
}
"""The metrics that are means over the examples."""


def _mean(of_rows: Callable[[Predictions], Floats]) -> Callable[[Predictions, Floats], Floats]:
    return lambda predictions, weights: _ratio(weights @ of_rows(predictions), weights.sum(axis=1))


def _ratio(of: Floats, to: Floats) -> Floats:
    return np.asarray(np.divide(of, to, out=np.full(of.shape, np.nan), where=to > 0))


def _counts(predictions: Predictions, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """True positives, examples and predictions of each label, (R, K) each."""
    truth, said = predictions.labels.astype(np.float64), predictions.predicted.astype(np.float64)
    return weights @ (truth * said), weights @ truth, weights @ said


def _micro_f1(predictions: Predictions, weights: Floats) -> Floats:
    hits, truth, said = (counts.sum(axis=1) for counts in _counts(predictions, weights))
    return _ratio(2 * hits, truth + said)


def _macro_f1(predictions: Predictions, weights: Floats) -> Floats:
    hits, truth, said = _counts(predictions, weights)
    present = truth > 0
    f1 = np.divide(2 * hits, truth + said, out=np.zeros(hits.shape), where=present)
    return _ratio(f1.sum(axis=1), present.sum(axis=1).astype(np.float64))


def average_precision(scores: NDArray[Any], positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """(R,) sum over the positive examples of the precision among all that score as high, over their number; NaN without one.

    Scores 3, 2, 1 of a positive, a negative and a positive example: (1/1 + 2/3) / 2 = 0.833.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.r_[ordered[:-1] != ordered[1:], True])  # of those that score alike
    ends = last[np.searchsorted(last, np.flatnonzero(positive[order]))]
    sorted_weights = weights[:, order]
    of_positives = sorted_weights[:, positive[order]]
    every = np.cumsum(sorted_weights, axis=1)[:, ends]
    hits = np.cumsum(sorted_weights * positive[order], axis=1)[:, ends]
    precision = np.divide(hits, every, out=np.zeros(hits.shape), where=every > 0)
    return _ratio((of_positives * precision).sum(axis=1), of_positives.sum(axis=1))


def _mean_average_precision(predictions: Predictions, weights: Floats) -> Floats:
    """Over the labels that an example has."""
    total, number = np.zeros(len(weights)), np.zeros(len(weights))
    for k in np.flatnonzero(predictions.labels.any(axis=0)):
        value = average_precision(predictions.logits[:, k], predictions.labels[:, k] > 0, weights)
        total += np.nan_to_num(value)
        number += ~np.isnan(value)
    return _ratio(total, number)


def _auc(predictions: Predictions, weights: Floats) -> Floats:
    """Over the labels that some examples have and some have not."""
    total, number = np.zeros(len(weights)), np.zeros(len(weights))
    for k in range(predictions.labels.shape[1]):
        scores, positive = predictions.logits[:, k], predictions.labels[:, k] > 0
        order = np.argsort(scores, kind="stable")
        starts = np.flatnonzero(np.r_[True, scores[order][1:] != scores[order][:-1]])  # examples that score alike are a tie
        of_positive = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
        of_negative = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
        below = np.cumsum(of_negative, axis=1) - of_negative / 2
        area = _ratio((of_positive * below).sum(axis=1), of_positive.sum(axis=1) * of_negative.sum(axis=1))
        total += np.nan_to_num(area)
        number += ~np.isnan(area)
    return _ratio(total, number)


VALUES: Mapping[str, Callable[[Predictions, Floats], Floats]] = {
    "accuracy": _mean(lambda predictions: predictions.right.astype(np.float64)),
    "micro_f1": _micro_f1,
    "macro_f1": _macro_f1,
    "mean_average_precision": _mean_average_precision,
    "auc": _auc,
    **{name: _mean(of_rows) for name, of_rows in OF_ROWS.items()},
}
"""What predictions come to by (R, N) weights of their rows, (R,) numbers a metric; NaN where it is undefined."""

BOOTSTRAPPED = ("micro_f1", "macro_f1", "mean_average_precision")
"""Those for whose intervals there is no formula."""


def _bootstrap_intervals(
    predictions: Predictions, names: Iterable[str], *, level: float = LEVEL, number: int = RESAMPLES
) -> dict[str, list[float] | None]:
    found: dict[str, list[Floats]] = {name: [] for name in names}
    for drawn in drawn_weights(predictions, number=number):
        for name, values in found.items():
            values.append(VALUES[name](predictions, drawn))
    return {name: _percentiles(np.concatenate(values), level=level) for name, values in found.items()}


def drawn_weights(predictions: Predictions, *, number: int = RESAMPLES) -> Iterator[Floats]:
    """How often each example is in a resample of all with replacement, (R, N) at a time; `number` in all, always the same."""
    for drawn in resamples(np.ones(len(predictions), dtype=np.int64), classes=predictions.logits.shape[1], number=number):
        yield drawn.astype(np.float64)


def _percentiles(values: Floats, *, level: float = LEVEL) -> list[float] | None:
    values = values[~np.isnan(values)]
    return percentiles(values, level=level) if len(values) else None


def _areas(predictions: Predictions) -> tuple[float, Floats] | None:
    """The mean AUC, and (N,) how each example moves it; None where no label has both examples with it and without it."""
    some = [k for k in range(predictions.labels.shape[1]) if 0 < predictions.labels[:, k].sum() < len(predictions)]
    if not some:
        return None
    found = [against_the_rest(predictions.logits[:, k], predictions.labels[:, k] > 0) for k in some]
    return min(1.0, float(np.mean([area for area, _ in found]))), np.asarray(np.mean([moved for _, moved in found], axis=0))


def paired_macro_f1(one: Predictions, two: Predictions) -> list[float] | None:
    """That of `paired_intervals` for macro F1 alone."""
    drawn = [_macro_f1(two, weights) - _macro_f1(one, weights) for weights in drawn_weights(one)]
    return _percentiles(np.concatenate(drawn))


def paired_intervals(one: Predictions, two: Predictions) -> dict[str, list[float] | None]:
    """95 % intervals of the differences of `quick_metrics`, second minus first, on the same rows."""
    found: dict[str, list[Floats]] = {name: [] for name in BOOTSTRAPPED}
    for drawn in drawn_weights(one):
        for name, values in found.items():
            values.append(VALUES[name](two, drawn) - VALUES[name](one, drawn))
    of_rows = {"accuracy": lambda predictions: predictions.right.astype(np.float64), **OF_ROWS}
    areas, others = _areas(one), _areas(two)
    area = None
    if areas is not None and others is not None:
        error = Z * float(np.sqrt(((others[1] - areas[1]) ** 2).sum()))  # DeLong's of a difference
        area = None if error == 0 else [others[0] - areas[0] - error, others[0] - areas[0] + error]
    return {
        **{name: mean_interval(values(two) - values(one)) for name, values in of_rows.items()},
        **{name: _percentiles(np.concatenate(values)) for name, values in found.items()},
        "auc": area,
    }
