"""shrink.json: the smaller forms of a run's model that `hftl shrink` has measured, and the one that reaches the targets."""

from __future__ import annotations

from typing import TypedDict

from hftl.records.shape import Interval, read_record
from hftl.run import RunDirectory


class Latency(TypedDict):
    """Seconds of an answer."""

    median: float
    p95: float


class Form(TypedDict):
    """One form of the model, measured."""

    name: str
    folder: str | None
    """Below RUN/shrink; None: it is worse than the model, and was not kept."""
    bytes: int
    """On the disk: graph, weights, and what serving needs beside them."""
    peak_bytes: int
    """Of a process that does nothing but serve it."""
    batch_1: Latency
    batch_32: Latency
    accuracy: float
    """On validation; of several labels an example the exact match."""
    difference: float
    """From the run's own model, on the same rows."""
    difference_interval: Interval | None
    not_worse: bool
    """The whole interval lies above minus the margin."""
    reaches: bool
    """Every target."""


class LeftOut(TypedDict):
    """A form that there is not, and why."""

    name: str
    why: str


class ShrinkRecord(TypedDict):
    """The file."""

    time: str
    processor: str
    threads: int
    runtime: str
    n: int
    """Validation rows that the forms have answered."""
    margin: float
    sources: dict[str, str]
    """What the names of a model's forms begin with (nothing of the run's own, a student's name) -> SHA-256 of its predictions on
    validation."""
    target_ms: float | None
    """Of the median answer to one input."""
    target_mb: float | None
    forms: list[Form]
    left_out: list[LeftOut]
    chosen: str | None
    """The name of the most accurate form that is not worse and reaches the targets; None: there is none, or no target."""


def read_shrink(run: RunDirectory) -> ShrinkRecord | None:
    """The smaller forms of a run's model; None: nobody has asked for them.

    Raises:
        RunError: the file is not as hftl writes it.
    """
    return read_record(run.shrink, ShrinkRecord) if run.shrink.is_file() else None
