"""The openings of the test split: test_openings.jsonl, a line for each, and test_ledger.json, what the ledger counted.

`hftl.ledger` writes both.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from hftl.errors import RunError
from hftl.files import read_json_lines
from hftl.names import METRICS
from hftl.records.shape import Interval, as_record, read_record
from hftl.run import RunDirectory

Purpose = Literal["train", "test", "again"]
"""Why a test split is opened: for the results of the run, at the end of training or later by `hftl test`; or to see that the model
still gives them."""


class OpeningLine(TypedDict):
    """An opening by this run: when, by which command, and the run's random id."""

    time: str
    purpose: Purpose
    by: str
    run: str


class Widened(TypedDict):
    """Intervals of some metrics at a higher level than 95 %, see `hftl.evaluation.openings`."""

    level: float
    intervals: dict[str, Interval | None]


class LedgerRecord(TypedDict):
    """How often the rows were opened by all runs of this user on this machine, and by how many runs and recipes."""

    time: str
    openings: int
    runs: int
    recipes: int
    widened: NotRequired[Widened]
    """Where there is more than one recipe, and a result."""


def read_openings(run: RunDirectory) -> list[OpeningLine]:
    """The openings by a run; none where its test split is shut.

    Raises:
        RunError: a line is not as hftl writes it.
    """
    lines = enumerate(read_json_lines(run.test_openings), start=1)
    return [as_record(line, OpeningLine, source=f"{run.test_openings}, line {number}") for number, line in lines]


def read_test_ledger(run: RunDirectory) -> LedgerRecord | None:
    """What the ledger had counted when the run's card was last written; None: it was not counted.

    Raises:
        RunError: the file is not as hftl writes it.
    """
    if not run.test_ledger.is_file():
        return None
    ledger = read_record(run.test_ledger, LedgerRecord)
    for metric in ledger["widened"]["intervals"] if "widened" in ledger else ():
        if metric not in METRICS:
            raise RunError(f'{run.test_ledger}: "{metric}" in widened.intervals is not a metric')
    return ledger
