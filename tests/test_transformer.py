"""Transformers, small and made from configs; bert-nano where ../shared is."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from small import rewrite
from small_models import DECODER, SMALL, TRANSFORMERS, WORDS, small_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModel,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    BigBirdConfig,
    CanineConfig,
    FNetConfig,
    Gemma3Config,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMConfig,
    XLMRobertaConfig,
    XLNetConfig,
    pipeline,
)

from hftl.errors import RecipeError, RunError
from hftl.models import answers, transformer
from hftl.models.chain import Chain
from hftl.models.family import Classifier
from hftl.recipe import Transformer

LABELS = ("neg", "pos")
BODY = ("embeddings", "layer.0", "layer.1", "layer.2", "head")


def word_tokenizer(**tokens: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **tokens)  # type: ignore[no-untyped-call]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small BERT that was pretrained on masked words: it has a body, and a head of another task."""
    folder = tmp_path / "small-bert"
    torch.manual_seed(1)
    BertForMaskedLM(BertConfig(**SMALL)).save_pretrained(folder)
    word_tokenizer(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]").save_pretrained(folder)
    return folder


def build(folder: Path | str, **recipe: Any) -> Classifier:
    torch.manual_seed(0)
    return transformer.build(Transformer(checkpoint=str(folder), **recipe), LABELS)


# --- the chain ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_parameter_and_buffer_of_an_architecture_is_in_one_group(name: str) -> None:
    model = small_model(TRANSFORMERS[name])
    chain = transformer.chain(model)
    assert chain.names == BODY
    for members, found in [(chain.parameters, model.named_parameters()), (chain.buffers, model.named_buffers())]:
        listed = [member for group in chain.names for member in members[group]]
        assert sorted(listed) == sorted(n for n, _ in found)
    dropouts = {n for n, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert dropouts <= {module for modules in chain.modules.values() for module in modules}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_change_in_a_group_shows_from_its_end_on_and_not_before(name: str) -> None:
    model = small_model(TRANSFORMERS[name])
    chain = transformer.chain(model)
    before = entries(model, chain)
    assert len(before) == 4  # what enters layers 0, 1, 2, and what leaves the head
    for position, group in enumerate(chain.names):
        saved = {n: model.get_parameter(n).detach().clone() for n in chain.parameters[group]}
        with torch.no_grad():
            for n in saved:
                model.get_parameter(n).add_(torch.randn_like(saved[n]))
        changed = [not torch.equal(old, new) for old, new in zip(before, entries(model, chain), strict=True)]
        # Group 0 (embeddings) enters layer 0, which is entry 0: entries up to position - 1 stay as they were.
        assert changed == [entry >= position for entry in range(4)] if position < 4 else changed == [False, False, False, True], (
            group
        )
        with torch.no_grad():
            for n, value in saved.items():
                model.get_parameter(n).copy_(value)


def entries(model: PreTrainedModel, chain: Chain) -> list[torch.Tensor]:
    """The hidden state that enters each layer, and the logits."""
    found: list[torch.Tensor] = []

    def note(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        found.append((arguments[0] if arguments else keywords["hidden_states"]).clone())

    layers = [model.get_submodule(group.prefixes[0]) for group in chain.groups[1:-1]]
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    tokens = torch.tensor([[2, 5, 6, 8, 3], [2, 7, 3, 0, 0]])
    with torch.no_grad():
        logits = model(tokens, attention_mask=(tokens != 0).long()).logits
    for hook in hooks:
        hook.remove()
    return [*found, logits]


def test_dropout_before_the_layers_is_frozen_with_the_embeddings_and_dropout_after_them_with_the_head() -> None:
    chain = transformer.chain(small_model(TRANSFORMERS["bert"]))
    assert "bert.embeddings.dropout" in chain.modules["embeddings"]
    assert {"dropout", "classifier", "bert.pooler"} <= set(chain.modules["head"])


def test_what_layers_share_is_in_the_embeddings_and_a_final_norm_in_the_head() -> None:
    def group(architecture: str, parameter: str) -> str:
        return transformer.chain(small_model(TRANSFORMERS[architecture])).group_of(parameter)

    assert group("deberta-v2", "deberta.encoder.rel_embeddings.weight") == "embeddings"
    assert group("deberta-v2", "deberta.encoder.LayerNorm.weight") == "embeddings"  # normalises rel_embeddings
    assert group("deberta-v2", "deberta.encoder.conv.conv.weight") == "embeddings"
    assert group("electra", "electra.embeddings_project.weight") == "embeddings"
    assert group("mpnet", "mpnet.encoder.relative_attention_bias.weight") == "embeddings"
    assert group("llama", "model.rotary_emb.inv_freq") == "embeddings"
    assert group("llama", "model.norm.weight") == "head"
    assert group("gpt2", "transformer.ln_f.weight") == "head"
    assert group("modernbert", "model.final_norm.weight") == "head"


def test_albert_has_one_layer_for_each_set_of_shared_weights() -> None:
    model = small_model(AlbertConfig(**SMALL, embedding_size=8, num_hidden_groups=1))
    assert transformer.chain(model).names == ("embeddings", "layer.0", "head")
    model = small_model(AlbertConfig(**SMALL, embedding_size=8, num_hidden_groups=3))
    assert transformer.chain(model).names == BODY


def test_an_encoder_decoder_is_refused_with_its_two_lists() -> None:
    model = small_model(
        BartConfig(vocab_size=10, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8)
    )
    with pytest.raises(RecipeError, match=r"exactly one list of layers; found model\.encoder\.layers, model\.decoder\.layers"):
        transformer.chain(model)


def test_a_list_of_layers_that_no_text_reaches_is_refused_by_its_name() -> None:
    text = {**DECODER, "head_dim": 8}
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 28,
        "patch_size": 14,
    }
    model = small_model(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=9))
    with pytest.raises(RecipeError, match=r"no text reaches model\.vision_tower\.encoder\.layers") as caught:
        transformer.chain(model)
    assert "Choose a model of texts alone." in str(caught.value)


