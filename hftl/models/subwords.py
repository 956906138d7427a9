"""Word vectors that are made of the vectors of a word's parts: fastText's .bin, of its n-grams, and model2vec, of its tokens.

A word that the file does not know has a vector too, as long as it knows parts of it. fastText: Bojanowski et al. 2017,
arXiv:1607.04606. The files may be a stranger's: sizes are held against the file before anything is read by them, and nothing is
unpickled.

V words of the file, D dimensions, W words that are asked for.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from hftl.models.tokenizer_bounds import MOST_BYTES, Unbounded, check_loaded, read_tokenizer

FASTTEXT = struct.pack("<i", 793_712_314)
"""How fastText's binary files begin."""
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"

_VERSIONS = (11, 12)
_MOST_DIMENSIONS = 4_096
_LONGEST_WORD = 10_000  # bytes
_LONGEST_NGRAM = 100  # letters
_LINE_END = "</s>"  # a word of fastText's own, which has no n-grams

Vectors = npt.NDArray[np.float32]


class Unreadable(ValueError):
    """What is wrong with a file, and the way out."""

    def __init__(self, what: str, *help: str) -> None:
        super().__init__(what)
        self.help = help or ("is the file whole?",)


def _broken(what: str) -> Unreadable:
    return Unreadable(what, "is the file whole? The .vec file that fasttext.cc has beside it is read too")


def is_fasttext(path: Path) -> bool:
    """Whether a file begins as fastText's binary ones do."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == FASTTEXT


def model2vec_folder(path: Path) -> Path | None:
    """The folder of a model of model2vec, of which it or its file of weights is named; None: it is none."""
    folder = path.parent if path.name == WEIGHTS else path
    return folder if (folder / WEIGHTS).is_file() and (folder / TOKENIZER).is_file() else None


@dataclass(frozen=True)
class FastText:
    """A file of fastText.

    The vector of a word of the file is the mean of its own row and those of its n-grams; of another word that of its n-grams.
    """

    rows: dict[str, int]
    matrix: Any
    """(V + buckets, D) float32, on disk."""
    buckets: int
    shortest: int
    longest: int
    """Letters of the n-grams; a longest of 0: there are none."""

    @property
    def dimension(self) -> int:
        return int(self.matrix.shape[1])

    def words(self) -> list[str]:
        """Those of the file, in its order."""
        return list(self.rows)

    def vectors(self, words: Iterable[str]) -> tuple[list[str], Vectors]:
        """Those of the words that have a row of their own, or that have n-grams; with their vectors, (W, D)."""
        found: list[str] = []
        vectors: list[Vectors] = []
        for word in words:
            rows = ([self.rows[word]] if word in self.rows else []) + self._ngram_rows(word)
            if rows:
                found.append(word)
                vectors.append(_mean(np.asarray(self.matrix[rows])))
        return found, _stacked(vectors, self.dimension)

    def _ngram_rows(self, word: str) -> list[int]:
        if not self.buckets or word == _LINE_END:
            return []
        return [len(self.rows) + hashed(ngram) % self.buckets for ngram in ngrams(word, self.shortest, self.longest)]


def ngrams(word: str, shortest: int, longest: int) -> list[str]:
    """The n-grams of a word between "<" and ">": of "at", 2 to 3 letters: "<a", "<at", "at", "at>", "t>"."""
    marked = f"<{word}>"
    return [
        marked[start : start + length]
        for start in range(len(marked))
        for length in range(shortest, longest + 1)
        # A mark alone says nothing.
        if start + length <= len(marked) and not (length == 1 and start in (0, len(marked) - 1))
    ]


def hashed(ngram: str) -> int:
    """FNV-1a of 32 bits as fastText has it: bytes above 127 are taken as negative numbers. Of "a": 0xE40C292C."""
    value = 2_166_136_261
    for byte in ngram.encode("utf-8", "surrogatepass"):
        value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16_777_619) & 0xFFFFFFFF
    return value


def open_fasttext(path: Path) -> FastText:
    """A .bin file of fastText; its matrix stays on disk.

    Raises:
        Unreadable: it is cut off, of another version, quantised, or says something that cannot be.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            version, *arguments = struct.unpack_from("<13i", content, 4)
            dimension, buckets, shortest, longest = (arguments[place] for place in (0, 8, 9, 10))
            size, words, _, _, pruned = struct.unpack_from("<iiiqq", content, 64)
        except struct.error:
            raise _broken("ends within its first hundred bytes") from None
        if version not in _VERSIONS:
            raise Unreadable(f"version {version} of fastText's format; {_VERSIONS[0]} and {_VERSIONS[1]} are read", "take its .vec")
        possible = 1 <= dimension <= _MOST_DIMENSIONS and 0 <= words <= size <= len(content) and buckets >= 0
        if not (possible and 0 <= longest <= _LONGEST_NGRAM):
            raise _broken(f"says {dimension:,} dimensions, {words:,} words of {size:,} and n-grams of up to {longest:,} letters")
        rows: dict[str, int] = {}
        place = 92
        for entry in range(size):
            end = content.find(b"\0", place, place + _LONGEST_WORD)
            if end < 0 or end + 10 > len(content):
                raise _broken(f"ends, or has no word, at entry {entry:,} of {size:,}")
            if entry < words:
                word = content[place:end].decode("utf-8", "backslashreplace")
                if word in rows:
                    raise _broken(f'has the word "{word}" twice')
                rows[word] = entry
            place = end + 10  # the zero, 8 bytes of how often, 1 of its kind
        if pruned > 0 or content[place : place + 1] not in (b"\0", b""):
            raise Unreadable(
                "a quantised model (.ftz), whose vectors are rounded", "take the .bin that it was made of, or its .vec"
            )
        try:
            height, width = struct.unpack_from("<qq", content, place + 1)
        except struct.error:
            raise _broken("ends before its vectors") from None
        offset = place + 17
        has_ngrams = longest > 0 and buckets > 0
        if width != dimension or height < words + (buckets if has_ngrams else 0) or offset + 4 * height * width > len(content):
            raise _broken(f"says {height:,} rows of {width:,} numbers, for {words:,} words and {buckets:,} n-grams")
    matrix = np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=(height, width))
    return FastText(rows, matrix, buckets if has_ngrams else 0, max(shortest, 1), longest)


