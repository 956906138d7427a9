from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Hftl
from digits import write_digits
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from hftl.models.vision import build
from hftl.recipe import Timm
from hftl.samples import BERT_NANO, CLOTHES, MOBILENET, REVIEWS

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def reviews(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (Path(REVIEWS) / f"{split}.jsonl").read_text().splitlines()]


def test_the_reviews_are_balanced_and_none_is_there_twice() -> None:
    train, test = reviews("train"), reviews("test")
    assert (len(train), len(test)) == (600, 580)
    assert Counter(row["label"] for row in train) == {"positive": 300, "negative": 300}
    assert Counter(row["label"] for row in test) == {"positive": 290, "negative": 290}
    texts = [" ".join(row["text"].lower().split()) for row in train + test]
    assert len(set(texts)) == 1180


def test_the_samples_stay_under_sixteen_megabytes() -> None:
    files = [path for path in Path(REVIEWS).parent.rglob("*") if path.is_file()]
    assert len(files) > 700
    assert sum(path.stat().st_size for path in files) < 16_000_000
    assert (Path(BERT_NANO) / "model.safetensors").is_file() and (Path(MOBILENET) / "model.safetensors").is_file()


def test_the_photos_are_five_classes_of_equal_size_in_at_most_four_megabytes() -> None:
    photos = sorted(Path(CLOTHES).rglob("*.jpg"))
    classes = ("longsleeve", "outwear", "pants", "shoes", "t-shirt")
    counts = Counter((path.parent.parent.name, path.parent.name) for path in photos)
    assert counts == {(split, name): n for split, n in (("train", 60), ("validation", 20), ("test", 60)) for name in classes}
    assert sum(path.stat().st_size for path in photos) <= 4_000_000
    for path in photos:
        with Image.open(path) as picture:  # what a camera writes of its owner is not in it
            assert (picture.size, picture.mode, dict(picture.getexif())) == ((160, 160), "RGB", {})


def test_the_audit_finds_nothing_in_the_photos(hftl: Hftl) -> None:
    audited = hftl("audit", RECIPES / "quickstart.py", "--json")
    assert audited.code == 0, audited.err
    found = json.loads(audited.out)
    assert {split: facts["n"] for split, facts in found["splits"].items()} == {"train": 300, "validation": 100, "test": 300}
    near = found["near_duplicates"]
    assert (near["within"], near["across"], near["conflicting"]) == ({}, [], 0)
    assert found["skipped"] == [] and found["notes"] == []


def test_mobilenet_is_stored_in_half_precision_and_trained_in_single() -> None:
    stored = load_file(Path(MOBILENET) / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    classifier = build(Timm(checkpoint=MOBILENET), ["a", "b"], image_size=160)
    weights = {name.removeprefix("timm_model."): tensor for name, tensor in classifier.model.state_dict().items()}
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}
    assert len(stored) > 250
    for name, tensor in stored.items():
        assert torch.equal(weights[name], tensor.to(weights[name].dtype)), name


def test_the_samples_are_what_their_maker_writes(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(RECIPES.parent / "benchmarks")
    maker = importlib.import_module("make_samples")
    collection = shared / "data/clothing"
    assert maker.classes_with_enough(collection) == sorted(path.name for path in (Path(CLOTHES) / "train").iterdir())
    chosen = maker.choose(collection, "outwear")  # the smallest class
    sources = {split: {path.parent.parent.name for path in paths} for split, paths in chosen.items()}
    assert sources == {"train": {"train"}, "validation": {"train"}, "test": {"test", "validation"}}
    for split, paths in chosen.items():
        for number, path in enumerate(paths):
            assert (Path(CLOTHES) / split / "outwear" / f"{number:02d}.jpg").read_bytes() == maker.small(path)
    maker.write_mobilenet(shared / "models/mobilenetv2_100", tmp_path / "mobilenet")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "mobilenet" / name).read_bytes() == (Path(MOBILENET) / name).read_bytes()


def test_digits_are_written_once_with_the_asked_for_number_to_train(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", range(5, 10), train_per_class=8)
    train = sorted(folder.glob("train/*/*.png"))
    assert Counter(path.parent.name for path in train) == dict.fromkeys("56789", 8)
    everything = list(folder.glob("*/*/*.png"))
    assert len(everything) == int((load_digits().target >= 5).sum())
    with Image.open(train[0]) as picture:
        assert picture.size == (32, 32) and np.asarray(picture).max() > 200
    before = train[0].stat().st_mtime_ns
    write_digits(tmp_path / "digits", range(5, 10), train_per_class=8)
    assert train[0].stat().st_mtime_ns == before
