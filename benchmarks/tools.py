"""What does a tool of training gain, and on what? Each beside the same recipe without it, on several data sets: docs/findings.md.

    python benchmarks/tools.py --data DIR --models DIR [--only trec,goemotions:focal] [--seeds 3]
    python benchmarks/tools.py --only ""         no measurement: the table of docs/findings.md from the JSON files once more
    python benchmarks/tools.py ... --rows 200    of every set only so many training rows, to see that an arm works; nothing is kept

DIR hold the data sets and the pretrained models by the names below; they are not part of the project. An arm is the default recipe
of a set (hftl/defaults.py) with a few changes, in a line of `ARMS`; "plain" is the recipe itself. Every arm has the same rows and
the same seeds, and is judged by validation; the test split stays sealed. Trials lie in build/tools/SET/ARM-SEED: the same command
again goes on where it was stopped, and a new line measures the new arm alone. What comes out goes to
benchmarks/results/tools/SET/ARM.json.

An interval is for new rows and new seeds (see `hftl.evaluation.seeds.paired_difference`, with the bootstrap over rows in place of
the variance of a mean). Cost is the planned operations of an arm over those of "plain", without what an arm adds to evaluation.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from claims import commit, replace_between
from findings import SETS as OF_FINDINGS
from findings import Set, recipe_of
from numpy.typing import NDArray
from scipy import stats

import hftl
from hftl.environment import now
from hftl.errors import HftlError
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.files import read_json, write_json, write_text
from hftl.recipe import judged
from hftl.run import RunDirectory
from hftl.studies.trials import Experiments, Trial, divided, run_trial, sealed
from hftl.terminal import tell
from hftl.wording import count

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "tools", HERE.parent / "docs" / "findings.md"
RESAMPLES = 1_000
PLAIN = "plain"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bench:
    """A data set to measure tools on, and its classes that are rare."""

    set: Set
    rare: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    """To the default recipe, of "plain" and of every arm."""


SETS: Mapping[str, Bench] = {
    "trec": Bench(Set("trec", "minilm", validation=1_000, max_length=64), rare=("ABBR",)),  # 86 of 5,452
    # 16 questions a class: for what is meant for few labels.
    "trec-96": Bench(Set("trec", "minilm", 96, 1_000, max_length=64), changes=("model.pooling=mean",)),
    "trec-1000": Bench(Set("trec", "minilm", 1_000, 1_000, max_length=64)),
    "goemotions": Bench(
        Set("goemotions", "minilm", 8_000, max_length=64, label_column="labels"),
        rare=("grief", "pride", "relief", "nervousness", "embarrassment"),  # 77 to 303 of 43,410
    ),
    # Half of the reviews are longer than 256 tokens. Few epochs: a step of four windows costs as four texts.
    "imdb-long": Bench(Set("imdb", "bert-nano", 2_000, 2_000), changes=("stages.head.epochs=1", "stages.all.epochs=4")),
    **{name: Bench(OF_FINDINGS[name]) for name in ("imdb-1000", "hotdog", "hymenoptera", "clothing")},
}


def each(*changes: str) -> tuple[str, ...]:
    """Changes of a stage, made in both of them: "loss=focal" is stages.head.loss=focal and stages.all.loss=focal."""
    return tuple(f"stages.{stage}.{change}" for stage in ("head", "all") for change in changes)


CONSTANT = "stages.all.schedule={kind: constant, warmup: 0.1}"
# Of texts and of pictures. The averages where the rate falls to 0, and where it does not.
REGULARISATION: Mapping[str, Sequence[str]] = {
    "ema": ("stages.all.average=ema",),
    "swa": ("stages.all.average=swa",),
    "soup": ("stages.all.average=soup",),
    "constant": (CONSTANT,),
    "constant-ema": (CONSTANT, "stages.all.average=ema"),
    "constant-swa": (CONSTANT, "stages.all.average=swa"),
    "l1": each("l1=0.1"),
    "weight-decay": each("weight_decay=0.1"),
    "reinitialize": ("model.reinitialize=1", "stages.head.unfreeze=last 2"),  # the first stage trains what begins anew
    "muon": ("stages.all.optimizer=muon",),
}

# Set -> name of an arm -> its changes to the recipe. A line a tool.
ARMS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "trec": {
        "smoothing": each("loss.label_smoothing=0.1"),
        "focal": each("loss=focal"),
        "weights-balanced": each("class_weights=balanced"),
        "weights-effective": each("class_weights=effective"),
        "logit-adjusted": each("loss=logit_adjusted"),
        "r-drop": each("loss=r_drop"),
        "sampling-balanced": each("sampling=balanced"),
        "sampling-sqrt": each("sampling=sqrt"),
        **REGULARISATION,
        "head-dropout": ("model.head_dropout=0.3",),
    },
    "trec-96": {
        "contrastive": ("stages.all.loss=contrastive",),
        "contrastive-half": ("stages.all.loss={kind: contrastive, weight: 0.5}",),
        "r-drop": ("stages.all.loss=r_drop",),
        "native": ("model.pooling=native",),
        "lora-8": ("stages.all.lora=8", "stages.all.lr=1e-3"),
        "lora-32": ("stages.all.lora=32", "stages.all.lr=1e-3"),
    },
    "trec-1000": {  # an adapter wants a higher rate than the weights that it stands beside
        "lora-8": ("stages.all.lora=8", "stages.all.lr=1e-3"),
        "lora-32": ("stages.all.lora=32", "stages.all.lr=1e-3"),
        "lora-8-low": ("stages.all.lora=8", "stages.all.lr=3e-4"),
    },
    "hotdog": {
        **REGULARISATION,
        "head-dropout": ("model.dropout=0.3",),
        "drop-path": ("model.drop_path=0.1",),
    },
    "imdb-long": {  # "plain" reads the first 256 tokens
        "head-tail-256": ("data.truncate=head+tail",),
        "head-512": ("data.max_length=512",),
        "windows-256": ("data.max_length=1024", "data.windows=mean"),
    },
    "goemotions": {
        "focal": each("loss=focal"),
        "focal-alpha": each("loss=focal", "loss.alpha=0.25"),
        "asymmetric": each("loss=asymmetric"),
        "r-drop": each("loss=r_drop"),
        "weights-balanced": each("class_weights=balanced"),
        "weights-effective": each("class_weights=effective"),
        "sampling-balanced": each("sampling=balanced"),
        "sampling-sqrt": each("sampling=sqrt"),
    },
    **{
        name: {
            # What training sees: "plain" sees every picture as evaluation does, 128 pixels a side.
            "light": ("data.augmentation=light",),
            "light-torchvision": ("data.augmentation=light", "data.augmentation_library=torchvision"),
            "standard": ("data.augmentation=standard",),
            "strong": ("data.augmentation=strong",),
            "randaugment": ("data.augmentation=randaugment",),
            "trivialaugment": ("data.augmentation=trivialaugment",),
            "augmix": ("data.augmentation=augmix",),
            "light-erasing": ("data.augmentation=light", "data.random_erasing=0.25"),
            "mixup": ("stages.all.mix=mixup",),
            "cutmix": ("stages.all.mix=cutmix",),
            "light-mixup-or-cutmix": ("data.augmentation=light", "stages.all.mix=mixup or cutmix"),
            "light-96": ("data.augmentation=light", "stages.all.image_size=96"),
            "light-128-for-160": ("data.augmentation=light", "data.image_size=160", "stages.all.image_size=128"),
            "light-160": ("data.augmentation=light", "data.image_size=160"),
            # What pretraining buys: the same network, and a small one, from random weights.
            **(
                {}
                if name == "clothing"
                else {
                    "pyramid": ("model.pooling=pyramid",),
                    "scratch": ("model.pretrained=false",),
                    "cnn": ("model.family=cnn",),
                }
            ),
        }
        for name in ("hotdog", "hymenoptera", "clothing")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--models", type=Path, default=Path())
    parser.add_argument("--only", default=",".join(ARMS), help="SET, or SET:ARM, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training rows of every set; nothing is kept")
    parser.add_argument("--model", help="another model of the folder, for every set")
    parser.add_argument("--trials", type=Path, default=Path("build/tools"))
    asked = parser.parse_args()
    for name, arms in chosen(asked.only).items():
        bench = SETS[name]
        if asked.rows is not None:
            bench = replace(bench, set=replace(bench.set, rows=asked.rows, validation=asked.rows))
        if asked.model is not None:
            bench = replace(bench, set=replace(bench.set, model=asked.model))
        recipe = hftl.override(recipe_of(name, bench.set, asked.data, asked.models), bench.changes)
        folder = asked.trials / name
        if asked.rows is not None:
            folder = folder.with_name(f"{name}-{asked.rows}")
            shutil.rmtree(folder, ignore_errors=True)
        measure(folder, bench, recipe, arms, seeds=asked.seeds, results=None if asked.rows is not None else RESULTS / name)
    if asked.rows is None:
        write_page(PAGE)


def chosen(only: str) -> dict[str, dict[str, Sequence[str]]]:
    """Set -> its arms that were asked for, by "SET" all of them, by "SET:ARM" one; "plain" first.

    Raises:
        SystemExit: there is no such set or arm.
    """
    found: dict[str, dict[str, Sequence[str]]] = {}
    for word in filter(None, only.split(",")):
        name, _, arm = word.partition(":")
        known = ARMS.get(name, {})
        if not known or (arm and arm not in known):
            raise SystemExit(f"{word}: no such set or arm; there are {', '.join(f'{s}:{a}' for s in ARMS for a in ARMS[s])}")
        found.setdefault(name, {PLAIN: ()}).update(known if not arm else {arm: known[arm]})
    return found


# --- measuring ------------------------------------------------------------------------------------------------------------------


def measure(
    folder: Path, bench: Bench, recipe: hftl.Recipe, arms: Mapping[str, Sequence[str]], *, seeds: int, results: Path | None
) -> None:
    """Fit each arm with each seed, or read what was fitted before; say what it came to, and write it into `results`."""
    experiments = Experiments()
    trials: dict[str, list[Trial]] = {arm: [] for arm in arms}
    for seed in range(seeds):
        for arm, changes in arms.items():
            trial = fitted(folder / f"{arm}-{seed}", sealed(divided(hftl.override(recipe, changes)), seed=seed), experiments)
            tell(f"{folder.name} {arm}, seed {seed}: {trial.value}, {trial.seconds:,.0f} s")
            trials[arm].append(trial)
    for arm, changes in arms.items():
        record = {
            "set": bench.set.source,
            "model": bench.set.model,
            "rows": {split: facts["n"] for split, facts in read_json(RunDirectory(folder / f"{PLAIN}-0").data)["splits"].items()},
            "rare": list(bench.rare),
            "changes": [change.replace(f"{folder.parent}/", "") for change in (*bench.changes, *changes)],
            "values": compared(folder, arm, seeds=seeds, rare=bench.rare),
            "flops": [trial.flops for trial in trials[arm]],
            "cost": sum(trial.flops for trial in trials[arm]) / sum(trial.flops for trial in trials[PLAIN]),
            "seconds": [trial.seconds for trial in trials[arm]],
            "git_commit": commit(),
            "time": now(),
            "cpu": read_json(RunDirectory(folder / f"{PLAIN}-0").environment)["cpu"],
        }
        if results is None:
            tell(row_of(folder.name, arm, record))
        else:
            results.mkdir(parents=True, exist_ok=True)
            write_json(results / f"{arm}.json", record)


def fitted(path: Path, recipe: hftl.Recipe, experiments: Experiments) -> Trial:
    """A trial of a recipe in a folder; one that was made there before is read.

    Raises:
        SystemExit: the folder has the trial of another recipe, or the trial has failed.
    """
    run = RunDirectory(path)
    if run.recipe.is_file():
        before = run.load_recipe()
        if before != judged(recipe, before.run.chooser):  # it has the metric that "auto" has come to
            raise SystemExit(f"{path}: holds the trial of another recipe; remove it, and it is fitted again")
    trial = run_trial(run, recipe, experiments)
    if trial.state != "complete":
        raise SystemExit(f"{path}: {trial.reason}")
    return trial


# --- comparing ------------------------------------------------------------------------------------------------------------------

OfWeights = Callable[[Floats], Floats]
"""(R, N) weights of the rows -> (R, C) values of C candidates."""


def compared(folder: Path, arm: str, *, seeds: int, rare: Sequence[str]) -> dict[str, Any]:
    """Each measure of an arm: its values by seed, and the gain over "plain" with its interval; None of "plain" itself."""
    plain, own = ([_predictions(folder / f"{name}-{seed}") for seed in range(seeds)] for name in (PLAIN, arm))
    names = stored_label_names(RunDirectory(folder / f"{PLAIN}-0").predictions("validation"))
    every, size = [*plain, *own], len(plain[0])
    if any(each.ids != plain[0].ids for each in every):
        raise SystemExit(f"{folder}: the arms were judged by other rows")
    drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=RESAMPLES).astype(np.float64)
    found: dict[str, Any] = {}
    for measure, of_weights in measures(every, names, rare).items():
        values = of_weights(np.ones((1, size)))[0]
        of_plain, of_own = values[:seeds], values[seeds:]
        again = of_weights(drawn)
        gains = again[:, seeds:].mean(axis=1) - again[:, :seeds].mean(axis=1)
        found[measure] = {"values": of_own.tolist()}
        if arm != PLAIN:
            found[measure] |= {"gain": float((of_own - of_plain).mean()), "interval": interval(of_own - of_plain, gains, rows=size)}
    return found


def _predictions(path: Path) -> Predictions:
    """Of validation; several labels by the thresholds that these rows choose, as every arm has them."""
    return Predictions.load(RunDirectory(path).predictions("validation")).choose_thresholds()


def measures(candidates: Sequence[Predictions], names: Sequence[str], rare: Sequence[str]) -> dict[str, OfWeights]:
    """Name -> the measure: accuracy (of several labels exact match), macro F1; and where some classes are rare, the mean recall and
    F1 of these, and the mean F1 of the others."""
    target = candidates[0].target
    found = {metric: target.scores(candidates, metric) for metric in ("accuracy", "macro_f1")}
    if rare:
        places = [place for place, name in enumerate(names) if name in rare]
        others = [place for place, name in enumerate(names) if name not in rare]
        assert len(places) == len(rare), (rare, names)
        found["recall_rare"] = of_classes(candidates, places, recall=True)
        found["f1_rare"] = of_classes(candidates, places, recall=False)
        found["f1_others"] = of_classes(candidates, others, recall=False)
    return found


def of_classes(candidates: Sequence[Predictions], places: Sequence[int], *, recall: bool) -> OfWeights:
    """The mean recall or F1 of some classes, of those that a resample has an example of; nan where it has none of any."""
    target, labels = candidates[0].target, candidates[0].labels
    true = np.stack([target.has(labels, place) for place in places]).astype(np.float64)  # (P, N)
    said = np.stack([[target.has(each.predicted, place) for place in places] for each in candidates]).astype(
        np.float64
    )  # (C, P, N)

    def of_weights(weights: Floats) -> Floats:
        right = np.einsum("rn,cpn->rcp", weights, said * true, optimize=True)
        there = (weights @ true.T)[:, None, :]
        total = there if recall else (there + np.einsum("rn,cpn->rcp", weights, said, optimize=True)) / 2
        values = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
        counted = np.broadcast_to(there > 0, values.shape)
        with np.errstate(invalid="ignore"):
            return (values * counted).sum(axis=2) / counted.sum(axis=2)  # type: ignore[no-any-return]

    return of_weights


def interval(of_seeds: Floats, of_resamples: Floats, *, rows: int) -> list[float] | None:
    """95 % interval of a gain, for new rows and seeds, by Welch and Satterthwaite of two variances; None where nothing varies."""
    of_resamples, seeds = of_resamples[~np.isnan(of_resamples)], len(of_seeds)
    by_rows = float(np.var(of_resamples, ddof=1))
    by_seeds = float(np.var(of_seeds, ddof=1)) / seeds if seeds > 1 else 0.0
    if by_rows + by_seeds == 0:
        return None
    freedom = (by_rows + by_seeds) ** 2 / (by_rows**2 / (rows - 1) + (by_seeds**2 / (seeds - 1) if seeds > 1 else 0.0))
    reach = float(stats.t.ppf(0.975, freedom)) * math.sqrt(by_rows + by_seeds)
    gain = float(of_seeds.mean())
    return [gain - reach, gain + reach]


# --- the page -------------------------------------------------------------------------------------------------------------------

MEASURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "recall_rare": "recall, rare",
    "f1_rare": "F1, rare",
    "f1_others": "F1, others",
}


def write_page(page: Path) -> None:
    """Put the table of what was measured into its place.

    Raises:
        ValueError: the page has no place for it.
    """
    files = [(name, arm, RESULTS / name / f"{arm}.json") for name in ARMS for arm in (PLAIN, *ARMS[name])]
    rows = [row_of(name, arm, read_json(file)) for name, arm, file in files if file.is_file()]
    head = f"| data | tool | {' | '.join(MEASURES.values())} | cost |\n|---|---|{'---|' * len(MEASURES)}--:|"
    write_text(page, replace_between(page.read_text(encoding="utf-8"), "tools", "\n".join([head, *rows]) if rows else ""))


def row_of(name: str, arm: str, record: Mapping[str, Any]) -> str:
    """A row of the table: of "plain" its values, of a tool its gains."""
    cells = []
    for measure in MEASURES:
        found = record["values"].get(measure)
        if found is None:
            cells.append("")
        elif "gain" not in found:
            cells.append(f"{np.mean(found['values']):.3f}")
        else:
            between = "" if found["interval"] is None else " [{:+.3f}, {:+.3f}]".format(*found["interval"])
            cells.append(f"{found['gain']:+.3f}{between}")
    said = name
    if arm == PLAIN:
        rows = record["rows"]
        seeds = len(record["seconds"])
        rare = f"; rare: {', '.join(record['rare'])}" if record["rare"] else ""
        said = (
            f"{name}: {rows['train']:,} rows, {rows['validation']:,} of validation, {record['model']}, {count(seeds, 'seed')}{rare}"
        )
    return f"| {said} | {arm} | {' | '.join(cells)} | {record['cost']:.2f} |"


if __name__ == "__main__":
    try:
        main()
    except HftlError as error:
        raise SystemExit(str(error)) from None
