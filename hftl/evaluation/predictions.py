"""The predictions of a split: what is stored of them, and what is refused of a stranger's.

Shapes: N examples, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hftl.errors import DataError, Problem, RunError
from hftl.evaluation.targets import TARGETS, Floats, Integers, Target, Thresholds, target_named
from hftl.files import parse_json, written_whole
from hftl.names import ONE_LABEL, VIEWS
from hftl.records.metrics import SplitMetrics
from hftl.wording import quoted

SizeUnit = Literal["tokens", "pixels"]

ROUNDING = 1e-6  # up to which a stored probability is the softmax of the stored logits, computed by another library

MOST_ROWS = 10_000_000  # more examples than any split has; a file of a few kilobytes can claim billions

TEXT = pa.dictionary(pa.int32(), pa.string())

_LABEL_NAMES = b"hftl.label_names"

_SIZE_UNIT = b"hftl.size_unit"

_KIND = b"hftl.target"

_THRESHOLDS = b"hftl.thresholds"

_VIEWS = b"hftl.views"

_WHAT = "not a file of predictions"

_COLUMNS = {"probability": pa.list_(pa.float64()), "logits": pa.list_(pa.float32())}
"""Beside `id` and those of the target."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about each example of a split.

    Args:
        ids: N names of examples, each once.
        labels: what is true of each: (N,) int64 class indices in 0..K-1 where an example has one label.
        logits: (N, K) float32.
        sizes: (N,) int64 how large each example is: tokens of the whole text, before the cut; width x height of the picture's
            file, in pixels. None: not recorded.
        size_unit: what `sizes` counts; None exactly when they are.
        kind: of target, one of `hftl.evaluation.targets.TARGETS`.
        thresholds: see `hftl.evaluation.targets.Thresholds`.
        views: of which views of each picture the probabilities are the mean, one of `hftl.names.VIEWS`; the logits are those of
            the mean. None: of the example alone.

    Raises:
        DataError: no example, shapes that do not fit, a repeated id, a label out of range, logits that are not finite, a size
            below 0, or sizes without their unit.
    """

    ids: list[str]
    labels: Integers
    logits: NDArray[np.float32]
    sizes: Integers | None = None
    size_unit: SizeUnit | None = None
    kind: str = ONE_LABEL
    thresholds: Thresholds = None
    views: str | None = None

    def __post_init__(self) -> None:
        count = len(self.ids)
        if (
            count == 0
            or self.logits.ndim != 2
            or self.logits.shape[0] != count
            or self.logits.shape[1] < 2
            or self.labels.shape != self.target.shape(count, self.logits.shape[1])
        ):
            what = f"{count} ids, labels {self.labels.shape}, logits {self.logits.shape}"
            raise DataError.single("shapes", what, "needed are N >= 1 ids, labels (N,), logits (N, K >= 2)", source="predictions")
        classes = self.logits.shape[1]
        problems = []
        if len(set(self.ids)) != count:
            problems.append(Problem("ids", f"{count - len(set(self.ids))} of {count} are repeated; each example is predicted once"))
        problems += self.target.problems(self.ids, self.labels, classes)
        bad = np.flatnonzero(~np.isfinite(self.logits).all(axis=1))
        if bad.size:
            help = ("the model has diverged on them; lower the learning rate, or look at these examples",)
            problems.append(Problem("logits", f"not finite for {quoted((self.ids[i] for i in bad), 5)}", help))
        problems += self._size_problems()
        if problems:
            raise DataError("predictions", problems)

    def _size_problems(self) -> list[Problem]:
        if (self.sizes is None) != (self.size_unit is None):
            return [Problem("sizes", "sizes and size_unit go together; one is missing")]
        if self.sizes is None:
            return []
        if self.size_unit not in get_args(SizeUnit):
            return [Problem("size_unit", f'"{self.size_unit}" is none of {", ".join(get_args(SizeUnit))}')]
        if self.sizes.shape != (len(self.ids),):
            return [Problem("sizes", f"{self.sizes.shape} for {len(self.ids)} ids; needed is one for each")]
        bad = np.flatnonzero(self.sizes < 0)
        return [Problem("sizes", f"below 0 for {quoted((self.ids[i] for i in bad), 5)}")] if bad.size else []

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def target(self) -> Target:
        """What evaluation knows of this kind."""
        return target_named(self.kind)

    @cached_property
    def probabilities(self) -> Floats:
        """(N, K) of each class, in float64."""
        return self.target.probabilities(self.logits)

    @cached_property
    def predicted(self) -> Integers:
        """What the logits answer, as `labels` are written."""
        return self.target.predicted(self.logits, self.thresholds)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the whole answer is."""
        return self.target.right(self.predicted, self.labels)

    @property
    def confidence(self) -> Floats:
        """(N,) the probability of the answer."""
        return self.target.confidence(self.probabilities, self.predicted)

    def choose_thresholds(self) -> Self:
        """The same with the thresholds that these examples choose; for those of validation, and never of test."""
        return replace(self, thresholds=self.target.thresholds(self.logits, self.labels))

    def quick_metrics(self) -> dict[str, float]:
        """What may choose the weights, without intervals, for the end of each epoch; what is undefined is left out."""
        return self.target.quick_metrics(self)

    def metrics(self, label_names: Sequence[str], *, skipped: int = 0) -> SplitMetrics:
        """Every metric, as metrics.json has them: floats are finite, what is undefined is None.

        Args:
            label_names: the K classes.
            skipped: how many more examples the source's split had that were left out on request.

        Raises:
            DataError: there are not K label names.
        """
        return self.target.metrics(self, label_names, skipped=skipped)

    def save(self, path: Path, label_names: Sequence[str]) -> None:
        """Write a Parquet file from which every metric can be computed again.

        Columns: `id`, those of the target (of one label `label` and `prediction`, class names, and `label_index`), `probability`
        (K float64 in class order), `logits` (K float32), and `size` (int64) where sizes are known. The class names, in order, are
        also in the schema's metadata, and so is the unit of the sizes. The file appears whole or not at all.
        """
        check_label_names(self, label_names)
        classes = self.logits.shape[1]
        columns = {
            "id": pa.array(self.ids, pa.string()),
            **self.target.stored(self, label_names),
            "probability": _list_column(self.probabilities, pa.float64(), classes),
            "logits": _list_column(self.logits, pa.float32(), classes),
        }
        metadata = {_LABEL_NAMES: json.dumps(list(label_names), ensure_ascii=False).encode()}
        if self.kind != ONE_LABEL:
            metadata[_KIND] = self.kind.encode()
        if self.thresholds is not None:
            metadata[_THRESHOLDS] = json.dumps(self.thresholds).encode()
        if self.views is not None:
            metadata[_VIEWS] = self.views.encode()
        if self.sizes is not None and self.size_unit is not None:
            columns["size"] = pa.array(self.sizes, pa.int64())
            metadata[_SIZE_UNIT] = self.size_unit.encode()
        table = pa.table(columns).replace_schema_metadata(metadata)
        with written_whole(path) as beside:
            pq.write_table(table, beside)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        The columns that people read, such as `label`, `prediction` and `probability`, must follow from those that numbers are
        computed from, such as `label_index` and `logits`; another column is refused, as it could hold the data.

        Raises:
            RunError: no such file, or not a file of predictions as `save` writes them.
        """
        table = read_parquet(path, _WHAT)
        names, unit, kind = _check_schema(table.schema, path)
        logits = list_matrix(table["logits"], f"{path}: column logits")
        if logits.shape[1] != len(names):
            raise RunError(f"{path}: column logits holds {logits.shape[1]} numbers a row for {len(names)} classes")
        try:
            predictions = cls(
                table["id"].to_pylist(),
                target_named(kind).read(table),
                logits,
                sizes=None if unit is None else table["size"].to_numpy(),
                size_unit=unit,
                kind=kind,
                thresholds=_read_thresholds(table.schema, len(names), path),
                views=_read_views(table.schema, path),
            )
        except DataError as error:
            raise RunError(f"{path}: {_WHAT}: {error}") from None
        _check_columns_for_people(table, predictions, names, path)
        return predictions


def stored_label_names(path: Path) -> tuple[str, ...]:
    """Class names, in order, of a file that `Predictions.save` wrote.

    Raises:
        RunError: no such file, or not a file of predictions.
    """
    names, _, _ = _check_schema(read_parquet(path, _WHAT, rows=False).schema, path)
    return names


def _read_thresholds(schema: pa.Schema, classes: int, path: Path) -> Thresholds:
    stored = (schema.metadata or {}).get(_THRESHOLDS)
    if stored is None:
        return None
    found = parse_json(stored.decode(errors="replace"), source=f"{path}: {_WHAT}: thresholds")
    if (problem := threshold_problem(found, classes)) is not None:
        raise RunError(f"{path}: {_WHAT}: its thresholds {problem}")
    return tuple(map(float, found))


def _read_views(schema: pa.Schema, path: Path) -> str | None:
    stored = (schema.metadata or {}).get(_VIEWS)
    if stored is None:
        return None
    views = stored.decode(errors="replace")
    if views not in VIEWS:
        raise RunError(f'{path}: {_WHAT}: its views are "{views}", none of {", ".join(VIEWS)}')
    return str(views)


def threshold_problem(found: Any, classes: int) -> str | None:
    """What is wrong with the thresholds that a file holds; None: nothing."""
    numbers = isinstance(found, list) and all(type(value) in (int, float) and 0 <= value <= 1 for value in found)
    return None if numbers and len(found) == classes else f"are not {classes} numbers from 0 to 1"


def _list_column(values: NDArray[Any], type: pa.DataType, width: int) -> pa.Array:
    offsets = np.arange(0, values.size + 1, width, dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).ravel(), type))


def read_parquet(path: Path, what: str, *, rows: bool = True) -> pa.Table:
    """A sound Parquet file of one row or more, without nulls; without `rows` an empty table of its schema.

    String columns come dictionary-encoded (the type TEXT): a word that a small file repeats a million times is in memory once.
    `what` begins every error but a missing file's, such as "not a file of predictions".

    Raises:
        RunError: no such file, no plain one, not a Parquet file, a damaged one, or one without rows or with nulls.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise RunError(f"{path}: {what}: no plain file")
    try:
        texts = [field.name for field in pq.read_schema(path) if field.type == pa.string()]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            if not rows:
                return file.schema_arrow.empty_table()
            # Nothing else of `metadata` is looked at: pyarrow ends the process over some damaged column entries in it.
            if file.metadata.num_rows > MOST_ROWS:
                raise RunError(f"{path}: {what}: {file.metadata.num_rows:,} rows, more than {MOST_ROWS:,}")
            table = file.read()
            table.validate(full=True)
    except FileNotFoundError:
        reasons = "the run is not finished, or has no such split"
        raise RunError(f"{path}: no such file; {reasons}") from None
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:  # what pyarrow raises over damaged files
        raise RunError(f"{path}: {what}: {' '.join(str(error).split())}") from None
    if not len(table):
        raise RunError(f"{path}: {what}: no row")
    for name, column in zip(table.column_names, table.columns, strict=True):
        lists = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
        if column.null_count or (lists and pc.list_flatten(column).null_count):
            raise RunError(f"{path}: {what}: column {name} holds nulls")
    return table


