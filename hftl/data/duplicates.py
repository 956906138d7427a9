"""One text or picture in two places, exactly: by its fingerprint.

A text is its words and punctuation: Unicode's compatible forms are one (NFKC), as are upper and lower case, and whatever breaks a
line or separates words. A picture is the bytes of its file. Equal SHA-256 is equal content, and gets an equal number, so that
everything after it is arithmetic on integers. A text without a character is nobody's duplicate. `hftl.data.near` compares what is
nearly the same.

N rows, C distinct contents.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from hftl.data.columns import array_on_disk, blocks
from hftl.data.joining import FIRST, segments
from hftl.data.layout import ROLES, Role
from hftl.data.rows import SHOWN, Table
from hftl.errors import Problem
from hftl.names import CONFLICT, DUPLICATE
from hftl.wording import and_more, listed

BATCH = 1000
"""Texts that are compared at once."""

_EXAMPLES = 5  # of one kind, in the facts
_LINE_BREAK = re.compile(r"<br\s*/?>")
_NOTHING = b"\0" * 16

Array = np.ndarray[Any, Any]


def normalise(text: str) -> str:
    """A text as duplicates are compared: ``normalise("So<br />GOOD!") == "so good!"``"""
    return " ".join(fold(text).split())


def fold(text: str) -> str:
    """A text in one form of each character, in lower case, its HTML line breaks as spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _LINE_BREAK.sub(" ", text.casefold())


def text_fingerprints(texts: Dataset) -> Array:
    """128 bits of SHA-256 of every text in the column `text`, normalised; zeros for an empty one. (N, 2) uint64.

    Two pairs are equal where both of their texts are.
    """
    fingerprints = array_on_disk((len(texts), 2), np.uint64)
    for number, batch in enumerate(text_batches(texts)):
        if FIRST in texts.column_names:
            first_lengths = texts[number * BATCH : (number + 1) * BATCH][FIRST]
            pairs = [map(normalise, segments(text, n)) for text, n in zip(batch, first_lengths, strict=True)]
            compared = [joined if (joined := "\n".join(pair)) != "\n" else "" for pair in pairs]
        else:
            compared = list(map(normalise, batch))
        digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16] if text else _NOTHING for text in compared]
        halves = np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)
        fingerprints[number * BATCH : number * BATCH + len(batch)] = halves
    return fingerprints


def picture_fingerprints(scans: Array) -> Array:
    """128 bits of SHA-256 of every picture's file; zeros for one that cannot be read. (N, 2) uint64, a view of `scans`."""
    fingerprints: Array = scans["sha256"][:, :16].view(np.uint64)
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


def digest(fingerprints: Array, rows: Array) -> str:
    """SHA-256 of the fingerprints of some rows, in hex."""
    sha256 = hashlib.sha256()
    for some in blocks(rows):
        sha256.update(fingerprints[some].data)
    return sha256.hexdigest()


def digest_of_any_order(fingerprints: Array) -> str:
    """SHA-256 of the fingerprints of rows, in hex, the same in whichever order the rows are. (N, 2)"""
    return digest(fingerprints, np.lexsort(fingerprints.T))


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
        block = number + np.cumsum(other, dtype=np.int32)
        number, last = int(block[-1]), ordered[:, -1]
        block[~ordered.any(axis=0)] = -1
        numbers[rows] = block
    return dict(zip(fingerprints, np.split(numbers, ends[:-1]), strict=True))


