"""Sources and splits: every kind of source ends in the same columns, and everything that is wrong comes in one report."""

from __future__ import annotations

import errno
import json
import os
import re
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image
from small import ids, write_csv, write_picture, write_pictures

from hftl.data.columns import Labels, Strings, array_on_disk, blocks, integers, on_disk, pick
from hftl.data.duplicates import first_rows, number_contents, repeated
from hftl.data.rows import natural_key
from hftl.data.source import Splits, load_splits
from hftl.errors import DataError
from hftl.recipe import ImageData, TextData


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / ".cache"))


def text(source: Path, **settings: Any) -> TextData:
    return TextData(source=str(source), **settings)


def image(source: Path, **settings: Any) -> ImageData:
    return ImageData(source=str(source), **settings)


def refused(data: TextData | ImageData) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(data, seed=0)
    return str(caught.value)


def write_parquet(path: Path, labels: Sequence[Any], *, names: list[str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"text": [f"{path.stem} {row}" for row in range(len(labels))], "label": list(labels)}
    if names is None:
        pq.write_table(pa.table(rows), path)
    else:
        Dataset.from_dict(rows, features=Features({"text": Value("string"), "label": ClassLabel(names=names)})).to_parquet(
            str(path)
        )
    return path


def classes(split: Dataset | None) -> Counter[str]:
    assert split is not None
    names = split.features["label"].names
    return Counter(names[label] for label in split["label"][:])


# --- tables -------------------------------------------------------------------------------------------------------------------


def test_a_single_csv_is_train_and_validation_is_made_from_it(tmp_path: Path) -> None:
    splits = load_splits(text(write_csv(tmp_path / "reviews.csv", ["pos", "neg"] * 10)), seed=0)
    assert splits.train.column_names == ["id", "text", "label"]
    assert splits.label_names == ("neg", "pos")
    # 10 % of 20 rows are 2, one of each class.
    assert classes(splits.validation) == {"neg": 1, "pos": 1}
    assert classes(splits.train) == {"neg": 9, "pos": 9}
    assert splits.test is None
    assert sorted(ids(splits.train) + ids(splits.validation)) == sorted(f"train/{row}" for row in range(20))
    row = splits.train[3]
    assert row["text"] == f"reviews {row['id'].removeprefix('train/')}"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_kind_of_table_gives_the_same_splits(suffix: str, tmp_path: Path) -> None:
    rows = [{"text": f'a "quoted", text\t{number}', "label": "ab"[number % 2]} for number in range(10)]
    path = tmp_path / f"data.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        separator = "," if suffix == "csv" else "\t"
        lines = [f'"{row["text"].replace(chr(34), chr(34) * 2)}"{separator}{row["label"]}' for row in rows]
        path.write_text("\n".join([f"text{separator}label", *lines]) + "\n")
    splits = load_splits(text(path, validation_fraction=0.2), seed=0)
    both = dict(
        zip(ids(splits.train) + ids(splits.validation), splits.train["text"][:] + splits.validation["text"][:], strict=True)
    )
    assert both == {f"train/{number}": row["text"] for number, row in enumerate(rows)}
    assert splits.facts["format"] == suffix
    assert (
        splits.facts["splits"]["train"]["fingerprint"]
        == load_splits(text(path, validation_fraction=0.2), seed=0).facts["splits"]["train"]["fingerprint"]
    )


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "dev", "validation-00000-of-00001"])
def test_a_folder_of_tables_is_read_by_split(validation: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1, 0])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [1, 1])
    write_parquet(tmp_path / f"{validation}.parquet", [1, 0])
    write_parquet(tmp_path / "test.parquet", [0, 0, 1])
    write_parquet(tmp_path / "unsupervised.parquet", [-1])  # another split is not even read
    (tmp_path / "README.md").write_text("what it is")
    splits = load_splits(text(tmp_path), seed=0)
    name = validation.partition("-")[0]
    assert ids(splits.train) == [f"train/{row}" for row in range(5)]
    assert ids(splits.validation) == [f"{name}/0", f"{name}/1"]
    assert splits.train["label"][:] == [0, 1, 0, 1, 1]
    assert classes(splits.test) == {"0": 2, "1": 1}
    assert (splits.facts["validation"], splits.facts["test"], splits.facts["ignored_files"]) == ("given", "given", {".md": 1})
    assert splits.facts["unused"] == ["unsupervised.parquet"]
    assert list(splits.facts["splits"]) == ["train", "validation", "test"]


