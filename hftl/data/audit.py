"""What is worth knowing about the data before a step is spent: balance, lengths, sizes, and what is there twice.

What cannot be used at all never comes this far: `load_splits` has refused it, or left it out and said so. The audit is of the
splits as the run uses them, test included; it looks at contents, never at what a model says about them. It holds ids, and neither
texts nor pictures.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from hftl.data.classes import FEW_ROWS, MANY_NUMBERS, are_class_numbers, listed_and, look_alikes, scale_of
from hftl.data.columns import Strings, pick
from hftl.data.decoding import pick_scans
from hftl.data.duplicates import first_rows, normalise, thing
from hftl.data.layout import DOCUMENTS, ROLES, Role, counted, ways_out
from hftl.data.near import NEAR_PICTURE, NEAR_TEXT, near_groups, near_pictures, near_texts
from hftl.data.several_labels import together
from hftl.data.source import Splits
from hftl.data.targets import Targets, kind_of, memberships_of, targets_of
from hftl.errors import printable
from hftl.names import CONFLICT, DUPLICATE, SEVERAL_LABELS
from hftl.recipe.data import Windows
from hftl.terminal import Shown
from hftl.wording import count, listed, percent

WINDOW = Windows().length
IMBALANCE = 5
"""How many times the smallest class the largest one is, from which on it is worth a line."""
UNKNOWN_TOKENS = 0.05
"""Share of unknown tokens from which on it is worth a line."""
NOTHING_KNOWN = 0.95
"""Share of unknown tokens in train from which on there is nothing to learn from."""
UNKNOWN_WORDS = 0.2
"""The same for models on word vectors: words that the training texts do not repeat are unknown to them, and that is usual."""
LETTER_BY_LETTER = 0.75
"""Tokens a letter of an alphabet from which on a text is read letter by letter, and not in words or pieces of words."""
SIGN_BY_SIGN = {"Chinese": 1.5, "Japanese": 1.5, "Korean": 1.2}
"""The same where a sign is a word or a syllable: one token each is usual in vocabularies that were made for it."""

RARE = 10
"""Rows of train, of several labels an example, below which a label is rare."""

_EXAMPLES = 5  # of one kind
_LOOKED_AT = 1000  # texts of train whose content is looked at, spread evenly
_NEARLY_ALL = 0.95
_NO_PROSE = re.compile(r"https?://\S+|[\w./\\:-]+\.\w{1,5}|[0-9a-fA-F-]{8,}")  # an address, a file's path, an identifier


@dataclass(frozen=True, repr=False)
class Audit(Shown):
    """What was found; every value is JSON-ready.

    `splits`: for each split `n`, `per_class`, `imbalance` (rows of the largest class over those of the smallest that has any),
    `absent` (classes without a row), and `lengths` in tokens or `sizes` in pixels. `duplicates`: in the source's own splits, before
    anything was dropped or divided (see `duplicate_facts`). `near_duplicates`: in the splits of the run, without the equal ones:
    `within` counts the rows that nearly repeat one of their own split, `across` those of the second split that nearly repeat one of
    the first, `conflicting` the groups of near duplicates that have more than one label.
    """

    kind: str
    splits: dict[str, dict[str, Any]]
    duplicates: dict[str, Any]
    near_duplicates: dict[str, Any]
    skipped: list[dict[str, Any]]
    """[{"why", "n"}], most frequent first; the rows themselves are in data.json."""
    notes: list[dict[str, Any]]
    """[{"note", "n", "example"}]: what is odd about pictures but no error."""
    vocabulary: dict[str, Any] | None
    """For models on word vectors: how much of the training texts the vectors cover."""
    classes: dict[str, Any]
    """`alike`: [{"names", "rows" in train, "how" they differ}] of classes whose names nearly agree; `scale`: "fractions", "whole
    numbers" or "dates" where all names are such, and not the numbers of classes."""
    texts: dict[str, Any] | None
    """Of some training texts the shares that have no word (`bare`), that are nothing but the name of their class (`are_class`), and
    that have it in them while others do not (`name_class`)."""
    tokens: dict[str, Any] | None
    """How the tokenizer reads them: `scripts` (see `script_facts`) and, for comparison, `english` tokens a letter."""
    understood: list[str] = field(default_factory=list)
    """How the source was read, in two lines: its splits, its labels."""
    ignored_files: dict[str, int] = field(default_factory=dict)
    """Files of the source that were left out, by ending."""
    unused: list[str] = field(default_factory=list)
    """Splits, tables and folders that are there and no part of the run."""
    remarks: list[str] = field(default_factory=list)
    """What else is worth knowing about how the source was read."""
    labels: dict[str, Any] | None = None
    """Of several labels an example, in train: `per_example`, the mean number; `most` of one row; `without`, the rows that have
    none; `rare`, the labels of fewer than ten rows; `together` [{"names", "rows"}], the pairs that occur together most often, and
    `always`, those of which one label never occurs without the other. None: an example has one label."""

    def to_dict(self) -> dict[str, Any]:
        """For audit.json."""
        return {name: value for name, value in asdict(self).items() if name != "labels" or value is not None}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield audit_table(self)

    def lines(self) -> list[str]:
        """What deserves a look before training, gravest first; none where nothing does."""
        lines = (*self._of_classes(), *self._duplicate_lines(), *self._beside(), *self._gaps(), *self._contents())
        return [printable(line) for line in lines]

    def _of_classes(self) -> Iterator[str]:
        train = self.splits["train"]
        present = [name for name, n in train["per_class"].items() if n]
        such, rows = ", ".join(present[:3]), train["n"]
        if rows >= FEW_ROWS and 2 * len(present) > rows:
            what = "is data.label_column the right one?" if self.kind == "text" else "are these folders or labels classes?"
            yield f"train: {len(present):,} classes in {rows:,} rows, such as {such}: hardly more than a row each; {what}"
        elif self.classes["scale"] is not None:
            kind = "dates" if self.classes["scale"] == "dates" else "numbers"
            yield (
                f"the {len(present):,} classes are {kind}, such as {such}, and a classifier does not know which are"
                " near each other:"
                " if they are values on a scale, make a few ranges of them, with names"
            )
        yield from self._of_labels()
        for alike in self.classes["alike"][:_EXAMPLES]:
            names = listed_and([f"{name} ({count(n, 'row')})" for name, n in zip(alike["names"], alike["rows"], strict=True)])
            yield f"classes {names} differ {alike['how']} alone: if they mean one class, give them one name in the source"
        if len(self.classes["alike"]) > _EXAMPLES:
            further = count(len(self.classes["alike"]) - _EXAMPLES, "further group")
            yield f"{further} of classes whose names nearly agree: see audit.json"
        for name, split in self.splits.items():
            if split.get("without_words"):
                silent = split["without_words"]
                yield f"{name}: every text of {', '.join(silent[:5])}{' and more' if len(silent) > 5 else ''} is empty"

    def _of_labels(self) -> Iterator[str]:
        """Of several labels an example: how many, which are rare, and which occur together."""
        if self.labels is None:
            return
        without, rare = self.labels["without"], self.labels["rare"]
        none = f"; {count(without, 'row')} without a label" if without else ""
        yield f"train: {self.labels['per_example']:g} labels an example, at most {self.labels['most']}{none}"
        if rare:
            yield f"train: fewer than {RARE} rows of {listed(rare, _EXAMPLES)}: too few to learn a label from"
        if self.labels["together"]:
            pairs = [f"{' and '.join(pair['names'])} ({pair['rows']:,})" for pair in self.labels["together"]]
            yield f"train: most often together: {listed(pairs, _EXAMPLES)}"
        for pair in self.labels["always"][:_EXAMPLES]:
            one, other = pair["names"]
            yield f"train: {one} never occurs without {other} ({count(pair['rows'], 'row')})"

    def _duplicate_lines(self) -> Iterator[str]:
        what, exact, near = thing(self.kind), self.duplicates, self.near_duplicates
        done = {"drop": "left out", "keep": "kept, as data.on_duplicate=keep asks"}.get(exact["on_duplicate"], "refused")
        for both in exact["across"]:
            yield f"{' and '.join(both['splits'])}: {count(both['pairs'], what)} in both ({done})"
        for split, rows in exact["conflicting"].items():
            yield f"{split}: {count(rows, 'row')} of {what}s with more than one label ({done})"
        for both in near["across"]:
            first, second = both["splits"]
            example = self._example("across", both["splits"])
            yield f"{second}: {count(both['rows'], what)} nearly the same as one of {first}{example}"
        if near["conflicting"]:
            groups = count(near["conflicting"], "group")
            yield f"{groups} of {what}s that are nearly the same and have more than one label{self._example('conflicting')}"
        repeats = [f"{split} {rows:,}" for split, rows in exact["within"].items()]
        if repeats:
            yield f"rows that repeat a {what} of their split: {', '.join(repeats)}"
        repeats = [f"{split} {rows:,}" for split, rows in near["within"].items()]
        if repeats:
            yield f"rows that nearly repeat a {what} of their split: {', '.join(repeats)}{self._example('within')}"

    def _beside(self) -> Iterator[str]:
        if self.unused:
            yield f"not used: {listed(self.unused, 10)}"
        lost = {ending: n for ending, n in self.ignored_files.items() if ending not in DOCUMENTS}
        if lost:
            yield "; ".join([f"files left out: {counted(lost)}", *ways_out(lost)])
        yield from self.remarks

    def _gaps(self) -> Iterator[str]:
        if self.skipped:
            yield "left out: " + ", ".join(f"{entry['n']:,} ({entry['why']})" for entry in self.skipped[:5])
        for name, split in self.splits.items():
            if split["absent"]:
                missing = ", ".join(split["absent"][:5]) + (" and more" if len(split["absent"]) > 5 else "")
                yield f"{name}: no row of {missing}; nothing can be said about it there"
        train = self.splits["train"]
        if train["imbalance"] >= IMBALANCE:
            by_size = sorted((n, name) for name, n in train["per_class"].items() if n)
            (few, rare), (many, frequent) = by_size[0], by_size[-1]
            yield f"train: {frequent} has {many:,} rows and {rare} has {few:,}; accuracy alone hides how the small class does"

    def _contents(self) -> Iterator[str]:
        for name, split in self.splits.items():
            lengths = split.get("lengths")
            if lengths and lengths["share_truncated"]:
                limit = lengths["max_length"]
                cut = f"{percent(lengths['share_truncated'])} of the texts are longer than {limit:,} tokens, and cut"
                lost = {"head": "end", "tail": "beginning", "head+tail": "middle"}[lengths["truncate"]]
                line = f"{name}: {cut}: their {lost} is not read, {percent(lengths['share_lost'])} of all tokens"
                needed = math.ceil(lengths["length_p95"])
                # What reads words has no windows, and reads a text of any length.
                if name == "train" and self.vocabulary is None and "windows" not in lengths and needed > limit:
                    more = f"data.max_length={needed}"
                    if needed > WINDOW:  # a text of one window is read at once
                        more = f"data.windows=mean data.max_length={-(-needed // WINDOW) * WINDOW}"
                    line += f"; {more} reads 95 % of the texts whole"
                yield line
            if lengths and "windows" in lengths:
                windows = lengths["windows"]
                of_each = f"{windows['mean']:.2g} windows of {windows['length']:,} tokens, at most {windows['most']:,}"
                yield f"{name}: a text is read in {of_each}"
        empty = {name: split["lengths"]["empty"] for name, split in self.splits.items() if "lengths" in split}
        if any(empty.values()):
            yield f"texts without a word: {', '.join(f'{name} {n:,}' for name, n in empty.items() if n)}"
        if self.vocabulary is not None:
            covered, unknown = self.vocabulary["share_in_vectors"], self.vocabulary["share_unknown"]
            vectors = f"{percent(1 - covered)} have no word vector, " if self.vocabulary["in_vectors"] else ""  # or all are random
            yield f"words of the training texts: {vectors}{percent(unknown)} are outside the vocabulary"
            if (segmentation := self.vocabulary.get("segmentation")) is not None:
                yield segmented(segmentation)
        yield from self._unknown()
        yield from self._texts()
        for note in self.notes[:3]:
            yield f"{count(note['n'], 'picture')} such as {note['example']}: {note['note']}"
        for kind, means in (
            ("transparent", "composed on data.background"),
            ("high_bit_depth", "more than 8 bits a channel, scaled"),
        ):
            pictures = sum(split.get("sizes", {}).get(kind, 0) for split in self.splits.values())
            if pictures:
                yield f"{count(pictures, kind.replace('_', '-') + ' picture')}: {means}"

    def _unknown(self) -> Iterator[str]:
        """Tokens that the model cannot tell apart, or that are single letters: the checkpoint is of another language."""
        words = self.vocabulary is not None
        shares = {name: split["lengths"]["share_unknown"] for name, split in self.splits.items() if "lengths" in split}
        if max(shares.values(), default=0.0) >= (UNKNOWN_WORDS if words else UNKNOWN_TOKENS):
            script = self.unknown_script()
            mostly = f", mostly {script}" if script else ""
            shown = ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
            yield f"unknown tokens: {shown}{mostly}; the model cannot tell them apart. {self.way_out()}"
        if self.tokens is None or self.tokens["english"] >= LETTER_BY_LETTER:  # a model of letters or bytes reads all of it so
            return
        if words:  # which are cut as the recipe says
            return
        for script, facts in self.tokens["scripts"].items():
            limit = SIGN_BY_SIGN.get(script, LETTER_BY_LETTER)
            if facts["share"] >= 0.2 and facts["tokens_per_letter"] >= limit and facts["unknown"] < 0.5:
                took = f"{facts['tokens_per_letter']:.2g} tokens a letter, against {self.tokens['english']:.2g} in English"
                why = f"{script} is read in single letters or less ({took}), so the model knows no word of it"
                yield f"train: {why}. {self.way_out(script)}"

    def unknown_script(self) -> str | None:
        """The script, other than Latin, that most of the unknown tokens are in; None: there is none."""
        scripts = {} if self.tokens is None else self.tokens["scripts"]
        unknown = {name: facts["share"] * facts["tokens_per_letter"] * facts["unknown"] for name, facts in scripts.items()}
        most = max(unknown, key=unknown.__getitem__, default=None)
        return most if most not in (None, "Latin") and unknown[most] >= 0.5 * sum(unknown.values()) > 0 else None

    def way_out(self, script: str | None = None) -> str:
        """What to choose instead of a model that does not know the texts' words."""
        script = script or self.unknown_script()
        if script == "emoji or other signs":
            return "Take a checkpoint that was trained on messages with such signs."
        if self.vocabulary is not None:
            if script in ("Chinese", "Japanese", "Thai", "Lao", "Khmer", "Myanmar") and "segmentation" not in self.vocabulary:
                return (
                    f"{script} is written without spaces, so that a clause counts as one word here: write model.segmentation=auto."
                )
            return "Take vectors of the texts' language."
        of = f"for {script} texts" if script else "for texts of this language"
        others = "google-bert/bert-base-multilingual-cased, FacebookAI/xlm-roberta-base"
        return f"Take a checkpoint {of}, or a multilingual one ({others})."

    def _texts(self) -> Iterator[str]:
        if self.texts is None:
            return
        if self.texts["bare"] >= _NEARLY_ALL:
            yield (
                f"train: {percent(self.texts['bare'])} of the texts are numbers, addresses, paths or identifiers, without a word;"
                " is data.text_column the right one?"
            )
        if self.texts["are_class"] >= _NEARLY_ALL:
            yield f"train: {percent(self.texts['are_class'])} of the texts are nothing but the name of their class"
        elif self.texts["name_class"] >= _NEARLY_ALL:
            yield (
                f"train: {percent(self.texts['name_class'])} of the texts have the name of their class in them, and of no other:"
                " to find that word may be all that a model learns"
            )

    def _example(self, kind: str, splits: Sequence[str] | None = None) -> str:
        for example in self.near_duplicates["examples"]:
            if example["kind"] == kind and splits in (None, example["splits"]):
                return f", such as {' and '.join(example['ids'])}"
        return ""


