"""fp16: when it is chosen, and the gradient scaler in the loop.

There is no GPU here. Accelerate makes no scaler for a CPU, so the runs of this file are given torch's own for CPUs
(`torch.amp.GradScaler("cpu")`). The rest is what a GPU would run: autocast to float16, Accelerate's optimizer and checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from small import BERT_NANO, nano, reviews, train

from hftl.errors import RecipeError, RunError
from hftl.files import read_json
from hftl.recipe import LinearSchedule, Recipe, RunSettings, Stage, override
from hftl.run import RunDirectory
from hftl.signals import Stopped
from hftl.training import engine, machine, open_run, watch, working
from hftl.training.experiment import stage_loss
from hftl.training.machine import mixed_precision

RECIPE = nano(
    "half",
    reviews(32),
    {
        "head": Stage(unfreeze="head", lr=1e-3, schedule="constant"),
        "all": Stage(lr=1e-3, epochs=2, schedule=LinearSchedule(warmup=0.5), average="ema"),
    },
    batch_size=8,
    precision="auto",
    log_every=1,
    checkpoint_minutes=0,
    keep="last",
)


@dataclass
class Gpu:
    """A GPU by what torch says of it."""

    capability: tuple[int, int]
    bf16: bool


@pytest.mark.parametrize(
    ("gpu", "chosen"),
    [
        (Gpu((9, 0), True), "bf16"),  # H100
        (Gpu((7, 5), False), "fp16"),  # T4
        (Gpu((7, 0), False), "fp16"),  # V100
        (Gpu((6, 0), False), "fp16"),  # P100
        (Gpu((6, 1), False), "no"),  # GTX 1080: float16 at a 64th of the speed
        (Gpu((5, 2), False), "no"),
    ],
)
def test_auto_is_bf16_where_there_is_one_then_fp16_then_fp32(gpu: Gpu, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: gpu.capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: gpu.bf16)
    cuda = torch.device("cuda")
    assert mixed_precision(RunSettings(), cuda) == chosen
    assert mixed_precision(RunSettings(precision="fp32"), cuda) == "no"
    assert mixed_precision(RunSettings(precision="fp16"), cuda) == "fp16"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_fp16_is_refused_where_it_would_quietly_be_something_else(device: str) -> None:
    with pytest.raises(RecipeError, match=rf"run\.precision: fp16 is for CUDA GPUs, and this is a {device}; use auto or fp32"):
        mixed_precision(RunSettings(precision="fp16"), torch.device(device))
    assert mixed_precision(RunSettings(), torch.device("mps")) == "no"


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs compute in float16, with a scale that overflows in the first steps of each stage."""

    def with_scaler(recipe: Recipe, run: RunDirectory) -> Accelerator:
        accelerator = make(override(recipe, ["run.precision=fp32"]), run)
        accelerator.state._mixed_precision = "fp16"
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", growth_interval=3)
        return accelerator

    make = machine.make_accelerator
    monkeypatch.setattr(open_run, "make_accelerator", with_scaler)
    # Of CPUs alone: its embeddings keep their gradient's memory, and clear the rows that were used.
    monkeypatch.setattr(working, "use_fast_training", lambda model: None)
    monkeypatch.setattr(machine, "FIRST_SCALE", 2.0**20)


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.model / "model.safetensors")


@pytest.mark.usefixtures("half")
def test_a_step_whose_gradients_overflow_changes_nothing_is_counted_and_does_not_move_the_schedule(tmp_path: Path) -> None:
    run = train(RECIPE, tmp_path / "run")
    history = run.read_history()
    steps = [record for record in history if record["event"] == "step"]
    skipped = [record for record in history if record["event"] == "skipped_step"]
    assert len(steps) == 4 + 8 and len(skipped) >= 2
    first = next(record for record in skipped if record["stage"] == "all")
    assert (first["step"], first["scale"]) == (5, 2.0**19)  # every stage begins with the first scale
    # Warmup over 4 steps: the k-th step that was taken has k / 4 of the rate, whatever was skipped in between.
    missed = {record["step"] for record in skipped}
    assert 1 <= len(missed - {1, 2, 3, 4}) <= 4, missed
    taken = -1
    for record in (record for record in steps if record["stage"] == "all"):
        rate = next(iter(record["lr"].values()))
        assert rate == pytest.approx(1e-3 * min((taken + 1) / 4, (8 - (taken + 1)) / 4)), record
        taken += record["step"] not in missed
    environment = read_json(run.environment)
    assert environment["precision"] == "fp16" and environment["skipped_steps"] == len(skipped)
    assert run.log.read_text().count("changed nothing: its gradients overflowed fp16") == len(skipped)
    plain = load_file(Path(BERT_NANO) / "model.safetensors")
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights(run).values())
    assert not torch.equal(weights(run)["bert.embeddings.word_embeddings.weight"], plain["bert.embeddings.word_embeddings.weight"])


@pytest.mark.usefixtures("half")
def test_a_continued_run_has_the_scale_and_the_weights_of_one_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = override(RECIPE, ["stages.all.loss=r_drop"])  # two passes in float16, and a stop between two of its steps
    whole = train(recipe, tmp_path / "whole")
    calls = []

    def stop(self: Any) -> int | None:
        calls.append(1)
        return 15 if len(calls) == 9 else None

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(watch.Watch, "signal", stop)
        train(recipe, tmp_path / "cut")
    cut = RunDirectory(tmp_path / "cut")
    assert list(cut.checkpoints.rglob("scaler.pt"))
    train(recipe, cut.path, resume=True)
    told = [
        [(record["step"], record["scale"]) for record in run.read_history() if record["event"] == "skipped_step"]
        for run in (whole, cut)
    ]
    assert told[0] == told[1] and told[0]
    assert {name for name, tensor in weights(whole).items() if not torch.equal(tensor, weights(cut)[name])} == set()
    assert read_json(cut.environment)["skipped_steps"] == read_json(whole.environment)["skipped_steps"]


@pytest.mark.usefixtures("half")
def test_gradients_that_overflow_whatever_the_scale_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FIRST_SCALE", 4.0)

    def endless(*args: Any, **options: Any) -> Any:
        loss = stage_loss(*args, **options)
        return lambda logits, labels: loss(logits, labels) + (logits - logits.detach()).sum(-1).sqrt()  # the root of 0: steep

    monkeypatch.setattr(engine, "stage_loss", endless)
    with pytest.raises(RunError, match=r"step 3: the loss is .* In fp16 numbers end at 65,504; with run\.precision=fp32"):
        train(RECIPE, tmp_path / "run")
    history = RunDirectory(tmp_path / "run").read_history()
    assert [record["scale"] for record in history if record["event"] == "skipped_step"] == [2.0, 1.0]
