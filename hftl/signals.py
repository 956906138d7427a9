"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal): how a command ends when it is asked to.

Most commands end at once. Training ends at the next safe place instead: inside `deferred` the first signal is only noted, the
loop looks, saves and raises `Stopped`. A second signal from an impatient user ends it at once all the same; launchers repeat the
first one by themselves, so processes that they started wait for the safe place.

Windows has no SIGHUP, and there SIGTERM ends a process without a word: Ctrl-C alone is obeyed.

SIGHUP stays ignored where it is when the command starts: `nohup hftl train` outlives its terminal.

The exit code is the shell's for such an end: 128 + the signal's number, so 130, 143 and 129.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

LAUNCHER = "HFTL_LAUNCHER_PID"
HANGUP = getattr(signal, "SIGHUP", None)
"""SIGHUP; None on Windows, where closing the terminal ends its processes at once."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, *(() if HANGUP is None else (HANGUP,)))

_noted: int | None = None
_deferring = False
_patient = False


class Stopped(SystemExit):
    """A signal ended the command; as a `SystemExit` it passes every handler of errors on its way out."""

    def __init__(self, number: int, *, saved: bool = False) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
        self.saved = saved
        """Where training was: a checkpoint has been written, and the user was told."""


def is_orphan() -> bool:
    """Whether the process of `hftl.launch` that started this one is gone, so that nobody passes signals on any more."""
    return os.environ.get(LAUNCHER, str(os.getppid())) != str(os.getppid())


def noted() -> int | None:
    """The number of the signal that has come while signals are deferred, or None."""
    return _noted


def install() -> None:
    """Let the signals raise `Stopped` in the main thread: what has to be cleaned up is."""
    for number in _heeded():
        signal.signal(number, _on_signal)


def is_installed() -> bool:
    """Whether this process is a command of hftl, which ends with the shell's exit code; otherwise it is somebody's own program."""
    return signal.getsignal(signal.SIGINT) is _on_signal


@contextmanager
def interruptible(way_on: str) -> Iterator[None]:
    """Ctrl-C in somebody's own program raises KeyboardInterrupt, as in any library; `way_on` says how the work is gone on with."""
    try:
        yield
    except Stopped as stopped:
        if stopped.signal is signal.SIGINT and not is_installed():
            raise KeyboardInterrupt(way_on) from None
        raise


def _heeded() -> list[signal.Signals]:
    """Those that this process was not told to ignore by `nohup`; a shell's `&` ignores SIGINT, and asks for nothing by it."""
    return [number for number in SIGNALS if number != HANGUP or signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def deferred(*, patient: bool = False) -> Iterator[Callable[[], int | None]]:
    """Inside, a signal is noted rather than obeyed; gives a function that tells the number of the signal, or None.

    A second one is obeyed at once, unless `patient`, or in a process that a launcher started.

    Raises:
        Stopped: a signal came and nothing inside has obeyed it.
    """
    global _noted, _deferring, _patient
    if _deferring or threading.current_thread() is not threading.main_thread():
        yield lambda: _noted  # the outer one decides; and only the main thread is ever told of a signal
        return
    before = {number: signal.signal(number, _on_signal) for number in _heeded()}
    _noted, _deferring, _patient = None, True, patient or "RANK" in os.environ
    try:
        yield lambda: _noted
    finally:
        noted, _noted, _deferring = _noted, None, False
        for number, handler in before.items():
            signal.signal(number, handler)
    if noted is not None:
        raise Stopped(noted)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _noted
    if _deferring and _noted is None:
        _noted = number
    elif not (_deferring and (_patient or number == HANGUP)):  # the kernel and the shell each send one
        raise Stopped(number)
