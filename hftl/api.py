"""The one door: everything that hftl does, as functions of a recipe and methods of a run.

A notebook and the command line go through it, so each promise (one opening of the test split, a card after training, every gate
before a push) holds for both. What is heavy is imported where it is used: this module loads neither torch nor transformers.
"""

from __future__ import annotations

import html
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hftl import signals
from hftl.defaults import default_recipe
from hftl.errors import HftlError, RunError, printable
from hftl.files import read_json, read_text
from hftl.launch import is_main_process
from hftl.memory import ROWS, as_list, copy_beside, is_kept
from hftl.names import METRICS
from hftl.recipe import ImageData, Recipe, TextData, Timm, Transformer, local_name, moved, override
from hftl.recipe import load_recipe as read_recipe
from hftl.run import RunDirectory
from hftl.terminal import tell

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TimmWrapperImageProcessor

    from hftl.data.audit import Audit
    from hftl.doctor import Check
    from hftl.evaluation.compare import Comparison
    from hftl.evaluation.evaluated import Evaluated
    from hftl.inference import Prediction, Predictor
    from hftl.sharing.export import Export
    from hftl.sharing.hub import Pushed
    from hftl.sharing.verify import Verdict
    from hftl.studies.cost import StudyPlan
    from hftl.studies.runs import Runs
    from hftl.studies.search import Pruner, Sampler
    from hftl.studies.space import Space
    from hftl.studies.tune import Settings, TuningPlan
    from hftl.training.plan import Plan

Say = Callable[[str], object]
"""Is given what there is to say, line by line; without it, it is written to stderr."""


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


def plan(recipe: Recipe, *, source: str = "recipe", say: Say = tell) -> Plan:
    """Which layer groups train at which rate in which stage, and what that costs on this machine. Trains nothing.

    Args:
        recipe: what would be trained.
        source: what the recipe is called in errors.
        say: is told which facts of the card do not hold for these data.

    Raises:
        RecipeError, DataError: the recipe cannot be carried out; everything that is wrong, in one report.
    """
    from hftl.training.experiment import make_plan, prepare_experiment
    from hftl.training.machine import process_state

    experiment = prepare_experiment(recipe)
    plan_of_recipe = make_plan(experiment, source=source, measure=process_state().device)
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
    from rich.console import Console

    from hftl.sharing.card import write_card
    from hftl.terminal import show
    from hftl.training.engine import train as train_run
    from hftl.training.finished import complete

    run = RunDirectory(Path(run_dir) if run_dir is not None else Path("runs") / recipe.name)
    console = console or Console(stderr=True, soft_wrap=True)
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
    from hftl.training.experiment import prepare_experiment

    section = _model_section(model) if isinstance(model, str) else model
    if not isinstance(data, TextData | ImageData):
        data = ImageData(source=data) if isinstance(section, Timm) else TextData(source=data)
    name = name or _name_of(section, data)
    draft = override(default_recipe(name, data, section, rows=1, parameters=1), overrides)
    run_dir = Path(run_dir) if run_dir is not None else Path("runs") / draft.name
    check_run_directory(RunDirectory(run_dir), draft, resume=False)  # before the data are read
    experiment = prepare_experiment(draft)
    rows = len(experiment.splits.train)
    parameters = sum(tensor.numel() for tensor in experiment.classifier.model.parameters())
    recipe = override(default_recipe(name, data, section, rows=rows, parameters=parameters), overrides)
    return train(recipe, run_dir=run_dir, console=console)


def _model_section(checkpoint: str) -> Transformer | Timm:
    """The section for a checkpoint: timm's where its settings, or its name on the Hub, are."""
    from hftl.models.checkpoint import Checkpoint
    from hftl.models.foreign import check_folder

    if checkpoint.startswith("timm/"):
        return Timm(checkpoint=checkpoint)
    config = check_folder(Checkpoint(checkpoint))
    is_timm = "architecture" in config or config.get("model_type") == "timm_wrapper"
    return Timm(checkpoint=checkpoint) if is_timm else Transformer(checkpoint=checkpoint)


