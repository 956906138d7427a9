"""Rows on disk that are computed once: written by several processes, found again by their key, read through a memory map.

What frozen layers or a decoder make of a data set is the same in every epoch and in every run with the same weights, data and
preprocessing. It is kept in the cache folder, where all runs of a user find it:

    KEY/                  a whole entry
      rows.bin            the rows, one after the other, each with as many items as it has (no padding)
      starts.npy          (N + 1,) int64: row i is items starts[i] to starts[i + 1]; absent where all rows have one shape
      extra-NAME.npy      further arrays that belong to the rows
      layout.json         shapes and type; written last of these
      digests.json        SHA-256 of every block of every file above; only a whole entry has it
    KEY.LAYOUT.partial/   the same, being built, with a progress-RANK file for each process that builds
    KEY.RANDOM.gone/      what is being removed

A kill at any moment leaves a whole entry, or a partial one that the next build by as many processes continues. `find` reads an
entry once from end to end: one in which a bit has changed is removed, and computed again. Files that another user owns or
could have written are not read, and nobody else may read or write the files made here. The folder may be removed at any time,
which costs time only.

Readers and builders hold layout.json (`hftl.system.hold`, a shared lock), so that nothing is removed under them; everything that
makes or renames a folder happens under the lock of the cache folder. Entries to delete are renamed while the
lock is held, and removed after it is released.

N rows of L items each; L is the row's own. NumPy has no bfloat16: such values are stored as uint16, by the caller.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import stat
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from hftl import cores, system
from hftl.errors import RunError
from hftl.files import flush
from hftl.wording import size

SPARE = 10**9
"""Bytes that stay free on the disk: the run's checkpoints and everybody else need some, too."""

LOCK_SECONDS = 10.0
"""So long one waits for the lock of the cache folder, which is held for milliseconds, and then goes without the cache."""
ONCE_MORE = 60.0
"""For so many seconds after such a wait nobody waits again."""

log = logging.getLogger(__name__)

_FORMAT = 2
_LAYOUT, _ROWS, _STARTS, _DIGESTS, _LOCK = "layout.json", "rows.bin", "starts.npy", "digests.json", ".lock"
_BLOCK = 2**26  # bytes that one digest is of: 64 MiB, so that all cores have something to do
_OURS, _OUR_FILE = 0o700, 0o600  # nobody else has a use for them
_ENTRY = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8}\.partial)?")


def cache_folder() -> Path:
    """Where what is computed once is kept: $HFTL_CACHE, or hftl in the user's cache folder. It need not exist.

    In a folder that belongs to somebody else each user has one of their own, since nobody's entries are believed by others.
    """
    caches = os.environ.get("XDG_CACHE_HOME")
    usual = (Path(caches) if caches else Path.home() / ".cache") / "hftl"
    chosen = Path(os.environ.get("HFTL_CACHE") or usual)
    if chosen.exists() and not system.is_ours(chosen.stat()):
        return chosen / f"user-{system.user()}"
    return chosen


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
        lock = _open_ours(folder / _LAYOUT)
        weakref.finalize(self, os.close, lock)
        weakref.finalize(self, system.hold(folder / _LAYOUT, lock))
        layout = json.loads(os.read(lock, _BLOCK).decode("utf-8"))
        if layout["format"] != _FORMAT:
            raise ValueError("of another version of hftl")
        dtype, row_shape = np.dtype(layout["dtype"]), tuple(layout["row_shape"])
        self._count: int = layout["rows"]
        if dtype.kind not in "biuf" or not all(type(n) is int and n >= 0 for n in (self._count, *row_shape)):
            raise ValueError("no layout that hftl writes")
        self._starts = _array(folder / _STARTS) if layout["ragged"] else None
        if self._starts is not None and (self._starts.shape != (self._count + 1,) or not _ascend(self._starts)):
            raise ValueError("the starts are not those of the rows")
        items = self._count if self._starts is None else int(self._starts[-1])
        self.nbytes: int = items * math.prod(row_shape) * dtype.itemsize
        """Bytes of the rows, without the further arrays."""
        with os.fdopen(_open_ours(folder / _ROWS), "rb") as stream:
            if os.fstat(stream.fileno()).st_size != self.nbytes:
                raise ValueError("rows are missing")
            self._items: npt.NDArray[Any] = np.empty((items, *row_shape), dtype)
            if self.nbytes:  # nothing cannot be mapped
                self._items = np.asarray(np.memmap(stream, dtype, mode="r", shape=(items, *row_shape)))
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
    """The whole entry of a key, which now counts as just used; None where there is none, or a damaged one, which is removed."""
    cache = cache_folder()
    folder = cache / key
    if not folder.is_dir():
        return None
    try:
        with exclusive_lock(cache / _LOCK, seconds=LOCK_SECONDS):
            rows = _open(folder)
        if rows is None or (damaged := _damaged_file(folder)) is None:
            return rows
        log.warning("%s: %s was changed on the disk: its SHA-256 is another. What is in it is computed again", folder, damaged)
        rows = None  # let go of it: Windows renames no folder with open files in it
        with exclusive_lock(cache / _LOCK, seconds=LOCK_SECONDS):
            renamed = _set_aside([folder])
        _remove(renamed)
    except OSError:  # of a folder that cannot be used, or was just removed; a Builder says so
        pass
    return None


