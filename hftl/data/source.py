"""From a source to splits: a Hub id, a folder of pictures, or tables, and one label map for all of it.

Whatever the source, the result is the same: Arrow data sets with the columns `id`, `text` or `image`, and `label`, whose classes
are in their own order. Nothing is dropped, replaced or guessed silently: what cannot be used is refused, everything in one report.
The result depends on the source, the recipe's data section and the seed alone, so every process of a run sees the same splits.

K classes. Rows are counted from 0, without a header: "train/17" is row 17 of the split "train".
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image, Value
from datasets.exceptions import DatasetsError

from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import ImageData, TextData
from hftl.run import split_facts

log = logging.getLogger(__name__)

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
VALIDATION_NAMES = ("validation", "val", "valid", "dev")
NO_SPLIT = "none"
"""As `data.test_split`: leave the source's own test split alone (on the Hub some have no labels)."""

_TEST_SEED = 20_200
"""The test split that is made from train, and a sample of it, are the same for every `run.seed`: it is sealed once."""
_SHOWN = 10  # rows named in one problem; the rest is counted

Role = Literal["train", "validation", "test"]
ROLES: tuple[Role, ...] = ("train", "validation", "test")


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


def load_splits(data: TextData | ImageData, *, seed: int) -> Splits:
    """Read the source, check it, and divide it.

    Validation is the source's own or a stratified part of train, never of test; test is the source's own, or a stratified part
    of train where `test_fraction` asks for it. Both are exact shares by largest remainder, and leave each class one row in train.

    Raises:
        DataError: everything that is wrong with the source, in one report.
    """
    source = _open(data)
    roles = _choose_splits(source, data)
    tables = _read_all(source, roles, data)
    problems: list[Problem] = []
    for table in tables.values():
        problems += _column_problems(table, data)
    names, labels, label_problems = _labels(tables, data)
    problems += label_problems
    bad: dict[Role, dict[int, str]] = {role: {} for role in tables}
    notes: list[dict[str, str]] = []
    if isinstance(data, ImageData):
        for role, table in tables.items():
            if table.content is not None:
                bad[role], odd = _scan(table.content)
                notes += [{"id": table.ids[row], "note": note} for row, note in odd.items()]
        if data.on_bad_image == "error":
            problems += _bad_image_problems(tables, bad)
    # Classes are counted over what is left.
    kept = {
        role: np.array([row for row in range(len(table.ids)) if row not in bad[role]], dtype=np.int64)
        for role, table in tables.items()
    }
    problems += _class_problems(tables, kept, labels, names)
    if problems:
        raise DataError(data.source, problems)

    rows = _divide(data, {role: (kept[role], labels[role]) for role in tables}, seed=seed)
    origin: dict[Role, Role] = {role: role if role in tables else "train" for role in rows}
    result = {role: _assemble(tables[origin[role]], labels[origin[role]], names, data.kind, rows[role]) for role in rows}
    facts = {
        "source": data.source,
        "revision": source.revision,
        "config": data.config,
        "kind": data.kind,
        "format": source.format,
        "label_names": list(names),
        "splits": {role: split_facts(split["id"][:], split["label"][:], names) for role, split in result.items()},
        **_how_divided(data, tables, seed),
        "skipped": [{"id": tables[role].ids[row], "why": why} for role in tables for row, why in bad[role].items()],
        "notes": notes,
        "ignored_files": source.ignored + sum(table.ignored for table in tables.values()),
    }
    if notes:
        log.warning("unusual pictures: %d, such as %s: %s", len(notes), notes[0]["id"], notes[0]["note"])
    return Splits(result["train"], result["validation"], result.get("test"), names, facts)


# --- what a source is ---------------------------------------------------------------------------------------------------------


@dataclass
class _Table:
    """One split as it was found, with what is wrong in it. `content` is the column `text` or `image`; None: it cannot be used."""

    name: str
    columns: list[str]
    ids: list[str]
    content: Dataset | None
    labels: list[Any] | None
    class_names: list[str] | None
    """Where the source has a label map of its own."""
    problems: list[Problem]
    ignored: int = 0


@dataclass(frozen=True)
class _Source:
    format: str
    splits: Mapping[str, Callable[[], _Table]]
    revision: str | None = None
    ignored: int = 0


