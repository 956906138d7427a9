"""What is published of a run: an allow-list of files, without the places and secrets of the machine they were made on.

A published repository is a run directory whose model lies at its root, where `from_pretrained(repo_id)` looks for it. Everything
else keeps its name, so that whoever pulls it can verify every number. Data stay where they are: of the examples their ids,
labels and predictions are published, never the texts or pictures (serving.parquet stays out).
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import get_token

from hftl.errors import Problem, RunError
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.facts import contradictions
from hftl.files import fingerprint, open_plain, read_json, to_json, write_text
from hftl.names import FIGURES
from hftl.recipe import LOCAL, Recipe, local_name, secrets_beside
from hftl.records.data import read_data, read_other_rows
from hftl.run import EVALUATION, RunDirectory, sealed_files
from hftl.secrets import find_secrets
from hftl.sharing.card import check_repo_id, render_card
from hftl.sharing.contents import CODE, foreign, is_document
from hftl.sharing.front_matter import check_front_matter
from hftl.sharing.usage import local_extra, local_places

# The allow-list, as patterns of fnmatch. What is fetched of a stranger's repository goes by it, too.
_DIGITS = "[0-9]" * 5
MODEL_FILES = (
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("model.safetensors", f"model-{_DIGITS}-of-{_DIGITS}.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "dict.txt", "entity_vocab.json"),
    *("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model", "sentencepiece.model"),
    *CODE,
)
RUN_FILES = (
    *("README.md", "recipe.yaml", "manifest.json", "plan.json", "data.json", "audit.json", "environment.json", "history.jsonl"),
    *("freeze_proof.json", "metrics.json", "predictions/validation.parquet", "predictions/test.parquet", "test_openings.jsonl"),
    *("predictions/validation_views.parquet", "predictions/test_views.parquet", "test_ledger.json", "seeds.json"),
    *("baseline/baseline.json", "baseline/validation.parquet", "baseline/test.parquet"),
    *("teacher/teacher.json", "teacher/validation.parquet", "teacher/test.parquet", "shrink/shrink.json", "shrink/front.png"),
    "figures/learning_curves.png",
    *sorted({f"figures/{name}" for names in FIGURES.values() for name in names}),
)
WHOLE = ("audit.json", "data.json", "environment.json", "freeze_proof.json", "history.jsonl", "metrics.json", "plan.json")
"""The records that every finished run has, and a card is rendered from."""
EVALUATION_FILES = tuple(f"evaluations/*/{name}" for name in ("predictions.parquet", "views.parquet", "data.json", "metrics.json"))
"""Of evaluations on other rows; * is one name (`hftl.run.EVALUATION`)."""
_EVALUATION_FILE = re.compile(rf"evaluations/{EVALUATION}/((predictions|views)\.parquet|data\.json|metrics\.json)")
TEXT = (".json", ".jsonl", ".yaml", ".md", ".txt", ".py")


@dataclass(frozen=True, eq=False)
class Publication:
    """Everything one push sends, and what it does not."""

    repo_id: str
    name: str
    """Of the run."""
    folder: Path
    """A copy of all of it that nobody else may write to, as it will lie in the repository. What was searched, verified and served
    there is what is sent. It is removed with this object."""
    files: Mapping[str, Path]
    """Path in the repository -> the file of the copy."""
    left_out: tuple[str, ...]
    """Files of the run that are on no allow-list."""

    def size(self, name: str) -> int:
        """Bytes of one of the files."""
        return self.files[name].stat().st_size


def is_model_file(name: str) -> bool:
    """Whether a file of this name belongs to a model as hftl publishes it."""
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def is_published(name: str) -> bool:
    """Whether a path of a repository is one that hftl writes there."""
    return is_model_file(name) or is_run_file(name)


def is_run_file(name: str) -> bool:
    """Whether a path is one of those beside the model that are published."""
    return name in RUN_FILES or _EVALUATION_FILE.fullmatch(name) is not None


def is_foreign(name: str) -> bool:
    """Whether a path of a repository is one that hftl never writes, and a library that loads the model may read."""
    return not is_published(name) and not is_document(name)


def check_plain(run: RunDirectory) -> None:
    """Refuse a run whose files are links, pipes or the like, before one of them is opened.

    Raises:
        RunError: with all of them.
    """
    folders = {"model", "figures", "predictions", "baseline", "teacher", "shrink", "evaluations"}  # which may be links themselves
    names = [name for name in all_files(run.path) if is_published(name) or name.split("/")[0] in folders]
    problems = [Problem(name, why) for name in names if (why := _not_plain(run, name)) is not None]
    if problems:
        raise _refused(run, problems)


def prepare(run: RunDirectory, repo_id: str) -> Publication:
    """Gather and check what would be published as `repo_id`. Nothing is sent, and the run is not changed.

    Raises:
        RunError: the run is not finished, or something may not or cannot be published: all problems in one report.
    """
    check_repo_id(repo_id)
    run.check_finished("there is nothing to publish")
    run.load_recipe()
    refuse_pulled(run, "push the run it came from, or train its recipe again")
    folder = Path(tempfile.mkdtemp(prefix="hftl-push-"))
    try:
        publication = _gather(run, repo_id, folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, RunError):  # nobody knows the place of the copy
            raise RunError(str(error).replace(str(folder), str(run.path))) from None
        raise
    weakref.finalize(publication, shutil.rmtree, folder, ignore_errors=True)
    return publication


def _gather(run: RunDirectory, repo_id: str, folder: Path) -> Publication:
    problems, left_out = _copy(run, folder)
    copy = RunDirectory(folder)
    needed = ("config.json", *WHOLE, "predictions/validation.parquet", "recipe.yaml")
    problems += [Problem(name, "missing; the run is not whole") for name in needed if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        problems.append(Problem("model.safetensors", "missing; weights are published as safetensors only"))
    if problems:
        raise _refused(run, problems)

    # From here on nothing is read but the copy.
    recipe, data = copy.load_recipe(), read_data(copy)
    places = local_places(recipe, data)
    problems += [Problem(name, what) for name, what in foreign(folder, _names(folder))]
    problems += contradictions(recipe, data)
    write_text(copy.card, render_card(copy, repo_id=repo_id))
    problems += [Problem("README.md", sentence) for sentence in check_front_matter(copy.card.read_text(encoding="utf-8"))]
    of_extra = local_extra(recipe, data)
    write_text(copy.recipe, _without_places(recipe, places, of_extra).to_yaml())
    names = {**{_value(recipe, key): name for key, name in places.items()}, **of_extra}
    for path in (copy.data, copy.audit):
        write_text(path, to_json(_renamed(read_json(path), names)))
    for evaluation in copy.evaluations:
        rows = read_other_rows(copy, evaluation)
        if rows["format"] != "hub":
            names_of_rows = {rows["source"]: LOCAL + local_name(rows["source"])}
            write_text(copy.evaluation(evaluation) / "data.json", to_json(_renamed(rows, names_of_rows)))
    problems += _secrets_and_places(folder, secrets_beside(recipe))
    if problems:
        raise _refused(run, problems)
    sealed = {name: fingerprint(folder / name) for name in _names(folder)}
    write_text(copy.manifest, to_json({"repository": repo_id, "files": sealed}))
    return Publication(repo_id, recipe.name, folder, {name: folder / name for name in _names(folder)}, tuple(left_out))


def _refused(run: RunDirectory, problems: Sequence[Problem]) -> RunError:
    return RunError("\n".join([f"{run.path} cannot be published as it is:", *map(str, problems)]))


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _copy(run: RunDirectory, folder: Path) -> tuple[list[Problem], list[str]]:
    """Copy what may be published of a run, each file as one that may be; returns what may not be copied, and what is on no list."""
    problems: list[Problem] = []
    left_out: list[str] = []
    model = run.model.relative_to(run.path).as_posix()
    for name in all_files(run.path):
        in_model = name.removeprefix("" if model == "." else f"{model}/") if model == "." or name.startswith(f"{model}/") else ""
        published = in_model if is_model_file(in_model) else name if is_run_file(name) else None
        if name == "manifest.json":  # the repository has one of its own
            continue
        if published is None and name not in {model, "figures", "predictions", "baseline", "teacher", "shrink", "evaluations"}:
            left_out.append(name)
            continue
        try:
            # Of the code there is one version, whatever lies in the run; verify says where that is another.
            with CODE[published].open("rb") if published and published in CODE else open_plain(run.path, name) as source:
                target = folder / (published or name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as stream:
                    shutil.copyfileobj(source, stream, 2**20)
        except RunError as error:
            problems.append(Problem(name, str(error).removeprefix(f"{run.path / name}: ")))
        except FileExistsError:
            problems.append(Problem(name, f"is there twice, as the run's and as the model's {published}"))
        except OSError as error:
            room = "TMPDIR names a place with more room" if error.errno == errno.ENOSPC else "nothing was sent"
            raise RunError(f"{name} cannot be copied to {folder.parent} to be checked: {error.strerror}. {room}") from None
    return problems, left_out


def all_files(folder: Path) -> list[str]:
    """Everything below a folder that is no folder, links to folders included, sorted."""
    collected = []
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        collected += [(inside / name).as_posix() for name in [*files, *links]]
    return sorted(collected)


# --- the seal -----------------------------------------------------------------------------------------------------------------


def repository(run: RunDirectory) -> str | None:
    """Where a run was published, if it was fetched from there; None for one's own."""
    return run.published_as


