"""Two texts that a model reads as two: what the tokenizer makes of a pair, worked out by hand, and a run on pairs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from small import mails, quiet, small_vectors, write_rows
from small_models import tiny_bert
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    pipeline,
)

import hftl
from hftl.data.duplicates import text_fingerprints
from hftl.data.joining import FIRST
from hftl.data.source import load_splits
from hftl.data.text import TextSamples, text_facts
from hftl.errors import DataError, RecipeError
from hftl.evaluation.serving import ServingSamples
from hftl.files import read_json
from hftl.models import glove
from hftl.recipe import TextData
from hftl.sharing.parity import check_serving
from hftl.sharing.publication import prepare

VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "good": 5, "film": 6, "bad": 7, "##s": 8, "[MASK]": 9}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / ".cache"))


def bert_tokenizer(**settings: Any) -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab=VOCABULARY, **settings)


def pairs(*rows: tuple[str, str]) -> Dataset:
    columns = {
        "id": [f"train/{row}" for row in range(len(rows))],
        "text": [f"{first}\n{second}" for first, second in rows],
        FIRST: [len(first) for first, _ in rows],
        "label": [row % 2 for row in range(len(rows))],
    }
    text = {"id": Value("string"), "text": Value("string"), FIRST: Value("int32")}
    return Dataset.from_dict(columns, features=Features({**text, "label": ClassLabel(names=["no", "yes"])}))


def tokens(samples: TextSamples, index: int) -> tuple[list[int], list[int]]:
    sample = samples[0, index]
    return sample["input_ids"].tolist(), sample["token_type_ids"].tolist()


# --- tokens -------------------------------------------------------------------------------------------------------------------


def test_a_bert_reads_two_segments_of_two_types() -> None:
    rows = pairs(("a good film", "bad films"), ("a", "strange film"), ("a\nb", ""), ("", ""))
    samples = TextSamples(rows, bert_tokenizer(), max_length=16)
    assert tokens(samples, 0) == ([2, 4, 5, 6, 3, 7, 6, 8, 3], [0, 0, 0, 0, 0, 1, 1, 1, 1])
    assert tokens(samples, 1) == ([2, 4, 3, 1, 6, 3], [0, 0, 0, 1, 1, 1])
    assert tokens(samples, 2) == ([2, 4, 1, 3, 3], [0, 0, 0, 0, 1])  # a line feed of the first text is one of it
    assert tokens(samples, 3) == ([2, 3, 3], [0, 0, 1])
    assert samples.words.tolist() == [6, 3, 2, 0] and samples.unknown.tolist() == [0, 1, 1, 0]
    facts = text_facts(samples)
    assert facts["empty"] == 1 and facts["share_unknown"] == pytest.approx(2 / 11) and facts["share_truncated"] == 0


def test_the_longer_text_of_a_pair_is_cut_first() -> None:
    """7 tokens leave 4 for the texts: of 3 + 3 two each, of 4 + 1 three and one, of 1 + 4 one and three."""
    rows = [("a good film", "bad films"), ("a good bad film", "bad"), ("bad", "a good bad film"), ("a", "bad")]
    samples = TextSamples(pairs(*rows), bert_tokenizer(), max_length=7)
    assert tokens(samples, 0) == ([2, 4, 5, 3, 7, 6, 3], [0, 0, 0, 0, 1, 1, 1])
    assert tokens(samples, 1) == ([2, 4, 5, 7, 3, 7, 3], [0, 0, 0, 0, 0, 1, 1])
    assert tokens(samples, 2) == ([2, 7, 3, 4, 5, 7, 3], [0, 0, 0, 1, 1, 1, 1])
    assert tokens(samples, 3) == ([2, 4, 3, 7, 3], [0, 0, 0, 1, 1])
    assert samples.full_lengths.tolist() == [9, 8, 8, 5] and samples.lengths.tolist() == [7, 7, 7, 5]
    left = TextSamples(pairs(*rows), bert_tokenizer(truncation_side="left"), max_length=7)
    assert tokens(left, 1)[0] == [2, 5, 7, 6, 3, 7, 3]


def test_a_batch_of_pairs_is_padded_as_the_tokenizer_pads_it() -> None:
    rows = [("a good film", "bad films"), ("a", "bad")]
    tokenizer = bert_tokenizer()
    samples = TextSamples(pairs(*rows), tokenizer, max_length=16)
    batch = samples.collate([samples[0, 0], samples[0, 1]])
    expected = tokenizer([a for a, _ in rows], [b for _, b in rows], padding=True, return_tensors="pt")
    width = expected["input_ids"].shape[1]
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert torch.equal(batch[name][:, :width], expected[name]) and not batch[name][:, width:].any()


def test_token_types_are_part_of_what_a_model_is_given() -> None:
    """Two pairs of the same tokens, "a [SEP] bad" and a text with it, differ in their types alone."""
    one, other = (TextSamples(pairs(row), bert_tokenizer(), max_length=16) for row in (("a", "bad [SEP]"), ("a [SEP] bad", "")))
    assert tokens(one, 0)[0] == tokens(other, 0)[0] == [2, 4, 3, 7, 3, 3]
    assert one.fingerprint != other.fingerprint


def test_a_tokenizer_without_types_gives_none_and_one_without_a_separator_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")  # type: ignore[no-untyped-call]
    with pytest.raises(RecipeError) as caught:
        TextSamples(pairs(("a", "a")), bare, max_length=8)
    assert "puts nothing between two texts" in str(caught.value) and "leave data.pair out" in str(caught.value)
    with pytest.raises(RecipeError, match="4 leaves no room for two texts: 3 tokens of every pair are special ones"):
        TextSamples(pairs(("a", "a")), bert_tokenizer(), max_length=4)
    words = glove.make_tokenizer([glove.SEPARATOR, "a", "good", "film"], pair=True)
    samples = TextSamples(pairs(("A film", "good <sep> film"), ("", "")), words, max_length=8)
    assert samples[0, 0].keys() == {"input_ids"}
    # <pad> 0, <unk> 1, <sep> 2, a 3, good 4, film 5; what looks like the separator is three unknown words
    assert samples[0, 0]["input_ids"].tolist() == [3, 5, 2, 4, 1, 1, 1, 5] and samples[0, 1]["input_ids"].tolist() == [2]
    assert samples.words.tolist() == [7, 0]


def test_pairs_are_equal_where_both_texts_are() -> None:
    found = text_fingerprints(pairs(("a b", "c"), ("a", "b c"), ("A  B", "c "), ("", ""), ("", "a b c")))
    assert (found[0] == found[2]).all() and not found[3].any()
    assert len({row.tobytes() for row in found}) == 4


# --- recipes and sources ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": "text"}, "pair: two columns make a pair, and text_column names 1"),
        ({"text_column": ["a", "b", "c"]}, "pair: two columns make a pair, and text_column names 3"),
        ({"text_column": ["a", "b"], "template": "{a} {b}"}, "pair: the tokenizer joins a pair in its own way"),
    ],
)
def test_a_pair_is_of_two_columns(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        TextData(source="x", pair=True, **settings)
    assert message in str(caught.value)


def test_the_second_text_may_be_one_of_a_few_and_no_number(tmp_path: Path) -> None:
    rows = [
        {"question": ("Is it good?", "Is it long?")[place % 2], "year": str(place), **row} for place, row in enumerate(mails(120))
    ]
    table = str(write_rows(tmp_path / "train.parquet", rows))
    splits = load_splits(TextData(source=table, text_column=("body", "question"), pair=True), seed=0)
    assert splits.train.column_names == ["id", "text", FIRST, "label"]
    row = splits.train[0]
    assert row["text"][row[FIRST] :] in ("\nIs it good?", "\nIs it long?")
    assert splits.facts["remarks"] == ['a pair of texts is in the columns "body", "question"']
    with pytest.raises(DataError, match='the column "year" holds numbers'):
        load_splits(TextData(source=table, text_column=("body", "year"), pair=True), seed=0)


def test_a_model_of_one_token_type_cannot_read_pairs(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=10,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=16,
        type_vocab_size=1,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    bert_tokenizer().save_pretrained(tmp_path / "model")
    write_rows(tmp_path / "train.csv", mails())
    with pytest.raises(RecipeError, match=r"data\.pair: BertForSequenceClassification cannot be run on two texts"):
        hftl.plan(recipe(tmp_path / "train.csv", hftl.Transformer(checkpoint=str(tmp_path / "model")), max_length=16))


# --- runs ---------------------------------------------------------------------------------------------------------------------


def recipe(source: Path, model: Any, **settings: Any) -> hftl.Recipe:
    return hftl.Recipe(
        name="pairs",
        data=TextData(
            source=str(source),
            text_column=("subject", "body"),
            pair=True,
            **{"max_length": 20, "validation_fraction": 0.2, **settings},
        ),
        model=model,
        stages={"head": hftl.Stage(unfreeze="head", lr=1e-2, epochs=1), "all": hftl.Stage(unfreeze="all", lr=1e-3, epochs=1)},
        run=hftl.RunSettings(batch_size=16, precision="fp32"),
        card=hftl.Card(license="mit", dataset_name="mails about films"),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write_rows(folder / "train.csv", mails(60))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> hftl.Run:
    model = hftl.Transformer(checkpoint=str(tiny_bert(folder / "bert")))
    return hftl.train(recipe(folder / "train.csv", model), run_dir=folder / "run", console=quiet())


def test_a_pair_is_served_by_transformers_as_it_was_trained(run: hftl.Run, tmp_path: Path) -> None:
    """Token types matter: the same two texts as one have another answer."""
    assert check_serving(run.paths, prepare(run.paths, "me/pairs")).samples == 12
    samples = ServingSamples.load(run.paths.serving)
    assert isinstance(samples.inputs[0], dict) and samples.inputs[0]["text"].startswith("About film")
    served: Any = pipeline("text-classification", model=str(run.path / "model"), device="cpu", dtype=torch.float32)
    row = mails(1, start=100)[0]
    scores = served({"text": row["subject"], "text_pair": row["body"]}, top_k=None, truncation=True)
    given: list[Any] = [row, (row["subject"], row["body"]), write_rows(tmp_path / "new.csv", [row])]
    for answer in run.predict(given):
        assert answer.probabilities == pytest.approx({score["label"]: score["score"] for score in scores}, abs=1e-5)
        assert answer.input == f"{row['subject']}\n{row['body']}"
    one = served(f"{row['subject']} {row['body']}", top_k=None)
    assert one[0]["score"] != pytest.approx(scores[0]["score"], abs=1e-7)


def test_the_card_of_a_model_of_pairs_says_how_to_give_them(run: hftl.Run) -> None:
    card = run.paths.card.read_text()
    assert "It reads pairs of texts, which are the columns subject and body of its data." in card
    assert 'def make_text(row):\n    return {"text": row["subject"], "text_pair": row["body"]}' in card
    assert 'tokenizer([row["text"] for row in texts], [row["text_pair"] for row in texts], truncation=True, max_length=20' in card
    code = card.split("```python\n")[2].split("```")[0].replace("RUN/model", str(run.path / "model"))
    printed: list[Any] = []
    exec(code, {"print": lambda *values: printed.append(values)})  # noqa: S102  # the lines as a reader copies them
    assert printed[0][1] in ("good", "bad")
    expected = run.predict({"subject": "Put the subject here.", "body": "Put the body here."})[0]
    assert printed[0][1:] == (expected.label, pytest.approx(expected.probability, abs=1e-5))


def test_what_is_no_pair_is_refused(run: hftl.Run, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("a\tb\n")
    with pytest.raises(DataError) as caught:
        run.predict(["one text", tmp_path / "new.txt"])
    said = str(caught.value)
    assert (
        "input 0: expected a row (dict or tuple) of subject, body, or a table (pathlib.Path) with these columns, found str" in said
    )
    assert "new.txt: the model reads pairs" in said


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason='needs the extra "onnx": pip install "hftl[onnx]"')
def test_a_model_of_pairs_is_the_same_in_onnx(run: hftl.Run, tmp_path: Path) -> None:
    done = run.export(folder=tmp_path / "onnx")
    assert done.largest_difference < 1e-4
    printed: list[Any] = []
    exec(done.usage, {"print": lambda *values: printed.append(values)})  # noqa: S102
    expected = run.predict({"subject": "Put the subject here.", "body": "Put the body here."})[0]
    assert printed[0][1:] == (expected.label, pytest.approx(expected.probability, abs=1e-4))


def test_a_glove_family_has_a_separator_of_its_own(folder: Path) -> None:
    model = hftl.TextCNN(vectors=str(small_vectors(folder / "words.8d.txt")), channels=4, kernel_widths=(2,), min_count=1)
    run = hftl.train(recipe(folder / "train.csv", model), run_dir=folder / "glove", console=quiet())
    encoded = run.tokenizer("film", "film")["input_ids"]
    assert encoded[1] == run.tokenizer.sep_token_id == 2 and encoded[0] == encoded[2] != 1
    table: Any = run.model.get_submodule("embedding").weight  # a random point, and neither padding nor the mean of all
    assert not np.allclose(table[2].detach(), table[0].detach()) and not np.allclose(table[2].detach(), table[1].detach())
    served: Any = pipeline("text-classification", model=str(run.path / "model"), device="cpu")
    row = mails(1, start=100)[0]
    scores = served({"text": row["subject"], "text_pair": row["body"]}, top_k=None, truncation=True)
    expected = {score["label"]: score["score"] for score in scores}
    assert run.predict(row)[0].probabilities == pytest.approx(expected, abs=1e-5)
    assert glove.SEPARATOR not in read_json(run.paths.data)["model"]["vocabulary"]["frequent_without_vector"]
