"""One text or picture in two places: exactly, by its fingerprint, and nearly, by what a small change leaves standing.

Exact. A text is its words and punctuation: Unicode's compatible forms are one (NFKC), as are upper and lower case, and whatever
breaks a line or separates words. A picture is the bytes of its file. Equal SHA-256 is equal content, and gets an equal number, so
that everything after it is arithmetic on integers. A text without a character is nobody's duplicate.

Near. Texts: the sets of all runs of five words, punctuation left out; candidates by MinHash in 16 bands of 4, which finds a pair of
similarity 0.8 in 9,998 of 10,000 cases; a pair counts where the true Jaccard similarity is 0.8 or more. Pictures: candidates are
those whose perceptual hashes differ in 10 of 64 bits at most, and a pair counts where the colour differences between neighbouring
cells of a 16 x 16 thumbnail correlate by 0.95 or more. On 3,781 photos of clothes, of which many show a dark garment on one and the
same sheet, 833 pairs are candidates; the one true pair reaches 1.00, the best wrong one 0.92. A picture saved again at JPEG quality
30, at 60 % of its side or brighter stays above 0.95; one that was cropped does not. In pictures of less than 64 pixels a side there
is less to tell apart: ones in handwriting reach 0.98, so that there it takes 0.99.

N rows, C distinct contents.

MinHash: Broder 1997, doi:10.1109/SEQUEN.1997.666900. Banding: Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hftl.data.columns import array_on_disk, blocks
from hftl.data.layout import ROLES, Role
from hftl.data.rows import SHOWN, Table
from hftl.errors import Problem
from hftl.names import CONFLICT, DUPLICATE
from hftl.wording import and_more, listed

if TYPE_CHECKING:
    from hftl.data.decoding import Look

NEAR_TEXT = 0.8
"""Jaccard similarity of the sets of five-word runs, from which on two texts are near duplicates."""
NEAR_PICTURE = 0.95
"""Correlation of the thumbnails' colour steps, from which on two pictures are near duplicates."""
NEAR_SMALL_PICTURE = 0.99
"""The same where one of the two has a side of less than 64 pixels."""
SHINGLE = 5
"""Words of a run."""

_BANDS, _ROWS = 16, 4
_WINDOW = 8  # neighbours in a band's bucket that are compared: all pairs of a bucket of nine, and linear work in a larger one
_BITS = 10
_PAIRS = 250_000  # of pictures that are compared at once: 2 MB
_MOST_CANDIDATES = 50  # of one picture among those after it
_SMALL = 64
_BATCH = 1000
_EXAMPLES = 5  # of one kind, in the facts
_LINE_BREAK = re.compile(r"<br\s*/?>")
_NOTHING = b"\0" * 16

Array = np.ndarray[Any, Any]


# --- what is known of a picture -----------------------------------------------------------------------------------------------

LOOK = np.dtype(
    [
        *(("width", np.int32), ("height", np.int32)),
        *(("transparent", np.bool_), ("deep", np.bool_), ("animated", np.bool_), ("noted", np.bool_)),
        *(("hash", np.uint64), ("sha256", np.uint8, 32), ("thumbnail", np.uint8, (16, 16, 3))),
    ]
)
"""A `Look` as a row of an array, without its note; zeros for a picture that cannot be read."""


def keep_looks(looks: Iterable[Look | None], count: int) -> Array:
    """What was seen of `count` pictures, on disk: a `Look` takes a kilobyte. (N,) of `LOOK`"""
    kept = array_on_disk((count,), LOOK)
    for row, look in enumerate(looks):
        if look is not None:
            header, sha256 = look.header, np.frombuffer(look.sha256, dtype=np.uint8)
            facts = (header.width, header.height, header.transparent, header.deep, look.animated, look.note is not None)
            kept[row] = (*facts, look.hash, sha256, look.thumbnail)
    return kept


