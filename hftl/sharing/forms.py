"""The smaller forms of a model in words, as a table and as a figure, from what `hftl shrink` has measured."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from rich.console import Console
from rich.table import Table

from hftl.errors import printable
from hftl.evaluation.report import BLUE, INK, QUIET, STYLE, VERMILION, WIDTH, save_figure
from hftl.records.shrink import Form, ShrinkRecord
from hftl.run import RunDirectory
from hftl.wording import size

MANY = 32
"""Inputs of the larger batch that is timed."""
TABLE_WIDTH = 100


def ratio(form: Form, target_ms: float | None, target_mb: float | None) -> float:
    """How far a form is from its targets: 1 and less reaches them; 7.5 ms where 5 are asked for is 1.5."""
    ratios = [0.0]
    if target_ms is not None:
        ratios.append(1e3 * form["batch_1"]["median"] / target_ms)
    if target_mb is not None:
        ratios.append(form["bytes"] / 1e6 / target_mb)
    return max(ratios)


def nothing_reaches(run: RunDirectory, record: ShrinkRecord) -> str:
    """The message where no form that is not worse reaches the targets: the nearest one, and the way out."""
    target_ms, target_mb = record["target_ms"], record["target_mb"]
    asked = [] if target_ms is None else [f"{target_ms:g} ms for one input"]
    asked += [] if target_mb is None else [f"{target_mb:g} MB"]
    usable = [form for form in record["forms"] if form["not_worse"]] or record["forms"]
    nearest = min(usable, key=lambda form: ratio(form, target_ms, target_mb))
    reach = [form["name"] for form in record["forms"] if form["reaches"]]
    worse = f" What reaches it is worse: {', '.join(reach)}." if reach else ""
    return (
        f"{run.path}: no form that is not worse reaches {' and '.join(asked)}. The nearest is {nearest['name']}:"
        f" {1e3 * nearest['batch_1']['median']:.3g} ms, {nearest['bytes'] / 1e6:.3g} MB, accuracy"
        f" {nearest['difference']:+.4f}.{worse} A smaller network that it teaches is another form:  hftl distill {run.path}"
        f" --student RECIPE, and then --student THAT_RUN\n\n{_as_text(record)}"
    )


def _as_text(record: ShrinkRecord) -> str:
    console = Console(width=TABLE_WIDTH, file=io.StringIO(), record=True)
    console.print(table_of(record))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def table_of(record: ShrinkRecord) -> Table:
    """The forms, a line each, for a terminal of 80 columns; memory and 95th percentiles are on the card."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("form")
    for heading in ("size", "ms for 1", f"for {MANY}", "accuracy", "difference, 95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for form in record["forms"]:
        interval = form["difference_interval"]
        shown = "" if interval is None else f" [{interval[0]:+.3f}, {interval[1]:+.3f}]"
        chosen = form["name"] == record["chosen"]
        table.add_row(
            printable(form["name"]),
            size(form["bytes"]),
            *(f"{1e3 * batch['median']:.3g}" for batch in (form["batch_1"], form["batch_32"])),
            f"{form['accuracy']:.4f}",
            f"{form['difference']:+.3f}{shown}",
            ("chosen" if chosen else "kept") if form["not_worse"] else "",
        )
    return table


def draw(record: ShrinkRecord, path: Path) -> None:
    """Accuracy over the time of one answer, the area of a point its size; what is not worse is filled."""
    forms = record["forms"]
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
        axes = figure.subplots()
        largest = max(form["bytes"] for form in forms)
        for number, form in enumerate(sorted(forms, key=lambda form: form["batch_1"]["median"])):
            at, colour = 1e3 * form["batch_1"]["median"], BLUE if form["not_worse"] else QUIET
            fill = colour if form["not_worse"] else "none"
            axes.scatter(at, form["accuracy"], s=20 + 380 * form["bytes"] / largest, color=fill, edgecolors=colour, alpha=0.75)
            label = printable(f"{form['name']}, {size(form['bytes'])}")
            beside = (7, -14 if number % 2 else 7)  # of neighbours one above and one below
            axes.annotate(label, (at, form["accuracy"]), xytext=beside, textcoords="offset points", fontsize=8, color=INK)
        front = front_of(forms)
        axes.plot(
            [1e3 * form["batch_1"]["median"] for form in front], [form["accuracy"] for form in front], color=BLUE, linewidth=1
        )
        if record["target_ms"] is not None:
            axes.axvline(record["target_ms"], color=VERMILION, linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
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
