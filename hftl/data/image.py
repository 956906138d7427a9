"""Pictures: one decoding for training and serving, the processor's own evaluation preprocessing, augmentation for training only.

A picture is decoded by `decode` and then goes one of two ways. Evaluation, and training without augmentation: the transformers
image processor itself, so that a pipeline serves the pixels that were measured. Training with augmentation: an Albumentations
pipeline on the decoded uint8 picture, then the processor's mean and standard deviation. What sample i of epoch e looks like
depends on (seed, e, i) alone.

B examples, H x W pixels of the model's input.

Pillow decodes (it finds truncated files; OpenCV does not). Albumentations 2.0.8 is the last release under the MIT licence and is
imported here alone. Random erasing: arXiv:1708.04896.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the network for a newer release

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.augmentations.crops.transforms import CropSizeError
from albumentations.core.serialization import SERIALIZABLE_REGISTRY, shorten_class_name
from datasets import Dataset
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from hftl.errors import HftlError, Problem, RecipeError, did_you_mean

# OpenCV's own threads fight with the loader's workers for the cores and can hang after a fork.
cv2.setNumThreads(0)

POLICIES = ("none", "light", "standard", "strong")
PIXEL_LIMIT = 89_478_485
"""Most pixels of a picture: Pillow's own limit, a quarter of a gigabyte in RGB. A decompression bomb promises more."""
EXTREME_ASPECT = 16
"""Longer side over shorter side from which on a picture is called extreme."""

_ANIMATED = "animated or of several pages: the first one is used"
_CELLS = 32  # a side of what the perceptual hash looks at
_COSINES = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(_CELLS) + 1) / (2 * _CELLS))  # (8 waves, 32 places)

_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, struct.error, zlib.error),
    AssertionError,  # a PNG with a palette's transparency and no palette
)
"""What Pillow's decoders raise on broken files."""
# What they warn of, once a file and in the middle of a progress bar: damaged EXIF and tags, in pictures that they read.
# For the whole process and not around each call, since `warnings.catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused by PIXEL_LIMIT
_PIPELINE_FAILURES = (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, CropSizeError, cv2.error)
"""What Albumentations raises on arguments that do not fit."""


class BadImage(HftlError):
    """A picture that cannot be read; the message says which and why."""

    everywhere = True  # the process whose share it is in says so


# --- decoding -----------------------------------------------------------------------------------------------------------------


def decode(
    source: bytes | str | Path, *, background: tuple[int, int, int] = (255, 255, 255), at_least: int | None = None
) -> Image.Image:
    """A picture as 8-bit RGB: upright by EXIF, alpha composed on `background`, 16-bit and float scaled, first frame if animated.

    CMYK, palette, grey and 1-bit pictures become what `transformers.image_utils.load_image` makes of them. With `at_least` a JPEG
    may be decoded at a half, a quarter or an eighth of its size, as long as its shorter side keeps that many pixels: the file is
    still read to its end, several times faster.

    Raises:
        BadImage: empty, not a picture, truncated, damaged, or more than `PIXEL_LIMIT` pixels.
    """
    return _decode(source, background, at_least)[0]


def inspect(source: bytes | str | Path) -> Look:
    """Read a whole picture as fast as that can be done, and keep what it is known by.

    Raises:
        BadImage: as `decode`.
    """
    content = _read(source)
    image, header, note = _decode(content, (255, 255, 255), 2 * _CELLS)
    cells = image.resize((_CELLS, _CELLS), Image.Resampling.BOX)
    waves = (_COSINES @ np.asarray(cells.convert("L"), dtype=np.float64) @ _COSINES.T).ravel()
    bits = waves > np.sort(waves[1:])[31]  # the median of 63: the first of the 64 is the mean, and no wave
    return Look(
        header=header,
        note=note,
        animated=note == _ANIMATED,
        sha256=hashlib.sha256(content).digest(),
        hash=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        thumbnail=np.asarray(cells.reduce(2)),
    )


