"""Where weights come from: a local folder, or a model on the Hub at one commit.

`hftl.models.foreign` checks a checkpoint before a library reads it. `Understood` turns what a library then raises over values that
make no sense into one message.
"""

from __future__ import annotations

import json
import math
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HFValidationError,
    HTTPError,  # of the library that the client speaks HTTP with: httpx2, before 2.0 httpx
    RevisionResolutionError,
    StrictDataclassError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, though exported lazily
from safetensors import SafetensorError, safe_open
from transformers.utils import logging
from transformers.utils.hub import cached_file

from hftl.errors import RecipeError, RunError, beside, printable
from hftl.files import fingerprint
from hftl.recipe import Timm, Transformer
from hftl.records.data import FurtherPretrained
from hftl.records.pretraining import FILE, read_pretraining

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

MOST_BYTES = 20_000_000
"""Bytes of a JSON file: the 21,843 class names of ImageNet-22k are 1.5 MB. A tokenizer.json may be larger; it is not read here."""

MOST_LEVELS = 30
"""Levels of nesting in a JSON file; configurations inside configurations have about six."""

MALFORMED: tuple[type[Exception], ...] = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError, ImportError),
    *(StrictDataclassError, SafetensorError),
)
"""What json, torch, transformers, timm and safetensors raise over values in a file that make no sense: a size of "abc" or -1."""


@dataclass(frozen=True)
class Checkpoint:
    """A local folder, or a Hub id at a revision that was resolved once, so that all files come from one commit."""

    name: str
    """As `from_pretrained` takes it: the path of a folder, or a Hub id."""
    revision: str | None = None
    """Hash of a Hub commit; a branch or None where the Hub did not resolve it, and then no file of it will be found either."""

    @property
    def local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def base_model(self) -> str:
        """How a record names it: the Hub id, or the name of the folder without its path."""
        return Path(self.name).resolve().name if self.local else self.name

    @property
    def commit(self) -> str | None:
        """Hash of the Hub commit; None for a local folder."""
        return self.revision if re.fullmatch("[0-9a-f]{40}", self.revision or "") else None

    def file(self, name: str) -> Path:
        """Path of one of the checkpoint's files, fetched from the Hub into its cache when it is not there.

        Raises:
            RecipeError: there is no such file, or the Hub cannot be reached.
        """
        what = f"has no {name}" if self.local else f"is no folder here, and the Hub gave no {name} of it"
        path = self._find(name, what)
        if path is None:
            raise self.refused(what, None, *(self._inside() if name == CONFIG else ()))
        return path

    def _inside(self) -> list[str]:
        """The way out where the folder is one too high, that of a run or of several checkpoints, or a pretraining has not ended."""
        if self.local and (Path(self.name) / "checkpoints").is_dir() and not (Path(self.name) / "model").is_dir():
            return [f"it is a pretraining that has not ended: go on with hftl pretrain ... --output {self.name} --resume"]
        folders = sorted(file.parent for file in Path(self.name).glob("*/" + CONFIG)) if self.local else []
        return [f"checkpoints are in it: model.checkpoint={folder}" for folder in folders[:3]]

    def file_or_none(self, name: str) -> Path | None:
        """Path of a file that a checkpoint need not have.

        Raises:
            RecipeError: the Hub cannot be reached.
        """
        return self._find(name, "is no folder here, and the Hub did not answer", missing=False)

    def weights(self) -> list[Path]:
        """The safetensors files, in the order of their names; empty where there are none.

        Raises:
            RecipeError: a file of the index is not there, or the Hub cannot be reached.
        """
        whole = self.file_or_none(WEIGHTS)
        if whole is not None:
            return [whole]
        index = self.file_or_none(INDEX)
        if index is None:
            return []
        return [self.file(name) for name in sorted(set(read_object(self, index)["weight_map"].values()))]

    def _find(self, name: str, what: str, *, missing: bool = True) -> Path | None:
        try:
            path = cached_file(self.name, name, revision=self.revision, _raise_exceptions_for_missing_entries=missing)
        except OSError as error:
            raise self.refused(what, error) from None
        return None if path is None else Path(path)

    def refused(self, what: str, reason: BaseException | None = None, *help: str) -> RecipeError:
        """The error that says what is wrong with this checkpoint; `reason` is what the library found, 300 characters of it."""
        message = f"not known: {reason}" if isinstance(reason, KeyError) else str(reason)
        lines = [*([] if reason is None else [textwrap.shorten(message, 300, placeholder=" ...")]), *help]
        if not self.local and is_offline_mode():
            lines.append("The Hub is switched off here (HF_HUB_OFFLINE): a Hub id must be in the cache, or write a local folder.")
        return refused(f'"{self.name}" {what}', *lines)


def refused(what: str, *help: str) -> RecipeError:
    """An error at `model.checkpoint`."""
    return RecipeError.single("model.checkpoint", printable(what), *map(printable, help), source="model")


def find_checkpoint(spec: Transformer | Timm) -> Checkpoint:
    """The folder or the Hub model that a recipe names. What a Hub id holds is seen when its first file is asked for.

    Raises:
        RecipeError: neither a folder nor a possible Hub id, or a revision of a local folder.
    """
    name = os.path.expanduser(spec.checkpoint)
    if Path(name).is_dir():
        if spec.revision is not None:
            what = f'"{spec.revision}": a local folder has no revisions; leave model.revision out'
            raise RecipeError.single("model.revision", what, source="model")
        return Checkpoint(name)
    if Path(name).is_file():
        raise refused(f'"{spec.checkpoint}" is a file; write the folder that holds it')
    try:
        validate_repo_id(name)
    except HFValidationError:
        what = f'no such folder: "{spec.checkpoint}"{beside(Path(name), folders=True)}'
        raise refused(what, "A checkpoint is a local folder, or a Hub id such as name/model.") from None
    # The hash rather than "main": transformers offers to convert pickled weights of a branch, which hftl refuses.
    return Checkpoint(name, _commit_of(name, spec.revision))


