"""hftl without what only POSIX, or only Linux, has: a stand-in for macOS and Windows, neither of which these tests run on.

The names are hidden from hftl's own modules and from nothing else, since the libraries that hftl calls have their own ways there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

# What Windows lacks, hidden where a module of hftl says `import os`, `import signal` or `import fcntl`.
HIDE = """
    import importlib, os, pkgutil, signal, sys, types
    import accelerate, albumentations, datasets, evaluate, filelock, matplotlib.pyplot, psutil, timm, torch
    import torchvision, transformers, typer, rich.progress, huggingface_hub, jinja2, scipy.stats, sklearn.metrics
    import multiprocessing.queues, subprocess, tempfile

    NAMES = (  # the first three macOS lacks, too
        "posix_fallocate sched_getaffinity fdatasync pread pwrite geteuid getuid nice sysconf fork killpg getpgid setsid mkfifo"
        " statvfs getloadavg O_NONBLOCK O_NOFOLLOW O_DIRECTORY O_CLOEXEC WNOHANG"
    )
    SIGNALS = "SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGCHLD"
    MODULES = "fcntl resource pwd grp termios"

    class Without(types.ModuleType):
        def __init__(self, module, names):
            super().__init__(module.__name__)
            self.__dict__.update(_module=module, _names=names)
        def __getattr__(self, name):
            if name in self._names:
                raise AttributeError(name)
            return getattr(self._module, name)

    hidden = {"os": Without(os, NAMES.split()), "signal": Without(signal, SIGNALS.split()), **dict.fromkeys(MODULES.split())}
    before = {name: sys.modules.get(name) for name in hidden}
    sys.modules.update(hidden)
    import hftl
    for module in pkgutil.walk_packages(hftl.__path__, "hftl."):
        if module.name != "hftl.__main__":
            importlib.import_module(module.name)
    for name, module in before.items():
        sys.modules.update({name: module}) if module is not None else sys.modules.pop(name)
"""

TRAIN = """
    import hftl.system
    from hftl.cli import main

    assert hftl.system._fcntl is None and not hasattr(hftl.system.os, "posix_fallocate"), "not hidden"
    main(argv=["train", "recipe.yaml", "--run-dir", "run"])
"""

# Two runs that want one folder, and an entry of the cache that is in use; by processes of which one is killed.
LOCKS = """
    import os, sys, time
    from pathlib import Path
    import filelock
    sys.modules["fcntl"] = None
    from hftl import system

    def taken():
        try:
            return system.take(Path("folder"))
        except BlockingIOError:
            return None

    if sys.argv[1] == "hold":
        taken = taken()
        descriptor = os.open("folder/layout.json", os.O_RDONLY)
        held = system.hold(Path("folder/layout.json"), descriptor)
        print("held", flush=True)
        time.sleep(60)
    print(system.is_held(Path("folder/layout.json")), taken() is None, flush=True)
    sys.stdin.readline()
    release = taken()
    print(system.is_held(Path("folder/layout.json")), release is None, flush=True)
    release()
    print(sorted(path.name for path in Path("folder").iterdir()))
"""


def python(code: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def recipe(folder: Path) -> None:
    """Reviews, small vectors and a recipe of two stages in a folder, the first of which trains from the cache."""
    good, bad = "a warm and funny film", "a boring waste of time"
    rows = "".join(f"{text} {number},{label}\n" for number in range(40) for text, label in ((good, "pos"), (bad, "neg")))
    (folder / "reviews.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    words = sorted({*good.split(), *bad.split()})
    lines = (f"{word} {place / 10} {1 - place / 10} {place % 3}\n" for place, word in enumerate(words))
    (folder / "small.txt").write_text("".join(lines), encoding="utf-8")
    values = {
        "name": "reviews",
        "data": {"kind": "text", "source": "reviews.csv", "test_fraction": 0.2, "validation_fraction": 0.2},
        "model": {"family": "textcnn", "vectors": "small.txt", "channels": 4},
        "stages": {"head": {"unfreeze": "head", "lr": 0.01}, "all": {"lr": 0.01}},
        "run": {"batch_size": 16, "precision": "fp32"},
    }
    (folder / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.slow
def test_a_model_is_trained_to_its_card_without_what_other_systems_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "cache"))
    recipe(tmp_path)
    process = python(HIDE + TRAIN, tmp_path)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "is computed once, for" in said  # the cache was built and used
    run = tmp_path / "run"
    assert json.loads((run / "metrics.json").read_text())["test"]["n"] == 16
    assert (run / "README.md").is_file() and not (run / ".lock").exists() and not (run / "checkpoints").exists()
    left = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.name.startswith(("held-", "progress-")))
    assert left == []


def test_without_flock_locks_hold_between_processes_and_go_with_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "layout.json").write_text("{}")
    holder = python(LOCKS, tmp_path, "hold")
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    other = python(LOCKS, tmp_path, "look")
    assert other.stdout is not None and other.stdout.readline() == "True True\n"
    holder.kill()
    holder.communicate()
    said, problems = other.communicate("go on\n", timeout=60)
    assert said.splitlines() == ["False False", "['layout.json']"], problems
