"""Files as a run has them: written whole or not at all, read within bounds, and never through a link.

What reads them expects a stranger's: too large, too deep, not JSON, not a file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from hftl import system
from hftl.errors import RunError

# Bounds that no file of a run comes near: a stranger's file is refused before it fills the memory or the stack.
MOST_BYTES = 100_000_000
MOST_DIGITS = 300  # fewer than float64 can hold; a tokenizer's "no limit" has 31
DEEPEST = 50
PARTIAL = ".partial"
"""How the name of a file ends that is being written."""


def check_name(path: Path) -> None:
    """Refuse what no system takes as the name of a file or folder; Python alone says "embedded null byte" of it.

    Raises:
        RunError: there is a NUL character in it.
    """
    if "\0" in str(path):
        raise RunError(f"{str(path)!r}: no file or folder has a NUL character (\\0) in its name. Choose another one")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write the file under; it takes the place of `path` when all of it is on the disk, or is removed.

    Raises:
        RunError: `path` cannot be a name.
    """
    check_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield beside
        flush(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; NaN is an error."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """A value as the JSON files of a run have it; NaN is an error."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_text(path: Path) -> str:
    """The text of a file of a run.

    Raises:
        RunError: the file is missing, is no plain file (a pipe would be waited for), cannot be read, is larger than 100 MB, or is
            not UTF-8.
    """
    try:
        with open(path, "rb", opener=system.open_at_once) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no plain file")
            content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; the run is not finished, or this is no run directory") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise RunError(f"{path}: larger than {MOST_BYTES // 10**6} MB, which this file of a run never is")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 text (byte {error.start})") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; every JSON file of a run holds one.

    Raises:
        RunError: the file is missing or unreadable, or holds anything but one JSON object (see `parse_json`).
    """
    return _an_object(parse_json(read_text(path), source=str(path)), source=str(path))


def parse_json(text: str, *, source: str) -> Any:
    """The value of a JSON text; `source` is named in errors.

    Refused are also what the JSON standard does not know (NaN, Infinity) and what the rest of hftl could not live with: a key that
    is there twice (one is read by people, the other by programs), nesting deeper than 50, numbers of more than 300 digits or beyond
    float64, and halves of characters.

    Raises:
        RunError: not JSON, or one of these.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_finite, parse_float=_finite, parse_int=_short_integer
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # "\ud800" alone is no character, and no file can hold it
        level = [value]
        for _ in range(DEEPEST):
            inside = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
            level = [item for items in inside for item in items if isinstance(item, dict | list)]
        if level:
            raise RecursionError
    except RecursionError:
        raise RunError(f"{source}: nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise RunError(f"{source}: not JSON: {error}") from None
    return value


def _an_object(value: Any, *, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RunError(f"{source}: not a JSON object but {type(value).__name__}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!a} is there twice")
    return values


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:40]} is not a finite number")
    return value


def _short_integer(number: str) -> int:
    if len(number) > MOST_DIGITS:
        raise ValueError(f"a number of {len(number)} digits")
    return int(number)


def fingerprint(content: Path | bytes) -> dict[str, Any]:
    """A file's entry in a manifest: {"sha256": hex, "size": bytes}."""
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    with content.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": content.stat().st_size}


def open_plain(folder: Path, name: str) -> BinaryIO:
    """Open a plain file below a folder for reading, and nothing else: no link is followed, of the file or of a folder on the way.

    What somebody else gives you as a run may lead to a file of yours: by a symbolic link, or by a second name for it (a hard link).
    The folder itself is named by its user, and may be a link.

    Raises:
        RunError: a name that leaves the folder, a link, a folder, a device, a pipe, a socket, a file of several names, or one that
            is not there or cannot be read.
    """
    *above, last = PurePosixPath(name).parts or ("",)
    if not last or ".." in (*above, last) or PurePosixPath(name).is_absolute():
        raise RunError(f"{folder / name}: not a file of this folder")
    try:
        file = system.open_below(folder, above, last)
    except OSError as error:
        link = error.errno in {errno.ELOOP, errno.ENOTDIR}
        what = "a link, or behind one; put a copy of the file in its place" if link else f"cannot be read: {error.strerror}"
        raise RunError(f"{folder / name}: {what}") from None
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(file)
        many = "has another name somewhere (a hard link); put a copy of the file in its place"
        raise RunError(f"{folder / name}: {many if stat.S_ISREG(status.st_mode) else 'no plain file'}")
    return open(file, "rb")


def flush(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk and not only on its way there.

    Where folders cannot be opened (Windows) their lists of names are the system's to write.
    """
    if not system.opens_folders() and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if system.opens_folders() else os.O_RDWR)  # Windows flushes what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line to a .jsonl file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a .jsonl file; none where there is no file.

    Raises:
        RunError: the file is unreadable, or a line, which is named, is not one JSON object (see `parse_json`).
    """
    if path.exists():
        # Not `splitlines`: a class name may hold U+2028, which is no end of a line of JSON.
        text = read_text(path)
        for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
            source = f"{path}, line {number}"
            yield _an_object(parse_json(line, source=source), source=source)
