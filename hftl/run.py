"""The run directory: the names of its files, its append-only history, and the record of where it ran.

The training wing writes it, the publishing wing reads it, and neither knows the other. Everything in it is data that a person
can open: YAML, JSON, Parquet, PNG, safetensors.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import platform
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from hftl.errors import RunError
from hftl.recipe import Recipe, load_recipe

log = logging.getLogger(__name__)

PACKAGES = (
    "hftl",
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "datasets",
    "accelerate",
    "evaluate",
    "albumentations",
    "tokenizers",
    "safetensors",
    "numpy",
    "scikit-learn",
)

# Bounds that no file of a run comes near: a stranger's file is refused before it fills the memory or the stack.
MOST_BYTES = 100_000_000
# A killed process's workers hold its lock until they notice, after five seconds.
LOCK_SECONDS = 10.0
PARTIAL = ".partial"
"""How the name of a file ends that is being written."""
DUPLICATE, CONFLICT = "duplicate", "conflict"
"""Kinds of rows that were left out, in data.json: another split has the content; its content has several labels."""
MOST_DIGITS = 300  # fewer than float64 can hold; a tokenizer's "no limit" has 31
DEEPEST = 50


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run; see docs/run_directory.md for what is in each."""

    path: Path

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

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def test_openings(self) -> Path:
        """One line each time the sealed test split was evaluated."""
        return self.path / "test_openings.jsonl"

    @property
    def test_ledger(self) -> Path:
        """How often the rows of its test split were opened by all runs of this user on this machine; see `hftl.ledger`."""
        return self.path / "test_ledger.json"

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

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing this run; the folder is made where it is not there. The lock dies with its process.

        Raises:
            RunError: another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}. Choose another place with --run-dir") from None
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RunError(
                            f"{self.path}: another process is training this run at this moment; wait for it, or end it"
                        ) from None
                    time.sleep(0.2)
                except OSError as error:  # some file systems of clusters have no locks
                    log.warning("%s: cannot be locked (%s); take care that one process alone trains this run", self.path, error)
                    break
            yield
        finally:
            os.close(descriptor)

    def load_recipe(self) -> Recipe:
        """The resolved recipe of this run.

        Raises:
            RunError: this is no run directory.
        """
        if not self.recipe.is_file():
            raise RunError(f"{self.path}: no run here (there is no recipe.yaml in it)")
        return load_recipe(self.recipe)

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


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside, flushed, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; NaN is an error."""
    write_text(path, to_json(value))


def to_json(value: Any) -> str:
    """A value as the JSON files of a run have it; NaN is an error."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_text(path: Path) -> str:
    """The text of a file of a run.

    Raises:
        RunError: the file is missing, is no plain file (a pipe would be waited for), cannot be read, is larger than 100 MB, or is
            not UTF-8.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no plain file")
            content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; the run is not finished, or this is no run directory") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise RunError(f"{path}: larger than {MOST_BYTES // 10**6} MB, which this file of a run never is")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 text (byte {error.start})") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; every JSON file of a run holds one.

    Raises:
        RunError: the file is missing or unreadable, or holds anything but one JSON object (see `parse_json`).
    """
    return _an_object(parse_json(read_text(path), source=str(path)), source=str(path))


def parse_json(text: str, *, source: str) -> Any:
    """The value of a JSON text; `source` is named in errors.

    Refused are also what the JSON standard does not know (NaN, Infinity) and what the rest of hftl could not live with: a key that
    is there twice (one is read by people, the other by programs), nesting deeper than 50, numbers of more than 300 digits or beyond
    float64, and halves of characters.

    Raises:
        RunError: not JSON, or one of these.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_finite, parse_float=_finite, parse_int=_short_integer
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # "\ud800" alone is no character, and no file can hold it
        level = [value]
        for _ in range(DEEPEST):
            inside = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
            level = [item for items in inside for item in items if isinstance(item, dict | list)]
        if level:
            raise RecursionError
    except RecursionError:
        raise RunError(f"{source}: nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise RunError(f"{source}: not JSON: {error}") from None
    return value


def _an_object(value: Any, *, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RunError(f"{source}: not a JSON object but {type(value).__name__}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!a} is there twice")
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:40]} is not a finite number")
    return value


def _short_integer(number: str) -> int:
    if len(number) > MOST_DIGITS:
        raise ValueError(f"a number of {len(number)} digits")
    return int(number)


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


def fingerprint(content: Path | bytes) -> dict[str, Any]:
    """A file's entry in a manifest: {"sha256": hex, "size": bytes}."""
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    with content.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": content.stat().st_size}


