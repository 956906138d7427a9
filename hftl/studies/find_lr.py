"""The learning-rate range test: how a stage's loss answers to rates that rise from step to step (Smith 2017, arXiv:1506.01186).

The rate of every layer group rises by the same factor a step, so layer decay and the head's multiplier keep their ratios; the rate
that is shown is the stage's own, before both. A later stage starts from the pretrained model too, since nothing was trained before
it here, and its frozen layers are computed in every step. The weights are thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from hftl.errors import RecipeError, did_you_mean, printable
from hftl.evaluation.report import BLUE, INK, QUIET, STYLE, VERMILION, WIDTH, save_figure
from hftl.models.chain import HEAD
from hftl.recipe import ConstantSchedule, Recipe
from hftl.studies.cost import STEPS, measured_rate
from hftl.studies.page import write_page, write_table
from hftl.studies.study import Question, StudyDirectory, open_study
from hftl.terminal import Say, Shown
from hftl.training.experiment import Experiment, prepare_experiment, stage_loss
from hftl.training.machine import make_accelerator
from hftl.training.planning import make_plan
from hftl.training.resolved import ResolvedStage
from hftl.training.step import NotFinite, batches_of_epoch, take_step
from hftl.training.working import open_stage
from hftl.wording import duration

LOW, HIGH = 1e-7, 10.0
"""The first and the last rate."""
FEWEST, MOST = 60, 300
"""Steps: one epoch's, within these."""
SMOOTH = 0.9
"""Of the loss of before, in the moving mean."""
EXPLODED = 4.0
"""Times the best loss: there it ends."""


@dataclass(frozen=True)
class RangeTest:
    """What a stage's losses were, a step each."""

    stage: str
    rates: Sequence[float]
    """The stage's own: before layer decay and multipliers."""
    losses: Sequence[float]
    smoothed: Sequence[float]
    suggests: bool
    """Whether the test is known to find a rate for such a stage: of a head, or of a network without attention."""
    number: int
    """Of the stage, from 0."""

    @property
    def lowest(self) -> float:
        """The rate at the lowest smoothed loss."""
        return self.rates[_argmin(self.smoothed)]

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest over the logarithm of the rate, before it is lowest."""
        end = max(2, _argmin(self.smoothed) + 1)
        falls = [self.smoothed[i + 1] - self.smoothed[i] for i in range(min(end, len(self.smoothed)) - 1)]
        return self.rates[_argmin(falls)] if falls else self.rates[0]


def _argmin(values: Sequence[float]) -> int:
    return min(range(len(values)), key=lambda i: values[i])


def rising(steps: int) -> list[float]:
    """Rates from `LOW` to `HIGH`, each the same factor above the one before: of three steps 1e-7, 1e-3 and 10."""
    return [LOW * (HIGH / LOW) ** (i / (steps - 1)) for i in range(steps)]


def smooth(losses: Sequence[float]) -> list[float]:
    """The moving mean ``m = 0.9 m + 0.1 loss``, divided by ``1 - 0.9 ** steps`` since it starts at 0. Of 1 and 2: 1, 1.526."""
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        smoothed.append(mean / (1 - SMOOTH**step))
    return smoothed


def question_of(recipe: Recipe, stage: str | None, *, source: str = "recipe") -> Question:
    """The question of a range test.

    Raises:
        RecipeError: no such stage.
    """
    if stage is not None and stage not in recipe.stages:
        what = f'no stage "{stage}".{did_you_mean(stage, recipe.stages)}'
        raise RecipeError.single("--stage", what, f"stages: {', '.join(recipe.stages)}", source=source)
    return Question("find-lr", {"stages": [stage] if stage is not None else list(recipe.stages)})


def find_lr(study: StudyDirectory, recipe: Recipe, question: Question, *, say: Say, source: str = "recipe") -> list[RangeTest]:
    """Carry out the test on each stage that is asked for, and write figures, table and page.

    Raises:
        RecipeError, DataError: the recipe cannot be carried out.
        RunError: the folder holds another study.
    """
    with open_study(study, recipe, question):
        experiment = prepare_experiment(recipe)
        make_plan(experiment, source=source)  # everything that is wrong with the recipe
        tests = []
        for stage in experiment.stages:
            if stage.name in question.settings["stages"]:
                tests.append(_test(experiment, stage))
                say(f"stage {stage.name}: {_told(tests[-1])}")
        for test in tests:
            _draw(study, test, recipe.stages[test.stage].lr)
        rows = [
            {"stage": test.stage, "step": step, "lr": lr, "loss": loss, "smoothed": smoothed}
            for test in tests
            for step, (lr, loss, smoothed) in enumerate(zip(test.rates, test.losses, test.smoothed, strict=True), start=1)
        ]
        write_table(study, pd.DataFrame(rows))
        head = ["stage", "steps", "recipe's rate", "lowest loss at", "steepest at"]
        table = [
            [t.stage, str(len(t.rates)), f"{recipe.stages[t.stage].lr:.1e}", f"{t.lowest:.1e}", f"{t.steepest:.1e}"] for t in tests
        ]
        sentences = [f"{test.stage}: {_told(test)}" for test in tests]
        if any(test.number for test in tests):
            sentences.append("A later stage was tested on the pretrained model: no stage was trained before it.")
        names = [f"{test.stage}.png" for test in tests]
        title, holds = f"{recipe.name}: range test", "table.csv has a row for each step."
        write_page(study, title=title, sentences=sentences, table=[head, *table], figures=names, holds=holds)
    return tests


def steps_of(stage: ResolvedStage) -> int:
    """Of its test: one epoch's, within `FEWEST` and `MOST`."""
    return min(MOST, max(FEWEST, stage.steps_per_epoch))


