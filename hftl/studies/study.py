"""A study: a question about one recipe, answered by several fits of it with the test split sealed.

    studies/<name>/
      recipe.yaml     the recipe that the study is about
      study.yaml      what is asked of it: data
      trials/<name>/  a run directory for each fit, light until it wins: no model, no checkpoint, one trial.json
      best.yaml       the recipe that did best on validation
      table.csv       what came out, a row each
      figures/        the same as figures
      README.md       the page that says it in words

The same command again continues a study that was stopped: trials that are done stay, one that was cut short goes on from its last
checkpoint. Another question never gets the same folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hftl import system
from hftl.errors import RunError
from hftl.files import append_json_line, check_name, read_json_lines, read_text, write_text
from hftl.recipe import Recipe, difference, load_recipe, refuse_secrets
from hftl.run import RunDirectory

NAME = r"[A-Za-z0-9][A-Za-z0-9_.,=-]{0,95}"
"""What a trial may be called, as a regular expression."""


GROWS = ("seeds", "trials", "minutes")
"""What may change while a study goes on: more of the same."""


@dataclass(frozen=True)
class StudyDirectory:
    """Paths of one study.

    Raises:
        RunError: `path` cannot be a name.
    """

    path: Path

    def __post_init__(self) -> None:
        check_name(self.path)

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def question(self) -> Path:
        return self.path / "study.yaml"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    def trial(self, name: str) -> RunDirectory:
        """The run directory of a trial."""
        assert re.fullmatch(NAME, name), name
        return RunDirectory(self.trials / name)

    @property
    def best(self) -> Path:
        """The recipe that did best on validation."""
        return self.path / "best.yaml"

    @property
    def chosen(self) -> Path:
        """Which trial a study has chosen, and what it is worth: tuning alone does."""
        return self.path / "chosen.json"

    @property
    def locks(self) -> Path:
        """Files by which several processes take turns; see `hftl.studies.turns`."""
        return self.path / "locks"

    @property
    def table(self) -> Path:
        return self.path / "table.csv"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def page(self) -> Path:
        return self.path / "README.md"

    @property
    def log(self) -> Path:
        """One line for each session of the study: when, on what, and which trials it ran."""
        return self.path / "sessions.jsonl"

    def sessions(self) -> list[dict[str, Any]]:
        return list(read_json_lines(self.log)) if self.log.is_file() else []

    def note(self, record: Mapping[str, Any]) -> None:
        append_json_line(self.log, record)


@dataclass(frozen=True)
class Question:
    """What a study asks, as study.yaml has it."""

    kind: str
    """The command: "ablate", "tune", ..."""
    settings: Mapping[str, Any]
    """What decides the trials, as plain data: arms, seeds, spaces."""


@contextmanager
def open_study(study: StudyDirectory, recipe: Recipe, question: Question, *, shared: bool = False) -> Iterator[None]:
    """Begin a study, or continue the same one; its directory is locked until the end, unless it is `shared` with other processes.

    Raises:
        RunError: the folder holds something else, or another process works on the study.
    """
    refuse_secrets(recipe)
    check_same_question(study, recipe, question)
    study.path.mkdir(parents=True, exist_ok=True)
    if shared:
        _begin(study, recipe, question)
        yield
        return
    try:
        release = system.take(study.path)
    except BlockingIOError:
        raise RunError(f"{study.path}: another process works on this study at this moment; wait for it, or end it") from None
    try:
        _begin(study, recipe, question)
        yield
    finally:
        release()


def _begin(study: StudyDirectory, recipe: Recipe, question: Question) -> None:
    if not study.question.is_file():
        write_text(study.recipe, recipe.to_yaml())
    if not study.question.is_file() or read_question(study) != question:
        write_text(study.question, yaml.safe_dump({"kind": question.kind, **question.settings}, sort_keys=False, width=100))


def check_same_question(study: StudyDirectory, recipe: Recipe, question: Question) -> None:
    """Refuse a folder in which anything but this very study is.

    Raises:
        RunError: something else is there; another question, with what differs.
    """
    if not study.path.exists():
        return
    if not study.path.is_dir():
        raise RunError(f"{study.path} is a file; a study needs a folder of its own. Choose another place with --study-dir")
    if not study.question.is_file():
        if any(path.name not in {system.LOCK, study.locks.name, study.recipe.name} for path in study.path.iterdir()):
            raise RunError(f"{study.path} is not empty, and no study is in it. Choose another place with --study-dir")
        return
    recorded = read_question(study)
    changed = [f"kind: {recorded.kind} -> {question.kind}"] if recorded.kind != question.kind else []
    if not changed:
        keys = dict.fromkeys([*recorded.settings, *question.settings])
        pairs = [(key, recorded.settings.get(key), question.settings.get(key)) for key in keys if key not in GROWS]
        changed = [f"{key}: {before} -> {after}" for key, before, after in pairs if before != after]
    changed += difference(load_recipe(study.recipe), recipe)
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise RunError(
            f"{study.path}: it holds another study; this is what differs:\n{listed}\n"
            "  Continue it without the change, or choose another place with --study-dir"
        )


def read_question(study: StudyDirectory) -> Question:
    """What a study asks.

    Raises:
        RunError: there is no study, or its study.yaml cannot be read.
    """
    if not study.question.is_file():
        raise RunError(f"{study.path}: no study here (there is no study.yaml in it)")
    try:
        values = yaml.safe_load(read_text(study.question))
    except yaml.YAMLError as error:
        raise RunError(f"{study.question}: cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict) or not isinstance(values.get("kind"), str):
        raise RunError(f"{study.question}: says no kind of study")
    return Question(values.pop("kind"), values)


def trial_name(parts: Sequence[str]) -> str:
    """ "decay-seed1": what a trial's folder is called, of words that a user wrote."""
    words = (re.sub(r"[^A-Za-z0-9_.,=-]+", "-", part).strip("-.") for part in parts)
    return "-".join(word for word in words if word)[:96] or "trial"
