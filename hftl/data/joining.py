"""One text of several columns: a subject and a body, a question and an answer.

They are joined where a split is read, so that a text is one everywhere after that. `TextData.pieces` says how. A pair is one text
of two lines as well, for all that looks at texts; beside it stands how long the first one is, and so the tokenizer gets two.

N rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets

from hftl.data.rows import Table, is_whole, row_problems
from hftl.errors import Problem
from hftl.recipe import TextData
from hftl.store import key_of
from hftl.wording import listed

_LOOKED_AT = 1_000  # rows, spread evenly, that tell what a column holds
_ENOUGH = 100  # so many rows tell that a column has few values
_FEW = 0.05  # of the rows: so many different values are categories
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)*|[.,]\d+)([eE][+-]?\d+)?%?")


NUMBERS = "numbers"
_ANOTHER_PROGRAM = "numbers and categories beside a text are for AutoGluon (its MultiModalPredictor); hftl reads texts"

FIRST = "first_length"
"""The column that pairs have beside `text`: how many characters of it are the first text's. A line feed follows them."""


def segments(text: str, first_length: int) -> tuple[str, str]:
    """The two texts of a pair."""
    return text[:first_length], text[first_length + 1 :]


def put_texts(table: Table, content: Dataset | list[Any], data: TextData) -> None:
    """Set `table.content`, or its problems; `content` is the column `text`, or those of the recipe, or Python values or tuples."""
    if not data.joins:
        table.content = _strings_of(table, content)
        return
    columns: list[Dataset] = []
    for place, column in enumerate(data.text_columns):
        if len(data.text_columns) == 1:
            values = content
        elif isinstance(content, Dataset):
            values = content.select_columns(column).rename_columns({column: "text"})
        else:
            values = [row[place] for row in content]
        strings = _strings_of(table, values, column)
        if strings is None:
            continue
        columns.append(strings)
        held = no_prose(strings) if data.template is None else None
        if held is not None and not (data.pair and held != NUMBERS):  # the second text may be one of a few questions
            what = f'the column "{column}" holds {held} in split "{table.name}", and no texts'
            template = " ".join(f"{{{name}}}" for name in data.text_columns)
            ways = f"leave it out, or have it read as words: data.template='{template}'{', without data.pair' if data.pair else ''}"
            table.problems.append(Problem("data.text_column", what, (_ANOTHER_PROGRAM, ways)))
    if not table.problems:
        table.content = joined(columns, data)
        named = ", ".join(f'"{column}"' for column in data.text_columns)
        how = "a line each" if data.template is None else f'as "{data.template}"'
        what = f"a pair of texts is in the columns {named}" if data.pair else f"a text is made of the columns {named}, {how}"
        table.remarks.append(what)


def _strings_of(table: Table, content: Dataset | list[Any], column: str | None = None) -> Dataset | None:
    """Strings as a data set of one column `text`; None, with problems, where some are none.

    `column` is what the source calls them, where it has several.
    """
    if isinstance(content, Dataset):
        feature = content.features["text"]
        if (
            isinstance(feature, Value)
            and feature.dtype in ("string", "large_string")
            and not content.data.column("text").null_count
        ):
            return content.cast_column("text", Value("string")) if feature.dtype != "string" else content
        content = content["text"][:]
    where = "" if column is None else f' in the column "{column}"'
    none = [row for row, text in enumerate(content) if text is None]
    other = [row for row, text in enumerate(content) if not isinstance(text, str | None)]
    halves = [row for row, text in enumerate(content) if isinstance(text, str) and not is_whole(text)]
    problems = row_problems(table, f"no text{where}", none, "an empty text is allowed, a null is not")
    ways = [] if column is None else [_ANOTHER_PROGRAM]
    if other and isinstance(content[other[0]], dict):
        ways = [f"they are objects with {listed(content[other[0]])}: pandas.json_normalize makes a column of each part"]
    problems += row_problems(table, f"no text but another type{where}", other, *ways)
    problems += row_problems(table, f"half a character{where}", halves, "JSON's \\ud800 to \\udfff mean a character in pairs alone")
    table.problems += problems
    return None if problems else Dataset.from_dict({"text": content}, features=Features({"text": Value("string")}))


def joined(columns: Sequence[Dataset], data: TextData) -> Dataset:
    """N texts in the column `text`, each made of its row's; `columns` have one column `text` each, in the order of the recipe.

    They stay on disk where they lie there.
    """
    named = [column.rename_column("text", str(place)) for place, column in enumerate(columns)]
    rows = concatenate_datasets(named, axis=1) if len(named) > 1 else named[0]
    places = {column: place for place, column in enumerate(data.text_columns)}
    pieces = [(letters, None if column is None else places[column]) for letters, column in data.pieces]
    made = rows.with_format("arrow").map(
        _join,
        batched=True,
        remove_columns=rows.column_names,
        features=Features({"text": Value("string"), **({FIRST: Value("int32")} if data.pair else {})}),
        fn_kwargs={"pieces": pieces, "pair": data.pair},
        new_fingerprint=key_of({"rows": [column._fingerprint for column in columns], "pieces": pieces, "pair": data.pair})[:32],
        desc="joining columns",
    )
    return made.with_format(None)


def _join(rows: pa.Table, *, pieces: Sequence[tuple[str, int | None]], pair: bool) -> pa.Table:
    parts: list[pa.ChunkedArray | pa.Scalar] = []
    for letters, place in pieces:
        parts.append(pa.scalar(letters))
        if place is not None:
            parts.append(rows.column(str(place)))
    texts = {"text": pc.binary_join_element_wise(*parts, "")}
    return pa.table({**texts, FIRST: pc.utf8_length(rows.column("0"))} if pair else texts)


def no_prose(texts: Dataset) -> str | None:
    """What a column of texts holds where that is no text: "numbers", "7 different values"; or None."""
    places = np.unique(np.linspace(0, len(texts) - 1, min(_LOOKED_AT, len(texts))).astype(int)).tolist()
    some = [text.strip() for text in texts[places]["text"]]
    distinct = sorted({text for text in some if text})
    if distinct and all(map(_NUMBER.fullmatch, distinct)):
        return NUMBERS
    if len(some) < _ENOUGH or len(distinct) > _FEW * len(some):
        return None
    return f"{len(distinct):,} different values" if len(distinct) > 1 else "a single value"
