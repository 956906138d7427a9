"""Whether a value that was read from JSON has the shape of a record.

A record is a `TypedDict`: its keys, and the kind of each value. The value stays the dictionary that was read, so that a file keeps
its order and every key; keys that the record does not name are left alone. What reads a record afterwards may take its keys without
a second look, whoever wrote the file.
"""

from __future__ import annotations

import functools
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar, Union, cast, get_args, get_origin

from hftl.errors import RunError
from hftl.files import read_json

Record = TypeVar("Record", bound=Mapping[str, Any])

Interval = Annotated[list[float], 2]
"""Both ends; the number in `Annotated` is how many values a list has."""

Pair = Annotated[list[str], 2]
"""Two names."""

_WORDS: Mapping[Any, str] = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    None: "null",
    type(None): "null",
}


def read_record(path: Path, record: type[Record]) -> Record:
    """The record in a JSON file.

    Raises:
        RunError: the file cannot be read, or a key is missing or holds something else; the message names the first one.
    """
    return as_record(read_json(path), record, source=str(path))


def as_record(value: Any, record: type[Record], *, source: str, key: str = "") -> Record:
    """A value of JSON as a record; `source` names its file in the message, `key` where it stands in that.

    Raises:
        RunError: a key is missing or holds something else.
    """
    check(value, record, source=source, key=key)
    return cast("Record", value)


def check(value: Any, kind: Any, *, source: str, key: str) -> None:
    """Refuse a value that is not of a kind: a record, or a type such as ``float | None``.

    Raises:
        RunError: it is not; the message names the first key that is missing or holds something else.
    """
    problem = next(_problems(value, kind, key), None)
    if problem is not None:
        raise RunError(f"{source}: {problem}. It is not a file of a run as hftl writes it, or it was changed")


@functools.cache
def _keys(record: Any) -> dict[str, tuple[Any, bool]]:
    """The keys of a record: the kind of each, and whether it must be there."""
    hints = typing.get_type_hints(record, include_extras=True)
    return {key: (get_args(hint)[0], False) if get_origin(hint) is NotRequired else (hint, True) for key, hint in hints.items()}


def _problems(value: Any, kind: Any, key: str) -> Iterator[str]:
    """What keeps a value from being of a kind; `key` is its place, such as "test.per_class[0].f1"."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if origin is Annotated:
        length = arguments[1]
        if isinstance(value, list) and len(value) != length:
            yield f'"{key}" has {len(value)} entries, and should have {length}'
        else:
            yield from _problems(value, arguments[0], key)
    elif typing.is_typeddict(kind):
        if not isinstance(value, dict):
            yield _wrong(value, "an object", key)
            return
        for name, (inner, required) in _keys(kind).items():
            below = f"{key}.{name}" if key else name
            if name in value:
                yield from _problems(value[name], inner, below)
            elif required:
                yield f'there is no "{below}"'
    elif origin is dict:
        if not isinstance(value, dict):
            yield _wrong(value, "an object", key)
            return
        for name, inside in value.items():
            yield from _problems(inside, arguments[1], f"{key}.{name}" if key else name)
    elif origin is list:
        if not isinstance(value, list):
            yield _wrong(value, "a list", key)
            return
        for place, inside in enumerate(value):
            yield from _problems(inside, arguments[0], f"{key}[{place}]")
    elif origin in (Union, types.UnionType):
        attempts = [list(_problems(value, one, key)) for one in arguments]
        if all(attempts):
            # Of a record or null the record's own problem says more.
            yield attempts[0][0] if isinstance(value, dict | list) else _wrong(value, " or ".join(map(_in_words, arguments)), key)
    elif not _is_plain(value, kind):
        yield _wrong(value, _in_words(kind), key)


def _is_plain(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, type(None) if kind is None else kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f'"{word}"' for word in get_args(kind))
    if typing.is_typeddict(kind) or get_origin(kind) is dict:
        return "an object"
    return _WORDS.get(kind, "a list")


def _wrong(value: Any, expected: str, key: str) -> str:
    actual = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else json.dumps(value)[:60]
    return f'"{key}" is {actual}, and should be {expected}' if key else f"it holds {actual}, and should hold {expected}"