def _open(data: TextData | ImageData) -> _Source:
    path = Path(data.source).expanduser()
    if not path.exists():
        if _looks_like_a_path(data.source):
            raise DataError(data.source, [Problem("data.source", f"no such file or folder: {path.absolute()}")])
        return _open_hub(data)
    for key, value in (("data.revision", data.revision), ("data.config", data.config)):
        if value is not None:
            raise DataError(
                data.source, [Problem(key, f'only data sets on the Hub have one, and "{data.source}" is on this machine')]
            )
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            what = f'"{path.suffix}" is not a kind of file that can be read'
            raise DataError(data.source, [Problem("data.source", what, (f"allowed: {', '.join(TABLES)}",))])
        return _Source(path.suffix[1:].lower(), {"train": _table_reader("train", [path], path.parent, data)})
    files = [entry for entry in _visible(path) if entry.is_file()]
    tables = [file for file in files if file.suffix.lower() in TABLES]
    if isinstance(data, TextData) or any(_split_of(file) == data.train_split for file in tables):
        return _open_tables(data, path, tables, ignored=len(files) - len(tables))
    return _open_pictures(data, path)


def _looks_like_a_path(source: str) -> bool:
    return (
        source.startswith((".", "/", "~"))
        or source.endswith("/")
        or "\\" in source
        or source.count("/") > 1
        or Path(source).suffix.lower() in (*TABLES, *PICTURES)
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _choose_splits(source: _Source, data: TextData | ImageData) -> dict[Role, str]:
    """Which of the source's splits is train, validation and test; absent where it has to be made, or is not wanted."""
    found = list(source.splits)
    problems: list[Problem] = []
    roles: dict[Role, str] = {"train": data.train_split}
    aliases = [name for name in VALIDATION_NAMES if name in found and name not in (data.train_split, data.test_split)]
    if data.validation_split is not None:
        roles["validation"] = data.validation_split
    elif len(aliases) > 1:
        problems.append(
            Problem("data.validation_split", f"which of {', '.join(aliases)}? Several splits look like the validation split.")
        )
    elif aliases:
        roles["validation"] = aliases[0]
    if data.test_split not in (None, NO_SPLIT):
        roles["test"] = str(data.test_split)
    elif data.test_split is None and "test" in found and "test" not in roles.values():
        roles["test"] = "test"
    for role, name in roles.items():
        if name not in found:
            help = (f"splits there are: {', '.join(found)}",)
            problems.append(Problem(f"data.{role}_split", f'no split "{name}".{did_you_mean(name, found)}', help))
    if len(set(roles.values())) < len(roles):
        listed = ", ".join(f"{role} = {name}" for role, name in roles.items())
        problems.append(Problem("data", f"one split in two roles ({listed}): a result on rows that were trained on says nothing"))
    if "validation" not in roles and not problems:
        if data.validation_fraction == 0:
            what = "the source has no validation split, and a share of 0 of train makes none"
            problems.append(Problem("data.validation_fraction", what, ("the test split is never used for it",)))
        elif "test" not in roles and data.validation_fraction + data.test_fraction >= 1:
            problems.append(Problem("data.validation_fraction", "with data.test_fraction nothing of train is left to train on"))
    if problems:
        raise DataError(data.source, problems)
    return roles


def _read_all(source: _Source, roles: Mapping[Role, str], data: TextData | ImageData) -> dict[Role, _Table]:
    tables: dict[Role, _Table] = {}
    problems: list[Problem] = []
    for role, name in roles.items():
        try:
            tables[role] = source.splits[name]()
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(data.source, problems)
    return tables


# --- the Hub ------------------------------------------------------------------------------------------------------------------


def _open_hub(data: TextData | ImageData) -> _Source:
    try:
        builder = datasets.load_dataset_builder(data.source, data.config, revision=data.revision)
        builder.download_and_prepare()
        found = builder.as_dataset()
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        # OSError: no connection, and every HTTP answer that is an error; ValueError: an unknown or missing configuration.
        help = [f"no file or folder of that name either: {Path(data.source).absolute()}"]
        if datasets.config.HF_HUB_OFFLINE:
            help.append("the Hub is switched off (HF_HUB_OFFLINE=1), and the data set is not in the cache")
        raise DataError(
            data.source, [Problem("data.source", f"cannot be had from the Hub: {' '.join(str(error).split())}", tuple(help))]
        ) from error
    commit = str(builder.hash) if re.fullmatch(r"[0-9a-f]{40}", str(builder.hash)) else None
    from_cache = type(builder).__module__.startswith("datasets.packaged_modules.cache")
    if from_cache and data.revision is not None and data.revision != commit:
        # datasets falls back to whatever it downloaded last, and only logs that.
        what = f'the Hub cannot be reached, and the cache holds commit {commit or "unknown"}, not "{data.revision}"'
        raise DataError(data.source, [Problem("data.revision", what, ("go online, or ask for the commit that is there",))])
    readers = {str(name): _dataset_reader(str(name), split, None, data) for name, split in found.items()}
    return _Source("hub", readers, revision=commit)


def _dataset_reader(name: str, split: Dataset, folder: Path | None, data: TextData | ImageData) -> Callable[[], _Table]:
    return lambda: _from_dataset(name, split.column_names, split, folder, data)


def _from_dataset(name: str, columns: list[str], split: Dataset, folder: Path | None, data: TextData | ImageData) -> _Table:
    """A table from an Arrow data set with those of the wanted columns that there are; `columns` are all of the source's.

    Paths of pictures are resolved below `folder`; None: there is none, as on the Hub.
    """
    table = _Table(name, columns, [f"{name}/{row}" for row in range(len(split))], None, None, None, [])
    if data.label_column in split.column_names:
        feature = split.features[data.label_column]
        table.labels = split[data.label_column][:]
        table.class_names = list(feature.names) if isinstance(feature, ClassLabel) else None
    column = _content_column(data)
    if column in split.column_names:
        content = split.select_columns(column)
        content = content if column == data.kind else content.rename_column(column, data.kind)
        if data.kind == "text":
            _set_texts(table, content)
        else:
            _set_pictures(table, content, folder)
    return table


def _content_column(data: TextData | ImageData) -> str:
    return data.text_column if isinstance(data, TextData) else data.image_column


def _set_texts(table: _Table, content: Dataset | list[Any]) -> None:
    if isinstance(content, Dataset):
        feature = content.features["text"]
        if (
            isinstance(feature, Value)
            and feature.dtype in ("string", "large_string")
            and not content.data.column("text").null_count
        ):
            table.content = content.cast_column("text", Value("string")) if feature.dtype != "string" else content
            return
        content = content["text"][:]
    table.problems += _row_problems(
        table, "no text", [row for row, text in enumerate(content) if text is None], "an empty text is allowed, a null is not"
    )
    table.problems += _row_problems(
        table, "no text but another type", [row for row, text in enumerate(content) if not isinstance(text, str | None)]
    )
    if not table.problems:
        table.content = Dataset.from_dict({"text": content}, features=Features({"text": Value("string")}))


def _set_pictures(table: _Table, content: Dataset | list[Any], folder: Path | None) -> None:
    """Pictures as they are stored, undecoded: bytes, or absolute paths."""
    if isinstance(content, Dataset):
        feature = content.features["image"]
        if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
            content = content["image"][:]
        elif not (
            isinstance(feature, Image | dict) or (isinstance(feature, Value) and feature.dtype in ("binary", "large_binary"))
        ):
            table.problems.append(
                Problem(f'split "{table.name}"', f"the picture column holds {feature}; expected an Image, bytes, or paths")
            )
            return
        else:
            stored = content.cast_column("image", Image(decode=False))
            chunks = stored.data.column("image").chunks
            has_bytes = [valid for chunk in chunks for valid in chunk.field("bytes").is_valid().to_pylist()]
            paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
            if any(has_bytes) or folder is None:
                none = [row for row, there in enumerate(has_bytes) if not there and not (folder is None and paths[row])]
                table.problems += _row_problems(table, "no picture", none)
                table.content = None if none else stored
                return
            content = paths
    table.problems += _row_problems(table, "no picture", [row for row, path in enumerate(content) if not path])
    table.problems += _row_problems(
        table, "no path but another type", [row for row, path in enumerate(content) if path and not isinstance(path, str)]
    )
    if folder is None:
        table.problems.append(
            Problem(f'split "{table.name}"', "the picture column holds paths, and a table on the Hub comes without their files")
        )
    if table.problems:
        return
    assert folder is not None
    root = _real(folder)
    full = [_real(folder / path) for path in content]
    outside = [row for row, path in enumerate(full) if path is None or root is None or not path.is_relative_to(root)]
    table.problems += _row_problems(table, "a path that leaves the data folder", outside, f"pictures lie below {folder.absolute()}")
    if not outside:
        table.content = _picture_paths(str(path) for path in full)


def _picture_paths(paths: Iterable[str]) -> Dataset:
    rows = [{"bytes": None, "path": path} for path in paths]
    return Dataset.from_dict({"image": rows}, features=Features({"image": Image(decode=False)}))


def _row_problems(table: _Table, what: str, rows: Sequence[int], *help: str) -> list[Problem]:
    if not rows:
        return []
    count = "1 row" if len(rows) == 1 else f"{len(rows):,} rows"
    return [
        Problem(
            f'split "{table.name}"',
            f"{count} with {what}: {_listed(table.ids[row] for row in rows[:_SHOWN])}{_more(len(rows))}",
            help,
        )
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _more(count: int) -> str:
    return f" and {count - _SHOWN:,} more" if count > _SHOWN else ""


# --- tables on this machine ---------------------------------------------------------------------------------------------------


def _open_tables(data: TextData | ImageData, folder: Path, files: Sequence[Path], *, ignored: int) -> _Source:
    """A folder of tables, named by split: train.parquet, or train-00000-of-00002.parquet and its neighbour."""
    if not files:
        found = ", ".join(entry.name for entry in _visible(folder)[:_SHOWN]) or "nothing"
        help = (
            f"expected train{TABLES[0]}, or train with one of {', '.join(TABLES[1:])}, and test and validation likewise",
            f"found: {found}",
        )
        raise DataError(data.source, [Problem("data.source", f"no table in {folder.absolute()}", help)])
    by_split: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda file: natural_key(file.name)):
        by_split.setdefault(_split_of(file), []).append(file)
    problems = [
        Problem(f'split "{name}"', f"which of {_listed(file.name for file in group)}? One split is one kind of file.")
        for name, group in by_split.items()
        if len({file.suffix.lower() for file in group}) > 1
    ]
    if problems:
        raise DataError(data.source, problems)
    formats = sorted({file.suffix[1:].lower() for file in files})
    return _Source(
        "+".join(formats), {name: _table_reader(name, group, folder, data) for name, group in by_split.items()}, ignored=ignored
    )


def _split_of(file: Path) -> str:
    """The split a file belongs to: its name without the suffix and without a shard's number."""
    return re.sub(r"[-_.]\d+-of-\d+.*$", "", file.stem)


def _table_reader(name: str, files: Sequence[Path], folder: Path, data: TextData | ImageData) -> Callable[[], _Table]:
    parquet = files[0].suffix.lower() == ".parquet"
    return lambda: _read_parquet(name, files, folder, data) if parquet else _read_rows(name, files, folder, data)


def _read_parquet(name: str, files: Sequence[Path], folder: Path, data: TextData | ImageData) -> _Table:
    problems = []
    columns: list[str] = []
    for file in files:
        try:
            found = pq.read_schema(file).names
        except (pa.ArrowInvalid, OSError) as error:
            problems.append(Problem(str(file), f"cannot be read as Parquet: {error}"))
            continue
        columns = columns or found
        if set(found) != set(columns):
            problems.append(Problem(str(file), f"has the columns {_listed(found)}, and {files[0].name} has {_listed(columns)}"))
    if problems:
        raise DataError(data.source, problems)
    wanted = [column for column in (_content_column(data), data.label_column) if column in columns]
    if not wanted:
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        return _Table(name, columns, [f"{name}/{row}" for row in range(rows)], None, None, None, [])
    # datasets keys its cache by path and time of change, which a copy or an image of a machine may keep. We key it by content.
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "hftl" / digest.hexdigest()[:32]
    try:
        split = Dataset.from_parquet([str(file) for file in files], columns=wanted, cache_dir=str(cache))
    except (DatasetsError, pa.ArrowInvalid) as error:
        raise DataError(data.source, [Problem(str(files[0]), f"cannot be read as Parquet: {error.__cause__ or error}")]) from error
    assert isinstance(split, Dataset)
    return _from_dataset(name, columns, split, folder, data)


def _read_rows(name: str, files: Sequence[Path], folder: Path, data: TextData | ImageData) -> _Table:
    """CSV, TSV, JSON and JSONL: files of Python values."""
    problems: list[Problem] = []
    columns: list[str] = []
    values: dict[str, list[Any]] = {_content_column(data): [], data.label_column: []}
    count = 0
    for file in files:
        text = _read_text(file, problems)
        if text is None:
            continue
        read = _csv_rows if file.suffix.lower() in (".csv", ".tsv") else _json_rows
        found, rows = read(file, text, problems)
        columns = columns or found
        if set(found) != set(columns):
            problems.append(Problem(str(file), f"has the columns {_listed(found)}, and {files[0].name} has {_listed(columns)}"))
        count += len(rows)
        for column, collected in values.items():
            collected += [row.get(column) for row in rows]
    if problems:
        raise DataError(data.source, problems)
    table = _Table(name, columns, [f"{name}/{row}" for row in range(count)], None, None, None, [])
    if data.label_column in columns:
        table.labels = values[data.label_column]
    if _content_column(data) in columns:
        content = values[_content_column(data)]
        if isinstance(data, TextData):
            _set_texts(table, content)
        else:
            _set_pictures(table, content, folder)
    return table


def read_column(file: Path, column: str) -> list[Any]:
    """One column of a single table, as it stands there; for inputs to predict, which have no labels.

    Raises:
        DataError: the file cannot be read, or has no such column.
    """
    problems: list[Problem] = []
    columns: list[str] = []
    values: list[Any] = []
    if file.suffix.lower() == ".parquet":
        try:
            columns = pq.read_schema(file).names
            values = pq.read_table(file, columns=[column]).column(column).to_pylist() if column in columns else []
        except (pa.ArrowInvalid, OSError) as error:
            problems.append(Problem(str(file), f"cannot be read as Parquet: {error}"))
    elif (text := _read_text(file, problems)) is not None:
        columns, rows = (_csv_rows if file.suffix.lower() in (".csv", ".tsv") else _json_rows)(file, text, problems)
        values = [row.get(column) for row in rows]
    if not problems and column not in columns:
        problems.append(Problem(str(file), f'no column "{column}"; columns: {_listed(columns)}'))
    if problems:
        raise DataError(str(file), problems)
    return values


def _read_text(file: Path, problems: list[Problem]) -> str | None:
    content = file.read_bytes()
    for bad, what in ((b"\0", "a NUL byte: this is no text file"), (None, "not UTF-8: save the file as UTF-8")):
        if bad is not None:
            start = content.find(bad)
        else:
            try:
                return content.decode("utf-8").removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                start = error.start
        if start >= 0:
            line = content.count(b"\n", 0, start) + 1
            problems.append(Problem(f"{file}, line {line}, byte {start}", what))
            return None
    return None


def _csv_rows(file: Path, text: str, problems: list[Problem]) -> tuple[list[str], list[dict[str, Any]]]:
    """Header and rows. Lines without anything on them are skipped; a row of another length than the header is a problem."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
    header: list[str] = []
    rows: list[dict[str, Any]] = []
    ragged: list[str] = []
    line = 1
    limit = csv.field_size_limit(len(text) + 1)  # Python's own limit, 131,072 characters, is less than a long document
    try:
        for fields in reader:
            if fields and not header:
                header = fields
            elif fields and len(fields) != len(header):
                ragged.append(f"line {line} has {len(fields)}")
            elif fields:
                rows.append(dict(zip(header, fields, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        problems.append(
            Problem(f"{file}, line {line}", f"not valid CSV: {error}", ("a quote inside a quoted field is written twice",))
        )
    finally:
        csv.field_size_limit(limit)
    if ragged:
        what = f"the header has {len(header)} columns; {_listed(ragged[:_SHOWN])}{_more(len(ragged))}"
        problems.append(Problem(str(file), what, ("a field that has a comma in it is written in quotes",)))
    if len(set(header)) < len(header):
        problems.append(Problem(str(file), f"two columns of one name: {_listed(header)}"))
    return header, rows


def _json_rows(file: Path, text: str, problems: list[Problem]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of JSONL, an object a line, or of JSON, a list of objects."""
    rows: list[tuple[str, Any]] = []
    wrong: list[str] = []
    if file.suffix.lower() == ".json":
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            whole = []
            wrong.append(f"line {error.lineno}: {error.msg}")
        if not isinstance(whole, list):
            whole = []
            wrong.append("expected a list of objects; for an object a line the name ends with .jsonl")
        rows = [(f"entry {number}", row) for number, row in enumerate(whole)]
    else:
        # Not `splitlines`: JSON strings may hold U+2028 and other characters that it takes for the end of a line.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    rows.append((f"line {number}", json.loads(line)))
                except json.JSONDecodeError as error:
                    wrong.append(f"line {number}: {error.msg} at column {error.colno}")
    wrong += [f"{where}: not an object" for where, row in rows if not isinstance(row, dict)]
    if wrong:
        problems.append(Problem(str(file), f"not valid {file.suffix[1:].upper()}: {_listed(wrong[:_SHOWN])}{_more(len(wrong))}"))
        return [], []
    return list(dict.fromkeys(key for _, row in rows for key in row)), [row for _, row in rows]


# --- folders of pictures ------------------------------------------------------------------------------------------------------


def _open_pictures(data: ImageData, root: Path) -> _Source:
    """root/SPLIT/CLASS/*, or root/CLASS/* as train alone."""
    folders = [entry for entry in _visible(root) if entry.is_dir()]
    stray = sum(1 for entry in _visible(root) if not entry.is_dir())
    names = [folder.name for folder in folders]
    if not folders:
        help = ("expected SPLIT/CLASS/picture.jpg or CLASS/picture.jpg, or tables named by split",)
        raise DataError(data.source, [Problem("data.source", f"no folder in {root.absolute()}", help)])
    has_train = any(entry.is_dir() for entry in _visible(root / data.train_split)) if data.train_split in names else False
    if has_train or set(names) <= {*VALIDATION_NAMES, "test"}:
        readers = {folder.name: _picture_reader(folder.name, root, folder, data) for folder in folders}
        return _Source("image folder", readers, ignored=stray)
    return _Source("image folder", {"train": _picture_reader("train", root, root, data)})


def _picture_reader(name: str, root: Path, folder: Path, data: ImageData) -> Callable[[], _Table]:
    return lambda: _read_pictures(name, root, folder, data)


def _read_pictures(name: str, root: Path, folder: Path, data: ImageData) -> _Table:
    table = _Table(name, [data.image_column, data.label_column], [], None, [], None, [])
    real_root = root.resolve()
    if not folder.resolve().is_relative_to(real_root):
        raise DataError(data.source, [Problem(str(folder), f"a link that leaves the data folder, to {folder.resolve()}")])
    paths: list[str] = []
    classes = {entry.name: 0 for entry in _visible(folder) if entry.is_dir()}
    for found in _walk(folder, real_root, (folder.resolve(),)):
        if isinstance(found, Problem):
            table.problems.append(found)
            continue
        path = found.relative_to(folder)
        if len(path.parts) < 2 or path.suffix.lower() not in PICTURES:
            table.ignored += 1
            continue
        classes[path.parts[0]] += 1
        table.ids.append(found.relative_to(root).as_posix())
        paths.append(str(found.absolute()))
        assert table.labels is not None
        table.labels.append(path.parts[0])
    refused = any("link" in problem.what for problem in table.problems)
    for label, count in classes.items():
        if not count and not refused:
            table.problems.append(
                Problem(str(folder / label), "no picture in this class folder", ("remove the folder, or fill it",))
            )
    unreadable = [name for name in table.ids if not name.isprintable() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)]
    if unreadable:
        table.problems.append(
            Problem(
                str(folder), f"file names that are not UTF-8: {_listed(map(ascii, unreadable[:_SHOWN]))}{_more(len(unreadable))}"
            )
        )
    elif paths:
        table.content = _picture_paths(paths)
    return table


