"""What a stranger may write into a run, a repository, a recipe or a data set: it is named and refused; none of it runs or is read.

docs/sharing.md has the threat model, whose lines name these tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, Hftl
from hub_server import LocalHub
from run_factory import make_recipe, make_run, opening
from safetensors.numpy import load_file, save_file
from small import BERT_NANO, small_vectors

from hftl.api import train
from hftl.data.source import load_splits
from hftl.errors import DataError, RecipeError, RunError
from hftl.evaluation.report import drawn_by, write_figures
from hftl.files import append_json_line, fingerprint, open_plain, read_json, write_json
from hftl.models import transformer
from hftl.recipe import Card, Recipe, RunSettings, Stage, TextCNN, TextData, Transformer, check_places, override, without_places
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.sharing import publication as publishing
from hftl.sharing.card import write_card
from hftl.sharing.contents import foreign
from hftl.sharing.publication import Publication, prepare
from hftl.sharing.verify import require_verified, verify

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nbm90IHJlYWxseSBvbmU\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of the family that brings code along."""
    folder = tmp_path_factory.mktemp("words")
    model = TextCNN(vectors=str(small_vectors(folder / "small.txt")), channels=8)
    data = TextData(source=REVIEWS, max_length=40, max_train_samples=64, max_validation_samples=24, max_test_samples=30)
    stages = {"all": Stage(lr=1e-3)}
    card = Card(license="mit", language="en")
    recipe = Recipe(
        name="words", data=data, model=model, stages=stages, run=RunSettings(batch_size=16, precision="fp32"), card=card
    )
    return train(recipe, run_dir=folder / "run").paths


@pytest.fixture
def own(trained: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(trained.path, tmp_path / "own")))


@pytest.fixture(scope="module")
def publication(trained: RunDirectory) -> Publication:
    return prepare(trained, "me/words")


@pytest.fixture
def published(publication: Publication, tmp_path: Path) -> RunDirectory:
    """What was published, in a folder where a stranger may change it."""
    return RunDirectory(Path(shutil.copytree(publication.folder, tmp_path / "published")))


def sealed_again(run: RunDirectory) -> RunDirectory:
    """With a manifest of the files as they are now, as a hostile author would write it."""
    files = {path.relative_to(run.path).as_posix(): fingerprint(path) for path in run.path.rglob("*") if path.is_file()}
    files.pop("manifest.json")
    write_json(run.manifest, {"repository": "me/words", "files": files})
    return run


def wrong(run: RunDirectory, *, figures: bool = False) -> str:
    """What verify refutes, as lines."""
    failed = verify(run, figures=figures).failed
    return "\n".join(f"{claim.kind}, {claim.where}: {claim.claimed}; found {claim.recomputed}" for claim in failed)


def changed(run: RunDirectory, file: str, **values: Any) -> None:
    path = run.path / file
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**found, **values}), encoding="utf-8")


# --- code that travels with a model -------------------------------------------------------------------------------------------

SETTINGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "code of another repository": ("config.json", {"auto_map": {"AutoConfig": "eve/code--modeling_eve.C"}}, "auto_map names code"),
    "the right name in another repository": (
        "config.json",
        {
            "auto_map": {
                "AutoConfig": "eve/code--glove_modeling.GloveTextCNNConfig",
                "AutoModelForSequenceClassification": "glove_modeling.TextCNNForSequenceClassification",
            }
        },
        "auto_map names code",
    ),
    "another class of the own file": (
        "config.json",
        {
            "auto_map": {
                "AutoConfig": "glove_modeling.GloveTextCNNConfig",
                "AutoModelForSequenceClassification": "glove_modeling.BiLSTMForSequenceClassification",
            }
        },
        "auto_map names code",
    ),
    "a tokenizer of its own": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.T", None]}}, "auto_map names code"),
    "a processor of its own": ("preprocessor_config.json", {"auto_map": {"AutoProcessor": "x.P"}}, "auto_map names code"),
    "a pipeline of its own": (
        "config.json",
        {"custom_pipelines": {"text-classification": {"impl": "x.P"}}},
        "custom_pipelines names",
    ),
    "a way to generate": ("generation_config.json", {"custom_generate": "eve/sampling"}, "custom_generate names code"),
    "trust in advance": ("tokenizer_config.json", {"trust_remote_code": True}, "trust_remote_code names code"),
    "code deep inside": ("config.json", {"text_config": [{"auto_map": {"AutoConfig": "x.C"}}]}, "text_config.auto_map names code"),
    "a template": ("tokenizer_config.json", {"chat_template": "{{ 7 * 7 }}"}, "chat_template names code"),
    "a kernel": ("config.json", {"attn_implementation": "eve/kernel"}, "attn_implementation names code"),
    "kernels": ("config.json", {"use_kernels": True}, "use_kernels names code"),
    "an adapter": ("config.json", {"base_model_name_or_path": "eve/base"}, "leads to something that is not in this model"),
    "a backbone": ("config.json", {"backbone": "eve/resnet", "use_pretrained_backbone": True}, "backbone leads to something"),
    "another format": ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config leads to"),
    "a file elsewhere": ("tokenizer_config.json", {"vocab_file": "../../secrets.txt"}, "vocab_file is no file of this model"),
    "a file of Windows": ("tokenizer_config.json", {"merges_file": "C:\\secrets.txt"}, "merges_file is no file of this model"),
    "another kind of model": ("config.json", {"model_type": "bert"}, 'model_type is "bert", which needs no glove_modeling.py'),
    "swapped classes": (
        "config.json",
        {"id2label": {"0": "positive", "1": "negative"}},
        "classes: ['positive', 'negative']; found ['negative', 'positive']",
    ),
    "another network": ("config.json", {"architectures": ["BiLSTMForSequenceClassification"]}, "config.json, architecture"),
}


