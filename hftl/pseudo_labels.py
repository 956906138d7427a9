"""`hftl pseudo-label`: further rows for training, labelled by a finished run (Lee 2013; Xie et al. 2020, arXiv:1911.04252), and
labelled rows of another data set, weighted by how much they look like one's own (Jiang & Zhai 2007).

What is written is a folder that `data.extra` takes: train.parquet, and provenance.json, which the card names. A row that the run
has in train, validation or test is left out, and so is one that repeats another.

N rows, K classes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from datasets import Dataset
from scipy.special import expit

from hftl.data.decoding import read
from hftl.data.duplicates import picture_fingerprints, text_fingerprints
from hftl.data.extra import read_section
from hftl.data.inputs import Asked, Inputs, Say, as_unlabelled
from hftl.data.layout import PROVENANCE, find_name
from hftl.data.source import Splits
from hftl.data.unlabelled import read_unlabelled
from hftl.errors import RunError, beside
from hftl.evaluation.baselines import NoBaseline, Rows, cheap_text_baseline, color_baseline
from hftl.evaluation.calibration import Believed, believed, confidences_of
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.inference import Predictor
from hftl.names import ONE_LABEL
from hftl.recipe import Extra, ImageData, Recipe, TextData, local_name
from hftl.run import RunDirectory
from hftl.training.baseline import draw
from hftl.training.experiment import read_data
from hftl.training.origin import pinned
from hftl.training.rows_again import check_same_data
from hftl.training.together import main_first
from hftl.wording import count, listed, percent

CONFIDENCE, WEIGHT = "confidence", "weight"
PSEUDO_LABELLED = "pseudo-labelled"
"""What `data.extra` calls the rows that a round has labelled."""
_AT_ONCE = 1_000
MOST_ROWS = 20_000
"""Of one's own rows, by which a domain classifier learns what they look like."""


@dataclass(frozen=True)
class PseudoLabels:
    """What a run has labelled."""

    folder: Path
    """That `data.extra` takes."""
    count: int
    of: int
    """Rows that could be labelled."""
    per_class: Mapping[str, int]
    left_out: Mapping[str, int]
    """Rows that were not looked at, by the reason."""
    believed: Believed
    accepted: float | None
    """The share of wrong labels that was asked for; None: a confidence was."""

    def lines(self) -> Iterator[str]:
        """For people."""
        out = ", ".join(f"{number:,} {why}" for why, number in self.left_out.items() if number)
        yield f"{self.count:,} of {count(self.of, 'row')} labelled{f'; left out: {out}' if out else ''}"
        yield f"confidence {self.believed.confidence:.3f} or more, at a temperature of {self.believed.temperature:.2f}"
        low, high = self.believed.interval
        of = f"{self.believed.wrong:,} of {self.believed.rows:,} validation rows that are as sure (of {self.believed.of:,})"
        yield f"expected noise: {percent(self.believed.noise)} [{percent(low)}, {percent(high)}], {of}"
        if self.accepted is not None and self.believed.noise > self.accepted:
            more = f"That is more than --noise {self.accepted:g}"
            yield f"{more}: look at some of them before a run learns from them, or give a higher --confidence"
        if len([number for number in self.per_class.values() if number]) == 1:
            yield "All of them have one class: what is trained on them learns to answer it more often"
        yield "labels: " + listed(f"{name} {number:,}" for name, number in self.per_class.items())