def _decode(
    source: bytes | str | Path, background: tuple[int, int, int], at_least: int | None
) -> tuple[Image.Image, Header, str | None]:
    content = _read(source)
    try:
        # Opening reads the header alone: nothing is decoded before the size is known.
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > PIXEL_LIMIT:
                raise BadImage(f"{width * height:,} pixels; at most {PIXEL_LIMIT:,} are decoded")
            header, note = _header(image), _oddity(image)
            if at_least is not None and min(width, height) > at_least:
                enlarged = max(width, height) * at_least // min(width, height)
                image.draft(image.mode, (at_least, enlarged) if width < height else (enlarged, at_least))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image), background), header, note
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not a picture, or of an unknown format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(str(error)) from None
    except _UNREADABLE as error:
        raise BadImage(f"cannot be decoded: {error}") from error


@dataclass(frozen=True)
class Header:
    """What a picture's file says about itself."""

    width: int
    height: int
    transparent: bool
    deep: bool
    """More than 8 bits a channel, or floating point."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one reading of a whole picture leaves: enough to find it again, and to find those that look like it."""

    header: Header
    note: str | None
    """What is odd about it but no error: animated, a single pixel, extremely long."""
    animated: bool
    sha256: bytes
    """Of its file, 32 bytes."""
    hash: int
    """64 bits: which of the lowest 8 x 8 cosine waves of its brightness are stronger than the median one (the pHash of Zauner 2010,
    "Implementation and benchmarking of perceptual image hash functions")."""
    thumbnail: np.ndarray
    """(16, 16, 3) uint8, upright, stretched to a square."""


def read_header(source: bytes | str | Path) -> Header:
    """Size and kind of a picture; the file's header alone is looked at.

    Raises:
        BadImage: it cannot be opened, or is no picture.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _header(image)
    except UnidentifiedImageError:
        raise BadImage("not a picture, or of an unknown format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, *_UNREADABLE) as error:
        raise BadImage(f"cannot be opened: {error}") from None


def _header(image: Image.Image) -> Header:
    return Header(image.width, image.height, bool(image.has_transparency_data), _is_deep(image))


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _read(source: bytes | str | Path) -> bytes:
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be opened: {error.strerror}") from None
    if not content:
        raise BadImage("empty file, 0 bytes")
    return content


def _oddity(image: Image.Image) -> str | None:
    # A phone's MPO file holds further views of the same scene and plays as a still picture everywhere.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        return _ANIMATED
    long, short = max(image.size), min(image.size)
    if long == 1:
        return "a single pixel"
    if long >= EXTREME_ASPECT * short:
        return f"{image.width} x {image.height} pixels: little of it is left in a square"
    return None


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if _is_deep(image):
        return _scale_to_rgb(image)
    if image.has_transparency_data:
        # Pillow's own conversion to RGB drops alpha and shows whatever colour lies hidden under it.
        canvas = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _scale_to_rgb(image: Image.Image) -> Image.Image:
    """More than 8 bits a pixel, in grey. Pillow's own conversion clips at 255, which turns such pictures white."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise BadImage("has pixels that are not numbers")
    # Integers have 16 bits, or 32 where a value needs them; floats go to 1 or to the smallest such white that holds them all.
    whites = (65_535.0, 4_294_967_295.0) if image.mode.startswith("I") else (1.0, 255.0, 65_535.0, 4_294_967_295.0)
    black, top = min(0.0, float(values.min())), float(values.max())
    white = next((white for white in whites if top <= white), top)
    grey = np.empty(values.shape, dtype=np.uint8)
    rows = max(1, 2**20 // image.width)  # a megapixel at a time: the largest picture would need several gigabytes in float64
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float64)
        grey[start : start + rows] = np.rint((part - black) * (255.0 / (white - black)))
    return Image.fromarray(grey).convert("RGB")


# --- augmentation -------------------------------------------------------------------------------------------------------------


