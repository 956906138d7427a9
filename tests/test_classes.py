"""Class names that look alike, and labels that are no classes."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from hftl.data.classes import (
    are_class_numbers,
    class_a_row_problem,
    how_invisibly,
    look_alikes,
    look_same,
    nearest,
    same_look_problems,
    scale_of,
)


def alike(*names: str, counts: list[int] | None = None) -> list[tuple[tuple[str, ...], str]]:
    found = look_alikes(names, counts or [10] * len(names))
    return [(tuple(names[place] for place in group.classes), group.how) for group in found]


def test_names_that_differ_in_case_alone_are_one_group() -> None:
    names = ("Positive", "positive", "negative", "POSITIVE")
    assert alike(*names) == [(("Positive", "positive", "POSITIVE"), "in upper and lower case")]


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        ("t-shirt", "t_shirt", "in hyphens, underscores or spaces"),
        ("hot dog", "hotdog", "in hyphens, underscores or spaces"),
        ("T-Shirt", "t shirt", "in upper and lower case and in hyphens, underscores or spaces"),
        ("spam", "spam.", "in punctuation around them"),
        ('"spam"', "spam", "in punctuation around them"),
        ("café", "cafe", "in accents"),
        ("refund", "refunds", "in an s at their end"),
        ("ＡＢＣ", "ABC", "in how letters are encoded"),
        ("cat", "c\u0430t", "in letters of another alphabet"),  # a Cyrillic а
        ("Весна", "весна", "in upper and lower case"),
        ("ﬁlm", "FILM", "in upper and lower case"),
        ("file", "ﬁle", "in how they are written"),  # undone by each of two foldings
    ],
)
def test_spellings_of_one_name_are_found_with_their_difference(one: str, other: str, how: str) -> None:
    assert alike(one, "something", other) == [((one, other), how)]


@pytest.mark.parametrize(
    "names",
    [
        ("C", "C++", "C#"),
        ("A", "A-", "A+"),
        ("-1", "1", "0"),
        ("1-2", "12"),
        ("1.5", "15"),
        (".5", "5"),
        (":)", ":("),
        ("1980s", "1980"),
        ("glass", "glas"),
        ("cable", "table"),
        ("type 1", "type 2"),
        ("好评", "差评"),
        ("มา", "ม้า"),  # a tone mark makes another word
        ("neg", "pos"),
    ],
)
def test_names_of_different_things_are_no_spellings(names: tuple[str, ...]) -> None:
    assert alike(*names) == []


def test_a_rare_name_with_one_letter_other_is_a_misspelling_and_a_frequent_one_is_not() -> None:
    names = ("positive", "postive", "negative", "negatvie")
    assert alike(*names, counts=[100, 10, 90, 5]) == [
        (("positive", "postive"), "in one letter"),
        (("negative", "negatvie"), "in one letter"),
    ]
    assert alike(*names, counts=[100, 11, 90, 50]) == []
    assert alike("convex", "convey", counts=[0, 50]) == []  # without a row there is nothing to mend


def test_names_that_nobody_can_tell_apart_are_refused_with_their_code_points() -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    names = [composed, apart, "New York", "New\u00a0York", "New  York", "sp\u00adam", "spam", "ham", "declared\u200b", "declared"]
    assert look_same(names) == [(0, 1), (2, 3, 4), (5, 6), (8, 9)]
    train = np.array([9, 0, 3, 2, 1, 4, 4, 4, 0, 5])
    problems = same_look_problems(names, {"train": train, "test": np.array([0, 8, 0, 0, 0, 0, 0, 1, 0, 0])})
    assert [problem.what for problem in problems] == [
        '2 classes look the same, "café", and differ in how accents are written (Unicode\'s forms NFC and NFD):'
        " 'caf\\xe9' (train 9) and 'cafe\\u0301' (test 8)",
        "3 classes look the same, \"New York\", and differ in white space: 'New York' (train 3), 'New\\xa0York' (train 2)"
        " and 'New  York' (train 1)",
        "2 classes look the same, \"spam\", and differ in characters that nobody sees: 'sp\\xadam' (train 4) and 'spam' (train 4)",
    ]
    assert how_invisibly(["a\u200bb", "ab"]) == "in characters that nobody sees"
    assert look_same(["Positive", "positive", "t-shirt", "t_shirt"]) == []


def test_a_family_of_emoji_is_one_picture_and_not_its_persons() -> None:
    family, persons = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}", "\N{MAN}\N{WOMAN}\N{GIRL}"
    burning, apart = "\u2764\ufe0f\u200d\N{FIRE}", "\u2764\ufe0f\N{FIRE}"
    assert look_same([family, persons, burning, apart]) == []
    assert look_same(["C++", "C+\u200d+"]) == [(0, 1)]
    assert look_same([family, family + "\u200d", "a\u200db", "ab"]) == [(0, 1), (2, 3)]


def test_the_name_of_train_that_another_split_writes_otherwise_is_found() -> None:
    assert nearest("hot dog", ["cat", "Hot_Dog"]) == "Hot_Dog"
    assert nearest("cow", ["cat", "Hot_Dog"]) is None


def test_numbers_and_dates_are_scales_and_class_numbers_have_no_gap() -> None:
    assert scale_of(["0.5", "2", "-3.75"]) == scale_of(["1,5", "2,25"]) == scale_of(["1e-3", "2"]) == "fractions"
    assert scale_of(["3", "14"]) == "whole numbers"
    assert scale_of(["2026-11-29", "2026-11-30T10:15:00Z"]) == scale_of(["29.11.2026", "1.2.26"]) == "dates"
    assert scale_of(["0.5", "high"]) is None and scale_of(["neg", "pos"]) is None
    assert are_class_numbers(["0", "1", "2"]) and are_class_numbers(["1", "2", "3"])
    assert not are_class_numbers(["0", "2"]) and not are_class_numbers(["2", "3"])


def no_classes(names: list[str], rows: int, *, divided: bool = True) -> str | None:
    problem = class_a_row_problem("train", names, rows, columns=["text", "score", "label"], divided=divided)
    return None if problem is None else problem.what + "; ".join(("", *problem.help))


def test_a_score_with_about_a_class_a_row_is_refused_as_regression() -> None:
    scores = [f"{number / 7:.3f}" for number in range(1, 31)]
    said = no_classes(scores, 30)
    assert said is not None
    assert said.startswith("its 30 labels are 30 different numbers (0.143, 0.286, ")
    assert "and 20 more): values on a scale, which is regression; hftl tells classes apart" in said
    assert "columns there are: text, score, label; data.label_column names the one with the classes" in said
    assert no_classes(scores, 59) is not None and no_classes(scores, 60) is None  # two rows a class: may be meant, and is a line
    assert no_classes(scores[:10], 19) is None  # a small sample
    assert "25 different dates" in str(no_classes([f"2026-11-{day:02}" for day in range(1, 26)], 40))


def test_names_with_one_row_each_are_refused_only_where_a_validation_split_must_be_made_of_them() -> None:
    ids = [f"user{number}" for number in range(25)]
    assert "its 25 labels are 25 classes (user0, " in str(no_classes(ids, 25))
    assert no_classes(ids, 25, divided=False) is None
    assert no_classes(ids, 26) is None
    assert "25 different numbers" in str(no_classes([str(number) for number in range(100, 125)], 25))
