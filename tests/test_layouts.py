"""Layouts of sources: nothing is read as something else, and nothing is left out without a word."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from run_factory import make_run

from hftl.data.audit import audit_splits
from hftl.data.columns import Labels, Strings
from hftl.data.decoding import BadImage, decode, inspect
from hftl.data.dialect import lines_of, read_rows
from hftl.data.layout import (
    CAN_READ_HEIC,
    PICTURES,
    begins_as_picture,
    counted,
    ending_of,
    is_picture,
    named,
    role_of,
    ways_out,
)
from hftl.data.source import Splits, load_splits
from hftl.data.tables import open_rows
from hftl.errors import DataError, Problem
from hftl.files import read_json, write_json, write_text
from hftl.recipe import ImageData, TextData
from hftl.sharing.card import render_card


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / ".cache"))


def text(source: Path, **settings: Any) -> TextData:
    return TextData(source=str(source), **{"validation_fraction": 0.25, **settings})


def image(source: Path, **settings: Any) -> ImageData:
    return ImageData(source=str(source), **{"validation_fraction": 0.25, **settings})


def column(file: Path, name: str) -> list[Any]:
    """One column of a table to predict."""
    return [row[name] for block in open_rows(file, [(name,)], TextData(source="x"), at_once=3).blocks() for row in block]


def refused(data: TextData | ImageData) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(data, seed=0)
    return str(caught.value)


def write(path: Path, rows: int = 8, *, more: Mapping[str, Any] | None = None, separator: str = ",") -> Path:
    """Rows "PATH 0", class a, then "PATH 1", class b, and so on; `more` are further columns of one value each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = ["text", "label", *(more or {})]
    lines = [[f"{path.parent.name} {path.name} {row}", "ab"[row % 2], *map(str, (more or {}).values())] for row in range(rows)]
    path.write_text("".join(separator.join(fields) + "\n" for fields in [header, *lines]), encoding="utf-8")
    return path


