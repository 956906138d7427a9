"""From a source to splits: a Hub id, a folder of pictures, or tables, and one label map for all of it.

Whatever the source, the result is the same: Arrow data sets with the columns `id`, `text` or `image`, and `label`, whose classes
are in their own order. Nothing is dropped, replaced or guessed silently: what cannot be used is refused, everything in one report.
The result depends on the source, the recipe's data section and the seed alone, so every process of a run sees the same splits.

K classes. Rows are counted from 0, without a header: "train/17" is row 17 of the split "train".
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value

from hftl.data.classes import class_a_row_problem, nearest, same_look_problems, visible
from hftl.data.duplicates import (
    LeftOut,
    duplicate_facts,
    duplicate_problems,
    find_duplicates,
    keep_looks,
    number_contents,
    pick_looks,
    picture_fingerprints,
    repeated,
    rows_to_drop,
    set_fingerprints,
    text_fingerprints,
)
from hftl.data.reading import (
    NO_SPLIT,
    ROLES,
    SHOWN,
    TEST_SEED,
    Role,
    Source,
    Strings,
    Table,
    blocks,
    choose_splits,
    content_column,
    guesses,
    is_whole,
    natural_key,
    on_disk,
    open_source,
    pick,
    read_tables,
    row_problems,
)
from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import ImageData, TextData
from hftl.run import split_facts
from hftl.wording import listed

if TYPE_CHECKING:
    from hftl.data.image import BadImage, Look, Note

_AT_ONCE = 512
"""Pictures that wait for a thread, or for their turn to be written down: each takes some kilobytes."""


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
    looks: Mapping[Role, np.ndarray] = field(default_factory=dict)
    """For each split of pictures what reading every one of them has left, on disk; empty for texts. (N,) of `duplicates.LOOK`"""


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
    source = open_source(data)
    roles = choose_splits(source, data)
    tables = read_tables(source, roles, data)
    problems: list[Problem] = []
    for role, table in tables.items():
        problems += _column_problems(role, table, data)
    names, labels, label_problems = _labels(tables, data)
    problems += label_problems
    looks, noted, unreadable = _look_at(tables, data)
    if isinstance(data, ImageData) and data.on_bad_image == "error":
        problems += _bad_image_problems(tables, unreadable)
    fingerprints = _fingerprints(tables, looks)
    contents = number_contents(fingerprints)
    for role, found in contents.items():
        if data.kind == "text" and tables[role].content is not None and len(found) and (found < 0).all():
            what = f'all {len(found):,} texts in the column "{content_column(data)}" are empty'
            problems.append(Problem(f'split "{tables[role].name}"', what, (f"columns there are: {listed(tables[role].columns)}",)))
        found[labels[role] < 0] = -1
    duplicates = find_duplicates(contents, labels)
    left_out = unreadable
    if data.on_duplicate == "error":
        problems += duplicate_problems(duplicates, tables, labels, names, data.kind)
    elif data.on_duplicate == "drop":
        dropped = rows_to_drop(duplicates, contents, tables, labels, names, data.kind)
        left_out = {role: unreadable[role] | dropped[role] for role in tables}
    # Classes are counted over what is left.
    kept = {role: np.delete(np.arange(len(table.ids), dtype=np.int32), list(left_out[role])) for role, table in tables.items()}
    problems += _class_problems(tables, kept, labels, names)
    if problems:
        raise DataError(data.source, problems)

    rows = _divide(data, {role: (kept[role], labels[role]) for role in tables}, contents["train"], seed=seed)
    origin: dict[Role, Role] = {role: role if role in tables else "train" for role in rows}
    whole = {role: _assemble(table, labels[role], names, data.kind) for role, table in tables.items()}
    result = {role: pick(whole[origin[role]], rows[role]) for role in rows}
    notes = [
        {"id": tables[role].ids[row], "kind": note.kind, "note": note.text} for role in tables for row, note in noted[role].items()
    ]
    facts = {
        "source": data.source,
        "revision": source.revision,
        "config": data.config,
        "kind": data.kind,
        "format": source.format,
        "fingerprint": set_fingerprints(fingerprints, labels, names),
        "label_names": list(names),
        "splits": {
            role: split_facts(Strings(split, "id"), memoryview(labels[origin[role]][rows[role]]), names)
            for role, split in result.items()
        },
        "contents": {role: _digest(fingerprints[origin[role]], rows[role]) for role in rows},
        **({"test_rows": _digest_of_any_order(fingerprints[origin["test"]][rows["test"]])} if "test" in rows else {}),
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
        looks={role: pick_looks([looks[origin[role]]], rows[role]) for role in rows} if data.kind == "image" else {},
    )


# --- labels -------------------------------------------------------------------------------------------------------------------


def _class_name(value: Any) -> str | None:
    """The class that a label means; None for a blank one. "0", 0, 0.0 and "0.0" are one class.

    Raises:
        TypeError: a list or something else that is no label.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if not isinstance(value, str) or not is_whole(value):
        raise TypeError
    name = value.strip()
    if re.fullmatch(r"-?(0|[1-9][0-9]*)(\.0+)?", name):
        return name.partition(".")[0].replace("-0", "0")
    return None if name.lower() in ("", "nan") else name


