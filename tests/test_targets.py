"""What is predicted is asked of a target, not assumed: a second kind is an object and a line in a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit

from hftl.errors import RunError
from hftl.evaluation import targets
from hftl.evaluation.one_label import OneLabel
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.targets import Floats
from hftl.records.metrics import as_split_metrics

IDS = ["test/0", "test/1", "test/2"]
LOGITS = np.array([[2, -1], [0, 1], [1, 3]], dtype=np.float32)


class Several(OneLabel):
    """Any number of labels an example, as far as a file of predictions asks: (N, K) of 0 and 1, each logit by itself."""

    columns: Mapping[str, pa.DataType] = {"answers": pa.list_(pa.int64()), "truth": pa.list_(pa.int64())}

    def shape(self, count: int, classes: int) -> tuple[int, ...]:
        return (count, classes)

    def probabilities(self, logits: Any) -> Floats:
        return np.asarray(expit(logits.astype(np.float64)))

    def predicted(self, logits: Any, thresholds: Any) -> Any:
        return (logits > 0).astype(np.int64)

    def right(self, predicted: Any, labels: Any) -> Any:
        return (predicted == labels).all(axis=1)

    def stored(self, predictions: Predictions, label_names: Any) -> dict[str, pa.Array]:
        return {"answers": pa.array(predictions.predicted.tolist()), "truth": pa.array(predictions.labels.tolist())}

    def read(self, table: pa.Table) -> Any:
        return np.array(table["truth"].to_pylist())

    def contradictions(self, table: pa.Table, predictions: Predictions, label_names: Any) -> Any:
        yield "column answers does not follow", (np.array(table["answers"].to_pylist()) != predictions.predicted).any(axis=1)


def test_a_second_kind_of_target_answers_stores_and_reads_its_own_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "target_named", lambda kind: OneLabel() if kind == "one_label" else Several())
    monkeypatch.setattr("hftl.evaluation.predictions.target_named", targets.target_named)
    monkeypatch.setitem(targets.TARGETS, "several", "nowhere")
    truth = np.array([[1, 0], [1, 1], [1, 1]])
    predictions = Predictions(IDS, truth, LOGITS, kind="several")
    assert predictions.predicted.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert predictions.right.tolist() == [True, False, True]
    np.testing.assert_allclose(predictions.probabilities[1], [0.5, 1 / (1 + np.exp(-1))])
    predictions.save(tmp_path / "test.parquet", ["a", "b"])
    assert pq.read_schema(tmp_path / "test.parquet").names == ["id", "answers", "truth", "probability", "logits"]
    again = Predictions.load(tmp_path / "test.parquet")
    assert again.kind == "several" and again.labels.tolist() == truth.tolist()


def test_predictions_of_one_label_name_no_kind_and_those_of_an_unknown_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    Predictions(IDS, np.array([0, 1, 0]), LOGITS).save(path, ["a", "b"])
    table = pq.read_table(path)
    assert b"hftl.target" not in table.schema.metadata and Predictions.load(path).kind == "one_label"
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"hftl.target": b"ranks"}), path)
    with pytest.raises(RunError, match='its target is "ranks", none of one_label'):
        Predictions.load(path)
    with pytest.raises(RunError, match='metrics of the target "ranks"'):
        as_split_metrics({"target": "ranks", "n": 3, "skipped": 0}, source="metrics.json")


def test_one_label_says_who_is_right_how_sure_and_of_which_class() -> None:
    predictions = Predictions(IDS, np.array([0, 1, 0]), LOGITS)
    target = predictions.target
    assert predictions.right.tolist() == [True, True, False]
    np.testing.assert_allclose(predictions.confidence, 1 / (1 + np.exp(-np.array([3.0, 1.0, 2.0]))))
    assert target.named(predictions.predicted, ["a", "b"]) == ["a", "b", "b"]
    assert target.has(predictions.labels, 0).tolist() == [True, False, True]
    assert target.reordered(np.array([0, 1, 2]), np.array([2, 0, 1])).tolist() == [1, 2, 0]
    assert set(target.figures("test")) == {"confusion_matrix_test.png", "calibration.png"}
