"""The small convolutional network: its arithmetic by hand, its chain, and the road of any other model, with its code beside it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from boundaries import compare
from digits import write_digits
from PIL import Image
from small import rewrite, train
from transformers import pipeline

import hftl
from hftl.errors import RecipeError, RunError
from hftl.evaluation.predictions import Predictions
from hftl.models import cnn, cnn_modeling, load_classifier, save_classifier
from hftl.models.cnn_modeling import CNNConfig, CNNForImageClassification
from hftl.models.family import Classifier
from hftl.recipe import CNN, ImageData, Recipe, RunSettings, Stage, TextData
from hftl.sharing import export
from hftl.sharing.contents import foreign
from hftl.sharing.verify import verify
from hftl.training import finish

LABELS = ("cat", "dog", "neither")


def build(*, image_size: int = 16, **recipe: Any) -> Classifier:
    torch.manual_seed(0)
    return cnn.build(CNN(**recipe), LABELS, image_size=image_size)


def evaluated(model: Any) -> Any:
    """The model, in evaluation mode."""
    return model.eval()


def test_a_block_is_a_convolution_a_norm_a_relu_and_a_pooling_and_the_head_reads_the_mean() -> None:
    torch.manual_seed(0)
    model = evaluated(CNNForImageClassification(CNNConfig(channels=[1], kernel_size=1, id2label={0: "a", 1: "b"})))
    with torch.no_grad():
        model.blocks[0][0].weight.copy_(torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1))  # red minus blue
        model.blocks[0][1].running_mean.fill_(2.0)
        model.blocks[0][1].running_var.fill_(4.0 - model.blocks[0][1].eps)  # a deviation of 2
        model.head.linear.weight.copy_(torch.tensor([[1.0], [-3.0]]))
        model.head.linear.bias.copy_(torch.tensor([0.0, 1.0]))
    picture = torch.zeros(1, 3, 4, 4)
    picture[0, 0, :2, :2], picture[0, 0, :2, 2:], picture[0, 2, 2:, :2], picture[0, 0, 3, 3] = 6.0, 2.0, 5.0, 10.0
    # Quarters: (6 - 2) / 2 = 2; (2 - 2) / 2 = 0; (-5 - 2) / 2 below 0; the largest of four (10 - 2) / 2 = 4. Their mean is 1.5.
    assert model(pixel_values=picture).logits[0].tolist() == pytest.approx([1.5, -3.5])


def test_its_parameters_are_those_that_a_textbook_counts_and_its_groups_are_its_blocks() -> None:
    built = build(channels=(4, 8), convolutions=2)
    assert built.chain.names == ("blocks.0", "blocks.1", "head") and built.kind == "image"
    size = {name: tensor.numel() for name, tensor in built.model.named_parameters()}
    counts = {group: sum(size[name] for name in built.chain.parameters[group]) for group in built.chain.names}
    # 3 x 3 x 3 x 4 and 3 x 3 x 4 x 4, each with two numbers a channel; then 4 to 8 and 8 to 8; 8 to 3 and a bias.
    assert counts == {"blocks.0": 108 + 144 + 16, "blocks.1": 288 + 576 + 32, "head": 27}
    assert built.facts["parameters"] == sum(counts.values()) and built.facts["pretrained"] is False
    assert built.facts["input_size"] == [3, 16, 16] and "blocks.0.1.running_mean" in built.chain.buffers["blocks.0"]


@pytest.mark.parametrize("first", [1, 2])
def test_a_step_from_what_enters_a_group_is_the_step_from_the_pictures(first: int) -> None:
    built = build(channels=(4, 8), dropout=0.5)
    compare(built.model, built.chain, {"pixel_values": torch.randn(3, 3, 16, 16)}, first)


def test_what_is_saved_is_loaded_with_equal_logits_and_holds_no_code_but_its_own(tmp_path: Path) -> None:
    built = build(channels=(4, 8), dropout=0.1)
    save_classifier(built, tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "cnn_modeling.py"}
    assert list(foreign(tmp_path / "saved", names)) == []
    again = load_classifier(tmp_path / "saved")
    assert again.chain.names == built.chain.names and again.facts["input_size"] == [3, 16, 16]
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(*(evaluated(each.model)(pixel_values=pixels).logits for each in (built, again)))


def test_it_is_exported_with_equal_logits_at_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    recipe = Recipe(name="x", data=ImageData(source="x"), model=CNN(channels=(4, 8)), stages={"all": Stage(lr=1e-3)})
    built = build(channels=(4, 8))
    batches = export.batches_to_compare(recipe, built)
    expected = [export.saved_logits(evaluated(built.model), batch) for batch in batches]
    with export._quiet():
        export._write(built.model, recipe, batches[0], tmp_path / export.FILE)
    assert export.compare(tmp_path / export.FILE, batches, expected) < 1e-4


STRANGER = """
import json, sys
import torch
from PIL import Image
from transformers import pipeline
served = pipeline("image-classification", model=sys.argv[1], trust_remote_code=True, device="cpu", dtype=torch.float32)
answer = served(Image.open(sys.argv[2]), top_k=3, function_to_apply="none")
assert type(served.model).__module__.startswith("transformers_modules."), type(served.model).__module__
assert "hftl" not in sys.modules
print(json.dumps({row["label"]: row["score"] for row in answer}))
"""


@pytest.mark.slow
def test_a_pipeline_serves_it_where_hftl_is_not_installed(tmp_path: Path) -> None:
    built = build(channels=(4, 8))
    save_classifier(built, tmp_path / "saved")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    picture.save(tmp_path / "picture.png")
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", STRANGER, str(tmp_path / "saved"), str(tmp_path / "picture.png")],
        cwd=home,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    processor: Any = built.preprocessor
    with torch.no_grad():
        logits = evaluated(built.model)(**processor(picture, return_tensors="pt")).logits[0]
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(dict(zip(LABELS, logits.tolist(), strict=True)), abs=1e-5)


def test_the_modelling_file_imports_torch_and_transformers_only() -> None:
    tree = ast.parse(Path(cnn_modeling.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(module).split(".")[0] for module in modules} <= {
        *("__future__", "collections", "itertools", "torch", "transformers", "typing")
    }


def test_a_run_learns_digits_from_random_weights_and_its_card_serves_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "write_figures", lambda *_: [])  # they take most of the time
    source = write_digits(tmp_path / "digits", range(3), train_per_class=40)
    recipe = Recipe(
        name="cnn",
        data=ImageData(source=str(source), image_size=16, validation_fraction=0.25, max_test_samples=30),
        model=CNN(channels=(8, 16)),
        stages={"all": Stage(lr=1e-2, epochs=4), "head": Stage(unfreeze="head", lr=1e-3)},
        run=RunSettings(batch_size=16, precision="fp32", workers=0, baseline="none"),
    )
    run = hftl.Run(train(recipe, tmp_path / "run"))
    assert run.metrics["test"]["accuracy"] > 0.8  # always the same answer: a third
    stored = Predictions.load(run.paths.predictions("test"))
    classify = pipeline("image-classification", model=str(run.paths.model), device="cpu")
    served = classify([str(source / name) for name in stored.ids], top_k=3)
    found = [[{row["label"]: row["score"] for row in rows}[name] for name in "012"] for rows in served]
    np.testing.assert_allclose(found, stored.probabilities, atol=1e-5)
    card = str(run.card())
    assert "trained from random weights" in card and "import hftl.models.cnn  # the architecture" in card
    assert 'pipeline("image-classification", model="RUN/model", trust_remote_code=True)' in card
    assert "Its network is CNNForImageClassification" in card and "library_name: transformers" in card
    assert verify(run.paths, figures=False).failed == ()


# --- what is refused ------------------------------------------------------------------------------------------------------------


def test_pictures_that_are_halved_to_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"data\.image_size: 8 pixels are halved 4 times.*\n.*write 16 or more"):
        build(image_size=8, channels=(2, 2, 2, 2))
    assert build(image_size=8, channels=(2, 2, 2)).model.num_parameters() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, r"model\.kernel_size: 4: a kernel has a middle, so its side is odd"),
        ({"channels": ()}, r"model\.channels"),
        ({"channels": (0,)}, r"model\.channels"),
        ({"convolutions": 17}, r"model\.convolutions"),
        ({"checkpoint": "x"}, r"model\.checkpoint"),
    ],
)
def test_a_network_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    stages = {"all": {"lr": 1e-3}}
    with pytest.raises(RecipeError, match=message):
        Recipe(name="x", data=ImageData(source="x"), model={"family": "cnn", **options}, stages=stages)  # type: ignore[arg-type]


def test_it_reads_no_texts() -> None:
    with pytest.raises(RecipeError, match=r'model\.family "cnn" does not read data of kind "text"'):
        Recipe(name="x", data=TextData(source="x"), model=CNN(), stages={"all": Stage(lr=1e-3)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kernel_size": 4}, "an odd number from 1 to 31"),
        ({"channels": [4] * 20}, "1 to 16 blocks"),
        ({"channels": [4, 10**9]}, "parameters"),
    ],
)
def test_a_saved_one_that_makes_no_sense_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_classifier(build(channels=(4, 8)), tmp_path / "saved")
    rewrite(tmp_path / "saved" / "config.json", **values)
    with pytest.raises(RunError, match=message):
        load_classifier(tmp_path / "saved")
