"""Text classifiers over pretrained models of transformers: one whose answer is made of all tokens rather than of the first one, and
one that reads a long text in windows and answers with the mean or the maximum of their logits.

A part of hftl (Apache-2.0), which trained these models. It imports torch and transformers only: a copy of this file lies beside
the weights of every saved model, named by `auto_map` in config.json, and with it they load where hftl is not installed:

    pipeline("text-classification", model=FOLDER_OR_REPOSITORY, trust_remote_code=True)
    AutoModelForSequenceClassification.from_pretrained(FOLDER_OR_REPOSITORY, trust_remote_code=True)

Where hftl is imported its own classes are used and the copy is not run.

Shapes: B texts, T tokens of the longest, D features of a token, K classes, W windows of the longest text, L tokens of a window.
Padding may be on either side, and reaches no answer.

References: Pappagari et al. 2019, arXiv:1910.10781 (a long text in overlapping segments); Reimers & Gurevych 2019, arXiv:1908.10084
(the mean over tokens carries a sentence's meaning); Yang et al. 2016, NAACL (attention over the words of a text; here its query is
one vector, without a layer before it).
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput


class PooledConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """`encoder` is the configuration of the encoder as JSON has it, `dropout` that before the output layer."""

    model_type = "hftl_pooled"

    encoder: dict[str, Any] | None = None
    pooling: Literal["mean", "max", "attention"] = "mean"
    dropout: float = 0.1
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self.pooling not in ("mean", "max", "attention"):
            raise ValueError(f'pooling is "{self.pooling}"; it can be mean, max or attention')

    def encoder_config(self) -> PreTrainedConfig:
        """The configuration of the encoder, of a class that transformers has.

        Raises:
            ValueError: there is none, or transformers has no such class.
        """
        values = {name: value for name, value in (self.encoder or {}).items() if name not in ("auto_map", "dtype", "torch_dtype")}
        if not isinstance(values.get("model_type"), str) or values["model_type"] == self.model_type:
            raise ValueError(f"the encoder's model_type is {values.get('model_type')!r}")
        config: PreTrainedConfig = AutoConfig.for_model(**values)
        return config


def encoder_arguments(config: PreTrainedConfig) -> dict[str, Any]:
    """What the class of an encoder is told beside its configuration: to leave out the layer over the first token, if it has one."""
    encoder: Any = MODEL_MAPPING[type(config)]
    parameters = inspect.signature(encoder).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder of an encoder-decoder; every other model is one."""
    encoder: PreTrainedModel = model.get_encoder() if model.config.is_encoder_decoder else model
    return encoder


