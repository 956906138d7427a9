"""Secrets: found before they are written or sent, and never shown.

Two ways to find one: by its form (what services give their tokens), and by its value, where an environment variable of this
process holds it under a telling name.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping

KINDS = {
    "a Hugging Face token": r"(?:hf_|api_org_|hf_oauth_)[A-Za-z0-9]{20,}",
    "a GitHub token": r"gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,}",
    "a GitLab token": r"glpat-[\w-]{20,}",
    "a package registry's token": r"npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google API key": r"AIza[0-9A-Za-z_-]{35}",
    "a Slack token": r"xox[abeprs]-[0-9A-Za-z-]{10,}",
    "an API key": r"\b(?:sk-[A-Za-z0-9_-]{20,}|[rs]k_live_[A-Za-z0-9]{16,})",
    "a JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": r"://[^/\s:@\"']+:[^/\s:@\"']+@",
}
_KINDS = re.compile("|".join(f"(?P<k{place}>{pattern})" for place, pattern in enumerate(KINDS.values())))
_TELLING = re.compile(r"TOKEN(?!IZ)|SECRET|PASSW(?:OR)?D|PASSPHRASE|CREDENTIAL|API_?KEY|_PWD$|(?:^|_)KEYS?(?:_|$)", re.IGNORECASE)
SHORTEST = 8
"""A shorter value of an environment variable, such as "true", is no secret but a word that texts hold by chance."""
HIDDEN = "***"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_RUN = re.compile(r"[A-Za-z0-9]{12,}")
_TURN = re.compile(r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])|(?<=[a-z])(?=[A-Z])")
TURNS = 4
"""So often a run of letters and digits changes its kind that is no name: a random one of 12 hexadecimal digits does 5 times."""


def environment_secrets(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Value -> a name for it, of the environment variables whose names tell of a secret."""
    return {
        value: f"the value of {name}" for name, value in environment.items() if _TELLING.search(name) and len(value) >= SHORTEST
    }


def is_random(value: str) -> bool:
    """Whether a value looks drawn by lot, as services give their keys, rather than chosen by a person: no name has to look so.

    A UUID, or a run of 12 letters and digits that turns four times from a letter to a digit or back, or from a small letter to a
    capital. "stanfordnlp/imdb", "glove.6B.100d.txt" and "resnet18.a1_in1k" are no such values; "swordfish42" is none either.
    """
    return _UUID.search(value) is not None or any(len(_TURN.findall(run)) >= TURNS for run in _RUN.findall(value))


def find_secrets(text: str, *, known: Mapping[str, str] | None = None) -> Iterator[tuple[int, str]]:
    """(line, kind) of each secret in a text, lines from 1; `known` maps secret values to names for them.

    A known value is found also as HTML and JSON write it, and where a line was broken at one of its spaces.
    """
    for match in _KINDS.finditer(text):
        yield _line(text, match), list(KINDS)[int((match.lastgroup or "k0")[1:])]
    for value, name in (known or {}).items():
        written = {value, html.escape(value), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
        forms = (r"\s+".join(map(re.escape, form.split())) for form in sorted(written))
        for match in re.finditer("|".join(forms), text):
            yield _line(text, match), name


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def redact(text: str, *, known: Iterable[str] = ()) -> str:
    """The text with every secret in it replaced by ``***``."""
    for value in sorted({*known, *environment_secrets()}, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _KINDS.sub(HIDDEN, text)
