"""What lets rare classes count for more in a stage, and the options of each kind."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from hftl.recipe.section import Choice, section_of_word


class _ClassWeights(Choice):
    key = "class_weights"


class BalancedWeights(_ClassWeights):
    """Every class weighs as much in all as every other: 1 over its number of training examples. Of several labels an example the
    presence of a label weighs as much in all as its absence."""

    kind: Literal["balanced"] = "balanced"


class EffectiveWeights(_ClassWeights):
    """1 over the effective number of a class's training examples, ``(1 - beta ** n) / (1 - beta)``, since a further example tells
    the less the more there are (Cui et al. 2019, arXiv:1901.05555). Of several labels an example the presence of a label weighs
    the effective number of its absences over that of its presences."""

    kind: Literal["effective"] = "effective"
    beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """0 weighs all classes alike; towards 1 it is "balanced". Beyond about 1 / (1 - beta) examples more of them change nothing."""


ClassWeights = BalancedWeights | EffectiveWeights
_ClassWeights.kinds = typing.get_args(ClassWeights)

_BY_CLASS = "dict[by class]"  # the way pydantic would call it, see `hftl.recipe.problems`


def _tag_of(value: object) -> str:
    """A mapping whose "kind" is a word is a section; one of numbers has a weight for each class name, also for a class "kind"."""
    if isinstance(value, Choice):
        return str(getattr(value, "kind"))  # noqa: B009  # each kind declares its own
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return kind if isinstance(kind, str) else _BY_CLASS


if TYPE_CHECKING:  # what a stage may be given; it keeps a section, or the mapping
    AnyClassWeights = str | ClassWeights | dict[str, float]
else:
    AnyClassWeights = Annotated[
        Annotated[BalancedWeights, Tag("balanced")]
        | Annotated[EffectiveWeights, Tag("effective")]
        | Annotated[dict[str, float], Tag(_BY_CLASS)],
        Discriminator(_tag_of),
        BeforeValidator(
            section_of_word,
            json_schema_input_type=Literal["balanced", "effective"] | BalancedWeights | EffectiveWeights | dict[str, float],
        ),
    ]
