"""What the commands print, on stdout and on stderr: results, and words of strangers."""

from __future__ import annotations

from rich.console import Console

from hftl.errors import printable
from hftl.terminal import show

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def say(line: str) -> None:
    """A line that may hold a stranger's words."""
    show(out, line)


def plain(text: str) -> str:
    """User text for a rich table: no markup, one line."""
    from rich.markup import escape

    return escape(printable(" ".join(text.split())))
