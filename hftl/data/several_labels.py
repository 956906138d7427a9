"""Several labels an example: any number of K classes a row, none among them; how they are written in a column, and counted.

A column holds them as lists, as texts of a list (`["joy", "anger"]`), or as texts with a separator ("joy, anger"); or each label
has a column of its own, of 0 and 1.

N rows, K classes. The targets of rows are (N, K) int8: 1 the row has the label, 0 it has not; a row of -1 is not labelled.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, List

from hftl.data.columns import blocks, on_disk
from hftl.data.iterative import ByLabels
from hftl.data.layout import Role
from hftl.data.rows import NO_SPLIT, SHOWN, Table, natural_key, row_problems
from hftl.data.targets import COLUMN, Distinct, Targets, class_name, class_problems
from hftl.errors import Problem
from hftl.names import NO_LABEL
from hftl.recipe import ImageData, TextData
from hftl.run import several_split_facts
from hftl.wording import listed

SEPARATORS = {"|": "a bar", ";": "a semicolon", ",": "a comma"}
"""How a row without one is called."""
FEWEST = 3
"""Different combinations, and different labels, that a column of texts has at least before it is taken for several labels."""


@dataclass(frozen=True)
class SeveralLabels:
    """Any number of K classes a row; see `hftl.data.targets.Target`."""

    separator: str | None = None
    """Between labels in a text; None: lists, texts of lists, or a label a text."""
    columns: tuple[str, ...] = ()
    """Where each label has a column of its own: the labels, by which these are called."""
    said: bool = False
    """By the recipe, and not found from the column: an empty cell of a table of texts is then no label, and not a missing one."""

    def read(self, tables: Mapping[Role, Table], data: TextData | ImageData) -> Targets:
        """Names of the labels in their own order, and which each row has."""
        problems: list[Problem] = []
        of_values: dict[Role, list[tuple[str, ...] | None]] = {}  # of each distinct value
        own = tables["train"].class_names
        for role, table in tables.items():
            if table.labels is None:
                continue
            found: list[tuple[str, ...] | None] = []
            blank, strange = list[int](), list[int]()
            for place, value in enumerate(table.labels.values):
                labels = None
                try:
                    labels = self._names(value, table.class_names)
                except TypeError:
                    strange.append(place)
                else:
                    if labels is None:
                        blank.append(place)
                found.append(labels)
            of_values[role] = found
            without, odd = (np.flatnonzero(np.isin(table.labels.codes, places)).tolist() for places in (blank, strange))
            where = listed(self.columns) if self.columns else f'"{data.label_column}"'
            allowed = "a row without a label has an empty list; a missing value says that nobody looked"
            if not self.columns and not self.said:
                allowed += "; data.target=several takes an empty cell for no label"
            help = [allowed, "data.on_blank_label=skip leaves such rows out"]
            if role == "test":
                help.append(f'data.test_split="{NO_SPLIT}" leaves the source\'s test split alone')
            if data.on_blank_label == "error":
                problems += row_problems(table, f"no labels (column {where})", without, *help)
            expected = "0 or 1 in each of their columns" if self.columns else "a list of names, or names with a separator"
            problems += row_problems(table, "labels that cannot be read", odd, f"expected is {expected}")
            if own is not None and table.class_names is not None and table.class_names != own:
                what = f"its label map differs from train's: {listed(table.class_names[:SHOWN])} against {listed(own[:SHOWN])}"
                problems.append(Problem(f'split "{table.name}"', what))
        there = {name for found in of_values.values() for names in found for name in names or ()}
        first = self.columns or tuple(own or ())
        names = (*first, *sorted(there - set(first), key=natural_key))
        place_of = {name: place for place, name in enumerate(names)}
        of_rows: dict[Role, np.ndarray] = {}
        for role, table in tables.items():
            if table.labels is None:
                of_rows[role] = np.full((len(table.ids), len(names)), -1, dtype=np.int8)
                continue
            matrix = np.zeros((len(of_values[role]), len(names)), dtype=np.int8)
            for row, labels in enumerate(of_values[role]):
                matrix[row, [place_of[name] for name in labels or ()]] = 1
                if labels is None:
                    matrix[row] = -1
            of_rows[role] = matrix[table.labels.codes]
        return Targets(names, of_rows, problems)

    def _names(self, value: Any, class_names: Sequence[str] | None) -> tuple[str, ...] | None:
        """The labels that a value means, each once; None for a missing one.

        Raises:
            TypeError: it means none.
        """
        if self.columns:
            return _of_columns(value, self.columns)
        if isinstance(value, str):
            if (items := as_list(value)) is None:
                text = value.strip()
                if not text:
                    return () if self.said else None
                items = text.split(self.separator) if self.separator else [text]
        elif value is None:
            return () if self.said else None
        elif isinstance(value, Sequence | np.ndarray):
            items = list(value)
        elif isinstance(value, float) and not math.isfinite(value):
            return None
        else:
            items = [value]
        names: dict[str, None] = {}
        for item in items:
            if class_names is not None:
                if type(item) is not int or not 0 <= item < len(class_names):
                    raise TypeError
                name: str | None = class_names[item]
            else:
                name = class_name(item)
            if name is None:
                if isinstance(value, str) and self.separator and isinstance(item, str) and not item.strip():
                    continue  # "joy," has one label
                raise TypeError
            names[name] = None
        return tuple(names)

    def distinct(self, targets: Targets) -> Distinct:
        """Each set of labels that occurs."""
        known = {role: (matrix >= 0).all(axis=1) for role, matrix in targets.of_rows.items()}
        packed = [np.packbits(matrix > 0, axis=1) for matrix in targets.of_rows.values()]
        together = np.ascontiguousarray(np.concatenate(packed))
        if not together.shape[1]:
            return Distinct([NO_LABEL], {role: np.where(rows, 0, -1).astype(np.int32) for role, rows in known.items()})
        sets, numbers = np.unique(together.view(f"V{together.shape[1]}")[:, 0], return_inverse=True)
        has = np.unpackbits(sets.view(np.uint8).reshape(len(sets), -1), axis=1, count=len(targets.names))
        ends = np.cumsum([len(matrix) for matrix in packed])[:-1]
        of_rows = dict(zip(targets.of_rows, np.split(numbers.astype(np.int32), ends), strict=True))
        return Distinct(
            self.named(has.astype(np.int8), targets.names), {role: np.where(known[role], of_rows[role], -1) for role in of_rows}
        )

    def problems(self, tables: Mapping[Role, Table], kept: Mapping[Role, np.ndarray], targets: Targets) -> list[Problem]:
        """One label alone, and what is wrong with the classes of one label an example."""
        counts = {role: self.counts(targets.of_rows[role][kept[role]], targets.names) for role in tables}
        if tables["train"].labels is not None and len(kept["train"]) and not counts["train"].any():
            return [Problem(f'split "{tables["train"].name}"', "no row has a label")]
        return class_problems(tables, kept, counts, targets.names)

    def renamed(self, of_rows: np.ndarray, names: Sequence[str], others: Sequence[str]) -> np.ndarray:
        """A column for each of the others: that of the label, or nothing but 0."""
        place_of = {name: place for place, name in enumerate(others)}
        renamed = np.where((of_rows < 0).any(axis=1, keepdims=True), -1, np.zeros((len(of_rows), len(others)))).astype(np.int8)
        for place, name in enumerate(names):
            if name in place_of:
                renamed[:, place_of[name]] = of_rows[:, place]
        return renamed

    def counts(self, of_rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Rows that have each label; a row with three counts three times."""
        return np.asarray((of_rows > 0).sum(axis=0, dtype=np.int64))

    def named(self, of_rows: np.ndarray, names: Sequence[str]) -> list[str]:
        """ "joy, anger", or "no label"."""
        return [", ".join(names[place] for place in np.flatnonzero(row > 0).tolist()) or NO_LABEL for row in of_rows]

    def strata(self, of_rows: np.ndarray) -> ByLabels:
        """Iterative stratification."""
        return ByLabels(of_rows)

    def facts(self, ids: Sequence[str], of_rows: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """As `hftl.run.several_split_facts`."""
        return several_split_facts(ids, (np.flatnonzero(row > 0).tolist() for row in of_rows), names)

    def column(self, of_rows: np.ndarray, names: Sequence[str]) -> tuple[Any, Any]:
        """Lists of class numbers."""

        def lists(some: np.ndarray) -> pa.Array:
            rows, places = np.nonzero(some > 0)
            offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(some)))]).astype(np.int32)
            return pa.ListArray.from_arrays(offsets, pa.array(places, pa.int64()))

        parts = on_disk(COLUMN, pa.list_(pa.int64()), (lists(some) for some in blocks(of_rows)))
        return parts.column(COLUMN), List(ClassLabel(names=list(names)))


