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
from accelerate import Accelerator
from datasets import Dataset
from datasets import Image as ImageFeature
from transformers import PreTrainedTokenizerBase, TimmWrapperImageProcessor

from hftl.data.image import ImageSamples
from hftl.data.loader import Samples, evaluation_batches
from hftl.data.source import PICTURES, TABLES, read_column
from hftl.data.text import TextSamples
from hftl.errors import DataError, Problem
from hftl.evaluation.metrics import Predictions
from hftl.evaluation.predict import predict_logits
from hftl.models import load_classifier
from hftl.models.classifier import Classifier
from hftl.recipe import ImageData
from hftl.run import RunDirectory


@dataclass(frozen=True)
class Prediction:
    """What the model says about one input."""

    input: str
    """The text, or the picture's file."""
    label: str
    probability: float
    probabilities: dict[str, float]


def predict(model_or_run: Path, inputs: Sequence[str], *, batch_size: int = 64) -> list[Prediction]:
    """Classify inputs with a run's model or a saved model folder.

    An input is a text, a file (.txt: a text a line; a picture; a CSV, JSONL or Parquet table with a "text" or "image" column), or
    a folder of such files.

    Raises:
        RunError: there is no model there.
        DataError: inputs that cannot be read, all of them in one report.
    """
    run = RunDirectory(model_or_run)
    classifier = load_classifier(run.model if run.model.is_dir() else model_or_run)
    of_run = run.load_recipe().data if run.recipe.is_file() else None
    if isinstance(classifier.preprocessor, TimmWrapperImageProcessor):
        data = of_run if isinstance(of_run, ImageData) else ImageData(source=str(model_or_run))
        names, dataset = _pictures(inputs)
        samples: Samples = ImageSamples(
            dataset, classifier.preprocessor, augmentation="none", background=data.background, seed=0, train=False
        )
    else:
        names, dataset = _texts(inputs)
        samples = TextSamples(dataset, classifier.preprocessor, max_length=_max_length(classifier))
    accelerator = Accelerator()
    logits = predict_logits(
        classifier.model.to(accelerator.device), evaluation_batches(samples, batch_size=batch_size), accelerator, size=len(samples)
    )
    probabilities = Predictions(list(samples.ids), np.zeros(len(samples), dtype=np.int64), logits).probabilities
    id2label = cast(dict[int, str], classifier.model.config.id2label)
    labels = [id2label[index] for index in range(logits.shape[1])]
    return [
        Prediction(name, labels[int(row.argmax())], float(row.max()), dict(zip(labels, row.tolist(), strict=True)))
        for name, row in zip(names, probabilities, strict=True)
    ]


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write predictions as .csv, .jsonl or .parquet, by the file's ending.

    Raises:
        DataError: another ending.
    """
    rows = [
        {"input": p.input, "label": p.label, "probability": p.probability, **{f"p({k})": v for k, v in p.probabilities.items()}}
        for p in predictions
    ]
    match path.suffix:
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
        case ".jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            Dataset.from_list(rows).to_parquet(path)
        case other:
            raise DataError.single(
                "--output",
                f'"{other}" is not a kind of file that predictions are written to',
                "allowed: .csv, .jsonl, .parquet",
                source=str(path),
            )


def _harmless(value: Any) -> Any:
    """A cell that a spreadsheet would run as a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def _max_length(classifier: Classifier) -> int:
    """Training stores its maximal length in the tokenizer; a foreign one may not know its own (a huge number then)."""
    assert isinstance(classifier.preprocessor, PreTrainedTokenizerBase)
    positions = classifier.facts.get("max_positions")
    return min(length for length in (classifier.preprocessor.model_max_length, positions, 100_000) if length is not None)


def _texts(inputs: Sequence[str]) -> tuple[list[str], Dataset]:
    texts: list[str] = []
    problems = []
    for given in inputs:
        path = Path(given) if len(given) < 256 else None
        if path is not None and path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix == ".txt")
            if not files:
                problems.append(Problem(given, "no .txt files in this folder"))
            texts += [file.read_text(encoding="utf-8-sig") for file in files]
        elif path is not None and path.is_file() and path.suffix in TABLES:
            texts += ["" if text is None else str(text) for text in read_column(path, "text")]
        elif path is not None and path.is_file():
            texts += path.read_text(encoding="utf-8-sig").splitlines()
        else:
            texts.append(given)
    if problems or not texts:
        raise DataError("inputs", problems or [Problem("inputs", "nothing to predict")])
    return texts, Dataset.from_dict({"id": [str(place) for place in range(len(texts))], "text": texts, "label": [0] * len(texts)})


def _pictures(inputs: Sequence[str]) -> tuple[list[str], Dataset]:
    files: list[str] = []
    problems = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in PICTURES)
            if not found:
                problems.append(Problem(given, "no pictures in this folder"))
            files += found
        elif path.is_file() and path.suffix in TABLES:
            files += [str(path.parent / str(name)) for name in read_column(path, "image")]
        elif path.is_file():
            files.append(given)
        else:
            problems.append(Problem(given, "no such file or folder"))
    problems += [Problem(name, "no such file") for name in files if not Path(name).is_file()]
    if problems or not files:
        raise DataError("inputs", problems or [Problem("inputs", "nothing to predict")])
    dataset = Dataset.from_dict({"id": files, "image": files, "label": [0] * len(files)})
    return files, dataset.cast_column("image", ImageFeature(decode=False))
