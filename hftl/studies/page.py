"""The page of a study: its table, its figures, and what they say, as one Markdown file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hftl import fonts
from hftl.errors import printable
from hftl.evaluation.report import BLUE, INK, QUIET, STYLE, WIDTH, save_figure
from hftl.files import write_text
from hftl.names import METRICS
from hftl.studies.study import StudyDirectory, read_question
from hftl.studies.trials import Trial


def write_table(study: StudyDirectory, table: pd.DataFrame) -> None:
    """table.csv, a row each."""
    write_text(study.table, table.to_csv(index=False))


def write_page(
    study: StudyDirectory,
    *,
    title: str,
    sentences: Sequence[str],
    table: Sequence[Sequence[str]],
    figures: Sequence[str],
    holds: str = "Every trial is in trials/, with its recipe; table.csv has a row for each.",
) -> None:
    """README.md: the question, what came out in words, the table and the figures; `holds` says what else is in the folder."""
    question = read_question(study)
    lines = [f"# {_plain(title)}", ""]
    lines += [f"- {_plain(sentence)}" for sentence in sentences]
    lines += ["", *markdown_table(table), ""]
    lines += [line for name in figures for line in (f"![{name.removesuffix('.png')}](figures/{name})", "")]
    asked = ", ".join(f"{key} {_value(value)}" for key, value in question.settings.items())
    lines += [f"`hftl {question.kind}`{'; ' if asked else ''}{_plain(asked)}. {holds}", ""]
    write_text(study.page, "\n".join(lines))


def markdown_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows, the first as head; every column but the first is a number."""
    head, *others = rows
    yield _row(head)
    yield _row(["---", *["---:"] * (len(head) - 1)])
    yield from (_row(row) for row in others)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """A user's words in Markdown: one line, and no table, link or tag of their own."""
    one_line = printable(" ".join(text.split()))
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in one_line)


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def draw_shares(study: StudyDirectory, rows: Sequence[tuple[str, float, float, float]], *, metric: str) -> None:
    """figures/accuracy.png, or that of another metric: a dot with its interval for each (name, share, low, high)."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, 1.2 + 0.35 * len(rows)), layout="constrained")
        axes: Axes = figure.subplots()
        for place, (_, share, low, high) in enumerate(rows):
            axes.plot([low, high], [place, place], color=BLUE, linewidth=1.5)
            axes.plot([share], [place], "o", color=INK, markersize=5)
        axes.set_yticks(range(len(rows)), [fonts.shown(printable(name), number) for number, (name, *_) in enumerate(rows, start=1)])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{METRICS[metric].bare} on validation, with its 95 % interval")
        study.figures.mkdir(parents=True, exist_ok=True)
        save_figure(figure, study.figures / f"{metric}.png")


def draw_arms(study: StudyDirectory, trials: Mapping[str, list[Trial]], *, metric: str) -> None:
    """figures/arms.png: a dot for each trial, and the mean of each arm."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, 1.2 + 0.45 * len(trials)), layout="constrained")
        axes: Axes = figure.subplots()
        for place, row in enumerate(trials.values()):
            values = [trial.value for trial in row if trial.state == "complete" and trial.value is not None]
            axes.plot(values, np.full(len(values), place), "o", color=BLUE, alpha=0.55, markersize=6)
            if values and place == 0 and len(trials) > 1:
                axes.axvline(float(np.mean(values)), color=QUIET, linewidth=0.8, linestyle="--", zorder=0)
            if values:
                axes.plot([float(np.mean(values))] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=2)
        axes.set_yticks(
            range(len(trials)), [fonts.shown(printable(arm)[:32], number) for number, arm in enumerate(trials, start=1)]
        )
        axes.set_ylim(len(trials) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{METRICS[metric].bare} on validation: each trial, and the mean")
        study.figures.mkdir(parents=True, exist_ok=True)
        save_figure(figure, study.figures / "arms.png")
