"""Shared fixtures. No test reaches the network: the Hub is switched off before any library is imported."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Sums over two threads round in another order than over one: what is compared bit by bit has one, here and in other processes.
os.environ["OMP_NUM_THREADS"] = "1"
# Nor does a test find what another session, or the user of this machine, has computed before.
os.environ["HFTL_CACHE"] = tempfile.mkdtemp(prefix="hftl-tests-")
# Nor do runs of tests stand in the user's ledger of test openings.
os.environ["HFTL_LEDGER"] = os.path.join(os.environ["HFTL_CACHE"], "ledger", "test_openings.jsonl")

import pytest
from forked import Forks
from hub_server import hub as hub

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session() -> Iterator[None]:
    """What the tests have computed once is removed with them."""
    yield
    shutil.rmtree(os.environ["HFTL_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def ledger_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a ledger of test openings of its own: what other tests have opened is not counted."""
    monkeypatch.setenv("HFTL_LEDGER", str(tmp_path / "ledger-of-test-openings.jsonl"))


@pytest.fixture(scope="module", autouse=True)
def libraries_out_of_the_collectors_way() -> None:
    """Each stage ends with a search for what nobody needs: through all that the libraries have, it takes a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def shared() -> Path:
    """Real data, vectors and weights beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("needs the development data in ../shared, which are not part of the project")
    return SHARED


class Outcome(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


Hftl = Callable[..., Outcome]


@pytest.fixture
def hftl(capsys: pytest.CaptureFixture[str]) -> Hftl:
    """The command line in this process: ``hftl("verify", run.path)``."""
    from hftl.cli import main

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as exited:
            main(argv=[str(argument) for argument in arguments])
        printed = capsys.readouterr()
        code = exited.value.code
        return Outcome(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One good model folder of each family; a test changes a copy."""
    from small_models import WRITERS

    folders = {name: tmp_path_factory.mktemp("saved") / name for name in WRITERS}
    for name, folder in folders.items():
        WRITERS[name](folder)
    return folders


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts `hftl` in processes that need not import the libraries."""
    forks = Forks({**os.environ, "PYTHONPATH": str(REPOSITORY)})
    yield forks
    forks.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 10 MB, with room for two checkpoints of 4 MB and not for three."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # a test that failed may hold a file


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """pytest's own are back after a test: the command line, run in this process, installs others."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


# `make test` gives whole files to two processes, in this order: the longest first, so that none is left over at the end for one.
LONGEST = (
    *("test_strangers", "test_fsdp", "test_machines", "test_kills", "test_resume"),
    *("test_faults", "test_checkpoint", "test_foreign_models", "test_hub"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of `LONGEST` come before the others; within a file nothing changes its place."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))
