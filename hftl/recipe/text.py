"""A recipe as YAML: written so that it reads back, read as data of a stranger."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

# Bounds that no recipe comes near; see `parse_recipe`.
MOST_BYTES = 1_000_000
DEEPEST = 50

_TAG = "tag:yaml.org,2002:"


class _Dumper(yaml.SafeDumper):
    """YAML that reads back: PyYAML writes U+0085, a line end of old, so that its own loader makes a plain line end of it."""


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(f"{_TAG}str", text, style='"' if "\x85" in text else None)
)


class _Loader(yaml.SafeLoader):
    """YAML without what a recipe never needs and a hostile one uses: anchors and aliases, tags, endless nesting.

    A value stays the text that was written, and its field says what it is. YAML would make 42798 of the revision 0123456, 1.1 of
    1.10, 750 of the title 12:30 and False of the language `no`. An Albumentations dict alone has no fields: its numbers are YAML's.
    """

    depth = 0
    numbers = False

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise ComposerError(None, None, "a recipe has no anchors and aliases (&name, *name)", event.start_mark)
        if event.tag is not None:
            raise ComposerError(None, None, f"a recipe has no tags, such as {event.tag}", event.start_mark)
        if self.depth == DEEPEST:
            raise ComposerError(None, None, f"nested deeper than {DEEPEST} levels", event.start_mark)
        outside = self.numbers
        self.numbers = outside or (isinstance(index, yaml.ScalarNode) and index.value == "augmentation")
        self.depth += 1
        try:
            node = super().compose_node(parent, index)
        finally:
            self.depth -= 1
            self.numbers = outside
        types = {f"{_TAG}null", *(f"{_TAG}{kind}" for kind in ("bool", "int", "float") if outside)}
        if isinstance(node, yaml.ScalarNode) and node.tag not in types:
            node.tag = f"{_TAG}str"
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        written: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key is a word, not a list or a mapping", key.start_mark)
            if key.value in written:
                raise ConstructorError(None, None, f'the key "{key.value}" is there twice', key.start_mark)
            written.add(key.value)
            key.tag = f"{_TAG}str"  # a key is what is written: `no: 2.0` is the class "no", not False
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode("utf-8")  # "\ud800" alone is no character, and no file can hold it
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError("a number of more than 64 bits")
        except (ValueError, OverflowError) as error:  # half a character, a number of 5,000 digits
            raise ConstructorError(None, None, str(error), node.start_mark) from None
        return value


def read_yaml(text: str, *, numbers: bool = False) -> Any:
    """The data in YAML text: texts alone, or with `numbers` also numbers and truth values.

    Raises:
        yaml.YAMLError: not YAML, or more than a recipe needs of it.
    """
    loader = _Loader(text)
    loader.numbers = numbers
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def write_yaml(values: dict[str, Any]) -> str:
    """Data as YAML, the keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
