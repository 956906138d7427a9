"""Facts belong to what they describe: what stays on a card, what is left off, and what is said about it."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from conftest import REPOSITORY, Hftl
from digits import write_digits
from rich.console import Console
from small import BERT_NANO

from hftl.api import train
from hftl.data.source import load_splits
from hftl.errors import RecipeError, RunError
from hftl.facts import continued, contradictions, how_known, settle
from hftl.files import read_json, write_json, write_text
from hftl.recipe import (
    ABOUT,
    BiLSTM,
    Card,
    ImageData,
    Recipe,
    Stage,
    TextData,
    Timm,
    Transformer,
    load_recipe,
    of_another,
    override,
    parse_recipe,
)
from hftl.records.data import Provenance
from hftl.run import RunDirectory
from hftl.sharing.card import render_card
from hftl.sharing.publication import prepare
from hftl.sharing.verify import verify

IMDB = {"train": 64 * "a", "test": 64 * "b"}
TICKETS = {"train": 64 * "c"}
OF_DATA = {"dataset": "stanfordnlp/imdb", "dataset_name": "IMDb", "language": "en", "training_data": "25,000 reviews."}
OF_MODEL = {"title": "BERT on IMDb", "license": "apache-2.0", "tags": ("film",), "authors": ("A. Author",), "citation": "@misc{x}"}
OF_ALL = {"summary": "Tells good films from bad.", "intended_use": "Film reviews.", "limitations": "No books."}
NOTHING = Card()


def films(**card: Any) -> Recipe:
    """What a script would build."""
    return Recipe(
        name="films",
        data=TextData(source="stanfordnlp/imdb"),
        model=Transformer(checkpoint="google-bert/bert-base-uncased"),
        stages={"head": Stage(lr=1e-3, unfreeze="head"), "all": Stage(lr=1e-4)},
        card=Card(**(OF_DATA | OF_MODEL | OF_ALL | card)),
    )


def read(source: str, fingerprint: Mapping[str, str], *, hub: bool = False, model_revision: str | None = None) -> Any:
    """What is known once a source was read, as in data.json."""
    facts = {"source": source, "format": "hub" if hub else "csv", "fingerprint": dict(fingerprint)}
    return {**facts, "model": {"revision": model_revision}}


def given(card: Card) -> set[str]:
    return {fact for fact, value in card if value not in (None, ())}


# --- what lapses --------------------------------------------------------------------------------------------------------------


def test_of_what_the_script_names_every_fact_holds_and_nothing_is_said() -> None:
    settled, said = settle(films(), read("stanfordnlp/imdb", IMDB, hub=True))
    assert settled == films() and said == ()
    tuned = override(films(), ["stages.all.lr=2e-5", "run.seed=3", "data.validation_fraction=0.2", "name=mine"])
    assert settle(tuned, read("stanfordnlp/imdb", IMDB, hub=True)) == (tuned, ())


def test_other_data_take_every_fact_with_them_but_those_of_the_checkpoint_and_one_line_says_so() -> None:
    recipe = override(films(base_model="google-bert/bert-base-uncased"), ["data.source=tickets/"])
    settled, [line] = settle(recipe, read("tickets/", TICKETS))
    assert given(settled.card) == {"base_model"}
    assert line.startswith("left off the card: title, summary, intended_use, limitations, training_data, license, language, tags,")
    assert "The recipe says that of data.source=stanfordnlp/imdb; here it is data.source=tickets/." in line
    assert "in this command or later with `hftl card RUN`: card.title=... card.license=..." in line
    assert settled.name == "tickets-bert-base-uncased" and 'The run is called "tickets-bert-base-uncased" on its card' in line


def test_another_checkpoint_takes_what_was_said_of_the_model_and_leaves_the_data_theirs() -> None:
    recipe = override(films(base_model="google-bert/bert-base-uncased"), ["model.checkpoint=minilm"])
    settled, [line] = settle(recipe, read("stanfordnlp/imdb", IMDB, hub=True))
    assert given(settled.card) == set(OF_DATA)
    assert "model.checkpoint=google-bert/bert-base-uncased; here it is model.checkpoint=minilm" in line
    assert settled.name == "imdb-minilm"


CHANGES = [
    "data.source=tickets/",
    "data.config=other",
    "data.text_column=title",
    "data.label_column=stars",
    "data.train_split=unsupervised",
    "model.checkpoint=minilm",
    "model.pretrained=false",
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_licence_is_never_inherited_nor_what_else_was_said_of_the_model_that_came_of_it(change: str) -> None:
    recipe = override(films(), [change])
    settled, said = settle(recipe, read(recipe.data.source, IMDB, hub=recipe.data.source == "stanfordnlp/imdb"))
    assert not given(settled.card) & {*OF_MODEL, *OF_ALL} and len(said) == 1
    assert settled.card.license is None and yaml.safe_load(recipe.to_yaml())["card"]["license"] is None


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ("data.max_train_samples=5000", {"training_data"}),
        ("data.stream_samples=5000", {"training_data"}),
        ("data.revision=abc", {"training_data"}),
        ("data.text_column=translation", {"language", "training_data", *OF_MODEL, *OF_ALL}),
        ("data.max_length=64", {"limitations"}),
        ("data.test_fraction=0.1", {"limitations"}),
        ("stages.head.unfreeze=all", set(OF_ALL)),
        ("stages.all.epochs=9", set()),
    ],
)
def test_each_fact_depends_on_what_it_speaks_of(change: str, lost: set[str]) -> None:
    settled, said = settle(override(films(), [change]), read("stanfordnlp/imdb", IMDB, hub=True))
    assert given(films().card) - given(settled.card) == lost
    assert len(said) == bool(lost)


def test_random_weights_have_no_base_model_to_speak_of() -> None:
    recipe = override(films(base_model="google-bert/bert-base-uncased"), ["model.pretrained=false"])
    assert settle(recipe, read("stanfordnlp/imdb", IMDB, hub=True))[0].card.base_model is None


def test_a_stage_more_or_less_is_named() -> None:
    recipe = override(films(), ["stages.top={lr: 1e-3, unfreeze: [layer.1, head]}"])
    _, [line] = settle(recipe, read("stanfordnlp/imdb", IMDB, hub=True))
    assert "stages head (head), all (all); here it is stages head (head), all (all), top (layer.1, head)." in line


def test_every_fact_of_the_card_is_about_something_and_documented() -> None:
    assert set(ABOUT) == {*Card.model_fields, "name"}
    documented = (REPOSITORY / "docs" / "sharing.md").read_text().split("| fact | lapses")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| .*? \|", documented, re.MULTILINE)))) == set(ABOUT)


# --- what is given in its place -----------------------------------------------------------------------------------------------


def test_facts_given_in_the_same_call_are_about_the_new_thing_and_stay() -> None:
    recipe = override(films(), ["card.title=Tickets", "data.source=tickets/", "card.license=mit", "name=tickets"])
    settled, [line] = settle(recipe, read("tickets/", TICKETS))
    assert given(settled.card) == {"title", "license"} and settled.card.license == "mit"
    assert settled.name == "tickets" and "is called" not in line and "card.summary=..." in line
    assert "title" not in line.partition(".")[0]


def test_facts_given_for_one_source_do_not_pass_on_to_the_next() -> None:
    tickets = override(films(), ["data.source=tickets/", "card.title=Tickets", "name=tickets"])
    mails = override(tickets, ["data.source=mails/"])
    assert given(settle(mails, read("mails/", TICKETS))[0].card) == set()
    back = override(mails, ["data.source=tickets/"])
    assert settle(back, read("tickets/", TICKETS))[0].card.title == "Tickets"
    home = override(back, ["data.source=stanfordnlp/imdb", "name=films"])
    assert given(settle(home, read("stanfordnlp/imdb", IMDB, hub=True))[0].card) == given(films().card) - {"title"}


def test_a_whole_card_section_in_an_override_is_given_too() -> None:
    recipe = override(films(), ["data.source=tickets/", "card={title: Tickets, license: mit}"])
    assert given(settle(recipe, read("tickets/", TICKETS))[0].card) == {"title", "license"}


def test_a_copy_with_other_data_is_as_good_as_an_override() -> None:
    copy = films().model_copy(update={"data": TextData(source="tickets/")})
    assert given(settle(copy, read("tickets/", TICKETS))[0].card) == set()


def test_a_recipe_that_was_changed_and_written_down_takes_no_fact_of_the_old_one_along() -> None:
    changed = override(films(), ["data.source=tickets/", "card.title=Tickets"])
    again = parse_recipe(changed.to_yaml(), source="x")
    assert given(again.card) == {"title"}
    assert parse_recipe(films().to_yaml(), source="x") == films()


# --- a local copy of the named set --------------------------------------------------------------------------------------------


def test_a_local_copy_is_recognised_by_its_fingerprint_and_all_facts_stay() -> None:
    script = films(dataset_fingerprint=IMDB)
    recipe = override(script, ["data.source=../copy", "data.label_column=stars"])
    settled, [line] = settle(recipe, read("../copy", {"train": IMDB["train"]}))  # without a test split
    assert settled.card == script.card and settled.name == "films"
    assert line == "../copy is stanfordnlp/imdb by its fingerprint: what the recipe says of these data stays on the card"
    assert how_known(settled, read("../copy", IMDB)) == "fingerprint"


def test_a_recognised_copy_under_another_model_keeps_the_facts_of_the_data_alone() -> None:
    script = films(dataset_fingerprint=IMDB)
    changes = ["data.source=../copy", "model.checkpoint=minilm", "data.max_train_samples=5000"]
    settled, said = settle(override(script, changes), read("../copy", IMDB))
    assert given(settled.card) == {"dataset", "dataset_name", "language", "dataset_fingerprint"}
    assert len(said) == 2 and "is stanfordnlp/imdb by its fingerprint" in said[1]
    assert settled.name == "imdb-minilm"


@pytest.mark.parametrize("fingerprint", [TICKETS, {**IMDB, "test": 64 * "0"}, {**IMDB, "validation": 64 * "0"}])
def test_what_is_not_the_same_in_every_split_that_was_read_is_not_recognised(fingerprint: dict[str, str]) -> None:
    recipe = override(films(dataset_fingerprint=IMDB), ["data.source=tickets/"])
    assert given(settle(recipe, read("tickets/", fingerprint))[0].card) == set()


def test_a_local_copy_is_claimed_on_the_command_line_and_marked_as_claimed() -> None:
    recipe = override(films(), ["data.source=../copy", "card.dataset=stanfordnlp/imdb"])
    settled, [line] = settle(recipe, read("../copy", TICKETS))
    assert settled.card == films().card
    assert line == "that ../copy is stanfordnlp/imdb is your word, card.dataset: the card will say so"
    assert how_known(settled, read("../copy", TICKETS)) == "claimed"
    other = override(films(), ["data.source=../copy", "card.dataset=me/tickets"])
    assert given(settle(other, read("../copy", TICKETS))[0].card) == {"dataset"}


def test_the_set_on_the_hub_that_a_local_one_was_said_to_be_needs_no_new_facts() -> None:
    local = films().model_copy(update={"data": TextData(source="../copy")})
    script = Recipe(**local.model_dump())
    recipe = override(script, ["data.source=stanfordnlp/imdb"])
    assert settle(recipe, read("stanfordnlp/imdb", IMDB, hub=True)) == (films(), ())


def test_a_claim_that_the_fingerprint_disproves_is_refused_with_both_ways_out() -> None:
    recipe = override(films(dataset_fingerprint=IMDB), ["data.source=tickets/", "card.dataset=stanfordnlp/imdb"])
    with pytest.raises(RecipeError) as refused:
        settle(recipe, read("tickets/", TICKETS))
    assert "card.dataset_fingerprint: what was read is not stanfordnlp/imdb: its fingerprint is another" in str(refused.value)
    assert "card.dataset=null card.dataset_fingerprint=null" in str(refused.value)
    claimed = override(recipe, ["card.dataset_fingerprint=null"])
    assert settle(claimed, read("tickets/", TICKETS))[0].card.dataset == "stanfordnlp/imdb"


def test_a_local_checkpoint_is_claimed_to_be_the_named_one() -> None:
    recipe = override(films(), ["model.checkpoint=../bert", "card.base_model=google-bert/bert-base-uncased"])
    settled, said = settle(recipe, read("stanfordnlp/imdb", IMDB, hub=True))
    assert settled.card == films(base_model="google-bert/bert-base-uncased").card and said == ()
    other = override(films(), ["model.checkpoint=../minilm", "card.base_model=nreimers/MiniLM"])
    assert given(settle(other, read("stanfordnlp/imdb", IMDB, hub=True))[0].card) == {*OF_DATA, "base_model"}


def test_a_set_of_the_hub_that_has_moved_on_loses_what_was_said_of_its_rows() -> None:
    settled, [line] = settle(films(dataset_fingerprint=IMDB), read("stanfordnlp/imdb", TICKETS, hub=True))
    assert settled.card == films(training_data=None).card
    assert (
        "left off the card: training_data. The recipe says that of data of the fingerprint aaaaaaaaaaaa; here it is data of the"
        in line
    )


def test_a_folder_with_other_rows_under_the_same_name_is_another_set() -> None:
    """Among them a local folder that is called as the set on the Hub is."""
    settled, [line] = settle(films(dataset_fingerprint=IMDB), read("stanfordnlp/imdb", TICKETS))
    assert given(settled.card) == set() and "data of the fingerprint cccccccccccc" in line


# --- contradictions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "facts", "where"),
    [
        (films(dataset="me/other"), read("stanfordnlp/imdb", IMDB, hub=True), "card.dataset"),
        (films(dataset_name="me/other"), read("stanfordnlp/imdb", IMDB, hub=True), "card.dataset_name"),
        (films(dataset_fingerprint=IMDB), read("stanfordnlp/imdb", TICKETS), "card.dataset_fingerprint"),
        (films(base_model="me/other"), read("stanfordnlp/imdb", IMDB, hub=True, model_revision="abc"), "card.base_model"),
        (
            Recipe(
                name="x",
                data=TextData(source="x.csv"),
                model=BiLSTM(vectors="v.txt"),
                stages={"all": Stage(lr=0.1)},
                card=Card(base_model="me/bert"),
            ),
            read("x.csv", TICKETS),
            "card.base_model",
        ),
        (
            Recipe(
                name="x",
                data=ImageData(source="photos"),
                model=Timm(checkpoint="resnet18", pretrained=False),
                stages={"all": Stage(lr=0.1)},
                card=Card(base_model="timm/resnet18"),
            ),
            read("photos", TICKETS),
            "card.base_model",
        ),
    ],
)
def test_a_fact_that_contradicts_what_was_read_is_found_with_the_way_out(recipe: Recipe, facts: dict[str, Any], where: str) -> None:
    [problem] = contradictions(recipe, cast(Provenance, facts))
    assert problem.where == where and "=null" in problem.help[0]


def test_what_cannot_be_disproved_is_no_contradiction() -> None:
    assert contradictions(films(), read("stanfordnlp/imdb", IMDB, hub=True, model_revision="abc")) == []
    assert contradictions(films(dataset="me/mirror", dataset_fingerprint=IMDB), read("stanfordnlp/imdb", IMDB, hub=True)) == []
    assert contradictions(films(), read("reviews.csv", TICKETS)) == []


def test_a_contradiction_is_refused_before_a_step_is_spent() -> None:
    with pytest.raises(RecipeError, match=r"card\.dataset: me/other is not what was read, stanfordnlp/imdb"):
        settle(films(dataset="me/other"), read("stanfordnlp/imdb", IMDB, hub=True))


# --- resuming, and recipes of others ------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_its_facts_and_gets_those_that_are_given_now() -> None:
    call = ["data.source=tickets/", "card.title=Tickets", "card.license=mit", "name=tickets"]
    started = settle(override(films(), call), read("tickets/", TICKETS))[0]
    again = override(films(), ["data.source=tickets/"])  # from the script, without the facts of the first call
    assert continued(again, started) == (started, ())
    more = override(films(), ["data.source=tickets/", "card.language=de"])
    assert continued(more, started)[0] == override(started, ["card.language=de"])
    of_run = override(parse_recipe(started.to_yaml(), source="run"), ["card.license=cc0-1.0"])
    assert continued(of_run, started)[0].card.license == "cc0-1.0"


def test_a_script_whose_facts_were_changed_since_the_start_does_not_change_those_of_the_run() -> None:
    resumed, [line] = continued(films(title="A better title"), films())
    assert resumed == films()
    assert line == "the card keeps the facts that the run was started with, not the recipe's other title"


def test_what_somebody_else_says_of_their_model_is_not_about_mine() -> None:
    recipe = of_another(films(), "me/films")
    settled, [line] = settle(recipe, read("stanfordnlp/imdb", IMDB, hub=True))
    assert given(settled.card) == set(OF_DATA) and settled.name == "films"
    assert "The recipe says that of the model of me/films; here it is a model of your own." in line
    assert given(settle(override(recipe, ["data.source=photos/"]), read("photos/", TICKETS))[0].card) == set()


# --- the fingerprint ----------------------------------------------------------------------------------------------------------

ROWS = [(f"text number {i}", "good" if i % 3 else "bad") for i in range(40)]


def fingerprint_of(folder: Path, rows: list[tuple[str, str]], *, kind: str = "csv") -> dict[str, str]:
    folder.mkdir()
    if kind == "csv":
        with (folder / "train.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *rows])
    else:
        lines = [json.dumps({"label": label, "text": text}) for text, label in rows]
        (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found: dict[str, str] = load_splits(TextData(source=str(folder), on_duplicate="keep"), seed=0).facts["fingerprint"]
    return found


def test_a_fingerprint_knows_contents_and_classes_and_neither_order_nor_format_nor_place(tmp_path: Path) -> None:
    one = fingerprint_of(tmp_path / "one", ROWS)
    assert set(one) == {"train"} and re.fullmatch("[0-9a-f]{64}", one["train"])
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert fingerprint_of(tmp_path / "two", shuffled, kind="jsonl") == one
    assert fingerprint_of(tmp_path / "less", ROWS[:-1]) != one
    assert fingerprint_of(tmp_path / "more", [*ROWS, ROWS[0]]) != one
    assert fingerprint_of(tmp_path / "relabelled", [(ROWS[0][0], "good"), *ROWS[1:]]) != one
    assert fingerprint_of(tmp_path / "renamed", [(text, label.upper()) for text, label in ROWS]) != one
    assert fingerprint_of(tmp_path / "changed", [("another text", ROWS[0][1]), *ROWS[1:]]) != one


def test_the_fingerprint_is_of_the_source_and_not_of_what_was_drawn_from_it(tmp_path: Path) -> None:
    one = fingerprint_of(tmp_path / "one", ROWS)
    data = TextData(source=str(tmp_path / "one"), max_train_samples=12, validation_fraction=0.4, test_fraction=0.1)
    assert load_splits(data, seed=7).facts["fingerprint"] == one


def test_a_folder_of_pictures_is_known_by_their_bytes_and_classes(tmp_path: Path) -> None:
    write_digits(tmp_path / "a", range(3), train_per_class=4)
    write_digits(tmp_path / "b", range(3), train_per_class=4)
    found = [load_splits(ImageData(source=str(tmp_path / name)), seed=0).facts["fingerprint"] for name in "ab"]
    assert found[0] == found[1] and set(found[0]) == {"train", "test"}
    picture = next((tmp_path / "b" / "train").rglob("*.png"))
    picture.rename(picture.with_name("renamed.png"))
    assert load_splits(ImageData(source=str(tmp_path / "b")), seed=0).facts["fingerprint"] == found[0]
    (picture.parent / "renamed.png").unlink()
    assert load_splits(ImageData(source=str(tmp_path / "b")), seed=0).facts["fingerprint"]["train"] != found[0]["train"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert_imdb"])
def test_the_recipes_know_a_local_copy_of_imdb(shared: Path, name: str) -> None:
    script = load_recipe(REPOSITORY / "recipes" / f"{name}.py")
    recipe = override(script, [f"data.source={shared / 'data' / 'imdb'}"])
    facts = load_splits(recipe.data, seed=0).facts
    settled, [line] = settle(recipe, cast(Provenance, {**facts, "model": {"revision": None}}))
    assert settled.card == script.card and "is stanfordnlp/imdb by its fingerprint" in line


def test_the_recipes_on_imdb_carry_one_fingerprint() -> None:
    found = [
        load_recipe(REPOSITORY / "recipes" / f"{name}_imdb.py").card.dataset_fingerprint for name in ("bert", "bilstm", "textcnn")
    ]
    assert found[0] is not None and found[0] == found[1] == found[2] and set(found[0]) == {"train", "test"}


# --- two journeys -------------------------------------------------------------------------------------------------------------

WORDS = {
    "billing": ("invoice", "refund", "charged twice", "credit card"),
    "login": ("password", "locked out", "two factor code", "cannot sign in"),
    "shipping": ("parcel", "courier", "delivery date", "wrong address"),
}


def write_tickets(folder: Path) -> Path:
    rng = random.Random(0)
    folder.mkdir()
    for split, count in (("train", 20), ("test", 8)):
        rows = [
            (f"{split} {number}: {rng.choice(words)} and {rng.choice(words)}, please help", label)
            for label, words in WORDS.items()
            for number in range(count)
        ]
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *rows])
    return folder


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, str]:
    """README's own line on a folder of support tickets, and what it said."""
    folder = tmp_path_factory.mktemp("journey")
    changes = [f"data.source={write_tickets(folder / 'tickets')}", f"model.checkpoint={BERT_NANO}", "data.max_length=32"]
    said = io.StringIO()
    recipe = override(load_recipe(REPOSITORY / "recipes" / "bert_imdb.py"), changes)
    run = train(recipe, run_dir=folder / "run", console=Console(file=said, width=1000)).paths
    return run, said.getvalue()


