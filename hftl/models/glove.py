"""The GloVe families: word vectors from a file, a vocabulary from the training texts, a word-level tokenizer, and the two models.

Words that the vectors lack. A vocabulary word without a vector starts as a random point of the vectors' own cloud, so that it
has an identity even while the table is frozen (Kim 2014, arXiv:1408.5882, does the same). With `trainable_dim` every word also
has a row in a second, trained table: there such a word learns its meaning from the labels. Words outside the vocabulary share
<unk>, the mean vector.

Shapes: V words of the vocabulary, <pad> and <unk> included; D dimensions of a vector.
References: Pennington et al. 2014, GloVe; https://nlp.stanford.edu/projects/glove/ (the files and the tokens in them).
"""

from __future__ import annotations

import gzip
import io
import itertools
import os
import re
import struct
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import hf_hub_download
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFC, Lowercase, Normalizer, Replace
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import PreTokenizer, Split
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hftl.errors import Problem, RecipeError, did_you_mean
from hftl.models import glove_modeling, transformer
from hftl.models.chain import HEAD, Chain, LayerGroup
from hftl.models.checkpoint import CONFIG, Checkpoint, Written, beyond_memory, quiet_loading, run_error
from hftl.models.family import Classifier, Family
from hftl.names import WORD_MODELS
from hftl.recipe import Recipe, WordVectors

PAD, UNKNOWN = "<pad>", "<unk>"
WHERE = "model.vectors"

_MODELS: dict[str, Any] = {}
"""`model_type` -> the class of the model."""

for model_type, (config_name, model_name) in WORD_MODELS.items():
    config_class, model_class = getattr(glove_modeling, config_name), getattr(glove_modeling, model_name)
    _MODELS[model_type] = model_class
    AutoConfig.register(model_type, config_class, exist_ok=True)
    AutoModelForSequenceClassification.register(config_class, model_class, exist_ok=True)
    # `save_pretrained` then writes `auto_map` and a copy of glove_modeling.py, for those who load the model without hftl.
    config_class.register_for_auto_class("AutoConfig")
    model_class.register_for_auto_class("AutoModelForSequenceClassification")


# --- the family ---------------------------------------------------------------------------------------------------------------


