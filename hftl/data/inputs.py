"""What a model is asked about: texts and pictures, files, folders and tables of them, without labels, read as training reads.

N inputs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset
from datasets import Image as ImageFeature

from hftl.data.decoding import BadImage, inspect
from hftl.data.dialect import lines_of
from hftl.data.encoding import read_text
from hftl.data.folders import files_below
from hftl.data.joining import FIRST
from hftl.data.layout import counted, ending_of, is_picture, table_ending, ways_out
from hftl.data.tables import read_values
from hftl.data.targets import COLUMN
from hftl.errors import DataError, Problem, printable
from hftl.memory import stored_picture, values_of
from hftl.recipe import TextData
from hftl.wording import count, listed

Say = Callable[[str], object]


@dataclass(frozen=True)
class Inputs:
    """Contents to predict."""

    names: list[str]
    """What each of the N is called: a text itself, the file of a picture, or its place, such as "input 3"."""
    dataset: Dataset
    """As those of `hftl.data.source.Splits`; its labels say nothing."""


def read_texts(inputs: Sequence[Any], data: TextData, say: Say) -> Inputs:
    """Texts, the lines of .txt files, the .txt files of folders, and of tables the columns that `data` names, or "text".

    Where `data` names several, what they hold in a row may also be given as a dict by their names, or a tuple in their order.

    Raises:
        DataError: what cannot be read, all of it in one report.
    """
    texts: list[str] = []
    first_lengths: list[int] = []
    problems: list[Problem] = []
    row = f"a row (dict or tuple) of {listed(data.text_columns)}"
    wanted = f"expected {row}, or a table (pathlib.Path) with these columns"
    if not data.pair:
        wanted = f"expected a text (str){f', {row}' if data.joins else ''} or a file (pathlib.Path)"

    def add(rows: Iterable[Sequence[str]]) -> None:
        for values in rows:
            texts.append(data.join(values))
            first_lengths.append(len(values[0]))

    for place, given in enumerate(inputs):
        if isinstance(given, str) and not data.pair:
            texts.append(str(given))
        elif isinstance(given, Mapping | tuple | list) and data.joins:
            add(_values(given, data.text_columns, place, problems))
        elif not isinstance(given, os.PathLike):
            problems.append(Problem(f"input {place}", f"{wanted}, found {type(given).__name__}"))
        elif not os.path.exists(given):
            problems.append(Problem(str(given), "no such file or folder; a text of one word is written with a space after it"))
        elif table_ending((path := Path(given)).name) is not None and path.is_file():
            choices = [data.text_columns] if data.joins else list(dict.fromkeys([data.text_columns, ("text",)]))
            add(_strings(path, choices, "without a text", problems).values())
        elif data.pair:
            problems.append(Problem(str(given), f"the model reads pairs: {wanted}"))
        elif path.is_dir():
            texts += [_read(file, problems) for file in _files(path, _is_text, ".txt", problems, say)]
        else:
            texts += lines_of(_read(path, problems))
    if problems or not texts:
        raise DataError("the inputs", problems or [Problem("inputs", "nothing to predict")])
    contents = Dataset.from_dict({"text": texts, **({FIRST: first_lengths} if data.pair else {})})
    return Inputs(texts, _unlabelled([str(place) for place in range(len(texts))], contents))


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


def _strings(table: Path, choices: Sequence[Sequence[str]], lacking: str, problems: list[Problem]) -> dict[int, tuple[str, ...]]:
    """Some columns of a table, by row; a null or another type is a problem, as in training."""
    rows = dict(enumerate(read_values(table, *choices)))
    wrong = [row for row, values in rows.items() if not all(isinstance(value, str) for value in values)]
    if wrong:
        what = f"{count(len(wrong), 'row')} {lacking}: {listed(wrong, 10)}"
        problems.append(Problem(str(table), what, ("rows are counted from 0, without a header",)))
    skipped = set(wrong)
    return {row: values for row, values in rows.items() if row not in skipped}


def _read(file: Path, problems: list[Problem]) -> str:
    text = read_text(file, problems)
    return "" if text is None else text.replace("\r\n", "\n")  # a file from Windows is the same text


def read_pictures(inputs: Sequence[Any], columns: Sequence[str], say: Say) -> Inputs:
    """Files, the pictures of folders, those that tables name, and pictures and arrays in memory.

    Raises:
        DataError: what cannot be read, all of it in one report.
    """
    names: list[str] = []
    pictures: list[dict[str, Any]] = []
    problems: list[Problem] = []

    def add(files: Iterable[Path]) -> None:
        for file in map(str, files):
            names.append(file)
            pictures.append({"bytes": None, "path": file})

    for place, given in enumerate(inputs):
        if not isinstance(given, str | os.PathLike):
            names.append(f"input {place}")
            try:
                pictures.append(stored_picture(given))
            except ValueError as error:
                problems.append(Problem(names.pop(), str(error)))
        elif not str(given) or not os.path.exists(given):  # "" would be the folder one is in
            problems.append(Problem(str(given) or '""', "no such file or folder"))
        elif (path := Path(given)).is_dir():
            add(_files(path, is_picture, "picture", problems, say))
        elif table_ending(path.name) is not None:
            choices = [(column,) for column in columns]
            for row, (name,) in _strings(path, choices, "without the path of a picture", problems).items():
                if _inside(path.parent / name, path.parent):
                    add([path.parent / name])
                else:
                    problems.append(Problem(f"{path}, row {row}", f"{name}: a path that leaves the folder of the table"))
        else:
            add([path])
    for name, picture in zip(names, pictures, strict=True):
        try:
            inspect(picture["bytes"] or name)
        except BadImage as error:
            problems.append(Problem(name, str(error)))
    if problems or not names:
        raise DataError("the inputs", problems or [Problem("inputs", "nothing to predict")])
    ids = [f"{place} {name}" for place, name in enumerate(names)]  # a file may be given twice
    dataset = Dataset.from_dict({"image": pictures}).cast_column("image", ImageFeature(decode=False))
    return Inputs(names, _unlabelled(ids, dataset))


def _unlabelled(ids: list[str], contents: Dataset) -> Dataset:
    """The contents as a split has them; what is to be predicted is not known, and the column says nothing."""
    dataset = contents.add_column("id", ids).add_column(COLUMN, [0] * len(ids))
    return dataset.cast_column(COLUMN, ClassLabel(names=["unknown"]))