def segmented(facts: Mapping[str, Any]) -> str:
    """How texts in scripts without spaces were cut, in a line; `facts` as a run's data.json has them of its vocabulary."""
    share = f"{percent(facts['share'])} of the letters are of scripts without spaces"
    if facts["into"] == "characters":
        return f"{share}: each letter is a word"
    own = f"{facts['from_vectors']:,} from the vectors, the others learned from the training texts"
    return (
        f"{share}: their clauses are cut into {facts['words']:,} words of {facts['letters_per_word']:.1f} letters on average; {own}"
    )


def audit_splits(
    splits: Splits,
    *,
    lengths: Mapping[Role, Mapping[str, Any]] | None = None,
    vocabulary: Mapping[str, Any] | None = None,
    tokens: Mapping[str, Any] | None = None,
) -> Audit:
    """Look at the splits of a run.

    Args:
        splits: of texts or of pictures.
        lengths: for texts, what `text_facts` says of each split.
        vocabulary: what a model on word vectors says about them.
        tokens: how the tokenizer reads them.
    """
    facts = splits.facts
    texts = facts["kind"] == "text"
    by_split: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        if role in facts["splits"]:
            per_class = facts["splits"][role]["per_class"]
            present = [n for n in per_class.values() if n]
            by_split[role] = {
                "n": facts["splits"][role]["n"],
                "per_class": per_class,
                "imbalance": round(max(present) / min(present), 2),
                "absent": [name for name, n in per_class.items() if not n],
            }
            if splits.image_scans:
                by_split[role]["sizes"] = _sizes(splits.image_scans[role])
            elif lengths is not None:
                by_split[role]["lengths"] = dict(lengths[role])
            if texts:
                by_split[role]["without_words"] = _without_words(splits, role)
    return Audit(
        kind=facts["kind"],
        splits=by_split,
        duplicates=facts["duplicates"],
        near_duplicates=_near_duplicates(splits),
        skipped=[
            {"why": _reason(kind, facts["kind"]), "n": n}
            for kind, n in Counter(entry["kind"] for entry in facts["skipped"]).most_common()
        ],
        notes=_notes(facts["notes"]),
        vocabulary=None if vocabulary is None else dict(vocabulary),
        classes=_classes(by_split["train"]["per_class"]),
        texts=_text_contents(splits.train, splits.label_names) if texts else None,
        tokens=None if tokens is None else dict(tokens),
        understood=list(facts["understood"]),
        ignored_files=dict(facts["ignored_files"]),
        unused=list(facts["unused"]),
        remarks=list(facts["remarks"]),
        labels=_several_labels(splits),
    )


