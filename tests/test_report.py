"""Figures of finished runs: written, in the right number, from the three files they may read, and true to them."""

from __future__ import annotations

import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import matplotlib.text
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image
from run_factory import CLOTHES, make_run

from hftl import fonts
from hftl.errors import RunError
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.report import calibration_figure, confusion_figure, learning_curves, write_figures
from hftl.files import read_json
from hftl.run import RunDirectory
from hftl.studies.page import draw_shares
from hftl.studies.study import StudyDirectory

PETS = tuple(f"german_shorthaired_pointer_number_{i}" for i in range(37))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run with two classes and its figures; tests only read it."""
    finished = make_run(tmp_path_factory.mktemp("runs") / "run")
    write_figures(finished, read_json(finished.metrics))
    return finished


def points(line: Line2D) -> list[list[float]]:
    """[x, y] of each point of a line."""
    found: list[list[float]] = np.asarray(line.get_xydata()).tolist()
    return found


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_three_figures_are_drawn_that_are_not_blank(run: RunDirectory) -> None:
    paths = sorted(run.figures.iterdir())
    assert [path.name for path in paths] == ["calibration.png", "confusion_matrix_test.png", "learning_curves.png"]
    for path in paths:
        with Image.open(path) as image:
            assert image.width == 1200
            assert np.asarray(image.convert("L")).std() > 10


@pytest.mark.parametrize("names", [CLOTHES, PETS], ids=["10 classes", "37 classes"])
def test_without_a_test_split_the_validation_split_is_drawn(tmp_path: Path, names: tuple[str, ...]) -> None:
    paths = write_figures(made := make_run(tmp_path / "run", label_names=names, test=False), read_json(made.metrics))
    assert [path.name for path in paths] == ["learning_curves.png", "confusion_matrix_validation.png", "calibration.png"]
    assert all(path.is_file() for path in paths)


def test_figures_read_only_history_metrics_and_predictions(run: RunDirectory, tmp_path: Path) -> None:
    few = RunDirectory(tmp_path)
    shutil.copytree(run.path / "predictions", few.path / "predictions")
    for name in ("history.jsonl", "metrics.json"):
        shutil.copy(run.path / name, few.path / name)
    assert {path.name: path.read_bytes() for path in write_figures(few, read_json(few.metrics))} == {
        p.name: p.read_bytes() for p in run.figures.iterdir()
    }


def test_drawing_leaves_matplotlibs_settings_and_pyplots_figures_alone(run: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(Path(shutil.copytree(run.path, tmp_path / "copy")))
    before = dict(mpl.rcParams)
    write_figures(copy, read_json(copy.metrics))
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_an_unfinished_run_has_no_figures(run: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(Path(shutil.copytree(run.path, tmp_path / "copy")))
    copy.history.unlink()
    with pytest.raises(RunError, match="no evaluation is recorded"):
        write_figures(copy, read_json(copy.metrics))
    copy.metrics.unlink()
    with pytest.raises(RunError, match="not finished"):
        write_figures(copy, read_json(copy.metrics))


def test_the_learning_curves_show_each_stage_and_each_rate(run: RunDirectory) -> None:
    history = run.read_history()
    figure = learning_curves(history)
    loss, quality, rates = figure.axes
    assert {"1 head", "2 top", "3 all"} <= set(texts(figure))
    legend = rates.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["head", "layer.3", "layer.2", "layer.1", "layer.0", "embeddings"]
    # A group has a line for each stage it trains in, 1 + 3 + 6 of them; what it does not train in gives an empty one.
    drawn = [line for line in rates.lines if len(points(line)) > 2 and np.isfinite(points(line)).all(axis=1).any()]
    assert len(drawn) == 10
    recorded = [record for record in history if record["event"] == "evaluation"]
    curves = {line.get_label(): line for line in [*loss.lines, *quality.lines]}
    assert [y for _, y in points(curves["validation"])] == [record["validation"]["log_loss"] for record in recorded]
    assert [y for _, y in points(curves["accuracy"])] == [record["validation"]["accuracy"] for record in recorded]
    assert [x for x, _ in points(curves["handed on"])] == [50, 100]
    assert [x for x, _ in points(curves["delivered"])] == [175]
    assert rates.get_yscale() == "log"


def test_steps_that_a_resumed_run_repeats_are_drawn_once(run: RunDirectory) -> None:
    history = run.read_history()
    repeated = [record for record in history if record["event"] == "step" and record["step"] > 150]
    assert repeated
    once, twice = learning_curves(history), learning_curves([*history, *repeated])
    assert [points(line) for line in once.axes[0].lines] == [points(line) for line in twice.axes[0].lines]


def test_groups_with_the_same_rate_share_a_line() -> None:
    rates = {"stem": 1e-3, "layer1": 1e-3, "layer2": 1e-3, "head": 1e-2}
    history: list[dict[str, Any]] = [
        {"event": "step", "stage": "all", "epoch": 1, "step": step, "loss": 0.5, "grad_norm": 1.0, "lr": rates} for step in (1, 2)
    ]
    history.append(
        {
            "event": "evaluation",
            "stage": "all",
            "epoch": 1,
            "step": 2,
            "train_loss": 0.5,
            "validation": {"accuracy": 0.5, "macro_f1": 0.4, "log_loss": 0.7},
            "kept": True,
        }
    )
    legend = learning_curves(history).axes[2].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["head", "stem to layer2"]


def test_a_warmup_that_starts_at_zero_and_a_stage_too_short_to_be_logged_are_drawn(tmp_path: Path) -> None:
    evaluation = {
        "event": "evaluation",
        "epoch": 1,
        "train_loss": 0.5,
        "validation": {"accuracy": 0.5, "macro_f1": 0.4, "log_loss": 0.7},
        "kept": True,
    }
    short = [{**evaluation, "stage": "head", "step": 3}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learning_curves(short).savefig(tmp_path / "short.png")
        step = {"event": "step", "stage": "head", "epoch": 1, "loss": 0.5, "grad_norm": None}
        warmup = [{**step, "step": 1, "lr": {"head": 0.0}}, {**step, "step": 2, "lr": {"head": 1e-3}}, *short]
        learning_curves(warmup).savefig(tmp_path / "warmup.png")


def test_each_cell_of_a_small_confusion_matrix_says_count_and_share(tmp_path: Path) -> None:
    values: Any = {
        "n": 10,
        "accuracy": 0.7,
        "confusion": [[3, 1, 0], [2, 4, 0], [0, 0, 0]],
        "per_class": [{"label": "cat", "n": 4}, {"label": "$dog$", "n": 6}, {"label": "a class with a very long name 1", "n": 0}],
    }
    figure = confusion_figure(values, "test")
    shown = texts(figure)
    assert {"3\n75 %", "1\n25 %", "2\n33 %", "4\n67 %"} <= set(shown)
    assert {"cat  (4)", "$dog$  (6)", "Test split, n = 10, accuracy 0.700"} <= set(shown)
    assert "a class with a …g name 1  (0)" in shown  # cut in the middle: names often differ at their end
    figure.savefig(tmp_path / "confusion.png")


def test_a_large_confusion_matrix_lists_the_most_frequent_confusions() -> None:
    confusion = np.diag([10] * 20)
    confusion[3, 7] = 5
    values: Any = {
        "n": 205,
        "accuracy": 200 / 205,
        "confusion": confusion.tolist(),
        "per_class": [{"label": f"breed {k}", "n": int(confusion[k].sum())} for k in range(20)],
    }
    assert "breed 3 as breed 7: 5 (33 %)" in texts(confusion_figure(values, "test"))


def test_the_calibration_figure_shows_shares_of_all_predictions(run: RunDirectory) -> None:
    predictions = Predictions.load(run.predictions("test"))
    values = read_json(run.metrics)["test"]
    figure = calibration_figure(predictions, values, "test")
    heights = [patch.get_height() for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    assert sum(heights) == pytest.approx(1.0)
    low, high = values["expected_calibration_error_by_chance"]
    said = f"expected calibration error {values['expected_calibration_error']:.3f} (by chance {low:.3f} to {high:.3f})"
    assert said in " ".join(texts(figure))


# --- names of any script ------------------------------------------------------------------------------------------------------


def matrix(names: tuple[str, ...]) -> Any:
    """Metrics of a split in which class k has 10 + k examples, of which one is taken for the next class."""
    classes = len(names)
    confusion = np.diag(np.arange(classes) + 9) + np.roll(np.eye(classes, dtype=int), 1, axis=1)
    rows = confusion.sum(axis=1).tolist()
    per_class = [{"label": name, "n": n} for name, n in zip(names, rows, strict=True)]
    accuracy = float(np.trace(confusion) / confusion.sum())
    return {"n": int(confusion.sum()), "accuracy": accuracy, "confusion": confusion.tolist(), "per_class": per_class}


def ticks(figure: Any) -> tuple[list[str], list[str]]:
    """The names of the rows and those of the columns."""
    panel = figure.axes[0]
    rows, columns = panel.get_yticklabels(), panel.get_xticklabels()
    return [label.get_text() for label in rows], [label.get_text() for label in columns]


def drawn(figure: Any, path: Path) -> np.ndarray:
    """The picture, drawn with every warning an error: a letter without a glyph is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # an older matplotlib's, of pyparsing
        figure.savefig(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def made_font(path: Path, family: str, letters: str, *, stand_in: bool = False) -> None:
    """A font of the given letters, each a box of a height of its own, or all one box."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"letter{number}" for number in range(len(letters)))]
    builder.setupGlyphOrder(names)
    of = dict.fromkeys(letters, names[1]) if stand_in else dict(zip(letters, names[1:], strict=True))
    builder.setupCharacterMap({ord(letter): name for letter, name in of.items()})
    glyphs = {}
    for number, name in enumerate(names):
        pen = TTGlyphPen(None)
        corners = [(100, 0), (100, 200 + 150 * number), (800, 200 + 150 * number), (800, 0)]
        pen.moveTo(corners[0])
        for corner in corners[1:]:
            pen.lineTo(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, sTypoDescender=-100, usWeightClass=400)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A machine that has the fonts that come with matplotlib, and those that a test adds: `machine(family, letters)`."""
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    assert any(entry.name == fonts.DEFAULT for entry in own)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    forget()

    def add(family: str, letters: str, **settings: Any) -> None:
        path = tmp_path / f"{family}.ttf"
        made_font(path, family, letters, **settings)
        font_manager.fontManager.addfont(path)
        forget()

    yield add
    monkeypatch.undo()
    forget()


def forget() -> None:
    """What matplotlib and hftl have found among the fonts that were there before."""
    vars(font_manager.FontManager)["_findfont_cached"].cache_clear()
    fonts._is_chosen.cache_clear()


def test_names_without_a_font_are_numbers_and_a_line_says_where_they_stand(machine: Any, tmp_path: Path) -> None:
    figure = confusion_figure(matrix(("好评", "差评")), "test")
    assert ticks(figure) == (["(10)   1", "(11)   2"], ["1", "2"])
    shown = texts(figure)
    assert "predicted (numbered as the rows)" in shown
    assert "No font of this machine has the letters of the names: see the table of classes, in this order." in shown
    assert not any("评" in text for text in shown)
    drawn(figure, tmp_path / "numbers.png")


def test_a_font_of_the_machine_that_has_the_letters_is_used_and_the_two_names_look_different(machine: Any, tmp_path: Path) -> None:
    machine("Boxes Sans", "好评差")
    figure = confusion_figure(matrix(("好评", "差评")), "test")
    assert ticks(figure) == (["好评  (10)", "差评  (11)"], ["好评", "差评"])
    assert not any("No font" in text for text in texts(figure))
    # With the names in each other's place it is another picture: 好 is a box half as high as 差.
    both, exchanged = (
        drawn(confusion_figure(matrix(pair), "test"), tmp_path / "names.png") for pair in (("好评", "差评"), ("差评", "好评"))
    )
    assert (both != exchanged).any()
    assert fonts.find_face("好差") == fonts.Face("Boxes Sans", str(tmp_path / "Boxes Sans.ttf"), 0)


def test_arms_of_a_study_have_their_names_or_their_numbers(machine: Any, tmp_path: Path) -> None:
    rows = [("data.text_column=评论", 0.8, 0.7, 0.9), ("run.seed=1", 0.7, 0.6, 0.8)]
    study = StudyDirectory(tmp_path)
    draw_shares(study, rows, metric="accuracy")  # a warning about a glyph would be an error here
    numbers = (study.figures / "accuracy.png").read_bytes()
    assert fonts.shown("data.text_column=评论", 1) == "no. 1" and fonts.shown("run.seed=1", 2) == "run.seed=1"
    machine("Boxes Sans", "评论")
    assert fonts.shown("data.text_column=评论", 1) == "data.text_column=评论"
    draw_shares(study, rows, metric="accuracy")
    assert (study.figures / "accuracy.png").read_bytes() != numbers


def test_a_font_that_lacks_one_letter_of_a_name_does_not_draw_half_of_it(machine: Any, tmp_path: Path) -> None:
    machine("Boxes Sans", "好评")
    figure = confusion_figure(matrix(("好评", "差评", "good")), "test")
    assert ticks(figure) == (["好评  (10)   1", "(11)   2", "good  (12)   3"], ["1", "2", "3"])
    drawn(figure, tmp_path / "half.png")


def test_a_font_of_stand_ins_is_no_font_for_a_name(machine: Any, tmp_path: Path) -> None:
    machine("Stand In Sans", "好评差\ufdd0", stand_in=True)
    assert fonts.find_face("好") is None
    assert ticks(confusion_figure(matrix(("好评", "差评")), "test"))[1] == ["1", "2"]


@pytest.mark.parametrize(
    "names",
    [
        ("إيجابي", "سلبي"),
        ("חיובי", "שלילי"),
        ("हिन्दी", "தமிழ்"),
        ("ดีมาก", "แย่"),
        ("👍", "👎"),
        ("👩\u200d💻", "❤\ufe0f"),
        ("한국어", "日本語"),
        ("Z\u0351\u036b\u0343", "e\u0301te\u0301"),
        ("\x1b[2Jx", "a\x07"),
        ("$x$", "a_{b"),
    ],
)
def test_names_of_every_script_are_drawn_without_a_warning_and_never_two_alike(
    names: tuple[str, ...], machine: Any, tmp_path: Path
) -> None:
    for count in (2, 14):  # the cells with numbers, and the list of confusions
        every = (*names, *(f"class {number}" for number in range(count - 2)))
        figure = confusion_figure(matrix(every), "test")
        drawn(figure, tmp_path / "figure.png")
        rows, columns = ticks(figure)
        assert len(set(rows)) == len(set(columns)) == count


def test_a_name_from_right_to_left_keeps_its_count_at_its_side() -> None:
    rows, columns = ticks(confusion_figure(matrix(("إيجابي", "neg")), "test"))
    name = "\u2068إيجابي\u2069" if fonts.KNOWS_DIRECTION else "إيجابي"
    assert (rows, columns) == ([f"{name}  (10)", "neg  (11)"], [name, "neg"])


def test_two_names_that_are_one_when_shortened_are_numbered() -> None:
    names = ("a very long name of a first kind of thing", "a very long name of a second kind of thing")
    assert ticks(confusion_figure(matrix(names), "test"))[1] == ["1", "2"]
    many = (*names, *(f"breed {number}" for number in range(12)))
    assert any(
        "class 1 as class 2: 1 (10 %)" in text and "breed 0 as breed 1: 1" in text
        for text in texts(confusion_figure(matrix(many), "test"))
    )


def test_names_are_cut_by_the_width_they_take_and_never_between_a_letter_and_its_mark(machine: Any) -> None:
    machine("Boxes Sans", "好评")
    dotted = "x\u0323"
    rows, _ = ticks(confusion_figure(matrix(("好" * 12, "评" * 13, dotted * 25)), "test"))
    # 24 wide: 12 Chinese letters fit; of 13 stay 15 and 8 widths around the dots: 7 and 4.
    assert rows[0] == f"{'好' * 12}  (10)"
    assert rows[1] == f"{'评' * 7}…{'评' * 4}  (11)"
    assert rows[2] == f"{dotted * 15}…{dotted * 8}  (12)"


def test_a_run_with_chinese_classes_has_three_figures_and_draws_them_again_alike(machine: Any, tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", label_names=("好评", "差评"))
    first = {path.name: path.read_bytes() for path in write_figures(made, read_json(made.metrics))}
    assert len(first) == 3
    assert {path.name: path.read_bytes() for path in write_figures(made, read_json(made.metrics))} == first


@pytest.mark.parametrize("names", [("neg", "pos"), ("положительный", "отрицательный"), ("a name of twenty-four le",) * 3, CLOTHES])
def test_the_names_of_the_columns_do_not_run_into_each_other(names: tuple[str, ...]) -> None:
    every = tuple(f"{name[:-1]}{number}" for number, name in enumerate(names))
    figure = confusion_figure(matrix(every), "test")
    figure.canvas.draw()
    labels = figure.axes[0].get_xticklabels()
    if labels[0].get_rotation() == 0:
        boxes = [label.get_window_extent() for label in labels]
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert (labels[0].get_rotation() == 0) is (names == ("neg", "pos") or len(names[0]) == 13)
