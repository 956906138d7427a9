"""What a source is, and how it is read: the Hub, a folder of pictures, tables on this machine.

Whatever the source, a split is read into one `Table`: its rows, their contents undecoded, their labels as they stand there, and
everything that is wrong in it. Labels are made sense of, and rows are divided, in `hftl.data.source`.

Rows are counted from 0, without a header: "train/17" is row 17 of the split "train". A million of them is nothing special: what
there is for every row is a column of Arrow or an array, and never a Python object.

N rows.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import json
import math
import os
import pkgutil
import re
import stat
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetBuilder, DatasetInfo, Features, Image, IterableDataset, Value
from datasets.arrow_writer import ArrowWriter
from datasets.exceptions import DatasetsError
from datasets.table import embed_table_storage, table_cast

from hftl.data import dialect
from hftl.data.layout import (
    NO_FILE,
    PICTURES,
    SPLIT_COLUMNS,
    TABLES,
    counted,
    ending_of,
    find_name,
    is_about,
    is_data,
    is_hidden,
    is_picture,
    list_folder,
    named,
    role_of,
    ways_out,
)
from hftl.data.layout import ROLES as ROLES
from hftl.data.layout import Role as Role
from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import ImageData, TextData
from hftl.store import alone, key_of
from hftl.wording import and_more, count, listed

NO_SPLIT = "none"
"""As `data.test_split`: leave the source's own test split alone (on the Hub some have no labels)."""
SHOWN = 10
"""Rows named in one problem; the rest is counted."""

TEST_SEED = 20_200
"""The test split that is made from train, a sample of it, and the rows taken from a stream are the same for every `run.seed`: the
test split is sealed once, and runs of several seeds differ by their training alone."""

_BATCH = 10_000  # rows that are Python objects at once


# --- what a source is ---------------------------------------------------------------------------------------------------------


class Strings(Sequence[str]):
    """The column `name` of a data set, of strings that become Python's when they are asked for: a million of those takes 70 MB."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._column = dataset.select_columns(name).with_format("arrow")
        self._name = name

    @classmethod
    def of_rows(cls, split: str, rows: int | np.ndarray) -> Strings:
        """The names of a split's rows: "train/0", "train/1" and so on; or of these rows, (N,)."""
        if isinstance(rows, int):
            numbers = (pa.array(np.arange(start, min(start + _BATCH, rows))) for start in range(0, rows, _BATCH))
            fingerprint = f"{split}/{rows}"
        else:
            numbers = (pa.array(some) for some in blocks(rows))
            fingerprint = hashlib.sha256(f"{split}/".encode() + rows.astype("<i8").data).hexdigest()[:16]
        names = (pc.binary_join_element_wise(split, pc.cast(some, pa.string()), "/") for some in numbers)
        # A fingerprint found by itself would be of a copy of all names.
        return cls(Dataset(on_disk("id", pa.string(), names), fingerprint=fingerprint), "id")

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

    def take(self, rows: np.ndarray) -> Labels:
        """Those of some rows, and no value that none of them has. (N,)"""
        places, codes = np.unique(self.codes[rows], return_inverse=True)
        return Labels([self.values[place] for place in places.tolist()], codes.astype(np.int32))

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
    ignored: Counter[str] = field(default_factory=Counter)
    """Files of the split that were left out, by ending."""
    remarks: list[str] = field(default_factory=list)
    """What is worth knowing about how it was read."""


@dataclass(frozen=True)
class Source:
    """A source before its rows are read: a reader for each of its splits, by name."""

    format: str
    splits: Mapping[str, Callable[[], Table]]
    revision: str | None = None
    stream: Stream | None = None
    shown: Mapping[str, str] = field(default_factory=dict)
    """What people know a split by, where that is not its name: "Test/", "dev.csv"."""
    beside: tuple[str, ...] = ()
    """Files and folders that may hold data and are no split."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Other files, by ending."""
    remarks: tuple[str, ...] = ()
    split_column: str | None = None
    """The column that says which split a row belongs to, where one does."""

    def unused(self, roles: Mapping[Role, str]) -> list[str]:
        """What is there and no part of the run: splits without a role, and what lies beside them."""
        return [*(self.shown.get(name, name) for name in self.splits if name not in roles.values()), *self.beside]


@dataclass(frozen=True)
class Stream:
    """What is taken from the stream of each split."""

    rows: int
    """At most so many; a split may have fewer."""
    buffer: int
    """Rows of the shuffle buffer that they come from."""


def open_source(data: TextData | ImageData) -> Source:
    """Find out what `data.source` is; pictures are not read yet, and tables only where a column divides them into splits.

    Raises:
        DataError: it is nothing that can be read.
    """
    path = Path(os.path.expanduser(data.source))
    if not os.path.exists(path):
        if "://" in data.source or "::" in data.source:
            what = "an address: hftl reads files and folders of this machine, and data sets on the Hub by their id"
            raise DataError(data.source, [Problem("data.source", what, ("download it, and name the file or the folder",))])
        if _looks_like_a_path(data.source):
            raise DataError(data.source, [Problem("data.source", f"no such file or folder: {path.absolute()}")])
        if not _HUB_ID.fullmatch(data.source) or data.source in _BUILDERS:
            what = f"no such file or folder: {path.absolute()}; and no id of a data set on the Hub either"
            raise DataError(data.source, [Problem("data.source", what, ("an id is OWNER/NAME",))])
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
        return _table_source({"train": [path]}, path.parent, data)
    try:
        return _open_tables(data, path) if isinstance(data, TextData) else _open_pictures(data, path)
    except OSError as error:
        raise DataError(data.source, [Problem(str(error.filename or path), f"cannot be read: {error.strerror}")]) from None


