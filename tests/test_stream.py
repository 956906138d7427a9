"""data.stream_samples: datasets' own streaming client against the Hub of hub_server.py; only the rows taken stay on disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Image, Value
from datasets.arrow_writer import ArrowWriter
from hub_server import LocalHub
from PIL import Image as Pillow

from hftl.data import hub as reading
from hftl.data.image import Pictures
from hftl.data.source import load_splits
from hftl.data.text import Texts
from hftl.errors import DataError
from hftl.recipe import ImageData, TextData

FEATURES = Features({"text": Value("string"), "extra": Value("string"), "label": ClassLabel(names=["neg", "pos"])})


@pytest.fixture(autouse=True)
def cache(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of datasets, and datasets pointed at the Hub of the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Texts, "stream_buffer", 20)
    monkeypatch.setattr(Pictures, "stream_buffer", 8)
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 1)  # of 20, every 5 s
    monkeypatch.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    return tmp_path / "cache"


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=10)
    return sink.getvalue()


def films(split: str, start: int, count: int) -> bytes:
    """Rows that tell where they stood, with the labels 0, 1, 0, ..."""
    rows = range(start, start + count)
    columns = {"text": [f"{split} film {row}" for row in rows], "extra": ["x" * 100] * count, "label": [row % 2 for row in rows]}
    return parquet(pa.table(columns, schema=FEATURES.arrow_schema))


def add_films(hub: LocalHub) -> str:
    """Two shards of train with 100 rows each, and a test split of 12; its commit."""
    shards = {f"data/train-0000{shard}-of-00002.parquet": films("train", 100 * shard, 100) for shard in range(2)}
    repo = hub.add_repo("datasets/me/films", {**shards, "data/test-00000-of-00001.parquet": films("test", 0, 12)})
    return repo.commits[-1].sha


def data(**settings: Any) -> TextData:
    return TextData(**{"source": "me/films", "stream_samples": 30, **settings})


def contents(run_data: TextData, *, seed: int = 0) -> dict[str, list[str]]:
    splits = load_splits(run_data, seed=seed)
    assert splits.test is not None
    return {
        "given": sorted(splits.train["text"][:] + splits.validation["text"][:], key=lambda text: int(text.split()[-1])),
        "test": splits.test["text"][:],
    }


def arrows(cache: Path) -> list[Path]:
    return sorted(cache.glob("hftl-*/*.arrow"))


def refused(run_data: TextData | ImageData) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(run_data, seed=0)
    return str(caught.value)


def test_only_the_rows_that_are_taken_are_on_disk_with_their_classes_and_commit(hub: LocalHub, cache: Path) -> None:
    commit = add_films(hub)
    splits = load_splits(data(), seed=0)
    assert splits.test is not None
    assert (len(splits.train) + len(splits.validation), len(splits.test)) == (30, 12)
    assert splits.label_names == ("neg", "pos")
    for text, label in zip(splits.train["text"], splits.train["label"], strict=True):
        assert int(text.split()[-1]) % 2 == label
    assert splits.facts["revision"] == commit
    assert splits.facts["streamed"] == {
        "rows": 30,
        "buffer": 20,
        "seed": 20_200,
        "what": "the first 30 rows of a shuffle buffer of 20 rows, not a uniform sample",
        "taken": {"train": 30, "test": 12},
        "whole": ["test"],
    }
    on_disk = {file.stem: datasets.Dataset.from_file(str(file)) for file in arrows(cache)}
    assert {name: (len(rows), rows.column_names) for name, rows in on_disk.items()} == {
        "train": (30, ["text", "label"]),
        "test": (12, ["text", "label"]),
    }
    assert on_disk["train"].cache_files  # memory-mapped
    assert not list(cache.glob("**/*.partial"))
    assert [path.name for path in cache.iterdir() if path.is_dir() and path.name.startswith("me___")] == []


def test_the_rows_are_mixed_from_the_shards_and_the_same_for_every_seed_and_machine(
    hub: LocalHub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_films(hub)
    first = contents(data(), seed=0)
    rows = [int(text.split()[-1]) for text in first["given"]]
    assert min(rows) < 100 <= max(rows) and rows != list(range(rows[0], rows[0] + 30))
    assert contents(data(), seed=7) == first
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "another machine"))
    assert contents(data(), seed=1) == first


def test_a_second_run_finds_the_rows_and_a_known_commit_needs_no_hub(hub: LocalHub, cache: Path) -> None:
    commit = add_films(hub)
    first = contents(data())
    written = {file: file.stat().st_mtime_ns for file in arrows(cache)}
    hub.log.clear()
    assert contents(data()) == first
    assert len(hub.requests("GET", "/storage/")) <= 2  # the footer of a file of each split, for the columns
    hub.log.clear()
    assert contents(data(revision=commit)) == first
    assert hub.log == []
    assert {file: file.stat().st_mtime_ns for file in arrows(cache)} == written


def test_a_push_gives_other_files_and_the_old_commit_its_own_rows(hub: LocalHub, cache: Path) -> None:
    old = add_films(hub)
    first = contents(data())
    files = dict(hub.repos["datasets/me/films"].files)
    files["data/test-00000-of-00001.parquet"] = films("test", 50, 12)
    new = hub.repos["datasets/me/films"].add_commit("main", "other rows", files).sha
    assert contents(data())["test"] != first["test"]
    assert load_splits(data(), seed=0).facts["revision"] == new
    assert contents(data(revision=old)) == first
    assert len({file.parent for file in arrows(cache)}) == 2


def test_splits_that_are_not_used_are_not_streamed(hub: LocalHub, cache: Path) -> None:
    add_films(hub)
    load_splits(data(test_split="none"), seed=0)
    assert [file.name for file in arrows(cache)] == ["train.arrow"]


def test_what_an_interrupted_stream_left_is_written_over(hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_films(hub)
    write, calls = ArrowWriter.write_table, 0
    monkeypatch.setattr(Texts, "rows_at_once", 10)

    def dies(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        write(*arguments, **options)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(ArrowWriter, "write_table", dies)
        with pytest.raises(KeyboardInterrupt):
            load_splits(data(), seed=0)
    (left,) = cache.glob("hftl-*/*.partial")
    assert arrows(cache) == [] and left.stat().st_size
    stopped = contents(data())
    assert len(stopped["given"]) == 30 and not left.exists()


def test_a_hub_that_stops_answering_in_the_stream_is_one_clear_message(
    hub: LocalHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_films(hub)
    _, streams = reading._streams(data())
    monkeypatch.setattr(reading, "_streams", lambda _: (add_films(hub), streams))
    hub.fail("GET", "train-.*parquet|/storage/", 403, times=100)
    hub.fail("HEAD", "train-.*parquet|/storage/", 403, times=100)
    assert "data.source: cannot be had from the Hub: " in refused(data())
    assert arrows(cache) == []


def test_csv_whose_columns_are_known_once_it_is_read(hub: LocalHub) -> None:
    rows = "".join(f"film {row},{row % 2}\n" for row in range(60))
    hub.add_repo("datasets/me/films", {"train.csv": f"text,label\n{rows}".encode()})
    splits = load_splits(data(stream_samples=24, test_fraction=0.25), seed=0)
    assert splits.test is not None
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 24
    assert splits.label_names == ("0", "1")


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # of older pandas
def test_a_lone_stream_whose_column_puts_rows_into_other_splits_is_refused_and_read_whole_it_is_divided(hub: LocalHub) -> None:
    marks = ["train", "train", "test"]
    rows = "".join(f"film {row},{row % 2},{marks[row % 3]}\n" for row in range(90))
    hub.add_repo("datasets/me/films", {"train.csv": f"text,label,split\n{rows}".encode()})
    said = refused(data(stream_samples=60))
    assert '"test" in the column "split"' in said and "leave data.stream_samples out" in said
    assert refused(data(stream_samples=60)) == said  # also of the rows that lie here by now
    others = rows.replace(",test\n", ",test\n", 1).replace(",train\n", ",extra\n", 5)
    hub.add_repo("datasets/me/more", {"train.csv": f"text,label,split\n{others}".encode()})
    assert '"test" in the column "split"' in refused(data(source="me/more", stream_samples=60))
    whole = load_splits(data(stream_samples=None), seed=0)
    assert whole.test is not None and len(whole.test) == 30


def test_a_column_of_a_stream_that_agrees_with_its_split_is_no_matter(hub: LocalHub) -> None:
    rows = "".join(f"film {row},{row % 2},train\n" for row in range(60))
    hub.add_repo("datasets/me/films", {"train.csv": f"text,label,split\n{rows}".encode()})
    splits = load_splits(data(stream_samples=24), seed=0)
    assert len(splits.train) + len(splits.validation) == 24


def test_a_column_that_is_not_there_is_named_and_nothing_is_written(hub: LocalHub, cache: Path) -> None:
    add_films(hub)
    said = refused(data(text_column="txt"))
    assert 'data.text_column: no column "txt" in split "train". Did you mean "text"?' in said
    assert "no rows" not in said and arrows(cache) == []


def test_a_local_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,0\n")
    said = refused(data(source=str(tmp_path)))
    assert "data.stream_samples: only data sets on the Hub are streamed, and" in said and "is on a disk already" in said


def test_a_data_set_that_is_not_there_is_refused(hub: LocalHub) -> None:
    assert "data.source: cannot be had from the Hub: " in refused(data(source="me/nothing"))


def picture(number: int) -> bytes:
    sink = io.BytesIO()
    Pillow.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(sink, "PNG")
    return sink.getvalue()


PICTURES = [picture(number) for number in range(24)]


@pytest.mark.parametrize("stored", ["parquet", "files"])
def test_pictures_stay_encoded_as_they_are_on_the_hub(
    hub: LocalHub, cache: Path, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stored == "parquet":
        features = Features({"image": Image(), "label": ClassLabel(names=["even", "odd"])})
        rows = {
            "image": [{"bytes": content, "path": None} for content in PICTURES],
            "label": [number % 2 for number in range(24)],
        }
        files = {"data/train-00000-of-00001.parquet": parquet(pa.table(rows, schema=features.arrow_schema))}
    else:
        files = {f"train/{('even', 'odd')[number % 2]}/{number}.png": content for number, content in enumerate(PICTURES)}
    hub.add_repo("datasets/me/pictures", files)
    monkeypatch.setattr(Image, "decode_example", None)  # nothing decodes
    splits = load_splits(ImageData(source="me/pictures", stream_samples=12), seed=0)
    assert splits.label_names == ("even", "odd")
    (file,) = arrows(cache)
    rows_on_disk = datasets.Dataset.from_file(str(file))
    assert rows_on_disk.features["image"] == Image(decode=False)
    written = [(PICTURES.index(row["image"]["bytes"]), row["label"]) for row in rows_on_disk]
    assert len({number for number, _ in written}) == 12
    assert all(number % 2 == label for number, label in written)
    assert splits.facts["streamed"]["buffer"] == 8


@pytest.mark.parametrize("path", ["/etc/hostname", "https://example.org/a.png", None])
def test_an_address_outside_the_data_set_is_not_followed(hub: LocalHub, cache: Path, path: str | None) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["even", "odd"])})
    rows = {"image": [{"bytes": None, "path": path}] * 4, "label": [0, 1, 0, 1]}
    hub.add_repo("datasets/me/pictures", {"train.parquet": parquet(pa.table(rows, schema=features.arrow_schema))})
    assert "a picture without bytes that is no file of the data set either" in refused(
        ImageData(source="me/pictures", stream_samples=12)
    )
    assert arrows(cache) == []
