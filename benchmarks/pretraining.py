"""What does pretraining further on the task's own texts gain? MiniLM on IMDb with and without, on few labels and on all.

    python benchmarks/pretraining.py --data DIR --models DIR [--labels 200,1000,all] [--seeds 3] [--epochs 3]
    python benchmarks/pretraining.py ... --dry-run     how long the pretraining would take on this machine

DIR hold the data sets and the pretrained models by the names below; they are not part of the project. `hftl pretrain` reads the
texts of train and the 50,000 reviews without labels once; validation and test are left out. Then the default recipe
(hftl/defaults.py) is fitted on so many labels from either checkpoint, with the same rows and the same seeds, and judged by the same
2,000 rows of validation; the test split stays sealed. The checkpoint lies in build/pretraining/checkpoint, trials beside it: the
same command again goes on where it was stopped. What comes out goes to benchmarks/results/pretraining/imdb-LABELS/ARM.json, as of
benchmarks/tools.py, and the table of it is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from findings import Set, recipe_of
from tools import MEASURES, PLAIN, Bench, measure, row_of

import hftl
from hftl.api import plan_pretraining
from hftl.errors import HftlError
from hftl.files import read_json
from hftl.studies.trials import divided
from hftl.training.experiment import read_data

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "pretraining"
PRETRAINED = "pretrained"


def main() -> None:
    """Pretrain once, then fit both arms on each number of labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", default="minilm", help="a folder of --models")
    parser.add_argument("--labels", default="200,1000,all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3.0, help="of pretraining")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row, and of a review")
    parser.add_argument("--folder", type=Path, default=Path("build/pretraining"))
    parser.add_argument("--dry-run", action="store_true")
    asked = parser.parse_args()
    benches = {f"imdb-{labels}": Bench(_set(asked.model, labels, asked.length)) for labels in asked.labels.split(",")}
    whole = _with_texts(recipe_of("imdb", _set(asked.model, "all", asked.length), asked.data, asked.models))
    if asked.dry_run:
        print(plan_pretraining(whole, epochs=asked.epochs))
        return
    checkpoint = asked.folder / "checkpoint"
    if not (checkpoint / "provenance.json").is_file():
        hftl.pretrain(whole, checkpoint, epochs=asked.epochs, resume=(checkpoint / "checkpoints").is_dir())
    judged_by = _validation(whole)
    for name, bench in benches.items():
        recipe = recipe_of(name, bench.set, asked.data, asked.models)
        if _validation(divided(recipe)) != judged_by:
            raise SystemExit(f"{name}: is judged by other rows than those that pretraining has left out")
        arms = {PLAIN: (), PRETRAINED: (f"model.checkpoint={checkpoint}",)}
        measure(asked.folder / name, bench, recipe, arms, seeds=asked.seeds, results=RESULTS / name)
    print(f"| data | checkpoint | {' | '.join(MEASURES.values())} | cost |")
    for file in sorted(RESULTS.glob("*/*.json"), key=lambda file: (file.parent.name, file.stem != PLAIN)):
        print(row_of(file.parent.name, file.stem, read_json(file)))


def _set(model: str, labels: str, length: int) -> Set:
    return Set("imdb", model, None if labels == "all" else int(labels), 2_000, length)


def _with_texts(recipe: hftl.Recipe) -> hftl.Recipe:
    return hftl.override(divided(recipe), ["data.unlabelled=unsupervised"])


def _validation(recipe: hftl.Recipe) -> list[str]:
    """The rows that a recipe is judged by."""
    splits = read_data(recipe).divided(recipe.data, seed=recipe.run.seed)
    return list(splits.validation["id"][:])


if __name__ == "__main__":
    try:
        main()
    except HftlError as error:
        raise SystemExit(str(error)) from None
