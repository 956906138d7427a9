"""From a source to splits: a Hub id, a folder of pictures, or tables, and one label map for all of it.

Whatever the source, the result is the same: Arrow data sets with the columns `id`, `text` or `image`, and `label`, whose classes
are in their own order. Nothing is dropped, replaced or guessed silently: what cannot be used is refused, everything in one report.
The result depends on the source, the recipe's data section and the seed alone, so every process of a run sees the same splits.

K classes. Rows are counted from 0, without a header: "train/17" is row 17 of the split "train".
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value

from hftl.data.classes import nearest
from hftl.data.columns import Strings, blocks, on_disk, pick
from hftl.data.content import content_of
from hftl.data.decoding import pick_scans
from hftl.data.duplicates import (
    LeftOut,
    duplicate_facts,
    duplicate_problems,
    find_duplicates,
    number_contents,
    picture_fingerprints,
    rows_to_drop,
    set_fingerprints,
    text_fingerprints,
)
from hftl.data.layout import Role, find_name
from hftl.data.reading import choose_splits, guesses, open_source, read_tables
from hftl.data.rows import NO_SPLIT, SHOWN, TEST_SEED, Source, Table, content_column
from hftl.data.splitting import divide
from hftl.data.targets import class_numbers, class_problems
from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import ImageData, TextData
from hftl.run import split_facts
from hftl.wording import listed


@dataclass(frozen=True)
class Splits:
    """The data of one run.

    Each data set has the columns `id` (unique over the source), `text` or `image` (``Image(decode=False)``), and `label` (a
    ``ClassLabel`` of `label_names`). `facts` is JSON-ready and goes into the run directory.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    label_names: tuple[str, ...]
    facts: dict[str, Any]
    contents: Mapping[Role, np.ndarray] = field(default_factory=dict)
    """For each split a number for the content of every row, equal where the texts or pictures are; -1: an empty text. (N,)"""
    image_scans: Mapping[Role, np.ndarray] = field(default_factory=dict)
    """For each split the scans of its pictures, on disk; empty for texts. (N,) of `decoding.IMAGE_SCAN`"""


def load_splits(data: TextData | ImageData, *, seed: int) -> Splits:
    """Read the source, check it, and divide it.

    Validation is the source's own or a stratified part of train, never of test; test is the source's own, or a stratified part
    of train where `test_fraction` asks for it; with `test_split="none"` training leaves that part shut. Both are exact shares by
    largest remainder, and leave each class one row in train.

    Raises:
        DataError: everything that is wrong with the source, in one report.
    """
    if data.label_column == content_column(data):
        what = f'"{data.label_column}" is data.{data.kind}_column too: a model would learn to read its own answer'
        raise DataError(data.source, [Problem("data.label_column", what)])
    seed = seed if data.split_seed is None else data.split_seed
    source = open_source(data)
    roles = choose_splits(source, data)
    tables = read_tables(source, roles, data)
    problems: list[Problem] = []
    for role, table in tables.items():
        problems += _column_problems(role, table, data)
    names, labels, label_problems = class_numbers(tables, data)
    problems += label_problems
    scan = content_of(data).scan(tables)
    problems += scan.problems
    contents = number_contents(scan.fingerprints)
    for role, found in contents.items():
        found[labels[role] < 0] = -1
    duplicates = find_duplicates(contents, labels)
    unreadable: Mapping[Role, Mapping[int, LeftOut]] = {role: scan.unreadable.get(role, {}) for role in tables}
    left_out = unreadable
    if data.on_duplicate == "error":
        problems += duplicate_problems(duplicates, tables, labels, names, data.kind)
    elif data.on_duplicate == "drop":
        dropped = rows_to_drop(duplicates, contents, tables, labels, names, data.kind)
        left_out = {role: {**unreadable[role], **dropped[role]} for role in tables}
    # Classes are counted over what is left.
    kept = {role: np.delete(np.arange(len(table.ids), dtype=np.int32), list(left_out[role])) for role, table in tables.items()}
    problems += class_problems(tables, kept, labels, names)
    if problems:
        raise DataError(data.source, problems)

    rows = divide(data, {role: (kept[role], labels[role]) for role in tables}, contents["train"], seed=seed)
    origin: dict[Role, Role] = {role: role if role in tables else "train" for role in rows}
    whole = {role: _assemble(table, labels[role], names, data.kind) for role, table in tables.items()}
    result = {role: pick(whole[origin[role]], rows[role]) for role in rows}
    notes = [
        {"id": tables[role].ids[row], "kind": note.kind, "note": note.text}
        for role, noted in scan.notes.items()
        for row, note in noted.items()
    ]
    facts = {
        "source": data.source,
        "revision": source.revision,
        "config": data.config,
        "kind": data.kind,
        "format": source.format,
        "fingerprint": set_fingerprints(scan.fingerprints, labels, names),
        "label_names": list(names),
        "splits": {
            role: split_facts(Strings(split, "id"), memoryview(labels[origin[role]][rows[role]]), names)
            for role, split in result.items()
        },
        "contents": {role: _digest(scan.fingerprints[origin[role]], rows[role]) for role in rows},
        **({"test_rows": _digest_of_any_order(scan.fingerprints[origin["test"]][rows["test"]])} if "test" in rows else {}),
        **_how_divided(data, tables, seed),
        **_how_streamed(source, tables),
        "skipped": [
            {"id": tables[role].ids[row], "split": role, "kind": reason.kind, "why": reason.why}
            for role in tables
            for row, reason in sorted(left_out[role].items())
        ],
        "duplicates": duplicate_facts(duplicates, tables, data.on_duplicate),
        "notes": notes,
        **_how_read(source, roles, tables, data),
    }
    return Splits(
        result["train"],
        result["validation"],
        result.get("test"),
        names,
        facts,
        contents={role: contents[origin[role]][rows[role]] for role in rows},
        image_scans={role: pick_scans([scan.image_scans[origin[role]]], rows[role]) for role in rows if scan.image_scans},
    )


