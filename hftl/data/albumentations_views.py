"""Views that Albumentations makes: of policies by name, and of a pipeline of its own transforms that a recipe carries as data.

Albumentations 2.0.8 is the last release under the MIT licence and is imported here alone; this module where it is asked for alone.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the network for a newer release

import albumentations as A
import cv2
import numpy as np
from albumentations.augmentations.crops.transforms import CropSizeError
from albumentations.core.serialization import SERIALIZABLE_REGISTRY, shorten_class_name

from hftl.errors import Problem, RecipeError, did_you_mean

# OpenCV's own threads fight with the loader's workers for the cores and can hang after a fork.
cv2.setNumThreads(0)

_PIPELINE_FAILURES = (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, CropSizeError, cv2.error)
"""What Albumentations raises on arguments that do not fit."""


@dataclass(frozen=True)
class AlbumentationsViews:
    """An Albumentations pipeline on decoded pictures of any size."""

    pipeline: A.BaseCompose
    sized: bool
    """Whether it returns the size of the model's input, whatever it is given."""

    def as_data(self) -> dict[str, Any]:
        """All that decides what it does to a picture."""
        return {"pipeline": A.to_dict(self.pipeline), "opencv": cv2.__version__}

    def view(self, picture: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """See `hftl.data.augmentation.Augmentation.view`."""
        return _view(self.pipeline, picture, key)


def of_policy(name: str, height: int, width: int) -> AlbumentationsViews:
    """The views of "light", "standard" or "strong"."""
    return AlbumentationsViews(A.Compose(_policy(name, height, width)), sized=True)


def _policy(name: str, height: int, width: int) -> list[A.BasicTransform]:
    # INTER_AREA averages what it shrinks, as the evaluation's resizing does; OpenCV's default would sample and alias.
    def crop(least: float) -> A.RandomResizedCrop:
        return A.RandomResizedCrop((height, width), scale=(least, 1.0), ratio=(3 / 4, 4 / 3), interpolation=cv2.INTER_AREA)

    def rotate(degrees: float, p: float) -> A.Rotate:
        # Reflected borders: black corners would tell the network that a picture was turned.
        return A.Rotate((-degrees, degrees), interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_REFLECT_101, p=p)

    def jitter(amount: float, hue: float, p: float) -> A.ColorJitter:
        # Hue in turns: 0.05 is 18 degrees, from orange to yellow.
        factors = (1.0 - amount, 1.0 + amount)
        return A.ColorJitter(brightness=factors, contrast=factors, saturation=factors, hue=(-hue, hue), p=p)

    if name == "light":
        return [crop(0.6), A.HorizontalFlip(p=0.5)]
    if name == "standard":
        return [crop(0.5), A.HorizontalFlip(p=0.5), rotate(15, p=0.5), jitter(0.2, 0.03, p=0.8)]
    return [
        crop(0.35),
        A.HorizontalFlip(p=0.5),
        rotate(30, p=0.7),
        jitter(0.3, 0.04, p=0.8),
        A.GaussNoise(std_range=(0.01, 0.05), p=0.4),
        A.CoarseDropout(
            num_holes_range=(1, 2), hole_height_range=(0.1, 0.3), hole_width_range=(0.1, 0.3), fill="random_uniform", p=0.5
        ),
    ]


def of_dict(augmentation: Mapping[str, Any], size: tuple[int, int]) -> AlbumentationsViews:
    """The views of a pipeline that a recipe has as data, `size` being (H, W) of the model's input.

    Raises:
        RecipeError: it is no working pipeline of Albumentations' own transforms on uint8 pictures.
    """
    transform = augmentation.get("transform", augmentation)
    reasons = list(_not_data(transform))
    if not (isinstance(transform, Mapping) and isinstance(transform.get("__class_fullname__"), str)):
        reasons.append('no "__class_fullname__" in it')
    if reasons:
        raise _bad_augmentation(reasons)
    try:
        with warnings.catch_warnings():
            # Albumentations only warns of an argument that it does not know, and goes on without it.
            warnings.simplefilter("error", UserWarning)
            parsed = A.from_dict({"transform": transform})
            pipeline = parsed if isinstance(parsed, A.BaseCompose) else A.Compose([parsed])
    except (*_PIPELINE_FAILURES, UserWarning) as error:
        raise _bad_augmentation([f"{type(error).__name__}: {' '.join(str(error).split())}"]) from None
    sized = True
    for seed in range(8):  # a transform with p = 0.5 hides in 1 of 2 trials, in 1 of 256 times in all eight
        shape = _TRIED[seed % len(_TRIED)]
        sized &= _view(pipeline, np.full((*shape, 3), 127, dtype=np.uint8), (seed,)).shape[:2] == size
    return AlbumentationsViews(pipeline, sized)


_TRIED = ((1024, 1024), (1030, 1280), (1280, 1030))  # pictures on which a pipeline is tried: square, wide and tall

_NORMALISING = ("Normalize", "ToTensorV2", "ToTensor3D")


def _not_data(value: Any) -> Iterator[str]:
    """What in a dict is more than data for Albumentations' own transforms: a recipe may come from a stranger."""
    if isinstance(value, Mapping):
        for key, content in value.items():
            if key == "__class_fullname__" and not _is_own_transform(content):
                yield f'no transform "{content}" in albumentations.{did_you_mean(str(content), SERIALIZABLE_REGISTRY)}'
            elif key == "__class_fullname__" and shorten_class_name(content) in _NORMALISING:  # also with p = 0.01
                yield f"leave out {shorten_class_name(content)}: hftl normalises, after the augmentation, as the checkpoint asks"
            elif key in {"read_fn", "reference_images", "font_path"}:
                yield f'"{key}" reads files or runs code; an augmentation in a recipe is data alone'
            else:
                yield from _not_data(content)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for content in value:
            yield from _not_data(content)


def _is_own_transform(name: Any) -> bool:
    if not isinstance(name, str) or ("." in name and not name.startswith("albumentations.")):
        return False
    registered = SERIALIZABLE_REGISTRY.get(shorten_class_name(name))
    return registered is not None and registered.__module__.startswith("albumentations.")


def _view(pipeline: A.BaseCompose, picture: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    sequence = np.random.SeedSequence(key)
    # Not `set_random_seed`: it gives every transform a generator of its own from the same seed, and then two transforms with
    # p = 0.5 are always both applied or both left out. Here all of them draw from one pair of generators, one after the other.
    pipeline.set_random_state(np.random.default_rng(sequence), random.Random(int(sequence.generate_state(1, np.uint64)[0])))
    try:
        view = pipeline(image=picture)["image"]
    except _PIPELINE_FAILURES as error:
        what = f"fails on a picture of {picture.shape[1]} x {picture.shape[0]} pixels: {type(error).__name__}: {error}"
        raise _bad_augmentation([" ".join(what.split())]) from error
    if not isinstance(view, np.ndarray) or view.dtype != picture.dtype or view.ndim != 3 or view.shape[2] != picture.shape[2]:
        what = "does not return an RGB picture of bytes; leave out Normalize, ToFloat, ToTensorV2: hftl normalises"
        raise _bad_augmentation([what])
    return view


def _bad_augmentation(reasons: Sequence[str]) -> RecipeError:
    help = ("a policy's name, or what albumentations.to_dict(pipeline) returns",)
    return RecipeError("recipe", [Problem("data.augmentation", reason, help) for reason in reasons])
