"""Numbers in README.md and in the recipes' heads: each is the one in benchmarks/claims, and that one is of the recipe as it is."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("claims")


def record(seed: int, accuracy: float, **values: Any) -> dict[str, Any]:
    made = {
        "claim": "quickstart",
        "seed": seed,
        "test": {"accuracy": accuracy, "n": 300},
        "validation_by_stage": {"head": 0.8, "top": 0.85, "all": 0.9},
        "load_before": 0.2,
        "training_seconds": 60.0 * (seed + 1),
        "answers": [],
        "cpu": "EPYC",
        "cores": 2,
        "threads": 1,
        "precision": "bf16",
        "git_commit": "0123456789",
        "time": f"2026-11-2{seed}T10:00:00+00:00",
    }
    return made | values


# --- what is in the repository ------------------------------------------------------------------------------------------------


def test_every_number_in_the_readme_and_in_the_heads_is_the_measured_one(claims: Any) -> None:
    written = claims.written(claims.claims(), claims.read_records())
    assert {path.name for path in written} >= {"README.md", "quickstart.py", "bert_imdb.py"}
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: changed by hand, or the JSON is newer: make claims ONLY="


def test_the_table_of_findings_is_of_its_files(claims: Any, tmp_path: Path) -> None:
    findings = importlib.import_module("findings")
    page = tmp_path / "findings.md"
    page.write_text(claims.replace_between(findings.PAGE.read_text(encoding="utf-8"), "arms", ""), encoding="utf-8")
    findings.write_page(page)
    assert page.read_text(encoding="utf-8") == findings.PAGE.read_text(encoding="utf-8")


def test_what_was_measured_is_the_recipe_as_it_is(claims: Any) -> None:
    records = claims.read_records()
    known = {claim.name: claim for claim in claims.claims()}
    assert set(records) <= {*known, claims.DEMO}
    measured = [record for name, found in records.items() if name != claims.DEMO for record in found]
    assert len({(record["claim"], record["seed"]) for record in measured}) == len(measured) >= 9
    for record in measured:
        recipe = claims.recipe_of(known[record["claim"]], record["seed"])
        assert claims.essence(recipe) == record["recipe"], f"{record['claim']} has changed since it was measured"


def test_what_the_readme_says_in_words_holds_in_every_seed(claims: Any) -> None:
    records = claims.read_records()
    assert [record["seed"] for record in records["quickstart"]] == [0, 1, 2]
    assert [line for claim in claims.claims() for line in claims.does_not_hold(claim, records)] == []


def test_the_command_of_a_claim_stands_in_the_head_of_its_recipe(claims: Any) -> None:
    for claim in claims.claims():
        head = (REPOSITORY / f"recipes/{claim.script}.py").read_text(encoding="utf-8").split('"""')[1]
        command = " ".join(["python", f"recipes/{claim.script}.py", *claim.overrides])
        assert command in re.sub(r"\s*\\?\n\s*", " ", head), claim.name


def test_every_recipe_has_a_claim(claims: Any) -> None:
    makers = {"gan_augmentation", "pretrain_bert_nano"}  # scripts that make pictures and a checkpoint, and no run
    recipes = {path.stem for path in (REPOSITORY / "recipes").glob("*.py")} - makers
    assert {claim.script for claim in claims.claims()} == recipes


def test_no_head_has_a_decimal_number_beside_its_measured_ones() -> None:
    for path in (REPOSITORY / "recipes").glob("*.py"):
        head = path.read_text(encoding="utf-8").split('"""')[1]
        prose = [
            part
            for part in re.sub(r"^Measured:.*?\n\n", "", head, flags=re.DOTALL | re.MULTILINE).split("\n\n")
            if not part.startswith("    ")
        ]
        assert re.findall(r"0\.\d\d+", "\n\n".join(prose)) == [], path.name


# --- how it is made -----------------------------------------------------------------------------------------------------------


def test_a_spread_is_the_mean_with_the_lowest_and_the_highest(claims: Any) -> None:
    assert claims.spread([0.9, 0.96, 0.93]) == "0.930 (0.900 to 0.960)"
    assert claims.spread([0.9]) == claims.spread([0.9, 0.9]) == "0.900"


