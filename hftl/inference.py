"""Predict with a trained model: texts, files, folders and tables, preprocessed as in training.

Shapes: N inputs, K classes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from datasets import disable_progress_bars

from hftl.data.content import content_for
from hftl.data.inputs import Say
from hftl.data.loader import evaluation_batches
from hftl.errors import DataError
from hftl.evaluation.predict import predict_logits
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.targets import target_named
from hftl.files import written_whole
from hftl.models import load_classifier
from hftl.names import SEVERAL_LABELS
from hftl.run import RunDirectory

OUTPUTS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Prediction:
    """What the model says about one input."""

    input: str
    """The text, or the picture's file; of a picture or array in memory its place among the inputs, such as "input 3"."""
    label: str
    probability: float
    probabilities: dict[str, float]
    labels: tuple[str, ...] | None = None
    """Where an example has several labels, those whose probability reaches their threshold; None: there is one, `label`."""


class Predictor:
    """A run's model, or that of a saved model folder, in memory and ready to answer.

    Args:
        model_or_run: a run directory, or a folder as `save_pretrained` writes it.

    Raises:
        RunError: there is no model there.
    """

    def __init__(self, model_or_run: Path) -> None:
        disable_progress_bars()  # of datasets
        run = RunDirectory(model_or_run)
        self.classifier = load_classifier(run.model if run.model.is_dir() else model_or_run)
        data = run.load_recipe().data if run.recipe.is_file() else None
        self._content = content_for(self.classifier.kind, data, max_length=self.classifier.max_length)
        self._accelerator = Accelerator()
        self._model = self.classifier.model.to(self._accelerator.device)

    def predict(self, inputs: Sequence[Any], *, batch_size: int = 64, say: Say = lambda line: None) -> list[Prediction]:
        """Classify inputs, preprocessed as in training.

        For a model of texts an input is a text (str), or a file or folder (`pathlib.Path`): .txt has a text a line, a CSV, JSONL or
        Parquet table the column that the run was trained on, or "text"; in a folder each .txt is a text. For a model of pictures
        it is a file, a folder or a table likewise (str or Path), a PIL picture, or an array of uint8, (H, W), (H, W, 3) or
        (H, W, 4). The files of a folder are those that training would read; `say` gets a line about the others.

        Raises:
            DataError: inputs that cannot be read, all of them in one report.
        """
        asked = self._content.inputs(inputs, say)
        samples = self._content.samples(asked.dataset, self.classifier.preprocessor, seed=0, train=False)
        batches = evaluation_batches(samples, batch_size=batch_size)
        logits = predict_logits(self._model, batches, self._accelerator, size=len(samples))
        kind = self.classifier.target
        unknown = np.zeros(target_named(kind).shape(*logits.shape), dtype=np.int64)  # any that may be
        answers = Predictions(list(samples.ids), unknown, logits, kind=kind, thresholds=self.classifier.thresholds)
        id2label = cast(dict[int, str], self.classifier.model.config.id2label)
        names = [id2label[index] for index in range(logits.shape[1])]
        return [
            Prediction(name, label, confidence, dict(zip(names, row, strict=True)), own)
            for name, label, confidence, row, own in zip(
                asked.names,
                answers.target.named(answers.predicted, names),
                answers.confidence.tolist(),
                answers.probabilities.tolist(),
                _labels(answers, names),
                strict=True,
            )
        ]


def _labels(answers: Predictions, names: Sequence[str]) -> list[tuple[str, ...] | None]:
    """See `Prediction.labels`."""
    if answers.kind != SEVERAL_LABELS:
        return [None] * len(answers)
    return [tuple(names[place] for place in np.flatnonzero(row).tolist()) for row in answers.predicted]


def check_output(path: Path) -> None:
    """Refuse an output that cannot be written, before anything is computed.

    Raises:
        DataError: another ending than .csv, .jsonl or .parquet, an existing file, or no such folder.
    """
    if path.suffix not in OUTPUTS:
        allowed = f"allowed: {', '.join(OUTPUTS)}"
        raise DataError.single("--output", f'predictions are not written to "{path.suffix}" files', allowed, source=str(path))
    if path.exists():
        raise DataError.single("--output", "there is such a file already, and nothing is written over", source=str(path))
    if not path.absolute().parent.is_dir():
        raise DataError.single("--output", f"no such folder: {path.absolute().parent}", source=str(path))


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write predictions as .csv, .jsonl or .parquet, by the file's ending (see `check_output`).

    Several labels an example are a text in .csv, "joy, anger", and the list `labels` beside it in the others.
    """
    lists = path.suffix != ".csv"
    rows = [
        {
            "input": p.input,
            "label": p.label,
            **({"labels": list(p.labels)} if lists and p.labels is not None else {}),
            "probability": p.probability,
            **{f"p({k})": v for k, v in p.probabilities.items()},
        }
        for p in predictions
    ]
    with written_whole(path) as beside:
        if path.suffix == ".csv":
            with beside.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
        elif path.suffix == ".jsonl":
            beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        else:
            pq.write_table(pa.Table.from_pylist(rows), beside)


def _harmless(value: Any) -> Any:
    """A cell that a spreadsheet would run as a formula gets a quote before it (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
