"""metrics.json: of each split how many examples, and every metric with its interval.

A metric stands by its name in `hftl.names.METRICS`, its 95 % interval beside it as NAME_interval. A further metric needs no line
here: `value_of` and `interval_of` take it by name. What else there is depends on the kind of target; `RECORDS` has the record of
each. `hftl.evaluation` computes them, and docs/run_directory.md describes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, TypedDict, cast

from hftl.errors import RunError
from hftl.files import read_json
from hftl.names import METRICS, ONE_LABEL, SEVERAL_LABELS
from hftl.records.shape import Interval, as_record, check
from hftl.run import RunDirectory


class ClassRow(TypedDict):
    """How good the answers about a class are; None: it has no example, or was never predicted. Of several labels an example there
    is more: the area under both curves of a label, and its threshold."""

    label: str
    precision: float | None
    precision_interval: Interval | None
    recall: float | None
    recall_interval: Interval | None
    f1: float | None
    average_precision: NotRequired[float | None]
    auc: NotRequired[float | None]
    threshold: NotRequired[float]
    n: int


class SizeRow(TypedDict):
    """The accuracy for examples of a size from `low` to `high`."""

    low: int
    high: int
    n: int
    accuracy: float
    accuracy_interval: Interval


class ViewMetrics(TypedDict):
    """The same split by the mean of the probabilities of several views of each picture; see `hftl.evaluation.views`."""

    views: str
    """One of `hftl.names.VIEWS`."""
    passes: int
    """Forward passes a picture: how many views there are."""
    accuracy: float
    accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval | None
    log_loss: float
    log_loss_interval: Interval | None
    gain: float
    """Its accuracy minus that of the picture alone."""
    gain_interval: Interval | None
    """Paired; None: no answer was changed for the better or the worse."""


class SplitMetrics(TypedDict):
    """What is known of a split whatever its kind of target; further metrics stand beside these."""

    target: NotRequired[str]
    """The kind; without it `ONE_LABEL`."""
    n: int
    skipped: int
    """How many more rows the source's split has that were left out on request."""
    accuracy: float
    accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval | None
    log_loss: float
    log_loss_interval: Interval | None
    auc: float | None
    auc_interval: Interval | None
    auc_undefined: NotRequired[str]
    majority_accuracy: float
    majority_accuracy_interval: Interval
    majority_label: str
    per_class: list[ClassRow]
    size_unit: str | None
    """None, and `by_size` too: the predictions have no sizes."""
    by_size: list[SizeRow] | None
    tta: NotRequired[ViewMetrics]
    """Where `run.tta` asks for it."""


class ErrorRow(TypedDict):
    """A wrong answer and its probability."""

    id: str
    label: str
    prediction: str
    confidence: float


class Errors(TypedDict):
    """The wrong answers: how many, how many of a high confidence, and the most confident of them."""

    n: int
    confident: int
    most_confident: list[ErrorRow]


class OneLabelMetrics(SplitMetrics):
    """Of one label an example; see `hftl.evaluation.metrics.compute_metrics`."""

    expected_calibration_error: float
    expected_calibration_error_by_chance: Interval
    mean_confidence: float
    confusion: list[list[int]]
    errors: Errors


class NumbersOfLabels(TypedDict):
    """The mean number of labels of an example, and how many examples have none."""

    true: float
    predicted: float
    without: int
    without_predicted: int


class SeveralLabelsMetrics(SplitMetrics):
    """Of several labels an example; see `hftl.evaluation.several_metrics.compute_metrics`."""

    micro_f1: float
    every_label_macro_f1: float
    labels: NumbersOfLabels


RECORDS: Mapping[str, type[SplitMetrics]] = {ONE_LABEL: OneLabelMetrics, SEVERAL_LABELS: SeveralLabelsMetrics}
"""Kind of target -> what is recorded of a split."""

Metrics = dict[str, SplitMetrics]
"""By split: validation, and test where it was opened."""


