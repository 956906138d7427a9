"""Dividing rows into train, validation and test: exact shares by class, the same on every machine, equal contents on one side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hftl.data.duplicates import repeated
from hftl.data.layout import ROLES, Role
from hftl.data.rows import TEST_SEED
from hftl.errors import DataError, Problem
from hftl.recipe import ImageData, TextData


class Strata(Protocol):
    """What the rows of a table are stratified by."""

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """(K,) how many of some rows are of each class."""

    def draw(
        self, rows: np.ndarray, total: int, seed: int, *, contents: np.ndarray | None = None, leave_one: bool = False
    ) -> np.ndarray:
        """`total` of `rows` with about their share of each class, ascending; with `leave_one`, of no class all rows.

        With `contents`, rows of one content are drawn together or not at all, so that it may be fewer.
        """

    def in_order(self, rows: np.ndarray, seed: int) -> np.ndarray:
        """All of `rows` in one order, of which the first n are a stratified sample for every n: each holds every smaller one."""


@dataclass(frozen=True)
class ByClass:
    """By the one class that each row has."""

    of: np.ndarray
    """(N,) its number, of all rows of the table."""

    def counts(self, rows: np.ndarray) -> np.ndarray:
        return np.bincount(self.of[rows])

    def draw(
        self, rows: np.ndarray, total: int, seed: int, *, contents: np.ndarray | None = None, leave_one: bool = False
    ) -> np.ndarray:
        """Exact shares by largest remainder."""
        counts = np.bincount(self.of[rows])
        most = np.maximum(counts - 1, 0) if leave_one else counts
        return _stratified(rows, self.of, total, seed, least=0 * counts, most=most, contents=contents)

    def in_order(self, rows: np.ndarray, seed: int) -> np.ndarray:
        return in_order_of_classes(rows, self.of, seed)


def divide(
    data: TextData | ImageData, given: Mapping[Role, tuple[np.ndarray, Strata]], contents: np.ndarray, *, seed: int
) -> dict[Role, np.ndarray]:
    """Rows of each split, ascending; those of a split that was not given are rows of train's table.

    `given` has, for each split of the source, the rows that may be used and what they are stratified by; `contents` are those
    of train's rows: equal ones are never put on two sides.
    """
    rows: dict[Role, np.ndarray] = {role: kept for role, (kept, _) in given.items()}
    strata = given["train"][1]
    size = len(rows["train"])
    # Test first and by a seed of its own: neither `run.seed` nor the validation split may touch it.
    shares: list[tuple[Role, float, int]] = [
        ("test", data.test_fraction, TEST_SEED),
        ("validation", data.validation_fraction, seed),
    ]
    for role, share, own_seed in shares:
        if role == "validation" and data.fold is not None:
            rows["validation"], rows["train"] = _fold(data, rows, strata, contents, own_seed)
            continue
        if role in rows or share == 0:
            continue
        train = rows["train"]
        drawn = strata.draw(train, max(1, round(share * size)), own_seed, contents=contents, leave_one=True)
        if not len(drawn):
            what = f"train has {len(train)} rows, one of each class or repeating each other: none can be set aside for {role}"
            raise DataError(data.source, [Problem(f"data.{role}_fraction", what)])
        left = np.ones(len(contents), dtype=bool)
        left[drawn] = False
        rows[role], rows["train"] = drawn, train[left[train]]
    limits: list[tuple[Role, int | None, int]] = [
        ("train", data.max_train_samples, seed if data.sample_seed is None else data.sample_seed),
        ("validation", data.max_validation_samples, seed),
        ("test", data.max_test_samples, TEST_SEED),
    ]
    for role, limit, own_seed in limits:
        if role in rows and limit is not None and limit < len(rows[role]):
            of = given[role][1] if role in given else strata
            if role == "train":
                rows[role] = np.sort(of.in_order(rows[role], own_seed)[:limit])
            else:
                rows[role] = of.draw(rows[role], limit, own_seed)
    return {role: rows[role] for role in ROLES if role in rows}


def _fold(
    data: TextData | ImageData, rows: Mapping[Role, np.ndarray], strata: Strata, contents: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train's fold k of n, and of the others: each fold an equal share, by class, of what the folds before it have left."""
    number, folds = (int(part) for part in str(data.fold).split("/"))
    left, counts = rows["train"], strata.counts(rows["train"])
    problem = None
    if "validation" in rows:
        problem = Problem("data.fold", "the source has a validation split of its own; folds are made where it has none")
    elif not 1 <= number <= folds or folds < 2:
        problem = Problem("data.fold", f'"{data.fold}": of two folds or more, counted from 1, such as "2/5"')
    elif (least := int(counts[counts > 0].min())) < folds:
        problem = Problem("data.fold", f"the smallest class has {least} rows, fewer than the {folds} folds")
    if problem is not None:
        raise DataError(data.source, [problem])
    for fold in range(1, number + 1):
        taken = strata.draw(left, round(len(left) / (folds - fold + 1)), seed, contents=contents)
        left = np.setdiff1d(left, taken)
    return taken, np.setdiff1d(rows["train"], taken)


