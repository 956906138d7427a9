"""GloVe families: vector files, vocabulary, tokenizer, the two models, and their way to disk and back."""

from __future__ import annotations

import ast
import gzip
import json
import math
import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, pipeline

from hftl.data.text import TextSamples
from hftl.errors import RecipeError, RunError
from hftl.models import (
    build_classifier,
    glove,
    glove_modeling,
    load_classifier,
    save_classifier,
    segmentation,
    tokenizer_bounds,
    transformer,
)
from hftl.models import vectors as vector_files
from hftl.models.family import Classifier
from hftl.models.glove_modeling import (
    BagOfEmbeddingsForSequenceClassification,
    BidirectionalLSTM,
    BiLSTMForSequenceClassification,
    GloveBagConfig,
    GloveBiLSTMConfig,
    GloveTextCNNConfig,
    TextCNNForSequenceClassification,
)
from hftl.recipe import BagOfEmbeddings, BiLSTM, Recipe, Stage, TextCNN, TextData
from hftl.sharing import serve
from hftl.sharing.usage import tokens_of

SIX_WORDS = b"the 1.0 2.0\nfilm 3.0 -4.0\ngood 0.5 0.25\nbad -0.5 0.75\n, 0.0 0.125\nn't 2.0 2.0\n"
TEXTS = ["The film, the GOOD film.", "the film isn't good", "", "a bad bad plot"]


@pytest.fixture
def vectors(tmp_path: Path) -> str:
    path = tmp_path / "six.2d.txt"
    path.write_bytes(SIX_WORDS)
    return str(path)


def textcnn(**values: Any) -> TextCNNForSequenceClassification:
    torch.manual_seed(0)
    config = GloveTextCNNConfig(**{"vocab_size": 30, "vector_dim": 6, "channels": 5, "kernel_widths": (2, 4), **values})
    model = TextCNNForSequenceClassification(config)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def bilstm(**values: Any) -> BiLSTMForSequenceClassification:
    torch.manual_seed(0)
    config = GloveBiLSTMConfig(**{"vocab_size": 30, "vector_dim": 6, "hidden_size": 7, **values})
    model = BiLSTMForSequenceClassification(config)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def bag(**values: Any) -> BagOfEmbeddingsForSequenceClassification:
    torch.manual_seed(0)
    model = BagOfEmbeddingsForSequenceClassification(
        GloveBagConfig(**{"vocab_size": 30, "vector_dim": 6, "ngrams": 3, "buckets": 7, **values})
    )
    model.eval()  # type: ignore[no-untyped-call]
    return model


def trained_bag() -> BagOfEmbeddingsForSequenceClassification:
    """One whose n-grams mean something."""
    model = bag(trainable_dim=2)
    assert model.ngrams.table is not None
    torch.nn.init.normal_(model.ngrams.table.weight)
    return model


EVERY_MODEL = [
    pytest.param(trained_bag, id="bag"),
    pytest.param(lambda: textcnn(), id="textcnn"),
    pytest.param(lambda: textcnn(trainable_dim=3), id="textcnn with a trained table"),
    *(
        pytest.param(lambda pooling=pooling: bilstm(pooling=pooling, trainable_dim=2), id=f"bilstm {pooling}")
        for pooling in ("ends", "max", "mean")
    ),
]


def batch_of(texts: list[list[int]], length: int) -> dict[str, Tensor]:
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts], dtype=torch.int64).reshape(len(texts), length)
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts], dtype=torch.int64).reshape(ids.shape)
    return {"input_ids": ids, "attention_mask": mask}


