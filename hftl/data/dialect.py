"""CSV and TSV: which character separates the columns, and whether quotation marks quote.

A .csv file quotes (RFC 4180): a text with a comma, a line end or a quotation mark in it stands in quotes. A .tsv file may do so
too, or take every quotation mark as a letter, as the GLUE data do: it is read both ways, and as it says itself. Where that cannot
be told, or where a quotation mark swallows whole rows, the file is refused: no row may end up inside a text without a word.

Lines end with a line feed, a carriage return, or both; U+2028, a form feed and the like are letters.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hftl.data.layout import table_ending
from hftl.errors import Problem
from hftl.wording import and_more

SHOWN = 10
"""Lines that are named in one problem; the rest is counted."""

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_LINE_END = re.compile(r"\r\n|\n|\r")


def lines_of(text: str) -> list[str]:
    """The lines of a text; the end of the last one begins no other."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


@dataclass
class Rows:
    """The texts of a table, in those of the wanted columns that it has."""

    header: list[str] = field(default_factory=list)
    count: int = 0
    columns: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """What is worth knowing about how it was read."""


@dataclass(frozen=True)
class Blocks:
    """A table of texts with all of its columns, read some rows at a time."""

    header: list[str]
    remarks: list[str]
    blocks: Callable[[], Iterator[list[dict[str, str]]]]


def separator_of(first_line: str, ending: str, wanted: Sequence[str] = (), delimiter: str | None = None) -> str:
    """The character between columns: the recipe's `delimiter`, or a tab in .tsv, a comma in others.

    Where the header has one column by that, and more by exactly one other character, it is that one. A header that is one of the
    columns `wanted` is one column, whatever is in it.
    """
    if delimiter is not None:
        return "\t" if delimiter == "tab" else delimiter
    usual = "\t" if ending == ".tsv" else ","
    headers = {separator: next(csv.reader([first_line], delimiter=separator), []) for separator in _SEPARATORS}
    if len(headers[usual]) != 1 or headers[usual][0] in wanted:
        return usual
    others = [separator for separator, header in headers.items() if len(header) > 1]
    return others[0] if len(others) == 1 else usual


def _without_sep(text: str) -> tuple[str, str | None]:
    """A text without the line "sep=;" that Excel takes for no row, and the separator that it names; the line stays, empty."""
    told = re.match(r'"?sep=([^\r\n"])"?(?=[\r\n])', text)
    return (text, None) if told is None else (text[told.end() :], told[1])


def header_of(head: str, ending: str, delimiter: str | None = None) -> list[str]:
    """The names of the columns, by how a file begins."""
    head, told = _without_sep(head)
    delimiter = delimiter or told
    first = _first_line(head)
    return _named(next(csv.reader([first], delimiter=separator_of(first, ending, delimiter=delimiter)), []))


def _first_line(text: str) -> str:
    return next((line for line in itertools.islice(_LINE_END.split(text[:100_000]), 100) if line.strip()), "")


def _named(header: Sequence[str]) -> list[str]:
    """The columns of a header that have a name; spreadsheets leave empty ones behind."""
    return [name for name in header if name.strip()]


def read_rows(
    file: Path,
    text: str,
    problems: list[Problem],
    *,
    wanted: Sequence[str],
    label: str | None = None,
    delimiter: str | None = None,
) -> Rows:
    """The columns `wanted` of a .csv or .tsv file; `label` is the one of a few values, where there is one.

    A column whose name has spaces around it is found without them. `delimiter` is the character that the recipe names.

    Lines without anything on them are skipped; a row of another length than the header is a problem.
    """
    text, told = _without_sep(text)
    parsed, remarks = _parse(file, text, problems, wanted=wanted, label=label, delimiter=delimiter or told, keep=True)
    header = parsed.check(file, problems, wanted)
    columns = {name: [fields[header.index(name)] for fields in parsed.rows] for name in wanted if name in header}
    return Rows(_named(header), len(parsed.rows), columns, remarks)