def augmentation_pipeline(augmentation: str | Mapping[str, Any], size: int | tuple[int, int]) -> A.BaseCompose | None:
    """The pipeline of a policy or of the user's own dict; None for "none".

    Args:
        augmentation: one of `POLICIES`, or what `albumentations.to_dict` returns, or the transform inside it.
        size: (H, W) of the model's input, or the side of a square. A dict's pipeline need not produce it.

    Raises:
        RecipeError: no such policy, or a dict that is no working pipeline of Albumentations' own transforms on uint8 pictures.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not isinstance(augmentation, str):
        return _pipeline_from_dict(augmentation)
    if augmentation not in POLICIES:
        what = f'no policy "{augmentation}".{did_you_mean(augmentation, POLICIES)}'
        raise RecipeError(
            "recipe", [Problem("data.augmentation", what, (f"allowed: {', '.join(POLICIES)}, or an Albumentations dict",))]
        )
    if augmentation == "none":
        return None
    return A.Compose(_policy(augmentation, height, width))


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


def _pipeline_from_dict(augmentation: Mapping[str, Any]) -> A.BaseCompose:
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
            made = A.from_dict({"transform": transform})
            pipeline = made if isinstance(made, A.BaseCompose) else A.Compose([made])
    except (*_PIPELINE_FAILURES, UserWarning) as error:
        raise _bad_augmentation([f"{type(error).__name__}: {' '.join(str(error).split())}"]) from None
    for seed in range(8):  # a transform with p = 0.5 hides in 1 of 2 trials, in 1 of 256 times in all eight
        _augment(pipeline, np.full((1024, 1024, 3), 127, dtype=np.uint8), (seed,))
    return pipeline


def _not_data(value: Any) -> Iterator[str]:
    """What in a dict is more than data for Albumentations' own transforms: a recipe may come from a stranger."""
    if isinstance(value, Mapping):
        for key, content in value.items():
            if key == "__class_fullname__" and not _is_own_transform(content):
                yield f'no transform "{content}" in albumentations.{did_you_mean(str(content), SERIALIZABLE_REGISTRY)}'
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
    found = SERIALIZABLE_REGISTRY.get(shorten_class_name(name))
    return found is not None and found.__module__.startswith("albumentations.")


