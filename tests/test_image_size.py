"""Pictures of another size in a stage: made at that size, kept and counted by it, and judged at one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sittings import assert_same_run, signal_at
from small import nano, noisy_pictures, reviews, train

from hftl.errors import RecipeError
from hftl.files import read_json
from hftl.models.boundary import Boundary, activation_shape
from hftl.models.image_size import preprocessor_at, why_not
from hftl.recipe import Recipe, Stage, override, parse_recipe
from hftl.sharing.card import render_card
from hftl.signals import Stopped
from hftl.training.experiment import Experiment, prepare_experiment
from hftl.training.planning import make_plan


def recipe_of(folder: Path, *changes: str) -> Recipe:
    """Evaluated at 64 x 64 pixels: the head on 32, the last three groups on 48, and then on those of evaluation."""
    changes = ("model.checkpoint=test_resnet", "data.image_size=64", "data.augmentation=none", *changes)
    sizes = ("stages.head.image_size=32", "stages.top.image_size=48")
    return noisy_pictures(folder, *changes, *sizes)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return prepare_experiment(recipe_of(tmp_path_factory.mktemp("pictures") / "data"))


def test_a_stages_pictures_have_its_size_and_those_of_evaluation_theirs(experiment: Experiment) -> None:
    head, top = experiment.stages
    sides = [experiment.training_samples(stage)[1, 0]["pixel_values"].shape for stage in (head, top)]
    assert sides == [(32, 32, 3), (48, 48, 3)]
    assert experiment.samples["validation"][1, 0]["pixel_values"].shape == (64, 64, 3)
    assert experiment.training_samples(head) is experiment.training_samples(head)
    found = {experiment.training_samples(stage).fingerprint for stage in (head, top)} | {experiment.samples["train"].fingerprint}
    assert len(found) == 3  # what is kept of them is kept apart
    plain: Any = experiment.classifier.preprocessor
    same = {**plain.data_config, "input_size": (3, 32, 32)}
    assert preprocessor_at(experiment.classifier, 32).data_config == same


def test_pictures_are_shrunk_as_evaluation_shrinks_them(experiment: Experiment) -> None:
    # Without augmentation a picture at 32 pixels is the one of 64 pixels at half the size: the same crop of the original.
    small = experiment.training_samples(experiment.stages[0])[1, 3]["pixel_values"].astype(float)
    large = experiment.samples["train"][1, 3]["pixel_values"].astype(float)
    blocks = small.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3)), large.reshape(4, 16, 4, 16, 3).mean(axis=(1, 3))
    assert np.abs(blocks[0] - blocks[1]).mean() < 3
    assert np.abs(blocks[0] - blocks[1].mean(axis=(0, 1))).mean() > 2 * np.abs(blocks[0] - blocks[1]).mean()


def test_the_plan_counts_a_stages_own_pictures_and_says_their_size(experiment: Experiment) -> None:
    plan = make_plan(experiment)
    head, top = plan.stages
    assert (head.image_size, top.image_size) == (32, 48)
    # Convolutions cost by the pixel: 48 x 48 are 9/16 of 64 x 64; the head costs the same at any size.
    whole = sum(experiment.forward.values()) - experiment.forward["head"]
    own = experiment.forward_of(experiment.stages[1])
    assert 9 / 16 < (sum(own.values()) - own["head"]) / whole < 0.65  # 1.5 x 1.5 places at the end are 2 x 2
    assert own["head"] == experiment.forward["head"]
    same = make_plan(
        experiment.with_stages(override(experiment.recipe, ["stages.head.image_size=null", "stages.top.image_size=64"]))
    )
    assert [stage.image_size for stage in same.stages] == [None, None]
    assert top.flops < 0.75 * same.stages[1].flops
    said = "Stage top trains on pictures of 48 x 48 pixels; validation and test see those of 64 x 64."
    assert said in plan.remarks and not any("trains on pictures" in remark for remark in same.remarks)
    assert top.cache_bytes < same.stages[1].cache_bytes


def test_an_activation_of_a_smaller_picture_is_smaller(experiment: Experiment) -> None:
    top = experiment.stages[1]
    boundary = experiment.boundaries["top"]
    assert isinstance(boundary, Boundary)
    own = experiment.training_boundary(top)
    assert own is not None and own.entry_module == boundary.entry_module
    assert own.shape[0] == boundary.shape[0]
    assert [side / other for side, other in zip(own.shape[1:], boundary.shape[1:], strict=True)] == [0.75, 0.75]
    inputs = {"pixel_values": torch.zeros(2, 3, 64, 64)}
    assert activation_shape(experiment.classifier.model, boundary, inputs) == boundary.shape


def test_a_run_of_growing_pictures_is_the_same_with_the_cache_without_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "cache"))
    recipe = recipe_of(tmp_path / "data", "model.dropout=0")
    whole = train(recipe, tmp_path / "whole")
    assert read_json(whole.environment)["cached"]["top"] == {"train": "stored", "validation": "stored"}
    assert [stage["image_size"] for stage in read_json(whole.plan)["stages"]] == [32, 48]
    assert "| *side of the pictures, pixels* |  | 32 | 48 |" in render_card(whole)
    live = train(override(recipe, ["run.cache_gb=0"]), tmp_path / "live")
    ours, theirs = ([row["loss"] for row in run.read_history() if row["event"] == "step"] for run in (whole, live))
    assert ours == pytest.approx(theirs, rel=1e-5)
    with signal_at(monkeypatch, step=5), pytest.raises(Stopped):
        train(recipe, tmp_path / "run")
    assert_same_run(whole, train(recipe, tmp_path / "run", resume=True))


# --- refused --------------------------------------------------------------------------------------------------------------------


def test_a_size_that_the_network_cannot_take_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    vit = ("model.checkpoint=vit_tiny_patch16_224", "stages.head.image_size=null")
    recipe = override(recipe_of(tmp_path / "data"), vit)
    with pytest.raises(RecipeError, match=r"stages\.top\.image_size: the network cannot take pictures of 48 x 48 pixels") as caught:
        make_plan(prepare_experiment(recipe))
    assert "write data.image_size for all stages" in str(caught.value)
    # One that resamples its positions by itself takes any size that its patches divide.
    make_plan(prepare_experiment(override(recipe, ["model.checkpoint=test_vit"])))


def test_a_size_beyond_reason_is_refused(experiment: Experiment) -> None:
    assert why_not(experiment.classifier, 2_049) == "at most 2,048 pixels"
    assert why_not(experiment.classifier, 96) is None


@pytest.mark.parametrize(("size", "why"), [(0, "greater than or equal to 1"), ("wide", "valid integer")])
def test_a_size_is_a_number(size: Any, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        Stage(lr=0.1, image_size=size)


def test_texts_have_no_size(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages\.head\.image_size: texts have no pixels; leave it out"):
        nano("texts", reviews(8), {"head": Stage(lr=0.1, image_size=64)})
    recipe = recipe_of(tmp_path / "data")
    assert parse_recipe(recipe.to_yaml(), source="again") == recipe
