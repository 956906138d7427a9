"""What the names in a source mean: which split, which kind of file, and what is no part of a data set.

Folders, files, splits of a Hub data set and values of a column are all read by the one table of split names that is here. Nothing
in this module opens a table or decodes a picture.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from hftl.errors import DataError, Problem

Role = Literal["train", "validation", "test", "extra"]
"""What rows are for; "extra" are further ones for training alone, `data.extra`, and no split of the source."""
ROLES: tuple[Role, ...] = ("train", "validation", "test")
NO_FILE = "neither a file nor a folder, but a device, a pipe or a socket"

# --- split names --------------------------------------------------------------------------------------------------------------

SPLIT_NAMES: Mapping[Role | Literal["either"], tuple[str, ...]] = {
    "train": ("train", "training", "训练", "訓練", "entrenamiento", "apprentissage", "treino"),
    "validation": (
        *("validation", "val", "valid", "validate", "dev", "development"),
        *("验证", "驗證", "検証", "validierung"),
    ),
    "test": ("test", "testing", "测试", "測試", "テスト", "prueba", "teste"),
    # Some call the one so, some the other.
    "either": ("eval", "evaluation"),
}
"""What a split may be called: in any case, also with "set", "data", "images" or the like after it, such as TRAINING or val_set."""
SPLIT_COLUMNS = ("split", "data_split", "dataset_split", "set", "subset", "partition", "usage")
"""Columns that may say for each row which split it belongs to; those after the first three are looked at for their values alone."""
FLAG_COLUMNS: Mapping[str, Role] = {
    "is_valid": "validation",
    "is_validation": "validation",
    "is_val": "validation",
    "is_test": "test",
}
"""Columns that say of each row whether it belongs to one split, and else to train."""

_MEANS = {word: role for role, words in SPLIT_NAMES.items() for word in words}
_ORDER = {word: place for place, word in enumerate(_MEANS)}
_AFTER = ("sets?", "集", "数据", "data", "dataset", "split", "images?", "imgs?", "pictures", "photos", "files")
_WHOLE = re.compile(rf"({'|'.join(sorted(_MEANS, key=len, reverse=True))})[-_. ]*(?:{'|'.join(_AFTER)})?")


def role_of(name: str, *, loosely: bool = False) -> Role | Literal["either"] | None:
    """What a name means as the name of a split; None: nothing, or several things at once.

    "Train", "training_set" and "valData" mean one by their whole name. Loosely one word of it is enough: "imdb_train", "test2017",
    "PublicTest"; but "contest" has none in it.
    """
    whole = _WHOLE.fullmatch(name.strip().casefold())
    if whole:
        return _MEANS[whole[1]]
    if not loosely:
        return None
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))
    roles = {role for word in words if (role := role_of(word))}
    return roles.pop() if len(roles) == 1 else None


def flagged(column: str, value: object) -> str:
    """What a value in one of the `FLAG_COLUMNS` means as the name of a split; itself where it says neither yes nor no."""
    text = str(value).strip().casefold()
    if text in ("true", "1", "1.0", "yes"):
        return FLAG_COLUMNS[column.strip().casefold()]
    return "train" if text in ("false", "0", "0.0", "no") else str(value)


def data_root(folder: Path) -> Path:
    """Where links below a folder may lead: into it or, in the Hub's cache, into the repository of the snapshot, to its blobs."""
    real = folder.resolve()
    for inner in (real, *real.parents):
        repository = inner.parent.parent
        if inner.parent.name == "snapshots" and repository.name.startswith("datasets--") and (repository / "blobs").is_dir():
            return repository
    return real


def named(role: Role | Literal["either"], names: Iterable[str]) -> list[str]:
    """Those of `names` that mean a role: by their whole names or, where none does, by a word in them."""
    names = list(names)
    for loosely in (False, True):
        fitting = [name for name in names if role_of(name, loosely=loosely) == role]
        if fitting:
            return sorted(fitting, key=lambda name: (_ORDER.get(name.casefold(), len(_ORDER)), names.index(name)))
    return []


