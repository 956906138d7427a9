"""Word vectors of one's own: texts of a recipe or a source, cut into words as training will cut them, and vectors learned of them.

The file and what tells how it was made appear whole or not at all. Beside FILE lies FILE.json:

    {"learned_vectors": {"method", "dimensions", "window", ..., "texts": [{"name", "texts", "left_out", "sha256"}],
                         "file": {"sha256", "size"}, "versions", "seconds", "time"}}

V words, D dimensions.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from datasets import disable_progress_bars
from pydantic import Field

from hftl import cores
from hftl.data.unlabelled import Texts, read_corpus, read_unlabelled
from hftl.environment import now, package_versions
from hftl.errors import DataError, Problem, RecipeError, RunError
from hftl.files import check_name, fingerprint, read_json, write_json, written_whole
from hftl.models import gensim_vectors, glove, glove_vectors
from hftl.models.vectors import write_vectors
from hftl.recipe import Recipe, TextCNN, TextData, WordVectors, local_name
from hftl.recipe.section import Positive, Section
from hftl.records.vectors import LEARNED
from hftl.terminal import Say
from hftl.training.experiment import read_data
from hftl.wording import count, duration, listed, size

ENDINGS = (".txt", ".txt.gz")
BINARY = ".bin"
"""fastText's own format, which keeps the n-grams."""
NAMES = {"glove": "GloVe", "skip-gram": "skip-gram (word2vec)", "cbow": "CBOW (word2vec)", "fasttext": "fastText"}
EPOCHS = {"glove": 25, "skip-gram": 5, "cbow": 5, "fasttext": 5}


