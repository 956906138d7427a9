"""The plan: which layer groups train in which stage, at which rate, and what that costs, before compute is spent.

Here is what it says, in plan.json and on a terminal; `hftl.training.planning` makes it, `hftl.training.costs` counts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from hftl.errors import printable
from hftl.files import to_json
from hftl.records.plan import read_plan
from hftl.run import RunDirectory
from hftl.terminal import Shown
from hftl.wording import duration, percent, size


@dataclass(frozen=True)
class GroupPlan:
    """One layer group in one stage."""

    name: str
    trains: bool
    lr: float | None
    """None when it is frozen."""
    weight_decay: float
    """For its matrices and filters; 0 for its biases, norms and embeddings."""


@dataclass(frozen=True)
class StagePlan:
    """One column of the table."""

    name: str
    unfreeze: tuple[str, ...]
    epochs: int
    batch_size: int
    steps: int
    optimizer: str
    schedule: str
    loss: str
    class_weights: str | None
    """How they come about; None: none."""
    sampling: str | None
    """How an epoch draws its examples; None: each once."""
    l1: float
    """Of its matrices and filters."""
    average: str | None
    """Of the weights; None: none."""
    average_bytes: int
    """What it takes beside the weights, in memory and in each checkpoint."""
    mix: str | None
    """How the pictures of each step are mixed; None: they are not."""
    image_size: int | None
    """Side of the training pictures, in pixels; None: that of evaluation."""
    lora: str | None
    """The adapters that train in place of the weights below the head, in words; None: none."""
    trainable_parameters: int
    trainable_share: float
    optimizer_bytes: int
    cached_up_to: str | None
    """The first training group where what enters it is computed once and kept; None: nothing is frozen before it, or it is computed
    in every epoch."""
    cache_bytes: float
    """About how large that is, for the training and the validation examples."""
    flops: float
    """Floating point operations of all its training steps, and of filling the cache."""
    cost_share: float
    """`flops` over what training every group for as many epochs would take."""
    groups: tuple[GroupPlan, ...]


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """The whole table."""

    model: str
    parameters: int
    train_examples: int
    groups: tuple[dict[str, Any], ...]
    """{"name", "parameters"} of each layer group, input first."""
    stages: tuple[StagePlan, ...]
    padding_share: float | None
    """About how much of what an epoch computes is padding, by the lengths of some training texts; None for pictures."""
    remarks: tuple[str, ...]
    """What was changed of the model so that it can be taken; what a stage does for rare classes, and which computes examples twice;
    why one computes its frozen layers in every epoch."""
    understood: tuple[str, ...]
    """How the source was read, in two lines: its splits, its labels."""
    flops: float
    at_least_minutes: float | None
    """`flops` at the matrix rate measured on this machine: a lower bound, since real steps do not reach it. None: not measured."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.understood:
            yield from (Text("\n".join(map(printable, self.understood))), "")
        yield from (plan_table(self), "", Text(plan_footer(self)))


def plan_on_record(plan: Plan, run: RunDirectory) -> tuple[Plan, list[str]]:
    """The plan that a continued run was started with, as plan.json has it; and where the one that was made now differs, a line.

    A session measures the machine anew and finds another least time: that of the start stands.
    """
    if not run.plan.is_file():
        return plan, []
    recorded: Mapping[str, Any] = read_plan(run)
    shown = dataclasses.replace(plan, at_least_minutes=recorded["at_least_minutes"])
    now = json.loads(to_json(shown.to_dict()))
    differs = [key for key in now if now[key] != recorded[key]]
    if not differs:
        return shown, []
    return shown, [f"plan.json keeps the plan of the start; the one above differs from it in {', '.join(differs)}"]


def plan_table(plan: Plan) -> Table:
    """The plan for a terminal: a row for each layer group, a column for each stage."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", padding=(0, 2))
    table.add_column("group", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for number, stage in enumerate(plan.stages, start=1):
        table.add_column(f"{number} {stage.name}", justify="right", no_wrap=True)
    for row, group in enumerate(plan.groups):
        rates = [stage.groups[row].lr for stage in plan.stages]
        table.add_row(
            group["name"], f"{group['parameters']:,}", *("[dim]frozen[/dim]" if rate is None else f"{rate:.1e}" for rate in rates)
        )

    def total(label: str, whole: str, cells: Iterator[str]) -> None:
        table.add_row(label, whole, *cells, style="cyan")

    table.add_section()
    stages = plan.stages
    total("trains", f"{plan.parameters:,}", (percent(stage.trainable_share) for stage in stages))
    if any(stage.lora for stage in stages):
        total("adapters", "", (stage.lora or "-" for stage in stages))
    total("epochs x batch", "", (f"{stage.epochs} x {stage.batch_size}" for stage in stages))
    total("steps", f"{sum(stage.steps for stage in stages):,}", (f"{stage.steps:,}" for stage in stages))
    total("optimizer", "", (stage.optimizer for stage in stages))
    total("schedule", "", (stage.schedule for stage in stages))
    if any(stage.loss != "cross_entropy" for stage in stages):
        total("loss", "", (stage.loss for stage in stages))
    if any(stage.class_weights for stage in stages):
        total("class weights", "", (stage.class_weights or "-" for stage in stages))
    if any(stage.sampling for stage in stages):
        total("sampling", "", (stage.sampling or "-" for stage in stages))
    if any(stage.l1 for stage in stages):
        total("l1", "", (f"{stage.l1:g}" for stage in stages))
    if any(stage.mix is not None for stage in stages):
        total("mix", "", (stage.mix or "-" for stage in stages))
    if any(stage.image_size is not None for stage in stages):
        total("pixels", "", (str(stage.image_size or "as tested") for stage in stages))
    total("optimizer memory", "", (size(stage.optimizer_bytes) for stage in stages))
    if any(stage.average for stage in stages):
        cells = (f"{stage.average}, {size(stage.average_bytes)}" if stage.average else "-" for stage in stages)
        total("average of weights", "", cells)
    total("cached up to", "", (stage.cached_up_to or "-" for stage in stages))
    total("cache", "", (size(stage.cache_bytes) if stage.cached_up_to else "-" for stage in stages))
    total("cost", _flops(plan.flops), (_flops(stage.flops) for stage in stages))
    total("of training all", "", (percent(stage.cost_share) for stage in stages))
    return table


def plan_footer(plan: Plan) -> str:
    """What the table means, in a line or two."""
    sentences = [f"{plan.model}, {plan.train_examples:,} training examples."]
    if plan.padding_share is not None:
        sentences.append(f"About {percent(plan.padding_share)} of the tokens that are computed are padding.")
    if plan.at_least_minutes is not None:
        least = duration(60 * plan.at_least_minutes)
        sentences.append(f"At this machine's matrix rate that is {least} of training at the least; real steps take longer.")
    return "\n".join([" ".join(sentences), *plan.remarks])


def _flops(count: float) -> str:
    for unit in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:.3g} {unit}FLOP"
        count /= 1000
    return f"{count:.3g} EFLOP"
