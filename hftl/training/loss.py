"""The loss of one example; how it is averaged is the engine's business.

Shapes: B examples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from hftl.errors import RecipeError, did_you_mean
from hftl.names import ONE_LABEL, SEVERAL_LABELS
from hftl.recipe import (
    AsymmetricLoss,
    BalancedWeights,
    ContrastiveLoss,
    CrossEntropyLoss,
    EffectiveWeights,
    FocalLoss,
    LogitAdjustedLoss,
    Loss,
    RDropLoss,
    Stage,
)

ExampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes logits and targets of B examples to their losses, (B,). Where a loss has two passes the logits are (2 B, K): those of the
first pass, then those of the second."""


def class_weights(
    stage: Stage,
    class_counts: Sequence[float],
    label_names: Sequence[str],
    *,
    target: str = ONE_LABEL,
    examples: float | None = None,
) -> torch.Tensor | None:
    """Weight of each class, (K,) float32, or None; of one label scaled so that the mean over the examples of an epoch is 1.

    "balanced" gives n / (K * n_k), as scikit-learn: with 30 and 10 examples [0.667, 2.0], whose mean over the 40 is 1. Of several
    labels it gives (n - n_k) / n_k, so that presence and absence of a label weigh the same: a label that 10 of 40 `examples` have
    gets 3. "effective" has in place of each number n what n examples count for, see `effective_number`; of 3 and 1 with a beta of
    0.5 that is 1.75 and 1, so the rarer class weighs 1.75 times as much and not 3 times. `target` is the kind of target.

    Raises:
        RecipeError: a weight for an unknown class, a class without a weight, or one that is not greater than 0.
    """
    if stage.class_weights is None:
        return None
    counts = torch.tensor(class_counts, dtype=torch.float32)
    given = stage.class_weights
    if isinstance(given, BalancedWeights | EffectiveWeights):
        beta = given.beta if isinstance(given, EffectiveWeights) else 1.0
        present = effective_number(counts.clamp(min=1), beta)
        if target == SEVERAL_LABELS:
            assert examples is not None
            absent = effective_number((examples - counts).clamp(min=1), beta)
            return torch.where(counts > 0, absent / present, 1.0)
        # A class that train has no example of weighs nothing.
        weights = torch.where(counts > 0, 1 / present, 0.0)
    else:
        assert isinstance(given, dict)  # the stage keeps a word as its section
        for name in given:
            if name not in label_names:
                raise RecipeError.single(
                    "class_weights", f'no class "{name}".{did_you_mean(name, label_names)}', f"classes: {', '.join(label_names)}"
                )
        if missing := [name for name in label_names if name not in given]:
            raise RecipeError.single("class_weights", f"no weight for {', '.join(missing)}")
        if any(weight <= 0 for weight in given.values()):
            raise RecipeError.single("class_weights", "a weight is greater than 0")
        weights = torch.tensor([given[name] for name in label_names], dtype=torch.float32)
        if target == SEVERAL_LABELS:
            return weights
    # With "sampling" an epoch has other numbers of each class than train; in proportion to these:
    drawn = {None: counts, "balanced": (counts > 0).float(), "sqrt": counts.sqrt()}[stage.sampling]
    return weights * (drawn.sum() / (weights * drawn).sum())


def effective_number(counts: torch.Tensor, beta: float) -> torch.Tensor:
    """What n examples count for, ``(1 - beta ** n) / (1 - beta)``: the first for 1, each further one for beta times the one before.

    With a beta of 0.5: 1, 1.5, 1.75; with 0 always 1; with 1 n itself (Cui et al. 2019, arXiv:1901.05555).
    """
    if beta == 1:
        return counts
    # In float64: of a beta near 1 and few examples float32 would leave nothing of the difference.
    return ((1 - beta ** counts.double()) / (1 - beta)).float()


def log_shares(class_counts: Sequence[float], tau: float) -> torch.Tensor:
    """(K,) tau times the log of each class's share; of 1 and 3 examples log(1/4) and log(3/4). A class without any has 1."""
    counts = torch.tensor(class_counts, dtype=torch.float32).clamp(min=1)
    return tau * (counts / counts.sum()).log()


def check_loss(loss: Loss, target: str) -> None:
    """Refuse a loss, or an option of one, that is for another kind of target.

    Raises:
        RecipeError: it is.
    """
    if isinstance(loss, AsymmetricLoss) and target == ONE_LABEL:
        what = '"asymmetric" is for several labels an example, and these examples have one each'
        raise RecipeError.single("loss", what, 'write loss="focal", which also weighs down what is easy')
    if isinstance(loss, LogitAdjustedLoss) and target == SEVERAL_LABELS:
        what = (
            '"logit_adjusted" is for one label an example, where classes share what is certain; these examples have several labels'
        )
        raise RecipeError.single("loss", what, "write class_weights=effective, which weighs a rare label up")
    if isinstance(loss, ContrastiveLoss) and target == SEVERAL_LABELS:
        what = '"contrastive" draws examples of one class together, and these examples have several labels each'
        raise RecipeError.single("loss", what, 'write loss="cross_entropy"')
    if isinstance(loss, FocalLoss) and loss.alpha is not None and target == ONE_LABEL:
        what = "weighs a label that is there against one that is not, and these examples have one label each"
        raise RecipeError.single(
            "loss.alpha", what, "class_weights has a factor for each class, which is alpha for one label an example"
        )


