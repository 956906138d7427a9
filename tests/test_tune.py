"""Tuning: a space in the recipe's words, trials that several processes share, and what the best of many is worth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small import BERT_NANO

import hftl
from hftl.errors import RecipeError, RunError
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.selection import corrected_for_choice
from hftl.recipe import EMA, Muon, Recipe, RunSettings, Stage, TextData, Transformer, WSDSchedule
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.studies import tune as tuning
from hftl.studies.search import Asked, Pruner, Sampler, shown_storage
from hftl.studies.space import Choice, Range, Switch, read_space
from hftl.studies.study import StudyDirectory
from hftl.studies.trials import read_trial
from hftl.studies.tune import Settings, check_settings, said_of_grid
from hftl.studies.turns import claim_trial, joined, turn

RECIPE = Recipe(
    name="tuned",
    data=TextData(source=REVIEWS, max_length=24, max_train_samples=24, max_validation_samples=16, max_test_samples=12),
    model=Transformer(checkpoint=BERT_NANO),
    stages={
        "head": Stage(unfreeze="head", lr=1e-3, epochs=1, schedule="constant"),
        "all": Stage(unfreeze="all", lr=1e-4, epochs=1, schedule="constant"),
    },
    run=RunSettings(batch_size=8, precision="fp32"),
)
SPACE = ["stages.head.lr=log:1e-3..1e-1", "stages.head.epochs=1..2", "stages.all=on|off"]


# --- the space ----------------------------------------------------------------------------------------------------------------


def test_a_space_is_written_in_the_words_of_the_recipe() -> None:
    space = read_space(RECIPE, [*SPACE, "model.dropout=0.0..0.3", "stages.all.unfreeze=last 2|all"])
    assert space.dimensions == (
        Range("stages.head.lr", "log:1e-3..1e-1", 1e-3, 0.1, log=True, whole=False),
        Range("stages.head.epochs", "1..2", 1, 2, log=False, whole=True),
        Switch("stages.all", "on|off"),
        Range("model.dropout", "0.0..0.3", 0.0, 0.3, log=False, whole=False),
        Choice("stages.all.unfreeze", "last 2|all", ("last 2", "all")),
    )
    recipe = space.recipe(RECIPE, {"stages.all": "off", "stages.head.lr": 0.02, "stages.head.epochs": 2, "model.dropout": 0.1})
    assert list(recipe.stages) == ["head"] and recipe.stages["head"].lr == 0.02 and recipe.stages["head"].epochs == 2
    assert space.most_epochs(RECIPE) == 3


def test_averages_and_what_else_regularises_are_varied_like_all_keys() -> None:
    words = ["stages.all.average=null|ema", "stages.all.l1=log:1e-3..1", "model.head_dropout=0.0..0.5", "model.reinitialize=0..2"]
    space = read_space(RECIPE, [*words, "stages.all.schedule=linear|wsd", "stages.all.optimizer=adamw|muon"])
    values: dict[str, float | int | str] = {
        "stages.all.average": "ema",
        "stages.all.l1": 0.1,
        "model.head_dropout": 0.25,
        "model.reinitialize": 1,
    }
    recipe = space.recipe(RECIPE, {**values, "stages.all.schedule": "wsd", "stages.all.optimizer": "muon"})
    stage, model = recipe.stages["all"], recipe.model
    assert (stage.average, stage.l1, stage.schedule, stage.optimizer) == (EMA(), 0.1, WSDSchedule(), Muon())
    assert isinstance(model, Transformer) and (model.head_dropout, model.reinitialize) == (0.25, 1)
    assert space.recipe(RECIPE, {"stages.all.average": "null"}).stages["all"].average is None


def test_a_grid_draws_nothing_for_a_stage_that_is_off() -> None:
    space = read_space(RECIPE, ["stages.all=on|off", "stages.all.lr=1e-4|1e-3", "stages.head.epochs=1..2"])
    assert len(list(space.grid())) == 2 * 2 + 2
    assert {"stages.all": "off", "stages.head.epochs": 2} in list(space.grid())


def test_the_points_of_a_grid_are_counted_without_laying_it_out() -> None:
    space = read_space(RECIPE, ["stages.all=on|off", "stages.all.lr=1e-4|1e-3", "stages.head.epochs=1..2"])
    assert space.grid_size() == 6
    assert said_of_grid(6, Settings(trials=4)) == "the grid has 6 points, and --trials 4 of them are tried, in an order of chance"
    assert said_of_grid(6, Settings(trials=6)) == said_of_grid(6, Settings()) == "the grid has 6 points: a trial each"


def test_a_grid_that_is_too_large_to_lay_out_is_refused_with_the_number_of_its_points() -> None:
    words = ["stages.head.epochs=1..1000", "stages.all.epochs=1..1000", "run.batch_size=1..1000"]
    with pytest.raises(RecipeError, match=r"a grid of 1,000,000,000 points, and more than 10,000 .*(?s:.*)--sampler random or tpe"):
        check_settings(read_space(RECIPE, words), Settings(sampler="grid", trials=10))


def test_a_space_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("stages.head.lr: log:1e-3..1e-1\nstages:\n  all: on|off\nmodel.dropout: [0.1, 0.2]\n")
    words = ["stages.head.lr=log:1e-3..1e-1", "stages.all=on|off", "model.dropout=0.1|0.2"]
    assert read_space(RECIPE, [str(file)]) == read_space(RECIPE, words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("stages.all.rate=1..2", 'unknown key "rate"'),
        ("stages.al=on|off", 'no stage "al".*Did you mean "all"'),
        ("stages.all=on", r"switched by on\|off"),
        ("model.channels=50..100", 'unknown key "channels"'),  # of another family
        ("stages.all.lr=1e-3..1e-5", "an empty range"),
        ("stages.all.lr=1e-3..1e-3", "an empty range"),
        ("stages.all.lr=0..1", "0.0 does not freeze"),
        ("model.dropout=log:0..0.5", "begins above 0"),
        ("stages.all.epochs=1.5..3", "integer"),
        ("stages.all.schedule=linear..cosine", "a range is one of numbers, and this is none"),
        ("stages.all.lr=1e-3|fast", "fast"),
        ("stages.all.lr=1e-3", "nothing to choose from"),
        ("stages.all.lr=1e-3|1e-3", "twice"),
        ("run.seed=0..5", "a seed is luck"),
        ("run.metric=auc|accuracy", "all trials of a study have the same"),
        ("data.split_seed=0..5", "which rows there are"),
        ("nowhere/space.yaml", "no such file"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_with_a_reason(word: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_space(RECIPE, [word])


def test_everything_that_is_wrong_with_a_space_comes_in_one_report() -> None:
    with pytest.raises(RecipeError, match="4 problems") as found:
        read_space(RECIPE, ["stages.head=on|off", "stages.all=on|off", "model.dropout=2..3", "run.seed=1..2"])
    assert "every stage may be off" in str(found.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(), "--trials or --minutes"),
        (Settings(trials=0), "at least 1"),
        (Settings(sampler="grid"), r"stages.head.lr=0.001\|0.00316\|0.01\|0.0316\|0.1"),
    ],
)
def test_a_search_that_cannot_end_is_refused(settings: Settings, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_settings(read_space(RECIPE, SPACE), settings)


def test_a_password_is_not_written_down() -> None:
    assert shown_storage("postgresql://ann:s3cret@host:5432/hftl") == "postgresql://ann:***@host:5432/hftl"
    assert shown_storage("postgresql://host/hftl") == "postgresql://host/hftl"


# --- what the best of many is worth ----------------------------------------------------------------------------------------------


def _predictions(right: np.ndarray, labels: np.ndarray, sharp: np.ndarray | float = 1.0) -> Predictions:
    said = np.where(right, labels, 1 - labels)
    logits = np.zeros((len(labels), 2), dtype=np.float32)
    logits[np.arange(len(labels)), said] = sharp
    return Predictions([str(row) for row in range(len(labels))], labels, logits)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "mcc", "auc"])
def test_the_best_of_many_that_know_nothing_is_corrected_to_chance(metric: str) -> None:
    generator = np.random.default_rng(1)
    chance = 0.0 if metric == "mcc" else 0.5
    labels = np.tile([0, 1], 200)
    candidates = [_predictions(generator.random(400) < 0.5, labels, generator.random(400)) for _ in range(40)]
    found = corrected_for_choice(candidates, metric)
    assert found is not None and found.chosen > chance + 0.04
    assert abs(found.value - chance) < 0.03 * (1 + (metric == "mcc"))
    assert found.interval is not None and found.interval[0] < chance < found.interval[1]


def test_one_that_is_far_better_needs_no_correction() -> None:
    generator = np.random.default_rng(2)
    labels = np.tile([0, 1], 250)
    candidates = [_predictions(generator.random(500) < share, labels) for share in (0.5, 0.55, 0.9)]
    found = corrected_for_choice(candidates, "accuracy")
    assert found is not None and found.value == pytest.approx(found.chosen, abs=0.005)


def test_two_candidates_on_two_rows_by_hand() -> None:
    # A is right about the first row alone, B about the second. A resample of both rows leaves none out; one of the first row twice
    # chooses A, which is wrong about the other one; and so is B, chosen by the second.
    labels = np.array([0, 1])
    candidates = [_predictions(np.array(right), labels) for right in ([True, False], [False, True])]
    found = corrected_for_choice(candidates, "accuracy")
    assert found is not None and (found.chosen, found.value) == (0.5, 0.0)


def test_of_log_loss_less_is_better_and_a_single_candidate_was_not_chosen() -> None:
    generator = np.random.default_rng(3)
    labels = np.tile([0, 1], 100)
    candidates = [_predictions(generator.random(200) < 0.5, labels, 2.0) for _ in range(20)]
    found = corrected_for_choice(candidates, "log_loss")
    assert found is not None and found.value > found.chosen
    assert corrected_for_choice(candidates[:1], "accuracy") is None


# --- whole studies ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[hftl.Study, list[str]]:
    said: list[str] = []
    folder = tmp_path_factory.mktemp("tune") / "study"
    return hftl.tune(RECIPE, SPACE, trials=3, sampler="random", study_dir=folder, say=said.append), said


def test_the_best_trial_is_finished_and_test_is_opened_for_it_alone(study: tuple[hftl.Study, list[str]]) -> None:
    done, said = study
    table = done.table
    assert (
        len(table) == 3
        and set(table["state"]) == {"complete"}
        and table["accuracy"].max() == done.best_run.metrics["validation"]["accuracy"]
    )
    assert [line.split(":")[0] for line in said[:3]] == [f"trial {number} of 3  trial-000{number - 1}" for number in (1, 2, 3)]
    assert done.best_run.metrics["test"]["n"] == 12 and done.best_run.paths.model.is_dir()
    for name in table["trial"]:
        trial = done.trial(name)
        assert trial.recipe.run.test == "sealed" and not trial.paths.checkpoints.exists()
        assert trial.paths.test_openings.exists() == (name == done.best_run.path.name)
    assert done.best.run.test == "open" and done.best.stages == done.best_run.recipe.stages


def test_the_page_says_what_the_choice_is_worth(study: tuple[hftl.Study, list[str]]) -> None:
    done, _ = study
    assert "The best of 3 complete trials is" in done.page and "Corrected for the choice" in done.page
    assert "Test, opened for it alone" in done.page
    assert [path.name for path in done.figures] == ["history.png", "parallel.png", "slices.png"]


def test_the_same_call_reads_what_is_done_and_another_space_is_refused(study: tuple[hftl.Study, list[str]]) -> None:
    done, _ = study
    said: list[str] = []
    again = hftl.tune(RECIPE, SPACE, trials=3, sampler="random", study_dir=done.path, say=said.append)
    assert said == [] and again.page == done.page
    with pytest.raises(RunError, match="space: "):
        hftl.tune(RECIPE, SPACE[:2], trials=3, sampler="random", study_dir=done.path, join=True)
    with pytest.raises(RunError, match="batch_size"):
        hftl.tune(hftl.override(RECIPE, ["run.batch_size=4"]), SPACE, trials=3, sampler="random", study_dir=done.path, join=True)


def test_a_process_alone_and_joined_ones_keep_out_of_each_others_way(study: tuple[hftl.Study, list[str]]) -> None:
    paths = study[0].paths
    with turn(paths), joined(paths):
        pass
    with joined(paths), pytest.raises(RunError, match="--join joins them"):
        hftl.tune(RECIPE, SPACE, trials=3, sampler="random", study_dir=paths.path)
    from hftl import system

    release = system.take(paths.path)
    with pytest.raises(RunError, match="started with --join"):
        hftl.tune(RECIPE, SPACE, trials=3, sampler="random", study_dir=paths.path, join=True)
    release()


def test_a_trial_that_was_cut_short_is_taken_up_from_its_checkpoint_and_a_pruned_one_is_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = hftl.override(RECIPE, ["run.checkpoint_minutes=0", "stages.head.epochs=2"])
    epochs: list[str] = []
    original = Asked.report

    def report(self: Asked, epoch: int, value: float) -> bool:
        epochs.append(f"{self.number} {epoch}")
        if len(epochs) == 1:
            raise KeyboardInterrupt  # between two epochs, as a kill may come
        original(self, epoch, value)
        return self.number == 1 and epoch == 1

    monkeypatch.setattr(Asked, "report", report)

    def tuned() -> hftl.Study:
        storage, folder = str(tmp_path / "journal.log"), tmp_path / "study"
        return hftl.tune(
            recipe, ["stages.head.lr=1e-3|1e-2"], trials=2, storage=storage, join=True, study_dir=folder, say=lambda line: None
        )

    with pytest.raises(KeyboardInterrupt):
        tuned()
    assert read_trial(RunDirectory(tmp_path / "study" / "trials" / "trial-0000")) is None
    done = tuned()
    assert epochs == ["0 1", "0 2", "0 3", "1 1"]  # the first epoch is not taken again
    assert (
        list(done.table["state"]) == ["complete", "pruned"]
        and "behind the other trials after 1 epoch of 3" in done.table["reason"][1]
    )
    assert any(record["event"] == "continued" for record in done.trial("trial-0000").paths.read_history())


def test_a_trial_that_another_process_runs_is_left_to_it(tmp_path: Path) -> None:
    paths = StudyDirectory(tmp_path)
    with turn(paths):
        release = claim_trial(paths, "trial-0000")
    assert release is not None and claim_trial(paths, "trial-0000") is None
    release()
    assert claim_trial(paths, "trial-0000") is not None


def test_trials_that_fail_are_told_and_a_study_of_nothing_else_ends_with_their_reasons(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"(?s)2 trials, and all failed.*layer8"):
        hftl.tune(
            RECIPE, ["stages.all.unfreeze=layer8|layer9"], sampler="grid", study_dir=tmp_path / "study", say=lambda line: None
        )


@pytest.mark.parametrize("storage", ["postgresql://nobody@127.0.0.1:9/none", "nosuch://host/name", "gone/journal.log"])
def test_a_storage_that_cannot_be_reached_is_one_message(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="the storage of the study cannot be used"):
        hftl.tune(RECIPE, SPACE, trials=1, storage=storage, study_dir=tmp_path / "study")


def test_a_study_that_is_done_has_closed_each_connection_to_its_database(tmp_path: Path) -> None:
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    counts = {"connect": 0, "close": 0}

    def counting(what: str) -> Callable[..., None]:
        def counted(*_: object) -> None:
            counts[what] += 1

        return counted

    listening = {what: counting(what) for what in counts}
    for what, listener in listening.items():
        event.listen(Pool, what, listener)
    try:
        hftl.tune(RECIPE, SPACE, trials=1, study_dir=tmp_path / "study")
    finally:
        for what, listener in listening.items():
            event.remove(Pool, what, listener)
    assert counts["connect"] == counts["close"] > 0


def test_one_database_does_not_give_two_folders_the_same_study(tmp_path: Path) -> None:
    storage = str(tmp_path / "journal.log")
    space = read_space(RECIPE, SPACE)
    for folder in ("one", "two"):
        paths = StudyDirectory(tmp_path / folder / "study")
        with turn(paths):
            if folder == "one":
                tuning._search(paths, RECIPE, space, Settings(trials=1, storage=storage))
                continue
            with pytest.raises(RunError, match='it holds a study "study" already'):
                tuning._search(paths, RECIPE, space, Settings(trials=1, storage=storage))


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "evolution"])
def test_each_sampler_draws_within_the_space_and_a_continued_study_draws_on(sampler: Sampler, tmp_path: Path) -> None:
    words = ["stages.head.lr=log:1e-3..1e-1", "model.dropout=0.0..0.3", "stages.all=on|off", "stages.head.epochs=1..4"]
    space, paths, drawn = read_space(RECIPE, words), StudyDirectory(tmp_path), []
    for _ in range(2):
        with turn(paths):
            search = tuning._search(paths, RECIPE, space, Settings(sampler, trials=24, storage=str(tmp_path / "journal.log")))
            for _ in range(12):
                asked = search.ask()
                assert asked is not None
                drawn.append(dict(asked.values))
                search.tell(asked, "complete", float(asked.values["model.dropout"]))
    assert all(1e-3 <= float(each["stages.head.lr"]) <= 0.1 and each["stages.head.epochs"] in range(1, 5) for each in drawn)
    assert len({str(each) for each in drawn}) >= (18 if sampler == "evolution" else 24)  # a child may be as its parent


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_pruner_ends_what_is_behind_and_not_what_leads(pruner: Pruner, tmp_path: Path) -> None:
    recipe = hftl.override(RECIPE, ["stages.all.epochs=8"])  # and one of the head
    space, paths = read_space(recipe, ["model.dropout=0.0..0.3"]), StudyDirectory(tmp_path)
    with turn(paths):
        search = tuning._search(paths, recipe, space, Settings("random", pruner, storage=str(tmp_path / "journal.log")))
        ended = []
        for number in range(16):
            asked = search.ask()
            assert asked is not None
            value = 0.9 if number == 15 else 0.8 - number / 100
            ended.append(next((epoch for epoch in range(1, 9) if asked.report(epoch, value)), None))
            search.tell(asked, "complete" if ended[-1] is None else "pruned", value)
    assert ended[0] is None and ended[15] is None and any(epoch is not None for epoch in ended[5:15])


# --- two processes ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_share_a_database_and_one_takes_up_what_the_killed_one_had_begun(tmp_path: Path) -> None:
    storage = os.environ.get("HFTL_TEST_DATABASE")
    if storage is None:
        pytest.skip("HFTL_TEST_DATABASE names no database, such as postgresql://postgres@127.0.0.1/hftl")
    recipe = hftl.override(RECIPE, ["run.checkpoint_minutes=0", "stages.all.epochs=15"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    name = f"study-{os.getpid()}"
    call = [sys.executable, "-m", "hftl", "tune", "recipe.yaml", "--space", "stages.all.lr=log:1e-5..1e-2", "--trials", "3"]
    call += ["--sampler", "random", "--storage", storage, "--join", "--study-dir", name]
    processes = [subprocess.Popen(call, cwd=tmp_path) for _ in range(2)]
    trials, killed = tmp_path / name / "trials", None
    deadline = time.monotonic() + 400
    while killed is None and time.monotonic() < deadline:
        time.sleep(0.2)
        for run in (RunDirectory(path) for path in sorted(trials.glob("trial-*"))):
            if run.history.is_file() and read_trial(run) is None and run.read_history()[-1].get("epoch", 0) >= 5:
                holder = int(
                    subprocess.run(["fuser", trials.parent / "locks" / run.path.name], capture_output=True, text=True).stdout
                )
                os.kill(holder, signal.SIGKILL)
                killed = run.path.name
                break
    assert killed is not None
    assert sorted(process.wait(timeout=400) for process in processes) == [-9, 0]
    study = hftl.Study(tmp_path / name)
    assert list(study.table["state"]) == ["complete"] * 3 and study.best_run.finished
    continued = [record for record in study.trial(killed).paths.read_history() if record["event"] == "continued"]
    assert len(continued) == 1 and continued[0]["step"] >= 3 * 4
    print(f"{killed} was killed and went on from step {continued[0]['step']}")
