"""The leaderboard: every run and study below a folder, from its files alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console
from run_factory import make_recipe, make_run, opening

import hftl
from hftl.errors import RecipeError, RunError
from hftl.files import append_json_line, read_json, write_json, write_text
from hftl.recipe import override
from hftl.run import RunDirectory
from hftl.studies.runs import Runs
from hftl.studies.trials import Trial

PHOTOS = "cd" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, one that was sealed, one unfinished, a study with three trials, three that are broken, and a recipe."""
    path = tmp_path_factory.mktemp("runs")
    for name, seed, changes in (("bert", 0, []), ("slow", 1, ["stages.all.lr=1e-5"]), ("sealed", 2, ["run.test=sealed"])):
        recipe = override(make_recipe(), [f"name={name}", *changes])
        run = make_run(path / name, recipe=recipe, seed=seed, test=name != "sealed", n=100)
        if name != "sealed":
            write_json(run.data, {**read_json(run.data), "test_rows": PHOTOS})
        write_text(run.test_openings, "")
        for _ in range({"bert": 2, "slow": 1, "sealed": 0}[name]):
            append_json_line(run.test_openings, opening(run=name))
        environment = read_json(run.environment)
        write_json(run.environment, {**environment, "time": f"2026-11-{10 + seed}T00:00:00+00:00", "seconds": 60.0 + seed})
    unfinished = RunDirectory(path / "deep" / "er" / "unfinished")
    unfinished.path.mkdir(parents=True)
    unfinished.write_recipe(override(make_recipe("timm"), ["name=unfinished"]))
    write_json(unfinished.plan, {})
    study = path / "study"
    for part, value in (("a-seed0", 0.7), ("b-seed0", 0.8), ("b-seed1", 0.9)):
        trial = RunDirectory(study / "trials" / part)
        trial.path.mkdir(parents=True)
        trial.write_recipe(override(make_recipe(), [f"name={part}", "run.test=sealed"]))
        write_json(trial.plan, {})
        write_json(trial.trial, asdict(Trial(part, "complete", value, {"accuracy": value}, seconds=5.0)))
    write_text(study / "recipe.yaml", make_recipe().to_yaml())
    write_text(study / "study.yaml", "kind: ablate\nover: [staged, flat]\n")
    for name, file, text in (
        ("torn", "recipe.yaml", "name: [unclosed"),
        ("garbled", "metrics.json", '{"validation": '),
        ("shapeless", "trial.json", '{"seconds": []}'),
    ):
        broken = RunDirectory(path / "broken" / name)
        broken.path.mkdir(parents=True)
        broken.write_recipe(make_recipe())
        write_json(broken.plan, {})
        write_text(broken.path / file, text)
    write_text(path / "notes" / "recipe.yaml", make_recipe().to_yaml())  # a recipe is no run
    return path


def names(found: Runs) -> list[str]:
    return [row.path.name for row in found.rows]


def test_the_list_has_every_run_and_study_and_says_what_is_broken(folder: Path) -> None:
    found = hftl.runs(folder)
    assert sorted(names(found)) == ["bert", "sealed", "slow", "study", "unfinished"]
    states = {row.path.name: (row.kind, row.state) for row in found.rows}
    assert states["study"] == ("ablate", "unfinished") and states["unfinished"] == ("run", "unfinished")
    assert len(found.problems) == 3
    for name in ("torn", "garbled", "shapeless"):
        assert any(f"broken/{name}" in problem for problem in found.problems)
        assert f"broken/{name}" in str(found)


def test_the_trials_of_studies_are_listed_on_demand(folder: Path) -> None:
    found = hftl.runs(folder, trials=True, where=["kind=trial"], sort="accuracy")
    assert [(row.path.name, row.state) for row in found.rows] == [
        (trial, "complete") for trial in ("b-seed1", "b-seed0", "a-seed0")
    ]
    study = next(row for row in hftl.runs(folder).rows if row.kind == "ablate")
    assert (study.trials, study.validation["accuracy"], study.seconds) == (3, pytest.approx(0.85), 15.0)  # the better arm's mean


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["data=imdb", "kind=run"], ["sealed", "slow", "bert"]),
        (["data=stanfordnlp/imdb", "state=finished"], ["sealed", "slow", "bert"]),
        (["data!=imdb"], ["unfinished"]),
        (["model~NANO", "kind=run"], ["sealed", "slow", "bert"]),
        (["stages.all.lr=0.00001"], ["slow"]),
        (["stages.all.lr>1e-5", "seconds<62", "kind=run"], ["bert"]),
        (["opened>=1"], ["slow", "bert"]),
        (["test.accuracy>0"], ["slow", "bert"]),
        (["date>=2026-11-11", "date<=2026-11-11"], ["slow"]),
        (["accuracy>2"], []),
    ],
)
def test_conditions_choose_by_recipe_metrics_and_columns(folder: Path, where: list[str], expected: list[str]) -> None:
    assert names(hftl.runs(folder, where=where)) == expected


