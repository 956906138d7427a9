"""The section `data`: which rows are read, how they are divided, and what is made of a text or a picture."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hftl.errors import did_you_mean
from hftl.recipe.augmentation import AnyAugmentation, Policy
from hftl.recipe.extra import AnyExtra, Extra, Rows, each_given, stored
from hftl.recipe.section import Count, Fraction, Positive, Section


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f'"{name}" is no encoding that Python knows, such as cp1252, gb18030 or utf-16-le') from None
    return name


def _not_rgb(bands: int) -> int:
    if bands == 3:
        raise ValueError("three bands are RGB: pictures of three channels, such as .png, are read without data.bands")
    return bands


Colour = Annotated[int, Field(ge=0, le=255)]


def _alone(value: object) -> object:
    """A list of one column is that column."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


_Column = Annotated[str, Field(min_length=1)]
Columns = Annotated[_Column | Annotated[tuple[_Column, ...], Field(min_length=2)], BeforeValidator(_alone)]


class _Data(Section):
    source: Rows
    """A Hub id ("stanfordnlp/imdb"), or a local table, or a folder of them, or class folders of pictures or texts, or an archive
    (docs/data.md has what is read). In Python also data in memory: a DataFrame of pandas or polars, a `datasets.Dataset` or
    `DatasetDict`, or a pair (contents, labels) of lists; they are kept as Parquet, in the run's folder `rows`."""
    revision: str | None = None
    """Commit, tag or branch of a Hub data set."""
    config: str | None = None
    """Name of a Hub data set's configuration."""
    label_column: Columns = "label"
    """The column with the label, or with the labels; or several columns of 0 and 1, one a label that is called as its column is."""
    target: Literal["one", "several"] | None = None
    """How many labels an example has. None: found from the column; lists are several, and so are texts with a separator where each
    part is also there by itself. "several": lists, or texts of labels with a comma, a semicolon or a bar between them, and an empty
    cell for no label. "one": each value is one label."""
    encoding: Annotated[str, AfterValidator(_known_encoding)] | None = None
    """Of tables and texts on this machine that are not UTF-8, such as "cp1252"; None: UTF-8, or UTF-16 where a file is that."""
    delimiter: Annotated[str, Field(pattern=r"^(.|tab)$")] | None = None
    """The character between the columns of .csv and .tsv files, or "tab"; None: found in the first line."""
    train_split: str | None = None
    """None: the split called "train", "Training", "train_set" or the like (hftl.data.layout has the table)."""
    validation_split: str | None = None
    """None: the split called "validation", "val", "valid" or "dev" where there is one, otherwise made from train. Never the test
    split."""
    test_split: str | None = None
    """None: the split called "test" or "testing" where there is one, otherwise made from train by `test_fraction`. "none": leave
    the source's own alone, where it has no labels, and the part of train that `test_fraction` sets aside shut until `hftl test`."""
    validation_fraction: Fraction = 0.1
    """Share of train, stratified by label, that becomes the validation split when the source has none."""
    test_fraction: Fraction = 0.0
    """Share of train, stratified by label, set aside as the test split when the source has none."""
    fold: Annotated[str, Field(pattern=r"^[1-9]\d{0,3}/[1-9]\d{0,3}$")] | None = None
    """"2/5": the second of five parts of train, stratified by label, is the validation split, and the other four are trained on."""
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Decides which rows of train become validation, and which of more rows are used; None: `run.seed` does. A study keeps it while
    `run.seed` changes, so that all its trials are judged by the same rows."""
    sample_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Decides which rows `max_train_samples` takes, and no others; None: what divides the rows does."""
    max_train_samples: Positive | None = None
    """Use that many training examples, stratified by label (drawn after the validation split was set aside)."""
    max_validation_samples: Positive | None = None
    max_test_samples: Positive | None = None
    stream_samples: Positive | None = None
    """For a Hub data set that does not fit the disk: of each split that is used, take that many rows from its stream, and keep only
    these on disk. They are the first of a shuffle buffer, the same for every `run.seed`, and not a uniform sample. Kept on disk,
    instead of an endless stream that is dealt out to the processes, because known rows are what the audit, the sealed test split
    and exact resume rest on; each process then reads its own share of them through the memory map."""
    on_blank_label: Literal["error", "skip"] = "error"
    """What to do with a row whose label is blank, or -1 where that is no class: refuse to train, or leave it out and count it."""
    id_column: str | None = None
    """A column whose values name the rows, each once in its split: predictions have them as `id`. None: "train/17" is row 17."""
    on_duplicate: Literal["error", "drop", "keep"] = "error"
    """What to do where one text or picture is in two splits, or has two labels in one: refuse to train; leave rows out and count
    them (train gives way to validation, both to test, and `extra` to all of them; of two labels all rows go); or train on them as
    they are."""
    extra: AnyExtra = ()
    """Further rows for training alone, generated, pseudo-labelled or borrowed: a place, or a section or a list of them,
    `hftl.Extra(source="generated", name="generated", weight=0.5)`. They come in once the source is divided, and are in no other
    split."""

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that labels are read from."""
        return (self.label_column,) if isinstance(self.label_column, str) else self.label_column

    @model_validator(mode="after")
    def _labels_are_read_in_one_way(self) -> Self:
        if len(self.label_columns) > 1 and self.target == "one":
            raise ValueError('data.target: "one" label is read from one column, and data.label_column names several')
        if len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError("data.label_column: names a column twice")
        return self

    @model_validator(mode="after")
    def _extra_rows_have_names_of_their_own(self) -> Self:
        names = [each.name for each in self.extra]
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            raise ValueError(f'data.extra: two are called "{twice[0]}"; say what each is, such as name=generated')
        return self

    @classmethod
    def _store_rows(cls, values: dict[str, Any]) -> dict[str, Any]:
        kind = str(cls.model_fields["kind"].default)

        def names(key: str) -> tuple[str, ...]:
            given = values.get(key, cls.model_fields[key].default)
            return tuple(map(str, given)) if isinstance(given, list | tuple) else (str(given),)

        def store(section: Mapping[str, Any], source: str) -> dict[str, Any]:
            return stored(
                section, source=source, contents=names(f"{kind}_column"), label=names("label_column")[0], pictures=kind == "image"
            )

        result = store(values, cls._title(values))
        if "extra" in values:
            given = each_given(values["extra"])
            result["extra"] = [each if isinstance(each, Extra) else store(each, "data.extra") for each in given]
        return result


class Windows(Section):
    """How long texts are read whole: in windows, of which the model answers each, and makes one answer of them."""

    length: Annotated[int, Field(ge=8, lt=2**31)] = 256
    """Tokens of a window, special tokens included."""
    overlap: Count = 64
    """Tokens of the text that a window shares with the one before it."""
    logits: Literal["mean", "max"] = "mean"
    """What is made of the logits of a text's windows; "max": for each class the largest."""


