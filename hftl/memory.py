"""Data that exist only in memory, kept as Parquet: a DataFrame, a data set of the library datasets, or two lists.

A recipe is data, so its `source` is a name. What somebody hands over instead is written into the cache folder, into a folder named
by its contents, and the recipe names that folder; training copies it beside the run, where resume, `hftl verify` and a repetition
find it whatever becomes of the cache. The same rows always have the same name, in every process.

Nothing here imports pandas, polars, datasets or Pillow: whoever has an object of theirs has them.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hftl.errors import RunError
from hftl.files import fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = "rows"
"""The folder for them in the cache, and in a run."""
_NAME = re.compile(r"\w[\w.-]*")
_AT_ONCE = 1_000  # rows of a data set that are in memory


def keep(source: Any, *, contents: Sequence[str], label: str, pictures: bool) -> str:
    """Write data in memory into the cache folder and give the folder's name, by which a recipe can have them as its source.

    Args:
        source: a DataFrame of pandas or polars, a `datasets.Dataset`, a `DatasetDict` or another mapping from the names of splits
            to these, or a pair (contents, labels) of sequences of one length.
        contents: the names of the columns of texts, or that of pictures; `label`: that of their labels. A pair's columns get these
            names; of several its contents are tuples or dicts of texts.
        pictures: the contents are pictures: paths, bytes, PIL pictures, or arrays of uint8.

    Raises:
        ValueError: it is none of these, or Arrow cannot hold it.
        OSError: the cache folder cannot be written.
    """
    from hftl.store import cache_folder

    splits = source if isinstance(source, Mapping) else {"train": source}
    if not splits:
        raise ValueError("no split in it")
    for name in splits:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a split: letters, digits, and _ . - after the first")
    folder = cache_folder() / ROWS
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = folder / f".{uuid4().hex}.partial"
    beside.mkdir(mode=0o700)
    try:
        digest = hashlib.sha256()
        for name, split in sorted(splits.items()):
            _write(beside / f"{name}.parquet", _tables(split, contents, label, pictures))
            digest.update(f"{name} {fingerprint(beside / f'{name}.parquet')['sha256']}\n".encode())
        place = folder / digest.hexdigest()[:32]
        _rename(beside, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return str(place)


def is_kept(source: str) -> bool:
    """Whether a source is what `keep` has written into the cache folder, and no run has yet."""
    from hftl.store import cache_folder

    return Path(source).parent == cache_folder() / ROWS


def copy_beside(source: str, run: Path, name: str = ROWS) -> str:
    """Copy what `keep` has written into a run's folder, and give the place; what lies there already has to be the same.

    Raises:
        RunError: other rows lie there, or those of the source were removed from the cache.
    """
    place, stored = run / name, Path(source)
    if not stored.is_dir():
        raise RunError(f"{stored}: the rows that were kept here are gone; build the recipe again from the data")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = run / f".{name}.{uuid4().hex}.partial"
        try:
            shutil.copytree(stored, beside)
            _rename(beside, place)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    if not _same(place, stored):
        raise RunError(f"{place}: holds other rows than those that were given now. Choose another place for the run")
    return str(place)


def _same(folder: Path, other: Path) -> bool:
    """Whether two folders hold the same rows: the same files or, where pyarrow is another one by now, equal tables."""
    import pyarrow.parquet as pq

    names, others = ({path.name for path in place.glob("*.parquet")} for place in (folder, other))
    return names == others and all(
        fingerprint(folder / name) == fingerprint(other / name) or pq.read_table(folder / name) == pq.read_table(other / name)
        for name in names
    )


def _rename(beside: Path, place: Path) -> None:
    """Give a whole folder its name; another process may have been faster, and then its own is as good."""
    try:
        beside.rename(place)
    except OSError:
        if not place.is_dir():
            raise


# --- to Arrow -----------------------------------------------------------------------------------------------------------------


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        first = next(tables, None)
        if first is None:
            raise ValueError("no rows")
        with pq.ParquetWriter(path, first.schema) as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"cannot be kept as Parquet: {' '.join(str(error).split())}") from None


def _tables(source: Any, contents: Sequence[str], label: str, pictures: bool) -> Iterator[pa.Table]:
    """The rows in Arrow: a data set, which may be larger than the memory, in portions; anything else whole."""
    if _is(source, "datasets", "Dataset"):
        yield from _of_dataset(source)
    else:
        yield _without_categories(_as_arrow(source, contents, label, pictures))


def _without_categories(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    for place, field in enumerate(table.schema):  # a category is its value
        if pa.types.is_dictionary(field.type):
            values = table.column(place).cast(field.type.value_type)
            table = table.set_column(place, pa.field(field.name, field.type.value_type), values)
    return table


def _as_arrow(source: Any, names: Sequence[str], label: str, pictures: bool) -> pa.Table:
    import pyarrow as pa

    content = names[0]

    if _is(source, "pandas", "DataFrame"):
        if any(not isinstance(name, str) for name in source.columns):
            raise ValueError(f"a column's name is no text: {', '.join(map(repr, source.columns))}")
        columns = {name: source[name] for name in source.columns}
        if pictures and content in columns:
            encoded = [_picture(row, value) for row, value in enumerate(columns.pop(content))]
            rest = pa.Table.from_pandas(source.drop(columns=[content]), preserve_index=False).replace_schema_metadata(None)
            return rest.append_column(content, pa.array(encoded, _stored_type()))
        return pa.Table.from_pandas(source, preserve_index=False).replace_schema_metadata(None)
    if _is(source, "polars", "DataFrame"):
        table = source.to_arrow()
        if pictures and content in table.column_names:
            encoded = [_picture(row, value) for row, value in enumerate(source[content])]
            table = table.set_column(table.column_names.index(content), content, pa.array(encoded, _stored_type()))
        return table
    if isinstance(source, list | tuple) and len(source) == 2 and all(map(_is_column, source)):
        contents, labels = (list(values) for values in source)
        if len(contents) != len(labels):
            raise ValueError(f"{len(contents):,} contents and {len(labels):,} labels: one label is needed for each")
        if len(names) > 1:
            rows = [values_of(value, names) for value in contents]
            columns = {name: pa.array([row[place] for row in rows]) for place, name in enumerate(names)}
            return pa.table({**columns, label: pa.array(labels)})
        if pictures:
            stored = pa.array([_picture(row, value) for row, value in enumerate(contents)], _stored_type())
        else:
            stored = pa.array(contents)
        return pa.table({content: stored, label: pa.array(labels)})
    raise ValueError(
        f"{_called(source)} is no source: give a name, a DataFrame of pandas or polars, a datasets.Dataset or DatasetDict,"
        " or a pair (contents, labels)"
    )


def _is(value: Any, library: str, name: str) -> bool:
    """Whether a value is of a library's class; without the library loaded there is none."""
    loaded = sys.modules.get(library)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def _is_column(value: Any) -> bool:
    """A sequence of values, also an array of NumPy or a series; a text is one value."""
    return not isinstance(value, str | bytes | Mapping) and hasattr(value, "__len__") and hasattr(value, "__iter__")


