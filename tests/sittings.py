"""Runs that are stopped and continued: how a test stops one, starts one as a user does, and compares two."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hftl.evaluation.predictions import Predictions
from hftl.files import read_json
from hftl.run import RunDirectory
from hftl.training.journal import Journal

REPOSITORY = Path(__file__).resolve().parent.parent


@contextmanager
def signal_at(monkeypatch: pytest.MonkeyPatch, *, step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Send this process a signal when it has taken its step `step` in this sitting."""
    taken, advance = list[None](), Journal.advance

    def counted(journal: Journal) -> None:
        advance(journal)
        taken.append(None)
        if len(taken) == step:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "advance", counted)
        yield


def assert_same_run(one: RunDirectory, other: RunDirectory) -> None:
    """Equal weights bit for bit, equal predictions, and the same history but for times and what was said of the stops."""
    ours, theirs = load_file(one.model / "model.safetensors"), load_file(other.model / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for split in ("validation", "test"):
        assert np.array_equal(Predictions.load(one.predictions(split)).logits, Predictions.load(other.predictions(split)).logits)
    assert read_json(one.metrics) == read_json(other.metrics)
    assert read_json(one.freeze_proof) == read_json(other.freeze_proof)
    assert course(one) == course(other)


def course(run: RunDirectory) -> list[dict[str, Any]]:
    times = {"time", "seconds", "training_seconds"}
    return [{key: value for key, value in r.items() if key not in times} for r in run.read_history() if r["event"] != "continued"]


def environment(*, several: bool) -> dict[str, str]:
    """A user's shell: Accelerate leaves variables behind in this process that are none of his."""
    left_behind = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    kept = {name: value for name, value in os.environ.items() if name not in left_behind}
    return kept | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | ({"ACCELERATE_USE_CPU": "1"} if several else {})
