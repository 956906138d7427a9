"""baseline.json: the simple baseline beside a run, and what the model gains over it; or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict, final

from hftl.files import read_json
from hftl.records.shape import Interval, as_record
from hftl.run import RunDirectory


class MacroF1Gain(TypedDict):
    """Of several labels an example: macro F1 of both, and the paired difference."""

    model: float
    baseline: float
    gain: float
    gain_interval: Interval | None


class Gain(TypedDict):
    """What the model gains on the rows that both answered, see `hftl.evaluation.gain.gain`."""

    n: int
    model_accuracy: float
    baseline_accuracy: float
    gain: float
    gain_interval: Interval | None
    right_in_model_alone: int
    right_in_baseline_alone: int
    p: float
    macro_f1: NotRequired[MacroF1Gain]


@final
class NoBaselineRecord(TypedDict):
    """The file where none could be fitted."""

    reason: str


@final
class BaselineRecord(TypedDict):
    """The file: which one, its one setting, and the gains by split."""

    name: str
    choice: dict[str, Any]
    training_rows: int
    seconds: float
    gains: dict[str, Gain]


def decisive(values: Gain) -> tuple[float, Sequence[float] | None]:
    """The gain that says whether the model is better, and its interval: of accuracy, and of several labels that of macro F1."""
    of = values.get("macro_f1", values)
    return of["gain"], of["gain_interval"]


def read_baseline(run: RunDirectory) -> BaselineRecord | NoBaselineRecord | None:
    """The baseline beside a run; None: it was trained without.

    Raises:
        RunError: the file is not as hftl writes it.
    """
    if not run.baseline.is_file():
        return None
    record, source = read_json(run.baseline), str(run.baseline)
    if "reason" in record:
        return as_record(record, NoBaselineRecord, source=source)
    return as_record(record, BaselineRecord, source=source)
