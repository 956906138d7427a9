"""Does staging pay? The default recipe of `hftl.fine_tune` beside other arms, and recipes beside other rates: docs/findings.md.

    python benchmarks/findings.py --data DIR --models DIR [--only imdb-200,trec] [--seeds 3]
    python benchmarks/findings.py --only ""         no measurement: the table of docs/findings.md from the JSON files once more

DIR hold the data sets and the pretrained models by the names below; they are not part of the project. Each set is one `hftl ablate`
with the test split sealed: validation is drawn from train. What comes out goes to benchmarks/results/findings/SET.json, and a table
of it into docs/findings.md. The same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from claims import commit, replace_between

import hftl
from hftl.defaults import default_recipe
from hftl.environment import now
from hftl.files import read_json, write_json, write_text
from hftl.recipe import ImageData, TextData, Timm, Transformer
from hftl.studies.ablate import summarise
from hftl.studies.trials import Trial, read_trial
from hftl.terminal import tell
from hftl.training.experiment import prepare_experiment

ARMS = ("staged", "flat", "decay", "head")
HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results" / "findings", HERE.parent / "docs" / "findings.md"


@dataclass(frozen=True)
class Set:
    """A data set, as much of it as is trained on, and the model."""

    source: str
    model: str
    rows: int | None = None
    """Training rows; None: all but validation."""
    validation: int | None = None
    max_length: int = 256
    image_size: int | None = None
    """Pixels; None: the model's own."""
    label_column: str = "label"

    @property
    def is_text(self) -> bool:
        return self.model in ("minilm", "bert-nano")


SETS: Mapping[str, Set] = {
    "imdb-200": Set("imdb", "bert-nano", 200, 1000, 128),
    "imdb-1000": Set("imdb", "bert-nano", 1000, 1000, 128),
    "imdb-5000": Set("imdb", "bert-nano", 5000, 1000, 128),
    "trec": Set("trec", "minilm", 2000, 1000),
    "hymenoptera": Set("hymenoptera", "mobilenetv2_100", image_size=128),
    "hotdog": Set("hotdog", "resnet18", 400, 400, image_size=128),
    "clothing": Set("clothing", "mobilenetv2_100", 1000, image_size=128),
}
RECIPES: Mapping[str, str] = {"waimai-textcnn": "waimai", "waimai-bilstm": "waimai"}
"""Networks from random weights, for which `hftl.fine_tune` has no rule: name -> folder of the data; recipes/MODEL_DATA.py has the
rest."""
RATES = "-rates"
"""Ends the name of a set on which the rule is held against half and double of its rates, and not against other stages."""
WITH_RATES = ("imdb-200-rates", "imdb-1000-rates", "hymenoptera-rates")


def recipe_of(name: str, chosen: Set, data: Path, models: Path) -> hftl.Recipe:
    """The default recipe for a set: what `hftl.fine_tune` would train."""
    source, checkpoint = str(data / chosen.source), str(models / chosen.model)
    section: TextData | ImageData
    model: Transformer | Timm
    limits: dict[str, Any] = {
        "max_train_samples": chosen.rows,
        "max_validation_samples": chosen.validation,
        "validation_fraction": 0.2,
        "label_column": chosen.label_column,
    }
    if chosen.is_text:
        section = TextData(source=source, max_length=chosen.max_length, on_duplicate="drop", **limits)
        model = Transformer(checkpoint=checkpoint)
    else:
        section = ImageData(source=source, on_duplicate="drop", image_size=chosen.image_size, **limits)
        model = Timm(checkpoint=checkpoint)
    experiment = prepare_experiment(default_recipe(name, section, model, rows=1, parameters=1))
    parameters = sum(tensor.numel() for tensor in experiment.classifier.model.parameters())
    return default_recipe(name, section, model, rows=len(experiment.splits.train), parameters=parameters)


