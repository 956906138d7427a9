"""Rows on disk that are computed once: written by several processes, found again by their key, read through a memory map.

What frozen layers or a decoder make of a data set is the same in every epoch and in every run with the same weights, data and
preprocessing. It is kept in the cache folder, where all runs of a user find it:

    KEY/                  a whole entry
      rows.bin            the rows, one after the other, each with as many items as it has (no padding)
      starts.npy          (N + 1,) int64: row i is items starts[i] to starts[i + 1]; absent where all rows have one shape
      extra-NAME.npy      further arrays that belong to the rows
      layout.json         shapes and type; written last
    KEY.LAYOUT.partial/   the same, being built, with a progress-RANK file for each process that builds

A kill at any moment leaves a whole entry, or a partial one that the next build by as many processes continues. An entry in which
anything has the wrong size is treated as absent. Readers and builders hold a shared lock (flock) on layout.json, so that
nothing is removed under them; everything that makes, renames or removes a folder happens under the lock of the cache folder.

N rows of L items each; L is the row's own. NumPy has no bfloat16: such values are stored as uint16, by the caller.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hftl.errors import RunError
from hftl.run import flush

SPARE = 10**9
"""Bytes that stay free on the disk: the run's checkpoints and everybody else need some, too."""

_FORMAT = 1
_LAYOUT, _ROWS, _STARTS = "layout.json", "rows.bin", "starts.npy"
_ENTRY = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8}\.partial)?")


def cache_folder() -> Path:
    """Where what is computed once is kept: $HFTL_CACHE, or hftl in the user's cache folder. It need not exist."""
    if chosen := os.environ.get("HFTL_CACHE"):
        return Path(chosen)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "hftl"


def key_of(parts: Mapping[str, Any]) -> str:
    """The key of an entry: SHA-256, in hex, of everything that decides what is in it. `parts` are JSON values in any order."""
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()


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
        lock = os.open(folder / _LAYOUT, os.O_RDONLY)
        weakref.finalize(self, os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_SH)
        layout = json.loads((folder / _LAYOUT).read_text(encoding="utf-8"))
        dtype, row_shape = np.dtype(layout["dtype"]), tuple(layout["row_shape"])
        if layout["format"] != _FORMAT:
            raise ValueError("of another version of hftl")
        self._count: int = layout["rows"]
        self._starts = _array(folder / _STARTS) if layout["ragged"] else None
        if self._starts is not None and self._starts.shape != (self._count + 1,):
            raise ValueError("the starts are not those of the rows")
        items = self._count if self._starts is None else int(self._starts[-1])
        self.nbytes: int = items * math.prod(row_shape) * dtype.itemsize
        """Of the rows, without what belongs to them."""
        if (folder / _ROWS).stat().st_size != self.nbytes:
            raise ValueError("rows are missing")
        self._items: npt.NDArray[Any] = np.empty((items, *row_shape), dtype)
        if self.nbytes:  # nothing cannot be mapped
            self._items = np.asarray(np.memmap(folder / _ROWS, dtype, mode="r", shape=(items, *row_shape)))
        self._items.flags.writeable = False
        self.extra: dict[str, npt.NDArray[Any]] = {name: _array(folder / f"extra-{name}.npy") for name in layout["extra"]}
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
    """The whole entry of a key, which now counts as just used; None where there is none, or a damaged one."""
    cache = cache_folder()
    if not (cache / key).is_dir():
        return None
    with _alone(cache):
        return _open(cache / key)


def is_being_built(key: str) -> bool:
    """Whether another run builds this entry at this moment."""
    cache = cache_folder()
    if not cache.is_dir():
        return False
    with _alone(cache):
        return any(_is_held(path) for path in cache.glob(f"{key}.*.partial"))


def why_no_room(nbytes: int, *, budget: float, key: str | None = None, spare: int = SPARE) -> str | None:
    """None where an entry of `nbytes` has room, after the least recently used ones that nobody holds were removed for it.

    Otherwise nothing is removed, and the answer is a sentence that says what was asked for and what there is.

    Args:
        nbytes: of the new entry.
        budget: bytes that the whole cache folder may hold.
        key: of the new entry; what an interrupted build of it has taken already is not counted twice and is not removed.
        spare: bytes that are to stay free on the disk.
    """
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return _why_no_room(cache, nbytes, budget, key, spare)
    except OSError as error:  # no home, another user's folder, a file system without locks
        return f"the cache folder {cache} (HFTL_CACHE) cannot be used: {error.strerror}"


