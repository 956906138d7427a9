"""Checkpoints: whole or absent.

A checkpoint is written beside its place: Accelerate's state (weights, optimizer, schedule, generators of every process), the best
weights so far and where the run stands, all flushed to the disk; then a manifest with the size and SHA-256 of every file; then the
folder is renamed into place and read back. Only when it verifies do older ones go, all but one, so that a bit that flips
later costs the steps between two checkpoints and not the run. A resume takes the newest one that verifies.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from hftl.errors import RunError
from hftl.files import PARTIAL, fingerprint, flush, read_json, write_json
from hftl.training.progress import Progress

KEPT = 2
"""Checkpoints that a run keeps: the newest, and the one before in case its bits do not last."""

_STATE, _BEST, _MANIFEST = "state.json", "best.safetensors", "manifest.json"


class CheckpointError(RunError):
    """A checkpoint could not be written; the ones before it stand."""


class Place(Protocol):
    """Where a training stands."""

    @property
    def name(self) -> str:
        """Of its checkpoint; names are in the order of time."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""


def save_checkpoint(folder: Path, accelerator: Accelerator, progress: Place, best: Mapping[str, torch.Tensor]) -> Path:
    """Write the state of all processes into `folder`, verify it, and remove all but the newest `KEPT`. Called by every process.

    `best` holds the weights that the run has, on the CPU of the main process.

    Raises:
        CheckpointError: on every process, when one could not write its part. Nothing of it is left.
    """
    target = folder / progress.name
    beside = target.with_name(target.name + PARTIAL)

    def make_room() -> None:
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            for unfinished in folder.glob(f"*{PARTIAL}"):
                shutil.rmtree(unfinished)
            beside.mkdir()

    def write_state() -> None:
        accelerator.save_state(str(beside))

    def seal() -> None:
        if accelerator.is_main_process:
            save_file({name: tensor.contiguous() for name, tensor in best.items()}, beside / _BEST)
            write_json(beside / _STATE, {**progress.to_dict(), "processes": accelerator.num_processes})
            files = sorted(path for path in beside.rglob("*") if path.is_file())
            for path in files:
                flush(path)
            write_json(beside / _MANIFEST, {"files": {path.relative_to(beside).as_posix(): fingerprint(path) for path in files}})
            flush(beside)
            if target.exists():  # it did not verify, or this would not be the same place again
                shutil.rmtree(target)
            beside.replace(target)
            flush(folder)
            if damage := damage_of(target):
                shutil.rmtree(target)
                raise OSError(f"what was written reads back differently: {damage}")
            # Older ones go, and newer ones that a resume has passed over; what is kept beside the new one is whole.
            before = [path for path in _in_order(folder) if path.name < target.name and damage_of(path) is None]
            for other in {*_in_order(folder)} - {target, *before[len(before) - KEPT + 1 :]}:
                shutil.rmtree(other)

    for part in (make_room, write_state, seal):
        _on_all_processes(part, accelerator, beside)
    return target


def _on_all_processes(part: Callable[[], None], accelerator: Accelerator, beside: Path) -> None:
    """Do a part of a save on every process; where one fails, all stop with its reason."""
    reason = None
    try:
        part()
    except (OSError, SafetensorError) as error:
        reason = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    except RuntimeError as error:  # what torch.save makes of a failed write
        if not any(word in str(error) for word in ("PytorchStreamWriter", "inline_container")):
            raise
        reason = "not all of it could be stored"
    reasons = [each for each in gather_object([reason]) if each is not None]
    if reasons:
        free = shutil.disk_usage(beside.parent if beside.parent.exists() else beside.parent.parent).free
        if accelerator.is_main_process:
            shutil.rmtree(beside, ignore_errors=True)
        raise CheckpointError(
            f"{beside.parent}: the checkpoint {beside.stem} could not be written: {reasons[0]}, {free / 1e6:,.1f} MB are free."
            " The one before it stands; make room and continue with --resume"
        )


def checkpoint_bytes(model: nn.Module, *, optimizer_bytes: int) -> int:
    """About how large a checkpoint is: the weights twice (the last and the best ones) and the optimizer's state."""
    state = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return int(2 * state + optimizer_bytes + 1_000_000)


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, by its manifest; None: it is whole."""
    if not (checkpoint / _MANIFEST).is_file():
        return "it has no manifest: it was not written to its end"
    try:
        files = read_json(checkpoint / _MANIFEST)["files"]
        for name, recorded in files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            found = fingerprint(path)
            if found["size"] != recorded["size"]:
                return f"{name} has {found['size']:,} bytes, not {recorded['size']:,}"
            if found["sha256"] != recorded["sha256"]:
                return f"{name} was changed: its SHA-256 is another one"
        if _STATE not in files:
            return f"its manifest does not list {_STATE}"
    except RunError as error:
        return str(error)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read: {error}"
    return None


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and of each one passed over why; None: there was none yet.

    Raises:
        RunError: there are some, and none verifies.
    """
    passed_over: list[str] = []
    for checkpoint in reversed(_in_order(folder)):
        damage = damage_of(checkpoint)
        if damage is None:
            return checkpoint, passed_over
        passed_over.append(f"{checkpoint.name}: {damage}")
    if passed_over:
        listed = "\n".join(f"  {reason}" for reason in passed_over)
        raise RunError(
            f"{folder}: no checkpoint can be used\n{listed}\n"
            f"  To start this run again from its first step, remove {folder}; or train into another place with --run-dir"
        )
    return None, []


def read_state(checkpoint: Path, *, processes: int) -> dict[str, Any]:
    """What `Place.to_dict` gave when the checkpoint was written.

    Raises:
        RunError: it was written by another number of processes, whose optimizer state and generators do not fit.
    """
    state: dict[str, Any] = read_json(checkpoint / _STATE)
    written_by = state.pop("processes")
    if written_by != processes:
        raise RunError(
            f"{checkpoint}: number of processes: {written_by} then, {processes} now; continue it with {written_by}."
            " It is fixed over a run's life: each process has a share of every step, and dropout of its own"
        )
    return state


def load_progress(checkpoint: Path, *, processes: int) -> Progress:
    """Where the run stood when the checkpoint was written.

    Raises:
        RunError: it was written by another number of processes, or by another version of hftl.
    """
    state = read_state(checkpoint, processes=processes)
    try:
        return Progress.from_dict(state)
    except (TypeError, KeyError):  # the manifest agrees, so these are the bytes that were written
        raise RunError(
            f"{checkpoint}: another version of hftl wrote it. Start the run again in another place with --run-dir"
        ) from None


def load_best_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights that the run had: the best so far."""
    return load_file(checkpoint / _BEST)


def load_training_state(checkpoint: Path, accelerator: Accelerator) -> None:
    """Put weights, optimizer, schedule and generators back into what Accelerate has prepared."""
    accelerator.load_state(str(checkpoint))


def _in_order(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.suffix != PARTIAL)
