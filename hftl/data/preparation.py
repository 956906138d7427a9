"""How the image processor of a checkpoint prepares a picture: the bytes that the model sees of it, and the mean and deviation.

timm's processor and those of transformers say it in other words and end in other numbers; here each is asked to do its own resizing
and cropping, up to the bytes. What is left, to floats and normalised, is the same arithmetic for all and is done on the device.

H x W: pixels of the model's input. C: its channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torchvision
import transformers
from PIL import Image
from timm.data.transforms_factory import create_transform
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

CONVNEXT_SQUASHES = 384
"""Pixels from which on ConvNeXt's processor brings a picture to a square without cutting any of it off."""


@dataclass(frozen=True)
class Preparation:
    """What one processor does with a decoded picture."""

    size: tuple[int, int]
    """(H, W)"""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """(C,), of values from 0 to 1."""
    crops_the_middle: bool
    """The shorter side is brought to a size, and what sticks out of the middle of the longer one is never looked at."""
    as_data: dict[str, Any]
    """All that decides it."""
    to_input: Callable[[Image.Image], np.ndarray]
    """A picture, RGB -> (H, W, 3) uint8, or grey -> (H, W): the processor's own resizing and cropping."""
    share: float
    """Of the resized picture's shorter side, what is left after cropping: 0.875 where 224 pixels of 256 are; 1: nothing is cut."""
    resized: Callable[[Image.Image, float], np.ndarray]
    """A picture, RGB, and a share -> (at least H, at least W, C) uint8: resized as the processor does it, so that the model's
    input is that share of its shorter side, before anything is cropped. With `share` it is the processor's own."""

    @property
    def channels(self) -> int:
        """3 for RGB, 1 for grey."""
        return len(self.mean)

    @property
    def geometry(self) -> dict[str, Any]:
        """What decides the bytes: all but the deviation. The mean does, where borders are filled with it."""
        return {name: value for name, value in self.as_data.items() if name not in {"std", "image_std"}}


def preparation_of(processor: Any) -> Preparation:
    """What a processor that `hftl.models` has checked does."""
    return _of_timm(processor) if isinstance(processor, TimmWrapperImageProcessor) else _of_transformers(processor)


def _of_timm(processor: TimmWrapperImageProcessor) -> Preparation:
    config = processor.data_config
    _, height, width = config["input_size"]
    # The processor's own steps up to the picture's bytes; its last two make floats of them.
    *geometry, to_floats, normalise = processor.val_transforms.transforms
    assert isinstance(to_floats, torchvision.transforms.ToTensor)
    assert isinstance(normalise, torchvision.transforms.Normalize)

    def to_input(picture: Image.Image) -> np.ndarray:
        for transform in geometry:
            picture = transform(picture)
        return np.asarray(picture)

    def resized(picture: Image.Image, share: float) -> np.ndarray:
        resize, *_ = create_transform(**{**config, "crop_pct": share}, is_training=False).transforms
        return np.asarray(resize(picture))

    crops_the_middle = config["crop_mode"] == "center"
    return Preparation(
        (height, width), config["mean"], config["std"], crops_the_middle, config, to_input, config["crop_pct"], resized
    )


def _of_transformers(processor: Any) -> Preparation:
    def to_input(picture: Image.Image) -> np.ndarray:
        prepared = processor(picture, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]  # (C, H, W)
        return np.ascontiguousarray(np.transpose(prepared, (1, 2, 0)))

    def resized(picture: Image.Image, share: float) -> np.ndarray:
        options: dict[str, Any] = {"do_center_crop": False} if crops else {}
        sides = {"height": height, "width": width} if processor.size.height else {"shortest_edge": min(height, width)}
        # ConvNeXt's cuts out the middle while it resizes; of the whole of a larger picture it cuts nothing but to a square.
        options |= {"crop_pct": 1.0} if cuts_unasked else {}
        size = dict(processor.size) if crops and share == own else {name: int(side / share) for name, side in sides.items()}
        prepared = processor(picture, do_rescale=False, do_normalize=False, return_tensors="np", size=size, **options)
        return np.ascontiguousarray(np.transpose(prepared["pixel_values"][0], (1, 2, 0)))

    height, width, _ = to_input(Image.new("RGB", (64, 64))).shape
    as_data = {**processor.to_dict(), "transformers": transformers.__version__}
    mean, std = (tuple(processor.image_mean), tuple(processor.image_std)) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    # ConvNeXt's crops without saying so, and below 384 pixels alone; that of a longer picture is then resized whole.
    crops, cuts_unasked = bool(getattr(processor, "do_center_crop", None)), getattr(processor, "crop_pct", None) is not None
    own = 1.0
    if crops:
        own = min(height, width) / min(dict(processor.size).values())
    elif cuts_unasked and height < CONVNEXT_SQUASHES:
        own = float(processor.crop_pct)
    return Preparation((height, width), mean, std, crops, as_data, to_input, own, resized)