def is_being_built(key: str) -> bool:
    """Whether another run builds this entry at this moment."""
    cache = cache_folder()
    if not cache.is_dir():
        return False
    try:
        with exclusive_lock(cache / _LOCK, seconds=LOCK_SECONDS):
            return any(_is_held(path) for path in cache.glob(f"{key}.*.partial"))
    except OSError:  # of a folder that cannot be used; a Builder says so
        return False


class NoRoom(Exception):
    """An entry has no room, or the cache folder cannot be used; the message is a sentence that says why."""


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
            "format": _FORMAT,
            "rows": self._count,
            "ragged": self._starts is not None,
            "row_shape": list(self._row_shape),
            "dtype": self._dtype.str,
            "extra": sorted(arrays),
        }
        contents = {name: [array.dtype.str, array.shape, _digest(array)] for name, array in arrays.items()}
        starts = None if self._starts is None else _digest(self._starts)
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
        cache.mkdir(mode=_OURS, parents=True, exist_ok=True)
        _remove(cache.glob(f"{'[0-9a-f]' * 64}.*.gone"))  # a kill has left them
        while True:
            with exclusive_lock(cache / _LOCK, seconds=LOCK_SECONDS):
                to_delete = [] if budget is None else _in_the_way(cache, nbytes, budget, folder, spare)
                for other in cache.glob(f"{self._key}.*.partial"):
                    # Without its layout it was killed while it was prepared; with another one it will not be continued.
                    if other not in to_delete and not _is_held(other) and (other != folder or not (other / _LAYOUT).exists()):
                        to_delete.append(other)
                if not to_delete:
                    # Under the same lock, so that no other run gets the room that was just found. It does not take long: file
                    # systems note what they give away (10 GB on ext4 in 35 ms) and do not write it.
                    if not folder.exists():
                        _prepare(folder, layout, nbytes, self._starts, extra)
                    self._enter(folder)
                    return
                renamed = _set_aside(to_delete)
            _remove(renamed)

    def _enter(self, folder: Path) -> None:
        """Hold the files by descriptors, which stay right when another run finishes first and renames the folder."""
        lock, self._file = _open_ours(folder / _LAYOUT), _open_ours(folder / _ROWS, os.O_RDWR)
        self._folder = system.Folder(folder)
        closing: list[Callable[[], None]] = [
            partial(os.close, lock),
            partial(os.close, self._file),
            self._folder.close,
            system.hold(folder / _LAYOUT, lock),
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
            descriptor = self._folder.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OUR_FILE)
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
            with exclusive_lock(self._path.parent / _LOCK, seconds=LOCK_SECONDS):
                renamed = _set_aside([self._path])
        except FileNotFoundError:  # it was removed already
            return
        _remove(renamed)

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
                _write_digests(folder)
        except FileNotFoundError:
            own = False  # removed, or another run that built the same was faster
        try:
            with exclusive_lock(cache / _LOCK, seconds=LOCK_SECONDS):
                rows = _open(cache / self._key)
                renamed = _set_aside([cache / self._key] if rows is None else [self._path] if own else [])  # damaged, or not needed
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
        _remove(renamed)
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
    folder.mkdir(mode=_OURS)
    try:
        with (folder / _ROWS).open("wb") as stream:
            if nbytes:  # all of it now: a disk that is too small says so before anything is computed
                system.reserve(stream, nbytes, folder=folder)
        if starts is not None:
            np.save(folder / _STARTS, starts)
        for name, array in extra.items():
            np.save(folder / f"extra-{name}.npy", array)
        for path in folder.iterdir():
            path.chmod(_OUR_FILE)
            flush(path)
        _write(folder / _LAYOUT, layout)
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


