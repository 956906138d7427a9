"""Numbers that hold: run what README.md and the recipes claim over several seeds, and write mean and range into place.

    make claims                                  what has not been measured yet, then the writing
    make claims ONLY=quickstart,film_reviews     these alone
    make claims SKIP=bert_imdb,resnet_hotdog     all but these
    make claims ONLY=                            no measurement: the numbers of the JSON files once more

A claim is the command in a recipe's head, run once for each seed, each in a process of its own with an empty cache and a
fixed number of threads. It leaves benchmarks/claims/CLAIM-SEED.json, and a seed that has one is not run again unless the
recipe has changed since; one that was stopped goes on where it was. Every run opens the test split: three seeds, three
openings. Settings were chosen on validation.

Written are the tables and blocks between `<!-- begin: NAME -->` and `<!-- end: NAME -->` in README.md, and in a recipe's
head the paragraph that begins with "Measured:". tests/test_claims.py compares them with the JSON files, so that a number
cannot be changed by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from hftl.recipe import Recipe, load_recipe, override

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
RESULTS = HERE / "claims"
RUNS = REPOSITORY / "build" / "claims"
DEMO = "demo"
"""The record of `make quickstart` as a whole: its seconds, and what it prints."""
WIDTH = 128
"""Longest line of what is written, in characters."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """One command of a recipe's head, and how its row of the table reads."""

    name: str
    script: str
    """Under recipes/, without its ending."""
    data: str
    model: str
    overrides: tuple[str, ...] = ()
    needs: str | None = None
    """What has to be there, from the repository's folder: ../shared/... or what get_minilm.sh has made."""
    examples: Mapping[str, str] | None = None
    """Texts, and the label that every run has to give them."""


def constants(script: str) -> dict[str, Any]:
    """What a recipe's script says of its own comparison, and of its examples."""
    import runpy

    return runpy.run_path(str(REPOSITORY / f"recipes/{script}.py"), run_name="hftl_recipe")


