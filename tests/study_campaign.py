"""Kill studies at random moments, and see that each trial loses at most the epoch that was running.

    nice python tests/study_campaign.py --kills 200

A repetition over three seeds is killed with SIGKILL and called again, until it is done, and then another one. After every kill no
trial that was done is gone, and none has fewer epochs in its newest checkpoint than had been reported a save before. In the end
the table and the validation predictions are, bit for bit, those of a study that was never stopped, and no test split was opened.
Prints what was hit; exit code 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # a forked child must not meet the threads of its parent
os.environ["ACCELERATE_USE_CPU"] = "1"

import torch
from small import BERT_NANO

import hftl
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json_lines
from hftl.recipe import Recipe, RunSettings, Stage, TextData, Transformer
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.studies.study import StudyDirectory
from hftl.training.checkpoint import newest_checkpoint

SEEDS = 3
RECIPE = Recipe(
    name="killed",
    data=TextData(source=REVIEWS, max_length=24, max_train_samples=32, max_validation_samples=16, max_test_samples=12),
    model=Transformer(checkpoint=BERT_NANO),
    stages={
        "head": Stage(unfreeze="head", lr=1e-3, epochs=2),
        "all": Stage(unfreeze="all", lr=1e-4, layer_decay=0.5, epochs=2),
    },
    run=RunSettings(batch_size=8, precision="fp32", checkpoint_minutes=0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HFTL_LEDGER"] = str(Path(folder) / "ledger.jsonl")
        problems, hits = campaign(Path(folder), kills=asked.kills, generator=random.Random(asked.seed))
    print(f"{sum(hits.values())} kills: " + ", ".join(f"{count} {what}" for what, count in sorted(hits.items())))
    print("\n".join(problems) or "nothing was lost")
    sys.exit(1 if problems else 0)


def campaign(folder: Path, *, kills: int, generator: random.Random) -> tuple[list[str], Counter[str]]:
    """What was lost, and what the kills have hit."""
    whole = StudyDirectory(folder / "whole")
    began = time.monotonic()
    _study(whole, cache=folder / "cache-whole", wait=None)
    duration = time.monotonic() - began
    problems: list[str] = []
    hits: Counter[str] = Counter()
    number = 0
    while sum(hits.values()) < kills:
        number += 1
        study, cache = StudyDirectory(folder / f"study{number}"), folder / f"cache{number}"
        for _ in range(40):
            before = _saved(study)
            done = _study(study, cache=cache, wait=generator.uniform(0, 0.6 * duration) if sum(hits.values()) < kills else None)
            after = _saved(study)
            problems += [
                f"{study.path.name}: {name} was at {old}, is at {after.get(name)}"
                for name, old in before.items()
                if after.get(name, "") < old
            ]
            if done:
                break
            hits[_where(study)] += 1
        problems += list(_differences(whole, study))
    return problems, hits


def _study(study: StudyDirectory, *, cache: Path, wait: float | None) -> bool:
    """Carry the study out in a child, which is killed after `wait` seconds; whether it came to its end."""
    child = os.fork()
    if not child:
        os.environ["HFTL_CACHE"] = str(cache)
        code = 99
        try:
            hftl.repeat(RECIPE, seeds=SEEDS, study_dir=study.path, say=lambda line: None)
            code = 0
        finally:  # a fork leaves without what its parent would do at its end
            if code:
                traceback.print_exc()
            os._exit(code)
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("the study ended with an error, see above")
    return os.WIFEXITED(status)


def _saved(study: StudyDirectory) -> dict[str, str]:
    """Trial -> its newest checkpoint that verifies; "~", which is after all of them, where the trial is done."""
    places: dict[str, str] = {}
    for path in sorted(study.trials.glob("*")):
        newest = None if (path / "trial.json").is_file() else newest_checkpoint(path / "checkpoints")[0]
        if (path / "trial.json").is_file() or newest is not None:
            places[path.name] = "~" if newest is None else newest.name
    return places


def _where(study: StudyDirectory) -> str:
    places = _saved(study)
    done = sum(place == "~" for place in places.values())
    return f"after {done} of {SEEDS} trials" + (", inside one" if len(places) > done else "")


def _differences(whole: StudyDirectory, study: StudyDirectory) -> Iterator[str]:
    """What is not as in the study that was never stopped; seconds are."""
    for seed in range(SEEDS):
        one, other = (RunDirectory(each.trials / f"killed-seed{seed}") for each in (whole, study))
        expected, found = (Predictions.load(run.predictions("validation")) for run in (one, other))
        if expected.ids != found.ids or (expected.logits != found.logits).any():
            yield f"{study.path.name}: the predictions of seed {seed} are others"
        if other.test_openings.exists() or other.checkpoints.exists():
            yield f"{study.path.name}: seed {seed} has opened test, or kept its checkpoints"
        events = [[line["event"] for line in read_json_lines(run.history) if line["event"] != "continued"] for run in (one, other)]
        if events[0] != events[1]:
            yield f"{study.path.name}: the history of seed {seed} is another one: {events}"
    tables = [hftl.Study(each.path).table.drop(columns="seconds") for each in (whole, study)]
    if not tables[0].equals(tables[1]):
        yield f"{study.path.name}: the table is another one"


if __name__ == "__main__":
    main()