OF_THE_OTHER = re.compile(r"imdb|film|review|stanfordnlp|apache|\ben\b|bert-base", re.IGNORECASE)


@pytest.mark.slow
def test_support_tickets_through_the_recipe_for_film_reviews_get_a_true_card(tickets: tuple[RunDirectory, str], hftl: Hftl) -> None:
    run, said = tickets
    card = run.card.read_text()
    assert OF_THE_OTHER.findall(card.replace("reviewed", "")) == []
    _, front_matter, body = card.split("---\n", 2)
    known = yaml.safe_load(front_matter)
    assert not {"language", "license", "datasets", "base_model"} & set(known)
    assert known["model-index"][0]["results"][0]["dataset"] == {"type": "tickets", "name": "tickets", "split": "test"}
    assert body.strip().startswith("# tickets-bert-nano\n") and "Licence: not recorded" in body and "Source: tickets," in body
    assert said.count("left off the card: title, summary") == 1 and "left off the card" in run.log.read_text()
    recorded = run.load_recipe()
    assert given(recorded.card) == set() and OF_THE_OTHER.findall(recorded.to_yaml()) == []
    assert hftl("verify", run.path).code == 0

    refused = hftl("push", run.path, "me/tickets", "--dry-run")
    assert refused.code == 2 and "There is no licence" in refused.err and "card.license=" in refused.err

    facts = ["card.title=Where a ticket goes", "card.license=mit", "card.language=en", "card.intended_use=Sorting our mail."]
    assert hftl("card", run.path, *facts).code == 0
    pushed = hftl("push", run.path, "me/tickets", "--dry-run")
    assert pushed.code == 0, pushed.err
    assert "nothing was sent" in pushed.out
    card = run.card.read_text()
    assert (
        "# Where a ticket goes\n" in card and "license: mit\n" in card and "imdb" not in card.lower() and "film" not in card.lower()
    )


