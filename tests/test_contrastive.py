"""The contrastive loss: its numbers by hand, whole runs by it, and what it cannot be used for."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from sittings import assert_same_run, signal_at
from small import mails, nano, noisy_pictures, train, write_rows

from hftl.errors import RecipeError
from hftl.files import read_json
from hftl.names import SEVERAL_LABELS
from hftl.recipe import BiLSTM, ContrastiveLoss, Recipe, Stage, TextData, override
from hftl.run import RunDirectory
from hftl.sharing.card import write_card
from hftl.signals import Stopped
from hftl.training.engine import prepare
from hftl.training.experiment import Experiment, stage_loss
from hftl.training.loss import Contrast, check_loss, contrastive, make_loss
from hftl.training.planning import make_plan
from hftl.training.step import batches_of_epoch, take_step
from hftl.training.working import open_stage

# --- numbers by hand ----------------------------------------------------------------------------------------------------------


def test_two_alike_of_one_class_beside_one_of_another_have_the_log_of_one_and_a_share() -> None:
    vectors, labels = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    # Cosines: 1 between the first two, 0 to the third, which has no other of its class.
    for temperature in (1.0, 0.5):
        alike = math.log(1 + math.exp(-1 / temperature))
        assert contrastive(vectors, labels, temperature).tolist() == pytest.approx([alike, alike, 0.0])


def test_with_several_of_a_class_it_is_the_mean_over_them_outside_the_log() -> None:
    # The first example has cosine 1 to the second, 0 to the third, all of one class, and -1 to the fourth, of another.
    vectors, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 0, 1])
    among = math.log(math.e + 1 + 1 / math.e)
    assert contrastive(vectors, labels, 1.0)[0].item() == pytest.approx(((among - 1) + (among - 0)) / 2)


def test_the_loss_is_the_weighted_mean_of_both_parts_and_class_weights_are_of_cross_entropy_alone() -> None:
    output = torch.nn.Linear(2, 2, bias=False)
    contrast = Contrast(output, ContrastiveLoss(weight=0.75, temperature=1.0))
    logits = output(torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0]]))
    labels, alike = torch.tensor([0, 0, 1]), math.log(1 + math.exp(-1))
    cross_entropies = make_loss(ContrastiveLoss(), torch.tensor([2.0, 1.0]))(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none") * torch.tensor([2.0, 2.0, 1.0])
    torch.testing.assert_close(cross_entropies, expected)
    found = contrast(cross_entropies, labels)
    torch.testing.assert_close(found, 0.25 * expected + 0.75 * torch.tensor([alike, alike, 0.0]))


def test_its_gradient_draws_one_class_together_and_the_other_away() -> None:
    vectors = torch.tensor([[1.0, 0.2], [1.0, -0.2], [0.9, 0.4]], requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    torch.autograd.backward(contrastive(vectors, labels, 0.3).sum())
    assert vectors.grad is not None
    moved = torch.nn.functional.normalize(vectors.detach() - 0.1 * vectors.grad, dim=1)
    before = torch.nn.functional.normalize(vectors.detach(), dim=1)
    assert moved[0] @ moved[1] > before[0] @ before[1]
    assert moved[0] @ moved[2] < before[0] @ before[2]


# --- runs ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mails")
    rows = mails(64)
    for split, part in {"train": rows[:36], "validation": rows[36:50], "test": rows[50:]}.items():
        write_rows(folder / f"{split}.csv", part)
    return folder


def few(data: Path, *changes: str) -> Recipe:
    """36 rows / 12 a step = 3 steps an epoch; a budget of tokens that would cut each into pieces."""
    stages = {
        "all": Stage(unfreeze="all", lr=1e-3, epochs=2, loss="contrastive"),
        "head": Stage(unfreeze="head", lr=1e-3, epochs=1),
    }
    source = TextData(source=str(data), text_column="body", max_length=24)
    return override(nano("few", source, stages, batch_size=12, log_every=1, tokens_per_batch=64), changes)


@pytest.fixture(scope="module")
def experiment(data: Path) -> Experiment:
    return prepare(few(data))


def test_a_step_is_computed_at_once_whatever_the_budget_of_tokens(experiment: Experiment) -> None:
    accelerator, samples = Accelerator(cpu=True), experiment.samples["train"]
    compared, other = (
        [len(batch.index) for batch in batches_of_epoch(samples, stage, experiment.recipe, accelerator, epoch=1)]
        for stage in experiment.stages
    )
    assert compared == [12, 12, 12] and len(other) > 3


def test_the_weights_before_the_output_layer_learn_from_the_comparison(experiment: Experiment) -> None:
    stage, accelerator, losses = experiment.stages[0], Accelerator(cpu=True), []
    working = open_stage(experiment, stage, accelerator, checkpoint=None)
    working.bare.eval()  # type: ignore[no-untyped-call]
    for _ in range(12):
        batches = batches_of_epoch(experiment.samples["train"], stage, experiment.recipe, accelerator, epoch=1)
        # Without cross-entropy, so that nothing else can bring the loss down.
        step = take_step(working, batches, lambda logits, labels: 0.0 * logits.sum(dim=1))
        assert step is not None
        losses.append(step.loss)
    working.close()
    assert losses[-1] < 0.8 * losses[0]
    assert experiment.output_layer == "classifier"
    assert stage_loss(experiment, stage)(torch.zeros(1, 2), torch.tensor([0])).item() == pytest.approx(math.log(2))


def test_a_run_that_is_stopped_within_the_contrastive_stage_ends_as_the_whole_one_and_its_card_names_the_loss(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(few(data), tmp_path / "whole")
    for sitting in range(2):
        with signal_at(monkeypatch, step=(4, 99)[sitting]), suppress(Stopped):
            train(few(data), tmp_path / "run", resume=sitting > 0)
    stopped = RunDirectory(tmp_path / "run")
    assert read_json(stopped.environment)["sessions"] == 2
    assert_same_run(whole, stopped)
    write_card(whole)
    assert "contrastive" in whole.card.read_text()
    assert whole.load_recipe().stages["all"].loss == ContrastiveLoss(weight=0.9, temperature=0.3)


@pytest.mark.parametrize("family", ["words", "pictures"])
def test_other_families_and_a_stage_behind_a_cached_boundary_compare_what_enters_their_output_layer(
    family: str, data: Path, tmp_path: Path
) -> None:
    if family == "words":
        recipe = few(data, "stages.all.unfreeze=last 2").model_copy(
            update={"model": BiLSTM(vectors="random:8", hidden_size=8, layers=1)}
        )
    else:
        recipe = noisy_pictures(tmp_path / "pictures", "stages.top.loss=contrastive", "run.gradient_accumulation=1")
    name = "all" if family == "words" else "top"
    run = train(recipe, tmp_path / "run")
    losses = [row["loss"] for row in run.read_history() if row["event"] == "step" and row["stage"] == name]
    assert len(losses) >= 2 and all(math.isfinite(loss) for loss in losses)


# --- what is said and refused -------------------------------------------------------------------------------------------------


def test_the_plan_says_that_a_step_is_compared_in_one_piece(experiment: Experiment) -> None:
    said = "\n".join(make_plan(experiment).remarks)
    assert "Stage all compares the 12 examples of a step with each other (loss contrastive): they are computed at once" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ("model.pooling=mean", "stages.head.loss=contrastive"),
            r"stages\.head\.loss: .*trains nothing before that(.|\n)*unfreeze=\"last 2\"",
        ),
        (("run.gradient_accumulation=2",), r"stages\.all\.loss: .*cuts the step into 2 pieces(.|\n)*batch_size"),
        (("run.compile=true",), r"stages\.all\.loss: .*compiled layers(.|\n)*leave run\.compile out"),
        (("data.max_length=48", "data.windows={length: 16, overlap: 8}"), r"stages\.all\.loss: .*a window of one(.|\n)*head\+tail"),
    ],
)
def test_a_loss_that_compares_is_refused_where_examples_cannot_be_compared(data: Path, changes: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make_plan(prepare(few(data, *changes)))


def test_several_labels_are_refused() -> None:
    check_loss(ContrastiveLoss(), "one_label")
    with pytest.raises(RecipeError, match=r"draws examples of one class together(.|\n)*cross_entropy"):
        check_loss(ContrastiveLoss(), SEVERAL_LABELS)
