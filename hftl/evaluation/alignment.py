"""CORAL: features of one domain given the means and covariances of another's, so that a classifier of the first fits the second.

Labelled reviews of films and unlabelled ones of books, say: both go through the same network, the features of the labelled ones are
aligned to those of the others, and a linear classifier on the aligned ones answers the others. No label of the other domain is
read. Sun, Feng & Saenko 2016, arXiv:1511.05547.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hftl.errors import RunError


def coral(source: ArrayLike, target: ArrayLike, *, ridge: float = 1.0) -> NDArray[np.float32]:
    """The features of `source`, (N, F), with the mean and the covariance of `target`, (M, F): ``(x - m_s) C_s^-1/2 C_t^1/2 + m_t``.

    To each covariance C so much of its mean variance is added along the diagonal as `ridge` says, since a few hundred rows do not
    settle the covariance of several hundred features. With ridge near 0, a source of one feature with variance 4 and mean 0 and a
    target with variance 1 and mean 3, 2 becomes 4. (The paper adds 1, for features of variance 1, and has both means at 0.)

    Raises:
        RunError: not two tables of as many features, of two rows or more, all of them finite; or `ridge` is not greater than 0.
    """
    tables = [np.asarray(given, dtype=np.float64) for given in (source, target)]
    shapes = " and ".join(str(table.shape) for table in tables)
    if any(table.ndim != 2 or len(table) < 2 for table in tables) or tables[0].shape[1] != tables[1].shape[1]:
        raise RunError(f"coral: takes two tables of as many features, each of two rows or more; found {shapes}")
    if not all(np.isfinite(table).all() for table in tables):
        raise RunError("coral: a feature is not a finite number")
    if not ridge > 0:
        raise RunError(f"coral: ridge is greater than 0; found {ridge}")
    (own_mean, own), (other_mean, other) = ((table.mean(axis=0), _covariance(table, ridge)) for table in tables)
    aligned: NDArray[np.float64] = (tables[0] - own_mean) @ _power(own, -0.5) @ _power(other, 0.5) + other_mean
    return aligned.astype(np.float32)


def _covariance(table: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    covariance = np.atleast_2d(np.cov(table, rowvar=False))
    mean_variance = float(np.trace(covariance)) / len(covariance)
    if mean_variance == 0:
        raise RunError("coral: all rows of a table are the same")
    found: NDArray[np.float64] = covariance + ridge * mean_variance * np.eye(len(covariance))
    return found


def _power(symmetric: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(symmetric)
    found: NDArray[np.float64] = (vectors * values**exponent) @ vectors.T
    return found