def open_plain(folder: Path, name: str) -> BinaryIO:
    """Open a plain file below a folder for reading, and nothing else: no link is followed, of the file or of a folder on the way.

    What somebody else gives you as a run may lead to a file of yours: by a symbolic link, or by a second name for it (a hard link).
    The folder itself is named by its user, and may be a link.

    Raises:
        RunError: a name that leaves the folder, a link, a folder, a device, a pipe, a socket, a file of several names, or one that
            is not there or cannot be read.
    """
    *above, last = PurePosixPath(name).parts or ("",)
    if not last or ".." in (*above, last) or PurePosixPath(name).is_absolute():
        raise RunError(f"{folder / name}: not a file of this folder")
    descriptor = -1
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for part in above:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # Without waiting for whoever might write into a pipe.
        file = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
    except OSError as error:
        link = error.errno in {errno.ELOOP, errno.ENOTDIR}
        what = "a link, or behind one; put a copy of the file in its place" if link else f"cannot be read: {error.strerror}"
        raise RunError(f"{folder / name}: {what}") from None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(file)
        many = "has another name somewhere (a hard link); put a copy of the file in its place"
        raise RunError(f"{folder / name}: {many if stat.S_ISREG(found.st_mode) else 'no plain file'}")
    return open(file, "rb")


def flush(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk and not only on its way there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(run: RunDirectory) -> None:
    """Seal what the numbers rest on, the model and the predictions, at the end of training; all of it is on the disk then."""
    evidence = sorted([*run.model.rglob("*"), *run.predictions("test").parent.glob("*.parquet")])
    sealed = {}
    for path in evidence:
        if path.is_file():
            flush(path)
            sealed[path.relative_to(run.path).as_posix()] = fingerprint(path)
    write_json(run.manifest, {"files": sealed})


def check_sealed(run: RunDirectory) -> None:
    """Refuse to add to a run whose model or predictions are not those that its manifest was written of.

    Raises:
        RunError: a file is missing, or was changed.
    """
    for name, expected in read_json(run.manifest).get("files", {}).items():
        path = run.path / name
        if not path.is_file() or fingerprint(path) != expected:
            raise RunError(f"{path}: not as training sealed it. What else was changed:  hftl verify {run.path}")


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line to a .jsonl file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a .jsonl file; none where there is no file.

    Raises:
        RunError: the file is unreadable, or a line, which is named, is not one JSON object (see `parse_json`).
    """
    if path.exists():
        # Not `splitlines`: a class name may hold U+2028, which is no end of a line of JSON.
        text = read_text(path)
        for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
            source = f"{path}, line {number}"
            yield _an_object(parse_json(line, source=source), source=source)


def now() -> str:
    """UTC time as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment_record() -> dict[str, Any]:
    """What this process runs on: versions, machine, git commit. Holds no host name, user name, path or environment variable."""
    return {
        "time": now(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "git_commit": _git_commit(),
    }


def package_versions() -> dict[str, str | None]:
    """The versions of the libraries that compute here; None where one is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _git_commit() -> str | None:
    """Commit of the working directory, with "+changes" when it differs from that commit; None outside a repository.

    The folder may be a stranger's, and the settings in its .git may name commands: a monitor of files, filters of their contents.
    git is told to run none. Filters cannot be switched off, so where there are some, nobody looks for changes: "+unknown".
    """

    def git(*words: str) -> str:
        quiet = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
        done = subprocess.run(["git", *quiet, *words], capture_output=True, text=True, timeout=10)
        if done.returncode and words[0] != "config":  # which exits with 1 when it finds nothing
            raise subprocess.CalledProcessError(done.returncode, "git")
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        if git("config", "--local", "--includes", "--name-only", "--get-regexp", r"^filter\."):
            return f"{commit}+unknown"
        return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all") else commit
    except (FileNotFoundError, subprocess.SubprocessError):
        return None
