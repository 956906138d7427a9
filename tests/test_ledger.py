"""The sealed test split: --no-test, `hftl test`, and the ledger of openings that all runs of a user share."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from conftest import Hftl
from rich.console import Console
from run_factory import make_recipe, make_run, opening, whole_data
from scipy.stats import binomtest
from small import nano, reviews, train

from hftl.data.source import load_splits
from hftl.errors import RecipeError, RunError
from hftl.evaluation.openings import count_openings, said_of_openings
from hftl.files import append_json_line, read_json, read_json_lines, write_json, write_text
from hftl.ledger import ledger_path, note_opening, read_ledger, recipe_digest
from hftl.names import Chooser
from hftl.recipe import Stage, TextData, override
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.sharing.card import render_card, write_card
from hftl.sharing.verify import require_verified, verify
from hftl.training import engine, finish, finished

RECIPE = nano(
    "tiny",
    reviews(24),
    {"head": Stage(unfreeze="head", lr=1e-3)},
)


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HFTL_LEDGER", str(tmp_path / "ledger" / "openings.jsonl"))
    return tmp_path / "ledger" / "openings.jsonl"


def begun(path: Path, rows: str, *changes: str, train: str = "train") -> RunDirectory:
    """A run with these test rows, which are still shut."""
    run = RunDirectory(path)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_recipe(override(RECIPE, changes))
    write_json(run.data, whole_data(test_rows=rows, contents={"train": train, "validation": "validation"}))
    return run


def opened(path: Path, rows: str, *changes: str, times: int = 1, train: str = "train") -> RunDirectory:
    """A run whose test split, of these rows, was opened."""
    run = begun(path, rows, *changes, train=train)
    for _ in range(times):
        assert note_opening(run, rows=rows, by="hftl train", purpose="train") is None
    return run


# --- the ledger ---------------------------------------------------------------------------------------------------------------


def test_the_ledger_knows_the_openings_of_all_runs_and_tells_rows_apart(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "a", "photos"), opened(tmp_path / "b", "photos", times=2)
    other = opened(tmp_path / "c", "reviews")
    for run, openings, runs in ((first, 3, 2), (second, 3, 2), (other, 1, 1)):
        assert count_openings(run) is None
        counted = read_json(run.test_ledger)
        assert (counted["openings"], counted["runs"]) == (openings, runs)


def test_the_ledger_counts_recipes_by_what_training_depends_on(tmp_path: Path, ledger: Path) -> None:
    first = opened(tmp_path / "a", "photos", times=3)
    opened(tmp_path / "b", "photos", "name=other", "data.source=elsewhere/", "card.license=mit", "run.log_every=7")  # the same
    opened(tmp_path / "c", "photos", "stages.head.lr=1e-2")
    opened(tmp_path / "d", "photos", "run.seed=1")
    opened(tmp_path / "e", "photos", train="other rows")
    count_openings(first)
    found = read_json(first.test_ledger)
    assert (found["openings"], found["runs"], found["recipes"]) == (7, 5, 4)
    append_json_line(ledger, {"time": "then", "by": "hftl train", "run": "other", "rows": "photos"})  # no digest: not hftl's
    count_openings(first)
    assert read_json(first.test_ledger)["recipes"] == 4 and (read_ledger()[1] or "").endswith(
        "damaged lines, which were not counted: 1"
    )


def test_a_run_that_a_later_version_digests_otherwise_is_still_one_recipe(tmp_path: Path, ledger: Path) -> None:
    run = opened(tmp_path / "a", "photos")
    line = next(read_json_lines(ledger))
    append_json_line(ledger, {**line, "recipe": "another digest"})
    count_openings(run)
    assert [read_json(run.test_ledger)[key] for key in ("openings", "runs", "recipes")] == [2, 1, 1]


def test_a_run_that_took_the_place_of_another_is_another_run(tmp_path: Path) -> None:
    shutil.rmtree(opened(tmp_path / "run", "photos").path)
    again = opened(tmp_path / "run", "photos")
    count_openings(again)
    assert read_json(again.test_ledger)["runs"] == 2


def test_a_run_that_has_not_opened_its_test_split_has_no_count(tmp_path: Path) -> None:
    opened(tmp_path / "a", "photos")
    shut = begun(tmp_path / "shut", "photos")
    assert count_openings(shut) is None and not shut.test_ledger.exists()


def test_a_ledger_that_cannot_be_written_or_read_is_said_and_ends_nothing(tmp_path: Path, ledger: Path) -> None:
    run = begun(tmp_path / "run", "photos")
    ledger.mkdir(parents=True)  # a folder where the file should be
    assert "cannot be written (Is a directory), so other runs do not learn" in str(
        note_opening(run, rows="photos", by="hftl train", purpose="train")
    )
    assert "How often other runs have opened these test rows is not known" in str(count_openings(run))
    assert [record["by"] for record in read_json_lines(run.test_openings)] == ["hftl train"]
    assert not run.test_ledger.exists()


def test_a_line_that_a_full_disk_has_cut_short_costs_itself_alone(tmp_path: Path, ledger: Path) -> None:
    first = opened(tmp_path / "a", "photos")
    with ledger.open("a") as stream:
        stream.write('{"rows": "photos", "run": "b')
    opened(tmp_path / "c", "photos")
    assert str(count_openings(first)).endswith("openings.jsonl: damaged lines, which were not counted: 1")
    assert read_json(first.test_ledger)["runs"] == 2


def test_a_home_that_is_not_there_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HFTL_LEDGER", "~no such user/openings.jsonl")
    opened(tmp_path / "run", "photos")


def test_a_run_that_was_copied_is_one_run_with_all_of_its_openings(tmp_path: Path) -> None:
    run = opened(tmp_path / "run", "photos")
    copy = RunDirectory(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    for each in (run, copy):
        note_opening(each, rows="photos", by="hftl evaluate", purpose="again")
    count_openings(run)
    assert {key: read_json(run.test_ledger)[key] for key in ("openings", "runs")} == {"openings": 3, "runs": 1}


def test_the_ledger_lies_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HFTL_LEDGER")
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert ledger_path() == Path("/somewhere/hftl/test_openings.jsonl")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert ledger_path() == Path.home() / ".local/share/hftl/test_openings.jsonl"


def test_rows_are_known_again_in_another_order_and_under_other_names(tmp_path: Path) -> None:
    rows = [{"text": f"review number {number}", "label": ("bad", "good")[number % 2]} for number in range(12)]
    keys = []
    for name, test in (("a", rows[:6]), ("b", rows[5::-1]), ("c", rows[1:7])):
        folder = tmp_path / name
        for split, part in (("train", rows[6:] if name != "c" else rows[7:]), ("test", test)):
            write_text(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in part))
        keys.append(load_splits(TextData(source=str(folder), validation_fraction=0.3), seed=0).facts["test_rows"])
    assert keys[0] == keys[1] != keys[2]


# --- shut, and opened later ---------------------------------------------------------------------------------------------------


def test_a_run_without_test_keeps_it_shut_until_it_is_opened_once(tmp_path: Path, hftl: Hftl, ledger: Path) -> None:
    path, sealed = tmp_path / "run", tmp_path / "recipe.yaml"
    write_text(sealed, RECIPE.to_yaml())
    trained = hftl("train", sealed, "--no-test", "--run-dir", path)
    assert trained.code == 0, trained.err
    run = RunDirectory(path)
    assert f"the test split stays shut (n = 19); to open it, once:  hftl test {path}" in trained.err
    assert set(read_json(run.metrics)) == {"validation"} and run.load_recipe().run.test == "sealed"
    assert not run.test_openings.exists() and not ledger.exists() and not run.predictions("test").exists()
    assert "**The test split has not been opened.**" in run.card.read_text(encoding="utf-8")
    assert not verify(run).failed
    refused = hftl("evaluate", path, "--split", "test")
    assert refused.code == 2 and f"its test split is sealed; to open it, once:  hftl test {path}" in refused.err

    whole = train(RECIPE, tmp_path / "whole")
    tested = hftl("test", path)
    assert tested.code == 0, tested.err
    assert "test (these rows were opened 2 times by 2 runs): accuracy" in tested.out
    assert read_json(run.metrics) == read_json(whole.metrics)  # as if it had been opened at once
    assert {figure.name for figure in run.figures.iterdir()} == {figure.name for figure in whole.figures.iterdir()}
    assert [record["by"] for record in read_json_lines(run.test_openings)] == ["hftl test"]
    card = run.card.read_text(encoding="utf-8")
    assert "**These test rows were opened 2 times by 2 runs** of one user on one machine" in card
    assert "**Accuracy on the test split:" in card and not verify(run).failed

    again = hftl("test", path)
    assert again.code == 2 and "its test split was opened already" in again.err and "--split test" in again.err
    assert len(ledger.read_text().splitlines()) == 2


def test_a_run_that_was_changed_after_training_is_not_tested(tmp_path: Path) -> None:
    run = train(override(RECIPE, ["run.test=sealed"]), tmp_path / "run")
    weights = run.model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunError, match=r"model\.safetensors: not as training sealed it"):
        finished.open_test(run, say=lambda line: None)
    assert not run.test_openings.exists()


def test_an_opening_that_was_cut_short_goes_on_and_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(override(RECIPE, ["run.test=sealed"]), tmp_path / "run")

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(finish, "predict_logits", interrupted)
        finished.open_test(run, say=lambda line: None)
    assert "by hftl test, and its results were not written.**" in render_card(run)
    finished.open_test(run, say=lambda line: None)
    assert [record["by"] for record in read_json_lines(run.test_openings)] == ["hftl test", "hftl test, continued"]
    write_card(run)
    said = "It was interrupted before the numbers were written, and opened it again when it was continued"
    assert said in run.card.read_text(encoding="utf-8")


def test_a_run_without_a_test_split_has_none_to_open(tmp_path: Path) -> None:
    recipe = override(RECIPE, ["data.test_split=none"])
    run = train(recipe, tmp_path / "run")
    assert "**There is no test split.**" in render_card(run)
    with pytest.raises(RunError, match='have no split "test"'):
        finished.open_test(run, say=lambda line: None)


def test_test_split_none_also_shuts_the_part_that_test_fraction_sets_aside(tmp_path: Path, ledger: Path) -> None:
    recipe = override(RECIPE, ["data.test_split=none", "data.test_fraction=0.2"])
    open_part = load_splits(override(RECIPE, ["data.test_fraction=0.2", f"data.source={REVIEWS}/train.jsonl"]).data, seed=0)
    said = io.StringIO()
    run = engine.train(recipe, RunDirectory(tmp_path / "run"), console=Console(file=said, width=300))
    assert "the test split stays shut (n = 19); to open it, once" in said.getvalue() and not ledger.exists()
    data = read_json(run.data)
    assert data["test"] == "made from train: 20 %, stratified, the same for every seed (left shut by training)"
    assert data["contents"] == open_part.facts["contents"]  # the same rows as where it is opened, and not trained on
    assert "**The test split has not been opened.**" in render_card(run)
    finished.open_test(run, say=lambda line: None)
    assert set(read_json(run.metrics)) == {"validation", "test"}


def test_a_stopped_run_may_be_sealed_when_it_goes_on_but_not_unsealed(tmp_path: Path) -> None:
    from hftl.training.checks import check_run_directory

    run, sealed = RunDirectory(tmp_path), override(RECIPE, ["run.test=sealed"])
    write_text(run.recipe, RECIPE.to_yaml())
    check_run_directory(run, sealed, resume=True)
    append_json_line(run.test_openings, {"time": "2026-11-20T10:00:00+00:00", "purpose": "train", "by": "hftl train"})
    with pytest.raises(RunError, match=r"run\.test: open -> sealed"):  # what was seen is not unseen
        check_run_directory(run, sealed, resume=True)
    write_text(run.recipe, sealed.to_yaml())
    with pytest.raises(RunError, match=r"run\.test: sealed -> open"):
        check_run_directory(run, RECIPE, resume=True)


def test_the_recipe_says_which_values_there_are() -> None:
    with pytest.raises(RecipeError, match=r"run\.test"):
        override(RECIPE, ["run.test=shut"])


# --- the card -----------------------------------------------------------------------------------------------------------------


def test_the_card_counts_the_openings_by_all_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_json(run.test_ledger, {"time": "2026-11-20T10:11:13+00:00", "openings": 1, "runs": 1, "recipes": 1})
    assert "**The test split was opened once**, at 2026-11-20T10:11:12+00:00 by hftl train." in render_card(run)
    write_json(run.test_ledger, {"time": "2026-11-25T09:00:00+00:00", "openings": 3, "runs": 3, "recipes": 3})
    card = render_card(run)
    assert "opened once**" not in card
    assert "**These test rows were opened 3 times by 3 runs** of one user on one machine, until 2026-11-25T09:00:00+00:00." in card
    assert "This run opened them once, at 2026-11-20T10:11:12+00:00 by hftl train." in card
    append_json_line(run.test_openings, opening(time="2026-11-25T08:00:00+00:00", purpose="again", by="hftl evaluate"))
    assert "This run opened them 2 times:" in render_card(run)
    run.test_ledger.unlink()
    assert "How often other runs have opened the same rows is not recorded." in render_card(run)


def beside_others(path: Path, ledger: Path, *, others: int, metric: Chooser = "accuracy") -> RunDirectory:
    """A finished run whose test rows so many other recipes have opened."""
    recipe = make_recipe()
    run = make_run(path, recipe=recipe.model_copy(update={"run": recipe.run.model_copy(update={"metric": metric})}))
    write_json(run.data, {**read_json(run.data), "test_rows": "reviews"})
    for number in range(others):
        append_json_line(ledger, {"rows": "reviews", "run": f"run {number}", "recipe": f"recipe {number}"})
    return run


def test_the_interval_is_widened_for_the_recipes_that_were_tested_on_the_same_rows(tmp_path: Path, ledger: Path) -> None:
    ledger.parent.mkdir()
    run = beside_others(tmp_path / "run", ledger, others=3)
    assert count_openings(run) is None
    counted, values = read_json(run.test_ledger), read_json(run.metrics)["test"]
    assert (counted["openings"], counted["recipes"]) == (4, 4)
    hits = round(values["accuracy"] * values["n"])
    found = binomtest(hits, values["n"]).proportion_ci(confidence_level=0.9875, method="wilson")
    assert counted["widened"]["level"] == pytest.approx(0.9875)  # 1 - 0.05/4
    assert counted["widened"]["intervals"] == {"accuracy": pytest.approx([found.low, found.high])}
    card = write_card(run).read_text(encoding="utf-8")
    assert f"n = 160; widened for 4 recipes tested on the same rows: {found.low:.3f} to {found.high:.3f})" in card
    assert "**These test rows were opened 4 times by 4 runs of 4 recipes** of one user" in card
    assert f"Widened for it: accuracy {found.low:.3f} to {found.high:.3f}. Each of 4 recipes has an interval of the level" in card
    assert "1 − 0.05/4 = 98.75 %, so that all of them hold at once with 95 % (Bonferroni)" in card
    assert next(said_of_openings(run)) == (
        "  these test rows have been opened 4 times by 4 recipes; widened for that (Bonferroni, 98.75 % each):"
        f" accuracy [{found.low:.4f}, {found.high:.4f}]"
    )
    assert not verify(run, figures=False).failed


def test_one_recipe_has_nothing_to_widen_however_often_it_was_tested(tmp_path: Path, ledger: Path) -> None:
    ledger.parent.mkdir()
    run = beside_others(tmp_path / "run", ledger, others=0)
    append_json_line(ledger, {"rows": "reviews", "run": "the same with another seed of nothing", "recipe": recipe_digest(run)})
    assert count_openings(run) is None
    assert [read_json(run.test_ledger).get(key) for key in ("runs", "recipes", "widened")] == [2, 1, None]
    assert "idened" not in render_card(run) and "by 2 runs** of one user" in render_card(run)
    assert not [*said_of_openings(run)]


def test_the_metric_that_chose_the_weights_is_widened_too(tmp_path: Path, ledger: Path) -> None:
    ledger.parent.mkdir()
    run = beside_others(tmp_path / "run", ledger, others=1, metric="macro_f1")
    count_openings(run)
    found, values = read_json(run.test_ledger)["widened"]["intervals"], read_json(run.metrics)["test"]
    assert list(found) == ["accuracy", "macro_f1"]
    assert found["macro_f1"][0] < values["macro_f1_interval"][0] < values["macro_f1_interval"][1] < found["macro_f1"][1]
    assert "macro F1 {:.3f} to {:.3f}. Each of 2 recipes".format(*found["macro_f1"]) in write_card(run).read_text(encoding="utf-8")
    assert not verify(run, figures=False).failed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipes": 5}, "test_ledger.json, recipes: 5; recomputed: 1 to as many as runs"),
        ({"recipes": 1}, "test_ledger.json, widened: "),
        ({"widened": None}, "test_ledger.json, widened: undefined; recomputed: "),
        ({"widened": {"level": 0.95, "intervals": {"accuracy": [0.9, 0.91]}}}, "widened.intervals.accuracy[0]: 0.9; recomputed: "),
        ({"openings": 10**200, "runs": 10**200, "recipes": 10**200}, "recomputed: 1 to as many as runs"),
    ],
    ids=["more than runs", "one alone", "left out", "narrower", "without end"],
)
def test_a_ledger_that_hides_how_many_recipes_were_tested_does_not_hold(
    tmp_path: Path, ledger: Path, change: dict[str, object], said: str
) -> None:
    ledger.parent.mkdir()
    run = beside_others(tmp_path / "run", ledger, others=3)
    count_openings(run)
    changed = {key: value for key, value in {**read_json(run.test_ledger), **change}.items() if value is not None}
    write_json(run.test_ledger, changed)
    write_card(run)
    with pytest.raises(RunError, match="these claims do not hold") as refused:
        require_verified(run)
    assert said in str(refused.value)
