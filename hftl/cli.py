"""The command line: parses, calls `hftl.api`, prints. It holds no logic of its own, and calls nothing beneath that door."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from hftl import api, signals
from hftl.errors import DataError, HftlError, RecipeError, RunError, from_system, printable
from hftl.launch import is_main_process, start_missing_processes
from hftl.recipe import Recipe, override
from hftl.terminal import open_standard_streams, tell
from hftl.terminal import show as show_on

app = typer.Typer(
    name="hftl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Fine-tune a pretrained text or image classifier in stages, evaluate it honestly, and share it.

A first look, without training: `hftl plan recipes/quickstart.py`. Then: `hftl train recipes/quickstart.py`.""",
)

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe script (.py), a recipe.yaml, a run directory, or hub:OWNER/NAME for a published one.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the recipe, such as `data.source=photos/ stages.all.lr=3e-5`.",
        show_default=False,
    ),
]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="Where the run is written; default: runs/NAME.", show_default=False)
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped, from its last checkpoint.")]
NoTest = Annotated[
    bool, typer.Option("--no-test", help="Leave the test split shut; `hftl test` opens it later. The same as run.test=sealed.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, such as runs/quickstart.", show_default=False)]
RunOrRepo = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_REPO", help="A run directory, or a published run as OWNER/NAME or OWNER/NAME@REVISION.", show_default=False
    ),
]

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, for programs.")] = False,
) -> None:
    """Show which layers train at which rate in which stage, and what it costs. Trains nothing.

    Reads the data and builds the model, so a mistake in the recipe, the data or the checkpoint shows here.

        hftl plan recipes/bert_imdb.py stages.all.layer_decay=0.9
    """
    lines: list[str] = []
    result = api.plan(api.load_recipe(recipe, overrides or ()), source=recipe, say=lines.append)
    if json:
        out.print_json(data=result.to_dict(), ensure_ascii=True)
    else:
        show_on(out, result)
    for line in lines:
        tell(line)


@app.command()
def audit(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print the audit as JSON, for programs; problems too.")] = False,
) -> None:
    """Look through the data before training: what cannot be read, is there twice, is cut off, or is rare. Trains nothing.

    What has to be put right first is refused with exit code 2. `hftl train` does the same by itself.

        hftl audit recipes/bert_imdb.py data.on_duplicate=drop
    """
    try:
        report = api.audit(api.load_recipe(recipe, overrides or ()))
    except DataError as error:
        if not json:
            raise
        out.print_json(data={"problems": [asdict(problem) for problem in error.problems]}, ensure_ascii=True)
        raise typer.Exit(error.exit_code) from None
    if json:
        out.print_json(data=report.to_dict(), ensure_ascii=True)
    else:
        out.print(report, highlight=False)


@app.command()
def train(
    recipe: RecipeArgument, overrides: Overrides = None, run_dir: RunDir = None, resume: Resume = False, no_test: NoTest = False
) -> None:
    """Carry out a recipe: train its stages, open the test split once, write metrics, figures and a model card.

        hftl train recipes/resnet_hotdog.py data.source=photos/ --run-dir runs/photos

        hftl train recipes/resnet_hotdog.py stages.all.lr=1e-4 --no-test --run-dir runs/trial-3

        hftl train runs/photos --resume

        hftl train hub:me/hotdog-resnet18 data.source=photos/

    On several processes or GPUs: `accelerate launch --num_processes 2 -m hftl train RECIPE`.
    """
    base_run = api.load(recipe) if Path(recipe).is_dir() else None
    is_run = base_run is not None and base_run.paths.recipe.is_file()
    if resume and Path(recipe).suffix not in {".py", ".yaml", ".yml"} and not is_run:
        raise RunError(f"{recipe}: no run here (there is no recipe.yaml in it). Leave out --resume to start one from a recipe")
    if base_run is not None and is_run and not base_run.finished and not resume and run_dir is None:
        raise RunError(f"{recipe}: an unfinished run. Continue it with --resume, or repeat its recipe elsewhere with --run-dir")
    chosen = api.load_recipe(recipe, _sealed(overrides, no_test))
    if run_dir is None and resume and base_run is not None:
        run_dir = base_run.path
    _train(chosen, run_dir=run_dir, resume=resume, source=recipe)


