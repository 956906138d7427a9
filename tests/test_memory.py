"""Data in memory as a source: kept as Parquet under a name of their contents, whatever they were."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import hftl
from hftl.data.source import load_splits
from hftl.memory import copy_beside, is_kept
from hftl.recipe import parse_recipe

TEXTS, LABELS = [f"text {place}" for place in range(20)], ["good", "bad"] * 10


@pytest.fixture(autouse=True)
def cache_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "cache"))


def table(data: hftl.TextData | hftl.ImageData, split: str = "train") -> pa.Table:
    return pq.read_table(Path(data.source) / f"{split}.parquet")


def test_two_lists_a_dataframe_and_a_dataset_of_the_same_rows_are_read_alike() -> None:
    frame = pd.DataFrame({"text": TEXTS, "label": LABELS})
    sources: list[Any] = [
        (TEXTS, LABELS),
        frame,
        datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}),
        (np.array(TEXTS), pd.Series(LABELS)),
    ]
    read = [load_splits(hftl.TextData(source=source, validation_fraction=0.2), seed=0) for source in sources]
    for splits in read:
        assert splits.label_names == ("bad", "good")
        assert splits.facts["fingerprint"] == read[0].facts["fingerprint"]
        assert splits.facts["splits"] == read[0].facts["splits"]


def test_equal_rows_have_one_name_and_others_another() -> None:
    one, again, other = (hftl.TextData(source=(TEXTS, labels)).source for labels in (LABELS, list(LABELS), LABELS[::-1]))
    assert one == again != other
    assert is_kept(one) and not is_kept("data/reviews")


def test_columns_are_called_as_the_recipe_says() -> None:
    data = hftl.TextData(source=(TEXTS, LABELS), text_column="review", label_column="stars")
    assert table(data).column_names == ["review", "stars"]


def test_splits_of_a_datasetdict_keep_their_names_and_class_names_their_order() -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["low", "high"])})
    train = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1] * 10}, features=features)
    dev = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).select([1, 0])
    data = hftl.TextData(source=datasets.DatasetDict({"train": train, "dev": dev}))
    splits = load_splits(data, seed=0)
    assert splits.label_names == ("low", "high")
    assert splits.validation["text"][:] == ["b", "a"] and splits.validation["label"][:] == [0, 1]


def test_a_category_is_its_value() -> None:
    frame = pd.DataFrame({"text": TEXTS, "label": pd.Categorical(LABELS, categories=["good", "bad", "never"])})
    splits = load_splits(hftl.TextData(source=frame, validation_fraction=0.2), seed=0)
    assert splits.label_names == ("bad", "good")


def test_a_polars_frame_is_one_where_polars_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class DataFrame:
        """As much of polars' as is asked of it; polars is no part of the development set."""

        def to_arrow(self) -> pa.Table:
            return pa.table({"text": pa.array(TEXTS, pa.large_string()), "label": LABELS})

    polars = ModuleType("polars")
    polars.DataFrame = DataFrame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "polars", polars)
    assert load_splits(hftl.TextData(source=DataFrame(), validation_fraction=0.2), seed=0).label_names == ("bad", "good")


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8))


def test_pictures_are_kept_as_they_are_stored_and_those_without_a_file_as_png(tmp_path: Path) -> None:
    picture(7).save(tmp_path / "seven.jpg")
    png = io.BytesIO()
    picture(9).save(png, format="PNG")
    given = [tmp_path / "seven.jpg", str(tmp_path / "seven.jpg"), png.getvalue(), picture(3), np.full((8, 8), 5, dtype=np.uint8)]
    data = hftl.ImageData(source=(given, ["a", "a", "b", "b", "b"]))
    stored = table(data)["image"].to_pylist()
    assert stored[0] == stored[1] == {"bytes": (tmp_path / "seven.jpg").read_bytes(), "path": "seven.jpg"}
    assert stored[2]["bytes"] == png.getvalue()
    assert [Image.open(io.BytesIO(one["bytes"])).getpixel((0, 0)) for one in stored[3:]] == [(3, 3, 3), 5]


