"""Pictures of several bands, as satellites and microscopes take them: arrays of numbers, and no colours.

A file is a NumPy array (.npy), a TIFF of any number of bands (by tifffile, the extra `bands`), or a picture of Pillow's with as
many channels, such as a PNG of four. Its numbers stay what they are, as float32: nothing is scaled to bytes, composed on a
background or turned. Each band is resized and cropped by the checkpoint's processor, which takes a picture of one band of floats,
so that the geometry is that of every other picture. Mean and deviation of each band are those of the training pictures.

N samples, B of them in a batch, H x W pixels of the model's input, C bands.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import PIL
import timm
import torch
import torchvision
from datasets import Dataset
from PIL import Image

from hftl import store
from hftl.data.augmentation import augmentation_pipeline
from hftl.data.content import MixedSteps
from hftl.data.decoding import FORMATS, MOST_BYTES, PIXEL_LIMIT, UNREADABLE, BadImage, Header, ImageScan, read, scan_of
from hftl.data.image import Pictures
from hftl.data.layout import ARRAYS, PICTURES, ending_of, is_picture
from hftl.data.preparation import preparation_of
from hftl.data.targets import names_of, targets_of, weights_of
from hftl.errors import DataError
from hftl.memory import stored_picture
from hftl.recipe import ImageData

MOST_MEASURED = 1_000
"""Training pictures from which mean and deviation are taken."""

CAN_READ_TIFF = importlib.util.find_spec("tifffile") is not None

_NPY, _TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_BROKEN = (*UNREADABLE, RuntimeError, MemoryError)
"""What NumPy, tifffile and its decoders raise on broken files."""


def read_bands(source: bytes | str | Path, bands: int) -> np.ndarray:
    """What a file holds, (height, width, C) float32, of C = `bands` numbers a pixel.

    In the file the bands are the last axis, or the first where the last has another length.

    Raises:
        BadImage: there is no such file, it is damaged, too large or of another kind, has another number of bands, or numbers that
            are none.
    """
    content = read(source)
    try:
        values = _values(content)
    except BadImage:
        raise
    except _BROKEN as error:
        raise BadImage(f"cannot be decoded: {' '.join(str(error).split())}", kind="cannot be decoded") from None
    if values.dtype.kind not in "buif":
        raise BadImage(f"holds {values.dtype}, and no numbers", kind="no numbers")
    shape = tuple(length for length in values.shape if length != 1) if values.ndim > 3 else values.shape
    values = values.reshape(shape)
    if values.ndim == 3 and values.shape[2] != bands and values.shape[0] == bands:
        values = np.moveaxis(values, 0, 2)
    if values.ndim != 3 or values.shape[2] != bands or 0 in values.shape:
        what = f"has the shape {shape}; expected are {bands} bands (data.bands), first or last"
        raise BadImage(what, kind=f"not of {bands} bands")
    if values.shape[0] * values.shape[1] > PIXEL_LIMIT:
        raise BadImage(f"{values.shape[0] * values.shape[1]:,} pixels; at most {PIXEL_LIMIT:,} are read", kind="too many pixels")
    values = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        what = "has pixels that are not numbers (NaN or infinite): fill them, as by numpy.nan_to_num"
        raise BadImage(what, kind="pixels that are not numbers")
    return values


def _values(content: bytes) -> np.ndarray:
    """The array in a file's bytes, as it lies there."""
    if content.startswith(_NPY):
        values: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)  # of a pickle it would run the code
        return values
    if content.startswith(_TIFF):
        if not CAN_READ_TIFF:
            raise BadImage("a TIFF, which is read by tifffile: pip install 'hftl[bands]'", kind="tifffile is not installed")
        import tifffile

        with tifffile.TiffFile(io.BytesIO(content)) as file:
            if file.series[0].nbytes > MOST_BYTES:  # of a few kilobytes, once unpacked
                raise BadImage(f"{file.series[0].nbytes:,} bytes unpacked; at most {MOST_BYTES:,} are read", kind="too large")
            return np.asarray(file.series[0].asarray())
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > PIXEL_LIMIT:
            raise BadImage(f"{image.width * image.height:,} pixels; at most {PIXEL_LIMIT:,} are read", kind="too many pixels")
        return np.asarray(image)


