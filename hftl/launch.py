"""Several CPU processes where Accelerate's launcher starts one.

`accelerate launch --cpu --num_processes 2 SCRIPT` starts a single process with Accelerate 1.15 (it leaves CPU processes to mpirun),
without a word. Training then would quietly be another run than the one asked for, so hftl starts the processes itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import psutil

from hftl.errors import RunError


def start_missing_processes() -> None:
    """Replace this process by torch's launcher with as many processes as `accelerate launch` was asked for.

    Does nothing unless the launcher asked for several CPU processes and started one.

    Raises:
        RunError: several were asked for, by a configuration file or otherwise, and how many cannot be told.
    """
    asked_by_launcher = os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true"} and "MASTER_ADDR" in os.environ
    if not asked_by_launcher or "RANK" in os.environ or "PMI_RANK" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ:
        return
    parent = psutil.Process().parent()
    count = processes_asked_for(parent.cmdline() if parent else [])
    if count is None:
        raise RunError(
            "accelerate launch was asked for several CPU processes and started one.\n"
            "  Use: accelerate launch --config_file recipes/accelerate/cpu_two_processes.yaml SCRIPT"
        )
    threads = max(1, (os.cpu_count() or 1) // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name] if spec is not None else [sys.argv[0]]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    os.execv(sys.executable, [*launcher, *program, *sys.argv[1:]])


def processes_asked_for(command: Sequence[str]) -> int | None:
    """The value of `--num_processes` in a launcher's command line: 2 of [..., "--num-processes=2", ...]; None: it is not there."""
    words = [word.replace("-", "_") for word in command]
    for place, word in enumerate(words):
        if word.startswith("__num_processes"):
            value = word.partition("=")[2] or (words[place + 1] if place + 1 < len(words) else "")
            return int(value) if value.isdigit() else None
    return None