def pick_looks(looks: Sequence[Array], rows: Array) -> Array:
    """Rows, which ascend, of arrays that are laid end to end; on disk."""
    picked = array_on_disk((len(rows),), LOOK)
    start = done = 0
    for part in looks:
        for some in blocks(rows[(rows >= start) & (rows < start + len(part))] - start):
            picked[done : done + len(some)] = part[some]
            done += len(some)
        start += len(part)
    return picked


# --- exact --------------------------------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """A text as duplicates are compared: ``normalise("So<br />GOOD!") == "so good!"``"""
    return " ".join(_fold(text).split())


def _fold(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _LINE_BREAK.sub(" ", text.casefold())


def text_fingerprints(texts: Dataset) -> Array:
    """128 bits of SHA-256 of every text in the column `text`, normalised; zeros for an empty one. (N, 2) uint64."""
    fingerprints = array_on_disk((len(texts), 2), np.uint64)
    for number, batch in enumerate(_batches(texts)):
        digests = [
            hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16] if text else _NOTHING
            for text in map(normalise, batch)
        ]
        found = np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)
        fingerprints[number * _BATCH : number * _BATCH + len(batch)] = found
    return fingerprints


def picture_fingerprints(looks: Array) -> Array:
    """128 bits of SHA-256 of every picture's file; zeros for one that cannot be read. (N, 2) uint64, a view of `looks`."""
    fingerprints: Array = looks["sha256"][:, :16].view(np.uint64)
    return fingerprints


def no_fingerprints(tables: Mapping[Role, Table]) -> dict[Role, Array]:
    """Zeros for every row, as they are where a table cannot be used. (N, 2) uint64"""
    return {role: np.zeros((len(table.ids), 2), dtype=np.uint64) for role, table in tables.items()}


def set_fingerprints(fingerprints: Mapping[Role, Array], labels: Mapping[Role, Array], names: Sequence[str]) -> dict[Role, str]:
    """SHA-256 of what each split of a source holds: of every class, by name, its contents. In hex.

    Neither the order of the rows counts nor their ids, the file format, or where the source lies. Two copies of a data set have the
    same one; class numbers without names are another set.
    """
    digests: dict[Role, str] = {}
    for role, contents in fingerprints.items():
        order = np.lexsort((contents[:, 1], contents[:, 0], labels[role]))
        ends = np.searchsorted(labels[role][order], np.arange(len(names) + 1))  # of the rows before each class; first those of none
        digest = hashlib.sha256()
        for name, number in sorted((name, number) for number, name in enumerate([*names, ""])):
            start, end = (int(ends[number]), int(ends[number + 1])) if number < len(names) else (0, int(ends[0]))
            if start < end:
                digest.update(f"{end - start} {name}\n".encode("utf-8", "surrogatepass"))
                for rows in blocks(order[start:end]):
                    digest.update(contents[rows].tobytes())
        digests[role] = digest.hexdigest()
    return digests


