"""Archives (.zip, .tar): unpacked once into the cache of datasets, under the digest of the file."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

import datasets

from hftl.data.layout import list_folder, role_of
from hftl.errors import DataError, Problem
from hftl.store import exclusive_lock
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
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hftl" / f"{digest[:32]}.unpacked"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                _unpack(file, partial)
                partial.replace(folder)
            except _DAMAGED as error:
                raise DataError(
                    str(file), [Problem("data.source", f"cannot be unpacked: {' '.join(str(error).split())}")]
                ) from None
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    while True:
        folders, files = list_folder(folder)
        if len(folders) != 1 or files or role_of(folders[0].name):
            return folder
        folder = folders[0]


def _unpack(file: Path, folder: Path) -> None:
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
