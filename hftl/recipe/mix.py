"""How a stage of pictures mixes the pictures of a step, and their labels with them."""

from __future__ import annotations

import typing
from typing import Annotated, Literal

from pydantic import Field

from hftl.recipe.section import Choice

_Alpha = Annotated[float, Field(gt=0.0)]
_Share = Annotated[float, Field(gt=0.0, le=1.0)]


class _Mix(Choice):
    key = "mix"

    probability: _Share = 1.0
    """Share of the steps whose pictures are mixed; the others see them as they are."""


class Mixup(_Mix):
    """Each picture of a step becomes ``share * picture + (1 - share) * partner``, another picture of the step, and the loss is the
    same mean of the losses for both labels (Zhang et al. 2018, arXiv:1710.09412)."""

    kind: Literal["mixup"] = "mixup"
    alpha: _Alpha = 0.2
    """A step's share is drawn from Beta(alpha, alpha): near 0 or 1 where alpha is small, any share alike where it is 1."""


class CutMix(_Mix):
    """A rectangle of each picture of a step is that of its partner, and the loss is the mean of the losses for both labels by the
    areas (Yun et al. 2019, arXiv:1905.04899)."""

    kind: Literal["cutmix"] = "cutmix"
    alpha: _Alpha = 1.0
    """The share of a picture that stays is drawn from Beta(alpha, alpha), before its borders cut the rectangle."""


class MixupOrCutMix(_Mix):
    """Each step is mixed by one of the two, drawn by lot."""

    kind: Literal["mixup or cutmix"] = "mixup or cutmix"
    mixup_alpha: _Alpha = 0.2
    cutmix_alpha: _Alpha = 1.0
    cutmix_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Of the steps that are mixed, the share that CutMix mixes."""


Mix = Mixup | CutMix | MixupOrCutMix
_Mix.kinds = typing.get_args(Mix)
