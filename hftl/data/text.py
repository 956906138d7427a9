"""Texts as tokens: cut once, counted once, padded per batch.

The whole set is tokenised up front into an Arrow table: on disk, memory-mapped and found again by the next run where the data set
itself lies on disk (Hub, Parquet), in memory where it does not (CSV, JSONL). A text is tokenised once, whole, and cut afterwards as
the tokenizer's own truncation would cut it; so the share of cut texts and of unknown tokens costs no second pass.

N examples, B of them in a batch, T tokens of the longest in a batch.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from hftl.data.batches import width_multiple
from hftl.data.columns import Strings, integers
from hftl.data.content import MixedSteps, Reading, Scan
from hftl.data.duplicates import no_fingerprints, text_fingerprints
from hftl.data.encoding import read_text
from hftl.data.folders import open_texts
from hftl.data.inputs import Asked, OnBadImage, Say, read_texts
from hftl.data.joining import FIRST, put_texts, segments
from hftl.data.layout import Role, is_text
from hftl.data.loader import Samples, transfer
from hftl.data.rows import SHOWN, Source, Table
from hftl.data.targets import in_words, names_of, targets_of, weights_of
from hftl.errors import DataError, Problem, RecipeError
from hftl.names import HEAD_AND_TAIL, Tta
from hftl.recipe import TextData, Windows
from hftl.wording import listed

Truncate = Literal["head", "tail", "head+tail"]
"""What stays of a text that is too long."""

_LAYOUT = "hftl-tokens-1"  # part of the cache's key: change it whenever what `_tokenise` computes changes
_FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "length": Value("int32"),
        "words": Value("int32"),
        "unknown": Value("int32"),
    }
)
_TYPES = "token_type_ids"  # of pairs: which of the two a token is from, where the tokenizer says so

ENGLISH = "the film was slow at the start but the ending is good and the actors were fine"
"""What every tokenizer is measured against: one that reads this letter by letter reads everything so."""


class TextSamples:
    """Tokenised texts that a loader can index and collate.

    `full_lengths` (N,) are the tokens of each text before the cut, special tokens included; `lengths` (N,) those that the model
    computes: after the cut, and of a text of several windows those of all its windows, `windows_of_each` (N,).

    Args:
        dataset: columns `id`, `text`, `label`, as `load_splits` makes them; of pairs also `FIRST`.
        tokenizer: any fast tokenizer with a padding token.
        max_length: longest sample in tokens, special tokens included.
        windows: in which the model reads what is longer than one of them; None: it reads a text at once.

    Raises:
        RecipeError: the tokenizer is slow, cannot pad or tell a pair apart, or `max_length` leaves no room for a token of the text.
    """

    def __init__(
        self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int, windows: Windows | None = None
    ) -> None:
        self.ids: Sequence[str] = Strings(dataset, "id")
        self.targets = targets_of(dataset)
        self.weights = weights_of(dataset)
        self.max_length = max_length
        self._tokenizer = tokenizer
        before, after = _special_tokens(tokenizer, max_length)
        self.truncate, parts = _truncation(tokenizer, max_length)
        pairs = FIRST in dataset.column_names
        if pairs:
            _check_pairs(tokenizer, max_length)
        self._types = pairs and _TYPES in tokenizer.model_input_names
        self._tokens = dataset.map(
            _tokenise_pairs if pairs else _tokenise,
            batched=True,
            input_columns=["text", FIRST] if pairs else ["text"],
            remove_columns=dataset.column_names,
            features=Features({**_FEATURES, **({_TYPES: List(Value("int8"))} if pairs else {})}),
            fn_kwargs={
                "tokenizer": tokenizer,
                "max_length": max_length,
                **({} if pairs else {"before": before, "after": after, "parts": parts}),
            },
            new_fingerprint=_fingerprint(dataset, tokenizer, max_length),
            desc="tokenising",
        )
        self.full_lengths = integers(self._tokens, "length")
        # An empty text of a tokenizer without special tokens is one unknown token: longer than what the tokenizer returned.
        self.lengths: np.ndarray = np.clip(self.full_lengths, 1, max_length)
        self.windows = windows
        self.windows_of_each = np.ones(len(self.lengths), dtype=np.int64)
        if windows is not None:
            step = windows.length - before - after - windows.overlap  # 256 tokens, 2 special ones, 64 shared: every 190
            self.windows_of_each += -(-(self.lengths - windows.length).clip(min=0) // step)
            self.lengths = np.where(self.windows_of_each > 1, self.windows_of_each * windows.length, self.lengths)
        self._multiple = width_multiple(self.lengths)

    size_unit: Literal["tokens"] = "tokens"

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each text before the cut. (N,)"""
        return self.full_lengths

    @property
    def words(self) -> np.ndarray:
        """Tokens of each text that the model sees, special ones left out; read when they are asked for. (N,)"""
        return integers(self._tokens, "words")

    @property
    def unknown(self) -> np.ndarray:
        """How many of `words` are the unknown one. (N,)"""
        return integers(self._tokens, "unknown")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of every sample's tokens and of how they are padded: of all that the model gets."""
        padding = {"pad_token_id": self._tokenizer.pad_token_id, "padding_side": self._tokenizer.padding_side}
        digest = hashlib.sha256(json.dumps(padding, sort_keys=True).encode())
        digest.update(self.lengths.astype("<i4").data)  # or [1, 2], [3] would be [1], [2, 3]
        for name in ("input_ids", *([_TYPES] if self._types else [])):
            for chunk in self._tokens.data.column(name).chunks:
                digest.update(chunk.flatten().to_numpy().astype("<i4", copy=False).data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """Sample `index` of any epoch: ``{"input_ids": (T,) int32}``, of pairs with ``"token_type_ids": (T,) int8`` where the
        tokenizer gives them."""
        _, index = position
        # Straight from Arrow: 3 microseconds against 150 for `self._tokens[index]`, which decodes the whole row.
        names = ("input_ids", *([_TYPES] if self._types else []))
        return {name: self._tokens.data.column(name)[index].values.to_numpy() for name in names}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch, padded to its longest sample and on (see `width_multiple`), but not beyond `max_length`.

        ``{"input_ids": (B, T) int64, "attention_mask": (B, T) int64}``, and "token_type_ids" likewise where samples have them.
        """
        rows = [sample["input_ids"] for sample in samples]
        longest = max(len(row) for row in rows)
        # Padding makes no second window.
        most = self.max_length if self.windows is None or longest > self.windows.length else self.windows.length
        width = min(-(-longest // self._multiple) * self._multiple, most)
        batch = _pad(self._tokenizer, rows, width=width)
        if self._types:
            types = _padded([sample[_TYPES] for sample in samples], width, self._tokenizer.pad_token_type_id, self._tokenizer)
            batch[_TYPES] = torch.from_numpy(types)
        return batch

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """The same inputs on `device`."""
        return transfer(inputs, device)


def text_facts(samples: TextSamples) -> dict[str, Any]:
    """What a user should know about lengths and vocabulary before training.

    Lengths are in tokens before the cut, special tokens included. `share_truncated` counts texts longer than `max_length`;
    `share_unknown` is the share of unknown tokens among the tokens of the texts that the model sees, special tokens left out;
    `empty` counts texts without a token. `share_lost` is the share of all tokens that are cut off, and `truncate` what stays.
    `windows`, where texts are read in these, says how many there are of a text, and what they cost.
    """
    lengths, of_each = samples.full_lengths, samples.words
    words = int(of_each.sum())
    return {
        "length_mean": float(lengths.mean()),
        "length_median": float(np.median(lengths)),
        "length_p95": float(np.percentile(lengths, 95)),
        "max_length": samples.max_length,
        "share_truncated": float((lengths > samples.max_length).mean()),
        "share_lost": float((lengths - samples.max_length).clip(min=0).sum() / max(int(lengths.sum()), 1)),
        "truncate": samples.truncate,
        "share_unknown": float(samples.unknown.sum() / words) if words else 0.0,
        "empty": int((of_each == 0).sum()),
        **({} if samples.windows is None else {"windows": _window_facts(samples, samples.windows.length)}),
    }


def _window_facts(samples: TextSamples, length: int) -> dict[str, Any]:
    """Tokens of a window, windows a text, and the tokens that are computed over those of a first window alone."""
    first = np.clip(samples.full_lengths, 1, length)
    return {
        "length": length,
        "mean": float(samples.windows_of_each.mean()),
        "most": int(samples.windows_of_each.max()),
        "cost": float(samples.lengths.sum() / first.sum()),
    }


_LOOKED_AT = 200  # texts that `script_facts` looks at, and of each so many characters
_CHARACTERS = 500


def script_facts(texts: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, float]]:
    """How the tokenizer reads the scripts that the column `text` is written in, by their names, the most frequent first.

    For each `share` of the letters, marks counted, `tokens_per_letter`, and `unknown`: the share of those tokens that are the
    unknown one. Emoji and other signs count as a script, digits and punctuation do not. A script of less than 1 % is left out.
    About 0.3 tokens a letter is usual; 1 or more of an alphabet says that no word of it is in the vocabulary, and a tokenizer that
    goes down to single letters or bytes has no unknown token that would show it.
    """
    runs: Counter[tuple[str, str]] = Counter()
    places = np.unique(np.linspace(0, len(texts) - 1, min(_LOOKED_AT, len(texts))).astype(int))
    for text in texts[places.tolist()]["text"]:
        runs.update(_script_runs(text[:_CHARACTERS]))
    letters: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    if runs:
        with _Read():
            encoded = tokenizer([run for _, run in runs], add_special_tokens=False, truncation=False, padding=False, verbose=False)
        for ((script, run), times), ids in zip(runs.items(), encoded["input_ids"], strict=True):
            letters[script] += times * len(run)
            tokens[script] += times * len(ids)
            unknown[script] += times * ids.count(tokenizer.unk_token_id)
    return {
        script: {
            "share": round(count / letters.total(), 4),
            "tokens_per_letter": round(tokens[script] / count, 3),
            "unknown": round(unknown[script] / tokens[script], 4) if tokens[script] else 0.0,
        }
        for script, count in letters.most_common()
        if count >= 0.01 * letters.total()
    }


def _script_runs(text: str) -> Iterator[tuple[str, str]]:
    """("Thai", "หนัง"), ("Latin", "film"), ...: neighbouring letters of one script."""
    scripts: list[str | None] = []
    for letter in text:
        scripts.append(scripts[-1] if scripts and _is_mark(letter) else _script(letter))
    for script, places in groupby(range(len(text)), scripts.__getitem__):
        if script is not None:
            yield script, "".join(text[place] for place in places)


_NAMES = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "KATAKANA-HIRAGANA": "Japanese", "HANGUL": "Korean"}


@lru_cache(maxsize=4096)
def _script(letter: str) -> str | None:
    """A letter's script, by the first word of its name in Unicode; None for what is neither a letter nor a sign."""
    category = unicodedata.category(letter)
    if category[0] == "L" or _is_mark(letter):
        first = unicodedata.name(letter, "UNNAMED").partition(" ")[0]
        return _NAMES.get(first, first.capitalize())
    return "emoji or other signs" if category == "So" else None


@lru_cache(maxsize=4096)
def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "M"


def _pad(tokenizer: PreTrainedTokenizerBase, rows: Sequence[np.ndarray], *, width: int) -> dict[str, torch.Tensor]:
    """Rows side by side, padded to `width` on the tokenizer's side with its padding token: what `tokenizer.pad` gives."""
    # `tokenizer.pad` goes through Python lists: 4.9 ms a batch of 32 x 256, against 0.3 ms here.
    input_ids = _padded(rows, width, tokenizer.pad_token_id, tokenizer)
    attention_mask = _padded([np.ones(len(row), dtype=np.int64) for row in rows], width, 0, tokenizer)
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}