def own_recipe(name: str, data: Path) -> hftl.Recipe:
    """A recipe of the project, on the data of a folder."""
    source, _, model = name.partition("-")
    return hftl.load_recipe(HERE.parent / "recipes" / f"{model}_{source}.py", [f"data.source={data / RECIPES[name]}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--models", type=Path, default=Path())
    parser.add_argument("--only", default=",".join([*SETS, *WITH_RATES, *RECIPES]))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--studies", type=Path, default=Path("build/findings"))
    asked = parser.parse_args()
    for name in filter(None, asked.only.split(",")):
        arms: tuple[str, ...]
        if name in RECIPES:
            recipe = own_recipe(name, asked.data)
            arms = ("staged", *other_rates(recipe), "longer=stages.all.epochs=8")
        else:
            base = name.removesuffix(RATES)
            recipe = recipe_of(base, SETS[base], asked.data, asked.models)
            arms = ("staged", *other_rates(recipe)) if name.endswith(RATES) else (*ARMS, *divided(recipe))
        tell(f"{name}: {', '.join(f'{stage} x {each.epochs}' for stage, each in recipe.stages.items())}")
        study = hftl.ablate(recipe, arms, seeds=asked.seeds, study_dir=asked.studies / name)
        keep(name, study, recipe)
    write_page(PAGE)


def other_rates(recipe: hftl.Recipe) -> list[str]:
    """Arms of half and of double the rate in each stage."""
    factors = {"half-rate": 0.5, "double-rate": 2.0}
    return [
        f"{arm}={','.join(f'stages.{name}.lr={stage.lr * factor!r}' for name, stage in recipe.stages.items())}"
        for arm, factor in factors.items()
    ]


def divided(recipe: hftl.Recipe) -> list[str]:
    """Arms of as many epochs as the recipe, divided otherwise: one of "head" and the others of "all", or as many of either."""
    head, everything = (stage.epochs for stage in recipe.stages.values())
    arms = {"late": (1, head + everything - 1), "even": ((head + everything) // 2, (head + everything + 1) // 2)}
    return [
        f"{name}=stages.head.epochs={epochs[0]},stages.all.epochs={epochs[1]}"
        for name, epochs in arms.items()
        if epochs != (head, everything)
    ]


def keep(name: str, study: hftl.Study, recipe: hftl.Recipe) -> None:
    """Write what a study came to, without places of this machine."""
    trials: dict[str, list[Trial]] = {}
    for row in study.table.itertuples():
        trial = read_trial(study.trial(f"{row.arm}-{row.part}").paths)
        assert trial is not None
        trials.setdefault(str(row.arm), []).append(trial)
    first = study.trial(trials["staged"][0].name)
    record = {
        "set": {"source": RECIPES[name], "model": recipe.model.family}
        if name in RECIPES
        else asdict(SETS[name.removesuffix(RATES)]),
        "metric": recipe.run.metric,
        "rows": {split: facts["n"] for split, facts in read_json(first.paths.data)["splits"].items()},
        "stages": {name: {"epochs": stage.epochs, "lr": stage.lr} for name, stage in recipe.stages.items()},
        "arms": [asdict(summary) for summary in summarise(study.paths, trials)],
        "values": {arm: [trial.value for trial in row] for arm, row in trials.items()},
        "git_commit": commit(),
        "time": now(),
        "cpu": read_json(first.paths.environment)["cpu"],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / f"{name}.json", record)


def write_page(page: Path) -> None:
    """Put the table of what was measured into its place.

    Raises:
        ValueError: the page has no place for it.
    """
    rows = "\n".join(row for file in sorted(RESULTS.glob("*.json")) for row in rows_of(file.stem, read_json(file)))
    head = "| data | arm | accuracy on validation, mean (seeds) | against staged | operations, of the most |\n|---|---|---|---|--:|"
    write_text(page, replace_between(page.read_text(encoding="utf-8"), "arms", f"{head}\n{rows}"))


def rows_of(name: str, record: Mapping[str, Any]) -> list[str]:
    """A row of the table for each arm of a set."""
    most = max(arm["flops"] for arm in record["arms"])
    stages = ", ".join(f"{stage} {values['epochs']}" for stage, values in record["stages"].items())
    said = f"{name}: {record['rows']['train']:,} rows, {record['rows']['validation']:,} of validation; {record['set']['model']}"
    rows = []
    for arm in record["arms"]:
        values, against = record["values"][arm["arm"]], arm["against_first"]
        shown = f"{arm['spread']['mean']:.3f} ({', '.join(f'{value:.3f}' for value in values)})"
        gain = ""
        if against is not None:
            low, high = against["interval"]
            gain = f"{against['difference']:+.3f} [{low:+.3f}, {high:+.3f}], p {arm['p']:.2g}"
        of_stages = f"{'staged' if len(record['stages']) > 1 else 'the recipe'} ({stages})"
        called = of_stages if arm["arm"] == "staged" else arm["arm"]
        rows.append(f"| {said} | {called} | {shown} | {gain} | {arm['flops'] / most:.2f} |")
        said = ""
    return rows


if __name__ == "__main__":
    main()
