"""Facts belong to what they describe: which of a recipe's hold for what was read, and which contradict it.

A recipe's `card` is about the data and the model that its author named. An override may name others; whether a local copy is the
named data set shows only when it has been read. Then `settle` leaves off what is about something else, and says so in one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hftl.errors import Problem, RecipeError, printable
from hftl.recipe import ABOUT, AUTHOR, Card, Pretrained, Recipe, WordVectors, local_name, same_content
from hftl.records.data import Provenance

HUB = "hub:"  # before word vectors that lie on the Hub
FINGERPRINT = "dataset_fingerprint"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def settle(recipe: Recipe, read: Provenance) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with the facts alone that hold for what was read, and what there is to say about the others: a line, or none.

    Args:
        read: as in data.json: `source`, `format`, `fingerprint`, and the `model`'s facts.

    Raises:
        RecipeError: a fact contradicts what was read.
    """
    fingerprint = read["fingerprint"]
    lapsed, unread = recipe.lapsed(fingerprint), recipe.lapsed()
    changes = {key: change for keys in lapsed.values() for key, change in keys.items()}
    known = recipe.card.dataset_fingerprint
    if known is not None and FINGERPRINT not in lapsed and not same_content(known, fingerprint):
        stays = read["format"] == "hub" and recipe.card.dataset in {None, read["source"]}
        if "dataset" in recipe.given and not stays:
            raise RecipeError(str(read["source"]), [_disproved(recipe.card)])
        # Under its name other rows than its author read: the Hub's has moved on, or a folder was changed.
        other = ["training_data", FINGERPRINT] if stays else [fact for fact, keys in ABOUT.items() if "data.source" in keys]
        for fact in set(other) & _facts_of(recipe.card) - set(lapsed):
            lapsed[fact] = {}
        changes[FINGERPRINT] = (known.get("train", "none")[:12], fingerprint["train"][:12])
    card = recipe.card.model_copy(update={fact: Card.model_fields[fact].default for fact in lapsed if fact != "name"})
    name = recipe.name
    if "name" in lapsed:
        name = _derived_name(recipe.model_copy(update={"card": card}), read)
    settled = with_facts(recipe, card=card, name=name)
    if problems := contradictions(settled, read):
        raise RecipeError(f'recipe "{recipe.name}"', problems)
    lines = []
    left_off = [fact for fact in Card.model_fields if fact in lapsed and fact != FINGERPRINT]
    if left_off or name != recipe.name:
        lines.append(_left_off(left_off, changes, None if name == recipe.name else name))
    source = recipe.data.source
    if set(unread) - set(lapsed) - {"name"}:
        known_as = card.dataset or unread[FINGERPRINT].get("data.source", (source,))[0]
        lines.append(f"{source} is {known_as} by its fingerprint: what the recipe says of these data stays on the card")
    if "dataset" in recipe.given and card.dataset and how_known(settled, read) == "claimed":
        lines.append(f"that {source} is {card.dataset} is your word, card.dataset: the card will say so")
    return settled, tuple(map(printable, lines))


def with_facts(recipe: Recipe, *, card: Card, name: str) -> Recipe:
    """A recipe with another card section and name, which are about what it names."""
    return Recipe(**{**recipe.model_dump(mode="json"), "card": card.model_dump(mode="json"), "name": name})


