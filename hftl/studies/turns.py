"""Several processes at one study: one at a time draws and writes down; each trial belongs to one of them, as long as it lives.

The locks are the system's, on files in the study's folder, and go with a process that is killed: what it had begun is free at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

from hftl import system
from hftl.errors import RunError
from hftl.files import read_text, write_text
from hftl.studies.study import StudyDirectory

WAIT = 0.05
"""Seconds between two looks whether it is one's turn."""


@contextmanager
def turn(study: StudyDirectory) -> Iterator[None]:
    """Have the study to oneself, once every other process has let go of it.

    Raises:
        OSError: the file system has no locks.
    """
    study.locks.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            release = system.take(study.locks / "turn")
            break
        except BlockingIOError:
            time.sleep(WAIT)
    try:
        yield
    finally:
        release()


def claim_trial(study: StudyDirectory, name: str) -> Callable[[], None] | None:
    """Take a trial for this process; returns what lets go of it. None: another process has it."""
    try:
        return system.take(study.locks / name)
    except BlockingIOError:
        return None


@contextmanager
def joined(study: StudyDirectory) -> Iterator[None]:
    """Be one of several processes that work on a study; called in one's turn.

    Raises:
        RunError: a process has the study alone.
    """
    try:
        system.take(study.path)()
    except BlockingIOError:
        raise RunError(
            f"{study.path}: a process works on this study alone; several can where each of them is started with --join"
        ) from None
    descriptor = os.open(study.locks / "joined", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        release = system.hold(study.locks / "joined", descriptor)
        try:
            yield
        finally:
            release()
    finally:
        os.close(descriptor)


def refuse_others(study: StudyDirectory) -> None:
    """See that no process has joined a study; called in one's turn.

    Raises:
        RunError: one has.
    """
    if system.is_held(study.locks / "joined"):
        raise RunError(f"{study.path}: other processes work on this study; --join joins them")


def token_of(study: StudyDirectory) -> str:
    """What this very folder is known by in a storage that it shares with other studies; called in one's turn."""
    path = study.locks / "token"
    if not path.is_file():
        write_text(path, uuid4().hex)
    return read_text(path)
