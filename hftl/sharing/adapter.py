"""A finished run whose layers were trained by adapters, as adapters of the checkpoint that it began with, in peft's format.

What is saved of such a run is a whole model, in which the adapters are merged. Here they are taken out of it again: the difference
of each weight from the checkpoint's is a product B A of the rank that was trained, which its singular values give back. Beside them
goes the head, whole: an adapter that is loaded without it answers by a head of random numbers. Nothing is written before peft has
loaded it over the checkpoint and answered as the saved model does.

Shapes: B examples, K classes.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from hftl import wording
from hftl.errors import RunError, printable
from hftl.files import check_name
from hftl.models import build_classifier, load_classifier
from hftl.models.adapters import NoAdapters, load_adapters, save_adapters
from hftl.models.family import Classifier
from hftl.recipe import Lora, Pretrained, Recipe
from hftl.records.data import read_data
from hftl.run import RunDirectory
from hftl.sharing.export import TOLERANCE, batches_to_compare, saved_logits
from hftl.sharing.front_matter import hub_base_model
from hftl.terminal import Shown


@dataclass(frozen=True, repr=False)
class AdapterFolder(Shown):
    """What was written, and how far it is from the saved model."""

    folder: Path
    r: int
    modules: int
    """How many have an adapter."""
    size: int
    """Bytes of adapter_model.safetensors."""
    base_model: str | None
    """Its name on the Hub; None: a folder of this machine, which is written nowhere."""
    largest_difference: float
    """Largest difference of a logit from the saved model's; absolute."""
    usage: str
    """Lines of Python that load it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        what = f"LoRA r={self.r} on {self.modules} modules, and the head: {wording.size(self.size)}"
        yield Text(printable(f"{self.folder}  {what}"))
        yield Text(f"loaded by peft over its base: largest difference of a logit {self.largest_difference:.1g}")
        if self.base_model is None:
            yield Text("its base is a folder of this machine, so that the adapter is of use to those who have the same")
        yield Text(printable(f"\n{self.usage}"))


def export_adapter(run: RunDirectory, folder: Path) -> AdapterFolder:
    """Write FOLDER with adapter_config.json and adapter_model.safetensors. It appears whole and checked, or not at all.

    Raises:
        RunError: peft is not installed, the folder is in use, there is no complete model in the run, it is no checkpoint's with
            adapters and a head, the checkpoint is not to be had, or peft's answers differ from the saved model's.
    """
    check_name(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RunError(f"{folder}: nothing is written over; remove it, or name another folder")
    recipe, data = run.load_recipe(), read_data(run)
    r = sum(stage.lora.r for stage in recipe.stages.values() if isinstance(stage.lora, Lora))
    if not r:
        raise RunError(f"{run.path}: no stage of it trains adapters (lora); push the whole model")
    given = recipe.model.model_dump(exclude_defaults=True, include={"pooling", "in_chans", "reinitialize"})
    if given or getattr(recipe.data, "windows", None) is not None:
        written = ", ".join(f"model.{name}" for name in given) or "data.windows"
        raise RunError(f"{run.path}: its adapters are not of a checkpoint as it is ({written}); push the whole model")
    trained = load_classifier(run.model)
    batches = batches_to_compare(recipe, trained)
    expected = [saved_logits(trained.model, batch) for batch in batches]
    base_model, revision = hub_base_model(recipe, data), data["model"]["revision"]
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        modules = save_adapters(
            trained.model,
            _base(recipe, trained, revision).model,
            trained.chain,
            beside,
            r=r,
            base_model=base_model,
            revision=revision if base_model else None,
        )
        loaded = load_adapters(_base(recipe, trained, revision).model, beside)
        largest = 0.0
        for batch, logits in zip(batches, expected, strict=True):
            with torch.no_grad():
                found = loaded(**batch).logits.numpy()
            apart = np.abs(found.astype(np.float64) - logits)
            if not (apart <= TOLERANCE * np.maximum(1.0, np.abs(logits))).all():
                raise RunError(f"{run.path}: as an adapter it answers otherwise (by {apart.max():.2g}), and is not kept")
            largest = max(largest, float(apart.max()))
        size = (beside / "adapter_model.safetensors").stat().st_size
        beside.replace(folder)
    except NoAdapters as error:
        raise RunError(f"{run.path}: {error}; {error.help}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return AdapterFolder(folder, r, modules, size, base_model, largest, _usage(recipe, trained, folder, base_model, revision))


def _base(recipe: Recipe, trained: Classifier, revision: str | None) -> Classifier:
    """The checkpoint that the run began with, with a head for its classes."""
    assert isinstance(recipe.model, Pretrained)  # others have no adapters
    if revision is not None:
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": revision})})
    built = build_classifier(recipe, _names(trained), texts=(), target=trained.target)
    built.model.eval()  # type: ignore[no-untyped-call]
    return built


def _names(trained: Classifier) -> list[str]:
    return list(cast("dict[int, str]", trained.model.config.id2label).values())


def _usage(recipe: Recipe, trained: Classifier, folder: Path, base_model: str | None, revision: str | None) -> str:
    assert isinstance(recipe.model, Pretrained)  # others have no adapters
    auto = "AutoModelForSequenceClassification" if trained.kind == "text" else "AutoModelForImageClassification"
    of = "" if revision is None or base_model is None else f", revision={revision!r}"
    labels = f"num_labels={len(_names(trained))}, ignore_mismatched_sizes=True"
    return "\n".join(
        [
            "from peft import PeftModel",
            f"from transformers import {auto}",
            "",
            f"base = {auto}.from_pretrained({base_model or str(recipe.model.checkpoint)!r}{of}, {labels})",
            f"model = PeftModel.from_pretrained(base, {str(folder)!r}).eval()",
        ]
    )