def _called(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def _of_dataset(source: Any) -> Iterator[pa.Table]:
    """A data set with its features (class names), its pictures as they are stored, also those that are files."""
    from datasets import Image
    from datasets.table import embed_table_storage

    source = source.with_format(None)
    for name, feature in source.features.items():
        if isinstance(feature, Image):
            source = source.cast_column(name, Image(decode=False))
    schema, rows = source.features.arrow_schema, source.with_format("arrow")
    for start in range(0, len(source), _AT_ONCE):
        yield embed_table_storage(rows[start : start + _AT_ONCE].cast(schema))


# --- pictures -----------------------------------------------------------------------------------------------------------------


def _stored_type() -> pa.DataType:
    import pyarrow as pa

    return pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _picture(row: int, value: Any) -> dict[str, Any]:
    try:
        return stored_picture(value)
    except (ValueError, OSError) as error:
        raise ValueError(f"row {row}: {error}") from None


def stored_picture(value: Any) -> dict[str, Any]:
    """{"bytes", "path"} of a picture in memory, or of a file, whose bytes are read; what is not stored yet becomes a PNG.

    Args:
        value: a path, the bytes of a file, a dict {"bytes", "path"}, a PIL picture, or an array of uint8: (H, W), (H, W, 3) or
            (H, W, 4).

    Raises:
        ValueError: it is none of these.
        OSError: the file cannot be read.
    """
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, str | os.PathLike):
        return {"bytes": Path(value).read_bytes(), "path": Path(value).name}
    if isinstance(value, dict) and (value.get("bytes") is not None or value.get("path")):
        if value.get("bytes") is None:
            return stored_picture(value["path"])
        return {"bytes": value["bytes"], "path": value.get("path")}
    if _is(value, "numpy", "ndarray"):
        if value.dtype != "uint8" or value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[2] not in (3, 4)):
            raise ValueError(
                f"an array of {value.dtype}, {value.shape}, is no picture: uint8 is needed, (H, W), (H, W, 3) or (H, W, 4)"
            )
        from PIL import Image

        value = Image.fromarray(value)
    elif not _is(value, "PIL.Image", "Image"):
        raise ValueError(f"{_called(value)} is no picture: expected a path, bytes, a PIL picture, or an array of uint8")
    stream = io.BytesIO()
    value.save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}


def as_list(values: Any) -> list[Any]:
    """Several inputs as a list; one text, row (a dict), path, picture, or array of a picture as a list of one."""
    is_picture = _is(values, "numpy", "ndarray") and (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4)))
    if isinstance(values, str | bytes | Mapping | os.PathLike) or _is(values, "PIL.Image", "Image") or is_picture:
        return [values]
    return list(values)


def values_of(value: Any, columns: Sequence[str]) -> list[Any]:
    """What a row has in some columns: a dict by their names, or a tuple in their order.

    Raises:
        ValueError: it is neither, or has other columns.
    """
    expected = f"a dict of {', '.join(columns)}, or a tuple of {len(columns)} in that order"
    if isinstance(value, Mapping):
        if absent := [name for name in columns if name not in value]:
            raise ValueError(f'no "{absent[0]}" in a row that has {", ".join(map(str, value)) or "nothing"}; expected {expected}')
        return [value[name] for name in columns]
    if not isinstance(value, list | tuple) or len(value) != len(columns):
        raise ValueError(
            f"expected {expected}; found {_called(value)}" + (f" of {len(value)}" if isinstance(value, list | tuple) else "")
        )
    return list(value)