@pytest.mark.parametrize(("file", "values", "said"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_hftl_does_not_write_are_refuted(
    published: RunDirectory, file: str, values: dict[str, Any], said: str
) -> None:
    changed(published, file, **values)
    assert said in wrong(sealed_again(published))


def test_what_hftl_has_written_holds_and_names_are_no_settings(published: RunDirectory, tmp_path: Path) -> None:
    assert wrong(published, figures=True) == ""
    words = {"id2label": {"0": "auto_map", "1": "backbone"}, "label2id": {"auto_map": 0, "backbone": 1}}
    tokens = {"added_tokens_decoder": {"3": {"content": "<url>"}}, "url": None, "vocab_file": "vocab.txt", "auto_map": None}
    write_json(tmp_path / "config.json", {"model_type": "bert", **words})
    write_json(tmp_path / "tokenizer_config.json", tokens)
    assert list(foreign(tmp_path, ["config.json", "tokenizer_config.json"])) == []


@pytest.mark.parametrize(
    "values",
    [
        {"pretrained_cfg": {"hf_hub_id": "eve/weights"}},
        {"pretrained_cfg": {"url": "https://example.com/weights.pth"}},
        {"model_args": {"checkpoint_path": "../weights.pth"}},
        {"model_args": {"pretrained_cfg_overlay": {"file": "../weights.pth"}}},
        {"architecture": "hf-hub:eve/model"},
        {"architecture": "local-dir:/home/you/private"},
    ],
)
def test_a_timm_model_that_takes_its_weights_from_elsewhere_is_named(tmp_path: Path, values: dict[str, Any]) -> None:
    write_json(tmp_path / "config.json", {"architecture": "resnet18", **values})
    assert len(list(foreign(tmp_path, ["config.json"]))) >= 1


def test_settings_of_a_base_checkpoint_that_hftl_does_not_follow_are_not_written_on(tmp_path: Path) -> None:
    base = shutil.copytree(BERT_NANO, tmp_path / "base")
    code = {"auto_map": {"AutoConfig": "modeling.Config"}, "custom_pipelines": {"x": {}}, "base_model_name_or_path": "eve/base"}
    write_json(base / "config.json", read_json(base / "config.json") | code)
    transformer.save(transformer.build(Transformer(checkpoint=str(base)), ("a", "b")), tmp_path / "model")
    names = [path.name for path in (tmp_path / "model").iterdir()]
    assert "config.json" in names and list(foreign(tmp_path / "model", names)) == []


def a_changed_modelling_file(run: RunDirectory) -> None:
    code = run.path / "glove_modeling.py"
    code.write_bytes(code.read_bytes() + b"\nimport os\n")


def a_pickle(run: RunDirectory) -> None:
    (run.path / "model.safetensors").write_bytes(b"\x80\x04K\x01.")


def bytes_after_the_tensors(run: RunDirectory) -> None:
    weights = run.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"private")


def an_index_of_other_files(run: RunDirectory) -> None:
    changed(run, "model.safetensors.index.json", weight_map={"a": "../elsewhere.safetensors"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (a_changed_modelling_file, "other code than hftl's own"),
        (a_pickle, "not a safetensors file"),
        (bytes_after_the_tensors, "bytes that belong to no tensor"),
        (an_index_of_other_files, "names files that are not beside it"),
    ],
)
def test_code_and_weights_that_hftl_does_not_write_are_refuted(
    published: RunDirectory, change: Callable[[RunDirectory], None], said: str
) -> None:
    change(published)
    assert said in wrong(sealed_again(published))


def test_code_of_a_stranger_is_refuted_and_not_fetched_and_predict_never_runs_it(
    publication: Publication, hub: LocalHub, hftl: Hftl, tmp_path: Path
) -> None:
    files = {name: path.read_bytes() for name, path in publication.files.items()}
    config, marker = json.loads(files["config.json"]), tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')\n".encode()
    hub.add_repo("eve/code", {"modeling_eve.py": code})
    config["auto_map"] = dict.fromkeys(config["auto_map"], "eve/code--modeling_eve.C")
    files |= {"config.json": json.dumps(config).encode(), "glove_modeling.py": code}
    files["manifest.json"] = json.dumps(
        {"repository": "me/words", "files": {name: fingerprint(files[name]) for name in files if name != "manifest.json"}}
    ).encode()
    hub.add_repo("me/words", files)
    verified = hftl("verify", "me/words")
    assert verified.code == 1 and "auto_map names code that hftl did not write" in verified.out
    pulled = hftl("pull", "me/words", "--output", tmp_path / "pulled")
    assert pulled.code == 2 and not (tmp_path / "pulled").exists()
    assert "glove_modeling.py: other code than hftl's own" in pulled.err and "config.json: auto_map names code" in pulled.err
    assert hftl("predict", "me/words", "A warm, funny film.").code == 0  # by the classes of the package
    assert not marker.exists() and not hub.requests("GET", "modeling_eve")


@pytest.mark.parametrize("file", ["adapter_config.json", "sitecustomize.py", "pytorch_model.bin", "x.pkl", "chat_template.jinja"])
def test_what_a_library_may_load_beside_the_published_files_is_refuted(published: RunDirectory, file: str) -> None:
    (published.path / "LICENSE").write_text("for people")
    (published.path / "notes.md").write_text("for people")
    (published.path / "onnx").mkdir()
    (published.path / "onnx" / "config.json").write_text("{}")  # by `hftl export`
    assert wrong(published) == ""
    (published.path / file).write_bytes(b"{}")
    assert f"files, {file}: not there; found not of hftl" in wrong(published)


def test_what_else_lies_in_a_repository_is_looked_at_or_said_not_to_be(
    publication: Publication, hub: LocalHub, hftl: Hftl, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: path.read_bytes() for name, path in publication.files.items()}
    hub.add_repo("me/words", {**files, "notes.md": b"for people"})
    assert hftl("verify", "me/words").code == 0
    hub.add_repo("me/words", {**files, "adapter_config.json": b'{"base_model_name_or_path": "eve/base"}'})
    caught = hftl("verify", "me/words")
    assert caught.code == 1 and "adapter_config.json" in caught.out
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    unknown = hftl("verify", "me/words")
    assert unknown.code == 0 and "what else lies in the repository is not known" in unknown.out


# --- links and files ----------------------------------------------------------------------------------------------------------


def test_only_a_plain_file_below_the_folder_is_opened(tmp_path: Path) -> None:
    folder, private = tmp_path / "run", tmp_path / "private"
    (folder / "inside").mkdir(parents=True)
    private.write_text(KEY)
    (folder / "inside" / "plain").write_text("plain")
    (tmp_path / "way").symlink_to(folder)
    with open_plain(tmp_path / "way", "inside/plain") as stream:  # the folder itself is the user's word
        assert stream.read() == b"plain"
    (folder / "link").symlink_to(private)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    os.link(private, folder / "second")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    for name, said in {
        "link": "a link",
        "linked/private": "a link, or behind one",
        "loop": "a link",
        "inside/plain/x": "a link, or behind one",
        "pipe": "no plain file",
        "inside": "no plain file",
        "socket": "cannot be read",
        "second": "a hard link",
        "../private": "not a file of this folder",
        str(private): "not a file of this folder",
        "": "not a file of this folder",
        "nothing": "cannot be read: No such file",
    }.items():
        with pytest.raises(RunError, match=said):
            open_plain(folder, name)
    with pytest.raises(RunError, match="no plain file"):
        open_plain(Path("/dev"), "zero")


def linked(name: str) -> Callable[[RunDirectory, Path], None]:
    def change(run: RunDirectory, private: Path) -> None:
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(private)

    return change


def hard_linked(run: RunDirectory, private: Path) -> None:
    run.history.unlink()
    os.link(private, run.history)


def piped(run: RunDirectory, private: Path) -> None:
    run.environment.unlink()
    os.mkfifo(run.environment)


def in_a_circle(run: RunDirectory, private: Path) -> None:
    run.audit.unlink()
    run.audit.symlink_to(run.audit.name)


def with_a_linked_folder(name: str) -> Callable[[RunDirectory, Path], None]:
    def change(run: RunDirectory, private: Path) -> None:
        elsewhere = private.with_name(f"elsewhere-{name}")
        (run.path / name).rename(elsewhere)
        (run.path / name).symlink_to(elsewhere)

    return change


LINKS: dict[str, tuple[Callable[[RunDirectory, Path], None], str]] = {
    "a figure": (linked("figures/calibration.png"), "figures/calibration.png: a link"),
    "a list of words": (linked("model/vocab.txt"), "model/vocab.txt: a link"),
    "the ledger": (linked("test_ledger.json"), "test_ledger.json: a link"),
    "a hard link": (hard_linked, "history.jsonl: has another name somewhere"),
    "a pipe": (piped, "environment.json: no plain file"),
    "a circle": (in_a_circle, "audit.json: a link"),
    "the folder of figures": (with_a_linked_folder("figures"), "figures: a link"),
    "the folder of the model": (with_a_linked_folder("model"), "model: a link"),
    "the folder of predictions": (with_a_linked_folder("predictions"), "predictions: a link"),
}


@pytest.mark.parametrize(("change", "said"), LINKS.values(), ids=LINKS)
def test_a_push_opens_plain_files_of_the_run_alone(
    own: RunDirectory, tmp_path: Path, change: Callable[[RunDirectory, Path], None], said: str
) -> None:
    private = tmp_path / "id_ed25519"
    private.write_text(KEY)
    change(own, private)
    with pytest.raises(RunError, match="cannot be published as it is") as refused:
        prepare(own, "me/words")
    assert said in str(refused.value) and "bm90" not in str(refused.value)


def test_a_link_in_a_run_that_was_given_to_you_does_not_hold(published: RunDirectory, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    (published.path / "plan.json").rename(elsewhere)
    (published.path / "plan.json").symlink_to(elsewhere)
    assert "files, plan.json: as sealed; found a link" in wrong(published)
    published.history.unlink()
    os.mkfifo(published.history)
    with pytest.raises(RunError, match="no plain file"):
        verify(published)


def test_what_is_sent_is_what_was_searched(own: RunDirectory) -> None:
    prepared = prepare(own, "me/words")
    before = {name: path.read_bytes() for name, path in prepared.files.items()}
    for path in [*own.figures.iterdir(), own.history, own.model / "model.safetensors", own.predictions("test")]:
        path.unlink()
        path.write_text(KEY)  # exchanged after the search
    assert {name: path.read_bytes() for name, path in prepared.files.items()} == before
    assert all(path.is_relative_to(prepared.folder) for path in prepared.files.values())
    assert prepared.folder.stat().st_mode & 0o777 == 0o700  # nobody else can exchange what is in there
    folder = prepared.folder
    del prepared
    assert not folder.exists()


# --- secrets in any bytes -----------------------------------------------------------------------------------------------------

TOKEN = "hf_" + "Qq" * 17


def in_the_weights(run: RunDirectory) -> str:
    weights = run.model / "model.safetensors"
    tensors = load_file(weights)
    name = max(tensors, key=lambda name: tensors[name].nbytes)
    tensors[name] = np.ascontiguousarray(tensors[name])
    tensors[name].view(np.uint8).reshape(-1)[100 : 100 + len(TOKEN)] = np.frombuffer(TOKEN.encode(), dtype=np.uint8)
    save_file(tensors, weights, metadata={"format": "pt"})
    return "model.safetensors"


def in_the_schema_of_the_predictions(run: RunDirectory) -> str:
    table = pq.read_table(run.predictions("validation"))
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"note": TOKEN.encode()}), run.predictions("validation"))
    return "predictions/validation.parquet"


