"""How much a stranger's tokenizer can make of one letter, told from its description before a text is given to it.

A tokenizer.json is a program: a chain of components that replace, prepend and split. Four replacements of a letter by a thousand
make 10^12 letters of one. So the components are read, the growth of each is multiplied, and what multiplies a text a hundredfold is
refused; the tokenizers people train stay below 40. Regular expressions that take for ever need no look: the library's engine gives
up on a match after 10 million steps, which is seconds and an error.

The same description is read twice: from the file, before a library opens it (added tokens are normalised while it is opened), and
from the loaded tokenizer, before its first text (other files, such as SentencePiece's, become components while it is loaded).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from re import _parser  # type: ignore[attr-defined]  # tells how long a match is at least
from typing import Any

from tokenizers import Tokenizer

MOST_BYTES = 200_000_000
"""Bytes of a tokenizer.json: Gemma's, of 262,144 words, has 33 MB."""
MOST_GROWTH = 100
"""Letters that the components of a tokenizer may make of one."""
MOST_ADDED = 1_000_000
"""Letters in all added tokens together: each is looked for in every text."""
MOST_SPECIAL = 100
"""Special tokens that may be put around a text; BERT puts two."""
MOST_TOKENS = 1_000_000
"""Longest text, in tokens, that a tokenizer may say it pads to or cuts at."""
LONGEST_WORD = 1_000
"""Letters of the longest word that WordPiece takes apart, in a time that grows with their square; 100 is usual."""
LONGEST_EXPRESSION = 10_000
"""Letters of a regular expression; the longest in use have some 400."""

# Components that add no letter but what Unicode has them add: at most 18 for one, once, of what the user's own text holds.
_PLAIN = {
    *("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "BertNormalizer"),
    *("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Punctuation", "Digits", "CharDelimiterSplit", "UnicodeScripts"),
    *("Split", "FixedLength", "RobertaProcessing", "BertProcessing", "TemplateProcessing", "Fuse", "ByteFallback", "CTC"),
    *("WordPiece", "BPEDecoder"),
}
# Where the members of a sequence stand, by the part of the tokenizer.
_MEMBERS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}


class Unbounded(ValueError):
    """What a tokenizer does that none has to."""


