"""Two runs beside each other: hand-worked tests of the arithmetic, and comparisons of whole run directories."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from run_factory import CLOTHES, REVIEWS, make_predictions, make_recipe, make_run
from typer.testing import CliRunner

from hftl.cli import app
from hftl.errors import RunError
from hftl.evaluation.compare import compare, holm, mcnemar, report
from hftl.evaluation.metrics import compute_metrics
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json, write_json, write_text
from hftl.names import CHOOSERS, ONE_LABEL
from hftl.run import RunDirectory, split_facts


def predicted(labels: list[int], answers: list[int], *, sure: float = 2.0, ids: list[str] | None = None) -> Predictions:
    """Predictions whose largest logit is that of the answer."""
    logits = np.zeros((len(labels), 2), dtype=np.float32)
    logits[np.arange(len(labels)), answers] = sure
    return Predictions(ids or [f"test/{i}" for i in range(len(labels))], np.array(labels, dtype=np.int64), logits)


def run_of(
    path: Path, predictions: Predictions, names: tuple[str, ...] = REVIEWS, *, split: str = "test", **data: Any
) -> RunDirectory:
    """A finished run whose predictions of the test split are these."""
    run, split = make_run(path), "test"
    predictions.save(run.predictions(split), names)
    metrics = read_json(run.metrics)
    metrics[split] = compute_metrics(predictions, names, skipped=0)
    write_json(run.metrics, metrics)
    known = read_json(run.data)
    known["splits"][split] = split_facts(predictions.ids, predictions.labels.tolist(), names)
    known["contents"] = {split: "the same rows"}
    write_json(run.data, {**known, **data})
    return run


def test_mcnemars_mid_p_is_that_of_a_coin() -> None:
    # 6 flips, 1 to one side: 2 (P(0) + P(1) / 2) = 2 (1 + 3) / 64
    assert mcnemar(1, 5) == pytest.approx(0.125)
    assert mcnemar(5, 1) == mcnemar(1, 5)
    assert mcnemar(0, 10) == pytest.approx(2 * 0.5 / 1024)
    assert mcnemar(3, 3) == pytest.approx(1.0)
    assert mcnemar(0, 0) == 1.0


def test_holms_correction_multiplies_the_smallest_by_all_and_never_turns_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_differences_flips_and_the_test_of_two_runs_by_hand(tmp_path: Path) -> None:
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    a = run_of(tmp_path / "a", predicted(labels, [0, 0, 0, 1, 1, 1, 0, 0]))  # wrong in rows 3, 6, 7
    b = run_of(tmp_path / "b", predicted(labels, [0, 0, 1, 0, 1, 1, 1, 1]))  # wrong in row 2
    found = compare([a, b])
    (pair,) = found.pairs
    assert (found.split, found.shared, found.rows) == ("test", 8, (8, 8))
    assert (pair.right_in_first_alone, pair.right_in_second_alone) == (1, 3)
    assert pair.p == pair.p_corrected == pytest.approx(2 * (1 + 4 / 2) / 16)
    accuracy = pair.differences[0]
    assert (accuracy.metric, accuracy.first, accuracy.second) == ("accuracy", 5 / 8, 7 / 8)
    assert accuracy.difference == pytest.approx(0.25)
    # One resampled row adds -1/8 with probability 1/8, +1/8 with 3/8: a standard error of 0.2165, and steps of 1/8.
    assert accuracy.interval is not None
    assert accuracy.interval == pytest.approx((0.25 - 1.96 * 0.2165, 0.25 + 1.96 * 0.2165), abs=1 / 8)
    assert pair.flips_by_class == (
        {"label": "neg", "n": 4, "first": 1, "second": 1},
        {"label": "pos", "n": 4, "first": 0, "second": 2},
    )
    assert found.table.to_pydict()["id"] == ["test/2", "test/3", "test/6", "test/7"]
    assert found.table.to_pydict()["b: prediction"] == ["pos", "neg", "pos", "pos"]


def test_the_interval_of_a_difference_is_narrower_than_two_intervals_where_the_same_rows_are_hard(tmp_path: Path) -> None:
    one = make_predictions(REVIEWS, 400, seed=1)
    other = replace(one, logits=one.logits + np.random.default_rng(0).normal(0, 0.05, one.logits.shape).astype(np.float32))
    pair = compare([run_of(tmp_path / "a", one), run_of(tmp_path / "b", other)]).pairs[0]
    for row in pair.differences:
        alone = compute_metrics(one, REVIEWS)[f"{row.metric}_interval"]
        assert row.interval is not None
        assert row.interval[0] <= row.difference <= row.interval[1]
        assert row.interval[1] - row.interval[0] < (alone[1] - alone[0]) / 2


def test_classes_in_another_order_are_the_same_classes(tmp_path: Path) -> None:
    one = make_predictions(CLOTHES, 60, seed=3)
    turned = tuple(reversed(CLOTHES))
    other = replace(one, labels=len(CLOTHES) - 1 - one.labels, logits=np.ascontiguousarray(one.logits[:, ::-1]))
    pair = compare([run_of(tmp_path / "a", one, CLOTHES), run_of(tmp_path / "b", other, turned)]).pairs[0]
    assert [row.difference for row in pair.differences] == pytest.approx([0] * len(CHOOSERS[ONE_LABEL]), abs=1e-9)
    assert (pair.right_in_first_alone, pair.right_in_second_alone, pair.p) == (0, 0, 1.0)


def test_only_the_rows_that_both_have_are_compared(tmp_path: Path) -> None:
    a = run_of(tmp_path / "a", predicted([0, 1, 0], [0, 1, 1]), fingerprint={"test": "x"}, contents={"test": "all"})
    some = predicted([1, 0], [0, 0], ids=["test/1", "test/2"])
    b = run_of(tmp_path / "b", some, fingerprint={"test": "x"}, contents={"test": "some"})
    found = compare([a, b])
    assert (found.shared, found.rows) == (2, (3, 2))
    assert (found.pairs[0].right_in_first_alone, found.pairs[0].right_in_second_alone) == (1, 1)
    assert "2 rows that all have, of 3, 2" in next(report(found))


def test_three_runs_make_three_pairs_with_corrected_p_values(tmp_path: Path) -> None:
    labels = [0, 1] * 20
    right, half = labels, [0] * 40
    runs = [run_of(tmp_path / name, predicted(labels, answers)) for name, answers in (("a", half), ("b", right), ("c", half))]
    found = compare(runs)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    raw, corrected = [pair.p for pair in found.pairs], [pair.p_corrected for pair in found.pairs]
    assert corrected == pytest.approx([3 * raw[0], 1.0, max(3 * raw[0], 2 * raw[2])])
    lines = "\n".join(report(found))
    assert "over 3 pairs (Holm)" in lines and "B is the better of these two models" in lines


def test_validation_is_compared_where_one_run_has_left_its_test_split_shut(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", test=False)
    for run in (a, b):
        write_json(run.data, read_json(run.data) | {"contents": {"validation": "the same rows"}})
    found = compare([a, b])
    assert found.split == "validation"
    assert not any("chooses by the test split" in line for line in report(found))
    with pytest.raises(RunError, match="no such file"):
        compare([a, b], split="test")


@pytest.mark.parametrize(
    ("answers", "names", "data", "said"),
    [
        ([0, 1], ("bad", "good"), {}, "tell other classes apart: .* has bad, good; only .* has neg, pos"),
        (
            [0, 1],
            REVIEWS,
            {"contents": {"test": "others"}, "fingerprint": {"test": "others"}},
            "read other test rows than .*their fingerprints differ",
        ),
        ([0, 1], REVIEWS, {"contents": {}, "fingerprint": {}}, "may have read other test rows than .*their fingerprints differ"),
    ],
)
def test_runs_that_did_not_see_the_same_rows_are_refused(
    tmp_path: Path, answers: list[int], names: tuple[str, ...], data: dict[str, Any], said: str
) -> None:
    a = run_of(tmp_path / "a", predicted([0, 1], answers))
    b = run_of(tmp_path / "b", predicted([0, 1], answers), names, **data)
    with pytest.raises(RunError, match=said):
        compare([a, b])


def test_rows_whose_labels_differ_are_another_version_of_the_data(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", predicted([0, 1], [0, 1])), run_of(tmp_path / "b", predicted([1, 0], [0, 1]))
    with pytest.raises(RunError, match=r"2 rows of the same id have another label in .*the first is test/0"):
        compare([a, b])


def test_one_run_the_same_run_and_an_unfinished_one_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    for runs in ([run], [run, RunDirectory(tmp_path / "a")]):
        with pytest.raises(RunError, match="needs two runs or more, and each of them once"):
            compare(runs)
    with pytest.raises(RunError, match="nothing: no run here"):
        compare([run, RunDirectory(tmp_path / "nothing")])
    begun = RunDirectory(tmp_path / "begun")
    begun.write_recipe(make_recipe())
    with pytest.raises(RunError, match=r"begun: the run is not finished; there is nothing to compare\. .*begun --resume"):
        compare([run, begun])


def test_the_recipes_difference_is_named_without_what_changes_nothing(tmp_path: Path) -> None:
    a, b = run_of(tmp_path / "a", predicted([0, 1], [0, 1])), run_of(tmp_path / "b", predicted([0, 1], [0, 1]))
    recipe = make_recipe(title="Another card")
    stages = {**recipe.stages, "head": recipe.stages["head"].model_copy(update={"lr": 5e-4})}
    write_text(b.recipe, recipe.model_copy(update={"name": "other", "stages": stages}).to_yaml())
    assert compare([a, b]).pairs[0].recipes == ("stages.head.lr: 0.001 -> 0.0005",)


def test_the_command_prints_writes_and_counts_in_json(tmp_path: Path) -> None:
    labels = [0, 0, 1, 1]
    a, b = run_of(tmp_path / "a", predicted(labels, [0, 1, 1, 1])), run_of(tmp_path / "b", predicted(labels, [0, 0, 1, 0]))
    flips = tmp_path / "out" / "flips.parquet"
    done = CliRunner().invoke(app, ["compare", str(a.path), str(b.path), "--output", str(flips)])
    assert done.exit_code == 0, done.output
    assert "right in one alone: A 1, B 1; McNemar's p 1.0000" in done.stdout
    assert "not settled" in done.stdout
    assert pq.read_table(flips)["id"].to_pylist() == ["test/1", "test/3"]
    done = CliRunner().invoke(app, ["compare", str(a.path), str(b.path), "--json"])
    assert json.loads(done.stdout)["pairs"][0]["right_in_first_alone"] == 1
