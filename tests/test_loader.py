from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hftl.data.loader import Position, deal, evaluation_batches, plan_epoch, steps_per_epoch, training_batches


class Numbers:
    """Samples whose only input is their own index and epoch."""

    def __init__(self, size: int, lengths: Sequence[int] | None = None) -> None:
        self.ids = [f"train/{i}" for i in range(size)]
        self.labels = [i % 2 for i in range(size)]
        self.lengths = lengths
        self.sizes = list(range(size))
        self.size_unit: Literal["tokens"] = "tokens"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        epoch, index = position
        return {"epoch": epoch, "index": index, "label": self.labels[index]}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        columns = {"epoch": "epoch", "index": "index", "labels": "label"}
        return {name: torch.tensor([sample[key] for sample in samples]) for name, key in columns.items()}


def test_seven_examples_are_dealt_to_two_processes_and_two_micro_batches() -> None:
    def indices(rank: int) -> list[list[int]]:
        return [[p.index for p in micro] for micro in deal(range(7), epoch=1, accumulation=2, processes=2, rank=rank)]

    assert indices(0) == [[0, 4], [1, 5]]
    assert indices(1) == [[2, 6], [3]]


def test_a_process_without_an_example_gets_a_filler_that_does_not_count() -> None:
    (micro_batch,) = deal([8], epoch=3, accumulation=1, processes=2, rank=1)
    assert micro_batch == [Position(3, 8, counts=False)]


def test_the_last_step_may_be_smaller_and_none_is_dropped() -> None:
    assert steps_per_epoch(100, 32) == 4
    assert sorted(len(step) for step in plan_epoch(100, batch_size=32, seed=0, epoch=0)) == [4, 32, 32, 32]


def test_a_last_step_of_one_example_joins_the_one_before() -> None:
    assert steps_per_epoch(65, 32) == 2
    assert [len(step) for step in plan_epoch(65, batch_size=32, seed=0, epoch=0)] == [32, 33]
    assert steps_per_epoch(1, 32) == 1 and steps_per_epoch(3, 1) == 3


@given(
    size=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 100),
    processes=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    grouped=st.booleans(),
)
@settings(deadline=None)
def test_every_example_is_in_exactly_one_place_of_an_epoch(
    size: int, batch_size: int, seed: int, epoch: int, processes: int, accumulation: int, grouped: bool
) -> None:
    lengths = [(i * 37) % 50 for i in range(size)] if grouped else None
    steps = plan_epoch(size, batch_size=batch_size, seed=seed, epoch=epoch, lengths=lengths)
    seen: list[int] = []
    for step in steps:
        ranks = [deal(step, epoch=epoch, accumulation=accumulation, processes=processes, rank=rank) for rank in range(processes)]
        assert {len(micro_batches) for micro_batches in ranks} == {accumulation}
        seen += [p.index for micro_batches in ranks for micro in micro_batches for p in micro if p.counts]
    assert sorted(seen) == list(range(size))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return plan_epoch(50, batch_size=8, seed=seed, epoch=epoch)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_length_grouping_puts_texts_of_similar_length_into_one_step() -> None:
    lengths = [1 + (i * 7919) % 500 for i in range(2_000)]

    def padded(steps: list[list[int]]) -> int:
        return sum(max(lengths[i] for i in step) * len(step) for step in steps)

    grouped = padded(plan_epoch(2_000, batch_size=16, seed=0, epoch=0, lengths=lengths))
    random = padded(plan_epoch(2_000, batch_size=16, seed=0, epoch=0))
    assert sum(lengths) <= grouped < 1.05 * sum(lengths)
    assert random > 1.7 * sum(lengths)


def test_the_weights_of_a_step_sum_to_one_over_all_processes_and_micro_batches() -> None:
    samples = Numbers(10)
    per_rank = [
        list(training_batches(samples, batch_size=7, seed=0, epoch=0, accumulation=2, processes=3, rank=rank)) for rank in range(3)
    ]
    assert [batch.completes_step for batch in per_rank[0]] == [False, True, False, True]
    for step in range(2):
        total = sum(float(batch.weight.sum()) for batches in per_rank for batch in batches[2 * step : 2 * step + 2])
        assert total == pytest.approx(1.0)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without_workers(workers: int) -> None:
    batches = list(training_batches(Numbers(9), batch_size=4, seed=5, epoch=2, workers=workers))
    expected = plan_epoch(9, batch_size=4, seed=5, epoch=2)
    assert [batch.index.tolist() for batch in batches] == expected
    assert {int(epoch) for batch in batches for epoch in batch.inputs["epoch"]} == {2}


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_gives_each_process_as_many_batches_and_each_example_once(processes: int) -> None:
    samples = Numbers(11, lengths=list(range(11)))
    per_rank = [list(evaluation_batches(samples, batch_size=2, processes=processes, rank=rank)) for rank in range(processes)]
    assert len({len(batches) for batches in per_rank}) == 1
    seen = [int(i) for batches in per_rank for batch in batches for i, w in zip(batch.index, batch.weight, strict=True) if w > 0]
    assert sorted(seen) == list(range(11))


def test_evaluation_takes_the_longest_texts_first() -> None:
    batches = list(evaluation_batches(Numbers(5, lengths=[3, 9, 1, 9, 4]), batch_size=2))
    assert [batch.index.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
