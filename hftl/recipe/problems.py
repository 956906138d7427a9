"""What pydantic finds wrong with a recipe, in our words: one line for each place, by its dotted key."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ValidationError

from hftl.errors import Problem, did_you_mean

if TYPE_CHECKING:
    from hftl.recipe.section import Section

_TAGS = ("kind", "family")  # the keys by which a section says which one of several it is
_OF_MANY = ("none", "auto")  # words that tell nothing of the key they were meant for


def problems_of(error: ValidationError, root: type[Section]) -> Iterator[Problem]:
    """A problem for each place that pydantic found something wrong with; `root` is the section that was being built."""
    seen: set[str] = set()
    for item in error.errors(include_url=False):
        keys, section, others = _walk(item["loc"], root)
        where = ".".join(keys) or root.__name__.lower()
        # A field that may be one of several types reports each failed attempt: one line a place is enough.
        if where in seen and item["type"] != "extra_forbidden":
            continue
        seen.add(where)
        if item["type"] == "extra_forbidden":
            allowed = list(section.model_fields) if section else []
            homes = tuple(section.homes_of(keys[-1]) if section else ()) or tuple(_options_of_others(keys, others))
            guess = "" if homes else did_you_mean(keys[-1], allowed)
            yield Problem(where, f'unknown key "{keys[-1]}".{guess}', (*homes, f"allowed: {', '.join(allowed)}"))
        elif item["type"] == "missing":
            yield Problem(where, "missing, and it has no default")
        elif item["type"] in {"union_tag_invalid", "union_tag_not_found"}:
            tag = str(item["ctx"].get("discriminator", "kind")).strip("'")
            union = section.model_fields[keys[-1]].annotation if section else None
            allowed = [str(word) for member in options_of(union) if member is not type(None) for word in kind_words(member)]
            tag_value = item["ctx"].get("tag")
            guess = did_you_mean(str(tag_value).lower(), allowed)
            help = (*_homes_of_word(tag_value, keys, root), f"allowed: {', '.join(allowed)}")
            if not tag_value:
                yield Problem(f"{where}.{tag}", "missing", help)
            elif section and keys[-1] in section.choices:  # given as a word more often than by its key
                yield Problem(where, f'no {keys[-1]} "{tag_value}".{guess}', help)
            else:
                yield Problem(f"{where}.{tag}", f'"{tag_value}" is not one of them.{guess}', help)
        elif item["type"] == "model_attributes_type" and section and keys[-1] in section.choices:
            members = options_of(section.model_fields[keys[-1]].annotation)
            words = ", ".join(kind_words(member)[0] for member in members if member is not type(None))
            yield Problem(where, f"a word, or a section with a kind; found {item['input']!r}", (f"allowed: {words}",))
        elif item["type"] == "dict_type" and section and keys[-1] in section.choices:
            yield Problem(where, f"a word, a section with a kind, or a number for each class name; found {item['input']!r}")
        elif item["type"] == "literal_error" and section and keys[-1] in section.model_fields:
            members = options_of(section.model_fields[keys[-1]].annotation)
            *most, last = dict.fromkeys(word for member in members for word in _words(member))
            guess = did_you_mean(str(item["input"]).lower(), [*most, last])
            expected = " or ".join([*([", ".join(map(repr, most))] if most else []), repr(last)])
            homes = tuple(_homes_of_word(item["input"], keys, root))
            yield Problem(where, f"input should be {expected}; found {item['input']!r}{guess and '.'}{guess}", homes)
        elif item["type"] == "value_error":
            yield Problem(where, str(item["ctx"]["error"]))
        else:
            yield Problem(where, f"{item['msg'][0].lower()}{item['msg'][1:]}; found {item['input']!r}")


def _options_of_others(keys: Sequence[str], others: Sequence[Any]) -> Iterator[str]:
    """A line that says which other kinds or families of a section have the key that this one lacks; none where no other has it."""
    having = [other for other in others if keys[-1] in other.model_fields]
    if having:
        tag = next(field for field in _TAGS if field in having[0].model_fields)
        words = " or ".join(str(kind_words(other)[0]) for other in having)
        yield f"{keys[-1]} is an option where {'.'.join([*keys[:-1], tag])} is {words}"


def _homes_of_word(word: object, keys: Sequence[str], root: type[Section]) -> list[str]:
    """Lines that say which other keys take the word that was refused at `keys`."""
    places = dict.fromkeys(_places_of(word, root, "", keys))
    return [f'"{word}" is a word of {place}' for place in places if word not in _OF_MANY]


def _places_of(word: object, section: Any, within: str, near: Sequence[str]) -> Iterator[str]:
    """The keys below a section that take a word, and of which family; a stage is called as the one in the keys `near`."""
    of_family = f", where {within}family is {kind_words(section)[0]}" if "family" in getattr(section, "model_fields", ()) else ""
    for name, field in getattr(section, "model_fields", {}).items():
        for member in options_of(field.annotation) if name not in _TAGS else ():
            if typing.get_origin(member) is dict:
                called = near[1] if len(near) > 1 and near[0] == name else "NAME"
                yield from _places_of(word, typing.get_args(member)[1], f"{within}{name}.{called}.", near)
            elif word in _words(member):
                yield f"{within}{name}{of_family}"
            else:
                yield from _places_of(word, member, f"{within}{name}.", near)


def _words(member: Any) -> tuple[Any, ...]:
    """The words that stand for a member of a field's union: those of a Literal, the kind of a `Choice`."""
    if typing.get_origin(member) is typing.Literal:
        return typing.get_args(member)
    return kind_words(member) if hasattr(member, "kinds") else ()


def _walk(loc: Sequence[str | int], root: type[Section]) -> tuple[list[str], type[Section] | None, tuple[Any, ...]]:
    """Dotted keys of a pydantic location without the union tags in it, the section that holds its last key, and the sections of
    other kinds or families that might stand in its place."""
    keys: list[str] = []
    annotation: Any = root
    section: type[Section] | None = None
    others: tuple[Any, ...] = ()
    untaken: tuple[Any, ...] = ()
    for part in loc:
        options = options_of(annotation)
        tagged = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel) and part in kind_words(o)), None)
        if len(options) > 1 and tagged is not None:
            annotation, untaken = tagged, tuple(o for o in options if o is not tagged and kind_words(o))
            continue
        if str(part).startswith(("literal[", "dict[", "[key]")):
            continue  # the name for the member of a union that was tried
        model: Any = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        mapping = next((o for o in options if typing.get_origin(o) is dict), None)
        if model is not None:
            keys.append(str(part))
            section, others, untaken = model, untaken, ()
            annotation = model.model_fields[str(part)].annotation if part in model.model_fields else None
        elif mapping is not None:
            keys.append(str(part))
            section, others, annotation = None, (), typing.get_args(mapping)[1]
        elif isinstance(part, int):
            keys.append(str(part))
            sections = next((typing.get_args(option) for option in options if typing.get_origin(option) is tuple), (None,))
            annotation = sections[0]  # of several sections each
    return keys, section, others


def options_of(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, and of the unions in it; a type by itself is the only one."""
    if typing.get_origin(annotation) is Annotated:
        return options_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return tuple(option for member in typing.get_args(annotation) for option in options_of(member))
    return (annotation,)


def kind_words(model: Any) -> tuple[Any, ...]:
    """The words that a section has for its `kind` or `family`; empty: it has neither, or is no section."""
    for field in _TAGS:
        if field in getattr(model, "model_fields", ()):
            return typing.get_args(model.model_fields[field].annotation)
    return ()
