"""`hftl` in processes that are forked from one that has imported the libraries, so that their imports are paid once.

`Forks.start` gives what `subprocess.Popen` would of ``python -m hftl ...``: a real process, with a parent, children and signals of
its own, and what it says in files. Several processes of one world are started, watched and ended by `hftl.launch`, as ever; it
forks them here, where it would start Python anew.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn


class Command:
    """A running command; as much of `subprocess.Popen` as tests ask for."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid, self._folder = pid, folder
        self.returncode: int | None = None

    def poll(self) -> int | None:
        ended = self._folder / "ended"
        if self.returncode is None and ended.is_file():
            self.returncode = int(ended.read_text())
        return self.returncode

    def communicate(self, *, timeout: float = 200.0) -> tuple[str, str]:
        """What it said on stdout and stderr, once it has ended."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(["hftl"], timeout, stderr=(self._folder / "err").read_bytes())
            time.sleep(0.01)
        out, err = ((self._folder / name).read_text() for name in ("out", "err"))
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Forks:
    """The process that has imported the libraries, and what is forked from it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        pipe = subprocess.PIPE
        self._folder = tempfile.TemporaryDirectory(prefix="hftl-forked-")
        self._server = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, env=dict(environment))

    def start(
        self, *arguments: str, environment: Mapping[str, str], processes: int = 1, group: bool = False, before: str = ""
    ) -> Command:
        """Start `hftl` with these arguments.

        Args:
            arguments: as on the command line.
            environment: of the process.
            processes: so many of one world.
            group: in a process group of its own.
            before: Python that each process runs before the command.
        """
        folder = tempfile.mkdtemp(dir=self._folder.name)
        asked = {"arguments": arguments, "environment": dict(environment), "processes": processes, "group": group}
        asked |= {"folder": folder, "before": before}
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return Command(int(self._server.stdout.readline()), Path(folder))

    def close(self) -> None:
        self._server.communicate()
        self._folder.cleanup()


# --- in the other process -------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Fork what is asked for, and write down how it ended."""
    import hftl.cli
    import hftl.evaluation.report
    import hftl.sharing.card
    import hftl.training.engine  # noqa: F401

    running: dict[int, Path] = {}
    requests = os.fdopen(os.dup(0), "rb", buffering=0)  # a line at a time: what is buffered, select does not see
    while True:
        if select.select([requests], [], [], 0.01)[0]:
            line = requests.readline()
            if not line:
                for pid in running:  # of a test that gave them up
                    os.kill(pid, signal.SIGKILL)
                return
            asked = json.loads(line)
            pid = os.fork()
            if not pid:
                _command(asked)
            running[pid] = Path(asked["folder"])
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                beside = running[pid] / "ended.partial"
                beside.write_text(str(os.waitstatus_to_exitcode(status)))
                beside.rename(running.pop(pid) / "ended")


def _command(asked: Mapping[str, Any]) -> NoReturn:
    from hftl import launch

    if asked["group"]:
        os.setsid()
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(Path(asked["folder"]) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    arguments, processes, before = asked["arguments"], asked["processes"], asked["before"]
    if processes == 1:
        _become(arguments, asked["environment"], before)
    setattr(launch, "subprocess", SimpleNamespace(Popen=partial(_Rank, before)))  # noqa: B010  # mypy minds the assignment
    _end_as(lambda: sys.exit(launch.run_processes(arguments, processes)), asked["environment"])


class _Rank:
    """What `hftl.launch` starts and watches."""

    def __init__(self, before: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            from hftl import signals

            # The launcher defers signals; a new process would not.
            signals._noted, signals._deferring, signals._patient = None, False, False
            for number in signals.SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            _become(arguments, env, before)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _become(arguments: Sequence[str], environment: Mapping[str, str], before: str) -> NoReturn:
    from hftl.cli import main

    def command() -> None:
        sys.argv = ["hftl", *arguments]
        exec(before, {})  # noqa: S102  # the test's own
        main()

    _end_as(command, environment)


def _end_as(command: Callable[[], object], environment: Mapping[str, str]) -> NoReturn:
    """Call it in that environment, and end as Python would after it; but taking the interpreter down, which takes two seconds."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001  # as Python itself: a traceback, and 1
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
