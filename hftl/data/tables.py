"""Tables on this machine: CSV, JSON, Excel and Parquet, packed or not, one file or a folder of them."""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.arrow_writer import ArrowWriter
from datasets.exceptions import DatasetsError
from datasets.table import table_cast

from hftl.data import dialect, excel
from hftl.data.columns import Labels
from hftl.data.content import content_of
from hftl.data.encoding import head_of, is_pointer, pointer_problem, read_text
from hftl.data.layout import (
    TABLES,
    ending_of,
    find_name,
    is_about,
    is_data,
    list_folder,
    plain_name,
    role_of,
    table_ending,
)
from hftl.data.rows import (
    LOOKED_AT,
    SHOWN,
    Parsed,
    Source,
    asked_for,
    by_column,
    content_columns,
    labels_of,
    marks_of,
    named_columns,
    natural_key,
    of_dataset,
    reader,
    split_column,
    train_of,
)
from hftl.errors import DataError, Problem, printable
from hftl.recipe import ImageData, TextData
from hftl.store import exclusive_lock, key_of
from hftl.wording import listed


def open_tables(data: TextData | ImageData, root: Path) -> Source:
    """Tables named by split, such as train.parquet, or as train-00000-of-00002.parquet with its neighbour; or folders of them."""
    folders, files = list_folder(root)
    by_split = files_by_split(data, files, needed=content_columns(data))
    tables = {file for group in by_split.values() for file in group}
    inside: dict[str, list[Path]] = {}
    if not train_of(data, list(by_split)):
        by_folder = {folder.name: [file for file in list_folder(folder)[1] if is_table(file)] for folder in folders}
        by_folder = {name: tables for name, tables in by_folder.items() if tables}
        if train_of(data, list(by_folder)):
            names = [name for name in by_folder if role_of(name, loosely=True) or find_name(name, asked_for(data))]
            inside = {name: sorted(by_folder[name], key=lambda file: natural_key(file.name)) for name in names}
        elif not by_split and list(by_folder) == ["data"]:  # as in a clone of a data set of the Hub
            lower = open_tables(data, root / "data")
            return replace(lower, remarks=(*lower.remarks, "the tables are read from the folder data/"))
        elif not by_split:
            raise DataError(data.source, [_no_table(root, folders, files, list(by_folder))])
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
        if len({table_ending(file.name) for file in group}) > 1
    ]
    if problems:
        raise DataError(data.source, problems)
    # Folders beside tables of pictures are where the pictures are.
    beside = [f"{folder.name}/" for folder in folders if folder.name not in inside] if not content_of(data).names_files else []
    others, ignored = left_beside([file for file in files if file not in tables])
    for name in inside:
        ignored.update(ending_of(file.name) for file in list_folder(root / name)[1] if not is_table(file))
    source = table_source(by_split, root, data)
    if source.split_column is None:
        source = replace(source, splits_from="folder names" if inside else "file names")
    shown |= {name: values for name, values in source.shown.items() if name not in shown}
    return replace(source, shown=shown, beside=(*beside, *others), ignored=ignored)


def is_table(file: Path) -> bool:
    """Whether a file is one of rows, by its ending, and not about the data."""
    return table_ending(file.name) is not None and not is_about(file)


def files_by_split(data: TextData | ImageData, files: Iterable[Path], *, needed: Sequence[str]) -> dict[str, list[Path]]:
    """The tables among some files by the split that their names speak of.

    Where some table has the columns that are `needed`, one that has not is none of the data set unless its whole name is that of a
    split: train_log.csv lies beside train.csv.
    """
    by_split: dict[str, list[Path]] = {}
    for file in sorted(filter(is_table, files), key=lambda file: natural_key(file.name)):
        by_split.setdefault(_split_of(file), []).append(file)

    def holds_data(name: str) -> bool:
        return any(set(needed) <= set(read_columns(file, data.delimiter)) for file in by_split[name])

    doubtful = [name for name in by_split if role_of(name) is None and not find_name(name, asked_for(data))]
    if doubtful and any(map(holds_data, by_split)):
        for name in doubtful:
            if not holds_data(name):
                del by_split[name]
    return by_split


