"""The loss of one example; how it is averaged is the engine's business.

Shapes: B examples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from hftl.errors import RecipeError, did_you_mean
from hftl.recipe import CrossEntropyLoss, FocalLoss, Loss, Stage

ExampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def class_weights(stage: Stage, class_counts: Sequence[int], label_names: Sequence[str]) -> torch.Tensor | None:
    """Weight of each class, (K,) float32, or None; scaled so that the mean over the training examples is 1.

    "balanced" gives n / (K * n_k), as scikit-learn: with 30 and 10 examples [0.667, 2.0], whose mean over the 40 is 1.

    Raises:
        RecipeError: a weight for an unknown class, a class without a weight, or one that is not greater than 0.
    """
    if stage.class_weights is None:
        return None
    counts = torch.tensor(class_counts, dtype=torch.float32)
    if stage.class_weights == "balanced":
        # A class that train has no example of weighs nothing.
        weights = torch.where(counts > 0, counts.sum() / (len(counts) * counts.clamp(min=1)), 0.0)
    else:
        given = stage.class_weights
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
    return weights * (counts.sum() / (weights * counts).sum())


def make_loss(loss: Loss, weights: torch.Tensor | None) -> ExampleLoss:
    """A function of logits (B, K) and labels (B,) that gives the loss of each example, (B,).

    Cross-entropy is torch's, with its label smoothing; focal loss is ``(1 - p) ** gamma * cross_entropy`` with p the probability
    of the true class (Lin et al. 2017, arXiv:1708.02002). A class weight multiplies the loss of that class's examples.
    """

    def unweighted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        match loss:
            case CrossEntropyLoss(label_smoothing=smoothing):
                return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
            case FocalLoss(gamma=gamma):
                true_class = logits.softmax(-1).gather(1, labels[:, None])[:, 0]
                return (1 - true_class) ** gamma * F.cross_entropy(logits, labels, reduction="none")

    def weighted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = unweighted(logits, labels)
        return losses if weights is None else losses * weights.to(losses.device)[labels]

    return weighted
