"""Commands that fit a recipe many times to answer a question."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console

from hftl import api
from hftl.cli.arguments import DryRun, Overrides, RecipeArgument, StudyDir
from hftl.cli.printing import out, say
from hftl.errors import RecipeError, printable
from hftl.terminal import show as show_on
from hftl.terminal import tell


def ablate(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    over: Annotated[
        str,
        typer.Option(
            metavar="ARM,ARM...",
            help="`staged` (the recipe), `flat` (one stage of all layers), `head-x10` (flat, ten times the rate for the head),"
            " `decay` (flat, lower rates below), `head` (it alone), `scratch` (flat, from random weights). All against the first.",
        ),
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

    What does pretraining buy? "scratch" is the same network from random weights:

        hftl ablate recipes/resnet_hotdog.py --over staged,scratch
    """
    chosen, arms = api.load_recipe(recipe, overrides or ()), [*filter(None, over.split(",")), *(arm or [])]
    if dry_run:
        show_on(out, api.plan_ablation(chosen, arms, seeds=seeds, budget=budget, source=recipe))
        return
    show_study(
        api.ablate(chosen, arms, seeds=seeds, budget=budget, open_test=open_test, study_dir=study_dir, source=recipe, say=tell)
    )


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
    show_study(api.repeat(chosen, seeds=seeds, folds=folds, study_dir=study_dir, source=recipe, say=tell))


def baseline(recipe: RecipeArgument, overrides: Overrides = None, study_dir: StudyDir = None) -> None:
    """Would something simple do? Fit cheap baselines on the training rows, chosen on validation. Test stays shut.

    Majority; TF-IDF into linear classifiers, or a histogram of colours; the frozen features of the recipe's model. `hftl train`
    runs the cheapest of them beside itself.

        hftl baseline recipes/bert_imdb.py
    """
    show_study(api.baseline(api.load_recipe(recipe, overrides or ()), study_dir=study_dir, source=recipe, say=tell))


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
    show_study(api.curve(chosen, rows, seeds=seeds, full=full, study_dir=study_dir, source=recipe, say=tell))


def find_lr(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(metavar="STAGE", help="One stage; default: each.", show_default=False)] = None,
    study_dir: StudyDir = None,
    dry_run: DryRun = False,
) -> None:
    """The learning-rate range test: how each stage's loss answers to rising rates. Keeps no weights.

    A rate is suggested for heads and for networks without attention alone.

        hftl find-lr recipes/resnet_hotdog.py --stage head
    """
    chosen = api.load_recipe(recipe, overrides or ())
    if dry_run:
        show_on(out, api.plan_find_lr(chosen, stage=stage, source=recipe))
        return
    show_study(api.find_lr(chosen, stage=stage, study_dir=study_dir, source=recipe, say=tell))


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
    show_study(
        api.tune(chosen, space or (), **searched, storage=storage, join=join, study_dir=study_dir, say=tell)  # type: ignore[arg-type]
    )


def show_study(study: api.Study) -> None:
    """The page of a study as a terminal shows it."""
    from rich.markdown import Markdown

    show_on(Console(), Markdown(printable(study.shown())))
    say(f"\n  {study.paths.page}  the page\n  {study.paths.table}  its rows\n  {study.paths.figures}/")
