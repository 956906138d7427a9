"""The optimizers a stage may have, and their options."""

from __future__ import annotations

import typing
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hftl.recipe.section import Choice

Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Betas = tuple[Beta, Beta]
Epsilon = Annotated[float, Field(gt=0.0)]


class _Optimizer(Choice):
    key = "optimizer"


class AdamW(_Optimizer):
    """Adam whose weight decay does not go through its averages (Loshchilov & Hutter 2017, arXiv:1711.05101). torch's, fused."""

    kind: Literal["adamw"] = "adamw"
    betas: Betas = (0.9, 0.999)
    """How much of the averages of the gradient and of its square is kept at a step."""
    eps: Epsilon = 1e-8


class Adam(_Optimizer):
    """Kingma & Ba 2014, arXiv:1412.6980; weight decay is part of the gradient. torch's, fused."""

    kind: Literal["adam"] = "adam"
    betas: Betas = (0.9, 0.999)
    eps: Epsilon = 1e-8


class NAdam(_Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016); weight decay is part of the gradient. torch's."""

    kind: Literal["nadam"] = "nadam"
    betas: Betas = (0.9, 0.999)
    eps: Epsilon = 1e-8


class RAdam(_Optimizer):
    """Adam whose first steps are small without a warmup (Liu et al. 2019, arXiv:1908.03265); weight decay is part of the gradient.
    torch's."""

    kind: Literal["radam"] = "radam"
    betas: Betas = (0.9, 0.999)
    eps: Epsilon = 1e-8


class SGD(_Optimizer):
    """Gradient descent; weight decay is part of the gradient. torch's, fused."""

    kind: Literal["sgd"] = "sgd"
    momentum: Beta = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is a way to use momentum, which is 0; leave nesterov out, or give a momentum")
        return self


class RMSprop(_Optimizer):
    """The gradient over the root of its mean square; weight decay is part of the gradient. torch's."""

    kind: Literal["rmsprop"] = "rmsprop"
    momentum: Beta = 0.9
    alpha: Beta = 0.99
    """How much of the average of the squared gradient is kept at a step."""
    eps: Epsilon = 1e-8


class Lion(_Optimizer):
    """The sign of an averaged gradient (Chen et al. 2023, arXiv:2302.06675); half of AdamW's memory, and a tenth to a third of its
    rate. timm's."""

    kind: Literal["lion"] = "lion"
    betas: Betas = (0.9, 0.99)


class Lamb(_Optimizer):
    """Adam whose step is scaled to the norm of each matrix, for large batches (You et al. 2019, arXiv:1904.00962). timm's."""

    kind: Literal["lamb"] = "lamb"
    betas: Betas = (0.9, 0.999)
    eps: Epsilon = 1e-6


class Muon(_Optimizer):
    """A momentum whose matrix is made orthogonal (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982), for matrices and filters
    below the head; AdamW for all else: embeddings, the head, biases, norms. timm's.

    A step of a matrix is as large as AdamW's (0.2 times the rate, root mean square), so that both take the same rates.
    """

    kind: Literal["muon"] = "muon"
    momentum: Beta = 0.95
    betas: Betas = (0.9, 0.95)
    """Of AdamW."""


class Adafactor(_Optimizer):
    """Adam without momentum whose second average is kept by rows and columns (Shazeer & Stern 2018, arXiv:1804.04235). torch's.

    A rate is relative: a step of 0.01 changes a matrix by about 1 % of its size; of the rate and 1 / sqrt(step) the smaller counts.
    """

    kind: Literal["adafactor"] = "adafactor"


Optimizer = AdamW | Adam | SGD | RMSprop | NAdam | RAdam | Lion | Lamb | Muon | Adafactor
_Optimizer.kinds = typing.get_args(Optimizer)
