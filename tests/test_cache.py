"""The boundary cache in whole runs: the same losses as without it, computed once, found again, and never in the way."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import write_digits
from forked import Forks
from rich.console import Console
from sittings import environment
from small import BERT_NANO, nano, reviews, small_vectors
from torch import nn

from hftl import store
from hftl.data.loader import Samples
from hftl.files import read_json
from hftl.models.boundary import BoundaryHooks
from hftl.recipe import BiLSTM, ImageData, Recipe, RunSettings, Stage, TextCNN, Timm, Transformer, override
from hftl.run import RunDirectory
from hftl.signals import Stopped
from hftl.training import cache, engine
from hftl.training.experiment import prepare_experiment
from hftl.training.machine import mixed_precision
from hftl.training.planning import make_plan
from hftl.training.watch import Watch

TEXT = reviews(70, 24, 12, max_length=48)
STAGES = {
    "head": Stage(unfreeze="head", lr=1e-3, epochs=2),
    "top": Stage(unfreeze="last 2", lr=1e-3, epochs=2),
    "all": Stage(unfreeze="all", lr=1e-4),
}
RUN = RunSettings(batch_size=16, precision="fp32", log_every=1)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def text_recipe(*changes: str) -> Recipe:
    return override(nano("cached", TEXT, STAGES, log_every=1), changes)


def picture_recipe(folder: Path, *changes: str) -> Recipe:
    source = write_digits(folder, range(3), train_per_class=14)
    data = ImageData(source=str(source), image_size=32, validation_fraction=0.25, max_test_samples=12)
    model = Timm(checkpoint="test_resnet", pretrained=False)
    return override(Recipe(name="pictures", data=data, model=model, stages=STAGES, run=RUN), changes)


def train(recipe: Recipe, path: Path, **options: Any) -> tuple[RunDirectory, str]:
    console = Console(file=io.StringIO(), width=400)
    run = engine.train(recipe, RunDirectory(path), console=console, **options)
    assert isinstance(console.file, io.StringIO)
    return run, console.file.getvalue()


def losses(run: RunDirectory) -> np.ndarray:
    """The loss of every step, then that of every evaluation."""
    history = run.read_history()
    found = [row["loss"] for row in history if row["event"] == "step"]
    return np.array(found + [row["validation"]["log_loss"] for row in history if row["event"] == "evaluation"])


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def stop_when_asked_for_the(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal comes before a run looks for one so many times."""
    answers: Iterator[int | None] = iter([None] * (times - 1) + [15])
    monkeypatch.setattr(Watch, "signal", lambda self: next(answers, None))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The examples of each batch for which a prefix is computed, by whole runs from now on."""
    batches: list[int] = []
    capture = BoundaryHooks.capture

    def counting(self: BoundaryHooks, inputs: Any) -> torch.Tensor:
        activation = capture(self, inputs)
        batches.append(len(activation))
        return activation

    monkeypatch.setattr(BoundaryHooks, "capture", counting)
    return batches


# --- exact ----------------------------------------------------------------------------------------------------------------------


def both(recipe: Recipe, folder: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Losses with the cache and without, and what the run with it said."""
    with_cache, said = train(recipe, folder / "with")
    without, silent = train(override(recipe, ["run.cache_gb=0"]), folder / "without")
    assert "computed once" not in silent
    return losses(with_cache), losses(without), said


def test_a_transformer_has_the_losses_of_a_run_without_the_cache_with_dropout(tmp_path: Path, cache_folder: Path) -> None:
    stored, live, said = both(text_recipe(), tmp_path)
    assert said.count("is computed once") == 4  # training and validation examples, of two stages
    assert len(entries(cache_folder)) == 4
    assert len(stored) == 5 * 5 + 5  # 70 examples / 16 are 5 steps; 5 epochs
    np.testing.assert_allclose(stored, live, rtol=2e-5)


def test_in_bf16_the_losses_agree_to_what_bf16_holds(tmp_path: Path) -> None:
    if mixed_precision(RunSettings(), torch.device("cpu")) != "bf16":
        pytest.skip("this machine does not compute in bf16")
    stored, live, _ = both(text_recipe("run.precision=bf16", "model.dropout=0"), tmp_path)
    np.testing.assert_allclose(stored, live, rtol=2e-2)  # 8 bits: 0.4 % a number


