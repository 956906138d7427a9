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
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in the stubs

from hftl.errors import Problem, RunError
from hftl.evaluation.metrics import Predictions
from hftl.recipe import LOCAL, Recipe, Timm, Transformer
from hftl.run import RunDirectory, fingerprint, read_json
from hftl.secrets import environment_secrets, find_secrets
from hftl.sharing.card import check_front_matter, local_name, render_card

# The allow-list, as patterns of fnmatch. What is fetched of a stranger's repository goes by it, too.
_DIGITS = "[0-9]" * 5
MODEL_FILES = (
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("model.safetensors", f"model-{_DIGITS}-of-{_DIGITS}.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "spm.model"),
    "glove_modeling.py",
)
RUN_FILES = (
    *("README.md", "recipe.yaml", "manifest.json", "plan.json", "data.json", "environment.json", "history.jsonl"),
    *("metrics.json", "predictions/validation.parquet", "predictions/test.parquet", "test_openings.jsonl"),
    *("figures/learning_curves.png", "figures/calibration.png"),
    *("figures/confusion_matrix_validation.png", "figures/confusion_matrix_test.png"),
)
GLOVE_CODE = Path(__file__).parent.parent / "models" / "glove_modeling.py"
TEXT = (".json", ".jsonl", ".yaml", ".md", ".txt", ".py")


@dataclass(frozen=True)
class Publication:
    """Everything one push sends, and what it does not."""

    repo_id: str
    files: Mapping[str, Path | bytes]
    """Path in the repository -> the file, or its content where it differs from the run's."""
    left_out: tuple[str, ...]
    """Files of the run that are on no allow-list."""

    def size(self, name: str) -> int:
        """Bytes of one of the files."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def is_model_file(name: str) -> bool:
    """Whether a file of this name belongs to a model as hftl publishes it."""
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def is_published(name: str) -> bool:
    """Whether a path of a repository is one that hftl writes there."""
    return is_model_file(name) or name in RUN_FILES


def check_repo_id(repo_id: str) -> str:
    """The name of a repository, OWNER/NAME.

    Raises:
        RunError: anything else, such as a path, an address, or a name without owner.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise RunError(f'"{repo_id}" is not the name of a repository, such as me/film-reviews: {error}') from None
    if repo_id.count("/") != 1:
        raise RunError(f'"{repo_id}" names no owner; write OWNER/{repo_id}')
    return repo_id


def prepare(run: RunDirectory, repo_id: str) -> Publication:
    """Gather and check what would be published as `repo_id`. Nothing is sent, and the run is not changed.

    Raises:
        RunError: the run is not finished, or something may not or cannot be published: all problems in one report.
    """
    check_repo_id(repo_id)
    if not run.finished:
        raise RunError(f"{run.path}: the run is not finished (no metrics.json), so there is nothing to publish")
    recipe, data = run.load_recipe(), read_json(run.data)
    places = local_places(recipe, data)
    problems: list[Problem] = []
    files, left_out = _allowed(run)
    needed = {"config.json", "recipe.yaml", "data.json", "predictions/validation.parquet"}
    problems += [Problem(name, "missing; the run is not whole") for name in sorted(needed - set(files))]
    if not any(name.endswith(".safetensors") for name in files):
        problems.append(Problem("model.safetensors", "missing; weights are published as safetensors only"))
    problems += _foreign_code(run)

    card = render_card(run, repo_id=repo_id)
    problems += [Problem("README.md", sentence) for sentence in check_front_matter(card)]
    files["README.md"] = card.encode()
    files["recipe.yaml"] = _without_places(recipe, places).to_yaml().encode()
    files["data.json"] = _as_json(_renamed(data, {_value(recipe, key): name for key, name in places.items()}))
    problems += _secrets_and_places(files)
    if problems:
        raise RunError("\n".join([f"{run.path} cannot be published as it is:", *map(str, problems)]))
    sealed = {name: fingerprint(content) for name, content in sorted(files.items()) if name != "manifest.json"}
    files["manifest.json"] = _as_json({"repository": repo_id, "files": sealed})
    return Publication(repo_id, dict(sorted(files.items())), tuple(left_out))


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


def _foreign_code(run: RunDirectory) -> Iterator[Problem]:
    """The one Python file that is published is hftl's own, byte for byte, and config.json names no other code."""
    code = run.model / GLOVE_CODE.name
    if code.is_file() and code.read_bytes() != GLOVE_CODE.read_bytes():
        yield Problem(code.name, "is not the file of this hftl; code is published only where hftl wrote it")
    config = read_json(run.model / "config.json") if (run.model / "config.json").is_file() else {}
    for place, name in (config.get("auto_map") or {}).items():
        if not re.fullmatch(rf"{GLOVE_CODE.stem}\.\w+", str(name)) or not code.is_file():
            yield Problem("config.json", f"auto_map.{place} names code that hftl did not write: {name}")


# --- places and secrets -------------------------------------------------------------------------------------------------------


def local_places(recipe: Recipe, data: Mapping[str, Any]) -> dict[str, str]:
    """What of a recipe lay on the machine that ran it: {dotted key: "local:NAME"}."""
    places = {}
    if data.get("format") != "hub":
        places["data.source"] = local_name(recipe.data.source)
    model = recipe.model
    if isinstance(model, Transformer | Timm):
        is_architecture = isinstance(model, Timm) and not model.pretrained and "/" not in model.checkpoint
        if not data.get("model", {}).get("revision") and not is_architecture:
            places["model.checkpoint"] = local_name(model.checkpoint)
    elif not model.vectors.startswith("hub:"):
        places["model.vectors"] = local_name(model.vectors)
    return {key: LOCAL + name for key, name in places.items()}


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
    path = re.compile("|".join(rf"(?<![\w.])(?:{re.escape(folder)})(?:/|$)" for folder in sorted(here)) or r"(?!)")
    for name, content in files.items():
        text = _text_of(name, content)
        for line, kind in find_secrets(text, known=known):
            yield Problem(f"{name}, line {line}", f"holds {kind}; remove it, and have it replaced where it was issued")
        for line, words in enumerate(text.splitlines(), start=1):
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


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