def test_a_model_that_reads_no_tokens_is_refused(tmp_path: Path) -> None:
    sizes = {key: value for key, value in SMALL.items() if key != "vocab_size"}
    saved_model(CanineConfig(**sizes, num_hash_buckets=16, local_transformer_stride=8), tmp_path)
    with pytest.raises(RecipeError, match="which has no table with a row for each token of a tokenizer"):
        build(tmp_path)


# --- building -------------------------------------------------------------------------------------------------------------------


def test_a_pretrained_body_gets_a_new_head(checkpoint: Path) -> None:
    built = build(checkpoint)
    stored = load_file(checkpoint / "model.safetensors")
    body = {n: p for n, p in built.model.named_parameters() if built.chain.group_of(n) != "head"}
    assert len(body) == 5 + 3 * 16  # embeddings; each layer has 8 matrices or norms with a weight and a bias
    assert all(torch.equal(parameter, stored[n]) for n, parameter in body.items())
    assert built.facts["new_parameters"] == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    ]
    assert built.model.config.id2label == {0: "neg", 1: "pos"}
    assert built.model.config.label2id == {"neg": 0, "pos": 1}
    assert built.model.config.num_labels == 2


def test_the_facts_name_the_checkpoint_without_its_path(checkpoint: Path, tmp_path: Path) -> None:
    facts = build(checkpoint).facts
    assert facts["architecture"] == "BertForSequenceClassification"
    assert facts["base_model"] == "small-bert"
    assert facts["revision"] is None
    assert facts["vocabulary_size"] == 10
    assert facts["max_positions"] == 32
    # Embeddings (10 + 32 + 2) * 16 + 32 = 736; a layer 4 * (16 * 16 + 16) + 32 + 16 * 24 + 24 + 24 * 16 + 16 + 32 = 1,960.
    assert facts["parameters"] == 736 + 3 * 1960 + 16 * 16 + 16 + 2 * 16 + 2
    assert str(tmp_path) not in json.dumps(facts)