_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
# Names that datasets takes for its own readers of files, and then reads whatever lies in the folder one is in.
_BUILDERS = frozenset(module.name for module in pkgutil.iter_modules(datasets.packaged_modules.__path__))


def _looks_like_a_path(source: str) -> bool:
    return (
        source.startswith((".", "/", "~"))
        or source.endswith("/")
        or "\\" in source
        or source.count("/") > 1
        or Path(source).suffix.lower() in (*TABLES, *PICTURES)
    )


def _asked_for(data: TextData | ImageData) -> list[str]:
    """The names of splits that the recipe gives."""
    return [name for name in (data.train_split, data.validation_split, data.test_split) if name not in (None, NO_SPLIT)]


def _train_of(data: TextData | ImageData, names: Sequence[str]) -> list[str]:
    """Those of `names` that may be the train split."""
    if data.train_split is not None:
        found = find_name(data.train_split, names)
        return [] if found is None else [found]
    return named("train", names)


def choose_splits(source: Source, data: TextData | ImageData) -> dict[Role, str]:
    """Which of the source's splits is train, validation and test; absent where it has to be made, or is not wanted.

    The recipe's own names go first. Without one the table of split names decides (`hftl.data.layout`), and two that mean the same
    are refused.

    Raises:
        DataError: a split that is not there, several for one role, one in two roles, or none to validate on.
    """
    found = list(source.splits)
    problems: list[Problem] = []
    roles: dict[Role, str] = {}
    asked: dict[Role, str | None] = {"train": data.train_split, "validation": data.validation_split, "test": data.test_split}
    there = (f"splits there are: {', '.join(found)}",)
    for role, name in asked.items():
        if name is not None and not (role == "test" and name == NO_SPLIT):
            exact = find_name(name, found)
            if exact is None:
                problems.append(Problem(f"data.{role}_split", f'no split "{name}".{did_you_mean(name, found)}', there))
            roles[role] = exact or name
    free = [name for name in found if name not in roles.values()]
    for role in ROLES:
        if asked[role] is None:
            likely = named(role, free)
            if len(likely) > 1:
                what = f"which of {', '.join(likely)}? Several splits look like the {role} split."
                problems.append(Problem(f"data.{role}_split", what, ("name one, or give the others names that mean no split",)))
            elif likely:
                roles[role] = likely[0]
            elif role == "train":
                problems.append(Problem("data.train_split", f'no split "train".{did_you_mean("train", found)}', there))
    either = named("either", free)
    open_roles = [role for role in ROLES[1:] if asked[role] is None and role not in roles]
    if len(either) == 1 and len(open_roles) == 1:
        roles[open_roles[0]] = either[0]
    elif either and open_roles:
        what = f"is {' or '.join(either)} for validation or for the test?"
        ways = tuple(f'data.{role}_split="{either[0]}"' for role in open_roles)
        problems.append(Problem(f"data.{open_roles[0]}_split", what, (f"write {' or '.join(ways)}",)))
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
    return {role: roles[role] for role in ROLES if role in roles}


def guesses(source: Source, roles: Mapping[Role, str], data: TextData | ImageData) -> list[str]:
    """Which splits were found by a word in their names, and not by all of it or by the recipe."""
    return [
        f"{source.shown.get(name, name)} is read as the {role} split, for a word in its name"
        for role, name in roles.items()
        if role_of(name) != role and find_name(name, _asked_for(data)) is None and name != "train"
    ]


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
    names = {str(name): split for name, split in found.items()}

    def parse(name: str) -> Parsed:
        split = names[name]
        column = split_column(split.column_names, data)
        return _of_dataset(split.column_names, split, data, None if column is None else split.data.column(column))

    readers = {name: _reader(name, functools.partial(parse, name), None, data) for name in names}
    source = Source("hub", readers, revision=commit)
    return _by_column(source, list(names), lambda name: names[name].column_names, parse, None, data)


def _of_dataset(columns: list[str], split: Dataset, data: TextData | ImageData, marks: pa.ChunkedArray | None) -> Parsed:
    """What an Arrow data set has of the wanted columns; `columns` are all of the source's."""
    parsed = Parsed(columns, len(split), None, None, None if marks is None else Labels.of_arrow(marks))
    if data.label_column in split.column_names:
        feature = split.features[data.label_column]
        parsed.labels = Labels.of_arrow(split.data.column(data.label_column))
        parsed.class_names = list(feature.names) if isinstance(feature, ClassLabel) else None
    column = content_column(data)
    if column in split.column_names:
        content = split.select_columns(column)
        parsed.content = content if column == data.kind else content.rename_column(column, data.kind)
    of_split = split_column(columns, data)
    if parsed.marks is not None and of_split in split.column_names:
        feature = split.features[of_split]
        if isinstance(feature, ClassLabel):
            values = [None if value is None or value < 0 else feature.int2str(value) for value in parsed.marks.values]
            parsed.marks = Labels(values, parsed.marks.codes)
    return parsed


# --- rows of a table ----------------------------------------------------------------------------------------------------------


@dataclass
class Parsed:
    """A table that was read, before it is a split or is divided into splits."""

    columns: list[str]
    count: int
    content: Dataset | list[Any] | None
    """The column `text` or `image`, or Python values of it."""
    labels: Labels | None
    marks: Labels | None
    """What a column says about the split of each row."""
    class_names: list[str] | None = None
    remarks: list[str] = field(default_factory=list)

    def take(self, rows: np.ndarray) -> Parsed:
        """Some of its rows. (N,)"""
        content = self.content
        if isinstance(content, Dataset):
            content = pick(content, rows).flatten_indices()
        elif content is not None:
            content = [content[row] for row in rows.tolist()]
        labels = None if self.labels is None else self.labels.take(rows)
        return replace(self, count=len(rows), content=content, labels=labels, marks=None)


