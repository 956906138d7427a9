"""Baselines: what simple methods make of the same rows, and what a run says of its gain over one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer
from small import BERT_NANO

import hftl
from hftl.data.source import load_splits
from hftl.errors import RunError
from hftl.evaluation.baselines import (
    Choose,
    NoBaseline,
    Rows,
    Terms,
    best_terms,
    cheap_text_baseline,
    color_baseline,
    color_histogram,
    feature_baselines,
    majority,
    naive_bayes_weights,
    term_scores,
    text_baselines,
    words,
)
from hftl.evaluation.gain import gain, in_words
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json
from hftl.recipe import Recipe, RunSettings, Stage, TextData, Transformer
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.training.baseline import run_beside

RECIPE = Recipe(
    name="beside",
    data=TextData(source=REVIEWS, max_length=24, max_train_samples=60, max_validation_samples=40, max_test_samples=30),
    model=Transformer(checkpoint=BERT_NANO),
    stages={"head": Stage(unfreeze="head", lr=1e-3, epochs=1, schedule="constant")},
    run=RunSettings(batch_size=20, precision="fp32", test="sealed"),
)
QUIET = Console(quiet=True)

# Four texts, two of each class. The first term is in both of class 0, the second in one of each, the third in one of class 0.
COUNTS = csr_array(np.array([[2, 1, 1], [1, 0, 0], [0, 3, 0], [0, 0, 0]]))
LABELS = np.array([0, 0, 1, 1])


# --- terms --------------------------------------------------------------------------------------------------------------------


def test_terms_are_counted_as_scikit_learn_counts_them() -> None:
    train = ["A good film, a GOOD film!", "bad\tbad  film", "", "好看 film-noir of the 1940s", "it is what it is"]
    unseen = ["a good unheard-of film", "好 看", ""]
    counters = {
        "words": CountVectorizer(tokenizer=words, token_pattern=None, lowercase=False, ngram_range=(1, 2)),
        "letters": CountVectorizer(analyzer="char_wb", ngram_range=(2, 4)),
    }
    for of, counter in counters.items():
        terms = Terms(of, train)  # type: ignore[arg-type]
        mine, theirs = terms.counts.toarray(), counter.fit_transform(train).toarray()
        # The terms stand in another order: each column is told by its counts in all texts together.
        pairs = [np.vstack([mine, terms.of(unseen).toarray()]), np.vstack([theirs, counter.transform(unseen).toarray()])]
        assert pairs[0].shape == pairs[1].shape
        assert sorted(map(tuple, pairs[0].T.tolist())) == sorted(map(tuple, pairs[1].T.tolist())), of


def test_of_many_texts_a_term_of_one_alone_is_left_out() -> None:
    texts = [f"film number {place // 2}" for place in range(1_000)] + ["once"]
    terms = Terms("words", texts)
    assert terms.counts.shape == (1_001, 2 + 500 + 1 + 500)  # film, number, the numbers; "film number", "number 0", ...
    assert terms.of(["once upon a film"]).sum() == 1


def test_texts_without_a_word_have_no_terms() -> None:
    for of in ("words", "letters"):
        with pytest.raises(NoBaseline):
            Terms(of, ["", " \t"])


# --- selection of terms, by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("document frequency", [2, 2, 1]),
        # The third: seen 1, 0 | 1, 2; expected 1/2, 1/2 | 3/2, 3/2: 2 (1/4) / (1/2) + 2 (1/4) / (3/2) = 4/3.
        ("chi-square", [4, 0, 4 / 3]),
        # ln 2; 0; ln 2 - 3/4 H(1/3, 2/3) = 0.6931 - 3/4 (0.6365).
        ("information gain", [math.log(2), 0, math.log(2) - 0.75 * (math.log(3) - 2 / 3 * math.log(2))]),
        # P(t, c) / (P(t) P(c)): (1/2) / (1/4); (1/4) / (1/4); (1/4) / (1/8).
        ("mutual information", [math.log(2), 0, math.log(2)]),
    ],
)
def test_a_term_is_scored_as_by_hand(by: str, expected: list[float]) -> None:
    assert term_scores(COUNTS, LABELS, by).tolist() == pytest.approx(expected)  # type: ignore[arg-type]


def test_information_gain_is_the_mutual_information_of_scikit_learn() -> None:
    from sklearn.feature_selection import mutual_info_classif

    generator = np.random.default_rng(0)
    counts, labels = csr_array(generator.poisson(0.7, (60, 12))), generator.integers(0, 3, 60)
    reference = mutual_info_classif((counts.toarray() > 0).astype(int), labels, discrete_features=True)
    assert term_scores(counts, labels, "information gain") == pytest.approx(reference, abs=1e-12)


def test_of_equal_scores_the_first_terms_are_taken() -> None:
    assert best_terms(np.array([1.0, 3.0, 1.0, 2.0]), 3).tolist() == [0, 1, 3]


def test_naive_bayes_weights_are_those_of_wang_and_manning() -> None:
    # p = 1 + (2, 1, 1), q = 1 + (0, 1, 0): ln of (3/7) / (1/4), (2/7) / (2/4), (2/7) / (1/4).
    expected = [math.log(12 / 7), math.log(4 / 7), math.log(8 / 7)]
    assert naive_bayes_weights(COUNTS, LABELS == 0).tolist() == pytest.approx(expected)


def test_words_are_single_letters_where_a_script_has_no_spaces() -> None:
    assert words("Ein Bär, 2 不好吃!") == ["ein", "bär", "2", "不", "好", "吃"]


# --- classifiers --------------------------------------------------------------------------------------------------------------


def accuracy_on(labels: np.ndarray) -> Choose:
    return lambda logits: float((logits.argmax(axis=1) == labels).mean())


GOOD, BAD = ["a good film", "good fun", "very good", "good good"], ["a bad film", "bad mess", "very bad", "bad bad"]
TRAIN = Rows([*GOOD, *BAD], np.array([0] * 4 + [1] * 4))
OTHER = Rows(["this is good", "bad, so bad"], np.array([0, 1]))


def test_every_text_method_learns_a_word_that_decides_and_answers_other_texts_as_on_validation() -> None:
    found = list(text_baselines(TRAIN, OTHER, classes=2, choose=accuracy_on(OTHER.labels)))
    assert len({each.name for each in found}) == 6
    for each in found:
        assert each.logits.argmax(axis=1).tolist() == [0, 1], each.name
        assert np.array_equal(each.answer(OTHER.contents), each.logits) and each.logits.dtype == np.float32


def test_a_selection_of_terms_is_chosen_where_it_is_better_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.evaluation.baselines.SELECTED", (1, 2))
    seen: list[int] = []

    def fewest(logits: np.ndarray) -> float:  # the later, the better
        seen.append(0)
        return float(len(seen))

    first = next(text_baselines(TRAIN, OTHER, classes=2, choose=fewest))
    assert first.choice["selected by"] == "mutual information" and first.choice["terms"] == 2
    assert np.array_equal(first.answer(OTHER.contents), first.logits)


def test_a_class_that_training_lacks_is_never_answered() -> None:
    found = cheap_text_baseline(TRAIN, OTHER, classes=4, choose=accuracy_on(OTHER.labels))
    assert found.logits.shape == (2, 4) and np.isfinite(found.logits).all()
    assert set(found.logits.argmax(axis=1).tolist()) <= {0, 1}


def test_the_same_rows_give_the_same_numbers_again() -> None:
    one, two = (cheap_text_baseline(TRAIN, OTHER, classes=2, choose=accuracy_on(OTHER.labels)) for _ in range(2))
    assert np.array_equal(one.logits, two.logits) and one.choice == two.choice


@pytest.mark.parametrize("train", [Rows(["good", "fun"], np.array([1, 1])), Rows(["!", "?"], np.array([0, 1]))])
def test_rows_of_one_class_or_without_a_word_have_no_baseline_and_a_reason(train: Rows) -> None:
    with pytest.raises(NoBaseline, match=r"one class|no term"):
        cheap_text_baseline(train, OTHER, classes=2, choose=accuracy_on(OTHER.labels))


def test_majority_answers_the_most_frequent_class_of_training() -> None:
    found = majority(Rows(["a", "b", "c"], np.array([1, 1, 0])), OTHER, classes=3)
    assert np.exp(found.logits[0]).tolist() == pytest.approx([2 / 6, 3 / 6, 1 / 6])
    assert found.answer(["d"]).argmax(axis=1).tolist() == [1]


def test_a_histogram_of_a_picture_of_two_pixels() -> None:
    histogram = color_histogram(np.array([[[255, 0, 0], [0, 32, 255]]], dtype=np.uint8))
    assert np.flatnonzero(histogram).tolist() == [8 + 7, 7 * 64] and histogram[15] == pytest.approx(math.sqrt(0.5))


def test_red_pictures_and_blue_ones_are_told_apart_by_their_colors() -> None:
    red, blue = (color_histogram(np.full((2, 2, 3), color, dtype=np.uint8)) for color in ((200, 0, 0), (0, 0, 200)))
    rows = Rows(np.stack([red, blue, red, blue]), np.array([0, 1, 0, 1]))
    found = color_baseline(rows, rows, classes=2, choose=accuracy_on(rows.labels))
    assert found.logits.argmax(axis=1).tolist() == [0, 1, 0, 1]


def test_neighbours_vote_by_the_angle_and_the_better_kind_of_features_is_chosen() -> None:
    labels = np.array([0, 0, 1, 1])
    apart = np.array([[1.0, 0.0], [9.0, 1.0], [0.0, 1.0], [1.0, 9.0]], dtype=np.float32)
    rows, unseen = Rows(apart, labels), Rows(np.array([[5.0, 0.1], [0.1, 0.2]], dtype=np.float32), np.array([0, 1]))
    useless = Rows(np.ones((4, 2), np.float32), labels), Rows(np.ones((2, 2), np.float32), np.array([0, 1]))
    features = {"mean": useless, "first token": (rows, unseen)}
    _, near = feature_baselines(features, classes=2, choose=accuracy_on(unseen.labels))
    assert dict(near.choice) == {"features": "first token", "k": 1}
    assert near.logits[0].tolist() == pytest.approx([math.log(2 / 3), math.log(1 / 3)])


# --- the gain -----------------------------------------------------------------------------------------------------------------


def answered(right: list[bool], ids: str = "abcd") -> Predictions:
    logits = np.array([[1.0, 0.0] if each else [0.0, 1.0] for each in right], dtype=np.float32)
    return Predictions(list(ids), np.zeros(len(ids), dtype=np.int64), logits)


def test_the_gain_is_paired_over_the_rows_that_both_answered() -> None:
    found = gain(answered([True, True, True, False, True], "abcde"), answered([True, False, False, False]))
    assert (found["n"], found["gain"], found["right_in_model_alone"], found["right_in_baseline_alone"]) == (4, 0.5, 2, 0)
    half = 1.959964 * math.sqrt(1 / 3) / 2  # the differences are 0, 1, 1, 0
    assert found["gain_interval"] == pytest.approx([0.5 - half, 0.5 + half], abs=1e-6)
    assert found["p"] == 0.25  # 2 (P(0) / 2) of two rows


def test_rows_that_the_model_has_not_answered_or_that_are_labelled_otherwise_are_refused() -> None:
    with pytest.raises(RunError, match="has not"):
        gain(answered([True, True, True], "abc"), answered([True] * 4))
    other = answered([True] * 4)
    with pytest.raises(RunError, match="other labels"):
        gain(Predictions(other.ids, np.ones(4, dtype=np.int64), other.logits), other)


@pytest.mark.parametrize(
    ("interval", "words"), [([0.01, 0.2], None), ([-0.01, 0.2], "no gain is settled"), ([-0.3, -0.1], "worse than the baseline")]
)
def test_the_terminal_says_where_a_model_gains_nothing(interval: list[float], words: str | None) -> None:
    values = {"n": 10, "baseline_accuracy": 0.5, "gain": sum(interval) / 2, "gain_interval": interval, "p": 0.5}
    record: Any = {"name": "TF-IDF", "seconds": 1.0, "gains": {"validation": values}}
    lines = in_words(record)
    assert "baseline on validation" in lines[0] and (len(lines) == 1 if words is None else words in lines[1])


# --- beside a run -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hftl.Run:
    return hftl.train(RECIPE, run_dir=tmp_path_factory.mktemp("beside") / "run", console=QUIET)


def test_a_run_has_a_baseline_beside_it_that_never_saw_a_sealed_test_split(run: hftl.Run) -> None:
    record = read_json(run.paths.baseline)
    assert record["name"] == "TF-IDF of words, logistic regression" and record["training_rows"] == 60
    assert set(record["gains"]) == {"validation"} and not run.paths.baseline_predictions("test").exists()
    own = Predictions.load(run.paths.baseline_predictions("validation"))
    assert record["gains"]["validation"] == gain(Predictions.load(run.paths.predictions("validation")), own)
    assert not run.paths.test_openings.exists()


def test_the_card_says_in_its_first_lines_what_the_model_gains_and_verify_recomputes_it(run: hftl.Run) -> None:
    top = run.paths.card.read_text().partition("## ")[0]
    record = read_json(run.paths.baseline)["gains"]["validation"]
    assert "a simple baseline (TF-IDF of words, logistic regression) reaches" in top
    assert ("not shown to be better" in top) == (record["gain_interval"][0] <= 0 <= record["gain_interval"][1])
    verdict = run.verify()
    assert verdict.counts["baseline.json"][1] == 0 and not verdict.failed
    path, before = run.paths.baseline, run.paths.baseline.read_text()
    changed = json.loads(before)
    changed["gains"]["validation"]["gain"] += 0.1
    path.write_text(json.dumps(changed))
    assert "validation.gain" in {claim.where for claim in run.verify().failed}
    path.write_text(before)


def test_the_same_baseline_is_not_fitted_again(run: hftl.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.training.baseline.cheapest", lambda *_, **__: pytest.fail("fitted again"))
    splits = load_splits(RECIPE.data, seed=0)
    run_beside(RECIPE, splits, run.paths, {"validation": Predictions.load(run.paths.predictions("validation"))})


def test_when_test_is_opened_later_the_baseline_answers_it_in_the_same_opening(run: hftl.Run) -> None:
    before = run.paths.baseline_predictions("validation").read_bytes()
    tested = run.test(say=lambda _: None)
    record = read_json(tested.paths.baseline)
    assert set(record["gains"]) == {"validation", "test"} and record["gains"]["test"]["n"] == 30
    assert run.paths.baseline_predictions("validation").read_bytes() == before
    assert len(run.paths.test_openings.read_text().splitlines()) == 1
    assert not tested.verify().failed


def test_a_run_without_a_baseline_has_none_and_no_word_of_it_on_its_card(tmp_path: Path) -> None:
    recipe = hftl.override(RECIPE, ["run.baseline=none"])
    run = hftl.train(recipe, run_dir=tmp_path / "run", console=QUIET)
    assert not run.paths.baseline.parent.exists() and "simple baseline" not in run.paths.card.read_text()
    assert not run.verify().failed


def test_rows_that_allow_no_baseline_leave_a_reason(tmp_path: Path) -> None:
    rows = [f'"{mark}",{label}' for label, mark in (("yes", "!"), ("no", "?")) for mark in (mark * n for n in range(1, 11))]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    recipe = hftl.override(RECIPE, [f"data.source={tmp_path / 'rows.csv'}", "data.max_train_samples=null"])
    splits, directory = load_splits(recipe.data, seed=0), RunDirectory(tmp_path / "run")
    directory.baseline.parent.mkdir(parents=True)
    n = len(splits.validation)
    predictions = Predictions(list(splits.validation["id"]), np.array(splits.validation["label"]), np.zeros((n, 2), np.float32))
    run_beside(recipe, splits, directory, {"validation": predictions})
    assert "no term" in read_json(directory.baseline)["reason"]


# --- the command --------------------------------------------------------------------------------------------------------------


def test_hftl_baseline_has_a_row_for_each_method_and_opens_no_test_split(tmp_path: Path) -> None:
    said: list[str] = []
    study = hftl.baseline(RECIPE, study_dir=tmp_path / "study", say=said.append)
    table = study.table
    assert table["baseline"].tolist()[0] == "majority" and len(table) == 9
    assert {"frozen features, logistic regression", "frozen features, nearest neighbours"} <= set(table["baseline"])
    assert [path.name for path in study.figures] == ["accuracy.png"] and "TF-IDF of letters, linear SVM" in study.page
    assert not list((tmp_path / "study").rglob("test_openings.jsonl"))
    again = hftl.baseline(RECIPE, study_dir=tmp_path / "study", say=said.append).table
    assert again.drop(columns="seconds").equals(table.drop(columns="seconds"))
    with pytest.raises(RunError, match="another study"):
        hftl.baseline(hftl.override(RECIPE, ["data.max_train_samples=50"]), study_dir=tmp_path / "study", say=said.append)
