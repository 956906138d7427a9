"""Which names a figure can show: what the fonts of this machine have letters for, and what has to be shown as a number instead.

DejaVu Sans, which comes with matplotlib, has Latin, Greek, Cyrillic, Arabic, Hebrew, Georgian, Armenian and many signs. For other
scripts the machine's own fonts are looked through. A font draws a letter if it has an outline for it: fonts of coloured bitmaps do
not count, nor do those that have one and the same stand-in for everything. Shaping and direction are matplotlib's and Pillow's, by
libraqm.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from packaging.version import Version

DEFAULT = "DejaVu Sans"
KNOWS_DIRECTION = Version(matplotlib.__version__) >= Version("3.11")

_NO_LETTER = 0xFDD0  # assigned to nothing, for ever: only a font of stand-ins has a glyph for it


@dataclass(frozen=True)
class Face:
    """A font of this machine: the name of its family, its file, and its place in a file of several."""

    family: str
    path: str
    index: int


def default_face() -> Face:
    """DejaVu Sans, as matplotlib brings it."""
    path = font_manager.findfont(FontProperties(family=[DEFAULT]))
    return Face(DEFAULT, str(path), _place(path))


def missing(text: str, face: Face) -> frozenset[str]:
    """The letters of a text that a font does not draw."""
    return frozenset(letter for letter in unicodedata.normalize("NFC", text) if not _draws_all(face, frozenset(letter)))


def find_face(letters: Iterable[str]) -> Face | None:
    """A font of this machine that draws all of some letters; None: there is none.

    An upright one of ordinary weight, sans serif first. Which one it is depends on the fonts alone, not on the order in which the
    system lists them.
    """
    wanted = frozenset(letters)
    return next((face for face in _faces() if _draws_all(face, wanted) and _is_chosen(face)), None)


def face_of(text: str) -> Face | None:
    """A font that draws a whole text, DejaVu Sans where it can; None: this machine has none."""
    letters = frozenset(unicodedata.normalize("NFC", text))
    return default_face() if not missing(text, default_face()) else find_face(letters)


def shown(name: str, number: int) -> str:
    """A name, or its number among those of its figure where no font of this machine draws it."""
    letters = missing(name, default_face())
    return name if not letters or find_face(letters) is not None else f"no. {number}"


def settle(figure: Figure) -> None:
    """Give each text of a figure that DejaVu Sans does not draw the font that does, where one is there."""
    for text in figure.findobj(Text):
        letters = missing(text.get_text(), default_face())
        if letters and list(text.get_fontfamily()) == [DEFAULT] and (face := find_face(letters)) is not None:
            text.set_fontfamily([DEFAULT, face.family])


def isolated(name: str) -> str:
    """A name that is written from right to left, marked so that what stands beside it is not taken for a part of it."""
    return f"\u2068{name}\u2069" if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name) else name


def in_figure(name: str) -> str:
    """The same for matplotlib, which before 3.11 sets letter after letter from left to right, and would draw the marks as boxes."""
    return isolated(name) if KNOWS_DIRECTION else name


def _faces() -> list[Face]:
    plain = [entry for entry in font_manager.fontManager.ttflist if entry.style == "normal" and entry.weight in _ORDINARY]
    return [Face(entry.name, entry.fname, _place(entry)) for entry in sorted(plain, key=_preference)]


def _place(found: object) -> int:
    """A face's place in its file. Before 3.11 matplotlib knew of a file of several (.ttc) only the first."""
    return int(getattr(found, "index" if isinstance(found, FontEntry) else "face_index", 0))


_ORDINARY = ("normal", "regular", "book", 400)


def _preference(entry: FontEntry) -> tuple[bool, str, str, int]:
    return ("sans" not in entry.name.lower(), entry.name, entry.fname, _place(entry))


@cache
def _is_chosen(face: Face) -> bool:
    # matplotlib is told a family and chooses the file itself: where it would take another one, what was looked at is not drawn.
    path = font_manager.findfont(FontProperties(family=[face.family]))
    return (os.path.realpath(path), _place(path)) == (os.path.realpath(face.path), face.index)


@cache
def _letters(face: Face) -> frozenset[int]:
    """The numbers of the letters that a font has, without keeping its file open: a machine may have hundreds."""
    font = _font(face)
    return frozenset() if font is None else frozenset(font.get_charmap())


@lru_cache(maxsize=4)
def _font(face: Face) -> FT2Font | None:
    try:
        font = FT2Font(face.path, face_index=face.index) if face.index else FT2Font(face.path)
    except (RuntimeError, OSError):  # FreeType cannot scale it, as with coloured bitmaps, or it is gone
        return None
    return None if font.get_char_index(_NO_LETTER) else font


def _draws_all(face: Face, letters: frozenset[str]) -> bool:
    if not {ord(letter) for letter in letters} <= _letters(face):
        return False
    font = _font(face)
    return font is not None and all(_draws(font, letter) for letter in letters)


def _draws(font: FT2Font, letter: str) -> bool:
    index = font.get_char_index(ord(letter))
    blank = unicodedata.category(letter)[0] in "ZC"  # spaces, joiners, marks of direction
    try:
        return bool(index) and (blank or font.load_glyph(index).width > 0)
    except RuntimeError:  # a glyph that FreeType cannot read
        return False
