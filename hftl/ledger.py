"""The ledger: how often test rows were opened on this machine, by all runs together.

A run opens its test split once. Ten runs on the same data open the same rows ten times, and whoever then picks the best of them
has chosen by the test split. So each opening is also a line of a file in the user's data folder, by what the rows hold: the same
photos in another folder, or in another order, are the same rows. Beside them the line has a digest of the recipe, which tells how
many different ones were tested. The file tells nothing else, and no file of a run names its place.

It lies at $HFTL_LEDGER, else at $XDG_DATA_HOME/hftl/test_openings.jsonl (~/.local/share/hftl/test_openings.jsonl).
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hftl.environment import now
from hftl.files import append_json_line, flush
from hftl.recipe import Recipe, flat, local_name
from hftl.records.data import read_data
from hftl.records.openings import OpeningLine, Purpose, read_openings
from hftl.run import RunDirectory

_NO_EFFECT = (
    *("name", "card.", "run.test", "run.workers", "run.log_every", "run.trackers", "run.checkpoint_minutes", "run.timeout_minutes"),
    *("run.baseline", "data.unlabelled"),
    *("data.source", "data.revision", "data.extra"),  # what lies there decides, not what it is called
)
"""What a recipe says, by the start of its key, that has no part in what is trained."""


@dataclass(frozen=True)
class Counted:
    """How often the same test rows were opened."""

    openings: int
    runs: int
    recipes: int
    """Different ones, the seed included: each is a candidate that could have been chosen for its result."""


@dataclass(frozen=True)
class Opening:
    """A line of the ledger."""

    run: str
    """A random id."""
    recipe: str
    """A digest of what was trained."""


def ledger_path() -> Path:
    """Where the ledger of this user lies."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    # Not `Path.expanduser`, which raises where there is no such home.
    return Path(os.path.expanduser(os.environ.get("HFTL_LEDGER") or f"{data}/hftl/test_openings.jsonl"))


def note_opening(run: RunDirectory, *, rows: str, by: str, purpose: Purpose) -> str | None:
    """Write an opening of a run's test split down, in the run and in the ledger, onto the disk before the split is looked at.

    `rows` is what the test rows hold, as `data.json` has it in `test_rows`; `by` the command that opens
    them, for people.

    Returns:
        Why the ledger could not be written, such as a home that is read-only; None: it was.

    Raises:
        RunError: a file of the run cannot be read.
    """
    earlier = read_openings(run)
    id = earlier[0]["run"] if earlier else str(uuid.uuid4())
    record: OpeningLine = {"time": now(), "purpose": purpose, "by": by, "run": id}
    append_json_line(run.test_openings, record)
    flush(run.test_openings)
    path = ledger_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        line = {**record, "rows": rows, "recipe": recipe_digest(run)}
        with path.open("a+b") as stream:  # a line that a full disk has cut short ends here, and costs itself alone
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1))
            torn = b"" if stream.read(1) in {b"", b"\n"} else b"\n"
            stream.write(torn + json.dumps(line).encode() + b"\n")
        flush(path)
    except OSError as error:
        return f"{path}: cannot be written ({error.strerror}), so other runs do not learn that these test rows were opened"
    return None


def effective(recipe: Recipe, *, seed: bool = True) -> dict[str, object]:
    """What of a recipe has a part in what is trained, by dotted key: not what it is called, nor where things lie.

    Without `seed` what all seeds have in common; which rows a seed divides is another matter.
    """
    no_effect: tuple[str, ...] = _NO_EFFECT if seed else (*_NO_EFFECT, "run.seed", "data.split_seed", "data.sample_seed")
    if recipe.learns_unlabelled:
        no_effect = tuple(key for key in no_effect if key != "data.unlabelled")
    says = {key: value for key, value in flat(recipe) if not key.startswith(no_effect)}
    for key in ("model.checkpoint", "model.vectors", "teacher.run"):
        if isinstance(says.get(key), str):
            says[key] = local_name(says[key])
    return says


def recipe_digest(run: RunDirectory, *, seed: bool = True) -> str:
    """SHA-256 of all that a run's training depends on: the rows of train and validation, and what its recipe says.

    Without `seed` it is the same for runs that differ in the seed alone, and have the same rows.

    Raises:
        RecipeError, RunError: the recipe or data.json cannot be read.
    """
    says = effective(run.load_recipe(), seed=seed)
    contents = read_data(run)["contents"]
    rows: dict[str, str | list[str]] = {split: contents[split] for split in ("train", "validation")}
    if extra := read_data(run).get("extra"):
        rows["extra"] = [each["contents"] for each in extra]
    return hashlib.sha256(json.dumps([says, rows], sort_keys=True).encode()).hexdigest()


def read_ledger() -> tuple[dict[str, list[Opening]], str | None]:
    """What the ledger knows of all test rows, by their digest; and what is wrong with it: it cannot be read, or has damaged lines.

    Raises:
        OSError: it cannot be read.
    """
    path = ledger_path()
    try:
        lines = path.read_bytes().decode(errors="replace").split("\n")
    except FileNotFoundError:
        lines = []
    known: dict[str, list[Opening]] = defaultdict(list)
    damaged = 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            known[str(record["rows"])].append(Opening(str(record["run"]), str(record["recipe"])))
        except (ValueError, TypeError, KeyError, AttributeError):
            damaged += 1
    return dict(known), f"{path}: damaged lines, which were not counted: {damaged}" if damaged else None


def counted(known: Sequence[Opening], own: Mapping[str, int], digest: str | None = None) -> Counted:
    """How often rows were opened: `known` of the ledger, and what runs know of themselves, id -> openings, where that is more.

    A run counts as one recipe, the one it was first opened with; `digest` is that of a run which the ledger may lack. Without it
    such a run counts as a recipe of its own.
    """
    times: dict[str, int] = defaultdict(int)
    recipes: dict[str, str] = {}
    for opening in known:
        times[opening.run] += 1
        recipes.setdefault(opening.run, opening.recipe)
    for run, openings in own.items():
        times[run] = max(times[run], openings)
        recipes.setdefault(run, digest or f"run {run}")
    return Counted(sum(times.values()), len(times), len(set(recipes.values())))
