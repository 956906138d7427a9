"""The Hub: push a finished run in one commit, once it has passed every gate, and fetch what others published.

huggingface_hub does the talking, so HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE work as everywhere. Weights are safetensors,
recipes are data, and no code of a repository is ever run. No message holds a token.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # of the library that the client speaks HTTP with: httpx2, before 2.0 httpx
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not in the stubs
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from hftl.errors import RunError
from hftl.evaluation.openings import count_openings
from hftl.facts import how_known
from hftl.files import check_name, write_text
from hftl.recipe import Card, Recipe, of_another, without_places
from hftl.records.data import read_data
from hftl.records.openings import read_test_ledger
from hftl.run import RunDirectory, sealed_files
from hftl.secrets import redact
from hftl.sharing.card import check_repo_id, render_card
from hftl.sharing.contents import foreign as what_is_foreign
from hftl.sharing.publication import (
    EVALUATION_FILES,
    MODEL_FILES,
    RUN_FILES,
    Publication,
    check_plain,
    is_foreign,
    is_published,
    prepare,
    repository,
    wrong_files,
)
from hftl.signals import Stopped
from hftl.wording import size

if TYPE_CHECKING:
    from hftl.sharing.parity import Parity

PREFIX = "hub:"
TO_PREDICT = (*MODEL_FILES, "recipe.yaml")
REPEAT = "Nothing is lost, and the push can be repeated"


# --- push ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pushed:
    """What went through the gates of a push, and where it is."""

    publication: Publication
    claims: int
    """Numbers that were recomputed."""
    target: Target | None
    """None: a dry run without a Hub or a token."""
    parity: Parity
    address: str | None
    """Of the commit; None: a dry run, nothing was sent."""


def push(
    run: RunDirectory,
    repo_id: str,
    *,
    private: bool = False,
    revision: str = "main",
    replace: bool = False,
    dry_run: bool = False,
    say: Callable[[str], object] = lambda line: None,
) -> Pushed:
    """Publish a finished run: check it at every gate, in this order, and send it in one commit.

    Files and card, facts that contradict what was read, secrets and places (`publication.prepare`); every number (`verify`); token
    and rights (`check_target`); the model as a stranger gets it, served in a fresh process (`parity`). There is no other way out.

    Args:
        private: make a new repository one that only its owner sees.
        revision: the branch that gets the commit; made where it is not there.
        replace: take the place of another run that was pushed there.
        dry_run: stop before the first byte is sent.
        say: is given a line about each gate that was passed.

    Raises:
        RunError: the run may not or cannot be published: a gate does not let it pass, or the Hub does not take it.
        Stopped: a signal came while it was sent.
    """
    # Here, since they bring the models along, which nobody needs who fetches.
    from hftl.sharing.parity import check_serving
    from hftl.sharing.verify import require_verified, require_verified_copy

    check_plain(run)
    _count_openings_anew(run, say)
    publication = prepare(run, repo_id)
    for name in publication.files:
        say(f"  {size(publication.size(name)):>9}  {name}")
    say(f"  {size(sum(map(publication.size, publication.files))):>9}  in {len(publication.files)} files")
    say(f"  left out: {', '.join(publication.left_out) or 'nothing'}")
    require_verified(run)
    verdict = require_verified_copy(publication, run)
    claims = len(verdict.claims)
    say(f"  numbers  {claims:,} recomputed, all hold")
    for note in verdict.notes:
        if "figures/" in note:
            say(f"  figures  {note}")
    say("  secrets  none found")
    target = check_target(publication, private=private, revision=revision, replace=replace, required=not dry_run)
    if target is None:
        say("  rights   not checked: no connection, or no token")
    else:
        state = "there already" if target.exists else "new, private" if private else "new, public unless its owner's default is not"
        say(f"  rights   {target.user} may write to {repo_id} ({state})")
        if target.holds not in {None, publication.name}:
            say(f"  replaces the run {target.holds} that lies there")
        for name in target.stale:
            say(f"  removes  {name}, left from an earlier push")
        for name in target.foreign:
            say(f"  beside   {name} is not of hftl, and stays; with it there, `hftl verify {repo_id}` does not hold")
    parity = check_serving(run, publication)
    what = f"{parity.samples} validation examples in a fresh process, largest difference of a logit {parity.difference:.1e}"
    say(f"  serving  {what}")
    for id in parity.read_differently:
        say(f"  serving  {id}: transparent or of more than 8 bits; transformers.pipeline reads it differently")
    if dry_run or target is None:
        say(f"nothing was sent. Without --dry-run this is one commit to {repo_id}, branch {revision}")
        return Pushed(publication, claims, target, parity, address=None)
    try:
        address = _send(publication, target, private=private, message=f"hftl: {publication.name}")
    except Stopped as stopped:
        say(f"stopped by {stopped.signal.name}: {repo_id} has the commit whole, or not at all. To see:  hftl verify {repo_id}")
        raise
    say(address)
    return Pushed(publication, claims, target, parity, address)


@dataclass(frozen=True)
class Target:
    """A place on the Hub that this user may write to."""

    repo_id: str
    revision: str
    user: str
    exists: bool
    head: str | None
    """Commit that the push builds on; None where there is no such branch yet."""
    holds: str | None
    """Name of the run that lies there now."""
    stale: tuple[str, ...]
    """Files of an earlier push that are not part of this one: the commit removes them."""
    foreign: tuple[str, ...] = ()
    """Files that hftl did not write, which a library that loads the model may read."""


def check_target(
    publication: Publication, *, private: bool, revision: str, replace: bool = False, required: bool = True
) -> Target | None:
    """Token, rights and what is already there. Changes nothing. None: not `required`, and no Hub or no token at hand.

    Raises:
        RunError: no token, no right to write, no connection, a repository that hftl did not make, or one that holds another run
            (unless `replace`).
    """
    api, repo_id = HfApi(), publication.repo_id
    if not required and (constants.HF_HUB_OFFLINE or get_token() is None):
        return None
    if constants.HF_HUB_OFFLINE:
        raise RunError("the Hub is switched off here (HF_HUB_OFFLINE=1); a push needs it. --dry-run checks everything else")
    if get_token() is None:
        where = f"One with the right to write is made at {api.endpoint}/settings/tokens"
        raise RunError(f"no token: set HF_TOKEN, or run `hf auth login`. {where}")
    with _hub_errors(repo_id):
        who = api.whoami()
        if "name" not in who:
            raise RunError(f"{api.endpoint} does not say whose the token is; is it a Hub?")
        _check_rights(who, repo_id)
        if not api.repo_exists(repo_id):
            return Target(repo_id, revision, who["name"], exists=False, head=None, holds=None, stale=())
        api.auth_check(repo_id, write=True)
        if private and not api.model_info(repo_id).private:
            raise RunError(f"{repo_id} is there already, and public: --private does not hide it. Change that in its settings first")
        if not api.revision_exists(repo_id, revision):
            return Target(repo_id, revision, who["name"], exists=True, head=None, holds=None, stale=())
        info = api.model_info(repo_id, revision=revision)
    present = {file.rfilename for file in info.siblings or []}
    others = sorted(present - {".gitattributes", "README.md"})
    if others and not {"manifest.json", "recipe.yaml"} <= present:
        named = ", ".join(others[:5])
        raise RunError(f"{repo_id} holds what hftl did not push ({named}); choose another name, or a new branch with --revision")
    stale = tuple(sorted(name for name in present if is_published(name) and name not in publication.files))
    holds = fetch_recipe(f"{repo_id}@{revision}").name if "recipe.yaml" in present else None
    if holds not in {None, publication.name} and not replace:
        raise RunError(f"{repo_id} holds the run {holds}; choose another name, or push with --replace")
    foreign = tuple(sorted(filter(is_foreign, present)))
    return Target(repo_id, revision, who["name"], exists=True, head=info.sha, holds=holds, stale=stale, foreign=foreign)


def _check_rights(who: dict[str, Any], repo_id: str) -> None:
    owner = repo_id.partition("/")[0]
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise RunError(f"the token of {who['name']} may read only; a push needs one with the right to write")
    organisations = {organisation["name"]: organisation.get("roleInOrg") for organisation in who.get("orgs", [])}
    if owner != who["name"] and owner not in organisations:
        known = ", ".join([who["name"], *organisations])
        raise RunError(f"{who['name']} may not write to {owner}/...; owners this token knows: {known}")
    if organisations.get(owner) == "read":
        raise RunError(f"{who['name']} may only read in the organisation {owner}")


def _count_openings_anew(run: RunDirectory, say: Callable[[str], object]) -> None:
    """Have a card that hftl wrote tell of the test rows' openings by other runs since then, of which a run knows nothing."""
    if not run.finished or not run.card.is_file() or repository(run) is not None:
        return  # the gates say what is wrong
    as_written = run.card.read_text(encoding="utf-8", errors="replace") == render_card(run)
    if (problem := count_openings(run)) is not None:
        say(f"  openings {problem}")
    if as_written and run.card.read_text(encoding="utf-8") != (card := render_card(run)):
        write_text(run.card, card)
        counted = read_test_ledger(run)
        assert counted is not None  # just written
        say(f"  openings the test rows were opened {counted['openings']} times by {counted['runs']} runs by now: the card says so")


