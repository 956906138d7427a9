"""What a model is asked about: texts and pictures, files, folders and tables of them, without labels, read as training reads.

N inputs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset
from datasets import Image as ImageFeature

from hftl.data.decoding import BadImage, inspect
from hftl.data.dialect import lines_of
from hftl.data.encoding import read_text
from hftl.data.folders import files_below
from hftl.data.layout import counted, ending_of, is_picture, table_ending, ways_out
from hftl.data.tables import read_column
from hftl.data.targets import COLUMN
from hftl.errors import DataError, Problem, printable
from hftl.memory import stored_picture
from hftl.wording import count, listed

Say = Callable[[str], object]


@dataclass(frozen=True)
class Inputs:
    """Contents to predict."""

    names: list[str]
    """What each of the N is called: a text itself, the file of a picture, or its place, such as "input 3"."""
    dataset: Dataset
    """As those of `hftl.data.source.Splits`; its labels say nothing."""


def read_texts(inputs: Sequence[Any], columns: Sequence[str], say: Say) -> Inputs:
    """Texts, the lines of .txt files, the .txt files of folders, and a column of tables.

    Raises:
        DataError: what cannot be read, all of it in one report.
    """
    texts: list[str] = []
    problems: list[Problem] = []
    for place, given in enumerate(inputs):
        if isinstance(given, str):
            texts.append(str(given))
        elif not isinstance(given, os.PathLike):
            what = f"expected a text (str) or a file (pathlib.Path), found {type(given).__name__}"
            problems.append(Problem(f"input {place}", what))
        elif not os.path.exists(given):
            problems.append(Problem(str(given), "no such file or folder; a text of one word is written with a space after it"))
        elif (path := Path(given)).is_dir():
            texts += [_read(file, problems) for file in _files(path, _is_text, ".txt", problems, say)]
        elif table_ending(path.name) is not None:
            texts += _strings(path, columns, "without a text", problems).values()
        else:
            texts += lines_of(_read(path, problems))
    if problems or not texts:
        raise DataError("the inputs", problems or [Problem("inputs", "nothing to predict")])
    return Inputs(texts, _unlabelled([str(place) for place in range(len(texts))], Dataset.from_dict({"text": texts})))


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


def _strings(table: Path, columns: Sequence[str], lacking: str, problems: list[Problem]) -> dict[int, str]:
    """One column of a table, by row; a null or another type is a problem, as in training."""
    values = read_column(table, columns)
    wrong = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if wrong:
        what = f"{count(len(wrong), 'row')} {lacking}: {listed(wrong, 10)}"
        problems.append(Problem(str(table), what, ("rows are counted from 0, without a header",)))
    return {row: value for row, value in enumerate(values) if isinstance(value, str)}


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
            for row, name in _strings(path, columns, "without the path of a picture", problems).items():
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
