"""The teacher of a recipe: a finished run that answers its training rows once, before the first step (Hinton et al. 2015).

The answers are logits, of each text or picture as evaluation sees it: a fixed teacher, which is asked once however many epochs
there are. They lie beside the run that learns from them, by what the rows hold, so that it is continued and repeated without the
teacher:

    RUN/teacher/
      answers.parquet                       content (the fingerprint of a row, in hex) and the teacher's logits
      validation.parquet, test.parquet      what the teacher had answered to these rows, where it has the same ones
      teacher.json                          who it is, and how both answer the same rows (`hftl.records.teacher`)

Shapes: N training rows, with those that have no label behind the others; M different contents of them; K classes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset

from hftl import store
from hftl.data.content import content_of
from hftl.data.duplicates import text_fingerprints
from hftl.data.labelled import count_seen, fingerprints
from hftl.data.loader import evaluation_batches
from hftl.data.source import Splits
from hftl.data.targets import targets_of
from hftl.errors import Problem, RecipeError, RunError
from hftl.evaluation.gain import against_teacher
from hftl.evaluation.predict import predict_logits
from hftl.evaluation.predictions import Predictions, list_matrix, read_parquet, stored_label_names
from hftl.files import PARTIAL, write_json, written_whole
from hftl.models import load_classifier
from hftl.recipe import ImageData, Recipe, Teacher, TextData, local_name
from hftl.records.data import read_data
from hftl.records.shape import read_record
from hftl.records.teacher import AgainstTeacher, TaughtRows, TeacherRecord, read_teacher
from hftl.run import RunDirectory, check_sealed, sealed_files
from hftl.signals import Stopped, noted
from hftl.training.machine import evaluation_batch_size, loader_workers, tokens_per_batch
from hftl.training.rows_again import read_again
from hftl.wording import count, listed

ANSWERS = "answers.parquet"
_WHAT = "not a teacher's answers"
_LAYOUT = "hftl-answers-1"  # part of the key: change it whenever what is stored changes
_LIBRARIES = ("torch", "transformers", "timm")
_WHERE = "teacher.run"


@dataclass(frozen=True)
class KnownTeacher:
    """A teacher that was found fit for a recipe, before it is asked."""

    path: Path
    """Its run directory; or the folder with its answers to the rows of another run."""
    record: TeacherRecord
    names: tuple[str, ...]
    """The K classes, in the order of its answers."""
    stored: bool
    """It is a folder of answers."""
    recipe: Recipe
    """The one that learns from it."""
    splits: Splits
    unlabelled: Dataset | None

    def remarks(self) -> Iterator[str]:
        """What the plan says of it."""
        section = _section(self.recipe)
        yield (
            f"It learns from a teacher as well (teacher.run): {self.record['run']}, {self.record['architecture']} of"
            f" {self.record['parameters']:,} parameters, temperature {section.temperature:g}; its weight is {section.weight:g}, and"
            f" that of the labels {1 - section.weight:g}. It answers every training row once, before the first step."
        )
        if self.unlabelled is not None:
            yield (
                f"An epoch has {count(len(self.unlabelled), 'text')} without a label besides (data.unlabelled), of which the"
                " teacher's answers alone are learned; data.unlabelled=null leaves them out."
            )
        if isinstance(self.recipe.data, ImageData) and self.recipe.data.augmentation != "none":
            yield "The teacher's answers are those to the pictures as evaluation sees them, and not to their augmented views."
        if self.record["unknown"] is not None:
            yield f"Whether the teacher has learned from rows of validation or test is not known: {self.record['unknown']}."


def _section(recipe: Recipe) -> Teacher:
    assert recipe.teacher is not None
    return recipe.teacher


# --- whether it may teach -----------------------------------------------------------------------------------------------------


def find_teacher(recipe: Recipe, splits: Splits, unlabelled: Dataset | None, *, target: str) -> KnownTeacher:
    """Look at the teacher of a recipe; it is not asked yet.

    Args:
        recipe: with a section `teacher`.
        splits: its rows.
        unlabelled: texts that it learns from without labels; None: none.
        target: the kind of what is predicted.

    Raises:
        RecipeError: there is no finished run, or one that reads or tells apart something else, or that has learned from rows that
            the recipe is judged by.
        RunError: a file of it is not as it was sealed.
    """
    path = Path(os.path.expanduser(_section(recipe).run))
    judged_by = {split: digest for split, digest in splits.facts["contents"].items() if split != "train"}
    rows: TaughtRows = {"labelled": len(splits.train), "unlabelled": 0 if unlabelled is None else len(unlabelled)}
    if (path / ANSWERS).is_file():
        record = read_record(path / "teacher.json", TeacherRecord)
        _refuse(recipe, _other_classes(record["label_names"], record["target"], splits, target))
        if record["judged_by"] != judged_by:
            what = f"{path} has answers to the rows of one split, and this recipe divides them otherwise"
            raise _refused(recipe, what, "name the run of the teacher itself, or divide as there: data.split_seed, data.source")
        names = tuple(record["label_names"])
        record = {**record, "label_names": list(splits.label_names), "rows": rows, "splits": {}}
        return KnownTeacher(path, record, names, True, recipe, splits, unlabelled)
    run = RunDirectory(path)
    if not run.recipe.is_file():
        what = f"no run in {path}" if path.is_dir() else f"no such folder: {path.absolute()}"
        kept = "a run that it has taught keeps its answers: teacher.run=THAT_RUN/teacher"
        raise _refused(recipe, what, "name the directory of a finished run", kept)
    if not run.finished:
        what = f"{path} is not finished, so there is no model to learn from"
        raise _refused(recipe, what, f"finish it first:  hftl train {path} --resume")
    check_sealed(run)
    of_teacher, data = run.load_recipe(), read_data(run)
    _refuse(recipe, _reads_other(recipe, of_teacher))
    names = stored_label_names(run.predictions("validation"))
    _refuse(recipe, _other_classes(names, Predictions.load(run.predictions("validation")).kind, splits, target))
    return KnownTeacher(
        path,
        {
            "run": local_name(str(path.resolve())),
            "architecture": data["model"]["architecture"],
            "parameters": data["model"]["parameters"],
            "model": _weights(run),
            "label_names": list(splits.label_names),
            "target": target,
            "rows": rows,
            "judged_by": judged_by,
            "unknown": _refuse_seen(recipe, run, splits, judged_by),
            "splits": {},
        },
        names,
        False,
        recipe,
        splits,
        unlabelled,
    )


def _refused(recipe: Recipe, what: str, *help: str) -> RecipeError:
    return RecipeError(f'recipe "{recipe.name}"', [Problem(_WHERE, what, help)])


def _refuse(recipe: Recipe, problems: Iterator[Problem]) -> None:
    if found := list(problems):
        raise RecipeError(f'recipe "{recipe.name}"', found)


def _weights(run: RunDirectory) -> dict[str, str]:
    """SHA-256 of each file of a finished run's model, by its name there."""
    inside = f"{run.model.relative_to(run.path).as_posix()}/".removeprefix("./")
    files = sealed_files(run)
    return {name.removeprefix(inside): str(facts["sha256"]) for name, facts in files.items() if name.startswith(inside)}


