"""The cache folder: where it is, its lock, and the room in it."""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

from hftl import system
from hftl.store.entry import ENTRY, LAYOUT, LOCK
from hftl.wording import size

SPARE = 10**9
"""Bytes that stay free on the disk: the run's checkpoints and everybody else need some, too."""
LOCK_SECONDS = 10.0
"""So long one waits for the lock of the cache folder, which is held for milliseconds, and then goes without the cache."""
ONCE_MORE = 60.0
"""For so many seconds after such a wait nobody waits again."""
_not_again: dict[Path, float] = {}
"""Lock -> monotonic seconds until which nobody waits for it again, after a wait in vain."""


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


def locked(cache: Path) -> AbstractContextManager[None]:
    """The lock of the cache folder, under which folders in it are made and renamed.

    Raises:
        TimeoutError, OSError: as of `exclusive_lock`.
    """
    return exclusive_lock(cache / LOCK, seconds=LOCK_SECONDS)


class NoRoom(Exception):
    """An entry has no room, or the cache folder cannot be used; the message is a sentence that says why."""


def in_the_way(cache: Path, nbytes: int, budget: float, folder: Path, spare: int) -> list[Path]:
    """The least recently used entries that nobody holds, as many as have to go for `nbytes` in `folder`; see `hftl.store.Builder`.

    What an interrupted build has taken there already is not counted twice, and does not go. What another run builds at this
    moment, of the same entry too, counts like any other.

    Raises:
        NoRoom: that would not be enough.
    """
    entries = {path: _size(path) for path in cache.iterdir() if ENTRY.fullmatch(path.name) and _is_ours(path)}
    own = entries.get(folder, 0)
    held = {path for path in entries if is_held(path) or path == folder}
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


def set_aside(folders: Iterable[Path]) -> list[Path]:
    """Give entries that are to go another name, under the lock of the cache folder; those that are there."""
    present = [folder for folder in folders if folder.exists()]
    return [folder.rename(folder.with_name(f"{folder.name[:64]}.{uuid4().hex}.gone")) for folder in present]


def remove(renamed: Iterable[Path]) -> None:
    """After the lock: the file system may take seconds to remove many gigabytes, and others want to read meanwhile."""
    for folder in renamed:
        shutil.rmtree(folder, ignore_errors=True)  # another run may be at it, too


def is_held(folder: Path) -> bool:
    """Whether somebody reads or builds the entry in this folder."""
    return system.is_held(folder / LAYOUT)


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and system.is_ours(folder.stat())


def _size(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # a note of progress that has just got its name
            continue
    return size
