"""hftl's side: a recipe for the job, and `hftl.training.engine.train` in this process.

hftl's clock stops at the end of its last stage, which holds more than the rivals': the audit of the data, the plan, a proof that
frozen layers have not moved, and a checkpoint after each epoch but the last. What comes after (test, figures, the model's
files) is not counted, as it is not for the rivals.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from side import Clock, read_spec, write_result

import hftl
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json
from hftl.run import RunDirectory
from hftl.training.engine import train


class TimedRun(RunDirectory):
    """A run directory that puts the clock's reading into each line of the history."""

    def append_history(self, record: Mapping[str, Any]) -> None:
        super().append_history({**record, "clock": time.perf_counter(), "cpu_clock": time.process_time()})


def make_recipe(spec: Mapping[str, Any], **run: Any) -> hftl.Recipe:
    """The job as a recipe; `run` are changes of its run section."""
    kind, seed = spec["kind"], spec["seed"]
    if kind == "resnet":
        data: Any = hftl.ImageData(source=spec["data"], augmentation="standard" if spec["augmented"] else "none")
        model: Any = hftl.Timm(checkpoint=spec["checkpoint"])
    else:
        data = hftl.TextData(source=spec["data"], max_length=spec["max_length"])
        if kind == "transformer":
            model = hftl.Transformer(checkpoint=spec["checkpoint"], pretrained=not spec["random_bert_base"])
        else:
            model = glove(kind, spec["vectors"])
    stages = {
        stage["name"]: hftl.Stage(
            unfreeze=unfreeze(kind, stage["top"]),
            epochs=stage["epochs"],
            lr=stage["lr"],
            schedule=spec["schedule"],
            weight_decay=spec["weight_decay"],
        )
        for stage in spec["stages"]
    }
    settings = {"batch_size": spec["batch_size"], "seed": seed, **run}
    if kind == "resnet":  # texts are evaluated by tokens
        settings["evaluation_batch_size"] = spec["evaluation_batch_size"]
    return hftl.Recipe(name="benchmark", data=data, model=model, stages=stages, run=hftl.RunSettings(**settings))


def glove(kind: str, vectors: str) -> hftl.TextCNN | hftl.BiLSTM:
    """The networks of recipes/textcnn_imdb.py and recipes/bilstm_imdb.py, every word of a text read."""
    if kind == "textcnn":
        return hftl.TextCNN(vectors=vectors, kernel_widths=(1, 2, 3), channels=100, trainable_dim=50, max_words=20_000)
    return hftl.BiLSTM(vectors=vectors, hidden_size=64, layers=1, pooling="max", trainable_dim=50, max_words=20_000)


def unfreeze(kind: str, top: int | None) -> str | tuple[str, ...]:
    """hftl's name for the `top` layers below the head, None for all. A textbook's network keeps its word vectors as they are."""
    if kind in {"textcnn", "bilstm"}:
        return ("trainable_embedding", "convolutions" if kind == "textcnn" else "lstm.0", "head")
    if top is None:
        return "all"
    return "head" if top == 0 else f"last {top + 1}"


def main() -> None:
    """Train, and write how long it took and how good it is."""
    spec = read_spec()
    recipe, run = make_recipe(spec), TimedRun(Path(spec["work"]) / "run")
    clock, cpu_began, stopped, cpu = Clock(), time.process_time(), 0.0, 0.0
    train(recipe, run, console=Console(file=io.StringIO()))
    wall = time.perf_counter()
    for record in run.read_history():
        if record["event"] == "stage_start" and "prepare" not in clock.parts:
            clock.lap("prepare", at=record["clock"])
        if record["event"] == "stage_end":
            clock.lap(record["stage"], at=record["clock"])
            stopped, cpu = record["clock"], record["cpu_clock"] - cpu_began
    correct = {}
    if spec["test"]:
        test = Predictions.load(run.predictions("test"))
        correct = dict(zip(test.ids, (test.logits.argmax(axis=1) == test.labels).tolist(), strict=True))
    environment = read_json(run.environment)
    write_result(
        clock, correct, cpu_seconds=cpu, precision=environment.get("precision", "not recorded"), seconds_after=wall - stopped
    )


if __name__ == "__main__":
    main()
