"""Faults 31 to 35 and 37 from the outside: processes that are killed, stopped, starved of disk or left alone by others.

Bit-exactness over families, workers and places of a stop is in test_resume.py, a hundred kills of one save in test_checkpoint.py,
and the long campaign in kill_campaign.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import Hftl
from forked import Command, Forks
from safetensors.torch import load_file
from sittings import environment
from small import flip_a_bit, nano, reviews

from hftl.evaluation.predictions import Predictions
from hftl.files import read_json
from hftl.recipe import Stage
from hftl.run import RunDirectory
from hftl.training import open_run
from hftl.training.checkpoint import damage_of, save_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent
# 50 examples / 10 a step = 5 steps an epoch: 5 steps in the first stage, 20 in the second.
RECIPE = nano(
    "killed",
    reviews(50),
    {
        "head": Stage(unfreeze="head", lr=1e-3),
        "top": Stage(unfreeze="last 2", lr=1e-3, epochs=4, schedule="cosine", average="ema"),
    },
    batch_size=10,
    log_every=1,
    checkpoint_minutes=0,
)
STEPS = 25


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE.to_yaml())
    return path


Start = Callable[..., Command]


@pytest.fixture(scope="module")
def start(recipe_file: Path, forks: Forks) -> Start:
    """`hftl train`, as one process, or as several of one world."""

    def begin(run: RunDirectory, *more: str, processes: int = 1, group: bool = False) -> Command:
        arguments = ("train", str(recipe_file), "--run-dir", str(run.path), *more)
        return forks.start(*arguments, environment=environment(several=processes > 1), processes=processes, group=group)

    return begin


def wait_for_steps(run: RunDirectory, steps: int, process: Command) -> None:
    """Until the history tells of so many steps."""
    deadline = time.monotonic() + 120
    while not run.history.is_file() or run.history.read_text().count('"event": "step"') < steps:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def finish(process: Command) -> tuple[int, str]:
    """Exit code and what was said."""
    _, said = process.communicate(timeout=200)
    assert process.returncode is not None
    return process.returncode, said


def steps_taken(run: RunDirectory) -> list[int]:
    return [record["step"] for record in run.read_history() if record["event"] == "step"]


def assert_same_weights(one: RunDirectory, other: RunDirectory) -> None:
    ours, theirs = load_file(one.model / "model.safetensors"), load_file(other.model / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert read_json(one.metrics) == read_json(other.metrics)
    assert steps_taken(one) == steps_taken(other) == list(range(1, STEPS + 1))


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The run that nobody stopped."""
    run = RunDirectory(tmp_path_factory.mktemp("whole") / "run")
    code, said = finish(start(run))
    assert code == 0, said
    return run


