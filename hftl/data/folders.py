"""Folders of pictures or texts: a folder a class, a folder a split, or a metadata file beside pictures."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from hftl.data.archives import archive_name, is_archive
from hftl.data.columns import Labels, Strings, on_disk
from hftl.data.content import Content, content_of
from hftl.data.layout import (
    NO_FILE,
    UNLABELLED,
    counted,
    data_root,
    ending_of,
    find_name,
    is_hidden,
    is_picture,
    list_folder,
    role_of,
    table_ending,
    ways_out,
)
from hftl.data.rows import NO_SPLIT, SHOWN, Source, Table, asked_for, real, train_of
from hftl.data.tables import files_by_split, is_table, left_beside, open_tables, read_columns, table_source
from hftl.errors import DataError, Problem
from hftl.recipe import ImageData, TextData
from hftl.wording import and_more, count, listed


@dataclass(frozen=True)
class _Inside:
    """What lies directly in a folder of pictures or texts."""

    folders: list[str]
    has_files: bool
    """Whether a file in it is an example."""
    metadata: Path | None
    """A table of file names, as datasets' imagefolder has it."""


def _look_inside(folder: Path, content: Content) -> _Inside:
    folders, files = list_folder(folder)
    metadata = None
    for file in files:
        if content.names_files and file.name in _METADATA and _FILE_NAME in read_columns(file):
            metadata = file
    return _Inside([entry.name for entry in folders], any(map(content.is_one, files)), metadata)


_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

_FILE_NAME = "file_name"  # the column of metadata.csv


def open_pictures(data: ImageData, root: Path) -> Source:
    """Tables with pictures or their paths; SPLIT/CLASS/*, or CLASS/* as train alone; SPLIT/* with a metadata.csv in each split."""
    folders, files = list_folder(root)
    content = content_of(data)
    inside = {folder.name: _look_inside(folder, content) for folder in folders}
    tables = files_by_split(data, files, needed=(data.image_column,))
    train_names = train_of(data, list(tables))
    if any(entries.has_files or entries.folders for entries in inside.values()):  # a log of the training is no table of pictures
        train_names = [
            name
            for name in train_names
            if role_of(name)
            or find_name(name, asked_for(data))
            or {data.image_column, *data.label_columns} <= {column for file in tables[name] for column in read_columns(file)}
        ]
    train_tables = [file for name in train_names for file in tables[name]]
    if any(not (columns := read_columns(file)) or data.image_column in columns for file in train_tables):
        return open_tables(data, root)
    here = _look_inside(root, content)
    splits = _holds_splits(data, inside)
    if here.metadata is not None and not splits and ({*data.label_columns} <= {*read_columns(here.metadata)} or not inside):
        names, ignored = left_beside(file for file in files if file != here.metadata and not is_picture(file))
        source = _metadata_source("train", here.metadata, root, data, alone=True)
        return replace(source, beside=tuple(names), ignored=ignored)
    if train_tables and not splits:
        return open_tables(data, root)
    if (lower := _lower_tables(data, root, folders, inside)) is not None:
        return lower
    return _class_folders(data, root, inside, files, splits=splits)


def open_texts(data: TextData, root: Path) -> Source:
    """SPLIT/CLASS/*.txt, or CLASS/*.txt as train alone, where there is no table; else tables."""
    folders, files = list_folder(root)
    content = content_of(data)
    inside = {folder.name: _look_inside(folder, content) for folder in folders}
    holds_texts = any(
        entries.has_files or any(any(map(content.is_one, list_folder(root / name / within)[1])) for within in entries.folders)
        for name, entries in inside.items()
    )
    holds_tables = any(is_table(file) for folder in (root, *folders) for file in list_folder(folder)[1])
    if holds_tables or not holds_texts:
        return open_tables(data, root)
    return _class_folders(data, root, inside, files, splits=_holds_splits(data, inside))


def _lower_tables(data: ImageData, root: Path, folders: Sequence[Path], inside: Mapping[str, _Inside]) -> Source | None:
    """The tables in a folder "data", where a clone of a data set has them, and there are no pictures."""
    lower = root / "data"
    if lower not in folders or any(entries.has_files or entries.folders for entries in inside.values()):
        return None
    return open_tables(data, root) if any(map(is_table, list_folder(lower)[1])) else None


