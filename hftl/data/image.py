"""Pictures: one decoding for training and serving, the processor's own evaluation preprocessing, augmentation for training only.

A picture is decoded by `decode` and then goes one of two ways. Evaluation, and training without augmentation: the resizing and
cropping of the transformers image processor itself, so that a pipeline serves the pixels that were measured. Training with
augmentation: an Albumentations pipeline on the decoded picture; what a pipeline of the user's own returns then goes the first way,
so that training sees the geometry of evaluation, unless the pipeline makes pictures of the input's size itself. Both end in bytes,
which are a quarter of the floats to carry; the processor's mean and standard deviation come last, on the device. What sample i of
epoch e looks like depends on (seed, e, i) alone.

Decoding is what pictures cost, and it is the same in every epoch: `ImageSamples.decode_once` keeps its result (see hftl.store).

N samples, B of them in a batch, H x W pixels of the model's input.

Pillow decodes (it finds truncated files; OpenCV does not). Albumentations 2.0.8 is the last release under the MIT licence and is
imported here alone. Random erasing: arXiv:1708.04896.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import stat
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the network for a newer release

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt
import PIL
import timm
import torch
import torchvision
from albumentations.augmentations.crops.transforms import CropSizeError
from albumentations.core.serialization import SERIALIZABLE_REGISTRY, shorten_class_name
from datasets import Dataset
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError, features
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from hftl import store
from hftl.data.reading import integers
from hftl.errors import HftlError, Problem, RecipeError, did_you_mean

# OpenCV's own threads fight with the loader's workers for the cores and can hang after a fork.
cv2.setNumThreads(0)

T = TypeVar("T")

POLICIES = ("none", "light", "standard", "strong")
PIXEL_LIMIT = 89_478_485
"""Most pixels of a picture: Pillow's own limit, a quarter of a gigabyte in RGB. A decompression bomb promises more."""
MOST_BYTES = 2_000_000_000
"""Of a picture's file: so many pixels in 16 bytes each, with room for what cameras write beside them."""
EXTREME_ASPECT = 16
"""Longer side over shorter side from which on a picture is called extreme."""

_BATCH = 128  # pictures that are decoded between two marks of progress: some 50 to 250 MB
_SIZE_BYTES = 8  # before each kept picture: its height and width, uint32
# Where the header says how many pixels decoding will give; an icon, say, holds several pictures.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000"),
    *("PPM", "TGA", "PCX", "QOI", "SGI", "SUN", "DDS", "ICO"),
)
"""What is opened, by Pillow's names: formats that its own decoders read. PostScript would start an interpreter (Ghostscript) on a
stranger's file, and of PSD, FITS or films Pillow reads a part at most. Their endings are in hftl.data.layout."""
_HONEST_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"})
_DECODING = 1  # part of the keys of what is kept: change it whenever what `decode` gives changes
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
    """A picture that cannot be read; the message says which and why, `kind` only what it has in common with others."""

    everywhere = True  # the process whose share it is in says so

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        super().__init__(message)
        self.kind = message if kind is None else kind


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
        animated=note is not None and note.kind == _ANIMATED,
        sha256=hashlib.sha256(content).digest(),
        hash=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        thumbnail=np.asarray(cells.reduce(2)),
    )


def _decode(
    source: bytes | str | Path, background: tuple[int, int, int], at_least: int | None
) -> tuple[Image.Image, Header, Note | None]:
    content = _read(source)
    try:
        # Opening reads the header alone: nothing is decoded before the size is known.
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > PIXEL_LIMIT:
                raise BadImage(f"{width * height:,} pixels; at most {PIXEL_LIMIT:,} are decoded", kind="too many pixels")
            header, note = _header(image), _oddity(image)
            _reduce(image, at_least)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image), background), header, note
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not a picture, or of an unknown format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(str(error), kind="too many pixels") from None
    except _UNREADABLE as error:
        raise BadImage(f"cannot be decoded: {error}", kind="cannot be decoded") from error


