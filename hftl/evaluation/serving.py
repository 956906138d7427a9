"""Serving samples: some validation examples as they came, and what the trained model says about them.

Training writes them. Before a model is published it is loaded as a stranger would load it, and must say the same again. They hold
the user's data, so they stay in the run directory.

Shapes: N examples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hftl.errors import RunError
from hftl.evaluation.predictions import TEXT, list_matrix, read_parquet
from hftl.files import written_whole

COUNT = 16
PAIR = pa.struct([("text", pa.string()), ("text_pair", pa.string())])
"""A pair of texts, as `transformers.pipeline` takes it."""
_WHAT = "no serving samples"


@dataclass(frozen=True)
class ServingSamples:
    """Inputs, and their (N, K) float32 logits, computed in float32 with the preprocessing of training."""

    ids: list[str]
    inputs: list[str] | list[dict[str, str]] | list[bytes]
    """Texts, pairs of them as {"text", "text_pair"}, or the files of pictures."""
    logits: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write a Parquet file with the columns `id`, `input` and `logits`; whole or not at all."""
        rows = pa.FixedSizeListArray.from_arrays(pa.array(self.logits.reshape(-1), pa.float32()), self.logits.shape[1])
        table = pa.table({"id": self.ids, "input": self.inputs, "logits": rows})
        with written_whole(path) as beside:
            pq.write_table(table, beside)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            RunError: no such file, or not serving samples as `save` writes them.
        """
        table = read_parquet(path, _WHAT)
        types = {field.name: field.type for field in table.schema}
        needed = {"id": [TEXT], "input": [TEXT, PAIR, pa.binary()]}
        if table.column_names != ["id", "input", "logits"] or any(types[name] not in allowed for name, allowed in needed.items()):
            raise RunError(f"{path}: {_WHAT}: its columns are {', '.join(f'{name} {type}' for name, type in types.items())}")
        if not pa.types.is_fixed_size_list(types["logits"]) or types["logits"].value_type != pa.float32():
            raise RunError(f"{path}: {_WHAT}: column logits is {types['logits']}")
        ids, logits = table["id"].to_pylist(), list_matrix(table["logits"], f"{path}: column logits")
        if not ids or len(set(ids)) != len(ids):
            raise RunError(f"{path}: {_WHAT}: needed is at least one id, each once")
        if logits.shape[1] < 2 or not np.isfinite(logits).all():
            raise RunError(f"{path}: {_WHAT}: needed are two or more finite logits a row")
        return cls(ids, table["input"].to_pylist(), logits)


def choose(sizes: Sequence[int], *, count: int = COUNT) -> list[int]:
    """Places of `count` examples spread evenly over the sizes, the smallest and the largest among them.

    ``choose([5, 9, 1, 7, 3], count=3) == [2, 0, 1]``: sizes 1, 5 and 9.
    """
    order = np.argsort(np.asarray(sizes), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [int(order[place]) for place in places]
