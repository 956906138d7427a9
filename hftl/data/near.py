"""Texts and pictures that are nearly the same: what a small change leaves standing is compared.

Texts: the sets of all runs of five words, punctuation left out, where a letter of a script without spaces is a word; candidates by
MinHash in 16 bands of 4, which finds a pair of similarity 0.8 in 9,998 of 10,000 cases; a pair counts where the true Jaccard
similarity is 0.8 or more. Pictures: candidates are those whose perceptual hashes differ in 10 of 64 bits at most, and a pair counts
where the colour differences between neighbouring cells of a 16 x 16 thumbnail correlate by 0.95 or more. On 3,781 photos of
clothes, of which many show a dark garment on one and the same sheet, 833 pairs are candidates; the one true pair reaches 1.00, the
best wrong one 0.92. A picture saved again at JPEG quality 30, at 60 % of its side or brighter stays above 0.95; one that was
cropped does not. In pictures of less than 64 pixels a side there is less to tell apart: ones in handwriting reach 0.98, so that
there it takes 0.99.

N rows.

MinHash: Broder 1997, doi:10.1109/SEQUEN.1997.666900. Banding: Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hftl.data.columns import array_on_disk
from hftl.data.duplicates import BATCH, Array, fold, repeated, text_batches
from hftl.scripts import UNSPACED, unspaced

NEAR_TEXT = 0.8
"""Jaccard similarity of the sets of five-word runs, from which on two texts are near duplicates."""
NEAR_PICTURE = 0.95
"""Correlation of the thumbnails' colour steps, from which on two pictures are near duplicates."""
NEAR_SMALL_PICTURE = 0.99
"""The same where one of the two has a side of less than 64 pixels."""
SHINGLE = 5
"""Words of a run."""

_LETTER = re.compile(f"[{UNSPACED}]")
_SIGN = re.compile("[\u2010-\u205e\u3001-\u3004\u3008-\u3020\u30fb]")  # what stands between such letters and is none

_BANDS, _ROWS = 16, 4
_WINDOW = 8  # neighbours in a band's bucket that are compared: all pairs of a bucket of nine, and linear work in a larger one
_BITS = 10
_PAIRS = 250_000  # of pictures that are compared at once: 2 MB
_MOST_CANDIDATES = 50  # of one picture among those after it
_SMALL = 64


@dataclass(frozen=True)
class Link:
    """Two rows that are nearly the same, `one` < `other`, with their similarity."""

    one: int
    other: int
    similarity: float


def _odd(generator: np.random.Generator, count: int, dtype: type[np.unsignedinteger[Any]]) -> Array:
    numbers: Array = generator.integers(0, np.iinfo(dtype).max, count, dtype=dtype) | dtype(1)
    return numbers


def _scatter(numbers: Array) -> Array:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): near numbers end far from each other."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scattered: Array = numbers ^ (numbers >> np.uint64(31))
    return scattered


_random = np.random.default_rng(0)
_PLACES = _odd(_random, SHINGLE, np.uint64)
_FACTORS = _odd(_random, _BANDS * _ROWS, np.uint32)
_MIX = _odd(_random, _ROWS, np.uint64)
_POWER = _odd(_random, 1, np.uint64)[0]
_INVERSE = np.uint64(pow(int(_POWER), -1, 2**64))
_WORD_BYTES = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])
_SCATTERED_BYTES = _scatter(np.arange(1, 257, dtype=np.uint64))


def near_texts(texts: Dataset) -> list[Link]:
    """Links between rows of the column `text` that are nearly the same. Each content should be there once."""
    keys = array_on_disk((_BANDS, len(texts)), np.uint64)
    rows = np.empty(len(texts), dtype=np.int32)
    end = 0
    for number, batch in enumerate(text_batches(texts)):
        runs, counts = _runs(batch)
        with_words = np.flatnonzero(counts)  # of a text without a letter or a digit nothing can be said
        if len(with_words):
            start, end = end, end + len(with_words)
            rows[start:end] = with_words + number * BATCH
            keys[:, start:end] = _band_keys(runs, np.cumsum(counts[with_words]) - counts[with_words]).T
    pairs = rows[_candidates(keys[:, :end])]
    involved = np.unique(pairs)
    runs_of = {row: np.unique(_runs([texts[row]["text"]])[0]) for row in involved.tolist()}
    links = []
    for one, other in pairs.tolist():
        shared = len(np.intersect1d(runs_of[one], runs_of[other], assume_unique=True))
        similarity = shared / (len(runs_of[one]) + len(runs_of[other]) - shared)
        if similarity >= NEAR_TEXT:
            links.append(Link(one, other, similarity))
    return links


