"""Reading a recipe: from YAML text, from a file, from a script that builds one."""

from __future__ import annotations

import runpy
import types
from pathlib import Path
from typing import Any

import yaml

from hftl.errors import Problem, RecipeError
from hftl.recipe.recipe import Recipe
from hftl.recipe.text import MOST_BYTES, read_yaml

_TOO_LARGE = Problem("recipe", f"larger than {MOST_BYTES // 10**6} MB, which no recipe is")


def parse_recipe(text: str, *, source: str) -> Recipe:
    """Read a recipe from YAML text; `source` is named in errors.

    A stranger's text is only data, and bounded: at most 1 MB, 50 levels, no tags, no anchors and aliases (a few lines of which can
    stand for gigabytes), no key twice.

    Raises:
        RecipeError: not such YAML, or not a recipe.
    """
    if len(text) > MOST_BYTES:
        raise RecipeError(source, [_TOO_LARGE])
    try:
        values = read_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(source, [Problem("YAML", " ".join(str(error).split()))]) from None
    if not isinstance(values, dict):
        raise RecipeError(source, [Problem("recipe", f"expected a mapping, found {type(values).__name__}")])
    return build_recipe(values, source)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a script that defines `recipe`, or a function of that name, from a YAML file, or from a run directory.

    Raises:
        RecipeError: no such file, another kind of file, or an invalid recipe.
    """
    path = Path(path)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    source = str(path)
    if not path.is_file():
        raise RecipeError(
            source,
            [
                Problem(
                    "recipe", "no such file. A recipe is a script such as recipes/bert_imdb.py, a recipe.yaml, or hub:OWNER/NAME."
                )
            ],
        )
    if path.suffix in {".yaml", ".yml"}:
        try:
            if path.stat().st_size > MOST_BYTES:
                raise RecipeError(source, [_TOO_LARGE])
            return parse_recipe(path.read_text(encoding="utf-8"), source=source)
        except OSError as error:
            raise RecipeError(source, [Problem("recipe", f"cannot be read: {error.strerror}")]) from None
        except UnicodeDecodeError as error:
            raise RecipeError(source, [Problem(f"byte {error.start}", "not UTF-8 text")]) from None
    if path.suffix != ".py":
        raise RecipeError(source, [Problem("recipe", f'"{path.suffix}" is not a kind of recipe: allowed are .py and .yaml')])
    try:
        recipe = runpy.run_path(str(path), run_name="hftl_recipe").get("recipe")
        recipe = recipe() if isinstance(recipe, types.FunctionType) else recipe
    except SyntaxError as error:
        raise RecipeError(source, [Problem(f"line {error.lineno}", f"not valid Python: {error.msg}")]) from None
    except RecipeError as error:
        raise RecipeError(source, error.problems) from None
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            source,
            [Problem("recipe", "the script defines no `recipe = hftl.Recipe(...)`", ("nor a function `recipe` that returns one",))],
        )
    return recipe


def build_recipe(values: dict[str, Any], source: str) -> Recipe:
    """A recipe of these values; `source` is named in errors.

    Raises:
        RecipeError: they are not those of a recipe.
    """
    try:
        return Recipe(**values)
    except RecipeError as error:
        raise RecipeError(source, error.problems) from None
