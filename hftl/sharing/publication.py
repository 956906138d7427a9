"""What is published of a run: an allow-list of files, without the places and secrets of the machine they were made on.

A published repository is a run directory whose model lies at its root, where `from_pretrained(repo_id)` looks for it. Everything
else keeps its name, so that whoever pulls it can verify every number. Data stay where they are: of the examples their ids,
labels and predictions are published, never the texts or pictures (serving.parquet stays out).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import get_token

from hftl.errors import Problem, RunError
from hftl.evaluation.metrics import Predictions
from hftl.facts import contradictions
from hftl.recipe import Recipe
from hftl.run import RunDirectory, fingerprint, read_json, to_json
from hftl.secrets import environment_secrets, find_secrets
from hftl.sharing.card import check_front_matter, check_repo_id, local_places, render_card

# The allow-list, as patterns of fnmatch. What is fetched of a stranger's repository goes by it, too.
_DIGITS = "[0-9]" * 5
MODEL_FILES = (
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("model.safetensors", f"model-{_DIGITS}-of-{_DIGITS}.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "dict.txt", "entity_vocab.json"),
    *("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model", "sentencepiece.model"),
    "glove_modeling.py",
)
RUN_FILES = (
    *("README.md", "recipe.yaml", "manifest.json", "plan.json", "data.json", "audit.json", "environment.json", "history.jsonl"),
    *("freeze_proof.json", "metrics.json", "predictions/validation.parquet", "predictions/test.parquet", "test_openings.jsonl"),
    *("figures/learning_curves.png", "figures/calibration.png"),
    *("figures/confusion_matrix_validation.png", "figures/confusion_matrix_test.png"),
)
GLOVE_CODE = Path(__file__).parent.parent / "models" / "glove_modeling.py"
TEXT = (".json", ".jsonl", ".yaml", ".md", ".txt", ".py")


@dataclass(frozen=True)
class Publication:
    """Everything one push sends, and what it does not."""

    repo_id: str
    name: str
    """Of the run."""
    files: Mapping[str, Path | bytes]
    """Path in the repository -> the file, or its content where it differs from the run's."""
    left_out: tuple[str, ...]
    """Files of the run that are on no allow-list."""

    def size(self, name: str) -> int:
        """Bytes of one of the files."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def readable_bytes(count: int) -> str:
    """1_234_567 is "1.2 MB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.1f} GB"


def is_model_file(name: str) -> bool:
    """Whether a file of this name belongs to a model as hftl publishes it."""
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def is_published(name: str) -> bool:
    """Whether a path of a repository is one that hftl writes there."""
    return is_model_file(name) or name in RUN_FILES


def prepare(run: RunDirectory, repo_id: str) -> Publication:
    """Gather and check what would be published as `repo_id`. Nothing is sent, and the run is not changed.

    Raises:
        RunError: the run is not finished, or something may not or cannot be published: all problems in one report.
    """
    check_repo_id(repo_id)
    recipe = run.load_recipe()
    if not run.finished:
        raise RunError(f"{run.path}: the run is not finished (no metrics.json), so there is nothing to publish")
    refuse_pulled(run, "push the run it came from, or train its recipe again")
    data = read_json(run.data)
    places = local_places(recipe, data)
    problems: list[Problem] = []
    files, left_out = _allowed(run)
    needed = {"config.json", "recipe.yaml", "data.json", "predictions/validation.parquet"}
    problems += [Problem(name, "missing; the run is not whole") for name in sorted(needed - set(files))]
    if not any(name.endswith(".safetensors") for name in files):
        problems.append(Problem("model.safetensors", "missing; weights are published as safetensors only"))
    problems += _foreign_code(files)

    card = render_card(run, repo_id=repo_id)
    problems += [Problem("README.md", sentence) for sentence in check_front_matter(card)]
    problems += contradictions(recipe, data)
    files["README.md"] = card.encode()
    files["recipe.yaml"] = _without_places(recipe, places).to_yaml().encode()
    names = {_value(recipe, key): name for key, name in places.items()}
    files["data.json"] = to_json(_renamed(data, names)).encode()
    if "audit.json" in files:
        files["audit.json"] = to_json(_renamed(read_json(run.audit), names)).encode()
    problems += _secrets_and_places(files)
    if problems:
        raise RunError("\n".join([f"{run.path} cannot be published as it is:", *map(str, problems)]))
    sealed = {name: fingerprint(content) for name, content in sorted(files.items()) if name != "manifest.json"}
    files["manifest.json"] = to_json({"repository": repo_id, "files": sealed}).encode()
    return Publication(repo_id, recipe.name, dict(sorted(files.items())), tuple(left_out))


def _allowed(run: RunDirectory) -> tuple[dict[str, Path | bytes], list[str]]:
    """The run's files by their path in the repository, and the names of those that are on no list."""
    files: dict[str, Path | bytes] = {}
    left_out: list[str] = []
    for path in sorted(path for path in run.path.rglob("*") if path.is_file()):
        name = path.relative_to(run.path).as_posix()
        in_model = path.relative_to(run.model).as_posix() if path.is_relative_to(run.model) else ""
        if is_model_file(in_model):
            files[in_model] = path
        elif name in RUN_FILES:
            files[name] = path
        else:
            left_out.append(name)
    return files, left_out


