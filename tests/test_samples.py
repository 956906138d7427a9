from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

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
    assert len(tokenizer) == json.loads((Path(BERT_NANO) / "config.json").read_text())["vocab_size"] == 6000
    assert tokenizer.convert_ids_to_tokens(tokenizer("Wonderfully!")["input_ids"]) == ["[CLS]", "wonderful", "##ly", "!", "[SEP]"]
    ids = tokenizer([row["text"] for row in reviews("train") + reviews("test")])["input_ids"]
    assert len(ids) == 1180 and sum(row.count(tokenizer.unk_token_id) for row in ids) == 2  # long dashes


def test_bert_nano_is_made_by_its_script_from_a_small_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher of 6 layers, 16 wide; 3 layers and 700 pieces of it are cut out, and taught for 40 steps of 16 rows."""
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
    for split, place in (("train", "train"), ("unsupervised", "test")):
        pd.DataFrame({"text": [row["text"] for row in reviews(place)] * 3}).to_parquet(tmp_path / f"{split}.parquet")
    words = ["--minilm", tmp_path / "minilm", "--reviews", tmp_path, "--output", tmp_path / "made", "--pieces", 700]
    words += ["--tokens", 40 * 16 * maker.ROW, "--batch-size", 16, "--lr", 3e-3]
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
    # What was learned: states nearer to those of the teacher's fourth layer, on a text of no training row.
    known = cut("A film about a river that I would gladly see again.", return_tensors="pt")
    same = [tokenizer.convert_tokens_to_ids(piece) for piece in cut.convert_ids_to_tokens(known["input_ids"][0])]
    target = teacher(torch.tensor([same]), output_hidden_states=True).hidden_states[maker.TEACHER_LAYERS]
    apart = [float((model(**known).last_hidden_state - target).square().mean().detach()) for model in (start.eval(), taught.eval())]
    assert apart[1] < 0.8 * apart[0]

    written = (tmp_path / "made/taught/model.safetensors").stat().st_mtime_ns
    maker.main([str(word) for word in words])
    assert (tmp_path / "made/taught/model.safetensors").stat().st_mtime_ns == written


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
