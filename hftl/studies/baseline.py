"""`hftl baseline`: what simple methods make of a recipe's rows, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hftl.data.source import Splits
from hftl.errors import RunError
from hftl.evaluation.baselines import Baseline, NoBaseline, Rows, color_baseline, feature_baselines, majority, text_baselines
from hftl.evaluation.intervals import LEVEL
from hftl.names import HEADLINES, METRICS
from hftl.recipe import Pretrained, Recipe, TextData
from hftl.studies.page import draw_shares, write_page, write_table
from hftl.studies.study import Question, StudyDirectory, open_study
from hftl.terminal import Say
from hftl.training.baseline import Drawn, answers_of, at_most, chooser, draw
from hftl.training.experiment import Experiment, make_samples, prepare_experiment
from hftl.training.features import frozen_features
from hftl.training.machine import make_accelerator

MOST_ROWS = 20_000
"""Training rows that the methods for texts and colours learn from; and validation rows that choose."""
MOST_FEATURES = 2_000
"""Training rows whose frozen features are computed; a network takes longer to look at a text than a count of words."""


@dataclass(frozen=True)
class Result:
    """What a baseline comes to on validation."""

    baseline: Baseline
    headline: float
    """By the metric of the kind of target: accuracy, or macro F1 of several labels an example."""
    low: float
    high: float
    """Of its 95 % interval."""
    value: float
    """By the recipe's metric, higher is better."""


def baseline(study: StudyDirectory, recipe: Recipe, *, source: str, say: Say) -> list[Baseline]:
    """Fit every baseline that fits the recipe, and write the study: a row each, the best by the recipe's metric named.

    Raises:
        RecipeError, DataError: the recipe cannot be used.
        RunError: the folder holds another study, or the training rows are of one class.
    """
    with open_study(study, recipe, Question("baseline", {})):
        experiment = prepare_experiment(recipe)
        data, seed, splits = experiment.recipe.data, experiment.recipe.run.seed, experiment.splits
        validation = draw(data, splits.validation, most=MOST_ROWS, seed=seed)
        train = draw(data, splits.train, most=MOST_ROWS, seed=seed)
        choose, headline = chooser(experiment.recipe, validation), HEADLINES[experiment.classifier.target]
        fitted, left_out = list[Result](), list[str]()
        try:
            for each in _every(experiment, train, validation, left_out, say):
                answers = answers_of(validation, each.logits).choose_thresholds()
                reached = answers.quick_metrics()[headline]
                low, high = answers.target.interval(answers, headline, level=LEVEL) or (reached, reached)
                fitted.append(Result(each, reached, low, high, choose(each.logits)))
                shown = f"{METRICS[headline].bare} {reached:.3f} [{low:.3f}, {high:.3f}]"
                say(f"{each.name}: {shown}, {_in_words(each)}{each.seconds:.1f} s")
        except NoBaseline as error:
            raise RunError(f"{source}: no baseline can be fitted: {error}") from None
        _write(study, recipe, splits, train, validation, fitted, left_out, headline=headline)
    return [each.baseline for each in fitted]


def _every(experiment: Experiment, train: Drawn, validation: Drawn, left_out: list[str], say: Say) -> Iterator[Baseline]:
    recipe, splits = experiment.recipe, experiment.splits
    classes, choose = len(splits.label_names), chooser(recipe, validation)
    yield majority(train.rows, validation.rows, classes=classes)
    if isinstance(recipe.data, TextData):
        yield from text_baselines(train.rows, validation.rows, classes=classes, choose=choose)
    else:
        yield color_baseline(train.rows, validation.rows, classes=classes, choose=choose)
    if not isinstance(recipe.model, Pretrained):
        left_out.append("frozen features: its network has none before it is trained")
        return
    began = time.perf_counter()
    features = _features(experiment, validation, say)
    say(f"frozen features of {len(next(iter(features.values()))[0].labels):,} training rows: {time.perf_counter() - began:.1f} s")
    yield from feature_baselines(features, classes=classes, choose=choose)


def _features(experiment: Experiment, validation: Drawn, say: Say) -> dict[str, tuple[Rows, Rows]]:
    """For each kind of frozen features the rows of both splits."""
    recipe, splits = experiment.recipe, experiment.splits
    accelerator = make_accelerator(recipe, None)
    found: dict[str, list[Rows]] = {}
    for dataset, most in ((splits.train, MOST_FEATURES), (splits.validation, MOST_ROWS)):
        rows = at_most(dataset, most, seed=recipe.run.seed)
        samples = make_samples(recipe, experiment.classifier, rows, train=False)
        for kind, values in frozen_features(experiment, samples, accelerator, say=say).items():
            found.setdefault(kind, []).append(Rows(values, samples.targets.astype(np.int64), samples.weights))
    return {kind: (rows[0], rows[1]) for kind, rows in found.items()}


def _in_words(each: Baseline) -> str:
    """ "C 10, terms 6908, "."""
    return "".join(f"{key} {value:g}, " if isinstance(value, float) else f"{key} {value}, " for key, value in each.choice.items())


def _write(
    study: StudyDirectory,
    recipe: Recipe,
    splits: Splits,
    train: Drawn,
    validation: Drawn,
    fitted: list[Result],
    left_out: list[str],
    *,
    headline: str,
) -> None:
    best = max(fitted, key=lambda result: result.value).baseline
    n = len(validation.ids)
    rows, drawn, shown = [], [], [["baseline", "choice", METRICS[headline].bare, "95 %", "seconds"]]
    for result in fitted:
        each, reached, low, high = result.baseline, result.headline, result.low, result.high
        choice = _in_words(each).removesuffix(", ")
        rows.append(
            {
                "baseline": each.name,
                "choice": choice,
                headline: reached,
                "low": low,
                "high": high,
                "seconds": round(each.seconds, 2),
            }
        )
        drawn.append((each.name, reached, low, high))
        shown.append([each.name, choice, f"{reached:.3f}", f"{low:.3f} to {high:.3f}", f"{each.seconds:.1f}"])
    write_table(study, pd.DataFrame(rows))
    sentences = [
        f"On validation, n = {n:,}, {best.name} is the best by {METRICS[recipe.run.chooser]}. Each had its settings chosen"
        " by these rows, so its number is likely a little too good; the test split stayed shut.",
        f"{len(train.ids):,} of {len(splits.train):,} training rows; for frozen features at most {MOST_FEATURES:,}.",
        "A model is worth its cost where it is better than this: hftl train says so for the cheapest of them.",
        *left_out,
    ]
    draw_shares(study, drawn, metric=headline)
    write_page(
        study,
        title=f"Baselines for {recipe.name}",
        sentences=sentences,
        table=shown,
        figures=(f"{headline}.png",),
        holds="table.csv has a row for each baseline.",
    )
