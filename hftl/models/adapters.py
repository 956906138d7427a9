"""Adapters: LoRA, which trains ``W + alpha / r * B A`` by B and A alone, as peft computes it.

A stage's copy of the model gets them, and its chain then has two layer groups where the model's has one: under the layer's own name
what trains, and before it, as "... base", the weights that stay as they are. So everything that is a function of the chain and of
the groups that train works for adapters as it does for weights. What the copy gives back has them merged, under the names that the
model knows: nothing that is saved needs peft.

peft comes with the extra `lora`, and is imported where it is asked for. Hu et al. 2021, arXiv:2106.09685.

Shapes: W (out, in), B (out, r), A (r, in); of a convolution W (out, in, k, k), B (out, r, 1, 1), A (r, in, k, k).
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hftl.errors import did_you_mean
from hftl.files import read_json, write_json
from hftl.models.chain import HEAD, Chain, LayerGroup, below, first_calls
from hftl.recipe import Lora
from hftl.wording import listed

NAME = "default"
"""What peft calls an adapter that was given no name; it is part of its tensors' names."""
BASE = " base"
"""At the end of the name of a group that lies frozen under adapters."""

_ADAPTER = re.compile(r"(?P<module>.+)\.lora_[AB]\.default\.weight")


class NoAdapters(ValueError):
    """What a stage trains can have none. The message is ready for a report, `help` is the way out."""

    def __init__(self, what: str, help: str) -> None:
        super().__init__(what)
        self.help = help


@dataclass(frozen=True)
class Adapters:
    """The adapters of a stage's copy of the model."""

    lora: Lora
    modules: Mapping[str, tuple[str, ...]]
    """Layer group -> names of its modules that have one, input first; without the groups that have none."""
    seed: int
    """Of the numbers in A."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all modules that have one."""
        return tuple(name for names in self.modules.values() for name in names)

    @property
    def words(self) -> str:
        """For people: "LoRA r=8 on 24 modules"."""
        return f"{self.lora.words} on {len(self.names)} modules"


def find_places(
    model: nn.Module, chain: Chain, groups: Sequence[str], lora: Lora, *, named: bool, run: Callable[[], object]
) -> Mapping[str, tuple[str, ...]]:
    """Layer group -> the modules of it that get adapters: linear layers and convolutions that `run`, a call of the model, calls.

    Of convolutions those that are neither grouped nor dilated. A module of another class, such as one that standardises its weights
    first, has none: there the merged weight would not be what was trained. Nor has one of which only the weight is used.

    Args:
        groups: the layer groups that a stage is to train, the head among them or not; it trains as it is.
        named: the stage names each of them.

    Raises:
        NoAdapters: peft is not installed, none of the groups has such a module, one that is named has none, or a target is no such
            module's name.
    """
    _peft()
    lower = [group for group in groups if group != HEAD]
    if not lower:
        what = "the stage trains the head alone, and adapters are of the layers below it"
        raise NoAdapters(what, f'name such layers, unfreeze="all" or "last 4", or leave lora out: {", ".join(chain.names[:-1])}')
    called, modules = first_calls(model, run), dict(model.named_modules())
    able = {group: [name for name in chain.modules[group] if name in called and _can_have_one(modules[name])] for group in lower}
    if empty := [group for group in lower if not able[group]]:
        what = f"{listed(empty, 5)} {'have' if len(empty) > 1 else 'has'} no linear layer or convolution that can have an adapter"
        if named or len(empty) == len(lower):
            raise NoAdapters(what, "leave such groups out of unfreeze, or leave lora out")
    every = [name for names in able.values() for name in names]
    if lora.targets is None:
        return {group: tuple(names) for group, names in able.items() if names}
    for target in lora.targets:
        if not any(_ends_with(name, target) for name in every):
            ends = sorted({name.rpartition(".")[2] for name in every})
            raise NoAdapters(
                f'targets: nothing that could have an adapter is called "{target}" there.{did_you_mean(target, ends)}',
                f"modules of these layers: {', '.join(ends)}",
            )
    chosen = {
        group: tuple(name for name in names if any(_ends_with(name, target) for target in lora.targets))
        for group, names in able.items()
    }
    if named and (without := [group for group in lower if not chosen[group]]):
        what = f"targets: {', '.join(lora.targets)} leave {listed(without, 5)} without an adapter"
        raise NoAdapters(what, "leave such groups out of unfreeze, or name modules of theirs")
    return {group: names for group, names in chosen.items() if names}