def number_contents(fingerprints: Mapping[Role, Array]) -> dict[Role, Array]:
    """A number for the content of every row, equal where the contents are, over all splits; -1: it has none. (N,) int32 each."""
    ends = np.cumsum([len(digests) for digests in fingerprints.values()])
    halves = array_on_disk((2, int(ends[-1])), np.uint64)
    np.concatenate([digests.T for digests in fingerprints.values()], axis=1, out=halves)
    numbers = np.empty(halves.shape[1], dtype=np.int32)
    number, last = -1, None
    for rows in blocks(np.lexsort(halves[::-1])):
        ordered = halves[:, rows]
        other = np.ones(len(rows), dtype=bool)  # than the one before it
        other[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
        other[0] = last is None or (ordered[:, 0] != last).any()
        found = number + np.cumsum(other, dtype=np.int32)
        number, last = int(found[-1]), ordered[:, -1]
        found[~ordered.any(axis=0)] = -1
        numbers[rows] = found
    return dict(zip(fingerprints, np.split(numbers, ends[:-1]), strict=True))


def _batches(texts: Dataset) -> Iterator[list[str]]:
    for start in range(0, len(texts), _BATCH):
        yield list(texts[start : start + _BATCH]["text"])


# --- the rule -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Duplicates:
    """What was found in the source's own splits, before anything is divided.

    `across` has, for two splits, a pair of rows for each content that is in both: the first row of it in the one, the first in the
    other. `conflicting` has, for a split, the rows of each content that has more than one label there; `within` the pairs of a
    row and the first row of the same content and label.
    """

    across: dict[tuple[Role, Role], list[tuple[int, int]]]
    conflicting: dict[Role, list[list[int]]]
    within: dict[Role, list[tuple[int, int]]]


def find_duplicates(contents: Mapping[Role, Array], labels: Mapping[Role, Array]) -> Duplicates:
    """Compare every row with every other; `contents` as `number_contents` gives them, `labels` are class numbers."""
    across = {}
    roles = [role for role in ROLES if role in contents]
    count = 1 + max(int(numbers.max(initial=-1)) for numbers in contents.values())
    for one, other in combinations(roles, 2):
        rows, other_rows = first_rows(contents[one], count), first_rows(contents[other], count)
        both = np.flatnonzero((rows >= 0) & (other_rows >= 0))
        if len(both):
            across[one, other] = sorted(zip(rows[both].tolist(), other_rows[both].tolist(), strict=True))
    conflicting: dict[Role, list[list[int]]] = {}
    within: dict[Role, list[tuple[int, int]]] = {}
    for role in roles:
        groups = repeated(contents[role])
        mixed = [rows.tolist() for rows in groups if len(set(labels[role][rows].tolist())) > 1]
        if mixed:
            conflicting[role] = mixed
        again = []
        for rows in groups:
            first: dict[int, int] = {}
            for row in rows.tolist():
                earlier = first.setdefault(int(labels[role][row]), row)
                again += [(earlier, row)] if earlier != row else []
        if again:
            within[role] = sorted(again, key=lambda pair: pair[1])
    return Duplicates(across, conflicting, within)


def repeated(contents: Array) -> list[Array]:
    """The rows of each content that is there more than once, ascending; those of the earliest row first.

    `contents` are numbers from 0 on, as `number_contents` gives them; -1 is no content.
    """
    ordered = np.sort(contents)  # counting them would take numbers of 8 bytes
    several = np.zeros(int(contents.max(initial=-1)) + 2, dtype=bool)
    several[ordered[1:][ordered[1:] == ordered[:-1]]] = True
    several[-1] = False  # the place of -1
    rows = np.flatnonzero(several[contents])
    rows = rows[np.argsort(contents[rows], kind="stable")]
    groups = np.split(rows, np.flatnonzero(np.diff(contents[rows])) + 1) if len(rows) else []
    return sorted(groups, key=lambda rows: int(rows[0]))


def first_rows(contents: Array, count: int) -> Array:
    """For each of the contents 0 to `count` - 1 the first row that has it; -1: none has. (count,) int32"""
    first = np.full(count + 1, -1, dtype=np.int32)
    first[contents[::-1]] = np.arange(len(contents) - 1, -1, -1, dtype=np.int32)  # of equal places the last one stays
    return first[:-1]  # rows without a content, which is -1, are in the last place


def duplicate_problems(
    found: Duplicates, tables: Mapping[Role, Table], labels: Mapping[Role, Array], names: Sequence[str], kind: str
) -> list[Problem]:
    """What is refused of it: one content in two splits, or with two labels in one split."""
    problems = []
    for (one, other), pairs in found.across.items():
        first, second = tables[one], tables[other]
        examples = listed(f"{first.ids[a]} = {second.ids[b]}" for a, b in pairs[:SHOWN])
        count = f"1 {thing(kind)} is" if len(pairs) == 1 else f"{len(pairs):,} {thing(kind)}s are"
        problems.append(
            Problem(
                f'split "{first.name}" and split "{second.name}"',
                f"{count} in both: {examples}{and_more(len(pairs), SHOWN)}",
                (
                    "a result on rows that were trained on says nothing;"
                    f" data.on_duplicate=drop leaves them out of {first.name} ({second.name} keeps its rows)",
                ),
            )
        )
    for role, groups in found.conflicting.items():
        examples = listed(" = ".join(_one_of_each_label(rows, tables[role].ids, labels[role], names)) for rows in groups[:SHOWN])
        count = f"1 {thing(kind)} has" if len(groups) == 1 else f"{len(groups):,} {thing(kind)}s have"
        problems.append(
            Problem(
                f'split "{tables[role].name}"',
                f"{count} more than one label: {examples}{and_more(len(groups), SHOWN)}",
                (f"correct the labels; data.on_duplicate=drop leaves out all rows of such a {thing(kind)}",),
            )
        )
    return problems


class LeftOut(NamedTuple):
    """Why a row is left out."""

    kind: str
    """What it has in common with others: DUPLICATE, CONFLICT, or what keeps a picture from being read."""
    why: str
    """For this row, in a sentence."""


def rows_to_drop(
    found: Duplicates,
    contents: Mapping[Role, Array],
    tables: Mapping[Role, Table],
    labels: Mapping[Role, Array],
    names: Sequence[str],
    kind: str,
) -> dict[Role, dict[int, LeftOut]]:
    """The rows that `data.on_duplicate=drop` leaves out, with the reason: those of two labels, and those that a later split has."""
    dropped: dict[Role, dict[int, LeftOut]] = {role: {} for role in contents}
    for (one, other), pairs in found.across.items():
        kept = {int(contents[one][a]): tables[other].ids[b] for a, b in pairs}
        for row in np.flatnonzero(np.isin(contents[one], list(kept))).tolist():
            # Of train's rows one that test has too names that one: pairs with test come last.
            dropped[one][row] = LeftOut(DUPLICATE, f"the same {thing(kind)} as {kept[int(contents[one][row])]}")
    for role, groups in found.conflicting.items():
        for rows in groups:
            why = (
                f"two labels for the same {thing(kind)}: {listed(_one_of_each_label(rows, tables[role].ids, labels[role], names))}"
            )
            dropped[role].update(dict.fromkeys(rows, LeftOut(CONFLICT, why)))
    return dropped


def duplicate_facts(found: Duplicates, tables: Mapping[Role, Table], on_duplicate: str) -> dict[str, Any]:
    """The counts for the run directory, with the ids of some examples. Splits are named by their role."""
    ids = {role: table.ids for role, table in tables.items()}
    examples: list[dict[str, Any]] = []
    for (one, other), pairs in found.across.items():
        examples += [{"kind": "across", "ids": [ids[one][a], ids[other][b]]} for a, b in pairs[:_EXAMPLES]]
    for role, groups in found.conflicting.items():
        examples += [{"kind": "conflicting", "ids": [ids[role][row] for row in rows[:_EXAMPLES]]} for rows in groups[:_EXAMPLES]]
    for role, pairs in found.within.items():
        examples += [{"kind": "within", "ids": [ids[role][a], ids[role][b]]} for a, b in pairs[:_EXAMPLES]]
    return {
        "on_duplicate": on_duplicate,
        "within": {role: len(pairs) for role, pairs in found.within.items()},
        "across": [{"splits": list(both), "pairs": len(pairs)} for both, pairs in found.across.items()],
        "conflicting": {role: sum(map(len, groups)) for role, groups in found.conflicting.items()},
        "examples": examples[: 4 * _EXAMPLES],
    }


def thing(kind: str) -> str:
    """What a row of such data is called."""
    return "text" if kind == "text" else "picture"


def _one_of_each_label(rows: Sequence[int], ids: Sequence[str], labels: Array, names: Sequence[str]) -> list[str]:
    first = {int(labels[row]): row for row in reversed(rows)}
    return [f"{ids[row]} ({names[label]})" for label, row in sorted(first.items(), key=lambda entry: entry[1])]


# --- near ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """Two rows that are nearly the same, `one` < `other`, with their similarity."""

    one: int
    other: int
    similarity: float


def _odd(generator: np.random.Generator, count: int, dtype: type[np.unsignedinteger[Any]]) -> Array:
    numbers: Array = generator.integers(0, np.iinfo(dtype).max, count, dtype=dtype) | dtype(1)
    return numbers


def _scatter(numbers: Array) -> Array:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): near numbers end far from each other."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: Array = numbers ^ (numbers >> np.uint64(31))
    return scattered


