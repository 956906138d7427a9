"""Staged runs with the model in pieces: FSDP2, two processes, gloo. No GPU has run this.

One small BERT, without dropout, in three stages. The run is killed while it evaluates and continued: its second session begins with
that evaluation. What comes out is compared with the run of one process, which is not in pieces.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from small import staged
from small_models import tiny_bert
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy, transformer_auto_wrap_policy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from hftl.errors import RecipeError, RunError
from hftl.files import read_json
from hftl.models import load_classifier
from hftl.models.transformer import chain
from hftl.recipe import Recipe, Stage, TextData, Transformer
from hftl.run import RunDirectory
from hftl.training.checks import check_pieces
from hftl.training.engine import train
from hftl.training.machine import settle_fsdp
from hftl.training.resolved import resolve_stages
from hftl.training.stage import shard_units

REPOSITORY = Path(__file__).resolve().parent.parent
WORKER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "TESTS")
import fsdp_on_cpu
from hftl.training import engine

predict = engine.predict_split

def dies_in_the_second_evaluation(*arguments, **named):
    # Both processes are there; the last step before it was saved.
    if Path(sys.argv[-1], "checkpoints", "00000006-01-00000").is_dir():
        os.kill(os.getpid(), signal.SIGKILL)
    return predict(*arguments, **named)

if "--resume" not in sys.argv:
    engine.predict_split = dies_in_the_second_evaluation
fsdp_on_cpu.start()
"""