def _to_table(name: str, parsed: Parsed, folder: Path | None, data: TextData | ImageData, rows: np.ndarray | None = None) -> Table:
    """A table of all rows, or of these, which keep their numbers.

    Paths of pictures are resolved below `folder`; None: there is none, as on the Hub.
    """
    if rows is not None:
        parsed = parsed.take(rows)
    ids = Strings.of_rows(name, parsed.count if rows is None else rows)
    table = Table(name, parsed.columns, ids, None, parsed.labels, parsed.class_names, [], remarks=list(parsed.remarks))
    if parsed.content is not None:
        if isinstance(data, TextData):
            _set_texts(table, parsed.content)
        else:
            _set_pictures(table, parsed.content, folder)
    return table


def _reader(name: str, parse: Callable[[], Parsed], folder: Path | None, data: TextData | ImageData) -> Callable[[], Table]:
    """Of a whole table. A column that says to which split its rows belong must not say another one."""

    def read() -> Table:
        parsed = parse()
        table = _to_table(name, parsed, folder, data)
        if parsed.marks is not None:
            _compare_marks(table, parsed.marks, data, refuse=folder is not None)
        return table

    return read


def split_column(columns: Iterable[str], data: TextData | ImageData) -> str | None:
    """The column that may say which split a row belongs to; None: there is none."""
    free = [column for column in columns if column not in (content_column(data), data.label_column)]
    by_name = {column.strip().casefold(): column for column in reversed(free)}
    return next((by_name[name] for name in SPLIT_COLUMNS if name in by_name), None)


def _says_split(column: str) -> bool:
    """Whether a column is called a split, so that it deserves a word where its values are none."""
    return column.strip().casefold() in SPLIT_COLUMNS[:3]


def _compare_marks(table: Table, marks: Labels, data: TextData | ImageData, *, refuse: bool) -> None:
    """Look at what a column says about the rows of a split that has a file of its own, or is one of several on the Hub."""
    column = split_column(table.columns, data)
    assert column is not None
    own = role_of(table.name, loosely=True)
    roles = [role_of(str(value), loosely=True) for value in marks.values]
    if None in roles:
        table.remarks += _not_looked_at(column, marks)
        return
    places = [place for place, role in enumerate(roles) if role not in ("either", own)]
    if places and own is not None:
        rows = np.flatnonzero(np.isin(marks.codes, places)).tolist()
        said = ", ".join(f'"{marks.values[place]}"' for place in places)
        if refuse:
            ways = "divide the table by that column, or leave it out where it means something else"
            table.problems += row_problems(table, f'{said} in the column "{column}"', rows, ways)
        else:
            what = f'{said} in the column "{column}", which is not looked at'
            table.remarks.append(f'{count(len(rows), "row")} of the split "{table.name}" with {what}')


def _refuse_marked_stream(table: Table, marks: Labels, data: TextData | ImageData) -> None:
    """Refuse the only split of a stream where a column would divide it, were it read whole (see `_by_column`)."""
    column = split_column(table.columns, data)
    assert column is not None
    roles = [role_of(str(value), loosely=True) for value in marks.values]
    others = [place for place, role in enumerate(roles) if role not in (None, "either", "train")]
    if others and (_says_split(column) or None not in roles):
        said = ", ".join(f'"{marks.values[place]}"' for place in others)
        rows = np.flatnonzero(np.isin(marks.codes, others)).tolist()
        way_out = "leave data.stream_samples out: a data set that is read whole is divided by that column"
        table.problems += row_problems(table, f'{said} in the column "{column}"', rows, way_out)
    elif None in roles:
        table.remarks += _not_looked_at(column, marks)


_FEW = 5  # so many numbers in a column "partition" or "set" may stand for splits
_LOOKED_AT = 200  # lines of .jsonl that tell its columns before it is read


def _not_looked_at(column: str, marks: Labels) -> list[str]:
    """A remark on a column whose values are no splits; none where neither its name nor its values speak of any."""
    unknown = [str(value) for value in marks.values if not role_of(str(value), loosely=True)]
    numbered = 2 <= len(unknown) <= _FEW and all(re.fullmatch(r"[0-9]+", value) for value in unknown)
    if not _says_split(column) and len(unknown) == len(marks.values) and not numbered:
        return []
    if not unknown:
        return [f'the column "{column}" is not looked at, as data.train_split asks for the whole table']
    some = ", ".join(f'"{value}"' for value in unknown[:5]) + (" and others" if len(unknown) > 5 else "")
    return [f'the column "{column}" is not looked at: {some} {"mean" if len(unknown) > 1 else "means"} no split']