def picture(path: Path, kind: str | None = None) -> Path:
    """A picture that is in no other place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize((24, 24)).save(path, kind)
    return path


def pictures(root: Path, *folders: str, each: int = 4) -> Path:
    for folder in folders:
        for number in range(each):
            picture(root / folder / f"{number}.png")
    return root


def sizes(splits: Splits) -> dict[str, int]:
    return {role: found["n"] for role, found in splits.facts["splits"].items()}


def per_class(splits: Splits, role: str) -> dict[str, int]:
    return {name: n for name, n in splits.facts["splits"][role]["per_class"].items() if n}


# --- the table of split names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("train", ["train", "Train", "TRAIN", "training", "Training", "training_set", "Training set", "trainset", "train-data"]),
        ("validation", ["validation", "val", "Val", "VALID", "dev", "dev_set", "validation set", "val_images"]),
        ("test", ["test", "Test", "testing", "Testing", "test_set", "testset", "testData", "test.images"]),
        ("either", ["eval", "Evaluation"]),
        (None, ["contest", "trainLabels", "tests", "cat", "trains", "", "train_test", "imdb_train", "retrain", "holdout"]),
    ],
)
def test_the_table_of_split_names(role: str | None, names: list[str]) -> None:
    assert {name: role_of(name) for name in names} == dict.fromkeys(names, role)


def test_one_word_of_a_name_is_enough_where_no_whole_name_means_the_split() -> None:
    assert [
        role_of(name, loosely=True)
        for name in ("imdb_train", "PublicTest", "test2017", "data.dev", "x-val-y", "train_test", "contest")
    ] == [
        "train",
        "test",
        "test",
        "validation",
        "validation",
        None,
        None,
    ]
    assert named("train", ["train_extra", "train", "test"]) == ["train"]
    assert named("train", ["train_b", "train_a"]) == ["train_b", "train_a"]
    assert named("validation", ["dev", "x", "val"]) == ["val", "dev"]  # in the order of the table


@pytest.mark.parametrize(
    "names", [("Train", "Val", "Test"), ("training_set", "dev_set", "test_set"), ("TRAINING", "valid", "Testing")]
)
def test_split_names_are_read_alike_for_files_folders_and_folders_of_tables(names: tuple[str, str, str], tmp_path: Path) -> None:
    for name in names:
        pictures(tmp_path / "photos", f"{name}/cat", f"{name}/dog")
        write(tmp_path / "files" / f"{name}.csv")
        write(tmp_path / "folders" / name / "part.csv", 4)
        write(tmp_path / "folders" / name / "part2.csv", 4)
    for data in (image(tmp_path / "photos"), text(tmp_path / "files"), text(tmp_path / "folders")):
        splits = load_splits(data, seed=0)
        assert sizes(splits) == {"train": 8, "validation": 8, "test": 8}
        assert len(splits.label_names) == 2
        assert splits.facts["unused"] == [] and splits.facts["remarks"] == []
        assert str(splits.train["id"][0]).startswith(f"{names[0]}/")


def test_a_word_in_a_files_name_is_said_where_it_decides(tmp_path: Path) -> None:
    write(tmp_path / "imdb_train.csv")
    write(tmp_path / "imdb_test.csv")
    splits = load_splits(text(tmp_path), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2, "test": 8}
    assert splits.facts["remarks"] == [
        "imdb_train.csv is read as the train split, for a word in its name",
        "imdb_test.csv is read as the test split, for a word in its name",
    ]
    write(tmp_path / "imdb_train_more.csv")
    assert "which of imdb_train, imdb_train_more? Several splits look like the train split." in refused(text(tmp_path))
    asked = load_splits(text(tmp_path, train_split="imdb_train"), seed=0)
    assert sizes(asked) == sizes(splits) and asked.facts["unused"] == ["imdb_train_more.csv"]
    (tmp_path / "imdb_train_more.csv").rename(tmp_path / "train.csv")
    assert load_splits(text(tmp_path), seed=0).facts["unused"] == ["imdb_train.csv"]


def test_two_names_for_one_split_are_refused_and_the_recipes_names_decide(tmp_path: Path) -> None:
    pictures(tmp_path, "train/cat", "train/dog", "Train/cat", "Train/dog", "test/cat", "test/dog")
    assert "which of Train, train? Several splits look like the train split." in refused(image(tmp_path))
    splits = load_splits(image(tmp_path, train_split="Train"), seed=0)
    assert all(id.startswith("Train/") for id in splits.train["id"]) and splits.facts["unused"] == ["train/"]
    assert all(id.startswith("train/") for id in load_splits(image(tmp_path, train_split="train"), seed=0).train["id"])
    # A name of the recipe in another case means the only one there is.
    assert sizes(load_splits(image(tmp_path, train_split="Train", test_split="TEST"), seed=0))["test"] == 8
    assert 'no split "TRAIN"' in refused(image(tmp_path, train_split="TRAIN"))


def test_eval_is_the_split_that_is_missing_or_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv")
    write(tmp_path / "eval.csv", 4)
    report = refused(text(tmp_path))
    assert "is eval for validation or for the test?" in report and 'data.test_split="eval"' in report
    assert sizes(load_splits(text(tmp_path, test_split="eval"), seed=0))["test"] == 4
    write(tmp_path / "test.csv", 6)
    assert sizes(load_splits(text(tmp_path), seed=0)) == {"train": 8, "validation": 4, "test": 6}
    (tmp_path / "test.csv").rename(tmp_path / "dev.csv")
    assert sizes(load_splits(text(tmp_path), seed=0)) == {"train": 8, "validation": 6, "test": 4}


# --- folders of pictures ------------------------------------------------------------------------------------------------------


def test_folders_that_are_called_as_splits_and_unused_ones_are_named(tmp_path: Path) -> None:
    root = pictures(tmp_path, "train/cat", "train/dog", "Test/cat", "Test/dog", "single_prediction", "extra/cat")
    write(root / "more.csv")
    (root / "README.md").write_text("photos")
    (root / "Thumbs.db").write_bytes(b"x")
    pictures(root, "__MACOSX/cat", ".cache/cat")
    splits = load_splits(image(root), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2, "test": 8}
    assert splits.facts["unused"] == ["extra/", "single_prediction/", "more.csv"]
    assert splits.facts["ignored_files"] == {".md": 1}
    assert "not used: extra/, single_prediction/, more.csv" in audit_splits(splits).lines()
    assert audit_splits(splits).to_dict()["unused"] == splits.facts["unused"]


def test_flat_splits_are_refused_with_the_table_that_may_have_the_labels(tmp_path: Path) -> None:
    root = pictures(tmp_path, "train", "test")
    (root / "trainLabels.csv").write_text("id,label\n0,cat\n")
    report = refused(image(root))
    assert f"{root / 'train'}: 4 pictures, and no class folders" in report
    assert "the labels may be in trainLabels.csv" in report and "train.csv" in report
    assert 'data.test_split="none"' in report  # for test/
    # A table that is called as a split and has no paths is no source of pictures either.
    (root / "trainLabels.csv").rename(root / "train.csv")
    assert "no class folders" in refused(image(root)) and "the labels may be in train.csv" in refused(image(root))
    # With paths it is, and the folders are where the pictures are.
    (root / "train.csv").write_text("image,label\n" + "".join(f"train/{n}.png,{'ab'[n % 2]}\n" for n in range(4)))
    assert per_class(load_splits(image(root, validation_fraction=0.5), seed=0), "train") == {"a": 1, "b": 1}


def test_a_test_folder_without_class_folders_names_the_way_out(tmp_path: Path) -> None:
    root = pictures(tmp_path, "train/cat", "train/dog", "test")
    report = refused(image(root))
    assert f"{root / 'test'}: 4 pictures, and no class folders" in report and 'data.test_split="none"' in report
    assert sizes(load_splits(image(root, test_split="none"), seed=0)) == {"train": 6, "validation": 2}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_file_names_in_a_metadata_table_are_read_as_datasets_reads_them(kind: str, tmp_path: Path) -> None:
    root = pictures(tmp_path, "train", "test", "alone", each=8)
    for split in ("train", "test", "alone"):
        rows = [{"file_name": f"{number}.png", "label": "cat" if number % 2 else "dog"} for number in range(7)]
        file = root / split / f"metadata.{kind}"
        if kind == "csv":
            file.write_text("file_name,label\n" + "".join(f"{row['file_name']},{row['label']}\n" for row in rows))
        elif kind == "jsonl":
            file.write_text("\n".join(map(json.dumps, rows)))
        else:
            pq.write_table(pa.Table.from_pylist(rows), file)
    splits = load_splits(image(root), seed=0)
    if kind != "csv":  # which it leaves open
        theirs = datasets.load_dataset(
            "imagefolder", data_dir=str(root / "test"), split="train", cache_dir=str(tmp_path / ".theirs")
        )
        assert per_class(splits, "test") == Counter(theirs["label"])
    assert per_class(splits, "test") == {"dog": 4, "cat": 3}
    assert sizes(splits) == {"train": 5, "validation": 2, "test": 7}
    assert [row["image"]["path"] for row in splits.test or []] == [str(root / "test" / f"{number}.png") for number in range(7)]
    assert splits.facts["unused"] == ["alone/"]
    assert splits.facts["ignored_files"] == {".png": 2}
    assert f"1 picture in train/ that metadata.{kind} does not name, so left out" in splits.facts["remarks"]
    alone = load_splits(image(root / "alone"), seed=0)
    assert sizes(alone) == {"train": 5, "validation": 2} and alone.facts["ignored_files"] == {".png": 1}


def test_a_metadata_table_without_labels_leaves_class_folders_and_is_refused_without_them(tmp_path: Path) -> None:
    root = pictures(tmp_path / "a", "train/cat", "train/dog")
    (root / "train" / "metadata.csv").write_text("file_name,caption\ncat/0.png,a cat\n")
    splits = load_splits(image(root), seed=0)
    assert splits.label_names == ("cat", "dog") and splits.facts["ignored_files"] == {".csv": 1}
    flat = pictures(tmp_path / "b", "train")
    (flat / "train" / "metadata.csv").write_text("file_name,caption\n0.png,a cat\n")
    assert 'no column "label" in split "train"' in refused(image(flat))


@pytest.mark.parametrize("name", ["nan", "NA", "-1", "null"])
def test_the_name_of_a_folder_is_a_class_whatever_it_says(name: str, tmp_path: Path) -> None:
    splits = load_splits(image(pictures(tmp_path, name, "pita", "roti")), seed=0)
    assert set(splits.label_names) == {name, "pita", "roti"}


def test_links_of_the_hubs_cache_lead_to_its_blobs_and_no_further(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--me--pets"
    snapshot = repository / "snapshots" / "abc"
    for name in ("train/cat", "train/dog"):
        for number in range(4):
            blob = picture(repository / "blobs" / f"{name.replace('/', '')}{number}", "PNG")
            (snapshot / name).mkdir(parents=True, exist_ok=True)
            (snapshot / name / f"{number}.png").symlink_to(os.path.relpath(blob, snapshot / name))
    assert sizes(load_splits(image(snapshot), seed=0)) == {"train": 6, "validation": 2}
    (snapshot / "a.csv").write_text("image,label\n" + "".join(f"train/cat/{n}.png,{'ab'[n % 2]}\n" for n in range(4)))
    assert sizes(load_splits(image(snapshot / "a.csv"), seed=0)) == {"train": 3, "validation": 1}
    (snapshot / "train" / "cat" / "9.png").symlink_to(picture(tmp_path / "elsewhere.png"))
    assert "a link that leaves the data folder" in refused(image(snapshot / "train"))


def test_a_class_may_be_called_as_a_split_and_that_is_said(tmp_path: Path) -> None:
    root = pictures(tmp_path, "aeroplane", "bus", "train")
    splits = load_splits(image(root), seed=0)
    assert splits.label_names == ("aeroplane", "bus", "train")
    assert splits.facts["remarks"] == [
        'the folder "train" is read as a class, like aeroplane, bus beside it; it is called as a split'
    ]
    assert splits.facts["remarks"][0] in audit_splits(splits).lines()
    # Nor does a folder in it make it a split.
    pictures(root, "train/steam")
    again = load_splits(image(root), seed=0)
    assert again.label_names == splits.label_names
    assert "folders in class folders of train, whose pictures count to the class: train/steam" in again.facts["remarks"]
    assert load_splits(image(pictures(tmp_path / "b", "freight_train", "bus")), seed=0).label_names == ("bus", "freight_train")


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["train", "test", "cat"], "test, train are called as splits"),
        (["train", "test1"], "train: 4 pictures, and no class folders"),
        (["train2017", "val2017"], "train2017: 4 pictures, and no class folders"),
        (["seg_train/seg_train/sea", "seg_train/seg_train/hill", "seg_test/seg_test/sea"], "its only folder, seg_train/"),
        (["cat", "dog", "test/cat", "test/dog"], "holds cat, dog, which are class folders beside it as well"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "holds splits (test, train), and no class does"),
        (["cat/train", "dog/train"], "holds splits (train), and no class does"),
        (["photos/train/cat", "photos/train/dog", "photos/test/cat"], "data.source={root}/photos"),
        (["photos/cat", "photos/dog"], "data.source={root}/photos"),
    ],
)
def test_folders_that_are_neither_splits_nor_classes_are_refused(folders: list[str], said: str, tmp_path: Path) -> None:
    assert said.format(root=tmp_path) in refused(image(pictures(tmp_path, *folders)))


def test_folders_with_a_split_in_their_names_are_splits_where_they_hold_class_folders(tmp_path: Path) -> None:
    splits = load_splits(image(pictures(tmp_path, "seg_train/sea", "seg_train/hill", "seg_test/sea", "seg_test/hill")), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2, "test": 8}
    assert "seg_train/ is read as the train split, for a word in its name" in splits.facts["remarks"]


def test_pictures_in_no_class_folder_are_counted(tmp_path: Path) -> None:
    root = pictures(tmp_path, "train", "train/cat", "train/dog")
    splits = load_splits(image(root), seed=0)
    assert splits.facts["ignored_files"] == {".png": 4}
    assert "4 pictures in train/ beside its class folders: in none of them, so left out" in splits.facts["remarks"]
    plain = load_splits(image(root / "train"), seed=0)
    assert plain.facts["ignored_files"] == {".png": 4}
    assert plain.facts["remarks"] == ["4 pictures beside the class folders: in none of them, so left out"]


# --- what is read by its ending, and what is left out -------------------------------------------------------------------------

KINDS = {"jfif": "JPEG", "jpe": "JPEG", "ppm": None, "pgm": "PPM", "avif": None, "dib": None, "jp2": None, "tga": None, "pcx": None}


def test_what_pillow_reads_is_read_whatever_its_ending(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for ending, kind in KINDS.items():
            picture(tmp_path / name / f"x.{ending}", kind)
        for ending in ("qoi", "sgi", "dds", "ico", "PNG", "webp"):
            picture(tmp_path / name / f"x.{ending}")
        picture(tmp_path / name / "no_ending", "JPEG")
        picture(tmp_path / name / "img.25", "PNG")
        picture(tmp_path / name / "z.jpg_large", "JPEG")
    splits = load_splits(image(tmp_path), seed=0)
    assert sizes(splits) == {"train": 27, "validation": 9}  # 18 a class, and a quarter of all
    assert splits.facts["ignored_files"] == {} and splits.facts["notes"] == []


def test_what_is_left_out_is_counted_by_ending(tmp_path: Path) -> None:
    root = pictures(tmp_path, "cat", "dog")
    for name, count in (("cr2", 3), ("MOV", 2), ("xml", 1)):
        for number in range(count):
            (root / "cat" / f"{number}.{name}").write_bytes(b"not read")
    (root / "dog" / "notes").write_text("no picture")
    (root / "dog" / ".hidden.cr2").write_bytes(b"x")
    splits = load_splits(image(root), seed=0)
    assert splits.facts["ignored_files"] == {".cr2": 3, ".mov": 2, ".xml": 1, "no ending": 1}
    audit = audit_splits(splits)
    assert audit.to_dict()["ignored_files"] == splits.facts["ignored_files"]
    assert audit.lines()[0] == (
        "files left out: 3 .cr2, 2 .mov, 1 .xml and 1 without an ending; convert the pictures among them to .jpg or .png; "
        "of films save frames as .jpg or .png"
    )


def test_a_class_of_which_all_is_left_out_is_refused_with_what_there_is(tmp_path: Path) -> None:
    root = pictures(tmp_path, "cat", "dog")
    (root / "bird").mkdir()
    for number in range(2):
        (root / "bird" / f"{number}.CR2").write_bytes(b"x")
    report = refused(image(root))
    assert f"{root / 'bird'}: no picture in this class folder, but 2 .cr2" in report
    assert "convert the pictures among them to .jpg or .png" in report


def test_the_card_counts_what_was_left_out_and_names_no_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", family="timm")
    assert "left out, by ending" not in render_card(run) and "not used" not in render_card(run)
    found = {"ignored_files": {".heic": 1200, ".<b>": 1, "no ending": 2}, "unused": ["secret.csv", "old/"]}
    write_json(run.data, {**read_json(run.data), **found})
    card = render_card(run)
    assert "Files of the source that were left out, by ending: 1,200 .heic, 1 .&lt;b&gt;, 2 no ending." in card
    assert "In the source and not used: 2 splits, tables or folders." in card and "secret" not in card


def test_endings_and_first_bytes() -> None:
    names = ["a.JPG", "a.tar.gz", "b.7z", "img.25", "a.jpg_large", "noending", ".hidden"]
    assert [ending_of(name) for name in names] == [".jpg", ".gz", ".7z", *["no ending"] * 4]
    assert counted({".heic": 12, "no ending": 1, ".mov": 3}) == "12 .heic, 3 .mov and 1 without an ending"
    assert (
        begins_as_picture(b"\xff\xd8\xff\xe0") and begins_as_picture(b"P5\n24 24\n255\n") and begins_as_picture(b"\0\0\0 ftypavif")
    )
    for head in (b"", b"%!PS-Adobe-3.0", b"BM is a make of cars", b"Pictures", b"\0\0\0 ftypqt  "):
        assert not begins_as_picture(head)
    assert ".jpg" in PICTURES and not {".eps", ".psd", ".svg", ".mov"} & set(PICTURES)


def test_pictures_of_phones_name_the_extra_that_reads_them() -> None:
    assert ways_out([".heic"])[0] == "for pictures of phones: pip install 'hftl[heic]'"
    without = "import importlib.util as u; u.find_spec = lambda *_: None; from hftl.data.layout import PICTURES; print(PICTURES[0])"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ".jpg"


HEIC = (  # 64 x 64 pixels of one red
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAA"
    "AERAAAEAAQAAAAABegABAAAAAAAAABoAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlwcnAAAAC3"
    "aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAA"
    "AwAeoCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAABBw"
    "aXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAACJtZGF0AAAAFigBrxmA93yFN//zqZ/5wgv9/BXi0cA="
)


@pytest.mark.skipif(not CAN_READ_HEIC, reason="needs the extra heic")
def test_pictures_of_phones_are_read_with_the_extra(tmp_path: Path) -> None:
    for name in ("a.heic", "no_ending"):
        (tmp_path / name).write_bytes(base64.b64decode(HEIC))
        assert is_picture(tmp_path / name)
        assert inspect(tmp_path / name).header.width == 64
        colour = np.asarray(decode(tmp_path / name))[9, 9].astype(int)
        assert np.abs(colour - [200, 60, 20]).max() < 12


def test_a_picture_that_is_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    root = pictures(tmp_path, "cat", "dog")
    (root / "cat" / "0.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "cat/0.png: a pointer of Git LFS, and not the picture; in the clone: git lfs pull" in refused(image(root))


def test_postscript_is_never_opened(tmp_path: Path) -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\nshowpage\n"
    with Image.open(__import__("io").BytesIO(page)) as opened:
        assert opened.format == "EPS"  # the trap: loading it starts Ghostscript
    with pytest.raises(BadImage, match="not a picture, or of an unknown format"):
        inspect(page)
    (tmp_path / "a.jpg").write_bytes(page)
    with pytest.raises(BadImage, match="not a picture"):
        inspect(tmp_path / "a.jpg")


# --- paths are paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reviews[12]", "re*", "re?iews", "a{b,c}", "**", "a::b", "zip:x", "50%20off", "__x__", "~", "#1"])
def test_a_folder_with_any_name_is_that_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("reviews1", "reviews", "ab", "zip"):
        (tmp_path / other).mkdir()
        pq.write_table(pa.table({"text": ["wrong"], "label": ["wrong"]}), tmp_path / other / "train[1].parquet")
    (tmp_path / name).mkdir()
    rows = {"text": [f"right {row}" for row in range(8)], "label": ["a", "b"] * 4}
    for split in ("train[1]", "test*"):
        pq.write_table(pa.table({**rows, "text": [f"{split} {row}" for row in range(8)]}), tmp_path / name / f"{split}.parquet")
    monkeypatch.chdir(tmp_path)
    source = f"./{name}"
    splits = load_splits(TextData(source=source, validation_fraction=0.25), seed=0)
    assert splits.label_names == ("a", "b") and sizes(splits) == {"train": 6, "validation": 2, "test": 8}
    assert column(Path(name) / "train[1].parquet", "text") == [f"train[1] {row}" for row in range(8)]


@pytest.mark.parametrize("source", ["s3://bucket/train.parquet", "hf://datasets/a/b", "zip://a.csv::b.zip", "a::b"])
def test_an_address_is_no_source(source: str) -> None:
    assert "data.source: an address: hftl reads files and folders of this machine" in refused(TextData(source=source))


@pytest.mark.parametrize("source", ["csv", "imagefolder", "text", "parquet", "two words", "rev*"])
def test_what_is_no_id_of_the_hub_is_not_asked_for(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of its own readers mean to datasets whatever lies in the folder one is in."""
    write(tmp_path / "train.csv")
    monkeypatch.chdir(tmp_path)
    assert "no such file or folder" in refused(TextData(source=source))


