"""Folders as data sets come: class folders of texts, archives, save_to_disk, a clone of the Hub, tables of paths."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hftl.data.archives import unpacked
from hftl.data.audit import audit_splits
from hftl.data.source import Splits, load_splits
from hftl.errors import DataError
from hftl.recipe import ImageData, TextData


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / ".cache"))


def text(source: Path, **settings: Any) -> TextData:
    return TextData(source=str(source), **{"validation_fraction": 0.25, **settings})


def image(source: Path, **settings: Any) -> ImageData:
    return ImageData(source=str(source), **{"validation_fraction": 0.25, **settings})


def refused(data: TextData | ImageData) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(data, seed=0)
    return str(caught.value)


def sizes(splits: Splits) -> dict[str, int]:
    return {role: found["n"] for role, found in splits.facts["splits"].items()}


def picture(path: Path) -> Path:
    """A picture that is in no other place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize((24, 24)).save(path)
    return path


def pictures(root: Path, *folders: str, each: int = 4) -> Path:
    for folder in folders:
        for number in range(each):
            picture(root / folder / f"{number}.png")
    return root


def texts(root: Path, *folders: str, each: int = 4, ending: str = ".txt", encoding: str = "utf-8") -> Path:
    """Files that each say where they are."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            (root / folder / f"{number}{ending}").write_text(f"café {folder} {number}\r\n", encoding=encoding, newline="")
    return root


# --- class folders of texts ---------------------------------------------------------------------------------------------------


def test_class_folders_of_texts_are_read_as_those_of_pictures(tmp_path: Path) -> None:
    root = texts(tmp_path / "aclImdb", "train/neg", "train/pos", "train/unsup", "test/neg", "test/pos")
    (root / "README").write_text("Large Movie Review Dataset")
    (root / "imdb.vocab").write_text("the\n")
    (root / "train" / "labeledBow.feat").write_text("9 0:9\n")
    (root / "train" / "urls_pos.txt").write_text("http://a\n")
    splits = load_splits(text(root), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2, "test": 8}
    assert splits.label_names == ("neg", "pos") and splits.facts["format"] == "text folder"
    first = splits.train[0]
    assert first["text"] == f"café {Path(first['id']).parent.as_posix()} {Path(first['id']).stem}\n"
    assert splits.facts["ignored_files"] == {".feat": 1, ".txt": 1, ".vocab": 1, "no ending": 1}
    assert splits.facts["remarks"] == [
        "train/unsup/ is no class by its name, and not read",
        "1 text in train/ beside its class folders: in none of them, so left out",
    ]
    assert splits.facts["understood"] == [
        "2 splits from folder names: train (train/), test (test/); validation made of train",
        "labels from 2 class folders: neg, pos; each file is a text",
    ]


def test_texts_without_an_ending_and_in_another_encoding_are_read(tmp_path: Path) -> None:
    root = texts(tmp_path / "20news", "alt.atheism", "sci.med", ending="", encoding="latin-1")
    report = refused(text(root))
    assert "0, line 1, byte 3: not UTF-8" in report and "data.encoding=cp1252 reads: café" in report
    splits = load_splits(text(root, encoding="latin-1"), seed=0)
    assert splits.label_names == ("alt.atheism", "sci.med") and "café alt.atheism 0\n" in splits.train["text"][:]
    (root / "sci.med" / "9").write_bytes(b"\x7fELF\0\0")
    assert load_splits(text(root, encoding="latin-1"), seed=0).facts["ignored_files"] == {"no ending": 1}


def test_a_table_of_texts_goes_before_folders_of_texts(tmp_path: Path) -> None:
    root = texts(tmp_path / "mixed", "notes")
    (root / "train.csv").write_text("text,label\n" + "".join(f"row {n},{n % 2}\n" for n in range(8)))
    splits = load_splits(text(root), seed=0)
    assert splits.facts["format"] == "csv" and splits.facts["unused"] == ["notes/"]
    assert splits.facts["understood"] == [
        "1 split from file names: train (train.csv); validation made of train; no test split (data.test_fraction=0.2 makes one)",
        'labels from the column "label", 2 classes: 0, 1; texts from the column "text"',
    ]


# --- archives -----------------------------------------------------------------------------------------------------------------


def test_an_archive_is_read_as_the_folder_in_it(tmp_path: Path) -> None:
    pictures(tmp_path / "pack" / "photos", "train/cat", "train/dog", "test/cat", "test/dog")
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "pack")
    shutil.make_archive(str(tmp_path / "photos"), "gztar", tmp_path / "pack")
    for name in ("photos.zip", "photos.tar.gz"):
        splits = load_splits(image(tmp_path / name), seed=0)
        assert sizes(splits) == {"train": 6, "validation": 2, "test": 8} and splits.label_names == ("cat", "dog")
        assert splits.facts["remarks"] == [f"{name} is unpacked in the cache, and read from there"]
        assert str(splits.train["id"][0]).startswith("train/")
    texts(tmp_path / "texts", "neg", "pos")
    shutil.make_archive(str(tmp_path / "texts"), "zip", tmp_path / "texts")
    assert sizes(load_splits(text(tmp_path / "texts.zip"), seed=0)) == {"train": 6, "validation": 2}


def test_an_archive_that_leads_out_of_its_folder_or_is_damaged_is_refused_or_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../evil.txt", "x")
        archive.writestr("neg/a.txt", "a")
    assert unpacked(tmp_path / "a.zip").is_relative_to(tmp_path / ".cache") and not (tmp_path / "evil.txt").exists()
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        member = tarfile.TarInfo("../evil.txt")
        tar.addfile(member)
    (tmp_path / "c.zip").write_bytes(b"PK\x03\x04 no more")
    for name in ("b.tar", "c.zip"):
        assert "data.source: cannot be unpacked: " in refused(text(tmp_path / name))
    monkeypatch.setattr("hftl.data.archives._ALWAYS_UNPACKED", 100)
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("neg/a.txt", "a" * 1_000_000)
    assert "would unpack to 1.0 MB, which no data set does" in refused(text(tmp_path / "d.zip"))


def test_archives_in_a_folder_are_named_with_the_way_to_unpack_them(tmp_path: Path) -> None:
    (tmp_path / "cats.zip").write_bytes(b"PK")
    (tmp_path / "dogs.tar.gz").write_bytes(b"PK")
    said = refused(image(tmp_path))
    assert "unzip cats.zip -d cats" in said and "mkdir dogs; tar -xf dogs.tar.gz -C dogs" in said


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_an_archive_a_split_is_read_as_a_folder_a_split(tmp_path: Path, ending: str) -> None:
    kind = {"zip": "zip", "tar.gz": "gztar"}[ending]
    # The one has its folder's name in it, as who packs a folder has it, the other the classes alone.
    pictures(tmp_path / "in" / "train", "cat", "dog")
    pictures(tmp_path / "in" / "test", "cat", "dog")
    (tmp_path / "out").mkdir()
    shutil.make_archive(str(tmp_path / "out" / "train"), kind, tmp_path / "in", "train")
    shutil.make_archive(str(tmp_path / "out" / "test"), kind, tmp_path / "in" / "test")
    splits = load_splits(image(tmp_path / "out"), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2, "test": 8} and splits.label_names == ("cat", "dog")
    assert splits.facts["remarks"] == [f"test.{ending} and train.{ending} are unpacked in the cache, and read from there"]
    (tmp_path / "texts").mkdir()
    made = texts(tmp_path / "made", "train/neg", "train/pos", "valid/neg", "valid/pos")
    for split in ("train", "valid"):
        shutil.make_archive(str(tmp_path / "texts" / split), kind, made / split)
    assert sizes(load_splits(text(tmp_path / "texts"), seed=0)) == {"train": 8, "validation": 8}


def test_tables_packed_one_by_one_and_archives_of_pictures_beside_their_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for split, first in (("train", 0), ("test", 20)):
        lines = "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(first, first + 8))
        with zipfile.ZipFile(tmp_path / "texts" / f"{split}.csv.zip", "w") as archive:
            archive.writestr(f"{split}.csv", f"text,label\n{lines}")
    assert sizes(load_splits(text(tmp_path / "texts"), seed=0)) == {"train": 6, "validation": 2, "test": 8}
    # As Kaggle has it: a table of ids without an ending, and the pictures packed beside it.
    pictures(tmp_path / "in" / "train", "cat", "dog")
    files = sorted((tmp_path / "in" / "train").rglob("*.png"))
    (tmp_path / "kaggle").mkdir()
    with zipfile.ZipFile(tmp_path / "kaggle" / "train_images.zip", "w") as archive:
        for number, file in enumerate(files):
            archive.write(file, f"{number}.png")
    rows = "".join(f"{number},{file.parent.name}\n" for number, file in enumerate(files))
    (tmp_path / "kaggle" / "train.csv").write_text(f"id,label\n{rows}", encoding="utf-8")
    data = ImageData(source=str(tmp_path / "kaggle"), image_column="id", validation_fraction=0.25)
    splits = load_splits(data, seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2} and splits.label_names == ("cat", "dog")


def test_two_archives_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("train.zip", "train.tar"):
        (tmp_path / name).write_bytes(b"PK")
    assert "train.tar and train.zip are one folder when they are unpacked" in refused(image(tmp_path))


# --- save_to_disk, and a clone of the Hub -------------------------------------------------------------------------------------

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})


def rows(start: int, count: int = 8) -> Dataset:
    return Dataset.from_dict(
        {"text": [f"t{n}" for n in range(start, start + count)], "label": [n % 2 for n in range(count)]}, FEATURES
    )


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    DatasetDict(train=rows(0), validation=rows(20, 4), test=rows(40, 6).shuffle(seed=1)).save_to_disk(tmp_path / "all")
    splits = load_splits(text(tmp_path / "all"), seed=0)
    assert sizes(splits) == {"train": 8, "validation": 4, "test": 6} and splits.label_names == ("neg", "pos")
    assert splits.facts["understood"][0] == ("3 splits from save_to_disk: train (train), validation (validation), test (test)")
    rows(0).save_to_disk(tmp_path / "one")
    assert sizes(load_splits(text(tmp_path / "one"), seed=0)) == {"train": 6, "validation": 2}
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    stored = [{"bytes": picture(tmp_path / f"{n}.png").read_bytes(), "path": None} for n in range(8)]
    Dataset.from_dict({"image": stored, "label": [n % 2 for n in range(8)]}, features).save_to_disk(tmp_path / "photos")
    assert sizes(load_splits(image(tmp_path / "photos"), seed=0)) == {"train": 6, "validation": 2}
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"x")
    assert "cannot be read as save_to_disk writes it" in refused(text(tmp_path / "one"))


def clone(root: Path, front: str) -> Path:
    (root / "data").mkdir(parents=True)
    for name, start, count in (("train-00000-of-00002", 0, 4), ("train-00001-of-00002", 4, 4), ("test-00000-of-00001", 20, 4)):
        pq.write_table(rows(start, count).data.table, root / "data" / f"{name}.parquet")
    (root / "README.md").write_text(f"---\n{front}---\n# Reviews\n")
    return root


def test_a_clone_of_the_hub_is_read_as_its_readme_says(tmp_path: Path) -> None:
    files = "  - split: train\n    path: data/train-*\n  - split: test\n    path: data/test-*\n"
    configs = f"configs:\n- config_name: en\n  data_files:\n{files}"
    splits = load_splits(text(clone(tmp_path / "a", configs)), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2, "test": 4} and splits.label_names == ("neg", "pos")
    assert splits.facts["understood"][0].startswith("2 splits from the configs of README.md: train (train), test (test)")
    several = clone(tmp_path / "b", configs + "- config_name: de\n  data_files: data/test-*\n")
    report = refused(text(several))
    assert "data.config: which of en, de? README.md has several configurations" in report and "data.config=en" in report
    assert sizes(load_splits(text(several, config="de"), seed=0)) == {"train": 3, "validation": 1}
    assert 'data.config: no configuration "d". Did you mean' in refused(text(several, config="d"))
    gone = clone(tmp_path / "c", configs.replace("test-*", "tests-*"))
    assert "README.md says that the split test is in data/tests-*, and no such file is there" in refused(text(gone))
    outside = clone(tmp_path / "d", configs.replace("data/test-*", "../a/data/test-*"))
    assert "README.md names ../a/data/test-*, which is outside of the folder" in refused(text(outside))


def test_a_clone_without_configs_is_read_from_its_folder_data(tmp_path: Path) -> None:
    root = clone(tmp_path / "a", "license: mit\n")
    splits = load_splits(text(root), seed=0)
    assert sizes(splits) == {"train": 6, "validation": 2, "test": 4}
    assert splits.facts["remarks"] == ["the tables are read from the folder data/"]
    assert "only data sets on the Hub have one" in refused(text(root, config="en"))


# --- tables of paths ----------------------------------------------------------------------------------------------------------


def test_paths_of_a_table_are_found_beside_it_with_the_ending_that_they_lack_and_below_another_folder(tmp_path: Path) -> None:
    root = pictures(tmp_path / "kaggle", "train_images", each=8)
    table = root / "train.csv"
    for path, remark in (
        ("train_images/{}.png", None),
        ("{}.png", "the paths of pictures in train are read below train_images/"),
        ("{}", 'the paths of pictures in train are read below train_images/ with ".png" at their ends'),
    ):
        table.write_text("id,breed\n" + "".join(f"{path.format(n)},{'ab'[n % 2]}\n" for n in range(8)))
        splits = load_splits(image(table, image_column="id", label_column="breed"), seed=0)
        assert sizes(splits) == {"train": 6, "validation": 2}
        assert splits.facts["remarks"] == ([] if remark is None else [remark])
    (tmp_path / "labels").mkdir()
    table.rename(tmp_path / "labels" / "train.csv")
    settings = {"image_column": "id", "label_column": "breed"}
    for folder in ("../kaggle/train_images", str(root / "train_images")):
        assert sizes(load_splits(image(tmp_path / "labels", image_folder=folder, **settings), seed=0))["train"] == 6


# --- what was understood ------------------------------------------------------------------------------------------------------


def test_what_was_understood_of_a_source_is_said_in_two_lines(tmp_path: Path) -> None:
    root = pictures(tmp_path / "photos", *(f"{split}/{name}" for split in ("Train", "val", "Test") for name in "abcdefg"))
    splits = load_splits(image(root), seed=0)
    assert splits.facts["understood"] == [
        "3 splits from folder names: train (Train/), validation (val/), test (Test/)",
        "labels from 7 class folders: a, b, c, d, e and 2 more; each file is a picture",
    ]
    assert audit_splits(splits).understood == splits.facts["understood"]
    (tmp_path / "a.csv").write_text(
        "text,label,split\n" + "".join(f"t{n},{n % 2},{'dev' if n > 5 else 'train'}\n" for n in range(8))
    )
    assert load_splits(text(tmp_path / "a.csv"), seed=0).facts["understood"] == [
        '2 splits from the column "split": train (6 rows with "train" in the column "split"),'
        ' validation (2 rows with "dev" in the column "split"); no test split (data.test_fraction=0.2 makes one)',
        'labels from the column "label", 2 classes: 0, 1; texts from the column "text"',
    ]
    table = pa.table({"text": [f"t{n}" for n in range(8)], "label": [n % 2 for n in range(8)]})
    pq.write_table(table, tmp_path / "b.parquet")
    one = load_splits(text(tmp_path / "b.parquet", test_fraction=0.25), seed=0)
    assert one.facts["understood"][0] == "1 split from one table: train (b.parquet); validation, test made of train"


def test_the_page_has_what_is_read_and_refused_as_it_is_now() -> None:
    from data_page import PAGE, READ, REFUSED, page

    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "write it anew: .venv/bin/python tests/data_page.py --write"
    assert len(READ) > 15 and len(REFUSED) > 10
