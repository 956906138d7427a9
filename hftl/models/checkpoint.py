"""Where pretrained weights come from: a local folder, or a model on the Hub at one commit.

Only safetensors are read and no code of a checkpoint is run; a checkpoint that needs either is refused.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ResolvedRevision, is_offline_mode
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, though exported lazily
from transformers.utils import logging
from transformers.utils.hub import cached_file, resolve_revision

from hftl.errors import RecipeError, RunError
from hftl.recipe import Timm, Transformer

WEIGHTS = "model.safetensors"


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
        try:
            found = cached_file(self.name, name, revision=self.revision)
        except OSError as error:
            raise self.refused(what, error) from None
        if found is None:
            raise self.refused(what)
        return Path(found)

    def refused(self, what: str, reason: BaseException | None = None, *help: str) -> RecipeError:
        """The error that says what is wrong with this checkpoint; `reason` is what the library found, 300 characters of it."""
        lines = [*([] if reason is None else [textwrap.shorten(str(reason), 300, placeholder=" ...")]), *help]
        if not self.local and is_offline_mode():
            lines.append("The Hub is switched off here (HF_HUB_OFFLINE): a Hub id must be in the cache, or write a local folder.")
        return refused(f'"{self.name}" {what}', *lines)


def refused(what: str, *help: str) -> RecipeError:
    """An error at `model.checkpoint`."""
    return RecipeError.single("model.checkpoint", what, *help, source="model")


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
        raise refused(
            f'no such folder: "{spec.checkpoint}"', "A checkpoint is a local folder, or a Hub id such as name/model."
        ) from None
    resolved = resolve_revision(name, spec.revision)
    # The hash rather than "main": transformers offers to convert pickled weights of a branch, which hftl refuses.
    return Checkpoint(name, resolved.resolved if isinstance(resolved, ResolvedRevision) else resolved)


def run_error(folder: Path, error: RecipeError) -> RunError:
    """What is wrong with a model folder that hftl wrote itself, where no recipe is to blame."""
    return RunError(f"{folder}: " + "; ".join(" ".join([problem.what, *problem.help]) for problem in error.problems))


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
