"""What a source hands over: the rows of each split, how they are called, and what is wrong with them.

Whatever a row comes from (a table, a folder, the Hub), it ends as a `Table` of ids, contents and labels.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, Image, LargeList, List

from hftl.data.columns import Labels, Strings, pick
from hftl.data.content import content_of
from hftl.data.layout import (
    FLAG_COLUMNS,
    SPLIT_COLUMNS,
    Role,
    find_name,
    flagged,
    named,
    role_of,
)
from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import ImageData, TextData
from hftl.wording import and_more, count, listed

NO_SPLIT = "none"
"""As `data.test_split`: leave the source's own test split alone (on the Hub some have no labels)."""

SHOWN = 10
"""Rows named in one problem; the rest is counted."""

TEST_SEED = 20_200
"""The test split that is made from train, a sample of it, and the rows taken from a stream are the same for every `run.seed`: the
test split is sealed once, and runs of several seeds differ by their training alone."""


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
    labelled_by_folder: bool = False
    """Whether its labels are names of folders: then each is a class, also "nan" and "-1"."""


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
    splits_from: str = "one folder"
    """What its splits are told by: "folder names", "file names", "one table"."""

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


def asked_for(data: TextData | ImageData) -> list[str]:
    """The names of splits that the recipe gives."""
    return [name for name in (data.train_split, data.validation_split, data.test_split) if name not in (None, NO_SPLIT)]


def train_of(data: TextData | ImageData, names: Sequence[str]) -> list[str]:
    """Those of `names` that may be the train split."""
    if data.train_split is not None:
        name = find_name(data.train_split, names)
        return [] if name is None else [name]
    return named("train", names)


def of_dataset(columns: list[str], split: Dataset, data: TextData | ImageData, marks: pa.ChunkedArray | None) -> Parsed:
    """What an Arrow data set has of the wanted columns; `columns` are all of the source's."""
    parsed = Parsed(columns, len(split), None, None, None if marks is None else Labels.of_arrow(marks))
    if data.id_column is not None and data.id_column in split.column_names:
        parsed.ids = split.data.column(data.id_column).to_pylist()
    if len(data.label_columns) > 1:
        if {*data.label_columns} <= {*split.column_names}:
            parsed.labels = labels_of([split.data.column(column).to_pylist() for column in data.label_columns])
    elif data.label_columns[0] in split.column_names:
        feature = split.features[data.label_columns[0]]
        parsed.labels = Labels.of_arrow(split.data.column(data.label_columns[0]))
        each = feature.feature if isinstance(feature, List | LargeList) else feature
        parsed.class_names = list(each.names) if isinstance(each, ClassLabel) else None
    contents = list(content_columns(data))
    if set(contents) <= set(split.column_names):
        content = split.select_columns(contents)
        alone = len(contents) == 1 and contents[0] != data.kind
        parsed.content = content.rename_column(contents[0], data.kind) if alone else content
    of_split = split_column(columns, data)
    if parsed.marks is not None and of_split in split.column_names:
        feature = split.features[of_split]
        if isinstance(feature, ClassLabel):
            values = [None if value is None or value < 0 else feature.int2str(value) for value in parsed.marks.values]
            parsed.marks = Labels(values, parsed.marks.codes)
        parsed.marks = marks_of(str(of_split), parsed.marks)
    return parsed


def marks_of(column: str, marks: Labels) -> Labels:
    """What a column says about the split of each row, as names of splits where it only says yes or no."""
    if column.strip().casefold() not in FLAG_COLUMNS:
        return marks
    return Labels([flagged(column, value) for value in marks.values], marks.codes)


def labels_of(columns: Sequence[Sequence[Any]]) -> Labels:
    """Labels of Python values; of several columns those of a row are a tuple."""
    return Labels.of(columns[0] if len(columns) == 1 else zip(*columns, strict=True))


@dataclass
class Parsed:
    """A table that was read, before it is a split or is divided into splits."""

    columns: list[str]
    count: int
    content: Dataset | list[Any] | None
    """The column `text` or `image`, or Python values of it; of a text of several columns these, or tuples."""
    labels: Labels | None
    marks: Labels | None
    """What a column says about the split of each row."""
    class_names: list[str] | None = None
    ids: list[Any] | None = None
    """The values of `data.id_column`."""
    remarks: list[str] = field(default_factory=list)

    def take(self, rows: np.ndarray) -> Parsed:
        """Some of its rows. (N,)"""
        content = self.content
        if isinstance(content, Dataset):
            content = pick(content, rows).flatten_indices()
        elif content is not None:
            content = [content[row] for row in rows.tolist()]
        labels = None if self.labels is None else self.labels.take(rows)
        ids = None if self.ids is None else [self.ids[row] for row in rows.tolist()]
        return replace(self, count=len(rows), content=content, labels=labels, ids=ids, marks=None)


