"""The rows of a run, read again from its data: those that it was trained on, or why they cannot be had."""

from __future__ import annotations

from hftl.data.source import Splits, load_splits
from hftl.errors import DataError, RunError
from hftl.recipe import LOCAL, without_places
from hftl.records.data import read_data
from hftl.run import RunDirectory
from hftl.training.origin import extra_at_commits


def read_again(run: RunDirectory) -> Splits | str:
    """The splits of a run's recipe, if they are still what it was trained on; otherwise the reason why they are not known.

    Raises:
        RunError: a file of the run cannot be read.
    """
    recipe = run.load_recipe()
    if run.published_as is not None:
        recipe = without_places(recipe)
    if any(each.source.startswith(LOCAL) for each in (recipe.data, *recipe.data.extra)):
        return "its training data lay on the author's machine"
    revision = read_data(run)["revision"]
    on_duplicate = "keep" if recipe.data.on_duplicate == "error" else recipe.data.on_duplicate
    section = recipe.data.model_copy(
        update={"revision": revision, "on_duplicate": on_duplicate, "extra": extra_at_commits(recipe, run)}
    )
    try:
        splits = load_splits(section, seed=recipe.run.seed)
        check_same_data(splits, run)
    except DataError:
        return "the data that it was trained on cannot be read any more"
    except RunError:
        return "the data that it was trained on have changed since"
    return splits


def check_same_data(splits: Splits, run: RunDirectory) -> None:
    """Refuse to continue or compare a run on other rows, or other contents of them, than it was started with."""
    recorded, facts = read_data(run), splits.facts
    without = "extra" in recorded and "extra" not in facts  # left out: where train is not asked for, they are not needed
    changed = [
        name
        for name, of_split in facts["splits"].items()
        if (of_split != recorded["splits"].get(name) and not (without and name == "train"))
        or facts["contents"][name] != recorded["contents"].get(name)
    ]
    then, now = ([each["contents"] for each in of.get("extra", ())] for of in (recorded, facts))
    if then != now and not without:
        changed.append("extra")
    if changed:
        raise RunError(f"{run.path}: the data are not those of this run any more (changed: {', '.join(changed)}; see data.json)")
