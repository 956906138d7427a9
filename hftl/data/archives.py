"""Archives (.zip, .tar): unpacked once into the cache of datasets, under the digest of the file, or of those of a folder."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets

from hftl.data.layout import list_folder, role_of, table_ending
from hftl.errors import DataError, Problem
from hftl.store import exclusive_lock, key_of
from hftl.wording import size

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_MOST_UNPACKED, _ALWAYS_UNPACKED = 100, 1_000_000_000  # times the packed size, or bytes

_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, NotImplementedError, zlib.error, zipfile.BadZipFile, tarfile.TarError)
"""What the two modules raise over damaged, encrypted and unusually packed archives, and over names that lead out of the folder."""


def is_archive(file: Path) -> bool:
    """Whether a file is unpacked, by its ending."""
    return file.name.lower().endswith(ARCHIVES)


def unpacked(file: Path) -> Path:
    """The folder that an archive holds: a copy in the cache, without folders that hold nothing but the next one.

    Raises:
        DataError: it is damaged, encrypted, or would be far larger than it is.
    """
    return _inner(_made_once(_digest(file), lambda folder: _unpack(file, folder)))


def unpacked_beside(archives: Sequence[Path], tables: Sequence[Path]) -> Path:
    """A folder in the cache in which each archive is a folder of its name, train.zip the folder train, beside copies of the tables.

    Raises:
        DataError: as `unpacked`, or two archives of one name.
    """
    names = [archive_name(file) for file in archives]
    if twice := [name for name in names if names.count(name) > 1]:
        alike = " and ".join(file.name for file in archives if archive_name(file) == twice[0])
        raise DataError(str(archives[0].parent), [Problem("data.source", f"{alike} are one folder when they are unpacked")])

    def make(folder: Path) -> None:
        for file, name in zip(archives, names, strict=True):
            packed = folder.with_name(f"{folder.name}.{name}")
            try:
                _unpack(file, packed)
                inner = _inner(packed, name)
                folder.mkdir(exist_ok=True)
                inner.replace(folder / name)
            finally:
                shutil.rmtree(packed, ignore_errors=True)
        for file in tables:
            shutil.copyfile(file, folder / file.name)

    return _made_once(key_of({file.name: _digest(file) for file in (*archives, *tables)}), make)


def archive_name(file: Path) -> str:
    """What an archive is called: "train" of train.tar.gz, and of train.csv.zip, which holds the one table."""
    ending = max((ending for ending in ARCHIVES if file.name.lower().endswith(ending)), key=len)
    name = file.name[: -len(ending)]
    return Path(name).stem if table_ending(name) else name


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _made_once(digest: str, make: Callable[[Path], None]) -> Path:
    """The folder of a digest in the cache: as it is there, or made."""
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hftl" / f"{digest[:32]}.unpacked"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                make(partial)
                partial.replace(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def _inner(folder: Path, own: str = "") -> Path:
    """A folder without those around it that hold nothing but the next one; one that is called as a split stays, but for `own`."""
    while True:
        folders, files = list_folder(folder)
        if len(folders) != 1 or files or role_of(folders[0].name) not in (None, role_of(own, loosely=True)):
            return folder
        folder = folders[0]


def _unpack(file: Path, folder: Path) -> None:
    """Unpack an archive into a new folder.

    Raises:
        DataError: see `unpacked`.
    """
    try:
        _extract(file, folder)
    except _DAMAGED as error:
        raise DataError(str(file), [Problem("data.source", f"cannot be unpacked: {' '.join(str(error).split())}")]) from None


def _extract(file: Path, folder: Path) -> None:
    most = max(_ALWAYS_UNPACKED, _MOST_UNPACKED * file.stat().st_size)
    if file.name.lower().endswith(".zip"):
        with zipfile.ZipFile(file) as archive:
            _check_room(file, sum(info.file_size for info in archive.infolist()), most)
            archive.extractall(folder)  # a name that leads out of the folder is cut, and a link becomes a file
    else:
        with tarfile.open(file) as tar:
            _check_room(file, sum(member.size for member in tar), most)
            tar.extractall(folder, filter="data")  # a name or a link that leads out of the folder is an error


def _check_room(file: Path, total: int, most: int) -> None:
    free = shutil.disk_usage(Path(datasets.config.HF_DATASETS_CACHE)).free
    if total > most:
        raise DataError(str(file), [Problem("data.source", f"would unpack to {size(total)}, which no data set does")])
    if total > free:
        what = f"unpacks to {size(total)}, and {size(free)} are free in {datasets.config.HF_DATASETS_CACHE}"
        way_out = "for another folder of the cache: export HF_DATASETS_CACHE=..."
        raise DataError(str(file), [Problem("HF_DATASETS_CACHE", what, (way_out,))])
