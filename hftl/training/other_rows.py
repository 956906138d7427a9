"""A finished run's model on other labelled rows: the same columns and classes, and none of the run's own numbers is touched.

What the rows are, which of them the run knows already, and what the model says about each is kept in the run's folder
evaluations/NAME, where the card and `hftl verify` find it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from datasets import disable_progress_bars

from hftl.data.labelled import LabelledRows, count_seen, load_labelled_rows
from hftl.data.layout import Role
from hftl.environment import now
from hftl.errors import RunError
from hftl.evaluation.evaluated import Evaluated
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.evaluation.views import Answers
from hftl.files import PARTIAL, flush, write_json
from hftl.memory import is_kept
from hftl.models import load_classifier
from hftl.names import Tta
from hftl.recipe import ImageData, Recipe, TextData, local_name
from hftl.records.data import read_data
from hftl.records.metrics import read_metrics
from hftl.run import RunDirectory, check_sealed, seal, sealed_files
from hftl.training.experiment import check_views, make_samples
from hftl.training.finish import predict_split
from hftl.training.machine import disk_errors, explain_dead_processes, make_accelerator
from hftl.training.rows_again import read_again
from hftl.training.together import main_first


@explain_dead_processes()
def evaluate_on(
    run: RunDirectory,
    data: Any,
    *,
    split: str | None,
    name: str | None,
    write: bool,
    say: Callable[[str], object],
    tta: Tta = "none",
) -> Evaluated:
    """Evaluate a finished run's model on all rows of a source that is not the run's own.

    Args:
        run: whose model.
        data: a source, as the recipe's section takes it, with the columns that the recipe names.
        split: which of the source's splits; None: it has one.
        name: what the evaluation is called; None: as the source is.
        write: into the run directory, which is one's own.
        say: is told what is worth knowing.
        tta: which views of each picture, for metrics of the mean of their probabilities beside the plain ones.

    Raises:
        RunError: the run is not finished, has an evaluation of that name, or the rows are those of its test split.
        DataError: the rows cannot be used, or have classes that the model does not know; or there are no such views of what the
            model reads.
    """
    run.check_finished("there is no model to evaluate")
    recipe, label_names = run.load_recipe(), stored_label_names(run.predictions("validation"))
    section = _section(recipe, data)
    name = name or _name_of(section, split)
    folder = run.evaluation(name)
    if write:
        check_sealed(run)
        if f"evaluations/{name}/metrics.json" in sealed_files(run):
            raise RunError(f'{run.path}: has an evaluation "{name}" already, which is never written over; give this one a --name')
    disable_progress_bars()
    accelerator = make_accelerator(recipe, run)
    classifier = load_classifier(run.model)
    with main_first():
        rows = load_labelled_rows(section, label_names, kind=classifier.target, split=split)
        seen, seen_unknown = _seen(run, rows)
        samples = make_samples(recipe, classifier, rows.dataset, train=False)
        check_views(recipe, samples, tta)
    _refuse_test_rows(run, rows, seen)
    model = accelerator.prepare_model(classifier.model.to(accelerator.device), evaluation_mode=True)
    predictions = predict_split(model, samples, recipe, accelerator, thresholds=classifier.thresholds)
    viewed = None
    if tta != "none":
        viewed = predict_split(model, samples, recipe, accelerator, thresholds=classifier.thresholds, tta=tta)
    metrics = Answers(predictions, viewed).metrics(label_names, skipped=len(rows.facts["skipped"]))
    facts = {"time": now(), **rows.facts, "seen": seen, **({} if seen_unknown is None else {"seen_unknown": seen_unknown})}
    if is_kept(str(facts["source"])):
        facts["source"] = "rows in memory"
    evaluated = Evaluated(name, metrics, predictions, label_names, facts=facts, folder=folder if write else None)
    if write and accelerator.is_main_process:
        with run.lock(), disk_errors(run):
            _write(run, evaluated, viewed)
    if not write:
        say(f"{run.path}: somebody else's run, which is left as it was published: nothing was written")
    accelerator.wait_for_everyone()
    return evaluated


def _section(recipe: Recipe, data: Any) -> TextData | ImageData:
    """The recipe's section for another source, all rows of it."""
    whole = dict.fromkeys(("revision", "config", "train_split", "validation_split", "test_split", "stream_samples"))
    whole["extra"] = None
    limits = dict.fromkeys(("max_train_samples", "max_validation_samples", "max_test_samples"))
    return type(recipe.data)(**{**recipe.data.model_dump(), **whole, **limits, "source": data})


def _name_of(section: TextData | ImageData, split: str | None) -> str:
    """ "new_month" of data/new_month.csv; with the split, where one was chosen."""
    source = "rows" if is_kept(section.source) else re.sub(r"\.\w+$", "", local_name(section.source).rpartition("/")[2])
    words = [re.sub(r"[^A-Za-z0-9_.-]+", "-", word).strip("-.") for word in (source, split or "")]
    return "-".join(filter(None, words))[:96] or "rows"


def _seen(run: RunDirectory, rows: LabelledRows) -> tuple[Mapping[Role, int] | None, str | None]:
    """How many of the rows are in each split of the run; or None, and why that is not known."""
    splits = read_again(run)
    return (None, splits) if isinstance(splits, str) else (count_seen(rows.fingerprints, splits), None)


def _refuse_test_rows(run: RunDirectory, rows: LabelledRows, seen: Mapping[Role, int] | None) -> None:
    """Refuse the run's own test split by another name: its openings are counted."""
    if rows.facts["contents"] == read_data(run).get("test_rows"):
        raise RunError(
            f"{run.path}: these are the rows of its own test split, whose openings are counted."
            f" Evaluate that with:  hftl evaluate {run.path} --split test"
        )
    if seen is not None and seen.get("test") and "test" not in read_metrics(run):
        raise RunError(
            f"{run.path}: {seen['test']:,} of these rows are in its test split, which is still sealed. Leave them out, or open it"
            f" first:  hftl test {run.path}"
        )


def _write(run: RunDirectory, evaluated: Evaluated, viewed: Predictions | None) -> None:
    """The folder appears whole, and is put on the manifest; what a killed process has left is removed."""
    folder = run.evaluation(evaluated.name)
    for left in [*folder.parent.glob(f".*{PARTIAL}"), folder]:  # a folder that is not on the manifest was never finished
        shutil.rmtree(left, ignore_errors=True)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    evaluated.stored.save(beside / "predictions.parquet", evaluated.label_names)
    if viewed is not None:
        viewed.save(beside / "views.parquet", evaluated.label_names)
    write_json(beside / "data.json", evaluated.facts)
    write_json(beside / "metrics.json", evaluated.metrics)
    flush(beside)
    beside.rename(folder)
    seal(run, folder)
