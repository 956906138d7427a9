"""What a stage asks of a model: which layer groups train, at which rates, with which optimizer and schedule.

Gradual unfreezing, discriminative learning rates, slanted triangular rates: Howard & Ruder 2018, arXiv:1801.06146.
Frozen means frozen: no gradient, not in the optimizer, BatchNorm statistics and dropout off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from hftl.models.chain import HEAD, Chain
from hftl.recipe import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    ConstantSchedule,
    CosineRestartsSchedule,
    CosineSchedule,
    ExponentialSchedule,
    InverseSqrtSchedule,
    Lamb,
    LinearSchedule,
    Lion,
    Muon,
    NAdam,
    OneCycleSchedule,
    Optimizer,
    PlateauSchedule,
    PolynomialSchedule,
    RAdam,
    RMSprop,
    Schedule,
    SlantedTriangularSchedule,
    Stage,
    StepSchedule,
    WSDSchedule,
)

# Slanted triangular: the share of steps that rise, and how much smaller the lowest rate is than the highest (Howard & Ruder, 3.2).
RISE, RATIO = 0.1, 32.0


def layer_learning_rates(num_groups: int, *, base_lr: float, decay: float) -> list[float]:
    """Learning rate of each layer group, input first; the last one gets `base_lr`.

    Group i of n gets ``base_lr * decay ** (n - 1 - i)``. With three groups, 1e-3 and 0.5: [2.5e-4, 5e-4, 1e-3].

    Raises:
        ValueError: `decay` is outside (0, 1].
    """
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"a decay is greater than 0 and at most 1, not {decay}")
    return [base_lr * decay ** (num_groups - 1 - i) for i in range(num_groups)]


def group_rates(names: Sequence[str], stage: Stage) -> dict[str, float]:
    """Learning rate of every layer group, were it to train; the head's is multiplied by `head_lr_multiplier`.

    Computed over the whole chain, so unfreezing a group never changes another group's rate.
    """
    rates = dict(zip(names, layer_learning_rates(len(names), base_lr=stage.lr, decay=stage.layer_decay), strict=True))
    rates[HEAD] *= stage.head_lr_multiplier
    return rates


def decayed_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to: matrices and filters, not biases, norms or embeddings."""
    spared = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for name, module in model.named_modules():
        if callable(listed := getattr(module, "no_weight_decay", None)):  # timm's list: position embeddings, class tokens
            spared |= {f"{name}.{parameter}" for parameter in listed()}
    return {name for name, parameter in model.named_parameters() if parameter.ndim > 1 and name not in spared}


@dataclass(frozen=True)
class ParamGroup:
    """Parameters of one layer group that have one rate and one weight decay."""

    name: str
    """The layer group's."""
    parameters: tuple[str, ...]
    """Their names."""
    lr: float
    weight_decay: float
    l1: float
    hidden: bool
    """They are matrices and filters, of no embedding and not of the head."""


def param_groups(model: nn.Module, chain: Chain, stage: Stage) -> tuple[ParamGroup, ...]:
    """The parameters that a stage trains, input first, each with an absolute rate.

    A layer group gives up to two param groups, one with weight decay and one without.
    """
    return groups_at_rates(
        model, chain, stage, {name: group_rates(chain.names, stage)[name] for name in chain.select(stage.unfreeze)}
    )


def groups_at_rates(model: nn.Module, chain: Chain, stage: Stage, rates: Mapping[str, float]) -> tuple[ParamGroup, ...]:
    """The same for the layer groups that `rates` are of."""
    decayed = decayed_parameters(model)
    groups = []
    for name in rates:
        for weight_decay, l1, members in (
            (stage.weight_decay, stage.l1, tuple(n for n in chain.parameters[name] if n in decayed)),
            (0.0, 0.0, tuple(n for n in chain.parameters[name] if n not in decayed)),
        ):
            if members:
                hidden = members[0] in decayed and name != HEAD
                groups.append(ParamGroup(name, members, rates[name], weight_decay=weight_decay, l1=l1, hidden=hidden))
    return tuple(groups)


