"""An experiment ready to run: the recipe's data, model and preprocessing, introduced to each other.

Data and models never import each other; this is where they meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env, set_seed
from datasets import Dataset, disable_progress_bars

from hftl.data.audit import NOTHING_KNOWN, Audit, audit_splits
from hftl.data.batches import POOL, POOLS, expected_draws, padding_share
from hftl.data.content import MixedSteps, content_of
from hftl.data.layout import Role
from hftl.data.loader import Samples
from hftl.data.source import Splits, Undivided, read_undivided
from hftl.data.targets import in_words, kind_of, targets_of
from hftl.errors import DataError, Problem, RecipeError
from hftl.evaluation.serving import ServingSamples, choose
from hftl.evaluation.targets import target_named
from hftl.facts import settle
from hftl.models import build_classifier
from hftl.models.boundary import Boundary, NotSeparable, activation_shape, find_boundary
from hftl.models.chain import UnknownGroup
from hftl.models.family import Classifier
from hftl.models.image_size import grey, preprocessor_at, why_not
from hftl.models.recompute import check_recomputable
from hftl.names import ONE_LABEL, SEVERAL_LABELS, VIEWS, Tta
from hftl.recipe import ImageData, LogitAdjustedLoss, Recipe, Stage, check_places
from hftl.records.data import Provenance
from hftl.training.loss import ExampleLoss, check_loss, class_weights, log_shares, make_loss
from hftl.training.machine import matrix_rate, mixed_precision, tokens_per_batch
from hftl.training.origin import base_record
from hftl.training.plan import CachedPrefix, Plan, build_plan, forward_flops, kept_bytes
from hftl.training.resolved import ResolvedStage, resolve_stages
from hftl.training.stage import train_mode
from hftl.wording import size

# So many training texts tell the plan how long a typical one is.
TYPICAL = 512


@dataclass(frozen=True)
class Experiment:
    """Everything a stage needs, before anything is trained."""

    recipe: Recipe
    """With the facts alone that hold for these data and this model."""
    splits: Splits
    classifier: Classifier
    asked: Recipe
    """The recipe as it was given, with the same facts: recipe.yaml has it. A continued run's own has commits for its branches."""
    said_of_facts: tuple[str, ...] = ()
    """What there is to say about the others."""

    @cached_property
    def samples(self) -> dict[str, Samples]:
        """Training and validation split as the model takes them."""
        given = {"train": self.splits.train, "validation": self.splits.validation}
        return {
            split: make_samples(self.recipe, self.classifier, dataset, train=split == "train") for split, dataset in given.items()
        }

    def training_samples(self, stage: ResolvedStage) -> Samples:
        """The training split as a stage takes it: pictures of its own size."""
        side = stage.image_size
        if side is None:
            return self.samples["train"]
        if side not in self.samples_at:
            self.samples_at[side] = make_samples(self.recipe, self.classifier, self.splits.train, train=True, image_size=side)
        return self.samples_at[side]

    @cached_property
    def samples_at(self) -> dict[int, Samples]:
        """Training pictures of other sizes than that of evaluation, as far as a stage has asked for them."""
        return {}

    @cached_property
    def typical(self) -> Samples:
        """Up to 512 training examples as evaluation sees them, which tell the plan what a typical one costs."""
        train = self.splits.train
        return make_samples(self.recipe, self.classifier, train.select(range(min(TYPICAL, len(train)))), train=False)

    @cached_property
    def forward(self) -> dict[str, int]:
        """Floating point operations of one forward pass of a typical example, by layer group."""
        return forward_flops(self.classifier.model, self.classifier.chain, typical_inputs(self))

    def forward_of(self, stage: ResolvedStage) -> dict[str, int]:
        """`forward` at the size of a stage's own pictures."""
        side = stage.image_size
        if side is None:
            return self.forward
        if side not in self.forward_at:
            model, chain = self.classifier.model, self.classifier.chain
            self.forward_at[side] = forward_flops(model, chain, grey(self.classifier, side))
        return self.forward_at[side]

    @cached_property
    def forward_at(self) -> dict[int, dict[str, int]]:
        """What `forward_of` has counted."""
        return {}

    def training_boundary(self, stage: ResolvedStage) -> Boundary | None:
        """The boundary of a stage as its training examples pass it; None: there is none, or it cannot be told."""
        boundary = self.boundaries.get(stage.name)
        if not isinstance(boundary, Boundary):
            return None
        if stage.image_size is None:
            return boundary
        inputs = grey(self.classifier, stage.image_size)
        return replace(boundary, shape=activation_shape(self.classifier.model, boundary, inputs))

    @cached_property
    def stages(self) -> tuple[ResolvedStage, ...]:
        """The recipe's stages on this model and these data: what the plan shows and the engine trains.

        Raises:
            RecipeError: a stage names a layer group that the model does not have.
        """
        model, chain = self.classifier.model, self.classifier.chain
        return resolve_stages(self.recipe, model, chain, train_examples=len(self.splits.train))

    @cached_property
    def boundaries(self) -> dict[str, Boundary | NotSeparable]:
        """For each stage with a frozen prefix that computes anything where it ends, or why that cannot be told."""
        model, chain = self.classifier.model, self.classifier.chain
        found: dict[str, Boundary | NotSeparable] = {}
        inputs = _two_examples(self)
        for stage in self.stages:
            prefix = chain.names[: chain.names.index(stage.trains[0])]
            if sum(self.forward[group] for group in prefix):  # looking words up costs less than reading what was found
                if stage.trains not in self.boundary_below:
                    train_mode(model, chain, stage.trains)
                    try:
                        self.boundary_below[stage.trains] = find_boundary(model, chain, stage.trains, inputs)
                    except NotSeparable as error:
                        self.boundary_below[stage.trains] = error
                found[stage.name] = self.boundary_below[stage.trains]
        model.eval()  # type: ignore[no-untyped-call]
        return found

    @cached_property
    def boundary_below(self) -> dict[tuple[str, ...], Boundary | NotSeparable]:
        """What was learned so far of stages that train these groups."""
        return {}

    @cached_property
    def base(self) -> dict[str, Any]:
        """What the model was started from, see `hftl.training.origin.base_record`; asked for before anything is trained."""
        return base_record(self.classifier)

    @cached_property
    def findings(self) -> Audit:
        """What is worth knowing about the data.

        Raises:
            DataError: nearly every token of the training texts is unknown to the model.
        """
        return audit(self, self.samples)

    def with_stages(self, recipe: Recipe) -> Experiment:
        """The same data and the same model for a recipe that differs in its stages and how it is run, by another name.

        What has been made of the data stays: a study reads, checks and tokenises them once for all trials that share them.
        """
        settled, said = settle(recipe, _provenance(self.splits, self.classifier))
        other = replace(self, recipe=settled, asked=settled, said_of_facts=said)
        made = (
            "samples",
            "samples_at",
            "typical",
            "forward",
            "forward_at",
            "boundary_below",
            "base",
            "findings",
        )  # of what depends on data and model alone
        vars(other).update({name: vars(self)[name] for name in made if name in vars(self)})
        return other


