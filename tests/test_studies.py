"""Studies: many fits of one recipe, the test split sealed, and what they come to."""

from __future__ import annotations

import gc
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Hftl
from small import nano, reviews

import hftl
from hftl import Study, signals
from hftl.data.source import load_splits
from hftl.errors import DataError, RecipeError, RunError
from hftl.evaluation.compare import mcnemar
from hftl.evaluation.seeds import PairedDifference, Spread, paired_difference, spread
from hftl.files import read_json, write_json
from hftl.recipe import Stage, TextCNN, TextData, judged, override, without_places
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.sharing.verify import verify
from hftl.studies.ablate import ArmSummary, in_words
from hftl.studies.arms import ARMS, arms_of
from hftl.studies.repetition import over_seeds
from hftl.studies.study import StudyDirectory, trial_name
from hftl.studies.trials import Experiments

RECIPE = nano(
    "studied",
    reviews(24, 16, 12, max_length=24),
    {
        "head": Stage(unfreeze="head", lr=1e-3, epochs=2, schedule="constant"),
        "all": Stage(unfreeze="all", lr=1e-4, layer_decay=0.5, epochs=1, schedule="constant"),
    },
    batch_size=8,
)


# --- seeds --------------------------------------------------------------------------------------------------------------------


def test_the_spread_over_three_seeds_says_where_one_more_is_expected() -> None:
    found = spread([0.80, 0.85, 0.90])
    assert found.mean == pytest.approx(0.85) and found.deviation == pytest.approx(0.05)
    assert found.new_seed is not None  # 4.303 * 0.05 * sqrt(4 / 3) = 0.248
    assert found.new_seed == pytest.approx((0.602, 1.0), abs=1e-3)


def test_two_seeds_tell_too_little_and_one_tells_nothing_of_luck() -> None:
    assert spread([0.8, 0.9]).new_seed is None
    assert spread([0.8]).deviation is None


def test_a_metric_that_can_be_negative_is_not_cut_at_zero() -> None:
    found = spread([-0.1, 0.0, 0.1])
    assert found.new_seed is not None and found.new_seed[0] < -0.4


def test_the_paired_difference_has_the_variance_of_rows_and_of_seeds() -> None:
    # d: seed 0 is (1, 0, 0, 0), seed 1 is (1, 1, 0, 0); the means over seeds are 1, 1/2, 0, 0 and over rows 1/4, 1/2.
    first = np.array([[False, True, False, True], [False, False, False, True]])
    second = np.array([[True, True, False, True], [True, True, False, True]])
    found = paired_difference(first, second)
    assert found.difference == pytest.approx(3 / 8)
    of_rows = (0.625**2 + 0.125**2 + 2 * 0.375**2) / 3 / 4  # 0.0573
    of_seeds = 2 * 0.125**2 / 1 / 2  # 0.0156
    freedom = (of_rows + of_seeds) ** 2 / (of_rows**2 / 3 + of_seeds**2 / 1)
    assert freedom == pytest.approx(3.97, abs=0.01)
    assert found.interval is not None  # t(3.97) = 2.786
    assert found.interval[1] - found.difference == pytest.approx(2.786 * math.sqrt(of_rows + of_seeds), rel=1e-3)
    assert 0.2 < found.p < 0.3


def test_with_one_seed_p_is_mcnemars() -> None:
    first, second = np.array([[True, False, False, False, True]]), np.array([[False, True, True, True, True]])
    assert paired_difference(first, second).p == mcnemar(1, 3)


def test_recipes_that_are_right_about_the_same_rows_do_not_differ() -> None:
    right = np.array([[True, False, True]] * 2)
    found = paired_difference(right, right)
    assert (found.difference, found.interval, found.p) == (0.0, None, 1.0)


# --- arms ---------------------------------------------------------------------------------------------------------------------


def test_arms_by_name_train_for_as_many_epochs_as_the_recipe() -> None:
    arms = arms_of(RECIPE, ARMS)
    assert arms["staged"] == RECIPE
    assert {arm: sum(stage.epochs for stage in recipe.stages.values()) for arm, recipe in arms.items()} == dict.fromkeys(ARMS, 3)
    stage = {arm: next(iter(recipe.stages.values())) for arm, recipe in arms.items()}
    assert (stage["flat"].lr, stage["flat"].layer_decay, stage["flat"].head_lr_multiplier) == (1e-4, 1.0, 1.0)
    assert (stage["head-x10"].layer_decay, stage["head-x10"].head_lr_multiplier) == (1.0, 10.0)
    assert stage["decay"].layer_decay == 0.5
    assert (stage["head"].unfreeze, stage["head"].lr) == ("head", 1e-3)


