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


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("Accuracy", "accuracy"),
    "balanced_accuracy": Metric("Balanced accuracy", "balanced_accuracy", bootstrapped=True),
    "top_3_accuracy": Metric("Accuracy of the top three", "top_k_accuracy"),
    "macro_f1": Metric("Macro F1", "f1", bootstrapped=True),
    "mcc": Metric("Matthews correlation", "matthews_correlation", noun="the Matthews correlation", bootstrapped=True),
    "kappa": Metric("Kappa (Cohen)", "cohen_kappa", noun="kappa", bootstrapped=True),
    "auc": Metric("AUC (ROC)", "roc_auc"),
    "log_loss": Metric("Log loss", "log_loss", higher_is_better=False),
    "expected_calibration_error": Metric("Expected calibration error", "expected_calibration_error", higher_is_better=False),
}
"""In the order of the card's table."""

Chooser = Literal["accuracy", "balanced_accuracy", "macro_f1", "mcc", "kappa", "auc", "log_loss"]
"""The metrics that may choose the weights, `run.metric`: each is computed after every epoch."""
CHOOSERS: tuple[str, ...] = get_args(Chooser)

ONE_LABEL = "one_label"
"""The kind of target of which every example has one of several classes; a file that names no kind is about it."""

DUPLICATE, CONFLICT, NO_LABEL = "duplicate", "conflict", "no label"
"""Kinds of rows that were left out, in data.json: another split has the content; its content has several labels; it has none."""

WORD_MODELS: Mapping[str, tuple[str, str]] = {
    "hftl_textcnn": ("GloveTextCNNConfig", "TextCNNForSequenceClassification"),
    "hftl_bag": ("GloveBagConfig", "BagOfEmbeddingsForSequenceClassification"),
    "hftl_bilstm": ("GloveBiLSTMConfig", "BiLSTMForSequenceClassification"),
}
"""`model_type` of hftl's own networks -> their classes in glove_modeling.py, which lies beside the weights of each."""

CODE_SETTINGS = frozenset(
    (
        *("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code", "code_revision"),
        *("use_kernels", "kernel_config", "chat_template"),
    )
)
"""By these a library runs code that lies beside the weights, or elsewhere."""
WEIGHT_PLACES = frozenset(("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source"))
"""In timm's `pretrained_cfg`: where weights are, or were once, to be found."""


def as_rank(metric: str, value: float) -> float:
    """The value of a metric turned so that higher is better; the same turns it back."""
    return value if METRICS[metric].higher_is_better else -value
