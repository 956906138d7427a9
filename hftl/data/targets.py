"""What is to be predicted: how it is read, named, counted and told apart, what a data set and a model's batch have of it.

Reading, dividing and evaluating ask a `Target` and do not ask which kind it is. A further kind is a class beside `OneLabel` and a
case in `target_of` and `kind_of`; `hftl.evaluation.targets` has the other half: how answers are made and judged.

N rows, K classes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, List, Value

from hftl.data.classes import class_a_row_problem, nearest, same_look_problems, visible
from hftl.data.columns import Strings, blocks, integers, memberships, on_disk
from hftl.data.duplicates import LeftOut
from hftl.data.layout import Role
from hftl.data.rows import NO_SPLIT, SHOWN, Table, is_whole, natural_key, row_problems
from hftl.data.splitting import ByClass, Strata
from hftl.errors import Problem
from hftl.names import NO_LABEL, ONE_LABEL, SEVERAL_LABELS
from hftl.recipe import ImageData, TextData
from hftl.run import split_facts
from hftl.wording import listed

COLUMN = "label"
"""Of the data sets that `hftl.data.source` makes."""
WEIGHT = "weight"
"""The column of a train split that has further rows, `data.extra`."""


@dataclass(frozen=True)
class Targets:
    """What the rows of some splits are labelled with."""

    names: tuple[str, ...]
    """The K classes, in their own order."""
    of_rows: Mapping[Role, np.ndarray]
    """The target of every row: of one label (N,) int32 class numbers, -1 where there is none; of several (N, K) int8, 1 where the
    row has the label."""
    problems: list[Problem]
    """What is refused."""


@dataclass(frozen=True)
class Distinct:
    """Which targets occur: rows of one number are labelled alike. Splits are stratified by it, and differing numbers conflict."""

    names: Sequence[str]
    """Of each number."""
    of_rows: Mapping[Role, np.ndarray]
    """(N,) numbers from 0 on; -1: the row has no target."""


class Target(Protocol):
    """One kind of target."""

    def read(self, tables: Mapping[Role, Table], data: TextData | ImageData) -> Targets:
        """Read and name the labels of every row."""

    def distinct(self, targets: Targets) -> Distinct:
        """Number the targets that occur."""

    def problems(self, tables: Mapping[Role, Table], kept: Mapping[Role, np.ndarray], targets: Targets) -> list[Problem]:
        """What is wrong with the classes once the rows that go are left out; `kept` are the others."""

    def renamed(self, of_rows: np.ndarray, names: Sequence[str], others: Sequence[str]) -> np.ndarray:
        """The targets of some rows by other class names, all of which `others` has."""

    def counts(self, of_rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """(K,) how many rows are of each class."""

    def named(self, of_rows: np.ndarray, names: Sequence[str]) -> list[str]:
        """The targets of some rows in words."""

    def strata(self, of_rows: np.ndarray) -> Strata:
        """What rows are stratified by, of those of a whole table."""

    def facts(self, ids: Sequence[str], of_rows: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """What data.json has of a split, see `hftl.run.split_facts`."""

    def column(self, of_rows: np.ndarray, names: Sequence[str]) -> tuple[Any, Any]:
        """What a data set keeps: an Arrow column on disk, and its feature."""


class OneLabel:
    """One of K classes a row; see `Target`."""

    def read(self, tables: Mapping[Role, Table], data: TextData | ImageData) -> Targets:
        """Class names and class numbers."""
        names, numbers, problems = class_numbers(tables, data)
        return Targets(names, numbers, problems)

    def distinct(self, targets: Targets) -> Distinct:
        """The classes themselves."""
        return Distinct(targets.names, targets.of_rows)

    def problems(self, tables: Mapping[Role, Table], kept: Mapping[Role, np.ndarray], targets: Targets) -> list[Problem]:
        """One class alone, one a row, one that train lacks."""
        counts = {role: self.counts(targets.of_rows[role][kept[role]], targets.names) for role in tables}
        return class_problems(tables, kept, counts, targets.names)

    def renamed(self, of_rows: np.ndarray, names: Sequence[str], others: Sequence[str]) -> np.ndarray:
        """The number that each class has among the others; -1 stays."""
        place_of = {name: place for place, name in enumerate(others)}
        places = np.array([*(place_of.get(name, -1) for name in names), -1], dtype=np.int32)
        return np.asarray(places[of_rows])

    def counts(self, of_rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Rows without a class are not counted."""
        return np.bincount(of_rows[of_rows >= 0], minlength=len(names))

    def named(self, of_rows: np.ndarray, names: Sequence[str]) -> list[str]:
        """The names of the classes."""
        return [names[number] for number in of_rows.tolist()]

    def strata(self, of_rows: np.ndarray) -> Strata:
        """By class."""
        return ByClass(of_rows)

    def facts(self, ids: Sequence[str], of_rows: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """As `hftl.run.split_facts`."""
        return split_facts(ids, of_rows.data, names)

    def column(self, of_rows: np.ndarray, names: Sequence[str]) -> tuple[Any, Any]:
        """Class numbers."""
        numbers = on_disk(COLUMN, pa.int64(), (pa.array(some, pa.int64()) for some in blocks(of_rows))).column(COLUMN)
        return numbers, ClassLabel(names=list(names))


def target_of(data: TextData | ImageData, train: Table, *, kind: str | None = None) -> tuple[Target, list[str]]:
    """The target that a section of a recipe describes, or that the labels of its train split show; and what there is to say of it.

    `kind` is that of a model which the rows are for; None: there is none yet.
    """
    # Here alone: a target of several labels is read with the functions of this module.
    from hftl.data.several_labels import SeveralLabels, found_in, separator_of

    if len(data.label_columns) > 1:
        return SeveralLabels(columns=data.label_columns), []
    if data.target == "one" or kind == ONE_LABEL:
        return OneLabel(), []
    if data.target == "several" or kind == SEVERAL_LABELS:
        separator = separator_of([] if train.labels is None else train.labels.values)
        return SeveralLabels(separator, said=data.target == "several"), []
    found, remark = found_in(train)
    return found or OneLabel(), [] if remark is None else [f'the column "{data.label_column}" has {remark}']


def targets_of(dataset: Dataset) -> np.ndarray:
    """What a data set of `hftl.data.source` has of its target: of one label (N,) int32 class numbers, of several (N, K) int8."""
    if isinstance(dataset.features[COLUMN], List):
        return memberships(dataset, COLUMN, classes=len(names_of(dataset)))
    return integers(dataset, COLUMN)


def unlabelled_rows(table: Table, labels: np.ndarray) -> dict[int, LeftOut]:
    """The rows of a table that have no label, of one that has labels."""
    if table.labels is None:
        return {}
    return dict.fromkeys(np.flatnonzero(labels < 0).tolist(), LeftOut(NO_LABEL, NO_LABEL))


def assemble(table: Table, target: Target, labels: np.ndarray, names: Sequence[str]) -> Dataset:
    """All rows with the columns `id`, content and `label`."""
    assert table.content is not None
    ids = table.ids.to_arrow() if isinstance(table.ids, Strings) else pa.array(table.ids, pa.string())
    values, feature = target.column(labels, names)
    # Of our own: datasets would take a copy of each column to find one.
    digest = hashlib.sha256(f"{table.content._fingerprint} {table.name} {names}".encode())
    digest.update(labels.data)
    whole = table.content.add_column("id", ids, feature=Value("string"), new_fingerprint=digest.hexdigest()[:16])
    whole = whole.add_column(COLUMN, values, feature=feature, new_fingerprint=digest.hexdigest()[:16])
    return whole.select_columns(["id", *table.content.column_names, COLUMN])


def with_weights(dataset: Dataset, weights: np.ndarray) -> Dataset:
    """The rows with a column of what each counts for in the loss. (N,) float32"""
    column = on_disk(WEIGHT, pa.float32(), (pa.array(some, pa.float32()) for some in blocks(weights))).column(WEIGHT)
    digest = hashlib.sha256(dataset._fingerprint.encode() + weights.tobytes()).hexdigest()[:16]
    return dataset.add_column(WEIGHT, column, feature=Value("float32"), new_fingerprint=digest)


def weights_of(dataset: Dataset) -> np.ndarray | None:
    """What each row counts for in the loss, (N,) float32; None: all the same."""
    if WEIGHT not in dataset.column_names:
        return None
    return np.asarray(dataset.select_columns(WEIGHT).with_format("arrow")[:].column(WEIGHT).to_numpy(), dtype=np.float32)


def names_of(dataset: Dataset) -> tuple[str, ...]:
    """The K classes of a data set of `hftl.data.source`, in their order."""
    feature = dataset.features[COLUMN]
    return tuple((feature.feature if isinstance(feature, List) else feature).names)


def memberships_of(targets: np.ndarray, classes: int) -> np.ndarray:
    """What `targets_of` gives, as (N, K) int8 whatever its kind: 1 where a row is of a class."""
    if kind_of(targets) == SEVERAL_LABELS:
        return targets
    return np.asarray(targets[:, None] == np.arange(classes), dtype=np.int8)


def in_words(targets: np.ndarray, names: Sequence[str]) -> list[str]:
    """What `targets_of` gives, as people read it."""
    from hftl.data.several_labels import SeveralLabels

    target: Target = OneLabel() if kind_of(targets) == ONE_LABEL else SeveralLabels()
    return target.named(targets, names)


def kind_of(targets: np.ndarray) -> str:
    """The kind of what `targets_of` gives, by its name in `hftl.names`."""
    if targets.ndim not in (1, 2) or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"targets of the shape {targets.shape} and type {targets.dtype} are of no kind")
    return ONE_LABEL if targets.ndim == 1 else SEVERAL_LABELS