def _can_have_one(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return type(module) in (nn.Linear, Conv1D)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def insert(model: nn.Module, chain: Chain, adapters: Adapters) -> Chain:
    """Give a copy of the model its adapters, and return the copy's chain.

    B is 0 and A is drawn by the seed, the same on every machine. All parameters of the copy but those of adapters become frozen. In
    training, a normalisation of a layer under adapters goes by the statistics that it has, which belong to its weights; dropout
    stays on there.
    """
    peft = _peft()
    given, names = adapters.lora, adapters.names
    transposed = any(isinstance(model.get_submodule(name), Conv1D) for name in names)
    config = peft.LoraConfig(
        r=given.r,
        lora_alpha=given.alpha,
        lora_dropout=given.dropout,
        target_modules=list(names),
        fan_in_fan_out=transposed,
    )
    before = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(adapters.seed)
        peft.inject_adapter_in_model(config, model, adapter_name=NAME)
    found = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    if sorted(found) != sorted(names):
        raise RuntimeError(f"peft has given adapters to {sorted(set(found) ^ set(names))} otherwise than it was asked to")
    own = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if id(tensor) in before]
    norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    groups: list[LayerGroup] = []
    for group in chain.groups:
        if group.name in adapters.modules:
            members = {*chain.parameters[group.name], *chain.buffers[group.name]}
            frozen = [name for name in own if _without_adapter(name) in members]
            frozen += [name for name in norms if name in chain.modules[group.name]]
            groups.append(LayerGroup(group.name + BASE, tuple(frozen)))
            group = LayerGroup(group.name, tuple(prefix for prefix in group.prefixes if prefix not in frozen))
        groups.append(group)
    return Chain(model, groups)


def shapes_with(model: nn.Module, chain: Chain, adapters: Adapters) -> tuple[nn.Module, Chain]:
    """The model with adapters and its chain, without a number in it (device "meta")."""
    empty: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    empty |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    shaped = copy.deepcopy(model, empty)
    return shaped, insert(shaped, chain, adapters)


_Tensor = TypeVar("_Tensor")


def frozen_tensors(tensors: Mapping[str, _Tensor]) -> dict[str, _Tensor]:
    """Tensors of a model with adapters by the names that it had without, and without those of the adapters."""
    return {_without_adapter(name): tensor for name, tensor in tensors.items() if not _ADAPTER.fullmatch(name)}


