"""Other rows for a finished model: all of one split of a source, by the model's classes; and those that a run knows already."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from digits import write_digits

import hftl
from hftl.data.labelled import count_seen, load_labelled_rows
from hftl.data.source import load_splits
from hftl.names import ONE_LABEL


def pictures(source: Path, **settings: object) -> hftl.ImageData:
    return hftl.ImageData(source=source, validation_fraction=0.25, **settings)  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    """A data set of three classes, and a folder with three of its train and four new ones of two of them, and a bad file."""
    known, new = write_digits(tmp_path / "digits", range(3), train_per_class=8), tmp_path / "may"
    for name in "01":
        (new / name).mkdir(parents=True)
        for number, file in enumerate(sorted((known / "train" / name).iterdir())[:3]):
            shutil.copy(file, new / name / f"known{number}.png")
        for number, file in enumerate(sorted((known / "test" / name).iterdir())[-4:]):
            shutil.copy(file, new / name / f"new{number}.png")
    (new / "0" / "bad.png").write_bytes(b"no picture")
    shutil.rmtree(known / "test")
    return known, new


def test_pictures_are_read_by_the_models_classes_and_a_bad_one_is_left_out_and_counted(photos: tuple[Path, Path]) -> None:
    rows = load_labelled_rows(pictures(photos[1], on_bad_image="skip"), ("0", "1", "2"), kind=ONE_LABEL, split=None)
    assert rows.facts["n"] == len(rows.dataset) == 14 and rows.facts["per_class"] == {"0": 7, "1": 7, "2": 0}
    assert rows.facts["without"] == ["2"] and [entry["id"] for entry in rows.facts["skipped"]] == ["0/bad.png"]
    with pytest.raises(hftl.DataError, match=r"bad\.png"):
        load_labelled_rows(pictures(photos[1]), ("0", "1", "2"), kind=ONE_LABEL, split=None)


def test_classes_keep_the_models_order_whatever_the_sources_is(photos: tuple[Path, Path]) -> None:
    rows = load_labelled_rows(pictures(photos[1], on_bad_image="skip"), ("2", "1", "0"), kind=ONE_LABEL, split=None)
    assert rows.dataset.features["label"].names == ["2", "1", "0"]
    assert {id[0]: label for id, label in zip(rows.dataset["id"], rows.dataset["label"], strict=True)} == {"0": 2, "1": 1}


def test_rows_that_a_run_knows_are_found_by_what_they_hold(photos: tuple[Path, Path]) -> None:
    known, new = photos
    rows = load_labelled_rows(pictures(new, on_bad_image="skip"), ("0", "1", "2"), kind=ONE_LABEL, split=None)
    splits = load_splits(pictures(known), seed=0)
    seen = count_seen(rows.fingerprints, splits)
    assert set(seen) == {"train", "validation"} and sum(seen.values()) == 6  # three pictures of each of two classes


def test_an_empty_text_is_in_no_split(tmp_path: Path) -> None:
    table = "text,label\n" + "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(20)) + ",a\n"
    (tmp_path / "train.csv").write_text(table)
    (tmp_path / "new.csv").write_text("text,label\n,a\n,b\nTEXT  3,b\nnew,a\n")
    data = hftl.TextData(source=tmp_path / "train.csv", validation_fraction=0.2)
    rows = load_labelled_rows(hftl.TextData(source=tmp_path / "new.csv"), ("a", "b"), kind=ONE_LABEL, split=None)
    seen = count_seen(rows.fingerprints, load_splits(data, seed=0))
    assert sum(seen.values()) == 1  # "TEXT  3" is "text 3", but for case and white space


def test_of_several_splits_one_is_named(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name} one,a\n{name} two,b\n")
    data = hftl.TextData(source=tmp_path)
    assert load_labelled_rows(data, ("a", "b"), kind=ONE_LABEL, split="Test").facts["split"] == "test"
    with pytest.raises(hftl.DataError, match="several splits, and one is evaluated: name it"):
        load_labelled_rows(data, ("a", "b"), kind=ONE_LABEL, split=None)