def label_rows(
    run: RunDirectory, unlabelled: str, output: Path, *, model: str, noise: float, confidence: float | None, say: Say
) -> PseudoLabels:
    """Label rows by a finished run, and write those of which it is sure enough.

    Args:
        run: of one label an example.
        unlabelled: another split of its source by its name (of texts), a table, or a file or folder of texts or pictures.
        output: a folder that is not there yet.
        model: what the run is called in provenance.json.
        noise: the share of wrong labels that is accepted: the confidence is the lowest at which validation has no more of them.
        confidence: that confidence itself; None: it is chosen.
        say: is told how far it has come.

    Raises:
        RunError: the run is not finished or of several labels, no row reaches the confidence, no confidence the noise, or the
            output is there.
        DataError: rows that cannot be read; there are none, or all are in the run's splits.
    """
    _check_output(output)
    run.check_finished("there is no model to label with")
    validation = Predictions.load(run.predictions("validation"))
    if validation.kind != ONE_LABEL:
        what = "labels rows with one class each, and this run has several labels an example, each with a threshold of its own"
        raise RunError(f"{run.path}: hftl pseudo-label {what}; hftl predict --output writes their probabilities")
    sure = believed(validation.logits.astype(np.float64), validation.labels, noise=noise, confidence=confidence)
    if sure is None:
        what = f"at no confidence are {percent(noise)} of the validation rows wrong or fewer"
        raise RunError(
            f"{run.path}: {what}. Accept more (--noise {min(2 * noise, 0.5):g}), or give the confidence (--confidence 0.99)"
        )
    names, recipe = stored_label_names(run.predictions("validation")), pinned(run.load_recipe(), run)
    if isinstance(recipe.data, TextData) and (recipe.data.joins or recipe.data.pair):
        raise RunError(f"{run.path}: reads texts of several columns, and those that are labelled would be one; give it one column")
    with main_first():
        undivided = read_data(recipe)
        splits = undivided.divided(recipe.data, seed=recipe.run.seed)
        check_same_data(splits, run)
        predictor = Predictor(run.path)
        if isinstance(recipe.data, TextData):
            path = Path(unlabelled).expanduser()
            if find_name(unlabelled, list(undivided.source.splits)) is None and not path.exists():
                what = f"no such file or folder, and no split of that name in the data of {run.path}"
                raise RunError(f"{unlabelled}: {what}{beside(path)}")
            of_texts = recipe.data.model_copy(update={"unlabelled": unlabelled})
            texts = read_unlabelled(of_texts, undivided, splits, say)[1]
            asked, left_out = _fresh(_asked(texts.dataset), _known(splits), _of_texts, texts.left_out)
        else:
            asked = predictor.ask([Path(unlabelled).expanduser()], say=say)
            asked, left_out = _fresh(asked, _known(splits), _of_pictures, {})
    if not asked.count:
        out = ", ".join(f"{number:,} {why}" for why, number in left_out.items() if number)
        raise RunError(f"{unlabelled}: no row is left to label; {out or 'there is none'}")

    label_column, content = recipe.data.label_columns[0], _content_column(recipe.data)
    per_class = Counter[str]()
    blocks: list[pa.Table] = []
    for block, answers in zip(asked.blocks(), predictor.answer(asked, say=say), strict=True):
        # The log of a probability differs from the logit by the same for each class.
        logs = np.log(np.array([[answer.probabilities[name] for name in names] for answer in answers]).clip(min=1e-300))
        confidences = confidences_of(logs, sure.temperature)
        rows = np.flatnonzero(confidences >= sure.confidence)
        labels = [names[place] for place in logs[rows].argmax(axis=1).tolist()]
        per_class.update(labels)
        contents = _stored(block.dataset.select(rows), recipe.data)
        columns = {content: contents, label_column: pa.array(labels, pa.string())}
        blocks.append(pa.table({**columns, CONFIDENCE: pa.array(confidences[rows].astype(np.float32))}))
    labelled = sum(per_class.values())
    if not labelled:
        raise RunError(f"{unlabelled}: none of {count(asked.count, 'row')} reaches a confidence of {sure.confidence:.3f}")
    low, high = sure.interval
    said = {
        "by": "hftl pseudo-label",
        "model": model,
        "rows": f"{labelled} of {asked.count} of {local_name(unlabelled)}",
        "confidence": round(sure.confidence, 4),
        "temperature": round(sure.temperature, 4),
        "expected_noise": round(sure.noise, 4),
        "noise_interval": f"{low:.4f} to {high:.4f}",
    }
    _write(output, blocks, said)
    in_order = {name: per_class[name] for name in names}
    return PseudoLabels(output, labelled, asked.count, in_order, left_out, sure, noise if confidence is None else None)


def _check_output(output: Path) -> None:
    if output.exists() or output.is_symlink():
        raise RunError(f"{output}: is there already; name another folder with --output")


def _write(output: Path, blocks: Sequence[pa.Table], said: Mapping[str, Any]) -> None:
    """The folder, whole or not at all, by the main process."""
    state = PartialState()
    if state.is_main_process:
        _write_whole(output, blocks, said)
    state.wait_for_everyone()