class VectorSettings(Section):
    """How word vectors are learned."""

    method: Literal["glove", "skip-gram", "cbow", "fasttext"] = "glove"
    dimensions: Annotated[int, Field(ge=1, le=4096)] = 100
    """Numbers of a vector."""
    window: Annotated[int, Field(ge=1, le=1000)] = 10
    """Words on either side that are near a word."""
    epochs: Positive | None = None
    """Passes over the co-occurrences (glove) or over the texts. None: 25, and 5."""
    min_count: Positive = 5
    """Words seen less often in the texts get no vector."""
    max_words: Positive = 60_000
    """Words that get a vector: the most frequent."""
    segmentation: Literal["auto", "words", "characters"] | None = None
    """How texts in scripts without spaces are cut. None: as the recipe's `model.segmentation` says, else "auto"."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threads: Positive | None = None
    """Threads that compute. None: one a core. GloVe gives the same vectors with any number, the others with one alone."""

    @classmethod
    def _title(cls, values: Any) -> str:
        return "the settings of the vectors"


@dataclass(frozen=True)
class LearnedVectors:
    """Vectors that were learned, and the file that they are in."""

    path: Path
    words: list[str]
    """Most frequent first."""
    vectors: npt.NDArray[np.float32]
    """(V, D)"""
    facts: dict[str, Any]
    """What FILE.json says of them."""

    def nearest(self, word: str, number: int = 5) -> list[str]:
        """The words with the largest cosines to one of them, largest first.

        Raises:
            KeyError: it has no vector.
        """
        if word not in self.words:
            raise KeyError(word)
        row = self.words.index(word)
        found = glove_vectors.nearest(self.vectors, self.vectors[[row]], number + 1)[0]
        return [self.words[other] for other in found if other != row][:number]

    def look(self) -> Iterator[str]:
        """Lines about the vectors: the nearest words of frequent ones, and the analogies whose words all have a vector."""
        shown = [word for word in self.words if len(word) > 3 or not word.isascii()]
        yield "nearest words:"
        # Of the very frequent ones every text is full, and their neighbours say little.
        for word in [word for word in shown[50:] or shown if word.isalpha()][::20][:8]:
            yield f"  {word}: {', '.join(self.nearest(word))}"
        row_of = {word: row for row, word in enumerate(self.words)}
        asked = [analogy for analogy in glove_vectors.ANALOGIES if all(word in row_of for word in analogy)]
        answers = [self.words[glove_vectors.solve(self.vectors, *(row_of[word] for word in words[:3]))] for words in asked]
        right = sum(words[3] == answer for words, answer in zip(asked, answers, strict=True))
        if asked:
            yield f"analogies: {right} of {len(asked)} answered"
        for (a, b, c, d), answer in zip(asked, answers, strict=True):
            yield f"  {a} is to {b} as {c} is to {answer}" + ("" if answer == d else f" (asked for: {d})")


def learn_vectors(source: Recipe | TextData, output: Path, settings: VectorSettings, say: Say) -> LearnedVectors:
    """Learn word vectors from a recipe's training and unlabelled texts, or from a source by itself, and write them.

    Args:
        source: of a recipe the texts of train and `data.unlabelled`; of a section of data all splits that are not called validation
            or test. What is also in validation or test is left out.
        output: a .txt file, .txt.gz, or of fastText .bin; FILE.json is written beside it.
        settings: how.
        say: is told how it goes and what it costs.

    Raises:
        RunError: the output exists, or gensim is asked for and not installed.
        RecipeError: the recipe is not of texts; the output has another ending; no word is frequent enough.
        DataError: the source cannot be read, or has no text to learn from.
    """
    began = time.perf_counter()
    beside = _check_output(output, settings)
    if settings.method != "glove":
        gensim_vectors.check_installed()
    threads = settings.threads or max(1, int(cores.allowed()))
    found = _texts(source, say)
    for some in found:
        say(some.said)
    model = source.model if isinstance(source, Recipe) else None
    spec = TextCNN(
        vectors=f"random:{settings.dimensions}",
        min_count=settings.min_count,
        max_words=settings.max_words,
        segmentation=settings.segmentation or (model.segmentation if isinstance(model, WordVectors) else "auto"),
    )
    vocabulary = glove.read_vocabulary(spec, _all(found))
    if not vocabulary.words:
        most = max(vocabulary.counts.values(), default=0)
        what = f"no word is {settings.min_count} times in the texts; the most frequent one is there {most} times"
        raise RecipeError.single("min_count", what, "--min-count 1 takes every word", source=_name(source))
    running, share = sum(vocabulary.counts.values()), sum(vocabulary.counts[word] for word in vocabulary.words)
    say(f"{running:,} words; {len(vocabulary.words):,} different ones get a vector, {share / running:.1%} of all")
    numbered = glove.number_words(vocabulary, _all(found))
    if settings.method == "glove":
        write, vectors, losses = _glove(numbered, vocabulary.words, settings, output, threads, source, say)
    else:
        write, vectors, losses = _gensim(list(numbered), vocabulary.words, settings, output, threads, say)
    facts = {
        **settings.model_dump(),
        "epochs": _epochs(settings),
        "segmentation": spec.segmentation,
        "threads": threads,
        "same_again": settings.method == "glove" or threads == 1,
        "source": local_name(_data(source).source),
        "texts": [
            {"name": local_name(some.name), "texts": len(some.dataset), "left_out": dict(some.left_out), "sha256": some.sha256}
            for some in found
        ],
        "words": len(vocabulary.words),
        "running_words": running,
        **({"losses": losses} if losses else {}),
    }
    with written_whole(output) as partial:
        write(partial)
        versions = {name: version for name, version in package_versions().items() if version is not None}
        if settings.method != "glove":
            versions["gensim"] = gensim_vectors.version()
        facts |= {"file": fingerprint(partial), "versions": versions, "seconds": time.perf_counter() - began, "time": now()}
        write_json(beside, {LEARNED: facts})
    learned = LearnedVectors(output, vocabulary.words, vectors, facts)
    for line in learned.look():
        say(line)
    say(f"{count(len(learned.words), 'word')} in {output} ({size(output.stat().st_size)}), in {duration(facts['seconds'])}")
    return learned


Written = tuple[Callable[[Path], None], npt.NDArray[np.float32], list[float]]
"""How the file is written; the vectors; of GloVe the loss of each epoch."""


def _glove(
    texts: Iterable[npt.NDArray[np.int32]],
    words: list[str],
    settings: VectorSettings,
    output: Path,
    threads: int,
    source: Recipe | TextData,
    say: Say,
) -> Written:
    began = time.perf_counter()
    x = glove_vectors.count_pairs(texts, len(words), settings.window, threads=threads)
    if not x.nnz:
        what = "no two of the words stand near each other: each text has one of them"
        raise DataError(_name(source), [Problem("data.source", what, ("word vectors are learned from running text",))])
    say(f"{x.nnz:,} pairs of words stand near each other; counted in {duration(time.perf_counter() - began)}")
    vectors, losses = glove_vectors.learn(x, settings.dimensions, _epochs(settings), seed=settings.seed, threads=threads, say=say)
    return _text_writer(words, vectors, output), vectors, losses


def _gensim(
    texts: Sequence[npt.NDArray[np.int32]], words: list[str], settings: VectorSettings, output: Path, threads: int, say: Say
) -> Written:
    if threads > 1:
        say(f"{threads} threads, whose order is left to chance: the same seed gives other vectors (--threads 1: the same)")
    model = gensim_vectors.learn(
        settings.method,
        texts,
        words,
        settings.dimensions,
        window=settings.window,
        epochs=_epochs(settings),
        seed=settings.seed,
        threads=threads,
        say=say,
    )
    vectors = gensim_vectors.vectors_of(model, words)
    if output.suffix == BINARY:
        return lambda path: gensim_vectors.write_binary(model, path), vectors, []
    return _text_writer(words, vectors, output), vectors, []


def _text_writer(words: list[str], vectors: npt.NDArray[np.float32], output: Path) -> Callable[[Path], None]:
    return lambda path: write_vectors(path, words, vectors, packed=output.suffix == ".gz")


def _check_output(output: Path, settings: VectorSettings) -> Path:
    """Where FILE.json goes; a place that cannot be written is refused before anything is read."""
    check_name(output)
    allowed = (*ENDINGS, BINARY) if settings.method == "fasttext" else ENDINGS
    if not output.name.endswith(allowed):
        help = f"{BINARY} keeps the n-grams, and goes with --method fasttext" if output.suffix == BINARY else "such as vectors.txt"
        raise RecipeError.single("output", f"{output.name} does not end with {listed(allowed)}", help, source=str(output))
    beside = output.with_name(f"{output.name}.json")
    # FILE.json alone is what a kill between the two has left, unless somebody else wrote it.
    taken = (
        [output] if os.path.lexists(output) else [beside] if os.path.lexists(beside) and LEARNED not in read_json(beside) else []
    )
    if taken:
        raise RunError(f"{taken[0]}: is there already, and is not written over. Name another output, or remove it")
    return beside


def _texts(source: Recipe | TextData, say: Say) -> list[Texts]:
    if isinstance(source, TextData):
        disable_progress_bars()
        found = read_corpus(source, say)
        say("splits called validation or test are left out; to leave out rows that a recipe sets aside, name the recipe")
        return found
    if not isinstance(source.data, TextData):
        raise RecipeError.single("data.kind", "pictures have no words", "name a recipe of texts", source=source.name)
    undivided = read_data(source)
    return read_unlabelled(source.data, undivided, undivided.divided(source.data, seed=source.run.seed), say)


def _data(source: Recipe | TextData) -> TextData:
    data = source.data if isinstance(source, Recipe) else source
    assert isinstance(data, TextData)
    return data


def _name(source: Recipe | TextData) -> str:
    return source.name if isinstance(source, Recipe) else source.source


def _all(found: Sequence[Texts]) -> Iterator[str]:
    return itertools.chain.from_iterable(some.texts for some in found)


def _epochs(settings: VectorSettings) -> int:
    return settings.epochs or EPOCHS[settings.method]
