"""Numbers and lists as people read them: the same on the terminal, in a message, in a figure and on the card."""

from __future__ import annotations

from collections.abc import Iterable


def percent(share: float) -> str:
    """A share with one decimal: 0.125 is "12.5 %". What is not nothing is not called 0 %, and what is not all not 100 %."""
    if 0 < share < 0.0005:
        return "under 0.1 %"
    if 0.9995 <= share < 1:
        return "over 99.9 %"
    return "100 %" if share == 1 else f"{100 * share:.1f} %"


def size(nbytes: float) -> str:
    """Bytes in decimal units: 1_234_567 is "1.2 MB"."""
    power = sum(nbytes >= 1000**exponent for exponent in (1, 2, 3))
    return f"{nbytes / 1000**power:,.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB')[power]}"


def duration(seconds: float) -> str:
    """Two units at the most: 75 is "1 min 15 s", 3725 is "1 h 02 min"."""
    whole = max(1, round(seconds)) if seconds > 0 else 0
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count(number: int, thing: str) -> str:
    """``count(1, "row")`` is "1 row", ``count(1200, "row")`` "1,200 rows"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def listed(names: Iterable[object], most: int | None = None) -> str:
    """Names in a sentence; of more than `most` the first ones: "a, b and 3 more"."""
    shown = [str(name) for name in names]
    if most is None or len(shown) == most + 1:  # "and 1 more" takes the room of its name
        return ", ".join(shown)
    return ", ".join(shown[:most]) + and_more(len(shown), most)


def quoted(names: Iterable[object], most: int | None = None) -> str:
    """The same in double quotes: '"a", "b" and 3 more'."""
    return listed([f'"{name}"' for name in names], most)


def and_more(number: int, shown: int) -> str:
    """What follows the first `shown` of `number` things: " and 3 more", or nothing."""
    return f" and {number - shown:,} more" if number > shown else ""


def short(text: str, most: int) -> str:
    """The first `most` characters of a text, and how many there are beside them."""
    return text if len(text) <= most else f"{text[:most]}... and {len(text) - most:,} more characters"