def test_columns_of_parquet_are_those_of_the_file_and_not_of_its_folders(tmp_path: Path) -> None:
    (tmp_path / "label=z").mkdir()
    pq.write_table(pa.table({"text": ["x"], "label": ["a"]}), tmp_path / "label=z" / "train.parquet")
    assert column(tmp_path / "label=z" / "train.parquet", "label") == ["a"]


# --- tables -------------------------------------------------------------------------------------------------------------------


def texts_of(splits: Splits) -> set[str]:
    return {*splits.train["text"], *splits.validation["text"]}


def test_a_tsv_without_quoting_keeps_every_row_and_every_quotation_mark(tmp_path: Path) -> None:
    texts = [
        {3: f'"begins {n}', 5: f'ends {n}"', 7: f'"both {n}"', 8: f'a "word" {n}'}.get(n % 10, f"plain {n}") for n in range(40)
    ]
    file = tmp_path / "train.tsv"
    file.write_text("text\tlabel\n" + "".join(f"{text}\t{'pn'[n % 2]}\n" for n, text in enumerate(texts)))
    splits = load_splits(text(file), seed=0)
    assert texts_of(splits) == set(texts)
    assert splits.facts["remarks"] == ["train.tsv is read without quoting: quotation marks are a part of its texts"]


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        ('"a\tb"\tx\nc\ty\n', ["a\tb", "c"]),  # a tab is quoted
        ('"a\nb"\tx\nc\ty\n', ["a\nb", "c"]),  # a line end is quoted, since its lines are no rows
        ('"a ""b"""\tx\nc\ty\n', ['a "b"', "c"]),  # a mark is quoted
        ('"a"\tx\n"c"\ty\n', ["a", "c"]),  # the whole column is quoted
        ('"a"\tx\nc\ty\nd\tx\n', ['"a"', "c", "d"]),  # one text of three needs no quotes, so they are its own
        ('"a" b\tx\nc\ty\n', ['"a" b', "c"]),  # no quoted text goes on after its quote
        ('"a\tx\nb"\ty\n', ['"a', 'b"']),  # with quotes one text of a label in it, and each line is a row
    ],
)
def test_a_tsv_says_itself_whether_quotation_marks_quote(rows: str, texts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("text\tlabel\n" + rows)
    assert column(file, "text") == texts


def test_a_tsv_of_which_nobody_can_tell_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text('text\na\n"b\nc"\nd\n')
    with pytest.raises(DataError, match="line 3: a quotation mark begins a text that ends on line 4, or 2 texts of one line"):
        column(file, "text")


def test_a_csv_in_which_a_quotation_mark_swallows_rows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text('text,label\nfine,a\n"So it begins,b\nmiddle,a\nso it ends",b\nfine too,b\n')
    assert f"{file}, line 3: a quotation mark joins the lines 3 to 5 into one row" in refused(text(file))
    # A text of two lines, whose lines happen to have as many commas as a row has, is none of that.
    file.write_text('text,label\nfine,a\n"Dear all, hello\nand goodbye",b\nfine too,b\nmore,a\n')
    assert "Dear all, hello\nand goodbye" in texts_of(load_splits(text(file, validation_fraction=0.5), seed=0))


@pytest.mark.parametrize(
    ("name", "separator", "word"), [("a.csv", ";", "semicolons"), ("a.csv", "\t", "tabs"), ("a.tsv", ",", "commas")]
)
def test_another_separator_is_found_in_the_header_and_said(name: str, separator: str, word: str, tmp_path: Path) -> None:
    splits = load_splits(text(write(tmp_path / name, separator=separator)), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2}
    assert splits.facts["remarks"] == [f"the columns of {name} are separated by {word}"]


def test_lines_end_with_line_feeds_and_carriage_returns_alone() -> None:
    assert lines_of("a\u2028b\nc\x0cd\r\ne\x85f\r\x0bg") == ["a\u2028b", "c\x0cd", "e\x85f", "\x0bg"]
    assert lines_of("a\n\nb\n") == ["a", "", "b"] and lines_of("") == []


def test_tables_and_folders_beside_the_splits_are_named(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv", "unsupervised.csv", "train_old.csv", "old/train.csv", "notes.txt", "state.csv"):
        write(tmp_path / name)
    for name in ("README.md", "LICENSE.txt", "dataset_infos.json", "more.xlsx", "rest.zip", "make.py"):
        (tmp_path / name).write_text("[]")
    facts = load_splits(text(tmp_path), seed=0).facts
    assert facts["unused"] == ["state.csv", "train_old.csv", "unsupervised.csv", "old/", "more.xlsx", "notes.txt", "rest.zip"]
    assert facts["ignored_files"] == {".json": 1, ".md": 1, ".py": 1, ".txt": 1}


def test_tables_one_folder_deeper_are_named(tmp_path: Path) -> None:
    write(tmp_path / "tables" / "train.csv")
    assert f"tables are in tables/: data.source={tmp_path / 'tables'}" in refused(text(tmp_path))
    write(tmp_path / "train" / "a.csv")
    write(tmp_path / "train.jsonl")
    # A file called train comes before a folder of that name.
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": f"t{n}", "label": n % 2}) + "\n" for n in range(8)))
    facts = load_splits(text(tmp_path), seed=0).facts
    assert facts["format"] == "jsonl" and facts["unused"] == ["tables/", "train/"]


# --- a column that says which split a row belongs to --------------------------------------------------------------------------


def with_marks(path: Path, marks: list[Any], column: str = "split") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"text": [f"{path.name} {row}" for row in range(len(marks))], "label": ["ab"[row % 2] for row in range(len(marks))]}
    table = {**rows, column: marks}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path)
    else:
        lines = [
            ",".join(table),
            *(",".join("" if value is None else str(value) for value in row) for row in zip(*table.values(), strict=True)),
        ]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["split", "Split", "subset", "Usage"])
