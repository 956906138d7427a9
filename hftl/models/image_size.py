"""Pictures of another size than a model is evaluated at: their preprocessing, and whether the network takes them.

Shapes: S x S pixels.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from hftl.models.checkpoint import MALFORMED
from hftl.models.family import Classifier
from hftl.models.pictures import MOST_PIXELS, set_size


def preprocessor_at(classifier: Classifier, side: int) -> Any:
    """A copy of the classifier's image processor that makes pictures of S x S pixels, and is the same in all else."""
    processor: Any = classifier.preprocessor
    if (config := getattr(processor, "data_config", None)) is not None:  # timm's
        return type(processor)({**config, "input_size": (config["input_size"][0], side, side)})
    processor = copy.deepcopy(processor)
    set_size(processor, side)
    return processor


def grey(classifier: Classifier, side: int) -> dict[str, torch.Tensor]:
    """The model's inputs of one grey picture of S x S pixels, on the CPU."""
    return {"pixel_values": torch.zeros(1, classifier.facts.get("input_size", [3])[0], side, side)}


def why_not(classifier: Classifier, side: int) -> str | None:
    """Why the network, on the CPU, cannot be trained on pictures of S x S pixels; None: it can."""
    if side > MOST_PIXELS:
        return f"at most {MOST_PIXELS:,} pixels"
    try:
        with torch.no_grad():
            classifier.model.eval()(**grey(classifier, side))  # type: ignore[no-untyped-call]
    except MALFORMED as error:
        return " ".join(str(error).split())
    return None
