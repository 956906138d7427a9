"""Augmentation of pictures: policies by name, or a pipeline of Albumentations' own that a recipe carries as data.

Two libraries make views, and each is imported where it is asked for alone: Albumentations (its own pipelines, and the policies
"light", "standard" and "strong" unless a recipe says otherwise) and torchvision (the policies of the papers, and those three where
the recipe asks for it). A view depends on its key alone, in both; the same policy makes other views of the same key in the other.

Shapes: H x W pixels. Random erasing: Zhong et al. 2020, arXiv:1708.04896.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol, get_args

import numpy as np

from hftl.errors import Problem, RecipeError, did_you_mean
from hftl.recipe import Mix, Policy

POLICIES = ("none", "light", "standard", "strong")
"""Those that are a word alone."""
ALL_POLICIES = (*POLICIES, "randaugment", "trivialaugment", "augmix")
_MIXES = tuple(mix.model_fields["kind"].default for mix in get_args(Mix))
ALBUMENTATIONS, TORCHVISION = "albumentations", "torchvision"

_ERASED, _SHAPES = (0.02, 0.33), (0.3, 1 / 0.3)  # share of the picture; height over width
_ATTEMPTS = 10
_STREAM = 0x657261  # "era": no other generator of a view has these numbers


class Augmentation(Protocol):
    """What makes views of decoded pictures of any size."""

    @property
    def sized(self) -> bool:
        """Whether a view has the size of the model's input, whatever it is made of. Where it has not, it is resized and cropped as
        for evaluation."""

    def as_data(self) -> dict[str, Any]:
        """All that decides what it does to a picture."""

    def view(self, picture: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """One view, (H, W, 3) uint8, of a picture (any height, any width, 3) uint8; `key` alone decides which.

        Raises:
            RecipeError: the recipe's own pipeline fails on this picture or returns something else.
        """


def augmentation_pipeline(
    augmentation: str | Policy | Mapping[str, Any], size: int | tuple[int, int], *, library: str | None = None
) -> Augmentation | None:
    """What makes the views of a policy or of the user's own dict; None for "none".

    Args:
        augmentation: one of `POLICIES`, a policy with options, what `albumentations.to_dict` returns, or the transform inside it.
        size: (H, W) of the model's input, or the side of a square.
        library: that makes the views; None: Albumentations, but for policies that torchvision alone has.

    Raises:
        RecipeError: no such policy, a dict that is no working pipeline of Albumentations' own transforms on uint8 pictures, or the
            library cannot be imported.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if isinstance(augmentation, str) and augmentation not in POLICIES:
        what = f'no policy "{augmentation}".{did_you_mean(augmentation, ALL_POLICIES)}'
        mixes = [f"{augmentation} mixes the pictures of a step: write it as stages.NAME.mix"] if augmentation in _MIXES else []
        allowed = f"allowed: {', '.join(ALL_POLICIES)}, or an Albumentations dict"
        raise RecipeError("recipe", [Problem("data.augmentation", what, (*mixes, allowed))])
    if augmentation == "none":
        return None
    if isinstance(augmentation, Policy) or (isinstance(augmentation, str) and library == TORCHVISION):
        from hftl.data.torchvision_views import TorchvisionViews

        return TorchvisionViews(augmentation, (height, width))
    views = _albumentations(own=not isinstance(augmentation, str))
    made: Augmentation
    if isinstance(augmentation, str):
        made = views.of_policy(augmentation, height, width)
    else:
        made = views.of_dict(augmentation, (height, width))
    return made


def _albumentations(*, own: bool) -> ModuleType:
    """The module behind which Albumentations is; `own`: for a pipeline of the recipe's own.

    Raises:
        RecipeError: it cannot be imported: it is missing, or too old for a library that it uses (its last release is of 2025).
    """
    try:
        from hftl.data import albumentations_views
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # what an old library finds in new ones
        what = f"Albumentations cannot be imported here ({type(error).__name__}: {' '.join(str(error).split())})"
        policies = ", ".join(POLICIES[1:])
        help = (
            "pip install albumentations==2.0.8 brings it",
            f"without it: one of torchvision's policies, {', '.join(ALL_POLICIES[len(POLICIES) :])}"
            if own
            else f"torchvision makes {policies} too: data.augmentation_library=torchvision",
        )
        raise RecipeError("recipe", [Problem("data.augmentation", what, help)]) from None
    return albumentations_views


def erase(view: np.ndarray, key: tuple[int, ...], probability: float) -> np.ndarray:
    """A view, (H, W, 3) uint8, with a rectangle of random bytes in it, or as it is; `key` alone decides.

    The rectangle has a share of 0.02 to 0.33 of the pixels and is up to 3.3 times as high as wide, or as wide as high; of ten that
    are drawn the first one that fits is taken.
    """
    generator = np.random.default_rng([*key, _STREAM])
    if generator.random() >= probability:
        return view
    height, width = view.shape[:2]
    for _ in range(_ATTEMPTS):
        pixels = generator.uniform(*_ERASED) * height * width
        ratio = np.exp(generator.uniform(*np.log(_SHAPES)))
        high, wide = round(float(np.sqrt(pixels * ratio))), round(float(np.sqrt(pixels / ratio)))
        if 0 < high < height and 0 < wide < width:
            top, left = generator.integers(height - high + 1), generator.integers(width - wide + 1)
            view = view.copy()
            view[top : top + high, left : left + wide] = generator.integers(0, 256, (high, wide, 3), dtype=np.uint8)
            return view
    return view
