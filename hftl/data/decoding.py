"""Pictures as files: which are opened, how they become 8-bit RGB upright, what is odd about them, and when two look alike.

Shapes: H x W pixels.
"""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hftl.data.columns import array_on_disk, blocks
from hftl.data.encoding import is_pointer
from hftl.data.layout import CAN_READ_HEIC
from hftl.errors import HftlError

PIXEL_LIMIT = 89_478_485
"""Most pixels of a picture: Pillow's own limit, a quarter of a gigabyte in RGB. A decompression bomb promises more."""

MOST_BYTES = 2_000_000_000
"""Bytes of a picture's file: so many pixels in 16 bytes each, with room for what cameras write beside them."""

EXTREME_ASPECT = 16
"""Longer side over shorter side from which on a picture is called extreme."""

# Where the header says how many pixels decoding will give; an icon, say, holds several pictures.
FORMATS: tuple[str, ...] = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000"),
    *("PPM", "TGA", "PCX", "QOI", "SGI", "SUN", "DDS", "ICO"),
)
"""What is opened, by Pillow's names: formats that its own decoders read. PostScript would start an interpreter (Ghostscript) on a
stranger's file, and of PSD, FITS or films Pillow reads a part at most. Their endings are in hftl.data.layout."""

if CAN_READ_HEIC:  # what phones write, by the extra of that name
    import pi_heif

    pi_heif.register_heif_opener(thumbnails=False)
    FORMATS = (*FORMATS, "HEIF")

_HONEST_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"})

_ANIMATED = "animated or of several pages: the first one is used"

_CELLS = 32  # a side of what the perceptual hash looks at

_COSINES = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(_CELLS) + 1) / (2 * _CELLS))  # (8 waves, 32 places)

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, struct.error, zlib.error),
    AssertionError,  # a PNG with a palette's transparency and no palette
)
"""What Pillow's decoders raise on broken files."""

# What they warn of, once a file and in the middle of a progress bar: damaged EXIF and tags, in pictures that they read.
# For the whole process and not around each call, since `warnings.catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # refused by PIXEL_LIMIT


class BadImage(HftlError):
    """A picture that cannot be read; the message says which and why, `kind` only what it has in common with others."""

    everywhere = True  # the process whose share it is in says so

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        super().__init__(message)
        self.kind = message if kind is None else kind


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


def inspect(source: bytes | str | Path) -> ImageScan:
    """Read a whole picture as fast as that can be done, and keep what it is known by.

    Raises:
        BadImage: as `decode`.
    """
    content = read(source)
    image, header, note = _decode(content, (255, 255, 255), 2 * _CELLS)
    return scan_of(content, image, header, note)


def scan_of(content: bytes, image: Image.Image, header: Header, note: Note | None) -> ImageScan:
    """What a picture is known by: the bytes of its file, and how it looks in RGB."""
    cells = image.resize((_CELLS, _CELLS), Image.Resampling.BOX)
    waves = (_COSINES @ np.asarray(cells.convert("L"), dtype=np.float64) @ _COSINES.T).ravel()
    bits = waves > np.sort(waves[1:])[31]  # the median of 63: the first of the 64 is the mean, and no wave
    return ImageScan(
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
    content = read(source)
    try:
        # Opening reads the header alone: nothing is decoded before the size is known.
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
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
    except UNREADABLE as error:
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
    high_bit_depth: bool
    """More than 8 bits a channel, or floating point."""


class Note(NamedTuple):
    """What is odd about a picture: what it has in common with others, and with its own numbers."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ImageScan:
    """What is known of a picture once it was read: enough to find it again, and to find those that look like it."""

    header: Header
    note: Note | None
    """What is odd about it but no error: animated, a single pixel, extremely long."""
    animated: bool
    sha256: bytes
    """SHA-256 of the file, 32 bytes."""
    hash: int
    """64 bits: which of the lowest 8 x 8 cosine waves of its brightness are stronger than the median one (the pHash of Zauner 2010,
    "Implementation and benchmarking of perceptual image hash functions")."""
    thumbnail: np.ndarray
    """(16, 16, 3) uint8, upright, stretched to a square."""


IMAGE_SCAN = np.dtype(
    [
        *(("width", np.int32), ("height", np.int32)),
        *(("transparent", np.bool_), ("high_bit_depth", np.bool_), ("animated", np.bool_), ("noted", np.bool_)),
        *(("hash", np.uint64), ("sha256", np.uint8, 32), ("thumbnail", np.uint8, (16, 16, 3))),
    ]
)
"""An `ImageScan` as a row of an array, without its note; zeros for a picture that cannot be read."""


def store_scans(scans: Iterable[ImageScan | None], count: int) -> np.ndarray:
    """The scans of `count` pictures as an array on disk: an `ImageScan` takes a kilobyte. (N,) of `IMAGE_SCAN`"""
    stored = array_on_disk((count,), IMAGE_SCAN)
    for row, scan in enumerate(scans):
        if scan is not None:
            header, sha256 = scan.header, np.frombuffer(scan.sha256, dtype=np.uint8)
            facts = (header.width, header.height, header.transparent, header.high_bit_depth, scan.animated, scan.note is not None)
            stored[row] = (*facts, scan.hash, sha256, scan.thumbnail)
    return stored


def pick_scans(scans: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The given rows, in ascending order, of several arrays taken as one; on disk."""
    picked = array_on_disk((len(rows),), IMAGE_SCAN)
    start = done = 0
    for part in scans:
        for some in blocks(rows[(rows >= start) & (rows < start + len(part))] - start):
            picked[done : done + len(some)] = part[some]
            done += len(some)
        start += len(part)
    return picked


def read_header(source: bytes | str | Path) -> Header:
    """Size and kind of a picture; only the file's header is read.

    Raises:
        BadImage: it cannot be opened, or is no picture.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            return _header(image)
    except UnidentifiedImageError:
        raise BadImage("not a picture, or of an unknown format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, *UNREADABLE) as error:
        raise BadImage(f"cannot be opened: {error}", kind="cannot be opened") from None


def decoded_pixels(source: bytes | str, at_least: int | None) -> int:
    """Pixels that `decode` will give, nearly always by the header alone.

    Raises:
        BadImage: it cannot be opened, or is no picture.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            honest = image.format in _HONEST_FORMATS
            _reduce(image, at_least)
            width, height = image.size
    except UnidentifiedImageError:
        raise BadImage("not a picture, or of an unknown format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, *UNREADABLE) as error:
        raise BadImage(f"cannot be opened: {error}", kind="cannot be opened") from None
    if not honest:
        width, height = decode(source, at_least=at_least).size
    return width * height


def _header(image: Image.Image) -> Header:
    return Header(image.width, image.height, bool(image.has_transparency_data), _is_deep(image))


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _content(file: Path) -> bytes:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadImage("not a file")  # a pipe or a device may have no end
    if status.st_size > MOST_BYTES:
        raise BadImage(f"{status.st_size:,} bytes; at most {MOST_BYTES:,} are read")
    return file.read_bytes()


def read(source: bytes | str | Path) -> bytes:
    """The bytes of a picture.

    Raises:
        BadImage: there is no such file, or it cannot be read.
    """
    try:
        content = source if isinstance(source, bytes) else _content(Path(source))
    except OSError as error:
        raise BadImage(f"cannot be opened: {error.strerror}", kind="cannot be opened") from None
    if not content:
        raise BadImage("empty file, 0 bytes")
    if is_pointer(content):
        raise BadImage("a pointer of Git LFS, and not the picture; in the clone: git lfs pull", kind="a pointer of Git LFS")
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
