"""trial.json: what a single fit of a study came to."""

from __future__ import annotations

from typing import Literal, TypedDict

from hftl.records.shape import read_record
from hftl.run import RunDirectory

State = Literal["complete", "pruned", "failed"]


class TrialRecord(TypedDict):
    """The file."""

    name: str
    state: State
    value: float | None
    """Of the recipe's metric on validation, in the best epoch; None: it failed before its first evaluation."""
    metrics: dict[str, float]
    """Of that epoch."""
    epochs: int
    """That were trained, over all stages."""
    steps: int
    seconds: float
    """Of training, over all sessions; what is computed once for several trials is in those of the first."""
    flops: float
    """Floating point operations that were planned for it."""
    reason: str | None
    """Why it failed, or was pruned."""


def read_trial_record(run: RunDirectory) -> TrialRecord | None:
    """What a trial came to; None: it is not done, or the run is no trial.

    Raises:
        RunError: its trial.json is not as hftl writes it.
    """
    return read_record(run.trial, TrialRecord) if run.trial.is_file() else None
