from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import small
import torch
from conftest import Hftl
from digits import write_digits
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from hftl.models import transformer
from hftl.models.vision import build
from hftl.recipe import Timm, Transformer
from hftl.samples import BERT_NANO, CLOTHES, MOBILENET, REVIEWS

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def reviews(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (Path(REVIEWS) / f"{split}.jsonl").read_text().splitlines()]


def test_the_reviews_are_balanced_and_none_is_there_twice() -> None:
    train, test = reviews("train"), reviews("test")
    assert (len(train), len(test)) == (600, 580)
    assert Counter(row["label"] for row in train) == {"positive": 300, "negative": 300}
    assert Counter(row["label"] for row in test) == {"positive": 290, "negative": 290}
    texts = [" ".join(row["text"].lower().split()) for row in train + test]
    assert len(set(texts)) == 1180


def test_the_samples_stay_under_25_megabytes_and_the_network_for_texts_under_sixteen() -> None:
    files = [path for path in Path(REVIEWS).parent.rglob("*") if path.is_file()]
    assert len(files) > 700
    assert sum(path.stat().st_size for path in files) < 25_000_000
    assert 4_000_000 < sum(path.stat().st_size for path in Path(BERT_NANO).iterdir()) < 16_000_000
    assert (Path(MOBILENET) / "model.safetensors").is_file()


def test_the_photos_are_five_classes_of_equal_size_in_at_most_four_megabytes() -> None:
    photos = sorted(Path(CLOTHES).rglob("*.jpg"))
    classes = ("longsleeve", "outwear", "pants", "shoes", "t-shirt")
    counts = Counter((path.parent.parent.name, path.parent.name) for path in photos)
    assert counts == {(split, name): n for split, n in (("train", 60), ("validation", 20), ("test", 60)) for name in classes}
    assert sum(path.stat().st_size for path in photos) <= 4_000_000
    for path in photos:
        with Image.open(path) as picture:  # what a camera writes of its owner is not in it
            assert (picture.size, picture.mode, dict(picture.getexif())) == ((160, 160), "RGB", {})


def test_the_audit_finds_nothing_in_the_photos(hftl: Hftl) -> None:
    audited = hftl("audit", RECIPES / "quickstart.py", "--json")
    assert audited.code == 0, audited.err
    found = json.loads(audited.out)
    assert {split: facts["n"] for split, facts in found["splits"].items()} == {"train": 300, "validation": 100, "test": 300}
    near = found["near_duplicates"]
    assert (near["within"], near["across"], near["conflicting"]) == ({}, [], 0)
    assert found["skipped"] == [] and found["notes"] == []


def test_mobilenet_is_stored_in_half_precision_and_trained_in_single() -> None:
    stored = load_file(Path(MOBILENET) / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    classifier = build(Timm(checkpoint=MOBILENET), ["a", "b"], image_size=160)
    weights = {name.removeprefix("timm_model."): tensor for name, tensor in classifier.model.state_dict().items()}
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}
    assert len(stored) > 250
    for name, tensor in stored.items():
        assert torch.equal(weights[name], tensor.to(weights[name].dtype)), name


def test_bert_nano_is_stored_in_half_precision_and_trained_in_single() -> None:
    stored = load_file(Path(BERT_NANO) / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    model = transformer.build(Transformer(checkpoint=BERT_NANO, pooling="mean"), ["a", "b"]).model
    weights = dict(model.named_parameters())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert len(stored) == len(weights) - 2 == 53  # all but the new head's weight and bias
    for name, tensor in stored.items():
        (read,) = (weight for own, weight in weights.items() if own.endswith(f".{name}"))
        assert torch.equal(read, tensor.float()), name


def test_bert_nano_spells_every_text_of_the_sample() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BERT_NANO)
    assert len(tokenizer) == json.loads((Path(BERT_NANO) / "config.json").read_text())["vocab_size"] == 11_500
    assert tokenizer.convert_ids_to_tokens(tokenizer("Wonderfully!")["input_ids"]) == ["[CLS]", "wonderful", "##ly", "!", "[SEP]"]
    ids = tokenizer([row["text"] for row in reviews("train") + reviews("test")])["input_ids"]
    assert len(ids) == 1180 and sum(row.count(tokenizer.unk_token_id) for row in ids) == 2  # long dashes