def of_two_bytes_a_letter(run: RunDirectory) -> str:
    (run.model / "spiece.model").write_bytes(b"\x0a\x05" + TOKEN.encode("utf-16-le"))
    return "spiece.model"


def by_its_value(run: RunDirectory) -> str:
    (run.model / "tokenizer.model").write_bytes(b"\xff\xfe\x00" + "Grün ist die Hoffnung".encode() + b"\x00")
    return "tokenizer.model"


def in_a_text_of_two_bytes_a_letter(run: RunDirectory) -> str:
    (run.model / "vocab.txt").write_bytes(f"\ufeff[PAD]\n{TOKEN}\n".encode("utf-16-le"))
    return "vocab.txt"


def of_your_home(run: RunDirectory) -> str:
    (run.model / "spm.model").write_bytes(b"\x00\x01" + f"{Path.home()}/thesis/x".encode() + b"\x00")
    return "spm.model"


@pytest.mark.parametrize(
    "hide",
    [
        in_the_weights,
        in_the_schema_of_the_predictions,
        of_two_bytes_a_letter,
        in_a_text_of_two_bytes_a_letter,
        by_its_value,
        of_your_home,
    ],
)
def test_secrets_are_found_in_files_that_are_no_text(
    own: RunDirectory, hide: Callable[[RunDirectory], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "Grün ist die Hoffnung")
    monkeypatch.setenv("HOME", "/home/somebody-else")
    file = hide(own)
    with pytest.raises(RunError, match=r"holds|names a place") as refused:
        prepare(own, "me/words")
    assert f"{file}, line " in str(refused.value) and TOKEN not in str(refused.value)


def test_a_name_of_the_recipe_that_a_telling_variable_happens_to_hold_is_sent(
    own: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "cross_entropy")  # in recipe.yaml, and in plan.json
    monkeypatch.setenv("WANDB_API_KEY", "9f86d081884c7d659a2feaa0c55ad015")
    assert "cross_entropy" in (prepare(own, "me/words").folder / "recipe.yaml").read_text()
    own.recipe.write_text(own.recipe.read_text().replace("revision: null", "revision: 9f86d081884c7d659a2feaa0c55ad015", 1))
    with pytest.raises(RunError, match=r"recipe\.yaml, line \d+: holds the value of WANDB_API_KEY"):
        prepare(own, "me/words")


def test_a_secret_between_two_portions_is_found_and_numbers_are_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_PORTION", 100)
    monkeypatch.setattr(publishing, "_OVERLAP", 64)
    (tmp_path / "spiece.model").write_bytes(b"\x01" * 79 + b"\n" + TOKEN.encode() + b"\x01" * 300)
    assert [str(problem).split(": ")[0].strip() for problem in publishing._secrets_and_places(tmp_path, {})] == [
        "spiece.model, line 2"
    ]
    monkeypatch.undo()
    (tmp_path / "spiece.model").write_bytes(np.random.default_rng(0).normal(size=500_000).astype(np.float32).tobytes())
    assert list(publishing._secrets_and_places(tmp_path, {})) == []


# --- figures ------------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int = 4, height: int = 4, *, pixels: bytes | None = None, more: bytes = b"", after: bytes = b"", depth: int = 8
) -> bytes:
    lines = zlib.compress(height * (b"\0" + 4 * width * b"\xff") if pixels is None else pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", lines) + chunk(b"IEND", b"") + after


PICTURES: dict[str, tuple[bytes, str]] = {
    "a key": (KEY.encode(), "not a PNG picture"),
    "a page": (b"\x89PNG\r\n\x1a\n<script>", "a damaged PNG picture"),
    "a note": (png(more=chunk(b"tEXt", b"Comment\0" + TOKEN.encode())), "more in it than a figure has: tEXt"),
    "a packed note": (png(more=chunk(b"zTXt", b"Comment\0\0" + zlib.compress(KEY.encode()))), "more in it than a figure has: zTXt"),
    "where it was taken": (png(more=chunk(b"eXIf", b"MM\0*")), "more in it than a figure has: eXIf"),
    "an archive behind it": (png(after=b"PK\3\4 and more"), "bytes before or after it"),
    "pixels behind the last": (png(pixels=4 * (b"\0" + 16 * b"\xff") + KEY.encode()), "not whole, or more than a picture"),
    "too few pixels": (png(pixels=b"\0"), "not whole, or more than a picture"),
    "a bomb": (png(60_000, 60_000, pixels=b""), "60,000 x 60,000 pixels"),
    "16 bits": (png(depth=16), "in another form than a figure's"),
    "a wrong checksum": (png().replace(b"IEND", b"IENd"), "a damaged PNG picture"),
}


@pytest.mark.parametrize(("content", "said"), PICTURES.values(), ids=PICTURES)
def test_a_file_that_is_no_figure_is_neither_pushed_nor_held(
    own: RunDirectory, published: RunDirectory, content: bytes, said: str
) -> None:
    (own.figures / "calibration.png").write_bytes(content)
    with pytest.raises(RunError, match="cannot be published") as refused:
        prepare(own, "me/words")
    assert "figures/calibration.png: " in str(refused.value) and said in str(refused.value)
    (published.figures / "calibration.png").write_bytes(content)
    assert said in wrong(sealed_again(published))


def test_an_exchanged_figure_is_refuted_and_one_of_another_version_is_said_not_to_be_compared(
    published: RunDirectory, hftl: Hftl
) -> None:
    forged, curves = published.figures / "calibration.png", published.figures / "learning_curves.png"
    content = curves.read_bytes()
    forged.write_bytes(content)
    assert "figures, calibration.png: as drawn; found another picture" in wrong(sealed_again(published), figures=True)
    here = b"Software\0" + drawn_by().encode()
    there = here.replace(b"matplotlib ", b"matplotlib 9")
    assert chunk(b"tEXt", here) in content
    forged.write_bytes(content.replace(chunk(b"tEXt", here), chunk(b"tEXt", there)))
    said = hftl("verify", sealed_again(published).path)
    assert said.code == 0 and "figures/calibration.png was not compared" in said.out and "was drawn by hftl" in said.out
    forged.write_bytes(content.replace(chunk(b"tEXt", here), b""))
    assert "figures, calibration.png: as drawn; found another picture" in wrong(sealed_again(published), figures=True)


def test_a_history_of_which_nothing_can_be_drawn_is_one_message(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_figures(run, read_json(run.metrics))
    assert "figures" not in wrong(run, figures=True)
    history, number = run.history.read_text(), len(run.read_history())
    for record in ({"event": "evaluation"}, {"event": "evaluation", "step": "x", "validation": []}, {"event": "step", "lr": 3}):
        run.history.write_text(history)
        append_json_line(run.history, record)
        with pytest.raises(RunError, match=rf'history\.jsonl, line {number + 1}: there is no "stage"'):
            verify(run)


# --- results that are withheld ------------------------------------------------------------------------------------------------


def without_result(run: RunDirectory) -> None:
    metrics = read_json(run.metrics)
    del metrics["test"]
    write_json(run.metrics, metrics)


def withheld(run: RunDirectory) -> None:
    without_result(run)
    run.predictions("test").unlink()


def withheld_with_its_ledger(run: RunDirectory) -> None:
    withheld(run)
    run.test_openings.unlink()
    run.test_ledger.unlink()


def denied(run: RunDirectory) -> None:
    withheld(run)
    data, audit = read_json(run.data), read_json(run.audit)
    del data["splits"]["test"], audit["splits"]["test"]
    write_json(run.data, {**data, "test": "none"})
    write_json(run.audit, audit)


def never_opened(run: RunDirectory) -> None:
    run.test_openings.unlink()


def opened_once_less(run: RunDirectory) -> None:
    write_json(run.test_ledger, {**read_json(run.test_ledger), "openings": 2})


def counted_less(run: RunDirectory) -> None:
    append_json_line(run.test_openings, opening(time="2026-11-21T10:11:12+00:00", purpose="again", by="hftl evaluate"))


def more_runs_than_openings(run: RunDirectory) -> None:
    write_json(run.test_ledger, {**read_json(run.test_ledger), "openings": 2, "runs": 5})


def by_another_command(run: RunDirectory) -> None:
    text = run.test_openings.read_text()
    run.test_openings.write_text(text.replace('"purpose": "train"', '"purpose": "test"').replace("hftl train", "hftl test"))


def sealed_afterwards(run: RunDirectory) -> None:
    run.recipe.write_text(override(run.load_recipe(), ["run.test=sealed"]).to_yaml())


def of_two_runs(run: RunDirectory) -> None:
    record = opening(time="2026-11-21T10:11:12+00:00", purpose="again", by="hftl evaluate", run="another")
    append_json_line(run.test_openings, record)
    write_json(run.test_ledger, {**read_json(run.test_ledger), "openings": 2})


def without_its_split(run: RunDirectory) -> None:
    data = read_json(run.data)
    del data["splits"]["test"]
    write_json(run.data, data)


def without_its_audit(run: RunDirectory) -> None:
    audit = read_json(run.audit)
    del audit["splits"]["test"]
    write_json(run.audit, audit)


def a_better_validation(run: RunDirectory) -> None:
    metrics = read_json(run.metrics)
    metrics["validation"]["accuracy"] = 0.99
    write_json(run.metrics, metrics)


WITHHELD: dict[str, tuple[Callable[[RunDirectory], None], str]] = {
    "the result and its predictions": (withheld, "result of the test split: no result; found opened 1 times: a result"),
    "the result alone": (without_result, "result of the test split: no result; found opened 1 times: a result"),
    "the ledger too": (withheld_with_its_ledger, "opened: never; found at the end of training"),
    "that there is a test split": (denied, "data.json, test split: no test split; found a test split"),
    "the opening": (never_opened, "result of the test split: a result; found shut: no result"),
    "one opening": (opened_once_less, "test_ledger.json, openings by this run: 2; found 1"),
    "one of the ledger's": (counted_less, "test_ledger.json, openings: 1; found at least 2"),
    "openings of other runs": (more_runs_than_openings, "test_ledger.json, openings: 2; found at least 5"),
    "who opened it": (by_another_command, "first opened for: test; found train"),
    "that it was open": (sealed_afterwards, "first opened for: train; found test"),
    "that it was two runs": (of_two_runs, "test_openings.jsonl, runs: 2; found 1"),
    "the split": (without_its_split, "data.json, test split: no test split; found a test split"),
    "the split's audit": (without_its_audit, "audit.json, splits"),
    "the validation result": (a_better_validation, "metrics.json, validation.accuracy: 0.99"),
}


@pytest.mark.parametrize(("change", "said"), WITHHELD.values(), ids=WITHHELD)
def test_ledger_results_and_data_tell_one_story_or_verify_and_push_refuse(
    tmp_path: Path, change: Callable[[RunDirectory], None], said: str
) -> None:
    run = make_run(tmp_path / "run")
    write_json(run.test_ledger, {"time": "2026-11-20T10:11:13+00:00", "openings": 1, "runs": 1, "recipes": 1})
    change(run)
    write_card(run)  # by hftl itself, of what is there now
    with pytest.raises(RunError, match="these claims do not hold") as refused:  # what a push asks
        require_verified(run)
    assert said.replace("; found", "; recomputed:") in str(refused.value)


def test_a_sealed_run_holds_shut_and_opened_but_not_in_between(tmp_path: Path) -> None:
    sealed = override(make_recipe(), ["run.test=sealed"])
    write_card(unchanged := make_run(tmp_path / "unchanged"))
    assert wrong(unchanged) == ""
    opened = make_run(tmp_path / "opened", recipe=sealed)
    by_another_command(opened)
    write_card(opened)
    assert wrong(opened) == ""
    withheld(opened)
    write_card(opened)
    assert "and its results were not written.**" in opened.card.read_text(encoding="utf-8")
    assert "result of the test split: no result" in wrong(opened)  # `hftl test` goes on
    opened.test_openings.unlink()
    write_card(opened)
    assert "**The test split has not been opened.**" in opened.card.read_text(encoding="utf-8") and wrong(opened) == ""


# --- a stranger's recipe and data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        *("/home/me/private.csv", "~/private.csv", "./private.csv", "../private.csv", "private/2026/salaries.csv", "a/../../b"),
        *("file:///home/me/private.csv", "C:\\Users\\me\\private.csv", "\\\\server\\share", "hf://datasets/me/x", "..", "~"),
        *("https://localhost/x.csv", "local:photos", "me/x\n", "/dev/zero", "hub:me/x/../../y", ".ssh/id_ed25519"),
    ],
)
def test_a_strangers_recipe_names_no_place_of_this_machine(place: str) -> None:
    recipe = make_recipe("textcnn")
    asked = Recipe(**{**recipe.model_dump(), "data": TextData(source=place), "model": TextCNN(vectors=place)})
    with pytest.raises(RecipeError) as refused:
        check_places(without_places(asked))
    assert [problem.where for problem in refused.value.problems] == ["data.source", "model.vectors"]
    named = override(without_places(asked), ["data.source=mine.csv", "model.vectors=/my/vectors.txt"])
    check_places(named)
    assert (named.data.source, getattr(named.model, "vectors", "")) == ("mine.csv", "/my/vectors.txt")


