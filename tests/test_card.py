"""Model cards of finished runs: valid front matter, true numbers, no invented facts, no leaks, no way to break out of the page."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from odd_pictures import odd_pictures, read_differently
from PIL import Image
from run_factory import CLOTHES, COMMIT, REVIEWS, make_recipe, make_run, opening
from safetensors.torch import save_file
from small import BERT_NANO
from transformers.image_utils import load_image

from hftl.data.decoding import decode
from hftl.errors import RunError
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json, write_json, write_text
from hftl.inference import Predictor
from hftl.models import build_classifier, save_classifier
from hftl.recipe import BiLSTM, Card, ImageData, Recipe, Stage, TextCNN, TextData, Timm, Transformer, local_name, parse_recipe
from hftl.run import RunDirectory
from hftl.sharing.card import hand_written, render_card, write_card
from hftl.sharing.front_matter import LICENSES, check_front_matter
from hftl.sharing.publication import prepare

FAMILIES = ("transformer", "timm", "textcnn", "bilstm")
HOSTILE = (
    "<script>alert(1)</script>",
    "</summary><script>alert(2)</script>",
    "a|b | pipe |",
    "*bold* _it_ hot_dog ~~x~~",
    "[x](javascript:alert(1))",
    "![tracker](https://evil.example/pixel.png)",
    "two\nlines `code` ``` fence",
    "$x$ & \\| <b> \\(y\\)",
    "- a: b",
    "---",
    "# heading #",
    "{{ jinja }} {% if x %}",
    "&lt;b&gt; &#42;",
    "1. one",
)
UNSEEN = "pa\u202eypal\u200b\ufeff\x07\u2066\ud800"  # bidi override and isolate, zero-width, byte order mark, bell, half a pair
SAID: dict[str, Any] = {
    "title": "Film reviews, version 2",
    "summary": "Tells good from bad.\n\n- 2 classes\n- 1 language\n\n```\nnot closed",
    "intended_use": "Reviews of films. ---\n---\nNot of books.",
    "limitations": "Reads 256 tokens.",
    "training_data": "5,000 reviews.",
    "license": "cc-by-4.0",
    "authors": ("A. Author", "B. Author"),
    "citation": "@misc{reviews2026,\n  year = {2026}\n}",
}


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("runs") / "reviews")


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("runs") / "clothes", family="timm", n=372)


Fresh = Callable[[str], RunDirectory]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    return {}


@pytest.fixture
def fresh(made: dict[str, RunDirectory], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Fresh:
    """A run of a family that the test may change, at `tmp_path`/RUN."""

    def copied(family: str) -> RunDirectory:
        if family not in made:
            made[family] = make_run(tmp_path_factory.mktemp("made") / family, family=family, n=60)
        return RunDirectory(Path(shutil.copytree(made[family].path, tmp_path / "RUN")))

    return copied


@pytest.fixture
def copy(text_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A run that the test may change."""
    return RunDirectory(Path(shutil.copytree(text_run.path, tmp_path / "copy")))


def front_matter(card: str) -> dict[str, Any]:
    parts = card.split("---\n", 2)
    assert parts[0] == ""
    loaded: dict[str, Any] = yaml.safe_load(parts[1])
    return loaded


def body(card: str) -> str:
    return card.split("---\n", 2)[2]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def table(card: str, head: str) -> list[list[str]]:
    """Cells of the rows of the table whose head starts with `head`."""
    lines = card[card.index(f"| {head} |") :].splitlines()
    rows = [cells(line) for line in lines[: lines.index("")]]
    assert len({len(row) for row in rows}) == 1
    return rows[2:]


def paragraph(card: str, start: str) -> str:
    """The paragraph that starts so, on one line."""
    return " ".join(card[card.index(start) :].split("\n\n")[0].split())


def as_html(card: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(body(card)))


def with_card(copy: RunDirectory, family: str = "transformer", **card: Any) -> RunDirectory:
    write_text(copy.recipe, make_recipe(family, **card).to_yaml())
    return copy


# --- front matter -------------------------------------------------------------------------------------------------------------


def test_the_hub_reads_the_front_matter_and_its_model_index(text_run: RunDirectory) -> None:
    path = write_card(text_run)
    assert path == text_run.card
    data = ModelCard.load(path).data
    assert (data.library_name, data.pipeline_tag, data.datasets, data.tags) == (
        "transformers",
        "text-classification",
        ["stanfordnlp/imdb"],
        ["hftl"],
    )
    assert data.base_model is None  # a local checkpoint whose origin nobody recorded
    assert data.license is None
    values = read_json(text_run.metrics)["test"]
    name, results = model_index_to_eval_results(front_matter(render_card(text_run))["model-index"])
    assert name == "transformer-trial"
    assert {result.metric_type: result.metric_value for result in results} == {
        "accuracy": round(values["accuracy"], 6),
        "balanced_accuracy": round(values["balanced_accuracy"], 6),
        "f1": round(values["macro_f1"], 6),
        "matthews_correlation": round(values["mcc"], 6),
        "cohen_kappa": round(values["kappa"], 6),
        "roc_auc": round(values["auc"], 6),
        "log_loss": round(values["log_loss"], 6),
        "expected_calibration_error": round(values["expected_calibration_error"], 6),
    }
    assert {(result.dataset_type, result.dataset_split, result.dataset_revision) for result in results} == {
        ("stanfordnlp/imdb", "test", COMMIT)
    }


def test_a_timm_model_is_declared_as_one(image_run: RunDirectory) -> None:
    card = render_card(image_run, repo_id="me/clothes")
    data = front_matter(card)
    assert (data["library_name"], data["pipeline_tag"], data["base_model"]) == (
        "timm",
        "image-classification",
        "timm/resnet18.a1_in1k",
    )
    assert "datasets" not in data
    assert data["model-index"][0]["name"] == "clothes"
    assert data["model-index"][0]["results"][0]["dataset"] == {"name": "clothing", "type": "clothing", "split": "test"}
    assert 'pipeline("image-classification", model="me/clothes")' in card
    assert 'timm.create_model("hf-hub:me/clothes", pretrained=True)' in card


def test_what_a_person_said_goes_into_the_front_matter(copy: RunDirectory) -> None:
    said: dict[str, Any] = {
        "license": "apache-2.0",
        "language": "en",
        "tags": ("film", "hftl"),
        "base_model": "me/bert-nano",
        "dataset": "me/reviews",
        "dataset_name": "Film reviews: all",
    }
    data = front_matter(render_card(with_card(copy, **said)))
    assert (data["license"], data["language"], data["base_model"], data["datasets"]) == (
        "apache-2.0",
        "en",
        "me/bert-nano",
        ["me/reviews"],
    )
    assert data["tags"] == ["hftl", "film"]
    dataset = data["model-index"][0]["results"][0]["dataset"]
    # The recorded revision is that of the source, and is not claimed for another data set.
    assert dataset == {"name": "Film reviews: all", "type": "me/reviews", "split": "test"}


def test_front_matter_cannot_be_broken_out_of(copy: RunDirectory) -> None:
    evil = "mit\n---\n# Surprise\n<script>"
    card = render_card(with_card(copy, license=evil, tags=("a: b", "- c", "*d"), dataset_name="x: {y}\n---\n"))
    write_text(copy.card, card)
    data = ModelCard.load(copy.card).data
    assert data.license == evil
    assert data.tags == ["hftl", "a: b", "- c", "*d"]
    assert data.eval_results is not None and data.eval_results[0].dataset_name == "x: {y}\n---\n"


def test_random_weights_have_no_base_model(copy: RunDirectory) -> None:
    recipe = make_recipe("transformer", base_model="me/bert-nano")
    scratch = recipe.model_copy(update={"model": recipe.model.model_copy(update={"pretrained": False})})
    write_text(copy.recipe, scratch.to_yaml())
    card = render_card(copy)
    assert "base_model" not in front_matter(card)
    assert "trained from random weights" in card
    assert "- Start: the architecture bert-nano, random weights." in card