def _reads_other(recipe: Recipe, of_teacher: Recipe) -> Iterator[Problem]:
    one, other = recipe.data, of_teacher.data
    if one.kind != other.kind:
        yield Problem(_WHERE, f"it reads {other.kind}s, and this recipe {one.kind}s")
    elif isinstance(one, TextData) and isinstance(other, TextData):
        if one.pair != other.pair:
            what = f"it reads {'pairs of texts' if other.pair else 'single texts'}"
            yield Problem(_WHERE, what, (f"write data.pair={str(other.pair).lower()}",))
        elif (one.joins or other.joins) and (one.text_columns, one.template) != (other.text_columns, other.template):
            columns = f"{listed(other.text_columns)}{'' if other.template is None else f' ({other.template!r})'}"
            what = f"it reads texts that are made of other columns: {columns}"
            yield Problem(_WHERE, what, ("write data.text_column and data.template as it has them",))


def _other_classes(names: object, kind: str, splits: Splits, target: str) -> Iterator[Problem]:
    assert isinstance(names, list | tuple)
    if kind != target:
        what = f"it answers with {kind.replace('_', ' ')} an example, and these examples have {target.replace('_', ' ')}"
        yield Problem(_WHERE, what, ("data.target says how labels are read",))
    elif set(names) != set(splits.label_names):
        more = [name for name in names if name not in splits.label_names]
        fewer = [name for name in splits.label_names if name not in names]
        parts = [f"it alone knows {listed(more, 5)}"] if more else []
        parts += [f"these data alone have {listed(fewer, 5)}"] if fewer else []
        yield Problem(_WHERE, f"it tells other classes apart: {'; '.join(parts)}", ("a teacher has learned the same classes",))