def test_a_changed_file_with_the_old_name_and_time_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    for labels in ([0, 1] * 5, [0, 1, 1, 1, 1] * 2):
        write_parquet(path, labels)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        splits = load_splits(text(path), seed=0)
        assert sum(splits.train["label"][:]) + sum(splits.validation["label"][:]) == sum(labels)


def test_other_column_names_become_text_and_label(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("label,text,review,stars\n9,wrong,fine,a\n9,wrong,bad,b\n9,wrong,good,a\n9,wrong,poor,b\n")
    splits = load_splits(text(path, text_column="review", label_column="stars", validation_fraction=0.5), seed=0)
    assert sorted(splits.train["text"][:] + splits.validation["text"][:]) == ["bad", "fine", "good", "poor"]
    assert splits.label_names == ("a", "b")


def test_a_byte_order_mark_is_stripped(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xef\xbb\xbf" + b"text,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(8)).encode())
    assert load_splits(text(path), seed=0).label_names == ("0", "1")


def test_a_ragged_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('text,label\n"two\nlines",a\none, two,b\nthree,a\nfour\n')
    report = refused(text(path))
    assert "the header has 2 columns; line 4 has 3, line 6 has 1" in report


def test_an_unfinished_quote_is_named_by_the_line_where_its_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('text,label\nfine,a\n"open,b\nmore,a\n')
    assert f"{path}, line 3: not valid CSV" in refused(text(path))


@pytest.mark.parametrize(("content", "what"), [(b"caf\xe9,a\n", "not UTF-8"), (b"a\0b,a\n", "a NUL byte")])
def test_bytes_that_are_no_text_are_named_by_file_line_and_byte(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"text,label\n" + content)
    place = 11 + (3 if what == "not UTF-8" else 1)
    assert f"{path}, line 2, byte {place}: {what}" in refused(text(path))


def test_a_text_longer_than_pythons_csv_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "".join(f"{letter * 200_000},{label}\n" for letter, label in zip("wxyz", "abab", strict=True)))
    assert len(load_splits(text(path), seed=0).train[0]["text"]) == 200_000


def test_broken_jsonl_and_json_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "a", "label": 1}\n{"text": \n[1]\n')
    report = refused(text(tmp_path / "data.jsonl"))
    assert "line 2: Expecting value" in report
    assert "line 3: not an object" in report
    (tmp_path / "data.json").write_text('{"text": "a"}')
    assert "expected a list of objects" in refused(text(tmp_path / "data.json"))


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"text,label\n")
    assert f"{tmp_path / 'train.parquet'}: cannot be read as Parquet" in refused(text(tmp_path))


# --- what a source is ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["./absent", "/absent/data", "~/absent", "absent.csv", "a/b/c", "absent/", r"data\absent"])
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(source: str) -> None:
    report = refused(TextData(source=source))
    assert f"no such file or folder: {Path(source).expanduser().absolute()}" in report


def test_an_id_that_the_hub_cannot_answer_is_one_clear_error() -> None:
    report = refused(TextData(source="nobody/nothing"))
    assert "data.source: cannot be had from the Hub" in report
    assert "HF_HUB_OFFLINE=1" in report
    assert str(Path("nobody/nothing").absolute()) in report


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill_hub_cache(tmp_path: Path) -> None:
    """A data set in the cache as it lies there after it was downloaded from the Hub once."""
    file = write_parquet(tmp_path / "train.parquet", [0, 1] * 10, names=["neg", "pos"])
    builder = datasets.load_dataset_builder("parquet", data_files={"train": str(file)}, cache_dir=str(tmp_path / "made"))
    builder.download_and_prepare()
    home = Path(datasets.config.HF_DATASETS_CACHE) / "me___films" / "default" / "0.0.0"
    home.mkdir(parents=True)
    Path(builder.cache_dir).rename(home / COMMIT)
    for arrow in (home / COMMIT).glob("parquet-*.arrow"):
        arrow.rename(arrow.with_name(arrow.name.replace("parquet-", "films-")))
    info = home / COMMIT / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"dataset_name": "films", "config_name": "default"}))


def test_a_hub_data_set_gives_its_commit_and_its_own_class_names(tmp_path: Path) -> None:
    fill_hub_cache(tmp_path)
    splits = load_splits(TextData(source="me/films", revision=COMMIT), seed=0)
    assert splits.facts["revision"] == COMMIT
    assert splits.facts["format"] == "hub"
    assert splits.label_names == ("neg", "pos")
    assert ids(splits.train)[0] == "train/0"


def test_another_revision_than_the_cached_one_is_refused_offline(tmp_path: Path) -> None:
    fill_hub_cache(tmp_path)
    assert f'holds commit {COMMIT}, not "v2"' in refused(TextData(source="me/films", revision="v2"))


