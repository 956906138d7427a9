"""`data.extra`: further rows for training alone, counted, weighted, and held against every split of the source."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from sittings import assert_same_run, signal_at
from small import BERT_NANO, ids, nano, noise, train, write_pictures

import hftl
from hftl.data.audit import audit_splits
from hftl.data.loader import training_batches
from hftl.data.source import load_splits
from hftl.data.targets import weights_of
from hftl.errors import DataError, RecipeError, RunError
from hftl.evaluation.baselines import Rows, majority
from hftl.files import read_json
from hftl.recipe import (
    LOCAL,
    CrossEntropyLoss,
    Extra,
    ImageData,
    Mixup,
    Stage,
    TextData,
    check_places,
    load_recipe,
    override,
    parse_recipe,
    without_places,
)
from hftl.records.data import read_data
from hftl.records.plan import read_plan
from hftl.sharing.card import render_card
from hftl.sharing.publication import prepare
from hftl.sharing.usage import repeat
from hftl.sharing.verify import require_verified_copy
from hftl.signals import Stopped
from hftl.training.experiment import class_counts, prepare_experiment
from hftl.training.finished import evaluate
from hftl.training.loss import make_loss
from hftl.training.planning import make_plan
from hftl.training.step import _losses

CPU = torch.device("cpu")
WORDS = ("quick", "brown", "lazy", "clever", "silent", "early", "bright", "cold", "gentle", "plain", "loud", "small")


def films(number: int, *, start: int = 0) -> list[tuple[str, str]]:
    """So many rows, no two of which are nearly the same, good and bad ones in turn."""
    kinds = [("a good film", "pos"), ("a bad film", "neg")]
    return [
        (f"{kinds[row % 2][0]} {' '.join(WORDS[row // 12**place % 12] for place in range(3))} {row}", kinds[row % 2][1])
        for row in range(start, start + number)
    ]


def write(file: Path, rows: Sequence[tuple[Any, ...]], columns: Sequence[str] = ("text", "label")) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return str(file)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """24 rows of train, 8 of validation and 8 of test."""
    for name, start, number in (("train", 0, 24), ("validation", 100, 8), ("test", 200, 8)):
        write(tmp_path / "films" / f"{name}.csv", films(number, start=start))
    return str(tmp_path / "films")


def refused(data: TextData | ImageData) -> str:
    with pytest.raises(DataError) as error:
        load_splits(data, seed=0)
    return str(error.value)


# --- reading ------------------------------------------------------------------------------------------------------------------


def test_the_rows_are_in_train_alone_behind_its_own_and_counted_with_their_weight(source: str, tmp_path: Path) -> None:
    more = write(tmp_path / "made.csv", films(6, start=300))
    plain = load_splits(TextData(source=source), seed=0)
    splits = load_splits(TextData(source=source, extra=Extra(source=more, name="generated", weight=0.5)), seed=0)
    assert ids(splits.train) == [*ids(plain.train), *(f"generated/train/{row}" for row in range(6))]
    assert ids(splits.validation) == ids(plain.validation) and ids(splits.test) == ids(plain.test)
    weights = weights_of(splits.train)
    assert weights is not None and weights.tolist() == [1.0] * 24 + [0.5] * 6 and weights_of(splits.validation) is None
    [facts] = splits.facts["extra"]
    assert (facts["n"], facts["left_out"], facts["source"]) == (6, 0, more)
    assert facts["said"] == "6 generated texts at weight 0.5 (made.csv)"
    assert splits.facts["understood"][-1] == "and 6 generated texts at weight 0.5 (made.csv), in training alone"
    assert splits.facts["splits"]["train"]["n"] == 30 and splits.facts["splits"]["train"]["per_class"] == {"neg": 15, "pos": 15}
    # What is said of the source is said of it alone.
    for same in ("fingerprint", "contents", "test_rows", "validation"):
        assert splits.facts[same] == plain.facts[same]
    assert audit_splits(splits).splits["train"]["n"] == 30


def test_where_validation_is_made_of_train_they_come_in_after_it_was_set_aside(tmp_path: Path) -> None:
    one = write(tmp_path / "one" / "train.csv", films(40))
    more = write(tmp_path / "more.csv", films(60, start=300))
    plain, with_more = (load_splits(TextData(source=one, extra=extra), seed=3) for extra in ((), more))
    assert ids(with_more.validation) == ids(plain.validation) and len(with_more.train) == len(plain.train) + 60
    few = load_splits(TextData(source=one, extra=more, max_train_samples=10), seed=3)
    assert len(few.train) == 70  # of the source 10


def test_several_sections_a_column_of_weights_and_a_split_by_its_name(source: str, tmp_path: Path) -> None:
    weighted = [(*row, weight) for row, weight in zip(films(3, start=300), (0.25, 1, 4), strict=True)]
    columns = write(tmp_path / "labelled.csv", weighted, ("text", "label", "confidence"))
    write(tmp_path / "other" / "train.csv", films(4, start=400))
    write(tmp_path / "other" / "old.csv", films(2, start=500))
    extra = [
        Extra(source=columns, name="pseudo-labelled", weight=0.5, weight_column="confidence"),
        {"source": tmp_path / "other", "name": "borrowed", "split": "old"},
    ]
    splits = load_splits(TextData(source=source, extra=extra), seed=0)
    weights = weights_of(splits.train)
    assert weights is not None and weights[24:].tolist() == [0.125, 0.5, 2.0, 1.0, 1.0]
    assert [each["said"] for each in splits.facts["extra"]] == [
        "3 pseudo-labelled texts at weights of 0.125 to 2, 0.875 on average (labelled.csv)",
        "2 borrowed texts at weight 1 (other)",
    ]
    assert any(line.startswith("borrowed: not used: train") for line in splits.facts["remarks"])


def test_pictures_of_one_class_in_a_folder_with_its_provenance(tmp_path: Path) -> None:
    write_pictures(tmp_path / "photos", {"cat": 10, "dog": 10})
    for number in range(3):
        (tmp_path / "made" / "dog").mkdir(parents=True, exist_ok=True)
        noise(1000 + number).save(tmp_path / "made" / "dog" / f"{number}.png")
    said = {"model": "DCGAN", "steps": 2000, "settings": {"left": "out"}, "note": "x" * 500}
    (tmp_path / "made" / "provenance.json").write_text(json.dumps(said), encoding="utf-8")
    data = ImageData(source=str(tmp_path / "photos"), extra=tmp_path / "made")
    splits = load_splits(data, seed=0)
    assert len(splits.train) == 18 + 3 and splits.facts["splits"]["train"]["per_class"] == {"cat": 9, "dog": 12}
    assert len(splits.image_scans["train"]) == len(splits.contents["train"]) == 21
    [facts] = splits.facts["extra"]
    assert facts["said"] == "3 further pictures at weight 1 (made)"
    assert facts["provenance"] == {"model": "DCGAN", "steps": 2000, "note": "x" * 120}
    assert audit_splits(splits).splits["train"]["sizes"]["shortest_side"] == 32
    assert not any("left out" in remark for remark in splits.facts["remarks"])  # provenance.json was read
    (tmp_path / "made" / "provenance.json").write_text("{", encoding="utf-8")
    assert "provenance.json" in refused(data) and "mend it" in refused(data)


def test_the_front_matter_of_a_readme_says_where_rows_are_from(source: str, tmp_path: Path) -> None:
    write(tmp_path / "made" / "train.csv", films(2, start=300))
    (tmp_path / "made" / "README.md").write_text("---\nlicense: mit\nsteps: 3\n---\n# Made\n", encoding="utf-8")
    [facts] = load_splits(TextData(source=source, extra=tmp_path / "made"), seed=0).facts["extra"]
    assert facts["provenance"] == {"license": "mit", "steps": 3}


def test_of_several_labels_an_example_the_rows_have_those_of_the_source(tmp_path: Path) -> None:
    def several(rows: list[tuple[str, str]], label: str) -> list[tuple[str, str]]:
        return [(text, f"{name}|{label}" if place % 3 else name) for place, (text, name) in enumerate(rows)]

    one = write(tmp_path / "one" / "train.csv", several(films(30), "long"))
    write(tmp_path / "one" / "validation.csv", several(films(8, start=100), "long"))
    more = write(tmp_path / "more.csv", several(films(4, start=300), "long"))
    splits = load_splits(TextData(source=one.removesuffix("/train.csv"), target="several", extra=more), seed=0)
    assert splits.facts["extra"][0]["n"] == 4 and len(splits.train) == 34
    odd = write(tmp_path / "odd.csv", several(films(4, start=300), "short"))
    assert "classes that the source does not know: short" in refused(
        TextData(source=one.removesuffix("/train.csv"), target="several", extra=odd)
    )


# --- refused ------------------------------------------------------------------------------------------------------------------


def test_an_unknown_class_is_one_message_and_a_missing_one_is_fine(source: str, tmp_path: Path) -> None:
    other = write(tmp_path / "other.csv", [("a film", "Positive"), ("one more", "pos"), ("and one", "Positive")])
    message = refused(TextData(source=source, extra=Extra(source=other, name="borrowed")))
    assert "1 problem" in message and "borrowed rows" in message and other in message
    assert "classes that the source does not know: Positive" in message and "neg, pos" in message
    alone = write(tmp_path / "alone.csv", [("a film", "pos"), ("one more", "pos")])
    assert load_splits(TextData(source=source, extra=alone), seed=0).facts["extra"][0]["n"] == 2


@pytest.mark.parametrize(
    ("columns", "rows", "options", "words"),
    [
        (("text", "label"), [("a film", "pos")], {"weight_column": "wieght"}, ['no column "wieght"', "text, label"]),
        (
            ("text", "label", "weight"),
            [("a film", "pos", "0"), ("b film", "pos", "many"), ("c film", "pos", ""), ("d film", "pos", "-1"), ("e", "pos", "2")],
            {"weight_column": "weight"},
            ["4 rows with no number greater than 0", "train/0", "train/3"],
        ),
        (("review", "label"), [("a film", "pos")], {}, ['no column "text"', "review, label"]),
        (("text", "label"), [("a film", "pos")], {"split": "old"}, ['no split "old"']),
        (("text", "label"), [("a film", "")], {}, ["a blank label"]),
    ],
    ids=["no such column", "weights that are none", "other columns", "no such split", "blank labels"],
)
def test_what_is_wrong_with_the_rows_is_one_message(
    columns: tuple[str, ...], rows: list[tuple[str, ...]], options: dict[str, Any], words: list[str], source: str, tmp_path: Path
) -> None:
    more = write(tmp_path / "more.csv", rows, columns)
    message = refused(TextData(source=source, extra=Extra(source=more, **options)))
    assert "1 problem" in message and "further rows" in message
    for word in words:
        assert word in message


def test_a_place_that_is_none_and_class_folders_without_columns_are_refused(source: str, tmp_path: Path) -> None:
    assert "no such file or folder" in refused(TextData(source=source, extra=tmp_path / "nothing"))
    write_pictures(tmp_path / "photos", {"cat": 10, "dog": 10})
    extra = Extra(source=tmp_path / "photos", weight_column="weight")
    assert "class folders have no columns" in refused(ImageData(source=tmp_path / "photos", extra=extra))


def test_two_of_one_name_and_a_weight_of_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match='two are called "further"'):
        TextData(source="films", extra=["one", "two"])
    with pytest.raises(RecipeError, match=r"weight.*greater than 0"):
        TextData(source="films", extra={"source": "one", "weight": 0})
    with pytest.raises(RecipeError, match="does not say what its columns are called"):
        Extra(source=(["a"], ["b"]))


# --- duplicates ---------------------------------------------------------------------------------------------------------------


def test_a_row_that_a_split_of_the_source_has_is_refused_left_out_or_kept_as_duplicates_are(source: str, tmp_path: Path) -> None:
    rows = [films(1, start=200)[0], films(1, start=0)[0], ("A new one", "pos"), films(1, start=101)[0], ("a NEW  one", "pos")]
    more = write(tmp_path / "more.csv", rows)
    message = refused(TextData(source=source, extra=more))
    assert 'split "extra" and split "test": 1 text is in both: further/train/0 = test/0' in message
    assert "further/train/3 = validation/1" in message and "further/train/1 = train/0" in message
    assert "leaves them out of extra (test keeps its rows)" in message
    splits = load_splits(TextData(source=source, extra=more, on_duplicate="drop"), seed=0)
    assert ids(splits.train)[24:] == ["further/train/2", "further/train/4"] and len(splits.test or []) == 8
    assert (splits.facts["extra"][0]["n"], splits.facts["extra"][0]["left_out"]) == (2, 3)
    assert {"id": "further/train/0", "split": "extra", "kind": "duplicate", "why": "the same text as test/0"} in splits.facts[
        "skipped"
    ]
    assert "extra and test: 1 text in both (left out)" in audit_splits(splits).lines()
    kept = load_splits(TextData(source=source, extra=more, on_duplicate="keep"), seed=0)
    assert len(kept.train) == 24 + 5


def test_two_labels_for_one_text_are_a_conflict_and_a_text_nearly_that_of_test_is_a_line_of_the_audit(
    source: str, tmp_path: Path
) -> None:
    more = write(tmp_path / "more.csv", [("a new one", "pos"), ("a new one", "neg"), ("another", "pos")])
    assert "1 text has more than one label: further/train/0 (pos) = further/train/1 (neg)" in refused(
        TextData(source=source, extra=more)
    )
    assert len(load_splits(TextData(source=source, extra=more, on_duplicate="drop"), seed=0).train) == 25
    long = " ".join(f"{word} {other}" for word in WORDS for other in WORDS)
    write(Path(source) / "test.csv", [*films(8, start=200), (long, "pos")])
    near = write(tmp_path / "near.csv", [(f"{long} indeed", "pos")])
    lines = audit_splits(load_splits(TextData(source=source, extra=near), seed=0)).lines()
    assert any("nearly the same as one of train" in line and "further/train/0" in line for line in lines)


# --- in the recipe ------------------------------------------------------------------------------------------------------------


def test_a_recipe_has_them_as_a_word_a_section_or_a_list_and_is_written_and_read_again(source: str) -> None:
    recipe = nano("films", TextData(source=source), {"all": Stage(unfreeze="all", lr=1e-3)})
    assert recipe.data.extra == ()
    one = override(recipe, ["data.extra=made", "data.extra.weight=0.5", "data.extra.name=generated"])
    assert one.data.extra == (Extra(source="made", weight=0.5, name="generated"),)
    both = override(recipe, ["data.extra=[made, {source: old, name: borrowed}]"])
    assert both.data.extra == (Extra(source="made"), Extra(source="old", name="borrowed"))
    for each in (one, both):
        assert parse_recipe(each.to_yaml(), source="recipe.yaml") == each
    assert override(one, ["data.extra=null"]).data.extra == ()
    with pytest.raises(RecipeError, match=r'data.extra.0.wieght: unknown key "wieght". Did you mean "weight"'):
        override(recipe, ["data.extra={source: made, wieght: 2}"])


def test_what_lay_on_the_authors_machine_is_published_by_its_name_and_asked_for_again(source: str, tmp_path: Path) -> None:
    more = write(tmp_path / "made.csv", films(2, start=300))
    data = TextData(source=source, extra=Extra(source=more, name="generated", weight=0.5))
    recipe = nano("films", data, {"all": Stage(unfreeze="all", lr=1e-3)})
    stranger = without_places(recipe)
    assert [each.source for each in stranger.data.extra] == [f"{LOCAL}made.csv"]
    with pytest.raises(RecipeError, match=r"data.extra: made.csv lay on the author's machine") as error:
        check_places(override(stranger, [f"data.source={source}"]))
    assert "data.extra='[{source: PATH, name: generated, weight: 0.5}]'" in str(error.value)
    check_places(override(stranger, [f"data.source={source}", f"model.checkpoint={BERT_NANO}", "data.extra=null"]))


def test_rows_in_memory_are_kept_beside_the_run(source: str, tmp_path: Path) -> None:
    rows = films(4, start=300)
    frame = pd.DataFrame(rows, columns=["text", "label"])
    pair = ([text for text, _ in rows], [label for _, label in rows])
    for extra in (frame, pair, {"source": frame}, Extra(source=frame)):
        assert load_splits(TextData(source=source, extra=extra), seed=0).facts["extra"][0]["n"] == 4
    data = TextData(source=source, extra={"source": frame, "name": "generated"}, max_length=16)
    recipe = nano("films", data, {"head": Stage(unfreeze="head", lr=1e-3)})
    run = hftl.train(recipe, run_dir=tmp_path / "run")
    assert run.recipe.data.extra[0].source == str(tmp_path / "run" / "rows-1")
    assert (tmp_path / "run" / "rows-1" / "train.parquet").is_file()


# --- the loss -----------------------------------------------------------------------------------------------------------------


class Weighted:
    """Four examples of the weights 1, 0.5, 1 and 2, whose loss is their number."""

    lengths: None = None
    size_unit: Literal["pixels"] = "pixels"
    fingerprint = ""

    def __init__(self) -> None:
        self.ids, self.sizes = list("abcd"), [1] * 4
        self.targets = np.array([0, 1, 0, 1])
        self.weights = np.array([1, 0.5, 1, 2], dtype=np.float32)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        return {"pixel_values": torch.full((3, 2, 2), float(position[1]))}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        return inputs


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
def test_the_loss_of_a_step_is_the_mean_by_weight_however_it_is_computed(processes: int, accumulation: int) -> None:
    """(1 x 0 + 0.5 x 1 + 1 x 2 + 2 x 3) / (1 + 0.5 + 1 + 2) = 8.5 / 4.5."""
    total = weight = 0.0
    for rank in range(processes):
        batches = training_batches(
            Weighted(), batch_size=4, seed=0, epoch=1, accumulation=accumulation, processes=processes, rank=rank
        )
        for batch in batches:
            total += float((batch.index * batch.weight).sum())
            weight += float(batch.weight.sum())
    assert total == pytest.approx(8.5 / 4.5) and weight == pytest.approx(1)


def test_drawn_by_class_a_row_keeps_its_weight() -> None:
    """Of two classes of two rows each every row is drawn once."""
    [batch] = training_batches(Weighted(), batch_size=4, seed=0, epoch=1, sampling="balanced")
    weights = dict(zip(batch.index.tolist(), batch.weight.tolist(), strict=True))
    assert weights == pytest.approx({0: 1 / 4.5, 1: 0.5 / 4.5, 2: 1 / 4.5, 3: 2 / 4.5})


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_mixed_picture_counts_by_the_weights_of_both_and_the_step_by_those_of_all(processes: int) -> None:
    logits = torch.tensor([[2.0, 0.0]])
    losses = make_loss(CrossEntropyLoss(), None)
    added = weight = 0.0
    shares = set()
    for rank in range(processes):
        for batch in training_batches(
            Weighted(), batch_size=4, seed=0, epoch=1, mix=Mixup(alpha=1.0), processes=processes, rank=rank
        ):
            moved = batch.to(CPU)
            added += float(_losses(losses, logits.expand(len(moved.index), 2), moved).sum())
            assert moved.partner_weight is not None
            weight += float((moved.share * moved.weight + (1 - moved.share) * moved.partner_weight).sum())
            shares.add(moved.share)
    # Class 0 has rows of 1 and 1, class 1 of 0.5 and 2; each is in the sum by its weight, whatever its share in which mixture.
    of_class = losses(logits.expand(2, 2), torch.tensor([0, 1])).tolist()
    assert len(shares) == 1 and weight == pytest.approx(1)
    assert added == pytest.approx((2 * of_class[0] + 2.5 * of_class[1]) / 4.5, rel=1e-5)


def test_class_weights_and_shares_count_rows_by_their_weights(source: str, tmp_path: Path) -> None:
    more = write(tmp_path / "more.csv", [(text, "pos") for text, _ in films(24, start=300)])
    data = TextData(source=source, max_length=16, extra=Extra(source=more, weight=0.25))
    stage = Stage(unfreeze="head", lr=1e-3, class_weights="balanced")
    experiment = prepare_experiment(nano("films", data, {"head": stage}))
    assert class_counts(experiment) == [12.0, 12 + 24 * 0.25]  # neg, pos
    plan = make_plan(experiment)
    assert plan.understood[-1] == "and 24 further texts at weight 0.25 (more.csv), in training alone"
    assert plan.stages[0].steps == 3  # 48 rows in steps of 16


def test_a_baseline_weighs_them_too() -> None:
    weights = np.array([1, 1, 0.5], dtype=np.float32)
    rows = Rows(["a", "b", "c"], np.array([0, 1, 1]), weights)
    logits = majority(rows, rows, classes=2).logits[0]
    assert np.exp(logits).tolist() == pytest.approx([2 / 4.5, 2.5 / 4.5])


# --- whole runs ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_continued_bit_for_bit_with_its_cache_and_says_what_it_was_trained_on(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = ("text", "label", "weight")
    weighted = [(*row, 0.5 + 0.01 * place) for place, row in enumerate(films(9, start=300))]
    more = write(tmp_path / "made" / "train.csv", weighted, columns)
    (tmp_path / "made" / "provenance.json").write_text('{"model": "a_teacher", "steps": 7}', encoding="utf-8")
    extra = Extra(source=tmp_path / "made", name="generated", weight=0.5, weight_column="weight")
    stages = {
        "head": Stage(unfreeze="head", lr=1e-2),
        "all": Stage(unfreeze="all", lr=1e-3, loss="focal", class_weights="balanced"),
    }
    data = TextData(source=source, max_length=16, extra=extra)
    recipe = nano("films", data, stages, batch_size=8, log_every=1, baseline="linear", checkpoint_minutes=0)
    recipe = override(recipe, ["card.license=mit"])
    whole = train(recipe, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    with signal_at(monkeypatch, step=3), pytest.raises(Stopped):
        train(recipe, stopped)
    assert_same_run(train(recipe, stopped, resume=True), whole)
    live = train(override(recipe, ["run.cache_gb=0", "run.baseline=none"]), tmp_path / "live")
    losses = [[entry["loss"] for entry in run.read_history() if entry["event"] == "step"] for run in (live, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 8  # 33 rows in steps of 8, the last of 9, twice

    card = render_card(whole)
    assert "9 generated texts at weights of 0.25 to 0.29, 0.27 on average (made)" in card
    assert "as their folder says: model a_teacher; steps 7." in card
    assert read_plan(whole)["understood"][-1].startswith("and 9 generated texts")
    assert read_json(whole.baseline)["training_rows"] == 33
    commands = repeat(recipe, read_data(whole), None)["train"]
    assert "data.extra='[{source: PATH/TO/made, name: generated, weight: 0.5, weight_column: weight}]'" in commands

    publication = prepare(whole, "me/films")
    require_verified_copy(publication, whole)
    published = publication.folder
    assert load_recipe(published / "recipe.yaml").data.extra[0].source == "local:made"
    assert read_json(published / "data.json")["extra"][0]["source"] == "local:made"
    assert all(str(tmp_path) not in path.read_text(encoding="utf-8") for path in published.glob("*.json"))

    # Validation and test are answered again without them, train is not.
    weighted[0] = (*weighted[0][:2], 0.75)
    write(Path(more), weighted, columns)
    assert evaluate(whole, split="validation").plain.ids
    with pytest.raises(RunError, match="changed: extra"):
        evaluate(whole, split="train")
    half = tmp_path / "half"
    write(Path(more), [(*row[:2], 0.5) for row in weighted], columns)
    with signal_at(monkeypatch, step=2), pytest.raises(Stopped):
        train(recipe, half)
    write(Path(more), weighted, columns)
    with pytest.raises(RunError, match="changed: extra"):
        train(recipe, half, resume=True)
