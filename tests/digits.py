"""scikit-learn's handwritten digits as image folders, small enough to train on in a test.

The 1,797 pictures are 8 x 8, grey values 0 to 16 (Alpaydin & Kaynak 1998, UCI); they are written as PNG, enlarged to 32 x 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32


def write_digits(folder: Path, digits: Sequence[int], *, train_per_class: int, seed: int = 0) -> Path:
    """Write `folder`/{train,test}/DIGIT/*.png: `train_per_class` random pictures of each digit to train, all others to test.

    Returns the folder; one that is there already is kept as it is.
    """
    if folder.is_dir():
        return folder
    bunch = load_digits()
    generator = np.random.default_rng(seed)
    beside = folder.with_name(folder.name + ".partial")
    for digit in digits:
        chosen = generator.permutation(np.flatnonzero(bunch.target == digit))
        for place, index in enumerate(chosen):
            target = beside / ("train" if place < train_per_class else "test") / str(digit)
            target.mkdir(parents=True, exist_ok=True)
            grey = np.round(bunch.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(target / f"{index:04d}.png")
    beside.rename(folder)
    return folder