def _send(publication: Publication, target: Target, *, private: bool, message: str) -> str:
    """Send everything in one commit, on top of what `check_target` saw, whatever it is; returns the commit's address.

    A push that fails leaves the branch as it was, and can be repeated: what had arrived is not sent again.

    Raises:
        RunError: the connection or the Hub failed, or somebody else pushed in between.
    """
    api = HfApi()
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in publication.files.items()
    ]
    operations += [CommitOperationDelete(path_in_repo=name) for name in target.stale]
    with _hub_errors(target.repo_id, again=REPEAT):
        api.create_repo(target.repo_id, private=private or None, exist_ok=True)
        if target.revision != constants.DEFAULT_REVISION and target.head is None:
            api.create_branch(target.repo_id, branch=target.revision, exist_ok=True)
        head = target.head or api.model_info(target.repo_id, revision=target.revision).sha
        with warnings.catch_warnings():
            # Predictions are no data set: they are what the card's numbers are recomputed from.
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            commit = api.create_commit(
                target.repo_id, operations, commit_message=message, revision=target.revision, parent_commit=head
            )
    return str(commit.commit_url)


# --- fetch --------------------------------------------------------------------------------------------------------------------


def parse_hub_id(name: str) -> tuple[str, str | None]:
    """("me/reviews", "v1") of "hub:me/reviews@v1"; the prefix and the revision may be missing.

    Raises:
        RunError: it cannot be the name of a repository.
    """
    repo_id, at, revision = name.removeprefix(PREFIX).partition("@")
    if at and not re.fullmatch(r"[\w.][\w./-]*", revision):
        raise RunError(f'"{revision}" is not a branch, tag or commit')
    return check_repo_id(repo_id), revision or None


