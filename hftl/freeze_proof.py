"""freeze_proof.json: what it has of each stage and layer group, written by training and read by whoever checks a run.

{"stages": [{"stage", "kept", "groups": [{"name", "trains", "before", "after", "ok"}], "ok"}]}; "before" and "after" are
{"parameters", "buffers"}, each the SHA-256 in hex that `hftl.training.proof` takes. A group that trained by adapters has
"under_adapters" too, the hashes of its own weights at the end of the stage, before the two were merged. The records below name
these keys for mypy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NotRequired, TypedDict

from hftl.errors import RunError
from hftl.files import read_json, write_json
from hftl.run import RunDirectory


class HashesRecord(TypedDict):
    """SHA-256 in hex of a layer group's parameters, and of its buffers."""

    parameters: str
    buffers: str


class GroupRecord(TypedDict):
    """A layer group in the file."""

    name: str
    trains: bool
    before: HashesRecord
    after: HashesRecord
    ok: bool
    under_adapters: NotRequired[HashesRecord]


class StageRecord(TypedDict):
    """A stage in the file."""

    stage: str
    kept: bool
    groups: list[GroupRecord]
    ok: bool


@dataclass(frozen=True)
class GroupProof:
    """A layer group before and after a stage: SHA-256 of its parameters, and of its buffers."""

    name: str
    trains: bool
    before: tuple[str, str]
    after: tuple[str, str]
    stated: bool
    """What the file says of it."""
    under_adapters: tuple[str, str] | None = None
    """Of its own weights after a stage that trained adapters of it; None: it had none."""

    @property
    def unchanged(self) -> bool | None:
        """Whether what was frozen of it is as it was; None: nothing was."""
        frozen = self.under_adapters if self.trains else self.after
        return None if frozen is None else frozen == self.before

    @property
    def moved(self) -> bool | None:
        """Whether its parameters are others than before; None: it was frozen."""
        return self.before[0] != self.after[0] if self.trains else None

    @property
    def ok(self) -> bool:
        """What the hashes say: what is frozen has not changed, and the parameters of a group that trains have."""
        return self.unchanged is not False and self.moved is not False


@dataclass(frozen=True)
class StageProof:
    """The groups of one stage, input first."""

    stage: str
    kept: bool
    """Whether the run took weights from the stage; otherwise the next stage begins where this one began."""
    groups: tuple[GroupProof, ...]
    stated: bool


def read_freeze_proof(run: RunDirectory) -> list[StageProof]:
    """The stages of freeze_proof.json, in the order of training.

    Raises:
        RunError: there is no such file, or it is no freeze proof.
    """
    try:
        return [
            StageProof(
                _a(str, stage["stage"]),
                _a(bool, stage["kept"]),
                tuple(map(_group_proof, _a(list, stage["groups"]))),
                _a(bool, stage["ok"]),
            )
            for stage in _a(list, read_json(run.freeze_proof)["stages"])
        ]
    except (KeyError, TypeError) as error:
        raise RunError(f"{run.freeze_proof}: not a freeze proof ({type(error).__name__}: {error})") from None


def write_proof(run: RunDirectory, proof: StageRecord) -> None:
    """Put a stage's proof at the end of freeze_proof.json; what is there about this stage and later ones is of an interrupted run.

    Raises:
        RunError: the file that is there is no freeze proof.
    """
    try:
        stages = read_json(run.freeze_proof)["stages"] if run.freeze_proof.is_file() else []
        earlier = list(takewhile(lambda other: other["stage"] != proof["stage"], stages))
    except (KeyError, TypeError):
        raise RunError(f"{run.freeze_proof}: not a freeze proof") from None
    write_json(run.freeze_proof, {"stages": [*earlier, proof]})


def _group_proof(group: Mapping[str, Any]) -> GroupProof:
    before, after = (_hashes(group[when]) for when in ("before", "after"))
    under = _hashes(group["under_adapters"]) if "under_adapters" in group else None
    return GroupProof(_a(str, group["name"]), _a(bool, group["trains"]), before, after, _a(bool, group["ok"]), under)


def _hashes(record: Mapping[str, Any]) -> tuple[str, str]:
    return _hash(record["parameters"]), _hash(record["buffers"])


def _hash(value: Any) -> str:
    if not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise TypeError(f"{value!a:.80} is no SHA-256")
    return value


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!a:.80} is not a {kind.__name__}")
    return value