_random = np.random.default_rng(0)
_PLACES = _odd(_random, SHINGLE, np.uint64)
_FACTORS = _odd(_random, _BANDS * _ROWS, np.uint32)
_MIX = _odd(_random, _ROWS, np.uint64)
_POWER = _odd(_random, 1, np.uint64)[0]
_INVERSE = np.uint64(pow(int(_POWER), -1, 2**64))
_WORD_BYTES = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])
_SCATTERED_BYTES = _scatter(np.arange(1, 257, dtype=np.uint64))


def near_texts(texts: Dataset) -> list[Link]:
    """Links between rows of the column `text` that are nearly the same. Each content should be there once."""
    keys = array_on_disk((_BANDS, len(texts)), np.uint64)
    rows = np.empty(len(texts), dtype=np.int32)
    end = 0
    for number, batch in enumerate(_batches(texts)):
        runs, counts = _runs(batch)
        found = np.flatnonzero(counts)  # of a text without a letter or a digit nothing can be said
        if len(found):
            start, end = end, end + len(found)
            rows[start:end] = found + number * _BATCH
            keys[:, start:end] = _band_keys(runs, np.cumsum(counts[found]) - counts[found]).T
    pairs = rows[_candidates(keys[:, :end])]
    involved = np.unique(pairs)
    runs_of = {row: np.unique(_runs([texts[row]["text"]])[0]) for row in involved.tolist()}
    links = []
    for one, other in pairs.tolist():
        shared = len(np.intersect1d(runs_of[one], runs_of[other], assume_unique=True))
        similarity = shared / (len(runs_of[one]) + len(runs_of[other]) - shared)
        if similarity >= NEAR_TEXT:
            links.append(Link(one, other, similarity))
    return links


