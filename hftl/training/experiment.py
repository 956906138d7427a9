"""An experiment ready to run: the recipe's data, model and preprocessing, introduced to each other.

Data and models never import each other; this is where they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, disable_progress_bars

from hftl.data.audit import NOTHING_KNOWN, Audit, audit_splits
from hftl.data.content import MixedSteps, content_of
from hftl.data.inputs import Say
from hftl.data.layout import Role
from hftl.data.loader import Samples
from hftl.data.source import Splits, Undivided, read_undivided
from hftl.data.targets import kind_of, targets_of, weights_of
from hftl.data.unlabelled import check_unlabelled, read_unlabelled, with_unlabelled
from hftl.errors import DataError, Problem
from hftl.evaluation.serving import ServingSamples, choose
from hftl.facts import settle
from hftl.models import build_classifier
from hftl.models.boundary import Boundary, NotSeparable, activation_shape, find_boundary
from hftl.models.family import Classifier
from hftl.models.image_size import grey, preprocessor_at
from hftl.models.transformer import output_layer
from hftl.names import HEADLINES, Tta
from hftl.recipe import ImageData, Recipe, Stage, TextData, check_places, judged
from hftl.records.data import Provenance
from hftl.terminal import tell
from hftl.training.costs import forward_flops, step_flops
from hftl.training.loss import ExampleLoss, TeacherLoss, class_weights, make_loss
from hftl.training.origin import base_record
from hftl.training.resolved import ResolvedStage, resolve_stages
from hftl.training.stage import train_mode
from hftl.training.teacher import Answers, KnownTeacher, ask, find_teacher

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
    """Lines about the facts that do not hold, for people."""
    unlabelled: Dataset | None = None
    """Texts that are learned from by a teacher's answers alone."""
    teacher: KnownTeacher | None = None

    @cached_property
    def rows(self) -> Dataset:
        """What is trained on: the rows of train, and behind them those without a label."""
        train = self.splits.train
        return train if self.unlabelled is None else with_unlabelled(train, self.unlabelled)

    @cached_property
    def samples(self) -> dict[str, Samples]:
        """Training and validation split as the model takes them."""
        return {
            "train": make_samples(self.recipe, self.classifier, self.rows, train=True),
            "validation": make_samples(self.recipe, self.classifier, self.splits.validation, train=False),
        }

    def training_samples(self, stage: ResolvedStage) -> Samples:
        """The training split as a stage takes it: pictures of its own size."""
        side = stage.image_size
        if side is None:
            return self.samples["train"]
        if side not in self.samples_at:
            self.samples_at[side] = make_samples(self.recipe, self.classifier, self.rows, train=True, image_size=side)
        return self.samples_at[side]

    @cached_property
    def samples_at(self) -> dict[int, Samples]:
        """Side in pixels -> training pictures of that size; `training_samples` adds those that a stage asks for."""
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
        """Side in pixels -> `forward` of pictures of that size; `forward_of` adds those that it counts."""
        return {}

    def adapters_of(self, stage: ResolvedStage) -> dict[str, int]:
        """What the adapters of a stage compute forward of a typical example, by layer group; of a stage without them nothing."""
        if stage.adapters is None:
            return {}
        model, chain = stage.copy_of(self.classifier.model, self.classifier.chain)
        inputs = typical_inputs(self) if stage.image_size is None else grey(self.classifier, stage.image_size)
        both, forward = forward_flops(model, chain, inputs), self.forward_of(stage)
        return {group: both[group] - forward[group] for group in stage.adapters.modules}

    def step_flops(self, stage: ResolvedStage) -> int:
        """Operations of a stage's training step on a typical example."""
        return step_flops(self.forward_of(stage), stage.trains, adapters=self.adapters_of(stage))

    def training_boundary(self, stage: ResolvedStage) -> Boundary | None:
        """The boundary of a stage at the size of its training examples; None: it has none, or none is known."""
        boundary = self.boundaries.get(stage.name)
        if not isinstance(boundary, Boundary):
            return None
        if stage.image_size is None:
            return boundary
        inputs = grey(self.classifier, stage.image_size)
        return replace(boundary, shape=activation_shape(self.classifier.model, boundary, inputs))

    @cached_property
    def output_layer(self) -> str:
        """Name of the layer that gives the logits.

        Raises:
            RecipeError: it is not a linear layer with one output a class.
        """
        model, inputs = self.classifier.model, two_examples(self)
        return output_layer(model, self.classifier.chain, lambda: model(**inputs))

    @cached_property
    def stages(self) -> tuple[ResolvedStage, ...]:
        """The recipe's stages on this model and these data: what the plan shows and the engine trains.

        Raises:
            RecipeError: a stage names a layer group that the model does not have.
        """
        model, chain = self.classifier.model, self.classifier.chain
        return resolve_stages(self.recipe, model, chain, train_examples=len(self.rows), run=lambda: model(**typical_inputs(self)))

    @cached_property
    def boundaries(self) -> dict[str, Boundary | NotSeparable]:
        """The boundary of each stage whose frozen layers compute anything, or why none is known."""
        model, chain = self.classifier.model, self.classifier.chain
        boundaries: dict[str, Boundary | NotSeparable] = {}
        inputs = two_examples(self)
        for stage in self.stages:
            prefix = chain.names[: chain.names.index(stage.trains[0])]
            if sum(self.forward[group] for group in prefix):  # a lookup of words costs less than reading what it gave
                if stage.trains not in self.boundary_below:
                    train_mode(model, chain, stage.trains)
                    try:
                        self.boundary_below[stage.trains] = find_boundary(model, chain, stage.trains, inputs)
                    except NotSeparable as error:
                        self.boundary_below[stage.trains] = error
                boundaries[stage.name] = self.boundary_below[stage.trains]
        model.eval()  # type: ignore[no-untyped-call]
        return boundaries

    @cached_property
    def boundary_below(self) -> dict[tuple[str, ...], Boundary | NotSeparable]:
        """Training groups -> the boundary below them; `boundaries` adds those of its stages."""
        return {}

    @cached_property
    def answers(self) -> list[Answers]:
        """The teacher's, once `teacher_answers` has asked for them."""
        return []

    @cached_property
    def base(self) -> dict[str, Any]:
        """What the model starts from, see `hftl.training.origin.base_record`; to be read before anything is trained."""
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

        What was computed of data and model stays: a study reads, checks and tokenises the data once for all trials that share them.
        """
        settled, said = settle(recipe, _provenance(self.splits, self.classifier))
        settled = judged(settled, HEADLINES[self.classifier.target])
        other = replace(self, recipe=settled, asked=settled, said_of_facts=said)
        shared = (  # what depends on data and model alone
            "samples",
            "samples_at",
            "typical",
            "forward",
            "forward_at",
            "boundary_below",
            "base",
            "findings",
            "rows",
            "answers",
        )
        vars(other).update({name: vars(self)[name] for name in shared if name in vars(self)})
        return other


def read_data(recipe: Recipe) -> Undivided:
    """Read and check a recipe's source.

    Raises:
        DataError, RecipeError: it cannot be used, or lies on another machine; or `data.unlabelled` names nothing.
    """
    check_places(recipe)
    disable_progress_bars()  # of datasets: the run's own lines say what happens
    undivided = read_undivided(recipe.data)
    check_unlabelled(recipe.data, undivided)
    return undivided


def judged_by_its_data(recipe: Recipe, *, read: Callable[[], Undivided] | None = None) -> Recipe:
    """The recipe with the metric that picks the weights, where it leaves that to the data, which are read to know it.

    Args:
        recipe: which.
        read: gives its data where somebody has read them; None: `read_data`.

    Raises:
        DataError, RecipeError: as `read_data`.
    """
    if recipe.run.metric != "auto":
        return recipe
    undivided = read_data(recipe) if read is None else read()
    return judged(recipe, HEADLINES[kind_of(undivided.targets.of_rows["train"])])


def prepare_experiment(recipe: Recipe, *, splits: Splits | None = None) -> Experiment:
    """Read the data and build the model; the seed is set before random weights are drawn.

    Args:
        recipe: what would be trained.
        splits: the recipe's data, where they have been read already.

    Raises:
        DataError, RecipeError: the data or the checkpoint cannot be used, its teacher may not teach it, or a fact of the card
            contradicts them.
        RunError: its teacher's files are not as they were sealed.
    """
    unlabelled = None
    if splits is None or recipe.learns_unlabelled:
        undivided = read_data(recipe)
        splits = splits or undivided.divided(recipe.data, seed=recipe.run.seed)
        if recipe.learns_unlabelled:
            assert isinstance(recipe.data, TextData)
            unlabelled = read_unlabelled(recipe.data, undivided, splits, lambda line: None)[-1].dataset
    set_seed(recipe.run.seed)
    classifier = build_classifier(
        recipe,
        splits.label_names,
        texts=content_of(recipe.data).words(splits.train),
        target=kind_of(targets_of(splits.train)),
    )
    classifier = _with_channel_numbers(recipe, classifier, splits.train)
    settled, said = settle(recipe, _provenance(splits, classifier))
    settled = judged(settled, HEADLINES[classifier.target])
    teacher = None
    if recipe.teacher is not None:
        teacher = find_teacher(recipe, splits, unlabelled, target=classifier.target)
    return Experiment(settled, splits, classifier, settled, said, unlabelled, teacher)


def teacher_answers(experiment: Experiment, accelerator: Accelerator, say: Say = tell) -> Answers | None:
    """What the teacher answers to the training rows, asked for once; None: there is no teacher. Called by every process.

    Raises:
        RecipeError, RunError, Stopped: see `hftl.training.teacher.ask`.
    """
    if experiment.teacher is None:
        return None
    if not experiment.answers:
        main = accelerator.is_main_process
        found = ask(experiment.teacher, experiment.rows, accelerator, say if main else lambda line: None)
        experiment.answers.append(found)
    return experiment.answers[0]


def teacher_loss(experiment: Experiment, accelerator: Accelerator) -> TeacherLoss | None:
    """How a stage learns from its teacher; None: there is none."""
    answers, section = teacher_answers(experiment, accelerator), experiment.recipe.teacher
    if answers is None or section is None:
        return None
    rows = torch.from_numpy(answers.rows).to(accelerator.device)
    labelled, target = len(experiment.splits.train), experiment.classifier.target
    return TeacherLoss(rows, labelled, section.temperature, section.weight, target)


def _with_channel_numbers(recipe: Recipe, classifier: Classifier, train: Dataset) -> Classifier:
    """The classifier with mean and deviation of bands that its checkpoint does not know; another as it is."""
    if not isinstance(recipe.data, ImageData) or recipe.data.bands is None:
        return classifier
    from hftl.models.vision import awaits_channel_numbers, with_channel_numbers  # no other model needs timm

    numbers = content_of(recipe.data).channel_numbers(train) if awaits_channel_numbers(classifier) else None
    return classifier if numbers is None else with_channel_numbers(classifier, *numbers)


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


def class_counts(experiment: Experiment) -> list[float]:
    """Training examples of each class, in the order of the class names; one of `data.extra` counts as much as it weighs."""
    splits, weights = experiment.splits, weights_of(experiment.splits.train)
    targets = targets_of(splits.train)
    if weights is None:
        counts = splits.target.counts(targets, splits.label_names)
    elif targets.ndim == 1:
        counts = np.bincount(targets, weights, minlength=len(splits.label_names))
    else:
        counts = weights @ (targets > 0)
    return [float(number) for number in counts]


def stage_weights(experiment: Experiment, stage: Stage) -> torch.Tensor | None:
    """Weight of each class in a stage, see `hftl.training.loss.class_weights`.

    Raises:
        RecipeError: they cannot be made.
    """
    splits = experiment.splits
    target, weights = experiment.classifier.target, weights_of(splits.train)
    examples = float(len(splits.train) if weights is None else weights.sum())
    return class_weights(stage, class_counts(experiment), splits.label_names, target=target, examples=examples)


def stage_loss(experiment: Experiment, stage: ResolvedStage) -> ExampleLoss:
    """The loss that a stage minimises, see `hftl.training.loss.make_loss`."""
    return make_loss(
        stage.loss,
        stage_weights(experiment, experiment.recipe.stages[stage.name]),
        target=experiment.classifier.target,
        class_counts=class_counts(experiment),
    )


def two_examples(experiment: Experiment) -> Mapping[str, torch.Tensor]:
    """Model inputs of two training examples, enough to see how the model uses them."""
    samples = experiment.typical
    return _inputs(samples, content_of(experiment.recipe.data).two_examples(samples))


def _inputs(samples: Samples, chosen: list[dict[str, Any]]) -> Mapping[str, torch.Tensor]:
    """What the model takes, on the CPU."""
    return samples.to_device(samples.collate(chosen), torch.device("cpu"))


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
    """What is worth knowing about the data of a run; `samples` are those of the splits whose samples exist already.

    Raises:
        DataError: nearly every token of the training texts is unknown to the model.
    """
    recipe, splits, classifier = experiment.recipe, experiment.splits, experiment.classifier
    datasets: dict[Role, Dataset] = {"train": splits.train, "validation": splits.validation}
    if splits.test is not None:
        datasets["test"] = splits.test
    existing = {role: samples[role] for role in datasets if role in samples}
    reading = content_of(recipe.data).reading(datasets, existing, classifier.preprocessor, seed=recipe.run.seed)
    lengths = reading.lengths
    report = audit_splits(splits, lengths=lengths, vocabulary=classifier.facts.get("vocabulary"), tokens=reading.tokens)
    if lengths and lengths["train"]["share_unknown"] >= NOTHING_KNOWN:
        script = report.unknown_script()
        mostly = f", mostly {script}" if script else ""
        what = f"{100 * lengths['train']['share_unknown']:.1f} % of the tokens are unknown to the model{mostly}"
        help = ("nothing can be learned from texts that all look the same to it", report.way_out())
        raise DataError(recipe.data.source, [Problem('split "train"', what, help)])
    return report


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