def find_name(wanted: str, names: Sequence[str]) -> str | None:
    """The name that was asked for: that very one or, where there is none, the only one that differs in case alone."""
    if wanted in names:
        return wanted
    same = [name for name in names if name.casefold() == wanted.casefold()]
    return same[0] if len(same) == 1 else None


# --- kinds of files -----------------------------------------------------------------------------------------------------------

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".xlsx")
PACKED: Mapping[str, str] = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
"""Endings of packed tables of text, and what the packing is called: by pyarrow, but for "xz", which Python unpacks."""
PHONE_PICTURES = (".heic", ".heif", ".hif")
"""Endings of what the extra `heic` reads."""
CAN_READ_HEIC = importlib.util.find_spec("pi_heif") is not None
PICTURES = (
    *(PHONE_PICTURES if CAN_READ_HEIC else ()),
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".jpe", ".jfif", ".mpo", ".apng", ".dib", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx", ".qoi", ".sgi", ".ras", ".dds", ".ico"),
)
"""Endings of what Pillow's own decoders read, and of phones' pictures with the extra; hftl.data.decoding has the formats."""
ARRAYS = (".npy",)
"""Endings of arrays of bands, which `data.bands` asks for, beside those of pictures; hftl.data.bands reads them."""
NO_ENDING = "no ending"
"""The place in counts by ending of files that have none."""