def _augment(pipeline: A.BaseCompose, picture: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """One view, (H, W, 3) uint8, of a picture (any height, any width, 3) uint8; `key` alone decides which.

    Raises:
        RecipeError: the pipeline fails on this picture or returns something else.
    """
    sequence = np.random.SeedSequence(key)
    # Not `set_random_seed`: it gives every transform a generator of its own from the same seed, and then two transforms with
    # p = 0.5 are always both applied or both left out. Here all of them draw from one pair of generators, one after the other.
    pipeline.set_random_state(np.random.default_rng(sequence), random.Random(int(sequence.generate_state(1, np.uint64)[0])))
    try:
        view = pipeline(image=picture)["image"]
    except _PIPELINE_FAILURES as error:
        what = f"fails on a picture of {picture.shape[1]} x {picture.shape[0]} pixels: {type(error).__name__}: {error}"
        raise _bad_augmentation([" ".join(what.split())]) from error
    if not isinstance(view, np.ndarray) or view.dtype != np.uint8 or view.ndim != 3 or view.shape[2] != 3:
        what = "does not return an RGB picture of bytes; leave out Normalize, ToFloat, ToTensorV2: hftl normalises"
        raise _bad_augmentation([what])
    return view


def _bad_augmentation(reasons: Sequence[str]) -> RecipeError:
    help = ("a policy's name, or what albumentations.to_dict(pipeline) returns",)
    return RecipeError("recipe", [Problem("data.augmentation", reason, help) for reason in reasons])


# --- samples ------------------------------------------------------------------------------------------------------------------


class ImageSamples:
    """Pictures that a loader can index and collate.

    Args:
        dataset: columns `id`, `image`, `label`, as `load_splits` makes them.
        processor: the checkpoint's own; it has the size, the mean and the standard deviation.
        augmentation: a policy or an Albumentations dict, see `augmentation_pipeline`.
        background: RGB colour under transparent pictures.
        seed: of the augmentation, together with epoch and index.
        train: False leaves the augmentation out.

    Raises:
        RecipeError: from `augmentation_pipeline`.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: TimmWrapperImageProcessor,
        *,
        augmentation: str | Mapping[str, Any],
        background: tuple[int, int, int],
        seed: int,
        train: bool,
    ) -> None:
        self.ids: Sequence[str] = dataset["id"][:]
        self.labels: Sequence[int] = dataset["label"][:]
        self.lengths: Sequence[int] | None = None
        self.label_names: tuple[str, ...] = tuple(dataset.features["label"].names)
        self._pictures = dataset.select_columns("image")
        self._processor = processor
        self._background = background
        self._seed = seed
        _, height, width = processor.data_config["input_size"]
        self._size: tuple[int, int] = (height, width)
        self._mean = np.array(processor.data_config["mean"], dtype=np.float32).reshape(-1, 1, 1)
        self._std = np.array(processor.data_config["std"], dtype=np.float32).reshape(-1, 1, 1)
        self._pipeline = augmentation_pipeline(augmentation, self._size) if train else None
        # A policy's crop has at least half of a square's side (sqrt(0.35 * 3/4)), so that of a JPEG of twice the input's size
        # nothing has to be enlarged. The user's own pipeline may count pixels and gets them all.
        self._at_least = 2 * max(self._size) if isinstance(augmentation, str) else None

    size_unit: Literal["pixels"] = "pixels"

    @cached_property
    def headers(self) -> list[Header]:
        """What the files' headers say; nothing is decoded.

        Raises:
            BadImage: a picture cannot be opened (any more).
        """
        return [self._header(index) for index in range(len(self))]

    @property
    def sizes(self) -> Sequence[int]:
        """Pixels of each picture's file."""
        return [header.width * header.height for header in self.headers]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """Sample `index` as epoch `epoch` sees it: ``{"pixel_values": (3, H, W) float32, "label": int, "index": int}``.

        Raises:
            BadImage: the picture cannot be read (any more).
        """
        epoch, index = position
        if self._pipeline is None:
            pixel_values = self._evaluation(index)
        else:
            # In NumPy: torch would spread this over threads, which costs more than the work itself beside a busy trainer.
            view = self.augmented(index, epoch).transpose(2, 0, 1).astype(np.float32, order="C")
            pixel_values = torch.from_numpy((view / 255 - self._mean) / self._std)
        return {"pixel_values": pixel_values, "label": self.labels[index], "index": index}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``{"pixel_values": (B, 3, H, W) float32, "labels": (B,) int64, "index": (B,) int64}``"""
        return {
            "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
            "labels": torch.tensor([sample["label"] for sample in samples], dtype=torch.int64),
            "index": torch.tensor([sample["index"] for sample in samples], dtype=torch.int64),
        }

    def augmented(self, index: int, epoch: int) -> np.ndarray:
        """What epoch `epoch` makes of sample `index` before it is normalised: (H, W, 3) uint8.

        Raises:
            BadImage: the picture cannot be read (any more).
        """
        if self._pipeline is None:
            return self.plain(index)
        picture = np.asarray(self._decode(index, self._at_least))
        view = _augment(self._pipeline, picture, (self._seed, epoch, index))
        if view.shape[:2] != self._size:
            shrinks = view.shape[0] >= self._size[0] and view.shape[1] >= self._size[1]
            view = cv2.resize(view, self._size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return np.ascontiguousarray(view)

    def plain(self, index: int) -> np.ndarray:
        """What evaluation sees of sample `index` before it is normalised: (H, W, 3) uint8."""
        pixels = (self._evaluation(index).numpy() * self._std + self._mean) * 255
        return np.ascontiguousarray(np.rint(pixels).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))

    def _evaluation(self, index: int) -> torch.Tensor:
        """The processor's own preprocessing, (3, H, W) float32."""
        picture = self._decode(index, None)
        width, height = picture.size
        short = min(width, height)
        if max(width, height) > EXTREME_ASPECT * short and self._processor.data_config["crop_mode"] == "center":
            # The processor brings the shorter side to the input's size before it crops the middle: 1 x 30,000 pixels would become
            # 256 x 7,680,000. Outside of the middle nothing is looked at, so it is cut off first (by whole pixels on both sides).
            over_x, over_y = max(0, width - EXTREME_ASPECT * short) // 2, max(0, height - EXTREME_ASPECT * short) // 2
            picture = picture.crop((over_x, over_y, width - over_x, height - over_y))
        pixel_values: torch.Tensor = self._processor(picture)["pixel_values"][0]
        return pixel_values

    def original(self, index: int) -> bytes | str:
        """The picture as it came: its bytes, or the path of its file."""
        stored = self._pictures[index]["image"]
        found: bytes | str = stored["path"] if stored["bytes"] is None else stored["bytes"]
        return found

    def _decode(self, index: int, at_least: int | None) -> Image.Image:
        try:
            return decode(self.original(index), background=self._background, at_least=at_least)
        except BadImage as error:
            raise BadImage(f"{self.ids[index]}: {error}") from error

    def _header(self, index: int) -> Header:
        try:
            return read_header(self.original(index))
        except BadImage as error:
            raise BadImage(f"{self.ids[index]}: {error}") from error


def picture_facts(samples: ImageSamples) -> dict[str, Any]:
    """What a user should know about the pictures before training: sizes, and what `transformers.pipeline` reads differently.

    `transparent` pictures are composed on the recipe's background here, those `deep` with more than 8 bits scaled; Pillow's own
    conversion, which the pipeline uses, drops the alpha channel and clips.
    """
    headers = samples.headers
    return {
        "examples": len(headers),
        "width_median": float(np.median([header.width for header in headers])),
        "height_median": float(np.median([header.height for header in headers])),
        "pixels_p5": float(np.percentile(samples.sizes, 5)),
        "pixels_p95": float(np.percentile(samples.sizes, 95)),
        "transparent": sum(header.transparent for header in headers),
        "deep": sum(header.deep for header in headers),
    }


# --- a look at it -------------------------------------------------------------------------------------------------------------


def write_grid(samples: ImageSamples, path: str | Path, *, rows: int = 4, views: int = 6) -> None:
    """A PNG of what training will see: a row a sample, first as evaluation sees it, then as the first `views` epochs do.

    The classes take turns; which of their samples are shown depends on the data alone.
    """
    cell, gap, margin, header, caption = 168, 6, 24, 34, 26
    chosen = _across_classes(samples.labels, rows)
    # Between the original and the views lies a wider gap.
    lefts = [margin] + [margin + 3 * gap + (cell + gap) * column for column in range(1, views + 1)]
    tops = [margin + header + caption + (cell + gap + caption) * row for row in range(len(chosen))]
    canvas = Image.new("RGB", (lefts[-1] + cell + margin, tops[-1] + cell + margin), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    large, small = ImageFont.load_default(16), ImageFont.load_default(13)
    dark, light = (33, 37, 41), (134, 142, 150)
    draw.text((lefts[0], margin), "Evaluation", font=large, fill=dark)
    for column in range(1, views + 1):
        draw.text((lefts[column], margin), f"Training, epoch {column}" if column == 1 else f"epoch {column}", font=large, fill=dark)
    for index, top in zip(chosen, tops, strict=True):
        name = samples.label_names[samples.labels[index]]
        draw.text((lefts[0], top - 8), name, font=large, fill=dark, anchor="ls")
        draw.text(
            (lefts[0] + draw.textlength(name, font=large) + 12, top - 8), samples.ids[index], font=small, fill=light, anchor="ls"
        )
        pictures = [samples.plain(index), *(samples.augmented(index, epoch) for epoch in range(views))]
        for left, picture in zip(lefts, pictures, strict=True):
            canvas.paste(ImageOps.pad(Image.fromarray(picture), (cell, cell), color=(233, 236, 239)), (left, top))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, format="PNG", optimize=True)


def _across_classes(labels: Sequence[int], count: int) -> list[int]:
    """Indices of `count` samples, the classes in turn, spread over each class."""
    members = [np.flatnonzero(np.asarray(labels) == label) for label in sorted(set(labels))]
    rounds = -(-count // len(members))
    picked = [int(rows[len(rows) * turn // rounds]) for turn in range(min(rounds, max(map(len, members)))) for rows in members]
    return picked[:count]
