"""Columns on disk: strings, labels and arrays of a split that cost no memory a row.

Arrow tables and NumPy arrays in memory-mapped files; a million rows are looked at in blocks.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hftl import system
from hftl.errors import DataError, Problem

BATCH = 10_000  # rows that are Python objects at once


class Strings(Sequence[str]):
    """The column `name` of a data set, of strings that become Python's when they are asked for: a million of those takes 70 MB."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._column = dataset.select_columns(name).with_format("arrow")
        self._name = name

    @classmethod
    def of_rows(cls, split: str, rows: int | np.ndarray) -> Strings:
        """The names of a split's rows: "train/0", "train/1" and so on; or of these rows, (N,)."""
        if isinstance(rows, int):
            numbers = (pa.array(np.arange(start, min(start + BATCH, rows))) for start in range(0, rows, BATCH))
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
        for start in range(0, len(self), BATCH):
            yield from self[start : start + BATCH]

    def to_arrow(self) -> pa.ChunkedArray:
        """The whole column."""
        return self._column[:].column(self._name)


def integers(dataset: Dataset, name: str) -> np.ndarray:
    """A column of whole numbers, or of classes. (N,) int32"""
    column = dataset.select_columns(name).with_format("arrow")
    numbers = np.empty(len(column), dtype=np.int32)
    for start in range(0, len(column), BATCH):
        numbers[start : start + BATCH] = column[start : start + BATCH].column(name).to_numpy()
    return numbers


def memberships(dataset: Dataset, name: str, *, classes: int) -> np.ndarray:
    """A column of lists of classes: 1 where a row's list has the class, else 0. (N, classes) int8"""
    column = dataset.select_columns(name).with_format("arrow")
    has = np.zeros((len(column), classes), dtype=np.int8)
    for start in range(0, len(column), BATCH):
        lists = column[start : start + BATCH].column(name)
        rows, places = pc.list_parent_indices(lists), pc.list_flatten(lists)
        has[start + rows.to_numpy(), places.to_numpy()] = 1
    return has


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


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """An array of (N, ...) in parts of 10,000 rows."""
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def on_disk(name: str, kind: pa.DataType, parts: Iterable[pa.Array]) -> pa.Table:
    """A table of one column in a file of the folder for temporary files, memory-mapped; it goes when the table does.

    Once it is written it has no name that a killed process could leave.

    Raises:
        DataError: there is no room for it.
    """
    schema = pa.schema([(name, kind)])
    with tempfile.TemporaryFile() as file:
        try:
            with pa.ipc.new_file(pa.PythonFile(file, mode="w"), schema) as writer:
                for part in parts:
                    writer.write_batch(pa.record_batch([part], schema=schema))
            file.flush()
        except OSError as error:
            raise _no_room("the ids, labels and order of the rows do not fit there", error) from None
        return pa.ipc.open_file(pa.py_buffer(np.memmap(file, np.uint8, mode="r"))).read_all()


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
            system.reserve(file, nbytes, folder=Path(tempfile.gettempdir()))
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
        """From Python values of any type. Two are equal that have one type and look the same: 1, 1.0, True and "1" are four."""
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
        """From a column of Arrow."""
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
