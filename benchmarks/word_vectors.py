"""Word vectors of one's own on all of IMDb: which method, and what they are worth to a TextCNN and a BiLSTM.

    python benchmarks/word_vectors.py OUT                              one seed of every arm
    python benchmarks/word_vectors.py OUT --seeds 0,1,2                three
    python benchmarks/word_vectors.py OUT --only glove,given           some arms
    python benchmarks/word_vectors.py OUT --report                     the table of what is there

The vectors of an arm are learned once, from the texts of train and the 50,000 reviews without labels; validation and test are left
out. Each run is `hftl train` of the recipe with these vectors and nothing else changed but the size of the vocabulary. Steps that
are done are not done again, and a run that was stopped goes on from its checkpoint. A step that fails leaves its log beside its
place, and the others go on. OUT/table.md has what is there so far.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import hftl
from hftl.records.vectors import read_learned
from hftl.wording import duration

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
IMDB, GIVEN = SHARED / "data" / "imdb", SHARED / "vectors"
WORDS = 30_000
RECIPES = {"TextCNN": "textcnn_imdb.py", "BiLSTM": "bilstm_imdb.py"}
# Arm -> file of vectors and how it is learned; None: it is there already.
ARMS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "given-twitter-25d": (str(GIVEN / "glove.twitter.27B.25d.12k.txt"), None),
    "given-6B-50d": (str(GIVEN / "glove.6B.50d.5k.txt"), None),
    "random": ("random:100", None),
    "glove": ("glove.txt", ("--method", "glove")),
    "skip-gram": ("skip-gram.txt", ("--method", "skip-gram")),
    "cbow": ("cbow.txt", ("--method", "cbow")),
    "fasttext": ("fasttext.bin", ("--method", "fasttext")),
}


def main() -> int:
    """Do what is not done, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default=",".join(ARMS), help="arms, by how their names begin")
    parser.add_argument("--threads", default="1", help="of the vectors; with one they are the same again")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        for arm in [arm for arm in ARMS if arm.startswith(tuple(options.only.split(",")))]:
            file = learned(options.out, arm, options.threads)
            if file is not None:
                for seed in options.seeds.split(","):
                    for network in RECIPES:
                        train(options.out, arm, file, network, seed)
                        (options.out / "table.md").write_text(table(options.out), encoding="utf-8")
    print(table(options.out))
    return 0


def learned(out: Path, arm: str, threads: str) -> str | None:
    """The vectors of an arm, learned where they are not there yet; None: that has failed."""
    file, how = ARMS[arm]
    if how is None:
        return file
    output = out / file
    recipe = REPOSITORY / "recipes" / RECIPES["TextCNN"]  # both have the same rows of train and validation
    changes = (f"data.source={IMDB}", "data.unlabelled=unsupervised")
    settings = ("--dimensions", "100", "--max-words", str(WORDS), "--threads", threads)
    if output.is_file() or run(out / arm, "vectors", str(recipe), *changes, *how, *settings, "--output", str(output)):
        return str(output)
    return None


def train(out: Path, arm: str, file: str, network: str, seed: str) -> None:
    """A run of an arm, from its beginning or from where it was stopped."""
    place = out / f"{arm}-{network}-{seed}"
    if place.is_dir() and hftl.load(place).finished:
        return
    resume = ("--resume",) if (place / "recipe.yaml").is_file() else ()
    recipe = REPOSITORY / "recipes" / RECIPES[network]
    changes = (f"data.source={IMDB}", f"model.vectors={file}", f"model.max_words={WORDS}", f"run.seed={seed}", "data.split_seed=0")
    run(place, "train", str(recipe), *changes, "--run-dir", str(place), *resume)


def run(log: Path, *arguments: str) -> bool:
    """Whether a command of hftl ended well; what it says is in LOG.log."""
    print(f"hftl {' '.join(arguments)}", flush=True)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with log.with_name(f"{log.name}.log").open("a", encoding="utf-8") as stream:
        done = subprocess.run([sys.executable, "-m", "hftl", *arguments], stdout=stream, stderr=stream, env=environment)
    if done.returncode:
        print(f"failed with exit code {done.returncode}: {log.name}.log", flush=True)
    return done.returncode == 0


def table(out: Path) -> str:
    """Test accuracy of what is there: an arm a row, the mean over its seeds and how many they are."""
    lines = [f"| vectors | learned in | {' | '.join(RECIPES)} |", "|---|---|" + "---|" * len(RECIPES)]
    for arm, (file, how) in ARMS.items():
        found = read_learned(out / file) if how is not None else None
        cells = [arm, duration(found["seconds"]) if found is not None else ""]
        for network in RECIPES:
            runs = [hftl.load(place) for place in sorted(out.glob(f"{arm}-{network}-[0-9]*")) if place.is_dir()]
            accuracies = [run.metrics["test"]["accuracy"] for run in runs if run.finished]
            cells.append(f"{statistics.mean(accuracies):.4f} (n = {len(accuracies)})" if accuracies else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
