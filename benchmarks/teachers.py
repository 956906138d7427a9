"""What does a teacher gain? A TextCNN on few labelled questions (TREC), alone, taught by MiniLM, and with questions without labels.

    python benchmarks/teachers.py --data DIR --models DIR --vectors FILE [--labels 500] [--seeds 3]

DIR hold the data sets and the pretrained models by the names below, FILE word vectors; they are not part of the project. The
teacher is the default recipe (hftl/defaults.py) with MiniLM and the mean of its tokens, trained once on the same labelled
questions. Questions without labels are those of train that neither is trained on nor judged by. All are judged by the same 1,000
rows of validation; the test split stays sealed. Runs lie in build/teachers: the same command again goes on where it was stopped.
What comes out goes to benchmarks/results/teachers/trec-LABELS/ARM.json, as of benchmarks/tools.py, and the table of it is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from findings import Set, recipe_of
from tools import MEASURES, PLAIN, Bench, measure, row_of

import hftl
from hftl.errors import HftlError
from hftl.files import read_json
from hftl.studies.trials import divided, sealed
from hftl.training.experiment import read_data

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "teachers"


def main() -> None:
    """Train the teacher once, then the student with and without it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/teachers"))
    asked = parser.parse_args()
    bench = Bench(Set("trec", "minilm", asked.labels, 1_000, max_length=64))
    of_teacher = sealed(divided(hftl.override(recipe_of("teacher", bench.set, asked.data, asked.models), ["model.pooling=mean"])))
    folder = asked.folder / f"trec-{asked.labels}"
    teacher = trained(of_teacher, folder / "teacher")
    others = unlabelled(of_teacher, folder / "unlabelled.parquet")
    by_teacher = (f"teacher.run={teacher.path}",)
    arms = {
        PLAIN: (),
        "taught": by_teacher,
        "taught-by-labels-at-half": (*by_teacher, "teacher.weight=0.5"),
        "taught-with-unlabelled": (*by_teacher, f"data.unlabelled={others}"),
    }
    student = hftl.Recipe(
        name="student",
        data=of_teacher.data,
        model=hftl.TextCNN(vectors=str(asked.vectors), kernel_widths=(1, 2, 3), channels=100, word_dropout=0.2),
        stages={"all": hftl.Stage(unfreeze="all", lr=2e-3, epochs=15, schedule=hftl.LinearSchedule(warmup=0.05))},
        run=hftl.RunSettings(batch_size=16, baseline="none"),
    )
    measure(folder, bench, student, arms, seeds=asked.seeds, results=RESULTS / folder.name)
    accuracy = teacher.metrics["validation"]["accuracy"]
    print(f"teacher, {of_teacher.model.checkpoint}: accuracy {accuracy:.3f} on validation")  # type: ignore[union-attr]
    print(f"| data | student | {' | '.join(MEASURES.values())} | cost |")
    for file in sorted((RESULTS / folder.name).glob("*.json"), key=lambda file: file.stem != PLAIN):
        print(row_of(folder.name, file.stem, read_json(file)))


def trained(recipe: hftl.Recipe, place: Path) -> hftl.Run:
    """The run in a folder, trained or gone on with where it is not finished."""
    if (place / "recipe.yaml").is_file() and hftl.load(place).finished:
        return hftl.load(place)
    return hftl.train(recipe, run_dir=place, resume=(place / "recipe.yaml").is_file())


def unlabelled(recipe: hftl.Recipe, file: Path) -> Path:
    """A table of the texts of train that the recipe neither trains on nor is judged by."""
    whole = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_train_samples": None})})
    texts = {}
    for name, each in (("few", recipe), ("whole", whole)):
        splits = read_data(each).divided(each.data, seed=each.run.seed)
        texts[name] = {*splits.train["text"], *splits.validation["text"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": sorted(texts["whole"] - texts["few"])}), file)
    return file


if __name__ == "__main__":
    try:
        main()
    except HftlError as error:
        raise SystemExit(str(error)) from None
