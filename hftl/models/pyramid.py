"""timm networks whose head reads their last levels, and not the last one alone: `model.pooling=pyramid`.

The chain is that of the network, with a new head. What leaves frozen layers can be kept where only the head trains: it reads the
levels' means side by side. Where a level trains and another below it is frozen, the head needs both, and frozen layers are computed
in every epoch, which the plan says. The network is `hftl.models.pyramid_modeling`, a copy of which travels with every saved model.

Shapes: pixel_values (B, 3, S, S) -> logits (B, K): B pictures of S x S pixels, RGB, normalised as in pretraining; K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoConfig, AutoModelForImageClassification, BitImageProcessor

from hftl.errors import RecipeError
from hftl.models import pictures, transformer, vision
from hftl.models.chain import HEAD
from hftl.models.checkpoint import CONFIG, MALFORMED, Checkpoint, quiet_loading, read_object, run_error
from hftl.models.family import Classifier
from hftl.models.pyramid_modeling import PyramidConfig, PyramidForImageClassification, last_levels
from hftl.recipe import ImageData, Recipe, Timm

LEVELS = 4
"""Of a ResNet layer1 to layer4, at a quarter to a thirty-second of the picture's side."""

AutoConfig.register(PyramidConfig.model_type, PyramidConfig, exist_ok=True)
AutoModelForImageClassification.register(PyramidConfig, PyramidForImageClassification, exist_ok=True)
# `save_pretrained` then writes `auto_map` and a copy of pyramid_modeling.py, for those who load the model without hftl.
PyramidConfig.register_for_auto_class("AutoConfig")  # type: ignore[no-untyped-call]
PyramidForImageClassification.register_for_auto_class("AutoModelForImageClassification")  # type: ignore[no-untyped-call]


def build(spec: Timm, label_names: Sequence[str], *, image_size: int | None) -> Classifier:
    """A timm network under a head for `label_names` that reads its last levels, float32, on the CPU.

    Raises:
        RecipeError: as `hftl.models.vision.build`; or the network has no levels of different size, or its processor pads.
    """
    plain = vision.build(spec.model_copy(update={"dropout": 0.0}), label_names, image_size=image_size)
    network: Any = plain.model.timm_model
    if plain.facts["input_size"][0] != 3:
        help = "leave model.in_chans out, or model.pooling"
        raise RecipeError.single("model.pooling", "a pyramid reads RGB pictures, and this network grey ones", help, source="model")
    _check_levels(spec, network)
    own = plain.model.config
    config = PyramidConfig(
        architecture=own.architecture,
        model_args={**own.model_args, "num_classes": 0, "drop_rate": 0.0},
        levels=min(LEVELS, len(network.feature_info)),
        dropout=spec.dropout,
        id2label=own.id2label,
        label2id=own.label2id,
    )
    try:
        model = PyramidForImageClassification(config, network)
        model.eval()  # type: ignore[no-untyped-call]
        unsaved = {name for name, _ in model.named_buffers()} - model.state_dict().keys()
        if unsaved:
            raise _no_pyramid(spec, f"it makes tables that are not saved with it ({min(unsaved)})")
        size = (int(plain.facts["input_size"][1]), int(plain.facts["input_size"][2]))
        processor = _processor(spec, dict(plain.preprocessor.data_config))  # type: ignore[union-attr]
        chain = vision.chain(model, (3, *size))
    except vision.CannotRun as error:
        raise _no_pyramid(spec, str(error)) from None
    except MALFORMED as error:
        raise _no_pyramid(spec, " ".join(str(error).split())) from None
    # A layer that begins with random weights (model.reinitialize) does so here too; the head is another.
    new = [name for name in plain.facts["new_parameters"] if name not in plain.chain.parameters[HEAD]]
    new += ["head.linear.bias", "head.linear.weight"] if spec.pretrained else []
    return Classifier(model, processor, chain, {**plain.facts, **_facts(model, processor, size), "new_parameters": sorted(new)})


def load(folder: Path) -> Classifier:
    """Read what `hftl.models.transformer.save` wrote, with the classes of this package.

    Raises:
        RunError: there is no complete model in the folder, or it asks timm for more than a network.
    """
    checkpoint = Checkpoint(str(folder))
    try:
        vision.check_network(checkpoint, read_object(checkpoint, checkpoint.file(CONFIG)))
        with quiet_loading():
            model, processor, size = pictures.load_saved(checkpoint)
            chain = vision.chain(model, (3, *size))
    except RecipeError as error:
        raise run_error(folder, error) from None
    return Classifier(model, processor, chain, _facts(model, processor, size))


def _facts(model: Any, processor: Any, size: tuple[int, int]) -> dict[str, Any]:
    return {**pictures.facts_of(model, processor, size), "architecture": model.config.architecture, "levels": model.config.levels}


def _build(recipe: Recipe, label_names: Sequence[str], texts: object) -> Classifier:
    assert isinstance(recipe.model, Timm) and isinstance(recipe.data, ImageData)  # the recipe checks that they go together
    return build(recipe.model, label_names, image_size=recipe.data.image_size)


FAMILY = replace(vision.FAMILY, build=_build, save=transformer.save, load=load, logits_alone=True)
"""timm's, but for the format of its files, which is that of transformers. `hftl.models.vision` builds it where the recipe asks."""


def _check_levels(spec: Timm, network: Any) -> None:
    if not hasattr(network, "forward_intermediates") or not hasattr(network, "prune_intermediate_layers"):
        raise _no_pyramid(spec, "timm does not tell its levels")
    sizes = {network.feature_info[place]["reduction"] for place in last_levels(network, LEVELS)}
    if len(sizes) < 2:
        raise _no_pyramid(spec, f"all of its last levels are as fine, a {max(sizes)}th of the picture's side")


def _no_pyramid(spec: Timm, why: str) -> RecipeError:
    help = "leave model.pooling out; a ResNet, ConvNeXt, EfficientNet or RegNet has levels of different size"
    return RecipeError.single("model.pooling", f"{spec.checkpoint} has no pyramid of levels: {why}", help, source="model")


def _processor(spec: Timm, config: Mapping[str, Any]) -> BitImageProcessor:
    """timm's preparation in the words of transformers, since config.json is this model's and has no room for it."""
    _, height, width = config["input_size"]
    if config["crop_mode"] == "border" or (config["crop_mode"] == "center" and height != width):
        raise _no_pyramid(spec, f'its pictures are prepared in a way ("{config["crop_mode"]}") that is not written for it')
    sides = {"height": math.floor(height / config["crop_pct"]), "width": math.floor(width / config["crop_pct"])}
    return BitImageProcessor(
        size=sides if config["crop_mode"] == "squash" else {"shortest_edge": sides["height"]},
        crop_size={"height": height, "width": width},
        resample=Image.Resampling[config["interpolation"].upper()],
        image_mean=list(config["mean"]),
        image_std=list(config["std"]),
    )
