"""Whole files that hftl writes, beside those in golden/: a card of texts, one of pictures, and a plan as it is shown and kept.

Other tests say what must be in such a file and why; these show whoever changes one what else has changed with it. The runs are
written by hand (run_factory.py): no training, time, version or machine of today is in them. What still differs from one machine to
the next is masked by `masked`, in the golden file too.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY
from rich.console import Console
from run_factory import make_recipe, make_run
from small import STAGES, nano, reviews

from hftl.files import to_json
from hftl.sharing.card import write_card
from hftl.training.experiment import prepare_experiment
from hftl.training.plan import Plan
from hftl.training.planning import make_plan

GOLDEN = Path(__file__).resolve().parent / "golden"
REWRITE = "HFTL_GOLDEN=write .venv/bin/python -m pytest tests/test_golden.py"


def masked(text: str) -> str:
    """Folders of this machine by a word, and a number to 6 digits after the point: sums round in another order elsewhere."""
    text = text.replace(str(REPOSITORY / "hftl"), "HFTL")
    return re.sub(r"\d+\.\d{7,}(?:e-?\d+)?", lambda number: f"{float(number[0]):.6g}", text)


def card_of_texts(folder: Path) -> str:
    recipe = make_recipe(
        license="cc-by-4.0",
        language="en",
        title="Film reviews",
        summary="Tells good reviews from bad.",
        intended_use="Reviews of films.",
        authors=("A. Author", "B. Author"),
    )
    return write_card(make_run(folder / "reviews", recipe=recipe), repo_id="me/film-reviews").read_text(encoding="utf-8")


def card_of_pictures(folder: Path) -> str:
    """Of which nobody has said anything: the card says what is not known."""
    return write_card(make_run(folder / "clothes", family="timm", n=372, openings=2)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plan() -> Plan:
    recipe = nano("planned", reviews(40), STAGES)
    return make_plan(prepare_experiment(recipe))


def compare(name: str, text: str) -> None:
    """With the golden file, line by line, unless it is to be written."""
    file, text = GOLDEN / name, masked(text)
    if os.environ.get("HFTL_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
        pytest.skip(f"golden/{name} is written")
    golden = file.read_text(encoding="utf-8").splitlines()
    differs = list(difflib.unified_diff(golden, text.splitlines(), "golden", "now", n=1, lineterm=""))
    if differs:
        said = f"golden/{name} is no longer what hftl writes. If that is meant:  {REWRITE}"
        pytest.fail("\n".join([said, *differs]), pytrace=False)


@pytest.mark.parametrize(("name", "write"), [("card-texts.md", card_of_texts), ("card-pictures.md", card_of_pictures)])
def test_a_card_is_the_golden_one(name: str, write: Callable[[Path], str], tmp_path: Path) -> None:
    compare(name, write(tmp_path))


def test_the_plan_that_is_shown_is_the_golden_one(plan: Plan) -> None:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(plan)
    compare("plan.txt", console.export_text())


def test_the_plan_that_is_kept_is_the_golden_one(plan: Plan) -> None:
    compare("plan.json", to_json(plan.to_dict()))


def test_a_changed_word_is_shown_with_the_command_that_rewrites_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HFTL_GOLDEN", raising=False)
    changed = (GOLDEN / "card-texts.md").read_text(encoding="utf-8").replace("Reviews of films.", "Reviews of books.")
    with pytest.raises(pytest.fail.Exception, match=r"golden/card-texts\.md is no longer(?s:.*)test_golden\.py\n") as caught:
        compare("card-texts.md", changed)
    said = [line for line in str(caught.value).splitlines() if line.startswith(("->", "+>"))]
    assert said == ["-> Reviews of films.", "+> Reviews of books."]


def test_what_differs_between_machines_is_masked() -> None:
    said = f"{REPOSITORY}/hftl/samples 0.12345678901 3.0000000000000004e-05 0.1234567 0.25"
    assert masked(said) == "HFTL/samples 0.123457 3e-05 0.123457 0.25"
