"""Predict with a trained model: texts, files, folders and tables, preprocessed as in training.

Shapes: N inputs, K classes.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, disable_progress_bars
from datasets import Image as ImageFeature
from transformers import PreTrainedTokenizerBase, TimmWrapperImageProcessor

from hftl.data.decoding import BadImage, inspect
from hftl.data.dialect import lines_of
from hftl.data.folders import files_below
from hftl.data.image import ImageSamples
from hftl.data.layout import TABLES, counted, ending_of, is_picture, ways_out
from hftl.data.loader import Samples, evaluation_batches
from hftl.data.rows import content_column
from hftl.data.tables import read_column, read_text
from hftl.data.text import TextSamples
from hftl.errors import DataError, Problem, printable
from hftl.evaluation.predict import predict_logits
from hftl.evaluation.predictions import Predictions
from hftl.files import written_whole
from hftl.memory import stored_picture
from hftl.models import load_classifier
from hftl.models.family import Classifier
from hftl.recipe import ImageData, TextData
from hftl.run import RunDirectory
from hftl.wording import count, listed

OUTPUTS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Prediction:
    """What the model says about one input."""

    input: str
    """The text, or the picture's file; of a picture or array in memory its place among the inputs, such as "input 3"."""
    label: str
    probability: float
    probabilities: dict[str, float]


Say = Callable[[str], object]


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
        self._data = run.load_recipe().data if run.recipe.is_file() else None
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
        classifier, of_run = self.classifier, self._data
        if isinstance(classifier.preprocessor, TimmWrapperImageProcessor):
            background = of_run.background if isinstance(of_run, ImageData) else (255, 255, 255)
            names, dataset = _pictures(inputs, _columns("image", of_run), say)
            samples: Samples = ImageSamples(
                dataset, classifier.preprocessor, augmentation="none", background=background, seed=0, train=False
            )
        else:
            names, dataset = _texts(inputs, _columns("text", of_run), say)
            samples = TextSamples(dataset, classifier.preprocessor, max_length=_max_length(classifier))
        batches = evaluation_batches(samples, batch_size=batch_size)
        logits = predict_logits(self._model, batches, self._accelerator, size=len(samples))
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


def _max_length(classifier: Classifier) -> int:
    """Training stores its maximal length in the tokenizer; a foreign one may not know its own (a huge number then)."""
    assert isinstance(classifier.preprocessor, PreTrainedTokenizerBase)
    positions = classifier.facts.get("max_positions")
    return min(length for length in (classifier.preprocessor.model_max_length, positions, 100_000) if length is not None)


def _columns(kind: str, of_run: TextData | ImageData | None) -> list[str]:
    """The columns that inputs may be in: the run's own, then the usual one."""
    own = [content_column(of_run)] if of_run is not None and of_run.kind == kind else []
    return list(dict.fromkeys([*own, kind]))


def _texts(inputs: Sequence[Any], columns: Sequence[str], say: Say) -> tuple[list[str], Dataset]:
    texts: list[str] = []
    problems: list[Problem] = []
    for place, given in enumerate(inputs):
        if isinstance(given, str):
            texts.append(str(given))
        elif not isinstance(given, os.PathLike):
            what = f"expected a text (str) or a file (pathlib.Path), found {type(given).__name__}"
            problems.append(Problem(f"input {place}", what))
        elif not os.path.exists(given):
            problems.append(Problem(str(given), "no such file or folder; a text of one word is written with a space after it"))
        elif (path := Path(given)).is_dir():
            texts += [_read(file, problems) for file in _files(path, _is_text, ".txt", problems, say)]
        elif path.suffix.lower() in TABLES:
            texts += _strings(path, columns, "without a text", problems).values()
        else:
            texts += lines_of(_read(path, problems))
    if problems or not texts:
        raise DataError("the inputs", problems or [Problem("inputs", "nothing to predict")])
    return texts, Dataset.from_dict({"id": [str(place) for place in range(len(texts))], "text": texts, "label": [0] * len(texts)})


def _is_text(file: Path) -> bool:
    return ending_of(file.name) == ".txt"


def _files(folder: Path, wanted: Callable[[Path], bool], what: str, problems: list[Problem], say: Say) -> list[Path]:
    """The wanted files below a folder, sorted; as in training, hidden ones are left out and no link may lead out of it."""
    files: list[Path] = []
    left_out = Counter[str]()
    for found in files_below(folder):
        if isinstance(found, Problem):
            problems.append(found)
        elif wanted(found):
            files.append(found)
        else:
            left_out[ending_of(found.name)] += 1
    if not files:
        there = f", but {counted(left_out)}" if left_out else ""
        problems.append(Problem(str(folder), f"no {what} in this folder{there}", ways_out(left_out)))
    elif left_out:
        say(printable(f"{folder}: left out {counted(left_out)}"))
    return files


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _strings(table: Path, columns: Sequence[str], lacking: str, problems: list[Problem]) -> dict[int, str]:
    """One column of a table, by row; a null or another type is a problem, as in training."""
    values = read_column(table, columns)
    wrong = [row for row, value in enumerate(values) if not isinstance(value, str)]
    if wrong:
        what = f"{count(len(wrong), 'row')} {lacking}: {listed(wrong, 10)}"
        problems.append(Problem(str(table), what, ("rows are counted from 0, without a header",)))
    return {row: value for row, value in enumerate(values) if isinstance(value, str)}


def _read(file: Path, problems: list[Problem]) -> str:
    text = read_text(file, problems)
    return "" if text is None else text.replace("\r\n", "\n")  # a file from Windows is the same text


def _pictures(inputs: Sequence[Any], columns: Sequence[str], say: Say) -> tuple[list[str], Dataset]:
    names: list[str] = []
    pictures: list[dict[str, Any]] = []
    problems: list[Problem] = []

    def add(files: Iterable[Path]) -> None:
        for file in map(str, files):
            names.append(file)
            pictures.append({"bytes": None, "path": file})

    for place, given in enumerate(inputs):
        if not isinstance(given, str | os.PathLike):
            names.append(f"input {place}")
            try:
                pictures.append(stored_picture(given))
            except ValueError as error:
                problems.append(Problem(names.pop(), str(error)))
        elif not str(given) or not os.path.exists(given):  # "" would be the folder one is in
            problems.append(Problem(str(given) or '""', "no such file or folder"))
        elif (path := Path(given)).is_dir():
            add(_files(path, is_picture, "picture", problems, say))
        elif path.suffix.lower() in TABLES:
            for row, name in _strings(path, columns, "without the path of a picture", problems).items():
                if _inside(path.parent / name, path.parent):
                    add([path.parent / name])
                else:
                    problems.append(Problem(f"{path}, row {row}", f"{name}: a path that leaves the folder of the table"))
        else:
            add([path])
    for name, picture in zip(names, pictures, strict=True):
        try:
            inspect(picture["bytes"] or name)
        except BadImage as error:
            problems.append(Problem(name, str(error)))
    if problems or not names:
        raise DataError("the inputs", problems or [Problem("inputs", "nothing to predict")])
    ids = [f"{place} {name}" for place, name in enumerate(names)]  # a file may be given twice
    dataset = Dataset.from_dict({"id": ids, "image": pictures, "label": [0] * len(names)})
    dataset = dataset.cast_column("label", ClassLabel(names=["unknown"]))
    return names, dataset.cast_column("image", ImageFeature(decode=False))
