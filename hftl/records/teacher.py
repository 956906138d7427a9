"""teacher.json: the finished run whose answers a run has learned from, and how both answer the same rows.

Training writes it before its first step; what a split's answers come to is added when the split has been predicted.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from hftl.records.baseline import MacroF1Gain
from hftl.records.shape import Interval, read_record
from hftl.run import RunDirectory


class TaughtRows(TypedDict):
    """How many rows it has answered to learn from."""

    labelled: int
    unlabelled: int


class AgainstTeacher(TypedDict):
    """Model and teacher on the same rows, see `hftl.evaluation.gain.against_teacher`."""

    n: int
    model_accuracy: float
    teacher_accuracy: float
    difference: float
    difference_interval: Interval | None
    right_in_model_alone: int
    right_in_teacher_alone: int
    p: float
    agreement: float
    """Share of the rows that both answer alike."""
    macro_f1: NotRequired[MacroF1Gain]


class TeacherRecord(TypedDict):
    """The file."""

    run: str
    """What its directory is called."""
    architecture: str
    parameters: int
    model: dict[str, str]
    """SHA-256 of each file of its model."""
    label_names: list[str]
    """In the order of the answers."""
    target: str
    rows: TaughtRows
    judged_by: dict[str, str]
    """Split -> the digest of the rows that this run is judged by: validation, and test where there is one."""
    unknown: str | None
    """Why it is not known whether it has learned from rows of these splits; None: it has not."""
    splits: dict[str, AgainstTeacher]
    """Validation and test, as far as both have answered their rows."""


def read_teacher(run: RunDirectory) -> TeacherRecord | None:
    """The teacher of a run; None: it has none.

    Raises:
        RunError: the file is not as hftl writes it.
    """
    return read_record(run.teacher, TeacherRecord) if run.teacher.is_file() else None