def list_matrix(column: pa.ChunkedArray, what: str) -> NDArray[Any]:
    """(N, K) the numbers of a column of N >= 1 lists, which must be equally long; `what` begins the error.

    Raises:
        RunError: they are not.
    """
    lengths = pc.list_value_length(column).unique().to_pylist()
    if len(lengths) > 1:
        raise RunError(f"{what} holds lists of {min(lengths)} to {max(lengths)} numbers; needed are equally many in each row")
    return np.array(pc.list_flatten(column).to_numpy()).reshape(len(column), *lengths)


def _check_schema(schema: pa.Schema, path: Path) -> tuple[tuple[str, ...], SizeUnit | None, str]:
    """Class names, unit of the sizes and kind of target, once the columns are exactly those that `Predictions.save` writes."""
    metadata = schema.metadata or {}
    kind = metadata.get(_KIND, ONE_LABEL.encode()).decode(errors="replace")
    if kind not in TARGETS:
        raise RunError(f'{path}: {_WHAT}: its target is "{kind}", none of {", ".join(TARGETS)}')
    needed = {"id": TEXT, **target_named(kind).columns, **_COLUMNS, **({"size": pa.int64()} if _SIZE_UNIT in metadata else {})}
    missing = [name for name in needed if name not in schema.names]
    other = [
        f"{field.name} ({'string' if field.type == TEXT else field.type})"
        for place, field in enumerate(schema)
        if needed.get(field.name) != field.type or field.name in schema.names[:place]
    ]
    if missing or other:
        found = f"no column {', '.join(missing)}" if missing else f"unexpected column {', '.join(other)}"
        raise RunError(f"{path}: {_WHAT}: {found}")
    if _LABEL_NAMES not in metadata:
        raise RunError(f"{path}: {_WHAT}: no class names in its metadata")
    names = parse_json(metadata[_LABEL_NAMES].decode(errors="replace"), source=f"{path}: {_WHAT}: class names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not len(set(names)) == len(names) >= 2:
        raise RunError(f"{path}: {_WHAT}: its class names are not a list of two or more different names")
    unit: Any = metadata[_SIZE_UNIT].decode(errors="replace") if _SIZE_UNIT in metadata else None
    if unit not in {None, *get_args(SizeUnit)}:
        raise RunError(f'{path}: {_WHAT}: its sizes are in "{unit}", none of {", ".join(get_args(SizeUnit))}')
    return tuple(names), unit, kind


def _check_columns_for_people(table: pa.Table, predictions: Predictions, names: Sequence[str], path: Path) -> None:
    """Refuse a file in which somebody reads another label, prediction or probability than the numbers are computed from."""
    probabilities = list_matrix(table["probability"], f"{path}: column probability")
    if probabilities.shape != predictions.logits.shape:
        raise RunError(f"{path}: column probability holds {probabilities.shape[1]} numbers a row for {len(names)} classes")
    near = np.abs(probabilities - predictions.probabilities) <= ROUNDING
    differs = {
        **dict(predictions.target.contradictions(table, predictions, names)),
        "column probability does not follow from the logits": ~near.all(axis=1),  # so that a nan is not near
    }
    for what, rows in differs.items():
        if rows.any():
            raise RunError(f'{path}: {what} (row of id "{predictions.ids[int(rows.argmax())]}")')


def check_label_names(predictions: Predictions, label_names: Sequence[str]) -> None:
    """Refuse another number of class names than there are logits.

    Raises:
        DataError: they differ.
    """
    classes = predictions.logits.shape[1]
    if len(label_names) != classes:
        raise DataError.single("label_names", f"{len(label_names)} names for {classes} classes", source="predictions")
