"""Commands of a recipe: show what it comes to, and train it; and of the machine that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from hftl import api
from hftl.cli.arguments import NoTest, Overrides, RecipeArgument, Resume, RunArgument, RunDir
from hftl.cli.printing import err, out, plain, say
from hftl.errors import DataError, RunError
from hftl.launch import is_main_process
from hftl.recipe import Recipe, TextData
from hftl.terminal import show as show_on
from hftl.terminal import tell


def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder, a table or a Hub data set.", show_default=False)],
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A pretrained model: a Hub id or a local folder.", show_default=False)
    ],
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="Where the recipe is written.")] = Path("recipe.yaml"),
) -> None:
    """Write a first recipe for your data and a checkpoint: its stages, rates and epochs by a rule that was measured.

        hftl init reviews.csv google-bert/bert-base-uncased data.text_column=review

        hftl init photos/ timm/resnet18.a1_in1k --output photos.yaml

    Reads both, and trains nothing. The rule goes by the number of rows and the size of the model; `help(hftl.defaults)` in Python
    says how. Keys that the recipe does not have are at their defaults, and `hftl schema` explains each.
    """
    opens_test = api.init(data, checkpoint, output, overrides=overrides or (), say=lambda line: show_on(err, line))
    shut = " --no-test      hftl test opens the test split, once" if opens_test else ""
    for line in (
        f"\n{output}  the recipe\n",
        f"  look:   hftl plan {output}      what trains at which rate, and what it costs",
        f"  train:  hftl train {output}{shut}",
    ):
        show_on(err, line)


def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, for programs.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw every group's learning rate over the whole run.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Where it is drawn, a .png; default: plan.png.")
    ] = None,
) -> None:
    """Show which layers train at which rate in which stage, and what it costs. Trains nothing.

    Reads the data and builds the model, so a mistake in the recipe, the data or the checkpoint shows here.

        hftl plan recipes/bert_imdb.py stages.all.layer_decay=0.9

        hftl plan recipes/bert_imdb.py --plot
    """
    lines: list[str] = []
    chosen = api.load_recipe(recipe, overrides or ())
    result = api.plan(chosen, plot=output or (Path("plan.png") if plot else None), source=recipe, say=lines.append)
    if json:
        out.print_json(data=result.to_dict(), ensure_ascii=True)
    else:
        show_on(out, result)
    for line in lines:
        tell(line)


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
    chosen = api.load_recipe(recipe, sealed(overrides, no_test))
    if run_dir is None and resume and base_run is not None:
        run_dir = base_run.path
    train_recipe(chosen, run_dir=run_dir, resume=resume, source=recipe)


def train_recipe(recipe: Recipe, *, run_dir: Path | None, resume: bool, source: str) -> None:
    """Train, and say what to do next."""
    _say_what_next(api.train(recipe, run_dir=run_dir, resume=resume, source=source, console=err))


def distill(
    run: RunArgument,
    student: Annotated[
        str,
        typer.Option(
            "--student", metavar="RECIPE", help="Of the smaller model: a recipe script (.py) or a recipe.yaml.", show_default=False
        ),
    ],
    overrides: Overrides = None,
    run_dir: RunDir = None,
    resume: Resume = False,
    no_test: NoTest = False,
) -> None:
    """Train a smaller model by the answers of a finished run, as well as by the labels.

    The run answers every training row once. The student may be of any family that reads the same kind of rows: a TextCNN of BERT,
    a MobileNet of a ResNet. With data.unlabelled it learns from texts without labels too.

        hftl distill runs/bert --student recipes/textcnn_imdb.py teacher.temperature=4 data.unlabelled=unsupervised

    RUN becomes the recipe's `teacher.run`; `hftl train RECIPE teacher.run=runs/bert` does the same.
    """
    changes = sealed(overrides, no_test)
    _say_what_next(api.distill(run, student, overrides=changes, run_dir=run_dir, resume=resume, console=err))


def _say_what_next(run: api.Run) -> None:
    if is_main_process():
        data, example = run.recipe.data, "PICTURE..."
        if isinstance(data, TextData):
            example = "TABLE.csv" if data.joins else '"A text of yours"'
        for line in (
            f"\n  {run.paths.card}  the model card\n  {run.paths.figures}/  learning curves, and what shows its answers",
            f"  try:    hftl predict {run.path} {example}",
            f"  share:  hftl push {run.path} OWNER/NAME --dry-run",
        ):
            show_on(err, line)


def sealed(overrides: Sequence[str] | None, no_test: bool) -> list[str]:
    """The overrides, with what --no-test stands for."""
    return [*(overrides or []), *(["run.test=sealed"] if no_test else [])]


def show(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The picture to write, for picture recipes.")] = Path(
        "augmentation.png"
    ),
) -> None:
    """Show what training will see: a grid of augmented pictures, or texts as the model's tokens."""
    for line in api.show(api.load_recipe(recipe, overrides or ()), output):
        say(line)