def _runs(texts: Sequence[str]) -> tuple[Array, Array]:
    """A hash for every run of five words, text after text, and their number in each text; a shorter text is one run.

    In arrays from the first byte on: splitting into Python's strings takes four times as long.
    """
    lines = [_fold(text).encode("utf-8", "surrogatepass") for text in texts]
    data = np.frombuffer(b"\n" + b"\n".join(lines) + b"\n", dtype=np.uint8)
    in_word = np.diff(_WORD_BYTES[data].astype(np.int8))
    begins, ends = np.flatnonzero(in_word == 1) + 1, np.flatnonzero(in_word == -1) + 1
    # A word's hash is the sum of scattered byte k times p**k, modulo 2**64: a difference of two cumulative sums, shifted back.
    sums = np.cumsum(_SCATTERED_BYTES[data] * np.cumprod(np.full(len(data), _POWER)))
    words = (sums[ends - 1] - sums[begins - 1]) * np.cumprod(np.full(len(data), _INVERSE))[begins]
    # Where the words of each text go once all texts have five places at least; empty places stay 0.
    counts = np.diff(np.searchsorted(begins, np.cumsum([0, *(len(line) + 1 for line in lines)])))
    places = np.where(counts > 0, np.maximum(counts, SHINGLE), 0)
    shift = np.repeat(np.cumsum(places) - places - (np.cumsum(counts) - counts), counts)
    placed = np.zeros(int(places.sum()), dtype=np.uint64)
    placed[np.arange(len(words)) + shift] = _scatter(words)
    runs = np.zeros(max(0, len(placed) - SHINGLE + 1), dtype=np.uint64)
    for place, factor in enumerate(_PLACES):
        runs += placed[place : place + len(runs)] * factor
    within = np.ones(len(runs), dtype=bool)  # a run that reaches into the next text is none
    borders = np.cumsum(places)[:-1]
    for before in range(1, SHINGLE):
        within[borders[(borders > 0) & (borders < len(placed))] - before] = False
    return _scatter(runs[within]), np.maximum(places - SHINGLE + 1, 0)


