"""Text in a card: what comes from users or from data is escaped for its place in Markdown, and numbers are written for people."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.filters import do_mark_safe as safe

from hftl.recipe import local_name
from hftl.wording import percent

NOT_RECORDED = "not recorded"
DASH = "–"  # in a table, where there is nothing to show


def visible(text: str) -> str:
    """Characters that are not seen, or that turn others round, by their numbers; line breaks and tabs stay.

    Controls and format characters (bidi overrides, zero-width spaces and joiners), surrogates, private and unassigned ones.
    """
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else f"⟨U+{ord(c):04X}⟩" for c in text)


def inline(value: Any) -> str:
    """User text inside a sentence or a table cell: one line, shown letter by letter, whatever it contains."""
    if value is None:
        return safe(NOT_RECORDED)
    text = html.escape(visible(" ".join(str(value).split())), quote=False)
    # The Hub reads \\( and $$ as mathematics, and a backslash before another one would make the first.
    text = text.replace("\\", "&#92;").replace("$", "&#36;")
    text = re.sub(r"([`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<!&)#", r"\\#", text)
    return safe(re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text))  # an underscore inside a word means nothing in Markdown


def quoted(value: str | None) -> list[str]:
    """A person's own paragraphs as the lines of a quotation block: Markdown is theirs to write, HTML is not.

    The block also holds what they begin and do not end, such as a code fence.
    """
    if not value or not value.strip():
        return []
    lines = html.escape(visible(value.strip()), quote=False).splitlines()
    return [f"> {line}".rstrip() for line in lines]


def code(value: str, language: str = "") -> str:
    """A fenced block that its content cannot close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", value)), default=0))
    return safe(f"{fence}{language}\n{visible(value.strip())}\n{fence}")


def decimals(value: float | None, digits: int = 3) -> str:
    """Three decimals; what is not nothing is not called 0.000, and what is not quite 1 is not called 1.000."""
    if value is None:
        return NOT_RECORDED
    text, least = f"{value:.{digits}f}", 10**-digits
    if value != 0 and float(text) == 0:
        return safe(f"< {least:.{digits}f}" if value > 0 else f"> -{least:.{digits}f}")
    return safe(f"> {1 - least:.{digits}f}") if value < 1 and float(text) == 1 else text


def interval(value: Sequence[float] | None) -> str:
    """Both ends of an interval; a dash where there is none."""
    return DASH if value is None else safe(f"{decimals(value[0])} to {decimals(value[1])}")


def share(row: Mapping[str, Any], key: str) -> str:
    """A number with its interval in one cell."""
    if row[key] is None:
        return DASH
    bounds = row.get(f"{key}_interval")
    return safe(f"{decimals(row[key])} ({interval(bounds)})") if bounds else decimals(row[key])


def in_words(names: Sequence[str]) -> str:
    """Two names or more as a sentence lists them: a, b and c."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def number(value: int | float) -> str:
    """A whole number with commas: 1,230."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """Three significant digits: 5.4, 12.3, 1,230."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent_or_unknown(share: float | None) -> str:
    """A share, 0 to 1, in percent."""
    return NOT_RECORDED if share is None else percent(share)


def rate(rate: float | None) -> str:
    """A learning rate; None: the group is frozen."""
    return "frozen" if rate is None else f"{rate:.1e}"


def plain(values: Mapping[str, Any]) -> dict[str, str]:
    """Facts of a family in its own words: numbers, names and short lists; of a path only its last part."""
    shown = {}
    for key, value in values.items():
        items = value if isinstance(value, list | tuple) else [value]
        if 0 < len(items) <= 10 and all(isinstance(item, str | int | float) for item in items):
            shown[key.replace("_", " ")] = (" x " if key == "input_size" else ", ").join(map(_word, items))
    return shown


def _word(value: str | int | float) -> str:
    if isinstance(value, str):
        return local_name(value) if re.match(r"[/\\~]|[A-Za-z]:\\", value) else value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
