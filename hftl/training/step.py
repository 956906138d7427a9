"""One optimizer step: forward and backward over its micro-batches, the gradient's norm, and the update.

Shapes: B examples in a micro-batch, K classes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler

from hftl.data.loader import Batch, Samples, training_batches
from hftl.recipe import ContrastiveLoss, Recipe
from hftl.training.loss import Contrast, ExampleLoss, TeacherLoss
from hftl.training.machine import LEAST_SCALE, gradient_scale, tokens_per_batch
from hftl.training.resolved import ResolvedStage
from hftl.training.stage import shrink
from hftl.training.working import Working


@dataclass(frozen=True)
class Step:
    """What a step has seen."""

    loss: float
    """Mean over its examples, of all processes, by their weights."""
    grad_norm: float | None
    """Norm of the mean loss's gradient, before it is clipped; None: in fp16 the gradient overflowed, and no weight was changed."""
    rates: Mapping[str, float]
    """Layer group -> the learning rate that it took the step with."""


class NotFinite(Exception):
    """The loss or its gradient is no longer finite, on every process."""

    def __init__(self, loss: float, grad_norm: float, rows: list[int]) -> None:
        super().__init__(f"loss {loss}, norm of its gradient {grad_norm}")
        self.loss, self.grad_norm = loss, grad_norm
        self.rows = rows
        """Places, in their samples, of this process's examples of the step."""


def batches_of_epoch(
    samples: Samples,
    stage: ResolvedStage,
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    epoch: int,
    start: int = 0,
    workers: int = 0,
) -> Iterator[Batch]:
    """This process's micro-batches of an epoch of a stage, from its step `start` on; `epoch` is counted over all stages, from 1."""
    return training_batches(
        samples,
        batch_size=stage.batch_size,
        seed=recipe.run.seed,
        epoch=epoch,
        start=start,
        accumulation=recipe.run.gradient_accumulation,
        sampling=stage.sampling,
        tokens_per_batch=_tokens_at_once(stage, recipe, accelerator.device),
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
        workers=workers,
        mix=stage.mix,
    )


def _tokens_at_once(stage: ResolvedStage, recipe: Recipe, device: torch.device) -> int:
    """Of a micro-batch; no bound where the loss compares the examples of a step, which pieces could not."""
    if isinstance(stage.loss, ContrastiveLoss):
        return sys.maxsize
    return tokens_per_batch(recipe, device) // stage.loss.passes


def take_step(working: Working, batches: Iterator[Batch], example_loss: ExampleLoss) -> Step | None:
    """Train on the micro-batches of the next step, read one after the other; None: there are no more.

    Raises:
        NotFinite: the loss or its gradient is not, and in fp16 it cannot be helped by multiplying the gradient by less.
    """
    accelerator, stage = working.accelerator, working.stage
    loss_sum, weight_sum, rows = torch.zeros((), device=accelerator.device), 0.0, list[int]()
    for batch in batches:
        batch = batch.to(accelerator.device)
        with nullcontext() if batch.completes_step else accelerator.no_sync(working.model):
            inputs = batch.inputs
            if stage.loss.passes > 1:  # as one of so many times the rows: dropout differs by row, and DDP wants a single call
                inputs = {name: torch.cat([tensor] * stage.loss.passes) for name, tensor in inputs.items()}
            logits = working.model(**inputs).logits  # (B, K), of two passes (2 B, K)
            loss = _losses(example_loss, logits.float(), batch, working.teacher, working.contrast).sum()
            # The weights divide by those of the whole step; DDP divides by the processes once more.
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
    rates = {group["name"]: group["lr"] for group in working.optimizer.param_groups}
    # The same on every process, so all of them stop, before the weights are lost; in fp16 once a smaller scale cannot help.
    helpless = not math.isfinite(grad_norm) and gradient_scale(accelerator) <= LEAST_SCALE
    if not math.isfinite(value) or helpless:
        raise NotFinite(value, grad_norm, rows)
    changed = update(accelerator, working.optimizer, working.schedule)
    if changed and not math.isfinite(grad_norm):  # each number of the gradient is finite, and their norm is not
        raise NotFinite(value, grad_norm, rows)
    return Step(value, grad_norm if changed else None, rates)


def _losses(
    example_loss: ExampleLoss,
    logits: torch.Tensor,
    batch: Batch,
    teacher: TeacherLoss | None = None,
    contrast: Contrast | None = None,
) -> torch.Tensor:
    """What each example adds to the loss of the step, (B,): its loss times its weight; of a mixed one the mean of that for its own
    target and weight and for those of its partner, by shares."""
    if teacher is not None:  # a row without a label has -1, and the loss of any class in its place is not looked at
        return teacher(example_loss(logits, batch.targets.clamp(min=0)), logits, batch.index) * batch.weight
    if contrast is not None:
        return contrast(example_loss(logits, batch.targets), batch.targets) * batch.weight
    own = example_loss(logits, batch.targets) * batch.weight
    if batch.partner_targets is None:
        return own
    assert batch.partner_weight is not None
    return batch.share * own + (1 - batch.share) * example_loss(logits, batch.partner_targets) * batch.partner_weight


def update(accelerator: Accelerator, optimizer: AcceleratedOptimizer, schedule: AcceleratedScheduler) -> bool:
    """Let the optimizer and the schedule take their step; whether they did. In fp16 a gradient that overflows is not used.

    torch's scaler then leaves the weights alone and halves its scale, which is the sign: Accelerate's `step_was_skipped` takes the
    call of a fused optimizer, which does the leaving by itself, for a step.
    """
    scale = gradient_scale(accelerator)
    optimizer.step()
    changed = gradient_scale(accelerator) >= scale
    if changed:
        shrink(optimizer)
        schedule.step()
    optimizer.zero_grad()
    return changed


def seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout depends on (seed, step, process) alone, so a continued run draws what the run in one piece would have drawn."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))
