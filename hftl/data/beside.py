"""A run's own predictions beside what else its table has: ids, dates, authors, the texts themselves.

A run directory is published, and a table's other columns are nobody's to publish: predictions have ids, labels and probabilities
alone. Who has the table finds its rows again, by `data.id_column` or by their numbers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hftl.data.tables import open_rows
from hftl.errors import DataError
from hftl.recipe import ImageData, TextData
from hftl.wording import listed

if TYPE_CHECKING:
    from pandas import DataFrame

_SHOWN = 5


def with_columns(predictions: DataFrame, table: DataFrame | str | os.PathLike[str], data: TextData | ImageData) -> DataFrame:
    """The predictions, in their order, with the columns of a table before them.

    Where a table has a column of one of their names, theirs is "predicted NAME"; its column of ids is `id`, as it is there.

    Args:
        predictions: with `id` and `label`, as `Run.predictions` gives them.
        table: the file that the rows came from, or its rows; without `data.id_column` those of one split, in their order.
        data: the section of the run's recipe.

    Raises:
        DataError: a row is not in the table, an id is there twice, or a label is another: it is another table.
    """
    import pandas as pd

    source = "the table" if isinstance(table, pd.DataFrame) else str(table)
    if not isinstance(table, pd.DataFrame):
        rows = open_rows(Path(table), [()], data, at_once=1_000)
        table = pd.DataFrame([row for block in rows.blocks() for row in block], columns=list(rows.types))
    if data.id_column is not None:
        if data.id_column not in table.columns:
            what = f'no column "{data.id_column}", by which the run calls its rows; columns: {listed(map(str, table.columns))}'
            raise DataError.single("data.id_column", what, source=source)
        keyed = table.drop(columns=data.id_column).set_index(table[data.id_column].astype(str))
    else:
        splits = {id.rpartition("/")[0] for id in predictions["id"]}
        if len(splits) != 1 or not all(id.rpartition("/")[2].isdecimal() for id in predictions["id"]):
            what = "the run calls its examples by their files, and not by rows of a table"
            raise DataError.single("beside", what, "leave it out; data.id_column calls rows of a table by their ids", source=source)
        keyed = table.set_axis([f"{next(iter(splits))}/{row}" for row in range(len(table))])
    if keyed.index.has_duplicates:
        twice = listed(list(dict.fromkeys(keyed.index[keyed.index.duplicated()]))[:_SHOWN])
        raise DataError.single("data.id_column", f"ids that several rows have: {twice}", source=source)
    if len(absent := [id for id in predictions["id"] if id not in keyed.index]):
        what = f"no rows for {listed(absent, _SHOWN)}"
        raise DataError.single("beside", what, "name the table that they came from", source=source)
    found = keyed.loc[predictions["id"]].reset_index(drop=True)
    column = data.label_column if isinstance(data.label_column, str) else None
    names = set(predictions["label"])
    if column in found.columns and set(found[column].astype(str)) <= names:  # numbers of a label map are no names
        other = [
            id
            for id, one, own in zip(predictions["id"], found[column].astype(str), predictions["label"], strict=True)
            if one != own
        ]
        if other:
            what = f"another label than the run has read for {listed(other, _SHOWN)}"
            raise DataError.single("beside", what, "name the table that they came from", source=source)
    own = {name: f"predicted {name}" for name in predictions.columns if name in found.columns and name != "id"}
    rest = predictions.drop(columns="id").rename(columns=own).reset_index(drop=True)
    return pd.concat([predictions[["id"]].reset_index(drop=True), found.drop(columns="id", errors="ignore"), rest], axis=1)
