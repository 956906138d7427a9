"""audit.json: what was found in the data before the first step. `hftl.data.audit` makes it and says it in lines."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from hftl.errors import RunError
from hftl.records.data import Duplicates, TextFacts, Vocabulary
from hftl.records.shape import Pair, read_record
from hftl.run import RunDirectory


class AuditedSplit(TypedDict):
    """Balance and sizes of a split: `lengths` of texts, `sizes` of pictures."""

    n: int
    per_class: dict[str, int]
    imbalance: float
    absent: list[str]
    lengths: NotRequired[TextFacts]
    sizes: NotRequired[dict[str, float]]
    without_words: NotRequired[list[str]]


class NearRows(TypedDict):
    """How many rows of the second split nearly repeat one of the first."""

    splits: Pair
    rows: int


class NearDuplicates(TypedDict):
    """What nearly repeats something else in the splits as they are used."""

    threshold: float
    within: dict[str, int]
    across: list[NearRows]
    conflicting: int


class Reason(TypedDict):
    """Why rows were left out, and how many."""

    why: str
    n: int


class AuditRecord(TypedDict):
    """The file, see `hftl.data.audit.Audit`."""

    kind: str
    splits: dict[str, AuditedSplit]
    duplicates: Duplicates
    near_duplicates: NearDuplicates
    skipped: list[Reason]
    notes: list[dict[str, Any]]
    vocabulary: Vocabulary | None
    classes: dict[str, Any]
    texts: dict[str, Any] | None
    tokens: dict[str, Any] | None
    understood: list[str]
    ignored_files: dict[str, int]
    unused: list[str]
    remarks: list[str]


def read_audit(run: RunDirectory) -> AuditRecord:
    """The audit of a run's data.

    Raises:
        RunError: the file is missing, or is not as hftl writes it.
    """
    audit = read_record(run.audit, AuditRecord)
    for name, split in audit["splits"].items():
        if ("lengths" in split) == ("sizes" in split):
            raise RunError(f'{run.audit}: split "{name}" has lengths of texts or sizes of pictures, one of them')
    return audit