def test_a_model_of_another_run_is_called_by_that_run(copy: RunDirectory) -> None:
    recipe = make_recipe("transformer")
    spec = recipe.model.model_copy(update={"checkpoint": "/home/secret/runs/digits-0-to-4/model/"})
    write_text(copy.recipe, recipe.model_copy(update={"model": spec}).to_yaml())
    card = render_card(copy)
    assert "fine-tuned from digits-0-to-4/model in 3 stages" in card
    assert "secret" not in card


# --- numbers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["text_run", "image_run"])
def test_each_number_of_the_results_table_is_that_of_metrics_json(which: str, request: pytest.FixtureRequest) -> None:
    run: RunDirectory = request.getfixturevalue(which)
    metrics = read_json(run.metrics)
    keys = {
        "Accuracy": "accuracy",
        "Balanced accuracy": "balanced_accuracy",
        "Accuracy of the top three": "top_3_accuracy",
        "Macro F1": "macro_f1",
        "Matthews correlation": "mcc",
        "Kappa (Cohen)": "kappa",
        "AUC (ROC)": "auc",
        "Log loss": "log_loss",
        "Expected calibration error": "expected_calibration_error",
    }
    rows = table(render_card(run), "metric")
    assert len(rows) == (12 if which == "text_run" else 13)  # top three of two classes is no number
    for name, value, interval, split, n, source in rows:
        values = metrics[split]
        assert (n, source) == (str(values["n"]), f"`predictions/{split}.parquet`")
        assert (run.path / source.strip("`")).is_file()
        key = "majority_accuracy" if name == f'Baseline: accuracy of always "{values["majority_label"]}"' else keys[name]
        assert value == f"{values[key]:.3f}"
        limits = values.get(f"{key}_interval")
        assert interval == (f"{limits[0]:.3f} to {limits[1]:.3f}" if limits else "–")
    assert [row[0] for row in rows if row[2] == "–"] == ["Expected calibration error"]


def test_the_headline_names_split_interval_and_number_of_examples(text_run: RunDirectory) -> None:
    values = read_json(text_run.metrics)["test"]
    low, high = values["accuracy_interval"]
    opening = " ".join(render_card(text_run).split("## How to use it")[0].split())
    said = f"**Accuracy on the test split: {values['accuracy']:.3f}** (95 % interval {low:.3f} to {high:.3f}, n = 160)."
    baseline = f'Always answering "{values["majority_label"]}", its most frequent class, reaches {values["majority_accuracy"]:.3f}.'
    assert f"{said} {baseline}" in opening


def test_the_class_table_and_the_worst_class_are_those_of_metrics_json(image_run: RunDirectory) -> None:
    card, values = render_card(image_run), read_json(image_run.metrics)["test"]
    for row, (label, n, precision, recall, f1) in zip(values["per_class"], table(card, "class"), strict=True):
        assert (label, n, f1) == (row["label"], str(row["n"]), f"{row['f1']:.3f}")
        for shown, key in ((precision, "precision"), (recall, "recall")):
            low, high = row[f"{key}_interval"]
            assert shown == f"{row[key]:.3f} ({low:.3f} to {high:.3f})"
    worst = min(values["per_class"], key=lambda row: row["f1"])
    found = values["confusion"][CLOTHES.index(worst["label"])][CLOTHES.index(worst["label"])]
    said = (
        f'**Worst class:** "{worst["label"]}" has the lowest F1, {worst["f1"]:.3f}: {found} of its {worst["n"]} examples are found'
    )
    assert said in card


def test_the_stage_table_shows_rates_as_planned(text_run: RunDirectory) -> None:
    rows = {row[0]: row[1:] for row in table(render_card(text_run), "layer group")}
    assert rows["head"] == ["16,770", "1.0e-03", "3.0e-04", "3.0e-03"]
    assert rows["layer.3"] == ["198,272", "frozen", "2.4e-04", "2.4e-04"]  # 3e-4 * 0.8
    assert rows["embeddings"] == ["1,114,368", "frozen", "frozen", "9.8e-05"]  # 3e-4 * 0.8 ** 5
    assert rows["*trains*"] == ["1,924,226", "0.9 %", "21.5 %", "100 %"]
    assert rows["*schedule*"] == ["", "constant", "linear", "slanted_triangular"]
    assert rows["*steps*"] == ["", "12", "12", "18"]  # 87 examples / 16 = 6 steps an epoch
    assert rows["*best epoch*"] == ["", "2", "2", "3"]


def test_what_pictures_go_through_is_shown(image_run: RunDirectory) -> None:
    line = next(line for line in render_card(image_run).splitlines() if line.startswith("- Preprocessing"))
    facts = [
        "input size 3 x 224 x 224",
        "interpolation bicubic",
        "crop pct 0.95",
        "mean 0.485, 0.456, 0.406",
        "std 0.229, 0.224, 0.225",
    ]
    assert line == f"- Preprocessing, in timm's words: {'; '.join(facts)}."
    assert "- Augmentation, in training only: standard." in render_card(image_run)


def test_the_dropout_that_a_recipe_asks_for_is_shown_and_no_other(copy: RunDirectory) -> None:
    assert "- Dropout, in training only" not in render_card(copy)
    recipe = make_recipe("transformer")
    model = recipe.model.model_copy(update={"head_dropout": 0.3, "drop_path": 0.05})
    write_text(copy.recipe, recipe.model_copy(update={"model": model}).to_yaml())
    assert "- Dropout, in training only: drop_path 0.05, head_dropout 0.3." in render_card(copy).splitlines()


def test_a_faultless_model_has_no_worst_class(copy: RunDirectory) -> None:
    labels = np.array([0, 1] * 20)
    logits = np.where(labels[:, None] == np.arange(2), 4.0, -4.0).astype(np.float32)
    values = Predictions([f"test/{i}" for i in range(40)], labels, logits).metrics(REVIEWS)
    card = render_card(copy, metrics={"test": values, "validation": values})
    assert "**Errors:** none. All 40 predictions are right." in card
    assert "Worst class" not in card and "taken for" not in card
    assert ["Macro F1", "1.000", "–"] in [row[:3] for row in table(card, "metric")]


def test_counts_of_each_class_and_split_are_shown(image_run: RunDirectory) -> None:
    card, data = render_card(image_run), read_json(image_run.data)
    counts = table(card[card.index("## Training data") :], "class")
    assert [row[0] for row in counts[:10]] == list(CLOTHES)
    for row in counts[:10]:
        assert row[1:] == [str(data["splits"][split]["per_class"][row[0]]) for split in ("train", "validation", "test")]
    assert counts[10] == ["**all**", *(f"**{data['splits'][split]['n']}**" for split in ("train", "validation", "test"))]
    assert "Validation split: made from train: 10 %, stratified, seed 0." in card
    assert "Skipped because they could not be read: 1." in card


def test_rows_of_a_stream_are_not_taken_for_a_sample(copy: RunDirectory) -> None:
    assert "Streamed" not in render_card(copy)
    what = "the first 500 rows of a shuffle buffer of 10,000 rows, not a uniform sample"
    streamed = {"rows": 500, "buffer": 10_000, "seed": 0, "what": what, "taken": {"train": 500, "test": 90}, "whole": ["test"]}
    write_json(copy.data, {**read_json(copy.data), "streamed": streamed})
    said = f"**Streamed, a part of the source:** of each split {what}. All rows that there are: test."
    assert said in render_card(copy).splitlines()


def test_rows_that_are_missing_from_the_numbers_are_counted_beside_them(copy: RunDirectory) -> None:
    assert "left out" not in render_card(copy)
    said = "2 more texts of the test split were left out, and are in none of these numbers; see the training data for why."
    assert said in render_card(copy, metrics=changed(copy, skipped=2))
    assert "\n\n1 more text of the test split was left out, and is in" in render_card(copy, metrics=changed(copy, skipped=1))