def _name_of(model: Transformer | Timm, data: TextData | ImageData) -> str:
    """ "resnet18.a1_in1k-photos"; of rows in memory, which have no name, the model's alone."""
    parts = [local_name(model.checkpoint)] + ([] if is_kept(data.source) else [local_name(data.source)])
    words = [re.sub(r"[^A-Za-z0-9_.-]+", "-", part.rpartition("/")[2]) for part in parts]
    return "-".join(word.strip("-.") for word in words)[:96] or "fine-tuned"


@contextmanager
def _rows_beside(recipe: Recipe, run: RunDirectory, *, resume: bool) -> Iterator[Recipe]:
    """The recipe with its rows in the run's folder, where they were in memory; a run that is refused leaves none there."""
    if not is_kept(recipe.data.source):
        yield recipe
        return
    from hftl.training.checks import check_run_directory

    moved_recipe = moved(recipe, str(run.path / ROWS))
    if not (resume and run.finished):
        check_run_directory(run, moved_recipe, resume=resume)
    copy_beside(recipe.data.source, run.path)
    try:
        yield moved_recipe
    except HftlError:
        if is_main_process() and not run.recipe.is_file():
            shutil.rmtree(run.path / ROWS, ignore_errors=True)
            if not any(run.path.iterdir()):
                run.path.rmdir()
        raise


# --- a run --------------------------------------------------------------------------------------------------------------------


def load(name: str | Path, *, revision: str | None = None, model_only: bool = False) -> Run:
    """A run: of a run directory, finished or not, of a folder with a saved model, or a published one as "OWNER/NAME".

    Args:
        name: where it is. A published run lands in the Hub's cache.
        revision: of a published run the branch, tag or commit.
        model_only: of a published run fetch no more than `Run.predict` needs.

    Raises:
        RunError: there is none.
    """
    path, name = Path(name), str(name)
    if path.exists():
        run = RunDirectory(path)
        if revision is not None:
            raise RunError(f"{name}: a folder of this machine, which has no revision")
        return Run(run)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise RunError(f"{name}: no such folder; a published run is written OWNER/NAME")
    from hftl.sharing.hub import TO_PREDICT, fetch

    published = name if revision is None else f"{name}@{revision}"
    return Run(fetch(published, TO_PREDICT) if model_only else fetch(published), published=published)


