"""What is worth knowing about the data before a step is spent: balance, lengths, sizes, and what is there twice.

What cannot be used at all never comes this far: `load_splits` has refused it, or left it out and said so. The audit is of the
splits as the run uses them, test included; it looks at contents, never at what a model says about them. It holds ids, and neither
texts nor pictures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hftl.data.duplicates import NEAR_PICTURE, NEAR_TEXT, first_rows, near_groups, near_pictures, near_texts, pick_looks
from hftl.data.layout import DOCUMENTS, counted, ways_out
from hftl.data.reading import ROLES, Role, Strings, integers, pick
from hftl.data.source import Splits
from hftl.errors import printable

IMBALANCE = 5
"""How many times the smallest class the largest one is, from which on it is worth a line."""
_EXAMPLES = 5  # of one kind


@dataclass(frozen=True)
class Audit:
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
    ignored_files: dict[str, int] = field(default_factory=dict)
    """Files of the source that were left out, by ending."""
    unused: list[str] = field(default_factory=list)
    """Splits, tables and folders that are there and no part of the run."""
    remarks: list[str] = field(default_factory=list)
    """What else is worth knowing about how the source was read."""

    def to_dict(self) -> dict[str, Any]:
        """For audit.json."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What deserves a look before training, gravest first; none where nothing does."""
        return [printable(line) for line in (*self._doubles(), *self._beside(), *self._gaps(), *self._contents())]

    def _doubles(self) -> Iterator[str]:
        what, found, near = ("text" if self.kind == "text" else "picture"), self.duplicates, self.near_duplicates
        done = {"drop": "left out", "keep": "kept, as data.on_duplicate=keep asks"}.get(found["on_duplicate"], "refused")
        for both in found["across"]:
            yield f"{' and '.join(both['splits'])}: {_count(both['pairs'], what)} in both ({done})"
        for split, rows in found["conflicting"].items():
            yield f"{split}: {_count(rows, 'row')} of {what}s with more than one label ({done})"
        for both in near["across"]:
            first, second = both["splits"]
            example = self._example("across", both["splits"])
            yield f"{second}: {_count(both['rows'], what)} nearly the same as one of {first}{example}"
        if near["conflicting"]:
            groups = _count(near["conflicting"], "group")
            yield f"{groups} of {what}s that are nearly the same and have more than one label{self._example('conflicting')}"
        repeats = [f"{split} {rows:,}" for split, rows in found["within"].items()]
        if repeats:
            yield f"rows that repeat a {what} of their split: {', '.join(repeats)}"
        repeats = [f"{split} {rows:,}" for split, rows in near["within"].items()]
        if repeats:
            yield f"rows that nearly repeat a {what} of their split: {', '.join(repeats)}{self._example('within')}"

    def _beside(self) -> Iterator[str]:
        if self.unused:
            yield f"not used: {', '.join(self.unused[:10])}" + (
                f" and {len(self.unused) - 10:,} more" if len(self.unused) > 10 else ""
            )
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
                yield f"{name}: {_percent(lengths['share_truncated'])} of the texts are longer than {limit:,} tokens, and cut"
        empty = {name: split["lengths"]["empty"] for name, split in self.splits.items() if "lengths" in split}
        if any(empty.values()):
            yield f"texts without a word: {', '.join(f'{name} {n:,}' for name, n in empty.items() if n)}"
        if self.vocabulary is not None:
            covered, unknown = self.vocabulary["share_in_vectors"], self.vocabulary["share_unknown"]
            shares = f"{_percent(1 - covered)} have no word vector, {_percent(unknown)} are outside the vocabulary"
            yield f"words of the training texts: {shares}"
        for note in self.notes[:3]:
            yield f"{_count(note['n'], 'picture')} such as {note['example']}: {note['note']}"
        for kind, means in (("transparent", "composed on data.background"), ("deep", "of more than 8 bits a channel, scaled")):
            count = sum(split.get("sizes", {}).get(kind, 0) for split in self.splits.values())
            if count:
                yield f"{_count(count, f'{kind} picture')}: {means}"

    def _example(self, kind: str, splits: Sequence[str] | None = None) -> str:
        for example in self.near_duplicates["examples"]:
            if example["kind"] == kind and splits in (None, example["splits"]):
                return f", such as {' and '.join(example['ids'])}"
        return ""


