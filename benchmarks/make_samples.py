"""Make the samples inside the package that come from somewhere else: photos of clothes, and MobileNetV2 in half precision.

    python benchmarks/make_samples.py

hftl/samples/README.md says where they come from and under which licence. Nothing here looks at what a model makes of a picture:
classes are chosen by their number of pictures, pictures by the SHA-256 of their files. Running it again writes the same files.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hftl.data.decoding import inspect, store_scans
from hftl.data.near import near_pictures
from hftl.samples import CLOTHES, MOBILENET

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
COUNTS = {"train": 60, "validation": 20, "test": 60}
"""Pictures a class."""
# Test pictures come from what the collection itself keeps from training; so does no other. All others come from its train.
SOURCES = {"test": ("test", "validation"), "train": ("train",), "validation": ("train",)}
SIDE, QUALITY = 160, 70


def main() -> int:
    """Write both samples."""
    write_clothes(SHARED / "data/clothing", Path(CLOTHES))
    write_mobilenet(SHARED / "models/mobilenetv2_100", Path(MOBILENET))
    return 0


def write_clothes(collection: Path, folder: Path) -> None:
    """Five classes, the middle square of each photo, `SIDE` pixels a side, without the metadata that a camera writes."""
    classes = classes_with_enough(collection)
    assert len(classes) == 5, classes
    chosen = {name: choose(collection, name) for name in classes}
    together = [path for parts in chosen.values() for paths in parts.values() for path in paths]
    assert not near_pictures(store_scans(map(inspect, together), len(together))), "one picture looks like another"
    shutil.rmtree(folder, ignore_errors=True)
    written = 0
    for name, parts in chosen.items():
        for split, paths in parts.items():
            target = folder / split / name
            target.mkdir(parents=True)
            for number, path in enumerate(paths):
                written += (target / f"{number:02d}.jpg").write_bytes(small(path))
    print(f"{folder.name}: {len(together)} pictures, {written / 1e6:.2f} MB, {', '.join(classes)}")


def classes_with_enough(collection: Path) -> list[str]:
    """The classes of which test and validation together hold a whole test split: five of the ten."""
    names = sorted(path.name for path in (collection / "train").iterdir())
    return [name for name in names if sum(1 for _ in files(collection, name, "test")) >= COUNTS["test"]]


def files(collection: Path, name: str, split: str) -> list[Path]:
    """What a split of the sample may take, source by source, each in the order of SHA-256."""
    return [
        path
        for source in SOURCES[split]
        for path in sorted((collection / source / name).iterdir(), key=lambda path: hashlib.sha256(path.read_bytes()).digest())
    ]


def choose(collection: Path, name: str) -> dict[str, list[Path]]:
    """The first so many of each split, those left out that look like one before them; test first."""
    order = [(split, path) for split in ("test", "train") for path in files(collection, name, split)]
    seen = near_pictures(store_scans((inspect(path) for _, path in order), len(order)))
    repeats = {link.other for link in seen}
    left = {
        split: [path for number, (its, path) in enumerate(order) if its == split and number not in repeats]
        for split in ("test", "train")
    }
    train = COUNTS["train"]
    return {
        "train": left["train"][:train],
        "validation": left["train"][train : train + COUNTS["validation"]],
        "test": left["test"][: COUNTS["test"]],
    }


def small(path: Path) -> bytes:
    """The middle square as a JPEG."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    side = min(whole.size)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    square = whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    buffer = io.BytesIO()
    square.save(buffer, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    return buffer.getvalue()


def write_mobilenet(source: Path, folder: Path) -> None:
    """The weights as float16, which is enough for a start: hftl trains them as float32."""
    weights = load_file(source / "model.safetensors")
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    assert all(torch.isfinite(tensor).all() for tensor in half.values())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{folder.name}: {(folder / 'model.safetensors').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())
