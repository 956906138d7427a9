"""A small pretrained network learns to tell clothes apart, and then another one film reviews, from what lies inside the package.

Measured: Photos of clothes, 5 classes, 60 of each; MobileNetV2: test accuracy 0.876 (0.860 to 0.897), n = 300 (which alone
leave ± 0.037); validation by stage: head 0.85 (0.84 to 0.86), top 0.88 (0.87 to 0.89), all 0.91 (0.90 to 0.93); 0.9 minutes of
training a run, seeds 0, 1, 2, 1 thread. Photos of clothes, 5 classes, 60 of each; MobileNetV2 from random weights: test
accuracy 0.382 (0.363 to 0.403), n = 300 (which alone leave ± 0.055); validation by stage: head 0.21 (0.20 to 0.22), top 0.28
(0.24 to 0.30), all 0.37 (0.31 to 0.43); 1.9 minutes of training a run, seeds 0, 1, 2, 1 thread. Mean (lowest to highest) of
these runs, on AMD EPYC, 2 cores, bf16, commit 6dfb973, 2026-11-29.

    make quickstart                    (installs, then runs this file)
    python recipes/quickstart.py

Called with overrides, this script trains its own recipe, the photos, alone. The same network from random weights, for as
many epochs, all of it from the first, at the better of two rates (1e-3, 3e-3) by validation:

    python recipes/quickstart.py model.pretrained=false stages.head.unfreeze=all stages.top.unfreeze=all \
        stages.head.lr=3e-3 stages.top.lr=3e-3 stages.all.lr=3e-3 stages.top.layer_decay=1 stages.all.layer_decay=1 \
        stages.top.head_lr_multiplier=1 stages.all.head_lr_multiplier=1
"""

from __future__ import annotations

import io
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

import hftl
from hftl.samples import CLOTHES, MOBILENET


def recipe() -> hftl.Recipe:
    return hftl.Recipe(
        name="clothes",
        data=hftl.ImageData(source=CLOTHES, image_size=160),
        model=hftl.Timm(checkpoint=MOBILENET),
        stages={
            # What enters a frozen stage's first layer is computed once, so that its epochs take a second or two.
            "head": hftl.Stage(unfreeze="head", lr=3e-3, epochs=2),
            "top": hftl.Stage(
                unfreeze="last 3",
                lr=2e-4,
                layer_decay=0.7,
                head_lr_multiplier=2,
                epochs=3,
                schedule=hftl.LinearSchedule(warmup=0.1),
            ),
            "all": hftl.Stage(
                unfreeze="all", lr=5e-4, layer_decay=0.8, head_lr_multiplier=2, epochs=4, schedule=hftl.CosineSchedule(warmup=0.1)
            ),
        },
        run=hftl.RunSettings(batch_size=32, seed=0),
        card=hftl.Card(
            title="Quickstart: clothes",
            summary="Tells photos of five kinds of clothes apart. It is the sample that hftl's quickstart trains; a demonstration.",
            intended_use="To see what a run of hftl leaves behind. Not for any decision.",
            limitations="One garment in the middle of the picture, laid out or hung up. Only five kinds.",
            training_data="300 photos of Alexey Grigorev's clothing dataset (CC0), 60 a class.",
            license="apache-2.0",
            dataset_name="hftl's sample of the clothing dataset",
        ),
    )


FROM_SCRATCH = (
    *("model.pretrained=false", "stages.head.unfreeze=all", "stages.top.unfreeze=all"),
    *("stages.head.lr=3e-3", "stages.top.lr=3e-3", "stages.all.lr=3e-3"),
    *("stages.top.layer_decay=1", "stages.all.layer_decay=1", "stages.top.head_lr_multiplier=1", "stages.all.head_lr_multiplier=1"),
)
"""The same network from random weights, for as many epochs: all of it trains from the first on, at one rate, the better of 1e-3 and
3e-3 on validation."""

EXAMPLES = {
    "A warm, funny film with a wonderful cast.": "positive",
    "A waste of time: boring from start to finish.": "negative",
}
"""Texts that nobody needs a network for, and their label: the least that a network has to know."""