class Pooling(nn.Module):
    """One vector a text from one a token: (B, T, D) and the mask (B, T) of real tokens -> (B, D)."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        # Its weights start at zero, so that attention starts as the mean.
        self.score = Score(width, 1) if kind == "attention" else None

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        padding = mask == 0
        if self.kind == "max":
            return states.masked_fill(padding[:, :, None], float("-inf")).max(dim=1).values
        # (B, T); of the mean all scores are the same.
        scores = torch.zeros_like(mask, dtype=torch.float32) if self.score is None else self.score(states)[:, :, 0].float()
        weights = scores.masked_fill(padding, float("-inf")).softmax(dim=1)
        # What stands at padding may be anything, but for its weight of 0.
        return (states.masked_fill(padding[:, :, None], 0.0) * weights[:, :, None].to(states.dtype)).sum(dim=1)


class Score(nn.Linear):
    """How much a token counts."""


class PooledForSequenceClassification(PreTrainedModel):
    """The encoder's layers, the pooling, and a linear layer."""

    config: PooledConfig
    config_class = PooledConfig  # beside the annotation, which is a string here
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: PooledConfig, encoder: PreTrainedModel | None = None) -> None:
        """With the `encoder` that is given, or one made of its configuration."""
        super().__init__(config)
        if encoder is None:
            of_encoder = config.encoder_config()
            made = AutoModel.from_config(of_encoder, dtype=torch.get_default_dtype(), **encoder_arguments(of_encoder))  # type: ignore[no-untyped-call]
            encoder = encoder_of(made)
        self.encoder = encoder
        width = int(encoder.config.hidden_size)  # every configuration answers to this name
        self.pooling = Pooling(config.pooling, width)
        self.head = nn.Sequential(OrderedDict(dropout=nn.Dropout(config.dropout), linear=nn.Linear(width, config.num_labels or 2)))
        config._attn_implementation_internal = encoder.config._attn_implementation
        self._inputs = set(inspect.signature(encoder.forward).parameters)
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The functions of transformers.initialization leave alone what was loaded from a file.
        if isinstance(module, Score):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.02)
            init.zeros_(module.bias)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> SequenceClassifierOutput:
        """Logits of a batch, and the loss where labels are given.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 for tokens and 0 for padding; None: everything but the padding token is a token.
            token_type_ids: (B, T) int64; of an encoder that knows none they are left out.
            labels: (B,) int64, or (B, K) of 0 and 1 where `problem_type` is "multi_label_classification".
            output_hidden_states: whether what enters and leaves each layer comes back too.

        Returns:
            `logits` (B, K); `loss`, a scalar or None; `hidden_states`, each (B, T, D), or None.
        """
        if attention_mask is None:
            attention_mask = torch.ne(input_ids, -1 if self.config.pad_token_id is None else self.config.pad_token_id).long()
        segments = {} if token_type_ids is None or "token_type_ids" not in self._inputs else {"token_type_ids": token_type_ids}
        encoded = self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            **segments,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.head(self.pooling(encoded.last_hidden_state, attention_mask))
        loss = _loss(logits, labels, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


def _loss(logits: Tensor, labels: Tensor | None, config: PreTrainedConfig) -> Tensor | None:
    """The loss where labels are given."""
    if labels is None:
        return None
    if config.problem_type == "multi_label_classification":
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return nn.functional.cross_entropy(logits, labels)


class WindowedConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """`network` is the configuration of the classifier that reads a window, as JSON has it.

    A window has `length` tokens, of which `before` and `after` are the special ones at its ends, and shares `overlap` tokens of the
    text with the one before it. `logits` says what is made of those of a text's windows.
    """

    model_type = "hftl_windowed"

    network: dict[str, Any] | None = None
    length: int = 256
    overlap: int = 64
    before: int = 1
    after: int = 1
    logits: Literal["mean", "max"] = "mean"
    padding_side: Literal["left", "right"] = "right"
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self.logits not in ("mean", "max"):
            raise ValueError(f'logits is "{self.logits}"; it can be mean or max')
        if self.padding_side not in ("left", "right"):
            raise ValueError(f'padding_side is "{self.padding_side}"; it can be left or right')
        numbers = (self.length, self.overlap, self.before, self.after)
        if not all(type(number) is int and number >= 0 for number in numbers) or self.step < 1:
            raise ValueError(
                f"length, overlap, before and after are {numbers}: a window has to reach further than the one before it"
            )

    @property
    def step(self) -> int:
        """How many tokens further each window begins."""
        return self.length - self.before - self.after - self.overlap

    def network_config(self) -> PreTrainedConfig:
        """The configuration of the classifier that reads a window, for the same classes.

        Raises:
            ValueError: there is none, or transformers has no such class.
        """
        values = {name: value for name, value in (self.network or {}).items() if name not in ("auto_map", "dtype", "torch_dtype")}
        if not isinstance(values.get("model_type"), str) or values["model_type"] == self.model_type:
            raise ValueError(f"the network's model_type is {values.get('model_type')!r}")
        pooled = values["model_type"] == PooledConfig.model_type
        config: PreTrainedConfig = PooledConfig(**values) if pooled else AutoConfig.for_model(**values)
        config.id2label, config.label2id = self.id2label, self.label2id
        return config


class WindowedForSequenceClassification(PreTrainedModel):
    """A text classifier that reads a text of more than `length` tokens in windows, each with the special tokens of the text.

    A text of one window is read as the network reads it by itself. Which class answers is learned through all windows of a text.
    """

    config: WindowedConfig
    config_class = WindowedConfig  # beside the annotation, which is a string here
    base_model_prefix = "network"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: WindowedConfig, network: PreTrainedModel | None = None) -> None:
        """With the `network` that is given, or one made of its configuration."""
        super().__init__(config)
        if network is None:
            of_network = config.network_config()
            if isinstance(of_network, PooledConfig):
                network = PooledForSequenceClassification(of_network)
            else:
                network = AutoModelForSequenceClassification.from_config(of_network, dtype=torch.get_default_dtype())  # type: ignore[no-untyped-call]
        self.network = network
        config._attn_implementation_internal = network.config._attn_implementation
        self._inputs = set(inspect.signature(network.forward).parameters)
        self.post_init()  # type: ignore[no-untyped-call]

    def windows(self, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Where the windows of a batch are, from its mask of real tokens (B, T).

        Window k of a text begins k * `step` tokens further than the first, and has the special tokens at the text's ends. A text
        has as many as it takes to come to its end; a place that it has none for is given its first window, and is not counted.

        Returns:
            For each token of each window its place in the text, and -1 where there is padding, (B, W, L); and which windows count,
            (B, W).
        """
        config = self.config
        width = attention_mask.shape[1]
        # Of a text of T tokens; ONNX's division does not round down where it is of a negative number.
        count = 1 + (torch.sym_max(width, config.length) - config.length + config.step - 1) // config.step
        tokens = attention_mask.sum(dim=1)[:, None, None]  # (B, 1, 1)
        shift = torch.arange(count, device=attention_mask.device)[None, :, None] * config.step  # (1, W, 1)
        counts = (shift == 0) | (shift + config.length - config.step < tokens)  # the one before does not come to the end
        shift = torch.where(counts, shift, 0)
        length = torch.clamp(tokens - shift, max=config.length)  # (B, W, 1) tokens of each window
        place = torch.arange(config.length, device=attention_mask.device)[None, None, :]  # (1, 1, L)
        if config.padding_side == "left":
            place = place - (config.length - length)
        of_end = place >= length - config.after
        source = torch.where(place < config.before, place, torch.where(of_end, tokens - length + place, place + shift))
        first = attention_mask.argmax(dim=1)[:, None, None]  # padding may come before it
        return torch.where((place >= 0) & (place < length), first + source, -1), counts[:, :, 0]

    def in_windows(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The inputs of the network, (B * W, L) each, of those of texts, (B, T) each; and which windows count, (B, W)."""
        places, counts = self.windows(inputs["attention_mask"])
        padding = {"input_ids": self.config.pad_token_id or 0}
        return {name: _taken(tensor, places, padding.get(name, 0)) for name, tensor in inputs.items()}, counts

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits of a batch, and the loss where labels are given.

        Args:
            input_ids: (B, T) int64, T as long as a text is.
            attention_mask: (B, T), 1 for tokens and 0 for padding; None: everything but the padding token is a token.
            token_type_ids: (B, T) int64; of a network that knows none they are left out.
            labels: (B,) int64, or (B, K) of 0 and 1 where `problem_type` is "multi_label_classification".

        Returns:
            `logits` (B, K), and `loss`, a scalar or None.
        """
        if attention_mask is None:
            attention_mask = torch.ne(input_ids, -1 if self.config.pad_token_id is None else self.config.pad_token_id).long()
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None and "token_type_ids" in self._inputs:
            inputs["token_type_ids"] = token_type_ids
        if not torch.compiler.is_exporting() and input_ids.shape[1] <= self.config.length:
            logits = self.network(**inputs).logits
        else:
            inputs, counts = self.in_windows(inputs)
            of_each = self.network(**inputs).logits.reshape(*counts.shape, -1)  # (B, W, K)
            if self.config.logits == "max":
                logits = of_each.masked_fill(~counts[:, :, None], float("-inf")).max(dim=1).values
            else:
                logits = of_each.masked_fill(~counts[:, :, None], 0.0).sum(dim=1) / counts.sum(dim=1, keepdim=True)
        return SequenceClassifierOutput(loss=_loss(logits, labels, self.config), logits=logits)


def _taken(tensor: Tensor, places: Tensor, padding: int) -> Tensor:
    """Of (B, T) what stands at the places (B, W, L), and `padding` at -1: (B * W, L)."""
    taken = tensor.gather(1, places.clamp(min=0).flatten(1)).reshape(places.shape)
    return torch.where(places < 0, padding, taken).flatten(0, 1)
