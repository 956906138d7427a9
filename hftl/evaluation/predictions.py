"""The predictions of a split: what is stored of them, and what is refused of a stranger's.

Shapes: N examples, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from hftl.errors import DataError, Problem, RunError
from hftl.files import parse_json, written_whole
from hftl.wording import quoted

Floats = NDArray[np.float64]

Integers = NDArray[np.int64]

SizeUnit = Literal["tokens", "pixels"]

ROUNDING = 1e-6  # up to which a stored probability is the softmax of the stored logits, computed by another library

MOST_ROWS = 10_000_000  # more examples than any split has; a file of a few kilobytes can claim billions

TEXT = pa.dictionary(pa.int32(), pa.string())

_LABEL_NAMES = b"hftl.label_names"

_SIZE_UNIT = b"hftl.size_unit"

_WHAT = "not a file of predictions"

_COLUMNS = {
    "id": TEXT,
    "label": TEXT,
    "prediction": TEXT,
    "label_index": pa.int64(),
    "probability": pa.list_(pa.float64()),
    "logits": pa.list_(pa.float32()),
}


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about each example of a split.

    Args:
        ids: N names of examples, each once.
        labels: (N,) int64 true class indices, each in 0..K-1.
        logits: (N, K) float32.
        sizes: (N,) int64 how large each example is: tokens of the whole text, before the cut; width x height of the picture's
            file, in pixels. None: not recorded.
        size_unit: what `sizes` counts; None exactly when they are.

    Raises:
        DataError: no example, shapes that do not fit, a repeated id, a label out of range, logits that are not finite, a size
            below 0, or sizes without their unit.
    """

    ids: list[str]
    labels: Integers
    logits: NDArray[np.float32]
    sizes: Integers | None = None
    size_unit: SizeUnit | None = None

    def __post_init__(self) -> None:
        count = len(self.ids)
        if (
            count == 0
            or self.labels.shape != (count,)
            or self.logits.ndim != 2
            or self.logits.shape[0] != count
            or self.logits.shape[1] < 2
        ):
            what = f"{count} ids, labels {self.labels.shape}, logits {self.logits.shape}"
            raise DataError.single("shapes", what, "needed are N >= 1 ids, labels (N,), logits (N, K >= 2)", source="predictions")
        classes = self.logits.shape[1]
        problems = []
        if len(set(self.ids)) != count:
            problems.append(Problem("ids", f"{count - len(set(self.ids))} of {count} are repeated; each example is predicted once"))
        bad = np.flatnonzero((self.labels < 0) | (self.labels >= classes))
        if bad.size:
            problems.append(Problem("labels", f"outside 0..{classes - 1} for {quoted((self.ids[i] for i in bad), 5)}"))
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

    @cached_property
    def probabilities(self) -> Floats:
        """(N, K) softmax of the logits, in float64."""
        return np.asarray(softmax(self.logits.astype(np.float64), axis=1))

    @cached_property
    def predicted(self) -> Integers:
        """(N,) index of the largest logit; of equal ones the first."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    def save(self, path: Path, label_names: Sequence[str]) -> None:
        """Write a Parquet file from which every metric can be computed again.

        Columns: `id`, `label` and `prediction` (class names), `label_index`, `probability` (K float64 in class order), `logits`
        (K float32), and `size` (int64) where sizes are known. The class names, in order, are also in the schema's metadata, and so
        is the unit of the sizes. The file appears whole or not at all.
        """
        check_label_names(self, label_names)
        classes = self.logits.shape[1]
        columns = {
            "id": pa.array(self.ids, pa.string()),
            "label": pa.array([label_names[i] for i in self.labels], pa.string()),
            "prediction": pa.array([label_names[i] for i in self.predicted], pa.string()),
            "label_index": pa.array(self.labels, pa.int64()),
            "probability": _list_column(self.probabilities, pa.float64(), classes),
            "logits": _list_column(self.logits, pa.float32(), classes),
        }
        metadata = {_LABEL_NAMES: json.dumps(list(label_names), ensure_ascii=False).encode()}
        if self.sizes is not None and self.size_unit is not None:
            columns["size"] = pa.array(self.sizes, pa.int64())
            metadata[_SIZE_UNIT] = self.size_unit.encode()
        table = pa.table(columns).replace_schema_metadata(metadata)
        with written_whole(path) as beside:
            pq.write_table(table, beside)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; a file of an older version has no sizes.

        The columns that people read, `label`, `prediction` and `probability`, must follow from those that numbers are computed
        from, `label_index` and `logits`; another column is refused, as it could hold the data.

        Raises:
            RunError: no such file, or not a file of predictions as `save` writes them.
        """
        table = read_parquet(path, _WHAT)
        names, unit = _check_schema(table.schema, path)
        logits = list_matrix(table["logits"], f"{path}: column logits")
        if logits.shape[1] != len(names):
            raise RunError(f"{path}: column logits holds {logits.shape[1]} numbers a row for {len(names)} classes")
        try:
            predictions = cls(
                table["id"].to_pylist(),
                table["label_index"].to_numpy(),
                logits,
                sizes=None if unit is None else table["size"].to_numpy(),
                size_unit=unit,
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
    names, _ = _check_schema(read_parquet(path, _WHAT, rows=False).schema, path)
    return names


def losses(logits: NDArray[Any], labels: Integers) -> Floats:
    """(N,) -log p(true class)."""
    return np.asarray(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels])


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
        reasons = "the run is not finished, was made by an older hftl, or has no such split"
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


def _check_schema(schema: pa.Schema, path: Path) -> tuple[tuple[str, ...], SizeUnit | None]:
    """Class names and unit of the sizes, once the columns are exactly those that `Predictions.save` writes."""
    metadata = schema.metadata or {}
    needed = {**_COLUMNS, **({"size": pa.int64()} if _SIZE_UNIT in metadata else {})}
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
    return tuple(names), unit


def _check_columns_for_people(table: pa.Table, predictions: Predictions, names: Sequence[str], path: Path) -> None:
    """Refuse a file in which somebody reads another label, prediction or probability than the numbers are computed from."""
    indices = {
        name: pc.index_in(table[name], value_set=pa.array(names, pa.string())).fill_null(-1).to_numpy()
        for name in ("label", "prediction")
    }
    probabilities = list_matrix(table["probability"], f"{path}: column probability")
    if probabilities.shape != predictions.logits.shape:
        raise RunError(f"{path}: column probability holds {probabilities.shape[1]} numbers a row for {len(names)} classes")
    near = np.abs(probabilities - predictions.probabilities) <= ROUNDING
    differs = {
        "column label does not follow from label_index": indices["label"] != predictions.labels,
        "column prediction does not follow from the logits": indices["prediction"] != predictions.predicted,
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