@pytest.mark.parametrize("family", ["textcnn", "bilstm"])
def test_a_glove_network_has_the_losses_of_a_run_without_the_cache(family: str, tmp_path: Path) -> None:
    vectors = str(small_vectors(tmp_path / "vectors.txt"))
    model = TextCNN(vectors=vectors, channels=8) if family == "textcnn" else BiLSTM(vectors=vectors, hidden_size=8, layers=2)
    stages = {"body": Stage(unfreeze="last 2", lr=1e-3), "head": Stage(unfreeze="head", lr=1e-3, epochs=2)}
    stored, live, said = both(Recipe(name=family, data=TEXT, model=model, stages=stages, run=RUN), tmp_path)
    # "last 2" of the convolutional network trains all but the table of words, which is not worth keeping.
    assert said.count("is computed once") == (2 if family == "textcnn" else 4)
    np.testing.assert_allclose(stored, live, rtol=2e-5)


def test_a_resnet_has_the_losses_of_a_run_without_the_cache(tmp_path: Path) -> None:
    stored, live, said = both(picture_recipe(tmp_path / "digits"), tmp_path)
    assert said.count("is computed once") == 4
    np.testing.assert_allclose(stored, live, rtol=1e-4)


def test_views_of_pictures_are_the_same_with_the_cache_and_without(tmp_path: Path, cache_folder: Path) -> None:
    recipe = picture_recipe(tmp_path / "digits", "data.augmentation=light", "data.augmentation_views=2", "stages.head.epochs=4")
    stored, live, said = both(recipe, tmp_path)
    np.testing.assert_allclose(stored, live, rtol=1e-4)
    # 42 pictures: 32 in train, with two views each, and 10 in validation; for each split the decoded pictures as well.
    assert sorted(read_json(path / "layout.json")["rows"] for path in entries(cache_folder)) == [10, 10, 10, 32, 64, 64]
    assert "computed once" in said


def test_with_a_new_view_in_every_epoch_validation_alone_is_kept(tmp_path: Path) -> None:
    stored, live, said = both(picture_recipe(tmp_path / "digits", "data.augmentation=light"), tmp_path)
    assert said.count("for 10 examples") == 2 and "for 32 examples" not in said
    np.testing.assert_allclose(stored, live, rtol=1e-4)


# --- once -----------------------------------------------------------------------------------------------------------------------


def test_the_prefix_computes_every_example_once_however_many_epochs_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = counted(monkeypatch)
    train(text_recipe("stages.head.epochs=5", "stages.top.epochs=3", "stages.all.epochs=1"), tmp_path / "run")
    # Batches of one or two are trials: they find the boundary, and show the number format.
    assert sum(size for size in batches if size > 2) == 2 * (70 + 24)


def test_another_run_with_the_same_weights_and_data_computes_nothing_again(tmp_path: Path, cache_folder: Path) -> None:
    first, _ = train(text_recipe(), tmp_path / "first")
    before = {path: path.stat().st_ino for path in entries(cache_folder)}
    second, said = train(text_recipe("stages.head.lr=2e-3", "run.seed=0"), tmp_path / "second")
    assert "computed once" not in said
    assert {path: path.stat().st_ino for path in entries(cache_folder)} == before
    assert losses(first)[0] == losses(second)[0]  # before the first step the rate has no say


@pytest.mark.parametrize("change", ["data.max_length=40", "run.seed=1", "stages.top.unfreeze=last 3", "model.pretrained=false"])
def test_other_weights_data_or_preprocessing_are_other_entries(change: str, tmp_path: Path, cache_folder: Path) -> None:
    stages = ["stages.head.epochs=1", "stages.top.epochs=1", "stages.all.epochs=1"]
    train(text_recipe(*stages), tmp_path / "first")
    before = set(entries(cache_folder))
    train(text_recipe(*stages, change), tmp_path / "second")
    assert set(entries(cache_folder)) - before