def test_loading_says_nothing_and_leaves_the_library_as_talkative_as_it_was(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    verbosity = transformers.logging.get_verbosity()
    classifier = build(checkpoint)
    transformer.save(classifier, checkpoint.parent / "saved")
    transformer.load(checkpoint.parent / "saved")
    assert capfd.readouterr() == ("", "")
    assert transformers.logging.get_verbosity() == verbosity


def test_a_checkpoint_in_half_precision_becomes_float32(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    save_file({n: t.half() for n, t in weights.items()}, checkpoint / "model.safetensors", metadata={"format": "pt"})
    rewrite(checkpoint / "config.json", dtype="float16")
    assert {parameter.dtype for parameter in build(checkpoint).model.parameters()} == {torch.float32}


def test_random_weights_come_from_the_seed_and_not_from_the_checkpoint(checkpoint: Path) -> None:
    first, again, pretrained = build(checkpoint, pretrained=False), build(checkpoint, pretrained=False), build(checkpoint)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(first.model.get_parameter(name), again.model.get_parameter(name))
    assert not torch.equal(first.model.get_parameter(name), pretrained.model.get_parameter(name))
    assert first.facts["base_model"] is None
    assert first.facts["pretrained"] is False
    assert first.chain.names == pretrained.chain.names


def test_dropout_is_set_everywhere(checkpoint: Path) -> None:
    model = build(checkpoint, dropout=0.3).model
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.3}
    assert model.config.attention_probs_dropout_prob == 0.3
    kept = {module.p for module in build(checkpoint).model.modules() if isinstance(module, nn.Dropout)}
    assert kept == {0.1}  # BERT's own


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_dropout_reaches_every_dropout_of_an_architecture(name: str) -> None:
    config = copy.deepcopy(TRANSFORMERS[name])
    transformer.set_dropout(config, 0.3)
    rates = {module.p for module in small_model(config).modules() if isinstance(module, nn.Dropout)}
    assert rates <= {0.3}  # none at all in Llama, whose only dropout is a number in its attention
    assert rates or config.attention_dropout == 0.3


def test_a_head_for_the_same_classes_is_kept_and_every_other_is_new(checkpoint: Path, tmp_path: Path) -> None:
    trained = build(checkpoint)
    transformer.save(trained, tmp_path / "trained")
    head = trained.model.get_parameter("classifier.weight")
    kept = build(tmp_path / "trained")
    assert torch.equal(kept.model.get_parameter("classifier.weight"), head)
    assert kept.facts["new_parameters"] == []
    for labels in [("pos", "neg"), ("good", "bad")]:
        other = transformer.build(Transformer(checkpoint=str(tmp_path / "trained")), labels)
        assert not torch.equal(other.model.get_parameter("classifier.weight"), head)
        assert other.facts["new_parameters"] == ["classifier.bias", "classifier.weight"]
        assert torch.equal(
            other.model.get_parameter("bert.pooler.dense.weight"), trained.model.get_parameter("bert.pooler.dense.weight")
        )
    wider = transformer.build(Transformer(checkpoint=str(tmp_path / "trained")), ("a", "b", "c"))
    assert wider.model.get_parameter("classifier.weight").shape == (3, 16)
    assert wider.facts["new_parameters"] == ["classifier.bias", "classifier.weight"]


def test_gpt2_without_a_padding_token_pads_with_its_end_of_text(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=10, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=2, eos_token_id=3)
    small_model(config).save_pretrained(tmp_path)
    word_tokenizer(eos_token="[SEP]").save_pretrained(tmp_path)
    built = build(tmp_path)
    tokenizer: Any = built.preprocessor
    assert tokenizer.pad_token == "[SEP]"
    assert built.model.config.pad_token_id == 3
    alone = tokenizer(["good film"], return_tensors="pt")
    padded = tokenizer(["good film", "a not bad film"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = built.model(**padded).logits
        assert torch.allclose(logits[0], built.model(**alone).logits[0], atol=1e-6)


def test_a_padding_token_of_minus_one_is_none_and_the_tokenizers_is_taken(checkpoint: Path) -> None:
    rewrite(checkpoint / "config.json", pad_token_id=-1)
    built = build(checkpoint)
    tokenizer: Any = built.preprocessor
    assert built.model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert built.model.get_input_embeddings().padding_idx == 0


def test_roberta_holds_two_positions_fewer_than_its_table_has_rows(tmp_path: Path) -> None:
    config = {**SMALL, "max_position_embeddings": 34, "pad_token_id": 1}
    assert answers.max_positions(small_model(RobertaConfig(**config))) == 32
    tokens = torch.full((1, 32), 5)
    small_model(RobertaConfig(**config))(tokens)  # 32 fit
    with pytest.raises(RuntimeError, match="index 34 is out of bounds"):
        small_model(RobertaConfig(**config))(torch.full((1, 33), 5))


def test_a_hub_id_is_read_from_one_commit(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "cache" / "models--somebody--small-bert"
    shutil.copytree(checkpoint, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    facts = build("somebody/small-bert").facts
    assert facts["base_model"] == "somebody/small-bert"
    assert facts["revision"] == commit
    assert build("somebody/small-bert", revision=commit).facts["revision"] == commit
    with pytest.raises(RecipeError, match=r"is no folder here, and the Hub gave no config\.json of it"):
        build("somebody/small-bert", revision="v2")
    (cache / "snapshots" / commit / "model.safetensors").rename(cache / "snapshots" / commit / "pytorch_model.bin")
    with pytest.raises(RecipeError, match="hftl reads safetensors only"):
        build("somebody/small-bert")


# --- the head, and what an answer depends on --------------------------------------------------------------------------------------

XLNET = XLNetConfig(vocab_size=10, d_model=16, n_layer=2, n_head=2, d_inner=24, pad_token_id=0)


def saved_model(config: PreTrainedConfig, folder: Path, **tokens: str) -> Path:
    small_model(config).save_pretrained(folder)
    word_tokenizer(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", **tokens).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", [*TRANSFORMERS, "xlnet"])
def test_the_layer_that_gives_the_logits_is_drawn_anew_wherever_its_class_keeps_it(name: str, tmp_path: Path) -> None:
    config = copy.deepcopy(XLNET if name == "xlnet" else TRANSFORMERS[name])
    config.vocab_size, config.pad_token_id = 12, 0  # Qwen2's tokenizer adds a token of its own
    config.id2label, config.label2id = {0: "other", 1: "names"}, {"other": 0, "names": 1}
    saved_model(config, tmp_path)
    built = build(tmp_path)
    new: list[str] = built.facts["new_parameters"]
    [layer] = {parameter.rpartition(".")[0] for parameter in new}
    output = built.model.get_submodule(layer)
    assert isinstance(output, nn.Linear) and output.out_features == 2
    stored = load_file(tmp_path / "model.safetensors")
    for parameter, tensor in built.model.named_parameters():
        assert torch.equal(tensor, stored[parameter]) == (parameter not in new) or parameter.endswith("bias")


def test_the_head_of_xlm_roberta_is_its_own_class_and_not_the_last_of_the_body(tmp_path: Path) -> None:
    built = build(saved_model(XLMRobertaConfig(**{**SMALL, "id2label": {0: "a", 1: "b"}}), tmp_path))
    assert next(iter(dict(built.model.named_children()))) == "classifier"  # before the body
    assert built.facts["new_parameters"] == ["classifier.out_proj.bias", "classifier.out_proj.weight"]


def test_the_lists_of_xlm_are_one_list_of_layers() -> None:
    config = XLMConfig(vocab_size=10, emb_dim=16, n_layers=3, n_heads=2, max_position_embeddings=32, pad_token_id=0)
    chain = transformer.chain(small_model(config))
    assert chain.names == BODY
    for name in ("attentions.1.q_lin.weight", "layer_norm1.1.weight", "ffns.1.lin1.weight", "layer_norm2.1.weight"):
        assert chain.group_of(f"transformer.{name}") == "layer.1"


def fnet(folder: Path, **config: Any) -> Path:
    sizes = {key: value for key, value in SMALL.items() if key != "num_attention_heads"}
    return saved_model(FNetConfig(**{**sizes, **config}), folder)


def test_a_model_without_an_attention_mask_is_refused_before_its_weights_are_asked_for(tmp_path: Path) -> None:
    fnet(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="the answers of FNetForSequenceClassification depend on padding") as caught:
        build(tmp_path)
    assert "what is measured would not be what is served" in str(caught.value)
    assert "Choose an encoder such as BERT" in str(caught.value)


def test_a_head_of_zeros_does_not_hide_what_enters_it(tmp_path: Path) -> None:
    folder = fnet(tmp_path)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.zeros_(model.classifier.weight)
    with pytest.raises(RecipeError, match="depend on padding"):
        answers.check_answers(transformers.AutoTokenizer.from_pretrained(folder), model, "classifier")


def test_asking_a_model_leaves_its_weights_its_mode_and_the_random_numbers_as_they_were(checkpoint: Path) -> None:
    built = build(checkpoint)
    before = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    built.model.train()
    state = torch.get_rng_state()
    tokenizer: Any = built.preprocessor
    assert answers.check_answers(tokenizer, built.model, "classifier") == []
    assert torch.equal(torch.get_rng_state(), state)
    assert built.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.model.state_dict().items())


def test_a_difference_that_only_rounding_makes_is_none(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(checkpoint)
    before = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    tokenizer: Any = built.preprocessor
    monkeypatch.setattr(answers, "SAME_ANSWER", 1e-10)  # of float32's rounding every difference is more, of float64's none
    assert answers.check_answers(tokenizer, built.model, "classifier") == []
    after = built.model.state_dict()
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())
    with monkeypatch.context() as unable:
        unable.setattr(built.model, "double", lambda: None)
        with pytest.raises(RecipeError, match="depend on padding"):
            answers.check_answers(tokenizer, built.model, "classifier")
    with pytest.raises(RecipeError, match="depend on padding"):  # which is no rounding
        folder = fnet(tmp_path)
        answers.check_answers(tokenizer, transformers.AutoModelForSequenceClassification.from_pretrained(folder), "classifier")


def test_xlnet_reads_its_answer_off_the_last_token_and_so_pads_on_the_left(tmp_path: Path) -> None:
    built = build(saved_model(XLNET, tmp_path / "model"))
    tokenizer: Any = built.preprocessor
    assert tokenizer.padding_side == "left"
    [remark] = built.facts["remarks"]
    assert remark.startswith(
        "Texts are padded on the left: on the right, as the tokenizer would, padding changes the answers of XLNet"
    )
    assert built.facts["max_positions"] is None  # its config says -1
    transformer.save(built, tmp_path / "saved")
    again: Any = transformer.load(tmp_path / "saved").preprocessor
    assert again.padding_side == "left"


def test_gpt2_counts_positions_from_the_first_token_and_so_pads_on_the_right(tmp_path: Path) -> None:
    folder = saved_model(TRANSFORMERS["gpt2"], tmp_path, padding_side="left")
    built = build(folder)
    tokenizer: Any = built.preprocessor
    assert tokenizer.padding_side == "right"
    assert "Texts are padded on the right" in built.facts["remarks"][0]
    assert build(saved_model(TRANSFORMERS["llama"], tmp_path / "llama", padding_side="left")).facts["remarks"] == []  # either side


def test_bigbird_is_saved_as_what_a_short_text_makes_of_it(tmp_path: Path) -> None:
    built = build(saved_model(BigBirdConfig(**SMALL), tmp_path))
    assert built.model.config.attention_type == "original_full"
    assert "attends to every token" in built.facts["remarks"][0]


# --- what is refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", 'no such folder: "no/such/folder"'),
        ("/no/such/folder", 'no such folder: "/no/such/folder"'),
        ("nobody/nothing", "The Hub is switched off here (HF_HUB_OFFLINE)"),
        (__file__, "is a file; write the folder that holds it"),
    ],
)
def test_a_checkpoint_that_is_nowhere_is_refused_with_the_way_out(name: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build(name)
    assert message in str(caught.value)
    assert caught.value.problems[0].where == "model.checkpoint"


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_half_a_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20_000])


def without_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {n: t for n, t in weights.items() if ".layer.2." not in n}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def with_a_wider_layer(folder: Path) -> None:
    rewrite(folder / "config.json", intermediate_size=32)


def without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def with_a_larger_vocabulary(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["an", "eleventh"])
    tokenizer.save_pretrained(folder)


def with_another_padding(folder: Path) -> None:
    rewrite(folder / "config.json", pad_token_id=5)


def with_a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def without_a_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def with_a_wrong_type(folder: Path) -> None:
    rewrite(folder / "config.json", hidden_size="wide")


def with_an_unknown_type(folder: Path) -> None:
    rewrite(folder / "config.json", model_type="bort")


def with_a_picture_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}, "num_classes": 3}))