def audit_splits(
    splits: Splits, *, lengths: Mapping[Role, Mapping[str, Any]] | None = None, vocabulary: Mapping[str, Any] | None = None
) -> Audit:
    """Look at the splits of a run.

    Args:
        splits: of texts or of pictures.
        lengths: for texts, what `text_facts` says of each split.
        vocabulary: what a model on word vectors says about them.
    """
    facts = splits.facts
    found: dict[str, dict[str, Any]] = {}
    for role in ROLES:
        if role in facts["splits"]:
            per_class = facts["splits"][role]["per_class"]
            there = [n for n in per_class.values() if n]
            found[role] = {
                "n": facts["splits"][role]["n"],
                "per_class": per_class,
                "imbalance": round(max(there) / min(there), 2),
                "absent": [name for name, n in per_class.items() if not n],
            }
            if splits.looks:
                found[role]["sizes"] = _sizes(splits.looks[role])
            elif lengths is not None:
                found[role]["lengths"] = dict(lengths[role])
    return Audit(
        kind=facts["kind"],
        splits=found,
        duplicates=facts["duplicates"],
        near_duplicates=_near_duplicates(splits),
        skipped=[{"why": why, "n": n} for why, n in Counter(_reason(entry["why"]) for entry in facts["skipped"]).most_common()],
        notes=_notes(facts["notes"]),
        vocabulary=None if vocabulary is None else dict(vocabulary),
        ignored_files=dict(facts["ignored_files"]),
        unused=list(facts["unused"]),
        remarks=list(facts["remarks"]),
    )


def _sizes(looks: np.ndarray) -> dict[str, Any]:
    pixels = looks["width"].astype(np.int64) * looks["height"]
    return {
        "width_median": float(np.median(looks["width"])),
        "height_median": float(np.median(looks["height"])),
        "megapixels_median": round(float(np.median(pixels)) / 1e6, 4),
        "megapixels_p95": round(float(np.percentile(pixels, 95)) / 1e6, 4),
        "shortest_side": int(np.minimum(looks["width"], looks["height"]).min()),
        "transparent": int(looks["transparent"].sum()),
        "deep": int(looks["deep"].sum()),
        "animated": int(looks["animated"].sum()),
        "extreme": int((looks["noted"] & ~looks["animated"]).sum()),
    }


def _near_duplicates(splits: Splits) -> dict[str, Any]:
    """Each content is compared once, wherever it is; then counted in the splits that have it."""
    datasets: dict[Role, Dataset] = {"train": splits.train, "validation": splits.validation}
    if splits.test is not None:
        datasets["test"] = splits.test
    contents = np.concatenate([splits.contents[role] for role in datasets])
    rows = first_rows(contents, 1 + int(contents.max()))
    rows = np.sort(rows[rows >= 0])
    if splits.looks:
        links, threshold = near_pictures(pick_looks([splits.looks[role] for role in datasets], rows)), NEAR_PICTURE
    else:
        texts = concatenate_datasets([dataset.select_columns("text") for dataset in datasets.values()])
        links, threshold = near_texts(pick(texts, rows)), NEAR_TEXT
    roles = list(datasets)
    role_of = np.repeat(np.arange(len(roles), dtype=np.int8), [len(dataset) for dataset in datasets.values()])
    labels = np.concatenate([integers(dataset, "label") for dataset in datasets.values()])
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


def _reason(why: str) -> str:
    """Why rows were left out, without what only one of them says."""
    return re.sub(r"^(the same \w+) as .*", r"\1 as in another split", why).partition(":")[0]


def _notes(notes: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(re.sub(r"^\d+ x \d+ pixels", "very long and narrow", note["note"]), []).append(note["id"])
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
        row("tokens, median", (f"{found['length_median']:,.0f}" for found in lengths))
        row("tokens, 95 % are below", (f"{found['length_p95']:,.0f}" for found in lengths))
        row(f"longer than {lengths[0]['max_length']:,}, cut", (_percent(found["share_truncated"]) for found in lengths))
        row("unknown tokens", (_percent(found["share_unknown"]) for found in lengths))
        row("texts without a word", (f"{found['empty']:,}" for found in lengths))
    if all("sizes" in split for split in splits):
        sizes = [split["sizes"] for split in splits]
        row("pixels, median", (f"{found['width_median']:.0f} x {found['height_median']:.0f}" for found in sizes))
        row("megapixels, 95 % are below", (f"{found['megapixels_p95']:.3g}" for found in sizes))
        row("shortest side", (f"{found['shortest_side']:,}" for found in sizes))
        for kind in ("transparent", "deep", "animated", "extreme"):
            row(kind, (f"{found[kind]:,}" for found in sizes))
    row("repeats, in the source", (f"{within.get(name, 0):,}" for name in audit.splits))
    row("near repeats", (f"{near.get(name, 0):,}" for name in audit.splits))
    lines = audit.lines() or ["nothing that deserves a look was found"]
    return Group(table, "", *(Text(f"  {line}") for line in lines))


def _count(number: int, thing: str) -> str:
    return f"1 {thing}" if number == 1 else f"{number:,} {thing}s"


def _percent(share: float) -> str:
    return "100 %" if share > 0.9995 else f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else "under 0.1 %"