@dataclass(frozen=True, repr=False)
class RangePlan(Shown):
    """What a range test costs."""

    stages: Sequence[tuple[str, int, float]]
    """Of each that is tested its name, its steps at the most, and their floating point operations."""
    rate: float
    """Floating point operations a second, in real steps of this machine."""

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(flops for _, _, flops in self.stages) / self.rate

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2))
        for column in ("stage", "steps", "time"):
            table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
        for name, steps, flops in self.stages:
            table.add_row(name, f"{steps:,}", duration(flops / self.rate))
        yield table
        yield ""
        yield (
            f"find-lr: about {duration(self.seconds)} at the most by {STEPS} real steps of this machine"
            f" ({self.rate / 1e9:,.0f} GFLOP/s); a test ends sooner where the loss explodes."
        )


def plan_find_lr(recipe: Recipe, question: Question, *, source: str = "recipe") -> RangePlan:
    """What a range test costs. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe cannot be carried out.
    """
    experiment = prepare_experiment(recipe)
    make_plan(experiment, source=source)
    tested = [stage for stage in experiment.stages if stage.name in question.settings["stages"]]
    costs = [
        (
            stage.name,
            steps_of(stage),
            float(steps_of(stage) * stage.batch_size * experiment.step_flops(stage)),
        )
        for stage in tested
    ]
    return RangePlan(costs, measured_rate(experiment))


def _told(test: RangeTest) -> str:
    found = f"the loss falls fastest at {test.steepest:.1e} and is lowest at {test.lowest:.1e}"
    if test.suggests:
        low, high = sorted((test.steepest, test.lowest / 10))
        return f"{found}; a rate to try lies between {low:.1e} and {high:.1e}: the first of these, and a tenth of the second"
    return (
        f"{found}. No rate is suggested: pretrained transformers that train as a whole want rates far below these (1e-5 to 1e-4"
        " with AdamW and a warmup), which a test of so few steps without a warmup does not find; choose by validation"
    )


def _test(experiment: Experiment, stage: ResolvedStage) -> RangeTest:
    recipe, samples, steps = experiment.recipe, experiment.training_samples(stage), steps_of(stage)
    accelerator = make_accelerator(recipe, None)
    flat = replace(stage, schedule=ConstantSchedule(), average=None)
    working = open_stage(experiment, flat, accelerator, checkpoint=None)
    example_loss = stage_loss(experiment, stage)
    shares = [group["lr"] / stage.lr for group in working.optimizer.param_groups]
    working.train_mode()
    batches, epoch = batches_of_epoch(samples, stage, recipe, accelerator, epoch=1), 1
    rates, losses = list[float](), list[float]()
    for rate in rising(steps):
        for group, share in zip(working.optimizer.param_groups, shares, strict=True):
            group["lr"] = rate * share
        try:
            step = take_step(working, batches, example_loss)
            if step is None:
                epoch += 1
                batches = batches_of_epoch(samples, stage, recipe, accelerator, epoch=epoch)
                step = take_step(working, batches, example_loss)
        except NotFinite:
            break
        assert step is not None  # an epoch has a step
        rates.append(rate)
        losses.append(step.loss)
        smoothed = smooth(losses)
        if smoothed[-1] > EXPLODED * min(smoothed):
            break
    working.close()
    attention = any("attention" in type(module).__name__.lower() for module in experiment.classifier.model.modules())
    return RangeTest(stage.name, rates, losses, smooth(losses), stage.trains == (HEAD,) or not attention, stage.number)


def _draw(study: StudyDirectory, test: RangeTest, own: float) -> None:
    """figures/STAGE.png: the loss over the rate, and the recipe's own rate."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes: Axes = figure.subplots()
        axes.plot(test.rates, test.losses, ".", color=QUIET, markersize=3, label="loss of a step")
        axes.plot(test.rates, test.smoothed, color=BLUE, label="moving mean")
        axes.axvline(own, color=INK, linestyle=":", linewidth=1, label=f"the recipe's {own:.1e}")
        if test.suggests:
            axes.axvspan(*sorted((test.steepest, test.lowest / 10)), color=VERMILION, alpha=0.15, label="suggested")
        top = max(test.smoothed[0] * 1.5, min(test.smoothed) * 2)
        axes.set_ylim(0.9 * min(*test.losses, top), max(top, 1e-9) if math.isfinite(top) else None)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.0e}"))  # a formula would be shown as it is written
        axes.set_xlabel("learning rate of the stage")
        axes.set_title(printable(f"stage {test.stage}: training loss as the rate rises"))
        axes.legend()
        study.figures.mkdir(parents=True, exist_ok=True)
        save_figure(figure, study.figures / f"{test.stage}.png")
