"""prepare, fit, finish: what a study does with them, and a step by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from small import nano, quiet, reviews
from torch.nn import functional as F

from hftl.data.loader import training_batches
from hftl.files import read_json
from hftl.recipe import ConstantSchedule, Stage
from hftl.run import RunDirectory
from hftl.training.engine import Evaluation, fit, prepare, train
from hftl.training.experiment import Experiment
from hftl.training.finish import finish
from hftl.training.loss import make_loss
from hftl.training.open_run import open_run
from hftl.training.proof import tensors_of
from hftl.training.step import NotFinite, take_step
from hftl.training.working import Working, open_stage

RECIPE = nano(
    "fitted",
    reviews(24, 16, 12, max_length=24),
    {
        "head": Stage(unfreeze="head", lr=1e-3, epochs=2, schedule="constant"),
        "top": Stage(unfreeze="last 2", lr=1e-3, layer_decay=0.5, batch_size=12, schedule=ConstantSchedule(), optimizer="lion"),
    },
    batch_size=8,
    log_every=1,
)


class Pruned(Exception):
    """A trial is not worth going on with."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(RECIPE, RunDirectory(tmp_path_factory.mktemp("whole") / "run"), console=quiet())


def test_what_the_plan_shows_is_what_is_trained(whole: RunDirectory) -> None:
    steps = [line for line in whole.read_history() if line["event"] == "step"]
    proofs = {
        stage["name"]: stage for stage in ({**proof, "name": proof["stage"]} for proof in read_json(whole.freeze_proof)["stages"])
    }
    for stage in read_json(whole.plan)["stages"]:
        taken = [step for step in steps if step["stage"] == stage["name"]]
        assert len(taken) == stage["steps"]
        shown = {group["name"]: group["lr"] for group in stage["groups"] if group["trains"]}
        assert all(step["lr"] == pytest.approx(shown) for step in taken)  # the schedule is a constant one
        assert [group["name"] for group in proofs[stage["name"]]["groups"] if group["trains"]] == stage["unfreeze"] == list(shown)


def test_a_study_fits_is_told_of_every_epoch_and_never_opens_the_test_split(whole: RunDirectory, tmp_path: Path) -> None:
    told = list[Evaluation]()
    experiment = prepare(RECIPE)
    with open_run(experiment, RunDirectory(tmp_path / "trial"), console=quiet()) as run:
        weights = fit(experiment, run, told.append)
        assert not run.directory.test_openings.exists() and not run.directory.predictions("test").exists()
        assert not run.directory.finished
    expected = [line for line in whole.read_history() if line["event"] == "evaluation"]
    assert [(each.stage, each.epoch, each.step) for each in told] == [("head", 1, 3), ("head", 2, 6), ("top", 1, 8)]
    assert [dict(each.metrics) for each in told] == [line["validation"] for line in expected]
    assert [each.value for each in told] == [line["validation"]["accuracy"] for line in expected]
    assert [each.kept for each in told] == [line["kept"] for line in expected]
    delivered = load_file(whole.model / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in delivered.items())


def test_a_trial_that_its_study_stops_can_be_continued_and_finished_without_the_test_split(
    whole: RunDirectory, tmp_path: Path
) -> None:
    def stop(evaluation: Evaluation) -> None:
        if evaluation.step == 6:
            raise Pruned

    directory = RunDirectory(tmp_path / "trial")
    experiment = prepare(RECIPE)
    with pytest.raises(Pruned), open_run(experiment, directory, console=quiet()) as run:
        fit(experiment, run, stop)
    experiment = prepare(RECIPE, continues=directory)
    told = list[Evaluation]()
    with open_run(experiment, directory, resume=True, console=quiet()) as run:
        fit(experiment, run, told.append)
        finish(experiment, run, open_test=False)
    assert [(each.stage, each.epoch) for each in told] == [("top", 1)]
    assert directory.finished and set(read_json(directory.metrics)) == {"validation"}
    assert not directory.test_openings.exists() and not directory.predictions("test").exists()
    one, other = load_file(whole.model / "model.safetensors"), load_file(directory.model / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- a step -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return prepare(RECIPE)


def opened(experiment: Experiment) -> tuple[Working, Any]:
    """The second stage, and the micro-batches of its epoch: 2 steps of 12 examples in 3 pieces each."""
    working = open_stage(experiment, experiment.stages[1], Accelerator(cpu=True), checkpoint=None)
    working.train_mode()
    working.bare.eval()  # type: ignore[no-untyped-call]  # no dropout, so that a step can be worked out
    return working, training_batches(experiment.samples["train"], batch_size=12, seed=0, epoch=1, accumulation=3)


def test_a_step_is_the_mean_loss_over_its_micro_batches_one_update_and_its_rates(experiment: Experiment) -> None:
    working, batches = opened(experiment)
    before = {name: tensor.clone() for name, tensor in tensors_of(working.bare).items()}
    _, expected_batches = opened(experiment)
    losses = []
    for batch in expected_batches:
        batch = batch.to(torch.device("cpu"))
        with torch.no_grad():
            losses += F.cross_entropy(working.bare(**batch.inputs).logits, batch.targets, reduction="none").tolist()
        if batch.completes_step:
            break
    step = take_step(working, batches, make_loss(working.stage.loss, None))
    assert step is not None and len(losses) == 12
    assert step.loss == pytest.approx(sum(losses) / 12, rel=1e-5)
    assert step.rates == {"layer.3": 5e-4, "head": 1e-3}
    assert step.grad_norm is not None and step.grad_norm > 0
    moved = {
        working.chain.group_of(name) for name, tensor in tensors_of(working.bare).items() if not torch.equal(tensor, before[name])
    }
    assert moved == {"layer.3", "head"}
    assert take_step(working, batches, make_loss(working.stage.loss, None)) is not None
    assert take_step(working, batches, make_loss(working.stage.loss, None)) is None
    working.close()


def test_a_step_whose_loss_is_not_finite_is_not_taken(experiment: Experiment) -> None:
    working, batches = opened(experiment)
    before = {name: tensor.clone() for name, tensor in tensors_of(working.bare).items()}
    with pytest.raises(NotFinite) as refused:
        take_step(working, batches, lambda logits, labels: F.cross_entropy(logits, labels, reduction="none") * torch.inf)
    assert len(refused.value.rows) == len(set(refused.value.rows)) == 12
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(working.bare).items())
    working.close()


def test_the_host_gets_the_weights_of_its_copy_and_nothing_else(experiment: Experiment) -> None:
    host = experiment.classifier.model
    before = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    working, batches = opened(experiment)
    take_step(working, batches, make_loss(working.stage.loss, None))
    assert all(torch.equal(tensor, before[name]) for name, tensor in host.state_dict().items())
    working.give_weights_to(host)
    assert all(torch.equal(tensor, working.bare.state_dict()[name]) for name, tensor in host.state_dict().items())
    assert not torch.equal(host.state_dict()["classifier.weight"], before["classifier.weight"])
    assert all(parameter.requires_grad for parameter in host.parameters()) and not any("forward" in vars(m) for m in host.modules())
    host.load_state_dict(before)
    working.close()