def claims() -> tuple[Claim, ...]:
    """All of them, in the order of the table: cheap ones first."""
    quickstart, film_reviews = constants("quickstart"), constants("film_reviews")
    place = ("data.source=../shared/data/clothing", "data.image_size=160")
    clothing = (*place, "stages.head.epochs=1", "stages.top.epochs=1", "stages.all.epochs=2")
    sample, ten = "photos of clothes, 5 classes, 60 of each", "clothing, 10 classes, 3,068 photos; the recipe shortened"
    return (
        Claim("quickstart", "quickstart", sample, "MobileNetV2"),
        Claim("quickstart_from_scratch", "quickstart", sample, "MobileNetV2 from random weights", quickstart["FROM_SCRATCH"]),
        Claim("film_reviews", "film_reviews", "480 film reviews", "bert-nano", examples=quickstart["EXAMPLES"]),
        Claim(
            "film_reviews_from_scratch",
            "film_reviews",
            "480 film reviews",
            "bert-nano from random weights",
            film_reviews["FROM_SCRATCH"],
        ),
        Claim(
            "resnet_cats_vs_dogs",
            "resnet_cats_vs_dogs",
            "ants and bees, 244 photos",
            "ResNet-18",
            ("data.source=../shared/data/hymenoptera", "data.label_column=label", "model.checkpoint=../shared/models/resnet18"),
            needs="../shared/data/hymenoptera",
        ),
        Claim(
            "bilstm_imdb",
            "bilstm_imdb",
            "IMDb",
            "GloVe 6B, 5,050 words; BiLSTM",
            ("data.source=../shared/data/imdb", "model.vectors=../shared/vectors/glove.6B.50d.5k.txt"),
            needs="../shared/data/imdb",
        ),
        Claim(
            "textcnn_imdb",
            "textcnn_imdb",
            "IMDb",
            "GloVe Twitter, 11,925 words; TextCNN",
            ("data.source=../shared/data/imdb", "model.vectors=../shared/vectors/glove.twitter.27B.25d.12k.txt"),
            needs="../shared/data/imdb",
        ),
        Claim("textcnn_waimai", "textcnn_waimai", "waimai, 9,987 reviews", "TextCNN", needs="../shared/data/waimai"),
        Claim("bilstm_waimai", "bilstm_waimai", "waimai, 9,987 reviews", "BiLSTM", needs="../shared/data/waimai"),
        Claim(
            "resnet_pets_mobilenet",
            "resnet_pets",
            ten,
            "MobileNetV2",
            ("model.checkpoint=../shared/models/mobilenetv2_100", *clothing),
            needs="../shared/data/clothing",
        ),
        Claim(
            "resnet_pets",
            "resnet_pets",
            ten,
            "ResNet-18",
            ("model.checkpoint=../shared/models/resnet18", *clothing),
            needs="../shared/data/clothing",
        ),
        Claim(
            "resnet_hotdog",
            "resnet_hotdog",
            "hot dogs, 1,930 photos",
            "ResNet-18",
            ("data.source=../shared/data/hotdog", "model.checkpoint=../shared/models/resnet18"),
            needs="../shared/data/hotdog",
        ),
        Claim(
            "minilm_goemotions",
            "minilm_goemotions",
            "GoEmotions, 28 labels",
            "MiniLM (6 layers)",
            ("data.source=../shared/data/goemotions", "data.config=null", "model.checkpoint=../minilm"),
            needs="../minilm",
        ),
        Claim(
            "minilm_mrpc",
            "minilm_mrpc",
            "MRPC, pairs of sentences",
            "MiniLM (6 layers)",
            ("data.source=../shared/data/mrpc", "data.config=null", "model.checkpoint=../minilm"),
            needs="../minilm",
        ),
        Claim(
            "bert_imdb",
            "bert_imdb",
            "IMDb, 5,000 reviews",
            "MiniLM (6 layers) in place of BERT",
            (
                *("data.source=../shared/data/imdb", "model.checkpoint=../minilm", "data.max_train_samples=5000"),
                *("data.max_validation_samples=1000", "stages.top.lr=2e-4", "stages.all.lr=1e-4", "stages.all.epochs=2"),
            ),
            needs="../minilm",
        ),
    )


# --- measuring ----------------------------------------------------------------------------------------------------------------


def main() -> int:
    """Measure what is asked for and not there yet, write the numbers into place, and say what does not hold."""
    os.chdir(REPOSITORY)  # overrides name ../shared from here
    known = claims()
    options = parse([*(claim.name for claim in known), DEMO])
    for claim in known:
        if claim.name in options.names:
            if claim.needs is not None and not (REPOSITORY / claim.needs).exists():
                print(f"{claim.name}: left out, {claim.needs} is not there")
                continue
            for seed in options.seeds:
                measure(claim, seed, threads=options.threads)
    if DEMO in options.names:
        measure_demo()
    records = read_records()
    write_all(known, records)
    broken = [line for claim in known for line in does_not_hold(claim, records)]
    print(*broken, sep="\n", end="\n" if broken else "")
    return 1 if broken else 0


