"""Secrets are found by their form and by their value, and no message shows one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hftl.errors import RecipeError
from hftl.recipe import Card, Recipe, Stage, TextData, Transformer, override, refuse_secrets
from hftl.run import RunDirectory
from hftl.secrets import environment_secrets, find_secrets, is_random, redact
from hftl.training.checks import check_run_directory

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"  # of the right form, and of nobody


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (TOKEN, "a Hugging Face token"),
        ("api_org_" + "a" * 34, "a Hugging Face token"),
        ("ghp_" + "a1" * 18, "a GitHub token"),
        ("x_" + TOKEN, "a Hugging Face token"),
        ("hf_oauth_" + "a1" * 12, "a Hugging Face token"),
        ("glpat-" + "a1" * 10, "a GitLab token"),
        ("npm_" + "a1" * 18, "a package registry's token"),
        ("sk_live_" + "a1" * 10, "an API key"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP", "a JSON web token"),
        ("key=AKIA" + "ABCD" * 4, "an AWS access key"),
        ("AIza" + "x" * 35, "a Google API key"),
        ("xoxb-1234567890-abc", "a Slack token"),
        ("sk-" + "a" * 24, "an API key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("https://me:opensesame@example.org/x", "a password in an address"),
    ],
)
def test_a_secret_is_known_by_its_form(text: str, kind: str) -> None:
    assert list(find_secrets(f"first line\nbefore {text} after")) == [(2, kind)]


@pytest.mark.parametrize(
    "text", ["hf_hub_download", "https://huggingface.co/me/x", "sk-learn", "a private key", "10:30 me@example.org", "hf_short"]
)
def test_ordinary_words_are_no_secrets(text: str) -> None:
    assert list(find_secrets(text)) == []


def test_a_secret_is_known_by_its_value_where_a_variable_with_a_telling_name_holds_it() -> None:
    environment = {
        "WANDB_API_KEY": "correct horse",
        "TOKENIZERS_PARALLELISM": "false-ish-value",
        "MY_TOKEN": "true",
        "PATH": "/bin:/sbin",
    }
    known = environment_secrets(environment)
    assert known == {"correct horse": "the value of WANDB_API_KEY"}
    assert list(find_secrets("a\nb correct horse c", known=known)) == [(2, "the value of WANDB_API_KEY")]


def test_a_known_secret_is_found_as_html_as_json_and_across_a_line_break() -> None:
    known = {'p&ss "w\\rd*1': "the password", "correct horse battery": "the other"}
    assert list(find_secrets("x p&amp;ss &quot;w\\rd*1 y", known=known)) == [(1, "the password")]
    assert list(find_secrets(json.dumps({"a": 'p&ss "w\\rd*1'}), known=known)) == [(1, "the password")]
    assert list(find_secrets("first\na correct\n    horse battery", known=known)) == [(2, "the other")]


@pytest.mark.parametrize("name", ["PGPASSWORD", "MYSQL_PWD", "SIGNING_PASSPHRASE", "AWS_SECRET_ACCESS_KEY", "wandb_api_key"])
def test_a_variables_name_tells_that_it_holds_a_secret(name: str) -> None:
    assert environment_secrets({name: "12345678"}) == {"12345678": f"the value of {name}"}


def test_what_is_redacted_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "swordfish42")
    assert redact(f"said {TOKEN}, swordfish42 and open-sesame", known=["open-sesame"]) == "said ***, *** and ***"


def recipe_with(**card: str) -> Recipe:
    return Recipe(
        name="trial",
        data=TextData(source="stanfordnlp/imdb"),
        model=Transformer(checkpoint="google-bert/bert-base-uncased"),
        stages={"all": Stage(lr=1e-4)},
        card=Card(**card),  # type: ignore[arg-type]
    )


def test_a_recipe_with_a_token_is_not_written_and_the_message_does_not_show_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"card\.summary holds a Hugging Face token") as caught:
        RunDirectory(tmp_path).write_recipe(recipe_with(summary=f"made with {TOKEN}"))
    assert TOKEN not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["stanfordnlp/imdb", "google-bert/bert-base-uncased", "bert-base", "auto"])
def test_a_name_that_a_telling_variable_happens_to_hold_is_a_name(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", value)
    recipe = recipe_with(summary=f"Of {value}.")
    run = RunDirectory(tmp_path)
    run.write_recipe(recipe)
    assert run.load_recipe() == recipe
    check_run_directory(RunDirectory(tmp_path / "new"), recipe, resume=False)  # what training asks first
    with pytest.raises(RecipeError, match=r"card\.summary holds the value of SOME_API_KEY"):  # no name of this recipe
        monkeypatch.setenv("SOME_API_KEY", "correct horse")
        refuse_secrets(recipe_with(summary="a correct horse"))


@pytest.mark.parametrize("key", ["name", "data.source", "model.checkpoint", "card.citation"])
@pytest.mark.parametrize("value", ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", "550e8400-e29b-41d4-a716-446655440000"])
def test_a_random_value_is_a_secret_wherever_in_a_recipe_it_stands(
    key: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", value)
    recipe = override(recipe_with(), [f"{key}={value}"])  # of a recipe that is only looked at nobody asks
    with pytest.raises(RecipeError, match=rf"{key} holds the value of WANDB_API_KEY") as caught:
        check_run_directory(RunDirectory(tmp_path / "run"), recipe, resume=False)
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "random"),
    [
        ("stanfordnlp/imdb", False),
        ("glove.6B.zip:glove.6B.100d.txt", False),
        ("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", False),
        ("EfficientNetB0", False),
        ("swordfish42", False),
        ("correct horse battery staple", False),
        ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", True),
        ("550e8400-e29b-41d4-a716-446655440000", True),
        ("hQ7tR2vLpX9s", True),
    ],
)
def test_what_was_drawn_by_lot_is_told_from_a_name(value: str, random: bool) -> None:
    assert is_random(value) == random


def test_an_override_with_a_token_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = Path(__file__).parent.parent / "recipes" / "quickstart.py"
    command = [sys.executable, "-m", "hftl", "train", str(recipe), f"card.citation={TOKEN}", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "card.citation holds a Hugging Face token" in done.stderr
    assert TOKEN not in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()
