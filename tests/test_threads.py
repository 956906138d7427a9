"""How many threads a run takes: decided from counters with given numbers, and read from files written for the purpose."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small import bert

from hftl import cores
from hftl.doctor import load_check
from hftl.files import read_json
from hftl.run import RunDirectory
from hftl.training import engine
from hftl.training.threads import QUIET, SETTINGS, WINDOW, Threads

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("most", "may_use", "others", "expected"),
    [
        (2, 2.0, None, 2),  # nothing is known of others
        (2, 2.0, 0.3, 2),  # 1.7 are free
        (2, 2.0, 1.0, 1),  # one busy process
        (2, 2.0, 5.0, 1),
        (16, 16.0, 1.0, 15),
        (8, 16.0, 4.0, 8),  # torch takes a thread for a physical core
        (64, 2.5, 0.0, 2),  # a container's quota: 3 would be held up
        (64, 0.5, 0.0, 1),
    ],
)
def test_a_run_starts_with_a_thread_for_each_free_core(most: int, may_use: float, others: float | None, expected: int) -> None:
    assert cores.threads_at_start(most, may_use, others) == expected


@pytest.mark.parametrize(
    ("threads", "waited", "expected"),
    [(2, None, 2), (2, 0.2, 2), (2, 0.5, 1), (2, 1.9, 1), (1, 0.5, 1), (16, 8.0, 8), (16, 0.5, 15)],
)
def test_threads_that_wait_for_cores_become_their_fair_share(threads: int, waited: float | None, expected: int) -> None:
    assert cores.fewer_threads(threads, waited) == expected


def test_the_quota_is_the_least_of_the_control_groups_above_a_process_in_both_versions(tmp_path: Path) -> None:
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    for folder, file, text in (
        (root / "user/job", "cpu.max", "400000 100000"),
        (root / "user", "cpu.max", "250000 100000"),
        (root, "cpu.max", "max 100000"),
        (root / "cpu/job", "cpu.cfs_quota_us", "150000"),
        (root / "cpu/job", "cpu.cfs_period_us", "100000"),
        (root / "cpu", "cpu.cfs_quota_us", "-1"),
        (root / "cpu", "cpu.cfs_period_us", "100000"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text + "\n", encoding="ascii")
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/user/job\n", encoding="ascii")
    assert cores.quota(root, proc) == 2.5
    (proc / "self/cgroup").write_text("3:cpuset:/\n2:cpu,cpuacct:/job\n", encoding="ascii")
    assert cores.quota(root, proc) == 1.5
    (proc / "self/cgroup").write_text("0::/../elsewhere\n", encoding="ascii")  # a path of outside the container
    assert cores.quota(root, proc) is None


def test_others_and_waiting_are_what_the_counters_gained() -> None:
    before = cores.Reading(at=10.0, busy=100.0, own=5.0, waits={"7": 1.0, "8": 2.0})
    after = cores.Reading(at=14.0, busy=107.0, own=8.0, waits={"7": 1.5, "8": 3.0, "9": 0.5})
    load = cores.between(before, after)  # 7 s on all cores, of which 3 its own: 4 in 4 s; waited 0.5, 1 and 0.5 s
    assert (load.seconds, load.others, load.waited) == (4.0, 1.0, 0.5)
    unknown = cores.Reading(at=20.0, busy=None, own=9.0, waits=None)
    assert cores.between(after, unknown) == cores.Load(6.0, None, None)


def test_the_counters_are_those_of_this_process_and_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "affinity", lambda: frozenset({0, 2}))
    monkeypatch.setattr(os, "nice", lambda step: 0)
    task = tmp_path / "self/task/42"
    task.mkdir(parents=True)
    (task / "schedstat").write_text("123456789 2500000000 17\n", encoding="ascii")
    #                    user nice system idle iowait irq softirq steal guest guest_nice
    lines = [
        "cpu 9 9 9 9 9 9 9 9 9 9",
        "cpu0 100 40 20 900 50 1 2 3 0 0",
        "cpu1 5000 0 0 0 0 0 0 0 0 0",
        "cpu2 10 0 0 0 0 0 0 0 0 0",
    ]
    (tmp_path / "stat").write_text("\n".join([*lines, "intr 1 2 3"]), encoding="ascii")
    reading = cores.read(tmp_path)
    assert reading.busy == (100 + 20 + 1 + 2 + 3 + 10) / cores.TICK
    assert reading.waits == {"42": 2.5}
    monkeypatch.setattr(os, "nice", lambda step: 10)  # beside this process they get a share
    assert cores.read(tmp_path).busy == (100 + 40 + 20 + 1 + 2 + 3 + 10) / cores.TICK
    assert cores.read(tmp_path / "nowhere").busy is None
    assert cores.read(tmp_path / "nowhere").waits is None


def test_what_linux_says_of_this_very_process_can_be_read() -> None:
    before = cores.read()
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        pass
    load = cores.between(before, cores.read())
    assert before.busy is not None
    assert load.others is not None
    assert load.waited is not None
    assert 0 < cores.allowed() <= len(cores.affinity())


# --- while it runs ------------------------------------------------------------------------------------------------------------


class Machine:
    """Counters that are told what happens: `others` cores are used by others, `waited` cores' time is waited for."""

    def __init__(self) -> None:
        self.now, self.busy, self.waits, self.threads = 100.0, 0.0, 0.0, 2

    def go_on(self, *, others: float, waited: float = 0.0, seconds: float = WINDOW) -> None:
        self.now += seconds
        self.busy += others * seconds
        self.waits += waited * seconds

    def read(self) -> cores.Reading:
        """The counters; `hftl.training.threads` has this clock too."""
        return cores.Reading(self.now, self.busy, 0.0, {"1": self.waits})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Two cores and two threads, none of it set by the user. What is computed is computed with one, or the tests would wait."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    machine = Machine()
    monkeypatch.setattr(cores, "read", machine.read)
    monkeypatch.setattr(cores, "clock", lambda: machine.now)
    monkeypatch.setattr(cores, "allowed", lambda: 2.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: machine.threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: setattr(machine, "threads", threads))
    return machine


