"""Runs that make up for rare classes, and R-Drop: resume, micro-batches, several processes, what plan and card say of them."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from forked import Forks
from rich.console import Console
from sittings import assert_same_run, environment, signal_at
from small import mails, nano, train, write_recipe, write_rows

from hftl.data.batches import draw_epoch
from hftl.data.targets import targets_of
from hftl.errors import RecipeError
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json
from hftl.recipe import (
    BalancedWeights,
    EffectiveWeights,
    FocalLoss,
    LogitAdjustedLoss,
    RDropLoss,
    Recipe,
    Stage,
    TextData,
    override,
)
from hftl.run import RunDirectory
from hftl.sharing.card import write_card
from hftl.signals import Stopped
from hftl.studies.space import read_space
from hftl.training.engine import prepare
from hftl.training.experiment import Experiment, stage_loss
from hftl.training.plan import Plan
from hftl.training.planning import make_plan
from hftl.training.proof import tensors_of
from hftl.training.step import batches_of_epoch, take_step
from hftl.training.working import open_stage


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 training rows of which 6 are good, and 12 of either other split."""
    folder = tmp_path_factory.mktemp("mails")
    rows = mails(120)
    good, bad = ([row for row in rows if row["label"] == label] for label in ("good", "bad"))
    for split, chosen in {
        "train": good[:6] + bad[:30],
        "validation": good[6:10] + bad[30:38],
        "test": good[10:14] + bad[38:46],
    }.items():
        write_rows(folder / f"{split}.csv", chosen)
    return folder


def rare(data: Path, *changes: str) -> Recipe:
    """36 examples / 8 a step = 5 steps an epoch (the last of 4), all of them by R-Drop; the head's epochs are drawn by class."""
    stages = {
        "head": Stage(unfreeze="head", lr=1e-3, epochs=2, sampling="balanced", loss="r_drop"),
        "all": Stage(unfreeze="all", lr=1e-3, loss=RDropLoss(alpha=0.5), class_weights="effective"),
    }
    source = TextData(source=str(data), text_column="body", max_length=24)
    return override(nano("rare", source, stages, batch_size=8, log_every=1, tokens_per_batch=128), changes)


def render(plan: Plan) -> list[str]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(rare(data), tmp_path_factory.mktemp("whole") / "run")


# --- runs ---------------------------------------------------------------------------------------------------------------------


