"""Overrides: a recipe changed by dotted keys, as the command line gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from hftl.errors import Problem, RecipeError, did_you_mean
from hftl.recipe.card import Card
from hftl.recipe.data import AnyData, ImageData
from hftl.recipe.extra import each_given
from hftl.recipe.model import AnyModel
from hftl.recipe.problems import kind_words, options_of
from hftl.recipe.reading import build_recipe
from hftl.recipe.recipe import Recipe, carry_facts
from hftl.recipe.section import Choice, leaves
from hftl.recipe.stage import Stage
from hftl.recipe.text import read_yaml


def override(recipe: Recipe, assignments: Sequence[str], *, source: str | None = None) -> Recipe:
    """A copy of `recipe` with `key=value` assignments applied: ``override(recipe, ["stages.all.lr=3e-5"])``.

    A value is what is written, and its field says whether that is a number or a text: ``data.revision=0123456`` keeps its zero.
    ``null`` and nothing mean None; what begins with a bracket or a quote is YAML, such as ``[layer4, head]``.
    ``stages.all.schedule=cosine`` takes the place of the whole schedule, ``stages.all.schedule.warmup=0.1`` of one option. Another
    ``model.family`` or ``data.kind`` takes the place of its section, but for options that the new one has too. Facts of
    the card that are given here are about what the changed recipe names; the others stay about what they were about
    (`Recipe.lapsed`).

    Raises:
        RecipeError: no "=", an unknown key, or a value that does not fit.
    """
    source = source or f'recipe "{recipe.name}"'
    values = recipe.model_dump(mode="json")
    for name, stage in recipe.stages.items():  # without defaults: those of one kind are no options of another
        chosen = {key: section for key in Stage.choices if isinstance(section := getattr(stage, key), Choice)}
        values["stages"][name] |= {key: section.model_dump(mode="json", exclude_defaults=True) for key, section in chosen.items()}
    problems: list[Problem] = []
    _change_kinds(recipe, values, assignments)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            problems.append(Problem(assignment, "an override is written key=value, for example data.max_length=128"))
            continue
        problems.extend(_assign(values, key, _value(key, text)))
    try:
        changed = build_recipe(values, source)
    except RecipeError as error:
        problems.extend(error.problems)
    if problems:
        raise RecipeError(source, problems)
    keys = [assignment.partition("=")[0] for assignment in assignments]
    facts = {key.removeprefix("card.").partition(".")[0] for key in keys if key == "name" or key.startswith("card.")}
    facts |= set(Card.model_fields) if "card" in keys else set()
    carry_facts(recipe, changed, given=facts)
    return changed


def _change_kinds(recipe: Recipe, values: dict[str, Any], assignments: Sequence[str]) -> None:
    """Where a section becomes one of another kind, leave of it what was written and the other has too."""
    kinds = {"model.family": (recipe.model, AnyModel), "data.kind": (recipe.data, AnyData)}
    for assignment in assignments:
        key, _, kind = assignment.partition("=")
        if key in kinds:
            section, union = kinds[key]
            fitting = [other for other in options_of(union) if kind in kind_words(other)]
            if fitting and not isinstance(section, fitting[0]):
                written = section.model_dump(mode="json", exclude_defaults=True)
                values[key.partition(".")[0]] = {name: value for name, value in written.items() if name in fitting[0].model_fields}


def _value(key: str, text: str) -> Any:
    """What the text of an override stands for, before its field has read it; a space at its end is a part of it."""
    numbers = "augmentation" in key.split(".")  # see `hftl.recipe.text`
    if not numbers and not text.lstrip().startswith(("{", "[", '"', "'")):
        return None if text.strip().lower() in {"", "~", "null"} else text
    try:
        value = read_yaml(text, numbers=numbers)
    except yaml.YAMLError:
        return text  # "[draft] Pets" is a title
    return text if isinstance(value, dict | list) and not text.lstrip().startswith(("{", "[")) else value


def _assign(values: dict[str, Any], key: str, value: Any) -> Iterator[Problem]:
    place, where, rest = values, "", key
    if "." not in key and key not in values and (homes := [known for known, _ in leaves(values) if known.endswith(f".{key}")]):
        yield Problem(key, f'unknown key "{key}".', (f"there is {', '.join(homes)}",))
        return
    while "." in rest and rest not in place:
        part = rest.partition(".")[0]
        if isinstance(place.get(part), str) and _is_choice(part, where):
            place[part] = {"kind": place[part]}
        elif (where, part) == ("data", "windows") and not isinstance(place.get(part), dict):
            place[part] = {} if place.get(part) is None else {"logits": place[part]}
        elif where.startswith("stages.") and part == "lora" and not isinstance(place.get(part), dict):
            place[part] = {} if place.get(part) is None else {"r": place[part]}
        elif (where, part) == ("data", "extra") and len(one := each_given(place.get(part))) == 1:
            place[part] = dict(one[0])
        elif (where, part) == ("", "teacher") and place.get(part) is None:
            place[part] = {}
        # Names may have dots in them, such as a stage "v1.5": the longest one that is there.
        names = [name for name in place if isinstance(place[name], dict) and rest.startswith(f"{name}.")]
        if not names:
            allowed = list(place)
            if part in Stage.choices and where.startswith("stages.") and place.get(part) is None:
                yield Problem(key, f"the stage has no {part} of which this could be an option", (f"first: {where}.{part}=...",))
                return
            if part in place:
                yield Problem(key, f"{part} is a value, and has no keys of its own")
                return
            what = f'no stage "{part}".' if where == "stages" else f'no section "{part}"{f" in {where}" if where else ""}.'
            yield Problem(key, what + did_you_mean(part, allowed), (f"allowed: {', '.join(allowed)}",) if allowed else ())
            return
        name = max(names, key=len)
        place, where, rest = place[name], f"{where}.{name}" if where else name, rest.removeprefix(f"{name}.")
    # An unknown last part is found by validation, with all other problems; a new stage or class name is legal there.
    is_word = isinstance(value, str) and _is_choice(rest, where) and where != "data"  # an augmentation is a word for itself too
    place[rest] = {"kind": value} if is_word else value


def _is_choice(key: str, where: str) -> bool:
    """Whether a key of a section holds a word or a section, see `Choice`."""
    return key in Stage.choices if where.startswith("stages.") else where == "data" and key in ImageData.choices
