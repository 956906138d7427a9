"""The freeze proof: hashes of every layer group before and after a stage, and what they say about it.

A flag can be set and a group change all the same: by BatchNorm's running statistics, by weight decay on a parameter that the
optimizer was given, by a library that sets `requires_grad` again. Only the bytes tell. A frozen group has kept those of its
parameters and of its buffers; a group that trains has other parameters than before.

A hash is SHA-256 over name, dtype, shape and bytes of each tensor, in the order of the chain, so it is the same on every device
and for every memory layout. Equal hashes are equal tensors bit for bit: 0.0 and -0.0 differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

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


def prove(stage: str, trains: Collection[str], before: GroupHashes, after: GroupHashes, *, kept: bool) -> StageRecord:
    """Compare the hashes of a stage's end with those of its start.

    `kept`: weights of the stage are the run's now. Otherwise the next stage begins with the hashes with which this one began.

    Returns:
        {"stage", "kept", "groups": [{"name", "trains", "before", "after", "ok"}], "ok"}. A frozen group is ok when parameters and
        buffers are equal, one that trains when its parameters differ; the stage is ok when all of its groups are.

    Raises:
        KeyError: a group has no hashes from before.
    """
    groups: list[GroupRecord] = []
    for name, now in after.items():
        then = before[name]
        ok = then["parameters"] != now["parameters"] if name in trains else then == now
        groups.append({"name": name, "trains": name in trains, "before": _record(then), "after": _record(now), "ok": ok})
    return {"stage": stage, "kept": kept, "groups": groups, "ok": all(group["ok"] for group in groups)}


def _record(hashes: Mapping[str, str]) -> HashesRecord:
    return {"parameters": hashes["parameters"], "buffers": hashes["buffers"]}


def prove_freeze(
    name: str,
    trains: Sequence[str],
    chain: Chain,
    model: nn.Module,
    before: GroupHashes,
    run: RunDirectory,
    accelerator: Accelerator,
    *,
    kept: bool,
) -> list[str]:
    """Compare what a stage did with what it said it would do, and write that down; called by all processes.

    Args:
        before: the hashes of the weights that the stage began with.
        kept: whether the run has weights of it.

    Returns:
        A line for each group that was to train and has not moved.

    Raises:
        RunError: a frozen group has changed.
    """
    # By all processes: under FSDP they put the weights together, and the main process has them.
    weights = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return []
    after = group_hashes({**tensors_of(accelerator.unwrap_model(model)), **weights}, chain)
    proof = prove(name, trains, before, after, kept=kept)
    write_proof(run, proof)
    failed = [group for group in proof["groups"] if not group["ok"]]
    for group in failed:
        if not group["trains"]:
            raise RunError(f"stage {name}: the frozen group {group['name']} has changed, a defect of hftl; see {run.freeze_proof}")
    return [
        f"layer group {group['name']} did not change in stage {name} although it was trainable; check its learning rate"
        for group in failed
    ]


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
