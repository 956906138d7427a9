"""Several CPU processes where Accelerate's launcher starts one.

`accelerate launch --cpu --num_processes 2 SCRIPT` starts a single process with Accelerate 1.15 (it leaves CPU processes to mpirun),
without a word. Training then would quietly be another run than the one asked for, so hftl starts the processes itself, tells them
of signals, and ends all of them when one dies.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

from hftl import cores
from hftl.errors import RunError
from hftl.signals import LAUNCHER, deferred

# Seconds that the others get to end by themselves once one has died; and once they were asked to end, for a last checkpoint.
TO_NOTICE, TO_SAVE = 10.0, 120.0


def start_missing_processes() -> None:
    """Become the parent of as many processes as `accelerate launch` was asked for, and exit as they do.

    Does nothing unless the launcher asked for several CPU processes and started one.

    Raises:
        RunError: several were asked for, by a configuration file or otherwise, and how many cannot be told.
    """
    # Accelerate's launcher sets both, MASTER_ADDR only for several processes; where there is a GPU for each, torch's sets RANK.
    asked_by_launcher = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if not asked_by_launcher or "RANK" in os.environ or "PMI_RANK" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ:
        return
    parent = psutil.Process().parent()
    count = processes_asked_for(parent.cmdline() if parent else [])
    if count is None:
        raise RunError(
            "accelerate launch was asked for several CPU processes and started one.\n"
            "  Use: accelerate launch --config_file recipes/accelerate/cpu_two_processes.yaml SCRIPT"
        )
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name] if spec is not None else [sys.argv[0]]
    sys.exit(run_processes([sys.executable, *program, *sys.argv[1:]], count))


def run_processes(command: Sequence[str], count: int) -> int:
    """Run a command as `count` processes of one world on this machine, until all have ended; returns the exit code.

    A signal is passed on to all of them. When one dies the others are ended too; the exit code is then its own.

    Raises:
        Stopped: a signal came, and all have ended.
    """
    world = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "ACCELERATE_USE_CPU": "true",
        LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, int(cores.allowed()) // count))),
    }
    launcher = os.getppid()
    code, asked, deadline = 0, False, float("inf")
    with deferred(patient=True) as noted:
        children = [
            subprocess.Popen(command, env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(count)
        ]
        while any(child.poll() is None for child in children):
            time.sleep(0.1)
            number = noted() or (signal.SIGTERM if os.getppid() != launcher else None)  # the launcher itself was killed
            if code == 0 and (failed := [rank for rank, child in enumerate(children) if child.poll()]):
                ended = children[failed[0]].returncode
                code = _exit_code(ended)
                deadline = min(deadline, time.monotonic() + TO_NOTICE)
                if ended < 0 and number is None:
                    said = f"process {failed[0]} of {count} was killed ({signal.Signals(-ended).name}); the others are ended"
                    sys.stderr.write(f"hftl: {said}. Continue from the last checkpoint with --resume\n")
            if (number is not None or time.monotonic() > deadline) and not asked:
                # A user's signal leaves all the time that a step and a save take; after a death the others only wait for it.
                asked, deadline = True, time.monotonic() + (float("inf") if number is not None and code == 0 else TO_SAVE)
                _tell(children, number or signal.SIGTERM)
            if time.monotonic() > deadline:
                _tell(children, signal.SIGKILL)
    return code or next((_exit_code(child.returncode) for child in children if child.returncode), 0)


def _exit_code(returncode: int) -> int:
    """The shell's: 128 + the signal's number for a process that a signal ended, which `subprocess` makes negative."""
    return returncode if returncode > 0 else 128 - returncode


def _tell(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def processes_asked_for(command: Sequence[str]) -> int | None:
    """The value of `--num_processes` in a launcher's command line: 2 of [..., "--num-processes=2", ...]; None: it is not there."""
    words = [word.replace("-", "_") for word in command]
    for place, word in enumerate(words):
        if word.startswith("__num_processes"):
            value = word.partition("=")[2] or (words[place + 1] if place + 1 < len(words) else "")
            return int(value) if value.isdigit() else None
    return None
