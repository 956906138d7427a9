"""An experiment ready to run: the recipe's data, model and preprocessing, introduced to each other.

Data and models never import each other; this is where they meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase, TimmWrapperImageProcessor

from hftl.data.audit import Audit, audit_splits
from hftl.data.image import ImageSamples, picture_facts, write_grid
from hftl.data.loader import Samples
from hftl.data.reading import Role
from hftl.data.source import Splits, load_splits
from hftl.data.text import TextSamples, text_facts
from hftl.errors import Problem, RecipeError
from hftl.evaluation.serving import ServingSamples, choose
from hftl.models import build_classifier
from hftl.models.classifier import Classifier
from hftl.recipe import ImageData, Recipe, TextData, check_places
from hftl.training.loss import class_weights
from hftl.training.machine import matrix_rate, mixed_precision
from hftl.training.plan import Plan, build_plan, forward_flops

# So many training texts tell the plan how long a typical one is.
TYPICAL = 512


@dataclass(frozen=True)
class Experiment:
    """Everything a stage needs, before anything is trained."""

    recipe: Recipe
    splits: Splits
    classifier: Classifier


def prepare_experiment(recipe: Recipe) -> Experiment:
    """Read the data and build the model; the seed is set before random weights are drawn.

    Raises:
        DataError, RecipeError: the data or the checkpoint cannot be used.
    """
    check_places(recipe)
    disable_progress_bars()  # of datasets: the run's own lines say what happens
    splits = load_splits(recipe.data, seed=recipe.run.seed)
    set_seed(recipe.run.seed)
    texts = splits.train["text"] if isinstance(recipe.data, TextData) else ()
    return Experiment(recipe, splits, build_classifier(recipe, splits.label_names, texts=texts))


def make_samples(recipe: Recipe, classifier: Classifier, dataset: Dataset, *, train: bool) -> Samples:
    """A split with the preprocessing of the classifier, and with the recipe's augmentation where `train`."""
    if isinstance(recipe.data, ImageData):
        assert isinstance(classifier.preprocessor, TimmWrapperImageProcessor)
        return ImageSamples(
            dataset,
            classifier.preprocessor,
            augmentation=recipe.data.augmentation,
            background=recipe.data.background,
            seed=recipe.run.seed,
            train=train,
        )
    assert isinstance(classifier.preprocessor, PreTrainedTokenizerBase)
    return TextSamples(dataset, classifier.preprocessor, max_length=recipe.data.max_length)


def class_counts(experiment: Experiment) -> list[int]:
    """Training examples of each class, in the order of the class names."""
    counts = Counter(experiment.splits.train["label"])
    return [counts[index] for index in range(len(experiment.splits.label_names))]


def make_plan(experiment: Experiment, *, source: str = "recipe", measure: torch.device | None = None) -> Plan:
    """The plan of an experiment; with `measure`, this device's matrix rate turns operations into a lower bound of the time.

    Raises:
        RecipeError: a stage names a layer group that the model does not have.
    """
    recipe, classifier = experiment.recipe, experiment.classifier
    _check_stages(experiment, source)
    rate = None if measure is None else matrix_rate(measure, mixed_precision(recipe.run, measure))
    return build_plan(
        recipe,
        classifier.model,
        classifier.chain,
        train_examples=len(experiment.splits.train),
        forward=forward_flops(classifier.model, classifier.chain, typical_inputs(experiment)),
        flops_per_second=rate,
        source=source,
    )


def _check_stages(experiment: Experiment, source: str) -> None:
    """What would stop a later stage after hours, now: class weights, the validation metric, the augmentation."""
    recipe, splits = experiment.recipe, experiment.splits
    problems: list[Problem] = []
    counts = class_counts(experiment)
    for name, stage in recipe.stages.items():
        try:
            class_weights(stage, counts, splits.label_names)
        except RecipeError as error:
            problems += [Problem(f"stages.{name}.{problem.where}", problem.what, problem.help) for problem in error.problems]
    missing = set(range(len(splits.label_names))) - set(splits.validation["label"])
    if recipe.run.metric == "auc" and missing:
        names = ", ".join(splits.label_names[index] for index in sorted(missing))
        problems.append(Problem("run.metric", f"auc is undefined: the validation split has no example of {names}"))
    if isinstance(recipe.data, ImageData):
        try:
            make_samples(recipe, experiment.classifier, splits.train.select(range(1)), train=True)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(source, problems)


