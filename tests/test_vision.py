"""timm models, small or at small sizes; the real weights of ../shared where it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from small import rewrite
from small_models import PICTURES, THREE, build_vision
from timm.data import create_transform, resolve_model_data_config  # type: ignore[attr-defined]
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hftl.errors import RecipeError, RunError
from hftl.models import vision
from hftl.models.family import Classifier


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small ResNet for five classes at 48 pixels, as timm itself writes it."""
    folder = tmp_path / "small-resnet"
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=5)
    data = {
        "input_size": (3, 48, 48),
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
        "interpolation": "bilinear",
        "crop_pct": 0.9,
    }
    timm.models.save_for_hf(model, str(folder), safe_serialization=True, data_config=data)
    return folder


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))


def logits(classifier: Classifier, picture: Image.Image) -> torch.Tensor:
    with torch.no_grad():
        return classifier.model(**classifier.preprocessor(picture, return_tensors="pt")).logits  # type: ignore[no-any-return]


# --- the chain --------------------------------------------------------------------------------------------------------------------

# Architecture -> groups between stem and head, and the side of a picture in pixels.


@pytest.mark.parametrize("name", PICTURES)
def test_every_parameter_and_buffer_of_an_architecture_is_in_one_group(name: str) -> None:
    layers, size = PICTURES[name]
    built = build_vision(name, pretrained=False, image_size=size)
    assert built.chain.names == ("stem", *layers, "head")
    for members, found in [
        (built.chain.parameters, built.model.named_parameters()),
        (built.chain.buffers, built.model.named_buffers()),
    ]:
        listed = [member for group in built.chain.names for member in members[group]]
        assert sorted(listed) == sorted(n for n, _ in found)
    assert all(member.startswith("timm_model.") for group in built.chain.names for member in built.chain.parameters[group])


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "resnet50"])  # as resnet18, and slower
def test_a_change_in_a_group_shows_from_its_end_on_and_not_before(name: str) -> None:
    built = build_vision(name, pretrained=False, image_size=PICTURES[name][1])
    before = entries(built)
    last = len(before) - 1
    assert last == len(PICTURES[name][0])
    for position, group in enumerate(built.chain.names):
        saved = {n: built.model.get_parameter(n).detach().clone() for n in built.chain.parameters[group]}
        with torch.no_grad():
            for n in saved:
                built.model.get_parameter(n).add_(0.5)
        changed = [not torch.equal(old, new) for old, new in zip(before, entries(built), strict=True)]
        # The stem's work enters the first layer, which is entry 0; the head's is the last entry, the logits.
        assert changed == [entry >= min(position, last) for entry in range(last + 1)], group
        with torch.no_grad():
            for n, value in saved.items():
                built.model.get_parameter(n).copy_(value)


