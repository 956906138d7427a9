"""`hftl pseudo-label` and `hftl.borrow`: further rows for training, where a run is sure enough, and where they look alike."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from small import nano, noise, train

import hftl
from hftl.data.source import load_splits
from hftl.errors import DataError, RunError
from hftl.evaluation.calibration import Believed, believed, confidences_of, lowest_confidence, temperature_of
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json
from hftl.pseudo_labels import importance
from hftl.recipe import CNN, Extra, ImageData, Recipe, RunSettings, Stage, TextData
from hftl.run import RunDirectory

GOOD, BAD = ("wonderful", "great", "superb", "lovely"), ("awful", "terrible", "boring", "poor")
THINGS = ("film", "plot", "cast", "score", "scene", "ending", "dialogue", "camera", "pace", "humour", "style", "idea")


def films(number: int, *, start: int = 0) -> list[tuple[str, str]]:
    """Rows that a word tells apart, good and bad ones in turn, no two alike."""
    rows = []
    for row in range(start, start + number):
        words, label = (GOOD, "pos") if row % 2 else (BAD, "neg")
        rows.append((f"a {words[row % 4]} {THINGS[row % 12]}, {words[row // 4 % 4]} {THINGS[row // 12 % 12]} {row}", label))
    return rows


def write(file: Path, rows: Sequence[tuple[str, ...]], columns: Sequence[str] = ("text", "label")) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run that tells good films from bad ones, and 60 unlabelled texts: 40 new ones, 8 repeated, 12 of its own splits."""
    folder = tmp_path_factory.mktemp("pseudo")
    for name, start, number in (("train", 0, 64), ("validation", 100, 40), ("test", 200, 16)):
        write(folder / "films" / f"{name}.csv", films(number, start=start))
    texts = [*films(40, start=300), *films(8, start=300), *films(4), *films(4, start=100), *films(4, start=200)]
    write(folder / "films" / "more.csv", [(text,) for text, _ in texts], ("text",))
    data = TextData(source=str(folder / "films"), max_length=16)
    recipe = nano("films", data, {"all": Stage(unfreeze="all", lr=2e-3, epochs=6)}, batch_size=8, test="sealed")
    return SimpleNamespace(run=train(recipe, folder / "run"), folder=folder, recipe=recipe)


# --- calibration --------------------------------------------------------------------------------------------------------------


def test_a_temperature_makes_the_confidence_what_it_should_be() -> None:
    logits, labels = np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    temperature = temperature_of(logits, labels)
    assert temperature == pytest.approx(4 / np.log(2), rel=1e-3)
    assert confidences_of(logits, temperature) == pytest.approx([2 / 3] * 4, rel=1e-3)
    many = temperature_of(np.tile(logits, (1_000, 1)), np.tile(labels, 1_000))
    assert many == pytest.approx(4 / np.log(3), rel=2e-3)  # 3/4 are right
    assert 0.5 < temperature_of(np.array([[2.0, -2.0]] * 40), np.zeros(40, dtype=np.int64)) < 2  # all right, and not certain


def test_the_lowest_confidence_leaves_no_more_wrong_than_is_accepted() -> None:
    confidences, right = np.array([0.7, 0.9, 0.8]), np.array([True, True, False])
    assert lowest_confidence(confidences, right, 0.4) == 0.7  # 1 of 3 is wrong
    assert lowest_confidence(confidences, right, 0.3) == 0.9
    assert lowest_confidence(np.array([0.9, 0.9]), np.array([True, False]), 0.4) is None  # of equals both or none
    assert lowest_confidence(confidences, ~right, 0.4) is None


def test_the_noise_is_measured_by_each_half_at_the_confidence_that_the_other_chose() -> None:
    """200 rows whose confidence is right: of those at 0.95 one in twenty is wrong, of those at 0.6 two in five."""
    sure = np.repeat([np.log(19.0), np.log(1.5)], 100)
    logits = np.stack([sure, np.zeros(200)], axis=1)
    labels = np.concatenate([np.arange(100) % 20 == 0, np.arange(100) % 5 < 2]).astype(np.int64)
    found = believed(logits, labels, noise=0.1)
    assert found is not None and found.temperature == pytest.approx(1, abs=0.05)
    assert found.confidence == pytest.approx(0.95, abs=0.01)
    assert (found.rows, found.wrong, found.of) == (100, 5, 200) and found.noise == 0.05
    assert found.interval[0] < 0.05 < found.interval[1]
    given = believed(logits, labels, noise=0.1, confidence=0.5)
    assert given is not None and (given.rows, given.wrong) == (200, 45)
    assert believed(logits, 1 - labels, noise=0.1) is None
    assert Believed(1.0, 0.9, 0, 0, 10).interval == [0.0, 1.0]


# --- labels by a run ----------------------------------------------------------------------------------------------------------


