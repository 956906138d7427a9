from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torchvision.ops import sigmoid_focal_loss

from hftl.errors import RecipeError
from hftl.names import SEVERAL_LABELS
from hftl.recipe import (
    CrossEntropyLoss,
    EffectiveWeights,
    FocalLoss,
    LogitAdjustedLoss,
    RDropLoss,
    Recipe,
    Stage,
    TextData,
    Transformer,
    override,
)
from hftl.training.loss import check_loss, class_weights, effective_number, make_loss

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


# --- the weights of classes ---------------------------------------------------------------------------------------------------


def weights_of(counts: list[int], given: Any, *, target: str = "one_label", examples: int | None = None) -> list[float]:
    names = [chr(ord("a") + place) for place in range(len(counts))]
    weights = class_weights(Stage(lr=1, class_weights=given), counts, names, target=target, examples=examples)
    assert weights is not None
    return weights.tolist()


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], [86, 1250, 40])
    assert weights_of([86, 1250, 40], "balanced") == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=labels))


def test_a_further_example_counts_for_beta_times_the_one_before() -> None:
    counts = torch.tensor([1.0, 2.0, 3.0, 1000.0])
    assert effective_number(counts, 0.5).tolist() == pytest.approx([1.0, 1.5, 1.75, 2.0])
    assert effective_number(counts, 0.0).tolist() == [1.0, 1.0, 1.0, 1.0]
    assert effective_number(counts, 1 - 1e-9).tolist() == pytest.approx([1.0, 2.0, 3.0, 1000.0], rel=1e-5)


def test_effective_weights_are_one_over_the_effective_number_with_mean_one_over_the_examples() -> None:
    weights = weights_of([3, 1], EffectiveWeights(beta=0.5))  # 1 / 1.75 and 1, whose mean over the 4 is (3 / 1.75 + 1) / 4
    assert weights == pytest.approx([0.8421052, 1.4736842])
    assert weights[1] / weights[0] == pytest.approx(1.75)
    assert (3 * weights[0] + weights[1]) / 4 == pytest.approx(1.0)
    assert weights_of([30, 10], EffectiveWeights(beta=0)) == [1.0, 1.0]
    assert weights_of([30, 10], EffectiveWeights(beta=1 - 1e-9)) == pytest.approx(weights_of([30, 10], "balanced"), rel=1e-5)
    assert weights_of([10, 0, 5], "effective")[1] == 0.0


def test_effective_weights_of_several_labels_are_those_of_absences_over_presences() -> None:
    # Of 4 examples 1 has a: three absences, 1.75, over 1. All have b: no absence counts as one, over 1.875. None has c.
    given = weights_of([1, 4, 0], EffectiveWeights(beta=0.5), target=SEVERAL_LABELS, examples=4)
    assert given == pytest.approx([1.75, 1 / 1.875, 1.0])
    assert weights_of([10], EffectiveWeights(beta=1 - 1e-9), target=SEVERAL_LABELS, examples=40) == pytest.approx([3.0], rel=1e-5)


def test_given_weights_have_mean_one_over_the_examples_that_an_epoch_draws() -> None:
    given: Any = {"a": 1.0, "b": 3.0}
    expected: dict[Any, tuple[float, float]] = {None: (0.9, 0.1), "balanced": (0.5, 0.5), "sqrt": (0.75, 0.25)}
    for sampling, shares in expected.items():
        weights = class_weights(Stage(lr=1, class_weights=given, sampling=sampling), [9, 1], ["a", "b"])
        assert weights is not None and weights[1] / weights[0] == 3
        assert (shares[0] * weights[0] + shares[1] * weights[1]).item() == pytest.approx(1)


