"""The run directory: the names of its files, its append-only history, and the record of where it ran.

The training wing writes it, the publishing wing reads it, and neither knows the other. Everything in it is data that a person
can open: YAML, JSON, Parquet, PNG, safetensors.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hftl import system
from hftl.errors import RunError
from hftl.files import PARTIAL, append_json_line, check_name, fingerprint, flush, read_json, read_json_lines, write_json, write_text
from hftl.recipe import Recipe, load_recipe, refuse_secrets

log = logging.getLogger(__name__)


# A killed process's workers hold its lock until they notice, after five seconds.
LOCK_SECONDS = 10.0


EVALUATION = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
"""What an evaluation on other rows may be called, as a regular expression."""


class InUse(RunError):
    """Another process writes this run."""


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run; see docs/run_directory.md for what is in each.

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
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def data(self) -> Path:
        """Counts, class names and fingerprints of the splits; lengths, unknown words, what was skipped."""
        return self.path / "data.json"

    @property
    def audit(self) -> Path:
        """What was found in the data before a step was spent."""
        return self.path / "audit.json"

    @property
    def freeze_proof(self) -> Path:
        """Hashes of what was frozen, before and after each stage, and whether what trained has moved."""
        return self.path / "freeze_proof.json"

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def predictions(self, split: str) -> Path:
        """The predictions of the validation or the test split.

        Raises:
            RunError: another split is asked for, as the metrics.json of a stranger may do.
        """
        if split not in {"validation", "test"}:
            raise RunError(f'{self.metrics}: there are predictions for validation and test, not for "{split}"')
        return self.path / "predictions" / f"{split}.parquet"

    def viewed_predictions(self, split: str) -> Path:
        """Beside the predictions of a split those by several views of each picture, where `run.tta` asks for them.

        Raises:
            RunError: another split is asked for, as the metrics.json of a stranger may do.
        """
        return self.predictions(split).with_name(f"{split}_views.parquet")

    @property
    def baseline(self) -> Path:
        """The cheap baseline beside the run: which one, how good it is, what the model gains over it; or why there is none."""
        return self.path / "baseline" / "baseline.json"

    def baseline_predictions(self, split: str) -> Path:
        """What the baseline answers to the validation or the test split.

        Raises:
            RunError: another split is asked for, as the baseline.json of a stranger may do.
        """
        return self.baseline.parent / self.predictions(split).name

    @property
    def teacher(self) -> Path:
        """Who has taught the run, and how both answer the same rows; beside it its answers, see `hftl.training.teacher`."""
        return self.path / "teacher" / "teacher.json"

    def teacher_predictions(self, split: str) -> Path:
        """What the teacher answers to the validation or the test split.

        Raises:
            RunError: another split is asked for, as the teacher.json of a stranger may do.
        """
        return self.teacher.parent / self.predictions(split).name

    @property
    def shrink(self) -> Path:
        """The smaller forms of the model, measured; beside it these, see `hftl.shrinking`."""
        return self.path / "shrink" / "shrink.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    def evaluation(self, name: str) -> Path:
        """The folder of an evaluation on other rows: predictions.parquet, data.json and metrics.json; with several views of each
        picture views.parquet as well.

        Raises:
            RunError: it cannot be the name of one.
        """
        if not re.fullmatch(EVALUATION, name):
            raise RunError(f'"{name}" cannot name an evaluation: letters, digits, and _ . - after the first; at most 96 of them')
        return self.path / "evaluations" / name

    @property
    def evaluations(self) -> list[str]:
        """The names of those that there are, in alphabetical order."""
        names = (path.parent.name for path in self.path.glob("evaluations/*/metrics.json"))
        return sorted(name for name in names if re.fullmatch(EVALUATION, name))

    @property
    def test_openings(self) -> Path:
        """One line each time the sealed test split was evaluated."""
        return self.path / "test_openings.jsonl"

    @property
    def test_ledger(self) -> Path:
        """How often the rows of its test split were opened by all runs of this user on this machine; see `hftl.ledger`."""
        return self.path / "test_ledger.json"

    @property
    def seeds(self) -> Path:
        """What other seeds of its recipe came to, from a study; see `hftl.studies.repetition`."""
        return self.path / "seeds.json"

    @property
    def trial(self) -> Path:
        """Of a trial of a study, what it came to."""
        return self.path / "trial.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def model(self) -> Path:
        """Weights and preprocessor. In a published repository they lie at its root, where `from_pretrained` looks for them."""
        return self.path if (self.path / "config.json").is_file() else self.path / "model"

    @property
    def card(self) -> Path:
        return self.path / "README.md"

    @property
    def serving(self) -> Path:
        """A few validation examples with the model's logits: what a published model must reproduce. Never published itself."""
        return self.path / "serving.parquet"

    @property
    def manifest(self) -> Path:
        """Size and SHA-256 of the files that the numbers rest on."""
        return self.path / "manifest.json"

    @property
    def published_as(self) -> str | None:
        """The repository that a run was fetched from, where it is somebody's published one; None for one's own.

        Raises:
            RunError: the manifest cannot be read.
        """
        name = read_json(self.manifest).get("repository") if self.manifest.is_file() else None
        return None if name is None else str(name)

    @property
    def finished(self) -> bool:
        """metrics.json is there. Only the card comes after it."""
        return self.metrics.is_file()

    @property
    def is_trial(self) -> bool:
        """It is one of the fits of a study, done or not."""
        of_study = self.path.absolute().parent
        return self.trial.is_file() or (of_study.name == "trials" and (of_study.parent / "study.yaml").is_file())

    def check_finished(self, lack: str) -> None:
        """Refuse what only a finished run can do, and say how this one comes to it.

        Args:
            lack: what cannot be done without: "there is no model to test".

        Raises:
            RunError: it is not finished.
        """
        if self.finished:
            return
        self.load_recipe()
        if self.is_trial:
            what = f"a trial of a study, which is fitted and not finished; {lack}. To train its recipe as a run of its own"
            raise RunError(f"{self.path}: {what}:  hftl train {self.path} --run-dir RUN")
        raise RunError(f"{self.path}: the run is not finished; {lack}. To go on with it:  hftl train {self.path} --resume")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing this run; the folder is made where it is not there. The lock dies with its process.

        Raises:
            RunError: another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}. Choose another place with --run-dir") from None
        release = self._take_lock()
        try:
            yield
        finally:
            release()

    def _take_lock(self) -> Callable[[], None]:
        """Take the lock, once whoever holds it has had time to let go; returns what lets go of it."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return system.take(self.path)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InUse(
                        f"{self.path}: another process is training this run at this moment; wait for it, or end it"
                    ) from None
                time.sleep(0.2)
            except OSError as error:  # some file systems of clusters have no locks
                log.warning("%s: cannot be locked (%s); take care that one process alone trains this run", self.path, error)
                return lambda: None

    def load_recipe(self) -> Recipe:
        """The resolved recipe of this run.

        Raises:
            RunError: this is no run directory.
        """
        if not self.recipe.is_file():
            raise RunError(f"{self.path}: no run here (there is no recipe.yaml in it)")
        return load_recipe(self.recipe)

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe.

        Raises:
            RecipeError: it holds a secret. Nothing is written.
        """
        refuse_secrets(recipe)
        write_text(self.recipe, recipe.to_yaml())

    def append_history(self, record: Mapping[str, Any]) -> None:
        append_json_line(self.history, record)

    def read_history(self) -> list[dict[str, Any]]:
        """The records of history.jsonl; each says in "event" what it records.

        Raises:
            RunError: a line is not such a record.
        """
        records = list(read_json_lines(self.history))
        for number, record in enumerate(records, start=1):
            if not isinstance(record.get("event"), str):
                raise RunError(f"{self.history}, line {number}: says no event")
        return records


