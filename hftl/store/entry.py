"""An entry of the cache on the disk: the names of its files, whose they are, and the digests that seal it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hftl import cores, system

FORMAT = 2
LAYOUT, ROWS, STARTS, DIGESTS, LOCK = "layout.json", "rows.bin", "starts.npy", "digests.json", ".lock"
BLOCK = 2**26  # bytes that one digest is of: 64 MiB, so that all cores have something to do
OURS, OUR_FILE = 0o700, 0o600  # nobody else has a use for them
ENTRY = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8}\.partial)?")


def key_of(parts: Mapping[str, Any]) -> str:
    """The key of an entry: SHA-256, in hex, of everything that decides what is in it. `parts` are JSON values in any order."""
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()


def open_ours(path: Path, flags: int = os.O_RDONLY) -> int:
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


def write(path: Path, value: Any) -> None:
    """A JSON file that nobody else reads, on the disk when this returns."""
    descriptor = system.open_unfollowed(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OUR_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(_canonical(value))
        stream.flush()
        os.fsync(stream.fileno())


def read_array(path: Path) -> npt.NDArray[Any]:
    """An array in NumPy's own format, memory-mapped.

    Raises:
        ValueError: it is none, or not of numbers or names; EOFError: it is cut off.
    """
    with os.fdopen(open_ours(path), "rb") as stream:
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


def _digests_of(path: Path) -> list[str]:
    """SHA-256 of each block of a file, in hex, by all cores."""
    with os.fdopen(open_ours(path), "rb") as stream, ThreadPoolExecutor(len(cores.affinity())) as pool:
        size = os.fstat(stream.fileno()).st_size
        content = np.memmap(stream, np.uint8, mode="r") if size else np.empty(0, np.uint8)
        blocks = (content[start : start + BLOCK] for start in range(0, size, BLOCK))
        return list(pool.map(lambda block: hashlib.sha256(block.data).hexdigest(), blocks))


def _sealed_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.name != DIGESTS and not path.name.startswith("progress-") and not system.says_held(path.name)
    )


def write_digests(folder: Path) -> None:
    """Seal an entry that is whole. Of several runs that build the same each one seals it."""
    digests = {path.name: _digests_of(path) for path in _sealed_files(folder)}
    beside = folder / f"progress-digests.{os.getpid()}"
    write(beside, digests)
    beside.replace(folder / DIGESTS)


def damaged_file(folder: Path) -> str | None:
    """The first file of an entry that is not as it was sealed; None: all are."""
    try:
        with os.fdopen(open_ours(folder / DIGESTS), "rb") as stream:
            sealed = json.loads(stream.read(BLOCK).decode("utf-8"))
        digests = {path.name: _digests_of(path) for path in _sealed_files(folder)}
    except (OSError, ValueError):
        return DIGESTS
    if not isinstance(sealed, dict):
        return DIGESTS
    return next((name for name in sorted({*sealed, *digests}) if sealed.get(name) != digests.get(name)), None)


def digest(array: npt.NDArray[Any]) -> str:
    """SHA-256 of an array's values, in hex."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