def test_without_a_test_split_validation_numbers_are_marked_as_such(tmp_path: Path) -> None:
    card = render_card(make_run(tmp_path / "run", test=False))
    assert "**There is no test split.**" in card
    assert "**Accuracy on the validation split:" in card
    assert "from `predictions/validation.parquet`" in card and "test.parquet" not in card
    assert {row[3] for row in table(card, "metric")} == {"validation"}
    assert "test split was opened" not in card
    [result] = front_matter(card)["model-index"][0]["results"]
    assert result["dataset"]["split"] == "validation"
    assert all(metric["name"].endswith("(validation)") for metric in result["metrics"])


def test_an_undefined_auc_is_said_to_be_undefined(copy: RunDirectory) -> None:
    metrics = read_json(copy.metrics)
    metrics["test"] |= {"auc": None, "auc_interval": None, "auc_undefined": 'no example of "neg" in the split'}
    metrics["test"]["per_class"][0] |= {"recall": None, "f1": None, "n": 0}
    write_json(copy.metrics, metrics)
    card = render_card(copy)
    assert ["AUC (ROC)", "undefined", "–", "test", "160", "`predictions/test.parquet`"] in table(card, "metric")
    assert 'AUC is undefined: no example of "neg" in the split.' in card
    assert "roc_auc" not in card
    assert '**Worst class:** "pos"' in card
    assert '**Classes without an example:** "neg". Nothing was measured about it.' in card


@pytest.mark.parametrize(
    ("openings", "said"),
    [
        (1, "**The test split was opened once**"),
        (3, "**The test split was opened 3 times:**"),
        (0, "How often the test split was opened is not recorded"),
    ],
)
def test_openings_of_the_test_split_are_shown_plainly(copy: RunDirectory, openings: int, said: str) -> None:
    records = [opening(time=f"2026-11-2{i}T10:11:12+00:00", purpose="again", by="hftl evaluate") for i in range(openings)]
    write_text(copy.test_openings, "".join(json.dumps(record) + "\n" for record in records))
    card = render_card(copy)
    assert said in card
    assert all(f"2026-11-2{i}T10:11:12+00:00 by hftl evaluate" in card for i in range(openings))


def test_a_run_that_was_stopped_with_the_test_split_open_says_so(copy: RunDirectory) -> None:
    by = [("train", "hftl train"), ("train", "hftl train, continued"), ("again", "hftl verify --data")]
    records = [opening(time=f"2026-11-2{i}T10:11:12+00:00", purpose=why, by=name) for i, (why, name) in enumerate(by)]
    lines = [json.dumps(record) + "\n" for record in records]
    write_text(copy.test_openings, "".join(lines))
    assert paragraph(render_card(copy), "**The test split was opened").startswith(
        "**The test split was opened 3 times:** 2026-11-20T10:11:12+00:00 by hftl train; 2026-11-21T10:11:12+00:00 by hftl train, "
        "continued; 2026-11-22T10:11:12+00:00 by hftl verify --data. Training was interrupted before the numbers were written, and "
        "opened it again when it was continued; it chose nothing by it. The numbers above are from the last opening by hftl train, "
        "at 2026-11-21T10:11:12+00:00."
    )
    write_text(copy.test_openings, lines[0] + lines[2])
    said = "The numbers above are from the opening by hftl train, at 2026-11-20T10:11:12+00:00."
    assert said in paragraph(render_card(copy), "**The test split was opened 2 times:**")
    write_text(copy.test_openings, 2 * lines[2])
    assert "Which of them the numbers above are from is not recorded." in render_card(copy)


# --- the freeze proof ---------------------------------------------------------------------------------------------------------

ONE_HASH, ANOTHER = {"parameters": 64 * "a", "buffers": 64 * "b"}, {"parameters": 64 * "c", "buffers": 64 * "b"}


def with_proof(copy: RunDirectory, change: Callable[[list[dict[str, Any]]], object]) -> str:
    """The card of a run whose proof was changed; `ok` is left as it was."""
    proof = read_json(copy.freeze_proof)
    change(proof["stages"])
    write_json(copy.freeze_proof, proof)
    return render_card(copy)


def frozen_row(card: str) -> list[str]:
    return next(row for row in table(card, "layer group") if row[0] == "*frozen unchanged*")


def test_what_freezing_did_is_told_by_the_hashes(copy: RunDirectory) -> None:
    card = render_card(copy)
    assert frozen_row(card) == ["*frozen unchanged*", "", "yes", "yes", "–"]  # the last stage freezes nothing
    taken = "SHA-256 of the parameters and buffers of every group was taken before and after each stage (`freeze_proof.json`). "
    assert paragraph(card, "SHA-256") == f"{taken}No frozen group changed, and the parameters of every group that trained did."

    card = with_proof(copy, lambda stages: stages[2]["groups"][1].update(before=ONE_HASH, after=ONE_HASH))
    assert paragraph(card, "SHA-256") == f"{taken}No frozen group changed. **Trained, and not moved:** layer.0 in stage all."
    # "ok" says true all the same; the card believes the hashes.
    card = with_proof(copy, lambda stages: stages[1]["groups"][0].update(before=ONE_HASH, after=ANOTHER))
    assert frozen_row(card)[2:] == ["yes", "no", "–"]
    assert (
        "**Frozen, and changed all the same:** embeddings in stage top.\n**Trained, and not moved:** layer.0 in stage all." in card
    )


def test_statistics_that_moved_in_a_frozen_group_are_a_change(copy: RunDirectory) -> None:
    changed = {**ONE_HASH, "buffers": 64 * "d"}
    card = with_proof(copy, lambda stages: stages[0]["groups"][0].update(before=ONE_HASH, after=changed))
    assert "**Frozen, and changed all the same:** embeddings in stage head." in card
    card = with_proof(copy, lambda stages: stages[0]["groups"][0].update(after=ONE_HASH, trains=True))
    assert "**Trained, and not moved:** embeddings in stage head." in card


def test_of_a_run_that_froze_nothing_nothing_is_claimed(copy: RunDirectory) -> None:
    plan = read_json(copy.plan)
    write_json(copy.plan, plan | {"stages": plan["stages"][2:]})
    card = with_proof(copy, lambda stages: stages.__delitem__(slice(2)))
    assert "No stage froze a group, and the parameters of every group changed." in card


def test_a_proof_of_other_stages_than_the_plan_has_proves_nothing(copy: RunDirectory) -> None:
    card = with_proof(copy, lambda stages: stages.pop(1))
    assert frozen_row(card)[2:] == ["yes", "not recorded", "–"]
    assert "Whether each stage left its frozen groups as they were is not recorded." in card and "No frozen group" not in card


def test_a_run_in_several_sessions_says_so(copy: RunDirectory) -> None:
    assert "Training time: 1 min 26 s, on AMD" in render_card(copy)
    write_json(copy.environment, read_json(copy.environment) | {"sessions": 1})
    assert "Training time: 1 min 26 s, on AMD" in render_card(copy)
    write_json(copy.environment, read_json(copy.environment) | {"sessions": 3})
    assert "Training time: 1 min 26 s, in 3 sessions, on AMD" in render_card(copy)


# --- what the audit found -----------------------------------------------------------------------------------------------------


def with_duplicates(
    copy: RunDirectory, near: dict[str, Any] | None = None, skipped: tuple[tuple[str, str], ...] = (), **found: Any
) -> str:
    data, audit = read_json(copy.data), read_json(copy.audit)
    data["duplicates"] |= found
    data["skipped"] = [{"id": f"train/{i}", "split": "train", "kind": kind, "why": why} for i, (kind, why) in enumerate(skipped)]
    audit["near_duplicates"] |= near or {}
    write_json(copy.data, data)
    write_json(copy.audit, audit)
    return render_card(copy)


