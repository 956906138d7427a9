"""CORAL: means and covariances by hand, and a classifier that it carries from one domain to another."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import hftl
from hftl.errors import RunError


def test_one_feature_takes_the_mean_and_the_spread_of_the_other_domain() -> None:
    # Variances 4 and 1 (of n - 1: [-2, 0, 2] and [2, 3, 4]), means 0 and 3.
    found = hftl.coral([[-2.0], [0.0], [2.0]], [[2.0], [3.0], [4.0]], ridge=1e-9)
    assert found.dtype == np.float32 and found[:, 0].tolist() == pytest.approx([2.0, 3.0, 4.0])
    # A ridge of 1 doubles both, so that the ratio stays.
    assert hftl.coral([[-2.0], [0.0], [2.0]], [[2.0], [3.0], [4.0]])[:, 0].tolist() == pytest.approx([2.0, 3.0, 4.0])


def test_the_aligned_features_have_the_means_and_covariances_of_the_target() -> None:
    generator = np.random.default_rng(0)
    source, target = (
        generator.normal(size=(rows, 5)) @ generator.normal(size=(5, 5)) + shift for rows, shift in ((80, 2), (60, -1))
    )
    found = hftl.coral(source, target, ridge=1e-9)
    np.testing.assert_allclose(found.mean(axis=0), target.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(np.cov(found, rowvar=False), np.cov(target, rowvar=False), atol=1e-4)


def test_a_classifier_on_aligned_features_fits_a_domain_that_is_stretched_and_turned() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 600)
    features = generator.normal(size=(600, 2)) * [0.3, 0.3] + np.stack([labels * 2 - 1, 0 * labels], axis=1)
    there, answers = features[300:] * [0.2, 3.0] + [5.0, 0.0], labels[300:]
    plain = LogisticRegression().fit(features[:300], labels[:300]).score(there, answers)
    aligned = LogisticRegression().fit(hftl.coral(features[:300], there), labels[:300]).score(there, answers)
    assert plain < 0.6 and aligned > 0.95


@pytest.mark.parametrize(
    ("source", "target", "options", "said"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], [[1.0], [2.0]], {}, r"as many features.*\(2, 2\) and \(2, 1\)"),
        ([[1.0]], [[1.0], [2.0]], {}, "two rows or more"),
        ([[1.0], [np.nan]], [[1.0], [2.0]], {}, "not a finite number"),
        ([[1.0], [1.0]], [[1.0], [2.0]], {}, "all rows of a table are the same"),
        ([[1.0], [2.0]], [[1.0], [2.0]], {"ridge": 0.0}, "greater than 0"),
    ],
)
def test_what_cannot_be_aligned_is_refused_with_a_sentence(
    source: list[list[float]], target: list[list[float]], options: dict[str, float], said: str
) -> None:
    with pytest.raises(RunError, match=said):
        hftl.coral(source, target, **options)