class Run:
    """A finished or an unfinished run: its numbers, its predictions, its model, and what can be done with it.

    `hftl.train` and `hftl.load` make one. What it knows is read from the run directory when it is asked for.

    Args:
        paths: where the files are.
        published: under which name the Hub has it, where it was fetched from there: "OWNER/NAME" or "OWNER/NAME@REVISION".
    """

    def __init__(self, paths: RunDirectory, *, published: str | None = None) -> None:
        self.paths = paths
        self._published = published

    # --- what it says

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.paths.path

    @property
    def finished(self) -> bool:
        """Whether it has metrics."""
        return self.paths.finished

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe.

        Raises:
            RunError: no run there.
        """
        return self.paths.load_recipe()

    @property
    def plan(self) -> dict[str, Any]:
        """What was planned, as in plan.json.

        Raises:
            RunError: it is not there.
        """
        return read_json(self.paths.plan)

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of each split, as in metrics.json: ``run.metrics["test"]["accuracy"]``, and its 95 % interval as
        ``run.metrics["test"]["accuracy_interval"]``.

        Raises:
            RunError: the run is not finished.
        """
        return read_json(self.paths.metrics)

    @property
    def baseline(self) -> dict[str, Any] | None:
        """The simple baseline beside the run and what the model gains over it, as in baseline.json; None: it was run without."""
        return read_json(self.paths.baseline) if self.paths.baseline.is_file() else None

    @property
    def history(self) -> DataFrame:
        """A row for each logged step and each evaluation, as in history.jsonl; what is nested there is a column such as
        "validation.accuracy" or "lr.head".

        Raises:
            RunError: a line cannot be read.
        """
        from pandas import json_normalize

        return json_normalize(self.paths.read_history())

    def predictions(self, split: Literal["validation", "test"] = "test") -> DataFrame:
        """A row for each example of a split: `id`, `label`, `prediction`, the probability of each class as "p(CLASS)", its size.

        Raises:
            RunError: there are none, as of a test split that is still sealed.
        """
        from hftl.evaluation.evaluated import frame_of
        from hftl.evaluation.predictions import Predictions, stored_label_names

        path = self.paths.predictions(split)
        if not path.is_file() and self.finished:
            raise RunError(f"{self.path}: no predictions for {split}: it has no such split, or it is still sealed (`Run.test`)")
        return frame_of(Predictions.load(path), stored_label_names(path))

    # --- the model

    @cached_property
    def _predictor(self) -> Predictor:
        from hftl.inference import Predictor

        return Predictor(self.path)

    @property
    def model(self) -> PreTrainedModel:
        """The model, as transformers knows it, in evaluation mode.

        Raises:
            RunError: there is none.
        """
        return self._predictor.classifier.model

    @property
    def preprocessor(self) -> PreTrainedTokenizerBase | TimmWrapperImageProcessor:
        """The tokenizer, or the image processor, of the model."""
        return self._predictor.classifier.preprocessor

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of a model of texts.

        Raises:
            RunError: it is a model of pictures.
        """
        from transformers import PreTrainedTokenizerBase

        if not isinstance(self.preprocessor, PreTrainedTokenizerBase):
            raise RunError(f"{self.path}: a model of pictures has no tokenizer; run.preprocessor prepares its pictures")
        return self.preprocessor

    def predict(self, inputs: Any, *, output: str | Path | None = None, batch_size: int = 64, say: Say = tell) -> list[Prediction]:
        """Classify inputs; the model stays in memory for the next call.

        Args:
            inputs: one or several of these. For a model of texts: a text (str), a file or a folder (`pathlib.Path`). For a model
                of pictures: a file or a folder (str or Path), a PIL picture, an array of uint8. See `hftl.inference`.
            output: a new .csv, .jsonl or .parquet file for all probabilities.
            batch_size: inputs that are computed at once.
            say: is told which files of a folder were left out.

        Raises:
            DataError: inputs that cannot be read, all of them in one report; an output that cannot be written, before anything is
                computed.
            RunError: there is no model.
        """
        from hftl.inference import check_output, write_predictions

        if output is not None:
            check_output(Path(output))
        predictions = self._predictor.predict(as_list(inputs), batch_size=batch_size, say=say)
        if output is not None:
            write_predictions(predictions, Path(output))
        return predictions

    # --- what can be done with it

    def resume(self, *, console: Console | None = None) -> Run:
        """Continue a run that was stopped, from its last checkpoint.

        Raises:
            RunError: it is finished, or is no run.
        """
        return train(self.recipe, run_dir=self.path, resume=True, console=console)

    def test(self, *, say: Say = tell) -> Run:
        """Open the sealed test split, once, and add its results to metrics, figures and card.

        Raises:
            RunError: the run is not finished, has no test split, or has opened it.
        """
        from hftl.sharing.card import write_card
        from hftl.sharing.publication import refuse_pulled
        from hftl.training.finished import open_test

        refuse_pulled(self.paths, "its results are the author's")
        open_test(self.paths, say=say)
        if is_main_process():
            write_card(self.paths)
        return self

    def evaluate(self, split: str | None = None, *, data: Any = None, name: str | None = None, say: Say = tell) -> Evaluated:
        """The metrics of the saved model, with intervals: on a split of the run's own data again, or on other labelled rows.

        Other rows have the columns and the classes of the run. Predictions and metrics are written into its folder
        evaluations/NAME and onto the card; those of the run's own splits stay as they are, and rows that the run was trained on are
        counted. Of a published run nothing is written.

        Args:
            split: which split; of the run's own data "validation" where it is None. Opening test again is written down.
            data: other rows: a source, as `hftl.TextData` takes it.
            name: what their evaluation is called; None: as the source is.
            say: is told what is worth knowing.

        Raises:
            RunError: the run is not finished, has such an evaluation, the data are not those of the run; or other rows are those of
                its test split.
            DataError: other rows that cannot be used, or with classes that the model does not know.
        """
        from hftl.evaluation.evaluated import Evaluated
        from hftl.evaluation.predictions import stored_label_names
        from hftl.sharing.card import write_card
        from hftl.training.finished import evaluate
        from hftl.training.other_rows import evaluate_on

        own = self.paths.published_as is None  # a published run is left as it is
        if data is not None:
            evaluated = evaluate_on(self.paths, data, split=split, name=name, write=own, say=say)
        else:
            split = split or "validation"
            recorded = self.metrics.get(split, {}) if self.finished else {}
            predictions = evaluate(self.paths, split=split, opened_by="hftl evaluate" if own else None)
            label_names = stored_label_names(self.paths.predictions("validation"))
            evaluated = Evaluated(split, predictions.metrics(label_names), predictions, label_names, recorded)
        if own and is_main_process():
            write_card(self.paths)  # an opening of the test split is shown on it, and so are other rows
        return evaluated

    def card(self, *facts: str, say: Say = tell) -> str:
        """Write the model card again, from the run directory alone, and give its text.

        Args:
            facts: what only a person knows, such as "card.license=mit".
            say: is told what it lacks before it can be published.

        Raises:
            RecipeError: a fact that is none, or contradicts what was read.
            RunError: the run is not finished, or somebody else's.
        """
        from hftl.facts import contradictions
        from hftl.ledger import count_openings
        from hftl.sharing.card import add_facts, write_card
        from hftl.sharing.front_matter import check_front_matter
        from hftl.sharing.publication import refuse_pulled

        run = self.paths
        refuse_pulled(run, "its card is the author's")
        if facts:
            add_facts(run, facts)
        if run.finished and (problem := count_openings(run)) is not None:
            say(problem)
        write_card(run)
        card = run.card.read_text(encoding="utf-8")
        for missing in check_front_matter(card):
            say(f"  to be pushed it needs: {missing}")
        for wrong in contradictions(run.load_recipe(), read_json(run.data) if run.data.is_file() else {}):
            say(f"  to be pushed it needs: {wrong.where}: {wrong.what}; {wrong.help[0]}")
        return card

    def verify(self, *, data: str | None = None) -> Verdict:
        """Recompute every number of the card from the stored predictions; with `data`, the run's own, from the model itself.

        Raises:
            RunError: it is no finished run, or `data` are other rows.
        """
        from hftl.sharing.verify import verify

        if self._published is None:
            verdict = verify(self.paths)
        else:
            from hftl.sharing.hub import parse_hub_id, repository_files

            beside = repository_files(self._published, self.paths)
            verdict = verify(self.paths, repo_id=parse_hub_id(self._published)[0], beside=beside)
        if data is not None:
            from hftl.reproduce import reproduce

            verdict = verdict.with_claims(reproduce(self.paths, data))
        return verdict

    def push(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str = "main",
        replace: bool = False,
        dry_run: bool = False,
        say: Say = tell,
    ) -> Pushed:
        """Publish the run in one commit, once it has passed every gate; see `hftl.sharing.hub.push`.

        Args:
            repo_id: "OWNER/NAME"; the repository is made where it is not there.
            private: make a new repository one that only its owner sees.
            revision: the branch that gets the commit.
            replace: take the place of another run that was pushed there.
            dry_run: check everything, and send nothing.
            say: is given a line about each gate that was passed.

        Raises:
            RunError: a gate does not let the run pass, or the Hub does not take it.
        """
        from hftl.sharing.hub import push

        return push(self.paths, repo_id, private=private, revision=revision, replace=replace, dry_run=dry_run, say=say)

    def export(self, format: Literal["onnx"] = "onnx", folder: str | Path | None = None) -> Export:
        """Write the model as ONNX, compared with the saved one; needs `pip install "hftl[onnx]"`.

        Args:
            format: what to write.
            folder: a new one; None: RUN/onnx.

        Raises:
            RunError: the run is not finished, the packages are missing, or the exported model answers otherwise.
        """
        if format != "onnx":
            raise RunError(f'"{format}" is not written; allowed: onnx')
        from hftl.sharing.export import export_onnx

        return export_onnx(self.paths, Path(folder) if folder is not None else self.path / "onnx")

    # --- how it is shown

    def __repr__(self) -> str:
        return f'Run("{printable(str(self.path))}"): {self._result()}'

    def _result(self) -> str:
        if not self.finished:
            if self.paths.recipe.is_file() and not (self.paths.model / "config.json").is_file():
                return "not finished"
            return "a saved model" if (self.paths.model / "config.json").is_file() else "no run here"
        metrics = self.metrics
        split = "test" if "test" in metrics else "validation"
        values = metrics[split]
        low, high = values["accuracy_interval"]
        beside = f"n = {values['n']:,}, majority {values['majority_accuracy']:.2f}"
        return f"{split} accuracy {values['accuracy']:.3f} [{low:.2f}, {high:.2f}] ({beside})"

    def _repr_html_(self) -> str:
        """For a notebook: the metrics of each split with their intervals."""
        title = f"<b>{html.escape(printable(str(self.path)))}</b>"
        if not self.finished:
            return f"{title}: {html.escape(self._result())}"
        metrics = self.metrics
        head = "".join(f"<th>{html.escape(split)}, n = {int(values['n']):,}</th>" for split, values in metrics.items())
        rows = [
            f"<tr><td>{html.escape(metric.title)}</td>{''.join(_cell(values, key) for values in metrics.values())}</tr>"
            for key, metric in METRICS.items()
            if any(values.get(key) is not None for values in metrics.values())
        ]
        return f"{title}<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _cell(values: Mapping[str, Any], key: str) -> str:
    if values.get(key) is None:
        return "<td></td>"
    interval = values.get(f"{key}_interval")
    shown = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"<td>{values[key]:.4f}{shown}</td>"


# --- several runs, and others' ------------------------------------------------------------------------------------------------


def compare(*runs: Run | str | Path, split: Literal["validation", "test"] | None = None) -> Comparison:
    """Compare finished runs on the rows that they share: differences with intervals, and which examples flipped.

    Args:
        runs: two or more, or their directories.
        split: whose stored predictions; None: test where every run has opened it.

    Raises:
        RunError: runs that cannot be compared, with every reason.
    """
    from hftl.evaluation.compare import compare as compare_runs

    return compare_runs([run.paths if isinstance(run, Run) else RunDirectory(Path(run)) for run in runs], split=split)


def runs(folder: str | Path = ".", *, where: Sequence[str] = (), sort: str = "date", trials: bool = False) -> Runs:
    """Every run and study below a folder, finished or not, with what came of it and how often its test rows were opened.

    Args:
        folder: where to look.
        where: conditions that all must hold, such as ``["data=imdb", "model~bert", "accuracy>0.8"]``; see `hftl.studies.runs`.
        sort: a key of the same words: of a metric the best first, "date" the newest first.
        trials: the trials of studies too.

    Raises:
        RunError: no such folder.
        RecipeError: a condition that is none, or a key that no run there has.
    """
    from hftl.studies.runs import find_runs

    return find_runs(Path(folder), where=where, sort=sort, trials=trials)


# --- studies: several fits of one recipe --------------------------------------------------------------------------------------


class Study:
    """A study that was carried out: its table, its figures and its page. The functions below make one; so does its directory.

    Args:
        path: the study's directory.
    """

    def __init__(self, path: str | Path) -> None:
        from hftl.studies.study import StudyDirectory

        self.paths = StudyDirectory(Path(path))

    @property
    def path(self) -> Path:
        """The study's directory."""
        return self.paths.path

    @property
    def table(self) -> DataFrame:
        """A row for each trial.

        Raises:
            RunError: the study is not done.
        """
        from pandas import read_csv

        if not self.paths.table.is_file():
            raise RunError(f"{self.path}: no table here: the study is not done; the same command goes on with it")
        return read_csv(self.paths.table)

    @property
    def best(self) -> Recipe:
        """The recipe that did best on validation; its test split is as the study's recipe has it.

        Raises:
            RunError: the study is not done, or chooses nothing.
        """
        if not self.paths.best.is_file():
            raise RunError(f"{self.path}: no best.yaml here: the study is not done, or chooses nothing")
        return read_recipe(self.paths.best)

    @property
    def figures(self) -> list[Path]:
        """The figures, as PNG files."""
        return sorted(self.paths.figures.glob("*.png"))

    @property
    def page(self) -> str:
        """What came out, as Markdown.

        Raises:
            RunError: the study is not done.
        """
        if not self.paths.page.is_file():
            raise RunError(f"{self.path}: no page here: the study is not done; the same command goes on with it")
        return read_text(self.paths.page)

    @property
    def best_run(self) -> Run:
        """The run of the trial that `tune` has chosen: once it is finished with its model and its numbers.

        Raises:
            RunError: the study is not done, or chooses no single trial.
        """
        if not self.paths.chosen.is_file():
            raise RunError(f"{self.path}: no {self.paths.chosen.name} here: the study is not done, or chooses no single trial")
        return self.trial(str(read_json(self.paths.chosen).get("trial", "")))

    def trial(self, name: str) -> Run:
        """A trial as a run: one that was finished has a model, the others have their history and validation predictions."""
        return Run(self.paths.trial(name))

    def __repr__(self) -> str:
        return f'Study("{printable(str(self.path))}")'

    def _repr_markdown_(self) -> str:
        return self.shown()

    def shown(self) -> str:
        """The page without its figures, as a notebook and the terminal show it."""
        return "\n".join(line for line in self.page.splitlines() if not line.startswith("!["))


