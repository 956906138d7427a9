"""The chain: a model as ordered layer groups, input first, head last.

A family names its groups once, by dotted prefixes of module or parameter names; every parameter and buffer then belongs to
exactly one group. Freezing, rates, the plan and the freeze proof are functions of the chain.

Most networks are something, then a row of layers, then something. `chain_of_layers` makes the chain of such a network from the
row alone: it runs the model once and sees what runs before and what after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from hftl.errors import did_you_mean

HEAD = "head"


@dataclass(frozen=True)
class LayerGroup:
    """An ordered set of parameters and buffers; `prefixes` are dotted names of modules, parameters or buffers."""

    name: str
    prefixes: tuple[str, ...]


class ChainError(Exception):
    """A family's chain does not fit its model: a defect of the family, not of the user."""


class UnknownGroup(ValueError):
    """A stage names a layer group that the chain does not have. The message is ready for a report."""


class Chain:
    """The layer groups of one model.

    Args:
        model: the model; it is only read.
        groups: input first; the last one is called "head".

    Raises:
        ChainError: a parameter or buffer is in no group or in two (one tensor under two names included), a prefix matches
            nothing, names repeat, or the head is not last.
    """

    def __init__(self, model: nn.Module, groups: Sequence[LayerGroup]) -> None:
        self.groups = tuple(groups)
        self.names = tuple(group.name for group in groups)
        if len(set(self.names)) != len(self.names) or self.names[-1:] != (HEAD,):
            raise ChainError(f'group names are unique and end with "{HEAD}"; found {self.names}')
        parameters = [name for name, _ in model.named_parameters()]
        buffers = [name for name, _ in model.named_buffers()]
        self._modules = {name: owner for name, _ in model.named_modules() if (owner := self._owner(name)) is not None}
        self._members: dict[str, str] = {}
        for name in [*parameters, *buffers]:
            owner = self._owner(name)
            if owner is None:
                raise ChainError(f'"{name}" is in no layer group')
            self._members[name] = owner
        self._refuse_shared(model)
        for group in self.groups:
            for prefix in group.prefixes:
                if not any(below(name, prefix) for name in [*self._members, *self._modules]):
                    raise ChainError(f'group "{group.name}": nothing in the model is called "{prefix}"')
        empty = [name for name in self.names if name not in set(self._members.values())]
        if empty:
            raise ChainError(f"groups without a parameter or buffer: {empty}")
        self.parameters: Mapping[str, tuple[str, ...]] = {
            g: tuple(n for n in parameters if self._members[n] == g) for g in self.names
        }
        self.buffers: Mapping[str, tuple[str, ...]] = {g: tuple(n for n in buffers if self._members[n] == g) for g in self.names}

    def _owner(self, name: str) -> str | None:
        """The group with the longest prefix of `name`."""
        matches = [(len(prefix), group.name) for group in self.groups for prefix in group.prefixes if below(name, prefix)]
        if not matches:
            return None
        longest = max(length for length, _ in matches)
        owners = {owner for length, owner in matches if length == longest}
        if len(owners) > 1:
            raise ChainError(f'"{name}" is in two layer groups: {sorted(owners)}')
        return owners.pop()

    def _refuse_shared(self, model: nn.Module) -> None:
        """One tensor under names of two groups could not be frozen with one and trained with the other."""
        first_names: dict[int, str] = {}
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        for name, tensor in tensors:
            first = first_names.setdefault(id(tensor), name)
            if self._owner(name) != self._owner(first):
                raise ChainError(f'"{first}" and "{name}" are one tensor in two layer groups')

    def __len__(self) -> int:
        return len(self.groups)

    def group_of(self, name: str) -> str:
        """The group that a parameter or buffer is in."""
        return self._members[name]

    @cached_property
    def modules(self) -> Mapping[str, tuple[str, ...]]:
        """Group name -> dotted names of its modules; containers that span groups are in none."""
        return {g: tuple(name for name, owner in self._modules.items() if owner == g) for g in self.names}

    def select(self, unfreeze: str | Sequence[str]) -> tuple[str, ...]:
        """Names of the groups that `unfreeze` asks for, in chain order.

        "head" is the last group, "last 3" the last three with the head counted, "all" every one; otherwise group names.

        Raises:
            UnknownGroup: no such group, or "last K" with K outside 1..n.
        """
        if unfreeze == "all":
            return self.names
        if isinstance(unfreeze, str) and unfreeze.split()[0:1] == ["last"]:
            count = unfreeze.removeprefix("last").strip()
            if count not in {str(k) for k in range(1, len(self) + 1)}:
                raise UnknownGroup(f'"{unfreeze}": write "last K" with K from 1 to {len(self)}')
            return self.names[-int(count) :]
        wanted = [unfreeze] if isinstance(unfreeze, str) else list(unfreeze)
        unknown = [name for name in wanted if name not in self.names]
        if unknown:
            words = [*self.names, "all", *(f"last {k}" for k in range(1, len(self) + 1))]
            raise UnknownGroup(" ".join(f'no layer group "{name}".{did_you_mean(name, words)}' for name in unknown))
        if not wanted:
            raise UnknownGroup("names no layer group; nothing would train")
        return tuple(name for name in self.names if name in wanted)