def fetch(name: str, wanted: Sequence[str] = (*MODEL_FILES, *RUN_FILES, *EVALUATION_FILES)) -> RunDirectory:
    """A published run, or the `wanted` files of it, in the Hub's cache. It is shared: nothing may be written into it.

    Raises:
        RunError: no such repository or revision, no right to read it, or no connection.
    """
    repo_id, revision = parse_hub_id(name)
    with _hub_errors(repo_id):
        run = RunDirectory(Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(wanted))))
    if not any(run.path.rglob("*.*")):
        raise RunError(f"{repo_id}: nothing in it that hftl published")
    return run


def repository_files(name: str, run: RunDirectory) -> list[str] | None:
    """Every file of a repository at the commit that `fetch` has of it, also those that hftl never fetches; None: not known here."""
    if constants.HF_HUB_OFFLINE:
        return None
    repo_id, _ = parse_hub_id(name)
    try:
        with _hub_errors(repo_id):
            info = HfApi().model_info(repo_id, revision=run.path.name)
    except RunError:  # the files may be in the cache from before; who asks says that this is not known
        return None
    return [file.rfilename for file in info.siblings or []]


@contextmanager
def _without_bars() -> Iterator[None]:
    """For files that arrive before a progress bar could be read."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def fetch_recipe(name: str) -> Recipe:
    """The recipe of a published run, see `strangers_recipe`.

    Raises:
        RunError: no such repository, or it has no recipe.
        RecipeError: it is no recipe.
    """
    with _without_bars():
        run = fetch(name, ["recipe.yaml", "data.json"])
    if not run.recipe.is_file():
        raise RunError(f"{name}: no recipe.yaml in it; was it pushed by hftl?")
    return strangers_recipe(run, parse_hub_id(name)[0])


def strangers_recipe(run: RunDirectory, author: str) -> Recipe:
    """The recipe of a run that somebody else has published: data, read as YAML; never code.

    It names no place of this machine: what may be one is written "local:NAME", and has to be named by whoever repeats the recipe
    (`hftl.recipe.check_places`). The data, the model and the stages are repeated; the author's trackers are dropped. What
    the author says of the old model is not about the new one, and what they say of the data holds for the same data alone
    (`hftl.facts.settle`).

    Raises:
        RunError: no run there.
        RecipeError: it is no recipe.
    """
    recipe = without_places(run.load_recipe())
    card, data = recipe.card, read_data(run)
    if card.dataset_fingerprint is None and how_known(recipe, data) != "claimed":  # the author's word is not proven by repeating it
        card = Card(**{**card.model_dump(), "dataset_fingerprint": data["fingerprint"]})
    without_trackers = recipe.run.model_copy(update={"trackers": ()})
    return of_another(recipe.model_copy(update={"run": without_trackers, "card": card}), author)


def pull(name: str, folder: Path) -> RunDirectory:
    """Copy a published run into a folder of its own, as a run directory, once every file agrees with the repository's manifest.

    Raises:
        RunError: the folder exists, or a file is not what the manifest says.
    """
    check_name(folder)
    if folder.exists():
        raise RunError(f"{folder} exists; nothing is written over. Choose another place with --output")
    cached = fetch(name)
    if repository(cached) is None:
        raise RunError(f"{name}: no manifest of a publication in it; was it pushed by hftl?")
    if wrong := wrong_files(cached, cached=True):
        raise RunError("\n".join([f"{name} is not what was pushed:", *(f"  {file}: {what}" for file, what in wrong.items())]))
    if held := list(what_is_foreign(cached.path, sealed_files(cached))):
        what = "holds what hftl never writes, so it was not pushed by hftl as it is, and is not fetched"
        raise RunError("\n".join([f"{name} {what}:", *(f"  {file}: {wrong}" for file, wrong in held)]))
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    for file in [*sealed_files(cached), "manifest.json"]:
        (beside / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cached.path / file, beside / file)  # what the cache's links point to
    beside.replace(folder)
    return RunDirectory(folder)


# --- errors -------------------------------------------------------------------------------------------------------------------


@contextmanager
def _hub_errors(repo_id: str, *, again: str = "Try again") -> Iterator[None]:
    """The client's errors as one sentence each, with the way out and without any token."""
    try:
        yield
    except GatedRepoError:
        raise RunError(f"{repo_id} is gated: ask for access on its page") from None
    except RepositoryNotFoundError:
        raise RunError(f"{repo_id}: no such repository, or it is private and this token may not read it") from None
    except RevisionNotFoundError:
        raise RunError(f"{repo_id}: no such branch, tag or commit") from None
    except LocalEntryNotFoundError:
        hub, way = f"{HfApi().endpoint} cannot be reached", again
        if constants.HF_HUB_OFFLINE:
            hub, way = "the Hub is switched off (HF_HUB_OFFLINE=1)", "HF_HUB_OFFLINE=0 asks the Hub"
        raise RunError(f"{repo_id}: no such folder here; {hub}, and the cache of this machine does not have it. {way}") from None
    except EntryNotFoundError as error:
        raise RunError(f"{repo_id}: {_message(error)}") from None
    except OfflineModeIsEnabled:
        raise RunError(f"{repo_id}: the Hub is switched off here (HF_HUB_OFFLINE=1)") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in {409, 412} and again == REPEAT:
            raise RunError(f"{repo_id}: somebody else pushed in between; look at it, and push again") from None
        if status in {401, 403}:
            raise RunError(f"{repo_id}: the Hub refuses this token ({status}): {_message(error)}") from None
        raise RunError(f"{repo_id}: the Hub answered {status}: {_message(error)}. {again}") from None
    except HTTPError as error:
        what = f"{repo_id}: the connection to {HfApi().endpoint} failed ({type(error).__name__}: {_message(error)})"
        raise RunError(f"{what}. {again}") from None
    # A full disk or a cache that cannot be written; an answer that is no Hub's, or the Hub's own check of the card; an upload that
    # failed six times, by LFS or by Xet.
    except (OSError, ValueError, RuntimeError, XetDownloadError) as error:
        raise RunError(f"{repo_id}, at {HfApi().endpoint}: {type(error).__name__}: {_message(error)}. {again}") from None


def _message(error: BaseException) -> str:
    token = get_token()
    return redact(" ".join(str(error).split()), known=[token] if token else [])[:300]