def test_data_without_duplicates_take_one_sentence(text_run: RunDirectory, image_run: RunDirectory) -> None:
    assert paragraph(render_card(text_run), "**Duplicates") == "**Duplicates:** none. No two texts are equal or nearly equal."
    assert paragraph(render_card(image_run), "**Duplicates") == "**Duplicates:** none. No two pictures are equal or nearly equal."
    assert "Not new to the model" not in render_card(text_run)


def test_duplicates_that_were_left_out_are_counted_apart_from_what_could_not_be_read(copy: RunDirectory) -> None:
    card = with_duplicates(
        copy,
        skipped=(
            ("duplicate", "the same text as test/4"),
            ("conflict", "two labels for the same text: train/3 (neg), train/9 (pos)"),
            ("not UTF-8", "not UTF-8"),
        ),
        on_duplicate="drop",
        across=[{"splits": ["train", "test"], "pairs": 1}],
        conflicting={"train": 2},
        within={"train": 1, "test": 1_200},
    )
    assert "Skipped because they could not be read: 1." in card
    assert paragraph(card, "**Equal texts") == (
        "**Equal texts in the source, but for case and white space:** 1 in both train and test; 2 rows of train whose text is "
        "there with another class, too; 1 row of train that repeats an earlier one; 1,200 rows of test that repeat an earlier one. "
        "Left out for it: 2 rows. Train gives way to validation, both give way to test, and a text with several classes goes "
        "altogether. Rows that only repeat one of their split were kept."
    )
    assert "\n\nNo two texts are nearly equal.\n" in card
    assert "Not new to the model" not in card


def test_what_training_has_seen_of_the_test_split_is_among_the_limits(copy: RunDirectory) -> None:
    across = [{"splits": ["train", "test"], "pairs": 123}, {"splits": ["train", "validation"], "pairs": 7}]
    card = with_duplicates(copy, on_duplicate="keep", across=across)
    assert paragraph(card, "**Equal texts").endswith("123 in both train and test; 7 in both train and validation. They were kept.")
    assert paragraph(card, "**Not new") == (
        "**Not new to the model:** 123 texts are in both train and test of the source. The numbers above count them as they count "
        "all others."
    )
    near = {"across": [{"splits": ["train", "test"], "rows": 1}], "within": {"train": 5}, "conflicting": 1}
    card = with_duplicates(copy, near)
    assert paragraph(card, "**Nearly equal") == (
        "**Nearly equal texts in these splits, of a similarity of 0.8 or more:** 1 in test like one of train; 5 in train like "
        "another one there; 1 group of them with more than one class. They were kept."
    )
    assert (
        "123 texts are in both train and test of the source, and 1 text of the test split is nearly the same as one of train."
        in card
    )
    card = with_duplicates(copy, on_duplicate="error", across=[])
    assert "**Not new to the model:** 1 text of the test split is nearly the same as one of train." in paragraph(card, "**Not new")


def test_audit_and_proof_are_published_without_the_places_of_this_machine(copy: RunDirectory) -> None:
    with_card(copy, license="mit")
    save_file({"weight": torch.zeros(1)}, copy.path / "model.safetensors")
    write_json(copy.path / "config.json", {})
    place = "/home/secret/models/bert-nano"
    write_json(copy.audit, read_json(copy.audit) | {"skipped": [{"why": f"{place}/a.txt is empty", "n": 1}]})
    publication = prepare(copy, "me/reviews")
    files = publication.files
    assert files["freeze_proof.json"].read_bytes() == copy.freeze_proof.read_bytes()
    assert read_json(files["audit.json"])["skipped"] == [{"why": "local:bert-nano/a.txt is empty", "n": 1}]
    assert {"audit.json", "freeze_proof.json"} <= set(read_json(files["manifest.json"])["files"])
    copy.audit.unlink()
    copy.freeze_proof.unlink()
    with pytest.raises(RunError, match=r"audit\.json: missing; the run is not whole\n.*freeze_proof\.json: missing"):
        prepare(copy, "me/reviews")


# --- measured limits ----------------------------------------------------------------------------------------------------------


def changed(run: RunDirectory, **values: Any) -> dict[str, Any]:
    """The run's metrics with other values on the test split."""
    metrics: dict[str, Any] = read_json(run.metrics)
    metrics["test"] |= values
    return metrics


def test_a_card_can_be_rendered_from_other_metrics_than_those_on_disk(text_run: RunDirectory) -> None:
    card = render_card(text_run, metrics=changed(text_run, accuracy=0.123456))
    assert "**Accuracy on the test split: 0.123**" in card and "value: 0.123456" in card
    assert render_card(text_run, metrics=read_json(text_run.metrics)) == render_card(text_run)


@pytest.mark.parametrize(
    ("error", "confidence", "said"),
    [
        (
            0.05,
            0.9,
            "would show 0.020 to 0.060 on so many examples (95 % range), so this is no sign of bad calibration. "
            "The mean confidence is 0.900, and the accuracy 0.800: the model is overconfident by 0.100 on average.",
        ),
        (
            0.08,
            0.75,
            "so its confidences are off by more than chance. The mean confidence is 0.750, inside the interval of the accuracy.",
        ),
        (0.08, 0.6, "the model is underconfident by 0.200 on average."),
    ],
)
def test_calibration_is_told_against_chance(text_run: RunDirectory, error: float, confidence: float, said: str) -> None:
    values = {
        "accuracy": 0.8,
        "accuracy_interval": [0.73, 0.85],
        "expected_calibration_error": error,
        "expected_calibration_error_by_chance": [0.02, 0.06],
        "mean_confidence": confidence,
    }
    told = paragraph(render_card(text_run, metrics=changed(text_run, **values)), "**Calibration:**")
    assert told.startswith(f"**Calibration:** the expected calibration error over 15 bins of confidence is {error:.3f}. ")
    assert said in told


def test_errors_are_counted_and_the_most_confident_ones_named(text_run: RunDirectory) -> None:
    shown = [
        {"id": "test/7", "label": "neg", "prediction": "pos", "confidence": 0.99987},
        {"id": "test/3", "label": "pos", "prediction": "neg", "confidence": 0.91},
    ]
    values = {"errors": {"n": 20, "confident": 2, "most_confident": shown}, "confusion": [[70, 12], [8, 70]]}
    card = render_card(text_run, metrics=changed(text_run, **values))
    told = paragraph(card, "**Errors:**")
    assert told == (
        "**Errors:** 20 of 160 predictions are wrong (12.5 %), 2 of them with a confidence of 0.9 or more. The most frequent "
        'confusions are "neg" taken for "pos" (12 of 82), "pos" taken for "neg" (8 of 78).'
    )
    assert table(card, "id") == [["test/7", "neg", "pos", "> 0.999"], ["test/3", "pos", "neg", "0.910"]]


def test_of_many_confusions_the_three_most_frequent_are_named(image_run: RunDirectory) -> None:
    confusion = np.array(read_json(image_run.metrics)["test"]["confusion"])
    np.fill_diagonal(confusion, 0)
    told = paragraph(render_card(image_run), "**Errors:**")
    counts = [int(count) for count in re.findall(r"\((\d+) of \d+\)", told)]
    assert counts == sorted(confusion.ravel().tolist(), reverse=True)[:3]


def by_size(*intervals: tuple[float, float]) -> list[dict[str, Any]]:
    return [
        {"low": 10 * i, "high": 10 * i + 9, "n": 40, "accuracy": sum(pair) / 2, "accuracy_interval": list(pair)}
        for i, pair in enumerate(intervals, start=1)
    ]


