"""The recipe: one whole experiment as typed, frozen data.

A recipe is built in Python (a script under recipes/) or read from YAML, changed by dotted key (`stages.all.lr=3e-5`), checked
as a whole, and written back as YAML into the run directory. The YAML is data only: no code, no class paths.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import types
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from hftl.errors import Problem, RecipeError, did_you_mean
from hftl.memory import ROWS, keep
from hftl.names import Chooser
from hftl.secrets import environment_secrets, find_secrets, is_random


def _not_zero(rate: float) -> float:
    if rate == 0.0:
        raise ValueError("0.0 does not freeze a group; leave the group out of `unfreeze` instead.")
    if rate < 0.0:
        raise ValueError("a learning rate is greater than 0.")
    return rate


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Colour = Annotated[int, Field(ge=0, le=255)]
LearningRate = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_not_zero)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | tuple[str, ...]),
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=96)]
SourceSplit = Literal["train", "validation", "test"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


_within: ContextVar[bool] = ContextVar("_within", default=False)


class _Section(BaseModel):
    # Numbers become strings where a string is asked for: `Card(language=...)` in Python may be given what a table holds. No field
    # has a use for an infinite number.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # the strings below the fields
        json_schema_extra=lambda schema, section: schema.update(description=section.__doc__.partition("\n\nArgs:")[0]),
    )

    if not TYPE_CHECKING:  # type checkers and editors keep the fields as the arguments

        def __init__(self, **values: Any) -> None:
            if _within.get():  # part of a larger section, which reports all problems at once
                super().__init__(**values)
                return
            values = self._with_rows_kept(values)
            token = _within.set(True)
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise RecipeError(_source(type(self), values), list(_problems(error, type(self)))) from None
            finally:
                _within.reset(token)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Have `help(hftl.Stage)` say what each field is, in place of how pydantic checks it."""
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(name, keyword, default=inspect.Parameter.empty if field.is_required() else field.default)
            for name, field in cls.model_fields.items()
        ]
        cls.__signature__ = inspect.Signature(parameters)
        docs = {name: " ".join((field.description or "").split()) for name, field in cls.model_fields.items()}
        lines = [f"    {name}: {doc}" if doc else f"    {name}" for name, doc in docs.items()]
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Args:", *lines])

    @classmethod
    def _with_rows_kept(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values with a name in place of data that were handed over in memory; never of what a file says."""
        return values


# --- data ---------------------------------------------------------------------------------------------------------------------


if TYPE_CHECKING:
    Rows: TypeAlias = Any
else:
    Rows = Annotated[str, Field(min_length=1)]


class _Data(_Section):
    source: Rows
    """A Hub id ("stanfordnlp/imdb"), or a local CSV, JSONL or Parquet file, or a folder of them, or an image folder. In Python also
    data in memory: a DataFrame of pandas or polars, a `datasets.Dataset` or `DatasetDict`, or a pair (contents, labels) of lists;
    they are kept as Parquet, in the run's folder `rows` once it is trained."""
    revision: str | None = None
    """Commit, tag or branch of a Hub data set."""
    config: str | None = None
    """Name of a Hub data set's configuration."""
    label_column: str = "label"
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
    max_train_samples: Positive | None = None
    """Use that many training examples, stratified by label (drawn after the validation split was set aside)."""
    max_validation_samples: Positive | None = None
    max_test_samples: Positive | None = None
    stream_samples: Positive | None = None
    """For a Hub data set that does not fit the disk: of each split that is used, take that many rows from its stream, and keep only
    these on disk. They are the first of a shuffle buffer, the same for every `run.seed`, and not a uniform sample. Kept on disk,
    instead of an endless stream that is dealt out to the processes, because known rows are what the audit, the sealed test split
    and exact resume rest on; each process then reads its own share of them through the memory map."""
    on_duplicate: Literal["error", "drop", "keep"] = "error"
    """What to do where one text or picture is in two splits, or has two labels in one: refuse to train; leave rows out and count
    them (train gives way to validation, and both to test; of two labels all rows go); or train on them as they are."""

    @classmethod
    def _with_rows_kept(cls, values: dict[str, Any]) -> dict[str, Any]:
        source = values.get("source")
        if source is None or isinstance(source, str | int | float):
            return values
        if isinstance(source, os.PathLike):
            return {**values, "source": os.fspath(source)}
        kind = str(cls.model_fields["kind"].default)

        def column(key: str) -> str:
            return str(values.get(key, cls.model_fields[key].default))

        try:
            kept = keep(source, content=column(f"{kind}_column"), label=column("label_column"), pictures=kind == "image")
        except ValueError as error:
            raise RecipeError.single("source", str(error), source=_source(cls, values)) from None
        return {**values, "source": kept}


class TextData(_Data):
    """Texts and labels."""

    kind: Literal["text"] = "text"
    text_column: str = "text"
    max_length: Positive = 256
    """Longest input in tokens, special tokens included; the rest of a text is cut off."""


class ImageData(_Data):
    """Pictures and labels."""

    kind: Literal["image"] = "image"
    image_column: str = "image"
    image_size: Positive | None = None
    """Side of the square input in pixels; None: the size the checkpoint was pretrained with."""
    augmentation: str | dict[str, Any] = "none"
    """A policy (none, light, standard, strong) or an Albumentations pipeline as a dict (`albumentations.to_dict`). A pipeline gets
    the whole picture; what it returns is resized and cropped as for evaluation, unless it makes the model's input size itself."""
    augmentation_views: Count = 0
    """0: a new view of every picture in every epoch. K: K views a picture, of which epoch e sees view e % K; frozen layers compute
    each of them once (`run.cache_gb`). It is a trade: less variety for less time."""
    background: tuple[Colour, Colour, Colour] = (255, 255, 255)
    """RGB colour, 0 to 255, on which transparent pictures are composed."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with a picture that cannot be read: refuse to train, or leave it out and count it."""


# --- model --------------------------------------------------------------------------------------------------------------------


class Pretrained(_Section):
    """What the families of pretrained models share."""

    checkpoint: str = Field(min_length=1)
    """A Hub id or a local folder."""
    revision: str | None = None
    pretrained: bool = True
    """False: the same architecture with random weights, for a baseline."""


class Transformer(Pretrained):
    """A pretrained transformer with a classification head (`AutoModelForSequenceClassification`)."""

    family: Literal["transformer"] = "transformer"
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout everywhere in the model; None: what the checkpoint's config says."""


class Timm(Pretrained):
    """A timm classifier (`TimmWrapperForImageClassification`). `checkpoint` may also be a timm architecture name with
    `pretrained` false."""

    family: Literal["timm"] = "timm"
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout before the classifier."""


class WordVectors(_Section):
    """What the networks over word vectors share."""

    model_type: ClassVar[str]
    """Of the network, in config.json."""
    vectors: str = Field(min_length=1)
    """Word vectors: GloVe .txt, also as .gz or as a member of a .zip ("glove.6B.zip:glove.6B.100d.txt"), or word2vec .vec; from the
    Hub as "hub:stanfordnlp/glove/glove.6B.zip:glove.6B.100d.txt"."""
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


# --- stages -------------------------------------------------------------------------------------------------------------------


class _Choice(_Section):
    """One of several kinds, each with the options that apply to it; its word alone stands for it with its defaults."""

    @model_serializer(mode="wrap")
    def _with_its_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": getattr(self, "kind"), **handler(self)}  # noqa: B009  # each kind declares its own


def _section_of_word(value: object) -> object:
    """What stands for a section as a mapping: a word as its kind; a kind of None is none."""
    if isinstance(value, str):
        return {"kind": value}
    if isinstance(value, Mapping):
        return {str(key): option for key, option in value.items() if (key, option) != ("kind", None)}
    return value


def _kinds(choice: Any) -> tuple[str, ...]:
    """The words of a union of kinds, in its order."""
    return tuple(str(member.model_fields["kind"].default) for member in typing.get_args(choice))


Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Betas = tuple[Beta, Beta]
Epsilon = Annotated[float, Field(gt=0.0)]


class AdamW(_Choice):
    """Adam whose weight decay does not go through its averages (Loshchilov & Hutter 2017, arXiv:1711.05101). torch's, fused."""

    kind: Literal["adamw"] = "adamw"
    betas: Betas = (0.9, 0.999)
    """How much of the averages of the gradient and of its square is kept at a step."""
    eps: Epsilon = 1e-8


class Adam(_Choice):
    """Kingma & Ba 2014, arXiv:1412.6980; weight decay is part of the gradient. torch's, fused."""

    kind: Literal["adam"] = "adam"
    betas: Betas = (0.9, 0.999)
    eps: Epsilon = 1e-8


class NAdam(_Choice):
    """Adam with Nesterov's momentum (Dozat 2016); weight decay is part of the gradient. torch's."""

    kind: Literal["nadam"] = "nadam"
    betas: Betas = (0.9, 0.999)
    eps: Epsilon = 1e-8


class RAdam(_Choice):
    """Adam whose first steps are small without a warmup (Liu et al. 2019, arXiv:1908.03265); weight decay is part of the gradient.
    torch's."""

    kind: Literal["radam"] = "radam"
    betas: Betas = (0.9, 0.999)
    eps: Epsilon = 1e-8


class SGD(_Choice):
    """Gradient descent; weight decay is part of the gradient. torch's, fused."""

    kind: Literal["sgd"] = "sgd"
    momentum: Beta = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is a way to use momentum, which is 0; leave nesterov out, or give a momentum")
        return self


class RMSprop(_Choice):
    """The gradient over the root of its mean square; weight decay is part of the gradient. torch's."""

    kind: Literal["rmsprop"] = "rmsprop"
    momentum: Beta = 0.9
    alpha: Beta = 0.99
    """How much of the average of the squared gradient is kept at a step."""
    eps: Epsilon = 1e-8


class Lion(_Choice):
    """The sign of an averaged gradient (Chen et al. 2023, arXiv:2302.06675); half of AdamW's memory, and a tenth to a third of its
    rate. timm's."""

    kind: Literal["lion"] = "lion"
    betas: Betas = (0.9, 0.99)


class Lamb(_Choice):
    """Adam whose step is scaled to the norm of each matrix, for large batches (You et al. 2019, arXiv:1904.00962). timm's."""

    kind: Literal["lamb"] = "lamb"
    betas: Betas = (0.9, 0.999)
    eps: Epsilon = 1e-6


class Adafactor(_Choice):
    """Adam without momentum whose second average is kept by rows and columns (Shazeer & Stern 2018, arXiv:1804.04235). torch's.

    A rate is relative: a step of 0.01 changes a matrix by about 1 % of its size; of the rate and 1 / sqrt(step) the smaller counts.
    """

    kind: Literal["adafactor"] = "adafactor"


Optimizer = AdamW | Adam | SGD | RMSprop | NAdam | RAdam | Lion | Lamb | Adafactor


class _Warmed(_Choice):
    warmup: Fraction = 0.0
    """Share of the stage's steps over which the rates rise from 0."""


class LinearSchedule(_Warmed):
    """Down to 0 in a line."""

    kind: Literal["linear"] = "linear"


class ConstantSchedule(_Warmed):
    """The same rates throughout."""

    kind: Literal["constant"] = "constant"


class CosineSchedule(_Warmed):
    """Down to 0 along half a cosine."""

    kind: Literal["cosine"] = "cosine"


class StepSchedule(_Warmed):
    """Times `gamma` after every `every` epochs."""

    kind: Literal["step"] = "step"
    every: Positive = 1
    """Epochs between two drops."""
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1


class ExponentialSchedule(_Warmed):
    """Times the same factor at every step; `gamma` in all, from the first step to the last."""

    kind: Literal["exponential"] = "exponential"
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1


class PolynomialSchedule(_Warmed):
    """Down to `end` along the curve ``(1 - t) ** power``, with t from 0 to 1 over the stage."""

    kind: Literal["polynomial"] = "polynomial"
    power: Annotated[float, Field(gt=0.0)] = 2.0
    """1 is linear; more falls faster at first."""
    end: Fraction = 0.0
    """The last rate, as a share of the first."""


class OneCycleSchedule(_Choice):
    """Up from 1/25 over three tenths of the steps, and down to almost nothing (Smith 2018, arXiv:1708.07120)."""

    kind: Literal["one_cycle"] = "one_cycle"


class SlantedTriangularSchedule(_Choice):
    """Up from 1/32 over a tenth of the steps, and down to 1/32 (Howard & Ruder 2018, arXiv:1801.06146)."""

    kind: Literal["slanted_triangular"] = "slanted_triangular"


Schedule = (
    LinearSchedule
    | ConstantSchedule
    | CosineSchedule
    | StepSchedule
    | ExponentialSchedule
    | PolynomialSchedule
    | OneCycleSchedule
    | SlantedTriangularSchedule
)


class CrossEntropyLoss(_Choice):
    """Minus the log of the true class's probability."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Fraction = 0.0
    """Share of the target that is spread over all classes."""


class FocalLoss(_Choice):
    """Cross-entropy times ``(1 - p) ** gamma``, with p the true class's probability (Lin et al. 2017, arXiv:1708.02002)."""

    kind: Literal["focal"] = "focal"
    gamma: Annotated[float, Field(ge=0.0)] = 2.0


Loss = CrossEntropyLoss | FocalLoss

if TYPE_CHECKING:  # what a stage may be given; it keeps the section
    AnyOptimizer = str | Optimizer
    AnySchedule = str | Schedule
    AnyLoss = str | Loss
else:

    def _word_or_section(union: Any) -> Any:
        accepted = Literal[_kinds(union)] | Annotated[union, Field(discriminator="kind")]
        word = BeforeValidator(_section_of_word, json_schema_input_type=accepted)
        return Annotated[union, Field(discriminator="kind"), word]

    AnyOptimizer, AnySchedule, AnyLoss = (_word_or_section(union) for union in (Optimizer, Schedule, Loss))


class Stage(_Section):
    """One entry of the training plan: what trains, at which rates, for how long."""

    lr: LearningRate
    """Learning rate of the last layer group before multipliers."""
    unfreeze: str | tuple[str, ...] = "all"
    """"head", "last 4" (groups, the head counted), "all", or the names of layer groups."""
    epochs: Positive = 1
    batch_size: Positive | None = None
    """Examples an optimizer step sees over all processes; None: `run.batch_size`."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Group i of n, input first, gets ``lr * layer_decay ** (n - 1 - i)``."""
    head_lr_multiplier: Annotated[float, Field(gt=0.0)] = 1.0
    optimizer: AnyOptimizer = AdamW()
    """A word such as "sgd", or a section with options: `hftl.SGD(momentum=0.8)`, in YAML ``{kind: sgd, momentum: 0.8}``."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Off for biases, norms and embeddings."""
    schedule: AnySchedule = LinearSchedule()
    """A word such as "cosine", or a section: `hftl.CosineSchedule(warmup=0.1)`, in YAML ``{kind: cosine, warmup: 0.1}``."""
    loss: AnyLoss = CrossEntropyLoss()
    """A word, "cross_entropy" or "focal", or a section: `hftl.FocalLoss(gamma=3)`, in YAML ``{kind: focal, gamma: 3}``."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """"balanced" (n / (K * n_k)), or a weight for each class name; scaled so that the mean over train is 1."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = 1.0
    """The norm of a step's gradient, over all that trains, is cut to this; None: never."""
    early_stopping: Positive | None = None
    """Stop the stage after that many epochs without a better validation metric; None: never."""


CHOICES = ("optimizer", "schedule", "loss")
"""The keys of a stage that hold a word or a section."""


# --- run and card -------------------------------------------------------------------------------------------------------------


class RunSettings(_Section):
    """How the experiment is run, whatever it trains."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """"auto": bf16 where the machine computes it natively, fp16 on a CUDA GPU that has units for it instead (T4, V100, P100), fp32
    elsewhere. Weights are always float32. fp16 is for CUDA GPUs; its gradients are scaled, and where they overflow all the same a
    step is skipped."""
    batch_size: Positive = 32
    """Examples an optimizer step sees over all processes, so a recipe means the same on one machine or eight."""
    gradient_accumulation: Positive = 1
    """Micro-batches a step is cut into, to save memory; does not change what the step computes."""
    evaluation_batch_size: Positive | None = None
    """Pictures of an evaluation batch, a process; None: 64. Texts go by `tokens_per_batch`."""
    metric: Chooser = "accuracy"
    """Validation metric that picks the best weights."""
    keep: Literal["best", "last"] = "best"
    """Which weights are delivered: "best" over all stages, so that a stage that improves nothing is undone; "last": the best of the
    last stage. The weights with which the first stage begins are no candidate: their head is random."""
    test: Literal["open", "sealed"] = "open"
    """"open": the test split is evaluated once, at the end. "sealed": it stays shut, as it should while recipes are compared; later
    `hftl test RUN` opens it."""
    tokens_per_batch: Positive | None = None
    """Most tokens, padding included, that a process computes at once: a step with more is cut into micro-batches of similar length,
    and evaluation batches are filled up to it. Does not change what a step computes. For texts alone. None: 4,096 for a transformer
    on a CPU, where small pieces pad less and stay in its caches, 16,384 elsewhere."""
    cache_gb: Annotated[float, Field(ge=0.0)] = 20.0
    """Disk, in gigabytes, for what is computed once and used again, by this run and later ones: the activations that leave frozen
    layers, decoded pictures. What does not fit is computed each time; 0 keeps nothing."""
    compile: bool = False
    """`torch.compile` on a GPU, with lengths padded to few sizes. On a CPU it gains nothing and is refused."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """Loader processes beside each training process; None: as many as this machine has use for."""
    log_every: Positive = 10
    """Steps between two lines of history.jsonl."""
    checkpoint_minutes: Annotated[float, Field(ge=0.0)] = 10.0
    """Minutes between two checkpoints inside an epoch; there is one after each epoch as well. 0: after every step."""
    timeout_minutes: Annotated[float, Field(gt=0.0)] = 30.0
    """Of several processes: how long one waits for the others before it takes them for dead."""
    trackers: tuple[str, ...] = ()
    """Accelerate's trackers by name: "tensorboard", "trackio", "mlflow", "wandb" or another one. They get the keys of the recipe,
    the curves, the final metrics and the figures."""


class Card(_Section):
    """Facts for the model card that only a person knows. What is left out is written "not recorded".

    They describe what this recipe names: its data, its model, and what training makes of both (`ABOUT` has the keys). Where an
    override names something else, the facts about it are left off the card, and a line says so; facts that are given in the same
    call are about the new thing. See docs/sharing.md.
    """

    title: str | None = None
    summary: str | None = None
    intended_use: str | None = None
    limitations: str | None = None
    """What was not measured, and for what the model should not be used. What hftl measures itself (texts that are cut, small
    classes) is on the card anyway."""
    training_data: str | None = None
    """The data set in words, as far as this recipe trains on it."""
    license: str | None = None
    """An identifier the Hub knows, such as "apache-2.0": the licence of the model that comes of exactly this recipe. It never
    passes on to a model of other data, of another checkpoint, or of another person."""
    language: str | None = None
    """An ISO 639 code such as "en", for texts."""
    tags: Names = ()
    base_model: str | None = None
    """Hub id of the base model where the checkpoint is a local folder. Nothing proves it: the card says whose word it is."""
    dataset: str | None = None
    """Hub id of the data set where the source is local: proven by `dataset_fingerprint`, otherwise a claim, and marked as one."""
    dataset_name: str | None = None
    """How people call the data set."""
    dataset_fingerprint: dict[SourceSplit, Digest] | None = None
    """What the data set holds, by split, as `fingerprint` of a run's data.json has it: SHA-256 of its texts or pictures and their
    classes, whatever their order, file format and place. A local copy is known by it."""
    authors: Names = ()
    citation: str | None = None


_PROSE = frozenset(
    f"card.{fact}" for fact in ("title", "summary", "intended_use", "limitations", "training_data", "authors", "citation")
)
"""Keys whose values are sentences. Those of the others are names of things, and numbers."""

_SET = ("data.source", "data.config")
_READ = (*_SET, "data.kind", "data.text_column", "data.image_column", "data.label_column", "data.train_split")
_ROWS = ("data.revision", "data.max_train_samples", "data.stream_samples")
_MODEL = ("model.family", "model.checkpoint", "model.vectors", "model.pretrained")
AUTHOR = "author"
"""In place of a key: who has trained the model that a fact is about; None is whoever uses the recipe."""
_TRAINED = (*_READ, *_MODEL, AUTHOR)
ABOUT: Mapping[str, tuple[str, ...]] = {
    "dataset": _SET,
    "dataset_name": _SET,
    "dataset_fingerprint": _SET,
    "language": _READ,
    "training_data": (*_READ, *_ROWS),
    "base_model": _MODEL,
    **dict.fromkeys(("title", "license", "tags", "authors", "citation"), _TRAINED),
    **dict.fromkeys(("summary", "intended_use"), (*_TRAINED, "stages")),
    "limitations": (*_TRAINED, "stages", "data.max_length", "data.image_size", "data.test_split", "data.test_fraction"),
    "name": (*_SET, *_MODEL),
}
"""Fact of the card, or the run's name -> the keys of what it is about: of the data set, of how it is read, of the model, of what
training makes of them. "stages" are their names and what each of them unfreezes."""


AnyData = Annotated[TextData | ImageData, Field(discriminator="kind")]
_PLACES = frozenset({"data.source", "model.checkpoint", "model.vectors"})


def _is_same(key: str, one: Any, other: Any) -> bool:
    """Whether two values of a key mean the same: "photos", "photos/" and "./photos" are one folder."""
    if key in _PLACES and isinstance(one, str) and isinstance(other, str):
        return os.path.normpath(one) == os.path.normpath(other)
    return bool(one == other)


AnyModel = Annotated[Transformer | Timm | TextCNN | BiLSTM | BagOfEmbeddings, Field(discriminator="family")]


class Recipe(_Section):
    """A whole experiment.

    Raises:
        RecipeError: from the functions of this module, with every problem in one report.
    """

    name: Name
    """Name of the run directory."""
    data: AnyData
    model: AnyModel
    stages: dict[Name, Stage] = Field(min_length=1)
    """In the order in which they run."""
    run: RunSettings = RunSettings()
    card: Card = Card()

    # For each fact the values of the recipe that it was given in, and the facts that overrides gave. Kept by copies, not by YAML.
    _about: dict[str, Mapping[str, Any]] = PrivateAttr(default_factory=dict)
    _given: frozenset[str] = PrivateAttr(default=frozenset())

    def model_post_init(self, context: Any) -> None:
        self._about = dict.fromkeys(self._facts(), self._subject())

    def __eq__(self, other: object) -> bool:
        """Two recipes are equal that say the same, wherever they have it from."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    @property
    def given(self) -> frozenset[str]:
        """The facts, and "name", that were given by `override` rather than by the script."""
        return self._given

    def _facts(self) -> list[str]:
        return ["name", *(fact for fact, value in self.card if value not in (None, ()))]

    def _subject(self) -> dict[str, Any]:
        """What a fact that is given now is about: the values of the keys in `ABOUT`, and the ids it goes by."""
        values: dict[str, Any] = dict(_leaves(self.model_dump(mode="json", exclude={"stages", "run"})))
        values["stages"] = {name: stage.unfreeze for name, stage in self.stages.items()}
        for claim, key in (("card.dataset", "data.source"), ("card.base_model", "model.checkpoint")):
            then = self._about.get(claim.removeprefix("card."), values)
            if then.get(key) != values.get(key):
                values[claim] = None  # of the former one
        return values

    def lapsed(self, fingerprint: Mapping[str, str] | None = None) -> dict[str, dict[str, tuple[Any, Any]]]:
        """The facts that are not about what the recipe names now -> each key that has changed since: (then, now).

        A copy of the data set counts as that data set where `fingerprint`, of what was read, is the one on the card, or where an
        override claims it by `card.dataset`; another checkpoint as the same model where one claims it by `card.base_model`.
        """
        now, known = self._subject(), self.card.dataset_fingerprint

        def same_name(then: Mapping[str, Any], key: str, claim: str) -> bool:
            return bool({then.get(key), then[claim]} & {now.get(key), now[claim]} - {None})

        found: dict[str, dict[str, tuple[Any, Any]]] = {}
        for fact, then in self._about.items():
            same: tuple[str, ...] = ()
            recognised = (
                known is not None
                and fingerprint is not None
                and then["data.source"] == self._about.get("dataset_fingerprint", now)["data.source"]
                and same_content(known, fingerprint)
            )
            claimed = then["data.source"] != now["data.source"] and same_name(then, "data.source", "card.dataset")
            if claimed or recognised:
                same += (*_READ, "data.revision")
            if same_name(then, "model.checkpoint", "card.base_model"):
                same += ("model.checkpoint",)
            changed = [key for key in ABOUT[fact] if key not in same and not _is_same(key, now.get(key), then.get(key))]
            # A place that is published under its name alone stays what it was.
            changed = [key for key in changed if now.get(key) != f"{LOCAL}{local_name(str(then.get(key)))}"]
            if changed:
                found[fact] = {key: (then.get(key), now.get(key)) for key in changed}
        return found

    @model_validator(mode="after")
    def _model_fits_data(self) -> Self:
        if (self.model.family == "timm") != (self.data.kind == "image"):
            raise ValueError(
                f'model.family "{self.model.family}" does not read data of kind "{self.data.kind}"; pictures go with timm'
            )
        return self

    @model_validator(mode="after")
    def _views_are_of_an_augmentation(self) -> Self:
        if isinstance(self.data, ImageData) and self.data.augmentation_views and self.data.augmentation == "none":
            raise ValueError("data.augmentation_views: without data.augmentation there is one view of a picture; leave it out")
        return self

    @model_validator(mode="after")
    def _batches_are_of_its_kind(self) -> Self:
        pictures = isinstance(self.data, ImageData)
        if pictures and self.run.tokens_per_batch is not None:
            raise ValueError(
                "run.tokens_per_batch: pictures have no tokens; leave it out. What a process computes at once is set by"
                " run.gradient_accumulation, and in evaluation by run.evaluation_batch_size"
            )
        if not pictures and self.run.evaluation_batch_size is not None:
            raise ValueError(
                "run.evaluation_batch_size: evaluation batches of texts are filled by tokens; leave it out, or set"
                " run.tokens_per_batch"
            )
        return self

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        for key, value in _leaves(self.model_dump(mode="json")):
            try:
                json.dumps([key, value], ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError:  # the command line passes bytes that are not UTF-8 on as half characters
                raise ValueError(f"{ascii(key)[1:-1]} holds {value!a}, of which no file can hold every character") from None
        return self

    @property
    def opens_test(self) -> bool:
        """Whether training opens the test split at its end; otherwise `hftl test` does, once."""
        return self.run.test == "open" and self.data.test_split != "none"

    def to_yaml(self) -> str:
        """The recipe as YAML; `load_recipe` reads it back equal, but for facts that are about something else (`lapsed`)."""
        values = self.model_dump(mode="json")
        values["card"] |= {fact: Card.model_fields[fact].default for fact in self.lapsed() if fact != "name"}
        return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def flat(recipe: Recipe) -> list[tuple[str, Any]]:
    """Each dotted key of a recipe with its value, as JSON has it."""
    return list(_leaves(recipe.model_dump(mode="json")))


def secrets_beside(recipe: Recipe) -> dict[str, str]:
    """Value -> a name for it, of the secrets of the environment that the recipe's own names are not taken for.

    With SOME_API_KEY=stanfordnlp/imdb the `data.source` of that name is a name. What looks random is a secret wherever it stands.
    """
    names = [str(value) for key, value in flat(recipe) if key not in _PROSE]
    return {
        value: variable
        for value, variable in environment_secrets().items()
        if is_random(value) or not any(value in name for name in names)
    }


def refuse_secrets(recipe: Recipe) -> None:
    """Refuse a recipe that may not be written into a run, nor sent.

    Raises:
        RecipeError: it holds secrets; they are named, and not shown.
    """
    known = secrets_beside(recipe)
    found = {f"{key} holds {kind}": None for key, value in flat(recipe) for _, kind in find_secrets(str(value), known=known)}
    if found:
        help = ("a recipe is written into runs and published. Tokens belong into HF_TOKEN",)
        raise RecipeError("recipe", [Problem("recipe", what, help) for what in found])


def same_content(known: Mapping[Any, str], read: Mapping[str, str]) -> bool:
    """Whether the splits that were read are those of a data set's fingerprint; `known` may have more of them."""
    return "train" in read and all(known.get(split) == digest for split, digest in read.items())


def of_another(recipe: Recipe, author: str) -> Recipe:
    """A recipe whose model somebody else has trained: what they say of that model is not about one's own."""
    theirs = Recipe(**recipe.model_dump(mode="json"))
    theirs._about = {fact: {**then, AUTHOR: author} for fact, then in theirs._about.items()}
    return theirs


def _source(section: type[BaseModel], values: Mapping[str, Any]) -> str:
    if section is not Recipe:
        return f"hftl.{section.__name__}(...)"
    name = values.get("name")
    return f'recipe "{name}"' if isinstance(name, str) else "recipe"


# Bounds that no recipe comes near; see `parse_recipe`.
MOST_BYTES = 1_000_000
DEEPEST = 50
_TOO_LARGE = Problem("recipe", f"larger than {MOST_BYTES // 10**6} MB, which no recipe is")


_TAG = "tag:yaml.org,2002:"


class _Dumper(yaml.SafeDumper):
    """YAML that reads back: PyYAML writes U+0085, a line end of old, so that its own loader makes a plain line end of it."""


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(f"{_TAG}str", text, style='"' if "\x85" in text else None)
)


class _Loader(yaml.SafeLoader):
    """YAML without what a recipe never needs and a hostile one uses: anchors and aliases, tags, endless nesting.

    A value stays the text that was written, and its field says what it is. YAML would make 42798 of the revision 0123456, 1.1 of
    1.10, 750 of the title 12:30 and False of the language `no`. An Albumentations dict alone has no fields: its numbers are YAML's.
    """

    depth = 0
    numbers = False

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise ComposerError(None, None, "a recipe has no anchors and aliases (&name, *name)", event.start_mark)
        if event.tag is not None:
            raise ComposerError(None, None, f"a recipe has no tags, such as {event.tag}", event.start_mark)
        if self.depth == DEEPEST:
            raise ComposerError(None, None, f"nested deeper than {DEEPEST} levels", event.start_mark)
        outside = self.numbers
        self.numbers = outside or (isinstance(index, yaml.ScalarNode) and index.value == "augmentation")
        self.depth += 1
        try:
            node = super().compose_node(parent, index)
        finally:
            self.depth -= 1
            self.numbers = outside
        kept = {f"{_TAG}null", *(f"{_TAG}{kind}" for kind in ("bool", "int", "float") if outside)}
        if isinstance(node, yaml.ScalarNode) and node.tag not in kept:
            node.tag = f"{_TAG}str"
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        written: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key is a word, not a list or a mapping", key.start_mark)
            if key.value in written:
                raise ConstructorError(None, None, f'the key "{key.value}" is there twice', key.start_mark)
            written.add(key.value)
            key.tag = f"{_TAG}str"  # a key is what is written: `no: 2.0` is the class "no", not False
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode("utf-8")  # "\ud800" alone is no character, and no file can hold it
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError("a number of more than 64 bits")
        except (ValueError, OverflowError) as error:  # half a character, a number of 5,000 digits
            raise ConstructorError(None, None, str(error), node.start_mark) from None
        return value


def _read_yaml(text: str, *, numbers: bool = False) -> Any:
    loader = _Loader(text)
    loader.numbers = numbers
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def parse_recipe(text: str, *, source: str) -> Recipe:
    """Read a recipe from YAML text; `source` is named in errors.

    A stranger's text is only data, and bounded: at most 1 MB, 50 levels, no tags, no anchors and aliases (a few lines of which can
    stand for gigabytes), no key twice.

    Raises:
        RecipeError: not such YAML, or not a recipe.
    """
    if len(text) > MOST_BYTES:
        raise RecipeError(source, [_TOO_LARGE])
    try:
        values = _read_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(source, [Problem("YAML", " ".join(str(error).split()))]) from None
    if not isinstance(values, dict):
        raise RecipeError(source, [Problem("recipe", f"expected a mapping, found {type(values).__name__}")])
    return _build(values, source)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a script that defines `recipe`, or a function of that name, from a YAML file, or from a run directory.

    Raises:
        RecipeError: no such file, another kind of file, or an invalid recipe.
    """
    path = Path(path)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        path = path / "recipe.yaml"
    source = str(path)
    if not path.is_file():
        raise RecipeError(
            source,
            [
                Problem(
                    "recipe", "no such file. A recipe is a script such as recipes/bert_imdb.py, a recipe.yaml, or hub:OWNER/NAME."
                )
            ],
        )
    if path.suffix in {".yaml", ".yml"}:
        try:
            if path.stat().st_size > MOST_BYTES:
                raise RecipeError(source, [_TOO_LARGE])
            return parse_recipe(path.read_text(encoding="utf-8"), source=source)
        except OSError as error:
            raise RecipeError(source, [Problem("recipe", f"cannot be read: {error.strerror}")]) from None
        except UnicodeDecodeError as error:
            raise RecipeError(source, [Problem(f"byte {error.start}", "not UTF-8 text")]) from None
    if path.suffix != ".py":
        raise RecipeError(source, [Problem("recipe", f'"{path.suffix}" is not a kind of recipe: allowed are .py and .yaml')])
    try:
        found = runpy.run_path(str(path), run_name="hftl_recipe").get("recipe")
        found = found() if isinstance(found, types.FunctionType) else found
    except SyntaxError as error:
        raise RecipeError(source, [Problem(f"line {error.lineno}", f"not valid Python: {error.msg}")]) from None
    except RecipeError as error:
        raise RecipeError(source, error.problems) from None
    if not isinstance(found, Recipe):
        raise RecipeError(
            source,
            [Problem("recipe", "the script defines no `recipe = hftl.Recipe(...)`", ("nor a function `recipe` that returns one",))],
        )
    return found


def override(recipe: Recipe, assignments: Sequence[str], *, source: str | None = None) -> Recipe:
    """A copy of `recipe` with `key=value` assignments applied: ``override(recipe, ["stages.all.lr=3e-5"])``.

    A value is what is written, and its field says whether that is a number or a text: ``data.revision=0123456`` keeps its zero.
    ``null`` and nothing mean None; what begins with a bracket or a quote is YAML, such as ``[layer4, head]``.
    ``stages.all.schedule=cosine`` takes the place of the whole schedule, ``stages.all.schedule.warmup=0.1`` of one option. Facts of
    the card that are given here are about what the changed recipe names; the others stay about what they were about
    (`Recipe.lapsed`).

    Raises:
        RecipeError: no "=", an unknown key, or a value that does not fit.
    """
    source = source or f'recipe "{recipe.name}"'
    values = recipe.model_dump(mode="json")
    for name, stage in recipe.stages.items():  # without defaults: those of one kind are no options of another
        values["stages"][name] |= {key: getattr(stage, key).model_dump(mode="json", exclude_defaults=True) for key in CHOICES}
    problems: list[Problem] = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            problems.append(Problem(assignment, "an override is written key=value, for example data.max_length=128"))
            continue
        problems.extend(_assign(values, key, _value(key, text.strip())))
    try:
        changed = _build(values, source)
    except RecipeError as error:
        problems.extend(error.problems)
    if problems:
        raise RecipeError(source, problems)
    keys = [assignment.partition("=")[0] for assignment in assignments]
    given = {key.removeprefix("card.").partition(".")[0] for key in keys if key == "name" or key.startswith("card.")}
    given |= set(Card.model_fields) if "card" in keys else set()
    changed._given = recipe.given | given
    kept = {fact: then for fact, then in recipe._about.items() if fact in changed._about and fact not in given}
    changed._about = kept
    changed._about = kept | dict.fromkeys([fact for fact in changed._facts() if fact not in kept], changed._subject())
    return changed


def moved(recipe: Recipe, source: str) -> Recipe:
    """The same recipe where the same rows lie in another place, `source`: the facts about them still are."""
    there = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})

    def at(value: Any) -> Any:
        return source if value == recipe.data.source else value

    there._about = {fact: {**then, "data.source": at(then.get("data.source"))} for fact, then in recipe._about.items()}
    return there


LOCAL = "local:"
"""How a published recipe names what lay on its author's machine: "local:photos"."""


def local_name(path: str) -> str:
    """What a local file, folder or checkpoint is called when its place is not told: "data/photos/" and "local:photos" are "photos".

    A run's model is always in a folder called "model", and rows that were in memory in one called "rows", so the name of the run
    goes with it: "runs/digits/model" is "digits/model".
    """
    *_, parent, name = ["", *re.split(r"[\\/]", path.removeprefix(LOCAL).rstrip("\\/"))]
    return f"{parent}/{name}" if name in ("model", ROWS) and parent else name or path


_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HUB_FILE = re.compile(r"hub:\w[\w.-]*(/\w[\w.-]*){2,}(:[^/\\]+)?")


def without_places(recipe: Recipe) -> Recipe:
    """A stranger's recipe in which each place on a machine is written "local:NAME", so that `check_places` asks for one's own.

    What stays is what can only be meant on the Hub: an id by its form, where nothing of that name lies here.
    """
    values = recipe.model_dump(mode="json")
    for key in _PLACES:
        section, field = key.split(".")
        place = values[section].get(field)
        if place is None or place.startswith(LOCAL):
            continue
        form = _HUB_FILE if field == "vectors" else _HUB_NAME
        if not form.fullmatch(place) or os.path.lexists(place):
            values[section][field] = LOCAL + local_name(place)
    return Recipe(**values)


def check_places(recipe: Recipe) -> None:
    """Refuse a published recipe in which somebody else's local files have not been replaced by one's own.

    Raises:
        RecipeError: keys that still say "local:NAME", all of them.
    """
    problems = [
        Problem(
            key,
            f"{value.removeprefix(LOCAL)} lay on the author's machine; name yours",
            (f"write {key}=PATH; a stranger's recipe opens no file here that you have not named",),
        )
        for key, value in _leaves(recipe.model_dump(mode="json"))
        if key in _PLACES and value.startswith(LOCAL)
    ]
    if problems:
        raise RecipeError("recipe", problems)


def difference(before: Recipe, after: Recipe) -> list[str]:
    """The dotted keys whose values differ, as lines ``key: old -> new``."""
    old, new = dict(_leaves(before.model_dump(mode="json"))), dict(_leaves(after.model_dump(mode="json")))
    missing = "(absent)"
    order = [", ".join(recipe.stages) for recipe in (before, after)]
    moved = [f"stages: {order[0]} -> {order[1]}"] if order[0] != order[1] else []
    return moved + [
        f"{key}: {old.get(key, missing)} -> {new.get(key, missing)}"
        for key in {**old, **new}
        if old.get(key, missing) != new.get(key, missing)
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(key: str, text: str) -> Any:
    """What the text of an override stands for, before its field has read it."""
    numbers = "augmentation" in key.split(".")  # see _Loader
    if not numbers and not text.startswith(("{", "[", '"', "'")):
        return None if text.lower() in {"", "~", "null"} else text
    try:
        value = _read_yaml(text, numbers=numbers)
    except yaml.YAMLError:
        return text  # "[draft] Pets" is a title
    return text if isinstance(value, dict | list) and not text.startswith(("{", "[")) else value


def _assign(values: dict[str, Any], key: str, value: Any) -> Iterator[Problem]:
    place, where, rest = values, "", key
    while "." in rest and rest not in place:
        part = rest.partition(".")[0]
        if isinstance(place.get(part), str) and part in CHOICES and where.startswith("stages."):
            place[part] = {"kind": place[part]}
        # Names may have dots in them, such as a stage "v1.5": the longest one that is there.
        names = [name for name in place if isinstance(place[name], dict) and rest.startswith(f"{name}.")]
        if not names:
            allowed = list(place)
            if part in place:
                yield Problem(key, f"{part} is a value, and has no keys of its own")
                return
            what = f'no stage "{part}".' if where == "stages" else f'no section "{part}"{f" in {where}" if where else ""}.'
            yield Problem(key, what + did_you_mean(part, allowed), (f"allowed: {', '.join(allowed)}",) if allowed else ())
            return
        name = max(names, key=len)
        place, where, rest = place[name], f"{where}.{name}" if where else name, rest.removeprefix(f"{name}.")
    # An unknown last part is found by validation, with all other problems; a new stage or class name is legal there.
    is_word = isinstance(value, str) and rest in CHOICES and where.startswith("stages.")
    place[rest] = {"kind": value} if is_word else value


def _build(values: dict[str, Any], source: str) -> Recipe:
    try:
        return Recipe(**values)
    except RecipeError as error:
        raise RecipeError(source, error.problems) from None


# --- from pydantic's errors to ours -------------------------------------------------------------------------------------------


def _problems(error: ValidationError, root: type[BaseModel]) -> Iterator[Problem]:
    seen: set[str] = set()
    for item in error.errors(include_url=False):
        keys, section = _walk(item["loc"], root)
        where = ".".join(keys) or root.__name__.lower()
        # A field that may be one of several types reports each failed attempt: one line a place is enough.
        if where in seen and item["type"] != "extra_forbidden":
            continue
        seen.add(where)
        if item["type"] == "extra_forbidden":
            allowed = list(section.model_fields) if section else []
            homes = tuple(_homes(keys[-1], section))
            guess = "" if homes else did_you_mean(keys[-1], allowed)
            yield Problem(where, f'unknown key "{keys[-1]}".{guess}', (*homes, f"allowed: {', '.join(allowed)}"))
        elif item["type"] == "missing":
            yield Problem(where, "missing, and it has no default")
        elif item["type"] in {"union_tag_invalid", "union_tag_not_found"}:
            tag = str(item["ctx"].get("discriminator", "kind")).strip("'")
            union = section.model_fields[keys[-1]].annotation if section else None
            allowed = [str(word) for member in _options(union) for word in _tags(member)]
            found = item["ctx"].get("tag")
            guess, help = did_you_mean(str(found).lower(), allowed), (f"allowed: {', '.join(allowed)}",)
            if not found:
                yield Problem(f"{where}.{tag}", "missing", help)
            elif section is Stage:  # given as a word more often than by its key
                yield Problem(where, f'no {keys[-1]} "{found}".{guess}', help)
            else:
                yield Problem(f"{where}.{tag}", f'"{found}" is not one of them.{guess}', help)
        elif item["type"] == "model_attributes_type" and section is Stage and keys[-1] in CHOICES:
            words = ", ".join(_tags(member)[0] for member in _options(Stage.model_fields[keys[-1]].annotation))
            yield Problem(where, f"a word, or a section with a kind; found {item['input']!r}", (f"allowed: {words}",))
        elif item["type"] == "value_error":
            yield Problem(where, str(item["ctx"]["error"]))
        else:
            yield Problem(where, f"{item['msg'][0].lower()}{item['msg'][1:]}; found {item['input']!r}")


def _homes(key: str, section: type[BaseModel] | None) -> Iterator[str]:
    """Lines that say where an option belongs that was given to a stage, or to a kind that does not have it."""
    if section is not Stage and not (section and issubclass(section, _Choice)):
        return
    for choice, union in zip(CHOICES, (Optimizer, Schedule, Loss), strict=True):
        members = typing.get_args(union)
        having = [member for member in members if key in member.model_fields and key != "kind"]
        if having and (section is Stage or section in members):
            kinds = ", ".join(_tags(member)[0] for member in having)
            example = f"{{kind: {_tags(having[0])[0]}, {key}: ...}}"
            yield f"{key} is an option of {choice} {kinds}: hftl.{having[0].__name__}({key}=...), in YAML {example}"


def _walk(loc: Sequence[str | int], root: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None]:
    """Dotted keys of a pydantic location without the union tags in it, and the section that holds its last key."""
    keys: list[str] = []
    annotation: Any = root
    section: type[BaseModel] | None = None
    for part in loc:
        options = _options(annotation)
        tagged = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel) and part in _tags(o)), None)
        if len(options) > 1 and tagged is not None:
            annotation = tagged
            continue
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        mapping = next((o for o in options if typing.get_origin(o) is dict), None)
        if model is not None:
            keys.append(str(part))
            section = model
            annotation = model.model_fields[str(part)].annotation if part in model.model_fields else None
        elif str(part).startswith(("literal[", "dict[", "[key]")):
            continue  # pydantic's name for the member of a union that it tried
        elif mapping is not None:
            keys.append(str(part))
            section, annotation = None, typing.get_args(mapping)[1]
        elif isinstance(part, int):
            keys.append(str(part))
    return keys, section


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is Annotated:
        return _options(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return typing.get_args(annotation)
    return (annotation,)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    for field in ("kind", "family"):
        if field in model.model_fields:
            return typing.get_args(model.model_fields[field].annotation)
    return ()
