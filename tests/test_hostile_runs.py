"""Damaged files, and files that a stranger wrote to do harm: each ends in one error that names the file, never in a traceback."""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Hftl
from run_factory import make_run

from hftl.cli import main
from hftl.errors import RunError
from hftl.evaluation.serving import ServingSamples
from hftl.files import MOST_BYTES, read_json, read_json_lines, read_text, write_json
from hftl.run import RunDirectory

# --- the readers --------------------------------------------------------------------------------------------------------------

NO_JSON: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON: Expecting value"),
    "junk": (b"junk", "not JSON: Expecting value"),
    "cut": (b'{"n": ', "not JSON: Expecting value"),
    "more after it": (b"{} {}", "not JSON: Extra data"),
    "UTF-16": ("{}".encode("utf-16"), "not UTF-8 text .byte 0"),
    "latin-1": (b'{"name": "caf\xe9"}', "not UTF-8 text .byte 13"),
    "a BOM": (b"\xef\xbb\xbf{}", "not JSON: Unexpected UTF-8 BOM"),
    "5,000 digits": (b'{"n": 1' + 4999 * b"0" + b"}", "a number of 5000 digits"),
    "NaN": (b'{"n": NaN}', "NaN is not a finite number"),
    "Infinity": (b'{"n": -Infinity}', "-Infinity is not a finite number"),
    "1e999": (b'{"n": 1e999}', "1e999 is not a finite number"),
    "100,000 brackets": (b'{"n": ' + 100_000 * b"[", "nested deeper than 50 levels"),
    "60 lists": (b'{"n": ' + 60 * b"[" + 60 * b"]" + b"}", "nested deeper than 50 levels"),
    "60 objects": (60 * b'{"n": ' + b"1" + 60 * b"}", "nested deeper than 50 levels"),
    "half a character": (b'{"n": "\\ud800"}', "not JSON: 'utf-8' codec can't encode"),
    "a key twice": (b'{"accuracy": 0.99, "accuracy": 0.5}', "the key 'accuracy' is there twice"),
    "a list": (b"[]", "not a JSON object but list"),
    "a number": (b"3", "not a JSON object but int"),
    "a text": (b'"x"', "not a JSON object but str"),
    "null": (b"null", "not a JSON object but NoneType"),
}


@pytest.mark.parametrize(("content", "said"), NO_JSON.values(), ids=NO_JSON)
def test_a_file_that_holds_no_json_object_is_one_error(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=said) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(content, said) for name, (content, said) in NO_JSON.items() if name != "empty"],
    ids=[name for name in NO_JSON if name != "empty"],
)
def test_a_line_that_holds_no_json_object_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(content + b"\n{}\n")
    with pytest.raises(RunError, match=said) as caught:
        list(read_json_lines(path))
    assert f"{path}: " in str(caught.value) if "UTF-8 text" in said else f"{path}, line 1: " in str(caught.value)


def test_an_empty_line_and_a_half_line_are_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"event": "step"}\n\n{"event": "step"}\n')
    with pytest.raises(RunError, match=r"history\.jsonl, line 2: not JSON"):
        list(read_json_lines(path))
    path.write_text('{"event": "step"}\n{"eve')
    with pytest.raises(RunError, match=r"history\.jsonl, line 2: not JSON"):
        list(read_json_lines(path))


def test_json_lines_end_where_json_ends_them(tmp_path: Path) -> None:
    records = [{"name": "one\u2028two\x85three"}, {"name": "four"}]
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    assert list(read_json_lines(path)) == records
    path.write_text("")
    assert list(read_json_lines(path)) == list(read_json_lines(tmp_path / "none.jsonl")) == []


def test_what_hftl_and_the_libraries_write_is_read(tmp_path: Path) -> None:
    value = {
        "no limit": int(1e30),
        "small": -1.5e-300,
        "text": "a\nb\x00\u2028\U0001f600",
        "none": None,
        "deep": [[[[[{"a": [True]}]]]]],
    }
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    (tmp_path / "a.json").write_text(json.dumps(value))  # with \\u escapes
    assert read_json(tmp_path / "a.json") == value


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(RunError, match=r"folder\.json: cannot be read: Is a directory"):
        read_json(tmp_path / "folder.json")
    with pytest.raises(RunError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")
    with (tmp_path / "large.json").open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)  # a hole: no byte is written
    with pytest.raises(RunError, match=r"large\.json: larger than 100 MB"):
        read_text(tmp_path / "large.json")