@app.command()
def test(run: RunArgument) -> None:
    """Open the test split of a run that was trained with --no-test, once, and add its results to metrics, figures and card.

    hftl test runs/trial-3
    """
    tested = api.load(run).test(say=_say)
    if is_main_process():
        _say(f"\n  {tested.paths.card}  the model card")


@app.command()
def evaluate(
    run: RunOrRepo,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="Other labelled rows, of the run's columns and classes.", show_default=False),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="train, validation (the default) or test; of --data, one of its splits. Opening test again is written down.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What that of --data is called; default: as its source.", show_default=False),
    ] = None,
) -> None:
    """Evaluate a finished run's model again, beside the numbers on record; or on other rows, which are kept beside them.

    hftl evaluate runs/photos

    hftl evaluate runs/photos --data photos_of_may/ --name may
    """
    evaluated = api.load(run).evaluate(split, data=data, name=name)
    if is_main_process():
        out.print(evaluated, highlight=False)
        if evaluated.folder is not None:
            _say(f"\n  {evaluated.folder}/  predictions and metrics; they are on the card")


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_A RUN_B [RUN...]", help="Finished run directories.", show_default=False)
    ],
    split: Annotated[
        Literal["validation", "test"] | None,
        typer.Option(help="Whose predictions; default: test where every run has opened it.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write the rows that flipped as .parquet.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON, for programs.")] = False,
) -> None:
    """Compare finished runs on the rows that they share: differences with intervals, and which examples flipped.

    Reads the stored predictions alone, so no model runs and no test split is opened.

        hftl compare runs/trial-3 runs/trial-4 --split validation
    """
    comparison = api.compare(*runs, split=split)
    if json:
        out.print_json(data=comparison.to_dict(), ensure_ascii=True)
    else:
        show_on(out, comparison)
    if output is not None:
        comparison.write_flips(output)
        tell(f"{len(comparison.table)} rows in {output}")


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to look.")] = Path("."),
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="KEY=VALUE, != ~ > >= < <=. May be repeated: all must hold.", show_default=False),
    ] = None,
    sort: Annotated[str, typer.Option(metavar="KEY", help="Of a metric the best first, of date the newest first.")] = "date",
    trials: Annotated[bool, typer.Option("--trials", help="The trials of studies too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, for programs.")] = False,
) -> None:
    """List every run and study below a folder, with validation, test, and how often its test rows were opened.

    A key is one of the recipe (`data` and `model` for short), a metric (of validation; `test.accuracy` of test), or
    kind, state, name, path, date, seconds, opened, rows_opened, recipes.

        hftl runs --where data=imdb --where model~bert --where "accuracy>0.8" --sort accuracy
    """
    found = api.runs(folder, where=where or (), sort=sort, trials=trials)
    if json:
        out.print_json(data=found.to_dict(), ensure_ascii=True)
    else:
        show_on(out, found)


