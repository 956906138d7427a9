"""The section `card`: what only a person knows, and which keys of the recipe each of these facts is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from hftl.recipe.section import Names, Section

SourceSplit = Literal["train", "validation", "test"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Card(Section):
    """Facts for the model card that only a person knows. What is left out is written "not recorded".

    They describe what this recipe names: its data, its model, and what training makes of both (`ABOUT` has the keys). Where an
    override names something else, the facts about it are left off the card, and a line says so; facts that are given in the same
    call are about the new thing. See docs/sharing.md.
    """

    title: str | None = None
    summary: str | None = None
    intended_use: str | None = None
    limitations: str | None = None
    """What was not measured, and for what the model should not be used. What hftl measures itself (texts that are cut, small
    classes) is on the card anyway."""
    training_data: str | None = None
    """The data set in words, as far as this recipe trains on it."""
    license: str | None = None
    """An identifier the Hub knows, such as "apache-2.0": the licence of the model that comes of exactly this recipe. It never
    passes on to a model of other data, of another checkpoint, or of another person."""
    language: str | tuple[str, ...] | None = None
    """An ISO 639 code such as "en", several of them (["en", "de"]), or "multilingual"; for texts."""
    tags: Names = ()
    base_model: str | None = None
    """Hub id of the base model where the checkpoint is a local folder. Nothing proves it: the card says whose word it is."""
    dataset: str | None = None
    """Hub id of the data set where the source is local: proven by `dataset_fingerprint`, otherwise a claim, and marked as one."""
    dataset_name: str | None = None
    """How people call the data set."""
    dataset_fingerprint: dict[SourceSplit, Digest] | None = None
    """What the data set holds, by split, as `fingerprint` of a run's data.json has it: SHA-256 of its texts or pictures and their
    classes, whatever their order, file format and place. A local copy is known by it."""
    authors: Names = ()
    citation: str | None = None


PROSE = frozenset(
    f"card.{fact}" for fact in ("title", "summary", "intended_use", "limitations", "training_data", "authors", "citation")
)
"""Keys whose values are sentences. Those of the others are names of things, and numbers."""

_SET = ("data.source", "data.config")
READ = (*_SET, "data.kind", "data.text_column", "data.image_column", "data.label_column", "data.target", "data.train_split")
_ROWS = ("data.revision", "data.extra", "data.max_train_samples", "data.stream_samples")
_MODEL = ("model.family", "model.checkpoint", "model.vectors", "model.pretrained")
AUTHOR = "author"
"""In place of a key: who has trained the model that a fact is about; None is whoever uses the recipe."""
_TRAINED = (*READ, *_MODEL, AUTHOR)
ABOUT: Mapping[str, tuple[str, ...]] = {
    "dataset": _SET,
    "dataset_name": _SET,
    "dataset_fingerprint": _SET,
    "language": READ,
    "training_data": (*READ, *_ROWS),
    "base_model": _MODEL,
    **dict.fromkeys(("title", "license", "tags", "authors", "citation"), _TRAINED),
    **dict.fromkeys(("summary", "intended_use"), (*_TRAINED, "stages")),
    "limitations": (*_TRAINED, "stages", "data.max_length", "data.image_size", "data.test_split", "data.test_fraction"),
    "name": (*_SET, *_MODEL),
}
"""Fact of the card, or the run's name -> the keys of what it is about: of the data set, of how it is read, of the model, of what
training makes of them. "stages" are their names and what each of them unfreezes."""