def text_batches(texts: Dataset) -> Iterator[list[str]]:
    """The texts of the column `text`, `BATCH` at a time."""
    for start in range(0, len(texts), BATCH):
        yield list(texts[start : start + BATCH]["text"])


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
    roles = [role for role in ("extra", *ROLES) if role in contents]  # the later one keeps its rows
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
    duplicates: Duplicates, tables: Mapping[Role, Table], labels: Mapping[Role, Array], names: Sequence[str], kind: str
) -> list[Problem]:
    """What is refused of it: one content in two splits, or with two labels in one split."""
    problems = []
    for (one, other), pairs in duplicates.across.items():
        first, second = tables[one], tables[other]
        examples = listed(f"{first.ids[a]} = {second.ids[b]}" for a, b in pairs[:SHOWN])
        count = f"1 {thing(kind)} is" if len(pairs) == 1 else f"{len(pairs):,} {thing(kind)}s are"
        problems.append(
            Problem(
                f'split "{first.name}" and split "{second.name}"',
                f"{count} in both: {examples}{and_more(len(pairs), SHOWN)}",
                (
                    "scores on training rows are meaningless;"
                    f" data.on_duplicate=drop leaves them out of {first.name} ({second.name} keeps its rows)",
                ),
            )
        )
    for role, groups in duplicates.conflicting.items():
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
    duplicates: Duplicates,
    contents: Mapping[Role, Array],
    tables: Mapping[Role, Table],
    labels: Mapping[Role, Array],
    names: Sequence[str],
    kind: str,
) -> dict[Role, dict[int, LeftOut]]:
    """The rows that `data.on_duplicate=drop` leaves out, with the reason: those of two labels, and those that a later split has."""
    dropped: dict[Role, dict[int, LeftOut]] = {role: {} for role in contents}
    for (one, other), pairs in duplicates.across.items():
        kept_ids = {int(contents[one][a]): tables[other].ids[b] for a, b in pairs}
        for row in np.flatnonzero(np.isin(contents[one], list(kept_ids))).tolist():
            # Of train's rows one that test has too names that one: pairs with test come last.
            dropped[one][row] = LeftOut(DUPLICATE, f"the same {thing(kind)} as {kept_ids[int(contents[one][row])]}")
    for role, groups in duplicates.conflicting.items():
        for rows in groups:
            why = (
                f"two labels for the same {thing(kind)}: {listed(_one_of_each_label(rows, tables[role].ids, labels[role], names))}"
            )
            dropped[role].update(dict.fromkeys(rows, LeftOut(CONFLICT, why)))
    return dropped


def duplicate_facts(duplicates: Duplicates, tables: Mapping[Role, Table], on_duplicate: str) -> dict[str, Any]:
    """The counts for the run directory, with the ids of some examples. Splits are named by their role."""
    ids = {role: table.ids for role, table in tables.items()}
    examples: list[dict[str, Any]] = []
    for (one, other), pairs in duplicates.across.items():
        examples += [{"kind": "across", "ids": [ids[one][a], ids[other][b]]} for a, b in pairs[:_EXAMPLES]]
    for role, groups in duplicates.conflicting.items():
        examples += [{"kind": "conflicting", "ids": [ids[role][row] for row in rows[:_EXAMPLES]]} for rows in groups[:_EXAMPLES]]
    for role, pairs in duplicates.within.items():
        examples += [{"kind": "within", "ids": [ids[role][a], ids[role][b]]} for a, b in pairs[:_EXAMPLES]]
    return {
        "on_duplicate": on_duplicate,
        "within": {role: len(pairs) for role, pairs in duplicates.within.items()},
        "across": [{"splits": list(both), "pairs": len(pairs)} for both, pairs in duplicates.across.items()],
        "conflicting": {role: sum(map(len, groups)) for role, groups in duplicates.conflicting.items()},
        "examples": examples[: 4 * _EXAMPLES],
    }


def thing(kind: str) -> str:
    """What a row of such data is called."""
    return "text" if kind == "text" else "picture"


def _one_of_each_label(rows: Sequence[int], ids: Sequence[str], labels: Array, names: Sequence[str]) -> list[str]:
    first = {int(labels[row]): row for row in reversed(rows)}
    return [f"{ids[row]} ({names[label]})" for label, row in sorted(first.items(), key=lambda entry: entry[1])]
