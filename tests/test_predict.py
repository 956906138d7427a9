"""Predicting mirrors training: the columns of the run or named ones, tables in and tables out, a block at a time."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Hftl
from PIL import Image
from small import encoded, noise, write_picture
from small_models import tiny_bert, write_resnet

import hftl as door
from hftl import inference
from hftl.data.beside import with_columns
from hftl.data.tables import open_rows
from hftl.data.text import Texts
from hftl.errors import DataError
from hftl.inference import Predictor

TEXTS = [f"a fine film, number {row}" for row in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of texts of random weights, which no run knows."""
    return tiny_bert(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def run(folder: Path) -> door.Run:
    return door.load(folder)


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return list(pq.read_table(path).to_pylist())


# --- tables -------------------------------------------------------------------------------------------------------------------


def test_ids_and_other_columns_of_a_csv_are_kept_as_they_stand(run: door.Run, tmp_path: Path) -> None:
    """A negative number is no formula; a column "label" of the table is its own, and the model's has another name."""
    with (tmp_path / "new.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["id", "text", "label", "note"], ["-7", TEXTS[0], "yes", "=1+1"], ["007", TEXTS[1], "", 'a "quoted", note']]
        )
    assert run.predict_to(tmp_path / "out.csv", tmp_path / "new.csv") == 2
    one, other = rows_of(tmp_path / "out.csv")
    assert list(one) == ["input", "id", "text", "label", "note", "predicted label", "probability", "p(LABEL_0)", "p(LABEL_1)"]
    assert (one["id"], one["label"], one["note"]) == ("-7", "yes", "'=1+1")
    assert (other["id"], other["label"], other["note"]) == ("007", "", 'a "quoted", note')
    expected = run.predict(TEXTS[:2])
    assert [row["predicted label"] for row in (one, other)] == [answer.label for answer in expected]
    assert float(one["p(LABEL_0)"]) == pytest.approx(expected[0].probabilities["LABEL_0"], abs=1e-6)


def test_parquet_keeps_its_types_and_jsonl_its_values(run: door.Run, tmp_path: Path) -> None:
    when = pd.Timestamp("2026-11-30 12:00")
    table = pa.table(
        {
            "n": pa.array([1, None], pa.int16()),
            "text": TEXTS[:2],
            "at": pa.array([when, when], pa.timestamp("ms")),
            "tags": pa.array([["a"], []], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "new.parquet")
    run.predict_to(tmp_path / "out.parquet", tmp_path / "new.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.select(table.column_names).equals(table)
    assert written.column_names[-4:] == ["label", "probability", "p(LABEL_0)", "p(LABEL_1)"]
    lines = [{"n": 1, "text": TEXTS[0], "deep": {"a": [1, 2.5]}}, {"text": TEXTS[1], "n": "two", "deep": None}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.predict_to(tmp_path / "out.jsonl", tmp_path / "new.jsonl")
    assert [{name: row[name] for name in ("n", "text", "deep")} for row in rows_of(tmp_path / "out.jsonl")] == lines
    run.predict_to(tmp_path / "mixed.parquet", tmp_path / "new.jsonl")
    assert [row["n"] for row in rows_of(tmp_path / "mixed.parquet")] == ["1", "two"]
    assert rows_of(tmp_path / "mixed.parquet")[0]["deep"] == {"a": [1.0, 2.5]}


def test_several_tables_and_texts_are_one_table(run: door.Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,text\n1,{TEXTS[0].replace(',', '')}\n")
    pq.write_table(pa.table({"text": TEXTS[1:2], "id": [2]}), tmp_path / "b.parquet")
    run.predict_to(tmp_path / "out.parquet", [tmp_path / "a.csv", "a text alone", tmp_path / "b.parquet"])
    assert [row["id"] for row in rows_of(tmp_path / "out.parquet")] == ["1", None, "2"]
    assert run.predict([tmp_path / "b.parquet"])[0].row == {"text": TEXTS[1], "id": 2}


def test_a_table_is_read_as_the_runs_recipe_says(folder: Path, tmp_path: Path) -> None:
    """Encoding and delimiter are those of training."""
    own = Predictor(folder)
    own.content = Texts(door.TextData(source="x", encoding="cp1252", delimiter="^", max_length=16))
    (tmp_path / "new.csv").write_bytes("id^text\n1^café\n".encode("cp1252"))
    [answer] = own.predict([tmp_path / "new.csv"])
    assert answer.input == "café" and answer.row == {"id": "1", "text": "café"}


def test_columns_may_be_named(hftl: Hftl, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("id,title,text\n1,good,bad\n")
    outcome = hftl("predict", folder, tmp_path / "new.csv", "--text-column", "title", "--output", tmp_path / "out.csv")
    assert outcome.code == 0 and "1 prediction in" in outcome.out
    [row] = rows_of(tmp_path / "out.csv")
    assert (row["input"], row["text"]) == ("good", "bad")
    refused = hftl("predict", folder, tmp_path / "new.csv", "--text-column", "titel")
    assert refused.code == 2 and 'no column "titel"; columns: id, title, text' in refused.err
    assert "another name: --text-column NAME" in refused.err
    two = hftl("predict", folder, tmp_path / "new.csv", "--text-column", "id", "--text-column", "title")
    assert two.code == 2 and "--text-column: 2 columns named, and the model reads 1: text" in two.err
    pictures = hftl("predict", folder, tmp_path / "new.csv", "--on-bad-image", "skip")
    assert pictures.code == 2 and "--on-bad-image: the model reads texts; leave it out" in pictures.err


def test_everything_is_looked_at_before_anything_is_computed(
    run: door.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "answer", lambda *_, **__: pytest.fail("computed"))
    pq.write_table(pa.table({"text": [*TEXTS, None]}), tmp_path / "new.parquet")
    with pytest.raises(DataError, match="1 row without a text: 7"):
        run.predict_to(tmp_path / "out.csv", [tmp_path / "new.parquet", *TEXTS])
    assert not (tmp_path / "out.csv").exists()


def test_blocks_are_answered_as_the_whole_and_say_how_far_they_are(
    run: door.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """7 rows in blocks of 3: after 3 and after 6 there is something to say, after 7 nothing."""
    expected = run.predict(TEXTS)
    pq.write_table(pa.table({"text": TEXTS, "n": range(7)}), tmp_path / "new.parquet")
    table = open_rows(tmp_path / "new.parquet", [["text"]], door.TextData(source="x"), at_once=3)
    assert [len(block) for block in table.blocks()] == [3, 3, 1]
    monkeypatch.setattr(Texts, "rows_at_once", 3)
    monkeypatch.setattr(inference, "SILENT", 0.0)
    said: list[str] = []
    answers = run.predict(tmp_path / "new.parquet", output=tmp_path / "out.jsonl", say=said.append)
    assert [line.partition(" predicted")[0] for line in said] == ["3 of 7", "6 of 7"]
    assert [row["n"] for row in rows_of(tmp_path / "out.jsonl")] == list(range(7))
    for one, other in zip(answers, expected, strict=True):
        assert one.input == other.input and one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


@pytest.mark.slow
def test_two_processes_write_one_table(folder: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS, "n": range(7)}), tmp_path / "new.parquet")
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "hftl"]
    arguments = ["predict", str(folder), str(tmp_path / "new.parquet"), "--output", str(tmp_path / "out.parquet")]
    done = subprocess.run([sys.executable, *launch, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("7 predictions in") == 1
    rows = rows_of(tmp_path / "out.parquet")
    expected = Predictor(folder).predict(TEXTS)
    assert [row["n"] for row in rows] == list(range(7))
    assert [row["p(LABEL_0)"] for row in rows] == pytest.approx([one.probabilities["LABEL_0"] for one in expected], abs=1e-5)


# --- pictures -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> door.Run:
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(0)
    write_resnet(folder)
    return door.load(folder)


def test_pictures_that_cannot_be_read_may_be_left_out_and_are_counted(pictures: door.Run, tmp_path: Path) -> None:
    for number in range(2):
        write_picture(tmp_path / f"{number}.png", seed=number)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "new.csv").write_text("id,image\na,0.png\nb,empty.png\nc,nowhere.png\nd,1.png\ne,\n")
    with pytest.raises(DataError) as caught:
        pictures.predict(tmp_path / "new.csv")
    refused = ("empty.png: ", "nowhere.png: ", "new.csv: 1 row without the path of a picture: 4")
    assert all(words in str(caught.value) for words in refused)
    with pytest.raises(DataError, match="--image-column: 2 columns named, and a picture is in one"):
        pictures.predict(tmp_path / "new.csv", columns=["id", "image"])
    said: list[str] = []
    answers = pictures.predict(tmp_path / "new.csv", output=tmp_path / "out.csv", on_bad_image="skip", say=said.append)
    assert [answer.row["id"] for answer in answers if answer.row is not None] == ["a", "d"]
    assert [row["id"] for row in rows_of(tmp_path / "out.csv")] == ["a", "d"]
    assert len(said) == 1 and said[0].startswith("left out 3 pictures that cannot be read: ") and "nowhere.png" in said[0]
    with pytest.raises(DataError, match="nothing to predict"):
        pictures.predict(tmp_path / "empty.png", on_bad_image="skip")


def test_a_parquet_table_may_hold_its_pictures(pictures: door.Run, tmp_path: Path) -> None:
    shots = [noise(seed, 48, 48) for seed in range(2)]
    stored = [{"bytes": encoded(shot, "PNG"), "path": f"{number}.png"} for number, shot in enumerate(shots)]
    pq.write_table(pa.table({"photo": stored, "id": [5, 6]}), tmp_path / "new.parquet")
    answers = pictures.predict(tmp_path / "new.parquet", columns="photo", output=tmp_path / "out.parquet")
    expected = pictures.predict([Image.open(tmp_path / name) for name in _saved(shots, tmp_path)])
    assert [one.probabilities for one in answers] == [pytest.approx(one.probabilities, abs=1e-6) for one in expected]
    written = pq.read_table(tmp_path / "out.parquet")
    assert written["id"].to_pylist() == [5, 6] and written["input"].to_pylist() == ["0.png", "1.png"]
    assert "photo" not in written.column_names  # bytes are the content, and none of the columns beside it


def _saved(shots: list[Image.Image], folder: Path) -> list[str]:
    for number, shot in enumerate(shots):
        shot.save(folder / f"saved-{number}.png")
    return [f"saved-{number}.png" for number in range(len(shots))]


# --- a run's own predictions beside the table of its rows -----------------------------------------------------------------------


def own_predictions(*ids: str) -> pd.DataFrame:
    return pd.DataFrame({"id": ids, "label": ["neg", "pos", "neg"], "prediction": ["neg", "neg", "pos"], "p(pos)": [0.1, 0.4, 0.9]})


def test_other_columns_stand_beside_a_runs_own_predictions_by_row_and_by_id(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"text": list("abcde"), "label": ["pos", "neg", "neg", "pos", "neg"], "who": [*"vwxyz"], "key": [11, 12, 13, 14, 15]}
    )
    table.to_csv(tmp_path / "train.csv", index=False)
    data = door.TextData(source=str(tmp_path / "train.csv"))
    # Rows 4, 3 and 1 of train: their labels are those of the predictions.
    by_row = with_columns(own_predictions("train/4", "train/3", "train/1"), tmp_path / "train.csv", data)
    assert list(by_row) == ["id", "text", "label", "who", "key", "predicted label", "prediction", "p(pos)"]
    assert by_row["who"].tolist() == ["z", "y", "w"] and by_row["prediction"].tolist() == ["neg", "neg", "pos"]
    named = door.TextData(source="x", id_column="key")
    by_id = with_columns(own_predictions("15", "14", "12"), table, named)
    assert by_id["id"].tolist() == ["15", "14", "12"] and by_id["who"].tolist() == ["z", "y", "w"] and "key" not in by_id
    for rows, own, message in (
        (table, ("train/4", "train/3", "train/9"), "beside: no rows for train/9"),
        (table, ("train/3", "train/4", "train/1"), "another label than the run has read for train/3, train/4"),
        (table, ("a/1.png", "a/2.png", "b/3.png"), "calls its examples by their files"),
        (tmp_path / "none.csv", ("train/4", "train/3", "train/1"), "cannot be read: No such file"),
    ):
        with pytest.raises(DataError, match=message):
            with_columns(own_predictions(*own), rows, data)
    with pytest.raises(DataError, match="ids that several rows have: 11"):
        with_columns(own_predictions("15", "14", "12"), table.replace({"key": {12: 11}}), named)
    with pytest.raises(DataError, match='no column "key"'):
        with_columns(own_predictions("15", "14", "12"), table.drop(columns="key"), named)
