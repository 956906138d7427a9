"""Transformers whose head reads all tokens: worked by hand, deaf to padding, a chain, and at home where hftl is not installed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from boundaries import TEXTS, compare
from small import rewrite
from small_models import SMALL, TRANSFORMERS, WORDS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    LayoutLMConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from hftl.errors import RecipeError
from hftl.models import load_classifier, pooling_modeling, save_classifier, transformer
from hftl.models.boundary import NotSeparable, find_boundary
from hftl.models.family import Classifier
from hftl.models.pooling_modeling import PooledForSequenceClassification, Pooling
from hftl.recipe import Recipe, Stage, TextData, Transformer
from hftl.sharing import export
from hftl.sharing.contents import foreign

LABELS = ("bad", "good", "neither")
T5 = T5Config(vocab_size=10, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2, pad_token_id=0, eos_token_id=3)
BART = BartConfig(
    vocab_size=10, d_model=16, encoder_layers=3, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    decoder_start_token_id=3, forced_eos_token_id=None,
)  # fmt: skip
ENCODERS: dict[str, PreTrainedConfig] = {
    **{name: TRANSFORMERS[name] for name in ("bert", "distilbert", "roberta", "electra", "deberta-v3", "modernbert", "mpnet")},
    "t5": T5,
    "bart": BART,
}
THREE_LAYERS = ("embeddings", "layer.0", "layer.1", "layer.2", "head")


def word_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def saved(config: PreTrainedConfig, folder: Path) -> Path:
    """An encoder by itself, as it comes from pretraining."""
    config.pad_token_id = 0
    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    word_tokenizer().save_pretrained(folder)
    return folder


def evaluated(model: Any) -> Any:
    """The model, in evaluation mode."""
    return model.eval()


def build(folder: Path, **recipe: Any) -> Classifier:
    torch.manual_seed(0)
    return transformer.build(Transformer(checkpoint=str(folder), **recipe), LABELS)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bert"
    torch.manual_seed(1)
    BertForMaskedLM(BertConfig(**SMALL)).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def test_what_stands_at_padding_does_not_reach_the_vector_of_a_text() -> None:
    # Two tokens of two numbers, and padding that says 100 and nan; then padding on the left.
    nan = float("nan")
    states = torch.tensor([[[1.0, 4.0], [3.0, -2.0], [100.0, nan]], [[nan, 100.0], [1.0, 4.0], [3.0, -2.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert Pooling("mean", 2)(states, mask).tolist() == [[2.0, 1.0], [2.0, 1.0]]
    assert Pooling("max", 2)(states, mask).tolist() == [[3.0, 4.0], [3.0, 4.0]]
    attention = Pooling("attention", 2)
    assert attention.score is not None
    with torch.no_grad():
        attention.score.bias.zero_()
        attention.score.weight.zero_()
        assert attention(states.nan_to_num(), mask).tolist() == [[2.0, 1.0], [2.0, 1.0]]  # it starts as the mean
        attention.score.weight.copy_(torch.tensor([[torch.tensor(3.0).log() / 2, 0.0]]))
    # Scores of log(3)/2 and 3 log(3)/2 differ by log 3: weights of 1/4 and 3/4.
    expected = torch.tensor([[2.5, -0.5], [2.5, -0.5]])
    torch.testing.assert_close(attention(states.nan_to_num(), mask), expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_a_chain_under_a_new_head_and_keeps_its_weights(name: str, tmp_path: Path) -> None:
    folder = saved(ENCODERS[name], tmp_path)
    pooling = "max" if name == "modernbert" else "mean"
    built = build(folder, pooling=pooling)
    model: Any = built.model
    assert isinstance(model, PooledForSequenceClassification)
    assert built.chain.names == THREE_LAYERS
    assert built.chain.parameters["head"][-2:] == ("head.linear.weight", "head.linear.bias")
    assert built.facts["new_parameters"] == ["head.linear.bias", "head.linear.weight"]
    whole: Any = AutoModel.from_pretrained(folder)
    encoder = whole.get_encoder() if whole.config.is_encoder_decoder else whole
    inputs = {name: tensor[:1, :4] for name, tensor in TEXTS.items()}
    with torch.no_grad():
        states = evaluated(encoder)(**inputs).last_hidden_state
        features = states.mean(dim=1) if pooling == "mean" else states.max(dim=1).values
        torch.testing.assert_close(evaluated(model)(**inputs).logits, model.head(features))
    if name == "bart":  # as BioGPT's: its class drops with a function, which knows no frozen part
        with pytest.raises(NotSeparable, match="what enters it is random in training"):
            compare(model, built.chain, TEXTS, 4)
        return
    boundary = compare(model, built.chain, TEXTS, 4)
    # Where a norm comes after the last layer it is of the head, and reads all tokens; else one vector a text is kept.
    norm = {"modernbert": "encoder.final_norm", "t5": "encoder.final_layer_norm"}.get(name)
    assert (boundary.entry_module, boundary.per_token) == (norm or "head.dropout", norm is not None)


def test_modernbert_takes_the_mean_by_its_own_config_and_travels_without_code(tmp_path: Path) -> None:
    built = build(saved(TRANSFORMERS["modernbert"], tmp_path / "base"), pooling="mean")
    assert type(built.model).__name__ == "ModernBertForSequenceClassification"
    assert built.model.config.classifier_pooling == "mean"
    save_classifier(built, tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_native_is_the_class_of_transformers_bit_by_bit(bert: Path) -> None:
    model = evaluated(build(bert).model)
    assert type(model).__name__ == "BertForSequenceClassification"
    torch.manual_seed(0)
    again = transformer.build(Transformer(checkpoint=str(bert), pooling="native"), LABELS).model
    with torch.no_grad():
        assert torch.equal(model(**TEXTS).logits, again(**TEXTS).logits)


def test_attention_is_entered_with_all_tokens_where_it_trains(bert: Path) -> None:
    built = build(bert, pooling="attention", dropout=0.3)
    assert built.model.config.dropout == built.model.encoder.config.hidden_dropout_prob == 0.3  # type: ignore[union-attr]
    assert built.facts["new_parameters"] == ["head.linear.bias", "head.linear.weight", "pooling.score.bias", "pooling.score.weight"]
    boundary = compare(built.model, built.chain, TEXTS, 4)
    assert boundary.entry_module == "pooling" and boundary.per_token


def test_a_layer_in_the_middle_is_a_boundary_of_a_pooled_encoder_too(bert: Path) -> None:
    built = build(bert, pooling="mean")
    assert compare(built.model, built.chain, TEXTS, 2).entry_module == "encoder.encoder.layer.1"


def test_what_is_saved_is_loaded_with_equal_logits_and_can_be_built_upon(bert: Path, tmp_path: Path) -> None:
    built = build(bert, pooling="attention")
    save_classifier(built, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("config.json", "model.safetensors", "pooling_modeling.py", "tokenizer.json", "tokenizer_config.json")
    ]
    assert list(foreign(tmp_path, [path.name for path in tmp_path.iterdir()])) == []
    again = load_classifier(tmp_path)
    assert again.chain.names == built.chain.names and again.facts["max_positions"] == 32
    with torch.no_grad():
        assert torch.equal(evaluated(again.model)(**TEXTS).logits, evaluated(built.model)(**TEXTS).logits)
    kept = build(tmp_path)  # "native" is what the checkpoint has
    assert kept.facts["new_parameters"] == [] and kept.model.config.pooling == "attention"
    other = build(tmp_path, pooling="max")
    assert other.model.config.pooling == "max" and other.facts["new_parameters"] == ["head.linear.bias", "head.linear.weight"]
    (tmp_path / "pooling_modeling.py").write_text("raise SystemExit('the file in the folder was run')")
    load_classifier(tmp_path)
    found = dict(foreign(tmp_path, ["config.json", "pooling_modeling.py"]))
    assert found["pooling_modeling.py"].startswith("other code than hftl's own")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pooling": "median"}, 'pooling is "median"'),
        ({"encoder": None}, "the encoder's model_type is None"),
        ({"encoder": {"model_type": "hftl_pooled"}}, "the encoder's model_type is 'hftl_pooled'"),
        ({"encoder": {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}}, "Unrecognized model identifier: evil"),
        ({"encoder": {"model_type": "bert", "num_hidden_layers": 10**9}}, 'has "num_hidden_layers": 1,000,000,000'),
        ({"encoder": {"model_type": "bert", "_attn_implementation": "eve/evil"}}, "It names code that transformers may fetch"),
    ],
)
def test_an_encoder_that_makes_no_sense_is_refused(bert: Path, values: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_classifier(build(bert, pooling="mean"), tmp_path)
    rewrite(tmp_path / "config.json", **values)
    with pytest.raises(RecipeError) as caught:
        build(tmp_path)
    assert message in str(caught.value)


def test_an_encoder_decoder_is_refused_before_its_weights_are_asked_for_with_the_way_to_its_encoder(tmp_path: Path) -> None:
    for name, config in (("t5", T5), ("bart", BART)):
        config.save_pretrained(tmp_path / name)  # neither a tokenizer nor weights
        with pytest.raises(RecipeError, match=r"Write model\.pooling=mean to take its encoder alone"):
            build(tmp_path / name)


def test_t5_biases_of_its_first_layer_serve_all_so_that_only_the_head_can_be_entered(tmp_path: Path) -> None:
    built = build(saved(T5, tmp_path), pooling="mean")
    with pytest.raises(NotSeparable):
        find_boundary(built.model, built.chain, built.chain.names[2:], TEXTS)


def test_an_encoder_with_a_layer_over_its_first_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.pooling: LayoutLMModel .* leave model.pooling out"):
        build(saved(LayoutLMConfig(**SMALL), tmp_path), pooling="mean")


def test_the_modelling_file_imports_torch_and_transformers_only() -> None:
    tree = ast.parse(Path(pooling_modeling.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(module).split(".")[0] for module in modules} <= {
        "__future__",
        "collections",
        "inspect",
        "torch",
        "transformers",
        "typing",
    }


STRANGER = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
answers = []
for folder in sys.argv[1:]:
    served = pipeline("text-classification", model=folder, trust_remote_code=True, device="cpu", dtype=torch.float32)
    answers.append([served(text, top_k=None, function_to_apply="none") for text in ("good film", "a bad film not good")])
    assert type(served.model).__module__.startswith("transformers_modules."), type(served.model).__module__
assert "hftl" not in sys.modules
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_a_pipeline_serves_it_where_hftl_is_not_installed(bert: Path, tmp_path: Path) -> None:
    built = {name: build(base, pooling="mean") for name, base in (("bert", bert), ("t5", saved(T5, tmp_path / "base")))}
    for name, classifier in built.items():
        classifier.preprocessor.model_max_length = 32  # type: ignore[union-attr]
        save_classifier(classifier, tmp_path / name)
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", STRANGER, *(str(tmp_path / name) for name in built)],
        cwd=home,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for classifier, answers in zip(built.values(), json.loads(done.stdout.splitlines()[-1]), strict=True):
        tokenizer: Any = classifier.preprocessor
        for text, answer in zip(("good film", "a bad film not good"), answers, strict=True):
            with torch.no_grad():
                logits = evaluated(classifier.model)(**tokenizer(text, return_tensors="pt")).logits[0]
            assert {row["label"]: row["score"] for row in answer} == pytest.approx(
                dict(zip(LABELS, logits.tolist(), strict=True)), abs=1e-5
            )


@pytest.mark.slow
def test_it_is_exported_with_equal_logits_for_any_batch_and_padding(bert: Path, tmp_path: Path) -> None:
    built = build(bert, pooling="attention")
    recipe = Recipe(
        name="x",
        data=TextData(source="x", max_length=16),
        model=Transformer(checkpoint="x", pooling="attention"),
        stages={"head": Stage(unfreeze="head", lr=1e-3, epochs=1)},
    )
    batches = export.batches_to_compare(recipe, built)
    assert len(batches) > 3
    expected = [export.saved_logits(evaluated(built.model), batch) for batch in batches]
    with export._quiet():
        export._write(built.model, recipe, batches[0], tmp_path / export.FILE)
    assert export.compare(tmp_path / export.FILE, batches, expected) < 1e-4
