"""Arms: the recipes that an ablation compares, by names that say what they are, or by changes to the recipe.

staged     the recipe as it is
flat       one stage for every layer, at the last stage's rate, for as many epochs as all stages together
head-x10   flat, and ten times that rate for the head
decay      flat, and the rate of each layer group 0.8 times that of the one above, or as the last stage has it
head       the head alone, for as many epochs: the first stage's rate
scratch    flat, and the same network from random weights: what pretraining buys is the first arm minus this one
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hftl.errors import Problem, RecipeError, did_you_mean
from hftl.recipe import Pretrained, Recipe, Stage, WordVectors, override

DECAY = 0.8
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}"
"""What an arm may be called, as a regular expression: its trials' folders are."""
SCRATCH = "scratch"
ARMS = ("staged", "flat", "head-x10", "decay", "head", SCRATCH)


def arms_of(recipe: Recipe, words: Sequence[str], *, source: str = "recipe") -> dict[str, Recipe]:
    """The recipe of each arm, the first one first: ``arms_of(recipe, ["staged", "flat", "slow=stages.all.lr=1e-5"])``.

    An arm with changes is written ``name=key=value,key=value``.

    Raises:
        RecipeError: an unknown name, two arms of one name or of one recipe, or a change that does not fit; all in one report.
    """
    arms: dict[str, Recipe] = {}
    problems: list[Problem] = []
    for word in words:
        name, equals, changes = word.partition("=")
        if not re.fullmatch(NAME, name):
            problems.append(Problem(f"--over {name}", "cannot be a name: letters, digits, and _ . - after the first, 48 at most"))
            continue
        if name in arms:
            problems.append(Problem(f"--over {name}", "two arms have this name"))
            continue
        if not equals and name not in ARMS:
            help = f"arms by name: {', '.join(ARMS)}; an own one is written name=key=value,key=value"
            problems.append(Problem(f"--over {name}", f"no such arm.{did_you_mean(name, ARMS)}", (help,)))
            continue
        try:
            arms[name] = override(recipe, _assignments(changes), source=source) if equals else _named(recipe, name)
        except RecipeError as error:
            problems += [Problem(f"--over {name}: {each.where}", each.what, each.help) for each in error.problems]
    for name, arm in arms.items():
        twin = next((other for other in arms if arms[other] == arm), name)
        if twin != name:
            problems.append(Problem(f"--over {name}", f"it is the same recipe as {twin}: there is nothing to compare"))
    if len(words) < 2 and not problems:
        problems.append(Problem("--over", "an ablation compares two arms or more"))
    if problems:
        raise RecipeError(source, problems)
    return arms


def _assignments(changes: str) -> list[str]:
    """ "a=1,b=[x, y]" -> ["a=1", "b=[x, y]"]: a comma that no key follows is part of the value."""
    parts: list[str] = []
    for piece in changes.split(","):
        key = piece.partition("=")[0].strip()
        starts = "=" in piece and key.replace(".", "").replace("_", "").replace("-", "").isalnum()
        if starts or not parts:
            parts.append(piece.strip())
        else:
            parts[-1] += f",{piece}"
    return parts


def _named(recipe: Recipe, name: str) -> Recipe:
    """The recipe of an arm by its name.

    Raises:
        RecipeError: its model has no pretrained weights to leave out.
    """
    if name == "staged":
        return recipe
    if name == SCRATCH:
        return _named(_from_random_weights(recipe), "flat")
    stages = list(recipe.stages.values())
    first, last, epochs = stages[0], stages[-1], sum(stage.epochs for stage in stages)
    changes: Mapping[str, object] = {
        "flat": {"layer_decay": 1.0, "head_lr_multiplier": 1.0},
        "head-x10": {"layer_decay": 1.0, "head_lr_multiplier": 10.0},
        "decay": {"layer_decay": last.layer_decay if last.layer_decay < 1 else DECAY, "head_lr_multiplier": 1.0},
        "head": {"unfreeze": "head", "layer_decay": 1.0, "head_lr_multiplier": 1.0, "lora": None},
    }
    base = first if name == "head" else last
    stage = base.model_copy(update={"unfreeze": "all", "epochs": epochs, **changes[name]})  # type: ignore[dict-item]
    return with_stages(recipe, {"head" if name == "head" else "all": stage})


def _from_random_weights(recipe: Recipe) -> Recipe:
    if not isinstance(recipe.model, Pretrained):
        what = f'model.family "{recipe.model.family}" has no pretrained weights to leave out'
        vectors = "model.vectors are what it has of others: an arm without them is --arm scratch=model.vectors=random:100"
        raise RecipeError.single("model", what, *([vectors] if isinstance(recipe.model, WordVectors) else []))
    if not recipe.model.pretrained:
        what, help = "is false already: the recipe itself starts from random weights", "--arm pretrained=model.pretrained=true"
        raise RecipeError.single("model.pretrained", what, f"compare with an arm that does not: {help}")
    # Beside random weights there are no adapters.
    return override(recipe, ["model.pretrained=false", *(f"stages.{name}.lora=null" for name in recipe.stages)])


def head_alone(recipe: Recipe) -> Recipe:
    """The recipe with one stage that trains the head, for as many epochs as all stages together: the arm "head"."""
    return _named(recipe, "head")


def with_stages(recipe: Recipe, stages: Mapping[str, Stage]) -> Recipe:
    """The recipe with other stages; what it says of data and model stays."""
    return recipe.model_copy(update={"stages": dict(stages)})