def as_picture(values: np.ndarray) -> Image.Image:
    """Something to look at, and to find near duplicates by: each third of the bands is a colour, dark to bright as a whole."""
    thirds = [values[:, :, place::3] for place in range(min(3, values.shape[2]))]
    colours = np.stack([third.mean(axis=2) for third in (*thirds, *thirds[-1:] * (3 - len(thirds)))], axis=2)
    low, high = float(colours.min()), float(colours.max())
    return Image.fromarray(np.rint((colours - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8))


def inspect_bands(source: bytes | str | Path, bands: int) -> ImageScan:
    """Read a whole file, and keep what it is known by.

    Raises:
        BadImage: as `read_bands`.
    """
    content = read(source)
    values = read_bands(content, bands)
    header = Header(values.shape[1], values.shape[0], transparent=False, high_bit_depth=True)
    return scan_of(content, as_picture(values), header, None)


class BandSamples:
    """Arrays of bands that a loader can index and collate.

    Args:
        dataset: columns `id`, `image`, `label`, as `load_splits` makes them.
        processor: timm's; it has the size, and mean and deviation of each band, in the files' own numbers.
        bands: C.
        augmentation: "none" or "light".
        seed: of the augmentation, together with epoch and index.
        train: False leaves the augmentation out.
        views: with K > 0, epoch e sees the augmentation of epoch e % K again; with 0 every epoch has its own.
    """

    size_unit: Literal["pixels"] = "pixels"
    lengths: None = None

    def __init__(
        self, dataset: Dataset, processor: Any, *, bands: int, augmentation: str, seed: int, train: bool, views: int = 0
    ) -> None:
        self.ids: Sequence[str] = dataset["id"]
        self.targets, self.weights = targets_of(dataset), weights_of(dataset)
        self.label_names: tuple[str, ...] = names_of(dataset)
        self.bands = bands
        self._pictures = dataset.select_columns("image")
        self.preparation = preparation_of(processor)
        self._mean, self._std = (torch.tensor(each, dtype=torch.float32) for each in (self.preparation.mean, self.preparation.std))
        self._augmentation = augmentation_pipeline(augmentation, self.preparation.size) if train else None
        self._seed, self._views = seed, views

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """Sample `index` as epoch `epoch` sees it: ``{"pixel_values": (H, W, C) float32}``.

        Raises:
            BadImage: the file cannot be read (any more).
        """
        epoch, index = position
        values = self.values(index)
        if self._augmentation is None:
            return {"pixel_values": self._to_input(values)}
        key = (self._seed, epoch % self._views if self._views else epoch, index)
        return {"pixel_values": np.ascontiguousarray(self._augmentation.view(values, key))}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``{"pixel_values": (B, C, H, W) float32, channels last in memory}``."""
        return {"pixel_values": torch.from_numpy(np.stack([sample["pixel_values"] for sample in samples])).permute(0, 3, 1, 2)}

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """A batch as the model takes it, on `device`: ``{"pixel_values": (B, C, H, W) float32, channels last in memory}``."""
        pixels = inputs["pixel_values"].to(device, non_blocking=True)
        mean, std = (each.to(device, non_blocking=True)[:, None, None] for each in (self._mean, self._std))
        return {"pixel_values": (pixels - mean) / std}

    def values(self, index: int) -> np.ndarray:
        """A file's own numbers, (height, width, C) float32.

        Raises:
            BadImage: it cannot be read (any more).
        """
        try:
            return read_bands(self.original(index), self.bands)
        except BadImage as error:
            raise BadImage(f"{self.ids[index]}: {error}", kind=error.kind) from error

    def original(self, index: int) -> bytes | str:
        """The file as it came: its bytes, or its path."""
        stored = self._pictures[index]["image"]
        original: bytes | str = stored["path"] if stored["bytes"] is None else stored["bytes"]
        return original

    def _to_input(self, values: np.ndarray) -> np.ndarray:
        """The processor's own resizing and cropping, a band at a time: (H, W, C) float32."""
        bands = [self.preparation.to_input(Image.fromarray(values[:, :, band])) for band in range(self.bands)]
        return np.stack(bands, axis=2)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Pixels of each file. (N,)"""
        shapes = (self.values(index).shape for index in range(len(self)))
        return np.fromiter((height * width for height, width, _ in shapes), dtype=np.int64, count=len(self))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of every file's bytes and of all that is done with them.

        Raises:
            BadImage: a file cannot be read (any more).
        """
        contents = hashlib.sha256()
        for index in range(len(self)):
            contents.update(hashlib.sha256(read(self.original(index))).digest())
        parts: dict[str, Any] = {"bands": self.bands, "contents": contents.hexdigest(), "processor": self.preparation.as_data}
        parts["versions"] = [PIL.__version__, torchvision.__version__, timm.__version__]
        if self._augmentation is not None:
            parts |= {**self._augmentation.as_data(), "seed": self._seed, "views": self._views}
        return store.key_of(parts)

    # --- kept on disk: nothing, as a file holds its numbers without decoding ---

    decoded_key = ""

    def decode_once(self, *, budget: float, spare: int, after_batch: Callable[[], None] | None = None) -> str | None:
        """Nothing is decoded."""
        return None

    def find_decoded(self, key: str | None = None) -> bool:
        """There is nothing to find."""
        return True


class Bands(Pictures):
    """An array of bands an example; see `hftl.data.content`."""

    thing = "array"
    example = "picture.npy"
    endings = (*ARRAYS, *PICTURES)

    def __init__(self, data: ImageData) -> None:
        assert data.bands is not None
        super().__init__(data)
        self.bands: int = data.bands

    def is_one(self, file: Path) -> bool:
        """By its ending."""
        return ending_of(file.name) in ARRAYS or is_picture(file)

    def inspect(self, source: bytes | str) -> ImageScan:
        """Read one to its end."""
        return inspect_bands(source, self.bands)

    def stored(self, value: Any) -> dict[str, Any]:
        """{"bytes", "path"} of an array in memory, or of what `hftl.memory.stored_picture` takes.

        Raises:
            ValueError: it is none of these.
        """
        if not isinstance(value, np.ndarray):
            return stored_picture(value)
        stream = io.BytesIO()
        np.save(stream, value, allow_pickle=False)
        return {"bytes": stream.getvalue(), "path": None}

    def samples(self, dataset: Dataset, preprocessor: Any, *, seed: int, train: bool) -> BandSamples:  # type: ignore[override]
        """Arrays as evaluation sees them, or as training does: augmented."""
        assert isinstance(self.data.augmentation, str)
        return BandSamples(
            dataset,
            preprocessor,
            bands=self.bands,
            augmentation=self.data.augmentation,
            seed=seed,
            train=train,
            views=self.data.augmentation_views,
        )

    def original(self, samples: BandSamples, dataset: Dataset, place: int) -> bytes:  # type: ignore[override]
        """The array as .npy, whatever file it came from: who serves a model needs no reader of TIFF."""
        stream = io.BytesIO()
        np.save(stream, samples.values(place), allow_pickle=False)
        return stream.getvalue()

    def facts(self, samples: BandSamples) -> dict[str, Any]:  # type: ignore[override]
        """Sizes of the arrays."""
        shapes = np.array([samples.values(index).shape[:2] for index in range(len(samples))])
        low, high = np.percentile(shapes.prod(axis=1), (5, 95))
        medians = {"width_median": float(np.median(shapes[:, 1])), "height_median": float(np.median(shapes[:, 0]))}
        counts = {"transparent": 0, "high_bit_depth": 0}
        return {"image": {"examples": len(shapes), **medians, "pixels_p5": float(low), "pixels_p95": float(high), **counts}}

    def show(
        self,
        train: Dataset,
        typical: BandSamples,  # type: ignore[override]
        preprocessor: Any,
        *,
        seed: int,
        picture: Path,
        steps: Sequence[MixedSteps] = (),
    ) -> Iterator[str]:
        """The shape of some training arrays and their numbers; nothing is drawn, as bands are no colours."""
        for index in range(min(5, len(typical))):
            values = typical.values(index)
            ranges = ", ".join(f"{low:g} to {high:g}" for low, high in zip(values.min((0, 1)), values.max((0, 1)), strict=True))
            yield f"{typical.ids[index]}  {values.shape[0]} x {values.shape[1]} pixels of {self.bands} bands: {ranges}"

    def channel_numbers(self, train: Dataset) -> tuple[list[float], list[float]]:
        """Mean and deviation of each band, over the pixels of up to 1,000 pictures of the training split.

        Raises:
            DataError: a band is the same number everywhere.
        """
        rows = np.unique(np.linspace(0, len(train) - 1, min(MOST_MEASURED, len(train))).round().astype(int))
        pictures = train.select_columns("image").select(rows)
        pixels, sums, squares = 0, np.zeros(self.bands), np.zeros(self.bands)
        for stored in pictures["image"]:
            values = read_bands(stored["path"] if stored["bytes"] is None else stored["bytes"], self.bands).astype(np.float64)
            pixels += values.shape[0] * values.shape[1]
            sums += values.sum(axis=(0, 1))
            squares += (values**2).sum(axis=(0, 1))
        mean = sums / pixels
        deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0.0))
        if flat := np.flatnonzero(deviation <= 1e-6 * np.maximum(np.abs(mean), 1.0)).tolist():
            what = f"band {flat[0]} (counted from 0) is {mean[flat[0]]:g} in every pixel: it says nothing, and cannot be normalised"
            raise DataError.single("data.bands", what, "leave the band out of the files", source=self.data.source)
        return [float(f"{value:.6g}") for value in mean], [float(f"{value:.6g}") for value in deviation]