def test_class_weights_are_a_word_a_section_or_a_number_for_each_class() -> None:
    written: Any = {"kind": "effective", "beta": 0.999}
    assert Stage(lr=1, class_weights="effective") == Stage(lr=1, class_weights=written)
    of_class: Any = {"kind": 1, "beta": 2}  # two classes of these names
    assert Stage(lr=1, class_weights=of_class).class_weights == {"kind": 1.0, "beta": 2.0}
    stages = {"all": Stage(lr=1, class_weights="effective")}
    recipe = Recipe(name="x", data=TextData(source="x"), model=Transformer(checkpoint="x"), stages=stages)

    def changed(*assignments: str) -> Any:
        return override(recipe, [f"stages.all.class_weights{assignment}" for assignment in assignments]).stages["all"].class_weights

    assert changed(".beta=0.9") == EffectiveWeights(beta=0.9) == changed("=balanced", "=effective", ".beta=0.9")
    assert changed("={a: 2, b: 1}") == {"a": 2.0, "b": 1.0}
    assert changed("=null") is None
    with pytest.raises(RecipeError, match="beta is an option of class_weights effective"):
        changed("=balanced", ".beta=0.9")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"class_weights": "efective"}, 'class_weights: no class_weights "efective". Did you mean "effective"?'),
        ({"class_weights": {"kind": "effective", "beta": 1}}, "class_weights.beta: input should be less than 1"),
        ({"class_weights": {"a": "much"}}, "class_weights.a: input should be a valid number"),
        ({"class_weights": 3}, "class_weights: a word, a section with a kind, or a number for each class name; found 3"),
        ({"beta": 0.9}, "beta is an option of class_weights effective: hftl.EffectiveWeights(beta=...)"),
        ({"loss": {"kind": "focal", "alpha": 1}}, "loss.alpha: input should be less than 1"),
        ({"loss": FocalLoss(alpha=0.25), "class_weights": "balanced"}, "loss.alpha and class_weights both weigh the presence"),
        (
            {"loss": "logit_adjusted", "class_weights": "effective"},
            "loss=logit_adjusted and class_weights=effective make up for the same rare classes twice; leave one out",
        ),
        (
            {"sampling": "sqrt", "class_weights": "balanced"},
            "class_weights=balanced and sampling=sqrt make up for the same rare classes twice",
        ),
        (
            {"sampling": "balanced", "loss": "logit_adjusted"},
            "loss=logit_adjusted and sampling=balanced make up for the same rare classes twice",
        ),
        ({"sampling": "even"}, "sampling: input should be 'balanced' or 'sqrt'; found 'even'"),
        ({"tau": 1}, "tau is an option of loss logit_adjusted: hftl.LogitAdjustedLoss(tau=...)"),
        ({"loss": {"kind": "logit_adjusted", "tau": 0}}, "loss.tau: input should be greater than 0"),
    ],
    ids=str,
)
def test_weights_that_cannot_be_are_refused_with_what_can(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Stage(**{"lr": 1, **values})
    assert expected in str(refused.value)


# --- focal loss with alpha ----------------------------------------------------------------------------------------------------


def test_focal_loss_of_several_labels_is_that_of_torchvision() -> None:
    logits, labels = 3 * torch.randn(5, 7), torch.randint(0, 2, (5, 7))
    for gamma, alpha in ((2.0, 0.25), (1.5, 0.9), (0.0, 0.5), (2.0, None)):
        ours = make_loss(FocalLoss(gamma=gamma, alpha=alpha), None, target=SEVERAL_LABELS)(logits, labels)
        theirs = sigmoid_focal_loss(logits, labels.float(), alpha=-1 if alpha is None else alpha, gamma=gamma).mean(dim=1)
        torch.testing.assert_close(ours, theirs)


def test_alpha_is_refused_where_examples_have_one_label_each_with_what_is_alpha_there() -> None:
    check_loss(FocalLoss(alpha=0.25), SEVERAL_LABELS)
    check_loss(FocalLoss(), "one_label")
    with pytest.raises(RecipeError, match=r"loss\.alpha: .* one label each(.|\n)*class_weights has a factor for each class"):
        check_loss(FocalLoss(alpha=0.25), "one_label")


# --- logit adjustment ---------------------------------------------------------------------------------------------------------


def test_logit_adjustment_adds_the_log_of_each_classs_share_in_training() -> None:
    # Odds of 3 to 1 for the first class, which one example of four has: what is left to learn is even.
    loss = make_loss(LogitAdjustedLoss(), None, class_counts=[1, 3])(LOGITS, LABELS)
    assert loss.tolist() == pytest.approx([math.log(2), -math.log(0.75)])
    half = make_loss(LogitAdjustedLoss(tau=0.5), None, class_counts=[1, 3])(LOGITS, LABELS)
    assert half[0].item() == pytest.approx(-math.log(3**0.5 / (3**0.5 + 1)))  # of odds 3 the root of 3 is left


def test_logit_adjustment_of_equal_classes_is_cross_entropy() -> None:
    plain = make_loss(CrossEntropyLoss(), None)(LOGITS, LABELS)
    assert make_loss(LogitAdjustedLoss(tau=2), None, class_counts=[5, 5])(LOGITS, LABELS).tolist() == pytest.approx(plain.tolist())


def test_logit_adjustment_of_a_class_without_examples_stays_finite_and_has_a_gradient() -> None:
    logits = torch.zeros((1, 2), requires_grad=True)
    loss = make_loss(LogitAdjustedLoss(), None, class_counts=[9, 0])(logits, torch.tensor([0]))
    loss.sum().backward()  # type: ignore[no-untyped-call]  # torch's own
    assert logits.grad is not None and logits.grad.tolist() == [pytest.approx([-0.1, 0.1])]


def test_logit_adjustment_goes_with_weights_for_what_a_mistake_costs() -> None:
    stage = Stage(lr=1, loss="logit_adjusted", class_weights={"a": 3, "b": 1})
    weights = class_weights(stage, [10, 10], ["a", "b"])
    loss = make_loss(LogitAdjustedLoss(), weights, class_counts=[10, 10])(LOGITS, LABELS)
    assert loss.tolist() == pytest.approx([-1.5 * math.log(0.75), -0.5 * math.log(0.5)])


def test_logit_adjustment_is_refused_where_examples_have_several_labels() -> None:
    check_loss(LogitAdjustedLoss(), "one_label")
    with pytest.raises(RecipeError, match=r"for one label an example(.|\n)*write class_weights=effective"):
        check_loss(LogitAdjustedLoss(), SEVERAL_LABELS)


# --- R-Drop -------------------------------------------------------------------------------------------------------------------


def test_r_drop_is_the_mean_cross_entropy_and_half_of_alpha_times_both_divergences() -> None:
    # Two passes of one example of the first class: probabilities 3/4, 1/4 and 1/2, 1/2.
    cross_entropy = (-math.log(0.75) - math.log(0.5)) / 2
    there, back = 0.75 * math.log(1.5) + 0.25 * math.log(0.5), 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    for alpha in (1.0, 0.3):
        loss = make_loss(RDropLoss(alpha=alpha), None)(LOGITS, torch.tensor([0]))
        assert loss.tolist() == pytest.approx([cross_entropy + alpha / 2 * (there + back)])


def test_r_drop_of_several_labels_has_the_divergence_of_each_answer() -> None:
    # One example with two labels, the first of which it has. Passes: 3/4 and 1/2; 1/2 and 1/2.
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    cross_entropies = [(-math.log(0.75) - math.log(0.5)) / 2, -math.log(0.5)]
    both = 0.25 * math.log(3)  # (p - q) (logit p - logit q) of the first label, and of the second 0
    loss = make_loss(RDropLoss(alpha=2), None, target=SEVERAL_LABELS)(logits, torch.tensor([[1, 0]]))
    assert loss.tolist() == pytest.approx([sum(cross_entropies) / 2 + both / 2])


def test_r_drop_agrees_with_the_divergence_of_torch() -> None:
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(8, 5), torch.randint(0, 5, (4,))
    first, second = (part.log_softmax(-1) for part in logits.chunk(2))

    def divergence(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.kl_div(other, one, log_target=True, reduction="none").sum(-1)

    plain = make_loss(CrossEntropyLoss(), None)
    mean = (plain(logits[:4], labels) + plain(logits[4:], labels)) / 2
    expected = mean + 0.5 * (divergence(first, second) + divergence(second, first))
    torch.testing.assert_close(make_loss(RDropLoss(), None)(logits, labels), expected)


def test_equal_passes_of_r_drop_are_cross_entropy_and_weights_are_of_that_alone() -> None:
    weights = torch.tensor([2.0, 0.5])
    twice = torch.cat([LOGITS, LOGITS])
    weighted = make_loss(CrossEntropyLoss(), weights)(LOGITS, LABELS)
    assert make_loss(RDropLoss(), weights)(twice, LABELS).tolist() == pytest.approx(weighted.tolist())
    gap = make_loss(RDropLoss(alpha=1), None)(LOGITS, LABELS[:1]) - make_loss(RDropLoss(alpha=1e-9), None)(LOGITS, LABELS[:1])
    weighted_gap = make_loss(RDropLoss(alpha=1), weights)(LOGITS, LABELS[:1]) - make_loss(RDropLoss(alpha=1e-9), weights)(
        LOGITS, LABELS[:1]
    )
    assert weighted_gap.tolist() == pytest.approx(gap.tolist())
