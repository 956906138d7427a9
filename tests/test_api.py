"""The Python door: a run from data in memory, what it says and does, and its model on other rows.

One small run is trained, from DataFrames, its test split sealed; the tests of this file look at it in their order.
"""

from __future__ import annotations

import ast
import io
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Hftl
from rich.console import Console
from small import BERT_NANO, quiet

import hftl
from hftl.defaults import default_recipe
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json, write_json
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.sharing import hub
from hftl.sharing.publication import prepare
from hftl.sharing.verify import verify

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def reviews(split: str) -> pd.DataFrame:
    return pd.read_json(f"{REVIEWS}/{split}.jsonl", lines=True).rename(columns={"text": "review"})


def recipe(source: Any, **settings: Any) -> hftl.Recipe:
    return hftl.Recipe(
        name="from-memory",
        data=hftl.TextData(source=source, text_column="review", max_length=32, validation_fraction=0.2),
        model=hftl.Transformer(checkpoint=BERT_NANO),
        stages={"head": hftl.Stage(unfreeze="head", lr=5e-3, epochs=2)},
        run=hftl.RunSettings(batch_size=16, precision="fp32", **settings),
        card=hftl.Card(license="mit", dataset_name="some reviews"),
    )


@pytest.fixture(scope="module")
def source() -> dict[str, pd.DataFrame]:
    return {"train": reviews("train").head(60), "test": reviews("test").head(20)}


