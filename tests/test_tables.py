"""Tables as programs write them: packed, in other encodings, with other separators, JSON of every shape, workbooks of Excel."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hftl.data.audit import audit_splits
from hftl.data.encoding import read_text
from hftl.data.layout import table_ending
from hftl.data.source import Splits, load_splits
from hftl.data.tables import read_columns
from hftl.errors import DataError, Problem, RecipeError
from hftl.recipe import TextData

ROWS = [{"text": f"text {number}, good", "label": "ab"[number % 2]} for number in range(8)]
CSV = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)


def text(source: Path, **settings: Any) -> TextData:
    return TextData(source=str(source), **{"validation_fraction": 0.25, **settings})


def refused(data: TextData) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(data, seed=0)
    return str(caught.value)


def rows_of(splits: Splits) -> list[tuple[str, str]]:
    """(text, class) of all rows, in the order of their numbers."""
    rows = [row for split in (splits.train, splits.validation) for row in split]
    return [(row["text"], splits.label_names[row["label"]]) for row in sorted(rows, key=lambda row: int(row["id"].split("/")[1]))]


EXPECTED = [(row["text"], row["label"]) for row in ROWS]


def zstd(content: bytes) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as packed:
        packed.write(content)
    return bytes(stream.getvalue())


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstd), (".xz", lzma.compress)]
)
def test_packed_tables_are_read_as_what_is_in_them(ending: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name, content in (
        ("train.csv", CSV),
        ("train.tsv", CSV.replace('",', '"\t').replace("text,", "text\t")),
        ("a.jsonl", lines),
    ):
        (tmp_path / (name + ending)).write_bytes(pack(content.encode()))
        splits = load_splits(text(tmp_path / (name + ending)), seed=0)
        assert rows_of(splits) == EXPECTED
        assert splits.facts["format"] == name.rpartition(".")[2]
        assert read_columns(tmp_path / (name + ending)) == ["text", "label"]
    (tmp_path / f"a.jsonl{ending}").unlink()
    (tmp_path / f"train.tsv{ending}").unlink()
    (tmp_path / f"test.csv{ending}").write_bytes(pack(CSV.replace("text ", "test ").encode()))
    assert load_splits(text(tmp_path), seed=0).facts["splits"]["test"]["n"] == 8
    (tmp_path / f"test.csv{ending}").write_bytes(pack(CSV.encode())[:-9])
    assert f"test.csv{ending}: cannot be unpacked: " in refused(text(tmp_path)) or ending == ".zst"


def test_the_kind_of_a_table_is_its_ending_but_for_that_of_the_packing() -> None:
    names = ["a.CSV", "a.csv.gz", "a.b.TSV.zst", "x.ndjson", "x.jsonl.bz2", "x.json", "x.parquet", "x.xlsx"]
    assert [table_ending(name) for name in names] == [".csv", ".csv", ".tsv", ".jsonl", ".jsonl", ".json", ".parquet", ".xlsx"]
    assert [table_ending(name) for name in ("csv", "a.gz", "a.parquet.gz", "a.txt", "a.csv.7z")] == [None] * 5


def test_what_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.data.encoding._ALWAYS_UNPACKED", 1000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\n" + b"a,b\n" * 10_000))
    problems: list[Problem] = []
    assert read_text(tmp_path / "a.csv.gz", problems) is None
    assert "packed ones, which no table is" in problems[0].what


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name in ("train.csv", "train.parquet"):
        (tmp_path / name).write_text(pointer)
        report = refused(text(tmp_path / name))
        assert f"{tmp_path / name}: a pointer of Git LFS" in report and "git lfs pull" in report


# --- encodings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_read_and_said(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(CSV.replace("good", "gut, schön, 好"), encoding=encoding)
    splits = load_splits(text(file), seed=0)
    assert rows_of(splits) == [(said.replace("good", "gut, schön, 好"), label) for said, label in EXPECTED]
    assert splits.facts["remarks"] == ["train.csv is read as UTF-16"]


def test_another_encoding_is_refused_with_what_the_file_would_say_and_read_where_the_recipe_names_it(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(CSV.replace("good", "café"), encoding="cp1252")
    report = refused(text(file))
    assert f"{file}, line 2, byte 23: not UTF-8: save the file as UTF-8" in report
    assert "data.encoding=cp1252 reads: " in report and "text 0, café" in report
    assert "data.encoding=cp1251 reads: " in report and "cafй" in report
    assert rows_of(load_splits(text(file, encoding="cp1252"), seed=0))[0] == ("text 0, café", "a")
    (tmp_path / "train.jsonl").write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode("utf-16-le"))
    assert rows_of(load_splits(text(tmp_path / "train.jsonl", encoding="utf-16-le"), seed=0)) == EXPECTED
    file.write_bytes(b"text,label\n\xff,a\n")
    assert "byte 11 is not ascii" in refused(text(file, encoding="ascii"))
    with pytest.raises(RecipeError, match='"latin-17" is no encoding that Python knows'):
        text(file, encoding="latin-17")


# --- separators and headers ---------------------------------------------------------------------------------------------------


def test_the_recipe_may_name_the_separator(tmp_path: Path) -> None:
    for delimiter, letter in (("~", "~"), ("tab", "\t"), (";", ";")):
        (tmp_path / "a.csv").write_text("text,x" + letter + "label\n" + "".join(f"a {n}, b{letter}{n % 2}\n" for n in range(8)))
        splits = load_splits(text(tmp_path / "a.csv", delimiter=delimiter, text_column="text,x"), seed=0)
        assert rows_of(splits)[1] == ("a 1, b", "1")
    with pytest.raises(RecipeError, match=r"delimiter: string should match"):
        text(tmp_path, delimiter="||")


def test_columns_without_a_name_are_none_and_a_name_twice_matters_where_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "spam.csv"
    file.write_text("v1,v2,,,\n" + "".join(f"{'ham' if n % 2 else 'spam'},text {n},,,\n" for n in range(8)))
    splits = load_splits(text(file, text_column="v2", label_column="v1"), seed=0)
    assert splits.label_names == ("ham", "spam") and rows_of(splits)[3] == ("text 3", "ham")
    assert 'no column "text" in split "train".' in refused(text(file)) and "columns there are: v1, v2\n" in refused(text(file))
    file.write_text(",text,label,x,x\n" + "".join(f"{n},text {n},{n % 2},,\n" for n in range(8)))  # as pandas writes its index
    assert rows_of(load_splits(text(file), seed=0))[3] == ("text 3", "1")
    assert "two columns of one name" in refused(text(file, label_column="x"))


def test_a_column_is_found_with_spaces_around_its_name(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id, text , label\n" + "".join(f"{n},text {n}, {n % 2}\n" for n in range(8)))
    assert rows_of(load_splits(text(file), seed=0))[3] == ("text 3", "1")
    assert rows_of(load_splits(text(file, text_column=" text "), seed=0))[3] == ("text 3", "1")
    file.write_text("text ,text,label\n" + "".join(f"other,text {n},{n % 2}\n" for n in range(8)))
    assert rows_of(load_splits(text(file), seed=0))[3] == ("text 3", "1")
    file.write_text("text , text,label\n" + "".join(f"other,text {n},{n % 2}\n" for n in range(8)))
    assert 'no column "text"' in refused(text(file))


# --- JSON ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("a.ndjson", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("a.jsonl", json.dumps(ROWS, indent=1)),
        ("a.json", json.dumps({key: [row[key] for row in ROWS] for key in ("text", "label")})),
        ("a.json", json.dumps({key: {str(n): row[key] for n, row in enumerate(ROWS)} for key in ("text", "label")})),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
    ],
    ids=["a list", "lines in .json", ".ndjson", "a list in .jsonl", "columns", "pandas' default", "a list inside"],
)
def test_json_is_read_by_what_it_holds(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    splits = load_splits(text(tmp_path / name), seed=0)
    assert rows_of(splits) == EXPECTED
    assert splits.facts["remarks"] == (['the rows of a.json are the list "data" in it'] if "version" in content else [])


# --- Excel --------------------------------------------------------------------------------------------------------------------


def test_a_workbook_without_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "train.xlsx").write_bytes(b"PK")
    report = refused(text(tmp_path / "train.xlsx"))
    assert "an Excel workbook, which needs openpyxl" in report and "pip install 'hftl[excel]'" in report


@pytest.mark.skipif(importlib.util.find_spec("openpyxl") is None, reason="needs the extra excel")
def test_a_workbook_is_read_as_the_csv_that_excel_makes_of_it(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["text", "label", None])
    for number in range(8):
        book.active.append([2000 + number, number % 2 == 0] if number < 2 else [f"text {number}", float(number % 2)])
    book.active.append([None, None])
    book.create_sheet("notes")
    book.save(tmp_path / "train.xlsx")
    splits = load_splits(text(tmp_path / "train.xlsx", validation_fraction=0.5), seed=0)
    assert rows_of(splits)[:3] == [("2000", "TRUE"), ("2001", "FALSE"), ("text 2", "0")] and len(rows_of(splits)) == 8
    assert splits.facts["remarks"] == ['train.xlsx is read by its first sheet, "Sheet"; not used: notes']
    (tmp_path / "train.xlsx").write_bytes(b"PK")
    assert "cannot be read as an Excel workbook" in refused(text(tmp_path / "train.xlsx"))


# --- labels, ids, splits ------------------------------------------------------------------------------------------------------


def write(file: Path, header: str, lines: list[str]) -> Path:
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


@pytest.mark.parametrize("labels", [(-1, 0, 1), (-1, 1), (-2, -1, 0, 1, 2)])
def test_whole_numbers_on_both_sides_of_zero_are_classes_and_that_is_said(labels: tuple[int, ...], tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "text,label", [f"text {n},{labels[n % len(labels)]}" for n in range(20)])
    splits = load_splits(text(file), seed=0)
    assert splits.label_names == tuple(map(str, labels))
    assert splits.facts["remarks"][0].startswith(f"the labels {', '.join(map(str, labels))} are read as classes; where -1 means")


def test_rows_without_a_label_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    marks = ["a", "b", "", "nan", "a", "b", "a", "b", "a", "b"]
    file = write(tmp_path / "a.csv", "text,label", [f"text {n},{mark}" for n, mark in enumerate(marks)])
    report = refused(text(file))
    assert '2 rows with a blank label (column "label"): train/2, train/3' in report and "data.on_blank_label=skip" in report
    splits = load_splits(text(file, on_blank_label="skip"), seed=0)
    assert [row for row in rows_of(splits) if row[0] in ("text 2", "text 3")] == [] and len(rows_of(splits)) == 8
    assert splits.facts["skipped"] == [
        {"id": f"train/{n}", "split": "train", "kind": "no label", "why": "no label"} for n in (2, 3)
    ]
    assert "left out: 2 (no label)" in audit_splits(splits).lines()
    numbers = [0, 1, 2, -1, 0, 1, 2, 0, 1, 2]
    file = write(tmp_path / "a.csv", "text,label", [f"text {n},{mark}" for n, mark in enumerate(numbers)])
    assert "1 row with a label that is no class (-1): train/3" in refused(text(file))
    assert load_splits(text(file, on_blank_label="skip"), seed=0).label_names == ("0", "1", "2")
    write(tmp_path / "a.csv", "text,label", ["text 1,", "text 2,"])
    assert "2 rows is left" in refused(text(file, on_blank_label="skip"))


def test_rows_are_called_by_the_column_of_their_ids(tmp_path: Path) -> None:
    lines = [f"r{n},text {n},{n % 2}" for n in range(8)]
    file = write(tmp_path / "train.csv", "id,text,label", lines)
    splits = load_splits(text(file, id_column="id"), seed=0)
    assert sorted([*splits.train["id"], *splits.validation["id"]]) == [f"r{n}" for n in range(8)]
    assert splits.train["id"][:] == [f"r{said.split()[1]}" for said in splits.train["text"]]
    table = pa.table({"id": list(range(8)), "text": [f"text {n}" for n in range(8)], "label": [n % 2 for n in range(8)]})
    pq.write_table(table, tmp_path / "a.parquet")
    parquet = load_splits(text(tmp_path / "a.parquet", id_column="id"), seed=0)
    assert parquet.train["id"][:] == [said.split()[1] for said in parquet.train["text"]]
    write(file, "id,text,label,split", [f"r{n},text {n},{n % 2},{'test' if n > 5 else 'train'}" for n in range(8)])
    assert load_splits(text(file, id_column="id"), seed=0).facts["splits"]["test"]["n"] == 2
    write(file, "id,text,label", [*lines, "r3,text 9,1", ",text 10,0"])
    assert '1 row with nothing in the column "id": train/9' in refused(text(file, id_column="id"))
    write(file, "id,text,label", [*lines, "r3,text 9,1"])
    assert '1 row with an id in the column "id" that another row has (r3): train/8' in refused(text(file, id_column="id"))
    assert 'data.id_column: no column "ids"' in refused(text(file, id_column="ids"))


@pytest.mark.parametrize("yes", ["True", "1", "true"])
def test_a_column_is_valid_divides_the_table(yes: str, tmp_path: Path) -> None:
    no = {"True": "False", "1": "0", "true": "false"}[yes]
    file = write(tmp_path / "a.csv", "text,label,is_valid", [f"text {n},{n % 2},{yes if n < 4 else no}" for n in range(12)])
    splits = load_splits(text(file), seed=0)
    assert {role: found["n"] for role, found in splits.facts["splits"].items()} == {"train": 8, "validation": 4}
    assert splits.facts["split_column"] == "is_valid"
    file = write(tmp_path / "a.csv", "text,label,is_valid,is_test", [f"text {n},{n % 2},{yes},{no}" for n in range(12)])
    assert "each of the columns is_valid, is_test divides the rows" in refused(text(file))