def left_beside(files: Iterable[Path]) -> tuple[list[str], Counter[str]]:
    """The files that are not used: by name those that may hold data, the others counted by ending."""
    names: list[str] = []
    ignored = Counter[str]()
    for file in files:
        if is_data(file):
            names.append(file.name)
        else:
            ignored[ending_of(file.name)] += 1
    return names, ignored


_PANDAS = {
    ".feather": "feather",
    ".orc": "orc",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".dta": "stata",
    ".sav": "spss",
    ".xls": "excel",
    ".ods": "excel",
    ".xlsm": "excel",
    ".xml": "xml",
    ".h5": "hdf",
}
"""Endings of tables that pandas reads, and what its function is called."""


def ways_to_convert(file: Path) -> Iterator[str]:
    """A command that makes a table of a file of another kind, where there is one."""
    if (kind := _PANDAS.get(file.suffix.lower())) is not None:
        way = f"import pandas; pandas.read_{kind}('{file.name}').to_parquet('{file.stem}.parquet')"
        yield f'with pandas: python -c "{way}"'
    if file.suffix.lower() == ".txt":
        with file.open("rb") as stream:
            is_fasttext = stream.read(9) == b"__label__"
        way = f"(printf 'label\\ttext\\n'; sed -E 's/^__label__([^ ]+) /\\1\\t/' {file.name}) > {file.stem}.tsv"
        yield f"of fastText's format: {way}" if is_fasttext else "a text a file is read from a folder a class: neg/1.txt, pos/1.txt"


def _no_table(root: Path, folders: Sequence[Path], files: Sequence[Path], with_tables: Sequence[str]) -> Problem:
    listing = ", ".join(entry.name for entry in sorted([*folders, *files])[:SHOWN]) or "nothing"
    expected = f"expected train{TABLES[0]}, or train with one of {', '.join(TABLES[1:])}, and test and validation likewise"
    ways = [expected, f"found: {listing}"]
    ways += list(dict.fromkeys(way for file in files for way in ways_to_convert(file)))[:3]
    if len(with_tables) == 1:
        ways.append(f"tables are in {with_tables[0]}/: data.source={root / with_tables[0]}")
    return Problem("data.source", f"no table in {root.absolute()}", tuple(ways))


def _split_of(file: Path) -> str:
    """The split a file belongs to: its name without the suffix and without a shard's number."""
    return re.sub(r"[-_.]\d+-of-\d+.*$", "", Path(plain_name(file.name)).stem)


_DAMAGED = (pa.ArrowException, DatasetsError, OSError, ValueError, TypeError, KeyError, AttributeError)
"""What pyarrow raises over damaged Parquet files, and datasets over damaged descriptions of the columns in them."""


def table_source(
    by_split: Mapping[str, Sequence[Path]],
    folder: Path,
    data: TextData | ImageData,
    *,
    own: TextData | ImageData | None = None,
    alone: bool = True,
) -> Source:
    """A source of tables, by the files of each split.

    `own` is `data` with the tables' own names of columns, where those differ; `alone`: a column may divide the one table there is.
    """
    names = list(by_split)
    own = own or data

    @functools.cache  # by `by_column` and by a reader, but never twice
    def columns_of(name: str) -> list[str]:
        return read_columns(by_split[name][0], data.delimiter)

    def parse(name: str) -> Parsed:
        files = by_split[name]
        marks = split_column(columns_of(name), own)
        parsed = (_parse_parquet if table_ending(files[0].name) == ".parquet" else _parse_rows)(files, own, marks)
        if own is not data:
            names_of = dict(zip(content_columns(own), content_columns(data), strict=True))
            parsed.columns = [names_of.get(column, column) for column in parsed.columns]
        return parsed

    readers = {name: reader(name, functools.partial(parse, name), folder, data) for name in names}
    formats = sorted({str(table_ending(file.name))[1:] for files in by_split.values() for file in files})
    source = Source("+".join(formats), readers, splits_from="one table" if len(names) == 1 else "file names")
    return by_column(source, names, columns_of, parse, folder, data) if alone else source


def read_columns(file: Path, delimiter: str | None = None) -> list[str]:
    """The names of a table's columns, by how it begins or its schema; none where that cannot be read."""
    ending = table_ending(file.name)
    try:
        if ending == ".parquet":
            return list(_schema_of(file).names)
        if ending == ".xlsx":
            return excel.read_header(file)
        head = head_of(file)
        if ending in (".csv", ".tsv"):
            return dialect.header_of(head, ending, delimiter)
        return _json_columns(head, ending == ".jsonl")
    except (*_DAMAGED, RecursionError, csv.Error):
        return []


