"""Smaller forms of a model: the trimmed vocabulary, the table by hand, and whole runs of `hftl shrink`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from small import mails, nano, noisy_pictures, reviews, train, write_rows

from hftl import api
from hftl.cli import main
from hftl.errors import RunError
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json
from hftl.models import load_classifier, save_classifier, transformer
from hftl.models.vocabulary import trimmed
from hftl.recipe import CNN, Stage, TextCNN, TextData, Transformer, Windows
from hftl.records.shrink import Form, ShrinkRecord, read_shrink
from hftl.run import RunDirectory
from hftl.samples import BERT_NANO
from hftl.sharing.card import render_card
from hftl.sharing.forms import front_of, nothing_reaches, ratio
from hftl.shrinking import distinct

TEXTS = ("A warm, funny film.", "It drags, and nobody cares.", "Unforgettable!")


# --- the vocabulary -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts_only(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    data = reviews(40, 21, 10)
    return train(nano("nano", data, {"all": Stage(lr=3e-4)}, log_every=1, test="sealed"), tmp_path_factory.mktemp("nano") / "run")


def logits_of(classifier: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = classifier.model(**classifier.preprocessor(text, return_tensors="pt")).logits
    return logits


@pytest.mark.parametrize("windows", [None, Windows(length=16, overlap=4)], ids=["pooled", "pooled in windows"])
def test_a_model_around_another_is_saved_with_its_fewer_pieces(windows: Windows | None, tmp_path: Path) -> None:
    classifier: Any = transformer.build(Transformer(checkpoint=small.BERT_NANO, pooling="mean"), ["a", "b"], windows=windows)
    classifier.model.eval()
    texts = ["A warm, funny film.", "It drags, and nobody cares, not even about the end of it, which does not come for hours."]
    fewer: Any = trimmed(classifier, texts)
    save_classifier(fewer, tmp_path / "fewer")
    loaded: Any = load_classifier(tmp_path / "fewer")
    assert loaded.model.get_input_embeddings().weight.shape[0] == len(loaded.preprocessor.get_vocab()) < 1_000
    for text in texts:
        torch.testing.assert_close(logits_of(classifier, text), logits_of(loaded, text), rtol=0, atol=1e-6)


def test_the_pieces_of_the_texts_alone_give_them_the_same_logits(texts_only: RunDirectory, tmp_path: Path) -> None:
    whole: Any = load_classifier(texts_only.model)
    fewer: Any = trimmed(whole, TEXTS)
    assert fewer is not None
    rows = fewer.model.get_input_embeddings().weight.shape[0]
    assert rows == fewer.model.config.vocab_size == len(fewer.preprocessor.get_vocab()) < 1_000
    assert whole.model.get_input_embeddings().weight.shape[0] == 8192  # it stays as it was
    save_classifier(fewer, tmp_path / "fewer")
    loaded: Any = load_classifier(tmp_path / "fewer")
    for text in TEXTS:
        assert whole.preprocessor.tokenize(text) == loaded.preprocessor.tokenize(text)
        torch.testing.assert_close(
            logits_of(whole, text), logits_of(loaded, text), rtol=0, atol=1e-6
        )  # in other memory sums may round otherwise
    assert loaded.preprocessor.pad_token_id == loaded.model.config.pad_token_id == 0
    # A word whose piece has gone is read letter by letter, and is not unknown.
    pieces = loaded.preprocessor.tokenize("cinema")
    assert "[UNK]" not in pieces and "".join(piece.removeprefix("##") for piece in pieces) == "cinema"


def test_special_pieces_that_lie_further_behind_get_their_new_numbers_everywhere(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BERT_NANO, tmp_path / "bert"))
    classifier = load_classifier_of(folder)
    fewer: Any = trimmed(classifier, ["good"])
    assert fewer is not None
    ids = fewer.preprocessor("good")["input_ids"]
    assert fewer.preprocessor.convert_ids_to_tokens(ids) == ["[CLS]", "good", "[SEP]"]
    assert ids[0] == fewer.preprocessor.cls_token_id and ids[-1] == fewer.preprocessor.sep_token_id


def load_classifier_of(folder: Path) -> Any:
    """A base model with a new head, whose special pieces are moved to the end of its vocabulary."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from hftl.models.family import Classifier
    from hftl.models.transformer import chain

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Classifier(model.eval(), tokenizer, chain(model), {})