@pytest.mark.slow
def test_photos_through_the_recipe_for_hot_dogs_get_a_true_card(hftl: Hftl, tmp_path: Path) -> None:
    photos = write_digits(tmp_path / "photos", range(3), train_per_class=12)
    changes = [f"data.source={photos}", "data.image_size=32", "model.checkpoint=test_resnet", "model.pretrained=false"]
    changes += ["stages.all.epochs=1", "card.license=cc0-1.0", "data.max_test_samples=30"]
    run = RunDirectory(tmp_path / "run")
    done = hftl("train", REPOSITORY / "recipes" / "resnet_hotdog.py", *changes, "--run-dir", run.path)
    assert done.code == 0, done.err
    assert "left off the card: title, summary, intended_use, limitations and dataset_name." in " ".join(done.err.split())
    card = run.card.read_text()
    assert "dog" not in card.lower() and "# photos-test_resnet\n" in card and "license: cc0-1.0" in card
    pushed = hftl("push", run.path, "me/photos", "--dry-run")
    assert pushed.code == 0, pushed.err


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_facts_it_was_started_with_and_those_given_now(hftl: Hftl, tmp_path: Path) -> None:
    script, run = REPOSITORY / "recipes" / "bert_imdb.py", RunDirectory(tmp_path / "run")
    changes = [f"data.source={write_tickets(tmp_path / 'tickets')}", f"model.checkpoint={BERT_NANO}", "data.max_length=16"]
    changes += ["data.max_train_samples=16", "data.max_test_samples=9"]
    started = override(load_recipe(script), [*changes, "card.license=mit", "card.title=Tickets", "name=tickets"])
    facts = {**load_splits(started.data, seed=0).facts, "model": {"revision": None}}
    settled, _ = settle(started, cast(Provenance, facts))
    write_text(run.recipe, settled.to_yaml())  # stopped before its first checkpoint
    done = hftl("train", script, *changes, "card.language=de", "--run-dir", run.path, "--resume")
    assert done.code == 0, done.err
    recipe = run.load_recipe()
    assert recipe.card == Card(license="mit", title="Tickets", language="de") and recipe.name == "tickets"
    assert "left off the card" not in done.err and "# Tickets\n" in run.card.read_text()