def _write_whole(output: Path, blocks: Sequence[pa.Table], said: Mapping[str, Any]) -> None:
    beside = output.with_name(f".{output.name}.{uuid4().hex}.partial")
    beside.mkdir(parents=True)
    try:
        pq.write_table(pa.concat_tables(blocks), beside / "train.parquet")
        (beside / PROVENANCE).write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.rename(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _content_column(data: TextData | ImageData) -> str:
    return data.text_columns[0] if isinstance(data, TextData) else data.image_column


def _stored(dataset: Dataset, data: TextData | ImageData) -> pa.Array:
    """Contents as a table holds them: texts, or the bytes of pictures."""
    if isinstance(data, TextData):
        return pa.array(list(dataset["text"]), pa.string())
    stored = [{"bytes": _bytes(row["image"]), "path": None} for row in dataset]
    return pa.array(stored, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _bytes(stored: Mapping[str, Any]) -> bytes:
    return bytes(stored["bytes"]) if stored["bytes"] is not None else read(stored["path"])


# --- what is not known yet ------------------------------------------------------------------------------------------------------


def _asked(texts: Dataset) -> Asked:
    def blocks() -> Iterator[Inputs]:
        for start in range(0, len(texts), _AT_ONCE):
            some = texts.select(range(start, min(start + _AT_ONCE, len(texts))))
            ids = [str(place) for place in range(start, start + len(some))]
            yield Inputs(list(some["text"]), as_unlabelled(ids, some), [None] * len(some))

    return Asked(len(texts), blocks)


def _known(splits: Splits) -> dict[bytes, str]:
    """The contents of a run's splits -> which split has them; those that an earlier round has labelled may be labelled again."""
    known: dict[bytes, str] = {}
    datasets = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    for role, dataset in datasets.items():
        if dataset is not None:
            scans = splits.image_scans.get(role)  # type: ignore[call-overload]
            fingerprints = text_fingerprints(dataset) if scans is None else picture_fingerprints(scans)
            given = [not place.startswith(f"{PSEUDO_LABELLED}/") for place in dataset["id"]]
            known.update(dict.fromkeys((row.tobytes() for row in fingerprints[given]), role))
    return known


def _of_texts(dataset: Dataset) -> list[bytes]:
    return [row.tobytes() for row in text_fingerprints(dataset)]


def _of_pictures(dataset: Dataset) -> list[bytes]:
    return [hashlib.sha256(_bytes(row["image"])).digest()[:16] for row in dataset]


def _fresh(
    asked: Asked, known: Mapping[bytes, str], fingerprints: Callable[[Dataset], list[bytes]], left_out: Mapping[str, int]
) -> tuple[Asked, dict[str, int]]:
    """The rows that are in no split of a run, each content once; and how many others there are, by the reason."""
    counts = Counter[str](left_out)
    seen: set[bytes] = set()
    kept: list[np.ndarray] = []
    for block in asked.blocks():
        rows = []
        for row, digest in enumerate(fingerprints(block.dataset)):
            if digest in known:
                counts["in train" if known[digest] == "train" else "in validation or test"] += 1
            elif digest in seen:
                counts["repeated"] += 1
            else:
                seen.add(digest)
                rows.append(row)
        kept.append(np.array(rows, dtype=np.int64))

    def blocks() -> Iterator[Inputs]:
        for block, rows in zip(asked.blocks(), kept, strict=True):
            if len(rows):
                places = rows.tolist()
                yield Inputs([block.names[row] for row in places], block.dataset.select(rows), [block.rows[row] for row in places])

    return Asked(sum(map(len, kept)), blocks), dict(counts)


# --- borrowed rows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Borrowed:
    """Labelled rows of another data set, weighted."""

    folder: Path
    count: int
    left_out: int
    """Rows that the recipe's own splits have too."""
    auc: float
    """How well a row of theirs is told from one's own: 0.5 not at all, 1 always."""
    effective: float
    """As many rows of one weight would say as much: the square of the sum of the weights over the sum of their squares."""

    def lines(self) -> Iterator[str]:
        """For people."""
        out = f"; {self.left_out:,} in train, validation or test left out" if self.left_out else ""
        yield f"{count(self.count, 'row')} borrowed{out}; by their weights they count as {self.effective:,.0f}"
        yield f"told from one's own rows with an AUC of {self.auc:.3f}: 0.5 would be the same domain, 1 another one"


def importance(logits: np.ndarray, *, ratio: float, clip: float) -> np.ndarray:
    """(N,) p(own | x) / p(theirs | x) times `ratio`, their rows over one's own, from 1 / clip to clip, then with a mean of 1.

    Of logits 0 and ln 3, a ratio of 1 and a clip of 2: 1 and 2, over their mean of 1.5: 0.667 and 1.333.
    """
    weights = np.exp(np.clip(logits + np.log(ratio), -np.log(clip), np.log(clip)))
    return np.asarray(weights / weights.mean())


def borrow_rows(recipe: Recipe, source: str, output: Path, *, clip: float, split: str | None, say: Say) -> Borrowed:
    """Write the labelled rows of another source with a weight each: how much more likely it is among one's own training rows.

    A domain classifier tells both apart, by TF-IDF of words or by colours, fitted on one half of the rows and asked about the
    other, both ways. The weight of a row is p(own | x) / p(theirs | x), clipped.

    Raises:
        RunError: the output is there, or the rows allow no domain classifier.
        DataError: the rows cannot be read, or have a class that the recipe's do not.
    """
    _check_output(output)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"extra": ()})})
    splits = read_data(recipe).divided(recipe.data, seed=recipe.run.seed)
    theirs = read_section(Extra(source=source, name="borrowed", split=split), recipe.data, splits.label_names, kind=_kind(splits))
    known = _known(splits)
    of_pictures = isinstance(recipe.data, ImageData)
    digests = (_of_pictures if of_pictures else _of_texts)(theirs.dataset)
    rows = np.flatnonzero([digest not in known for digest in digests])
    if not len(rows):
        raise RunError(f"{source}: every row is in train, validation or test already")
    dataset = theirs.dataset.select(rows)
    own = draw(recipe.data, splits.train, most=MOST_ROWS, seed=recipe.run.seed).rows.contents
    other = draw(recipe.data, dataset, most=len(dataset), seed=recipe.run.seed).rows.contents
    logits, auc = _domain_logits(own, other, of_pictures=of_pictures)
    weights = importance(logits, ratio=len(other) / len(own), clip=clip)
    labels = [splits.label_names[place] for place in theirs.targets[rows].tolist()]
    columns = {_content_column(recipe.data): _stored(dataset, recipe.data), recipe.data.label_columns[0]: pa.array(labels)}
    said = {"by": "hftl.borrow", "from": local_name(source), "rows": len(rows), "clip": clip, "auc": round(auc, 4)}
    _write(output, [pa.table({**columns, WEIGHT: pa.array(weights.astype(np.float32))})], said)
    borrowed = Borrowed(output, len(rows), len(digests) - len(rows), auc, float(weights.sum() ** 2 / (weights**2).sum()))
    for line in borrowed.lines():
        say(line)
    return borrowed


