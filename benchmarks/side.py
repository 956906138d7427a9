"""What every side of a comparison has in common: it is told what to do in a JSON file, keeps time, and writes down how it went.

A side is a process of its own. Its clock starts after its imports and stops after the last validation of the last epoch:

    imports | read the data, tokenise or decode, load the weights, train, validate after every epoch | test, files, figures
            ^ start                                                                                  ^ stop

This module is imported by environments that do not have hftl, and imports nothing that they do not have.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "timm", "fastai", "hftl")


def read_spec() -> dict[str, Any]:
    """What this process was asked to do: the first argument is a JSON file."""
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return spec


class Clock:
    """Seconds since it was made, and the parts they are made of: `lap("prepare")` ends a part of that name."""

    def __init__(self) -> None:
        self._began = self._lap = time.perf_counter()
        self._cpu_began = time.process_time()
        self.parts: dict[str, float] = {}

    def lap(self, name: str, *, at: float | None = None) -> None:
        now = time.perf_counter() if at is None else at
        self.parts[name] = self.parts.get(name, 0.0) + now - self._lap
        self._lap = now

    @property
    def cpu_seconds(self) -> float:
        """Of this process until now, all its threads together, without its children."""
        return time.process_time() - self._cpu_began

    @property
    def seconds(self) -> float:
        """Until the last lap."""
        return self._lap - self._began


def write_result(clock: Clock, correct: Mapping[str, bool], **facts: Any) -> None:
    """The result of this process; the second argument says where. `correct` says of each test row whether it was classified right.

    The rows are named by a hash of their ids, so that a report can insist that both sides were tested on the same ones.
    """
    ids = sorted(correct)
    installed = {name: _version(name) for name in PACKAGES}
    result = {
        "seconds": clock.seconds,
        "parts": clock.parts,
        "test_rows": hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16] if ids else None,
        "correct": "".join("1" if correct[name] else "0" for name in ids),
        "threads": _threads(),
        "versions": {name: version for name, version in installed.items() if version},
        **facts,
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


def test_rows_of_table(labels: list[int], predicted: list[int]) -> dict[str, bool]:
    """As hftl names the rows of a table: "test/17"."""
    return {f"test/{row}": label == found for row, (label, found) in enumerate(zip(labels, predicted, strict=True))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _threads() -> int:
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else (os.cpu_count() or 1)
