"""seeds.json: what other seeds of a run's recipe came to, from a study. `hftl.studies.repetition` makes it."""

from __future__ import annotations

from typing import TypedDict

from hftl.errors import RunError
from hftl.names import METRICS
from hftl.records.shape import Interval, read_record
from hftl.run import RunDirectory


class SeedsRecord(TypedDict):
    """The file: `values` of `metric` on validation, one for each of `seeds`. None: two seeds are too few to tell."""

    study: str
    recipe: str
    metric: str
    seeds: list[int]
    values: list[float]
    mean: float
    deviation: float | None
    new_seed: Interval | None


def read_seeds(run: RunDirectory) -> SeedsRecord | None:
    """What other seeds came to; None: no study was asked.

    Raises:
        RunError: the file is not as hftl writes it.
    """
    if not run.seeds.is_file():
        return None
    record = read_record(run.seeds, SeedsRecord)
    if record["metric"] not in METRICS:
        raise RunError(f'{run.seeds}: "{record["metric"]}" is not a metric')
    return record