def in_order_of_classes(rows: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """All of `rows` in one order, of which the first n are a stratified sample for every n: a larger one holds every smaller one.

    (The largest remainder does not do that: of more rows a class may get fewer, the Alabama paradox.) The k-th row drawn of a class
    of m comes at (k + 1/2) / m, and the first of each class before all others, so that no class is missing where there is room.
    Classes of 50, 30 and 21 have 5, 3 and 2 of the first 10.
    """
    generator = np.random.default_rng(seed)
    of = labels[rows]
    drawn = [generator.permutation(rows[of == label]) for label in range(int(of.max()) + 1)]
    place = [np.where(np.arange(len(own)) == 0, -1.0, 0.0) + (np.arange(len(own)) + 0.5) / max(1, len(own)) for own in drawn]
    order: np.ndarray = np.concatenate(drawn)[np.argsort(np.concatenate(place), kind="stable")]
    return order


def _stratified(
    rows: np.ndarray,
    labels: np.ndarray,
    total: int,
    seed: int,
    *,
    least: np.ndarray,
    most: np.ndarray,
    contents: np.ndarray | None = None,
) -> np.ndarray:
    """`total` of `rows`, drawn by class in proportion, ascending.

    With `contents`, rows of one content are drawn together or not at all, so that it may be fewer.
    """
    generator = np.random.default_rng(seed)
    of = labels[rows]
    shares = _allocate(np.bincount(of, minlength=len(most)), total, least=least, most=most)
    drawn = [generator.permutation(rows[of == label]) for label in range(len(shares))]
    twins = _twins(rows, contents) if contents is not None else {}
    taken = [_whole_groups(order, share, twins, labels) for order, share in zip(drawn, shares.tolist(), strict=True)]
    return np.sort(np.concatenate(taken))


def _twins(rows: np.ndarray, contents: np.ndarray) -> dict[int, np.ndarray]:
    """For each of `rows` that is not alone with its content all that have it."""
    return {row: rows[group] for group in repeated(contents[rows]) for row in rows[group].tolist()}


def _whole_groups(order: np.ndarray, share: int, twins: Mapping[int, np.ndarray], labels: np.ndarray) -> np.ndarray:
    """The first `share` rows of `order`; a row and its twins together, and skipped where they do not fit or differ in label."""
    if not twins:
        return order[:share]
    chosen: dict[int, None] = {}  # in order
    for row in map(int, order):
        if len(chosen) == share:
            break
        group = twins.get(row, np.array([row]))
        fits = row not in chosen and len(chosen) + len(group) <= share
        if fits and len(np.unique(labels[group])) == 1:
            chosen.update(dict.fromkeys(group.tolist()))
    return np.fromiter(chosen, dtype=np.int32)


def _allocate(counts: np.ndarray, total: int, *, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """`total` divided in proportion to `counts`, whole numbers by largest remainder, each within its bounds.

    Counts 50, 30, 21 and a total of 10: quotas 4.95, 2.97, 2.08, so 4, 2, 2 and one more each for the first two: 5, 3, 2.
    """
    total = min(total, int(most.sum()))
    quota = counts * (total / counts.sum())
    shares: np.ndarray = np.clip(np.floor(quota).astype(np.int64), least, most)
    while shares.sum() != total:
        missing = shares.sum() < total
        # argmax takes the first of equals: the result does not depend on anything but the counts.
        gap = np.where(shares < most, quota - shares, -np.inf) if missing else np.where(shares > least, shares - quota, -np.inf)
        shares[int(np.argmax(gap))] += 1 if missing else -1
    return shares