# --- the models ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", EVERY_MODEL)
def test_a_text_gets_the_same_logits_alone_and_padded_in_a_batch(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    texts = [[5], [6, 7], [8, 9, 10], [11, 12, 13, 14, 15, 16, 17], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    with torch.no_grad():
        alone = torch.cat([model(**batch_of([text], len(text))).logits for text in texts])
        for length in (11, 30):
            together = model(**batch_of(texts, length)).logits
            torch.testing.assert_close(together, alone, rtol=0.0, atol=1e-6)
    assert len({round(float(value), 5) for value in alone[:, 0]}) == len(texts)  # the texts do differ


@pytest.mark.parametrize("make", EVERY_MODEL)
def test_what_stands_under_the_padding_does_not_matter(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    batch = batch_of([[5, 6, 7]], 8)
    junk = {**batch, "input_ids": torch.tensor([[5, 6, 7, 20, 21, 22, 23, 24]])}
    with torch.no_grad():
        torch.testing.assert_close(model(**junk).logits, model(**batch).logits, rtol=0.0, atol=0.0)
        # Without a mask, <pad> is what is not a word.
        torch.testing.assert_close(model(batch["input_ids"]).logits, model(**batch).logits, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("make", EVERY_MODEL)
def test_an_empty_text_is_read_as_one_unknown_word(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    with torch.no_grad():
        unknown = model(**batch_of([[1]], 1)).logits
        # As tokenizers give it: a tensor of no columns, which torch makes float32.
        alone = model(input_ids=torch.empty(1, 0), attention_mask=torch.empty(1, 0)).logits
        beside = model(**batch_of([[], [5, 6, 7]], 3)).logits[:1]
    torch.testing.assert_close(alone, unknown, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(beside, unknown, rtol=0.0, atol=1e-6)


def test_a_convolution_by_hand() -> None:
    # Words a, b, c with vectors 1, -2, 3; one feature map of width 2 with weights (1, 2) and bias 0.5.
    layer = glove_modeling.MaxOverTimeConvolution(1, 1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 2.0]]]))
        layer.bias.fill_(0.5)  # type: ignore[union-attr]
    a, b, c = 1.0, -2.0, 3.0
    words = torch.tensor([[a, b, c], [a, 0, 0], [b, 0, 0], [c, b, 0]])[:, :, None]
    features = layer(words, torch.tensor([3, 1, 1, 2]))
    # a b c: max(1 - 4 + 0.5, -2 + 6 + 0.5) = 4.5.   a, filled up: 1 + 0 + 0.5 = 1.5.   b: -2 + 0.5 < 0, so 0.
    # c b: 3 - 4 + 0.5 < 0, so 0; the windows (b, pad) and (pad, pad), whose bias alone is 0.5, do not count.
    torch.testing.assert_close(features, torch.tensor([[4.5], [1.5], [0.0], [0.0]]), rtol=0.0, atol=0.0)


def reference_states(model: BiLSTMForSequenceClassification, text: list[int]) -> Tensor:
    """The (n, 2H) states of one text from torch's own bidirectional LSTM with the model's weights."""
    states = model.embedding(torch.tensor([text]))
    for layer in model.lstm:
        assert isinstance(layer, BidirectionalLSTM)
        plain = nn.LSTM(states.shape[2], model.config.hidden_size, batch_first=True, bidirectional=True)
        weights = dict(layer.left_to_right.named_parameters())
        weights |= {f"{name}_reverse": weight for name, weight in layer.right_to_left.named_parameters()}
        plain.load_state_dict(weights)
        states, _ = plain(states)
    return torch.as_tensor(states[0])


@pytest.mark.parametrize("pooling", ["ends", "max", "mean"])
def test_the_bilstm_equals_torchs_bidirectional_lstm(pooling: str) -> None:
    model = bilstm(pooling=pooling)
    texts = [[5], [6, 7, 8], [9, 10, 11, 12, 13, 14, 15]]
    with torch.no_grad():
        logits = model(**batch_of(texts, 9)).logits
        for text, found in zip(texts, logits, strict=True):
            states = reference_states(model, text)
            features = {
                "ends": torch.cat([states[-1, :7], states[0, 7:]]),
                "max": states.max(dim=0).values,
                "mean": states.mean(dim=0),
            }[pooling]
            torch.testing.assert_close(found, model.head(features), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("make", EVERY_MODEL)
def test_every_parameter_learns_and_padding_stays_zero(make: Callable[[], PreTrainedModel]) -> None:
    model = make().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batch = {**batch_of([[5, 6, 7, 8, 9], [10, 11, 12]], 6), "labels": torch.tensor([0, 1])}
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        if "embedding" in name:
            assert torch.equal(parameter[0], torch.zeros_like(parameter[0])), name


def test_the_loss_is_the_mean_cross_entropy() -> None:
    model = textcnn()
    labels = torch.tensor([1, 0])
    output = model(**batch_of([[5, 6], [7]], 2), labels=labels)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    assert model(**batch_of([[5, 6]], 2)).loss is None


def test_only_token_type_ids_are_taken_and_ignored() -> None:
    model = textcnn()
    batch = batch_of([[5, 6, 7]], 3)
    assert torch.equal(model(**batch, token_type_ids=torch.ones(1, 3)).logits, model(**batch).logits)
    with pytest.raises(TypeError, match="position_ids"):
        model(**batch, position_ids=torch.ones(1, 3))


def test_the_vectors_stay_frozen_while_the_second_table_trains() -> None:
    model = bilstm(trainable_dim=3, pooling="mean").train()  # every word counts in a mean
    model.embedding.requires_grad_(False)
    assert model.trainable_embedding is not None
    vectors, second = model.embedding.weight.clone(), model.trainable_embedding.weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**batch_of([[5, 6, 7, 8]], 4), labels=torch.tensor([1])).loss.backward()
    optimizer.step()
    assert torch.equal(model.embedding.weight, vectors)
    changed = (model.trainable_embedding.weight != second).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [5, 6, 7, 8]


def test_a_bag_is_the_mean_over_words_and_ngrams_and_begins_as_that_of_its_words() -> None:
    model = bag(ngrams=2, buckets=1)
    assert model.ngrams.table is not None
    table, heads = model.ngrams.table.weight, list[Tensor]()
    model.head.register_forward_pre_hook(lambda module, inputs: heads.append(inputs[0]))
    first, second = model.embedding.weight[5], model.embedding.weight[6]
    with torch.no_grad():
        model(**batch_of([[5, 6], [5]], 2))
        table.fill_(3.0)
        model(**batch_of([[5, 6], [5]], 2))
    # Two words and one bigram are three: at first the bigram's row is nought.
    torch.testing.assert_close(heads[0], torch.stack([(first + second) / 3, first]))
    torch.testing.assert_close(heads[1], torch.stack([(first + second + 3.0) / 3, first]))  # one word has no bigram


def test_the_order_of_words_matters_to_a_bag_with_ngrams_alone() -> None:
    with torch.no_grad():
        for model, same in ((trained_bag(), False), (bag(ngrams=1), True)):
            there, back = model(**batch_of([[5, 6, 7], [7, 6, 5]], 3)).logits
            assert torch.allclose(there, back) == same


def test_the_chains_are_those_of_the_design() -> None:
    assert glove.chain(bag(trainable_dim=3)).names == ("embedding", "trainable_embedding", "ngrams", "head")
    assert glove.chain(textcnn()).names == ("embedding", "convolutions", "head")
    assert glove.chain(textcnn(trainable_dim=3)).names == ("embedding", "trainable_embedding", "convolutions", "head")
    assert glove.chain(bilstm()).names == ("embedding", "lstm.0", "lstm.1", "head")
    chain = glove.chain(bilstm(trainable_dim=3, layers=11))
    assert chain.names == ("embedding", "trainable_embedding", *(f"lstm.{i}" for i in range(11)), "head")
    # A frozen lower layer ends before the next one's dropout, so that its output can be stored.
    assert "lstm.1.dropout" in chain.modules["lstm.1"]
    assert chain.parameters["head"] == ("head.linear.weight", "head.linear.bias")


def test_a_forget_gate_starts_open_and_a_new_table_small() -> None:
    layer = bilstm().lstm[1]
    assert isinstance(layer, BidirectionalLSTM)
    bias = dict(layer.right_to_left.named_parameters())["bias_ih_l0"]
    assert bias.tolist() == [0.0] * 7 + [1.0] * 7 + [0.0] * 14
    table = textcnn(vocab_size=2000, trainable_dim=50).trainable_embedding
    assert table is not None
    assert float(table.weight[1:].detach().std()) == pytest.approx(0.1, rel=0.02)


def test_the_modelling_file_needs_torch_and_transformers_only() -> None:
    tree = ast.parse(Path(glove_modeling.__file__).read_text(encoding="utf-8"))
    imported = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    imported |= {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"__future__", "collections", "typing", "torch", "transformers"}


# --- vector files -------------------------------------------------------------------------------------------------------------


def as_text(folder: Path) -> str:
    (folder / "v.txt").write_bytes(SIX_WORDS)
    return str(folder / "v.txt")


def as_gzip(folder: Path) -> str:
    (folder / "v.txt.gz").write_bytes(gzip.compress(SIX_WORDS))
    return str(folder / "v.txt.gz")


def as_only_member(folder: Path) -> str:
    with zipfile.ZipFile(folder / "one.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v.txt", SIX_WORDS)
    return str(folder / "one.zip")


def as_named_member(folder: Path) -> str:
    with zipfile.ZipFile(folder / "two.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other.txt", b"the 1.0\n")
        archive.writestr("deep/v.txt", SIX_WORDS)
    return f"{folder / 'two.zip'}:deep/v.txt"


def as_word2vec(folder: Path) -> str:
    # fastText ends its lines with a space; Windows with a carriage return.
    (folder / "v.vec").write_bytes(b"6 2\n" + SIX_WORDS.replace(b"\n", b" \r\n"))
    return str(folder / "v.vec")


@pytest.mark.parametrize("write", [as_text, as_gzip, as_only_member, as_named_member, as_word2vec])
def test_every_format_gives_the_same_vectors(write: Callable[[Path], str], tmp_path: Path) -> None:
    words, found = vector_files.read_vectors(write(tmp_path))
    assert words == ["the", "film", "good", "bad", ",", "n't"]
    assert found.dtype == np.float32
    assert found.tolist() == [[1.0, 2.0], [3.0, -4.0], [0.5, 0.25], [-0.5, 0.75], [0.0, 0.125], [2.0, 2.0]]


def test_only_wanted_words_are_kept_and_parsed(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(b"a 1 2\nb x y\na nan 1\nb 3 4\nc 5 6\n")
    words, found = vector_files.read_vectors(str(path), {"c", "d"})
    assert (words, found.tolist()) == (["c"], [[5.0, 6.0]])


def test_a_word_may_hold_spaces_and_be_first(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(b". . . 1 2 3\nat name@domain.com 4 5 6\nthe 7 8 9\na 7 8 9\nof 7 8 9\n")
    words, found = vector_files.read_vectors(str(path))
    assert words == [". . .", "at name@domain.com", "the", "a", "of"]
    assert found[:2].tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_unicode_line_ends_and_spaces_inside_a_word_do_not_break_a_line(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("the 1 2\n\x85 3 4\n1\xa01/2 5 6\n", encoding="utf-8")
    assert vector_files.read_vectors(str(path))[0] == ["the", "\x85", "1\xa01/2"]


PLAIN = b"the 1 2 3\nof 1 2 3\nand 1 2 3\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN + b"cut 1 2\n", "line 4: 2 numbers where 3 were expected"),
        (PLAIN + b"wide 1 2 3 4\n", "line 4: 4 numbers where 3 were expected"),
        (PLAIN + b"\n", "line 4: 0 numbers where 3 were expected"),
        (b"cut 1 2\n" + PLAIN, "line 1: 2 numbers where 3 were expected"),
        (PLAIN + b"odd 1 two 3\n", "line 4: \"odd\": could not convert string to float: b'two'"),
        (PLAIN + b"gap 1  3\n", "line 4: \"gap\": could not convert string to float: b''"),
        (PLAIN + b"odd 1 nan 3\n", 'line 4: "odd" has a NaN or infinite number'),
        (PLAIN + b"odd 1 -inf 3\n", 'line 4: "odd" has a NaN or infinite number'),
        (PLAIN + b"odd 1 1e39 3\n", 'line 4: "odd" has a NaN or infinite number'),  # beyond float32
        (PLAIN + b"of 1 2 3\n", 'line 4: "of" a second time, after line 2'),
        (PLAIN + b"\xff\xfe 1 2 3\n", "line 4: the word is not UTF-8 text: b'\\xff\\xfe'"),
        (b"4 3\n" + PLAIN, "the header says 4 words, the file has 3: is it whole?"),
        (b"3 2\n" + PLAIN, "line 2: 3 numbers where 2 were expected"),
        (b"", "no vectors in it"),
        (b"3 2\n", "no vectors in it"),
        (b"the\nof\n", "line 1: a word and its numbers, separated by spaces, were expected"),
    ],
)
def test_a_bad_line_is_named_with_its_number(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        vector_files.read_vectors(str(path))
    assert (caught.value.problems[0].where, caught.value.problems[0].what) == ("model.vectors", message)
    assert str(path) in str(caught.value)


def test_all_problems_come_in_one_report_up_to_ten(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(PLAIN + b"odd 1 nan 3\ncut 1\nof 1 2 3\n")
    with pytest.raises(RecipeError, match="3 problems in") as caught:
        vector_files.read_vectors(str(path))
    assert [problem.what.split(":")[0] for problem in caught.value.problems] == ["line 4", "line 5", "line 6"]
    path.write_bytes(PLAIN + b"cut 1\n" * 30)
    with pytest.raises(RecipeError, match="further problems were not looked for") as caught:
        vector_files.read_vectors(str(path))
    assert len(caught.value.problems) == 10


def test_a_file_that_is_not_there_or_not_readable_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    whole = gzip.compress(SIX_WORDS * 100)
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "not.gz").write_bytes(SIX_WORDS)
    (tmp_path / "not.zip").write_bytes(SIX_WORDS)
    as_named_member(tmp_path)
    for name, message in {
        "absent.txt": "model.vectors: no such file",
        "absent.zip:a.txt": "model.vectors: no such file",
        "cut.gz": "model.vectors: cannot be read: Compressed file ended",
        "not.gz": "model.vectors: cannot be read: Not a gzipped file",
        "not.zip": "model.vectors: cannot be read: File is not a zip file",
        "": "model.vectors: a folder without model.safetensors and tokenizer.json",
        "two.zip": "the archive has 2 members\n      write .*two.zip:other.txt",
        "two.zip:deep/w.txt": 'no member "deep/w.txt" in .*two.zip. Did you mean "deep/v.txt"?',
    }.items():
        with pytest.raises(RecipeError, match=message):
            vector_files.read_vectors(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("content", "names", "way_out"),
    [
        # As it is fastText's format is read (tests/test_word_vectors.py).
        (
            b"\xba\x16\x4f\x2f\x0c\0\0\0" + bytes(range(256)) * 2000,
            ["v.bin.gz"],
            r"unpack it, or name the \.vec that fasttext\.cc has",
        ),
        (
            b"3 4\ncat \0\0\x80\x3f\0\0\x80\x3f\0\0\x80\x3f\0\0\x80\x3f\n",
            ["v.bin", "v.bin.gz"],
            r"load_word2vec_format\(.*, binary=True\)",
        ),
    ],
    ids=["fastText", "word2vec"],
)
def test_a_binary_file_of_vectors_is_refused_with_the_one_that_is_read(
    content: bytes, names: list[str], way_out: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        with pytest.raises(RecipeError, match=f"a binary file; word vectors are read as text.*\n.*{way_out}"):
            vector_files.read_vectors(str(tmp_path / name))


def test_the_name_of_a_vectors_file_leaves_its_folder_out() -> None:
    assert vector_files.file_name("/home/me/glove.6B.100d.txt") == "glove.6B.100d.txt"
    assert vector_files.file_name("/home/me/glove.6B.zip:inside/glove.6B.100d.txt") == "glove.6B.100d.txt"
    assert vector_files.file_name("/home/me/glove.6B.zip") == "glove.6B.zip"


# --- words --------------------------------------------------------------------------------------------------------------------


def test_words_are_split_as_glove_splits_them() -> None:
    text = "It's GREAT,<br /><br />didn\u2019t can't we'll... “8/10” 1,000 well-made cafe\u0301 'quoted' rock'n'roll"
    words = [
        *("it", "'s", "great", ",", "did", "n't", "ca", "n't", "we", "'ll", "...", '"', "8", "/", "10", '"', "1,000"),
        *("well", "-", "made", "café", "'", "quoted", "'", "rock", "'", "n", "'", "roll"),
    ]
    assert glove.make_tokenizer(sorted(set(words))).tokenize(text) == words


def test_a_text_that_names_special_tokens_is_no_padding(tmp_path: Path) -> None:
    tokenizer = glove.make_tokenizer(["<", ">", "pad"])
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert one("<pad> <unk>").input_ids == [2, 4, 3, 2, 1, 3]
        batch = one(["pad", "pad pad nothing"], padding=True)
        assert batch.input_ids == [[4, 0, 0], [4, 4, 1]]
        assert list(batch) == ["input_ids", "attention_mask"]
        assert one("").input_ids == []


@pytest.mark.parametrize("most", [1, 3, 500_000])
def test_counting_by_distinct_runs_equals_counting_text_by_text(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glove, "_MOST_RUNS", most)
    texts = ["A b<br />c  d\n\te's", "a\u00a0b <br> didn't e\u0301 e \u0301", "", "<BR/>isn't\u2028a"]
    counts = glove.count_words(texts)
    tokenizer = glove.make_tokenizer(sorted(counts))
    assert counts == Counter(word for text in texts for word in tokenizer.tokenize(text))  # one not counted would be <unk>


def test_the_vocabulary_is_the_most_frequent_then_alphabetical() -> None:
    counts = {"b": 2, "a": 2, "z": 5, "once": 1, "known": 1, "never": 0}
    assert glove.choose_vocabulary(counts, {"known"}, max_words=10, min_count=2) == ["z", "a", "b", "known"]
    assert glove.choose_vocabulary(counts, {"known"}, max_words=2, min_count=1) == ["z", "a"]


def test_words_without_a_vector_are_drawn_from_the_vectors_own_cloud() -> None:
    known = np.array([[1.0, -2.0], [3.0, -2.0]], dtype=np.float32)
    vocabulary = ["x", "one", "two", *(f"w{i}" for i in range(4000))]
    torch.manual_seed(0)
    rows = glove.embedding_rows(vocabulary, {"one": 0, "two": 1}, known)
    assert rows[0].tolist() == [0.0, 0.0]
    assert rows[1].tolist() == [2.0, -2.0]  # the mean
    assert rows[3:5].tolist() == known.tolist()
    drawn = torch.cat([rows[2:3], rows[5:]])
    assert drawn.mean(dim=0).tolist() == pytest.approx([2.0, -2.0], abs=0.05)  # sd 1 / sqrt(4001) = 0.016
    assert drawn.std(dim=0).tolist() == pytest.approx([1.0, 0.0], abs=0.05)
    rows = glove.embedding_rows(vocabulary, {"<unk>": 1, "one": 0}, known)
    assert rows[1].tolist() == [3.0, -2.0]  # the file's own


# --- scripts without spaces ---------------------------------------------------------------------------------------------------

WAIMAI = [
    "外卖很好吃",
    "外卖不好吃，LG味道很好",
    "味道不好",
    "外卖好吃",
    "味道很好吃",
    "味道不好吃 don't like it",
    "外卖很好",
    "外卖慢",
    "味道差",
] * 2
KNOWN = "外卖 1 2\n味道 2 1\n很 1 1\n不 2 2\n好 3 1\n好吃 1 3\n吃 2 3\n卖 1 5\nlike 1 4\n好看 7 7\n"


@pytest.fixture
def chinese(tmp_path: Path) -> str:
    (tmp_path / "zh.2d.txt").write_text(KNOWN, encoding="utf-8")
    return str(tmp_path / "zh.2d.txt")


def of_waimai(vectors: str, **values: Any) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    torch.manual_seed(0)
    classifier = glove.build(BiLSTM(vectors=vectors, hidden_size=4, **values), ["bad", "good"], texts=WAIMAI)
    return tokenizer_of(classifier), classifier.facts["vocabulary"]


def test_a_clause_is_cut_into_the_words_of_the_vectors_and_a_word_of_another_script_stays_whole(chinese: str) -> None:
    tokenizer, facts = of_waimai(chinese)
    assert tokenizer.tokenize("外卖很好吃，味道不好") == ["外卖", "很", "好吃", "，", "味道", "不", "好"]
    # No part of an unknown word is read as one that is known, and a contraction is split as in any other text.
    assert tokenizer.tokenize("LG味道 like likely don't") == ["▁lg▁", "味道", "▁like▁", "▁likely▁", "▁do▁", "n't"]
    known = [token for token in tokenizer.get_vocab() if "like" in token]
    assert known == ["▁like▁"] and tokenizer("likely")["input_ids"] == [1]
    # Ten clauses of 42 letters, beside 13 of "lg", "do", "n't", "like" and "it"; cut into 27 words, of which 慢 and 差 are letters
    # without a vector. Words of the vectors that are nowhere in the texts are none here.
    assert facts["segmentation"] == {
        "into": "words",
        "share": pytest.approx(42 / 55),
        "words": 8,
        "from_vectors": 6,
        "letters_per_word": pytest.approx(42 / 27),
    }


def test_without_vectors_words_are_learned_from_the_training_texts_and_a_letter_they_lack_is_unknown() -> None:
    tokenizer, facts = of_waimai("random:3")
    assert tokenizer.tokenize("外卖味道") == ["外卖", "味道"]
    assert tokenizer("外卖猫")["input_ids"][-1] == 1 and len(tokenizer("外卖猫")["input_ids"]) == 2
    assert facts["segmentation"]["from_vectors"] == facts["in_vectors"] == 0
    assert [of_waimai("random:3")[0].get_vocab() for _ in range(2)] == [tokenizer.get_vocab()] * 2


def test_segmentation_is_letters_or_nothing_where_it_is_asked_for(chinese: str) -> None:
    tokenizer, facts = of_waimai(chinese, segmentation="characters")
    assert tokenizer.tokenize("外卖很好吃 LG") == ["外", "卖", "很", "好", "吃", "lg"]
    assert facts["segmentation"]["into"] == "characters" and facts["segmentation"]["letters_per_word"] == 1.0
    tokenizer, facts = of_waimai(chinese, segmentation="words")
    assert tokenizer.tokenize("外卖很好吃，味道不好") == ["外卖很好吃", "，", "味道不好"]
    assert "segmentation" not in facts
    thai = glove.build(TextCNN(vectors="random:3", segmentation="characters"), ["a", "b"], texts=["ที่นี่ ดี"] * 2)
    assert tokenizer_of(thai).tokenize("ที่นี่ดี") == ["ที่", "นี่", "ดี"]  # a mark stays with its letter


def test_texts_with_spaces_have_the_tokenizer_of_before_and_one_letter_in_a_hundred_decides(vectors: str) -> None:
    texts = ["the film isn't good " * 12 + letters for letters in ("", "好")]  # 2 x 180 letters, of which none is Chinese, or one
    plain = build(vectors, {"family": "textcnn"}).preprocessor
    for some, cut in ((texts, False), (texts[:1], False), ([*texts, "好吃 好吃"], True)):
        found = tokenizer_of(glove.build(TextCNN(vectors=vectors), ["a", "b"], texts=some))
        parts = json.loads(found.backend_tokenizer.to_str())
        expected = json.loads(tokenizer_of(Classifier(None, plain, None, {})).backend_tokenizer.to_str())  # type: ignore[arg-type]
        assert (parts["model"]["type"] == "Unigram") == cut
        assert ((parts["normalizer"], parts["pre_tokenizer"]) == (expected["normalizer"], expected["pre_tokenizer"])) != cut


@pytest.mark.parametrize("cut", ["words", "characters"])
def test_words_counted_from_words_are_those_that_the_tokenizer_reads(cut: Literal["words", "characters"]) -> None:
    random = np.random.default_rng(0)
    parts = [*"ant's很好吃.-éกี▁葛は한5 ", " ", "don't", "n't", "'ve", "1,0", "\u200b", "<br />", "e\u0301", "葛\ufe00"]
    normalizer, pre_tokenizer = glove._normalizer(cut), glove._pre_tokenizer(cut)
    for _ in range(1_000):
        text = "".join(random.choice(parts, size=random.integers(1, 9)))
        spaced, clauses = glove.cut_words(glove.count_words([text]), cut)
        read = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
        assert spaced + clauses == Counter(word.strip("▁") for word, _ in read), text


def test_words_are_learned_where_letters_stand_together_often() -> None:
    runs = {f"外卖{letter}": 1 for letter in "很不好吃慢"} | {"外卖": 900}  # a clause that is there often counts once
    weights = segmentation.learn_words(runs)
    assert segmentation.count_pieces({"外卖不": 1}, weights) == {"外卖": 1, "不": 1}
    # Words of the vectors are taken before any that is learned, and only those that may be there.
    fits = segmentation.fitting(runs)
    assert [word for word in ("外卖", "卖外", "卖很", "好", "猫", "外卖很") if fits(word)] == ["外卖", "卖很", "好", "外卖很"]
    weights = segmentation.learn_words(runs, [*"外卖很不好吃慢", "卖很"])
    assert segmentation.count_pieces({"外卖很": 2}, weights) == {"外": 2, "卖很": 2}
    assert segmentation.scores({"a": 1, "b": 3}) == {"a": pytest.approx(math.log(0.25)), "b": pytest.approx(math.log(0.75))}


def test_of_very_many_clauses_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"外卖" + chr(0x4E00 + number): 1 for number in range(100)}
    whole = segmentation.learn_words(runs)
    monkeypatch.setattr(segmentation, "LOOKED_AT", 100)  # of 300 letters: each third clause
    assert whole["外卖"] == 100 and segmentation.learn_words(runs)["外卖"] == 34
    assert set("".join(runs)) < set(segmentation.learn_words(runs))  # and each letter is a word


# --- build, save, load --------------------------------------------------------------------------------------------------------

SPECS = [
    pytest.param({"family": "textcnn", "channels": 4}, id="textcnn"),
    pytest.param({"family": "bilstm", "hidden_size": 4, "trainable_dim": 3, "pooling": "max"}, id="bilstm"),
    pytest.param({"family": "bag", "ngrams": 3, "buckets": 5}, id="bag"),
]


def tokenizer_of(classifier: Classifier) -> PreTrainedTokenizerBase:
    assert isinstance(classifier.preprocessor, PreTrainedTokenizerBase)
    return classifier.preprocessor


def build(vectors: str, values: dict[str, Any]) -> Classifier:
    family = {"textcnn": TextCNN, "bilstm": BiLSTM, "bag": BagOfEmbeddings}[values["family"]]
    torch.manual_seed(0)
    return glove.build(family(vectors=vectors, **values), ["sad", "glad", "mixed"], texts=TEXTS)


@pytest.mark.parametrize("values", SPECS)
def test_a_built_model_holds_the_vectors_and_says_what_they_cover(vectors: str, values: dict[str, Any]) -> None:
    classifier = build(vectors, values)
    facts = classifier.facts
    # the film , the good film . | the film is n't good | a bad bad plot: 7 + 5 + 4 = 16 words.
    # With a vector: the 3, film 3, bad 2, good 2, "," 1, n't 1 = 12; without: "." a is plot, once each, so unknown.
    assert facts["vocabulary"] == {
        "words": 6,
        "in_vectors": 6,
        "share_in_vectors": 12 / 16,
        "share_unknown": 4 / 16,
        "frequent_without_vector": [],
    }
    assert facts["base_model"] == "six.2d.txt"
    assert facts["architecture"] == type(classifier.model).__name__
    assert facts["parameters"] == sum(parameter.numel() for parameter in classifier.model.parameters())
    assert classifier.model.config.id2label == {0: "sad", 1: "glad", 2: "mixed"}
    assert classifier.model.config.label2id == {"sad": 0, "glad": 1, "mixed": 2}
    ids = tokenizer_of(classifier)(["the film film"], return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[3, 2, 2]]  # film and the, three each, come first, by the alphabet
    assert classifier.model.get_input_embeddings()(ids)[0].tolist() == [[1.0, 2.0], [3.0, -4.0], [3.0, -4.0]]
    again = build(vectors, values)
    assert all(map(torch.equal, classifier.model.state_dict().values(), again.model.state_dict().values()))


def test_words_without_a_vector_are_listed_by_frequency(vectors: str) -> None:
    facts = build(vectors, {"family": "textcnn", "min_count": 1}).facts["vocabulary"]
    assert facts["frequent_without_vector"] == [".", "a", "is", "plot"]
    assert (facts["words"], facts["share_unknown"]) == (10, 0.0)
    assert build(vectors, {"family": "textcnn", "max_words": 2}).facts["vocabulary"]["share_unknown"] == 10 / 16


def test_vectors_of_none_of_the_words_are_refused(vectors: str) -> None:
    with pytest.raises(RecipeError, match=r"model.vectors: .* holds none of the 2 words of the training texts"):
        glove.build(TextCNN(vectors=vectors), ["a", "b"], texts=["два слова", "слова"])


@pytest.mark.parametrize("values", SPECS)
def test_a_saved_model_gives_the_same_logits_and_label_names_everywhere(
    vectors: str, values: dict[str, Any], tmp_path: Path
) -> None:
    classifier = build(vectors, values)
    folder = tmp_path / "model"
    transformer.save(classifier, folder)
    loaded = glove.load(folder)
    automatic = AutoModelForSequenceClassification.from_pretrained(folder)
    texts = ["a GOOD film isn't bad, the bad film", "good", ""]
    batch = tokenizer_of(classifier)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = classifier.model(**batch).logits
        assert torch.equal(loaded.model(**batch).logits, logits)
        assert torch.equal(automatic(**batch).logits, logits)
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.chain.names == classifier.chain.names
    assert tokenizer_of(loaded).get_vocab() == tokenizer_of(classifier).get_vocab()
    assert loaded.facts == {name: fact for name, fact in classifier.facts.items() if name != "vocabulary"}
    # A pipeline tokenises and runs the texts one by one: alone and padded are the same.
    scores: Any = pipeline("text-classification", model=str(folder), top_k=None, device="cpu")(texts)
    for row, found in zip(logits.softmax(dim=1), scores, strict=True):
        by_name = {entry["label"]: entry["score"] for entry in found}
        assert [by_name[name] for name in ("sad", "glad", "mixed")] == pytest.approx(row.tolist(), abs=1e-6)


@pytest.mark.parametrize("segmentation", ["auto", "characters"])
def test_a_saved_model_cuts_clauses_without_hftl_and_without_a_segmenter(chinese: str, segmentation: str, tmp_path: Path) -> None:
    spec = TextCNN(vectors=chinese, channels=4, segmentation=segmentation)  # type: ignore[arg-type]
    classifier = glove.build(spec, ["bad", "good"], texts=WAIMAI)
    transformer.save(classifier, tmp_path / "model")
    tokenizer_bounds.read_tokenizer((tmp_path / "model" / "tokenizer.json").read_bytes())
    with torch.no_grad():
        expected = classifier.model(**tokenizer_of(classifier)(WAIMAI[:3], padding=True, return_tensors="pt")).logits.softmax(dim=1)
    scores: Any = pipeline("text-classification", model=str(tmp_path / "model"), top_k=None, device="cpu")(WAIMAI[:3])
    for row, found in zip(expected, scores, strict=True):
        assert {entry["label"]: entry["score"] for entry in found}["good"] == pytest.approx(float(row[1]), abs=1e-6)
    assert tokenizer_of(glove.load(tmp_path / "model")).tokenize("外卖好吃") == tokenizer_of(classifier).tokenize("外卖好吃")


def test_vectors_without_a_file_are_random_and_the_same_for_a_seed() -> None:
    built = [build("random:5", {"family": "bilstm", "hidden_size": 4}) for _ in range(2)]
    tables = [classifier.model.state_dict()["embedding.weight"] for classifier in built]
    assert tables[0].shape == (2 + 4, 5) and torch.equal(*tables) and not tables[0][0].any()  # four words are there twice
    assert built[0].facts["base_model"] is None and built[0].facts["vocabulary"]["in_vectors"] == 0
    for vectors in ("random:", "random:0", "random:5000", "random:ten"):
        with pytest.raises(RecipeError, match='vectors: vectors without a file are written "random:100"'):
            TextCNN(vectors=vectors)


def recipe_of(vectors: str, **data: Any) -> Recipe:
    model = TextCNN(vectors=vectors, channels=4, min_count=1, trainable_dim=2)
    return Recipe(name="x", data=TextData(source="x", **data), model=model, stages={"all": Stage(lr=0.1)})


@pytest.mark.parametrize(("truncate", "kept"), [("head", "abcdef"), ("tail", "klmnop"), ("head+tail", "abmnop")])
def test_what_stays_of_a_long_text_is_saved_and_read_again_and_the_lines_of_the_card_do_it(
    truncate: str, kept: str, tmp_path: Path
) -> None:
    letters = " ".join("abcdefghijklmnop")
    torch.manual_seed(0)
    classifier = build_classifier(recipe_of("random:3", max_length=6, truncate=truncate), ["no", "yes"], texts=[letters])
    save_classifier(classifier, tmp_path / "model")
    loaded = load_classifier(tmp_path / "model")
    features = Features({"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"id": ["0"], "text": [letters], "label": [0]}, features=features)
    samples = TextSamples(rows, tokenizer_of(loaded), max_length=6)
    ids = samples[0, 0]["input_ids"].tolist()
    assert tokenizer_of(loaded).convert_ids_to_tokens(ids) == list(kept)  # of 6 tokens 6 * 128 / 510 are 2
    with torch.no_grad():
        expected = classifier.model(torch.tensor([ids])).logits[0]
    served: Any = pipeline("text-classification", model=str(tmp_path / "model"), device="cpu")
    if truncate == "head+tail":
        scope: dict[str, Any] = {"tokenizer": served.tokenizer}
        exec(tokens_of(tmp_path / "model"), scope)  # noqa: S102
        assert scope["tokens_of"](letters) == ids and scope["tokens_of"]("a b") == ids[:2]
        found = serve.head_and_tail(served, letters, [2, 4])
    else:
        found = served(letters, truncation=True, top_k=None, function_to_apply="none")
    scores = {entry["label"]: entry["score"] for entry in found}
    assert [scores["no"], scores["yes"]] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_beginning_and_an_end_need_room_and_a_pair_has_none_of_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.max_length: 1 leaves no room for a beginning and an end"):
        build_classifier(recipe_of("random:3", max_length=1, truncate="head+tail"), ["a", "b"], texts=["a b"])
    with pytest.raises(RecipeError, match='write truncate "head" or "tail"'):
        TextData(source="x", text_column=("a", "b"), pair=True, truncate="head+tail")
    save_classifier(build_classifier(recipe_of("random:3", truncate="head+tail"), ["a", "b"], texts=["a b"]), tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    assert config["head_and_tail"] == [64, 192]
    for wrong in ([64, 191], [0, 256], "64", [64.0, 192.0]):
        file.write_text(json.dumps(config | {"head_and_tail": wrong}), encoding="utf-8")
        with pytest.raises(
            RunError, match=r'has "head_and_tail": .*; two numbers of tokens were expected, together model_max_length'
        ):
            load_classifier(tmp_path / "model")


def test_a_tokenizer_of_another_model_is_refused(vectors: str, tmp_path: Path) -> None:
    transformer.save(build(vectors, {"family": "textcnn"}), tmp_path / "model")
    glove.make_tokenizer(["some", "other", "words"]).save_pretrained(tmp_path / "model")
    with pytest.raises(RunError, match="has a tokenizer of 5 words and a model of 8"):
        glove.load(tmp_path / "model")


# --- without hftl -------------------------------------------------------------------------------------------------------------

# Each folder in turn: the tokenizer, the model and a pipeline, as somebody without hftl loads them.
STRANGER = """
import json, sys
sys.modules["hftl"] = None  # an import of it now fails, wherever it is installed
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

texts, *folders = json.loads(sys.argv[1])
answers = []
for folder in folders:
    # A tokenizer needs no code. Without `trust_remote_code` transformers asks at a terminal; here nobody answers.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
    classify = pipeline("text-classification", model=folder, trust_remote_code=True, device="cpu")
    answers.append({
        "logits": logits.tolist(),
        "served": [{entry["label"]: entry["score"] for entry in found} for found in classify(texts, truncation=True, top_k=None)],
        "tokens": tokenizer(texts, truncation=True)["input_ids"],
        "tokenizer": [tokenizer.is_fast, tokenizer.model_max_length, tokenizer.pad_token, tokenizer.unk_token],
        "module": type(model).__module__,
    })
assert not [name for name in sys.modules if name.startswith("hftl.")]
print()
print(json.dumps(answers))
"""


def test_saved_models_give_the_same_logits_where_there_is_no_hftl(vectors: str, tmp_path: Path) -> None:
    texts = ["a GOOD film isn't bad, the bad film", "good <pad> film", ""]
    classifiers = {}
    for family, values in {"textcnn": {"channels": 4}, "bilstm": {"hidden_size": 4, "trainable_dim": 3}, "bag": {}}.items():
        classifier = build(vectors, {"family": family, **values})
        tokenizer_of(classifier).model_max_length = 6
        transformer.save(classifier, tmp_path / family)
        classifiers[str(tmp_path / family)] = classifier

    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", STRANGER, json.dumps([texts, *classifiers])],
        cwd=home,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    for classifier, found in zip(classifiers.values(), json.loads(done.stdout.splitlines()[-1]), strict=True):
        batch = tokenizer_of(classifier)(texts, padding=True, truncation=True, return_tensors="pt")
        assert batch["input_ids"].shape[1] == 6  # cut where training did
        with torch.no_grad():
            logits = classifier.model(**batch).logits
        assert found["logits"] == logits.tolist()
        assert found["tokens"] == tokenizer_of(classifier)(texts, truncation=True)["input_ids"]
        assert found["tokenizer"] == [True, 6, "<pad>", "<unk>"]
        assert found["module"].startswith("transformers_modules.") and found["module"].endswith(".glove_modeling")
        for served, row in zip(found["served"], logits.softmax(dim=1).tolist(), strict=True):
            assert served == pytest.approx(dict(zip(("sad", "glad", "mixed"), row, strict=True)), abs=1e-6)


@pytest.mark.parametrize("values", SPECS)
def test_saving_twice_writes_the_same_bytes_and_loading_changes_none(vectors: str, values: dict[str, Any], tmp_path: Path) -> None:
    classifier = build(vectors, values)
    for name in ("first", "second"):
        transformer.save(classifier, tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "glove_modeling.py"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()} == files
    transformer.save(glove.load(tmp_path / "first"), tmp_path / "third")
    for name in files.keys() - {"tokenizer_config.json"}:  # transformers notes there that a tokenizer came from a folder
        assert (tmp_path / "third" / name).read_bytes() == files[name]
    assert files["glove_modeling.py"] == Path(glove_modeling.__file__).read_bytes()
    assert json.loads(files["config.json"])["auto_map"] == {
        "AutoConfig": f"glove_modeling.{type(classifier.model.config).__name__}",
        "AutoModelForSequenceClassification": f"glove_modeling.{type(classifier.model).__name__}",
    }
    assert str(tmp_path).encode() not in b"".join(files.values())


@pytest.mark.parametrize("trust", [None, False, True])
def test_with_hftl_the_modelling_file_in_the_folder_is_not_run(vectors: str, trust: bool | None, tmp_path: Path) -> None:
    transformer.save(build(vectors, {"family": "textcnn"}), tmp_path / "model")
    (tmp_path / "model" / "glove_modeling.py").write_text("raise SystemExit('the file in the folder was run')")
    assert type(glove.load(tmp_path / "model").model) is TextCNNForSequenceClassification
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", trust_remote_code=trust)
    assert type(model) is TextCNNForSequenceClassification


def test_a_model_saved_before_it_had_a_modelling_file_still_loads(vectors: str, tmp_path: Path) -> None:
    classifier = build(vectors, {"family": "bilstm", "hidden_size": 4})
    transformer.save(classifier, tmp_path / "model")
    (tmp_path / "model" / "glove_modeling.py").unlink()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["auto_map"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    loaded = glove.load(tmp_path / "model")
    assert all(map(torch.equal, classifier.model.state_dict().values(), loaded.model.state_dict().values()))


def test_a_model_without_one_of_its_weights_is_refused(vectors: str, tmp_path: Path) -> None:
    transformer.save(build(vectors, {"family": "textcnn"}), tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["head.linear.bias"]
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"is not complete; missing: head\.linear\.bias"):
        glove.load(tmp_path / "model")


def test_a_configuration_of_another_pooling_or_of_padding_outside_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match='pooling is "median"'):
        GloveBiLSTMConfig(pooling="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pad_token_id 9 and unk_token_id 1 must be among the 4 words"):
        GloveTextCNNConfig(vocab_size=4, pad_token_id=9)


# --- real vectors, real reviews -----------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "dimension", "coverage"), [("glove.6B.50d.5k.txt", 50, 0.862), ("glove.twitter.27B.25d.12k.txt", 25, 0.771)]
)
def test_real_vectors_cover_real_reviews_and_learn_them(shared: Path, file: str, dimension: int, coverage: float) -> None:
    words, found = vector_files.read_vectors(str(shared / "vectors" / file))
    assert found.shape == (len(words), dimension)
    table = pq.read_table(shared / "data" / "imdb" / "train.parquet").take(list(range(0, 25_000, 125)))
    texts, labels = table["text"].to_pylist(), torch.tensor(table["label"].to_pylist())
    torch.manual_seed(0)
    spec = TextCNN(vectors=str(shared / "vectors" / file), channels=20, trainable_dim=10)
    classifier = glove.build(spec, ["neg", "pos"], texts=texts)
    assert classifier.facts["vocabulary"]["share_in_vectors"] == pytest.approx(coverage, abs=0.02)
    known = set(words)
    in_words = [word for word in tokenizer_of(classifier).get_vocab() if word in known]
    assert classifier.facts["vocabulary"]["in_vectors"] == len(in_words)

    batch = tokenizer_of(classifier)(texts[::4], truncation=True, max_length=100, padding=True, return_tensors="pt")
    model = classifier.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(**batch, labels=labels[::4]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
