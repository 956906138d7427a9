"""How far a training step of hftl is from what the machine can do.

One stage that trains everything, two epochs; the steps of the second are timed, but for its first. The operations are those of the
words that are there: padding counts as loss. The limit is the rate of a square matrix product in the same number format.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ours import TimedRun, make_recipe
from rich.console import Console
from side import Clock, read_spec, write_result

from hftl.data.batches import plan_epoch
from hftl.training.costs import forward_flops, step_flops
from hftl.training.engine import train
from hftl.training.experiment import Experiment, make_samples, prepare_experiment
from hftl.training.machine import has_native_bf16, matrix_rate

TITLES = {
    "minilm": "MiniLM",
    "bert-base": "BERT-base sizes",
    "resnet18": "ResNet-18",
    "textcnn": "TextCNN",
    "bilstm": "BiLSTM",
}


def flops_of_examples(experiment: Experiment, samples: Any) -> np.ndarray:
    """Operations of a training step of each example, all groups training. (N,)

    A text's are a polynomial of its length, of degree 2 at most (attention), known from three lengths.
    """
    model, chain = experiment.classifier.model, experiment.classifier.chain

    def count(inputs: dict[str, torch.Tensor]) -> int:
        return step_flops(forward_flops(model, chain, inputs), chain.names)

    if samples.lengths is None:
        batch = samples.collate([samples[0, 0]])
        inputs = batch if hasattr(batch, "keys") else dict(batch)
        moved = samples.to_device(inputs, torch.device("cpu"))
        return np.full(len(samples), count(moved), dtype=np.float64)
    lengths = np.array([32, 64, 128])
    counts = [count({"input_ids": torch.full((1, int(length)), 5)}) for length in lengths]
    return np.polyval(np.polyfit(lengths, counts, 2), np.asarray(samples.lengths, dtype=np.float64))


def main() -> None:
    """Train, and write the rates."""
    spec = read_spec()
    stage = {**spec["stages"][-1], "name": "all", "epochs": 2, "top": None}
    spec = {**spec, "stages": [stage]}
    recipe, run = make_recipe(spec, log_every=1), TimedRun(Path(spec["work"]) / "run")
    clock = Clock()
    device = torch.device(spec["device"])
    precision = "bf16" if has_native_bf16(device) else "float32"
    matrix_side, rate = best_matrix_rate(device, precision)
    experiment = prepare_experiment(recipe)
    samples = make_samples(recipe, experiment.classifier, experiment.splits.train, train=True)
    flops = flops_of_examples(experiment, samples)
    train(recipe, run, console=Console(file=io.StringIO()))
    clock.lap("all")
    planned = plan_epoch(len(samples), batch_size=spec["batch_size"], seed=spec["seed"], epoch=2, lengths=samples.lengths)
    clocks = [record["clock"] for record in run.read_history() if record["event"] == "step" and record["epoch"] == 2]
    assert len(clocks) == len(planned)
    if len(clocks) < 2:
        raise SystemExit(f"{spec['examples']} examples are one step of an epoch; two are needed")
    achieved = sum(flops[step].sum() for step in planned[1:]) / (clocks[-1] - clocks[0])
    write_result(
        clock,
        {},
        title=TITLES[spec["family"]],
        step=f"{spec['batch_size']} examples",
        precision=precision,
        matrix_side=matrix_side,
        matrix_flops_per_second=rate,
        step_flops_per_second=float(achieved),
    )


def best_matrix_rate(device: torch.device, precision: str) -> tuple[int, float]:
    """hftl's own measure of the machine: products of side 1,024."""
    return 1024, matrix_rate(device, "bf16" if precision == "bf16" else "no", seconds=1.0)


if __name__ == "__main__":
    main()
