"""Labelled rows for a model that is trained already: read with its classes, and compared with what it was trained on.

K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from hftl.data.classes import nearest
from hftl.data.columns import Strings, pick
from hftl.data.content import content_of
from hftl.data.decoding import pick_scans
from hftl.data.duplicates import digest_of_any_order, number_contents, picture_fingerprints, text_fingerprints
from hftl.data.layout import Role, find_name
from hftl.data.reading import open_source, read_tables
from hftl.data.rows import SHOWN, Source, Table, column_problems
from hftl.data.targets import assemble, target_of, unlabelled_rows
from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import ImageData, TextData
from hftl.wording import listed

if TYPE_CHECKING:  # which reads further rows for training by this module
    from hftl.data.source import Splits


@dataclass(frozen=True)
class LabelledRows:
    """Rows for a model that is trained already, with its classes."""

    dataset: Dataset
    """As those of `Splits`."""
    fingerprints: np.ndarray
    """16 bytes for the content of every row; zeros for an empty text. (N, 2) uint64"""
    facts: dict[str, Any]
    """JSON-ready: where they are from, counts, classes without a row, what was left out."""
    targets: np.ndarray
    """What `hftl.data.targets.targets_of` gives of them."""
    table: Table
    """That they are rows of: with what is worth knowing about how it was read."""
    places: np.ndarray
    """(N,) which rows of it."""
    image_scans: np.ndarray | None
    """Of pictures, (N,) of `decoding.IMAGE_SCAN`."""


def load_labelled_rows(data: TextData | ImageData, label_names: Sequence[str], *, kind: str, split: str | None) -> LabelledRows:
    """Read all rows of one split of a source, to evaluate a model of `label_names` on them.

    Args:
        data: the section that the model was trained by, with another source.
        label_names: the model's classes, in their order.
        kind: of the model's target.
        split: which split of the source; None: it has one.

    Raises:
        DataError: everything that is wrong with the rows, in one report; also classes that the model does not know.
    """
    source = open_source(data)
    found = list(source.splits)
    chosen = found[0] if split is None and len(found) == 1 else find_name(split or "", found)
    if chosen is None:
        what = f'no split "{split}".{did_you_mean(split, found)}' if split else "several splits, and one is evaluated: name it"
        raise DataError.single("split", what, f"splits there are: {', '.join(found)}", source=data.source)
    return read_labelled_rows(source, chosen, data, label_names, kind=kind)


def read_labelled_rows(
    source: Source, chosen: str, data: TextData | ImageData, label_names: Sequence[str], *, kind: str, whose: str = "the model"
) -> LabelledRows:
    """The same of a source that is open and a split that was chosen; `whose` are the classes, in messages.

    Raises:
        DataError: everything that is wrong with the rows, in one report; also classes that the model does not know.
    """
    table = read_tables(source, {"train": chosen}, data)["train"]
    tables: dict[Role, Table] = {"train": table}
    problems = column_problems("train", table, data)
    target, _ = target_of(data, table, kind=kind)
    targets = target.read(tables, data)
    scan = content_of(data).scan(tables)
    problems += [*targets.problems, *scan.problems]
    unreadable = dict(scan.unreadable.get("train", {}))
    if data.on_blank_label == "skip" and not targets.problems:
        unreadable = {**unlabelled_rows(table, target.distinct(targets).of_rows["train"]), **unreadable}
    counts = target.counts(targets.of_rows["train"], targets.names)
    there = [name for name, rows in zip(targets.names, counts, strict=True) if rows]
    unknown = [name for name in there if name not in label_names]
    if unknown:
        spelt = [f'{whose} writes "{near}" for "{name}"' for name in unknown[:SHOWN] if (near := nearest(name, label_names))]
        what = f"classes that {whose} does not know: {listed(unknown, SHOWN)}"
        problems.append(Problem(f'split "{chosen}"', what, (*spelt, f"its classes: {listed(label_names, SHOWN)}")))
    rows = np.delete(np.arange(len(table.ids), dtype=np.int32), list(unreadable))
    if not problems and not len(rows):
        problems.append(Problem(f'split "{chosen}"', "no row that can be read"))
    if problems:
        raise DataError(data.source, problems)
    labels = target.renamed(targets.of_rows["train"], targets.names, label_names)
    whole = assemble(table, target, labels, label_names)
    fingerprints = scan.fingerprints["train"][rows]
    facts = {
        "source": data.source,
        "revision": source.revision,
        "format": source.format,
        "split": chosen if len(source.splits) > 1 else None,
        **target.facts(Strings(dataset := pick(whole, rows), "id"), labels[rows], label_names),
        "contents": digest_of_any_order(fingerprints),
        "without": [name for name in label_names if name not in there],
        "skipped": [{"id": table.ids[row], "why": reason.why} for row, reason in sorted(unreadable.items())],
        "notes": len(scan.notes.get("train", {})),
    }
    scans = pick_scans([scan.image_scans["train"]], rows) if scan.image_scans else None
    return LabelledRows(dataset, fingerprints, facts, labels[rows], table, rows, scans)


def count_seen(contents: np.ndarray, splits: Splits) -> dict[Role, int]:
    """How many of some rows are also in each split of a run, by what they hold, `fingerprints`; empty texts are in none. (N, 2)"""
    roles: tuple[Role, ...] = ("train", "validation", "test")
    seen: dict[Role, int] = {}
    for role in roles:
        if (own := fingerprints(splits, role)) is not None:
            numbers = number_contents({"train": own, "test": contents})  # two names; what they mean is no matter
            seen[role] = int((np.isin(numbers["test"], numbers["train"]) & (numbers["test"] >= 0)).sum())
    return seen


def fingerprints(splits: Splits, role: Role) -> np.ndarray | None:
    """16 bytes for the content of every row of a split; zeros for an empty text. (N, 2) uint64; None: there is no such split."""
    if role in splits.image_scans:
        return picture_fingerprints(splits.image_scans[role])
    dataset = {"train": splits.train, "validation": splits.validation, "test": splits.test}[role]
    return None if dataset is None else text_fingerprints(dataset)
