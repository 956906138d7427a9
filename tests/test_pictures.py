"""Classifiers of pictures of transformers: chains, prepared by their own processors, served as they were measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from boundaries import compare
from PIL import Image
from small import rewrite
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    ConvNextV2Config,
    Dinov2Config,
    SiglipConfig,
    SiglipImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    pipeline,
)

from hftl.data.preparation import preparation_of
from hftl.errors import RecipeError
from hftl.models import load_classifier, pictures, save_classifier
from hftl.models.family import Classifier
from hftl.recipe import ImageData, Recipe, Stage, TextData, Transformer
from hftl.sharing import export
from hftl.training.stage import decayed_parameters, group_rates

LABELS = ("cat", "dog", "neither")
SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32, "patch_size": 8,
}  # fmt: skip
WORDS: dict[str, Any] = {
    "vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
LAYERS = ("embeddings", "layer.0", "layer.1", "layer.2", "head")
SQUARE = {"height": 32, "width": 32}
# Name -> config, processor, groups, and the share of a picture's shorter side that the model sees.
MODELS: dict[str, tuple[Any, Any, tuple[str, ...], float]] = {
    "vit": (ViTConfig(**SMALL), ViTImageProcessor(size=SQUARE), LAYERS, 1.0),
    "dinov2": (
        Dinov2Config(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=32, patch_size=8),
        BitImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE),
        LAYERS,
        32 / 36,
    ),
    "convnextv2": (
        ConvNextV2Config(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1], image_size=32),
        ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        ("embeddings", "stages.0", "stages.1", "stages.2", "stages.3", "head"),
        0.875,
    ),
    "siglip": (SiglipConfig(text_config=WORDS, vision_config=SMALL), SiglipImageProcessor(size=SQUARE), LAYERS, 1.0),
    "clip": (
        CLIPConfig(text_config=WORDS, vision_config=SMALL),
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
        LAYERS,
        1.0,
    ),
}


def saved(name: str, folder: Path) -> Path:
    """The model as it comes from pretraining, of CLIP and SigLIP with its part for texts."""
    config, processor, _, _ = MODELS[name]
    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    processor.save_pretrained(folder)
    return folder


def evaluated(model: Any) -> Any:
    """The model, in evaluation mode."""
    return model.eval()


def build(folder: Path, *, image_size: int | None = None, **recipe: Any) -> Classifier:
    torch.manual_seed(0)
    return pictures.build(Transformer(checkpoint=str(folder), **recipe), LABELS, image_size=image_size)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def as_trained(classifier: Classifier, picture: Image.Image) -> torch.Tensor:
    """(1, 3, H, W), as training makes it of a picture's bytes."""
    preparation = preparation_of(classifier.preprocessor)
    bytes_of_it = preparation.to_input(picture)
    assert bytes_of_it.dtype == np.uint8 and bytes_of_it.shape == (*preparation.size, 3)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.std))
    return ((torch.from_numpy(bytes_of_it).permute(2, 0, 1).float() / 255 - mean) / std)[None]