def _of_columns(values: Sequence[Any], columns: Sequence[str]) -> tuple[str, ...] | None:
    """The columns whose value is 1; None where all are missing.

    Raises:
        TypeError: one is neither 0 nor 1.
    """
    if all(value is None or value == "" for value in values):
        return None
    names = []
    for value, column in zip(values, columns, strict=True):
        text = str(value).strip().lower()
        if text not in {"0", "1", "0.0", "1.0", "false", "true"}:
            raise TypeError
        if text in {"1", "1.0", "true"}:
            names.append(column)
    return tuple(names)


# --- found from the column ----------------------------------------------------------------------------------------------------


_NUMPY_GAP = re.compile(r"(['\"])\s+\1")


def as_list(text: str) -> list[Any] | None:
    """The list that a text is, of JSON, Python or NumPy: '["joy", "anger"]', "['joy']", "['joy' 'anger']"; None: another text."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(_NUMPY_GAP.sub(r"\1, \1", text))  # or Python would make one string of both
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, list) and all(isinstance(item, str | int) for item in value) else None


def separator_of(values: Sequence[Any]) -> str | None:
    """What stands between labels in some texts, of which it is known that they are several; None: they have no separator.

    Of those that occur, the one whose parts repeat most: the fewest different ones. Of "New York, NY; Boston, MA" and
    "Boston, MA" it is the semicolon.
    """
    texts = [value for value in values if isinstance(value, str) and as_list(value) is None]
    there = [separator for separator in SEPARATORS if any(separator in text for text in texts)]
    return min(there, key=lambda separator: len({part for text in texts for part in _parts(text, separator)}), default=None)


def found_in(table: Table) -> tuple[SeveralLabels | None, str | None]:
    """What the column of labels of a table is taken for: several labels, or None for one; and what there is to say about it.

    Lists are several labels, and so are texts of lists, where each is one. Texts with a separator are taken for several labels only
    where nothing else can be meant: every part of every combination is also there by itself, nothing stands twice in one, and
    there are three combinations of three labels or more. "New York, NY" is one label, since "NY" is none.
    """
    if table.labels is None or not len(table.labels.codes) or table.labelled_by_folder:
        return None, None
    values = [value for value in table.labels.values if value is not None]
    if values and all(isinstance(value, list | tuple | np.ndarray) for value in values):
        return SeveralLabels(), "lists of labels: several labels an example"
    if table.class_names is not None or not values or not all(isinstance(value, str) for value in values):
        return None, None
    texts = [value.strip() for value in values if value.strip()]
    if texts and all(as_list(text) is not None for text in texts):
        return SeveralLabels(), "texts that are lists: several labels an example (data.target=one takes each text for one label)"
    for separator, name in SEPARATORS.items():
        combined = {text: _parts(text, separator) for text in texts if separator in text}
        parts = Counter(part for own in combined.values() for part in own)
        if len(combined) < FEWEST:
            continue
        alone = set(texts) - set(combined)
        whole = all(len(own) > 1 and len(set(own)) == len(own) for own in combined.values())
        if whole and len(parts) >= FEWEST and parts.keys() <= alone:
            shown = next(iter(combined))
            return SeveralLabels(separator), (
                f'labels with {name} between them, such as "{shown}": several labels an example'
                " (data.target=one takes each text for one label)"
            )
        if whole and len(parts) < len(combined):
            remark = f'labels with {name} in them, such as "{next(iter(combined))}", were taken for one label each'
            return None, f"{remark}; data.target=several takes their parts for labels"
    return None, None


def _parts(text: str, separator: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(separator)) if part]


# --- how labels occur together ------------------------------------------------------------------------------------------------


def together(of_rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(rows, place, other place) of each two labels that occur together, the most frequent first."""
    has = (of_rows > 0).astype(np.float32)
    rows = (has.T @ has).astype(np.int64)
    pairs = np.argwhere(np.triu(rows, 1) > 0)
    for place, other in sorted(pairs.tolist(), key=lambda pair: (-rows[pair[0], pair[1]], pair)):
        yield int(rows[place, other]), place, other
