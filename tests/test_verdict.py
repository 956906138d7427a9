"""The last lines of a run: what they say of good models and of bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hftl.evaluation.metrics import compute_metrics
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.verdict import verdict


def metrics_of(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> Any:
    """metrics.json's values of a split with that confusion matrix, rows true."""
    labels, predicted = [], []
    for true, row in enumerate(confusion):
        for guess, count in enumerate(row):
            labels += [true] * count
            predicted += [guess] * count
    logits = 4 * np.eye(len(names), dtype=np.float32)[predicted]
    ids = [f"test/{number}" for number in range(len(labels))]
    return compute_metrics(Predictions(ids, np.array(labels), logits), names, skipped=0)


def lines(
    confusion: Sequence[Sequence[int]],
    names: Sequence[str],
    *,
    openings: dict[str, Any] | None = None,
    enlarge: str | None = None,
    weighted: bool = False,
) -> list[str]:
    values = metrics_of(confusion, names)
    return list(verdict({"validation": values, "test": values}, openings=openings, stage="all", weighted=weighted, enlarge=enlarge))


def test_a_good_model_has_its_numbers_and_its_worst_class() -> None:
    validation, test, worst = lines([[90, 10], [20, 80]], ("neg", "pos"), openings={"openings": 1, "runs": 1})
    assert validation.startswith("validation: accuracy 0.8500 [")
    assert test.startswith("test (opened once): accuracy 0.8500 [") and test.endswith(" · majority 0.5000")
    # F1: 2 * 90 / (100 + 110) = 0.857 and 2 * 80 / (100 + 90) = 0.842. Wilson for 80 of 100: [0.711, 0.867].
    assert worst == '  worst class on test: "pos", recall 0.800 [0.711, 0.867], n = 100, most often taken for "neg"'


def test_a_model_without_an_error_has_no_worst_class() -> None:
    assert len(lines([[100, 0], [0, 100]], ("neg", "pos"))) == 2


def test_rows_that_other_runs_have_opened_are_not_called_opened_once() -> None:
    for openings, runs, said in ((3, 3, "3 times by 3 runs"), (2, 1, "2 times by 1 run")):
        _, test, *_ = lines([[90, 10], [20, 80]], ("neg", "pos"), openings={"openings": openings, "runs": runs})
        assert test.startswith(f"test (these rows were opened {said}): ")
    _, test, *_ = lines([[90, 10], [20, 80]], ("neg", "pos"))
    assert test.startswith("test: ")


def test_classes_that_are_never_predicted_are_named_with_the_key_to_try() -> None:
    found = lines([[190, 0, 0], [8, 0, 0], [12, 0, 40]], ("common", "rare", "other"))
    assert '  never predicted on test: "rare". try: stages.all.class_weights=balanced' in found
    (worst,) = [line for line in found if "worst class" in line]
    # 40 of 52 are found, [0.639, 0.863] lies below the accuracy 230 / 250 = 0.92 [0.880, 0.948]
    beginning = (
        '  worst class on test of those that are predicted: "other", recall 0.769 [0.639, 0.863], n = 52, most often taken for "'
    )
    assert worst.startswith(beginning + 'common"')
    assert worst.endswith("try: stages.all.class_weights=balanced")
    assert "  whatever you try, compare it by validation: --no-test leaves the test split shut" in found


def test_a_frequent_class_that_is_never_predicted_wants_another_rate() -> None:
    (never,) = [line for line in lines([[0, 100], [0, 50]], ("a", "b")) if "never predicted" in line]
    assert never == '  never predicted on test: "a". try: more stages.all.epochs, or another stages.all.lr'


def test_weights_of_classes_are_no_advice_where_the_worst_class_is_as_frequent_as_others() -> None:
    (worst,) = [line for line in lines([[40, 60], [0, 100]], ("neg", "pos")) if "worst class" in line]
    assert worst.endswith('most often taken for "pos"')


def test_many_classes_that_are_never_predicted_are_counted() -> None:
    names = [f"c{number}" for number in range(9)]
    confusion = [[20, *[0] * 8] for _ in names]
    (never,) = [line for line in lines(confusion, names) if "never predicted" in line]
    assert '"c1", "c2", "c3", "c4", "c5" and 3 more' in never


def test_a_model_that_does_not_beat_the_majority_says_so() -> None:
    (said,) = [line for line in lines([[100, 20], [50, 30]], ("neg", "pos")) if "always answering" in line]
    # 130 of 200 are right, 120 by the majority: 0.65 [0.582, 0.713] holds 0.6.
    assert said.startswith(
        '  not settled: with 200 examples the model may be no better than always answering "neg", 0.6000 on test'
    )
    (said,) = [line for line in lines([[90, 30], [50, 30]], ("neg", "pos")) if "always answering" in line]
    assert said.startswith('  worthless so far: the model is no better than always answering "neg", 0.6000 on test. try: ')
    assert not [line for line in lines([[120, 0], [10, 70]], ("neg", "pos")) if "always answering" in line]


def test_a_split_of_one_class_tells_nothing() -> None:
    (said,) = [line for line in lines([[30, 0], [0, 0]], ("neg", "pos")) if "one class" in line]
    assert said == '  the test split has one class only, "neg": its numbers tell nothing'


def test_weights_that_are_set_already_are_not_advised() -> None:
    (never,) = [line for line in lines([[190, 0], [8, 0]], ("common", "rare"), weighted=True) if "never predicted" in line]
    assert never.endswith("try: more stages.all.epochs, or another stages.all.lr")


def test_a_small_validation_split_is_called_small_with_its_interval() -> None:
    (said,) = [line for line in lines([[18, 3], [3, 18]], ("a", "b"), enlarge="data.validation_fraction") if "small" in line]
    # 36 of 42 are right: 0.857, Wilson [0.722, 0.933].
    assert said == (
        "  the validation split, which chose the weights, is small: 42 examples, so that its accuracy lies anywhere from 0.72"
        " to 0.93 (95 %). try: a larger data.validation_fraction"
    )
    (said,) = [line for line in lines([[18, 3], [3, 18]], ("a", "b")) if "small" in line]
    assert said.endswith("more validation examples choose better")
    assert not [line for line in lines([[50, 0], [10, 40]], ("a", "b")) if "small" in line]