def to_table(name: str, parsed: Parsed, folder: Path | None, data: TextData | ImageData, rows: np.ndarray | None = None) -> Table:
    """A table of all rows, or of these, which keep their numbers.

    Paths of pictures are resolved below `folder`; None: there is none, as on the Hub.
    """
    if rows is not None:
        parsed = parsed.take(rows)
    numbers = Strings.of_rows(name, parsed.count if rows is None else rows)
    table = Table(name, parsed.columns, numbers, None, parsed.labels, parsed.class_names, [], remarks=list(parsed.remarks))
    if parsed.ids is not None:
        _set_ids(table, parsed.ids, str(data.id_column))
    if parsed.content is not None:
        content_of(data).put(table, parsed.content, folder)
    return table


def _set_ids(table: Table, values: Sequence[Any], column: str) -> None:
    """Call the rows by what a column says, which has to be said once."""
    blank = [row for row, value in enumerate(values) if value is None or str(value).strip() == ""]
    ids = [str(value) for value in values]
    first: dict[str, int] = {}
    again = [row for row, id in enumerate(ids) if first.setdefault(id, row) != row]
    problems = row_problems(table, f'nothing in the column "{column}"', blank, "data.id_column=null numbers the rows instead")
    repeated = listed(dict.fromkeys(ids[row] for row in again[:SHOWN]))
    if not blank:
        what = f'an id in the column "{column}" that another row has ({repeated})'
        problems += row_problems(table, what, again, "data.id_column=null numbers the rows instead")
    table.problems += problems
    if not problems:
        table.ids = ids


def reader(name: str, parse: Callable[[], Parsed], folder: Path | None, data: TextData | ImageData) -> Callable[[], Table]:
    """A function that reads a whole table. A column that says to which split its rows belong must not say another one."""

    def read() -> Table:
        parsed = parse()
        table = to_table(name, parsed, folder, data)
        if parsed.marks is not None:
            compare_marks(table, parsed.marks, data, refuse=folder is not None)
        return table

    return read


def split_column(columns: Iterable[str], data: TextData | ImageData) -> str | None:
    """The column that may say which split a row belongs to; None: there is none."""
    free = [column for column in columns if column not in named_columns(data)]
    by_name = {column.strip().casefold(): column for column in reversed(free)}
    return next((by_name[name] for name in (*SPLIT_COLUMNS, *FLAG_COLUMNS) if name in by_name), None)


def _says_split(column: str) -> bool:
    """Whether a column is called a split, so that it deserves a word where its values are none."""
    return column.strip().casefold() in (*SPLIT_COLUMNS[:3], *FLAG_COLUMNS)


def compare_marks(table: Table, marks: Labels, data: TextData | ImageData, *, refuse: bool) -> None:
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
        shown = ", ".join(f'"{marks.values[place]}"' for place in places)
        if refuse:
            ways = "divide the table by that column, or leave it out where it means something else"
            table.problems += row_problems(table, f'{shown} in the column "{column}"', rows, ways)
        else:
            what = f'{shown} in the column "{column}", which is not looked at'
            table.remarks.append(f'{count(len(rows), "row")} of the split "{table.name}" with {what}')


def refuse_marked_stream(table: Table, marks: Labels, data: TextData | ImageData) -> None:
    """Refuse the only split of a stream where a column would divide it, were it read whole (see `by_column`)."""
    column = split_column(table.columns, data)
    assert column is not None
    roles = [role_of(str(value), loosely=True) for value in marks.values]
    others = [place for place, role in enumerate(roles) if role not in (None, "either", "train")]
    if others and (_says_split(column) or None not in roles):
        shown = ", ".join(f'"{marks.values[place]}"' for place in others)
        rows = np.flatnonzero(np.isin(marks.codes, others)).tolist()
        way_out = "leave data.stream_samples out: a data set that is read whole is divided by that column"
        table.problems += row_problems(table, f'{shown} in the column "{column}"', rows, way_out)
    elif None in roles:
        table.remarks += _not_looked_at(column, marks)


_FEW = 5  # so many numbers in a column "partition" or "set" may stand for splits

LOOKED_AT = 200  # lines of .jsonl that tell its columns before it is read


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


