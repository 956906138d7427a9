"""The ledger: how often test rows were opened on this machine, by all runs together.

A run opens its test split once. Ten runs on the same data open the same rows ten times, and whoever then picks the best of them
has chosen by the test split. So each opening is also a line of a file in the user's data folder, by what the rows hold: the same
photos in another folder, or in another order, are the same rows. The file tells nothing else, and no file of a run names its place.

It lies at $HFTL_LEDGER, else at $XDG_DATA_HOME/hftl/test_openings.jsonl (~/.local/share/hftl/test_openings.jsonl).
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from hftl.errors import RunError
from hftl.run import RunDirectory, append_json_line, flush, now, read_json, read_json_lines, write_json


def ledger_path() -> Path:
    """Where the ledger of this user lies."""
    if place := os.environ.get("HFTL_LEDGER"):
        return Path(place).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "hftl" / "test_openings.jsonl"


def note_opening(run: RunDirectory, *, rows: str, by: str) -> str | None:
    """Write an opening of a run's test split down, in the run and in the ledger, onto the disk before the split is looked at.

    `rows` is what the test rows hold, as `data.json` has it in `test_rows`; `by` the command that opens them.

    Returns:
        Why the ledger could not be written, such as a home that is read-only; None: it was.

    Raises:
        RunError: the run's own file cannot be read.
    """
    earlier = next(read_json_lines(run.test_openings), None)
    identity = str(uuid.uuid4()) if earlier is None else str(earlier.get("run"))
    record = {"time": now(), "by": by, "run": identity}
    append_json_line(run.test_openings, record)
    flush(run.test_openings)
    path = ledger_path()
    try:
        append_json_line(path, {**record, "rows": rows})
        flush(path)
    except OSError as error:
        return f"{path}: cannot be written ({error.strerror}), so other runs do not learn that these test rows were opened"
    return None


def count_openings(run: RunDirectory) -> str | None:
    """Write into a run what the ledger knows of its test rows now, for its card; nothing where they are still shut.

    In test_ledger.json, {"time", "openings", "runs"}: at least those of the run itself, whose own file counts where the ledger
    lacks them, and when it was first so many.

    Returns:
        Why the ledger cannot be read; then the run is left as it was. None: it could be.

    Raises:
        RunError: a file of the run cannot be read.
    """
    own = list(read_json_lines(run.test_openings))
    rows = read_json(run.data).get("test_rows")
    if not own or rows is None:
        return None
    try:
        known = [record for record in read_json_lines(ledger_path()) if record.get("rows") == rows]
    except RunError as error:
        return f"{error}. How often other runs have opened these test rows is not known"
    others = [record for record in known if record.get("run") != own[0].get("run")]
    counted = {"openings": len(own) + len(others), "runs": 1 + len({str(record.get("run")) for record in others})}
    before = read_json(run.test_ledger) if run.test_ledger.is_file() else {}
    if {key: before.get(key) for key in counted} != counted:
        write_json(run.test_ledger, {"time": now(), **counted})
    return None
