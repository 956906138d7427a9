"""FILE.json, which `hftl vectors` writes beside a file of word vectors: how they were learned, and from which texts."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from hftl.files import read_json
from hftl.records.shape import as_record

LEARNED = "learned_vectors"
"""The one key of the file; other files called FILE.json do not have it."""


class LearnedTexts(TypedDict):
    """Texts that were learned from; `sha256` is that of the texts in their order, a zero byte after each."""

    name: str
    texts: int
    left_out: dict[str, int]
    sha256: str


class FileEntry(TypedDict):
    """Which file it is about, see `hftl.files.fingerprint`."""

    sha256: str
    size: int


class VectorsFile(TypedDict):
    """What is under the key; beside it what else there is to know of it."""

    method: str
    dimensions: int
    window: int
    epochs: int
    seed: int
    seconds: float
    texts: list[LearnedTexts]
    file: FileEntry


def read_learned(path: Path) -> VectorsFile | None:
    """How the vectors in a file were learned; None where nothing beside it says that `hftl vectors` made it.

    Raises:
        RunError: what is beside it is not JSON, or not as hftl writes it.
    """
    beside = path.with_name(f"{path.name}.json")
    if not (path.is_file() and beside.is_file()):
        return None
    found = read_json(beside)
    return as_record(found[LEARNED], VectorsFile, source=str(beside), key=LEARNED) if LEARNED in found else None
