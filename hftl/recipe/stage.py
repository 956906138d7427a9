"""The section of a stage: one entry of the training plan."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from hftl.recipe.average import SWA, Average, Soup
from hftl.recipe.balance import AnyClassWeights, ClassWeights
from hftl.recipe.lora import AnyLora
from hftl.recipe.loss import CrossEntropyLoss, FocalLoss, LogitAdjustedLoss, Loss
from hftl.recipe.mix import Mix
from hftl.recipe.optimizer import AdamW, Optimizer
from hftl.recipe.schedule import LinearSchedule, PlateauSchedule, Schedule
from hftl.recipe.section import LearningRate, Positive, Section, word_or_section

if TYPE_CHECKING:  # what a stage may be given; it keeps the section
    AnyOptimizer = str | Optimizer
    AnySchedule = str | Schedule
    AnyLoss = str | Loss
    AnyMix = str | Mix
    AnyAverage = str | Average
else:
    AnyOptimizer, AnySchedule, AnyLoss, AnyMix = (word_or_section(union) for union in (Optimizer, Schedule, Loss, Mix))
    AnyAverage = word_or_section(Average)


class Stage(Section):
    """One entry of the training plan: what trains, at which rates, for how long."""

    choices = ("optimizer", "schedule", "loss", "class_weights", "mix", "average")

    lr: LearningRate
    """Learning rate of the last layer group before multipliers."""
    unfreeze: str | tuple[str, ...] = "all"
    """"head", "last 4" (groups, the head counted), "all", or the names of layer groups."""
    epochs: Positive = 1
    batch_size: Positive | None = None
    """Examples an optimizer step sees over all processes; None: `run.batch_size`."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Group i of n, input first, gets ``lr * layer_decay ** (n - 1 - i)``."""
    head_lr_multiplier: Annotated[float, Field(gt=0.0)] = 1.0
    optimizer: AnyOptimizer = AdamW()
    """A word such as "sgd", or a section with options: `hftl.SGD(momentum=0.8)`, in YAML ``{kind: sgd, momentum: 0.8}``."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Decoupled L2 with adamw, lion and adafactor: a share ``lr * weight_decay`` of a weight comes off at each step. With the
    others it is part of the gradient, or of the step (docs/stages.md). Off for biases, norms and embeddings."""
    l1: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled L1: after each step a weight comes nearer to 0 by ``lr * l1``, and is 0 where it would pass it. Off for biases,
    norms and embeddings."""
    schedule: AnySchedule = LinearSchedule()
    """A word such as "cosine", or a section: `hftl.CosineSchedule(warmup=0.1)`, in YAML ``{kind: cosine, warmup: 0.1}``."""
    loss: AnyLoss = CrossEntropyLoss()
    """A word, "cross_entropy", "focal", "r_drop", "contrastive", "logit_adjusted" or (of several labels an example) "asymmetric",
    or a section: `hftl.FocalLoss(gamma=3)`, in YAML ``{kind: focal, gamma: 3}``."""
    class_weights: AnyClassWeights | None = None
    """"balanced" (n / (K * n_k)), "effective" or `hftl.EffectiveWeights(beta=0.99)`, or a weight for each class name; scaled so
    that the mean over train is 1. Of several labels an example a weight for the presence of each label, its absence having 1:
    "balanced" is (n - n_k) / n_k."""
    sampling: Literal["balanced", "sqrt"] | None = None
    """None: an epoch has each training example once. "balanced": it has as many, and every class equally often; "sqrt": a class in
    proportion to the root of its number of examples. An example of several labels is drawn as often as its rarest label asks."""
    mix: AnyMix | None = None
    """Of pictures: mix those of each step, and their labels. A word, "mixup", "cutmix" or "mixup or cutmix", or a section:
    `hftl.Mixup(alpha=0.4)`, in YAML ``{kind: mixup, alpha: 0.4}``; None: every picture as it is."""
    image_size: Positive | None = None
    """Of pictures: side of those that the stage trains on, in pixels; validation and test are of `data.image_size`."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """The norm of a step's gradient, over all that trains, is cut to this; None: never."""
    early_stopping: Positive | None = None
    """Stop the stage after that many epochs without a better validation metric; None: never."""
    average: AnyAverage | None = None
    """A mean of the weights over time, which is evaluated and kept in their place: "ema", "swa" or "soup", or a section:
    `hftl.EMA(decay=0.99)`, in YAML ``{kind: ema, decay: 0.99}``. None: none."""
    lora: AnyLora | None = None
    """Adapters: below the head the weights stay as they are, and small matrices beside them are trained. A number, their rank, or a
    section: `hftl.Lora(r=8, dropout=0.1)`, in YAML ``{r: 8, dropout: 0.1}``. None: the weights themselves train."""

    @model_validator(mode="after")
    def _average_has_several(self) -> Self:
        if isinstance(self.average, SWA) and (first := self.average.first(self.epochs)) == self.epochs:
            what = f"average swa: the last {self.average.share:g} of the epochs is epoch {first} alone, and a mean needs two"
            raise ValueError(f"{what}; give the stage more epochs, or the average a larger share")
        if isinstance(self.average, Soup) and self.epochs == 1:
            raise ValueError(
                "average soup: the stage has one epoch, and a mean needs two; give it more epochs, or leave the soup out"
            )
        return self

    @model_validator(mode="after")
    def _plateau_has_epochs(self) -> Self:
        if isinstance(self.schedule, PlateauSchedule) and self.epochs < (needed := self.schedule.patience + 2):
            has = f"rates fall after {needed - 1} epochs at the soonest, and the stage has {self.epochs}"
            raise ValueError(f"schedule plateau: {has}; give it {needed} or more, or take schedule constant")
        return self

    @classmethod
    def homes_of(cls, key: str) -> Iterator[str]:
        for union in (Optimizer, Schedule, Loss, ClassWeights, Mix, Average):
            yield from typing.get_args(union)[0].homes_of(key)

    @model_validator(mode="after")
    def _presence_is_weighed_once(self) -> Self:
        if isinstance(self.loss, FocalLoss) and self.loss.alpha is not None and self.class_weights is not None:
            raise ValueError("loss.alpha and class_weights both weigh the presence of a label against its absence; leave one out")
        return self

    @property
    def for_rare_classes(self) -> list[str]:
        """What of it makes up for how rare a class is, as it is written."""
        return [
            *(["loss=logit_adjusted"] if isinstance(self.loss, LogitAdjustedLoss) else []),
            *([f"class_weights={self.class_weights.kind}"] if isinstance(self.class_weights, ClassWeights) else []),
            *([f"sampling={self.sampling}"] if self.sampling else []),
        ]

    @model_validator(mode="after")
    def _rare_classes_are_made_up_for_once(self) -> Self:
        if len(written := self.for_rare_classes) > 1:
            more = "class_weights with a number for each class, what a mistake costs, goes with them"
            raise ValueError(f"{' and '.join(written)} make up for the same rare classes twice; leave one out ({more})")
        return self
