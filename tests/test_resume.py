"""A run that was stopped anywhere and continued has the weights, bit for bit, of the run that was never stopped.

The stop is a real signal, sent by the process to itself at a chosen place; what happens to other processes, and kills, are in
test_kills.py.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from sittings import assert_same_run, signal_at
from small import STAGES, bert, noisy_pictures, small_vectors, train

from hftl.errors import RunError
from hftl.evaluation.predict import predict_logits
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json, read_json_lines, write_json
from hftl.recipe import (
    BiLSTM,
    Recipe,
    TextCNN,
)
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.signals import Stopped
from hftl.training import engine, finish, open_run, watch
from hftl.training.checkpoint import load_progress, save_checkpoint
from hftl.training.progress import Progress


def fail_after_test_was_predicted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose disk is full when it comes to save the model."""

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(finish, "save_classifier", full)
        train(bert(), path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(bert(), tmp_path_factory.mktemp("whole") / "run")


def test_a_run_that_is_stopped_after_every_single_step_ends_with_the_same_weights(
    tmp_path: Path, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 40 examples / 16 a step = 3 steps an epoch (the last of 8), 4 epochs: 12 steps; the 3rd, 9th and 12th are stages' edges.
    sessions = 0
    finished = False
    while not finished:
        sessions += 1
        with signal_at(monkeypatch, step=1), suppress(Stopped):
            train(bert(), tmp_path / "run", resume=sessions > 1)
            finished = True
    stopped_run = RunDirectory(tmp_path / "run")
    assert sessions == 13
    assert read_json(stopped_run.environment)["sessions"] == 13
    assert len(stopped_run.test_openings.read_text().splitlines()) == 1
    assert_same_run(whole, stopped_run)
    assert not stopped_run.checkpoints.exists()


def test_the_farewell_says_where_it_stopped_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    with signal_at(monkeypatch, step=5, number=signal.SIGINT), pytest.raises(Stopped) as stopped:
        engine.train(bert(), RunDirectory(tmp_path / "run"), console=Console(file=said, width=300))
    assert stopped.value.code == 130
    last = said.getvalue().rstrip().splitlines()[-1]  # an older rich ends its progress with an empty line
    assert last == f'saved at step 5, in stage "top" (checkpoint verified). Continue with:  hftl train {tmp_path / "run"} --resume'
    said = io.StringIO()
    engine.train(bert(), RunDirectory(tmp_path / "run"), resume=True, console=Console(file=said, width=300))
    assert (
        'continuing at stage "top", step 5 (checkpoint 00000005-01-00000): same data order, same augmentations, same generators'
        in said.getvalue()
    )


@pytest.mark.slow
def test_a_resume_goes_on_from_the_best_weights_and_not_from_those_of_a_stage_that_was_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruined = bert("stages.top.lr=30", "stages.top.schedule.warmup=0", "stages.top.max_grad_norm=null", "run.metric=log_loss")
    whole = train(ruined, tmp_path / "whole")
    assert [r["kept"] for r in whole.read_history() if r["event"] == "stage_end"][:2] == [True, False]
    for step in (7, 10):  # inside the stage that is not kept, and in the one after it
        with signal_at(monkeypatch, step=step), pytest.raises(Stopped):
            train(ruined, tmp_path / f"at-{step}")
        said = io.StringIO()
        resumed = RunDirectory(tmp_path / f"at-{step}")
        engine.train(ruined, resumed, resume=True, console=Console(file=said, width=300))
        assert "  best so far: stage head, epoch 1, validation log_loss " in said.getvalue()
        assert_same_run(whole, resumed)


@pytest.mark.parametrize("evaluation", [1, 2, 4])
def test_a_stop_during_an_evaluation_repeats_the_evaluation_and_no_step(
    tmp_path: Path, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch, evaluation: int
) -> None:
    seen = list[None]()

    def stopping(*arguments: Any, after_batch: Callable[[], None], **options: Any) -> Any:
        seen.append(None)
        batches = list[None]()

        def look() -> None:
            batches.append(None)
            if len(seen) == evaluation and len(batches) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            after_batch()

        return predict_logits(*arguments, after_batch=look, **options)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(finish, "predict_logits", stopping)
        train(bert(), tmp_path / "run")
    (newest, *_) = sorted((path.name for path in (tmp_path / "run" / "checkpoints").iterdir()), reverse=True)
    assert int(newest.split("-")[0]) == 3 * evaluation  # all steps of that epoch
    assert_same_run(whole, train(bert(), tmp_path / "run", resume=True))


def test_a_stop_while_test_is_open_is_written_down_as_a_second_opening(
    tmp_path: Path, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()

    def stopping(*arguments: Any, size: int, **options: Any) -> Any:
        sizes.append(size)
        if size == 19:  # the test split
            os.kill(os.getpid(), signal.SIGTERM)
        return predict_logits(*arguments, size=size, **options)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(finish, "predict_logits", stopping)
        train(bert(), tmp_path / "run")
    run = train(bert(), tmp_path / "run", resume=True)
    assert [opening["by"] for opening in read_json_lines(run.test_openings)] == ["hftl train", "hftl train, continued"]
    assert_same_run(whole, run)


def test_a_run_that_is_stopped_after_test_was_predicted_does_not_open_it_again(
    tmp_path: Path, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_after_test_was_predicted(tmp_path / "run", monkeypatch)
    run = train(bert(), tmp_path / "run", resume=True)
    assert len(run.test_openings.read_text().splitlines()) == 1
    assert_same_run(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_with_augmentation_batchnorm_dropout_and_workers_continue_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    recipe = noisy_pictures(tmp_path / "data", f"run.workers={workers}")
    whole = train(recipe, tmp_path / "whole")
    # 30 pictures / 8 a step = 4 steps an epoch, 12 in all; stopped after 3 (in the middle of a stage) and 6 (across the unfreeze).
    with signal_at(monkeypatch, step=3), pytest.raises(Stopped):
        train(recipe, tmp_path / "run")
    with signal_at(monkeypatch, step=3), pytest.raises(Stopped):
        train(recipe, tmp_path / "run", resume=True)
    assert_same_run(whole, train(recipe, tmp_path / "run", resume=True))


@pytest.mark.parametrize("family", [TextCNN, BiLSTM])
def test_glove_networks_with_word_dropout_continue_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Callable[..., Any]
) -> None:
    model = family(vectors=str(small_vectors(tmp_path / "vectors.txt")), word_dropout=0.3, trainable_dim=4)
    stages = {"head": STAGES["head"], "all": STAGES["all"]}
    recipe = Recipe(name="glove", data=bert().data, model=model, stages=stages, run=bert().run)
    whole = train(recipe, tmp_path / "whole")
    with signal_at(monkeypatch, step=4), pytest.raises(Stopped):
        train(recipe, tmp_path / "run")
    assert_same_run(whole, train(recipe, tmp_path / "run", resume=True))


@pytest.mark.slow
def test_gradient_accumulation_and_another_number_of_workers_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulated = "run.gradient_accumulation=3"
    whole = train(bert(accumulated), tmp_path / "whole")
    with signal_at(monkeypatch, step=5), pytest.raises(Stopped):
        train(bert(accumulated), tmp_path / "run")
    changed = bert(accumulated, "run.workers=1", "run.log_every=2", "run.checkpoint_minutes=0")
    assert_same_run(whole, train(changed, tmp_path / "run", resume=True))


@pytest.mark.slow
def test_checkpoints_inside_an_epoch_come_as_often_as_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = list[Path]()

    def noted(folder: Path, *arguments: Any) -> Path:
        saved.append(save_checkpoint(folder, *arguments))
        return saved[-1]

    monkeypatch.setattr(open_run, "save_checkpoint", noted)
    train(bert("run.checkpoint_minutes=0"), tmp_path / "often")
    # After each of the 12 steps, and after each of the 4 evaluations.
    assert len(saved) == 16
    # Otherwise after each epoch that took long enough to be worth it, and at the end of each stage.
    for worth, names in ((0, ["00-00001", "01-00001", "01-00002", "02-00001"]), (1e9, ["00-00001", "01-00002", "02-00001"])):
        saved.clear()
        monkeypatch.setattr(watch, "MIN_INTERVAL_IN_SAVES", worth)
        train(bert(), tmp_path / f"seldom-{worth}")
        assert [path.name[-8:] for path in saved] == names


def test_a_checkpoint_with_a_flipped_bit_is_passed_over_and_the_one_before_taken(
    tmp_path: Path, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signal_at(monkeypatch, step=8), pytest.raises(Stopped):
        train(bert("run.checkpoint_minutes=0"), tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    content = bytearray((newest / "optimizer.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "optimizer.bin").write_bytes(content)
    said = io.StringIO()
    run = engine.train(bert(), RunDirectory(tmp_path / "run"), resume=True, console=Console(file=said, width=300))
    assert f"passed over the checkpoint {newest.name}: optimizer.bin was changed: its SHA-256 is another one" in said.getvalue()
    assert 'continuing at stage "top", step 7' in said.getvalue()
    assert_same_run(whole, run)


def test_another_number_of_threads_is_said_and_another_number_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signal_at(monkeypatch, step=1), pytest.raises(Stopped):
        train(bert(), tmp_path / "run")
    run, said = RunDirectory(tmp_path / "run"), io.StringIO()
    write_json(run.environment, read_json(run.environment) | {"precision": "bf16"})
    with pytest.raises(RunError, match="started in bf16, and this machine computes in fp32; continue it where it was started"):
        train(bert(), run.path, resume=True)
    write_json(run.environment, read_json(run.environment) | {"precision": "fp32"})

    def with_64_threads(checkpoint: Path, *, processes: int) -> Progress:
        progress = load_progress(checkpoint, processes=processes)
        return replace(progress, session=replace(progress.session, threads=64))

    monkeypatch.setattr(open_run, "load_progress", with_64_threads)
    engine.train(bert(), run, resume=True, console=Console(file=said, width=200))
    assert f"with {torch.get_num_threads()} threads instead of 64: sums round differently" in said.getvalue()


def test_stages_in_another_order_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with signal_at(monkeypatch, step=1), pytest.raises(Stopped):
        train(bert(), tmp_path / "run")
    turned = bert().model_copy(update={"stages": dict(reversed(STAGES.items()))})
    with pytest.raises(RunError, match="stages: head, top, all -> all, top, head"):
        train(turned, tmp_path / "run", resume=True)


def test_other_contents_under_the_same_ids_and_labels_are_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = Path(shutil.copytree(REVIEWS, tmp_path / "reviews"))
    recipe = bert(f"data.source={reviews}")
    with signal_at(monkeypatch, step=1), pytest.raises(Stopped):
        train(recipe, tmp_path / "run")
    text = (reviews / "train.jsonl").read_text(encoding="utf-8")
    (reviews / "train.jsonl").write_text(text.replace(" the ", " a "), encoding="utf-8")
    with pytest.raises(RunError, match=r"the data are not those of this run any more \(changed: train"):
        train(recipe, tmp_path / "run", resume=True)


def test_what_an_earlier_start_has_left_is_not_taken_for_this_ones(
    tmp_path: Path, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_after_test_was_predicted(tmp_path / "run", monkeypatch)
    run = RunDirectory(tmp_path / "run")
    shutil.rmtree(run.checkpoints)  # the way out that is offered when no checkpoint verifies
    foreign = Predictions.load(run.predictions("test"))
    Predictions(foreign.ids, foreign.labels, -foreign.logits).save(run.predictions("test"), ["negative", "positive"])
    run.model.mkdir(exist_ok=True)
    for name in ("model/.config.json.99.partial", "predictions/.validation.parquet.99.partial", ".metrics.json.99.partial"):
        (run.path / name).write_text("{")  # of a process that was killed while it wrote
    run = train(bert(), run.path, resume=True)
    assert [opening["by"] for opening in read_json_lines(run.test_openings)] == ["hftl train", "hftl train, continued"]
    assert_same_run(whole, run)
    assert list(run.path.rglob("*.partial")) == []


def test_a_run_that_never_saved_starts_again(tmp_path: Path, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(open_run, "save_checkpoint", killed)
        train(bert(), tmp_path / "run")
    assert_same_run(whole, train(bert(), tmp_path / "run", resume=True))


@pytest.mark.parametrize("change", ["stages.top.lr=0.002", "run.seed=1", "data.max_length=31", "run.batch_size=8"])
def test_what_changes_the_run_is_refused_with_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    with signal_at(monkeypatch, step=1), pytest.raises(Stopped):
        train(bert(), tmp_path / "run")
    key, value = change.split("=")
    with pytest.raises(RunError, match=rf"the recipe is not the one this run was started with:\n  {key}: .* -> {value}"):
        train(bert(change), tmp_path / "run", resume=True)
