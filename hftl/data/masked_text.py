"""Texts as rows of tokens without padding, and their masks: what masked language modelling trains on.

All texts stand one after the other, with the tokenizer's separator after each, and are cut into rows of one length; each row is
begun and ended as the tokenizer begins and ends a text. Which words are masked depends on (seed, epoch, row) alone, so that a run
that goes on, and several processes, draw what one process draws in one piece.

Whole words are masked, 15 % of the tokens in them; of those 80 % become the mask, 10 % another token, 10 % stay (Devlin et al.
2019, arXiv:1810.04805). Rows of several texts: Liu et al. 2019, arXiv:1907.11692, FULL-SENTENCES.

R rows of T tokens, N tokens of all texts together, M masked places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

LONGEST_WORD = 10
"""Tokens of a word that is masked whole. Of a longer one (a sentence of a script without spaces) each token is a word."""
BATCH = 1_000  # texts that are cut into tokens at once
SPECIAL, BEGINS, CONTINUES = 0, 1, 2
"""What a token is: none of a word; a word's first; a later one of it."""
_ORDER, _MASKS, _HELD_OUT = 0, 1, 2  # so that no two draws have one seed

Tokens = npt.NDArray[np.int32]
Kinds = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MaskedRows:
    """Rows that were masked, of one length."""

    inputs: npt.NDArray[np.int64]
    """(R, T)"""
    places: npt.NDArray[np.int64]
    """(M,) which tokens are to be told, counted over all rows: row * T + column."""
    targets: npt.NDArray[np.int64]
    """(M,) what they are."""