def typical_inputs(experiment: Experiment) -> Mapping[str, torch.Tensor]:
    """Model inputs of one example: a text of mean length (over 512 training texts), or a picture."""
    recipe, classifier, train = experiment.recipe, experiment.classifier, experiment.splits.train
    samples = make_samples(recipe, classifier, train.select(range(min(TYPICAL, len(train)))), train=False)
    index = 0
    if samples.lengths is not None:
        mean = sum(samples.lengths) / len(samples.lengths)
        index = min(range(len(samples)), key=lambda i: abs(samples.lengths[i] - mean))  # type: ignore[index]
    inputs = samples.collate([samples[0, index]])
    return {name: tensor for name, tensor in inputs.items() if name not in {"labels", "index"}}


def facts(experiment: Experiment, samples: Samples) -> dict[str, Any]:
    """What data.json records: the splits, the lengths or sizes of what training sees, and the model's own facts."""
    recorded: dict[str, Any] = dict(experiment.splits.facts)
    if isinstance(samples, TextSamples):
        recorded["text"] = text_facts(samples)
    elif isinstance(samples, ImageSamples):
        recorded["image"] = picture_facts(samples)
    recorded["model"] = experiment.classifier.facts
    return recorded


def audit(experiment: Experiment, samples: Mapping[str, Samples]) -> Audit:
    """What is worth knowing about the data of a run; `samples` are those of its splits that were made already."""
    recipe, splits, classifier = experiment.recipe, experiment.splits, experiment.classifier
    lengths: dict[Role, dict[str, Any]] = {}
    if isinstance(recipe.data, TextData):
        datasets: dict[Role, Dataset | None] = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        for role, dataset in datasets.items():
            if dataset is not None:
                made = samples[role] if role in samples else make_samples(recipe, classifier, dataset, train=False)
                assert isinstance(made, TextSamples)
                lengths[role] = text_facts(made)
    return audit_splits(splits, lengths=lengths, vocabulary=classifier.facts.get("vocabulary"))


@torch.inference_mode()
def serving_samples(experiment: Experiment, samples: Samples) -> ServingSamples:
    """Some validation examples as they came, with the logits of the trained model on the CPU, in float32, one by one."""
    dataset, model = experiment.splits.validation, experiment.classifier.model.eval()  # type: ignore[no-untyped-call]
    places = choose(samples.sizes)
    inputs: list[Any] = []
    logits: list[torch.Tensor] = []
    for place in places:
        original = samples.original(place) if isinstance(samples, ImageSamples) else dataset[place]["text"]
        inputs.append(Path(original).read_bytes() if isinstance(samples, ImageSamples) and isinstance(original, str) else original)
        batch = samples.collate([samples[0, place]])
        logits.append(model(**{name: tensor for name, tensor in batch.items() if name not in {"labels", "index"}}).logits)
    return ServingSamples([samples.ids[place] for place in places], inputs, torch.cat(logits).float().numpy())


def write_augmentation_grid(experiment: Experiment, path: Path) -> None:
    """A PNG of what training will see: a row for each of some training pictures."""
    samples = make_samples(experiment.recipe, experiment.classifier, experiment.splits.train, train=True)
    assert isinstance(samples, ImageSamples)
    write_grid(samples, path)


def describe_texts(experiment: Experiment, *, texts: int = 5, tokens: int = 40) -> Iterator[str]:
    """Some training texts as the model reads them, and what the limit on length costs."""
    dataset = experiment.splits.train.select(range(min(TYPICAL, len(experiment.splits.train))))
    samples = make_samples(experiment.recipe, experiment.classifier, dataset, train=False)
    tokenizer = experiment.classifier.preprocessor
    assert isinstance(samples, TextSamples) and isinstance(tokenizer, PreTrainedTokenizerBase)
    for index in range(min(texts, len(samples))):
        ids = samples[0, index]["input_ids"]
        shown = " ".join(tokenizer.convert_ids_to_tokens(ids[:tokens])) + (" ..." if len(ids) > tokens else "")
        yield f"{samples.ids[index]}  {experiment.splits.label_names[samples.labels[index]]}  {len(ids)} tokens\n  {shown}\n"
    yield f"over {len(samples)} training texts: " + ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}" for name, value in text_facts(samples).items()
    )