def read_tokenizer(content: bytes) -> None:
    """Check a tokenizer.json.

    Raises:
        Unbounded: it is no JSON object, says something twice, or see `check_tokenizer`.
    """
    try:
        values = json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Unbounded(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise Unbounded("no JSON object")
    check_tokenizer(values)


def check_loaded(backend: Tokenizer) -> None:
    """Check a tokenizer of the library before it is given a text; without its vocabulary, which does not grow a text.

    Raises:
        Unbounded: see `check_tokenizer`.
    """
    parts: dict[str, Any] = {name: getattr(backend, name) for name in _MEMBERS}
    described: dict[str, Any] = {name: json.loads(part.__getstate__()) for name, part in parts.items() if part is not None}
    described["added_tokens"] = [{"content": token.content} for token in backend.get_added_tokens_decoder().values()]
    check_tokenizer(described)


def check_tokenizer(description: Mapping[str, Any]) -> None:
    """Refuse a tokenizer, described as tokenizer.json does, that makes more of a text than any has to.

    What makes no sense is left to the library, which says so, unless its effect could not be told.

    Raises:
        Unbounded: components that multiply a text a hundredfold, or are not known; a text that is repeated; too many special or
            added tokens; padding or words without a bound; a regular expression without a bound of its time.
    """
    for part in _MEMBERS:
        growth, written = 1.0, set[str]()
        for component in _components(description.get(part), part):
            own, replaced = _growth(component), _replaced(component)
            # What replaces letters that no component before it has written replaces some of the text itself, and they others.
            growth = max(growth, own) if replaced and not replaced & written else growth * own
            written |= _written(component)
            if growth > MOST_GROWTH:
                raise Unbounded(f"its {part} makes more than {MOST_GROWTH} letters of one ({component['type']})")
    for component in _components(description.get("post_processor"), "post_processor"):
        _check_template(component)
    _check_model(description.get("model"))
    added = description.get("added_tokens")
    if isinstance(added, list):
        letters = sum(len(str(token.get("content", ""))) for token in added if isinstance(token, dict))
        if letters > MOST_ADDED:
            raise Unbounded(f"its {len(added):,} added tokens have {letters:,} letters; at most {MOST_ADDED:,} are read")
    for part in ("padding", "truncation"):
        for value in _numbers(description.get(part)):
            if value > MOST_TOKENS:
                raise Unbounded(f"its {part} asks for {value:,} tokens; at most {MOST_TOKENS:,} are read")


def _components(value: Any, part: str) -> Iterator[Mapping[str, Any]]:
    """The components of one part in the order in which they run, sequences in sequences laid out."""
    if value is None:
        return
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise Unbounded(f"its {part} has a component without a type")
    if kind != "Sequence":
        yield value
        return
    members = value.get(_MEMBERS[part])
    if not isinstance(members, list):
        raise Unbounded(f"its {part} has a sequence without {_MEMBERS[part]}")
    for member in members:
        yield from _components(member, part)


def _growth(component: Mapping[str, Any]) -> float:
    """How many letters a component makes of one, at the most; of a component of the user's text alone see `_PLAIN`."""
    kind = component["type"]
    if isinstance(component.get("pattern"), dict) and "Regex" in component["pattern"]:
        letters = len(str(component["pattern"]["Regex"]))
        if letters > LONGEST_EXPRESSION:
            raise Unbounded(f"it has a regular expression of {letters:,} letters; at most {LONGEST_EXPRESSION:,} are read")
    if kind in _PLAIN:
        return 3.0 if kind == "BertNormalizer" else 1.0  # which puts spaces around each Chinese character
    if kind == "Precompiled":
        return _longest_replacement(component.get("precompiled_charsmap"))
    if kind == "Replace":
        content, pattern = _letters(component.get("content")), component.get("pattern")
        whole = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(whole, str) and whole:
            return max(1.0, content / len(whole))
        # A regular expression may match one letter, or the nothing between two.
        shortest = _shortest(str(pattern["Regex"])) if isinstance(pattern, dict) and "Regex" in pattern else 0
        return max(1.0, content / shortest) if shortest else content + 1.0
    if kind == "Prepend":
        return 1.0 + _letters(component.get("prepend"))
    if kind == "Metaspace":
        return 1.0 if component.get("prepend_scheme") == "never" else 2.0
    if kind == "ByteLevel":  # a letter for each byte, and those letters have two
        return 2.0 * (2.0 if component.get("add_prefix_space") else 1.0)
    raise Unbounded(f'it has a component "{kind}", of which hftl cannot tell what it makes of a text')


def _letters(text: Any) -> int:
    """Letters of a replacement, once a later component has taken its ligatures apart."""
    return len(unicodedata.normalize("NFKD", str(text)).lower())


def _replaced(component: Mapping[str, Any]) -> set[str]:
    """The letters that a component replaces, where it names them; empty: any."""
    pattern = component.get("pattern") if component["type"] == "Replace" else None
    return _forms(pattern.get("String", "")) if isinstance(pattern, dict) else set()


def _written(component: Mapping[str, Any]) -> set[str]:
    """The letters that a component puts into a text, in any case and form that a later one may make of them."""
    return _forms(component.get("content", "")) | _forms(component.get("prepend", ""))


def _forms(text: Any) -> set[str]:
    plain = str(text)
    forms = {form for one in (plain, unicodedata.normalize("NFKD", plain), unicodedata.normalize("NFKC", plain)) for form in one}
    return {form for letter in forms for form in letter + letter.lower() + letter.upper()}


def _longest_replacement(charsmap: Any) -> float:
    """Letters of the longest replacement in SentencePiece's map: a length, a tree of so many bytes, texts that end in 0."""
    try:
        content = base64.b64decode(str(charsmap), validate=True)
        texts = content[4 + struct.unpack_from("<I", content)[0] :]
    except (binascii.Error, struct.error) as error:
        raise Unbounded(f"its precompiled map cannot be read: {error}") from None
    return max(1.0, *(float(_letters(text.decode(errors="replace"))) for text in texts.split(b"\0")))


def _check_template(component: Mapping[str, Any]) -> None:
    """Refuse a template that puts a text twice, or a hundred tokens around it."""
    if component["type"] != "TemplateProcessing":
        return
    known = component.get("special_tokens")
    sizes = {
        name: len(token["ids"])
        for name, token in (known.items() if isinstance(known, dict) else ())
        if isinstance(token, dict) and isinstance(token.get("ids"), list)
    }
    for part in ("single", "pair"):
        pieces = component.get(part)
        if not isinstance(pieces, list):
            continue
        texts = [str(piece["Sequence"]) for piece in pieces if isinstance(piece, dict) and "Sequence" in piece]
        if len(texts) > 2 or len(set(texts)) < len(texts):
            raise Unbounded(f'its post_processor puts {len(texts)} texts into "{part}"')
        special = [piece["SpecialToken"] for piece in pieces if isinstance(piece, dict) and "SpecialToken" in piece]
        count = sum(sizes.get(str(token.get("id")), 1) for token in special if isinstance(token, dict))
        if count > MOST_SPECIAL:
            raise Unbounded(f"its post_processor puts {count:,} special tokens around a text; at most {MOST_SPECIAL} are read")


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        return
    longest = model.get("max_input_chars_per_word")
    if isinstance(longest, int | float) and longest > LONGEST_WORD:
        raise Unbounded(f"its model takes words of {longest:,} letters apart; at most {LONGEST_WORD:,} are read")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if isinstance(model.get(key), str) and len(model[key]) > MOST_GROWTH:
            raise Unbounded(f'its model puts {len(model[key]):,} letters to each piece of a word ("{key}")')


def _numbers(values: Any) -> Iterator[float]:
    if isinstance(values, dict):
        for value in values.values():
            yield from _numbers(value)
    elif isinstance(values, int | float):
        yield values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is written twice: the library may read the other value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is there twice in one object")
    return values


# --- regular expressions ----------------------------------------------------------------------------------------------------------

_CLASSES = {"L": "a-zA-Z", "M": "a-z", "N": "0-9", "P": "!-/", "S": "<-@", "Z": r"\s"}
"""What stands for a class of Unicode, by its first letter, for the length of what an expression matches."""


def _shortest(expression: str) -> int:
    """Letters of the shortest text that an expression matches, as Python's `re` reads it; 0 where it cannot."""

    def of_ascii(match: re.Match[str]) -> str:
        if match["flags"]:
            return ""
        letters = _CLASSES.get((match["property"] or " ")[0], r"\w")
        return match[0] if not match["property"] else letters if _in_class(expression, match.start()) else f"[{letters}]"

    readable = re.sub(r"\\[pP]\{\^?(?P<property>\w+)\}|(?P<flags>\(\?[a-z]+\))|\\.", of_ascii, expression)
    try:
        with warnings.catch_warnings(action="ignore"):  # about "[[" and "&&"
            shortest: int = _parser.parse(readable).getwidth()[0]
            return shortest
    except (re.error, RecursionError, OverflowError):
        return 0


def _in_class(expression: str, place: int) -> bool:
    """Whether a place of an expression is within brackets."""
    plain = re.sub(r"\\.", "..", expression[:place])
    return plain.rfind("[") > plain.rfind("]")