StudyDir = Annotated[
    Path | None,
    typer.Option(
        "--study-dir", metavar="DIR", help="Where the study is written, or continued; default: studies/NAME.", show_default=False
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the trials and what they cost by a few real steps. Fits nothing.")]


@app.command()
def ablate(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    over: Annotated[
        str,
        typer.Option(metavar="ARM,ARM...", help="staged, flat, head-x10, decay, head; the others are compared with the first."),
    ] = "staged,flat,head-x10,decay",
    arm: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=KEY=VALUE,...", help="One more arm, by changes. May be repeated.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Fits of each arm.")] = 3,
    budget: Annotated[
        Literal["equal-steps", "equal-cost"], typer.Option(help="equal-cost: epochs that cost about what the first arm does.")
    ] = "equal-steps",
    open_test: Annotated[bool, typer.Option("--open-test", help="Finish every trial and open its test split, once each.")] = False,
    study_dir: StudyDir = None,
    dry_run: DryRun = False,
) -> None:
    """Does staging pay here? Fit variants of a recipe with several seeds and compare them on the same rows, test sealed.

    The same command again goes on with a study that was stopped.

        hftl ablate recipes/resnet_hotdog.py --over staged,flat --arm fast=stages.all.lr=1e-3 --seeds 3
    """
    chosen, arms = api.load_recipe(recipe, overrides or ()), [*filter(None, over.split(",")), *(arm or [])]
    if dry_run:
        show_on(out, api.plan_ablation(chosen, arms, seeds=seeds, budget=budget, source=recipe))
        return
    _show_study(
        api.ablate(chosen, arms, seeds=seeds, budget=budget, open_test=open_test, study_dir=study_dir, source=recipe, say=tell)
    )


@app.command()
def repeat(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    seeds: Annotated[int | None, typer.Option(help="So many seeds, on the same rows.", show_default=False)] = None,
    folds: Annotated[int | None, typer.Option(help="So many folds of the training rows.", show_default=False)] = None,
    study_dir: StudyDir = None,
    dry_run: DryRun = False,
) -> None:
    """How much is luck? Fit a recipe with several seeds, or on folds: mean, spread, and what one more seed would give.

    hftl repeat recipes/bert_imdb.py --seeds 5
    """
    chosen = api.load_recipe(recipe, overrides or ())
    if dry_run:
        show_on(out, api.plan_repetition(chosen, seeds=seeds, folds=folds, source=recipe))
        return
    _show_study(api.repeat(chosen, seeds=seeds, folds=folds, study_dir=study_dir, source=recipe, say=tell))


@app.command()
def baseline(recipe: RecipeArgument, overrides: Overrides = None, study_dir: StudyDir = None) -> None:
    """Would something simple do? Fit cheap baselines on the training rows, chosen on validation. Test stays shut.

    Majority; TF-IDF into linear classifiers, or a histogram of colours; the frozen features of the recipe's model. `hftl train`
    runs the cheapest of them beside itself.

        hftl baseline recipes/bert_imdb.py
    """
    _show_study(api.baseline(api.load_recipe(recipe, overrides or ()), study_dir=study_dir, source=recipe, say=tell))


@app.command()
def curve(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    sizes: Annotated[str, typer.Option(metavar="N,N,...", help="Rows of train, four sizes or more.")] = "",
    seeds: Annotated[int, typer.Option(help="Fits of each size.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="Fit all stages; otherwise the head alone, on frozen features.")] = False,
    study_dir: StudyDir = None,
    dry_run: DryRun = False,
) -> None:
    """How many more labels? Fit growing nested parts of train, and say by a power law what more would bring.

    hftl curve recipes/bert_imdb.py --sizes 100,200,400,800
    """
    chosen, parts = api.load_recipe(recipe, overrides or ()), [part.strip() for part in sizes.split(",") if part.strip()]
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise RecipeError.single("--sizes", f'"{wrong[0]}": whole numbers with commas between, such as 100,200,400,800')
    rows = [int(part) for part in parts]
    if dry_run:
        show_on(out, api.plan_curve(chosen, rows, seeds=seeds, full=full, source=recipe))
        return
    _show_study(api.curve(chosen, rows, seeds=seeds, full=full, study_dir=study_dir, source=recipe, say=tell))


@app.command("find-lr")
def find_lr(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="One stage; default: each.", show_default=False)] = None,
    study_dir: StudyDir = None,
) -> None:
    """The learning-rate range test: how each stage's loss answers to rising rates. Keeps no weights.

    A rate is suggested for heads and for networks without attention alone.

        hftl find-lr recipes/resnet_hotdog.py --stage head
    """
    chosen = api.load_recipe(recipe, overrides or ())
    _show_study(api.find_lr(chosen, stage=stage, study_dir=study_dir, source=recipe, say=tell))


@app.command()
def tune(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES|FILE",
            help="What is varied: KEY=low..high, KEY=log:low..high, KEY=a|b|c, stages.NAME=on|off; or a YAML file. Repeatable.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="So many in all, those of earlier sessions counted.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="After so many this session begins no further trial.", show_default=False)
    ] = None,
    sampler: Annotated[
        Literal["grid", "random", "tpe", "cmaes", "evolution"], typer.Option(help="How the values of a trial are drawn.")
    ] = "tpe",
    pruner: Annotated[Literal["none", "median", "hyperband"], typer.Option(help="What ends a trial between two epochs.")] = "none",
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE",
            help="A database, such as postgresql://user@host/name, or a journal file; default: SQLite in the study's folder.",
            show_default=False,
        ),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Work beside other processes on the same study, each started with this.")
    ] = False,
    study_dir: StudyDir = None,
    dry_run: DryRun = False,
) -> None:
    """Which values are best? Fit trials by validation, the test split sealed; the best one is finished and sees test alone.

    What the best of many shows is corrected for the choice. The same command again goes on with a study that was stopped, and a
    trial that was cut short goes on from its checkpoint. Needs `pip install "hftl[tune]"`.

        hftl tune recipes/bert_imdb.py --space "stages.all.lr=log:1e-5..1e-3" --space "stages.top=on|off" --trials 30
    """
    chosen = api.load_recipe(recipe, overrides or ())
    searched = {"trials": trials, "minutes": minutes, "sampler": sampler, "pruner": pruner, "source": recipe}
    if dry_run:
        show_on(out, api.plan_tuning(chosen, space or (), **searched))  # type: ignore[arg-type]
        return
    _show_study(
        api.tune(chosen, space or (), **searched, storage=storage, join=join, study_dir=study_dir, say=tell)  # type: ignore[arg-type]
    )