def test_a_later_stage_with_a_higher_boundary_starts_from_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"top": Stage(unfreeze=("layer.3", "head"), lr=1e-9), "head": Stage(unfreeze="head", lr=1e-3, epochs=2)}
    recipe = Recipe(name="narrower", data=TEXT, model=Transformer(checkpoint=BERT_NANO), stages=stages, run=RUN)
    stored, live, _ = both(recipe, tmp_path)
    np.testing.assert_allclose(stored, live, rtol=2e-5)
    # With the entry of layer.3 there, what enters the head comes through layer.3 alone: layers 0 to 2 do not compute.
    computed: list[str] = []
    real = cache.Prefix._nearest

    def nearest(prefix: cache.Prefix, samples: Samples, views: int) -> tuple[Samples, BoundaryHooks | None]:
        found = real(prefix, samples, views)
        if prefix.boundary.group == "head":
            assert found[1] is not None and found[1].boundary.group == "layer.3"
            for name in ("0", "3") if not computed else ():
                query: nn.Module = prefix.model.get_submodule(f"bert.encoder.layer.{name}.attention.self.query")
                query.register_forward_hook(lambda *_, name=name: computed.append(name))
        return found

    monkeypatch.setattr(cache.Prefix, "_nearest", nearest)
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "another"))
    run, _ = train(recipe, tmp_path / "again")
    np.testing.assert_allclose(losses(run), stored, rtol=1e-6)
    # What stands behind is the number format's one example, which goes the whole way for each split.
    assert computed.count("3") > computed.count("0") == 2


# --- never in the way -----------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_the_budget_is_computed_in_every_epoch_and_said(tmp_path: Path, cache_folder: Path) -> None:
    # [CLS] of 70 texts: 70 x 128 x 4 bytes = 36 kB; what enters layer.3 is some 30 tokens as much.
    run, said = train(text_recipe("run.cache_gb=0.0001"), tmp_path / "run")
    assert "do not fit into the cache's 100.0 kB" in said and "computed anew in every epoch" in said
    assert "what enters head is computed once" in said and "what enters layer.3 is computed once" not in said
    plan = read_json(run.plan)
    assert [stage["cached_up_to"] for stage in plan["stages"]] == ["head", None, None]
    assert "Stage top computes its frozen layers in every epoch" in plan["remarks"][0]
    unlimited, _ = train(text_recipe(), tmp_path / "unlimited")
    np.testing.assert_allclose(losses(run), losses(unlimited), rtol=2e-5)


def test_a_cache_folder_that_cannot_be_used_is_said_and_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "a file" / "cache"))
    run, said = train(text_recipe("stages.all.epochs=1"), tmp_path / "run")
    assert "(HFTL_CACHE) cannot be used: Not a directory" in said and "computed anew in every epoch" in said
    assert run.finished and "sums round differently" not in said


def test_what_was_stored_and_cannot_be_any_more_is_said_where_a_stage_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = text_recipe("stages.all.epochs=1")
    stop_when_asked_for_the(5, monkeypatch)  # after a batch of train, one of validation, and three steps
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run")
    assert read_json(next((tmp_path / "run" / "checkpoints").glob("*/state.json")))["cursor"]["step"] == 3
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "a file" / "cache"))
    run, said = train(recipe, tmp_path / "run", resume=True)
    after = "; if it came from the cache before the interruption, sums round differently from here on"
    assert said.count(f"what enters head is computed anew in every epoch{after}") == 2  # train, validation
    assert said.count(after) == 2  # and not in the stages that begin now
    assert run.finished


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_entry_that_is_gone_is_computed_again_to_the_same_bits_whatever_else_is_stored(
    precision: str, tmp_path: Path, cache_folder: Path
) -> None:
    if precision == "bf16" and mixed_precision(RunSettings(), torch.device("cpu")) != "bf16":
        pytest.skip("this machine does not compute in bf16")
    stages = {"head": Stage(unfreeze="head", lr=1e-3), "top": Stage(unfreeze="last 2", lr=1e-3)}
    recipe = Recipe(name="gone", data=TEXT, model=Transformer(checkpoint=BERT_NANO), stages=stages, run=RUN)
    recipe = override(recipe, [f"run.precision={precision}"])
    train(recipe, tmp_path / "first")
    before = {path.name: (path / "rows.bin").read_bytes() for path in entries(cache_folder)}
    gone = [path for path in entries(cache_folder) if not (path / "starts.npy").exists()]  # one vector a text
    assert len(gone) == 2 and len(before) == 4
    for path in gone:
        shutil.rmtree(path)
    train(recipe, tmp_path / "second")  # with what enters layer.3 there, where the head's input could start from
    assert {path.name: (path / "rows.bin").read_bytes() for path in entries(cache_folder)} == before


