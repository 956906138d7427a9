"""The metrics of `hftl.evaluation.metrics` as those of the library `evaluate`: fed batch by batch, combined, shared.

They need no network and write no file. hftl itself computes from whole arrays and does not import this module: with `evaluate` come
transformers' pipelines and torchvision, half of the time that a training process takes to start.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.special import softmax

from hftl.evaluation.metrics import (
    area_under_curve,
    balanced_accuracy,
    cohen_kappa,
    expected_calibration_error,
    macro_f1,
    margins,
    matthews_correlation,
)
from hftl.evaluation.predictions import losses


class _LocalMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """A metric that lives in memory: no network, no cache file. The library insists on a folder, so it gets a temporary one."""

    uses_logits = False

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(prefix="hftl-metric-") as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder, seed=0)

    def _info(self) -> evaluate.MetricInfo:
        index = datasets.Value("int64")
        features = {"logits": datasets.List(datasets.Value("float32"))} if self.uses_logits else {"predictions": index}
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "", citation="", features=datasets.Features({**features, "references": index})
        )


class Accuracy(_LocalMetric):
    """Share of the examples whose predicted class is the true one."""

    def _compute(self, *, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.equal(predictions, references)))}


class MacroF1(_LocalMetric):
    """Mean F1 over the classes that occur in the references (see `macro_f1`)."""

    def _compute(self, *, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"macro_f1": float(macro_f1(*margins(predictions, references)))}


class MatthewsCorrelation(_LocalMetric):
    """Matthews correlation coefficient of K classes (see `matthews_correlation`)."""

    def _compute(self, *, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"mcc": float(matthews_correlation(*margins(predictions, references)))}


class BalancedAccuracy(_LocalMetric):
    """Mean recall over the classes that occur in the references (see `balanced_accuracy`)."""

    def _compute(self, *, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"balanced_accuracy": float(balanced_accuracy(*margins(predictions, references)))}


class CohenKappa(_LocalMetric):
    """Agreement of predicted and true classes beyond chance (see `cohen_kappa`)."""

    def _compute(self, *, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"kappa": float(cohen_kappa(*margins(predictions, references)))}


class LogLoss(_LocalMetric):
    """Mean of -log p(true class), natural logarithm, from logits; nothing is clipped."""

    uses_logits = True

    def _compute(self, *, logits: Any, references: Sequence[int]) -> dict[str, float]:
        return {"log_loss": float(losses(np.asarray(logits), np.asarray(references)).mean())}


class RocAuc(_LocalMetric):
    """Area under the ROC curve from logits: class 1 against class 0, or the mean over classes of each against the rest.

    No "auc" in the result when a class is absent from the references.
    """

    uses_logits = True

    def _compute(self, *, logits: Any, references: Sequence[int]) -> dict[str, float]:
        auc = area_under_curve(np.asarray(logits), np.asarray(references))
        return {} if auc is None else {"auc": auc}


class ExpectedCalibrationError(_LocalMetric):
    """Expected calibration error of the top probability, from logits (see `expected_calibration_error`)."""

    uses_logits = True

    def _compute(self, *, logits: Any, references: Sequence[int]) -> dict[str, float]:
        probabilities = softmax(np.asarray(logits, dtype=np.float64), axis=1)
        return {"expected_calibration_error": expected_calibration_error(probabilities, np.asarray(references))}


def classification_metrics(*, calibration: bool = False) -> evaluate.CombinedEvaluations:
    """The metrics of a classifier as one streaming `evaluate` object.

    Feed it with ``add_batch(predictions=(B,), references=(B,), logits=(B, K))`` and end with ``compute()``.
    """
    metrics = [Accuracy(), BalancedAccuracy(), MacroF1(), MatthewsCorrelation(), CohenKappa(), LogLoss(), RocAuc()]
    return evaluate.combine([*metrics, ExpectedCalibrationError()] if calibration else metrics)
