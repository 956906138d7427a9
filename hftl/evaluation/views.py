"""What the mean over several views of each picture changes (test-time augmentation): its metrics beside those of the picture alone.

What the views are, `hftl.data.views` says. They cost as many forward passes a picture as there are views, so they never take the
place of the plain numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from hftl.errors import RunError
from hftl.evaluation.gain import gain
from hftl.evaluation.predictions import Predictions
from hftl.names import ONE_LABEL, VIEWS
from hftl.records.metrics import SplitMetrics, ViewMetrics, kind_of


class Answers(NamedTuple):
    """What a model says about a split."""

    plain: Predictions
    viewed: Predictions | None = None
    """By several views of each picture; None: it was not asked."""

    def metrics(self, label_names: Sequence[str], *, skipped: int = 0) -> SplitMetrics:
        """As `Predictions.metrics`, and beside them those of the mean over the views."""
        return with_views(self.plain.metrics(label_names, skipped=skipped), self.plain, self.viewed, label_names)


def load_viewed(path: Path) -> Predictions | None:
    """The predictions by several views of each picture that lie there; None: there are none.

    Raises:
        RunError: the file is not one of predictions.
    """
    return Predictions.load(path) if path.is_file() else None


def view_metrics(plain: Predictions, viewed: Predictions, label_names: Sequence[str]) -> ViewMetrics:
    """The metrics of the predictions by several views, and what they gain in accuracy over those of the picture alone; JSON-ready.

    Raises:
        RunError: they are not by several views, or of other rows, labels or thresholds than the plain ones.
    """
    if viewed.views is None or plain.views is not None:
        raise RunError("predictions by several views of each picture were expected beside plain ones")
    if viewed.ids != plain.ids or viewed.thresholds != plain.thresholds:
        raise RunError("the predictions by several views are of other rows, or at other thresholds, than the plain ones")
    values, gained = viewed.metrics(label_names), gain(viewed, plain)
    return {
        "views": viewed.views,
        "passes": VIEWS[viewed.views],
        "accuracy": values["accuracy"],
        "accuracy_interval": values["accuracy_interval"],
        "macro_f1": values["macro_f1"],
        "macro_f1_interval": values["macro_f1_interval"],
        "log_loss": values["log_loss"],
        "log_loss_interval": values["log_loss_interval"],
        "gain": gained["gain"],
        "gain_interval": gained["gain_interval"],
    }


def with_views(values: SplitMetrics, plain: Predictions, viewed: Predictions | None, label_names: Sequence[str]) -> SplitMetrics:
    """The metrics of a split, with those of its predictions by several views where there are such."""
    if viewed is None:
        return values
    return cast("SplitMetrics", {**values, "tta": view_metrics(plain, viewed, label_names)})


def said_of_views(metrics: Mapping[str, SplitMetrics]) -> Iterator[str]:
    """A line for the terminal of each split that was predicted by several views as well."""
    for split, values in metrics.items():
        if "tta" in values:
            yield f"  {split}, {in_words(values['tta'], kind_of(values))}"


def in_words(tta: ViewMetrics, kind: str) -> str:
    """What several views come to, and what they cost."""
    low, high = tta["accuracy_interval"]
    interval = tta["gain_interval"]
    shown = "" if interval is None else f" [{interval[0]:+.4f}, {interval[1]:+.4f}]"
    accuracy = "accuracy" if kind == ONE_LABEL else "exact match"
    return (
        f"mean over {tta['passes']} views of each picture ({tta['views']}, {tta['passes']} times the forward passes): {accuracy}"
        f" {tta['accuracy']:.4f} [{low:.4f}, {high:.4f}], against the picture alone {tta['gain']:+.4f}{shown}"
        f" · macro F1 {tta['macro_f1']:.4f} · log loss {tta['log_loss']:.4f}"
    )
