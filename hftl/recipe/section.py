"""What every section of a recipe is: frozen, typed, refused with all of its problems at once; and the types that fields share."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from hftl.errors import RecipeError
from hftl.recipe.problems import kind_words, problems_of


def _not_zero(rate: float) -> float:
    if rate == 0.0:
        raise ValueError("0.0 does not freeze a group; leave the group out of `unfreeze` instead.")
    if rate < 0.0:
        raise ValueError("a learning rate is greater than 0.")
    return rate


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
LearningRate = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_not_zero)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | tuple[str, ...]),
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=96)]


_within: ContextVar[bool] = ContextVar("_within", default=False)


class Section(BaseModel):
    """A part of a recipe."""

    choices: ClassVar[tuple[str, ...]] = ()
    """The keys of the section that hold a word or a section: a `Choice`."""

    # Numbers become strings where a string is asked for: `Card(language=...)` in Python may be given what a table holds. No field
    # has a use for an infinite number.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # the strings below the fields
        json_schema_extra=lambda schema, section: schema.update(description=section.__doc__.partition("\n\nArgs:")[0]),
    )

    if not TYPE_CHECKING:  # type checkers and editors keep the fields as the arguments

        def __init__(self, **values: Any) -> None:
            if _within.get():  # part of a larger section, which reports all problems at once
                super().__init__(**values)
                return
            values = self._store_rows(values)
            token = _within.set(True)
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise RecipeError(self._title(values), list(problems_of(error, type(self)))) from None
            finally:
                _within.reset(token)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Have `help(hftl.Stage)` say what each field is, in place of how pydantic checks it."""
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(name, keyword, default=inspect.Parameter.empty if field.is_required() else field.default)
            for name, field in cls.model_fields.items()
        ]
        cls.__signature__ = inspect.Signature(parameters)
        docs = {name: " ".join((field.description or "").split()) for name, field in cls.model_fields.items()}
        lines = [f"    {name}: {doc}" if doc else f"    {name}" for name, doc in docs.items()]
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Args:", *lines])

    @classmethod
    def _store_rows(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Store rows that were handed over in memory as files: the values, with the name of the files instead of the rows."""
        return values

    @classmethod
    def _title(cls, values: Mapping[str, Any]) -> str:
        """What messages call a section that has these values."""
        return f"hftl.{cls.__name__}(...)"

    @classmethod
    def homes_of(cls, key: str) -> Iterator[str]:
        """Lines that say where a key belongs that this section does not have; none where that is not known."""
        yield from ()


class Choice(Section):
    """One of several kinds of a thing, each with the options that apply to it; its word alone stands for it with its defaults."""

    key: ClassVar[str]
    """The key that holds it."""
    kinds: ClassVar[tuple[type[Choice], ...]]
    """All kinds of this thing, in the order in which messages list them: the members of the union, which comes after them."""

    @classmethod
    def homes_of(cls, key: str) -> Iterator[str]:
        having = [kind for kind in cls.kinds if key in kind.model_fields and key != "kind"]
        if having:
            words = ", ".join(kind_words(kind)[0] for kind in having)
            example = f"{{kind: {kind_words(having[0])[0]}, {key}: ...}}"
            yield f"{key} is an option of {cls.key} {words}: hftl.{having[0].__name__}({key}=...), in YAML {example}"

    @property
    def words(self) -> str:
        """As the recipe has it: its kind, and the options that were changed, "focal (gamma 3)"."""
        changed = self.model_dump(exclude_defaults=True)
        options = ", ".join(f"{name} {value}" for name, value in changed.items() if name != "kind")
        kind = str(getattr(self, "kind"))  # noqa: B009  # each kind declares its own
        return f"{kind} ({options})" if options else kind

    @model_serializer(mode="wrap")
    def _with_its_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": getattr(self, "kind"), **handler(self)}  # noqa: B009  # each kind declares its own


def section_of_word(value: object) -> object:
    """What stands for a section as a mapping: a word as its kind; a kind of None is none."""
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, Mapping):
        return {str(key): option for key, option in value.items() if (key, option) != ("kind", None)}
    return value


def word_or_section(union: Any) -> Any:
    """The type of a field that takes one of several kinds, as a word or as a section, and keeps the section."""
    words = tuple(word for kind in typing.get_args(union) for word in kind_words(kind))
    accepted = Literal[words] | Annotated[union, Field(discriminator="kind")]  # type: ignore[valid-type]
    word = BeforeValidator(section_of_word, json_schema_input_type=accepted)
    return Annotated[union, Field(discriminator="kind"), word]


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key of nested values, with its value."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