def continued(recipe: Recipe, started: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe of a run that goes on, with the facts that it was `started` with and those that are given now; what to say."""
    overrides = {fact: getattr(recipe.card, fact) for fact in Card.model_fields if fact in recipe.given}
    card = started.card.model_copy(update=overrides)
    name = recipe.name if "name" in recipe.given else started.name
    holds = _facts_of(recipe.card) - set(recipe.lapsed())
    other = [fact for fact in Card.model_fields if fact in holds and getattr(recipe.card, fact) != getattr(card, fact)]
    lines = [f"the card keeps the facts that the run was started with, not the recipe's other {_listed(other)}"] if other else []
    return with_facts(recipe, card=card, name=name), tuple(lines)


def how_known(recipe: Recipe, read: Provenance) -> str | None:
    """How the name of the data set is known: "hub": it was read from there; "fingerprint"; "claimed"; None: it has none."""
    card = recipe.card
    if read["format"] == "hub" and card.dataset in {None, recipe.data.source}:
        return "hub"
    if card.dataset is None and card.dataset_name is None:
        return None
    proven = card.dataset_fingerprint is not None and same_content(card.dataset_fingerprint, read["fingerprint"])
    return "fingerprint" if proven else "claimed"


def contradictions(recipe: Recipe, read: Provenance) -> list[Problem]:
    """Facts of a recipe's card that cannot be true of what was read, each with the way out."""
    card, problems = recipe.card, list[Problem]()
    known, fingerprint, source = card.dataset_fingerprint, read["fingerprint"], recipe.data.source
    proven = known is not None and same_content(known, fingerprint)
    if known is not None and fingerprint and not proven:
        problems.append(_disproved(card))
    if read["format"] == "hub" and not proven:
        for key, name in (("card.dataset", card.dataset), ("card.dataset_name", card.dataset_name)):
            if name and name != source and (key == "card.dataset" or _HUB_ID.fullmatch(name)):
                problems.append(Problem(key, f"{name} is not what was read, {source}", (f"leave it out: {key}=null",)))
    if card.base_model:
        help = ("leave it out: card.base_model=null",)
        if not isinstance(recipe.model, Pretrained):
            what = "a model on word vectors" if isinstance(recipe.model, WordVectors) else "a network from random weights"
            problems.append(Problem("card.base_model", f"{what} has no base model", help))
        elif not recipe.model.pretrained:
            problems.append(Problem("card.base_model", "the model starts from random weights and has no base model", help))
        elif read["model"]["revision"] and card.base_model != recipe.model.checkpoint:
            what = f"{card.base_model} is not what the model was made from, {recipe.model.checkpoint}"
            problems.append(Problem("card.base_model", what, help))
    return problems


def _disproved(card: Card) -> Problem:
    name = card.dataset or card.dataset_name or "the data set that the card describes"
    help = (
        "leave the name out: card.dataset=null card.dataset_fingerprint=null",
        f"or claim all the same that this is {name}, or a part of it: card.dataset_fingerprint=null",
    )
    return Problem("card.dataset_fingerprint", f"what was read is not {name}: its fingerprint is another", help)


def _facts_of(card: Card) -> set[str]:
    return {fact for fact, value in card if value not in (None, ())}


def _left_off(facts: Sequence[str], changes: Mapping[str, tuple[Any, Any]], name: str | None) -> str:
    """One line: what is left off the card, why, and how to give what is true."""
    parts = []
    if facts:
        then, now = (_listed(_thing(key, change[place]) for key, change in changes.items()) for place in (0, 1))
        parts.append(f"left off the card: {_listed(facts)}. The recipe says that of {then}; here it is {now}.")
    if name is not None:
        parts.append(f'The run is called "{name}" on its card and where it is pushed; name=... calls it otherwise.')
    if facts:
        example = " ".join(f"card.{fact}=..." for fact in facts if fact in {"title", "license"}) or f"card.{facts[0]}=..."
        parts.append(f"Give what is true of this run, in this command or later with `hftl card RUN`: {example}")
    return " ".join(parts)


def _thing(key: str, value: Any) -> str:
    """What a fact is about, in a sentence."""
    if key == AUTHOR:
        return "a model of your own" if value is None else f"the model of {value}"
    if key == FINGERPRINT:
        return f"data of the fingerprint {value}"
    if key == "stages":
        layers = {name: unfreeze if isinstance(unfreeze, str) else ", ".join(unfreeze) for name, unfreeze in value.items()}
        return "stages " + ", ".join(f"{name} ({groups})" for name, groups in layers.items())
    return f"{key}={'null' if value is None else value}"


def _listed(things: Iterable[str]) -> str:
    *most, last = things
    return f"{', '.join(most)} and {last}" if most else last


# --- names --------------------------------------------------------------------------------------------------------------------


def _derived_name(recipe: Recipe, read: Provenance) -> str:
    """A run's name from what it reads: "tickets-bert-nano"."""
    model = recipe.model
    data = (recipe.card.dataset if how_known(recipe, read) else None) or recipe.data.source
    if isinstance(model, Pretrained):
        start = recipe.card.base_model or model.checkpoint
    elif isinstance(model, WordVectors) and model.random_dim is None:
        start = model.vectors.removeprefix(HUB)
    else:
        start = model.family
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{local_name(data)}-{local_name(start.removeprefix(HUB))}")
    return name[:96].strip("-._") or "run"