def _kind(splits: Splits) -> str:
    from hftl.data.targets import kind_of, targets_of

    kind = kind_of(targets_of(splits.train))
    if kind != ONE_LABEL:
        raise RunError("hftl.borrow: takes rows with one class each; these examples have several labels")
    return kind


def _domain_logits(own: Any, other: Any, *, of_pictures: bool) -> tuple[np.ndarray, float]:
    """(N,) of the others: log p(own | x) / p(theirs | x), each by a classifier that has not seen it; and the AUC of both."""
    from sklearn.metrics import roc_auc_score

    contents = np.concatenate([own, other]) if of_pictures else np.array([*own, *other], dtype=object)
    is_own = (np.arange(len(contents)) < len(own)).astype(np.int64)
    halves = np.array_split(np.random.default_rng(0).permutation(len(contents)), 2)
    fit = color_baseline if of_pictures else cheap_text_baseline
    logits = np.zeros(len(contents))
    for learned, asked in (halves, halves[::-1]):
        truth = is_own[asked]

        def likelihood(answers: np.ndarray, truth: np.ndarray = truth) -> float:
            margin = answers[:, 1] - answers[:, 0]
            return float(np.log(expit(np.where(truth == 1, margin, -margin)).clip(min=1e-12)).mean())

        of_half = [Rows(contents[half] if of_pictures else list(contents[half]), is_own[half]) for half in (learned, asked)]
        try:
            answers = fit(of_half[0], of_half[1], classes=2, choose=likelihood).logits
        except NoBaseline as error:
            raise RunError(f"one's own rows and theirs cannot be told apart: {error}") from None
        logits[asked] = answers[:, 1] - answers[:, 0]
    return logits[len(own) :], float(roc_auc_score(is_own, logits))
