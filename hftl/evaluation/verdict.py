"""The verdict: the last lines of a run, which say how good the model is and where it is worst.

They are for somebody who reads nothing else: the metrics of each split, what is weak about them, and which key of the recipe to
try. All of it is arithmetic on what metrics.json holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hftl.records.metrics import ClassRow, OneLabelMetrics, SplitMetrics, f1_of
from hftl.wording import quoted

FEW = 100
"""A validation split of fewer examples is called small: the 95 % interval of an accuracy is then about 0.2 wide."""
TRY = "try: "
NAMED = 5
"""So many classes are named in one line; the rest is counted."""


def verdict(
    metrics: Mapping[str, OneLabelMetrics],
    *,
    openings: Mapping[str, Any] | None,
    stage: str,
    weighted: bool,
    enlarge: str | None,
) -> Iterator[str]:
    """The lines, best news first.

    Args:
        metrics: as in metrics.json, by split.
        openings: as in test_ledger.json; None: not known, or the test split is shut.
        stage: the last one, whose settings the advice names.
        weighted: it has weights of classes.
        enlarge: the key that makes the validation split larger; None: it is the source's own.
    """
    for split, values in metrics.items():
        low, high = values["accuracy_interval"]
        yield (
            f"{split}{opened(openings) if split == 'test' else ''}: accuracy {values['accuracy']:.4f} [{low:.4f}, {high:.4f}],"
            f" n = {values['n']:,} · macro F1 {values['macro_f1']:.4f} · majority {values['majority_accuracy']:.4f}"
        )
    split = "test" if "test" in metrics else "validation"
    values = metrics[split]
    weak = [*_against_majority(split, values, stage), *_worst_classes(split, values, stage, weighted=weighted)]
    yield from weak
    if split == "test" and any(TRY in line for line in weak):
        yield "  whatever you try, compare it by validation: --no-test leaves the test split shut"
    yield from small_validation(metrics["validation"], enlarge)


def opened(openings: Mapping[str, Any] | None) -> str:
    """How often the test split was opened, in brackets."""
    if openings is None:
        return ""
    times, runs = openings["openings"], openings["runs"]
    return " (opened once)" if times == 1 else f" (these rows were opened {times} times by {runs} run{'s' if runs > 1 else ''})"


def _against_majority(split: str, values: OneLabelMetrics, stage: str) -> Iterator[str]:
    majority, (low, _) = values["majority_accuracy"], values["accuracy_interval"]
    always = f'always answering "{values["majority_label"]}", {majority:.4f} on {split}'
    advice = f"{TRY}another stages.{stage}.lr, or more stages.{stage}.epochs"
    if majority == 1:
        yield f'  the {split} split has one class only, "{values["majority_label"]}": its numbers tell nothing'
    elif values["accuracy"] <= majority:
        yield f"  worthless so far: the model is no better than {always}. {advice}"
    elif low <= majority:
        yield f"  not settled: with {values['n']:,} examples the model may be no better than {always}. {advice}"


def _worst_classes(split: str, values: OneLabelMetrics, stage: str, *, weighted: bool) -> Iterator[str]:
    """The class of the lowest F1, as on the card, with its recall; and the classes that are never predicted."""
    rows = [row for row in values["per_class"] if row["n"]]
    never = [row for row in rows if row["precision"] is None]

    def rare(row: ClassRow) -> bool:
        """Rarer than others, so that weights of classes could help."""
        return not weighted and bool(row["n"] < values["n"] / len(rows))

    balanced = f"{TRY}stages.{stage}.class_weights=balanced"
    if never:
        names = quoted((row["label"] for row in never), NAMED)
        more = f"{TRY}more stages.{stage}.epochs, or another stages.{stage}.lr"
        yield f"  never predicted on {split}: {names}. {balanced if all(map(rare, never)) else more}"
    worst = min((row for row in rows if row not in never), key=f1_of, default=None)
    if worst is not None and worst["recall"] != 1:
        recall_interval = worst["recall_interval"]
        assert recall_interval is not None  # the class has examples
        low, high = recall_interval
        confused = _taken_for(values, worst["label"])
        below = high < values["accuracy_interval"][0]
        among = " of those that are predicted" if never else ""
        yield (
            f'  worst class on {split}{among}: "{worst["label"]}", recall {worst["recall"]:.3f} [{low:.3f}, {high:.3f}],'
            f" n = {worst['n']:,}{confused}{f'. {balanced}' if below and rare(worst) else ''}"
        )


def _taken_for(values: OneLabelMetrics, label: str) -> str:
    names = [row["label"] for row in values["per_class"]]
    own = names.index(label)
    wrong = {name: count for name, count in zip(names, values["confusion"][own], strict=True) if name != label and count}
    if not wrong:
        return ""  # all of it is found, and others are taken for it
    most = max(wrong, key=lambda name: wrong[name])
    return f', most often taken for "{most}"'


def small_validation(values: SplitMetrics, enlarge: str | None) -> Iterator[str]:
    """A line where the validation split is small, and the key that makes it larger."""
    if values["n"] >= FEW:
        return
    low, high = values["accuracy_interval"]
    way_out = f"{TRY}a larger {enlarge}" if enlarge else "more validation examples choose better"
    yield (
        f"  the validation split, which chose the weights, is small: {values['n']} examples, so that its accuracy lies anywhere"
        f" from {low:.2f} to {high:.2f} (95 %). {way_out}"
    )
