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

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from matplotlib.figure import Figure
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
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
from hftl.evaluation.report import BLUE, INK, QUIET, STYLE, VERMILION, WIDTH, save_figure
from hftl.files import PARTIAL, write_json
from hftl.models import load_classifier, save_classifier
from hftl.models.family import Classifier
from hftl.models.vocabulary import trimmed
from hftl.recipe import Recipe, TextData
from hftl.records.data import read_data
from hftl.records.shrink import Form, Latency, LeftOut, ShrinkRecord
from hftl.run import RunDirectory
from hftl.sharing.export import FILE, Export, Session, check_installed, difference, export_model, to_int8, usage
from hftl.terminal import Say, Shown
from hftl.training.machine import disk_errors
from hftl.training.rows_again import read_again
from hftl.wording import size

TIME = Path(__file__).parent / "sharing" / "time_onnx.py"
SECONDS = 3.0
"""That the answers to one batch are timed for, but for the first few."""
CALIBRATION = 128
"""Training rows that show how large activations are."""
MANY = 32
"""Inputs of the larger batch that is timed."""
FRONT = "front.png"


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
        yield Text(printable(f"\n{self.folder}/  the forms that are not worse, the table, {FRONT}"))
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
    """Make, measure and keep the smaller forms of a finished run's model in RUN/shrink.

    Args:
        run: a finished one, whose data can be read.
        students: finished runs on the same validation rows.
        target_ms: milliseconds that the median answer to one input may take; None: any.
        target_mb: megabytes that a form may take on the disk; None: any.
        margin: of accuracy that a form may lose, at most.
        threads: of an answer; None: one a core.
        say: is told what is being measured.

    Raises:
        RunError: the extra `onnx` is not installed, the run or a student is not fit, or there is a RUN/shrink already; or no form
            that is not worse reaches the targets: then the table is there.
    """
    check_installed()
    for name, value in (("--target-ms", target_ms), ("--target-mb", target_mb), ("--margin", margin), ("--threads", threads)):
        if value is not None and value <= 0:
            raise RunError(f"{name}: {value:g} is not greater than 0")
    if run.shrink.parent.exists():
        raise RunError(f"{run.shrink.parent}: nothing is written over; remove it first")
    disable_progress_bars()
    sources = [_source(run, run), *(_source(student, run) for student in students)]
    splits = read_again(run)
    if isinstance(splits, str):
        raise RunError(f"{run.path}: its forms cannot be measured: {splits}")
    threads = threads or len(cores.affinity())
    stored = Predictions.load(run.predictions("validation"))
    with run.lock(), disk_errors(run):
        for left in run.path.glob(f".shrink.*{PARTIAL}"):
            shutil.rmtree(left)
        place = run.path / f".shrink.{os.getpid()}{PARTIAL}"
        place.mkdir()
        forms, left_out = list[Form](), list[LeftOut]()
        recipes: dict[str, Recipe] = {}  # of each form
        for source in sources:
            for name, folder, classifier, why in _forms(source, splits.train, place):
                if folder is None or classifier is None:
                    left_out.append({"name": name, "why": why})
                    continue
                say(f"measuring {name}")
                samples = content_of(source.recipe.data).samples(splits.validation, classifier.preprocessor, seed=0, train=False)
                form = _measured(name, folder, classifier, samples, source, stored, margin=margin, threads=threads)
                form["reaches"] = _ratio(form, target_ms, target_mb) <= 1
                forms.append(form)
                recipes[name] = source.recipe
        kept = {form["folder"] for form in forms}
        for folder in [path for path in place.iterdir() if path.name not in kept]:  # forms of 8 bits were made of some of them
            shutil.rmtree(folder)
        given = target_ms is not None or target_mb is not None
        fit = [form for form in forms if form["not_worse"] and form["reaches"]]
        best = max(fit, key=lambda form: (form["accuracy"], -form["batch_1"]["median"]), default=None) if given else None
        record: ShrinkRecord = {
            "time": now(),
            "processor": cpu_name() or "not recorded",
            "threads": threads,
            "runtime": f"onnxruntime {metadata.version('onnxruntime')}",
            "n": len(stored),
            "margin": margin,
            "target_ms": target_ms,
            "target_mb": target_mb,
            "forms": forms,
            "left_out": left_out,
            "chosen": None if best is None else best["name"],
        }
        write_json(place / run.shrink.name, record)
        _draw(record, place / FRONT)
        place.rename(run.shrink.parent)
    if given and best is None:
        raise RunError(_nothing_reaches(run, record))
    lines = ""
    if best is not None:
        file = run.shrink.parent / str(best["folder"]) / FILE
        lines = usage(recipes[best["name"]], Export(file, 0, best["bytes"], "", 0, 0.0))
    return Shrunk(record, run.shrink.parent, lines)


