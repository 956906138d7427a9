"""Further rows for training alone, `data.extra`: read as the source is, counted, weighted, and held against all of its splits.

They are read by the columns and with the classes of the source, and come in once it is divided. A content that one of its splits
has too is a duplicate, of which theirs is the row that stays (`hftl.data.duplicates`).

N rows of all sections together, K classes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from datasets import Dataset, Value, concatenate_datasets

from hftl.data.columns import Strings, on_disk
from hftl.data.decoding import pick_scans
from hftl.data.duplicates import digest
from hftl.data.labelled import LabelledRows, read_labelled_rows
from hftl.data.layout import DOCUMENTS, PROVENANCE, counted, find_name
from hftl.data.reading import open_source
from hftl.data.rows import SHOWN, Source, Table, row_problems, train_of
from hftl.data.targets import with_weights
from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import Extra, ImageData, TextData
from hftl.wording import count, listed

_MOST_KEYS, _MOST_LETTERS = 12, 120
"""Of what is said of where rows are from."""


@dataclass(frozen=True)
class Part:
    """The rows of one section."""

    extra: Extra
    rows: LabelledRows
    provenance: Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class ExtraRows:
    """The rows of every section of `data.extra`, one after the other."""

    table: Table
    """How they are called, and what is worth knowing about how they were read."""
    dataset: Dataset
    """As those of `hftl.data.source.Splits`, with their weights."""
    targets: np.ndarray
    """What `hftl.data.targets.targets_of` gives of them."""
    fingerprints: np.ndarray
    """(N, 2) uint64"""
    image_scans: np.ndarray | None
    weights: np.ndarray
    """(N,) float32"""
    parts: Sequence[Part]

    def facts(self, kept: np.ndarray, thing: str) -> list[dict[str, Any]]:
        """What data.json has of each section; `kept` are the rows that are trained on, ascending, and each is a `thing`."""
        facts, start = [], 0
        for part in self.parts:
            extra, rows = part.extra, part.rows
            end = start + len(rows.places)
            own = kept[(kept >= start) & (kept < end)]
            weights = self.weights[own]
            low, mean, high = (float(value) for value in (weights.min(), weights.mean(), weights.max())) if len(own) else (0.0,) * 3
            at = f"weight {low:.3g}" if low == high else f"weights of {low:.3g} to {high:.3g}, {mean:.3g} on average"
            facts.append(
                {
                    "name": extra.name,
                    "source": extra.source,
                    "revision": rows.facts["revision"],
                    "format": rows.facts["format"],
                    "n": len(own),
                    "left_out": end - start - len(own) + len(rows.facts["skipped"]),
                    "said": f"{count(len(own), f'{extra.name} {thing}')} at {at} ({Path(extra.source).name})",
                    "contents": hashlib.sha256(
                        (digest(self.fingerprints, own) + hashlib.sha256(weights.tobytes()).hexdigest()).encode()
                    ).hexdigest(),
                    "provenance": dict(part.provenance),
                }
            )
            start = end
        return facts

    def said(self, kept: np.ndarray, thing: str) -> list[str]:
        """A line: how many rows, at which weight, and where they are from."""
        return [f"and {listed(each['said'] for each in self.facts(kept, thing))}, in training alone"]


def read_extra(data: TextData | ImageData, names: Sequence[str], *, kind: str) -> tuple[ExtraRows | None, list[Problem]]:
    """The rows of every section, or what is wrong with them.

    Args:
        data: the section of the source, by which they are read.
        names: the source's classes, all of which they may have and no others.
        kind: of its target.
    """
    parts: list[Part] = []
    weights: list[np.ndarray] = []
    problems: list[Problem] = []
    table = Table("extra", [], [], None, None, None, [])
    for extra in data.extra:
        try:
            source, chosen, section = _open(extra, data)
            rows = read_labelled_rows(source, chosen, section, names, kind=kind, whose="the source")
            weights.append(_weights(extra, chosen, section, rows))
            parts.append(Part(extra, rows, provenance(extra.source)))
        except DataError as error:
            where = f"data.extra, {extra.name} rows of {extra.source}"
            problems += [Problem(where, f"{each.where}: {each.what}", each.help) for each in error.problems]
            continue
        table.remarks += [
            f"{extra.name}: {remark}" for remark in _remarks(source, chosen, rows, says_where=_beside(extra.source, PROVENANCE))
        ]
    if problems:
        return None, problems
    datasets = [with_weights(_named(part.rows.dataset, part.extra.name), own) for part, own in zip(parts, weights, strict=True)]
    joined = datasets[0] if len(datasets) == 1 else concatenate_datasets(datasets)
    table.ids = Strings(joined, "id")
    scans = [part.rows.image_scans for part in parts if part.rows.image_scans is not None]
    return (
        ExtraRows(
            table,
            joined,
            np.concatenate([part.rows.targets for part in parts]),
            np.concatenate([part.rows.fingerprints for part in parts]),
            pick_scans(scans, np.arange(len(joined))) if scans else None,
            np.concatenate(weights),
            parts,
        ),
        [],
    )


def read_section(extra: Extra, data: TextData | ImageData, names: Sequence[str], *, kind: str) -> LabelledRows:
    """The rows of one section, as `read_extra` reads them.

    Raises:
        DataError: what is wrong with them.
    """
    source, chosen, section = _open(extra, data)
    return read_labelled_rows(source, chosen, section, names, kind=kind, whose="the source")


def _open(extra: Extra, data: TextData | ImageData) -> tuple[Source, str, TextData | ImageData]:
    """The source of a section, which split of it is read, and the section by which that is.

    Raises:
        DataError: it is nothing that can be read, or it is not clear which split is meant.
    """
    none = dict.fromkeys(
        (
            *("validation_split", "test_split", "id_column", "fold", "stream_samples"),
            *("max_train_samples", "max_validation_samples", "max_test_samples"),
        )
    )
    own = {"source": extra.source, "revision": extra.revision, "config": extra.config, "train_split": extra.split, "extra": ()}
    section = data.model_copy(update={**none, **own})
    source = open_source(section)
    names = list(source.splits)
    chosen = find_name(extra.split, names) if extra.split is not None else None
    if extra.split is None:
        likely = train_of(section, names)
        chosen = likely[0] if len(likely) == 1 else names[0] if len(names) == 1 else None
    if chosen is None:
        what = f'no split "{extra.split}".{did_you_mean(extra.split, names)}' if extra.split else "which split is to be trained on?"
        raise DataError.single("split", what, f"write split=..., one of {', '.join(names)}", source=extra.source)
    return source, chosen, section


def _weights(extra: Extra, chosen: str, section: TextData | ImageData, rows: LabelledRows) -> np.ndarray:
    """What each of the rows counts for. (N,) float32

    Raises:
        DataError: there is no such column, or what it has of a row is no number greater than 0.
    """
    if extra.weight_column is None:
        return np.full(len(rows.places), extra.weight, dtype=np.float32)
    if rows.table.labelled_by_folder:
        what = "class folders have no columns; weight=0.5 is for all of their rows"
        raise DataError.single("weight_column", what, source=extra.source)
    if extra.weight_column not in rows.table.columns:
        what = f'no column "{extra.weight_column}".{did_you_mean(extra.weight_column, rows.table.columns)}'
        raise DataError.single("weight_column", what, f"columns there are: {', '.join(rows.table.columns)}", source=extra.source)
    # Read once more, as if it were the label.
    by_weight = section.model_copy(update={"label_column": extra.weight_column, "target": "one"})
    table = open_source(by_weight).splits[chosen]()
    if table.labels is None or len(table.ids) != len(rows.table.ids):
        raise DataError.single("weight_column", f'the column "{extra.weight_column}" cannot be read', source=extra.source)
    values = np.array([_number(value) for value in table.labels.values], dtype=np.float64)[table.labels.codes][rows.places]
    wrong = rows.places[~(np.isfinite(values) & (values > 0))].tolist()
    if wrong:
        what = f'no number greater than 0 in the column "{extra.weight_column}"'
        raise DataError(extra.source, row_problems(table, what, wrong, "leave out the rows that are to count for nothing"))
    return np.asarray(extra.weight * values, dtype=np.float32)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _remarks(source: Source, chosen: str, rows: LabelledRows, *, says_where: bool) -> list[str]:
    """What is worth knowing about how a section was read: a line a kind; `says_where`: a provenance.json is beside the rows."""
    remarks = [*source.remarks, *rows.table.remarks]
    if unused := source.unused({"train": chosen}):
        remarks.append(f"not used: {listed(unused, SHOWN)}")
    ignored = Counter(source.ignored) + rows.table.ignored - Counter({".json": int(says_where)})
    if ignored := Counter({ending: n for ending, n in ignored.items() if ending not in DOCUMENTS}):
        remarks.append(f"files left out: {counted(ignored)}")
    if skipped := Counter(row["why"] for row in rows.facts["skipped"]):
        remarks.append("left out: " + listed(f"{count(n, 'row')} ({why})" for why, n in skipped.most_common(SHOWN)))
    return remarks


def _beside(source: str, name: str) -> bool:
    """Whether a file of that name is in a folder of rows."""
    return (Path(os.path.expanduser(source)) / name).is_file()


def _named(dataset: Dataset, name: str) -> Dataset:
    """The rows with ids that no row of the source has: "generated/train/17"."""
    named = (pc.binary_join_element_wise(name, chunk, "/") for chunk in Strings(dataset, "id").to_arrow().chunks)
    ids = on_disk("id", pa.string(), named).column("id")
    rest = dataset.remove_columns("id")
    own = hashlib.sha256(f"{dataset._fingerprint} {name}".encode()).hexdigest()[:16]
    return rest.add_column("id", ids, feature=Value("string"), new_fingerprint=own).select_columns(dataset.column_names)


def provenance(source: str) -> dict[str, str | int | float | bool]:
    """What is said of where rows are from: by provenance.json in their folder, or by the front matter of README.md there.

    Of a Hub data set nothing, which its id names. Values that are lists or mappings are left out, long ones cut.
    """
    place = Path(os.path.expanduser(source))
    folder = place if place.is_dir() else place.parent
    file = next((file for file in (folder / PROVENANCE, folder / "README.md") if file.is_file()), None)
    if file is None or not place.exists():
        return {}
    try:
        text = file.read_text(encoding="utf-8")
        if file.name == PROVENANCE:
            said = json.loads(text)
        else:
            opening, _, rest = text.partition("---\n")
            said = yaml.safe_load(rest.partition("\n---")[0]) if not opening.strip() and "\n---" in rest else {}
    except (ValueError, yaml.YAMLError) as error:
        what = f"cannot be read: {' '.join(str(error).split())[:200]}"
        raise DataError.single(str(file), what, "mend it, or take it away", source=source) from None
    if not isinstance(said, dict):
        return {}
    plain = {str(key): value for key, value in said.items() if isinstance(value, str | int | float | bool)}
    return {key: value[:_MOST_LETTERS] if isinstance(value, str) else value for key, value in list(plain.items())[:_MOST_KEYS]}
