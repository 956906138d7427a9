"""Commands of finished runs: numbers, predictions, cards, and the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hftl import api
from hftl.cli.arguments import ContentColumns, InputsArgument, OnBadImage, RunArgument, RunOrRepo, Tta
from hftl.cli.printing import out, plain, say
from hftl.launch import is_main_process
from hftl.terminal import show as show_on
from hftl.terminal import tell

if TYPE_CHECKING:
    from rich.table import Table


def test(run: RunArgument) -> None:
    """Open the test split of a run that was trained with --no-test, once, and add its results to metrics, figures and card.

    hftl test runs/trial-3
    """
    tested = api.load(run).test(say=say)
    if is_main_process():
        say(f"\n  {tested.paths.card}  the model card")


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
    tta: Annotated[
        Tta,
        typer.Option(help="Of pictures also the mean over several views of each: 2, 5, 10 or 3 times the work."),
    ] = "none",
) -> None:
    """Evaluate a finished run's model again, beside the numbers on record; or on other rows, which are kept beside them.

    hftl evaluate runs/photos

    hftl evaluate runs/photos --data photos_of_may/ --name may
    """
    evaluated = api.load(run).evaluate(split, data=data, name=name, tta=tta)
    if is_main_process():
        out.print(evaluated, highlight=False)
        if evaluated.folder is not None:
            say(f"\n  {evaluated.folder}/  predictions and metrics; they are on the card")


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


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run directory, a saved model folder, or a published run as OWNER/NAME.", show_default=False
        ),
    ],
    inputs: InputsArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Write all probabilities as .csv, .jsonl or .parquet, beside the columns of tables.",
            show_default=False,
        ),
    ] = None,
    columns: ContentColumns = None,
    on_bad_image: OnBadImage = "error",
    tta: Annotated[
        Tta,
        typer.Option(help="Of pictures the mean over several views of each: 2, 5, 10 or 3 times the work."),
    ] = "none",
) -> None:
    """Classify texts or pictures with a trained model. Of tables it reads the columns that the run was trained on.

    hftl predict runs/quickstart-reviews "A warm, funny film with a wonderful cast."

    hftl predict me/hotdog-resnet18 photos/ --output predictions.csv

    hftl predict runs/hotdog photos/ --tta flip

    hftl predict runs/mails new.csv --output answers.csv --text-column title
    """
    run, given = api.load(model, model_only=True), [_input(text) for text in inputs]
    if output is not None:
        number = run.predict_to(output, given, columns=columns or None, on_bad_image=on_bad_image, tta=tta)
        if is_main_process():
            say(f"{number} prediction{'' if number == 1 else 's'} in {output}")
        return
    predictions = run.predict(given, columns=columns or None, on_bad_image=on_bad_image, tta=tta)
    if not is_main_process():
        return
    several = any(each.labels is not None for each in predictions)
    out.print(_answers([(each.label, each.probability, each.input) for each in predictions], several=several), highlight=False)


def features(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CHECKPOINT",
            help="A run directory, a published run, or a checkpoint: a Hub id or a local folder.",
            show_default=False,
        ),
    ],
    inputs: InputsArgument,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="The new .parquet, with the columns of tables.", show_default=False)
    ],
    group: Annotated[
        str | None,
        typer.Option("--from", metavar="GROUP", help="What enters this layer group; default: the head.", show_default=False),
    ] = None,
    pooling: Annotated[
        Literal["mean", "first", "none"] | None,
        typer.Option(help="Of the tokens of a text; default: mean. Of a picture: the mean over all places.", show_default=False),
    ] = None,
    columns: ContentColumns = None,
    on_bad_image: OnBadImage = "error",
) -> None:
    """Write what a model makes of texts or pictures before its head answers: a vector each, for scikit-learn and neighbours.

    hftl features runs/quickstart-reviews new.csv --output features.parquet

    hftl features timm/resnet18.a1_in1k photos/ --output features.parquet --from layer4
    """
    given = [_input(text) for text in inputs]
    number = api.features_to(output, model, given, group=group, pooling=pooling, columns=columns or None, on_bad_image=on_bad_image)
    if is_main_process():
        say(f"features of {number} input{'' if number == 1 else 's'} in {output}")


def _answers(rows: Sequence[tuple[str, float, str]], *, several: bool = False) -> Table:
    """Label, probability and input; a long label, as several an example make it, takes lines where an input is cut."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    longest = max(len(plain(label)) for label, *_ in rows)
    table.add_column("labels" if several else "label", overflow="fold", min_width=min(longest, 32), max_width=48)
    table.add_column("probability\nof the set" if several else "probability", justify="right", no_wrap=True)
    table.add_column("input", overflow="ellipsis", no_wrap=True, ratio=1)
    for label, probability, given in rows:
        table.add_row(plain(label), f"{probability:.3f}", plain(given))
    return table


