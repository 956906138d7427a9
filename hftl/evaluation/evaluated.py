"""What a model came to on a split of its own data, again, or on other rows: metrics beside those on record, and every answer.

Shapes: N examples, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from hftl.errors import printable
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.views import in_words
from hftl.names import title_of_value
from hftl.records.metrics import kind_of
from hftl.terminal import Shown
from hftl.wording import count, listed, quoted

if TYPE_CHECKING:
    from pandas import DataFrame

MOST = 5
"""Names in one line; the rest is counted."""


@dataclass(frozen=True, repr=False)
class Evaluated(Shown):
    """Metrics and predictions of one evaluation."""

    name: str
    """The split, or what the evaluation is called."""
    metrics: Mapping[str, Any]
    """As in metrics.json, of this split."""
    stored: Predictions
    """Of each example alone."""
    label_names: tuple[str, ...]
    recorded: Mapping[str, Any] = field(default_factory=dict)
    """What the run has on record for the split; empty for other rows."""
    facts: Mapping[str, Any] | None = None
    """Of other rows what they are, as data.json beside them has it; None: a split of the run's own data."""
    folder: Path | None = None
    """Where an evaluation on other rows was written; None: nowhere, as of a published run."""

    @property
    def predictions(self) -> DataFrame:
        """A row for each example, see `frame_of`."""
        return frame_of(self.stored, self.label_names)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title = f"{printable(self.name)}, n = {self.metrics['n']:,}"
        table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
        columns = ("metric", "now", "on record", "95 % interval") if self.facts is None else ("metric", "value", "95 % interval")
        for column in columns:
            table.add_column(column, justify="left" if column == "metric" else "right")
        kind = kind_of(self.metrics)
        for name, value in self.metrics.items():
            if isinstance(value, float):
                known, low_high = self.recorded.get(name), self.metrics.get(f"{name}_interval")
                on_record = ["not recorded" if known is None else f"{known:.4f}"] if self.facts is None else []
                interval = f"{low_high[0]:.4f} to {low_high[1]:.4f}" if low_high else ""
                table.add_row(title_of_value(name, kind), f"{value:.4f}", *on_record, interval)
        yield table
        if "tta" in self.metrics:
            yield Text(in_words(self.metrics["tta"], kind_of(self.metrics)))
        yield from (Text(printable(line)) for line in self.lines())

    def lines(self) -> Iterator[str]:
        """What there is to know about other rows: classes they lack, rows that were left out, rows that the run knows already."""
        if self.facts is None:
            return
        if self.facts["without"]:
            yield f"without a row of {quoted(self.facts['without'], MOST)}: nothing was measured about that"
        if self.facts["skipped"]:
            yield f"left out, as they cannot be read: {listed((entry['id'] for entry in self.facts['skipped']), MOST)}"
        seen = self.facts["seen"]
        if seen is None:
            yield f"whether the model was trained on some of these rows is not known: {self.facts['seen_unknown']}"
        else:
            for split, number in seen.items():
                if number:
                    rows = f"{count(number, 'row')} of {self.metrics['n']:,}"
                    yield f"{rows} {'is' if number == 1 else 'are'} also in the run's {split} split"


def frame_of(predictions: Predictions, names: tuple[str, ...]) -> DataFrame:
    """A row for each example: `id`, `label`, `prediction`, the probability of each class as "p(CLASS)", its size where known."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            "id": predictions.ids,
            "label": predictions.target.named(predictions.labels, names),
            "prediction": predictions.target.named(predictions.predicted, names),
            **{f"p({name})": predictions.probabilities[:, place] for place, name in enumerate(names)},
        }
    )
    if predictions.sizes is not None:
        frame[predictions.size_unit] = predictions.sizes
    return frame