def test_the_arm_from_scratch_is_the_flat_one_from_random_weights() -> None:
    arms = arms_of(RECIPE, ["staged", "flat", "scratch"])
    assert arms["scratch"] == override(arms["flat"], ["model.pretrained=false"])
    with pytest.raises(RecipeError, match=r"scratch: model\.pretrained: is false already"):
        arms_of(arms["scratch"], ["staged", "scratch"])
    glove = RECIPE.model_copy(update={"model": TextCNN(vectors="v.txt")})
    with pytest.raises(RecipeError, match=r'"textcnn" has no pretrained weights.*\n.*--arm scratch=model\.vectors=random:100'):
        arms_of(glove, ["staged", "scratch"])


def test_what_pretraining_buys_is_said_with_its_interval() -> None:
    first = ArmSummary("staged", Spread(0.8, None, None), 1, None, None, 2e9, 1.0)
    worse = PairedDifference(-0.12, (-0.15, -0.09), 0.001)
    scratch = ArmSummary("scratch", Spread(0.68, None, None), 1, worse, 0.001, 3e9, 1.0)
    said = list(in_words([first, scratch], RECIPE, {"staged": [], "scratch": []}))
    assert said[1] == "scratch: worse than staged: accuracy -0.1200 [-0.1500, -0.0900], p = 0.0010 (Holm), at 1.50 times the cost."
    assert said[2] == "What pretraining buys, staged minus scratch: accuracy +0.1200 [+0.0900, +0.1500]."


def test_an_own_arm_is_a_name_and_changes() -> None:
    arms = arms_of(RECIPE, ["staged", "slow=stages.all.lr=1e-5,stages.all.unfreeze=[layer.3, head],run.batch_size=4"])
    assert arms["slow"].stages["all"].lr == 1e-5 and arms["slow"].run.batch_size == 4
    assert arms["slow"].stages["all"].unfreeze == ("layer.3", "head")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (["staged", "flot"], "flat"),
        (["staged"], "two arms or more"),
        (["staged", "flat", "flat"], "two arms have this name"),
        (["staged", "same=run.batch_size=8"], "the same recipe as staged"),
        (["staged", "odd=stages.all.rate=1"], "stages.all.rate"),
        (["staged", "odd=stages.all.lr"], "key=value"),
        (["staged", "../odd=stages.all.lr=1"], "cannot be a name"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused_with_a_reason(over: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        arms_of(RECIPE, over)


def test_what_a_user_calls_a_recipe_becomes_the_name_of_a_folder() -> None:
    assert trial_name(("my recipe/../..", "seed1")) == "my-recipe-seed1"
    assert trial_name(("学习",)) == "trial"


# --- division -----------------------------------------------------------------------------------------------------------------


def test_folds_are_disjoint_cover_train_and_hold_each_class_alike() -> None:
    seen: list[str] = []
    for fold in range(1, 5):
        data = TextData(source=REVIEWS, fold=f"{fold}/4", split_seed=3)
        splits = load_splits(data, seed=fold)  # a seed of the run's has no say
        facts = splits.facts["splits"]["validation"]
        assert facts["n"] == 150 and set(facts["per_class"].values()) == {75}
        assert not set(splits.validation["id"]) & set(splits.train["id"])
        seen += splits.validation["id"]
    assert len(seen) == len(set(seen)) == 600


@pytest.mark.parametrize("fold", ["5/4", "1/1", "1/700"])
def test_a_fold_that_is_none_is_refused(fold: str) -> None:
    with pytest.raises(DataError, match=r"data\.fold"):
        load_splits(TextData(source=REVIEWS, fold=fold), seed=0)


def test_the_split_seed_decides_the_rows_and_the_seed_of_the_run_does_not() -> None:
    one = load_splits(TextData(source=REVIEWS, split_seed=1), seed=5).validation["id"]
    assert load_splits(TextData(source=REVIEWS, split_seed=1), seed=6).validation["id"] == one
    assert load_splits(TextData(source=REVIEWS), seed=5).validation["id"] != one


# --- the command line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablate", "--over", "staged,flott"], '--over flott: no such arm. Did you mean "flat"?'),
        (["ablate", "--over", "staged"], "two arms or more"),
        (["ablate", "--seeds", "0"], "at least 1"),
        (["repeat"], "either --seeds or --folds"),
        (["repeat", "--seeds", "2", "--folds", "2"], "either --seeds or --folds"),
        (["repeat", "--seeds", "1"], "2 or more"),
    ],
)
def test_a_study_that_asks_nothing_is_one_message_and_exit_code_2(
    hftl: Hftl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE.to_yaml(), encoding="utf-8")
    outcome = hftl(arguments[0], "recipe.yaml", *arguments[1:])
    assert outcome.code == 2 and message in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "studies").exists()