def read_data(recipe: Recipe) -> Undivided:
    """Read and check a recipe's source.

    Raises:
        DataError, RecipeError: it cannot be used, or lies on another machine.
    """
    check_places(recipe)
    disable_progress_bars()  # of datasets: the run's own lines say what happens
    return read_undivided(recipe.data)


def prepare_experiment(recipe: Recipe, *, splits: Splits | None = None) -> Experiment:
    """Read the data and build the model; the seed is set before random weights are drawn.

    Args:
        splits: the recipe's data, where they have been read already.

    Raises:
        DataError, RecipeError: the data or the checkpoint cannot be used, or a fact of the card contradicts them.
    """
    splits = splits or read_data(recipe).divided(recipe.data, seed=recipe.run.seed)
    set_seed(recipe.run.seed)
    classifier = build_classifier(
        recipe,
        splits.label_names,
        texts=content_of(recipe.data).words(splits.train),
        target=kind_of(targets_of(splits.train)),
    )
    settled, said = settle(recipe, _provenance(splits, classifier))
    return Experiment(settled, splits, classifier, settled, said)


def _provenance(splits: Splits, classifier: Classifier) -> Provenance:
    return cast("Provenance", {**splits.facts, "model": classifier.facts})


def make_samples(
    recipe: Recipe, classifier: Classifier, dataset: Dataset, *, train: bool, image_size: int | None = None
) -> Samples:
    """A split with the preprocessing of the classifier, at another size of pictures where `image_size` says so.

    With the recipe's augmentation where `train`.
    """
    preprocessor = classifier.preprocessor if image_size is None else preprocessor_at(classifier, image_size)
    return content_of(recipe.data).samples(dataset, preprocessor, seed=recipe.run.seed, train=train)


