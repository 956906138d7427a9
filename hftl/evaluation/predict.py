"""Predictions over a split, exact across processes.

Shapes: N examples in the split, B in a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, Self

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn


class EvaluationBatch(Protocol):
    """Inputs, places in the split and weights of a batch; weight 0 marks a filler that keeps a process busy."""

    @property
    def inputs(self) -> dict[str, torch.Tensor]: ...
    @property
    def index(self) -> torch.Tensor: ...
    @property
    def weight(self) -> torch.Tensor: ...
    def to(self, device: torch.device) -> Self:
        """The batch as the model takes it, on `device`."""


def predict_logits(
    model: nn.Module,
    batches: Iterable[EvaluationBatch],
    accelerator: Accelerator,
    *,
    size: int,
    after_batch: Callable[[], None] | None = None,
    fuse: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Logits (N, K) float32 of a whole split in its own order, the same on every process.

    `batches` are this process's share. That every example was predicted exactly once, over all processes, is checked.
    `after_batch` is called after each one, and may raise to end it. With `fuse` the inputs of a batch are V views of each of its B
    examples, view after view of one example, and it makes (B, K) of the (B, V, K) logits.
    """
    model.eval()
    places, logits = [], []
    # A module of FSDP makes its buffers in its first call, and could not train with those of inference mode.
    with torch.no_grad() if accelerator.distributed_type is DistributedType.FSDP else torch.inference_mode():
        for batch in batches:
            batch = batch.to(accelerator.device)
            predicted = model(**batch.inputs).logits.float()
            if fuse is not None:
                of_views = predicted.reshape(len(batch.index), -1, predicted.shape[1]).cpu().numpy()
                predicted = torch.from_numpy(fuse(of_views)).to(predicted.device)
            kept = batch.weight > 0
            logits.append(predicted[kept])
            places.append(batch.index[kept])
            if after_batch is not None:
                after_batch()
    mine = torch.cat(places), torch.cat(logits)
    # Processes hold different numbers of examples: pad to the longest for the gather, with place -1.
    padded = accelerator.pad_across_processes(mine[0], dim=0, pad_index=-1), accelerator.pad_across_processes(mine[1], dim=0)
    all_places, all_logits = accelerator.gather(padded[0]), accelerator.gather(padded[1])
    kept = all_places >= 0
    all_places, all_logits = all_places[kept].cpu(), all_logits[kept].cpu()
    order = all_places.argsort()
    if not torch.equal(all_places[order], torch.arange(size)):
        raise RuntimeError(f"{len(all_places)} predictions for {size} examples: every example must be predicted exactly once")
    return np.asarray(all_logits[order].numpy(), dtype=np.float32)