def test_a_dry_run_of_a_study_shows_its_trials_and_writes_nothing(
    hftl: Hftl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE.to_yaml(), encoding="utf-8")
    outcome = hftl("ablate", "recipe.yaml", "--over", "staged,head", "--seeds", "2", "--dry-run")
    assert outcome.code == 0 and "4 trials, about" in outcome.out and "head x 3" in outcome.out
    assert [path.name for path in tmp_path.iterdir() if "ledger" not in path.name] == ["recipe.yaml"]


# --- whole studies ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> tuple[hftl.Study, list[str]]:
    said: list[str] = []
    folder = tmp_path_factory.mktemp("ablation") / "study"
    return hftl.ablate(RECIPE, ["staged", "flat"], seeds=2, study_dir=folder, say=said.append), said


def test_an_ablation_fits_each_arm_with_each_seed_on_the_same_rows(ablation: tuple[hftl.Study, list[str]]) -> None:
    study, said = ablation
    assert [(row.arm, row.part, row.state) for row in study.table.itertuples()] == [
        ("staged", "seed0", "complete"),
        ("flat", "seed0", "complete"),
        ("staged", "seed1", "complete"),
        ("flat", "seed1", "complete"),
    ]
    assert len(said) == 4 and said[0].startswith("trial 1 of 4  staged-seed0: accuracy 0.")
    rows = [study.trial(name).predictions("validation")["id"].tolist() for name in ("staged-seed0", "flat-seed1")]
    assert rows[0] == rows[1]
    heads = [study.trial(name).predictions("validation")["p(positive)"].tolist() for name in ("flat-seed0", "flat-seed1")]
    assert heads[0] != heads[1]


def test_trials_are_light_and_their_test_split_is_shut(ablation: tuple[hftl.Study, list[str]]) -> None:
    study, _ = ablation
    for name in ("staged-seed0", "flat-seed1"):
        trial = study.trial(name)
        assert not trial.finished and not trial.paths.checkpoints.exists() and not trial.paths.model.exists()
        assert not trial.paths.test_openings.exists() and trial.recipe.run.test == "sealed"
    assert not (study.path / "trials" / "staged-seed0" / "predictions" / "test.parquet").exists()


def test_trials_are_compared_by_their_validation_and_do_nothing_else_that_a_run_does(
    hftl: Hftl, ablation: tuple[Study, list[str]]
) -> None:
    study, _ = ablation
    trials = [study.trial(name) for name in ("staged-seed0", "flat-seed0")]
    compared = hftl("compare", *(trial.path for trial in trials))
    assert compared.code == 0 and "stages: head, all -> all" in compared.out
    for command in (("predict", "a film"), ("card",), ("verify",), ("test",), ("evaluate", "--split", "validation")):
        refused = hftl(command[0], trials[0].path, *command[1:])
        assert refused.code == 2 and "a trial of a study, which is fitted and not finished; " in refused.err
        assert refused.err.rstrip().endswith(f"hftl train {trials[0].path} --run-dir RUN")


def test_the_page_says_what_came_out(ablation: tuple[hftl.Study, list[str]]) -> None:
    study, _ = ablation
    assert "| arm | n | mean |" in study.page and "![arms](figures/arms.png)" in study.page
    assert "not settled against staged" in study.page or "than staged" in study.page
    assert "All of this is validation." in study.page and "![" not in study.shown()
    assert [path.name for path in study.figures] == ["arms.png"]


def test_the_best_arm_is_a_recipe_that_may_open_the_test_split(ablation: tuple[hftl.Study, list[str]]) -> None:
    study, _ = ablation
    means = study.table.groupby("arm")["accuracy"].mean()
    best = arms_of(judged(RECIPE, "accuracy"), ["staged", "flat"])[max(means.index[::-1], key=lambda arm: means[arm])]
    assert study.best == best and study.best.opens_test


