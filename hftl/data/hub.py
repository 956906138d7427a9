"""Data sets of the Hub, whole or the first rows of their streams."""

from __future__ import annotations

import functools
import itertools
import json
import os
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetBuilder, Features, Image, IterableDataset
from datasets.arrow_writer import ArrowWriter
from datasets.exceptions import DatasetsError

from hftl.data.columns import Strings
from hftl.data.content import content_of
from hftl.data.layout import (
    FLAG_COLUMNS,
    PICTURES,
    SPLIT_COLUMNS,
    TABLES,
)
from hftl.data.rows import (
    TEST_SEED,
    Parsed,
    Source,
    Stream,
    Table,
    by_column,
    compare_marks,
    named_columns,
    of_dataset,
    reader,
    refuse_marked_stream,
    split_column,
    to_table,
)
from hftl.errors import DataError, Problem
from hftl.recipe import ImageData, TextData
from hftl.store import exclusive_lock, key_of

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)

# Names that datasets takes for its own readers of files, and then reads whatever lies in the folder one is in.
BUILDERS = frozenset(module.name for module in pkgutil.iter_modules(datasets.packaged_modules.__path__))


def looks_like_a_path(source: str) -> bool:
    """Whether a source that is not there was meant as a file or folder, rather than as a data set of the Hub."""
    return (
        source.startswith((".", "/", "~"))
        or source.endswith("/")
        or "\\" in source
        or source.count("/") > 1
        or Path(source).suffix.lower() in (*TABLES, *PICTURES)
    )


_NO_HUB = (OSError, ValueError, RuntimeError, DatasetsError, pa.ArrowException)
"""OSError: no connection, and every HTTP answer that is an error; ValueError: an unknown or missing configuration."""


def _not_from_hub(data: TextData | ImageData, error: Exception) -> DataError:
    help = [f"no file or folder of that name either: {Path(data.source).absolute()}"]
    if datasets.config.HF_HUB_OFFLINE:
        help.append("the Hub is switched off (HF_HUB_OFFLINE=1), and the data set is not in the cache")
    what = f"cannot be had from the Hub: {' '.join(str(error).split())}"
    return DataError(data.source, [Problem("data.source", what, tuple(help))])


def _is_commit(revision: object) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", str(revision)) is not None


def _is_from_cache(builder: DatasetBuilder) -> bool:
    """Whether the Hub was not asked: datasets falls back to what it downloaded last."""
    return type(builder).__module__.startswith("datasets.packaged_modules.cache")


def open_hub(data: TextData | ImageData) -> Source:
    """A data set of the Hub: its splits, of which none is read before it is asked for.

    Raises:
        DataError: there is no such data set, or it cannot be read.
    """
    if data.stream_samples is not None:
        return _open_stream(data, Stream(data.stream_samples, content_of(data).stream_buffer))
    try:
        builder = datasets.load_dataset_builder(data.source, data.config, revision=data.revision)
        builder.download_and_prepare()
        dataset = builder.as_dataset()
    except _NO_HUB as error:
        raise _not_from_hub(data, error) from error
    commit = str(builder.hash) if _is_commit(builder.hash) else None
    if _is_from_cache(builder) and data.revision is not None and data.revision != commit:
        # datasets falls back to whatever it downloaded last, and only logs that.
        what = f'the Hub cannot be reached, and the cache holds commit {commit or "unknown"}, not "{data.revision}"'
        raise DataError(data.source, [Problem("data.revision", what, ("go online, or ask for the commit that is there",))])
    names = {str(name): split for name, split in dataset.items()}

    def parse(name: str) -> Parsed:
        split = names[name]
        column = split_column(split.column_names, data)
        return of_dataset(split.column_names, split, data, None if column is None else split.data.column(column))

    readers = {name: reader(name, functools.partial(parse, name), None, data) for name in names}
    source = Source("hub", readers, revision=commit, splits_from="the Hub")
    return by_column(source, list(names), lambda name: names[name].column_names, parse, None, data)


def _open_stream(data: TextData | ImageData, stream: Stream) -> Source:
    """A Hub data set of which only the rows that are taken come to this machine, and those once.

    A commit whose rows lie here already needs no Hub, so a run is resumed without one.
    """
    streams: dict[str, IterableDataset] | None = None
    if data.revision is not None and _is_commit(data.revision) and _splits_file(data, data.revision, stream).is_file():
        commit = data.revision
        names = json.loads(_splits_file(data, commit, stream).read_text(encoding="utf-8"))
    else:
        commit, streams = _streams(data)
        names = list(streams)
        file = _splits_file(data, commit, stream)
        file.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(file.with_suffix(".lock")):
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(names), encoding="utf-8")
            partial.replace(file)
    folder = _splits_file(data, commit, stream).parent

    def reader(name: str) -> Callable[[], Table]:
        # Without `streams` the recipe names the commit itself.
        return lambda: _read_stream(
            name,
            folder,
            lambda: (streams or _streams(data)[1])[name],
            data,
            stream,
            only=len(names) == 1,
        )

    return Source("hub", {name: reader(name) for name in names}, revision=commit, stream=stream, splits_from="the Hub")