@torch.no_grad()
def merged_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same, with what the adapters of `model` add to each weight added to it; the tensors themselves stay as they are."""
    merged = frozen_tensors(tensors)
    for name in dict.fromkeys(found["module"] for each in tensors if (found := _ADAPTER.fullmatch(each))):
        weight = merged[f"{name}.weight"]
        added = cast(Any, model.get_submodule(name)).get_delta_weight(NAME)
        merged[f"{name}.weight"] = weight + added.to(weight)
    return merged


def _without_adapter(name: str) -> str:
    """The name that a tensor had before its module got an adapter."""
    module, found, own = name.rpartition(".base_layer.")
    return f"{module}.{own}" if found else name


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise NoAdapters("adapters are peft's, which is not installed", 'pip install "hftl[lora]"') from None
    return peft


# --- a trained model as adapters of its base ------------------------------------------------------------------------------------

RESIDUE = 0.01
"""What may be left of a difference of weights beyond its rank, of its own size: float32 has rounded the merged weights."""
WHOLE = "push the whole model, which needs no adapters"


def save_adapters(
    model: PreTrainedModel,
    base: PreTrainedModel,
    chain: Chain,
    folder: Path,
    *,
    r: int,
    base_model: str | None,
    revision: str | None,
) -> int:
    """Write what a model has beyond its base as peft reads it, and return on how many modules it has adapters.

    adapter_config.json and adapter_model.safetensors: B and A of each weight below the head that differs from the base's, by its
    singular values, and the head whole (`modules_to_save`). `base` becomes a model with these adapters.

    Args:
        r: rank of the differences, at most.
        base_model: what peft calls the base, a name on the Hub; None: it has none. `revision`: its commit there.

    Raises:
        NoAdapters: peft is not installed, nothing below the head differs, or something does by more than adapters of this rank.
    """
    peft = _peft()
    own, theirs = dict(model.state_dict()), dict(base.state_dict())
    head = {*chain.parameters[HEAD], *chain.buffers[HEAD]}
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, weight in own.items():
        if name in head or torch.equal(weight, theirs[name]):
            continue
        module = name.removesuffix(".weight")
        if module == name or not _can_have_one(model.get_submodule(module)):
            raise NoAdapters(f"{name} was trained itself, and is not what it is in the base", WHOLE)
        factors[module] = _factors(model.get_submodule(module), weight.double() - theirs[name].double(), r)
    if not factors:
        raise NoAdapters("nothing below the head is other than in the base", WHOLE)
    parts = [name for name in chain.modules[HEAD] if any(each.startswith(f"{name}.") for each in head)]
    whole = [name for name in parts if not any(below(name, other) and name != other for other in parts)]
    config = peft.LoraConfig(
        r=r,
        lora_alpha=r,
        target_modules=sorted(factors),
        modules_to_save=list(whole),  # to which peft adds names of its own
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in factors),
        task_type="SEQ_CLS" if model.main_input_name == "input_ids" else None,
    )
    with _without_noise():
        wrapped = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, (b, a) in factors.items():
            layer = wrapped.base_model.model.get_submodule(name)
            layer.lora_B[NAME].weight.copy_(b)
            layer.lora_A[NAME].weight.copy_(a)
    for name in whole:
        part = wrapped.base_model.model.get_submodule(name)
        part.modules_to_save[NAME].load_state_dict(model.get_submodule(name).state_dict())
    with _without_noise():
        wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink()  # peft's, which says nothing of this model
    written = read_json(folder / "adapter_config.json")  # the base there is called by its place on this machine
    write_json(folder / "adapter_config.json", {**written, "base_model_name_or_path": base_model, "revision": revision})
    return len(factors)


def load_adapters(base: PreTrainedModel, folder: Path) -> nn.Module:
    """The base with what `save_adapters` wrote, as peft makes it for everybody; `base` is changed."""
    with _without_noise():
        loaded: nn.Module = _peft().PeftModel.from_pretrained(base, str(folder))
    return loaded.eval()


@contextmanager
def _without_noise() -> Iterator[None]:
    """peft 0.21 asks transformers 5.23 for what it calls by another name by now, which a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def _factors(module: nn.Module, difference: torch.Tensor, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B and A of a difference of weights, each with the root of its singular values.

    Raises:
        NoAdapters: the difference is of a higher rank than r.
    """
    matrix = difference.T if isinstance(module, Conv1D) else difference.flatten(1)  # (out, in), or (out, in * k * k)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    if float(values[r:].square().sum()) > RESIDUE**2 * float(values.square().sum()):
        raise NoAdapters(f"a {type(module).__name__} differs from the base's by more than rank {r}: it was trained itself", WHOLE)
    roots = values[:r].sqrt()
    b, a = left[:, :r] * roots, roots[:, None] * right[:r]
    missing = r - len(roots)  # of a weight that has fewer rows or columns than r
    b, a = nn.functional.pad(b, (0, missing)), nn.functional.pad(a, (0, 0, 0, missing))
    if difference.ndim > 2:
        b, a = b[:, :, None, None], a.view(r, *difference.shape[1:])
    return b, a
