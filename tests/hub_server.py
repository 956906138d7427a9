"""A small Hugging Face Hub on loopback: what huggingface_hub's own client needs in order to create, push to and pull from it.

Nothing of the client is replaced. A subprocess is pointed here by `LocalHub.environment`, this process by the fixture `hub`.
The endpoints, and where in huggingface_hub 2.4 they are called (K is models or datasets, REPO is namespace/name):

    GET  /api/whoami-v2                                   hf_api.whoami
    POST /api/repos/create                                hf_api.create_repo
    POST /api/validate-yaml                               hf_api._validate_yaml, before a commit that holds a README.md
    GET  /api/K/REPO/auth-check[/write]                   hf_api.auth_check
    GET  /api/K/REPO[/revision/REVISION]                  hf_api.model_info, dataset_info; first call of snapshot_download
    GET  /api/K/REPO/tree/REVISION[/FOLDER]               hf_api.list_repo_tree; second call of snapshot_download
    POST /api/K/REPO/paths-info/REVISION                  hf_api.get_paths_info
    GET  /api/K/REPO/refs                                 hf_api.list_repo_refs
    POST /api/K/REPO/branch/BRANCH                        hf_api.create_branch
    POST /api/K/REPO/preupload/BRANCH                     _commit_api._fetch_upload_modes: which files go as LFS objects
    POST /REPO.git/info/lfs/objects/batch                 lfs.post_lfs_batch_info: where to upload them, whole or in parts
    PUT  STORAGE/OID, STORAGE/OID/PART                    lfs._upload_single_part, _upload_parts_iteratively
    POST STORAGE/OID/complete                             lfs._upload_multi_part
    POST /REPO.git/info/lfs/objects/verify                lfs.lfs_upload
    POST /api/K/REPO/commit/BRANCH                        _commit_api._send_commit: one JSON object a line
    HEAD, GET /REPO/resolve/REVISION/PATH                 file_download.get_hf_file_metadata, http_get
    HEAD, GET STORAGE/OID                                 http_get, of an LFS object

STORAGE stands for the Hub's object storage. It is this server under another name, localhost instead of 127.0.0.1, so that the
client treats it as a foreign host: the access token must not be sent there, and `LocalHub.log` shows whether it was. As on the
Hub, its addresses need no token. Left out: pull requests, Xet, pagination, and the last commit of a file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote

import pytest
import yaml

WRITE_TOKEN = "hf_" + "w" * 34  # as long as real ones, so that a search for secrets recognises them
READ_TOKEN = "hf_" + "r" * 34
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".onnx")
LFS_SIZE = 10 * 2**20  # bytes; a file from here on is an LFS object, whatever its name
FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)

# Variables of the machine that would send a client, or a token, somewhere else.
FOREIGN = re.compile(r"(HF|HUGGING_?FACE|TRANSFORMERS)_.*|(.*_)?PROXY", re.IGNORECASE)

# --- what the Hub holds -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class User:
    """Whom a token belongs to and what it may do; a fine-grained token writes only to `writes`, namespaces or repositories."""

    name: str
    orgs: tuple[str, ...] = ()
    role: Literal["write", "read", "fineGrained"] = "write"
    writes: tuple[str, ...] = ()

    def may_read(self, repo_id: str) -> bool:
        return repo_id.split("/")[0] in (self.name, *self.orgs)

    def may_write(self, repo_id: str) -> bool:
        if self.role == "fineGrained":
            return repo_id in self.writes or repo_id.split("/")[0] in self.writes
        return self.role == "write" and self.may_read(repo_id)


@dataclass(frozen=True)
class Commit:
    """One state of a repository: path -> content of every file."""

    sha: str
    parent: str | None
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A repository; `commits` holds those of all branches, oldest first."""

    id: str
    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)  # name -> sha

    def commit(self, revision: str) -> Commit | None:
        """The commit a branch or a sha names."""
        sha = self.branches.get(revision, revision)
        return next((commit for commit in self.commits if commit.sha == sha), None)

    def add_commit(self, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        parent = self.branches.get(branch)
        content = [self.id, parent, message, sorted((path, blob_id(path, content)) for path, content in files.items())]
        commit = Commit(hashlib.sha1(json.dumps(content).encode()).hexdigest(), parent, message, files)
        self.commits.append(commit)
        self.branches[branch] = commit.sha
        return commit

    @property
    def files(self) -> dict[str, bytes]:
        """The files on branch main."""
        return next(commit.files for commit in self.commits if commit.sha == self.branches["main"])


def is_lfs(path: str, size: int) -> bool:
    """Whether a file is an LFS object, by name or size; an empty file never is (_commit_api._fetch_upload_modes)."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size >= LFS_SIZE)


def oid(content: bytes) -> str:
    """Name of an LFS object."""
    return hashlib.sha256(content).hexdigest()


def lfs_pointer(content: bytes) -> bytes:
    """The text that git keeps in place of an LFS object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid(content)}\nsize {len(content)}\n".encode()


