"""The GloVe families: word vectors from a file, a vocabulary from the training texts, a word-level tokenizer, and the two models.

Words that the vectors lack. A vocabulary word without a vector starts as a random point of the vectors' own cloud, so that it
has an identity even while the table is frozen (Kim 2014, arXiv:1408.5882, does the same). With `trainable_dim` every word also
has a row in a second, trained table: there such a word learns its meaning from the labels. Words outside the vocabulary share
<unk>, the mean vector. Without a file of vectors every word is a random point.

What a word is. In scripts with spaces: what `_WORD` matches; the tokenizer is a list of words. Where the training texts are in
scripts without spaces, what stands between two spaces or signs is a clause and not a word: there it is cut, into words by a unigram
model (`hftl.models.segmentation`) or into letters. Both live in tokenizer.json, so that whoever uses the model needs no segmenter.
Among the words of a unigram model those of scripts with spaces begin and end with a mark, "▁film▁", so that no part of "filmic" is
read as one of them.

Shapes: V words of the vocabulary, <pad> and <unk> included; D dimensions of a vector.
References: Pennington et al. 2014, GloVe; https://nlp.stanford.edu/projects/glove/ (the files and the tokens in them).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import Unigram, WordLevel
from tokenizers.normalizers import NFC, Lowercase, Normalizer, Replace
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import PreTokenizer, Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hftl.errors import Problem, RecipeError
from hftl.models import glove_modeling, transformer
from hftl.models.chain import HEAD, Chain, LayerGroup
from hftl.models.checkpoint import CONFIG, Checkpoint, quiet_loading, run_error
from hftl.models.family import Classifier, Family
from hftl.models.foreign import beyond_memory
from hftl.models.segmentation import count_pieces, fitting, learn_words, scores
from hftl.models.vectors import WHERE, compose_vectors, file_name, learned, read_vectors, read_words
from hftl.names import NETWORKS
from hftl.recipe import Recipe, TextData, WordVectors
from hftl.scripts import UNSPACED, unspaced

PAD, UNKNOWN = "<pad>", "<unk>"
SEPARATOR = "<sep>"
"""Between the two texts of a pair."""

Cut = Literal["none", "words", "characters"]
"""What is made of a clause in a script without spaces: itself, its words, its letters."""
CUT_FROM = 0.01
"""With `segmentation: auto` clauses are cut where such scripts have so large a share of the letters of the training texts."""
_NO_VECTORS = np.zeros((0, 0), dtype=np.float32)

_MODELS: dict[str, Any] = {}
"""`model_type` -> the class of the model."""

for model_type, network in NETWORKS.items():
    if network.module != __name__:
        continue
    config_class, model_class = getattr(glove_modeling, network.config), getattr(glove_modeling, network.model)
    _MODELS[model_type] = model_class
    AutoConfig.register(model_type, config_class, exist_ok=True)
    AutoModelForSequenceClassification.register(config_class, model_class, exist_ok=True)
    # `save_pretrained` then writes `auto_map` and a copy of glove_modeling.py, for those who load the model without hftl.
    config_class.register_for_auto_class("AutoConfig")
    model_class.register_for_auto_class("AutoModelForSequenceClassification")


def build(spec: WordVectors, label_names: Sequence[str], *, texts: Iterable[str], pair: bool = False) -> Classifier:
    """A classifier over the vectors that `spec` names, with the vocabulary of the training texts.

    What is random is drawn from torch's generator: seed it before. With `pair` the tokenizer takes two texts, and puts `SEPARATOR`
    between them, a word whose vector is random.

    Raises:
        RecipeError: the vectors cannot be read, or hold none of the texts' words.
    """
    read = read_vocabulary(spec, texts)
    vocabulary, row_of, vectors = read.words, read.row_of, read.vectors
    covered = _vocabulary_facts(vocabulary, read.whole, row_of, read.counts)
    if composed := len(row_of) - len(read.whole):
        covered["from_parts"] = composed
    if read.cut != "none":
        covered["segmentation"] = _segmentation_facts(read.cut, read.share, read.pieces, read.whole, read.counts)
    if pair:
        vocabulary = [SEPARATOR, *vocabulary]
        row_of.pop(SEPARATOR, None)  # a word of that name in a file is another one
    shared: dict[str, Any] = {
        "vocab_size": len(vocabulary) + 2,
        "vector_dim": spec.random_dim or vectors.shape[1],
        "trainable_dim": spec.trainable_dim,
        "dropout": spec.dropout,
        "word_dropout": spec.word_dropout,
        "vectors": file_name(spec.vectors) if spec.random_dim is None else None,
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    with torch.device("meta"):  # where a number costs no memory
        if (too_large := beyond_memory(_make(spec, shared).num_parameters())) is not None:
            raise RecipeError.single("model", f"has {too_large[0]}", too_large[1], source=spec.vectors)
    model = _make(spec, shared)
    if spec.random_dim is None:
        with torch.no_grad():
            model.embedding.weight.copy_(embedding_rows(vocabulary, row_of, vectors))
    facts = {**_facts(model), "vocabulary": covered, **_learned(spec)}
    model.eval()
    tokenizer = make_tokenizer(vocabulary, read.cut, scores(read.pieces), pair=pair)
    return Classifier(model=model, preprocessor=tokenizer, chain=chain(model), facts=facts)


@dataclass(frozen=True)
class Vocabulary:
    """The words of some texts that are worth a row, and how the texts are cut into them."""

    words: list[str]
    """Most frequent first."""
    counts: Mapping[str, int]
    """How often each word is in the texts, also those without a row."""
    cut: Cut
    share: float
    """That of scripts without spaces in the letters of the texts."""
    pieces: Mapping[str, int]
    """Of the words those that clauses are cut into, with their counts."""
    whole: frozenset[str]
    """The words that are in the file of vectors."""
    row_of: dict[str, int]
    """The row of each of these, and of the words whose vector is made of those of their parts."""
    vectors: npt.NDArray[np.float32]


def read_vocabulary(spec: WordVectors, texts: Iterable[str]) -> Vocabulary:
    """The words of texts by the rules of `spec`, and the vectors of those that have one.

    Raises:
        RecipeError: the vectors cannot be read, or hold none of the texts' words.
    """
    counts = count_words(texts)
    share = share_unspaced(counts)
    cut = cut_of(spec, share)
    spaced, clauses = (counts, Counter[str]()) if cut == "none" else cut_words(counts, cut)
    if cut != "none":
        counts = spaced + (count_pieces(clauses, learn_words(clauses, _known(spec, clauses))) if cut == "words" else clauses)
    words, vectors = ([], _NO_VECTORS) if spec.random_dim is not None else read_vectors(spec.vectors, {UNKNOWN, *counts})
    row_of = {word: row for row, word in enumerate(words)}
    vocabulary = choose_vocabulary(counts, row_of, max_words=spec.max_words, min_count=spec.min_count)
    whole = frozenset(row_of)
    if spec.random_dim is None:
        composed, further = compose_vectors(spec.vectors, [word for word in vocabulary if word not in whole])
        if composed:
            row_of |= {word: len(words) + place for place, word in enumerate(composed)}
            vectors = np.concatenate([vectors, further])
    if spec.random_dim is None and not any(word in row_of for word in vocabulary):
        what = f"{spec.vectors} holds none of the {len(counts):,} words of the training texts"
        raise RecipeError(spec.vectors, [Problem(WHERE, what, ("vectors of the texts' language are needed, in lower case",))])
    pieces = {word: counts[word] for word in vocabulary if unspaced(word)}
    if cut == "words":  # what was left out of the vocabulary is read as other words of it
        counts = spaced + count_pieces(clauses, pieces)
    return Vocabulary(vocabulary, counts, cut, share, pieces, whole, row_of, vectors)


def number_words(vocabulary: Vocabulary, texts: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
    """Each text as the places of its words in the vocabulary, -1 for a word without a row: as its tokenizer cuts it.

    As no word crosses a space, each distinct run between spaces is tokenised once.
    """
    tokenizer = make_tokenizer(vocabulary.words, vocabulary.cut, scores(vocabulary.pieces)).backend_tokenizer
    numbers: dict[str, npt.NDArray[np.int32]] = {}
    line_break, nothing = re.compile(_LINE_BREAK), np.zeros(0, dtype=np.int32)
    texts = iter(texts)
    while some := list(itertools.islice(texts, 10_000)):
        cut = [line_break.sub(" ", text).split(" ") for text in some]
        if len(numbers) >= _MOST_RUNS:
            numbers.clear()
        new = [run for run in dict.fromkeys(itertools.chain.from_iterable(cut)) if run not in numbers]
        for run, encoded in zip(new, tokenizer.encode_batch(new, add_special_tokens=False), strict=True):
            ids = np.array(encoded.ids, dtype=np.int32) - 2  # <pad> and <unk> come before the vocabulary
            numbers[run] = np.where(ids < 0, np.int32(-1), ids)
        for runs in cut:
            yield np.concatenate([nothing, *map(numbers.__getitem__, runs)])


def _learned(spec: WordVectors) -> dict[str, Any]:
    """How the vectors were learned, where `hftl vectors` has made them: see `hftl.records.data.LearnedVectors`."""
    found = learned(spec.vectors) if spec.random_dim is None else None
    if found is None:
        return {}
    names = [f"{some['name']} {some['texts']:,}" for some in found["texts"]]
    settings = {key: found[key] for key in ("method", "dimensions", "window", "epochs", "seed")}
    texts = sum(some["texts"] for some in found["texts"])
    return {"vectors": {**settings, "texts": texts, "names": names, "sha256": found["file"]["sha256"]}}


def _make(spec: WordVectors, shared: dict[str, Any]) -> Any:
    """A model with random weights; what the section has beside the fields of all is its configuration's, by the same names."""
    model_class = _MODELS[spec.model_type]
    own = {name: value for name, value in spec if name not in WordVectors.model_fields and name != "family"}
    return model_class(model_class.config_class(**own, **shared))


