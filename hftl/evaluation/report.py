"""The figures of a run: learning curves, confusion matrix, calibration; of several labels an example, how each is found.

They are drawn from history.jsonl, metrics.json and the predictions alone, on figures of their own (pyplot's global state is never
touched), for the width of a page on the Hub. Colours are Okabe & Ito's, which colour-blind readers tell apart
(https://jfly.uni-koeln.de/color/), and matplotlib's cividis and Blues, which order by lightness.
"""

from __future__ import annotations

import io
import platform
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from hftl import fonts
from hftl.errors import RunError
from hftl.evaluation.intervals import wilson_interval
from hftl.evaluation.metrics import calibration_bins
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.targets import Integers, Target, target_of_metrics
from hftl.files import written_whole
from hftl.records.history import read_history
from hftl.records.metrics import Metrics, OneLabelMetrics, SplitMetrics, f1_of, value_of
from hftl.run import RunDirectory

Picture = NDArray[np.uint8]

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, QUIET, BAND = "#333333", "#8a8a8a", "#f3f3f3"
STYLE: dict[str, Any] = {
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "font.family": fonts.DEFAULT,  # the machine's own settings may name a font with other letters
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a class called "$x" is not a formula
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}
WIDTH = 8.0  # inches; a page on the Hub shows it at about 750 pixels, so 10 points are read as 13 pixels
NUMBERED = 12  # up to so many classes, each cell of the confusion matrix says its count and share
MOST_LABELS = 40
LINES = (BLUE, ORANGE, GREEN, "#CC79A7")  # of so many labels each has a line of its own colour, and its name
LONGEST = 24  # width of a class name: of so many Latin letters, or half as many Chinese ones
CURVES = "learning_curves.png"
LETTER = 0.085  # inches; how wide a letter of a name is drawn
BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "handlelength": 1.4}  # a legend that hides no curve


def write_figures(run: RunDirectory, metrics: Metrics) -> list[Path]:
    """Draw learning_curves.png and what shows a target of this kind into the run's figures; returns their paths.

    Of one label that is confusion_matrix_<split>.png and calibration.png. `metrics` are those of metrics.json. The split is test,
    or validation where there is no test split.

    Raises:
        RunError: the run has no history.
    """
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # the stubs want each key as a literal
        return [save_figure(_draw(run, name, metrics), run.figures / name) for name in figure_names(metrics)]


def drawn_again(run: RunDirectory, name: str, metrics: Metrics) -> Picture:
    """(height, width, 4) uint8, red, green, blue and opacity: the figure of that name, as `write_figures` would draw it now.

    Raises:
        RunError: it cannot be drawn from what the run has.
    """
    try:
        with mpl.rc_context(STYLE), io.BytesIO() as stream:  # type: ignore[arg-type]
            _draw(run, name, metrics).savefig(stream, format="png")
            return read_picture(stream)
    # Files that a stranger wrote, or that were damaged; hftl's own always have what a figure shows.
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise RunError(f"{run.path}: figures/{name} cannot be drawn from its files ({type(error).__name__}: {error})") from None


def read_picture(file: Path | IO[bytes]) -> Picture:
    """(height, width, 4) uint8 of a PNG file."""
    with Image.open(file, formats=["PNG"]) as picture:
        return np.asarray(picture.convert("RGBA"))


def drawn_by() -> str:
    """What draws figures here: another version of matplotlib, or another kind of machine, may set a line elsewhere."""
    versions = ", ".join(f"{name} {_version(name)}" for name in ("hftl", "matplotlib"))
    return f"{versions}, {platform.system() or 'unknown'} {platform.machine() or 'unknown'}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout that is imported and not installed
        return "unknown"


def same_everywhere(metrics: Metrics) -> bool:
    """Whether the names of all classes are drawn with the font that comes with matplotlib, and not with one of this machine."""
    return all(_drawable(_target_of(metrics).names_shown(values))[1] == [fonts.DEFAULT] for values in metrics.values())


def _draw(run: RunDirectory, name: str, metrics: Metrics) -> Figure:
    split = _split_shown(metrics)
    if name == CURVES:
        history = read_history(run)
        if not any(record["event"] == "evaluation" for record in history):
            raise RunError(f"{run.history}: no evaluation is recorded; there are no learning curves to draw")
        return learning_curves(history)
    for shown in (split, *metrics):
        draw = _target_of(metrics).figures(shown).get(name)
        if draw is not None:
            return draw(run, metrics[shown])
    raise KeyError(name)