def _labels(
    tables: Mapping[Role, Table], data: TextData | ImageData
) -> tuple[tuple[str, ...], dict[Role, np.ndarray], list[Problem]]:
    """Class names in their own order, the class number of every row (-1 where there is none), and what is wrong."""
    problems: list[Problem] = []
    classes: dict[Role, list[str | None]] = {}  # of each distinct label
    own = tables["train"].class_names
    for role, table in tables.items():
        if table.labels is None:
            continue
        found: list[str | None] = []
        of_kind: dict[str, list[int]] = {"blank": [], "outside": [], "strange": []}  # the labels that are no class
        for place, value in enumerate(table.labels.values):
            name: str | None = None
            if table.class_names is not None and value is not None:
                if 0 <= value < len(table.class_names):
                    name = table.class_names[value]
                else:
                    of_kind["outside"].append(place)
            else:
                try:
                    name = _class_name(value)
                except TypeError:
                    of_kind["strange"].append(place)
                else:
                    if name is None:
                        of_kind["blank"].append(place)
                    elif re.fullmatch(r"-\d+", name):
                        of_kind["outside"].append(place)
                        name = None
            found.append(name)
        classes[role] = found
        blank, outside, strange = (np.flatnonzero(np.isin(table.labels.codes, places)).tolist() for places in of_kind.values())
        problems += row_problems(
            table, f'a blank label (column "{data.label_column}")', blank, "give them a label or leave the rows out"
        )
        allowed = (
            f"allowed are 0 to {len(table.class_names) - 1}"
            if table.class_names
            else 'class numbers start at 0; -1 often stands for "unlabelled"'
        )
        values = listed(dict.fromkeys(str(table.labels[row]) for row in outside[: 10 * SHOWN]))
        help = (allowed, f'data.test_split="{NO_SPLIT}" leaves the source\'s test split alone') if role == "test" else (allowed,)
        problems += row_problems(table, f"a label that is no class ({values})", outside, *help)
        problems += row_problems(table, "a label that is neither text nor a number", strange)
        if own is not None and table.class_names is not None and table.class_names != own:
            what = f"its label map differs from train's: {listed(table.class_names[:SHOWN])} against {listed(own[:SHOWN])}"
            problems.append(Problem(f'split "{table.name}"', what))
    there = {name for found in classes.values() for name in found if name is not None}
    names = (*(own or ()), *sorted(there - set(own or ()), key=natural_key))
    number = {name: place for place, name in enumerate(names)}
    numbers: dict[Role, np.ndarray] = {}
    for role, table in tables.items():
        if table.labels is None:
            numbers[role] = np.full(len(table.ids), -1, dtype=np.int32)
        else:
            of_label = np.array([-1 if name is None else number[name] for name in classes[role]], dtype=np.int32)
            numbers[role] = of_label[table.labels.codes]
    return names, numbers, problems


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


def _class_problems(
    tables: Mapping[Role, Table], kept: Mapping[Role, np.ndarray], labels: Mapping[Role, np.ndarray], names: Sequence[str]
) -> list[Problem]:
    if tables["train"].labels is None:
        return []
    problems = []
    counts = {role: np.bincount(labels[role][kept[role]][labels[role][kept[role]] >= 0], minlength=len(names)) for role in tables}
    there = np.flatnonzero(counts["train"])
    if len(there) == 1:
        name = names[there[0]]
        problems.append(Problem(f'split "{tables["train"].name}"', f'one class only, "{name}": there is nothing to tell apart'))
    problems += same_look_problems(names, {table.name: counts[role] for role, table in tables.items()})
    of_train = [names[int(place)] for place in there]
    train = tables["train"]
    no_classes = class_a_row_problem(
        train.name, of_train, int(counts["train"].sum()), columns=train.columns, divided="validation" not in tables
    )
    if no_classes is not None:
        return [*problems, no_classes]
    look = {visible(name) for name in of_train}  # a class that looks like one of train's is a problem already
    for role, table in tables.items():
        if table.ids and not len(kept[role]):
            what = f"none of its {len(table.ids)} rows is left: what cannot be read and what is a duplicate was left out"
            problems.append(Problem(f'split "{table.name}"', what))
        lacking = [names[int(place)] for place in np.flatnonzero((counts[role] > 0) & (counts["train"] == 0))]
        lacking = [name for name in lacking if visible(name) not in look]
        if lacking and len(there):
            what = f"classes that train has no row of: {listed(lacking, SHOWN)}"
            known = {name: other for name in lacking[:SHOWN] if (other := nearest(name, of_train)) is not None}
            help = [f'train writes "{other}" for "{name}": give them one name' for name, other in known.items()]
            help.append(f"train's classes: {listed(of_train)}")
            problems.append(Problem(f'split "{table.name}"', what, tuple(help)))
    return problems


