"""Predict with a trained model: texts, files, folders and tables, preprocessed as in training.

Shapes: N inputs, K classes.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, disable_progress_bars
from datasets import Image as ImageFeature
from transformers import PreTrainedTokenizerBase, TimmWrapperImageProcessor

from hftl.data.image import BadImage, ImageSamples, inspect
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

# One word that ends as a file or a folder does: mistyped rather than meant as a text.
FILE_LIKE = re.compile(r"\S+(?:\.(?:txt|csv|tsv|json|jsonl|parquet)|/)")
OUTPUTS = (".csv", ".jsonl", ".parquet")


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
    disable_progress_bars()  # of datasets
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
    """Write predictions as .csv, .jsonl or .parquet, by the file's ending (see `check_output`)."""
    rows = [
        {"input": p.input, "label": p.label, "probability": p.probability, **{f"p({k})": v for k, v in p.probabilities.items()}}
        for p in predictions
    ]
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        Dataset.from_list(rows).to_parquet(path)


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
    problems: list[Problem] = []
    for given in inputs:
        path = _path(given)
        if path is not None and path.is_dir():
            files = sorted(file for file in path.rglob("*.txt") if file.is_file())
            if not files:
                problems.append(Problem(given, "no .txt files in this folder"))
            texts += [_read(file, problems) for file in files]
        elif path is not None and path.suffix.lower() in TABLES:
            texts += ["" if text is None else str(text) for text in read_column(path, "text")]
        elif path is not None:
            texts += _read(path, problems).splitlines()
        elif FILE_LIKE.fullmatch(given):
            problems.append(Problem(given, "no such file or folder; a text of one word is written with a space after it"))
        else:
            texts.append(given)
    if problems or not texts:
        raise DataError("the inputs", problems or [Problem("inputs", "nothing to predict")])
    return texts, Dataset.from_dict({"id": [str(place) for place in range(len(texts))], "text": texts, "label": [0] * len(texts)})


def _path(given: str) -> Path | None:
    """The file or folder that an input names; None: it is a text. ("" would be the folder one is in.)"""
    return Path(given) if given and os.path.exists(given) else None  # Path.exists raises for a long text


def _read(file: Path, problems: list[Problem]) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(Problem(str(file), f"not UTF-8 at byte {error.start}"))
        return ""


def _pictures(inputs: Sequence[str]) -> tuple[list[str], Dataset]:
    files: list[str] = []
    problems: list[Problem] = []
    for given in inputs:
        path = _path(given)
        if path is None:
            problems.append(Problem(given or '""', "no such file or folder"))
        elif path.is_dir():
            found = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in PICTURES)
            if not found:
                problems.append(Problem(given, "no pictures in this folder"))
            files += found
        elif path.suffix.lower() in TABLES:
            files += [str(path.parent / str(name)) for name in read_column(path, "image")]
        else:
            files.append(given)
    for name in files:
        try:
            inspect(name)
        except BadImage as error:
            problems.append(Problem(name, str(error)))
    if problems or not files:
        raise DataError("the inputs", problems or [Problem("inputs", "nothing to predict")])
    dataset = Dataset.from_dict({"id": files, "image": files, "label": [0] * len(files)})
    dataset = dataset.cast_column("label", ClassLabel(names=["unknown"]))
    return files, dataset.cast_column("image", ImageFeature(decode=False))
