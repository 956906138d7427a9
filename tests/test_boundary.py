"""From a stored activation a model computes what it computes from its inputs: every boundary of every family, with dropout."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from boundaries import TEXTS, compare, in_training
from small_models import PICTURES, TRANSFORMERS, build_vision, small_model
from torch import nn
from torch.nn import functional as F
from transformers import AlbertConfig, AutoModelForSequenceClassification, OPTConfig, PreTrainedModel

from hftl.models import glove, transformer
from hftl.models.boundary import Boundary, BoundaryHooks, NotSeparable, find_boundary
from hftl.models.chain import Chain, LayerGroup
from hftl.models.glove_modeling import (
    BiLSTMForSequenceClassification,
    GloveBiLSTMConfig,
    GloveTextCNNConfig,
    TextCNNForSequenceClassification,
)

ALBERT = AlbertConfig(
    vocab_size=10, embedding_size=8, hidden_size=16, num_hidden_layers=4, num_hidden_groups=2, num_attention_heads=2,
    intermediate_size=24, max_position_embeddings=32,
)  # fmt: skip

OPT: dict[str, Any] = {
    "vocab_size": 10, "hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "ffn_dim": 24, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip


def glove_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    shared: dict[str, Any] = {"vocab_size": 10, "vector_dim": 5, "trainable_dim": 3, "word_dropout": 0.2}
    if name == "textcnn":
        return TextCNNForSequenceClassification(GloveTextCNNConfig(channels=4, **shared))
    shared["pooling"] = name
    return BiLSTMForSequenceClassification(GloveBiLSTMConfig(hidden_size=6, layers=3, **shared))


@pytest.mark.parametrize("name", [*TRANSFORMERS, "albert"])
def test_a_transformer_trains_from_the_activation_at_every_boundary_as_from_its_texts(name: str) -> None:
    config = ALBERT if name == "albert" else TRANSFORMERS[name]
    for first in range(1, len(transformer.chain(small_model(config)))):
        model = small_model(config)
        compare(model, transformer.chain(model), TEXTS, first)


@pytest.mark.parametrize("name", ["textcnn", "ends", "max", "mean"])
def test_a_glove_network_trains_from_the_activation_at_every_boundary_as_from_its_texts(name: str) -> None:
    names = glove.chain(glove_model(name)).names
    for first in range(1, len(names)):
        model = glove_model(name)
        if names[first] in {"trainable_embedding", "convolutions", "lstm.0"}:
            continue  # tables of words alone are frozen: nothing that costs anything, and what enters is not one tensor
        compare(model, glove.chain(model), TEXTS, first)


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "resnet50"])
def test_a_timm_network_trains_from_the_activation_at_every_boundary_as_from_its_pictures(name: str) -> None:
    built = build_vision(name, pretrained=False, image_size=PICTURES[name][1])
    pictures = {"pixel_values": torch.randn(3, 3, PICTURES[name][1], PICTURES[name][1])}
    for first in range(1, len(built.chain)):
        compare(copy.deepcopy(built.model), built.chain, pictures, first)


def head_of(name: str) -> Boundary:
    model = glove_model("textcnn") if name == "textcnn" else small_model(TRANSFORMERS[name])
    chain = glove.chain(model) if name == "textcnn" else transformer.chain(model)
    return find_boundary(model, chain, in_training(model, chain, len(chain) - 1), TEXTS)


@pytest.mark.parametrize(
    ("name", "door"),
    [
        ("bert", "bert.pooler.dense"),
        ("distilbert", "pre_classifier"),
        ("roberta", "classifier.dropout"),
        ("electra", "classifier.dropout"),
        ("deberta-v3", "pooler.dropout"),
    ],
)
def test_of_a_head_that_reads_one_token_one_vector_a_text_is_kept(name: str, door: str) -> None:
    found = head_of(name)
    assert (found.entry_module, found.per_token, found.shape) == (door, False, (16,))


def test_of_a_textcnn_the_features_are_kept_and_of_a_resnet_the_pooled_ones() -> None:
    assert (head_of("textcnn").entry_module, head_of("textcnn").shape) == ("head.dropout", (12,))  # 3 widths x 4 channels
    built = build_vision("resnet18", pretrained=False, image_size=64)
    trains = in_training(built.model, built.chain, len(built.chain) - 1)
    found = find_boundary(built.model, built.chain, trains, {"pixel_values": torch.randn(2, 3, 64, 64)})
    assert (found.entry_module, found.shape) == ("timm_model.fc", (512,))


def test_dropout_that_timm_does_by_itself_before_the_classifier_stays_behind_the_door() -> None:
    built = build_vision("resnet18", pretrained=False, image_size=64, dropout=0.5)
    trains = in_training(built.model, built.chain, len(built.chain) - 1)
    found = find_boundary(built.model, built.chain, trains, {"pixel_values": torch.randn(2, 3, 64, 64)})
    # The input of `fc` is random in training, so what is kept is what pooling reads.
    assert (found.entry_module, found.shape) == ("timm_model.global_pool", (512, 2, 2))


def test_what_is_kept_has_the_size_of_its_tokens_or_of_one_vector_a_text() -> None:
    for per_token, size in ((True, 25_000 * 230 * 768), (False, 25_000 * 768)):
        boundary = Boundary("head", "classifier", per_token, (768,), {}, pictures=False, placeholder_inputs={})
        assert boundary.nbytes(examples=25_000, tokens=25_000 * 230, bf16=True) == 2 * size
        assert boundary.nbytes(examples=25_000, tokens=25_000 * 230, bf16=False) == 4 * size


class Skipping(nn.Module):
    """A suffix that looks around the boundary: the head gets the input once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        early = self.first(pixel_values)
        return type("Output", (), {"logits": self.head(self.second(early) + early)})


