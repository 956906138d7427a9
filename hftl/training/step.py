"""One optimizer step: forward and backward over its micro-batches, the gradient's norm, and the update.

Shapes: B examples in a micro-batch, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from hftl.data.loader import Batch
from hftl.training.loss import ExampleLoss
from hftl.training.working import Working


@dataclass(frozen=True)
class Step:
    """What a step has seen."""

    loss: float
    """Mean over its examples, of all processes."""
    grad_norm: float
    """Of the mean loss's gradient, before it is clipped."""
    rates: Mapping[str, float]
    """Layer group -> the learning rate that it took the step with."""


class NotFinite(Exception):
    """The loss or its gradient is no longer finite, on every process. The weights are those of before the step."""

    def __init__(self, loss: float, grad_norm: float, rows: list[int]) -> None:
        super().__init__(f"loss {loss}, norm of its gradient {grad_norm}")
        self.loss, self.grad_norm = loss, grad_norm
        self.rows = rows
        """Of this process's examples of the step, in their samples."""


def take_step(working: Working, batches: Iterator[Batch], example_loss: ExampleLoss) -> Step | None:
    """Train on the micro-batches of the next step, read one after the other; None: there are no more.

    Raises:
        NotFinite: and no step is taken.
    """
    accelerator, stage = working.accelerator, working.stage
    loss_sum, weight_sum, rows = torch.zeros((), device=accelerator.device), 0.0, list[int]()
    for batch in batches:
        batch = batch.to(accelerator.device)
        with nullcontext() if batch.completes_step else accelerator.no_sync(working.model):
            logits = working.model(**batch.inputs).logits  # (B, K)
            loss = (example_loss(logits.float(), batch.targets) * batch.weight).sum()
            # The weights divide by the examples of the whole step; DDP divides by the processes once more.
            accelerator.backward(loss * accelerator.num_processes)
        loss_sum += loss.detach()
        weight_sum += float(batch.weight.sum())
        rows += batch.index.tolist()
        if batch.completes_step:
            break
    if not rows:
        return None

    value, weight = accelerator.reduce(torch.stack([loss_sum, torch.tensor(weight_sum).to(loss_sum)]), "sum").tolist()
    if abs(weight - 1) > 1e-3:
        raise RuntimeError(f"{weight:.3f} times the examples of a step were computed, not each one once")
    grad_norm = float(accelerator.clip_grad_norm_(working.model.parameters(), stage.max_grad_norm or math.inf))
    if not math.isfinite(value + grad_norm):  # the same on every process, so all of them stop, before the weights are lost
        raise NotFinite(value, grad_norm, rows)

    rates = {group["name"]: group["lr"] for group in working.optimizer.param_groups}
    working.optimizer.step()
    working.schedule.step()
    working.optimizer.zero_grad()
    return Step(value, grad_norm, rates)