def test_a_metric_sorts_the_best_first_and_what_lacks_it_last(folder: Path) -> None:
    found = hftl.runs(folder, sort="accuracy")
    values = [row.validation["accuracy"] for row in found.rows[:-1]]
    assert "accuracy" not in found.rows[-1].validation and values == sorted(values, reverse=True)
    losses = [row.validation["log_loss"] for row in hftl.runs(folder, where=["state=finished"], sort="log_loss").rows]
    assert losses == sorted(losses)
    assert names(hftl.runs(folder, where=["state=finished"], sort="seconds")) == ["bert", "slow", "sealed"]


@pytest.mark.parametrize(
    ("where", "sort", "message"),
    [
        (["accuracy"], "date", "is no condition"),
        (["accuracy>high"], "date", '"high" is not a number'),
        (["acuracy>0.8"], "date", r'no run here has "acuracy".* Did you mean "accuracy"'),
        ([], "stages.all.rate", "no run here has"),
    ],
)
def test_a_condition_that_is_none_is_refused(folder: Path, where: list[str], sort: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        hftl.runs(folder, where=where, sort=sort)


def test_no_such_folder_is_said_and_an_empty_one_is_an_empty_list(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        hftl.runs(tmp_path / "gone")
    assert names(hftl.runs(tmp_path)) == [] and "no run" in str(hftl.runs(tmp_path))


def test_openings_are_counted_from_the_runs_and_from_the_ledger(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    monkeypatch.setenv("HFTL_LEDGER", str(ledger))
    assert "have been opened 3 times by 2 recipes. Whoever picks" in str(hftl.runs(folder))
    for run, recipe in (("bert", "x"), ("elsewhere", "x"), ("elsewhere", "x"), ("another", "y")):
        append_json_line(ledger, {"run": run, "rows": PHOTOS, "recipe": recipe})
    found = {row.path.name: row for row in hftl.runs(folder).rows}  # bert 2, slow 1, elsewhere 2, another 1; x, slow and y
    counted = found["bert"].of_rows
    assert counted is not None and (counted.openings, counted.runs, counted.recipes) == (6, 4, 3)
    assert found["bert"].opened == 2 and found["sealed"].of_rows is None
    assert names(hftl.runs(folder, where=["recipes=3"])) == ["slow", "bert"]


def test_the_json_has_all_of_it_and_the_table_a_column_for_each_key(folder: Path) -> None:
    found = hftl.runs(folder)
    values = json.loads(json.dumps(found.to_dict()))
    assert len(values["rows"]) == 5 and len(values["problems"]) == 3
    assert {"validation.accuracy", "stages.all.lr", "data", "model", "rows_opened"} <= set(found.table.columns)


def test_the_list_starts_without_a_heavy_library(folder: Path) -> None:
    code = (
        f"import sys, hftl\nfound = hftl.runs({str(folder)!r})\nstr(found)\n"
        "print(len(found.rows), *(name for name in ('torch', 'numpy', 'pandas', 'transformers', 'scipy') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.split() == ["5"]


def test_a_study_without_trials_has_no_time_and_a_baseline_has_its_best_method(tmp_path: Path) -> None:
    for name, kind in (("rates", "find-lr"), ("simple", "baseline")):
        write_text(tmp_path / name / "recipe.yaml", make_recipe().to_yaml())
        write_text(tmp_path / name / "study.yaml", f"kind: {kind}\n")
    write_text(tmp_path / "simple" / "table.csv", 'baseline,accuracy,seconds\nmajority,0.25,0.0\n"words, SVM",0.75,2.5\n')
    rows = {row.path.name: row for row in hftl.runs(tmp_path).rows}
    assert rows["simple"].validation == {"accuracy": 0.75} and rows["rates"].validation == {}
    assert {row.seconds for row in rows.values()} == {None}


def test_no_name_is_cut_in_a_narrow_terminal(folder: Path) -> None:
    def shown(width: int) -> str:
        console = Console(width=width, file=io.StringIO())
        console.print(hftl.runs(folder))
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    narrow, wide = shown(80), shown(140)
    assert "deep/er/unfinished [unfinished]" in narrow and "(ablate, 3 trials)" in narrow and "\u2026" not in narrow
    assert "A terminal of 130 columns shows data, stages, openings, time and date too" in narrow
    assert all(len(line) <= 80 for line in narrow.split("\n\n")[0].splitlines())
    assert "opened" in wide and "A terminal of" not in wide