def _foreign_code(files: dict[str, Path | bytes]) -> Iterator[Problem]:
    """No file of the model names code but hftl's own file, which is published as this hftl has it."""
    if GLOVE_CODE.name in files:
        files[GLOVE_CODE.name] = GLOVE_CODE
    for name, content in files.items():
        if not (is_model_file(name) and name.endswith(".json") and isinstance(content, Path)):
            continue
        for key, value in _entries(_object(content)):
            own = name == "config.json" and GLOVE_CODE.name in files and re.fullmatch(rf"{GLOVE_CODE.stem}\.\w+", str(value))
            if (key[0] == "auto_map" and not own) or key[0] in {"custom_pipelines", "trust_remote_code"}:
                yield Problem(name, f"{'.'.join(key)} names code that hftl did not write: {value}")


def _object(file: Path) -> Any:
    # Not `read_json`, which limits what hftl writes itself: a tokenizer's files are larger and deeper.
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file}: not JSON: {error}") from None


def _entries(values: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The entries of a JSON object and of the objects in it, two levels deep: (keys, value)."""
    if isinstance(values, dict):
        for key, value in values.items():
            if isinstance(value, dict) and key in {"auto_map", "custom_pipelines"}:
                yield from (((key, inner), found) for inner, found in value.items())
            else:
                yield (key,), value


# --- the seal -----------------------------------------------------------------------------------------------------------------


def repository(run: RunDirectory) -> str | None:
    """Where a run was published, if it was fetched from there; None for one's own."""
    if not run.manifest.is_file():
        return None
    name = read_json(run.manifest).get("repository")
    return None if name is None else str(name)


def refuse_pulled(run: RunDirectory, instead: str) -> None:
    """Refuse what would break the seal of somebody else's run.

    Raises:
        RunError: the run was pulled.
    """
    if name := repository(run):
        raise RunError(f"{run.path}: pulled from {name}, and sealed as it was published; {instead}")


def wrong_files(run: RunDirectory) -> dict[str, str]:
    """{file: what is wrong with it} by the run's manifest: changed, missing, or not on it. Empty: everything is as it was sealed.

    A published manifest covers every file; that of one's own run covers the model and the predictions.

    Raises:
        RunError: there is no manifest, or it is none.
    """
    published, sealed = repository(run) is not None, read_json(run.manifest).get("files")
    if not isinstance(sealed, dict):
        raise RunError(f"{run.manifest}: not a manifest")
    wrong = {}
    for name, expected in sealed.items():
        path = run.path / name
        if not (is_published(name) if published else _stays_inside(name)):
            wrong[name] = "not a file that hftl publishes"
        elif not path.is_file():
            wrong[name] = "missing"
        elif fingerprint(path) != expected:
            wrong[name] = "changed since it was sealed: its SHA-256 is another"
    present = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    covered = {name for name in present if (is_published(name) if published else name.startswith(("model/", "predictions/")))}
    wrong |= dict.fromkeys(sorted(covered - set(sealed) - {"manifest.json"}), "not on the manifest")
    needed = {"README.md", "metrics.json", "recipe.yaml", "config.json", "predictions/validation.parquet"} if published else set()
    wrong |= dict.fromkeys(sorted(needed - present), "missing")
    if not any(name.endswith(".safetensors") for name in {*sealed, *present}):
        wrong["model.safetensors"] = "missing"
    return wrong


def _stays_inside(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts


# --- places and secrets -------------------------------------------------------------------------------------------------------


def _value(recipe: Recipe, key: str) -> str:
    section, field = key.split(".")
    return str(getattr(getattr(recipe, section), field))


def _without_places(recipe: Recipe, places: Mapping[str, str]) -> Recipe:
    values = recipe.model_dump(mode="json")
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


def _secrets_and_places(files: Mapping[str, Path | bytes]) -> Iterator[Problem]:
    """Secrets, and absolute paths below this user's home or working directory, in anything that is text."""
    known = environment_secrets()
    if token := get_token():
        known[token] = "your Hugging Face token"
    here = {str(folder) for folder in (Path.home(), Path.cwd()) if len(folder.parts) > 1}
    path = re.compile("|".join(rf"(?<![\w.]){re.escape(folder)}(?![\w-])" for folder in sorted(here)) or r"(?!)")
    for name, content in files.items():
        text = _text_of(name, content)
        for line, kind in find_secrets(text, known=known):
            yield Problem(f"{name}, line {line}", f"holds {kind}; remove it, and have it replaced where it was issued")
        for line, words in enumerate(text.split("\n"), start=1):
            if path.search(words):
                yield Problem(f"{name}, line {line}", "names a place on this machine; take it out before it is public")


def _text_of(name: str, content: Path | bytes) -> str:
    """What of a file a person or a program could read as text: names of examples, the notes in a weights file."""
    if isinstance(content, bytes):
        return content.decode()
    if content.suffix == ".parquet":
        return "\n".join(Predictions.load(content).ids)
    if content.suffix == ".safetensors":
        with content.open("rb") as stream:
            return stream.read(int.from_bytes(stream.read(8), "little")).decode(errors="replace")
    return content.read_text(encoding="utf-8", errors="replace") if content.suffix in TEXT else ""
