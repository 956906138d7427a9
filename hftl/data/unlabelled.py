"""Texts that are learned from without labels: those of train, of `data.unlabelled`, or of a whole source; never those of the test.

A text that is also in validation or test, by its fingerprint (`hftl.data.duplicates`), is left out and counted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, List, concatenate_datasets

from hftl.data.archives import is_archive
from hftl.data.columns import Strings, pick
from hftl.data.duplicates import text_fingerprints
from hftl.data.inputs import NothingAsked, Say, read_texts
from hftl.data.layout import Role, find_name, list_folder, role_of, table_ending
from hftl.data.reading import open_source
from hftl.data.rows import Source, Table, content_columns
from hftl.data.source import Splits, Undivided
from hftl.data.targets import COLUMN, WEIGHT
from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import LOCAL, ImageData, TextData
from hftl.wording import count

HELD_OUT: tuple[Role, ...] = ("validation", "test")


@dataclass(frozen=True)
class Texts:
    """Texts without labels, and where they are from."""

    name: str
    """ "train", or what `data.unlabelled` says."""
    dataset: Dataset
    """The column `text`, and of pairs `hftl.data.joining.FIRST`."""
    left_out: Mapping[str, int]
    """How many texts were left out, by the reason: "in validation or test", "empty"."""

    @property
    def texts(self) -> Strings:
        """The texts alone, in their order."""
        return Strings(self.dataset, "text")

    @property
    def sha256(self) -> str:
        """Of the texts in their order, a zero byte after each; in hex."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()

    @property
    def said(self) -> str:
        """ "unsupervised: 49,998 texts; 2 in validation or test left out"."""
        out = "".join(f"; {number:,} {why} left out" for why, number in self.left_out.items() if number)
        return f"{self.name}: {count(len(self.dataset), 'text')}{out}"


def check_unlabelled(data: TextData | ImageData, undivided: Undivided) -> None:
    """Refuse a `data.unlabelled` that names nothing, or a split that is judged by, also where its texts are not read.

    That of a published recipe ("local:NAME") is asked for where it is read.

    Raises:
        DataError: it does.
    """
    if not isinstance(data, TextData) or data.unlabelled is None or data.unlabelled.startswith(LOCAL):
        return
    name = find_name(data.unlabelled, list(undivided.source.splits))
    if name is None:
        _given_path(data)
    else:
        _check_free(undivided.source, name, undivided.roles, data)


def read_unlabelled(data: TextData, undivided: Undivided, splits: Splits, say: Say) -> list[Texts]:
    """The texts of train, and those of `data.unlabelled` where it is set.

    Args:
        data: the section; with a split that is made of train, `splits` says which rows it has.
        undivided: its source, as it was read.
        splits: the rows of train, validation and test.
        say: is told which files of a folder are left out.

    Raises:
        DataError: `data.unlabelled` is the train, validation or test split, or nothing that can be read; or no text is left of it.
    """
    held_out = _held_out(data, undivided, splits)
    read = [_without("train", splits.train.select_columns(_columns(splits.train)), held_out)]
    if data.unlabelled is None:
        return read
    name = find_name(data.unlabelled, list(undivided.source.splits))
    dataset = _given_rows(data, say) if name is None else _split(undivided.source, name, undivided.roles, data)
    read.append(_without(data.unlabelled, dataset, held_out))
    if not len(read[-1].dataset):
        what = f"{data.unlabelled}: of {count(len(dataset), 'text')} none is left; the others are in validation or test, or empty"
        raise DataError(data.source, [Problem("data.unlabelled", what, ("name texts that the recipe is not judged by",))])
    return read


def with_unlabelled(train: Dataset, unlabelled: Dataset) -> Dataset:
    """The rows of train, and behind them texts without a label: their class is -1, or of several labels they have none; each weighs
    1."""
    rows = len(unlabelled)
    none: list[Any] = [[]] if isinstance(train.features[COLUMN], List) else [-1]
    texts = unlabelled.select_columns(_columns(train))
    texts = texts.add_column("id", [f"unlabelled/{row}" for row in range(rows)]).add_column(COLUMN, none * rows)
    if WEIGHT in train.column_names:
        texts = texts.add_column(WEIGHT, [1.0] * rows)
    return concatenate_datasets([train, texts.select_columns(train.column_names).cast(train.features)])


