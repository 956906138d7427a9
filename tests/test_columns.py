"""A text of several columns: joined where it is read, and one text everywhere after that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from small import BERT_NANO, mails, quiet, write_rows

import hftl
from hftl.data.source import load_splits
from hftl.errors import DataError
from hftl.files import read_json
from hftl.recipe import TextData, override, parse_recipe
from hftl.sharing.parity import check_serving
from hftl.sharing.publication import prepare

COLUMNS = ["subject", "body"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / ".cache"))


def data(source: Any, **settings: Any) -> TextData:
    return TextData(source=source, **{"text_column": COLUMNS, "validation_fraction": 0.2, **settings})


def refused(given: TextData) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(given, seed=0)
    return str(caught.value)


# --- the recipe ---------------------------------------------------------------------------------------------------------------


def test_columns_are_a_list_in_python_in_yaml_and_on_the_command_line() -> None:
    recipe = hftl.Recipe(
        name="mails", data=data("mails.csv"), model=hftl.Transformer(checkpoint=BERT_NANO), stages={"all": hftl.Stage(lr=1e-3)}
    )
    assert isinstance(recipe.data, TextData) and recipe.data.text_column == ("subject", "body")
    assert parse_recipe(recipe.to_yaml(), source="recipe.yaml") == recipe
    changed = override(recipe, ["data.text_column=[title,abstract]", "data.template={title}. {abstract}"]).data
    assert isinstance(changed, TextData) and changed.text_columns == ("title", "abstract")
    assert changed.join(["A", "b"]) == "A. b"
    one = override(recipe, ["data.text_column=[review]"]).data
    assert isinstance(one, TextData) and one.text_column == "review"


def test_a_template_says_how_a_text_is_made() -> None:
    assert data("x").join(["Hello", "you"]) == "Hello\nyou"
    assert data("x", template="{body} ({subject})").join(["Hello", "you"]) == "you (Hello)"
    assert data("x", template="{subject} {body} {subject}").join(["a", "b"]) == "a b a"
    assert data("x", text_column="text", template="Review: {text}").join(["good"]) == "Review: good"
    assert data("x", text_column=["a b", "c.d[0]"], template="{c.d[0]}|{a b}").join(["1", "2"]) == "2|1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": ["body", "body"]}, 'text_column: "body" is there twice'),
        ({"template": "{subjct} {body}"}, '"{subjct}" names no column of text_column (subject, body). Did you mean "subject"?'),
        ({"template": "{subject} {body.__class__}"}, '"{body.__class__}" names no column'),
        ({"template": "{subject} {body} }"}, '"}" names no column'),
        ({"template": "{subject}"}, 'leaves out "body": write {body} in it, or leave it out of text_column'),
        ({"text_column": []}, "text_column"),
    ],
)
def test_a_mistake_in_them_is_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(hftl.RecipeError) as caught:
        data("x", **settings)
    assert message in str(caught.value)


# --- reading ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_table_of_any_kind_gives_the_same_texts(ending: str, tmp_path: Path) -> None:
    splits = load_splits(data(str(write_rows(tmp_path / f"train.{ending}", mails()))), seed=0)
    assert splits.train.column_names == ["id", "text", "label"]
    by_id = dict(zip(splits.train["id"][:], splits.train["text"][:], strict=True))
    rows = {f"train/{row['n']}": f"{row['subject']}\n{row['body']}" for row in mails()}
    assert len(by_id) == 32 and by_id == {id: rows[id] for id in by_id}
    expected = load_splits(data(str(write_rows(tmp_path / "other.csv", mails()))), seed=0).facts["fingerprint"]
    assert splits.facts["fingerprint"] == expected
    assert splits.facts["remarks"] == ['a text is made of the columns "subject", "body", a line each']


def test_data_in_memory_may_have_several_columns() -> None:
    rows = mails()
    labels = [row["label"] for row in rows]
    sources: list[Any] = [
        pd.DataFrame(rows),
        ([(row["subject"], row["body"]) for row in rows], labels),
        ([{"body": row["body"], "subject": row["subject"]} for row in rows], labels),
    ]
    fingerprints = [load_splits(data(source), seed=0).facts["fingerprint"] for source in sources]
    assert fingerprints[1:] == fingerprints[:-1]
    with pytest.raises(hftl.RecipeError, match="expected a dict of subject, body, or a tuple of 2 in that order; found str"):
        data((["a", "b"], ["x", "y"]))


def test_texts_are_compared_whole(tmp_path: Path) -> None:
    """A repeated subject is no duplicate, a repeated row is one."""
    rows = [*mails(12), {**mails(1)[0], "subject": "About film 7"}, {**mails(1)[0], "label": "good"}]
    problem = refused(data(str(write_rows(tmp_path / "train.csv", rows))))
    assert "1 text has more than one label: train/0 (bad) = train/13 (good)" in problem


def test_a_column_that_is_not_there_and_an_answer_among_the_columns_are_refused(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "train.csv", mails()))
    problem = refused(data(path, text_column=["subjct", "body", "footer"]))
    assert 'no column "subjct" in split "train". Did you mean "subject"?' in problem and 'no column "footer"' in problem
    assert '"label" is data.text_column too: a model would learn to read its own answer' in refused(
        data(path, text_column=["body", "label"])
    )


def test_a_row_without_one_of_the_texts_names_the_column(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*mails(10)]
    rows[3] = {**rows[3], "subject": None}
    assert '1 row with no text in the column "subject": train/3' in refused(data(str(write_rows(tmp_path / "train.jsonl", rows))))


def test_numbers_and_categories_beside_a_text_are_for_another_program(tmp_path: Path) -> None:
    rows = [
        {"price": row["n"], "shop": ("north", "south")[place % 3 == 0], **row, "typed": place}
        for place, row in enumerate(mails(120))
    ]
    table = str(write_rows(tmp_path / "train.csv", rows))
    problem = refused(data(table, text_column=["price", "body"]))
    assert 'the column "price" holds numbers in split "train", and no texts' in problem
    assert "AutoGluon" in problem and "data.template='{price} {body}'" in problem
    assert 'the column "shop" holds 2 different values' in refused(data(table, text_column=["shop", "body"]))
    typed = refused(data(str(write_rows(tmp_path / "train.parquet", rows)), text_column=["body", "typed"]))
    assert 'no text but another type in the column "typed"' in typed and "AutoGluon" in typed
    words = load_splits(data(table, text_column=["shop", "body"], template="{shop}: {body}"), seed=0)
    assert all(text.startswith(("north: It was", "south: It was")) for text in words.train["text"][:])


# --- a run --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hftl.Run:
    folder = tmp_path_factory.mktemp("mails")
    write_rows(folder / "train.csv", mails(60))
    write_rows(folder / "test.csv", mails(20, start=60))
    recipe = hftl.Recipe(
        name="mails",
        data=data(str(folder), max_length=32),
        model=hftl.Transformer(checkpoint=BERT_NANO),
        stages={"all": hftl.Stage(unfreeze="all", lr=1e-3, epochs=1)},
        run=hftl.RunSettings(batch_size=16, precision="fp32"),
        card=hftl.Card(license="mit", dataset_name="mails about films"),
    )
    return hftl.train(recipe, run_dir=folder / "run", console=quiet())


def test_a_row_is_predicted_alike_as_text_dict_tuple_and_table(run: hftl.Run, tmp_path: Path) -> None:
    rows = mails(4, start=100)
    table = write_rows(tmp_path / "new.csv", [{name: value for name, value in row.items() if name != "label"} for row in rows])
    expected = [answer.probabilities for answer in run.predict([f"{row['subject']}\n{row['body']}" for row in rows])]
    given: list[Any] = [rows, [(row["subject"], row["body"]) for row in rows], table]
    for inputs in given:
        answers = run.predict(inputs)
        assert [answer.probabilities for answer in answers] == expected
        assert answers[0].input == f"{rows[0]['subject']}\n{rows[0]['body']}"
    assert run.predict(rows[0])[0].probabilities == pytest.approx(expected[0])


def test_what_is_no_row_of_the_columns_is_refused(run: hftl.Run, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run.predict([{"subject": "a"}, ("a", "b", "c"), ("a", 1), 3])
    said = str(caught.value)
    assert 'input 0: no "body" in a row that has subject' in said and "input 1: expected a dict of subject, body" in said
    assert (
        'input 2: "body" is no text (str)' in said
        and "input 3: expected a text (str), a row (dict or tuple) of subject, body" in said
    )
    with pytest.raises(DataError, match='no column "subject" and "body"; columns: text'):
        run.predict(write_rows(tmp_path / "new.csv", [{"text": "a"}]))


def test_its_baseline_audit_card_and_serving_read_the_joined_texts(run: hftl.Run, tmp_path: Path) -> None:
    assert run.baseline is not None and "gains" in run.baseline
    assert check_serving(run.paths, prepare(run.paths, "me/mails")).samples == 12
    assert not run.verify(data=str(run.recipe.data.source)).failed
    assert read_json(run.paths.audit)["texts"]["looked_at"] == 48
    card = run.paths.card.read_text()
    assert 'def make_text(row):\n    return row["subject"] + "\\n" + row["body"]' in card
    assert 'classifier(make_text({"subject": "Put the subject here.", "body": "Put the body here."}), truncation=True' in card
    assert "from tables with the columns subject and body to a table" in card
    write_rows(tmp_path / "more.csv", mails(10, start=200))
    evaluated = run.evaluate(data=str(tmp_path / "more.csv"))
    assert evaluated.metrics["n"] == 10 and evaluated.facts is not None and evaluated.facts["seen"]["train"] == 0