def blob_id(path: str, content: bytes) -> str:
    """Git's name of a file: the SHA-1 of its content, or of its pointer."""
    stored = lfs_pointer(content) if is_lfs(path, len(content)) else content
    return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()


# --- a request and its answer -------------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """A line of the log; status 0 is a connection that was cut, `authorized` whether an Authorization header came with it."""

    method: str
    path: str
    status: int
    authorized: bool


@dataclass(frozen=True)
class Call:
    """A request as an endpoint sees it; `at` holds the parts of the path that its route names, `repo` the repository they name."""

    path: str
    at: dict[str, str]
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    user: User
    repo: Repo

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An answer that is an error; `code` is what the client chooses its exception by."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        why = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.answer = answer_json({"error": message}, status, why)


def answer_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    # A card's YAML may hold dates.
    return Answer(status, json.dumps(content, default=str).encode(), {"Content-Type": "application/json", **(headers or {})})


def answer_file(content: bytes, requested: str | None, headers: dict[str, str]) -> Answer:
    """A file, or the part of it that a Range header asks for; both ends of a range are inclusive."""
    if requested is None:
        return Answer(200, content, {"Accept-Ranges": "bytes", **headers})
    first, last = requested.removeprefix("bytes=").split("-")
    start, end = int(first), min(int(last or len(content)), len(content) - 1)
    if start > end:
        raise Refused(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(content)}", **headers})


# --- who may see and change what ----------------------------------------------------------------------------------------------

Right = Literal["anyone", "token", "see", "read", "write"]  # what a route asks for; the last three are of a repository
NOBODY = User("")


def find_repo(hub: LocalHub, repo_id: str, kind: str, user: User, right: Right) -> Repo:
    """The repository of a call, if the caller has the right; one that he may not see looks missing, as on the Hub."""
    repo, owner = hub.repos.get(repo_id if kind == "models" else f"{kind}/{repo_id}"), user.may_read(repo_id)
    unknown = Refused(401, "Invalid username or password.", "RepoNotFound")
    if repo is None or (repo.private and not owner):
        raise unknown if user == NOBODY else Refused(404, "Repository not found", "RepoNotFound")
    if right == "read" and repo.gated and not owner:
        raise Refused(401 if user == NOBODY else 403, f"Access to {repo_id} is restricted. Ask for access.", "GatedRepo")
    if right == "write" and not user.may_write(repo_id):
        raise unknown if user == NOBODY else Refused(403, "Pass a token with write access to this repository.")
    return repo


def find_commit(repo: Repo, revision: str) -> Commit:
    commit = repo.commit(revision)
    if commit is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


# --- endpoints: accounts and repositories -------------------------------------------------------------------------------------


def whoami(hub: LocalHub, call: Call) -> Answer:
    user = call.user
    token: dict[str, Any] = {"displayName": "test", "role": user.role}
    if user.role == "fineGrained":
        kinds = {name: "model" if "/" in name else "user" if name == user.name else "org" for name in user.writes}
        permissions = ["repo.content.read", "repo.write"]
        scoped = [{"entity": {"type": kind, "name": name}, "permissions": permissions} for name, kind in kinds.items()]
        token["fineGrained"] = {"global": [], "scoped": scoped}
    orgs = [{"type": "org", "name": org, "roleInOrg": "write"} for org in user.orgs]
    return answer_json({"type": "user", "name": user.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}})


def create_repo(hub: LocalHub, call: Call) -> Answer:
    wanted = call.json
    namespace = wanted["organization"] or call.user.name
    repo_id = f"{namespace}/{wanted['name']}"
    if not call.user.may_write(repo_id):
        raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
    key = f"datasets/{repo_id}" if wanted.get("type") == "dataset" else repo_id
    address = {"url": f"{hub.endpoint}/{key}"}
    if key in hub.repos:  # the client reads the address of a repository that exists from the error
        return answer_json({"error": "You already created this repo", **address}, 409)
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
    hub.add_repo(key, {".gitattributes": attributes.encode()}, private=wanted.get("visibility") == "private")
    return answer_json(address)


