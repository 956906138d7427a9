"""The rows of a whole entry, and how they are found by their key."""

from __future__ import annotations

import json
import logging
import math
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hftl import system
from hftl.store.entry import BLOCK, FORMAT, LAYOUT, ROWS, STARTS, damaged_file, open_ours, read_array
from hftl.store.folder import cache_folder, is_held, locked, remove, set_aside

log = logging.getLogger(__name__)


class Rows:
    """The rows of a whole entry. What is read stays in the system's file cache and is no memory of this process.

    While this object lives, the entry is not evicted.

    Args:
        folder: of the entry.

    Raises:
        OSError, ValueError, KeyError, TypeError: not a whole entry; `find` gives None instead.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        lock = open_ours(folder / LAYOUT)
        weakref.finalize(self, os.close, lock)
        weakref.finalize(self, system.hold(folder / LAYOUT, lock))
        layout = json.loads(os.read(lock, BLOCK).decode("utf-8"))
        if layout["format"] != FORMAT:
            raise ValueError("of another version of hftl")
        dtype, row_shape = np.dtype(layout["dtype"]), tuple(layout["row_shape"])
        self._count: int = layout["rows"]
        if dtype.kind not in "biuf" or not all(type(n) is int and n >= 0 for n in (self._count, *row_shape)):
            raise ValueError("no layout that hftl writes")
        self._starts = read_array(folder / STARTS) if layout["ragged"] else None
        if self._starts is not None and (self._starts.shape != (self._count + 1,) or not _ascend(self._starts)):
            raise ValueError("the starts are not those of the rows")
        items = self._count if self._starts is None else int(self._starts[-1])
        self.nbytes: int = items * math.prod(row_shape) * dtype.itemsize
        """Bytes of the rows, without the further arrays."""
        with os.fdopen(open_ours(folder / ROWS), "rb") as stream:
            if os.fstat(stream.fileno()).st_size != self.nbytes:
                raise ValueError("rows are missing")
            self._items: npt.NDArray[Any] = np.empty((items, *row_shape), dtype)
            if self.nbytes:  # nothing cannot be mapped
                self._items = np.asarray(np.memmap(stream, dtype, mode="r", shape=(items, *row_shape)))
        self._items.flags.writeable = False
        self.extra: dict[str, npt.NDArray[Any]] = {name: read_array(folder / f"extra-{name}.npy") for name in layout["extra"]}
        """The further arrays, memory-mapped as well."""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        """Row `index`, read-only: (L, *row_shape), or row_shape where all rows have one shape.

        Raises:
            IndexError: there is no such row; negative ones are not counted from the end.
        """
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._starts is None:
            row: npt.NDArray[Any] = self._items[index]
            return row
        return self._items[self._starts[index] : self._starts[index + 1]]

    def __reduce__(self) -> tuple[type[Rows], tuple[Path]]:
        return Rows, (self._folder,)  # in a loader's worker that was not forked


def find(key: str) -> Rows | None:
    """The whole entry of a key, which now counts as just used; None where there is none, or a damaged one, which is removed."""
    cache = cache_folder()
    folder = cache / key
    if not folder.is_dir():
        return None
    try:
        with locked(cache):
            rows = open_entry(folder)
        if rows is None or (damaged := damaged_file(folder)) is None:
            return rows
        log.warning("%s: %s was changed on the disk: its SHA-256 is another. What is in it is computed again", folder, damaged)
        rows = None  # let go of it: Windows renames no folder with open files in it
        with locked(cache):
            renamed = set_aside([folder])
        remove(renamed)
    except OSError:  # of a folder that cannot be used, or was just removed; a Builder says so
        pass
    return None


def is_being_built(key: str) -> bool:
    """Whether another run builds this entry at this moment."""
    cache = cache_folder()
    if not cache.is_dir():
        return False
    try:
        with locked(cache):
            return any(is_held(path) for path in cache.glob(f"{key}.*.partial"))
    except OSError:  # of a folder that cannot be used; a Builder says so
        return False


def open_entry(folder: Path) -> Rows | None:
    """The entry in a folder, which now counts as just used; None where it is no whole entry."""
    try:
        rows = Rows(folder)
        os.utime(folder)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return rows


def _ascend(starts: npt.NDArray[Any]) -> bool:
    return starts.dtype == np.int64 and bool(starts[0] == 0 and (starts[1:] >= starts[:-1]).all())
