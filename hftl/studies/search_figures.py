"""The figures of a tuning study: its course, which key matters, and the values of its trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from hftl import fonts
from hftl.errors import printable
from hftl.evaluation.report import BLUE, INK, QUIET, STYLE, VERMILION, WIDTH, save_figure
from hftl.names import METRICS, as_rank
from hftl.studies.search import Drawn
from hftl.studies.space import OFF, ON, Choice, Dimension, Range, Space, Value
from hftl.studies.study import StudyDirectory
from hftl.studies.trials import Trial

COLOURS = "viridis"
PANELS = 3
"""Slices beside each other."""
AXES = 8
"""Of the parallel coordinates, at the most."""
LONGEST = 22
"""Letters of a name; the end of a key tells it from others."""
ABSENT = -0.12
"""Where the parallel coordinates have a key that a trial does not have."""


def write_figures(
    study: StudyDirectory,
    drawn: Sequence[Drawn],
    done: Mapping[int, Trial],
    space: Space,
    importance: Mapping[str, float] | None,
    *,
    metric: str,
) -> list[str]:
    """Draw them into the study's folder; returns their names. One that would show nothing is left out."""
    seen = [(each, trial) for each in drawn if (trial := done.get(each.number)) is not None and trial.value is not None]
    complete = [(each, trial) for each, trial in seen if trial.state == "complete"]
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figures = {"history.png": _history(seen, metric)}
        if importance:
            figures["importance.png"] = _importance(importance)
        if len(complete) > 1:
            dimensions = _first_by(space.dimensions, importance)
            figures["parallel.png"] = _parallel(complete, dimensions[:AXES], metric)
            figures["slices.png"] = _slices(complete, dimensions, metric)
        study.figures.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            save_figure(figure, study.figures / name)
    return list(figures)


def _first_by(dimensions: Sequence[Dimension], importance: Mapping[str, float] | None) -> list[Dimension]:
    """What matters most comes first."""
    return sorted(dimensions, key=lambda dimension: -(importance or {}).get(dimension.key, 0.0))


Seen = Sequence[tuple[Drawn, Trial]]


def _history(seen: Seen, metric: str) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes: Axes = figure.subplots()
    for state, style in (("complete", {"color": BLUE}), ("pruned", {"color": QUIET, "markerfacecolor": "white"})):
        points = [(each.number + 1, trial.value) for each, trial in seen if trial.state == state]
        if points:
            axes.plot(*zip(*points, strict=True), "o", markersize=5, label=state, **style)  # type: ignore[arg-type]
    complete = [(each.number + 1, trial.value or 0.0) for each, trial in seen if trial.state == "complete"]
    if complete:
        numbers, values = zip(*complete, strict=True)
        best = np.maximum.accumulate([as_rank(metric, value) for value in values])
        until = max(each.number + 1 for each, _ in seen)
        steps = [as_rank(metric, float(value)) for value in best]
        axes.step([*numbers, until], [*steps, steps[-1]], where="post", color=VERMILION, linewidth=1.4, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_title(f"{METRICS[metric].title} on validation, trial by trial")
    axes.legend(loc="best")
    return figure


def _importance(importance: Mapping[str, float]) -> Figure:
    figure = Figure(figsize=(WIDTH, 1.2 + 0.36 * len(importance)), layout="constrained")
    axes: Axes = figure.subplots()
    ordered = sorted(importance.items(), key=lambda pair: pair[1])
    bars = axes.barh([_name(key) for key, _ in ordered], [100 * share for _, share in ordered], color=BLUE, height=0.6)
    axes.bar_label(bars, [f"{100 * share:.0f} %" for _, share in ordered], padding=4, color=INK, fontsize=9)
    axes.set_xlim(0, 112 * max(importance.values()))
    axes.xaxis.set_ticklabels([])
    axes.grid(visible=False)
    axes.set_title("What decides whether a trial is among the best tenth")
    return figure


def _parallel(complete: Seen, dimensions: Sequence[Dimension], metric: str) -> Figure:
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes: Axes = figure.subplots()
    values = [trial.value or 0.0 for _, trial in complete]
    low, high = min(values), max(values)
    colours, norm = mpl.colormaps[COLOURS], Normalize(low, high) if high > low else Normalize(low - 0.01, low + 0.01)
    best = max(range(len(values)), key=lambda place: as_rank(metric, values[place]))
    for place in sorted(range(len(values)), key=lambda place: as_rank(metric, values[place])):
        each, _ = complete[place]
        heights = [_height(dimension, each.values.get(dimension.key)) for dimension in dimensions]
        heights.append(float(norm(values[place])))
        style = {"linewidth": 2.6, "alpha": 1.0} if place == best else {"linewidth": 1.1, "alpha": 0.6}
        axes.plot(heights, color=colours(norm(values[place])), **style)  # type: ignore[arg-type]
    for place, dimension in enumerate(dimensions):
        axes.axvline(place, color=QUIET, linewidth=0.8, zorder=0)
        for height, text in _marks(dimension):
            axes.annotate(text, (place, height), xytext=(4, 0), textcoords="offset points", fontsize=8, color=INK, va="center")
        if any(dimension.key not in each.values for each, _ in complete):
            axes.annotate(
                "without", (place, ABSENT), xytext=(4, 0), textcoords="offset points", fontsize=8, color=QUIET, va="center"
            )
    axes.axvline(len(dimensions), color=QUIET, linewidth=0.8, zorder=0)
    names = [*(_name(dimension.key) for dimension in dimensions), METRICS[metric].bare]
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_xlim(-0.1, len(dimensions) + 0.1)
    axes.set_ylim(ABSENT - 0.06, 1.08)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.02, aspect=30)
    axes.set_title(f"Each complete trial: its values and its {METRICS[metric].bare}; the best one is drawn thick")
    return figure