def test_a_vocabulary_of_words_stays_as_it_is(tmp_path: Path) -> None:
    recipe = nano("words", reviews(30, 12, 10), {"all": Stage(lr=1e-2)}, log_every=1, test="sealed")
    run = train(recipe.model_copy(update={"model": TextCNN(vectors="random:6", channels=4)}), tmp_path / "run")
    assert trimmed(load_classifier(run.model), TEXTS) is None


# --- the table ----------------------------------------------------------------------------------------------------------------


def form(name: str, accuracy: float, ms: float, mb: float, *, not_worse: bool = True) -> Form:
    seconds = {"median": ms / 1e3, "p95": ms / 1e3}
    return {
        "name": name,
        "folder": name if not_worse else None,
        "bytes": int(1e6 * mb),
        "peak_bytes": 10**8,
        "batch_1": seconds,  # type: ignore[typeddict-item]
        "batch_32": seconds,  # type: ignore[typeddict-item]
        "accuracy": accuracy,
        "difference": accuracy - 0.9,
        "difference_interval": None,
        "not_worse": not_worse,
        "reaches": False,
    }


STATIC = form("static", 0.7, 6, 25, not_worse=False)
FORMS = [form("fp32", 0.9, 20, 90), form("int8", 0.895, 8, 25), STATIC, form("bad", 0.6, 9, 30)]


def test_the_front_has_the_forms_that_no_other_beats_in_everything() -> None:
    assert [each["name"] for each in front_of(FORMS)] == ["static", "int8", "fp32"]


def test_how_far_a_form_is_from_its_targets_is_its_largerratio() -> None:
    assert ratio(FORMS[1], 5, None) == pytest.approx(1.6) and ratio(FORMS[1], 16, 10) == pytest.approx(2.5)
    assert ratio(FORMS[1], None, None) == 0


def test_where_nothing_reaches_the_message_names_the_nearest_that_is_not_worse() -> None:
    record: ShrinkRecord = {
        "time": "now",
        "processor": "one",
        "threads": 1,
        "runtime": "onnxruntime 1",
        "n": 100,
        "margin": 0.01,
        "target_ms": 7.0,
        "target_mb": None,
        "forms": [*FORMS[:2], {**FORMS[2], "reaches": True}],
        "left_out": [],
        "chosen": None,
        "sources": {"": "0"},
    }
    said = nothing_reaches(RunDirectory(Path("runs/x")), record)
    assert "no form that is not worse reaches 7 ms for one input. The nearest is int8: 8 ms, 25 MB, accuracy -0.0050." in said
    assert "What reaches it is worse: static." in said and "\nint8 " in said and "hftl distill runs/x --student RECIPE" in said


# --- whole ones ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shrunk(texts_only: RunDirectory) -> RunDirectory:
    student = nano("student", reviews(40, 21, 10), {"all": Stage(lr=1e-2)}, log_every=1, test="sealed")
    student = student.model_copy(update={"model": TextCNN(vectors="random:6", channels=4)})
    of_student = train(student, texts_only.path.parent / "student")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hftl.shrinking.SECONDS", 0.05)
        api.load(texts_only.path).shrink(target_ms=1e4, students=[of_student.path], threads=1, say=lambda line: None)
    return texts_only


@pytest.mark.slow
def test_every_form_is_measured_on_the_validation_rows_and_what_is_not_worse_is_kept(shrunk: RunDirectory) -> None:
    record = read_shrink(shrunk)
    assert record is not None and record["n"] == 21 and record["threads"] == 1
    forms = {each["name"]: each for each in record["forms"]}
    assert (
        list(forms)
        == [
            *("fp32", "int8 dynamic", "int8 static", "trimmed fp32", "trimmed int8 dynamic"),
            *("student fp32", "student int8 dynamic", "student int8 static"),
        ]
        or record["left_out"]
    )
    assert forms["fp32"]["difference"] == 0 and forms["trimmed fp32"]["not_worse"]
    assert forms["int8 dynamic"]["bytes"] < 0.5 * forms["fp32"]["bytes"]
    assert forms["trimmed int8 dynamic"]["bytes"] < forms["int8 dynamic"]["bytes"]
    kept = {path.name for path in shrunk.shrink.parent.iterdir() if path.is_dir()}
    assert kept == {each["folder"] for each in record["forms"] if each["not_worse"]}
    assert all(each["folder"] is None for each in record["forms"] if not each["not_worse"])
    for each in record["forms"]:
        assert 0 < each["batch_1"]["median"] <= each["batch_1"]["p95"] and each["peak_bytes"] > 1e7
    best = max(each["accuracy"] for each in record["forms"] if each["not_worse"])
    assert record["chosen"] is not None and forms[record["chosen"]]["accuracy"] == best


