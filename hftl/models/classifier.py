"""What every family hands over: a model, its preprocessing, its chain, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TimmWrapperImageProcessor

from hftl.models.chain import Chain


@dataclass(frozen=True)
class Classifier:
    """A classifier of any family.

    `model(**batch).logits` is (B, K) float32; `config.id2label` names the K classes in their own order.
    `facts` is JSON-ready and goes into the run directory.
    """

    model: PreTrainedModel
    preprocessor: PreTrainedTokenizerBase | TimmWrapperImageProcessor
    chain: Chain
    facts: dict[str, Any]
