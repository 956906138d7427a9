"""Do pictures that a GAN has drawn pay against augmentation? Few handwritten digits of scikit-learn. For docs/generated.md.

    python benchmarks/generated.py --write
    python recipes/gan_augmentation.py build/generated/digits build/generated/gan --side 28 --width 16 --batch 32 --pictures 200
    python benchmarks/generated.py [--seeds 3]

The first command writes the folder of digits, the second learns and draws, the third trains and prints.

The digits are 8 x 8 and are enlarged to 28 x 28 (Alpaydin & Kaynak 1998, UCI): 40 of each to train, 20 for validation, the other
1,197 to test. A small CNN is trained on them, without and with shifts and turns, without and with the drawn ones at weight 0.5,
twice as many epochs where it has none, so that every arm takes about as many steps. Validation chooses the weights, test is what is
printed. Runs lie in build/generated; what is finished is not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import hftl
from hftl.run import RunDirectory

HOME = Path(__file__).resolve().parent.parent / "build" / "generated"
SIDE, TRAIN, VALIDATION = 28, 40, 20
SHIFTS = {
    "__version__": "2.0.8",
    "transform": {
        "__class_fullname__": "Affine",
        "translate_percent": {"x": [-0.1, 0.1], "y": [-0.1, 0.1]},
        "rotate": [-10.0, 10.0],
        "scale": {"x": [0.9, 1.1], "y": [0.9, 1.1]},
        "p": 1.0,
    },
}


def write_digits(folder: Path) -> None:
    """SPLIT/DIGIT/*.png, once."""
    if folder.is_dir():
        return
    bunch, generator = load_digits(), np.random.default_rng(0)
    for digit in range(10):
        for place, index in enumerate(generator.permutation(np.flatnonzero(bunch.target == digit)).tolist()):
            split = "train" if place < TRAIN else "validation" if place < TRAIN + VALIDATION else "test"
            target = folder / split / str(digit)
            target.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray(np.round(bunch.images[index] * (255 / 16)).astype(np.uint8))
            grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(target / f"{index:04d}.png")


def recipe_of(digits: Path, drawn: Path | None, seed: int, *, shifted: bool) -> hftl.Recipe:
    """One arm."""
    extra = () if drawn is None else hftl.Extra(source=drawn, name="generated", weight=0.5)
    augmentation = SHIFTS if shifted else "none"
    return hftl.Recipe(
        name="digits",
        data=hftl.ImageData(source=digits, image_size=SIDE, augmentation=augmentation, extra=extra, on_duplicate="drop"),
        model=hftl.CNN(channels=(16, 32, 64)),
        stages={"all": hftl.Stage(unfreeze="all", lr=3e-3, epochs=24 if drawn is None else 4, schedule="one_cycle")},
        run=hftl.RunSettings(batch_size=32, seed=seed, baseline="none", precision="fp32", workers=0),
    )


def main() -> None:
    """Train what is not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--digits", type=Path, default=HOME / "digits")
    parser.add_argument("--drawn", type=Path, default=HOME / "gan" / "pictures")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    write_digits(given.digits)
    if given.write:
        return
    print("| | no augmentation | shifts and turns |\n|---|--:|--:|")
    for name, drawn in (("400 digits", None), ("and the drawn ones", given.drawn)):
        cells = []
        for shifted in (False, True):
            values = []
            for seed in range(given.seeds):
                run = RunDirectory(HOME / "runs" / f"{'drawn' if drawn else 'plain'}-{'shifted' if shifted else 'still'}-{seed}")
                recipe = recipe_of(given.digits, drawn, seed, shifted=shifted)
                done = hftl.load(run.path) if run.finished else hftl.train(recipe, run_dir=run.path, resume=run.recipe.is_file())
                values.append(done.metrics["test"]["accuracy"])
            cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}")
        print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
