"""How the plan of an experiment is made: its stages, what each costs, what it computes once, and what there is to say of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env
from torch import nn

from hftl.data.batches import POOL, POOLS, expected_draws, padding_share
from hftl.data.content import content_of
from hftl.data.targets import in_words, targets_of
from hftl.models.boundary import NotSeparable
from hftl.models.chain import Chain
from hftl.names import METRICS, SEVERAL_LABELS, VIEWS
from hftl.recipe import ContrastiveLoss, ImageData, LogitAdjustedLoss
from hftl.training.average import average_bytes, trained_tensors
from hftl.training.checks import check_stages
from hftl.training.costs import kept_bytes, step_flops
from hftl.training.experiment import Experiment, class_counts, stage_weights, two_examples, typical_inputs
from hftl.training.loss import log_shares
from hftl.training.machine import matrix_rate, mixed_precision, tokens_per_batch
from hftl.training.plan import GroupPlan, Plan, StagePlan
from hftl.training.resolved import ResolvedStage
from hftl.training.stage import optimizer_numbers
from hftl.wording import size


def make_plan(experiment: Experiment, *, source: str = "recipe", measure: torch.device | None = None) -> Plan:
    """The plan of an experiment; with `measure`, this device's matrix rate turns operations into a lower bound of the time.

    Raises:
        RecipeError: a stage names a layer group that the model does not have.
    """
    recipe, classifier = experiment.recipe, experiment.classifier
    check_stages(experiment, source)
    precision = "no" if measure is None else mixed_precision(recipe.run, measure)
    cached, computed = _cached_prefixes(experiment, bf16=precision == "bf16")
    return build_plan(
        experiment.stages,
        classifier.model,
        classifier.chain,
        train_examples=len(experiment.rows),
        forward=experiment.forward,
        forward_of={stage.name: experiment.forward_of(stage) for stage in experiment.stages},
        adapters_of={stage.name: experiment.adapters_of(stage) for stage in experiment.stages},
        flops_per_second=None if measure is None else matrix_rate(measure, precision),
        recompute=recipe.run.gradient_checkpointing,
        cached=cached,
        padding_share=_padding_share(experiment, measure or torch.device("cpu")),
        remarks=[
            *classifier.facts.get("remarks", ()),
            *content_of(recipe.data).costs(experiment.typical),
            *(line for stage in experiment.stages for line in _stage_remarks(experiment, stage)),
            *computed,
            *_run_remarks(experiment, precision),
        ],
        understood=experiment.splits.facts["understood"],
    )


def _padding_share(experiment: Experiment, device: torch.device) -> float | None:
    """About how much of what an epoch computes is padding; None for pictures."""
    recipe, lengths = experiment.recipe, experiment.typical.lengths
    if lengths is None:
        return None
    # As many as fill pools of the full size, since fewer would be harder to sort into batches of similar length.
    full = POOLS * POOL * recipe.run.batch_size
    drawn = np.random.default_rng(0).choice(lengths, size=min(len(experiment.rows), full))
    budget = tokens_per_batch(recipe, device)
    return padding_share(drawn, batch_size=recipe.run.batch_size, seed=recipe.run.seed, epoch=0, tokens_per_batch=budget)


def _run_remarks(experiment: Experiment, precision: str) -> Iterator[str]:
    """Lines about the whole run: how it chooses its weights, what it trains on, what it costs beside the stages."""
    recipe = experiment.recipe
    if experiment.teacher is not None:
        yield from experiment.teacher.remarks()
    if experiment.classifier.target == SEVERAL_LABELS and recipe.run.chooser != "accuracy":
        yield f"The weights are chosen by {METRICS[recipe.run.chooser]} on validation (run.metric={recipe.run.chooser})."
    elif experiment.classifier.target == SEVERAL_LABELS:
        yield (
            "The weights are chosen by the exact match of all labels (run.metric=accuracy); run.metric=macro_f1 counts each label."
        )
    for stage in experiment.stages:
        if stage.image_size is not None:
            tested = " x ".join(map(str, typical_inputs(experiment)["pixel_values"].shape[2:]))
            yield (
                f"Stage {stage.name} trains on pictures of {stage.image_size} x {stage.image_size} pixels; validation and test see"
                f" those of {tested}."
            )
    if precision == "fp16":
        yield "In fp16 numbers end at 65,504: gradients are scaled, and a step is skipped where they overflow still."
    if recipe.run.gradient_checkpointing:
        yield from _recomputing(experiment)
    if isinstance(recipe.data, ImageData) and recipe.data.augmented != "none":
        yield f"Augmentation, in training only: {recipe.data.augmented}."
    if recipe.dropped:
        yield f"Dropout, in training only: {recipe.dropped}."
    if recipe.run.tta != "none":
        views = VIEWS[recipe.run.tta]
        yield (
            f"At the end validation and test are predicted once more by {views} views of each picture (run.tta={recipe.run.tta}),"
            f" which takes {views} times as long."
        )


def _recomputing(experiment: Experiment) -> Iterator[str]:
    """A line for each stage: what its layers keep of an example for the backward pass, with and without gradient checkpointing."""
    classifier, inputs = experiment.classifier, two_examples(experiment)
    for stage in experiment.stages:
        now, otherwise = (
            kept_bytes(*stage.copy_of(classifier.model, classifier.chain), stage.trains, inputs, recompute=recompute) / 2
            for recompute in (True, False)
        )
        if now == otherwise:
            yield f"Stage {stage.name} has nothing to gain from run.gradient_checkpointing: it keeps {size(now)} of an example."
        else:
            yield (
                f"Stage {stage.name} keeps about {size(now)} of an example for the backward pass instead of {size(otherwise)}, and"
                " the inside of one layer at a time (run.gradient_checkpointing), for about one more forward pass."
            )


def _stage_remarks(experiment: Experiment, stage: ResolvedStage) -> Iterator[str]:
    """Lines about a stage: what it does by adapters and for rare classes, with its numbers, and what a loss of two passes costs."""
    asked, names = experiment.recipe.stages[stage.name], experiment.splits.label_names

    def ends(values: Sequence[float]) -> str:
        low, high = int(np.argmin(values)), int(np.argmax(values))
        if values[low] == values[high]:
            return f"{values[low]:.3g} for every class alike"
        return f"from {values[low]:.3g} ({names[low]}) to {values[high]:.3g} ({names[high]})"

    if stage.adapters is not None:
        yield (
            f"Stage {stage.name} trains {stage.adapters.words}; the weights under them stay as they are until its end, when the two"
            " are merged."
        )
    if asked.class_weights is not None:
        weights = stage_weights(experiment, asked)
        assert weights is not None
        yield f"Stage {stage.name} weighs classes (class_weights: {stage.class_weights}): {ends(weights.tolist())}."
    if stage.sampling is not None:
        targets = targets_of(experiment.splits.train)
        times = expected_draws(targets, stage.sampling)
        most, least = in_words(targets[[times.argmax(), times.argmin()]], names)
        often = f"one of {most} comes {times.max():.3g} times an epoch, one of {least} {times.min():.3g} times"
        if times.max() == times.min():
            often = "each comes once, since all classes have as many"
        yield f"Stage {stage.name} draws its examples by class (sampling {stage.sampling}): {often}."
    if isinstance(stage.loss, LogitAdjustedLoss):
        added = log_shares(class_counts(experiment), stage.loss.tau)
        yield f"Stage {stage.name} adds to the logits, in training alone ({stage.loss.words}): {ends(added.tolist())}."
    if isinstance(stage.loss, ContrastiveLoss):
        yield (
            f"Stage {stage.name} compares the {stage.batch_size} examples of a step with each other (loss {stage.loss.words}): they"
            " are computed at once, on several processes each its own share."
        )
    if stage.loss.passes > 1:
        pieces = experiment.recipe.run.gradient_accumulation
        yield (
            f"Stage {stage.name} computes each example twice (loss {stage.loss.words}): that is twice the operations, and memory"
            f" for up to {2 * -(-stage.batch_size // pieces)} examples at once; run.gradient_accumulation={2 * pieces} halves it."
        )


def _cached_prefixes(experiment: Experiment, *, bf16: bool) -> tuple[dict[str, CachedPrefix], list[str]]:
    """What each stage keeps of its frozen prefix; and a line about each that could keep it and does not, with the reason."""
    recipe, lengths = experiment.recipe, experiment.typical.lengths
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return {}, ["Under FSDP, which keeps a model in pieces, frozen layers are computed in every epoch."]
    cached: dict[str, CachedPrefix] = {}
    remarks, views = [], content_of(recipe.data).num_views(train=True)
    for name, boundary in experiment.boundaries.items():
        if isinstance(boundary, NotSeparable):
            remarks.append(f"Stage {name} computes its frozen layers in every epoch: {boundary}.")
            continue
        if recipe.stages[name].mix is not None:
            remarks.append(
                f"Stage {name} computes its frozen layers in every epoch: every step mixes other pictures (stages.{name}.mix). What"
                " leaves them of the validation split is computed once."
            )
            continue
        train, validation = views * len(experiment.rows), len(experiment.splits.validation)
        tokens = 0.0 if lengths is None else (train + validation) * float(np.mean(lengths))
        total = boundary.nbytes(examples=train + validation, tokens=tokens, bf16=bf16)
        own = experiment.training_boundary(next(stage for stage in experiment.stages if stage.name == name))
        if own is not None and own is not boundary:  # pictures of another size
            total = own.nbytes(examples=train, tokens=0.0, bf16=bf16) + boundary.nbytes(examples=validation, tokens=0.0, bf16=bf16)
        if not views:
            remarks.append(
                f"Stage {name} computes its frozen layers in every epoch: every epoch sees new pictures (data.augmentation_views)."
            )
        elif total > recipe.run.cache_gb * 1e9:
            remarks.append(
                f"Stage {name} computes its frozen layers in every epoch: what leaves them takes {total / 1e9:,.1f} GB,"
                f" and run.cache_gb is {recipe.run.cache_gb:g}."
            )
        else:
            cached[name] = CachedPrefix(boundary.group, total, views)
    return cached, remarks


@dataclass(frozen=True)
class CachedPrefix:
    """What a stage keeps of its frozen prefix."""

    group: str
    """The first training group."""
    bytes: float
    """Bytes of all that is stored."""
    num_views: int
    """Stored rows of an example: the views of a picture with augmentation, 1 without."""


def build_plan(
    stages: Sequence[ResolvedStage],
    model: nn.Module,
    chain: Chain,
    *,
    train_examples: int,
    forward: Mapping[str, int],
    flops_per_second: float | None,
    forward_of: Mapping[str, Mapping[str, int]] | None = None,
    adapters_of: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    recompute: bool = False,
    cached: Mapping[str, CachedPrefix] | None = None,
    padding_share: float | None = None,
    remarks: Sequence[str] = (),
    understood: Sequence[str] = (),
) -> Plan:
    """The plan of a recipe's stages on a model.

    Args:
        forward: cost of a typical example from `forward_flops`.
        forward_of: the same for each stage, whose pictures may be of another size; None: `forward` for all.
        adapters_of: for the stages with adapters what those of each layer group compute.
        cached: for the stages that compute their frozen prefix once.
        flops_per_second: of this machine; None: not measured.
        recompute: layers that train are computed again in the backward pass.
    """
    count = {name: parameter.numel() for name, parameter in model.named_parameters()}
    sizes = {group: sum(count[name] for name in chain.parameters[group]) for group in chain.names}
    columns = tuple(
        _stage_plan(
            stage,
            sizes,
            train_examples,
            (forward_of or {}).get(stage.name, forward),
            (cached or {}).get(stage.name),
            stage.shapes_of(model, chain),
            adapters_of.get(stage.name, {}),
            recompute=recompute,
            whole=step_flops(forward, list(sizes), recompute=recompute),
        )
        for stage in stages
    )
    flops = sum(column.flops for column in columns)
    return Plan(
        model=type(model).__name__,
        parameters=sum(sizes.values()),
        train_examples=train_examples,
        groups=tuple({"name": name, "parameters": count} for name, count in sizes.items()),
        stages=columns,
        padding_share=padding_share,
        remarks=tuple(remarks),
        understood=tuple(understood),
        flops=flops,
        at_least_minutes=None if flops_per_second is None else flops / flops_per_second / 60,
    )


def _stage_plan(
    stage: ResolvedStage,
    sizes: Mapping[str, int],
    train_examples: int,
    forward: Mapping[str, int],
    cached: CachedPrefix | None,
    trained: tuple[nn.Module, Chain],
    adapters: Mapping[str, int],
    *,
    recompute: bool,
    whole: int,
) -> StagePlan:
    """One column; `sizes` are the numbers in each layer group, `trained` is the stage's own model and chain, for its shapes.

    `forward` is of the stage's own pictures, `whole` a training step of all groups on an example as evaluation sees it.
    """
    shape = {name: tuple(parameter.shape) for name, parameter in trained[0].named_parameters()}
    groups, trainable = list(sizes), sum(math.prod(shape[name]) for group in stage.param_groups for name in group.parameters)
    seen = train_examples * stage.epochs
    computed = seen * stage.loss.passes
    flops = computed * step_flops(forward, stage.trains, recompute=recompute, adapters=adapters)
    if cached is not None:
        before = sum(forward[group] for group in groups[: groups.index(cached.group)])
        from_there = step_flops(forward, stage.trains, start=cached.group, recompute=recompute, adapters=adapters)
        flops = computed * from_there + train_examples * cached.num_views * before
    decay = {group.name: group.weight_decay for group in reversed(stage.param_groups)}  # the one with weight decay comes first
    return StagePlan(
        name=stage.name,
        unfreeze=stage.trains,
        epochs=stage.epochs,
        batch_size=stage.batch_size,
        steps=stage.steps,
        optimizer=stage.optimizer.kind,
        schedule=stage.schedule.kind,
        loss=stage.loss.kind,
        class_weights=stage.class_weights,
        sampling=stage.sampling,
        l1=max(group.l1 for group in stage.param_groups),
        average=None if stage.average is None else stage.average.kind,
        average_bytes=average_bytes(stage.average, trained_tensors(*trained, stage.trains), epochs=stage.epochs),
        mix=None if stage.mix is None else stage.mix.kind,
        image_size=stage.image_size,
        lora=None if stage.adapters is None else stage.adapters.words,
        trainable_parameters=trainable,
        trainable_share=trainable / sum(sizes.values()),
        optimizer_bytes=4
        * sum(
            optimizer_numbers(stage.optimizer, [shape[name] for name in group.parameters], hidden=group.hidden)
            for group in stage.param_groups
        ),
        cached_up_to=None if cached is None else cached.group,
        cache_bytes=0.0 if cached is None else cached.bytes,
        flops=flops,
        cost_share=flops / max(1, seen * whole),
        groups=tuple(
            GroupPlan(group, trains=group in stage.trains, lr=stage.rates.get(group), weight_decay=decay.get(group, 0.0))
            for group in groups
        ),
    )
