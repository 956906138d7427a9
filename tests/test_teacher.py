"""A finished run as a teacher: its loss by hand, runs that learn from it, what is kept of it, and whom it may not teach."""

from __future__ import annotations

import io
import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from forked import Forks
from rich.console import Console
from sittings import assert_same_run, environment, signal_at
from small import ids, mails, nano, noisy_pictures, quiet, reviews, train, write_recipe, write_rows

from hftl import api
from hftl.cli import main
from hftl.data.unlabelled import with_unlabelled
from hftl.errors import RecipeError, RunError
from hftl.evaluation.predictions import Predictions
from hftl.files import fingerprint, read_json, write_json
from hftl.inference import Predictor
from hftl.ledger import effective
from hftl.names import SEVERAL_LABELS
from hftl.recipe import CNN, Recipe, RunSettings, Stage, Teacher, TextCNN, TextData, override, parse_recipe
from hftl.records.teacher import read_teacher
from hftl.run import RunDirectory
from hftl.sharing import publication
from hftl.sharing.card import render_card
from hftl.sharing.verify import verify
from hftl.signals import Stopped
from hftl.training.engine import fit, prepare
from hftl.training.experiment import teacher_answers
from hftl.training.loss import TeacherLoss, soft_loss
from hftl.training.open_run import open_run
from hftl.training.planning import make_plan

LN3 = math.log(3)
APART = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)  # 0.130812: 3/4 and 1/4 from 1/2 and 1/2
MORE = ("a quiet film that stays", "dull from its first scene", "", "the actors carry it", "a quiet film that stays")


# --- the loss -----------------------------------------------------------------------------------------------------------------


def test_the_loss_of_the_teachers_answers_is_the_papers_by_hand() -> None:
    even, sure = torch.zeros(1, 2), torch.tensor([[LN3, 0.0]])
    assert soft_loss(even, sure, 1.0).tolist() == pytest.approx([APART])
    # At a temperature of 2 logits twice as far apart say the same, and the divergence counts four times.
    assert soft_loss(even, 2 * sure, 2.0).tolist() == pytest.approx([4 * APART])
    # The other way it is another divergence: 1/2 log(2/3) + 1/2 log 2.
    assert soft_loss(sure, even, 1.0).tolist() == pytest.approx([0.5 * math.log(2 / 3) + 0.5 * math.log(2)])
    # What is added to all of a row's logits says nothing.
    assert soft_loss(even + 7, sure - 3, 1.0).tolist() == pytest.approx([APART])


def test_of_several_labels_it_is_the_mean_over_labels_of_yes_and_no() -> None:
    # A label of which the teacher says 3/4 and the model 1/2, and one of which both say 1/2.
    model, teacher = torch.zeros(1, 2), torch.tensor([[LN3, 0.0]])
    assert soft_loss(model, teacher, 1.0, target=SEVERAL_LABELS).tolist() == pytest.approx([APART / 2])
    assert soft_loss(model, -teacher, 1.0, target=SEVERAL_LABELS).tolist() == pytest.approx([APART / 2])


def test_the_gradient_is_the_temperature_times_the_difference_of_the_probabilities() -> None:
    logits = torch.tensor([[0.3, -1.0, 0.5]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -2.0]])
    soft_loss(logits, teacher, 4.0).sum().backward()  # type: ignore[no-untyped-call]
    expected = 4.0 * ((logits / 4).softmax(-1) - (teacher / 4).softmax(-1))
    torch.testing.assert_close(logits.grad, expected.detach())


def test_a_row_with_a_label_has_both_parts_by_weight_and_one_without_has_the_teachers_alone() -> None:
    answers = torch.tensor([[0.0, 0.0], [LN3, 0.0], [LN3, 0.0]])
    loss = TeacherLoss(answers, labelled=2, temperature=1.0, weight=0.7, target="one_label")
    of_labels, index = torch.tensor([2.0, 2.0]), torch.tensor([1, 2])
    assert loss(of_labels, torch.zeros(2, 2), index).tolist() == pytest.approx([0.7 * APART + 0.3 * 2.0, APART])
    # Of two passes, one of which answers as the teacher does, it is the mean.
    passes = torch.tensor([[0.0, 0.0], [0.0, 0.0], [LN3, 0.0], [LN3, 0.0]])
    assert loss(of_labels, passes, index).tolist() == pytest.approx([0.7 * APART / 2 + 0.3 * 2.0, APART / 2])


