"""Baselines: what simple methods make of the same rows, which a trained model has to beat.

For texts TF-IDF of words (single ones and pairs) or of letters, all terms or the best by document frequency, chi-square,
information gain or mutual information, into a linear SVM, logistic regression, or logistic regression weighted by naive Bayes. For
pictures a histogram of their colours into logistic regression. For features of a frozen network logistic regression (a probe) and
the nearest neighbours. Each learns from the training rows, and its few settings are chosen on validation: by `Choose`, in the
order of the grid, the first of equals. Everything is decided by the rows: the same ones give the same numbers again.

Shapes: N rows, K classes, V terms, F features.

References: Yang & Pedersen 1997 (selection of terms); Wang & Manning 2012 (naive Bayes weights); Swain & Ballard 1991,
doi:10.1007/BF00130487 (histograms of colours).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import xlogy

from hftl.evaluation.targets import Floats, Integers
from hftl.scripts import UNSPACED

Logits = NDArray[np.float32]
Choose = Callable[[Logits], float]
"""How good the answers to the validation rows are, higher is better."""
Score = Literal["document frequency", "chi-square", "information gain", "mutual information"]
SCORES: tuple[Score, ...] = ("document frequency", "chi-square", "information gain", "mutual information")

MOST_TERMS = 200_000
"""The most frequent terms are looked at, no others."""
MOST_LETTERS = 5_000
"""Of each text so many letters are read, from its beginning."""
RARE_FROM = 1_000
"""With so many training texts or more, a term that only one of them has is left out."""
SELECTED = (1_000, 10_000)
"""How many terms a selection keeps."""
LEVELS = 8
"""Levels of each of red, green and blue in a histogram: 512 colours."""
SIDE = 64
"""Pixels of the shorter side of a picture, about, of which the colours are counted."""
_RATES = {"linear SVM": (0.1, 1.0, 10.0), "logistic regression": (1.0, 10.0, 100.0), "naive Bayes weights": (0.1, 1.0, 10.0)}
_OF_FEATURES = (0.0001, 0.001, 0.01, 0.1, 1.0)
_NEIGHBOURS = (1, 5, 15, 45)
_FAR = 10.0
"""A class that training has no row of gets a logit so much below the others'."""

WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
"""A word; a letter of a script without spaces is one of its own."""


class NoBaseline(Exception):
    """A baseline cannot be fitted on these rows; the message says why."""


@dataclass(frozen=True)
class Rows:
    """Rows with their labels: contents, or features of them."""

    contents: Any
    """Texts, a list of N; histograms or features, (N, F)."""
    labels: Integers
    """(N,) in 0..K-1, or (N, K) of 0 and 1 where an example has several labels."""
    weights: NDArray[np.float32] | None = None
    """(N,) what each counts for in training; None: all the same. Neighbours and selections of terms count rows."""


@dataclass(frozen=True)
class Baseline:
    """A method that was fitted, with the settings that did best on validation."""

    name: str
    choice: Mapping[str, str | int | float]
    logits: Logits
    """(N, K) of the validation rows."""
    answer: Callable[[Any], Logits]
    """(N, K) for other contents."""
    seconds: float
    """With every setting that was tried."""


# --- texts --------------------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """The words of a text in small letters; of a script without spaces its letters."""
    return WORD.findall(text[:MOST_LETTERS].lower())


