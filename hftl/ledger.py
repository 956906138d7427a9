"""The ledger: how often test rows were opened on this machine, by all runs together.

A run opens its test split once. Ten runs on the same data open the same rows ten times, and whoever then picks the best of them
has chosen by the test split. So each opening is also a line of a file in the user's data folder, by what the rows hold: the same
photos in another folder, or in another order, are the same rows. The file tells nothing else, and no file of a run names its place.

It lies at $HFTL_LEDGER, else at $XDG_DATA_HOME/hftl/test_openings.jsonl (~/.local/share/hftl/test_openings.jsonl).
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from hftl.environment import now
from hftl.files import append_json_line, flush, read_json, read_json_lines, write_json
from hftl.run import RunDirectory


def ledger_path() -> Path:
    """Where the ledger of this user lies."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    # Not `Path.expanduser`, which raises where there is no such home.
    return Path(os.path.expanduser(os.environ.get("HFTL_LEDGER") or f"{data}/hftl/test_openings.jsonl"))


def note_opening(run: RunDirectory, *, rows: str, by: str) -> str | None:
    """Write an opening of a run's test split down, in the run and in the ledger, onto the disk before the split is looked at.

    `rows` is what the test rows hold, as `data.json` has it in `test_rows`; `by` the command that opens them.

    Returns:
        Why the ledger could not be written, such as a home that is read-only; None: it was.

    Raises:
        RunError: the run's own file cannot be read.
    """
    earlier = next(read_json_lines(run.test_openings), {})
    record = {"time": now(), "by": by, "run": str(earlier.get("run") or uuid.uuid4())}
    append_json_line(run.test_openings, record)
    flush(run.test_openings)
    path = ledger_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as stream:  # a line that a full disk has cut short ends here, and costs itself alone
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1))
            torn = b"" if stream.read(1) in {b"", b"\n"} else b"\n"
            stream.write(torn + json.dumps({**record, "rows": rows}).encode() + b"\n")
        flush(path)
    except OSError as error:
        return f"{path}: cannot be written ({error.strerror}), so other runs do not learn that these test rows were opened"
    return None


def count_openings(run: RunDirectory) -> str | None:
    """Write into a run what the ledger knows of its test rows now, for its card; nothing where they are still shut.

    In test_ledger.json, {"time", "openings", "runs"}: at least those of the run itself, whose own file counts where the ledger
    lacks them, and when it was first so many.

    Returns:
        What is wrong with the ledger: it cannot be read, and the run is left as it was; or lines of it are damaged, and were not
        counted. None: nothing.

    Raises:
        RunError: a file of the run cannot be read.
    """
    own = list(read_json_lines(run.test_openings))
    rows, path = read_json(run.data).get("test_rows"), ledger_path()
    if not own or rows is None:
        return None
    try:
        lines = path.read_bytes().decode(errors="replace").split("\n")
    except FileNotFoundError:
        lines = []
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror}). How often other runs have opened these test rows is not known"
    known, damaged = [], 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            known += [str(record["run"])] if record["rows"] == rows else []
        except (ValueError, TypeError, KeyError):
            damaged += 1
    this = str(own[0].get("run"))
    others = [run_id for run_id in known if run_id != this]
    counted = {"openings": max(len(own), known.count(this)) + len(others), "runs": 1 + len(set(others))}
    before = read_json(run.test_ledger) if run.test_ledger.is_file() else {}
    if {key: before.get(key) for key in counted} != counted:
        write_json(run.test_ledger, {"time": now(), **counted})
    return f"{path}: {damaged} damaged lines were not counted" if damaged else None