def figure_names(metrics: Metrics) -> tuple[str, ...]:
    """The files that `write_figures` draws."""
    return CURVES, *_target_of(metrics).figures(_split_shown(metrics))


def _target_of(metrics: Metrics) -> Target:
    return target_of_metrics(metrics[_split_shown(metrics)])


def _split_shown(metrics: Metrics) -> str:
    return "test" if "test" in metrics else "validation"


# --- learning curves ----------------------------------------------------------------------------------------------------------


def learning_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, validation metrics and the learning rate of each layer group, over the steps of all stages."""
    steps = _by_step(history, "step")
    evaluations = _by_step(history, "evaluation")
    figure = Figure(figsize=(WIDTH, 7.0), layout="constrained")
    loss, quality, rates = figure.subplots(3, 1, sharex=True, height_ratios=[1.15, 1.0, 1.0])
    _stage_bands((loss, quality, rates), [*steps, *evaluations])

    if steps:
        loss.plot(
            [r["step"] for r in steps], [r["loss"] for r in steps], color=BLUE, alpha=0.3, linewidth=1, label="train, as logged"
        )
    at = [r["step"] for r in evaluations]
    dots = {"marker": "o", "markersize": 4}
    loss.plot(at, [r["train_loss"] for r in evaluations], color=BLUE, label="train, epoch", **dots)
    loss.plot(at, [r["validation"]["log_loss"] for r in evaluations], color=VERMILION, label="validation", **dots)
    loss.set_ylabel("loss")
    loss.set_ylim(bottom=0)

    quality.plot(at, [r["validation"]["accuracy"] for r in evaluations], color=BLUE, label="accuracy", **dots)
    quality.plot(
        at, [r["validation"]["macro_f1"] for r in evaluations], color=ORANGE, linestyle=(0, (4, 2)), label="macro F1", **dots
    )
    # Of each stage the last epoch whose weights were kept: what the next stage began with. The last of all is what is delivered.
    *handed_on, delivered = {r["stage"]: r for r in evaluations if r["kept"]}.values()
    for label, records, colour, width in (("handed on", handed_on, QUIET, 1.2), ("delivered", [delivered], INK, 2.2)):
        ring: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": width}
        at_accuracy = [r["validation"]["accuracy"] for r in records]
        if records:
            quality.plot([r["step"] for r in records], at_accuracy, label=label, linestyle="none", markeredgecolor=colour, **ring)
    quality.set_ylabel("validation")
    quality.margins(y=0.15)
    for panel in (loss, quality):
        panel.legend(**BESIDE)

    _learning_rates(rates, steps)
    rates.set_xlabel("step")
    rates.set_xlim(left=0)
    rates.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def rates_figure(steps: Sequence[Mapping[str, Any]]) -> Figure:
    """The learning rate of each layer group over the steps of all stages; `steps` are lines as a history has them."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        panel = figure.subplots()
        _stage_bands((panel,), steps)
        _learning_rates(panel, steps)
        panel.set_xlabel("step")
        panel.set_xlim(0, steps[-1]["step"])
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        return figure


def _by_step(history: Sequence[Mapping[str, Any]], event: str) -> list[Mapping[str, Any]]:
    """Records of one kind in the order of their steps; a resumed run repeats some, and the later line counts."""
    latest = {record["step"]: record for record in history if record["event"] == event}
    return [latest[step] for step in sorted(latest)]


def _stage_bands(panels: Sequence[Axes], records: Sequence[Mapping[str, Any]]) -> None:
    ends: dict[str, int] = {}
    for record in sorted(records, key=lambda record: record["step"]):
        ends[record["stage"]] = record["step"]
    start, whole = 0, max(ends.values())
    for number, (name, end) in enumerate(ends.items(), start=1):
        for panel in panels:
            if number % 2 == 0:
                panel.axvspan(start, end, color=BAND, zorder=0, linewidth=0)
            if start:
                panel.axvline(start, color="#cfcfcf", linewidth=0.8, zorder=1)
        label = _short(f"{number} {name}", max(4, round(90 * (end - start) / whole)))
        panels[0].annotate(
            label, ((start + end) / 2, 1.0), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center"
        )
        start = end


