"""provenance.json, which `hftl pretrain` writes into a checkpoint: what was trained further, on which texts, and how."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from hftl.files import read_json
from hftl.records.shape import as_record

FILE = "provenance.json"
PRETRAINED = "pretraining"
"""The one key of the file; other files of this name do not have it."""


class PretrainedTexts(TypedDict):
    """Texts that were read; `sha256` is that of the texts in their order, a zero byte after each."""

    name: str
    texts: int
    left_out: dict[str, int]
    sha256: str


class BaseCheckpoint(TypedDict):
    """What it was trained from; `pretrained` false: random weights of its architecture."""

    checkpoint: str
    revision: str | None
    pretrained: bool
    weights: list[str]
    new_parameters: list[str]


class HeldOut(TypedDict):
    """A measure of the loss at masked places of the texts that were held out, in nats."""

    step: int
    loss: float


class WeightsEntry(TypedDict):
    """Which weights it is about, see `hftl.files.fingerprint`."""

    sha256: str
    size: int


class Pretraining(TypedDict):
    """What is under the key; beside it what else there is to know of it."""

    base: BaseCheckpoint
    texts: list[PretrainedTexts]
    held_out_texts: int
    steps: int
    tokens: int
    seed: int
    held_out: list[HeldOut]
    seconds: float
    file: WeightsEntry


def read_pretraining(file: Path) -> Pretraining | None:
    """How a checkpoint was pretrained, by its provenance.json; None: that file is not of `hftl pretrain`.

    Raises:
        RunError: it is not JSON, or not as hftl writes it.
    """
    found = read_json(file)
    return as_record(found[PRETRAINED], Pretraining, source=str(file), key=PRETRAINED) if PRETRAINED in found else None