def freeze(model: nn.Module, chain: Chain, trains: Sequence[str]) -> None:
    """Let exactly the layer groups `trains` have gradients; call it before the model is wrapped (DDP reads it only then)."""
    parameters = dict(model.named_parameters())
    for group in chain.names:
        for name in chain.parameters[group]:
            parameters[name].requires_grad_(group in trains)


def train_mode(model: nn.Module, chain: Chain, trains: Sequence[str]) -> None:
    """Training mode for the groups that train, evaluation mode for the frozen ones: no dropout, no new BatchNorm statistics.

    Containers that span groups are in training mode: what they do themselves, such as timm's dropout before the head, stays on.
    So does an LSTM, which has no dropout of its own here: cuDNN does not go backward through one in evaluation mode.
    """
    model.train()
    modules = dict(model.named_modules())
    for group in chain.names:
        if group not in trains:
            for name in chain.modules[group]:
                modules[name].training = isinstance(modules[name], nn.RNNBase)


def compile_layers(
    model: nn.Module, chain: Chain, trains: Sequence[str], *, entry_module: str | None, backend: str = "inductor"
) -> None:
    """`torch.compile` on each layer that trains, one by one, so that equal layers share what was compiled.

    Lengths may change with every batch; they are multiples of 8. `entry_module`, where stored activations enter, stays as
    it is, and so does the head, whose time does not count.
    """
    for group in chain.groups:
        if group.name in trains and group.name != HEAD:
            for name in group.prefixes:
                if name in chain.modules[group.name] and name != entry_module:
                    model.get_submodule(name).compile(dynamic=True, backend=backend)


def shard_units(model: nn.Module, chain: Chain) -> list[str]:
    """Names of the classes that FSDP gathers and frees one by one: those of the layers between the first group and the head.

    The embeddings are none: Accelerate makes a unit of the words' table, which may not lie inside another unit. (BERT's own list,
    `_no_split_modules`, has both.) A list of layers is none either, since nothing calls it; what is in no unit is in the model's.
    """
    modules = dict(model.named_modules())
    layers = [modules[prefix] for group in chain.groups[1:-1] for prefix in group.prefixes if prefix in modules]
    called = [layer for layer in layers if not isinstance(layer, nn.ModuleList | nn.ModuleDict)]
    return sorted({type(layer).__name__ for layer in called})


def make_optimizer(
    optimizer: Optimizer, model: nn.Module, param_groups: Sequence[ParamGroup], *, lr: float, sharded: bool = False
) -> torch.optim.Optimizer:
    """torch's optimizer of that kind, or timm's where torch has none, for these parameters of the model; `lr` is the stage's own.

    Its param groups have an absolute `lr`, `weight_decay`, `l1` for `shrink`, the layer group's `name`, and `parameter_names`.
    Adam, AdamW and SGD are fused (on a CPU fused AdamW has 4.4 times the default's speed), SGD where FSDP has not `sharded` the
    model: torch 2.14 does not know what its fused kernel does to a piece of a tensor.
    """
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {
            "params": [parameters[name] for name in group.parameters],
            "parameter_names": list(group.parameters),
            "name": group.name,
            "lr": group.lr,
            "weight_decay": group.weight_decay,
            "l1": group.l1,
        }
        for group in param_groups
    ]
    options = {name: value for name, value in optimizer if name != "kind"}
    match optimizer:
        case AdamW():
            return torch.optim.AdamW(groups, lr=lr, fused=True, **options)
        case Adam():
            return torch.optim.Adam(groups, lr=lr, fused=True, **options)
        case SGD():
            return torch.optim.SGD(groups, lr=lr, fused=not sharded, **options)
        case RMSprop():
            return torch.optim.RMSprop(groups, lr=lr, **options)
        case NAdam():
            return torch.optim.NAdam(groups, lr=lr, **options)
        case RAdam():
            return torch.optim.RAdam(groups, lr=lr, **options)
        case Adafactor():
            return torch.optim.Adafactor(groups, lr=lr, **options)
        case Lion():
            return _of_timm("lion", groups, lr=lr, **options)
        case Muon():
            for group, of_stage in zip(groups, param_groups, strict=True):
                group["use_fallback"] = not of_stage.hidden
            return _of_timm("muon", groups, lr=lr, **options)
        case Lamb():  # the gradient is clipped by the stage's `max_grad_norm`, and by nothing else
            return _of_timm("lamb", groups, lr=lr, max_grad_norm=None, **options)


