"""What a model is asked about: texts and pictures, files, folders and tables of them, without labels, read as training reads.

Everything is looked at once before anything is computed, so that all that is wrong is in one report. Then the contents come in
blocks: of a table with a million rows so many are in memory.

N inputs of a block.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
from datasets import ClassLabel, Dataset
from datasets import Image as ImageFeature

from hftl.data.decoding import BadImage
from hftl.data.dialect import lines_of
from hftl.data.encoding import read_text
from hftl.data.folders import files_below
from hftl.data.joining import FIRST
from hftl.data.layout import counted, ending_of, table_ending, ways_out
from hftl.data.rows import SHOWN, place_of
from hftl.data.tables import ANOTHER_NAME, Rows, open_rows
from hftl.data.targets import COLUMN
from hftl.errors import DataError, Problem, printable
from hftl.memory import values_of
from hftl.recipe import TextData
from hftl.wording import count, listed

if TYPE_CHECKING:
    from hftl.data.image import Pictures

Say = Callable[[str], object]
OnBadImage = Literal["error", "skip"]


class Input(NamedTuple):
    """One content to predict."""

    name: str
    """A text itself, the file of a picture, or its place, such as "input 3"."""
    content: Mapping[str, Any]
    """By the columns that a data set of its kind has."""
    row: Mapping[str, Any] | None = None
    """What the table has that it comes from."""


@dataclass(frozen=True)
class Inputs:
    """A block of contents to predict."""

    names: list[str]
    """What each of the N is called."""
    dataset: Dataset
    """As those of `hftl.data.source.Splits`; its labels say nothing."""
    rows: list[Mapping[str, Any] | None]
    """What the tables have that they come from."""


class NothingAsked(DataError):
    """What was given can be read, and there is nothing in it."""


@dataclass(frozen=True)
class Asked:
    """All that is to be predicted: looked at, and nothing of it in memory but what was handed over there."""

    count: int
    blocks: Callable[[], Iterator[Inputs]]
    columns: Mapping[str, pa.DataType] = field(default_factory=dict)
    """What the tables have, by name: what is kept beside the predictions."""
    left_out: Sequence[str] = ()
    """Pictures that cannot be read, by name."""


def read_texts(
    inputs: Sequence[Any],
    data: TextData,
    say: Say,
    *,
    columns: Sequence[str] | None = None,
    at_once: int = 1_000,
    another_name: str = ANOTHER_NAME,
) -> Asked:
    """Texts, the lines of .txt files, the .txt files of folders, and of tables the columns that `data` names, or "text".

    Where `data` names several, what they hold in a row may also be given as a dict by their names, or a tuple in their order.

    Args:
        inputs: see above.
        data: the section of the model's recipe.
        say: is told which files of a folder are left out.
        columns: what the tables call the columns of `data`, in their order; None: as `data` does.
        at_once: texts of a block.
        another_name: what a table without the columns is answered with.

    Raises:
        DataError: what cannot be read, all of it in one report.
    """
    parts: list[Iterable[Input] | Rows] = []
    problems: list[Problem] = []
    row = f"a row (dict or tuple) of {listed(data.text_columns)}"
    wanted = f"expected {row}, or a table (pathlib.Path) with these columns"
    if not data.pair:
        wanted = f"expected a text (str){f', {row}' if data.joins else ''} or a file (pathlib.Path)"
    if columns is not None and len(columns) != len(data.text_columns):
        what = f"{count(len(columns), 'column')} named, and the model reads {len(data.text_columns)}: {listed(data.text_columns)}"
        raise DataError("the inputs", [Problem("--text-column", what)])
    choices = [data.text_columns] if data.joins else list(dict.fromkeys([data.text_columns, ("text",)]))
    choices = choices if columns is None else [tuple(columns)]

    def text(values: Sequence[str], row: Mapping[str, Any] | None = None) -> Input:
        joined = data.join(values)
        return Input(joined, {"text": joined, **({FIRST: len(values[0])} if data.pair else {})}, row)

    def whole(texts: Iterable[str]) -> list[Input]:
        return [Input(given, {"text": given}) for given in texts]

    for place, given in enumerate(inputs):
        if isinstance(given, str) and not data.pair:
            parts.append(whole([str(given)]))
        elif isinstance(given, Mapping | tuple | list) and data.joins:
            parts.append([text(values) for values in _values(given, data.text_columns, place, problems)])
        elif not isinstance(given, os.PathLike):
            problems.append(Problem(f"input {place}", f"{wanted}, found {type(given).__name__}"))
        elif not os.path.exists(given):
            problems.append(Problem(str(given), "no such file or folder; a text of one word is written with a space after it"))
        elif table_ending((path := Path(given)).name) is not None and not path.is_dir():
            table = open_rows(path, choices, data, at_once=at_once, say=say, another_name=another_name)
            problems += _lacking(path, table, lambda value: isinstance(value, str), "without a text")
            parts.append(table)
        elif data.pair:
            problems.append(Problem(str(given), f"the model reads pairs: {wanted}"))
        elif path.is_dir():
            parts.append(whole(_read(file, problems, data.encoding) for file in _files(path, _is_text, ".txt", problems, say)))
        else:
            parts.append(whole(lines_of(_read(path, problems, data.encoding))))

    def contents() -> Iterator[Input]:
        for part in parts:
            if isinstance(part, Rows):
                for block in part.blocks():
                    yield from (text([row[name] for name in part.columns], row) for row in block)
            else:
                yield from part

    def blocks() -> Iterator[Inputs]:
        start = 0
        for some in _in_blocks(contents(), at_once):
            dataset = Dataset.from_dict({name: [one.content[name] for one in some] for name in some[0].content})
            ids = [str(place) for place in range(start, start + len(some))]
            yield Inputs([one.name for one in some], as_unlabelled(ids, dataset), [one.row for one in some])
            start += len(some)

    return _asked(sum(1 for _ in contents()) if not problems else 0, blocks, parts, problems)


def _asked(
    number: int,
    blocks: Callable[[], Iterator[Inputs]],
    parts: Iterable[Iterable[Input] | Rows],
    problems: list[Problem],
    left_out: Sequence[str] = (),
) -> Asked:
    if problems or not number:
        nothing = NothingAsked.single("inputs", "nothing to predict", source="the inputs")
        raise DataError("the inputs", problems) if problems else nothing
    columns: dict[str, pa.DataType] = {}
    for part in parts:
        for name, kind in (part.types if isinstance(part, Rows) else {}).items():
            columns[name] = kind if columns.get(name, kind) == kind else pa.string()
    return Asked(number, blocks, columns, left_out)


def _in_blocks(inputs: Iterable[Input], at_once: int) -> Iterator[list[Input]]:
    block: list[Input] = []
    for one in inputs:
        block.append(one)
        if len(block) == at_once:
            yield block
            block = []
    if block:
        yield block


def _is_text(file: Path) -> bool:
    return ending_of(file.name) == ".txt"


def _files(folder: Path, wanted: Callable[[Path], bool], what: str, problems: list[Problem], say: Say) -> list[Path]:
    """The wanted files below a folder, sorted; as in training, hidden ones are left out and no link may lead out of it."""
    files: list[Path] = []
    left_out = Counter[str]()
    for found in files_below(folder):
        if isinstance(found, Problem):
            problems.append(found)
        elif wanted(found):
            files.append(found)
        else:
            left_out[ending_of(found.name)] += 1
    if not files:
        there = f", but {counted(left_out)}" if left_out else ""
        problems.append(Problem(str(folder), f"no {what} in this folder{there}", ways_out(left_out)))
    elif left_out:
        say(printable(f"{folder}: left out {counted(left_out)}"))
    return files


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _values(given: Any, columns: Sequence[str], place: int, problems: list[Problem]) -> list[list[str]]:
    """The texts of one row that was handed over; none, with a problem, where it is no row of texts."""
    try:
        values = values_of(given, columns)
    except ValueError as error:
        problems.append(Problem(f"input {place}", str(error)))
        return []
    wrong = [name for name, value in zip(columns, values, strict=True) if not isinstance(value, str)]
    problems += [Problem(f"input {place}", f'"{name}" is no text (str)') for name in wrong]
    return [] if wrong else [values]


def _lacking(file: Path, table: Rows, is_one: Callable[[Any], bool], lacking: str) -> list[Problem]:
    """The rows of a table whose content is a null or of another type, in one problem; none where each is one."""
    wrong: list[int] = []
    place = 0
    for block in table.blocks():
        wrong += [place + row for row, of in enumerate(block) if not all(is_one(of.get(name)) for name in table.columns)]
        place += len(block)
    if not wrong:
        return []
    what = f"{count(len(wrong), 'row')} {lacking}: {listed(wrong, SHOWN)}"
    return [Problem(str(file), what, ("rows are counted from 0, without a header",))]


def _read(file: Path, problems: list[Problem], encoding: str | None) -> str:
    text = read_text(file, problems, encoding=encoding)
    return "" if text is None else text.replace("\r\n", "\n")  # a file from Windows is the same text


def read_pictures(
    inputs: Sequence[Any],
    content: Pictures,
    say: Say,
    *,
    columns: Sequence[str] | None = None,
    on_bad_image: OnBadImage = "error",
) -> Asked:
    """Files, the pictures of folders, those that tables name or hold, and pictures and arrays in memory.

    Args:
        inputs: see above.
        content: what a picture is; a table's column is that of its recipe, or "image".
        say: is told which files of a folder are left out.
        columns: what the tables call the column of pictures, alone; None: as `data` does.
        on_bad_image: whether one that cannot be read is refused, or left out and counted.

    Raises:
        DataError: what cannot be read, all of it in one report.
    """
    parts: list[list[Input] | tuple[Path, Rows]] = []
    problems: list[Problem] = []
    data, at_once = content.data, content.rows_at_once
    if columns is not None and len(columns) != 1:
        what = f"{count(len(columns), 'column')} named, and a picture is in one"
        raise DataError("the inputs", [Problem("--image-column", what)])
    choices = [tuple(columns)] if columns is not None else [(name,) for name in dict.fromkeys((data.image_column, "image"))]

    def files(paths: Iterable[Path]) -> list[Input]:
        return [Input(str(path), {"bytes": None, "path": str(path)}) for path in paths]

    for place, given in enumerate(inputs):
        if not isinstance(given, str | os.PathLike):
            try:
                parts.append([Input(f"input {place}", content.stored(given))])
            except ValueError as error:
                problems.append(Problem(f"input {place}", str(error)))
        elif not str(given) or not os.path.exists(given):  # "" would be the folder one is in
            problems.append(Problem(str(given) or '""', "no such file or folder"))
        elif (path := Path(given)).is_dir():
            parts.append(files(_files(path, content.is_one, content.thing, problems, say)))
        elif table_ending(path.name) is not None:
            table = open_rows(path, choices, data, at_once=at_once, say=say)
            if on_bad_image == "error":
                problems += _lacking(path, table, lambda value: _stored(value) is not None, _NO_PICTURE)
            parts.append((path, table))
        else:
            parts.append(files([path]))

    def contents() -> Iterator[Input | Problem]:
        for part in parts:
            if isinstance(part, tuple):
                yield from _of_table(*part)
            else:
                yield from part

    bad: set[int] = set()
    left_out: list[str] = []
    number = 0
    for place, one in enumerate(contents()):
        number += 1
        try:
            if isinstance(one, Problem):
                raise BadImage(one.what)
            content.inspect(one.content["bytes"] or one.content["path"])
        except BadImage as error:
            name = one.where if isinstance(one, Problem) else one.name
            if on_bad_image == "skip":
                bad.add(place)
                left_out.append(name)
            elif str(error) != _NO_PICTURE:  # which is said of all rows of its table already
                problems.append(Problem(name, str(error)))

    def blocks() -> Iterator[Inputs]:
        readable = ((place, one) for place, one in enumerate(contents()) if place not in bad)
        start = 0
        for some in _in_blocks((one for _, one in readable if isinstance(one, Input)), at_once):
            pictures = Dataset.from_dict({"image": [dict(one.content) for one in some]})
            dataset = pictures.cast_column("image", ImageFeature(decode=False))
            ids = [f"{start + place} {one.name}" for place, one in enumerate(some)]  # a file may be given twice
            yield Inputs([one.name for one in some], as_unlabelled(ids, dataset), [one.row for one in some])
            start += len(some)

    return _asked(number - len(bad), blocks, [part[1] if isinstance(part, tuple) else part for part in parts], problems, left_out)


_NO_PICTURE = "without the path of a picture"


def _stored(value: Any) -> str | bytes | None:
    """The path or the bytes that a cell of a table has; None: neither."""
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    return value if isinstance(value, str | bytes) and value else None


def _of_table(file: Path, table: Rows) -> Iterator[Input | Problem]:
    """The pictures that the rows of a table name, or hold as bytes."""
    [column] = table.columns
    place = 0
    for block in table.blocks():
        for row in block:
            where, value = f"{file}, row {place}", row.get(column)
            place += 1
            stored = _stored(value)
            if stored is None:
                yield Problem(where, _NO_PICTURE)
            elif isinstance(stored, bytes):
                name = value.get("path") if isinstance(value, dict) else None
                yield Input(name or where, {"bytes": stored, "path": None}, row)
            elif not _inside(path := place_of(file.parent, stored), file.parent):
                yield Problem(where, f"{stored}: a path that leaves the folder of the table")
            else:
                yield Input(str(path), {"bytes": None, "path": str(path)}, row)


def as_unlabelled(ids: list[str], contents: Dataset) -> Dataset:
    """The contents as a split has them; what is to be predicted is not known, and the column says nothing."""
    dataset = contents.add_column("id", ids).add_column(COLUMN, [0] * len(ids))
    return dataset.cast_column(COLUMN, ClassLabel(names=["unknown"]))
