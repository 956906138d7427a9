"""The rates of a whole run: those that the figure shows are those that training takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sittings import assert_same_run, signal_at
from small import bert, nano, reviews, train

from hftl import api
from hftl.errors import RecipeError
from hftl.evaluation.report import rates_figure
from hftl.recipe import PlateauSchedule, Stage
from hftl.signals import Stopped
from hftl.training.experiment import prepare_experiment
from hftl.training.rates import rates_of_run


def test_the_rates_that_are_drawn_are_those_that_a_run_takes(tmp_path: Path) -> None:
    recipe = bert("run.log_every=1")
    planned = rates_of_run(prepare_experiment(recipe).stages)
    taken = [line for line in train(recipe, tmp_path / "run").read_history() if line["event"] == "step"]
    assert [(line["step"], line["stage"]) for line in planned] == [(line["step"], line["stage"]) for line in taken]
    assert len(planned) == 12 and [len(line["lr"]) for line in planned] == [1] * 3 + [2] * 6 + [6] * 3  # what is frozen is absent
    for ours, theirs in zip(planned, taken, strict=True):
        assert ours["lr"] == pytest.approx(theirs["lr"])


def test_the_figure_marks_stages_and_groups(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = bert("stages.top.epochs=3", "stages.top.schedule=plateau")
    api.plan(recipe, plot=tmp_path / "rates.png", say=said.append)
    assert said == [
        f"{tmp_path / 'rates.png'}: the learning rate of every layer group at each step of the run"
        " (of top as if every epoch were better)"
    ]
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.format == "PNG" and picture.width >= 1000
    (panel,) = rates_figure(rates_of_run(prepare_experiment(recipe).stages)).axes
    assert [text.get_text() for text in panel.texts] == ["1 head", "2 top", "3 all"]
    legend: Any = panel.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["head", "layer.3", "embeddings to layer.2"]
    assert panel.get_yscale() == "log" and panel.get_xlim() == (0, 15)


def test_the_figure_is_a_png_and_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"output: rates\.xyz does not end with \.png"):
        api.plan(bert(), plot=tmp_path / "rates.xyz")


def test_rates_on_a_plateau_fall_and_a_run_that_was_stopped_there_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A rate at which nothing moves: every epoch after the first is no better.
    stage = Stage(unfreeze="head", lr=1e-50, epochs=4, schedule=PlateauSchedule(factor=0.5))
    recipe = nano("plateau", reviews(40), {"head": stage}, log_every=3)
    whole = train(recipe, tmp_path / "whole")
    rates = [line["lr"]["head"] for line in whole.read_history() if line["event"] == "step"]
    assert rates == [1e-50, 1e-50, 5e-51, 2.5e-51]
    assert "no better for a while: lower rates from here on" in whole.log.read_text(encoding="utf-8")
    with signal_at(monkeypatch, step=8), pytest.raises(Stopped):
        train(recipe, tmp_path / "run")
    assert_same_run(whole, train(recipe, tmp_path / "run", resume=True))