def vectors(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE|RECIPE",
            help="A recipe, a run directory or hub:OWNER/NAME; or a table, a .txt file, a folder of them, or a Hub data set.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", metavar="FILE", help=".txt or .txt.gz; of fasttext also .bin, with n-grams.", show_default=False),
    ],
    overrides: Overrides = None,
    method: Annotated[
        Literal["glove", "skip-gram", "cbow", "fasttext"],
        typer.Option(help='The last three by gensim: pip install "hftl\\[vectors]".'),
    ] = "glove",
    dimensions: Annotated[int, typer.Option(help="Numbers of a vector.")] = 100,
    window: Annotated[int, typer.Option(help="Words on either side that are near a word.")] = 10,
    epochs: Annotated[
        int | None, typer.Option(help="Passes; default: 25 over the co-occurrences (glove), 5 over the texts.", show_default=False)
    ] = None,
    min_count: Annotated[int, typer.Option("--min-count", help="Words seen less often get no vector.")] = 5,
    max_words: Annotated[int, typer.Option("--max-words", help="The most frequent words get one.")] = 60_000,
    segmentation: Annotated[
        Literal["auto", "words", "characters"] | None,
        typer.Option(help="How scripts without spaces are cut; default: as the recipe says, else auto.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same one gives the same vectors; of gensim's methods with --threads 1.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Of the computation; default: one a core.", show_default=False)] = None,
) -> None:
    """Learn word vectors from texts without labels, for `model.vectors`.

    Of a recipe from its training texts and `data.unlabelled`; of a source from all splits that are not called validation or test.
    Texts that are also in validation or test are left out, and counted. FILE.json beside FILE says how they were made.

        hftl vectors recipes/textcnn_imdb.py data.unlabelled=unsupervised --output imdb.txt

        hftl vectors reviews.csv data.text_column=review --method fasttext --output reviews.bin
    """
    api.vectors(
        source,
        output,
        method=method,
        dimensions=dimensions,
        window=window,
        epochs=epochs,
        min_count=min_count,
        max_words=max_words,
        segmentation=segmentation,
        seed=seed,
        threads=threads,
        overrides=overrides or (),
        say=tell,
    )


def pretrain(
    recipe: RecipeArgument,
    output: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="Where the checkpoint is written.", show_default=False)
    ],
    overrides: Overrides = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the texts; default: 1, unless --tokens.", show_default=False)
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Instead: tokens that are read in all.", show_default=False)] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate; default: by the size of the model.", show_default=False)
    ] = None,
    warmup: Annotated[float, typer.Option(help="Share of the steps over which the rate rises.")] = 0.06,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Decoupled.")] = 0.01,
    mask: Annotated[float, typer.Option(help="Share of the tokens that are masked.")] = 0.15,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with one that was stopped, from its last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and how long it takes by a few real steps. Writes nothing.")
    ] = False,
) -> None:
    """Pretrain a recipe's transformer further on its own texts, by masked words: a checkpoint for `model.checkpoint`.

    Learns from the recipe's training texts and `data.unlabelled`; texts that are also in validation or test are left out, and
    counted. FOLDER/provenance.json says how it was made.

        hftl pretrain recipes/bert_imdb.py data.unlabelled=unsupervised --output bert-imdb --epochs 3

        hftl train recipes/bert_imdb.py model.checkpoint=bert-imdb

    On several processes or GPUs: `accelerate launch --num_processes 2 -m hftl pretrain RECIPE ...`.
    """
    chosen = api.load_recipe(recipe, overrides or ())
    if dry_run:
        plan = api.plan_pretraining(
            chosen, epochs=epochs, tokens=tokens, lr=lr, warmup=warmup, weight_decay=weight_decay, mask=mask, say=tell
        )
        if is_main_process():
            show_on(out, plan)
        return
    api.pretrain(
        chosen,
        output,
        epochs=epochs,
        tokens=tokens,
        lr=lr,
        warmup=warmup,
        weight_decay=weight_decay,
        mask=mask,
        resume=resume,
        say=tell,
    )


def doctor() -> None:
    """Look for what keeps training from working here: versions, number formats, memory, the Hub's settings."""
    checks = api.examine()
    for check in checks:
        mark = {True: "[green]ok  [/green]", False: "[red]bad [/red]", None: "[dim]-   [/dim]"}[check.ok]
        out.print(f"{mark} {check.name:<24} {plain(check.found)}", highlight=False)
        if check.ok is False and check.advice:
            out.print(f"     {'':<24} [yellow]{plain(check.advice)}[/yellow]", highlight=False)
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


def schema() -> None:
    """Print the JSON Schema of a recipe, by which an editor completes and checks a recipe.yaml.

        hftl schema > recipe.schema.json

    A recipe.yaml names it in its first line: `# yaml-language-server: $schema=recipe.schema.json`
    """
    out.print_json(data=Recipe.model_json_schema(), ensure_ascii=True)