def test_rows_are_labelled_where_the_run_is_sure_and_those_of_its_splits_are_left_out(
    trained: SimpleNamespace, tmp_path: Path
) -> None:
    said: list[str] = []
    [labels] = hftl.pseudo_label(trained.run.path, "more", tmp_path / "labels", noise=0.2, say=said.append)
    assert labels.left_out == {"in validation or test": 8, "empty": 0, "in train": 4, "repeated": 8}
    assert labels.of == 40 and 0 < labels.count <= 40 and sum(labels.per_class.values()) == labels.count
    table = pq.read_table(tmp_path / "labels" / "train.parquet")
    assert table.column_names == ["text", "label", "confidence"] and len(table) == labels.count
    truth = dict(films(40, start=300))
    answers = {one.input: one.label for one in hftl.load(trained.run.path).predict(list(truth))}
    rows = table.to_pylist()
    assert all(row["label"] == answers[row["text"]] and row["confidence"] >= labels.believed.confidence - 1e-6 for row in rows)
    assert any(line.startswith("expected noise: ") and "validation rows" in line for line in said)
    provenance = read_json(tmp_path / "labels" / "provenance.json")
    assert provenance["by"] == "hftl pseudo-label" and provenance["rows"] == f"{labels.count} of 40 of more"
    extra = Extra(source=tmp_path / "labels", name="pseudo-labelled", weight=0.5, weight_column="confidence")
    splits = load_splits(trained.recipe.data.model_copy(update={"extra": (extra,)}), seed=0)
    assert splits.facts["extra"][0]["n"] == labels.count and splits.facts["extra"][0]["left_out"] == 0
    with pytest.raises(RunError, match="is there already"):
        hftl.pseudo_label(trained.run.path, "more", tmp_path / "labels")