class Terms:
    """Counts of the terms of texts: words and pairs of words, or 2 to 4 letters on end within a word.

    They are those of scikit-learn's CountVectorizer, whose loop over every term of every text takes minutes for twenty thousand
    long texts. Here pairs of words are pairs of numbers, and the letters of a word are counted once, however many texts have it.

    Raises:
        NoBaseline: the texts have no term, or none that two of them share where they are many.
    """

    def __init__(self, of: Literal["words", "letters"], texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfTransformer

        self._counter = _Words(texts) if of == "words" else _Letters(texts)
        keys, counts = self._counter.count(texts)
        in_texts, total = np.bincount(counts.indices, minlength=len(keys)), np.asarray(counts.sum(axis=0)).ravel()
        enough = np.flatnonzero(in_texts >= (2 if len(texts) >= RARE_FROM else 1))
        if not len(enough):
            raise NoBaseline("the training texts have no term in common")
        most = np.sort(enough[np.argsort(-total[enough], kind="stable")[:MOST_TERMS]])
        self._keys = keys[most]
        self.counts = csr_array(counts[:, most])
        self._weights = TfidfTransformer(sublinear_tf=True).fit(self.counts)

    def of(self, texts: Sequence[str]) -> csr_array:
        """(N, V) how often each term is in each text."""
        keys, counts = self._counter.count(texts)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        there = np.flatnonzero(self._keys[place] == keys)
        onto = _table(there, place[there], shape=(len(keys), len(self._keys)))
        return csr_array(counts @ onto)

    def tfidf(self, counts: csr_array) -> csr_array:
        """(N, V) ``(1 + ln count) (1 + ln((1 + N) / (1 + document frequency)))``, rows of length 1."""
        return csr_array(self._weights.transform(counts))


class _Words:
    """Words and pairs of words that stand next to each other; `count` knows those of the training texts alone."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._known = {word: place for place, word in enumerate(sorted({word for text in texts for word in words(text)}))}

    def count(self, texts: Sequence[str]) -> tuple[Integers, csr_array]:
        """(T,) the keys of the terms that the texts have, ascending, and (N, T) how often each text has them.

        Of W words: i, and W + i W + j of a pair.
        """
        found = [[self._known.get(word, -1) for word in words(text)] for text in texts]
        word, text, size = np.array([place for own in found for place in own], dtype=np.int64), _places(found), len(self._known)
        pair = np.flatnonzero((word[:-1] >= 0) & (word[1:] >= 0) & (text[:-1] == text[1:]))
        own = np.flatnonzero(word >= 0)
        keys, column = np.unique(np.concatenate([word[own], size + word[pair] * size + word[pair + 1]]), return_inverse=True)
        return keys, _table(np.concatenate([text[own], text[pair]]), column, shape=(len(texts), len(keys)))


class _Letters:
    """2 to 4 letters on end of what stands between white space, a space before and behind it."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        self._of_words = CountVectorizer(analyzer="char_wb", lowercase=False, ngram_range=(2, 4))
        known = sorted({word for text in texts for word in _between_spaces(text)})
        if not known:
            raise NoBaseline("the training texts are empty")
        self._of_words.fit(known)

    def count(self, texts: Sequence[str]) -> tuple[Integers, csr_array]:
        """(T,) the keys of the terms, ascending, and (N, T) how often each text has them: (N, words) @ (words, T)."""
        numbers: dict[str, int] = {}
        found = [[numbers.setdefault(word, len(numbers)) for word in _between_spaces(text)] for text in texts]
        of_words = csr_array(self._of_words.transform(numbers))
        word = np.array([place for own in found for place in own], dtype=np.int64)
        return np.arange(of_words.shape[1]), csr_array(_table(_places(found), word, shape=(len(texts), len(numbers))) @ of_words)


def _between_spaces(text: str) -> list[str]:
    return text[:MOST_LETTERS].lower().split()


def _places(lists: Sequence[Sequence[int]]) -> Integers:
    """Of each entry of several lists, one after the other, which list it is in."""
    return np.repeat(np.arange(len(lists)), [len(own) for own in lists])


def _table(rows: Integers, columns: Integers, *, shape: tuple[int, int]) -> csr_array:
    """How often each pair of row and column is there."""
    places = rows.astype(np.int32), columns.astype(np.int32)  # which scikit-learn's solvers want
    return csr_array((np.ones(len(rows), dtype=np.int64), places), shape=shape)


def term_scores(counts: csr_array, labels: Integers, by: Score) -> Floats:
    """(V,) how much each term tells of the class, by whether a text has it; higher is better.

    With n(t, c) texts of class c that have term t, of N texts:

    - document frequency: how many texts have it.
    - chi-square: Pearson's, of the 2 x K table of "has it" and class: the sum over its cells of (seen - expected)^2 / expected.
    - information gain: H(c) - P(t) H(c | t) - P(not t) H(c | not t), in nats. This is the mutual information of two random
      variables, what scikit-learn's `mutual_info_classif` computes of a table that says 0 or 1.
    - mutual information: that of Yang & Pedersen, of one event and another: the most over the classes of
      ln(P(t, c) / (P(t) P(c))). It likes rare terms, and in their study it was the worst of the four.
    """
    classes = int(labels.max()) + 1
    number = len(labels)
    member = csr_array((np.ones(number), (labels, np.arange(number))), shape=(classes, number))
    present = csr_array(counts.astype(bool).astype(np.float64))
    having = np.asarray((member @ present).todense())  # (K, V)
    of_class = np.bincount(labels, minlength=classes).astype(np.float64)[:, None]
    frequency: Floats = having.sum(axis=0)
    if by == "document frequency":
        return frequency
    cells = np.stack([having, of_class - having])  # (2, K, V)
    expected = np.stack([of_class * frequency, of_class * (number - frequency)]) / number
    if by == "chi-square":
        squares = (cells - expected) ** 2
        return np.divide(squares, expected, out=np.zeros_like(squares), where=expected > 0).sum(axis=(0, 1))  # type: ignore[no-any-return]
    ratio = np.divide(cells, expected, out=np.ones_like(cells), where=expected > 0)
    if by == "information gain":
        return np.asarray(xlogy(cells, ratio).sum(axis=(0, 1)) / number)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(ratio[0]).max(axis=0))