def entries(built: Classifier) -> list[torch.Tensor]:
    """What enters each layer, and the logits."""
    found: list[torch.Tensor] = []

    def note(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        entered = arguments[0]
        found.append((torch.cat(entered, 1) if isinstance(entered, list) else entered).clone())  # DenseNet's blocks take lists

    layers = [built.model.get_submodule(group.prefixes[0]) for group in built.chain.groups[1:-1]]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    picture = torch.randn(1, *built.facts["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = built.model(picture).logits
    for hook in hooks:
        hook.remove()
    return [*found, result]


def test_the_parts_of_a_resnet_are_where_timm_puts_them() -> None:
    chain = build_vision("test_resnet", pretrained=False).chain
    own = {group: [module.removeprefix("timm_model.") for module in chain.modules[group]] for group in chain.names}
    assert {"conv1", "bn1", "act1", "maxpool"} <= set(own["stem"])
    assert {"layer1", "layer1.0.conv1"} <= set(own["layer1"])
    assert {"global_pool", "fc"} <= set(own["head"])
    assert chain.parameters["head"] == ("timm_model.fc.weight", "timm_model.fc.bias")
    assert "timm_model.bn1.running_mean" in chain.buffers["stem"]
    assert "timm_model.layer4.0.bn1.num_batches_tracked" in chain.buffers["layer4"]


def test_a_final_norm_is_in_the_head_and_a_last_convolution_in_the_last_layer() -> None:
    def group(architecture: str, parameter: str) -> str:
        return build_vision(architecture, pretrained=False).chain.group_of(f"timm_model.{parameter}")

    assert group("test_vit", "norm.weight") == "head"
    assert group("test_vit", "cls_token") == group("test_vit", "pos_embed") == "stem"
    assert group("densenet121", "features.norm5.weight") == "head"
    assert group("densenet121", "features.transition1.conv.weight") == "features.denseblock1"
    assert group("mobilenetv2_050", "conv_head.weight") == group("mobilenetv2_050", "bn2.weight") == "blocks.6"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("caformer_s18", "caformer_s18 says nothing about its layer groups (no group_matcher in timm)"),
        ("inception_v3", "inception_v3 describes its layer groups in a way that gives them no names"),
        ("rdnet_tiny", "rdnet_tiny has no coarse layer groups in timm"),
        ("coat_tiny", "are one tensor in two layer groups"),
    ],
)
def test_an_architecture_without_a_chain_is_refused(name: str, message: str) -> None:
    with torch.device("meta"):  # without memory or time
        model: Any = timm.create_model(name)
    wrapped: Any = nn.Module()
    wrapped.timm_model, wrapped.forward = model, model.forward
    wrapped.config, wrapped.device = type("Config", (), {"architecture": name}), torch.device("meta")
    with pytest.raises(RecipeError) as caught:
        vision.chain(wrapped, model.pretrained_cfg["input_size"])
    assert message in str(caught.value)


# --- building ---------------------------------------------------------------------------------------------------------------------


def test_a_pretrained_network_gets_a_new_head_and_keeps_the_rest(checkpoint: Path) -> None:
    built = build_vision(checkpoint, image_size=None)
    stored = load_file(checkpoint / "model.safetensors")
    state = {name.removeprefix("timm_model."): tensor for name, tensor in built.model.state_dict().items()}
    assert len(state) == len(stored) > 50
    assert all(torch.equal(tensor, stored[name]) for name, tensor in state.items() if not name.startswith("fc."))
    assert state["fc.weight"].shape == (3, stored["fc.weight"].shape[1])
    assert built.facts["new_parameters"] == ["timm_model.fc.bias", "timm_model.fc.weight"]
    assert built.model.config.id2label == dict(enumerate(THREE))
    assert built.model.config.num_labels == 3


def test_the_head_is_new_also_for_as_many_classes(checkpoint: Path) -> None:
    built = build_vision(checkpoint, labels=("a", "b", "c", "d", "e"))
    assert not torch.equal(built.model.timm_model.fc.weight, load_file(checkpoint / "model.safetensors")["fc.weight"])  # type: ignore[union-attr, arg-type]


def test_pictures_are_prepared_as_in_pretraining(checkpoint: Path, picture: Image.Image, tmp_path: Path) -> None:
    built = build_vision(checkpoint, image_size=None)
    assert built.facts["input_size"] == [3, 48, 48]
    assert built.facts["mean"] == [0.4, 0.5, 0.6]
    assert built.facts["std"] == [0.2, 0.25, 0.3]
    assert (built.facts["interpolation"], built.facts["crop_pct"]) == ("bilinear", 0.9)
    # 48 / 0.9 = 53: the shorter side becomes 53 pixels, of which the middle 48 are kept.
    resized = picture.resize((int(53 * 120 / 90), 53), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 48) / 2), round((53 - 48) / 2)
    expected = torch.tensor(np.asarray(resized.crop((left, top, left + 48, top + 48)))).permute(2, 0, 1) / 255
    expected = (expected - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    pixels = built.preprocessor(picture, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels[0], expected, atol=1e-6)


def test_an_image_size_replaces_the_size_and_nothing_else(checkpoint: Path, picture: Image.Image) -> None:
    built = build_vision(checkpoint, image_size=80)
    assert built.facts["input_size"] == [3, 80, 80]
    assert built.facts["crop_pct"] == 0.9
    assert built.preprocessor(picture, return_tensors="pt")["pixel_values"].shape == (1, 3, 80, 80)


def test_a_vision_transformer_for_another_size_gets_its_positions_resampled(tmp_path: Path, picture: Image.Image) -> None:
    source: Any = timm.create_model("test_vit", num_classes=5)
    assert source.pretrained_cfg["input_size"] == (3, 160, 160)
    timm.models.save_for_hf(source, str(tmp_path / "vit"), safe_serialization=True)
    stored = load_file(tmp_path / "vit" / "model.safetensors")
    assert stored["pos_embed"].shape[1] == 101  # a class token and 10 x 10 patches of 16 pixels
    built = build_vision(tmp_path / "vit", image_size=64)
    assert built.model.timm_model.pos_embed.shape[1] == 17  # type: ignore[union-attr, index]  # 4 x 4 patches
    assert torch.equal(built.model.timm_model.pos_embed[:, :1], stored["pos_embed"][:, :1])  # type: ignore[union-attr, index]
    vision.save(built, tmp_path / "saved")
    assert torch.equal(logits(vision.load(tmp_path / "saved"), picture), logits(built, picture))
    assert in_timm_and_in_transformers(tmp_path / "saved", picture, logits(built, picture))


@pytest.mark.parametrize(("name", "size"), [("test_vit", 50), ("test_convnext", 8)])
def test_a_size_that_the_network_cannot_take_is_refused(name: str, size: int) -> None:
    with pytest.raises(RecipeError) as caught:
        build_vision(name, pretrained=False, image_size=size)
    assert f"data.image_size: {name} cannot take pictures of {size} x {size} pixels" in str(caught.value)


def test_a_head_stored_with_a_background_class_is_no_obstacle(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    # Five rows are stored, the first of them for "background": timm calls that 4 classes with an offset of 1.
    rewrite(
        checkpoint / "config.json", num_classes=4, model_args={}, pretrained_cfg={**config["pretrained_cfg"], "label_offset": 1}
    )
    assert build_vision(checkpoint).facts["new_parameters"] == ["timm_model.fc.bias", "timm_model.fc.weight"]


def test_stochastic_depth_is_set_where_the_architecture_has_it(checkpoint: Path) -> None:
    model: Any = build_vision(checkpoint, drop_path=0.2).model
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.2) and rates == sorted(rates)  # from the first layer to the last
    with pytest.raises(RecipeError, match=r"model.drop_path: vgg11 has no stochastic depth; leave it out, and see model.dropout"):
        build_vision("vgg11", pretrained=False, drop_path=0.2)


def test_the_last_groups_and_the_head_begin_anew_with_their_statistics(checkpoint: Path) -> None:
    whole, anew = build_vision(checkpoint), build_vision(checkpoint, reinitialize=1)
    before, after = whole.model.state_dict(), anew.model.state_dict()
    last, head = whole.chain.names[-2:]
    changed = {whole.chain.group_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert changed == {last, head}
    assert anew.facts["reinitialized"] == [last, head]
    convolutions = [name for name in whole.chain.parameters[last] if after[name].ndim == 4]
    assert convolutions and not any(torch.equal(before[name], after[name]) for name in convolutions)


def test_dropout_is_the_rate_before_the_classifier(checkpoint: Path) -> None:
    assert build_vision(checkpoint, dropout=0.3).model.timm_model.drop_rate == 0.3  # type: ignore[union-attr]
    assert build_vision(checkpoint).model.timm_model.drop_rate == 0.0  # type: ignore[union-attr]


def test_random_weights_are_timms_own(checkpoint: Path) -> None:
    built = build_vision("resnet18", pretrained=False)
    torch.manual_seed(0)
    own = timm.create_model("resnet18", num_classes=3).state_dict()
    assert all(torch.equal(built.model.state_dict()[f"timm_model.{name}"], tensor) for name, tensor in own.items())
    assert not built.model.timm_model.layer1[0].bn2.weight.any()  # type: ignore[union-attr, index]  # residuals start at zero
    assert built.facts["base_model"] is None
    same = build_vision(checkpoint, pretrained=False)
    assert same.facts["base_model"] is None
    assert same.facts["mean"] == [0.4, 0.5, 0.6]
    assert not torch.equal(same.model.timm_model.conv1[0].weight, load_file(checkpoint / "model.safetensors")["conv1.0.weight"])  # type: ignore[union-attr, index]


def test_an_architecture_with_a_tag_takes_the_preprocessing_of_the_tag() -> None:
    first = build_vision("resnet18.tv_in1k", pretrained=False, image_size=None).facts
    second = build_vision("resnet18.a1_in1k", pretrained=False, image_size=None).facts
    assert (first["architecture"], first["interpolation"]) == ("resnet18", "bilinear")
    assert second["interpolation"] == "bicubic"


def test_a_hub_id_is_read_from_one_commit(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "cache" / "models--timm--small-resnet"
    shutil.copytree(checkpoint, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    facts = build_vision("timm/small-resnet").facts
    assert (facts["base_model"], facts["revision"]) == ("timm/small-resnet", commit)


def test_the_facts_name_the_checkpoint_without_its_path(checkpoint: Path, tmp_path: Path) -> None:
    facts = build_vision(checkpoint).facts
    assert (facts["architecture"], facts["base_model"], facts["revision"]) == ("test_resnet", "small-resnet", None)
    assert facts["parameters"] == sum(p.numel() for p in timm.create_model("test_resnet", num_classes=3).parameters())
    assert str(tmp_path) not in json.dumps(facts)


def test_building_says_nothing(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vision.save(build_vision(checkpoint), tmp_path / "saved")
    vision.load(tmp_path / "saved")
    assert capfd.readouterr() == ("", "")


# --- what is refused --------------------------------------------------------------------------------------------------------------


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["layer2.0.conv1.weight"]
    save_file(weights, folder / "model.safetensors")


def with_a_weight_too_many(folder: Path) -> None:
    save_file({**load_file(folder / "model.safetensors"), "layer9.weight": torch.zeros(1)}, folder / "model.safetensors")


def with_half_a_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20_000])


def without_a_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def with_a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def with_a_text_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))


def with_an_unknown_architecture(folder: Path) -> None:
    rewrite(folder / "config.json", architecture="test_resnets")


def with_an_unknown_argument(folder: Path) -> None:
    rewrite(folder / "config.json", model_args={"colour": "red"})


def in_four_channels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    rewrite(folder / "config.json", pretrained_cfg={**config["pretrained_cfg"], "input_size": [4, 48, 48]})


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without_weights, "has no model.safetensors"),
        (without_a_layer, 'Missing key(s) in state_dict: "layer2.0.conv1.weight"'),
        (with_a_weight_too_many, 'Unexpected key(s) in state_dict: "layer9.weight"'),
        (with_half_a_file, "has no weights that can be read in model.safetensors"),
        (without_a_config, "has no config.json"),
        (with_a_config_that_is_no_json, "has a config.json that is not JSON"),
        (with_a_text_model, 'is no timm model: its config.json has no "architecture" and "pretrained_cfg"'),
        (with_an_unknown_architecture, 'does not know. Did you mean "test_resnet"?'),
        (with_an_unknown_argument, "timm cannot make test_resnet with {'colour': 'red'"),
        (in_four_channels, "4 numbers were expected, one a channel"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint: Path, break_it: Callable[[Path], None], message: str) -> None:
    break_it(checkpoint)
    with pytest.raises(RecipeError) as caught:
        build_vision(checkpoint)
    assert message in str(caught.value)
    assert [problem.where for problem in caught.value.problems] == ["model.checkpoint"]


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("resnet81", False, 'timm knows no architecture "resnet81". Did you mean "resnet18"?'),
        ("resnet81", True, 'timm knows no architecture "resnet81". Did you mean "resnet18"?'),
        ("resnet18.no_such_tag", False, 'timm knows no "resnet18.no_such_tag"'),
        ("resnet18", True, "write timm/resnet18.a1_in1k for its weights on the Hub, or model.pretrained=false"),
        ("timm/resnet18.a1_in1k", True, "The Hub is switched off here (HF_HUB_OFFLINE)"),
        ("./no/such/folder", True, 'no such folder: "./no/such/folder"'),
    ],
)
def test_a_checkpoint_that_is_nowhere_is_refused_with_the_way_out(name: str, pretrained: bool, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_vision(name, pretrained=pretrained)
    assert message in str(caught.value)
    assert caught.value.problems[0].where == "model.checkpoint"


# --- saving and loading -----------------------------------------------------------------------------------------------------------


def in_timm_and_in_transformers(folder: Path, picture: Image.Image, expected: torch.Tensor) -> bool:
    """Whether both libraries, without hftl, compute the same logits from the picture file on."""
    alone = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(alone))  # type: ignore[no-untyped-call]
    wrapped = AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return torch.equal(alone(transform(picture)[None]), expected) and torch.equal(wrapped(**pixels).logits, expected)