def test_a_column_of_splits_divides_the_one_table(kind: str, column: str, tmp_path: Path) -> None:
    marks = ["train"] * 8 + ["Val"] * 4 + ["test", "train", "test", "test"]
    file = with_marks(tmp_path / f"reviews.{kind}", marks, column)
    for source in (file, tmp_path):
        splits = load_splits(text(source), seed=0)
        assert sizes(splits) == {"train": 9, "validation": 4, "test": 3}
        assert list(splits.test["id"] if splits.test is not None else []) == ["test/12", "test/14", "test/15"]
        assert list(splits.train["id"])[-2:] == ["train/7", "train/13"] and splits.train["text"][8] == f"reviews.{kind} 13"
        assert list(splits.train["label"]) == [0, 1, 0, 1, 0, 1, 0, 1, 1]
        assert splits.facts["split_column"] == column and splits.facts["unused"] == []
        said = f'the column "{column}" says which split a row is in: "train" 9, "Val" 4, "test" 3'
        assert splits.facts["remarks"] == [said] and said in audit_splits(splits).lines()
        assert splits.facts["test"] == splits.facts["validation"] == "given"


def test_the_two_test_splits_of_a_column_are_refused_until_the_recipe_names_one(tmp_path: Path) -> None:
    file = with_marks(tmp_path / "fer.csv", ["Training"] * 8 + ["PublicTest"] * 2 + ["PrivateTest"] * 4, "Usage")
    assert "which of PublicTest, PrivateTest? Several splits look like the test split." in refused(text(file))
    splits = load_splits(text(file, validation_split="PublicTest", test_split="PrivateTest"), seed=0)
    assert sizes(splits) == {"train": 8, "validation": 2, "test": 4}


