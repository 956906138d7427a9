"""The freeze proof: hashes of every layer group before and after a stage, and what they say about it.

A flag can be set and a group change all the same: by BatchNorm's running statistics, by weight decay on a parameter that the
optimizer was given, by a library that sets `requires_grad` again. Only the bytes tell. A frozen group has kept those of its
parameters and of its buffers; a group that trains has other parameters than before. One that trains by adapters alone has both: the
weights under the adapters have kept their bytes, and what the two make together is other weights than before.

A hash is SHA-256 over name, dtype, shape and bytes of each tensor, in the order of the chain, so it is the same on every device
and for every memory layout. Equal hashes are equal tensors bit for bit: 0.0 and -0.0 differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from accelerate import Accelerator
from torch import nn

from hftl.errors import RunError
from hftl.freeze_proof import GroupRecord, HashesRecord, StageRecord, write_proof
from hftl.models.chain import Chain
from hftl.run import RunDirectory

GroupHashes = Mapping[str, Mapping[str, str]]
"""Group -> {"parameters": SHA-256 in hex, "buffers": the same}, input first."""


def group_hashes(
    tensors: Mapping[str, torch.Tensor], chain: Chain, groups: Sequence[str] | None = None, *, without: Collection[str] = ()
) -> dict[str, dict[str, str]]:
    """Hashes of the parameters and of the buffers of each layer group; `tensors` has them all, by name, on any device.

    `groups` are all of the chain unless some are named. Parameters that are called as in `without` are left out.

    Raises:
        KeyError: a parameter or buffer of the chain is not among the tensors.
    """
    return {
        group: {
            "parameters": _digest((name, tensors[name]) for name in chain.parameters[group] if name not in without),
            "buffers": _digest((name, tensors[name]) for name in chain.buffers[group]),
        }
        for group in (chain.names if groups is None else groups)
    }


def _digest(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # As bytes, because NumPy has no bfloat16; flat first, because a tensor without dimensions has no other view.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def prove(
    stage: str,
    trains: Collection[str],
    before: GroupHashes,
    after: GroupHashes,
    *,
    kept: bool,
    under_adapters: GroupHashes = MappingProxyType({}),
) -> StageRecord:
    """Compare the hashes of a stage's end with those of its start.

    `kept`: weights of the stage are the run's now. Otherwise the next stage begins with the hashes with which this one began.
    `under_adapters`: of the groups that train by adapters the hashes of the weights that lie frozen under them.

    Returns:
        {"stage", "kept", "groups": [{"name", "trains", "before", "after", "ok"}], "ok"}. A frozen group is ok when parameters and
        buffers are equal, one that trains when its parameters differ; the stage is ok when all of its groups are. A group with
        adapters has "under_adapters" too, which are to be equal to "before".

    Raises:
        KeyError: a group has no hashes from before.
    """
    groups: list[GroupRecord] = []
    for name, now in after.items():
        then = before[name]
        ok = then["parameters"] != now["parameters"] if name in trains else then == now
        group: GroupRecord = {"name": name, "trains": name in trains, "before": _record(then), "after": _record(now), "ok": ok}
        if name in under_adapters:
            group["under_adapters"] = _record(under_adapters[name])
            group["ok"] = ok and under_adapters[name] == then
        groups.append(group)
    return {"stage": stage, "kept": kept, "groups": groups, "ok": all(group["ok"] for group in groups)}


def _record(hashes: Mapping[str, str]) -> HashesRecord:
    return {"parameters": hashes["parameters"], "buffers": hashes["buffers"]}


def prove_freeze(
    name: str,
    trains: Sequence[str],
    chain: Chain,
    tensors: Mapping[str, torch.Tensor],
    before: GroupHashes,
    run: RunDirectory,
    accelerator: Accelerator,
    *,
    kept: bool,
    under_adapters: GroupHashes,
) -> list[str]:
    """Compare what a stage did with what it said it would do, and write that down; called by all processes.

    Args:
        tensors: those that it ended with, whole on the main process.
        before: the hashes of the weights that the stage began with.
        kept: whether the run has weights of it.
        under_adapters: see `prove`.

    Returns:
        A line for each group that was to train and has not moved.

    Raises:
        RunError: a frozen group has changed.
    """
    if not accelerator.is_main_process:
        return []
    proof = prove(name, trains, before, group_hashes(tensors, chain), kept=kept, under_adapters=under_adapters)
    write_proof(run, proof)
    failed = [group for group in proof["groups"] if not group["ok"]]
    for group in failed:
        if not group["trains"] or group.get("under_adapters", group["before"]) != group["before"]:
            frozen = "weights under the adapters of" if group["trains"] else "group"
            what = f"the frozen {frozen} {group['name']} {'have' if group['trains'] else 'has'} changed, a defect of hftl"
            raise RunError(f"stage {name}: {what}; see {run.freeze_proof}")
    return [
        f"layer group {group['name']} did not change in stage {name} although it was trainable; check its learning rate"
        for group in failed
    ]


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