def main() -> None:
    """The four steps of `make quickstart`; the first one, the installation, is the Makefile's.

    What the networks are compared with, the same ones from random weights, trains in a process of its own beside them: of two cores
    one would otherwise wait half of the time.
    """
    console, quiet = Console(soft_wrap=True), Console(file=io.StringIO())

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    texts_script = Path(__file__).with_name("film_reviews.py")
    reviews = hftl.load_recipe(texts_script)
    names = ("quickstart", "quickstart-from-scratch", "quickstart-reviews", "quickstart-reviews-from-scratch")
    folders = [Path("runs") / name for name in names]
    for earlier in folders:  # the demonstration may be repeated; `hftl train` writes its recipes elsewhere
        shutil.rmtree(earlier, ignore_errors=True)

    elsewhere = dict(os.environ)
    # Half of the cores are for what is shown, so that its numbers do not depend on what is free; the comparisons take what is.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    from_scratch = runpy.run_path(str(texts_script), run_name="hftl_recipe")["FROM_SCRATCH"]
    beside = ThreadPoolExecutor(max_workers=1)
    try:
        untrained = beside.submit(train_beside, Path(__file__), FROM_SCRATCH, folders[1], elsewhere)
        untaught = beside.submit(train_beside, texts_script, from_scratch, folders[3], elsewhere)

        say("[2/4] photos: MobileNetV2, pretrained on ImageNet, learns five kinds of clothes from 60 photos of each, in 3 stages")
        photos = hftl.train(recipe(), run_dir=folders[0], console=console, source="recipes/quickstart.py")

        say("\n[3/4] texts: a small BERT learns good film reviews from bad ones, from 480 reviews, in 3 stages")
        texts = hftl.train(reviews, run_dir=folders[2], console=quiet, source="recipes/film_reviews.py")
        for answer in texts.predict(list(EXAMPLES)):
            say(f"  {answer.label} {answer.probability:.2f}  {answer.input}")

        say("\n[4/4] for comparison: the same networks from random weights, for as many epochs, and what needs no network")
        for name, staged, scratch in (("photos", photos, untrained), ("texts", texts, untaught)):
            for line in verdict(name, staged, scratch.result()):
                say(line)
    finally:
        beside.shutdown(cancel_futures=True)
    say(f"\n  {photos.paths.card}, {texts.paths.card}  the model cards")


def train_beside(script: Path, overrides: Sequence[str], folder: Path, environment: Mapping[str, str]) -> hftl.Run:
    """Train a recipe's script in a process of its own; what it says is shown where it fails."""
    command = [sys.executable, str(script), *overrides, "run.baseline=none", "--run-dir", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stdout)
    return hftl.load(folder)


def verdict(name: str, staged: hftl.Run, untrained: hftl.Run) -> list[str]:
    """Lines on the test split: the staged model, and what it gains over the same network from random weights and over the baseline
    beside it, in points of accuracy on the same rows; then each stage's best accuracy on validation, which chose the weights."""
    test = staged.metrics["test"]
    low, high = test["accuracy_interval"]
    (pair,) = hftl.compare(untrained, staged).pairs
    (scratch,) = (found for found in pair.differences if found.metric == "accuracy")
    lines = [
        f"  {name}: accuracy on {test['n']} test examples {test['accuracy']:.3f} [{low:.2f}, {high:.2f}], 95 % interval",
        f"    random weights instead: {scratch.first:.3f}, so pretraining gains {gained(scratch.difference, scratch.interval)}",
    ]
    beside = staged.baseline
    if beside is not None and "gains" in beside:
        gain = beside["gains"]["test"]
        lines.append(
            f"    no network ({beside['name']}): {gain['baseline_accuracy']:.3f},"
            f" so the network gains {gained(gain['gain'], gain['gain_interval'])}"
        )
    return [*lines, f"    {best_by_stage(staged)}"]


def gained(difference: float, interval: Sequence[float] | None) -> str:
    """ "+0.071 [+0.03, +0.11]", and whether chance alone may give it."""
    if interval is None:
        return f"{difference:+.3f}"
    settled = interval[0] > 0 or interval[1] < 0
    return f"{difference:+.3f} [{interval[0]:+.2f}, {interval[1]:+.2f}]{'' if settled else ', which may be chance'}"


def best_by_stage(run: hftl.Run) -> str:
    """The best accuracy of each stage on the validation split, which chose the weights."""
    best = run.history.groupby("stage", sort=False)["validation.accuracy"].max()
    return "validation accuracy by stage: " + ", ".join(f"{stage} {value:.2f}" for stage, value in best.items())


if __name__ == "__main__":
    hftl.main(recipe, demo=main)
