"""Two runs beside each other: what each reaches on the rows that both were tested on, and whether the difference is luck.

Everything is computed from the stored predictions of finished runs, so no model runs and no split is opened. Both models answered
the same rows, so that differences are paired: what is hard for both cancels out.

Shapes: N rows that are shared, K classes, R resamples, C cells.

References: McNemar 1947, doi:10.1007/BF02295996, as an exact test with mid-p (Fagerland et al. 2013, doi:10.1186/1471-2288-13-91);
Holm 1979 (correction for several pairs); Efron & Tibshirani 1993, chapter 13 (percentile bootstrap); DeLong et al. 1988,
doi:10.2307/2531595 (difference of two AUCs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from scipy.special import bdtr

from hftl.errors import Problem, RunError, printable
from hftl.evaluation.metrics import accuracy_by_size
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.evaluation.targets import Integers
from hftl.files import written_whole
from hftl.names import ONE_LABEL, title_of
from hftl.recipe import difference as recipe_difference
from hftl.records.data import read_data
from hftl.run import RunDirectory
from hftl.terminal import Shown

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Difference:
    """One metric of two runs on the same rows."""

    metric: str
    first: float
    second: float
    difference: float
    """Second minus first."""
    interval: tuple[float, float] | None
    """95 %, paired; None where the resamples do not differ, or the variance is 0."""


@dataclass(frozen=True)
class Pair:
    """Two of the runs."""

    first: str
    second: str
    differences: tuple[Difference, ...]
    right_in_first_alone: int
    right_in_second_alone: int
    p: float
    """Exact McNemar test with mid-p: how often two models that are equally often right would differ as much, or more."""
    p_corrected: float
    """The same by Holm's method, over all pairs that are compared; `p` where there is one."""
    flips_by_class: tuple[dict[str, Any], ...]
    """For each class `label`, `n`, and how many rows are right in one run alone: `first`, `second`; the most flips first."""
    flips_by_size: tuple[dict[str, Any], ...] | None
    """The same for each quarter of the sizes, `low` to `high`; None: sizes are not recorded."""
    recipes: tuple[str, ...]
    """Where the recipes differ, as lines ``key: first -> second``; name and card apart."""


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Runs on the rows that all of them have."""

    split: str
    runs: tuple[str, ...]
    rows: tuple[int, ...]
    """Of each run's split; `shared` of them are in all."""
    shared: int
    pairs: tuple[Pair, ...]
    size_unit: str | None
    table: pa.Table
    """The rows that some runs get right and others wrong: `id`, `label`, and for each run its `prediction` and `probability`."""
    kind: str = ONE_LABEL
    """Of target."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the table."""
        values = {name: getattr(self, name) for name in ("split", "runs", "rows", "shared", "size_unit")}
        return {**values, "flips": len(self.table), "pairs": [asdict(pair) for pair in self.pairs]}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from (Text(printable(line)) for line in report(self))

    @property
    def flips(self) -> DataFrame:
        """The rows that some runs get right and others wrong."""
        frame: DataFrame = self.table.to_pandas()
        return frame

    def write_flips(self, path: Path) -> None:
        """Write the rows that flipped as Parquet, whole or not at all."""
        with written_whole(path) as beside:
            pq.write_table(self.table, beside)