def refuse_pulled(run: RunDirectory, instead: str) -> None:
    """Refuse what would break the seal of somebody else's run.

    Raises:
        RunError: the run was pulled.
    """
    if name := repository(run):
        raise RunError(f"{run.path}: pulled from {name}, and sealed as it was published; {instead}")


def wrong_files(run: RunDirectory, *, cached: bool = False) -> dict[str, str]:
    """{file: what is wrong with it} by the run's manifest: changed, missing, or not on it. Empty: everything is as it was sealed.

    A published manifest covers every file; that of one's own run covers the model and the predictions. Of a `cached` one the files
    are links, as the Hub's cache makes them; elsewhere a link is no file of the run.

    Raises:
        RunError: there is no manifest, or it is none.
    """
    published, sealed = repository(run) is not None, sealed_files(run)
    wrong = {}
    for name, expected in sealed.items():
        path = run.path / name
        if not (is_published(name) if published else _stays_inside(name)):
            wrong[name] = "not a file that hftl publishes"
        elif not path.is_file():
            wrong[name] = "missing, or no plain file"
        elif not cached and (what := _not_plain(run, name)):
            wrong[name] = what
        elif fingerprint(path) != expected:
            wrong[name] = "changed since it was sealed: its SHA-256 is another"
    present = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    own = ("model/", "predictions/", "evaluations/")
    covered = {name for name in present if (is_published(name) if published else name.startswith(own))}
    wrong |= dict.fromkeys(sorted(covered - set(sealed) - {"manifest.json"}), "not on the manifest")
    needed = {"README.md", *WHOLE, "recipe.yaml", "config.json", "predictions/validation.parquet"} if published else set()
    wrong |= dict.fromkeys(sorted(needed - present), "missing")
    if not any(name.endswith(".safetensors") for name in {*sealed, *present}):
        wrong["model.safetensors"] = "missing"
    return wrong