def _class_folders(
    data: TextData | ImageData, root: Path, inside: Mapping[str, _Inside], files: Sequence[Path], *, splits: bool
) -> Source:
    """A source of class folders, in folders of splits or as train alone."""
    content = content_of(data)
    beside, ignored = left_beside(files)
    if not inside:
        help = [f"expected SPLIT/CLASS/{content.example} or CLASS/{content.example}, or tables named by split"]
        help += [*_labels_may_be(beside), *_ways_to_unpack(beside)]
        here = any(map(content.is_one, files))
        help += _classes_in_names([file.name for file in files if content.is_one(file)])
        what = f"{content.thing}s, and no class folders, in" if here else "no folder in"
        raise DataError(data.source, [Problem("data.source", f"{what} {root.absolute()}", tuple(help))])
    if splits:
        readers: dict[str, Callable[[], Table]] = {}
        for name, entries in inside.items():
            metadata = entries.metadata
            if metadata is None or (entries.folders and not {*data.label_columns} <= {*read_columns(metadata)}):
                readers[name] = functools.partial(_read_class_folders, name, root, root / name, data, beside)
            else:
                readers[name] = _metadata_source(name, metadata, root / name, data, alone=False).splits[name]
        shown = {name: f"{name}/" for name in readers}
        kind = f"{data.kind} folder"
        return Source(kind, readers, shown=shown, beside=tuple(beside), ignored=ignored, splits_from="folder names")
    problem, remarks = _check_classes(root, inside, content)
    if problem is not None:
        raise DataError(data.source, [problem])
    if len(inside) == 1 and (labels := _labels_may_be(beside)):
        [name] = inside
        raise DataError(
            data.source, [Problem(str(root / name), f"the only folder, and so the only class of {content.thing}s", tuple(labels))]
        )
    strays = sum(map(content.is_one, files))
    if strays:
        remarks.append(f"{count(strays, content.thing)} beside the class folders: in none of them, so left out")
    readers = {"train": functools.partial(_read_class_folders, "train", root, root, data, beside)}
    return Source(f"{data.kind} folder", readers, beside=tuple(beside), ignored=ignored, remarks=tuple(remarks))


def _classes_in_names(names: Sequence[str]) -> list[str]:
    """The way out where the class is in the name of each file, as in cat.0.jpg."""
    begins = [match[0] if (match := re.match(r"[A-Za-z]+(?=[-_.][0-9])", name)) else None for name in names]
    if None in begins or not 1 < len(set(begins)) <= len(names) / 2:
        return []
    command = 'for f in *; do c="${f%%[-_.]*}"; mkdir -p "classes/$c"; cp "$f" "classes/$c/"; done'
    return [f"where names begin with the class ({listed(sorted(set(map(str, begins)))[:3])}): {command}"]


def _ways_to_unpack(names: Iterable[str]) -> list[str]:
    archives = [Path(name) for name in names if is_archive(Path(name))][:3]
    return [
        f"unzip {file} -d {archive_name(file)}" if file.suffix.lower() == ".zip" else f"mkdir {folder}; tar -xf {file} -C {folder}"
        for file, folder in ((file, archive_name(file)) for file in archives)
    ]


def _holds_splits(data: TextData | ImageData, inside: Mapping[str, _Inside]) -> bool:
    """Whether the folders of a source are splits, and not classes.

    They are where one that is called as the train split holds class folders or a metadata.csv, or where all are called as splits.
    A folder "train" with pictures in it, among others with pictures, is a class: there are data with trains.
    """

    def divided(name: str) -> bool:
        return bool(inside[name].folders or inside[name].metadata)

    roles = {name: role_of(name) for name in inside}
    named = train_of(data, list(inside)) if data.train_split is not None else []
    if named:
        return any(divided(name) or roles[name] for name in named)
    strangers = [name for name, role in roles.items() if role is None and inside[name].has_files]
    if any(role == "train" and divided(name) and not (inside[name].has_files and strangers) for name, role in roles.items()):
        return True
    if not inside:
        return False
    if all(roles.values()) or any(role and inside[name].metadata for name, role in roles.items()):
        return True
    loose = {name: role_of(name, loosely=True) for name in inside}
    if not {"train"} < {role for role in loose.values() if role}:
        return False
    if not any(inside[name].has_files or inside[name].folders for name, role in loose.items() if role is None):
        return True
    return all(divided(name) and not inside[name].has_files for name, role in loose.items() if role == "train")