@app.command()
def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run directory, a saved model folder, or a published run as OWNER/NAME.", show_default=False
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Texts, files (text a line, pictures, CSV/JSONL/Parquet) or folders.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write all probabilities as .csv, .jsonl or .parquet.", show_default=False),
    ] = None,
) -> None:
    """Classify texts or pictures with a trained model.

    hftl predict runs/quickstart-reviews "A warm, funny film with a wonderful cast."

    hftl predict me/hotdog-resnet18 photos/ --output predictions.csv
    """
    from rich.table import Table

    predictions = api.load(model, model_only=True).predict([_input(text) for text in inputs], output=output)
    if output is not None:
        _say(f"{len(predictions)} predictions in {output}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("label", no_wrap=True)
    table.add_column("probability", justify="right")
    table.add_column("input", overflow="ellipsis", no_wrap=True, ratio=1)
    for prediction in predictions:
        table.add_row(_plain(prediction.label), f"{prediction.probability:.3f}", _plain(prediction.input))
    out.print(table, highlight=False)


@app.command()
def show(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The picture to write, for picture recipes.")] = Path(
        "augmentation.png"
    ),
) -> None:
    """Show what training will see: a grid of augmented pictures, or texts as the model's tokens."""
    for line in api.show(api.load_recipe(recipe, overrides or ()), output):
        _say(line)


@app.command()
def card(
    run: RunArgument,
    facts: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Hand-written facts, such as `card.license=mit`.", show_default=False),
    ] = None,
) -> None:
    """Write the model card of a finished run again, from the run directory alone.

    What only a person knows is in the recipe's `card` section, and can be added now:

        hftl card runs/photos card.license=mit card.intended_use="Sorting our own photos."
    """
    written = api.load(run)
    lines: list[str] = []
    written.card(*(facts or ()), say=lines.append)
    for line in (str(written.paths.card), *lines):
        _say(line)


