"""A stage once the model and the data are known: which groups train at which rates, in how many steps.

It is worked out here alone, once a run. The plan shows it and the engine trains it, so that what is shown is what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from hftl.data.batches import Sampling, steps_per_epoch
from hftl.errors import Problem, RecipeError
from hftl.models.chain import Chain, UnknownGroup
from hftl.recipe import Average, ClassWeights, Loss, Mix, Optimizer, Recipe, Schedule
from hftl.training.stage import ParamGroup, group_rates, param_groups


@dataclass(frozen=True)
class ResolvedStage:
    """A stage of a recipe on one model and one training split."""

    number: int
    """From 0."""
    name: str
    trains: tuple[str, ...]
    """The layer groups that train, input first."""
    rates: Mapping[str, float]
    """Layer group -> learning rate before the schedule, for those that train."""
    param_groups: tuple[ParamGroup, ...]
    lr: float
    """As the recipe has it: before layer decay and the head's multiplier."""
    optimizer: Optimizer
    schedule: Schedule
    loss: Loss
    class_weights: str | None
    """How they come about, in words; None: every example weighs 1."""
    sampling: Sampling
    """How an epoch draws its examples, see `hftl.data.batches.draw_epoch`; None: each once."""
    mix: Mix | None
    image_size: int | None
    """Side of the training pictures, in pixels; None: that of evaluation."""
    batch_size: int
    """Examples of an optimizer step, over all processes."""
    epochs: int
    steps_per_epoch: int
    epochs_before: int
    """Epochs of all earlier stages: what an epoch draws at random depends on its number in the whole run."""
    max_grad_norm: float | None
    early_stopping: int | None
    average: Average | None

    @property
    def steps(self) -> int:
        """Steps of all its epochs, should it not stop early."""
        return self.epochs * self.steps_per_epoch


def resolve_stages(
    recipe: Recipe, model: nn.Module, chain: Chain, *, train_examples: int, source: str = "recipe"
) -> tuple[ResolvedStage, ...]:
    """The stages of a recipe, in their order.

    Raises:
        RecipeError: stages that name groups the model does not have, all of them in one report.
    """
    resolved: list[ResolvedStage] = []
    problems = []
    for number, (name, stage) in enumerate(recipe.stages.items()):
        try:
            trains = chain.select(stage.unfreeze)
        except UnknownGroup as error:
            problems.append(Problem(f"stages.{name}.unfreeze", str(error), (f"groups, input to output: {', '.join(chain.names)}",)))
            continue
        # A recipe turns a word into its section when it is made.
        assert not isinstance(stage.optimizer, str) and not isinstance(stage.schedule, str)
        assert not isinstance(stage.loss, str) and not isinstance(stage.average, str) and not isinstance(stage.mix, str)
        rates = group_rates(chain.names, stage)
        batch_size = stage.batch_size or recipe.run.batch_size
        resolved.append(
            ResolvedStage(
                number=number,
                name=name,
                trains=trains,
                rates={group: rates[group] for group in trains},
                param_groups=param_groups(model, chain, stage),
                lr=stage.lr,
                optimizer=stage.optimizer,
                schedule=stage.schedule,
                loss=stage.loss,
                class_weights=_in_words(stage.class_weights),
                sampling=stage.sampling,
                mix=stage.mix,
                image_size=None if stage.image_size == getattr(recipe.data, "image_size", None) else stage.image_size,
                batch_size=batch_size,
                epochs=stage.epochs,
                steps_per_epoch=steps_per_epoch(train_examples, batch_size),
                epochs_before=sum(earlier.epochs for earlier in list(recipe.stages.values())[:number]),
                max_grad_norm=stage.max_grad_norm,
                early_stopping=stage.early_stopping,
                average=stage.average,
            )
        )
    if problems:
        raise RecipeError(source, problems)
    return tuple(resolved)


def _in_words(weights: str | ClassWeights | dict[str, float] | None) -> str | None:
    if weights is None or isinstance(weights, str):
        return weights
    return weights.words if isinstance(weights, ClassWeights) else "a number for each class"