def ablate(
    recipe: Recipe,
    over: Sequence[str] = ("staged", "flat", "head-x10", "decay"),
    *,
    seeds: int = 3,
    budget: Literal["equal-steps", "equal-cost"] = "equal-steps",
    open_test: bool = False,
    study_dir: str | Path | None = None,
    source: str = "recipe",
    say: Say = tell,
) -> Study:
    """Does staging pay here? Fit a recipe's arms with several seeds on the same rows and compare them, the test split sealed.

    Args:
        recipe: what is varied.
        over: the arms, the first one is what the others are compared with: names of `hftl.studies.arms`, or own ones as
            ``"name=key=value,key=value"``.
        seeds: fits of each arm, from `run.seed` on; all are judged by the same validation rows.
        budget: "equal-steps": arms by name train for as many epochs as the recipe; "equal-cost": each arm's last stage has the
            epochs that make it cost about what the first arm does.
        open_test: finish every trial and open the test split, once each, which each run writes down.
        study_dir: where the study is written, or continued; None: studies/NAME-ablate.
        source: what the recipe is called in errors.
        say: is told of each trial.

    Raises:
        RecipeError, DataError: the recipe or an arm cannot be used.
        RunError: the folder holds another study, or every trial failed.
    """
    from hftl.studies.ablate import ablate as run_ablation
    from hftl.studies.ablate import ablation

    arms, question = ablation(recipe, over, seeds=seeds, budget=budget, open_test=open_test, source=source)
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-ablate")
    with _interruptible():
        cells = run_ablation(study.paths, recipe, arms, question, say=say)
    if open_test:
        for cell in cells:
            _finish_trial(study, cell.name, open_test=True, say=say)
    return study