def _column_problems(role: Role, table: Table, data: TextData | ImageData) -> list[Problem]:
    problems = []
    if not table.ids and not table.problems:
        problems.append(Problem(f'split "{table.name}"', "no rows"))
    for key, column in ((f"data.{data.kind}_column", content_column(data)), ("data.label_column", data.label_column)):
        if (table.columns or table.ids) and column not in table.columns:
            help = [f"columns there are: {', '.join(table.columns) or 'none'}"]
            if role == "test" and column == data.label_column:
                help.append(f'data.test_split="{NO_SPLIT}" leaves the source\'s test split alone')
            problems.append(
                Problem(key, f'no column "{column}" in split "{table.name}".{did_you_mean(column, table.columns)}', tuple(help))
            )
    return problems + table.problems


def _digest(fingerprints: np.ndarray, rows: np.ndarray) -> str:
    """SHA-256 of the fingerprints of some rows, in hex."""
    digest = hashlib.sha256()
    for some in blocks(rows):
        digest.update(fingerprints[some].data)
    return digest.hexdigest()


def _digest_of_any_order(fingerprints: np.ndarray) -> str:
    """SHA-256 of the fingerprints of rows, in hex, the same in whichever order the rows are. (N, 2)"""
    return _digest(fingerprints, np.lexsort(fingerprints.T))


def _assemble(table: Table, labels: np.ndarray, names: Sequence[str], kind: str) -> Dataset:
    """All rows with the columns `id`, content and `label`."""
    assert table.content is not None
    ids = table.ids.to_arrow() if isinstance(table.ids, Strings) else pa.array(table.ids, pa.string())
    numbers = on_disk("label", pa.int64(), (pa.array(some, pa.int64()) for some in blocks(labels))).column("label")
    # Of our own: datasets would take a copy of each column to find one.
    digest = hashlib.sha256(f"{table.content._fingerprint} {table.name} {names}".encode())
    digest.update(labels.data)
    whole = table.content.add_column("id", ids, feature=Value("string"), new_fingerprint=digest.hexdigest()[:16])
    classes = ClassLabel(names=list(names))
    whole = whole.add_column("label", numbers, feature=classes, new_fingerprint=digest.hexdigest()[:16])
    return whole.select_columns(["id", kind, "label"])


def _how_divided(data: TextData | ImageData, tables: Mapping[Role, Table], seed: int) -> dict[str, str]:
    made = "made from train: {:g} %, stratified, {}"
    validation = "given" if "validation" in tables else made.format(100 * data.validation_fraction, f"seed {seed}")
    if data.fold is not None:
        validation = f"fold {data.fold} of train, stratified, seed {seed}"
    if "test" in tables:
        return {"validation": validation, "test": "given"}
    test = made.format(100 * data.test_fraction, "the same for every seed") if data.test_fraction else "none"
    shut = " (left shut by training)" if data.test_fraction and data.test_split == NO_SPLIT else ""
    return {"validation": validation, "test": test + shut}