@app.command()
def push(
    run: RunArgument,
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository that only you see.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show what would be sent. Sends nothing.")
    ] = False,
    revision: Annotated[
        str, typer.Option(metavar="BRANCH", help="The branch that gets the commit; made if it is not there.")
    ] = "main",
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of another run that was pushed there.")] = False,
) -> None:
    """Publish a finished run: weights, preprocessing, card, metrics, predictions, figures and recipe, in one commit.

    Before the first byte goes out every number is recomputed, the model is served in a fresh process and must answer as in
    training, and the files are searched for secrets. Your texts and pictures are not published (a GloVe model's
    tokenizer holds the words of the texts).

        hftl push runs/hotdog me/hotdog-resnet18 --dry-run
    """
    pushed = api.load(run).push(repo_id, private=private, revision=revision, replace=replace, dry_run=dry_run, say=_say)
    if pushed.address is not None:
        _say(f"  check:  hftl verify {repo_id}\n  use:    hftl predict {repo_id} ...")


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="The new run directory; default: runs/NAME.", show_default=False)
    ] = None,
) -> None:
    """Fetch a published run as a run directory, once every file agrees with its manifest."""
    pulled = api.pull(repo, output)
    _say(f"{pulled.path}\n  check:  hftl verify {pulled.path}\n  use:    hftl predict {pulled.path} ...")


@app.command()
def verify(
    run: RunOrRepo,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SOURCE", help="The run's data: the model is run again over them.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print every claim, not only the metrics and what fails.")] = False,
) -> None:
    """Recompute every number on a model card from the stored predictions; with the data, from the model itself.

    Exit code 1 when a number does not hold or a file was changed. With --data the test split of your own run is opened once more,
    which is written down and shown on its card.

        hftl verify me/hotdog-resnet18 --data photos/
    """
    verdict = api.load(run).verify(data=data)
    for line in verdict.lines(everything=everything):
        _say(line)
    if verdict.failed:
        raise typer.Exit(1)