def with_code_of_its_own(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('this ran')")
    rewrite(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})


def test_a_checkpoint_one_folder_too_high_names_those_in_it(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "runs" / "first" / "model")
    with pytest.raises(RecipeError) as caught:
        build(tmp_path / "runs" / "first")
    assert f"has no config.json\n      checkpoints are in it: model.checkpoint={tmp_path}/runs/first/model" in str(caught.value)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without_weights, "hftl reads safetensors only"),
        (with_half_a_file, "has no weights that can be read"),
        (without_a_layer, "missing: bert.encoder.layer.2.attention.output.LayerNorm.bias"),
        (with_a_wider_layer, "missing: bert.encoder.layer.0.intermediate.dense.bias"),
        (without_a_tokenizer, "has no tokenizer: its vocabulary is empty"),
        (with_a_larger_vocabulary, "the tokenizer counts its tokens up to 11, the model has 10 embeddings, for 0 to 9"),
        (with_another_padding, "the tokenizer pads with token 0, the model with 5"),
        (with_a_config_that_is_no_json, "has a config.json that is not JSON"),
        (without_a_config, "has no config.json"),
        (with_a_wrong_type, "'hidden_size'"),
        (with_an_unknown_type, "`bort`"),
        (with_a_picture_model, 'is a "timm_wrapper" model, for which transformers has no text classifier'),
        (with_code_of_its_own, "hftl runs no code of a checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint: Path, break_it: Callable[[Path], None], message: str) -> None:
    break_it(checkpoint)
    with pytest.raises(RecipeError) as caught:
        build(checkpoint)
    assert message in str(caught.value)
    assert [problem.where for problem in caught.value.problems] == ["model.checkpoint"]


def test_a_missing_final_norm_is_refused_although_it_is_in_the_head(tmp_path: Path) -> None:
    model = small_model(TRANSFORMERS["llama"])
    model.save_pretrained(tmp_path)
    word_tokenizer(pad_token="[PAD]").save_pretrained(tmp_path)
    assert build(tmp_path).facts["new_parameters"] == ["score.weight"]  # LABEL_0 and LABEL_1 are other names
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"missing: model\.norm\.weight"):
        build(tmp_path)


