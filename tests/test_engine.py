"""Whole runs on the packaged sample: what is promised about stages, resume, processes and the run directory."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import write_digits
from rich.console import Console
from safetensors.torch import load_file
from small import BERT_NANO, nano, reviews, train
from transformers import pipeline

from hftl.errors import DataError, RecipeError, RunError
from hftl.evaluation.metrics import compute_metrics
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json, write_json
from hftl.recipe import CosineSchedule, ImageData, Recipe, RunSettings, Stage, Timm, judged, override
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.sharing.card import write_card
from hftl.sharing.verify import verify
from hftl.training import checkpoint, engine, finished, open_run, working
from hftl.training.experiment import stage_loss
from hftl.training.journal import how_it_compares

GROUPS = ("embeddings", "layer.0", "layer.1", "layer.2", "layer.3", "head")
REPOSITORY = Path(__file__).resolve().parent.parent


def tiny_recipe(*changes: str) -> Recipe:
    stages = {
        "head": Stage(unfreeze="head", lr=1e-3, epochs=2),
        "top": Stage(unfreeze="last 2", lr=1e-3, layer_decay=0.5, epochs=2, schedule=CosineSchedule(warmup=0.1)),
    }
    return override(nano("tiny", reviews(72, 41, 37, max_length=48), stages, log_every=2), changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(tiny_recipe(), tmp_path_factory.mktemp("whole") / "run")


def test_a_run_leaves_everything_that_its_card_needs(run: RunDirectory) -> None:
    for path in (run.recipe, run.plan, run.environment, run.data, run.history, run.log, run.metrics, run.test_openings):
        assert path.stat().st_size > 0, path
    assert {path.name for path in run.figures.iterdir()} == {"learning_curves.png", "confusion_matrix_test.png", "calibration.png"}
    metrics = read_json(run.metrics)
    assert (metrics["validation"]["n"], metrics["test"]["n"]) == (41, 37)
    assert metrics["test"]["accuracy_interval"][0] < metrics["test"]["accuracy"] < metrics["test"]["accuracy_interval"][1]
    assert run.load_recipe() == judged(tiny_recipe(), "accuracy")
    assert len(run.test_openings.read_text().splitlines()) == 1


def test_the_history_tells_each_stage_with_its_steps_and_rates(run: RunDirectory) -> None:
    history = run.read_history()
    assert [r["stage"] for r in history if r["event"] == "evaluation"] == ["head", "head", "top", "top"]
    # 72 examples / 16 a step = 5 steps an epoch (the last of 8), 20 in all; every second one is logged, and the last of each epoch.
    steps = [r for r in history if r["event"] == "step"]
    assert [r["step"] for r in steps] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
    assert set(steps[0]["lr"]) == {"head"} and set(steps[-1]["lr"]) == {"layer.3", "head"}
    assert history[-1]["event"] == "finished"


def test_a_group_that_no_stage_trains_keeps_its_weights_bit_for_bit(run: RunDirectory) -> None:
    before, after = load_file(Path(BERT_NANO) / "model.safetensors"), load_file(run.model / "model.safetensors")
    backbone = [name for name in before if name.startswith(("bert.embeddings", "bert.encoder.layer"))]
    assert len(backbone) > 60
    changed = {".".join(name.split(".")[:4]) for name in backbone if not torch.equal(before[name], after[name])}
    assert changed == {"bert.encoder.layer.3"}


def test_the_saved_model_gives_the_stored_predictions_in_a_pipeline(run: RunDirectory) -> None:
    stored = Predictions.load(run.predictions("test"))
    reviews = [json.loads(line)["text"] for line in (Path(REVIEWS) / "test.jsonl").read_text().splitlines()]
    places = [int(name.rpartition("/")[2]) for name in stored.ids]
    classify = pipeline("text-classification", model=str(run.model), device="cpu")
    served: Any = classify([reviews[place] for place in places], truncation=True, top_k=None)
    names = ["negative", "positive"]
    probabilities = np.array([[next(row["score"] for row in rows if row["label"] == name) for name in names] for rows in served])
    np.testing.assert_allclose(probabilities, stored.probabilities, atol=1e-5)


def test_the_metrics_can_be_recomputed_from_the_stored_predictions(run: RunDirectory) -> None:
    for split in ("validation", "test"):
        stored = Predictions.load(run.predictions(split))
        accuracy = float((stored.logits.argmax(1) == stored.labels).mean())
        assert accuracy == pytest.approx(read_json(run.metrics)[split]["accuracy"])


def test_the_best_epoch_is_kept_and_not_the_last(tmp_path: Path) -> None:
    # A rate of 30 throws the weights far away in the second epoch of a schedule that starts near 0.
    recipe = tiny_recipe(
        "stages.head.epochs=1",
        "stages.top.epochs=3",
        "stages.top.schedule.warmup=0.9",
        "stages.top.lr=3",
        "stages.top.max_grad_norm=null",
    )
    run = train(recipe, tmp_path / "run")
    rows = [r for r in run.read_history() if r["event"] == "evaluation" and r["stage"] == "top"]
    best = max(range(3), key=lambda i: (rows[i]["validation"]["accuracy"], -rows[i]["validation"]["log_loss"]))
    assert [i for i, row in enumerate(rows) if row["kept"]][-1] == best
    assert read_json(run.metrics)["validation"]["log_loss"] == pytest.approx(rows[best]["validation"]["log_loss"], rel=1e-4)


RUINED = ("stages.top.lr=30", "stages.top.max_grad_norm=null", "stages.top.schedule.warmup=0")
"""A rate that throws the weights away from the first step on."""


@pytest.fixture(scope="module")
def ruined(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, str]:
    """A run of three stages of which the second improves nothing, and what it said."""
    recipe = tiny_recipe(*RUINED, "run.metric=log_loss")
    third = Stage(unfreeze="head", lr=1e-4)
    recipe = recipe.model_copy(update={"stages": {**recipe.stages, "settle": third}})
    said = io.StringIO()
    path = tmp_path_factory.mktemp("ruined") / "run"
    run = engine.train(recipe, RunDirectory(path), console=Console(file=said, width=300))
    write_card(run)
    return run, said.getvalue()


def test_a_stage_that_does_not_improve_leaves_no_weights_and_the_run_says_so(ruined: tuple[RunDirectory, str]) -> None:
    run, said = ruined
    ends = {r["stage"]: r for r in run.read_history() if r["event"] == "stage_end"}
    assert ends["head"]["kept"] and not ends["top"]["kept"]
    assert ends["top"]["best_metric"] > ends["head"]["best_metric"]
    against = f"(validation log_loss {ends['top']['best_metric']:.4f} against {ends['head']['best_metric']:.4f})"
    assert f"stage top did not improve on head {against}: its weights were not kept" in said
    evaluations = [r for r in run.read_history() if r["event"] == "evaluation"]
    assert not any(r["kept"] for r in evaluations if r["stage"] == "top")
    delivered = [r for r in evaluations if r["kept"]][-1]
    assert delivered == min(evaluations, key=lambda r: r["validation"]["log_loss"])
    assert read_json(run.metrics)["validation"]["log_loss"] == pytest.approx(delivered["validation"]["log_loss"], rel=1e-4)
    # Nothing of what "top" did to the encoder is in the model.
    before, after = load_file(Path(BERT_NANO) / "model.safetensors"), load_file(run.model / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("bert.encoder"))


def test_card_and_freeze_proof_tell_of_the_stage_that_was_not_kept(ruined: tuple[RunDirectory, str]) -> None:
    run, _ = ruined
    head, top, settle = read_json(run.freeze_proof)["stages"]
    assert (head["kept"], top["kept"]) == (True, False)
    begins = [[group["before"] for group in stage["groups"]] for stage in (top, settle)]
    assert begins[0] == begins[1]  # the third stage begins where the second began
    card = run.card.read_text(encoding="utf-8")
    assert "**Stage top did not improve on head:** its weights were not kept." in card
    (row,) = [line for line in card.splitlines() if line.startswith("| *weights kept*")]
    assert row.startswith("| *weights kept* |  | yes | no | ")
    assert not verify(run).failed
    proof = read_json(run.freeze_proof)
    proof["stages"][1]["kept"] = True
    write_json(run.freeze_proof, proof)
    try:
        assert [claim.where for claim in verify(run).failed] == ["top, kept"]
    finally:
        proof["stages"][1]["kept"] = False
        write_json(run.freeze_proof, proof)


def test_the_last_stage_is_delivered_where_the_recipe_asks_for_it(tmp_path: Path, ruined: tuple[RunDirectory, str]) -> None:
    one, _ = ruined
    run = train(tiny_recipe(*RUINED, "run.keep=last"), tmp_path / "run")
    head, top = (r for r in run.read_history() if r["event"] == "stage_end")
    assert head["kept"] and top["kept"]
    last = [r for r in run.read_history() if r["event"] == "evaluation" and r["kept"]][-1]
    assert last["stage"] == "top" and last["validation"]["log_loss"] > 2 * read_json(one.metrics)["validation"]["log_loss"]
    assert read_json(run.metrics)["validation"]["log_loss"] == pytest.approx(last["validation"]["log_loss"], rel=1e-4)


def test_equal_metrics_are_told_apart_by_the_log_loss() -> None:
    assert how_it_compares((0.6, -0.7), (0.8, -0.5), "accuracy") == "validation accuracy 0.6000 against 0.8000"
    assert how_it_compares((-0.7, -0.7), (-0.5, -0.5), "log_loss") == "validation log_loss 0.7000 against 0.5000"
    assert how_it_compares((0.8, -0.75), (0.8, -0.5), "mcc") == "validation mcc 0.8000 for both, log loss 0.7500 against 0.5000"


def test_early_stopping_ends_a_stage_that_no_longer_gets_better(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        "stages.head.epochs=6", "stages.head.early_stopping=1", "stages.head.lr=1e-12", "run.metric=log_loss", "stages.top.epochs=1"
    )
    run = train(recipe, tmp_path / "run")
    ended = next(r for r in run.read_history() if r["event"] == "stage_end")
    assert ended["stopped_early"]


def test_a_resumed_run_with_another_recipe_is_refused_with_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(open_run, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(), tmp_path / "run")
    with pytest.raises(RunError, match=r"stages\.top\.lr: 0.001 -> 0.002"):
        train(tiny_recipe("stages.top.lr=0.002"), tmp_path / "run", resume=True)


def test_a_finished_run_is_never_written_over(run: RunDirectory) -> None:
    before = run.metrics.read_bytes()
    with pytest.raises(RunError, match="holds a finished run, which is never written over"):
        train(tiny_recipe(), run.path)
    with pytest.raises(RunError, match="this run is finished"):
        train(tiny_recipe(), run.path, resume=True)
    assert run.metrics.read_bytes() == before


def test_a_mistake_in_the_recipe_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r'no layer group "layer\.9"'):
        train(tiny_recipe("stages.top.unfreeze=[layer.9, head]"), tmp_path / "run")
    with pytest.raises(DataError, match="no such file"):
        train(tiny_recipe("data.source=./nowhere/"), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"data.max_length: 600 is longer than the 512 positions"):
        train(tiny_recipe("data.max_length=600"), tmp_path / "run")
    with pytest.raises(RecipeError, match=r'run.trackers: no tracker "tensorbord". Did you mean "tensorboard"?'):
        train(tiny_recipe("run.trackers=[tensorbord]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_would_stop_a_later_stage_is_found_before_the_first(tmp_path: Path) -> None:
    recipe = tiny_recipe("stages.top.class_weights={negative: 1, positve: 2}")
    with pytest.raises(RecipeError, match=r'stages\.top\.class_weights: no class "positve"\. Did you mean "positive"'):
        train(recipe, tmp_path / "run")
    with pytest.raises(
        RecipeError, match=r"stages\.head\.unfreeze: freezes layer.3, whose weights model.reinitialize makes random"
    ):
        train(tiny_recipe("model.reinitialize=1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_continued_on_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(REVIEWS, tmp_path / "reviews")
    recipe = tiny_recipe(f"data.source={tmp_path / 'reviews'}")
    saved, save = [], checkpoint.save_checkpoint

    def stop(*arguments: Any) -> None:
        save(*arguments)
        saved.append(arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(open_run, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "run")
    train_file = tmp_path / "reviews" / "train.jsonl"
    lines = train_file.read_text().splitlines()
    train_file.write_text("\n".join(lines[::-1]) + "\n")
    with pytest.raises(RunError, match=r"the data are not those of this run any more \(changed: train, validation"):
        train(recipe, tmp_path / "run", resume=True)


def test_a_single_picture_that_is_left_for_batchnorm_is_found_before_training(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", range(3), train_per_class=12)
    recipe = Recipe(
        name="digits",
        data=ImageData(source=str(source), image_size=32, validation_fraction=0.25),
        model=Timm(checkpoint="test_resnet", pretrained=False),
        stages={"head": Stage(unfreeze="head", lr=1e-3), "all": Stage(lr=1e-3)},
        run=RunSettings(batch_size=12, precision="fp32", gradient_accumulation=2),
    )
    # 27 pictures: steps of 12, 12 and 3, and the 3 are cut into 2 and 1. The head alone has no BatchNorm and does not mind.
    with pytest.raises(RecipeError, match=r"stages\.all\.batch_size: the last step of an epoch has 3 of the 27 examples"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_group_that_was_to_train_and_has_not_moved_is_named(tmp_path: Path) -> None:
    said = io.StringIO()
    run = RunDirectory(tmp_path / "run")
    # Less than float32 can hold: even a bias of 0 stays 0.
    recipe = tiny_recipe("stages.head.lr=1e-50", "stages.top.epochs=1")
    engine.train(recipe, run, console=Console(file=said, width=200))
    assert "layer group head did not change in stage head although it was trainable; check its learning rate" in said.getvalue()
    head, top = read_json(run.freeze_proof)["stages"]
    assert {group["name"]: group["ok"] for group in head["groups"]} == {**dict.fromkeys(GROUPS, True), "head": False}
    assert {group["name"]: group["ok"] for group in top["groups"]} == dict.fromkeys(GROUPS, True)


def test_a_frozen_group_that_changes_all_the_same_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would where somebody's optimizer, or a BatchNorm in training mode, touched it."""
    freeze = working.freeze  # type: ignore[attr-defined]

    def freeze_and_touch(model: Any, chain: Any, trains: Any) -> None:
        freeze(model, chain, trains)
        model.bert.embeddings.word_embeddings.weight.data[7, 7] += 1e-3

    monkeypatch.setattr(working, "freeze", freeze_and_touch)
    with pytest.raises(RunError, match="stage head: the frozen group embeddings has changed, a defect of hftl"):
        train(tiny_recipe(), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_examples(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"stage head, step \d+: the loss is .* Its examples: train/"):
        train(tiny_recipe("stages.head.lr=1e38", "stages.head.max_grad_norm=null", "stages.head.optimizer=sgd"), tmp_path / "run")


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss can be finite where its gradient is not, and then the next checkpoint would hold nothing but NaN."""
    make, steps = stage_loss, list[None]()

    def make_steep(*arguments: Any, **options: Any) -> Any:
        example_loss = make(*arguments, **options)

        def steep(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            steps.append(None)
            losses = example_loss(logits, labels)
            # sqrt(0) is 0, and its slope there infinite.
            return losses + (logits - logits).sum(dim=1).sqrt() if len(steps) == 4 else losses

        return steep

    monkeypatch.setattr(engine, "stage_loss", make_steep)
    with pytest.raises(RunError, match=r"stage head, step 4: the loss is 0\.\d+ and the norm of its gradient (nan|inf)") as refused:
        train(tiny_recipe("run.checkpoint_minutes=0"), tmp_path / "run")
    assert str(refused.value).count("train/") == 16  # the examples of the step
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert newest.name.startswith("00000003")
    assert all(tensor.isfinite().all() for tensor in load_file(newest / "model.safetensors").values())


def test_micro_batches_change_the_memory_and_not_the_weights(tmp_path: Path) -> None:
    # SGD: Adam would blow rounding up to whole steps where the true gradient is 0, as that of attention's key biases is.
    sgd = ("stages.head.optimizer=sgd", "stages.top.optimizer=sgd", "stages.head.lr=0.1", "stages.top.lr=0.1")
    settings = ("model.dropout=0", "stages.head.epochs=1", "stages.top.epochs=1", *sgd)
    whole = train(tiny_recipe(*settings), tmp_path / "whole")
    cut = train(tiny_recipe(*settings, "run.gradient_accumulation=3"), tmp_path / "cut")
    a, b = load_file(whole.model / "model.safetensors"), load_file(cut.model / "model.safetensors")
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


@pytest.mark.slow
def test_two_processes_give_the_weights_and_metrics_of_one(tmp_path: Path) -> None:
    recipe = tiny_recipe("model.dropout=0", "stages.head.epochs=1", "stages.top.epochs=1", "stages.top.lora=2")
    one = train(recipe, tmp_path / "one")
    (tmp_path / "recipe.py").write_text(
        f"import hftl\nrecipe = hftl.load_recipe({str(one.recipe)!r})\nif __name__ == '__main__':\n    hftl.main(recipe)\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [*launch, str(tmp_path / "recipe.py"), "--run-dir", str(tmp_path / "two")]
    # Accelerate leaves its own variables behind in this process; a user's shell has none of them.
    left_behind = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {name: value for name, value in os.environ.items() if name not in left_behind} | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    two = RunDirectory(tmp_path / "two")
    assert read_json(two.environment)["processes"] == 2
    for split in ("validation", "test"):
        ours, theirs = Predictions.load(one.predictions(split)), Predictions.load(two.predictions(split))
        assert ours.ids == theirs.ids
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=2e-3)
        assert read_json(one.metrics)[split]["accuracy"] == read_json(two.metrics)[split]["accuracy"]
    assert done.stderr.count("the model card") == 1  # only the main process speaks


def test_evaluating_again_gives_the_recorded_numbers_and_writes_the_opening_down(run: RunDirectory) -> None:
    again = compute_metrics(finished.evaluate(run, split="test").plain, read_json(run.data)["label_names"])
    assert {**again, "skipped": 0} == read_json(run.metrics)["test"]
    assert len(run.test_openings.read_text().splitlines()) == 2
    with pytest.raises(RunError, match='no split "tset"'):
        finished.evaluate(run, split="tset")
