"""data.json: what a run has read, how it was divided, what was left out, and what the model was built from.

Training writes it at the start; see docs/run_directory.md for what each key means.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from hftl.errors import RunError
from hftl.records.shape import Pair, read_record
from hftl.run import RunDirectory


class SplitFacts(TypedDict):
    """How many rows a split has, of each class too, and the SHA-256 of their ids and labels."""

    n: int
    per_class: dict[str, int]
    fingerprint: str


class SkippedRow(TypedDict):
    """A row that was left out on request; `kind` is the kind of reason, `why` says it."""

    id: str
    split: str
    kind: str
    why: str


class Note(TypedDict):
    """What is odd about a picture."""

    id: str
    kind: str
    note: str


class EqualRows(TypedDict):
    """How many contents are in both of two splits."""

    splits: Pair
    pairs: int


class Duplicates(TypedDict):
    """What is in the source more than once, see `hftl.data.duplicates.duplicate_facts`."""

    on_duplicate: str
    within: dict[str, int]
    across: list[EqualRows]
    conflicting: dict[str, int]


class Streamed(TypedDict):
    """The part of a source that was taken of a stream."""

    rows: int
    buffer: int
    seed: int
    what: str
    taken: dict[str, int]
    whole: list[str]


class TextFacts(TypedDict):
    """Lengths of texts in tokens, and shares from 0 to 1, see `hftl.data.text.text_facts`."""

    length_mean: float
    length_median: float
    length_p95: float
    max_length: int
    share_truncated: float
    share_unknown: float
    empty: int
    windows: NotRequired[WindowFacts]


class WindowFacts(TypedDict):
    """How long texts are read in windows, see `hftl.data.text.text_facts`."""

    length: int
    mean: float
    most: int
    cost: float


class PictureFacts(TypedDict):
    """Sizes in pixels, see `hftl.data.image.picture_facts`."""

    examples: int
    width_median: float
    height_median: float
    pixels_p5: float
    pixels_p95: float
    transparent: int
    high_bit_depth: int


class Vocabulary(TypedDict):
    """How much of the training texts the word vectors cover."""

    words: int
    in_vectors: int
    share_in_vectors: float
    share_unknown: float
    frequent_without_vector: list[str]
    from_parts: NotRequired[int]
    """Words that are not in the file and have a vector of their n-grams or tokens; `in_vectors` does not count them."""


class LearnedVectors(TypedDict):
    """How the word vectors were learned, where `hftl vectors` has made them; `names` are those of the texts, as "train 22,500"."""

    method: str
    dimensions: int
    window: int
    epochs: int
    seed: int
    texts: int
    names: list[str]
    sha256: str


class FurtherPretrained(TypedDict):
    """How the checkpoint was pretrained further, where `hftl pretrain` has made it; `names` are those of the texts."""

    base: str
    revision: str | None
    from_random: bool
    """It began at random weights of the architecture of `base`."""
    texts: int
    names: list[str]
    steps: int
    tokens: int
    losses: Annotated[list[float], 2]
    """At masked places of texts that were held out: before, and after."""
    sha256: str
    """Of the weights."""


class ModelFacts(TypedDict):
    """What every family says of its model; each has more to say in words of its own."""

    architecture: str
    parameters: int
    base_model: str | None
    revision: str | None
    vocabulary: NotRequired[Vocabulary]
    reinitialized: NotRequired[list[str]]
    vectors: NotRequired[LearnedVectors]
    pretraining: NotRequired[FurtherPretrained]


class Provenance(TypedDict):
    """What was read, and what the model was made from: the facts of a recipe's card are held against it (`hftl.facts`)."""

    source: str
    format: str
    fingerprint: dict[str, str]
    """SHA-256 of the contents and labels of each split of the source."""
    model: ModelFacts


class ExtraFacts(TypedDict):
    """Further rows for training alone, see `hftl.data.extra`; `said` is how many, at which weight, in words."""

    name: str
    source: str
    revision: str | None
    format: str
    n: int
    left_out: int
    said: str
    contents: str
    provenance: dict[str, Any]


class DataRecord(Provenance):
    """The file."""

    revision: str | None
    config: str | None
    kind: str
    label_names: list[str]
    splits: dict[str, SplitFacts]
    contents: dict[str, str]
    test_rows: NotRequired[str]
    """A digest of what the test rows hold; without it there is no test split."""
    extra: NotRequired[list[ExtraFacts]]
    """Without `data.extra` it is not there."""
    validation: str
    test: str
    streamed: NotRequired[Streamed]
    skipped: list[SkippedRow]
    duplicates: Duplicates
    notes: list[Note]
    understood: list[str]
    split_column: str | None
    ignored_files: dict[str, int]
    unused: list[str]
    remarks: list[str]
    text: NotRequired[TextFacts]
    image: NotRequired[PictureFacts]
    base: dict[str, Any]


class OtherRows(TypedDict):
    """data.json of an evaluation on other rows."""

    time: str
    source: str
    revision: str | None
    format: str
    split: str | None
    n: int
    per_class: dict[str, int]
    fingerprint: str
    contents: str
    without: list[str]
    skipped: list[dict[str, Any]]
    seen: dict[str, int] | None
    seen_unknown: NotRequired[str]


def pretrained_further(how: FurtherPretrained) -> str:
    """How a checkpoint was pretrained further, in a clause for the plan and the card."""
    begun = "from random weights" if how["from_random"] else f"further, from {how['base']}"
    if how["revision"] is not None:
        begun += f" at revision {how['revision']}"
    before, after = how["losses"]
    return (
        f"pretrained {begun} on {how['texts']:,} texts without their labels ({', '.join(how['names'])}) by hftl pretrain:"
        f" {how['steps']:,} steps, {how['tokens']:,} tokens; loss at masked words of texts that were held out {before:.2f} before,"
        f" {after:.2f} after; none of the texts was in the validation or test split that was read then;"
        f" SHA-256 {how['sha256'][:16]}"
    )


def read_data(run: RunDirectory) -> DataRecord:
    """What a run has read.

    Raises:
        RunError: the file is missing, or is not as hftl writes it.
    """
    data = read_record(run.data, DataRecord)
    if data["kind"] not in data:
        raise RunError(f'{run.data}: there is no "{data["kind"]}", though "kind" says that these are such data')
    return data


def read_other_rows(run: RunDirectory, name: str) -> OtherRows:
    """The rows of an evaluation on other rows.

    Raises:
        RunError: there is none of that name, or the file is not as hftl writes it.
    """
    return read_record(run.evaluation(name) / "data.json", OtherRows)
