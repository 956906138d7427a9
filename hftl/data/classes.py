"""Class names that deserve a look before training: two that look alike, and labels that are a number on a scale, not a class.

Everything here is arithmetic on names and counts. What can never be meant (two names that look the same to everyone, a score of
which nearly every row has its own) is refused by `load_splits`; what may be meant is a line of the audit.

K classes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from hftl.data.rows import SHOWN
from hftl.errors import Problem
from hftl.wording import listed

Scale: TypeAlias = Literal["fractions", "whole numbers", "dates"]

FEW_ROWS = 20
"""Under so many rows, about a class a row is a small sample and no sign of anything."""
MANY_NUMBERS = 20
"""Up to so many whole numbers are ratings, grades or class numbers."""

_TYPO = 10  # how many times rarer a name is that may be a misspelling of another
_TYPO_LETTERS = 6  # that it has at least

# Letters of other scripts that are drawn as a Latin one: what is typed on a Russian or Greek keyboard into an English name.
_DRAWN_ALIKE = str.maketrans("АВЕЅІЈКМНОРСТУХаеоѕсіјрухΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABESIJKMHOPCTYXaeoscijpyxABEZHIKMNOPTYXo")


@dataclass(frozen=True)
class Alike:
    """Class numbers whose names nearly agree, and how they differ: "in upper and lower case"."""

    classes: tuple[int, ...]
    how: str


def visible(name: str) -> str:
    """What a reader sees of a name: accents composed, white space of any kind and number as one space, nothing invisible."""
    composed = unicodedata.normalize("NFC", name)
    shown = "".join(letter for place, letter in enumerate(composed) if not _is_invisible(letter) or _joins_emoji(composed, place))
    return " ".join(shown.split())


def _joins_emoji(name: str, place: int) -> bool:
    """Whether a joiner makes one picture of two emoji, a family of three persons, which everybody sees."""
    before, after = name[:place].rstrip("\ufe0f")[-1:], name[place + 1 : place + 2]
    if name[place] != "\u200d" or not before or not after:
        return False
    return unicodedata.category(before) in {"So", "Sk"} and unicodedata.category(after) == "So"


def _is_invisible(letter: str) -> bool:
    # Cf: soft hyphens, joiners, direction marks, the byte order mark. Not in it: selectors between two looks of a sign. The tags
    # from U+E0020 on make a flag of a region what it is.
    is_tag = "\U000e0020" <= letter <= "\U000e007f"
    return (unicodedata.category(letter) == "Cf" and not is_tag) or "\ufe00" <= letter <= "\ufe0f"


def how_invisibly(names: Sequence[str]) -> str:
    """In what names differ that look the same: ``"in how accents are written (Unicode's forms NFC and NFD)"``."""
    if len({unicodedata.normalize("NFC", name) for name in names}) == 1:
        return "in how accents are written (Unicode's forms NFC and NFD)"
    if len({" ".join(name.split()) for name in names}) == 1:
        return "in white space"
    return "in characters that nobody sees"


def look_same(names: Sequence[str]) -> list[tuple[int, ...]]:
    """The groups of classes whose names cannot be told apart by looking at them."""
    return _groups(range(len(names)), lambda place: visible(names[place]))


def look_alikes(names: Sequence[str], counts: Sequence[int]) -> list[Alike]:
    """The groups of classes whose names nearly agree; `counts` are the rows of each, of which a misspelling has few.

    ``look_alikes(["negative", "Positive", "positive"], [9, 5, 4])`` finds classes 1 and 2, "in upper and lower case". One letter
    more, less or other counts only where one of the two is ten times as rare: "cable" and "table" are both words.
    """
    pairs = [
        Alike(group, listed_and(_differences([names[place] for place in group])))
        for group in _groups(range(len(names)), lambda place: _fold(names[place]))
    ]
    return sorted([*pairs, *_typos(names, counts)], key=lambda alike: alike.classes)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` nearly is, by everything but its letters."""
    return next((other for other in names if _fold(other) == _fold(name)), None)


def scale_of(names: Sequence[str]) -> Scale | None:
    """What kind of number all names are, if they are: ``scale_of(["0.5", "2", "3.75"]) == "fractions"``."""
    if all(re.fullmatch(_DATE, name) for name in names):
        return "dates"
    if not all(re.fullmatch(_NUMBER, name) for name in names):
        return None
    return "whole numbers" if all(re.fullmatch(r"[+-]?\d+", name) for name in names) else "fractions"


def are_class_numbers(names: Sequence[str]) -> bool:
    """Whether whole numbers count classes: they go from 0 or 1 to K without a gap."""
    numbers = {int(name) for name in names}
    return min(numbers) in (0, 1) and max(numbers) - min(numbers) == len(numbers) - 1


