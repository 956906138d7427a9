"""Model cards of finished runs: valid front matter, true numbers, no invented facts, no leaks, no way to break out of the page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from run_factory import CLOTHES, COMMIT, make_recipe, make_run

from hftl.errors import RunError
from hftl.run import RunDirectory, read_json, write_json, write_text
from hftl.sharing.card import render_card, write_card

HOSTILE = (
    "<script>alert(1)</script>",
    "a|b",
    "*bold* _it_ hot_dog",
    "[x](javascript:alert(1))",
    "two\nlines `code`",
    "$x$ & \\| <b>",
)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("runs") / "reviews")


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("runs") / "clothes", family="timm", n=372)


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


def table(card: str, head: str) -> list[list[str]]:
    """Cells of the rows of the table whose head starts with `head`."""
    lines = card[card.index(f"| {head} |") :].splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[: lines.index("")]]
    assert len({len(row) for row in rows}) == 1
    return rows[2:]


def as_html(card: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(body(card)))


def with_card(copy: RunDirectory, **card: Any) -> RunDirectory:
    write_text(copy.recipe, make_recipe("transformer", **card).to_yaml())
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
        "accuracy": values["accuracy"],
        "f1": values["macro_f1"],
        "matthews_correlation": values["mcc"],
        "roc_auc": values["auc"],
        "log_loss": values["log_loss"],
        "expected_calibration_error": values["expected_calibration_error"],
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
    said = {
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
        "Macro F1": "macro_f1",
        "Matthews correlation": "mcc",
        "AUC (ROC)": "auc",
        "Log loss": "log_loss",
        "Expected calibration error": "expected_calibration_error",
    }
    rows = table(render_card(run), "metric")
    assert len(rows) == 10
    for name, value, interval, split, n in rows:
        values = metrics[split]
        assert n == str(values["n"])
        if name.startswith("Majority baseline"):
            assert value == f"{values['majority_accuracy']:.4f}" and values["majority_label"] in name
            continue
        assert value == f"{values[keys[name]]:.4f}"
        limits = values.get(f"{keys[name]}_interval")
        assert interval == (f"{limits[0]:.4f} to {limits[1]:.4f}" if limits else "–")


def test_the_headline_names_split_interval_and_number_of_examples(text_run: RunDirectory) -> None:
    values = read_json(text_run.metrics)["test"]
    low, high = values["accuracy_interval"]
    paragraph = render_card(text_run).split("## How to use it")[0]
    assert (
        f"On the test split its accuracy is **{values['accuracy']:.3f}** (95 % interval {low:.3f} to {high:.3f}, n = 160)"
        in paragraph
    )
    assert f'always answering "{values["majority_label"]}" reaches {values["majority_accuracy"]:.3f}' in paragraph


def test_the_class_table_and_the_worst_class_are_those_of_metrics_json(image_run: RunDirectory) -> None:
    card, values = render_card(image_run), read_json(image_run.metrics)["test"]
    for row, (label, precision, recall, f1, n) in zip(values["per_class"], table(card, "class"), strict=True):
        assert (label, n) == (row["label"], str(row["n"]))
        assert [precision, recall, f1] == [f"{row[key]:.3f}" for key in ("precision", "recall", "f1")]
    worst = min(values["per_class"], key=lambda row: row["f1"])
    confusion = values["confusion"][CLOTHES.index(worst["label"])]
    found = confusion[CLOTHES.index(worst["label"])]
    assert (
        f'**The worst class** is "{worst["label"]}" (F1 {worst["f1"]:.3f}): {found} of its {worst["n"]} examples are found' in card
    )


def test_the_stage_table_shows_rates_as_planned(text_run: RunDirectory) -> None:
    rows = {row[0]: row[1:] for row in table(render_card(text_run), "layer group")}
    assert rows["head"] == ["16,770", "1.0e-03", "3.0e-04", "3.0e-03"]
    assert rows["layer.3"] == ["198,272", "frozen", "2.4e-04", "2.4e-04"]  # 3e-4 * 0.8
    assert rows["embeddings"] == ["1,114,368", "frozen", "frozen", "9.8e-05"]  # 3e-4 * 0.8 ** 5
    assert rows["*trains*"] == ["1,924,226", "0.9 %", "21.5 %", "100 %"]
    assert rows["*schedule*"] == ["", "constant", "linear", "slanted triangular"]
    assert rows["*steps*"] == ["", "12", "12", "18"]  # 87 examples / 16 = 6 steps an epoch
    assert rows["*best epoch*"] == ["", "2", "2", "3"]


def test_what_pictures_go_through_is_shown(image_run: RunDirectory) -> None:
    line = next(line for line in render_card(image_run).splitlines() if line.startswith("- Preprocessing: "))
    facts = [
        "input size 3 x 224 x 224",
        "mean 0.485, 0.456, 0.406",
        "std 0.229, 0.224, 0.225",
        "interpolation bicubic",
        "crop pct 0.95",
    ]
    assert line == f"- Preprocessing: {'; '.join(facts)}; transparent pictures on RGB 255, 255, 255."
    assert "- Augmentation, in training only: standard." in render_card(image_run)


def test_a_faultless_model_has_no_worst_class(copy: RunDirectory) -> None:
    metrics = read_json(copy.metrics)
    metrics["test"] |= {"accuracy": 1.0, "macro_f1_interval": None}
    write_json(copy.metrics, metrics)
    card = render_card(copy)
    assert "**No class is confused with another:** all 160 predictions are right." in card
    assert "worst class" not in card
    assert table(card, "metric")[1][2] == "–"


def test_counts_of_each_class_and_split_are_shown(image_run: RunDirectory) -> None:
    card, data = render_card(image_run), read_json(image_run.data)
    counts = table(card[card.index("## Training data") :], "class")
    assert [row[0] for row in counts[:10]] == list(CLOTHES)
    for row in counts[:10]:
        assert row[1:] == [str(data["splits"][split]["per_class"][row[0]]) for split in ("train", "validation", "test")]
    assert counts[10] == ["**all**", *(f"**{data['splits'][split]['n']}**" for split in ("train", "validation", "test"))]
    assert "Validation split: made from train: 10 %, stratified, seed 0." in card
    assert "Skipped because they could not be read: 1." in card


def test_without_a_test_split_validation_numbers_are_marked_as_such(tmp_path: Path) -> None:
    card = render_card(make_run(tmp_path / "run", test=False))
    assert "**There is no test split.**" in card
    assert "On the validation split its accuracy is" in card
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
    assert ["AUC (ROC)", "undefined", "–", "test", "160"] in table(card, "metric")
    assert 'AUC is undefined: no example of "neg" in the split.' in card
    assert "roc_auc" not in card
    assert '**The worst class** is "pos"' in card


@pytest.mark.parametrize(
    ("openings", "said"),
    [
        (1, "**The test split was opened once**"),
        (3, "**The test split was opened 3 times:**"),
        (0, "How often the test split was opened is not recorded"),
    ],
)
def test_openings_of_the_test_split_are_shown_plainly(copy: RunDirectory, openings: int, said: str) -> None:
    lines = [f'{{"time": "2026-11-2{i}T10:11:12+00:00", "by": "hftl evaluate"}}\n' for i in range(openings)]
    write_text(copy.test_openings, "".join(lines))
    card = render_card(copy)
    assert said in card
    assert all(f"2026-11-2{i}T10:11:12+00:00 by `hftl evaluate`" in card for i in range(openings))


# --- facts nobody gave, and facts nobody must see -----------------------------------------------------------------------------


def test_what_nobody_gave_is_not_recorded_and_never_guessed(text_run: RunDirectory) -> None:
    card = render_card(text_run)
    for line in (
        "Intended use: not recorded",
        "Limitations: not recorded",
        "Licence: not recorded",
        "Authors: not recorded",
        "Citation: not recorded",
    ):
        assert line in card
    assert "None" not in body(card)
    assert "More information needed" not in card


def test_a_run_without_its_side_files_still_has_a_card(copy: RunDirectory) -> None:
    for path in (copy.plan, copy.data, copy.environment, copy.history, copy.test_openings):
        path.unlink()
    card = render_card(copy)
    for said in (
        "The stages' plan is not recorded.",
        "Examples by class: not recorded.",
        "device: not recorded",
        "training time: not recorded",
    ):
        assert said in card
    assert "None" not in body(card)
    assert front_matter(card)["model-index"]


@pytest.mark.parametrize("family", ["transformer", "timm", "textcnn", "bilstm"])
def test_no_path_of_this_machine_is_on_the_card(tmp_path: Path, family: str) -> None:
    run = make_run(tmp_path / "run", family=family, n=60)
    card = render_card(run)
    assert "/home" not in card and "secret" not in card
    assert str(tmp_path) not in card
    expected = {
        "transformer": "hftl train recipe.yaml model.checkpoint=PATH/TO/bert-nano",
        "timm": "hftl train recipe.yaml data.source=PATH/TO/clothing",
        "textcnn": "hftl train recipe.yaml model.vectors=PATH/TO/glove.6B.50d.txt",
        "bilstm": "hftl train recipe.yaml model.vectors=PATH/TO/glove.6B.zip:glove.6B.50d.txt",
    }
    assert expected[family] in card


def test_how_to_use_it_is_three_lines_that_are_python(text_run: RunDirectory) -> None:
    card = render_card(text_run, repo_id="me/reviews")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")
    assert code[1].splitlines() == [
        "from transformers import pipeline",
        'classifier = pipeline("text-classification", model="me/reviews")',
        'print(classifier("Put a text here.", truncation=True, max_length=256))',
    ]
    assert 'model="RUN/model"' in render_card(text_run)


def test_a_glove_model_says_what_it_needs_to_load(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", family="textcnn", n=60)
    assert "import hftl  # registers the architecture" in render_card(run)
    known = "words 12,000; in vectors 11,159; share in vectors 86.2 %; share unknown 3.1 %; frequent without vector terrible, 1/10."
    assert known in render_card(run)
    write_json(run.model / "config.json", {"auto_map": {"AutoModelForSequenceClassification": "modeling.TextCNN"}})
    card = render_card(run)
    assert "trust_remote_code=True" in card and "import hftl" not in card


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


def test_hostile_class_names_are_shown_letter_by_letter(tmp_path: Path) -> None:
    card = render_card(make_run(tmp_path / "run", label_names=HOSTILE, n=60))
    html = as_html(card)
    assert "<script" not in html and "<b>" not in html and "<a " not in html and "<em>bold" not in html
    shown = [" ".join(name.split()) for name in HOSTILE]
    cells = [
        cell.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)
    ]
    assert [name for name in shown if cells.count(name) < 2] == []  # in the table by class and in that of the counts


def test_hostile_text_of_a_person_stays_text(copy: RunDirectory) -> None:
    said = {
        "title": "Reviews <img src=x onerror=alert(1)> | *v2*",
        "summary": "<script>alert(1)</script>\n\nSecond **paragraph**.",
        "limitations": "</details><iframe src=//evil>",
        "citation": "@misc{x}\n```\n<script>alert(2)</script>",
        "authors": ("A <b>", "B|C"),
    }
    html = as_html(render_card(with_card(copy, **said)))
    assert re.findall(r"<(script|img|iframe|b)\b", html) == []
    assert "<strong>paragraph</strong>" in html  # Markdown is theirs to write
    assert "<h1>Reviews &lt;img src=x onerror=alert(1)&gt; | *v2*</h1>" in html
    assert "A &lt;b&gt;, B|C" in html
    fenced = re.search(r'<pre><code class="language-bibtex">(.*?)</code></pre>', html, re.DOTALL)
    assert fenced is not None and "```" in fenced[1] and "alert(2)" in fenced[1]


def test_many_classes_are_folded_away(tmp_path: Path) -> None:
    card = render_card(make_run(tmp_path / "run", label_names=tuple(f"breed {i}" for i in range(37)), n=100))
    assert "<details><summary>37 classes</summary>" in card
    assert card.count("<details>") == card.count("</details>") == 2
    assert "breed 19, …)" in card
    assert as_html(card).count("<table>") == 4


def test_every_table_is_rendered_as_one_and_nothing_of_the_template_is_left(text_run: RunDirectory) -> None:
    card = render_card(text_run)
    html = as_html(card)
    assert html.count("<table>") == 4
    assert "|" not in re.sub(r"<[^>]+>", "", html)
    assert "{{" not in card and "{%" not in card
    assert "\n\n\n\n" not in card


def test_a_card_rendered_again_is_the_same(text_run: RunDirectory) -> None:
    assert render_card(text_run) == render_card(text_run)