def read_metrics(run: RunDirectory) -> Metrics:
    """The metrics of a finished run.

    Raises:
        RunError: the run is not finished, or the file is not as hftl writes it.
    """
    run.check_finished("it has no metrics.json")
    values, source = read_json(run.metrics), str(run.metrics)
    if "validation" not in values or not set(values) <= {"validation", "test"}:
        raise RunError(f"{source}: has the splits {', '.join(values) or '(none)'}; a run has validation, and may have test")
    return {split: as_split_metrics(of_split, source=source, key=split) for split, of_split in values.items()}


def read_metrics_on_other_rows(run: RunDirectory, name: str) -> SplitMetrics:
    """The metrics of an evaluation on other rows.

    Raises:
        RunError: there is none of that name, or the file is not as hftl writes it.
    """
    path = run.evaluation(name) / "metrics.json"
    return as_split_metrics(read_json(path), source=str(path))


def as_split_metrics(values: Any, *, source: str, key: str = "") -> SplitMetrics:
    """Values of JSON as the metrics of a split, `source` being their file and `key` the place in it.

    Raises:
        RunError: a key is missing or holds something else, or they are about a kind of target that there is not.
    """
    kind = kind_of(as_record(values, _OfAKind, source=source, key=key))
    if kind not in RECORDS:
        raise RunError(f'{source}: metrics of the target "{kind}", none of {", ".join(RECORDS)}')
    record = as_record(values, RECORDS[kind], source=source, key=key)
    _check_metrics_by_name(values, source=source, key=key)
    problem = next(_contradictions(record), None)
    if problem is not None:
        raise RunError(f"{source}: {f'{key}: ' if key else ''}{problem}")
    return record


class _OfAKind(TypedDict):
    target: NotRequired[str]


def _check_metrics_by_name(values: Mapping[str, Any], *, source: str, key: str) -> None:
    for metric in METRICS:
        for name, kind in ((metric, float | None), (f"{metric}_interval", Interval | None)):
            if name in values:
                check(values[name], kind, source=source, key=f"{key}.{name}" if key else name)


def _contradictions(values: SplitMetrics) -> Iterator[str]:
    """What cannot be said of any split; whether it is true of this one, `hftl verify` finds out."""
    if values["n"] < 1 or not any(row["n"] for row in values["per_class"]):
        yield "there is no example, and no class has one"
    for row in values["per_class"]:
        if row["n"] and None in (row["f1"], row["recall"], row["recall_interval"]):
            yield f'the class "{row["label"]}" has examples, and so it has a recall with its interval, and an F1'
    if values["by_size"] == []:
        yield '"by_size" has no row'
    if kind_of(values) == ONE_LABEL:
        classes, confusion = len(values["per_class"]), of_one_label(values)["confusion"]
        if [len(row) for row in confusion] != [classes] * classes:
            yield f'"confusion" has not a row and a column for each of the {classes} classes in "per_class"'


def kind_of(values: Mapping[str, Any]) -> str:
    """The kind of target that the metrics of a split are about; those of one label do not say it."""
    return cast("str", values.get("target", ONE_LABEL))


def of_one_label(values: SplitMetrics) -> OneLabelMetrics:
    """The metrics of a split that are about one label an example."""
    return cast("OneLabelMetrics", values)


def of_several_labels(values: SplitMetrics) -> SeveralLabelsMetrics:
    """The metrics of a split that are about several labels an example."""
    return cast("SeveralLabelsMetrics", values)


def f1_of(row: ClassRow) -> float:
    """The F1 of a class that has examples; one without has none."""
    assert row["f1"] is not None  # `_contradictions`
    return row["f1"]


def value_of(values: SplitMetrics, name: str) -> float | None:
    """A metric by its name; None: it is undefined on this split, or not one of this kind of target."""
    return cast("float | None", cast("Mapping[str, Any]", values).get(name))


def interval_of(values: SplitMetrics, name: str) -> Interval | None:
    """The 95 % interval of a metric; None: it has none."""
    return cast("Interval | None", cast("Mapping[str, Any]", values).get(f"{name}_interval"))