@pytest.mark.slow
def test_the_card_has_the_table_and_the_figure(shrunk: RunDirectory) -> None:
    card = render_card(shrunk)
    assert "## Smaller forms" in card and "(shrink/front.png)" in card and "**chosen**" in card
    assert (shrunk.shrink.parent / "front.png").is_file()
    assert api.load(shrunk.path).verify().failed == ()


@pytest.mark.slow
def test_with_other_targets_it_chooses_again_and_with_another_question_nothing_is_written_over(shrunk: RunDirectory) -> None:
    before, run, student = read_json(shrunk.shrink), api.load(shrunk.path), shrunk.path.parent / "student"
    smallest = min((form for form in before["forms"] if form["not_worse"]), key=lambda form: form["bytes"])
    said: list[str] = []
    again = run.shrink(target_mb=1.001 * smallest["bytes"] / 1e6, students=[student], threads=1, say=said.append)
    assert again.record["chosen"] == smallest["name"] and not any("measuring" in line for line in said)
    after = read_json(shrunk.shrink)
    assert (after["chosen"], after["time"]) == (smallest["name"], before["time"])
    assert [form["batch_1"] for form in after["forms"]] == [form["batch_1"] for form in before["forms"]]
    run.shrink(target_ms=1e4, students=[student], threads=1, say=said.append)
    assert read_json(shrunk.shrink) == before
    with pytest.raises(RunError, match="measured with other sources; nothing is written over: remove it first"):
        run.shrink(threads=1, say=said.append)
    with pytest.raises(RunError, match="measured with other margin; nothing"):
        run.shrink(margin=0.5, students=[student], threads=1, say=said.append)


def test_students_of_one_folder_name_are_told_apart() -> None:
    assert distinct(["run", "small", "run", "run-2"]) == ["run", "small", "run-2", "run-2-2"]
    assert distinct(["trimmed"], taken=["trimmed"]) == ["trimmed-2"]


@pytest.mark.slow
def test_a_target_that_nothing_reaches_is_one_message_and_the_table_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hftl.shrinking.SECONDS", 0.01)
    stages = {"all": Stage(lr=1e-3)}
    photos = noisy_pictures(tmp_path / "photos").model_copy(update={"name": "cnn", "model": CNN(channels=(4, 8)), "stages": stages})
    run = train(photos, tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(argv=["shrink", str(run.path), "--target-mb", "0.000001", "--threads", "1"])
    assert ended.value.code == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "no form that is not worse reaches 1e-06 MB. The nearest is" in said
    record = read_shrink(run)
    assert record is not None and record["chosen"] is None
    assert "None that is not worse reaches the target of 1e-06 MB." in render_card(run)


def test_a_student_of_other_rows_and_a_run_without_its_data_are_refused(
    texts_only: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "mails.csv", mails(60))
    data = TextData(source=str(tmp_path / "mails.csv"), text_column="body", max_length=16)
    other = train(nano("mails", data, {"all": Stage(lr=3e-4)}, log_every=1, test="sealed"), tmp_path / "mails")
    with pytest.raises(RunError, match="tells other classes apart than"):
        api.load(other.path).shrink(students=[texts_only.path], say=lambda line: None)
    (tmp_path / "mails.csv").unlink()
    with pytest.raises(RunError, match="its forms cannot be measured: the data that it was trained on cannot be read any more"):
        api.load(other.path).shrink(say=lambda line: None)
    with pytest.raises(RunError, match="--target-ms: 0 is not greater than 0"):
        api.load(other.path).shrink(target_ms=0, say=lambda line: None)


@pytest.mark.slow
def test_the_forms_answers_are_those_of_the_model(shrunk: RunDirectory) -> None:
    stored = Predictions.load(shrunk.predictions("validation"))
    assert read_json(shrunk.metrics)["validation"]["accuracy"] == pytest.approx(float(stored.right.mean()))
    record = read_shrink(shrunk)
    assert record is not None
    assert record["forms"][0]["accuracy"] == pytest.approx(float(np.mean(stored.right)))
