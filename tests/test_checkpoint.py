"""Checkpoints are whole or absent: kills in the middle of a save, full disks, flipped bits, missing files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from small import flip_a_bit
from torch import nn

from hftl.errors import RunError
from hftl.run import RunDirectory
from hftl.training.checkpoint import (
    KEPT,
    CheckpointError,
    checkpoint_bytes,
    damage_of,
    load_best_weights,
    load_progress,
    newest_checkpoint,
    save_checkpoint,
)
from hftl.training.progress import Best, Cursor, Losses, Progress, Session


@pytest.fixture(scope="module")
def trained() -> tuple[Accelerator, nn.Module]:
    """A small model with an optimizer that has taken a step: about 4 MB of checkpoint."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(500, 500)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 500)).sum().backward()
    optimizer.step()
    prepared, _ = accelerator.prepare(model, optimizer)
    return accelerator, prepared


def save(folder: Path, trained: tuple[Accelerator, nn.Module], *steps: int) -> list[Path]:
    """Checkpoints of some steps of the first stage, each with its step as the loss."""
    accelerator, model = trained
    saved = []
    for step in steps:
        progress = Progress(Cursor(step=step, offset=step), losses=Losses(epoch=float(step)))
        saved.append(save_checkpoint(folder, accelerator, progress, model.state_dict()))
    return saved


def test_what_was_saved_is_read_back(tmp_path: Path, trained: tuple[Accelerator, nn.Module]) -> None:
    progress = Progress(
        Cursor(stage=1, epoch=2, step=412, offset=7),
        stage_best=Best(1, 1, (0.9, -0.3)),
        run_best=Best(0, 2, (0.95, -0.2)),
        losses=Losses(logged_steps=3),
        session=Session(history_bytes=9, threads=2),
        hashes={"head": {"parameters": "ab"}},
    )
    path = save_checkpoint(tmp_path, trained[0], progress, trained[1].state_dict())
    assert path.name == "00000412-01-00002"
    assert load_progress(path, processes=1) == progress
    assert torch.equal(load_best_weights(path)["weight"], trained[1].state_dict()["weight"])


def test_the_weights_with_which_a_stage_begins_may_outlast_it() -> None:
    first = Progress()
    assert first.is_kept((0.1, -9.0), keep="best")  # a random head competes with none
    head = first.after_epoch((0.8, -0.5), kept=True).after_epoch((0.7, -0.6), kept=False)
    assert head.run_best == Best(0, 1, (0.8, -0.5))
    top = head.next_stage()
    assert top.stage_best is None and top.run_best == Best(0, 1, (0.8, -0.5))
    assert not top.is_kept((0.8, -0.5), keep="best")  # as good is not better
    assert top.is_kept((0.8, -0.4), keep="best")  # of equal accuracies the log loss decides
    assert top.is_kept((0.1, -9.0), keep="last")
    # Patience counts from the stage's own best epoch, whatever the run keeps.
    worse = top.after_epoch((0.6, -0.7), kept=False).after_epoch((0.7, -0.6), kept=False).after_epoch((0.5, -0.9), kept=False)
    assert worse.stage_best == Best(1, 2, (0.7, -0.6))
    assert worse.run_best == Best(0, 1, (0.8, -0.5)) and not worse.leaves_weights


def test_the_newest_is_found_by_step_then_by_what_was_done_after_it(tmp_path: Path, trained: tuple[Accelerator, nn.Module]) -> None:
    # Step 20 before its evaluation, after it (epoch 2 is done), and the tenth million's step.
    names = [Progress(Cursor(epoch=epoch, step=step)).name for epoch, step in ((1, 20), (2, 20), (2, 21), (99, 10_000_000))]
    assert names == sorted(names)
    save(tmp_path, trained, 3, 20)
    assert newest_checkpoint(tmp_path) == (tmp_path / "00000020-00-00000", [])


