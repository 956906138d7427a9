"""The schedules of a stage's learning rates, and their options."""

from __future__ import annotations

import typing
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hftl.recipe.section import Choice, Fraction, Positive


class _Schedule(Choice):
    key = "schedule"


class _Warmed(_Schedule):
    warmup: Fraction = 0.0
    """Share of the stage's steps over which the rates rise from 0."""


class LinearSchedule(_Warmed):
    """Down to 0 in a line."""

    kind: Literal["linear"] = "linear"


class ConstantSchedule(_Warmed):
    """The same rates throughout."""

    kind: Literal["constant"] = "constant"


class CosineSchedule(_Warmed):
    """Down to 0 along half a cosine."""

    kind: Literal["cosine"] = "cosine"


class StepSchedule(_Warmed):
    """Times `gamma` after every `every` epochs."""

    kind: Literal["step"] = "step"
    every: Positive = 1
    """Epochs between two drops."""
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1


class ExponentialSchedule(_Warmed):
    """Times the same factor at every step; `gamma` in all, from the first step to the last."""

    kind: Literal["exponential"] = "exponential"
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1


class PolynomialSchedule(_Warmed):
    """Down to `end` along the curve ``(1 - t) ** power``, with t from 0 to 1 over the stage."""

    kind: Literal["polynomial"] = "polynomial"
    power: Annotated[float, Field(gt=0.0)] = 2.0
    """1 is linear; more falls faster at first."""
    end: Fraction = 0.0
    """The last rate, as a share of the first."""


class CosineRestartsSchedule(_Warmed):
    """Down to 0 along a cosine, and up again at once, several times (Loshchilov & Hutter 2016, arXiv:1608.03983)."""

    kind: Literal["cosine_with_restarts"] = "cosine_with_restarts"
    cycles: Annotated[int, Field(ge=2, le=1000)] = 2


class InverseSqrtSchedule(_Schedule):
    """Up over a warmup of w steps; at step t after that ``sqrt(w / t)`` of the rate (Vaswani et al. 2017, arXiv:1706.03762)."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the stage's steps over which the rates rise from 0; one step at least. How fast they fall follows from it."""


class WSDSchedule(_Warmed):
    """Warmup, stable, decay: up, the same rates, and at the end down to 0 in a line (Hu et al. 2024, arXiv:2404.06395)."""

    kind: Literal["wsd"] = "wsd"
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of the stage's steps over which the rates fall to 0."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup:g} and decay {self.decay:g} are more than the whole stage")
        return self


class PlateauSchedule(_Warmed):
    """The same rates, times `factor` whenever `patience` epochs have not made the validation metric better (torch's
    `ReduceLROnPlateau`)."""

    kind: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    patience: Positive = 1
    """Epochs, as early stopping counts them."""


class OneCycleSchedule(_Schedule):
    """Up from 1/25 over three tenths of the steps, and down to almost nothing (Smith 2018, arXiv:1708.07120)."""

    kind: Literal["one_cycle"] = "one_cycle"


class SlantedTriangularSchedule(_Schedule):
    """Up from 1/32 over a tenth of the steps, and down to 1/32 (Howard & Ruder 2018, arXiv:1801.06146)."""

    kind: Literal["slanted_triangular"] = "slanted_triangular"


Schedule = (
    LinearSchedule
    | ConstantSchedule
    | CosineSchedule
    | StepSchedule
    | ExponentialSchedule
    | PolynomialSchedule
    | CosineRestartsSchedule
    | InverseSqrtSchedule
    | WSDSchedule
    | PlateauSchedule
    | OneCycleSchedule
    | SlantedTriangularSchedule
)
_Schedule.kinds = typing.get_args(Schedule)
