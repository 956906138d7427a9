"""What is printed for people: without escape sequences of strangers, and without harm when nobody reads any more."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin
from rich.text import Text

from hftl.errors import printable

_GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF}
"""What writing to a reader says that is no more: the other end of a pipe, a terminal that was closed."""


def open_standard_streams() -> None:
    """Open on nothing what the caller has closed (`hftl plan RECIPE >&-`): a file that is opened later would be taken for it."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def show(console: Console, *objects: Any, **options: Any) -> bool:
    """Print on a console; texts as they are, without markup, and without what a terminal would act on.

    Where the reader has gone (a closed ssh session, a pipe whose other end has died) what is printed from then on goes nowhere:
    hours of training do not end for a line that nobody sees. On stdout are results, and a disk that has no room for them is an
    error; on stderr is what training says, which log.txt has too.

    Returns:
        False: the reader has gone.

    Raises:
        OSError: stdout is a file that cannot be written.
    """
    shown = [Text(printable(item)) if isinstance(item, str) else item for item in objects]
    console.on_broken_pipe = _broken_pipe  # type: ignore[method-assign]  # rich would close stdout and end the process
    try:
        console.print(*shown, **options)
    except OSError as error:
        if not console.stderr and error.errno not in _GONE:
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, console.file.fileno())
        os.close(nowhere)
        return False
    return True


Say = Callable[[str], object]
"""Is given what there is to say, line by line: `tell` writes it to stderr."""


def tell(line: str) -> None:
    """A line of progress, for whoever calls hftl from Python and wants to know what happens."""
    show(progress_console(), line)


def progress_console() -> Console:
    """Where progress is shown: stderr; in a notebook one display for each cell, which grows line by line."""
    global _of_the_cell
    console = Console(stderr=True, soft_wrap=True)
    if not console.is_jupyter:
        return console
    from IPython import get_ipython

    cell = get_ipython().execution_count
    if _of_the_cell is None or _of_the_cell.cell != cell:
        _of_the_cell = _Display(cell)
    return _of_the_cell


class _Display(Console):
    """What a notebook's cell has said so far, in one display that is updated in place."""

    def __init__(self, cell: int) -> None:
        super().__init__(
            file=io.StringIO(), record=True, width=_WIDE, soft_wrap=True, force_jupyter=False, color_system="truecolor"
        )
        self.cell = cell
        self._display: Any = None

    def print(self, *objects: Any, **options: Any) -> None:
        from IPython import display as of_notebook

        super().print(*objects, **options)
        shown = {
            "text/plain": self.export_text(clear=False),
            "text/html": self.export_html(clear=False, inline_styles=True, code_format=_AS_HTML),
        }
        if self._display is None:
            show: Any = of_notebook.display
            self._display = show(shown, raw=True, display_id=True)
        else:
            self._display.update(shown, raw=True)


_of_the_cell: _Display | None = None
_AS_HTML = '<pre style="white-space: pre; overflow-x: auto; line-height: normal">{code}</pre>'


class Markdown(str):
    """The text of a page with front matter, of which a notebook shows what people read."""

    def _repr_markdown_(self) -> str:
        lines = _FRONT_MATTER.sub("", self).splitlines()
        return "\n".join(line for line in lines if not line.startswith("!["))  # a notebook looks for pictures beside itself


_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)


class Shown(JupyterMixin):
    """What is shown as a table or as lines: by a notebook, by `print` and `repr`, and by a rich console."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        raise NotImplementedError

    def __repr__(self) -> str:
        text = Console(file=io.StringIO(), width=_WIDE, color_system=None, force_jupyter=False)
        with text.capture() as captured:
            text.print(self, soft_wrap=True)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    __str__ = __repr__


_WIDE = 200
"""Columns of a table as text, which nobody's window limits."""


def _broken_pipe() -> NoReturn:
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