# --- what a run, its card, verify and push make of it -------------------------------------------------------------------------


@pytest.fixture
def own(tickets: tuple[RunDirectory, str], tmp_path: Path) -> RunDirectory:
    run = RunDirectory(Path(shutil.copytree(tickets[0].path, tmp_path / "run")))
    write_text(run.recipe, override(run.load_recipe(), ["card.license=mit"]).to_yaml())
    return run


def test_a_claimed_name_is_marked_on_the_card_and_noted_by_verify(own: RunDirectory, hftl: Hftl) -> None:
    assert hftl("card", own.path, "card.dataset=me/tickets", "card.base_model=me/bert-nano").code == 0
    card = own.card.read_text()
    assert "Source: tickets, which the authors say is me/tickets; nothing here proves it, revision not recorded." in card
    assert "on me/tickets (as the authors say)." in card
    assert "- Start: me/bert-nano, as the authors say of their local copy, bert-nano; nothing here proves it." in card
    assert any("is the authors' word" in note for note in verify(own).notes)
    assert verify(own).failed == ()
    prepare(own, "me/tickets")


def test_a_recognised_name_is_told_from_a_claimed_one(own: RunDirectory, hftl: Hftl) -> None:
    known = read_json(own.data)["fingerprint"]
    assert hftl("card", own.path, "card.dataset=me/tickets", f"card.dataset_fingerprint={json.dumps(known)}").code == 0
    assert "Source: me/tickets, read from a copy, tickets, with the fingerprint that the recipe has for it" in own.card.read_text()
    assert not any("authors' word" in note for note in verify(own).notes)


