"""Does memory grow with the data set? The peak while a run reads, checks, tokenises and batches N rows, phase by phase.

    python benchmarks/memory.py --reviews 25000 1000000 --pictures 244 24400 --checkpoint ../shared/models/bert-nano

Each size is made up on the fly and read in a process of its own, which this one watches: anonymous memory (RssAnon in
/proc/PID/status, every 10 ms) is what the process holds and cannot give back, unlike the pages of files that it has mapped. What
hftl's imports alone take is subtracted. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

EVERY = 0.01
"""Seconds between two looks at the process."""
_BASE = "imports"


def main() -> None:
    """Measure every size that was asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, nargs="*", default=[25_000, 1_000_000], help="numbers of texts")
    parser.add_argument("--pictures", type=int, nargs="*", default=[], help="numbers of pictures")
    parser.add_argument("--words", type=int, default=230, help="mean words of a review")
    parser.add_argument("--max-length", type=int, default=256, help="most tokens of a review")
    parser.add_argument("--checkpoint", default="google-bert/bert-base-uncased", help="whose tokenizer reads the texts")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        kind, folder = arguments.child
        _run(_review_phases if kind == "reviews" else _picture_phases, Path(folder), arguments)
        return
    print(f"{'rows':>18}  {'phase':<14} {'peak MB':>8} {'CPU s':>7} {'s':>7}")
    for kind, sizes in (("reviews", arguments.reviews), ("pictures", arguments.pictures)):
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                (write_reviews if kind == "reviews" else write_pictures)(Path(folder) / "data", size, words=arguments.words)
                for line in _watch(kind, Path(folder), arguments):
                    print(f"{f'{size:,} {kind}':>18}  {line}", flush=True)


# --- made-up data -------------------------------------------------------------------------------------------------------------


