"""Small models of every family: transformers from configs, timm's at small sizes, and folders as somebody else saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import BERT_NANO
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from hftl.errors import RecipeError, RunError
from hftl.models import glove, load_classifier, save_classifier, transformer, vision
from hftl.models.family import Classifier
from hftl.recipe import TextCNN, Timm, Transformer

# --- transformers -----------------------------------------------------------------------------------------------------------------

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "not"]
SMALL: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
DECODER = {**SMALL, "num_key_value_heads": 1}
DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "max_relative_positions": 8,
    "pos_att_type": ["p2c", "c2p"],
    "pooler_hidden_size": 16,
}
DEBERTA_V2: dict[str, Any] = {"conv_kernel_size": 3, "norm_rel_ebd": "layer_norm"}
DEBERTA_V3: dict[str, Any] = {
    "share_att_key": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}

TRANSFORMERS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SMALL),
    "distilbert": DistilBertConfig(vocab_size=10, dim=16, n_layers=3, n_heads=2, hidden_dim=24, max_position_embeddings=32),
    "roberta": RobertaConfig(**SMALL),
    "xlm-roberta": XLMRobertaConfig(**SMALL),
    "electra": ElectraConfig(**SMALL, embedding_size=8),
    "deberta": DebertaConfig(**SMALL, **DEBERTA),
    "deberta-v2": DebertaV2Config(**SMALL, **DEBERTA, **DEBERTA_V2),
    "deberta-v3": DebertaV2Config(**SMALL, **DEBERTA, **DEBERTA_V3),
    "modernbert": ModernBertConfig(**SMALL, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3),
    "mpnet": MPNetConfig(**SMALL),
    "gpt2": GPT2Config(
        vocab_size=10, n_embd=16, n_layer=3, n_head=2, n_positions=32, pad_token_id=0, bos_token_id=2, eos_token_id=3
    ),
    "llama": LlamaConfig(**DECODER),
    "qwen2": Qwen2Config(**DECODER),
}


def small_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    return model


def tiny_bert(folder: Path) -> Path:
    """Two layers of 16 numbers, with the tokenizer of bert-nano."""
    tokenizer = AutoTokenizer.from_pretrained(BERT_NANO)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- timm -------------------------------------------------------------------------------------------------------------------------

THREE = ("hot_dog", "not_hot_dog", "maybe")
STAGES = ("stages.0", "stages.1", "stages.2", "stages.3")
RESNET = ("layer1", "layer2", "layer3", "layer4")
# Architecture -> groups between stem and head, and the side of a picture in pixels.
PICTURES: dict[str, tuple[tuple[str, ...], int]] = {
    "test_resnet": (RESNET, 64),
    "resnet18": (RESNET, 64),
    "resnet50": (RESNET, 64),
    "mobilenetv2_050": (tuple(f"blocks.{i}" for i in range(7)), 64),
    "test_efficientnet": (tuple(f"blocks.{i}" for i in range(5)), 64),
    "test_convnext": (STAGES, 64),
    "test_vit": (tuple(f"blocks.{i}" for i in range(6)), 64),
    "regnetx_002": (("s1", "s2", "s3", "s4"), 64),
    "densenet121": (tuple(f"features.denseblock{i}" for i in (1, 2, 3, 4)), 64),
    "test_nfnet": (STAGES, 64),
    "resnetv2_18": (STAGES, 64),
}


def build_vision(
    checkpoint: Path | str, *, image_size: int | None = 64, labels: tuple[str, ...] = THREE, **recipe: Any
) -> Classifier:
    torch.manual_seed(0)
    return vision.build(Timm(checkpoint=str(checkpoint), **recipe), labels, image_size=image_size)


# --- folders that somebody else saved ---------------------------------------------------------------------------------------------

MOODS = ("sad", "glad", "mixed")
FILM_WORDS = ["a", "the", "film", "is", "good", "bad", "not", "very"]


def write_bert(folder: Path) -> None:
    config = BertConfig(
        vocab_size=len(FILM_WORDS) + 2,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        pad_token_id=0,
        id2label=dict(enumerate(MOODS)),
        label2id={name: i for i, name in enumerate(MOODS)},
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    glove.make_tokenizer(FILM_WORDS).save_pretrained(folder)


def write_textcnn(folder: Path) -> None:
    vectors = folder.parent / "six.2d.txt"
    vectors.write_text("the 1.0 2.0\nfilm 3.0 -4.0\ngood 0.5 0.25\nbad -0.5 0.75\n")
    spec = TextCNN(vectors=str(vectors), channels=4)
    save_classifier(glove.build(spec, MOODS, texts=["the good film", "the bad film"]), folder)


def write_resnet(folder: Path) -> None:
    save_classifier(vision.build(Timm(checkpoint="test_resnet", pretrained=False), MOODS, image_size=64), folder)


WRITERS = {"bert": write_bert, "textcnn": write_textcnn, "resnet": write_resnet}


def build_on(folder: Path) -> Classifier:
    """Build on the folder as on a recipe's checkpoint."""
    if b"pretrained_cfg" in (folder / "config.json").read_bytes():
        return vision.build(Timm(checkpoint=str(folder)), ["yes", "no"], image_size=None)
    return transformer.build(Transformer(checkpoint=str(folder)), ["yes", "no"])


def refusal(folder: Path) -> str:
    """What `load_classifier` says about the folder."""
    with pytest.raises(RunError) as caught:
        load_classifier(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert len(message) < 1500
    return message


def recipes_refusal(folder: Path) -> str:
    """What building on the folder as on a recipe's checkpoint says."""
    with pytest.raises(RecipeError) as caught:
        build_on(folder)
    assert [problem.where for problem in caught.value.problems] == ["model.checkpoint"]
    return str(caught.value)