def _learning_rates(panel: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    """A line for each layer group, dark at the input, bright at the output; groups with the same rates share a line."""
    by_width = sorted(steps, key=lambda record: -len(record["lr"]))  # a step names the groups that train, in the chain's order
    names = dict.fromkeys(name for record in by_width for name in record["lr"])
    curves: dict[tuple[float, ...], list[str]] = {}
    for name in names:
        # A rate of 0 (the first step of a warmup) has no place on a log scale.
        curve = tuple(record["lr"].get(name) or 0.0 for record in steps)
        curves.setdefault(curve, []).append(name)
    colours = mpl.colormaps["cividis"](np.linspace(0.0, 0.85, len(curves)))
    at = np.array([record["step"] for record in steps])
    stages = np.array([record["stage"] for record in steps])
    drawn_over: dict[str, Counter[bytes]] = {
        stage: Counter(np.array(curve)[stages == stage].tobytes() for curve in curves) for stage in {*stages.tolist()}
    }
    for (curve, members), colour in zip(curves.items(), colours, strict=True):
        label = members[0] if len(members) == 1 else f"{members[0]} to {members[-1]}"
        for stage in dict.fromkeys(stages.tolist()):  # no line from one stage's last rate to the next one's first
            here = stages == stage
            rates = np.array(curve)[here]
            drawn_over[stage][rates.tobytes()] -= 1  # what is left comes on top of it, and is not to hide it
            panel.plot(
                at[here],
                np.where(rates > 0, rates, np.nan),
                color=colour,
                label=label,
                linewidth=1.8 + 2.6 * min(3, drawn_over[stage][rates.tobytes()]),
                marker="o" if here.sum() == 1 else None,
                markersize=4,
            )
            label = "_"
    panel.set_yscale("log")
    rates = [rate for curve in curves for rate in curve if rate > 0]
    if rates:  # schedules that end near 0 leave the frame there, so that the groups can be told apart above
        panel.set_ylim(max(0.7 * min(rates), 1e-4 * max(rates)), 1.6 * max(rates))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.0e}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylabel("learning rate")
    handles, labels = panel.get_legend_handles_labels()
    handles, labels = handles[::-1], labels[::-1]  # the head is the highest line
    if len(labels) > 9:
        places = np.unique(np.linspace(0, len(labels) - 1, 9).round().astype(int))
        handles, labels = [handles[i] for i in places], [labels[i] for i in places]
    if labels:
        panel.legend(handles, [_short(label) for label in labels], **BESIDE)


# --- confusion matrix ---------------------------------------------------------------------------------------------------------