def _streams(data: TextData | ImageData) -> tuple[str, dict[str, IterableDataset]]:
    """The commit that `data.revision` is now, and the stream of each of its splits: ``load_dataset(..., streaming=True)``."""
    try:
        builder = datasets.load_dataset_builder(data.source, data.config, revision=data.revision)
        # What datasets has in its own cache has other shards than the Hub, and a stream of it other rows.
        if _is_from_cache(builder) or not _is_commit(builder.hash):
            raise ConnectionError("its rows can only be streamed when the Hub says which commit they are of")
        # The addresses of the builder's files are those of this commit, so a push in between changes nothing.
        return str(builder.hash), {str(name): split for name, split in builder.as_streaming_dataset().items()}
    except _NO_HUB as error:
        raise _not_from_hub(data, error) from error


def _splits_file(data: TextData | ImageData, commit: str, stream: Stream) -> Path:
    """The names of all splits, beside the rows of those that were streamed: SPLIT.arrow, which is there when it is whole."""
    columns = [*named_columns(data), *SPLIT_COLUMNS, *FLAG_COLUMNS]
    parts = {"source": data.source, "config": data.config, "commit": commit, "kind": data.kind, "columns": columns}
    key = key_of({**parts, "rows": stream.rows, "buffer": stream.buffer, "seed": TEST_SEED})
    return Path(datasets.config.HF_DATASETS_CACHE) / f"hftl-{key[:32]}" / "splits.json"


def _read_stream(
    name: str,
    folder: Path,
    open_stream: Callable[[], IterableDataset],
    data: TextData | ImageData,
    stream: Stream,
    *,
    only: bool,
) -> Table:
    """The rows of a split that were taken, now or before; `only`: the source has no other."""
    file = folder / f"{name}.arrow"
    with exclusive_lock(file.with_suffix(".lock")):
        if not file.is_file():
            try:
                strange = _write_stream(file, name, open_stream(), data, stream)
            except _NO_HUB as error:
                raise _not_from_hub(data, error) from error
            if strange is not None:
                return strange
    split = Dataset.from_file(str(file))
    column = split_column(split.column_names, data)
    parsed = of_dataset(split.column_names, split, data, None if column is None else split.data.column(column))
    table = to_table(name, parsed, None, data)
    if parsed.marks is not None:
        if only:
            refuse_marked_stream(table, parsed.marks, data)
        else:
            compare_marks(table, parsed.marks, data, refuse=False)
    return table


def _write_stream(file: Path, name: str, rows: IterableDataset, data: TextData | ImageData, stream: Stream) -> Table | None:
    """Write the first rows of a shuffled stream, the wanted columns and one that speaks of splits; a table without rows where
    the wanted ones are not there.

    The rows of a batch and of the buffer are in memory, and no more. What an interrupted call has left is written over.
    """
    content = content_of(data)
    if rows.features:
        rows = rows.decode(False)  # or datasets opens pictures, in threads
    sample = rows.shuffle(seed=TEST_SEED, buffer_size=stream.buffer).take(stream.rows).with_format("arrow")
    batches = sample.iter(batch_size=content.rows_at_once)
    first = next(batches, None)
    if first is None:
        return Table(name, [], [], None, None, None, [])
    wanted = named_columns(data)
    if not set(wanted) <= set(first.column_names):
        return Table(name, first.column_names, Strings.of_rows(name, len(first)), None, None, None, [])
    features = rows.features or Features.from_arrow_schema(first.schema)  # those of a CSV file are known once it is read
    if (marks := split_column(first.column_names, data)) is not None:
        wanted.append(marks)
    features = Features({column: features[column] for column in wanted})
    if isinstance(features[wanted[0]], Image):
        features[wanted[0]] = Image(decode=False)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as output, ArrowWriter(features=features, stream=output) as writer:
        for batch in itertools.chain([first], batches):
            writer.write_table(content.fetch(batch.select(wanted).cast(features.arrow_schema)))
        writer.finalize(close_stream=False)
        output.flush()
        os.fsync(output.fileno())
    partial.replace(file)
    return None
