"""Serving parity: what is about to be published says the same through `transformers.pipeline` as it said in training.

The model's published files, and nothing else, are loaded in a fresh process that does not import hftl, and fed the run's serving
samples as they came. So a tokenizer that truncates elsewhere, label names in another order, a preprocessing that was not saved, or
weights of another epoch are found here and not by a stranger.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hftl.errors import RecipeError, RunError
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.evaluation.serving import ServingSamples
from hftl.models.checkpoint import Checkpoint, run_error
from hftl.models.foreign import check_folder
from hftl.run import RunDirectory
from hftl.secrets import environment_secrets, redact
from hftl.sharing.publication import Publication, is_model_file

SERVE = Path(__file__).with_name("serve.py")
TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the larger of 1 and the logit: the same arithmetic in float32."""
SAME_MODEL = 0.25
"""Root mean square difference from the evaluation's logits, relative to theirs. They may have been computed in bf16: through the 50
layers of a MobileNetV2 single logits then differ by 0.2. Another model's differ by more than their own size."""


@dataclass(frozen=True)
class Parity:
    """What the fresh process found."""

    samples: int
    difference: float
    """Largest difference of a logit, relative as `TOLERANCE` is."""
    read_differently: tuple[str, ...]
    """Ids of transparent and of high-bit-depth pictures whose pixels the pipeline reads in another way; they are left out."""


def check_serving(run: RunDirectory, publication: Publication) -> Parity:
    """Serve what would be published in a fresh process and compare its logits with those of training.

    Raises:
        RunError: it cannot be loaded, or it says something else.
    """
    samples, predictions = ServingSamples.load(run.serving), Predictions.load(publication.files["predictions/validation.parquet"])
    place = {id: row for row, id in enumerate(predictions.ids)}
    if unknown := [id for id in samples.ids if id not in place]:
        raise RunError(f"{run.serving}: {unknown[0]} is no example of the validation split; the file belongs to another run")
    evaluated = predictions.logits[[place[id] for id in samples.ids]]
    apart = float(np.sqrt(np.mean((samples.logits - evaluated) ** 2) / np.mean(evaluated**2)))
    if not apart <= SAME_MODEL:  # nan is no pass
        what = "its logits and those of predictions/validation.parquet are not of the same model"
        raise RunError(f"{run.serving}: {what} (they differ by {apart:.0%} of their size). Train the run again")

    answers = _serve(run, publication, "image-classification" if isinstance(samples.inputs[0], bytes) else "text-classification")
    names = stored_label_names(publication.files["predictions/validation.parquet"])
    for answer in answers:
        if set(answer["scores"]) != set(names):
            raise RunError(f"{run.model}: served classes are {sorted(answer['scores'])}, those of the run {sorted(names)}")
    served = np.array([[answer["scores"][name] for name in names] for answer in answers], dtype=np.float32)
    same = np.array([not answer["differs_by_design"] for answer in answers])
    compared = [id for id, keep in zip(samples.ids, same, strict=True) if keep]
    what = "transformers.pipeline answers differently from training"
    difference = _compare(served[same], samples.logits[same], compared, what)
    return Parity(len(compared), difference, tuple(id for id in samples.ids if id not in compared))


def _compare(found: np.ndarray, expected: np.ndarray, ids: list[str], what: str) -> float:
    if not len(ids):
        return 0.0
    differences = (np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max(axis=1)
    worst = int(differences.argmax())
    if not differences[worst] <= TOLERANCE:  # nan is no pass
        one, other = (", ".join(f"{value:.4f}" for value in row[:10]) for row in (found[worst], expected[worst]))
        raise RunError(
            f"{what}: of {len(ids)} validation examples {int((~(differences <= TOLERANCE)).sum())} differ, most of all"
            f" {ids[worst]}:\n  logits now       {one}\n  logits expected  {other}\nNothing was published."
        )
    return float(differences[worst])


def _serve(run: RunDirectory, publication: Publication, task: str) -> list[dict[str, Any]]:
    """The answers of a fresh process that is given no token and told to use no network, and remembers no remote code."""
    known = environment_secrets()
    environment = {name: value for name, value in os.environ.items() if value not in known}
    with tempfile.TemporaryDirectory(prefix="hftl-serving-") as folder:
        served = Path(folder) / "model"
        served.mkdir()
        for name, file in publication.files.items():
            if is_model_file(name):
                shutil.copyfile(file, served / name)
        try:
            check_folder(Checkpoint(str(served)), new_head=False)  # as a foreign one: the run may have been
        except RecipeError as error:
            raise run_error(served, error) from None
        environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": f"{folder}/modules", "HF_TOKEN_PATH": f"{folder}/no-token"}
        command = [sys.executable, "-P", "-W", "ignore", str(SERVE), str(served), str(run.serving.absolute()), task]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"{run.model}: transformers.pipeline cannot serve it: {redact(reason)}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