def _not_plain(run: RunDirectory, name: str) -> str | None:
    try:
        open_plain(run.path, name).close()
    except RunError as error:
        return str(error).removeprefix(f"{run.path / name}: ")
    return None


def _stays_inside(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


# --- places and secrets -------------------------------------------------------------------------------------------------------


def _value(recipe: Recipe, key: str) -> str:
    section, field = key.split(".")
    return str(getattr(getattr(recipe, section), field))


def _without_places(recipe: Recipe, places: Mapping[str, str], of_extra: Mapping[str, str]) -> Recipe:
    values = recipe.model_dump(mode="json")
    for extra in values["data"]["extra"]:
        extra["source"] = of_extra.get(extra["source"], extra["source"])
    for key, name in places.items():
        section, field = key.split(".")
        values[section][field] = name
    return Recipe(**values)


def _renamed(value: Any, places: Mapping[str, str]) -> Any:
    """The same JSON value with local paths in its strings replaced by their names."""
    if isinstance(value, str):
        for path, name in places.items():
            if value == path or ("/" in path and path in value):
                value = value.replace(path, name)
        return value
    if isinstance(value, Mapping):
        return {key: _renamed(content, places) for key, content in value.items()}
    if isinstance(value, list):
        return [_renamed(content, places) for content in value]
    return value


def _secrets_and_places(folder: Path, known: dict[str, str]) -> Iterator[Problem]:
    """Secrets, and absolute paths below this user's home or working directory, in the bytes of every file, whatever its ending."""
    if token := get_token():
        known = known | {token: "your Hugging Face token"}
    here = {str(place) for place in (Path.home(), Path.cwd()) if len(place.parts) > 1}
    path = re.compile("|".join(rf"(?<![\w.]){re.escape(place)}(?![\w-])" for place in sorted(here)) or r"(?!)")
    for name in _names(folder):
        places: dict[tuple[int, str], None] = {}
        for texts in _texts_of(folder / name, known):
            rows = [(line, row) for line, text in texts for row in text.split("\n")]
            for row, kind in find_secrets("\n".join(text for _, text in rows), known=known):
                places[rows[row - 1][0] or row, f"holds {kind}; remove it, and have it replaced where it was issued"] = None
            for row, (line, text) in enumerate(rows, start=1):
                if path.search(text):
                    places[line or row, "names a place on this machine; take it out before it is public"] = None
        yield from (Problem(f"{name}, line {line}", what) for line, what in places)


def _texts_of(path: Path, known: Iterable[str]) -> Iterator[list[tuple[int, str]]]:
    """What of a file a person or a program could read as text, in portions: [(line of the file, text)], line 0 for a whole text.

    In a file that is no text it is each run of letters, as the Unix command "strings" finds them, also those of two bytes a letter;
    the `known` values, of whatever letters; and where a file of predictions packs its names, these as well.
    """
    if path.suffix in TEXT:
        content = path.read_bytes()
        yield [(0, content.decode(errors="replace"))]
        if b"\0" not in content:  # otherwise it is a text by its ending alone
            return
    if path.suffix == ".parquet":
        yield [(1, "\n".join([*Predictions.load(path).ids, *stored_label_names(path)]))]
    rest, before = b"", 0
    with path.open("rb") as stream:
        while portion := stream.read(_PORTION):
            content, texts = rest + portion, []
            for pattern, coding in ((_LETTERS, "ascii"), (_WIDE_LETTERS, "utf-16-le")):
                line, place = before + 1, 0
                for letters in pattern.finditer(content):
                    line += content.count(b"\n", place, letters.start())
                    place = letters.start()
                    texts.append((line, letters[0].decode(coding)))
            for value, coding in itertools.product(known, ("utf-8", "utf-16-le")):
                if (place := content.find(value.encode(coding))) >= 0:
                    texts.append((before + 1 + content.count(b"\n", 0, place), value))
            yield texts
            rest = content[-_OVERLAP:]
            before += content.count(b"\n", 0, len(content) - len(rest))


_PORTION, _OVERLAP = 2**24, 2**16
# Of 440 MB of weights these find some 400,000 runs by chance; a form of a secret is in one of them once in 10,000 such files.
_LETTERS, _WIDE_LETTERS = re.compile(rb"[\t\x20-\x7e]{7,}"), re.compile(rb"(?:[\t\x20-\x7e]\0){7,}")