def _why_no_room(cache: Path, nbytes: int, budget: float, key: str | None, spare: int) -> str | None:
    with _alone(cache):
        entries = {path: _size(path) for path in cache.iterdir() if _ENTRY.fullmatch(path.name)}
        own = sum(size for path, size in entries.items() if key is not None and path.name.startswith(key))
        held = {path for path in entries if _is_held(path) or (key is not None and path.name.startswith(key))}
        over_budget = sum(entries.values()) - own + nbytes - budget
        over_disk = nbytes - own + spare - shutil.disk_usage(cache).free
        evictable = sum(size for path, size in entries.items() if path not in held)
        if over_budget > evictable:
            kept = sum(entries[path] for path in held) - own
            used = f", of which {_readable(kept)} are in use" if kept else ""
            return f"{_readable(nbytes)} do not fit into the cache's {_readable(budget)}{used}"
        if over_disk > evictable:
            free = _readable(shutil.disk_usage(cache).free + evictable)
            return f"{_readable(nbytes)} do not fit on the disk of {cache}: of {free}, {_readable(spare)} are left free"
        for path in sorted(entries.keys() - held, key=lambda path: path.stat().st_mtime_ns):
            if max(over_budget, over_disk) <= 0:
                break
            shutil.rmtree(path)
            over_budget, over_disk = over_budget - entries[path], over_disk - entries[path]
    return None


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
        dealt: anything that says in which batches the rows come and to which process; a build that was interrupted under
            another is started anew, since `done` counts batches.

    Raises:
        OSError: the disk is full, or the cache folder cannot be written.
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
        dealt: str = "",
    ) -> None:
        self._key, self._rank, self._processes, self._row_shape = key, rank, processes, tuple(row_shape)
        self._dtype = np.dtype(dtype)
        self._count = lengths if isinstance(lengths, int) else len(lengths)
        self._starts = None if isinstance(lengths, int) else np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._item_bytes = math.prod(self._row_shape) * self._dtype.itemsize
        items = self._count if self._starts is None else int(self._starts[-1])
        arrays = {name: np.ascontiguousarray(array) for name, array in (extra or {}).items()}
        layout = {
            "format": _FORMAT,
            "rows": self._count,
            "ragged": self._starts is not None,
            "row_shape": list(self._row_shape),
            "dtype": self._dtype.str,
            "extra": sorted(arrays),
        }
        contents = {name: [array.dtype.str, array.shape, _digest(array)] for name, array in arrays.items()}
        starts = None if self._starts is None else _digest(self._starts)
        build = key_of({"layout": layout, "extra": contents, "starts": starts, "processes": processes, "dealt": dealt})
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        folder = cache / f"{key}.{build[:8]}.partial"
        with _alone(cache):
            for other in cache.glob(f"{key}.*.partial"):
                # Without its layout it was killed while it was prepared; with another one it will not be continued.
                if not _is_held(other) and (other != folder or not (other / _LAYOUT).exists()):
                    shutil.rmtree(other)
            if not folder.exists():
                _prepare(folder, layout, items * self._item_bytes, self._starts, arrays)
            # By descriptors, which stay right when another run finishes first and renames the folder.
            self._lock, self._file = os.open(folder / _LAYOUT, os.O_RDONLY), os.open(folder / _ROWS, os.O_RDWR)
            self._folder = os.open(folder, os.O_RDONLY)
            self._descriptors = [
                weakref.finalize(self, os.close, descriptor) for descriptor in (self._lock, self._file, self._folder)
            ]
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._path = folder
        self.done, self._written = self._progress(rank)
        """Batches that this process finished in an interrupted build, and need not write again; 0 in a new one."""

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
            written = os.pwrite(self._file, content, place)
            content, place = content[written:], place + written
        self._written[index] = True

    def mark(self, batches: int) -> None:
        """Note that this process has finished its first `batches` batches, once their rows are on the disk."""
        os.fdatasync(self._file)
        name, beside = f"progress-{self._rank}", f"progress-{self._rank}.{os.getpid()}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666, dir_fd=self._folder)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(batches.to_bytes(8, "little") + np.packbits(self._written).tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def close(self) -> None:
        """Let go of a build that is not finished, for another one to continue."""
        for close in self._descriptors:
            close()

    def finish(self) -> Rows:
        """Make a whole entry of it, in the main process, after every process has marked its last batch.

        Raises:
            RunError: there are rows that nobody has written.
        """
        os.fsync(self._file)
        os.fsync(self._folder)
        cache = self._path.parent
        with _alone(cache):
            whole = _open(cache / self._key)
            if whole is not None:  # another run was faster
                shutil.rmtree(self._path, ignore_errors=True)
                return whole
            missing = ~self._written
            for rank in range(self._processes):
                if rank != self._rank:
                    missing &= ~self._progress(rank)[1]
            if missing.any():
                for path in self._path.glob("progress-*"):  # so that the next build does not count on them
                    path.unlink(missing_ok=True)
                what = f"{int(missing.sum()):,} of {self._count:,} rows were never written"
                raise RunError(f"{self._path}: {what}. Start the run again; run.cache_gb=0 goes without the cache")
            shutil.rmtree(cache / self._key, ignore_errors=True)  # damaged
            self._path.rename(cache / self._key)
            flush(cache)
            for path in (cache / self._key).glob("progress-*"):
                path.unlink(missing_ok=True)
            return Rows(cache / self._key)

    def _progress(self, rank: int) -> tuple[int, npt.NDArray[np.bool_]]:
        """Batches that a process has marked, and which rows it has written: (N,)."""
        try:
            descriptor = os.open(f"progress-{rank}", os.O_RDONLY, dir_fd=self._folder)
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
    folder.mkdir()
    try:
        with (folder / _ROWS).open("wb") as stream:
            if nbytes:  # all of it now: a disk that is too small says so before anything is computed
                os.posix_fallocate(stream.fileno(), 0, nbytes)
        if starts is not None:
            np.save(folder / _STARTS, starts)
        for name, array in extra.items():
            np.save(folder / f"extra-{name}.npy", array)
        for path in folder.iterdir():
            flush(path)
        (folder / _LAYOUT).write_text(_canonical(layout), encoding="utf-8")
        flush(folder / _LAYOUT)
    except OSError:
        shutil.rmtree(folder)
        raise


def _open(folder: Path) -> Rows | None:
    """The entry in a folder, which now counts as just used; None where it is no whole entry."""
    try:
        rows = Rows(folder)
        os.utime(folder)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return rows


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Nobody else makes, renames or removes anything in the cache folder meanwhile. Not to be nested."""
    descriptor = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_held(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / _LAYOUT, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _array(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(array)


def _size(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # a note of progress that has just got its name
            continue
    return size


def _digest(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _readable(nbytes: float) -> str:
    return f"{nbytes / 10**9:,.1f} GB" if nbytes >= 10**9 else f"{nbytes / 10**6:,.1f} MB"
