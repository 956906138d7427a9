"""The command line: parses, calls, prints. It holds no logic of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from hftl import signals
from hftl.errors import DataError, HftlError, RunError, from_system, printable
from hftl.files import read_json
from hftl.launch import RANKS, start_missing_processes
from hftl.recipe import Recipe, load_recipe, override
from hftl.run import RunDirectory
from hftl.terminal import open_standard_streams
from hftl.terminal import show as show_on
from hftl.wording import size

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
    from hftl.training.experiment import make_plan, prepare_experiment
    from hftl.training.machine import process_state
    from hftl.training.plan import plan_footer, plan_table

    chosen = _recipe(recipe, overrides)
    experiment = prepare_experiment(chosen)
    made = make_plan(experiment, source=recipe, measure=process_state().device)
    if json:
        out.print_json(data=made.to_dict(), ensure_ascii=True)
    else:
        show_on(out, plan_table(made), "", plan_footer(made), sep="\n")
    for line in experiment.said_of_facts:
        show_on(err, line)


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
    from hftl.data.audit import audit_table
    from hftl.training.experiment import audit as audit_data
    from hftl.training.experiment import prepare_experiment

    try:
        found = audit_data(prepare_experiment(_recipe(recipe, overrides)), {})
    except DataError as error:
        if not json:
            raise
        out.print_json(data={"problems": [asdict(problem) for problem in error.problems]}, ensure_ascii=True)
        raise typer.Exit(error.exit_code) from None
    if json:
        out.print_json(data=found.to_dict(), ensure_ascii=True)
    else:
        out.print(audit_table(found), highlight=False)


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
    repeated = RunDirectory(Path(recipe))
    if resume and Path(recipe).suffix not in {".py", ".yaml", ".yml"} and not repeated.recipe.is_file():
        raise RunError(f"{recipe}: no run here (there is no recipe.yaml in it). Leave out --resume to start one from a recipe")
    if repeated.recipe.is_file() and not repeated.finished and not resume and run_dir is None:
        raise RunError(f"{recipe}: an unfinished run. Continue it with --resume, or repeat its recipe elsewhere with --run-dir")
    chosen = _recipe(recipe, _sealed(overrides, no_test))
    if run_dir is None and resume and repeated.recipe.is_file():
        run_dir = repeated.path
    train_recipe(chosen, run_dir=run_dir, resume=resume, source=recipe)


@app.command()
def test(run: RunArgument) -> None:
    """Open the test split of a run that was trained with --no-test, once, and add its results to metrics, figures and card.

    hftl test runs/trial-3
    """
    from hftl.sharing.card import write_card
    from hftl.sharing.publication import refuse_pulled
    from hftl.training.finished import open_test

    directory = RunDirectory(run)
    refuse_pulled(directory, "its results are the author's")
    open_test(directory, say=_say)
    if is_main_process():
        write_card(directory)
        _say(f"\n  {directory.card}  the model card")


@app.command()
def evaluate(
    run: RunArgument,
    split: Annotated[str, typer.Option(help="train, validation or test. Opening test again is written down.")] = "validation",
) -> None:
    """Evaluate a finished run's model again, beside the numbers on record."""
    from hftl.evaluation.metrics import compute_metrics
    from hftl.evaluation.predictions import stored_label_names
    from hftl.sharing.card import write_card
    from hftl.training.finished import evaluate as evaluate_run

    directory = RunDirectory(run)
    predictions = evaluate_run(directory, split=split)
    if is_main_process():
        recorded = read_json(directory.metrics).get(split, {})
        now = compute_metrics(predictions, stored_label_names(directory.predictions("validation")))
        out.print(_comparison(now, recorded, split), highlight=False)
        write_card(directory)  # an opening of the test split is shown on it


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
    from hftl.evaluation.compare import compare as compare_runs
    from hftl.evaluation.compare import report, write_flips

    found = compare_runs([RunDirectory(run) for run in runs], split=split)
    if json:
        out.print_json(data=found.to_dict(), ensure_ascii=True)
    else:
        for line in report(found):
            _say(line)
    if output is not None:
        write_flips(found, output)
        show_on(err, f"{len(found.table)} rows in {output}")


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

    from hftl.inference import check_output, write_predictions
    from hftl.inference import predict as predict_inputs

    if output is not None:
        check_output(output)
    predictions = predict_inputs(_run(model, model_only=True).path, inputs, say=lambda line: show_on(err, line))
    if output is not None:
        write_predictions(predictions, output)
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
    from hftl.training.experiment import describe_texts, prepare_experiment, write_augmentation_grid

    experiment = prepare_experiment(_recipe(recipe, overrides))
    if experiment.recipe.data.kind == "image":
        how = write_augmentation_grid(experiment, output)
        _say(f"{output}: each row is one training picture and how training will see it ({how})")
    else:
        for line in describe_texts(experiment):
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
    from hftl.facts import contradictions
    from hftl.ledger import count_openings
    from hftl.sharing.card import add_facts, check_front_matter, write_card
    from hftl.sharing.publication import refuse_pulled

    directory = RunDirectory(run)
    refuse_pulled(directory, "its card is the author's")
    if facts:
        add_facts(directory, facts)
    if directory.finished and (problem := count_openings(directory)) is not None:
        _say(problem)
    _say(str(write_card(directory)))
    for problem in check_front_matter(directory.card.read_text(encoding="utf-8")):
        _say(f"  to be pushed it needs: {problem}")
    for wrong in contradictions(directory.load_recipe(), read_json(directory.data) if directory.data.is_file() else {}):
        _say(f"  to be pushed it needs: {wrong.where}: {wrong.what}; {wrong.help[0]}")


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
    from hftl.sharing.hub import push as push_run

    pushed = push_run(RunDirectory(run), repo_id, private=private, revision=revision, replace=replace, dry_run=dry_run, say=_say)
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
    from hftl.sharing.hub import parse_hub_id
    from hftl.sharing.hub import pull as pull_run

    directory = pull_run(repo, output or Path("runs") / parse_hub_id(repo)[0].rpartition("/")[2])
    _say(f"{directory.path}\n  check:  hftl verify {directory.path}\n  use:    hftl predict {directory.path} ...")


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
    from hftl.sharing.hub import parse_hub_id, repository_files
    from hftl.sharing.verify import report
    from hftl.sharing.verify import verify as verify_run

    directory = _run(run)
    if Path(run).exists():
        verdict = verify_run(directory)
    else:
        verdict = verify_run(directory, repo_id=parse_hub_id(run)[0], beside=repository_files(run, directory))
    if data is not None:
        from hftl.reproduce import reproduce

        verdict = verdict.with_claims(reproduce(directory, data))
    for line in report(verdict, everything=everything):
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
    from hftl.sharing.export import export_onnx, usage

    directory = RunDirectory(run)
    done = export_onnx(directory, output or run / "onnx")
    _say(f"{done.file}  {size(done.size)}, opset {done.opset}, SHA-256 {done.sha256}")
    compared = f"{done.batches} batches compared with onnxruntime: largest difference of a logit {done.largest_difference:.1g}"
    _say(f"{compared}\n\n{usage(directory, done)}")


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
    from hftl.training.finished import complete

    run = RunDirectory(run_dir or Path("runs") / recipe.name)
    console = console or err
    try:
        if not (resume and run.finished):
            train_run(recipe, run, resume=resume, console=console, source=source)
        elif is_main_process():  # killed when only the card was missing, or figures were removed
            complete(recipe, run, say=lambda line: show_on(console, line))
    except signals.Stopped as stopped:
        if is_main_process() and run.finished:  # asked to stop when all but the card was there
            write_card(run)
        elif is_main_process() and run.recipe.is_file() and not stopped.saved:
            show_on(console, f"\nstopped at once. Continue from the last checkpoint with:  hftl train {run.path} --resume")
        raise
    if is_main_process():
        write_card(run)
        show_on(console, f"\n  {run.card}  the model card\n  {run.figures}/  learning curves, confusion matrix, calibration")
        given = '"A warm, funny film with a wonderful cast."' if recipe.data.kind == "text" else "PICTURE..."
        for line in (f"try:    hftl predict {run.path} {given}", f"share:  hftl push {run.path} OWNER/NAME --dry-run"):
            show_on(console, f"  {line}")
    return run