def test_a_revision_of_a_local_folder_is_refused(checkpoint: Path) -> None:
    with pytest.raises(RecipeError, match=r'model.revision: "main": a local folder has no revisions'):
        build(checkpoint, revision="main")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_head_dropout_is_set_in_the_head_alone_or_refused(name: str) -> None:
    model = small_model(copy.deepcopy(TRANSFORMERS[name]))
    layers = transformer.chain(model)
    rates = {path: module.p for path, module in model.named_modules() if isinstance(module, nn.Dropout)}
    in_head = [path for path in rates if path in layers.modules["head"]]
    if not in_head:
        with pytest.raises(RecipeError, match=rf"model.head_dropout: {type(model).__name__} has no dropout in its head"):
            transformer.set_head_dropout(model, layers, 0.37)
        return
    transformer.set_head_dropout(model, layers, 0.37)
    now = {path: module.p for path, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert now == rates | dict.fromkeys(in_head, 0.37)
    if name != "mpnet":  # whose config has no word for it
        again = small_model(model.config)
        assert [module.p for path, module in again.named_modules() if path in in_head] == [0.37] * len(in_head)


def test_head_dropout_goes_over_dropout(checkpoint: Path) -> None:
    model: Any = build(checkpoint, dropout=0.1, head_dropout=0.4).model
    assert (model.dropout.p, model.config.classifier_dropout, model.bert.embeddings.dropout.p) == (0.4, 0.4, 0.1)


def test_a_text_model_has_no_stochastic_depth(checkpoint: Path) -> None:
    with pytest.raises(RecipeError, match=r"model.drop_path: a bert model has no stochastic depth; leave it out, and see model"):
        build(checkpoint, drop_path=0.1)


def test_the_last_layers_and_the_head_begin_anew(checkpoint: Path) -> None:
    whole, anew, again = build(checkpoint), build(checkpoint, reinitialize=2), build(checkpoint, reinitialize=2)
    before, after = whole.model.state_dict(), anew.model.state_dict()
    changed = {whole.chain.group_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"layer.1", "layer.2", "head"}
    # As the architecture draws them: normal numbers of its own deviation, and biases of 0.
    drawn = after["bert.encoder.layer.2.intermediate.dense.weight"]
    assert drawn.std() == pytest.approx(anew.model.config.initializer_range, rel=0.3)
    assert not after["bert.encoder.layer.2.intermediate.dense.bias"].any()
    assert all(torch.equal(tensor, again.model.state_dict()[name]) for name, tensor in after.items())  # by the seed
    assert anew.facts["reinitialized"] == ["layer.1", "layer.2", "head"]
    assert "bert.encoder.layer.1.output.dense.weight" in anew.facts["new_parameters"]
    assert "bert.encoder.layer.0.output.dense.weight" not in anew.facts["new_parameters"]
    assert "layer.1, layer.2, head begin with random weights (model.reinitialize=2)." in anew.facts["remarks"]
    with pytest.raises(
        RecipeError, match=r"model.reinitialize: 4 are more than the 3 layer groups between embeddings and the head"
    ):
        build(checkpoint, reinitialize=4)
    with pytest.raises(RecipeError, match=r"model.reinitialize: without pretrained weights all of them are random; leave it out"):
        build(checkpoint, reinitialize=1, pretrained=False)


def test_dropout_for_a_model_that_has_none_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.dropout: .* has no dropout"):
        transformer.set_dropout(PreTrainedConfig(), 0.1)


def test_a_tokenizer_without_padding_and_end_of_text_is_refused(tmp_path: Path) -> None:
    small_model(GPT2Config(vocab_size=10, n_embd=16, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3)).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="neither a padding token nor an end of text"):
        build(tmp_path)


