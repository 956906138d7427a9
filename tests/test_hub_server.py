"""huggingface_hub's own client, transformers and timm against the Hub of hub_server.py."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from hub_server import READ_TOKEN, WRITE_TOKEN, LocalHub, Request, User, blob_id, oid
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, model_info, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from timm.models import save_for_hf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

# The client hands files to its HTTP library by a name that this one has given up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

CARD = b"---\nlicense: mit\npipeline_tag: text-classification\nlibrary_name: transformers\n---\n# A model\n"
HTTPX: Any = importlib.import_module(HTTPError.__module__.partition(".")[0])
"""What the client speaks HTTP with: httpx2, before huggingface_hub 2.0 httpx."""
WEIGHTS = bytes(range(256)) * 40  # 10,240 bytes


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(token=WRITE_TOKEN)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's pauses between attempts, 1 to 8 s, are written down instead of waited for."""
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=waits.append))
    return waits


def push(api: HfApi, repo_id: str = "me/model", **options: Any) -> str:
    """One commit with a card, a regular file in a folder and an LFS object; its sha."""
    files = {"README.md": CARD, "figures/note.txt": b"a note", "model.safetensors": WEIGHTS}
    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    return str(api.create_commit(repo_id, additions, commit_message="A run", **options).oid)


# --- upload -------------------------------------------------------------------------------------------------------------------


def test_one_commit_holds_regular_files_and_lfs_objects(hub: LocalHub, api: HfApi) -> None:
    assert str(api.create_repo("me/model", private=True)) == f"{hub.endpoint}/me/model"
    sha = push(api)
    repo = hub.repos["me/model"]
    assert repo.private and [commit.message for commit in repo.commits] == ["initial commit", "A run"]
    assert sha == repo.branches["main"] == api.model_info("me/model").sha
    assert sorted(repo.files) == [".gitattributes", "README.md", "figures/note.txt", "model.safetensors"]
    assert repo.files["README.md"] == CARD and repo.files["model.safetensors"] == WEIGHTS
    assert [request.path.split("/")[-1] for request in hub.requests("PUT")] == [oid(WEIGHTS)]
    assert hub.received > len(WEIGHTS)