def _band_keys(runs: Array, starts: Array) -> Array:
    """A key for each text and band, equal where the smallest hashes of the band's four permutations are. (N, bands) uint64."""
    short = (runs >> np.uint64(32)).astype(np.uint32)
    keys = np.zeros((len(starts), _BANDS), dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):  # times an odd number, modulo 2**32: a permutation
        keys[:, place // _ROWS] += np.minimum.reduceat(short * factor, starts) * _MIX[place % _ROWS]
    return keys


def _candidates(keys: Array) -> Array:
    """Pairs of rows, the smaller first, that are neighbours in the bucket of some band; `keys` (bands, N). (pairs, 2)"""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for band in keys:
        order = np.argsort(band, kind="stable")  # rows of one bucket ascend
        ordered = band[order]
        for step in range(1, _WINDOW + 1):
            same = np.flatnonzero(ordered[step:] == ordered[:-step])
            if not len(same):
                break  # and no bucket reaches further
            pairs.append(np.stack([order[same], order[same + step]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def near_pictures(looks: Array) -> list[Link]:
    """Links between pictures that are nearly the same; `looks` are rows of `LOOK`. Each content should be there once."""
    hashes = looks["hash"].copy()
    small = np.minimum(looks["width"], looks["height"]) < _SMALL
    thumbnails = looks["thumbnail"]
    links = []
    at_once = max(1, _PAIRS // max(1, len(hashes)))
    for start in range(0, len(hashes), at_once):
        # Every pair is looked at: 0.5 s for 25,000 pictures, far less than to decode them.
        differing = np.bitwise_count(hashes[start : start + at_once, None] ^ hashes[None, start:])
        one, other = np.nonzero(np.triu(differing <= _BITS, k=1))
        # Of a picture's candidates the first ones do: frames of one film would make as many pairs as there are pictures squared.
        rank = np.arange(len(one)) - np.searchsorted(one, one)
        pairs = np.stack([one, other], axis=1)[rank < _MOST_CANDIDATES] + start
        for first in range(0, len(pairs), _BATCH):
            some = pairs[first : first + _BATCH]
            alike = _correlation(_steps(thumbnails[some[:, 0]]), _steps(thumbnails[some[:, 1]]))
            near = alike >= np.where(small[some].any(axis=1), NEAR_SMALL_PICTURE, NEAR_PICTURE)
            links += [Link(a, b, value) for (a, b), value in zip(some[near].tolist(), alike[near].tolist(), strict=True)]
    return links


def _steps(thumbnails: Array) -> Array:
    """Colour differences between cells side by side and one above the other; a plain background has none. (N, steps)"""
    cells = thumbnails.astype(np.float32)  # (N, S, S, 3)
    across, down = np.diff(cells, axis=2), np.diff(cells, axis=1)
    return np.concatenate([across.reshape(len(cells), -1), down.reshape(len(cells), -1)], axis=1)


def _correlation(one: Array, other: Array) -> Array:
    """Of each row with its counterpart, about 0; 0 where a picture is all of one colour. (N,)"""
    scale = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    products: Array = (one * other).sum(axis=1) / np.where(scale > 0, scale, 1.0)
    return products


def near_groups(links: Sequence[Link]) -> list[list[int]]:
    """The rows that hang together by links, the earliest group first; a row without a link is in none."""
    ends = np.array([(link.one, link.other) for link in links], dtype=np.int64).reshape(-1, 2)
    rows, places = np.unique(ends, return_inverse=True)  # a million rows have few links
    one, other = places.reshape(-1, 2).T
    graph = coo_array((np.ones(len(links), dtype=np.int8), (one, other)), shape=(len(rows), len(rows)))
    group = connected_components(graph, directed=False)[1]
    return [rows[members].tolist() for members in repeated(group)]
