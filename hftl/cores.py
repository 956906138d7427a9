"""Which cores this process may use, and who else wants them: its affinity, its control group's quota, the load of the last moments.

All of it is read from Linux's own files, in under a millisecond. What a system does not tell is None, and then nothing is
concluded from it. A core is counted as a number: 0.5 is half of the time of one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
clock = time.monotonic
TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
"""Units of a second in /proc/stat: 100."""


def affinity() -> frozenset[int]:
    """The cores this process may run on, by number."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpu_quota(folder: Path) -> float | None:
    """Cores that one control group (version 2 or 1) may use at once, None without a limit: "150000 100000" is 1.5."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None  # version 1 writes -1 for no limit


def quota(root: Path = CONTROL_GROUPS, proc: Path = PROC) -> float | None:
    """The least that this process's control group, or one above it, may use; None without a limit."""
    limits = [limit for folder in _control_groups(root, _read(proc / "self/cgroup")) if (limit := cpu_quota(folder)) is not None]
    return min(limits, default=None)


def _control_groups(root: Path, own: str) -> Iterator[Path]:
    """The folders of a process's control group and of those above it. A container often sees the top of its own as the root."""
    yield from (root, root / "cpu")
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            place = (root if controllers == "" else root / "cpu") / path.lstrip("/")
            while place != root and root in place.parents:
                yield place
                place = place.parent


def allowed() -> float:
    """Cores this process may use at once."""
    cores, limit = len(affinity()), quota()
    return float(cores) if limit is None else min(float(cores), limit)


# --- the others ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Counters at one moment, in seconds."""

    at: float
    busy: float | None
    """That anybody ran on the cores of this process, since the machine's start; without those who step back for it (nice)."""
    own: float
    """That this process and its children, such as a loader's, ran."""
    waits: Mapping[str, float] | None
    """That each thread of this process was ready and had to wait for a core."""


@dataclass(frozen=True)
class Load:
    """What happened between two readings, in cores."""

    seconds: float
    others: float | None
    """What others used of this process's cores."""
    waited: float | None
    """For how many cores threads of this process were ready and did not run: 2 threads that each wait half of the time, 1.0."""


def read(proc: Path = PROC) -> Reading:
    """The counters now."""
    # Where this process is not nice itself, one that is gets next to nothing beside it.
    nice = hasattr(os, "nice") and os.nice(0) > 0
    return Reading(clock(), _busy(_read(proc / "stat"), without_nice=not nice), _own(proc), _waits(proc))


def between(before: Reading, after: Reading) -> Load:
    """What happened from one reading to a later one."""
    seconds = max(after.at - before.at, 1e-9)
    others = waited = None
    if before.busy is not None and after.busy is not None:
        others = max(0.0, after.busy - before.busy - (after.own - before.own)) / seconds
    if before.waits is not None and after.waits is not None:  # a thread that has begun since then counts from its beginning
        waited = sum(wait - before.waits.get(thread, 0.0) for thread, wait in after.waits.items()) / seconds
    return Load(seconds, others, waited)


def _own(proc: Path) -> float:
    """Seconds of this process, of its children that live, and of those that have ended."""
    ended = os.times()
    seconds = time.process_time() + ended.children_user + ended.children_system
    for task in (proc / "self/task").glob("*"):
        for child in _read(task / "children").split():
            numbers = _read(proc / child / "stat").rpartition(")")[2].split()  # its name may have blanks and brackets in it
            if len(numbers) > 12:
                seconds += (int(numbers[11]) + int(numbers[12])) / TICK
    return seconds


def _busy(stat: str, *, without_nice: bool) -> float | None:
    """Seconds that this process's cores were busy; None where /proc/stat does not tell.

    Its fields are user, nice, system, idle, iowait, irq, softirq and steal; guests are in user already.
    """
    mine, total, is_known = affinity(), 0, False
    for line in stat.splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in mine:
            user, nice, system, _, _, irq, softirq, steal = (int(value) for value in values[:8])
            total += user + (0 if without_nice else nice) + system + irq + softirq + steal
            is_known = True
    return total / TICK if is_known else None


def _waits(proc: Path) -> dict[str, float] | None:
    """Seconds that each thread has waited, by the second number of its schedstat (nanoseconds); None where there is none."""
    waits = {}
    for task in (proc / "self/task").glob("*"):
        numbers = _read(task / "schedstat").split()
        if len(numbers) == 3:
            waits[task.name] = int(numbers[1]) / 1e9
    return waits or None


def _read(path: Path) -> str:
    """The text of a small file of the system; "" where it is not there, or has gone (a thread may end at any moment)."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


# --- the number of threads ----------------------------------------------------------------------------------------------------

CROWDED = 0.25
"""Cores' time that threads wait before their number is lowered. One busy neighbour on one of the cores makes 0.5."""


def threads_at_start(most: int, cores: float, others: float | None) -> int:
    """Threads for a start, of at most `most`: as many as there are free cores, to the nearest; at least 1.

    `cores` that may be used, less what `others` use: of 2 cores and 0.3, 2; of 2 and 1.0, 1; of 16 and 1.0, 15; of a quota of 2.5
    cores, 2, since a thread over the quota holds up all of them.
    """
    free = round(cores - (others or 0.0))
    return max(1, min(most, free, int(cores)))


def fewer_threads(threads: int, waited: float | None) -> int:
    """Threads after a time in which they waited for cores: the fair share of them, rounded down; at least 1.

    2 threads beside one busy process on 2 cores wait 0.5: 1. Two runs of 16 threads on 16 cores wait 8 each: 8.
    """
    if waited is None or waited < CROWDED:
        return threads
    return max(1, int(threads - waited))