def listed_and(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


_NUMBER = r"[+-]?(\d+([.,]\d+)?|[.,]\d+)([eE][+-]?\d+)?"
_TIME = r"([T ]\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?(Z|UTC|[+-]\d{2}:?\d{2}))?)?"
_DATE = rf"(\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/.]\d{{1,2}}[-/.]\d{{2,4}}){_TIME}"


# --- what is refused ----------------------------------------------------------------------------------------------------------


def same_look_problems(names: Sequence[str], counts: Mapping[str, np.ndarray]) -> list[Problem]:
    """A problem for each group of classes that look the same; `counts` has, for each split by its name, the rows of every class."""
    problems = []
    present: list[int] = np.flatnonzero(sum(counts.values())).tolist()
    for group in look_same([names[place] for place in present]):
        places = [present[place] for place in group]
        spelled = [
            f"{names[place]!a} ({', '.join(f'{split} {rows[place]:,}' for split, rows in counts.items() if rows[place])})"
            for place in places
        ]
        what = (
            f'{len(group)} classes look the same, "{visible(names[places[0]])}", and differ'
            f" {how_invisibly([names[place] for place in places])}: {listed_and(spelled)}"
        )
        problems.append(Problem("class names", what, ("nobody can tell them apart: give them one name in the source",)))
    return problems


def class_a_row_problem(split: str, names: Sequence[str], rows: int, *, columns: Sequence[str], divided: bool) -> Problem | None:
    """Labels that are no classes: about as many different ones as rows; None where that can be meant.

    Args:
        split: its name.
        names: of the classes that it has rows of.
        rows: how many.
        columns: of its table.
        divided: whether a validation split has to be made of it, which takes two rows of a class at least.
    """
    scale = scale_of(names) if 2 * len(names) > rows else None
    alone = divided and len(names) == rows
    if rows < FEW_ROWS or not (alone or scale in ("fractions", "dates")):
        return None
    different = {
        "fractions": "different numbers",
        "dates": "different dates",
        "whole numbers": "different numbers",
        None: "classes",
    }
    what = f"its {rows:,} labels are {len(names):,} {different[scale]} ({listed(names, SHOWN)})"
    if scale == "fractions":
        what += ": values on a scale, which is regression; hftl tells classes apart"
    elif scale is not None:
        what += ": values, and no classes"
    else:
        what += ": with one row each, there is nothing to learn a class from and to check it on"
    help = [f"columns there are: {', '.join(columns)}; data.label_column names the one with the classes"] if columns else []
    if scale is not None:
        help.append("or divide the values into a few ranges, each with a name of its own, and write that into the column")
    return Problem(f'split "{split}"', what, tuple(help))


# --- how names are compared ---------------------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    """Without accents over Latin, Greek and Cyrillic letters. Marks of other scripts are letters of their own."""
    apart = unicodedata.normalize("NFD", name)
    return unicodedata.normalize("NFC", "".join(letter for letter in apart if not "\u0300" <= letter <= "\u036f"))


def _of_one_alphabet(name: str) -> str:
    """A name of Latin letters with some of another alphabet among them that are drawn like Latin ones, in Latin letters alone."""
    return name.translate(_DRAWN_ALIKE) if re.search("[A-Za-z]", name) else name


def _joined(name: str) -> str:
    """Words as one; between digits a space stays, so that "1-2" is not "12"."""
    return re.sub(
        r"(?<=\d)[\s_‐‑–—-]+(?=\d)", " ", re.sub(r"(?<=[^\W\d_])[\s_‐‑–—-]+(?=\w)|(?<=\d)[\s_‐‑–—-]+(?=[^\W\d_])", "", name)
    )


def _bare(name: str) -> str:
    """Without quotes, brackets and full stops around it; what is nothing else stays (":)"), and so do "C++" and "A-"."""
    return name.lstrip("\"'`([{<«“‘¿¡ ").rstrip("\"'`)]}>»”’.,;:!?_ ") or name


def _singular(name: str) -> str:
    return re.sub(r"(?<=[^\W\d_]{3})(?<![sS])[sS]$", "", name)


_FOLDS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("in how letters are encoded", lambda name: visible(unicodedata.normalize("NFKC", name))),
    ("in letters of another alphabet", _of_one_alphabet),
    ("in accents", _plain),
    ("in upper and lower case", str.casefold),
    ("in punctuation around them", _bare),
    ("in hyphens, underscores or spaces", _joined),
    ("in an s at their end", _singular),
)


def _fold(name: str, *, but: str | None = None) -> str:
    """A name without what two spellings of one class may differ in; with `but` that one difference stays."""
    for how, fold in _FOLDS:
        if how != but:
            name = fold(name)
    return name


def _differences(names: Sequence[str]) -> list[str]:
    """In what names differ that are equal when folded."""
    differences = [how for how, _ in _FOLDS if len({_fold(name, but=how) for name in names}) > 1]
    # None: two folds that each would do. A ligature is undone by both NFKC and casefold.
    return differences or ["in how they are written"]


def _groups(places: Iterable[int], key: Callable[[int], str]) -> list[tuple[int, ...]]:
    """The places that share a key, where there are several."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place in places:
        groups[key(place)].append(place)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _typos(names: Sequence[str], counts: Sequence[int]) -> list[Alike]:
    """Pairs of a frequent and a rare name that differ in one letter: both lose a letter, or one of them, and are the same."""
    of: defaultdict[str, set[int]] = defaultdict(set)
    folded = [_fold(name) for name in names]
    for place, name in enumerate(folded):
        if len(name) >= _TYPO_LETTERS and not any(letter.isdigit() for letter in name):
            for shorter in (name, *(name[:at] + name[at + 1 :] for at in range(len(name)))):
                of[shorter].add(place)
    pairs = {tuple(sorted((one, other))) for group in of.values() for one in group for other in group if one < other}
    return [
        Alike((one, other), "in one letter")
        for one, other in sorted(pairs)
        if folded[one] != folded[other] and 0 < _TYPO * min(counts[one], counts[other]) <= max(counts[one], counts[other])
    ]