def test_the_same_call_reads_what_is_done_and_one_more_seed_fits_no_other_again(ablation: tuple[hftl.Study, list[str]]) -> None:
    study, _ = ablation
    said: list[str] = []
    again = hftl.ablate(RECIPE, ["staged", "flat"], seeds=2, study_dir=study.path, say=said.append)
    assert said == [] and again.page == study.page
    hftl.ablate(RECIPE, ["staged", "flat"], seeds=3, study_dir=study.path, say=said.append)
    assert [line.split(":")[0] for line in said] == ["trial 5 of 6  staged-seed2", "trial 6 of 6  flat-seed2"]


def test_another_question_does_not_get_the_same_folder(ablation: tuple[hftl.Study, list[str]]) -> None:
    study, _ = ablation
    with pytest.raises(RunError, match=r"over: .*decay"):
        hftl.ablate(RECIPE, ["staged", "decay"], seeds=2, study_dir=study.path)
    with pytest.raises(RunError, match=r"kind: ablate -> repeat"):
        hftl.repeat(RECIPE, seeds=2, study_dir=study.path)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="not empty"):
        hftl.repeat(RECIPE, seeds=2, study_dir=tmp_path)


def test_a_trial_that_fails_is_in_the_table_with_its_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    arms = ["staged", "wide=stages.all.lr=9,stages.head.lr=9,stages.all.max_grad_norm=null,stages.all.optimizer=sgd"]
    arms[1] = "unknown=stages.all.unfreeze=layer9"
    study = hftl.ablate(RECIPE, arms, seeds=1, study_dir=tmp_path / "study", say=lambda line: None)
    states = dict(zip(study.table["arm"], study.table["state"], strict=True))
    assert states == {"staged": "complete", "unknown": "failed"}
    assert "layer9" in study.table["reason"].iloc[1] and "layer9" in study.page


def test_a_study_of_which_every_trial_failed_says_why(tmp_path: Path) -> None:
    recipe = hftl.override(RECIPE, ["stages.all.unfreeze=layer9"])
    with pytest.raises(RunError, match=r"(?s)all failed.*layer9"):
        hftl.repeat(recipe, seeds=2, study_dir=tmp_path / "study", say=lambda line: None)


def test_an_ablation_that_may_opens_the_test_split_of_each_trial_once(tmp_path: Path) -> None:
    study = hftl.ablate(RECIPE, ["staged", "head"], seeds=1, open_test=True, study_dir=tmp_path / "study", say=lambda line: None)
    for name in ("staged-seed0", "head-seed0"):
        trial = study.trial(name)
        assert trial.metrics["test"]["n"] == 12
        assert len(trial.paths.test_openings.read_text().splitlines()) == 1
    again = hftl.ablate(RECIPE, ["staged", "head"], seeds=1, open_test=True, study_dir=study.path, say=lambda line: None)
    assert len(again.trial("staged-seed0").paths.test_openings.read_text().splitlines()) == 1


def test_a_repetition_over_folds_judges_every_row_of_train_once(tmp_path: Path) -> None:
    recipe = hftl.override(RECIPE, ["data.max_validation_samples=null", "data.max_length=8", "stages.head.epochs=1"])
    recipe = recipe.model_copy(update={"stages": {"head": recipe.stages["head"]}})
    study = hftl.repeat(recipe, folds=2, study_dir=tmp_path / "study", say=lambda line: None)
    rows = [set(study.trial(f"studied-fold{fold}").predictions("validation")["id"]) for fold in (1, 2)]
    assert not rows[0] & rows[1] and len(rows[0] | rows[1]) == 600
    assert "the mean of 2" in study.page


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> tuple[hftl.Study, hftl.Run]:
    """A repetition with three seeds, and a finished run of the recipe."""
    folder = tmp_path_factory.mktemp("repeated")
    recipe = hftl.override(RECIPE, ["data.max_length=8", "stages.head.epochs=1", "data.validation_fraction=0.2"])
    recipe = recipe.model_copy(update={"stages": {"head": recipe.stages["head"]}})
    study = hftl.repeat(recipe, seeds=3, study_dir=folder / "study", say=lambda line: None)
    return study, hftl.train(recipe, run_dir=folder / "run")


