"""Does staging pay? The default recipe of `hftl.fine_tune` beside other arms, on several data sets: docs/findings.md.

    python benchmarks/findings.py --data DIR --models DIR [--only imdb-200,trec] [--seeds 3]

DIR hold the data sets and the pretrained models by the names below; they are not part of the project. Each set is one `hftl ablate`
with the test split sealed: validation is drawn from train, 20 % of it. What comes out goes to benchmarks/results/findings/SET.json.
The same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from claims import commit

import hftl
from hftl.defaults import default_recipe
from hftl.environment import now
from hftl.files import read_json, write_json
from hftl.recipe import ImageData, TextData, Timm, Transformer
from hftl.studies.ablate import summarise
from hftl.studies.trials import Trial, read_trial
from hftl.terminal import tell
from hftl.training.experiment import prepare_experiment

ARMS = ("staged", "flat", "head-x10", "decay", "head")
RESULTS = Path(__file__).resolve().parent / "results" / "findings"


@dataclass(frozen=True)
class Set:
    """A data set, as much of it as is trained on, and the model."""

    source: str
    model: str
    rows: int | None = None
    """Training rows; None: all but validation."""
    validation: int | None = None
    max_length: int = 256

    @property
    def is_text(self) -> bool:
        return self.model in ("minilm", "bert-nano")


SETS: Mapping[str, Set] = {
    "imdb-200": Set("imdb", "bert-nano", 200, 2000, 128),
    "imdb-1000": Set("imdb", "bert-nano", 1000, 2000, 128),
    "imdb-5000": Set("imdb", "bert-nano", 5000, 2000, 128),
    "trec": Set("trec", "minilm"),
    "hymenoptera": Set("hymenoptera", "mobilenetv2_100"),
    "hotdog": Set("hotdog", "resnet18"),
    "clothing": Set("clothing", "mobilenetv2_100"),
}


def recipe_of(name: str, data: Path, models: Path) -> hftl.Recipe:
    """The default recipe for a set: what `hftl.fine_tune` would train."""
    chosen = SETS[name]
    source, checkpoint = str(data / chosen.source), str(models / chosen.model)
    section: TextData | ImageData
    model: Transformer | Timm
    limits: dict[str, Any] = {
        "max_train_samples": chosen.rows,
        "max_validation_samples": chosen.validation,
        "validation_fraction": 0.2,
    }
    if chosen.is_text:
        section = TextData(source=source, max_length=chosen.max_length, on_duplicate="drop", **limits)
        model = Transformer(checkpoint=checkpoint)
    else:
        section = ImageData(source=source, on_duplicate="drop", **limits)
        model = Timm(checkpoint=checkpoint)
    experiment = prepare_experiment(default_recipe(name, section, model, rows=1, parameters=1))
    parameters = sum(tensor.numel() for tensor in experiment.classifier.model.parameters())
    return default_recipe(name, section, model, rows=len(experiment.splits.train), parameters=parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--only", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--studies", type=Path, default=Path("build/findings"))
    asked = parser.parse_args()
    for name in asked.only.split(","):
        recipe = recipe_of(name, asked.data, asked.models)
        tell(f"{name}: {', '.join(f'{stage} x {each.epochs}' for stage, each in recipe.stages.items())}")
        study = hftl.ablate(recipe, ARMS, seeds=asked.seeds, study_dir=asked.studies / name)
        keep(name, study, recipe)


def keep(name: str, study: hftl.Study, recipe: hftl.Recipe) -> None:
    """Write what a study came to, without places of this machine."""
    trials: dict[str, list[Trial]] = {}
    for row in study.table.itertuples():
        trial = read_trial(study.trial(f"{row.arm}-{row.part}").paths)
        assert trial is not None
        trials.setdefault(str(row.arm), []).append(trial)
    first = study.trial(trials["staged"][0].name)
    record = {
        "set": asdict(SETS[name]),
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


if __name__ == "__main__":
    main()