def test_on_an_idle_machine_nothing_is_changed_or_said(machine: Machine) -> None:
    with Threads(CPU) as threads:
        machine.go_on(others=0.1)
        assert threads.choose() == []
        for _ in range(100):
            machine.go_on(others=0.2, waited=0.1)
            assert threads.adapt() == []
        assert torch.get_num_threads() == 2


def test_beside_a_busy_process_a_run_starts_with_one_thread_and_says_why_and_what_would_keep_two(machine: Machine) -> None:
    with Threads(CPU) as threads:
        machine.go_on(others=1.0)
        (line,) = threads.choose()
        assert torch.get_num_threads() == 1
    assert line.startswith("1 thread from here on: others use 1.0 of 2 cores. Sums round differently")
    assert line.endswith("OMP_NUM_THREADS=2 would keep 2")
    assert torch.get_num_threads() == 2  # of the process, once the run has ended


def test_a_run_falls_back_when_its_threads_wait_and_comes_back_after_some_quiet(machine: Machine) -> None:
    with Threads(CPU) as threads:
        assert threads.choose() == []
        machine.go_on(others=0.5, waited=0.5, seconds=WINDOW / 2)
        assert threads.adapt() == []  # too short to tell
        machine.go_on(others=0.5, waited=0.5, seconds=WINDOW / 2)
        (line,) = threads.adapt()
        assert "1 thread from here on: 2 have waited for each other" in line
        assert torch.get_num_threads() == 1
        machine.go_on(others=1.0, seconds=10 * QUIET)
        assert threads.adapt() == []  # the neighbour is still there, though nobody waits any more
        for _ in range(int(QUIET / WINDOW) - 1):
            machine.go_on(others=0.0)
            assert threads.adapt() == []
        machine.go_on(others=0.0)
        (line,) = threads.adapt()
        assert line.startswith("2 threads from here on: others use 0.0 of 2 cores")
        machine.go_on(others=0.5, waited=0.5)
        assert len(threads.adapt()) == 1
        machine.go_on(others=0.0, seconds=QUIET)  # it was too early: twice as long now
        assert threads.adapt() == []
        machine.go_on(others=0.0, seconds=QUIET)
        assert len(threads.adapt()) == 1


