from __future__ import annotations

import math

import pytest
import torch

from hftl.errors import RecipeError
from hftl.recipe import CrossEntropyLoss, FocalLoss, Stage
from hftl.training.loss import class_weights, make_loss

LOGITS = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # probabilities 3/4, 1/4 and 1/2, 1/2
LABELS = torch.tensor([0, 1])


def test_cross_entropy_is_minus_the_log_of_the_true_probability() -> None:
    loss = make_loss(CrossEntropyLoss(), None)(LOGITS, LABELS)
    assert loss.tolist() == pytest.approx([-math.log(0.75), -math.log(0.5)])


def test_label_smoothing_mixes_in_the_uniform_distribution() -> None:
    loss = make_loss(CrossEntropyLoss(label_smoothing=0.2), None)(LOGITS, LABELS)
    assert loss[0].item() == pytest.approx(-(0.9 * math.log(0.75) + 0.1 * math.log(0.25)))


def test_focal_loss_weighs_easy_examples_down() -> None:
    loss = make_loss(FocalLoss(gamma=2), None)(LOGITS, LABELS)
    assert loss.tolist() == pytest.approx([0.25**2 * -math.log(0.75), 0.5**2 * -math.log(0.5)])


def test_balanced_weights_are_inverse_to_the_class_sizes_with_mean_one_over_the_examples() -> None:
    weights = class_weights(Stage(lr=1, class_weights="balanced"), [30, 10], ["a", "b"])
    assert weights is not None
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])
    assert (30 * weights[0] + 10 * weights[1]).item() / 40 == pytest.approx(1.0)


def test_a_class_without_training_examples_weighs_nothing_and_spoils_nothing() -> None:
    weights = class_weights(Stage(lr=1, class_weights="balanced"), [10, 0, 5], ["a", "b", "c"])
    assert weights is not None
    assert weights.tolist() == pytest.approx([0.75, 0.0, 1.5])  # 0.5 and 1 as usual, times 15 / 10 for a mean of 1


def test_given_weights_follow_the_class_names_and_keep_their_ratio() -> None:
    weights = class_weights(Stage(lr=1, class_weights={"b": 3.0, "a": 1.0}), [10, 10], ["a", "b"])
    assert weights is not None
    assert weights.tolist() == pytest.approx([0.5, 1.5])
    loss = make_loss(CrossEntropyLoss(), weights)(LOGITS, LABELS)
    assert loss.tolist() == pytest.approx([0.5 * -math.log(0.75), 1.5 * -math.log(0.5)])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [({"a": 1.0, "c": 1.0}, 'no class "c"'), ({"a": 1.0}, "no weight for b"), ({"a": 1.0, "b": 0.0}, "greater than 0")],
)
def test_weights_that_do_not_fit_the_classes_are_refused(weights: dict[str, float], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        class_weights(Stage(lr=1, class_weights=weights), [1, 1], ["a", "b"])
