"""What does CORAL gain where a classifier meets texts of another kind than it learned from? For docs/features.md.

    python benchmarks/domains.py --imdb DIR --checkpoint DIR [--rows 2000] [--seeds 3]

Logistic regression on the frozen features of long IMDb reviews answers the short film reviews of the sample: with the features as
they are, aligned by `hftl.coral` to the 600 short reviews of train without their labels, and, as what labels would give, learned
from these 600 themselves. Test are the 580 short reviews of test. A seed draws which IMDb reviews there are. The table is printed,
and benchmarks/results/domains.json has its numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hftl
from hftl.files import write_json
from hftl.samples import REVIEWS

RESULT = Path(__file__).resolve().parent / "results" / "domains.json"
RIDGES = (0.1, 1.0, 10.0)


def main() -> None:
    """Compute the features, fit the classifiers, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imdb", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()

    imdb = pd.read_parquet(given.imdb / "train.parquet")
    train, test = (pd.read_json(f"{REVIEWS}/{split}.jsonl", lines=True) for split in ("train", "test"))
    short, answers = (hftl.features(given.checkpoint, list(rows["text"])) for rows in (train, test))
    found: dict[str, list[float]] = {"short reviews, with their labels": [score(short, train["label"], answers, test["label"])]}
    for seed in range(given.seeds):
        rows = imdb.iloc[np.random.default_rng(seed).permutation(len(imdb))[: given.rows]]
        labels = np.where(rows["label"] == 1, "positive", "negative")
        long = hftl.features(given.checkpoint, list(rows["text"]))
        add(found, "IMDb, as they are", score(long, labels, answers, test["label"]))
        for ridge in RIDGES:
            aligned = hftl.coral(long, short, ridge=ridge)
            add(found, f"IMDb, aligned, ridge {ridge:g}", score(aligned, labels, answers, test["label"]))
    write_json(RESULT, {"rows": given.rows, "model": Path(given.checkpoint).name, "accuracy": found})
    print("| learned from | accuracy on short reviews, mean (lowest to highest) |\n|---|---|")
    for name, values in found.items():
        spread = "" if len(values) == 1 else f" ({min(values):.3f} to {max(values):.3f})"
        print(f"| {name} | {np.mean(values):.3f}{spread} |")


def add(found: dict[str, list[float]], name: str, value: float) -> None:
    """Beside the values of other seeds."""
    found.setdefault(name, []).append(value)


def score(features: NDArray[np.float32], labels: object, others: NDArray[np.float32], truth: object) -> float:
    """Accuracy on `others` of logistic regression that has learned from `features`, in units of their own spread."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2_000)).fit(features, labels)
    return float(model.score(others, truth))


if __name__ == "__main__":
    main()