def by_column(
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
    own = train_of(data, names) or (names if len(names) == 1 else [])
    if len(own) != 1 or any(
        role_of(name, loosely=True) not in (None, "train") or find_name(name, asked_for(data)) for name in names if name != own[0]
    ):
        return source
    column = split_column(columns_of(own[0]), data)
    if column is None:
        return source
    flags = [name for name in columns_of(own[0]) if name.strip().casefold() in FLAG_COLUMNS]
    if len(flags) > 1 and column in flags:
        way_out = 'write one column "split" that says train, validation or test'
        raise DataError(data.source, [Problem("data.source", f"each of the columns {listed(flags)} divides the rows", (way_out,))])
    parsed = parse(own[0])
    assert parsed.marks is not None
    values = ["" if value is None else str(value) for value in parsed.marks.values]
    known = [value for value in values if role_of(value, loosely=True) or find_name(value, asked_for(data))]
    used = bool(known) if _says_split(column) else len(known) == len(values) > 0
    if data.train_split is not None and find_name(data.train_split, values) is None:
        used = False
    if not used:
        read = functools.partial(to_table, own[0], parsed, folder, data)
        remarks = _not_looked_at(column, parsed.marks)
        return replace(source, splits={**source.splits, own[0]: read}, remarks=(*source.remarks, *remarks))
    places: dict[str, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    splits: dict[str, Callable[[], Table]] = {name: read for name, read in source.splits.items() if name != own[0]}
    shown = dict(source.shown)
    for value, of_value in places.items():
        rows = np.flatnonzero(np.isin(parsed.marks.codes, of_value)).astype(np.int32)
        splits[value] = functools.partial(to_table, value, parsed, folder, data, rows)
        shown[value] = f'{count(len(rows), "row")} with "{value}" in the column "{column}"'
    counts = ", ".join(
        f'"{value}" {int(np.isin(parsed.marks.codes, of_value).sum()):,}' for value, of_value in list(places.items())[:5]
    )
    divided = f'the column "{column}" says which split a row is in: {counts}' + (" and more" if len(places) > 5 else "")
    told_by = f'the column "{column}"'
    return replace(source, splits=splits, shown=shown, split_column=column, splits_from=told_by, remarks=(*source.remarks, divided))


def content_columns(data: TextData | ImageData) -> tuple[str, ...]:
    """The source's names for the columns of texts, or for that of pictures."""
    return content_of(data).columns


def named_columns(data: TextData | ImageData) -> list[str]:
    """The source's names for every column that a recipe names: contents, labels and, where it is named, that of ids."""
    return [*content_columns(data), *data.label_columns, *([] if data.id_column is None else [data.id_column])]


def picture_paths(paths: Iterable[str]) -> Dataset:
    """A data set of files; their names are in memory, in Arrow."""
    names = pa.array(paths, pa.string())
    stored = pa.StructArray.from_arrays([pa.nulls(len(names), pa.binary()), names], ["bytes", "path"])
    return Dataset(pa.table({"image": stored}), DatasetInfo(features=Features({"image": Image(decode=False)})))


def place_of(folder: Path, path: str) -> Path:
    """Where a path of a table leads; "photos\\1.jpg", as Windows writes it, into a folder where no file has that whole name."""
    place = folder / path
    return folder / path.replace("\\", "/") if "\\" in path and not os.path.lexists(place) else place


def real(path: Path) -> Path | None:
    """Where a path leads once links and ".." are followed; None for links that lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


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


def column_problems(role: Role, table: Table, data: TextData | ImageData) -> list[Problem]:
    """No rows, no content, no labels; and what reading the table has found."""
    problems = []
    if not table.ids and not table.problems:
        problems.append(Problem(f'split "{table.name}"', "no rows"))
    contents = [(f"data.{data.kind}_column", column) for column in content_columns(data)]
    labels = (("data.label_column", column) for column in data.label_columns)
    ids = () if data.id_column is None else (("data.id_column", data.id_column),)
    free = iter([name for name in table.columns if name not in named_columns(data)])
    for key, column in (*contents, *labels, *ids):
        if (table.columns or table.ids) and column not in table.columns:
            help = [f"columns there are: {', '.join(table.columns) or 'none'}"]
            help += _ways_to_columns(key, next(free, None), table, data) if role == "train" else ()
            if role == "test" and column in data.label_columns:
                help.append(f'data.test_split="{NO_SPLIT}" leaves the source\'s test split alone')
            problems.append(
                Problem(key, f'no column "{column}" in split "{table.name}".{did_you_mean(column, table.columns)}', tuple(help))
            )
    return problems + table.problems


def _ways_to_columns(key: str, guess: str | None, table: Table, data: TextData | ImageData) -> Iterator[str]:
    """What to write where a table calls its columns otherwise, or does not call them; `guess` is a column that nothing else is."""
    if guess is None or key == "data.id_column":
        return
    yield f"another name: {shlex.quote(f'{key}={guess}')}"
    others = [name for name in table.columns if name not in named_columns(data)]
    if key == "data.text_column" and len(others) > 1 and set(data.label_columns) <= set(table.columns):
        yield f"two texts that belong together: {shlex.quote(f'{key}=[{others[0]}, {others[1]}]')} data.pair=true"
    if not set(named_columns(data)) & set(table.columns):
        yield f"where the file begins with a row and not with names, put a line above it: {','.join(named_columns(data))}"
    elif key == "data.label_column" and len(table.columns) > 2:
        several = f"{key}=[{', '.join(others[:2])}]"
        yield f"where each label has a column of 0 and 1: {shlex.quote(several)}"
    yield from table.remarks
