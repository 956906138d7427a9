"""Trackers get the recipe as flat keys, the curves, the final metrics and the figures; all of it on this machine.

TensorBoard is always here; the others where their extra is installed.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from small import nano, reviews, train

from hftl.errors import RecipeError
from hftl.files import read_json
from hftl.recipe import Stage, override
from hftl.run import RunDirectory

RECIPE = nano("tracked", reviews(32), {"head": Stage(unfreeze="head", lr=1e-3)}, log_every=1)
FIGURES = {"calibration", "confusion_matrix_test", "learning_curves"}


def tracked(name: str, folder: Path) -> RunDirectory:
    recipe = override(RECIPE, [f"run.trackers=[{name}]"])
    return train(recipe, folder)


def test_tensorboard_gets_keys_curves_results_and_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    run = tracked("tensorboard", tmp_path / "run")
    written: dict[str, Any] = {}
    pictures: set[str] = set()
    for file in run.path.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        written |= {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
        pictures |= set(events.Tags()["images"])
    assert pictures == {f"figures/{name}" for name in FIGURES}
    assert [event.step for event in written["train/loss"]] == [1, 2]
    test = written["test/accuracy"][0]
    assert (test.step, test.value) == (2, pytest.approx(read_json(run.metrics)["test"]["accuracy"]))
    (settings,) = run.path.rglob("hparams.yml")
    assert "stages.head.lr: 0.001\n" in settings.read_text() and "data.max_length: 32\n" in settings.read_text()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where trackers write what they would send."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # mlflow-skinny has no other store without a server
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def rows(database: Path, query: str) -> list[Any]:
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def test_trackio_gets_keys_results_and_figures(offline: Path) -> None:
    pytest.importorskip("trackio", reason="needs the trackio extra")
    tracked("trackio", offline / "run")
    (database,) = (offline / "trackio").rglob("tracked*.db")
    logged = [json.loads(metrics) for (metrics,) in rows(database, "select metrics from metrics order by step")]
    keys = {key for line in logged for key in line}
    assert {"train/loss", "validation/accuracy", "test/accuracy", *(f"figures/{name}" for name in FIGURES)} <= keys
    ((settings,),) = rows(database, "select config from configs")
    assert json.loads(settings)["stages.head.lr"] == 0.001


def test_mlflow_gets_keys_results_and_figures(offline: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the mlflow extra")
    run = tracked("mlflow", offline / "run")
    (found,) = mlflow.search_runs(experiment_names=["tracked"], output_format="list")
    assert found.data.params["stages.head.lr"] == "0.001"
    assert found.data.metrics["test/accuracy"] == pytest.approx(read_json(run.metrics)["test"]["accuracy"])
    client = mlflow.MlflowClient()
    assert {Path(each.path).stem for each in client.list_artifacts(found.info.run_id, "figures")} == FIGURES


def test_wandb_gets_keys_results_and_figures(offline: Path) -> None:
    pytest.importorskip("wandb", reason="needs the wandb extra")
    tracked("wandb", offline / "run")
    (folder,) = (offline / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    content = file.read_bytes()
    for text in (b"stages.head.lr", b"test/accuracy", b"validation/log_loss"):
        assert text in content, text
    assert len(list((folder / "files" / "media" / "images" / "figures").glob("*.png"))) == len(FIGURES)


@pytest.mark.parametrize(("name", "said"), [("tensorbord", 'Did you mean "tensorboard"'), ("aim", "pip install aim")])
def test_a_tracker_that_is_unknown_or_not_here_is_refused(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        tracked(name, tmp_path / "run")