def _json_columns(head: str, lines: bool) -> list[str]:
    """The keys of the first objects, of which one may lack what others have."""
    head = head.lstrip()
    if head.startswith("[") or not lines:
        first = json.JSONDecoder().raw_decode(head.removeprefix("[").lstrip())[0]
        return list(first) if isinstance(first, dict) else []
    rows = [line for line in head.split("\n", LOOKED_AT)[:LOOKED_AT] if line.strip()]
    keys: dict[str, None] = {}
    for line in rows:
        try:
            keys |= dict.fromkeys(json.loads(line))
        except json.JSONDecodeError:  # the last one may be cut
            break
    return list(keys)


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
        with file.open("rb") as stream:
            if is_pointer(stream.read(100)):
                problems.append(pointer_problem(file))
                continue
        try:
            # Nothing else of a file's metadata is looked at: pyarrow ends the process over some damaged column entries in it.
            names = _schema_of(file).names
        except _DAMAGED as error:
            problems.append(Problem(str(file), f"cannot be read as Parquet: {error}"))
            continue
        columns = columns or names
        if len(set(names)) < len(names):
            way_out = "give the columns of one name other ones, as pandas does: df.columns = [...]"
            problems.append(Problem(str(file), f"two columns of one name: {listed(names)}", (way_out,)))
        if set(names) != set(columns):
            problems.append(Problem(str(file), f"has the columns {listed(names)}, and {files[0].name} has {listed(columns)}"))
    if problems:
        raise DataError(data.source, problems)
    wanted = [column for column in named_columns(data) if column in columns]
    if not wanted:
        return Parsed(columns, sum(map(_rows_in, files)), None, None, None)
    try:
        split = _as_arrow(files, [*wanted, *([marks] if marks in columns else [])], data)
        split.data.validate(full=True)  # or bytes that are no UTF-8 are found when they are first looked at
    except _DAMAGED as error:
        raise DataError(data.source, [Problem(str(files[0]), f"cannot be read as Parquet: {error.__cause__ or error}")]) from error
    return of_dataset(columns, split, data, split.data.column(marks) if marks in columns else None)


