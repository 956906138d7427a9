"""Commands that make further rows for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hftl import api
from hftl.cli.arguments import RunArgument
from hftl.cli.printing import say
from hftl.launch import is_main_process
from hftl.terminal import tell


def pseudo_label(
    run: RunArgument,
    unlabelled: Annotated[
        str,
        typer.Argument(
            metavar="UNLABELLED",
            help="Another split of the run's source by its name, a table, or a file or folder of texts or pictures.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="A new folder, which data.extra takes.", show_default=False)
    ],
    noise: Annotated[
        float,
        typer.Option(
            help="The share of wrong labels that is aimed at: the confidence is chosen by validation, and what is expected is said."
        ),
    ] = 0.05,
    confidence: Annotated[
        float | None, typer.Option(help="The confidence from which on a row is labelled; default: chosen.", show_default=False)
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(min=0, help="So often the recipe is trained with the labelled rows, each time labelled by the run before."),
    ] = 0,
    weight: Annotated[float, typer.Option(help="What a labelled row counts for in that training.")] = 1.0,
) -> None:
    """Label further rows by a finished run, where it is sure enough, for training alone.

    Rows that are in train, validation or test are left out, and counted. The noise to be expected is measured on validation.

        hftl pseudo-label runs/films unsupervised --output films-labelled
        hftl train recipes/film_reviews.py data.extra=films-labelled data.extra.name=pseudo-labelled

    With --rounds 3 it trains as well; DIR/round-3/run is the last run, whose test split is still shut.
    """
    api.pseudo_label(run, unlabelled, output, noise=noise, confidence=confidence, rounds=rounds, weight=weight, say=tell)
    if is_main_process():
        say(f"\n  {output / f'round-{rounds}' / 'run' if rounds else output}/")
