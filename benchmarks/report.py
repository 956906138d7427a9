"""From results to docs/performance.md: medians, ratios, quality, memory, a plot. Everything is computed from the JSON files.

Text between `<!-- begin: NAME -->` and `<!-- end: NAME -->` is written here; the rest of the page is a person's.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jobs import JOBS, Job, Rival

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """hftl against one rival in one job at one size; times in seconds, memory in bytes."""

    job: Job
    rival: Rival
    examples: int
    repeats: tuple[int, int]
    """Measurements of hftl and of the rival."""
    ours: float
    theirs: float
    ratios: tuple[float, ...]
    """Rival over hftl, repeat by repeat."""
    our_accuracy: float | None
    their_accuracy: float | None
    difference: tuple[float, float, float] | None
    """Accuracy of hftl less the rival's: mean, and its 95 % interval."""
    our_memory: float
    their_memory: float

    @property
    def ratio(self) -> float:
        """Of the medians: how many times as fast hftl is."""
        return self.theirs / self.ours

    @property
    def worse(self) -> bool:
        """Whether hftl's accuracy is lower by more than the interval."""
        return self.difference is not None and self.difference[2] < 0

    @property
    def verdict(self) -> str:
        """Against the target."""
        if self.rival.target is None:
            return "no target"
        said = "reached" if self.ratio >= self.rival.target else "**missed**"
        return f"{said}, **with a lower accuracy**" if self.worse else said