def _commit_of(name: str, revision: str | None) -> str | None:
    """Hash of the commit that a branch or a tag of a Hub model stands for, None for its main one; by the cache without the Hub.

    Where it cannot be told `revision` comes back: what is wrong is said when the first file is asked for.
    """
    try:
        return HfApi().resolve_revision(name, revision=revision, local_files_only=is_offline_mode()).resolved
    except (HTTPError, OSError, RevisionResolutionError):
        return revision


def stored_sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    """How many tensors the weights hold, and how many numbers in them, by the headers of the files alone.

    Raises:
        RecipeError: a file that is not safetensors.
    """
    tensors = numbers = 0
    for file in checkpoint.weights():
        with Understood(checkpoint, f"has no weights that can be read in {file.name}"), safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it has no other way to iterate
                tensors += 1
                numbers += math.prod(opened.get_slice(name).get_shape())
    return tensors, numbers


def pretraining(checkpoint: Checkpoint) -> FurtherPretrained | None:
    """How a checkpoint was pretrained further, where `hftl pretrain` has made it.

    Raises:
        RecipeError: its provenance.json cannot be read, or is about other weights.
    """
    file = checkpoint.file_or_none(FILE)
    if file is None:
        return None
    try:
        found = read_pretraining(file)
    except RunError as error:
        raise checkpoint.refused(f"has a {FILE} that cannot be read", error) from None
    if found is None:
        return None
    weights, base, measured = checkpoint.weights(), found["base"], found["held_out"]
    if not weights or fingerprint(weights[0]) != found["file"] or not measured:
        what = f"has a {FILE} that says how other weights were pretrained"
        raise checkpoint.refused(what, None, f"Where they were changed since, take {FILE} out of the folder.")
    return {
        "base": base["checkpoint"],
        "revision": base["revision"],
        "from_random": not base["pretrained"],
        "texts": sum(some["texts"] for some in found["texts"]),
        "names": [f"{some['name']} {some['texts']:,}" for some in found["texts"]],
        "steps": found["steps"],
        "tokens": found["tokens"],
        "losses": [measured[0]["loss"], measured[-1]["loss"]],
        "sha256": found["file"]["sha256"],
    }


@dataclass(frozen=True)
class Understood:
    """Turns what a library raises over a checkpoint into `checkpoint.refused(what, ...)`: ``with Understood(checkpoint, what):``.

    To be put around a library's call alone, so that a mistake of ours keeps its traceback.

    Raises:
        RecipeError: the library could not make sense of the checkpoint.
    """

    checkpoint: Checkpoint
    what: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # The tokenizers library has no class of its own for what it finds in a tokenizer.json: it raises `Exception` itself, and
        # where its Rust panics a class that has no name in Python.
        if kind is not None and (issubclass(kind, MALFORMED) or kind is Exception or kind.__name__ == "PanicException"):
            raise self.checkpoint.refused(self.what, error) from None


class Written:
    """Turns what the tokenizers library raises over a full disk, `Exception` itself, into an `OSError`: ``with Written():``."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is Exception and (match := re.search(r"\(os error (\d+)\)", str(error))):
            raise OSError(int(match[1]), os.strerror(int(match[1]))) from error


def read_object(checkpoint: Checkpoint, file: Path) -> dict[str, Any]:
    """A JSON object from a file that somebody else wrote.

    Raises:
        RecipeError: it is too large, no JSON, no object, or nested too deeply.
    """
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise checkpoint.refused(f"has a {file.name} of {size:,} bytes; {MOST_BYTES:,} are more than one needs")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # half of a character ("\\ud83d") could be written nowhere
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of 5,000 digits; brackets in brackets
        raise checkpoint.refused(f"has a {file.name} that is not JSON", error) from None
    if not isinstance(content, dict):
        raise checkpoint.refused(f"has a {file.name} that is no JSON object; it starts with {as_json(content)}")
    level, values = 0, list(content.values())
    while values:
        level += 1
        if level > MOST_LEVELS:
            raise checkpoint.refused(f"has a {file.name} with values nested deeper than {MOST_LEVELS} levels")
        nested = [value for value in values if isinstance(value, dict | list)]
        values = [inner for value in nested for inner in (value.values() if isinstance(value, dict) else value)]
    return content


def as_json(value: Any) -> str:
    """A value as JSON, 100 characters of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:96]} ..."


def run_error(folder: Path, error: RecipeError) -> RunError:
    """What is wrong with a saved or pulled model's folder, where no recipe is to blame."""
    lines = [line for problem in error.problems for line in (problem.what.removeprefix(f'"{folder}" '), *problem.help)]
    return RunError(f"{folder}: " + "\n      ".join(lines))


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' load report and bars, by its own switches; downloads from the Hub keep theirs.

    What the report says is checked or recorded by whoever loads.
    """

    def without_bar(make: Any, args: Any, keywords: Any) -> Any:
        return make(*args, **{**keywords, "disable": True})

    verbosity, hook = logging.get_verbosity(), logging.set_tqdm_hook(without_bar)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)
