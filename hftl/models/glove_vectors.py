"""GloVe: word vectors whose products are the logarithms of how often words stand near each other.

    J = sum over the cells X_ij > 0 of  f(X_ij) * (w_i . c_j + a_i + b_j - log X_ij)^2,   f(x) = min(1, (x / x_max)^alpha)

X_ij counts word j in the window of word i, each time with 1 / distance; both words and contexts have vectors, w and c, and biases,
a and b. What is used of a word is w_i + c_i. (Pennington, Socher & Manning 2014, "GloVe: Global Vectors for Word Representation".)

J is minimised by AdaGrad (Duchi et al. 2011) in steps over parts of the cells, which are shuffled in every epoch. The gradient of a
step is the sum over its cells, so that it is two products of a sparse matrix and a dense one: a cell costs 0.3 microseconds where
single cells, gathered and scattered, cost ten times as many. Nothing that is computed here depends on the number of threads.

V words, D dimensions, N words of all texts in their order, T texts, Z cells of X.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse
import torch
from torch import Tensor

X_MAX = 10.0
"""From this count on all cells weigh the same. The paper has 100 for thousands of millions of words; its authors' example for 17
million has 10."""
ALPHA = 0.75
RATE = 0.05
"""AdaGrad's step, where a gradient comes for the first time."""
BEGIN = 0.05
"""What AdaGrad's sums of squares begin with: small gradients do not move a vector by all of `RATE`. The authors' program has 1, of
single cells; here, after 8 epochs on 10,000 reviews, the loss was 0.074 with 1 and 0.060 with this."""
CELLS = 100_000
"""Cells of a step, at most: less where there would be fewer than a hundred steps an epoch."""
WORDS = 2_000_000
"""Words whose pairs are counted at once: 20 million pairs with a window of 10, of 8 bytes each."""

Ids = npt.NDArray[np.int32]
Say = Callable[[str], object]


def count_pairs(texts: Iterable[Ids], words: int, window: int, *, threads: int = 1) -> sparse.csr_matrix:
    """X: how often each word stands near each other one, each time with 1 / distance. (V, V), symmetric, float32.

    Of the text [0, 1, 0] with a window of 2: words 0 and 1 stand side by side twice, X_01 = X_10 = 2; both zeros are two words
    apart, and each is in the window of the other, so X_00 = 2 / 2 = 1. No window reaches into another text.

    Args:
        texts: the numbers of the words of each text; -1 is a word that has none: it keeps its place, and is not counted.
        words: V.
        window: words on either side.
        threads: blocks of texts that are counted at once.
    """
    half = sparse.csr_matrix((words, words), dtype=np.float64)
    with ThreadPoolExecutor(threads) as pool:
        blocks = _blocks(texts)
        while some := list(itertools.islice(blocks, threads)):  # no more than these are in memory
            for counted in pool.map(lambda block: _count_block(block[0], block[1], words, window), some):
                half = half + counted
    half = half.astype(np.float32)
    whole = half + half.T.tocsr()
    whole.sort_indices()
    return whole


def _blocks(texts: Iterable[Ids]) -> Iterator[tuple[Ids, Ids]]:
    """Whole texts of some two million words: the words, and the number of the text that each is in."""
    block: list[Ids] = []
    size = 0
    for text in itertools.chain(texts, [None]):
        if text is not None:
            block.append(text)
            size += len(text)
        if block and (text is None or size >= WORDS):
            yield np.concatenate(block), np.repeat(np.arange(len(block), dtype=np.int32), [len(some) for some in block])
            block, size = [], 0


def _count_block(ids: Ids, text: Ids, words: int, window: int) -> sparse.csr_matrix:
    """Each pair once, in the cell whose row is the smaller number. (V, V)"""
    keys = []
    for distance in range(1, min(window, len(ids) - 1) + 1):
        left, right = ids[:-distance], ids[distance:]
        inside = (text[:-distance] == text[distance:]) & (left >= 0) & (right >= 0)
        left, right = left[inside].astype(np.int64), right[inside].astype(np.int64)
        # Cell and distance in one number: one sort brings the pairs of a cell together, nearest first.
        keys.append((np.minimum(left, right) * words + np.maximum(left, right)) * (window + 1) + distance)
    pairs = np.concatenate(keys) if keys else np.zeros(0, dtype=np.int64)
    if not len(pairs):
        return sparse.csr_matrix((words, words), dtype=np.float64)
    pairs.sort()
    cells, distances = np.divmod(pairs, window + 1)
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    counts = np.add.reduceat(1.0 / distances, starts)
    rows, columns = np.divmod(cells[starts], words)
    indptr = np.searchsorted(rows, np.arange(words + 1)).astype(np.int32)
    return sparse.csr_matrix((counts, columns.astype(np.int32), indptr), shape=(words, words))