def open_rows(
    file: Path, text: str, problems: list[Problem], *, wanted: Sequence[str], delimiter: str | None = None, at_once: int
) -> Blocks:
    """All columns of such a file, `at_once` rows at a time; its text is parsed anew each time they are read, and no row is kept.

    The whole file is checked once before. `wanted` are columns whose names may have spaces around them in the header.
    """
    text, told = _without_sep(text)
    parsed, remarks = _parse(file, text, problems, wanted=wanted, label=None, delimiter=delimiter or told, keep=False)
    header = parsed.check(file, problems, wanted)
    places = {name: header.index(name) for name in _named(header)}
    width = len(header)

    def blocks() -> Iterator[list[dict[str, str]]]:
        reader = csv.reader(_lines(text), delimiter=parsed.separator, quoting=parsed.quoting, strict=True)  # type: ignore[arg-type]
        rows = itertools.islice((fields for fields in reader if len(fields) == width), 1, None)  # the first is the header
        while True:
            with _long_fields(text):
                some = [{name: fields[place] for name, place in places.items()} for fields in itertools.islice(rows, at_once)]
            if not some:
                return
            yield some

    return Blocks(_named(header), remarks, blocks)


def _parse(
    file: Path,
    text: str,
    problems: list[Problem],
    *,
    wanted: Sequence[str],
    label: str | None,
    delimiter: str | None,
    keep: bool,
) -> tuple[_Parsed, list[str]]:
    """The right reading of a text, with a problem where it is not clear which one that is; and what is worth knowing about it."""
    ending = str(table_ending(file.name))
    separator = separator_of(_first_line(text), ending, wanted, delimiter)
    remarks = []
    if separator != ("\t" if ending == ".tsv" else ","):
        between = _SEPARATORS.get(separator, f'"{separator}"')
        remarks.append(f"the columns of {file.name} are separated by {between}")
    both = ending == ".tsv" and '"' in text
    with _long_fields(text):
        quoted = _Parsed(text, separator, csv.QUOTE_MINIMAL, keep=keep or both)
        if both:
            literal = _tells_literal(file, text, separator, quoted, label)
            if isinstance(literal, Problem):
                problems.append(literal)
                return quoted, remarks
            if literal:
                remarks.append(f"{file.name} is read without quoting: quotation marks are a part of its texts")
                return _Parsed(text, separator, csv.QUOTE_NONE, keep=keep), remarks
        if quoted.spanning and not quoted.broken:
            problems.extend(_swallowed(file, text, separator, quoted, label))
    return quoted, remarks