def _check_classes(root: Path, inside: Mapping[str, _Inside], content: Content) -> tuple[Problem | None, list[str]]:
    """What is wrong with folders that are to be classes, and what deserves a word."""
    splits = {name: role for name in inside if (role := role_of(name))}
    others = [name for name in inside if name not in splits]
    expected = f"expected SPLIT/CLASS/{content.example}, with train among the splits, or CLASS/{content.example}"
    if len(set(splits.values())) > 1:
        what = f"{listed(splits)} are called as splits, and train has no class folders in it; {listed(others[:SHOWN])} are not"
        return Problem(str(root), what + and_more(len(others), SHOWN), (expected,)), []
    remarks = []
    for name in splits:
        common = {other.casefold() for other in others} & {folder.casefold() for folder in inside[name].folders}
        if common:
            what = f"holds {listed(sorted(common)[:SHOWN])}, which are class folders beside it as well: a split among classes"
            return Problem(str(root / name), what, (expected,)), []
        remarks.append(f'the folder "{name}" is read as a class, like {listed(others[:3])} beside it; it is called as a split')
    for name, entries in inside.items():
        within = [folder for folder in entries.folders if role_of(folder)]
        if len({role_of(folder) for folder in within}) > 1 or (within == entries.folders != [] and not entries.has_files):
            what = f"holds splits ({listed(within)}), and no class does"
            if len(inside) == 1:
                return Problem(str(root / name), what, (f"data.source={root / name}",)), []
            return Problem(str(root / name), what, (expected, f"or one of them alone: data.source={root / name}")), []
    if len(inside) == 1:
        ((name, entries),) = inside.items()
        if len(entries.folders) > 1 and not entries.has_files:
            what = f"the only folder, with {len(entries.folders)} folders in it: they may be the classes"
            return Problem(str(root / name), what, (f"data.source={root / name}",)), []
    return None, remarks


def _labels_may_be(tables: Iterable[str]) -> list[str]:
    """The way out for pictures without class folders."""
    tables = [name for name in tables if table_ending(name) or ending_of(name) == ".txt"]
    if not tables:
        return []
    way = 'a table train.csv with the columns "image" (paths such as train/1.png) and "label" is read, or class folders'
    return [f"the labels may be in {listed(tables[:3])}", way]


def _metadata_source(name: str, file: Path, folder: Path, data: TextData | ImageData, *, alone: bool) -> Source:
    """A split by a table of file names; pictures beside it that it does not name are counted.

    `alone`: it is the whole source, which a column may divide.
    """
    own = data.model_copy(update={"image_column": _FILE_NAME})
    source = table_source({name: [file]}, folder, data, own=own, alone=alone)
    if source.split_column is not None:
        return source

    def read() -> Table:
        table = source.splits[name]()
        if table.content is not None:
            known = set(table.content.data.column("image").combine_chunks().field("path").to_pylist())
            others = [other for other in files_below(folder) if isinstance(other, Path) and other != file]
            others = [other for other in others if str(real(other)) not in known]
            table.ignored.update(ending_of(other.name) for other in others)
            pictures = sum(map(is_picture, others))
            if pictures:
                table.remarks.append(f"{count(pictures, 'picture')} in {folder.name}/ that {file.name} does not name, so left out")
        return table

    return replace(source, splits={name: read})


