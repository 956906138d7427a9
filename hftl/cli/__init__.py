"""The command line: parses, calls `hftl.api`, prints. It holds no logic of its own, and calls nothing beneath that door."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from hftl import signals
from hftl.cli import labelling, runs, studies, training
from hftl.cli.arguments import Command, NoTest, Overrides, Resume, RunDir
from hftl.cli.printing import err
from hftl.errors import HftlError, RecipeError, RunError, from_system
from hftl.launch import is_main_process, start_missing_processes
from hftl.recipe import Recipe, override
from hftl.terminal import open_standard_streams
from hftl.terminal import show as show_on

app = typer.Typer(
    name="hftl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Fine-tune a pretrained text or image classifier in stages, evaluate it honestly, and share it.

Begin with `hftl init DATA CHECKPOINT`, which writes a recipe.yaml. A look at it, without training: `hftl plan recipe.yaml`. Then:
`hftl train recipe.yaml`.""",
)
for command in (  # in the order in which `hftl --help` shows them
    *(training.init, training.plan, training.audit, training.train),
    *(runs.test, runs.evaluate, runs.compare, runs.runs),
    *(studies.ablate, studies.repeat, studies.baseline, studies.curve, studies.find_lr, studies.tune),
    *(runs.predict, runs.features, training.show, runs.card, runs.push, runs.pull, runs.verify, runs.export, runs.shrink),
    *(training.distill, training.vectors, training.pretrain, labelling.pseudo_label, training.doctor, training.schema),
):
    app.command(cls=Command)(command)


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
    atexit.register(gc.freeze)  # else Python looks through a million objects for cycles before it ends, for two seconds
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

    @script.command(cls=Command, help=f"Train the recipe `{recipe.name}`. See its plan first with: hftl plan {source}")
    def run(overrides: Overrides = None, run_dir: RunDir = None, resume: Resume = False, no_test: NoTest = False) -> None:
        chosen = override(recipe, training.sealed(overrides, no_test), source=source)
        training.train_recipe(chosen, run_dir=run_dir, resume=resume, source=source)

    return script


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