@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_of_pictures_is_a_chain_and_is_served_as_it_was_measured(
    name: str, picture: Image.Image, tmp_path: Path
) -> None:
    _, _, groups, share = MODELS[name]
    built = build(saved(name, tmp_path / "base"))
    assert built.kind == "image" and built.chain.names == groups
    assert built.facts["new_parameters"] == ["classifier.bias", "classifier.weight"]
    assert built.facts["input_size"] == [3, 32, 32] and built.facts["crop_pct"] == pytest.approx(share)
    save_classifier(built, tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        *("config.json", "model.safetensors", "preprocessor_config.json")
    ]
    again = load_classifier(tmp_path / "saved")
    assert again.chain.names == groups
    pixels = as_trained(again, picture)
    with torch.no_grad():
        logits = evaluated(again.model)(pixel_values=pixels).logits[0]
        assert torch.equal(evaluated(built.model)(pixel_values=pixels).logits[0], logits)
    served = pipeline("image-classification", model=str(tmp_path / "saved"))(picture, top_k=3, function_to_apply="none")
    assert {row["label"]: row["score"] for row in served} == pytest.approx(
        dict(zip(LABELS, logits.tolist(), strict=True)), abs=1e-5
    )
    # From what enters the head, and the layer before it, a step is the same as from the pictures.
    inputs = {"pixel_values": torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    for first in (len(groups) - 1, len(groups) - 2):
        compare(built.model, built.chain, inputs, first)


def test_layer_wise_rates_and_weight_decay_are_those_of_any_chain(tmp_path: Path) -> None:
    built = build(saved("vit", tmp_path))
    rates = group_rates(built.chain.names, Stage(unfreeze="all", lr=1e-3, layer_decay=0.5, epochs=1))
    assert rates == pytest.approx(dict(zip(LAYERS, (6.25e-5, 1.25e-4, 2.5e-4, 5e-4, 1e-3), strict=True)))
    decayed = decayed_parameters(built.model)
    assert "classifier.weight" in decayed and "classifier.bias" not in decayed


def test_a_head_for_the_same_classes_is_kept_and_every_other_is_new(tmp_path: Path) -> None:
    save_classifier(build(saved("vit", tmp_path / "base")), tmp_path / "saved")
    assert build(tmp_path / "saved").facts["new_parameters"] == []
    other = pictures.build(Transformer(checkpoint=str(tmp_path / "saved")), ("a", "b", "c"), image_size=None)
    assert other.facts["new_parameters"] == ["classifier.bias", "classifier.weight"]


def test_another_size_is_cut_as_the_processor_cuts_its_own_or_refused_where_the_network_cannot_take_it(tmp_path: Path) -> None:
    dinov2 = build(saved("dinov2", tmp_path / "dinov2"), image_size=48)
    assert dinov2.facts["input_size"] == [3, 48, 48] and dinov2.facts["crop_pct"] == pytest.approx(48 / 54)  # 48 * 36 / 32 = 54
    with pytest.raises(RecipeError, match=r"data\.image_size: ViTForImageClassification cannot take pictures of 48 x 48 pixels"):
        build(saved("vit", tmp_path / "vit"), image_size=48)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("preprocessor_config.json", {"size": {"height": 10**9, "width": 10**9}}, "has sizes of pictures"),
        ("preprocessor_config.json", {"image_std": [0.0, 1.0, 1.0]}, 'has "image_std": '),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "not three numbers each"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "does not bring bytes to 0 to 1"),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.P"}}, "code of its own"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 32}}, "bytes of one size"),
        ("config.json", {"model_type": "bert"}, "no picture classifier"),
        ("config.json", {"num_hidden_layers": 5}, "missing: vit."),
    ],
)
def test_a_checkpoint_that_makes_no_sense_is_refused(file: str, values: dict[str, Any], message: str, tmp_path: Path) -> None:
    rewrite(saved("vit", tmp_path) / file, **values)
    with pytest.raises(RecipeError) as caught:
        build(tmp_path)
    assert message in str(caught.value)
    assert [problem.where for problem in caught.value.problems] == ["model.checkpoint"]


def test_a_recipe_puts_a_transformer_over_pictures_and_the_other_families_stay_where_they_were() -> None:
    stages = {"head": Stage(unfreeze="head", lr=1e-3, epochs=1)}
    model = Transformer(checkpoint="x")
    for data in (ImageData(source="x"), TextData(source="x")):
        Recipe(name="x", data=data, model=model, stages=stages)
    with pytest.raises(RecipeError, match=r"model\.pooling: says what is read of a text's tokens"):
        Recipe(name="x", data=ImageData(source="x"), model=Transformer(checkpoint="x", pooling="mean"), stages=stages)


def test_what_is_saved_names_no_path(tmp_path: Path) -> None:
    save_classifier(build(saved("vit", tmp_path / "base")), tmp_path / "saved")
    for name in ("config.json", "preprocessor_config.json"):
        assert str(tmp_path) not in (tmp_path / "saved" / name).read_text()
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"] and "auto_map" not in config
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path / "saved")).__name__ == "ViTForImageClassification"


@pytest.mark.slow
def test_it_is_exported_with_equal_logits_for_any_batch(tmp_path: Path) -> None:
    built = build(saved("vit", tmp_path / "base"))
    recipe = Recipe(
        name="x",
        data=ImageData(source="x"),
        model=Transformer(checkpoint="x"),
        stages={"head": Stage(unfreeze="head", lr=1e-3, epochs=1)},
    )
    batches = export.batches_to_compare(recipe, built)
    expected = [export.saved_logits(evaluated(built.model), batch) for batch in batches]
    with export._quiet():
        export._write(built.model, recipe, batches[0], tmp_path / export.FILE)
    assert export.compare(tmp_path / export.FILE, batches, expected) < 1e-4


def test_stochastic_depth_is_set_where_the_config_has_it(tmp_path: Path) -> None:
    model = build(saved("dinov2", tmp_path / "dinov2"), drop_path=0.3).model
    rates: list[Any] = [module.drop_prob for module in model.modules() if type(module).__name__.endswith("DropPath")]
    assert rates and max(rates) == pytest.approx(0.3)
    with pytest.raises(RecipeError, match=r"model.drop_path: ViTForImageClassification has no stochastic depth"):
        build(saved("vit", tmp_path / "vit"), drop_path=0.3)


def test_the_last_layer_and_the_head_begin_anew(tmp_path: Path) -> None:
    folder = saved("vit", tmp_path / "vit")
    whole, anew = build(folder), build(folder, reinitialize=1)
    before, after = whole.model.state_dict(), anew.model.state_dict()
    changed = {whole.chain.group_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"layer.2", "head"}
