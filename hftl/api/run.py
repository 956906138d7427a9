"""A run as an object, and what is done with several."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from hftl.errors import RunError, beside, did_you_mean, printable
from hftl.files import write_json
from hftl.launch import is_main_process
from hftl.memory import as_list
from hftl.names import METRICS, SEVERAL_LABELS, VIEWS, Tta, title_of
from hftl.recipe import Recipe
from hftl.records.baseline import read_baseline
from hftl.records.data import read_data
from hftl.records.metrics import SplitMetrics, interval_of, kind_of, read_metrics, value_of
from hftl.records.plan import read_plan
from hftl.run import RunDirectory
from hftl.terminal import Markdown, Say, tell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame
    from rich.console import Console
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

    from hftl.evaluation.compare import Comparison
    from hftl.evaluation.evaluated import Evaluated
    from hftl.inference import Prediction, Predictor
    from hftl.sharing.adapter import AdapterFolder
    from hftl.sharing.export import Export
    from hftl.sharing.hub import Pushed
    from hftl.sharing.verify import Verdict
    from hftl.shrinking import Shrunk
    from hftl.studies.runs import Runs

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
        if (path / "study.yaml").is_file():
            raise RunError(
                f"{name}: a study, and no run. What came out is in {path / 'README.md'}, its fits are in {path / 'trials'}"
            )
        if revision is not None:
            raise RunError(f"{name}: a folder of this machine, which has no revision")
        return Run(run)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise RunError(f"{name}: no such folder; a published run is written OWNER/NAME{beside(path, folders=True)}")
    if path.parent.is_dir():  # "runs/revews", and not an owner of the Hub
        raise RunError(f"{name}: no such folder; a run of the Hub is written hub:{name} here{beside(path, folders=True)}")
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
        return dict(read_plan(self.paths))

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of each split, as in metrics.json: ``run.metrics["test"]["accuracy"]``, and its 95 % interval as
        ``run.metrics["test"]["accuracy_interval"]``.

        Raises:
            RunError: the run is not finished.
        """
        return read_metrics(self.paths)

    @property
    def baseline(self) -> dict[str, Any] | None:
        """The simple baseline beside the run and what the model gains over it, as in baseline.json; None: it was run without."""
        record = read_baseline(self.paths)
        return None if record is None else dict(record)

    @property
    def history(self) -> DataFrame:
        """A row for each logged step and each evaluation, as in history.jsonl; what is nested there is a column such as
        "validation.accuracy" or "lr.head".

        Raises:
            RunError: a line cannot be read.
        """
        from pandas import json_normalize

        return json_normalize(self.paths.read_history())

    def predictions(
        self, split: Literal["validation", "test"] = "test", *, beside: str | Path | DataFrame | None = None
    ) -> DataFrame:
        """A row for each example of a split: `id`, `label`, `prediction`, the probability of each class as "p(CLASS)", its size.

        Args:
            split: whose.
            beside: the table that the rows came from, a file or a DataFrame, whose columns are put before those of the predictions:
                they are found by `data.id_column`, else by the numbers of the rows. Validation rows made of train are in its table.

        Raises:
            RunError: there are none, as of a test split that is still sealed.
            DataError: `beside` is another table, or none that can be read.
        """
        from hftl.evaluation.evaluated import frame_of
        from hftl.evaluation.predictions import Predictions, stored_label_names

        path = self.paths.predictions(split)
        if not path.is_file() and self.finished:
            raise RunError(f"{self.path}: no predictions for {split}: it has no such split, or it is still sealed (`Run.test`)")
        frame = frame_of(Predictions.load(path), stored_label_names(path))
        if beside is None:
            return frame
        from hftl.data.beside import with_columns

        return with_columns(frame, beside, self.recipe.data)

    # --- the model

    @cached_property
    def _predictor(self) -> Predictor:
        from hftl.inference import Predictor

        return Predictor(self.path)

    @property
    def _source(self) -> dict[str, str | None]:
        """Which model it is, for what is made with it: "model", the name of its folder or on the Hub, and "revision" there."""
        if self._published is None:
            return {"model": self.path.resolve().name, "revision": None}
        return {"model": self._published.partition("@")[0], "revision": self.path.name}

    @property
    def model(self) -> PreTrainedModel:
        """The model, as transformers knows it, in evaluation mode.

        Raises:
            RunError: there is none.
        """
        return self._predictor.classifier.model

    @property
    def preprocessor(self) -> PreTrainedTokenizerBase | BaseImageProcessor:
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

    def predict(
        self,
        inputs: Any,
        *,
        output: str | Path | None = None,
        columns: str | Sequence[str] | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        batch_size: int = 64,
        tta: Tta = "none",
        say: Say = tell,
    ) -> list[Prediction]:
        """Classify inputs; the model stays in memory for the next call. For a table of any length see `predict_to`.

        Args:
            inputs: one or several of these. For a model of texts: a text (str), a row of several columns (a dict, a tuple), a file
                or a folder (`pathlib.Path`). For a model of pictures: a file or a folder (str or Path), a PIL picture, an array of
                uint8. See `hftl.inference`.
            output: a new .csv, .jsonl or .parquet file for all probabilities, beside the columns of tables.
            columns: what tables call the column of texts or pictures, or the columns of texts; None: as the run does.
            on_bad_image: whether a picture that cannot be read is refused, or left out and counted.
            batch_size: inputs that are computed at once.
            tta: test-time augmentation, of pictures the mean over several views of each: "flip", "five_crop", "ten_crop" or
                "scales", which take two, five, ten or three times as long; "none": the picture alone.
            say: is told which files were left out, and how far it has come.

        Raises:
            DataError: inputs that cannot be read, all of them in one report; an output that cannot be written, before anything is
                computed; there are no such views of what the model reads.
            RunError: there is no model, or `tta` is none of these words.
        """
        predictions: list[Prediction] = []
        for block in self._predict(inputs, output, columns, on_bad_image, batch_size, tta, say):
            predictions += block
        return predictions

    def predict_to(
        self,
        output: str | Path,
        inputs: Any,
        *,
        columns: str | Sequence[str] | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        batch_size: int = 64,
        tta: Tta = "none",
        say: Say = tell,
    ) -> int:
        """Classify inputs into a file, and hold no more of them than a block; how many there were. See `predict`.

        Raises:
            DataError, RunError: as `predict`.
        """
        return sum(map(len, self._predict(inputs, output, columns, on_bad_image, batch_size, tta, say)))

    def _predict(
        self,
        inputs: Any,
        output: str | Path | None,
        columns: str | Sequence[str] | None,
        on_bad_image: Literal["error", "skip"],
        batch_size: int,
        tta: Tta,
        say: Say,
    ) -> Iterator[list[Prediction]]:
        """Blocks of predictions, each of which is written once the next one is asked for."""
        from hftl.inference import check_output, writing

        if output is not None:
            check_output(Path(output))
        columns = [columns] if isinstance(columns, str) else columns
        say = say if is_main_process() else lambda line: None
        _check_tta(tta)
        asked = self._predictor.ask(as_list(inputs), columns=columns, on_bad_image=on_bad_image, say=say)
        blocks = self._predictor.answer(asked, batch_size=batch_size, tta=tta, say=say)
        if output is None or not is_main_process():
            yield from blocks
            return
        several = self._predictor.classifier.target == SEVERAL_LABELS
        with writing(Path(output), asked, self._predictor.label_names, several=several) as write:
            for block in blocks:
                yield block
                write(block)

    def features(
        self,
        inputs: Any,
        *,
        group: str | None = None,
        pooling: Literal["mean", "first"] | None = None,
        columns: str | Sequence[str] | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        batch_size: int = 64,
        say: Say = tell,
    ) -> NDArray[np.float32]:
        """What enters a layer group of the model, one vector for each input: (N, F) float32; see `hftl.features`.

        Raises:
            RunError, DataError: as `hftl.features`.
        """
        from hftl.api.extraction import features  # which loads runs

        return features(
            self,
            inputs,
            group=group,
            pooling=pooling,
            columns=columns,
            on_bad_image=on_bad_image,
            batch_size=batch_size,
            say=say,
        )

    def features_to(
        self,
        output: str | Path,
        inputs: Any,
        *,
        group: str | None = None,
        pooling: Literal["mean", "first", "none"] | None = None,
        columns: str | Sequence[str] | None = None,
        on_bad_image: Literal["error", "skip"] = "error",
        batch_size: int = 64,
        say: Say = tell,
    ) -> int:
        """The same into a new Parquet file, a block at a time; how many rows there are. See `hftl.features_to`.

        Raises:
            RunError, DataError: as `hftl.features_to`.
        """
        from hftl.api.extraction import features_to

        return features_to(
            output,
            self,
            inputs,
            group=group,
            pooling=pooling,
            columns=columns,
            on_bad_image=on_bad_image,
            batch_size=batch_size,
            say=say,
        )

    # --- what can be done with it

    def resume(self, *, console: Console | None = None) -> Run:
        """Continue a run that was stopped, from its last checkpoint.

        Raises:
            RunError: it is finished, or is no run.
        """
        from hftl.api.training import train  # which makes runs

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

    def evaluate(
        self, split: str | None = None, *, data: Any = None, name: str | None = None, tta: Tta = "none", say: Say = tell
    ) -> Evaluated:
        """The metrics of the saved model, with intervals: on a split of the run's own data again, or on other labelled rows.

        Other rows have the columns and the classes of the run. Predictions and metrics are written into its folder
        evaluations/NAME and onto the card; those of the run's own splits stay as they are, and rows that the run was trained on are
        counted. Of a published run nothing is written.

        Args:
            split: which split; of the run's own data "validation" where it is None. Opening test again is written down.
            data: other rows: a source, as `hftl.TextData` takes it.
            name: what their evaluation is called; None: as the source is.
            tta: of pictures also by the mean over several views of each, beside the plain numbers, see `predict`.
            say: is told what is worth knowing.

        Raises:
            RunError: the run is not finished, has such an evaluation, the data are not those of the run; or other rows are those of
                its test split.
            DataError: other rows that cannot be used, or with classes that the model does not know; or there are no such views of
                what the model reads.
        """
        from hftl.evaluation.evaluated import Evaluated
        from hftl.evaluation.predictions import stored_label_names
        from hftl.sharing.card import write_card
        from hftl.training.finished import evaluate
        from hftl.training.other_rows import evaluate_on

        _check_tta(tta)
        own = self.paths.published_as is None  # a published run is left as it is
        if data is not None:
            evaluated = evaluate_on(self.paths, data, split=split, name=name, write=own, say=say, tta=tta)
        else:
            split = split or "validation"
            answers = evaluate(self.paths, split=split, opened_by="hftl evaluate" if own else None, tta=tta)
            label_names = stored_label_names(self.paths.predictions("validation"))
            skipped = sum(row["split"] == split for row in read_data(self.paths)["skipped"])
            metrics, recorded = answers.metrics(label_names, skipped=skipped), self.metrics.get(split, {})
            evaluated = Evaluated(split, metrics, answers.plain, label_names, recorded)
        if own and is_main_process():
            write_card(self.paths)  # an opening of the test split is shown on it, and so are other rows
        return evaluated

    def card(self, *facts: str, study: str | Path | None = None, say: Say = tell) -> Markdown:
        """Write the model card again, from the run directory alone, and give its text, which a notebook renders.

        Args:
            facts: what only a person knows, such as "card.license=mit".
            study: the directory of a `repeat` of the same recipe over seeds, whose spread the card then tells, now and later.
            say: is told what it lacks before it can be published.

        Raises:
            RecipeError: a fact that is none, or contradicts what was read.
            RunError: the run is not finished, or somebody else's; or `study` is none, or of another recipe or other rows.
        """
        from hftl.evaluation.openings import count_openings
        from hftl.facts import contradictions
        from hftl.sharing.card import add_facts, write_card
        from hftl.sharing.front_matter import check_front_matter
        from hftl.sharing.publication import refuse_pulled

        run = self.paths
        refuse_pulled(run, "its card is the author's")
        if facts:
            add_facts(run, facts)
        if run.finished and (problem := count_openings(run)) is not None:
            say(problem)
        if run.finished and study is not None:
            from hftl.studies.repetition import over_seeds
            from hftl.studies.study import StudyDirectory

            write_json(run.seeds, over_seeds(StudyDirectory(Path(study)), run))
        write_card(run)
        card = Markdown(run.card.read_text(encoding="utf-8"))
        for missing in check_front_matter(card):
            say(f"  to be pushed it needs: {missing}")
        for wrong in contradictions(run.load_recipe(), read_data(run)):
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

    @overload
    def export(self, format: Literal["onnx"] = "onnx", folder: str | Path | None = None) -> Export: ...
    @overload
    def export(self, format: Literal["adapter"], folder: str | Path | None = None) -> AdapterFolder: ...
    def export(self, format: Literal["onnx", "adapter"] = "onnx", folder: str | Path | None = None) -> Export | AdapterFolder:
        """Write the model as ONNX, or as adapters of its checkpoint and a head as peft has them; compared with the saved one.

        The former needs `pip install "hftl[onnx]"`, the latter `pip install "hftl[lora]"` and a run whose layers below the head
        were trained by adapters alone (docs/adapters.md).

        Args:
            format: what to write.
            folder: a new one; None: RUN/onnx or RUN/adapter.

        Raises:
            RunError: the run is not finished, the packages are missing, its layers were trained in another way, or the exported
                model answers otherwise.
        """
        if format not in ("onnx", "adapter"):
            raise RunError(f'"{format}" is not written; allowed: onnx, adapter')
        place = Path(folder) if folder is not None else self.path / format
        if format == "adapter":
            from hftl.sharing.adapter import export_adapter

            return export_adapter(self.paths, place)
        from hftl.sharing.export import export_onnx

        return export_onnx(self.paths, place)

    def shrink(
        self,
        *,
        target_ms: float | None = None,
        target_mb: float | None = None,
        students: Sequence[Run | str | Path] = (),
        margin: float = 0.01,
        threads: int | None = None,
        say: Say = tell,
    ) -> Shrunk:
        """Measure smaller and faster forms of the model on this machine, and keep those that are not worse, in RUN/shrink.

        The forms are ONNX in float32 and 8 bits, with the vocabulary of the training texts alone, and those of students. Needs
        `pip install "hftl[onnx]"`.

        Args:
            target_ms: milliseconds that the median answer to one input may take; None: any.
            target_mb: megabytes that a form may take on the disk; None: any.
            students: finished runs on the same validation rows, such as `hftl.distill` makes them, or their directories.
            margin: of validation accuracy that a form may lose: it is not worse where the 95 % interval of the paired difference
                lies above minus that.
            threads: of an answer; None: one a core.
            say: is told what is being measured.

        Raises:
            RunError: the run or a student is not fit, the packages are missing, or there is a RUN/shrink of other students,
                margin or threads; or no form that is not worse reaches the targets, and then the table is there.
        """
        from hftl.sharing.card import write_card
        from hftl.sharing.publication import refuse_pulled
        from hftl.shrinking import shrink

        refuse_pulled(self.paths, "it is left as it was published")
        paths = [each.paths if isinstance(each, Run) else RunDirectory(Path(each)) for each in students]
        try:
            return shrink(self.paths, paths, target_ms=target_ms, target_mb=target_mb, margin=margin, threads=threads, say=say)
        finally:
            if self.paths.shrink.is_file() and self.finished:
                write_card(self.paths)

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
        if kind_of(values) == SEVERAL_LABELS:
            beside = f"n = {values['n']:,}, every label always {values['every_label_macro_f1']:.2f}"
            return f"{split} macro F1 {values['macro_f1']:.3f}, micro F1 {values['micro_f1']:.3f} ({beside})"
        low, high = values["accuracy_interval"]
        beside = f"n = {values['n']:,}, majority {values['majority_accuracy']:.2f}"
        return f"{split} accuracy {values['accuracy']:.3f} [{low:.2f}, {high:.2f}] ({beside})"

    def _repr_html_(self) -> str:
        """For a notebook: the metrics of each split with their intervals."""
        title = f"<b>{html.escape(printable(str(self.path)))}</b>"
        if not self.finished:
            return f"{title}: {html.escape(self._result())}"
        metrics = self.metrics
        kind = kind_of(metrics["validation"])
        head = "".join(f"<th>{html.escape(split)}, n = {values['n']:,}</th>" for split, values in metrics.items())
        rows = [
            f"<tr><td>{html.escape(title_of(key, kind))}</td>{''.join(_cell(values, key) for values in metrics.values())}</tr>"
            for key in METRICS
            if any(value_of(values, key) is not None for values in metrics.values())
        ]
        for key in ("accuracy", "macro_f1", "log_loss") if "tta" in metrics["validation"] else ():
            beside = [values.get("tta", {}) for values in metrics.values()]
            title = f"{title_of(key, kind)}, over {beside[0]['passes']} views"
            rows.append(f"<tr><td>{html.escape(title)}</td>{''.join(_cell(cast('SplitMetrics', tta), key) for tta in beside)}</tr>")
        return f"{title}<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _check_tta(tta: str) -> None:
    if tta != "none" and tta not in VIEWS:
        raise RunError(f'tta: "{tta}" names no views.{did_you_mean(tta, VIEWS)} Allowed: none, {", ".join(VIEWS)}')


def _cell(values: SplitMetrics, key: str) -> str:
    value, interval = value_of(values, key), interval_of(values, key)
    if value is None:
        return "<td></td>"
    shown = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"<td>{value:.4f}{shown}</td>"


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
