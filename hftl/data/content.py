"""What an example is: the columns that it comes from, what a scan of every row finds, and the samples that are made of it.

Reading, dividing, training and serving ask a `Content` and do not ask which it is. A further kind is a class beside `Texts` and
`Pictures`, a section of the recipe, and a line in `content_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hftl.data.layout import Role
from hftl.errors import Problem
from hftl.names import Tta, bands_in
from hftl.recipe import ImageData, Mix, TextData

if TYPE_CHECKING:  # they read rows, and ask a content how
    from hftl.data.decoding import Note
    from hftl.data.duplicates import LeftOut
    from hftl.data.inputs import Asked, OnBadImage, Say
    from hftl.data.loader import Samples
    from hftl.data.rows import Source, Table


@dataclass(frozen=True)
class Scan:
    """What is known of the rows of a source once each was read."""

    fingerprints: Mapping[Role, np.ndarray]
    """16 bytes for the content of every row; zeros for an empty text, and where there is none. (N, 2) uint64"""
    image_scans: Mapping[Role, np.ndarray] = field(default_factory=dict)
    """For each split the scans of its pictures, on disk; empty for texts. (N,) of `decoding.IMAGE_SCAN`"""
    notes: Mapping[Role, Mapping[int, Note]] = field(default_factory=dict)
    """By row, what is odd about it and used all the same."""
    unreadable: Mapping[Role, Mapping[int, LeftOut]] = field(default_factory=dict)
    """By row, why it cannot be used."""
    problems: list[Problem] = field(default_factory=list)
    """What is refused."""


@dataclass(frozen=True)
class MixedSteps:
    """The steps of a stage that mixes pictures."""

    stage: str
    mix: Mix
    batch_size: int
    first_epoch: int
    """Counted over all stages, from 1."""


class Content(Protocol):
    """One kind of content, as one recipe reads it."""

    rows_at_once: int
    """Rows of a source that are in memory at once while it is copied."""
    stream_buffer: int
    """Rows of the shuffle buffer of a stream, which are in memory: a text takes some kB, a picture as it is stored some 100 kB."""
    names_files: bool
    """Whether a table may have paths of files, so that folders beside it hold them."""
    thing: str
    """What an example is called: "text" or "picture"."""
    example: str
    """The name of a file of one, as messages have it: "text.txt"."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The source's names for the columns that it comes from."""

    def open_folder(self, folder: Path) -> Source:
        """A folder on this machine as a source.

        Raises:
            DataError: it holds nothing that can be read.
        """

    def is_one(self, file: Path) -> bool:
        """Whether a file holds one example."""

    def put_files(self, table: Table, paths: Sequence[str]) -> None:
        """Set `table.content` to the examples of some files, or its problems."""

    def put(self, table: Table, content: Dataset | list[Any], folder: Path | None) -> None:
        """Set `table.content`, or its problems.

        Args:
            table: of one split.
            content: the column as it was read, under the name of the kind, or Python values of it; of several these, or tuples.
            folder: below which paths lie; None: there is none, as on the Hub.
        """

    def fetch(self, batch: pa.Table) -> pa.Table:
        """Rows of a stream with all that belongs to them.

        Raises:
            DataError: a part of them is none of the data set's.
        """

    def scan(self, tables: Mapping[Role, Table]) -> Scan:
        """Read every row of the source once."""

    def samples(self, dataset: Dataset, preprocessor: Any, *, seed: int, train: bool) -> Samples:
        """A split as the model takes it, with the recipe's augmentation where `train`.

        Args:
            dataset: columns `id`, the content's, and `label`, as `load_splits` makes them.
            preprocessor: the classifier's tokenizer or image processor.
            seed: of the augmentation.
            train: whether the model learns from it.

        Raises:
            RecipeError: the preprocessor or the augmentation does not fit.
        """

    def views(self, samples: Any, tta: Tta) -> Samples:
        """The same split with several views of each example, V of them one after the other in a batch, see `hftl.data.views`.

        Raises:
            DataError: there are none of this kind of content, or of this preprocessor.
        """

    def channel_numbers(self, train: Dataset) -> tuple[list[float], list[float]] | None:
        """Mean and deviation of each channel in the training split, where no checkpoint can know them; else None.

        Raises:
            DataError: a channel cannot be normalised.
        """

    def words(self, dataset: Dataset) -> Iterable[str]:
        """The texts of a split, from which a vocabulary is taken; none of pictures."""

    def num_views(self, *, train: bool) -> int:
        """How many different views of an example there are; 0: a new one in every epoch, which is never worth keeping."""

    def facts(self, samples: Any) -> dict[str, Any]:
        """What data.json records of the samples of train, under the name of the kind."""

    def costs(self, samples: Any) -> Iterator[str]:
        """What the plan says of the cost of an example, in lines; `samples` are some of train."""

    def reading(self, splits: Mapping[Role, Dataset], samples: Mapping[Role, Samples], preprocessor: Any, *, seed: int) -> Reading:
        """How the preprocessor reads the splits, for the audit; `samples` are those that were made already."""

    def original(self, samples: Any, dataset: Dataset, place: int) -> str | bytes | dict[str, str]:
        """An example as it came: a text, a pair of them as {"text", "text_pair"}, or the bytes of a picture's file."""

    def show(
        self, train: Dataset, typical: Any, preprocessor: Any, *, seed: int, picture: Path, steps: Sequence[MixedSteps] = ()
    ) -> Iterator[str]:
        """What training will see, in lines; what cannot be said is drawn and written to `picture`, a PNG.

        Args:
            train: the split.
            typical: samples of its first rows, as evaluation sees them.
            preprocessor: see `samples`.
            seed: see `samples`.
            picture: where it is written.
            steps: of the stages that mix pictures; each has a picture more, beside it.
        """

    def inputs(
        self, inputs: Sequence[Any], say: Say, *, columns: Sequence[str] | None = None, on_bad_image: OnBadImage = "error"
    ) -> Asked:
        """Contents that a user hands over to be predicted.

        Args:
            inputs: what they are, see `hftl.data.inputs`.
            say: gets a line about files that are left out.
            columns: what tables call the columns of the content; None: as the recipe does.
            on_bad_image: of pictures, whether one that cannot be read is refused, or left out and counted.

        Raises:
            DataError: what cannot be read, all of it in one report.
        """

    def two_examples(self, samples: Any) -> list[dict[str, Any]]:
        """Two samples that show how a model uses its inputs."""


