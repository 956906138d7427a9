"""A run goes on from the base that it was started with, or not at all: the differences are named, and what does no harm is said."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Hftl
from huggingface_hub import constants
from rich.console import Console
from safetensors.torch import load_file, save_file
from sittings import assert_same_run, signal_at
from small import BERT_NANO, bert, noisy_pictures, small_vectors, train
from transformers import PreTrainedTokenizerBase

from hftl.environment import package_versions
from hftl.errors import RunError
from hftl.files import read_json, write_json
from hftl.recipe import Recipe, RunSettings, Stage, TextCNN, TextData
from hftl.run import RunDirectory
from hftl.samples import MOBILENET, REVIEWS
from hftl.sharing.card import render_card
from hftl.signals import Stopped
from hftl.training import engine, finish, finished, open_run
from hftl.training.experiment import prepare_experiment
from hftl.training.finished import missing
from hftl.training.origin import base_record, check_same_base
from hftl.training.plan import plan_on_record
from hftl.training.planning import make_plan

Change = Callable[[Path], None]


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Which take half of the time of such a run, and tell nothing of it here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(finish, "write_figures", lambda *_: [])
        yield


def stop(recipe: Recipe, path: Path, *, step: int) -> RunDirectory:
    """The run, stopped after a step with a checkpoint; before any for step 0."""
    with pytest.MonkeyPatch.context() as patched:
        if not step:
            patched.setattr(open_run, "save_checkpoint", _killed)
        with signal_at(patched, step=max(step, 1)), pytest.raises(Stopped if step else KeyboardInterrupt):
            train(recipe, path)
    return RunDirectory(path)


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def go_on(recipe: Recipe, run: RunDirectory) -> str:
    """Continue to the end; what was said."""
    said = io.StringIO()
    engine.train(recipe, run, resume=True, console=Console(file=said, width=300))
    return said.getvalue()


def refusal(recipe: Recipe, run: RunDirectory) -> str:
    with pytest.raises(RunError) as refused:
        train(recipe, run.path, resume=True)
    return str(refused.value)


def copy_of(run: RunDirectory, folder: Path) -> Path:
    return Path(shutil.copytree(run.path, folder / f"copy of {run.path.name}"))


def edited(file: str, **values: Any) -> Change:
    """A JSON file of the base with other values under dotted names."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        for name, value in values.items():
            *outer, last = name.split("__")
            inner = content
            for key in outer:
                inner = inner[key]
            inner[last] = value
        (folder / file).write_text(json.dumps(content), encoding="utf-8")

    return change


def other_weights(name: str) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = tensors[name] + 1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def swapped_words(folder: Path) -> None:
    """The same vocabulary in another order."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["the"], vocabulary["film"] = vocabulary["film"], vocabulary["the"]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


# --- transformers -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run on a copy of bert-nano beside it, stopped in the middle of its second stage."""
    folder = tmp_path_factory.mktemp("base")
    return stop(bert(f"model.checkpoint={shutil.copytree(BERT_NANO, folder / 'nano')}"), folder / "run", step=5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (edited("config.json", hidden_act="relu"), "config.json: hidden_act: gelu -> relu"),
        (edited("config.json", attention_probs_dropout_prob=0.5), "config.json: attention_probs_dropout_prob: 0.1 -> 0.5"),
        (edited("config.json", layer_norm_eps=1e-6), "config.json: layer_norm_eps: 1e-12 -> 1e-06"),
        (edited("config.json", _attn_implementation="eager"), "config.json: attention: sdpa -> eager"),
        (edited("tokenizer_config.json", do_lower_case=False), "tokenizer: normalizer.lowercase: true -> false"),
        (swapped_words, "tokenizer: model.vocab: 8,192 entries, SHA-256 "),
    ],
)
def test_another_base_is_refused_with_the_difference_named(
    stopped: RunDirectory, tmp_path: Path, change: Change, named: str
) -> None:
    run = RunDirectory(copy_of(stopped, tmp_path))
    base = stopped.load_recipe().model.checkpoint  # type: ignore[union-attr]
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    as_it_was = Path(shutil.copytree(base, tmp_path / "as it was"))
    try:
        change(Path(base))
        message = refusal(stopped.load_recipe(), run)
    finally:
        shutil.copytree(as_it_was, base, dirs_exist_ok=True)
    assert f"{run.path}: the model is not built from what this run was started with:\n  {named}" in message
    assert message.endswith("in another place with --run-dir")
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