def test_a_name_that_disagrees_with_what_was_read_is_refused_by_card_and_push_and_caught_by_verify(
    own: RunDirectory, hftl: Hftl
) -> None:
    before = own.recipe.read_text()
    wrong = json.dumps(IMDB)
    refused = hftl("card", own.path, "card.dataset=stanfordnlp/imdb", f"card.dataset_fingerprint={wrong}")
    assert refused.code == 2 and "what was read is not stanfordnlp/imdb" in refused.err
    assert own.recipe.read_text() == before
    edited = own.load_recipe()
    card = edited.card.model_copy(update={"dataset": "stanfordnlp/imdb", "dataset_fingerprint": IMDB})
    write_text(own.recipe, edited.model_copy(update={"card": card}).to_yaml())
    with pytest.raises(RunError, match=r"what was read is not stanfordnlp/imdb: its fingerprint is another"):
        prepare(own, "me/tickets")
    assert [claim.where for claim in verify(own).failed if claim.kind == "recipe.yaml"] == ["card.dataset_fingerprint"]


def test_a_source_of_the_hub_goes_by_its_own_name(own: RunDirectory, hftl: Hftl) -> None:
    write_json(own.data, {**read_json(own.data), "format": "hub", "source": "me/tickets", "revision": "abc"})
    recipe = own.load_recipe()
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": "me/tickets"})})
    write_text(own.recipe, Recipe(**recipe.model_dump()).to_yaml())
    refused = hftl("card", own.path, "card.dataset=stanfordnlp/imdb")
    assert refused.code == 2 and "card.dataset: stanfordnlp/imdb is not what was read, me/tickets" in refused.err
    assert hftl("card", own.path, "card.dataset=me/tickets").code == 0
    assert "Source: me/tickets, revision abc." in render_card(own)


def test_plan_says_what_will_be_left_off_and_its_json_stays_json(hftl: Hftl, tmp_path: Path) -> None:
    arguments = [f"data.source={write_tickets(tmp_path / 'tickets')}", f"model.checkpoint={BERT_NANO}", "data.max_length=32"]
    planned = hftl("plan", REPOSITORY / "recipes" / "bert_imdb.py", *arguments, "--json")
    assert planned.code == 0 and json.loads(planned.out)["model"]
    assert "left off the card: title" in planned.err
