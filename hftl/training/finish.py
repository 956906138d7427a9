"""The end of a run: predict validation and test once, save the model, and write what follows from the predictions.

metrics.json comes last of all but the card: a run that has it is finished.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from accelerate import Accelerator
from torch import nn

from hftl.data.content import content_of
from hftl.data.loader import Samples, evaluation_batches
from hftl.data.source import Splits
from hftl.data.targets import kind_of
from hftl.evaluation.openings import count_openings, said_of_openings
from hftl.evaluation.predict import predict_logits
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.evaluation.report import write_figures
from hftl.evaluation.targets import Thresholds, target_named
from hftl.evaluation.views import Answers, load_viewed, said_of_views
from hftl.files import write_json
from hftl.ledger import note_opening
from hftl.models import save_classifier
from hftl.names import VIEWS, Tta
from hftl.recipe import ImageData, Recipe, TextData
from hftl.records.data import DataRecord, read_data
from hftl.records.metrics import read_metrics
from hftl.records.openings import Purpose, read_openings, read_test_ledger
from hftl.run import RunDirectory, write_manifest
from hftl.training import trackers
from hftl.training.baseline import run_beside, said
from hftl.training.cache import loader_processes
from hftl.training.experiment import Experiment, make_samples, serving_samples
from hftl.training.machine import evaluation_batch_size, tokens_per_batch
from hftl.training.open_run import OpenRun
from hftl.training.sessions import count_sessions, record_session
from hftl.training.teacher import compare_with_teacher
from hftl.training.together import main_first


def finish(experiment: Experiment, run: OpenRun, *, open_test: bool) -> None:
    """Predict validation and, with `open_test`, the test split, once; save the model and what belongs to it.

    Where `run.tta` asks for several views of each picture, both are predicted by these as well, test in the same opening.

    The weights are those that `fit` has left in the experiment's model. metrics.json marks the run as finished.
    """
    recipe, splits, validation = experiment.recipe, experiment.splits, experiment.samples["validation"]
    directory, accelerator, journal, progress = run.directory, run.accelerator, run.journal, run.progress
    model = accelerator.prepare_model(copy.deepcopy(experiment.classifier.model).to(accelerator.device), evaluation_mode=True)
    chosen = predict_split(model, validation, recipe, accelerator, run.stop_if_asked).choose_thresholds()
    experiment.classifier.choose(chosen.thresholds)

    def by_views(samples: Samples) -> Predictions | None:
        if recipe.run.tta == "none":
            return None
        at = chosen.thresholds
        return predict_split(model, samples, recipe, accelerator, run.stop_if_asked, thresholds=at, tta=recipe.run.tta)

    predictions, viewed = {"validation": chosen}, {"validation": by_views(validation)}
    if splits.test is not None and open_test:
        if directory.predictions("test").is_file():
            # A run that was stopped after it had opened test does not open it again.
            predictions["test"] = Predictions.load(directory.predictions("test"))
            viewed["test"] = load_viewed(directory.viewed_predictions("test"))
        else:
            with main_first():
                test = make_samples(recipe, experiment.classifier, splits.test, train=False)
            if accelerator.is_main_process:
                write_opening(directory, splits, by="hftl train", purpose="train", say=journal.say)
            predictions["test"] = predict_split(model, test, recipe, accelerator, run.stop_if_asked, thresholds=chosen.thresholds)
            viewed["test"] = by_views(test)
    if accelerator.is_main_process:
        for split, predicted in predictions.items():
            # First those by views: where the plain ones are there, a run that is continued finds both.
            if (beside := viewed[split]) is not None:
                beside.save(directory.viewed_predictions(split), splits.label_names)
            predicted.save(directory.predictions(split), splits.label_names)
        shutil.rmtree(directory.model, ignore_errors=True)  # what a kill has left of an earlier save would be sealed with it
        save_classifier(experiment.classifier, directory.model)
        serving_samples(experiment, validation).save(directory.serving)
        joules = None if progress.spent.cpu_joules is None else round(progress.spent.cpu_joules)
        cost = {"seconds": round(progress.spent.seconds, 1), "cpu_energy_joules": joules, "sessions": count_sessions(directory)}
        if accelerator.scaler is not None:
            cost["skipped_steps"] = progress.spent.skipped
        record_session(directory, accelerator, afresh=False, **cost)
        run_beside(recipe, splits, directory, predictions)
        conclude(directory, predictions, say=journal.say)
        trackers.results(accelerator, read_metrics(directory), directory.figures, step=progress.cursor.step)
        shutil.rmtree(directory.checkpoints, ignore_errors=True)  # model/ has the best weights, and a finished run is not continued
        if splits.test is not None and "test" not in predictions:
            journal.say(f"the test split stays shut (n = {len(splits.test):,}); to open it, once:  hftl test {directory.path}")
    accelerator.wait_for_everyone()
    seconds = round(time.perf_counter() - run.started, 2)
    journal.record("finished", seconds=seconds, training_seconds=round(progress.spent.seconds, 2))


def predict_split(
    model: nn.Module,
    samples: Samples,
    recipe: Recipe,
    accelerator: Accelerator,
    after_batch: Callable[[], None] | None = None,
    *,
    thresholds: Thresholds = None,
    tta: Tta = "none",
) -> Predictions:
    """What a model says about every example of a split, on every process; `after_batch` is called after each of its batches.

    With `tta` it is the mean of the probabilities of several views of each picture, of which a batch has as many as it has pictures
    otherwise.
    """
    kind, views = kind_of(samples.targets), VIEWS.get(tta, 1)
    if views > 1:
        samples = content_of(recipe.data).views(samples, tta)
    batches = evaluation_batches(
        samples,
        batch_size=max(1, evaluation_batch_size(recipe) // views),
        tokens_per_batch=tokens_per_batch(recipe, accelerator.device),
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
        workers=loader_processes(samples, recipe, accelerator),
    )
    fuse = target_named(kind).fused if views > 1 else None
    logits = predict_logits(model, batches, accelerator, size=len(samples), after_batch=after_batch, fuse=fuse)
    labels, sizes = samples.targets.astype(np.int64), np.asarray(samples.sizes, dtype=np.int64)
    return Predictions(
        list(samples.ids),
        labels,
        logits,
        sizes=sizes,
        size_unit=samples.size_unit,
        kind=kind,
        thresholds=thresholds,
        views=None if tta == "none" else tta,
    )


def write_opening(run: RunDirectory, splits: Splits, *, by: str, purpose: Purpose, say: Callable[[str], object]) -> None:
    """Write an opening of the test split down before the split is looked at; one that was cut short is continued."""
    cut_short = bool(read_openings(run)) and not (run.finished and "test" in read_metrics(run))
    problem = note_opening(run, rows=splits.facts["test_rows"], by=f"{by}, continued" if cut_short else by, purpose=purpose)
    if problem is not None:
        say(problem)


def conclude(run: RunDirectory, predictions: Mapping[str, Predictions], *, say: Callable[[str], object]) -> None:
    """Write what follows from the predictions of a run, metrics.json last, and say how good the model is and where it is worst."""
    write_manifest(run)
    if (problem := count_openings(run)) is not None:
        say(problem)
    data, label_names = read_data(run), stored_label_names(run.predictions("validation"))
    skipped = Counter(row["split"] for row in data["skipped"])
    metrics = {
        split: Answers(predicted, load_viewed(run.viewed_predictions(split))).metrics(label_names, skipped=skipped[split])
        for split, predicted in predictions.items()
    }
    of_teacher = compare_with_teacher(run)
    write_figures(run, metrics)
    write_json(run.metrics, metrics)
    recipe = run.load_recipe()
    last = list(recipe.stages.values())[-1]
    for line in predictions["validation"].target.verdict(
        metrics,
        openings=read_test_ledger(run),
        stage=list(recipe.stages)[-1],
        weighted=last.class_weights is not None or bool(last.for_rare_classes),
        enlarge=_key_of_validation(recipe.data, data, n=metrics["validation"]["n"]),
    ):
        say(line)
    for line in (*said_of_views(metrics), *said(run), *of_teacher, *said_of_openings(run)):
        say(line)


def _key_of_validation(section: TextData | ImageData, data: DataRecord, *, n: int) -> str | None:
    """The key that makes a validation split of n rows larger; None: it is the source's own, and whole."""
    if section.max_validation_samples == n:
        return "data.max_validation_samples"
    return None if data["validation"] == "given" else "data.validation_fraction"