def _in_words(windows: object) -> object:
    """A word stands for windows with their defaults: what is made of their logits."""
    return {"logits": windows} if isinstance(windows, str) else windows


def _no_windows(truncate: object) -> object:
    if truncate == "windows":
        raise ValueError("windows cut nothing off, and have options of their own: write data.windows=mean data.max_length=2048")
    return truncate


if TYPE_CHECKING:
    AnyWindows: TypeAlias = str | Windows
else:
    AnyWindows = Annotated[Windows, BeforeValidator(_in_words, json_schema_input_type=Literal["mean", "max"] | Windows)]


class TextData(_Data):
    """Texts and labels."""

    kind: Literal["text"] = "text"
    text_column: Columns = "text"
    """The column of texts; or several, such as [subject, body], of which one text is made, a line each."""
    template: str | None = None
    """How one text is made of the columns where that is not a line each: "{subject} [SEP] {body}"."""
    pair: bool = False
    """Two columns are two texts, which the tokenizer tells apart: a question and an answer, two sentences to compare."""
    max_length: Positive = 256
    """Longest input in tokens, special tokens included; the rest of a text is cut off. Of a pair the longer text is cut first."""
    truncate: Annotated[Literal["head", "tail", "head+tail"], BeforeValidator(_no_windows)] = "head"
    """What stays of a text that is too long: its beginning, its end, or a quarter of `max_length` from the beginning and the rest
    from the end (128 and 382 tokens of 512: Sun et al. 2019, arXiv:1905.05583)."""
    windows: AnyWindows | None = None
    """For a transformer, which reads 512 tokens as a rule: what stays of a text of more tokens than a window has is read in windows
    of that length, in training as in serving (Pappagari et al. 2019, arXiv:1910.10781). A word, "mean" or "max", or a section:
    `hftl.Windows(length=512)`, in YAML ``{length: 512}``. None: all at once."""
    unlabelled: Annotated[str, Field(min_length=1)] | None = None
    """Further texts, without labels: another split of the source by its name, such as "unsupervised", or a table, a .txt file (a
    text a line) or a folder of .txt files. `hftl vectors` reads them, and training where the recipe has a `teacher`; texts that are
    also in validation or test are left out."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that a text is made of, one or several."""
        return (self.text_column,) if isinstance(self.text_column, str) else self.text_column

    @property
    def joins(self) -> bool:
        """Whether a text is made of columns, and is not one as it stands there."""
        return len(self.text_columns) > 1 or self.template is not None

    @property
    def pieces(self) -> tuple[tuple[str, str | None], ...]:
        """What a text is made of: letters, and the column that follows them; None: nothing follows.

        Of "{subject}: {body}!": ("", "subject"), (": ", "body"), ("!", None).
        """
        template = self.template
        if template is None:
            return tuple(("\n" if place else "", column) for place, column in enumerate(self.text_columns))
        parts = re.split("|".join(f"({re.escape(f'{{{column}}}')})" for column in self.text_columns), template)
        parts = [part for part in parts if part is not None]
        columns = [part[1:-1] for part in parts[1::2]]
        return tuple(zip(parts[::2], [*columns, None], strict=True))

    def join(self, texts: Sequence[str]) -> str:
        """One text of those of the columns, in the order of `text_columns`."""
        of_column: Mapping[str, str] = dict(zip(self.text_columns, texts, strict=True))
        return "".join(letters + ("" if column is None else of_column[column]) for letters, column in self.pieces)

    @model_validator(mode="after")
    def _texts_can_be_made(self) -> Self:
        columns = self.text_columns
        twice = [column for place, column in enumerate(columns) if column in columns[:place]]
        if twice:
            raise ValueError(f'text_column: "{twice[0]}" is there twice')
        if self.pair and len(columns) != 2:
            raise ValueError(f"pair: two columns make a pair, and text_column names {len(columns)}")
        if self.pair and self.truncate == "head+tail":
            raise ValueError('pair: of two texts the longer one is cut first, at one end: write truncate "head" or "tail"')
        if self.pair and self.windows is not None:
            raise ValueError("pair: a window has a part of one text and none of the other; leave out windows, or pair")
        if isinstance(self.windows, Windows) and self.windows.length >= self.max_length:
            cut = f"texts are cut to {self.max_length:,} tokens, which is no more than one window of {self.windows.length:,}"
            raise ValueError(f"windows: {cut}; write data.max_length={8 * self.windows.length}, or a smaller data.windows.length")
        if self.pair and self.template is not None:
            raise ValueError("pair: the tokenizer joins a pair in its own way; leave out template, or pair")
        if self.template is not None:
            used = [column for _, column in self.pieces if column is not None]
            absent = [column for column in columns if column not in used]
            for letters, _ in self.pieces:
                if (named := re.search(r"\{([^{}]*)\}|[{}]", letters)) is not None:
                    guess = did_you_mean(named[1] or "", columns)
                    raise ValueError(f'template: "{named[0]}" names no column of text_column ({", ".join(columns)}).{guess}')
            if absent:
                raise ValueError(f'template: leaves out "{absent[0]}": write {{{absent[0]}}} in it, or leave it out of text_column')
        return self


