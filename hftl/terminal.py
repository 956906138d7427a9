"""What is printed for people: without escape sequences of strangers, and without harm when nobody reads any more."""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from hftl.errors import printable


def show(console: Console, *objects: Any, **options: Any) -> bool:
    """Print on a console; texts as they are, without markup, and without what a terminal would act on.

    Where the reader has gone (a closed ssh session, a pipe whose other end has died) what is printed from then on goes nowhere:
    hours of training do not end for a line that nobody sees.

    Returns:
        False: the reader has gone.
    """
    shown = [Text(printable(item)) if isinstance(item, str) else item for item in objects]
    console.on_broken_pipe = _broken_pipe  # type: ignore[method-assign]  # rich would close stdout and end the process
    try:
        console.print(*shown, **options)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, console.file.fileno())
        os.close(nowhere)
        return False
    return True


def _broken_pipe() -> NoReturn:
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