def repeat(
    recipe: Recipe,
    *,
    seeds: int | None = None,
    folds: int | None = None,
    study_dir: str | Path | None = None,
    source: str = "recipe",
    say: Say = tell,
) -> Study:
    """How much is luck? Fit a recipe with several seeds, or on several folds of its training rows, the test split sealed.

    Args:
        recipe: what is fitted.
        seeds: from `run.seed` on, on the same rows.
        folds: stratified by label, equal contents on one side.
        study_dir: where the study is written, or continued; None: studies/NAME-repeat.
        source: what the recipe is called in errors.
        say: is told of each trial.

    Raises:
        RecipeError, DataError: the recipe cannot be used; neither or both of `seeds` and `folds` are given.
        RunError: the folder holds another study, or every trial failed.
    """
    from hftl.studies.ablate import repeat as run_repetition
    from hftl.studies.ablate import repetition

    question = repetition(seeds=seeds, folds=folds, source=source)
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-repeat")
    with _interruptible():
        run_repetition(study.paths, recipe, question, say=say)
    return study


def baseline(recipe: Recipe, *, study_dir: str | Path | None = None, source: str = "recipe", say: Say = tell) -> Study:
    """Would something simple do? Fit baselines on a recipe's training rows, each chosen on validation; test stays shut.

    The majority class; for texts TF-IDF of words and of letters into linear classifiers, for pictures a histogram of colours; for
    a pretrained model its frozen features, by logistic regression and by nearest neighbours. Nothing of the model is trained.

    Args:
        recipe: of its data and its model; the stages have no say.
        study_dir: where the study is written; None: studies/NAME-baseline.
        source: what the recipe is called in errors.
        say: is told of each baseline, and of what cannot be fitted.

    Raises:
        RecipeError, DataError: the recipe cannot be used.
        RunError: the folder holds another study, or the training rows are of one class.
    """
    from hftl.studies.baseline import baseline as run_baselines

    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-baseline")
    with _interruptible():
        run_baselines(study.paths, recipe, source=source, say=say)
    return study