def test_rows_of_other_values_are_no_part_of_the_run_and_named(tmp_path: Path) -> None:
    file = with_marks(tmp_path / "reviews.csv", ["train"] * 8 + ["test"] * 4 + ["extra"] * 2 + [""])
    facts = load_splits(text(file), seed=0).facts
    assert facts["splits"]["train"]["n"] == 6 and facts["splits"]["test"]["n"] == 4
    assert facts["unused"] == ['2 rows with "extra" in the column "split"', '1 row with "" in the column "split"']
    assert load_splits(text(file, validation_split="extra"), seed=0).facts["splits"]["validation"]["n"] == 2
    assert load_splits(text(file, test_split="none"), seed=0).facts["splits"].keys() == {"train", "validation"}


def test_the_tables_own_name_in_the_recipe_takes_all_of_it(tmp_path: Path) -> None:
    with_marks(tmp_path / "reviews.csv", ["train"] * 8 + ["test"] * 8)
    splits = load_splits(text(tmp_path, train_split="reviews"), seed=0)
    assert sizes(splits) == {"train": 12, "validation": 4} and splits.facts["split_column"] is None
    assert 'no split "train"' in refused(text(with_marks(tmp_path / "x" / "train.csv", ["test"] * 8)))


def test_a_column_called_split_without_splits_in_it_is_said_not_to_be_looked_at(tmp_path: Path) -> None:
    splits = load_splits(text(with_marks(tmp_path / "reviews.csv", ["left", "right"] * 4)), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2}
    assert splits.facts["remarks"] == ['the column "split" is not looked at: "left", "right" mean no split']
    assert splits.facts["remarks"][0] in audit_splits(splits).lines()
    other = load_splits(text(with_marks(tmp_path / "b" / "reviews.csv", ["left", "train"] * 4, "set")), seed=0)
    assert sizes(other) == {"train": 6, "validation": 2}
    assert other.facts["remarks"] == ['the column "set" is not looked at: "left" means no split']
    none = load_splits(text(with_marks(tmp_path / "c" / "reviews.csv", ["left", "right"] * 4, "set")), seed=0)
    assert none.facts["remarks"] == []
    # As the label it is no column of splits.
    labels = load_splits(text(with_marks(tmp_path / "reviews.csv", ["train", "test"] * 4), label_column="split"), seed=0)
    assert labels.label_names == ("test", "train")