def _padded(rows: Sequence[np.ndarray], width: int, value: int, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Rows side by side, filled up with `value` on the tokenizer's side. (B, `width`) int64"""
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for position, row in enumerate(rows):
        start = width - len(row) if tokenizer.padding_side == "left" else 0
        padded[position, start : start + len(row)] = row
    return padded


class _Read:
    """Turns what a tokenizer raises over a text into a message, as where a regular expression of it would take for ever.

    The tokenizers library has no class of its own for it: it raises `Exception` itself, and where its Rust panics a nameless one.

    Raises:
        RecipeError: the tokenizer cannot read the texts.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None and (kind is Exception or kind.__name__ == "PanicException"):
            raise RecipeError.single("model", f"its tokenizer cannot read the texts: {error}") from None


def _tokenise(
    texts: list[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    before: int,
    after: int,
    parts: tuple[int, int] | None,
) -> dict[str, list[Any]]:
    """For each text its tokens, cut; their number before that; how many of those left are no special ones, and how many unknown."""
    unknown_id = tokenizer.unk_token_id
    columns: dict[str, list[Any]] = {name: [] for name in _FEATURES}
    with _Read():
        encoded = tokenizer(
            texts, truncation=False, padding=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
    for tokens in encoded["input_ids"]:
        ids = np.asarray(tokens, dtype=np.int32)
        length = len(ids)
        if length > max_length and parts is not None:
            ids = np.concatenate([ids[: parts[0]], ids[length - parts[1] :]])
        elif length > max_length:
            room = max_length - before - after
            body = ids[before : length - after]
            body = body[:room] if tokenizer.truncation_side == "right" else body[-room:]
            ids = np.concatenate([ids[:before], body, ids[length - after :]])
        words = len(ids) - before - after
        unknown = int(np.count_nonzero(ids[before : before + words] == unknown_id)) if unknown_id is not None else 0
        if not len(ids):
            ids = np.asarray([unknown_id], dtype=np.int32)
        for name, value in (("input_ids", ids), ("length", length), ("words", words), ("unknown", unknown)):
            columns[name].append(value)
    return columns


def _tokenise_pairs(
    texts: list[str], first_lengths: list[int], *, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, list[Any]]:
    """What `_tokenise` gives, of pairs, and the token types. What is too long is cut by the tokenizer: the longer text first."""
    pairs = [segments(text, length) for text, length in zip(texts, first_lengths, strict=True)]

    def encode(some: Sequence[tuple[str, str]], **how: Any) -> Any:
        with _Read():
            return tokenizer(
                [first for first, _ in some],
                [second for _, second in some],
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=True,
                return_special_tokens_mask=True,
                verbose=False,
                **how,
            )

    whole = encode(pairs, truncation=False)
    lengths = [len(ids) for ids in whole["input_ids"]]
    too_long = [row for row, length in enumerate(lengths) if length > max_length]
    names = ("input_ids", _TYPES, "special_tokens_mask")
    if too_long:
        cut = encode([pairs[row] for row in too_long], truncation="longest_first", max_length=max_length)
        for place, row in enumerate(too_long):
            for name in names:
                whole[name][row] = cut[name][place]
    columns: dict[str, list[Any]] = {name: [] for name in (*_FEATURES, _TYPES)}
    for length, *of_row in zip(lengths, *(whole[name] for name in names), strict=True):
        ids, types, special = (np.asarray(values, dtype=np.int32) for values in of_row)
        read = ids[special == 0]
        unknown = int(np.count_nonzero(read == tokenizer.unk_token_id)) if tokenizer.unk_token_id is not None else 0
        values = {"input_ids": ids, "length": length, "words": len(read), "unknown": unknown, _TYPES: types.astype(np.int8)}
        for name, value in values.items():
            columns[name].append(value)
    return columns


def _truncation(tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[Truncate, tuple[int, int] | None]:
    """What stays of a long text, as the tokenizer knows it; of "head+tail" how many tokens of each, special ones counted."""
    parts = tokenizer.init_kwargs.get(HEAD_AND_TAIL)
    if parts is None:
        return ("tail" if tokenizer.truncation_side == "left" else "head"), None
    head, tail = parts
    if head + tail != max_length:
        raise ValueError(f"{head} and {tail} tokens of a text are not {max_length}")
    return "head+tail", (head, tail)


def _check_pairs(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Refuse a tokenizer that puts nothing between the two texts of a pair, and a length without room for a token of each."""
    encoded = tokenizer("a", "a", truncation=False, padding=False)
    of_text = encoded.sequence_ids(0)
    second = of_text.index(1)
    if of_text[second - 1] == 0:
        what = "its tokenizer puts nothing between two texts, so that the model cannot tell where the second one begins"
        raise RecipeError.single("data.pair", what, "leave data.pair out: the columns are then one text, a line each")
    special = of_text.count(None)
    if max_length < special + 2:
        what = f"{max_length} leaves no room for two texts: {special} tokens of every pair are special ones"
        raise RecipeError.single("data.max_length", what)


def _special_tokens(tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[int, int]:
    """How many special tokens the tokenizer puts before and after a text: (1, 1) for BERT's [CLS] and [SEP]."""
    problems = []
    if not tokenizer.is_fast:
        raise RecipeError(
            "recipe", [Problem("model", f"{type(tokenizer).__name__} is a slow tokenizer; hftl needs a tokenizer.json")]
        )
    if tokenizer.pad_token_id is None:
        problems.append(Problem("model", "its tokenizer has no padding token, so texts of different lengths cannot share a batch"))
    mask = tokenizer("a", truncation=False, padding=False, return_special_tokens_mask=True)["special_tokens_mask"]
    if 0 not in mask:
        raise RecipeError("recipe", [Problem("model", 'its tokenizer makes no token of "a", not even an unknown one')])
    before, after = mask.index(0), mask[::-1].index(0)
    if max_length <= before + after:
        what = f"{max_length} leaves no room for a text: {before + after} tokens of every input are special ones"
        problems.append(Problem("data.max_length", what))
    if before + after == 0 and tokenizer.unk_token_id is None:
        problems.append(Problem("model", "its tokenizer has neither special tokens nor an unknown one: an empty text has no token"))
    if problems:
        raise RecipeError("recipe", problems)
    return before, after


def _fingerprint(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """Key of the cached tokens: the same data, tokenizer and length give the same key in every process and every run."""
    # datasets would hash the tokenizer object itself, whose state changes with its first call. Padding and truncation are left out
    # of ours because `_tokenise` switches both off.
    state = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    parts = [_LAYOUT, dataset._fingerprint, state, tokenizer.unk_token, *_truncation(tokenizer, max_length), max_length]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Texts:
    """A text an example; see `hftl.data.content`."""

    rows_at_once = 1_000
    stream_buffer = 10_000
    names_files = False
    thing = "text"
    example = "text.txt"

    def __init__(self, data: TextData) -> None:
        self.data = data

    @property
    def columns(self) -> tuple[str, ...]:
        """`data.text_column`, one or several."""
        return self.data.text_columns

    def open_folder(self, folder: Path) -> Source:
        """Tables, or class folders of texts."""
        return open_texts(self.data, folder)

    def is_one(self, file: Path) -> bool:
        """A .txt file, or one of letters without an ending."""
        return is_text(file)

    def put_files(self, table: Table, paths: Sequence[str]) -> None:
        """Each file whole, its line ends as in predict."""
        texts: list[str] = []
        problems: list[Problem] = []
        for path in paths:
            text = read_text(Path(path), problems, encoding=self.data.encoding)
            texts.append("" if text is None else text.replace("\r\n", "\n"))
        if len(problems) > SHOWN:
            problems[SHOWN:] = [Problem(f'split "{table.name}"', f"{len(problems) - SHOWN:,} more files cannot be read")]
        if self.data.joins:
            what = "a file is one text, and has no columns"
            problems.append(Problem("data.text_column", what, ("leave text_column, template and pair out",)))
        table.problems += problems
        if not problems:
            self.put(table, texts, None)

    def fetch(self, batch: pa.Table) -> pa.Table:
        """Texts are whole as they come."""
        return batch

    def put(self, table: Table, content: Dataset | list[Any], folder: Path | None) -> None:
        """A column of texts, of which none is null, or several that make one."""
        put_texts(table, content, self.data)

    def scan(self, tables: Mapping[Role, Table]) -> Scan:
        """Fingerprints of the texts; a split of nothing but empty ones is refused."""
        fingerprints, problems = no_fingerprints(tables), list[Problem]()
        for role, table in tables.items():
            if table.content is not None and len(table.ids):
                fingerprints[role] = text_fingerprints(table.content)
                if not fingerprints[role].any():
                    named = " and ".join(f'"{column}"' for column in self.data.text_columns)
                    what = f"all {len(table.ids):,} texts in the column {named} are empty"
                    problems.append(Problem(f'split "{table.name}"', what, (f"columns there are: {listed(table.columns)}",)))
        return Scan(fingerprints, problems=problems)

    def samples(self, dataset: Dataset, preprocessor: Any, *, seed: int, train: bool) -> TextSamples:
        """Texts as tokens, the same in training and evaluation."""
        assert isinstance(preprocessor, PreTrainedTokenizerBase)
        windows = self.data.windows
        assert not isinstance(windows, str)  # it keeps the section
        return TextSamples(dataset, preprocessor, max_length=self.data.max_length, windows=windows)

    def views(self, samples: TextSamples, tta: Tta) -> Samples:
        """None: views are flips and crops."""
        what = "views are flips and crops of pictures, and a text has none; leave it out"
        raise DataError.single("tta", what, source="the inputs")

    def channel_numbers(self, train: Dataset) -> None:
        """Nothing: a text has no channels."""

    def words(self, dataset: Dataset) -> Iterable[str]:
        """The texts."""
        return Strings(dataset, "text")

    def num_views(self, *, train: bool) -> int:
        """One."""
        return 1

    def facts(self, samples: TextSamples) -> dict[str, Any]:
        """Lengths and unknown words."""
        return {"text": text_facts(samples)}

    def costs(self, samples: TextSamples) -> Iterator[str]:
        """What reading long texts in windows costs."""
        if samples.windows is not None:
            facts = _window_facts(samples, samples.windows.length)
            windows = f"{facts['mean']:.2g} windows of {facts['length']:,} tokens, at most {facts['most']:,}"
            yield f"A text is read in {windows}: {facts['cost']:.2g} times the tokens of the first window alone."

    def reading(self, splits: Mapping[Role, Dataset], samples: Mapping[Role, Samples], preprocessor: Any, *, seed: int) -> Reading:
        """Lengths in tokens of every split, and how the tokenizer reads the scripts of train beside English."""
        lengths = {}
        for role, dataset in splits.items():
            split_samples = samples.get(role) or self.samples(dataset, preprocessor, seed=seed, train=False)
            assert isinstance(split_samples, TextSamples)
            lengths[role] = text_facts(split_samples)
        english = script_facts(Dataset.from_dict({"text": [ENGLISH]}), preprocessor)["Latin"]["tokens_per_letter"]
        scripts = script_facts(splits["train"].select_columns("text"), preprocessor)
        return Reading(lengths, {"scripts": scripts, "english": english})

    def original(self, samples: TextSamples, dataset: Dataset, place: int) -> str | dict[str, str]:
        """The text; a pair as `transformers.pipeline` takes it."""
        row = dataset[place]
        if FIRST not in row:
            return str(row["text"])
        first, second = segments(row["text"], row[FIRST])
        return {"text": first, "text_pair": second}

    def show(
        self,
        train: Dataset,
        typical: TextSamples,
        preprocessor: Any,
        *,
        seed: int,
        picture: Path,
        steps: Sequence[MixedSteps] = (),
        texts: int = 5,
        tokens: int = 40,
    ) -> Iterator[str]:
        """Some training texts as the model reads them, and what the limit on length costs; nothing is drawn."""
        labels = in_words(typical.targets, names_of(train))
        for index in range(min(texts, len(typical))):
            ids = typical[0, index]["input_ids"]
            shown = " ".join(preprocessor.convert_ids_to_tokens(ids[:tokens])) + (" ..." if len(ids) > tokens else "")
            yield f"{typical.ids[index]}  {labels[index]}  {len(ids)} tokens\n  {shown}\n"
        yield f"over {len(typical)} training texts: " + ", ".join(
            f"{name.replace('_', ' ')} {value if isinstance(value, str) else f'{value:.3g}'}"
            for name, value in text_facts(typical).items()
        )

    def inputs(
        self, inputs: Sequence[Any], say: Say, *, columns: Sequence[str] | None = None, on_bad_image: OnBadImage = "error"
    ) -> Asked:
        """Texts; of tables the columns of the run, or "text"."""
        if on_bad_image != "error":
            raise DataError("the inputs", [Problem("--on-bad-image", "the model reads texts; leave it out")])
        return read_texts(inputs, self.data, say, columns=columns, at_once=self.rows_at_once)

    def two_examples(self, samples: TextSamples) -> list[dict[str, Any]]:
        """Two texts of 13 and 9 tokens, or the longest that there may be and one less."""
        tokens = (samples[0, index % len(samples)] for index in range(2))
        lengths = min(13, samples.max_length), max(1, min(9, samples.max_length - 1))
        return [{name: np.resize(of, length) for name, of in some.items()} for some, length in zip(tokens, lengths, strict=True)]
