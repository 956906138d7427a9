"""`hftl pretrain`: masks by hand, rows without padding, a loop that goes on bit for bit, a checkpoint that recipes start from."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import nano, reviews
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from hftl.data.masked_text import BEGINS, CONTINUES, SPECIAL, choose_words, pack
from hftl.models import masked_lm
from hftl.recipe import Recipe, Stage, Transformer, override
from hftl.samples import BERT_NANO
from hftl.signals import Stopped
from hftl.training import pretraining
from hftl.training.pretraining import Pretrained, PretrainSettings, pretrain


def recipe(*changes: str) -> Recipe:
    """Steps of 8 rows of 32 tokens, in float32."""
    data = reviews(20, 5, 5)
    return override(nano("pretrained", data, {"all": Stage(unfreeze="all", lr=1e-3)}, batch_size=8, checkpoint_minutes=60), changes)


def silent(line: str) -> None:
    pass


def run(folder: Path, *changes: str, resume: bool = False, **settings: Any) -> Pretrained:
    return pretrain(recipe(*changes), folder, PretrainSettings(**{"tokens": 8 * 32 * 6, **settings}), resume=resume, say=silent)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def facts_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "provenance.json").read_text())["pretraining"]
    return found


# --- rows and masks -------------------------------------------------------------------------------------------------------------


def test_texts_stand_one_after_the_other_in_rows_without_padding() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BERT_NANO)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    film, good = tokenizer("good film", add_special_tokens=False)["input_ids"]
    packed = pack(["good film", "film", "good good film"], tokenizer, length=6)
    # 4 of 6 places are for texts: good film . film | . good good film -> 9 tokens with the separators, 3 rows.
    assert packed.tokens.tolist() == [film, good, sep, good, sep, film, film, good, sep]
    assert [packed.row(number)[0].tolist() for number in range(len(packed))] == [
        [cls, film, good, sep, good, sep],
        [cls, sep, film, film, good, sep],
        [cls, film, film, good, sep, sep],  # reaches back, and is as long as the others
    ]
    assert packed.row(1)[1].tolist() == [SPECIAL, SPECIAL, BEGINS, BEGINS, BEGINS, SPECIAL]


def test_whole_words_are_masked_as_long_as_they_fit() -> None:
    # 20 tokens of which 15 % are 3: words of 2, 1, 4 tokens and 13 of one.
    kinds = np.array(
        [SPECIAL, BEGINS, CONTINUES, BEGINS, BEGINS, CONTINUES, CONTINUES, CONTINUES, *[BEGINS] * 13, SPECIAL], np.uint8
    )
    for seed in range(50):
        chosen = choose_words(kinds, np.random.default_rng(seed), share=0.15).tolist()
        assert len(chosen) == 3
        assert (1 in chosen) == (2 in chosen)
        assert not {4, 5, 6, 7} & set(chosen)
        assert not {0, 21} & set(chosen)


def test_a_row_that_begins_inside_a_word_masks_what_is_there_of_it_and_a_row_of_one_long_word_masks_that() -> None:
    kinds = np.array([SPECIAL, CONTINUES, CONTINUES, SPECIAL], np.uint8)
    assert choose_words(kinds, np.random.default_rng(0), share=0.15).tolist() == [1, 2]
    assert choose_words(np.array([SPECIAL, SPECIAL], np.uint8), np.random.default_rng(0), share=0.15).tolist() == []


def byte_pairs() -> PreTrainedTokenizerFast:
    """RoBERTa's kind: bytes, a word begins with its space."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", sep_token="</s>", pad_token="<pad>")