def _as_arrow(files: Sequence[Path], columns: Sequence[str], data: TextData | ImageData) -> Dataset:
    """Some columns of Parquet files as a memory-mapped data set.

    Not by `Dataset.from_parquet`: it takes a path for a pattern or an address, and "reviews[12]/" means "reviews1/" to it. It also
    keeps what it makes of a file by path and time of change, which a copy of a machine may share; this goes by content.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    kept_columns = (
        Path(datasets.config.HF_DATASETS_CACHE) / "hftl" / f"{key_of({'files': digest.hexdigest(), 'columns': columns})[:32]}.arrow"
    )
    kept_columns.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(kept_columns.with_suffix(".lock")):
        if not kept_columns.is_file():
            features = Features.from_arrow_schema(_schema_of(files[0]))
            features = Features({column: features[column] for column in features if column in columns})
            partial = kept_columns.with_suffix(".partial")
            try:
                with partial.open("wb") as output, ArrowWriter(features=features, stream=output) as writer:
                    for batch in _batches(files, columns, content_of(data).rows_at_once):
                        writer.write_table(table_cast(batch, features.arrow_schema))
                    writer.finalize(close_stream=False)
                partial.replace(kept_columns)
            finally:
                partial.unlink(missing_ok=True)
    return Dataset.from_file(str(kept_columns))


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
    wanted = [*named_columns(data), *([] if marks is None else [marks])]
    values: dict[str, list[Any]] = {column: [] for column in wanted}
    for file in files:
        names, count, columns = _rows_of(
            file,
            wanted,
            data.label_columns[0],
            problems,
            parsed.remarks,
            encoding=data.encoding,
            delimiter=data.delimiter,
        )
        parsed.columns = parsed.columns or names
        if set(names) != set(parsed.columns):
            what = f"has the columns {listed(names)}, and {files[0].name} has {listed(parsed.columns)}"
            problems.append(Problem(str(file), what))
        parsed.count += count
        for column, collected in values.items():
            collected += columns.get(column, [])
    if problems:
        raise DataError(data.source, problems)
    contents = content_columns(data)
    if set(contents) <= set(parsed.columns):
        parsed.content = values[contents[0]] if len(contents) == 1 else list(zip(*map(values.get, contents), strict=True))
    if {*data.label_columns} <= {*parsed.columns}:
        parsed.labels = labels_of([values[column] for column in data.label_columns])
    if marks in parsed.columns:
        assert marks is not None
        parsed.marks = marks_of(marks, Labels.of(values[marks]))
    if data.id_column is not None and data.id_column in parsed.columns:
        parsed.ids = values[data.id_column]
    return parsed


def _rows_of(
    file: Path,
    wanted: Sequence[str],
    label: str | None,
    problems: list[Problem],
    remarks: list[str],
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
) -> tuple[list[str], int, Mapping[str, list[Any]]]:
    """Columns, number of rows, and the values of those wanted columns that there are."""
    if table_ending(file.name) == ".xlsx":
        read = excel.read_rows(file, problems, wanted=wanted)
        remarks += read.remarks
        return read.header, read.count, read.columns
    text = read_text(file, problems, encoding=encoding, remarks=remarks)
    if text is None:
        return [], 0, {}
    if table_ending(file.name) in (".csv", ".tsv"):
        read = dialect.read_rows(file, text, problems, wanted=wanted, label=label, delimiter=delimiter)
        remarks += read.remarks
        return read.header, read.count, read.columns
    columns, rows = _json_rows(file, text, problems, remarks)
    there = [column for column in wanted if column in columns]
    return columns, len(rows), {column: [row.get(column) for row in rows] for column in there}


_Blocks: TypeAlias = Callable[[], Iterator[list[dict[str, Any]]]]


@dataclass(frozen=True)
class Rows:
    """A table to predict, all of its columns, without labels."""

    columns: tuple[str, ...]
    """Those of the content, by the recipe's order."""
    types: Mapping[str, pa.DataType]
    """Every column of the table, in its order."""
    blocks: Callable[[], Iterator[list[dict[str, Any]]]]
    """The rows, some at a time, as often as they are asked for. Those of Parquet come from the disk; of CSV and JSONL the text
    is in memory, of others the rows are."""


ANOTHER_NAME = "another name: --text-column NAME or --image-column NAME; in Python columns=NAME"
"""The way out of a prediction whose table calls its columns otherwise."""


def open_rows(
    file: Path,
    choices: Sequence[Sequence[str]],
    data: TextData | ImageData,
    *,
    at_once: int,
    say: Callable[[str], object] = lambda line: None,
    another_name: str = ANOTHER_NAME,
) -> Rows:
    """A single table, all of its columns.

    Args:
        file: the table.
        choices: columns of the content; the first choice that it has all of is taken.
        data: the section of the recipe, which knows encoding and delimiter.
        at_once: rows of a block.
        say: gets what is worth knowing about how it is read.
        another_name: the way out where it has the columns of no choice.

    Raises:
        DataError: the file cannot be read, or has the columns of no choice.
    """
    problems: list[Problem] = []
    wrong: list[str] = []  # what keeps lines of JSON from being a whole
    remarks: list[str] = []
    types: dict[str, pa.DataType] = {}
    blocks: _Blocks
    wanted = [name for choice in choices for name in choice]
    if table_ending(file.name) == ".parquet":
        types, blocks = _open_parquet(file, problems, at_once)
    elif table_ending(file.name) == ".xlsx":
        read = excel.read_rows(file, problems, wanted=wanted, whole=True)
        remarks += read.remarks
        types, blocks = dict.fromkeys(read.columns, pa.string()), _in_blocks(read.columns, read.count, at_once)
    else:
        text = read_text(file, problems, encoding=data.encoding, remarks=remarks) or ""
        if table_ending(file.name) in (".csv", ".tsv"):
            opened = dialect.open_rows(file, text, problems, wanted=wanted, delimiter=data.delimiter, at_once=at_once)
            remarks += opened.remarks
            types, blocks = dict.fromkeys(opened.header, pa.string()), opened.blocks
        elif (whole := _whole_json(file, text, wrong)) is _LINES:
            types, blocks = _open_lines(file, text, problems, at_once)
        else:
            names, rows = _checked(file, _entries(whole, file, wrong, problems, remarks), wrong, problems)
            values = {name: [row.get(name) for row in rows] for name in names}
            found = {name: _type_of(of_column) for name, of_column in values.items()}
            types = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in found.items()}
            blocks = _in_blocks(values, len(rows), at_once)
    chosen = next((choice for choice in choices if set(choice) <= set(types)), None)
    if not problems and chosen is None:
        asked = " or ".join(" and ".join(f'"{name}"' for name in choice if name not in types) for choice in choices)
        problems.append(Problem(str(file), f"no column {asked}; columns: {listed(types) or 'none'}", (another_name,)))
    if problems:
        raise DataError(str(file), problems)
    assert chosen is not None
    for remark in remarks:
        say(printable(remark))

    return Rows(tuple(chosen), types, blocks)


