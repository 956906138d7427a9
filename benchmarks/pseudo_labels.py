"""What do pseudo-labels gain on IMDb with few labels, and how many of them are really wrong? For docs/pseudo_labels.md.

    python benchmarks/pseudo_labels.py --imdb DIR --checkpoint DIR [--labels 200,1000] [--seeds 3] [--pool 5000] [--unsupervised]

A run on so many labels labels a pool of further reviews; the same recipe is trained again with these. The pool is of train, of rows
that no split of the run has: their true labels are known, and say how many pseudo-labels are wrong, beside what validation has led
to expect. With --unsupervised a third run is taught by the 50,000 reviews without labels. Validation has 1,000 rows, and test the
same 5,000 for all. Runs lie in build/pseudo_labels: the same command again goes on where it was stopped. The table is printed,
and benchmarks/results/pseudo_labels.json has its numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import hftl
from hftl.data.source import load_splits
from hftl.evaluation.calibration import believed
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json, write_json
from hftl.run import RunDirectory

HERE = Path(__file__).resolve().parent
RESULT, RUNS = HERE / "results" / "pseudo_labels.json", HERE.parent / "build" / "pseudo_labels"


def recipe_of(given: argparse.Namespace, labels: int, seed: int, extra: Path | None = None) -> hftl.Recipe:
    """The recipe of a run on so many labels, taught by further rows where there are some."""
    data = hftl.TextData(
        source=given.imdb,
        max_length=256,
        max_train_samples=labels,
        max_validation_samples=1_000,
        max_test_samples=5_000,
        on_duplicate="drop",
        split_seed=0,
        sample_seed=seed,
        extra=() if extra is None else hftl.Extra(source=extra, name="pseudo-labelled"),
    )
    stages = {
        "head": hftl.Stage(unfreeze="head", lr=1e-3, epochs=3),
        "all": hftl.Stage(unfreeze="all", lr=1e-4, epochs=8 if extra is None else 3, layer_decay=0.9),
    }
    return hftl.Recipe(
        name=f"pseudo-{labels}-{seed}",
        data=data,
        model=hftl.Transformer(checkpoint=given.checkpoint),
        stages=stages,
        run=hftl.RunSettings(batch_size=16, seed=seed, baseline="none"),
    )


def trained(recipe: hftl.Recipe, place: Path) -> hftl.Run:
    """The run in a folder, trained or gone on with where it is not finished."""
    run = RunDirectory(place)
    return hftl.load(place) if run.finished else hftl.train(recipe, run_dir=place, resume=run.recipe.is_file())


def pool(given: argparse.Namespace, labels: int, seed: int, file: Path) -> dict[str, str]:
    """Reviews of train that no split of the run has, as a table without labels in `file`; their true labels by text."""
    rows = pq.read_table(Path(given.imdb) / "train.parquet").to_pylist()
    splits = load_splits(recipe_of(given, labels, seed).data, seed=seed)
    used = {*splits.train["text"], *splits.validation["text"]}
    free = [row for row in rows if row["text"] not in used]
    drawn = [free[place] for place in np.random.default_rng(seed).permutation(len(free))[: given.pool].tolist()]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [row["text"] for row in drawn]}), file)
    names = splits.label_names
    return {row["text"]: names[row["label"]] if isinstance(row["label"], int) else str(row["label"]) for row in drawn}


def measure(given: argparse.Namespace, labels: int, seed: int) -> dict[str, Any]:
    """One row of the table."""
    place = RUNS / f"{labels}-{seed}"
    plain = trained(recipe_of(given, labels, seed), place / "plain")
    truth = pool(given, labels, seed, place / "pool.parquet")
    sources = {"pool": str(place / "pool.parquet")} | ({"unsupervised": "unsupervised"} if given.unsupervised else {})
    validation = Predictions.load(plain.paths.predictions("validation"))
    expected = believed(validation.logits.astype(np.float64), validation.labels, noise=given.noise)
    found: dict[str, Any] = {"labels": labels, "seed": seed, "plain": plain.metrics["test"]["accuracy"]}
    for name, source in sources.items():
        folder = place / f"{name}-labels"
        if not folder.is_dir():
            hftl.pseudo_label(plain, source, folder, noise=given.noise)
        rows = pq.read_table(folder / "train.parquet").to_pylist()
        taught = trained(recipe_of(given, labels, seed, folder), place / name)
        found[name] = {"rows": len(rows), "accuracy": taught.metrics["test"]["accuracy"]}
        if name == "pool":
            assert expected is not None  # or nothing was labelled
            wrong = sum(row["label"] != truth[row["text"]] for row in rows)
            found[name] |= {"noise": wrong / len(rows), "expected": expected.noise, "interval": expected.interval}
    return found


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imdb", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--labels", type=lambda text: [int(part) for part in text.split(",")], default=[200, 1_000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pool", type=int, default=5_000)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--unsupervised", action="store_true")
    given = parser.parse_args()
    rows = [measure(given, labels, seed) for labels in given.labels for seed in range(given.seeds)]
    before: list[dict[str, Any]] = read_json(RESULT)["rows"] if RESULT.is_file() else []
    kept = [row for row in before if (row["labels"], row["seed"]) not in {(new["labels"], new["seed"]) for new in rows}]
    write_json(RESULT, {"rows": sorted([*kept, *rows], key=lambda row: (row["labels"], row["seed"]))})
    print(
        "| labels | seed | without | pseudo-labels | wrong, expected | wrong, really | with them |\n|--:|--:|--:|--:|--:|--:|--:|"
    )
    for row in rows:
        low, high = row["pool"]["interval"]
        expected = f"{row['pool']['expected']:.3f} [{low:.3f}, {high:.3f}]"
        of_pool = f"{row['pool']['rows']:,} | {expected} | {row['pool']['noise']:.3f} | {row['pool']['accuracy']:.3f}"
        print(f"| {row['labels']:,} | {row['seed']} | {row['plain']:.3f} | {of_pool} |")


if __name__ == "__main__":
    main()
