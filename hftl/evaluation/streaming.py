"""The metrics of `hftl.evaluation.metrics` as those of the library `evaluate`: fed batch by batch, combined, shared.

They need no network and write no file. hftl itself computes from whole arrays and does not import this module: with `evaluate` come
transformers' pipelines and more, a second of the time that a process takes to start.
"""

from __future__ import annotations

import tempfile
from typing import Any

import datasets
import evaluate
import numpy as np

from hftl.evaluation.metrics import POINT_VALUES
from hftl.evaluation.predictions import Predictions
from hftl.names import CHOOSERS, ONE_LABEL


class PointMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """One of `POINT_VALUES`, from logits. It lives in memory; the library insists on a folder, so it gets a temporary one."""

    def __init__(self, key: str) -> None:
        self.key = key
        with tempfile.TemporaryDirectory(prefix="hftl-metric-") as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder, seed=0)

    def _info(self) -> evaluate.MetricInfo:
        features = {"logits": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(description=self.key, citation="", features=datasets.Features(features))

    def _compute(self, *, logits: Any, references: Any) -> dict[str, float]:
        ids = [str(place) for place in range(len(references))]
        value = POINT_VALUES[self.key](Predictions(ids, np.asarray(references), np.asarray(logits, dtype=np.float32)))
        return {} if value is None else {self.key: value}


def classification_metrics(*, calibration: bool = False) -> evaluate.CombinedEvaluations:
    """The metrics of a classifier as one streaming `evaluate` object.

    Feed it with ``add_batch(references=(B,), logits=(B, K))`` and end with ``compute()``. What is undefined is left out, such as an
    AUC where a class is absent.
    """
    return evaluate.combine([PointMetric(key) for key in (POINT_VALUES if calibration else CHOOSERS[ONE_LABEL])])