# --- what the rows hold -------------------------------------------------------------------------------------------------------


def _look_at(
    tables: Mapping[Role, Table], data: TextData | ImageData
) -> tuple[dict[Role, np.ndarray], dict[Role, dict[int, Note]], dict[Role, dict[int, LeftOut]]]:
    """Read every picture to its end, once: what is known of it, by row its note, and by row why it cannot be used.

    Nothing for texts.
    """
    looks: dict[Role, np.ndarray] = {}
    noted: dict[Role, dict[int, Note]] = {role: {} for role in tables}
    unreadable: dict[Role, dict[int, LeftOut]] = {role: {} for role in tables}
    if isinstance(data, TextData):
        return looks, noted, unreadable
    # Imported here because a run on texts needs neither Albumentations nor OpenCV.
    from hftl.data.image import BadImage, inspect

    def look(stored: dict[str, Any]) -> Look | BadImage:
        try:
            return inspect(stored["bytes"] if stored["bytes"] is not None else stored["path"])
        except BadImage as error:
            return error

    def seen(role: Role, content: Dataset) -> Iterator[Look | None]:
        rows = range(len(content))
        with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
            for start in rows[::_AT_ONCE]:
                some = rows[start : start + _AT_ONCE]
                for row, found in zip(some, pool.map(lambda row: look(content[row]["image"]), some), strict=True):
                    if isinstance(found, BadImage):
                        unreadable[role][row] = LeftOut(found.kind, str(found))
                    elif found.note is not None:
                        noted[role][row] = found.note
                    yield None if isinstance(found, BadImage) else found

    for role, table in tables.items():
        looks[role] = keep_looks(() if table.content is None else seen(role, table.content), len(table.ids))
    return looks, noted, unreadable


def _fingerprints(tables: Mapping[Role, Table], looks: Mapping[Role, np.ndarray]) -> dict[Role, np.ndarray]:
    """16 bytes for the content of every row; zeros where a table cannot be used. (N, 2) uint64"""
    fingerprints = {}
    for role, table in tables.items():
        if role in looks:
            fingerprints[role] = picture_fingerprints(looks[role])
        elif table.content is not None:
            fingerprints[role] = text_fingerprints(table.content)
        else:
            fingerprints[role] = np.zeros((len(table.ids), 2), dtype=np.uint64)
    return fingerprints


def _digest(fingerprints: np.ndarray, rows: np.ndarray) -> str:
    """SHA-256 of the fingerprints of some rows, in hex."""
    digest = hashlib.sha256()
    for some in blocks(rows):
        digest.update(fingerprints[some].data)
    return digest.hexdigest()


def _digest_of_any_order(fingerprints: np.ndarray) -> str:
    """SHA-256 of the fingerprints of rows, in hex, the same in whichever order the rows are. (N, 2)"""
    return _digest(fingerprints, np.lexsort(fingerprints.T))


def _bad_image_problems(tables: Mapping[Role, Table], unreadable: Mapping[Role, Mapping[int, LeftOut]]) -> list[Problem]:
    problems = [Problem(tables[role].ids[row], reason.why) for role in tables for row, reason in unreadable[role].items()]
    if problems:
        last = problems[-1]
        problems[-1] = Problem(
            last.where, last.what, ("repair or remove the files, or leave them out and have them counted: data.on_bad_image=skip",)
        )
    return problems


# --- dividing -----------------------------------------------------------------------------------------------------------------