_FILMS = (".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg", ".3gp", ".flv", ".mts")
_OTHER_PICTURES = (
    *(
        *PHONE_PICTURES,
        ".jxl",
        ".svg",
        ".svgz",
        ".psd",
        ".psb",
        ".xcf",
        ".eps",
        ".ps",
        ".ai",
        ".pdf",
        ".wmf",
        ".emf",
        ".exr",
    ),
    *(
        ".hdr",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
        ".raf",
        ".pef",
        ".srw",
        ".raw",
        ".dcm",
        ".nii",
        ".fits",
        ".rgb",
    ),
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_OTHER_TABLES = (".txt", ".xls", ".xlsm", ".ods", ".arrow", ".feather", ".orc", ".pkl", ".npz", ".npy", ".h5")
DOCUMENTS = frozenset((".md", ".rst", ".txt", ".html", ".yaml", ".yml", ".json", ".py", ".ipynb", ".cff", ".bib"))
"""Endings of files that nobody takes for rows or pictures: counted like others, and not worth a line."""
# Files about a data set, by the name before the ending.
_ABOUT = frozenset(("readme", "license", "licence", "copying", "notice", "authors", "citation", "changelog", "requirements"))
PROVENANCE = "provenance.json"
"""Beside rows, or in their folder: where they are from, {key: value}."""
_DESCRIPTIONS = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json", PROVENANCE))
UNLABELLED = frozenset(("unsup", "unsupervised", "unlabeled", "unlabelled"))
"""Folders beside class folders that hold examples without a class, as aclImdb's train/unsup does."""
# What operating systems and programs leave in folders, besides hidden files.
_LEFT_BY_PROGRAMS = frozenset(
    ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin", "lost+found", "__pycache__")
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no part of any data set: hidden, or left by an operating system."""
    return name.startswith(".") or name.casefold() in _LEFT_BY_PROGRAMS or name.casefold() == "system volume information"


def is_about(file: Path) -> bool:
    """Whether a file tells about a data set and holds none of it: README.md, LICENSE, dataset_info.json."""
    stem, ending = file.name.partition(".")[0].casefold(), ending_of(file.name)
    return (stem in _ABOUT and ending not in TABLES) or file.name.casefold() in _DESCRIPTIONS


def is_data(file: Path) -> bool:
    """Whether a file may hold rows, such as a table, a text or an archive."""
    return not is_about(file) and ending_of(file.name) in (*TABLES, *_OTHER_TABLES, *_ARCHIVES)


def packing_of(name: str) -> str | None:
    """The ending of a file that is packed, such as ".gz"; None: it is not, or not so that it is unpacked here."""
    return next((ending for ending in PACKED if name.lower().endswith(ending)), None)


def plain_name(name: str) -> str:
    """A file's name without the ending of its packing: "train.csv" of "train.csv.gz"."""
    return name[: -len(packing_of(name) or "")] if packing_of(name) else name


def table_ending(name: str) -> str | None:
    """What kind of table a file is by its name: ".csv" of "a.CSV" and of "a.csv.gz"; None: none."""
    ending = ending_of(plain_name(name))
    if ending not in TABLES or (packing_of(name) and ending in (".parquet", ".xlsx")):  # these are packed inside
        return None
    return ".jsonl" if ending == ".ndjson" else ending


def ending_of(name: str) -> str:
    """The ending of a file's name in small letters, such as ".jpg"; `NO_ENDING` for "1", "img.25" and "a.jpg_large"."""
    match = re.search(r"(?<=.)\.[0-9]*[a-z][a-z0-9]{0,9}$", name.lower())
    return match[0] if match else NO_ENDING


def is_picture(file: Path) -> bool:
    """Whether a file is read as a picture: by its ending or, where it has none, by its first bytes."""
    ending = ending_of(file.name)
    if ending != NO_ENDING:
        return ending in PICTURES
    try:
        with file.open("rb") as stream:
            return begins_as_picture(stream.read(32))
    except OSError:
        return False


def is_text(file: Path) -> bool:
    """Whether a file is read as one text: by its ending or, where it has none, as its first bytes are letters."""
    ending = ending_of(file.name)
    if ending != NO_ENDING:
        return ending == ".txt" and not is_about(file)
    try:
        with file.open("rb") as stream:
            head = stream.read(1000)
    except OSError:
        return False
    return not is_about(file) and bool(head) and b"\0" not in head and not begins_as_picture(head[:32])


def begins_as_picture(head: bytes) -> bool:
    """Whether the first 32 bytes are those of a picture: JPEG, PNG, GIF, WebP, BMP, TIFF, PPM and its kin, AVIF, JPEG 2000."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  \r\n"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", *((b"heic", b"heix", b"mif1") if CAN_READ_HEIC else ())))
        or (head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124))
        or re.match(rb"P[1-6][ \t\r\n]+(#|[0-9])", head) is not None
    )


def counted(ignored: Mapping[str, int]) -> str:
    """Counts by ending in a sentence: "12 .heic, 3 .mov and 1 without an ending"."""
    parts = [
        f"{count:,} {'without an ending' if ending == NO_ENDING else ending}"
        for ending, count in sorted(ignored.items(), key=lambda entry: (-entry[1], entry[0]))
    ]
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def ways_out(endings: Iterable[str]) -> tuple[str, ...]:
    """What can be done about files that are left out for their endings."""
    endings = set(endings)
    ways = []
    if endings & set(PHONE_PICTURES):
        ways.append("for pictures of phones: pip install 'hftl[heic]'")
    if endings & set(_OTHER_PICTURES):
        ways.append("convert the pictures among them to .jpg or .png")
    if endings & set(_FILMS):
        ways.append("of films save frames as .jpg or .png")
    if endings & set(_ARCHIVES):
        ways.append("unpack the archives")
    if endings & set(ARRAYS):
        ways.append("arrays of several bands are read by data.bands, such as data.bands=13")
    return tuple(ways)


def list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted by name; without what is no part of a data set.

    Raises:
        DataError: something in it is neither, as a pipe or a device, from which one may read for ever.
    """
    strange = []
    listing: tuple[list[Path], list[Path]] = ([], [])
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not is_hidden(entry.name):
                is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
                listing[0 if is_folder else 1].append(folder / entry.name)
                if not is_folder and os.path.exists(entry.path) and not os.path.isfile(entry.path):
                    strange.append(Problem(entry.path, NO_FILE))
    if strange:
        raise DataError(str(folder), strange)
    return listing
