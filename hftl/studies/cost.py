"""What a study will cost, before it starts: operations of its plans, and minutes by a few real steps of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from hftl.recipe import Recipe
from hftl.studies.trials import Experiments
from hftl.terminal import Shown
from hftl.training.experiment import Experiment, stage_loss
from hftl.training.machine import make_accelerator
from hftl.training.plan import Plan
from hftl.training.planning import make_plan
from hftl.training.step import batches_of_epoch, take_step
from hftl.training.working import open_stage
from hftl.wording import count, duration, size

STEPS = 3
"""Real steps that are timed, after one that is not."""


@dataclass(frozen=True)
class Arm:
    """What one arm of a study costs."""

    name: str
    plan: Plan
    evaluations: float
    """Operations of its evaluations on validation."""
    own: float
    """Operations that no other trial of the study has done for it: without what enters a boundary that is stored already."""

    @property
    def flops(self) -> float:
        return self.own + self.evaluations


@dataclass(frozen=True, repr=False)
class StudyPlan(Shown):
    """The trials of a study, and what they cost."""

    title: str
    arms: Sequence[Arm]
    times: int
    """Trials of each arm: seeds, or folds."""
    rate: float
    """Floating point operations a second, in real steps of this machine."""

    @property
    def seconds(self) -> float:
        """Of all trials together."""
        return self.times * sum(arm.flops for arm in self.arms) / self.rate

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2))
        for column, justify in (("arm", "left"), ("stages", "left"), ("steps", "right"), ("cache", "right"), ("a trial", "right")):
            table.add_column(column, justify=justify, no_wrap=column != "stages")  # type: ignore[arg-type]
        for arm in self.arms:
            stages = ", ".join(f"{stage.name} x {stage.epochs}" for stage in arm.plan.stages)
            cache = sum({stage.cached_up_to: stage.cache_bytes for stage in arm.plan.stages if stage.cached_up_to}.values())
            steps = f"{sum(stage.steps for stage in arm.plan.stages):,}"
            table.add_row(arm.name, stages, steps, size(cache) if cache else "-", duration(arm.flops / self.rate))
        trials = len(self.arms) * self.times
        yield table
        yield ""
        yield (
            f"{self.title}: {count(trials, 'trial')}, about {duration(self.seconds)} by {STEPS} real steps of this machine"
            f" ({self.rate / 1e9:,.0f} GFLOP/s). What leaves frozen layers is computed once for all trials that share it."
        )


def plan_study(title: str, arms: Mapping[str, Recipe], *, times: int, experiments: Experiments | None = None) -> StudyPlan:
    """The plan of a study that runs each arm so many times. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: an arm cannot be carried out.
    """
    experiments = experiments or Experiments()
    stored: list[tuple[object, ...]] = []  # a recipe's sections cannot be hashed
    planned: list[Arm] = []
    rate = 0.0
    for name, recipe in arms.items():
        experiment = experiments.of(recipe)
        plan = make_plan(experiment, source=name)
        rate = rate or measured_rate(experiment)
        groups, forward = list(experiment.forward), experiment.forward
        own, evaluations, validation = plan.flops, 0.0, len(experiment.splits.validation)
        for stage, resolved in zip(plan.stages, experiment.stages, strict=True):
            start = groups.index(stage.cached_up_to) if stage.cached_up_to else 0
            evaluations += stage.epochs * validation * sum(forward[group] for group in groups[start:])
            before = sum(forward[group] for group in groups[:start])
            key = (recipe.data, recipe.model, groups[start], stage.image_size)
            if before and key in stored:
                own -= plan.train_examples * sum(experiment.forward_of(resolved)[group] for group in groups[:start])
            elif before:
                evaluations += validation * before
                stored.append(key)
        planned.append(Arm(name, plan, evaluations, max(own, 0.0)))
    return StudyPlan(title, planned, times, rate)


def measured_rate(experiment: Experiment, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Floating point operations a second in real training steps of the stage that trains most, after one step to warm up."""
    recipe = experiment.recipe
    stage = max(experiment.stages, key=experiment.step_flops)
    accelerator = make_accelerator(recipe, None)
    working = open_stage(experiment, stage, accelerator, checkpoint=None)
    batches = batches_of_epoch(experiment.training_samples(stage), stage, recipe, accelerator, epoch=1)
    working.train_mode()
    example_loss, taken, began = stage_loss(experiment, stage), 0, clock()
    for number in range(STEPS + 1):
        if take_step(working, batches, example_loss) is None:
            break
        if number == 0:
            began = clock()
        taken = number
    if accelerator.device.type != "cpu":
        torch.accelerator.synchronize(accelerator.device)
    seconds = clock() - began
    working.close()
    return max(taken, 1) * stage.batch_size * stage.loss.passes * experiment.step_flops(stage) / seconds
