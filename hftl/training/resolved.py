"""A stage once the model and the data are known: which groups train at which rates, in how many steps.

It is worked out here alone, once a run. The plan shows it and the engine trains it, so that what is shown is what is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from hftl.data.batches import Sampling, steps_per_epoch
from hftl.errors import Problem, RecipeError
from hftl.models.adapters import Adapters, NoAdapters, find_places, insert, shapes_with
from hftl.models.chain import HEAD, Chain, UnknownGroup
from hftl.recipe import Average, ClassWeights, Loss, Mix, Optimizer, Recipe, Schedule
from hftl.training.stage import ParamGroup, group_rates, groups_at_rates


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
    adapters: Adapters | None
    """What trains in place of the weights of the layer groups below the head; None: the weights themselves."""

    @property
    def steps(self) -> int:
        """Steps of all its epochs, should it not stop early."""
        return self.epochs * self.steps_per_epoch

    def copy_of(self, model: PreTrainedModel, chain: Chain) -> tuple[PreTrainedModel, Chain]:
        """A copy of the model as the stage trains it, with its adapters, and the copy's chain. Nothing is frozen yet."""
        copied = copy.deepcopy(model)
        return copied, chain if self.adapters is None else insert(copied, chain, self.adapters)

    def shapes_of(self, model: nn.Module, chain: Chain) -> tuple[nn.Module, Chain]:
        """The same for those who ask for shapes alone: the model itself, or one without numbers that has the adapters."""
        return (model, chain) if self.adapters is None else shapes_with(model, chain, self.adapters)


def resolve_stages(
    recipe: Recipe,
    model: nn.Module,
    chain: Chain,
    *,
    train_examples: int,
    run: Callable[[], object],
    source: str = "recipe",
) -> tuple[ResolvedStage, ...]:
    """The stages of a recipe, in their order.

    Args:
        run: calls the model on any inputs, which shows what of it is called; only where a stage has adapters.

    Raises:
        RecipeError: stages that name groups the model does not have, or want adapters where none can be, all of them in one report.
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
        assert not isinstance(stage.lora, int)
        adapters, shaped, chain_of_shaped = None, model, chain
        if stage.lora is not None:
            try:
                places = find_places(
                    model, chain, trains, stage.lora, named=not isinstance(stage.unfreeze, str) or stage.unfreeze in trains, run=run
                )
            except NoAdapters as error:
                problems.append(Problem(f"stages.{name}.lora", str(error), (error.help,)))
                continue
            seed = int(np.random.SeedSequence([recipe.run.seed, number]).generate_state(1)[0])
            adapters = Adapters(stage.lora, places, seed)
            trains = tuple(group for group in trains if group in places or group == HEAD)
            shaped, chain_of_shaped = shapes_with(model, chain, adapters)
        rates = {group: rate for group, rate in group_rates(chain.names, stage).items() if group in trains}
        batch_size = stage.batch_size or recipe.run.batch_size
        resolved.append(
            ResolvedStage(
                number=number,
                name=name,
                trains=trains,
                rates=rates,
                param_groups=groups_at_rates(shaped, chain_of_shaped, stage, rates),
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
                adapters=adapters,
            )
        )
    if problems:
        raise RecipeError(source, problems)
    return tuple(resolved)


def _in_words(weights: str | ClassWeights | dict[str, float] | None) -> str | None:
    if weights is None or isinstance(weights, str):
        return weights
    return weights.words if isinstance(weights, ClassWeights) else "a number for each class"