def read_corpus(data: TextData, say: Say) -> list[Texts]:
    """All texts of a source by itself, labelled or not; those of splits that are called validation or test are left out.

    A .txt file is a text a line, and a folder of nothing but .txt files a text each.

    Raises:
        DataError: it is nothing that can be read, or no text is left of it.
    """
    path = Path(os.path.expanduser(data.source))
    if _is_plain(path):
        dataset = _rows("data.source", path, data, say)
        return _refuse_none(data, [_without(path.name, dataset, set())])
    source = open_source(data)
    held_out: set[bytes] = set()
    learned: list[str] = []
    for name in source.splits:
        if role_of(name, loosely=True) in (*HELD_OUT, "either"):
            held_out |= _fingerprints(_content(source.splits[name](), data))
        else:
            learned.append(name)
    return _refuse_none(data, [_without(name, _content(source.splits[name](), data), held_out) for name in learned])


def hold_out(found: Sequence[Texts], *, seed: int) -> tuple[list[Texts], list[Texts]]:
    """Divide texts into those that are learned from and others, by which it is measured what was learned.

    Equal texts are on one side. Of the different texts 2 % are held out, 500 at most, and at least 20 where that is no more than a
    tenth: of 300 texts 20, of 100 texts 10, of 5 one.

    Args:
        seed: which ones.

    Raises:
        ValueError: there are not two different texts.
    """
    fingerprints = [text_fingerprints(some.dataset) for some in found]
    contents = np.unique(np.concatenate(fingerprints), axis=0) if fingerprints else np.zeros((0, 2), dtype=np.uint64)
    if len(contents) < 2:
        raise ValueError(f"{len(contents)} different texts cannot be divided")
    number = max(1, min(500, round(max(len(contents) / 50, min(20, len(contents) / 10)))))
    held = _bytes(contents[np.random.default_rng(seed).choice(len(contents), size=number, replace=False)])
    kept: tuple[list[Texts], list[Texts]] = ([], [])
    for some, digests in zip(found, fingerprints, strict=True):
        is_held = np.fromiter((row.tobytes() in held for row in digests), dtype=bool, count=len(digests))
        for side, rows in zip(kept, (~is_held, is_held), strict=True):
            side.append(replace(some, dataset=pick(some.dataset, np.flatnonzero(rows).astype(np.int32))))
    return kept


def _refuse_none(data: TextData, found: list[Texts]) -> list[Texts]:
    if not any(len(some.dataset) for some in found):
        what = "; ".join(some.said for some in found) or "every split of it is called validation or test"
        raise DataError(data.source, [Problem("data.source", f"no text to learn from ({what})")])
    return found


def _held_out(data: TextData, undivided: Undivided, splits: Splits) -> set[bytes]:
    """The fingerprints of every text that the recipe may be judged by, drawn into a sample or not."""
    held_out: set[bytes] = set()
    for role in HELD_OUT:
        if role in undivided.tables:
            held_out |= _bytes(undivided.scan.fingerprints[role])
    for split in (splits.validation, splits.test):
        if split is not None:
            held_out |= _fingerprints(split)
    for name, read in undivided.source.splits.items():  # shut by data.test_split="none"
        if name not in undivided.roles.values() and role_of(name, loosely=True) == "test":
            table = read()
            held_out |= _fingerprints(table.content) if table.content is not None else set()
    return held_out


def _split(source: Source, name: str, roles: Mapping[Role, str], data: TextData) -> Dataset:
    """The texts of one of the source's own splits."""
    _check_free(source, name, roles, data)
    return _content(source.splits[name](), data)


def _check_free(source: Source, name: str, roles: Mapping[Role, str], data: TextData) -> None:
    """Refuse a split that the recipe trains on or is judged by."""
    of = next((role for role, split in roles.items() if split == name), role_of(name, loosely=True))
    if of == "train" and name in roles.values():
        what, help = f'"{name}" is the train split, whose texts are read anyway', "leave data.unlabelled out"
        raise DataError(data.source, [Problem("data.unlabelled", what, (help,))])
    if of in (*HELD_OUT, "either"):
        free = [other for other in source.splits if other not in roles.values() and role_of(other, loosely=True) is None]
        help = f"splits without a part in the recipe: {', '.join(free) or 'none'}"
        what = f'"{name}" is the {of if of in HELD_OUT else "validation or test"} split, and nothing may be learned from it'
        raise DataError(data.source, [Problem("data.unlabelled", what, (help,))])