def _open_parquet(file: Path, problems: list[Problem], at_once: int) -> tuple[dict[str, pa.DataType], _Blocks]:
    """All columns of a Parquet file, and its rows."""
    types: dict[str, pa.DataType] = {}
    try:
        schema = _schema_of(file)
        types = dict(zip(schema.names, schema.types, strict=True))
    except _DAMAGED as error:
        problems.append(Problem(str(file), f"cannot be read as Parquet: {error}"))

    def blocks() -> Iterator[list[dict[str, Any]]]:
        try:
            for batch in _batches([file], list(types), at_once):
                yield batch.to_pylist()
        except _DAMAGED as error:
            raise DataError(str(file), [Problem(str(file), f"cannot be read as Parquet: {error}")]) from None

    return types, blocks


def _in_blocks(values: Mapping[str, list[Any]], number: int, at_once: int) -> _Blocks:
    """The rows of columns that are in memory."""

    def blocks() -> Iterator[list[dict[str, Any]]]:
        for start in range(0, number, at_once):
            some = (of_column[start : start + at_once] for of_column in values.values())
            yield [dict(zip(values, row, strict=True)) for row in zip(*some, strict=True)]

    return blocks


def _type_of(values: Sequence[Any]) -> pa.DataType:
    """What Arrow makes of a column of JSON; strings where it makes nothing of it, null where there is nothing in it."""
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError):  # 1 and "a", or a number of 30 digits
        return pa.string()


def _json_rows(file: Path, text: str, problems: list[Problem], remarks: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of JSONL, an object a line, or of JSON: a list of objects, or what programs write in place of one.

    The text decides, whatever the file is called: ".json" is often an object a line.
    """
    wrong: list[str] = []
    whole = _whole_json(file, text, wrong)
    rows = list(_json_lines(text, wrong)) if whole is _LINES else _entries(whole, file, wrong, problems, remarks)
    return _checked(file, rows, wrong, problems)


def _entries(whole: Any, file: Path, wrong: list[str], problems: list[Problem], remarks: list[str]) -> list[tuple[str, Any]]:
    """The rows of a JSON text that was read as a whole, with their places; none where something is wrong already."""
    listing = [] if wrong else _list_of_rows(whole, file, problems, remarks)
    return [(f"entry {number}", row) for number, row in enumerate(listing)]


def _checked(
    file: Path, rows: Sequence[tuple[str, Any]], wrong: list[str], problems: list[Problem]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows, each an object; none, with a problem, where anything is wrong."""
    wrong += [f"{where}: not an object" for where, row in rows if not isinstance(row, dict)]
    if wrong:
        problems.append(_no_json(file, wrong))
        return [], []
    return list(dict.fromkeys(key for _, row in rows for key in row)), [row for _, row in rows]


def _no_json(file: Path, wrong: Sequence[str]) -> Problem:
    return Problem(str(file), f"not valid {file.suffix[1:].upper()}: {listed(wrong, SHOWN)}")


_LINES = object()
"""What stands for a JSON text that has an object a line."""


def _whole_json(file: Path, text: str, wrong: list[str]) -> Any:
    """What a JSON text is as a whole, or `_LINES`; what keeps it from being read is added to `wrong`."""
    if table_ending(file.name) == ".jsonl" and not text.lstrip().startswith("["):
        return _LINES
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):  # after the object of the first line
            return _LINES
        wrong.append(f"line {error.lineno}: {error.msg}")
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, endless nesting
        wrong.append(str(error))
    return None


