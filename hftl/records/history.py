"""history.jsonl: the lines that others than the journal read. `RunDirectory.read_history` gives all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast

from hftl.errors import RunError
from hftl.records.plan import PlanRecord
from hftl.records.shape import as_record
from hftl.run import RunDirectory


class StepLine(TypedDict):
    """A logged step; `lr` has the rate of each group that trains."""

    stage: str
    epoch: int
    step: int
    loss: float
    lr: dict[str, float]


class EvaluationLine(TypedDict):
    """The end of an epoch; `kept`: its weights took the place of those that the run had."""

    stage: str
    epoch: int
    step: int
    train_loss: float
    validation: dict[str, float]
    kept: bool


class StageEnd(TypedDict):
    """The end of a stage; `kept`: the run has weights of it; `soup`: the epochs whose mean is the best of it."""

    stage: str
    best_epoch: int
    best_metric: float
    kept: bool
    soup: NotRequired[list[int]]


LINES: Mapping[str, type[Mapping[str, Any]]] = {"step": StepLine, "evaluation": EvaluationLine, "stage_end": StageEnd}


def read_history(run: RunDirectory) -> list[dict[str, Any]]:
    """All lines of the file; those in `LINES` have the keys of their record.

    Raises:
        RunError: the file cannot be read, or such a line is not as hftl writes it.
    """
    history = run.read_history()
    for number, line in enumerate(history, start=1):
        if line["event"] in LINES:
            as_record(line, LINES[line["event"]], source=f"{run.history}, line {number}")
    return history


def read_stage_ends(run: RunDirectory, plan: PlanRecord) -> list[StageEnd]:
    """The ends of all stages of a finished run, in their order.

    Raises:
        RunError: the file cannot be read, such a line is not as hftl writes it, or a stage of the plan has none.
    """
    ends = [cast("StageEnd", line) for line in read_history(run) if line["event"] == "stage_end"]
    if endless := {stage["name"] for stage in plan["stages"]} - {end["stage"] for end in ends}:
        raise RunError(f"{run.history}: has no end of {', '.join(sorted(endless))}, which plan.json has as a stage")
    return ends
