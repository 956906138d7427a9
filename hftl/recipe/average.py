"""The averages of a stage's weights, and their options."""

from __future__ import annotations

import math
import typing
from typing import Annotated, Literal

from pydantic import Field

from hftl.recipe.section import Choice


class _Average(Choice):
    key = "average"


class EMA(_Average):
    """An exponential moving average over the steps (Polyak & Juditsky 1992; timm's `ModelEmaV3`).

    At step t of the stage, from 1, the average keeps ``min(decay, 1 - t ** (-2 / 3))`` of itself: a warmup, by which the weights
    that the stage began with are soon forgotten. 0.99 is reached at step 1,000, 0.999 at step 31,623.
    """

    kind: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """The most that the average keeps of itself at a step."""


class SWA(_Average):
    """The mean of the weights at the ends of the stage's last epochs (Izmailov et al. 2018, arXiv:1803.05407)."""

    kind: Literal["swa"] = "swa"
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Of the stage's epochs, rounded up; earlier ones are evaluated as they are."""

    def first(self, epochs: int) -> int:
        """The first epoch, from 1, that is part of the mean. Of 5 epochs and half of them: the third."""
        return epochs - math.ceil(self.share * epochs - 1e-9) + 1  # 0.3 of 10 is a little more than 3 in floating point


class Soup(_Average):
    """The mean of those of the stage's epochs whose mean is best on the validation split: a greedy soup (Wortsman et al. 2022,
    arXiv:2203.05482), made once, at the stage's end. The epochs themselves are evaluated as they are."""

    kind: Literal["soup"] = "soup"
    most: Annotated[int, Field(ge=2, le=1000)] = 5
    """The best so many epochs are kept, and may be part of it."""


Average = EMA | SWA | Soup
_Average.kinds = typing.get_args(Average)
