"""Texts as they lie in files: packed or not, and in which encoding.

A text is UTF-8 unless the file says otherwise, or the recipe does (`data.encoding`): UTF-16 begins with a mark, or is half zeros.
Any other encoding is refused, with what the file would say in those that it may be.
"""

from __future__ import annotations

import codecs
import lzma
import stat
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from hftl.data.layout import NO_FILE, PACKED, packing_of
from hftl.errors import Problem

MOST_FROM_PIPE = 1_000_000_000

_MOST_UNPACKED, _ALWAYS_UNPACKED = 100, 1_000_000_000  # times the packed size, or bytes: tables get 3 to 20 times smaller

_POINTER = b"version https://git-lfs.github.com/spec/v1"

_HEAD = 1_000_000  # bytes that tell the columns of a table

# What programs of Western Europe, Russia, China and Japan write that is no UTF-8.
_USUAL = ("cp1252", "cp1251", "gb18030", "cp932")


def read_text(file: Path, problems: list[Problem], *, encoding: str | None = None, remarks: list[str] | None = None) -> str | None:
    """The text of a file; None, with a problem, where it cannot be read.

    `encoding` is the one that the recipe names; None: it is found. `remarks` gets a line where it is another than UTF-8.
    """
    content = read_bytes(file, problems)
    if content is None:
        return None
    found = encoding or _utf_16(content)
    if found is not None:
        try:
            text = content.decode(found).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            what = f"byte {error.start} is not {found}"
            problems.append(Problem(str(file), what, ("data.encoding=... says another one; without it UTF-8 is read",)))
            return None
        if encoding is None and remarks is not None:
            remarks.append(f"{file.name} is read as UTF-16")
        return text
    start = content.find(b"\0")
    if start >= 0:
        problems.append(Problem(_place(file, content, start), "a NUL byte: this is no text file"))
        return None
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        ways = [f"data.encoding={name} reads: {shown}" for name, shown in _readings(content, error.start).items()]
        problems.append(Problem(_place(file, content, error.start), "not UTF-8: save the file as UTF-8", tuple(ways)))
        return None


def _place(file: Path, content: bytes, start: int) -> str:
    line = content.count(b"\n", 0, start) + 1
    return f"{file}, line {line}, byte {start}"


def _readings(content: bytes, start: int) -> dict[str, str]:
    """What the place that is no UTF-8 says in usual encodings that can read the whole file."""
    before = max(content.rfind(b"\n", 0, start), start - 20) + 1
    end = content.find(b"\n", start)
    piece = content[before : min(len(content) if end < 0 else end, start + 20)]
    readings = {}
    for name in _USUAL:
        try:
            content.decode(name)
        except UnicodeDecodeError:
            continue
        readings[name] = piece.decode(name, errors="replace").strip()
    return readings


def _utf_16(content: bytes) -> str | None:
    """UTF-16, with a mark of the byte order or without; None: it is not that."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    first = content[:1000]
    high, low = (half.count(0) > len(half) / 2 for half in (first[::2], first[1::2]))
    return {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get((high, low))


def read_bytes(file: Path, problems: list[Problem]) -> bytes | None:
    """What a file holds, unpacked where its ending says that it is packed; None, with a problem, where it cannot be read."""
    try:
        kind = file.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            problems.append(Problem(str(file), "a folder" if stat.S_ISDIR(kind) else NO_FILE))
            return None
        if packing_of(file.name) is not None:
            return _unpacked(file, problems)
        with file.open("rb") as stream:  # a pipe, as the shell makes one of <(command), may have no end
            content = stream.read(-1 if stat.S_ISREG(kind) else MOST_FROM_PIPE + 1)
    except OSError as error:
        problems.append(Problem(str(file), f"cannot be read: {error.strerror}"))
        return None
    if stat.S_ISFIFO(kind) and len(content) > MOST_FROM_PIPE:
        problems.append(Problem(str(file), f"more than {MOST_FROM_PIPE:,} bytes of a pipe: write them into a file"))
        return None
    if is_pointer(content):
        problems.append(pointer_problem(file))
        return None
    return content


def is_pointer(content: bytes) -> bool:
    """Whether a file is what git leaves in place of one that Git LFS holds."""
    return content.startswith(_POINTER)


def pointer_problem(file: Path) -> Problem:
    """The refusal of a pointer of Git LFS."""
    return Problem(str(file), "a pointer of Git LFS, and not the file that it stands for", ("in the clone: git lfs pull",))


def _unpacked(file: Path, problems: list[Problem]) -> bytes | None:
    packing = packing_of(file.name)
    assert packing is not None
    size = file.stat().st_size
    most = max(_ALWAYS_UNPACKED, _MOST_UNPACKED * size)
    try:
        with file.open("rb") as stream, _unpacking(stream, packing) as unpacked:
            content = bytes(unpacked.read(most + 1))
    except (OSError, EOFError, pa.ArrowException, lzma.LZMAError) as error:
        problems.append(Problem(str(file), f"cannot be unpacked: {' '.join(str(error).split())}"))
        return None
    if len(content) > most:
        what = f"more than {most:,} bytes from {size:,} packed ones, which no table is"
        problems.append(Problem(str(file), what, ("if it is one after all: unpack it, and name what was in it",)))
        return None
    return content


def _unpacking(stream: IO[bytes], packing: str) -> Any:
    """What was packed, as a stream to be read."""
    return lzma.open(stream) if PACKED[packing] == "xz" else pa.CompressedInputStream(stream, PACKED[packing])


def head_of(file: Path) -> str:
    """How a table begins, for the names of its columns; letters beyond ASCII may be wrong in it.

    Raises:
        OSError: it cannot be read, or is packed and damaged.
    """
    with file.open("rb") as stream:
        packing = packing_of(file.name)
        try:
            content = bytes(_unpacking(stream, packing).read(_HEAD)) if packing else stream.read(_HEAD)
        except (EOFError, lzma.LZMAError) as error:
            raise OSError(str(error)) from None
    found = _utf_16(content)
    if found is not None:
        return content.decode(found, errors="ignore").removeprefix("\ufeff")
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(content)  # the last letter may be cut
    except UnicodeDecodeError:
        return content.decode("latin-1")