def _source(run: RunDirectory, shrunk: RunDirectory) -> _Source:
    if not run.finished:
        raise RunError(f"{run.path}: the run is not finished; there is no model to make smaller")
    own, names = (stored_label_names(each.predictions("validation")) for each in (run, shrunk))
    if set(own) != set(names):
        raise RunError(f"{run.path}: the student tells other classes apart than {shrunk.path}")
    if read_data(run)["contents"].get("validation") != read_data(shrunk)["contents"]["validation"]:
        raise RunError(f"{run.path}: the student has other validation rows than {shrunk.path}; divide as there: data.split_seed")
    order = np.array([own.index(name) for name in names], dtype=np.int64)
    return _Source(run, run.load_recipe(), "" if run is shrunk else f"{run.path.resolve().name} ", order)


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


# --- the choice ---------------------------------------------------------------------------------------------------------------


def _ratio(form: Form, target_ms: float | None, target_mb: float | None) -> float:
    """How far a form is from its targets: 1 and less reaches them; 7.5 ms where 5 are asked for is 1.5."""
    ratios = [0.0]
    if target_ms is not None:
        ratios.append(1e3 * form["batch_1"]["median"] / target_ms)
    if target_mb is not None:
        ratios.append(form["bytes"] / 1e6 / target_mb)
    return max(ratios)


def _nothing_reaches(run: RunDirectory, record: ShrinkRecord) -> str:
    target_ms, target_mb = record["target_ms"], record["target_mb"]
    asked = [] if target_ms is None else [f"{target_ms:g} ms for one input"]
    asked += [] if target_mb is None else [f"{target_mb:g} MB"]
    usable = [form for form in record["forms"] if form["not_worse"]] or record["forms"]
    nearest = min(usable, key=lambda form: _ratio(form, target_ms, target_mb))
    reach = [form["name"] for form in record["forms"] if form["reaches"]]
    worse = f" What reaches it is worse: {', '.join(reach)}." if reach else ""
    return (
        f"{run.path}: no form that is not worse reaches {' and '.join(asked)}. The nearest is {nearest['name']}:"
        f" {1e3 * nearest['batch_1']['median']:.3g} ms, {nearest['bytes'] / 1e6:.3g} MB, accuracy"
        f" {nearest['difference']:+.4f}.{worse} The table is in {run.shrink.parent}. A smaller network that it teaches is another"
        f" form:  hftl distill {run.path} --student RECIPE, and then --student THAT_RUN"
    )


def table_of(record: ShrinkRecord) -> Table:
    """The forms, a line each."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2))
    for heading in ("form", "size", "memory", "1 input, ms", "p95", f"{MANY} inputs, ms", "p95", "accuracy", "difference", ""):
        table.add_column(heading, justify="left" if heading in ("form", "") else "right", no_wrap=True)
    for form in record["forms"]:
        interval = form["difference_interval"]
        shown = "" if interval is None else f" [{interval[0]:+.4f}, {interval[1]:+.4f}]"
        verdict = "not worse" if form["not_worse"] else "worse, or not settled"
        table.add_row(
            printable(form["name"]),
            size(form["bytes"]),
            size(form["peak_bytes"]),
            *(f"{1e3 * value:.3g}" for batch in (form["batch_1"], form["batch_32"]) for value in (batch["median"], batch["p95"])),
            f"{form['accuracy']:.4f}",
            f"{form['difference']:+.4f}{shown}",
            verdict + (", chosen" if form["name"] == record["chosen"] else ""),
        )
    return table


def _draw(record: ShrinkRecord, path: Path) -> None:
    """Accuracy over the time of one answer, the area of a point its size; what is not worse is filled."""
    forms = record["forms"]
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
        axes = figure.subplots()
        largest = max(form["bytes"] for form in forms)
        for form in forms:
            at, colour = 1e3 * form["batch_1"]["median"], BLUE if form["not_worse"] else QUIET
            fill = colour if form["not_worse"] else "none"
            axes.scatter(at, form["accuracy"], s=20 + 380 * form["bytes"] / largest, color=fill, edgecolors=colour, alpha=0.75)
            label = printable(f"{form['name']}, {size(form['bytes'])}")
            axes.annotate(label, (at, form["accuracy"]), xytext=(7, 5), textcoords="offset points", fontsize=8, color=INK)
        front = front_of(forms)
        axes.plot(
            [1e3 * form["batch_1"]["median"] for form in front], [form["accuracy"] for form in front], color=BLUE, linewidth=1
        )
        if record["target_ms"] is not None:
            axes.axvline(record["target_ms"], color=VERMILION, linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.margins(x=0.25, y=0.15)
        axes.set_xlabel(f"milliseconds for one input, {record['threads']} threads")
        axes.set_ylabel("accuracy on validation")
        axes.set_title("smaller forms of the model: filled is not worse, the area is the size on the disk")
        save_figure(figure, path)


def front_of(forms: Sequence[Form]) -> list[Form]:
    """The forms that no other one beats in accuracy, time and size at once, the fastest first."""

    def beats(one: Form, other: Form) -> bool:
        better = [
            (one["accuracy"], other["accuracy"]),
            (-one["batch_1"]["median"], -other["batch_1"]["median"]),
            (-one["bytes"], -other["bytes"]),
        ]
        return all(a >= b for a, b in better) and any(a > b for a, b in better)

    left = [form for form in forms if not any(beats(other, form) for other in forms)]
    return sorted(left, key=lambda form: form["batch_1"]["median"])
