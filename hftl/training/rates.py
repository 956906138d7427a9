"""The learning rate of every layer group over a whole run, before it is trained.

The schedules are those that training will step, over tensors of one number each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hftl.evaluation.report import rates_figure, save_figure
from hftl.recipe import PlateauSchedule
from hftl.training.resolved import ResolvedStage
from hftl.training.stage import make_schedule

MOST_POINTS = 2_000
"""Steps of a stage that the figure shows at the most; it has fewer pixels across."""


def rates_of_stage(stage: ResolvedStage) -> Iterator[dict[str, float]]:
    """Layer group -> its rate, for each step of the stage, as if it did not stop early and reached no plateau."""
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in stage.rates.values()]
    optimizer = torch.optim.SGD(groups, lr=stage.lr)
    schedule = make_schedule(optimizer, stage.schedule, steps=stage.steps, steps_per_epoch=stage.steps_per_epoch)
    for _ in range(stage.steps):
        yield {group: of_group["lr"] for group, of_group in zip(stage.rates, optimizer.param_groups, strict=True)}
        optimizer.step()
        schedule.step()


def rates_of_run(stages: Sequence[ResolvedStage]) -> list[Mapping[str, Any]]:
    """{"step", "stage", "lr"} as the lines of a history have them; a long stage leaves steps out."""
    lines: list[Mapping[str, Any]] = []
    before = 0
    for stage in stages:
        every = max(1, stage.steps // MOST_POINTS)
        for step, rates in enumerate(rates_of_stage(stage), start=1):
            if step % every == 0 or step in (1, stage.steps):
                lines.append({"step": before + step, "stage": stage.name, "lr": rates})
        before += stage.steps
    return lines


def draw_rates(stages: Sequence[ResolvedStage], path: Path) -> str:
    """Draw the rates of a run into a PNG, and return a line that says what it shows."""
    save_figure(rates_figure(rates_of_run(stages)), path)
    on_plateaus = [stage.name for stage in stages if isinstance(stage.schedule, PlateauSchedule)]
    as_if = f" (of {', '.join(on_plateaus)} as if every epoch were better)" if on_plateaus else ""
    return f"{path}: the learning rate of every layer group at each step of the run{as_if}"