def load(folder: Path) -> Classifier:
    """Read what `hftl.models.transformer.save` wrote, with the classes of this package.

    The facts about the training texts stay in the run's data.json.

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


def _vocabulary_facts(
    vocabulary: Sequence[str], vectors: Container[str], row_of: Container[str], counts: Mapping[str, int]
) -> dict[str, Any]:
    """How much of the training texts the vectors and the vocabulary cover; shares are of all words, repeats counted."""
    total = sum(counts.values())
    in_vectors = [word for word in vocabulary if word in vectors]
    return {
        "words": len(vocabulary),
        "in_vectors": len(in_vectors),
        "share_in_vectors": sum(counts[word] for word in in_vectors) / total,
        "share_unknown": 1 - sum(counts[word] for word in vocabulary) / total,
        "frequent_without_vector": [word for word in vocabulary if word not in row_of][:10],
    }


def _segmentation_facts(
    cut: Cut, share: float, weights: Container[str] | Mapping[str, int], vectors: Container[str], counts: Mapping[str, int]
) -> dict[str, Any]:
    """What clauses in scripts without spaces are cut into; `share` is that of such scripts in the letters of the training texts."""
    pieces = {word: count for word, count in counts.items() if unspaced(word)}
    known = [word for word in pieces if word in weights]
    return {
        "into": cut,
        "share": share,
        "words": len(known),
        "from_vectors": sum(word in vectors for word in known),
        "letters_per_word": sum(len(word) * count for word, count in pieces.items()) / sum(pieces.values()),
    }


def _build(recipe: Recipe, label_names: Sequence[str], texts: Iterable[str]) -> Classifier:
    assert isinstance(recipe.model, WordVectors)
    return build(recipe.model, label_names, texts=texts, pair=isinstance(recipe.data, TextData) and recipe.data.pair)


FAMILY = Family(_build, transformer.save, load, shortest_text=0, logits_alone=True)

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


_SPACED = rf"[\p{{L}}\p{{M}}&&[^{UNSPACED}]]"
_ENDINGS = ("s", "m", "d", "re", "ve", "ll")
_MARK = "▁"

_WORD_OR_CLAUSE = rf"[{UNSPACED}]+|{_MARK}{_SPACED}+{_MARK}|n't|'(?:{'|'.join(_ENDINGS)})|\p{{N}}+(?:[.,]\p{{N}}+)*|\.{{3}}|--|\S"
"""In a text whose words are marked (see `_marking`); the same words, and clauses apart from the words beside them."""
_WORD_OR_LETTER = rf"[{UNSPACED}]\p{{M}}*|" + _WORD.replace(r"[\p{L}\p{M}]", _SPACED)


def _plain(cut: Cut) -> list[Normalizer]:
    plain = [Replace(Regex(_LINE_BREAK), " "), NFC(), Lowercase(), Replace(Regex("[‘’´`]"), "'"), Replace(Regex("[“”]"), '"')]
    # A space without width stands between words of Thai and Khmer.
    return plain if cut == "none" else [*plain, Replace(Regex(f"[{_MARK}\u200b]"), " ")]


def _marking() -> list[Normalizer]:
    """ "▁didn▁'▁t▁", and of it "▁did▁n't", as `_WORD` would split it; a sign is no word of letters and has no mark."""
    outside = r"(?![\p{L}\p{N}])"
    return [
        Replace(Regex(rf"(?<!{_SPACED})(?={_SPACED})|(?<={_SPACED})(?!{_SPACED})"), _MARK),
        Replace(Regex(rf"n{_MARK}'{_MARK}t{_MARK}{outside}"), f"{_MARK}n't"),
        Replace(Regex(_MARK + _MARK), ""),  # where nothing stood before "n't"
        *(Replace(Regex(rf"'{_MARK}{ending}{_MARK}{outside}"), f"'{ending}") for ending in _ENDINGS),
    ]


def _normalizer(cut: Cut) -> Normalizer:
    return NormalizerSequence([*_plain(cut), *(_marking() if cut == "words" else ())])


def _pre_tokenizer(cut: Cut) -> PreTokenizer:
    expression = {"none": _WORD, "words": _WORD_OR_CLAUSE, "characters": _WORD_OR_LETTER}[cut]
    return Split(Regex(expression), behavior="removed", invert=True)


_MOST_RUNS = 500_000


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word is in the texts, in the tokenizer's own words.

    No word crosses a space, so each distinct run between spaces is tokenised once: 25,000 reviews in 4 s, against 15 s text by
    text. Runs are kept until there are 500,000 of them, some 50 MB; the distinct words are kept all.
    """
    runs: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    normalizer, pre_tokenizer = _normalizer("none"), _pre_tokenizer("none")

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