def test_a_run_by_sampling_and_r_drop_that_is_stopped_in_each_stage_ends_as_the_whole_one(
    data: Path, whole: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sitting in range(3):  # 15 steps: 7, in the second epoch of the head, 5 more, in the middle of R-Drop, and the rest
        with signal_at(monkeypatch, step=(7, 5, 99)[sitting]), suppress(Stopped):
            train(rare(data), tmp_path / "run", resume=sitting > 0)
    stopped = RunDirectory(tmp_path / "run")
    assert read_json(stopped.environment)["sessions"] == 3
    assert_same_run(whole, stopped)


def test_draws_and_both_passes_are_the_same_with_the_cache_of_frozen_layers_and_without(
    data: Path, whole: RunDirectory, tmp_path: Path
) -> None:
    without = train(rare(data, "run.cache_gb=0"), tmp_path / "run")
    assert [read_json(run.environment)["cached"]["head"]["train"] for run in (whole, without)] == ["stored", "computed"]
    losses = [[row["loss"] for row in run.read_history() if row["event"] == "step"] for run in (whole, without)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 15


@pytest.mark.slow
def test_two_processes_sample_and_pass_twice_as_one_does(data: Path, tmp_path: Path, forks: Forks) -> None:
    # What dropout leaves out depends on the process, so that it is so little here that the numbers are to be the same: the check
    # for dropout is put aside.
    recipe = rare(data, "model.dropout=0")
    aside = "import hftl.training.checks as e; e._passes_differ = lambda *_: True"
    runs = []
    for processes in (1, 2):
        place = tmp_path / str(processes)
        arguments = ("train", str(write_recipe(recipe, tmp_path)), "--run-dir", str(place))
        started = forks.start(*arguments, environment=environment(several=processes > 1), processes=processes, before=aside)
        _, said = started.communicate()
        assert started.returncode == 0, said
        runs.append(RunDirectory(place))
    one, two = runs
    assert read_json(two.environment)["processes"] == 2
    for split in ("validation", "test"):
        ours, theirs = Predictions.load(one.predictions(split)), Predictions.load(two.predictions(split))
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=2e-3)
    losses = [[row["loss"] for row in run.read_history() if row["event"] == "step"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[0]) == 15


# --- a step -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(data: Path) -> Experiment:
    return prepare(rare(data))


def test_an_epoch_of_a_stage_has_the_draws_of_its_seed_and_number(experiment: Experiment) -> None:
    stage, accelerator = experiment.stages[0], Accelerator(cpu=True)
    batches = batches_of_epoch(experiment.samples["train"], stage, experiment.recipe, accelerator, epoch=2)
    seen = np.sort(np.concatenate([batch.index.numpy() for batch in batches]))
    targets = targets_of(experiment.splits.train)
    assert seen.tolist() == draw_epoch(targets, "balanced", seed=0, epoch=2).rows.tolist()
    assert np.bincount(targets[seen]).tolist() == [18, 18]


def test_a_step_of_r_drop_is_the_same_in_one_piece_and_in_micro_batches(experiment: Experiment) -> None:
    stage, accelerator, losses, moved = experiment.stages[1], Accelerator(cpu=True), [], []
    for accumulation in (1, 3):
        recipe = override(experiment.recipe, [f"run.gradient_accumulation={accumulation}"])
        working = open_stage(experiment, stage, accelerator, checkpoint=None)
        working.bare.eval()  # type: ignore[no-untyped-call]  # no dropout, so that the pieces draw no other one
        batches = batches_of_epoch(experiment.samples["train"], stage, recipe, accelerator, epoch=1)
        step = take_step(working, batches, stage_loss(experiment, stage))
        assert step is not None
        losses.append(step.loss)
        moved.append(tensors_of(working.bare)["classifier.weight"].clone())
        working.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(moved[0], moved[1], atol=2e-5, rtol=1e-3)


def test_both_passes_of_r_drop_are_in_a_micro_batchs_budget_of_tokens(data: Path, experiment: Experiment) -> None:
    accelerator, samples = Accelerator(cpu=True), experiment.samples["train"]
    once = prepare(rare(data, "stages.head.loss=cross_entropy")).stages[0]
    for stage, budget in ((once, 128), (experiment.stages[0], 64)):
        tokens = [
            batch.inputs["input_ids"].numel() for batch in batches_of_epoch(samples, stage, experiment.recipe, accelerator, epoch=1)
        ]
        assert budget / 2 < max(tokens) <= budget


def test_the_passes_of_r_drop_differ_and_pull_the_loss_up(experiment: Experiment) -> None:
    stage, accelerator = experiment.stages[1], Accelerator(cpu=True)
    working = open_stage(experiment, stage, accelerator, checkpoint=None)
    working.train_mode()
    seen: list[torch.Tensor] = []
    own = stage_loss(experiment, stage)

    def keeping(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert len(logits) == 2 * len(labels)
        seen.append(logits.detach())
        return own(logits, labels)

    batches = batches_of_epoch(experiment.samples["train"], stage, experiment.recipe, accelerator, epoch=1)
    assert take_step(working, batches, keeping) is not None
    working.close()
    first, second = seen[0].chunk(2)
    assert (first != second).all()


# --- what is refused ----------------------------------------------------------------------------------------------------------


def test_r_drop_without_any_dropout_is_refused_with_the_way_out_and_the_model_stays_as_it_is(data: Path) -> None:
    experiment = prepare(rare(data, "model.dropout=0", "stages.head.loss=cross_entropy"))
    before = {name: tensor.clone() for name, tensor in experiment.classifier.model.state_dict().items()}
    with pytest.raises(RecipeError, match=r'stages\.all\.loss: "r_drop" compares two passes(.|\n)*model\.dropout=0\.1') as refused:
        make_plan(experiment)
    assert "stages.head" not in str(refused.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in experiment.classifier.model.state_dict().items())


# --- what is said -------------------------------------------------------------------------------------------------------------


def test_the_plan_says_what_a_stage_does_for_rare_classes_and_what_two_passes_cost(data: Path, experiment: Experiment) -> None:
    plan = make_plan(experiment)
    said = "\n".join(plan.remarks)
    # 36 rows in two classes: 18 draws of each, of 6 and of 30. Effective numbers at 0.999: 5.985 and 29.57, 4.94 : 1.
    assert (
        "Stage head draws its examples by class (sampling balanced): one of good comes 3 times an epoch, one of bad 0.6 times."
        in said
    )
    assert "Stage all weighs classes (class_weights: effective): from 0.604 (bad) to 2.98 (good)." in said
    assert (
        "Stage all computes each example twice (loss r_drop (alpha 0.5)): that is twice the operations, and memory for up to 16"
        in said
    )
    # Of 8 examples a step, 2 at a time of each pass.
    fourth = "\n".join(make_plan(prepare(rare(data, "run.gradient_accumulation=4"))).remarks)
    assert "memory for up to 4 examples at once; run.gradient_accumulation=8 halves it." in fourth
    shown = re.sub(" +", " ", "\n".join(render(plan)))
    assert "\nloss r_drop r_drop\nclass weights - effective\nsampling balanced -\n" in shown
    once = make_plan(prepare(rare(data, "stages.all.loss=cross_entropy"))).stages[1]
    assert plan.stages[1].flops == 2 * once.flops and plan.stages[1].cost_share == 2 * once.cost_share == 2
    adjusted = make_plan(prepare(rare(data, "stages.all.loss={kind: logit_adjusted, tau: 2}", "stages.all.class_weights=null")))
    # Twice log(6 / 36) and log(30 / 36).
    line = "Stage all adds to the logits, in training alone (logit_adjusted (tau 2.0)): from -3.58 (good) to -0.365 (bad)."
    assert line in adjusted.remarks


def test_the_plan_says_where_classes_of_one_size_leave_nothing_to_make_up_for(tmp_path: Path) -> None:
    for split, start in {"train": 0, "validation": 40, "test": 80}.items():
        write_rows(tmp_path / f"{split}.csv", mails(12, start=start))  # as many good as bad
    said = make_plan(prepare(rare(tmp_path, "stages.all.loss=cross_entropy", "stages.head.loss=cross_entropy"))).remarks
    assert "Stage head draws its examples by class (sampling balanced): each comes once, since all classes have as many." in said
    assert "Stage all weighs classes (class_weights: effective): 1 for every class alike." in said


def test_the_card_and_recipe_yaml_have_what_a_stage_does_for_rare_classes(whole: RunDirectory) -> None:
    write_card(whole)
    rows = {row.split("|")[1].strip(): row.split("|")[3:-1] for row in whole.card.read_text().splitlines() if row.startswith("| *")}
    assert [cell.strip() for cell in rows["*loss*"]] == ["r_drop", "r_drop"]
    assert [cell.strip() for cell in rows["*class weights*"]] == ["none", "effective"]
    assert [cell.strip() for cell in rows["*sampling*"]] == ["balanced", "none"]
    stages = whole.load_recipe().stages
    assert (stages["head"].sampling, stages["all"].loss) == ("balanced", RDropLoss(alpha=0.5))


def test_a_space_of_a_study_has_kinds_of_loss_with_their_options_weights_and_sampling(data: Path) -> None:
    base = rare(data, "stages.all.loss=logit_adjusted", "stages.all.class_weights=null")
    space = read_space(base, ["stages.all.loss.tau=0.5..2.0", "stages.head.sampling=null|balanced|sqrt"])
    stages = space.recipe(base, {"stages.all.loss.tau": 1.5, "stages.head.sampling": "null"}).stages
    assert (stages["all"].loss, stages["head"].sampling) == (LogitAdjustedLoss(tau=1.5), None)
    kinds = read_space(rare(data), ["stages.all.loss=focal|r_drop", "stages.all.class_weights=balanced|effective"])
    values = [space.recipe(rare(data), chosen).stages["all"] for space in (kinds,) for chosen in space.grid()]
    assert [(stage.loss, stage.class_weights) for stage in values] == [
        (loss, weights) for loss in (FocalLoss(), RDropLoss()) for weights in (BalancedWeights(), EffectiveWeights())
    ]
    with pytest.raises(RecipeError, match=r"loss=logit_adjusted and sampling=sqrt make up for the same rare classes twice"):
        read_space(base, ["stages.all.sampling=null|sqrt"])