def test_accuracy_by_length_is_a_table_and_a_sentence(text_run: RunDirectory) -> None:
    rows = by_size((0.80, 0.90), (0.82, 0.92), (0.60, 0.79), (0.78, 0.88))
    card = render_card(text_run, metrics=changed(text_run, by_size=rows, size_unit="tokens"))
    told = paragraph(card, "**Length:**")
    assert told.startswith("**Length:** the accuracy is lowest, 0.695, for texts of 30 to 39 tokens. Not all intervals overlap:")
    assert table(card, "tokens, before the cut")[2] == ["30 to 39", "40", "0.695", "0.600 to 0.790"]
    assert (
        "reads the first 256 tokens of a text only; 27.1 % of the training texts and 27.1 % of the test texts are longer." in card
    )


def test_overlapping_intervals_allow_no_conclusion(image_run: RunDirectory) -> None:
    rows = by_size((0.80, 0.90), (0.82, 0.92), (0.70, 0.83), (0.78, 0.88))
    card = render_card(image_run, metrics=changed(image_run, by_size=rows, size_unit="pixels"))
    told = paragraph(card, "**Picture size:**")
    assert told.endswith(
        "for pictures of 30 to 39 pixels. All intervals overlap, so nothing should be concluded from the differences."
    )
    one = render_card(image_run, metrics=changed(image_run, by_size=by_size((0.8, 0.9))[:1], size_unit="pixels"))
    assert "**Picture size:** most examples have the same, so how the accuracy depends on it was not measured." in " ".join(
        one.split()
    )


def test_a_worst_class_that_may_be_so_by_chance_is_said_to_be_one(text_run: RunDirectory) -> None:
    per_class = read_json(text_run.metrics)["test"]["per_class"]
    for row, low in zip(per_class, (0.70, 0.75), strict=True):
        row |= {"f1": low, "precision_interval": [low, low + 0.1], "recall_interval": [low, low + 0.1]}
    by_chance = "Its intervals overlap with those of every other class, so it may be the worst by chance."
    assert by_chance in render_card(text_run, metrics=changed(text_run, per_class=per_class))
    per_class[1]["recall_interval"] = [0.81, 0.95]
    assert by_chance not in render_card(text_run, metrics=changed(text_run, per_class=per_class))


def test_small_classes_are_named_with_the_widest_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", label_names=("a", "b", "c"), n=120)
    values = read_json(run.metrics)
    for row, n in zip(values["test"]["per_class"], (29, 30, 4), strict=True):
        row |= {"n": n, "recall_interval": [0.5 - 1 / n, 0.5 + 1 / n]}
    told = paragraph(render_card(run, metrics=values), "**Small classes:**")
    assert told == (
        '**Small classes:** "a" (29), "c" (4) have fewer than 30 examples, so their numbers are rough: the recall of "c" lies '
        "anywhere from 0.250 to 0.750."
    )


def test_pictures_that_a_pipeline_reads_otherwise_are_counted(image_run: RunDirectory) -> None:
    start = "**Transparent pictures, and those with more than 8 bits a channel:**"
    told = paragraph(render_card(image_run), start)
    assert "of 491 training pictures 3 are of the first kind and 0 of the second." in told
    assert "hftl lays a transparent picture on RGB 255, 255, 255 and scales to 8 bits" in told and "Use `hftl predict`" in told


def test_accuracy_by_length_is_not_recorded_where_the_predictions_have_no_sizes(text_run: RunDirectory) -> None:
    card = render_card(text_run, metrics=changed(text_run, size_unit=None, by_size=None))
    assert "**Length:** how the accuracy depends on it is not recorded." in card


def test_energy_is_told_in_two_units_and_for_what_it_is(copy: RunDirectory) -> None:
    assert "Energy of the CPU packages in that time: 5.4 kJ (1.5 Wh). Memory, disks and cooling are not in it." in render_card(copy)
    environment = read_json(copy.environment)
    write_json(copy.environment, {**environment, "cpu_energy_joules": 1_234_567.0, "device": "cuda"})
    assert "1,235 kJ (343 Wh). Memory, disks, accelerators and cooling are not in it." in render_card(copy)  # / 3600
    write_json(copy.environment, {**environment, "cpu_energy_joules": None})
    assert "Energy of the CPU packages in that time: not recorded." in render_card(copy)


def test_a_number_that_is_nearly_nothing_or_nearly_one_is_not_rounded_to_it(text_run: RunDirectory) -> None:
    values = {
        "expected_calibration_error": 0.0002,
        "auc": 0.99996,
        "auc_interval": [0.9981, 1.0],
        "mcc": -0.0001,
        "mcc_interval": None,
    }
    rows = {row[0]: row[1:3] for row in table(render_card(text_run, metrics=changed(text_run, **values)), "metric")}
    assert rows["Expected calibration error"][0] == "< 0.001"
    assert rows["AUC (ROC)"] == ["> 0.999", "0.998 to 1.000"]
    assert rows["Matthews correlation"] == ["> -0.001", "–"]


# --- what a person wrote ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_person_wrote_stands_on_lines_of_its_own(fresh: Fresh, family: str) -> None:
    run = fresh(family)
    plain = render_card(run, repo_id="me/trial").splitlines()
    lines = render_card(with_card(run, family, **SAID), repo_id="me/trial").splitlines()
    by_hand = hand_written(run.load_recipe())
    assert [line for line in by_hand if line not in lines] == []
    assert by_hand[0] == "# Film reviews, version 2" and "> - 2 classes" in by_hand and "  year = {2026}" in by_hand
    assert {"Licence: cc-by-4.0.", "Authors: A. Author, B. Author.", "> 5,000 reviews."} <= set(by_hand)
    # And nothing else was written by a person: beside these lines the two cards say the same.
    ours = [line for line in lines if line not in by_hand and line not in plain]
    assert ours == ["license: cc-by-4.0", "What it is meant for, in its authors' words:", "In the authors' words:"]
    assert hand_written(make_recipe(family)) == []


