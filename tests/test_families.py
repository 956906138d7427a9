"""Each family through the same engine: what is frozen stays, and what is saved serves what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from digits import write_digits
from safetensors.torch import load_file
from small import reviews, small_vectors, train
from transformers import pipeline

from hftl.evaluation.predictions import Predictions
from hftl.files import read_json
from hftl.recipe import BagOfEmbeddings, BiLSTM, ImageData, Recipe, RunSettings, Stage, TextCNN, Timm
from hftl.samples import REVIEWS

TEXT = reviews(96, 24, 30, max_length=40)


def in_class_order(served: list[list[dict[str, Any]]], names: list[str]) -> np.ndarray:
    return np.array([[next(row["score"] for row in rows if row["label"] == name) for name in names] for rows in served])


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_vectors(tmp_path_factory.mktemp("vectors") / "small.txt")


@pytest.mark.parametrize("family", ["textcnn", "bilstm", "bag"])
def test_a_glove_classifier_trains_and_serves_what_was_measured(family: str, vectors: Path, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"vectors": str(vectors), "trainable_dim": 4, "word_dropout": 0.1}
    networks: dict[str, tuple[str, Any]] = {
        "textcnn": ("convolutions", TextCNN(channels=8, **shared)),
        "bilstm": ("lstm.0", BiLSTM(hidden_size=8, layers=1, pooling="max", **shared)),
        "bag": ("ngrams", BagOfEmbeddings(buckets=1000, **shared)),
    }
    body, model = networks[family]
    stages = {"new": Stage(unfreeze=("trainable_embedding", body, "head"), lr=5e-3), "head": Stage(unfreeze="head", lr=1e-3)}
    run = train(
        Recipe(name=family, data=TEXT, model=model, stages=stages, run=RunSettings(batch_size=16, precision="fp32")),
        tmp_path / "run",
    )

    saved = load_file(run.model / "model.safetensors")
    words = json.loads((run.model / "tokenizer.json").read_text())["model"]["vocab"]
    given = {line.split()[0]: line.split()[1:] for line in vectors.read_text().splitlines()}
    kept = [word for word in words if word in given]
    assert len(kept) > 100
    for word in kept:  # the frozen vectors are the file's
        torch.testing.assert_close(saved["embedding.weight"][words[word]], torch.tensor([float(x) for x in given[word]]))

    stored = Predictions.load(run.predictions("test"))
    rows = [json.loads(line)["text"] for line in (Path(REVIEWS) / "test.jsonl").read_text().splitlines()]
    classify = pipeline("text-classification", model=str(run.model), device="cpu")
    served: Any = classify([rows[int(name.rpartition("/")[2])] for name in stored.ids], truncation=True, top_k=None)
    np.testing.assert_allclose(in_class_order(served, ["negative", "positive"]), stored.probabilities, atol=1e-5)
    vocabulary = read_json(run.data)["model"]["vocabulary"]
    assert 0 < vocabulary["share_in_vectors"] < 1 and vocabulary["frequent_without_vector"]


def test_a_resnet_keeps_the_statistics_of_its_frozen_groups_and_serves_what_was_measured(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "digits", range(3), train_per_class=12)
    recipe = Recipe(
        name="resnet",
        data=ImageData(source=str(source), image_size=32, augmentation="light", validation_fraction=0.25, max_test_samples=20),
        model=Timm(checkpoint="test_resnet", pretrained=False),
        stages={"head": Stage(unfreeze="head", lr=1e-2), "top": Stage(unfreeze="last 2", lr=1e-2)},
        run=RunSettings(batch_size=9, precision="fp32", workers=2),
    )
    run = train(recipe, tmp_path / "run")

    saved = load_file(run.model / "model.safetensors")
    means = {name: tensor for name, tensor in saved.items() if name.endswith("running_mean")}
    frozen = [name for name in means if not name.startswith("layer4")]
    assert len(frozen) >= 4
    assert all(torch.count_nonzero(means[name]) == 0 for name in frozen)  # as they were before the first batch
    assert all(torch.count_nonzero(means[name]) > 0 for name in means if name not in frozen)

    stored = Predictions.load(run.predictions("test"))
    pictures = [str(source / name) for name in stored.ids]
    classify = pipeline("image-classification", model=str(run.model), device="cpu")
    served = classify(pictures, top_k=None)
    np.testing.assert_allclose(in_class_order(served, ["0", "1", "2"]), stored.probabilities, atol=1e-5)
    assert timm.create_model(f"local-dir:{run.model}", pretrained=True).num_classes == 3
