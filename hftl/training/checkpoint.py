"""Checkpoints: whole or absent.

Accelerate writes the state (weights, optimizer, schedule, generators of every process); hftl writes it beside, adds where the
run stands and the best weights so far, and renames the folder into place. One checkpoint is kept: the old one goes when the
new one stands.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from hftl.errors import RunError
from hftl.run import read_json, write_json

_STATE, _BEST, _PARTIAL = "state.json", "best.safetensors", ".partial"


@dataclass(frozen=True)
class Progress:
    """Where a run stands: at the end of `epoch` (from 1) of stage `stage` (from 0), or at its start when `epoch` is 0."""

    stage: int
    epoch: int
    step: int
    """Optimizer steps over all stages."""
    best_epoch: int
    best_rank: tuple[float, float]
    """(validation metric, -log loss), higher is better."""
    stage_done: bool = False
    seconds: float = 0.0
    """Training time so far, over all sittings."""
    cpu_joules: float | None = 0.0
    """Energy of the processors so far, over all sittings; None: not known of one of them."""

    @classmethod
    def at_start_of(cls, stage: int, *, step: int = 0, seconds: float = 0.0, cpu_joules: float | None = 0.0) -> Self:
        """Before the first epoch of a stage: any epoch is better than none."""
        start = (-math.inf, -math.inf)
        return cls(stage, epoch=0, step=step, best_epoch=0, best_rank=start, seconds=seconds, cpu_joules=cpu_joules)


def save_checkpoint(folder: Path, accelerator: Accelerator, progress: Progress, best: Mapping[str, torch.Tensor]) -> None:
    """Write the state of all processes as `folder`/<stage>-<epoch>, then remove older ones. Called by every process.

    `best` holds the best weights of the stage, on the CPU of the main process.
    """
    target = folder / f"{progress.stage:02d}-{progress.epoch:05d}"
    beside = target.with_name(target.name + _PARTIAL)
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()  # each process has written its generators
    if accelerator.is_main_process:
        save_file({name: tensor.contiguous() for name, tensor in best.items()}, beside / _BEST)
        write_json(beside / _STATE, {**asdict(progress), "processes": accelerator.num_processes})
        for path in beside.rglob("*"):
            if path.is_file():
                _flush(path)
        shutil.rmtree(target, ignore_errors=True)
        beside.replace(target)
        for other in folder.iterdir():
            if other != target:
                shutil.rmtree(other)
    accelerator.wait_for_everyone()


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    if not folder.is_dir():
        return None
    whole = [path for path in folder.iterdir() if path.suffix != _PARTIAL and (path / _STATE).is_file()]
    return max(whole, key=lambda path: path.name, default=None)


def load_progress(checkpoint: Path, accelerator: Accelerator) -> Progress:
    """Where the run stood when the checkpoint was written.

    Raises:
        RunError: it was written by another number of processes, whose optimizer state and generators do not fit.
    """
    state = read_json(checkpoint / _STATE)
    processes = state.pop("processes")
    if processes != accelerator.num_processes:
        raise RunError(
            f"{checkpoint}: written by {processes} processes, now there are {accelerator.num_processes}; use {processes}"
        )
    return Progress(**{**state, "best_rank": tuple(state["best_rank"])})


def load_best_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The best weights of the stage so far."""
    return load_file(checkpoint / _BEST)


def load_training_state(checkpoint: Path, accelerator: Accelerator) -> None:
    """Put weights, optimizer, schedule and generators back into what Accelerate has prepared."""
    accelerator.load_state(str(checkpoint))


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