@pytest.mark.parametrize("repo_id", [None, "me/trial"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_recipe_gives_the_same_card_as_the_original(fresh: Fresh, family: str, repo_id: str | None) -> None:
    run = fresh(family)
    recipe = make_recipe(family, dataset_name="The set")
    if family == "transformer":
        model = Transformer(checkpoint="/home/secret/runs/digits/model")
        recipe = recipe.model_copy(update={"model": model, "data": TextData(source="/home/secret/reviews.csv")})
        write_json(run.data, {**read_json(run.data), "format": "csv", "revision": None})
    write_text(run.recipe, recipe.to_yaml())
    original = render_card(run, repo_id=repo_id)
    places: dict[str, dict[str, str]] = {"data": {}, "model": {}}
    if family in {"transformer", "timm"}:
        places["data"]["source"] = {"transformer": "local:reviews.csv", "timm": "local:clothing"}[family]
    if family != "timm":
        key = "checkpoint" if family == "transformer" else "vectors"
        names = {"transformer": "digits/model", "textcnn": "glove.6B.50d.txt", "bilstm": "glove.6B.zip:glove.6B.50d.txt"}
        places["model"][key] = f"local:{names[family]}"
    published = recipe.model_copy(
        update={part: getattr(recipe, part).model_copy(update=changes) for part, changes in places.items()}
    )
    assert "secret" not in published.to_yaml()
    write_text(run.recipe, parse_recipe(published.to_yaml(), source="published").to_yaml())
    assert render_card(run, repo_id=repo_id) == original
    assert "local:" not in original and "secret" not in original


def test_local_things_are_called_by_their_names() -> None:
    assert local_name("data/photos/") == local_name("local:photos") == local_name("C:\\Users\\me\\photos") == "photos"
    assert local_name("/runs/digits/model/") == local_name("local:digits/model") == "digits/model"
    assert local_name("model") == "model"
    assert local_name("/x/glove.6B.zip:glove.6B.50d.txt") == "glove.6B.zip:glove.6B.50d.txt"


def test_word_vectors_of_the_hub_need_not_be_named_again(fresh: Fresh) -> None:
    run = fresh("textcnn")
    recipe = make_recipe("textcnn")
    vectors = TextCNN(vectors="hub:stanfordnlp/glove/glove.6B.zip:glove.6B.50d.txt")
    write_text(run.recipe, recipe.model_copy(update={"model": vectors}).to_yaml())
    card = render_card(run, repo_id="me/trial")
    assert "PATH/TO" not in card
    assert "- Start: the word vectors stanfordnlp/glove/glove.6B.zip:glove.6B.50d.txt, revision not recorded." in card


# --- code that a reader copies ------------------------------------------------------------------------------------------------


def runnable(card: str) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) > 1
    for block in blocks:
        compile(block, "card", "exec")
    return [block for block in blocks if "trust_remote_code" not in block]


def printed(code: str, script: Path) -> str:
    script.write_text(code)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(str(script))
    return out.getvalue()


def small_model(family: str, folder: Path) -> tuple[Recipe, tuple[str, ...]]:
    """A real model of the family saved in `folder`/RUN/model, and the recipe it was built from."""
    stages = {"head": Stage(lr=1e-3, unfreeze="head")}
    texts = ["a good film", "a bad film", "put a text here"]
    vectors = folder / "vectors.txt"
    vectors.write_text("".join(f"{word} {i} 1 0.5\n" for i, word in enumerate(["good", "bad", "film"])))
    data: Any = ImageData(source="photos", image_size=32) if family == "timm" else TextData(source="reviews.csv", max_length=32)
    model: Any = {
        "transformer": Transformer(checkpoint=BERT_NANO),
        "timm": Timm(checkpoint="test_resnet", pretrained=False),
        "textcnn": TextCNN(vectors=str(vectors), channels=4),
        "bilstm": BiLSTM(vectors=str(vectors), hidden_size=4, layers=1),
    }[family]
    recipe = Recipe(name="small", data=data, model=model, stages=stages, card=Card(license="mit"))
    names = CLOTHES if family == "timm" else REVIEWS
    save_classifier(build_classifier(recipe, names, texts=texts), folder / "RUN" / "model")
    return recipe, names


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_on_the_card_runs_and_both_ways_give_the_same_answer(
    fresh: Fresh, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fresh(family)
    recipe, names = small_model(family, tmp_path)
    write_text(run.recipe, recipe.to_yaml())
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    through_pipeline, by_hand = (printed(code, tmp_path / "copied.py") for code in runnable(render_card(run)))
    answer = re.search(r"'label': '([^']+)', 'score': ([0-9.]+)", through_pipeline)
    assert answer is not None and answer[1] in names
    label, probability = by_hand.splitlines()[0].split()[-2:]
    assert label == answer[1] and float(probability) == pytest.approx(float(answer[2]), abs=1e-4)
    assert render_card(run, repo_id="me/small").count("RUN") == 0


@pytest.mark.parametrize("family", ["transformer", "textcnn", "bilstm"])
def test_every_line_for_texts_gives_what_predict_gives(
    fresh: Fresh, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fresh(family)
    recipe, _ = small_model(family, tmp_path)
    write_text(run.recipe, recipe.to_yaml())
    monkeypatch.chdir(tmp_path)
    short, long = "Put a text here.", "a good film " + 40 * "a bad film, "
    expected = Predictor(run.path).predict([short, long])
    through_pipeline, by_hand = runnable(render_card(run))
    for text, one in zip((short, long), expected, strict=True):
        code = through_pipeline.replace('"Put a text here."', repr(text))
        answer = re.search(r"'label': '([^']+)', 'score': ([0-9.]+)", printed(code, tmp_path / "copied.py"))
        assert answer is not None and answer[1] == one.label and float(answer[2]) == pytest.approx(one.probability, abs=1e-4)
    lines = printed(by_hand.replace('"And another one there."', repr(long)), tmp_path / "copied.py").splitlines()
    rows = [line.rsplit(" ", 2) for line in lines]
    assert [row[:2] for row in rows] == [[one.input, one.label] for one in expected]
    assert [float(row[2]) for row in rows] == pytest.approx([one.probability for one in expected], abs=1e-4)


def test_every_line_for_pictures_gives_what_predict_gives_or_the_card_says_for_which_it_does_not(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fresh("timm")
    recipe, _ = small_model("timm", tmp_path)
    data = recipe.data.model_copy(update={"background": (0, 0, 255)})
    write_text(run.recipe, recipe.model_copy(update={"data": data}).to_yaml())
    monkeypatch.chdir(tmp_path)
    files = odd_pictures(tmp_path)
    expected = {one.input: one for one in Predictor(run.path).predict(files)}
    card = render_card(run)
    through_pipeline, by_timm = runnable(card)
    apart = {}
    for file in files:
        label, probability = printed(by_timm.replace('"picture.jpg"', repr(file)), tmp_path / "copied.py").rsplit(" ", 1)
        assert label == expected[file].label and float(probability) == pytest.approx(expected[file].probability, abs=1e-4), file
        every = through_pipeline.replace('"picture.jpg"', f"{file!r}, top_k=10")
        scores = dict(re.findall(r"'label': '([^']+)', 'score': ([0-9.e-]+)", printed(every, tmp_path / "copied.py")))
        apart[Path(file).stem] = max(abs(float(scores[name]) - value) for name, value in expected[file].probabilities.items())
    assert read_differently(by_timm, files, background=(0, 0, 255)) == []
    turned = np.asarray(load_image(files[1]).convert("RGB"))  # as the pipeline reads it
    assert np.array_equal(turned, np.asarray(decode(files[1]))) and turned.shape == (48, 48, 3)
    assert apart["plain"] < 1e-4 and apart["turned"] < 1e-4
    assert apart["transparent"] > 1e-3 and apart["sixteen"] > 1e-3
    said = paragraph(card, "**Transparent pictures, and those with more than 8 bits a channel:**")
    assert "lays a transparent picture on RGB 0, 0, 255 and scales to 8 bits, as do the lines for timm above" in said
    assert "`transformers.pipeline` drops the transparency and clips, so it may answer otherwise" in said


# --- checking front matter ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_front_matter_of_a_card_with_a_licence_is_fine(fresh: Fresh, family: str) -> None:
    run = fresh(family)
    assert check_front_matter(render_card(with_card(run, family, license="apache-2.0", language="en"))) == []
    assert {"apache-2.0", "mit", "cc-by-sa-4.0", "other"} <= LICENSES and len(LICENSES) > 60


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({}, "There is no licence, so nobody may use the model; give one with card.license=apache-2.0, or another the Hub knows."),
        ({"license": "Apache-2"}, 'The Hub knows no licence "Apache-2". Did you mean "apache-2.0"? Give card.license=...'),
        ({"license": "mit\n---\n# x"}, "The Hub knows no licence"),
        ({"license": "mit", "language": "English"}, "The language 'English' is not a code of two or three small letters"),
        (
            {"license": "mit", "language": "zh-CN"},
            "The language 'zh-CN' is not a code of two or three small letters; the Hub takes no",
        ),
        (
            {"license": "mit", "language": "en, de"},
            "The language 'en, de' is not a code of two or three small letters; several are a",
        ),
        ({"license": "mit", "dataset": "Film reviews: all"}, 'datasets: "Film reviews: all" is not an id on the Hub'),
        ({"license": "mit", "base_model": "../../etc"}, 'base_model: "../../etc" is not an id on the Hub'),
    ],
)
def test_what_the_hub_would_not_take_is_said_with_the_way_out(copy: RunDirectory, said: dict[str, Any], problem: str) -> None:
    [found] = check_front_matter(render_card(with_card(copy, **said)))
    assert found.startswith(problem)


def test_languages_that_yaml_reads_as_something_else_are_kept(copy: RunDirectory) -> None:
    card = render_card(with_card(copy, license="mit", language="no"))
    assert front_matter(card)["language"] == "no" and check_front_matter(card) == []


def test_several_languages_and_multilingual_are_languages(copy: RunDirectory) -> None:
    for language, said in (("multilingual", "multilingual"), (["en", "de"], ["en", "de"])):
        card = render_card(with_card(copy, license="mit", language=language))
        assert front_matter(card)["language"] == said and check_front_matter(card) == []


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        ("# A card", "The card does not begin with front matter"),
        ("---\na: [\n---\n", "The front matter is not YAML"),
        ("---\n- a\n---\n", "The front matter is not a mapping but list."),
        ("---\na: !!python/object/apply:os.system ['true']\n---\n", "The front matter is not YAML"),
    ],
)
def test_front_matter_that_is_none_is_refused(card: str, problem: str) -> None:
    [found] = check_front_matter(card)
    assert found.startswith(problem)