def test_a_column_of_splits_that_contradicts_its_file_is_refused(tmp_path: Path) -> None:
    with_marks(tmp_path / "train.csv", ["train"] * 8)
    with_marks(tmp_path / "test.csv", ["test"] * 4)
    assert sizes(load_splits(text(tmp_path), seed=0)) == {"train": 6, "validation": 2, "test": 4}
    with_marks(tmp_path / "train.csv", ["train"] * 6 + ["test"] * 2)
    assert 'split "train": 2 rows with "test" in the column "split": train/6, train/7' in refused(text(tmp_path))


def test_pictures_in_a_table_are_divided_by_its_column_too(tmp_path: Path) -> None:
    root = pictures(tmp_path, "pictures", each=12)
    marks = ["train"] * 8 + ["test"] * 4
    lines = [f"pictures/{n}.png,{'ab'[n % 2]},{marks[n]}" for n in range(12)]
    (root / "train.csv").write_text("\n".join(["image,label,split", *lines]) + "\n")
    assert sizes(load_splits(image(root), seed=0)) == {"train": 6, "validation": 2, "test": 4}
    (root / "train.csv").rename(root / "pictures" / "metadata.csv")
    lines = [line.removeprefix("pictures/") for line in lines]
    (root / "pictures" / "metadata.csv").write_text("\n".join(["file_name,label,split", *lines]) + "\n")
    assert sizes(load_splits(image(root / "pictures"), seed=0)) == {"train": 6, "validation": 2, "test": 4}


def test_rows_are_taken_with_their_numbers_and_the_labels_they_have() -> None:
    assert list(Strings.of_rows("test", np.array([3, 7], dtype=np.int32))) == ["test/3", "test/7"]
    taken = Labels(["a", None, "b"], np.array([0, 1, 2, 2, 0], dtype=np.int32)).take(np.array([2, 3, 4]))
    assert taken.values == ["a", "b"] and taken.codes.tolist() == [1, 1, 0] and taken.codes.dtype == np.int32


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", denied)  # root may list any folder
    assert f"{tmp_path}: cannot be read: Permission denied" in refused(text(tmp_path))


# --- what a reader of the code found --------------------------------------------------------------------------------------------


def test_a_quotation_mark_that_swallows_rows_is_found_beside_rows_that_quote_rightly(tmp_path: Path) -> None:
    text = 'text,label\n"Good, really good",pos\nplain,neg\n"5 inch screen,pos\nanother one,neg\nfine,pos\nfoot 6",neg\nx,pos\n'
    problems: list[Problem] = []
    read_rows(tmp_path / "train.csv", text, problems, wanted=("text", "label"), label="label")
    assert [problem.where for problem in problems] == [f"{tmp_path / 'train.csv'}, line 4"]
    assert "joins the lines 4 to 7 into one row" in problems[0].what
    tabs = 'text\tlabel\n"first line\nsecond line"\tpos\n" starts with quote\tneg\nc\tneg\nend"\tneg\n'
    problems = []
    read_rows(tmp_path / "train.tsv", tabs, problems, wanted=("text", "label"), label="label")
    assert ["joins the lines 4 to 6" in problem.what for problem in problems] == [True]


def test_a_text_of_several_lines_is_one_text(tmp_path: Path) -> None:
    text = 'text,label\n"one line,\nanother, and a third",pos\n"He said ""no"",\nthen left",neg\nx,pos\ny,neg\n'
    problems: list[Problem] = []
    read = read_rows(tmp_path / "train.csv", text, problems, wanted=("text", "label"), label="label")
    assert not problems and read.count == 4
    assert read.columns["text"][:2] == ["one line,\nanother, and a third", 'He said "no",\nthen left']


