"""Predict with a trained model: texts, files, folders and tables, preprocessed as in training.

Shapes: N inputs, K classes.
"""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from datasets import disable_progress_bars

from hftl.data.content import content_for
from hftl.data.inputs import Asked, OnBadImage, Say
from hftl.data.loader import evaluation_batches
from hftl.errors import DataError, printable
from hftl.evaluation.predict import predict_logits
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.targets import target_named
from hftl.files import check_name, written_whole
from hftl.models import load_classifier
from hftl.names import SEVERAL_LABELS, VIEWS, Tta
from hftl.run import RunDirectory
from hftl.wording import count, listed

OUTPUTS = (".csv", ".jsonl", ".parquet")
SILENT = 10.0
"""Seconds until a line says how far predicting has come, and between two of them."""

Block = TypeVar("Block", bound=Sized)


@dataclass(frozen=True)
class Prediction:
    """What the model says about one input."""

    input: str
    """The text, or the picture's file; of a picture or array in memory its place among the inputs, such as "input 3"."""
    label: str
    """Several labels are one text, "joy, anger"."""
    probability: float
    """Of `label`; of several labels that of the whole set, as if they were independent: a product over all K."""
    probabilities: dict[str, float]
    """Of each class or label."""
    labels: tuple[str, ...] | None = None
    """Where an example has several labels, those whose probability reaches their threshold; None: there is one, `label`."""
    row: Mapping[str, Any] | None = None
    """What the table has that the input comes from: ids and all other columns."""


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
        if run.recipe.is_file() and not run.model.is_dir():
            run.check_finished("there is no model to predict with")
        self.classifier = load_classifier(run.model if run.model.is_dir() else model_or_run)
        data = run.load_recipe().data if run.recipe.is_file() else None
        channels = self.classifier.facts.get("input_size", [3])[0]
        self.content = content_for(self.classifier.kind, data, max_length=self.classifier.max_length, channels=channels)
        self._accelerator = Accelerator()
        self._model = self.classifier.model.to(self._accelerator.device)

    @property
    def label_names(self) -> list[str]:
        """The K classes, in the model's order."""
        id2label = cast(dict[int, str], self.classifier.model.config.id2label)
        return [id2label[index] for index in range(len(id2label))]

    def predict(
        self, inputs: Sequence[Any], *, batch_size: int = 64, tta: Tta = "none", say: Say = lambda line: None
    ) -> list[Prediction]:
        """Classify inputs, preprocessed as in training: what `ask` looks at and `answer` answers, in one list.

        Raises:
            DataError: inputs that cannot be read, all of them in one report; or as `answer`.
        """
        asked = self.ask(inputs, say=say)
        return [one for block in self.answer(asked, batch_size=batch_size, tta=tta, say=say) for one in block]

    def ask(
        self, inputs: Sequence[Any], *, columns: Sequence[str] | None = None, on_bad_image: OnBadImage = "error", say: Say
    ) -> Asked:
        """Look at inputs before anything is computed.

        For a model of texts an input is a text (str), or a file or folder (`pathlib.Path`): .txt has a text a line, a CSV, JSONL or
        Parquet table the columns that the run was trained on, or "text"; in a folder each .txt is a text. Where the run was trained
        on several columns, what they hold is also a dict by their names or a tuple in their order. For a model of pictures it is a
        file, a folder or a table likewise (str or Path), a PIL picture, or an array of uint8, (H, W), (H, W, 3) or (H, W, 4). The
        files of a folder are those that training would read; `say` gets a line about the others.

        Args:
            inputs: see above.
            columns: what the tables call the columns of texts or pictures; None: as the run does.
            on_bad_image: whether a picture that cannot be read is refused, or left out and counted.
            say: see above.

        Raises:
            DataError: inputs that cannot be read, all of them in one report.
        """
        return self.content.inputs(inputs, say, columns=columns, on_bad_image=on_bad_image)

    def answer(self, asked: Asked, *, batch_size: int = 64, tta: Tta = "none", say: Say) -> Iterator[list[Prediction]]:
        """Predictions, a block at a time and in the order of the inputs, the same on every process, of which each computes a share.

        With `tta` the probabilities are the mean over several views of each picture, of which `batch_size` are computed at once;
        the thresholds of several labels stay those that validation has chosen for the picture alone. `say` gets a line about how
        far it has come every `SILENT` seconds, and one at the end about what was left out.

        Raises:
            DataError: there are no such views of what the model reads.
        """
        yield from told(self._answers(asked, batch_size, tta), asked, "predicted", say)

    def _answers(self, asked: Asked, batch_size: int, tta: Tta) -> Iterator[list[Prediction]]:
        kind, views, names = self.classifier.target, VIEWS.get(tta, 1), self.label_names
        for block in asked.blocks():
            samples = self.content.samples(block.dataset, self.classifier.preprocessor, seed=0, train=False)
            samples = samples if tta == "none" else self.content.views(samples, tta)
            processes = self._accelerator.num_processes
            at_once, rank = max(1, batch_size // views), self._accelerator.process_index
            batches = evaluation_batches(samples, batch_size=at_once, processes=processes, rank=rank)
            fuse = target_named(kind).fused if views > 1 else None
            logits = predict_logits(self._model, batches, self._accelerator, size=len(samples), fuse=fuse)
            unknown = np.zeros(target_named(kind).shape(*logits.shape), dtype=np.int64)  # any that may be
            answers = Predictions(list(samples.ids), unknown, logits, kind=kind, thresholds=self.classifier.thresholds)
            yield [
                Prediction(name, label, confidence, dict(zip(names, probabilities, strict=True)), labels, row)
                for name, label, confidence, probabilities, labels, row in zip(
                    block.names,
                    answers.target.named(answers.predicted, names),
                    answers.confidence.tolist(),
                    answers.probabilities.tolist(),
                    _labels(answers, names),
                    block.rows,
                    strict=True,
                )
            ]


def told(blocks: Iterable[Block], asked: Asked, how: str, say: Say) -> Iterator[Block]:
    """The same blocks; `say` gets a line about how far it has come every `SILENT` seconds, and one at the end about what was left
    out. `how` is what was done with an input: "predicted"."""
    done, said = 0, time.monotonic()
    began = said
    for block in blocks:
        yield block
        done += len(block)
        if (now := time.monotonic()) - said >= SILENT and done < asked.count:
            said = now
            say(f"{done:,} of {asked.count:,} {how}, {done / (now - began):,.0f} a second")
    if asked.left_out:
        shown = listed(asked.left_out, 10)
        say(printable(f"left out {count(len(asked.left_out), 'picture')} that cannot be read: {shown}"))


def _labels(answers: Predictions, names: Sequence[str]) -> list[tuple[str, ...] | None]:
    """See `Prediction.labels`."""
    if answers.kind != SEVERAL_LABELS:
        return [None] * len(answers)
    return [tuple(names[place] for place in np.flatnonzero(row).tolist()) for row in answers.predicted]


def check_output(path: Path, *, what: str = "predictions", endings: Sequence[str] = OUTPUTS) -> None:
    """Refuse an output that cannot be written, before anything is computed.

    Raises:
        DataError: another ending than one of `endings`, an existing file, or no such folder.
        RunError: `path` cannot be a name.
    """
    check_name(path)
    if path.suffix not in endings:
        allowed = f"allowed: {', '.join(endings)}"
        raise DataError.single("--output", f'{what} are not written to "{path.suffix}" files', allowed, source=str(path))
    if path.exists():
        raise DataError.single("--output", "there is such a file already, and nothing is written over", source=str(path))
    if not path.absolute().parent.is_dir():
        raise DataError.single("--output", f"no such folder: {path.absolute().parent}", source=str(path))


@contextmanager
def writing(
    path: Path, asked: Asked, label_names: Sequence[str], *, several: bool = False
) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    """A function that writes predictions, block by block, as .csv, .jsonl or .parquet, by the file's ending (see `check_output`).

    A row has `input`, the columns of the table that it comes from, then `label`, `probability` and the probability of each class as
    "p(CLASS)". Several labels an example are a text, "joy, anger", whose probability is that of the whole set, and in .jsonl and
    .parquet the list `labels` after it. Where a table has a column of one of these names, the model's is "predicted NAME". Parquet
    keeps the types of Parquet. The file appears when all is written, or not at all.
    """
    lists = {"labels": pa.list_(pa.string())} if several and path.suffix != ".csv" else {}
    numbers = {name: pa.float64() for name in ("probability", *(f"p({name})" for name in label_names))}
    own = {"label": pa.string(), **lists, **numbers}
    fields, called = columns_of(asked, own)

    def rows(predictions: Sequence[Prediction]) -> Iterator[dict[str, Any]]:
        for one in predictions:
            answers = [one.label, *([list(one.labels or ())] if lists else []), one.probability, *one.probabilities.values()]
            row = {"input": one.input, **(one.row or {}), **dict(zip(called.values(), answers, strict=True))}
            yield {name: row.get(name) for name in fields}

    with written_whole(path) as beside:
        if path.suffix == ".parquet":
            with pq.ParquetWriter(beside, pa.schema(list(fields.items()))) as writer:
                yield lambda predictions: writer.write_table(arrow_table(list(rows(predictions)), fields))
            return
        with beside.open("w", encoding="utf-8", newline="") as stream:
            if path.suffix == ".csv":
                lines = csv.writer(stream)
                lines.writerow(fields)
                yield lambda predictions: lines.writerows(map(_cell, row.values()) for row in rows(predictions))
            else:
                yield lambda predictions: stream.writelines(f"{_json(row)}\n" for row in rows(predictions))


def columns_of(asked: Asked, own: Mapping[str, pa.DataType]) -> tuple[dict[str, pa.DataType], dict[str, str]]:
    """The columns of an output, and what those of the model are called there: `input`, the tables' columns, then `own`.

    Where a table has a column of one of these names, the model's is "predicted NAME".
    """
    called = {name: name for name in own}
    while taken := [name for name, shown in called.items() if shown in asked.columns]:
        called |= {name: f"predicted {called[name]}" for name in taken}
    first = {} if "input" in asked.columns else {"input": pa.string()}
    fields = {**first, **asked.columns, **{called[name]: kind for name, kind in own.items()}}
    # Bytes of a picture are its content, and no column beside it; only Parquet could hold them.
    return {name: kind for name, kind in fields.items() if not _is_binary(kind)}, called


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_is_binary(field.type) for field in kind.fields)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def arrow_table(rows: Sequence[Mapping[str, Any]], fields: Mapping[str, pa.DataType]) -> pa.Table:
    """Rows of an output, by its columns."""
    columns = {}
    for name, kind in fields.items():
        values = [row[name] for row in rows]
        if pa.types.is_string(kind):
            values = [value if isinstance(value, str | None) else _json(value) for value in values]
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


_NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)*|[.,]\d+)([eE][+-]?\d+)?")


def _cell(value: Any) -> Any:
    """A cell of a CSV file. A text that a spreadsheet would run as a formula gets a quote before it (OWASP, CSV injection)."""
    if isinstance(value, dict | list):
        value = _json(value)
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