def test_a_continued_run_keeps_the_number_that_it_had(machine: Machine) -> None:
    with Threads(CPU) as threads:
        machine.go_on(others=0.0)
        (line,) = threads.choose(recorded=1)
        assert line.startswith("1 thread from here on: as it had before")
    with Threads(CPU) as threads:
        assert threads.choose(recorded=64) == []  # a larger machine then


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_number_that_the_user_has_set_is_kept(machine: Machine, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(setting, "2")
    with Threads(CPU) as threads:
        machine.go_on(others=2.0, waited=2.0)
        assert [*threads.choose(), *threads.adapt()] == []
        assert torch.get_num_threads() == 2


def test_beside_a_gpu_the_threads_are_left_alone(machine: Machine) -> None:
    with Threads(GPU) as threads:
        machine.go_on(others=2.0, waited=2.0)
        assert [*threads.choose(), *threads.adapt()] == []


def test_a_change_is_said_and_stands_in_the_history_and_in_the_environment(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def read() -> cores.Reading:
        looked.append(machine.now)
        machine.go_on(others=float(len(looked) >= 4), waited=0.5 if len(looked) == 4 else 0.0)  # somebody comes after two steps
        return Machine.read(machine)

    monkeypatch.setattr(cores, "read", read)
    monkeypatch.setattr("hftl.training.threads.WINDOW", 0.0)
    said, run = io.StringIO(), RunDirectory(tmp_path / "run")
    engine.train(bert(), run, console=Console(file=said, width=300))
    (change,) = [record for record in run.read_history() if record["event"] == "threads"]
    assert change["threads"] == 1
    assert "1 thread from here on: 2 have waited for each other" in said.getvalue()
    assert read_json(run.environment)["threads"] == 1


# --- the doctor ---------------------------------------------------------------------------------------------------------------


def test_the_doctor_tells_what_others_leave_and_refuses_more_threads_than_that() -> None:
    assert load_check(2.0, 0.1, "").ok
    free = load_check(2.0, 1.0, "")
    assert free.ok
    assert free.found == "1.0 of 2 at this moment: a run would start with 1 thread"
    crowded = load_check(2.0, 1.0, "2")
    assert crowded.ok is False
    assert crowded.found == "1.0 of 2 at this moment: a run would start with OMP_NUM_THREADS=2"
    assert "export OMP_NUM_THREADS=1" in crowded.advice
    assert load_check(2.0, None, "").ok is None


# --- for real -----------------------------------------------------------------------------------------------------------------

SIDE_BY_SIDE = """
import sys, time, torch
from hftl.training.threads import Threads
torch.set_num_threads(2)
threads = Threads(torch.device("cpu"))
threads.choose()
torch.set_num_threads(2)  # whoever had the cores at that moment
a = torch.randn(64, 20_000)
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
while time.monotonic() - began < 20 and torch.get_num_threads() == 2:
    for _ in range(20):
        a.add_(1.0)
    threads.adapt()
print(torch.get_num_threads(), flush=True)
"""


@pytest.mark.slow
def test_two_processes_of_two_threads_on_two_cores_fall_back_to_one_each() -> None:
    two = sorted(cores.affinity())[:2]
    if len(two) < 2:
        pytest.skip("one core: there is nothing to fall back from")
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    sides = [
        subprocess.Popen(
            [sys.executable, "-c", SIDE_BY_SIDE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"OMP_NUM_THREADS": ""},
            preexec_fn=lambda: os.sched_setaffinity(0, two),
        )
        for _ in range(2)
    ]
    said = [side.stdout.readline() for side in sides if side.stdout is not None]
    assert said == ["ready\n", "ready\n"]
    answers: list[str] = []
    together = [threading.Thread(target=lambda side=side: answers.append(side.communicate("\n")[0])) for side in sides]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert "1\n" in answers  # the first to fall back may leave the other one enough
