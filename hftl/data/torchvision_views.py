"""Views that torchvision.transforms.v2 makes: the policies of the papers, and a recipe's named ones where it asks for them here.

The transforms draw from torch's own generator of the CPU. A view sets it by its key and puts it back as it was, so that dropout
draws what it would have drawn; the generators of GPUs are left alone.

Shapes: H x W pixels of the model's input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torchvision
from torchvision.transforms import InterpolationMode, v2

from hftl.recipe import AugMix, Policy, RandAugment, TrivialAugment

_BILINEAR = InterpolationMode.BILINEAR
_FILL = [124, 116, 104]  # of places that a shift or a rotation leaves empty: ImageNet's mean colour, where the papers have grey


@dataclass(frozen=True)
class TorchvisionViews:
    """A policy for inputs of one size."""

    policy: str | Policy
    """"light", "standard", "strong", or one with options."""
    size: tuple[int, int]
    """(H, W)"""
    sized: bool = True

    def as_data(self) -> dict[str, Any]:
        """All that decides what it does to a picture."""
        policy = self.policy if isinstance(self.policy, str) else self.policy.model_dump(mode="json")
        return {"policy": policy, "torchvision": torchvision.__version__, "torch": str(torch.__version__)}

    def view(self, picture: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """See `hftl.data.augmentation.Augmentation.view`."""
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPUs too
        try:
            # A copy, since the picture is a read-only map of a file; with the colours last in memory, which takes half the time.
            view = self._transforms(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        finally:
            torch.set_rng_state(before)
        return np.ascontiguousarray(view.permute(1, 2, 0).numpy())

    @cached_property
    def _transforms(self) -> v2.Compose:
        return v2.Compose(_transforms(self.policy, self.size))


def _transforms(policy: str | Policy, size: tuple[int, int]) -> list[torch.nn.Module]:
    """The same amounts as `hftl.data.albumentations_views` has."""

    def crop(least: float) -> v2.RandomResizedCrop:
        return v2.RandomResizedCrop(size, scale=(least, 1.0), ratio=(3 / 4, 4 / 3), interpolation=_BILINEAR, antialias=True)

    def rotate(degrees: float, p: float) -> v2.RandomApply:
        # Reflected borders: black corners would tell the network that a picture was turned. torchvision turns with a fixed colour.
        sine = math.sin(math.radians(degrees)) / 2
        borders = [min(side - 1, math.ceil(other * sine)) for side, other in (size[::-1], size)]  # left and right, above and below
        turn = v2.RandomRotation(degrees, interpolation=_BILINEAR)
        return v2.RandomApply([v2.Pad(borders, padding_mode="reflect"), turn, v2.CenterCrop(size)], p=p)

    def jitter(amount: float, hue: float, p: float) -> v2.RandomApply:
        return v2.RandomApply([v2.ColorJitter(amount, amount, amount, hue)], p=p)

    flip = v2.RandomHorizontalFlip(p=0.5)
    match policy:
        case RandAugment(operations=operations, magnitude=magnitude):
            return [crop(0.5), flip, v2.RandAugment(operations, magnitude, interpolation=_BILINEAR, fill=_FILL)]
        case TrivialAugment():
            return [crop(0.5), flip, v2.TrivialAugmentWide(interpolation=_BILINEAR, fill=_FILL)]
        case AugMix(severity=severity):
            return [crop(0.5), flip, v2.AugMix(severity, interpolation=_BILINEAR, fill=_FILL)]
        case "light":
            return [crop(0.6), flip]
        case "standard":
            return [crop(0.5), flip, rotate(15, p=0.5), jitter(0.2, 0.03, p=0.8)]
    noise = v2.RandomChoice([v2.GaussianNoise(sigma=sigma) for sigma in (0.01, 0.02, 0.03, 0.04, 0.05)])
    return [
        *(crop(0.35), flip, rotate(30, p=0.7), jitter(0.3, 0.04, p=0.8)),
        *(v2.RandomApply([noise], p=0.4), v2.RandomApply([_Holes()], p=0.5)),
    ]


class _Holes(torch.nn.Module):
    """One or two rectangles of a picture in a random colour, each side 0.1 to 0.3 of the picture's."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """(3, H, W) uint8 -> the same."""
        picture = picture.clone()
        for _ in range(int(torch.randint(1, 3, ()))):
            places = []
            for side in picture.shape[1:]:
                length = max(1, int(side * torch.empty(()).uniform_(0.1, 0.3)))
                start = int(torch.randint(side - length + 1, ()))
                places.append(slice(start, start + length))
            picture[:, places[0], places[1]] = torch.randint(256, (3, 1, 1), dtype=torch.uint8)
        return picture
