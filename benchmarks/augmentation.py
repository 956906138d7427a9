"""What the policies of augmentation do to a picture, and what a view costs.

    python benchmarks/augmentation.py sheets     docs/figures/augmentation.png and mixing.png: a row a policy, a row a way of mixing
    python benchmarks/augmentation.py speed      milliseconds of CPU a view: each policy, by each library that makes it

The pictures come with scikit-learn. A picture of the speed test has twice the input's side, as training decodes it; one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

from hftl.data.augmentation import ALBUMENTATIONS, TORCHVISION, augmentation_pipeline, erase
from hftl.data.mixing import StepMix
from hftl.recipe import AugMix, Policy, RandAugment, TrivialAugment

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
NAMED = ("light", "standard", "strong")
OF_PAPERS = (RandAugment(), RandAugment(magnitude=20), TrivialAugment(), AugMix(), AugMix(severity=8))
VIEWS, CELL, GAP, LEFT = 6, 84, 4, 168
COLOURS = 128  # of the PNG, so that it is small


def written(policy: str | Policy) -> str:
    """A policy as a recipe has it, with the options that are not those by default."""
    if isinstance(policy, str):
        return policy
    options = ", ".join(f"{name} {value}" for name, value in policy.model_dump(exclude_defaults=True).items() if name != "kind")
    return policy.kind + (f" ({options})" if options else "")


def sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]], path: Path) -> None:
    """A PNG with a row of pictures for each name."""
    canvas = Image.new("RGB", (LEFT + max(len(row) for _, row in rows) * (CELL + GAP), len(rows) * (CELL + GAP)), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for place, (name, pictures) in enumerate(rows):
        top = place * (CELL + GAP)
        lines = name.replace(" (", "\n(").replace(", ", "\n")
        draw.multiline_text((4, top + CELL // 2), lines, font=ImageFont.load_default(14), fill=(33, 37, 41), anchor="lm")
        for column, picture in enumerate(pictures):
            canvas.paste(
                Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.BICUBIC), (LEFT + column * (CELL + GAP), top)
            )
    canvas.quantize(COLOURS, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def sheets() -> None:
    """Write both figures."""
    flower = load_sample_image("flower.jpg")[:, 110:537]  # (427, 427, 3)
    temple = load_sample_image("china.jpg")[:, 60:487]
    size, rows = 2 * CELL, list[tuple[str, list[np.ndarray]]]()
    for policy, library in (
        *((name, None) for name in NAMED),
        *((name, TORCHVISION) for name in NAMED),
        *((p, None) for p in OF_PAPERS),
    ):
        made = augmentation_pipeline(policy, size, library=library)
        assert made is not None
        name = written(policy) + (f", by {library}" if library else "")
        rows.append((name, [made.view(flower, (0, 1, view)) for view in range(VIEWS)]))
    light = augmentation_pipeline("light", size)
    assert light is not None
    views = [light.view(flower, (0, 1, view)) for view in range(VIEWS)]
    rows.append(("light, random erasing", [erase(picture, (0, 1, view), 0.999) for view, picture in enumerate(views)]))
    sheet(rows, FIGURES / "augmentation.png")

    both = [
        torch.from_numpy(np.array(Image.fromarray(each).resize((size, size)))).permute(2, 0, 1)[None].float()
        for each in (flower, temple)
    ]

    def row(mixes: Sequence[StepMix]) -> list[np.ndarray]:
        mixed = [mix.mixed(*both)[0][0].permute(1, 2, 0).round().to(torch.uint8).numpy() for mix in mixes]
        return [*(each[0].permute(1, 2, 0).to(torch.uint8).numpy() for each in both), *mixed]

    shares = (0.9, 0.75, 0.5, 0.25)
    centres = ((0.3, 0.3), (0.6, 0.4), (0.5, 0.8), (0.4, 0.5))
    sheet(
        [
            ("mixup", row([StepMix(share) for share in shares])),
            (
                "cutmix",
                row([StepMix(s, c) for s, c in zip(shares, centres, strict=True)]),
            ),
        ],
        FIGURES / "mixing.png",
    )


def speed(side: int, views: int) -> None:
    """Print a row for each policy: milliseconds of CPU a view, the median of five turns."""
    torch.set_num_threads(1)
    picture = np.asarray(Image.fromarray(load_sample_image("flower.jpg")).resize((2 * side, 2 * side)))
    print(f"| policy | Albumentations | torchvision |   ({side} x {side} pixels, ms of CPU a view)\n|---|--:|--:|")
    for policy in (*NAMED, *OF_PAPERS[::2][:1], TrivialAugment(), AugMix()):
        cells = []
        for library in (ALBUMENTATIONS, TORCHVISION):
            if not isinstance(policy, str) and library == ALBUMENTATIONS:
                cells.append("-")
                continue
            made = augmentation_pipeline(policy, side, library=library)
            assert made is not None
            turns = []
            for turn in range(6):
                began = time.process_time()
                for view in range(views):
                    made.view(picture, (0, turn, view))
                turns.append((time.process_time() - began) / views)
            cells.append(f"{1e3 * float(np.median(turns[1:])):.2f}")  # the first one warms up
        print(f"| {written(policy)} | {' | '.join(cells)} |")


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sheets", "speed"))
    parser.add_argument("--side", type=int, default=224, help="of the model's input, in pixels")
    parser.add_argument("--views", type=int, default=40, help="of a turn")
    options = parser.parse_args()
    if options.what == "sheets":
        sheets()
    else:
        speed(options.side, options.views)


if __name__ == "__main__":
    main()
