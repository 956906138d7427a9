"""Metrics against scikit-learn and hand-worked numbers; intervals against their definitions."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_factory import CLOTHES, REVIEWS, make_predictions
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from hftl.errors import DataError, RunError
from hftl.evaluation.intervals import wilson_interval
from hftl.evaluation.metrics import (
    _auc_with_interval,
    accuracy_by_size,
    calibration_bins,
    calibration_error_by_chance,
    compute_metrics,
    expected_calibration_error,
    interval_of,
    matthews_correlation,
    quick_metrics,
)
from hftl.evaluation.predictions import MOST_ROWS, Predictions, stored_label_names
from hftl.evaluation.streaming import classification_metrics
from hftl.names import CHOOSERS, ONE_LABEL


def predictions_of(labels: list[int], logits: list[list[float]]) -> Predictions:
    return Predictions(
        [f"test/{i}" for i in range(len(labels))], np.array(labels, dtype=np.int64), np.array(logits, dtype=np.float32)
    )


def sure_of(classes: list[int], *, count: int) -> list[list[float]]:
    """Logits that predict each of these classes."""
    return [[4.0 * (k == wanted) for k in range(count)] for wanted in classes]


@pytest.mark.parametrize("names", [REVIEWS, CLOTHES], ids=["2 classes", "10 classes"])
def test_every_metric_equals_scikit_learns(names: tuple[str, ...]) -> None:
    predictions = make_predictions(names, 300, seed=1)
    y, z, p = predictions.labels, predictions.predicted, predictions.probabilities
    values = compute_metrics(predictions, names)
    assert values["n"] == 300
    assert values["accuracy"] == pytest.approx(reference.accuracy_score(y, z))
    assert values["macro_f1"] == pytest.approx(reference.f1_score(y, z, average="macro"))
    assert values["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(y, z))
    assert values["kappa"] == pytest.approx(reference.cohen_kappa_score(y, z))
    if len(names) > 3:
        assert values["top_3_accuracy"] == pytest.approx(reference.top_k_accuracy_score(y, p, k=3))
    assert values["mcc"] == pytest.approx(reference.matthews_corrcoef(y, z))
    assert values["log_loss"] == pytest.approx(reference.log_loss(y, p))
    score = p[:, 1] if len(names) == 2 else p
    assert values["auc"] == pytest.approx(reference.roc_auc_score(y, score, multi_class="ovr", average="macro"))
    assert values["confusion"] == reference.confusion_matrix(y, z).tolist()
    precision, recall, f1, n = reference.precision_recall_fscore_support(y, z)
    for k, row in enumerate(values["per_class"]):
        assert row["label"] == names[k]
        assert [row["precision"], row["recall"], row["f1"], row["n"]] == pytest.approx([precision[k], recall[k], f1[k], n[k]])
    assert values["majority_accuracy"] == max(n) / 300
    assert values["majority_label"] == names[int(np.argmax(n))]


def test_quick_metrics_are_the_same_numbers_without_intervals() -> None:
    predictions = make_predictions(CLOTHES, 120, seed=2)
    values = compute_metrics(predictions, CLOTHES)
    quick = quick_metrics(predictions)
    assert set(quick) == {"accuracy", "balanced_accuracy", "macro_f1", "mcc", "kappa", "log_loss", "auc"}
    assert quick == {name: values[name] for name in quick}


def test_batches_streamed_through_evaluate_give_the_metrics_of_the_whole() -> None:
    predictions = make_predictions(CLOTHES, 100, seed=3)
    metrics = classification_metrics(calibration=True)
    for part in np.array_split(np.arange(100), 7):
        metrics.add_batch(references=predictions.labels[part], logits=predictions.logits[part])
    streamed = metrics.compute()
    whole = compute_metrics(predictions, CLOTHES)
    assert streamed == {name: pytest.approx(whole[name], abs=1e-12) for name in streamed}
    assert all(isinstance(metric, evaluate.Metric) for metric in metrics.evaluation_modules)


def test_metrics_leave_no_file_and_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a metric opened a connection"))
    quick_metrics(make_predictions(REVIEWS, 20, seed=0))
    assert list(tmp_path.iterdir()) == []


def test_wilson_interval_of_all_and_of_none_ends_exactly_there() -> None:
    assert wilson_interval(42, 42)[1] == 1.0 and wilson_interval(0, 42)[0] == 0.0


def test_wilson_interval_of_8_in_10() -> None:
    # (0.8 + 3.8415 / 20) / 1.38415 = 0.71674; half: 1.96 / 1.38415 * sqrt(0.016 + 0.0096037) = 0.22658
    assert wilson_interval(8, 10) == pytest.approx([0.49016, 0.94332], abs=1e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=50, deadline=None)
def test_wilson_interval_is_scipys(case: tuple[int, int]) -> None:
    expected = binomtest(*case).proportion_ci(method="wilson")
    assert wilson_interval(*case) == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_a_class_without_examples_is_listed_and_left_out_of_the_macro_mean() -> None:
    # True: a a a a b b. Predicted: a a a c b b, so a has TP 3 of 4 examples and 3 predictions, b 2 of 2, c one false prediction.
    names = ("a", "b", "c", "d")
    predictions = predictions_of([0, 0, 0, 0, 1, 1], sure_of([0, 0, 0, 2, 1, 1], count=4))
    values = compute_metrics(predictions, names)
    assert values["macro_f1"] == pytest.approx((6 / 7 + 1) / 2)
    expected = reference.f1_score(predictions.labels, predictions.predicted, labels=[0, 1], average="macro")
    assert values["macro_f1"] == pytest.approx(expected)
    never = {"recall": None, "recall_interval": None, "f1": None, "n": 0}
    # Wilson with 0 of 1: the upper end is 3.8415 / 4.8415 = 0.7935.
    predicted_once = {"precision": 0.0, "precision_interval": [0.0, pytest.approx(0.79345, abs=1e-5)]}
    assert values["per_class"][2] == {"label": "c", **predicted_once, **never}
    assert values["per_class"][3] == {"label": "d", "precision": None, "precision_interval": None, **never}
    assert values["auc"] is None and values["auc_interval"] is None
    assert values["auc_undefined"] == 'no example of "c", "d" in the split'
    assert "auc" not in quick_metrics(predictions)


def test_a_split_of_one_class_gives_json_without_nan() -> None:
    values = compute_metrics(predictions_of([1, 1, 1], sure_of([1, 0, 1], count=2)), REVIEWS)
    assert "NaN" not in json.dumps(values, allow_nan=False)
    assert values["auc_undefined"] == 'no example of "neg" in the split'
    assert values["mcc"] == 0.0
    assert values["majority_accuracy"] == 1.0


def test_perfect_predictions_claim_no_interval_that_the_bootstrap_cannot_give() -> None:
    classes = [0, 1] * 10
    values = compute_metrics(predictions_of(classes, sure_of(classes, count=2)), REVIEWS)
    assert (values["accuracy"], values["macro_f1"], values["mcc"], values["auc"]) == (1.0, 1.0, 1.0, 1.0)
    assert values["macro_f1_interval"] is values["mcc_interval"] is values["auc_interval"] is None
    # Wilson with k = n = 20: 1 / (1 + 3.8415 / 20) = 0.8389
    assert values["accuracy_interval"] == pytest.approx([0.8389, 1.0], abs=1e-4)


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 40), st.floats(0.0, 200.0))
@settings(max_examples=20, deadline=None)
def test_no_predictions_whatever_give_a_nan(seed: int, classes: int, n: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    names = [str(k) for k in range(classes)]
    predictions = predictions_of(rng.integers(0, classes, n).tolist(), (scale * rng.normal(size=(n, classes))).tolist())
    values = compute_metrics(predictions, names)
    json.dumps(values, allow_nan=False)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "kappa", "auc"):
        if values[f"{name}_interval"] is not None:
            low, high = values[f"{name}_interval"]
            assert (-1.0 if name in {"mcc", "kappa"} else 0.0) <= low <= high <= 1.0


def test_bootstrap_intervals_are_those_of_resampled_examples() -> None:
    """The multinomial draw over the confusion matrix against resampling the examples one by one."""
    predictions = make_predictions(("a", "b", "c"), 150, seed=5, skill=1.5)
    values = compute_metrics(predictions, ("a", "b", "c"))
    rng = np.random.default_rng(1)
    f1, mcc = [], []
    for _ in range(300):
        drawn = rng.integers(0, 150, 150)
        y, z = predictions.labels[drawn], predictions.predicted[drawn]
        f1.append(reference.f1_score(y, z, average="macro"))
        mcc.append(reference.matthews_corrcoef(y, z))
    assert values["macro_f1_interval"] == pytest.approx(np.quantile(f1, [0.025, 0.975]).tolist(), abs=0.02)
    assert values["mcc_interval"] == pytest.approx(np.quantile(mcc, [0.025, 0.975]).tolist(), abs=0.03)


def test_balanced_accuracy_kappa_and_the_top_three_by_hand() -> None:
    # Class 0: 2 of 3 right, class 1: 1 of 1, class 2: 0 of 1, class 3 has no example. Predictions: two of 0, three of 1.
    logits = [[4.0, 1, 0, 0], [4.0, 1, 0, 0], [1.0, 4, 2, 0], [1.0, 4, 2, 0], [2.0, 4, 1, 3]]
    values = compute_metrics(predictions_of([0, 0, 0, 1, 2], logits), ("a", "b", "c", "d"))
    assert values["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    chance = (3 * 2 + 1 * 3) / 25
    assert values["kappa"] == pytest.approx((3 / 5 - chance) / (1 - chance))
    assert values["top_3_accuracy"] == 4 / 5  # in the last row class 2 comes fourth
    assert values["top_3_accuracy_interval"] == wilson_interval(4, 5)


def test_kappa_is_0_where_everything_is_of_one_class_and_there_is_no_top_three_of_three() -> None:
    values = compute_metrics(predictions_of([0, 0], [[3, 0, 0], [3, 0, 0]]), ("a", "b", "c"))
    assert (values["kappa"], values["balanced_accuracy"]) == (0.0, 1.0)
    assert "top_3_accuracy" not in values


@pytest.mark.parametrize("classes", [2, 4])
def test_the_auc_interval_is_near_that_of_a_bootstrap(classes: int) -> None:
    names = tuple(str(k) for k in range(classes))
    predictions = make_predictions(names, 250, seed=6, skill=1.2)
    y, p = predictions.labels, predictions.probabilities
    low, high = compute_metrics(predictions, names)["auc_interval"]
    rng = np.random.default_rng(1)
    areas = []
    for _ in range(200):
        drawn = rng.integers(0, 250, 250)
        areas.append(reference.roc_auc_score(y[drawn], p[drawn, 1] if classes == 2 else p[drawn], multi_class="ovr"))
    assert [low, high] == pytest.approx(np.quantile(areas, [0.025, 0.975]).tolist(), abs=0.02)


def test_delongs_variance_by_hand() -> None:
    # Positives score 0.9, 0.4, negatives 0.1, 0.6. Shares of negatives beaten: 1, 1/2; shares of positives above: 1, 1/2. AUC 3/4.
    # Variance: var(1, 1/2) / 2 + var(1, 1/2) / 2 = 0.125 / 2 + 0.125 / 2 = 0.125; on the logit scale +- 1.96 * 0.35355 / 0.1875.
    scores = np.array([0.9, 0.4, 0.1, 0.6])
    result = _auc_with_interval(np.stack([1 - scores, scores], axis=1), np.array([1, 1, 0, 0]))
    assert not isinstance(result, str)
    area, interval = result
    assert area == pytest.approx(0.75)
    spread = 1.959964 * math.sqrt(0.125) / (0.75 * 0.25)
    expected = [1 / (1 + math.exp(-(math.log(3) + sign * spread))) for sign in (-1, 1)]
    assert interval == pytest.approx(expected, abs=1e-6)


def test_ties_count_half_in_the_auc() -> None:
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.7, 0.3]])
    result = _auc_with_interval(probabilities, np.array([1, 0, 0]))
    assert not isinstance(result, str)
    assert result[0] == pytest.approx(0.75)  # one negative tied, one beaten


def test_calibration_error_by_hand() -> None:
    # Four predictions at 0.95, three right: |0.75 - 0.95| = 0.2. One at 0.55, wrong: 0.55. (4 * 0.2 + 0.55) / 5 = 0.27
    top = np.array([0.95, 0.95, 0.95, 0.95, 0.55])
    probabilities = np.stack([top, 1 - top], axis=1)
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1, 1])) == pytest.approx(0.27)


def test_calibration_bins_are_scikit_learns_and_hold_every_example() -> None:
    predictions = make_predictions(CLOTHES, 400, seed=7)
    confidence = predictions.probabilities.max(axis=1)
    right = predictions.predicted == predictions.labels
    accuracy, mean = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    bins = [b for b in calibration_bins(predictions.probabilities, predictions.labels) if b.n]
    assert sum(b.n for b in bins) == 400
    assert [b.correct / b.n for b in bins] == pytest.approx(accuracy.tolist())
    assert [b.confidence for b in bins] == pytest.approx(mean.tolist())


def test_the_calibration_error_by_chance_of_one_example_is_one_of_two_values() -> None:
    # Confidence 0.7: right 7 times in 10, and then the error is 0.3; otherwise wrong, and it is 0.7. Both are inside 95 %.
    assert calibration_error_by_chance(np.array([[0.7, 0.3]])) == pytest.approx([0.3, 0.7])


def test_the_calibration_error_by_chance_is_that_of_the_normal_approximation_in_one_bin() -> None:
    # 10,000 examples at 0.5: the error is |right / n - 0.5|, whose 95 % range is 0.0000157 (0.0313 of a standard deviation of
    # 0.005; the 2.5 % point of |Z|) to 2.2414 * 0.005 = 0.0112.
    low, high = calibration_error_by_chance(np.full((10_000, 2), 0.5))
    assert low == pytest.approx(0.0000157, abs=0.00015) and high == pytest.approx(0.0112, abs=0.0006)


def test_of_honest_models_nineteen_in_twenty_lie_within_chance_and_a_boastful_one_does_not() -> None:
    inside = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        top = rng.uniform(0.5, 1.0, 500)
        probabilities = np.stack([top, 1 - top], axis=1)
        honest = (rng.random(500) >= top).astype(np.int64)  # class 0, the predicted one, is right with the stated probability
        low, high = calibration_error_by_chance(probabilities)
        inside += low < expected_calibration_error(probabilities, honest) < high
    assert 35 <= inside <= 40
    assert expected_calibration_error(probabilities, np.arange(500) % 2) > 3 * high  # right half the time, whatever it states


def test_a_model_that_is_certain_of_everything_has_no_error_by_chance() -> None:
    assert calibration_error_by_chance(np.array([[1.0, 0.0]] * 5)) == [0.0, 0.0]


def test_the_interval_of_the_log_loss_is_that_of_a_mean() -> None:
    # p(true) = 0.9 and 0.5: losses 0.10536 and 0.69315, mean 0.39925, s = 0.58779 / sqrt(2) = 0.41563, s / sqrt(2) = 0.29389.
    # 0.39925 - 1.96 * 0.29389 < 0: cut at 0. 0.39925 + 0.57602 = 0.97527.
    values = compute_metrics(predictions_of([0, 0], [[math.log(9), 0.0], [0.0, 0.0]]), REVIEWS)
    assert values["log_loss_interval"] == pytest.approx([0.0, 0.97527], abs=1e-5)
    assert compute_metrics(predictions_of([0, 1], [[1.0, 0.0], [0.0, 1.0]]), REVIEWS)["log_loss_interval"] is None  # equal losses
    assert compute_metrics(predictions_of([0], [[1.0, 0.0]]), REVIEWS)["log_loss_interval"] is None


def test_an_interval_of_a_higher_level_is_made_the_same_way() -> None:
    eight_of_ten = predictions_of([0] * 10, sure_of([0] * 8 + [1] * 2, count=2))
    # z = 2.2414, z² = 5.0239: middle (0.8 + 5.0239/20) / 1.50239 = 0.6997, half 2.2414/1.50239 * sqrt(0.016 + 5.0239/400) = 0.2521
    assert interval_of(eight_of_ten, "accuracy", level=0.975) == pytest.approx([0.4476, 0.9518], abs=5e-5)
    predictions = make_predictions(CLOTHES, 300, seed=1)
    values = compute_metrics(predictions, CLOTHES)
    for metric in CHOOSERS[ONE_LABEL]:
        assert interval_of(predictions, metric, level=0.95) == pytest.approx(values[f"{metric}_interval"], rel=1e-12), metric
        (low, high), (lower, higher) = values[f"{metric}_interval"], interval_of(predictions, metric, level=0.975) or (1.0, 0.0)
        assert lower < low < high < higher, metric
    low, high = interval_of(predictions, "log_loss", level=0.975) or (0.0, 0.0)
    before = values["log_loss_interval"]
    assert (high - low) / (before[1] - before[0]) == pytest.approx(2.241403 / 1.959964)


def test_intervals_of_precision_recall_and_majority_are_wilsons() -> None:
    # True a: 10, of which 8 found. True b: 20, of which 18 found. So a is predicted 10 times, 8 of them rightly.
    labels = [0] * 10 + [1] * 20
    predicted = [0] * 8 + [1] * 2 + [0] * 2 + [1] * 18
    values = compute_metrics(predictions_of(labels, sure_of(predicted, count=2)), ("a", "b"))
    a, b = values["per_class"]
    assert a["recall_interval"] == a["precision_interval"] == pytest.approx([0.49016, 0.94332], abs=1e-5)
    assert b["recall_interval"] == b["precision_interval"] == wilson_interval(18, 20)
    assert (values["majority_label"], values["majority_accuracy"]) == ("b", 20 / 30)
    assert values["majority_accuracy_interval"] == wilson_interval(20, 30)


def test_the_most_confident_errors_come_first_and_the_confident_ones_are_counted() -> None:
    def sure(p: float) -> list[float]:
        return [math.log(p / (1 - p)), 0.0]  # class 0 with probability p

    confidences = [0.6, 0.95, 0.91, 0.99, 0.7, 0.89, 0.99]
    predictions = predictions_of([1] * 7 + [0], [sure(p) for p in [*confidences, 0.999]])
    errors = compute_metrics(predictions, REVIEWS)["errors"]
    assert (errors["n"], errors["confident"]) == (7, 4)  # 0.95, 0.91, 0.99, 0.99
    assert [row["id"] for row in errors["most_confident"]] == ["test/3", "test/6", "test/1", "test/2", "test/5"]
    assert errors["most_confident"][2] == {
        "id": "test/1",
        "label": "pos",
        "prediction": "neg",
        "confidence": pytest.approx(0.95, abs=1e-6),
    }


def test_accuracy_by_size_is_that_of_each_quarter() -> None:
    sizes = np.array([80, 10, 70, 20, 60, 30, 50, 40])
    correct = np.array(
        [0, 1, 1, 1, 0, 1, 1, 0], dtype=bool
    )  # by size: 10 20 30 right, 40 wrong, 50 right, 60 wrong, 70 right, 80 wrong
    rows = accuracy_by_size(sizes, correct)
    assert [(row["low"], row["high"], row["n"], row["accuracy"]) for row in rows] == [
        (10, 20, 2, 1.0),
        (30, 40, 2, 0.5),
        (50, 60, 2, 0.5),
        (70, 80, 2, 0.5),
    ]
    assert rows[1]["accuracy_interval"] == wilson_interval(1, 2)


def test_equal_sizes_are_never_parted() -> None:
    right = np.ones(5, dtype=bool)
    assert [(row["low"], row["high"], row["n"]) for row in accuracy_by_size(np.array([2, 1, 2, 9, 2]), right)] == [
        (1, 2, 4),
        (9, 9, 1),
    ]
    assert [(row["low"], row["high"], row["n"]) for row in accuracy_by_size(np.full(5, 784), right)] == [(784, 784, 5)]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_bins_of_size_hold_every_example_once_and_do_not_overlap(values: list[int]) -> None:
    rows = accuracy_by_size(np.array(values), np.array(values) % 2 == 0)
    assert 1 <= len(rows) <= 4
    assert [row["n"] for row in rows] == [sum(row["low"] <= v <= row["high"] for v in values) for row in rows]
    assert sum(row["n"] for row in rows) == len(values)
    assert all(before["high"] < after["low"] for before, after in itertools.pairwise(rows))


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    bins = calibration_bins(np.array([[1.0, 0.0]]), np.array([0]))
    assert [b.n for b in bins] == [0] * 14 + [1]


def test_the_matthews_correlation_of_a_large_split_does_not_overflow() -> None:
    counts = np.array([5 * 10**8, 5 * 10**8])
    assert float(matthews_correlation(counts, counts, counts)) == pytest.approx(1.0)


def test_25_000_reviews_take_less_than_three_seconds() -> None:
    predictions = make_predictions(REVIEWS, 25_000, seed=8)
    started = time.process_time()  # of this process alone: the machine may be busy
    values = compute_metrics(predictions, REVIEWS)
    assert time.process_time() - started < 3.0
    assert values["n"] == 25_000


def test_metrics_computed_twice_are_equal() -> None:
    predictions = make_predictions(CLOTHES, 90, seed=9)
    np.random.seed(1)
    first = compute_metrics(predictions, CLOTHES)
    np.random.seed(2)
    assert compute_metrics(predictions, CLOTHES) == first


def test_metrics_can_be_computed_again_from_the_saved_file(tmp_path: Path) -> None:
    predictions = make_predictions(CLOTHES, 80, seed=10)
    path = tmp_path / "predictions" / "test.parquet"
    predictions.save(path, CLOTHES)
    loaded = Predictions.load(path)
    assert loaded.ids == predictions.ids
    assert np.array_equal(loaded.logits, predictions.logits) and loaded.logits.dtype == np.float32
    assert stored_label_names(path) == CLOTHES
    assert compute_metrics(loaded, stored_label_names(path)) == compute_metrics(predictions, CLOTHES)


def test_sizes_are_saved_with_their_unit_and_older_files_have_none(tmp_path: Path) -> None:
    plain = make_predictions(REVIEWS, 8, seed=11)
    sizes = np.array([5, 900, 17, 17, 260, 3, 31, 44], dtype=np.int64)
    with_sizes = Predictions(plain.ids, plain.labels, plain.logits, sizes, "tokens")
    with_sizes.save(tmp_path / "new.parquet", REVIEWS)
    plain.save(tmp_path / "old.parquet", REVIEWS)
    loaded, old = Predictions.load(tmp_path / "new.parquet"), Predictions.load(tmp_path / "old.parquet")
    assert loaded.sizes is not None and loaded.sizes.tolist() == sizes.tolist() and loaded.sizes.dtype == np.int64
    assert loaded.size_unit == "tokens" and (old.sizes, old.size_unit) == (None, None)
    schema = pq.read_schema(tmp_path / "new.parquet")
    assert schema.field("size").type == pa.int64() and schema.metadata[b"hftl.size_unit"] == b"tokens"
    values = compute_metrics(loaded, REVIEWS)
    assert values["size_unit"] == "tokens" and [row["n"] for row in values["by_size"]] == [2, 2, 2, 2]
    assert compute_metrics(old, REVIEWS)["size_unit"] is compute_metrics(old, REVIEWS)["by_size"] is None


@pytest.mark.parametrize(
    ("sizes", "unit", "said"),
    [
        ([1, 2], None, "go together"),
        (None, "tokens", "go together"),
        ([1, 2, 3], "tokens", r"\(3,\) for 2 ids"),
        ([1, -2], "pixels", 'below 0 for "test/1"'),
        ([1, 2], "bytes", '"bytes" is none of tokens, pixels'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: list[int] | None, unit: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Predictions(
            ["test/0", "test/1"], np.array([0, 1]), np.zeros((2, 2), np.float32), None if sizes is None else np.array(sizes), unit
        )


def test_the_saved_file_can_be_read_without_hftl(tmp_path: Path) -> None:
    predictions = predictions_of([1, 0], [[0.0, math.log(3)], [1.0, 2.0]])
    predictions.save(tmp_path / "p.parquet", REVIEWS)
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["id", "label", "prediction", "label_index", "probability", "logits"]
    assert table.schema.field("probability").type == pa.list_(pa.float64())
    first, second = table.to_pylist()
    assert (first["id"], first["label"], first["prediction"], first["label_index"]) == ("test/0", "pos", "pos", 1)
    assert first["probability"] == pytest.approx([0.25, 0.75])
    assert (second["label"], second["prediction"]) == ("neg", "pos")
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


def test_probabilities_of_large_logits_are_finite() -> None:
    predictions = predictions_of([0, 1], [[1e30, -1e30], [5e4, 0.0]])
    assert predictions.probabilities.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert quick_metrics(predictions)["log_loss"] == pytest.approx(2.5e4)
    assert predictions.probabilities == pytest.approx(softmax(predictions.logits.astype(np.float64), axis=1))


def test_everything_wrong_with_predictions_is_named_at_once() -> None:
    with pytest.raises(DataError) as caught:
        Predictions(["a", "b", "b"], np.array([0, 2, 1]), np.array([[0, 1], [1, 0], [np.nan, 0]], dtype=np.float32))
    assert [problem.where for problem in caught.value.problems] == ["ids", "labels", "logits"]
    assert 'outside 0..1 for "b"' in str(caught.value)


def test_no_predictions_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="0 ids"):
        Predictions([], np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.float32))


def test_label_names_must_be_as_many_as_classes(tmp_path: Path) -> None:
    predictions = make_predictions(REVIEWS, 10, seed=0)
    with pytest.raises(DataError, match="3 names for 2 classes"):
        compute_metrics(predictions, ("a", "b", "c"))
    with pytest.raises(DataError, match="3 names for 2 classes"):
        predictions.save(tmp_path / "p.parquet", ("a", "b", "c"))


def test_a_file_that_holds_no_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        Predictions.load(tmp_path / "test.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(RunError, match=r"text\.parquet: not a file of predictions"):
        Predictions.load(tmp_path / "text.parquet")
    pq.write_table(pa.table({"id": ["a"], "label_index": [0]}), tmp_path / "other.parquet")
    with pytest.raises(RunError, match="no column label, prediction, probability, logits"):
        Predictions.load(tmp_path / "other.parquet")


def without(column: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([column])


def with_column(name: str, values: list[Any] | pa.Array) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        if name not in table.column_names:
            return table.append_column(name, [values])
        place, type = table.schema.get_field_index(name), table.schema.field(name).type
        column = values if isinstance(values, pa.Array) else pa.array(values, type)
        return table.set_column(place, name, column)

    return change


def with_metadata(**changes: bytes | None) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        metadata = {**table.schema.metadata, **{b"hftl." + name.encode(): value for name, value in changes.items()}}
        return table.replace_schema_metadata({key: value for key, value in metadata.items() if value is not None})

    return change


BROKEN_FILES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "no label": (without("label"), "no column label"),
    "no probability": (without("probability"), "no column probability"),
    "the texts": (with_column("text", ["good", "bad"]), r"unexpected column text \(string\)"),
    "a struct": (with_column("more", pa.array([{"a": 1}, {"a": 2}])), "unexpected column more"),
    "id twice": (lambda table: table.append_column("id", table["id"]), "unexpected column id"),
    "integer ids": (with_column("id", pa.array([1, 2])), r"unexpected column id \(int64\)"),
    "float indices": (with_column("label_index", pa.array([1.0, 0.0])), r"unexpected column label_index \(double\)"),
    "float64 logits": (
        with_column("logits", pa.array([[0.0, 1.0], [1.0, 2.0]])),
        r"unexpected column logits \(list<element: double>\)",
    ),
    "flat logits": (with_column("logits", pa.array([0.0, 1.0])), r"unexpected column logits \(double\)"),
    "no size": (without("size"), "no column size"),
    "size without unit": (with_metadata(size_unit=None), r"unexpected column size \(int64\)"),
    "another unit": (with_metadata(size_unit=b"bytes"), 'its sizes are in "bytes"'),
    "no rows": (lambda table: table.slice(0, 0), "no row"),
    "null id": (with_column("id", ["a", None]), "column id holds nulls"),
    "null prediction": (with_column("prediction", ["pos", None]), "column prediction holds nulls"),
    "null index": (with_column("label_index", [1, None]), "column label_index holds nulls"),
    "null logits": (with_column("logits", [[0.0, 1.0], None]), "column logits holds nulls"),
    "null logit": (with_column("logits", [[0.0, 1.0], [1.0, None]]), "column logits holds nulls"),
    "ragged logits": (with_column("logits", [[0.0], [1.0, 2.0, 3.0]]), "column logits holds lists of 1 to 3 numbers"),
    "three logits": (with_column("logits", 2 * [[0.0, 1.0, 2.0]]), "column logits holds 3 numbers a row for 2 classes"),
    "no logits": (with_column("logits", [[], []]), "column logits holds 0 numbers a row for 2 classes"),
    "ragged probability": (with_column("probability", [[1.0], [0.5, 0.5]]), "column probability holds lists of 1 to 2"),
    "one probability": (with_column("probability", [[1.0], [1.0]]), "column probability holds 1 numbers a row for 2 classes"),
    "nan logit": (with_column("logits", [[0.0, math.nan], [1.0, 2.0]]), "not finite"),
    "index 2": (with_column("label_index", [1, 2]), r"outside 0\.\.1"),
    "index -1": (with_column("label_index", [1, -1]), r"outside 0\.\.1"),
    "same id": (with_column("id", ["a", "a"]), "1 of 2 are repeated"),
    "negative size": (with_column("size", [1, -1]), "below 0"),
    "no names": (with_metadata(label_names=None), "no class names"),
    "names not UTF-8": (with_metadata(label_names=b"\xff"), "not JSON"),
    "names not JSON": (with_metadata(label_names=b"neg, pos"), "not JSON"),
    "deep names": (with_metadata(label_names=100_000 * b"["), "nested deeper than 50"),
    "names of an object": (with_metadata(label_names=b'{"neg": 0, "pos": 1}'), "not a list of two or more different names"),
    "one name": (with_metadata(label_names=b'["neg"]'), "not a list of two or more different names"),
    "same names": (with_metadata(label_names=b'["neg", "neg"]'), "not a list of two or more different names"),
    "number names": (with_metadata(label_names=b"[0, 1]"), "not a list of two or more different names"),
    "half a character": (with_metadata(label_names=b'["neg", "\\ud800"]'), "not JSON"),
    "three names": (with_metadata(label_names=b'["neg", "pos", "so"]'), "column logits holds 2 numbers a row for 3 classes"),
    "other names": (with_metadata(label_names=b'["pos", "neg"]'), 'label does not follow from label_index .row of id "test/0"'),
    "another label": (with_column("label", ["pos", "pos"]), 'label does not follow from label_index .row of id "test/1"'),
    "another index": (with_column("label_index", [1, 1]), 'label does not follow from label_index .row of id "test/1"'),
    "another prediction": (
        with_column("prediction", ["pos", "neg"]),
        'column prediction does not follow from the logits .row of id "test/1"',
    ),
    "unknown prediction": (with_column("prediction", ["pos", "Pos"]), "column prediction does not follow from the logits"),
    "another probability": (
        with_column("probability", [[0.25, 0.75], [0.26, 0.74]]),
        'column probability does not follow from the logits .row of id "test/1"',
    ),
    "nan probability": (with_column("probability", [[0.25, math.nan], [0.3, 0.7]]), "column probability does not follow"),
    "other logits": (with_column("logits", [[0.0, 1.0], [1.0, 2.0]]), "column probability does not follow from the logits"),
}


@pytest.mark.parametrize(("change", "said"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_file_of_predictions_that_was_tampered_with_is_refused(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    path = tmp_path / "p.parquet"
    logits = np.array([[0.0, math.log(3)], [1.0, 2.0]], np.float32)
    Predictions(["test/0", "test/1"], np.array([1, 0]), logits, np.array([3, 4]), "tokens").save(path, REVIEWS)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(RunError, match=said) as caught:
        Predictions.load(path)
    assert str(path) in str(caught.value)


def test_a_damaged_file_of_predictions_is_refused_or_says_the_same(tmp_path: Path) -> None:
    path, rng = tmp_path / "p.parquet", np.random.default_rng(0)
    make_predictions(REVIEWS, 20, seed=1).save(path, REVIEWS)
    whole, said = path.read_bytes(), []
    for place in rng.choice(len(whole), 150, replace=False):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            path.write_bytes(damaged)
            try:
                assert len(Predictions.load(path)) == 20
            except RunError as error:
                said.append(str(error))
    assert len(said) > 200 and all(str(path) in message for message in said)


def test_a_small_file_of_very_many_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"label_index": pa.array(np.zeros(MOST_ROWS + 1, np.int64))}), path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(RunError, match=r"p\.parquet: not a file of predictions: 10,000,001 rows"):
        Predictions.load(path)


def test_a_long_word_that_a_file_repeats_is_in_memory_once(tmp_path: Path) -> None:
    path, places = tmp_path / "p.parquet", pa.array(np.zeros(100_000, np.int32))
    ids = pa.DictionaryArray.from_arrays(places, ["x" * 1_000_000])  # 100 GB if each were written out
    pq.write_table(pa.table({"id": ids}), path, store_schema=False)
    assert path.stat().st_size < 100_000
    with pytest.raises(RunError, match="no column label"):
        Predictions.load(path)


def test_25_000_reviews_are_checked_in_less_than_a_third_of_a_second(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    make_predictions(CLOTHES, 25_000, seed=8).save(path, CLOTHES)
    started = time.process_time()
    Predictions.load(path)
    assert time.process_time() - started < 0.35
