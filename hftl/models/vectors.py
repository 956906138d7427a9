"""Word vectors from a file: GloVe's text and word2vec's, plain, packed, or from the Hub; fastText's .bin, and model2vec.

The file may be a stranger's: lines, archives and numbers are bounded before they are read.
"""

from __future__ import annotations

import gzip
import io
import itertools
import os
import struct
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import numpy.typing as npt
from huggingface_hub import hf_hub_download

from hftl.errors import Problem, RecipeError, did_you_mean
from hftl.files import fingerprint
from hftl.models.subwords import (
    FASTTEXT,
    TOKENIZER,
    WEIGHTS,
    FastText,
    Model2Vec,
    Unreadable,
    is_fasttext,
    model2vec_folder,
    open_fasttext,
    open_model2vec,
)
from hftl.records.vectors import VectorsFile, read_learned

WHERE = "model.vectors"

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


def read_vectors(path: str, words: Collection[str] | None = None) -> tuple[list[str], npt.NDArray[np.float32]]:
    """The words of a file of word vectors and their (V, D) float32 vectors, in the file's order.

    Reads GloVe text and word2vec text (with its header line), plain, as .gz, or in a .zip: "x.zip:member.txt", or "x.zip" where
    it has one member; fastText's .bin; a folder of model2vec, whose words are those that are one token. With `words` only those are
    kept, and only their numbers are parsed and checked; every line's length is.
    A word may hold spaces (". . ." in GloVe 840B): the last D columns are the vector.

    The file may be a stranger's: a line is read up to 200,000 bytes, and an archive up to a hundred times its size.

    Raises:
        RecipeError: no such file or member, unreadable, a line of another dimension, not a number, NaN or infinite, a word twice,
            fewer lines than the header says, no vector at all, more than a file of vectors can be. The first ten problems, with
            their lines.
    """
    if (parts := _open_parts(path)) is not None:
        with _told(path):
            own = parts.words()
            if words is not None:
                own = [word for word in own if word in words] if isinstance(parts, FastText) else sorted(parts.whole(list(words)))
            found = parts.vectors(own)
        return _finite(path, *found)
    reader = _VectorReader(words)
    _read(path, reader)
    return reader.words, np.frombuffer(reader.values, dtype=np.float32).reshape(len(reader.words), reader.dimension)


def read_words(path: str, wanted: Callable[[str], bool]) -> list[str]:
    """The words of such a file that are wanted, in its order, without a look at their numbers.

    Raises:
        RecipeError: see `read_vectors`; numbers are not checked.
    """
    if (parts := _open_parts(path)) is not None:
        return [word for word in parts.words() if wanted(word)]
    reader = _WordReader(wanted)
    _read(path, reader)
    return list(dict.fromkeys(reader.words))