def _how_read(
    source: Source, roles: Mapping[Role, str], tables: Mapping[Role, Table], data: TextData | ImageData
) -> dict[str, Any]:
    """What is there and was not read, and what else is worth knowing about the reading."""
    ignored = sum((table.ignored for table in tables.values()), Counter(source.ignored))
    remarks = [*guesses(source, roles, data), *source.remarks, *(remark for table in tables.values() for remark in table.remarks)]
    return {
        "split_column": source.split_column,
        "ignored_files": dict(sorted(ignored.items())),
        "unused": source.unused(roles),
        "remarks": list(dict.fromkeys(remarks)),
    }


def _how_streamed(source: Source, tables: Mapping[Role, Table]) -> dict[str, Any]:
    """What `data.stream_samples` took, where it was asked for; `revision` is the commit it was taken from."""
    if source.stream is None:
        return {}
    rows, buffer = source.stream.rows, source.stream.buffer
    taken = {role: len(table.ids) for role, table in tables.items()}
    what = f"the first {rows:,} rows of a shuffle buffer of {buffer:,} rows, not a uniform sample"
    whole = [role for role, count in taken.items() if count < rows]
    return {"streamed": {"rows": rows, "buffer": buffer, "seed": TEST_SEED, "what": what, "taken": taken, "whole": whole}}


# --- other rows for a finished model ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledRows:
    """Rows for a model that is trained already, with its classes."""

    dataset: Dataset
    """As those of `Splits`."""
    fingerprints: np.ndarray
    """16 bytes for the content of every row; zeros for an empty text. (N, 2) uint64"""
    facts: dict[str, Any]
    """JSON-ready: where they are from, counts, classes without a row, what was left out."""


def load_labelled_rows(data: TextData | ImageData, label_names: Sequence[str], *, split: str | None) -> LabelledRows:
    """Read all rows of one split of a source, to evaluate a model of `label_names` on them.

    Args:
        data: the section that the model was trained by, with another source.
        label_names: the model's classes, in their order.
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
    table = read_tables(source, {"train": chosen}, data)["train"]
    tables: dict[Role, Table] = {"train": table}
    problems = _column_problems("train", table, data)
    names, numbers, label_problems = class_numbers(tables, data)
    scan = content_of(data).scan(tables)
    problems += [*label_problems, *scan.problems]
    unreadable = scan.unreadable.get("train", {})
    there = [name for place, name in enumerate(names) if (numbers["train"] == place).any()]
    unknown = [name for name in there if name not in label_names]
    if unknown:
        spelt = [f'the model writes "{near}" for "{name}"' for name in unknown[:SHOWN] if (near := nearest(name, label_names))]
        what = f"classes that the model does not know: {listed(unknown, SHOWN)}"
        problems.append(Problem(f'split "{chosen}"', what, (*spelt, f"its classes: {listed(label_names, SHOWN)}")))
    rows = np.delete(np.arange(len(table.ids), dtype=np.int32), list(unreadable))
    if not problems and not len(rows):
        problems.append(Problem(f'split "{chosen}"', "no row that can be read"))
    if problems:
        raise DataError(data.source, problems)
    place_of = {name: place for place, name in enumerate(label_names)}
    labels = np.array([place_of.get(name, -1) for name in names], dtype=np.int32)[numbers["train"]]
    whole = _assemble(table, labels, label_names, data.kind)
    fingerprints = scan.fingerprints["train"][rows]
    facts = {
        "source": data.source,
        "revision": source.revision,
        "format": source.format,
        "split": chosen if len(found) > 1 else None,
        **split_facts(Strings(dataset := pick(whole, rows), "id"), memoryview(labels[rows]), label_names),
        "contents": _digest_of_any_order(fingerprints),
        "without": [name for name in label_names if name not in there],
        "skipped": [{"id": table.ids[row], "why": reason.why} for row, reason in sorted(unreadable.items())],
        "notes": len(scan.notes.get("train", {})),
    }
    return LabelledRows(dataset, fingerprints, facts)


def count_seen(rows: LabelledRows, splits: Splits) -> dict[Role, int]:
    """How many of some rows are also in each split of a run, by what they hold; empty texts are in none."""
    of_run: dict[Role, Dataset | None] = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    seen: dict[Role, int] = {}
    for role, dataset in of_run.items():
        if dataset is not None:
            in_pictures = role in splits.image_scans
            own = (
                picture_fingerprints(splits.image_scans[role]) if in_pictures else text_fingerprints(dataset.select_columns("text"))
            )
            numbers = number_contents({"train": own, "test": rows.fingerprints})  # two names; what they mean is no matter
            seen[role] = int((np.isin(numbers["test"], numbers["train"]) & (numbers["test"] >= 0)).sum())
    return seen