def _of_timm(name: str, groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]  # with it comes all of timm, which takes a second

    return create_optimizer_v2(groups, name, **options)


@torch.no_grad()
def shrink(optimizer: torch.optim.Optimizer) -> None:
    """Bring the weights of each param group nearer to 0 by its ``lr * l1``, and no further: what is nearer than that becomes 0.

    It is the step of L1 by itself, apart from the gradient's (forward-backward splitting, Duchi & Singer 2009): as part of an
    adaptive gradient it would be divided by the gradient's size, and make no zeros. With 0.1 become 0.3, -0.1 and 0.05: 0.2, 0, 0.
    """
    for group in optimizer.param_groups:
        if distance := group["lr"] * group["l1"]:
            for parameter in group["params"]:
                parameter.sub_(parameter.clamp(-distance, distance))


def optimizer_numbers(optimizer: Optimizer, shapes: Iterable[Sequence[int]], *, hidden: bool = False) -> int:
    """Float32 numbers that the optimizer keeps for parameters of these shapes; a few a parameter, such as its steps, not counted.

    For a parameter of 3 x 4 AdamW keeps 24, SGD with momentum 12, without 0, Adafactor a number each row and column: 7. `hidden`:
    they are matrices and filters of hidden layers, of which Muon keeps a momentum alone where timm finds their shape suitable.
    """
    match optimizer:
        case Muon():
            from timm.optim.muon import _is_suitable_for_muon

            shapes = list(shapes)
            by_muon = [shape for shape in shapes if hidden and _is_suitable_for_muon(torch.empty(shape, device="meta"))]
            return 2 * sum(map(math.prod, shapes)) - sum(map(math.prod, by_muon))
        case Adafactor():
            return sum(math.prod(s[:-1]) + math.prod((*s[:-2], s[-1])) if len(s) > 1 else math.prod(s) for s in shapes)
        case AdamW() | Adam() | NAdam() | RAdam() | Lamb():
            slots = 2
        case Lion():
            slots = 1
        case SGD():
            slots = int(optimizer.momentum > 0)
        case RMSprop():
            slots = 1 + int(optimizer.momentum > 0)
    return slots * sum(math.prod(shape) for shape in shapes)


def slanted_triangular(step: int, steps: int) -> float:
    """Factor of the rate at `step`: up from 1/32 over the first tenth, then down to 1/32 (Howard & Ruder 2018, equation 3)."""
    cut = max(1, math.floor(steps * RISE))
    p = step / cut if step < cut else max(0.0, 1 - (step - cut) / max(1, steps - cut))
    return (1 + p * (RATIO - 1)) / RATIO