def sentence_pieces() -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's kind: pieces of which a word's first begins with the sign of a space."""
    pieces = [("<unk>", 0.0), *((piece, -1.0) for piece in ("▁", "▁go", "od", "▁film", "s", "bad"))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", sep_token="</s>", unk_token="<unk>")


def word_pieces() -> PreTrainedTokenizerFast:
    vocabulary = {name: n for n, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "go", "##od", "film", "##s"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", sep_token="[SEP]", unk_token="[UNK]")


@pytest.mark.parametrize(
    ("tokenizer", "kinds"),
    [
        (word_pieces(), [BEGINS, CONTINUES, BEGINS, CONTINUES]),  # go ##od film ##s
        (byte_pairs(), [BEGINS, *[CONTINUES] * 3, BEGINS, *[CONTINUES] * 5]),  # g o o d Ġ f i l m s
        (sentence_pieces(), [BEGINS, CONTINUES, BEGINS, CONTINUES]),  # ▁go od ▁film s
    ],
)
def test_words_are_those_of_the_tokenizer_of_each_kind(tokenizer: PreTrainedTokenizerFast, kinds: list[int]) -> None:
    packed = pack(["good films"], tokenizer, length=16)
    assert packed.kinds.tolist() == [*kinds, SPECIAL]


def test_a_word_of_many_tokens_counts_token_by_token_and_special_tokens_in_a_text_are_none() -> None:
    packed = pack(["a" * 11, "good <mask>"], byte_pairs(), length=16)
    assert packed.kinds[:12].tolist() == [BEGINS] * 11 + [SPECIAL]
    assert packed.kinds[12:].tolist() == [BEGINS, CONTINUES, CONTINUES, CONTINUES, BEGINS, SPECIAL, SPECIAL]


def test_of_the_masked_tokens_eight_in_ten_become_the_mask_one_another_and_one_stays() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BERT_NANO)
    packed = pack(["a good film and a bad film"] * 400, tokenizer, length=64)
    masked = packed.masked([(epoch, row) for epoch in range(20) for row in range(len(packed))], seed=0, share=0.15)
    flat = masked.inputs.flatten()
    assert len(masked.places) / (packed.kinds > 0).sum() == pytest.approx(20 * 0.15, rel=0.05)
    seen = flat[masked.places]  # some 8,000: four standard errors of the first share are 0.018
    assert (seen == tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.015)
    assert (seen == masked.targets).mean() == pytest.approx(0.1, abs=0.015)
    assert not np.isin(seen, [n for n in tokenizer.all_special_ids if n != tokenizer.mask_token_id]).any()
    # What is not masked is as it was.
    rest = np.setdiff1d(np.arange(flat.size), masked.places)
    whole = np.concatenate([packed.row(row)[0] for _ in range(20) for row in range(len(packed))])
    assert np.array_equal(flat[rest], whole[rest]) and np.array_equal(whole[masked.places], masked.targets)


def test_masks_depend_on_seed_epoch_and_row_alone() -> None:
    packed = pack(["a good film and a bad film"] * 60, AutoTokenizer.from_pretrained(BERT_NANO), length=64)
    both = packed.masked([(0, 3), (1, 3)], seed=0, share=0.15).inputs
    alone = packed.masked([(1, 3)], seed=0, share=0.15).inputs
    assert np.array_equal(both[1], alone[0]) and not np.array_equal(both[0], both[1])
    assert not np.array_equal(both[0], packed.masked([(0, 3)], seed=1, share=0.15).inputs[0])


def test_every_epoch_has_each_row_once_and_steps_go_on_into_the_next() -> None:
    packed = pack(["a good film"] * 50, AutoTokenizer.from_pretrained(BERT_NANO), length=16)
    rows = [place for step in range(2 * len(packed)) for place in packed.at_step(step, 3, seed=0)][: 3 * len(packed)]
    for epoch in range(3):
        assert sorted(row for e, row in rows if e == epoch) == list(range(len(packed)))
    assert [e for e, _ in rows] == sorted(e for e, _ in rows)


# --- the network ----------------------------------------------------------------------------------------------------------------


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 8192}


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("bert", SMALL),
        ("roberta", SMALL),
        ("distilbert", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 8192}),
        ("electra", {**SMALL, "embedding_size": 8}),
        ("deberta-v2", SMALL),
        ("modernbert", {**SMALL, "global_attn_every_n_layers": 1}),
        ("mpnet", SMALL),
        ("albert", {**SMALL, "embedding_size": 8}),
    ],
)
def test_the_head_is_computed_at_the_masked_places_alone_with_the_same_logits_and_gradients(
    model_type: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    config = AutoConfig.for_model(
        model_type, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, **settings
    )
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(BERT_NANO).save_pretrained(tmp_path)
    built = masked_lm.build(Transformer(checkpoint=str(tmp_path)), length=16)
    assert built.facts["head"] == "at masked places" and not built.facts["new_parameters"]
    rows, places = torch.randint(5, 8192, (2, 16)), torch.tensor([1, 7, 20, 31])
    found = []
    for cut in (False, True):
        built.model.cut = cut
        built.model.zero_grad()
        logits = built.model(rows, places)
        logits.logsumexp(-1).sum().backward()
        found.append((logits.detach(), {name: p.grad.clone() for name, p in built.model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)


# --- the loop -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return run(tmp_path_factory.mktemp("whole") / "checkpoint")


def test_both_kinds_of_model_load_the_checkpoint(whole: Pretrained) -> None:
    assert whole.facts["steps"] == 6 and len(whole.facts["curve"]) == 6
    _, masked = AutoModelForMaskedLM.from_pretrained(whole.path, output_loading_info=True)
    assert not masked["missing_keys"] and not masked["unexpected_keys"]
    _, classifier = AutoModelForSequenceClassification.from_pretrained(whole.path, output_loading_info=True)
    assert {name.split(".")[0] for name in classifier["missing_keys"]} <= {"classifier", "bert"}
    assert sorted(path.name for path in whole.path.iterdir()) == [
        *("config.json", "model.safetensors", "provenance.json", "tokenizer.json", "tokenizer_config.json"),
    ]


def test_a_run_that_is_stopped_between_steps_ends_with_the_same_bytes(
    whole: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, sessions = pretraining.take_step, 0

    def stopped(training: Any, step: int) -> float:
        loss = take(training, step)
        if step in (1, 2):  # of 6, from 0; an epoch has 3 or 4
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(pretraining, "take_step", stopped)
    while not (tmp_path / "run" / "provenance.json").is_file():
        sessions += 1
        with suppress(Stopped):
            run(tmp_path / "run", resume=sessions > 1)
    assert sessions == 3
    assert weights(tmp_path / "run") == weights(whole.path)
    ours, theirs = (facts_of(folder) for folder in (tmp_path / "run", whole.path))
    assert ours["held_out"] == theirs["held_out"] and ours["curve"] == theirs["curve"] and ours["sessions"] == 3