def check_views(recipe: Recipe, samples: Samples, tta: Tta) -> None:
    """Refuse views of these samples that cannot be made, before anything is computed.

    Raises:
        DataError: the samples are texts, or crops are asked for of pictures that their processor prepares in another way.
    """
    if tta != "none":
        content_of(recipe.data).views(samples, tta)


def class_counts(experiment: Experiment) -> list[int]:
    """Training examples of each class, in the order of the class names."""
    splits = experiment.splits
    counts: list[int] = splits.target.counts(targets_of(splits.train), splits.label_names).tolist()
    return counts


def stage_weights(experiment: Experiment, stage: Stage) -> torch.Tensor | None:
    """Weight of each class in a stage, see `hftl.training.loss.class_weights`.

    Raises:
        RecipeError: they cannot be made.
    """
    splits = experiment.splits
    target = experiment.classifier.target
    return class_weights(stage, class_counts(experiment), splits.label_names, target=target, examples=len(splits.train))


def stage_loss(experiment: Experiment, stage: ResolvedStage) -> ExampleLoss:
    """The loss that a stage minimises, see `hftl.training.loss.make_loss`."""
    return make_loss(
        stage.loss,
        stage_weights(experiment, experiment.recipe.stages[stage.name]),
        target=experiment.classifier.target,
        class_counts=class_counts(experiment),
    )


def make_plan(experiment: Experiment, *, source: str = "recipe", measure: torch.device | None = None) -> Plan:
    """The plan of an experiment; with `measure`, this device's matrix rate turns operations into a lower bound of the time.

    Raises:
        RecipeError: a stage names a layer group that the model does not have.
    """
    recipe, classifier = experiment.recipe, experiment.classifier
    _check_stages(experiment, source)
    precision = "no" if measure is None else mixed_precision(recipe.run, measure)
    rate = None if measure is None else matrix_rate(measure, precision)
    lengths = experiment.typical.lengths
    share = None
    if lengths is not None:
        # As many as fill pools of the full size, since fewer would be harder to sort into batches of similar length.
        full = POOLS * POOL * recipe.run.batch_size
        drawn = np.random.default_rng(0).choice(lengths, size=min(len(experiment.splits.train), full))
        budget = tokens_per_batch(recipe, measure or torch.device("cpu"))
        share = padding_share(drawn, batch_size=recipe.run.batch_size, seed=recipe.run.seed, epoch=0, tokens_per_batch=budget)
    cached, remarks = _cached_prefixes(experiment, bf16=precision == "bf16")
    if classifier.target == SEVERAL_LABELS and recipe.run.metric == "accuracy":
        remarks.append(
            "The weights are chosen by the exact match of all labels (run.metric=accuracy); run.metric=macro_f1 counts each label."
        )
    remarks += [
        f"Stage {stage.name} trains on pictures of {stage.image_size} x {stage.image_size} pixels; validation and test see those of"
        f" {' x '.join(map(str, typical_inputs(experiment)['pixel_values'].shape[2:]))}."
        for stage in experiment.stages
        if stage.image_size is not None
    ]
    if precision == "fp16":
        remarks.append("In fp16 numbers end at 65,504: gradients are scaled, and a step is skipped where they overflow still.")
    if recipe.run.gradient_checkpointing:
        remarks += _recomputing(experiment)
    if isinstance(recipe.data, ImageData) and recipe.data.augmented != "none":
        remarks.append(f"Augmentation, in training only: {recipe.data.augmented}.")
    if recipe.dropped:
        remarks.append(f"Dropout, in training only: {recipe.dropped}.")
    if recipe.run.tta != "none":
        views = VIEWS[recipe.run.tta]
        remarks.append(
            f"At the end validation and test are predicted once more by {views} views of each picture (run.tta={recipe.run.tta}),"
            f" which takes {views} times as long."
        )
    return build_plan(
        experiment.stages,
        classifier.model,
        classifier.chain,
        train_examples=len(experiment.splits.train),
        forward=experiment.forward,
        forward_of={stage.name: experiment.forward_of(stage) for stage in experiment.stages},
        flops_per_second=rate,
        recompute=recipe.run.gradient_checkpointing,
        cached=cached,
        padding_share=share,
        remarks=[
            *classifier.facts.get("remarks", ()),
            *content_of(recipe.data).costs(experiment.typical),
            *(line for stage in experiment.stages for line in _in_words(experiment, stage)),
            *remarks,
        ],
        understood=experiment.splits.facts["understood"],
    )