def compare(runs: Sequence[RunDirectory], *, split: str | None = None) -> Comparison:
    """Compare two or more finished runs on the rows that all of them predicted.

    Args:
        runs: their directories; a pair is compared as second minus first, in this order.
        split: `test` or `validation`; None: test where every run has opened it, otherwise validation.

    Raises:
        RunError: fewer than two runs, or one twice, a run without results, other classes, or rows that are not the same.
    """
    if len(runs) < 2 or len({run.path.resolve() for run in runs}) < len(runs):
        raise RunError("a comparison needs two runs or more, and each of them once")
    for run in runs:
        if not run.predictions("validation").is_file():  # a trial that is done has them as well
            run.check_finished("there is nothing to compare")
    split = split or ("test" if all(run.predictions("test").is_file() for run in runs) else "validation")
    names = stored_label_names(runs[0].predictions(split))
    own = [Predictions.load(run.predictions(split)) for run in runs]
    problems = [
        problem for run, each in zip(runs[1:], own[1:], strict=True) for problem in _kind_problems(run, runs[0], each, own[0])
    ]
    problems += [problem for run in runs[1:] for problem in _class_problems(run, runs[0], split)]
    ids = _shared_ids(own)
    if not problems and not ids:
        problems = [Problem(split, "no row is in all of the runs", ("runs of another seed have other validation rows",))]
    _refuse(runs, problems)
    shared = [_take(predictions, ids, _order(run, names, split)) for run, predictions in zip(runs, own, strict=True)]
    problems = [problem for i in range(1, len(runs)) for problem in _row_problems(runs[0], runs[i], split, shared[0], shared[i])]
    _refuse(runs, problems)
    titles = _titles(runs)
    sides = [_Side(*each, each[2].quick_metrics()) for each in zip(titles, runs, shared, strict=True)]
    pairs = [_pair(first, second, names) for first, second in combinations(sides, 2)]
    corrected = holm([pair.p for pair in pairs])
    pairs = [replace(pair, p_corrected=p) for pair, p in zip(pairs, corrected, strict=True)]
    unit = shared[0].size_unit
    flipped, kind = _flipped(titles, shared, names), shared[0].kind
    return Comparison(split, titles, tuple(map(len, own)), len(ids), tuple(pairs), unit, flipped, kind)


def _refuse(runs: Sequence[RunDirectory], problems: Sequence[Problem]) -> None:
    if problems:
        raise RunError("\n".join([f"{' and '.join(str(run.path) for run in runs)} cannot be compared:", *map(str, problems)]))


# --- the same rows ------------------------------------------------------------------------------------------------------------


def _titles(runs: Sequence[RunDirectory]) -> tuple[str, ...]:
    """What each run is called in the table: its folder's name, or its whole path where two have the same."""
    short = [run.path.resolve().name for run in runs]
    return tuple(short if len(set(short)) == len(short) else [str(run.path) for run in runs])


def _shared_ids(own: Sequence[Predictions]) -> list[str]:
    """The ids that all have, in the order of the first."""
    others = [set(predictions.ids) for predictions in own[1:]]
    return [id for id in own[0].ids if all(id in other for other in others)]


def _kind_problems(run: RunDirectory, first: RunDirectory, one: Predictions, two: Predictions) -> Iterator[Problem]:
    if one.kind != two.kind:
        what = f"{run.path} answers with {one.kind.replace('_', ' ')}, {first.path} with {two.kind.replace('_', ' ')}"
        yield Problem("target", f"{what} an example")


def _class_problems(run: RunDirectory, first: RunDirectory, split: str) -> Iterator[Problem]:
    names, expected = (set(stored_label_names(one.predictions(split))) for one in (run, first))
    if names != expected:
        what = "; ".join(
            f"{'only ' if both else ''}{where} has {', '.join(sorted(more)[:5])}"
            for both, where, more in ((True, run.path, names - expected), (True, first.path, expected - names))
            if more
        )
        yield Problem("classes", f"the runs tell other classes apart: {what}")


def _order(run: RunDirectory, names: Sequence[str], split: str) -> Integers:
    """(K,) the place of each class of `names` in a run's own order."""
    own = stored_label_names(run.predictions(split))
    return np.array([own.index(name) for name in names], dtype=np.int64)


def _take(predictions: Predictions, ids: Sequence[str], order: Integers) -> Predictions:
    """The rows of some ids, in their order, with classes in the order of the first run."""
    place = {id: row for row, id in enumerate(predictions.ids)}
    rows = np.array([place[id] for id in ids], dtype=np.int64)
    return Predictions(
        list(ids),
        predictions.target.reordered(predictions.labels[rows], order),
        np.ascontiguousarray(predictions.logits[rows][:, order]),
        sizes=None if predictions.sizes is None else predictions.sizes[rows],
        size_unit=predictions.size_unit,
        kind=predictions.kind,
        thresholds=None if predictions.thresholds is None else tuple(predictions.thresholds[place] for place in order),
    )