def compose_vectors(path: str, words: Sequence[str]) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Words that the file lacks and knows parts of (fastText's n-grams, the tokens of model2vec), and their (W, D) vectors.

    Raises:
        RecipeError: see `read_vectors`.
    """
    parts = _open_parts(path)
    if parts is None:
        return [], np.zeros((0, 0), dtype=np.float32)
    with _told(path):
        found = parts.vectors(words)
    return _finite(path, *found)


def _open_parts(path: str) -> FastText | Model2Vec | None:
    """A file of fastText or a folder of model2vec; None: it is another one."""
    place = Path(_fetched(path))
    with _told(path):
        if (folder := model2vec_folder(place)) is not None:
            return open_model2vec(folder)
        if is_fasttext(place):
            return open_fasttext(place)
    if place.is_dir():
        what = f"a folder without {WEIGHTS} and {TOKENIZER}, which one of model2vec has"
        raise _error(path, [what], "name a file of vectors, or a folder of model2vec")
    return None


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Turns what is wrong with a file of parts into the recipe's error."""
    try:
        yield
    except Unreadable as error:
        raise _error(path, [f"cannot be read: {error}"], *error.help) from None
    except _UNREADABLE as error:
        raise _error(path, [f"cannot be read: {error}"]) from None


def _finite(path: str, words: list[str], vectors: npt.NDArray[np.float32]) -> tuple[list[str], npt.NDArray[np.float32]]:
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise _error(path, [f'"{words[row]}" has a NaN or infinite number' for row in wrong[:_MOST_PROBLEMS]])
    return words, vectors


def _read(path: str, reader: _Reader) -> None:
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


def write_vectors(path: Path, words: Sequence[str], vectors: npt.NDArray[np.float32], *, packed: bool) -> None:
    """Write words and their (V, D) vectors as GloVe's text, of six digits a number; with `packed` compressed as .gz."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", mtime=0, fileobj=file) if packed else nullcontext(file) as stream:
        for start in range(0, len(words), 10_000):
            some = zip(words[start : start + 10_000], vectors[start : start + 10_000].tolist(), strict=True)
            lines = [f"{word} {' '.join([f'{value:.6g}' for value in vector])}\n" for word, vector in some]
            stream.write("".join(lines).encode())


def learned(path: str) -> VectorsFile | None:
    """How the vectors in a file were learned, where `hftl vectors` wrote it; None: it is from elsewhere, or in an archive.

    Raises:
        RecipeError: what lies beside the file is about another content of it.
        RunError: it cannot be read.
    """
    found = read_learned(Path(path))
    if found is not None and found["file"] != fingerprint(Path(path)):
        what = f"{Path(path).name}.json says how a file of another content was learned"
        raise _error(path, [what], "remove it, or put back the file that it is about")
    return found


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
        if PurePosixPath(file).name == WEIGHTS:
            hf_hub_download(f"{owner}/{repository}", str(PurePosixPath(file).with_name(TOKENIZER)))
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
        if b"\0" in line:
            raise _binary(path, line if number == 1 else b"")
        if len(line) > _LONGEST_LINE:
            raise _error(path, [f"line {number}: longer than {_LONGEST_LINE:,} bytes, so no word and its vector"])
        yield line


def _binary(path: str, first_line: bytes) -> RecipeError:
    """The refusal of a file that is no text: fastText's .bin, word2vec's, an archive of another kind."""
    what = "a binary file; word vectors are read as text: GloVe's .txt or word2vec's .vec, also as .gz or in a .zip"
    if first_line.startswith(FASTTEXT):
        return _error(path, [what], "this is fastText's .bin, packed: unpack it, or name the .vec that fasttext.cc has beside it")
    if first_line[:1] == b"\x80" and first_line[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        what = (
            "a Python pickle, as gensim's .kv and .model are: to open one is to run what its author put into it, so hftl opens none"
        )
        ways = f'gensim.models.KeyedVectors.load("{path}").save_word2vec_format("vectors.vec"); of a .model: .load(...).wv'
        return _error(path, [what], f"if you trust it, write it as text: {ways}")
    ways = f'gensim.models.KeyedVectors.load_word2vec_format("{path}", binary=True).save_word2vec_format("vectors.vec")'
    return _error(path, [what], f"word2vec's binary format is written as text by {ways}")


class _Reader:
    """Words and problems of one pass over the lines."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.problems: list[str] = []
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
        self._take(number, word, line[len(word_bytes) + 1 :])

    def _take(self, number: int, word: str, numbers: bytes) -> None:
        raise NotImplementedError


class _WordReader(_Reader):
    """Words alone."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        super().__init__()
        self.wanted = wanted

    def _take(self, number: int, word: str, numbers: bytes) -> None:
        if self.wanted(word):
            self.words.append(word)


class _VectorReader(_Reader):
    """Words and the values of their vectors."""

    def __init__(self, wanted: Container[str] | None) -> None:
        super().__init__()
        self.wanted = wanted
        self.values = array("f")
        self._line_of: dict[str, int] = {}

    def _take(self, number: int, word: str, numbers: bytes) -> None:
        if self.wanted is not None and word not in self.wanted:
            return
        try:
            vector = array("f", map(float, numbers.split(b" ")))
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