def test_a_revision_of_a_local_source_is_refused(tmp_path: Path) -> None:
    assert "data.revision: only data sets on the Hub" in refused(text(write_csv(tmp_path / "d.csv", "abab"), revision="main"))


def test_another_kind_of_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.ods").write_bytes(b"x")
    assert '".ods" is not a kind of file' in refused(text(tmp_path / "data.ods"))
    assert "no table in" in refused(text(tmp_path))
    assert "no folder in" in refused(image(tmp_path))


# --- which split is which -----------------------------------------------------------------------------------------------------


def test_an_unknown_split_lists_those_there_are(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", "abab")
    write_csv(tmp_path / "test.csv", "ab")
    report = refused(text(tmp_path, train_split="trian", validation_split="held_out"))
    assert 'data.train_split: no split "trian". Did you mean "train"?' in report
    assert 'data.validation_split: no split "held_out".' in report
    assert "splits there are: test, train" in report


def test_two_kinds_of_file_or_two_names_for_one_split_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", "abab")
    write_parquet(tmp_path / "train.parquet", ["a", "b"])
    assert "which of train.csv, train.parquet?" in refused(text(tmp_path))
    (tmp_path / "train.parquet").rename(tmp_path / "val.parquet")
    write_csv(tmp_path / "dev.csv", "ab")
    assert "which of val, dev?" in refused(text(tmp_path))
    assert ids(load_splits(text(tmp_path, validation_split="dev"), seed=0).validation) == ["dev/0", "dev/1"]


def test_test_is_never_validation(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", "ab" * 10)
    write_csv(tmp_path / "test.csv", "abab")
    splits = load_splits(text(tmp_path), seed=0)
    assert ids(splits.test) == [f"test/{row}" for row in range(4)]
    assert all(id.startswith("train/") for id in ids(splits.validation))
    assert "one split has two roles" in refused(text(tmp_path, validation_split="test", test_split="test"))
    assert "makes none" in refused(text(tmp_path, validation_fraction=0))
    # Asked for by name the test split becomes validation, and then none is left to be reported as test.
    assert load_splits(text(tmp_path, validation_split="test"), seed=0).test is None


def test_a_test_split_without_labels_can_be_left_alone(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 10, names=["neg", "pos"])
    write_parquet(tmp_path / "test.parquet", [-1, -1], names=["neg", "pos"])
    report = refused(text(tmp_path))
    assert 'split "test": 2 rows with a label that is no class (-1): test/0, test/1' in report
    assert 'data.test_split="none"' in report
    splits = load_splits(text(tmp_path, test_split="none", test_fraction=0.2), seed=0)
    assert classes(splits.test) == {"neg": 2, "pos": 2}


# --- labels -------------------------------------------------------------------------------------------------------------------


def test_names_are_sorted_as_people_count() -> None:
    assert sorted(["10", "2", "0", "1"], key=natural_key) == ["0", "1", "2", "10"]
    assert sorted(["a10", "b1", "a2", "3", "a"], key=natural_key) == ["3", "a", "a2", "a10", "b1"]
    assert sorted(["1.5", "-1", "1.25"], key=natural_key) == ["-1", "1.25", "1.5"]


def test_eleven_numbered_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    splits = load_splits(text(write_parquet(tmp_path / "train.parquet", list(range(10, -1, -1)) * 3)), seed=0)
    assert splits.label_names == tuple(str(number) for number in range(11))
    rows = dict(zip(ids(splits.train), splits.train["label"][:], strict=True))
    assert all(label == 10 - int(id.removeprefix("train/")) % 11 for id, label in rows.items())


def test_zero_as_text_integer_and_float_is_one_class(tmp_path: Path) -> None:
    rows = [{"text": str(row), "label": label} for row, label in enumerate(("0", 0, 0.0, "0.0", " 0 ", 1, "1", 1.0))]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_parquet(tmp_path / "validation.parquet", [0.0, 1.0])
    splits = load_splits(text(tmp_path), seed=0)
    assert splits.label_names == ("0", "1")
    assert classes(splits.train) == {"0": 5, "1": 3}
    assert classes(splits.validation) == {"0": 1, "1": 1}


def test_a_class_label_keeps_its_own_order_and_classes_without_rows(tmp_path: Path) -> None:
    splits = load_splits(text(write_parquet(tmp_path / "train.parquet", [0, 2] * 5, names=["pos", "unused", "neg"])), seed=0)
    assert splits.label_names == ("pos", "unused", "neg")
    assert splits.train.features["label"].names == ["pos", "unused", "neg"]
    assert splits.facts["splits"]["train"]["per_class"]["unused"] == 0


def test_everything_wrong_with_all_splits_comes_in_one_report(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("txt,label\n" + "".join(f"t{n},{'' if n % 2 else 'a'}\n" for n in range(24)))
    (tmp_path / "validation.csv").write_text("text,lable\nt,a\n")
    (tmp_path / "test.jsonl").write_text('{"text": null, "label": "b"}\n{"text": "", "label": NaN}\n{"text": 3, "label": ["a"]}\n')
    report = refused(text(tmp_path))
    assert report.splitlines()[0].startswith("9 problems in")
    assert 'data.text_column: no column "text" in split "train". Did you mean "txt"?' in report
    assert "columns there are: txt, label" in report
    assert 'no column "label" in split "validation". Did you mean "lable"?' in report
    shown = ", ".join(f"train/{row}" for row in range(1, 20, 2))
    assert f'12 rows with a blank label (column "label"): {shown} and 2 more' in report
    assert 'split "test": 1 row with a blank label (column "label"): test/1' in report
    assert "1 row with no text: test/0" in report
    assert "1 row with no text but another type: test/2" in report
    assert "1 row with a label that is neither text nor a number: test/2" in report
    assert 'split "train": one class only, "a"' in report
    assert 'split "test": classes that train has no row of: b' in report


def test_labels_outside_the_label_map_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, -1, 2])
    assert "1 row with a label that is no class (-1): train/2" in refused(text(tmp_path))
    # datasets itself writes no such file: the label map is put over other numbers.
    features = Features({"text": Value("string"), "label": ClassLabel(names=["n", "p"])})
    metadata = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    table = pa.table({"text": ["a", "b", "c"], "label": pa.array([0, 1, 5], pa.int64())}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "train.parquet")
    assert "1 row with a label that is no class (5): train/2" in refused(text(tmp_path))


def test_a_class_that_train_lacks_is_refused_and_one_that_only_train_has_is_not(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", "abc" * 4)
    write_csv(tmp_path / "validation.csv", "ab")
    splits = load_splits(text(tmp_path), seed=0)
    assert splits.facts["splits"]["validation"]["per_class"] == {"a": 1, "b": 1, "c": 0}
    write_csv(tmp_path / "test.csv", "abd")
    assert 'split "test": classes that train has no row of: d' in refused(text(tmp_path))


def test_an_empty_text_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\n,a\nx,b\ny,a\nz,b\n")
    splits = load_splits(text(tmp_path / "d.csv", validation_fraction=0.5), seed=0)
    assert "" in splits.train["text"][:] + splits.validation["text"][:]


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("text,label\n")
    assert 'split "train": no rows' in refused(text(tmp_path / "d.csv"))


# --- dividing -----------------------------------------------------------------------------------------------------------------


def test_shares_are_exact_by_largest_remainder(tmp_path: Path) -> None:
    # 101 rows, 50 + 30 + 21; 10 % are 10; quotas 4.95, 2.97, 2.08, so 5, 3, 2.
    path = write_csv(tmp_path / "d.csv", "a" * 50 + "b" * 30 + "c" * 21)
    splits = load_splits(text(path), seed=0)
    assert classes(splits.validation) == {"a": 5, "b": 3, "c": 2}
    # 20 of the remaining 45 + 27 + 19 = 91: quotas 9.89, 5.93, 4.18, so 10, 6, 4.
    assert classes(load_splits(text(path, max_train_samples=20), seed=0).train) == {"a": 10, "b": 6, "c": 4}
    assert len(load_splits(text(path, max_validation_samples=3), seed=0).validation) == 3


def test_every_class_keeps_a_row_in_train(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv", "a" * 20 + "b" * 2 + "c")
    splits = load_splits(text(path, validation_fraction=0.9), seed=0)
    # 90 % of 23 are 20.7, so 21, but train keeps one row of each class: 19 + 1 + 0.
    assert classes(splits.validation) == {"a": 19, "b": 1}
    assert classes(splits.train) == {"a": 1, "b": 1, "c": 1}
    assert set(classes(load_splits(text(path, max_train_samples=3), seed=0).train)) == {"a", "b", "c"}
    assert "none can be set aside for validation" in refused(text(write_csv(tmp_path / "e.csv", "abc")))


def test_splits_are_deterministic_in_row_order_and_depend_on_the_seed(tmp_path: Path) -> None:
    data = text(write_csv(tmp_path / "d.csv", "ab" * 100), max_train_samples=50)
    first, again, other = load_splits(data, seed=3), load_splits(data, seed=3), load_splits(data, seed=4)
    for role in ("train", "validation"):
        rows = [int(id.removeprefix("train/")) for id in ids(getattr(first, role))]
        assert rows == sorted(rows)
        assert ids(getattr(first, role)) == ids(getattr(again, role))
        assert ids(getattr(first, role)) != ids(getattr(other, role))
    assert not set(ids(first.train)) & set(ids(first.validation))


def test_the_sealed_test_split_is_the_same_for_every_seed_and_every_validation_share(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "d.csv", "ab" * 50)

    def made(seed: int, **settings: Any) -> Splits:
        return load_splits(text(path, test_fraction=0.2, **settings), seed=seed)

    tests = [made(0), made(1), made(0, validation_fraction=0.5), made(2, max_train_samples=10)]
    assert len(ids(tests[0].test)) == 20
    assert all(ids(splits.test) == ids(tests[0].test) for splits in tests)
    for splits in tests:
        assert not set(ids(splits.test)) & {*ids(splits.train), *ids(splits.validation)}
    samples = [made(seed, max_test_samples=6) for seed in (0, 1)]
    assert ids(samples[0].test) == ids(samples[1].test)
    assert set(ids(samples[0].test)) < set(ids(tests[0].test))
    assert tests[0].facts["test"] == "made from train: 20 %, stratified, the same for every seed"
    assert tests[0].facts["validation"] == "made from train: 10 %, stratified, seed 0"
    # Shares are of the whole: 20 + 50 of 100, 30 are left to train on.
    assert [len(tests[2].train), len(tests[2].validation)] == [30, 50]
    assert "nothing of train is left" in refused(text(path, test_fraction=0.6, validation_fraction=0.4))


# --- pictures -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
def test_an_image_folder_is_read_by_split_and_class(validation: str, tmp_path: Path) -> None:
    counts = {"train/10": 3, "train/9": 2, f"{validation}/9": 1, f"{validation}/10": 1, "test/9": 2, "test/10": 1}
    root = write_pictures(tmp_path / "photos", counts)
    write_picture(root / "train" / "9" / "deeper" / "x.PNG")
    write_picture(root / "train" / "9" / ".hidden.jpg")
    (root / "train" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "9" / "notes.txt").write_text("x")
    (root / "README.md").write_text("x")
    splits = load_splits(image(root), seed=0)
    assert splits.label_names == ("9", "10")
    nines = ["train/9/0.jpg", "train/9/1.jpg", "train/9/deeper/x.PNG"]
    assert ids(splits.train) == [*(f"train/10/{number}.jpg" for number in range(3)), *nines]
    assert ids(splits.validation) == [f"{validation}/10/0.jpg", f"{validation}/9/0.jpg"]
    assert splits.train.column_names == ["id", "image", "label"]
    assert splits.train[0]["image"]["path"] == str(root / ids(splits.train)[0])
    assert splits.facts["ignored_files"] == {".md": 1, ".txt": 1}
    assert splits.facts["format"] == "image folder"


def test_class_folders_without_splits_are_train(tmp_path: Path) -> None:
    splits = load_splits(image(write_pictures(tmp_path, {"cat": 10, "dev": 10})), seed=0)
    assert splits.label_names == ("cat", "dev")
    assert classes(splits.validation) == {"cat": 1, "dev": 1}
    assert ids(splits.train)[0].startswith("cat/")
    assert 'no split "train"' in refused(image(write_pictures(tmp_path / "x", {"test/cat": 1, "val/cat": 1})))


def test_links_that_leave_the_folder_are_refused_and_others_followed(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "photos", {"cat": 4, "dog": 4})
    outside = write_picture(tmp_path / "elsewhere" / "secret.jpg")
    write_picture(root / ".kept" / "inside.jpg", seed=1)
    (root / "cat" / "inside.jpg").symlink_to(root / ".kept" / "inside.jpg")
    splits = load_splits(image(root), seed=0)
    assert "cat/inside.jpg" in [*ids(splits.train), *ids(splits.validation)]
    (root / "cat" / "file.jpg").symlink_to(outside)
    (root / "cat" / "folder").symlink_to(outside.parent)
    (root / "cat" / "up").symlink_to("../..")
    (root / "dog" / "circle").symlink_to(root / "dog")
    (root / "dog" / "self").symlink_to(root / "dog" / "self")
    (root / "dog" / "gone.jpg").symlink_to(root / "dog" / "absent.jpg")
    report = refused(image(root))
    assert report.splitlines()[0].startswith("6 problems in")
    for name in ("cat/file.jpg", "cat/folder", "cat/up"):
        assert f"{root / name}: a link that leaves the data folder" in report
    # From Python 3.13 on a link to itself leads nowhere, and before it could lead anywhere.
    assert re.search(rf"{re.escape(str(root / 'dog/self'))}: a link (that leaves the data folder|to nothing)", report)
    assert f"{root / 'dog/circle'}: a link to a folder that it lies in" in report
    assert f"{root / 'dog/gone.jpg'}: a link to nothing" in report


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    root = write_pictures(tmp_path, {"train/cat": 2, "train/dog": 2})
    (root / "train" / "bird").mkdir()
    assert f"{root / 'train' / 'bird'}: no picture in this class folder" in refused(image(root))


def break_pictures(root: Path) -> dict[str, str]:
    """Three pictures that cannot be read, by id, with what is said about each."""
    (root / "train/cat/empty.jpg").write_bytes(b"")
    (root / "train/dog/text.jpg").write_text("hot dog")
    whole = (root / "test/cat/0.jpg").read_bytes()
    (root / "test/cat/cut.jpg").write_bytes(whole[: len(whole) - 100])
    return {
        "train/cat/empty.jpg": "empty file",
        "train/dog/text.jpg": "not a picture",
        "test/cat/cut.jpg": "cannot be decoded: image file is truncated",
    }


def test_unreadable_pictures_are_all_listed(tmp_path: Path) -> None:
    root = write_pictures(tmp_path, {"train/cat": 10, "train/dog": 10, "test/cat": 2, "test/dog": 2})
    broken = break_pictures(root)
    report = refused(image(root))
    assert report.splitlines()[0].startswith("3 problems in")
    assert all(f"{id}: {why}" in report for id, why in broken.items())
    assert report.count("data.on_bad_image=skip") == 1


def test_skipped_pictures_leave_before_the_split_and_are_named_in_the_facts(tmp_path: Path) -> None:
    root = write_pictures(tmp_path, {"train/cat": 10, "train/dog": 10, "test/cat": 2, "test/dog": 2})
    clean = load_splits(image(root), seed=0)
    broken = break_pictures(root)
    splits = load_splits(image(root, on_bad_image="skip"), seed=0)
    assert {entry["id"] for entry in splits.facts["skipped"]} == set(broken)
    assert all(entry["why"].startswith(broken[entry["id"]]) for entry in splits.facts["skipped"])
    assert classes(splits.train) + classes(splits.validation) == {"cat": 10, "dog": 10}
    # The broken ones are no part of any count, so the division is that of the clean folder.
    assert [ids(splits.train), ids(splits.validation), ids(splits.test)] == [
        ids(clean.train),
        ids(clean.validation),
        ids(clean.test),
    ]
    assert splits.train.features["image"] == datasets.Image(decode=False)


def test_a_class_whose_pictures_are_all_unreadable_is_noticed(tmp_path: Path) -> None:
    root = write_pictures(tmp_path, {"cat": 3})
    (root / "dog").mkdir()
    (root / "dog" / "0.jpg").write_bytes(b"")
    assert 'one class only, "cat"' in refused(image(root, on_bad_image="skip"))


@pytest.mark.parametrize("kind", ["feature", "bytes", "paths", "csv"])
def test_pictures_in_tables_are_read_undecoded(kind: str, tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / "pictures" / f"{row}.png", seed=row) for row in range(8)]
    relative = [f"pictures/{path.name}" for path in paths]
    labels = ["cat", "dog"] * 4
    if kind == "feature":
        Dataset.from_dict({"photo": [str(path) for path in paths], "label": labels}).cast_column(
            "photo", datasets.Image()
        ).to_parquet(str(tmp_path / "train.parquet"))
    elif kind == "csv":
        (tmp_path / "train.csv").write_text(
            "photo,label\n" + "".join(f"{path},{label}\n" for path, label in zip(relative, labels, strict=True))
        )
    else:
        photo = [path.read_bytes() for path in paths] if kind == "bytes" else relative
        pq.write_table(pa.table({"photo": photo, "label": labels}), tmp_path / "train.parquet")
    splits = load_splits(image(tmp_path, image_column="photo", validation_fraction=0.25), seed=0)
    assert splits.train.features["image"] == datasets.Image(decode=False)
    for split in (splits.train, splits.validation):
        for row in split:
            stored = row["image"]
            content = Path(stored["path"]).read_bytes() if stored["bytes"] is None else stored["bytes"]
            assert content == paths[int(row["id"].removeprefix("train/"))].read_bytes()


def test_of_many_missing_pictures_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image,label\n" + "".join(f"img/{row}.png,{row % 2}\n" for row in range(3000)))
    said = refused(image(tmp_path)).splitlines()
    assert said[0] == f"3001 problems in {tmp_path}" and len(said) < 20  # one more: no class has a row left
    assert said[1] == f"  train/0, {tmp_path / 'img' / '0.png'}: cannot be opened: No such file or directory"
    assert said[11] == "  and 2,990 more: cannot be opened: No such file or directory"
    assert "data.on_bad_image=skip" in said[12]


def test_paths_that_windows_wrote_are_read_and_said(tmp_path: Path) -> None:
    for row in range(8):
        write_picture(tmp_path / "img" / f"{row}.png", seed=row)
    write_picture(tmp_path / "img\\odd.png", seed=9)  # on Linux a name like any other
    names = [f"img\\{row}.png" for row in range(8)] + ["img\\odd.png"]
    (tmp_path / "train.csv").write_text("image,label\n" + "".join(f"{name},{'ab'[row % 2]}\n" for row, name in enumerate(names)))
    splits = load_splits(image(tmp_path, validation_fraction=0.25), seed=0)
    assert len(splits.train) + len(splits.validation) == 9
    assert '8 paths of the split "train" with "\\" between folders, read as "/"' in splits.facts["remarks"]


def test_paths_in_a_table_stay_below_its_folder_and_null_pictures_are_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_picture(root / "a.png")
    write_picture(tmp_path / "outside.png")
    (root / "train.csv").write_text("image,label\na.png,cat\n../outside.png,dog\n/etc/hostname,dog\n")
    assert "2 rows with a path that leaves the data folder: train/1, train/2" in refused(image(root))
    (root / "train.csv").write_text("image,label\na.png,cat\n,dog\nb.png,dog\n")
    assert "1 row with no picture: train/1" in refused(image(root))
    (root / "train.csv").write_text("image,label\na.png,cat\na.png,dog\nb.png,dog\n")
    assert f"train/2, {root / 'b.png'}: cannot be opened: No such file or directory" in refused(image(root))
    (root / "train.csv").unlink()
    content = (root / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [content, None, content], "label": ["cat", "dog", "dog"]}), root / "train.parquet")
    assert "1 row with no picture: train/1" in refused(image(root))
    pq.write_table(pa.table({"image": [1, 2, 3], "label": ["cat", "dog", "dog"]}), root / "train.parquet")
    assert "expected an Image, bytes, or paths" in refused(image(root))


