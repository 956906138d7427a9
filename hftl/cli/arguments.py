"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from hftl.recipe import ImageData, RunSettings, Stage, TextData

_UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""click's, of which Typer may have a copy of its own."""
_SECTIONS = {
    "data": TextData.model_fields | ImageData.model_fields,
    "run": RunSettings.model_fields,
    "stages.STAGE": Stage.model_fields,
}


class Command(TyperCommand):
    """A command that knows the keys of a recipe where somebody writes one as an option: ``--epochs 3``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            key = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
            homes = [f"{section}.{key}=..." for section, keys in _SECTIONS.items() if key in keys]
            if homes and any(parameter.name == "overrides" for parameter in self.params):
                error.message += f". Keys of the recipe are written without dashes, after it: {' or '.join(homes)}"
            raise


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
InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Texts, files (text a line, pictures, CSV/JSONL/Parquet) or folders.", show_default=False
    ),
]
ContentColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--text-column",
        "--image-column",
        metavar="NAME",
        help="What tables call the run's column; once for each of several.",
        show_default=False,
    ),
]
OnBadImage = Annotated[
    Literal["error", "skip"], typer.Option(help="Refuse pictures that cannot be read, or leave them out and count them.")
]
Tta = Literal["none", "flip", "five_crop", "ten_crop", "scales"]
"""The words of `hftl.names.Tta`."""
StudyDir = Annotated[
    Path | None,
    typer.Option(
        "--study-dir", metavar="DIR", help="Where the study is written, or continued; default: studies/NAME.", show_default=False
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the trials and what they cost by a few real steps. Fits nothing.")]
