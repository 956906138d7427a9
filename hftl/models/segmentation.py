"""Words of scripts that are written without spaces, learned from the training texts and from the words of the vectors.

A run is what stands between two spaces, signs or letters of other scripts. It is cut into the words that are together the most
probable, each with its share of all words (a unigram model: Kudo 2018, arXiv:1804.10959). The words of the vectors are what a run
may be cut into. For letters that are in no word of the vectors, strings of letters that are frequent in the training texts are
words too; and each letter is one by itself, so that nothing is lost. Where no word of the vectors is in these scripts, all is
learned from the texts.

The shares are counted: the runs are cut, the words counted, and the runs cut again with the new shares. It is the expectation
maximisation of a word segmenter with the best cut in place of all cuts: each round is one pass of tokenizers' own search, and the
same texts give the same words, which `tokenizers.trainers.UnigramTrainer` does not promise.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache

from tokenizers import Tokenizer
from tokenizers.models import Unigram

LONGEST = 8
"""Letters of the longest word that is learned from the texts; a letter with its marks counts as one."""
LONGEST_KNOWN = 30
"""Letters and marks of the longest word of the vectors that is looked for."""
LEAST = 5
"""How many times a string of letters is at least in the distinct runs, to be a word."""
LOOKED_AT = 1_000_000
"""Letters of distinct runs from which words are learned; of more, every second, third or later run is taken."""
_UNSEEN = 0.5  # what a letter, or a word of the vectors, counts that no run is cut into


def fitting(runs: Mapping[str, int]) -> Callable[[str], bool]:
    """Whether a word may be in the runs: each two neighbours among its letters are neighbours there.

    A file of vectors may have millions of words. With the run "abcab": "abc", "bca" and "a" may be, "cb" may not.
    """
    letters = {letter for run in runs for letter in run}
    neighbours = {run[place : place + 2] for run in runs for place in range(len(run) - 1)}

    def fits(word: str) -> bool:
        if len(word) == 1:
            return word in letters
        return len(word) <= LONGEST_KNOWN and all(word[place : place + 2] in neighbours for place in range(len(word) - 1))

    return fits


def learn_words(runs: Mapping[str, int], known: Collection[str] = ()) -> dict[str, float]:
    """Words that the runs are cut into, with how often each is in the best cut of the distinct runs.

    Args:
        runs: how often each run is in the training texts.
        known: the words of the vectors.
    """
    step = -(-sum(map(len, runs)) // LOOKED_AT)
    # Each distinct run counts once: a clause that everybody writes would be one word, and its words none.
    some = dict.fromkeys(list(runs)[:: max(step, 1)], 1)
    letters = {letter for run in runs for letter in run}
    weights: dict[str, float] = dict.fromkeys(sorted(letters), _UNSEEN)
    weights |= _occurrences(some, frozenset(known))
    weights |= _frequent(some, letters - set("".join(known)))
    lasting = letters.union(known)
    # The bar rises by one with each round: of words that share their places the better ones have time to win.
    for least in range(1, LEAST + 1):
        counts = count_pieces(some, weights)
        weights = {word: counts[word] or _UNSEEN for word in weights if word in lasting or counts[word] >= least}
    return weights


def count_pieces(runs: Mapping[str, int], weights: Mapping[str, float]) -> Counter[str]:
    """How often each word is in the best cut of the runs, given its weight; neighbouring letters that are no words count as one."""
    cutter = Tokenizer(Unigram([("<unk>", 0.0), *scores(weights).items()], unk_id=0, byte_fallback=False))
    counts: Counter[str] = Counter()
    names = list(runs)
    for start in range(0, len(names), 10_000):
        some = names[start : start + 10_000]
        for run, cut in zip(some, cutter.encode_batch(some, add_special_tokens=False), strict=True):
            for piece in cut.tokens:
                counts[piece] += runs[run]
    return counts


def scores(weights: Mapping[str, float]) -> dict[str, float]:
    """The natural logarithm of each word's share of all: {"a": 1, "b": 3} gives {"a": ln 1/4, "b": ln 3/4}."""
    total = sum(weights.values())
    return {word: math.log(weight / total) for word, weight in weights.items()}


def _occurrences(runs: Mapping[str, int], known: frozenset[str]) -> dict[str, float]:
    """How often each of the words is in the runs, at any place."""
    lengths = sorted({len(word) for word in known})
    counts: Counter[str] = Counter()
    for run, times in runs.items():
        for length in lengths:
            for start in range(len(run) - length + 1):
                if (string := run[start : start + length]) in known:
                    counts[string] += times
    return dict(counts)


def _frequent(runs: Mapping[str, int], unknown: Collection[str]) -> dict[str, float]:
    """How often each string of 1 to 8 letters is in the runs, of those with one of the letters `unknown`; from 5 times on.

    What is longer is frequent only where both of its shorter parts are (Agrawal & Srikant 1994), so that few strings are counted.
    """
    if not unknown:
        return {}
    places = {run: [*_letters(run), len(run)] for run in runs}
    found: dict[str, float] = {}
    shorter: Collection[str] = ()
    for length in range(1, LONGEST + 1):
        counts: Counter[str] = Counter()
        for run, times in runs.items():
            starts = places[run]
            for first in range(len(starts) - length):
                begin, end = starts[first], starts[first + length]
                if length == 1 or (run[begin : starts[first + length - 1]] in shorter and run[starts[first + 1] : end] in shorter):
                    counts[run[begin:end]] += times
        shorter = {string for string, count in counts.items() if count >= LEAST}
        found |= {string: counts[string] for string in sorted(shorter) if len(string) > 1 and not set(string).isdisjoint(unknown)}
        if not shorter:
            break
    return found


def _letters(run: str) -> list[int]:
    """Where each letter of a run begins; its marks belong to it."""
    return [place for place, sign in enumerate(run) if place == 0 or not _is_mark(sign)]


@lru_cache(maxsize=4096)
def _is_mark(sign: str) -> bool:
    return unicodedata.category(sign)[0] == "M"