def _several_labels(splits: Splits) -> dict[str, Any] | None:
    """See `Audit.labels`."""
    of_rows = targets_of(splits.train)
    if kind_of(of_rows) != SEVERAL_LABELS:
        return None
    names, each, counts = splits.label_names, (of_rows > 0).sum(axis=1), splits.target.counts(of_rows, splits.label_names)
    pairs = list(together(of_rows))
    return {
        "per_example": round(float(each.mean()), 3),
        "most": int(each.max()),
        "without": int((each == 0).sum()),
        "rare": [names[place] for place in np.flatnonzero((counts > 0) & (counts < RARE))],
        "together": [{"names": [names[one], names[other]], "rows": rows} for rows, one, other in pairs[:_EXAMPLES]],
        "always": [
            {"names": [names[one], names[other]] if rows == counts[one] else [names[other], names[one]], "rows": rows}
            for rows, one, other in pairs
            if rows >= RARE and rows in (counts[one], counts[other])
        ],
    }


def _classes(per_class: Mapping[str, int]) -> dict[str, Any]:
    names, rows = list(per_class), list(per_class.values())
    scale = scale_of([name for name in names if per_class[name]])
    if scale == "whole numbers" and (len(names) <= MANY_NUMBERS or are_class_numbers(names)):
        scale = None
    alike = [
        {"names": [names[place] for place in group.classes], "rows": [rows[place] for place in group.classes], "how": group.how}
        for group in look_alikes(names, rows)
    ]
    return {"alike": alike, "scale": scale}


