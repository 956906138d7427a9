"""What do the frozen features of a network know of the sample's reviews? For hftl/samples/bert-nano/README.md.

    python benchmarks/probe.py CHECKPOINT [...] [--from GROUP]

Logistic regression on the mean of the last states, or of what enters a layer group, in five-fold cross-validation on the 600
training reviews, the mean of four ways to fold them, at the best of four strengths. The test reviews are not looked at.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hftl
from hftl.samples import REVIEWS

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


def main() -> None:
    """A line for each checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--from", dest="group", help="a layer group, such as layer.4")
    given = parser.parse_args()
    train = pd.read_json(f"{REVIEWS}/train.jsonl", lines=True)
    folds = [StratifiedKFold(5, shuffle=True, random_state=seed) for seed in range(4)]
    for checkpoint in given.checkpoints:
        features = hftl.features(checkpoint, list(train["text"]), group=given.group)
        probes = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2_000)) for c in STRENGTHS]
        best = max(
            np.mean([cross_val_score(probe, features, train["label"], cv=fold).mean() for fold in folds]) for probe in probes
        )
        print(f"{checkpoint}  {best:.3f}")


if __name__ == "__main__":
    main()