def test_pictures_of_a_dataset_and_of_a_dataframe_are_read_as_data(tmp_path: Path) -> None:
    paths = []
    for place in range(12):
        paths.append(str(tmp_path / f"{place}.png"))
        picture(20 * place).save(paths[-1])
    labels = ["light" if place > 5 else "dark" for place in range(12)]
    frame = pd.DataFrame({"image": paths, "label": labels})
    dataset = datasets.Dataset.from_pandas(frame).cast_column("image", datasets.Image())
    for source in (frame, dataset):
        data = hftl.ImageData(source=source, validation_fraction=0.25)
        splits = load_splits(data, seed=0)
        assert splits.label_names == ("dark", "light") and len(splits.train) == 9
    for path in paths:
        Path(path).unlink()
    assert len(load_splits(data, seed=0).train) == 9  # the bytes are in the Parquet file


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((TEXTS, LABELS[:3]), "20 contents and 3 labels: one label is needed for each"),
        ({1, 2}, "set is no source"),
        ([TEXTS], "list is no source"),
        (TEXTS, "list is no source"),
        ({}, "no split in it"),
        (datasets.Dataset.from_dict({"text": [], "label": []}), "no rows"),
        ({"a/b": (TEXTS, LABELS)}, "'a/b' cannot be the name of a split"),
        (([1, "two"], ["a", "b"]), "cannot be kept as Parquet"),
        (pd.DataFrame({"text": TEXTS, 7: LABELS}), "a column's name is no text: 'text', 7"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "Duplicate column names found"),
        (pd.DataFrame({"text": TEXTS, "label": LABELS, "more": [object()] * 20}), "cannot be kept as Parquet"),
    ],
)
def test_what_is_no_source_is_one_message(source: Any, expected: str) -> None:
    with pytest.raises(hftl.RecipeError, match=expected) as refused:
        hftl.TextData(source=source)
    assert "hftl.TextData(...)" in str(refused.value) and "source: " in str(refused.value)


def test_a_picture_that_is_none_is_named_by_its_row(tmp_path: Path) -> None:
    for value, expected in (
        (3.5, "float is no picture"),
        (np.zeros((8, 8, 3)), "an array of float64"),
        (tmp_path / "x.png", "No such file"),
    ):
        with pytest.raises(hftl.RecipeError, match=rf"row 1: .*{expected}"):
            hftl.ImageData(source=([picture(1), value], ["a", "b"]))


def test_a_file_that_is_read_never_writes_rows(tmp_path: Path) -> None:
    text = "name: x\ndata: {kind: text, source: [[a, b], [c, d]]}\nmodel: {family: transformer, checkpoint: x}\n"
    text += "stages: {all: {lr: 0.1}}\n"
    with pytest.raises(hftl.RecipeError, match=r"data\.source: input should be a valid string"):
        parse_recipe(text, source="recipe.yaml")
    with pytest.raises(hftl.RecipeError, match=r"data\.source: input should be a valid string"):
        hftl.Recipe(name="x", data={"kind": "text", "source": [TEXTS, LABELS]}, model=hftl.Transformer(checkpoint="x"), stages={})  # type: ignore[arg-type]
    assert not (tmp_path / "cache").exists()


def test_a_path_object_is_its_name() -> None:
    assert hftl.TextData(source=Path("reviews") / "train.csv").source == "reviews/train.csv"


def test_rows_are_copied_beside_a_run_once_and_others_do_not_take_their_place(tmp_path: Path) -> None:
    source, other = (hftl.TextData(source=(TEXTS, labels)).source for labels in (LABELS, LABELS[::-1]))
    assert copy_beside(source, tmp_path / "run") == copy_beside(source, tmp_path / "run") == str(tmp_path / "run" / "rows")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["rows"]
    with pytest.raises(hftl.RunError, match="holds other rows than those that were given now"):
        copy_beside(other, tmp_path / "run")
    for file in Path(source).iterdir():
        file.unlink()
    Path(source).rmdir()
    with pytest.raises(hftl.RunError, match="are gone; build the recipe again from the data"):
        copy_beside(source, tmp_path / "again")


def test_an_override_keeps_the_rows() -> None:
    recipe = hftl.Recipe(
        name="x",
        data=hftl.TextData(source=(TEXTS, LABELS)),
        model=hftl.Transformer(checkpoint="x"),
        stages={"all": hftl.Stage(lr=0.1)},
    )
    assert hftl.override(recipe, ["data.max_length=9"]).data.source == recipe.data.source