def test_a_saved_model_loads_in_hftl_in_timm_and_in_transformers(checkpoint: Path, picture: Image.Image, tmp_path: Path) -> None:
    built = build_vision(checkpoint, image_size=64, dropout=0.2)
    vision.save(built, tmp_path / "saved")
    expected = logits(built, picture)
    again = vision.load(tmp_path / "saved")
    assert torch.equal(logits(again, picture), expected)
    assert again.chain.names == built.chain.names
    assert again.facts.items() <= built.facts.items()
    assert again.model.config.id2label == dict(enumerate(THREE))
    assert again.model.timm_model.drop_rate == 0.2  # type: ignore[union-attr]
    assert in_timm_and_in_transformers(tmp_path / "saved", picture, expected)


def test_a_pipeline_sees_our_pixels_and_names_our_classes(checkpoint: Path, picture: Image.Image, tmp_path: Path) -> None:
    built = build_vision(checkpoint, image_size=64)
    vision.save(built, tmp_path / "saved")
    served: Any = pipeline("image-classification", model=str(tmp_path / "saved"), device="cpu")
    ours = built.preprocessor(picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(served.image_processor(picture, return_tensors="pt")["pixel_values"], ours)
    answers = {answer["label"]: answer["score"] for answer in served(picture)}
    assert answers == pytest.approx(dict(zip(THREE, logits(built, picture)[0].softmax(0).tolist(), strict=True)), abs=1e-6)


def test_timm_and_transformers_find_our_classes_and_our_preprocessing(
    checkpoint: Path, picture: Image.Image, tmp_path: Path
) -> None:
    built = build_vision(checkpoint, image_size=64)
    vision.save(built, tmp_path / "saved")
    alone: Any = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    assert (alone.num_classes, alone.pretrained_cfg["label_names"]) == (len(THREE), list(THREE))
    config = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").config
    assert config.id2label == dict(enumerate(THREE))
    assert config.label2id == {name: i for i, name in enumerate(THREE)}
    ours = built.preprocessor(picture, return_tensors="pt")["pixel_values"]
    timms = create_transform(**resolve_model_data_config(alone))  # type: ignore[no-untyped-call]
    assert torch.equal(timms(picture)[None], ours)
    theirs = AutoImageProcessor.from_pretrained(tmp_path / "saved")  # type: ignore[no-untyped-call]
    assert torch.equal(theirs(picture, return_tensors="pt")["pixel_values"], ours)


def test_a_network_in_channels_last_is_saved_like_any_other(checkpoint: Path, picture: Image.Image, tmp_path: Path) -> None:
    built = build_vision(checkpoint)
    expected = logits(built, picture)
    nn.Module.to(built.model, memory_format=torch.channels_last)
    vision.save(built, tmp_path / "saved")
    assert torch.equal(logits(vision.load(tmp_path / "saved"), picture), expected)


def test_what_is_saved_can_be_the_next_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    built = build_vision(checkpoint, dropout=0.5)
    vision.save(built, tmp_path / "saved")
    nxt = build_vision(tmp_path / "saved", image_size=None, labels=("yes", "no"))
    assert nxt.facts["input_size"] == [3, 64, 64]
    assert nxt.model.timm_model.drop_rate == 0.0  # type: ignore[union-attr]
    assert torch.equal(nxt.model.timm_model.conv1[0].weight, built.model.timm_model.conv1[0].weight)  # type: ignore[union-attr, index]
    assert nxt.model.config.id2label == {0: "yes", 1: "no"}


def test_what_is_saved_is_safetensors_and_names_no_path(checkpoint: Path, tmp_path: Path) -> None:
    vision.save(build_vision(checkpoint), tmp_path / "saved")
    assert sorted(os.listdir(tmp_path / "saved")) == ["config.json", "model.safetensors"]
    text = (tmp_path / "saved" / "config.json").read_text()
    assert str(tmp_path) not in text
    config = json.loads(text)
    assert config["label_names"] == list(THREE)
    assert "num_classes" not in config["model_args"]


def test_an_incomplete_model_folder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    vision.save(build_vision(checkpoint), tmp_path / "saved")
    without_a_layer(tmp_path / "saved")
    with pytest.raises(RunError, match="Missing key"):
        vision.load(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no model\.safetensors"):
        vision.load(tmp_path / "saved")
    with pytest.raises(RunError, match="names no classes"):
        vision.load(checkpoint)


# --- real weights -----------------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_weights_survive_a_new_head_a_save_and_a_load_bit_for_bit(shared: Path, tmp_path: Path) -> None:
    picture = Image.open(sorted((shared / "data" / "hotdog" / "test" / "hot_dog").iterdir())[0]).convert("RGB")
    built = build_vision(shared / "models" / "resnet18", image_size=None)
    sizes = {g: sum(built.model.get_parameter(n).numel() for n in names) for g, names in built.chain.parameters.items()}
    # ResNet-18 without its 1000-class head has 11,176,512 parameters; a head of 3 classes 3 * 512 + 3.
    assert sizes == {"stem": 9_536, "layer1": 147_968, "layer2": 525_568, "layer3": 2_099_712, "layer4": 8_393_728, "head": 1_539}
    vision.save(built, tmp_path / "saved")
    expected = logits(built, picture)
    assert torch.equal(logits(vision.load(tmp_path / "saved"), picture), expected)
    assert in_timm_and_in_transformers(tmp_path / "saved", picture, expected)


@pytest.mark.shared
def test_real_weights_that_were_saved_without_a_head_load_strictly(shared: Path) -> None:
    built = build_vision(shared / "models" / "mobilenetv2_100", image_size=None)
    stored = load_file(shared / "models" / "mobilenetv2_100" / "model.safetensors")
    state = {name.removeprefix("timm_model."): tensor for name, tensor in built.model.state_dict().items()}
    assert set(state) - set(stored) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())
    assert built.facts["interpolation"] == "bicubic"
