"""Duplicates and the audit: what is in two places is found, exactly and nearly, and nothing is left out without a word."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Hftl
from datasets import Dataset
from PIL import Image, ImageDraw
from small import BERT_NANO, encoded, ids, noise, write_pictures
from transformers import AutoTokenizer

from hftl.data.audit import audit_splits
from hftl.data.decoding import inspect, pick_scans, store_scans
from hftl.data.duplicates import normalise, picture_fingerprints
from hftl.data.near import near_groups, near_pictures, near_texts
from hftl.data.source import Splits, load_splits
from hftl.data.text import script_facts
from hftl.errors import DataError
from hftl.recipe import ImageData, Recipe, Stage, TextCNN, TextData, Transformer, load_recipe, override
from hftl.run import split_facts


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / ".cache"))


def write(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows), encoding="utf-8")
    return path


def plain(name: str, count: int) -> list[tuple[str, str]]:
    """Rows of two classes in turn; no text is there twice."""
    return [(f"{name} {row}", "ab"[row % 2]) for row in range(count)]


def load(source: Path, *, seed: int = 0, **settings: Any) -> Splits:
    return load_splits(TextData(source=str(source), **settings), seed=seed)


def refused(source: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(source, **settings)
    return str(caught.value)


# --- equal --------------------------------------------------------------------------------------------------------------------


def test_case_line_breaks_white_space_and_compatible_letters_do_not_make_another_text() -> None:
    assert normalise(" So<br />GOOD!\n\tA  ﬁlm ") == "so good! a film"
    assert normalise("one<BR>two<br/>three") == "one two three"
    assert normalise("good") != normalise("good!")
    assert normalise(" <br /> \n") == ""


def test_texts_in_two_splits_are_refused_with_ten_pairs_and_the_number_of_the_others(tmp_path: Path) -> None:
    shared = [(f"the same {row}", "ab"[row % 2]) for row in range(12)]
    write(tmp_path / "train.jsonl", [*plain("train", 4), *shared])
    write(tmp_path / "test.jsonl", [*plain("test", 2), *((text.upper(), label) for text, label in shared)])
    report = refused(tmp_path)
    pairs = ", ".join(f"train/{4 + row} = test/{2 + row}" for row in range(10))
    assert f'split "train" and split "test": 12 texts are in both: {pairs} and 2 more\n' in report
    assert "data.on_duplicate=drop leaves them out of train (test keeps its rows)" in report


def test_a_text_with_two_labels_is_refused_and_repeats_of_one_label_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [*plain("train", 8), ("again", "a"), ("again", "a"), ("both", "a"), ("Both", "b")])
    report = refused(path)
    assert 'split "train": 1 text has more than one label: train/10 (a) = train/11 (b)' in report
    assert "again" not in report and report.startswith("1 problem in")
    write(path, [*plain("train", 8), ("again", "a"), ("again", "a"), ("Again", "a")])
    found = load(path).facts["duplicates"]
    assert found["within"] == {"train": 2}
    assert (found["across"], found["conflicting"]) == ([], {})
    assert found["examples"] == [
        {"kind": "within", "ids": ["train/8", "train/9"]},
        {"kind": "within", "ids": ["train/8", "train/10"]},
    ]


def three_splits(folder: Path) -> Path:
    """x: train and test; y: train, validation and test; z: train (twice) and validation; w: two labels in train."""
    write(folder / "train.jsonl", [*plain("t", 6), ("x", "a"), ("y", "a"), ("z", "b"), ("z", "b"), ("w", "a"), ("w", "b")])
    write(folder / "validation.jsonl", [*plain("v", 2), ("y", "a"), ("z", "b")])
    write(folder / "test.jsonl", [*plain("e", 2), ("x", "a"), ("y", "a")])
    return folder


def test_dropping_takes_from_train_before_validation_and_from_both_before_test_and_says_so(tmp_path: Path) -> None:
    splits = load(three_splits(tmp_path), on_duplicate="drop")
    assert ids(splits.train) == [f"train/{row}" for row in range(6)]
    assert ids(splits.validation) == ["validation/0", "validation/1", "validation/3"]
    assert ids(splits.test) == [f"test/{row}" for row in range(4)]
    assert splits.facts["skipped"] == [
        {"id": "train/6", "split": "train", "kind": "duplicate", "why": "the same text as test/2"},
        {"id": "train/7", "split": "train", "kind": "duplicate", "why": "the same text as test/3"},
        {"id": "train/8", "split": "train", "kind": "duplicate", "why": "the same text as validation/3"},
        {"id": "train/9", "split": "train", "kind": "duplicate", "why": "the same text as validation/3"},
        {"id": "train/10", "split": "train", "kind": "conflict", "why": "two labels for the same text: train/10 (a), train/11 (b)"},
        {"id": "train/11", "split": "train", "kind": "conflict", "why": "two labels for the same text: train/10 (a), train/11 (b)"},
        {"id": "validation/2", "split": "validation", "kind": "duplicate", "why": "the same text as test/3"},
    ]
    found = splits.facts["duplicates"]
    assert found["across"] == [
        {"splits": ["train", "validation"], "pairs": 2},
        {"splits": ["train", "test"], "pairs": 2},
        {"splits": ["validation", "test"], "pairs": 1},
    ]
    assert (found["within"], found["conflicting"]) == ({"train": 1}, {"train": 2})
    audit = audit_splits(splits)
    assert audit.skipped == [{"why": "the same text as in another split", "n": 5}, {"why": "two labels for the same text", "n": 2}]
    assert "train and test: 2 texts in both (left out)" in audit.lines()
    assert "train: 2 rows of texts with more than one label (left out)" in audit.lines()


def test_kept_duplicates_are_counted_and_nothing_is_left_out(tmp_path: Path) -> None:
    splits = load(three_splits(tmp_path), on_duplicate="keep")
    assert (len(splits.train), len(splits.validation), len(splits.test or [])) == (12, 4, 4)
    assert splits.facts["skipped"] == []
    assert "train and test: 2 texts in both (kept, as data.on_duplicate=keep asks)" in audit_splits(splits).lines()


def test_a_split_of_which_nothing_is_left_and_a_class_that_is_gone_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [("x", "a"), ("y", "b"), ("z", "b"), ("u", "c")])
    write(tmp_path / "validation.jsonl", [("x", "a"), ("w", "b")])
    write(tmp_path / "test.jsonl", [("w", "b"), ("X", "a")])
    report = refused(tmp_path, on_duplicate="drop")
    assert 'split "validation": none of its 2 rows is left' in report
    assert 'split "test": classes that train has no row of: a' in report


def test_empty_texts_are_nobodys_duplicates(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [*plain("train", 8), ("", "a"), (" ", "b"), ("<br />", "b")])
    assert load(path).facts["duplicates"]["within"] == {}


# --- pictures -----------------------------------------------------------------------------------------------------------------


def load_pictures(root: Path, **settings: Any) -> Splits:
    return load_splits(ImageData(source=str(root), **settings), seed=0)


def test_the_same_bytes_in_two_splits_or_two_classes_are_refused_or_left_out(tmp_path: Path) -> None:
    root = write_pictures(tmp_path, {"train/cat": 4, "train/dog": 4, "test/cat": 2, "test/dog": 2}, suffix="png", side=96)
    (root / "train/cat/copy.png").write_bytes((root / "test/dog/1.png").read_bytes())
    (root / "train/dog/again.png").write_bytes((root / "train/cat/0.png").read_bytes())
    with pytest.raises(DataError) as caught:
        load_pictures(root)
    report = str(caught.value)
    assert 'split "train" and split "test": 1 picture is in both: train/cat/copy.png = test/dog/1.png' in report
    assert 'split "train": 1 picture has more than one label: train/cat/0.png (cat) = train/dog/again.png (dog)' in report
    splits = load_pictures(root, on_duplicate="drop")
    assert {entry["id"] for entry in splits.facts["skipped"]} == {"train/cat/0.png", "train/cat/copy.png", "train/dog/again.png"}
    assert len(splits.train) + len(splits.validation) == 7


def test_pictures_inside_a_table_are_compared_by_their_bytes(tmp_path: Path) -> None:
    contents = [
        (write_pictures(tmp_path / "p", {"x": 4}, suffix="png", side=96) / "x" / f"{number}.png").read_bytes()
        for number in range(4)
    ]
    pq.write_table(pa.table({"image": [*contents, contents[0]], "label": ["a", "b", "a", "b", "b"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"1 picture has more than one label: train/0 \(a\) = train/4 \(b\)"):
        load_splits(ImageData(source=str(tmp_path / "train.parquet")), seed=0)


def test_pictures_that_cannot_be_read_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    root = write_pictures(tmp_path, {"cat": 6, "dog": 6}, suffix="png", side=96)
    for name in ("cat/x.png", "dog/y.png"):
        (root / name).write_bytes(b"")
    splits = load_pictures(root, on_bad_image="skip")
    assert splits.facts["duplicates"]["conflicting"] == {}
    assert audit_splits(splits).skipped == [{"why": "empty file, 0 bytes", "n": 2}]


# --- dividing -----------------------------------------------------------------------------------------------------------------


def test_rows_of_one_text_are_never_put_on_two_sides(tmp_path: Path) -> None:
    # 30 texts twice, 20 three times, 40 once: 160 rows, half of them of each class.
    texts = [f"text {row}" for row in range(90)]
    rows = [(text, "ab"[row % 2]) for row, text in enumerate(texts) for _ in range(2 if row < 30 else 3 if row < 50 else 1)]
    path = write(tmp_path / "train.jsonl", rows)
    for seed in range(10):
        splits = load(path, seed=seed, validation_fraction=0.2, test_fraction=0.1)
        sides = [set(split["text"][:]) for split in (splits.train, splits.validation, splits.test) if split is not None]
        assert sum(map(len, sides)) == len(set.union(*sides)) == 90
        # Texts that are there once are left to the end, so that the shares are exact: 20 % and 10 % of 160.
        assert (len(splits.validation), len(splits.test or [])) == (32, 16)


def test_a_share_that_whole_groups_cannot_fill_is_filled_as_far_as_they_go(tmp_path: Path) -> None:
    rows = [(f"{label} {text}", label) for label in "ab" for text in range(5) for _ in range(4)]
    # 30 % of 40 are 12, 6 of each class; groups are of four, so one group of each.
    splits = load(write(tmp_path / "train.jsonl", rows), validation_fraction=0.3)
    assert Counter(splits.validation["label"][:]) == {0: 4, 1: 4}
    one = write(tmp_path / "one.jsonl", [(label, label) for label in "ab" for _ in range(5)])
    assert "repeating each other: none can be set aside for validation" in refused(one)


def test_a_text_with_two_labels_that_is_kept_stays_in_train(tmp_path: Path) -> None:
    rows = [*plain("train", 6), *(("both", "ab"[row % 2]) for row in range(30))]
    splits = load(write(tmp_path / "train.jsonl", rows), validation_fraction=0.3, on_duplicate="keep")
    # 30 % of 36 rows are 11, but only 6 have a text of one label.
    assert "both" not in splits.validation["text"][:] and len(splits.validation) == 6


def test_without_duplicates_the_division_is_the_one_of_earlier_versions(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [(f"d {row}", "abbc"[row % 4]) for row in range(200)])
    found = [
        load(path, seed=seed, test_fraction=0.15, validation_fraction=0.2, max_train_samples=60).facts["splits"] for seed in (0, 3)
    ]
    assert [splits["train"]["fingerprint"][:16] for splits in found] == ["4a29a0681011bc75", "fb96718d885da2bc"]
    assert [splits["validation"]["fingerprint"][:16] for splits in found] == ["0a5a26eb1ca7bf0e", "1a2669823cc28f4d"]
    assert [splits["test"]["fingerprint"][:16] for splits in found] == ["a98d05590a5d7ede"] * 2


# --- nearly equal -------------------------------------------------------------------------------------------------------------


def runs_of_five(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4))}


def changed(text: str, places: Sequence[int]) -> str:
    words = text.split()
    for place in places:
        words[place] = f"changed{place}"
    return " ".join(words)


def test_near_texts_are_those_that_the_definition_finds() -> None:
    generator = np.random.default_rng(1)
    texts = [" ".join(f"w{word}" for word in generator.integers(0, 400, length)) for length in generator.integers(1, 300, 150)]
    for text in texts[:100]:
        length = len(text.split())
        texts.append(changed(text, generator.integers(0, length, max(1, length // 60)).tolist()))
    runs = [runs_of_five(text) for text in texts]
    similarity = {(a, b): len(runs[a] & runs[b]) / len(runs[a] | runs[b]) for b in range(len(texts)) for a in range(b)}
    expected = {pair: value for pair, value in similarity.items() if value >= 0.8}
    found = near_texts(Dataset.from_dict({"text": texts}))
    assert len(expected) > 40
    assert {(link.one, link.other): pytest.approx(link.similarity) for link in found} == expected


def test_punctuation_case_and_markup_do_not_hide_a_near_text_and_short_ones_are_compared_whole() -> None:
    texts = [
        "Good film, really.",
        "good film -- REALLY",
        "good film",
        "!!!",
        "?!",
        "...",
        "",
        "great<br />fun to watch",
        "Great fun: to watch!",
    ]
    links = near_texts(Dataset.from_dict({"text": texts}))
    assert [(link.one, link.other, link.similarity) for link in links] == [(0, 1, 1.0), (7, 8, 1.0)]
    assert near_texts(Dataset.from_dict({"text": []})) == []
    assert near_texts(Dataset.from_dict({"text": ["", "!"]})) == []


def test_texts_in_scripts_without_spaces_are_compared_letter_by_letter() -> None:
    one = "外卖送得很慢，包装也破了。汤全部都洒出来了！客服说会退款，可是到现在还没有消息，真的太失望了"
    texts = [one, one.replace("，", "、").replace("！", "…") + "。", one + "啊", one[::-1], "送得快", "送得慢"]
    links = near_texts(Dataset.from_dict({"text": texts}))
    # 41 letters are 37 runs of five; one more at the end is one run more.
    assert [(link.one, link.other) for link in links] == [(0, 1), (0, 2), (1, 2)]
    assert [link.similarity for link in links] == [1.0, pytest.approx(37 / 38), pytest.approx(37 / 38)]


def test_many_copies_of_a_template_are_one_group() -> None:
    body = " ".join(f"w{word}" for word in range(100))
    texts = [f"{body} number{row}" for row in range(200)] + [" ".join(f"v{word}" for word in range(100))]
    links = near_texts(Dataset.from_dict({"text": texts}))
    assert near_groups(links) == [list(range(200))]
    assert len(links) < 4000  # and not all 19,900 pairs


def test_a_picture_that_was_saved_again_smaller_or_brighter_is_near_and_others_are_not() -> None:
    original = noise(0, 400, 300)
    versions = [
        encoded(original, "PNG"),
        encoded(original, "JPEG", quality=30),
        encoded(original.resize((240, 180)), "JPEG", quality=80),
        encoded(Image.eval(original, lambda value: min(255, value + 10)), "WEBP"),
        *(encoded(noise(seed, 400, 300), "JPEG") for seed in range(1, 30)),
    ]
    links = near_pictures(store_scans(map(inspect, versions), len(versions)))
    assert near_groups(links) == [[0, 1, 2, 3]]
    assert all(link.one < link.other and 0.95 <= link.similarity <= 1 for link in links)


def test_things_on_the_same_plain_background_are_not_near_and_neither_are_plain_pictures() -> None:
    def garment(neck: int, colour: tuple[int, int, int]) -> bytes:
        canvas = Image.new("RGB", (300, 400), (250, 250, 250))
        draw = ImageDraw.Draw(canvas)
        draw.rectangle((80, 100, 220, 330), fill=colour)
        draw.rectangle((30, 100, 270, 160), fill=colour)
        draw.ellipse((150 - neck, 100 - neck, 150 + neck, 100 + neck), fill=(250, 250, 250))
        return encoded(canvas, "PNG")

    scans = [inspect(garment(neck, colour)) for neck in (15, 60) for colour in ((20, 20, 60), (200, 30, 30))]
    scans += [inspect(encoded(Image.new("RGB", (100, 100), colour), "PNG")) for colour in ("white", "red", "black")]
    assert near_pictures(store_scans(scans, len(scans))) == []
    assert near_pictures(store_scans([], 0)) == []


def test_scans_are_kept_as_they_are_and_picked_from_arrays_laid_end_to_end() -> None:
    transparent = inspect(encoded(Image.new("RGBA", (40, 2), (9, 9, 9, 128)), "PNG"))
    plain = inspect(encoded(noise(1, 30, 20), "JPEG"))
    kept = store_scans([transparent, None, plain], 3)
    assert isinstance(kept, np.memmap)
    for row, look in ((0, transparent), (2, plain)):
        assert (kept[row]["width"], kept[row]["height"], kept[row]["hash"]) == (look.header.width, look.header.height, look.hash)
        assert kept[row]["sha256"].tobytes() == look.sha256 and np.array_equal(kept[row]["thumbnail"], look.thumbnail)
    assert [kept[flag].tolist() for flag in ("transparent", "noted")] == [[True, False, False]] * 2  # 40 x 2: extreme
    assert not (kept["high_bit_depth"] | kept["animated"]).any()
    fingerprints = picture_fingerprints(kept)
    assert fingerprints[0].tobytes() == transparent.sha256[:16] and fingerprints[1].tolist() == [0, 0]
    assert pick_scans([kept, kept], np.array([1, 2, 3]))["width"].tolist() == [0, 30, 40]


# --- the audit ----------------------------------------------------------------------------------------------------------------


LONG = " ".join(f"word{number}" for number in range(40))


def test_near_duplicates_are_counted_where_the_run_has_them(tmp_path: Path) -> None:
    other = " ".join(f"thing{number}" for number in range(40))
    write(
        tmp_path / "train.jsonl",
        [*plain("t", 4), (LONG, "a"), (LONG + " one", "a"), (LONG + " one", "a"), (other, "b"), (other + " more", "a")],
    )
    write(tmp_path / "validation.jsonl", [*plain("v", 2), (LONG + " two", "a")])
    write(tmp_path / "test.jsonl", [*plain("e", 2), (LONG + " three", "a"), (LONG + " four", "a")])
    splits = load(tmp_path)
    near = audit_splits(splits).near_duplicates
    # LONG and "one" in train, "two" in validation, "three" and "four" in test; the other pair has two labels.
    assert near["within"] == {"train": 2, "test": 1}
    assert near["across"] == [
        {"splits": ["train", "validation"], "rows": 1},
        {"splits": ["train", "test"], "rows": 2},
        {"splits": ["validation", "test"], "rows": 2},
    ]
    assert near["conflicting"] == 1
    conflicting = [example for example in near["examples"] if example["kind"] == "conflicting"]
    # 40 words are 36 runs, one more word is one more run: 36 / 37.
    assert conflicting == [{"kind": "conflicting", "splits": ["train"], "ids": ["train/7", "train/8"], "similarity": 0.973}]
    assert splits.facts["duplicates"]["within"] == {"train": 1}
    lines = audit_splits(splits).lines()
    assert any(line.startswith("test: 2 texts nearly the same as one of train, such as train/4 and test/2") for line in lines)
    assert "1 group of texts that are nearly the same and have more than one label, such as train/7 and train/8" in lines


def test_balance_and_classes_without_a_row_are_said(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [(f"t {row}", "a" if row < 12 else "b" if row < 15 else "c") for row in range(17)])
    write(tmp_path / "validation.jsonl", plain("v", 2))
    audit = audit_splits(load(tmp_path))
    assert audit.splits["train"]["imbalance"] == 6.0 and audit.splits["train"]["absent"] == []
    assert audit.splits["validation"]["absent"] == ["c"] and "test" not in audit.splits
    assert audit.lines() == [
        "validation: no row of c; nothing can be said about it there",
        "train: a has 12 rows and c has 2; accuracy alone hides how the small class does",
    ]


def test_sizes_and_oddities_of_pictures_are_counted(tmp_path: Path) -> None:
    root = write_pictures(
        tmp_path, {"train/cat": 4, "train/dog": 4, "validation/cat": 1, "validation/dog": 1}, suffix="png", side=96
    )
    Image.new("RGBA", (200, 300), (255, 0, 0, 100)).save(root / "train/cat/clear.png")
    Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80)).save(root / "train/dog/deep.png")
    frames = [noise(seed, 96, 96) for seed in (500, 501)]
    frames[0].save(root / "train/dog/moves.gif", save_all=True, append_images=frames[1:])
    noise(600, 640, 20).save(root / "validation/dog/ribbon.png")
    audit = audit_splits(load_pictures(root))
    train, validation = audit.splits["train"]["sizes"], audit.splits["validation"]["sizes"]
    assert (train["transparent"], train["high_bit_depth"], train["animated"], train["extreme"]) == (1, 1, 1, 0)
    assert (train["width_median"], train["shortest_side"], validation["shortest_side"]) == (96.0, 80, 20)
    assert validation["extreme"] == 1 and validation["transparent"] == 0
    assert audit.notes == [
        {"note": "animated or of several pages: the first one is used", "n": 1, "example": "train/dog/moves.gif"},
        {"note": "very long and narrow: little of it is left in a square", "n": 1, "example": "validation/dog/ribbon.png"},
    ]
    assert "1 transparent picture: composed on data.background" in audit.lines()
    json.dumps(audit.to_dict(), allow_nan=False)


# --- the command --------------------------------------------------------------------------------------------------------------


def recipe_file(folder: Path, source: Path, **changes: Any) -> Path:
    recipe = Recipe(
        name="audited",
        data=TextData(source=str(source), max_length=16),
        model=changes.get("model", Transformer(checkpoint=BERT_NANO)),
        stages={"head": Stage(unfreeze="head", lr=1e-3)},
    )
    path = folder / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    return path


def test_the_command_shows_a_table_and_what_deserves_a_look(tmp_path: Path, hftl: Hftl) -> None:
    write(tmp_path / "data" / "train.jsonl", [*plain("train", 18), (LONG, "a"), ("", "b")])
    write(tmp_path / "data" / "test.jsonl", [*plain("test", 4), (LONG + " more", "a")])
    recipe = recipe_file(tmp_path, tmp_path / "data")
    done = hftl("audit", recipe)
    assert done.code == 0
    for row in ("rows", "largest class / smallest", "tokens, median", "longer than 16, cut", "unknown tokens", "near repeats"):
        assert row in done.out
    # 1 of the 5 test texts is longer than 16 tokens.
    assert "test: 20.0 % of the texts are longer than 16 tokens, and cut" in done.out
    assert "texts without a word: train 1" in done.out
    found = json.loads(hftl("audit", recipe, "--json").out)
    assert found["splits"]["test"]["lengths"]["share_truncated"] == pytest.approx(0.2)
    assert {name: split["n"] for name, split in found["splits"].items()} == {"train": 18, "validation": 2, "test": 5}
    assert [both["splits"][1] for both in found["near_duplicates"]["across"]] == ["test"]
    assert not (tmp_path / "runs").exists()


def test_what_would_read_95_of_100_texts_whole_is_said_where_training_would_take_it(tmp_path: Path, hftl: Hftl) -> None:
    def audited(words: int, few: int = 0) -> str:
        # A text of 40 words and a number is 43 tokens or 44, [CLS] and [SEP] counted.
        texts = [(" ".join(["good"] * (words if row >= few else 3)) + f" {row}", "ab"[row % 2]) for row in range(40)]
        write(tmp_path / "data" / "train.jsonl", texts)
        done = hftl("audit", recipe_file(tmp_path, tmp_path / "data"))
        assert done.code == 0
        return " ".join(done.out.split())

    once = re.search(r"100 % of the texts are longer than 16 .*?; data\.max_length=(\d+) reads 95 % of the texts", audited(40))
    assert once is not None and once[1] in ("43", "44")
    several = audited(300)
    assert "data.windows=mean data.max_length=512 reads 95 % of the texts whole" in several
    for changes in ([f"data.max_length={once[1]}"], ["data.windows=mean", "data.max_length=512"]):
        override(load_recipe(tmp_path / "recipe.yaml"), changes)
    assert "of the texts are longer than 16 tokens" in (most := audited(40, few=39)) and "reads 95 %" not in most


def test_the_command_refuses_with_exit_code_2_and_as_json_for_programs(tmp_path: Path, hftl: Hftl) -> None:
    write(tmp_path / "data" / "train.jsonl", [*plain("train", 18), ("x", "a")])
    write(tmp_path / "data" / "test.jsonl", [("x", "a"), ("y", "q")])
    recipe = recipe_file(tmp_path, tmp_path / "data")
    done = hftl("audit", recipe)
    assert done.code == 2 and "1 text is in both: train/18 = test/0" in done.err and done.out == ""
    done = hftl("audit", recipe, "--json")
    problems = json.loads(done.out)["problems"]
    assert done.code == 2
    assert [problem["where"] for problem in problems] == ['split "train" and split "test"', 'split "test"']
    assert problems[1]["what"] == "classes that train has no row of: q" and problems[1]["help"] == ["train's classes: a, b"]
    assert hftl("audit", recipe, "data.on_duplicate=drop", "data.test_split=none").code == 0


def test_words_without_a_vector_are_said(tmp_path: Path, hftl: Hftl) -> None:
    rows = [(f"good film {'odd' if row % 2 else 'fine'} once{chr(97 + row)}", "ab"[row % 2]) for row in range(20)]
    source = write(tmp_path / "train.jsonl", rows)
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("".join(f"{word} 0.{place} 0.5\n" for place, word in enumerate(("good", "film", "fine"), start=1)))
    recipe = recipe_file(tmp_path, source, model=TextCNN(vectors=str(vectors), min_count=2, channels=4))
    done = hftl("audit", recipe)
    # Of each four words "oncea" is met once and left out; "odd", in half of the texts, has no vector: 1/2 of 1/4 more.
    assert done.code == 0
    assert "words of the training texts: 37.5 % have no word vector, 25.0 % are outside the vocabulary" in done.out


def test_what_comes_from_strangers_cannot_change_the_terminal(tmp_path: Path, hftl: Hftl) -> None:
    rows = [(f"t {row}", "a" if row else "[red]b\x1b[2J") for row in range(12)]
    write(tmp_path / "data" / "train.jsonl", rows)
    write(tmp_path / "data" / "validation.jsonl", [("v", "a")])
    done = hftl("audit", recipe_file(tmp_path, tmp_path / "data"))
    assert r"validation: no row of [red]b\x1b[2J; nothing" in done.out


# --- classes, texts and tokens that deserve a look ------------------------------------------------------------------------------


def lines(source: Path, **settings: Any) -> list[str]:
    return audit_splits(load(source, **settings)).lines()


def test_class_names_that_nearly_agree_are_said_with_their_rows_and_the_way_out(tmp_path: Path) -> None:
    labels = ["Positive", "positive", "POSITIVE", "negative"]
    audit = audit_splits(load(write(tmp_path / "d.jsonl", [(f"t {row}", labels[row % 4]) for row in range(80)])))
    said = (
        "classes POSITIVE (18 rows), Positive (18 rows) and positive (18 rows) differ in upper and lower case alone:"
        " if they mean one class, give them one name in the source"
    )
    assert audit.lines() == [said]
    assert audit.classes["alike"] == [
        {"names": ["POSITIVE", "Positive", "positive"], "rows": [18, 18, 18], "how": "in upper and lower case"}
    ]
    json.dumps(audit.to_dict(), allow_nan=False)


def test_folders_of_pictures_that_nearly_agree_are_said_too(tmp_path: Path) -> None:
    said = audit_splits(
        load_pictures(write_pictures(tmp_path, {"hot_dog": 5, "hot-dog": 5, "other": 5}, suffix="png", side=96))
    ).lines()
    assert any(
        "classes hot-dog (4 rows) and hot_dog (4 rows) differ in hyphens, underscores or spaces alone" in line for line in said
    )


def test_class_names_that_look_the_same_are_refused_within_a_split_and_across_two(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    write(tmp_path / "one" / "train.jsonl", [(f"t {row}", (composed, apart, "thé")[row % 3]) for row in range(30)])
    assert "class names: 2 classes look the same" in refused(tmp_path / "one")
    write(tmp_path / "two" / "train.jsonl", [(f"t {row}", (composed, "thé")[row % 2]) for row in range(20)])
    write(tmp_path / "two" / "test.jsonl", [(f"e {row}", (apart, "thé")[row % 2]) for row in range(6)])
    report = refused(tmp_path / "two")
    assert report.startswith("1 problem in")  # and not also a class that train has no row of
    assert r"'cafe\u0301' (test 3) and 'caf\xe9' (train 10)" in report


def test_a_class_that_another_split_writes_in_another_case_is_refused_with_the_name_that_train_has(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [(f"t {row}", ("Good", "Bad")[row % 2]) for row in range(20)])
    write(tmp_path / "test.jsonl", [(f"e {row}", ("good", "bad")[row % 2]) for row in range(6)])
    report = refused(tmp_path)
    assert 'split "test": classes that train has no row of: bad, good' in report
    assert 'train writes "Good" for "good": give them one name' in report
    assert "train's classes: Bad, Good" in report


def test_a_score_as_label_is_refused_where_nearly_each_row_has_its_own_and_said_where_not(tmp_path: Path) -> None:
    report = refused(write(tmp_path / "own.jsonl", [(f"t {row}", f"{row / 16:.4f}") for row in range(1, 61)]))
    assert report.startswith("1 problem in")
    assert "its 60 labels are 60 different numbers (0.0625, 0.1250, " in report and "which is regression" in report
    stars = write(tmp_path / "stars.jsonl", [(f"t {row}", str(row % 8 / 2)) for row in range(80)])
    assert lines(stars) == [
        "the 8 classes are numbers, such as 0, 0.5, 1, and a classifier does not know which are near each other: if they are values"
        " on a scale, make a few ranges of them, with names"
    ]
    ages = write(tmp_path / "ages.jsonl", [(f"t {row}", str(18 + 2 * (row % 30))) for row in range(300)])
    assert "the 30 classes are numbers, such as 18, 20, 22, and a classifier" in lines(ages)[0]
    for name, labels in (("marks", range(1, 6)), ("numbers", range(30))):  # ratings, and numbers of classes
        plain_numbers = [(f"t {row}", str(labels[row % len(labels)])) for row in range(300)]
        assert lines(write(tmp_path / f"{name}.jsonl", plain_numbers)) == []


def test_about_a_class_a_row_that_may_be_meant_is_a_line(tmp_path: Path) -> None:
    rows = [(f"t {row}", f"user {chr(97 + row // 26)}{chr(97 + row % 26)}") for row in range(60)]
    write(tmp_path / "train.jsonl", [*rows, ("t 60", rows[0][1])])
    write(tmp_path / "validation.jsonl", [(f"v {row}", label) for row, (_, label) in enumerate(rows)])
    said = "train: 60 classes in 61 rows, such as user aa, user ab, user ac: hardly more than a row each;"
    assert f"{said} is data.label_column the right one?" in lines(tmp_path)


def test_the_label_column_as_text_is_refused_and_its_copy_under_another_name_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", plain("t", 40))
    assert '"label" is data.text_column too: a model would learn to read its own answer' in refused(path, text_column="label")
    for split, count in (("train", 40), ("validation", 4)):
        rows = [(("Good", "bad")[row % 2], ("good", "bad")[row % 2]) for row in range(count)]
        write(tmp_path / "copied" / f"{split}.jsonl", rows)
    said = "train: 100 % of the texts are nothing but the name of their class"
    assert said in lines(tmp_path / "copied", on_duplicate="keep")


def test_texts_that_say_their_class_or_nothing_at_all_are_said(tmp_path: Path) -> None:
    leaks = [(f"__label__{('good', 'bad')[row % 2]} film number {row}", ("good", "bad")[row % 2]) for row in range(40)]
    assert lines(write(tmp_path / "underscores.jsonl", leaks)) == []  # one word with the underscores, and no word of its own
    leaks = [(text.replace("__label__", "label: "), label) for text, label in leaks]
    assert any("have the name of their class in them" in line for line in lines(write(tmp_path / "leaks.jsonl", leaks)))
    ordinary = [(f"a good film, not bad {row}", label) for row, (_, label) in enumerate(leaks)]
    assert lines(write(tmp_path / "ordinary.jsonl", ordinary)) == []
    for name, text in (("numbers", "4{:03}"), ("paths", "images/{:03}.png"), ("addresses", "https://example.org/{:03}")):
        path = write(tmp_path / f"{name}.jsonl", [(text.format(row), "ab"[row % 2]) for row in range(40)])
        assert any("100 % of the texts are numbers, addresses, paths or identifiers" in line for line in lines(path))


def test_empty_texts_are_refused_where_there_are_no_others_and_said_where_a_class_has_no_others(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.jsonl", [("", "a"), (" ", "b"), ("<br>", "b")])
    assert 'all 3 texts in the column "text" are empty' in refused(silent)
    write(tmp_path / "d" / "train.jsonl", [(f"t {row}" if row % 2 else "", "ab"[row % 2]) for row in range(40)])
    write(tmp_path / "d" / "validation.jsonl", plain("v", 4))
    assert "train: every text of a is empty" in lines(tmp_path / "d")


THAI = "หนัง เรื่อง นี้ ดีมาก ชอบ สนุก แย่ น่าเบื่อ"


def test_texts_that_are_unknown_to_the_model_are_refused_or_said_with_their_script_and_the_way_out(
    tmp_path: Path, hftl: Hftl
) -> None:
    thai = [(f"{THAI} {'ดี' * row}", "ab"[row % 2]) for row in range(40)]
    recipe = recipe_file(tmp_path, write(tmp_path / "data" / "train.jsonl", thai))
    done = hftl("audit", recipe)
    assert done.code == 2
    assert "100.0 % of the tokens are unknown to the model, mostly Thai" in done.err
    assert "Take a checkpoint for Thai texts, or a multilingual one" in done.err
    done = hftl("audit", recipe, "--json")
    assert done.code == 2 and json.loads(done.out)["problems"][0]["where"] == 'split "train"'
    write(tmp_path / "data" / "train.jsonl", [(f"the film was good number {row} ดีมาก", "ab"[row % 2]) for row in range(40)])
    done = hftl("audit", recipe)
    assert done.code == 0
    assert (
        "unknown tokens: train " in done.out
        and ", mostly Thai; the model cannot tell them apart. Take a checkpoint for Thai" in done.out
    )


def test_a_tokenizer_that_spells_a_language_letter_by_letter_has_no_unknown_token_and_is_said(tmp_path: Path) -> None:
    splits = load(write(tmp_path / "d.jsonl", plain("t", 20)))
    lengths: dict[Any, Any] = {role: {"share_unknown": 0.0, "share_truncated": 0.0, "empty": 0} for role in ("train", "validation")}

    def said(script: str, tokens_per_letter: float, *, english: float = 0.27) -> list[str]:
        scripts = {script: {"share": 0.9, "tokens_per_letter": tokens_per_letter, "unknown": 0.0}}
        return audit_splits(splits, lengths=lengths, tokens={"scripts": scripts, "english": english}).lines()

    assert said("Cyrillic", 1.0) == [
        "train: Cyrillic is read in single letters or less (1 tokens a letter, against 0.27 in English), so the model knows no word"
        " of it. Take a checkpoint for Cyrillic texts, or a multilingual one (google-bert/bert-base-multilingual-cased,"
        " FacebookAI/xlm-roberta-base)."
    ]
    assert said("Cyrillic", 0.35) == said("Chinese", 1.0) == said("Korean", 0.75) == []
    assert "Chinese is read in single letters or less (2.1" in said("Chinese", 2.1)[0]
    assert said("Cyrillic", 1.0, english=1.0) == []  # a model of letters or bytes, made to read so


def test_word_vectors_of_another_language_are_said_with_the_script(tmp_path: Path, hftl: Hftl) -> None:
    rows = [(f"the {'这部电影很好看' if row % 2 else '不好看的电影'}{chr(0x4E00 + row)} film", "ab"[row % 2]) for row in range(40)]
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("the 0.1 0.5\nfilm 0.2 0.5\n")
    source = write(tmp_path / "train.jsonl", rows)
    recipe = recipe_file(tmp_path, source, model=TextCNN(vectors=str(vectors), min_count=2, channels=4))
    done = hftl("audit", recipe, "model.segmentation=words")
    assert done.code == 0
    assert (
        "mostly Chinese; the model cannot tell them apart. Chinese is written without spaces, so that a clause counts as one word"
        " here: write model.segmentation=auto." in done.out
    )
    done = hftl("audit", recipe)
    assert done.code == 0
    # 7 letters of the and film in each of 40 texts; 7 and 6 in turn of Chinese, and one more: 300 of 580.
    assert "51.7 % of the letters are of scripts without spaces: their clauses are cut into " in done.out
    assert "0 from the vectors, the others learned from the training texts" in done.out
    assert "a clause counts as one word" not in done.out


def test_scripts_are_read_from_letters_and_their_marks() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BERT_NANO)
    found = script_facts(Dataset.from_dict({"text": ["ดีมาก film", "Фильм 12, film!", "👍"] * 3}), tokenizer)
    assert set(found) == {"Thai", "Latin", "Cyrillic", "emoji or other signs"}
    # Letters and marks: 8 of film, 5 each of ดีมาก and Фильм, one thumb: 19 in all.
    assert [round(19 * found[script]["share"]) for script in ("Latin", "Thai", "Cyrillic")] == [8, 5, 5]
    assert found["Latin"] == {"share": 0.4211, "tokens_per_letter": 0.25, "unknown": 0.0}
    assert found["Thai"]["unknown"] == found["emoji or other signs"]["unknown"] == 1.0
    assert script_facts(Dataset.from_dict({"text": ["12 ...", ""]}), tokenizer) == {}


# --- real data ----------------------------------------------------------------------------------------------------------------


def test_the_known_duplicates_of_imdb_are_found_with_their_number(shared: Path) -> None:
    source = shared / "data" / "imdb"
    report = refused(source)
    assert 'split "train" and split "test": 123 texts are in both: train/120 = test/1845, ' in report
    assert " and 113 more\n" in report and report.startswith("1 problem in")
    splits = load(source, on_duplicate="drop")
    found = splits.facts["duplicates"]
    # By letters alone it is 123 as well, and 96 and 199 within: two more in each differ in case or white space.
    assert found["across"] == [{"splits": ["train", "test"], "pairs": 123}]
    assert (found["within"], found["conflicting"]) == ({"train": 98, "test": 201}, {})
    assert (len(splits.train) + len(splits.validation), len(splits.test or [])) == (25_000 - 123, 25_000)
    near = audit_splits(splits).near_duplicates
    # 29 groups of two: 15 in train, of which our own division has put four on two sides, and 14 in test.
    assert near["within"] == {"train": 11, "test": 14}
    assert near["across"] == [{"splits": ["train", "validation"], "rows": 4}]


def test_a_photo_that_was_saved_twice_with_two_labels_is_found_among_look_alikes(shared: Path) -> None:
    audit = audit_splits(load_pictures(shared / "data" / "clothing"))
    near = audit.near_duplicates
    assert (near["within"], near["across"], near["conflicting"]) == ({"train": 1}, [], 1)
    assert near["examples"][0]["ids"] == [
        "train/shorts/6075b4a5-5b1a-4ce0-aea0-9dbfbca7c35c.jpg",
        "train/skirt/637a56e4-7fa6-4f75-8859-0f8902461554.jpg",
    ]
    assert audit.duplicates["across"] == []


def test_the_fingerprint_of_a_split_does_not_depend_on_what_was_done_about_duplicates(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", plain("train", 20))
    found = [load(path, on_duplicate=choice) for choice in ("error", "drop", "keep")]
    assert found[0].facts["splits"] == found[1].facts["splits"] == found[2].facts["splits"]
    train = found[0].train
    assert found[0].facts["splits"]["train"] == split_facts(ids(train), train["label"][:], ("a", "b"))