def validate_yaml(hub: LocalHub, call: Call) -> Answer:
    try:
        card = front_matter(call.json["content"])
    except yaml.YAMLError as error:
        return answer_json({"errors": [{"message": f"YAML metadata error: {error}"}], "warnings": []}, 400)
    warnings = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
    return answer_json({"errors": [], "warnings": warnings})


def front_matter(readme: str) -> dict[str, Any]:
    found = FRONT_MATTER.search(readme)
    card = yaml.safe_load(found[1]) if found else {}
    if not isinstance(card, dict):
        raise yaml.YAMLError("the metadata is not a mapping")
    return card


def auth_check(hub: LocalHub, call: Call) -> Answer:
    return answer_json({})  # the route has asked for the right


def create_branch(hub: LocalHub, call: Call) -> Answer:
    branch = call.at["branch"]
    if branch in call.repo.branches:
        raise Refused(409, f"Reference already exists: refs/heads/{branch}")
    call.repo.branches[branch] = find_commit(call.repo, call.json.get("startingPoint", "main")).sha
    return answer_json({})


# --- endpoints: what is in a repository ---------------------------------------------------------------------------------------


def repo_info(hub: LocalHub, call: Call) -> Answer:
    """What `pipeline(model=REPO)` reads is what the card says; the Hub would also guess it from the files."""
    commit = find_commit(call.repo, call.at.get("revision", "main"))
    siblings: list[dict[str, Any]] = []
    for path, content in sorted(commit.files.items()):
        entry = file_entry(path, content)
        lfs = {"lfs": entry["lfs"] | {"sha256": entry["lfs"]["oid"]}} if "lfs" in entry else {}
        metadata = {"size": entry["size"], "blobId": entry["oid"], **lfs} if "blobs" in call.query else {}
        siblings.append({"rfilename": path, **metadata})
    try:
        card = front_matter(commit.files.get("README.md", b"").decode(errors="replace"))
    except yaml.YAMLError:
        card = {}  # a card that was put here without asking `validate_yaml`
    info = {key: card[key] for key in ("pipeline_tag", "library_name", "tags") if key in card} | {"cardData": card}
    access = {"private": call.repo.private, "gated": "manual" if call.repo.gated else False}
    return answer_json({"id": call.repo.id, "sha": commit.sha, "siblings": siblings, **access, **info})


def file_entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": blob_id(path, content), "size": len(content)}
    if is_lfs(path, len(content)):
        entry["lfs"] = {"oid": oid(content), "size": len(content), "pointerSize": len(lfs_pointer(content))}
    return entry


