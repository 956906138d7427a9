"""From a source to splits: a Hub id, a folder of pictures, or tables, and one label map for all of it.

Whatever the source, the result is the same: Arrow data sets with the columns `id`, `text` or `image`, and `label`, whose classes
are in their own order. Nothing is dropped, replaced or guessed silently: what cannot be used is refused, everything in one report.
The result depends on the source, the recipe's data section and the seed alone, so every process of a run sees the same splits.

K classes. Rows are counted from 0, without a header: "train/17" is row 17 of the split "train".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hftl.data.columns import Strings, pick
from hftl.data.content import Scan, content_of
from hftl.data.decoding import pick_scans
from hftl.data.duplicates import (
    Duplicates,
    LeftOut,
    digest,
    digest_of_any_order,
    duplicate_facts,
    duplicate_problems,
    find_duplicates,
    number_contents,
    rows_to_drop,
    set_fingerprints,
)
from hftl.data.extra import ExtraRows, read_extra
from hftl.data.layout import Role
from hftl.data.reading import choose_splits, guesses, open_source, read_tables
from hftl.data.rows import NO_SPLIT, TEST_SEED, Source, Table, column_problems, content_columns
from hftl.data.splitting import divide
from hftl.data.targets import (
    Distinct,
    OneLabel,
    Target,
    Targets,
    assemble,
    kind_of,
    target_of,
    unlabelled_rows,
    with_weights,
)
from hftl.errors import DataError, Problem
from hftl.recipe import ImageData, TextData
from hftl.wording import count, listed, quoted


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
    target: Target = field(default_factory=OneLabel)


DIVISION = ("fold", "split_seed", "sample_seed", "max_train_samples", "max_validation_samples", "max_test_samples")
"""Keys of a data section that say how rows are divided, and have no part in reading them."""


@dataclass(frozen=True)
class Undivided:
    """A source that was read and checked; sections that differ in `DIVISION` alone divide it without reading it again."""

    source: Source
    roles: Mapping[Role, str]
    tables: Mapping[Role, Table]
    target: Target
    said_of_target: Sequence[str]
    targets: Targets
    labelled: Distinct
    scan: Scan
    contents: Mapping[Role, np.ndarray]
    duplicates: Duplicates
    left_out: Mapping[Role, Mapping[int, LeftOut]]
    kept: Mapping[Role, np.ndarray]
    """Rows of each table that may be used; also of "extra", which is not divided."""
    whole: Mapping[Role, Dataset]
    """Of each table all rows."""
    extra: ExtraRows | None = None
    """Further rows for training, "extra" among the tables and all that is by role."""

    def divided(self, data: TextData | ImageData, *, seed: int) -> Splits:
        """The splits of a section that was read as this one, see `load_splits`.

        Raises:
            DataError: the rows cannot be divided so.
        """
        seed = seed if data.split_seed is None else data.split_seed
        source, roles, tables, scan = self.source, self.roles, self.tables, self.scan
        target, targets, labelled, contents = self.target, self.targets, self.labelled, self.contents
        names = targets.names
        strata = {role: target.strata(targets.of_rows[role]) for role in roles}
        rows = divide(data, {role: (self.kept[role], strata[role]) for role in roles}, contents["train"], seed=seed)
        origin: dict[Role, Role] = {role: role if role in tables else "train" for role in rows}
        parts: dict[Role, list[tuple[Role, np.ndarray]]] = {role: [(origin[role], rows[role])] for role in rows}
        if self.extra is not None:
            parts["train"].append(("extra", self.kept["extra"]))
        result = {role: _joined([pick(self.whole[of], some) for of, some in parts[role]]) for role in rows}

        def of_parts(role: Role, values: Mapping[Role, np.ndarray]) -> np.ndarray:
            """What the rows of a split have of values by table."""
            [first, *others] = [values[of][some] for of, some in parts[role]]
            return np.concatenate([first, *others]) if others else first

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
            "fingerprint": set_fingerprints({role: scan.fingerprints[role] for role in roles}, labelled.of_rows, labelled.names),
            "label_names": list(names),
            "splits": {
                role: target.facts(Strings(split, "id"), of_parts(role, targets.of_rows), names) for role, split in result.items()
            },
            "contents": {role: digest(scan.fingerprints[origin[role]], rows[role]) for role in rows},
            **({} if self.extra is None else {"extra": self.extra.facts(self.kept["extra"], content_of(data).thing)}),
            **({"test_rows": digest_of_any_order(scan.fingerprints[origin["test"]][rows["test"]])} if "test" in rows else {}),
            **_how_divided(data, tables, seed),
            **_how_streamed(source, tables),
            "skipped": [
                {"id": tables[role].ids[row], "split": role, "kind": reason.kind, "why": reason.why}
                for role in tables
                for row, reason in sorted(self.left_out[role].items())
            ],
            "duplicates": duplicate_facts(self.duplicates, tables, data.on_duplicate),
            "notes": notes,
            "understood": [
                *understood(source, roles, tables, data, names),
                *([] if self.extra is None else self.extra.said(self.kept["extra"], content_of(data).thing)),
            ],
            **_how_read(source, roles, tables, data, self.said_of_target),
        }
        return Splits(
            result["train"],
            result["validation"],
            result.get("test"),
            names,
            facts,
            contents={role: of_parts(role, contents) for role in rows},
            image_scans={
                role: _joined_scans([pick_scans([scan.image_scans[of]], some) for of, some in parts[role]])
                for role in rows
                if scan.image_scans
            },
            target=target,
        )


def load_splits(data: TextData | ImageData, *, seed: int) -> Splits:
    """Read the source, check it, and divide it.

    Validation is the source's own or a stratified part of train, never of test; test is the source's own, or a stratified part
    of train where `test_fraction` asks for it; with `test_split="none"` training leaves that part shut. Both are exact shares by
    largest remainder, and leave each class one row in train.

    Raises:
        DataError: everything that is wrong with the source, in one report.
    """
    return read_undivided(data).divided(data, seed=seed)


def read_undivided(data: TextData | ImageData) -> Undivided:
    """Read the source and check it; what a section has in `DIVISION` has no say.

    Raises:
        DataError: everything that is wrong with the source, in one report.
    """
    if both := [column for column in data.label_columns if column in content_columns(data)]:
        what = f'"{both[0]}" is data.{data.kind}_column too: a model would learn to read its own answer'
        raise DataError(data.source, [Problem("data.label_column", what)])
    source = open_source(data)
    roles = choose_splits(source, data)
    tables = read_tables(source, roles, data)
    problems: list[Problem] = []
    for role, table in tables.items():
        problems += column_problems(role, table, data)
    target, said_of_target = target_of(data, tables["train"])
    targets = target.read(tables, data)
    names = targets.names
    problems += targets.problems
    scan = content_of(data).scan(tables)
    problems += scan.problems
    extra = None
    if data.extra and not problems:
        extra, wrong = read_extra(data, names, kind=kind_of(targets.of_rows["train"]))
        problems += wrong
    if extra is not None:
        tables["extra"] = extra.table
        targets = replace(targets, of_rows={**targets.of_rows, "extra": extra.targets})
        scan = replace(scan, fingerprints={**scan.fingerprints, "extra": extra.fingerprints})
        if extra.image_scans is not None:
            scan = replace(scan, image_scans={**scan.image_scans, "extra": extra.image_scans})
    labelled = target.distinct(targets)
    contents = number_contents(scan.fingerprints)
    for role, found in contents.items():
        found[labelled.of_rows[role] < 0] = -1
    duplicates = find_duplicates(contents, labelled.of_rows)
    unreadable: Mapping[Role, Mapping[int, LeftOut]] = {role: scan.unreadable.get(role, {}) for role in tables}
    if data.on_blank_label == "skip" and not targets.problems:
        unreadable = {
            role: {**unlabelled_rows(table, labelled.of_rows[role]), **unreadable[role]} for role, table in tables.items()
        }
    left_out = unreadable
    if data.on_duplicate == "error":
        problems += duplicate_problems(duplicates, tables, labelled.of_rows, labelled.names, data.kind)
    elif data.on_duplicate == "drop":
        dropped = rows_to_drop(duplicates, contents, tables, labelled.of_rows, labelled.names, data.kind)
        left_out = {role: {**unreadable[role], **dropped[role]} for role in tables}
    # Classes are counted over what is left.
    kept = {role: np.delete(np.arange(len(table.ids), dtype=np.int32), list(left_out[role])) for role, table in tables.items()}
    problems += target.problems({role: tables[role] for role in roles}, kept, targets)
    if problems:
        raise DataError(data.source, problems)
    whole = {role: assemble(tables[role], target, targets.of_rows[role], names) for role in roles}
    if extra is not None:
        whole["train"] = with_weights(whole["train"], np.ones(len(whole["train"]), dtype=np.float32))
        whole["extra"] = extra.dataset
    return Undivided(
        source, roles, tables, target, said_of_target, targets, labelled, scan, contents, duplicates, left_out, kept, whole, extra
    )


def _joined(parts: Sequence[Dataset]) -> Dataset:
    return parts[0] if len(parts) == 1 else concatenate_datasets(list(parts))


def _joined_scans(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else pick_scans(parts, np.arange(sum(map(len, parts))))


def understood(
    source: Source, roles: Mapping[Role, str], tables: Mapping[Role, Table], data: TextData | ImageData, names: Sequence[str]
) -> list[str]:
    """What was understood of a source, in two lines: its splits and what tells them, and where contents and labels are from."""
    content, one = content_of(data), len(source.splits) == 1 and not source.shown
    shown = {role: Path(data.source).name if one else source.shown.get(name, name) for role, name in roles.items()}
    splits = f"{count(len(roles), 'split')} from {source.splits_from}: {listed(f'{role} ({name})' for role, name in shown.items())}"
    made = [role for role, share in (("validation", 1.0), ("test", data.test_fraction)) if role not in roles and share]
    splits += f"; {listed(made)} made of train" if made else ""
    if "test" not in roles and not data.test_fraction and data.test_split != NO_SPLIT:
        splits += "; no test split (data.test_fraction=0.2 makes one)"
    some = listed(names, _SHOWN)
    if tables["train"].labelled_by_folder:
        return [splits, f"labels from {count(len(names), 'class folder')}: {some}; each file is a {content.thing}"]
    columns = f"{content.thing}s from {_columns(content.columns)}"
    return [splits, f"labels from {_columns(data.label_columns)}, {len(names)} classes: {some}; {columns}"]


def _columns(names: Sequence[str]) -> str:
    shown = quoted(names, _SHOWN)
    return f"the column {shown}" if len(names) == 1 else f"the columns {shown}"


_SHOWN = 5  # classes, columns


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
    source: Source,
    roles: Mapping[Role, str],
    tables: Mapping[Role, Table],
    data: TextData | ImageData,
    said_of_target: Sequence[str],
) -> dict[str, Any]:
    """What is there and was not read, and what else is worth knowing about the reading."""
    ignored = sum((table.ignored for table in tables.values()), Counter(source.ignored))
    remarks = [*guesses(source, roles, data), *source.remarks, *(remark for table in tables.values() for remark in table.remarks)]
    remarks += said_of_target
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
    taken = {role: len(table.ids) for role, table in tables.items() if role != "extra"}
    what = f"the first {rows:,} rows of a shuffle buffer of {buffer:,} rows, not a uniform sample"
    whole = [role for role, count in taken.items() if count < rows]
    return {"streamed": {"rows": rows, "buffer": buffer, "seed": TEST_SEED, "what": what, "taken": taken, "whole": whole}}
