"""`hftl pretrain`: masks by hand, rows without padding, a loop that goes on bit for bit, a checkpoint that recipes start from."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Hftl
from datasets import Dataset
from forked import Forks
from safetensors.torch import load_file
from sittings import environment
from small import BERT_NANO, nano, noisy_pictures, quiet, reviews
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

import hftl
from hftl.data.masked_text import BEGINS, CONTINUES, SPECIAL, choose_words, pack
from hftl.data.unlabelled import Texts, hold_out
from hftl.errors import RecipeError, RunError
from hftl.files import write_json
from hftl.models import masked_lm
from hftl.recipe import Recipe, Stage, TextCNN, Transformer, override
from hftl.signals import Stopped
from hftl.training import pretraining
from hftl.training.pretraining import Pretrained, plan_pretraining, pretrain
from hftl.training.pretraining_task import PretrainSettings


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
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", sep_token="</s>", pad_token="<pad>")  # type: ignore[no-untyped-call]


def sentence_pieces() -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's kind: pieces of which a word's first begins with the sign of a space."""
    pieces = [("<unk>", 0.0), *((piece, -1.0) for piece in ("▁", "▁go", "od", "▁film", "s", "bad"))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", sep_token="</s>", unk_token="<unk>")  # type: ignore[no-untyped-call]


def word_pieces() -> PreTrainedTokenizerFast:
    vocabulary = {name: n for n, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "go", "##od", "film", "##s"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", sep_token="[SEP]", unk_token="[UNK]")  # type: ignore[no-untyped-call]


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
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
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


class Killed(BaseException):
    """Stands for SIGKILL: nothing is done any more, and what is on the disk is all that is left."""


def test_a_run_that_is_stopped_and_killed_ends_with_the_same_bytes(
    whole: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, sessions = pretraining.take_step, 0

    def interrupted(training: Any, step: int) -> float:
        if (step, sessions) == (3, 2):
            raise Killed
        loss = take(training, step)
        if (step, sessions) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    def killed_at_the_end(path: Path, value: Any) -> None:
        if sessions == 3:
            raise Killed
        write_json(path, value)

    monkeypatch.setattr(pretraining, "take_step", interrupted)
    monkeypatch.setattr("hftl.training.pretraining.write_json", killed_at_the_end)
    while not (tmp_path / "run" / "provenance.json").is_file():
        sessions += 1
        with suppress(Stopped, Killed):
            run(tmp_path / "run", "run.checkpoint_minutes=0", resume=sessions > 1)  # a checkpoint after each of the 6 steps
    assert sessions == 4
    assert weights(tmp_path / "run") == weights(whole.path)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(path.name for path in whole.path.iterdir())
    ours, theirs = (facts_of(folder) for folder in (tmp_path / "run", whole.path))
    assert ours["held_out"] == theirs["held_out"] and ours["curve"] == theirs["curve"] and ours["sessions"] == 4


def test_what_was_begun_goes_on_as_itself_alone_and_nothing_is_written_over(whole: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="pretrained to its end, and is not written over"):
        run(whole.path)
    with pytest.raises(RunError, match="nothing to go on with"):
        run(tmp_path / "run", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(RunError, match="is not empty"):
        run(tmp_path / "other")

    def stopped(training: Any, step: int) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(pretraining, "take_step", stopped)
        run(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]
    with pytest.raises(RunError, match="was begun and stopped"):
        run(tmp_path / "run")
    with pytest.raises(RunError, match=r"this is not what was begun there:\n  mask: 0.15 -> 0.3\n"):
        run(tmp_path / "run", resume=True, mask=0.3)


def test_accumulation_and_a_micro_batch_of_one_row_change_no_more_than_rounding(tmp_path: Path) -> None:
    changes = ("run.gradient_accumulation=3", "run.tokens_per_batch=32", "model.dropout=0")
    two_steps = 8 * 32 * 2
    pieces, at_once = (run(tmp_path / name, *changes[n:], tokens=two_steps) for n, name in ((0, "pieces"), (2, "at-once")))
    np.testing.assert_allclose(pieces.losses, at_once.losses, rtol=1e-4)
    first = [point["loss"] for point in pieces.facts["curve"]]
    np.testing.assert_allclose(first, [point["loss"] for point in at_once.facts["curve"]], rtol=1e-3)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(forks: Forks, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe("model.dropout=0").to_yaml())
    folders = [tmp_path / str(size) for size in (1, 2)]
    for size, folder in enumerate(folders, 1):
        arguments = ("pretrain", str(path), "--tokens", str(8 * 32 * 6), "--lr", "1e-4", "--output", str(folder))
        command = forks.start(*arguments, environment=environment(several=size > 1), processes=size)
        _, said = command.communicate(timeout=300)
        assert command.returncode == 0, said
        assert said.count("perplexity of a masked token") == 1
    one, two = (facts_of(folder) for folder in folders)
    assert (one["processes"], two["processes"]) == (1, 2)
    for key in ("curve", "held_out"):
        np.testing.assert_allclose([p["loss"] for p in one[key]], [p["loss"] for p in two[key]], rtol=1e-4)


# --- from a folder, and what comes of it ----------------------------------------------------------------------------------------


def architecture(folder: Path) -> Path:
    """A folder with a configuration and a tokenizer, and no weights."""
    AutoConfig.for_model("bert", **SMALL, pad_token_id=0, max_position_embeddings=32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BERT_NANO).save_pretrained(folder)
    return folder


def test_an_architecture_without_weights_is_pretrained_from_random_ones(tmp_path: Path) -> None:
    folder = architecture(tmp_path / "small")
    changes = (f"model.checkpoint={folder}", "model.pretrained=false")
    made = run(tmp_path / "made", *changes, epochs=4, tokens=None, lr=1e-2)
    # 8,192 tokens that are all alike cost ln 8192 = 9.01.
    assert made.losses[0] == pytest.approx(9.01, abs=0.1) and made.losses[-1] < 8.5
    assert not made.facts["base"]["pretrained"] and made.facts["base"]["weights"] == []
    _, report = AutoModelForMaskedLM.from_pretrained(made.path, output_loading_info=True)
    assert not report["missing_keys"]


def test_the_layer_over_the_first_token_stays_as_it_came(tmp_path: Path) -> None:
    config = AutoConfig.for_model("bert", **SMALL, pad_token_id=0, max_position_embeddings=32)
    torch.manual_seed(0)
    before = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    before.save_pretrained(tmp_path / "encoder")
    AutoTokenizer.from_pretrained(BERT_NANO).save_pretrained(tmp_path / "encoder")
    lines = list[str]()
    settings = PretrainSettings(tokens=8 * 32 * 2)
    made = pretrain(recipe(f"model.checkpoint={tmp_path / 'encoder'}"), tmp_path / "made", settings, say=lines.append)
    assert any("no head that guesses masked tokens: cls.predictions.bias" in line for line in lines)
    after = load_file(made.path / "model.safetensors")
    assert torch.equal(after["bert.pooler.dense.weight"], before.state_dict()["pooler.dense.weight"])
    assert not torch.equal(
        after["bert.encoder.layer.0.output.dense.weight"], before.state_dict()["encoder.layer.0.output.dense.weight"]
    )
    _, report = AutoModelForSequenceClassification.from_pretrained(made.path, output_loading_info=True)
    assert sorted(report["missing_keys"]) == ["classifier.bias", "classifier.weight"]


def test_plan_run_and_card_of_a_recipe_that_starts_from_it_say_how_it_was_pretrained(whole: Pretrained, tmp_path: Path) -> None:
    changed = recipe(f"model.checkpoint={whole.path}", "model.pooling=mean")
    expected = (
        "pretrained further, from bert-nano on 20 texts without their labels (train 20) by hftl pretrain: 6 steps, 1,536 tokens"
    )
    assert any(expected in remark for remark in hftl.plan(changed).remarks)
    trained = hftl.train(changed, run_dir=tmp_path / "run", console=quiet())
    assert expected in trained.paths.card.read_text(encoding="utf-8")
    further = json.loads(trained.paths.data.read_text())["model"]["pretraining"]
    assert further["losses"] == [whole.losses[0], whole.losses[-1]] and further["sha256"] == whole.facts["file"]["sha256"]
    other = tmp_path / "changed"
    shutil.copytree(whole.path, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-4] ^= 1  # the last bit of a number, which no answer depends on
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(RecipeError, match="says how other weights were pretrained"):
        hftl.plan(recipe(f"model.checkpoint={other}"))


def test_the_texts_that_are_held_out_are_not_learned_from_and_equal_ones_are_on_one_side(tmp_path: Path) -> None:
    texts = [f"review number {number} of a film" for number in range(60)]
    dataset = Dataset.from_dict({"text": [*texts, *texts[:30]]})
    kept, held = hold_out([Texts("train", dataset, {})], seed=0)
    assert len({*held[0].texts}) == 6  # a tenth of 60
    assert not {*kept[0].texts} & {*held[0].texts} and {*kept[0].texts} | {*held[0].texts} == {*texts}
    with pytest.raises(ValueError, match="1 different texts"):
        hold_out([Texts("train", Dataset.from_dict({"text": ["one", "ONE "]}), {})], seed=0)


# --- the command ----------------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_tokens_steps_and_minutes_and_writes_nothing(tmp_path: Path) -> None:
    # 37 rows of 32 tokens: two epochs of 74 rows are 9.25 steps of 8.
    plan = plan_pretraining(recipe(), PretrainSettings(epochs=2), say=silent)
    assert "in 37 rows of 32 tokens" in str(plan)
    assert (plan.steps, plan.tokens) == (9, 9 * 8 * 32)
    assert "2,304 tokens, 1.9 times the texts: 9 steps of 8 rows" in str(plan)
    assert re.search(r"tokens a second here, by 3 steps: about \d+ s; memory", str(plan))


def without_a_mask(folder: Path) -> Path:
    AutoConfig.for_model("bert", **SMALL, pad_token_id=0).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "film": 2, "good": 3, "bad": 4}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def decoder(folder: Path) -> Path:
    AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=1, vocab_size=8192).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BERT_NANO).save_pretrained(folder)
    return folder


def test_every_mistake_is_one_message_and_exit_code_two(hftl: Hftl, tmp_path: Path) -> None:
    path, out = tmp_path / "recipe.yaml", tmp_path / "made"
    path.write_text(recipe().to_yaml())
    glove = nano("words", reviews(20, 5, 5), {"all": Stage(lr=1e-3)}).model_copy(update={"model": TextCNN(vectors="random:8")})
    (tmp_path / "glove.yaml").write_text(glove.to_yaml())
    (tmp_path / "pictures.yaml").write_text(noisy_pictures(tmp_path / "pictures").to_yaml())
    unweighted = ("model.pretrained=false",)
    for name, options, expected in (
        (
            "recipe",
            (f"model.checkpoint={decoder(tmp_path / 'gpt2')}", *unweighted),
            'a "gpt2" model, which does not guess masked tokens',
        ),
        ("recipe", (f"model.checkpoint={without_a_mask(tmp_path / 'no-mask')}", *unweighted), "a tokenizer without a mask token"),
        ("recipe", ("data.max_length=1024",), "has 512 positions, and rows of 1024 tokens are asked for"),
        ("recipe", ("data.unlabelled=test",), "nothing may be learned from it"),
        ("recipe", ("data.max_train_samples=1", "data.on_duplicate=keep"), "1 different texts cannot be divided"),
        ("recipe", ("--epochs", "1", "--tokens", "5"), "leave one out"),
        ("recipe", ("--mask", "0.9"), "mask"),
        ("recipe", ("run.batch_size=2", "run.gradient_accumulation=4"), "fewer rows than the 4 parts of a step"),
        ("glove", (), "word vectors are learned with `hftl vectors`"),
        ("pictures", (), "pictures have no words to mask"),
    ):
        outcome = hftl("pretrain", tmp_path / f"{name}.yaml", "--output", out, *options)
        assert outcome.code == 2 and expected in outcome.err.replace("\n      ", " "), (expected, outcome.err)
        assert "Traceback" not in outcome.err and not out.exists()


def test_the_command_says_how_it_goes(hftl: Hftl, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe().to_yaml())
    outcome = hftl("pretrain", path, "--output", tmp_path / "made", "--tokens", 8 * 32 * 2, "--lr", "1e-4")
    assert outcome.code == 0, outcome.err
    assert "train: 20 texts" in outcome.err and "after 0 epochs, step 0: loss" in outcome.err
    assert re.search(r"loss at the masked places of 2 texts held out: \d\.\d+ before, \d\.\d+ after", outcome.err)
    assert facts_of(tmp_path / "made")["command"] == "hftl pretrain pretrained --tokens 512 --lr 0.0001"