def test_the_tab_separated_text_of_excel_is_read_with_its_quotes(tmp_path: Path) -> None:
    text = 'text\tlabel\n"He said ""no"""\tpos\n"a, b"\tpos\nc\tneg\nd\tneg\ne\tpos\nf\tneg\n'
    for file in (text, text.replace('"He said ""no"""', "z"), text.replace('"a, b"', '""')):
        problems: list[Problem] = []
        read = read_rows(tmp_path / "train.tsv", file, problems, wanted=("text", "label"), label="label")
        assert not problems and not read.remarks
    assert read.columns["text"][:2] == ['He said "no"', ""]


@pytest.mark.parametrize(
    "beside", ["training_log.csv", "train_losses.json", "train_notes.csv", "val_metrics.json", "dev_predictions.csv"]
)
def test_a_table_that_only_sounds_like_a_split_and_holds_no_data_lies_beside(tmp_path: Path, beside: str) -> None:
    texts, pictures = tmp_path / "texts", tmp_path / "pictures"
    for name in ("train", "test"):
        rows = "".join(f"{name} text {number},{'ab'[number % 2]}\n" for number in range(20))
        write_text(texts / f"{name}.csv", f"text,label\n{rows}")
    for label in ("cat", "dog"):
        for number in range(10):
            picture(pictures / label / f"{number}.png")
    for folder in (texts, pictures):
        write_text(folder / beside, '{"acc": 1}' if beside.endswith(".json") else "epoch,loss\n1,0.5\n")
    of_texts = load_splits(TextData(source=str(texts)), seed=0)
    assert of_texts.facts["splits"]["test"]["n"] == 20 and of_texts.facts["validation"] != "given"
    of_pictures = load_splits(ImageData(source=str(pictures)), seed=0)
    assert of_pictures.label_names == ("cat", "dog")
    assert all(any(beside in line for line in splits.facts["unused"]) for splits in (of_texts, of_pictures))