@dataclass
class Table:
    """The vectors and biases of words, or of contexts, with AdaGrad's sums of squares."""

    vectors: Tensor
    """(V, D)"""
    biases: Tensor
    """(V,)"""
    squares: Tensor
    """(V, D)"""
    bias_squares: Tensor
    """(V,)"""

    @classmethod
    def drawn(cls, words: int, dimensions: int, generator: torch.Generator) -> Table:
        """Numbers between -1/2 and 1/2, divided by D; biases likewise."""
        vectors = (torch.rand(words, dimensions, generator=generator) - 0.5) / dimensions
        biases = (torch.rand(words, generator=generator) - 0.5) / dimensions
        return cls(vectors, biases, torch.full_like(vectors, BEGIN), torch.full_like(biases, BEGIN))

    def step(self, gradient: Tensor, bias_gradient: Tensor, rate: float) -> None:
        """AdaGrad: each number moves by rate * g / sqrt(sum of all g^2 so far, this one included)."""
        self.squares.addcmul_(gradient, gradient)
        self.vectors.addcdiv_(gradient, self.squares.sqrt(), value=-rate)
        self.bias_squares.addcmul_(bias_gradient, bias_gradient)
        self.biases.addcdiv_(bias_gradient, self.bias_squares.sqrt(), value=-rate)


@dataclass(frozen=True)
class Cells:
    """Some cells of X, by row and then by column. B of them."""

    rows: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    counts: npt.NDArray[np.float32]


def cells_of(x: sparse.csr_matrix, places: npt.NDArray[np.int64] | npt.NDArray[np.int32] | None = None) -> Cells:
    """The cells at some places of X's arrays, ascending, or all of them."""
    if places is None:
        places = np.arange(x.nnz)
    rows = np.searchsorted(x.indptr, places, side="right") - 1
    return Cells(rows.astype(np.int32), x.indices[places].astype(np.int32), x.data[places])


