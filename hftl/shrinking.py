"""`hftl shrink`: smaller and faster forms of a finished run's model, each measured on this machine, and the one that is enough.

The forms are ONNX files: in float32; with weights of 8 bits, and activations rounded as they come (dynamic) or by what training
rows have shown (static); each of them of the model with the pieces of its vocabulary alone that the training texts use; and of
distilled students, which are runs of their own. What a form loses is measured on the validation rows, one answer at a time, and the
test split stays shut.

A form is kept where it is not worse than the model: where the 95 % interval of the paired difference of their accuracies lies
above minus the margin.

Shapes: N validation rows, K classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from hftl import cores
from hftl.data.columns import Strings
from hftl.data.content import content_of
from hftl.data.joining import FIRST, segments
from hftl.data.loader import Samples
from hftl.environment import cpu_name, now
from hftl.errors import RunError, printable
from hftl.evaluation.intervals import mean_interval
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.files import PARTIAL, write_json
from hftl.models import load_classifier, save_classifier
from hftl.models.family import Classifier
from hftl.models.vocabulary import trimmed
from hftl.recipe import Recipe, TextData
from hftl.records.data import read_data
from hftl.records.shrink import Form, Latency, LeftOut, ShrinkRecord, read_shrink
from hftl.run import RunDirectory
from hftl.sharing.export import FILE, Export, Session, check_installed, difference, export_model, to_int8, usage
from hftl.sharing.forms import MANY, draw, nothing_reaches, ratio, table_of
from hftl.terminal import Say, Shown
from hftl.training.machine import disk_errors
from hftl.training.rows_again import read_again

TIME = Path(__file__).parent / "sharing" / "time_onnx.py"
SECONDS = 3.0
"""That the answers to one batch are timed for, but for the first few."""
CALIBRATION = 128
"""Training rows that show how large activations are."""
FRONT = "front.png"
FORMS = ("fp32", "int8 dynamic", "int8 static", "trimmed fp32", "trimmed int8 dynamic")
"""What the names of forms end with."""


@dataclass(frozen=True, repr=False)
class Shrunk(Shown):
    """What came of it."""

    record: ShrinkRecord
    folder: Path
    usage: str = ""
    """Lines of Python that run the chosen form."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield table_of(self.record)
        for left_out in self.record["left_out"]:
            yield Text(printable(f"no {left_out['name']}: {left_out['why']}"))
        yield Text(printable(f"\n{self.folder}/  the forms that are not worse (kept), the table, {FRONT}; the card has more of it"))
        if self.record["chosen"] is not None:
            yield Text(printable(f"chosen: {self.record['chosen']}\n\n{self.usage}"))


@dataclass(frozen=True)
class _Source:
    """A run whose model is brought into smaller forms: the one that is shrunk, or a student."""

    run: RunDirectory
    recipe: Recipe
    prefix: str
    """Before the names of its forms: empty, or a student's own name and a space."""
    order: np.ndarray
    """(K,) the place of each class of the shrunk run among its own."""


