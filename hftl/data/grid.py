"""A picture of what training will see: some samples in several epochs side by side, or the first of them that are mixed."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from hftl.data.image import ImageSamples
from hftl.data.loader import Batch, training_batches
from hftl.data.targets import in_words
from hftl.recipe import Mix

_CELL, _GAP, _MARGIN = 168, 6, 24  # pixels
_DARK, _LIGHT = (33, 37, 41), (134, 142, 150)


def write_grid(samples: ImageSamples, path: str | Path, *, rows: int = 4, views: int = 6) -> None:
    """A PNG of what training will see: a row a sample, first as evaluation sees it, then as the first `views` epochs do.

    The classes take turns; which of their samples are shown depends on the data alone.
    """
    cell, gap, margin, header, caption = _CELL, _GAP, _MARGIN, 34, 26
    labels = in_words(samples.targets, samples.label_names)
    first = samples.targets if samples.targets.ndim == 1 else samples.targets.argmax(axis=1)  # of several labels
    chosen = _across_classes(first, rows)
    # Between the original and the views lies a wider gap.
    lefts = [margin] + [margin + 3 * gap + (cell + gap) * column for column in range(1, views + 1)]
    tops = [margin + header + caption + (cell + gap + caption) * row for row in range(len(chosen))]
    canvas = Image.new("RGB", (lefts[-1] + cell + margin, tops[-1] + cell + margin), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    large = ImageFont.load_default(16)
    dark, light = _DARK, _LIGHT
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


def write_mixed(
    samples: ImageSamples, path: str | Path, *, mix: Mix, batch_size: int, seed: int, epoch: int, rows: int = 3, columns: int = 6
) -> None:
    """A PNG of the first step that is mixed: some of its pictures as the model gets them, and below each the labels in it.

    Args:
        batch_size: pictures of a step, over all processes.
        epoch: the first one of the stage, counted over all stages from 1.
    """
    batches = training_batches(samples, batch_size=batch_size, seed=seed, epoch=epoch, mix=mix)
    first = next(batches)
    batch = first if first.partners is not None else next((each for each in batches if each.partners is not None), first)
    batch = replace(batch, to_device=_as_bytes).to(torch.device("cpu"))
    shown = min(rows * columns, len(batch.index))
    caption = 46
    width = 2 * _MARGIN + min(columns, shown) * (_CELL + _GAP) - _GAP
    canvas = Image.new("RGB", (width, 2 * _MARGIN + -(-shown // columns) * (_CELL + caption)), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    pictures = batch.inputs["pixel_values"].permute(0, 2, 3, 1).round().to(torch.uint8).numpy()  # (B, H, W, 3)
    for place in range(shown):
        left, top = _MARGIN + (place % columns) * (_CELL + _GAP), _MARGIN + (place // columns) * (_CELL + caption)
        canvas.paste(ImageOps.pad(Image.fromarray(pictures[place]), (_CELL, _CELL), color=(233, 236, 239)), (left, top))
        for line, (share, name) in enumerate(_made_of(batch, place, samples)):
            text, font = _drawn(name, 13, otherwise="a class")
            draw.text((left, top + _CELL + 14 + 16 * line), f"{share:.0%} {text}", font=font, fill=_DARK, anchor="ls")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, format="PNG", optimize=True)


def _as_bytes(inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Pictures as they are before they are normalised, in floats from 0 to 255."""
    return {"pixel_values": inputs["pixel_values"].to(device).float()}


def _made_of(batch: Batch, place: int, samples: ImageSamples) -> list[tuple[float, str]]:
    """Shares and labels of an example of a batch, its own first."""
    parts = [(batch.share, batch.targets)]
    if batch.partner_targets is not None:
        parts.append((1 - batch.share, batch.partner_targets))
    return [(share, in_words(targets[place : place + 1].numpy(), samples.label_names)[0]) for share, targets in parts]


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
