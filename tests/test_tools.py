"""The benchmark of tools: which arms it takes, its measures by hand, and that the page's table is that of its files."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import BERT_NANO

from hftl.evaluation.predictions import Predictions
from hftl.recipe import ImageData, Recipe, Stage, TextData, Timm, Transformer, override
from hftl.samples import REVIEWS

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("tools")


def test_a_set_has_all_of_its_arms_or_those_that_are_named_after_the_plain_one(tools: Any) -> None:
    assert list(tools.chosen("trec")["trec"]) == ["plain", *tools.ARMS["trec"]]
    assert tools.chosen("trec:focal,trec:r-drop") == {
        "trec": {"plain": (), "focal": tools.ARMS["trec"]["focal"], "r-drop": tools.ARMS["trec"]["r-drop"]}
    }
    assert tools.chosen("") == {}
    with pytest.raises(SystemExit, match="trec:fokal: no such set or arm; there are trec:smoothing"):
        tools.chosen("trec:fokal")


def test_every_arm_is_a_change_that_a_recipe_takes(tools: Any) -> None:
    stages = {name: Stage(lr=1, unfreeze=name, epochs=4) for name in ("head", "all")}
    recipe = Recipe(name="x", data=TextData(source="x"), model=Transformer(checkpoint="x"), stages=stages)
    assert set(tools.ARMS) <= set(tools.SETS)
    for name in ("trec", "trec-96", "trec-1000", "goemotions"):
        plain = override(recipe, tools.SETS[name].changes)
        changed = [override(plain, changes) for changes in tools.ARMS[name].values()]
        assert len(changed) > 2 and all(arm != plain for arm in changed)


def test_the_recipe_of_a_set_is_the_default_one_for_its_rows_and_its_model(tools: Any, tmp_path: Path) -> None:
    (tmp_path / "reviews").symlink_to(REVIEWS)
    recipe = tools.recipe_of("x", tools.Set("reviews", "bert-nano", 40, 20, 32), tmp_path, Path(BERT_NANO).parent)
    # Few rows: steps of 16, and of 8 and 8 epochs all but one for all layers.
    assert (recipe.run.batch_size, recipe.stages["head"].epochs, recipe.stages["all"].epochs) == (16, 1, 15)
    assert recipe.data.max_train_samples == 40 and recipe.data.max_validation_samples == 20


def test_every_arm_of_pictures_is_a_change_that_a_recipe_of_pictures_takes(tools: Any) -> None:
    stages = {name: Stage(lr=1, unfreeze=name, epochs=4) for name in ("head", "all")}
    recipe = Recipe(name="x", data=ImageData(source="x", image_size=128), model=Timm(checkpoint="x"), stages=stages)
    for name in ("hotdog", "hymenoptera", "clothing"):
        changed = [override(recipe, changes) for changes in tools.ARMS[name].values()]
        assert len(changed) > 10 and all(arm != recipe for arm in changed)


def test_recall_and_f1_of_some_classes_are_means_over_those_that_a_resample_has(tools: Any) -> None:
    labels = np.array([0, 0, 1, 2])
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 1]]  # of class 0 one of two is right, of 1 all, of 2 none
    found = Predictions([str(row) for row in range(4)], labels, logits)
    every, lacking = np.ones((1, 4)), np.array([[1.0, 1.0, 1.0, 0.0]])
    assert tools.of_classes([found], [0, 2], recall=True)(every).tolist() == [[0.25]]
    assert tools.of_classes([found], [0, 2], recall=True)(lacking).tolist() == [[0.5]]
    # F1 of 0: 2 * 1 / (2 + 1); of 1: 2 * 1 / (1 + 3).
    assert tools.of_classes([found], [0, 1], recall=False)(every)[0, 0] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_an_interval_is_for_new_rows_and_new_seeds(tools: Any) -> None:
    # Variances 0.02 of rows, 0.02 / 2 of seeds; 0.03² / (0.02² / 100 + 0.01² / 1) = 8.65 degrees of freedom, t 2.276.
    low, high = tools.interval(np.array([0.1, 0.3]), np.array([0.1, 0.3, math.nan]), rows=101)
    assert (low, high) == pytest.approx((0.2 - 2.276 * math.sqrt(0.03), 0.2 + 2.276 * math.sqrt(0.03)), abs=1e-3)
    one = tools.interval(np.array([0.2]), np.array([0.1, 0.3]), rows=101)
    assert one == pytest.approx([0.2 - 1.984 * math.sqrt(0.02), 0.2 + 1.984 * math.sqrt(0.02)], abs=1e-3)
    assert tools.interval(np.array([0.0]), np.zeros(5), rows=9) is None


def test_the_table_of_tools_is_of_its_files(tools: Any, tmp_path: Path) -> None:
    page = tmp_path / "findings.md"
    page.write_text(tools.replace_between(tools.PAGE.read_text(encoding="utf-8"), "tools", ""), encoding="utf-8")
    tools.write_page(page)
    assert page.read_text(encoding="utf-8") == tools.PAGE.read_text(encoding="utf-8")


def test_a_row_has_values_of_the_plain_recipe_and_gains_of_a_tool(tools: Any) -> None:
    record = {"rows": {"train": 4452, "validation": 1000}, "model": "minilm", "rare": ["ABBR"], "cost": 1.0, "seconds": [1, 2]}
    plain = tools.row_of("trec", "plain", {**record, "values": {"accuracy": {"values": [0.9, 0.8]}}})
    assert plain == "| trec: 4,452 rows, 1,000 of validation, minilm, 2 seeds; rare: ABBR | plain | 0.850 |  |  |  |  | 1.00 |"
    found = {"macro_f1": {"values": [0.9, 0.8], "gain": 0.01, "interval": [-0.01, 0.03]}}
    tool = tools.row_of("trec", "focal", {**record, "cost": 2.0, "values": found})
    assert tool == "| trec | focal |  | +0.010 [-0.010, +0.030] |  |  |  | 2.00 |"
