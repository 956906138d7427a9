"""Run as a file, in a process of its own: how long an ONNX file takes to answer, and the memory that serving it takes.

Knows nothing of hftl nor of torch, on purpose, so that the memory is that of serving alone: ``python -P time_onnx.py MODEL.onnx
INPUTS.npz THREADS SECONDS`` prints a JSON object: for each batch of INPUTS ("1/input_ids" is the input of the batch called "1")
`median` and `p95` in seconds and its `logits`, and beside them `peak_bytes`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

WARM_UP, FEWEST, MOST = 3, 10, 500
"""Answers before the clock is looked at; and at least, and at most, so many that it times."""


def times(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], seconds: float) -> list[float]:
    """Seconds of each answer."""
    found: list[float] = []
    for _ in range(WARM_UP):
        session.run(["logits"], inputs)
    began = time.perf_counter()
    while len(found) < FEWEST or (len(found) < MOST and time.perf_counter() - began < seconds):
        start = time.perf_counter()
        session.run(["logits"], inputs)
        found.append(time.perf_counter() - start)
    return found


def peak_bytes() -> int:
    """The most memory that this process has had since it was started.

    Linux has it in /proc; what `getrusage` says there begins with the memory of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    model, given, threads, seconds = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    batches: dict[str, dict[str, np.ndarray]] = {}
    with np.load(given) as arrays:
        for key in arrays.files:
            name, _, argument = key.partition("/")
            batches.setdefault(name, {})[argument] = arrays[key]
    report: dict[str, object] = {}
    for name, inputs in batches.items():
        taken = times(session, inputs, float(seconds))
        [logits] = session.run(["logits"], inputs)
        report[name] = {"median": float(np.median(taken)), "p95": float(np.percentile(taken, 95)), "logits": logits.tolist()}
    report["peak_bytes"] = peak_bytes()
    sys.stdout.write(json.dumps(report))