def plan_ablation(
    recipe: Recipe,
    over: Sequence[str] = ("staged", "flat", "head-x10", "decay"),
    *,
    seeds: int = 3,
    budget: Literal["equal-steps", "equal-cost"] = "equal-steps",
    source: str = "recipe",
) -> StudyPlan:
    """What `ablate` would cost. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe or an arm cannot be used.
    """
    from hftl.studies.ablate import ablation
    from hftl.studies.ablate import plan_ablation as plan_arms

    return plan_arms(*ablation(recipe, over, seeds=seeds, budget=budget, open_test=False, source=source))


def plan_repetition(recipe: Recipe, *, seeds: int | None = None, folds: int | None = None, source: str = "recipe") -> StudyPlan:
    """What `repeat` would cost. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe cannot be used.
    """
    from hftl.studies.ablate import repetition
    from hftl.studies.cost import plan_study

    question = repetition(seeds=seeds, folds=folds, source=source)
    (times,) = question.settings.values()
    return plan_study("repeat", {recipe.name: recipe}, times=times)


def curve(
    recipe: Recipe,
    sizes: Sequence[int],
    *,
    seeds: int = 3,
    full: bool = False,
    study_dir: str | Path | None = None,
    source: str = "recipe",
    say: Say = tell,
) -> Study:
    """How many more labels? Fit nested parts of train of growing size, and say by a power law what more rows would bring.

    Args:
        recipe: what is fitted.
        sizes: rows of train; four or more, or the fit is not to be trusted.
        seeds: fits of each size, from `run.seed` on; all are judged by the same validation rows.
        full: fit the recipe's own stages; otherwise the head alone, on frozen features, for as many epochs.
        study_dir: where the study is written, or continued; None: studies/NAME-curve.
        source: what the recipe is called in errors.
        say: is told of each trial.

    Raises:
        RecipeError, DataError: the recipe or a size cannot be used.
        RunError: the folder holds another study, or too many trials failed.
    """
    from hftl.studies.curve import curve as run_curve
    from hftl.studies.curve import question_of

    question = question_of(sizes, seeds=seeds, full=full, source=source)
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-curve")
    with _interruptible():
        run_curve(study.paths, recipe, question, say=say, source=source)
    return study