def _without_words(splits: Splits, role: Role) -> list[str]:
    """The classes of a split whose every text is empty."""
    dataset: dict[Role, Dataset | None] = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    split = dataset[role]
    assert split is not None
    labels, names = targets_of(split), splits.label_names
    every, empty = (splits.target.counts(of, names) for of in (labels, labels[splits.contents[role] < 0]))
    return [names[place] for place in np.flatnonzero((every > 0) & (every == empty))]


def _words(text: str) -> str:
    """The words of a text with a space on both sides of each: " a good film "."""
    words = re.findall(r"\w+", normalise(text))
    return f" {' '.join(words)} "


def _text_contents(train: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """Shares of some training texts, see `Audit.texts`; empty ones are not counted."""
    places = np.unique(np.linspace(0, len(train) - 1, min(_LOOKED_AT, len(train))).astype(int)).tolist()
    some_rows = train.select(places)
    some = some_rows.select_columns("text")[:]
    words_of = [_words(name) for name in names]
    is_word = [len(name) >= 3 and any(map(str.isalpha, name)) for name in names]  # "1" and "a" are in any text
    looked_at = bare = are_class = name_class = 0
    for text, row in zip(some["text"], memberships_of(targets_of(some_rows), len(names)), strict=True):
        if plain := normalise(text):
            looked_at += 1
            bare += not any(map(str.isalpha, plain)) or _NO_PROSE.fullmatch(plain) is not None
            labels = np.flatnonzero(row).tolist()
            are_class += plain in {normalise(names[label]) for label in labels}
            words = _words(plain)
            said = [is_word[label] and words_of[label] in words for label in labels]
            name_class += bool(said) and all(said) and words_of[(labels[-1] + 1) % len(names)] not in words
    share = {"bare": bare, "are_class": are_class, "name_class": name_class}
    return {"looked_at": looked_at, **{name: round(count / looked_at, 4) if looked_at else 0.0 for name, count in share.items()}}


def _sizes(scans: np.ndarray) -> dict[str, Any]:
    pixels = scans["width"].astype(np.int64) * scans["height"]
    return {
        "width_median": float(np.median(scans["width"])),
        "height_median": float(np.median(scans["height"])),
        "megapixels_median": round(float(np.median(pixels)) / 1e6, 4),
        "megapixels_p95": round(float(np.percentile(pixels, 95)) / 1e6, 4),
        "shortest_side": int(np.minimum(scans["width"], scans["height"]).min()),
        "transparent": int(scans["transparent"].sum()),
        "high_bit_depth": int(scans["high_bit_depth"].sum()),
        "animated": int(scans["animated"].sum()),
        "extreme": int((scans["noted"] & ~scans["animated"]).sum()),
    }


def _near_duplicates(splits: Splits) -> dict[str, Any]:
    """Each content is compared once, wherever it is; then counted in the splits that have it."""
    datasets: dict[Role, Dataset] = {"train": splits.train, "validation": splits.validation}
    if splits.test is not None:
        datasets["test"] = splits.test
    contents = np.concatenate([splits.contents[role] for role in datasets])
    rows = first_rows(contents, 1 + int(contents.max()))
    rows = np.sort(rows[rows >= 0])
    if splits.image_scans:
        links, threshold = near_pictures(pick_scans([splits.image_scans[role] for role in datasets], rows)), NEAR_PICTURE
    else:
        texts = concatenate_datasets([dataset.select_columns("text") for dataset in datasets.values()])
        links, threshold = near_texts(pick(texts, rows)), NEAR_TEXT
    roles = list(datasets)
    role_of = np.repeat(np.arange(len(roles), dtype=np.int8), [len(dataset) for dataset in datasets.values()])
    targets = Targets(splits.label_names, {role: targets_of(dataset) for role, dataset in datasets.items()}, [])
    labels = np.concatenate(list(splits.target.distinct(targets).of_rows.values()))
    ids = [Strings(dataset, "id") for dataset in datasets.values()]
    starts = np.cumsum([0, *(len(dataset) for dataset in datasets.values())])

    groups = near_groups(links)
    all_of: dict[int, list[int]] = {int(contents[rows[place]]): [] for group in groups for place in group}
    near = np.zeros(1 + int(contents.max()) + 1, dtype=bool)  # the last place is that of rows without a content, -1
    near[list(all_of)] = True
    for row in np.flatnonzero(near[contents]).tolist():
        all_of[int(contents[row])].append(row)
    within, across, conflicting = Counter[str](), Counter[tuple[Role, Role]](), 0
    for group in groups:
        members = [all_of[int(contents[rows[place]])] for place in group]
        has: dict[Role, set[int]] = {role: set() for role in datasets}  # the contents of each split
        for place, same in enumerate(members):
            for row in same:
                has[roles[role_of[row]]].add(place)
        within.update({role: len(places) - 1 for role, places in has.items() if len(places) > 1})
        across.update({(one, other): len(has[other] - has[one]) for one, other in combinations(datasets, 2) if has[one]})
        conflicting += len({int(labels[row]) for same in members for row in same}) > 1

    examples: list[dict[str, Any]] = []
    shown = Counter[tuple[str, ...]]()
    for link in sorted(links, key=lambda link: -link.similarity):
        ends = [int(rows[link.one]), int(rows[link.other])]
        both = list(dict.fromkeys(roles[role_of[row]] for row in ends))
        kinds = ["across" if len(both) > 1 else "within"]
        if labels[ends[0]] != labels[ends[1]]:
            kinds.append("conflicting")
        for kind in kinds:
            shown[kind, *both] += 1
            if shown[kind, *both] <= _EXAMPLES:
                names = [ids[role_of[row]][int(row - starts[role_of[row]])] for row in ends]
                similarity = round(link.similarity, 3)
                examples.append({"kind": kind, "splits": both, "ids": names, "similarity": similarity})
    return {
        "threshold": threshold,
        "within": {role: within[role] for role in datasets if within[role]},
        "across": [{"splits": list(both), "rows": across[both]} for both in combinations(datasets, 2) if across[both]],
        "conflicting": conflicting,
        "examples": examples,
    }


def _reason(kind: str, content: str) -> str:
    """Why rows were left out, without what only one of them says."""
    known = {DUPLICATE: f"the same {thing(content)} as in another split", CONFLICT: f"two labels for the same {thing(content)}"}
    return known.get(kind, kind)


def _notes(notes: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(note["kind"], []).append(note["id"])
    frequent = sorted(kinds.items(), key=lambda entry: -len(entry[1]))
    return [{"note": kind, "n": len(ids), "example": ids[0]} for kind, ids in frequent]


# --- for people ---------------------------------------------------------------------------------------------------------------


def audit_table(audit: Audit) -> Group:
    """The audit for a terminal: a column for each split, and below it what deserves a look."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2))
    table.add_column("", no_wrap=True)
    for name in audit.splits:
        table.add_column(name, justify="right", no_wrap=True)
    splits = list(audit.splits.values())
    within, near = audit.duplicates["within"], audit.near_duplicates["within"]

    def row(label: str, cells: Iterable[str]) -> None:
        table.add_row(label, *cells)

    row("rows", (f"{split['n']:,}" for split in splits))
    row("classes", (str(len(split["per_class"]) - len(split["absent"])) for split in splits))
    row("largest class / smallest", (f"{split['imbalance']:.3g}" for split in splits))
    if all("lengths" in split for split in splits):
        lengths = [split["lengths"] for split in splits]
        row("tokens, median", (f"{facts['length_median']:,.0f}" for facts in lengths))
        row("tokens, 95 % are below", (f"{facts['length_p95']:,.0f}" for facts in lengths))
        row(f"longer than {lengths[0]['max_length']:,}, cut", (percent(facts["share_truncated"]) for facts in lengths))
        row("unknown tokens", (percent(facts["share_unknown"]) for facts in lengths))
        row("texts without a word", (f"{facts['empty']:,}" for facts in lengths))
    if all("sizes" in split for split in splits):
        sizes = [split["sizes"] for split in splits]
        row("pixels, median", (f"{facts['width_median']:.0f} x {facts['height_median']:.0f}" for facts in sizes))
        row("megapixels, 95 % are below", (f"{facts['megapixels_p95']:.3g}" for facts in sizes))
        row("shortest side", (f"{facts['shortest_side']:,}" for facts in sizes))
        for kind in ("transparent", "high_bit_depth", "animated", "extreme"):
            row(kind.replace("_", " "), (f"{facts[kind]:,}" for facts in sizes))
    row("repeats, in the source", (f"{within.get(name, 0):,}" for name in audit.splits))
    row("near repeats", (f"{near.get(name, 0):,}" for name in audit.splits))
    lines = audit.lines() or ["no problems found"]
    understood = [Text(printable(line)) for line in audit.understood]
    return Group(*understood, *([""] if understood else []), table, "", *(Text(f"  {line}") for line in lines))