def test_rates_of_dropout_and_names_of_classes_do_not_compute_a_prefix_again(tmp_path: Path, cache_folder: Path) -> None:
    train(text_recipe(), tmp_path / "first")
    before = set(entries(cache_folder))
    train(text_recipe("model.dropout=0.3"), tmp_path / "second")
    assert set(entries(cache_folder)) == before


def test_the_plan_tells_what_is_kept_and_how_large_it_is(tmp_path: Path) -> None:
    experiment = prepare_experiment(text_recipe())
    plan = make_plan(experiment)
    head, top, whole = plan.stages
    assert (head.cached_up_to, top.cached_up_to, whole.cached_up_to) == ("head", "layer.3", None)
    assert head.cache_bytes == (70 + 24) * 128 * 4  # one vector a text, in float32
    mean = float(np.mean(np.asarray(experiment.typical.lengths)))
    assert top.cache_bytes == pytest.approx((70 + 24) * mean * 128 * 4)
    assert plan.padding_share is not None and 0 < plan.padding_share < 0.3
    live = make_plan(prepare_experiment(text_recipe("run.cache_gb=0")))
    assert head.flops < live.stages[0].flops and live.stages[0].cached_up_to is None
    assert whole.flops == live.stages[2].flops


def test_fault_33_a_signal_in_a_cache_build_saves_once_and_the_build_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = text_recipe("run.tokens_per_batch=96")
    whole, _ = train(recipe, tmp_path / "whole")
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(cache, "MARK_EVERY", 1)
    batches = counted(monkeypatch)
    stop_when_asked_for_the(10, monkeypatch)
    with pytest.raises(Stopped) as stopped:
        train(recipe, tmp_path / "run")
    assert stopped.value.code == 143
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["00000000-00-00000"]
    assert len(list((tmp_path / "other").glob("*.partial"))) == 1
    done = len(batches)
    batches.clear()
    run, said = train(recipe, tmp_path / "run", resume=True)
    assert "going on where it was interrupted" in said
    assert done >= 10 and not list((tmp_path / "other").glob("*.partial"))
    assert losses(run).tolist() == losses(whole).tolist()  # bit for bit


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_a_cache_that_is_removed_while_it_is_written_to_costs_time_only(
    kind: str, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = text_recipe() if kind == "texts" else picture_recipe(tmp_path / "digits")
    recipe = override(recipe, ["stages.head.epochs=1", "stages.top.epochs=1"])
    whole, _ = train(recipe, tmp_path / "whole")
    shutil.rmtree(cache_folder)
    mark, marks = store.Builder.mark, list[int]()

    def removing(self: store.Builder, batches: int) -> None:
        marks.append(batches)
        if len(marks) in {1, 4}:
            shutil.rmtree(cache_folder)
        mark(self, batches)

    monkeypatch.setattr(store.Builder, "mark", removing)
    run, said = train(recipe, tmp_path / "run")
    assert f"the cache folder {cache_folder} (HFTL_CACHE) was removed" in said
    assert losses(run).tolist() == losses(whole).tolist()


def test_a_damaged_entry_is_computed_again(tmp_path: Path, cache_folder: Path) -> None:
    first, _ = train(text_recipe(), tmp_path / "first")
    for entry in entries(cache_folder):
        with (entry / "rows.bin").open("r+b") as stream:
            stream.truncate(100)
    second, said = train(text_recipe(), tmp_path / "second")
    assert said.count("is computed once") == 4
    assert losses(first).tolist() == losses(second).tolist()


def test_the_freeze_proof_and_the_saved_model_do_not_know_of_the_cache(tmp_path: Path) -> None:
    run, _ = train(text_recipe(), tmp_path / "run")
    assert all(stage["ok"] for stage in read_json(run.freeze_proof)["stages"])
    assert store.find("0" * 64) is None
    assert "activation" not in (run.model / "config.json").read_text()


# --- several processes ----------------------------------------------------------------------------------------------------------

WORKER = """
import os, signal, time
from pathlib import Path
from hftl import store
from hftl.data.image import ImageSamples
from hftl.training import cache

notes, dies, rank = Path(os.environ["NOTES"]), os.environ["DIES"] == "yes", os.environ["RANK"]
mark, batches_of, decoding = store.Builder.mark, cache.evaluation_batches, ImageSamples.__dict__["_decoding"].func


def note(what):
    with (notes / rank).open("a") as stream:
        stream.write(f"{what}\\n")


def marking(self, batches):
    if dies and rank == "1" and batches == 2:
        while self._progress(0)[0] < 2:  # the other has marked its second batch
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    mark(self, batches)


def batches_from(samples, *, start, **settings):
    note(f"from {start}")
    return batches_of(samples, start=start, **settings)


def noted_decoding(self):
    note("hashes")
    return decoding(self)


cache.MARK_EVERY, store.Builder.mark, cache.evaluation_batches = 1, marking, batches_from
ImageSamples._decoding = property(noted_decoding)
"""


def on_two_processes(
    forks: Forks, recipe: Recipe, folder: Path, *more: str, dies: bool = False
) -> tuple[int, str, list[list[str]]]:
    """`hftl train` on two processes: its exit code, what it said, and what each of them noted."""
    notes = folder / "notes"
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    arguments = ["train", str(folder / "recipe.yaml"), "--run-dir", str(folder / "run"), *more]
    told = environment(several=True) | {"NOTES": str(notes), "DIES": "yes" if dies else "no"}
    started = forks.start(*arguments, environment=told, processes=2, before=WORKER)
    _, said = started.communicate()
    noted = [(notes / rank).read_text().splitlines() if (notes / rank).exists() else [] for rank in ("0", "1")]
    assert started.returncode is not None
    return started.returncode, said, noted


@pytest.mark.slow
def test_processes_that_were_killed_at_different_batches_of_a_build_go_on_together(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks
) -> None:
    recipe = text_recipe("data.max_train_samples=40", "run.tokens_per_batch=160", "stages.head.epochs=1")
    recipe = recipe.model_copy(update={"stages": {"head": recipe.stages["head"]}})
    code, said, noted = on_two_processes(forks, recipe, tmp_path, dies=True)
    assert code == 137, said
    assert noted == [["from 0"], ["from 0"]]
    (partial,) = cache_folder.glob("*.partial")
    marked = [int.from_bytes((partial / f"progress-{rank}").read_bytes()[:8], "little") for rank in range(2)]
    assert marked == [2, 1]
    code, said, noted = on_two_processes(forks, recipe, tmp_path, "--resume")
    assert code == 0, said
    assert "for 40 examples: going on where it was interrupted" in said
    assert noted == [["from 1", "from 0"], ["from 1", "from 0"]]  # train, then validation
    together = {path.name: (path / "rows.bin").read_bytes() for path in entries(cache_folder)}
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "another"))
    train(recipe, tmp_path / "alone")  # batches do not depend on how many processes share them
    assert {path.name: (path / "rows.bin").read_bytes() for path in entries(tmp_path / "another")} == together


def test_of_several_processes_one_reads_all_pictures_for_their_key(tmp_path: Path, cache_folder: Path, forks: Forks) -> None:
    recipe = picture_recipe(tmp_path / "digits", "data.augmentation=light", "stages.head.epochs=1", "run.workers=0")
    recipe = recipe.model_copy(update={"stages": {"head": recipe.stages["head"]}})
    code, said, (first, second) = on_two_processes(forks, recipe, tmp_path)
    assert code == 0, said
    assert "hashes" in first and "hashes" not in second
    assert len(entries(cache_folder)) == 2  # the decoded pictures of train, and what enters the head of validation
