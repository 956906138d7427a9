"""What a source is, and how it is read: the Hub, a folder of pictures, tables on this machine.

Whatever the source, a split is read into one `Table`: its rows, their contents undecoded, their labels as they stand there, and
everything that is wrong in it. Labels are made sense of, and rows are divided, in `hftl.data.source`.

Rows are counted from 0, without a header: "train/17" is row 17 of the split "train". A million of them is nothing special: what
there is for every row is a column of Arrow or an array, and never a Python object.

N rows.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import os
import re
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetBuilder, DatasetInfo, Features, Image, IterableDataset, Value
from datasets.arrow_writer import ArrowWriter
from datasets.exceptions import DatasetsError
from datasets.table import embed_table_storage

from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import ImageData, TextData
from hftl.store import alone, key_of

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
VALIDATION_NAMES = ("validation", "val", "valid", "dev")
NO_SPLIT = "none"
"""As `data.test_split`: leave the source's own test split alone (on the Hub some have no labels)."""
SHOWN = 10
"""Rows named in one problem; the rest is counted."""

TEST_SEED = 20_200
"""The test split that is made from train, a sample of it, and the rows taken from a stream are the same for every `run.seed`: the
test split is sealed once, and runs of several seeds differ by their training alone."""

_BATCH = 10_000  # rows that are Python objects at once

Role = Literal["train", "validation", "test"]
ROLES: tuple[Role, ...] = ("train", "validation", "test")


# --- what a source is ---------------------------------------------------------------------------------------------------------


class Strings(Sequence[str]):
    """The column `name` of a data set, of strings that become Python's when they are asked for: a million of those takes 70 MB."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._column = dataset.select_columns(name).with_format("arrow")
        self._name = name

    @classmethod
    def of_rows(cls, split: str, count: int) -> Strings:
        """The names of a split's rows: "train/0", "train/1" and so on."""
        numbers = (pa.array(np.arange(start, min(start + _BATCH, count))) for start in range(0, count, _BATCH))
        names = (pc.binary_join_element_wise(split, pc.cast(some, pa.string()), "/") for some in numbers)
        # A fingerprint found by itself would be of a copy of all names.
        return cls(Dataset(on_disk("id", pa.string(), names), fingerprint=f"{split}/{count}"), "id")

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, rows: int) -> str: ...
    @overload
    def __getitem__(self, rows: slice) -> list[str]: ...
    def __getitem__(self, rows: int | slice) -> str | list[str]:
        found: list[str] = self._column[rows].column(self._name).to_pylist()
        return found if isinstance(rows, slice) else found[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BATCH):
            yield from self[start : start + _BATCH]

    def to_arrow(self) -> pa.ChunkedArray:
        """The whole column."""
        return self._column[:].column(self._name)


def integers(dataset: Dataset, name: str) -> np.ndarray:
    """A column of whole numbers, or of classes. (N,) int32"""
    column = dataset.select_columns(name).with_format("arrow")
    numbers = np.empty(len(column), dtype=np.int32)
    for start in range(0, len(column), _BATCH):
        numbers[start : start + _BATCH] = column[start : start + _BATCH].column(name).to_numpy()
    return numbers


