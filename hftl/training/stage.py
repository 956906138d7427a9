"""What a stage asks of a model: which layer groups train, at which rates, with which optimizer and schedule.

Gradual unfreezing, discriminative learning rates, slanted triangular rates: Howard & Ruder 2018, arXiv:1801.06146.
Frozen means frozen: no gradient, not in the optimizer, BatchNorm statistics and dropout off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from hftl.errors import RecipeError
from hftl.models.chain import HEAD, Chain
from hftl.recipe import Stage

# Slanted triangular: the share of steps that rise, and how much smaller the lowest rate is than the highest (Howard & Ruder, 3.2).
RISE, RATIO = 0.1, 32.0


def layer_learning_rates(num_groups: int, *, base_lr: float, decay: float) -> list[float]:
    """Learning rate of each layer group, input first; the last one gets `base_lr`.

    Group i of n gets ``base_lr * decay ** (n - 1 - i)``. With three groups, 1e-3 and 0.5: [2.5e-4, 5e-4, 1e-3].

    Raises:
        RecipeError: `decay` is outside (0, 1].
    """
    if not 0.0 < decay <= 1.0:
        raise RecipeError.single("layer_decay", f"{decay} is outside (0, 1]")
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


def param_groups(model: nn.Module, chain: Chain, stage: Stage) -> list[dict[str, Any]]:
    """Param groups of the groups that train: absolute `lr`, `weight_decay`, `name` (the layer group's) and `parameter_names`.

    A layer group gives up to two param groups, one with weight decay and one without.
    """
    parameters, decayed, rates = dict(model.named_parameters()), decayed_parameters(model), group_rates(chain.names, stage)
    groups = []
    for name in chain.select(stage.unfreeze):
        for weight_decay, members in (
            (stage.weight_decay, [n for n in chain.parameters[name] if n in decayed]),
            (0.0, [n for n in chain.parameters[name] if n not in decayed]),
        ):
            if members:
                groups.append(
                    {
                        "params": [parameters[n] for n in members],
                        "parameter_names": members,
                        "name": name,
                        "lr": rates[name],
                        "weight_decay": weight_decay,
                    }
                )
    return groups


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


def compile_layers(model: nn.Module, chain: Chain, trains: Sequence[str], *, door: str | None, backend: str = "inductor") -> None:
    """`torch.compile` on each layer that trains, one by one, so that equal layers share what was compiled.

    Lengths may change with every batch; they are multiples of 8. The module at `door`, where stored activations enter, stays as
    it is, and so does the head, whose time does not count.
    """
    for group in chain.groups:
        if group.name in trains and group.name != HEAD:
            for name in group.prefixes:
                if name in chain.modules[group.name] and name != door:
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


def make_optimizer(stage: Stage, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """torch's own optimizers; Adam, AdamW and SGD fused (on a CPU fused AdamW has 4.4 times the default's speed)."""
    match stage.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=stage.lr, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=stage.lr, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=stage.lr, momentum=stage.momentum, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=stage.lr, momentum=stage.momentum)


def optimizer_slots(stage: Stage) -> int:
    """Float32 numbers that the optimizer keeps for each parameter that trains: AdamW 2, SGD with momentum 1."""
    match stage.optimizer:
        case "adamw" | "adam":
            return 2
        case "sgd":
            return int(stage.momentum > 0)
        case "rmsprop":
            return 1 + int(stage.momentum > 0)


def slanted_triangular(step: int, steps: int) -> float:
    """Factor of the rate at `step`: up from 1/32 over the first tenth, then down to 1/32 (Howard & Ruder 2018, equation 3)."""
    cut = max(1, math.floor(steps * RISE))
    p = step / cut if step < cut else max(0.0, 1 - (step - cut) / max(1, steps - cut))
    return (1 + p * (RATIO - 1)) / RATIO


def make_schedule(optimizer: torch.optim.Optimizer, stage: Stage, *, steps: int, steps_per_epoch: int) -> LRScheduler:
    """The stage's schedule, stepped after every optimizer step; all param groups keep their ratios."""
    warmup = round(stage.warmup * steps)

    def after_warmup(factor: Callable[[int], float]) -> LRScheduler:
        return LambdaLR(optimizer, lambda step: step / warmup if step < warmup else factor(step))

    # The schedules of transformers return a LambdaLR without saying so, hence the ignored types.
    match stage.schedule:
        case "constant":
            return get_constant_schedule_with_warmup(optimizer, warmup)  # type: ignore[no-any-return]
        case "linear":
            return get_linear_schedule_with_warmup(optimizer, warmup, steps)  # type: ignore[no-any-return, no-untyped-call]
        case "cosine":
            return get_cosine_schedule_with_warmup(optimizer, warmup, steps)  # type: ignore[no-any-return]
        case "step":
            return after_warmup(lambda step: stage.gamma ** (step // (steps_per_epoch * stage.step_epochs)))
        case "exponential":
            return after_warmup(lambda step: stage.gamma ** (step / steps))
        case "slanted_triangular":
            return LambdaLR(optimizer, lambda step: slanted_triangular(step, steps))
        case "one_cycle":
            return OneCycleLR(
                optimizer,
                max_lr=[group["lr"] for group in optimizer.param_groups],
                total_steps=max(2, steps + 1),
                cycle_momentum=False,
            )