def best_terms(scores: Floats, count: int) -> Integers:
    """The places of the `count` highest scores, in the order of the terms; the first of equals."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def naive_bayes_weights(counts: csr_array, of_class: NDArray[np.bool_]) -> Floats:
    """(V,) ln of (p / |p|) / (q / |q|), with p and q one more than in how many texts of the class, and of the others, a term is."""
    present = counts.astype(bool).astype(np.float64)
    p = 1 + np.asarray(present[np.flatnonzero(of_class)].sum(axis=0)).ravel()
    q = 1 + np.asarray(present[np.flatnonzero(~of_class)].sum(axis=0)).ravel()
    return np.asarray(np.log(p / p.sum()) - np.log(q / q.sum()))


def cheap_text_baseline(train: Rows, validation: Rows, *, classes: int, choose: Choose) -> Baseline:
    """TF-IDF of words into logistic regression, its strength chosen on validation: seconds for thousands of texts.

    Raises:
        NoBaseline: the training rows are of one class, or have no term.
    """
    _check_labels(train.labels)
    began = time.perf_counter()
    terms = Terms("words", train.contents)
    matrix, other = terms.tfidf(terms.counts), terms.tfidf(terms.of(validation.contents))
    strength, logits, model = _best(
        ((c, _logistic(matrix, train, classes, c)) for c in _RATES["logistic regression"]), other, choose
    )
    return Baseline(
        "TF-IDF of words, logistic regression",
        {"C": strength, "terms": matrix.shape[1]},
        logits,
        lambda texts: model(terms.tfidf(terms.of(texts))),
        time.perf_counter() - began,
    )


def text_baselines(train: Rows, validation: Rows, *, classes: int, choose: Choose) -> Iterator[Baseline]:
    """Every method for texts. Of each, first the strength is chosen with all terms, then with it the selection of terms.

    Of several labels an example: logistic regression, a label each, with all terms.

    Raises:
        NoBaseline: the training rows are of one class, or have no term.
    """
    _check_labels(train.labels)
    for of in ("words", "letters"):
        terms = Terms(of, train.contents)
        other = terms.of(validation.contents)
        size = terms.counts.shape[1]
        several = train.labels.ndim == 2
        selections = [(by, count) for by, count in product(SCORES, SELECTED) if count < size and not several]
        scores = {by: term_scores(terms.counts, train.labels, by) for by, _ in selections}
        methods = {"logistic regression": _RATES["logistic regression"]} if several else _RATES
        for method, strengths in methods.items():
            yield _text_baseline(terms, other, train, classes, choose, of, method, strengths, selections, scores)


def _text_baseline(
    terms: Terms,
    other: csr_array,
    train: Rows,
    classes: int,
    choose: Choose,
    of: str,
    method: str,
    strengths: Sequence[float],
    selections: Sequence[tuple[Score, int]],
    scores: Mapping[Score, Floats],
) -> Baseline:
    began = time.perf_counter()
    counted = method == "naive Bayes weights"
    fit = {"linear SVM": _svm, "logistic regression": _logistic, "naive Bayes weights": _naive_bayes_logistic}[method]
    matrix, unseen = (terms.counts, other) if counted else (terms.tfidf(terms.counts), terms.tfidf(other))

    strength, logits, model = _best(((c, fit(matrix, train, classes, c)) for c in strengths), unseen, choose)
    choice: dict[str, str | int | float] = {"C": strength, "terms": matrix.shape[1]}
    chosen: Integers = np.arange(matrix.shape[1])
    value = choose(logits)
    for by, count in selections:
        columns = best_terms(scores[by], count)
        candidate = fit(csr_array(matrix[:, columns]), train, classes, strength)
        answers = candidate(csr_array(unseen[:, columns]))
        if (reached := choose(answers)) > value:
            value, chosen, logits, model = reached, columns, answers, candidate
            choice = {"C": strength, "terms": count, "selected by": by}
    name = f"{'' if counted else 'TF-IDF of '}{of}, {'logistic regression with naive Bayes weights' if counted else method}"

    def answer(texts: Sequence[str]) -> Logits:
        counts = terms.of(texts)
        return model(csr_array((counts if counted else terms.tfidf(counts))[:, chosen]))

    return Baseline(name, choice, logits, answer, time.perf_counter() - began)


# --- pictures -----------------------------------------------------------------------------------------------------------------


def color_histogram(picture: NDArray[np.uint8]) -> Floats:
    """(512,) the square roots of the shares of its colours; `picture` is (H, W, 3). Place 64 r + 8 g + b, each in 0..7."""
    levels = (picture.reshape(-1, 3) // (256 // LEVELS)).astype(np.int64)
    places = levels @ np.array([LEVELS**2, LEVELS, 1])
    return np.asarray(np.sqrt(np.bincount(places, minlength=LEVELS**3) / len(places)))


def color_baseline(train: Rows, validation: Rows, *, classes: int, choose: Choose) -> Baseline:
    """Histograms of colours, (N, 512), into logistic regression.

    Raises:
        NoBaseline: the training rows are of one class.
    """
    _check_labels(train.labels)
    began = time.perf_counter()
    strength, logits, model = _best(
        ((c, _logistic(train.contents, train, classes, c)) for c in (0.1, 1.0, 10.0, 100.0)), validation.contents, choose
    )
    seconds = time.perf_counter() - began
    return Baseline("histogram of colours, logistic regression", {"C": strength}, logits, model, seconds)


# --- features of a frozen network ---------------------------------------------------------------------------------------------


def feature_baselines(features: Mapping[str, tuple[Rows, Rows]], *, classes: int, choose: Choose) -> Iterator[Baseline]:
    """A probe and the nearest neighbours of frozen features; of each kind of them, such as "mean", the rows of both splits.

    Raises:
        NoBaseline: the training rows are of one class.
    """
    for train, _ in features.values():
        _check_labels(train.labels)
    began = time.perf_counter()
    tried: list[tuple[float, dict[str, str | int | float], Logits, Callable[[Any], Logits]]] = []
    for kind, (train, validation) in features.items():
        mean, spread = train.contents.mean(axis=0), train.contents.std(axis=0) + 1e-6
        scaled = (train.contents - mean) / spread
        strength, logits, model = _best(
            ((c, _logistic(scaled, train, classes, c)) for c in _OF_FEATURES), (validation.contents - mean) / spread, choose
        )
        tried.append((choose(logits), {"features": kind, "C": strength}, logits, _after_scaling(model, mean, spread)))
    _, choice, logits, answer = max(tried, key=lambda each: each[0])
    yield Baseline("frozen features, logistic regression", choice, logits, answer, time.perf_counter() - began)
    began = time.perf_counter()
    tried = []
    for kind, (train, validation) in features.items():
        for k in (k for k in _NEIGHBOURS if k <= len(train.labels)):
            near = _neighbours(train, k, classes)
            logits = near(validation.contents)
            tried.append((choose(logits), {"features": kind, "k": k}, logits, near))
    _, choice, logits, answer = max(tried, key=lambda each: each[0])
    yield Baseline("frozen features, nearest neighbours", choice, logits, answer, time.perf_counter() - began)


def _after_scaling(model: Callable[[Any], Logits], mean: Floats, spread: Floats) -> Callable[[Any], Logits]:
    return lambda features: model((features - mean) / spread)


def _neighbours(train: Rows, k: int, classes: int) -> Callable[[Any], Logits]:
    """Votes of the k rows of the least angle, as logits ln((votes + 1) / (k + K)); of several labels an example ln((votes + 1) /
    (k - votes + 1)) of each."""
    known = _of_length_one(train.contents)

    def answer(features: Any) -> Logits:
        found = np.empty((len(features), classes), dtype=np.float32)
        for start in range(0, len(features), 1_000):
            likeness = _of_length_one(features[start : start + 1_000]) @ known.T
            nearest = train.labels[np.argsort(-likeness, axis=1, kind="stable")[:, :k]]
            if nearest.ndim == 3:
                votes = nearest.sum(axis=1)
                found[start : start + 1_000] = np.log((votes + 1) / (k - votes + 1))
            else:
                votes = (nearest[:, :, None] == np.arange(classes)).sum(axis=1)
                found[start : start + 1_000] = np.log((votes + 1) / (k + classes))
        return found

    return answer


def _of_length_one(features: Floats) -> Floats:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))


# --- every kind ---------------------------------------------------------------------------------------------------------------


def majority(train: Rows, validation: Rows, *, classes: int) -> Baseline:
    """The most frequent class of the training rows, always; its logits are ln of the shares, one row more for each class.

    Of several labels an example every label always, which is the best macro F1 of an answer that does not look.
    """
    several = train.labels.ndim == 2
    if several:
        row = np.zeros(classes, dtype=np.float32)  # a probability of 0.5, which reaches every threshold that it chooses
    else:
        shares = np.bincount(train.labels, train.weights, minlength=classes) + 1.0
        row = np.log(shares / shares.sum()).astype(np.float32)

    def answer(contents: Any) -> Logits:
        return np.tile(row, (contents.shape[0] if hasattr(contents, "shape") else len(contents), 1))

    return Baseline("every label always" if several else "majority", {}, np.tile(row, (len(validation.labels), 1)), answer, 0.0)


def _check_labels(labels: Integers) -> None:
    if len(np.unique(labels, axis=0)) < 2:
        raise NoBaseline("the training rows that a baseline would learn from are of one class")


def _best(
    fitted: Iterator[tuple[float, Callable[[Any], Logits]]], unseen: Any, choose: Choose
) -> tuple[float, Logits, Callable[[Any], Logits]]:
    """The setting, the answers and the model that do best on validation; the first of equals."""
    tried = [(setting, model(unseen), model) for setting, model in fitted]
    return max(tried, key=lambda each: choose(each[1]))


def _logistic(matrix: Any, train: Rows, classes: int, c: float) -> Callable[[Any], Logits]:
    from sklearn.linear_model import LogisticRegression

    if train.labels.ndim == 2:
        return _a_label_each(matrix, train, c)
    model = LogisticRegression(C=c, max_iter=2_000, tol=1e-3).fit(matrix, train.labels, train.weights)
    return lambda unseen: _all_classes(model.decision_function(unseen), model.classes_, classes)


def _a_label_each(matrix: Any, train: Rows, c: float) -> Callable[[Any], Logits]:
    """Of several labels an example: each against its absence; one that all training rows have, or none, is constant."""
    from sklearn.linear_model import LogisticRegression

    models: list[Any] = []
    for of_label in train.labels.T:
        always = of_label.min() == of_label.max()
        model = LogisticRegression(C=c, solver="liblinear", tol=1e-2, random_state=0)
        models.append((_FAR if of_label.max() else -_FAR) if always else model.fit(matrix, of_label, train.weights))

    def answer(unseen: Any) -> Logits:
        constant = np.ones(unseen.shape[0])
        columns = [constant * model if isinstance(model, float) else model.decision_function(unseen) for model in models]
        return np.stack(columns, axis=1).astype(np.float32)

    return answer


def _svm(matrix: Any, train: Rows, classes: int, c: float) -> Callable[[Any], Logits]:
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=c, dual="auto", max_iter=10_000, random_state=0).fit(matrix, train.labels, train.weights)
    return lambda unseen: _all_classes(model.decision_function(unseen), model.classes_, classes)


def _naive_bayes_logistic(counts: Any, train: Rows, classes: int, c: float) -> Callable[[Any], Logits]:
    """One class against the others, on whether a term is there times its naive Bayes weight."""
    from sklearn.linear_model import LogisticRegression

    labels = train.labels
    known = np.unique(labels)
    parts = []
    present = csr_array(counts.astype(bool).astype(np.float64))
    for label in known[1:] if len(known) == 2 else known:
        of_class = labels == label
        weights = naive_bayes_weights(counts, of_class)
        model = LogisticRegression(C=c, max_iter=2_000, tol=1e-3, solver="liblinear", random_state=0)
        parts.append((weights, model.fit(present.multiply(weights).tocsr(), of_class, train.weights)))

    def answer(unseen: Any) -> Logits:
        there = csr_array(unseen.astype(bool).astype(np.float64))
        columns = [model.decision_function(there.multiply(weights).tocsr()) for weights, model in parts]
        return _all_classes(columns[0] if len(columns) == 1 else np.stack(columns, axis=1), known, classes)

    return answer


def _all_classes(decision: Floats, known: Integers, classes: int) -> Logits:
    """(N, K) of what was decided between the classes that training has; those of two classes are -z / 2 and z / 2."""
    if decision.ndim == 1:
        decision = np.stack([-decision / 2, decision / 2], axis=1)
    logits = np.repeat(decision.min(axis=1, keepdims=True) - _FAR, classes, axis=1)
    logits[:, known] = decision
    return logits.astype(np.float32)