@dataclass(frozen=True)
class PackedText:
    """Texts as rows."""

    tokens: Tokens
    """(N,) of all texts, a separator after each."""
    kinds: Kinds
    """(N,)"""
    before: tuple[int, ...]
    """With what every row begins, and ends: `after`."""
    after: tuple[int, ...]
    length: int
    """T"""
    texts: int
    mask: int
    """The token that stands for a masked one."""
    ordinary: Tokens
    """The tokens that may stand in for one: all of the vocabulary that are not special."""

    def __len__(self) -> int:
        room = self.length - len(self.before) - len(self.after)
        return max(1, -(-len(self.tokens) // room))

    def row(self, number: int) -> tuple[Tokens, Kinds]:
        """The tokens of a row and what they are; the last row reaches back to be as long as the others, where there is so much."""
        room = self.length - len(self.before) - len(self.after)
        start = min(number * room, max(0, len(self.tokens) - room))
        part = slice(start, start + room)
        tokens = np.concatenate([np.array(some, dtype=np.int32) for some in (self.before, self.tokens[part], self.after)])
        kinds = np.zeros(len(tokens), dtype=np.uint8)
        kinds[len(self.before) : len(tokens) - len(self.after)] = self.kinds[part]
        return tokens, kinds

    def at_step(self, step: int, batch_size: int, *, seed: int) -> list[tuple[int, int]]:
        """The (epoch, row) of every row of a step; steps go on from one epoch into the next, and each epoch has each row once."""
        places = [divmod(place, len(self)) for place in range(step * batch_size, (step + 1) * batch_size)]
        return [(epoch, int(_order(seed, epoch, len(self))[place])) for epoch, place in places]

    def masked(self, rows: Sequence[tuple[int, int]], *, seed: int, share: float) -> MaskedRows:
        """Rows by (epoch, row), with masks of their own."""
        return self._masked([(row, np.random.default_rng([_MASKS, seed, epoch, row])) for epoch, row in rows], share)

    def held_out(self, rows: Sequence[int], *, share: float) -> MaskedRows:
        """Rows with masks that are always the same, to measure by."""
        return self._masked([(row, np.random.default_rng([_HELD_OUT, row])) for row in rows], share)

    def _masked(self, rows: Sequence[tuple[int, np.random.Generator]], share: float) -> MaskedRows:
        inputs, places, targets = [], [], []
        for number, (row, generator) in enumerate(rows):
            tokens, kinds = self.row(row)
            chosen = choose_words(kinds, generator, share=share)
            dice = generator.random(len(chosen))
            others = self.ordinary[generator.integers(len(self.ordinary), size=len(chosen))]
            masked = tokens.copy()
            masked[chosen] = np.where(dice < 0.8, self.mask, np.where(dice < 0.9, others, tokens[chosen]))
            inputs.append(masked)
            targets.append(tokens[chosen])
            places.append(number * len(tokens) + chosen)
        return MaskedRows(*(np.concatenate(some).astype(np.int64) for some in ([np.stack(inputs)], places, targets)))


@lru_cache(maxsize=2)  # a step may end an epoch and begin another
def _order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(rows)


def choose_words(kinds: Kinds, generator: np.random.Generator, *, share: float) -> npt.NDArray[np.int64]:
    """The places of a row, ascending, whose words are masked: whole ones in a random order, those that fit into the share.

    Of 20 tokens in words and a share of 15 % there is room for 3: a word of 2 and then one of 3 leave the second out. The
    first word is taken whatever its length, where none fits.
    """
    begins = kinds == BEGINS
    # A row that begins inside a word: what is there of it is a word.
    begins |= (kinds == CONTINUES) & (np.concatenate([[SPECIAL], kinds[:-1]]) == SPECIAL)
    words = np.where(kinds == SPECIAL, -1, np.cumsum(begins) - 1)
    sizes = np.bincount(words[words >= 0])
    if not len(sizes):
        return np.zeros(0, dtype=np.int64)
    left = max(1, round(share * int(sizes.sum())))
    chosen, order = np.zeros(len(sizes) + 1, dtype=bool), generator.permutation(len(sizes)).tolist()  # the last is for -1
    of = sizes.tolist()
    for word in order:
        if of[word] <= left:
            chosen[word] = True
            left -= of[word]
            if not left:
                break
    if not chosen.any():
        chosen[order[0]] = True
    return np.flatnonzero(chosen[words])


def pack(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, length: int) -> PackedText:
    """Cut texts into tokens, and pack them into rows of `length` tokens."""
    before, after = _around(tokenizer)
    separator = after or tuple(token for token in (tokenizer.sep_token_id, tokenizer.eos_token_id) if token is not None)[:1]
    special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int32)
    parts: list[Tokens] = [np.zeros(0, dtype=np.int32)]
    starts: list[Kinds] = [np.zeros(0, dtype=np.uint8)]
    count = 0
    for ids, words in _encoded(texts, tokenizer):
        kinds = np.full(len(ids), CONTINUES, dtype=np.uint8)
        kinds[np.diff(words, prepend=-1) != 0] = BEGINS
        if len(words):
            kinds[np.bincount(words)[words] > LONGEST_WORD] = BEGINS
        kinds[np.isin(ids, special)] = SPECIAL
        parts += [ids, np.array(separator, dtype=np.int32)]
        starts += [kinds, np.zeros(len(separator), dtype=np.uint8)]
        count += 1
    known = np.array(sorted(tokenizer.get_vocab().values()), dtype=np.int32)
    return PackedText(
        np.concatenate(parts),
        np.concatenate(starts),
        before,
        after,
        length,
        count,
        mask=int(tokenizer.mask_token_id),
        ordinary=np.setdiff1d(known, special),
    )


def _encoded(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[Tokens, npt.NDArray[np.int64]]]:
    """Of each text its tokens and the number of the word that each is in."""
    rest = iter(texts)
    while some := list(islice(rest, BATCH)):
        encoded = tokenizer(some, add_special_tokens=False, truncation=False, padding=False, verbose=False)
        for encoding in encoded.encodings:
            words = [-1 if word is None else word for word in encoding.word_ids]
            # A token that is in no word by the tokenizer's account is one by itself, or special.
            yield np.array(encoding.ids, dtype=np.int32), _numbered(np.array(words, dtype=np.int64))


def _numbered(words: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Words by their order in the text, from 0; each token of none (-1) is one."""
    if not len(words):
        return words
    begins = (words != np.concatenate([[-2], words[:-1]])) | (words == -1)
    return np.cumsum(begins) - 1


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and after a text: those of BERT are [CLS] and [SEP]."""
    encoded = tokenizer("a", truncation=False, padding=False, return_special_tokens_mask=True)
    ids, mask = encoded["input_ids"], encoded["special_tokens_mask"]
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    return tuple(ids[:first]), tuple(ids[last:])
