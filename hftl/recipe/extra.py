"""Further rows for training alone, `data.extra`: generated, pseudo-labelled or borrowed, each with its weight."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from hftl.errors import RecipeError
from hftl.memory import keep
from hftl.recipe.section import Section

if TYPE_CHECKING:
    Rows: TypeAlias = Any
else:
    Rows = Annotated[str, Field(min_length=1)]


class Extra(Section):
    """Rows that are trained on beside those of `data.source`, and are in no other split."""

    source: Rows
    """What `data.source` can be: a table, a folder, an archive, a Hub id, or in Python rows in memory that have names for their
    columns. It is read as the source is: the same columns, and classes that the source has too."""
    name: Annotated[str, Field(pattern=r"^\w[\w -]*$", max_length=40)] = "further"
    """What the rows are, in a word before "texts" or "pictures": "generated", "pseudo-labelled", "borrowed". Their ids begin so."""
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """What each of them counts for in the loss of a step, where a row of the source counts for 1."""
    weight_column: Annotated[str, Field(min_length=1)] | None = None
    """A column of numbers greater than 0, by which each row's weight is multiplied."""
    split: Annotated[str, Field(min_length=1)] | None = None
    """Which split of it is read; None: the train split, or its only one."""
    revision: str | None = None
    """Commit, tag or branch of a Hub data set."""
    config: str | None = None
    """Name of a Hub data set's configuration."""

    @classmethod
    def _store_rows(cls, values: dict[str, Any]) -> dict[str, Any]:
        if isinstance(values.get("source"), list | tuple):
            what = "a pair of lists does not say what its columns are called"
            raise RecipeError.single("source", what, "hand it to data.extra itself, or give a DataFrame", source="hftl.Extra(...)")
        return stored(values, source="hftl.Extra(...)", contents=("image",), label="label", pictures=True)


def stored(values: Mapping[str, Any], *, source: str, contents: tuple[str, ...], label: str, pictures: bool) -> dict[str, Any]:
    """The values of a section of rows, with the name of a folder in place of rows in memory; see `hftl.memory.keep`.

    Raises:
        RecipeError: they are no rows; `source` is what the message calls the section.
    """
    given = values.get("source")
    if given is None or isinstance(given, str | int | float):
        return dict(values)
    if isinstance(given, os.PathLike):
        return {**values, "source": os.fspath(given)}
    try:
        place = keep(given, contents=contents, label=label, pictures=pictures)
    except ValueError as error:
        raise RecipeError.single("source", str(error), source=source) from None
    return {**values, "source": place}


def each_given(extra: object) -> list[Any]:
    """One, or several of them, as a list; rows in memory, or a place, as the values of a section with that source.

    A list of places, sections and mappings is several; any other list is a pair of contents and labels in memory.
    """
    if extra is None:
        return []
    several = isinstance(extra, list | tuple) and all(isinstance(each, str | os.PathLike | Mapping | Extra) for each in extra)
    given = list(extra) if several and isinstance(extra, list | tuple) else [extra]

    def section(each: Any) -> Any:
        return each if isinstance(each, Extra) or (isinstance(each, Mapping) and "source" in each) else {"source": each}

    return [section(each) for each in given]


if TYPE_CHECKING:  # what a section of data may be given; it keeps sections
    AnyExtra: TypeAlias = Any
else:
    AnyExtra = Annotated[
        tuple[Extra, ...], BeforeValidator(each_given, json_schema_input_type=str | Extra | tuple[str | Extra, ...] | None)
    ]