class Gradient:
    """Products with the sparse matrix of some cells, a share of its rows a thread."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> Gradient:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def product(self, matrix: sparse.csr_matrix, dense: Tensor) -> Tensor:
        """(V, V) sparse and (V, D) -> (V, D). Each row is a sum of its own: the shares change nothing."""
        if self._threads == 1:
            return torch.from_numpy(matrix @ dense.numpy())
        cells = np.linspace(0, matrix.nnz, self._threads + 1)
        ends = np.searchsorted(matrix.indptr, cells[1:-1]).tolist()
        shares = [slice(start, end) for start, end in itertools.pairwise([0, *ends, matrix.shape[0]])]
        return torch.from_numpy(np.concatenate(list(self._pool.map(lambda rows: matrix[rows] @ dense.numpy(), shares))))


def errors(cells: Cells, words: Table, contexts: Table) -> Tensor:
    """w_i . c_j + a_i + b_j - log X_ij of each cell. (B,)"""
    size = len(words.biases)
    indptr = np.searchsorted(cells.rows, np.arange(size + 1)).astype(np.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        warnings.filterwarnings("ignore", message="Sparse invariant checks")  # torch 2.11 warns of what it is told below
        pattern = torch.sparse_csr_tensor(
            torch.from_numpy(indptr),
            torch.from_numpy(cells.columns),
            torch.zeros(len(cells.rows)),
            size=(size, size),
            check_invariants=False,
        )
        products = torch.sparse.sampled_addmm(pattern, words.vectors, contexts.vectors.T, beta=0.0).values()
    biases = words.biases[torch.from_numpy(cells.rows)] + contexts.biases[torch.from_numpy(cells.columns)]
    error: Tensor = products + biases - torch.from_numpy(cells.counts).log()
    return error


def weights(counts: npt.NDArray[np.float32]) -> Tensor:
    """f(X_ij) = min(1, (X_ij / x_max)^alpha). With x_max 10: of 10 and more 1, of 0.625 it is 0.0625^0.75 = 1/8. (B,)"""
    return torch.from_numpy(counts).div(X_MAX).pow(ALPHA).clamp(max=1.0)


def objective(cells: Cells, words: Table, contexts: Table) -> float:
    """J over some cells."""
    return float((weights(cells.counts) * errors(cells, words, contexts).square()).sum())


def train_step(cells: Cells, words: Table, contexts: Table, gradient: Gradient, *, rate: float = RATE) -> float:
    """One step of AdaGrad over some cells; J over them before it.

    dJ/dw_i = sum over j of 2 f(X_ij) e_ij c_j,  dJ/da_i = sum over j of 2 f(X_ij) e_ij, and of contexts likewise; e are the errors.
    """
    size = len(words.biases)
    error, weight = errors(cells, words, contexts), weights(cells.counts)
    slopes = (2 * weight * error).numpy()
    by_word = sparse.csr_matrix(
        (slopes, cells.columns, np.searchsorted(cells.rows, np.arange(size + 1)).astype(np.int32)), shape=(size, size)
    )
    by_context = by_word.T.tocsr()
    of_words, of_contexts = gradient.product(by_word, contexts.vectors), gradient.product(by_context, words.vectors)
    words.step(of_words, torch.from_numpy(np.asarray(by_word.sum(axis=1), dtype=np.float32)[:, 0]), rate)
    contexts.step(of_contexts, torch.from_numpy(np.asarray(by_context.sum(axis=1), dtype=np.float32)[:, 0]), rate)
    return float((weight * error.square()).sum())


def learn(
    x: sparse.csr_matrix, dimensions: int, epochs: int, *, seed: int, threads: int, say: Say
) -> tuple[npt.NDArray[np.float32], list[float]]:
    """The vectors w_i + c_i of all words, (V, D), and J / Z of each epoch, as it was while it went on.

    Args:
        x: counts, see `count_pairs`; at least one is not zero.
        dimensions: D.
        epochs: passes over the cells.
        seed: of the vectors at the start and the order of the cells.
        threads: of the computation.
        say: is told after each epoch how it went, and after the first how long all will take.
    """
    generator, shuffler = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    words, contexts = (Table.drawn(x.shape[0], dimensions, generator) for _ in range(2))
    size = min(CELLS, max(1_000, math.ceil(x.nnz / 100)))
    order = np.arange(x.nnz, dtype=np.int64 if x.nnz >= 2**31 else np.int32)
    losses: list[float] = []
    with Gradient(threads) as gradient, _torch_threads(threads):
        for epoch in range(epochs):
            began, loss = time.perf_counter(), 0.0
            shuffler.shuffle(order)
            for start in range(0, x.nnz, size):
                loss += train_step(cells_of(x, np.sort(order[start : start + size])), words, contexts, gradient)
            losses.append(loss / x.nnz)
            seconds = time.perf_counter() - began
            rest = f"; {(epochs - epoch - 1) * seconds / 60:,.1f} minutes to go" if epoch + 1 < epochs else ""
            say(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]:.4f}, {seconds:,.1f} s{rest}")
    return (words.vectors + contexts.vectors).numpy(), losses


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- a look at what was learned -----------------------------------------------------------------------------------------------


def nearest(vectors: npt.NDArray[np.float32], targets: npt.NDArray[np.float32], number: int) -> npt.NDArray[np.int64]:
    """The rows of (V, D) with the largest cosines to each of (Q, D) targets, largest first. (Q, `number`)"""
    cosines = _unit(targets) @ _unit(vectors).T
    first = np.argsort(-cosines, axis=1, kind="stable")[:, :number]
    return first.astype(np.int64)


def solve(vectors: npt.NDArray[np.float32], a: int, b: int, c: int) -> int:
    """The word d for which a is to b as c is to d: nearest to b - a + c, of unit vectors, and none of the three."""
    unit = _unit(vectors)
    return next(int(row) for row in nearest(vectors, (unit[b] - unit[a] + unit[c])[None], 4)[0] if row not in (a, b, c))


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


ANALOGIES: Sequence[tuple[str, str, str, str]] = (
    ("man", "woman", "actor", "actress"),
    ("man", "woman", "king", "queen"),
    ("he", "she", "his", "her"),
    ("boy", "girl", "son", "daughter"),
    ("good", "better", "bad", "worse"),
    ("good", "best", "bad", "worst"),
    ("film", "films", "movie", "movies"),
    ("is", "was", "are", "were"),
    ("go", "going", "make", "making"),
    ("french", "france", "italian", "italy"),
)
"""a is to b as c is to d; those are asked whose four words are all there."""
