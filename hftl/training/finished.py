"""A finished run again: complete what it lacks, open its sealed test split, evaluate its saved model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import nullcontext

from datasets import disable_progress_bars

from hftl.data.source import load_splits
from hftl.errors import RecipeError, RunError
from hftl.evaluation.openings import count_openings
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.evaluation.report import figure_names, write_figures
from hftl.evaluation.views import Answers
from hftl.facts import continued, contradictions
from hftl.models import load_classifier
from hftl.names import Tta
from hftl.recipe import LOCAL, Recipe, judged, without_places
from hftl.records.data import read_data
from hftl.records.metrics import read_metrics
from hftl.records.openings import read_openings
from hftl.run import RunDirectory, check_sealed, remove_partial
from hftl.training.baseline import run_beside
from hftl.training.checks import check_run_directory, check_same_recipe, other_precision
from hftl.training.experiment import check_views, make_samples
from hftl.training.finish import conclude, predict_split, write_opening
from hftl.training.machine import disk_errors, explain_dead_processes, make_accelerator, process_state
from hftl.training.origin import extra_at_commits, other_versions
from hftl.training.rows_again import check_same_data
from hftl.training.sessions import record_versions
from hftl.training.together import main_first

log = logging.getLogger(__name__)


def missing(run: RunDirectory) -> list[str]:
    """What a finished run lacks of all that is drawn of its numbers, figures and card, which come last."""
    expected = [*(run.figures / name for name in figure_names(read_metrics(run))), run.card]
    return [path.relative_to(run.path).as_posix() for path in expected if not path.is_file()]


def complete(recipe: Recipe, run: RunDirectory, *, say: Callable[[str], object]) -> None:
    """Draw what a finished run lacks of its figures; the card is written, as after training, by the caller.

    Raises:
        RunError: the run lacks nothing, is another recipe's or in use, or cannot be written.
        RecipeError: a fact that is given now contradicts what was read.
    """
    if not (lacks := missing(run)):
        check_run_directory(run, recipe, resume=True)
    check_same_recipe(run, recipe)
    started = run.load_recipe()
    recipe, said = continued(judged(recipe, started.run.chooser), started)
    if problems := contradictions(recipe, read_data(run)):
        raise RecipeError(str(run.recipe), problems)
    with run.lock(), disk_errors(run):
        remove_partial(run)
        for line in (f"{run.path}: this run is finished but for {', '.join(lacks)}: written now, from what it has", *said):
            say(line)
        run.write_recipe(recipe)
        if any(name != run.card.name for name in lacks):
            write_figures(run, read_metrics(run))
        shutil.rmtree(run.checkpoints, ignore_errors=True)


@explain_dead_processes()
def open_test(run: RunDirectory, *, say: Callable[[str], object]) -> None:
    """Open the sealed test split of a finished run, once, and put its results beside those of validation.

    Raises:
        RunError: the run is not finished, has no test split, or has opened it; or the data are not those of the run.
    """
    run.check_finished("there is no model to test")
    if "test" in read_metrics(run):
        times = ", ".join(opening["time"] for opening in read_openings(run))
        raise RunError(
            f"{run.path}: its test split was opened already ({times}), and is opened once. To see that the saved model still gives"
            f" the numbers on record, which is written down as another opening:  hftl evaluate {run.path} --split test."
            f" Its card again:  hftl card {run.path}"
        )
    check_sealed(run)
    main, stored = process_state().is_main_process, run.predictions("test")
    with run.lock() if main else nullcontext():
        if main:
            remove_partial(run)
        if not stored.is_file():  # otherwise an earlier call was stopped when it had opened the split, which is not done again
            tta, names = run.load_recipe().run.tta, stored_label_names(run.predictions("validation"))
            answers = _evaluate(run, split="test", source=None, opened_by="hftl test", say=say, tta=tta, for_results=True)
            if main:
                if answers.viewed is not None:  # first, so that where the plain ones are both are
                    answers.viewed.save(run.viewed_predictions("test"), names)
                answers.plain.save(stored, names)
        if main:
            record_versions(run)
            before = figure_names(read_metrics(run))
            conclude(run, {split: Predictions.load(run.predictions(split)) for split in ("validation", "test")}, say=say)
            for name in set(before) - set(figure_names(read_metrics(run))):  # the figures are of test now
                (run.figures / name).unlink(missing_ok=True)


@explain_dead_processes()
def evaluate(
    run: RunDirectory,
    *,
    split: str,
    source: str | None = None,
    opened_by: str | None = "hftl evaluate",
    tta: Tta = "none",
) -> Answers:
    """What a finished run's saved model says about a split of its recipe's data, or of the same data at `source`.

    With `tta` also by several views of each picture, from the same opening.

    Opening the test split again is written down in the run directory, and shown on the card; `opened_by` None: the run is not
    one's own, and nothing is written.

    Raises:
        RunError: the run is not finished, its data have no such split, the test split is still sealed, or the data are not those of
            the run.
    """
    run.check_finished("there is no model to evaluate")
    if split == "test" and "test" not in read_metrics(run) and not run.load_recipe().opens_test:
        raise RunError(f"{run.path}: its test split is sealed; to open it, once:  hftl test {run.path}")
    return _evaluate(run, split=split, source=source, opened_by=opened_by, say=log.warning, tta=tta)


def _evaluate(
    run: RunDirectory,
    *,
    split: str,
    source: str | None,
    opened_by: str | None,
    say: Callable[[str], object],
    tta: Tta = "none",
    for_results: bool = False,
) -> Answers:
    """With `for_results`, the opening gives the run its results, and its baseline answers the test split in the same one."""
    recipe = run.load_recipe()
    if source is None and run.published_as is not None:  # a stranger's recipe names no file of this machine
        recipe = without_places(recipe)
    source = source or recipe.data.source
    # The rows of then, where they come from the Hub and have moved on.
    revision = read_data(run)["revision"] if source == recipe.data.source else None
    # Duplicates are refused before training, not after it: what was trained on is what is read now, and the fingerprints tell.
    on_duplicate = "keep" if recipe.data.on_duplicate == "error" else recipe.data.on_duplicate
    changed = {"source": source, "revision": revision, "on_duplicate": on_duplicate}
    # Of further rows train has all there are, and a baseline learns from it.
    needed = split == "train" or (for_results and run.baseline.is_file())
    changed["extra"] = extra_at_commits(recipe, run) if needed else ()
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=changed)})
    if source.startswith(LOCAL):
        raise RunError(f"{run.path}: its data lay on the author's machine; with your copy: hftl verify {run.path} --data PATH")
    disable_progress_bars()
    accelerator = make_accelerator(recipe, run)
    if opened_by is not None and accelerator.is_main_process:  # one's own run; of a published one other machines are the rule
        for line in (*other_versions(run), *other_precision(accelerator, run)):
            say(line)
    classifier = load_classifier(run.model)
    with main_first():
        splits = load_splits(recipe.data, seed=recipe.run.seed)
        check_same_data(splits, run)
        dataset = {"train": splits.train, "validation": splits.validation, "test": splits.test}.get(split)
        if dataset is None:
            way = "" if split != "test" else f"; on rows that have lain aside:  hftl evaluate {run.path} --data SOURCE"
            raise RunError(f'the data of {run.path} have no split "{split}"{way}')
        samples = make_samples(recipe, classifier, dataset, train=False)
        check_views(recipe, samples, tta)
    if split == "test" and opened_by is not None and accelerator.is_main_process:
        write_opening(run, splits, by=opened_by, purpose="test" if for_results else "again", say=say)
    model = accelerator.prepare_model(classifier.model.to(accelerator.device), evaluation_mode=True)
    predictions = predict_split(model, samples, recipe, accelerator, thresholds=classifier.thresholds)
    viewed = None
    if tta != "none":
        viewed = predict_split(model, samples, recipe, accelerator, thresholds=classifier.thresholds, tta=tta)
    if for_results and run.baseline.is_file() and accelerator.is_main_process:
        run_beside(recipe, splits, run, {"validation": Predictions.load(run.predictions("validation")), "test": predictions})
    if split == "test" and opened_by is not None and accelerator.is_main_process and (problem := count_openings(run)) is not None:
        say(problem)
    return Answers(predictions, viewed)