def parse(names: Sequence[str]) -> argparse.Namespace:
    """The command line; `names` of the claims that are wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names, with commas between; none: measure nothing. Default: all")
    parser.add_argument("--skip", default="", help="names, with commas between")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of each run; two would round sums otherwise")
    options = parser.parse_args()
    only, skip = (
        [name for name in text.split(",") if name]
        for text in (",".join(names) if options.only is None else options.only, options.skip)
    )
    if unknown := {*only, *skip} - set(names):
        parser.error(f"no claim {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    options.names = set(only) - set(skip)
    return options


def measure(claim: Claim, seed: int, *, threads: int) -> None:
    """Run a claim with one seed and keep what it came to; nothing where that is there already."""
    recipe = recipe_of(claim, seed)
    kept = RESULTS / f"{claim.name}-{seed}.json"
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8"))["recipe"] == essence(recipe):
        return
    run = RUNS / f"{claim.name}-{seed}"
    if (run / "recipe.yaml").is_file() and essence(load_recipe(run)) != essence(recipe):
        shutil.rmtree(run)
    command, load = [f"recipes/{claim.script}.py", *claim.overrides], round(os.getloadavg()[0], 1)
    if (run / "metrics.json").is_file():  # of an earlier measurement, whose record was removed to have it made anew
        shutil.rmtree(run)
    print(f"{time.strftime('%H:%M:%S')} {claim.name}, seed {seed}", flush=True)
    resume = ["--resume"] if (run / "recipe.yaml").is_file() else []
    python([*command, f"run.seed={seed}", "--run-dir", str(run), *resume], threads=threads)
    answers = predict(run, claim.examples, threads=threads) if claim.examples else []
    said = {"claim": claim.name, "command": ["python", *command], "seed": seed, "recipe": essence(recipe), "load_before": load}
    keep(kept, said | outcome(run) | {"git_commit": commit(), "answers": answers})


def predict(run: Path, examples: Mapping[str, str], *, threads: int) -> list[dict[str, Any]]:
    """What a run says of each text, beside the label that it is to have."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "answers.jsonl"
        python(["-m", "hftl", "predict", str(run), *examples, "--output", str(output)], threads=threads)
        found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [answer["input"] for answer in found] == list(examples)
    return [
        {
            "input": answer["input"],
            "expected": examples[answer["input"]],
            "label": answer["label"],
            "probability": answer["probability"],
        }
        for answer in found
    ]