def test_unusual_pictures_are_noted(tmp_path: Path) -> None:
    root = write_pictures(tmp_path, {"cat": 4, "dog": 4})
    Image.new("RGB", (400, 10)).save(root / "cat" / "ribbon.png")
    splits = load_splits(image(root), seed=0)
    assert splits.facts["notes"] == [
        {
            "id": "cat/ribbon.png",
            "kind": "very long and narrow: little of it is left in a square",
            "note": "400 x 10 pixels: little of it is left in a square",
        }
    ]


# --- real data ----------------------------------------------------------------------------------------------------------------


def test_real_photos_and_reviews_are_loaded(shared: Path) -> None:
    photos = load_splits(image(shared / "data" / "hymenoptera"), seed=0)
    assert photos.label_names == ("ants", "bees")
    assert (len(photos.train), len(photos.validation), len(photos.test or [])) == (220, 24, 153)
    questions = load_splits(text(shared / "data" / "trec", on_duplicate="keep"), seed=0)
    assert questions.label_names == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    assert (len(questions.train), len(questions.validation), len(questions.test or [])) == (4907, 545, 500)
    json.dumps(photos.facts, allow_nan=False)


# --- a million rows -----------------------------------------------------------------------------------------------------------


def test_reading_takes_no_python_object_for_a_row(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        source = write_parquet(tmp_path / str(rows) / "train.parquet", ["ab"[row % 2] for row in range(rows)])
        tracemalloc.start()
        try:
            load_splits(text(source.parent), seed=0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2_000)  # imports
    # Numbers of rows, classes and contents of 4 bytes, some of 8 for a moment; ids and order are on disk. A str alone takes 60.
    assert (peak(30_000) - peak(10_000)) / 20_000 < 60


def test_names_of_rows_are_made_when_they_are_asked_for() -> None:
    names = Strings.of_rows("train", 10_003)
    assert (len(names), names[0], names[-1], names[10_001]) == (10_003, "train/0", "train/10002", "train/10001")
    assert names[9_999:10_001] == ["train/9999", "train/10000"]
    assert list(names) == names.to_arrow().to_pylist() == [f"train/{row}" for row in range(10_003)]
    assert list(Strings.of_rows("train", 0)) == []


def test_picked_rows_are_those_that_select_gives() -> None:
    whole = Dataset.from_dict({"id": [f"train/{row}" for row in range(10)], "label": [row % 3 for row in range(10)]})
    some = pick(whole, np.array([1, 4, 6, 9]))
    again = pick(some, np.array([0, 3]))
    assert some[:] == whole.select([1, 4, 6, 9])[:] and again[:] == whole.select([1, 9])[:]
    assert list(Strings(again, "id")) == ["train/1", "train/9"] and Strings(again, "id")[1] == "train/9"
    assert integers(some, "label").tolist() == [1, 1, 0, 0]
    assert pick(whole, np.arange(10)) is whole and len(pick(whole, np.arange(0))) == 0
    # Tokens are found again by the fingerprint: equal for the same rows, another for others.
    assert pick(whole, np.array([1, 4, 6, 9]))._fingerprint == some._fingerprint
    assert len({data._fingerprint for data in (whole, some, again, pick(whole, np.array([0, 3])))}) == 4


def test_labels_that_look_different_stay_apart_and_equal_ones_are_held_once() -> None:
    labels = Labels.of([1, 1.0, True, "1", None, "1", [1], 1])
    assert labels.values == [1, 1.0, True, "1", None, [1]]
    assert labels.codes.tolist() == [0, 1, 2, 3, 4, 3, 5, 0] and labels[5] == "1"
    chunks = pa.chunked_array([["b", None], ["a", "b"]])
    assert [Labels.of_arrow(chunks)[row] for row in range(4)] == ["b", None, "a", "b"]
    assert Labels.of_arrow(chunks).values == ["b", None, "a"]
    assert Labels.of_arrow(pa.chunked_array([[[1], [2], [1]]])).codes.tolist() == [0, 1, 0]
    assert Labels.of_arrow(pa.chunked_array([], pa.string())).values == []


@pytest.mark.parametrize("at_once", [1, 2, 10_000])
def test_contents_are_one_only_where_all_of_the_fingerprint_is(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.data.columns.BATCH", at_once)
    train = np.array([[7, 1], [7, 2], [0, 0], [7, 1], [0, 1]], dtype=np.uint64)
    test = np.array([[7, 2], [8, 1]], dtype=np.uint64)
    numbers = number_contents({"train": train, "test": test})
    assert numbers["train"][2] == -1  # nothing
    assert numbers["train"][0] == numbers["train"][3] and numbers["train"][1] == numbers["test"][0]
    assert len({*numbers["train"].tolist(), *numbers["test"].tolist()}) == 5
    assert [rows.tolist() for rows in repeated(np.array([3, -1, 0, 3, -1, 0, 2, 3]))] == [[0, 3, 7], [2, 5]]
    assert repeated(np.array([-1, -1])) == []
    assert first_rows(np.array([3, -1, 0, 3, -1, 0, 2, 3]), 4).tolist() == [2, -1, 6, 0]
    assert first_rows(np.array([-1, -1]), 0).tolist() == []


@pytest.mark.parametrize("at_once", [1, 2, 10_000])
def test_columns_in_a_file_without_a_name_are_read_as_they_were_written(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hftl.data.columns.BATCH", at_once)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    numbers = np.arange(5, dtype=np.int32)
    before = pa.total_allocated_bytes()
    table = on_disk("label", pa.int64(), (pa.array(some, pa.int64()) for some in blocks(numbers)))
    assert table.column("label").to_pylist() == [0, 1, 2, 3, 4]
    assert pa.total_allocated_bytes() == before  # it is not in memory
    assert len(on_disk("label", pa.int64(), blocks(numbers[:0]))) == 0
    kept = array_on_disk((5,), np.int32)
    assert isinstance(kept, np.memmap) and kept.tolist() == [0] * 5
    assert array_on_disk((2, 0), np.int32).shape == (2, 0)
    assert not list(tmp_path.iterdir())  # and it has no name that a killed run could leave


def test_a_full_folder_for_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.posix_fallocate", full)  # a file system of a few bytes needs root to make
    with pytest.raises(DataError, match=r"TMPDIR: 0 MB are needed there .* No space left on device"):
        array_on_disk((5,), np.int32)
    monkeypatch.setattr("pyarrow.ipc.RecordBatchFileWriter.write_batch", full)
    with pytest.raises(DataError, match=r"TMPDIR: the ids, labels and order .* No space left on device"):
        on_disk("label", pa.int64(), [pa.array([1])])
