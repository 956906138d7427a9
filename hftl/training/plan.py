"""The plan: which layer groups train in which stage, at which rate, and what that costs, before compute is spent.

Costs are counted, not guessed: the floating point operations of one forward pass of a typical example are counted group by
group (torch's FlopCounterMode); the backward pass of a group costs as much again for its weights' gradients and as much again
for its input's. Groups below the lowest training group need no backward pass.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hftl.errors import printable
from hftl.files import to_json
from hftl.models.chain import HEAD, Chain
from hftl.models.recompute import recompute_layers
from hftl.records.plan import read_plan
from hftl.run import RunDirectory
from hftl.terminal import Shown
from hftl.training.average import average_bytes, trained_tensors
from hftl.training.resolved import ResolvedStage
from hftl.training.stage import freeze, optimizer_numbers, train_mode
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


def forward_flops(model: nn.Module, chain: Chain, inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Floating point operations of one forward pass, by layer group."""
    counts = dict.fromkeys(chain.names, 0)
    owner = {name: group for group in chain.names for name in chain.modules[group]}
    running: list[int] = []  # operations counted so far when each of the modules being run was entered
    with _counting_mode(model) as counter:

        def enter(*_: Any) -> None:
            running.append(counter.get_total_flops())

        def leave(group: str) -> None:
            started = running.pop()
            if not running:  # what a module calls is counted with it
                counts[group] += counter.get_total_flops() - started

        handles = []
        for name, module in model.named_modules():
            if name in owner:
                handles.append(module.register_forward_pre_hook(enter))
                handles.append(module.register_forward_hook(lambda *_, group=owner[name]: leave(group)))
        model(**inputs)
        for handle in handles:
            handle.remove()
    return counts


@contextmanager
def _counting_mode(model: nn.Module) -> Iterator[FlopCounterMode]:
    """No gradients and no fused kernels (which the counter cannot look into), the model in evaluation mode; all put back after."""
    was_training, was_enabled = model.training, torch.backends.mkldnn.enabled
    model.eval()
    # Its fused LSTM is one operation of unknown size. (torch declares no type for the flag.)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mkldnn.enabled = was_enabled
        model.train(was_training)


def step_flops(forward: Mapping[str, int], trains: Sequence[str], *, start: str | None = None, recompute: bool = False) -> int:
    """Operations of a training step on one example; with `start`, from a stored activation that enters this group; with `recompute`
    the groups that train, but for the head, compute forward once more.

    Three groups of 10 of which the last trains: 30 forward, 20 backward. The last two: 30 + 40. First and last: 30 + 20 + 10 + 20.
    The last one from what enters it: 10 + 20.
    """
    names = list(forward)
    lowest = min(names.index(name) for name in trains)
    backward = sum((2 if name in trains else 1) * forward[name] for name in names[lowest:])
    again = sum(forward[name] for name in trains if name != HEAD) if recompute else 0
    return sum(forward[name] for name in names[names.index(start) if start else 0 :]) + backward + again