def _row_problems(first: RunDirectory, other: RunDirectory, split: str, one: Predictions, two: Predictions) -> Iterator[Problem]:
    """An id is a row's place in its source; whether two sources have the same rows there is known by their fingerprints."""
    of_first, of_other = read_data(first), read_data(other)
    origin = split if split in {**of_first["fingerprint"], **of_other["fingerprint"]} else "train"
    same_rows = _same(of_first["contents"], of_other["contents"], split)
    if not same_rows and not _same(of_first["fingerprint"], of_other["fingerprint"], origin):
        what = f"{other.path} may have read other {split} rows than {first.path}: their fingerprints differ"
        yield Problem("data", what, ("train both on the same source, and compare those",))
    differ = np.flatnonzero(~one.target.right(two.labels, one.labels))
    if differ.size:
        what = f"{differ.size:,} rows of the same id have another label in {other.path}, the first is {one.ids[int(differ[0])]}"
        yield Problem("labels", what, ("the runs read different versions, or orders, of the data",))


def _same(one: Mapping[str, str], two: Mapping[str, str], split: str) -> bool:
    return split in one and one[split] == two.get(split)


# --- differences --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """One run of a comparison, on the rows that all have."""

    title: str
    run: RunDirectory
    predictions: Predictions
    values: dict[str, float]
    """What `quick_metrics` gives."""


def _pair(first: _Side, second: _Side, names: Sequence[str]) -> Pair:
    one, two = first.predictions, second.predictions
    right, also = one.right, two.right
    alone, other_alone = right & ~also, also & ~right
    p = mcnemar(int(alone.sum()), int(other_alone.sum()))
    return Pair(
        first.title,
        second.title,
        tuple(_differences(first, second)),
        int(alone.sum()),
        int(other_alone.sum()),
        p,
        p,
        tuple(_by_class(one, alone, other_alone, names)),
        None if one.sizes is None else tuple(_by_size(one.sizes, alone, other_alone)),
        tuple(_recipes_differ(first.run, second.run)),
    )


def _differences(first: _Side, second: _Side) -> Iterator[Difference]:
    values, others = first.values, second.values
    intervals = first.predictions.target.paired_intervals(first.predictions, second.predictions)
    for metric in values:
        if metric in others:
            a, b = values[metric], others[metric]
            yield Difference(metric, a, b, b - a, intervals[metric])


def mcnemar(first_alone: int, second_alone: int) -> float:
    """Two-sided mid-p of McNemar's exact test, from the rows that one of two models alone gets right.

    With n such rows each falls to either side with probability 1/2; mid-p counts the observed outcome by half:
    ``mcnemar(1, 5)`` is 2 (P(0) + P(1) / 2) = 2 (1 + 6 / 2) / 64 = 0.125.
    """
    fewer, n = min(first_alone, second_alone), first_alone + second_alone
    up_to = float(bdtr(fewer, n, 0.5)), float(bdtr(fewer - 1, n, 0.5)) if fewer else 0.0  # 2 F(k) - P(k) = F(k) + F(k - 1)
    return min(1.0, sum(up_to))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: the smallest of m times m, the next times m - 1, ..., none smaller than the one before.

    ``holm([0.01, 0.04, 0.03])`` is [0.03, 0.06, 0.06].
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[place]))
        corrected[place] = least
    return corrected


# --- where they differ --------------------------------------------------------------------------------------------------------


def _by_class(
    predictions: Predictions, alone: NDArray[np.bool_], other_alone: NDArray[np.bool_], names: Sequence[str]
) -> list[dict[str, Any]]:
    rows = [
        {
            "label": name,
            "n": int((inside := predictions.target.has(predictions.labels, k)).sum()),
            "first": int(alone[inside].sum()),
            "second": int(other_alone[inside].sum()),
        }
        for k, name in enumerate(names)
    ]
    return sorted((row for row in rows if row["n"]), key=lambda row: -(row["first"] + row["second"]))


