"""The recipe scripts themselves: they load, read back from YAML, and have what the command line promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftl.recipe import load_recipe, parse_recipe

SCRIPTS = sorted((Path(__file__).resolve().parent.parent / "recipes").glob("*.py"))
MAKERS = {"gan_augmentation", "pretrain_bert_nano"}  # scripts that make pictures and a checkpoint, and no run
RECIPES = [path for path in SCRIPTS if path.stem not in MAKERS]


def test_all_recipes_were_found() -> None:
    expected = {"bert_imdb", "textcnn_imdb", "bilstm_imdb", "resnet_hotdog", "resnet_cats_vs_dogs", "resnet_pets"}
    assert expected | {"quickstart", "film_reviews"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_script_loads_without_training_and_survives_yaml(path: Path) -> None:
    recipe = load_recipe(path)
    assert parse_recipe(recipe.to_yaml(), source="x") == recipe


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_recipe_script_opens_with_its_command(path: Path) -> None:
    head = path.read_text().split('"""')[1]
    assert f"python recipes/{path.name}" in head