def confusion_figure(values: OneLabelMetrics, split: str) -> Figure:
    """The confusion matrix: colour is the share of the row (of the true class), numbers are counts and shares.

    With more than twelve classes the cells have colour only (on a square root scale, so that a rare confusion is seen), columns
    are numbered as the rows are, and the most frequent confusions are written below. Classes are numbered too where their names
    cannot tell them apart here: where two look the same when shortened, or no font of this machine has their letters. Such a name
    is left out, and a line below says where it stands.
    """
    confusion = np.array(values["confusion"])
    classes = len(confusion)
    n = confusion.sum(axis=1)
    shares = np.divide(confusion, n[:, None], out=np.zeros(confusion.shape), where=n[:, None] > 0)
    names, families = _drawable([row["label"] for row in values["per_class"]])
    numbered = classes > NUMBERED or len({*names, ""}) <= classes  # two are the same, or one is ""
    rows = [f"{fonts.in_figure(name)}  ({count:,})" if name else f"({count:,})" for name, count in zip(names, n, strict=True)]
    columns = [fonts.in_figure(name) for name in names]
    if numbered:
        rows = [f"{name}   {number}" for number, name in enumerate(rows, start=1)]
        columns = [str(number) for number in range(1, classes + 1)]
    which = "other names" if any(names) else "names"
    no_font = f"No font of this machine has the letters of the {which}: see the table of classes, in this order."
    note = "" if all(names) else no_font
    note_room = 0.09 if note and classes <= NUMBERED else 0.025 if note else 0.0
    room_below = note_room + (0.15 if classes > NUMBERED else 0.0)
    layout = ConstrainedLayoutEngine(rect=(0.0, room_below, 1.0, 1.0 - room_below))
    if classes <= NUMBERED:
        height = 3.6 if classes == 2 else 5.2 if classes <= 6 else 7.0
        figure = Figure(figsize=(WIDTH, height), layout=layout)
        panel = figure.subplots()
        panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        room_beside = LETTER * max(map(_width, rows)) + 0.4  # and the name of the axis
        rotated = LETTER * max(map(_width, columns)) > (WIDTH - room_beside) / classes
        panel.set_yticks(range(classes), rows)
        panel.set_xticks(
            range(classes), columns, rotation=45 if rotated else 0, rotation_mode="anchor", ha="right" if rotated else "center"
        )
        if not rotated:
            panel.tick_params(axis="x", pad=10)
        size = 12 if classes == 2 else 10 if classes <= 6 else 8
        for row, column in zip(*np.nonzero(confusion), strict=True):
            text = f"{confusion[row, column]:,}\n{100 * shares[row, column]:.0f} %"
            colour = "white" if shares[row, column] > 0.5 else INK
            panel.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, linespacing=1.25)
        panel.set_xlabel("predicted (numbered as the rows)" if numbered else "predicted")
    else:
        figure = Figure(figsize=(WIDTH, 8.8), layout=layout)
        panel = figure.subplots()
        panel.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1), aspect="auto")
        size = 9 if classes <= 20 else 7 if classes <= 40 else 5
        panel.set_yticks(range(classes), rows, fontsize=size)
        panel.set_xticks(range(classes), columns, fontsize=size, rotation=90 if classes > 25 else 0)
        panel.set_xlabel("predicted (numbered as the rows)")
        heading = "Most frequent confusions (share of the true class)"
        figure.text(0.02, note_room + 0.14, heading, va="top", fontsize=9).set_in_layout(False)
        times = Counter(names)
        called = [
            fonts.in_figure(name) if name and times[name] == 1 else f"class {number}" for number, name in enumerate(names, start=1)
        ]
        lines = _worst_confusions(confusion, n, called)
        for x, half in ((0.02, lines[: -(-len(lines) // 2)]), (0.51, lines[-(-len(lines) // 2) :])):
            figure.text(x, note_room + 0.115, "\n".join(half), va="top", fontsize=7.5, linespacing=1.5).set_in_layout(False)
    if note:
        figure.text(0.02, 0.01, note, va="bottom", fontsize=7.5, color=QUIET).set_in_layout(False)
    panel.set_ylabel("true (examples)")
    for spine in panel.spines.values():
        spine.set_visible(False)
    # White lines between the cells.
    panel.grid(False)
    panel.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    panel.grid(True, which="minor", color="white", linewidth=1.5 if classes <= NUMBERED else 0.5)
    figure.suptitle(
        f"{split.capitalize()} split, n = {values['n']:,}, accuracy {values['accuracy']:.3f}", x=0.01, ha="left", fontsize=11
    )
    for written in figure.findobj(Text):
        written.set_fontfamily(families)
    return figure


def labels_figure(values: SplitMetrics, split: str) -> Figure:
    """Of several labels an example: F1 of each label as a bar, best first, with its precision and recall.

    Of more than forty labels the worst forty are shown.
    """
    rows = sorted((row for row in values["per_class"] if row["n"]), key=f1_of)
    left_out = len(rows) - MOST_LABELS
    rows = rows[:MOST_LABELS]
    names, families = _drawable([row["label"] for row in rows])
    called = [f"{fonts.in_figure(name) or '(no font)'}  ({row['n']:,})" for name, row in zip(names, rows, strict=True)]
    figure = Figure(figsize=(WIDTH, min(8.8, 1.4 + 0.26 * len(rows))), layout="constrained")
    panel = figure.subplots()
    places = np.arange(len(rows))
    panel.barh(places, list(map(f1_of, rows)), color=BLUE, alpha=0.35, height=0.7, label="F1")
    precisions, recalls = [row["precision"] for row in rows], [row["recall"] for row in rows]
    for shares, label, colour, marker in ((precisions, "precision", VERMILION, "|"), (recalls, "recall", INK, ".")):
        known = [(value, place) for place, value in enumerate(shares) if value is not None]
        panel.plot(*zip(*known, strict=True), marker, color=colour, markersize=8, markeredgewidth=2, label=label, clip_on=False)
    panel.axvline(values["macro_f1"], color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)), label="macro F1")
    panel.set_yticks(places, called, fontsize=9 if len(rows) <= 30 else 7)
    panel.set_xlim(0, 1)
    panel.set_ylim(-0.6, len(rows) - 0.4)
    panel.grid(False, axis="y")
    panel.legend(**BESIDE)
    more = f"; the worst {MOST_LABELS} of {len(rows) + left_out} labels" if left_out > 0 else ""
    figure.suptitle(
        f"{split.capitalize()} split, n = {values['n']:,}, macro F1 {values['macro_f1']:.3f}{more}", x=0.01, ha="left", fontsize=11
    )
    for written in figure.findobj(Text):
        written.set_fontfamily(families)
    return figure


def thresholds_figure(predictions: Predictions, values: SplitMetrics, split: str) -> Figure:
    """Of several labels an example: precision against recall, and F1 against the threshold; a line a label, the mean in bold.

    The mean of the curves is over labels, at the same recall: of each the best precision from there on. A dot is where a label's
    own threshold, which validation chose, is on its line. Up to four labels are named.
    """
    rows = [(place, row) for place, row in enumerate(values["per_class"]) if row["n"]]
    names, families = _drawable([row["label"] for _, row in rows])
    figure = Figure(figsize=(WIDTH, 7.6), layout="constrained")
    curves, thresholds = figure.subplots(2, 1)
    recalls, grid = np.linspace(0, 1, 101), np.linspace(0, 1, 201)
    precisions, f1 = np.empty((len(rows), len(recalls))), np.empty((len(rows), len(grid)))
    few = len(rows) <= len(LINES)
    own = [0.5] * len(values["per_class"]) if predictions.thresholds is None else predictions.thresholds
    for line, (place, row) in enumerate(rows):
        scores, positive = predictions.probabilities[:, place], predictions.labels[:, place] > 0
        order = np.argsort(-scores, kind="stable")
        ordered, hits = scores[order], np.cumsum(positive[order])
        last = np.flatnonzero(np.r_[ordered[:-1] != ordered[1:], True])  # of those that score alike
        precision, recall = hits[last] / (last + 1), hits[last] / row["n"]
        best_from = np.maximum.accumulate(precision[::-1])[::-1]
        precisions[line] = best_from[np.searchsorted(recall, recalls - 1e-9)]
        answers = len(scores) - np.searchsorted(ordered[::-1], grid, side="left")
        right = np.r_[0, hits][answers]
        f1[line] = 2 * right / (answers + row["n"])
        look = {"color": LINES[line] if few else QUIET, "linewidth": 1.4 if few else 0.7, "alpha": 1.0 if few else 0.45}
        name = f"{fonts.in_figure(names[line]) or '(no font)'}  ({row['n']:,})" if few else None
        curves.step(np.r_[0, recall], np.r_[precision[0], precision], where="pre", label=name, **look)
        thresholds.plot(grid, f1[line], **look)
        thresholds.plot([own[place]], [f1_of(row)], ".", color=look["color"], markersize=9 if few else 5, clip_on=False)
    mean = {"color": INK, "linewidth": 2.4}
    curves.plot(recalls, precisions.mean(axis=0), label="mean of the labels", **mean)
    thresholds.plot(grid, f1.mean(axis=0), label="macro F1, one for all", **mean)
    reached = {"color": VERMILION, "linewidth": 1.2, "linestyle": (0, (4, 3))}
    thresholds.axhline(values["macro_f1"], label="macro F1, each its own", **reached)
    average = value_of(values, "mean_average_precision")
    curves.set(xlabel="recall", ylabel="precision", title="" if average is None else f"Mean average precision {average:.3f}")
    thresholds.set(xlabel="threshold of the probability", ylabel="F1", title="F1 of each label by its threshold, and their mean")
    for panel in (curves, thresholds):
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1.02)
        panel.legend(**BESIDE)
    more = "" if few else f", {len(rows):,} labels"
    figure.suptitle(f"{split.capitalize()} split, n = {values['n']:,}{more}", x=0.01, ha="left", fontsize=11)
    for written in figure.findobj(Text):
        written.set_fontfamily(families)
    return figure


def _worst_confusions(confusion: Integers, n: Integers, names: Sequence[str], *, most: int = 12) -> list[str]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    places = [divmod(int(place), len(names)) for place in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    return [f"{names[i]} as {names[j]}: {wrong[i, j]:,} ({100 * wrong[i, j] / n[i]:.0f} %)" for i, j in places if wrong[i, j]]


# --- calibration --------------------------------------------------------------------------------------------------------------


def calibration_figure(predictions: Predictions, values: OneLabelMetrics, split: str) -> Figure:
    """Reliability diagram: how often predictions of a given confidence are right, and how many there are of each."""
    bins = [b for b in calibration_bins(predictions.probabilities, predictions.labels) if b.confidence is not None]
    confidence = np.array([b.confidence for b in bins])
    accuracy = np.array([b.correct / b.n for b in bins])
    low, high = np.array([wilson_interval(b.correct, b.n) for b in bins]).T
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    reliability, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    left = min(b.low for b in bins)
    reliability.plot([left, 1], [left, 1], color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)), label="perfectly calibrated")
    reliability.vlines(confidence, accuracy, confidence, color=VERMILION, linewidth=5, alpha=0.35, label="gap")
    reliability.errorbar(
        confidence,
        accuracy,
        yerr=[np.maximum(0, accuracy - low), np.maximum(0, high - accuracy)],
        color=BLUE,
        marker="o",
        markersize=6,
        linewidth=1.2,
        capsize=2,
        linestyle="none",
        label="predictions of a bin, 95 % interval",
    )
    reliability.set_ylabel("share that is right")
    reliability.set_ylim(-0.02, 1.02)
    reliability.legend(loc="lower right")
    error = values["expected_calibration_error"]
    low_chance, high_chance = values["expected_calibration_error_by_chance"]
    by_chance = f" (by chance {low_chance:.3f} to {high_chance:.3f})"
    reliability.set_title(f"{split.capitalize()} split, n = {values['n']:,}, expected calibration error {error:.3f}{by_chance}")
    widths = [b.high - b.low for b in bins]
    of_bin = histogram.bar(
        [b.low for b in bins], [b.n / len(predictions) for b in bins], widths, align="edge", color=BLUE, edgecolor="white"
    )
    histogram.bar_label(of_bin, [f"{b.n:,}" for b in bins], fontsize=8, padding=1)  # one of a thousand is no bar that is seen
    histogram.margins(y=0.3)
    histogram.set_ylabel("predictions")
    histogram.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    histogram.set_xlabel("confidence (probability of the predicted class)")
    histogram.set_xlim(left - 0.01, 1.01)
    return figure


