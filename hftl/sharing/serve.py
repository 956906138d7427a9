"""Run as a file, in a process of its own: serve a model folder's samples through `transformers.pipeline`, as a stranger would.

Knows nothing of hftl, on purpose: ``python -P serve.py MODEL_FOLDER SAMPLES.parquet TASK`` prints one JSON object a sample, with
the logit of each class by its name, and for a picture whether it is one of those that the pipeline is known to read differently.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from transformers import pipeline
from transformers.utils import logging


def head_and_tail(served: Any, text: str, parts: list[int]) -> list[dict[str, Any]]:
    """The answer to a text of which beginning and end are read: what the model's card has in place of a pipeline."""
    ids = served.tokenizer(text, verbose=False)["input_ids"]
    if len(ids) > sum(parts):
        ids = ids[: parts[0]] + ids[-parts[1] :]
    with torch.inference_mode():
        row = served.model(**served.tokenizer.pad({"input_ids": [ids]}, return_tensors="pt")).logits[0]
    return [{"label": served.model.config.id2label[place], "score": float(score)} for place, score in enumerate(row)]


def in_grey(served: Any, picture: Image.Image) -> list[dict[str, Any]]:
    """The answer of a model of one channel, which a pipeline gives three: what the model's card has in its place. Else nothing."""
    config = getattr(served.image_processor, "data_config", {})
    if config.get("input_size", (3,))[0] != 1:
        return []
    upright = ImageOps.exif_transpose(picture).convert("RGB").convert("L")
    with torch.inference_mode():
        row = served.model(**served.image_processor(upright, return_tensors="pt")).logits[0]
    return [{"label": served.model.config.id2label[place], "score": float(score)} for place, score in enumerate(row)]


def in_bands(served: Any, content: bytes) -> list[dict[str, Any]]:
    """The answer of a model of several bands, for which a pipeline has no pictures: what the model's card has in its place. Else
    nothing."""
    bands = getattr(served.image_processor, "data_config", {}).get("input_size", (3,))[0]
    if bands in (1, 3):
        return []
    values = np.load(io.BytesIO(content))  # (height, width, C), see `hftl.data.bands.Bands.original`
    pictures = [Image.fromarray(np.ascontiguousarray(values[..., band], dtype=np.float32)) for band in range(bands)]
    *geometry, to_tensor, normalise = served.image_processor.val_transforms.transforms
    for step in geometry:
        pictures = [step(picture) for picture in pictures]
    with torch.inference_mode():
        row = served.model(normalise(torch.cat([to_tensor(picture) for picture in pictures]))[None]).logits[0]
    return [{"label": served.model.config.id2label[place], "score": float(score)} for place, score in enumerate(row)]


if __name__ == "__main__":
    folder, samples, task = sys.argv[1:]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # There is code in the folder only where hftl put its own file; that no other file names code was checked before.
    own_code = any(Path(folder).glob("*_modeling.py"))
    make: Any = pipeline  # its types are overloads by the task's name, which is not known here
    served = make(task, model=folder, device="cpu", dtype=torch.float32, trust_remote_code=own_code)
    for given in pq.read_table(samples, columns=["input"])["input"].to_pylist():
        drops = False
        if task == "text-classification" and (parts := served.tokenizer.init_kwargs.get("head_and_tail")) is not None:
            answer = head_and_tail(served, given, parts)
        elif task == "text-classification":
            answer = served(given, top_k=None, function_to_apply="none", truncation=True)
        elif answer := in_bands(served, given):
            pass
        else:
            picture = Image.open(io.BytesIO(given))
            drops = bool(picture.has_transparency_data) or picture.mode.startswith("I") or picture.mode == "F"
            answer = in_grey(served, picture) or served(picture, top_k=served.model.config.num_labels, function_to_apply="none")
        scores = {row["label"]: row["score"] for row in answer}
        sys.stdout.write(json.dumps({"scores": scores, "differs_by_design": drops}) + "\n")
