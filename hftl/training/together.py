"""Several processes as one run: what one refuses all refuse, and what they must have in common is compared before a step is taken.

Processes of one machine share their code, their files and their folders. Each machine of several has its own, and a difference
would be quiet: the optimizer's state of one half in a folder that nobody continues from, gradients of other rows than planned.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from hftl.environment import package_versions
from hftl.errors import HftlError, RunError
from hftl.files import PARTIAL
from hftl.recipe import Recipe, difference
from hftl.run import RunDirectory
from hftl.training.checks import check_run_directory

CODE = Path(__file__).parent.parent
"""The package hftl: what its files hold is what it is, whatever its version is called."""
SEEN_WITHIN = 10.0
"""Seconds that a file of another machine gets to be seen here."""
_NOTHING = "nothing"
_SHORT, _MOST_NAMED = 60, 8
"""Letters of a value that is shown as it is; differences in one message."""


@contextmanager
def one_answer() -> Iterator[None]:
    """What one process refuses inside, all refuse; the main process says it.

    Raises:
        HftlError: the reason of this process.
        RunError: that of another one, with its machine.
    """
    refused = None
    try:
        yield
    except HftlError as error:
        if error.everywhere:  # the others are not there to answer
            raise
        refused = error
    _answer(refused)


@contextmanager
def main_first() -> Iterator[None]:
    """The main process does what is inside before the others, who find its prepared data in the cache; else as `one_answer`."""
    main = PartialState().is_main_process
    if not main:
        _answer(None)
    refused = None
    try:
        yield
    except HftlError as error:
        if error.everywhere:
            raise
        refused = error
    if main:
        _answer(refused)
        refused = None
    _answer(refused)


def _answer(refused: HftlError | None) -> None:
    """The same end on every process: none when no process has a reason."""
    everywhere = _of_all(None if refused is None else f"{type(refused).__name__}: {refused}")
    if refused is not None:
        raise refused
    for rank, (host, reason) in enumerate(everywhere):
        if reason is not None:
            raise RunError(f"process {rank} of {len(everywhere)}, on {host}, refuses:\n  {reason}")


def _of_all(value: Any) -> list[tuple[str, Any]]:
    """The machine's name and the value of every process, in the order of their ranks."""
    everywhere: list[tuple[str, Any]] = gather_object([(socket.gethostname(), value)])
    return everywhere


def check_run_directory_together(run: RunDirectory, recipe: Recipe, *, resume: bool) -> None:
    """Check the run directory on every process, and see that they are of one code, one recipe and one folder.

    Raises:
        RunError: a process may not have the folder, or it is not the same as the main process's in one of these.
    """
    with one_answer():
        check_run_directory(run, recipe, resume=resume)
    if PartialState().num_processes == 1:
        return
    check_same({"hftl": _digest_of_code(), "versions": package_versions()})
    check_one_recipe(recipe)
    check_same_folder(run)


def check_same(facts: Mapping[str, Any]) -> None:
    """Refuse facts of which a process has others than the main process has. Values are named by their keys, at any depth.

    Raises:
        RunError: on every process, with what differs, here and there.
    """
    everywhere = _of_all(dict(_leaves(facts)))
    _, main = everywhere[0]
    lines = [
        f"  {name}: {other.get(name, _NOTHING)} in process {rank}, on {host}; {main.get(name, _NOTHING)} in the main process"
        for rank, (host, other) in enumerate(everywhere)
        for name in {**main, **other}
        if other.get(name, _NOTHING) != main.get(name, _NOTHING)
    ]
    if lines:
        more = [f"  ... and {len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
        way_out = "  Give every machine the same hftl and libraries, the same data and the same checkpoint"
        raise RunError("\n".join(["the processes of this run differ:", *lines[:_MOST_NAMED], *more, way_out]))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key -> value; what is short as it is, what is long by its hash."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    else:
        text = json.dumps(value, sort_keys=True, default=str)
        yield name, text if len(text) <= _SHORT else f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def check_one_recipe(recipe: Recipe) -> None:
    """Refuse another recipe than the main process has.

    Raises:
        RunError: on every process, with the difference.
    """
    everywhere = _of_all(recipe)
    for rank, (host, other) in enumerate(everywhere):
        if changed := difference(everywhere[0][1], other):
            headline = f"process {rank} on {host} has another recipe than the main process (main -> there):"
            raise RunError("\n".join([headline, *(f"  {line}" for line in changed)]))


def check_same_folder(run: RunDirectory) -> None:
    """See that what the main process writes into the run directory is there for all. Nothing is left of the trial.

    Raises:
        RunError: on every process, where one does not see it, or it cannot be written.
    """
    state = PartialState()
    names = [f".together-{uuid4().hex}{PARTIAL}"]
    broadcast_object_list(names)
    sign = run.path / names[0]
    new = [path for path in (run.path, *run.path.parents) if not path.exists()] if state.is_main_process else []
    try:
        with one_answer():
            if state.is_main_process:
                try:
                    run.path.mkdir(parents=True, exist_ok=True)
                    sign.touch()
                except OSError as error:
                    raise RunError(
                        f"{run.path}: cannot be written: {error.strerror}. Choose another place with --run-dir"
                    ) from None
        with one_answer():
            if not _appears(sign):
                raise RunError(
                    f"{run.path.absolute()} is not the main process's run directory, but another folder of this name."
                    " Give every machine a --run-dir on one disk that all of them see"
                )
    finally:
        if sign.exists() and state.is_main_process:
            sign.unlink()
        with suppress(OSError):  # not all were made, or another run has gone into one of them meanwhile
            for folder in new:
                folder.rmdir()


def _appears(sign: Path) -> bool:
    """Whether a file is there, or is there soon: a network file system remembers for a while that a folder was not."""
    deadline = time.monotonic() + SEEN_WITHIN
    while not sign.is_file():
        if time.monotonic() > deadline:
            return False
        for folder in reversed([path for path in sign.parents if path.is_dir()]):
            with suppress(OSError):
                os.listdir(folder)  # asks the server what is new
        time.sleep(0.5)
    return True


def _digest_of_code() -> str:
    """SHA-256 of all Python files of hftl, in hex."""
    digest = hashlib.sha256()
    for path in sorted(CODE.rglob("*.py")):
        digest.update(path.relative_to(CODE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
