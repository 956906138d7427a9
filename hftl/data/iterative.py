"""Stratified drawing where a row has several labels: iterative stratification.

The rarest label is dealt first, to the side that still lacks most of it, since a frequent one can be made even later (Sechidis,
Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data", doi:10.1007/978-3-642-23808-6_10).

N rows, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hftl.data.duplicates import repeated
from hftl.data.splitting import in_order_of_classes


@dataclass(frozen=True)
class ByLabels:
    """Rows by the labels that they have; see `hftl.data.splitting.Strata`."""

    has: np.ndarray
    """(N, K) of all rows of the table: above 0 where the row has the label."""

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """(K,) how many of some rows have each label."""
        return np.asarray((self.has[rows] > 0).sum(axis=0, dtype=np.int64))

    def draw(
        self, rows: np.ndarray, total: int, seed: int, *, contents: np.ndarray | None = None, leave_one: bool = False
    ) -> np.ndarray:
        """`total` of `rows` with about their share of each label, ascending.

        With `contents`, rows of one content are drawn together or not at all, so that it may be fewer. A label that one row alone
        has is left (`leave_one`) by the rule itself, as what is left lacks more of it, unless half of the rows are drawn.
        """
        units = _units(rows, contents)
        sides = iterative_sides(
            np.stack([(self.has[unit] > 0).sum(axis=0) for unit in units]) if units else np.zeros((0, self.has.shape[1])),
            np.array([len(unit) for unit in units], dtype=np.int64),
            total,
            np.random.default_rng(seed),
        )
        drawn = [unit for unit, is_drawn in zip(units, sides, strict=True) if is_drawn]
        return np.sort(np.concatenate(drawn)) if drawn else rows[:0]

    def in_order(self, rows: np.ndarray, seed: int) -> np.ndarray:
        """All of `rows` in one order, of which the first n are about stratified for every n: by the rarest label of each row."""
        frequency = self.counts(rows)
        rarest = np.where(self.has[rows] > 0, frequency[None, :], np.iinfo(np.int64).max)
        of = np.full(len(self.has), self.has.shape[1], dtype=np.int32)  # the last one: rows without a label
        labelled = (self.has[rows] > 0).any(axis=1)
        of[rows[labelled]] = rarest[labelled].argmin(axis=1)
        return in_order_of_classes(rows, of, seed)


def _units(rows: np.ndarray, contents: np.ndarray | None) -> list[np.ndarray]:
    """What is dealt as one: the rows of each content, and every other row."""
    if contents is None:
        return [np.array([row]) for row in rows]
    groups = [rows[group] for group in repeated(contents[rows])]
    in_group = np.isin(rows, np.concatenate(groups)) if groups else np.zeros(len(rows), dtype=bool)
    return [*groups, *(np.array([row]) for row in rows[~in_group])]


def iterative_sides(labels: np.ndarray, sizes: np.ndarray, total: int, generator: np.random.Generator) -> np.ndarray:
    """Whether each of U units is drawn, so that `total` rows are at most, with about their share of each label. (U,) bool

    Args:
        labels: (U, K) how many rows of a unit have each label.
        sizes: (U,) rows of each.
        total: rows to draw.
        generator: decides the order in which units of one label are dealt.

    Of 4 rows with the labels {a}, {a}, {a, b}, {a, b} two are drawn. b is the rarer one and is dealt first: 1 is wanted on either
    side, so one {a, b} goes to each; of a 1 more is wanted on either side, so one {a} goes to each.
    """
    size = int(sizes.sum())
    share = total / size if size else 0.0
    room = np.array([total, size - total], dtype=np.float64)  # rows that are drawn, and that are left
    wanted = np.stack([share * labels.sum(axis=0), (1 - share) * labels.sum(axis=0)])  # (2, K)
    drawn = np.zeros(len(sizes), dtype=bool)
    open_units = np.ones(len(sizes), dtype=bool)
    remaining = labels.sum(axis=0).astype(np.int64)
    order = generator.permutation(len(sizes))

    def deal(unit: int, lacks: np.ndarray) -> None:
        """To the side that lacks more, where there is room; what does not fit what is drawn is left."""
        side = 0 if (lacks[0], room[0]) > (lacks[1], room[1]) else 1
        if room[side] < sizes[unit]:
            side = 1 - side
        if side == 0 and room[0] < sizes[unit]:
            side = 1
        drawn[unit] = side == 0
        room[side] -= sizes[unit]
        wanted[side] -= labels[unit]
        remaining[:] -= labels[unit]
        open_units[unit] = False

    while (remaining > 0).any():
        rarest = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for unit in order[open_units[order] & (labels[order, rarest] > 0)].tolist():
            deal(unit, wanted[:, rarest])
    for unit in order[open_units[order]].tolist():  # rows without a label
        deal(unit, room / max(1.0, float(room.sum())))
    return drawn