def test_the_card_of_a_run_says_what_other_seeds_of_its_recipe_came_to(repeated: tuple[hftl.Study, hftl.Run]) -> None:
    study, run = repeated
    assert "How far it moves with another seed was not measured" in run.card(say=lambda line: None)
    card = run.card(study=study.path, say=lambda line: None)
    values = study.table["accuracy"].tolist()
    found = spread(values)
    assert read_json(run.paths.seeds)["values"] == values and read_json(run.paths.seeds)["seeds"] == [0, 1, 2]
    assert found.deviation is not None and found.new_seed is not None
    assert (
        "by runs of this recipe on the same rows with the seeds 0, 1, 2: accuracy has the mean"
        f" {found.mean:.4f} and the standard deviation {found.deviation:.4f} there, and one more seed is expected between"
    ) in card
    assert "hftl card RUN --study" in study.page
    assert not run.verify().failed and run.card(say=lambda line: None) == card  # it stays


def test_a_card_that_lies_about_other_seeds_does_not_hold(repeated: tuple[hftl.Study, hftl.Run]) -> None:
    study, run = repeated
    run.card(study=study.path, say=lambda line: None)
    told = read_json(run.paths.seeds)
    lies: dict[str, dict[str, Any]] = {
        "all seeds.mean": {"mean": 0.99},
        "all seeds.new_seed[0]": {"new_seed": [0.98, 1.0]},
        "recipe and rows": {"recipe": "of another recipe"},
        "metric": {"metric": "macro_f1"},
        "values": {"values": [0.9, 0.9]},
    }
    for where, lie in lies.items():
        write_json(run.paths.seeds, {**told, **lie})
        failed = {claim.where for claim in verify(run.paths, figures=False).failed if claim.kind == "seeds.json"}
        assert where in failed, where
    for damage in ({"values": [0.9, "high", 0.9]}, {"metric": "luck"}):
        write_json(run.paths.seeds, {**told, **damage})
        with pytest.raises(RunError, match=r"seeds\.json: "):
            verify(run.paths, figures=False)
    write_json(run.paths.seeds, told)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["stages.head.lr=0.5"], r"(?s)another recipe than that.*stages\.head\.lr: 0\.001 there, 0\.5 here"),
        (["run.seed=1"], "trial studied-seed0 had other rows of train and validation"),
    ],
    ids=["another rate", "other rows"],
)
def test_a_study_of_another_recipe_or_of_other_rows_says_nothing_of_a_run(
    repeated: tuple[hftl.Study, hftl.Run], tmp_path: Path, changes: list[str], message: str
) -> None:
    study, run = repeated
    other = RunDirectory(tmp_path)
    other.write_recipe(hftl.override(run.recipe, changes))
    data = read_json(run.paths.data)
    write_json(other.data, data if changes != ["run.seed=1"] else {**data, "contents": {"train": "other", "validation": "other"}})
    with pytest.raises(RunError, match=message):
        over_seeds(study.paths, other)


def test_a_run_with_another_seed_and_the_same_rows_is_of_the_study_too(
    repeated: tuple[hftl.Study, hftl.Run], tmp_path: Path
) -> None:
    study, run = repeated
    other = RunDirectory(tmp_path)
    write_json(other.data, read_json(run.paths.data))
    other.write_recipe(without_places(hftl.override(run.recipe, ["run.seed=7", "data.split_seed=0", "name=published"])))
    assert over_seeds(study.paths, other)["recipe"] == over_seeds(study.paths, run.paths)["recipe"]


def test_a_study_that_is_no_repetition_over_seeds_has_nothing_for_a_card(
    ablation: tuple[hftl.Study, list[str]], repeated: tuple[hftl.Study, hftl.Run]
) -> None:
    with pytest.raises(RunError, match=r"a study of hftl ablate; the card takes one of:  hftl repeat .* --seeds 5"):
        repeated[1].card(study=ablation[0].path, say=lambda line: None)


def test_a_stopped_study_loses_no_trial_and_goes_on_inside_the_one_that_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hftl.studies import trials
    from hftl.training.engine import Evaluation, fit

    fits: list[str] = []

    def stopped(experiment, run, report):  # type: ignore[no-untyped-def]
        def report_and_stop(evaluation: Evaluation) -> None:
            report(evaluation)
            fits.append(f"{run.directory.path.name} {evaluation.stage} {evaluation.epoch}")
            if len(fits) == 4:
                raise KeyboardInterrupt

        return fit(experiment, run, report_and_stop)

    monkeypatch.setattr(trials, "fit", stopped)
    recipe = hftl.override(RECIPE, ["run.checkpoint_minutes=0"])
    with pytest.raises(KeyboardInterrupt):
        hftl.repeat(recipe, seeds=2, study_dir=tmp_path / "study", say=lambda line: None)
    study = hftl.repeat(recipe, seeds=2, study_dir=tmp_path / "study", say=lambda line: None)
    assert fits == [
        *(f"studied-seed0 {epoch}" for epoch in ("head 1", "head 2", "all 1")),
        *(f"studied-seed1 {epoch}" for epoch in ("head 1", "head 2", "all 1")),
    ]
    whole = hftl.repeat(recipe, seeds=2, study_dir=tmp_path / "whole", say=lambda line: None)
    assert study.table["accuracy"].tolist() == whole.table["accuracy"].tolist()
    for name in ("studied-seed0", "studied-seed1"):
        one, other = (each.trial(name).predictions("validation") for each in (study, whole))
        assert one["p(positive)"].tolist() == other["p(positive)"].tolist()