class Plateau(LambdaLR):
    """The same rates after a warmup, made lower by torch's `ReduceLROnPlateau` between epochs; all param groups keep their ratios.

    torch's rule works on a rate of its own, 1 at first, by which the rates of all param groups are multiplied.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: PlateauSchedule, *, warmup: int) -> None:
        self._ruled = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        # torch's patience is one less than ours: it lowers the rate after more bad epochs than that. A tie is no better.
        options: dict[str, Any] = {"factor": schedule.factor, "patience": schedule.patience - 1}
        self._rule = ReduceLROnPlateau(self._ruled, mode="max", threshold=0.0, threshold_mode="abs", **options)
        super().__init__(optimizer, lambda step: self.share * (step / warmup if step < warmup else 1.0))

    @property
    def share(self) -> float:
        """What is left of the rates that the stage began with."""
        return float(self._ruled.param_groups[0]["lr"])

    def after_epoch(self, value: float) -> None:
        """Look at the validation metric, higher being better, before the next epoch's first step."""
        self._rule.step(value)
        for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = rate * self.lr_lambdas[0](self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """LambdaLR's, with what torch's rule has seen."""
        state = super().state_dict()
        del state["_ruled"], state["_rule"]
        seen = {"best": self._rule.best, "num_bad_epochs": self._rule.num_bad_epochs, "last_epoch": self._rule.last_epoch}
        return {**state, "plateau": {**seen, "share": self.share}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put `state_dict`'s back."""
        state = dict(state_dict)
        seen = state.pop("plateau")
        self._ruled.param_groups[0]["lr"] = seen["share"]
        self._rule.best, self._rule.num_bad_epochs, self._rule.last_epoch = seen["best"], seen["num_bad_epochs"], seen["last_epoch"]
        super().load_state_dict(state)


def make_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule, *, steps: int, steps_per_epoch: int) -> LRScheduler:
    """The schedule of a stage of so many steps, stepped after every optimizer step; all param groups keep their ratios."""

    def after_warmup(factor: Callable[[int], float], *, share: float) -> LRScheduler:
        warmup = round(share * steps)
        return LambdaLR(optimizer, lambda step: step / warmup if step < warmup else factor(step))

    from transformers import get_scheduler  # brings peft, if it is installed: most of a second that a plan does not need

    match schedule:
        case ConstantSchedule():
            return get_scheduler("constant_with_warmup", optimizer, round(schedule.warmup * steps))  # type: ignore[no-any-return]
        case LinearSchedule() | CosineSchedule():
            return get_scheduler(schedule.kind, optimizer, round(schedule.warmup * steps), steps)  # type: ignore[no-any-return]
        case PolynomialSchedule(power=power, end=end):
            options = {"power": power, "lr_end": end * optimizer.defaults["lr"]}  # transformers gives each group the same share
            warmup = round(schedule.warmup * steps)
            return get_scheduler("polynomial", optimizer, warmup, steps, options)  # type: ignore[no-any-return]
        case CosineRestartsSchedule(cycles=cycles):
            warmup = round(schedule.warmup * steps)
            return get_scheduler("cosine_with_restarts", optimizer, warmup, steps, {"num_cycles": cycles})  # type: ignore[no-any-return]
        case InverseSqrtSchedule():
            return get_scheduler("inverse_sqrt", optimizer, max(1, round(schedule.warmup * steps)))  # type: ignore[no-any-return]
        case WSDSchedule(decay=decay):
            options = {"num_decay_steps": max(1, round(decay * steps)), "decay_type": "linear"}
            warmup = min(round(schedule.warmup * steps), steps - options["num_decay_steps"])
            return get_scheduler("warmup_stable_decay", optimizer, warmup, steps, options)  # type: ignore[no-any-return]
        case PlateauSchedule():
            return Plateau(optimizer, schedule, warmup=round(schedule.warmup * steps))
        case StepSchedule(gamma=gamma):
            every = steps_per_epoch * schedule.every
            return after_warmup(lambda step: gamma ** (step // every), share=schedule.warmup)
        case ExponentialSchedule(gamma=gamma):
            return after_warmup(lambda step: gamma ** (step / steps), share=schedule.warmup)
        case SlantedTriangularSchedule():
            return LambdaLR(optimizer, lambda step: slanted_triangular(step, steps))
        case OneCycleSchedule():
            # Its last rate comes after the last step, at `total_steps`; of one step alone torch makes no cycle.
            return OneCycleLR(
                optimizer,
                max_lr=[group["lr"] for group in optimizer.param_groups],
                total_steps=max(2, steps + 1),
                cycle_momentum=False,
            )
