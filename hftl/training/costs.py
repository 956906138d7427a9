"""What training costs, counted rather than guessed.

The floating point operations of one forward pass of a typical example are counted group by group (torch's FlopCounterMode); the
backward pass of a group costs as much again for its weights' gradients and as much again for its input's. Groups below the lowest
training group need no backward pass. Weights that lie frozen under adapters need no gradients; what the adapters compute is counted
beside them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hftl.models.chain import HEAD, Chain
from hftl.models.recompute import recompute_layers
from hftl.training.stage import freeze, train_mode


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


def step_flops(
    forward: Mapping[str, int],
    trains: Sequence[str],
    *,
    start: str | None = None,
    recompute: bool = False,
    adapters: Mapping[str, int] = MappingProxyType({}),
) -> int:
    """Operations of a training step on one example; with `start`, from a stored activation that enters this group; with `recompute`
    the groups that train, but for the head, compute forward once more. `adapters` has what those of a group compute forward.

    Three groups of 10 of which the last trains: 30 forward, 20 backward. The last two: 30 + 40. First and last: 30 + 20 + 10 + 20.
    The last one from what enters it: 10 + 20. The last two, the former by adapters of 1: 30 + 1 forward, 10 + 2 and 20 backward.
    """
    names = list(forward)
    lowest = min(names.index(name) for name in trains)
    backward = sum((2 if name in trains and name not in adapters else 1) * forward[name] for name in names[lowest:])
    again = sum(forward[name] + adapters.get(name, 0) for name in trains if name != HEAD) if recompute else 0
    of_adapters = 3 * sum(adapters.values())  # forward, and backward for their weights and for what enters them
    return sum(forward[name] for name in names[names.index(start) if start else 0 :]) + backward + again + of_adapters


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
