from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from hftl.samples import BERT_NANO, REVIEWS
from hftl.samples.digits import write_digits


def reviews(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (Path(REVIEWS) / f"{split}.jsonl").read_text().splitlines()]


def test_the_reviews_are_balanced_and_none_is_there_twice() -> None:
    train, test = reviews("train"), reviews("test")
    assert (len(train), len(test)) == (600, 210)
    assert Counter(row["label"] for row in train) == {"positive": 300, "negative": 300}
    assert Counter(row["label"] for row in test) == {"positive": 105, "negative": 105}
    texts = [" ".join(row["text"].lower().split()) for row in train + test]
    assert len(set(texts)) == 810


def test_the_samples_stay_under_ten_megabytes() -> None:
    files = [path for path in Path(REVIEWS).parent.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert (Path(BERT_NANO) / "model.safetensors").is_file()


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