def _reduce(image: Image.Image, at_least: int | None) -> None:
    """Let an opened JPEG be decoded smaller, see `decode`."""
    width, height = image.size
    if at_least is not None and min(width, height) > at_least:
        enlarged = max(width, height) * at_least // min(width, height)
        image.draft(image.mode, (at_least, enlarged) if width < height else (enlarged, at_least))


@dataclass(frozen=True)
class Header:
    """What a picture's file says about itself."""

    width: int
    height: int
    transparent: bool
    deep: bool
    """More than 8 bits a channel, or floating point."""


class Note(NamedTuple):
    """What is odd about a picture: what it has in common with others, and with its own numbers."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one reading of a whole picture leaves: enough to find it again, and to find those that look like it."""

    header: Header
    note: Note | None
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
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            return _header(image)
    except UnidentifiedImageError:
        raise BadImage("not a picture, or of an unknown format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, *_UNREADABLE) as error:
        raise BadImage(f"cannot be opened: {error}", kind="cannot be opened") from None


def _decoded_pixels(source: bytes | str, at_least: int | None) -> int:
    """Pixels that `decode` will give, nearly always by the header alone.

    Raises:
        BadImage: it cannot be opened, or is no picture.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as image:
            honest = image.format in _HONEST_FORMATS
            _reduce(image, at_least)
            width, height = image.size
    except UnidentifiedImageError:
        raise BadImage("not a picture, or of an unknown format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, *_UNREADABLE) as error:
        raise BadImage(f"cannot be opened: {error}", kind="cannot be opened") from None
    if not honest:
        width, height = decode(source, at_least=at_least).size
    return width * height


def _header(image: Image.Image) -> Header:
    return Header(image.width, image.height, bool(image.has_transparency_data), _is_deep(image))


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _content(file: Path) -> bytes:
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise BadImage("not a file")  # a pipe or a device may have no end
    if found.st_size > MOST_BYTES:
        raise BadImage(f"{found.st_size:,} bytes; at most {MOST_BYTES:,} are read")
    return file.read_bytes()


def _read(source: bytes | str | Path) -> bytes:
    try:
        content = source if isinstance(source, bytes) else _content(Path(source))
    except OSError as error:
        raise BadImage(f"cannot be opened: {error.strerror}", kind="cannot be opened") from None
    if not content:
        raise BadImage("empty file, 0 bytes")
    return content


def _oddity(image: Image.Image) -> Note | None:
    # A phone's MPO file holds further views of the same scene and plays as a still picture everywhere.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        return Note(_ANIMATED, _ANIMATED)
    long, short = max(image.size), min(image.size)
    if long == 1:
        return Note("a single pixel", "a single pixel")
    if long >= EXTREME_ASPECT * short:
        left = "little of it is left in a square"
        return Note(f"very long and narrow: {left}", f"{image.width} x {image.height} pixels: {left}")
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


@dataclass(frozen=True)
class Augmentation:
    """An Albumentations pipeline on decoded pictures of any size."""

    pipeline: A.BaseCompose
    sized: bool
    """Whether it returns the size of the model's input, whatever it is given. Where it does not, a view is resized and cropped as
    for evaluation."""


def augmentation_pipeline(augmentation: str | Mapping[str, Any], size: int | tuple[int, int]) -> Augmentation | None:
    """The pipeline of a policy or of the user's own dict; None for "none".

    Args:
        augmentation: one of `POLICIES`, or what `albumentations.to_dict` returns, or the transform inside it.
        size: (H, W) of the model's input, or the side of a square.

    Raises:
        RecipeError: no such policy, or a dict that is no working pipeline of Albumentations' own transforms on uint8 pictures.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not isinstance(augmentation, str):
        return _pipeline_from_dict(augmentation, (height, width))
    if augmentation not in POLICIES:
        what = f'no policy "{augmentation}".{did_you_mean(augmentation, POLICIES)}'
        raise RecipeError(
            "recipe", [Problem("data.augmentation", what, (f"allowed: {', '.join(POLICIES)}, or an Albumentations dict",))]
        )
    if augmentation == "none":
        return None
    return Augmentation(A.Compose(_policy(augmentation, height, width)), sized=True)


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


def _pipeline_from_dict(augmentation: Mapping[str, Any], size: tuple[int, int]) -> Augmentation:
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
    sized = True
    for seed in range(8):  # a transform with p = 0.5 hides in 1 of 2 trials, in 1 of 256 times in all eight
        shape = _TRIED[seed % len(_TRIED)]
        sized &= _augment(pipeline, np.full((*shape, 3), 127, dtype=np.uint8), (seed,)).shape[:2] == size
    return Augmentation(pipeline, sized)


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

    `how` says in words how a picture of train comes about.

    Args:
        dataset: columns `id`, `image`, `label`, as `load_splits` makes them.
        processor: the checkpoint's own; it has the size, the mean and the standard deviation.
        augmentation: a policy or an Albumentations dict, see `augmentation_pipeline`.
        background: RGB colour under transparent pictures.
        seed: of the augmentation, together with epoch and index.
        train: False leaves the augmentation out.
        views: with K > 0, epoch e sees the augmentation of epoch e % K again; with 0 every epoch has its own.

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
        views: int = 0,
    ) -> None:
        self.ids: Sequence[str] = dataset["id"]  # a column, read from Arrow where it is asked for
        self.targets = integers(dataset, "label")
        self.lengths: None = None
        self.label_names: tuple[str, ...] = tuple(dataset.features["label"].names)
        self._pictures = dataset.select_columns("image")
        self._processor = processor
        self._background = background
        self._seed = seed
        self._views = views
        _, height, width = processor.data_config["input_size"]
        self._size: tuple[int, int] = (height, width)
        # The processor's own steps up to the picture's bytes; its last two make floats of them, as `to_device` does.
        *self._geometry, to_floats, normalise = processor.val_transforms.transforms
        assert isinstance(to_floats, torchvision.transforms.ToTensor)
        assert isinstance(normalise, torchvision.transforms.Normalize)
        # Once for each number in a line of pixels: three at a time they would take torch five times as long.
        self._mean, self._std = (
            torch.tensor(processor.data_config[name], dtype=torch.float32).expand(3).repeat(width) for name in ("mean", "std")
        )
        self._augmentation = augmentation_pipeline(augmentation, self._size) if train else None
        height_width = f"{height} x {width} pixels"
        if isinstance(augmentation, str):
            self.how = f"policy: {augmentation}"
        elif self._augmentation is not None and self._augmentation.sized:
            self.how = f"the recipe's own pipeline, which makes pictures of {height_width} itself"
        else:
            self.how = f"the recipe's own pipeline, then resized and cropped to {height_width} as for evaluation"
        # A policy's crop has at least half of a square's side (sqrt(0.35 * 3/4)), so that of a JPEG of twice the input's size
        # nothing has to be enlarged. The user's own pipeline may count pixels and gets them all.
        self._at_least = 2 * max(self._size) if isinstance(augmentation, str) else None
        self._decoded: store.Rows | None = None

    size_unit: Literal["pixels"] = "pixels"

    @cached_property
    def headers(self) -> np.recarray[Any, Any]:
        """What the files' headers say, (N,) with the fields of `Header`; nothing is decoded.

        Raises:
            BadImage: a picture cannot be opened (any more).
        """
        fields = [("width", np.int32), ("height", np.int32), ("transparent", np.bool_), ("deep", np.bool_)]
        found = (astuple(self._of(index, read_header)) for index in range(len(self)))
        return np.fromiter(found, dtype=fields, count=len(self)).view(np.recarray)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Pixels of each picture's file. (N,)"""
        sizes: npt.NDArray[np.int64] = self.headers.width.astype(np.int64) * self.headers.height
        return sizes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of every file's bytes and of all that is done with them: of all that the model gets.

        Raises:
            BadImage: a picture cannot be read (any more).
        """
        parts: dict[str, Any] = {"decoding": self._decoding, "processor": self._processor.data_config}
        if self._augmentation is not None:
            pipeline = A.to_dict(self._augmentation.pipeline)
            parts |= {"pipeline": pipeline, "seed": self._seed, "views": self._views, "opencv": cv2.__version__}
            parts |= {} if self._augmentation.sized else {"then": "as for evaluation"}
        return store.key_of(parts)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """Sample `index` as epoch `epoch` sees it: ``{"pixel_values": (H, W, 3) uint8}``.

        Raises:
            BadImage: the picture cannot be read (any more).
        """
        epoch, index = position
        return {"pixel_values": self.augmented(index, epoch)}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``{"pixel_values": (B, 3, H, W) uint8, channels last in memory}``"""
        pictures = torch.from_numpy(np.stack([sample["pixel_values"] for sample in samples]))
        return {"pixel_values": pictures.permute(0, 3, 1, 2)}

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """A batch as the model takes it, on `device`: ``{"pixel_values": (B, 3, H, W) float32, channels last in memory}``.

        The numbers are those of the processor.
        """
        pictures = inputs["pixel_values"].to(device, non_blocking=True).permute(0, 2, 3, 1)  # (B, H, W, 3), as they lie in memory
        mean, std = self._mean.to(device, non_blocking=True), self._std.to(device, non_blocking=True)
        lines = pictures.float().flatten(2)  # (B, H, 3 W)
        lines.div_(255).sub_(mean).div_(std)
        return {"pixel_values": lines.view(pictures.shape).permute(0, 3, 1, 2)}

    def augmented(self, index: int, epoch: int) -> np.ndarray:
        """What epoch `epoch` makes of sample `index` before it is normalised: (H, W, 3) uint8.

        Raises:
            BadImage: the picture cannot be read (any more).
        """
        if self._augmentation is None:
            return self.plain(index)
        key = (self._seed, epoch % self._views if self._views else epoch, index)
        view = _augment(self._augmentation.pipeline, self._picture(index), key)
        if not self._augmentation.sized or view.shape[:2] != self._size:
            return self._to_input(Image.fromarray(view))
        return np.ascontiguousarray(view)

    def plain(self, index: int) -> np.ndarray:
        """What evaluation sees of sample `index` before it is normalised: (H, W, 3) uint8."""
        if self._augmentation is None and self._decoded is not None:
            return self._decoded[index]
        return self._crop(index)

    def _picture(self, index: int) -> np.ndarray:
        """The decoded picture that the augmentation starts from: (its height, its width, 3) uint8."""
        if self._decoded is None:
            return np.asarray(self._decode(index, self._at_least))
        row = self._decoded[index]
        height, width = row[:_SIZE_BYTES].view(np.uint32).tolist()
        return row[_SIZE_BYTES:].reshape(height, width, 3)

    def _crop(self, index: int) -> np.ndarray:
        """What evaluation sees of a picture, from its file: (H, W, 3) uint8."""
        return self._to_input(self._decode(index, None))

    def _to_input(self, picture: Image.Image) -> np.ndarray:
        """The processor's own resizing and cropping: (H, W, 3) uint8."""
        width, height = picture.size
        short = min(width, height)
        if max(width, height) > EXTREME_ASPECT * short and self._processor.data_config["crop_mode"] == "center":
            # The processor brings the shorter side to the input's size before it crops the middle: 1 x 30,000 pixels would become
            # 256 x 7,680,000. Outside of the middle nothing is looked at, so it is cut off first (by whole pixels on both sides).
            over_x, over_y = max(0, width - EXTREME_ASPECT * short) // 2, max(0, height - EXTREME_ASPECT * short) // 2
            picture = picture.crop((over_x, over_y, width - over_x, height - over_y))
        for transform in self._geometry:
            picture = transform(picture)
        return np.asarray(picture)

    # --- decoded once ---

    def decode_once(self, *, budget: float, spare: int = store.SPARE, after_batch: Callable[[], None] | None = None) -> str | None:
        """Decode every picture once and keep it on disk; from then on samples are made from there, and are the same to the bit.

        For evaluation the finished crop is kept; for augmentation the picture, reduced as `decode` does. In a parallel run one
        process does this, on all cores that it may use; the others call `find_decoded` afterwards, with its `decoded_key`. What
        was interrupted is continued, what another run has decoded is found.

        Args:
            budget: bytes that the cache folder may hold.
            spare: bytes of the disk that stay free.
            after_batch: called every 128 pictures, when they are on the disk; what it raises ends the work there.

        Returns:
            None, or a sentence that says why there is no room. Then nothing was done.

        Raises:
            BadImage: a picture cannot be read (any more).
            OSError: the disk is full after all.
        """
        if self.find_decoded():
            return None
        batches = [range(start, min(start + _BATCH, len(self))) for start in range(0, len(self), _BATCH)]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # Pillow decodes without holding Python's lock
            lengths: npt.NDArray[np.int64] | int = len(self)
            shape: tuple[int, ...] = (*self._size, 3)
            if self._augmentation is not None:
                sizes = (size for batch in batches for size in pool.map(self._row_bytes, batch))
                lengths, shape = np.fromiter(sizes, dtype=np.int64, count=len(self)), ()
            try:
                builder = store.Builder(
                    self.decoded_key,
                    lengths=lengths,
                    row_shape=shape,
                    dtype=np.uint8,
                    dealt=str(_BATCH),
                    budget=budget,
                    spare=spare,
                )
            except store.NoRoom as full:
                return f"pictures are decoded again in every epoch: {full}"

            def keep(index: int) -> None:
                builder.write(index, self._crop(index) if self._augmentation is None else self._row(index))

            for number, batch in enumerate(batches[builder.done :], start=builder.done + 1):
                list(pool.map(keep, batch))
                builder.mark(number)
                if after_batch is not None:
                    after_batch()
        try:
            self._decoded = builder.finish()
        except store.Removed as removed:
            return f"pictures are decoded again in every epoch: {removed}"
        return None

    def find_decoded(self, key: str | None = None) -> bool:
        """Whether these pictures have been decoded before; then samples are made from there.

        Args:
            key: `decoded_key` as another process has found it out, which saves reading every file.

        Raises:
            BadImage: a picture cannot be read (any more).
        """
        if self._decoded is None:
            self._decoded = store.find(key or self.decoded_key)
        return self._decoded is not None

    @cached_property
    def decoded_key(self) -> str:
        """Where the decoded pictures are kept; every file is read for it, once.

        Raises:
            BadImage: a picture cannot be read (any more).
        """
        if self._augmentation is not None:
            return store.key_of({"kind": "pictures", "decoding": self._decoding})
        geometry = {name: value for name, value in self._processor.data_config.items() if name != "std"}  # borders have the mean
        return store.key_of({"kind": "crops", "decoding": self._decoding, "geometry": geometry})

    @cached_property
    def _decoding(self) -> dict[str, Any]:
        """What decides how the decoded pictures look: every file's bytes, how they are decoded and resized, and with what."""
        contents = hashlib.sha256()
        for index in range(len(self)):
            contents.update(hashlib.sha256(self._of(index, _read)).digest())
        return {
            "contents": contents.hexdigest(),
            "background": self._background,
            "at_least": None if self._augmentation is None else self._at_least,
            "versions": [_DECODING, PIL.__version__, features.version("jpg"), torchvision.__version__, timm.__version__],
        }

    def _row_bytes(self, index: int) -> int:
        return _SIZE_BYTES + 3 * self._of(index, lambda source: _decoded_pixels(source, self._at_least))

    def _row(self, index: int) -> np.ndarray:
        """A decoded picture as it is kept: its height and width, its pixels."""
        picture = np.asarray(self._decode(index, self._at_least))
        return np.concatenate([np.array(picture.shape[:2], np.uint32).view(np.uint8), picture.ravel()])

    # --- files ---

    def original(self, index: int) -> bytes | str:
        """The picture as it came: its bytes, or the path of its file."""
        stored = self._pictures[index]["image"]
        found: bytes | str = stored["path"] if stored["bytes"] is None else stored["bytes"]
        return found

    def _decode(self, index: int, at_least: int | None) -> Image.Image:
        return self._of(index, lambda source: decode(source, background=self._background, at_least=at_least))

    def _of(self, index: int, read: Callable[[bytes | str], T]) -> T:
        """What `read` makes of a picture's file; an error names the picture."""
        try:
            return read(self.original(index))
        except BadImage as error:
            raise BadImage(f"{self.ids[index]}: {error}", kind=error.kind) from error


