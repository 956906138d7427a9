"""What a source is, and how it is read: the Hub, a folder of pictures, tables on this machine.

Whatever the source, a split is read into one `Table`: its rows, their contents undecoded, their labels as they stand there, and
everything that is wrong in it. Labels are made sense of, and rows are divided, in `hftl.data.source`.

Rows are counted from 0, without a header: "train/17" is row 17 of the split "train". A million of them is nothing special: what
there is for every row is a column of Arrow or an array, and never a Python object.

N rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hftl.data.archives import ARCHIVES, archive_name, is_archive, unpacked, unpacked_beside
from hftl.data.content import content_of
from hftl.data.hub import BUILDERS, HUB_ID, looks_like_a_path, open_hub
from hftl.data.layout import (
    ROLES,
    TABLES,
    Role,
    find_name,
    is_data,
    is_picture,
    list_folder,
    named,
    role_of,
    table_ending,
)
from hftl.data.rows import NO_SPLIT, Source, Table, asked_for
from hftl.data.saved import configured, is_saved, open_saved
from hftl.data.tables import table_source, ways_to_convert
from hftl.errors import DataError, Problem, beside, did_you_mean
from hftl.recipe import ImageData, TextData


def open_source(data: TextData | ImageData) -> Source:
    """Find out what `data.source` is; pictures are not read yet, and tables only where a column divides them into splits.

    Raises:
        DataError: it is nothing that can be read.
    """
    path = Path(os.path.expanduser(data.source))
    if not os.path.exists(path):
        if "://" in data.source or "::" in data.source:
            what = "an address: hftl reads files and folders of this machine, and data sets on the Hub by their id"
            raise DataError(data.source, [Problem("data.source", what, ("download it, and name the file or the folder",))])
        if looks_like_a_path(data.source):
            raise DataError(data.source, [Problem("data.source", f"no such file or folder: {path.absolute()}{beside(path)}")])
        if not HUB_ID.fullmatch(data.source) or data.source in BUILDERS:
            what = f"no such file or folder: {path.absolute()}; and no id of a data set on the Hub either"
            raise DataError(data.source, [Problem("data.source", what, ("an id is OWNER/NAME",))])
        return open_hub(data)
    if data.stream_samples is not None:
        what = f'only data sets on the Hub are streamed, and "{data.source}" is on a disk already'
        raise DataError(data.source, [Problem("data.stream_samples", what, ("data.max_train_samples trains on a part of it",))])
    try:
        return _open_here(data, path)
    except OSError as error:
        raise DataError(data.source, [Problem(str(error.filename or path), f"cannot be read: {error.strerror}")]) from None


def _open_here(data: TextData | ImageData, path: Path) -> Source:
    """A file or a folder of this machine."""
    configs = configured(data, path) if path.is_dir() else None
    for key, value in (("data.revision", data.revision), ("data.config", None if configs else data.config)):
        if value is not None:
            what = f'only data sets on the Hub have one, and "{data.source}" is on this machine'
            raise DataError(data.source, [Problem(key, what)])
    if path.is_file():
        if is_archive(path):
            return _open_archive(data, path)
        if table_ending(path.name) is None:
            what = f'"{path.suffix}" is not a kind of file that can be read'
            ways = (f"allowed: {', '.join((*TABLES, *ARCHIVES))}", *ways_to_convert(path))
            raise DataError(data.source, [Problem("data.source", what, ways)])
        return table_source({"train": [path]}, path.parent, data)
    if is_saved(path):
        return open_saved(data, path)
    if isinstance(configs, Path):
        return content_of(data).open_folder(configs)
    if configs is not None and all(table_ending(file.name) for files in configs.values() for file in files):
        return replace(table_source(configs, path, data), splits_from="the configs of README.md")
    archives, tables = _archives_of(data, path)
    if len(archives) == 1 and not tables:
        return _open_archive(data, archives[0])
    if archives:
        source = content_of(data).open_folder(unpacked_beside(archives, tables))
        names = " and ".join(file.name for file in archives)
        line = f"{names} {'are' if len(archives) > 1 else 'is'} unpacked in the cache, and read from there"
        return replace(source, remarks=(*source.remarks, line))
    return content_of(data).open_folder(path)


def _open_archive(data: TextData | ImageData, file: Path) -> Source:
    source = content_of(data).open_folder(unpacked(file))
    return replace(source, remarks=(*source.remarks, f"{file.name} is unpacked in the cache, and read from there"))


def _archives_of(data: TextData | ImageData, folder: Path) -> tuple[list[Path], list[Path]]:
    """The archives that a folder is read from, and the tables beside them that name what is in them; none where it is read itself.

    As downloads leave it: an archive and nothing else of data, an archive a split, or archives of pictures and tables of paths.
    """
    folders, files = list_folder(folder)
    holding = [file for file in files if is_data(file) or is_picture(file)]
    archives = [file for file in holding if is_archive(file)]
    tables = [file for file in holding if file not in archives]
    are_splits = all(role_of(archive_name(file), loosely=True) for file in archives)
    name_pictures = content_of(data).names_files and all(table_ending(file.name) in (".csv", ".tsv", ".jsonl") for file in tables)
    if folders or (not name_pictures if tables else len(archives) > 1 and not are_splits):
        return [], []
    return archives, tables


def choose_splits(source: Source, data: TextData | ImageData) -> dict[Role, str]:
    """Which of the source's splits is train, validation and test; absent where it has to be made, or is not wanted.

    The recipe's own names go first. Without one the table of split names decides (`hftl.data.layout`), and two that mean the same
    are refused.

    Raises:
        DataError: a split that is not there, several for one role, one in two roles, or none to validate on.
    """
    available = list(source.splits)
    problems: list[Problem] = []
    roles: dict[Role, str] = {}
    wanted: dict[Role, str | None] = {"train": data.train_split, "validation": data.validation_split, "test": data.test_split}
    help = (f"splits there are: {', '.join(available)}",)
    for role, name in wanted.items():
        if name is not None and not (role == "test" and name == NO_SPLIT):
            exact = find_name(name, available)
            if exact is None:
                problems.append(Problem(f"data.{role}_split", f'no split "{name}".{did_you_mean(name, available)}', help))
            roles[role] = exact or name
    free = [name for name in available if name not in roles.values()]
    for role in ROLES:
        if wanted[role] is None:
            likely = named(role, free)
            if len(likely) > 1:
                what = f"which of {', '.join(likely)}? Several splits look like the {role} split."
                problems.append(Problem(f"data.{role}_split", what, ("name one, or give the others names that mean no split",)))
            elif likely:
                roles[role] = likely[0]
            elif role == "train":
                problems.append(Problem("data.train_split", f'no split "train".{did_you_mean("train", available)}', help))
    either = named("either", free)
    open_roles = [role for role in ROLES[1:] if wanted[role] is None and role not in roles]
    if len(either) == 1 and len(open_roles) == 1:
        roles[open_roles[0]] = either[0]
    elif either and open_roles:
        what = f"is {' or '.join(either)} for validation or for the test?"
        ways = tuple(f'data.{role}_split="{either[0]}"' for role in open_roles)
        problems.append(Problem(f"data.{open_roles[0]}_split", what, (f"write {' or '.join(ways)}",)))
    if len(set(roles.values())) < len(roles):
        listed = ", ".join(f"{role} = {name}" for role, name in roles.items())
        problems.append(Problem("data", f"one split has two roles ({listed}): scores on training rows are meaningless"))
    if "validation" not in roles and not problems:
        if data.validation_fraction == 0:
            what = "the source has no validation split, and a share of 0 of train makes none"
            problems.append(Problem("data.validation_fraction", what, ("the test split is never used for it",)))
        elif "test" not in roles and data.validation_fraction + data.test_fraction >= 1:
            problems.append(Problem("data.validation_fraction", "with data.test_fraction nothing of train is left to train on"))
    if problems:
        raise DataError(data.source, problems)
    return {role: roles[role] for role in ROLES if role in roles}


def guesses(source: Source, roles: Mapping[Role, str], data: TextData | ImageData) -> list[str]:
    """Which splits were found by a word in their names, and not by all of it or by the recipe."""
    return [
        f"{source.shown.get(name, name)} is read as the {role} split, for a word in its name"
        for role, name in roles.items()
        if role_of(name) != role and find_name(name, asked_for(data)) is None and name != "train"
    ]


def read_tables(source: Source, roles: Mapping[Role, str], data: TextData | ImageData) -> dict[Role, Table]:
    """The split of each role.

    Raises:
        DataError: what cannot be read at all, over all of them. What is wrong with single rows is in `Table.problems`.
    """
    tables: dict[Role, Table] = {}
    problems: list[Problem] = []
    for role, name in roles.items():
        try:
            tables[role] = source.splits[name]()
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(data.source, problems)
    return tables
