"""How many threads a run computes with: as many as it has cores to itself.

The threads of one operation wait for each other at its end, and they wait awake. Where another process has one of the cores, each
operation lasts until its last thread has had its turn, and the threads that wait take the cores from it meanwhile: two runs of two
threads on two cores were more than ten times as slow as one (docs/performance.md). One thread loses no more than its share.

A number that the user has set (OMP_NUM_THREADS, MKL_NUM_THREADS) is never touched, nor that of a run of several processes, among
which the launcher divides the cores. Sums of another number of threads round
differently, so every change is said, and written into the run directory.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

import torch

from hftl import cores

WINDOW = 2.0
"""Seconds over which waiting is measured."""
QUIET = 30.0
"""Seconds that cores must have been free before they are used again; twice as many after every time that this was too early."""
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Threads:
    """torch's number of threads during a run; a context manager that puts back what was before.

    What others use is counted from the moment this object is made.
    """

    def __init__(self, device: torch.device) -> None:
        self._most = torch.get_num_threads()
        self._fixed = device.type != "cpu" or any(os.environ.get(name) for name in SETTINGS)
        self._seen = cores.read()
        self._free_since: float | None = None
        self._quiet = QUIET

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._fixed:
            torch.set_num_threads(self._most)

    def choose(self, recorded: int | None = None) -> list[str]:
        """Set the number for the start; a run that continues keeps its own (`recorded`). A line, if there is one to say."""
        if self._fixed:
            return []
        reading, may_use = cores.read(), cores.allowed()
        load, self._seen = cores.between(self._seen, reading), reading
        threads = min(cores.threads_at_start(self._most, may_use, load.others), recorded or self._most)
        if threads == self._most:
            return []
        why = "as it had before" if threads == recorded else _who(may_use, load.others)
        return [self._set(threads, why)]

    def adapt(self) -> list[str]:
        """Change the number where the threads have had to wait for cores, or where cores have become free; a line for each change.

        Cheap: it measures once in `WINDOW` seconds. Call it after every step.
        """
        if self._fixed or cores.clock() - self._seen.at < WINDOW:
            return []
        reading, may_use, threads = cores.read(), cores.allowed(), torch.get_num_threads()
        load, self._seen = cores.between(self._seen, reading), reading
        fewer = cores.fewer_threads(threads, load.waited)
        if fewer < threads:
            self._free_since = None
            return [self._set(fewer, f"{threads} have waited for each other, since others use the cores too")]
        more = cores.threads_at_start(self._most, may_use, load.others)
        if load.others is None or more <= threads:
            self._free_since = None
            return []
        if self._free_since is None:
            self._free_since = reading.at - load.seconds
        if reading.at - self._free_since < self._quiet:
            return []
        self._free_since = None
        self._quiet *= 2
        return [self._set(more, _who(may_use, load.others))]

    def _set(self, threads: int, why: str) -> str:
        torch.set_num_threads(threads)
        number = "1 thread" if threads == 1 else f"{threads} threads"
        keep = f"; OMP_NUM_THREADS={self._most} would keep {self._most}" if threads < self._most else ""
        return f"{number} from here on: {why}. Sums round differently with another number{keep}"


def _who(may_use: float, others: float | None) -> str:
    """ "others use 1.0 of 2 cores" """
    return f"others use {others or 0.0:.1f} of {may_use:g} core{'' if may_use == 1 else 's'}"