_FILE_LIKE = re.compile(r"\S+(?:\.(?:txt|csv|tsv|json|jsonl|parquet)|/)")
"""One word that ends as a file or a folder does: mistyped rather than meant as a text."""


def _input(argument: str) -> str | Path:
    """What a word of the command line names: a file or folder, or a text. ("" would be the folder one is in.)"""
    is_path = argument and (os.path.exists(argument) or _FILE_LIKE.fullmatch(argument))
    return Path(argument) if is_path else argument  # Path.exists raises for a long text


def card(
    run: RunArgument,
    facts: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Hand-written facts, such as `card.license=mit`.", show_default=False),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            metavar="DIR",
            help="Of `hftl repeat RECIPE --seeds N`: the spread over seeds goes on the card.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the model card of a finished run again, from the run directory alone.

    What only a person knows is in the recipe's `card` section, and can be added now:

        hftl card runs/photos card.license=mit card.intended_use="Sorting our own photos."

    How far runs lie apart that differ in the seed alone is on the card with:

        hftl card runs/photos --study studies/photos-repeat
    """
    written = api.load(run)
    lines: list[str] = []
    written.card(*(facts or ()), study=study, say=lines.append)
    for line in (str(written.paths.card), *lines):
        say(line)


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
    pushed = api.load(run).push(repo_id, private=private, revision=revision, replace=replace, dry_run=dry_run, say=say)
    if pushed.address is not None:
        say(f"  check:  hftl verify {repo_id}\n  use:    hftl predict {repo_id} ...")


def pull(
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME[@REVISION]", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="The new run directory; default: runs/NAME.", show_default=False)
    ] = None,
) -> None:
    """Fetch a published run as a run directory, once every file agrees with its manifest."""
    pulled = api.pull(repo, output)
    say(f"{pulled.path}\n  check:  hftl verify {pulled.path}\n  use:    hftl predict {pulled.path} ...")


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
        say(line)
    if verdict.failed:
        raise typer.Exit(1)


def export(
    run: RunArgument,
    format: Annotated[Literal["onnx", "adapter"], typer.Option(help="What to write.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="The new folder; default: RUN/FORMAT.", show_default=False)
    ] = None,
) -> None:
    """Write a finished run's model as ONNX, compared with the saved model; needs `pip install "hftl[onnx]"`.

    With --format adapter, of a run whose layers were trained by adapters (lora), these and the head, as peft reads them.

    hftl export runs/quickstart
    """
    show_on(out, api.load(run).export(format, output))


def shrink(
    run: RunArgument,
    target_ms: Annotated[
        float | None, typer.Option("--target-ms", help="Milliseconds for one input, the median.", show_default=False)
    ] = None,
    target_mb: Annotated[float | None, typer.Option("--target-mb", help="Megabytes on the disk.", show_default=False)] = None,
    student: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN2", help="A distilled run, another form of it; once for each of several.", show_default=False),
    ] = None,
    margin: Annotated[float, typer.Option(help="Of validation accuracy that a form may lose.")] = 0.01,
    threads: Annotated[int | None, typer.Option(help="Of an answer; default: one a core.", show_default=False)] = None,
) -> None:
    """Measure smaller and faster forms of a finished run's model on this machine; needs `pip install "hftl[onnx]"`.

    ONNX in float32 and in 8 bits, the vocabulary of the training texts alone, and distilled students: accuracy on validation,
    time, size and memory of each. What is not worse is kept in RUN/shrink, and what reaches the targets best is chosen.

        hftl shrink runs/bert --target-ms 5 --student runs/textcnn
    """
    show_on(
        out,
        api.load(run).shrink(
            target_ms=target_ms, target_mb=target_mb, students=student or (), margin=margin, threads=threads, say=tell
        ),
    )