# --- saving and loading ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_loads_with_equal_logits_here_and_in_a_pipeline(checkpoint: Path, tmp_path: Path) -> None:
    built = build(checkpoint)
    folder = tmp_path / "saved"
    transformer.save(built, folder)
    tokenizer: Any = built.preprocessor
    batch = tokenizer(["a good film", "not a good film [SEP] bad"], padding=True, return_tensors="pt")
    again = transformer.load(folder)
    with torch.no_grad():
        logits = built.model(**batch).logits
        assert torch.equal(again.model(**batch).logits, logits)
    assert again.chain.names == built.chain.names
    assert again.facts["parameters"] == built.facts["parameters"]
    answers: Any = pipeline("text-classification", model=str(folder), device="cpu")(["a good film"], top_k=None)
    assert {answer["label"]: answer["score"] for answer in answers[0]} == pytest.approx(
        dict(zip(LABELS, logits[0].softmax(0).tolist(), strict=True)), abs=1e-6
    )


def test_a_pipeline_that_truncates_cuts_where_training_did(checkpoint: Path, tmp_path: Path) -> None:
    built = build(checkpoint)
    tokenizer: Any = built.preprocessor
    tokenizer.model_max_length = 4  # as `build_classifier` sets it from data.max_length
    transformer.save(built, tmp_path / "saved")
    long, cut = "a good film " * 50, tokenizer(["a good film " * 50], max_length=4, truncation=True, return_tensors="pt")
    assert cut["input_ids"].shape == (1, 4)
    with torch.no_grad():
        expected = built.model(**cut).logits[0].softmax(0).tolist()
    classify: Any = pipeline("text-classification", model=str(tmp_path / "saved"), device="cpu")
    [answers] = classify([long], top_k=None, truncation=True)
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        dict(zip(LABELS, expected, strict=True)), abs=1e-6
    )