@contextmanager
def _long_fields(text: str) -> Iterator[None]:
    """Python's own limit of a field, 131,072 characters, is less than a long document."""
    limit = csv.field_size_limit(len(text) + 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _lines(text: str) -> Iterator[str]:
    """The lines of a text with their ends, one at a time: `io.StringIO` would take four bytes a letter."""
    start = 0
    for end in _LINE_END.finditer(text):
        yield text[start : end.end()]
        start = end.end()
    if start < len(text):
        yield text[start:]


class _Parsed:
    """One reading of a text: with quotes, or with quotation marks as letters; its rows where `keep`."""

    def __init__(self, text: str, separator: str, quoting: int, *, keep: bool) -> None:
        self.separator, self.quoting = separator, quoting
        self.header: list[str] = []
        self.rows: list[list[str]] = []
        self.ragged: list[str] = []
        self.error: tuple[int, str] | None = None
        """The first line of a row that is no CSV, and why it is none."""
        self.spanning: list[tuple[int, int]] = []
        """First and last line of each row that goes over several."""
        reader = csv.reader(_lines(text), delimiter=separator, quoting=quoting, strict=True)  # type: ignore[arg-type]
        line, width = 1, 0
        try:
            for fields in reader:
                end = reader.line_num
                if len(fields) == width > 0:
                    if keep:
                        self.rows.append(fields)
                elif fields and not width:
                    self.header, width = fields, len(fields)
                elif fields:
                    self.ragged.append(f"line {line} has {len(fields)}")
                if end > line and fields:
                    self.spanning.append((line, end))
                line = end + 1
        except csv.Error as error:
            self.error = (line, str(error))

    @property
    def broken(self) -> bool:
        return bool(self.error or self.ragged)

    def check(self, file: Path, problems: list[Problem], wanted: Sequence[str]) -> list[str]:
        """Add what is wrong to the problems, and return the header, with the names in `wanted`."""
        header, separator = _as_asked(self.header, wanted), self.separator
        if self.error is not None:
            line, why = self.error
            help = "a quote inside a quoted field is written twice"
            problems.append(Problem(f"{file}, line {line}", f"not valid CSV: {why}", (help,)))
        if self.ragged:
            count = len(self.ragged)
            shown = ", ".join(self.ragged[:SHOWN]) + and_more(count, SHOWN)
            what = f"the header has {len(header)} column{'s' if len(header) != 1 else ''}; {shown}"
            help = {",": "a field that has a comma in it is written in quotes"}.get(separator, "")
            between = _SEPARATORS.get(separator, f'"{separator}"')
            help = help or f"columns are separated by {between}; a field that has one in it is written in quotes"
            problems.append(Problem(str(file), what, (help,)))
        twice = [name for name in dict.fromkeys(_named(header)) if header.count(name) > 1]
        if any(name in wanted for name in twice):
            what = f"two columns of one name: {', '.join(header)}"
            problems.append(Problem(str(file), what, (f"give one of the columns {twice[0]} another name in the first line",)))
        return header


def _as_asked(header: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """A header in which a name with spaces around it is the one that is asked for, where no other is."""
    asked = {name.strip(): name for name in wanted if name not in header}
    plain = [name.strip() for name in header]
    return [asked[short] if short in asked and plain.count(short) == 1 else name for name, short in zip(header, plain, strict=True)]


def _literally(text: str, separator: str) -> Iterator[list[str]]:
    """Rows, header first, with quotation marks as letters."""
    return (fields for fields in csv.reader(_lines(text), delimiter=separator, quoting=csv.QUOTE_NONE) if fields)


def _is_whole(text: str, separator: str) -> bool:
    """Whether every line has as many fields as the header when quotation marks are letters; stops at the first that has not."""
    rows = _literally(text, separator)
    width = len(next(rows, []))
    return all(len(fields) == width for fields in rows)


def _tells_literal(file: Path, text: str, separator: str, quoted: _Parsed, label: str | None) -> bool | Problem:
    """Whether quotation marks are letters in a .tsv file with some; a problem where nobody can tell."""
    if not _is_whole(text, separator):
        return False  # fields with tabs or line ends in them are quoted, or it is no table either way
    rows = _literally(text, separator)
    header = next(rows)
    if header != quoted.header:
        return False  # who quotes names of columns quotes texts
    if quoted.broken:
        return True
    if quoted.spanning:
        # Read with quotes some texts hold line ends, and just as many tabs as to make each of their lines a whole row.
        if len(header) > 1:
            return True
        first, last = quoted.spanning[0]
        what = (
            f"a quotation mark begins a text that ends on line {last}, or {last - first + 1} texts of one line: it cannot be told"
        )
        return Problem(f"{file}, line {first}", what, ("save it as .csv, where quotation marks quote, or as .jsonl",))
    # Both ways have the same rows. Whoever quotes does so where it is needed, for a quotation mark or, as Excel does, a comma
    # inside, or in the whole column.
    needless, filled = [0] * len(header), [0] * len(header)
    for fields, plain in zip(rows, quoted.rows, strict=True):
        for place, (letters, value) in enumerate(zip(fields, plain, strict=True)):
            filled[place] += bool(letters)
            if letters != value and '"' in value and letters[1:-1] == value.replace('"', '""'):
                return False  # marks inside that are written twice
            needless[place] += letters != value and bool(value) and not any(mark in value for mark in '",;')
    return any(0 < few < many / 2 for few, many in zip(needless, filled, strict=True))


def _swallowed(file: Path, text: str, separator: str, quoted: _Parsed, label: str | None) -> Iterator[Problem]:
    """A problem for each row that a quotation mark may have made of several: each of its lines is a row by itself.

    A row by itself has as many fields as the header and, where there is a column `label`, a label that is there.
    """
    width, lines = len(quoted.header), _LINE_END.split(text)
    if width < 2:
        return
    place = quoted.header.index(label) if label in quoted.header else None
    labels = set() if place is None else {row[place] for row in quoted.rows}
    for first, last in quoted.spanning:
        alone = [next(_literally(line, separator), []) for line in lines[first - 1 : last]]
        if all(len(fields) == width and (place is None or fields[place].strip('"') in labels) for fields in alone):
            what = (
                f"a quotation mark joins the lines {first} to {last} into one row, and each of them is a whole row"
                f"{' with a label' if place is not None else ''} by itself"
            )
            ways = "a text that has a quotation mark in it is written in quotes, and the mark twice; or save it as .jsonl"
            yield Problem(f"{file}, line {first}", what, (ways,))
