"""Small recipes, pictures, tables and vectors, and runs of them: what more than one test file begins with."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from packaging.version import Version
from PIL import Image
from rich.console import Console
from transformers import TimmWrapperImageProcessor

from hftl.data.image import ImageSamples
from hftl.recipe import CosineSchedule, ImageData, Recipe, RunSettings, Stage, TextData, Timm, Transformer, override
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.training import engine

BERT_NANO = str(Path(__file__).resolve().parent / "bert-nano")
"""A BERT with 4 layers, 128 wide: the one inside the package before it was made again. A step of it is a sixth of the work."""
OLDER_TRANSFORMERS = Version(version("transformers")) < Version("5.23")
"""Than that of constraints.txt: `make test-oldest` has one."""
SIDE = 32
STAGES = {
    "head": Stage(unfreeze="head", lr=1e-3, epochs=1),
    "top": Stage(unfreeze="last 2", lr=1e-3, layer_decay=0.5, epochs=2, schedule=CosineSchedule(warmup=0.2)),
    "all": Stage(unfreeze="all", lr=1e-3, schedule="one_cycle"),
}


# --- runs -----------------------------------------------------------------------------------------------------------------------


def quiet() -> Console:
    return Console(file=io.StringIO())


def train(recipe: Recipe, path: Path, **options: Any) -> RunDirectory:
    return engine.train(recipe, RunDirectory(path), console=quiet(), **options)


# --- recipes --------------------------------------------------------------------------------------------------------------------


def reviews(train: int, validation: int = 21, test: int = 19, *, max_length: int = 32) -> TextData:
    """So many reviews of the sample that comes with hftl."""
    return TextData(
        source=REVIEWS, max_length=max_length, max_train_samples=train, max_validation_samples=validation, max_test_samples=test
    )


def nano(name: str, data: TextData, stages: Mapping[str, Stage], **settings: Any) -> Recipe:
    """The BERT that comes with hftl, in float32 and steps of 16 examples unless `settings`, those of `run`, say otherwise.

    Without a baseline: scikit-learn costs a process a second.
    """
    run = RunSettings(**{"batch_size": 16, "precision": "fp32", "baseline": "none", **settings})
    return Recipe(name=name, data=data, model=Transformer(checkpoint=BERT_NANO), stages=dict(stages), run=run)


def bert(*changes: str) -> Recipe:
    """Three stages: 40 examples / 16 a step = 3 steps an epoch (the last of 8), 4 epochs, 12 steps."""
    return override(nano("bert", reviews(40), STAGES, log_every=2, tokens_per_batch=256), changes)


def noisy_pictures(folder: Path, *changes: str) -> Recipe:
    """A ResNet over pictures of noise, red and blue ones, with every random thing that there is."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for name, colour in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(generator.normal(colour, 50, (40, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    recipe = Recipe(
        name="pictures",
        data=ImageData(source=str(folder), image_size=32, augmentation="strong", validation_fraction=0.25),
        model=Timm(checkpoint="resnet10t", pretrained=False, dropout=0.3),
        stages={
            "head": Stage(unfreeze="head", lr=1e-2, optimizer="sgd"),
            "top": Stage(unfreeze="last 3", lr=1e-3, optimizer="rmsprop", epochs=2),
        },
        run=RunSettings(batch_size=8, precision="fp32", baseline="none", log_every=2, gradient_accumulation=2),
    )
    return override(recipe, changes)


def staged(checkpoint: Path) -> Recipe:
    """24 examples / 8 a step = 3 steps an epoch; three stages of an epoch each: 9 steps, a checkpoint after each."""
    optimizers = {"head": "sgd", "last 2": "lamb", "all": "adamw"}  # fused ones, and one that takes the norm of each matrix
    stages = {name: Stage(unfreeze=name, lr=1e-3, optimizer=optimizer) for name, optimizer in optimizers.items()}
    return Recipe(
        name="pieces",
        data=reviews(24, 12, 10, max_length=16),
        model=Transformer(checkpoint=str(checkpoint), dropout=0.0),
        stages={name.replace(" ", "_"): stage for name, stage in stages.items()},
        run=RunSettings(
            batch_size=8,
            gradient_accumulation=2,
            precision="fp32",
            baseline="none",
            log_every=1,
            checkpoint_minutes=0,
            cache_gb=0,
            keep="last",
        ),
    )