def test_many_differences_are_counted_and_settings_of_another_library_are_its_own(stopped: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(copy_of(stopped, tmp_path))
    data = read_json(run.data)
    now = data["base"]
    write_json(run.data, data | {"base": now | {"config.json": now["config.json"] | {f"setting_{n}": 1 for n in range(10)}}})
    with pytest.raises(RunError, match=r"  config\.json: setting_0: 1 -> nothing\n(?s:.*)  \.\.\. and 2 more\n"):
        check_same_base(now, run)
    # With another version of a library settings come and go: that is said by itself, and what both have counts.
    environment = read_json(run.environment)
    write_json(run.environment, environment | {"packages": environment["packages"] | {"transformers": "5.0.0"}})
    assert check_same_base(now, run) == []
    later = environment | {"packages_before": {"transformers": ["5.0.0"]}}  # at the next resume it was there before
    write_json(run.environment, later)
    assert check_same_base(now, run) == []
    with pytest.raises(RunError, match=r"config\.json: hidden_act: gelu -> relu"):
        check_same_base(now | {"config.json": now["config.json"] | {"hidden_act": "relu"}}, run)


@pytest.fixture(scope="module")
def continued(stopped: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same, continued as it was: the run in one piece, as test_resume.py shows."""
    run = RunDirectory(copy_of(stopped, tmp_path_factory.mktemp("continued")))
    go_on(stopped.load_recipe(), run)
    return run


def test_other_weights_are_refused_while_they_would_be_used_and_said_after(
    stopped: RunDirectory, continued: RunDirectory, tmp_path: Path
) -> None:
    recipe, late = stopped.load_recipe(), RunDirectory(copy_of(stopped, tmp_path))
    early, then = stop(recipe, tmp_path / "early", step=0), read_json(late.data)
    base = Path(recipe.model.checkpoint)  # type: ignore[union-attr]
    kept = (base / "model.safetensors").read_bytes()
    other_weights("bert.encoder.layer.1.output.dense.bias")(base)
    try:
        assert "  weights: others in layer.1\n" in refusal(recipe, early)
        said = go_on(recipe, late)
    finally:
        (base / "model.safetensors").write_bytes(kept)
    assert "the base has other weights than at the start (layer.1): the run goes on with its own, from the checkpoint" in said
    assert_same_run(continued, late)
    assert read_json(late.data) == then


def test_a_branch_of_the_hub_that_moves_does_no_harm(
    continued: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "cache" / "models--somebody--nano"
    old, new = "0123456789abcdef0123456789abcdef01234567", "f" * 40
    shutil.copytree(BERT_NANO, repository / "snapshots" / old)
    edited("config.json", hidden_act="relu")(Path(shutil.copytree(BERT_NANO, repository / "snapshots" / new)))
    (repository / "refs").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def main_is(commit: str) -> None:
        (repository / "refs" / "main").write_text(commit)

    main_is(old)
    recipe = bert("model.checkpoint=somebody/nano")
    run = stop(recipe, tmp_path / "run", step=5)
    then = read_json(run.data)
    main_is(new)
    go_on(recipe, run)
    assert_same_run(continued, run)
    assert read_json(run.data) == then
    assert read_json(run.data)["model"]["revision"] == old
    assert run.load_recipe().model.revision is None  # type: ignore[union-attr]  # as it was asked for


def test_a_finished_run_needs_its_base_no_more_and_gets_figures_and_card_by_resume(hftl: Hftl, tmp_path: Path) -> None:
    base = shutil.copytree(BERT_NANO, tmp_path / "nano")
    run = train(bert(f"model.checkpoint={base}", "run.test=sealed"), tmp_path / "run")
    shutil.rmtree(base)
    metrics = run.metrics.read_bytes()
    assert "stages.top.lr: 0.001 -> 0.5" in hftl("train", run.path, "stages.top.lr=0.5", "--resume").err
    outcome = hftl("train", run.path, "card.license=mit", "--resume")
    drawn = [f"figures/{name}.png" for name in ("learning_curves", "confusion_matrix_validation", "calibration")]
    assert f"{run.path}: this run is finished but for {', '.join(drawn)}, README.md: written now, from what it has" in outcome.err
    assert outcome.code == 0 and missing(run) == [] and run.metrics.read_bytes() == metrics
    assert "license: mit" in run.card.read_text(encoding="utf-8")
    run.card.unlink()  # as of a run that was killed between metrics.json and its card
    assert "this run is finished but for README.md: written now" in hftl("train", run.path, "--resume").err
    outcome = hftl("train", run.path, "--resume")
    assert outcome.code == 2 and "this run is finished; there is nothing to resume" in outcome.err
    assert hftl("evaluate", run.path).code == 0
    environment = read_json(run.environment)
    write_json(run.environment, environment | {"packages": environment["packages"] | {"torch": "2.13.0"}})
    assert hftl("test", run.path).code == 0
    assert read_json(run.environment) == environment | {"packages_before": {"torch": ["2.13.0"]}}
    assert f"torch {environment['packages']['torch']} (before: 2.13.0)" in run.card.read_text(encoding="utf-8")
    assert f"Its card again:  hftl card {run.path}" in hftl("test", run.path).err


# --- pictures, word vectors -------------------------------------------------------------------------------------------------------


def test_another_normalisation_of_pictures_is_refused(tmp_path: Path) -> None:
    base = Path(shutil.copytree(MOBILENET, tmp_path / "mobile"))
    recipe = noisy_pictures(tmp_path / "data", f"model.checkpoint={base}", "model.pretrained=true", "run.cache_gb=0")
    run = stop(recipe, tmp_path / "run", step=2)
    edited("config.json", pretrained_cfg__interpolation="bilinear", pretrained_cfg__mean=[0.5, 0.5, 0.5])(base)
    message = refusal(recipe, run)
    assert "  config.json: pretrained_cfg.mean: [0.485, 0.456, 0.406] -> [0.5, 0.5, 0.5]\n" in message
    assert "  preprocessing: interpolation: bicubic -> bilinear\n" in message


def test_other_word_vectors_are_refused_where_they_count(tmp_path: Path) -> None:
    vectors = small_vectors(tmp_path / "vectors.txt")
    reads = TextData(source=REVIEWS, max_length=32, max_train_samples=40, max_validation_samples=21, max_test_samples=19)
    model = TextCNN(vectors=str(vectors), channels=8, min_count=3)
    stages = {"body": Stage(unfreeze=("convolutions", "head"), lr=1e-3, epochs=2)}
    recipe = Recipe(
        name="glove", data=reads, model=model, stages=stages, run=RunSettings(batch_size=16, precision="fp32", log_every=1)
    )
    early, late = stop(recipe, tmp_path / "early", step=0), stop(recipe, tmp_path / "late", step=2)
    lines = vectors.read_text().splitlines()
    vectors.write_text("".join(f"{line.rpartition(' ')[0]} 0.5\n" for line in lines))  # another last number for every word
    assert "  weights: others in embedding\n" in refusal(recipe, early)
    assert "the base has other weights than at the start (embedding)" in go_on(recipe, RunDirectory(copy_of(late, tmp_path)))
    vectors.write_text("".join(f"{line}\n" for line in lines[::2]))  # fewer words with a vector: another vocabulary
    message = refusal(recipe, late)
    assert re.search(r"  config\.json: vocab_size: [\d]+ -> [\d]+\n  tokenizer: model\.vocab: ", message)


def test_the_record_is_the_same_after_a_call_and_after_it_was_written() -> None:
    classifier = prepare_experiment(bert()).classifier
    before = base_record(classifier)
    assert isinstance(classifier.preprocessor, PreTrainedTokenizerBase)
    classifier.preprocessor("some words", truncation=True, padding="max_length", return_tensors="pt")
    assert base_record(classifier) == before == json.loads(json.dumps(before))


# --- libraries, plan, cache -------------------------------------------------------------------------------------------------------


def test_what_was_recorded_at_the_start_stands_and_what_differs_is_said(stopped: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(copy_of(stopped, tmp_path))
    environment, here = read_json(run.environment), package_versions()["torch"]
    write_json(run.environment, environment | {"packages": environment["packages"] | {"torch": "2.13.0"}})
    write_json(run.plan, read_json(run.plan) | {"at_least_minutes": 150.0})  # as a slower moment would have measured it
    plan, data = run.plan.read_bytes(), run.data.read_bytes()
    said = go_on(stopped.load_recipe(), run)
    assert f"with torch {here} instead of 2.13.0: numbers may differ a little" in said
    assert read_json(run.environment)["packages_before"] == {"torch": ["2.13.0"]}
    assert f"torch {here} (before: 2.13.0)" in render_card(run)
    assert run.plan.read_bytes() == plan
    assert "At this machine's matrix rate that is 2 h 30 min of training at the least" in said and "plan.json keeps" not in said
    assert run.data.read_bytes() == data


def test_a_finished_run_is_evaluated_with_a_word_about_other_versions_and_formats(continued: RunDirectory, tmp_path: Path) -> None:
    run, heard = RunDirectory(copy_of(continued, tmp_path)), list[str]()
    environment, here = read_json(run.environment), package_versions()["timm"]
    other = {"packages": environment["packages"] | {"timm": "1.0.0"}, "precision": "bf16"}
    write_json(run.environment, environment | other)
    finished._evaluate(run, split="validation", source=None, opened_by="hftl evaluate", say=heard.append)
    assert heard == [
        f"with timm {here} instead of 1.0.0: numbers may differ a little",
        "trained in bf16, evaluated in fp32: numbers differ a little from those on record",
    ]


def test_a_plan_that_would_be_another_now_is_said(stopped: RunDirectory) -> None:
    experiment = prepare_experiment(stopped.load_recipe())
    plan, said = plan_on_record(make_plan(experiment), stopped)
    assert (plan.at_least_minutes, said) == (read_json(stopped.plan)["at_least_minutes"], [])
    _, said = plan_on_record(replace(plan, padding_share=0.99), stopped)
    assert said == ["plan.json keeps the plan of the start; the one above differs from it in padding_share"]


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx512_bf16"), reason="needs a CPU with bf16")
def test_in_bf16_a_run_says_whether_its_stages_came_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = bert("run.precision=bf16")
    run = stop(recipe, tmp_path / "run", step=5)
    split = {"train": "stored", "validation": "stored"}
    assert read_json(run.environment)["cached"] == {"head": split, "top": split}
    assert run.log.read_text().count("is stored in bf16: computed anew in every epoch, its sums would round differently") == 2
    # The cache is emptied meanwhile, and there is no room for it any more.
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("hftl.training.cache.SPARE", 10**18)
    said = go_on(recipe, run)
    assert "is computed anew in bf16: stored, for which there was no room, its sums would round differently" in said
    both = {"train": "both", "validation": "both"}
    assert read_json(run.environment)["cached"] == {"head": split, "top": both}
    assert "frozen layers: head: from the cache, top: partly from the cache" in render_card(run)
