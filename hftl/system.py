"""What operating systems do differently: locks, room on a disk, files opened by descriptor and without following links.

Linux has all of it. macOS lacks `posix_fallocate` and `fdatasync`, Windows most of it. What hftl does there instead stands here and
nowhere else, under the function that needs it; what the processors are like is in `hftl.cores`, what signals there are in
`hftl.signals`.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

_fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None
_resource: Any = import_module("resource") if find_spec("resource") else None

LOCK = ".lock"
"""A file in a folder that is locked, where folders themselves cannot be."""
_HELD = "held-"
"""How the name of a file begins that says, by its lock, that a file beside it is in use; see `hold`."""
_OUR_FILE = 0o600
FORKS_WORKERS = sys.platform == "linux"
"""Elsewhere samples would have to be sent to a loader's worker, which those of pictures cannot be."""
FROZEN_BY_PYTHON = 10_000
"""Fewer objects than that are frozen (`gc.freeze`) when Python begins, some hundred in 3.12; more are somebody's, and stay so."""


# --- locks --------------------------------------------------------------------------------------------------------------------


def take(place: Path) -> Callable[[], None]:
    """Lock a folder, or a file that is made where there is none, for this process alone, without waiting.

    The lock goes with a process that is killed, and with those that it has forked. Without flock (Windows) it is filelock's, which
    goes with its process too, and for a folder a file `.lock` in it.

    Returns:
        What lets go of it.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the place cannot be opened, or its file system has no locks.
    """
    if _fcntl is None:
        if not place.is_dir():
            return _take_file(place)
        return partial(_give_back, place / LOCK, _take_file(place / LOCK))
    flags = os.O_RDONLY if place.is_dir() else os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    descriptor = os.open(place, flags, _OUR_FILE)
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return partial(os.close, descriptor)


def hold(file: Path, descriptor: int) -> Callable[[], None]:
    """Have a file, which is open as `descriptor`, found `is_held` by all processes, until the descriptor is closed.

    Without flock another file beside it is locked, one for each that holds it.

    Returns:
        What else has to be called to let go of it.
    """
    if _fcntl is None:
        own = file.with_name(f"{_HELD}{uuid4().hex}")
        release = _take_file(own)
        return partial(_give_back, own, release)
    _fcntl.flock(descriptor, _fcntl.LOCK_SH)
    return lambda: None


def is_held(file: Path) -> bool:
    """Whether any process, this one too, holds a file; one that is not there is held by nobody."""
    if _fcntl is None:
        for own in file.parent.glob(f"{_HELD}*"):
            try:
                _give_back(own, _take_file(own))  # of a process that was killed
            except BlockingIOError:
                return True
        return False
    try:
        descriptor = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def says_held(name: str) -> bool:
    """Whether a file of this name is one of `hold`, and none of the folder's contents."""
    return name.startswith(_HELD)


def _take_file(file: Path) -> Callable[[], None]:
    from filelock import FileLock, Timeout

    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(file)) from None
    return partial(lock.release, force=True)


def _give_back(file: Path, release: Callable[[], None]) -> None:
    release()
    with suppress(OSError):  # somebody looks whether it is held, at this moment
        file.unlink()


# --- files --------------------------------------------------------------------------------------------------------------------


def open_unfollowed(path: str | Path, flags: int, mode: int = 0o777, *, folder: int | None = None) -> int:
    """A descriptor of a file's bytes, by a path that does not end in a link. Nobody is waited for who might write into a pipe.

    `folder` is the descriptor of the one that the path starts from. Without O_NOFOLLOW the path is looked at before it is opened.

    Raises:
        OSError: it cannot be opened; ELOOP: it is a link.
    """
    if not hasattr(os, "O_NOFOLLOW"):
        _refuse_link(Path(path))
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # the last is of Windows, which else turns ends of lines
        flags |= getattr(os, name, 0)
    return os.open(path, flags, mode, dir_fd=folder)


