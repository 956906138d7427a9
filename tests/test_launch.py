from __future__ import annotations

import os

import pytest

from hftl.errors import RunError
from hftl.launch import processes_asked_for, start_missing_processes

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
    "environment", [{}, {**LAUNCHED, "RANK": "0"}, {"ACCELERATE_USE_CPU": "False", "MASTER_ADDR": "127.0.0.1"}]
)
def test_nothing_is_started_where_nothing_is_missing(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", *LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("a process was started"))
    start_missing_processes()


def test_several_processes_that_cannot_be_counted_are_an_error_and_not_a_run_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="asked for several CPU processes and started one"):
        start_missing_processes()  # pytest's parent is no launcher
