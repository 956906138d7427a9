"""SIGINT and SIGTERM: noted inside `deferred`, obeyed outside of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from hftl.signals import Stopped, deferred, install


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_raised_at_the_end_where_nothing_obeyed_it(number: signal.Signals, code: int) -> None:
    with pytest.raises(Stopped) as stopped, deferred() as noted:
        assert noted() is None
        os.kill(os.getpid(), number)
        assert noted() == number
    assert stopped.value.code == code
    assert stopped.value.signal is number


def test_the_handlers_of_before_are_back_afterwards() -> None:
    before: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    for number, handler in before.items():
        signal.signal(number, handler)
    with deferred():
        assert all(signal.getsignal(number) not in before.values() for number in before)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_second_signal_of_an_impatient_user_is_obeyed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    reached = False
    with pytest.raises(Stopped), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        reached = True
    assert not reached


def test_a_launcher_that_repeats_itself_does_not_cost_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    reached = False
    with pytest.raises(Stopped) as stopped, deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert reached
    assert stopped.value.signal is signal.SIGINT


def test_a_closed_terminal_that_is_told_twice_does_not_cost_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    reached = False
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with pytest.raises(Stopped) as stopped, deferred():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        reached = True
    assert reached and stopped.value.code == 129


def test_a_signal_that_nohup_has_switched_off_stays_off() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    install()
    with deferred() as noted:
        os.kill(os.getpid(), signal.SIGHUP)
        assert noted() is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_another_error_on_the_way_out_is_not_hidden_by_the_signal() -> None:
    with pytest.raises(ValueError, match="the disk is full"), deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("the disk is full")


def test_nested_the_outer_one_decides() -> None:
    order = []
    with pytest.raises(Stopped), deferred() as outer:
        with deferred() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner() == outer() == signal.SIGTERM
        order.append("after the inner one")
    assert order == ["after the inner one"]


def test_in_another_thread_signals_are_left_to_the_main_one() -> None:
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def work() -> None:
        with deferred() as noted:
            found.append((noted(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_ends_at_once_with_the_shells_exit_code_and_without_a_traceback(number: signal.Signals, code: int) -> None:
    waits = "import time; from hftl import cli, signals; signals.install(); print('ready', flush=True); "
    waits += "cli._exit_cleanly(lambda: time.sleep(60))"
    with subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        assert process.stderr.read() == ""
