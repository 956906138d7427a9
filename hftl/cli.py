"""The command line: parses, calls, prints. It holds no logic of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hftl.errors import HftlError
from hftl.launch import start_missing_processes
from hftl.recipe import Recipe, load_recipe, override
from hftl.run import RunDirectory

if TYPE_CHECKING:
    from rich.table import Table

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
    str, typer.Argument(metavar="RECIPE", help="A recipe script (.py), a recipe.yaml, or a run directory.", show_default=False)
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
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, such as runs/quickstart.", show_default=False)]

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
    from hftl.training.experiment import make_plan, prepare_experiment
    from hftl.training.machine import process_state
    from hftl.training.plan import plan_footer, plan_table

    chosen = override(load_recipe(recipe), overrides or [], source=recipe)
    made = make_plan(prepare_experiment(chosen), source=recipe, measure=process_state().device)
    if json:
        out.print_json(data=made.to_dict())
    else:
        out.print(plan_table(made), "", plan_footer(made), sep="\n", highlight=False)


@app.command()
def train(recipe: RecipeArgument, overrides: Overrides = None, run_dir: RunDir = None, resume: Resume = False) -> None:
    """Carry out a recipe: train its stages, open the test split once, write metrics, figures and a model card.

        hftl train recipes/resnet_hotdog.py data.source=photos/ --run-dir runs/photos

        hftl train runs/photos --resume

    On several processes or GPUs: `accelerate launch --num_processes 2 -m hftl train RECIPE`.
    """
    chosen = override(load_recipe(recipe), overrides or [], source=recipe)
    if run_dir is None and resume and (Path(recipe) / "recipe.yaml").is_file():
        run_dir = Path(recipe)
    train_recipe(chosen, run_dir=run_dir, resume=resume, source=recipe)


@app.command()
def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="train, validation or test. Opening test again is written down.")] = "validation",
) -> None:
    """Evaluate a finished run's model again, beside the numbers on record."""
    from hftl.training.engine import evaluate as evaluate_run

    now, recorded = evaluate_run(RunDirectory(run), split=split)
    if is_main_process():
        out.print(_comparison(now, recorded or {}, split), highlight=False)


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL_OR_RUN", help="A run directory or a saved model folder.", show_default=False)
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

    hftl predict runs/quickstart "A slow start, but what an ending."

    hftl predict runs/hotdog photos/ --output predictions.csv
    """
    from rich.table import Table

    from hftl.inference import check_output, write_predictions
    from hftl.inference import predict as predict_inputs

    if output is not None:
        check_output(output)
    predictions = predict_inputs(model, inputs)
    if output is not None:
        write_predictions(predictions, output)
        out.print(f"{len(predictions)} predictions in {output}", highlight=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("label", no_wrap=True)
    table.add_column("probability", justify="right")
    table.add_column("input", overflow="ellipsis", no_wrap=True, max_width=90)
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
    from hftl.training.experiment import describe_texts, prepare_experiment, write_augmentation_grid

    experiment = prepare_experiment(override(load_recipe(recipe), overrides or [], source=recipe))
    if experiment.recipe.data.kind == "image":
        write_augmentation_grid(experiment, output)
        out.print(
            f"{output}: each row is one training picture and how training will see it (policy: {_policy(experiment.recipe)})",
            highlight=False,
        )
    else:
        for line in describe_texts(experiment):
            out.print(line, markup=False, highlight=False)


@app.command()
def card(run: RunArgument) -> None:
    """Write the model card of a finished run again, from the run directory alone."""
    from hftl.sharing.card import write_card

    out.print(str(write_card(RunDirectory(run))), highlight=False)


@app.command()
def doctor() -> None:
    """Look for what keeps training from working here: versions, number formats, memory, the Hub's settings."""
    from hftl.doctor import examine

    checks = examine()
    for check in checks:
        mark = {True: "[green]ok  [/green]", False: "[red]bad [/red]", None: "[dim]-   [/dim]"}[check.ok]
        out.print(f"{mark} {check.name:<24} {_plain(check.found)}", highlight=False)
        if check.ok is False and check.advice:
            out.print(f"     {'':<24} [yellow]{_plain(check.advice)}[/yellow]", highlight=False)
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


