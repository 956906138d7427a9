from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hftl.errors import RunError
from hftl.launch import processes_asked_for, run_processes, start_missing_processes
from hftl.signals import Stopped

LAUNCHED = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    "written", [["--num_processes", "3"], ["--num-processes", "3"], ["--num_processes=3"], ["--num-processes=3"]]
)
def test_the_number_of_processes_is_read_in_every_spelling(written: list[str]) -> None:
    assert processes_asked_for(["python", "accelerate", "launch", "--cpu", *written, "script.py"]) == 3


@pytest.mark.parametrize("command", [[], ["accelerate", "launch", "--cpu", "script.py"], ["accelerate", "--num_processes"]])
def test_a_number_that_is_not_there_is_not_guessed(command: list[str]) -> None:
    assert processes_asked_for(command) is None


@pytest.mark.parametrize(
    "environment", [{}, {**LAUNCHED, "RANK": "0"}, {"MASTER_ADDR": "127.0.0.1"}, {"ACCELERATE_USE_CPU": "False"}]
)
def test_nothing_is_started_where_nothing_is_missing(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", *LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    start_missing_processes()


def test_several_processes_that_cannot_be_counted_are_an_error_and_not_a_run_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="asked for several CPU processes and started one"):
        start_missing_processes()  # pytest's parent is no launcher


WORLD = "import os, sys, time; rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE']); "


def run(code: str, count: int) -> int:
    return run_processes([sys.executable, "-c", WORLD + code], count)


def test_each_process_knows_its_rank_and_where_the_others_are(tmp_path: Path) -> None:
    told = f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(os.environ['MASTER_PORT'])"
    assert run(told, 3) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2"}
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 1


def test_the_exit_code_is_that_of_the_process_that_failed() -> None:
    assert run("sys.exit(2 if rank else 0)", 2) == 2


def test_when_one_process_is_killed_all_end(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("hftl.launch.TO_NOTICE", 0.5)
    started = time.monotonic()
    assert run("time.sleep(60) if rank else os.kill(os.getpid(), 9)", 2) == 137
    assert time.monotonic() - started < 20
    assert "process 0 of 2 was killed (SIGKILL)" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_every_process_and_is_the_exit_code(number: signal.Signals, code: int, tmp_path: Path) -> None:
    note = f"""
import signal
def told(number, frame):
    open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGINT, told); signal.signal(signal.SIGTERM, told)
open({str(tmp_path)!r} + f'/ready{{rank}}', 'w')
time.sleep(60)
"""

    def send() -> None:
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    with pytest.raises(Stopped) as stopped:
        run(note, 2)
    assert stopped.value.code == code
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [str(int(number))] * 2
