"""The baseline beside a run: the cheapest honest one, on the same rows, so that a card says what the model gains over it.

For texts TF-IDF of words, for pictures a histogram of colours, both into logistic regression: fitted on the training rows, its one
setting chosen on validation, in seconds. It sees the test split in the opening in which the model sees it, and no other. Where it
cannot be fitted, the reason is written down instead.

At most `MOST_ROWS` rows of each split take part, drawn by the run's seed. The same rows and the same recipe give the same answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from hftl.data.columns import Strings
from hftl.data.source import Splits
from hftl.data.targets import kind_of, targets_of, weights_of
from hftl.errors import DataError, HftlError
from hftl.evaluation.baselines import (
    SIDE,
    Baseline,
    Choose,
    NoBaseline,
    Rows,
    cheap_text_baseline,
    color_baseline,
    color_histogram,
)
from hftl.evaluation.gain import gain, in_words
from hftl.evaluation.predictions import Predictions
from hftl.files import write_json
from hftl.names import as_rank
from hftl.recipe import ImageData, Recipe, TextData
from hftl.records.baseline import read_baseline
from hftl.run import RunDirectory

MOST_ROWS = 20_000
"""Of each split; a baseline beside 22,500 reviews of IMDb takes under a minute so."""


@dataclass(frozen=True)
class Drawn:
    """Rows of a split that a baseline looks at."""

    ids: list[str]
    rows: Rows


def at_most(dataset: Dataset, most: int, *, seed: int) -> Dataset:
    """So many rows of a split, drawn by the seed, in their order; all where there are no more."""
    if len(dataset) <= most:
        return dataset
    return dataset.select(np.sort(np.random.default_rng(seed).permutation(len(dataset))[:most]))


def draw(data: TextData | ImageData, dataset: Dataset, *, most: int, seed: int) -> Drawn:
    """At most so many rows of a split, with their texts, or the histograms of their colours.

    Raises:
        HftlError: a picture cannot be read any more.
    """
    dataset = at_most(dataset, most, seed=seed)
    contents = list(Strings(dataset, "text")) if isinstance(data, TextData) else _histograms(data, dataset)
    return Drawn(list(Strings(dataset, "id")), Rows(contents, targets_of(dataset).astype(np.int64), weights_of(dataset)))


def _histograms(data: ImageData, dataset: Dataset) -> np.ndarray:
    """(N, 512) of pictures that are decoded small where their format can do that."""
    from hftl.data.decoding import decode

    if data.bands is not None:
        what = f"its pictures have {data.bands} bands and no colours, of which a baseline would count"
        raise DataError.single("data.bands", what, "run.baseline=none leaves it out", source="the baseline")
    pictures = dataset.select_columns("image")

    def histogram(row: int) -> np.ndarray:
        stored = pictures[row]["image"]
        source = stored["bytes"] if stored["bytes"] is not None else stored["path"]
        return color_histogram(np.asarray(decode(source, background=data.background, at_least=SIDE)))

    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        return np.stack(list(pool.map(histogram, range(len(pictures)))))


def chooser(recipe: Recipe, validation: Drawn) -> Choose:
    """How good answers to these rows are, by the metric of the recipe; accuracy where they lack a class that it needs."""
    metric = recipe.run.chooser

    def choose(logits: np.ndarray) -> float:
        values = answers_of(validation, logits).quick_metrics()
        name = metric if metric in values else "accuracy"
        return as_rank(name, values[name])

    return choose


def answers_of(drawn: Drawn, logits: np.ndarray) -> Predictions:
    """What a baseline's logits answer to the rows."""
    return Predictions(drawn.ids, drawn.rows.labels, logits, kind=kind_of(drawn.rows.labels))


def cheapest(recipe: Recipe, train: Drawn, validation: Drawn, *, classes: int) -> Baseline:
    """The baseline that is run beside every training.

    Raises:
        NoBaseline: these rows allow none.
    """
    fit = cheap_text_baseline if isinstance(recipe.data, TextData) else color_baseline
    return fit(train.rows, validation.rows, classes=classes, choose=chooser(recipe, validation))


def run_beside(recipe: Recipe, splits: Splits, run: RunDirectory, predictions: Mapping[str, Predictions]) -> None:
    """Answer the splits of which the run has predictions with the cheapest baseline, once; baseline/ has the answers.

    Args:
        predictions: of the model, by split; test among them where it has been opened.
    """
    if recipe.run.baseline == "none" or _is_done(run, predictions):
        return
    given: dict[str, Dataset | None] = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    datasets = {split: dataset for split, dataset in given.items() if dataset is not None and split in {"train", *predictions}}
    began = time.perf_counter()
    try:
        drawn = {split: draw(recipe.data, dataset, most=MOST_ROWS, seed=recipe.run.seed) for split, dataset in datasets.items()}
        fitted = cheapest(recipe, drawn["train"], drawn["validation"], classes=len(splits.label_names))
    except (NoBaseline, HftlError) as error:
        write_json(run.baseline, {"reason": " ".join(str(error).split())})
        return
    answers: dict[str, Any] = {"validation": fitted.logits}
    if "test" in drawn:
        answers["test"] = fitted.answer(drawn["test"].rows.contents)
    gains, chosen = {}, answers_of(drawn["validation"], fitted.logits).choose_thresholds()
    for split, logits in answers.items():
        path = run.baseline_predictions(split)
        if run.finished and path.is_file():  # of validation, when test is opened later: sealed, and what is on record
            own = Predictions.load(path)
        else:
            own = replace(answers_of(drawn[split], logits), thresholds=chosen.thresholds)
            path.parent.mkdir(parents=True, exist_ok=True)
            own.save(path, splits.label_names)
        gains[split] = gain(predictions[split], own)
    record = {
        "name": fitted.name,
        "choice": dict(fitted.choice),
        "training_rows": len(drawn["train"].ids),
        "seconds": round(time.perf_counter() - began, 1),
        "gains": gains,
    }
    write_json(run.baseline, record)


def _is_done(run: RunDirectory, predictions: Mapping[str, Predictions]) -> bool:
    """An earlier call has answered the same splits for the same answers of the model, or said why it cannot."""
    record = read_baseline(run)
    if record is None or "gains" not in record:
        return record is not None
    return set(record["gains"]) == set(predictions) and all(
        run.baseline_predictions(split).is_file()
        and record["gains"][split] == gain(predicted, Predictions.load(run.baseline_predictions(split)))
        for split, predicted in predictions.items()
    )


def said(run: RunDirectory) -> list[str]:
    """What the baseline says of the model, in a line; nothing where there is none."""
    record = read_baseline(run)
    return [] if record is None else in_words(record)
