"""Folders that datasets and the Hub have written: `save_to_disk`, and the clone of a data set whose README.md has `configs`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow as pa
import yaml
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetsError

from hftl.data.layout import data_root
from hftl.data.rows import Parsed, Source, by_column, natural_key, of_dataset, reader, split_column
from hftl.errors import DataError, Problem, did_you_mean
from hftl.recipe import ImageData, TextData
from hftl.wording import listed

_DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError, pa.ArrowException, DatasetsError)


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` has written a folder."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def open_saved(data: TextData | ImageData, folder: Path) -> Source:
    """A `DatasetDict`, or one `Dataset` as train.

    Raises:
        DataError: it cannot be read.
    """
    try:
        loaded = datasets.load_from_disk(str(folder))
    except _DAMAGED as error:
        what = f"cannot be read as save_to_disk writes it: {' '.join(str(error).split())}"
        raise DataError(data.source, [Problem("data.source", what)]) from None
    whole = loaded if isinstance(loaded, DatasetDict) else {"train": loaded}
    splits: dict[str, Dataset] = {str(name): split for name, split in whole.items()}

    def parse(name: str) -> Parsed:
        split = splits[name]
        column = split_column(split.column_names, data)
        return of_dataset(split.column_names, split, data, None if column is None else split.data.column(column))

    readers = {name: reader(name, functools.partial(parse, name), folder, data) for name in splits}
    source = Source("save_to_disk", readers, splits_from="save_to_disk")
    return by_column(source, list(splits), lambda name: splits[name].column_names, parse, folder, data)


def configured(data: TextData | ImageData, folder: Path) -> Mapping[str, list[Path]] | Path | None:
    """What the `configs` of a data set's README.md name: files by split, or a folder; None: it has none.

    Raises:
        DataError: several configurations and none chosen, one that is not there, a pattern that no file fits.
    """
    configs = _configs(folder / "README.md")
    if not configs:
        return None
    names = [str(config.get("config_name", "default")) for config in configs]
    chosen = _chosen(data, configs, names)
    if isinstance(chosen.get("data_dir"), str) and "data_files" not in chosen:
        return _inside(data, folder, chosen["data_dir"])
    by_split: dict[str, list[Path]] = {}
    for split, patterns in _patterns(chosen.get("data_files")).items():
        found = {file for pattern in patterns for file in _fitting(data, folder, pattern)}
        if not found:
            what = f"README.md says that the split {split} is in {listed(patterns)}, and no such file is there"
            raise DataError(data.source, [Problem("data.source", what, ("in the clone: git lfs pull",))])
        by_split[split] = sorted(found, key=lambda file: natural_key(str(file)))
    return by_split or None


def _configs(readme: Path) -> list[dict[str, Any]]:
    if not readme.is_file():
        return []
    text = readme.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return []
    try:
        front = yaml.safe_load(text.split("---", 2)[1])
    except yaml.YAMLError:
        return []
    configs = front.get("configs") if isinstance(front, dict) else None
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def _chosen(data: TextData | ImageData, configs: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    if data.config is not None:
        if data.config not in names:
            what = f'no configuration "{data.config}".{did_you_mean(data.config, names)}'
            raise DataError(data.source, [Problem("data.config", what, (f"README.md has {listed(names)}",))])
        return configs[names.index(data.config)]
    likely = [config for config in configs if config.get("default") is True]
    likely = likely or [config for config, name in zip(configs, names, strict=True) if name == "default"] or configs
    if len(likely) > 1:
        what = f"which of {listed(names)}? README.md has several configurations"
        raise DataError(data.source, [Problem("data.config", what, (f"data.config={names[0]}",))])
    return likely[0]


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Patterns by split, of the shapes that the Hub knows."""
    entries: list[tuple[str, Any]] = []
    if isinstance(data_files, str):
        entries = [("train", data_files)]
    elif isinstance(data_files, dict):
        entries = [(str(split), paths) for split, paths in data_files.items()]
    elif isinstance(data_files, list):
        of_train = [entry if isinstance(entry, dict) else {"path": entry} for entry in data_files]
        entries = [(str(entry.get("split", "train")), entry.get("path")) for entry in of_train]
    patterns: dict[str, list[str]] = {}
    for split, paths in entries:
        patterns.setdefault(split, []).extend(str(path) for path in (paths if isinstance(paths, list) else [paths]))
    return patterns


def _inside(data: TextData | ImageData, folder: Path, name: str) -> Path:
    if not (folder / name).resolve().is_relative_to(data_root(folder)):
        raise DataError(data.source, [Problem("data.source", f"README.md names {name}, which is outside of the folder")])
    return folder / name


def _fitting(data: TextData | ImageData, folder: Path, pattern: str) -> list[Path]:
    path = PurePosixPath(pattern)
    if path.is_absolute() or ".." in path.parts or "://" in pattern:
        raise DataError(data.source, [Problem("data.source", f"README.md names {pattern}, which is outside of the folder")])
    return [file for file in folder.glob(pattern) if file.is_file()]