def remove_partial(run: RunDirectory) -> None:
    """Remove the files that killed processes had begun to write; called by the process that holds the run's lock."""
    for left in run.path.rglob(f".*{PARTIAL}"):
        if left.is_file():
            left.unlink(missing_ok=True)


def split_facts(ids: Sequence[str], labels: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """What identifies a split: {"n", "per_class": {name: count}, "fingerprint": SHA-256 of its ids and class names, in order}."""
    counts = Counter[int]()
    digest = hashlib.sha256()
    for id, label in zip(ids, labels, strict=True):
        counts[int(label)] += 1
        digest.update(f"{id}\0{names[label]}\n".encode())
    return {
        "n": len(ids),
        "per_class": {name: counts[index] for index, name in enumerate(names)},
        "fingerprint": digest.hexdigest(),
    }


def several_split_facts(ids: Sequence[str], labels: Iterable[Sequence[int]], names: Sequence[str]) -> dict[str, Any]:
    """The same where a row has any number of labels: it counts for each of them.

    `labels` has of all rows together, and `without_label` are the rows that have none.
    """
    counts, without = Counter[int](), 0
    digest = hashlib.sha256()
    for id, own in zip(ids, labels, strict=True):
        counts.update(own)
        without += not own
        digest.update("\0".join([id, *(names[label] for label in own)]).encode() + b"\n")
    return {
        "n": len(ids),
        "per_class": {name: counts[index] for index, name in enumerate(names)},
        "labels": counts.total(),
        "without_label": without,
        "fingerprint": digest.hexdigest(),
    }


def write_manifest(run: RunDirectory) -> None:
    """Seal what the numbers rest on, the model and the predictions, at the end of training; all of it is on the disk then."""
    others = [path for name in run.evaluations for path in run.evaluation(name).iterdir()]
    evidence = sorted(
        [
            *run.model.rglob("*"),
            *run.predictions("test").parent.glob("*.parquet"),
            *run.baseline.parent.glob("*.parquet"),
            *run.teacher.parent.glob("*.parquet"),
            *others,
        ]
    )
    sealed = {}
    for path in evidence:
        if path.is_file():
            flush(path)
            sealed[path.relative_to(run.path).as_posix()] = fingerprint(path)
    write_json(run.manifest, {"files": sealed})


def sealed_files(run: RunDirectory) -> dict[str, Any]:
    """The files on a run's manifest: path -> {"sha256": hex, "size": bytes}, if nobody has changed it.

    Raises:
        RunError: there is no manifest, or it is none.
    """
    files = read_json(run.manifest).get("files")
    if not isinstance(files, dict):
        raise RunError(f'{run.manifest}: there is no "files" with the files that were sealed; it is not a manifest')
    return files


def seal(run: RunDirectory, folder: Path) -> None:
    """Put the files of one more folder, which are on the disk, into a run's manifest."""
    sealed = sealed_files(run)
    sealed |= {path.relative_to(run.path).as_posix(): fingerprint(path) for path in sorted(folder.iterdir())}
    write_json(run.manifest, {"files": sealed})


def check_sealed(run: RunDirectory) -> None:
    """Refuse to add to a run whose model or predictions are not those that its manifest was written of.

    Raises:
        RunError: a file is missing, or was changed.
    """
    for name, expected in sealed_files(run).items():
        path = run.path / name
        if not path.is_file() or fingerprint(path) != expected:
            raise RunError(f"{path}: not as training sealed it. What else was changed:  hftl verify {run.path}")