def _content(table: Table, data: TextData) -> Dataset:
    """The texts of a split, which has no labels or whose labels are not looked at."""
    problems = list(table.problems)
    for column in content_columns(data):
        if table.columns and column not in table.columns:
            what = f'no column "{column}" in split "{table.name}".{did_you_mean(column, table.columns)}'
            problems.append(Problem("data.text_column", what, (f"columns there are: {', '.join(table.columns)}",)))
    if not problems and table.content is None:
        problems.append(Problem(f'split "{table.name}"', "no rows"))
    if problems:
        raise DataError(data.source, problems)
    assert table.content is not None
    return table.content.select_columns(_columns(table.content))


def _given_rows(data: TextData, say: Say) -> Dataset:
    """A table, a .txt file or a folder of them that `data.unlabelled` names."""
    given = str(data.unlabelled)
    if given.startswith(LOCAL):
        what = f"{given.removeprefix(LOCAL)} lay on the author's machine; name yours"
        raise DataError(data.source, [Problem("data.unlabelled", what, ("write data.unlabelled=PATH",))])
    return _rows("data.unlabelled", _given_path(data), data, say)


def _given_path(data: TextData) -> Path:
    """The file or folder that `data.unlabelled` names."""
    path = Path(os.path.expanduser(str(data.unlabelled)))
    if not os.path.lexists(path):
        what = f'no split "{data.unlabelled}" in the source, and no such file or folder: {path.absolute()}'
        help = ("name a split, a table, a .txt file, or a folder of them", "or leave it out: data.unlabelled=null")
        raise DataError(data.source, [Problem("data.unlabelled", what, help)])
    return path


def _rows(key: str, path: Path, data: TextData, say: Say) -> Dataset:
    """What `hftl predict` reads of a path."""
    try:
        asked = read_texts([path], data, say, another_name="the column is called as in the source: data.text_column")
    except NothingAsked:
        what = f"{path} has no text"
        help = "name a table with rows, a .txt file with lines, or a folder of them"
        raise DataError.single(key, what, help, source=data.source) from None
    except DataError as error:
        raise DataError(str(path), error.problems) from None
    blocks = [block.dataset for block in asked.blocks()]
    return concatenate_datasets([block.select_columns(_columns(block)) for block in blocks])


def _is_plain(path: Path) -> bool:
    """A .txt file; or a folder that holds no other folder, archive or table."""
    if path.is_file():
        return path.suffix.casefold() == ".txt"
    if not path.is_dir():
        return False
    folders, files = list_folder(path)
    texts = [file for file in files if file.suffix.casefold() == ".txt"]
    return bool(texts) and not folders and not any(table_ending(file.name) or is_archive(file) for file in files)


def _columns(dataset: Dataset) -> list[str]:
    return [name for name in dataset.column_names if name not in ("id", COLUMN, WEIGHT)]


def _without(name: str, dataset: Dataset, held_out: set[bytes]) -> Texts:
    """The texts that are neither held out nor empty."""
    fingerprints = text_fingerprints(dataset)
    empty = ~fingerprints.any(axis=1)
    held = np.fromiter((row.tobytes() in held_out for row in fingerprints), dtype=bool, count=len(fingerprints)) & ~empty
    kept = np.flatnonzero(~(empty | held)).astype(np.int32)
    left_out = {"in validation or test": int(held.sum()), "empty": int(empty.sum())}
    return Texts(name, dataset if len(kept) == len(dataset) else pick(dataset, kept), left_out)


def _fingerprints(dataset: Dataset) -> set[bytes]:
    return _bytes(text_fingerprints(dataset))


def _bytes(fingerprints: Iterable[np.ndarray]) -> set[bytes]:
    return {row.tobytes() for row in fingerprints}