def paired_difference(ours: Sequence[str], theirs: Sequence[str]) -> tuple[float, float, float]:
    """Mean difference of two accuracies on the same rows, with a 95 % interval over the rows (normal approximation).

    Each string is one repeat: "1" where a row was classified right. A row's value is its mean over the repeats, and the interval is
    that of the mean of the rows' differences: "1100" and "1000" differ by 0.25 with a standard error of 0.5 / sqrt(4) = 0.25.
    """
    differences = [mine - other for mine, other in zip(_row_means(ours), _row_means(theirs), strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    error = math.sqrt(sum((value - mean) ** 2 for value in differences) / (n - 1) / n)
    return mean, mean - 1.96 * error, mean + 1.96 * error


def _row_means(repeats: Sequence[str]) -> list[float]:
    return [sum(row == "1" for row in rows) / len(repeats) for rows in zip(*repeats, strict=True)]


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of `n` rows (Wilson): 0.5 of 100 is [0.404, 0.596]."""
    z = 1.96
    middle, width = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - width) / (1 + z * z / n), (middle + width) / (1 + z * z / n)


def compare(results: Sequence[Result]) -> list[Comparison]:
    """Every job, size and rival of which both sides were measured, in the order of the jobs.

    Raises:
        ValueError: two sides were tested on different rows.
    """
    of_side: dict[tuple[str, int, str], list[Result]] = defaultdict(list)
    for result in results:
        if "family" not in result:
            of_side[result["job"], result["examples"], result["side"]].append(result)
    compared = []
    for job in JOBS:
        for examples in sorted({examples for name, examples, _ in of_side if name == job.name}):
            mine = {result["repeat"]: result for result in of_side[job.name, examples, "hftl"]}
            for rival in job.rivals:
                other = {result["repeat"]: result for result in of_side[job.name, examples, rival.name]}
                if mine and other:
                    compared.append(_comparison(job, rival, examples, mine, other))
    return compared


def _comparison(job: Job, rival: Rival, examples: int, ours: Mapping[int, Result], theirs: Mapping[int, Result]) -> Comparison:
    """Of the results of both sides by repeat."""
    if len({result["test_rows"] for result in (*ours.values(), *theirs.values())}) != 1:
        raise ValueError(f"{job.name}, {examples} examples: hftl and {rival.name} were not tested on the same rows")
    mine, other = [result["correct"] for result in ours.values()], [result["correct"] for result in theirs.values()]
    tested = bool(mine[0])
    return Comparison(
        job=job,
        rival=rival,
        examples=examples,
        repeats=(len(ours), len(theirs)),
        ours=median(result["seconds"] for result in ours.values()),
        theirs=median(result["seconds"] for result in theirs.values()),
        ratios=tuple(theirs[repeat]["seconds"] / ours[repeat]["seconds"] for repeat in sorted(set(ours) & set(theirs))),
        our_accuracy=_mean(_row_means(mine)) if tested else None,
        their_accuracy=_mean(_row_means(other)) if tested else None,
        difference=paired_difference(mine, other) if tested else None,
        our_memory=median(result["peak_rss"] for result in ours.values()),
        their_memory=median(result["peak_rss"] for result in theirs.values()),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- tables -------------------------------------------------------------------------------------------------------------------


def time_table(comparisons: Sequence[Comparison]) -> str:
    """Seconds, ratio and target, a line for each comparison."""
    lines = [
        "| job | examples | against | hftl | rival | repeats | times as fast | to reach | |",
        "|---|--:|---|--:|--:|--:|--:|--:|---|",
    ]
    for c in comparisons:
        spread = f" [{min(c.ratios):.2f}, {max(c.ratios):.2f}]" if len(c.ratios) > 1 else ""
        target = "" if c.rival.target is None else f"{c.rival.target:g}"
        lines.append(
            f"| {c.job.title} | {c.examples:,} | {c.rival.title} | {c.ours:.1f} s | {c.theirs:.1f} s"
            f" | {c.repeats[0]}, {c.repeats[1]} | **{c.ratio:.2f}**{spread} | {target} | {c.verdict} |"
        )
    return "\n".join(lines)


def quality_table(comparisons: Sequence[Comparison], tests: Mapping[str, int]) -> str:
    """Accuracy and peak memory, a line for each comparison."""
    lines = [
        "| job | examples | against | accuracy of hftl | of the rival | difference | peak memory of hftl | of the rival |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for c in comparisons:
        memory = f"{c.our_memory / 1e9:.2f} GB | {c.their_memory / 1e9:.2f} GB"
        if c.our_accuracy is None or c.their_accuracy is None or c.difference is None:
            quality = "not measured | not measured | "
        else:
            n = tests[c.job.name]
            quality = " | ".join(
                f"{share:.3f} [{low:.3f}, {high:.3f}]"
                for share in (c.our_accuracy, c.their_accuracy)
                for low, high in [wilson(share, n)]
            )
            quality += f" | {c.difference[0]:+.3f} [{c.difference[1]:+.3f}, {c.difference[2]:+.3f}]"
        lines.append(f"| {c.job.title} | {c.examples:,} | {c.rival.title} | {quality} | {memory} |")
    return "\n".join(lines)


def roofline_table(results: Sequence[Result]) -> str:
    """Operations a second of a training step beside those of a matrix product, a line for each family."""
    lines = [
        "| family | a step is | step | matrix product | of the limit | matrix side |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for result in results:
        step, rate = result["step_flops_per_second"], result["matrix_flops_per_second"]
        lines.append(
            f"| {result['title']} | {result['step']}, {result['precision']} | {step / 1e9:.1f} GFLOP/s | {rate / 1e9:.0f} GFLOP/s"
            f" | {step / rate:.0%} | {result['matrix_side']:,} |".replace("%", " %")
        )
    return "\n".join(lines)


def missing(comparisons: Sequence[Comparison]) -> list[str]:
    """What the table of targets has and the measurements do not."""
    there = {(c.job.name, c.rival.name) for c in comparisons}
    return [f"{job.title}, {rival.title}" for job in JOBS for rival in job.rivals if (job.name, rival.name) not in there]


def setting(results: Sequence[Result]) -> str:
    """Where and with what it was measured."""
    machines = sorted(
        {
            f"{m['cores']} cores of {m['processor']}, {m['memory_gb']} GB" + (f", {m['gpu']}" if m["gpu"] else "")
            for m in (result["machine"] for result in results)
        }
    )
    threads = sorted({result["threads"] for result in results})
    versions: dict[str, set[str]] = defaultdict(set)
    for result in results:
        for package, version in result["versions"].items():
            versions[package].add(version)
    commits = sorted({result["commit"] for result in results})
    load = max(result["machine"]["load_before"] for result in results)
    return (
        f"Measured on {'; '.join(machines)}, {' and '.join(map(str, threads))} threads"
        f" (load before a process at most {load:.1f}), hftl at {', '.join(commits)}, "
        + ", ".join(f"{package} {' and '.join(sorted(versions[package]))}" for package in sorted(versions) if package != "hftl")
        + f". {len(results)} processes."
    )


# --- plot ---------------------------------------------------------------------------------------------------------------------


def plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """How many times as fast, a bar for each comparison, the repeats as dots and the target as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.8 + 0.34 * len(comparisons)), layout="constrained")
    axes = figure.subplots()
    FigureCanvasAgg(figure)
    colours = {"users": "#4878a8", "best": "#d08a3c"}
    for place, c in enumerate(comparisons):
        axes.barh(place, c.ratio, color=colours[c.rival.style], height=0.7)
        axes.plot(c.ratios, [place] * len(c.ratios), "o", color="black", markersize=3)
        if c.rival.target is not None:
            axes.plot([c.rival.target] * 2, [place - 0.45, place + 0.45], color="#b02020", linewidth=2)
        axes.annotate(
            f"{c.ratio:.1f}", (max((c.ratio, *c.ratios)), place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(comparisons)), [f"{c.job.name}, {c.examples:,}: {c.rival.name}" for c in comparisons], fontsize=8)
    axes.set_ylim(len(comparisons) - 0.4, -0.6)
    ticks = [value for value in (0.5, 1, 2, 5, 10, 20, 50, 100) if value <= 2 * max(max((c.ratio, *c.ratios)) for c in comparisons)]
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axes.minorticks_off()
    axes.set_xlabel("times as fast as the rival (bar: ratio of medians, dots: repeats, red: to reach)")
    handles = [axes.barh(0, 0, color=colour) for colour in colours.values()]
    axes.legend(handles, ["as users run it", "at its best"], loc="lower right", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})


