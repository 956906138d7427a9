"""The losses a stage may minimise, and their options."""

from __future__ import annotations

import typing
from typing import Annotated, Literal

from pydantic import Field

from hftl.recipe.section import Choice, Fraction


class _Loss(Choice):
    key = "loss"

    @classmethod
    def kinds(cls) -> tuple[type[Choice], ...]:
        return typing.get_args(Loss)


class CrossEntropyLoss(_Loss):
    """Minus the log of the true class's probability."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Fraction = 0.0
    """Share of the target that is spread over all classes."""


class FocalLoss(_Loss):
    """Cross-entropy times ``(1 - p) ** gamma``, with p the true class's probability (Lin et al. 2017, arXiv:1708.02002)."""

    kind: Literal["focal"] = "focal"
    gamma: Annotated[float, Field(ge=0.0)] = 2.0


Loss = CrossEntropyLoss | FocalLoss
