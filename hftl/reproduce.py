"""Reproduce: the saved model, run again over the data, beside what was stored and stated.

The strictest part of `hftl verify`: it needs the data, and as much time as the evaluation took.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.evaluation.views import load_viewed
from hftl.names import Tta
from hftl.records.metrics import read_metrics
from hftl.run import RunDirectory
from hftl.sharing.card import write_card
from hftl.sharing.publication import repository
from hftl.sharing.verify import Claim
from hftl.training.finished import evaluate

TOLERANCE = 0.005
"""Of a metric: half a point. Machines and number formats (bf16, TF32) round differently, and a few examples lie on the border."""
LOGITS = 0.3
"""Of a logit, relative to the larger of 1 and itself. float32 and bf16 are up to 0.2 apart through a deep network; an example whose
prediction was made up is further off, unless it lay on the border."""


def reproduce(run: RunDirectory, source: str) -> Iterator[Claim]:
    """A claim for each metric of each split, computed from what the saved model says now about the data at `source`.

    The test split of one's own run is opened for that, which is written down and shown on its card; a published run is left as it
    is.

    Raises:
        RunError: the data at `source` are not those of the run.
    """
    opened_by = None if repository(run) else "hftl verify"
    for split, stated in read_metrics(run).items():
        stored, beside = Predictions.load(run.predictions(split)), load_viewed(run.viewed_predictions(split))
        tta = "none" if beside is None or beside.views is None else beside.views
        answers = evaluate(run, split=split, source=source, opened_by=opened_by, tta=cast("Tta", tta))
        now = answers.metrics(stored_label_names(run.predictions(split)), skipped=stated["skipped"])
        yield from _compare(split, stated, now)
        yield _compare_logits(f"{split}.logits", stored, answers.plain)
        if beside is not None and answers.viewed is not None:
            yield from _compare(f"{split}.tta", stated.get("tta", {}), now["tta"])
            yield _compare_logits(f"{split}.tta.logits", beside, answers.viewed)
    if opened_by is not None:
        write_card(run)  # the opening is shown on it


def _compare_logits(where: str, stored: Predictions, now: Predictions) -> Claim:
    """How many examples the model says about the same of as it did then."""
    apart = np.abs(now.logits - stored.logits) / np.maximum(1.0, np.abs(stored.logits))
    alike = int((apart.max(axis=1) <= LOGITS).sum())
    return Claim("the model", where, f"{len(stored)}", f"{alike}", alike == len(stored))


def _compare(split: str, stated: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Claim]:
    """A claim for each number of a metric; one that is missing or undefined on one side alone does not hold."""
    for name in dict.fromkeys([*stated, *now]):
        one, other = stated.get(name), now.get(name)
        if isinstance(one, float) or isinstance(other, float):
            holds = isinstance(one, float) and isinstance(other, float) and abs(one - other) <= TOLERANCE
            claimed, recomputed = (f"{value:.6g}" if isinstance(value, float) else "undefined" for value in (one, other))
            yield Claim("the model", f"{split}.{name}", claimed, recomputed, holds)