def test_what_the_rows_leave_is_half_a_95_percent_interval(claims: Any) -> None:
    # p = 0.9 and n = 225: sqrt(0.9 * 0.1 / 225) = 0.3 / 15 = 0.02; 1.96 times that.
    found = [record(seed, accuracy, test={"accuracy": accuracy, "n": 225}) for seed, accuracy in enumerate((0.85, 0.95))]
    assert claims.chance(found) == pytest.approx(0.0392)


def test_a_row_of_the_table_is_worked_out_from_its_runs(claims: Any) -> None:
    known = claims.claims()[:2]
    made = claims.table(known, {"quickstart": [record(0, 0.9), record(1, 0.96), record(2, 0.93)]})
    # sqrt(0.93 * 0.07 / 300) = 0.01473; 1.96 times that is 0.029. Minutes 1, 2 and 3: the median is 2.
    assert "| 0.930 (0.900 to 0.960) | 3 | 300 | 0.029 | 1 | 2.0 |" in made
    assert "EPYC, 2 cores, bf16, commit 0123456, 2026-11-20 to 2026-11-22" in made
    assert "alone they take less time" not in made
    absent = "quickstart (photos of clothes, 5 classes, 60 of each; MobileNetV2 from random weights)"
    assert f"Not measured yet by the code as it is: {absent}." in " ".join(made.split())


def test_one_run_is_called_one_run(claims: Any) -> None:
    head = claims.head("quickstart", claims.claims(), {"quickstart": [record(0, 0.9)]})
    assert "test accuracy 0.900, n = 300" in " ".join(head.split()) and "seed 0 alone, 1 thread." in " ".join(head.split())
    assert claims.head("quickstart", claims.claims(), {}).startswith("Measured: not yet")


def test_a_number_of_a_changed_working_tree_says_so(claims: Any) -> None:
    assert (claims.short("0123456789+changes"), claims.short("0123456789")) == ("0123456+changes", "0123456")


def test_a_claim_that_a_seed_contradicts_is_named(claims: Any) -> None:
    (claim, *_) = claims.claims()
    equal = {"head": 0.8, "top": 0.8, "all": 0.9}
    wrong = [{"input": "Dull.", "expected": "negative", "label": "positive"}]
    ours = [record(0, 0.9), record(1, 0.9, validation_by_stage=equal), record(2, 0.9, answers=wrong)]
    scratch = [record(seed, 0.75 + 0.01 * seed, claim="quickstart_from_scratch") for seed in range(3)]
    found = claims.does_not_hold(claim, {"quickstart": ours, "quickstart_from_scratch": scratch})
    assert found == [
        f"quickstart, seed 1: not every stage is better than the one before: {equal}",
        'quickstart, seed 2: "Dull." is positive',
        "quickstart, seed 1: 0.140 from the same network from scratch, 0.15 was to be reached",
        "quickstart, seed 2: 0.130 from the same network from scratch, 0.15 was to be reached",
    ]


def test_a_file_without_a_place_for_its_numbers_is_refused(claims: Any) -> None:
    with pytest.raises(ValueError, match="begin: claims"):
        claims.replace_between("a page", "claims", "text")
    with pytest.raises(ValueError, match="no paragraph"):
        claims.with_head('"""A recipe.\n\n    python x\n"""', "Measured: 1.")
    assert (
        claims.with_head('"""A.\n\nMeasured: old\nold.\n\n    python x\n"""', "Measured: 1.")
        == '"""A.\n\nMeasured: 1.\n\n    python x\n"""'
    )


def test_a_recipe_is_measured_again_when_its_training_changes_and_not_when_its_card_does(claims: Any) -> None:
    (claim, *_) = claims.claims()
    before = claims.essence(claims.recipe_of(claim, 0))
    assert before["data"]["source"] == "hftl/samples/clothes"  # no place on a machine
    assert claims.essence(claims.recipe_of(replace(claim, overrides=("card.title=Other",)), 0)) == before
    assert claims.essence(claims.recipe_of(replace(claim, overrides=("stages.all.epochs=9",)), 0)) != before
    assert claims.essence(claims.recipe_of(claim, 1)) != before