def _refuse_seen(recipe: Recipe, run: RunDirectory, splits: Splits, judged_by: dict[str, str]) -> str | None:
    """Refuse a teacher that has learned from rows which the recipe is judged by; why that is not known, or None.

    The same rows in validation and test are the same division: then they are in no training split. Otherwise every row is compared.
    """
    contents = read_data(run)["contents"]
    if all(contents.get(split) == digest for split, digest in judged_by.items()):
        return None
    of_teacher = read_again(run)
    if isinstance(of_teacher, str):
        return of_teacher
    problems = []
    roles = ("validation", "test")
    for role in roles:
        own = fingerprints(splits, role)  # type: ignore[arg-type]  # a role each
        if own is None:
            continue
        seen = count_seen(own, of_teacher)
        learned = seen["train"] + (seen["validation"] if role == "test" else 0)
        if learned:
            what = f"{run.path} has learned from {learned:,} of the {len(own):,} {role} rows of this recipe, or was chosen by them"
            problems.append(Problem(_WHERE, f"{what}: what it teaches would be its answers to the exam"))
    if problems:
        seed = of_teacher.facts["validation"].rpartition("seed ")[2]
        way_out = f"divide as the teacher did: data.split_seed={seed}" if seed.isdigit() else "divide as the teacher did"
        problems[-1] = Problem(_WHERE, problems[-1].what, (f"{way_out}, with its data.source and data.validation_fraction",))
        raise RecipeError(f'recipe "{recipe.name}"', problems)
    return None


# --- its answers --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """What a teacher says of the training rows."""

    contents: np.ndarray
    """(M, 2) uint64: their fingerprints, different ones, in ascending order."""
    logits: np.ndarray
    """(M, K) float32, in the order of the recipe's classes."""
    of_rows: np.ndarray
    """(N,) for each row its place among the contents."""

    @property
    def rows(self) -> np.ndarray:
        """(N, K) the logits of each row."""
        return np.asarray(self.logits[self.of_rows])


def ask(teacher: KnownTeacher, rows: Dataset, accelerator: Accelerator, say: Callable[[str], object]) -> Answers:
    """The teacher's answers to the training rows, from its folder or the cache, or computed now by all processes together.

    Args:
        teacher: which.
        rows: the N rows that are trained on.
        accelerator: of the run.
        say: is told what is computed.

    Raises:
        RecipeError: the folder lacks answers to some of the rows.
        RunError: it is not as hftl writes it.
        Stopped: a signal asked for it.
    """
    contents, first, of_rows = _different(teacher)
    logits = _stored(teacher, contents) if teacher.stored else _asked(teacher, rows.select(first), accelerator, say)
    order = [teacher.names.index(name) for name in teacher.record["label_names"]]
    return Answers(contents, np.ascontiguousarray(logits[:, order]), of_rows)