def test_what_can_only_be_meant_on_the_hub_stays_unless_it_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe("textcnn")
    vectors = TextCNN(vectors="hub:stanfordnlp/glove/glove.6B.zip:glove.6B.50d.txt")
    asked = Recipe(**{**recipe.model_dump(), "data": TextData(source="stanfordnlp/imdb"), "model": vectors})
    assert without_places(asked) == asked
    assert getattr(without_places(make_recipe("timm")).model, "checkpoint", "") == "timm/resnet18.a1_in1k"
    (tmp_path / "stanfordnlp" / "imdb").mkdir(parents=True)  # a folder of one's own: nobody said that it is meant
    with pytest.raises(RecipeError, match=r"data\.source: imdb lay on the author's machine"):
        check_places(without_places(asked))
    check_places(override(without_places(asked), ["data.source=stanfordnlp/imdb"]))  # now its user has said so


def test_nothing_of_this_machine_is_read_for_a_recipe_of_the_hub_or_of_a_pulled_run(
    publication: Publication, published: RunDirectory, hub: LocalHub, hftl: Hftl, tmp_path: Path
) -> None:
    pipe = tmp_path / "private.csv"
    os.mkfifo(pipe)  # whoever opens it waits for ever
    recipe = published.load_recipe()
    evil = override(recipe, [f"data.source={pipe}", f"model.vectors={pipe}", "run.trackers=[tensorboard]"])
    published.recipe.write_text(evil.to_yaml())
    hub.add_repo("eve/words", {"recipe.yaml": published.recipe.read_bytes(), "data.json": published.data.read_bytes()})
    for name in ("hub:eve/words", published.path, published.recipe):
        for command in ("plan", "audit", "show", "train"):
            refused = hftl(command, name, *(["--run-dir", tmp_path / "run"] if command == "train" else []))
            assert refused.code == 2 and refused.err.startswith("RecipeError: 2 problems"), refused.err
            assert "data.source: private.csv lay on the author's machine" in refused.err
            assert "model.vectors: private.csv lay on the author's machine" in refused.err
    evaluated = hftl("evaluate", published.path)
    assert evaluated.code == 2 and "its data lay on the author's machine" in evaluated.err


def test_a_data_set_of_a_stranger_reads_no_file_of_this_machine(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    private = tmp_path / "private.csv"
    private.write_text("text,label\n" + "".join(f"salary {row},{row % 2}\n" for row in range(40)))
    readme = f"---\nconfigs:\n- config_name: default\n  data_files: {private}\n---\n"
    hub.add_repo("datasets/eve/films", {"README.md": readme.encode()})
    for streamed in (None, 10):
        with pytest.raises(DataError, match="Data files don't belong to eve/films"):  # by the library; it stays so
            load_splits(TextData(source="eve/films", stream_samples=streamed), seed=0)


# --- the threat model ---------------------------------------------------------------------------------------------------------


def test_every_test_that_the_threat_model_names_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (REPOSITORY / "docs" / "sharing.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    tests = {file: (REPOSITORY / "tests" / file).read_text(encoding="utf-8") for file, _ in named}
    assert [name for file, name in named if f"def {name}(" not in tests[file]] == []
