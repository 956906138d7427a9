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
from hftl.launch import Machine, processes_asked_for, run_processes, start_missing_processes
from hftl.signals import Stopped

LAUNCHED = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    "written", [["--num_processes", "3"], ["--num-processes", "3"], ["--num_processes=3"], ["--num-processes=3"]]
)
@pytest.mark.parametrize(
    "launcher",
    [["python", "/bin/accelerate", "launch"], ["python", "-m", "accelerate.commands.launch"], ["/bin/accelerate-launch"]],
)
def test_the_number_of_processes_is_read_in_every_spelling(launcher: list[str], written: list[str]) -> None:
    assert processes_asked_for([*launcher, "--cpu", *written, "script.py"]) == (3, Machine())


def test_what_the_script_is_given_is_not_the_launchers() -> None:
    command = ["accelerate", "launch", "--cpu", "--num_processes", "2", "script.py", "--num_processes", "5", "--machine_rank=1"]
    assert processes_asked_for(command) == (2, Machine())


@pytest.mark.parametrize("command", [[], ["bash", "-c", "hftl train"], ["accelerate", "--num_processes"]])
def test_a_program_between_the_launcher_and_hftl_is_said_to_be_in_the_way(command: list[str]) -> None:
    with pytest.raises(RunError, match="not by itself, so that it cannot be told how many"):
        processes_asked_for(command)


def test_a_number_that_is_not_there_is_not_guessed() -> None:
    with pytest.raises(RunError, match="how many processes"):
        processes_asked_for(["accelerate", "launch", "--cpu", "script.py"])


TWO = ["accelerate", "launch", "--cpu", "--num_machines", "2", "--main_process_ip", "10.1.2.3", "--main_process_port", "29533"]


@pytest.fixture
def meeting_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Accelerate's launcher sets it for several machines."""
    monkeypatch.setenv("MASTER_ADDR", "10.1.2.3")
    monkeypatch.setenv("MASTER_PORT", "29533")


@pytest.mark.usefixtures("meeting_place")
def test_a_machine_of_several_gets_its_share_of_the_processes() -> None:
    # Six over both machines: three each, ranks 0 to 2 and 3 to 5.
    command = [*TWO, "--num_processes", "6", "--machine_rank", "1", "script.py"]
    assert processes_asked_for(command) == (3, Machine(1, 2, "10.1.2.3", 29533))


@pytest.mark.usefixtures("meeting_place")
def test_what_the_command_line_leaves_out_is_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "cpu.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nnum_machines: 2\nnum_processes: 4\n"
        "machine_rank: 1\nmain_process_ip: 10.1.2.3\nmain_process_port: 29533\n"
    )
    config = ["accelerate", "launch", "--config_file", str(tmp_path / "cpu.yaml")]
    assert processes_asked_for([*config, "script.py"]) == (2, Machine(1, 2, "10.1.2.3", 29533))
    assert processes_asked_for([*config, "--machine_rank=0", "script.py"]) == (2, Machine(0, 2, "10.1.2.3", 29533))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--num_processes", "2"], "which of the 2 machines is this"),
        (["--num_processes", "2", "--machine_rank", "2"], "which of the 2 machines is this"),
        (["--num_processes", "3", "--machine_rank", "0"], "3 processes on 2 machines; each gets as many"),
        (["--num_processes", "1", "--machine_rank", "0"], "1 processes on 2 machines; each gets as many"),
    ],
)
@pytest.mark.usefixtures("meeting_place")
def test_machines_that_cannot_be_told_apart_are_refused(more: list[str], said: str) -> None:
    with pytest.raises(RunError, match=said):
        processes_asked_for([*TWO, *more, "script.py"])


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


def test_two_machines_are_one_world(tmp_path: Path) -> None:
    note = [
        *(sys.executable, "-c"),
        WORLD + f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(' '.join(os.environ[name] for name in"
        " ('WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')))",
    ]
    for number in range(2):
        assert run_processes(note, 2, Machine(number, 2, "10.1.2.3", 29533)) == 0
    expected = {"0": "4 2 0 10.1.2.3 29533", "1": "4 2 1 10.1.2.3 29533", "2": "4 2 0 10.1.2.3 29533", "3": "4 2 1 10.1.2.3 29533"}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == expected


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
