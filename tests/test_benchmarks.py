"""The benchmark's report: medians, ratios and intervals from hand-made results. The measurements themselves are not tests."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("report")


def result(side: str, repeat: int, seconds: float, *, correct: str = "1100", rows: str = "rows") -> dict[str, Any]:
    return {
        "job": "text-full",
        "side": side,
        "examples": 96,
        "repeat": repeat,
        "seconds": seconds,
        "correct": correct,
        "test_rows": rows,
        "peak_rss": 2e9,
        "threads": 2,
        "versions": {"torch": "2.14.1"},
        "machine": {"processor": "EPYC", "cores": 2, "memory_gb": 25, "gpu": None, "load_before": 0.1},
        "commit": "abc",
    }


def three(side: str, *seconds: float, **values: Any) -> list[dict[str, Any]]:
    return [result(side, repeat, taken, **values) for repeat, taken in enumerate(seconds)]


def test_the_ratio_is_that_of_the_medians_and_its_spread_that_of_the_repeats(report: Any) -> None:
    # Medians 10 and 50; repeat by repeat 40/8 = 5, 50/10 = 5, 90/20 = 4.5.
    (found,) = report.compare([*three("hftl", 8.0, 10.0, 20.0), *three("trainer", 40.0, 50.0, 90.0)])
    assert (found.ours, found.theirs, found.ratio, found.ratios) == (10.0, 50.0, 5.0, (5.0, 5.0, 4.5))
    assert found.verdict == "reached"  # the target is 4


def test_a_ratio_below_the_target_is_called_missed(report: Any) -> None:
    found = report.compare([*three("hftl", 10.0), *three("trainer", 39.9)])
    assert found[0].verdict == "**missed**"
    assert "| 10.0 s | 39.9 s | 1, 1 | **3.99** | 4 | **missed** |" in report.time_table(found)


def test_a_median_is_of_all_repeats_of_a_side_and_a_pair_of_the_same_repeat(report: Any) -> None:
    # hftl 10, 1, 4: median 4. The rival once, in repeat 0: 50 / 4 = 12.5, and 50 / 10 = 5 for the only pair.
    (found,) = report.compare([*three("hftl", 10.0, 1.0, 4.0), *three("trainer", 50.0)])
    assert (found.repeats, found.ratio, found.ratios) == ((3, 1), 12.5, (5.0,))
    assert report.compare(three("hftl", 10.0)) == []


def test_a_fast_side_with_a_lower_accuracy_has_not_simply_reached_its_target(report: Any) -> None:
    ours, theirs = "0" * 50 + "1" * 50, "1" * 100
    (found,) = report.compare([*three("hftl", 1.0, correct=ours), *three("trainer", 9.0, correct=theirs)])
    assert found.worse and found.verdict == "reached, **with a lower accuracy**"


def test_the_difference_of_two_accuracies_is_paired_by_row(report: Any) -> None:
    # Differences 0, 1, 0, 0: mean 0.25, variance 0.75 / 3 = 0.25, standard error sqrt(0.25 / 4) = 0.25.
    assert report.paired_difference(["1100"], ["1000"]) == pytest.approx((0.25, 0.25 - 0.49, 0.25 + 0.49))
    # Over two repeats the rows are 1, 0.5, 0, 0 against 1, 0.5, 0, 0.
    assert report.paired_difference(["1100", "1000"], ["1000", "1100"]) == (0.0, 0.0, 0.0)


def test_sides_that_were_tested_on_different_rows_are_not_compared(report: Any) -> None:
    with pytest.raises(ValueError, match="not tested on the same rows"):
        report.compare([*three("hftl", 1.0), *three("trainer", 2.0, rows="others")])


def test_the_interval_of_a_share_is_wilsons(report: Any) -> None:
    assert report.wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_what_was_not_measured_is_named(report: Any) -> None:
    absent = report.missing(report.compare([*three("hftl", 1.0), *three("trainer", 9.0)]))
    assert not any("Trainer: float32" in line and "full stage" in line for line in absent)
    assert any("fastai" in line for line in absent)


def test_the_page_is_written_between_its_marks_and_nowhere_else(report: Any, tmp_path: Path) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs"
    (results / "cpu").mkdir(parents=True)
    docs.mkdir()
    (docs / "performance.md").write_text("Before.\n<!-- begin: cpu -->old<!-- end: cpu -->\nAfter.\n")
    for number, made in enumerate([*three("hftl", 8.0, 10.0, 20.0), *three("trainer", 40.0, 50.0, 90.0)]):
        (results / "cpu" / f"{number}.json").write_text(json.dumps(made))
    report.write_report(results, docs)
    page = (docs / "performance.md").read_text()
    assert page.startswith("Before.\n<!-- begin: cpu -->") and page.endswith("<!-- end: cpu -->\nAfter.\n")
    assert "| 3, 3 | **5.00** [4.50, 5.00] |" in page and "old" not in page
    assert (docs / "figures" / "benchmarks_cpu.png").stat().st_size > 1000


def test_a_page_without_marks_is_refused(report: Any) -> None:
    with pytest.raises(ValueError, match="begin: cpu"):
        report.replace_between("a page", "cpu", "text")


def test_the_page_in_the_repository_has_marks_for_both_kinds_of_machine(report: Any) -> None:
    page = (BENCHMARKS.parent / "docs" / "performance.md").read_text()
    for device in ("cpu", "cuda"):
        report.replace_between(page, device, "")


def test_the_roofline_is_a_share_of_the_matrix_rate(report: Any) -> None:
    made = {"title": "MiniLM", "step": "32 examples", "precision": "bf16", "matrix_side": 1024}
    table = report.roofline_table([{**made, "step_flops_per_second": 80e9, "matrix_flops_per_second": 200e9}])
    assert "| MiniLM | 32 examples, bf16 | 80.0 GFLOP/s | 200 GFLOP/s | 40 % | 1,024 |" in table
