"""The losses a stage may minimise, and their options."""

from __future__ import annotations

import typing
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hftl.recipe.section import Choice, Fraction


class _Loss(Choice):
    key = "loss"
    passes: ClassVar[int] = 1
    """How often a training step computes each example."""


class CrossEntropyLoss(_Loss):
    """Minus the log of the true class's probability; where an example has several labels, the mean over the labels of minus the log
    of the true answer's, yes or no (binary cross-entropy)."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Fraction = 0.0
    """Share of the target that is spread over all classes; of several labels over yes and no."""


class FocalLoss(_Loss):
    """Cross-entropy times ``(1 - p) ** gamma``, with p the true class's probability (Lin et al. 2017, arXiv:1708.02002); of several
    labels that of each label's true answer."""

    kind: Literal["focal"] = "focal"
    gamma: Annotated[float, Field(ge=0.0)] = 2.0
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Of several labels an example the weight of a label that is there, where one that is not there has 1 - alpha; None: 1 for
    both. With one label an example the paper's alpha is the stage's `class_weights`."""


class AsymmetricLoss(_Loss):
    """For several labels an example, of which most are absent: focal loss whose absent labels are weighed down more, and not at all
    counted where the model gives them less than `margin` (Ridnik et al. 2021, arXiv:2009.14119)."""

    kind: Literal["asymmetric"] = "asymmetric"
    gamma_present: Annotated[float, Field(ge=0.0)] = 0.0
    gamma_absent: Annotated[float, Field(ge=0.0)] = 4.0
    margin: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05


class LogitAdjustedLoss(_Loss):
    """Cross-entropy of the logits plus `tau` times the log of each class's share of the training examples, which serving leaves
    out: what a class owes to being frequent is not learned (Menon et al. 2021, arXiv:2007.07314). For one label an example."""

    kind: Literal["logit_adjusted"] = "logit_adjusted"
    tau: Annotated[float, Field(gt=0.0)] = 1.0
    """1 aims at the mean of the classes' recalls; less lies between that and accuracy."""


class RDropLoss(_Loss):
    """The mean cross-entropy of two passes of an example, whose dropout differs, and `alpha` times the mean of the divergences from
    either to the other (Liang et al. 2021, arXiv:2106.14448). It costs two passes, and is refused where nothing is dropped."""

    kind: Literal["r_drop"] = "r_drop"
    passes: ClassVar[int] = 2
    alpha: Annotated[float, Field(gt=0.0)] = 1.0


class ContrastiveLoss(_Loss):
    """Cross-entropy, and for vectors that enter the output layer: those of one class of a step are drawn together and away from all
    others (Khosla et al. 2020, arXiv:2004.11362, equation 2). For few labels (Gunel et al. 2021, arXiv:2011.01403; SetFit, Tunstall
    et al. 2022, arXiv:2209.11055). For one label an example."""

    kind: Literal["contrastive"] = "contrastive"
    weight: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """Of what compares the examples; cross-entropy has the rest."""
    temperature: Annotated[float, Field(gt=0.0)] = 0.3
    """Cosines are divided by it: the smaller, the more the nearest others count."""


Loss = CrossEntropyLoss | FocalLoss | AsymmetricLoss | LogitAdjustedLoss | RDropLoss | ContrastiveLoss
_Loss.kinds = typing.get_args(Loss)