def share_unspaced(counts: Mapping[str, int]) -> float:
    """The share of scripts without spaces in the letters of the words."""
    letters = sum(len(word) * times for word, times in counts.items() if word[0].isalpha())
    return sum(unspaced(word) * times for word, times in counts.items()) / letters if letters else 0.0


def cut_of(spec: WordVectors, share: float) -> Cut:
    """What is made of clauses, where scripts without spaces have a share of the letters."""
    if share == 0.0 or spec.segmentation == "words" or (spec.segmentation == "auto" and share < CUT_FROM):
        return "none"
    return "characters" if spec.segmentation == "characters" else "words"


def cut_words(counts: Mapping[str, int], cut: Cut) -> tuple[Counter[str], Counter[str]]:
    """The words of scripts with spaces, and apart from them the clauses, or their letters, that stood in one word with others.

    Of {"lg外卖好吃": 2}: {"lg": 2} and {"外卖好吃": 2}.
    """
    spaced, clauses = Counter[str](), Counter[str]()
    normalizer, pre_tokenizer = _normalizer(cut), _pre_tokenizer(cut)
    for word, times in counts.items():
        if word.isascii():
            spaced[word] += times
            continue
        for piece, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(word)):
            (clauses if unspaced(piece) else spaced)[piece.strip(_MARK)] += times
    return spaced, clauses