def test_history_says_what_each_line_records(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.history.write_text('{"event": "step"}\n{}\n')
    with pytest.raises(RunError, match=r"history\.jsonl, line 2: says no event"):
        run.read_history()


@pytest.mark.parametrize("split", ["../../out", "train", "", "/etc/passwd"])
def test_there_are_predictions_of_two_splits_only(tmp_path: Path, split: str) -> None:
    with pytest.raises(RunError, match=r"metrics\.json: there are predictions for validation and test"):
        RunDirectory(tmp_path).predictions(split)


# --- serving samples ----------------------------------------------------------------------------------------------------------


def samples(**columns: pa.Array) -> pa.Table:
    logits = pa.array([[0.0, 1.0], [2.0, 3.0]], pa.list_(pa.float32(), 2))
    return pa.table({"id": pa.array(["a", "b"]), "input": pa.array(["good", "bad"]), "logits": logits, **columns})


BROKEN_SAMPLES: dict[str, tuple[pa.Table, str]] = {
    "no input": (samples().drop_columns(["input"]), "its columns are id"),
    "another column": (samples(more=pa.array([1, 2])), "its columns are id"),
    "integer ids": (samples(id=pa.array([1, 2])), "its columns are id int64"),
    "number inputs": (samples(input=pa.array([1.0, 2.0])), "its columns are id"),
    "float64 logits": (samples(logits=pa.array([[0.0, 1.0]] * 2, pa.list_(pa.float64(), 2))), "column logits is"),
    "lists of any length": (samples(logits=pa.array([[0.0, 1.0], [2.0]], pa.list_(pa.float32()))), "column logits is"),
    "flat logits": (samples(logits=pa.array([0.0, 1.0], pa.float32())), "column logits is float"),
    "one logit": (samples(logits=pa.array([[0.0], [1.0]], pa.list_(pa.float32(), 1))), "two or more finite logits"),
    "nan": (samples(logits=pa.array([[0.0, math.nan]] * 2, pa.list_(pa.float32(), 2))), "two or more finite logits"),
    "infinite": (samples(logits=pa.array([[0.0, math.inf]] * 2, pa.list_(pa.float32(), 2))), "two or more finite logits"),
    "null logit": (samples(logits=pa.array([[0.0, None]] * 2, pa.list_(pa.float32(), 2))), "column logits holds nulls"),
    "null logits": (
        samples(logits=pa.array([[0.0, 1.0], None], pa.list_(pa.float32(), 2))),
        "(column logits holds nulls|Expected all lists)",  # the second by an older pyarrow
    ),
    "null input": (samples(input=pa.array(["good", None])), "column input holds nulls"),
    "null id": (samples(id=pa.array(["a", None])), "column id holds nulls"),
    "same ids": (samples(id=pa.array(["a", "a"])), "each once"),
    "no rows": (samples().slice(0, 0), "no row"),
}


@pytest.mark.parametrize(("table", "said"), BROKEN_SAMPLES.values(), ids=BROKEN_SAMPLES)
def test_serving_samples_of_another_form_are_refused(tmp_path: Path, table: pa.Table, said: str) -> None:
    path = tmp_path / "serving.parquet"
    pq.write_table(table, path)
    with pytest.raises(RunError, match=f"no serving samples: .*{said}") as caught:
        ServingSamples.load(path)
    assert str(path) in str(caught.value)


def test_damaged_serving_samples_are_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "serving.parquet"
    ServingSamples(["a", "b"], [b"one", b"two"], np.eye(2, dtype=np.float32)).save(path)
    whole, said = path.read_bytes(), []
    for place in np.random.default_rng(0).choice(len(whole), 150, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert ServingSamples.load(path).logits.shape == (2, 2)
        except RunError as error:
            said.append(str(error))
    assert len(said) > 75 and all(str(path) in message for message in said)


# --- the command line ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished run with a card."""
    run = make_run(tmp_path_factory.mktemp("whole") / "run")
    with pytest.raises(SystemExit):
        main(argv=["card", str(run.path)])
    return run


@pytest.fixture
def run(whole: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(whole.path, tmp_path / "run")))


Change = Callable[[Path], object]


def content(value: str | bytes) -> Change:
    return lambda path: path.write_bytes(value if isinstance(value, bytes) else value.encode())


def value(change: Callable[[Any], object]) -> Change:
    """The JSON of a file, changed in place."""

    def apply(path: Path) -> None:
        found = json.loads(path.read_text(encoding="utf-8"))
        change(found)
        path.write_text(json.dumps(found), encoding="utf-8")

    return apply


def column(name: str, values: Callable[[list[Any]], list[Any]]) -> Change:
    """A column of a Parquet file, changed."""

    def apply(path: Path) -> None:
        table = pq.read_table(path)
        place = table.schema.get_field_index(name)
        pq.write_table(
            table.set_column(place, name, pa.array(values(table[name].to_pylist()), table.schema.field(name).type)), path
        )

    return apply


def more(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.append_column("text", [["private words"] * len(table)]), path)


WRONG_TYPES: dict[str, str | bytes] = {
    "a list": "[]",
    "a number": "3",
    "a text": '"x"',
    "junk": "junk",
    "not UTF-8": b"\xff",
    "deep": 100_000 * "[",
}
WRONG_LINES: dict[str, str | bytes] = {"junk": "junk\n", "nothing in it": "{}\n", "a list": "[]\n", "not UTF-8": b"\xff\n"}
WRONG_RECIPES: dict[str, str | bytes] = {
    "nothing": "",
    "a list": "- 1",
    "a number as key": "1: 2",
    "an impossible date": "name: 2001-99-99",
    "not UTF-8": b"name: \xff",
    "deep": 100_000 * "[",
    "laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "5,000 digits": "name: 1" + 4999 * "0",
}
BOTH, VERIFY, CARD = ("verify", "card"), ("verify",), ("card",)
CASES: dict[str, tuple[tuple[str, ...], str, Change]] = {
    **{
        f"{file}: {name}": (BOTH, file, content(wrong))
        for file in (
            *("manifest.json", "data.json", "plan.json", "environment.json", "metrics.json"),
            *("audit.json", "freeze_proof.json"),
        )
        for name, wrong in WRONG_TYPES.items()
    },
    "manifest.json: no files": (VERIFY, "manifest.json", content("{}")),
    "manifest.json: files a list": (VERIFY, "manifest.json", content('{"files": []}')),
    "data.json: splits a list": (BOTH, "data.json", value(lambda data: data.update(splits=["train", "test"]))),
    "data.json: splits of numbers": (BOTH, "data.json", value(lambda data: data.update(splits={"train": 3, "test": 3}))),
    "data.json: model a list": (BOTH, "data.json", value(lambda data: data.update(model=[]))),
    "data.json: text a list": (BOTH, "data.json", value(lambda data: data.update(text=[1]))),
    "data.json: duplicates a list": (BOTH, "data.json", value(lambda data: data.update(duplicates=["train"]))),
    "data.json: duplicates nothing": (BOTH, "data.json", value(lambda data: data.update(duplicates={}))),
    "data.json: duplicates within a list": (BOTH, "data.json", value(lambda data: data["duplicates"].update(within=["train"]))),
    "data.json: duplicates across nothing": (BOTH, "data.json", value(lambda data: data["duplicates"].update(across=[{}]))),
    "data.json: duplicates across three": (
        BOTH,
        "data.json",
        value(lambda data: data["duplicates"].update(across=[{"splits": 3, "pairs": 1}])),
    ),
    "data.json: as many duplicates as a text": (
        BOTH,
        "data.json",
        value(lambda data: data["duplicates"].update(conflicting={"train": "x"})),
    ),
    "data.json: skipped without a reason": (BOTH, "data.json", value(lambda data: data.update(skipped=[{"id": "train/1"}]))),
    "metrics.json: skipped a text": (BOTH, "metrics.json", value(lambda metrics: metrics["test"].update(skipped="x"))),
    "data.json: skipped a number": (BOTH, "data.json", value(lambda data: data.update(skipped=3))),
    "audit.json: splits a list": (BOTH, "audit.json", value(lambda audit: audit.update(splits=["train"]))),
    "audit.json: lengths a list": (BOTH, "audit.json", value(lambda audit: audit["splits"]["test"].update(lengths=[1]))),
    "audit.json: truncated a text": (
        BOTH,
        "audit.json",
        value(lambda audit: audit["splits"]["test"]["lengths"].update(share_truncated="x")),
    ),
    "audit.json: near a list": (BOTH, "audit.json", value(lambda audit: audit.update(near_duplicates=[1]))),
    "audit.json: near nothing": (BOTH, "audit.json", value(lambda audit: audit.update(near_duplicates={}))),
    "audit.json: near like a text": (BOTH, "audit.json", value(lambda audit: audit["near_duplicates"].update(threshold="x"))),
    "audit.json: near across one split": (
        BOTH,
        "audit.json",
        value(lambda audit: audit["near_duplicates"].update(across=[{"splits": ["train"], "rows": 1}])),
    ),
    **{
        f"freeze_proof.json: {name}": (BOTH, "freeze_proof.json", value(change))
        for name, change in {
            "nothing": lambda proof: proof.clear(),
            "stages a number": lambda proof: proof.update(stages=3),
            "a stage a text": lambda proof: proof.update(stages=["x"]),
            "a stage without a name": lambda proof: proof["stages"][0].pop("stage"),
            "a stage called by a list": lambda proof: proof["stages"][0].update(stage=["head"]),
            "groups a text": lambda proof: proof["stages"][0].update(groups="head"),
            "a group a number": lambda proof: proof["stages"][0].update(groups=[3]),
            "a group without hashes": lambda proof: proof["stages"][0]["groups"][0].pop("before"),
            "hashes a text": lambda proof: proof["stages"][0]["groups"][0].update(before="x", after="x"),
            "no buffers": lambda proof: proof["stages"][0]["groups"][0]["after"].pop("buffers"),
            "a hash of nothing": lambda proof: proof["stages"][0]["groups"][0].update(
                before={"parameters": "", "buffers": ""}, after={"parameters": "", "buffers": ""}
            ),
            "trains perhaps": lambda proof: proof["stages"][0]["groups"][0].update(trains="no"),
            "ok perhaps": lambda proof: proof["stages"][0].update(ok="yes"),
        }.items()
    },
    "environment.json: sessions a text": (BOTH, "environment.json", value(lambda found: found.update(sessions="many"))),
    "test_openings.jsonl: by nobody": (BOTH, "test_openings.jsonl", content('{"time": "2026-11-20"}\n')),
    "metrics.json: nothing": (BOTH, "metrics.json", content("{}")),
    "metrics.json: no validation": (VERIFY, "metrics.json", value(lambda metrics: metrics.pop("validation"))),
    "metrics.json: outside": (VERIFY, "metrics.json", value(lambda metrics: metrics.update({"../../out": metrics["test"]}))),
    "metrics.json: test a list": (BOTH, "metrics.json", value(lambda metrics: metrics.update(test=[]))),
    "metrics.json: test nothing": (CARD, "metrics.json", value(lambda metrics: metrics.update(test={}))),
    "metrics.json: accuracy a text": (BOTH, "metrics.json", value(lambda metrics: metrics["test"].update(accuracy="high"))),
    "metrics.json: accuracy is infinite": (
        BOTH,
        "metrics.json",
        value(lambda metrics: metrics["test"].update(accuracy=math.inf)),
    ),
    "metrics.json: per_class a number": (BOTH, "metrics.json", value(lambda metrics: metrics["test"].update(per_class=3))),
    "plan.json: a stage without groups": (BOTH, "plan.json", value(lambda plan: plan["stages"][0].pop("groups"))),
    "plan.json: stages a number": (BOTH, "plan.json", value(lambda plan: plan.update(stages=3))),
    "plan.json: a stage a text": (BOTH, "plan.json", value(lambda plan: plan.update(stages=["x"]))),
    "environment.json: packages a list": (BOTH, "environment.json", value(lambda found: found.update(packages=["torch"]))),
    "environment.json: memory a text": (BOTH, "environment.json", value(lambda found: found.update(memory_bytes="much"))),
    **{
        f"{file}: {name}": (BOTH, file, content(wrong))
        for file in ("history.jsonl", "test_openings.jsonl")
        for name, wrong in WRONG_LINES.items()
    },
    "history.jsonl: an end without a stage": (BOTH, "history.jsonl", content('{"event": "stage_end"}\n')),
    "README.md: not UTF-8": (VERIFY, "README.md", content(b"\xff")),
    **{
        f"predictions/{split}.parquet: {name}": (VERIFY, f"predictions/{split}.parquet", change)
        for split in ("validation", "test")
        for name, change in {
            "no Parquet": content("PAR1"),
            "missing": Path.unlink,
            "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
            "the texts": more,
            "another prediction": column("prediction", lambda values: ["neg"] * len(values)),
            "another label": column("label", lambda values: ["neg"] * len(values)),
            "another probability": column("probability", lambda values: [[1.0, 0.0]] * len(values)),
            "no logit": column("logits", lambda values: [[None, None]] * len(values)),
            "index 7": column("label_index", lambda values: [7] * len(values)),
            "one id": column("id", lambda values: ["a"] * len(values)),
        }.items()
    },
    **{f"recipe.yaml: {name}": (BOTH, "recipe.yaml", content(wrong)) for name, wrong in WRONG_RECIPES.items()},
}


@pytest.mark.parametrize(
    ("command", "file", "change"),
    [(command, file, change) for commands, file, change in CASES.values() for command in commands],
    ids=[f"{command} {name}" for name, (commands, _, _) in CASES.items() for command in commands],
)
def test_a_damaged_or_hostile_file_ends_in_one_error_that_names_it(
    run: RunDirectory, hftl: Hftl, command: str, file: str, change: Change
) -> None:
    change(run.path / file)
    outcome = hftl(command, run.path)  # anything but SystemExit fails in the fixture: a user would see a traceback
    assert outcome.code in ((1, 2) if command == "verify" else (2,))
    said = outcome.err if outcome.code == 2 else outcome.out
    assert file in said


@pytest.mark.parametrize("entry", [{"metrics.json": 3}, {"metrics.json": {"sha256": []}}, {"../../out": {}}, {"/etc/passwd": {}}])
def test_a_file_that_is_not_as_its_manifest_says_is_named(run: RunDirectory, hftl: Hftl, entry: dict[str, Any]) -> None:
    write_json(run.manifest, {"files": entry})
    outcome = hftl("verify", run.path)
    assert outcome.code == 1 and f"no  {next(iter(entry))}\n" in outcome.out


MISSING_KEYS = {
    "data.json": (
        "splits",
        "duplicates",
        "duplicates.across",
        "skipped",
        "fingerprint",
        "contents",
        "model.revision",
        "text",
        "base",
    ),
    "metrics.json": ("test.skipped", "test.per_class", "validation.by_size", "test.errors", "test.accuracy_interval"),
    "audit.json": ("near_duplicates", "splits", "splits.test.imbalance"),
    "plan.json": ("stages", "groups", "parameters"),
    "environment.json": ("sessions", "seconds", "cpu_energy_joules", "memory_bytes"),
}


@pytest.mark.parametrize(("file", "key"), [(file, key) for file, keys in MISSING_KEYS.items() for key in keys])
def test_a_key_that_is_missing_is_named_with_its_file(run: RunDirectory, hftl: Hftl, file: str, key: str) -> None:
    *above, last = key.split(".")
    value(lambda found: functools.reduce(dict.__getitem__, above, found).pop(last))(run.path / file)
    for command in BOTH:
        outcome = hftl(command, run.path)
        assert outcome.code == 2 and f'{file}: there is no "{key}"' in outcome.err


def test_a_metric_that_is_missing_is_a_claim_that_does_not_hold(run: RunDirectory, hftl: Hftl) -> None:
    value(lambda metrics: [metrics["test"].pop(key) for key in ("kappa", "mcc_interval")])(run.metrics)
    outcome = hftl("verify", run.path)
    assert outcome.code == 1 and re.search(r"metrics\.json +\d+ checked, 2 WRONG", outcome.out)
    assert re.search(r"no  kappa +missing +0\.\d+", outcome.out) and "no  mcc_interval\n        claim  missing" in outcome.out


def test_a_split_that_is_missing_in_the_data_is_a_claim_that_does_not_hold(run: RunDirectory, hftl: Hftl) -> None:
    value(lambda data: data["splits"].pop("test"))(run.data)
    outcome = hftl("verify", run.path)
    assert outcome.code == 1 and re.search(r"data\.json +\d+ checked, \d+ WRONG", outcome.out)


def test_a_whole_run_is_verified_and_its_card_written(run: RunDirectory, hftl: Hftl) -> None:
    assert hftl("card", run.path).code == 0
    assert hftl("verify", run.path).code == 0


# --- a freeze proof that says what its hashes do not --------------------------------------------------------------------------


def group(proof: dict[str, Any], stage: int, place: int) -> dict[str, Any]:
    found: dict[str, Any] = proof["stages"][stage]["groups"][place]
    return found


OTHER = {"parameters": 64 * "0", "buffers": 64 * "0"}
CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], tuple[str, ...]]] = {
    "a frozen group has changed": (
        lambda proof: group(proof, 0, 0).update(after=OTHER),
        ("head, embeddings", "unchanged", "changed", "head, ok"),
    ),
    "a group has not moved": (
        lambda proof: group(proof, 2, 1).update(after=group(proof, 2, 1)["before"]),
        ("all, layer.0", "moved", "not moved", "all, ok"),
    ),
    "one says it has not moved, and has": (
        lambda proof: group(proof, 2, 1).update(ok=False),
        ("all, layer.0", "not moved", "moved"),
    ),
    "the stage says other than its groups": (lambda proof: proof["stages"][1].update(ok=False), ("top, ok", "False", "True")),
    "other groups train than planned": (
        lambda proof: group(proof, 0, 0).update(trains=True, after=OTHER),
        ("head, groups", "embeddings trains", "embeddings frozen"),
    ),
    "a group is left out": (lambda proof: proof["stages"][0]["groups"].pop(0), ("head, groups", "embeddings frozen")),
    "a stage is left out": (lambda proof: proof["stages"].pop(1), ("top, groups", "no such stage")),
    "a stage that was not planned": (
        lambda proof: proof["stages"].append({"stage": "more", "kept": True, "groups": [], "ok": True}),
        ("more, groups", "no such stage"),
    ),
    "no stage": (lambda proof: proof["stages"].clear(), ("head, groups", "no such stage")),
    "a group that was never trained starts otherwise": (
        lambda proof: group(proof, 1, 0).update(before=OTHER, after=OTHER),
        ("top, embeddings, before", "other hashes"),
    ),
}