def make_loss(
    loss: Loss, weights: torch.Tensor | None, *, target: str = ONE_LABEL, class_counts: Sequence[float] | None = None
) -> ExampleLoss:
    """A function of logits (B, K) and targets that gives the loss of each example, (B,).

    Of one label targets are (B,) classes: see `one_label_loss`. Of several they are (B, K) of 0 and 1: see `several_labels_loss`.
    `class_counts`, the K numbers of training examples, are for the logit-adjusted loss alone.
    """
    if isinstance(loss, RDropLoss):
        return r_drop_loss(make_loss(CrossEntropyLoss(), weights, target=target), loss.alpha, target=target)
    return several_labels_loss(loss, weights) if target == SEVERAL_LABELS else one_label_loss(loss, weights, class_counts)


def r_drop_loss(cross_entropy: ExampleLoss, alpha: float, *, target: str) -> ExampleLoss:
    """The mean of both passes' cross-entropy, with the weights of classes, and alpha / 2 times KL(p, q) + KL(q, p), without them
    (Liang et al. 2021, arXiv:2106.14448). Of several labels that is of the answers yes and no to each, the mean over labels.

    The two divergences together are the sum of ``(p - q) * (log p - log q)``, where the logits may stand for the logs: what they
    differ by is the same for every class, and p - q is 0 over all. Of yes and no, ``(p - q) * (logit p - logit q)``.
    """

    def of_examples(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        first, second = logits.chunk(2)
        cross_entropies = (cross_entropy(first, labels) + cross_entropy(second, labels)) / 2
        if target == SEVERAL_LABELS:
            divergence = ((first.sigmoid() - second.sigmoid()) * (first - second)).mean(dim=1)
        else:
            divergence = ((first.softmax(-1) - second.softmax(-1)) * (first - second)).sum(dim=1)
        return cross_entropies + alpha / 2 * divergence

    return of_examples


def one_label_loss(loss: Loss, weights: torch.Tensor | None, class_counts: Sequence[float] | None = None) -> ExampleLoss:
    """Cross-entropy is torch's, with its label smoothing; focal loss is ``(1 - p) ** gamma * cross_entropy`` with p the probability
    of the true class (Lin et al. 2017, arXiv:1708.02002); the logit-adjusted loss is the cross-entropy of ``logits + tau *
    log(n_k / n)``, where a class without an example counts as having one (Menon et al. 2021, arXiv:2007.07314, equation 10). A
    class weight multiplies the loss of that class's examples.
    """
    adjustment = torch.zeros(())
    if isinstance(loss, LogitAdjustedLoss):
        assert class_counts is not None
        adjustment = log_shares(class_counts, loss.tau)

    def unweighted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        match loss:
            case ContrastiveLoss():  # the rest of it is `Contrast`
                return F.cross_entropy(logits, labels, reduction="none")
            case CrossEntropyLoss(label_smoothing=smoothing):
                return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
            case FocalLoss(gamma=gamma):  # without alpha, see check_loss
                true_class = logits.softmax(-1).gather(1, labels[:, None])[:, 0]
                return (1 - true_class) ** gamma * F.cross_entropy(logits, labels, reduction="none")
            case LogitAdjustedLoss():
                return F.cross_entropy(logits + adjustment.to(logits.device), labels, reduction="none")
            case AsymmetricLoss() | RDropLoss():
                raise AssertionError  # check_loss has refused it; make_loss has made it

    def weighted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = unweighted(logits, labels)
        return losses if weights is None else losses * weights.to(losses.device)[labels]

    return weighted


def several_labels_loss(loss: Loss, weights: torch.Tensor | None) -> ExampleLoss:
    """The mean over K labels of the loss of each, with p the probability of a label.

    Present labels have ``(1 - p) ** gamma * -log p``, absent ones ``p ** gamma * -log(1 - p)``; gamma is 0 of cross-entropy. The
    asymmetric loss has a gamma for either, and of absent labels ``max(p - margin, 0)`` in place of p (Ridnik et al. 2021,
    arXiv:2009.14119). Label smoothing s makes of 1 and 0 the targets 1 - s/2 and s/2. A weight multiplies the loss of a present
    label; alpha of the focal loss that of every present one, 1 - alpha that of every absent one.
    """
    gamma_present = gamma_absent = margin = smoothing = 0.0
    alpha: float | None = None
    match loss:
        case CrossEntropyLoss(label_smoothing=smoothing):
            pass
        case FocalLoss(gamma=gamma, alpha=alpha):
            gamma_present = gamma_absent = gamma
        case AsymmetricLoss(gamma_present=gamma_present, gamma_absent=gamma_absent, margin=margin):
            pass
        case LogitAdjustedLoss() | RDropLoss() | ContrastiveLoss():
            raise AssertionError  # check_loss has refused it; make_loss has made it

    def of_examples(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        present = F.logsigmoid(logits)
        absent = F.logsigmoid(-logits)
        odds = logits.sigmoid()
        if margin:
            odds_less = (odds - margin).clamp(min=1e-8)  # at 0 the gradient of a root is infinite
            absent = torch.log1p(-odds_less)
        else:
            odds_less = odds
        if gamma_present:
            present = (1 - odds) ** gamma_present * present
        if gamma_absent:
            absent = odds_less**gamma_absent * absent
        if weights is not None:
            present = present * weights.to(present.device)
        if alpha is not None:
            present, absent = alpha * present, (1 - alpha) * absent
        wanted = labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return -(wanted * present + (1 - wanted) * absent).mean(dim=1)

    return of_examples


@dataclass(frozen=True)
class TeacherLoss:
    """What a stage minimises where a teacher has answered its rows: the loss of labels and that of the answers, by `weight`."""

    answers: torch.Tensor
    """(N, K) the teacher's logits of every training row, on the device that computes."""
    labelled: int
    """The first so many rows have labels; of the others the teacher's part is all there is."""
    temperature: float
    weight: float
    target: str

    def __call__(self, of_labels: torch.Tensor, logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The loss of B examples, (B,), from that of their labels, their logits (of two passes (2 B, K)) and their rows (B,)."""
        passes = len(logits) // len(index)
        answers = self.answers[index].repeat(passes, 1)
        of_teacher = soft_loss(logits, answers, self.temperature, target=self.target).reshape(passes, -1).mean(dim=0)
        both = self.weight * of_teacher + (1 - self.weight) * of_labels
        return torch.where(index < self.labelled, both, of_teacher)


def soft_loss(logits: torch.Tensor, answers: torch.Tensor, temperature: float, *, target: str = ONE_LABEL) -> torch.Tensor:
    """``T ** 2 * KL(teacher, model)`` of each example, (B,), with both probabilities at the temperature T.

    T ** 2 keeps the gradient's size where T changes (Hinton et al. 2015, section 2). Of several labels it is the mean over the
    labels of the divergence of the answers yes and no. At a temperature of 1 a teacher that says 3/4 and 1/4 and a model that says
    1/2 and 1/2 are 3/4 log(3/2) + 1/4 log(1/2) = 0.131 apart.
    """
    model, teacher = logits / temperature, answers / temperature
    if target == SEVERAL_LABELS:
        yes, no = (F.logsigmoid(sign * teacher) - F.logsigmoid(sign * model) for sign in (1, -1))
        return temperature**2 * (teacher.sigmoid() * yes + (-teacher).sigmoid() * no).mean(dim=1)
    divergence = F.kl_div(model.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True)
    return temperature**2 * divergence.sum(dim=1)


class Contrast:
    """What a stage minimises beside cross-entropy where its loss is contrastive: vectors of one class lie together.

    The vectors are those that enter the output layer, so that what is drawn together is what the classes are told apart by.
    """

    def __init__(self, output: nn.Module, loss: ContrastiveLoss) -> None:
        """Catch what enters `output`, the layer that gives the logits, at every call of the model from now on."""
        self.loss = loss
        self._entered: torch.Tensor | None = None
        output.register_forward_pre_hook(self._catch)

    def _catch(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._entered = inputs[0]

    def __call__(self, cross_entropies: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of the B examples that the model was called with last, (B,), from their cross-entropies and labels, (B,)."""
        vectors, self._entered = self._entered, None
        assert vectors is not None
        compared = contrastive(vectors.float(), labels, self.loss.temperature)
        return self.loss.weight * compared + (1 - self.loss.weight) * cross_entropies


def contrastive(vectors: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """The supervised contrastive loss of each example, (B,), from vectors (B, D); one without another of its class has 0.

    With s the cosines over the temperature, it is the mean over the others p of the example's class of
    ``-log(exp(s_p) / sum of exp(s_a) over all others a)`` (Khosla et al. 2020, equation 2). Of two equal vectors of one class and a
    third of another class, at a right angle to them, the first two have log(1 + 1/e) = 0.313 at a temperature of 1.
    """
    unit = F.normalize(vectors, dim=1)
    similar = unit @ unit.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    shares = similar.masked_fill(itself, -math.inf).log_softmax(dim=1)
    alike = (labels[:, None] == labels) & ~itself
    return -shares.masked_fill(~alike, 0.0).sum(dim=1) / alike.sum(dim=1).clamp(min=1)
