"""Names of places on a machine: what a local file is called where it is published, and whose place a stranger's recipe names."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from hftl.errors import Problem, RecipeError
from hftl.memory import ROWS
from hftl.names import RANDOM_VECTORS
from hftl.recipe.section import leaves

if TYPE_CHECKING:
    from hftl.recipe.recipe import Recipe

READ_IN_TRAINING = frozenset({"data.source", "model.checkpoint", "model.vectors", "teacher.run"})
EXTRA = "data.extra"
"""The key of several places that are read in training, each in a section of its own."""
PLACES = READ_IN_TRAINING | {"data.unlabelled"}
"""The keys of a recipe whose values may be places on a machine; what is read of the last is asked for where it is read."""

LOCAL = "local:"
"""How a published recipe names what lay on its author's machine: "local:photos"."""

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HUB_FILE = re.compile(r"hub:\w[\w.-]*(/\w[\w.-]*){2,}(:[^/\\]+)?")


def local_name(path: str) -> str:
    """What a local file, folder or checkpoint is called when its place is not told: "data/photos/" and "local:photos" are "photos".

    A run's model is always in a folder called "model", and rows that were in memory in one called "rows", so the name of the run
    goes with it: "runs/digits/model" is "digits/model".
    """
    *_, parent, name = ["", *re.split(r"[\\/]", path.removeprefix(LOCAL).rstrip("\\/"))]
    return f"{parent}/{name}" if name in ("model", ROWS) and parent else name or path


def is_same(key: str, one: Any, other: Any) -> bool:
    """Whether two values of a key mean the same: "photos", "photos/" and "./photos" are one folder."""
    if key == EXTRA:
        one, other = ([{**each, "source": os.path.normpath(each["source"])} for each in extra or ()] for extra in (one, other))
    if key in PLACES and isinstance(one, str) and isinstance(other, str):
        return os.path.normpath(one) == os.path.normpath(other)
    return bool(one == other)


def without_places(recipe: Recipe) -> Recipe:
    """A stranger's recipe in which each place on a machine is written "local:NAME", so that `check_places` asks for one's own.

    What stays is what can only be meant on the Hub: an id by its form, where nothing of that name lies here. No teacher is.
    """
    values = recipe.model_dump(mode="json")
    for key in PLACES:
        section, field = key.split(".")
        place = (values[section] or {}).get(field)
        if place is None or place.startswith(LOCAL) or (field == "vectors" and place.startswith(RANDOM_VECTORS)):
            continue
        form = _HUB_FILE if field == "vectors" else _HUB_NAME
        if section == "teacher" or not form.fullmatch(place) or os.path.lexists(place):
            values[section][field] = LOCAL + local_name(place)
    for extra in values["data"]["extra"]:
        place = extra["source"]
        if not place.startswith(LOCAL) and (not _HUB_NAME.fullmatch(place) or os.path.lexists(place)):
            extra["source"] = LOCAL + local_name(place)
    return type(recipe)(**values)


def check_places(recipe: Recipe) -> None:
    """Refuse a published recipe in which somebody else's local files have not been replaced by one's own.

    Raises:
        RecipeError: keys that still say "local:NAME", all of them.
    """
    places = [(key, value) for key, value in leaves(recipe.model_dump(mode="json")) if key in READ_IN_TRAINING]
    problems = [
        Problem(
            key,
            f"{value.removeprefix(LOCAL)} lay on the author's machine; name yours",
            (f"write {key}=PATH; a stranger's recipe opens no file here that you have not named",),
        )
        for key, value in places
        if value.startswith(LOCAL)
    ]
    if lost := [each for each in recipe.data.extra if each.source.startswith(LOCAL)]:
        names = ", ".join(each.source.removeprefix(LOCAL) for each in lost)
        way = "[" + ", ".join("{" + f"source: PATH, name: {each.name}, weight: {each.weight:g}" + "}" for each in lost) + "]"
        help = (f"write data.extra='{way}'", "or data.extra=null, to train without these rows")
        problems.append(Problem(EXTRA, f"{names} lay on the author's machine; name yours", help))
    if problems:
        raise RecipeError("recipe", problems)
