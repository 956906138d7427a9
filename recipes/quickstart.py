"""A small pretrained BERT learns to tell good film reviews from bad ones, in three stages, from what lies inside the package.

    make quickstart                    (installs, then runs this file)
    python recipes/quickstart.py

After training, the same network is trained from random weights on the same data, to show what pretraining is worth.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from rich.console import Console

import hftl
from hftl.run import RunDirectory, read_json
from hftl.samples import BERT_NANO, REVIEWS

recipe = hftl.Recipe(
    name="film-reviews",
    data=hftl.TextData(source=REVIEWS, max_length=128, validation_fraction=0.15),
    model=hftl.Transformer(checkpoint=BERT_NANO),
    stages={
        "head": hftl.Stage(unfreeze="head", lr=1e-3, epochs=2),
        "top": hftl.Stage(unfreeze="last 3", lr=5e-4, layer_decay=0.8, head_lr_multiplier=3, epochs=3, warmup=0.1),
        "all": hftl.Stage(unfreeze="all", lr=5e-4, layer_decay=0.9, head_lr_multiplier=2, epochs=12, warmup=0.1),
    },
    run=hftl.Run(batch_size=16, seed=0),
    card=hftl.Card(
        title="Quickstart: film reviews",
        summary="Tells positive from negative short film reviews. It is the sample that hftl's quickstart trains; a demonstration.",
        intended_use="To see what a run of hftl leaves behind. Not for any decision.",
        training_data="600 short reviews written for this project; invented titles, no real persons.",
        license="apache-2.0",
        language="en",
        dataset_name="hftl's sample of film reviews",
    ),
)


def main() -> None:
    """The four steps of `make quickstart`; the first one, the installation, is the Makefile's."""
    console = Console(soft_wrap=True)
    run, untrained = RunDirectory(Path("runs/quickstart")), RunDirectory(Path("runs/quickstart-from-scratch"))
    for earlier in (run, untrained):  # the demonstration may be repeated; `hftl train` writes this recipe into runs/film-reviews
        shutil.rmtree(earlier.path, ignore_errors=True)

    console.print("[2/4] plan and training: bert-nano on 600 film reviews, 3 stages", markup=False)
    hftl.train_recipe(recipe, run_dir=run.path, console=console, source="recipes/quickstart.py")

    console.print("\n[3/4] for comparison: the same network from random weights", markup=False)
    scratch = hftl.override(recipe, ["model.pretrained=false", f"name={untrained.path.name}"])
    hftl.train_recipe(scratch, run_dir=untrained.path, console=Console(file=io.StringIO()))

    test, other = read_json(run.metrics)["test"], read_json(untrained.metrics)["test"]
    low, high = test["accuracy_interval"]
    console.print(
        f"[4/4] test (opened once)  accuracy {test['accuracy']:.3f} [{low:.2f}, {high:.2f}], n = {test['n']}"
        f" · majority {test['majority_accuracy']:.2f} · same network from scratch {other['accuracy']:.3f}",
        markup=False,
    )


if __name__ == "__main__":
    hftl.main(recipe, demo=main)
