"""Further rows for training, `data.extra`: labelled by a finished run, or borrowed from another data set with a weight each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftl.api.run import Run, load
from hftl.api.training import load_recipe, train
from hftl.errors import RunError
from hftl.facts import with_facts
from hftl.files import read_json, write_json
from hftl.launch import is_main_process
from hftl.recipe import Extra, Recipe
from hftl.run import RunDirectory
from hftl.terminal import Say, tell

if TYPE_CHECKING:
    from hftl.pseudo_labels import Borrowed, PseudoLabels


ROUNDS = "rounds.json"
"""Beside the rounds: what they are of."""


def pseudo_label(
    run: Run | str | Path,
    unlabelled: str | Path,
    output: str | Path,
    *,
    noise: float = 0.05,
    confidence: float | None = None,
    rounds: int = 0,
    weight: float = 1.0,
    say: Say = tell,
) -> list[PseudoLabels]:
    """Label rows by a finished run and write those of which it is sure enough, for `data.extra`; train with them, and again.

    Args:
        run: of one label an example, on texts of one column or on pictures.
        unlabelled: another split of the run's source by its name (of texts), a table, or a file or folder of texts or pictures.
        output: a folder that is not there yet: train.parquet and provenance.json. With `rounds` it has a folder round-1 and so on,
            each with its `labels` and its `run`; what is there of an earlier call stays, and is gone on from.
        noise: the share of wrong labels that is accepted. The confidence is the lowest at which validation has no more of them.
        confidence: that confidence itself; None: it is chosen.
        rounds: so often the run's recipe is trained anew on its rows and the labelled ones, each time with labels by the run
            before; 0: the rows are written, and nothing is trained. The test split stays shut: `Run.test` opens it.
        weight: what a labelled row counts for in training.
        say: is told how far it has come, and what was labelled.

    Returns: of each round what was labelled.

    Raises:
        RunError: the run is not finished or of several labels, no row reaches the confidence, no confidence the noise, or the
            output is there.
        RecipeError, DataError: what cannot be read, or trained on.
    """
    from hftl.pseudo_labels import label_rows
    from hftl.training.together import main_first

    for name, share in (("--noise", noise), ("--confidence", 0.5 if confidence is None else confidence)):
        if not 0 < share < 1:
            raise RunError(f"{name}: {share:g} is no share between 0 and 1")
    found, output = run if isinstance(run, Run) else load(run), Path(output)
    say = say if is_main_process() else lambda line: None

    def label(by: Run, folder: Path) -> PseudoLabels:
        model = str(by._source["model"])
        labels = label_rows(by.paths, str(unlabelled), folder, model=model, noise=noise, confidence=confidence, say=say)
        for line in labels.lines():
            say(line)
        return labels

    if rounds == 0:
        return [label(found, output)]
    settings = {"noise": noise, "confidence": confidence, "weight": weight}
    with main_first():
        _check_rounds(output / ROUNDS, {"run": str(found._source["model"]), "unlabelled": str(unlabelled), **settings})
    recipe = found.recipe
    labelled: list[PseudoLabels] = []
    for number in range(1, rounds + 1):
        place = output / f"round-{number}"
        say(f"round {number} of {rounds}")
        if not (place / "labels").is_dir():
            labelled.append(label(found, place / "labels"))
        trained = RunDirectory(place / "run")
        with_labels = _with_labels(recipe, place / "labels", weight, name=f"{recipe.name[:80]}-round-{number}")
        found = (
            load(trained.path) if trained.finished else train(with_labels, run_dir=trained.path, resume=trained.recipe.is_file())
        )
    return labelled


def _check_rounds(asked_before: Path, asked: Mapping[str, Any]) -> None:
    """Note what the rounds of a folder are of; where it is noted already, refuse anything else.

    Raises:
        RunError: the folder has rounds of something else, or other things.
    """
    folder = asked_before.parent
    if not asked_before.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder}: is there already, and no rounds are in it; name another folder with --output")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(asked_before, asked)
        return
    before = read_json(asked_before)
    changed = [f"  {key}: {before.get(key)} -> {value}" for key, value in asked.items() if before.get(key) != value]
    if changed:
        what = f"{folder}: its rounds are of something else:"
        raise RunError("\n".join([what, *changed, "  Go on without the change, or name another folder with --output"]))


def _with_labels(recipe: Recipe, labels: Path, weight: float, *, name: str) -> Recipe:
    """The recipe with labelled rows in place of those of a round before, and the test split shut."""
    from hftl.pseudo_labels import PSEUDO_LABELLED

    own = tuple(each for each in recipe.data.extra if each.name != PSEUDO_LABELLED)
    extra = (*own, Extra(source=str(labels), name=PSEUDO_LABELLED, weight=weight))
    changed = {
        "data": recipe.data.model_copy(update={"extra": extra}),
        "run": recipe.run.model_copy(update={"test": "sealed"}),
    }
    return with_facts(recipe.model_copy(update=changed), card=recipe.card, name=name)


def borrow(
    recipe: Recipe | str | Path,
    source: str | Path,
    output: str | Path,
    *,
    clip: float = 10.0,
    split: str | None = None,
    say: Say = tell,
) -> Borrowed:
    """Write the labelled rows of another data set for `data.extra`, each with a weight: how much it looks like one's own rows.

    The weight is p(own | x) / p(theirs | x) by a domain classifier that has not seen the row, between 1 / `clip` and `clip`, with a
    mean of 1; it is in the column "weight": `hftl.Extra(source=output, name="borrowed", weight_column="weight")`.

    Args:
        recipe: of one's own data, with one label an example.
        source: what `data.source` can be, with the columns and the classes of one's own.
        output: a folder that is not there yet.
        clip: see above.
        split: which split of the source; None: its train split, or the only one.
        say: is told what came of it.

    Raises:
        RunError: the output is there, or the rows allow no domain classifier.
        RecipeError, DataError: what cannot be read.
    """
    from hftl.pseudo_labels import borrow_rows

    if clip <= 1:
        raise RunError(f"clip: {clip:g} is not more than 1")
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe))
    return borrow_rows(recipe, str(source), Path(output), clip=clip, split=split, say=say)