def test_bert_nano_is_made_by_its_script_from_a_small_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher of 6 layers, 16 wide, 32 inside: 3 layers, 24 inside, and 700 pieces are left, and taught for 60 steps."""
    monkeypatch.syspath_prepend(RECIPES)
    maker = importlib.import_module("pretrain_bert_nano")
    tokenizer = AutoTokenizer.from_pretrained(small.BERT_NANO)
    torch.manual_seed(0)
    layers: dict[str, Any] = {
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "initializer_range": 0.5,
    }
    BertModel(BertConfig(vocab_size=len(tokenizer), **layers)).save_pretrained(tmp_path / "minilm")
    tokenizer.save_pretrained(tmp_path / "minilm")
    texts = [row["text"] for row in reviews("train")] * 6
    for split, some in (("train", texts[::2]), ("unsupervised", texts[1::2])):
        pd.DataFrame({"text": some}).to_parquet(tmp_path / f"{split}.parquet")
    words = ["--minilm", tmp_path / "minilm", "--reviews", tmp_path, "--output", tmp_path / "made", "--pieces", 700]
    words += ["--width", 24, "--tokens", 60 * 16 * maker.ROW, "--batch-size", 16, "--lr", 3e-3]
    maker.main([str(word) for word in words])

    start, taught = (AutoModel.from_pretrained(tmp_path / "made" / name, dtype=torch.float32) for name in ("cut", "taught"))
    teacher = AutoModel.from_pretrained(tmp_path / "minilm", dtype=torch.float32)
    assert start.config.num_hidden_layers == taught.config.num_hidden_layers == 3 and taught.config.vocab_size == 700
    cut = AutoTokenizer.from_pretrained(tmp_path / "made/cut")
    assert [cut.convert_tokens_to_ids(piece) for piece in maker.SPECIAL] == [0, 1, 2, 3, 4]
    # A piece has its vector still, rounded to half precision.
    whole, kept = (model.embeddings.word_embeddings.weight for model in (teacher, start))
    piece, before = cut.convert_tokens_to_ids("film"), tokenizer.convert_tokens_to_ids("film")
    assert torch.equal(kept[piece], whole[before].half().float())
    assert [len(layer.intermediate.dense.bias) for layer in taught.encoder.layer] == [24, 24, 24]
    # What was learned: words nearer to what the teacher's fourth layer makes of them with its own pieces, on unseen texts.
    unseen = [row["text"] for row in reviews("test")]
    own, others = maker.rows_of(unseen, *(maker.read(tmp_path / place) for place in ("made/cut", "minilm")))
    assert (own.words.max(axis=1) == others.words.max(axis=1)).all() and len(own.ids) > 100
    teacher.encoder.layer = teacher.encoder.layer[: maker.TEACHER_LAYERS]
    first = np.arange(100)
    with torch.no_grad():
        target = maker.read_words(teacher.eval(), others, first)
        apart = [float((maker.read_words(model.eval(), own, first) - target).square().mean()) for model in (start, taught)]
    assert apart[1] < 0.8 * apart[0]

    written = (tmp_path / "made/taught/model.safetensors").stat().st_mtime_ns
    maker.main([str(word) for word in words])
    assert (tmp_path / "made/taught/model.safetensors").stat().st_mtime_ns == written


def test_the_words_of_a_row_are_the_same_for_every_tokenizer_and_have_the_means_of_their_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(RECIPES)
    maker = importlib.import_module("pretrain_bert_nano")
    (row,) = [[[7], [8, 9]]]
    rows = maker._as_rows([row], maker.read(Path(small.BERT_NANO)))
    assert rows.words[0, :5].tolist() == [-1, 0, 1, 1, -1] and rows.ids[0, 1:4].tolist() == [7, 8, 9]
    states = torch.arange(64.0)[None, :, None].expand(1, 64, 2)
    means = maker.of_words(states, torch.from_numpy(rows.words))
    assert means[0, :3, 0].tolist() == [1.0, 2.5, 0.0]


def test_what_is_left_out_of_a_layer_goes_into_the_bias_with_its_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(RECIPES)
    maker = importlib.import_module("pretrain_bert_nano")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30, num_hidden_layers=1, num_attention_heads=1, hidden_size=4, intermediate_size=6)
    model = cast(Any, BertModel(config, add_pooling_layer=False)).eval()
    layer = model.encoder.layer[0]
    with torch.no_grad():  # two of the six always are gelu(3) and gelu(-3)
        layer.intermediate.dense.weight *= 20
        layer.intermediate.dense.weight[[1, 4]] = 0
        layer.intermediate.dense.bias[[1, 4]] = torch.tensor([3.0, -3.0])
        layer.output.dense.weight[:, [1, 4]] *= 0.01
    ids = torch.randint(0, 30, (3, 7))
    before = model(input_ids=ids).last_hidden_state.detach()
    maker.narrow(model, ids, 4)
    assert layer.intermediate.dense.weight.shape == (4, 4) and model.config.intermediate_size == 4
    torch.testing.assert_close(model(input_ids=ids).last_hidden_state.detach(), before, atol=1e-5, rtol=0)


def test_the_samples_are_what_their_maker_writes(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(RECIPES.parent / "benchmarks")
    maker = importlib.import_module("make_samples")
    collection = shared / "data/clothing"
    assert maker.classes_with_enough(collection) == sorted(path.name for path in (Path(CLOTHES) / "train").iterdir())
    chosen = maker.choose(collection, "outwear")  # the smallest class
    sources = {split: {path.parent.parent.name for path in paths} for split, paths in chosen.items()}
    assert sources == {"train": {"train"}, "validation": {"train"}, "test": {"test", "validation"}}
    for split, paths in chosen.items():
        for number, path in enumerate(paths):
            assert (Path(CLOTHES) / split / "outwear" / f"{number:02d}.jpg").read_bytes() == maker.small(path)
    maker.write_mobilenet(shared / "models/mobilenetv2_100", tmp_path / "mobilenet")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "mobilenet" / name).read_bytes() == (Path(MOBILENET) / name).read_bytes()


def test_digits_are_written_once_with_the_asked_for_number_to_train(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", range(5, 10), train_per_class=8)
    train = sorted(folder.glob("train/*/*.png"))
    assert Counter(path.parent.name for path in train) == dict.fromkeys("56789", 8)
    everything = list(folder.glob("*/*/*.png"))
    assert len(everything) == int((load_digits().target >= 5).sum())
    with Image.open(train[0]) as picture:
        assert picture.size == (32, 32) and np.asarray(picture).max() > 200
    before = train[0].stat().st_mtime_ns
    write_digits(tmp_path / "digits", range(5, 10), train_per_class=8)
    assert train[0].stat().st_mtime_ns == before