def write_reviews(folder: Path, rows: int, *, words: int) -> None:
    """train.parquet with `rows` distinct texts of two classes; words as frequent as in a language, lengths as in reviews."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    random = np.random.default_rng(0)
    syllables = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in ("", "n", "r", "st")]
    vocabulary = np.array([first + second for first in syllables for second in ["", *syllables]], dtype=object)
    random.shuffle(vocabulary)
    schema = pa.schema({"text": pa.string(), "label": pa.int64()})
    with pq.ParquetWriter(folder / "train.parquet", schema) as writer:
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            lengths = np.clip(random.lognormal(np.log(words) - 0.18, 0.6, count), 8, 5 * words).astype(int)
            drawn = vocabulary[(len(vocabulary) ** random.random(lengths.sum())).astype(int) - 1]
            texts = [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]
            writer.write_table(pa.table({"text": texts, "label": random.integers(0, 2, count)}, schema=schema))


def write_pictures(folder: Path, rows: int, *, words: int) -> None:
    """A folder of two classes with `rows` distinct JPEGs of 96 x 72 pixels."""
    from PIL import Image

    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
    for row in range(rows):
        cells = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((96, 72)).save(folder / ("cat", "dog")[row % 2] / f"{row}.jpg", quality=80)


# --- what is measured ---------------------------------------------------------------------------------------------------------

Phases = list[tuple[str, Callable[[dict[str, Any]], None]]]


def _review_phases(folder: Path, arguments: argparse.Namespace) -> Phases:
    from transformers import AutoTokenizer

    from hftl.data.audit import audit_splits
    from hftl.data.batches import padding_share
    from hftl.data.loader import evaluation_batches, training_batches
    from hftl.data.source import load_splits
    from hftl.data.text import TextSamples, text_facts
    from hftl.recipe import TextData

    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)

    def read(state: dict[str, Any]) -> None:
        state["splits"] = load_splits(TextData(source=str(folder)), seed=0)

    def tokenise(state: dict[str, Any]) -> None:
        splits = state["splits"]
        for split, dataset in (("train", splits.train), ("validation", splits.validation)):
            state[split] = TextSamples(dataset, tokenizer, max_length=arguments.max_length)

    def fingerprint(state: dict[str, Any]) -> None:
        assert len({state[split].fingerprint for split in ("train", "validation")}) == 2
        padding_share(state["train"].lengths, batch_size=32, seed=0, epoch=1)

    def audit(state: dict[str, Any]) -> None:
        audit_splits(state["splits"], lengths={split: text_facts(state[split]) for split in ("train", "validation")})

    def epoch(state: dict[str, Any]) -> None:
        seen = sum(len(batch.index) for batch in training_batches(state["train"], batch_size=32, seed=0, epoch=1))
        seen += sum(len(batch.index) for batch in evaluation_batches(state["validation"], batch_size=64))
        assert seen == len(state["train"]) + len(state["validation"])

    return [("splits", read), ("tokens", tokenise), ("fingerprint", fingerprint), ("audit", audit), ("epoch", epoch)]


def _picture_phases(folder: Path, arguments: argparse.Namespace) -> Phases:
    import hftl
    from hftl.data.loader import evaluation_batches, training_batches
    from hftl.training.experiment import audit, make_samples, prepare_experiment

    recipe = hftl.Recipe(
        name="memory",
        data=hftl.ImageData(source=str(folder), augmentation="standard", image_size=64),
        model=hftl.Timm(checkpoint="resnet10t", pretrained=False),
        stages={"head": hftl.Stage(unfreeze="head", lr=1e-3)},
    )

    def read(state: dict[str, Any]) -> None:
        state["experiment"] = prepare_experiment(recipe)

    def samples(state: dict[str, Any]) -> None:
        splits, classifier = state["experiment"].splits, state["experiment"].classifier
        state["train"] = make_samples(recipe, classifier, splits.train, train=True)
        state["validation"] = make_samples(recipe, classifier, splits.validation, train=False)

    def look(state: dict[str, Any]) -> None:
        audit(state["experiment"], {})

    def epoch(state: dict[str, Any]) -> None:
        seen = sum(len(batch.index) for batch in training_batches(state["train"], batch_size=32, seed=0, epoch=1))
        seen += sum(len(batch.index) for batch in evaluation_batches(state["validation"], batch_size=64))
        assert seen == len(state["train"]) + len(state["validation"])

    return [("splits, model", read), ("samples", samples), ("audit", look), ("epoch", epoch)]


# --- measuring ----------------------------------------------------------------------------------------------------------------


def _run(make_phases: Callable[[Path, argparse.Namespace], Phases], folder: Path, arguments: argparse.Namespace) -> None:
    """In the watched process: say on standard output when a phase begins, and what it cost."""
    import datasets

    datasets.disable_progress_bars()
    phases = make_phases(folder, arguments)
    state: dict[str, Any] = {}
    _say(phase=_BASE)
    time.sleep(10 * EVERY)
    for name, phase in phases:
        began, cpu = time.perf_counter(), time.process_time()
        _say(phase=name)
        phase(state)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        _say(done=name, seconds=seconds, cpu=cpu, anonymous=_field(_status(), "RssAnon"))
    _say(whole=_field(_status(), "VmHWM"))


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _watch(kind: str, folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    """In this process: start the other one and look at its memory until it ends."""
    command = [sys.executable, __file__, "--child", kind, str(folder / "data"), "--checkpoint", arguments.checkpoint]
    command += ["--max-length", str(arguments.max_length)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peaks: dict[str, float] = {}
    phase = ["start"]

    def look() -> None:
        while process.poll() is None:
            try:
                status = _status(process.pid)
            except OSError:
                return  # it has just ended
            if "RssAnon" in status:
                peaks[phase[0]] = max(peaks.get(phase[0], 0.0), _field(status, "RssAnon"))
            time.sleep(EVERY)

    watcher = threading.Thread(target=look)
    watcher.start()
    base = 0.0
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if "phase" in said:
            base = base or peaks.get(_BASE, 0.0)
            phase[0] = said["phase"]
        elif "done" in said:
            peak = max(peaks.get(said["done"], 0.0), said["anonymous"])
            yield f"{said['done']:<14} {peak - base:>8.0f} {said['cpu']:>7.1f} {said['seconds']:>7.1f}"
        else:
            yield f"{'with files':<14} {said['whole']:>8.0f}   (imports alone: {base:.0f} MB of no file)"
    watcher.join()
    if process.wait():
        raise SystemExit(f"the measured process ended with {process.returncode}")


def _status(pid: int | str = "self") -> str:
    return Path(f"/proc/{pid}/status").read_text()


def _field(status: str, name: str) -> float:
    """A field of /proc/PID/status in megabytes."""
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
