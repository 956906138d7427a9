"""What a card says of a run's metrics: the table of results, and what stands out in one split's metrics, as in metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jinja2.filters import do_mark_safe as safe

from hftl.names import METRICS, ONE_LABEL, title_of
from hftl.records.metrics import ClassRow, Metrics, OneLabelMetrics, SplitMetrics, f1_of, interval_of, kind_of, value_of
from hftl.sharing.markdown import inline

SMALL = 30  # with fewer examples, the numbers of a class are rough: half an interval is up to 0.18 wide
CONFUSIONS = 3  # so many of the most frequent ones are named


def results(metrics: Metrics, split: str) -> list[dict[str, Any]]:
    """Rows of the results table: every metric of the headline split with its baseline, and what chose the weights on validation."""
    rows = [_result(metrics[split], split, key) for key in METRICS if key in metrics[split]]
    exact = "accuracy" if kind_of(metrics[split]) == ONE_LABEL else "exact match"
    baseline = {
        **_result(metrics[split], split, "majority_accuracy"),
        "name": safe(f'Baseline: {exact} of always "{inline(metrics[split]["majority_label"])}"'),
    }
    rows.insert(1, baseline)
    if "tta" in metrics[split]:
        rows += _by_views(metrics[split], split)
    if split == "test":
        rows += [_result(metrics["validation"], "validation", key) for key in ("accuracy", "macro_f1", "log_loss")]
    return rows


def _by_views(values: SplitMetrics, split: str) -> list[dict[str, Any]]:
    """The rows of the mean over several views of each picture: the same metrics as of validation."""
    tta, kind = values["tta"], kind_of(values)
    return [
        {
            "name": f"{title_of(key, kind)}, over {tta['passes']} views",
            "value": value_of(cast("SplitMetrics", tta), key),
            "interval": interval_of(cast("SplitMetrics", tta), key),
            "split": split,
            "n": values["n"],
            "file": f"{split}_views",
        }
        for key in ("accuracy", "macro_f1", "log_loss")
    ]


def _result(values: SplitMetrics, split: str, key: str) -> dict[str, Any]:
    name = title_of(key, kind_of(values)) if key in METRICS else ""
    return {
        "name": name,
        "value": value_of(values, key),
        "interval": interval_of(values, key),
        "split": split,
        "n": values["n"],
        "file": split,
    }


def worst_class(values: OneLabelMetrics) -> dict[str, Any]:
    """The class with the lowest F1 among those with examples; `apart`: whether an interval of it lies below another class's.

    `apart` is None where there is nothing to compare.
    """
    rows = [row for row in values["per_class"] if row["n"]]
    worst = min(rows, key=f1_of)
    intervals = [(worst["precision_interval"], row["precision_interval"]) for row in rows]
    intervals += [(worst["recall_interval"], row["recall_interval"]) for row in rows]
    comparable = [(mine, theirs) for mine, theirs in intervals if mine and theirs]
    apart = any(mine[1] < theirs[0] for mine, theirs in comparable) if comparable and len(rows) > 1 else None
    index = values["per_class"].index(worst)
    return {**worst, "found": values["confusion"][index][index], "apart": apart}


def worst_label(values: SplitMetrics) -> ClassRow | None:
    """Of several labels an example, that with the lowest F1 among those with examples; None: all are found without an error."""
    rows = [row for row in values["per_class"] if row["n"] and f1_of(row) < 1]
    return min(rows, key=f1_of, default=None)


def small_classes(values: SplitMetrics) -> dict[str, Any]:
    """Classes with few examples in the split, and those with none."""
    few = [row for row in values["per_class"] if 0 < row["n"] < SMALL]
    wide = max((row for row in few if row["recall_interval"]), key=lambda row: _width(row["recall_interval"] or ()), default=None)
    return {"few": few, "none": [row for row in values["per_class"] if row["n"] == 0], "widest": wide, "limit": SMALL}


def _width(interval: Sequence[float]) -> float:
    return interval[1] - interval[0]


def calibration(values: OneLabelMetrics) -> dict[str, Any]:
    """The calibration error against what chance gives, and on which side of the accuracy the mean confidence lies."""
    error, chance = values["expected_calibration_error"], values["expected_calibration_error_by_chance"]
    confidence, (low, high) = values["mean_confidence"], values["accuracy_interval"]
    lean = None if low <= confidence <= high else "over" if confidence > high else "under"
    return {"error": error, "chance": chance, "confidence": confidence, "lean": lean, "beyond": error > chance[1]}


def confusions(values: OneLabelMetrics) -> list[dict[str, Any]]:
    """The most frequent confusions, the most frequent first."""
    names = [row["label"] for row in values["per_class"]]
    cells: list[dict[str, Any]] = [
        {"label": names[i], "prediction": names[j], "count": count, "n": sum(row)}
        for i, row in enumerate(values["confusion"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(cells, key=lambda cell: -cell["count"])[:CONFUSIONS]


def by_size(values: SplitMetrics) -> dict[str, Any] | None:
    """Accuracy by length or picture size, the least accurate bin, and whether any two intervals are apart."""
    rows = values["by_size"]
    if rows is None:
        return None
    lows, highs = zip(*(row["accuracy_interval"] for row in rows), strict=True)
    worst = min(rows, key=lambda row: row["accuracy"])
    return {"rows": rows, "unit": values["size_unit"], "worst": worst, "apart": max(lows) > min(highs)}