def plan_curve(recipe: Recipe, sizes: Sequence[int], *, seeds: int = 3, full: bool = False, source: str = "recipe") -> StudyPlan:
    """What `curve` would cost. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe or a size cannot be used.
    """
    from hftl.studies.curve import plan_curve as plan_sizes
    from hftl.studies.curve import question_of

    return plan_sizes(recipe, question_of(sizes, seeds=seeds, full=full, source=source), source=source)


def find_lr(
    recipe: Recipe, *, stage: str | None = None, study_dir: str | Path | None = None, source: str = "recipe", say: Say = tell
) -> Study:
    """The learning-rate range test on each stage, or on one: how the loss answers to rates that rise from step to step.

    A rate is suggested for heads and for networks without attention alone. The weights are thrown away.

    Args:
        recipe: whose stages are tested; layer decay and the head's multiplier keep their ratios.
        stage: the one; None: each.
        study_dir: where the study is written; None: studies/NAME-find-lr.
        source: what the recipe is called in errors.
        say: is told of each stage.

    Raises:
        RecipeError, DataError: the recipe cannot be used, or has no such stage.
        RunError: the folder holds another study.
    """
    from hftl.studies.find_lr import find_lr as run_test
    from hftl.studies.find_lr import question_of

    question = question_of(recipe, stage, source=source)
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-find-lr")
    with _interruptible():
        run_test(study.paths, recipe, question, say=say, source=source)
    return study


