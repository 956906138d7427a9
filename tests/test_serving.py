"""Serving samples: chosen by size, stored as they came."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hftl.errors import RunError
from hftl.evaluation.serving import ServingSamples, choose


def test_samples_are_spread_over_the_sizes_from_the_smallest_to_the_largest() -> None:
    assert choose([5, 9, 1, 7, 3], count=3) == [2, 0, 1]
    assert sorted(choose(range(1000), count=16)) == [0, 67, 133, 200, 266, 333, 400, 466, 533, 599, 666, 733, 799, 866, 932, 999]


def test_a_small_split_is_taken_whole() -> None:
    assert sorted(choose([4, 4, 4], count=16)) == [0, 1, 2]
    assert choose([8], count=16) == [0]


@pytest.mark.parametrize("inputs", [["good", "", "zażółć \0 = + @"], [b"\x89PNG", b"", b"\xff\xd8"]])
def test_texts_and_pictures_come_back_as_they_were(tmp_path: Path, inputs: list[str] | list[bytes]) -> None:
    logits = np.array([[1.5, -2.0], [0.1, 0.2], [3e-8, 7e8]], dtype=np.float32)
    ServingSamples(["a", "b", "c"], inputs, logits).save(tmp_path / "serving.parquet")
    loaded = ServingSamples.load(tmp_path / "serving.parquet")
    assert (loaded.ids, loaded.inputs) == (["a", "b", "c"], inputs)
    assert loaded.logits.dtype == np.float32 and np.array_equal(loaded.logits, logits)
    assert [path.name for path in tmp_path.iterdir()] == ["serving.parquet"]


def test_a_file_that_is_missing_or_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"serving\.parquet: no such file"):
        ServingSamples.load(tmp_path / "serving.parquet")
    (tmp_path / "serving.parquet").write_bytes(b"no parquet")
    with pytest.raises(RunError, match="no serving samples"):
        ServingSamples.load(tmp_path / "serving.parquet")
