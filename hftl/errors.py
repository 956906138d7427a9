"""The few exceptions a user can meet.

Each one says where, what was found, what is allowed and the nearest guess; all problems of a pass come in one report. The
command line prints the message alone, without a traceback, and exits with `exit_code`.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hftl.wording import short


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `where` (a dotted key, a file, a row), `what`, and further lines of help."""

    where: str
    what: str
    help: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(
            [
                f"  {short(self.where, _LONGEST)}: {short(self.what, _LONGEST)}",
                *(f"      {short(line, _LONGEST)}" for line in self.help),
            ]
        )


_SHOWN = 10
_LONGEST = 2_000  # characters; what was found may be a whole damaged file


class HftlError(Exception):
    """Anything hftl refuses to do, with the reason and the way out."""

    exit_code = 2
    everywhere = False
    """Said by every process of a run that meets it, and not by the main process for all."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the message, as the command line does."""
        return printable(f"{type(self).__name__}: {self}").splitlines()


class _Report(HftlError):
    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{count} in {source}", *_first_of_each(self.problems)]))

    @classmethod
    def single(cls, where: str, what: str, *help: str, source: str = "recipe") -> Self:
        """A report with one problem."""
        return cls(source, [Problem(where, what, help)])


def _first_of_each(problems: Sequence[Problem]) -> Iterator[str]:
    """Every problem; of those that say the same of more than `_SHOWN` places the first ones, and how many more there are."""
    places = Counter(problem.what for problem in problems)
    shown = Counter[str]()
    for problem in problems:
        what = problem.what
        shown[what] += 1
        if shown[what] <= _SHOWN:
            yield str(problem)
        elif shown[what] == places[what]:
            more = places[what] - _SHOWN
            yield str(Problem(f"and {more:,} more", what, problem.help))


class RecipeError(_Report):
    """The recipe cannot be carried out as written."""


class DataError(_Report):
    """The data cannot be used as they are."""


class RunError(HftlError):
    """A run directory is missing, unfinished, in use, or not what was expected."""


def _numbers(names: str) -> frozenset[int]:
    """The numbers of errors, of those that this system knows."""
    return frozenset(getattr(errno, name) for name in names.split() if hasattr(errno, name))


FULL_OR_LOCKED = _numbers("ENOSPC EDQUOT EFBIG EROFS EIO EACCES EPERM")
"""What a disk answers that is full or may not be written."""
# What else the system answers to a user's mistake or for want of something, and not to a defect: a bad descriptor is one.
_SYSTEM = FULL_OR_LOCKED | _numbers(
    "ENOENT ENOTDIR EISDIR EEXIST ENOTEMPTY ENAMETOOLONG ELOOP ENXIO ENODEV ESTALE EBUSY ETXTBSY EXDEV EMLINK EMFILE ENFILE"
    " ENOMEM EAGAIN EREMOTEIO ETIMEDOUT EHOSTDOWN ENOLCK EOPNOTSUPP"
)


_BESIDE = re.compile(r"\.([^/]+)\.[0-9]+\.partial$")
"""How a file is called while it is written, beside its place."""


def from_system(error: BaseException) -> RunError | None:
    """What the machine could not do, as one message; None where the error may be a defect of ours.

    A disk that is full or read-only, a name that is too long or no text, a file that is gone, too little memory.
    """
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        names = (str(name) for name in (error.filename, error.filename2) if name is not None)
        where = " -> ".join(_BESIDE.sub(r"\1", name) for name in names)
        return RunError(f"{where}: {error.strerror}" if where else f"something could not be written or read: {error.strerror}")
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return RunError(f"a name that is not UTF-8 text: {error.object!a}. hftl writes names into JSON, which is: rename it")
    # torch has a class of its own for GPUs only; numpy's is a MemoryError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in message:
        return RunError(f"too little memory: {message or 'the machine has no more'}. Smaller batches, models or pictures need less")
    return None


def printable(text: str) -> str:
    """Without what a terminal would act on: a stranger's class name may hold an escape sequence. Line breaks stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """A guess to end an error with: ``' Did you mean "layer4"?'``, or nothing when no name is near."""
    near = _nearest(name, allowed)
    return "" if near is None else f' Did you mean "{near}"?'


def beside(path: Path, *, folders: bool = False) -> str:
    """The same for a file or a folder that there is not, by what lies where it should, with the full stop before it; `folders`: of
    folders alone."""
    try:
        near = _nearest(path.name, [each.name for each in sorted(path.parent.iterdir()) if not folders or each.is_dir()])
    except OSError:
        return ""
    return "" if near is None else f'. Did you mean "{path.parent / near}"?'


def _nearest(name: str, allowed: Iterable[str]) -> str | None:
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return near[0] if near else None
