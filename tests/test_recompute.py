"""Gradient checkpointing: the same step to the bit in less memory, whatever is random in a layer and whatever it counts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from boundaries import TEXTS, loss_and_gradients
from small import bert, nano, quiet, reviews, small_vectors
from small_models import build_vision, tiny_bert

from hftl.errors import RecipeError
from hftl.models import cnn, transformer
from hftl.models.family import Classifier
from hftl.models.fast_training import use_fast_training
from hftl.models.recompute import recompute_layers
from hftl.recipe import CNN, Recipe, RunSettings, Stage, TextCNN, Transformer
from hftl.run import RunDirectory
from hftl.training.costs import kept_bytes
from hftl.training.engine import Evaluation, fit, prepare
from hftl.training.open_run import open_run
from hftl.training.planning import make_plan
from hftl.training.stage import freeze, train_mode


def small(family: str, folder: Path) -> tuple[Classifier, dict[str, torch.Tensor]]:
    """A classifier with dropout or batch normalisation, or both, and inputs."""
    torch.manual_seed(0)
    if family == "bert":
        return transformer.build(Transformer(checkpoint=str(tiny_bert(folder)), dropout=0.3), ("no", "yes")), dict(TEXTS)
    pictures = {"pixel_values": torch.randn(3, 3, 32, 32)}
    if family == "cnn":
        return cnn.build(CNN(channels=(4, 8, 8), dropout=0.5), ("no", "yes"), image_size=32), pictures
    return build_vision(family, pretrained=False, image_size=32, dropout=0.5), pictures


@pytest.mark.parametrize("family", ["bert", "test_resnet", "test_vit", "test_convnext", "test_efficientnet", "cnn"])
@pytest.mark.parametrize("first", [0, -2])
def test_a_step_is_the_same_to_the_bit_in_less_memory(family: str, first: int, tmp_path: Path) -> None:
    built, inputs = small(family, tmp_path)
    trains = built.chain.names[first:]
    steps = []
    for recompute in (False, True):
        model: Any = copy.deepcopy(built.model)
        freeze(model, built.chain, trains)
        use_fast_training(model)  # its dropout draws otherwise than torch's
        if recompute:
            recompute_layers(model, built.chain)
        train_mode(model, built.chain, trains)
        loss, gradients = loss_and_gradients(model, inputs, 3)
        steps.append((loss, gradients, {name: tensor.clone() for name, tensor in model.named_buffers()}))
    (loss, gradients, buffers), (again, of_again, counted) = steps
    assert torch.equal(loss, again) and gradients.keys() == of_again.keys() and len(gradients) > 1
    assert all(torch.equal(gradient, of_again[name]) for name, gradient in gradients.items())
    assert all(torch.equal(buffer, counted[name]) for name, buffer in buffers.items())  # a batch is counted once
    kept, less = (kept_bytes(built.model, built.chain, trains, inputs, recompute=recompute) for recompute in (False, True))
    assert less < kept


def test_what_is_kept_is_what_enters_the_blocks_and_the_linear_layer() -> None:
    built = cnn.build(CNN(channels=(4, 8)), ("no", "yes"), image_size=16)
    inputs = {"pixel_values": torch.zeros(2, 3, 16, 16)}
    before = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    kept = kept_bytes(built.model, built.chain, built.chain.names, inputs, recompute=True)
    # Two pictures in float32: 3 x 16 x 16 enter the first block, 4 x 8 x 8 the second, 8 the linear layer.
    assert kept == 2 * 4 * (3 * 16 * 16 + 4 * 8 * 8 + 8)
    assert kept_bytes(built.model, built.chain, ("head",), inputs, recompute=True) == 2 * 4 * 8  # frozen blocks keep nothing
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.model.state_dict().items())


def test_a_copy_of_such_a_model_computes_with_its_own_weights() -> None:
    built = cnn.build(CNN(channels=(4, 8)), ("no", "yes"), image_size=16)
    recompute_layers(built.model, built.chain)
    other: Any = copy.deepcopy(built.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        assert other.eval()(pixel_values=torch.randn(2, 3, 16, 16)).logits.abs().max() == 0


class Stopped(Exception):
    """A run ends in its middle."""


def test_a_run_that_is_continued_has_the_weights_of_one_without_it_and_its_plan_says_what_is_saved(tmp_path: Path) -> None:
    def recipe(*, recompute: bool) -> Recipe:
        stages = {"head": Stage(unfreeze="head", lr=1e-3), "all": Stage(lr=1e-3, epochs=2)}
        return nano("recomputed", reviews(24, 16, 12, max_length=24), stages, batch_size=8, gradient_checkpointing=recompute)

    def stop(evaluation: Evaluation) -> None:
        if evaluation.step == 6:
            raise Stopped

    plain, experiment = prepare(recipe(recompute=False)), prepare(recipe(recompute=True))
    with open_run(plain, RunDirectory(tmp_path / "plain"), console=quiet()) as run:
        expected = fit(plain, run, lambda evaluation: None)
    directory = RunDirectory(tmp_path / "run")
    with pytest.raises(Stopped), open_run(experiment, directory, console=quiet()) as run:
        fit(experiment, run, stop)
    continued = prepare(recipe(recompute=True), continues=directory)
    with open_run(continued, directory, resume=True, console=quiet()) as run:
        weights = fit(continued, run, lambda evaluation: None)
    assert weights.keys() == expected.keys() and all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())
    assert continued.classifier.model.config.use_cache  # that of the copies which train is off, and nothing warns of it
    plan, other = make_plan(experiment), make_plan(plain)
    said = [remark for remark in plan.remarks if "run.gradient_checkpointing" in remark]
    assert [remark.split()[:2] for remark in said] == [["Stage", "head"], ["Stage", "all"]] and plan.flops > other.flops
    assert "nothing to gain" in said[0] and " of an example for the backward pass instead of " in said[1]


def test_what_has_no_layers_that_could_is_refused(tmp_path: Path) -> None:
    vectors = TextCNN(vectors=str(small_vectors(tmp_path / "small.txt")))
    settings = RunSettings(gradient_checkpointing=True)
    with pytest.raises(RecipeError, match=r'run\.gradient_checkpointing: model\.family "textcnn" has no layers that keep much'):
        Recipe(name="x", data=reviews(24), model=vectors, stages={"all": Stage(lr=1e-3)}, run=settings)
    with pytest.raises(RecipeError, match=r"run\.gradient_checkpointing: compiled layers"):
        bert("run.gradient_checkpointing=true", "run.compile=true")
    built, _ = small("bert", tmp_path / "bert")
    built.model.supports_gradient_checkpointing = False
    with pytest.raises(RecipeError, match=r"run\.gradient_checkpointing: Bert\w+ has no layers that can be computed a second time"):
        recompute_layers(built.model, built.chain)