def _recomputing(experiment: Experiment) -> Iterator[str]:
    """For each stage what its layers keep of an example for the backward pass, with and without gradient checkpointing."""
    classifier, inputs = experiment.classifier, _two_examples(experiment)
    for stage in experiment.stages:
        now, otherwise = (
            kept_bytes(classifier.model, classifier.chain, stage.trains, inputs, recompute=recompute) / 2
            for recompute in (True, False)
        )
        if now == otherwise:
            yield f"Stage {stage.name} has nothing to gain from run.gradient_checkpointing: it keeps {size(now)} of an example."
        else:
            yield (
                f"Stage {stage.name} keeps about {size(now)} of an example for the backward pass instead of {size(otherwise)}, and"
                " the inside of one layer at a time (run.gradient_checkpointing), for about one more forward pass."
            )


def _in_words(experiment: Experiment, stage: ResolvedStage) -> Iterator[str]:
    """What a stage does for rare classes, with its numbers, and what a loss of two passes costs."""
    asked, names = experiment.recipe.stages[stage.name], experiment.splits.label_names

    def ends(values: Sequence[float]) -> str:
        low, high = int(np.argmin(values)), int(np.argmax(values))
        if values[low] == values[high]:
            return f"{values[low]:.3g} for every class alike"
        return f"from {values[low]:.3g} ({names[low]}) to {values[high]:.3g} ({names[high]})"

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
    if stage.loss.passes > 1:
        pieces = experiment.recipe.run.gradient_accumulation
        yield (
            f"Stage {stage.name} computes each example twice (loss {stage.loss.words}): that is twice the operations, and memory"
            f" for up to {2 * -(-stage.batch_size // pieces)} examples at once; run.gradient_accumulation={2 * pieces} halves it."
        )


def _cached_prefixes(experiment: Experiment, *, bf16: bool) -> tuple[dict[str, CachedPrefix], list[str]]:
    """For each stage what it keeps of its frozen prefix; and for those that could and do not, why."""
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
        train, validation = views * len(experiment.splits.train), len(experiment.splits.validation)
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


def _two_examples(experiment: Experiment) -> Mapping[str, torch.Tensor]:
    """Model inputs of two training examples, enough to see how the model uses them."""
    samples = experiment.typical
    return _inputs(samples, content_of(experiment.recipe.data).two_examples(samples))