def _known(spec: WordVectors, clauses: Mapping[str, int]) -> list[str]:
    """The words of the vectors that clauses may be cut into."""
    return read_words(spec.vectors, fitting(clauses)) if spec.random_dim is None else []


def choose_vocabulary(counts: Mapping[str, int], vectors: Container[str], *, max_words: int, min_count: int) -> list[str]:
    """The words worth a row: seen at least `min_count` times, or seen at all and in `vectors`; the most frequent `max_words`.

    Most frequent first, then by code point. With counts {"a": 2, "b": 2, "c": 1, "d": 1}, a vector for "c" and `min_count` 2:
    [a, b, c].
    """
    worth = (word for word, count in counts.items() if count >= min_count or word in vectors)
    return sorted(worth, key=lambda word: (-counts[word], word))[:max_words]


def make_tokenizer(
    vocabulary: Sequence[str], cut: Cut = "none", scored: Mapping[str, float] | None = None, *, pair: bool = False
) -> PreTrainedTokenizerBase:
    """A fast tokenizer of words: <pad> is 0, <unk> is 1, then the vocabulary in its order.

    A text without a word gives no token; the models read it as one <unk>. Where clauses are cut into words, `scored` has the
    logarithm of the share of each word that they are cut into. With `pair` it puts `SEPARATOR`, which the vocabulary has, between
    two texts.
    """
    if cut == "words":
        marking = NormalizerSequence(_marking())
        scored = scored or {}
        # A word of another script is read whole or not at all, whatever its score.
        pieces = [(word if word == SEPARATOR else marking.normalize_str(word), scored.get(word, 0.0)) for word in vocabulary]
        backend = Tokenizer(Unigram([(PAD, 0.0), (UNKNOWN, 0.0), *pieces], unk_id=1, byte_fallback=False))
    else:
        backend = Tokenizer(WordLevel({word: index for index, word in enumerate([PAD, UNKNOWN, *vocabulary])}, unk_token=UNKNOWN))
    backend.normalizer = _normalizer(cut)
    backend.pre_tokenizer = _pre_tokenizer(cut)
    if pair:
        separator = (SEPARATOR, backend.token_to_id(SEPARATOR))
        backend.post_processor = TemplateProcessing(single="$A", pair=f"$A {SEPARATOR} $B:1", special_tokens=[separator])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        **({"sep_token": SEPARATOR} if pair else {}),
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
