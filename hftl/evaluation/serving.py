"""Serving samples: some validation examples as they came, and what the trained model says about them.

Training writes them. Before a model is published it is loaded as a stranger would load it, and must say the same again. They hold
the user's data, so they stay in the run directory.

Shapes: N examples, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hftl.errors import RunError

COUNT = 16


@dataclass(frozen=True)
class ServingSamples:
    """Inputs, and their (N, K) float32 logits, computed in float32 with the preprocessing of training."""

    ids: list[str]
    inputs: list[str] | list[bytes]
    """Texts, or the files of pictures."""
    logits: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write a Parquet file with the columns `id`, `input` and `logits`; whole or not at all."""
        rows = pa.FixedSizeListArray.from_arrays(pa.array(self.logits.reshape(-1), pa.float32()), self.logits.shape[1])
        table = pa.table({"id": self.ids, "input": self.inputs, "logits": rows})
        beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        pq.write_table(table, beside)
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            RunError: no such file, or another kind of file.
        """
        try:
            table = pq.read_table(path, columns=["id", "input", "logits"])
        except FileNotFoundError:
            raise RunError(f"{path}: no such file; the run was made by an older hftl or is not finished") from None
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise RunError(f"{path}: no serving samples: {error}") from None
        logits = np.array(table["logits"].to_pylist(), dtype=np.float32)
        return cls(table["id"].to_pylist(), table["input"].to_pylist(), logits)


def choose(sizes: Sequence[int], *, count: int = COUNT) -> list[int]:
    """Places of `count` examples spread evenly over the sizes, the smallest and the largest among them.

    ``choose([5, 9, 1, 7, 3], count=3) == [2, 0, 1]``: sizes 1, 5 and 9.
    """
    order = np.argsort(np.asarray(sizes), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [int(order[place]) for place in places]
