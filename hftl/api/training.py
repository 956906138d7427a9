"""Before training, and training: what is done with a recipe."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hftl import signals
from hftl.api.run import Run
from hftl.defaults import default_recipe
from hftl.errors import DataError, HftlError, Problem, RecipeError, RunError, beside
from hftl.files import write_text
from hftl.launch import is_main_process
from hftl.memory import ROWS, copy_beside, is_kept
from hftl.recipe import ImageData, Recipe, Stage, TextCNN, TextData, Timm, Transformer, local_name, moved, override
from hftl.recipe import load_recipe as read_recipe
from hftl.run import RunDirectory
from hftl.terminal import Say, progress_console, tell
from hftl.wording import count

if TYPE_CHECKING:
    from rich.console import Console

    from hftl.data.audit import Audit
    from hftl.data.source import Splits
    from hftl.doctor import Check
    from hftl.training.plan import Plan
    from hftl.training.pretraining import Pretrained, PretrainingPlan
    from hftl.training.pretraining_task import PretrainSettings
    from hftl.training.word_vectors import LearnedVectors

# --- before training ----------------------------------------------------------------------------------------------------------


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe: a script that defines `recipe`, a YAML file, a run directory, or a published run as "hub:OWNER/NAME".

    Args:
        name: which one. Of somebody else's run nothing but the data of the recipe is believed, and no code is run.
        overrides: changes by dotted key, such as ``["stages.all.lr=3e-5"]``.

    Raises:
        RecipeError: it is no recipe, or an override does not fit.
        RunError: no such repository.
    """
    name = str(name)
    if name.startswith("hub:"):
        from hftl.sharing.hub import fetch_recipe

        return override(fetch_recipe(name), overrides, source=name)
    path = Path(name)
    run = RunDirectory(path.parent if path.name == "recipe.yaml" else path)
    if run.recipe.is_file() and (author := run.published_as) is not None:  # pulled
        from hftl.sharing.hub import strangers_recipe

        return override(strangers_recipe(run, author), overrides, source=name)
    return override(read_recipe(name), overrides, source=name)


def plan(recipe: Recipe, *, plot: str | Path | None = None, source: str = "recipe", say: Say = tell) -> Plan:
    """Which layer groups train at which rate in which stage, and what that costs on this machine. Trains nothing.

    Args:
        recipe: what would be trained.
        plot: where a figure of every group's rate over the whole run is written, a .png; None: nowhere.
        source: what the recipe is called in errors.
        say: is told which facts of the card do not hold for these data, and what was drawn.

    Raises:
        RecipeError, DataError: the recipe cannot be carried out; everything that is wrong, in one report.
    """
    from hftl.training.experiment import prepare_experiment
    from hftl.training.machine import process_state
    from hftl.training.planning import make_plan

    if plot is not None and Path(plot).suffix.casefold() != ".png":
        raise RecipeError.single("output", f"{Path(plot).name} does not end with .png", "such as plan.png", source=str(plot))
    experiment = prepare_experiment(recipe)
    plan_of_recipe = make_plan(experiment, source=source, measure=process_state().device)
    if plot is not None:
        from hftl.training.rates import draw_rates

        say(draw_rates(experiment.stages, Path(plot)))
    for line in experiment.said_of_facts:
        say(line)
    return plan_of_recipe


def audit(recipe: Recipe) -> Audit:
    """Look through a recipe's data: what is there twice, is cut off, or is rare. Trains nothing.

    Raises:
        RecipeError, DataError: what has to be put right first, everything in one report.
    """
    from hftl.training.experiment import audit as audit_data
    from hftl.training.experiment import prepare_experiment

    return audit_data(prepare_experiment(recipe), {})


def show(recipe: Recipe, picture: Path = Path("augmentation.png")) -> Iterator[str]:
    """What training will see: for texts lines with their tokens; for pictures a grid of augmented ones, written to `picture`.

    Raises:
        RecipeError, DataError: the recipe cannot be carried out.
    """
    from hftl.training import experiment

    yield from experiment.show(experiment.prepare_experiment(recipe), picture)


