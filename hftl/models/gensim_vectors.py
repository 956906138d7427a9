"""word2vec and fastText, as gensim learns them: skip-gram and CBOW over words, skip-gram over the letters of words.

Mikolov et al. 2013, arXiv:1301.3781; Bojanowski et al. 2017, arXiv:1607.04606. gensim comes with the extra `vectors`; it is under
the LGPL 2.1, is imported, and nothing of it is copied. With one thread the same seed gives the same vectors; with more it does not.

V words, D dimensions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hftl.errors import RunError

BUCKETS = 200_000
"""Rows for the n-grams of fastText; 30,000 words have some 150,000 of them."""
SHORTEST, LONGEST = 3, 6
"""Letters of the n-grams of fastText, with a "<" before the word and a ">" after it."""
_TEXT = 10_000  # words: gensim leaves out what a longer text has beyond them

NO_GENSIM = (3, 14)
"""From this version of Python on the extra `vectors` brings nothing: gensim's C code does not compile there."""

Say = Callable[[str], object]


def check_installed() -> None:
    """Refuse to go on without gensim, before anything is read.

    Raises:
        RunError: it is not installed.
    """
    _gensim()


def version() -> str:
    """gensim's."""
    return metadata.version("gensim")


def learn(
    method: str,
    texts: Sequence[npt.NDArray[np.int32]],
    words: Sequence[str],
    dimensions: int,
    *,
    window: int,
    epochs: int,
    seed: int,
    threads: int,
    say: Say,
) -> Any:
    """A model of gensim over some texts.

    Args:
        method: "skip-gram", "cbow" or "fasttext".
        texts: the numbers of the words of each text; -1 is left out.
        words: V of them, by their numbers.
        dimensions: D.
        window: words on either side, at most; gensim draws a smaller one for each word.
        epochs: passes over the texts.
        seed: of everything random.
        threads: of the computation.
        say: is told after each epoch.
    """
    models = _gensim()
    shared = {"vector_size": dimensions, "window": window, "min_count": 1, "workers": threads, "seed": seed, "epochs": epochs}
    if method == "fasttext":
        model = models.FastText(sg=1, bucket=BUCKETS, min_n=SHORTEST, max_n=LONGEST, **shared)
    else:
        model = models.Word2Vec(sg=int(method == "skip-gram"), **shared)
    sentences = _Sentences(texts, words)
    counts = np.bincount(np.concatenate([text[text >= 0] for text in texts]), minlength=len(words))
    frequencies: Mapping[str, int] = dict(zip(words, counts.tolist(), strict=True))
    model.build_vocab_from_freq(frequencies, corpus_count=len(sentences))
    model.train(sentences, total_examples=len(sentences), epochs=epochs, callbacks=[_Progress(epochs, say)])
    return model


def vectors_of(model: Any, words: Sequence[str]) -> npt.NDArray[np.float32]:
    """(V, D) in the order of `words`."""
    vectors: npt.NDArray[np.float32] = model.wv[list(words)]
    return vectors


def write_binary(model: Any, path: Path) -> None:
    """A model of fastText in its own format, with its n-grams."""
    from gensim.models.fasttext import save_facebook_model

    save_facebook_model(model, str(path))


class _Sentences:
    """Texts as lists of words, of at most so many as gensim takes; may be gone through again."""

    def __init__(self, texts: Sequence[npt.NDArray[np.int32]], words: Sequence[str]) -> None:
        self._texts, self._words = texts, words

    def __len__(self) -> int:
        return sum(-(-len(text) // _TEXT) for text in self._texts)

    def __iter__(self) -> Iterator[list[str]]:
        for text in self._texts:
            for start in range(0, len(text), _TEXT):
                yield [self._words[number] for number in text[start : start + _TEXT].tolist() if number >= 0]


class _Progress:
    """What gensim calls during training."""

    def __init__(self, epochs: int, say: Say) -> None:
        self._epochs, self._say, self._done = epochs, say, 0

    def on_epoch_end(self, model: Any) -> None:
        self._done += 1
        self._say(f"epoch {self._done} of {self._epochs}")

    def on_train_begin(self, model: Any) -> None: ...
    def on_train_end(self, model: Any) -> None: ...
    def on_epoch_begin(self, model: Any) -> None: ...


def _gensim() -> Any:
    try:
        import gensim.models
    except ImportError:
        ways = 'pip install "hftl[vectors]"; --method glove needs nothing else'
        if sys.version_info >= NO_GENSIM:
            ways = "it cannot be built for Python 3.14; use Python 3.11 to 3.13, or --method glove, which needs nothing else"
        raise RunError(f"skip-gram, cbow and fasttext need gensim, which is not installed:  {ways}") from None
    return gensim.models