def test_a_task_or_a_number_changed_by_hand_is_found(copy: RunDirectory) -> None:
    card = render_card(with_card(copy, license="mit"))
    assert check_front_matter(card.replace("pipeline_tag: text-classification", "pipeline_tag: text")) == [
        "pipeline_tag is 'text'; it should be one of text-classification, image-classification."
    ]
    assert check_front_matter(re.sub(r"value: 0\.\d+", "value: .nan", card, count=1)) == [
        "accuracy in the model-index is nan, not a finite number."
    ]
    assert check_front_matter(re.sub(r"value: 0\.\d+", "value: true", card, count=1)) == [
        "accuracy in the model-index is True, not a finite number."
    ]
    [unreadable] = check_front_matter(card.replace("  results:", "  outcomes:"))
    assert unreadable.startswith("The model-index cannot be read")


# --- facts nobody gave, and facts nobody must see -----------------------------------------------------------------------------


def test_what_nobody_gave_is_not_recorded_and_never_guessed(text_run: RunDirectory) -> None:
    card = render_card(text_run)
    for line in (
        "Intended use: not recorded",
        "Limitations in the authors' words: not recorded",
        "Licence: not recorded",
        "Authors: not recorded",
        "Citation: not recorded",
    ):
        assert line in card
    assert "None" not in body(card)
    assert "More information needed" not in card


@pytest.mark.parametrize("family", ["transformer", "timm", "textcnn", "bilstm"])
def test_no_path_of_this_machine_is_on_the_card(fresh: Fresh, tmp_path: Path, family: str) -> None:
    run = fresh(family)
    card = render_card(run)
    assert "/home" not in card and "secret" not in card
    assert str(tmp_path) not in card
    repeat = {
        "transformer": f"data.revision={COMMIT} model.checkpoint=PATH/TO/bert-nano",
        "timm": f"data.source=PATH/TO/clothing model.revision={COMMIT}",
        "textcnn": f"data.revision={COMMIT} model.vectors=PATH/TO/glove.6B.50d.txt",
        "bilstm": f"data.revision={COMMIT} model.vectors=PATH/TO/glove.6B.zip:glove.6B.50d.txt",
    }
    assert f"hftl train RUN/recipe.yaml {repeat[family]}" in " ".join(card.replace("\\\n", "").split())
    published = render_card(run, repo_id="me/trial")
    assert f"hftl train hub:me/trial {repeat[family]}" in " ".join(published.replace("\\\n", "").split())
    data = "PATH/TO/clothing" if family == "timm" else "stanfordnlp/imdb"
    assert f"hftl verify me/trial\nhftl verify me/trial --data {data}\n" in published


def test_a_glove_model_says_what_it_needs_to_load(fresh: Fresh) -> None:
    run = fresh("textcnn")
    write_json(run.model / "config.json", {"model_type": "hftl_textcnn"})
    card = render_card(run, repo_id="me/reviews")
    assert "import hftl.models.glove  # the architecture" in card and "trust_remote_code" not in card
    known = (
        "Vocabulary: 12,000 words. 11,159 of them have a word vector; they are 86.2 % of all words in the training texts, and "
        '3.1 % are outside the vocabulary. The most frequent words without a vector: "terrible" "1/10".'
    )
    assert known in card
    auto_map = {"AutoModelForSequenceClassification": "modeling.TextCNN"}
    write_json(run.model / "config.json", {"model_type": "hftl_textcnn", "auto_map": auto_map})
    card = render_card(run, repo_id="me/reviews")
    assert "import hftl.models.glove  # the architecture" in card  # the way without foreign code comes first
    assert card.index("import hftl.models.glove") < card.index("trust_remote_code")
    assert 'model="me/reviews", trust_remote_code=True, revision="COMMIT")' in card
    assert "Read it first, and pin the commit that you have read: put its hash" in card
    assert 'model="RUN/model", trust_remote_code=True)' in render_card(run)  # a folder has no commits


def test_only_a_possible_repository_is_named(text_run: RunDirectory) -> None:
    with pytest.raises(RunError, match="not the name of a repository"):
        render_card(text_run, repo_id='x"); import os; os.system("')


def test_an_unfinished_run_has_no_card(copy: RunDirectory, tmp_path: Path) -> None:
    copy.metrics.unlink()
    with pytest.raises(RunError, match="not finished"):
        write_card(copy)
    with pytest.raises(RunError, match="no run here"):
        render_card(RunDirectory(tmp_path / "nothing"))


def test_only_figures_that_exist_are_linked(copy: RunDirectory) -> None:
    assert "figures/" not in render_card(copy)
    copy.figures.mkdir()
    for name in ("learning_curves.png", "confusion_matrix_test.png", "calibration.png"):
        (copy.figures / name).touch()
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", render_card(copy))
    assert linked == ["figures/confusion_matrix_test.png", "figures/calibration.png", "figures/learning_curves.png"]


# --- text that is not ours ----------------------------------------------------------------------------------------------------


def text_of(html: str) -> str:
    """What a reader sees of a piece of HTML without elements."""
    return html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")


def elements(html: str) -> set[str]:
    return set(re.findall(r"<([a-z0-9]+)", html))


OURS = {
    "h1",
    "h2",
    "h3",
    "p",
    "strong",
    "em",
    "code",
    "pre",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "ul",
    "li",
    "hr",
    "details",
}


@pytest.mark.parametrize("family", ["transformer", "timm"])
def test_hostile_class_names_are_shown_letter_by_letter(tmp_path: Path, family: str) -> None:
    card = render_card(make_run(tmp_path / "run", family=family, label_names=HOSTILE, n=200), repo_id="me/x")
    html = as_html(card)
    assert elements(html) <= {*OURS, "summary"}
    assert html.count("<summary>") == card.count("<details>")
    shown = [" ".join(name.split()) for name in HOSTILE]
    seen = [text_of(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)]
    assert [name for name in shown if seen.count(name) < 2] == []  # in the table by class and in that of the counts
    assert ", ".join(shown) in text_of(html)  # in the first paragraph
    assert "\\(" not in card and "$" not in card  # what the Hub reads as mathematics
    assert ModelCard(card).data.get("model_name") == "x"