def vectors(
    source: Recipe | TextData | str | Path,
    output: str | Path,
    *,
    method: Literal["glove", "skip-gram", "cbow", "fasttext"] = "glove",
    dimensions: int = 100,
    window: int = 10,
    epochs: int | None = None,
    min_count: int = 5,
    max_words: int = 60_000,
    segmentation: Literal["auto", "words", "characters"] | None = None,
    seed: int = 0,
    threads: int | None = None,
    overrides: Sequence[str] = (),
    say: Say = tell,
) -> LearnedVectors:
    """Learn word vectors from texts without labels, and write them as a file that `model.vectors` reads.

    Args:
        source: a recipe, or its file, run directory or "hub:OWNER/NAME": its training texts and those of `data.unlabelled`. Or a
            source of texts, as `data.source` takes it, or a section of data: all splits that are not called validation or test.
            Texts that are also in validation or test are left out.
        output: where they are written: .txt or .txt.gz; of fastText also .bin, with its n-grams. FILE.json beside it says how.
        method: GloVe by hftl itself; the others by gensim, which `pip install "hftl[vectors]"` brings.
        dimensions: numbers of a vector.
        window: words on either side that are near a word.
        epochs: passes; None: 25 over the co-occurrences (glove), 5 over the texts (the others).
        min_count: words seen less often in the texts get no vector.
        max_words: the most frequent words get one.
        segmentation: how scripts without spaces are cut; None: as the recipe's model says, else "auto".
        seed: the same one gives the same vectors, of glove always, of the others with one thread.
        threads: of the computation; None: one a core.
        overrides: changes by dotted key; of a source those that say how it is read, such as ``["data.text_column=review"]``.
        say: is told how it goes, what it costs, and what was learned.

    Raises:
        RecipeError, DataError: the recipe, the settings or the texts cannot be used; nothing has been written.
        RunError: the output exists, or gensim is not installed.
    """
    from hftl.training.word_vectors import VectorSettings, learn_vectors

    settings = VectorSettings(
        method=method,
        dimensions=dimensions,
        window=window,
        epochs=epochs,
        min_count=min_count,
        max_words=max_words,
        segmentation=segmentation,
        seed=seed,
        threads=threads,
    )
    if isinstance(source, str | Path):
        source = _recipe_or_source(str(source), overrides)
    return learn_vectors(source, Path(output), settings, say)


def pretrain(
    recipe: Recipe,
    output: str | Path,
    *,
    epochs: float | None = None,
    tokens: int | None = None,
    lr: float | None = None,
    warmup: float = 0.06,
    weight_decay: float = 0.01,
    mask: float = 0.15,
    resume: bool = False,
    say: Say = tell,
) -> Pretrained:
    """Pretrain a recipe's transformer further by masked language modelling of its training texts and `data.unlabelled`.

    What is written is a checkpoint, which recipes name as `model.checkpoint`. Rows are of `data.max_length` tokens, and
    `run.batch_size` of them make a step; seed, number format, accumulation and the minutes between checkpoints are those of `run`
    too. With `model.pretrained=false` it begins at random weights of the checkpoint's architecture.

    Args:
        recipe: of texts, with a transformer.
        output: a new folder.
        epochs: passes over the texts; None: 1, unless `tokens` says how many.
        tokens: instead of epochs, how many are read in all.
        lr: the highest rate; None: 1e-4 from 60 million parameters on, else 3e-4, and three times that from random weights.
        warmup: the share of the steps over which the rate rises; then it falls to 0 in a line.
        weight_decay: decoupled, off for biases, norms and embeddings.
        mask: the share of the tokens that are masked, by whole words.
        resume: go on with one that was stopped.
        say: is told how it goes.

    Raises:
        RecipeError, DataError: the recipe, the settings or the texts cannot be used; nothing has been written.
        RunError: the folder holds something else or is in use, or training cannot go on.
        KeyboardInterrupt: Ctrl-C; what was trained is saved, and `resume` goes on.
    """
    from hftl.training.pretraining import pretrain as pretrain_model

    settings = _pretraining(epochs=epochs, tokens=tokens, lr=lr, warmup=warmup, weight_decay=weight_decay, mask=mask)
    with signals.interruptible("the same call goes on with resume=True"):
        return pretrain_model(recipe, Path(output), settings, resume=resume, say=say)


def plan_pretraining(
    recipe: Recipe,
    *,
    epochs: float | None = None,
    tokens: int | None = None,
    lr: float | None = None,
    warmup: float = 0.06,
    weight_decay: float = 0.01,
    mask: float = 0.15,
    say: Say = tell,
) -> PretrainingPlan:
    """What `pretrain` would do, and how long that takes here, by a few real steps that are thrown away. Nothing is written.

    Raises:
        RecipeError, DataError: as `pretrain`.
    """
    from hftl.training.pretraining import plan_pretraining as plan_steps

    settings = _pretraining(epochs=epochs, tokens=tokens, lr=lr, warmup=warmup, weight_decay=weight_decay, mask=mask)
    return plan_steps(recipe, settings, say)