def write_recipe(recipe: Recipe, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    return path


# --- samples of pictures ---------------------------------------------------------------------------------------------------------

WHITE = (255, 255, 255)
FEATURES = Features({"id": Value("string"), "image": ImageFeature(decode=False), "label": ClassLabel(names=["cat", "dog"])})


def samples_of(pictures: list[bytes], processor: TimmWrapperImageProcessor, **settings: Any) -> ImageSamples:
    rows = {
        "id": [f"train/{row}" for row in range(len(pictures))],
        "image": [{"bytes": picture, "path": None} for picture in pictures],
        "label": [row % 2 for row in range(len(pictures))],
    }
    defaults: dict[str, Any] = {"augmentation": "none", "background": WHITE, "seed": 0, "train": True}
    return ImageSamples(Dataset.from_dict(rows, features=FEATURES), processor, **defaults | settings)


# --- files ----------------------------------------------------------------------------------------------------------------------


def write_csv(path: Path, labels: Iterable[Any]) -> Path:
    """Rows "NAME 0,LABEL" and so on, NAME the file's: a text that is in two splits would be refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{path.stem} {row},{label}\n" for row, label in enumerate(labels))
    path.write_text(f"text,label\n{rows}", encoding="utf-8")
    return path


_GOOD = ("wonderful", "warm", "fine", "funny", "lovely", "moving")
_BAD = ("dull", "boring", "weak", "slow", "awful", "flat")


def mails(count: int = 40, *, start: int = 0) -> list[dict[str, str]]:
    """Rows of which no two are alike, with a subject and a body; the body tells the label."""
    rows = []
    for number in range(start, start + count):
        label, words = ("good", _GOOD) if number % 2 else ("bad", _BAD)
        one, other = words[number % 6], words[(number // 6) % 6]
        body = f"It was {one} and {other}, {number} times."
        rows.append({"n": str(number), "subject": f"About film {number}", "body": body, "label": label})
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A table of .csv, .jsonl or .parquet."""
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def noise(seed: int, width: int = SIDE, height: int = SIDE, *, cells: int = 4) -> Image.Image:
    """A smooth picture that no other seed gives: JPEG keeps it, and no two places look alike."""
    small = np.random.default_rng(seed).integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write_picture(path: Path, *, seed: int = 0, side: int = SIDE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed, side, side).save(path)
    return path


def write_pictures(root: Path, counts: Mapping[str, int], *, suffix: str = "jpg", side: int = SIDE) -> Path:
    """`counts` pictures in each folder, such as {"train/cat": 6}; no two of them are alike."""
    seed = sum(map(ord, str(sorted(counts))))
    for folder, count in counts.items():
        for number in range(count):
            seed += 1
            write_picture(root / folder / f"{number}.{suffix}", seed=seed, side=side)
    return root


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def small_vectors(path: Path) -> Path:
    """Vectors of 8 dimensions for half of the sample's words."""
    text = (Path(REVIEWS) / "train.jsonl").read_text(encoding="utf-8").lower()
    words = sorted(set(re.findall(r"[a-z]+", text)))[::2]
    generator = np.random.default_rng(0)
    path.write_text("".join(f"{word} {' '.join(f'{x:.4f}' for x in generator.normal(size=8))}\n" for word in words))
    return path


def rewrite(path: Path, **values: Any) -> None:
    """Change keys of a JSON file; one that is not there has none."""
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}), encoding="utf-8")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Bomb:
    """Unpickled, it writes a file into the folder that the test looks into."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.marker, "unpickled"))


# --- looking --------------------------------------------------------------------------------------------------------------------


def ids(split: Dataset | None) -> list[str]:
    assert split is not None
    return list(split["id"][:])
