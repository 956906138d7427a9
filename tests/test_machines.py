"""Several machines: two network namespaces where this machine allows them, and two processes that are not of one mind.

gloo on the CPU; no GPU has run this. A namespace has its own network and shares the disk, as machines of a cluster do.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sittings import environment
from small import staged, write_recipe
from small_models import tiny_bert

from hftl.errors import RunError
from hftl.files import read_json
from hftl.recipe import Stage, override
from hftl.run import RunDirectory
from hftl.training.machine import _name_the_network, process_state

REPOSITORY = Path(__file__).resolve().parent.parent
ADDRESSES = ("10.213.77.1", "10.213.77.2")
Start = Callable[..., subprocess.Popen[str]]


def system(*command: str) -> str | None:
    """What went wrong with a command of the system; None: nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip()}"


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces that reach each other, at `ADDRESSES`."""
    names = (f"hftl-{os.getpid()}-0", f"hftl-{os.getpid()}-1")
    try:
        problem = system("ip", "netns", "add", names[0]) or system("ip", "netns", "add", names[1])
        link = ("ip", "link", "add", "there", "netns", names[0], "type", "veth", "peer", "name", "there", "netns", names[1])
        problem = problem or system(*link)
        for name, address in zip(names, ADDRESSES, strict=True):
            problem = problem or system("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "there")
            problem = problem or system("ip", "-n", name, "link", "set", "there", "up")
            problem = problem or system("ip", "-n", name, "link", "set", "lo", "up")
        if problem is not None:
            pytest.skip(f"this machine allows no network namespaces ({problem})")
        yield names
    finally:
        for name in names:
            system("ip", "netns", "del", name)


@pytest.fixture
def on_machines(namespaces: tuple[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start one side: ``start(number, "train", ...)`` is `accelerate launch` by flags alone, in namespace `number`."""
    started: list[subprocess.Popen[str]] = []

    def start(number: int, *arguments: str) -> subprocess.Popen[str]:
        flags = ["--cpu", "--num_machines=2", "--num_processes=2", f"--machine_rank={number}"]
        place = [f"--main_process_ip={ADDRESSES[0]}", "--main_process_port=29533", "-m", "hftl"]
        launch = [sys.executable, "-m", "accelerate.commands.launch", *flags, *place, *arguments]
        started.append(
            subprocess.Popen(
                ["ip", "netns", "exec", namespaces[number], *launch],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(several=False),
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    return [(process.returncode, said) for process in processes for _, said in [process.communicate(timeout=200)]]


@pytest.mark.slow
def test_two_machines_by_flags_alone_give_the_bits_of_one(on_machines: Start, tmp_path: Path) -> None:
    recipe = override(staged(tiny_bert(tmp_path / "tiny")), ["run.checkpoint_minutes=10"])
    path, two, one = write_recipe(recipe, tmp_path), RunDirectory(tmp_path / "two"), RunDirectory(tmp_path / "one")
    sides = [on_machines(number, "train", str(path), "--run-dir", str(two.path)) for number in (0, 1)]
    for code, said in finish(sides):
        assert code == 0, said
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "-m", "hftl"]
    command = [*launch, "train", str(path), "--run-dir", str(one.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment(several=False), check=False)
    assert done.returncode == 0, done.stderr
    assert read_json(two.environment)["processes"] == read_json(one.environment)["processes"] == 2
    ours, theirs = load_file(two.model / "model.safetensors"), load_file(one.model / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert read_json(two.metrics) == read_json(one.metrics)
    assert not list(two.path.glob("*.partial"))


@pytest.mark.slow
def test_a_machine_that_dies_ends_the_other_with_a_message(on_machines: Start, tmp_path: Path) -> None:
    recipe = staged(tiny_bert(tmp_path / "tiny"))
    recipe = recipe.model_copy(update={"stages": {"all": Stage(unfreeze="all", lr=1e-3, epochs=500)}})
    path, run = write_recipe(recipe, tmp_path), RunDirectory(tmp_path / "run")
    sides = [on_machines(number, "train", str(path), "--run-dir", str(run.path)) for number in (0, 1)]
    deadline = time.monotonic() + 120
    while not (run.history.is_file() and '"event": "step"' in run.history.read_text()):
        assert all(side.poll() is None for side in sides) and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(sides[1].pid, signal.SIGKILL)
    code, said = finish(sides[:1])[0]
    assert code != 0
    assert "PeerError: process 0 of 2: another process of this run has ended or no longer answers" in said


# Two processes that call one thing after the other and write down how each came to them.
DISAGREE = """
import atexit, json, os, sys
from pathlib import Path
os.environ["RANK"] = os.environ["LOCAL_RANK"] = sys.argv[1]
import torch.distributed
@atexit.register  # before hftl registers anything, so that it is called after it
def left():
    assert not torch.distributed.is_initialized()
    (Path(sys.argv[2]) / f"left-{sys.argv[1]}").touch()
from hftl.errors import DataError, RunError
from hftl.recipe import load_recipe, override
from hftl.run import RunDirectory
from hftl.training.machine import process_state
from hftl.training import together
together.SEEN_WITHIN = 1.0  # seconds
from hftl.training.together import check_one_recipe, check_run_directory_together, check_same, check_same_folder
from hftl.training.together import main_first, one_answer

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
state, came = process_state(minutes=1), []

def note(what):
    try:
        what()
        came.append("")
    except RunError as error:
        came.append(f"RunError: {error}")
    except DataError as error:
        came.append(f"DataError: {error}")

def refuses(how, who):
    with how():
        came.append(f"inside {rank}")
        if rank == who:
            raise DataError.single("data.source", "no such folder", source="the recipe")

for how in (one_answer, main_first):
    for who in (0, 1, 2):
        note(lambda: refuses(how, who))
recipe = load_recipe(folder / "recipe.yaml")
note(lambda: check_one_recipe(recipe))
note(lambda: check_one_recipe(override(recipe, ["stages.all.lr=0.5"]) if rank else recipe))
note(lambda: check_same({"versions": {"torch": "2.14.1"}, "long": list(range(99))}))
note(lambda: check_same({"versions": {"torch": f"2.14.{rank}"}, "long": list(range(99 + rank)), **({"more": 1} if rank else {})}))
note(lambda: check_same_folder(RunDirectory(folder / "new" / "run")))
note(lambda: check_same_folder(RunDirectory(folder / f"mine-{rank}" / "run")))
(folder / "file").touch()
note(lambda: check_same_folder(RunDirectory(folder / "file" / "run")))
note(lambda: check_run_directory_together(RunDirectory(folder / "new" / "run"), recipe, resume=rank == 1))
note(lambda: check_run_directory_together(RunDirectory(folder / "new" / "run"), recipe, resume=False))
(folder / f"came-{rank}.json").write_text(json.dumps(came))
"""


@pytest.mark.slow
def test_what_one_process_refuses_all_refuse_and_what_differs_is_named(tmp_path: Path) -> None:
    write_recipe(staged(tmp_path), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", DISAGREE, str(rank), str(tmp_path)],
            env=environment(several=True) | world,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    assert {path.name for path in tmp_path.glob("left-*")} == {"left-0", "left-1"}  # see _leave_group
    main, other = (json.loads((tmp_path / f"came-{rank}.json").read_text()) for rank in range(2))
    host = socket.gethostname()
    data = "DataError: 1 problem in the recipe\n  data.source: no such folder"
    from_0, from_1 = (f"RunError: process {rank} of 2, on {host}, refuses:\n  {data}" for rank in range(2))
    # one_answer: both are inside, whoever refuses; nobody does the third time.
    assert main[:6] == ["inside 0", data, "inside 0", from_1, "inside 0", ""]
    assert other[:6] == ["inside 1", from_0, "inside 1", data, "inside 1", ""]
    # main_first: what the main process refuses the other does not begin.
    assert main[6:12] == ["inside 0", data, "inside 0", from_1, "inside 0", ""]
    assert other[6:11] == [from_0, "inside 1", data, "inside 1", ""]
    main, other = main[12:], other[11:]
    assert main[:5] == other[:5] and main[8] == other[8]  # of what differs both say the same, and the main process aloud
    assert main[0] == ""
    assert main[1].splitlines()[1:] == ["  stages.all.lr: 0.001 -> 0.5"]
    assert f"process 1 on {host} has another recipe than the main process" in main[1]
    assert main[2] == ""
    assert f'  versions.torch: "2.14.1" in process 1, on {host}; "2.14.0" in the main process' in main[3]
    assert "  long: SHA-256 " in main[3] and f"  more: 1 in process 1, on {host}; nothing in the main process" in main[3]
    assert main[4] == "" and not (tmp_path / "new").exists()  # nothing is left of the trial
    assert f"{tmp_path}/mine-1/run is not the main process's run directory" in main[5]
    assert not (tmp_path / "mine-0").exists() and not (tmp_path / "mine-1").exists()
    assert "cannot be written: Not a directory" in main[6]
    assert "no run here" in main[7] and main[8] == ""


# --- the others do not come -----------------------------------------------------------------------------------------------------

ALONE = """
import os
from hftl.errors import RunError
from hftl.training.machine import process_state
for more in MORE:
    world = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ.update(world | more)
    try:
        process_state(minutes=0.01)
    except RunError as error:
        print(type(error).__name__, error.exit_code, str(error).splitlines()[0])
"""


def test_processes_that_never_come_or_cannot_be_reached_are_a_message() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as server:
        port, in_use = str(server.getsockname()[1]), str(taken.getsockname()[1])
        server.close()
        more = [
            {"MASTER_PORT": port},
            {"MASTER_PORT": port, "RANK": "1"},
            {"MASTER_PORT": in_use},
            {"MASTER_PORT": "no number"},
            {"MASTER_PORT": port, "RANK": "1", "MASTER_ADDR": "no-such-machine.invalid"},
        ]
        code = ALONE.replace("MORE", repr(more))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=environment(several=True), check=False
        )
    assert done.returncode == 0, done.stderr
    waited, alone, used, wrong, unknown = done.stdout.splitlines()
    joined = f"have not joined at 127.0.0.1:{port} within 0.01 minutes (run.timeout_minutes)"
    assert waited.startswith(f"PeerError 1 process 0 of 2: the others {joined}") and "--machine_rank" in waited
    assert alone.startswith(f"PeerError 1 process 1 of 2: the others {joined}")
    assert used.startswith(f"RunError 2 process 0 of 2: another program uses the port of 127.0.0.1:{in_use}.")
    assert wrong.startswith("RunError 2 the processes' launcher: invalid literal for int() with base 10: 'no number'")
    assert unknown.startswith(f"PeerError 1 process 1 of 2: the others have not joined at no-such-machine.invalid:{port}")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"MASTER_ADDR": "127.0.0.1"}, "lo"),
        ({"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "ib0"}, "ib0"),
        ({"MASTER_ADDR": "no-such-machine.invalid"}, None),
        ({}, None),
    ],
)
def test_gloo_takes_the_network_on_which_the_main_process_is_reached(
    variables: dict[str, str], named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "to be taken back")  # and removed again after the test
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    _name_the_network()
    assert os.environ.get("GLOO_SOCKET_IFNAME") == named


def test_a_rank_that_was_left_in_the_environment_asks_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    try:
        assert process_state().num_processes == 1
    except RunError as error:
        pytest.fail(str(error))