def test_a_first_row_without_the_split_column_does_not_hide_it(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": "ab"[number % 2], "split": ("train", "test")[number >= 20]} for number in range(30)]
    del rows[0]["split"]
    write_text(tmp_path / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    facts = load_splits(TextData(source=str(tmp_path / "data.jsonl")), seed=0).facts
    assert facts["split_column"] == "split" and facts["splits"]["test"]["n"] == 10


def test_numbers_in_a_column_called_partition_are_named(tmp_path: Path) -> None:
    rows = "".join(f"text {number},{'ab'[number % 2]},{number % 3}\n" for number in range(30))
    write_text(tmp_path / "train.csv", f"text,label,partition\n{rows}")
    remarks = load_splits(TextData(source=str(tmp_path / "train.csv")), seed=0).facts["remarks"]
    assert any('the column "partition" is not looked at' in remark for remark in remarks)


def test_a_folder_with_one_archive_and_nothing_else_of_data_is_that_archive(tmp_path: Path) -> None:
    def pack(name: str) -> None:
        with zipfile.ZipFile(tmp_path / "down" / name, "w") as archive:
            archive.writestr("reviews/train.csv", "text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(8)))

    (tmp_path / "down").mkdir()
    pack("reviews.zip")
    (tmp_path / "down" / "LICENSE").write_text("free")
    splits = load_splits(text(tmp_path / "down"), seed=0)
    assert len(splits.train) == 6 and splits.facts["remarks"] == ["reviews.zip is unpacked in the cache, and read from there"]
    pack("more.zip")
    assert "no table in" in refused(text(tmp_path / "down"))
    (tmp_path / "down" / "more.zip").rename(tmp_path / "more.zip")
    write_text(tmp_path / "down" / "train.csv", "text,label\n" + "".join(f"own {n},{'ab'[n % 2]}\n" for n in range(8)))
    splits = load_splits(text(tmp_path / "down"), seed=0)
    assert splits.facts["unused"] == ["reviews.zip"] and splits.train[0]["text"].startswith("own ")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_to_predict_is_made_of_its_text_a_block_at_a_time_as_often_as_it_is_asked_for(end: str, tmp_path: Path) -> None:
    lines = [" text ;who", "", '"one; and";a', '"two', 'lines";b', "", "three;c", "four;d"]
    (tmp_path / "t.csv").write_bytes(end.join(lines).encode())
    said: list[str] = []
    table = open_rows(tmp_path / "t.csv", [("text",)], TextData(source="x"), at_once=3, say=said.append)
    expected = [
        {"text": value, "who": who} for value, who in zip(["one; and", f"two{end}lines", "three", "four"], "abcd", strict=True)
    ]
    for _ in range(2):
        blocks = list(table.blocks())
        assert [len(block) for block in blocks] == [3, 1] and [row for block in blocks for row in block] == expected
    assert list(table.types) == ["text", "who"] and said == ["the columns of t.csv are separated by semicolons"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_lines_of_json_to_predict_have_one_type_a_column_whatever_block_says_it(name: str, tmp_path: Path) -> None:
    """In blocks of two: `n` is whole in the first and broken in the second, `of` is in the last alone, `x` has no one type."""
    rows: list[dict[str, Any]] = [
        *({"text": "a\u2028b", "n": 1, "x": 1, "l": []}, {"text": "b", "n": 2, "none": None}),
        *({"text": "c", "n": 0.5, "x": "y", "l": ["z"]}, {"text": "d"}, {"text": "e", "of": {"a": 1}}),
    ]
    (tmp_path / name).write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    table = open_rows(tmp_path / name, [("text",)], TextData(source="x"), at_once=2)
    kinds = {"text": "string", "n": "double", "x": "string", "l": "list<item: string>", "none": "string", "of": "struct<a: int64>"}
    assert {column: str(kind) for column, kind in table.types.items()} == kinds
    for _ in range(2):
        blocks = list(table.blocks())
        assert [len(block) for block in blocks] == [2, 2, 1]
        assert [row for block in blocks for row in block] == [{**dict.fromkeys(kinds), **row} for row in rows]
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n[1]\n')
    with pytest.raises(DataError, match=r"line 2: Expecting value at column 10, line 3: not an object"):
        open_rows(tmp_path / "bad.jsonl", [("text",)], TextData(source="x"), at_once=2)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_the_rows_of_a_table_to_predict_are_not_in_memory(name: str, tmp_path: Path) -> None:
    texts = [(f"the text number {number} of a table that is long", number) for number in range(20_000)]
    if name == "t.csv":
        rows = "".join(f"{text},{number}\n" for text, number in texts)
        (tmp_path / name).write_text(f"text,id\n{rows}")
    else:
        rows = "".join(f'{{"text":"{text}","id":{number}}}\n' for text, number in texts)
        (tmp_path / name).write_text(rows)
    tracemalloc.start()
    table = open_rows(tmp_path / name, [("text",)], TextData(source="x"), at_once=100)
    assert sum(map(len, table.blocks())) == 20_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * len(rows)  # as Python's values they take nine times as much


# --- as people have them --------------------------------------------------------------------------------------------------------


def test_excels_own_line_for_the_separator_is_no_row(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", separator=";")
    table.write_text("sep=;\r\n" + table.read_text(encoding="utf-8"), encoding="utf-8-sig")
    splits = load_splits(text(table), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2} and "separated by semicolons" in splits.facts["remarks"][0]
    assert column(table, "label") == [*"abababab"]
    table.write_text(table.read_text(encoding="utf-8") + "one;two;three\n", encoding="utf-8")
    assert "line 11 has 3" in refused(text(table))  # counted as an editor counts


def test_splits_that_are_called_in_other_languages_are_no_classes(tmp_path: Path) -> None:
    splits = load_splits(image(pictures(tmp_path, "训练集/猫", "训练集/狗", "测试/猫", "测试/狗")), seed=0)
    assert splits.label_names == ("狗", "猫") and sizes(splits) == {"train": 6, "validation": 2, "test": 8}
    assert [role_of(name) for name in ("Entrenamiento", "验证集", "テスト", "protest")] == ["train", "validation", "test", None]


def test_lists_of_labels_that_numpy_wrote_keep_their_parts(tmp_path: Path) -> None:
    lists = ("['joy' 'anger']", "['joy']", "[]", '["it\'s" "joy"]')
    rows = "".join(f'text {number},"{lists[number % 4].replace(chr(34), chr(34) * 2)}"\n' for number in range(12))
    (tmp_path / "t.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    assert load_splits(text(tmp_path / "t.csv"), seed=0).label_names == ("anger", "it's", "joy")


def test_files_that_are_no_table_say_what_to_type(tmp_path: Path) -> None:
    rows = [{"text": f"t{number}", "label": "ab"[number % 2]} for number in range(8)]
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "empty.jsonl").write_text("\n\n")
    (folder / "deep.json").write_text(json.dumps({"v": 1, "data": {"the rows": rows}}))
    (folder / "coco.json").write_text(json.dumps({"images": [{"id": 1}], "annotations": [{"id": 1}], "categories": []}))
    (folder / "struct.jsonl").write_text("".join(json.dumps({**row, "text": {"body": "x"}}) + "\n" for row in rows))
    (folder / "fast.txt").write_text("__label__a one\n__label__b two\n")
    (folder / "t.feather").write_bytes(b"ARROW1")
    (folder / "bare.csv").write_text("".join(f"{row['text']},{row['label']}\n" for row in rows))
    (folder / "other.csv").write_text("sentence,label,x y\n" + "".join(f"{row['text']},{row['label']},1\n" for row in rows))
    (folder / "hot.csv").write_text("text,toxic,rude\n" + "".join(f"{row['text']},1,0\n" for row in rows))
    twice = pa.Table.from_arrays([pa.array(["t"]), pa.array(["a"]), pa.array(["a"])], names=["text", "label", "label"])
    pq.write_table(twice, folder / "twice.parquet")
    for name, said in (
        ("empty.jsonl", 'split "train": no rows'),
        ("deep.json", """its rows may be in .data["the rows"]: jq '.data["the rows"]' deep.json > rows.json"""),
        ("coco.json", "train.csv, with the columns image,label"),
        ("struct.jsonl", "they are objects with body: pandas.json_normalize"),
        ("fast.txt", r"(printf 'label\ttext\n'; sed -E 's/^__label__([^ ]+) /\1\t/' fast.txt) > fast.tsv"),
        ("t.feather", "pandas.read_feather('t.feather').to_parquet('t.parquet')"),
        ("bare.csv", "put a line above it: text,label"),
        ("other.csv", "another name: data.text_column=sentence"),
        ("hot.csv", "where each label has a column of 0 and 1: 'data.label_column=[toxic, rude]'"),
        ("twice.parquet", "two columns of one name: text, label, label"),
    ):
        assert said in refused(text(folder / name)), name


def test_the_command_for_lines_of_fasttext_makes_a_table_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "fast.txt").write_text("".join(f"__label__{'ab'[row % 2]} text {row}\n" for row in range(8)))
    [command] = [line for line in refused(text(tmp_path / "fast.txt")).splitlines() if "sed" in line]
    subprocess.run(command.partition(": ")[2], shell=True, cwd=tmp_path, check=True)  # noqa: S602  # as a reader copies it
    assert load_splits(text(tmp_path / "fast.tsv"), seed=0).label_names == ("a", "b")


def test_pictures_whose_classes_are_elsewhere_say_where(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / "flat" / f"{('cat', 'dog')[number % 2]}.{number}.png")
    said = refused(image(tmp_path / "flat"))
    assert "where names begin with the class (cat, dog): for f in *; do" in said
    command = said.partition("(cat, dog): ")[2].splitlines()[0]
    subprocess.run(command, shell=True, cwd=tmp_path / "flat", check=True)  # noqa: S602
    assert load_splits(image(tmp_path / "flat" / "classes"), seed=0).label_names == ("cat", "dog")
    pictures(tmp_path / "coco", "images")
    (tmp_path / "coco" / "instances.json").write_text("{}")
    assert "the labels may be in instances.json" in refused(image(tmp_path / "coco"))
    for name in ("a", "b"):
        (tmp_path / "arrays" / name).mkdir(parents=True)
        np.save(tmp_path / "arrays" / name / "1.npy", np.zeros((4, 4, 13)))
    assert "data.bands=13" in refused(image(tmp_path / "arrays"))