def test_rounds_train_anew_with_labels_by_the_run_before_and_go_on_from_what_is_there(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = hftl.pseudo_label(trained.run.path, "more", tmp_path / "rounds", noise=0.3, rounds=1, weight=0.5, say=lambda line: None)
    assert len(one) == 1
    run = RunDirectory(tmp_path / "rounds" / "round-1" / "run")
    [extra] = run.load_recipe().data.extra
    assert (extra.name, extra.weight, extra.source) == ("pseudo-labelled", 0.5, str(tmp_path / "rounds" / "round-1" / "labels"))
    assert run.finished and not run.predictions("test").is_file()
    again = hftl.pseudo_label(trained.run.path, "more", tmp_path / "rounds", noise=0.3, rounds=1, weight=0.5, say=lambda line: None)
    assert again == []
    with pytest.raises(
        RunError, match=r"rounds are of something else:\n  noise: 0.3 -> 0.2\n  weight: 0.5 -> 1.0\n  Go on without"
    ):
        hftl.pseudo_label(trained.run.path, "more", tmp_path / "rounds", noise=0.2, rounds=2, say=lambda line: None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="is there already, and no rounds are in it"):
        hftl.pseudo_label(trained.run.path, "more", tmp_path / "other", rounds=1, say=lambda line: None)
    [two] = hftl.pseudo_label(trained.run.path, "more", tmp_path / "rounds", noise=0.3, rounds=2, weight=0.5, say=lambda line: None)
    assert two.of == one[0].of == 40  # all of them are labelled once more, by the run that has learned from some
    [extra] = RunDirectory(tmp_path / "rounds" / "round-2" / "run").load_recipe().data.extra
    assert extra.source == str(tmp_path / "rounds" / "round-2" / "labels")


@pytest.mark.parametrize(
    ("unlabelled", "options", "error", "words"),
    [
        ("validation", {}, DataError, "nothing may be learned from it"),
        ("nowhere", {}, RunError, "no such file or folder, and no split of that name"),
        ("more", {"noise": 1.5}, RunError, "--noise: 1.5 is no share"),
        ("more", {"confidence": 0.9999999}, RunError, "none of 40 rows reaches"),
    ],
    ids=["the validation split", "nothing", "no share", "never so sure"],
)
def test_what_cannot_be_labelled_is_one_message(
    unlabelled: str, options: dict[str, Any], error: type[Exception], words: str, trained: SimpleNamespace, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        hftl.pseudo_label(trained.run.path, unlabelled, tmp_path / "labels", **options)
    assert not (tmp_path / "labels").exists()


def test_rows_that_are_all_known_and_labels_that_are_noise_are_refused(trained: SimpleNamespace, tmp_path: Path) -> None:
    known = write(tmp_path / "known.csv", [(text,) for text, _ in films(5)], ("text",))
    with pytest.raises(RunError, match="no row is left to label; 5 in train"):
        hftl.pseudo_label(trained.run.path, known, tmp_path / "labels")
    empty = write(tmp_path / "empty.csv", [], ("text",))
    with pytest.raises(DataError, match="has no text"):
        hftl.pseudo_label(trained.run.path, empty, tmp_path / "labels")


def test_pictures_are_labelled_with_their_bytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split, number in (("train", 12), ("validation", 10), ("more", 8)):
        for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
            folder = tmp_path / ("more" if split == "more" else f"photos/{split}/{name}")
            folder.mkdir(parents=True, exist_ok=True)
            for place in range(number):
                picture = noise(int(generator.integers(10**6))).convert("L").convert("RGB")
                pixels = 0.5 * np.asarray(picture, dtype=np.float64) + 0.5 * np.array(colour)
                from PIL import Image

                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}{place}.png")
    recipe = Recipe(
        name="colours",
        data=ImageData(source=tmp_path / "photos", image_size=32),
        model=CNN(channels=(8,)),
        stages={"all": Stage(unfreeze="all", lr=3e-2, epochs=6)},
        run=RunSettings(batch_size=8, precision="fp32", baseline="none"),
    )
    run = train(recipe, tmp_path / "run")
    [labels] = hftl.pseudo_label(run.path, tmp_path / "more", tmp_path / "labels", noise=0.3, say=lambda line: None)
    table = pq.read_table(tmp_path / "labels" / "train.parquet").to_pylist()
    assert labels.of == 16 and len(table) == labels.count > 0
    stored = {path.read_bytes() for path in (tmp_path / "more").iterdir()}
    assert all(row["image"]["bytes"] in stored and row["label"] in ("red", "blue") for row in table)
    extra = Extra(source=tmp_path / "labels", name="pseudo-labelled")
    assert load_splits(recipe.data.model_copy(update={"extra": (extra,)}), seed=0).facts["extra"][0]["n"] == labels.count


def test_a_run_of_several_labels_and_one_of_several_columns_are_refused(
    trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_several = Predictions(["a", "b"], np.array([[1, 0], [0, 1]]), np.zeros((2, 2), dtype=np.float32), kind="several_labels")
    with monkeypatch.context() as patched:
        patched.setattr(Predictions, "load", classmethod(lambda cls, path: of_several))
        with pytest.raises(RunError, match="several labels an example"):
            hftl.pseudo_label(trained.run.path, "more", tmp_path / "labels")
    begun = RunDirectory(tmp_path / "begun")
    begun.write_recipe(hftl.load(trained.run.path).recipe)
    with pytest.raises(RunError, match=r"not finished; there is no model to label with\. .*hftl train .*begun --resume"):
        hftl.pseudo_label(hftl.Run(begun), "more", tmp_path / "labels")


# --- borrowed rows ------------------------------------------------------------------------------------------------------------


def test_a_weight_is_the_ratio_of_both_likelihoods_clipped_with_a_mean_of_1() -> None:
    assert importance(np.array([0.0, np.log(3)]), ratio=1.0, clip=2.0).tolist() == pytest.approx([2 / 3, 4 / 3])
    assert importance(np.array([-np.log(2), np.log(2)]), ratio=2.0, clip=10.0).tolist() == pytest.approx([1 / 2.5, 4 / 2.5])


def test_borrowed_rows_weigh_more_where_they_look_like_ones_own(trained: SimpleNamespace, tmp_path: Path) -> None:
    alike = [(text.replace(" a ", " one "), label) for text, label in films(20, start=600)]
    strange = [(f"the parcel of order {place} was late and the box {place % 7} broke", "neg") for place in range(20)]
    other = write(tmp_path / "other.csv", [*alike, *strange, films(1)[0]])
    said: list[str] = []
    borrowed = hftl.borrow(trained.recipe, other, tmp_path / "borrowed", say=said.append)
    rows = pq.read_table(tmp_path / "borrowed" / "train.parquet").to_pylist()
    assert (borrowed.count, borrowed.left_out) == (40, 1) and 0.5 < borrowed.auc <= 1
    weights = np.array([row["weight"] for row in rows])
    assert weights.mean() == pytest.approx(1, rel=1e-5) and weights[:20].mean() > 3 * weights[20:].mean()
    assert borrowed.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-4) and len(said) == 2
    extra = Extra(source=tmp_path / "borrowed", name="borrowed", weight_column="weight")
    splits = load_splits(trained.recipe.data.model_copy(update={"extra": (extra,)}), seed=0)
    assert splits.facts["extra"][0]["n"] == 40
    with pytest.raises(RunError, match="is there already"):
        hftl.borrow(trained.recipe, other, tmp_path / "borrowed")
    with pytest.raises(DataError, match="classes that the source does not know: odd"):
        hftl.borrow(trained.recipe, write(tmp_path / "odd.csv", [("a text", "odd")]), tmp_path / "none")
    with pytest.raises(RunError, match="is not more than 1"):
        hftl.borrow(trained.recipe, other, tmp_path / "none", clip=1)
