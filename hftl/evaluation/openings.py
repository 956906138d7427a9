"""What a run records of the openings of its test rows by all runs: how many there were, and its intervals widened for them.

Of K recipes that are tested on the same rows the best one is the best by luck too. An interval of 95 % is right for one of them.
Intervals of the level 1 - 0.05/K hold for all K at once with at least 95 %, however the results hang together (Bonferroni), and so
for the one that is picked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hftl.environment import now
from hftl.errors import RunError
from hftl.evaluation.intervals import LEVEL
from hftl.evaluation.predictions import Predictions
from hftl.files import write_json
from hftl.ledger import counted, ledger_path, read_ledger, recipe_digest
from hftl.names import METRICS
from hftl.recipe import Recipe
from hftl.records.data import read_data
from hftl.records.openings import LedgerRecord, Widened, read_openings, read_test_ledger
from hftl.run import RunDirectory


def count_openings(run: RunDirectory) -> str | None:
    """Write into a run what the ledger knows of its test rows now, for its card; nothing where they are still shut.

    In test_ledger.json, {"time", "openings", "runs", "recipes"}: at least those of the run itself, whose own file counts where the
    ledger lacks them, and when it was first so many; with more than one recipe `widened` too.

    Returns:
        What is wrong with the ledger: it cannot be read, and the run is left as it was; or lines of it are damaged, and were not
        counted. None: nothing.

    Raises:
        RecipeError, RunError: a file of the run cannot be read.
    """
    own = read_openings(run)
    if not own:
        return None
    rows = read_data(run).get("test_rows")
    if rows is None:
        raise RunError(f'{run.data}: there is no "test_rows", though the test split was opened')
    try:
        known, problem = read_ledger()
    except OSError as error:
        return f"{ledger_path()}: cannot be read ({error.strerror}). How often other runs have opened these test rows is not known"
    count = counted(known.get(rows, ()), {own[0]["run"]: len(own)}, recipe_digest(run))
    ledger: LedgerRecord = {"time": now(), "openings": count.openings, "runs": count.runs, "recipes": count.recipes}
    if count.recipes > 1 and run.predictions("test").is_file():
        predictions = Predictions.load(run.predictions("test"))
        ledger["widened"] = widened(predictions, widened_metrics(predictions, run.load_recipe()), recipes=count.recipes)
    before = read_test_ledger(run)
    if before is None or {**before, "time": ledger["time"]} != ledger:
        write_json(run.test_ledger, ledger)
    return problem


def widened_metrics(predictions: Predictions, recipe: Recipe) -> tuple[str, ...]:
    """Those whose intervals are widened: the one that the card opens with, and the one that chose the weights."""
    return tuple(dict.fromkeys((predictions.target.headline, recipe.run.chooser)))


def widened(predictions: Predictions, metrics: Iterable[str], *, recipes: int) -> Widened:
    """The level of an interval of each of so many recipes, 1 - 0.05 / recipes, and the intervals at that level.

    2 recipes, and 8 of 10 right: {"level": 0.975, "intervals": {"accuracy": [0.448, 0.952]}}.
    """
    level = 1 - (1 - LEVEL) / recipes
    return {
        "level": level,
        "intervals": {metric: predictions.target.interval(predictions, metric, level=level) for metric in metrics},
    }


def said_of_openings(run: RunDirectory) -> Iterator[str]:
    """A line for the terminal where more than one recipe was tested on the test rows of a run."""
    ledger = read_test_ledger(run)
    if ledger is not None and "widened" in ledger:
        intervals = ledger["widened"]["intervals"].items()
        shown = [f"{METRICS[metric]} [{ends[0]:.4f}, {ends[1]:.4f}]" for metric, ends in intervals if ends is not None]
        yield (
            f"  these test rows have been opened {ledger['openings']:,} times by {ledger['recipes']:,} recipes; widened for that"
            f" (Bonferroni, {100 * ledger['widened']['level']:.6g} % each): {', '.join(shown)}"
        )