def _divide(
    data: TextData | ImageData, given: Mapping[Role, tuple[np.ndarray, np.ndarray]], contents: np.ndarray, *, seed: int
) -> dict[Role, np.ndarray]:
    """Rows of each split, ascending; those of a split that was not given are rows of train's table.

    `given` has, for each split of the source, the rows that may be used and the class number of every row; `contents` are those
    of train's rows: equal ones are never put on two sides.
    """
    rows: dict[Role, np.ndarray] = {role: kept for role, (kept, _) in given.items()}
    labels = given["train"][1]
    size = len(rows["train"])
    # Test first and by a seed of its own: neither `run.seed` nor the validation split may touch it.
    shares: list[tuple[Role, float, int]] = [
        ("test", data.test_fraction, TEST_SEED),
        ("validation", data.validation_fraction, seed),
    ]
    for role, share, own_seed in shares:
        if role in rows or share == 0:
            continue
        train = rows["train"]
        counts = np.bincount(labels[train])
        most = np.maximum(counts - 1, 0)
        taken = _stratified(train, labels, max(1, round(share * size)), own_seed, least=0 * counts, most=most, contents=contents)
        if not len(taken):
            what = f"train has {len(train)} rows, one of each class or repeating each other: none can be set aside for {role}"
            raise DataError(data.source, [Problem(f"data.{role}_fraction", what)])
        left = np.ones(len(labels), dtype=bool)
        left[taken] = False
        rows[role], rows["train"] = taken, train[left[train]]
    limits: list[tuple[Role, int | None, int]] = [
        ("train", data.max_train_samples, seed),
        ("validation", data.max_validation_samples, seed),
        ("test", data.max_test_samples, TEST_SEED),
    ]
    for role, limit, own_seed in limits:
        if role in rows and limit is not None and limit < len(rows[role]):
            of = given[role][1] if role in given else labels
            counts = np.bincount(of[rows[role]])
            # A class must not vanish from train by sampling where there is room for all of them.
            least = np.minimum(counts, 1) if role == "train" and limit >= np.count_nonzero(counts) else 0 * counts
            rows[role] = _stratified(rows[role], of, limit, own_seed, least=least, most=counts)
    return {role: rows[role] for role in ROLES if role in rows}


def _stratified(
    rows: np.ndarray,
    labels: np.ndarray,
    total: int,
    seed: int,
    *,
    least: np.ndarray,
    most: np.ndarray,
    contents: np.ndarray | None = None,
) -> np.ndarray:
    """`total` of `rows`, drawn by class in proportion, ascending.

    With `contents`, rows of one content are drawn together or not at all, so that it may be fewer.
    """
    generator = np.random.default_rng(seed)
    of = labels[rows]
    shares = _allocate(np.bincount(of, minlength=len(most)), total, least=least, most=most)
    drawn = [generator.permutation(rows[of == label]) for label in range(len(shares))]
    twins = _twins(rows, contents) if contents is not None else {}
    taken = [_whole_groups(order, share, twins, labels) for order, share in zip(drawn, shares.tolist(), strict=True)]
    return np.sort(np.concatenate(taken))


def _twins(rows: np.ndarray, contents: np.ndarray) -> dict[int, np.ndarray]:
    """For each of `rows` that is not alone with its content all that have it."""
    return {row: rows[group] for group in repeated(contents[rows]) for row in rows[group].tolist()}


def _whole_groups(order: np.ndarray, share: int, twins: Mapping[int, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The first `share` rows of `order`; a row and its twins together, and skipped where they do not fit or differ in label."""
    if not twins:
        return order[:share]
    taken: dict[int, None] = {}  # in order
    for row in map(int, order):
        if len(taken) == share:
            break
        group = twins.get(row, np.array([row]))
        fits = row not in taken and len(taken) + len(group) <= share
        if fits and len(np.unique(labels[group])) == 1:
            taken.update(dict.fromkeys(group.tolist()))
    return np.fromiter(taken, dtype=np.int32)


def _allocate(counts: np.ndarray, total: int, *, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """`total` divided in proportion to `counts`, whole numbers by largest remainder, each within its bounds.

    Counts 50, 30, 21 and a total of 10: quotas 4.95, 2.97, 2.08, so 4, 2, 2 and one more each for the first two: 5, 3, 2.
    """
    total = min(total, int(most.sum()))
    quota = counts * (total / counts.sum())
    shares: np.ndarray = np.clip(np.floor(quota).astype(np.int64), least, most)
    while shares.sum() != total:
        missing = shares.sum() < total
        # argmax takes the first of equals: the result does not depend on anything but the counts.
        gap = np.where(shares < most, quota - shares, -np.inf) if missing else np.where(shares > least, shares - quota, -np.inf)
        shares[int(np.argmax(gap))] += 1 if missing else -1
    return shares


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