def _open_ours(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a plain file that this user owns and nobody else may write.

    Raises:
        PermissionError: it is none.
        OSError: it cannot be opened.
    """
    descriptor = system.open_unfollowed(path, flags)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not system.is_ours_alone(status):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "another user owns it, or may write it", str(path))
    return descriptor


def _write(path: Path, value: Any) -> None:
    descriptor = system.open_unfollowed(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OUR_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(_canonical(value))
        stream.flush()
        os.fsync(stream.fileno())


def _digests_of(path: Path) -> list[str]:
    """SHA-256 of each block of a file, in hex, by all cores."""
    with os.fdopen(_open_ours(path), "rb") as stream, ThreadPoolExecutor(len(cores.affinity())) as pool:
        size = os.fstat(stream.fileno()).st_size
        content = np.memmap(stream, np.uint8, mode="r") if size else np.empty(0, np.uint8)
        blocks = (content[start : start + _BLOCK] for start in range(0, size, _BLOCK))
        return list(pool.map(lambda block: hashlib.sha256(block.data).hexdigest(), blocks))


def _sealed_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.name != _DIGESTS and not path.name.startswith("progress-") and not system.says_held(path.name)
    )


def _write_digests(folder: Path) -> None:
    """Seal an entry that is whole. Of several runs that build the same each one seals it."""
    digests = {path.name: _digests_of(path) for path in _sealed_files(folder)}
    beside = folder / f"progress-digests.{os.getpid()}"
    _write(beside, digests)
    beside.replace(folder / _DIGESTS)


def _damaged_file(folder: Path) -> str | None:
    """The first file of an entry that is not as it was sealed; None: all are."""
    try:
        with os.fdopen(_open_ours(folder / _DIGESTS), "rb") as stream:
            sealed = json.loads(stream.read(_BLOCK).decode("utf-8"))
        digests = {path.name: _digests_of(path) for path in _sealed_files(folder)}
    except (OSError, ValueError):
        return _DIGESTS
    if not isinstance(sealed, dict):
        return _DIGESTS
    return next((name for name in sorted({*sealed, *digests}) if sealed.get(name) != digests.get(name)), None)


def _ascend(starts: npt.NDArray[Any]) -> bool:
    return starts.dtype == np.int64 and bool(starts[0] == 0 and (starts[1:] >= starts[:-1]).all())


_not_again: dict[Path, float] = {}
"""Lock -> monotonic seconds until which nobody waits for it again, after a wait in vain."""


@contextmanager
def exclusive_lock(lock: Path, *, seconds: float = math.inf) -> Iterator[None]:
    """One process of this machine at a time, by a lock on this file. It goes with a process that is killed. Not to be nested.

    Raises:
        TimeoutError: another process has held it for so many seconds.
        OSError: the file cannot be opened, or its file system has no locks.
    """
    deadline = time.monotonic() + (0 if time.monotonic() < _not_again.get(lock, 0) else seconds)
    while True:
        try:
            release = system.take(lock)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                _not_again[lock] = time.monotonic() + ONCE_MORE
                raise TimeoutError(errno.ETIMEDOUT, "another process has held its lock for too long", str(lock)) from None
            time.sleep(0.02)
    try:
        yield
    finally:
        release()


def _in_the_way(cache: Path, nbytes: int, budget: float, folder: Path, spare: int) -> list[Path]:
    """The least recently used entries that nobody holds, as many as have to go for `nbytes` in `folder`; see `Builder`.

    What an interrupted build has taken there already is not counted twice, and does not go. What another run builds at this
    moment, of the same entry too, counts like any other.

    Raises:
        NoRoom: that would not be enough.
    """
    entries = {path: _size(path) for path in cache.iterdir() if _ENTRY.fullmatch(path.name) and _is_ours(path)}
    own = entries.get(folder, 0)
    held = {path for path in entries if _is_held(path) or path == folder}
    over_budget = sum(entries.values()) - own + nbytes - budget
    over_disk = nbytes - own + spare - shutil.disk_usage(cache).free
    evictable = sum(size for path, size in entries.items() if path not in held)
    if over_budget > evictable:
        in_use = sum(entries[path] for path in held) - own
        used = f", of which {size(in_use)} are in use" if in_use else ""
        raise NoRoom(f"{size(nbytes)} do not fit into the cache's {size(budget)}{used}")
    if over_disk > evictable:
        free = size(shutil.disk_usage(cache).free + evictable)
        raise NoRoom(f"{size(nbytes)} do not fit on the disk of {cache}: of {free}, {size(spare)} are left free")
    to_delete = []
    for path in sorted(entries.keys() - held, key=lambda path: path.stat().st_mtime_ns):
        if max(over_budget, over_disk) <= 0:
            break
        to_delete.append(path)
        over_budget, over_disk = over_budget - entries[path], over_disk - entries[path]
    return to_delete


def _set_aside(folders: Iterable[Path]) -> list[Path]:
    """Give entries that are to go another name, under the lock of the cache folder; those that are there."""
    present = [folder for folder in folders if folder.exists()]
    return [folder.rename(folder.with_name(f"{folder.name[:64]}.{uuid4().hex}.gone")) for folder in present]


def _remove(renamed: Iterable[Path]) -> None:
    """After the lock: the file system may take seconds to remove many gigabytes, and others want to read meanwhile."""
    for folder in renamed:
        shutil.rmtree(folder, ignore_errors=True)  # another run may be at it, too


def _is_held(folder: Path) -> bool:
    return system.is_held(folder / _LAYOUT)


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and system.is_ours(folder.stat())


def _array(path: Path) -> npt.NDArray[Any]:
    """An array in NumPy's own format, memory-mapped.

    Raises:
        ValueError: it is none, or not of numbers or names; EOFError: it is cut off.
    """
    with os.fdopen(_open_ours(path), "rb") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not what NumPy writes for plain arrays")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.kind not in "biufU" or fortran:
            raise ValueError("no array of numbers or names")
        start = stream.tell()
        if os.fstat(stream.fileno()).st_size != start + math.prod(shape) * dtype.itemsize:
            raise ValueError("not as long as it says")
        if 0 in shape:  # nothing cannot be mapped
            return np.empty(shape, dtype)
        return np.asarray(np.memmap(stream, dtype, mode="r", offset=start, shape=shape))


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