def main(recipe: Recipe | None = None, *, demo: Callable[[], None] | None = None, argv: Sequence[str] | None = None) -> None:
    """Run the command line; with a recipe, be the script of that recipe: `python recipes/bert_imdb.py [key=value ...]`.

    `demo` is run instead where the script is called without arguments in a single process.
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
    script = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    source = sys.argv[0] if argv is None else recipe.name

    @script.command(help=f"Train the recipe `{recipe.name}`. See its plan first with: hftl plan {source}")
    def run(overrides: Overrides = None, run_dir: RunDir = None, resume: Resume = False, no_test: NoTest = False) -> None:
        chosen = override(recipe, _sealed(overrides, no_test), source=source)
        train_recipe(chosen, run_dir=run_dir, resume=resume, source=source)

    _exit_cleanly(lambda: script(arguments))


def _recipe(name: str, overrides: Sequence[str] | None) -> Recipe:
    """The recipe that an argument names, with the overrides in it."""
    if name.startswith("hub:"):
        from hftl.sharing.hub import fetch_recipe

        return override(fetch_recipe(name), overrides or [], source=name)
    path = Path(name)
    run = RunDirectory(path.parent if path.name == "recipe.yaml" else path)
    if run.recipe.is_file() and (author := run.published_as) is not None:  # pulled
        from hftl.sharing.hub import strangers_recipe

        return override(strangers_recipe(run, author), overrides or [], source=name)
    return override(load_recipe(name), overrides or [], source=name)


def _sealed(overrides: Sequence[str] | None, no_test: bool) -> list[str]:
    """The overrides, with what --no-test stands for."""
    return [*(overrides or []), *(["run.test=sealed"] if no_test else [])]


def _run(name: str, *, model_only: bool = False) -> RunDirectory:
    """The run, or the model folder, that an argument names: a folder here, or a published one in the Hub's cache."""
    if Path(name).exists():
        return RunDirectory(Path(name))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise RunError(f"{name}: no such folder; a published run is written OWNER/NAME")
    from hftl.sharing.hub import TO_PREDICT, fetch

    return fetch(name, TO_PREDICT) if model_only else fetch(name)


def is_main_process() -> bool:
    """True on the one process that speaks: of several, that of rank 0. A rank without their number is left over from something."""
    return next((os.environ.get(rank, "0") == "0" for rank, size in RANKS if size in os.environ), True)


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


def _say(line: str) -> None:
    """A line that may hold a stranger's words."""
    show_on(out, line)


def _plain(text: str) -> str:
    """User text for a rich table: no markup, one line."""
    from rich.markup import escape

    return escape(printable(" ".join(text.split())))


if __name__ == "__main__":
    main()
