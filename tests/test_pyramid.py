"""A head over several levels of a timm network: what it reads, its chain and its boundaries, and its code beside it."""

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
from boundaries import compare, in_training
from digits import write_digits
from PIL import Image
from small import rewrite, train
from transformers import pipeline

import hftl
from hftl.data.preparation import preparation_of
from hftl.errors import RecipeError, RunError
from hftl.evaluation.predictions import Predictions
from hftl.models import load_classifier, pyramid, pyramid_modeling, save_classifier, vision
from hftl.models.boundary import NotSeparable, find_boundary
from hftl.models.family import Classifier
from hftl.recipe import ImageData, Recipe, RunSettings, Stage, Timm
from hftl.sharing import export
from hftl.sharing.contents import foreign
from hftl.sharing.verify import verify
from hftl.training import finish

LABELS = ("cat", "dog", "neither")
PIXELS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
# Architecture -> the last four levels, by their channels.
LEVELS: dict[str, tuple[int, ...]] = {
    "test_resnet": (32, 48, 192, 96),
    "test_convnext": (24, 32, 48, 64),
    "test_efficientnet": (24, 32, 48, 64),
    "regnetx_002": (24, 56, 152, 368),
    "mobilenetv2_050": (16, 16, 48, 160),
}


def build(checkpoint: str = "test_resnet", **recipe: Any) -> Classifier:
    torch.manual_seed(0)
    options = {"pretrained": False, **recipe}
    return pyramid.build(Timm(checkpoint=checkpoint, pooling="pyramid", **options), LABELS, image_size=64)


def evaluated(model: Any) -> Any:
    """The model, in evaluation mode."""
    return model.eval()


def test_the_head_reads_the_mean_of_each_level_side_by_side() -> None:
    built = build()
    model = evaluated(built.model)
    seen: dict[str, torch.Tensor] = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        model.timm_model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: output.mean(dim=(2, 3))})
        )
    with torch.no_grad():
        logits = model(pixel_values=PIXELS).logits
    features = torch.cat(list(seen.values()), dim=1)  # (3, 32 + 48 + 192 + 96)
    assert features.shape == (3, 368)
    weight, bias = model.head.linear.weight, model.head.linear.bias
    torch.testing.assert_close(logits, features @ weight.T + bias)


@pytest.mark.parametrize("architecture", LEVELS)
def test_each_network_has_its_groups_and_a_head_over_its_last_four_levels(architecture: str) -> None:
    built, plain = build(architecture), vision.build(Timm(checkpoint=architecture, pretrained=False), LABELS, image_size=64)
    assert built.chain.names == plain.chain.names
    assert built.model.head.linear.weight.shape == (3, sum(LEVELS[architecture]))  # type: ignore[union-attr]
    assert built.chain.parameters["head"] == ("head.linear.weight", "head.linear.bias")
    # No parameter is left over that no answer depends on.
    evaluated(built.model)(pixel_values=PIXELS).logits.sum().backward()
    assert [name for name, parameter in built.model.named_parameters() if parameter.grad is None] == []


def test_a_pretrained_network_keeps_its_weights(tmp_path: Path) -> None:
    checkpoint = vision.build(Timm(checkpoint="test_resnet", pretrained=False), ("a", "b"), image_size=64)
    save_classifier(checkpoint, tmp_path / "base")
    built = build(str(tmp_path / "base"), pretrained=True)
    stored = checkpoint.model.state_dict()
    own = {name: tensor for name, tensor in built.model.state_dict().items() if name.startswith("timm_model.")}
    assert len(own) > 50 and all(torch.equal(tensor, stored[name]) for name, tensor in own.items())
    assert built.facts["new_parameters"] == ["head.linear.bias", "head.linear.weight"] and built.facts["base_model"] == "base"


def test_the_last_group_of_a_pretrained_network_begins_anew(tmp_path: Path) -> None:
    save_classifier(vision.build(Timm(checkpoint="test_resnet", pretrained=False), LABELS, image_size=64), tmp_path / "base")
    whole, anew = (build(str(tmp_path / "base"), pretrained=True, reinitialize=count) for count in (0, 1))
    before, after = whole.model.state_dict(), anew.model.state_dict()
    changed = {whole.chain.group_of(name) for name in before if not torch.equal(before[name], after[name])}
    last = whole.chain.names[-2]
    assert changed - {"head"} == {last} and anew.facts["reinitialized"] == [last, "head"]
    assert {whole.chain.group_of(name) for name in anew.facts["new_parameters"]} == {last, "head"}


def test_the_levels_are_kept_for_the_head_and_a_level_that_trains_needs_those_below_it() -> None:
    built = build(dropout=0.5)
    inputs = {"pixel_values": PIXELS}
    boundary = compare(built.model, built.chain, inputs, len(built.chain) - 1)
    assert boundary.shape == (368,)
    trains = in_training(built.model, built.chain, len(built.chain) - 2)
    with pytest.raises(NotSeparable, match="from what enters it alone come other logits"):
        find_boundary(built.model, built.chain, trains, inputs)
    compare(built.model, built.chain, inputs, 1)  # the stem is no level