def train_recipe(
    recipe: Recipe, *, run_dir: Path | None = None, resume: bool = False, source: str = "recipe", console: Console | None = None
) -> RunDirectory:
    """Train a recipe into its run directory and write its model card; what `hftl train` and every recipe script do."""
    from hftl.sharing.card import write_card
    from hftl.training.engine import train as train_run

    run = RunDirectory(run_dir or Path("runs") / recipe.name)
    console = console or err
    try:
        train_run(recipe, run, resume=resume, console=console, source=source)
    except KeyboardInterrupt:
        if is_main_process() and run.recipe.is_file():
            console.print(
                f"\nstopped. Continue from the last checkpoint with: hftl train {run.path} --resume", highlight=False, markup=False
            )
        raise
    if is_main_process():
        write_card(run)
        console.print(
            f"\n  {run.card}  the model card\n  {run.figures}/  learning curves, confusion matrix, calibration",
            highlight=False,
            markup=False,
        )
        if recipe.data.kind == "text":
            console.print(f'  try:  hftl predict {run.path} "A slow start, but what an ending."', highlight=False, markup=False)
        else:
            console.print(f"  try:  hftl predict {run.path} PICTURE...", highlight=False, markup=False)
    return run


def main(recipe: Recipe | None = None, *, demo: Callable[[], None] | None = None, argv: Sequence[str] | None = None) -> None:
    """Run the command line; with a recipe, be the script of that recipe: `python recipes/bert_imdb.py [key=value ...]`.

    `demo` is run instead where the script is called without arguments in a single process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _exit_cleanly(start_missing_processes)
    if recipe is None:
        _exit_cleanly(lambda: app(arguments))
        return
    if demo is not None and not arguments and os.environ.get("WORLD_SIZE", "1") == "1":
        _exit_cleanly(demo)
        return
    script = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    source = sys.argv[0] if argv is None else recipe.name

    @script.command(help=f"Train the recipe `{recipe.name}`. See its plan first with: hftl plan {source}")
    def run(overrides: Overrides = None, run_dir: RunDir = None, resume: Resume = False) -> None:
        train_recipe(override(recipe, overrides or [], source=source), run_dir=run_dir, resume=resume, source=source)

    _exit_cleanly(lambda: script(arguments))


def is_main_process() -> bool:
    """True on the one process that speaks; torch's launchers number them in RANK."""
    return os.environ.get("RANK", "0") == "0"


def _exit_cleanly(command: Callable[[], Any]) -> None:
    """A user's error is one message and exit code 2, as Typer's usage errors are; Ctrl-C is 130; a defect keeps its traceback."""
    try:
        command()
    except HftlError as error:
        if is_main_process():
            err.print(f"{type(error).__name__}: {error}", markup=False, highlight=False)
        sys.exit(error.exit_code)


def _comparison(now: dict[str, Any], recorded: dict[str, Any], split: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", title=f"{split}, n = {now['n']:,}", title_justify="left")
    for column in ("metric", "now", "on record", "95 % interval"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, value in now.items():
        if isinstance(value, float):
            low_high = now.get(f"{name}_interval")
            known = recorded.get(name)
            interval = f"{low_high[0]:.4f} to {low_high[1]:.4f}" if low_high else ""
            table.add_row(name.replace("_", " "), f"{value:.4f}", "not recorded" if known is None else f"{known:.4f}", interval)
    return table


def _policy(recipe: Recipe) -> str:
    augmentation = getattr(recipe.data, "augmentation", "none")
    return augmentation if isinstance(augmentation, str) else "the recipe's own pipeline"


def _plain(text: str) -> str:
    """User text for a rich table: no markup, one line."""
    from rich.markup import escape

    return escape(" ".join(text.split()))


if __name__ == "__main__":
    main()
