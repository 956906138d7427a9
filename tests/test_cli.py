"""The command line as a user meets it: exit codes, messages, files."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Hftl
from digits import write_digits
from PIL import Image
from rich.console import Console
from small import BERT_NANO

from hftl.cli import main
from hftl.cli.runs import _answers
from hftl.recipe import ImageData, Recipe, RunSettings, Stage, TextData, Timm, Transformer
from hftl.run import RunDirectory
from hftl.samples import REVIEWS

REPOSITORY = Path(__file__).resolve().parent.parent


def text_recipe(**data: Any) -> Recipe:
    values = {
        "source": REVIEWS,
        "max_length": 32,
        "max_train_samples": 48,
        "max_validation_samples": 20,
        "max_test_samples": 20,
        **data,
    }
    return Recipe(
        name="cli",
        data=TextData(**values),
        model=Transformer(checkpoint=BERT_NANO),
        stages={"head": Stage(unfreeze="head", lr=1e-3), "all": Stage(lr=1e-3, layer_decay=0.5)},
        run=RunSettings(batch_size=16, precision="fp32"),
    )


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(text_recipe().to_yaml())
    return path


@pytest.fixture(scope="module")
def run(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    path = tmp_path_factory.mktemp("runs") / "cli"
    with pytest.raises(SystemExit) as exited:
        main(argv=["train", str(recipe_file), "--run-dir", str(path)])
    assert exited.value.code == 0
    return RunDirectory(path)


def test_help_teaches_each_command_without_loading_a_model() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hftl", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == 0
    for command in ("plan", "train", "evaluate", "predict", "show", "card", "doctor"):
        assert command in done.stdout


def test_plan_prints_the_table_and_trains_nothing(
    hftl: Hftl, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = hftl("plan", recipe_file)
    rows = {line.split()[0]: line.split()[1:] for line in outcome.out.splitlines() if line.strip()}
    assert outcome.code == 0
    assert rows["embeddings"][:2] == ["1,114,624", "frozen"]
    assert rows["layer.3"] == ["198,272", "frozen", "5.0e-04"]
    assert rows["head"] == ["16,770", "1.0e-03", "1.0e-03"]
    assert rows["steps"] == ["6", "3", "3"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [["--plot"], []])
def test_plan_draws_the_rates_of_the_run_where_it_is_told_to(
    hftl: Hftl, recipe_file: Path, tmp_path: Path, asked: list[str]
) -> None:
    outcome = hftl("plan", recipe_file, "--json", *asked, "--output", tmp_path / "rates.png")
    assert outcome.code == 0 and "stages" in json.loads(outcome.out)
    assert f"{tmp_path / 'rates.png'}: the learning rate of every layer group" in outcome.err.replace("\n", " ")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_plan_as_json_is_for_programs(hftl: Hftl, recipe_file: Path) -> None:
    outcome = hftl("plan", recipe_file, "stages.all.lr=2e-3", "--json")
    plan = json.loads(outcome.out)
    assert [stage["name"] for stage in plan["stages"]] == ["head", "all"]
    assert plan["stages"][1]["groups"][-1] == {"name": "head", "trains": True, "lr": 0.002, "weight_decay": 0.01}


def test_train_writes_a_card_and_says_what_to_do_next(run: RunDirectory) -> None:
    assert run.card.read_text().startswith("---\n")
    assert run.figures.is_dir()


def test_card_is_written_again_from_the_run_alone(hftl: Hftl, run: RunDirectory) -> None:
    before = run.card.read_text()
    run.card.unlink()
    assert hftl("card", run.path).code == 0
    assert run.card.read_text() == before


def test_evaluate_shows_the_numbers_beside_those_on_record(hftl: Hftl, run: RunDirectory) -> None:
    outcome = hftl("evaluate", run.path)
    line = next(line for line in outcome.out.splitlines() if line.startswith("Accuracy ")).split()
    assert outcome.code == 0 and line[1] == line[2]


def test_predict_reads_texts_files_folders_and_tables(hftl: Hftl, run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("A joy.\nA waste of time.\n")
    (tmp_path / "table.csv").write_text('id,text\n1,"Lovely, in a way."\n')
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("One whole\ndocument.")
    output = tmp_path / "out.csv"
    outcome = hftl(
        "predict",
        run.path,
        "=cmd() is how it starts",
        tmp_path / "lines.txt",
        tmp_path / "table.csv",
        folder,
        "",
        "--output",
        output,
    )
    assert outcome.code == 0, outcome.err
    with output.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["input"] for row in rows] == [
        "'=cmd() is how it starts",
        "A joy.",
        "A waste of time.",
        "Lovely, in a way.",
        "One whole\ndocument.",
        "",
    ]
    assert all(row["label"] in {"negative", "positive"} for row in rows)
    assert float(rows[0]["p(negative)"]) + float(rows[0]["p(positive)"]) == pytest.approx(1.0)


def test_predict_prints_a_table_for_people(hftl: Hftl, run: RunDirectory) -> None:
    outcome = hftl("predict", run.path, "A slow start, but what an ending.")
    assert outcome.code == 0
    assert "A slow start, but what an ending." in outcome.out


def test_a_long_list_of_labels_takes_lines_and_is_not_cut() -> None:
    labels = ", ".join(f"emotion{number}" for number in range(12))
    answers = [(label, 0.5, "a text " * 30) for label in (labels, "joy")]
    console = Console(width=80, file=io.StringIO())
    console.print(_answers(answers, several=True))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.split()[:6] == ["probability", "labels", "of", "the", "set", "input"]
    assert all(f"emotion{number}" in printed for number in range(12)) and "a text" in printed
    assert max(map(len, printed.splitlines())) <= 80 and "joy " in printed


def test_show_prints_texts_as_tokens(hftl: Hftl, recipe_file: Path) -> None:
    outcome = hftl("show", recipe_file)
    assert outcome.code == 0 and "[CLS]" in outcome.out and "share truncated" in outcome.out


def test_show_draws_a_grid_of_augmented_pictures(hftl: Hftl, tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", range(3), train_per_class=8)
    recipe = Recipe(
        name="digits",
        data=ImageData(source=str(tmp_path / "digits"), image_size=32, augmentation="standard", validation_fraction=0.25),
        model=Timm(checkpoint="test_resnet", pretrained=False),
        stages={"all": Stage(lr=1e-3)},
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    outcome = hftl("show", tmp_path / "recipe.yaml", "--output", tmp_path / "grid.png")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


# --- mistakes: one message with everything that is wrong, exit code 2, nothing written ----------------------------------------


def refused(hftl: Hftl, run_dir: Path, *arguments: object) -> str:
    outcome = hftl("train", *arguments, "--run-dir", run_dir)
    assert outcome.code == 2, outcome.err
    assert "Traceback" not in outcome.err and outcome.out == ""
    assert not run_dir.exists()
    return outcome.err


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.max_lenght=3"], 'unknown key "max_lenght". Did you mean "max_length"?'),
        (["data.max_length=long"], "input should be a valid integer"),
        (["stages.all.lr=0"], "0.0 does not freeze a group"),
        (["stages.all.unfreeze=[layer.7]"], 'no layer group "layer.7".'),
        (["model.checkpoint=./no/such/folder"], "no/such/folder"),
        (["data.text_column=review"], "review"),
        (["stages.all.lr=0", "run.sed=1"], "2 problems in"),
    ],
)
def test_a_recipe_error_is_one_message(hftl: Hftl, recipe_file: Path, tmp_path: Path, overrides: list[str], expected: str) -> None:
    assert expected in refused(hftl, tmp_path / "run", recipe_file, *overrides)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("stages={'a': hftl.Stage(lr=0.0, epochz=3)}", ["2 problems in", 'Did you mean "epochs"?']),
        ("stages={'a': hftl.Stage(lr=1.0)}, model=hftl.Timm(checkpoint='x')", ["does not read data of kind"]),
    ],
)
def test_a_mistake_in_a_recipe_script_is_one_message(hftl: Hftl, tmp_path: Path, section: str, expected: list[str]) -> None:
    model = "" if "model" in section else ", model=hftl.Transformer(checkpoint='x')"
    script = tmp_path / "script.py"
    script.write_text(
        "import hftl\ndef recipe():\n"
        f"    return hftl.Recipe(name='x', data=hftl.TextData(source='x'), {section}{model})\n"
        "if __name__ == '__main__':\n    hftl.main(recipe)\n"
    )
    by_command = refused(hftl, tmp_path / "run", script)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for text in expected:
        assert text in by_command and text in done.stderr


def test_a_recipe_that_does_not_exist_is_one_message(hftl: Hftl, tmp_path: Path) -> None:
    assert "no such file" in refused(hftl, tmp_path / "run", tmp_path / "nothing.py")


def write_table(tmp_path: Path, rows: str) -> Path:
    source = tmp_path / "data"
    source.mkdir()
    (source / "train.csv").write_text(rows)
    (source / "test.csv").write_text("text,label\ngood,a\nbad,b\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text_recipe(source=str(source)).to_yaml())
    return recipe


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("review,label\nx,a\ny,b\n", 'no column "text"'),
        ("text,label\nx,a\ny,a\nz,a\n", "one class"),
        ("text,label\nx,a\ny,\nz,b\nw, \n", "label"),
        ("text,label\nx,a\ny,b,c\n", "line 3"),
    ],
)
def test_a_data_error_is_one_message(hftl: Hftl, tmp_path: Path, rows: str, expected: str) -> None:
    message = refused(hftl, tmp_path / "run", write_table(tmp_path, rows))
    assert message.startswith("DataError: ") and expected in message


def test_an_empty_text_is_no_error(hftl: Hftl, tmp_path: Path) -> None:
    rows = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20)) + ",a\n"
    recipe = write_table(tmp_path, rows)
    outcome = hftl("train", recipe, "--run-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run" / "data.json").read_text())["text"]["empty"] in {0, 1}  # 1 unless it fell to validation


def test_pictures_that_cannot_be_read_are_all_named(hftl: Hftl, tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", range(2), train_per_class=8)
    (folder / "train" / "0" / "empty.png").write_bytes(b"")
    (folder / "train" / "1" / "text.jpg").write_text("this is no picture")
    recipe = Recipe(
        name="digits",
        data=ImageData(source=str(folder), image_size=32, validation_fraction=0.25),
        model=Timm(checkpoint="test_resnet", pretrained=False),
        stages={"all": Stage(lr=1e-3)},
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    message = refused(hftl, tmp_path / "run", tmp_path / "recipe.yaml")
    assert "empty.png" in message and "text.jpg" in message


def test_predict_classifies_pictures_and_names_all_that_it_cannot_read(hftl: Hftl, tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", range(2), train_per_class=8)
    recipe = Recipe(
        name="digits",
        data=ImageData(source=str(folder), image_size=32, validation_fraction=0.25, max_test_samples=8),
        model=Timm(checkpoint="test_resnet", pretrained=False),
        stages={"all": Stage(lr=1e-3)},
        run=RunSettings(precision="fp32"),
    )
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert hftl("train", tmp_path / "recipe.yaml", "--run-dir", tmp_path / "run").code == 0
    output = tmp_path / "out.jsonl"
    assert hftl("predict", tmp_path / "run", folder / "test" / "0", "--output", output).code == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == len(list((folder / "test" / "0").iterdir())) and {row["label"] for row in rows} <= {"0", "1"}
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    outcome = hftl("predict", tmp_path / "run", tmp_path / "empty.png", tmp_path / "text.jpg", "nowhere.png", "")
    assert outcome.code == 2 and "4 problems" in outcome.err


def test_predict_refuses_an_output_it_cannot_write_before_it_computes(hftl: Hftl, run: RunDirectory, tmp_path: Path) -> None:
    outcome = hftl("predict", run.path, "text", "--output", tmp_path / "out.xlsx")
    assert outcome.code == 2 and "allowed: .csv, .jsonl, .parquet" in outcome.err
    assert "no such folder" in hftl("predict", run.path, "text", "--output", tmp_path / "nowhere" / "out.csv").err


def test_init_writes_a_recipe_that_plan_takes_and_writes_over_nothing(hftl: Hftl, tmp_path: Path) -> None:
    recipe = tmp_path / "first.yaml"
    begun = hftl("init", REVIEWS, BERT_NANO, "data.max_train_samples=50", "--output", recipe)
    assert begun.code == 0 and f"hftl plan {recipe}" in begun.err.replace("\n", "")
    assert hftl("plan", recipe).code == 0
    again = hftl("init", REVIEWS, BERT_NANO, "--output", recipe)
    assert again.code == 2 and "is there already, and nothing is written over" in again.err
    assert "a recipe is written as .yaml" in hftl("init", REVIEWS, BERT_NANO, "--output", tmp_path / "first.py").err
    lost = hftl("init", tmp_path / "nowhere", BERT_NANO, "--output", tmp_path / "other.yaml")
    assert lost.code == 2 and "no such file or folder" in lost.err and not (tmp_path / "other.yaml").exists()
    assert "no such folder" in hftl("init", REVIEWS, BERT_NANO, "--output", tmp_path / "gone" / "first.yaml").err
    without = hftl("init", REVIEWS, BERT_NANO, "data.test_split=none", "--output", tmp_path / "without.yaml")
    assert "hftl train" in without.err and "--no-test" in begun.err and "--no-test" not in without.err


def test_predict_names_inputs_that_do_not_exist(hftl: Hftl, tmp_path: Path) -> None:
    outcome = hftl("predict", tmp_path / "nothing", "text")
    assert outcome.code == 2 and "no such folder; a published run is written OWNER/NAME" in outcome.err


def test_init_says_what_it_understood_and_which_way_out_there_is(hftl: Hftl, tmp_path: Path) -> None:
    table, pairs, photos = tmp_path / "questions.csv", tmp_path / "pairs.csv", tmp_path / "photos"
    table.write_text("text,label\n" + "".join(f"the {word} question,{'ab'[n % 2]}\n" for n, word in enumerate("abcdefghijkl")))
    begun = hftl("init", table, BERT_NANO, "--output", tmp_path / "one.yaml")
    assert begun.code == 0 and "no test split (data.test_fraction=0.2 makes one)" in begun.err and "--no-test" not in begun.err
    written = (tmp_path / "one.yaml").read_text(encoding="utf-8")
    assert written.startswith("# Stages, epochs and rates by the rule of hftl.defaults, for 11 training rows.")
    assert "name: bert-nano-questions\n" in written  # and not -questions.csv
    pairs.write_text("first,second,label\nan a,a b,same\nan x,a y,other\n")
    asked = hftl("init", pairs, BERT_NANO, "--output", tmp_path / "two.yaml")
    assert "'data.text_column=[first, second]' data.pair=true" in asked.err
    pairs.write_text("question,kind\nan a,same\nan x,other\n")
    asked = hftl("init", pairs, BERT_NANO, "--output", tmp_path / "two.yaml")
    assert "data.text_column=question\n" in asked.err and "data.label_column=kind\n" in asked.err
    for name in ("cat", "dog"):
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(photos / name / "1.png")
    other = hftl("init", photos, BERT_NANO, "--output", tmp_path / "two.yaml")
    assert other.code == 2 and "reads texts; where these data are pictures, name a checkpoint that reads them" in other.err
    twice = hftl("init", table, BERT_NANO, "data.source=x.csv", "--output", tmp_path / "two.yaml")
    assert twice.code == 2 and "data.source=x.csv: DATA and CHECKPOINT say this already" in twice.err
    assert not (tmp_path / "two.yaml").exists()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["--epochs", "3"], "stages.STAGE.epochs=..."),
        (["--batch-size", "3"], "run.batch_size=... or stages.STAGE.batch_size=..."),
        (["lr=3"], "there is stages.head.lr, stages.all.lr"),
        (["stages.all.unfreeze=last2"], 'Did you mean "last 2"?'),
        (["data.source={here}/reviws"], 'Did you mean "{here}/reviews"?'),
        (["model.checkpoint={here}/reviws"], 'Did you mean "{here}/reviews"?'),
    ],
)
def test_what_somebody_meant_is_in_the_message(
    hftl: Hftl, recipe_file: Path, tmp_path: Path, overrides: list[str], expected: str
) -> None:
    (tmp_path / "reviews").mkdir()
    refused = hftl("plan", recipe_file, *(each.format(here=tmp_path) for each in overrides))
    words = " ".join(refused.err.replace("\u2502", " ").split())  # without the frame, whose lines are as wide as the terminal
    assert refused.code == 2 and expected.format(here=tmp_path) in words


def test_doctor_says_what_it_found(hftl: Hftl) -> None:
    outcome = hftl("doctor")
    assert "torch" in outcome.out and outcome.code in {0, 1}
