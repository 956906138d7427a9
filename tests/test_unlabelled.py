"""`data.unlabelled`: further texts to learn from, without labels, and never one that the recipe is judged by."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from hftl.data.source import read_undivided
from hftl.data.unlabelled import Texts, check_unlabelled, read_corpus, read_unlabelled
from hftl.errors import DataError, RecipeError
from hftl.recipe import Recipe, Stage, TextCNN, TextData, check_places, without_places

SPLITS = {
    "train": [("a good film", "pos"), ("a bad film", "neg"), ("good again", "pos"), ("bad again", "neg")],
    "validation": [("seen on validation", "pos"), ("also on validation", "neg")],
    "test": [("seen on the test", "pos"), ("also on the test", "neg")],
}
UNSUPERVISED = ["one more text", "Seen on the TEST", "another text", "also on<br />validation", " "]


def source(folder: Path, splits: dict[str, list[tuple[str, str]]] = SPLITS) -> str:
    """Tables of three splits, and one of texts alone."""
    folder.mkdir()
    for name, rows in splits.items():
        write(folder / f"{name}.csv", ["text", "label"], rows)
    write(folder / "unsupervised.csv", ["text"], [(text,) for text in UNSUPERVISED])
    return str(folder)


def write(file: Path, columns: list[str], rows: Sequence[tuple[str, ...]]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return file


def read(data: TextData) -> list[Texts]:
    undivided = read_undivided(data)
    return read_unlabelled(data, undivided, undivided.divided(data, seed=0), print)


def refused(data: TextData) -> str:
    with pytest.raises(DataError) as error:
        read(data)
    return str(error.value)


def test_another_split_of_the_source_is_read_and_what_is_in_validation_or_test_is_left_out_and_counted(tmp_path: Path) -> None:
    train, more = read(TextData(source=source(tmp_path / "films"), unlabelled="unsupervised"))
    assert list(train.texts) == [text for text, _ in SPLITS["train"]]
    assert list(more.texts) == ["one more text", "another text"]
    assert more.said == "unsupervised: 2 texts; 2 in validation or test left out; 1 empty left out"
    assert train.said == "train: 4 texts"


def test_without_unlabelled_there_are_the_training_texts_alone(tmp_path: Path) -> None:
    [train] = read(TextData(source=source(tmp_path / "films")))
    assert train.name == "train" and len(train.texts) == 4


def test_a_validation_split_that_is_made_of_train_is_left_out_too(tmp_path: Path) -> None:
    films = source(tmp_path / "films", {"train": SPLITS["train"] * 5, "test": SPLITS["test"]})
    for place, rows in enumerate([SPLITS["train"][:2], SPLITS["train"][2:]]):
        more = write(tmp_path / f"{place}.csv", ["text"], [(text,) for text, _ in rows] + [("something new",)])
        data = TextData(source=films, unlabelled=str(more), validation_fraction=0.5)
        undivided = read_undivided(data)
        splits = undivided.divided(data, seed=0)
        train, texts = read_unlabelled(data, undivided, splits, print)
        judged = set(splits.validation["text"])
        assert judged and not judged & {*train.texts, *texts.texts}
        assert {*texts.texts} == {"something new", *(text for text, _ in rows)} - judged


def test_a_table_a_file_of_lines_and_a_folder_of_files_are_read_as_predict_reads_them(tmp_path: Path) -> None:
    films = source(tmp_path / "films")
    table = write(tmp_path / "more.csv", ["review", "text"], [("x", "from a table")])
    (tmp_path / "lines.txt").write_text("a line\nanother line\nseen on the test\n", encoding="utf-8")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "1.txt").write_text("a whole\nfile", encoding="utf-8")
    for given, expected in [
        (table.name, ["from a table"]),
        ("lines.txt", ["a line", "another line"]),
        ("texts", ["a whole\nfile"]),
    ]:
        _, more = read(TextData(source=films, unlabelled=str(tmp_path / given)))
        assert list(more.texts) == expected


def test_texts_of_a_test_split_that_is_left_alone_are_left_out_all_the_same(tmp_path: Path) -> None:
    _, more = read(TextData(source=source(tmp_path / "films"), unlabelled="unsupervised", test_split="none"))
    assert list(more.texts) == ["one more text", "another text"]


def test_training_texts_that_are_kept_though_the_test_has_them_are_left_out(tmp_path: Path) -> None:
    films = source(tmp_path / "films", {**SPLITS, "train": [*SPLITS["train"], SPLITS["test"][0]]})
    [train] = read(TextData(source=films, on_duplicate="keep"))
    assert list(train.texts) == [text for text, _ in SPLITS["train"]] and train.left_out["in validation or test"] == 1


@pytest.mark.parametrize(
    ("unlabelled", "said"),
    [
        ("test", '"test" is the test split, and nothing may be learned from it\n      splits without a part in the recipe: unsup'),
        ("validation", '"validation" is the validation split, and nothing may be learned from it'),
        ("train", '"train" is the train split, whose texts are read anyway\n      leave data.unlabelled out'),
        ("nothing", 'no split "nothing" in the source, and no such file or folder: '),
        ("local:reviews.csv", "reviews.csv lay on the author's machine; name yours"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_message(unlabelled: str, said: str, tmp_path: Path) -> None:
    data = TextData(source=source(tmp_path / "films"), unlabelled=unlabelled)
    assert said in refused(data)
    if not unlabelled.startswith("local:"):  # of a published recipe, which is trained without it
        with pytest.raises(DataError) as refusal:  # also where training does not read it
            check_unlabelled(data, read_undivided(data))
        assert said in str(refusal.value)


def test_a_file_with_nothing_but_texts_of_the_test_is_refused(tmp_path: Path) -> None:
    films = source(tmp_path / "films")
    message = refused(TextData(source=films, unlabelled=f"{films}/test.csv"))
    assert "of 2 texts none is left; the others are in validation or test, or empty" in message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", "", "empty.txt has no text\n      name a table with rows, a .txt file with lines, or a folder of them"),
        ("header.csv", "text\n", "header.csv has no text\n      name a table with rows"),
        ("empty.csv", "", 'no column "text"; columns: none\n      the column is called as in the source: data.text_column'),
        ("other.jsonl", '{"a": "b"}\n', 'no column "text"; columns: a\n      the column is called as in the source'),
    ],
)
def test_a_file_without_texts_is_refused_in_the_words_of_the_recipe(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    message = refused(TextData(source=source(tmp_path / "films"), unlabelled=str(tmp_path / name)))
    assert said in message and "predict" not in message and "--text-column" not in message


def test_a_source_by_itself_is_all_of_its_splits_that_are_not_called_validation_or_test(tmp_path: Path) -> None:
    found = read_corpus(TextData(source=source(tmp_path / "films")), print)
    assert {some.name: list(some.texts) for some in found} == {
        "train": [text for text, _ in SPLITS["train"]],
        "unsupervised": ["one more text", "another text"],
    }
    (tmp_path / "lines.txt").write_text("a line\n\nanother line\n", encoding="utf-8")
    [lines] = read_corpus(TextData(source=str(tmp_path / "lines.txt")), print)
    assert list(lines.texts) == ["a line", "another line"]


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    write(tmp_path / "films" / "train.csv", ["text"], [(" ",), ("seen",)])
    write(tmp_path / "films" / "test.csv", ["text"], [("Seen",)])
    with pytest.raises(DataError, match=r"no text to learn from \(train: 0 texts; 1 in validation or test left out; 1 empty left"):
        read_corpus(TextData(source=str(tmp_path / "films")), print)


def test_pictures_have_no_such_texts_and_a_strangers_place_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unlabelled"):
        Recipe.model_validate({"name": "x", "data": {"kind": "image", "source": "photos", "unlabelled": "more"}})
    recipe = Recipe(
        name="x",
        data=TextData(source="stanfordnlp/imdb", unlabelled=str(tmp_path / "more.csv")),
        model=TextCNN(vectors="random:8"),
        stages={"all": Stage(unfreeze="all", lr=1e-3)},
    )
    published = without_places(recipe)
    assert published.data.unlabelled == "local:more.csv"  # type: ignore[union-attr]
    check_places(published)  # training does not read it, so that it asks for nothing
    assert without_places(recipe.model_copy(update={"data": TextData(source="a/b", unlabelled="unsupervised")})).data == TextData(
        source="a/b", unlabelled="unsupervised"
    )