def _inputs(samples: Samples, chosen: list[dict[str, Any]]) -> Mapping[str, torch.Tensor]:
    """What the model takes, on the CPU."""
    return samples.to_device(samples.collate(chosen), torch.device("cpu"))


def _check_stages(experiment: Experiment, source: str) -> None:
    """What would stop a later stage after hours, now: its layer groups, class weights, the validation metric, the augmentation."""
    recipe, splits = experiment.recipe, experiment.splits
    problems: list[Problem] = []
    try:
        experiment.stages  # noqa: B018  # resolved here first
    except RecipeError as error:
        problems += error.problems
    problems += _anew_and_frozen(experiment)
    target = experiment.classifier.target
    for name, stage in recipe.stages.items():
        assert not isinstance(stage.loss, str)  # it keeps the section
        try:
            check_loss(stage.loss, target)
            stage_weights(experiment, stage)
        except RecipeError as error:
            problems += [Problem(f"stages.{name}.{problem.where}", problem.what, problem.help) for problem in error.problems]
    if not problems:
        problems += [
            Problem(
                f"stages.{stage.name}.loss",
                '"r_drop" compares two passes whose dropout differs, and nothing that this stage trains drops anything',
                ("give the model some, such as model.dropout=0.1, or train more layers, or write another loss",),
            )
            for stage in experiment.stages
            if stage.loss.passes > 1 and not _passes_differ(experiment, stage)
        ]
    if recipe.run.metric not in (known := target_named(target).choosers):
        what = f'"{recipe.run.metric}" is not computed of {target.replace("_", " ")} an example'
        problems.append(Problem("run.metric", what, (f"metrics there are: {', '.join(known)}",)))
    of_validation = splits.target.counts(targets_of(splits.validation), splits.label_names)
    if recipe.run.metric == "auc" and target == ONE_LABEL and not of_validation.all():
        names = ", ".join(splits.label_names[index] for index in np.flatnonzero(of_validation == 0))
        problems.append(Problem("run.metric", f"auc is undefined: the validation split has no example of {names}"))
    problems += _wrong_sizes(experiment) if not problems else []
    try:
        make_samples(recipe, experiment.classifier, splits.train.select(range(1)), train=True)
    except RecipeError as error:
        problems += error.problems
    if recipe.run.gradient_checkpointing:
        try:
            check_recomputable(experiment.classifier.model, experiment.classifier.chain)
        except RecipeError as error:
            problems += error.problems
    try:
        check_views(recipe, experiment.typical, recipe.run.tta)
    except DataError as error:
        problems += [Problem("run.tta", problem.what, problem.help) for problem in error.problems]
    if problems:
        raise RecipeError(source, problems)


def _anew_and_frozen(experiment: Experiment) -> Iterator[Problem]:
    """What the first stage freezes of the layer groups that begin with random weights: noise would go through them."""
    (name, stage), chain = next(iter(experiment.recipe.stages.items())), experiment.classifier.chain
    anew = experiment.classifier.facts.get("reinitialized", ())
    try:
        frozen = [group for group in anew if group not in chain.select(stage.unfreeze)]
    except UnknownGroup:  # reported already
        return
    if frozen:
        what = f"freezes {', '.join(frozen)}, whose weights model.reinitialize has drawn anew: what is above would learn from noise"
        help = f'let it train "last {len(anew)}" or more, or leave model.reinitialize out'
        yield Problem(f"stages.{name}.unfreeze", what, (help,))


def _passes_differ(experiment: Experiment, stage: ResolvedStage) -> bool:
    """Whether anything is random in what the model makes of an example in a stage's training; the model stays as it is."""
    model, chain = experiment.classifier.model, experiment.classifier.chain
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    # Many rows: of two small ones dropout may leave everything in.
    inputs = {name: torch.cat([tensor] * 8) for name, tensor in _two_examples(experiment).items()}
    train_mode(model, chain, stage.trains)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second = (model(**inputs).logits for _ in range(2))
    model.eval()  # type: ignore[no-untyped-call]
    for name, tensor in model.named_buffers():  # BatchNorm's have taken these rows in
        tensor.copy_(buffers[name])
    return not torch.equal(first, second)