# --- runs ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    (folder / "more.txt").write_text("\n".join(MORE), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def teacher(place: Path) -> RunDirectory:
    """The small BERT, after 40 reviews."""
    return train(nano("nano", reviews(40), {"all": Stage(lr=3e-4)}, log_every=1), place / "nano")


def pupil(teacher: Path, *changes: str, data: TextData | None = None) -> Recipe:
    """A TextCNN over random words: 40 reviews and 4 texts without a label / 8 a step = 6 steps an epoch, 18 steps."""
    recipe = Recipe(
        name="pupil",
        data=data or reviews(40).model_copy(update={"unlabelled": str(teacher.parent / "more.txt")}),
        model=TextCNN(vectors="random:6", channels=4),
        teacher=Teacher(run=str(teacher)),
        stages={"head": Stage(unfreeze="head", lr=1e-2), "all": Stage(lr=1e-2, epochs=2)},
        run=RunSettings(batch_size=8, precision="fp32", baseline="none", log_every=1, tokens_per_batch=128),
    )
    return override(recipe, changes)


@pytest.fixture(scope="module")
def taught(teacher: RunDirectory, place: Path) -> RunDirectory:
    run = api.train(pupil(teacher.path), run_dir=place / "pupil", console=quiet())
    return run.paths


def answers_in(run: RunDirectory) -> dict[str, list[float]]:
    table = pq.read_table(run.teacher.parent / "answers.parquet")
    return dict(zip(table["content"].to_pylist(), table["logits"].to_pylist(), strict=True))


def losses_of(run: RunDirectory) -> list[float]:
    return [row["loss"] for row in run.read_history() if row["event"] == "step"]


def fitted(recipe: Recipe, path: Path) -> RunDirectory:
    """Its stages alone, without an end, which takes most of the time of so small a run."""
    with open_run(experiment := prepare(recipe), RunDirectory(path), console=quiet()) as opened:
        fit(experiment, opened)
    return opened.directory


def test_every_different_training_row_has_the_teachers_own_answer(teacher: RunDirectory, taught: RunDirectory) -> None:
    experiment = prepare(pupil(teacher.path))
    assert ids(experiment.rows)[40:] == [f"unlabelled/{row}" for row in range(4)]
    texts = list(experiment.rows["text"])
    assert texts[40:] == [text for text in MORE if text]  # the second one of two that are equal is a row of its own
    answers = answers_in(taught)
    assert len(answers) == 43
    stored = np.array(list(answers.values()))
    sure = np.exp(stored) / np.exp(stored).sum(axis=1, keepdims=True)
    predicted = Predictor(teacher.path).predict(texts[-3:])
    for one in predicted:
        assert np.abs(sure[:, 1] - one.probabilities["positive"]).min() < 1e-5


def test_rows_without_a_label_stand_behind_those_of_train(teacher: RunDirectory) -> None:
    experiment = prepare(pupil(teacher.path))
    assert experiment.unlabelled is not None
    rows = with_unlabelled(experiment.splits.train, experiment.unlabelled)
    assert list(rows["label"])[40:] == [-1] * (len(rows) - 40) and rows.features == experiment.splits.train.features
    assert experiment.samples["train"].targets[40:].tolist() == [-1] * (len(rows) - 40)


def test_the_plan_says_who_teaches_and_what_an_epoch_has(teacher: RunDirectory) -> None:
    plan = make_plan(prepare(pupil(teacher.path)))
    assert plan.train_examples == 44 and [stage.steps for stage in plan.stages] == [6, 12]
    said = "\n".join(plan.remarks)
    assert "It learns from a teacher as well (teacher.run): nano, BertForSequenceClassification of 1,924,482 parameters" in said
    assert "temperature 2; its weight is 0.7, and that of the labels 0.3" in said
    assert "An epoch has 4 texts without a label besides (data.unlabelled)" in said