def kept_bytes(
    model: nn.Module, chain: Chain, trains: Sequence[str], inputs: Mapping[str, torch.Tensor], *, recompute: bool
) -> int:
    """Bytes that a forward pass keeps for the backward pass in float32, beside the weights; with `recompute`, see that module.

    `model` is left as it is: the pass is one of a copy.
    """
    working: Any = copy.deepcopy(model)
    freeze(working, chain, trains)
    if recompute:
        recompute_layers(working, chain)
    train_mode(working, chain, trains)
    known = {tensor.untyped_storage().data_ptr() for tensor in (*working.parameters(), *working.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # which hold them, so that no other takes their place

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        working(**inputs)
    return sum(storage.nbytes() for storage in kept.values())


@dataclass(frozen=True)
class CachedPrefix:
    """What a stage keeps of its frozen prefix."""

    group: str
    """The first training group."""
    bytes: float
    """Bytes of all that is stored."""
    num_views: int
    """Stored rows of an example: the views of a picture with augmentation, 1 without."""


def build_plan(
    stages: Sequence[ResolvedStage],
    model: nn.Module,
    chain: Chain,
    *,
    train_examples: int,
    forward: Mapping[str, int],
    flops_per_second: float | None,
    forward_of: Mapping[str, Mapping[str, int]] | None = None,
    recompute: bool = False,
    cached: Mapping[str, CachedPrefix] | None = None,
    padding_share: float | None = None,
    remarks: Sequence[str] = (),
    understood: Sequence[str] = (),
) -> Plan:
    """The plan of a recipe's stages on a model.

    Args:
        forward: cost of a typical example from `forward_flops`.
        forward_of: the same for each stage, whose pictures may be of another size; None: `forward` for all.
        cached: for the stages that compute their frozen prefix once.
        flops_per_second: of this machine; None: not measured.
        recompute: layers that train are computed again in the backward pass.
    """
    shape = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    sizes = {group: sum(math.prod(shape[name]) for name in chain.parameters[group]) for group in chain.names}
    columns = tuple(
        _stage_plan(
            stage,
            shape,
            sizes,
            train_examples,
            (forward_of or {}).get(stage.name, forward),
            (cached or {}).get(stage.name),
            average_bytes(stage.average, trained_tensors(model, chain, stage.trains), epochs=stage.epochs),
            recompute=recompute,
            whole=step_flops(forward, list(sizes), recompute=recompute),
        )
        for stage in stages
    )
    flops = sum(column.flops for column in columns)
    return Plan(
        model=type(model).__name__,
        parameters=sum(sizes.values()),
        train_examples=train_examples,
        groups=tuple({"name": name, "parameters": count} for name, count in sizes.items()),
        stages=columns,
        padding_share=padding_share,
        remarks=tuple(remarks),
        understood=tuple(understood),
        flops=flops,
        at_least_minutes=None if flops_per_second is None else flops / flops_per_second / 60,
    )


def _stage_plan(
    stage: ResolvedStage,
    shape: Mapping[str, tuple[int, ...]],
    sizes: Mapping[str, int],
    train_examples: int,
    forward: Mapping[str, int],
    cached: CachedPrefix | None,
    bytes_of_average: int,
    *,
    recompute: bool,
    whole: int,
) -> StagePlan:
    """One column; `shape` is of each parameter, `sizes` are the numbers in each layer group.

    `forward` is of the stage's own pictures, `whole` a training step of all groups on an example as evaluation sees it.
    """
    groups, trainable = list(sizes), sum(sizes[group] for group in stage.trains)
    seen = train_examples * stage.epochs
    computed = seen * stage.loss.passes
    flops = computed * step_flops(forward, stage.trains, recompute=recompute)
    if cached is not None:
        before = sum(forward[group] for group in groups[: groups.index(cached.group)])
        from_there = step_flops(forward, stage.trains, start=cached.group, recompute=recompute)
        flops = computed * from_there + train_examples * cached.num_views * before
    decay = {group.name: group.weight_decay for group in reversed(stage.param_groups)}  # the one with weight decay comes first
    return StagePlan(
        name=stage.name,
        unfreeze=stage.trains,
        epochs=stage.epochs,
        batch_size=stage.batch_size,
        steps=stage.steps,
        optimizer=stage.optimizer.kind,
        schedule=stage.schedule.kind,
        loss=stage.loss.kind,
        class_weights=stage.class_weights,
        sampling=stage.sampling,
        l1=max(group.l1 for group in stage.param_groups),
        average=None if stage.average is None else stage.average.kind,
        average_bytes=bytes_of_average,
        mix=None if stage.mix is None else stage.mix.kind,
        image_size=stage.image_size,
        trainable_parameters=trainable,
        trainable_share=trainable / sum(sizes.values()),
        optimizer_bytes=4
        * sum(
            optimizer_numbers(stage.optimizer, [shape[name] for name in group.parameters], hidden=group.hidden)
            for group in stage.param_groups
        ),
        cached_up_to=None if cached is None else cached.group,
        cache_bytes=0.0 if cached is None else cached.bytes,
        flops=flops,
        cost_share=flops / max(1, seen * whole),
        groups=tuple(
            GroupPlan(group, trains=group in stage.trains, lr=stage.rates.get(group), weight_decay=decay.get(group, 0.0))
            for group in groups
        ),
    )


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
