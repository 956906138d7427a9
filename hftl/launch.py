"""Several CPU processes where Accelerate's launcher starts one.

`accelerate launch --cpu --num_processes 2 SCRIPT` starts a single process with Accelerate 1.15 (it leaves CPU processes to mpirun),
without a word, and forgets which of several machines this one is. Training then would quietly be another run than the one asked
for, so hftl starts this machine's share of the processes itself, tells them of signals, and ends all of them when one dies.

torch's own agent, which Accelerate uses for GPUs and which a configuration file may ask for (recipes/accelerate/), would do but for
three things: it kills a process 30 seconds after a signal, and a checkpoint may take longer; it ends with 1 whatever the
processes ended with; and it ends with a traceback.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hftl import cores
from hftl.errors import RunError
from hftl.signals import LAUNCHER, deferred

# Seconds that the others get to end by themselves once one has died; and once they were asked to end, for a last checkpoint.
TO_NOTICE, TO_SAVE = 10.0, 120.0
RANKS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)
"""How launchers number processes and say how many there are: torch's and Accelerate's, then those of mpirun."""
# What Accelerate's launcher is called on a command line; what follows is its own.
LAUNCH_COMMANDS = {"launch", "launch.py", "accelerate-launch", "accelerate.commands.launch"}


def is_main_process() -> bool:
    """True on the one process that speaks: of several, that of rank 0. A rank without their number is left over from something."""
    return next((os.environ.get(rank, "0") == "0" for rank, size in RANKS if size in os.environ), True)


@dataclass(frozen=True)
class Machine:
    """Which of several machines this one is, from 0, and where the processes of all of them meet: on machine 0."""

    number: int = 0
    of: int = 1
    address: str = "127.0.0.1"
    port: int | None = None
    """None: any that is free, which one machine can choose alone."""


def start_missing_processes() -> None:
    """Become the parent of as many processes as `accelerate launch` was asked for here, and exit as they do.

    Does nothing unless the launcher asked for several CPU processes and started one.

    Raises:
        RunError: how many were asked for, or which machine this is, cannot be told.
    """
    # Accelerate's launcher sets both, MASTER_ADDR only for several processes; where there is a GPU for each, torch's sets RANK.
    asked_by_launcher = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if not asked_by_launcher or any(rank in os.environ for rank, _ in RANKS):
        return
    import psutil  # here, so that nothing else of the command line needs it

    parent = psutil.Process().parent()
    count, machine = processes_asked_for(parent.cmdline() if parent else [])
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name] if spec is not None else [sys.argv[0]]
    sys.exit(run_processes([sys.executable, *program, *sys.argv[1:]], count, machine))


def run_processes(command: Sequence[str], count: int, machine: Machine = Machine()) -> int:
    """Run a command as `count` processes on this machine, of as many on each, until they have ended; returns the exit code.

    A signal is passed on to all of them. When one dies the others are ended too; the exit code is then its own.

    Raises:
        Stopped: a signal came, and all have ended.
    """
    first, processes = machine.number * count, machine.of * count
    variables = {
        "MASTER_ADDR": machine.address,
        "MASTER_PORT": str(_free_port() if machine.port is None else machine.port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(count),
        "ACCELERATE_USE_CPU": "true",
        LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, int(cores.allowed()) // count))),
    }
    launcher = os.getppid()
    code, stop_asked, deadline = 0, False, float("inf")
    with deferred(patient=True) as noted:
        children = [
            subprocess.Popen(command, env={**os.environ, **variables, "RANK": str(first + rank), "LOCAL_RANK": str(rank)})
            for rank in range(count)
        ]
        while any(child.poll() is None for child in children):
            time.sleep(0.1)
            number = noted() or (signal.SIGTERM if os.getppid() != launcher else None)  # the launcher itself was killed
            if code == 0 and (failed := [rank for rank, child in enumerate(children) if child.poll()]):
                # Of several that have ended since the last look one that was killed: the others may have missed it.
                cause = min(failed, key=lambda rank: children[rank].returncode >= 0)
                ended = children[cause].returncode
                code = _exit_code(ended)
                deadline = min(deadline, time.monotonic() + TO_NOTICE)
                if ended < 0 and number is None:
                    message = f"process {first + cause} of {processes} was killed ({signal.Signals(-ended).name})"
                    sys.stderr.write(f"hftl: {message}; the others are ended. Continue from the last checkpoint with --resume\n")
            if (number is not None or time.monotonic() > deadline) and not stop_asked:
                # A user's signal leaves all the time that a step and a save take; after a death the others only wait for it.
                stop_asked, deadline = True, time.monotonic() + (float("inf") if number is not None and code == 0 else TO_SAVE)
                _tell(children, number or signal.SIGTERM)
            if time.monotonic() > deadline:
                _tell(children, None)
    return code or next((_exit_code(child.returncode) for child in children if child.returncode), 0)


def _exit_code(returncode: int) -> int:
    """The shell's: 128 + the signal's number for a process that a signal ended, which `subprocess` makes negative."""
    return returncode if returncode > 0 else 128 - returncode


def _tell(children: Sequence[subprocess.Popen[bytes]], number: int | None) -> None:
    """Send a signal to those that run; None kills them."""
    for child in children:
        if child.poll() is None:
            child.kill() if number is None else child.send_signal(number)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def processes_asked_for(command: Sequence[str]) -> tuple[int, Machine]:
    """How many processes a launcher's command line asks for here, read as Accelerate reads it, with its configuration file.

    [..., "accelerate", "launch", "--cpu", "--num_processes=4", "--num_machines=2", "--machine_rank=1", ..., "script.py"]: 2, as the
    second of two machines.

    Raises:
        RunError: it is not a command line of `accelerate launch`, says nothing of how many processes, or not which machine this is.
    """
    from accelerate.commands.config import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    names = [Path(word).name for word in command]
    start = next((place for place, name in enumerate(names) if name in LAUNCH_COMMANDS), None)
    if start is None:
        raise RunError(
            "accelerate launch was asked for several CPU processes and started one, and not by itself, so that it cannot be told"
            " how many.\n  Use: accelerate launch --cpu --num_processes 2 SCRIPT, without a shell or another program in between"
        )
    arguments = launch_command_parser().parse_args(list(command[start + 1 :]))
    # As in Accelerate: --cpu alone is not for the configuration that `accelerate config` has written.
    written = arguments.config_file is not None or (Path(default_config_file).is_file() and not arguments.cpu)
    config = load_config_from_file(arguments.config_file) if written else None

    def value(name: str, otherwise: int | None) -> int | None:
        argument = getattr(arguments, name)
        argument = getattr(config, name, None) if argument is None else argument
        return otherwise if argument is None else int(argument)

    processes, machines = value("num_processes", None), value("num_machines", 1)
    if processes is None or processes < 1 or not machines:
        raise RunError("accelerate launch: how many processes? Give --num_processes, counted over all machines")
    if processes % machines:
        raise RunError(
            f"accelerate launch: {processes} processes on {machines} machines; each gets as many as the others."
            " --num_processes counts those of all machines together"
        )
    if machines == 1:
        return processes, Machine()
    number = value("machine_rank", None)
    if number is None or not 0 <= number < machines:
        raise RunError(
            f"accelerate launch: which of the {machines} machines is this? Give each its own --machine_rank, 0 to {machines - 1}"
        )
    # Accelerate's launcher takes both from the command line or the configuration, and refuses to start without.
    return processes // machines, Machine(number, machines, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
