"""Several labels an example: how they are read, divided, learned, judged and served."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from sklearn.metrics import average_precision_score, f1_score, hamming_loss, roc_auc_score
from small import bert, nano, train

import hftl
from hftl.data.audit import audit_splits
from hftl.data.iterative import ByLabels, iterative_sides
from hftl.data.source import Splits, load_splits
from hftl.data.targets import in_words, targets_of
from hftl.errors import DataError, RecipeError, RunError
from hftl.evaluation.compare import compare
from hftl.evaluation.gain import in_words as baseline_in_words
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.evaluation.selection import corrected_for_choice
from hftl.evaluation.several_metrics import (
    average_precision,
    choose_thresholds,
    compute_metrics,
    paired_intervals,
    quick_metrics,
)
from hftl.files import read_json
from hftl.inference import Predictor
from hftl.names import FIGURES, SEVERAL_LABELS
from hftl.recipe import (
    AsymmetricLoss,
    CrossEntropyLoss,
    FocalLoss,
    ImageData,
    Recipe,
    RunSettings,
    Stage,
    TextCNN,
    TextData,
    Timm,
    override,
)
from hftl.run import RunDirectory
from hftl.sharing.card import write_card
from hftl.sharing.verify import verify
from hftl.training.checks import check_same_recipe
from hftl.training.experiment import judged_by_its_data
from hftl.training.loss import check_loss, class_weights, make_loss
from hftl.training.other_rows import evaluate_on

WORDS = {"joy": "wonderful happy fun", "anger": "terrible hate angry", "love": "love romance heart"}


def examples(count: int, *, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Texts with the words of their labels in them, each label of a third of them."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        own = [label for label in WORDS if generator.random() < 1 / 3]
        rows.append((f"the story {seed} {number} was {' '.join(WORDS[label] for label in own)}", own))
    return rows


def write_jsonl(path: Path, rows: Iterable[tuple[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    path.write_text("text,label\n" + "".join(f'{text},"{label}"\n' for text, label in rows), encoding="utf-8")
    return path


def labels_of(splits: Splits) -> dict[str, str]:
    """Text of each training row -> its labels in words."""
    return dict(zip(splits.train["text"], in_words(targets_of(splits.train), splits.label_names), strict=True))


def read(source: Path, **settings: Any) -> Splits:
    return load_splits(TextData(source=str(source), **settings), seed=0)


# --- reading ------------------------------------------------------------------------------------------------------------------


def test_lists_are_several_labels_and_an_empty_one_is_no_label(tmp_path: Path) -> None:
    rows = [("a", ["joy", "anger"]), ("b", []), ("c", ["joy"]), ("d", ["anger"]), ("e", ["joy", "joy"])] * 4
    splits = read(write_jsonl(tmp_path / "train.jsonl", [(f"{text} {i}", own) for i, (text, own) in enumerate(rows)]))
    assert splits.label_names == ("anger", "joy")
    found = labels_of(splits)
    assert {text[0]: label for text, label in found.items()} == {
        "a": "anger, joy",
        "b": "no label",
        "c": "joy",
        "d": "anger",
        "e": "joy",
    }
    assert splits.facts["remarks"] == ['the column "label" has lists of labels: several labels an example']


def test_lists_of_class_numbers_have_the_names_of_the_source(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["anger", "joy", "fear"]))})
    rows = {"text": [f"text {i}" for i in range(20)], "label": [[0, 2], [1], [], [2, 1]] * 5}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    splits = read(tmp_path / "train.parquet")
    assert splits.label_names == ("anger", "joy", "fear")
    assert set(labels_of(splits).values()) == {"anger, fear", "joy", "no label", "joy, fear"}


@pytest.mark.parametrize("separator", [",", "; ", "|"])
def test_separated_texts_are_several_labels_where_each_part_is_also_there_by_itself(tmp_path: Path, separator: str) -> None:
    sets = [["a"], ["b"], ["c"], ["a", "b"], ["b", "c"], ["a", "b", "c"]] * 5
    source = write_csv(tmp_path / "train.csv", [(f"text {i}", separator.join(own)) for i, own in enumerate(sets)])
    splits = read(source)
    assert splits.label_names == ("a", "b", "c")
    assert set(labels_of(splits).values()) == {"a", "b", "c", "a, b", "b, c", "a, b, c"}
    assert "several labels an example (data.target=one takes each text for one label)" in splits.facts["remarks"][0]
    assert "a, b" not in read(source, target="one").label_names if separator != ", " else True
    assert len(read(source, target="one").label_names) == 6


@pytest.mark.parametrize(
    "labels",
    [
        ["New York, NY", "Boston, MA", "Austin, TX", "Portland, OR", "Portland, ME"],
        ["yes", "no", "yes, but", "no, but"],  # no part "but" by itself
        ["Arts", "Trade", "Arts, Trade"],  # one combination
        ["a, a", "b, b", "c, c", "a", "b", "c"],
    ],
)
def test_a_separator_alone_is_no_reason_to_take_one_label_for_several(tmp_path: Path, labels: list[str]) -> None:
    source = write_csv(tmp_path / "train.csv", [(f"text {i}", label) for i, label in enumerate(labels * 5)])
    assert sorted(read(source).label_names) == sorted(labels)


def test_what_may_be_several_labels_is_said_and_the_recipe_decides(tmp_path: Path) -> None:
    combined = [f"{one}|{two}" for one in "abcd" for two in "abcd" if one < two]
    source = write_csv(tmp_path / "train.csv", [(f"text {i}", label) for i, label in enumerate(combined * 5)])
    splits = read(source)
    assert len(splits.label_names) == 6 and "data.target=several takes their parts for labels" in splits.facts["remarks"][0]
    assert read(source, target="several").label_names == ("a", "b", "c", "d")


def test_texts_of_lists_are_several_labels(tmp_path: Path) -> None:
    rows = [(f"text {i}", own) for i, own in enumerate(["['joy', 'fear']", "[]", "['joy']", "['fear']"] * 5)]
    assert set(labels_of(read(write_csv(tmp_path / "train.csv", rows))).values()) == {"fear, joy", "no label", "joy", "fear"}


def test_an_empty_cell_is_no_label_where_the_recipe_says_several_and_else_a_missing_one(tmp_path: Path) -> None:
    sets = ["a", "b", "c", "a,b", "b,c", "a,b,c", ""] * 5
    source = write_csv(tmp_path / "train.csv", [(f"text {i}", label) for i, label in enumerate(sets)])
    with pytest.raises(DataError, match=r"5 rows with no labels(.|\n)*data.target=several takes an empty cell for no label"):
        read(source)
    assert "no label" in labels_of(read(source, target="several")).values()


def test_each_label_may_have_a_column_of_0_and_1(tmp_path: Path) -> None:
    header = "text,toxic,obscene,threat\n"
    cells = ["1,0,0", "0,0,0", "1,1,0", "0,1,1"] * 5
    (tmp_path / "train.csv").write_text(header + "".join(f"text {i},{row}\n" for i, row in enumerate(cells)), encoding="utf-8")
    columns = ("toxic", "obscene", "threat")
    splits = read(tmp_path / "train.csv", label_column=columns)
    assert splits.label_names == columns
    assert set(labels_of(splits).values()) == {"toxic", "no label", "toxic, obscene", "obscene, threat"}
    pq.write_table(pa.csv.read_csv(tmp_path / "train.csv"), tmp_path / "train.parquet")
    (tmp_path / "train.csv").write_text(header + "text,2,0,1\n" * 4, encoding="utf-8")
    with pytest.raises(DataError, match=r"labels that cannot be read(.|\n)*0 or 1 in each of their columns"):
        read(tmp_path / "train.csv", label_column=columns)
    assert labels_of(read(tmp_path / "train.parquet", label_column=columns)) == labels_of(splits)
    with pytest.raises(DataError, match='no column "insult"'):
        read(tmp_path / "train.parquet", label_column=("toxic", "insult"))
    with pytest.raises(RecipeError, match=r"data\.label_column names several"):
        TextData(source="x", label_column=columns, target="one")


def test_the_same_text_with_other_labels_is_a_conflict_and_in_another_order_is_none(tmp_path: Path) -> None:
    rows = [(f"text {i}", own) for i, own in enumerate([["a"], ["b"], ["a", "b"]] * 5)]
    source = write_jsonl(tmp_path / "train.jsonl", [*rows, ("same", ["a", "b"]), ("same", ["b", "a"]), ("other", ["a"])])
    assert read(source).facts["duplicates"]["conflicting"] == {}
    write_jsonl(source, [*rows, ("same", ["a", "b"]), ("same", ["a"])])
    with pytest.raises(DataError, match=r"1 text has more than one label: train/15 \(a, b\) = train/16 \(a\)"):
        read(source)


def test_the_audit_says_how_many_labels_there_are_which_are_rare_and_which_go_together(tmp_path: Path) -> None:
    sets = [["a", "b"]] * 12 + [["a"]] * 20 + [["c", "a"]] * 3 + [[]] * 5
    splits = read(
        write_jsonl(tmp_path / "train.jsonl", [(f"text {i}", own) for i, own in enumerate(sets)]), validation_fraction=0.02
    )
    lines = audit_splits(splits).lines()
    found = next(line for line in lines if "labels an example, at most" in line)
    assert found.endswith(("at most 2; 5 rows without a label", "at most 2; 4 rows without a label"))
    assert any(line.startswith("train: fewer than 10 rows of c") for line in lines)
    assert any(line.startswith("train: b never occurs without a (") for line in lines)
    assert any(line.startswith("train: most often together: a and b (") for line in lines)


# --- dividing -----------------------------------------------------------------------------------------------------------------


def test_the_rarest_label_is_dealt_first() -> None:
    """4 rows with {a}, {a}, {a, b}, {a, b}, two drawn: one {a, b} and one {a} on either side, whatever the order."""
    labels = np.array([[1, 0], [1, 0], [1, 1], [1, 1]])
    for seed in range(8):
        drawn = iterative_sides(labels, np.ones(4, dtype=np.int64), 2, np.random.default_rng(seed))
        assert drawn[:2].sum() == 1 and drawn[2:].sum() == 1


def test_every_label_has_its_share_on_either_side_and_the_number_of_rows_is_exact() -> None:
    generator = np.random.default_rng(0)
    has = (generator.random((1000, 5)) < [0.5, 0.3, 0.1, 0.04, 0.01]).astype(np.int8)
    drawn = ByLabels(has).draw(np.arange(1000, dtype=np.int32), 200, 0)
    assert len(drawn) == 200
    assert np.abs(has[drawn].sum(axis=0) - 0.2 * has.sum(axis=0)).max() <= 1.0
    assert ByLabels(has).draw(np.arange(1000, dtype=np.int32), 200, 0).tolist() == drawn.tolist()


def test_rows_of_one_content_are_drawn_together_and_a_lonely_label_is_left() -> None:
    has = np.array([[1, 0]] * 10 + [[0, 1]], dtype=np.int8)
    contents = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5])
    drawn = ByLabels(has).draw(np.arange(11, dtype=np.int32), 4, 0, contents=contents, leave_one=True)
    assert len(drawn) == 4 and 10 not in drawn
    assert all((contents[drawn] == content).sum() == 2 for content in set(contents[drawn].tolist()))


def test_a_larger_sample_of_train_holds_every_smaller_one() -> None:
    has = (np.random.default_rng(0).random((60, 3)) < 0.3).astype(np.int8)
    order = ByLabels(has).in_order(np.arange(60, dtype=np.int32), 0)
    assert sorted(order.tolist()) == list(range(60))
    assert has[order[:30]].sum(axis=0) == pytest.approx(has.sum(axis=0) / 2, abs=3)


# --- loss ---------------------------------------------------------------------------------------------------------------------

ODDS = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4 and 1/2
PRESENT_ABSENT = torch.tensor([[1, 0]])


@pytest.mark.parametrize(
    ("loss", "weights", "expected"),
    [
        (CrossEntropyLoss(), None, (-math.log(0.75) - math.log(0.5)) / 2),
        (CrossEntropyLoss(), [4.0, 9.0], (-4 * math.log(0.75) - math.log(0.5)) / 2),  # of what is present alone
        (
            CrossEntropyLoss(label_smoothing=0.2),
            None,
            -(0.9 * math.log(0.75) + 0.1 * math.log(0.25) + 0.1 * math.log(0.5) + 0.9 * math.log(0.5)) / 2,
        ),
        (FocalLoss(gamma=2), None, -(0.25**2 * math.log(0.75) + 0.5**2 * math.log(0.5)) / 2),
        (AsymmetricLoss(), None, -(math.log(0.75) + 0.45**4 * math.log(0.55)) / 2),  # 0.5 - 0.05 and 1 less that
        (AsymmetricLoss(gamma_present=1, gamma_absent=2, margin=0), None, -(0.25 * math.log(0.75) + 0.25 * math.log(0.5)) / 2),
    ],
)
def test_the_loss_of_an_example_is_the_mean_of_its_labels(loss: Any, weights: Any, expected: float) -> None:
    given = None if weights is None else torch.tensor(weights)
    assert make_loss(loss, given, target=SEVERAL_LABELS)(ODDS, PRESENT_ABSENT).tolist() == pytest.approx([expected])


def test_cross_entropy_of_several_labels_is_the_loss_of_transformers() -> None:
    logits, labels = torch.randn(5, 7), torch.randint(0, 2, (5, 7))
    ours = make_loss(CrossEntropyLoss(), None, target=SEVERAL_LABELS)(logits, labels)
    assert ours.mean().item() == pytest.approx(torch.nn.BCEWithLogitsLoss()(logits, labels.float()).item())


def test_balanced_weights_let_presence_and_absence_of_a_label_weigh_the_same() -> None:
    weights = class_weights(Stage(lr=1, class_weights="balanced"), [10, 0], ["a", "b"], target=SEVERAL_LABELS, examples=40)
    assert weights is not None and weights.tolist() == [3.0, 1.0]
    given = class_weights(Stage(lr=1, class_weights={"b": 2.0, "a": 5.0}), [10, 5], ["a", "b"], target=SEVERAL_LABELS, examples=40)
    assert given is not None and given.tolist() == [5.0, 2.0]


def test_a_loss_for_several_labels_is_refused_where_there_is_one() -> None:
    check_loss(AsymmetricLoss(), SEVERAL_LABELS)
    with pytest.raises(RecipeError, match=r'"asymmetric" is for several labels an example(.|\n)*write loss="focal"'):
        check_loss(AsymmetricLoss(), "one_label")


def test_a_loss_without_room_has_finite_gradients() -> None:
    logits = torch.tensor([[-40.0, 40.0]], requires_grad=True)
    loss = make_loss(AsymmetricLoss(gamma_absent=0.5), None, target=SEVERAL_LABELS)(logits, torch.tensor([[0, 1]]))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())


# --- metrics ------------------------------------------------------------------------------------------------------------------


def some_predictions(n: int = 80, *, seed: int = 0, skill: float = 1.5) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = (np.random.default_rng(7).random((n, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(np.int64)
    logits = (generator.normal(size=(n, 4)) + skill * (2 * labels - 1)).astype(np.float32)
    return Predictions([f"test/{i}" for i in range(n)], labels, logits, kind=SEVERAL_LABELS)


def test_a_threshold_is_where_the_f1_of_its_label_is_highest() -> None:
    probabilities = np.array([[0.9, 0.3], [0.6, 0.2], [0.4, 0.1], [0.1, 0.0]])
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    assert choose_thresholds(probabilities, labels) == pytest.approx((0.25, 0.5))  # nothing to choose by has 0.5
    # 0.4 twice: no threshold parts them. Both 2 * 1 / (2 + 1), or the first alone 0: below both.
    assert choose_thresholds(np.array([[0.8], [0.4], [0.4]]), np.array([[0], [1], [1]])) == pytest.approx((0.2,))


def test_metrics_are_those_of_scikit_learn() -> None:
    predictions = some_predictions()
    values = compute_metrics(predictions, ["a", "b", "c", "d"])
    truth, said, odds = predictions.labels, predictions.predicted, predictions.probabilities
    assert values["micro_f1"] == pytest.approx(f1_score(truth, said, average="micro"))
    assert values["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert values["samples_f1"] == pytest.approx(f1_score(truth, said, average="samples", zero_division=1.0))
    assert values["mean_average_precision"] == pytest.approx(average_precision_score(truth, odds, average="macro"))
    assert values["auc"] == pytest.approx(roc_auc_score(truth, odds, average="macro"))
    assert values["hamming_loss"] == pytest.approx(hamming_loss(truth, said))
    assert values["accuracy"] == pytest.approx((truth == said).all(axis=1).mean())
    for row, k in zip(values["per_class"], range(4), strict=True):
        assert row["auc"] == pytest.approx(roc_auc_score(truth[:, k], odds[:, k]))
        assert row["f1"] == pytest.approx(f1_score(truth[:, k], said[:, k]))
    for name in ("accuracy", "micro_f1", "macro_f1", "samples_f1", "mean_average_precision", "auc", "hamming_loss", "log_loss"):
        low, high = values[f"{name}_interval"]
        assert low < values[name] < high, name


def test_average_precision_counts_equal_scores_together_and_follows_weights() -> None:
    one = np.ones((1, 3))
    assert average_precision(np.array([3, 2, 1]), np.array([True, False, True]), one) == pytest.approx([5 / 6])
    scores, positive = np.array([2.0, 1.0, 1.0, 0.0]), np.array([False, True, False, True])
    weights = np.array([[1.0, 2.0, 0.0, 1.0]])
    expected = average_precision_score([0, 1, 1, 1], [2, 1, 1, 0])  # the second row twice, the third not at all
    assert average_precision(scores, positive, weights) == pytest.approx([expected])


def test_a_label_that_no_example_has_is_in_no_mean() -> None:
    predictions = some_predictions()
    labels = predictions.labels.copy()
    labels[:, 3] = 0
    values = compute_metrics(Predictions(predictions.ids, labels, predictions.logits, kind=SEVERAL_LABELS), ["a", "b", "c", "d"])
    truth, said = labels[:, :3], predictions.predicted[:, :3]
    assert values["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
    assert values["per_class"][3]["f1"] is None and values["per_class"][3]["auc"] is None


def test_an_epoch_is_judged_at_the_thresholds_that_it_would_be_given() -> None:
    predictions = some_predictions()
    chosen = predictions.choose_thresholds()
    assert chosen.thresholds is not None and len(chosen.thresholds) == 4
    assert quick_metrics(predictions) == quick_metrics(chosen)
    assert quick_metrics(chosen)["macro_f1"] > compute_metrics(predictions, list("abcd"))["macro_f1"]


def test_paired_differences_are_of_the_same_rows() -> None:
    one = some_predictions().choose_thresholds()
    intervals = paired_intervals(one, one)
    assert all(interval is None for interval in intervals.values())
    better = some_predictions(seed=1, skill=4.0).choose_thresholds()
    for name, interval in paired_intervals(one, better).items():
        difference = quick_metrics(better)[name] - quick_metrics(one)[name]
        assert interval is not None and interval[0] <= difference <= interval[1], name


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mean_average_precision", "auc", "log_loss"])
def test_the_best_of_several_candidates_is_corrected_for_having_been_chosen(metric: str) -> None:
    candidates = [some_predictions(40, seed=seed) for seed in range(4)]
    found = corrected_for_choice(candidates, metric)
    best = [quick_metrics(each)[metric] for each in candidates]
    assert found is not None
    assert found.chosen == pytest.approx(min(best) if metric == "log_loss" else max(best))
    assert found.value > found.chosen if metric == "log_loss" else found.value < found.chosen


def test_predictions_keep_labels_and_thresholds_and_refuse_what_does_not_follow(tmp_path: Path) -> None:
    predictions = some_predictions().choose_thresholds()
    predictions.save(tmp_path / "test.parquet", list("abcd"))
    again = Predictions.load(tmp_path / "test.parquet")
    assert again.thresholds == predictions.thresholds and again.labels.tolist() == predictions.labels.tolist()
    table = pq.read_table(tmp_path / "test.parquet")
    changed = table.set_column(table.column_names.index("prediction"), "prediction", pa.array([["a"]] * 80, pa.list_(pa.string())))
    pq.write_table(changed, tmp_path / "test.parquet")
    with pytest.raises(Exception, match="column prediction does not follow from the logits and thresholds"):
        Predictions.load(tmp_path / "test.parquet")
    metadata = {**table.schema.metadata, b"hftl.thresholds": b"[0.5, 2]"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "test.parquet")
    with pytest.raises(Exception, match="its thresholds are not 4 numbers from 0 to 1"):
        Predictions.load(tmp_path / "test.parquet")


# --- a run --------------------------------------------------------------------------------------------------------------------


def write_splits(folder: Path) -> Path:
    for seed, (split, count) in enumerate((("train", 96), ("validation", 32), ("test", 32))):
        write_jsonl(folder / f"{split}.jsonl", examples(count, seed=seed))
    return folder


def several_recipe(folder: Path, *changes: str) -> Recipe:
    stages = {"all": Stage(lr=1e-3, epochs=2)}
    recipe = nano("several", TextData(source=str(folder), max_length=16), stages)
    return override(recipe, changes)


@pytest.fixture(scope="module")
def several_run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("several")
    (folder / "data").mkdir()
    run = train(several_recipe(write_splits(folder / "data"), "run.baseline=linear"), folder / "run")
    write_card(run)
    return run


def test_a_run_says_what_it_predicts_and_from_which_probability_on(several_run: RunDirectory) -> None:
    config, metrics = read_json(several_run.model / "config.json"), read_json(several_run.metrics)
    assert config["problem_type"] == "multi_label_classification"
    assert config["thresholds"] == [row["threshold"] for row in metrics["test"]["per_class"]]
    assert metrics["test"]["target"] == "several_labels"
    history = [record for record in several_run.read_history() if record["event"] == "evaluation"]
    assert metrics["validation"]["macro_f1"] == pytest.approx(max(record["validation"]["macro_f1"] for record in history))
    figures = {path.name for path in several_run.figures.glob("*.png")}
    assert figures == {"learning_curves.png", "labels_test.png", "thresholds_test.png"}
    assert figures - {"learning_curves.png"} < set(FIGURES[SEVERAL_LABELS])


def test_every_number_of_it_is_computed_again(several_run: RunDirectory) -> None:
    verdict = verify(several_run)
    assert verdict.failed == () and "figures" in verdict.counts


def test_its_card_has_a_table_of_labels_and_no_confusion_matrix(several_run: RunDirectory) -> None:
    card = several_run.card.read_text(encoding="utf-8")
    assert "**Macro F1 on the test split:" in card and "Accuracy (exact match)" in card
    assert "| label | n | precision | recall | F1 | average precision | AUC | threshold |" in card
    assert "figures/labels_test.png" in card and "softmax" not in card
    assert "onfusion" not in card and "top_k=None" in card
    assert "a logistic regression" not in card and "TF-IDF of words" in card


def test_the_lines_of_its_card_answer_as_hftl_does(several_run: RunDirectory) -> None:
    texts = ["wonderful happy fun love", "terrible hate"]
    answers = Predictor(several_run.path).predict(texts)
    card = several_run.card.read_text(encoding="utf-8")
    code = next(block.partition("```")[0] for block in card.split("```python\n")[1:] if "AutoTokenizer" in block)
    code = code.replace('["Put a text here.", "And another one there."]', repr(texts)).replace("RUN/", f"{several_run.path}/")
    said: list[Any] = []
    exec(code, {"print": lambda *given: said.append(given)})  # noqa: S102  # the card's own lines
    assert [(text, tuple(labels)) for text, labels in said] == [(answer.input, answer.labels) for answer in answers]


def test_a_pipeline_gives_the_probabilities_that_hftl_gives(several_run: RunDirectory) -> None:
    from transformers import pipeline

    served = pipeline("text-classification", model=str(several_run.model), device="cpu")
    text = "the story was wonderful happy fun"
    scores = {row["label"]: row["score"] for row in served(text, top_k=None)}
    answer = Predictor(several_run.path).predict([text])[0]
    assert scores == pytest.approx(answer.probabilities, abs=1e-5)
    assert sum(scores.values()) != pytest.approx(1.0)
    config = read_json(several_run.model / "config.json")
    reached = {name for name, least in zip(sorted(WORDS), config["thresholds"], strict=True) if scores[name] >= least}
    assert set(answer.labels or ()) == reached and answer.label == (", ".join(sorted(reached)) or "no label")


def test_predictions_are_written_as_lists_and_in_csv_as_texts(several_run: RunDirectory, tmp_path: Path) -> None:
    run = hftl.load(several_run.path)
    predictions = run.predict(["wonderful", "hate"], output=tmp_path / "out.jsonl", say=lambda line: None)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["labels"] for row in rows] == [list(each.labels or ()) for each in predictions]
    run.predict(["wonderful", "hate"], output=tmp_path / "out.csv", say=lambda line: None)
    assert "labels" not in (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()[0].split(",")


def test_its_baseline_is_a_logistic_regression_a_label(several_run: RunDirectory) -> None:
    record = read_json(several_run.baseline)
    assert record["name"] == "TF-IDF of words, logistic regression"
    own = Predictions.load(several_run.baseline_predictions("test"))
    chosen = Predictions.load(several_run.baseline_predictions("validation"))
    assert own.kind == SEVERAL_LABELS and own.thresholds == chosen.thresholds
    values = record["gains"]["test"]
    assert values["baseline_accuracy"] > 0.8  # the words give the labels away
    # The gain that counts is that of macro F1, and its interval that of the paired difference.
    model, metrics = Predictions.load(several_run.predictions("test")), read_json(several_run.metrics)["test"]
    macro_f1 = values["macro_f1"]
    assert macro_f1["model"] == pytest.approx(metrics["macro_f1"])
    assert macro_f1["gain"] == pytest.approx(
        macro_f1["model"] - compute_metrics(own, stored_label_names(several_run.predictions("test")))["macro_f1"]
    )
    assert macro_f1["gain_interval"] == pytest.approx(paired_intervals(own, model)["macro_f1"])
    [line, *_] = baseline_in_words(cast("Any", record))
    assert "accuracy" not in line and f"macro F1 {macro_f1['baseline']:.4f}; the model gains {macro_f1['gain']:+.4f} [" in line
    assert f"reaches a macro F1 of {macro_f1['baseline']:.3f}" in several_run.card.read_text(encoding="utf-8")


def test_hftl_baseline_answers_several_labels_and_begins_with_every_label(several_run: RunDirectory, tmp_path: Path) -> None:
    study = hftl.baseline(several_run.load_recipe(), study_dir=tmp_path / "study", say=lambda line: None)
    table = study.table.set_index("baseline")
    every = read_json(several_run.metrics)["validation"]["every_label_macro_f1"]
    assert table.index[0] == "every label always" and table["macro_f1"].iloc[0] == pytest.approx(every)
    assert list(table.index[1:]) == [
        *("TF-IDF of words, logistic regression", "TF-IDF of letters, logistic regression"),
        *("frozen features, logistic regression", "frozen features, nearest neighbours"),
    ]
    assert table["macro_f1"].tolist()[1] > 0.9
    assert (table["low"] <= table["macro_f1"]).all() and (table["macro_f1"] <= table["high"]).all()
    assert [path.name for path in study.figures] == ["macro_f1.png"] and "macro F1" in study.page


def test_what_chooses_the_weights_follows_from_the_data_and_is_said(several_run: RunDirectory) -> None:
    written = several_run.load_recipe()
    asked = several_recipe(Path(written.data.source), "run.baseline=linear")
    assert (asked.run.metric, written.run.metric) == ("auto", "macro_f1")
    assert "validation macro F1" in several_run.card.read_text(encoding="utf-8")
    said = [hftl.plan(override(asked, changes)).remarks for changes in (["run.metric=accuracy"], [])]
    assert "The weights are chosen by macro F1 on validation (run.metric=macro_f1)." in said[1]
    assert any("run.metric=macro_f1 counts each label" in line for line in said[0])
    check_same_recipe(several_run, asked)  # which goes on as it began
    with pytest.raises(RunError, match=r"run\.metric: macro_f1 -> accuracy"):
        check_same_recipe(several_run, override(asked, ["run.metric=accuracy"]))
    assert judged_by_its_data(asked).run.metric == "macro_f1"  # what a study compares its trials by
    assert judged_by_its_data(bert()).run.metric == "accuracy"


def test_other_rows_are_read_as_the_run_reads_its_own(several_run: RunDirectory, tmp_path: Path) -> None:
    rows = [(text, own) for text, own in examples(12, seed=9)]
    evaluated = evaluate_on(
        several_run, str(write_jsonl(tmp_path / "more.jsonl", rows)), split=None, name="more", write=False, say=lambda line: None
    )
    config = read_json(several_run.model / "config.json")
    assert evaluated.metrics["target"] == "several_labels" and evaluated.stored.thresholds == tuple(config["thresholds"])
    strange = write_jsonl(tmp_path / "strange.jsonl", [("text", ["joy", "disgust"])])
    with pytest.raises(DataError, match="classes that the model does not know: disgust"):
        evaluate_on(several_run, str(strange), split=None, name="strange", write=False, say=lambda line: None)


def test_two_runs_are_compared_on_the_same_rows(several_run: RunDirectory, tmp_path: Path) -> None:
    data = several_run.load_recipe().data.source
    other = train(several_recipe(Path(data), "stages.all.loss=asymmetric", "stages.all.class_weights=balanced"), tmp_path / "other")
    found = compare([several_run, other])
    assert [row.metric for row in found.pairs[0].differences] == list(quick_metrics(some_predictions()))
    assert {row["label"] for row in found.pairs[0].flips_by_class} <= set(WORDS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("run.metric=mcc", '"mcc" is a metric of one label an example, and these examples have several'),
        ("data.target=one", "labels? that is neither"),
        ("stages.all.loss=logit_adjusted", r"stages\.all\.loss: \"logit_adjusted\" is for one label(.|\n)*class_weights=effective"),
    ],
)
def test_what_does_not_fit_several_labels_is_refused_before_training(
    several_run: RunDirectory, tmp_path: Path, change: str, expected: str
) -> None:
    with pytest.raises((RecipeError, DataError), match=expected):
        train(several_recipe(Path(several_run.load_recipe().data.source), change), tmp_path / "run")


def test_pictures_have_several_labels_by_a_list_beside_them_and_are_served_so(tmp_path: Path) -> None:
    from PIL import Image
    from transformers import pipeline

    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        (tmp_path / split).mkdir()
        rows = []
        for number in range(count):
            own = [label for label in ("red", "blue") if generator.random() < 0.5]
            colour = [200 if "red" in own else 40, 40, 200 if "blue" in own else 40]
            pixels = np.clip(generator.normal(colour, 30, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{number}.png")
            rows.append({"file_name": f"{number}.png", "label": own})
        (tmp_path / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = Recipe(
        name="colours",
        data=ImageData(source=str(tmp_path), image_size=32, image_column="file_name", validation_fraction=0.25),
        model=Timm(checkpoint="resnet10t", pretrained=False),
        stages={"all": Stage(lr=1e-3)},
        run=RunSettings(batch_size=8, precision="fp32"),
    )
    run = train(recipe, tmp_path / "run")
    config, answer = read_json(run.model / "config.json"), Predictor(run.path).predict([str(tmp_path / "test/0.png")])[0]
    assert config["problem_type"] == "multi_label_classification" and len(config["thresholds"]) == 2
    served = pipeline("image-classification", model=str(run.model), device="cpu")
    scores = {row["label"]: row["score"] for row in served(str(tmp_path / "test/0.png"), top_k=2)}
    assert scores == pytest.approx(answer.probabilities, abs=1e-5)
    assert "TF-IDF" not in read_json(run.baseline)["name"]  # histograms of colours, a logistic regression a label
    write_card(run)
    card = run.card.read_text(encoding="utf-8")
    assert ".sigmoid()[0]" in card and "softmax" not in card
    assert verify(run).failed == ()


def test_a_network_over_word_vectors_learns_several_labels(tmp_path: Path) -> None:
    words = sorted({word for own in WORDS.values() for word in own.split()} | {"the", "story", "was", "unk"})
    generator = np.random.default_rng(0)
    lines = [f"{word} {' '.join(f'{value:.4f}' for value in generator.normal(size=16))}" for word in words]
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "data").mkdir()
    model = TextCNN(vectors=str(tmp_path / "vectors.txt"), min_count=1)
    recipe = several_recipe(write_splits(tmp_path / "data"), "stages.all.epochs=6").model_copy(update={"model": model})
    run = train(recipe, tmp_path / "run")
    assert read_json(run.metrics)["test"]["macro_f1"] > 0.8
    assert read_json(run.model / "config.json")["problem_type"] == "multi_label_classification"
    answer = Predictor(run.path).predict(["the story was wonderful happy fun love romance heart"])[0]
    assert set(answer.labels or ()) == {"joy", "love"}