def test_the_run_compares_itself_with_its_teacher_and_the_card_says_so(teacher: RunDirectory, taught: RunDirectory) -> None:
    record = read_teacher(taught)
    assert record is not None and record["unknown"] is None and record["rows"] == {"labelled": 40, "unlabelled": 4}
    own, theirs = (Predictions.load(run.predictions("test")) for run in (taught, teacher))
    assert theirs.ids == own.ids
    values = record["splits"]["test"]
    assert values["n"] == 19 and values["agreement"] == pytest.approx(float((own.predicted == theirs.predicted).mean()))
    assert values["difference"] == pytest.approx(float(own.right.mean() - theirs.right.mean()))
    card = " ".join(render_card(taught).split())
    assert "It has learned from the answers of another model as well" in card
    assert "nano, BertForSequenceClassification with 1,924,482 parameters, at a temperature of 2." in card
    assert "its answer has 0.7 and the label 0.3; 4 further texts had no label, and its answer alone." in card
    assert verify(taught, figures=False).failed == ()


def test_verify_finds_a_comparison_with_the_teacher_that_was_changed(taught: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(Path(shutil.copytree(taught.path, tmp_path / "copy")))
    record = read_json(copy.teacher)
    record["splits"]["test"]["agreement"] = 1.5
    write_json(copy.teacher, record)
    failed = verify(copy, figures=False).failed
    assert ("teacher.json", "test.agreement") in {(claim.kind, claim.where) for claim in failed}


def test_a_teacher_changes_what_is_learned_and_its_weight_and_temperature_do(
    teacher: RunDirectory, taught: RunDirectory, tmp_path: Path
) -> None:
    losses = {
        name: [
            row["loss"] for row in train(pupil(teacher.path, *changes), tmp_path / name).read_history() if row["event"] == "step"
        ]
        for name, changes in {"alone": ["teacher=null"], "light": ["teacher.weight=0.1"], "warm": ["teacher.temperature=5"]}.items()
    }
    losses["taught"] = [row["loss"] for row in taught.read_history() if row["event"] == "step"]
    assert len({tuple(each) for each in losses.values()}) == 4
    assert len(losses["alone"]) == 15  # 40 reviews / 8: without a teacher nothing reads data.unlabelled


def test_a_run_that_is_stopped_goes_on_without_its_teacher_to_the_same_end(
    teacher: RunDirectory, taught: RunDirectory, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = pupil(teacher.path)
    away = place / "away"
    try:
        for sitting in range(3):  # 18 steps: 4, in the stage of the head, 6 more, and the rest
            with signal_at(monkeypatch, step=(4, 6, 99)[sitting]), suppress(Stopped):
                train(recipe, tmp_path / "run", resume=sitting > 0)
            if sitting == 0:
                teacher.path.rename(away)
    finally:
        away.rename(teacher.path)
    stopped = RunDirectory(tmp_path / "run")
    assert read_json(stopped.environment)["sessions"] == 3
    assert_same_run(taught, stopped)
    assert read_json(stopped.teacher) == read_json(taught.teacher)
    assert stopped.load_recipe().teacher == recipe.teacher  # its own run, and not the folder of its answers


def test_a_run_is_repeated_by_the_answers_that_lie_beside_it(
    teacher: RunDirectory, taught: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr("hftl.training.teacher.load_classifier", never)
    again = fitted(pupil(teacher.path, f"teacher.run={taught.teacher.parent}"), tmp_path / "again")
    assert losses_of(again) == losses_of(taught) and answers_in(again) == answers_in(taught)
    assert read_json(again.teacher) == {**read_json(taught.teacher), "splits": {}}  # until both are compared at its end


def test_the_cache_of_frozen_layers_changes_nothing(teacher: RunDirectory, taught: RunDirectory, tmp_path: Path) -> None:
    without = fitted(pupil(teacher.path, "run.cache_gb=0"), tmp_path / "run")
    losses = [losses_of(run) for run in (taught, without)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 18


@pytest.mark.slow
def test_two_processes_learn_from_a_teacher_as_one_does(teacher: RunDirectory, tmp_path: Path, forks: Forks) -> None:
    recipe, runs = pupil(teacher.path, "model.dropout=0"), []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        arguments = ("train", str(write_recipe(recipe, tmp_path)), "--run-dir", str(folder))
        own = {**environment(several=processes > 1), "HFTL_CACHE": str(tmp_path / f"cache-{processes}")}
        started = forks.start(*arguments, environment=own, processes=processes)
        _, said = started.communicate()
        assert started.returncode == 0, said
        runs.append(RunDirectory(folder))
    one, two = (answers_in(run) for run in runs)
    assert list(one) == list(two)
    np.testing.assert_allclose(list(one.values()), list(two.values()), atol=1e-4)
    losses = [losses_of(run) for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[0]) == 18


def test_what_is_published_names_the_teacher_and_no_place(taught: RunDirectory, teacher: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(Path(shutil.copytree(taught.path, tmp_path / "copy")))
    copy.write_recipe(override(copy.load_recipe(), ["card.license=mit", "card.language=en"]))
    published = publication.prepare(copy, "me/pupil")
    assert {"teacher/teacher.json", "teacher/test.parquet"} <= set(published.files)
    assert "teacher/answers.parquet" in published.left_out
    theirs = parse_recipe(published.files["recipe.yaml"].read_text(encoding="utf-8"), source="it")
    assert theirs.teacher is not None and theirs.teacher.run == "local:nano"
    assert "teacher.run=PATH/TO/nano" in published.files["README.md"].read_text(encoding="utf-8")
    with pytest.raises(RecipeError, match="nano lay on the author's machine; name yours"):
        prepare(override(theirs, [f"data.source={reviews(4).source}", f"data.unlabelled={teacher.path.parent / 'more.txt'}"]))


def test_the_command_makes_a_run_the_teacher_of_a_recipe(teacher: RunDirectory, place: Path, tmp_path: Path) -> None:
    recipe = pupil(teacher.path, "teacher=null", "data.unlabelled=null", "stages.all.epochs=1")
    file = write_recipe(recipe, tmp_path)
    arguments = [
        str(teacher.path),
        "--student",
        str(file),
        "teacher.temperature=3",
        "--run-dir",
        str(tmp_path / "run"),
        "--no-test",
    ]
    with pytest.raises(SystemExit) as ended:
        main(argv=["distill", *arguments, "--run-dir", str(tmp_path / "run")])
    assert ended.value.code == 0
    run = RunDirectory(tmp_path / "run")
    assert run.load_recipe().teacher == Teacher(run=str(teacher.path), temperature=3.0)
    record = read_teacher(run)
    assert record is not None and list(record["splits"]) == ["validation"]  # its own test split is shut
    tested = api.load(run.path).test(say=lambda line: None)
    record = read_teacher(tested.paths)
    assert record is not None and list(record["splits"]) == ["validation", "test"]
    assert verify(run, figures=False).failed == ()
    with pytest.raises(RunError, match="a run cannot teach itself; choose another place"):
        api.distill(teacher.path, recipe, run_dir=teacher.path)


# --- other kinds --------------------------------------------------------------------------------------------------------------


def test_a_network_of_pictures_learns_from_another_by_clean_pictures(tmp_path: Path) -> None:
    recipe = noisy_pictures(tmp_path / "photos", "data.augmentation_views=2")
    of_photos = train(recipe, tmp_path / "resnet")
    stages = {"all": Stage(lr=1e-3)}
    small = recipe.model_copy(update={"name": "cnn", "model": CNN(channels=(4, 8)), "stages": stages})
    small = override(small, [f"teacher.run={of_photos.path}"])
    plan = "\n".join(make_plan(prepare(small)).remarks)
    assert "answers are those to the pictures as evaluation sees them, and not to their augmented views" in plan
    run = train(small, tmp_path / "cnn")
    assert len(answers_in(run)) == 30 and verify(run, figures=False).failed == ()
    card = " ".join(render_card(run).split())
    assert "Of the loss of a training picture its answer has 0.7" in card


def test_a_model_of_several_labels_learns_from_another(tmp_path: Path) -> None:
    names = ("joy", "anger", "fear")
    (tmp_path / "mails").mkdir()
    for split, start, count in (("train", 0, 24), ("validation", 24, 12), ("test", 36, 12)):
        rows = [
            {"text": f"{row['body']} {number}", **{name: str(int(number % (place + 2) == 0)) for place, name in enumerate(names)}}
            for number, row in enumerate(mails(count, start=start), start=start)
        ]
        write_rows(tmp_path / "mails" / f"{split}.csv", rows)
    (tmp_path / "more.txt").write_text("one more mail\nand another one\n", encoding="utf-8")
    data = TextData(source=str(tmp_path / "mails"), label_column=names, max_length=16)
    several = train(nano("several", data, {"all": Stage(lr=3e-4)}, log_every=1), tmp_path / "several")
    run = train(pupil(several.path, data=data.model_copy(update={"unlabelled": str(tmp_path / "more.txt")})), tmp_path / "pupil")
    record = read_teacher(run)
    assert record is not None and record["target"] == SEVERAL_LABELS and "macro_f1" in record["splits"]["test"]
    assert verify(run, figures=False).failed == ()


def test_classes_in_another_order_are_matched_by_name(teacher: RunDirectory, tmp_path: Path) -> None:
    other = RunDirectory(Path(shutil.copytree(teacher.path, tmp_path / "other")))
    for split in ("validation", "test"):
        predictions = Predictions.load(other.predictions(split))
        turned = Predictions(predictions.ids, 1 - predictions.labels, np.ascontiguousarray(predictions.logits[:, ::-1]))
        turned.save(other.predictions(split), ("positive", "negative"))
    manifest = read_json(other.manifest)
    for name in manifest["files"]:
        manifest["files"][name] = fingerprint(other.path / name)
    write_json(other.manifest, manifest)
    experiment = prepare(pupil(other.path, data=reviews(40)))
    found = teacher_answers(experiment, Accelerator(cpu=True), lambda line: None)
    straight = teacher_answers(prepare(pupil(teacher.path, data=reviews(40))), Accelerator(cpu=True), lambda line: None)
    assert found is not None and straight is not None
    # Its files say that the model's first class is "positive" now.
    np.testing.assert_array_equal(found.logits, straight.logits[:, ::-1])


# --- whom it may not teach ----------------------------------------------------------------------------------------------------


def refusal(recipe: Recipe) -> str:
    with pytest.raises(RecipeError) as refused:
        prepare(recipe)
    return str(refused.value)


def test_a_teacher_that_has_learned_from_the_rows_of_the_exam_is_refused(teacher: RunDirectory) -> None:
    turned = reviews(19).model_copy(update={"train_split": "test", "test_split": "train", "max_test_samples": None})
    said = refusal(pupil(teacher.path, data=turned))
    # Of the 600 rows 40 have taught the teacher, and 21 have chosen its weights.
    assert f"{teacher.path} has learned from 61 of the 600 test rows of this recipe, or was chosen by them" in said
    assert "what it teaches would be its answers to the exam" in said
    assert "divide as the teacher did: data.split_seed=0, with its data.source and data.validation_fraction" in said


def test_where_it_cannot_be_told_what_it_has_learned_from_plan_and_card_say_so(teacher: RunDirectory, tmp_path: Path) -> None:
    mails_of = tmp_path / "mails"
    mails_of.mkdir()
    for split, start in (("train", 0), ("validation", 40), ("test", 60)):
        write_rows(mails_of / f"{split}.csv", mails(20, start=start))
    data = TextData(source=str(mails_of), text_column="body", max_length=16)
    of_teacher = train(nano("nano", data, {"all": Stage(lr=3e-4)}, log_every=1), tmp_path / "nano")
    moved = Path(shutil.copytree(mails_of, tmp_path / "elsewhere"))
    recipe = pupil(of_teacher.path, data=data.model_copy(update={"source": str(moved), "max_test_samples": 10}))
    assert prepare(recipe).teacher is not None
    shutil.rmtree(mails_of)
    plan = "\n".join(make_plan(prepare(recipe)).remarks)
    assert "Whether the teacher has learned from rows of validation or test is not known: the data that it was trained on" in plan
    run = fitted(recipe, tmp_path / "pupil")
    record = read_teacher(run)
    assert record is not None and record["unknown"] == "the data that it was trained on cannot be read any more"
    theirs = [split for split in ("validation", "test") if run.teacher_predictions(split).is_file()]
    assert theirs == ["validation"]  # it has answered other test rows


def test_an_unfinished_run_does_not_teach(teacher: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    shutil.copy(teacher.recipe, tmp_path / "begun")
    assert f"{tmp_path / 'begun'} is not finished, so there is no model to learn from" in refusal(
        pupil(tmp_path / "begun", data=reviews(40))
    )
    assert f"no run in {tmp_path}" in refusal(pupil(tmp_path, data=reviews(40)))
    said = refusal(pupil(Path("nowhere"), data=reviews(40)))
    assert "teacher.run: no such folder: " in said and "teacher.run=THAT_RUN/teacher" in said


def test_a_teacher_of_other_classes_or_pictures_is_refused(teacher: RunDirectory, tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": ("good", "bad", "fair")[number % 3]} for number in range(30)]
    source = write_rows(tmp_path / "rows.csv", rows)
    said = refusal(pupil(teacher.path, data=TextData(source=str(source), test_fraction=0.2, max_length=16)))
    assert "it tells other classes apart: it alone knows negative, positive; these data alone have bad, fair, good" in said
    photos = override(noisy_pictures(tmp_path / "photos"), [f"teacher.run={teacher.path}"])
    assert "it reads texts, and this recipe images" in refusal(photos)


def test_mixed_pictures_and_rows_drawn_by_class_do_not_go_with_it(teacher: RunDirectory, tmp_path: Path) -> None:
    photos = noisy_pictures(tmp_path / "photos", f"teacher.run={teacher.path}")
    with pytest.raises(RecipeError, match=r"stages.top.mix: the teacher answers each picture as it is, and no mixture of two"):
        override(photos, ["stages.top.mix=mixup"])
    with pytest.raises(RecipeError, match=r"sampling: draws rows by their class, and those of data.unlabelled have none"):
        override(pupil(teacher.path), ["stages.all.sampling=balanced"])
    assert override(pupil(teacher.path), ["stages.all.sampling=balanced", "data.unlabelled=null"]).learns_unlabelled is False


def test_answers_of_another_division_or_of_fewer_rows_are_refused(teacher: RunDirectory, taught: RunDirectory) -> None:
    kept = taught.teacher.parent
    assert "has answers to the rows of one split, and this recipe divides them otherwise" in refusal(
        pupil(kept, data=reviews(40, validation=20))
    )
    more = pupil(kept, data=reviews(60))
    said = io.StringIO()
    with pytest.raises(RecipeError, match=r"has no answer to \d+ of the \d+ different training rows of this recipe"):
        api.train(more, run_dir=kept.parent.parent / "more", console=Console(file=said))


def test_a_teacher_whose_model_was_changed_is_refused(teacher: RunDirectory, tmp_path: Path) -> None:
    copy = RunDirectory(Path(shutil.copytree(teacher.path, tmp_path / "copy")))
    (copy.model / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="not as training sealed it"):
        prepare(pupil(copy.path, data=reviews(40)))


def test_what_a_teacher_is_called_and_not_where_it_lies_counts_as_a_recipe(teacher: RunDirectory) -> None:
    one, other = effective(pupil(teacher.path)), effective(pupil(Path("elsewhere") / "nano"))
    assert one["teacher.run"] == other["teacher.run"] == "nano" and one["teacher.temperature"] == 2.0
    assert "data.unlabelled" in one and "data.unlabelled" not in effective(pupil(teacher.path, "teacher=null"))