@pytest.fixture(scope="module")
def whole_of_two(start: Start, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same on two processes."""
    run = RunDirectory(tmp_path_factory.mktemp("two") / "run")
    code, said = finish(start(run, processes=2))
    assert code == 0, said
    return run


# --- kills ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fault_31_a_run_that_was_killed_twice_ends_with_the_weights_of_one_that_was_not(
    start: Start, tmp_path: Path, whole: RunDirectory
) -> None:
    run = RunDirectory(tmp_path / "run")
    for steps, more in ((3, ()), (12, ("--resume",))):
        process = start(run, *more)
        wait_for_steps(run, steps, process)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
    process = start(run, "--resume")
    code, said = finish(process)
    assert code == 0
    # The line of a step is written before its checkpoint: at most that one step is taken again.
    assert 'continuing at stage "top", step 1' in said
    assert_same_weights(whole, run)


@pytest.mark.slow
def test_sixty_kills_of_four_kinds_of_run_lose_nothing(tmp_path: Path) -> None:
    """Texts, pictures with a worker and augmentation, focal loss, two processes; a process of its own forks them all."""
    results = tmp_path / "kills.json"
    command = [sys.executable, str(REPOSITORY / "tests" / "kill_campaign.py"), "--kills", "60", "--warm", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, env=environment(several=False))
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_json(results)
    assert found["kills"] == 60 and found["problems"] == [] and found["runs"] >= 4
    assert set(found["hits"]) == {"texts", "pictures", "focal", "two processes"}
    struck = {phase for hits in found["hits"].values() for phase in hits}
    assert struck >= {"a cache build", "a save"} and struck & {"saving the model", "the manifest", "figures", "the card"}
    assert "nothing was lost" in done.stdout


# --- disks ----------------------------------------------------------------------------------------------------------------------


def test_fault_32_a_disk_that_is_too_small_is_refused_before_training(hftl: Hftl, recipe_file: Path, small_disk: Path) -> None:
    outcome = hftl("train", str(recipe_file), "--run-dir", str(small_disk / "run"))
    assert outcome.code == 2
    # bert-nano's 1.92 million numbers of 4 bytes, twice; for each of the 215,042 that train 8 bytes of AdamW and 4 of the average;
    # 1 MB. Four of them.
    assert "76 MB are needed there, 10 MB are free. A checkpoint takes 19 MB" in outcome.err
    assert list(small_disk.iterdir()) == []


def test_fault_32_a_disk_that_fills_up_costs_the_checkpoint_being_written_and_nothing_else(
    hftl: Hftl, recipe_file: Path, small_disk: Path, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    run, ballast, saved = RunDirectory(small_disk / "run"), small_disk / "ballast", list[Path]()

    def somebody_fills_the_disk(*arguments: object) -> Path:
        if len(saved) == 4:
            ballast.write_bytes(bytes(100_000_000 - 8_000_000 - sum(path.stat().st_size for path in run.path.rglob("*"))))
        saved.append(save_checkpoint(*arguments))  # type: ignore[arg-type]
        return saved[-1]

    with monkeypatch.context() as patched:
        patched.setattr(open_run, "save_checkpoint", somebody_fills_the_disk)
        outcome = hftl("train", str(recipe_file), "--run-dir", str(run.path))
    assert outcome.code == 2
    assert "the checkpoint 00000005-00-00000 could not be written" in outcome.err
    assert "The one before it stands; make room and continue with --resume" in outcome.err
    assert "Traceback" not in outcome.err
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["00000003-00-00000", "00000004-00-00000"]
    assert [damage_of(path) for path in run.checkpoints.iterdir()] == [None, None]
    ballast.unlink()
    assert hftl("train", str(run.path), "--resume").code == 0
    assert_same_weights(whole, run)


# --- signals --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_fault_33_a_signal_in_a_step_saves_once_and_is_the_exit_code(
    start: Start, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = RunDirectory(tmp_path / "run")
    process = start(run, "run.checkpoint_minutes=60")
    wait_for_steps(run, 8, process)
    process.send_signal(number)
    exit_code, said = finish(process)
    assert exit_code == code
    assert "Traceback" not in said
    last = steps_taken(run)[-1]
    assert f'saved at step {last}, in stage "top" (checkpoint verified). Continue with:  hftl train {run.path} --resume' in said
    assert sorted(path.name[:8] for path in run.checkpoints.iterdir()) == ["00000005", f"{last:08d}"]


@pytest.mark.slow
def test_fault_33_34_sigterm_to_two_processes_saves_once_and_they_continue_bit_for_bit(
    start: Start, tmp_path: Path, whole_of_two: RunDirectory
) -> None:
    run = RunDirectory(tmp_path / "run")
    process = start(run, "run.checkpoint_minutes=60", processes=2)
    wait_for_steps(run, 8, process)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 143
    assert "Traceback" not in said
    assert said.count("(checkpoint verified)") == 1
    assert f"accelerate launch --cpu --num_processes 2 -m hftl train {run.path} --resume" in said
    code, said = finish(start(run, "--resume", processes=2))
    assert code == 0, said
    assert read_json(run.environment)["sessions"] == 2
    assert_same_weights(whole_of_two, run)


def test_fault_33_sigterm_to_the_whole_group_reaches_workers_too_and_the_run_saves(start: Start, tmp_path: Path) -> None:
    """As `timeout`, systemd and Slurm send it."""
    run = RunDirectory(tmp_path / "run")
    process = start(run, "run.checkpoint_minutes=60", "run.workers=1", group=True)
    wait_for_steps(run, 8, process)
    os.killpg(process.pid, signal.SIGTERM)
    code, said = finish(process)
    assert code == 143
    assert f"saved at step {steps_taken(run)[-1]}" in said
    assert "Traceback" not in said


# --- processes that die ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fault_35_when_a_rank_is_killed_all_end_with_a_message_and_the_run_continues(
    start: Start, tmp_path: Path, whole_of_two: RunDirectory
) -> None:
    run = RunDirectory(tmp_path / "run")
    process = start(run, processes=2)
    wait_for_steps(run, 8, process)
    ranks = sorted(psutil.Process(process.pid).children(), key=lambda child: child.pid)  # in the order in which they were started
    started = time.monotonic()
    ranks[1].kill()
    code, said = finish(process)
    assert time.monotonic() - started < 60
    assert code == 128 + signal.SIGKILL
    assert "process 1 of 2 was killed (SIGKILL); the others are ended. Continue from the last checkpoint with --resume" in said
    assert "PeerError: process 0 of 2: another process of this run has ended or no longer answers" in said
    assert "Traceback" not in said
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)
    code, said = finish(start(run, "--resume", processes=2))
    assert code == 0, said
    assert_same_weights(whole_of_two, run)


@pytest.mark.slow
def test_fault_35_a_rank_that_hangs_is_given_up_after_the_timeout(start: Start, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    process = start(run, "run.timeout_minutes=0.1", processes=2)
    wait_for_steps(run, 8, process)
    ranks = sorted(psutil.Process(process.pid).children(), key=lambda child: child.pid)  # in the order in which they were started
    with suspended(ranks[1]):
        code, said = finish_after_first_death(process, ranks[1])
    assert code != 0
    assert "PeerError: process 0 of 2: another process of this run has ended or no longer answers" in said


@contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    yield


def finish_after_first_death(process: Command, hanging: psutil.Process) -> tuple[int, str]:
    """The launcher gives a rank time to save before it kills it; a suspended one never will, so the test wakes it to be ended."""
    deadline = time.monotonic() + 60
    while len([child for child in psutil.Process(process.pid).children() if child.status() != psutil.STATUS_ZOMBIE]) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    hanging.resume()
    return finish(process)


@pytest.mark.slow
def test_fault_35_a_worker_of_the_loader_that_is_killed_ends_the_run_with_a_message(
    start: Start, tmp_path: Path, whole: RunDirectory
) -> None:
    run = RunDirectory(tmp_path / "run")
    process = start(run, "run.workers=1")
    wait_for_steps(run, 8, process)
    deadline = time.monotonic() + 60
    while not (workers := psutil.Process(process.pid).children()):
        assert time.monotonic() < deadline
    workers[0].kill()
    code, said = finish(process)
    if code == 0:  # it had handed out its last batch already
        pytest.fail("the worker was killed too late to matter")
    assert code == 2
    assert "WorkerError: a loader process died" in said
    assert "Traceback" not in said
    assert finish(start(run, "--resume"))[0] == 0
    assert_same_weights(whole, run)


# --- damage ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_fault_37_a_damaged_checkpoint_is_passed_over_and_named(
    hftl: Hftl, recipe_file: Path, tmp_path: Path, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    run, saved = RunDirectory(tmp_path / "run"), list[Path]()

    def stopping(*arguments: object) -> Path:
        saved.append(save_checkpoint(*arguments))  # type: ignore[arg-type]
        if len(saved) == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return saved[-1]

    with monkeypatch.context() as patched:
        patched.setattr(open_run, "save_checkpoint", stopping)
        assert hftl("train", str(recipe_file), "--run-dir", str(run.path)).code == 143
    newest = max(run.checkpoints.iterdir())
    if damage == "flip":
        flip_a_bit(newest / "model.safetensors")
    else:
        (newest / "model.safetensors").unlink()
    outcome = hftl("train", str(run.path), "--resume")
    assert outcome.code == 0
    said = {"flip": "was changed: its SHA-256 is another one", "remove": "is missing"}[damage]
    assert f"passed over the checkpoint {newest.name}: model.safetensors {said}" in outcome.err
    assert_same_weights(whole, run)


def test_fault_37_when_no_checkpoint_verifies_the_run_does_not_start_again_by_itself(
    hftl: Hftl, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run")

    def stopping(*arguments: object) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return save_checkpoint(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(open_run, "save_checkpoint", stopping)
        assert hftl("train", str(recipe_file), "--run-dir", str(run.path)).code == 143
    (only,) = run.checkpoints.iterdir()
    (only / "manifest.json").unlink()
    outcome = hftl("train", str(run.path), "--resume")
    assert outcome.code == 2
    assert "no checkpoint can be used" in outcome.err
    assert f"{only.name}: it has no manifest: it was not written to its end" in outcome.err


@pytest.mark.slow
def test_one_two_and_three_processes_take_the_same_steps(start: Start, tmp_path: Path) -> None:
    """Of a step's 10 examples three processes get 4, 3 and 3; 19 examples to evaluate are divided by neither two nor three."""
    changes = [f"stages.{stage}.{change}" for stage in ("head", "top") for change in ("optimizer=sgd", "lr=0.05", "average=ema")]
    runs = [RunDirectory(tmp_path / str(size)) for size in (1, 2, 3)]
    for size, run in enumerate(runs, 1):
        code, said = finish(start(run, "model.dropout=0", "run.checkpoint_minutes=60", *changes, processes=size))
        assert code == 0, said
    weights = [load_file(run.model / "model.safetensors") for run in runs]
    assert [read_json(run.environment)["processes"] for run in runs] == [1, 2, 3]
    for other in (1, 2):
        for name in weights[0]:
            torch.testing.assert_close(weights[0][name], weights[other][name], atol=2e-5, rtol=1e-3)
        for split, n in (("validation", 21), ("test", 19)):
            ours, theirs = Predictions.load(runs[0].predictions(split)), Predictions.load(runs[other].predictions(split))
            assert ours.ids == theirs.ids and len(set(theirs.ids)) == n
            np.testing.assert_allclose(ours.logits, theirs.logits, atol=2e-3)
            assert read_json(runs[0].metrics)[split]["accuracy"] == read_json(runs[other].metrics)[split]["accuracy"]