def test_two_checkpoints_are_kept(tmp_path: Path, trained: tuple[Accelerator, nn.Module]) -> None:
    save(tmp_path, trained, 1, 2, 3, 4)
    assert KEPT == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003-00-00000", "00000004-00-00000"]


def test_a_newer_one_that_was_passed_over_goes_when_the_run_goes_on(tmp_path: Path, trained: tuple[Accelerator, nn.Module]) -> None:
    _, damaged = save(tmp_path, trained, 10, 20)
    flip_a_bit(damaged / "optimizer.bin")
    save(tmp_path, trained, 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000010-00-00000", "00000012-00-00000"]


def test_without_a_checkpoint_there_is_nothing_to_pass_over(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "checkpoints") == (None, [])
    (tmp_path / "00000001-00-00000.partial").mkdir()
    assert newest_checkpoint(tmp_path) == (None, [])


@pytest.mark.parametrize(
    "name", ["model.safetensors", "best.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl", "state.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_any_damage_to_any_file_is_seen_and_the_one_before_is_taken(
    tmp_path: Path, trained: tuple[Accelerator, nn.Module], name: str, damage: str
) -> None:
    first, second = save(tmp_path, trained, 1, 2)
    if not (second / name).is_file():
        assert name == "scheduler.bin"  # this model has none
        return
    if damage == "flip":
        flip_a_bit(second / name)
    elif damage == "cut":
        os.truncate(second / name, (second / name).stat().st_size - 1)
    else:
        (second / name).unlink()
    said = {"flip": "SHA-256 is another one", "cut": "bytes, not", "remove": "is missing"}[damage]
    found, (reason,) = newest_checkpoint(tmp_path)
    assert found == first
    assert second.name in reason and name in reason and said in reason


@pytest.mark.parametrize("manifest", ["", "{", '{"files": []}', '{"files": {"state.json": 1}}', '{"files": {}}', "[]"])
def test_a_manifest_that_is_none_makes_no_checkpoint(tmp_path: Path, trained: tuple[Accelerator, nn.Module], manifest: str) -> None:
    first, second = save(tmp_path, trained, 1, 2)
    (second / "manifest.json").write_text(manifest)
    assert newest_checkpoint(tmp_path)[0] == first
    (second / "manifest.json").unlink()
    assert damage_of(second) == "it has no manifest: it was not written to its end"


def test_when_none_verifies_nothing_is_started_again_silently(tmp_path: Path, trained: tuple[Accelerator, nn.Module]) -> None:
    for path in save(tmp_path, trained, 1, 2):
        flip_a_bit(path / "optimizer.bin")
    with pytest.raises(RunError) as refused:
        newest_checkpoint(tmp_path)
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("no checkpoint can be used")
    assert [line.split(":")[0].strip() for line in lines[1:3]] == ["00000002-00-00000", "00000001-00-00000"]
    assert f"remove {tmp_path}" in lines[3]


def test_another_number_of_processes_is_refused(tmp_path: Path, trained: tuple[Accelerator, nn.Module]) -> None:
    (path,) = save(tmp_path, trained, 1)
    with pytest.raises(RunError, match=r"number of processes: 1 then, 2 now; continue it with 1\. It is fixed over a run's life"):
        load_progress(path, processes=2)


# --- disks ----------------------------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_the_new_checkpoint_and_no_older_one(small_disk: Path, trained: tuple[Accelerator, nn.Module]) -> None:
    folder = small_disk / "checkpoints"
    saved = save(folder, trained, 1, 2)
    for ballast in range(0, 1_500_000, 100_000):  # so that the disk is full at another byte each time
        (small_disk / "ballast").write_bytes(bytes(ballast))
        with pytest.raises(CheckpointError, match=r"could not be written: .* The one before it stands; make room"):
            save(folder, trained, 3)
        assert sorted(folder.iterdir()) == saved  # nothing of it is left, either
        assert [damage_of(path) for path in saved] == [None, None]


def test_a_folder_that_cannot_be_written_is_refused_before_training(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with (
            pytest.raises(RunError, match=r"cannot be written: .* Choose another place with --run-dir"),
            RunDirectory(small_disk / "run").lock(),
        ):
            pass
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_a_disk_that_turns_read_only_costs_the_new_checkpoint_alone(
    small_disk: Path, trained: tuple[Accelerator, nn.Module]
) -> None:
    folder = small_disk / "checkpoints"
    (saved,) = save(folder, trained, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        with pytest.raises(CheckpointError, match="Read-only file system"):
            save(folder, trained, 2)
        assert newest_checkpoint(folder) == (saved, [])
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_the_space_of_a_checkpoint_is_known_before_there_is_one(tmp_path: Path, trained: tuple[Accelerator, nn.Module]) -> None:
    (path,) = save(tmp_path, trained, 1)
    real = sum(file.stat().st_size for file in path.iterdir())
    # 500 x 500 + 500 numbers of 4 bytes: the weights, the best weights, and AdamW's two for each.
    parameters = 250_500
    known = checkpoint_bytes(trained[1], optimizer_bytes=2 * 4 * parameters)
    assert known == 4 * 4 * parameters + 1_000_000
    assert real <= known < real + 1_000_000


# --- kills ----------------------------------------------------------------------------------------------------------------------

SAVES_UNTIL_KILLED = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from accelerate import Accelerator
from torch import nn
from hftl.training.checkpoint import damage_of, newest_checkpoint, save_checkpoint
from hftl.training.progress import Cursor, Progress

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
accelerator = Accelerator(cpu=True)
model = nn.Linear(300, 300)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(3, 300)).sum().backward()
optimizer.step()
model, optimizer = accelerator.prepare(model, optimizer)
generator, last, unfinished, results = random.Random(0), 0, 0, []
started = time.monotonic()
for step in range(-3, 0):  # how long one takes here, today
    save_checkpoint(folder / "tried", accelerator, Progress(Cursor(step=3 + step)), model.state_dict())
seconds = (time.monotonic() - started) / 3
shutil.rmtree(folder / "tried")
for _ in range(kills):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # a process that does nothing but save, and says which saves have returned
        step = last
        os.write(write, step.to_bytes(8, "big"))
        while True:
            step += 1
            save_checkpoint(folder, accelerator, Progress(Cursor(step=step)), model.state_dict())
            os.write(write, step.to_bytes(8, "big"))
    os.close(write)
    told = os.read(read, 8)
    time.sleep(generator.uniform(0, 4 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told += os.read(read, 1 << 16)
    os.close(read)
    promised = int.from_bytes(told[-8:], "big")
    unfinished += any(path.suffix == ".partial" for path in folder.glob("*"))
    found, passed_over = newest_checkpoint(folder)
    last = int(found.name.split("-")[0]) if found else 0
    results.append([promised, last, len(passed_over)])
print(json.dumps({"unfinished": unfinished, "results": results}))
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_save_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    kills = 100
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = [sys.executable, "-c", SAVES_UNTIL_KILLED, str(tmp_path), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["results"]) == kills
    assert report["unfinished"] > kills // 4  # the kills did hit saves
    for promised, found, passed_over in report["results"]:
        assert found >= promised and passed_over == 0
    assert report["results"][-1][1] > 50


def test_what_a_killed_save_left_is_cleared_by_the_next(tmp_path: Path, trained: tuple[Accelerator, nn.Module]) -> None:
    (first,) = save(tmp_path, trained, 1)
    shutil.copytree(first, tmp_path / "00000002-00-00000.partial")
    (second,) = save(tmp_path, trained, 3)
    assert sorted(tmp_path.iterdir()) == [first, second]


# --- one process at a time ------------------------------------------------------------------------------------------------------


def test_a_run_directory_belongs_to_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.run.LOCK_SECONDS", 0.3)
    run = RunDirectory(tmp_path / "run")
    taken = pytest.raises(RunError, match="another process is training this run at this moment")
    with run.lock(), taken, RunDirectory(run.path).lock():
        pass
    with run.lock():  # free again
        pass
