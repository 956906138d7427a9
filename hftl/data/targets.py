"""What is to be predicted: the classes that labels name, in their own order, and what no class can be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftl.data.classes import class_a_row_problem, nearest, same_look_problems, visible
from hftl.data.layout import Role
from hftl.data.rows import NO_SPLIT, SHOWN, Table, is_whole, natural_key, row_problems
from hftl.errors import Problem
from hftl.recipe import ImageData, TextData
from hftl.wording import listed

if TYPE_CHECKING:
    pass


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


def class_numbers(
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


def class_problems(
    tables: Mapping[Role, Table], kept: Mapping[Role, np.ndarray], labels: Mapping[Role, np.ndarray], names: Sequence[str]
) -> list[Problem]:
    """What is wrong with the classes once the rows that go are left out: one alone, one a row, one that train lacks."""
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