def test_a_suffix_that_reads_the_prefix_in_two_places_is_not_separable() -> None:
    torch.manual_seed(0)
    model = Skipping()
    chain = Chain(model, [LayerGroup(name, (name,)) for name in ("first", "second", "head")])
    with pytest.raises(NotSeparable, match="from what enters it alone come other logits"):
        find_boundary(model, chain, ("second", "head"), {"pixel_values": torch.randn(2, 4)})
    assert find_boundary(model, chain, ("head",), {"pixel_values": torch.randn(2, 4)}).entry_module == "head"


def test_a_prefix_that_is_random_in_training_is_not_separable() -> None:
    class Noisy(Skipping):
        def forward(self, pixel_values: torch.Tensor) -> Any:
            noisy = F.dropout(self.second(self.first(pixel_values)), 0.5, self.training)
            return type("Output", (), {"logits": self.head(noisy)})

    model = Noisy()
    chain = Chain(model, [LayerGroup(name, (name,)) for name in ("first", "second", "head")])
    model.train()
    with pytest.raises(NotSeparable, match="random in training"):
        find_boundary(model, chain, ("head",), {"pixel_values": torch.randn(2, 4)})


def test_an_activation_that_does_not_enter_is_an_error_and_not_another_result() -> None:
    model = small_model(TRANSFORMERS["bert"])
    chain = transformer.chain(model)
    found = find_boundary(model, chain, in_training(model, chain, 2), TEXTS)
    hooks = BoundaryHooks(model, found)
    activation = hooks.capture(TEXTS)
    model.get_submodule("bert.encoder").layer = nn.ModuleList(model.get_submodule("bert.encoder").layer[2:])  # type: ignore[index]
    with pytest.raises(RuntimeError, match=r"bert.encoder.layer.1 was not called"):
        model(**TEXTS, activation=activation)


def test_a_model_that_leaves_out_layers_at_random_is_not_separable() -> None:
    model = small_model(OPTConfig(**OPT, layerdrop=0.05))
    chain = transformer.chain(model)
    with pytest.raises(NotSeparable, match="layerdrop"):
        find_boundary(model, chain, in_training(model, chain, 2), TEXTS)
    model.config.layerdrop = 0.0
    assert find_boundary(model, chain, in_training(model, chain, 2), TEXTS).group == chain.names[2]


def test_a_doorway_leaves_the_names_of_the_weights_and_the_model_whole() -> None:
    model = small_model(TRANSFORMERS["bert"])
    chain = transformer.chain(model)
    found = find_boundary(model, chain, in_training(model, chain, 2), TEXTS)
    names = list(model.state_dict())
    hooks = BoundaryHooks(model, found)
    assert list(model.state_dict()) == names
    hooks.close()
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert isinstance(AutoModelForSequenceClassification.from_config(model.config), type(model))  # type: ignore[no-untyped-call]