@pytest.mark.parametrize(("change", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_freeze_proof_is_held_against_its_hashes_and_the_plan(
    run: RunDirectory, hftl: Hftl, change: Callable[[dict[str, Any]], object], said: tuple[str, ...]
) -> None:
    value(change)(run.freeze_proof)
    assert hftl("card", run.path).code == 0  # so that the card is not what fails
    outcome = hftl("verify", run.path)
    assert outcome.code == 1 and re.search(r"freeze_proof\.json +\d+ checked, \d+ WRONG", outcome.out)
    assert re.search(r"README\.md +[\d,]+ checked, all hold", outcome.out)
    assert [words for words in said if words not in outcome.out] == []


def test_the_number_of_skipped_rows_is_held_against_the_list_of_them(run: RunDirectory, hftl: Hftl) -> None:
    value(lambda metrics: metrics["test"].update(skipped=1))(run.metrics)
    outcome = hftl("verify", run.path)
    assert outcome.code == 1 and re.search(r"no  skipped +1 +0", outcome.out)
    value(lambda data: data.update(skipped=[{"id": "test/7", "split": "test", "kind": "empty", "why": "empty"}]))(run.data)
    assert hftl("card", run.path).code == 0
    assert hftl("verify", run.path).code == 0
    value(lambda data: data.update(skipped=[{"id": "test/7", "why": "empty"}]))(run.data)
    outcome = hftl("verify", run.path)
    assert outcome.code == 2 and 'data.json: there is no "skipped[0].split"' in outcome.err


@pytest.mark.parametrize(
    "file", ["audit.json", "data.json", "environment.json", "freeze_proof.json", "history.jsonl", "metrics.json", "plan.json"]
)
def test_a_record_that_is_missing_is_named(run: RunDirectory, hftl: Hftl, file: str) -> None:
    (run.path / file).unlink()
    for command in ("verify", "card"):
        outcome = hftl(command, run.path)
        assert outcome.code == 2 and file in outcome.err