@pytest.mark.slow
def test_kills_at_random_moments_cost_a_study_at_most_the_running_epoch_of_a_trial() -> None:
    command = [sys.executable, str(Path(__file__).parent / "study_campaign.py"), "--kills", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0 and "nothing was lost" in done.stdout, done.stdout + done.stderr


def test_the_plan_of_a_study_counts_trials_and_a_shared_boundary_once() -> None:
    from hftl.studies.cost import plan_study

    arms = arms_of(RECIPE, ["staged", "head"])
    plan = plan_study("study", arms, times=2)
    staged, head = plan.arms
    prefix = staged.plan.train_examples * sum(flops for group, flops in _forward().items() if group != "head")
    assert staged.own == staged.plan.flops and head.own == pytest.approx(head.plan.flops - prefix)
    assert plan.rate > 0 and plan.seconds == 2 * (staged.flops + head.flops) / plan.rate
    assert "4 trials" in str(plan)


def _forward() -> dict[str, int]:
    from hftl.training.experiment import prepare_experiment

    return prepare_experiment(RECIPE).forward


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were read."""
    from hftl.data.source import Undivided, read_undivided
    from hftl.training import experiment

    read: list[str] = []

    def noted(data: TextData) -> Undivided:
        read.append(data.source)
        return read_undivided(data)

    monkeypatch.setattr(experiment, "read_undivided", noted)
    return read


def test_seeds_and_arms_of_equal_cost_read_the_data_once(tmp_path: Path, readings: list[str]) -> None:
    frozen = gc.get_freeze_count()
    hftl.ablate(RECIPE, ["staged", "head"], seeds=2, budget="equal-cost", study_dir=tmp_path / "study", say=lambda line: None)
    assert len(readings) == 1
    # A notebook collects what it collected before. From 3.12 on Python itself freezes objects that it never lets go.
    assert frozen or not gc.get_freeze_count()


def test_parts_and_folds_of_the_same_rows_are_divided_from_one_reading(readings: list[str]) -> None:
    experiments = Experiments()
    whole, parts = [hftl.override(RECIPE, ["data.validation_fraction=0.2", *more]) for more in ([], ["data.max_train_samples=8"])]
    changes: tuple[list[str], ...] = (
        [],
        ["data.sample_seed=3"],
        ["data.fold=1/4"],
        ["data.max_validation_samples=5"],
        ["run.seed=1"],
    )
    for recipe in [whole, *(hftl.override(parts, change) for change in changes)]:
        mine, read = experiments.splits_of(recipe), load_splits(recipe.data, seed=recipe.run.seed)
        assert mine.facts == read.facts and mine.train["id"] == read.train["id"]
        assert mine.validation["id"] == read.validation["id"] and mine.contents["train"].tolist() == read.contents["train"].tolist()
    assert len(readings) == 1


def test_no_study_no_page(tmp_path: Path) -> None:
    for what in ("page", "table", "best"):
        with pytest.raises(RunError, match="not done"):
            getattr(hftl.Study(tmp_path), what)
    assert StudyDirectory(tmp_path).sessions() == []


def test_a_study_that_a_signal_stops_says_how_it_goes_on_and_is_no_run(tmp_path: Path) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("trial 1 of 2"):
            raise signals.Stopped(signal.SIGTERM)

    with pytest.raises(signals.Stopped):
        hftl.repeat(RECIPE, seeds=2, study_dir=tmp_path / "study", say=say)
    assert said[-1] == "stopped; the same command goes on with the study"
    with pytest.raises(RunError, match=r"study: a study, and no run\. What came out is in .*README\.md, its fits are in .*trials"):
        hftl.load(tmp_path / "study")