def _runs(texts: Sequence[str]) -> tuple[Array, Array]:
    """A hash for every run of five words, text after text, and their number in each text; a shorter text is one run.

    In arrays from the first byte on: splitting into Python's strings takes four times as long.
    """
    lines = [_spaced(fold(text)).encode("utf-8", "surrogatepass") for text in texts]
    data = np.frombuffer(b"\n" + b"\n".join(lines) + b"\n", dtype=np.uint8)
    in_word = np.diff(_WORD_BYTES[data].astype(np.int8))
    begins, ends = np.flatnonzero(in_word == 1) + 1, np.flatnonzero(in_word == -1) + 1
    # A word's hash is the sum of scattered byte k times p**k, modulo 2**64: a difference of two cumulative sums, shifted back.
    sums = np.cumsum(_SCATTERED_BYTES[data] * np.cumprod(np.full(len(data), _POWER)))
    words = (sums[ends - 1] - sums[begins - 1]) * np.cumprod(np.full(len(data), _INVERSE))[begins]
    # Where the words of each text go once all texts have five places at least; empty places stay 0.
    counts = np.diff(np.searchsorted(begins, np.cumsum([0, *(len(line) + 1 for line in lines)])))
    places = np.where(counts > 0, np.maximum(counts, SHINGLE), 0)
    shift = np.repeat(np.cumsum(places) - places - (np.cumsum(counts) - counts), counts)
    placed = np.zeros(int(places.sum()), dtype=np.uint64)
    placed[np.arange(len(words)) + shift] = _scatter(words)
    runs = np.zeros(max(0, len(placed) - SHINGLE + 1), dtype=np.uint64)
    for place, factor in enumerate(_PLACES):
        runs += placed[place : place + len(runs)] * factor
    within = np.ones(len(runs), dtype=bool)  # a run that reaches into the next text is none
    borders = np.cumsum(places)[:-1]
    for before in range(1, SHINGLE):
        within[borders[(borders > 0) & (borders < len(placed))] - before] = False
    return _scatter(runs[within]), np.maximum(places - SHINGLE + 1, 0)


def _spaced(text: str) -> str:
    """A text with its letters of scripts without spaces apart: ``_spaced("lg外卖。好") == "lg 外  卖   好 "``"""
    return _LETTER.sub(r" \g<0> ", _SIGN.sub(" ", text)) if unspaced(text) else text


def _band_keys(runs: Array, starts: Array) -> Array:
    """A key for each text and band, equal where the smallest hashes of the band's four permutations are. (N, bands) uint64."""
    short = (runs >> np.uint64(32)).astype(np.uint32)
    keys = np.zeros((len(starts), _BANDS), dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):  # times an odd number, modulo 2**32: a permutation
        keys[:, place // _ROWS] += np.minimum.reduceat(short * factor, starts) * _MIX[place % _ROWS]
    return keys


def _candidates(keys: Array) -> Array:
    """Pairs of rows, the smaller first, that are neighbours in the bucket of some band; `keys` (bands, N). (pairs, 2)"""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for band in keys:
        order = np.argsort(band, kind="stable")  # rows of one bucket ascend
        ordered = band[order]
        for step in range(1, _WINDOW + 1):
            same = np.flatnonzero(ordered[step:] == ordered[:-step])
            if not len(same):
                break  # and no bucket reaches further
            pairs.append(np.stack([order[same], order[same + step]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def near_pictures(scans: Array) -> list[Link]:
    """Links between pictures that are nearly the same; `scans` are rows of `IMAGE_SCAN`. Each content should be there once."""
    hashes = scans["hash"].copy()
    small = np.minimum(scans["width"], scans["height"]) < _SMALL
    thumbnails = scans["thumbnail"]
    links = []
    at_once = max(1, _PAIRS // max(1, len(hashes)))
    for start in range(0, len(hashes), at_once):
        # Every pair is looked at: 0.5 s for 25,000 pictures, far less than to decode them.
        differing = np.bitwise_count(hashes[start : start + at_once, None] ^ hashes[None, start:])
        one, other = np.nonzero(np.triu(differing <= _BITS, k=1))
        # The first candidates of a picture are enough: the frames of one film would make as many pairs as their number squared.
        rank = np.arange(len(one)) - np.searchsorted(one, one)
        pairs = np.stack([one, other], axis=1)[rank < _MOST_CANDIDATES] + start
        for first in range(0, len(pairs), BATCH):
            some = pairs[first : first + BATCH]
            alike = _correlation(_steps(thumbnails[some[:, 0]]), _steps(thumbnails[some[:, 1]]))
            near = alike >= np.where(small[some].any(axis=1), NEAR_SMALL_PICTURE, NEAR_PICTURE)
            links += [Link(a, b, value) for (a, b), value in zip(some[near].tolist(), alike[near].tolist(), strict=True)]
    return links


def _steps(thumbnails: Array) -> Array:
    """Colour differences between cells side by side and one above the other; a plain background has none. (N, steps)"""
    cells = thumbnails.astype(np.float32)  # (N, S, S, 3)
    across, down = np.diff(cells, axis=2), np.diff(cells, axis=1)
    return np.concatenate([across.reshape(len(cells), -1), down.reshape(len(cells), -1)], axis=1)


def _correlation(one: Array, other: Array) -> Array:
    """Correlation, about 0, of each row with its counterpart; 0 where a picture has a single colour. (N,)"""
    scale = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    products: Array = (one * other).sum(axis=1) / np.where(scale > 0, scale, 1.0)
    return products


def near_groups(links: Sequence[Link]) -> list[list[int]]:
    """The rows that hang together by links, the earliest group first; a row without a link is in none."""
    ends = np.array([(link.one, link.other) for link in links], dtype=np.int64).reshape(-1, 2)
    rows, places = np.unique(ends, return_inverse=True)  # a million rows have few links
    one, other = places.reshape(-1, 2).T
    graph = coo_array((np.ones(len(links), dtype=np.int8), (one, other)), shape=(len(rows), len(rows)))
    group = connected_components(graph, directed=False)[1]
    return [rows[members].tolist() for members in repeated(group)]
