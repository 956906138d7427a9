"""Mixup and CutMix: how the pictures of an optimizer step are mixed, planned for the whole step before anything is loaded.

What is drawn depends on (seed, epoch, step) alone, and a picture's partner on the step alone, so that one process mixes as eight
do, and a continued run as one in one piece. The pictures are mixed on the device, normalised; whoever computes a picture loads its
partner too, where that is not one of its own.

mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. As in the code of both papers a step has one
share and one rectangle.

Shapes: B examples in a micro-batch, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hftl.recipe import CutMix, Mix, Mixup, MixupOrCutMix

_STREAM = 0x6D6978  # "mix": no other generator of a step has these numbers


@dataclass(frozen=True)
class StepMix:
    """How one optimizer step mixes its pictures."""

    share: float
    """Of each picture itself; its partner has the rest. CutMix: as drawn, before the picture's borders cut the rectangle."""
    centre: tuple[float, float] | None = None
    """Of the rectangle that comes from the partner, (down, across), each from 0 to 1; None: the whole pictures are blended."""

    def rectangle(self, height: int, width: int) -> tuple[slice, slice]:
        """What of a picture of so many pixels comes from its partner, where a rectangle does.

        Of 8 x 8 pixels, a share of 0.75 and the centre (0.5, 0.5): 4 x 4 pixels, from 2 to 6 both ways.
        """
        assert self.centre is not None
        rest = (1 - self.share) ** 0.5
        bounds = []
        for side, place in zip((height, width), self.centre, strict=True):
            cut, middle = int(side * rest), int(side * place)
            bounds.append(slice(max(0, middle - cut // 2), min(side, middle - cut // 2 + cut)))
        return bounds[0], bounds[1]

    def mixed(self, pictures: torch.Tensor, partners: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Both (B, C, H, W) -> the same of mixed pictures, and each picture's share of its own mixture."""
        if self.centre is None:
            return self.share * pictures + (1 - self.share) * partners, self.share
        rows, columns = self.rectangle(*pictures.shape[2:])
        mixed = pictures.clone(memory_format=torch.preserve_format)
        mixed[:, :, rows, columns] = partners[:, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed, 1 - area / (pictures.shape[2] * pictures.shape[3])


def plan_mix(mix: Mix | None, *, seed: int, epoch: int, step: int) -> StepMix | None:
    """How step `step` of an epoch mixes; None: its pictures stay as they are."""
    if mix is None:
        return None
    generator = np.random.default_rng([seed, epoch, step, _STREAM])
    if generator.random() >= mix.probability:
        return None
    match mix:
        case Mixup(alpha=alpha):
            cuts = False
        case CutMix(alpha=alpha):
            cuts = True
        case MixupOrCutMix():
            cuts = bool(generator.random() < mix.cutmix_share)
            alpha = mix.cutmix_alpha if cuts else mix.mixup_alpha
    share = float(generator.beta(alpha, alpha))
    return StepMix(share, (float(generator.random()), float(generator.random())) if cuts else None)


def partners_of(step: np.ndarray) -> np.ndarray:
    """The partner of each example of a step: the one half a step further on, at its end from the beginning again.

    Of [7, 3, 5, 1] they are [5, 1, 7, 3]. The order of a step is a random one. Half a step: dealt to as many processes and micro-
    batches as divide it, every example finds its partner where it is computed itself, and no picture is loaded twice.
    """
    return np.roll(step, -(len(step) // 2))