def build(spec: WordVectors, label_names: Sequence[str], *, texts: Iterable[str]) -> Classifier:
    """A classifier over the vectors that `spec` names, with the vocabulary of the training texts.

    What is random is drawn from torch's generator: seed it before.

    Raises:
        RecipeError: the vectors cannot be read, or hold none of the texts' words.
    """
    counts = count_words(texts)
    words, vectors = read_vectors(spec.vectors, {UNKNOWN, *counts})
    row_of = {word: row for row, word in enumerate(words)}
    vocabulary = choose_vocabulary(counts, row_of, max_words=spec.max_words, min_count=spec.min_count)
    if not any(word in row_of for word in vocabulary):
        what = f"{spec.vectors} holds none of the {len(counts):,} words of the training texts"
        raise RecipeError(spec.vectors, [Problem(WHERE, what, ("vectors of the texts' language are needed, in lower case",))])
    shared: dict[str, Any] = {
        "vocab_size": len(vocabulary) + 2,
        "vector_dim": vectors.shape[1],
        "trainable_dim": spec.trainable_dim,
        "dropout": spec.dropout,
        "word_dropout": spec.word_dropout,
        "vectors": file_name(spec.vectors),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    with torch.device("meta"):  # where a number costs no memory
        if (too_large := beyond_memory(_make(spec, shared).num_parameters())) is not None:
            raise RecipeError.single("model", f"has {too_large[0]}", too_large[1], source=spec.vectors)
    model = _make(spec, shared)
    with torch.no_grad():
        model.embedding.weight.copy_(embedding_rows(vocabulary, row_of, vectors))
    facts = {**_facts(model), "vocabulary": _vocabulary_facts(vocabulary, row_of, counts)}
    model.eval()
    return Classifier(model=model, preprocessor=make_tokenizer(vocabulary), chain=chain(model), facts=facts)


def _make(spec: WordVectors, shared: dict[str, Any]) -> Any:
    """A model with random weights; what the section has beside the fields of all is its configuration's, by the same names."""
    model_class = _MODELS[spec.model_type]
    own = {name: value for name, value in spec if name not in WordVectors.model_fields and name != "family"}
    return model_class(model_class.config_class(**own, **shared))


def save(classifier: Classifier, folder: Path) -> None:
    """Write weights, configuration and tokenizer as `from_pretrained` wants them, and the modelling file for those without hftl."""
    with quiet_loading(), Written():
        classifier.model.save_pretrained(folder)
        classifier.preprocessor.save_pretrained(folder)


def load(folder: Path) -> Classifier:
    """Read what `save` wrote, with the classes of this package; the facts about the training texts stay in the run's data.json.

    Raises:
        RunError: there is no complete model in the folder, or the tokenizer does not belong to it.
    """
    checkpoint = Checkpoint(str(folder))
    try:
        with quiet_loading():
            model, tokenizer = transformer.load_saved(checkpoint)
        if len(tokenizer) != model.config.vocab_size:
            what = f"has a tokenizer of {len(tokenizer):,} words and a model of {model.config.vocab_size:,}"
            raise checkpoint.refused(what, None, "Put the tokenizer that was saved with the model beside it.")
        if not isinstance(model.config.vectors, str | None):
            raise checkpoint.refused(f'has "vectors": {model.config.vectors!r} in {CONFIG}; the name of a file was expected')
    except RecipeError as error:
        raise run_error(folder, error) from None
    return Classifier(model=model, preprocessor=tokenizer, chain=chain(model), facts=_facts(model))


def chain(model: PreTrainedModel) -> Chain:
    """The layer groups; `trainable_embedding` is there where the model has the second table."""
    tables = ["embedding"] + ["trainable_embedding"] * (model.config.trainable_dim > 0)
    body = list[str](model.body_layers())  # type: ignore[operator]
    return Chain(model, [LayerGroup(name, (name,)) for name in [*tables, *body, HEAD]])


def _facts(model: PreTrainedModel) -> dict[str, Any]:
    return {
        "architecture": type(model).__name__,
        "base_model": model.config.vectors,
        "revision": None,
        "parameters": model.num_parameters(),
        "vector_dim": model.config.vector_dim,
    }


def _vocabulary_facts(vocabulary: Sequence[str], vectors: Container[str], counts: Mapping[str, int]) -> dict[str, Any]:
    """How much of the training texts the vectors and the vocabulary cover; shares are of all words, repeats counted."""
    total = sum(counts.values())
    in_vectors = [word for word in vocabulary if word in vectors]
    return {
        "words": len(vocabulary),
        "in_vectors": len(in_vectors),
        "share_in_vectors": sum(counts[word] for word in in_vectors) / total,
        "share_unknown": 1 - sum(counts[word] for word in vocabulary) / total,
        "frequent_without_vector": [word for word in vocabulary if word not in vectors][:10],
    }


def _build(recipe: Recipe, label_names: Sequence[str], texts: Iterable[str]) -> Classifier:
    assert isinstance(recipe.model, WordVectors)
    return build(recipe.model, label_names, texts=texts)


FAMILY = Family((WordVectors,), WORD_MODELS.__contains__, _build, save, load, shortest_text=0)


# --- words --------------------------------------------------------------------------------------------------------------------

# GloVe's files split contractions as the Penn Treebank does ("did n't", "it 's", "ca n't") and keep punctuation as words. Of the
# 6.84 million words of IMDb's training texts, the share that has a vector in the two small files beside the project: 6B, and
# Twitter (whose file holds no punctuation at all; in brackets its share of the words with a letter in them):
#   this pattern                               86.2 %   77.1 % (89.1 %)
#   with "u.s." and "mr." as one word          86.2 %   77.1 % (89.0 %)
#   with "well-made" as one word               85.8 %   77.1 % (88.5 %)
#   tokenizers' BertPreTokenizer               86.0 %   76.9 % (90.6 %)
#   apostrophes dropped ("didnt")              84.8 %   78.0 % (90.1 %)
_WORD = (
    r"[\p{L}\p{M}]+?(?=n't(?![\p{L}\p{N}]))|n't(?![\p{L}\p{N}])|'(?:s|m|d|re|ve|ll)(?![\p{L}\p{N}])"
    r"|[\p{L}\p{M}]+|\p{N}+(?:[.,]\p{N}+)*|\.{3}|--|\S"
)
_LINE_BREAK = r"<[bB][rR] ?/?>"
"""Markup of line breaks; read alike by tokenizers' and Python's regular expressions."""


def _normalizer() -> Normalizer:
    return NormalizerSequence(
        [Replace(Regex(_LINE_BREAK), " "), NFC(), Lowercase(), Replace(Regex("[‘’´`]"), "'"), Replace(Regex("[“”]"), '"')]
    )


def _pre_tokenizer() -> PreTokenizer:
    return Split(Regex(_WORD), behavior="removed", invert=True)


_MOST_RUNS = 500_000


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word is in the texts, in the tokenizer's own words.

    No word crosses a space, so each distinct run between spaces is tokenised once: 25,000 reviews in 4 s, against 15 s text by
    text. Runs are kept until there are 500,000 of them, some 50 MB; the distinct words are kept all.
    """
    runs: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    normalizer, pre_tokenizer = _normalizer(), _pre_tokenizer()

    def flush() -> None:
        for run, times in runs.items():
            for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(run)):
                counts[word] += times
        runs.clear()

    line_break = re.compile(_LINE_BREAK)  # the one thing with a space in it
    for text in texts:
        runs.update(line_break.sub(" ", text).split(" "))
        if len(runs) >= _MOST_RUNS:
            flush()
    flush()
    return counts


def choose_vocabulary(counts: Mapping[str, int], vectors: Container[str], *, max_words: int, min_count: int) -> list[str]:
    """The words worth a row: seen at least `min_count` times, or seen at all and in `vectors`; the most frequent `max_words`.

    Most frequent first, then by code point. With counts {"a": 2, "b": 2, "c": 1, "d": 1}, a vector for "c" and `min_count` 2:
    [a, b, c].
    """
    worth = (word for word, count in counts.items() if count >= min_count or word in vectors)
    return sorted(worth, key=lambda word: (-counts[word], word))[:max_words]


def make_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerBase:
    """A fast tokenizer of whole words: <pad> is 0, <unk> is 1, then the vocabulary in its order.

    A text without a word gives no token; the models read it as one <unk>.
    """
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate([PAD, UNKNOWN, *vocabulary])}, unk_token=UNKNOWN))
    backend.normalizer = _normalizer()
    backend.pre_tokenizer = _pre_tokenizer()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="right",
        truncation_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # a text that says "<pad>" is not padding
    )


def embedding_rows(vocabulary: Sequence[str], row_of: Mapping[str, int], vectors: npt.NDArray[np.float32]) -> torch.Tensor:
    """(V, D) float32: zeros for <pad>, the file's <unk> or the mean of its vectors for <unk>, then a row a word.

    A word without a vector gets a draw from the normal distribution with the vectors' mean and standard deviation in each
    dimension.
    """
    known = torch.from_numpy(vectors)
    mean, deviation = known.mean(dim=0), known.std(dim=0, correction=0)
    rows = mean + deviation * torch.randn(len(vocabulary) + 2, known.shape[1])
    rows[0] = 0.0
    rows[1] = known[row_of[UNKNOWN]] if UNKNOWN in row_of else mean
    with_vector = [(place, row_of[word]) for place, word in enumerate(vocabulary, start=2) if word in row_of]
    places, sources = torch.tensor(with_vector).T
    rows[places] = known[sources]
    return rows


# --- vectors ------------------------------------------------------------------------------------------------------------------

_MOST_PROBLEMS = 10
# What no file of word vectors comes near, and a bomb does. The longest lines have 4,096 numbers of some 20 letters.
_MOST_DIMENSIONS = 4_096
_LONGEST_LINE = 200_000  # bytes
# Numbers as text are 2 to 3 times their compressed size, and deflate can make 1,032 bytes of one.
_MOST_INFLATED, _ALWAYS_READ = 100, 100_000_000
# Of other methods zipfile inflates as much as it was given at once: 1 MB of bz2 may be 20 GB.
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_UNREADABLE = (
    *(OSError, EOFError, zlib.error, zipfile.BadZipFile),
    RuntimeError,  # zipfile's "encrypted" and "compression not supported"
    *(ValueError, IndexError, KeyError, struct.error),  # and what it meets in a damaged directory: names, offsets, extra fields
)


def read_vectors(path: str, words: Container[str] | None = None) -> tuple[list[str], npt.NDArray[np.float32]]:
    """The words of a file of word vectors and their (V, D) float32 vectors, in the file's order.

    Reads GloVe text and word2vec text (with its header line), plain, as .gz, or in a .zip: "x.zip:member.txt", or "x.zip" where
    it has one member. With `words` only those are kept, and only their numbers are parsed and checked; every line's length is.
    A word may hold spaces (". . ." in GloVe 840B): the last D columns are the vector.

    The file may be a stranger's: a line is read up to 200,000 bytes, and an archive up to a hundred times its size.

    Raises:
        RecipeError: no such file or member, unreadable, a line of another dimension, not a number, NaN or infinite, a word twice,
            fewer lines than the header says, no vector at all, more than a file of vectors can be. The first ten problems, with
            their lines.
    """
    reader = _VectorReader(words)
    try:
        with _open(path) as lines:
            reader.read(lines)
    except FileNotFoundError:
        raise _error(path, ["no such file"], "GloVe's files are at https://nlp.stanford.edu/projects/glove/") from None
    except _UNREADABLE as error:
        raise _error(path, [f"cannot be read: {error}"]) from None
    if reader.problems:
        more = ("further problems were not looked for",) if len(reader.problems) == _MOST_PROBLEMS else ()
        raise _error(path, reader.problems, *more)
    return reader.words, np.frombuffer(reader.values, dtype=np.float32).reshape(len(reader.words), reader.dimension)


def file_name(path: str) -> str:
    """ "glove.6B.100d.txt" of "somewhere/glove.6B.100d.txt" and of "glove.6B.zip:glove.6B.100d.txt"."""
    archive, member = _split_archive(path)
    return PurePosixPath(member or Path(archive).name).name


def _error(path: str, problems: Sequence[str], *help: str) -> RecipeError:
    *first, last = problems
    return RecipeError(path, [*(Problem(WHERE, what) for what in first), Problem(WHERE, last, help)])


def _split_archive(path: str) -> tuple[str, str]:
    """("x.zip", "a.txt") of "x.zip:a.txt"; the member is empty where none is named."""
    archive, separator, member = path.partition(".zip:")
    return (f"{archive}.zip", member) if separator else (path, "")


def _fetched(path: str) -> str:
    """A local path: "hub:OWNER/REPOSITORY/FILE" is fetched from a model repository on the Hub, or found in its cache."""
    if not path.startswith("hub:"):
        return path
    archive, member = _split_archive(path.removeprefix("hub:"))
    owner, _, rest = archive.partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise _error(
            path, ["a file on the Hub is written hub:OWNER/REPOSITORY/FILE"], "for example hub:stanfordnlp/glove/glove.6B.zip"
        )
    try:
        fetched = hf_hub_download(f"{owner}/{repository}", file)
    except (OSError, ValueError) as error:  # no connection, no such repository or file; a malformed name
        raise _error(path, [f"cannot be had from the Hub: {' '.join(str(error).split())}"]) from None
    return f"{fetched}:{member}" if member else fetched


@contextmanager
def _open(path: str) -> Iterator[Iterator[bytes]]:
    """The lines of a file of vectors, whatever it is packed in."""
    archive, member = _split_archive(_fetched(path))
    if archive.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            members = [info.filename for info in file.infolist() if not info.is_dir()]
            if not member and len(members) != 1:
                raise _error(
                    path, [f"the archive has {len(members)} members"], *(f"write {archive}:{name}" for name in members[:8])
                )
            if member and member not in members:
                what = f'no member "{member}" in {archive}.{did_you_mean(member, members)}'
                raise _error(path, [what], f"members: {', '.join(members[:8])}")
            info = file.getinfo(member or members[0])
            if info.compress_type not in _METHODS:
                what = f"{info.filename} is compressed by method {info.compress_type}; deflate and none are read"
                raise _error(path, [what], "unpack it, and name the file")
            with file.open(info) as stream:
                yield _inflated(path, io.BufferedReader(stream, 1 << 20), info.compress_size)  # type: ignore[type-var]
    elif archive.endswith(".gz"):
        with gzip.open(archive, "rb") as stream:
            yield _inflated(path, io.BufferedReader(stream, 1 << 20), os.path.getsize(archive))
    else:
        if os.path.exists(archive) and not (os.path.isfile(archive) or os.path.isdir(archive)):
            raise _error(path, ["not a file"])  # a pipe or a device may have no end
        with open(archive, "rb", buffering=1 << 20) as stream:
            yield _lines(path, stream)


def _inflated(path: str, stream: IO[bytes], packed: int) -> Iterator[bytes]:
    """The lines of a compressed file of `packed` bytes, as long as they are no bomb."""
    most, read = max(_ALWAYS_READ, _MOST_INFLATED * packed), 0
    for line in _lines(path, stream):
        read += len(line)
        if read > most:
            what = f"more than {most // packed:,} times as large as its {packed:,} compressed bytes, which no vectors are"
            raise _error(path, [what], "if they are vectors after all: unpack the file, and name what was in it")
        yield line


def _lines(path: str, stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, none of which is held in memory beyond 200,000 bytes."""
    for number in itertools.count(1):
        line = stream.readline(_LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > _LONGEST_LINE:
            raise _error(path, [f"line {number}: longer than {_LONGEST_LINE:,} bytes, so no word and its vector"])
        yield line


class _VectorReader:
    """Words, values and problems of one pass over the lines."""

    def __init__(self, wanted: Container[str] | None) -> None:
        self.wanted = wanted
        self.words: list[str] = []
        self.values = array("f")
        self.problems: list[str] = []
        self._line_of: dict[str, int] = {}
        self.dimension = 0

    def read(self, lines: Iterator[bytes]) -> None:
        """Read lines until the end, or until ten of them are wrong."""
        # The dimension is what most of the first lines say: one bad line, or a word with a space, must not decide for the rest.
        first = list(itertools.islice(lines, 100))
        header = _header(first[0]) if first else None
        spaces = Counter(line.rstrip(b" \r\n").count(b" ") for line in first[header is not None :])
        if not spaces:
            self.problems.append("no vectors in it")
            return
        self.dimension = header[1] if header else spaces.most_common(1)[0][0]
        if self.dimension < 1:
            self.problems.append("line 1: a word and its numbers, separated by spaces, were expected")
            return
        if self.dimension > _MOST_DIMENSIONS:
            self.problems.append(f"line 1: vectors of {self.dimension:,} dimensions; at most {_MOST_DIMENSIONS:,} can be read")
            return
        number = 0
        for number, line in enumerate(itertools.chain(first, lines), start=1):
            if number == 1 and header:
                continue
            self._read_line(number, line.rstrip(b" \r\n"))
            if len(self.problems) == _MOST_PROBLEMS:
                return
        if header and number - 1 != header[0]:
            self.problems.append(f"the header says {header[0]:,} words, the file has {number - 1:,}: is it whole?")

    def _read_line(self, number: int, line: bytes) -> None:
        spaces = line.count(b" ")
        if spaces == self.dimension:
            word_bytes = line[: line.index(b" ")]
        else:
            fields = line.split(b" ")
            extra = fields[1 : -self.dimension]
            if spaces < self.dimension or any(map(_is_number, extra)):
                self.problems.append(f"line {number}: {spaces} numbers where {self.dimension} were expected")
                return
            word_bytes = b" ".join(fields[: -self.dimension])
        try:
            word = word_bytes.decode("utf-8")
        except UnicodeDecodeError:
            self.problems.append(f"line {number}: the word is not UTF-8 text: {word_bytes!r}")
            return
        if self.wanted is not None and word not in self.wanted:
            return
        try:
            vector = array("f", map(float, line[len(word_bytes) + 1 :].split(b" ")))
        except ValueError as error:
            self.problems.append(f'line {number}: "{word}": {error}')
            return
        if not np.isfinite(np.frombuffer(vector, dtype=np.float32)).all():
            self.problems.append(f'line {number}: "{word}" has a NaN or infinite number')
        elif word in self._line_of:
            self.problems.append(f'line {number}: "{word}" a second time, after line {self._line_of[word]}')
        else:
            self._line_of[word] = number
            self.words.append(word)
            self.values.extend(vector)


def _header(line: bytes) -> tuple[int, int] | None:
    """Words and dimension from word2vec's first line, "400000 300"."""
    fields = line.split()
    return (int(fields[0]), int(fields[1])) if len(fields) == 2 and fields[0].isdigit() and fields[1].isdigit() else None


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
