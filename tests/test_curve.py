"""The learning curve: nested parts of train, a power law, and whether it is to be trusted."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from small import BERT_NANO

import hftl
from hftl.data.source import Splits, load_splits
from hftl.data.splitting import in_order_of_classes
from hftl.errors import RecipeError
from hftl.recipe import Recipe, RunSettings, Stage, TextData, Transformer
from hftl.samples import REVIEWS
from hftl.studies.curve import PowerLaw, fit_curve, fit_power_law, in_words

RECIPE = Recipe(
    name="curved",
    data=TextData(source=REVIEWS, max_length=16, max_validation_samples=24, max_test_samples=12),
    model=Transformer(checkpoint=BERT_NANO),
    stages={"all": Stage(unfreeze="all", lr=1e-4, epochs=1)},
    run=RunSettings(batch_size=8, precision="fp32"),
)


def test_a_power_law_is_recovered_from_exact_data() -> None:
    law = PowerLaw(0.1, 2.0, 0.5)
    sizes = [100, 200, 400, 800, 1600]
    found = fit_power_law(sizes, [law(n) for n in sizes])  # 0.3, 0.2414, 0.2, 0.1707, 0.15
    assert (found.a, found.b, found.c) == pytest.approx((0.1, 2.0, 0.5), rel=1e-3)
    assert found(6400) == pytest.approx(0.125, abs=1e-4)


def test_the_law_has_no_error_below_zero_and_does_not_rise() -> None:
    falling = fit_power_law([100, 200, 400], [0.4, 0.2, 0.05])
    assert falling.a == 0 and falling(100_000) >= 0
    rising = fit_power_law([100, 200, 400], [0.1, 0.2, 0.3])
    assert rising.b == 0 and rising.a == pytest.approx(0.2)


def wrong(rates: dict[int, float], rows: int = 2000) -> dict[int, np.ndarray]:
    """Two seeds that are wrong about the first rows, so that errors are exact and a larger size is wrong about fewer."""
    return {size: np.stack([np.arange(rows) < round(rate * rows)] * 2) for size, rate in rates.items()}


def test_a_curve_that_predicts_its_largest_size_is_trusted_and_says_what_more_labels_bring() -> None:
    found = fit_curve(wrong({n: PowerLaw(0.1, 2.0, 0.5)(n) for n in (100, 200, 400, 800)}))
    gain, low, high = found.gain(800)  # 2 (800^-0.5 - 1600^-0.5) = 0.0207
    assert gain == pytest.approx(0.0207, abs=2e-3) and low < gain < high
    assert found.doubts == [] and in_words(found)[0].startswith("800 more labels, twice as many: +2.")


def test_a_curve_that_does_not_predict_its_largest_size_or_has_few_is_not_trusted() -> None:
    surprised = fit_curve(wrong({100: 0.30, 200: 0.29, 400: 0.28, 800: 0.05}))
    assert "0.9500 was measured" in surprised.doubts[0] and in_words(surprised)[0].startswith("The fit is not to be trusted")
    assert "3 sizes are too few" in fit_curve(wrong({100: 0.3, 200: 0.2414, 400: 0.2})).doubts[0]


def test_a_larger_part_of_train_holds_every_smaller_one_whatever_the_classes() -> None:
    # Of 6, 6 and 2 the largest remainder gives the third class 2 of 10 rows and 1 of 11.
    labels = np.repeat([0, 1, 2], [6, 6, 2])
    rows = np.arange(len(labels))
    order = in_order_of_classes(rows, labels, 0)
    assert sorted(order.tolist()) == rows.tolist()
    assert set(labels[order[:3]].tolist()) == {0, 1, 2}
    per_class = [np.bincount(labels[order[:n]], minlength=3) for n in range(1, 15)]
    assert all((more >= less).all() for less, more in pairwise(per_class))
    labels = np.repeat([0, 1, 2], [50, 30, 21])
    assert np.bincount(labels[in_order_of_classes(np.arange(101), labels, 3)[:10]]).tolist() == [5, 3, 2]


def test_parts_of_real_rows_are_nested_and_validation_stays() -> None:
    parts = [load_splits(TextData(source=REVIEWS, max_train_samples=n, split_seed=1), seed=n) for n in (7, 20, 33)]
    ids = [set(part.train["id"]) for part in parts]
    assert [len(own) for own in ids] == [7, 20, 33] and ids[0] < ids[1] < ids[2]
    assert parts[0].validation["id"] == parts[2].validation["id"]


def test_the_sample_seed_draws_the_part_of_train_and_nothing_else() -> None:
    def part(n: int, seed: int) -> Splits:
        return load_splits(TextData(source=REVIEWS, max_train_samples=n, split_seed=1, sample_seed=seed), seed=0)

    one, larger, other = part(20, 5), part(40, 5), part(20, 6)
    assert set(one.train["id"]) < set(larger.train["id"]) and set(one.train["id"]) != set(other.train["id"])
    assert one.validation["id"] == other.validation["id"]
    assert not set(one.train["id"]) & set(one.validation["id"])


def test_the_bootstrap_draws_a_seed_at_all_sizes_together() -> None:
    # Each seed gains exactly 0.1 from 100 to 200 rows, from other levels: whichever seeds are drawn, the gain between is the same.
    rows = 1000
    levels = {100: (0.3, 0.5, 0.7), 200: (0.2, 0.4, 0.6)}
    found = fit_curve({n: np.stack([np.arange(rows) < round(level * rows) for level in own]) for n, own in levels.items()})
    gains = [law(100) - law(200) for law in found.laws]
    assert np.std(gains) < 0.02  # of rows alone; of seeds that are drawn for each size apart it is about 0.13


def test_a_curve_fits_each_size_with_each_seed_and_writes_a_page(tmp_path: Path) -> None:
    said: list[str] = []
    study = hftl.curve(RECIPE, [32, 8, 16], seeds=2, study_dir=tmp_path / "study", say=said.append)
    assert len(said) == 6 and study.table["size"].tolist() == [8, 16, 32] * 2
    assert "The fit is not to be trusted: 3 sizes are too few" in study.page and "the head alone" in study.page
    assert [path.name for path in study.figures] == ["curve.png"]
    assert study.trial("16-seed1").recipe.data.max_train_samples == 16
    assert list(study.trial("16-seed1").recipe.stages) == ["head"]
    trained_on = [study.trial(name).paths.data.read_text() for name in ("16-seed0", "16-seed1")]
    rows = [json.loads(text)["contents"] for text in trained_on]
    assert rows[0]["train"] != rows[1]["train"] and rows[0]["validation"] == rows[1]["validation"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [([100], "two sizes or more"), ([0, 100], "1 or more"), ([100, 10**6], "train has"), ([1, 9], "2 classes")],
)
def test_sizes_that_are_none_are_refused(tmp_path: Path, sizes: list[int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        hftl.curve(RECIPE, sizes, study_dir=tmp_path / "study")
    assert not (tmp_path / "study").exists()