# --- helpers ------------------------------------------------------------------------------------------------------------------


def _drawable(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names as a figure can show them, "" where no font of this machine has the letters; and the families that have them."""
    shown, families, plain = [], {fonts.DEFAULT: None}, fonts.default_face()
    for name in map(_short, names):
        if letters := fonts.missing(name, plain):
            face = fonts.find_face(letters)
            if face is None:
                name = ""
            else:
                families[face.family] = None
        shown.append(name)
    return shown, list(families)


def _short(name: str, longest: int = LONGEST) -> str:
    name = unicodedata.normalize("NFC", " ".join(name.split()))
    if _width(name) <= longest:
        return name
    room = longest - 1 - longest // 3  # names often differ at their end
    return f"{_start(name, room)}…{_end(name, longest // 3)}"


def _start(name: str, room: int) -> str:
    """As many letters of its start as fit; a mark stays with the letter under it."""
    end = 0
    while _width(name[: end + 1]) <= room:
        end += 1
    return name[:end]


def _end(name: str, room: int) -> str:
    start = len(name)
    while _width(name[start - 1 :]) <= room:
        start -= 1
    while unicodedata.category(name[start])[0] == "M":
        start += 1
    return name[start:]


def _width(text: str) -> int:
    """In Latin letters: a Chinese one is twice as wide, a mark stands above or below."""
    wide = {letter: unicodedata.east_asian_width(letter) in "WF" for letter in set(text)}
    return sum(1 + wide[letter] for letter in text if unicodedata.category(letter) not in ("Mn", "Me", "Cf"))


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all, in fonts that have its letters where this machine has such."""
    fonts.settle(figure)
    with written_whole(path) as beside:
        figure.savefig(beside, format="png", metadata={"Software": drawn_by()})
    return path