def shrink(
    run: RunDirectory,
    students: Sequence[RunDirectory] = (),
    *,
    target_ms: float | None,
    target_mb: float | None,
    margin: float,
    threads: int | None,
    say: Say,
) -> Shrunk:
    """Make, measure and keep the smaller forms of a finished run's model in RUN/shrink; with other targets choose again among them.

    Args:
        run: a finished one, whose data can be read.
        students: finished runs on the same validation rows.
        target_ms: milliseconds that the median answer to one input may take; None: any.
        target_mb: megabytes that a form may take on the disk; None: any.
        margin: of accuracy that a form may lose, at most.
        threads: of an answer; None: one a core.
        say: is told what is being measured.

    Raises:
        RunError: the extra `onnx` is not installed, the run or a student is not fit, or there is a RUN/shrink of other students,
            margin or threads; or no form that is not worse reaches the targets: then the table is there.
    """
    check_installed()
    for name, value in (("--target-ms", target_ms), ("--target-mb", target_mb), ("--margin", margin), ("--threads", threads)):
        if value is not None and value <= 0:
            raise RunError(f"{name}: {value:g} is not greater than 0")
    called = distinct([student.path.resolve().name for student in students], taken=["trimmed"])  # as the run's own forms are
    sources = [_source(run, run, ""), *(_source(student, run, f"{name} ") for student, name in zip(students, called, strict=True))]
    threads = threads or len(cores.affinity())
    fingerprints = {source.prefix: _fingerprint(source.run) for source in sources}
    if run.shrink.parent.exists():
        record = _measured_before(run, {"threads": threads, "margin": margin, "sources": fingerprints})
        _choose(record, target_ms, target_mb)
        with run.lock(), disk_errors(run):
            write_json(run.shrink, record)
            draw(record, run.shrink.parent / FRONT)
        return _result(run, record, sources)
    disable_progress_bars()
    splits = read_again(run)
    if isinstance(splits, str):
        raise RunError(f"{run.path}: its forms cannot be measured: {splits}")
    stored = Predictions.load(run.predictions("validation"))
    with run.lock(), disk_errors(run):
        for left in run.path.glob(f".shrink.*{PARTIAL}"):
            shutil.rmtree(left)
        place = run.path / f".shrink.{os.getpid()}{PARTIAL}"
        place.mkdir()
        forms, left_out = list[Form](), list[LeftOut]()
        for source in sources:
            for name, folder, classifier, why in _forms(source, splits.train, place):
                if folder is None or classifier is None:
                    left_out.append({"name": name, "why": why})
                    continue
                say(f"measuring {name}")
                samples = content_of(source.recipe.data).samples(splits.validation, classifier.preprocessor, seed=0, train=False)
                form = _measured(name, folder, classifier, samples, source, stored, margin=margin, threads=threads)
                forms.append(form)
        kept = {form["folder"] for form in forms}
        for folder in [path for path in place.iterdir() if path.name not in kept]:  # forms of 8 bits were made of some of them
            shutil.rmtree(folder)
        record = {
            "time": now(),
            "processor": cpu_name() or "not recorded",
            "runtime": f"onnxruntime {metadata.version('onnxruntime')}",
            "n": len(stored),
            "threads": threads,
            "margin": margin,
            "sources": fingerprints,
            "target_ms": None,
            "target_mb": None,
            "forms": forms,
            "left_out": left_out,
            "chosen": None,
        }
        _choose(record, target_ms, target_mb)
        write_json(place / run.shrink.name, record)
        draw(record, place / FRONT)
        place.rename(run.shrink.parent)
    return _result(run, record, sources)


def _measured_before(run: RunDirectory, asked: Mapping[str, Any]) -> ShrinkRecord:
    """What an earlier call has measured, for other targets.

    Raises:
        RunError: that was something else, or the folder is none of `shrink`.
    """
    record = read_shrink(run)
    changed = [key for key, value in asked.items() if record is None or record[key] != value]  # type: ignore[literal-required]
    if record is None or changed:
        what = f": it has measured with other {' and '.join(changed)}" if record is not None else ""
        raise RunError(f"{run.shrink.parent}: is there already{what}; nothing is written over: remove it first")
    return record


def _choose(record: ShrinkRecord, target_ms: float | None, target_mb: float | None) -> None:
    """Note the targets, which forms reach them, and the most accurate of those that are not worse, of equal ones the fastest."""
    record["target_ms"], record["target_mb"] = target_ms, target_mb
    for form in record["forms"]:
        form["reaches"] = ratio(form, target_ms, target_mb) <= 1
    fit = [form for form in record["forms"] if form["not_worse"] and form["reaches"]]
    best = max(fit, key=lambda form: (form["accuracy"], -form["batch_1"]["median"]), default=None)
    given = target_ms is not None or target_mb is not None
    record["chosen"] = best["name"] if given and best is not None else None