def _json_lines(text: str, wrong: list[str]) -> Iterator[tuple[str, Any]]:
    """The value of each line, with its place; what keeps a line from being read is added to `wrong`."""
    start = number = 0
    while start < len(text):
        # Not `splitlines`: JSON strings may hold U+2028 and other characters that it takes for the end of a line.
        end = text.find("\n", start) + 1 or len(text)
        line, start, number = text[start:end].removesuffix("\n"), end, number + 1
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                wrong.append(f"line {number}: {error.msg} at column {error.colno}")
            except (ValueError, RecursionError) as error:
                wrong.append(f"line {number}: {error}")


def _open_lines(file: Path, text: str, problems: list[Problem], at_once: int) -> tuple[dict[str, pa.DataType], _Blocks]:
    """All columns of a text with an object a line, and its rows: made of the text as often as they are asked for, and not kept.

    Everything is looked at once before.
    """
    wrong: list[str] = []
    types: dict[str, pa.DataType] = {}
    for some in _batched(_json_lines(text, wrong), at_once):
        wrong += [f"{where}: not an object" for where, row in some if not isinstance(row, dict)]
        rows = [row for _, row in some if isinstance(row, dict)]
        for name in dict.fromkeys(key for row in rows for key in row):
            types[name] = _common(types.get(name, pa.null()), _type_of([row.get(name) for row in rows]))
    if wrong:
        problems.append(_no_json(file, wrong))

    def blocks() -> Iterator[list[dict[str, Any]]]:
        for some in _batched(_json_lines(text, []), at_once):
            yield [{name: row.get(name) for name in types} for _, row in some]

    return {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in types.items()}, blocks


def _batched(lines: Iterator[tuple[str, Any]], at_once: int) -> Iterator[list[tuple[str, Any]]]:
    while some := list(itertools.islice(lines, at_once)):
        yield some


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds what both hold: of whole numbers and others numbers; strings where there is none."""
    try:
        schemas = [pa.schema([("it", kind)]) for kind in (one, other)]
        common: pa.DataType = pa.unify_schemas(schemas, promote_options="permissive").field("it").type
        return common
    except pa.ArrowException:
        return pa.string()


def _list_of_rows(whole: Any, file: Path, problems: list[Problem], remarks: list[str]) -> list[Any]:
    """The rows of a JSON file; what pandas writes by default, columns of lists or of objects by row, is turned."""
    if isinstance(whole, list):
        return whole
    if isinstance(whole, dict) and whole:
        columns = list(whole.values())
        if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
            columns = [list(column.values()) for column in columns]
        if all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns) and len(columns) > 1:
            return [dict(zip(whole, values, strict=True)) for values in zip(*columns, strict=True)]
        if {"images", "annotations"} <= whole.keys():
            what = "annotations of COCO: what is where in a picture, and hftl tells of a whole picture what it is"
            way = "a table of one row a picture is read, with its path and its class: train.csv, with the columns image,label"
            problems.append(Problem(str(file), what, (way,)))
            return []
        lists = [key for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if len(lists) == 1:
            remarks.append(f'the rows of {file.name} are the list "{lists[0]}" in it')
            return list(whole[lists[0]])
    ways = ['such as [{"text": "a text", "label": "its class"}]']
    if len(paths := list(_lists_in(whole))) == 1:
        ways = [f"its rows may be in {paths[0]}: jq {shlex.quote(paths[0])} {shlex.quote(file.name)} > rows.json"]
    problems.append(Problem(str(file), "expected a list of objects, an object a line, or an object of columns", tuple(ways)))
    return []


def _lists_in(whole: Any, path: str = "", depth: int = 4) -> Iterator[str]:
    """Where in a JSON value lists of objects are, as jq calls the places; what is in such a list is not looked at."""
    if isinstance(whole, list) and whole and isinstance(whole[0], dict):
        yield path or "."
    elif isinstance(whole, dict) and depth:
        for key, value in whole.items():
            yield from _lists_in(
                value, f"{path}.{key}" if re.fullmatch(r"[A-Za-z_]\w*", key) else f"{path}[{json.dumps(key)}]", depth - 1
            )