@dataclass(frozen=True)
class Reading:
    """How a tokenizer reads the texts of a run; empty of pictures."""

    lengths: Mapping[Role, Mapping[str, Any]] = field(default_factory=dict)
    """For each split what `text_facts` says."""
    tokens: Mapping[str, Any] | None = None
    """How it reads the scripts that the texts are written in."""


def content_of(data: TextData | ImageData) -> Content:
    """The content that a section of a recipe describes."""
    if isinstance(data, TextData):
        from hftl.data.text import Texts

        return Texts(data)
    if data.bands is not None:
        from hftl.data.bands import Bands

        return Bands(data)
    from hftl.data.image import Pictures  # a run on texts needs neither Albumentations nor OpenCV

    return Pictures(data)


def content_for(kind: str, data: TextData | ImageData | None, *, max_length: int | None, channels: int) -> Content:
    """What a trained model reads: as its run did, or by the defaults where `data` is not known.

    Args:
        kind: of what the model reads, "text" or "image".
        data: the section that it was trained by.
        max_length: tokens that a text is cut to, which the model's files say; None of pictures.
        channels: that a model of pictures reads.
    """
    if data is None or data.kind != kind:
        data = TextData(source="inputs") if kind == "text" else ImageData(source="inputs", bands=bands_in(channels))
    return content_of(data if max_length is None else data.model_copy(update={"max_length": max_length}))