# --- one label ----------------------------------------------------------------------------------------------------------------


def class_name(value: Any) -> str | None:
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


def _are_signed(values: Sequence[Any]) -> bool:
    """Whether labels are whole numbers on both sides of 0, such as -1, 0 and 1: then -1 is a class, and not a missing label."""
    names = set()
    for value in values:
        try:
            names.add(class_name(value))
        except TypeError:
            return False
    names.discard(None)
    numbers = {int(name) for name in names if name is not None and re.fullmatch(r"[+-]?\d{1,3}", name)}
    return len(numbers) == len(names) and min(numbers, default=0) < 0 and numbers == {-number for number in numbers}


def class_numbers(
    tables: Mapping[Role, Table], data: TextData | ImageData
) -> tuple[tuple[str, ...], dict[Role, np.ndarray], list[Problem]]:
    """Class names in their own order, the class number of every row (-1 where there is none), and what is wrong."""
    problems: list[Problem] = []
    classes: dict[Role, list[str | None]] = {}  # of each distinct label
    train = tables["train"]
    own, signed = train.class_names, train.labels is not None and _are_signed(train.labels.values)
    if signed and train.labels is not None:
        in_order: list[str] = sorted(map(str, train.labels.values), key=natural_key)
        train.remarks.append(
            f"the labels {listed(in_order)} are read as classes; where -1 means that there is no label, leave the cell blank and"
            " write data.on_blank_label=skip"
        )
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
            elif table.labelled_by_folder:
                name = value
            else:
                try:
                    name = class_name(value)
                except TypeError:
                    of_kind["strange"].append(place)
                else:
                    if name is None:
                        of_kind["blank"].append(place)
                    elif re.fullmatch(r"-\d+", name) and not signed:
                        of_kind["outside"].append(place)
                        name = None
            found.append(name)
        classes[role] = found
        blank, outside, strange = (np.flatnonzero(np.isin(table.labels.codes, places)).tolist() for places in of_kind.values())
        problems += row_problems(
            table,
            f'a blank label (column "{data.label_column}")',
            blank if data.on_blank_label == "error" else [],
            "give them a label, or leave the rows out: data.on_blank_label=skip",
        )
        allowed = (
            f"allowed are 0 to {len(table.class_names) - 1}"
            if table.class_names
            else 'class numbers start at 0; -1 often stands for "unlabelled"'
        )
        if data.on_blank_label == "skip":
            outside = [row for row in outside if not str(table.labels[row]).startswith("-")]
        elif any(str(table.labels[row]).startswith("-") for row in outside):
            allowed += "; data.on_blank_label=skip leaves such rows out; a class is called by a name"
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


def class_problems(
    tables: Mapping[Role, Table], kept: Mapping[Role, np.ndarray], counts: Mapping[Role, np.ndarray], names: Sequence[str]
) -> list[Problem]:
    """What is wrong with the classes once the rows that go are left out: one alone, one a row, one that train lacks.

    `kept` are the other rows, and `counts` has how many of them are of each class.
    """
    if tables["train"].labels is None:
        return []
    problems = []
    there = np.flatnonzero(counts["train"])
    if len(there) == 1:
        name = names[there[0]]
        problems.append(Problem(f'split "{tables["train"].name}"', f'one class only, "{name}": there is nothing to tell apart'))
    problems += same_look_problems(names, {table.name: counts[role] for role, table in tables.items()})
    of_train = [names[int(place)] for place in there]
    train = tables["train"]
    no_classes = class_a_row_problem(
        train.name,
        of_train,
        min(len(kept["train"]), int(counts["train"].sum())),
        columns=train.columns,
        divided="validation" not in tables,
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