def _by_size(sizes: Integers, alone: NDArray[np.bool_], other_alone: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    for row in accuracy_by_size(sizes, alone):
        inside = (sizes >= row["low"]) & (sizes <= row["high"])
        counts = {"first": int(alone[inside].sum()), "second": int(other_alone[inside].sum())}
        yield {"low": row["low"], "high": row["high"], "n": row["n"], **counts}


def _recipes_differ(first: RunDirectory, second: RunDirectory) -> list[str]:
    apart = (
        "name:",
        "card.",
        "run.trackers",
        "run.timeout_minutes",
        "run.checkpoint_minutes",
        "run.log_every",
        "run.baseline",
        "run.cache_gb",
    )
    lines = recipe_difference(first.load_recipe(), second.load_recipe())
    return [line for line in lines if not line.startswith(apart)]


def _flipped(titles: Sequence[str], shared: Sequence[Predictions], names: Sequence[str]) -> pa.Table:
    right = np.stack([predictions.right for predictions in shared])  # (runs, N)
    rows = np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))
    first = shared[0]
    named = first.target.named
    columns: dict[str, Any] = {"id": [first.ids[row] for row in rows], "label": named(first.labels[rows], names)}
    for title, predictions in zip(titles, shared, strict=True):
        columns[f"{title}: prediction"] = named(predictions.predicted[rows], names)
        columns[f"{title}: probability"] = predictions.confidence[rows]
    if first.sizes is not None:
        columns["size"] = first.sizes[rows]
    return pa.table(columns)


# --- in words -----------------------------------------------------------------------------------------------------------------


def report(comparison: Comparison, *, most: int = 5) -> Iterator[str]:
    """The comparison as lines for the terminal."""
    of = ", ".join(f"{rows:,}" for rows in comparison.rows)
    all_of_them = set(comparison.rows) == {comparison.shared}
    yield f"{comparison.split}: {comparison.shared:,} rows" + ("" if all_of_them else f" that all have, of {of}")
    if comparison.split == "test":
        yield "whoever chooses by these numbers chooses by the test split: compare trials by --split validation"
    for pair in comparison.pairs:
        yield ""
        yield f"A  {pair.first}"
        yield f"B  {pair.second}"
        yield f"{'':<26}{'A':>9}{'B':>9}{'B - A':>10}   95 % interval, paired"
        for row in pair.differences:
            interval = "" if row.interval is None else f"   {row.interval[0]:+.4f} to {row.interval[1]:+.4f}"
            title = title_of(row.metric, comparison.kind)
            yield f"{title:<26}{row.first:>9.4f}{row.second:>9.4f}{row.difference:>+10.4f}{interval}"
        corrected = (
            f", {p_in_words(pair.p_corrected)} over {len(comparison.pairs)} pairs (Holm)" if len(comparison.pairs) > 1 else ""
        )
        yield (
            f"right in one alone: A {pair.right_in_first_alone:,}, B {pair.right_in_second_alone:,};"
            f" McNemar's p {p_in_words(pair.p)}{corrected}"
        )
        yield _in_a_sentence(pair, several=len(comparison.pairs) > 1)
        yield from _where(pair, comparison.size_unit, most)
        if pair.recipes:
            yield f"the recipes differ in {len(pair.recipes)} key{'s' if len(pair.recipes) > 1 else ''}:"
            yield from (f"  {line}" for line in pair.recipes[: 4 * most])
            if len(pair.recipes) > 4 * most:
                yield f"  and {len(pair.recipes) - 4 * most} more"
        else:
            yield "the recipes agree in all that training depends on"


def p_in_words(value: float) -> str:
    """A p-value with four decimals; what is smaller than they show is "below 0.0001"."""
    return "below 0.0001" if value < 0.0001 else f"{value:.4f}"


def _in_a_sentence(pair: Pair, *, several: bool) -> str:
    p = pair.p_corrected if several else pair.p
    if p >= 0.05:
        return "not settled: on so many rows two equally good models differ as much by luck"
    better = "B" if pair.right_in_second_alone > pair.right_in_first_alone else "A"
    return f"{better} is the better of these two models; which recipe is better, runs of several seeds tell"


def _where(pair: Pair, unit: str | None, most: int) -> Iterator[str]:
    flips = [row for row in pair.flips_by_class if row["first"] + row["second"]]
    if flips:
        most = most if len(flips) > most + 1 else most + 1  # "and 1 more" takes the room of its class
        shown = "; ".join(f'"{row["label"]}" A {row["first"]}, B {row["second"]} of {row["n"]:,}' for row in flips[:most])
        yield f"by class: {shown}" + (f"; and {len(flips) - most} more" if len(flips) > most else "")
    if pair.flips_by_size is not None and flips and len(pair.flips_by_size) > 1:
        shown = "; ".join(
            f"{row['low']:,} to {row['high']:,} A {row['first']}, B {row['second']} of {row['n']:,}" for row in pair.flips_by_size
        )
        yield f"by size in {unit}: {shown}"
