"""environment.json: versions, machine, number format; and at the end what training took. Written by `hftl.training.sessions`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from hftl.records.shape import read_record
from hftl.run import RunDirectory

Origin = Literal["stored", "computed", "both"]
"""Where a stage has what leaves its frozen layers from; "both": it changed at a resume."""


class Cached(TypedDict):
    """Of each split that training reads."""

    train: Origin
    validation: Origin


class EnvironmentRecord(TypedDict):
    """The file of a run that has started. None: this machine does not tell."""

    time: str
    python: str
    packages: dict[str, str | None]
    platform: str
    cpu: str | None
    cores: int
    memory_bytes: int | None
    git_commit: str | None
    processes: int
    distributed: str
    device: str
    precision: str
    threads: int
    sessions: int
    cached: NotRequired[dict[str, Cached]]
    """By stage, of those with frozen layers."""
    packages_before: NotRequired[dict[str, list[str]]]
    """Library -> the versions of earlier sessions, where they differ."""
    seconds: NotRequired[float]
    """Of training, once the run is finished."""


class FinishedEnvironment(EnvironmentRecord):
    """The file of a finished run."""

    seconds: float  # type: ignore[misc]
    cpu_energy_joules: float | None
    skipped_steps: NotRequired[int]


def read_environment(run: RunDirectory) -> EnvironmentRecord:
    """What a run computes on.

    Raises:
        RunError: the file is missing, or is not as hftl writes it.
    """
    return read_record(run.environment, EnvironmentRecord)


def read_finished_environment(run: RunDirectory) -> FinishedEnvironment:
    """What a finished run was computed on, and what it took.

    Raises:
        RunError: the file is missing, or is not that of a finished run.
    """
    return read_record(run.environment, FinishedEnvironment)