@app.command()
def export(
    run: RunArgument,
    format: Annotated[Literal["onnx"], typer.Option(help="What to write.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="The new folder; default: RUN/onnx.", show_default=False)
    ] = None,
) -> None:
    """Write a finished run's model as ONNX, compared with the saved model; needs `pip install "hftl[onnx]"`.

    hftl export runs/quickstart
    """
    show_on(out, api.load(run).export(format, output))


@app.command()
def doctor() -> None:
    """Look for what keeps training from working here: versions, number formats, memory, the Hub's settings."""
    checks = api.examine()
    for check in checks:
        mark = {True: "[green]ok  [/green]", False: "[red]bad [/red]", None: "[dim]-   [/dim]"}[check.ok]
        out.print(f"{mark} {check.name:<24} {_plain(check.found)}", highlight=False)
        if check.ok is False and check.advice:
            out.print(f"     {'':<24} [yellow]{_plain(check.advice)}[/yellow]", highlight=False)
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, by which an editor completes and checks a recipe.yaml.

        hftl schema > recipe.schema.json

    A recipe.yaml names it in its first line: `# yaml-language-server: $schema=recipe.schema.json`
    """
    out.print_json(data=Recipe.model_json_schema(), ensure_ascii=True)


def _show_study(study: api.Study) -> None:
    """The page of a study as a terminal shows it."""
    from rich.markdown import Markdown

    show_on(Console(), Markdown(printable(study.shown())))
    _say(f"\n  {study.paths.page}  the page\n  {study.paths.table}  its rows\n  {study.paths.figures}/")


def _train(recipe: Recipe, *, run_dir: Path | None, resume: bool, source: str) -> None:
    run = api.train(recipe, run_dir=run_dir, resume=resume, source=source, console=err)
    if is_main_process():
        example = '"A warm, funny film with a wonderful cast."' if recipe.data.kind == "text" else "PICTURE..."
        for line in (
            f"\n  {run.paths.card}  the model card\n  {run.paths.figures}/  learning curves, confusion matrix, calibration",
            f"  try:    hftl predict {run.path} {example}",
            f"  share:  hftl push {run.path} OWNER/NAME --dry-run",
        ):
            show_on(err, line)


def main(
    recipe: Recipe | Callable[[], Recipe] | None = None,
    *,
    demo: Callable[[], None] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Run the command line; with a recipe, be the script of that recipe: `python recipes/bert_imdb.py [key=value ...]`.

    Args:
        recipe: a function that returns it, called here, so that a mistake in it is one message and exit code 2; or the recipe.
        demo: is run instead where the script is called without arguments in a single process.
        argv: the arguments; None: those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_standard_streams()
    signals.install()
    _exit_cleanly(lambda: _check_arguments(arguments))
    _exit_cleanly(start_missing_processes)
    if recipe is None:
        _exit_cleanly(lambda: app(arguments))
        return
    if demo is not None and not arguments and os.environ.get("WORLD_SIZE", "1") == "1":
        _exit_cleanly(demo)
        return
    _exit_cleanly(lambda: _script(recipe if isinstance(recipe, Recipe) else _call_script(recipe), argv)(arguments))


def _call_script(recipe: Callable[[], Recipe]) -> Recipe:
    """What a script's function returns; its file is named where that is no recipe."""
    try:
        return recipe()
    except RecipeError as error:
        raise RecipeError(sys.argv[0], error.problems) from None


def _script(recipe: Recipe, argv: Sequence[str] | None) -> typer.Typer:
    """The command line of one recipe's script."""
    script = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    source = sys.argv[0] if argv is None else recipe.name

    @script.command(help=f"Train the recipe `{recipe.name}`. See its plan first with: hftl plan {source}")
    def run(overrides: Overrides = None, run_dir: RunDir = None, resume: Resume = False, no_test: NoTest = False) -> None:
        chosen = override(recipe, _sealed(overrides, no_test), source=source)
        _train(chosen, run_dir=run_dir, resume=resume, source=source)

    return script


def _sealed(overrides: Sequence[str] | None, no_test: bool) -> list[str]:
    """The overrides, with what --no-test stands for."""
    return [*(overrides or []), *(["run.test=sealed"] if no_test else [])]


_FILE_LIKE = re.compile(r"\S+(?:\.(?:txt|csv|tsv|json|jsonl|parquet)|/)")
"""One word that ends as a file or a folder does: mistyped rather than meant as a text."""


def _input(argument: str) -> str | Path:
    """What a word of the command line names: a file or folder, or a text. ("" would be the folder one is in.)"""
    is_path = argument and (os.path.exists(argument) or _FILE_LIKE.fullmatch(argument))
    return Path(argument) if is_path else argument  # Path.exists raises for a long text


def _exit_cleanly(command: Callable[[], Any]) -> None:
    """A user's error or a full disk is one message and exit code 2, as Typer's usage errors are; a defect keeps its traceback.

    SIGINT is 130, SIGTERM 143 and SIGHUP 129, see `hftl.signals`.
    """
    try:
        command()
    except HftlError as error:
        if is_main_process() or error.everywhere:
            show_on(err, f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    except (OSError, RuntimeError, MemoryError, UnicodeEncodeError) as error:
        understood = from_system(error)
        if understood is None:
            raise
        show_on(err, f"RunError: {understood}")
        sys.exit(understood.exit_code)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not UTF-8: a name goes into JSON, YAML and Parquet files.

    Raises:
        RunError: such an argument.
    """
    for argument in arguments:
        if any(0xDC80 <= ord(letter) <= 0xDCFF for letter in argument):
            raise RunError(f"{argument!a}: not UTF-8 text, and hftl writes names into files that are. Rename it")


def _say(line: str) -> None:
    """A line that may hold a stranger's words."""
    show_on(out, line)


def _plain(text: str) -> str:
    """User text for a rich table: no markup, one line."""
    from rich.markup import escape

    return escape(printable(" ".join(text.split())))


if __name__ == "__main__":
    main()
