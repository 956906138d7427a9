"""Accelerate's trackers: the recipe as flat keys at the start, curves on the way (`hftl.training.journal`), results at the end.

A tracker is for a person who compares runs. What hftl itself needs of a run is in its run directory, whether one is there or not.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image

from hftl.recipe import Recipe, flat
from hftl.records.metrics import Metrics


def start(recipe: Recipe, accelerator: Accelerator) -> None:
    """Start the trackers that the recipe names, with each of its keys as a setting: {"stages.all.lr": 3e-5, ...}."""
    if recipe.run.trackers:
        plain = {key: value if isinstance(value, bool | int | float | str) else json.dumps(value) for key, value in flat(recipe)}
        accelerator.init_trackers(recipe.name, config=plain)


def results(accelerator: Accelerator, metrics: Metrics, figures: Path, *, step: int) -> None:
    """Give the trackers the final numbers of each split, as "test/accuracy", and the figures."""
    numbers = {
        f"{split}/{name}": value
        for split, values in metrics.items()
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    for tracker in accelerator.trackers:
        tracker.log(numbers, step=step)
        for path in sorted(figures.glob("*.png")):
            _show(tracker, path, step=step)


def _show(tracker: GeneralTracker, path: Path, *, step: int) -> None:
    """A figure, in each tracker's own way; a tracker that is not here gets none."""
    name = f"figures/{path.stem}"
    match tracker.name:
        case "tensorboard":
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
        case "wandb":
            with Image.open(path) as picture:
                tracker.log_images({name: [picture.convert("RGB")]}, step=step)
        case "trackio":
            tracker.log({name: import_module("trackio").Image(str(path))}, step=step)
        case "mlflow":
            tracker.log_artifact(str(path), "figures")