def pick(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """Rows of a data set, as its own `select`, which takes 40 bytes a row on its way to the 8 that stay; here they are on disk."""
    if len(rows) == len(dataset) and np.array_equal(rows, np.arange(len(dataset), dtype=np.int32)):
        return dataset
    digest = hashlib.sha256(dataset._fingerprint.encode())
    for some in blocks(rows):
        digest.update(some.astype("<i8").data)
    chosen = (pa.array(some.astype(np.uint64)) for some in blocks(rows))
    if dataset._indices is not None:
        before = dataset._indices.column(0)
        chosen = (before.take(some).combine_chunks() for some in chosen)
    indices = on_disk("indices", pa.uint64(), chosen)
    return Dataset(dataset.data, dataset.info, dataset.split, indices_table=indices, fingerprint=digest.hexdigest()[:16])


# --- on disk, not in memory ---------------------------------------------------------------------------------------------------


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """An array of (N, ...) in parts of 10,000 rows."""
    return (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def on_disk(name: str, kind: pa.DataType, parts: Iterable[pa.Array]) -> pa.Table:
    """A table of one column in a file of the folder for temporary files, memory-mapped; it goes when the table does.

    Once it is written it has no name that a killed process could leave.

    Raises:
        DataError: there is no room for it.
    """
    schema = pa.schema([(name, kind)])
    with tempfile.NamedTemporaryFile() as file:
        try:
            with pa.OSFile(file.name, "wb") as stream, pa.ipc.new_file(stream, schema) as writer:
                for part in parts:
                    writer.write_batch(pa.record_batch([part], schema=schema))
        except OSError as error:
            raise _no_room("the ids, labels and order of the rows do not fit there", error) from None
        return pa.ipc.open_file(pa.memory_map(file.name)).read_all()


def array_on_disk(shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Zeros in a nameless file of the folder for temporary files, which goes when the array does.

    Raises:
        DataError: there is no room for it.
    """
    if 0 in shape:  # a file of no bytes cannot be mapped
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        nbytes = np.dtype(dtype).itemsize * math.prod(shape)
        try:  # now: a write into a map of a full disk would end the process without a word
            os.posix_fallocate(file.fileno(), 0, nbytes)
        except OSError as error:
            raise _no_room(f"{nbytes / 1e6:,.0f} MB are needed there to find rows that repeat each other", error) from None
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def _no_room(what: str, error: OSError) -> DataError:
    return DataError(tempfile.gettempdir(), [Problem("TMPDIR", f"{what}: {error.strerror}")])


@dataclass(frozen=True)
class Labels:
    """The labels of a split as they stand there: row i has ``values[codes[i]]``, and of equal ones there is one."""

    values: list[Any]
    codes: np.ndarray
    """(N,) int32"""

    @classmethod
    def of(cls, column: Iterable[Any]) -> Labels:
        """Of Python values, whatever they are. Equal are those that look equal: 1, 1.0, True and "1" are four."""
        values: list[Any] = []
        places: dict[tuple[type, str], int] = {}
        codes = array("i")
        for value in column:
            place = places.setdefault((type(value), repr(value)), len(values))
            if place == len(values):
                values.append(value)
            codes.append(place)
        return cls(values, np.array(codes, dtype=np.int32))

    @classmethod
    def of_arrow(cls, column: pa.ChunkedArray) -> Labels:
        """Of a column of Arrow."""
        if pa.types.is_nested(column.type):
            return cls.of(column.to_pylist())
        encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()
        return cls(encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int32, copy=False))

    def __getitem__(self, row: int) -> Any:
        return self.values[self.codes[row]]


@dataclass
class Table:
    """One split as it was found, with what is wrong in it. `content` is the column `text` or `image`; None: it cannot be used."""

    name: str
    columns: list[str]
    ids: Sequence[str]
    content: Dataset | None
    labels: Labels | None
    class_names: list[str] | None
    """Where the source has a label map of its own."""
    problems: list[Problem]
    ignored: int = 0


@dataclass(frozen=True)
class Source:
    """A source before its rows are read: a reader for each of its splits, by name."""

    format: str
    splits: Mapping[str, Callable[[], Table]]
    revision: str | None = None
    ignored: int = 0
    stream: Stream | None = None


@dataclass(frozen=True)
class Stream:
    """What is taken from the stream of each split."""

    rows: int
    """At most so many; a split may have fewer."""
    buffer: int
    """Rows of the shuffle buffer that they come from."""


def open_source(data: TextData | ImageData) -> Source:
    """Find out what `data.source` is; tables and pictures are not read yet.

    Raises:
        DataError: it is nothing that can be read.
    """
    path = Path(data.source).expanduser()
    if not path.exists():
        if _looks_like_a_path(data.source):
            raise DataError(data.source, [Problem("data.source", f"no such file or folder: {path.absolute()}")])
        return _open_hub(data)
    if data.stream_samples is not None:
        what = f'only data sets on the Hub are streamed, and "{data.source}" is on a disk already'
        raise DataError(data.source, [Problem("data.stream_samples", what, ("data.max_train_samples trains on a part of it",))])
    for key, value in (("data.revision", data.revision), ("data.config", data.config)):
        if value is not None:
            raise DataError(
                data.source, [Problem(key, f'only data sets on the Hub have one, and "{data.source}" is on this machine')]
            )
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            what = f'"{path.suffix}" is not a kind of file that can be read'
            raise DataError(data.source, [Problem("data.source", what, (f"allowed: {', '.join(TABLES)}",))])
        return Source(path.suffix[1:].lower(), {"train": _table_reader("train", [path], path.parent, data)})
    files = [entry for entry in _visible(path) if entry.is_file()]
    tables = [file for file in files if file.suffix.lower() in TABLES]
    if isinstance(data, TextData) or any(_split_of(file) == data.train_split for file in tables):
        return _open_tables(data, path, tables, ignored=len(files) - len(tables))
    return _open_pictures(data, path)


def _looks_like_a_path(source: str) -> bool:
    return (
        source.startswith((".", "/", "~"))
        or source.endswith("/")
        or "\\" in source
        or source.count("/") > 1
        or Path(source).suffix.lower() in (*TABLES, *PICTURES)
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def choose_splits(source: Source, data: TextData | ImageData) -> dict[Role, str]:
    """Which of the source's splits is train, validation and test; absent where it has to be made, or is not wanted.

    Raises:
        DataError: a split that is not there, one in two roles, or none to validate on.
    """
    found = list(source.splits)
    problems: list[Problem] = []
    roles: dict[Role, str] = {"train": data.train_split}
    aliases = [name for name in VALIDATION_NAMES if name in found and name not in (data.train_split, data.test_split)]
    if data.validation_split is not None:
        roles["validation"] = data.validation_split
    elif len(aliases) > 1:
        problems.append(
            Problem("data.validation_split", f"which of {', '.join(aliases)}? Several splits look like the validation split.")
        )
    elif aliases:
        roles["validation"] = aliases[0]
    if data.test_split not in (None, NO_SPLIT):
        roles["test"] = str(data.test_split)
    elif data.test_split is None and "test" in found and "test" not in roles.values():
        roles["test"] = "test"
    for role, name in roles.items():
        if name not in found:
            help = (f"splits there are: {', '.join(found)}",)
            problems.append(Problem(f"data.{role}_split", f'no split "{name}".{did_you_mean(name, found)}', help))
    if len(set(roles.values())) < len(roles):
        listed = ", ".join(f"{role} = {name}" for role, name in roles.items())
        problems.append(Problem("data", f"one split in two roles ({listed}): a result on rows that were trained on says nothing"))
    if "validation" not in roles and not problems:
        if data.validation_fraction == 0:
            what = "the source has no validation split, and a share of 0 of train makes none"
            problems.append(Problem("data.validation_fraction", what, ("the test split is never used for it",)))
        elif "test" not in roles and data.validation_fraction + data.test_fraction >= 1:
            problems.append(Problem("data.validation_fraction", "with data.test_fraction nothing of train is left to train on"))
    if problems:
        raise DataError(data.source, problems)
    return roles


def read_tables(source: Source, roles: Mapping[Role, str], data: TextData | ImageData) -> dict[Role, Table]:
    """The split of each role.

    Raises:
        DataError: what cannot be read at all, over all of them. What is wrong with single rows is in `Table.problems`.
    """
    tables: dict[Role, Table] = {}
    problems: list[Problem] = []
    for role, name in roles.items():
        try:
            tables[role] = source.splits[name]()
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(data.source, problems)
    return tables


# --- the Hub ------------------------------------------------------------------------------------------------------------------


_NO_HUB = (OSError, ValueError, RuntimeError, DatasetsError, pa.ArrowException)
"""OSError: no connection, and every HTTP answer that is an error; ValueError: an unknown or missing configuration."""


def _not_from_hub(data: TextData | ImageData, error: Exception) -> DataError:
    help = [f"no file or folder of that name either: {Path(data.source).absolute()}"]
    if datasets.config.HF_HUB_OFFLINE:
        help.append("the Hub is switched off (HF_HUB_OFFLINE=1), and the data set is not in the cache")
    what = f"cannot be had from the Hub: {' '.join(str(error).split())}"
    return DataError(data.source, [Problem("data.source", what, tuple(help))])


def _is_commit(revision: object) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", str(revision)) is not None


def _is_from_cache(builder: DatasetBuilder) -> bool:
    """Whether the Hub was not asked: datasets falls back to what it downloaded last."""
    return type(builder).__module__.startswith("datasets.packaged_modules.cache")


def _open_hub(data: TextData | ImageData) -> Source:
    if data.stream_samples is not None:
        return _open_stream(data, Stream(data.stream_samples, _STREAM_BUFFER[data.kind]))
    try:
        builder = datasets.load_dataset_builder(data.source, data.config, revision=data.revision)
        builder.download_and_prepare()
        found = builder.as_dataset()
    except _NO_HUB as error:
        raise _not_from_hub(data, error) from error
    commit = str(builder.hash) if _is_commit(builder.hash) else None
    if _is_from_cache(builder) and data.revision is not None and data.revision != commit:
        # datasets falls back to whatever it downloaded last, and only logs that.
        what = f'the Hub cannot be reached, and the cache holds commit {commit or "unknown"}, not "{data.revision}"'
        raise DataError(data.source, [Problem("data.revision", what, ("go online, or ask for the commit that is there",))])
    readers = {str(name): _dataset_reader(str(name), split, None, data) for name, split in found.items()}
    return Source("hub", readers, revision=commit)


def _dataset_reader(name: str, split: Dataset, folder: Path | None, data: TextData | ImageData) -> Callable[[], Table]:
    return lambda: _from_dataset(name, split.column_names, split, folder, data)


def _from_dataset(name: str, columns: list[str], split: Dataset, folder: Path | None, data: TextData | ImageData) -> Table:
    """A table from an Arrow data set with those of the wanted columns that there are; `columns` are all of the source's.

    Paths of pictures are resolved below `folder`; None: there is none, as on the Hub.
    """
    table = Table(name, columns, Strings.of_rows(name, len(split)), None, None, None, [])
    if data.label_column in split.column_names:
        feature = split.features[data.label_column]
        table.labels = Labels.of_arrow(split.data.column(data.label_column))
        table.class_names = list(feature.names) if isinstance(feature, ClassLabel) else None
    column = content_column(data)
    if column in split.column_names:
        content = split.select_columns(column)
        content = content if column == data.kind else content.rename_column(column, data.kind)
        if data.kind == "text":
            _set_texts(table, content)
        else:
            _set_pictures(table, content, folder)
    return table


# --- streams from the Hub -----------------------------------------------------------------------------------------------------

_STREAM_BUFFER = {"text": 10_000, "image": 1_000}
"""Rows of the shuffle buffer, which is in memory: a text takes some kB, a picture as it is stored some 100 kB."""
_STREAM_BATCH = {"text": 1_000, "image": 100}
"""Rows that are written at once."""


def _open_stream(data: TextData | ImageData, stream: Stream) -> Source:
    """A Hub data set of which only the rows that are taken come to this machine, and those once.

    A commit whose rows lie here already needs no Hub, so a run is resumed without one.
    """
    streams: dict[str, IterableDataset] | None = None
    if data.revision is not None and _is_commit(data.revision) and _splits_file(data, data.revision, stream).is_file():
        commit = data.revision
        names = json.loads(_splits_file(data, commit, stream).read_text(encoding="utf-8"))
    else:
        commit, streams = _streams(data)
        names = list(streams)
        file = _splits_file(data, commit, stream)
        file.parent.mkdir(parents=True, exist_ok=True)
        with alone(file.with_suffix(".lock")):
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(names), encoding="utf-8")
            partial.replace(file)
    folder = _splits_file(data, commit, stream).parent

    def reader(name: str) -> Callable[[], Table]:
        # Without `streams` the recipe names the commit itself.
        return lambda: _read_stream(name, folder, lambda: (streams or _streams(data)[1])[name], data, stream)

    return Source("hub", {name: reader(name) for name in names}, revision=commit, stream=stream)


def _streams(data: TextData | ImageData) -> tuple[str, dict[str, IterableDataset]]:
    """The commit that `data.revision` is now, and the stream of each of its splits: ``load_dataset(..., streaming=True)``."""
    try:
        builder = datasets.load_dataset_builder(data.source, data.config, revision=data.revision)
        # What datasets has in its own cache has other shards than the Hub, and a stream of it other rows.
        if _is_from_cache(builder) or not _is_commit(builder.hash):
            raise ConnectionError("its rows can only be streamed when the Hub says which commit they are of")
        # The addresses of the builder's files are those of this commit, so a push in between changes nothing.
        return str(builder.hash), {str(name): split for name, split in builder.as_streaming_dataset().items()}
    except _NO_HUB as error:
        raise _not_from_hub(data, error) from error


def _splits_file(data: TextData | ImageData, commit: str, stream: Stream) -> Path:
    """The names of all splits, beside the rows of those that were streamed: SPLIT.arrow, which is there when it is whole."""
    columns = [content_column(data), data.label_column]
    parts = {"source": data.source, "config": data.config, "commit": commit, "kind": data.kind, "columns": columns}
    key = key_of({**parts, "rows": stream.rows, "buffer": stream.buffer, "seed": TEST_SEED})
    return Path(datasets.config.HF_DATASETS_CACHE) / f"hftl-{key[:32]}" / "splits.json"


def _read_stream(
    name: str, folder: Path, open_stream: Callable[[], IterableDataset], data: TextData | ImageData, stream: Stream
) -> Table:
    file = folder / f"{name}.arrow"
    with alone(file.with_suffix(".lock")):
        if not file.is_file():
            try:
                strange = _write_stream(file, name, open_stream(), data, stream)
            except _NO_HUB as error:
                raise _not_from_hub(data, error) from error
            if strange is not None:
                return strange
    split = Dataset.from_file(str(file))
    return _from_dataset(name, split.column_names, split, None, data)


def _write_stream(file: Path, name: str, rows: IterableDataset, data: TextData | ImageData, stream: Stream) -> Table | None:
    """Write the first rows of a shuffled stream, the wanted columns alone; a table without rows where there are no such columns.

    The rows of a batch and of the buffer are in memory, and no more. What an interrupted call has left is written over.
    """
    if rows.features:
        rows = rows.decode(False)  # or datasets opens pictures, in threads
    taken = rows.shuffle(seed=TEST_SEED, buffer_size=stream.buffer).take(stream.rows).with_format("arrow")
    batches = taken.iter(batch_size=_STREAM_BATCH[data.kind])
    first = next(batches, None)
    if first is None:
        return Table(name, [], [], None, None, None, [])
    wanted = [content_column(data), data.label_column]
    if not set(wanted) <= set(first.column_names):
        return Table(name, first.column_names, Strings.of_rows(name, len(first)), None, None, None, [])
    features = rows.features or Features.from_arrow_schema(first.schema)  # those of a CSV file are known once it is read
    features = Features({column: features[column] for column in wanted})
    if isinstance(features[wanted[0]], Image):
        features[wanted[0]] = Image(decode=False)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as output, ArrowWriter(features=features, stream=output) as writer:
        for batch in itertools.chain([first], batches):
            writer.write_table(_with_pictures(batch.select(wanted).cast(features.arrow_schema), data))
        writer.finalize(close_stream=False)
        output.flush()
        os.fsync(output.fileno())
    partial.replace(file)
    return None


def _with_pictures(batch: pa.Table, data: TextData | ImageData) -> pa.Table:
    """Fetch the pictures that are files of the data set, for which a stream has addresses; no other address is followed."""
    column = batch.column(content_column(data))
    if isinstance(data, TextData) or not pa.types.is_struct(column.type):
        return batch
    own = f"hf://datasets/{data.source}@"
    for picture in column.to_pylist():
        if picture is not None and picture["bytes"] is None and not str(picture["path"]).split("::")[-1].startswith(own):
            what = f"a picture without bytes that is no file of the data set either: {picture['path']}"
            raise DataError(data.source, [Problem(f'column "{content_column(data)}"', what)])
    return embed_table_storage(batch, local_files=False)


def content_column(data: TextData | ImageData) -> str:
    """The source's name for the column of texts or pictures."""
    return data.text_column if isinstance(data, TextData) else data.image_column


def _set_texts(table: Table, content: Dataset | list[Any]) -> None:
    if isinstance(content, Dataset):
        feature = content.features["text"]
        if (
            isinstance(feature, Value)
            and feature.dtype in ("string", "large_string")
            and not content.data.column("text").null_count
        ):
            table.content = content.cast_column("text", Value("string")) if feature.dtype != "string" else content
            return
        content = content["text"][:]
    table.problems += row_problems(
        table, "no text", [row for row, text in enumerate(content) if text is None], "an empty text is allowed, a null is not"
    )
    table.problems += row_problems(
        table, "no text but another type", [row for row, text in enumerate(content) if not isinstance(text, str | None)]
    )
    halves = [row for row, text in enumerate(content) if isinstance(text, str) and not is_whole(text)]
    table.problems += row_problems(table, "half a character", halves, "JSON's \\ud800 to \\udfff mean a character in pairs alone")
    if not table.problems:
        table.content = Dataset.from_dict({"text": content}, features=Features({"text": Value("string")}))


def _set_pictures(table: Table, content: Dataset | list[Any], folder: Path | None) -> None:
    """Pictures as they are stored, undecoded: bytes, or absolute paths."""
    if isinstance(content, Dataset):
        feature = content.features["image"]
        if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
            content = content["image"][:]
        elif not (
            isinstance(feature, Image | dict) or (isinstance(feature, Value) and feature.dtype in ("binary", "large_binary"))
        ):
            table.problems.append(
                Problem(f'split "{table.name}"', f"the picture column holds {feature}; expected an Image, bytes, or paths")
            )
            return
        else:
            stored = content.cast_column("image", Image(decode=False))
            chunks = stored.data.column("image").chunks
            has_bytes = [valid for chunk in chunks for valid in chunk.field("bytes").is_valid().to_pylist()]
            paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
            if any(has_bytes) or folder is None:
                none = [row for row, there in enumerate(has_bytes) if not there and not (folder is None and paths[row])]
                table.problems += row_problems(table, "no picture", none)
                table.content = None if none else stored
                return
            content = paths
    table.problems += row_problems(table, "no picture", [row for row, path in enumerate(content) if not path])
    table.problems += row_problems(
        table, "no path but another type", [row for row, path in enumerate(content) if path and not isinstance(path, str)]
    )
    if folder is None:
        table.problems.append(
            Problem(f'split "{table.name}"', "the picture column holds paths, and a table on the Hub comes without their files")
        )
    if table.problems:
        return
    assert folder is not None
    root = _real(folder)
    full = [_real(folder / path) for path in content]
    outside = [row for row, path in enumerate(full) if path is None or root is None or not path.is_relative_to(root)]
    table.problems += row_problems(table, "a path that leaves the data folder", outside, f"pictures lie below {folder.absolute()}")
    if not outside:
        table.content = _picture_paths(str(path) for path in full)


def _picture_paths(paths: Iterable[str]) -> Dataset:
    """A data set of files; their names are in memory, in Arrow."""
    names = pa.array(paths, pa.string())
    stored = pa.StructArray.from_arrays([pa.nulls(len(names), pa.binary()), names], ["bytes", "path"])
    return Dataset(pa.table({"image": stored}), DatasetInfo(features=Features({"image": Image(decode=False)})))


# --- tables on this machine ---------------------------------------------------------------------------------------------------


def _open_tables(data: TextData | ImageData, folder: Path, files: Sequence[Path], *, ignored: int) -> Source:
    """A folder of tables, named by split: train.parquet, or train-00000-of-00002.parquet and its neighbour."""
    if not files:
        found = ", ".join(entry.name for entry in _visible(folder)[:SHOWN]) or "nothing"
        help = (
            f"expected train{TABLES[0]}, or train with one of {', '.join(TABLES[1:])}, and test and validation likewise",
            f"found: {found}",
        )
        raise DataError(data.source, [Problem("data.source", f"no table in {folder.absolute()}", help)])
    by_split: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda file: natural_key(file.name)):
        by_split.setdefault(_split_of(file), []).append(file)
    problems = [
        Problem(f'split "{name}"', f"which of {listed(file.name for file in group)}? One split is one kind of file.")
        for name, group in by_split.items()
        if len({file.suffix.lower() for file in group}) > 1
    ]
    if problems:
        raise DataError(data.source, problems)
    formats = sorted({file.suffix[1:].lower() for file in files})
    return Source(
        "+".join(formats), {name: _table_reader(name, group, folder, data) for name, group in by_split.items()}, ignored=ignored
    )


def _split_of(file: Path) -> str:
    """The split a file belongs to: its name without the suffix and without a shard's number."""
    return re.sub(r"[-_.]\d+-of-\d+.*$", "", file.stem)


_DAMAGED = (pa.ArrowException, DatasetsError, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What pyarrow raises over damaged Parquet files, and datasets over damaged descriptions of the columns in them."""


def _table_reader(name: str, files: Sequence[Path], folder: Path, data: TextData | ImageData) -> Callable[[], Table]:
    parquet = files[0].suffix.lower() == ".parquet"
    return lambda: _read_parquet(name, files, folder, data) if parquet else _read_rows(name, files, folder, data)


def _read_parquet(name: str, files: Sequence[Path], folder: Path, data: TextData | ImageData) -> Table:
    problems = []
    columns: list[str] = []
    for file in files:
        try:
            # Nothing else of a file's metadata is looked at: pyarrow ends the process over some damaged column entries in it.
            found = pq.read_schema(file).names
        except _DAMAGED as error:
            problems.append(Problem(str(file), f"cannot be read as Parquet: {error}"))
            continue
        columns = columns or found
        if set(found) != set(columns):
            problems.append(Problem(str(file), f"has the columns {listed(found)}, and {files[0].name} has {listed(columns)}"))
    if problems:
        raise DataError(data.source, problems)
    wanted = [column for column in (content_column(data), data.label_column) if column in columns]
    if not wanted:
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        return Table(name, columns, Strings.of_rows(name, rows), None, None, None, [])
    # datasets keys its cache by path and time of change, which a copy or an image of a machine may keep. We key it by content.
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "hftl" / digest.hexdigest()[:32]
    try:
        split = Dataset.from_parquet([str(file) for file in files], columns=wanted, cache_dir=str(cache))
        assert isinstance(split, Dataset)
        split.data.validate(full=True)  # or bytes that are no UTF-8 are found when they are first looked at
    except _DAMAGED as error:
        raise DataError(data.source, [Problem(str(files[0]), f"cannot be read as Parquet: {error.__cause__ or error}")]) from error
    assert isinstance(split, Dataset)
    return _from_dataset(name, columns, split, folder, data)


def _read_rows(name: str, files: Sequence[Path], folder: Path, data: TextData | ImageData) -> Table:
    """CSV, TSV, JSON and JSONL: files of Python values."""
    problems: list[Problem] = []
    columns: list[str] = []
    values: dict[str, list[Any]] = {content_column(data): [], data.label_column: []}
    count = 0
    for file in files:
        text = _read_text(file, problems)
        if text is None:
            continue
        read = _csv_rows if file.suffix.lower() in (".csv", ".tsv") else _json_rows
        found, rows = read(file, text, problems)
        columns = columns or found
        if set(found) != set(columns):
            problems.append(Problem(str(file), f"has the columns {listed(found)}, and {files[0].name} has {listed(columns)}"))
        count += len(rows)
        for column, collected in values.items():
            collected += [row.get(column) for row in rows]
    if problems:
        raise DataError(data.source, problems)
    table = Table(name, columns, Strings.of_rows(name, count), None, None, None, [])
    if data.label_column in columns:
        table.labels = Labels.of(values[data.label_column])
    if content_column(data) in columns:
        content = values[content_column(data)]
        if isinstance(data, TextData):
            _set_texts(table, content)
        else:
            _set_pictures(table, content, folder)
    return table


def read_column(file: Path, column: str) -> list[Any]:
    """One column of a single table, as it stands there; for inputs to predict, which have no labels.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    problems: list[Problem] = []
    columns: list[str] = []
    values: list[Any] = []
    if file.suffix.lower() == ".parquet":
        try:
            columns = pq.read_schema(file).names
            values = pq.read_table(file, columns=[column]).column(column).to_pylist() if column in columns else []
        except _DAMAGED as error:
            problems.append(Problem(str(file), f"cannot be read as Parquet: {error}"))
    elif (text := _read_text(file, problems)) is not None:
        columns, rows = (_csv_rows if file.suffix.lower() in (".csv", ".tsv") else _json_rows)(file, text, problems)
        values = [row.get(column) for row in rows]
    if not problems and column not in columns:
        problems.append(Problem(str(file), f'no column "{column}"; columns: {listed(columns)}'))
    if problems:
        raise DataError(str(file), problems)
    return values


def _read_text(file: Path, problems: list[Problem]) -> str | None:
    content = file.read_bytes()
    for bad, what in ((b"\0", "a NUL byte: this is no text file"), (None, "not UTF-8: save the file as UTF-8")):
        if bad is not None:
            start = content.find(bad)
        else:
            try:
                return content.decode("utf-8").removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                start = error.start
        if start >= 0:
            line = content.count(b"\n", 0, start) + 1
            problems.append(Problem(f"{file}, line {line}, byte {start}", what))
            return None
    return None


def _csv_rows(file: Path, text: str, problems: list[Problem]) -> tuple[list[str], list[dict[str, Any]]]:
    """Header and rows. Lines without anything on them are skipped; a row of another length than the header is a problem."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
    header: list[str] = []
    rows: list[dict[str, Any]] = []
    ragged: list[str] = []
    line = 1
    limit = csv.field_size_limit(len(text) + 1)  # Python's own limit, 131,072 characters, is less than a long document
    try:
        for fields in reader:
            if fields and not header:
                header = fields
            elif fields and len(fields) != len(header):
                ragged.append(f"line {line} has {len(fields)}")
            elif fields:
                rows.append(dict(zip(header, fields, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        problems.append(
            Problem(f"{file}, line {line}", f"not valid CSV: {error}", ("a quote inside a quoted field is written twice",))
        )
    finally:
        csv.field_size_limit(limit)
    if ragged:
        what = f"the header has {len(header)} columns; {listed(ragged[:SHOWN])}{more(len(ragged))}"
        problems.append(Problem(str(file), what, ("a field that has a comma in it is written in quotes",)))
    if len(set(header)) < len(header):
        problems.append(Problem(str(file), f"two columns of one name: {listed(header)}"))
    return header, rows


def _json_rows(file: Path, text: str, problems: list[Problem]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of JSONL, an object a line, or of JSON, a list of objects."""
    rows: list[tuple[str, Any]] = []
    wrong: list[str] = []
    if file.suffix.lower() == ".json":
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            whole = []
            wrong.append(f"line {error.lineno}: {error.msg}")
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, endless nesting
            whole = []
            wrong.append(str(error))
        if not isinstance(whole, list):
            whole = []
            wrong.append("expected a list of objects; for an object a line the name ends with .jsonl")
        rows = [(f"entry {number}", row) for number, row in enumerate(whole)]
    else:
        # Not `splitlines`: JSON strings may hold U+2028 and other characters that it takes for the end of a line.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    rows.append((f"line {number}", json.loads(line)))
                except json.JSONDecodeError as error:
                    wrong.append(f"line {number}: {error.msg} at column {error.colno}")
                except (ValueError, RecursionError) as error:
                    wrong.append(f"line {number}: {error}")
    wrong += [f"{where}: not an object" for where, row in rows if not isinstance(row, dict)]
    if wrong:
        problems.append(Problem(str(file), f"not valid {file.suffix[1:].upper()}: {listed(wrong[:SHOWN])}{more(len(wrong))}"))
        return [], []
    return list(dict.fromkeys(key for _, row in rows for key in row)), [row for _, row in rows]


# --- folders of pictures ------------------------------------------------------------------------------------------------------


def _open_pictures(data: ImageData, root: Path) -> Source:
    """root/SPLIT/CLASS/*, or root/CLASS/* as train alone."""
    folders = [entry for entry in _visible(root) if entry.is_dir()]
    stray = sum(1 for entry in _visible(root) if not entry.is_dir())
    names = [folder.name for folder in folders]
    if not folders:
        help = ("expected SPLIT/CLASS/picture.jpg or CLASS/picture.jpg, or tables named by split",)
        raise DataError(data.source, [Problem("data.source", f"no folder in {root.absolute()}", help)])
    has_train = any(entry.is_dir() for entry in _visible(root / data.train_split)) if data.train_split in names else False
    if has_train or set(names) <= {*VALIDATION_NAMES, "test"}:
        readers = {folder.name: _picture_reader(folder.name, root, folder, data) for folder in folders}
        return Source("image folder", readers, ignored=stray)
    return Source("image folder", {"train": _picture_reader("train", root, root, data)})


def _picture_reader(name: str, root: Path, folder: Path, data: ImageData) -> Callable[[], Table]:
    return lambda: _read_pictures(name, root, folder, data)


def _read_pictures(name: str, root: Path, folder: Path, data: ImageData) -> Table:
    ids: list[str] = []
    labels: list[str] = []
    table = Table(name, [data.image_column, data.label_column], ids, None, None, None, [])
    real_root = root.resolve()
    if not folder.resolve().is_relative_to(real_root):
        raise DataError(data.source, [Problem(str(folder), f"a link that leaves the data folder, to {folder.resolve()}")])
    paths: list[str] = []
    classes = {entry.name: 0 for entry in _visible(folder) if entry.is_dir()}
    for found in _walk(folder, real_root, (folder.resolve(),)):
        if isinstance(found, Problem):
            table.problems.append(found)
            continue
        path = found.relative_to(folder)
        if len(path.parts) < 2 or path.suffix.lower() not in PICTURES:
            table.ignored += 1
            continue
        classes[path.parts[0]] += 1
        ids.append(found.relative_to(root).as_posix())
        paths.append(str(found.absolute()))
        labels.append(sys.intern(path.parts[0]))
    table.labels = Labels.of(labels)
    refused = any("link" in problem.what for problem in table.problems)
    for label, count in classes.items():
        if not count and not refused:
            table.problems.append(
                Problem(str(folder / label), "no picture in this class folder", ("remove the folder, or fill it",))
            )
    unreadable = [name for name in table.ids if not name.isprintable() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)]
    if unreadable:
        table.problems.append(
            Problem(str(folder), f"file names that are not UTF-8: {listed(map(ascii, unreadable[:SHOWN]))}{more(len(unreadable))}")
        )
    elif paths:
        table.ids = Strings(Dataset(on_disk("id", pa.string(), [pa.array(ids, pa.string())])), "id")
        table.content = _picture_paths(paths)
    return table


def _walk(folder: Path, root: Path, trail: tuple[Path, ...]) -> Iterator[Path | Problem]:
    """Files below `folder`, sorted, hidden ones left out; links are followed as long as they stay below `root`."""
    for name in sorted(name for name in os.listdir(folder) if not name.startswith(".")):
        entry = folder / name
        real = _real(entry)
        if real is None or not real.is_relative_to(root):
            yield Problem(str(entry), "a link that leaves the data folder" + (f", to {real}" if real else ""))
        elif not real.exists():
            yield Problem(str(entry), f"a link to nothing: {real}")
        elif real in trail:
            yield Problem(str(entry), "a link to a folder that it lies in")
        elif real.is_dir():
            yield from _walk(entry, root, (*trail, real))
        else:
            yield entry


def _real(path: Path) -> Path | None:
    """Where a path leads once links and ".." are followed; None for links that lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


# --- for messages --------------------------------------------------------------------------------------------------------------


def is_whole(text: str) -> bool:
    """Whether a text has no half of a character in it, which JSON can write and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def natural_key(name: str) -> tuple[Any, ...]:
    """Sorts as people count: 0, 1, 2, 10; then a1, a2, a10."""
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", name):
        return (0, float(name), name)
    # Odd places hold the digits, so text meets text and number meets number; of two numbers the longer is the larger.
    parts = [part.lstrip("0") if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", name))]
    return (1, tuple((len(part), part) if place % 2 else part for place, part in enumerate(parts)), name)


def row_problems(table: Table, what: str, rows: Sequence[int], *help: str) -> list[Problem]:
    """One problem for all the rows of a split that share it, the first ones named; none for no rows."""
    if not rows:
        return []
    count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    return [
        Problem(
            f'split "{table.name}"',
            f"{count} with {what}: {listed(table.ids[row] for row in rows[:SHOWN])}{more(len(rows))}",
            help,
        )
    ]


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names)


def more(count: int) -> str:
    """What follows the first `SHOWN` of `count` names: ``" and 3 more"``, or nothing."""
    return f" and {count - SHOWN:,} more" if count > SHOWN else ""