def picture_facts(samples: ImageSamples) -> dict[str, Any]:
    """What a user should know about the pictures before training: sizes, and what `transformers.pipeline` reads differently.

    `transparent` pictures are composed on the recipe's background here, those `deep` with more than 8 bits scaled; Pillow's own
    conversion, which the pipeline uses, drops the alpha channel and clips.
    """
    headers = samples.headers
    return {
        "examples": len(headers),
        "width_median": float(np.median(headers.width)),
        "height_median": float(np.median(headers.height)),
        "pixels_p5": float(np.percentile(samples.sizes, 5)),
        "pixels_p95": float(np.percentile(samples.sizes, 95)),
        "transparent": int(headers.transparent.sum()),
        "deep": int(headers.deep.sum()),
    }


# --- a look at it -------------------------------------------------------------------------------------------------------------


def write_grid(samples: ImageSamples, path: str | Path, *, rows: int = 4, views: int = 6) -> None:
    """A PNG of what training will see: a row a sample, first as evaluation sees it, then as the first `views` epochs do.

    The classes take turns; which of their samples are shown depends on the data alone.
    """
    cell, gap, margin, header, caption = 168, 6, 24, 34, 26
    chosen = _across_classes(samples.targets, rows)
    # Between the original and the views lies a wider gap.
    lefts = [margin] + [margin + 3 * gap + (cell + gap) * column for column in range(1, views + 1)]
    tops = [margin + header + caption + (cell + gap + caption) * row for row in range(len(chosen))]
    canvas = Image.new("RGB", (lefts[-1] + cell + margin, tops[-1] + cell + margin), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    large = ImageFont.load_default(16)
    dark, light = (33, 37, 41), (134, 142, 150)
    draw.text((lefts[0], margin), "Evaluation", font=large, fill=dark)
    for column in range(1, views + 1):
        draw.text((lefts[column], margin), f"Training, epoch {column}" if column == 1 else f"epoch {column}", font=large, fill=dark)
    for index, top in zip(chosen, tops, strict=True):
        label = int(samples.targets[index])
        name, font = _drawn(samples.label_names[label], 16, otherwise=f"class {label + 1}")
        draw.text((lefts[0], top - 8), name, font=font, fill=dark, anchor="ls")
        after = lefts[0] + draw.textlength(name, font=font) + 12
        name, font = _drawn(samples.ids[index], 13, otherwise=f"picture {index + 1}")
        draw.text((after, top - 8), name, font=font, fill=light, anchor="ls")
        pictures = [samples.plain(index), *(samples.augmented(index, epoch) for epoch in range(views))]
        for left, picture in zip(lefts, pictures, strict=True):
            canvas.paste(ImageOps.pad(Image.fromarray(picture), (cell, cell), color=(233, 236, 239)), (left, top))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, format="PNG", optimize=True)


def _drawn(name: str, size: int, *, otherwise: str) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """A name and a font for it, in pixels; where this machine has none with its letters, what stands for it."""
    from hftl import fonts  # here alone: it takes matplotlib, and `hftl predict` draws nothing

    name = unicodedata.normalize("NFC", " ".join(name.split()))
    face = None if name.isascii() else fonts.face_of(name)
    if face is not None:  # of a path each part by itself, or "a/0.png" is read as "0/a.png" where "a" goes from right to left
        name = "/".join(map(fonts.isolated, name.split("/")))
        return name, ImageFont.truetype(face.path, size, index=face.index)
    return name if name.isascii() and name.isprintable() else otherwise, ImageFont.load_default(size)


def _across_classes(labels: np.ndarray, count: int) -> list[int]:
    """Indices of `count` samples, the classes in turn, spread over each class."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rounds = -(-count // len(members))
    picked = [int(rows[len(rows) * turn // rounds]) for turn in range(min(rounds, max(map(len, members)))) for rows in members]
    return picked[:count]
