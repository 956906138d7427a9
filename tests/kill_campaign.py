"""Kill a staged run at random moments, again and again, and see that nothing is lost.

    python tests/kill_campaign.py --kills 120

A run of three stages (dropout, accumulation, a checkpoint after every step) is killed with SIGKILL at a random moment, continued,
killed again, and so on to its end; then the next one, until there were as many kills as asked for. After every kill the newest
checkpoint that verifies must be at least as new as the last save that had returned, and in the end each run must have the
weights, predictions, metrics and freeze proof, bit for bit, of a run that was never stopped, with the test split opened no
more often than the kills in the middle of its opening explain. Prints a table; exit code 1 if anything was lost.

The runs are children of one process that has imported the libraries, so that a kill costs two seconds and not ten. pytest does not
run this: tests/test_kills.py and tests/test_checkpoint.py have short ones.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child must not meet the threads of its parent

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file

from hftl.evaluation.metrics import Predictions
from hftl.recipe import Recipe, Run, Stage, TextData, Transformer
from hftl.run import RunDirectory, read_json, read_json_lines
from hftl.samples import BERT_NANO, REVIEWS
from hftl.training import engine
from hftl.training.checkpoint import newest_checkpoint
from hftl.training.journal import Journal

RECIPE = Recipe(
    name="campaign",
    data=TextData(source=REVIEWS, max_length=40, max_train_samples=96, max_validation_samples=40, max_test_samples=60),
    model=Transformer(checkpoint=BERT_NANO),
    stages={
        "head": Stage(unfreeze="head", lr=1e-3, epochs=2),
        "top": Stage(unfreeze="last 2", lr=1e-3, layer_decay=0.5, epochs=2, schedule="cosine"),
        "all": Stage(unfreeze="all", lr=5e-4, epochs=3, schedule="one_cycle"),
    },
    run=Run(batch_size=16, gradient_accumulation=2, precision="fp32", log_every=1, evaluation_batch_size=8, checkpoint_minutes=0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    torch.set_num_threads(1)
    started = time.monotonic()
    hits: Counter[str] = Counter()
    openings: Counter[int] = Counter()
    problems: list[str] = []
    runs = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = RunDirectory(Path(folder) / "whole")
        sitting(whole, None)
        while sum(hits.values()) < arguments.kills:
            run = RunDirectory(Path(folder) / f"run{runs}")
            problems += kill_until_finished(run, generator, hits, most=arguments.kills)
            problems += [f"{run.path.name}: {difference}" for difference in differences(whole, run)]
            openings[len(list(read_json_lines(run.test_openings)))] += 1
            runs += 1
            print(f"{sum(hits.values())} kills, {runs} runs, {len(problems)} problems", file=sys.stderr)
    print(f"{sum(hits.values())} kills over {runs} runs in {(time.monotonic() - started) / 60:.0f} min\n")
    print("| killed during | kills |\n|---|--:|")
    for phase, count in hits.most_common():
        print(f"| {phase} | {count} |")
    print("\ntest split opened: " + ", ".join(f"{count} times in {number} runs" for count, number in sorted(openings.items())))
    print("nothing was lost" if not problems else "\n".join(problems))
    sys.exit(1 if problems else 0)


def kill_until_finished(run: RunDirectory, generator: random.Random, hits: Counter[str], *, most: int) -> list[str]:
    """Train `run` to its end in as many sittings as the kills leave it; counts in `hits` where they came."""
    problems: list[str] = []
    last = ""
    while True:
        # Counted from the first word of training on, now and then from the start of the process.
        wait, from_start = generator.uniform(0.0, 1.6), generator.random() < 0.1
        phase, promised = sitting(run, None if sum(hits.values()) >= most else (wait, from_start))
        if phase is None:
            return problems
        hits[phase] += 1
        found, passed_over = newest_checkpoint(run.checkpoints)
        name = found.name if found is not None else ""
        finishing = run.metrics.is_file()  # then there are no checkpoints any more
        if not finishing and (name < max(promised, last) or passed_over):
            problems.append(f"{run.path.name}: saved {promised or last}, found {name or 'nothing'}, passed over {passed_over}")
        last = name
        if finishing:
            return problems


def sitting(run: RunDirectory, kill: tuple[float, bool] | None) -> tuple[str | None, str]:
    """Start or continue the run in a child; gives what it was doing when it was killed (None: it ended) and its last save."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        train(run, lambda phase: os.write(write, f"{phase}\n".encode()))
        os._exit(0)
    os.close(write)
    told = b""
    started: float | None = None
    while True:
        os.set_blocking(read, False)
        try:
            content = os.read(read, 1 << 16)
            if not content:  # it has ended by itself
                break
            told += content
        except BlockingIOError:
            time.sleep(0.002)
        if started is None and (told or (kill is not None and kill[1])):
            started = time.monotonic()
        if kill is not None and started is not None and time.monotonic() - started >= kill[0]:
            os.kill(child, signal.SIGKILL)
            kill = None
    os.close(read)
    _, status = os.waitpid(child, 0)
    phases = told.decode().split("\n")[:-1]
    promised = [phase.split()[1] for phase in phases if phase.startswith("saved ")]
    if not os.WIFSIGNALED(status):
        if os.WEXITSTATUS(status):
            raise SystemExit(f"{run.path}: the run failed by itself")
        return None, ""
    doing = phases[-1] if phases else "reading the data"
    return "between two steps" if doing.startswith("saved ") else doing, promised[-1] if promised else ""


def train(run: RunDirectory, tell: Callable[[str], Any]) -> None:
    """The run, telling what it does: these are wrappers and change nothing."""
    doing = {"save_checkpoint": "a save", "_predict": "an evaluation", "_finish": "the end of the run"}
    for name, phase in doing.items():
        setattr(engine, name, telling(getattr(engine, name), phase, tell))
    setattr(Journal, "advance", telling(Journal.advance, "a step", tell))  # noqa: B010  # mypy minds the assignment
    engine.train(RECIPE, run, resume=run.path.exists(), console=Console(file=io.StringIO()))


def telling(function: Callable[..., Any], phase: str, tell: Callable[[str], Any]) -> Callable[..., Any]:
    def told(*arguments: Any) -> Any:
        tell(phase)
        result = function(*arguments)
        if phase == "a save":
            tell(f"saved {result.name}")
        elif phase == "an evaluation":
            tell("after an evaluation")
        return result

    return told


def differences(whole: RunDirectory, run: RunDirectory) -> list[str]:
    """What is not as in the run that was never stopped."""
    if not run.finished:
        return ["it did not finish"]
    found = []
    ours, theirs = load_file(run.model / "model.safetensors"), load_file(whole.model / "model.safetensors")
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        found.append("other weights")
    predictions = [[Predictions.load(each.predictions(split)).logits for split in ("validation", "test")] for each in (run, whole)]
    if not all(map(np.array_equal, *predictions)):
        found.append("other predictions")
    files = ("metrics", "freeze_proof", "data")
    found += [f"another {name}.json" for name in files if read_json(getattr(run, name)) != read_json(getattr(whole, name))]
    steps = [record["step"] for record in run.read_history() if record["event"] == "step"]
    if steps != list(range(1, len(steps) + 1)):
        found.append("a history with gaps or repetitions")
    return found


if __name__ == "__main__":
    main()