def _different(teacher: KnownTeacher) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different contents of the training rows, ascending (M, 2); the first row of each (M,); of each row its content (N,)."""
    own = fingerprints(teacher.splits, "train")
    assert own is not None  # there is a train split
    parts = [own] if teacher.unlabelled is None else [own, text_fingerprints(teacher.unlabelled)]
    contents, first, of_rows = np.unique(np.concatenate(parts), axis=0, return_index=True, return_inverse=True)
    return contents, first, of_rows.reshape(-1)


def _stored(teacher: KnownTeacher, contents: np.ndarray) -> np.ndarray:
    """(M, K) of a folder of answers, in the order of its classes."""
    path = teacher.path / ANSWERS
    table = read_parquet(path, _WHAT)
    if table.column_names != ["content", "logits"]:
        raise RunError(f"{path}: {_WHAT}: its columns are {listed(table.column_names)}")
    place = {key: row for row, key in enumerate(table["content"].to_pylist())}
    logits = list_matrix(table["logits"], f"{path}: column logits").astype(np.float32)
    wanted = [content.tobytes().hex() for content in contents]
    absent = sum(key not in place for key in wanted)
    if absent or logits.shape[1] != len(teacher.record["label_names"]):
        what = f"{path} has no answer to {absent:,} of the {len(wanted):,} different training rows of this recipe"
        raise _refused(teacher.recipe, what, "name the run of the teacher itself, which is then asked")
    return np.asarray(logits[[place[key] for key in wanted]])


def _asked(teacher: KnownTeacher, rows: Dataset, accelerator: Accelerator, say: Callable[[str], object]) -> np.ndarray:
    """(M, K) logits in the order of the teacher's own classes, in float32 whatever number format the student has."""
    run = RunDirectory(teacher.path)
    classifier, recipe = load_classifier(run.model), run.load_recipe()
    samples = content_of(recipe.data).samples(rows, classifier.preprocessor, seed=0, train=False)
    key = store.key_of(
        {
            "layout": _LAYOUT,
            "model": _weights(run),
            "samples": samples.fingerprint,
            "device": accelerator.device.type,
            "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        }
    )
    found = store.find(key) if teacher.recipe.run.cache_gb else None
    if not all(gather_object([found is not None])):  # each process asks, whatever it has found itself
        found = None
    if found is not None:
        return np.stack([found[row] for row in range(len(found))])
    say(f"the teacher {teacher.record['run']} answers {count(len(samples), 'training row')}, once")
    model = classifier.model.to(accelerator.device).eval()
    batches = evaluation_batches(
        samples,
        batch_size=evaluation_batch_size(recipe),
        tokens_per_batch=tokens_per_batch(recipe, accelerator.device),
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
        workers=loader_workers(
            teacher.recipe.run.workers,
            device=accelerator.device,
            pictures=samples.size_unit == "pixels",
            processes_here=int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes)),
        ),
    )
    logits = predict_logits(model, batches, accelerator, size=len(samples), after_batch=_stop_if_asked)
    if teacher.recipe.run.cache_gb and accelerator.is_main_process:
        _keep_in_cache(key, logits, budget=teacher.recipe.run.cache_gb * 1e9, say=say)
    accelerator.wait_for_everyone()
    return logits


def _stop_if_asked() -> None:
    """Training has not begun, so there is nothing to save."""
    if (number := noted()) is not None:
        raise Stopped(number)


def _keep_in_cache(key: str, logits: np.ndarray, *, budget: float, say: Callable[[str], object]) -> None:
    """For other runs and for the trials of a study."""
    try:
        builder = store.Builder(
            key, lengths=len(logits), row_shape=logits.shape[1:], dtype=np.float32, batch_plan="whole", budget=budget
        )
        for row, values in enumerate(logits):
            builder.write(row, values)
        builder.mark(1)
        builder.finish()
    except (store.NoRoom, store.Removed) as reason:
        say(f"the teacher's answers are not kept for other runs: {reason}")


