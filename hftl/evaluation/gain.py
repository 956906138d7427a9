"""What a model gains over a simple baseline, on the rows that both answered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hftl.errors import RunError
from hftl.evaluation.compare import mcnemar, p_in_words
from hftl.evaluation.intervals import mean_interval
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.several_metrics import paired_macro_f1, point_value
from hftl.names import SEVERAL_LABELS
from hftl.records.baseline import BaselineRecord, Gain, MacroF1Gain, NoBaselineRecord, decisive
from hftl.records.teacher import AgainstTeacher


def gain(model: Predictions, baseline: Predictions) -> Gain:
    """The accuracy of both on the baseline's rows, and the paired difference; JSON-ready.

    `gain` is the model's accuracy minus the baseline's, `gain_interval` its 95 % interval by the variance of the differences of
    single rows (None: they are all the same), `p` McNemar's exact test with mid-p. Of several labels an example, whose accuracy is
    that of whole answers, `macro_f1` has the same of macro F1, by the paired bootstrap.

    Raises:
        RunError: the baseline answered rows that the model did not, or of other labels.
    """
    place = {id: row for row, id in enumerate(model.ids)}
    if any(id not in place for id in baseline.ids):
        raise RunError("the baseline has answered rows that the model has not")
    rows = np.array([place[id] for id in baseline.ids], dtype=np.int64)
    if not np.array_equal(model.labels[rows], baseline.labels):
        raise RunError("the baseline has rows of other labels than the model")
    right, also = model.right[rows], baseline.right
    model_alone, baseline_alone = int((right & ~also).sum()), int((also & ~right).sum())
    return {
        "n": len(rows),
        "model_accuracy": float(right.mean()),
        "baseline_accuracy": float(also.mean()),
        "gain": float((model_alone - baseline_alone) / len(rows)),
        "gain_interval": mean_interval(right.astype(np.float64) - also.astype(np.float64)),
        "right_in_model_alone": model_alone,
        "right_in_baseline_alone": baseline_alone,
        "p": mcnemar(model_alone, baseline_alone),
        **({"macro_f1": _macro_f1_gain(model, baseline, rows)} if model.kind == SEVERAL_LABELS else {}),  # type: ignore[typeddict-item]
    }


def _macro_f1_gain(model: Predictions, baseline: Predictions, rows: NDArray[np.int64]) -> MacroF1Gain:
    answers = replace(model, ids=baseline.ids, labels=model.labels[rows], logits=model.logits[rows], sizes=None, size_unit=None)
    own, other = (point_value(each, "macro_f1") or 0.0 for each in (answers, baseline))
    return {"model": own, "baseline": other, "gain": own - other, "gain_interval": paired_macro_f1(baseline, answers)}


def against_teacher(model: Predictions, teacher: Predictions) -> AgainstTeacher:
    """A model and its teacher on the rows of a split, which both have answered; JSON-ready. See `gain`.

    Of ten rows of which the model has 7 right and the teacher 8, and 9 answers are the same: a difference of -0.1, an agreement of
    0.9.

    Raises:
        RunError: they have answered other rows.
    """
    values = gain(model, teacher)
    place = {id: row for row, id in enumerate(model.ids)}
    rows = np.array([place[id] for id in teacher.ids], dtype=np.int64)
    return {
        "n": values["n"],
        "model_accuracy": values["model_accuracy"],
        "teacher_accuracy": values["baseline_accuracy"],
        "difference": values["gain"],
        "difference_interval": values["gain_interval"],
        "right_in_model_alone": values["right_in_model_alone"],
        "right_in_teacher_alone": values["right_in_baseline_alone"],
        "p": values["p"],
        "agreement": float(model.target.right(model.predicted[rows], teacher.predicted).mean()),
        **({"macro_f1": values["macro_f1"]} if "macro_f1" in values else {}),  # type: ignore[typeddict-item]
    }


def gains(values: Gain) -> bool:
    """Whether the model is shown to be better: the whole interval of the gain is above 0."""
    gain, interval = decisive(values)
    return bool((interval or [gain])[0] > 0)


def in_words(record: BaselineRecord | NoBaselineRecord) -> list[str]:
    """Lines for the terminal of what baseline.json holds."""
    if "gains" not in record:
        return [f"  no baseline: {record['reason']}"]
    split = "test" if "test" in record["gains"] else "validation"
    values = record["gains"][split]
    gain, interval = decisive(values)
    shown = "" if interval is None else f" [{interval[0]:+.4f}, {interval[1]:+.4f}]"
    if "macro_f1" in values:
        reached, p = f"macro F1 {values['macro_f1']['baseline']:.4f}", ""
    else:
        reached, p = f"accuracy {values['baseline_accuracy']:.4f}", f", McNemar's p {p_in_words(values['p'])}"
    line = (
        f"  baseline on {split} ({record['name']}, {record['seconds']:g} s): {reached};"
        f" the model gains {gain:+.4f}{shown}, n = {values['n']:,}{p}"
    )
    if gains(values):
        return [line]
    worse = (interval or [gain])[-1] < 0
    what = "the model is worse than the baseline" if worse else "no gain is settled: the baseline may be as good"
    return [line, f"  {what}. Try other stages (hftl ablate), more labels, or use the baseline"]
