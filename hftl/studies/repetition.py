"""What a repetition says of a run: how far runs of its recipe lie apart that differ in the seed alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hftl.errors import RunError
from hftl.evaluation.seeds import spread
from hftl.ledger import effective, recipe_digest
from hftl.recipe import load_recipe
from hftl.run import RunDirectory
from hftl.studies.ablate import cells_of_repetition
from hftl.studies.study import StudyDirectory, read_question
from hftl.studies.trials import read_trial


def over_seeds(study: StudyDirectory, run: RunDirectory) -> dict[str, Any]:
    """What a repetition of a run's recipe has come to, as seeds.json of the run has it.

    {"study": its folder's name, "recipe": a digest without the seed, "metric", "seeds", "values": on validation, one of each seed,
    "mean", "deviation", "new_seed": the 95 % interval for one more seed; null where two are too few to tell}.

    Raises:
        RecipeError, RunError: it is no such study, or of another recipe or other rows; fewer than two trials are complete.
    """
    question, recipe = read_question(study), run.load_recipe()
    if question.kind != "repeat" or "seeds" not in question.settings:
        what = (
            "on folds, so each of its trials was judged by other rows" if question.kind == "repeat" else f"of hftl {question.kind}"
        )
        raise RunError(f"{study.path}: a study {what}; the card takes one of:  hftl repeat {run.path} --seeds 5")
    repeated = load_recipe(study.recipe)
    own, theirs = effective(recipe, seed=False), effective(repeated, seed=False)
    if differs := [key for key in {**own, **theirs} if own.get(key) != theirs.get(key)]:
        lines = [f"  {key}: {theirs.get(key, '(absent)')} there, {own.get(key, '(absent)')} here" for key in differs]
        raise RunError(
            "\n".join([f"{study.path}: it repeats another recipe than that of {run.path}; this is what differs:", *lines])
        )
    done: dict[int, float] = {}
    for cell in cells_of_repetition(repeated, question):
        trial = read_trial(study.trial(cell.name))
        if trial is None or trial.state != "complete" or trial.value is None:
            continue
        if recipe_digest(study.trial(cell.name), seed=False) != recipe_digest(run, seed=False):
            raise RunError(
                f"{study.path}: trial {trial.name} had other rows of train and validation than {run.path}, so its numbers say"
                " nothing of it. Runs of one recipe have the same rows where the seed is the same, or data.split_seed is"
            )
        done[cell.recipe.run.seed] = trial.value
    if len(done) < 2:
        raise RunError(
            f"{study.path}: a spread takes two complete trials or more; it has {len(done)}. The same hftl repeat goes on"
        )
    return {
        "study": study.path.resolve().name,
        "recipe": recipe_digest(run, seed=False),
        "metric": recipe.run.chooser,
        "seeds": list(done),
        "values": list(done.values()),
        **asdict(spread(list(done.values()))),
    }
