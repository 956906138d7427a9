"""plan.json: which layer group trains in which stage, at which rate, and what it costs. `hftl.training.plan` shows it."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from hftl.errors import RunError
from hftl.records.shape import read_record
from hftl.run import RunDirectory


class GroupSize(TypedDict):
    """A layer group and its number of parameters."""

    name: str
    parameters: int


class GroupInStage(TypedDict):
    """A layer group in a stage; `lr` None: it is frozen."""

    name: str
    trains: bool
    lr: float | None
    weight_decay: float


class StageRecord(TypedDict):
    """A stage, see `hftl.training.plan.StagePlan`."""

    name: str
    unfreeze: list[str]
    epochs: int
    batch_size: int
    steps: int
    optimizer: str
    schedule: str
    loss: str
    class_weights: NotRequired[str | None]
    sampling: NotRequired[str | None]
    l1: NotRequired[float]
    average: NotRequired[str | None]
    average_bytes: NotRequired[int]
    mix: NotRequired[str | None]
    image_size: NotRequired[int | None]
    lora: NotRequired[str | None]
    trainable_parameters: int
    trainable_share: float
    optimizer_bytes: int
    cached_up_to: str | None
    cache_bytes: float
    flops: float
    cost_share: float
    groups: list[GroupInStage]


class PlanRecord(TypedDict):
    """The file, see `hftl.training.plan.Plan`."""

    model: str
    parameters: int
    train_examples: int
    groups: list[GroupSize]
    stages: list[StageRecord]
    padding_share: float | None
    remarks: list[str]
    understood: list[str]
    flops: float
    at_least_minutes: float | None


def read_plan(run: RunDirectory) -> PlanRecord:
    """The plan that a run was started with.

    Raises:
        RunError: the file is missing, or is not as hftl writes it.
    """
    plan = read_record(run.plan, PlanRecord)
    for stage in plan["stages"]:
        if len(stage["groups"]) != len(plan["groups"]) or not stage["groups"]:
            raise RunError(f'{run.plan}: stage "{stage["name"]}" has not a line for each of the layer groups')
    return plan