def tune(
    recipe: Recipe,
    space: Sequence[str] | Mapping[str, str],
    *,
    trials: int | None = None,
    minutes: float | None = None,
    sampler: Sampler = "tpe",
    pruner: Pruner = "none",
    storage: str | None = None,
    join: bool = False,
    study_dir: str | Path | None = None,
    source: str = "recipe",
    say: Say = tell,
) -> Study:
    """Which values are best? Fit trials of a recipe by validation, the test split sealed, and finish the best one.

    ``.best`` of the study is the recipe of the best trial, ``.best_run`` that trial as a run, with its model. Test is opened for it
    alone, where the recipe opens test. What it shows on validation is corrected for having been the best of many. Needs
    `pip install "hftl[tune]"`.

    Args:
        recipe: what is varied.
        space: ``["stages.all.lr=log:1e-5..1e-3", "stages.top=on|off"]``, or the same as a dict, or YAML files; see
            `hftl.studies.space`.
        trials: how many in all, those of earlier calls counted.
        minutes: after so many this call begins no further trial.
        sampler: "grid", "random", "tpe" (tree-structured Parzen estimator), "cmaes" or "evolution".
        pruner: "none", or what ends a trial between two epochs: "median" or "hyperband".
        storage: the address of a database, such as "postgresql://user@host/name", or a journal file; None: SQLite in the study's
            folder.
        join: beside other processes, each started so, that share the study's folder.
        study_dir: where the study is written, or continued; None: studies/NAME-tune.
        source: what the recipe is called in errors.
        say: is told of each trial.

    Raises:
        RecipeError, DataError: the recipe or the space cannot be used.
        RunError: the folder holds another study, the storage cannot be used, or every trial failed.
    """
    from hftl.studies.tune import tune as run_tuning

    read, settings = _tuning(
        recipe, space, trials=trials, minutes=minutes, sampler=sampler, pruner=pruner, storage=storage, source=source
    )
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-tune")

    def finish(name: str) -> RunDirectory:
        return _finish_trial(study, name, open_test=recipe.opens_test, say=say).paths

    with _interruptible():
        run_tuning(study.paths, recipe, read, settings, join=join, finish=finish, say=say)
    return study


def plan_tuning(
    recipe: Recipe,
    space: Sequence[str] | Mapping[str, str],
    *,
    trials: int | None = None,
    minutes: float | None = None,
    sampler: Sampler = "tpe",
    pruner: Pruner = "none",
    source: str = "recipe",
) -> TuningPlan:
    """What `tune` would cost, by some trials that are drawn. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe or the space cannot be used.
        RunError: Optuna is not installed.
    """
    from hftl.studies.tune import plan_tuning as plan_trials

    read, settings = _tuning(
        recipe, space, trials=trials, minutes=minutes, sampler=sampler, pruner=pruner, storage=None, source=source
    )
    return plan_trials(recipe, read, settings)


def _tuning(
    recipe: Recipe,
    space: Sequence[str] | Mapping[str, str],
    *,
    trials: int | None,
    minutes: float | None,
    sampler: Sampler,
    pruner: Pruner,
    storage: str | None,
    source: str,
) -> tuple[Space, Settings]:
    """A space and how it is searched, once both are known to fit the recipe."""
    from hftl.studies.search import STORAGE
    from hftl.studies.space import read_space
    from hftl.studies.tune import Settings, check_settings

    words = [f"{key}={text}" for key, text in space.items()] if isinstance(space, Mapping) else list(space)
    read = read_space(recipe, words, source=source)
    settings = Settings(sampler, pruner, trials, minutes, storage or STORAGE)
    check_settings(read, settings, source=source)
    return read, settings


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C in somebody's own program raises KeyboardInterrupt, as in `train`; what was fitted is kept."""
    try:
        yield
    except signals.Stopped as stopped:
        if stopped.signal is signal.SIGINT and not signals.is_installed():
            raise KeyboardInterrupt("the same call goes on with the study") from None
        raise


def _finish_trial(study: Study, name: str, *, open_test: bool, say: Say) -> Run:
    """Finish a trial: its model, its card, and with `open_test` its test split, opened once."""
    from rich.console import Console

    run = study.trial(name)
    if not run.finished:
        run = train(run.recipe, run_dir=run.path, resume=True, console=Console(quiet=True))
    if open_test and "test" not in run.metrics:
        run.test(say=say)
    return run


def pull(name: str, folder: str | Path | None = None) -> Run:
    """Fetch a published run as a run directory of one's own, once every file agrees with its manifest.

    Args:
        name: "OWNER/NAME" or "OWNER/NAME@REVISION".
        folder: a new one; None: runs/NAME.

    Raises:
        RunError: no such run, or it is not what was pushed.
    """
    from hftl.sharing.hub import parse_hub_id
    from hftl.sharing.hub import pull as pull_run

    return Run(pull_run(name, Path(folder) if folder is not None else Path("runs") / parse_hub_id(name)[0].rpartition("/")[2]))