@pytest.fixture(scope="module")
def run(source: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> hftl.Run:
    before = [signal.getsignal(number) for number in SIGNALS]
    trained = hftl.train(recipe(source, test="sealed"), run_dir=tmp_path_factory.mktemp("runs") / "from-memory", console=quiet())
    assert [signal.getsignal(number) for number in SIGNALS] == before
    return trained


# --- data in memory -----------------------------------------------------------------------------------------------------------


def test_a_run_has_the_rows_that_were_in_memory_beside_it_and_its_recipe_is_data(run: hftl.Run) -> None:
    assert run.recipe.data.source == str(run.path / "rows")
    assert sorted(path.name for path in (run.path / "rows").iterdir()) == ["test.parquet", "train.parquet"]
    assert len(pd.read_parquet(run.path / "rows" / "train.parquet")) == 60
    assert run.metrics.keys() == {"validation"} and run.metrics["validation"]["n"] == 12
    assert run.recipe.card.dataset_name == "some reviews"  # the rows have moved, and the fact is still about them
    assert "some reviews" in run.paths.card.read_text()


def test_the_same_rows_may_be_given_again_and_others_are_refused(run: hftl.Run, source: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(hftl.RunError, match="holds a finished run, which is never written over"):
        hftl.train(recipe(source, test="sealed"), run_dir=run.path, console=quiet())
    others = {**source, "train": reviews("train").tail(60)}
    with pytest.raises(hftl.RunError, match="rows: holds other rows than those that were given now"):
        hftl.train(recipe(others, test="sealed"), run_dir=run.path, resume=True, console=quiet())


def test_rows_that_are_refused_leave_nothing_behind(tmp_path: Path) -> None:
    one_class = reviews("train").query("label == 'positive'")
    with pytest.raises(hftl.DataError, match="one class only"):
        hftl.train(recipe(one_class), run_dir=tmp_path / "run", console=quiet())
    assert list(tmp_path.iterdir()) == []


NUL = "a\0b"


@pytest.mark.parametrize(
    "call",
    [
        lambda run: hftl.train(run.recipe, run_dir=NUL),
        lambda run: hftl.fine_tune(REVIEWS, BERT_NANO, run_dir=NUL),
        lambda run: hftl.compare(run, NUL),
        lambda run: hftl.repeat(run.recipe, seeds=2, study_dir=NUL),
        lambda run: hftl.tune(run.recipe, ["stages.head.lr=1e-4|1e-3"], trials=1, study_dir=NUL),
        lambda run: hftl.Study(NUL),
        lambda run: hftl.pull("me/x", NUL),
        lambda run: run.predict(["Lovely."], output=NUL + ".csv"),
        lambda run: run.export("onnx", NUL),
        lambda run: hftl.compare(run, run.path.with_name("other")).write_flips(Path(NUL)),
    ],
)
def test_a_name_that_no_system_takes_is_one_message(
    run: hftl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[hftl.Run], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    if not run.path.with_name("other").exists():
        shutil.copytree(run.path, run.path.with_name("other"))
    with pytest.raises(hftl.RunError, match=r"'a\\x00b[.csv]*': no file or folder has a NUL character"):
        call(run)
    assert list(tmp_path.iterdir()) == []


def test_a_push_never_has_the_rows(run: hftl.Run) -> None:
    publication = prepare(run.paths, "me/reviews")
    assert not [name for name in publication.files if name.startswith("rows")]
    assert {"rows/test.parquet", "rows/train.parquet"} <= set(publication.left_out)
    assert "source: local:from-memory/rows" in publication.files["recipe.yaml"].read_text()


# --- a run --------------------------------------------------------------------------------------------------------------------


def test_a_run_shows_its_result_line_and_a_notebook_a_table(run: hftl.Run) -> None:
    values = run.metrics["validation"]
    line = f'Run("{run.path}"): validation accuracy {values["accuracy"]:.3f}'
    assert repr(run).startswith(line) and repr(run).endswith("(n = 12, majority 0.50)")
    shown = run._repr_html_()
    assert f"<tr><td>Accuracy</td><td>{values['accuracy']:.4f} [" in shown and "<th>validation, n = 12</th>" in shown


def test_what_a_stranger_wrote_is_escaped_in_a_notebook(tmp_path: Path) -> None:
    folder = tmp_path / "<script>x"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe("nowhere.csv").to_yaml())
    unfinished = hftl.load(folder)
    assert "<script>" not in unfinished._repr_html_() and "&lt;script&gt;x" in unfinished._repr_html_()
    assert repr(unfinished).endswith("not finished")


def test_history_and_predictions_are_tables(run: hftl.Run) -> None:
    evaluations = run.history[run.history["event"] == "evaluation"]
    assert evaluations["validation.accuracy"].max() == run.metrics["validation"]["accuracy"]
    assert "lr.head" in run.history.columns
    table = run.predictions("validation")
    assert list(table.columns) == ["id", "label", "prediction", "p(negative)", "p(positive)", "tokens"]
    assert (table["label"] == table["prediction"]).mean() == pytest.approx(run.metrics["validation"]["accuracy"])
    assert np.allclose(table["p(negative)"] + table["p(positive)"], 1)
    beside = run.predictions("validation", beside=run.path / "rows" / "train.parquet")
    assert list(beside)[:2] == ["id", "review"] and beside["prediction"].equals(table["prediction"])
    with pytest.raises(hftl.RunError, match="no predictions for test: it has no such split, or it is still sealed"):
        run.predictions("test")


def test_a_model_stays_loaded_and_a_word_that_is_a_files_name_is_a_text(
    run: hftl.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fine.txt").write_text("A joy.\nDull.\n")
    first, second = run.predict(["fine.txt", "A joy."])
    assert (first.input, second.input) == ("fine.txt", "A joy.")
    assert [one.input for one in run.predict(Path("fine.txt"))] == ["A joy.", "Dull."]
    assert run.predict("A joy.")[0].probabilities == pytest.approx(second.probabilities, abs=1e-5)
    assert run.predict(np.array(["A joy.", "Dull."]))[0].label == second.label
    model = run.model
    assert run.predict(pd.Series(["Dull."]))[0].input == "Dull." and run.model is model
    assert run.tokenizer("A joy.").input_ids[0] == run.tokenizer.cls_token_id
    with pytest.raises(hftl.DataError, match="2 problems in the inputs"):
        run.predict([3.5, Path("nowhere.txt")])


def test_a_model_of_pictures_takes_pictures_arrays_and_files(tmp_path: Path) -> None:
    from PIL import Image

    from hftl.models import build_classifier, save_classifier

    spec = hftl.Recipe(
        name="x",
        data=hftl.ImageData(source="x", image_size=32),
        model=hftl.Timm(checkpoint="test_resnet", pretrained=False),
        stages={"all": hftl.Stage(lr=1e-3)},
    )
    save_classifier(build_classifier(spec, ("a", "b"), texts=()), tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    model = hftl.load(tmp_path / "model")
    assert repr(model).endswith("a saved model")
    found = model.predict([pixels, Image.fromarray(pixels), tmp_path / "picture.png", str(tmp_path / "picture.png")])
    assert [one.input for one in found] == ["input 0", "input 1", *[str(tmp_path / "picture.png")] * 2]
    for one in found[1:]:
        assert one.probabilities == pytest.approx(found[0].probabilities, abs=1e-6)
    assert model.predict(pixels)[0].label == found[0].label
    with pytest.raises(hftl.DataError, match=r"an array of float64, .40, 40, 3., is no picture: uint8 is needed"):
        model.predict([pixels / 255])
    with pytest.raises(hftl.RunError, match="has no tokenizer"):
        _ = model.tokenizer


def test_a_misspelt_run_directory_is_not_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "reviews").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    said = r'^runs/revews: no such folder; a run of the Hub is written hub:runs/revews here\. Did you mean "runs/reviews"\?$'
    with pytest.raises(hftl.RunError, match=said):
        hftl.load("runs/revews")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(hftl.RunError, match="no such folder; a published run is written OWNER/NAME"):
        hftl.load(tmp_path / "nothing")
    with pytest.raises(hftl.RunError, match="a folder of this machine, which has no revision"):
        hftl.load(tmp_path, revision="main")
    with pytest.raises(hftl.RunError, match="no model here"):
        hftl.load(tmp_path).predict("A joy.")


def test_a_plan_and_an_audit_are_shown_as_tables(run: hftl.Run) -> None:
    planned = repr(hftl.plan(run.recipe))
    assert "group" in planned and "frozen" in planned and "48 training examples" in planned
    assert "near repeats" in repr(hftl.audit(run.recipe))


def test_the_command_line_and_the_door_give_the_same_files(run: hftl.Run, hftl_command: Hftl, tmp_path: Path) -> None:
    outcome = hftl_command("train", run.path, "--run-dir", tmp_path / "run")
    assert outcome.code == 0 and "the model card" in outcome.err, outcome.err
    again = hftl.load(tmp_path / "run")

    def files(of: hftl.Run) -> set[str]:
        paths = [path.relative_to(of.path) for path in of.path.rglob("*") if path.is_file()]
        return {path.as_posix() for path in paths if path.parts[0] not in {"rows", "evaluations"}}

    assert files(again) == files(run)
    one, other = (Predictions.load(of.paths.predictions("validation")) for of in (run, again))
    assert np.array_equal(one.logits, other.logits)
    compared = hftl.compare(run, again.path)
    assert compared.shared == 12 and len(compared.flips) == 0 and "12 rows" in repr(compared)


@pytest.fixture
def hftl_command(hftl: Hftl) -> Hftl:
    return hftl


# --- Ctrl-C -------------------------------------------------------------------------------------------------------------------


class Pressed(io.StringIO):
    """A terminal at which somebody presses Ctrl-C when the first epoch is told."""

    pressed = False

    def write(self, text: str) -> int:
        if "epoch 1/" in text and not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


def test_ctrl_c_saves_and_raises_keyboardinterrupt_and_the_run_goes_on_from_there(
    run: hftl.Run, source: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a notebook; under nohup it is another
    before = [signal.getsignal(number) for number in SIGNALS]
    assert threading.current_thread() is threading.main_thread()
    terminal = Pressed()
    with pytest.raises(KeyboardInterrupt, match=r"saved; continue with hftl\.load") as interrupted:
        hftl.train(recipe(source, test="sealed"), run_dir=tmp_path / "run", console=Console(file=terminal))
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert str(interrupted.value).endswith(f'hftl.load("{tmp_path / "run"}").resume()')
    assert "saved at step" in terminal.getvalue()
    resumed = hftl.load(tmp_path / "run").resume(console=quiet())
    one, other = (Predictions.load(of.paths.predictions("validation")) for of in (run, resumed))
    assert np.array_equal(one.logits, other.logits)


# --- other rows ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty reviews that the run has never seen, and all sixty that it was trained and validated on."""
    path = tmp_path_factory.mktemp("rows") / "may.csv"
    pd.concat([reviews("test").iloc[30:60], reviews("train").head(60)]).to_csv(path, index=False)
    return path


def test_a_model_is_evaluated_on_other_rows_and_those_it_was_trained_on_are_counted(
    run: hftl.Run, other_rows: Path, hftl_command: Hftl
) -> None:
    before = read_json(run.paths.metrics)
    outcome = hftl_command("evaluate", run.path, "--data", other_rows)
    assert outcome.code == 0, outcome.err
    assert "48 rows of 90 are also in the run's train split" in outcome.out
    folder = run.paths.evaluation("may")
    facts, metrics = read_json(folder / "data.json"), read_json(folder / "metrics.json")
    assert facts["seen"] == {"train": 48, "validation": 12, "test": 0} and facts["without"] == []
    predictions = Predictions.load(folder / "predictions.parquet")
    assert metrics["accuracy"] == pytest.approx(float((predictions.predicted == predictions.labels).mean()))
    assert metrics["accuracy_interval"][0] < metrics["accuracy"] < metrics["accuracy_interval"][1]
    assert read_json(run.paths.metrics) == before and not run.paths.test_openings.exists()
    card = run.paths.card.read_text()
    assert "## On other rows" in card and f"| may | 90 | {metrics['accuracy']:.3f} |" in card
    assert "The model was trained on 48 of these rows." in card and str(other_rows.parent) not in card


def test_a_class_without_a_row_is_said(run: hftl.Run) -> None:
    evaluated = run.evaluate(data=reviews("test").query("label == 'positive'").tail(9), name="june")
    assert 'without a row of "negative": nothing was measured about that' in repr(evaluated)
    assert evaluated.metrics["n"] == 9 and evaluated.metrics["auc"] is None and len(evaluated.predictions) == 9
    assert 'None of these rows was trained on. Classes without a row: "negative".' in run.paths.card.read_text()


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (lambda: reviews("test").tail(3).assign(label="odd"), {}, "classes that the model does not know: odd"),
        (lambda: reviews("test").tail(3).assign(label="Positive"), {}, 'the model writes "positive" for "Positive"'),
        (lambda: reviews("test").tail(3).rename(columns={"review": "text"}), {}, 'no column "review"'),
        (lambda: reviews("test").tail(3).assign(label=None), {}, "a blank label"),
        (lambda: {"one": reviews("test").tail(3), "two": reviews("test").head(3)}, {}, "several splits, and one is evaluated"),
        (lambda: reviews("test").head(20), {}, "these are the rows of its own test split, whose openings are counted"),
        (lambda: reviews("test").head(21), {}, "20 of these rows are in its test split, which is still sealed"),
        (lambda: reviews("test").tail(3), {"name": "june"}, 'has an evaluation "june" already'),
        (lambda: reviews("test").tail(3), {"name": "../june"}, "cannot name an evaluation"),
        (lambda: "nowhere.csv", {}, "no such file or folder"),
    ],
)
def test_rows_that_cannot_be_evaluated_are_refused_and_nothing_is_written(
    run: hftl.Run, rows: Callable[[], Any], options: dict[str, Any], expected: str
) -> None:
    before = run.paths.evaluations
    with pytest.raises(hftl.HftlError, match=expected):
        run.evaluate(data=rows(), **{"name": "july", **options})
    assert run.paths.evaluations == before


def test_verify_holds_the_numbers_on_other_rows_and_the_seal_of_their_files(run: hftl.Run) -> None:
    verdict = run.verify()
    assert verdict.failed == () and verdict.counts["evaluations"][0] > 100
    assert repr(verdict).splitlines()[-1].startswith("holds: all")
    path = run.paths.evaluation("may") / "metrics.json"
    stated = read_json(path)
    write_json(path, {**stated, "accuracy": 0.99})
    try:
        failed = {(claim.kind, claim.where) for claim in verify(run.paths, figures=False).failed}
        assert ("evaluations", "may.accuracy") in failed and ("files", "evaluations/may/metrics.json") in failed
        assert not any(kind == "README.md" for kind, _ in failed)  # the card still has the true number
        with pytest.raises(hftl.RunError, match="these claims do not hold"):
            run.push("me/reviews", dry_run=True, say=lambda line: None)
        with pytest.raises(hftl.RunError, match="not as training sealed it"):
            run.evaluate(data=reviews("test").tail(3), name="august")
    finally:
        write_json(path, stated)
    assert verify(run.paths, figures=False).failed == ()


def test_a_publication_has_the_evaluations_without_the_place_of_their_rows(run: hftl.Run, other_rows: Path) -> None:
    publication = prepare(run.paths, "me/reviews")
    assert {f"evaluations/may/{name}" for name in ("data.json", "metrics.json", "predictions.parquet")} <= set(publication.files)
    assert read_json(publication.files["evaluations/may/data.json"])["source"] == "local:may.csv"
    assert verify(RunDirectory(publication.folder), figures=False).failed == ()
    theirs = hftl.Run(RunDirectory(publication.folder))
    evaluated = theirs.evaluate(data=reviews("test").tail(9), name="mine", say=lambda line: None)
    assert evaluated.folder is None and "mine" not in theirs.paths.evaluations
    assert "is not known: its training data lay on the author's machine" in repr(evaluated)


def test_the_sealed_test_split_is_opened_once_and_other_rows_stay_beside_it(run: hftl.Run) -> None:
    run.test(say=lambda line: None)
    assert run.metrics["test"]["n"] == 20 and len(run.predictions("test")) == 20
    assert repr(run).startswith(f'Run("{run.path}"): test accuracy')
    assert run.verify().failed == () and run.paths.evaluations == ["june", "may"]
    assert run.evaluate("validation").metrics["accuracy"] == run.metrics["validation"]["accuracy"]
    with pytest.raises(hftl.RunError, match="was opened already"):
        run.test()


# --- the default recipe -------------------------------------------------------------------------------------------------------


def test_the_default_stages_follow_from_rows_and_parameters() -> None:
    texts, pictures = hftl.TextData(source="x"), hftl.ImageData(source="x")
    few = default_recipe("x", texts, hftl.Transformer(checkpoint="x"), rows=480, parameters=1_900_000)
    # Steps of 16: 30 an epoch; 300 / 30 = 10, at most 8; 600 / 30 = 20, at most 8; all but one of these 16 for every layer.
    assert (few.run.batch_size, few.stages["head"].epochs, few.stages["all"].epochs) == (16, 1, 15)
    assert (few.stages["head"].lr, few.stages["all"].lr) == (5e-3, 5e-4)
    many = default_recipe("x", texts, hftl.Transformer(checkpoint="x"), rows=22_500, parameters=110_000_000)
    # Steps of 32: 704 an epoch.
    assert (many.run.batch_size, many.stages["head"].epochs, many.stages["all"].epochs) == (32, 1, 2)
    assert (many.stages["head"].lr, many.stages["all"].lr) == (1e-3, 3e-5)
    photos = default_recipe("x", pictures, hftl.Timm(checkpoint="x"), rows=3_000, parameters=11_000_000)
    # 94 steps an epoch: 300 / 94 = 3.2 and 600 / 94 = 6.4.
    assert (photos.stages["head"].epochs, photos.stages["all"].epochs) == (3, 6)
    fewer = default_recipe("x", pictures, hftl.Timm(checkpoint="x"), rows=480, parameters=11_000_000)
    assert (fewer.run.batch_size, fewer.stages["head"].epochs, fewer.stages["all"].epochs) == (16, 8, 8)
    assert (photos.stages["head"].lr, photos.stages["all"].lr) == (3e-3, 5e-4)
    assert photos.stages["all"].schedule == hftl.CosineSchedule(warmup=0.1)


def test_fine_tune_trains_the_default_recipe_and_the_run_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = reviews("train").head(40)
    shorter = ["stages.head.epochs=1", "stages.all.epochs=1", "data.max_length=32"]
    run = hftl.fine_tune((table["review"].tolist(), table["label"]), BERT_NANO, overrides=shorter, console=quiet())
    assert run.path == Path("runs/bert-nano") and run.finished
    assert list(run.recipe.stages) == ["head", "all"] and run.recipe.stages["all"].lr == 5e-4
    assert run.recipe.model_dump()["data"]["max_length"] == 32 and run.recipe.run.batch_size == 16
    with pytest.raises(hftl.RunError, match="holds a finished run"):
        hftl.fine_tune((table["review"].tolist(), table["label"]), BERT_NANO)


def test_the_first_recipe_is_the_one_that_fine_tune_trains_and_is_read_back_equal(tmp_path: Path) -> None:
    changes = ["data.max_length=32", "data.max_train_samples=100", "stages.all.schedule=constant"]
    recipe = hftl.first_recipe(REVIEWS, BERT_NANO, overrides=changes)
    assert isinstance(recipe.model, hftl.Transformer)
    assert recipe == hftl.override(default_recipe(recipe.name, recipe.data, recipe.model, rows=100, parameters=3_000_000), changes)
    (tmp_path / "recipe.yaml").write_text(recipe.to_brief_yaml())
    assert hftl.load_recipe(tmp_path / "recipe.yaml") == recipe
    values = yaml.safe_load(recipe.to_brief_yaml())
    assert list(values["data"])[:2] == ["kind", "source"] and values["data"]["max_length"] == 32 and len(values["data"]) == 4
    assert list(values["stages"]["head"])[:3] == ["unfreeze", "lr", "epochs"] and values["model"]["family"] == "transformer"


# --- the order of the gates ---------------------------------------------------------------------------------------------------


def test_nothing_sends_but_a_push_through_its_gates() -> None:
    senders: dict[str, set[str]] = {}
    for path in sorted(Path(hftl.__file__).parent.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                called = {ast.unparse(node.func).rpartition(".")[2] for node in ast.walk(function) if isinstance(node, ast.Call)}
                senders[f"{path.stem}.{function.name}"] = called
    commits = {
        "create_commit",
        "create_repo",
        "create_branch",
        "upload_file",
        "upload_folder",
        "upload_large_folder",
        "push_to_hub",
    }
    assert [name for name, called in senders.items() if called & commits] == ["hub._send"]
    assert [name for name, called in senders.items() if "_send" in called] == ["hub.push"]
    assert [name for name in vars(hub) if name in commits] == []
