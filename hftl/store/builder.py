"""Writing a new entry: its room, its rows by several processes, and how it becomes a whole one."""

from __future__ import annotations

import math
import os
import shutil
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hftl import system
from hftl.errors import RunError
from hftl.files import flush
from hftl.store.entry import FORMAT, LAYOUT, OUR_FILE, OURS, ROWS, STARTS, digest, key_of, open_ours, write, write_digests
from hftl.store.folder import SPARE, NoRoom, cache_folder, in_the_way, is_held, locked, remove, set_aside
from hftl.store.rows import Rows, open_entry


class Removed(Exception):
    """The cache folder, or the entry, was taken away while it was being built; nothing of it can be used."""


class Builder:
    """Writes a new entry, alone or with the other processes of a run; each makes its own with the same arguments.

    An interrupted build is continued where as many processes ask for the same layout again. Two runs that build the same entry
    at the same time write the same values to the same places, or build side by side where their layouts differ; the first one
    that finishes gives the entry its name.

    Args:
        key: of the entry, see `key_of`.
        lengths: items of each row, (N,); or how many rows there are, each of exactly `row_shape`.
        row_shape: of an item, or of a whole row where `lengths` is a number.
        dtype: of what is stored.
        rank: of this process.
        processes: that build together.
        extra: further arrays by name, the same in every process; stored beside the rows.
        batch_plan: identifies how rows were assigned to batches and processes; a build that was interrupted under another plan
            is started anew, since `done` counts batches.
        budget: bytes that the whole cache folder may hold. For a new entry the least recently used ones that nobody holds are
            removed; where that is not enough, none is. None, for processes that join another one: there is room.
        spare: bytes that are to stay free on the disk, where there is a budget.

    Raises:
        NoRoom: there is a budget, and no room, or the cache folder cannot be used.
        OSError: there is none, and the disk is full, or the cache folder cannot be used.
    """

    def __init__(
        self,
        key: str,
        *,
        lengths: npt.NDArray[np.integer[Any]] | int,
        row_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        rank: int = 0,
        processes: int = 1,
        extra: Mapping[str, npt.NDArray[Any]] | None = None,
        batch_plan: str = "",
        budget: float | None = None,
        spare: int = SPARE,
    ) -> None:
        self._key, self._rank, self._processes, self._row_shape = key, rank, processes, tuple(row_shape)
        self._dtype = np.dtype(dtype)
        self._count = lengths if isinstance(lengths, int) else len(lengths)
        self._starts = None if isinstance(lengths, int) else np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._item_bytes = math.prod(self._row_shape) * self._dtype.itemsize
        items = self._count if self._starts is None else int(self._starts[-1])
        arrays = {name: np.ascontiguousarray(array) for name, array in (extra or {}).items()}
        layout = {
            "format": FORMAT,
            "rows": self._count,
            "ragged": self._starts is not None,
            "row_shape": list(self._row_shape),
            "dtype": self._dtype.str,
            "extra": sorted(arrays),
        }
        contents = {name: [array.dtype.str, array.shape, digest(array)] for name, array in arrays.items()}
        starts = None if self._starts is None else digest(self._starts)
        build = key_of({"layout": layout, "extra": contents, "starts": starts, "processes": processes, "batch_plan": batch_plan})
        self._path = cache_folder() / f"{key}.{build[:8]}.partial"
        try:
            self._begin(layout, items * self._item_bytes, arrays, budget, spare)
        except OSError as error:  # no home, another user's folder, a file system without locks, a disk that others have filled
            if budget is None:
                raise
            raise NoRoom(f"the cache folder {self._path.parent} (HFTL_CACHE) cannot be used: {error.strerror}") from error
        self.done, self._written = self._progress(rank)
        """Batches that this process finished in an interrupted build, and need not write again; 0 in a new one."""

    def _begin(
        self,
        layout: dict[str, Any],
        nbytes: int,
        extra: Mapping[str, npt.NDArray[Any]],
        budget: float | None,
        spare: int,
    ) -> None:
        """Make room for the entry and take all of it, or go on in the folder of an interrupted build."""
        cache, folder = self._path.parent, self._path
        cache.mkdir(mode=OURS, parents=True, exist_ok=True)
        remove(cache.glob(f"{'[0-9a-f]' * 64}.*.gone"))  # a kill has left them
        while True:
            with locked(cache):
                to_delete = [] if budget is None else in_the_way(cache, nbytes, budget, folder, spare)
                for other in cache.glob(f"{self._key}.*.partial"):
                    # Without its layout it was killed while it was prepared; with another one it will not be continued.
                    if other not in to_delete and not is_held(other) and (other != folder or not (other / LAYOUT).exists()):
                        to_delete.append(other)
                if not to_delete:
                    # Under the same lock, so that no other run gets the room that was just found. It does not take long: file
                    # systems note what they give away (10 GB on ext4 in 35 ms) and do not write it.
                    if not folder.exists():
                        _prepare(folder, layout, nbytes, self._starts, extra)
                    self._enter(folder)
                    return
                renamed = set_aside(to_delete)
            remove(renamed)

    def _enter(self, folder: Path) -> None:
        """Hold the files by descriptors, which stay right when another run finishes first and renames the folder."""
        lock, self._file = open_ours(folder / LAYOUT), open_ours(folder / ROWS, os.O_RDWR)
        self._folder = system.Folder(folder)
        closing: list[Callable[[], None]] = [
            partial(os.close, lock),
            partial(os.close, self._file),
            self._folder.close,
            system.hold(folder / LAYOUT, lock),
        ]
        self._closing = [weakref.finalize(self, close) for close in closing]

    def write(self, index: int, row: npt.NDArray[Any]) -> None:
        """Store row `index`, by any process or thread, in any order.

        Raises:
            ValueError: another shape or type than was promised.
            OSError: the disk is full.
        """
        start = index if self._starts is None else int(self._starts[index])
        shape = self._row_shape if self._starts is None else (int(self._starts[index + 1]) - start, *self._row_shape)
        if row.shape != shape or row.dtype != self._dtype:
            raise ValueError(f"row {index}: {row.dtype} {row.shape}, where {self._dtype} {shape} was promised")
        # A loop: one call writes 2 GiB at most. Not through a memory map, where a full disk would kill the process.
        content, place = np.ascontiguousarray(row).reshape(-1).view(np.uint8).data, start * self._item_bytes
        while content:
            written = system.write_at(self._file, content, place)
            content, place = content[written:], place + written
        self._written[index] = True

    def mark(self, batches: int) -> None:
        """Note that this process has finished its first `batches` batches, once their rows are on the disk.

        Where somebody has removed the folder nothing is noted, and `finish` says so.
        """
        system.flush_contents(self._file)
        name, beside = f"progress-{self._rank}", f"progress-{self._rank}.{os.getpid()}"
        try:
            descriptor = self._folder.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OUR_FILE)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(batches.to_bytes(8, "little") + np.packbits(self._written).tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        self._folder.replace(beside, name)

    def close(self) -> None:
        """Let go of a build that is not finished, for another one to continue."""
        for close in self._closing:
            close()

    def discard(self) -> None:
        """Remove a build that is not to be finished."""
        self.close()
        try:
            with locked(self._path.parent):
                renamed = set_aside([self._path])
        except FileNotFoundError:  # it was removed already
            return
        remove(renamed)

    def finish(self) -> Rows:
        """Make a whole entry of it, in the main process, after every process has marked its last batch.

        Raises:
            Removed: the cache folder, or the entry in it, is not there any more, or somebody holds its lock.
            RunError: there are rows that nobody has written.
        """
        os.fsync(self._file)
        self._folder.flush()
        cache, folder = self._path.parent, self._path
        try:
            own = self._folder.is_at(folder)
            if own:
                self._check_whole()
                write_digests(folder)
        except FileNotFoundError:
            own = False  # removed, or another run that built the same was faster
        try:
            with locked(cache):
                rows = open_entry(cache / self._key)
                renamed = set_aside([cache / self._key] if rows is None else [self._path] if own else [])  # damaged, or not needed
                if rows is None:
                    if not own:  # what lies there now is another run's, and not finished
                        raise FileNotFoundError(folder)
                    self.close()  # under the lock nobody takes it away; and Windows renames no folder with open files in it
                    self._path.rename(cache / self._key)
                    flush(cache)
                    for path in (cache / self._key).glob("progress-*"):
                        path.unlink(missing_ok=True)
                    rows = Rows(cache / self._key)
        except (FileNotFoundError, TimeoutError) as error:
            raise Removed(
                f"the cache folder {cache} (HFTL_CACHE) was removed, or its lock held, while it was written to"
            ) from error
        remove(renamed)
        return rows

    def _check_whole(self) -> None:
        missing = ~self._written
        for rank in range(self._processes):
            if rank != self._rank:
                missing &= ~self._progress(rank)[1]
        if missing.any():
            for path in self._path.glob("progress-*"):  # so that the next build does not count on them
                path.unlink(missing_ok=True)
            what = f"{int(missing.sum()):,} of {self._count:,} rows were never written"
            raise RunError(f"{self._path}: {what}. Start the run again; run.cache_gb=0 goes without the cache")

    def _progress(self, rank: int) -> tuple[int, npt.NDArray[np.bool_]]:
        """Batches that a process has marked, and which rows it has written: (N,)."""
        try:
            descriptor = self._folder.open(f"progress-{rank}", os.O_RDONLY)
        except FileNotFoundError:
            return 0, np.zeros(self._count, dtype=np.bool_)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read()
        bits = np.unpackbits(np.frombuffer(content, np.uint8, offset=8), count=self._count)
        return int.from_bytes(content[:8], "little"), bits.astype(np.bool_)


def _prepare(
    folder: Path,
    layout: dict[str, Any],
    nbytes: int,
    starts: npt.NDArray[np.int64] | None,
    extra: Mapping[str, npt.NDArray[Any]],
) -> None:
    folder.mkdir(mode=OURS)
    try:
        with (folder / ROWS).open("wb") as stream:
            if nbytes:  # all of it now: a disk that is too small says so before anything is computed
                system.reserve(stream, nbytes, folder=folder)
        if starts is not None:
            np.save(folder / STARTS, starts)
        for name, array in extra.items():
            np.save(folder / f"extra-{name}.npy", array)
        for path in folder.iterdir():
            path.chmod(OUR_FILE)
            flush(path)
        write(folder / LAYOUT, layout)
    except OSError:
        shutil.rmtree(folder)
        raise