def _by_column(
    source: Source,
    names: list[str],
    columns_of: Callable[[str], list[str]],
    parse: Callable[[str], Parsed],
    folder: Path | None,
    data: TextData | ImageData,
) -> Source:
    """The source with the splits that a column of its one table speaks of, or as it was.

    One table: there is no other that may be validation or test. Values of the column are names of splits like any others. A recipe
    whose `data.train_split` is the table's own name, and no value, takes all of it.
    """
    given = _train_of(data, names) or (names if len(names) == 1 else [])
    if len(given) != 1 or any(
        role_of(name, loosely=True) not in (None, "train") or find_name(name, _asked_for(data))
        for name in names
        if name != given[0]
    ):
        return source
    column = split_column(columns_of(given[0]), data)
    if column is None:
        return source
    parsed = parse(given[0])
    assert parsed.marks is not None
    values = ["" if value is None else str(value) for value in parsed.marks.values]
    known = [value for value in values if role_of(value, loosely=True) or find_name(value, _asked_for(data))]
    used = bool(known) if _says_split(column) else len(known) == len(values) > 0
    if data.train_split is not None and find_name(data.train_split, values) is None:
        used = False
    if not used:
        read = functools.partial(_to_table, given[0], parsed, folder, data)
        remarks = _not_looked_at(column, parsed.marks)
        return replace(source, splits={**source.splits, given[0]: read}, remarks=(*source.remarks, *remarks))
    places: dict[str, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    splits: dict[str, Callable[[], Table]] = {name: read for name, read in source.splits.items() if name != given[0]}
    shown = dict(source.shown)
    for value, of_value in places.items():
        rows = np.flatnonzero(np.isin(parsed.marks.codes, of_value)).astype(np.int32)
        splits[value] = functools.partial(_to_table, value, parsed, folder, data, rows)
        shown[value] = f'{count(len(rows), "row")} with "{value}" in the column "{column}"'
    counts = ", ".join(
        f'"{value}" {int(np.isin(parsed.marks.codes, of_value).sum()):,}' for value, of_value in list(places.items())[:5]
    )
    divided = f'the column "{column}" says which split a row is in: {counts}' + (" and more" if len(places) > 5 else "")
    return replace(source, splits=splits, shown=shown, split_column=column, remarks=(*source.remarks, divided))


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
        return lambda: _read_stream(
            name,
            folder,
            lambda: (streams or _streams(data)[1])[name],
            data,
            stream,
            only=len(names) == 1,
        )

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
    columns = [content_column(data), data.label_column, *SPLIT_COLUMNS]
    parts = {"source": data.source, "config": data.config, "commit": commit, "kind": data.kind, "columns": columns}
    key = key_of({**parts, "rows": stream.rows, "buffer": stream.buffer, "seed": TEST_SEED})
    return Path(datasets.config.HF_DATASETS_CACHE) / f"hftl-{key[:32]}" / "splits.json"


def _read_stream(
    name: str,
    folder: Path,
    open_stream: Callable[[], IterableDataset],
    data: TextData | ImageData,
    stream: Stream,
    *,
    only: bool,
) -> Table:
    """The rows of a split that were taken, now or before; `only`: the source has no other."""
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
    column = split_column(split.column_names, data)
    parsed = _of_dataset(split.column_names, split, data, None if column is None else split.data.column(column))
    table = _to_table(name, parsed, None, data)
    if parsed.marks is not None:
        if only:
            _refuse_marked_stream(table, parsed.marks, data)
        else:
            _compare_marks(table, parsed.marks, data, refuse=False)
    return table


def _write_stream(file: Path, name: str, rows: IterableDataset, data: TextData | ImageData, stream: Stream) -> Table | None:
    """Write the first rows of a shuffled stream, the wanted columns and one that speaks of splits; a table without rows where
    the wanted ones are not there.

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
    if (marks := split_column(first.column_names, data)) is not None:
        wanted.append(marks)
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


def _open_tables(data: TextData | ImageData, root: Path) -> Source:
    """Tables named by split, such as train.parquet, or as train-00000-of-00002.parquet with its neighbour; or folders of them."""
    folders, files = list_folder(root)
    by_split = _by_split(data, files, needed=(content_column(data),))
    tables = {file for group in by_split.values() for file in group}
    inside: dict[str, list[Path]] = {}
    if not _train_of(data, list(by_split)):
        found = {folder.name: [file for file in list_folder(folder)[1] if _is_table(file)] for folder in folders}
        found = {name: tables for name, tables in found.items() if tables}
        if _train_of(data, list(found)):
            names = [name for name in found if role_of(name, loosely=True) or find_name(name, _asked_for(data))]
            inside = {name: sorted(found[name], key=lambda file: natural_key(file.name)) for name in names}
        elif not by_split:
            raise DataError(data.source, [_no_table(root, folders, files, list(found))])
    problems = [
        Problem(f'split "{name}"', f"which of {name}/, {listed(file.name for file in by_split[name])}? One split is in one place.")
        for name in inside
        if name in by_split
    ]
    shown = {
        **{name: listed(file.name for file in group) for name, group in by_split.items()},
        **{name: f"{name}/" for name in inside},
    }
    by_split |= inside
    problems += [
        Problem(f'split "{name}"', f"which of {listed(file.name for file in group)}? One split is one kind of file.")
        for name, group in by_split.items()
        if len({file.suffix.lower() for file in group}) > 1
    ]
    if problems:
        raise DataError(data.source, problems)
    # Folders beside tables of pictures are where the pictures are.
    beside = [f"{folder.name}/" for folder in folders if folder.name not in inside] if isinstance(data, TextData) else []
    others, ignored = _left_beside([file for file in files if file not in tables])
    for name in inside:
        ignored.update(ending_of(file.name) for file in list_folder(root / name)[1] if not _is_table(file))
    source = _table_source(by_split, root, data)
    shown |= {name: said for name, said in source.shown.items() if name not in shown}
    return replace(source, shown=shown, beside=(*beside, *others), ignored=ignored)


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in TABLES and not is_about(file)


def _by_split(data: TextData | ImageData, files: Iterable[Path], *, needed: Sequence[str]) -> dict[str, list[Path]]:
    """The tables among some files by the split that their names speak of.

    Where some table has the columns that are `needed`, one that has not is none of the data set unless its whole name is that of a
    split: train_log.csv lies beside train.csv.
    """
    by_split: dict[str, list[Path]] = {}
    for file in sorted(filter(_is_table, files), key=lambda file: natural_key(file.name)):
        by_split.setdefault(_split_of(file), []).append(file)

    def holds_data(name: str) -> bool:
        return any(set(needed) <= set(read_columns(file)) for file in by_split[name])

    doubtful = [name for name in by_split if role_of(name) is None and not find_name(name, _asked_for(data))]
    if doubtful and any(map(holds_data, by_split)):
        for name in doubtful:
            if not holds_data(name):
                del by_split[name]
    return by_split


def _left_beside(files: Iterable[Path]) -> tuple[list[str], Counter[str]]:
    """Of files that are not used the names of those that may hold data, and the others counted by ending."""
    names: list[str] = []
    ignored = Counter[str]()
    for file in files:
        if is_data(file):
            names.append(file.name)
        else:
            ignored[ending_of(file.name)] += 1
    return names, ignored


def _no_table(root: Path, folders: Sequence[Path], files: Sequence[Path], with_tables: Sequence[str]) -> Problem:
    found = ", ".join(entry.name for entry in sorted([*folders, *files])[:SHOWN]) or "nothing"
    expected = f"expected train{TABLES[0]}, or train with one of {', '.join(TABLES[1:])}, and test and validation likewise"
    ways = [expected, f"found: {found}"]
    if len(with_tables) == 1:
        ways.append(f"tables are in {with_tables[0]}/: data.source={root / with_tables[0]}")
    return Problem("data.source", f"no table in {root.absolute()}", tuple(ways))


def _split_of(file: Path) -> str:
    """The split a file belongs to: its name without the suffix and without a shard's number."""
    return re.sub(r"[-_.]\d+-of-\d+.*$", "", file.stem)


_DAMAGED = (pa.ArrowException, DatasetsError, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What pyarrow raises over damaged Parquet files, and datasets over damaged descriptions of the columns in them."""


def _table_source(
    by_split: Mapping[str, Sequence[Path]],
    folder: Path,
    data: TextData | ImageData,
    *,
    picture: str | None = None,
    alone: bool = True,
) -> Source:
    """A source of tables, by the files of each split.

    `picture` is the column of pictures where it is not `data.image_column`; `alone`: a column may divide the one table there is.
    """
    names = list(by_split)
    own = data if picture is None or isinstance(data, TextData) else data.model_copy(update={"image_column": picture})

    @functools.cache  # by `_by_column` and by a reader, but never twice
    def columns_of(name: str) -> list[str]:
        return read_columns(by_split[name][0])

    def parse(name: str) -> Parsed:
        files = by_split[name]
        marks = split_column(columns_of(name), own)
        parsed = (_parse_parquet if files[0].suffix.lower() == ".parquet" else _parse_rows)(files, own, marks)
        if own is not data:
            parsed.columns = [content_column(data) if column == picture else column for column in parsed.columns]
        return parsed

    readers = {name: _reader(name, functools.partial(parse, name), folder, data) for name in names}
    formats = sorted({file.suffix[1:].lower() for files in by_split.values() for file in files})
    source = Source("+".join(formats), readers)
    return _by_column(source, names, columns_of, parse, folder, data) if alone else source


def read_columns(file: Path) -> list[str]:
    """The names of a table's columns, by its first line or its schema; none where that cannot be read."""
    ending = file.suffix.lower()
    try:
        if ending == ".parquet":
            return list(_schema_of(file).names)
        if ending == ".json":
            text = file.read_text(encoding="utf-8-sig").lstrip().removeprefix("[").lstrip()
            first = json.JSONDecoder().raw_decode(text)[0]
            return list(first) if isinstance(first, dict) else []
        with file.open(encoding="utf-8-sig", newline="" if ending != ".jsonl" else "\n") as stream:
            lines = list(itertools.islice((line for line in stream if line.strip()), _LOOKED_AT if ending == ".jsonl" else 1))
        if ending == ".jsonl":  # a row may lack what others have
            return list(dict.fromkeys(key for line in lines for key in json.loads(line)))
        return dialect.header_of("".join(lines), ending)
    except (*_DAMAGED, RecursionError, csv.Error):
        return []


# Files are opened here: pyarrow takes "zip:x/a.parquet" for an address, and "~" for the home of a user.


def _schema_of(file: Path) -> pa.Schema:
    with file.open("rb") as stream:
        return pq.read_schema(stream)


def _rows_in(file: Path) -> int:
    with file.open("rb") as stream:
        return int(pq.read_metadata(stream).num_rows)


def _parse_parquet(files: Sequence[Path], data: TextData | ImageData, marks: str | None) -> Parsed:
    problems = []
    columns: list[str] = []
    for file in files:
        try:
            # Nothing else of a file's metadata is looked at: pyarrow ends the process over some damaged column entries in it.
            found = _schema_of(file).names
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
        return Parsed(columns, sum(map(_rows_in, files)), None, None, None)
    try:
        split = _as_arrow(files, [*wanted, *([marks] if marks in columns else [])], data)
        split.data.validate(full=True)  # or bytes that are no UTF-8 are found when they are first looked at
    except _DAMAGED as error:
        raise DataError(data.source, [Problem(str(files[0]), f"cannot be read as Parquet: {error.__cause__ or error}")]) from error
    return _of_dataset(columns, split, data, split.data.column(marks) if marks in columns else None)


def _as_arrow(files: Sequence[Path], columns: Sequence[str], data: TextData | ImageData) -> Dataset:
    """Some columns of Parquet files as a memory-mapped data set.

    Not by `Dataset.from_parquet`: it takes a path for a pattern or an address, and "reviews[12]/" means "reviews1/" to it. It also
    keeps what it makes of a file by path and time of change, which a copy of a machine may share; this goes by content.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    kept = (
        Path(datasets.config.HF_DATASETS_CACHE) / "hftl" / f"{key_of({'files': digest.hexdigest(), 'columns': columns})[:32]}.arrow"
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    with alone(kept.with_suffix(".lock")):
        if not kept.is_file():
            features = Features.from_arrow_schema(_schema_of(files[0]))
            features = Features({column: features[column] for column in features if column in columns})
            partial = kept.with_suffix(".partial")
            try:
                with partial.open("wb") as output, ArrowWriter(features=features, stream=output) as writer:
                    for batch in _batches(files, columns, _STREAM_BATCH[data.kind]):
                        writer.write_table(table_cast(batch, features.arrow_schema))
                    writer.finalize(close_stream=False)
                partial.replace(kept)
            finally:
                partial.unlink(missing_ok=True)
    return Dataset.from_file(str(kept))


def _batches(files: Sequence[Path], columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Some columns of Parquet files, so many rows at a time."""
    for file in files:
        with file.open("rb") as stream:
            fragment = ds.ParquetFileFormat().make_fragment(stream)
            for batch in fragment.to_batches(columns=list(columns), batch_size=rows, batch_readahead=0, fragment_readahead=0):
                yield pa.Table.from_batches([batch])


def _parse_rows(files: Sequence[Path], data: TextData | ImageData, marks: str | None) -> Parsed:
    """CSV, TSV, JSON and JSONL: files of Python values."""
    problems: list[Problem] = []
    parsed = Parsed([], 0, None, None, None)
    wanted = [content_column(data), data.label_column, *([] if marks is None else [marks])]
    values: dict[str, list[Any]] = {column: [] for column in wanted}
    for file in files:
        found, count, columns = _rows_of(file, wanted, data.label_column, problems, parsed.remarks)
        parsed.columns = parsed.columns or found
        if set(found) != set(parsed.columns):
            what = f"has the columns {listed(found)}, and {files[0].name} has {listed(parsed.columns)}"
            problems.append(Problem(str(file), what))
        parsed.count += count
        for column, collected in values.items():
            collected += columns.get(column, [])
    if problems:
        raise DataError(data.source, problems)
    if content_column(data) in parsed.columns:
        parsed.content = values[content_column(data)]
    if data.label_column in parsed.columns:
        parsed.labels = Labels.of(values[data.label_column])
    if marks in parsed.columns:
        assert marks is not None
        parsed.marks = Labels.of(values[marks])
    return parsed


def _rows_of(
    file: Path, wanted: Sequence[str], label: str | None, problems: list[Problem], remarks: list[str]
) -> tuple[list[str], int, Mapping[str, list[Any]]]:
    """Columns, number of rows, and the values of those wanted columns that there are."""
    text = read_text(file, problems)
    if text is None:
        return [], 0, {}
    if file.suffix.lower() in (".csv", ".tsv"):
        read = dialect.read_rows(file, text, problems, wanted=wanted, label=label)
        remarks += read.remarks
        return read.header, read.count, read.columns
    columns, rows = _json_rows(file, text, problems)
    return columns, len(rows), {column: [row.get(column) for row in rows] for column in wanted if column in columns}


def read_column(file: Path, names: Sequence[str]) -> list[Any]:
    """One column of a single table, as it stands there: the first of `names` that it has. For inputs to predict, without labels.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    problems: list[Problem] = []
    columns: list[str] = []
    values: Mapping[str, list[Any]] = {}
    if file.suffix.lower() == ".parquet":
        try:
            columns = _schema_of(file).names
            name = next((name for name in names if name in columns), None)
            if name is not None:
                values = {name: [value for batch in _batches([file], [name], _BATCH) for value in batch.column(name).to_pylist()]}
        except _DAMAGED as error:
            problems.append(Problem(str(file), f"cannot be read as Parquet: {error}"))
    else:
        columns, _, values = _rows_of(file, names, None, problems, [])
    found = next((name for name in names if name in columns), None)
    if not problems and found is None:
        wanted = " or ".join(f'"{name}"' for name in names)
        problems.append(Problem(str(file), f"no column {wanted}; columns: {listed(columns)}"))
    if problems:
        raise DataError(str(file), problems)
    assert found is not None
    return values[found]


MOST_FROM_PIPE = 1_000_000_000


def read_text(file: Path, problems: list[Problem]) -> str | None:
    """The text of a file; None, with a problem, where it cannot be read."""
    try:
        kind = file.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            problems.append(Problem(str(file), "a folder" if stat.S_ISDIR(kind) else NO_FILE))
            return None
        with file.open("rb") as stream:  # a pipe, as the shell makes one of <(command), may have no end
            content = stream.read(-1 if stat.S_ISREG(kind) else MOST_FROM_PIPE + 1)
    except OSError as error:
        problems.append(Problem(str(file), f"cannot be read: {error.strerror}"))
        return None
    if stat.S_ISFIFO(kind) and len(content) > MOST_FROM_PIPE:
        problems.append(Problem(str(file), f"more than {MOST_FROM_PIPE:,} bytes of a pipe: write them into a file"))
        return None
    first = content[:1000]
    if first.startswith((b"\xff\xfe", b"\xfe\xff")) or any(half.count(0) > len(half) / 2 for half in (first[::2], first[1::2])):
        ways = 'in Excel: "CSV UTF-8"; elsewhere: iconv -f UTF-16 -t UTF-8'
        problems.append(Problem(str(file), "UTF-16, as Excel writes Unicode text: save the file as UTF-8", (ways,)))
        return None
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
        problems.append(Problem(str(file), f"not valid {file.suffix[1:].upper()}: {listed(wrong, SHOWN)}"))
        return [], []
    return list(dict.fromkeys(key for _, row in rows for key in row)), [row for _, row in rows]


# --- folders of pictures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Inside:
    """What lies directly in a folder of pictures."""

    folders: list[str]
    has_pictures: bool
    metadata: Path | None
    """A table of file names, as datasets' imagefolder has it."""


def _look_inside(folder: Path) -> _Inside:
    folders, files = list_folder(folder)
    metadata = None
    for file in files:
        if file.name in ("metadata.csv", "metadata.jsonl", "metadata.parquet") and _FILE_NAME in read_columns(file):
            metadata = file
    return _Inside([entry.name for entry in folders], any(map(is_picture, files)), metadata)


_FILE_NAME = "file_name"  # the column of metadata.csv


def _open_pictures(data: ImageData, root: Path) -> Source:
    """Tables with pictures or their paths; SPLIT/CLASS/*, or CLASS/* as train alone; SPLIT/* with a metadata.csv in each split."""
    folders, files = list_folder(root)
    inside = {folder.name: _look_inside(folder) for folder in folders}
    tables = _by_split(data, files, needed=(data.image_column,))
    train_names = _train_of(data, list(tables))
    if any(found.has_pictures or found.folders for found in inside.values()):  # a log of the training is no table of pictures
        train_names = [
            name
            for name in train_names
            if role_of(name)
            or find_name(name, _asked_for(data))
            or {data.image_column, data.label_column} <= {column for file in tables[name] for column in read_columns(file)}
        ]
    train_tables = [file for name in train_names for file in tables[name]]
    if any(not (columns := read_columns(file)) or data.image_column in columns for file in train_tables):
        return _open_tables(data, root)
    here = _look_inside(root)
    beside, ignored = _left_beside(files)
    splits = _holds_splits(data, inside)
    if here.metadata is not None and not splits and (data.label_column in read_columns(here.metadata) or not inside):
        names, ignored = _left_beside(file for file in files if file != here.metadata and not is_picture(file))
        source = _metadata_source("train", here.metadata, root, data, alone=True)
        return replace(source, beside=tuple(names), ignored=ignored)
    if train_tables and not splits:
        return _open_tables(data, root)
    if not folders:
        help = ["expected SPLIT/CLASS/picture.jpg or CLASS/picture.jpg, or tables named by split", *_labels_may_be(beside)]
        what = "pictures, and no class folders, in" if here.has_pictures else "no folder in"
        raise DataError(data.source, [Problem("data.source", f"{what} {root.absolute()}", tuple(help))])
    if splits:
        readers: dict[str, Callable[[], Table]] = {}
        for name, found in inside.items():
            by_class = not (found.metadata and (data.label_column in read_columns(found.metadata) or not found.folders))
            if by_class:
                readers[name] = functools.partial(_read_pictures, name, root, root / name, data, beside)
            else:
                assert found.metadata is not None
                readers[name] = _metadata_source(name, found.metadata, root / name, data, alone=False).splits[name]
        shown = {name: f"{name}/" for name in readers}
        return Source("image folder", readers, shown=shown, beside=tuple(beside), ignored=ignored)
    problem, remarks = _check_classes(root, inside)
    if problem is not None:
        raise DataError(data.source, [problem])
    pictures = sum(map(is_picture, files))
    if pictures:
        remarks.append(f"{count(pictures, 'picture')} beside the class folders: in none of them, so left out")
    readers = {"train": functools.partial(_read_pictures, "train", root, root, data, beside)}
    return Source("image folder", readers, beside=tuple(beside), ignored=ignored, remarks=tuple(remarks))


def _holds_splits(data: ImageData, inside: Mapping[str, _Inside]) -> bool:
    """Whether the folders of a source are splits, and not classes.

    They are where one that is called as the train split holds class folders or a metadata.csv, or where all are called as splits.
    A folder "train" with pictures in it, among others with pictures, is a class: there are data with trains.
    """

    def divided(name: str) -> bool:
        return bool(inside[name].folders or inside[name].metadata)

    roles = {name: role_of(name) for name in inside}
    asked = _train_of(data, list(inside)) if data.train_split is not None else []
    if asked:
        return any(divided(name) or roles[name] for name in asked)
    strangers = [name for name, role in roles.items() if role is None and inside[name].has_pictures]
    if any(role == "train" and divided(name) and not (inside[name].has_pictures and strangers) for name, role in roles.items()):
        return True
    if not inside:
        return False
    if all(roles.values()) or any(role and inside[name].metadata for name, role in roles.items()):
        return True
    loose = {name: role_of(name, loosely=True) for name in inside}
    if not {"train"} < {role for role in loose.values() if role}:
        return False
    if not any(inside[name].has_pictures or inside[name].folders for name, role in loose.items() if role is None):
        return True
    return all(divided(name) and not inside[name].has_pictures for name, role in loose.items() if role == "train")


def _check_classes(root: Path, inside: Mapping[str, _Inside]) -> tuple[Problem | None, list[str]]:
    """What is wrong with folders that are to be classes, and what deserves a word."""
    splits = {name: role for name in inside if (role := role_of(name))}
    others = [name for name in inside if name not in splits]
    expected = "expected SPLIT/CLASS/picture.jpg, with train among the splits, or CLASS/picture.jpg"
    if len(set(splits.values())) > 1:
        what = f"{listed(splits)} are called as splits, and train has no class folders in it; {listed(others[:SHOWN])} are not"
        return Problem(str(root), what + and_more(len(others), SHOWN), (expected,)), []
    remarks = []
    for name in splits:
        common = {other.casefold() for other in others} & {folder.casefold() for folder in inside[name].folders}
        if common:
            what = f"holds {listed(sorted(common)[:SHOWN])}, which are class folders beside it as well: a split among classes"
            return Problem(str(root / name), what, (expected,)), []
        remarks.append(f'the folder "{name}" is read as a class, like {listed(others[:3])} beside it; it is called as a split')
    for name, found in inside.items():
        within = [folder for folder in found.folders if role_of(folder)]
        if len({role_of(folder) for folder in within}) > 1 or (within == found.folders != [] and not found.has_pictures):
            what = f"holds splits ({listed(within)}), and no class does"
            if len(inside) == 1:
                return Problem(str(root / name), what, (f"data.source={root / name}",)), []
            return Problem(str(root / name), what, (expected, f"or one of them alone: data.source={root / name}")), []
    if len(inside) == 1:
        ((name, found),) = inside.items()
        if len(found.folders) > 1 and not found.has_pictures:
            what = f"the only folder, with {len(found.folders)} folders in it: they may be the classes"
            return Problem(str(root / name), what, (f"data.source={root / name}",)), []
    return None, remarks


def _labels_may_be(tables: Iterable[str]) -> list[str]:
    """The way out for pictures without class folders."""
    tables = [name for name in tables if Path(name).suffix.lower() in (*TABLES, ".txt", ".xlsx")]
    if not tables:
        return []
    way = 'a table train.csv with the columns "image" (paths such as train/1.png) and "label" is read, or class folders'
    return [f"the labels may be in {listed(tables[:3])}", way]


def _metadata_source(name: str, file: Path, folder: Path, data: ImageData, *, alone: bool) -> Source:
    """A split by a table of file names; pictures beside it that it does not name are counted.

    `alone`: it is the whole source, which a column may divide.
    """
    source = _table_source({name: [file]}, folder, data, picture=_FILE_NAME, alone=alone)
    if source.split_column is not None:
        return source

    def read() -> Table:
        table = source.splits[name]()
        if table.content is not None:
            known = set(table.content.data.column("image").combine_chunks().field("path").to_pylist())
            others = [found for found in files_below(folder) if isinstance(found, Path) and found != file]
            others = [found for found in others if str(_real(found)) not in known]
            table.ignored.update(ending_of(found.name) for found in others)
            pictures = sum(map(is_picture, others))
            if pictures:
                table.remarks.append(f"{count(pictures, 'picture')} in {folder.name}/ that {file.name} does not name, so left out")
        return table

    return replace(source, splits={name: read})


def _read_pictures(name: str, root: Path, folder: Path, data: ImageData, beside: Sequence[str]) -> Table:
    ids: list[str] = []
    labels: list[str] = []
    table = Table(name, [data.image_column, data.label_column], ids, None, None, None, [])
    real_root = root.resolve()
    if not folder.resolve().is_relative_to(real_root):
        raise DataError(data.source, [Problem(str(folder), f"a link that leaves the data folder, to {folder.resolve()}")])
    paths: list[str] = []
    classes = {entry.name: 0 for entry in list_folder(folder)[0]}
    left_out: dict[str, Counter[str]] = {name: Counter() for name in classes}
    deeper: dict[str, None] = {}  # in order
    strays = 0
    for found in _walk(folder, real_root, (folder.resolve(),)):
        if isinstance(found, Problem):
            table.problems.append(found)
            continue
        path = found.relative_to(folder)
        if len(path.parts) < 2:
            if folder != root:  # or it was counted when the source was opened
                strays += is_picture(found)
                table.ignored[ending_of(found.name)] += 1
            continue
        if not is_picture(found):
            left_out[path.parts[0]][ending_of(found.name)] += 1
            continue
        if len(path.parts) > 2:
            deeper["/".join(path.parts[:2])] = None
        classes[path.parts[0]] += 1
        ids.append(found.relative_to(root).as_posix())
        paths.append(str(found.absolute()))
        labels.append(sys.intern(path.parts[0]))
    table.labels = Labels.of(labels)
    for counts in left_out.values():
        table.ignored += counts
    links = bool(table.problems)  # that lead astray: what a class folder would hold is not known
    for label, pictures in classes.items():
        if not pictures and not links:
            what = "no picture in this class folder" + (f", but {counted(left_out[label])}" if left_out[label] else "")
            ways = ways_out(left_out[label]) or ("remove the folder, or fill it",)
            table.problems.append(Problem(str(folder / label), what, ways))
    if not classes and not table.problems:
        what = f"{count(strays, 'picture')}, and no class folders" if strays else "no class folders"
        out = _labels_may_be([*beside, *(f"{name}/{file.name}" for file in list_folder(folder)[1] if _is_table(file))])
        if role_of(name) == "test":
            out.append(f'data.test_split="{NO_SPLIT}" leaves the source\'s test split alone')
        table.problems.append(Problem(str(folder), what, tuple(out) or ("expected SPLIT/CLASS/picture.jpg",)))
    elif strays:
        table.remarks.append(f"{count(strays, 'picture')} in {name}/ beside its class folders: in none of them, so left out")
    if deeper:
        some = listed(deeper, 3)
        table.remarks.append(f"folders in class folders of {name}, whose pictures count to the class: {some}")
    if len(classes) == 1 and role_of(only := next(iter(classes)), loosely=True):
        what = f"its only folder, {only}/, is called as a split too: the class folders may be in that one"
        table.problems.append(Problem(str(folder), what, ("expected SPLIT/CLASS/picture.jpg: move what is in it one folder up",)))
    unreadable = [name for name in table.ids if not name.isprintable() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)]
    if unreadable:
        table.problems.append(Problem(str(folder), f"file names that are not UTF-8: {listed(map(ascii, unreadable), SHOWN)}"))
    elif paths:
        table.ids = Strings(Dataset(on_disk("id", pa.string(), [pa.array(ids, pa.string())])), "id")
        table.content = _picture_paths(paths)
    return table


def files_below(folder: Path) -> Iterator[Path | Problem]:
    """The files below a folder, as training reads them; a problem for each link that leads out of it or to nothing."""
    return _walk(folder, folder.resolve(), (folder.resolve(),))


def _walk(folder: Path, root: Path, trail: tuple[Path, ...]) -> Iterator[Path | Problem]:
    """Files below `folder`, sorted, hidden ones left out; links are followed as long as they stay below `root`."""
    for name in sorted(name for name in os.listdir(folder) if not is_hidden(name)):
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
        elif real.is_file():
            yield entry
        else:
            yield Problem(str(entry), NO_FILE)


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
    return [
        Problem(
            f'split "{table.name}"',
            f"{count(len(rows), 'row')} with {what}: {listed(table.ids[row] for row in rows[:SHOWN])}{and_more(len(rows), SHOWN)}",
            help,
        )
    ]