@dataclass(frozen=True)
class Model2Vec:
    """A table of token vectors with its tokenizer; the vector of a word is the mean of those of its tokens, by their weights."""

    tokenizer: Tokenizer
    table: Vectors
    """(rows, D)"""
    rows: npt.NDArray[np.int64] | None
    """(tokens,) the row of each; None: its number."""
    weights: Vectors | None
    """(tokens,)"""
    unknown: int | None

    @property
    def dimension(self) -> int:
        return int(self.table.shape[1])

    def words(self) -> list[str]:
        """The tokens that may begin a word."""
        tokens = sorted(self.tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        return list(dict.fromkeys(token.removeprefix("▁") for token, _ in tokens if not token.startswith("##") and token != "▁"))

    def vectors(self, words: Iterable[str]) -> tuple[list[str], Vectors]:
        """Those of the words of which a token is known, with their vectors, (W, D)."""
        asked = list(words)
        found: list[str] = []
        vectors: list[Vectors] = []
        for word, tokens in zip(asked, self._tokens(asked), strict=True):
            if tokens:
                own = self.table[tokens if self.rows is None else self.rows[tokens]]
                found.append(word)
                vectors.append(_mean(own if self.weights is None else own * self.weights[tokens, None]))
        return found, _stacked(vectors, self.dimension)

    def whole(self, words: Sequence[str]) -> set[str]:
        """Those of the words that are one token."""
        return {word for word, tokens in zip(words, self._tokens(words), strict=True) if len(tokens) == 1}

    def _tokens(self, words: Sequence[str]) -> list[list[int]]:
        with _Running():
            encoded = self.tokenizer.encode_batch(list(words), add_special_tokens=False)
        return [[token for token in one.ids if token != self.unknown] for one in encoded]


def open_model2vec(folder: Path) -> Model2Vec:
    """A folder of model2vec: model.safetensors and tokenizer.json.

    Raises:
        Unreadable: a file is broken, or the two do not belong together.
        OSError: it cannot be read.
    """
    with (folder / TOKENIZER).open("rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise Unreadable(f"{TOKENIZER} is larger than {MOST_BYTES // 10**6} MB", "take another model")
    try:
        read_tokenizer(content)
        with _Running():
            tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        check_loaded(tokenizer)
    except (Unbounded, UnicodeDecodeError) as error:
        raise Unreadable(f"{TOKENIZER}: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = list(file.keys())
            called = next((name for name in ("embeddings", "embedding.weight") if name in names), None)
            there = {name: file.get_tensor(name) for name in (called, "mapping", "weights") if name in names}
    except SafetensorError as error:
        raise Unreadable(f"{WEIGHTS}: {error}") from None
    if called is None or there[called].ndim != 2 or not 1 <= there[called].shape[1] <= _MOST_DIMENSIONS:
        what = f"{WEIGHTS} has no table of token vectors, but {', '.join(sorted(names)[:5]) or 'nothing'}"
        raise Unreadable(what, "a folder of model2vec has one that is called embeddings")
    table = there[called].float().numpy()
    rows = there["mapping"].long().numpy() if "mapping" in there else None
    weights = there["weights"].float().numpy() if "weights" in there else None
    tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    of_each = [part for part in (rows, weights) if part is not None]
    fits = tokens <= len(table) if rows is None else len(rows) > 0 and rows.min() >= 0 and rows.max() < len(table)
    if not fits or any(part.ndim != 1 or len(part) < tokens for part in of_each):
        raise Unreadable(f"{TOKENIZER} has {tokens:,} tokens, and {WEIGHTS} {len(table):,} vectors")
    unknown = getattr(tokenizer.model, "unk_token", None)
    return Model2Vec(tokenizer, table, rows, weights, tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None)


class _Running:
    """Turns what the tokenizers library raises into a message: `Exception` itself, and where its Rust panics a nameless one."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None and (kind is Exception or kind.__name__ == "PanicException"):
            raise Unreadable(f"{TOKENIZER}: {error}") from None


def _mean(rows: npt.NDArray[Any]) -> Vectors:
    """(n, D) -> (D,). What is infinite or not a number is named by who reads it."""
    with np.errstate(all="ignore"):
        mean: Vectors = rows.mean(axis=0, dtype=np.float32)
        return mean


def _stacked(vectors: Sequence[Vectors], dimension: int) -> Vectors:
    return np.stack(vectors) if vectors else np.zeros((0, dimension), dtype=np.float32)