def _pretraining(**settings: Any) -> PretrainSettings:
    from hftl.training.pretraining_task import PretrainSettings

    return PretrainSettings(**settings)


_HOW_READ = ("text_column", "template", "pair", "encoding", "delimiter", "revision", "config", "stream_samples")
"""Keys of a section of data that say how its texts are read, and not what is done with them."""


def _recipe_or_source(name: str, overrides: Sequence[str]) -> Recipe | TextData:
    """What a word of the command line names: a recipe by its form, else a source of texts."""
    path = Path(name)
    if name.startswith("hub:") or path.suffix in {".py", ".yaml", ".yml"} or (path / "recipe.yaml").is_file():
        return load_recipe(name, overrides)
    other = [key for key, _, _ in (change.partition("=") for change in overrides) if key.removeprefix("data.") not in _HOW_READ]
    if other:
        what = f"{', '.join(other)}: says nothing of how a source by itself is read"
        help = f"keys that do: {', '.join(f'data.{key}' for key in _HOW_READ)}; name a recipe for the others"
        raise RecipeError.single("overrides", what, help, source=name)
    draft = Recipe(
        name="vectors",
        data=TextData(source=name),
        model=TextCNN(vectors="random:1"),
        stages={"all": Stage(unfreeze="all", lr=1.0)},
    )
    data = override(draft, overrides, source=name).data
    assert isinstance(data, TextData)
    return data


def examine() -> list[Check]:
    """What keeps training from working on this machine: versions, number formats, memory, the Hub's settings."""
    from hftl.doctor import examine as examine_machine

    return examine_machine()


# --- training -----------------------------------------------------------------------------------------------------------------


def train(
    recipe: Recipe,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    source: str = "recipe",
    console: Console | None = None,
) -> Run:
    """Carry out a recipe: train its stages, open the test split once, write metrics, figures and a model card.

    Ctrl-C is obeyed after the step in which it comes: a checkpoint is written, and KeyboardInterrupt is raised; `Run.resume`
    continues from there. The signal handlers of before are back afterwards.

    Args:
        recipe: what is trained.
        run_dir: where the run is written; None: runs/NAME, by the recipe's name.
        resume: continue a run that was stopped, from its last checkpoint.
        source: what the recipe is called in errors.
        console: where progress is shown; None: stderr, or the notebook.

    Raises:
        RecipeError, DataError: the recipe or its data cannot be used; nothing has been written.
        RunError: the directory holds another run or is in use, or training cannot go on.
        KeyboardInterrupt: Ctrl-C.
    """
    from hftl.sharing.card import write_card
    from hftl.terminal import show
    from hftl.training.engine import train as train_run
    from hftl.training.finished import complete

    run = RunDirectory(Path(run_dir) if run_dir is not None else Path("runs") / recipe.name)
    console = console or progress_console()
    try:
        with _rows_beside(recipe, run, resume=resume) as recipe:
            if not (resume and run.finished):
                train_run(recipe, run, resume=resume, console=console, source=source)
            elif is_main_process():  # killed when only the card was missing, or figures were removed
                complete(recipe, run, say=lambda line: show(console, line))
    except signals.Stopped as stopped:
        if is_main_process() and run.finished:  # asked to stop when all but the card was there
            write_card(run)
        elif is_main_process() and run.recipe.is_file() and not stopped.saved:
            show(console, f"\nstopped at once. Continue from the last checkpoint with:  hftl train {run.path} --resume")
        if stopped.signal is signal.SIGINT and not signals.is_installed():
            saved = "saved; " if stopped.saved else ""
            raise KeyboardInterrupt(f'{saved}continue with hftl.load("{run.path}").resume()') from None
        raise
    if is_main_process():
        write_card(run)
    return Run(run)


