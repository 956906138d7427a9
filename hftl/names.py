"""What is called how, for all floors: metrics, their titles, their ids on the Hub and which way is better; and the settings of a
model's files by which a library would run code or go elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args


@dataclass(frozen=True)
class Metric:
    """How a key of metrics.json is shown and read."""

    title: str
    hub: str
    """Of the library `evaluate`; a model card's `metric_type`."""
    higher_is_better: bool = True
    noun: str = ""
    """In the middle of a sentence; empty: the title with a small letter."""
    bootstrapped: bool = False
    """Its interval is a percentile bootstrap interval."""

    def __str__(self) -> str:
        return self.noun or f"{self.title[0].lower()}{self.title[1:]}"

    @property
    def bare(self) -> str:
        """The noun without its article, after another word: "validation accuracy"."""
        return str(self).removeprefix("the ")


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("Accuracy", "accuracy"),
    "balanced_accuracy": Metric("Balanced accuracy", "balanced_accuracy", bootstrapped=True),
    "top_3_accuracy": Metric("Accuracy of the top three", "top_k_accuracy"),
    "micro_f1": Metric("Micro F1", "f1", bootstrapped=True),
    "macro_f1": Metric("Macro F1", "f1", bootstrapped=True),
    "samples_f1": Metric("F1 of an example, mean", "f1", noun="the mean F1 of an example"),
    "mean_average_precision": Metric("Mean average precision", "average_precision", bootstrapped=True),
    "mcc": Metric("Matthews correlation", "matthews_correlation", noun="the Matthews correlation", bootstrapped=True),
    "kappa": Metric("Kappa (Cohen)", "cohen_kappa", noun="kappa", bootstrapped=True),
    "auc": Metric("AUC (ROC)", "roc_auc", noun="AUC"),
    "log_loss": Metric("Log loss", "log_loss", higher_is_better=False),
    "hamming_loss": Metric("Hamming loss", "hamming_loss", higher_is_better=False),
    "expected_calibration_error": Metric("Expected calibration error", "expected_calibration_error", higher_is_better=False),
}
"""In the order of the card's table."""

ChooserOfOne = Literal["accuracy", "balanced_accuracy", "macro_f1", "mcc", "kappa", "auc", "log_loss"]
ChooserOfSeveral = Literal[
    "accuracy", "micro_f1", "macro_f1", "samples_f1", "mean_average_precision", "auc", "log_loss", "hamming_loss"
]
Chooser = ChooserOfOne | ChooserOfSeveral
"""The metrics that may choose the weights, `run.metric`: each is computed after every epoch."""
ONE_LABEL, SEVERAL_LABELS = "one_label", "several_labels"
"""The kinds of target: every example has one of several classes, or any number of labels. A file that names no kind is about the
first."""

CHOOSERS: Mapping[str, tuple[str, ...]] = {ONE_LABEL: get_args(ChooserOfOne), SEVERAL_LABELS: get_args(ChooserOfSeveral)}
"""Kind of target -> the metrics that may choose the weights."""

ProblemType = Literal["single_label_classification", "multi_label_classification"]
PROBLEM_TYPES: Mapping[str, ProblemType] = {ONE_LABEL: "single_label_classification", SEVERAL_LABELS: "multi_label_classification"}
"""Kind of target -> what transformers calls it, `problem_type` in a model's config.json."""

HEADLINES: Mapping[str, Chooser] = {ONE_LABEL: "accuracy", SEVERAL_LABELS: "macro_f1"}
"""Kind of target -> the metric that a card opens with."""

FIGURES: Mapping[str, tuple[str, ...]] = {
    ONE_LABEL: ("calibration.png", "confusion_matrix_validation.png", "confusion_matrix_test.png"),
    SEVERAL_LABELS: ("labels_validation.png", "labels_test.png", "thresholds_validation.png", "thresholds_test.png"),
}
"""Kind of target -> the figures that may show a split of it: these are published."""

DUPLICATE, CONFLICT, NO_LABEL = "duplicate", "conflict", "no label"
"""Kinds of rows that were left out, in data.json: another split has the content; its content has several labels; it has none."""

Tta = Literal["none", "flip", "five_crop", "ten_crop", "scales"]
"""Test-time augmentation: which views of a picture a prediction is the mean of; "none": the picture alone."""
VIEWS: Mapping[str, int] = {"flip": 2, "five_crop": 5, "ten_crop": 10, "scales": 3}
"""How many views each of them has, and so how many forward passes a picture costs; see `hftl.data.views`."""

RANDOM_VECTORS = "random:"
"""Before the number of dimensions, in place of a file of word vectors: "random:100"."""

HEAD_AND_TAIL = "head_and_tail"
"""In tokenizer_config.json: how many tokens of a text that is too long stay from its beginning and from its end, special ones
counted. transformers has no such setting, and cuts the end off."""


@dataclass(frozen=True)
class Network:
    """One of hftl's own networks, which transformers does not have."""

    config: str
    model: str
    code: str
    """The module of `hftl.models` with these two classes, of which a copy lies beside the weights."""
    module: str
    """The one that builds, saves and loads the network; to import it brings the architecture."""


POOLED, WINDOWED = "hftl_pooled", "hftl_windowed"
NETWORKS: Mapping[str, Network] = {
    "hftl_textcnn": Network("GloveTextCNNConfig", "TextCNNForSequenceClassification", "glove_modeling", "hftl.models.glove"),
    "hftl_bag": Network("GloveBagConfig", "BagOfEmbeddingsForSequenceClassification", "glove_modeling", "hftl.models.glove"),
    "hftl_bilstm": Network("GloveBiLSTMConfig", "BiLSTMForSequenceClassification", "glove_modeling", "hftl.models.glove"),
    "hftl_cnn": Network("CNNConfig", "CNNForImageClassification", "cnn_modeling", "hftl.models.cnn"),
    # An encoder of transformers under another pooling than its own, a classifier that reads long texts in windows, a network of
    # timm whose head reads several levels.
    POOLED: Network("PooledConfig", "PooledForSequenceClassification", "pooling_modeling", "hftl.models.transformer"),
    WINDOWED: Network("WindowedConfig", "WindowedForSequenceClassification", "pooling_modeling", "hftl.models.transformer"),
    "hftl_pyramid": Network("PyramidConfig", "PyramidForImageClassification", "pyramid_modeling", "hftl.models.pyramid"),
}
"""`model_type` in config.json -> the network."""

CODE_SETTINGS = frozenset(
    (
        *("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code", "code_revision"),
        *("use_kernels", "kernel_config", "chat_template"),
    )
)
"""By these a library runs code that lies beside the weights, or elsewhere."""
WEIGHT_PLACES = frozenset(("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source"))
"""In timm's `pretrained_cfg`: where weights are, or were once, to be found."""


def bands_in(channels: int) -> int | None:
    """What `data.bands` is of a model of so many channels; None: they are RGB, or grey."""
    return None if channels in (1, 3) else channels


def title_of(metric: str, kind: str) -> str:
    """What a metric is called where it is of a kind of target: of several labels the accuracy is that of whole answers."""
    return "Accuracy (exact match)" if metric == "accuracy" and kind == SEVERAL_LABELS else METRICS[metric].title


def title_of_value(name: str, kind: str) -> str:
    """What a number of a split's metrics is called: a metric by its title, what always answering the same reaches by its own."""
    return title_of(name, kind) if name in METRICS else name.replace("_", " ").capitalize()


def as_rank(metric: str, value: float) -> float:
    """The value of a metric turned so that higher is better; the same turns it back."""
    return value if METRICS[metric].higher_is_better else -value
