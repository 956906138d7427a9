"""A small convolutional network for pictures, trained from random weights: what pretraining has to be compared with.

The chain is blocks.0 -> ... -> head. The network is `hftl.models.cnn_modeling`, a copy of which travels with every saved model.

Shapes: pixel_values (B, 3, S, S) -> logits (B, K): B pictures of S x S pixels, RGB, from -1 to 1; K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageClassification, BitImageProcessor, PreTrainedModel

from hftl.errors import RecipeError
from hftl.models import pictures, transformer
from hftl.models.chain import HEAD, Chain, LayerGroup
from hftl.models.cnn_modeling import CNNConfig, CNNForImageClassification
from hftl.models.family import Classifier, Family
from hftl.models.foreign import beyond_memory
from hftl.recipe import CNN, ImageData, Recipe

SIDE = 64
"""Pixels of the input's side, where the recipe says nothing."""

AutoConfig.register(CNNConfig.model_type, CNNConfig, exist_ok=True)
AutoModelForImageClassification.register(CNNConfig, CNNForImageClassification, exist_ok=True)
# `save_pretrained` then writes `auto_map` and a copy of cnn_modeling.py, for those who load the model without hftl.
CNNConfig.register_for_auto_class("AutoConfig")  # type: ignore[no-untyped-call]
CNNForImageClassification.register_for_auto_class("AutoModelForImageClassification")  # type: ignore[no-untyped-call]


def build(spec: CNN, label_names: Sequence[str], *, image_size: int | None) -> Classifier:
    """The network with random weights, float32, on the CPU; pictures of `image_size` pixels a side, or `SIDE`.

    What is random is drawn from torch's generator: seed it before.

    Raises:
        RecipeError: pictures that the blocks halve to nothing, or a network that does not fit into memory.
    """
    side, least = image_size or SIDE, 2 ** len(spec.channels)
    if side < least:
        what = f"{side} pixels are halved {len(spec.channels)} times, by each block once, and nothing is left"
        raise RecipeError.single("data.image_size", what, f"write {least} or more, or fewer model.channels", source="model")
    config = CNNConfig(
        channels=spec.channels,
        convolutions=spec.convolutions,
        kernel_size=spec.kernel_size,
        dropout=spec.dropout,
        id2label=dict(enumerate(label_names)),
        label2id={name: index for index, name in enumerate(label_names)},
    )
    with torch.device("meta"):  # where a number costs no memory
        if (too_large := beyond_memory(CNNForImageClassification(config).num_parameters())) is not None:
            raise RecipeError.single("model", f"has {too_large[0]}", too_large[1])
    model = CNNForImageClassification(config)
    model.eval()  # type: ignore[no-untyped-call]
    processor = BitImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    facts = {
        **pictures.facts_of(model, processor, (side, side)),
        "base_model": None,
        "revision": None,
        "pretrained": False,
        "new_parameters": [],
    }
    return Classifier(model, processor, chain(model), facts)


def load(folder: Path) -> Classifier:
    """Read what `hftl.models.transformer.save` wrote, with the classes of this package.

    Raises:
        RunError: there is no complete model in the folder.
    """
    return pictures.load(folder, lambda model, size: chain(model))


def chain(model: PreTrainedModel) -> Chain:
    """blocks.0 -> ... -> head"""
    blocks: Any = model.blocks
    return Chain(model, [LayerGroup(name, (name,)) for name in [*(f"blocks.{number}" for number in range(len(blocks))), HEAD]])


def _build(recipe: Recipe, label_names: Sequence[str], texts: object) -> Classifier:
    assert isinstance(recipe.model, CNN) and isinstance(recipe.data, ImageData)  # the recipe checks that they go together
    return build(recipe.model, label_names, image_size=recipe.data.image_size)


FAMILY = Family(_build, transformer.save, load, channels_last=True, logits_alone=True, recomputes_by_block=True)