@torch.no_grad()
def begin_anew(chain: Chain, model: nn.Module, fresh: nn.Module, count: int) -> tuple[str, ...]:
    """Give the last `count` groups below the head, and the head, the weights and statistics of `fresh`; the names of these groups.

    `fresh` is the same network as its library initialises it (Zhang et al. 2021, arXiv:2006.05987).

    Raises:
        ValueError: there are not so many groups between the first one and the head. The message is ready for a report.
    """
    between = len(chain) - 2
    if count > between:
        raise ValueError(f"{count} are more than the {between} layer groups between {chain.names[0]} and the head")
    groups = chain.names[-1 - count :]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    others = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
    for name in (name for group in groups for name in (*chain.parameters[group], *chain.buffers[group])):
        tensors[name].copy_(others[name])
    return groups


def below(name: str, prefix: str) -> bool:
    """Whether a dotted name is `prefix` or within it."""
    return name == prefix or name.startswith(prefix + ".")


def chain_of_layers(model: nn.Module, layers: Sequence[LayerGroup], *, first: str, run: Callable[[], object]) -> Chain:
    """The chain `first` -> `layers` -> head, with each part outside the layers put where it runs.

    `run` is called once, in eval mode and without gradients, and calls the model on any small input. A part that first runs after
    the last layer began goes to the head; every other part goes to `first`: what runs before the layers, what the layers share
    (relative position tables, rotary embeddings), and a bare parameter, whose use cannot be seen. `first` is the safe side:
    what is frozen there stays frozen whenever a layer is.

    Raises:
        ChainError: the layers do not run one after the other in the given order, or the parts do not make a chain.
    """
    began = first_calls(model, run)
    starts = [_began(began, group.prefixes) for group in layers]
    if None in starts or starts != sorted(starts, key=lambda start: start or 0):
        raise ChainError(f"the layers {[group.name for group in layers]} do not run in this order: {starts}")
    held = [prefix for group in layers for prefix in group.prefixes]
    parts = list(_parts_outside(model, held))
    last = starts[-1] or 0
    after = [part for part in parts if (_began(began, [part]) or 0) > last]
    before = [part for part in parts if part not in after]
    return Chain(model, [LayerGroup(first, tuple(before)), *layers, LayerGroup(HEAD, tuple(after))])


def first_calls(model: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """Module name -> its place in the order in which modules were first called, from 1; modules that were not called are absent."""
    began: dict[str, int] = {}

    def hook_for(name: str) -> Callable[..., None]:
        def note_first_call(*_: object) -> None:
            began.setdefault(name, len(began) + 1)

        return note_first_call

    training = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_pre_hook(hook_for(name)) for name, module in model.named_modules()]
    model.eval()
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return began


def _began(began: Mapping[str, int], prefixes: Sequence[str]) -> int | None:
    """When the first module at or below one of `prefixes` was called; None when none was."""
    return min((place for name, place in began.items() if any(below(name, prefix) for prefix in prefixes)), default=None)


def _parts_outside(model: nn.Module, held: Sequence[str], path: str = "") -> Iterator[str]:
    """Names of the modules, parameters and buffers, as few as possible, that hold everything which is below none of `held`."""
    own = [*model.named_parameters(recurse=False), *model.named_buffers(recurse=False)]
    yield from (path + name for name, _ in own if path + name not in held)
    for name, child in model.named_children():
        if any(below(prefix, path + name) and prefix != path + name for prefix in held):
            yield from _parts_outside(child, held, f"{path}{name}.")
        elif path + name not in held:
            yield path + name
