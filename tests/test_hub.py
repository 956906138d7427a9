"""Push, pull, predict, repeat and verify, by the real client over real HTTP, with a run of each family.

The local Hub of hub_server.py stands at the network's edge; nothing of hftl or huggingface_hub is replaced.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, Hftl
from digits import write_digits
from hub_server import READ_TOKEN, WRITE_TOKEN, LocalHub, User
from safetensors.torch import load_file, save_file
from small import BERT_NANO, small_vectors

from hftl.api import train
from hftl.errors import RunError
from hftl.evaluation.gain import gain
from hftl.evaluation.metrics import compute_metrics
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.report import write_figures
from hftl.evaluation.serving import ServingSamples
from hftl.files import fingerprint, read_json
from hftl.ledger import note_opening
from hftl.recipe import BiLSTM, Card, ImageData, Recipe, RunSettings, Stage, TextCNN, TextData, Timm, Transformer
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.sharing.hub import _send, check_target, fetch_recipe, push
from hftl.sharing.publication import prepare

# huggingface_hub's LFS upload warns about its own use of its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

FAMILIES = ("transformer", "textcnn", "bilstm", "timm")
CARD = Card(license="apache-2.0", language="en", intended_use="Tests.")


def family_recipe(family: str, folder: Path) -> Recipe:
    text = TextData(source=REVIEWS, max_length=40, max_train_samples=64, max_validation_samples=24, max_test_samples=30)
    glove: dict[str, Any] = {"vectors": str(small_vectors(folder / "small.txt")), "trainable_dim": 4} if "t" in family else {}
    data: Any = text
    match family:
        case "transformer":
            model: Any = Transformer(checkpoint=BERT_NANO)
        case "textcnn":
            model = TextCNN(channels=8, **glove)
        case "bilstm":
            model = BiLSTM(hidden_size=8, layers=1, **glove)
        case _:
            model = Timm(checkpoint="test_resnet", pretrained=False)
            source = write_digits(folder / "digits", range(3), train_per_class=12)
            data = ImageData(source=str(source), image_size=32, validation_fraction=0.25, max_test_samples=20)
    stages = {"head": Stage(unfreeze="head", lr=1e-2), "all": Stage(lr=1e-3)}
    card = CARD.model_copy(update={"language": None}) if family == "timm" else CARD
    return Recipe(name=family, data=data, model=model, stages=stages, run=RunSettings(batch_size=16, precision="fp32"), card=card)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDirectory]:
    """A finished run of a family, trained when it is first asked for."""
    made: dict[str, RunDirectory] = {}

    def run(family: str) -> RunDirectory:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = train(family_recipe(family, folder), run_dir=folder / "run").paths
        return made[family]

    return run


@pytest.fixture
def own(runs: Callable[[str], RunDirectory], tmp_path: Path) -> RunDirectory:
    """A copy of the timm run that a test may change."""
    return copy_of(runs("timm"), tmp_path)


def copy_of(run: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(run.path, tmp_path / "run")))


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    return WRITE_TOKEN


def publish(run: RunDirectory, repo_id: str, *, private: bool = False, revision: str = "main") -> str:
    """What `hftl push` does, without the fresh process that serves the model: the tests of that are elsewhere in this file."""
    publication = prepare(run, repo_id)
    target = check_target(publication, private=private, revision=revision)
    assert target is not None
    return _send(publication, target, private=private, message="a run")


def in_another_process(hub: LocalHub, home: Path, script: str, *arguments: str) -> Any:
    """What a script prints as JSON, run by a process that knows the Hub and nothing of hftl or of this folder."""
    blocked = "import sys; sys.modules['hftl'] = None\n"
    done = subprocess.run(
        [sys.executable, "-P", "-c", blocked + script, *arguments],
        env=hub.environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SERVE = """
import io, json
from pathlib import Path
from PIL import Image
from transformers import pipeline
repo_id, revision, code, inputs = sys.argv[1:]
inputs = json.loads(inputs)
options = {"trust_remote_code": True} if code == "code" else {}
served = pipeline(model=repo_id, revision=revision, device="cpu", **options)
names = [served.model.config.id2label[i] for i in range(served.model.config.num_labels)]
cut = {"truncation": True} if served.task == "text-classification" else {}
rows = []
for given in inputs:
    given = given if cut else Image.open(io.BytesIO(bytes.fromhex(given)))
    scores = {row["label"]: row["score"] for row in served(given, top_k=len(names), function_to_apply="none", **cut)}
    rows.append([scores[name] for name in names])
