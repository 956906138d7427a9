"""A classifier of pictures that reads several levels of a timm network, and not the last one alone.

A part of hftl (Apache-2.0), which trained these models. It imports torch, timm and transformers only: a copy of this file lies
beside the weights of every saved model, named by `auto_map` in config.json, and with it they load where hftl is not installed:

    pipeline("image-classification", model=FOLDER_OR_REPOSITORY, trust_remote_code=True)
    AutoModelForImageClassification.from_pretrained(FOLDER_OR_REPOSITORY, trust_remote_code=True)

Where hftl is imported its own classes are used and the copy is not run.

Shapes: B pictures, L levels, K classes; level l has C_l channels at H_l x W_l places, half as many a side as the one before it.

References: Lin et al. 2017, arXiv:1612.03144 (a network's levels as a pyramid); Hariharan et al. 2015, arXiv:1411.5752 (features of
several levels side by side).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

MOST_LEVELS = 16


class PyramidConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """`architecture` is timm's name of the network, `model_args` its arguments, `levels` how many of its last levels are read."""

    model_type = "hftl_pyramid"

    architecture: str = ""
    model_args: dict[str, Any] | None = None
    levels: int = 4
    dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if not 1 <= self.levels <= MOST_LEVELS:
            raise ValueError(f"levels {self.levels}: 1 to {MOST_LEVELS}")


class Head(nn.Linear):
    """The linear layer over all levels."""


def last_levels(network: Any, levels: int) -> list[int]:
    """The places of the last levels among those that timm knows of a network."""
    places = list(range(len(network.feature_info)))
    return places[-levels:]


class PyramidForImageClassification(PreTrainedModel):
    """The network without its own head, the mean of each level over all places, and a linear layer over them side by side."""

    config: PyramidConfig
    config_class = PyramidConfig  # beside the annotation, which is a string here
    base_model_prefix = ""
    main_input_name = "pixel_values"

    def __init__(self, config: PyramidConfig, network: Any = None) -> None:
        """With the `network` that is given, or one of random weights; what it has beyond its last level is taken off."""
        super().__init__(config)
        if network is None:
            network = timm.create_model(config.architecture, pretrained=False, **(config.model_args or {}))
        self.places = last_levels(network, config.levels)
        widths = [network.feature_info[place]["num_chs"] for place in self.places]
        network.prune_intermediate_layers(self.places, prune_norm=True, prune_head=True)
        self.timm_model = network
        self.head = nn.Sequential(OrderedDict(dropout=nn.Dropout(config.dropout), linear=Head(sum(widths), config.num_labels or 2)))
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # timm has initialised its own. These functions leave alone what was loaded from a file.
        if isinstance(module, Head):
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Logits of a batch, and the loss where labels are given.

        Args:
            pixel_values: (B, 3, H, W) float32.
            labels: (B,) int64, or (B, K) of 0 and 1 where `problem_type` is "multi_label_classification".

        Returns:
            `logits` (B, K); `loss`, a scalar or None.
        """
        network: Any = self.timm_model
        maps = network.forward_intermediates(pixel_values, indices=self.places, intermediates_only=True)
        logits = self.head(torch.cat([level.mean(dim=(2, 3)) for level in maps], dim=1))  # (B, C_1 + ... + C_L) -> (B, K)
        loss = None
        if labels is not None and self.config.problem_type == "multi_label_classification":
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)
