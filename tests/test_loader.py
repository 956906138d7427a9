from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hftl.data.batches import (
    AGAIN,
    Position,
    deal,
    draw_epoch,
    expected_draws,
    micro_batches,
    padded_width,
    padding_share,
    plan_epoch,
    steps_per_epoch,
    width_multiple,
)
from hftl.data.loader import Batch, evaluation_batches, training_batches

NO_LIMIT = 10**9


class Numbers:
    """Samples whose only input is their own index and epoch."""

    fingerprint = "0" * 64

    def __init__(self, size: int, lengths: Sequence[int] | None = None) -> None:
        self.ids = [f"train/{i}" for i in range(size)]
        self.targets = np.array([i % 2 for i in range(size)])
        self.lengths = lengths
        self.sizes = list(range(size))
        self.size_unit: Literal["tokens"] = "tokens"
        self.weights: None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        epoch, index = position
        return {"epoch": epoch, "index": index}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([sample[name] for sample in samples]) for name in ("epoch", "index")}

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        return {name: tensor.to(device) + 0.5 for name, tensor in inputs.items()}


def listed(arrays: Sequence[np.ndarray]) -> list[list[int]]:
    return [array.tolist() for array in arrays]


def tokens_of(batch: Batch, lengths: Sequence[int]) -> int:
    widest: int = max(8 * -(-lengths[i] // 8) for i in batch.index.tolist())
    return widest * len(batch.index)


def test_seven_examples_are_dealt_to_two_processes_and_two_micro_batches() -> None:
    step = np.arange(7)

    def indices(rank: int) -> list[list[int]]:
        parts = micro_batches(step, accumulation=2, processes=2, lengths=None, tokens_per_batch=NO_LIMIT)
        return [[p.index for p in deal(part, step, epoch=1, processes=2, rank=rank)] for part in parts]

    assert indices(0) == [[0, 4], [1, 5]]
    assert indices(1) == [[2, 6], [3]]


def test_a_process_without_an_example_gets_padding_that_does_not_count() -> None:
    step = np.array([8])
    assert deal(step, step, epoch=3, processes=2, rank=1) == [Position(3, 8, is_padding=True)]


def test_a_budget_of_tokens_cuts_a_step_into_micro_batches_of_similar_length() -> None:
    # Sorted: 8, 8, 16, 16, 24 tokens. 4 x 8 would hold both of 8, and 16 a third time: 48 > 32. One of 24 stands alone.
    lengths = np.array([24, 8, 16, 8, 16])
    parts = micro_batches(np.arange(5), accumulation=1, processes=1, lengths=lengths, tokens_per_batch=32)
    assert listed(parts) == [[1, 3], [2, 4], [0]]


def test_the_budget_is_that_of_one_process_and_counts_the_padding_to_multiples_of_eight() -> None:
    # 9 tokens are padded to 16: two of them fill 32, so two processes compute four at once, and the last two are the rest.
    lengths = np.full(6, 9)
    parts = micro_batches(np.arange(6), accumulation=1, processes=2, lengths=lengths, tokens_per_batch=32)
    assert listed(parts) == [[0, 1, 2, 3], [4, 5]]
    assert padded_width(np.array([1, 8, 9])).tolist() == [8, 8, 16]


def test_a_text_longer_than_the_budget_is_computed_all_the_same() -> None:
    parts = micro_batches(np.arange(4), accumulation=1, processes=2, lengths=np.full(4, 100), tokens_per_batch=50)
    assert listed(parts) == [[0, 1], [2, 3]]


def test_the_budget_cuts_the_equal_parts_of_gradient_accumulation_further() -> None:
    lengths = np.array([8, 8, 8, 8, 16, 16])
    parts = micro_batches(np.arange(6), accumulation=2, processes=1, lengths=lengths, tokens_per_batch=16)
    assert listed(parts) == [[0, 2], [4], [1, 3], [5]]


def test_a_step_of_the_longest_texts_is_one_micro_batch_by_default() -> None:
    samples = Numbers(64, lengths=[512] * 64)
    assert [batch.completes_step for batch in training_batches(samples, batch_size=32, seed=0, epoch=0)] == [True, True]
    halves = training_batches(samples, batch_size=32, seed=0, epoch=0, tokens_per_batch=8_192)
    assert [batch.completes_step for batch in halves] == [False, True, False, True]


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
    accumulation=st.integers(1, 3),
    processes=st.integers(1, 3),
    budget=st.integers(1, 300),
)
@settings(deadline=None, max_examples=50)
def test_no_budget_changes_the_steps_and_every_process_has_as_many_micro_batches(
    lengths: list[int], batch_size: int, accumulation: int, processes: int, budget: int
) -> None:
    samples = Numbers(len(lengths), lengths)
    per_rank = [
        list(
            training_batches(
                samples,
                batch_size=batch_size,
                seed=3,
                epoch=1,
                accumulation=accumulation,
                tokens_per_batch=budget,
                processes=processes,
                rank=rank,
            )
        )
        for rank in range(processes)
    ]
    assert len({tuple(batch.completes_step for batch in batches) for batches in per_rank}) == 1
    steps: list[list[int]] = [[]]
    total = 0.0
    for together in zip(*per_rank, strict=True):
        for batch in together:
            counted = batch.weight > 0
            steps[-1] += batch.index[counted].tolist()
            total += float(batch.weight.sum())
            assert len(batch.index) == 1 or tokens_of(batch, lengths) <= budget
        if together[0].completes_step:
            assert total == pytest.approx(1.0)
            steps.append([])
            total = 0.0
    assert steps.pop() == []
    planned = plan_epoch(len(lengths), batch_size=batch_size, seed=3, epoch=1, lengths=lengths)
    assert [sorted(step) for step in steps] == [sorted(step.tolist()) for step in planned]


def test_an_epoch_cut_by_tokens_starts_again_at_any_step() -> None:
    samples = Numbers(40, lengths=[1 + 7 * i % 50 for i in range(40)])

    def batches(start: int) -> list[tuple[list[int], bool]]:
        made = training_batches(samples, batch_size=8, seed=0, epoch=0, start=start, tokens_per_batch=100)
        return [(batch.index.tolist(), batch.completes_step) for batch in made]

    whole = batches(0)
    ends = [0, *(place + 1 for place, (_, completes) in enumerate(whole) if completes)]
    assert len(ends) == 6 and len(whole) > 10
    assert all(batches(step) == whole[end:] for step, end in enumerate(ends))


def test_padding_share_is_that_of_the_batches_that_are_made() -> None:
    # One step of 6 and 8 tokens: 2 of 16. With a budget of 8 each is alone, and 6 is still padded to 8.
    assert padding_share([6, 8], batch_size=2, seed=0, epoch=0) == pytest.approx(2 / 16)
    assert padding_share([6, 8], batch_size=2, seed=0, epoch=0, tokens_per_batch=8) == pytest.approx(2 / 16)
    assert padding_share([8, 16], batch_size=2, seed=0, epoch=0) == pytest.approx(8 / 32)
    assert padding_share([8, 16], batch_size=2, seed=0, epoch=0, tokens_per_batch=16) == 0
    lengths = [1 + (i * 7919) % 500 for i in range(500)]
    samples = Numbers(500, lengths)
    for processes in (1, 3):
        computed = sum(
            tokens_of(batch, lengths)
            for rank in range(processes)
            for batch in training_batches(
                samples, batch_size=32, seed=1, epoch=2, tokens_per_batch=2_000, processes=processes, rank=rank
            )
            if batch.weight[0] > 0
        )
        share = padding_share(lengths, batch_size=32, seed=1, epoch=2, tokens_per_batch=2_000, processes=processes)
        assert share == pytest.approx(1 - sum(lengths) / computed)


def test_a_batch_is_prepared_for_the_model_by_its_samples_and_only_once() -> None:
    (batch,) = training_batches(Numbers(2), batch_size=2, seed=0, epoch=3)
    moved = batch.to(torch.device("cpu"))
    assert batch.inputs["epoch"].tolist() == [3, 3]
    assert moved.inputs["epoch"].tolist() == moved.to(torch.device("cpu")).inputs["epoch"].tolist() == [3.5, 3.5]
    assert (
        moved.targets.tolist() == batch.targets.tolist() == [index % 2 for index in batch.index.tolist()] and moved.completes_step
    )


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
        parts = micro_batches(step, accumulation=accumulation, processes=processes, lengths=None, tokens_per_batch=1)
        assert len(parts) == accumulation
        for part in parts:
            dealt = [deal(part, step, epoch=epoch, processes=processes, rank=rank) for rank in range(processes)]
            assert all(dealt)
            seen += [position.index for share in dealt for position in share if not position.is_padding]
    assert sorted(seen) == list(range(size))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return listed(plan_epoch(50, batch_size=8, seed=seed, epoch=epoch))

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def test_length_grouping_puts_texts_of_similar_length_into_one_step() -> None:
    lengths = [1 + (i * 7919) % 500 for i in range(2_000)]

    def padded(steps: list[np.ndarray]) -> int:
        return sum(max(lengths[i] for i in step) * len(step) for step in steps)

    grouped = padded(plan_epoch(2_000, batch_size=16, seed=0, epoch=0, lengths=lengths))
    random = padded(plan_epoch(2_000, batch_size=16, seed=0, epoch=0))
    assert sum(lengths) <= grouped < 1.05 * sum(lengths)
    assert random > 1.7 * sum(lengths)


def test_batches_of_a_small_set_differ_from_epoch_to_epoch() -> None:
    lengths = list(range(1, 65))  # all different: sorted as one pool, these 16 batches would be the same in every epoch

    def batches(epoch: int) -> set[frozenset[int]]:
        return {frozenset(step.tolist()) for step in plan_epoch(64, batch_size=4, seed=0, epoch=epoch, lengths=lengths)}

    assert len(batches(1) & batches(2)) <= 1


def test_a_pool_is_a_quarter_of_a_small_epoch_and_fifty_batches_of_a_large_one() -> None:
    def spread(size: int) -> int:
        """Most distance in length in a batch of two; a pool of n different lengths out of 4,000 leaves about 4,000 / n."""
        lengths = np.random.default_rng(0).permutation(4_000)[:size]
        return int(np.median([np.ptp(lengths[step]) for step in plan_epoch(size, batch_size=2, seed=0, epoch=0, lengths=lengths)]))

    assert 4_000 / 4 / 3 < spread(16) < 4_000 / 4 * 2
    assert 4_000 / 100 / 3 < spread(400) < 4_000 / 100 * 2
    assert 4_000 / 100 / 3 < spread(4_000) < 4_000 / 100 * 2


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
    expected = listed(plan_epoch(9, batch_size=4, seed=5, epoch=2))
    assert [batch.index.tolist() for batch in batches] == expected
    assert {int(epoch) for batch in batches for epoch in batch.inputs["epoch"]} == {2}


@pytest.mark.parametrize("lengths", [None, [1 + 5 * i for i in range(11)]])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_gives_each_process_as_many_batches_and_each_example_once(processes: int, lengths: list[int] | None) -> None:
    samples = Numbers(11, lengths)
    per_rank = [
        list(evaluation_batches(samples, batch_size=2, tokens_per_batch=100, processes=processes, rank=rank))
        for rank in range(processes)
    ]
    assert len({len(batches) for batches in per_rank}) == 1
    seen = [int(i) for batches in per_rank for batch in batches for i, w in zip(batch.index, batch.weight, strict=True) if w > 0]
    assert sorted(seen) == list(range(11))


def test_evaluation_takes_the_longest_texts_first_and_fills_each_batch_with_tokens() -> None:
    # Padded: 16, 72, 8, 72, 32. A budget of 80 holds one of 72, then 2 x 32, then the last.
    lengths = [9, 70, 1, 71, 30]
    batches = list(evaluation_batches(Numbers(5, lengths), batch_size=1, tokens_per_batch=80))
    assert [batch.index.tolist() for batch in batches] == [[3], [1], [4, 0], [2]]


def test_evaluation_takes_pictures_by_their_number_in_the_view_that_is_asked_for() -> None:
    batches = list(evaluation_batches(Numbers(5), batch_size=2, tokens_per_batch=1, epoch=7))
    assert [batch.index.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert {int(epoch) for batch in batches for epoch in batch.inputs["epoch"]} == {7}


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_an_evaluation_can_go_on_after_the_batches_that_a_process_has_done(processes: int) -> None:
    samples = Numbers(11, lengths=list(range(1, 12)))
    for rank in range(processes):

        def batches(start: int, rank: int = rank) -> list[tuple[list[int], list[float]]]:
            made = evaluation_batches(samples, batch_size=1, tokens_per_batch=24, processes=processes, rank=rank, start=start)
            return [(batch.index.tolist(), batch.weight.tolist()) for batch in made]

        whole = batches(0)
        assert all(batches(start) == whole[start:] for start in range(len(whole) + 1))


def test_many_short_texts_are_padded_to_multiples_of_two_and_all_others_of_eight() -> None:
    assert width_multiple([5, 64] * 500) == 2
    assert width_multiple([5, 64] * 499) == 8  # few
    assert width_multiple([5, 65] * 500) == 8  # one is longer
    # Steps of one text: of 5, 6, 13 and 64 tokens 6, 6, 14 and 64 are computed.
    assert padding_share([5, 6, 13, 64] * 250, batch_size=1, seed=0, epoch=0) == pytest.approx(2 / 90)


# --- sampling -----------------------------------------------------------------------------------------------------------------

ONE_TO_FOUR = np.array([0, 1, 1, 1, 1])


def test_an_example_is_expected_as_often_as_its_class_asks() -> None:
    assert expected_draws(ONE_TO_FOUR, "balanced").tolist() == pytest.approx([2.5, 0.625, 0.625, 0.625, 0.625])
    assert expected_draws(ONE_TO_FOUR, "sqrt").tolist() == pytest.approx([5 / 3, 5 / 6, 5 / 6, 5 / 6, 5 / 6])  # 1 : 2
    assert expected_draws(np.array([3, 1, 3, 1]), "balanced").tolist() == [1.0] * 4  # classes 0 and 2 have no example


def test_an_example_of_several_labels_is_drawn_as_its_rarest_one_and_one_of_none_as_those() -> None:
    # The first label is there 4 times, the second once, and 2 examples have none: 4, 4, 4, 1 and 2, 2.
    targets = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [0, 0], [0, 0]], dtype=np.int8)
    shares = np.array([1 / 4, 1 / 4, 1 / 4, 1, 1 / 2, 1 / 2])
    assert expected_draws(targets, "balanced").tolist() == pytest.approx((6 * shares / shares.sum()).tolist())
    assert expected_draws(targets, "sqrt").tolist() == pytest.approx((6 * shares**0.5 / (shares**0.5).sum()).tolist())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.sampled_from(["balanced", "sqrt"]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_an_epoch_draws_each_example_its_expected_number_of_times_rounded_up_or_down(
    labels: list[int], how: Any, epoch: int
) -> None:
    targets = np.array(labels)
    drawn, expected = draw_epoch(targets, how, seed=1, epoch=epoch), expected_draws(targets, how)
    times = np.bincount(drawn.rows, minlength=len(targets))
    assert len(drawn.rows) == len(targets)
    assert (times >= np.floor(expected - 1e-9)).all() and (times <= np.ceil(expected + 1e-9)).all()
    for row in range(len(targets)):
        assert drawn.before[drawn.rows == row].tolist() == list(range(times[row]))


def test_balanced_epochs_have_each_class_as_often_and_go_through_the_frequent_one() -> None:
    targets = np.repeat([0, 1, 2], [10, 90, 200])
    epochs = [draw_epoch(targets, "balanced", seed=0, epoch=epoch).rows for epoch in range(8)]
    assert all(np.bincount(targets[rows]).tolist() == [100, 100, 100] for rows in epochs)
    assert len(set(np.concatenate(epochs).tolist())) > 298  # half of the largest class in each epoch, and another half in the next
    assert not np.array_equal(epochs[0], epochs[1])
    assert np.array_equal(epochs[3], draw_epoch(targets, "balanced", seed=0, epoch=3).rows)
    roots = np.bincount(targets[draw_epoch(targets, "sqrt", seed=0, epoch=0).rows])
    assert roots == pytest.approx(300 * np.sqrt([10, 90, 200]) / np.sqrt([10, 90, 200]).sum(), abs=1)  # 35, 106, 159


class Rare(Numbers):
    """One example in ten is of class 0."""

    def __init__(self, size: int, lengths: Sequence[int] | None = None) -> None:
        super().__init__(size, lengths)
        self.targets = np.array([min(i % 10, 1) for i in range(size)])


@pytest.mark.parametrize("lengths", [None, [(i * 7919) % 50 + 1 for i in range(60)]], ids=["pictures", "texts"])
def test_sampled_steps_are_the_same_on_any_number_of_processes_and_from_any_step_on(lengths: list[int] | None) -> None:
    samples = Rare(60, lengths)

    def steps(*, processes: int = 1, start: int = 0, accumulation: int = 1) -> list[list[tuple[int, int]]]:
        per_rank = [
            training_batches(
                samples,
                batch_size=8,
                seed=0,
                epoch=2,
                start=start,
                accumulation=accumulation,
                sampling="balanced",
                tokens_per_batch=100,
                processes=processes,
                rank=rank,
            )
            for rank in range(processes)
        ]
        found: list[list[tuple[int, int]]] = [[]]
        for batches in zip(*per_rank, strict=True):
            for batch in batches:
                counted = batch.weight > 0
                found[-1] += zip(batch.inputs["epoch"][counted].tolist(), batch.index[counted].tolist(), strict=True)
            if batches[0].completes_step:
                found.append([])
        return [sorted(step) for step in found[:-1]]

    whole = steps()
    assert [len(step) for step in sorted(whole, key=len)] == [4, *[8] * 7]
    classes = np.bincount([samples.targets[index] for step in whole for _, index in step])
    assert classes.tolist() == [30, 30]
    assert steps(processes=3) == whole == steps(accumulation=3)
    assert steps(start=5) == whole[5:]


def test_an_example_that_is_drawn_again_in_an_epoch_is_seen_in_another_view() -> None:
    samples = Rare(60)
    epochs = [
        [
            (epoch, index)
            for batch in training_batches(samples, batch_size=8, seed=0, epoch=number, sampling="balanced")
            for epoch, index in zip(batch.inputs["epoch"].tolist(), batch.index.tolist(), strict=True)
        ]
        for number in (1, 2)
    ]
    seen = [view for epoch in epochs for view in epoch]
    assert len(set(seen)) == len(seen) == 120  # of 6 examples 5 views an epoch
    views = sorted(epoch for epoch, index in epochs[0] if index == 0)
    assert views == [1, 1 + AGAIN, 1 + 2 * AGAIN, 1 + 3 * AGAIN, 1 + 4 * AGAIN]
    assert len({view % 5 for view in views}) == 5  # also where there are five of each, and with two of them these in turn
    assert [view % 2 for view in views] == [1, 0, 1, 0, 1]