print(json.dumps({"names": names, "logits": rows}))
"""


# --- the whole way ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_is_pushed_served_elsewhere_pulled_verified_and_a_changed_digit_caught(
    family: str, runs: Callable[[str], RunDirectory], hub: LocalHub, hftl: Hftl, token: str, tmp_path: Path
) -> None:
    run, repo_id = runs(family), f"me/{family}"
    pushed = hftl("push", run.path, repo_id)
    assert pushed.code == 0, pushed.err
    assert f"check:  hftl verify {repo_id}" in pushed.out
    repo = hub.repos[repo_id]
    assert len(repo.commits) == 2  # the Hub's own first one, and ours

    # A stranger, without hftl, in a process of his own.
    samples = ServingSamples.load(run.serving)
    inputs = [given.hex() if isinstance(given, bytes) else given for given in samples.inputs]
    code = "code" if family in {"textcnn", "bilstm"} else "no code"
    answer = in_another_process(hub, tmp_path, SERVE, repo_id, repo.commits[-1].sha, code, json.dumps(inputs))
    assert answer["names"] == read_json(run.data)["label_names"]
    np.testing.assert_allclose(np.array(answer["logits"]), samples.logits, atol=1e-5)

    # A sceptic.
    verified = hftl("verify", repo_id)
    assert verified.code == 0, verified.out + verified.err
    assert "WRONG" not in verified.out and re.search(r"metrics\.json, test.*\n(.*\n)+?  ok  accuracy", verified.out)
    pulled = tmp_path / "pulled"
    assert hftl("pull", repo_id, "--output", pulled).code == 0
    assert {path.name for path in pulled.iterdir()} >= {"README.md", "recipe.yaml", "config.json", "predictions", "figures"}
    assert hftl("verify", pulled).code == 0
    data = family_recipe(family, tmp_path).data.source
    again = hftl("verify", pulled, "--data", data)
    assert again.code == 0 and re.search(r"the model, test.*\n.*\n?  ok  accuracy", again.out), again.out + again.err

    # A liar.
    readme = repo.files["README.md"].decode()
    before = re.search(r"\| Accuracy \|\s*(0\.\d+|1\.0+)", readme)
    assert before is not None
    digit = "3" if before[1][-1] != "3" else "4"
    changed = readme[: before.end() - 1] + digit + readme[before.end() :]
    repo.add_commit("main", "a better number", {**repo.files, "README.md": changed.encode()})
    caught = hftl("verify", repo_id)
    assert caught.code == 1
    assert re.search(rf"no  line \d+\s+{re.escape(before[1][:-1] + digit)}\s+{re.escape(before[1])}", caught.out)
    assert hftl("pull", repo_id, "--output", tmp_path / "never").code == 2
    assert not (tmp_path / "never").exists()


def test_a_published_recipe_is_repeated_once_its_local_places_are_named(
    runs: Callable[[str], RunDirectory], hub: LocalHub, hftl: Hftl, token: str, tmp_path: Path
) -> None:
    run = runs("textcnn")
    publish(run, "me/words")
    refused = hftl("train", "hub:me/words", "--run-dir", tmp_path / "again")
    assert refused.code == 2
    assert "data.source: reviews lay on the author's machine" in refused.err
    assert "model.vectors: small.txt lay on the author's machine" in refused.err
    assert not (tmp_path / "again").exists()
    recipe = run.load_recipe()
    places = [f"data.source={recipe.data.source}", f"model.vectors={getattr(recipe.model, 'vectors', '')}"]
    done = hftl("train", "hub:me/words", *places, "--run-dir", tmp_path / "again")
    assert done.code == 0, done.err
    card = RunDirectory(tmp_path / "again").load_recipe().card
    assert (card.license, card.intended_use, card.language) == (None, None, "en")  # the author's words were of another model
    assert read_json(tmp_path / "again" / "metrics.json")["test"] == read_json(run.metrics)["test"]


@pytest.mark.slow
def test_a_published_recipe_on_other_data_takes_no_word_of_its_author_along(
    own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str, tmp_path: Path
) -> None:
    said = ["card.title=My digits", "card.authors=A. Author", "card.dataset=me/digits-set", "card.dataset_name=Digits"]
    assert hftl("card", own.path, *said, "card.training_data=Digits, drawn by hand.", "card.tags=[digits]").code == 0
    publish(own, "me/claimed")
    # That the data are me/digits-set is the author's word: to repeat it proves nothing.
    assert fetch_recipe("hub:me/claimed").card.dataset_fingerprint is None
    known = json.dumps(read_json(own.data)["fingerprint"])
    assert hftl("card", own.path, f"card.dataset_fingerprint={known}").code == 0
    publish(own, "me/digits")
    same = hftl("train", "hub:me/digits", f"data.source={own.load_recipe().data.source}", "--run-dir", tmp_path / "same")
    assert same.code == 0, same.err
    assert (
        "left off the card: title, intended_use, license, tags and authors. The recipe says that of the model of me/digits"
        in same.err
    )
    recipe = RunDirectory(tmp_path / "same").load_recipe()
    card = recipe.card
    assert (card.dataset, card.dataset_name, card.training_data) == ("me/digits-set", "Digits", "Digits, drawn by hand.")
    assert (card.title, card.authors, card.license, card.tags, recipe.name) == (None, (), None, (), "timm")

    photos = write_digits(tmp_path / "photos", range(4, 7), train_per_class=12)
    other = hftl("train", "hub:me/digits", f"data.source={photos}", "card.license=mit", "--run-dir", tmp_path / "other")
    assert other.code == 0, other.err
    run = RunDirectory(tmp_path / "other")
    assert run.load_recipe().card == Card(license="mit")
    assert not re.search("author,|digit|me/", run.card.read_text().replace("not recorded", ""), re.IGNORECASE)


def test_a_published_model_predicts_by_its_name(runs: Callable[[str], RunDirectory], hub: LocalHub, hftl: Hftl, token: str) -> None:
    run = runs("transformer")
    publish(run, "me/reviews", private=True)
    assert hub.repos["me/reviews"].private
    here = hftl("predict", run.path, "A slow start, but what an ending.")
    there = hftl("predict", "me/reviews", "A slow start, but what an ending.")
    assert there.code == 0, there.err
    assert there.out == here.out
    assert not hub.requests("GET", r"predictions|figures")  # only what predicting needs was fetched


# --- before the first byte ----------------------------------------------------------------------------------------------------


def no_licence(run: RunDirectory) -> None:
    run.recipe.write_text(run.recipe.read_text().replace("license: apache-2.0", "license: null"))


def another_number(run: RunDirectory) -> None:
    metrics = read_json(run.metrics)
    metrics["test"]["accuracy"] = 0.99
    run.metrics.write_text(json.dumps(metrics))


def a_token_in_the_history(run: RunDirectory) -> None:
    run.history.write_text(run.history.read_text() + json.dumps({"event": "note", "said": "hf_" + "Zz" * 17}) + "\n")


def another_data_set(run: RunDirectory) -> None:
    wrong = {"dataset": "stanfordnlp/imdb", "dataset_fingerprint": {"train": 64 * "0"}}
    recipe = run.load_recipe()
    card = recipe.card.model_copy(update=wrong)
    run.recipe.write_text(Recipe(**{**recipe.model_dump(), "card": card.model_dump()}).to_yaml())


def samples_of_another_model(run: RunDirectory) -> None:
    samples = ServingSamples.load(run.serving)
    ServingSamples(samples.ids, samples.inputs, -samples.logits).save(run.serving)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_licence, "There is no licence"),
        (another_data_set, "what was read is not stanfordnlp/imdb"),
        (a_token_in_the_history, "holds a Hugging Face token"),
        (another_number, "these claims do not hold"),
        (samples_of_another_model, "are not of the same model"),
    ],
)
def test_a_push_from_python_meets_every_gate_of_the_command_line(
    spoil: Callable[[RunDirectory], None], said: str, own: RunDirectory, hub: LocalHub, token: str
) -> None:
    spoil(own)
    with pytest.raises(RunError, match=said):
        push(own, "me/digits")
    assert hub.repos == {} and hub.received == 0


def test_a_push_from_python_says_what_it_did(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    lines: list[str] = []
    tried = push(own, "me/digits", dry_run=True, say=lines.append)
    assert tried.address is None and hub.repos == {} and "nothing was sent" in lines[-1]
    pushed = push(own, "me/digits", private=True)
    assert pushed.address is not None and "me/digits/commit" in pushed.address
    assert pushed.claims > 100 and pushed.parity.samples > 0 and pushed.target is not None and pushed.target.user == "me"
    assert hub.repos["me/digits"].private
    assert hftl("verify", "me/digits").code == 0


def test_nothing_but_push_sends() -> None:
    callers: dict[str, list[str]] = {"_send": [], "create_commit": [], "upload_file": [], "upload_folder": [], "push_to_hub": []}
    for path in sorted((REPOSITORY / "hftl").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                called = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
                for name in (getattr(call, "attr", getattr(call, "id", "")) for call in called):
                    if name in callers:
                        callers[name].append(f"{path.stem}.{function.name}")
    assert callers == {
        "_send": ["hub.push"],
        "create_commit": ["hub._send"],
        "upload_file": [],
        "upload_folder": [],
        "push_to_hub": [],
    }


def test_a_dry_run_shows_every_file_and_sends_nothing(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    (own.path / "checkpoints").mkdir()
    (own.path / "checkpoints" / "training_args.bin").write_bytes(b"pickle")
    (own.path / ".env").write_text("nothing")
    shown = hftl("push", own.path, "me/digits", "--dry-run")
    assert shown.code == 0, shown.err
    for name in ("README.md", "config.json", "model.safetensors", "predictions/test.parquet", "recipe.yaml", "manifest.json"):
        assert re.search(rf"\d+(\.\d)? k?M?B  {re.escape(name)}\n", shown.out), name
    assert "left out: .env, checkpoints/training_args.bin, log.txt, serving.parquet" in shown.out
    assert "me may write to me/digits (new, public unless its owner's default is not)" in shown.out
    assert "nothing was sent" in shown.out
    assert hub.repos == {} and hub.objects == {}
    assert {request.method for request in hub.log} == {"GET"}


def test_a_dry_run_works_without_a_hub(own: RunDirectory, hftl: Hftl) -> None:
    shown = hftl("push", own.path, "me/digits", "--dry-run")  # conftest.py switches the Hub off
    assert shown.code == 0, shown.err
    assert "rights   not checked" in shown.out
    refused = hftl("push", own.path, "me/digits")
    assert refused.code == 2 and "HF_HUB_OFFLINE" in refused.err  # before anything is served


def test_a_push_without_a_token_or_with_one_that_may_only_read_is_refused(
    own: RunDirectory, hub: LocalHub, hftl: Hftl, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = hftl("push", own.path, "me/digits")
    assert refused.code == 2 and "no token: set HF_TOKEN" in refused.err
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    refused = hftl("push", own.path, "me/digits")
    assert refused.code == 2 and "may read only" in refused.err
    assert hub.repos == {} and hub.received == 0


def test_a_push_to_somebody_elses_name_is_refused(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    refused = hftl("push", own.path, "google/digits")
    assert refused.code == 2
    assert "me may not write to google/...; owners this token knows: me, team" in refused.err
    assert hub.received == 0


def test_a_revoked_token_is_refused_without_being_shown_even_by_a_server_that_repeats_it(
    own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str
) -> None:
    hub.echo_authorization = True
    del hub.users[token]
    refused = hftl("push", own.path, "me/digits")
    assert refused.code == 2 and "refuses this token (401)" in refused.err
    assert token not in refused.err + refused.out


def test_a_model_that_hftl_did_not_push_is_not_written_over(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    hub.add_repo("me/digits", {"config.json": b"{}", "README.md": b"mine"})
    refused = hftl("push", own.path, "me/digits")
    assert refused.code == 2 and "holds what hftl did not push (config.json)" in refused.err
    assert len(hub.repos["me/digits"].commits) == 1


def test_another_run_is_replaced_only_when_that_is_asked_for(
    own: RunDirectory, runs: Callable[[str], RunDirectory], hub: LocalHub, hftl: Hftl, token: str
) -> None:
    publish(own, "me/model")
    refused = hftl("push", runs("textcnn").path, "me/model")
    assert refused.code == 2 and "me/model holds the run timm; choose another name, or push with --replace" in refused.err
    assert len(hub.repos["me/model"].commits) == 2


def test_serving_samples_of_another_model_are_noticed(own: RunDirectory, hftl: Hftl) -> None:
    samples = ServingSamples.load(own.serving)
    ServingSamples(samples.ids, samples.inputs, -samples.logits).save(own.serving)
    refused = hftl("push", own.path, "me/digits", "--dry-run")
    assert refused.code == 2 and "are not of the same model" in refused.err


def test_openings_by_other_runs_since_then_are_on_the_card_that_is_pushed(own: RunDirectory, tmp_path: Path, hftl: Hftl) -> None:
    other = RunDirectory(tmp_path / "other")
    other.path.mkdir()
    for name in ("recipe.yaml", "data.json"):
        shutil.copy(own.path / name, other.path / name)
    note_opening(other, rows=read_json(own.data)["test_rows"], by="hftl train", purpose="train")
    checked = hftl("push", own.path, "me/x", "--dry-run")
    assert checked.code == 0, checked.err
    assert "openings the test rows were opened 2 times by 2 runs by now: the card says so" in checked.out
    assert "**These test rows were opened 2 times by 2 runs**" in own.card.read_text()
    assert "by now" not in hftl("push", own.path, "me/x", "--dry-run").out  # once


def test_looking_at_ones_own_test_data_again_is_written_down_and_shown(own: RunDirectory, hftl: Hftl) -> None:
    assert hftl("verify", own.path, "--data", own.load_recipe().data.source).code == 0
    assert "The test split was opened 2 times" in own.card.read_text()
    assert hftl("verify", own.path).code == 0


def test_private_does_not_pretend_to_hide_what_is_public(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    hub.add_repo("me/digits", {"README.md": b""})
    refused = hftl("push", own.path, "me/digits", "--private")
    assert refused.code == 2 and "there already, and public" in refused.err


@pytest.mark.parametrize(
    "repo_id",
    [
        "digits",
        "../digits",
        "me/../you",
        "me/a/b",
        "me/x.git",
        "https://huggingface.co/me/x",
        "me/-x",
        "me/x y",
        "me/x\n",
        "/etc/passwd",
        "me/" + "x" * 97,
        "me/x--y",
    ],
)
def test_a_repository_name_with_tricks_is_refused(repo_id: str, own: RunDirectory, hftl: Hftl) -> None:
    refused = hftl("push", own.path, repo_id, "--dry-run")
    assert refused.code == 2 and refused.err.startswith("RunError:")
    assert hftl("verify", "hub:" + repo_id).code == 2


def test_an_unfinished_run_is_not_published(own: RunDirectory, hftl: Hftl) -> None:
    own.metrics.unlink()
    refused = hftl("push", own.path, "me/digits", "--dry-run")
    assert refused.code == 2 and "not finished" in refused.err


def test_a_card_without_a_licence_is_refused_with_the_way_out(own: RunDirectory, hftl: Hftl) -> None:
    own.recipe.write_text(own.recipe.read_text().replace("license: apache-2.0", "license: null"))
    refused = hftl("push", own.path, "me/digits", "--dry-run")
    assert refused.code == 2 and "card.license=" in refused.err
    assert hftl("card", own.path, "card.license=mit").code == 0
    prepare(own, "me/digits")


def test_a_token_anywhere_in_what_would_be_sent_stops_the_push(
    own: RunDirectory, hftl: Hftl, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = "hf_" + "Zz" * 17
    own.history.write_text(own.history.read_text() + json.dumps({"event": "note", "said": hidden}) + "\n")
    monkeypatch.setenv("MY_SECRET", "correct horse battery")
    own.environment.write_text(own.environment.read_text().replace('"processes"', '"x": "correct horse battery", "processes"'))
    refused = hftl("push", own.path, "me/digits", "--dry-run")
    assert refused.code == 2
    assert re.search(r"history\.jsonl, line \d+: holds a Hugging Face token", refused.err)
    assert re.search(r"environment\.json, line \d+: holds the value of MY_SECRET", refused.err)
    assert hidden not in refused.err and "correct horse" not in refused.err


def test_no_place_of_the_authors_machine_is_published(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    source = str(Path(own.load_recipe().data.source))
    assert source in own.recipe.read_text()
    publish(own, "me/digits")
    files = hub.repos["me/digits"].files
    assert [name for name, content in files.items() if source.encode() in content] == []
    assert "source: local:digits" in files["recipe.yaml"].decode()
    own.history.write_text(own.history.read_text() + json.dumps({"event": "note", "said": f"{Path.home()}/thesis"}) + "\n")
    refused = hftl("push", own.path, "me/digits")
    assert refused.code == 2 and "names a place on this machine" in refused.err


def test_a_metric_that_does_not_follow_from_the_predictions_is_not_published(own: RunDirectory, hftl: Hftl) -> None:
    metrics = read_json(own.metrics)
    metrics["test"]["accuracy"] = 0.99
    own.metrics.write_text(json.dumps(metrics))
    assert hftl("card", own.path).code == 0  # the card says what metrics.json says
    refused = hftl("push", own.path, "me/digits", "--dry-run")
    assert refused.code == 2 and "metrics.json, test.accuracy: 0.99; recomputed:" in refused.err


def test_a_model_that_answers_differently_when_served_is_not_published(
    own: RunDirectory, runs: Callable[[str], RunDirectory], hftl: Hftl, tmp_path: Path
) -> None:
    config = read_json(own.model / "config.json")
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (own.model / "config.json").write_text(json.dumps(config))
    own.manifest.unlink()  # otherwise the file is refused as changed
    refused = hftl("push", own.path, "me/digits", "--dry-run")
    assert refused.code == 2 and "transformers.pipeline answers differently from training" in refused.err

    words = copy_of(runs("textcnn"), tmp_path / "words")
    tokenizer = read_json(words.model / "tokenizer_config.json")
    (words.model / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "model_max_length": 5}))
    words.manifest.unlink()
    refused = hftl("push", words.path, "me/words", "--dry-run")
    assert refused.code == 2 and "transformers.pipeline answers differently from training" in refused.err


def test_a_model_that_was_exchanged_after_training_is_noticed(
    own: RunDirectory, runs: Callable[[str], RunDirectory], hftl: Hftl
) -> None:
    weights = own.model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0x40
    weights.write_bytes(content)
    refused = hftl("push", own.path, "me/digits", "--dry-run")
    assert refused.code == 2 and "model/model.safetensors" in refused.err and "changed" in refused.err


@pytest.mark.parametrize(
    ("file", "more"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.EvilConfig"}}),
        ("config.json", {"auto_map": {"AutoConfig": "evil/code--glove_modeling.GloveTextCNNConfig"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}}),
        ("config.json", {"custom_pipelines": {"text-classification": {"impl": "evil.EvilPipeline", "pt": ["AutoModel"]}}}),
    ],
)
def test_files_that_name_other_code_are_not_published_and_the_code_never_runs(
    file: str, more: dict[str, Any], runs: Callable[[str], RunDirectory], hftl: Hftl, tmp_path: Path
) -> None:
    run, marker = copy_of(runs("transformer"), tmp_path), tmp_path / "ran"
    run.manifest.unlink()
    (run.model / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    (run.model / file).write_text(json.dumps(read_json(run.model / file) | more))
    refused = hftl("push", run.path, "me/reviews", "--dry-run")
    assert (
        refused.code == 2 and f"{file}: {next(iter(more))}" in refused.err and "names code that hftl did not write" in refused.err
    )
    assert not marker.exists()


def test_a_changed_modelling_file_is_noticed_and_never_published(
    runs: Callable[[str], RunDirectory], hftl: Hftl, tmp_path: Path
) -> None:
    words = copy_of(runs("textcnn"), tmp_path)
    code = words.model / "glove_modeling.py"
    own = code.read_bytes()
    code.write_bytes(own + b"\nimport os\n")
    refused = hftl("push", words.path, "me/words", "--dry-run")
    assert refused.code == 2 and "model/glove_modeling.py" in refused.err
    publication = prepare(words, "me/words")
    assert publication.files["glove_modeling.py"].read_bytes() == own


# --- when it fails ------------------------------------------------------------------------------------------------------------


def test_a_connection_cut_in_the_middle_of_an_upload_loses_nothing_and_the_push_is_repeated(
    own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between the client's own attempts
    hub.cut("PUT", "/storage/", after_bytes=1000, times=1000)
    with pytest.raises(RunError, match="can be repeated"):
        publish(own, "me/digits")
    assert list(hub.repos["me/digits"].files) in ([], [".gitattributes"])
    hub.faults.clear()
    publish(own, "me/digits")
    assert hftl("verify", "me/digits").code == 0


def test_a_hub_that_does_not_answer_and_no_copy_of_the_run_are_one_message(hub: LocalHub, hftl: Hftl, token: str) -> None:
    hub.fail("GET", "/api/models/me/reviews", 503, times=20)
    outcome = hftl("predict", "me/reviews", "A joy.")
    assert outcome.code == 2 and outcome.err.startswith("RunError: me/reviews: no such folder here; http")
    assert outcome.err.strip().endswith("cannot be reached, and the cache of this machine does not have it. Try again")


def test_a_server_error_at_the_commit_leaves_the_branch_as_it_was(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    hub.fail("POST", "/commit/", 500)
    with pytest.raises(RunError, match="the Hub answered 500"):
        publish(own, "me/digits")
    assert len(hub.repos["me/digits"].commits) == 1
    publish(own, "me/digits")


def test_a_lost_answer_to_the_commit_makes_no_second_commit(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    hub.cut("POST", "/commit/", response=True)
    with pytest.raises(RunError, match="can be repeated"):
        publish(own, "me/digits")
    assert len(hub.repos["me/digits"].commits) == 2  # it had arrived
    publish(own, "me/digits")
    assert len(hub.repos["me/digits"].commits) == 2


def test_a_second_push_is_one_commit_that_removes_what_is_no_more(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    publish(own, "me/digits")
    repo = hub.repos["me/digits"]
    repo.add_commit("main", "by hand", {**repo.files, "notes.md": b"mine"})
    (own.figures / "calibration.png").unlink()
    assert hftl("card", own.path, "card.limitations=Only digits.").code == 0
    publish(own, "me/digits")
    assert len(repo.commits) == 4
    assert "figures/calibration.png" not in repo.files and repo.files["notes.md"] == b"mine"
    assert "Only digits." in repo.files["README.md"].decode()


def test_a_branch_of_its_own_leaves_main_alone(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    publish(own, "me/digits", revision="trial")
    repo = hub.repos["me/digits"]
    assert "config.json" not in repo.files
    assert hftl("verify", "me/digits@trial").code == 0
    assert hftl("verify", "me/digits").code == 2  # nothing there


def test_an_organisations_member_may_push_to_it(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    publish(own, "team/digits")
    assert "team/digits" in hub.repos


# --- fetching -----------------------------------------------------------------------------------------------------------------


def test_what_is_missing_or_private_is_one_message(own: RunDirectory, hub: LocalHub, hftl: Hftl) -> None:
    missing = hftl("verify", "me/nothing")
    assert missing.code == 2 and "no such repository, or it is private" in missing.err
    hub.add_repo("me/empty", {"README.md": b"", "weights.bin": b"pickle"})
    assert hftl("predict", "me/empty", "text").code == 2
    assert hftl("verify", "me/empty@nothing").code == 2
    hub.add_repo("me/gated", {"config.json": b"{}"}, gated=True)
    assert hftl("predict", "me/gated", "text").code == 2


def test_a_recipe_from_the_hub_is_data_and_runs_no_code(hub: LocalHub, hftl: Hftl, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for number, text in enumerate(
        [
            f"!!python/object/apply:os.system ['touch {marker}']",
            f"name: x\ndata: !!python/object/apply:pathlib.Path.touch [{marker}]",
            "name: ../../escape\n",
            "[1, 2]",
        ]
    ):
        hub.add_repo(f"me/evil{number}", {"recipe.yaml": text.encode()})
        refused = hftl("train", f"hub:me/evil{number}", "--run-dir", tmp_path / "run")
        assert refused.code == 2 and refused.err.startswith("RecipeError:"), refused.err
    assert not marker.exists() and not (tmp_path / "run").exists()


def test_a_repository_with_files_outside_of_the_list_gives_only_those_on_it(
    own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str, tmp_path: Path
) -> None:
    publish(own, "me/digits")
    repo = hub.repos["me/digits"]
    manifest = json.loads(repo.files["manifest.json"])
    manifest["files"]["../../outside.txt"] = {"sha256": "0" * 64, "size": 1}
    more = {"sitecustomize.py": b"boom", "pytorch_model.bin": b"pickle", "manifest.json": json.dumps(manifest).encode()}
    repo.add_commit("main", "more", {**repo.files, **more})
    refused = hftl("pull", "me/digits", "--output", tmp_path / "pulled")
    assert refused.code == 2 and "../../outside.txt: not a file that hftl publishes" in refused.err
    assert not hub.requests("GET", "sitecustomize|pytorch_model")
    assert hftl("verify", "me/digits").code == 1


def test_a_user_whose_token_names_no_role_may_still_try(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    hub.users[token] = User("me", (), "fineGrained", writes=("me/digits",))
    publish(own, "me/digits")
    assert "me/digits" in hub.repos


def test_what_is_in_the_cache_needs_no_hub(
    own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(own, "me/digits")
    assert hftl("verify", "me/digits").code == 0
    asked = len(hub.log)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hftl("verify", "me/digits").code == 0
    missing = hftl("verify", "me/other")
    assert missing.code == 2 and "HF_HUB_OFFLINE" in missing.err
    assert len(hub.log) == asked


def test_a_push_on_top_of_what_somebody_else_pushed_meanwhile_is_refused(own: RunDirectory, hub: LocalHub, token: str) -> None:
    publish(own, "me/digits")
    publication = prepare(own, "me/digits")
    target = check_target(publication, private=False, revision="main")
    assert target is not None
    repo = hub.repos["me/digits"]
    repo.add_commit("main", "theirs", {**repo.files, "README.md": b"theirs"})
    with pytest.raises(RunError, match="somebody else pushed in between"):
        _send(publication, target, private=False, message="a run")
    assert repo.files["README.md"] == b"theirs"


def test_a_strangers_words_do_not_steer_the_terminal(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    publish(own, "me/digits")
    repo = hub.repos["me/digits"]
    evil = repo.files["README.md"] + b"\n\x1b[2J\x1b]0;owned\x07 accuracy 1.000\n"
    repo.add_commit("main", "evil", {**repo.files, "README.md": evil})
    caught = hftl("verify", "me/digits")
    assert caught.code == 1 and r"\x1b[2J" in caught.out
    assert "\x1b" not in caught.out + caught.err.replace("\x1b[A", "")  # progress bars move the cursor


def test_the_notes_in_a_weights_file_are_searched_too(own: RunDirectory, hftl: Hftl) -> None:
    weights = own.model / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt", "by": "hf_" + "Qq" * 17})
    own.manifest.unlink()
    refused = hftl("push", own.path, "me/digits", "--dry-run")
    assert refused.code == 2 and "model.safetensors, line 1: holds a Hugging Face token" in refused.err


# --- what verify may not overlook -----------------------------------------------------------------------------------------------


def tampered(hub: LocalHub, change: Callable[[dict[str, bytes]], object]) -> None:
    """A commit to me/digits by somebody who knows how hftl works: the manifest is that of the changed files."""
    repo = hub.repos["me/digits"]
    files = dict(repo.files)
    change(files)
    if "manifest.json" in files:
        manifest = json.loads(files["manifest.json"])
        manifest["files"] = {name: fingerprint(files[name]) for name in manifest["files"] if name in files}
        files["manifest.json"] = json.dumps(manifest).encode()
    repo.add_commit("main", "tampered", files)


def edited(name: str, before: bytes, after: bytes) -> Callable[[dict[str, bytes]], object]:
    def change(files: dict[str, bytes]) -> None:
        assert before in files[name]
        files[name] = files[name].replace(before, after, 1)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edited("README.md", b"on the test split: 0.", b"on the test split: 1."), "README.md"),
        (edited("README.md", b"**Accuracy on the test split", b"**Accuracy on the validation split"), "README.md"),
        (edited("README.md", b"## Limits", b"Accuracy 0.999 on every test set.\n\n## Limits"), "README.md"),
        (edited("README.md", b"## Limits", b"\n## Limits"), "another text"),
        (edited("README.md", b"    - type: accuracy\n      value: 0.", b"    - type: accuracy\n      value: 1."), "README.md"),
        (edited("README.md", b"me/digits", b"me/another"), "README.md"),
        (edited("metrics.json", b'"accuracy": 0.', b'"accuracy": 1.'), "metrics.json"),
        (edited("data.json", b'"n": ', b'"n": 1'), "data.json"),
        (lambda files: files.pop("README.md"), "missing"),
        (lambda files: files.pop("model.safetensors"), "missing"),
        (lambda files: files.pop("predictions/validation.parquet"), "missing|no such file"),
    ],
    ids=range(11),
)
def test_a_repository_changed_together_with_its_manifest_is_caught(
    change: Callable[[dict[str, bytes]], object], said: str, own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str
) -> None:
    publish(own, "me/digits")
    tampered(hub, change)
    caught = hftl("verify", "me/digits")
    assert caught.code in {1, 2}, caught.out
    assert re.search(said, caught.out + caught.err)


def test_weights_that_are_not_on_the_manifest_are_caught(own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str) -> None:
    publish(own, "me/digits")
    repo = hub.repos["me/digits"]
    manifest = json.loads(repo.files["manifest.json"])
    del manifest["files"]["model.safetensors"]
    more = {"manifest.json": json.dumps(manifest).encode(), "model.safetensors": b"junk"}
    repo.add_commit("main", "exchanged", {**repo.files, **more})
    caught = hftl("verify", "me/digits")
    assert caught.code == 1 and "not on the manifest" in caught.out


def test_a_copy_of_somebodys_repository_is_not_the_repository_it_says_it_is(
    own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str
) -> None:
    publish(own, "me/digits")
    hub.add_repo("evil/digits", dict(hub.repos["me/digits"].files))
    caught = hftl("verify", "evil/digits")
    assert caught.code == 1 and "no repository evil/digits me/digits" in " ".join(caught.out.split())


def test_what_was_pulled_stays_as_it_was_published(
    own: RunDirectory, hub: LocalHub, hftl: Hftl, token: str, tmp_path: Path
) -> None:
    publish(own, "me/digits")
    pulled = tmp_path / "pulled"
    assert hftl("pull", "me/digits", "--output", pulled).code == 0
    for command in (["card", pulled], ["push", pulled, "me/mine", "--dry-run"]):
        refused = hftl(*command)
        assert refused.code == 2 and "pulled from me/digits, and sealed as it was published" in refused.err
    refused = hftl("evaluate", pulled)
    assert refused.code == 2 and "its data lay on the author's machine" in refused.err
    assert hftl("verify", pulled).code == 0


def test_predictions_that_the_model_does_not_make_are_caught_with_the_data(own: RunDirectory, hftl: Hftl) -> None:
    names = read_json(own.data)["label_names"]
    stored = Predictions.load(own.predictions("test"))
    logits = stored.logits.copy()
    logits[0] += 5 * np.eye(len(names), dtype=np.float32)[stored.labels[0]]
    made_up = Predictions(stored.ids, stored.labels, logits, sizes=stored.sizes, size_unit=stored.size_unit)
    made_up.save(own.predictions("test"), names)
    own.metrics.write_text(json.dumps(read_json(own.metrics) | {"test": compute_metrics(made_up, names)}))
    beside = read_json(own.baseline)
    beside["gains"]["test"] = gain(made_up, Predictions.load(own.baseline_predictions("test")))
    own.baseline.write_text(json.dumps(beside))
    own.manifest.unlink()
    write_figures(own, read_json(own.metrics))
    assert hftl("card", own.path).code == 0
    checked = hftl("verify", own.path)
    assert checked.code == 0, checked.out  # nothing on paper contradicts it
    caught = hftl("verify", own.path, "--data", own.load_recipe().data.source)
    assert caught.code == 1 and re.search(r"no  logits\s+20\s+19", caught.out)


def test_fault_33_a_push_that_sigterm_stops_leaves_the_repository_as_it_was(
    own: RunDirectory, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, arrived = hub.answer, threading.Event()

    def slow(method: str, path: str, *rest: Any) -> Any:
        if method == "PUT" and "/storage/" in path:  # the weights are on their way
            arrived.set()
            time.sleep(2)
        return answer(method, path, *rest)

    monkeypatch.setattr(hub, "answer", slow)
    environment = hub.environment(tmp_path, token=WRITE_TOKEN) | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "hftl", "push", str(own.path), "me/digits"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert arrived.wait(timeout=120)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM: me/digits has the commit whole, or not at all. To see:  hftl verify me/digits" in out
    assert "Traceback" not in err
    assert hub.requests("POST", "/commit/") == []