def entries(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Folders and files by path."""
    folders = sorted({str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."})
    listed = {path: {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()} for path in folders}
    return listed | {path: file_entry(path, content) for path, content in sorted(files.items())}


def tree(hub: LocalHub, call: Call) -> Answer:
    listed, folder = entries(find_commit(call.repo, call.at["revision"]).files), call.at.get("path", "")
    if folder and listed.get(folder, {}).get("type") != "directory":
        raise Refused(404, f"{folder} does not exist", "EntryNotFound")
    inside = [path for path in listed if path.startswith(f"{folder}/" if folder else "")]
    if call.query.get("recursive") != ["true"]:
        inside = [path for path in inside if path.rpartition("/")[0] == folder]
    return answer_json([listed[path] for path in inside])


def paths_info(hub: LocalHub, call: Call) -> Answer:
    """Of the paths asked for, those that exist."""
    listed = entries(find_commit(call.repo, call.at["revision"]).files)
    return answer_json([listed[path] for path in parse_qs(call.body.decode())["paths"] if path in listed])


def list_refs(hub: LocalHub, call: Call) -> Answer:
    branches = call.repo.branches.items()
    refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches]
    return answer_json({"branches": refs, "converts": [], "tags": []})


def resolve(hub: LocalHub, call: Call) -> Answer:
    """A file, or for an LFS object the place in the storage where it is."""
    commit, path = find_commit(call.repo, call.at["revision"]), call.at["path"]
    if path not in commit.files:
        raise Refused(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.sha})
    content = commit.files[path]
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob_id(path, content)}"'}
    if not is_lfs(path, len(content)):
        return answer_file(content, call.headers["Range"], headers)
    hub.objects[oid(content)] = content
    linked = {"X-Linked-Etag": f'"{oid(content)}"', "X-Linked-Size": str(len(content))}
    return Answer(302, b"", {**headers, **linked, "Location": f"{hub.storage}/{oid(content)}"})


# --- endpoints: from files to a commit ----------------------------------------------------------------------------------------


def branch_head(call: Call) -> Commit:
    """The last commit of the branch that a call writes to."""
    head = find_commit(call.repo, call.at["revision"])
    if call.at["revision"] not in call.repo.branches:
        raise Refused(400, "Write to a branch, not to a commit")
    return head


def preupload(hub: LocalHub, call: Call) -> Answer:
    """How each file is to be sent, and what is there now: the client leaves out of the commit what has not changed."""
    present = {path: file_entry(path, content) for path, content in branch_head(call).files.items()}
    decided = []
    for path, size in ((file["path"], file["size"]) for file in call.json["files"]):
        same = present.get(path, {}).get("lfs", present.get(path, {})).get("oid")
        decided.append({"path": path, "uploadMode": "lfs" if is_lfs(path, size) else "regular", "shouldIgnore": False, "oid": same})
    return answer_json({"files": decided})


def lfs_batch(hub: LocalHub, call: Call) -> Answer:
    """Where to upload each object, whole or in parts; no action for one that is here."""
    objects = []
    for wanted in call.json["objects"]:
        href = f"{hub.storage}/{wanted['oid']}"
        upload: dict[str, Any] = {"href": href}
        if wanted["size"] > hub.part_size:
            parts = {str(n): f"{href}/{n}" for n in range(1, math.ceil(wanted["size"] / hub.part_size) + 1)}
            upload = {"href": f"{href}/complete", "header": {"chunk_size": str(hub.part_size), **parts}}
        verify = {"href": f"{hub.endpoint}{call.path.removesuffix('batch')}verify"}
        actions = {} if wanted["oid"] in hub.objects else {"actions": {"upload": upload, "verify": verify}}
        objects.append({**wanted, **actions})
    return answer_json({"objects": objects})


def storage_put(hub: LocalHub, call: Call) -> Answer:
    if "part" not in call.at:
        return store(hub, call.at["oid"], call.body)
    hub.parts[call.at["oid"], int(call.at["part"])] = call.body
    return Answer(headers={"ETag": oid(call.body)})


def storage_complete(hub: LocalHub, call: Call) -> Answer:
    parts = [hub.parts.get((call.at["oid"], part["partNumber"]), b"") for part in call.json["parts"]]
    return store(hub, call.at["oid"], b"".join(parts))


def store(hub: LocalHub, name: str, content: bytes) -> Answer:
    if oid(content) != name:
        raise Refused(400, "The object is not what its SHA-256 says")
    hub.objects[name] = content
    return Answer()


def storage_get(hub: LocalHub, call: Call) -> Answer:
    return answer_file(hub.objects[call.at["oid"]], call.headers["Range"], {"ETag": f'"{call.at["oid"]}"'})


def lfs_verify(hub: LocalHub, call: Call) -> Answer:
    if len(hub.objects.get(call.json["oid"], b"")) != call.json["size"]:
        raise Refused(404, "The object did not arrive whole")
    return Answer()


def create_commit(hub: LocalHub, call: Call) -> Answer:
    """All operations or none; one that was prepared on another parent than the branch has now is refused."""
    head, (header, *operations) = branch_head(call), [json.loads(line) for line in call.body.splitlines()]
    if not head.sha.startswith(header["value"].get("parentCommit", "")):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for operation in operations:
        kind, value, path = operation["key"], operation["value"], operation["value"]["path"]
        if kind == "file":
            files[path] = base64.b64decode(value["content"], validate=True)
        elif kind == "lfsFile":
            if value["oid"] not in hub.objects:
                raise Refused(400, f"Your push was rejected: the LFS object of {path} was not uploaded")
            files[path] = hub.objects[value["oid"]]
        else:  # deletedFile, deletedFolder; the path of a folder ends with a slash
            gone = [name for name in files if name == path or (kind == "deletedFolder" and name.startswith(path))]
            if not gone:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            files = {name: content for name, content in files.items() if name not in gone}
    commit = call.repo.add_commit(call.at["revision"], header["value"]["summary"], files)
    return answer_json({"commitOid": commit.sha, "commitUrl": f"{hub.endpoint}/{call.repo.id}/commit/{commit.sha}"})


# --- routes -------------------------------------------------------------------------------------------------------------------

REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
API = rf"/api/(?P<kind>models|datasets)/{REPO}"
WEB = rf"/(?:(?P<kind>datasets)/)?{REPO}"
LFS = r"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects"
REVISION = "/(?P<revision>[^/]+)"  # a name with a slash comes quoted
OBJECT = "/storage/(?P<oid>[0-9a-f]{64})"

Endpoint = Callable[["LocalHub", Call], Answer]
ROUTES: list[tuple[str, str, Right, Endpoint]] = [  # the first that fits
    ("GET", "/api/whoami-v2", "token", whoami),
    ("POST", "/api/repos/create", "token", create_repo),
    ("POST", "/api/validate-yaml", "anyone", validate_yaml),
    ("GET", f"{API}/auth-check", "read", auth_check),
    ("GET", f"{API}/auth-check/write", "write", auth_check),
    ("POST", f"{API}/branch/(?P<branch>[^/]+)", "write", create_branch),
    ("GET", f"{API}/tree{REVISION}(?:/(?P<path>.+))?", "see", tree),
    ("POST", f"{API}/paths-info{REVISION}", "see", paths_info),
    ("GET", f"{API}/refs", "see", list_refs),
    ("POST", f"{API}/preupload{REVISION}", "write", preupload),
    ("POST", f"{API}/commit{REVISION}", "write", create_commit),
    ("GET", f"{API}(?:/revision{REVISION})?", "see", repo_info),
    ("POST", f"{LFS}/batch", "write", lfs_batch),
    ("POST", f"{LFS}/verify", "write", lfs_verify),
    ("PUT", f"{OBJECT}(?:/(?P<part>[0-9]+))?", "anyone", storage_put),
    ("POST", f"{OBJECT}/complete", "anyone", storage_complete),
    ("GET", OBJECT, "anyone", storage_get),
    ("GET", f"{WEB}/resolve{REVISION}/(?P<path>.+)", "read", resolve),
]

# --- the server ---------------------------------------------------------------------------------------------------------------


@dataclass
class Fault:
    """What happens to the next `times` requests that fit: another answer, or a connection that is cut in the middle."""

    method: str
    path: str
    times: int
    answer: Answer | None = None
    cut: Literal["request", "response"] | None = None
    after_bytes: int = 0
    reset: bool = True


NO_FAULT = Fault("", "", times=0)


class LocalHub:
    """A Hub that runs while the `with` block does; its state is there to be read and changed by a test.

    Attributes:
        repos: by id; a data set's id starts with `datasets/`.
        users: by token.
        objects: LFS objects by SHA-256.
        log: every request, in the order of their answers.
        received: bytes of all request bodies.
        part_size: bytes; a larger LFS object is uploaded in parts of this size.
        echo_authorization: every error repeats the Authorization header, as a careless server or proxy does.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.users = {WRITE_TOKEN: User("me", ("team",)), READ_TOKEN: User("me", ("team",), "read")}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.log: list[Request] = []
        self.received = 0
        self.part_size = 5 * 2**20
        self.echo_authorization = False
        self.faults: list[Fault] = []
        self.crashes: list[BaseException] = []  # bugs of this file; the fixture raises them
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.hub = self
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = f"http://localhost:{self.server.server_port}/storage"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add_repo(self, repo_id: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False) -> Repo:
        """A repository with one commit, put there without a request."""
        repo = self.repos[repo_id] = Repo(repo_id.removeprefix("datasets/"), private, gated)
        repo.add_commit("main", "initial commit", files)
        return repo

    def fail(self, method: str, path: str, status: int = 503, *, times: int = 1, body: bytes = b"", error_code: str = "") -> None:
        """Answer the next `times` requests with an error; `path` is a regular expression that the path contains."""
        answer = Answer(status, body) if body else Refused(status, f"This is a test: {status}", error_code).answer
        self.faults.append(Fault(method, path, times, answer))

    def cut(
        self, method: str, path: str, *, after_bytes: int = 0, times: int = 1, response: bool | None = None, reset: bool = True
    ) -> None:
        """Cut the connection of the next `times` requests after so many bytes of a body.

        Of the response's body for GET and HEAD, of the request's for others. With `response=True` a POST has its effect and its
        answer is lost. `reset=False` ends the connection in order but too early, as a proxy does.
        """
        if response is None:
            response = method in ("GET", "HEAD")
        cut: Literal["request", "response"] = "response" if response else "request"
        self.faults.append(Fault(method, path, times, cut=cut, after_bytes=after_bytes, reset=reset))

    def next_fault(self, method: str, path: str) -> Fault:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return NO_FAULT

    def requests(self, method: str, path: str = "") -> list[Request]:
        """The logged requests of a method whose path contains the regular expression `path`."""
        return [request for request in self.log if request.method == method and re.search(path, request.path)]

    def environment(self, home: Path, *, token: str | None = None) -> dict[str, str]:
        """Environment of a process for which this is the Hub, with caches in `home` and no token but `token`."""
        environment = {name: value for name, value in os.environ.items() if not FOREIGN.fullmatch(name)}
        environment |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        environment |= {"NO_PROXY": "127.0.0.1,localhost", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        return environment | ({"HF_TOKEN": token} if token else {})

    def answer(self, method: str, path: str, query: str, headers: Message, body: bytes) -> Answer:
        """What the endpoint of a request says, if its sender has the right; HEAD is GET without the body."""
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        user = self.users.get(token, NOBODY)
        try:
            if token and user == NOBODY:
                raise Refused(401, "Invalid credentials in Authorization header")
            for route_method, pattern, right, endpoint in ROUTES:
                found = re.fullmatch(pattern, path)
                if found is None or route_method != method.replace("HEAD", "GET"):
                    continue
                at = {name: unquote(text) for name, text in found.groupdict().items() if text}
                if right == "token" and user == NOBODY:
                    raise Refused(401, "Invalid username or password.")
                repo = find_repo(self, at["repo"], at.get("kind", "models"), user, right) if "repo" in at else Repo("")
                return endpoint(self, Call(path, at, parse_qs(query), headers, body, user, repo))
            raise Refused(404, f"Sorry, there is no {method} {path}")
        except Refused as refused:
            return refused.answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a connection that a client keeps open does not hold up the end of a test
    hub: LocalHub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may go away at any time; anything else is a bug of this file."""
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.hub.crashes.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept open, as on the Hub
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement of its headers
    server: _Server

    def serve(self) -> None:
        hub, (path, _, query) = self.server.hub, self.path.partition("?")
        fault = hub.next_fault(self.command, path)
        length, sent = int(self.headers.get("Content-Length", 0)), self.headers.get("Authorization")
        body = self.rfile.read(min(length, fault.after_bytes) if fault.cut == "request" else length)
        with hub.lock:
            hub.received += len(body)
            if fault.cut == "request":
                answer = Answer()
            else:
                answer = fault.answer or hub.answer(self.command, path, query, self.headers, body)
            if hub.echo_authorization and sent and answer.status >= 400:
                answer = Refused(answer.status, f"You sent Authorization: {sent}", answer.headers.get("X-Error-Code")).answer
            hub.log.append(Request(self.command, path, 0 if fault.cut else answer.status, sent is not None))
        if fault.cut != "request":
            self.send(answer, fault.after_bytes if fault.cut else len(answer.body))
        if fault.cut:
            self.hang_up(reset=fault.reset)

    def send(self, answer: Answer, size: int) -> None:
        """The headers and the first `size` bytes of the body."""
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:size])

    def hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:  # a close that does not linger discards what is in flight and sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = serve  # noqa: N815  # the names that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `LocalHub.log` has it."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A running Hub without repositories, and huggingface_hub in this process set as `LocalHub.environment` sets it in another."""
    from huggingface_hub import close_session, constants, hf_api  # not needed by tests that do not use the fixture

    with LocalHub() as running:
        settings: dict[str, Any] = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True}
        settings |= {"HF_HUB_CACHE": str(tmp_path / "hub-cache"), "HF_TOKEN_PATH": str(tmp_path / "no-token")}
        settings |= {"ENDPOINT": running.endpoint}
        settings |= {"HUGGINGFACE_CO_URL_TEMPLATE": f"{running.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", running.endpoint)  # the functions of huggingface_hub, such as model_info
        for name in [name for name in os.environ if FOREIGN.fullmatch(name) and name != "HF_HUB_OFFLINE"]:
            monkeypatch.delenv(name)
        close_session()
        yield running
        close_session()
    assert not running.crashes, running.crashes