# --- beside the run -----------------------------------------------------------------------------------------------------------


def write_teacher(teacher: KnownTeacher, answers: Answers, run: RunDirectory) -> None:
    """Write the folder RUN/teacher, whole; a continued run has it."""
    folder = run.teacher.parent
    if folder.is_dir():
        return
    for left in run.path.glob(f".teacher.*{PARTIAL}"):  # by a process that was killed
        shutil.rmtree(left)
    beside = folder.with_name(f".teacher.{os.getpid()}{PARTIAL}")
    beside.mkdir(parents=True)
    keys = [content.tobytes().hex() for content in answers.contents]
    offsets = np.arange(0, answers.logits.size + 1, answers.logits.shape[1], dtype=np.int32)
    logits = pa.ListArray.from_arrays(offsets, pa.array(answers.logits.ravel(), pa.float32()))
    with written_whole(beside / ANSWERS) as path:
        pq.write_table(pa.table({"content": pa.array(keys, pa.string()), "logits": logits}), path)
    for split in ("validation", "test"):
        if (predictions := _own_answers(teacher, split)) is not None:
            predictions.save(beside / f"{split}.parquet", teacher.record["label_names"])
    write_json(beside / "teacher.json", {**teacher.record, "splits": {}})
    beside.rename(folder)


def _own_answers(teacher: KnownTeacher, split: str) -> Predictions | None:
    """What the teacher answered to the rows of a split when it was evaluated, with the classes and the ids of the recipe.

    None: it has not, or to other rows, or labels have been changed since. It is not asked again: the test split is opened for one
    model at a time.
    """
    splits = teacher.splits
    dataset = splits.test if split == "test" else splits.validation
    if dataset is None:
        return None
    if teacher.stored:
        path = teacher.path / f"{split}.parquet"  # of the same rows, see `find_teacher`
        same = True
    else:
        run = RunDirectory(teacher.path)
        path, same = run.predictions(split), read_data(run)["contents"].get(split) == splits.facts["contents"][split]
    if not path.is_file() or not same:
        return None
    predictions, names = Predictions.load(path), stored_label_names(path)
    order = np.array([names.index(name) for name in splits.label_names], dtype=np.int64)
    thresholds, labels = predictions.thresholds, predictions.target.reordered(predictions.labels, order)
    if not np.array_equal(labels, targets_of(dataset)):
        return None
    return Predictions(
        list(dataset["id"]),
        labels,
        np.ascontiguousarray(predictions.logits[:, order]),
        kind=predictions.kind,
        thresholds=None if thresholds is None else tuple(thresholds[place] for place in order),
    )


def compare_with_teacher(run: RunDirectory) -> list[str]:
    """Write into teacher.json how the run and its teacher answer the rows that both have answered; a line about the last split."""
    record = read_teacher(run)
    if record is None:
        return []
    splits: dict[str, AgainstTeacher] = {}
    for split in ("validation", "test"):
        theirs, own = run.teacher_predictions(split), run.predictions(split)
        if theirs.is_file() and own.is_file():
            splits[split] = against_teacher(Predictions.load(own), Predictions.load(theirs))
    write_json(run.teacher, {**record, "splits": splits})
    if not splits:
        return [f"  the teacher {record['run']} has answered none of the rows that this run is judged by"]
    split, values = list(splits.items())[-1]
    interval = values["difference_interval"]
    shown = "" if interval is None else f" [{interval[0]:+.4f}, {interval[1]:+.4f}]"
    who = f"{record['run']}, {record['parameters']:,} parameters"
    return [
        f"  teacher on {split} ({who}): accuracy {values['teacher_accuracy']:.4f}; the model differs by"
        f" {values['difference']:+.4f}{shown}, n = {values['n']:,}; both answer alike in"
        f" {100 * values['agreement']:.1f} % of the rows"
    ]
