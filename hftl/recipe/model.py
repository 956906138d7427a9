"""The section `model`: a family of networks, and which one of it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from hftl.names import RANDOM_VECTORS
from hftl.recipe.section import Count, Positive, Section


def _random_or_file(vectors: str) -> str:
    dimensions = vectors.removeprefix(RANDOM_VECTORS)
    if dimensions != vectors and not (dimensions.isdecimal() and dimensions.isascii() and 1 <= int(dimensions) <= 4096):
        raise ValueError(f'vectors without a file are written "{RANDOM_VECTORS}100", with 1 to 4096 dimensions; not "{vectors}"')
    return vectors


def _grey_or_rgb(channels: int) -> int:
    if channels not in (1, 3):
        help = f"; arrays of {channels} bands are data.bands={channels}, which the first layer follows" if channels > 1 else ""
        raise ValueError(f"a picture is read in 1 channel, grey, or in 3, RGB; not in {channels}{help}")
    return channels


class Pretrained(Section):
    """What the families of pretrained models share."""

    reads: ClassVar[tuple[str, ...]] = ("text",)
    """The kinds of data that the family reads."""
    checkpoint: str = Field(min_length=1)
    """A Hub id or a local folder."""
    revision: str | None = None
    pretrained: bool = True
    """False: the same architecture with random weights, for a baseline."""
    reinitialize: Count = 0
    """So many layer groups below the head, and the head, begin with random weights of the architecture's own kind."""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Stochastic depth: the rate at which training leaves out the last layer for an example, falling to 0 at the first; None: what
    the checkpoint's config says."""


class Transformer(Pretrained):
    """A pretrained transformer with a classification head: of texts `AutoModelForSequenceClassification`, of pictures
    `AutoModelForImageClassification`."""

    reads = ("text", "image")
    family: Literal["transformer"] = "transformer"
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout everywhere in the model; None: what the checkpoint's config says."""
    head_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout in the head, before the output layer, over what `dropout` says."""
    pooling: Literal["native", "mean", "max", "attention"] = "native"
    """What of a text's tokens the head reads. "native": what the architecture does, the first token of BERT's kin; "mean", "max",
    "attention" (a mean with learned weights): all of them, padding left out, by a new linear layer."""


class Timm(Pretrained):
    """A timm classifier (`TimmWrapperForImageClassification`). `checkpoint` may also be a timm architecture name with
    `pretrained` false."""

    reads = ("image",)
    family: Literal["timm"] = "timm"
    in_chans: Annotated[int, AfterValidator(_grey_or_rgb)] | None = None
    """1: pictures are read in grey, by a first layer that has the sum of the checkpoint's weights over its three channels. None:
    as the checkpoint does, in three as a rule (RGB), which a grey picture is in too."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout before the classifier."""
    pooling: Literal["native", "pyramid"] = "native"
    """What of a picture the head reads. "native": the network's last level, as timm has it; "pyramid": the means of its last four
    levels side by side, by a new linear layer."""


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"{size}: a kernel has a middle, so its side is odd")
    return size


class CNN(Section):
    """A small convolutional network of the textbook, from random weights: blocks of convolutions with batch normalisation, ReLU and
    a pooling that halves the picture, the mean over all places, a linear layer. `data.image_size` is 64 pixels unless it is set."""

    reads: ClassVar[tuple[str, ...]] = ("image",)
    family: Literal["cnn"] = "cnn"
    channels: tuple[Positive, ...] = Field(default=(32, 64, 128, 256), min_length=1, max_length=16)
    """Feature maps of each block, input first."""
    convolutions: Annotated[int, Field(ge=1, le=16)] = 1
    """Of each block; 1 as in LeNet (LeCun et al. 1998), 2 or 3 as in VGG (Simonyan & Zisserman 2015, arXiv:1409.1556)."""
    kernel_size: Annotated[int, Field(ge=1, le=31), AfterValidator(_odd)] = 3
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout before the linear layer."""


class WordVectors(Section):
    """What the networks over word vectors share."""

    reads: ClassVar[tuple[str, ...]] = ("text",)
    model_type: ClassVar[str]
    """`model_type` of the network in config.json."""
    vectors: Annotated[str, Field(min_length=1), AfterValidator(_random_or_file)]
    """Word vectors: GloVe .txt, also as .gz or as a member of a .zip ("glove.6B.zip:glove.6B.100d.txt"), word2vec .vec, fastText
    .bin or a folder of model2vec; from the Hub as "hub:stanfordnlp/glove/glove.6B.zip:glove.6B.100d.txt". "random:100": no file;
    100 numbers a word, random at first. `hftl vectors` learns some from one's own texts."""
    segmentation: Literal["auto", "words", "characters"] = "auto"
    """How texts in scripts without spaces (Chinese, Japanese, Thai, Khmer, Lao, Burmese) are cut. "auto": into the words of the
    vectors and words learned from the training texts, where such letters are 1 % or more of those texts'; "characters": each
    letter is a word; "words": not at all, so that a clause is one word. Words of other scripts stay whole."""
    max_words: Positive = 60_000
    """Size of the vocabulary: the most frequent words of the training texts."""
    min_count: Positive = 2
    """Words seen less often in the training texts, and not in `vectors`, are treated as unknown."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Of the features that enter the head, and between LSTM layers."""
    word_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the words of a training text that the network does not see, drawn anew each time."""
    trainable_dim: Count = 0
    """Width of a second, randomly initialised embedding beside the vectors, in dimensions; 0: none."""

    @property
    def random_dim(self) -> int | None:
        """Dimensions of vectors that are random at first; None: they are read from a file."""
        dimensions = self.vectors.removeprefix(RANDOM_VECTORS)
        return None if dimensions == self.vectors else int(dimensions)


class TextCNN(WordVectors):
    """Convolutions over word vectors, max over time (Kim 2014, arXiv:1408.5882)."""

    model_type = "hftl_textcnn"
    family: Literal["textcnn"] = "textcnn"
    kernel_widths: tuple[Positive, ...] = Field(default=(3, 4, 5), min_length=1, max_length=64)
    channels: Positive = 100
    """Feature maps per kernel width."""


class BiLSTM(WordVectors):
    """A bidirectional LSTM over word vectors."""

    model_type = "hftl_bilstm"
    family: Literal["bilstm"] = "bilstm"
    hidden_size: Positive = 100
    layers: Annotated[int, Field(ge=1, le=256)] = 2
    pooling: Literal["ends", "max", "mean"] = "ends"
    """"ends": forward and backward states at the first and last word; "max", "mean": over the words, padding left out."""


class BagOfEmbeddings(WordVectors):
    """The mean of the embeddings of a text's words and n-grams, and a linear layer (fastText's classifier: Joulin et al. 2017,
    arXiv:1607.01759)."""

    model_type = "hftl_bag"
    family: Literal["bag"] = "bag"
    ngrams: Annotated[int, Field(ge=1, le=5)] = 2
    """Words of the longest n-gram; 1: words alone."""
    buckets: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Rows of the table that n-grams are hashed into; each has as many numbers as a word vector."""


AnyModel = Annotated[Transformer | Timm | CNN | TextCNN | BiLSTM | BagOfEmbeddings, Field(discriminator="family")]
