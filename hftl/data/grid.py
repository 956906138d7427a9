"""A picture of what training will see: some samples in several epochs, side by side."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from hftl.data.image import ImageSamples
from hftl.data.targets import in_words


def write_grid(samples: ImageSamples, path: str | Path, *, rows: int = 4, views: int = 6) -> None:
    """A PNG of what training will see: a row a sample, first as evaluation sees it, then as the first `views` epochs do.

    The classes take turns; which of their samples are shown depends on the data alone.
    """
    cell, gap, margin, header, caption = 168, 6, 24, 34, 26
    labels = in_words(samples.targets, samples.label_names)
    first = samples.targets if samples.targets.ndim == 1 else samples.targets.argmax(axis=1)  # of several labels
    chosen = _across_classes(first, rows)
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
        name, font = _drawn(labels[index], 16, otherwise=f"class {int(first[index]) + 1}")
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