def _slices(complete: Seen, dimensions: Sequence[Dimension], metric: str) -> Figure:
    columns = min(PANELS, len(dimensions))
    rows = math.ceil(len(dimensions) / columns)
    figure = Figure(figsize=(WIDTH, 0.5 + 2.5 * rows), layout="constrained")
    panels = np.asarray(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    norm, colours = Normalize(1, max(each.number for each, _ in complete) + 1), mpl.colormaps[COLOURS].reversed()
    for panel, dimension in zip(panels, dimensions, strict=False):
        having = [(each, trial) for each, trial in complete if dimension.key in each.values]
        given = [each.values[dimension.key] for each, _ in having]
        places = given if isinstance(dimension, Range) else [_options(dimension).index(str(value)) for value in given]
        colour = [each.number + 1 for each, _ in having]
        panel.scatter(places, [trial.value for _, trial in having], c=colour, cmap=colours, norm=norm, s=22, alpha=0.85)
        panel.set_xlabel(_name(dimension.key), fontsize=9)
        panel.tick_params(labelsize=8)
        if not isinstance(dimension, Range):
            options = _options(dimension)
            panel.set_xticks(
                range(len(options)), [fonts.shown(_name(option, 12), number) for number, option in enumerate(options, start=1)]
            )
            panel.set_xlim(-0.5, len(options) - 0.5)
        elif dimension.log:
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # a formula is not drawn as one here
            panel.xaxis.set_minor_formatter(NullFormatter())
        elif dimension.whole:
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels[len(dimensions) :]:
        panel.set_visible(False)
    figure.colorbar(ScalarMappable(norm, colours), ax=panels.tolist(), pad=0.02, aspect=30, label="trial")
    figure.suptitle(f"{METRICS[metric].title} of each complete trial, by one key at a time", x=0.02, ha="left", fontsize=11)
    return figure


def _options(dimension: Dimension) -> tuple[str, ...]:
    return dimension.options if isinstance(dimension, Choice) else (ON, OFF)


def _height(dimension: Dimension, value: Value | None) -> float:
    """Where a value stands on its axis, 0 to 1."""
    if value is None:
        return ABSENT
    if isinstance(dimension, Range):
        low, high, here = ((math.log(x) if dimension.log else x) for x in (dimension.low, dimension.high, float(value)))
        return (here - low) / (high - low)
    options = _options(dimension)
    return options.index(str(value)) / (len(options) - 1)


def _marks(dimension: Dimension) -> list[tuple[float, str]]:
    if isinstance(dimension, Range):
        return [(0.0, f"{dimension.low:g}"), (1.0, f"{dimension.high:g}")]
    options = _options(dimension)
    shown = [fonts.shown(_name(option, 14), number) for number, option in enumerate(options, start=1)]
    return [(place / (len(options) - 1), option) for place, option in enumerate(shown)]


def _name(key: str, longest: int = LONGEST) -> str:
    short = printable(key.removeprefix("stages.").removeprefix("model.").removeprefix("data."))
    return short if len(short) <= longest else f"...{short[3 - longest :]}"