# --- the page -----------------------------------------------------------------------------------------------------------------


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every result in a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def replace_between(page: str, name: str, text: str) -> str:
    """The page with `text` between the two marks of that name.

    Raises:
        ValueError: the page has no such marks.
    """
    marks = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {marks[0]} ... {marks[1]}")
    return pattern.sub(lambda _: f"{marks[0]}\n\n{text}\n\n{marks[1]}", page)


def render(results: Sequence[Result], *, device: str) -> str:
    """What stands between the marks of a device, but for the plot itself."""
    comparisons = compare(results)
    rooflines = [result for result in results if "family" in result]
    if not comparisons and not rooflines:
        return "Not measured."
    parts = [setting(results)]
    if comparisons:
        n = {result["job"]: len(result["correct"]) for result in results if "family" not in result}
        parts += ["### Time", time_table(comparisons)]
        if absent := missing(comparisons):
            parts.append("Not measured: " + "; ".join(absent) + ".")
        parts += [f"![how many times as fast as each rival](figures/benchmarks_{device}.png)"]
        parts += ["### Quality and memory", quality_table(comparisons, n)]
    if rooflines:
        parts += ["### The step and the machine's limit", roofline_table(rooflines)]
    return "\n\n".join(parts)


def write_report(results: Path, docs: Path) -> None:
    """Fill docs/performance.md and the plots from the folders of results: one for each device that the page has marks for.

    Raises:
        ValueError: there are results of a device that the page has no marks for.
    """
    page_file = docs / "performance.md"
    page = page_file.read_text(encoding="utf-8")
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        found = read_results(folder)
        if not found:
            continue
        if comparisons := compare(found):
            plot(comparisons, docs / "figures" / f"benchmarks_{folder.name}.png")
        page = replace_between(page, folder.name, render(found, device=folder.name))
    page_file.write_text(page, encoding="utf-8")