def distill(
    teacher: Run | str | Path,
    student: Recipe | str | Path,
    *,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Run:
    """Train a recipe's model by the answers of a finished run as well as by labels: `train`, with the run as `recipe.teacher`.

    Args:
        teacher: the finished run, or its directory.
        student: the recipe, or its file, of any model that reads the same kind of rows.
        overrides: changes to it by dotted key, such as ``["teacher.temperature=4", "data.unlabelled=unsupervised"]``.
        run_dir: where the student's run is written; None: runs/NAME, by the recipe's name.
        resume: continue a run that was stopped.
        console: where progress is shown; None: stderr, or the notebook.

    Raises:
        RecipeError, DataError: the recipe or its data cannot be used, or this teacher may not teach it; nothing has been written.
        RunError: the directory holds another run, that of the teacher above all, or training cannot go on.
        KeyboardInterrupt: Ctrl-C.
    """
    path = teacher.path if isinstance(teacher, Run) else Path(teacher)
    source, recipe = ("recipe", student) if isinstance(student, Recipe) else (str(student), load_recipe(student))
    recipe = override(recipe, [f"teacher.run={json.dumps(str(path), ensure_ascii=False)}", *overrides], source=source)
    run_dir = Path(run_dir) if run_dir is not None else Path("runs") / recipe.name
    if not path.exists():  # before the student's folder, of which there may be something to say too
        raise RunError(f"{path}: no such folder; a teacher is a finished run{beside(path, folders=True)}")
    if run_dir.absolute() == path.absolute():
        raise RunError(f"{run_dir}: a run cannot teach itself; choose another place for the student with --run-dir")
    return train(recipe, run_dir=run_dir, resume=resume, source=source, console=console)


def fine_tune(
    data: Any,
    model: str | Transformer | Timm,
    *,
    name: str | None = None,
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> Run:
    """Fine-tune a pretrained model in the two default stages, first its head and then all of it; the run has the recipe.

    Epochs and rates follow from the number of training rows and the size of the model, by the rule in `hftl.defaults`:
    ``help(hftl.defaults)``. Pictures are not augmented; `hftl.ImageData(..., augmentation="standard")` asks for it.

    Args:
        data: a source, as `hftl.TextData` takes it: a folder, a table, a Hub id, a DataFrame, a Dataset, or (contents, labels); or
            a whole section, where columns have other names.
        model: a Hub id or a local folder; or a whole section.
        name: of the run; None: by the model and the data.
        run_dir: where the run is written; None: runs/NAME.
        overrides: changes to the recipe by dotted key, such as ``["stages.all.epochs=3", "data.on_duplicate=drop"]``.
        console: where progress is shown; None: stderr, or the notebook.

    Raises:
        RecipeError, DataError: the model or the data cannot be used; nothing has been written.
        RunError: the directory holds another run.
        KeyboardInterrupt: Ctrl-C; ``hftl.load(run_dir).resume()`` goes on.
    """
    from hftl.training.checks import check_run_directory

    draft = _draft(data, model, name, overrides)
    run_dir = Path(run_dir) if run_dir is not None else Path("runs") / draft.name
    check_run_directory(RunDirectory(run_dir), draft, resume=False)  # before the data are read
    return train(_by_the_rule(draft, overrides)[0], run_dir=run_dir, console=console)


def first_recipe(data: Any, model: str | Transformer | Timm, *, name: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that `fine_tune` trains, to be looked at and changed. Reads the data and the model, and trains nothing.

    ``hftl.first_recipe("reviews.csv", "google-bert/bert-base-uncased").to_brief_yaml()`` is what `hftl init` writes.

    Args:
        data, model, name, overrides: as of `fine_tune`.

    Raises:
        RecipeError, DataError: the model or the data cannot be used.
    """
    return _by_the_rule(_draft(data, model, name, overrides), overrides)[0]


def init(data: str, checkpoint: str, output: Path, *, overrides: Sequence[str] = (), say: Say) -> bool:
    """Write the first recipe of some data and a checkpoint as YAML.

    Args:
        say: is told what was understood of the data.

    Returns:
        Whether training would open a test split.

    Raises:
        RecipeError, DataError: the model or the data cannot be used.
        RunError: the file is there already, or its folder is not.
    """
    if given := [change for change in overrides if change.partition("=")[0] in ("data.source", "model.checkpoint")]:
        raise RunError(f"{given[0]}: DATA and CHECKPOINT say this already; give it there")
    if output.suffix not in {".yaml", ".yml"}:
        raise RunError(f"{output}: a recipe is written as .yaml")
    if output.exists():
        raise RunError(f"{output}: is there already, and nothing is written over; name another file with --output")
    if not output.absolute().parent.is_dir():
        raise RunError(f"{output}: no such folder: {output.absolute().parent}")
    draft = _draft(data, checkpoint, None, overrides)
    try:
        recipe, splits = _by_the_rule(draft, overrides)
    except DataError as error:
        raise DataError(error.source, [_of_the_other_kind(each, draft, checkpoint) for each in error.problems]) from None
    for line in splits.facts["understood"]:
        say(line)
    rule = f"# Stages, epochs and rates by the rule of hftl.defaults, for {count(len(splits.train), 'training row')}."
    write_text(output, f"{rule} What is not here is at its default: hftl schema.\n{recipe.to_brief_yaml()}")
    return recipe.opens_test and splits.test is not None


def _of_the_other_kind(problem: Problem, draft: Recipe, checkpoint: str) -> Problem:
    """The problem with the guess that the checkpoint is for texts and the data are pictures, or the other way round."""
    pictures = draft.data.kind == "image"
    if problem.where not in {"data.source", *(["data.image_column"] if pictures else [])} or not Path(draft.data.source).exists():
        return problem
    reads, others = ("pictures", "texts") if pictures else ("texts", "pictures")
    guess = f"{checkpoint} reads {reads}; where these data are {others}, name a checkpoint that reads them"
    return Problem(problem.where, problem.what, (*problem.help, guess))


def _draft(data: Any, model: str | Transformer | Timm, name: str | None, overrides: Sequence[str]) -> Recipe:
    """The recipe before its rows and parameters are counted: its stages are of the smallest run."""
    section = model_section(model) if isinstance(model, str) else model
    if not isinstance(data, TextData | ImageData):
        data = ImageData(source=data) if reads_pictures(section) else TextData(source=data)
    return override(default_recipe(name or _name_of(section, data), data, section, rows=1, parameters=1), overrides)


def _by_the_rule(draft: Recipe, overrides: Sequence[str]) -> tuple[Recipe, Splits]:
    """The recipe for as many rows and parameters as the draft comes to, and the rows."""
    from hftl.training.experiment import prepare_experiment

    assert isinstance(draft.model, Transformer | Timm)
    experiment = prepare_experiment(draft)
    parameters = sum(tensor.numel() for tensor in experiment.classifier.model.parameters())
    recipe = default_recipe(draft.name, draft.data, draft.model, rows=len(experiment.splits.train), parameters=parameters)
    return override(recipe, overrides), experiment.splits


def model_section(checkpoint: str) -> Transformer | Timm:
    """The section for a checkpoint: timm's where its settings, or its name on the Hub, are."""
    from hftl.models.checkpoint import Checkpoint
    from hftl.models.foreign import check_folder

    if checkpoint.startswith("timm/"):
        return Timm(checkpoint=checkpoint)
    config = check_folder(Checkpoint(checkpoint), new_head=True)
    is_timm = "architecture" in config or config.get("model_type") == "timm_wrapper"
    return Timm(checkpoint=checkpoint) if is_timm else Transformer(checkpoint=checkpoint)


def reads_pictures(section: Transformer | Timm) -> bool:
    """Whether the model is a classifier of pictures, by the type that its config.json names."""
    from transformers.models.auto import modeling_auto

    from hftl.models.checkpoint import find_checkpoint
    from hftl.models.foreign import check_folder

    if "text" not in section.reads:
        return True
    model_type = check_folder(find_checkpoint(section), new_head=True).get("model_type")
    names = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return model_type in names and model_type not in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES


def _name_of(model: Transformer | Timm, data: TextData | ImageData) -> str:
    """ "resnet18.a1_in1k-photos"; of rows in memory, which have no name, the model's alone."""
    from hftl.data.archives import ARCHIVES
    from hftl.data.layout import TABLES

    name = local_name(data.source)
    ending = max((ending for ending in (*TABLES, *ARCHIVES) if name.lower().endswith(ending)), key=len, default="")
    parts = [local_name(model.checkpoint)] + ([] if is_kept(data.source) else [name[: len(name) - len(ending)]])
    words = [re.sub(r"[^A-Za-z0-9_.-]+", "-", part.rpartition("/")[2]) for part in parts]
    return "-".join(word.strip("-.") for word in words)[:96] or "fine-tuned"


@contextmanager
def _rows_beside(recipe: Recipe, run: RunDirectory, *, resume: bool) -> Iterator[Recipe]:
    """The recipe with its rows in the run's folder, where they were in memory; a run that is refused leaves none there."""
    names = {recipe.data.source: ROWS, **{each.source: f"{ROWS}-{place}" for place, each in enumerate(recipe.data.extra, start=1)}}
    in_memory = {source: name for source, name in names.items() if is_kept(source)}
    if not in_memory:
        yield recipe
        return
    from hftl.training.checks import check_run_directory

    moved_recipe = moved(recipe, {source: str(run.path / name) for source, name in in_memory.items()})
    if not (resume and run.finished):
        check_run_directory(run, moved_recipe, resume=resume)
    for source, name in in_memory.items():
        copy_beside(source, run.path, name)
    try:
        yield moved_recipe
    except HftlError:
        if is_main_process() and not run.recipe.is_file():
            for name in in_memory.values():
                shutil.rmtree(run.path / name, ignore_errors=True)
            if not any(run.path.iterdir()):
                run.path.rmdir()
        raise