def _walk(folder: Path, root: Path, trail: tuple[Path, ...]) -> Iterator[Path | Problem]:
    """Files below `folder`, sorted, hidden ones left out; links are followed as long as they stay below `root`."""
    for entry in _visible(folder):
        real = _real(entry)
        if real is None or not real.is_relative_to(root):
            yield Problem(str(entry), "a link that leaves the data folder" + (f", to {real}" if real else ""))
        elif not real.exists():
            yield Problem(str(entry), f"a link to nothing: {real}")
        elif real in trail:
            yield Problem(str(entry), "a link to a folder that it lies in")
        elif real.is_dir():
            yield from _walk(entry, root, (*trail, real))
        else:
            yield entry


def _real(path: Path) -> Path | None:
    """Where a path leads once links and ".." are followed; None for links that lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


# --- labels -------------------------------------------------------------------------------------------------------------------


def natural_key(name: str) -> tuple[Any, ...]:
    """Sorts as people count: 0, 1, 2, 10; then a1, a2, a10."""
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", name):
        return (0, float(name), name)
    # Odd places hold the digits, so text meets text and number meets number.
    return (1, tuple(int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))), name)


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
    if not isinstance(value, str):
        raise TypeError
    name = value.strip()
    if re.fullmatch(r"-?(0|[1-9]\d*)(\.0+)?", name):
        return str(int(name.partition(".")[0]))
    return None if name.lower() in ("", "nan") else name


def _labels(
    tables: Mapping[Role, _Table], data: TextData | ImageData
) -> tuple[tuple[str, ...], dict[Role, np.ndarray], list[Problem]]:
    """Class names in their own order, the class number of every row (-1 where there is none), and what is wrong."""
    problems: list[Problem] = []
    classes: dict[Role, list[str | None]] = {}
    own = tables["train"].class_names
    for role, table in tables.items():
        if table.labels is None:
            continue
        found: list[str | None] = []
        blank, outside, strange = [], [], []
        for row, value in enumerate(table.labels):
            name: str | None = None
            if table.class_names is not None and value is not None:
                if 0 <= value < len(table.class_names):
                    name = table.class_names[value]
                else:
                    outside.append(row)
            else:
                try:
                    name = _class_name(value)
                except TypeError:
                    strange.append(row)
                else:
                    if name is None:
                        blank.append(row)
                    elif re.fullmatch(r"-\d+", name):
                        outside.append(row)
                        name = None
            found.append(name)
        classes[role] = found
        problems += _row_problems(
            table, f'a blank label (column "{data.label_column}")', blank, "give them a label or leave the rows out"
        )
        allowed = (
            f"allowed are 0 to {len(table.class_names) - 1}"
            if table.class_names
            else 'class numbers start at 0; -1 often stands for "unlabelled"'
        )
        values = _listed(dict.fromkeys(str(table.labels[row]) for row in outside[: 10 * _SHOWN]))
        help = (allowed, f'data.test_split="{NO_SPLIT}" leaves the source\'s test split alone') if role == "test" else (allowed,)
        problems += _row_problems(table, f"a label that is no class ({values})", outside, *help)
        problems += _row_problems(table, "a label that is neither text nor a number", strange)
        if own is not None and table.class_names is not None and table.class_names != own:
            what = f"its label map differs from train's: {_listed(table.class_names[:_SHOWN])} against {_listed(own[:_SHOWN])}"
            problems.append(Problem(f'split "{table.name}"', what))
    there = {name for found in classes.values() for name in found if name is not None}
    names = (*(own or ()), *sorted(there - set(own or ()), key=natural_key))
    number = {name: place for place, name in enumerate(names)}
    numbers = {
        role: np.array(
            [-1 if name is None else number[name] for name in classes.get(role, [None] * len(table.ids))], dtype=np.int64
        )
        for role, table in tables.items()
    }
    return names, numbers, problems


def _column_problems(table: _Table, data: TextData | ImageData) -> list[Problem]:
    problems = []
    if not table.ids and not table.problems:
        problems.append(Problem(f'split "{table.name}"', "no rows"))
    for key, column in ((f"data.{data.kind}_column", _content_column(data)), ("data.label_column", data.label_column)):
        if table.columns and column not in table.columns:
            help = (f"columns there are: {', '.join(table.columns)}",)
            problems.append(
                Problem(key, f'no column "{column}" in split "{table.name}".{did_you_mean(column, table.columns)}', help)
            )
    return problems + table.problems


def _class_problems(
    tables: Mapping[Role, _Table], kept: Mapping[Role, np.ndarray], labels: Mapping[Role, np.ndarray], names: Sequence[str]
) -> list[Problem]:
    if tables["train"].labels is None:
        return []
    problems = []
    counts = {role: np.bincount(labels[role][kept[role]][labels[role][kept[role]] >= 0], minlength=len(names)) for role in tables}
    there = np.flatnonzero(counts["train"])
    if len(there) == 1:
        name = names[there[0]]
        problems.append(Problem(f'split "{tables["train"].name}"', f'one class only, "{name}": there is nothing to tell apart'))
    for role, table in tables.items():
        if table.ids and not len(kept[role]):
            problems.append(Problem(f'split "{table.name}"', f"none of its {len(table.ids)} pictures can be read"))
        lacking = [names[int(place)] for place in np.flatnonzero((counts[role] > 0) & (counts["train"] == 0))]
        if lacking and len(there):
            what = f"classes that train has no row of: {_listed(lacking[:_SHOWN])}{_more(len(lacking))}"
            problems.append(
                Problem(f'split "{table.name}"', what, (f"train's classes: {_listed(names[int(place)] for place in there)}",))
            )
    return problems


# --- unreadable pictures ------------------------------------------------------------------------------------------------------


def _scan(content: Dataset) -> tuple[dict[int, str], dict[int, str]]:
    """Read every picture to its end: why a row cannot be used, and what is unusual about one that can."""
    # Imported here because a run on texts needs neither Albumentations nor OpenCV.
    from hftl.data.image import BadImage, inspect

    def look(row: int) -> tuple[str | None, str | None]:
        stored = content[row]["image"]
        try:
            return None, inspect(stored["bytes"] if stored["bytes"] is not None else stored["path"])
        except BadImage as error:
            return str(error), None

    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        found = list(pool.map(look, range(len(content))))
    return {row: bad for row, (bad, _) in enumerate(found) if bad}, {row: note for row, (_, note) in enumerate(found) if note}


def _bad_image_problems(tables: Mapping[Role, _Table], bad: Mapping[Role, Mapping[int, str]]) -> list[Problem]:
    problems = [Problem(tables[role].ids[row], why) for role in tables for row, why in bad[role].items()]
    if problems:
        last = problems[-1]
        problems[-1] = Problem(
            last.where, last.what, ("repair or remove the files, or leave them out and have them counted: data.on_bad_image=skip",)
        )
    return problems


# --- dividing -----------------------------------------------------------------------------------------------------------------


def _divide(
    data: TextData | ImageData, given: Mapping[Role, tuple[np.ndarray, np.ndarray]], *, seed: int
) -> dict[Role, np.ndarray]:
    """Rows of each split, ascending; those of a split that was not given are rows of train's table.

    `given` has, for each split of the source, the rows that may be used and the class number of every row.
    """
    rows: dict[Role, np.ndarray] = {role: kept for role, (kept, _) in given.items()}
    labels = given["train"][1]
    size = len(rows["train"])
    # Test first and by a seed of its own: neither `run.seed` nor the validation split may touch it.
    shares: list[tuple[Role, float, int]] = [
        ("test", data.test_fraction, _TEST_SEED),
        ("validation", data.validation_fraction, seed),
    ]
    for role, share, own_seed in shares:
        if role in rows or share == 0:
            continue
        train = rows["train"]
        counts = np.bincount(labels[train])
        taken = _stratified(train, labels, max(1, round(share * size)), own_seed, least=0 * counts, most=np.maximum(counts - 1, 0))
        if not len(taken):
            what = f"train has {len(train)} rows, one of each class: none can be set aside for {role}"
            raise DataError(data.source, [Problem(f"data.{role}_fraction", what)])
        rows[role], rows["train"] = taken, np.setdiff1d(train, taken)
    limits: list[tuple[Role, int | None, int]] = [
        ("train", data.max_train_samples, seed),
        ("validation", data.max_validation_samples, seed),
        ("test", data.max_test_samples, _TEST_SEED),
    ]
    for role, limit, own_seed in limits:
        if role in rows and limit is not None and limit < len(rows[role]):
            of = given[role][1] if role in given else labels
            counts = np.bincount(of[rows[role]])
            # A class must not vanish from train by sampling where there is room for all of them.
            least = np.minimum(counts, 1) if role == "train" and limit >= np.count_nonzero(counts) else 0 * counts
            rows[role] = _stratified(rows[role], of, limit, own_seed, least=least, most=counts)
    return {role: rows[role] for role in ROLES if role in rows}


def _stratified(rows: np.ndarray, labels: np.ndarray, total: int, seed: int, *, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """`total` of `rows`, drawn by class in proportion, ascending."""
    generator = np.random.default_rng(seed)
    of = labels[rows]
    shares = _allocate(np.bincount(of, minlength=len(most)), total, least=least, most=most)
    drawn = [generator.permutation(rows[of == label])[:share] for label, share in enumerate(shares)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


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


def _assemble(table: _Table, labels: np.ndarray, names: Sequence[str], kind: str, rows: np.ndarray) -> Dataset:
    """The columns `id`, content and `label` of the chosen rows."""
    assert table.content is not None
    whole = table.content.add_column("id", np.array(table.ids)).add_column("label", labels, feature=ClassLabel(names=list(names)))
    return whole.select_columns(["id", kind, "label"]).select(rows)


def _how_divided(data: TextData | ImageData, tables: Mapping[Role, _Table], seed: int) -> dict[str, str]:
    made = "made from train: {:g} %, stratified, {}"
    validation = "given" if "validation" in tables else made.format(100 * data.validation_fraction, f"seed {seed}")
    if "test" in tables:
        return {"validation": validation, "test": "given"}
    test = made.format(100 * data.test_fraction, "the same for every seed") if data.test_fraction else "none"
    return {"validation": validation, "test": test}
