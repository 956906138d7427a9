"""The learning-rate range test."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import BERT_NANO

import hftl
from hftl.errors import RecipeError
from hftl.recipe import Recipe, RunSettings, Stage, TextData, Transformer
from hftl.samples import REVIEWS
from hftl.studies.find_lr import RangeTest, rising, smooth

RECIPE = Recipe(
    name="ranged",
    data=TextData(source=REVIEWS, max_length=16, max_train_samples=40, max_validation_samples=16, max_test_samples=12),
    model=Transformer(checkpoint=BERT_NANO),
    stages={
        "head": Stage(unfreeze="head", lr=1e-3, schedule="one_cycle"),
        "all": Stage(unfreeze="all", lr=1e-4, layer_decay=0.5, head_lr_multiplier=10),
    },
    run=RunSettings(batch_size=8, precision="fp32"),
)


def test_rates_rise_by_one_factor_and_the_mean_is_not_pulled_to_zero() -> None:
    assert rising(3) == pytest.approx([1e-7, 1e-3, 10.0])
    assert smooth([1.0, 2.0]) == pytest.approx([1.0, (0.9 * 0.1 + 0.1 * 2) / 0.19])  # 1, 1.526


def test_the_steepest_descent_lies_before_the_lowest_loss() -> None:
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    test = RangeTest("head", rates, [], [1.0, 0.9, 0.5, 0.4, 3.0], True, 0)  # falls 0.1, 0.4, 0.1
    assert (test.steepest, test.lowest) == (1e-3, 1e-1)


def test_each_stage_is_tested_and_a_rate_suggested_for_the_head_alone(tmp_path: Path) -> None:
    said: list[str] = []
    study = hftl.find_lr(RECIPE, study_dir=tmp_path / "study", say=said.append)
    assert [path.name for path in study.figures] == ["all.png", "head.png"]
    assert said[0].startswith("stage head: ") and "a rate to try lies between" in said[0]
    assert "No rate is suggested" in said[1] and "on the pretrained model" in study.page
    head = study.table[study.table["stage"] == "head"]
    assert head["lr"].iloc[0] == pytest.approx(1e-7) and head["lr"].is_monotonic_increasing
    whole = study.table[study.table["stage"] == "all"]
    assert len(whole) < 60 or whole["smoothed"].iloc[-1] <= 4 * whole["smoothed"].min()


def test_layer_decay_and_the_heads_multiplier_keep_their_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hftl.studies import find_lr
    from hftl.training import step

    seen: list[dict[str, float]] = []

    def noted(working, batches, loss):  # type: ignore[no-untyped-def]
        taken = original(working, batches, loss)
        if taken is not None:
            seen.append(dict(taken.rates))
        return taken

    original = step.take_step
    monkeypatch.setattr(find_lr, "take_step", noted)
    hftl.find_lr(RECIPE, stage="all", study_dir=tmp_path / "study", say=lambda line: None)
    for rates in (seen[0], seen[20]):
        assert rates["head"] / rates["layer.3"] == pytest.approx(20) and rates["layer.3"] / rates["layer.2"] == pytest.approx(2)
    assert seen[0]["head"] == pytest.approx(1e-6)


def test_what_the_test_costs_is_said_before_it_starts() -> None:
    plan = hftl.api.plan_find_lr(RECIPE, stage="head")
    assert [(name, steps) for name, steps, _ in plan.stages] == [("head", 60)]  # an epoch has 5 steps, and 60 is the least
    assert plan.seconds == plan.stages[0][2] / plan.rate
    both = hftl.api.plan_find_lr(RECIPE)
    assert both.stages[1][2] > both.stages[0][2] and "find-lr: about" in str(both)


def test_a_stage_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match='Did you mean "head"'):
        hftl.find_lr(RECIPE, stage="haed", study_dir=tmp_path / "study")