def _wrong_sizes(experiment: Experiment) -> Iterator[Problem]:
    """The stages whose pictures have a size that the network cannot take."""
    for stage in experiment.stages:
        if stage.image_size is not None and (reason := why_not(experiment.classifier, stage.image_size)) is not None:
            what = f"the network cannot take pictures of {stage.image_size} x {stage.image_size} pixels in one stage alone"
            help = (reason, "networks of convolutions take any size that is not too small; write data.image_size for all stages")
            yield Problem(f"stages.{stage.name}.image_size", what, help)


def typical_inputs(experiment: Experiment) -> Mapping[str, torch.Tensor]:
    """Model inputs of one example: a text of mean length (over 512 training texts), or a picture."""
    samples, index = experiment.typical, 0
    if samples.lengths is not None:
        index = int(np.abs(np.asarray(samples.lengths) - np.mean(samples.lengths)).argmin())
    return _inputs(samples, [samples[0, index]])


def facts(experiment: Experiment, samples: Samples) -> dict[str, Any]:
    """What data.json records: the splits, the lengths or sizes of what training sees, and the model's own facts."""
    content = content_of(experiment.recipe.data)
    return {**experiment.splits.facts, **content.facts(samples), "model": experiment.classifier.facts}


def audit(experiment: Experiment, samples: Mapping[str, Samples]) -> Audit:
    """What is worth knowing about the data of a run; `samples` are those of its splits that were made already.

    Raises:
        DataError: nearly every token of the training texts is unknown to the model.
    """
    recipe, splits, classifier = experiment.recipe, experiment.splits, experiment.classifier
    datasets: dict[Role, Dataset] = {"train": splits.train, "validation": splits.validation}
    if splits.test is not None:
        datasets["test"] = splits.test
    made = {role: samples[role] for role in datasets if role in samples}
    reading = content_of(recipe.data).reading(datasets, made, classifier.preprocessor, seed=recipe.run.seed)
    lengths = reading.lengths
    found = audit_splits(splits, lengths=lengths, vocabulary=classifier.facts.get("vocabulary"), tokens=reading.tokens)
    if lengths and lengths["train"]["share_unknown"] >= NOTHING_KNOWN:
        script = found.unknown_script()
        mostly = f", mostly {script}" if script else ""
        what = f"{100 * lengths['train']['share_unknown']:.1f} % of the tokens are unknown to the model{mostly}"
        help = ("nothing can be learned from texts that all look the same to it", found.way_out())
        raise DataError(recipe.data.source, [Problem('split "train"', what, help)])
    return found


@torch.inference_mode()
def serving_samples(experiment: Experiment, samples: Samples) -> ServingSamples:
    """Some validation examples as they came, with the logits of the trained model on the CPU, in float32, one by one."""
    dataset, model = experiment.splits.validation, experiment.classifier.model.eval()  # type: ignore[no-untyped-call]
    places = choose(np.asarray(samples.sizes).tolist())
    content = content_of(experiment.recipe.data)
    inputs: list[Any] = [content.original(samples, dataset, place) for place in places]
    logits = [model(**_inputs(samples, [samples[0, place]])).logits for place in places]
    return ServingSamples([samples.ids[place] for place in places], inputs, torch.cat(logits).float().numpy())


def show(experiment: Experiment, picture: Path) -> Iterator[str]:
    """What training will see, in lines; of pictures a PNG too, written to `picture`."""
    content, splits, recipe = content_of(experiment.recipe.data), experiment.splits, experiment.recipe
    steps = [
        MixedSteps(stage.name, stage.mix, stage.batch_size, stage.epochs_before + 1)
        for stage in experiment.stages
        if stage.mix is not None
    ]
    return content.show(
        splits.train,
        experiment.typical,
        experiment.classifier.preprocessor,
        seed=recipe.run.seed,
        picture=picture,
        steps=steps,
    )