class ImageData(_Data):
    """Pictures and labels."""

    choices = ("augmentation",)

    kind: Literal["image"] = "image"
    image_column: str = "image"
    image_folder: str | None = None
    """Folder below which the paths in a table lie, by itself or from the table's; None: the table's own, or one beside it."""
    image_size: Positive | None = None
    """Side of the square input in pixels; None: the size the checkpoint was pretrained with."""
    augmentation: AnyAugmentation = "none"
    """A policy (none, light, standard, strong, randaugment, trivialaugment, augmix), one with options such as
    `hftl.RandAugment(magnitude=12)`, or an Albumentations pipeline as a dict (`albumentations.to_dict`). A pipeline gets the whole
    picture; what it returns is resized and cropped as for evaluation, unless it makes the model's input size itself."""
    augmentation_library: Literal["albumentations", "torchvision"] | None = None
    """That makes light, standard or strong: other views of the same amounts. None: Albumentations, which a pipeline of one's own
    needs too; randaugment, trivialaugment and augmix are torchvision's."""
    random_erasing: Fraction = 0.0
    """Share of the views in which a rectangle becomes noise, last of all (Zhong et al. 2020, arXiv:1708.04896)."""
    augmentation_views: Count = 0
    """0: a new view of every picture in every epoch. K: K views a picture, of which epoch e sees view e % K; frozen layers compute
    each of them once (`run.cache_gb`). It is a trade: less variety for less time."""
    background: tuple[Colour, Colour, Colour] = (255, 255, 255)
    """RGB colour, 0 to 255, on which transparent pictures are composed."""
    bands: Annotated[int, Field(ge=2, le=1024), AfterValidator(_not_rgb)] | None = None
    """Numbers a pixel, where files hold arrays of them and no colours: .npy of (H, W, C) or (C, H, W), TIFF by the extra `bands`,
    PNG of four channels. For timm, whose first layer gets as many; mean and deviation are those of the training pictures. None:
    pictures, read as RGB."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with a picture that cannot be read: refuse to train, or leave it out and count it."""

    @property
    def augmented(self) -> str:
        """In words: the policy, its options, and what is done beside it."""
        if isinstance(self.augmentation, Policy):
            options = ", ".join(f"{name} {value}" for name, value in self.augmentation if name != "kind")
            policy = f"{self.augmentation.kind} of torchvision{f' ({options})' if options else ''}"
        elif isinstance(self.augmentation, str):
            policy = f"{self.augmentation}{', made by torchvision' if self.augmentation_library == 'torchvision' else ''}"
        else:
            policy = "an Albumentations pipeline of its own, in recipe.yaml"
        erased = f"; random erasing in {100 * self.random_erasing:g} % of the views" if self.random_erasing else ""
        return policy + erased

    @model_validator(mode="after")
    def _options_are_of_bands(self) -> Self:
        if self.bands is None:
            return self
        if self.augmentation not in ("none", "light"):
            raise ValueError(
                "augmentation: of bands there are crops and flips, and no colours; write data.augmentation=light, or none"
            )
        for key, default in (("random_erasing", 0.0), ("augmentation_library", None), ("background", (255, 255, 255))):
            if getattr(self, key) != default:
                raise ValueError(f"{key}: is for pictures of colours, and data.bands={self.bands} are none; leave it out")
        return self

    @model_validator(mode="after")
    def _options_are_of_an_augmentation(self) -> Self:
        if self.random_erasing and self.augmentation == "none":
            raise ValueError("random_erasing: erases a part of an augmented picture; write data.augmentation=light beside it")
        if self.augmentation_library is None:
            return self
        if self.augmentation == "none":
            raise ValueError("augmentation_library: without data.augmentation no library makes views; leave it out")
        has = "albumentations" if isinstance(self.augmentation, dict) else "torchvision"
        if self.augmentation_library != has and not isinstance(self.augmentation, str):
            of = (
                "a pipeline of Albumentations'"
                if isinstance(self.augmentation, dict)
                else f"{self.augmentation.kind}, which are torchvision's"
            )
            raise ValueError(f"augmentation_library: {self.augmentation_library} does not make the views of {of}; leave it out")
        return self


AnyData = Annotated[TextData | ImageData, Field(discriminator="kind")]