def test_what_is_saved_is_loaded_with_equal_logits_and_holds_no_code_but_its_own(tmp_path: Path) -> None:
    built = build("test_efficientnet", dropout=0.1)
    save_classifier(built, tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "pyramid_modeling.py"}
    assert list(foreign(tmp_path / "saved", names)) == []
    again = load_classifier(tmp_path / "saved")
    assert again.chain.names == built.chain.names and again.facts["input_size"] == [3, 64, 64]
    with torch.no_grad():
        logits, served = (evaluated(each.model)(pixel_values=PIXELS).logits for each in (built, again))
    torch.testing.assert_close(logits, served, rtol=1e-6, atol=1e-7)  # where a weight lies in memory may decide a sum's order


def test_pictures_are_prepared_as_timm_prepares_them() -> None:
    # 76 pixels of 80, so that both round the middle alike.
    spec = Timm(checkpoint="test_resnet", pretrained=False)
    built, plain = pyramid.build(spec, LABELS, image_size=76), vision.build(spec, LABELS, image_size=76)
    few = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    picture = few.resize((240, 180), Image.Resampling.BICUBIC)
    own, timms = (preparation_of(each.preprocessor) for each in (built, plain))
    assert (own.size, tuple(own.mean), tuple(own.std)) == (timms.size, tuple(timms.mean), tuple(timms.std))
    apart = np.abs(own.to_input(picture).astype(int) - timms.to_input(picture))
    assert apart.max() <= 3  # two implementations of one interpolation


@pytest.mark.slow
def test_it_is_exported_with_equal_logits_at_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = Timm(checkpoint="test_resnet", pretrained=False, pooling="pyramid")
    recipe = Recipe(name="x", data=ImageData(source="x"), model=model, stages={"all": Stage(lr=1e-3)})
    built = build()
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
    built = build()
    save_classifier(built, tmp_path / "saved")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8))
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


def test_the_modelling_file_imports_torch_timm_and_transformers_only() -> None:
    tree = ast.parse(Path(pyramid_modeling.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(module).split(".")[0] for module in modules} <= {
        *("__future__", "collections", "timm", "torch", "transformers", "typing")
    }


def test_a_run_says_what_it_keeps_and_serves_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "write_figures", lambda *_: [])  # they take most of the time
    source = write_digits(tmp_path / "digits", range(3), train_per_class=12)
    recipe = Recipe(
        name="pyramid",
        data=ImageData(source=str(source), image_size=32, validation_fraction=0.25, max_test_samples=20),
        model=Timm(checkpoint="test_resnet", pretrained=False, pooling="pyramid"),
        stages={"head": Stage(unfreeze="head", lr=1e-2), "top": Stage(unfreeze="last 2", lr=1e-3)},
        run=RunSettings(batch_size=9, precision="fp32", workers=0, baseline="none"),
    )
    run = hftl.Run(train(recipe, tmp_path / "run"))
    stored = Predictions.load(run.paths.predictions("test"))
    classify = pipeline("image-classification", model=str(run.paths.model), device="cpu")
    served = classify([str(source / name) for name in stored.ids], top_k=3)
    found = [[{row["label"]: row["score"] for row in rows}[name] for name in "012"] for rows in served]
    np.testing.assert_allclose(found, stored.probabilities, atol=1e-5)
    assert run.plan["stages"][0]["cached_up_to"] == "head"
    assert any("Stage top computes its frozen layers in every epoch: " in remark for remark in run.plan["remarks"])
    card = str(run.card())
    assert "import hftl.models.pyramid  # the architecture" in card and "library_name: transformers" in card
    assert "timm.create_model(" not in card and "Its network is test_resnet with" in card
    assert "but a network of timm under a head that reads its last 4 levels" in card
    assert verify(run.paths, figures=False).failed == ()


# --- what is refused ------------------------------------------------------------------------------------------------------------


def test_a_network_of_one_level_is_refused_with_the_way_out() -> None:
    with pytest.raises(RecipeError, match=r"model\.pooling: test_vit has no pyramid of levels: all .* a 16th of the"):
        build("test_vit")
    with pytest.raises(RecipeError, match="a pyramid reads RGB pictures, and this network grey ones"):
        build(in_chans=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "resnet_of_nobody"}, 'has the architecture "resnet_of_nobody"'),
        ({"architecture": ["resnet18"]}, 'has "architecture"'),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, '"checkpoint_path".*no argument of a network'),
        ({"levels": 99}, "levels 99: 1 to 16"),
    ],
)
def test_a_saved_one_that_makes_no_sense_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_classifier(build(), tmp_path / "saved")
    rewrite(tmp_path / "saved" / "config.json", **values)
    with pytest.raises(RunError, match=message):
        load_classifier(tmp_path / "saved")