def outcome(run: Path) -> dict[str, Any]:
    """What a finished run came to, and on what."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    several = metrics["validation"].get("target") == "several_labels"
    metric = "macro_f1" if several else "accuracy"
    stages: dict[str, float] = {}
    for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "evaluation":
            stages[event["stage"]] = max(event["validation"][metric], stages.get(event["stage"], 0.0))
    wanted = ("n", "accuracy", "accuracy_interval", "majority_accuracy", "macro_f1")
    machine = ("cpu", "cores", "threads", "precision", "processes", "packages", "time")
    return {
        **{split: {key: values[key] for key in wanted} for split, values in metrics.items()},
        **({"metric": metric} if several else {}),
        "validation_by_stage": stages,
        "training_seconds": environment["seconds"],
        **{key: environment[key] for key in machine},
    }


def measure_demo() -> None:
    """Run recipes/quickstart.py as `make quickstart` does, and keep its seconds and its lines."""
    print(f"{time.strftime('%H:%M:%S')} {DEMO}", flush=True)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        printed = python([str(REPOSITORY / "recipes/quickstart.py")], threads=None, folder=folder)
        seconds = time.perf_counter() - began
        found = outcome(Path(folder) / "runs/quickstart")
        figures = Path(folder) / "runs/quickstart/figures"
        for name in ("learning_curves", "calibration"):
            shutil.copyfile(figures / f"{name}.png", REPOSITORY / f"docs/figures/quickstart_{name}.png")
    said = {"claim": DEMO, "seconds": round(seconds, 1), "load_before": round(load, 1), "printed": printed.splitlines()}
    keep(RESULTS / f"{DEMO}.json", said | found | {"git_commit": commit()})


def python(command: Sequence[str], *, threads: int | None, folder: str | None = None) -> str:
    """Run this checkout's hftl in a process of its own, with so many threads (None: as it chooses), an empty cache and no Hub; what
    it printed."""
    with tempfile.TemporaryDirectory() as cache:
        own = {
            **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
            "HF_HUB_OFFLINE": "1",
            "HFTL_CACHE": cache,
            "HFTL_LEDGER": f"{cache}/test_openings.jsonl",  # what is printed does not depend on what else ran here
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "130",
        }
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder or REPOSITORY,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(command)}\nended with code {done.returncode}. The same command goes on from what it has saved."
        )
    return done.stdout


def commit() -> str:
    """That of this checkout, "+changes" where hftl/ is another; what a recipe says is in each record, and numbers are no change."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    status = ["git", "status", "--porcelain", "--untracked-files=no", "--", "hftl"]
    changed = subprocess.run(status, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()
    return f"{head}+changes" if changed else head


def keep(path: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def recipe_of(claim: Claim, seed: int) -> Recipe:
    """The recipe that a claim's command trains."""
    return override(load_recipe(REPOSITORY / f"recipes/{claim.script}.py"), [*claim.overrides, f"run.seed={seed}"])


def essence(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says about training: without defaults and card, and without the place of the repository."""
    said = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"card"})
    essential: dict[str, Any] = json.loads(json.dumps(said).replace(json.dumps(str(REPOSITORY))[1:-1] + "/", ""))
    return essential


# --- what holds ---------------------------------------------------------------------------------------------------------------

Records = Mapping[str, Sequence[Record]]


def read_records(folder: Path = RESULTS) -> dict[str, list[Record]]:
    """Claim -> its records by seed."""
    records: dict[str, list[Record]] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        records.setdefault(record["claim"], []).append(record)
    return records


def does_not_hold(claim: Claim, records: Records) -> list[str]:
    """What README.md says in words, and a seed contradicts: better by stage, far from random weights, right answers."""
    broken, found = [], records.get(claim.name, ())
    if claim.name == "film_reviews" and found:  # of 120 rows of validation one seed leaves more to chance than a stage adds
        means = {stage: mean(record["validation_by_stage"][stage] for record in found) for stage in found[0]["validation_by_stage"]}
        if sorted(set(means.values())) != list(means.values()):
            broken.append(f"{claim.name}: not every stage is better than the one before in the mean of seeds: {means}")
    for record in found:
        name = f"{claim.name}, seed {record['seed']}"
        stages = list(record["validation_by_stage"].values())
        if claim.name == "quickstart" and sorted(set(stages)) != stages:
            broken.append(f"{name}: not every stage is better than the one before: {record['validation_by_stage']}")
        broken += [
            f'{name}: "{answer["input"]}" is {answer["label"]}'
            for answer in record["answers"]
            if answer["label"] != answer["expected"]
        ]
    if claim.name in APART:
        for one, other in zip(records.get(claim.name, ()), records.get(f"{claim.name}_from_scratch", ()), strict=False):
            apart = one["test"]["accuracy"] - other["test"]["accuracy"]
            if apart < APART[claim.name]:
                broken.append(
                    f"{claim.name}, seed {one['seed']}: {apart:.3f} from the same network from scratch,"
                    f" {APART[claim.name]} was to be reached"
                )
    return broken


APART = {"quickstart": 0.15, "film_reviews": 0.05}
"""How far each half of the quickstart has to be from the same network from random weights."""


# --- writing ------------------------------------------------------------------------------------------------------------------


def write_all(known: Sequence[Claim], records: Records, root: Path = REPOSITORY) -> None:
    """Put the numbers into README.md and into the heads of the recipes."""
    for path, text in written(known, records, root).items():
        path.write_text(text, encoding="utf-8")


def written(known: Sequence[Claim], records: Records, root: Path = REPOSITORY) -> dict[Path, str]:
    """Each file that numbers are written into, with the text that it is to have."""
    readme = root / "README.md"
    page = readme.read_text(encoding="utf-8")
    for name, text in (("claims", table(known, records)), ("quickstart", quickstart(records))):
        page = replace_between(page, name, text)
    files = {readme: page}
    for script in dict.fromkeys(claim.script for claim in known):
        path = root / f"recipes/{script}.py"
        files[path] = with_head(path.read_text(encoding="utf-8"), head(script, known, records))
    return files


def replace_between(page: str, name: str, text: str) -> str:
    """The page with `text` between the two marks of that name.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {begin} ... {end}")
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def with_head(code: str, text: str) -> str:
    """A recipe with `text` as the paragraph of its docstring that begins with "Measured:".

    Raises:
        ValueError: there is no such paragraph.
    """
    pattern = re.compile(r"^Measured:.*?\n\n", re.DOTALL | re.MULTILINE)
    if not pattern.search(code):
        raise ValueError('the head has no paragraph "Measured: ..."')
    return pattern.sub(lambda _: f"{text}\n\n", code, count=1)


def table(known: Sequence[Claim], records: Records) -> str:
    """One row for each claim that was measured; the others are named under it."""
    rows = [
        "| recipe | data, model | test accuracy, mean (range) | runs | n | ± of n | threads | min a run |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for claim in known:
        if found := records.get(claim.name):
            threads = ", ".join(str(number) for number in sorted({record["threads"] for record in found}))
            cells = [
                f"[{claim.script}](recipes/{claim.script}.py)",
                f"{claim.data}; {claim.model}",
                accuracy(found) if metric_of(found) == "accuracy" else tested(found),
                str(len(found)),
            ]
            cells += [
                f"{found[0]['test']['n']:,}",
                f"{chance(found):.3f}" if metric_of(found) == "accuracy" else "–",
                threads,
                minutes(found),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    lines = ["\n".join(rows), wrapped(f"Measured on {machines(records)}.{busy(records)}")] if {*records} - {DEMO} else []
    if absent := [claim for claim in known if claim.name not in records]:
        names = dict.fromkeys(f"{claim.script} ({claim.data.partition(';')[0]}; {claim.model})" for claim in absent)
        lines.append(wrapped(f"Not measured yet by the code as it is: {'; '.join(names)}."))
    return "\n\n".join(lines)


def quickstart(records: Records) -> str:
    """What `make quickstart` prints, shortened, and how long it took."""
    if DEMO not in records:
        return "Not measured yet."
    (demo,) = records[DEMO]
    shown = shortened(demo["printed"])
    where = f"{demo['cores']} cores ({demo['cpu']}, commit {short(demo['git_commit'])})"
    beside = f", beside other work (a load of {demo['load_before']:.1f} before)" if demo["load_before"] >= 1 else ""
    took = f"All of it took {seconds(demo['seconds'])} after the install, on {where}{beside}."
    return "\n".join(f"    {line}".rstrip() for line in shown) + "\n\n" + wrapped(f"{took} {said_of_quickstart(records)}")


def shortened(printed: Sequence[str]) -> list[str]:
    """The lines of a demonstration that README.md shows: its steps, the plan's table, the verdicts and the answers."""
    table_ends = next(number for number, line in enumerate(printed) if line.startswith("of training all")) + 1
    kept = list(printed[:table_ends])
    steps = [number for number, line in enumerate(printed) if line.startswith(("[3/4]", "[4/4]"))]
    for start in steps:
        end = next((number for number, line in enumerate(printed) if number > start and not line.strip()), len(printed))
        kept += ["", *printed[start:end]]
    return kept


def said_of_quickstart(records: Records) -> str:
    """The sentence on the seeds."""
    halves = ("quickstart", "film_reviews")
    ours, scratch, texts, untaught = (records.get(name, []) for half in halves for name in (half, f"{half}_from_scratch"))
    if not (ours and scratch and texts and untaught):
        return ""
    photos, untrained, reviews, unread = (accuracy(some) for some in (ours, scratch, texts, untaught))
    broken = [line for claim in claims() for line in does_not_hold(claim, records)]
    by_stage = "" if any("not every stage" in line for line in broken) else "; each stage is better on validation than the last"
    right = "" if any(line.startswith("film_reviews") for line in broken) else ", and both sentences are answered rightly"
    return (
        f"Over {of_seeds(ours)} the photos reach {photos} on test, and the same network from random weights {untrained};"
        f" the reviews reach {reviews}, and from random weights {unread}{by_stage}{right}."
    )


def head(script: str, known: Sequence[Claim], records: Records) -> str:
    """The paragraph "Measured: ..." of a recipe's head."""
    parts = []
    for claim in known:
        if claim.script != script or not (found := records.get(claim.name)):
            continue
        what, n = f"{claim.data[0].upper()}{claim.data[1:]}; {claim.model}", found[0]["test"]["n"]
        alone = f" (which alone leave ± {chance(found):.3f})" if metric_of(found) == "accuracy" else ""
        stages = {
            name: spread((record["validation_by_stage"][name] for record in found), digits=2)
            for name in found[0]["validation_by_stage"]
        }
        parts.append(
            f"{what}: test {tested(found)}, n = {n:,}{alone};"
            f" validation by stage: {', '.join(f'{name} {value}' for name, value in stages.items())};"
            f" {minutes(found)} minutes of training a run, {runs(found)}."
        )
    if not parts:
        return wrapped("Measured: not yet by the code as it is; `make claims` does it with the command below.")
    found = [record for claim in known if claim.script == script for record in records.get(claim.name, ())]
    return wrapped(f"Measured: {' '.join(parts)} Mean (lowest to highest) of these runs, on {machines({'': found})}.")


def wrapped(text: str) -> str:
    """A paragraph in lines of at most `WIDTH` characters."""
    return textwrap.fill(text.strip(), WIDTH, break_long_words=False, break_on_hyphens=False)


def spread(values: Iterable[float], *, digits: int = 3) -> str:
    """ "0.943 (0.937 to 0.950)"; of one value, or of equal ones, that value."""
    found = list(values)
    low, high = (f"{value:.{digits}f}" for value in (min(found), max(found)))
    return low if low == high else f"{mean(found):.{digits}f} ({low} to {high})"


def accuracy(found: Sequence[Record]) -> str:
    """That of the test split, over the runs."""
    return spread(record["test"]["accuracy"] for record in found)


def metric_of(found: Sequence[Record]) -> str:
    """What a claim is about: of several labels an example macro F1."""
    return str(found[0].get("metric", "accuracy"))


def tested(found: Sequence[Record]) -> str:
    """ "accuracy 0.943 (0.937 to 0.950)", or "macro F1 0.42"."""
    metric = metric_of(found)
    return f"{metric.replace('_f1', ' F1')} {spread(record['test'][metric] for record in found)}"


def chance(found: Sequence[Record]) -> float:
    """Half the 95 % interval that the test rows leave: 1.96 times sqrt(p (1 - p) / n) at the mean accuracy p."""
    p = mean(record["test"]["accuracy"] for record in found)
    return 1.96 * math.sqrt(p * (1 - p) / found[0]["test"]["n"])


def runs(found: Sequence[Record]) -> str:
    """Seeds and threads; each run opens the test split once."""
    threads = sorted({record["threads"] for record in found})
    return f"{of_seeds(found)}, {', '.join(map(str, threads))} thread{'' if threads == [1] else 's'}"


def of_seeds(found: Sequence[Record]) -> str:
    """ "seeds 0, 1, 2" or "seed 0 alone"."""
    seeds = [str(record["seed"]) for record in found]
    return f"seeds {', '.join(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]} alone"


def minutes(found: Sequence[Record]) -> str:
    """Minutes of training, median."""
    taken = sorted(record["training_seconds"] for record in found)
    return f"{taken[len(taken) // 2] / 60:.1f}"


def seconds(taken: float) -> str:
    """ "2 min 05 s"."""
    return f"{int(taken) // 60} min {int(taken) % 60:02d} s"


def machines(records: Records) -> str:
    """What the claims were measured on."""
    found = [record for name, some in records.items() if name != DEMO for record in some]
    where = sorted({f"{record['cpu']}, {record['cores']} cores, {record['precision']}" for record in found})
    commits = sorted({short(record["git_commit"]) for record in found})
    days = sorted({record["time"][:10] for record in found})
    return f"{'; '.join(where)}, commit {', '.join(commits)}, {days[0] if days[0] == days[-1] else f'{days[0]} to {days[-1]}'}"


def busy(records: Records) -> str:
    """A sentence where other work ran beside, or nobody looked."""
    loads = [record["load_before"] for name, some in records.items() if name != DEMO for record in some]
    ran = any(load is None or load >= 1 for load in loads)
    return " Other work ran beside some of the runs; alone they take less time." if ran else ""


def short(commit: str) -> str:
    """ "1a2b3c4", or "1a2b3c4+changes" where the working tree was another."""
    number, plus, changes = commit.partition("+")
    return number[:7] + plus + changes


if __name__ == "__main__":
    sys.exit(main())