def test_no_name_changes_the_structure_of_the_page_wherever_it_stands(image_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(Path(shutil.copytree(image_run.path, tmp_path / "run")))
    recipe, metrics, data = run.load_recipe(), read_json(run.metrics), read_json(run.data)
    plain = Counter(re.findall(r"<([a-z0-9]+)", as_html(render_card(run))))
    for name in HOSTILE:
        for values in metrics.values():
            values["per_class"][0]["label"] = values["majority_label"] = name  # the first class is also the first word of its line
            values["errors"]["most_confident"][0] |= {"id": name, "label": name, "prediction": name}
        source = recipe.data.model_copy(update={"source": f"/home/secret/{name.replace('/', '')}"})
        write_text(run.recipe, recipe.model_copy(update={"data": source}).to_yaml())
        write_json(run.data, {**data, "validation": name, "test": name})
        assert Counter(re.findall(r"<([a-z0-9]+)", as_html(render_card(run, metrics=metrics)))) == plain, name


def test_hostile_ids_of_examples_are_shown_letter_by_letter(copy: RunDirectory) -> None:
    names = [f"train/{name}.jpg" for name in HOSTILE]
    labels = np.zeros(len(names), dtype=np.int64)
    for start in range(0, len(names), 5):  # five errors are named at a time
        logits = np.zeros((len(names), 2), dtype=np.float32)
        logits[start : start + 5, 1] = 5.0
        values = Predictions(names, labels, logits).metrics(REVIEWS)
        html = as_html(render_card(copy, metrics={"test": values, "validation": values}))
        assert elements(html) <= {*OURS, "summary"}
        seen = [text_of(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)]
        assert [name for name in names[start : start + 5] if " ".join(name.split()) not in seen] == []


def test_a_character_that_nobody_sees_is_shown_by_its_number(copy: RunDirectory, tmp_path: Path) -> None:
    names = ("paypal", UNSEEN.removesuffix("\ud800"))
    card = render_card(with_card(make_run(tmp_path / "run", label_names=names, n=60), title=names[1], summary=names[1]))
    assert card.count("pa⟨U+202E⟩ypal⟨U+200B⟩⟨U+FEFF⟩⟨U+0007⟩⟨U+2066⟩") > 5
    assert not set(card) & set(names[1]) - set("payl")
    values = read_json(copy.metrics)
    for row in (values["test"]["errors"]["most_confident"][0], values["test"]["per_class"][0]):
        row["id" if "id" in row else "label"] = UNSEEN
    card = render_card(copy, metrics=values)
    card.encode()  # half a surrogate pair cannot be written
    assert card.count("⟨U+D800⟩") > 3


def test_a_family_emoji_and_a_word_of_another_script_stay_readable(tmp_path: Path) -> None:
    names = ("дом", "日本語", "été 🙂")
    card = render_card(make_run(tmp_path / "run", label_names=names, n=60))
    assert all(card.count(name) > 3 for name in names)


def test_hostile_text_of_a_person_stays_text(copy: RunDirectory) -> None:
    said: dict[str, Any] = {
        "title": "Reviews <img src=x onerror=alert(1)> | *v2*",
        "summary": "<script>alert(1)</script>\n\nSecond **paragraph**.\n\n```\nnever closed\n\n---\n# {{ jinja }}",
        "limitations": "</details><iframe src=//evil>\n</summary>",
        "citation": "@misc{x}\n```\n<script>alert(2)</script>",
        "authors": ("A <b>", "B|C"),
        "dataset_name": "</p><script>x</script> ![](https://evil.example)",
    }
    card = render_card(with_card(copy, **said))
    html = as_html(card)
    assert elements(html) <= {*OURS, "summary", "blockquote"}
    assert "<strong>paragraph</strong>" in html  # Markdown is theirs to write
    assert "<h1>Reviews &lt;img src=x onerror=alert(1)&gt; | *v2*</h1>" in html
    assert "A &lt;b&gt;, B|C" in html
    assert re.findall(r"<h2>(.*?)</h2>", html)[:2] == ["How to use it", "Results"]  # the fence ends with the quotation
    fenced = re.search(r'<pre><code class="language-bibtex">(.*?)</code></pre>', html, re.DOTALL)
    assert fenced is not None and "```" in fenced[1] and "alert(2)" in fenced[1]


def test_hostile_records_of_a_foreign_repository_stay_text(copy: RunDirectory) -> None:
    evil = "x` <script>alert(1)</script>\n\n# Surprise ![](https://evil.example)"
    write_text(copy.test_openings, json.dumps(opening(time=evil, by=evil, run=evil)) + "\n")
    write_text(copy.history, copy.history.read_text().replace('"stage": "head"', f'"stage": {json.dumps(evil)}'))
    environment, data, plan = read_json(copy.environment), read_json(copy.data), read_json(copy.plan)
    environment |= {"cpu": evil, "device": evil, "packages": {evil: evil}}
    data |= {"revision": evil, "validation": evil, "test": evil}
    data["model"] |= {"architecture": evil, "revision": evil}
    data["duplicates"] |= {"within": {evil: 3}, "across": [{"splits": [evil, evil], "pairs": 2}], "conflicting": {evil: 2}}
    audit = read_json(copy.audit)
    audit["near_duplicates"] |= {"within": {evil: 3}, "across": [{"splits": [evil, evil], "rows": 2}]}
    proof = read_json(copy.freeze_proof)
    for stage in proof["stages"]:
        stage["groups"][0] |= {"name": evil, "after": stage["groups"][0]["before"], "trains": stage["stage"] == "all"}
        stage["groups"][-1] |= {"name": evil, "trains": False}
    plan["groups"][0]["name"] = plan["stages"][0]["name"] = plan["stages"][0]["optimizer"] = evil
    proof["stages"][0]["stage"] = evil
    files = {copy.environment: environment, copy.data: data, copy.audit: audit, copy.plan: plan, copy.freeze_proof: proof}
    for path, value in files.items():
        write_json(path, value)
    assert "**Frozen, and changed all the same:** x\\` " in render_card(copy)
    html = as_html(render_card(copy))
    assert elements(html) <= {*OURS, "summary"}
    assert "Surprise" not in "".join(re.findall(r"<h\d>.*?</h\d>", html))
    repeat = re.search(r"hftl train(.*?)```", render_card(copy), re.DOTALL)
    assert repeat is not None and not set(repeat[1]) & set("`<>!()[]#;&|$")  # a shell that gets it runs one command


def test_many_classes_are_folded_away(tmp_path: Path) -> None:
    card = render_card(make_run(tmp_path / "run", label_names=tuple(f"breed {i}" for i in range(37)), n=100))
    assert "<details><summary>37 classes</summary>" in card
    assert "<details><summary>Examples of 37 classes</summary>" in card
    assert card.count("<details>") == card.count("</details>") == 3  # and machine and versions
    assert "breed 19, …." in card
    assert as_html(card).count("<table>") == 6
    small = paragraph(card, "**Small classes:**")
    assert (
        small.count('"breed') == 11
        and " and 27 more have fewer than 30 examples, so their numbers are rough: the recall of" in small
    )


@pytest.mark.parametrize("labels", [None, HOSTILE], ids=["plain labels", "hostile labels"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_table_is_rendered_as_one_with_as_many_cells_in_each_row_as_in_its_head(
    tmp_path: Path, family: str, labels: tuple[str, ...] | None
) -> None:
    run = make_run(tmp_path / "run", family=family, label_names=labels, n=120)
    card = render_card(with_card(run, family, **SAID), repo_id="me/trial")
    html = as_html(card)
    assert html.count("<table>") == len(re.findall(r"^\|[:|-]+\|$", card, re.MULTILINE)) == 6
    for one in re.findall(r"<table>(.*?)</table>", html, re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", one, re.DOTALL)
        assert len(rows) > 1 and len({len(re.findall(r"<t[hd]", row)) for row in rows}) == 1
    assert all(line.startswith("|") == line.endswith("|") for line in card.splitlines())
    for block in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):  # markdown-it fills and cuts rows that do not fit
        assert len({len(cells(line)) for line in block.splitlines()}) == 1
    if labels is None:
        assert "|" not in re.sub(r"<[^>]+>", "", html)
        assert "{{" not in card and "{%" not in card
    assert "\n\n\n" not in card
    assert all(line == line.rstrip() for line in card.splitlines())
    headings = ["How to use it", "Results", "Limits", "Training data", "Training", "How to repeat and check it", "Cost"]
    ours = re.sub(r"<blockquote>.*?</blockquote>", "", html, flags=re.DOTALL)
    assert re.findall(r"<h2>(.*?)</h2>", ours) == [*headings, "Licence, authors, citation"]


def test_a_card_rendered_again_is_the_same(text_run: RunDirectory) -> None:
    assert render_card(text_run) == render_card(text_run)
