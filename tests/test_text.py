"""Tokenised texts: the cut is the tokenizer's own, counts are worked out by hand, padding is the tokenizer's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hftl.data.text import TextSamples, text_facts
from hftl.errors import RecipeError
from hftl.models.glove_modeling import (
    BiLSTMForSequenceClassification,
    GloveBiLSTMConfig,
    GloveTextCNNConfig,
    TextCNNForSequenceClassification,
)

WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "good": 5, "film": 6, "bad": 7}
FEATURES = Features({"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})


def dataset(texts: list[str]) -> Dataset:
    rows = {"id": [f"train/{row}" for row in range(len(texts))], "text": texts, "label": [row % 2 for row in range(len(texts))]}
    return Dataset.from_dict(rows, features=FEATURES)


def word_level(*, special: bool, **settings: Any) -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", **settings)  # type: ignore[no-untyped-call]
    assert isinstance(made, PreTrainedTokenizerBase)
    return made


def ids_of(samples: TextSamples) -> list[list[int]]:
    return [samples[0, index]["input_ids"].tolist() for index in range(len(samples))]


def test_a_long_text_is_cut_between_its_special_tokens() -> None:
    samples = TextSamples(dataset(["a good film a", "bad"]), word_level(special=True), max_length=5)
    assert ids_of(samples) == [[2, 4, 5, 6, 3], [2, 7, 3]]
    assert samples.lengths.tolist() == [5, 3]
    assert samples.full_lengths.tolist() == [6, 3]


def test_a_word_level_tokenizer_without_special_tokens_works() -> None:
    samples = TextSamples(dataset(["a good strange film", "bad"]), word_level(special=False), max_length=3)
    assert ids_of(samples) == [[4, 5, 1], [7]]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [3, 4, 50])
def test_the_cut_is_the_tokenizers_own_truncation(special: bool, side: str, max_length: int) -> None:
    texts = ["a good film", "bad", "", "a a a good good good film film", "[SEP] a bad [CLS] film [SEP]"]
    tokenizer = word_level(special=special, truncation_side=side)
    expected = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    expected = [ids or [1] for ids in expected]
    assert ids_of(TextSamples(dataset(texts), tokenizer, max_length=max_length)) == expected


def test_of_head_and_tail_both_ends_stay_and_the_special_tokens_with_them() -> None:
    tokenizer = word_level(special=True)
    tokenizer.init_kwargs["head_and_tail"] = [2, 4]
    samples = TextSamples(dataset(["a good film a bad bad good film", "a good film a"]), tokenizer, max_length=6)
    assert ids_of(samples) == [[2, 4, 7, 5, 6, 3], [2, 4, 5, 6, 4, 3]]  # [CLS] a, bad good film [SEP]
    facts = text_facts(samples)
    assert (facts["truncate"], facts["share_truncated"], facts["share_lost"]) == ("head+tail", 0.5, 4 / 16)
    tokenizer.truncation_side = "left"
    del tokenizer.init_kwargs["head_and_tail"]
    cut = TextSamples(dataset(["a good film a bad bad good film", "a good film a"]), tokenizer, max_length=6)
    assert ids_of(cut) == [[2, 7, 7, 5, 6, 3], [2, 4, 5, 6, 4, 3]] and text_facts(cut)["truncate"] == "tail"
    assert samples.fingerprint != cut.fingerprint


def test_a_tokenizer_file_with_its_own_truncation_and_padding_is_not_obeyed() -> None:
    tokenizer = word_level(special=False)
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    samples = TextSamples(dataset(["a good film", "bad"]), tokenizer, max_length=4)
    assert ids_of(samples) == [[4, 5, 6], [7]]


def test_an_empty_text_becomes_one_unknown_token_where_there_are_no_special_ones() -> None:
    samples = TextSamples(dataset(["", "  ", "film"]), word_level(special=False), max_length=4)
    assert ids_of(samples) == [[1], [1], [6]]
    assert samples.lengths.tolist() == [1, 1, 1]
    assert text_facts(samples)["empty"] == 2
    assert ids_of(TextSamples(dataset([""]), word_level(special=True), max_length=4)) == [[2, 3]]


def test_facts_are_counted_at_tokenisation() -> None:
    # Lengths with [CLS] and [SEP]: 3, 5, 7, 2; two of four are over 4. Seen words: 1 + 2 + 2 + 0, one of them unknown ("odd").
    samples = TextSamples(dataset(["film", "a odd film", "a good bad film film", ""]), word_level(special=True), max_length=4)
    expected = {
        "length_mean": 17 / 4,
        "length_median": 4,
        "max_length": 4,
        "share_truncated": 0.5,
        "share_lost": 4 / 17,
        "truncate": "head",
        "share_unknown": 0.2,
        "empty": 1,
    }
    # 95 %: position 0.95 * 3 = 2.85 of the sorted lengths 2, 3, 5, 7, so 5 + 0.85 * 2.
    assert text_facts(samples) == pytest.approx(expected | {"length_p95": 6.7})


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_as_the_tokenizer_pads_it(side: str) -> None:
    tokenizer = word_level(special=True, padding_side=side)
    samples = TextSamples(dataset(["a good film", "bad", "", "film film"]), tokenizer, max_length=8)
    items = [samples[0, index] for index in (3, 0, 2)]
    batch = samples.collate(items)
    rows = {"input_ids": [item["input_ids"].tolist() for item in items]}
    expected = tokenizer.pad(rows, pad_to_multiple_of=8, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert samples.targets.tolist() == [0, 1, 0, 1]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_a_batch_is_never_wider_than_the_longest_sample_may_be() -> None:
    # Of 12 positions a model may have no 13th: 9 and 12 tokens would be padded to 16.
    samples = TextSamples(dataset(["a " * 30, "a " * 7, "a"]), word_level(special=True), max_length=12)
    widths = [samples.collate([samples[0, index]])["input_ids"].shape[1] for index in range(3)]
    assert samples.lengths.tolist() == [12, 9, 3] and widths == [12, 12, 8]


def test_a_batch_of_many_short_texts_is_padded_to_a_multiple_of_two() -> None:
    samples = TextSamples(dataset(["a " * 7, "a", "a a a"] * 334), word_level(special=True), max_length=12)  # 9, 3, 5 tokens
    assert [samples.collate([samples[0, index]])["input_ids"].shape[1] for index in range(3)] == [10, 4, 6]


def test_the_fingerprint_is_of_what_the_model_sees_and_not_of_how_it_is_stored(tmp_path: Path) -> None:
    texts = ["a good film", "bad", "film film", "a"]
    made = TextSamples(dataset(texts), word_level(special=True), max_length=6).fingerprint
    path = str(tmp_path / "train.parquet")
    dataset(texts).to_parquet(path)
    stored = Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))
    assert isinstance(stored, Dataset)
    parts = concatenate_datasets([dataset(texts[:1]), dataset(texts[1:])])
    again = [
        TextSamples(same, word_level(special=True), max_length=length).fingerprint
        for same, length in ((stored, 6), (parts, 6), (dataset(["x", *texts]).select(range(1, 5)), 6), (dataset(texts), 5))
    ]
    assert set(again) == {made} and len(made) == 64
    others = [
        TextSamples(dataset(["a good", "film bad", *texts[2:]]), word_level(special=False), max_length=6),
        TextSamples(dataset(texts), word_level(special=False), max_length=6),
        TextSamples(dataset(texts), word_level(special=True), max_length=4),
        TextSamples(dataset(texts), word_level(special=True, padding_side="left"), max_length=6),
        TextSamples(dataset(texts[::-1]), word_level(special=True), max_length=6),
    ]
    assert len({made, *(samples.fingerprint for samples in others)}) == 6


@torch.inference_mode()
def test_padding_on_to_a_multiple_of_eight_does_not_change_the_logits() -> None:
    texts = ["a good film a bad film a good film", "bad film bad", ""]
    torch.manual_seed(0)
    bert = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
        )
    )
    sizes: dict[str, Any] = {"vocab_size": len(WORDS), "vector_dim": 8}
    poolings: tuple[Literal["ends", "max", "mean"], ...] = ("ends", "max", "mean")
    cases: list[tuple[PreTrainedModel, bool]] = [
        (bert, True),
        (TextCNNForSequenceClassification(GloveTextCNNConfig(**sizes, channels=5)), False),
        *((BiLSTMForSequenceClassification(GloveBiLSTMConfig(**sizes, pooling=pooling)), False) for pooling in poolings),
    ]
    for model, special in cases:
        model.eval()  # type: ignore[no-untyped-call]
        samples = TextSamples(dataset(texts), word_level(special=special), max_length=16)
        batch = samples.collate([samples[0, index] for index in range(3)])
        longest = int(samples.lengths.max())
        assert batch["input_ids"].shape == (3, 16) and longest in (9, 11)
        wide, tight = (
            model(input_ids=batch["input_ids"][:, :width], attention_mask=batch["attention_mask"][:, :width]).logits
            for width in (16, longest)
        )
        assert tight.std() > 1e-4
        torch.testing.assert_close(wide, tight, rtol=1e-5, atol=1e-6)


def test_tokens_on_disk_are_found_again_and_another_length_is_not_mistaken_for_them(tmp_path: Path) -> None:
    path = str(tmp_path / "train.parquet")
    dataset(["a good film", "bad"]).to_parquet(path)
    stored = Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))
    assert isinstance(stored, Dataset)
    tokenizer = word_level(special=True)

    def token_files() -> set[str]:
        return {file.name for file in tmp_path.glob("cache/**/cache-*.arrow")}

    TextSamples(stored, tokenizer, max_length=4)
    once = token_files()
    assert len(once) == 1
    tokenizer("a", truncation=True, max_length=3, padding="max_length")  # changes the tokenizer's state, not its tokens
    TextSamples(stored, tokenizer, max_length=4)
    assert token_files() == once
    assert ids_of(TextSamples(stored, tokenizer, max_length=3))[0] == [2, 4, 3]
    assert len(token_files()) == 2


def test_a_length_without_room_and_a_missing_padding_token_come_in_one_report() -> None:
    tokenizer = word_level(special=True)
    tokenizer.pad_token = None
    with pytest.raises(RecipeError) as caught:
        TextSamples(dataset(["a"]), tokenizer, max_length=2)
    assert [problem.where for problem in caught.value.problems] == ["model", "data.max_length"]


def test_real_reviews_are_cut_as_the_real_tokenizer_cuts_them(shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "bert-nano")
    texts = pq.read_table(shared / "data" / "imdb" / "test.parquet").column("text")[:300].to_pylist()
    samples = TextSamples(dataset(texts), tokenizer, max_length=128)
    assert ids_of(samples) == tokenizer(texts, truncation=True, max_length=128)["input_ids"]
    whole = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    assert samples.full_lengths.tolist() == whole
    assert text_facts(samples)["share_truncated"] == np.mean([length > 128 for length in whole])