def test_what_is_saved_is_safetensors_and_names_no_path(checkpoint: Path, tmp_path: Path) -> None:
    transformer.save(build(checkpoint), tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    for path in (tmp_path / "saved").glob("*.json"):
        assert str(tmp_path) not in path.read_text()
        assert "small-bert" not in path.read_text()


def test_an_incomplete_model_folder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    transformer.save(build(checkpoint), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"is not complete; missing: classifier\.bias"):
        transformer.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match="has no weights that can be read"):
        transformer.load(folder)


@pytest.mark.shared
def test_bert_nano_has_the_groups_that_its_config_says(shared: Path) -> None:
    built = build(shared / "models" / "bert-nano")
    sizes = {
        group: sum(built.model.get_parameter(name).numel() for name in names) for group, names in built.chain.parameters.items()
    }
    # (8192 + 512 + 2) * 128 + 2 * 128 for the norm; pooler 128 * 128 + 128, classifier 2 * 128 + 2.
    layers = {f"layer.{i}": 198_272 for i in range(4)}
    assert sizes == {"embeddings": 1_114_624, **layers, "head": 16_770}
    stored = load_file(shared / "models" / "bert-nano" / "model.safetensors")
    assert torch.equal(
        built.model.get_parameter("bert.encoder.layer.3.output.dense.weight"), stored["bert.encoder.layer.3.output.dense.weight"]
    )
    body = AutoModel.from_pretrained(shared / "models" / "bert-nano", dtype=torch.float32, add_pooling_layer=False)
    tokenizer: Any = built.preprocessor
    batch = tokenizer(["A slow start, but what an ending."], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(built.model.base_model(**batch).last_hidden_state, body(**batch).last_hidden_state)
