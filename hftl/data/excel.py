"""Workbooks of Excel (.xlsx), by the extra `excel`: the first sheet, its cells as Excel itself writes them into a CSV file."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from hftl.data.dialect import Rows
from hftl.errors import Problem
from hftl.wording import listed

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, zipfile.BadZipFile, ParseError)
"""What openpyxl raises over files that are no workbook."""


def read_header(file: Path) -> list[str]:
    """The names of the columns; none without the extra.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no workbook.
    """
    problems: list[Problem] = []
    return next(_rows(file, problems, []), [])


def read_rows(file: Path, problems: list[Problem], *, wanted: Sequence[str], whole: bool = False) -> Rows:
    """The columns `wanted` of the first sheet, or with `whole` all; rows without a cell are skipped."""
    remarks: list[str] = []
    rows = list(_rows(file, problems, remarks))
    if not rows:
        return Rows()
    header, rows = rows[0], rows[1:]
    places = {name: header.index(name) for name in (filter(None, header) if whole else wanted) if name in header}
    columns = {name: [row[place] if place < len(row) else "" for row in rows] for name, place in places.items()}
    return Rows([name for name in header if name], len(rows), columns, remarks)


def _rows(file: Path, problems: list[Problem], remarks: list[str]) -> Iterator[list[str]]:
    try:
        import openpyxl
    except ImportError:
        what = "an Excel workbook, which needs openpyxl"
        problems.append(Problem(str(file), what, ("pip install 'hftl[excel]'", "or in Excel: Save As, CSV UTF-8")))
        return
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        try:
            sheets = [sheet.title for sheet in book.worksheets]
            if len(sheets) > 1:
                remarks.append(f'{file.name} is read by its first sheet, "{sheets[0]}"; not used: {listed(sheets[1:], 5)}')
            for row in book.worksheets[0].iter_rows(values_only=True):
                cells = [_as_text(cell) for cell in row]
                if any(cells):
                    yield cells
        finally:
            book.close()
    except _UNREADABLE as error:
        problems.append(Problem(str(file), f"cannot be read as an Excel workbook: {' '.join(str(error).split())}"))


def _as_text(cell: Any) -> str:
    """A cell as a CSV file of Excel has it: numbers without a trailing ".0", TRUE and FALSE, dates by ISO 8601."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell).strip("\r\n") if isinstance(cell, str) else str(cell)