def _result(run: RunDirectory, record: ShrinkRecord, sources: Sequence[_Source]) -> Shrunk:
    """What to show.

    Raises:
        RunError: no form that is not worse reaches the targets.
    """
    if record["chosen"] is None:
        if record["target_ms"] is not None or record["target_mb"] is not None:
            raise RunError(nothing_reaches(run, record))
        return Shrunk(record, run.shrink.parent)
    best = next(form for form in record["forms"] if form["name"] == record["chosen"])
    of = next(source for source in sources if best["name"].removeprefix(source.prefix) in FORMS)
    file = run.shrink.parent / str(best["folder"]) / FILE
    return Shrunk(record, run.shrink.parent, usage(of.recipe, Export(file, 0, best["bytes"], "", 0, 0.0)))


def _fingerprint(run: RunDirectory) -> str:
    """Of a run's answers to the validation rows: another model, or other rows, have other ones."""
    with run.predictions("validation").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def distinct(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Names of which those that are taken, or come again, get a number: a, a, b are a, a-2, b."""
    found: list[str] = []
    for name in names:
        numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
        found.append(next(each for each in numbered if each not in {*taken, *found}))
    return found


def _source(run: RunDirectory, shrunk: RunDirectory, prefix: str) -> _Source:
    if not run.finished:
        raise RunError(f"{run.path}: the run is not finished; there is no model to make smaller")
    own, names = (stored_label_names(each.predictions("validation")) for each in (run, shrunk))
    if set(own) != set(names):
        raise RunError(f"{run.path}: the student tells other classes apart than {shrunk.path}")
    if read_data(run)["contents"].get("validation") != read_data(shrunk)["contents"]["validation"]:
        raise RunError(f"{run.path}: the student has other validation rows than {shrunk.path}; divide as there: data.split_seed")
    order = np.array([own.index(name) for name in names], dtype=np.int64)
    return _Source(run, run.load_recipe(), prefix, order)


# --- the forms ----------------------------------------------------------------------------------------------------------------


def _forms(source: _Source, train: Dataset, place: Path) -> Iterator[tuple[str, Path | None, Classifier | None, str]]:
    """The forms of a model, one by one: name, folder and classifier, whose preprocessor makes its inputs; or why there is none."""
    of, saved = source.prefix, source.run.model
    classifier = load_classifier(saved)
    whole = _folder(place, f"{of}fp32")
    export_model(saved, source.recipe, whole)
    yield f"{of}fp32", whole, classifier, ""
    session = Session(whole / FILE)
    drawn = train.select(np.sort(np.random.default_rng(0).permutation(len(train))[:CALIBRATION]))
    samples = content_of(source.recipe.data).samples(drawn, classifier.preprocessor, seed=0, train=False)
    calibration = [_inputs(samples, [row], session) for row in range(len(samples))]
    if isinstance(source.recipe.data, TextData):
        yield _to_8_bits(f"{of}int8 dynamic", whole, classifier, place, [])
    else:
        yield f"{of}int8 dynamic", None, None, "on a CPU convolutions have no such form"
    yield _to_8_bits(f"{of}int8 static", whole, classifier, place, calibration)
    if not isinstance(source.recipe.data, TextData):
        return
    fewer = trimmed(classifier, _texts(train))
    if fewer is None:
        why = "its vocabulary is none of WordPiece, or the training texts use all of it"
        yield f"{of}trimmed fp32", None, None, why
        return
    with tempfile.TemporaryDirectory(dir=place, prefix=".trimmed-") as folder:
        save_classifier(fewer, Path(folder))
        smaller = _folder(place, f"{of}trimmed fp32")
        export_model(Path(folder), source.recipe, smaller)
    yield f"{of}trimmed fp32", smaller, fewer, ""
    yield _to_8_bits(f"{of}trimmed int8 dynamic", smaller, fewer, place, [])


def _folder(place: Path, name: str) -> Path:
    return place / name.replace(" ", "-")


def _to_8_bits(
    name: str, of: Path, classifier: Classifier, place: Path, calibration: list[dict[str, torch.Tensor]]
) -> tuple[str, Path | None, Classifier | None, str]:
    folder = _folder(place, name)
    folder.mkdir()
    try:
        to_int8(of / FILE, folder / FILE, calibration)
        Session(folder / FILE)
    except RunError as error:
        shutil.rmtree(folder)
        return name, None, None, " ".join(str(error).split())
    for path in of.iterdir():
        if not path.name.startswith(FILE):
            shutil.copy(path, folder)
    return name, folder, classifier, ""


def _texts(train: Dataset) -> Iterator[Any]:
    """The texts of train, whole; of pairs both."""
    if FIRST not in train.column_names:
        yield from Strings(train, "text")
        return
    for text, length in zip(Strings(train, "text"), train[FIRST], strict=True):
        yield segments(text, length)


def _inputs(samples: Samples, rows: Sequence[int], session: Session) -> dict[str, torch.Tensor]:
    """What a file takes of some rows; of a text that is not one of a pair all tokens are of the first one."""
    collated = samples.collate([samples[0, row] for row in rows])
    made = samples.to_device(collated, torch.device("cpu"))
    return {name: made[name] if name in made else torch.zeros_like(made["input_ids"]) for name in session.names}


# --- measured -----------------------------------------------------------------------------------------------------------------


def _measured(
    name: str,
    folder: Path,
    classifier: Classifier,
    samples: Samples,
    source: _Source,
    stored: Predictions,
    *,
    margin: float,
    threads: int,
) -> Form:
    session = Session(folder / FILE, threads=threads)
    logits = np.concatenate([session.logits(_inputs(samples, [row], session)) for row in range(len(samples))])
    thresholds = classifier.thresholds
    answers = replace(
        stored,
        logits=np.ascontiguousarray(logits[:, source.order]),
        thresholds=None if thresholds is None else tuple(thresholds[place] for place in source.order),
    )
    apart = answers.right.astype(np.float64) - stored.right.astype(np.float64)
    interval = mean_interval(apart)
    timed = _timed(folder, samples, session, threads=threads)
    return {
        "name": name,
        "folder": folder.name if (worst := (interval or [float(apart.mean())])[0]) > -margin else None,
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "peak_bytes": int(timed["peak_bytes"]),
        "batch_1": _latency(timed["batch_1"]),
        "batch_32": _latency(timed["batch_32"]),
        "accuracy": float(answers.right.mean()),
        "difference": float(apart.mean()),
        "difference_interval": interval,
        "not_worse": worst > -margin,
        "reaches": False,
    }


def _latency(found: Mapping[str, Any]) -> Latency:
    return {"median": float(found["median"]), "p95": float(found["p95"])}


def _timed(folder: Path, samples: Samples, session: Session, *, threads: int) -> dict[str, Any]:
    """What a fresh process finds, which must answer as this one does.

    The one input is that of the median size, the 32 are drawn by lot.

    Raises:
        RunError: it cannot serve the file, or answers otherwise.
    """
    sizes = np.asarray(samples.sizes)
    median = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    many = np.resize(np.random.default_rng(0).permutation(len(sizes)), MANY).tolist()
    batches = {"batch_1": _inputs(samples, [median], session), "batch_32": _inputs(samples, many, session)}
    with tempfile.TemporaryDirectory(prefix="hftl-shrink-") as beside:
        given = Path(beside) / "inputs.npz"
        np.savez(
            given,
            allow_pickle=False,
            **{f"{name}/{key}": tensor.numpy() for name, batch in batches.items() for key, tensor in batch.items()},
        )
        command = [sys.executable, "-P", "-W", "ignore", str(TIME), str(folder / FILE), str(given), str(threads), str(SECONDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{folder / FILE}: cannot be served: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    for name, batch in batches.items():
        difference(np.asarray(found[name]["logits"], dtype=np.float32), session.logits(batch), f"{name} in a fresh process")
    return found
