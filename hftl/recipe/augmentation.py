"""Policies of augmentation that have a strength of their own, and how the field that takes them reads its value."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from hftl.recipe.problems import kind_words
from hftl.recipe.section import Choice


class _Policy(Choice):
    key = "augmentation"


class RandAugment(_Policy):
    """A crop and a flip, then `operations` of fourteen, drawn by lot and all of one strength (Cubuk et al. 2020,
    arXiv:1909.13719)."""

    kind: Literal["randaugment"] = "randaugment"
    operations: Annotated[int, Field(ge=1, le=14)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """0 changes nothing, 30 the most."""


class TrivialAugment(_Policy):
    """A crop and a flip, then one operation of fourteen, of any strength, drawn by lot (Müller & Hutter 2021, arXiv:2103.10158)."""

    kind: Literal["trivialaugment"] = "trivialaugment"


class AugMix(_Policy):
    """A crop and a flip, then the picture blended with three chains of one to three operations on it (Hendrycks et al. 2020,
    arXiv:1912.02781; without the paper's loss of consistency)."""

    kind: Literal["augmix"] = "augmix"
    severity: Annotated[int, Field(ge=1, le=10)] = 3


Policy = RandAugment | TrivialAugment | AugMix
_Policy.kinds = typing.get_args(Policy)

_WORDS = tuple(word for kind in typing.get_args(Policy) for word in kind_words(kind))
_POLICY: TypeAdapter[Any] = TypeAdapter(Annotated[Policy, Field(discriminator="kind")])


def _section_of(value: object) -> object:
    """A word of a policy with options, or a mapping with a kind, as its section; what else there is stays as it is."""
    if isinstance(value, str) and value in _WORDS:
        value = {"kind": value}
    if isinstance(value, Mapping) and "kind" in value:
        return _POLICY.validate_python(dict(value))
    return value


if TYPE_CHECKING:  # what it may be given; it keeps the section
    AnyAugmentation = str | Policy | dict[str, Any]
else:
    AnyAugmentation = Annotated[str | RandAugment | TrivialAugment | AugMix | dict[str, Any], BeforeValidator(_section_of)]