def test_the_token_goes_to_the_hub_and_never_to_the_storage(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("me/model", private=True)
    push(api)
    api.hf_hub_download("me/model", "model.safetensors")
    assert len([request for request in hub.log if request.path.startswith("/storage/")]) == 2  # one up, one down
    for request in hub.log:
        assert request.authorized != request.path.startswith("/storage/"), request


def test_a_large_object_goes_up_in_parts(hub: LocalHub, api: HfApi) -> None:
    hub.part_size = 4_000
    api.create_repo("team/model")
    push(api, "team/model")
    parts = hub.requests("PUT", f"/storage/{oid(WEIGHTS)}/")
    assert [request.path.split("/")[-1] for request in parts] == ["1", "2", "3"]  # 4,000 + 4,000 + 2,240 bytes
    assert hub.repos["team/model"].files["model.safetensors"] == WEIGHTS


def test_what_is_there_already_is_not_sent_again(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("me/model")
    first = push(api)
    assert push(api) == first  # no change, no commit
    hub.log.clear()
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="copy.safetensors", repo_id="me/model")
    assert not hub.requests("PUT") and hub.repos["me/model"].files["copy.safetensors"] == WEIGHTS


def test_files_are_deleted_and_branches_keep_apart(hub: LocalHub, api: HfApi) -> None:
    hub.add_repo("me/model", {"config.json": b"{}", "old/a.txt": b"a", "old/b.txt": b"b"})
    api.create_branch("me/model", branch="try/one")
    deletions = [CommitOperationDelete("config.json"), CommitOperationDelete("old/")]
    api.create_commit("me/model", deletions, commit_message="Tidy", revision="try/one")
    assert api.list_repo_files("me/model", revision="try/one") == []
    assert api.list_repo_files("me/model") == ["config.json", "old/a.txt", "old/b.txt"]
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("me/model", branch="try/one")
    assert [branch.name for branch in api.list_repo_refs("me/model").branches] == ["main", "try/one"]


def test_a_commit_on_an_outdated_parent_is_refused(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("me/model")
    parent = api.model_info("me/model").sha
    sha = push(api, parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as refused:
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="me/model", parent_commit=parent)
    assert refused.value.response.status_code == 412
    assert hub.repos["me/model"].branches["main"] == sha


def test_a_card_that_is_not_yaml_is_refused_before_anything_is_uploaded(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("me/model")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(path_or_fileobj=b"---\nlicense: [mit\n---\n", path_in_repo="README.md", repo_id="me/model")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(path_or_fileobj=b"# A model\n", path_in_repo="README.md", repo_id="me/model")


def test_an_object_that_was_altered_on_its_way_is_not_stored(hub: LocalHub, api: HfApi) -> None:
    assert HTTPX.put(f"{hub.storage}/{oid(WEIGHTS)}", content=WEIGHTS[:-1] + b"\0").status_code == 400
    api.create_repo("me/model")
    pointer = {"path": "model.safetensors", "algo": "sha256", "oid": oid(WEIGHTS), "size": len(WEIGHTS)}
    lines = [{"key": "header", "value": {"summary": "by hand"}}, {"key": "lfsFile", "value": pointer}]
    answer = HTTPX.post(
        f"{hub.endpoint}/api/models/me/model/commit/main",
        content="\n".join(json.dumps(line) for line in lines),
        headers={"Authorization": f"Bearer {WRITE_TOKEN}"},
    )
    assert answer.status_code == 400 and "was not uploaded" in answer.text


# --- download -----------------------------------------------------------------------------------------------------------------


def test_a_second_download_asks_for_the_etag_only(hub: LocalHub, api: HfApi) -> None:
    hub.add_repo("me/model", {"config.json": b"{}", "model.safetensors": WEIGHTS})
    for name, content in hub.repos["me/model"].files.items():
        first = Path(hf_hub_download("me/model", name))
        assert first.read_bytes() == content
        hub.log.clear()
        assert Path(hf_hub_download("me/model", name)) == first
        assert hub.log == [Request("HEAD", f"/me/model/resolve/main/{name}", 302 if name.endswith("tensors") else 200, False)]
        assert first.resolve().name == (oid(content) if name.endswith("tensors") else blob_id(name, content))


def test_the_tree_and_the_metadata_of_files_are_those_of_the_client(hub: LocalHub, api: HfApi) -> None:
    repo = hub.add_repo("me/model", {"README.md": CARD, "figures/a.png": WEIGHTS, "empty.png": b""})
    top = {entry.path: entry for entry in api.list_repo_tree("me/model")}
    assert sorted(top) == ["README.md", "empty.png", "figures"]
    assert {entry.path for entry in api.list_repo_tree("me/model", recursive=True)} == {*top, "figures/a.png"}
    assert [entry.path for entry in api.list_repo_tree("me/model", "figures")] == ["figures/a.png"]
    (picture,) = api.get_paths_info("me/model", ["figures/a.png", "missing.png"])
    assert isinstance(picture, RepoFile) and picture.lfs is not None
    assert picture.lfs.sha256 == oid(WEIGHTS) and picture.size == picture.lfs.size == 10_240
    info = model_info("me/model", files_metadata=True)  # a function of the package goes to this Hub as well
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
    assert sizes == {"README.md": len(CARD), "empty.png": 0, "figures/a.png": 10_240}
    assert (info.pipeline_tag, info.library_name, info.card_data and info.card_data.license) == (
        "text-classification",
        "transformers",
        "mit",
    )
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("me/model", "nowhere"))
    assert info.sha == repo.branches["main"]


def test_a_snapshot_holds_every_file_of_a_revision(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("me/model")
    old = hub.repos["me/model"].branches["main"]
    push(api)
    folder = Path(snapshot_download("me/model"))
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == hub.repos["me/model"].files
    assert [path.name for path in Path(snapshot_download("me/model", revision=old)).iterdir()] == [".gitattributes"]


def test_a_data_set_is_read_as_a_model_is(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("me/reviews", repo_type="dataset")
    api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo="train.parquet", repo_id="me/reviews", repo_type="dataset")
    assert Path(api.hf_hub_download("me/reviews", "train.parquet", repo_type="dataset")).read_bytes() == WEIGHTS
    assert api.dataset_info("me/reviews").sha == hub.repos["datasets/me/reviews"].branches["main"]
    with pytest.raises(RepositoryNotFoundError):
        model_info("me/reviews")


# --- rights and what is missing -----------------------------------------------------------------------------------------------


def test_a_token_says_whose_it_is_and_what_it_may_do(hub: LocalHub, api: HfApi) -> None:
    hub.users["hf_fine"] = User("me", ("team",), "fineGrained", writes=("me/model",))
    roles = {token: api.whoami(token)["auth"]["accessToken"]["role"] for token in (WRITE_TOKEN, READ_TOKEN, "hf_fine")}
    assert roles == {WRITE_TOKEN: "write", READ_TOKEN: "read", "hf_fine": "fineGrained"}
    me = api.whoami("hf_fine")
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("me", ["team"])
    (scope,) = me["auth"]["accessToken"]["fineGrained"]["scoped"]
    assert scope["entity"]["name"] == "me/model" and "repo.write" in scope["permissions"]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami("hf_unknown")
    api.create_repo("me/model", token="hf_fine")
    with pytest.raises(HfHubHTTPError, match="rights to create"):
        api.create_repo("team/model", token="hf_fine")


def test_a_private_repository_exists_only_for_its_owners(hub: LocalHub) -> None:
    hub.add_repo("team/model", {"config.json": b"{}"}, private=True)
    hub.users["hf_you"] = User("you")
    for token, status in ((False, 401), ("hf_you", 404)):
        with pytest.raises(RepositoryNotFoundError) as missing:
            hf_hub_download("team/model", "config.json", token=token)
        assert missing.value.response.status_code == status
        with pytest.raises(RepositoryNotFoundError):
            snapshot_download("team/model", token=token)
    assert Path(hf_hub_download("team/model", "config.json", token=READ_TOKEN)).read_bytes() == b"{}"


def test_a_token_that_only_reads_can_neither_create_nor_commit(hub: LocalHub) -> None:
    hub.add_repo("me/model", {"config.json": b"{}"})
    reader = HfApi(token=READ_TOKEN)
    reader.auth_check("me/model")
    for refused in (
        lambda: reader.create_repo("me/other"),
        lambda: reader.auth_check("me/model", write=True),
        lambda: push(reader),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            refused()
        assert error.value.response.status_code == 403
    assert len(hub.repos["me/model"].commits) == 1 and not hub.objects


def test_a_repository_that_exists_or_is_somebody_elses_is_not_created(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("me/model")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/model")
    assert api.create_repo("me/model", exist_ok=True).repo_id == "me/model"
    with pytest.raises(HfHubHTTPError, match="403 Forbidden"):
        api.create_repo("you/model")


def test_what_is_missing_gets_the_exception_of_the_client(hub: LocalHub, api: HfApi) -> None:
    hub.add_repo("me/model", {"config.json": b"{}"})
    hub.add_repo("you/gated", {"config.json": b"{}"}, gated=True)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/model", "model.safetensors")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("me/model", "config.json", revision="v2")
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("me/nothing", "config.json")
    with pytest.raises(RepositoryNotFoundError):
        push(api, "me/nothing")
    with pytest.raises(RevisionNotFoundError):
        push(api, "me/model", revision="v2")
    with pytest.raises(GatedRepoError):
        api.hf_hub_download("you/gated", "config.json")
    assert api.model_info("you/gated").gated == "manual"


# --- faults -------------------------------------------------------------------------------------------------------------------


def test_a_busy_hub_is_asked_again_where_the_client_does_so(hub: LocalHub, api: HfApi, no_waiting: list[float]) -> None:
    api.create_repo("me/model")
    hub.fail("POST", "/preupload/", 503)
    hub.fail("PUT", "/storage/", 500, times=2)
    push(api)
    assert no_waiting == [1, 1, 2]
    assert [request.status for request in hub.requests("PUT")] == [500, 500, 200]
    hub.fail("POST", "/commit/", 503)  # not tried again: the first attempt may have counted
    with pytest.raises(HfHubHTTPError, match="503"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="me/model")
    hub.fail("HEAD", "/resolve/", 503, times=9)
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download("me/model", "README.md")


def test_a_cut_upload_leaves_no_commit_and_can_be_repeated(hub: LocalHub, api: HfApi, no_waiting: list[float]) -> None:
    api.create_repo("me/model")
    hub.cut("PUT", "/storage/", after_bytes=3_000, times=6)
    with pytest.raises(RuntimeError, match=r"Error while uploading 'model\.safetensors'") as error:
        push(api)
    assert isinstance(error.value.__cause__, HTTPX.TransportError)
    assert no_waiting == [1, 2, 4, 8, 8] and [request.status for request in hub.requests("PUT")] == [0] * 6
    assert len(hub.repos["me/model"].commits) == 1 and not hub.objects
    push(api)
    assert hub.repos["me/model"].files["model.safetensors"] == WEIGHTS


def test_one_cut_in_the_middle_of_the_parts_is_mended_by_the_client(hub: LocalHub, api: HfApi, no_waiting: list[float]) -> None:
    hub.part_size = 4_000
    api.create_repo("me/model")
    hub.cut("PUT", "/storage/.*/2$", after_bytes=100)
    push(api)
    assert [request.status for request in hub.requests("PUT")] == [200, 0, 200, 200]
    assert hub.repos["me/model"].files["model.safetensors"] == WEIGHTS


def test_a_commit_whose_answer_is_lost_was_made(hub: LocalHub, api: HfApi) -> None:
    api.create_repo("me/model")
    hub.cut("POST", "/commit/", response=True)
    with pytest.raises(HTTPX.TransportError):
        push(api)
    assert [commit.message for commit in hub.repos["me/model"].commits] == ["initial commit", "A run"]
    assert push(api) == hub.repos["me/model"].branches["main"]
    assert len(hub.repos["me/model"].commits) == 2


def test_a_download_that_ends_too_early_goes_on_where_it_stopped(
    hub: LocalHub, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)  # bytes; of a chunk that is not whole nothing is kept
    hub.add_repo("me/model", {"model.safetensors": WEIGHTS})
    hub.cut("GET", "/storage/", after_bytes=1_000, reset=False)
    assert Path(hf_hub_download("me/model", "model.safetensors")).read_bytes() == WEIGHTS
    assert [request.status for request in hub.requests("GET", "/storage/")] == [0, 206]
    assert len(no_waiting) == 1


def test_a_download_that_is_reset_raises_and_leaves_nothing_in_the_cache(hub: LocalHub, api: HfApi) -> None:
    hub.add_repo("me/model", {"model.safetensors": WEIGHTS})
    hub.cut("GET", "/storage/", after_bytes=1_000)
    with pytest.raises(HTTPX.ReadError):
        hf_hub_download("me/model", "model.safetensors")
    assert Path(hf_hub_download("me/model", "model.safetensors")).read_bytes() == WEIGHTS


def test_a_careless_server_repeats_the_token_in_its_errors(hub: LocalHub, api: HfApi) -> None:
    hub.echo_authorization = True
    with pytest.raises(RepositoryNotFoundError, match=WRITE_TOKEN):
        api.model_info("me/nothing")
    hub.fail("GET", "/whoami-v2", 500)
    with pytest.raises(HfHubHTTPError, match=WRITE_TOKEN):
        api.whoami()


# --- the libraries that users call --------------------------------------------------------------------------------------------


def run_python(code: str, environment: dict[str, str]) -> dict[str, Any]:
    """What a fresh process prints as JSON."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_transformers_timm_and_datasets_load_what_was_pushed(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "film"]
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=7, max_position_embeddings=16, id2label={0: "neg", 1: "pos"}, **sizes)
    bert: Any = BertForSequenceClassification(config)
    bert.eval().save_pretrained(tmp_path / "bert")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "README.md").write_bytes(CARD)
    resnet = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(resnet, str(tmp_path / "resnet"), safe_serialization=True)
    for name in ("bert", "resnet"):
        api.create_repo(f"me/{name}", private=True)
        api.upload_folder(repo_id=f"me/{name}", folder_path=tmp_path / name)
    hub.add_repo("datasets/me/reviews", {"train.csv": b"text,label\na good film,1\na film,0\n"}, private=True)
    hub.log.clear()
    loaded = run_python(
        """
        import datasets, json, timm, torch
        from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline
        bert = AutoModelForSequenceClassification.from_pretrained("me/bert")
        classify = pipeline(model="me/bert")
        resnet = timm.create_model("hf-hub:me/resnet", pretrained=True).eval()
        with torch.inference_mode():
            print(json.dumps({
                "labels": AutoConfig.from_pretrained("me/bert").id2label,
                "task": classify.task,
                "bert": bert(torch.tensor([[4, 5, 6]])).logits.tolist(),
                "pipeline": [row["score"] for row in classify("a good film", top_k=None, function_to_apply="none")],
                "resnet": resnet(torch.ones(1, 3, 64, 64)).tolist(),
                "reviews": datasets.load_dataset("me/reviews", split="train")["text"][:],
            }))
        """,
        hub.environment(tmp_path / "home", token=WRITE_TOKEN),
    )
    with torch.inference_mode():
        logits = bert(torch.tensor([[4, 5, 6]])).logits
        assert torch.equal(torch.tensor(loaded["bert"]), logits)
        assert loaded["pipeline"] == pytest.approx(sorted(logits[0].tolist(), reverse=True), abs=1e-6)
        assert torch.equal(torch.tensor(loaded["resnet"]), resnet(torch.ones(1, 3, 64, 64)))
    assert (loaded["labels"], loaded["task"]) == ({"0": "neg", "1": "pos"}, "text-classification")
    assert loaded["reviews"] == ["a good film", "a film"]
    assert {request.path for request in hub.log if not request.authorized} == {
        f"/storage/{oid((tmp_path / name / 'model.safetensors').read_bytes())}" for name in ("bert", "resnet")
    }


def test_the_environment_of_a_process_holds_no_token_but_the_one_given(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_machine")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    hub.add_repo("me/model", {"config.json": b"{}"}, private=True)
    code = """
        import json
        from huggingface_hub import HfApi, get_token
        print(json.dumps({"token": get_token(), "private": HfApi().repo_exists("me/model")}))
    """
    assert run_python(code, hub.environment(tmp_path)) == {"token": None, "private": False}
    assert run_python(code, hub.environment(tmp_path, token=READ_TOKEN)) == {"token": READ_TOKEN, "private": True}