def _read_class_folders(name: str, root: Path, folder: Path, data: TextData | ImageData, beside: Sequence[str]) -> Table:
    content = content_of(data)
    ids: list[str] = []
    labels: list[str] = []
    table = Table(name, [*content.columns, *data.label_columns], ids, None, None, None, [])
    real_root = data_root(root)
    if not folder.resolve().is_relative_to(real_root):
        raise DataError(data.source, [Problem(str(folder), f"a link that leaves the data folder, to {folder.resolve()}")])
    paths: list[str] = []
    classes = {entry.name: 0 for entry in list_folder(folder)[0]}
    for unlabelled in [entry for entry in classes if entry.casefold() in UNLABELLED and len(classes) > 1]:
        del classes[unlabelled]
        where = "" if folder == root else f"{name}/"
        table.remarks.append(f"{where}{unlabelled}/ is no class by its name, and not read")
    left_out: dict[str, Counter[str]] = {name: Counter() for name in classes}
    deeper: dict[str, None] = {}  # in order
    strays = 0
    for file in _walk(folder, real_root, (folder.resolve(),)):
        if isinstance(file, Problem):
            table.problems.append(file)
            continue
        path = file.relative_to(folder)
        if len(path.parts) < 2:
            if folder != root:  # or it was counted when the source was opened
                strays += content.is_one(file)
                table.ignored[ending_of(file.name)] += 1
            continue
        if path.parts[0] not in classes:
            continue
        if not content.is_one(file):
            left_out[path.parts[0]][ending_of(file.name)] += 1
            continue
        if len(path.parts) > 2:
            deeper["/".join(path.parts[:2])] = None
        classes[path.parts[0]] += 1
        ids.append(file.relative_to(root).as_posix())
        paths.append(str(file.absolute()))
        labels.append(sys.intern(path.parts[0]))
    table.labels, table.labelled_by_folder = Labels.of(labels), True
    for counts in left_out.values():
        table.ignored += counts
    links = bool(table.problems)  # that lead astray: what a class folder would hold is not known
    for label, pictures in classes.items():
        if not pictures and not links:
            what = f"no {content.thing} in this class folder" + (f", but {counted(left_out[label])}" if left_out[label] else "")
            ways = ways_out(left_out[label]) or ("remove the folder, or fill it",)
            table.problems.append(Problem(str(folder / label), what, ways))
    if not classes and not table.problems:
        what = f"{count(strays, content.thing)}, and no class folders" if strays else "no class folders"
        out = _labels_may_be([*beside, *(f"{name}/{file.name}" for file in list_folder(folder)[1] if is_table(file))])
        if role_of(name) == "test":
            out.append(f'data.test_split="{NO_SPLIT}" leaves the source\'s test split alone')
        table.problems.append(Problem(str(folder), what, tuple(out) or (f"expected SPLIT/CLASS/{content.example}",)))
    elif strays:
        table.remarks.append(f"{count(strays, content.thing)} in {name}/ beside its class folders: in none of them, so left out")
    if deeper:
        some = listed(deeper, 3)
        table.remarks.append(f"folders in class folders of {name}, whose {content.thing}s count to the class: {some}")
    if len(classes) == 1 and role_of(only := next(iter(classes)), loosely=True):
        what = f"its only folder, {only}/, is called as a split too: the class folders may be in that one"
        table.problems.append(
            Problem(str(folder), what, (f"expected SPLIT/CLASS/{content.example}: move what is in it one folder up",))
        )
    unreadable = [name for name in table.ids if not name.isprintable() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)]
    if unreadable:
        table.problems.append(Problem(str(folder), f"file names that are not UTF-8: {listed(map(ascii, unreadable), SHOWN)}"))
    elif paths:
        table.ids = Strings(Dataset(on_disk("id", pa.string(), [pa.array(ids, pa.string())])), "id")
        content.put_files(table, paths)
    return table


def files_below(folder: Path) -> Iterator[Path | Problem]:
    """The files below a folder, as training reads them; a problem for each link that leads out of it or to nothing."""
    return _walk(folder, data_root(folder), (folder.resolve(),))


def _walk(folder: Path, root: Path, trail: tuple[Path, ...]) -> Iterator[Path | Problem]:
    """Files below `folder`, sorted, hidden ones left out; links are followed as long as they stay below `root`."""
    for name in sorted(name for name in os.listdir(folder) if not is_hidden(name)):
        entry = folder / name
        target = real(entry)
        if target is None or not target.is_relative_to(root):
            yield Problem(str(entry), "a link that leaves the data folder" + (f", to {target}" if target else ""))
        elif not target.exists():
            yield Problem(str(entry), f"a link to nothing: {target}")
        elif target in trail:
            yield Problem(str(entry), "a link to a folder that it lies in")
        elif target.is_dir():
            yield from _walk(entry, root, (*trail, target))
        elif target.is_file():
            yield entry
        else:
            yield Problem(str(entry), NO_FILE)