def on_two_processes(worker: Path, *arguments: str) -> tuple[int, str]:
    """hftl as recipes/accelerate/fsdp.yaml launches it, but for the GPUs."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(REPOSITORY / "recipes/accelerate/fsdp.yaml")]
    command = [*launch, "--gpu_ids=-1,-1", "--main_process_port=0", "--num_processes=2", str(worker), *arguments]
    left_behind = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    kept = {name: value for name, value in os.environ.items() if name not in left_behind}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=200,
        env=kept | {"PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true"},
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.slow
def test_a_staged_run_in_pieces_that_is_killed_and_continued_is_the_run_of_one_process(tmp_path: Path) -> None:
    recipe, pieces = staged(tiny_bert(tmp_path / "tiny")), RunDirectory(tmp_path / "pieces")
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER.replace("TESTS", str(REPOSITORY / "tests")))
    arguments = ("train", str(tmp_path / "recipe.yaml"), "--run-dir", str(pieces.path))
    code, said = on_two_processes(worker, *arguments)
    assert code != 0 and "SIGKILL" in said, said
    assert not pieces.metrics.is_file()
    code, said = on_two_processes(worker, "train", str(tmp_path / "recipe.yaml"), "--resume", "--run-dir", str(pieces.path))
    assert code == 0, said
    assert 'continuing at stage "last_2", step 6' in pieces.log.read_text()
    assert "Under FSDP, which keeps a model in pieces, frozen layers are computed in every epoch." in said

    whole = train(recipe, RunDirectory(tmp_path / "whole"))
    assert read_json(pieces.environment)["distributed"] == "FSDP"
    steps, alone = ([line for line in run.read_history() if line["event"] == "step"] for run in (pieces, whole))
    assert [step["step"] for step in steps] == list(range(1, 10))
    assert [step["loss"] for step in steps] == pytest.approx([step["loss"] for step in alone], abs=1e-5)
    assert [step["grad_norm"] for step in steps] == pytest.approx([step["grad_norm"] for step in alone], rel=1e-3)
    for split in ("validation", "test"):
        ours, theirs = read_json(pieces.metrics)[split], read_json(whole.metrics)[split]
        assert ours["accuracy"] == theirs["accuracy"]
        assert ours["log_loss"] == pytest.approx(theirs["log_loss"], abs=1e-4)
    stages = read_json(pieces.freeze_proof)["stages"]
    assert [(stage["stage"], stage["ok"]) for stage in stages] == [("head", True), ("last_2", True), ("all", True)]
    # Frozen to the end of the second stage, and hashed whole, not by pieces: as on one process, bit for bit.
    assert stages[1]["groups"][0]["after"] == read_json(whole.freeze_proof)["stages"][1]["groups"][0]["after"]
    saved = load_file(pieces.model / "model.safetensors")
    model = load_classifier(pieces.model).model
    assert {name: tensor.shape for name, tensor in saved.items()} == {name: t.shape for name, t in model.state_dict().items()}
    assert len(read_json(pieces.metrics)) == 2 and pieces.test_openings.read_text().count("\n") == 1


def test_the_layers_are_the_units_and_the_embeddings_are_none() -> None:
    sizes: dict[str, Any] = {"vocab_size": 40, "max_position_embeddings": 16}
    bert = BertForSequenceClassification(
        BertConfig(**sizes, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    )
    assert "BertEmbeddings" in (bert._no_split_modules or [])  # in which Accelerate would shard the words' table once more
    assert shard_units(bert, chain(bert)) == ["BertLayer"]
    distil = DistilBertForSequenceClassification(DistilBertConfig(**sizes, dim=8, n_layers=2, n_heads=2, hidden_dim=8))
    assert shard_units(distil, chain(distil)) == ["TransformerBlock"]


class Asked:
    """As much of an Accelerator as is looked at."""

    device, mixed_precision = torch.device("cpu"), "no"

    def __init__(self, kind: DistributedType = DistributedType.FSDP, **plugin: Any) -> None:
        usual = {
            "fsdp_version": 2,
            "cpu_ram_efficient_loading": False,
            "activation_checkpointing": False,
            "auto_wrap_policy": transformer_auto_wrap_policy,
        }
        self.distributed_type = kind
        self.state = type("State", (), {"fsdp_plugin": type("Plugin", (), usual | plugin)})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"fsdp_version": 1}, "fsdp_version: 1"),
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading: true"),
        ({"activation_checkpointing": True}, "fsdp_activation_checkpointing: true"),
        ({"auto_wrap_policy": size_based_auto_wrap_policy}, "not TRANSFORMER_BASED_WRAP"),
        ({"auto_wrap_policy": None}, "not TRANSFORMER_BASED_WRAP"),
    ],
)
def test_what_hftl_does_not_do_under_fsdp_is_refused(asked: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    settle_fsdp(Asked())
    with pytest.raises(RunError, match=said):
        settle_fsdp(Asked(**asked))


def test_what_cannot_be_done_with_pieces_is_refused_under_fsdp() -> None:
    model = BertForSequenceClassification(BertConfig(vocab_size=10, hidden_size=4, num_hidden_layers=1, num_attention_heads=1))
    stages = {name: Stage(lr=1e-3, optimizer=name) for name in ("adafactor", "muon", "lion")} | {
        "mean": Stage(lr=1e-3, average="ema")
    }
    recipe = Recipe(name="x", data=TextData(source="x"), model=Transformer(checkpoint="x"), stages=stages)
    resolved = resolve_stages(
        recipe, model, chain(model), train_examples=8, run=lambda: model(torch.zeros(1, 4, dtype=torch.int64))
    )
    accelerator = Accelerator(cpu=True)
    check_pieces(resolved, accelerator)
    pieces: Any = SimpleNamespace(is_fsdp2=True)
    with pytest.raises(RecipeError) as caught:
        check_pieces(resolved, pieces)
    assert "stages.adafactor.optimizer: adafactor does not train a model that FSDP keeps in pieces" in str(caught.value)
    assert "stages.muon.optimizer: muon does not train a model that FSDP keeps in pieces" in str(caught.value)
    assert "stages.mean.average: no average is kept of weights that FSDP has in pieces" in str(caught.value)
    assert len(caught.value.problems) == 3


def test_fsdp_on_a_cpu_is_refused_and_not_quietly_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    settle_fsdp(Accelerator(cpu=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RunError, match=r"FSDP was asked for, and Accelerate makes MULTI_CPU of it on this device \(cpu\)"):
        settle_fsdp(Asked(DistributedType.MULTI_CPU))
