"""The records of a run's files: what is taken, and what is refused by its file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
import pytest
from run_factory import make_run

from hftl.errors import RunError
from hftl.evaluation.metrics import POINT_VALUES, compute_metrics
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json, to_json, write_json
from hftl.names import METRICS
from hftl.records.audit import read_audit
from hftl.records.baseline import read_baseline
from hftl.records.data import read_data
from hftl.records.environment import read_environment, read_finished_environment
from hftl.records.history import read_history, read_stage_ends
from hftl.records.metrics import as_split_metrics, interval_of, read_metrics, value_of
from hftl.records.openings import read_openings, read_test_ledger
from hftl.records.plan import read_plan
from hftl.records.shape import as_record
from hftl.records.trial import read_trial_record
from hftl.run import RunDirectory


class Inner(TypedDict):
    number: float


class Small(TypedDict):
    name: str
    count: int
    sure: bool
    word: Literal["one", "two"]
    either: Inner | None
    pair: Annotated[list[float], 2]
    by_name: dict[str, list[Inner]]
    maybe: NotRequired[str]


GOOD: dict[str, Any] = {
    "name": "a",
    "count": 1,
    "sure": True,
    "word": "one",
    "either": None,
    "pair": [0, 0.5],
    "by_name": {"x": [{"number": 1}]},
}


def test_a_record_is_the_value_itself_with_every_key_that_it_came_with() -> None:
    value = {"more": [1], **GOOD, "maybe": "b"}
    assert as_record(value, Small, source="f") is value and next(iter(value)) == "more"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": None}, '"name" is null, and should be a text'),
        ({"count": 1.0}, '"count" is 1.0, and should be a whole number'),
        ({"count": True}, '"count" is true, and should be a whole number'),
        ({"sure": 1}, '"sure" is 1, and should be true or false'),
        ({"word": "three"}, '"word" is "three", and should be "one" or "two"'),
        ({"either": 3}, '"either" is 3, and should be an object or null'),
        ({"either": {}}, 'there is no "either.number"'),
        ({"pair": [0.5]}, '"pair" has 1 entries, and should have 2'),
        ({"pair": {}}, '"pair" is an object, and should be a list'),
        ({"pair": [0.5, "x"]}, '"pair[1]" is "x", and should be a number'),
        ({"by_name": []}, '"by_name" is a list, and should be an object'),
        ({"by_name": {"x": [{"number": 1}, {"number": True}]}}, '"by_name.x[1].number" is true, and should be a number'),
        ({"maybe": None}, '"maybe" is null, and should be a text'),
    ],
)
def test_what_is_not_as_the_record_says_is_named_by_its_place(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError) as refused:
        as_record(GOOD | change, Small, source="runs/x/f.json")
    assert str(refused.value).startswith(f"runs/x/f.json: {said}. ")


@pytest.mark.parametrize("key", list(GOOD))
def test_a_key_that_is_missing_is_named(key: str) -> None:
    with pytest.raises(RunError, match=f'f.json: there is no "above.{key}"'):
        as_record({name: value for name, value in GOOD.items() if name != key}, Small, source="f.json", key="above")


@pytest.mark.parametrize("family", ["transformer", "timm", "textcnn"])
def test_every_record_of_a_run_is_read_as_it_lies_on_the_disk(tmp_path: Path, family: str) -> None:
    run = make_run(tmp_path / "run", family=family)
    plan = read_plan(run)
    for path, record in (
        (run.plan, plan),
        (run.data, read_data(run)),
        (run.audit, read_audit(run)),
        (run.environment, read_environment(run)),
        (run.environment, read_finished_environment(run)),
        (run.metrics, read_metrics(run)),
    ):
        assert to_json(record) == path.read_text(encoding="utf-8")  # the order of its keys, too
    assert [opening["purpose"] for opening in read_openings(run)] == ["train"]
    assert read_test_ledger(run) is None and read_baseline(run) is None
    assert [end["stage"] for end in read_stage_ends(run, plan)] == ["head", "top", "all"]


@pytest.mark.parametrize(("labels", "classes"), [([0, 1, 1], 2), ([0, 0, 0], 2), ([0, 1, 2, 3, 3], 5)])
def test_what_is_computed_of_a_split_is_a_record_of_it(labels: list[int], classes: int) -> None:
    logits = np.random.default_rng(0).normal(size=(len(labels), classes)).astype(np.float32)
    predictions = Predictions([str(i) for i in range(len(labels))], np.array(labels), logits)
    values = compute_metrics(predictions, [f"class {k}" for k in range(classes)], skipped=2)
    record = as_split_metrics(values, source="metrics.json")
    assert (record["n"], record["skipped"]) == (len(labels), 2)
    for name in METRICS:
        assert value_of(record, name) == values.get(name) and interval_of(record, name) == values.get(f"{name}_interval")
    assert set(POINT_VALUES) <= set(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.update(kappa="high"), '"test.kappa" is "high"'),
        (lambda values: values.update(mcc_interval=[0.1]), '"test.mcc_interval" has 1 entries'),
        (
            lambda values: values.update(confusion=[[1, 2]]),
            'test: "confusion" has not a row and a column for each',
        ),
        (lambda values: values["per_class"][0].update(f1=None), 'test: the class "neg" has examples, and so it has a recall'),
        (lambda values: values.update(by_size=[]), 'test: "by_size" has no row'),
        (lambda values: values.update(n=0), "test: there is no example"),
        (lambda values: values.update(target="ranks"), 'metrics of the target "ranks", none of one_label'),
    ],
)
def test_metrics_that_no_split_can_have_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    run = make_run(tmp_path / "run", n=40)
    metrics = read_json(run.metrics)
    change(metrics["test"])
    write_json(run.metrics, metrics)
    with pytest.raises(RunError) as refused:
        read_metrics(run)
    assert str(refused.value).startswith(f"{run.metrics}: ") and said in str(refused.value)


def test_data_of_a_kind_tell_of_that_kind(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_json(run.data, read_json(run.data) | {"kind": "image"})
    with pytest.raises(RunError, match=r'data\.json: there is no "image"'):
        read_data(run)


def test_a_run_that_has_only_begun_has_an_environment_without_what_it_took(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    begun = {key: value for key, value in read_json(run.environment).items() if key not in ("seconds", "cpu_energy_joules")}
    write_json(run.environment, begun)
    assert read_environment(run)["sessions"] == 1
    with pytest.raises(RunError, match=r'environment\.json: there is no "seconds"'):
        read_finished_environment(run)


def test_a_line_of_the_history_is_named_by_its_number_and_a_stage_without_an_end_by_its_name(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.history.write_text('{"event": "continued"}\n{"event": "stage_end", "stage": "head"}\n')
    with pytest.raises(RunError, match=r'history\.jsonl, line 2: there is no "best_epoch"'):
        read_history(run)
    run.history.write_text('{"event": "stage_end", "stage": "head", "best_epoch": 1, "best_metric": 0.5, "kept": true}\n')
    plan = read_plan(make_run(tmp_path / "run"))
    with pytest.raises(RunError, match=r"history\.jsonl: has no end of all, top, which plan\.json has as a stage"):
        read_stage_ends(run, plan)


def test_a_baseline_is_a_result_or_a_reason(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write_json(run.baseline, {"reason": "pictures of one colour"})
    assert read_baseline(run) == {"reason": "pictures of one colour"}
    write_json(run.baseline, {"name": "TF-IDF"})
    with pytest.raises(RunError, match=r'baseline\.json: there is no "choice"'):
        read_baseline(run)


def test_what_a_trial_came_to_is_refused_by_its_key_and_is_none_where_there_is_no_trial(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "trial-0000")
    run.path.mkdir()
    assert read_trial_record(run) is None
    write_json(run.trial, {"name": "trial-0000", "state": "won"})
    with pytest.raises(RunError, match=r'trial\.json: "state" is "won", and should be "complete" or "pruned" or "failed"'):
        read_trial_record(run)