def open_below(folder: Path, above: Sequence[str], last: str) -> int:
    """A descriptor, for reading, of the file `last` in the folder `above` of a folder; that one alone may be a link.

    Raises:
        OSError: it cannot be opened; ELOOP or ENOTDIR: it is a link, or behind one.
    """
    if not opens_folders():
        place = folder
        for part in above:
            place /= part
            _refuse_link(place)
        return open_unfollowed(place / last, os.O_RDONLY)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in above:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return open_unfollowed(last, os.O_RDONLY, folder=descriptor)
    finally:
        os.close(descriptor)


def open_at_once(path: str, flags: int) -> int:
    """What `open` takes as its opener: nobody is waited for who might write into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_link(path: Path) -> None:
    is_junction = getattr(os.path, "isjunction", lambda _: False)  # of Windows, with Python 3.12
    if path.is_symlink() or is_junction(path):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


class Folder:
    """An open folder: what is done in it stays right when somebody gives it another name, or its name to another one.

    Where folders cannot be opened (Windows) it goes by its name. A folder that has open files in it cannot get another one there.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY) if opens_folders() else None
        self._found = os.stat(path if self._descriptor is None else self._descriptor)

    def close(self) -> None:
        """Let go of it. Nothing else may be called afterwards."""
        if self._descriptor is not None:
            os.close(self._descriptor)

    def open(self, name: str, flags: int, mode: int = 0o777) -> int:
        """A descriptor of a file in it."""
        return open_unfollowed(self._own(name), flags, mode, folder=self._descriptor)

    def replace(self, old: str, new: str) -> None:
        """Give a file in it another name, in place of a file that has it."""
        os.replace(self._own(old), self._own(new), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def flush(self) -> None:
        """Have its list of names on the disk."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def is_at(self, path: Path) -> bool:
        """Whether a path leads to it; FileNotFoundError: it leads to nothing."""
        return os.path.samestat(self._found, os.stat(path))

    def _own(self, name: str) -> str:
        return name if self._descriptor is not None else str(self._path / name)


def opens_folders() -> bool:
    """Whether a folder can be opened as a file can."""
    return hasattr(os, "O_DIRECTORY")


def flush_contents(descriptor: int) -> None:
    """Have the contents of an open file on the disk; with fdatasync without its times."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def reserve(stream: BinaryIO, nbytes: int, *, folder: Path) -> None:
    """Make an empty file in `folder` `nbytes` long and take the room for it, so that a later write cannot find the disk full.

    Without `posix_fallocate` the room is looked for, and taken where the file system does so (NTFS); on macOS somebody else may
    still fill the disk.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, nbytes)
        return
    if shutil.disk_usage(folder).free < nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    stream.truncate(nbytes)


def write_at(descriptor: int, content: memoryview, place: int) -> int:
    """Write into an open file from its byte `place` on; returns how many bytes were written, as any write may stop early."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, content, place)
    with _moving:  # of one descriptor there is one place
        os.lseek(descriptor, place, os.SEEK_SET)
        return os.write(descriptor, content)


_moving = threading.Lock()


def allow_open_files(more: int) -> tuple[int, int] | None:
    """Let this process have `more` files open than it has, where it may.

    Returns:
        None: it may now; otherwise how many that would be, and how many may be at the most. Windows has no such limit.
    """
    if _resource is None or not more:
        return None
    needed = len(os.listdir("/dev/fd")) + more
    soft, hard = _resource.getrlimit(_resource.RLIMIT_NOFILE)
    if soft == _resource.RLIM_INFINITY or soft >= needed:
        return None
    if hard != _resource.RLIM_INFINITY and hard < needed:
        return needed, hard
    _resource.setrlimit(_resource.RLIMIT_NOFILE, (needed, hard))
    return None


# --- users --------------------------------------------------------------------------------------------------------------------


def user() -> int | None:
    """The number of this user; None where users have none, and a user's folders are nobody else's by themselves (Windows)."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def is_ours(status: os.stat_result) -> bool:
    """Whether this user owns a file or folder."""
    return user() in {None, status.st_uid}


def is_ours_alone(status: os.stat_result) -> bool:
    """Whether this user owns a file, and nobody else may write it."""
    return user() is None or (is_ours(status) and not status.st_mode & 0o022)
