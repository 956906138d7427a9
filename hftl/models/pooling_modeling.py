"""A text classifier over a pretrained encoder of transformers whose answer is made of all tokens rather than of the first one.

A part of hftl (Apache-2.0), which trained these models. It imports torch and transformers only: a copy of this file lies beside
the weights of every saved model, named by `auto_map` in config.json, and with it they load where hftl is not installed:

    pipeline("text-classification", model=FOLDER_OR_REPOSITORY, trust_remote_code=True)
    AutoModelForSequenceClassification.from_pretrained(FOLDER_OR_REPOSITORY, trust_remote_code=True)

Where hftl is imported its own classes are used and the copy is not run.

Shapes: B texts, T tokens of the longest, D features of a token, K classes. Padding may be on either side, and reaches no answer.

References: Reimers & Gurevych 2019, arXiv:1908.10084 (the mean over tokens carries a sentence's meaning); Yang et al. 2016, NAACL
(attention over the words of a text; here its query is one vector, without a layer before it).
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
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
        loss = None
        if labels is not None and self.config.problem_type == "multi_label_classification":
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
