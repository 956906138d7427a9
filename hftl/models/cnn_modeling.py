"""A small convolutional network for pictures, as textbooks have it: blocks of convolutions, the mean over places, a linear layer.

A part of hftl (Apache-2.0), which trained these models. It imports torch and transformers only: a copy of this file lies beside
the weights of every saved model, named by `auto_map` in config.json, and with it they load where hftl is not installed:

    pipeline("image-classification", model=FOLDER_OR_REPOSITORY, trust_remote_code=True)
    AutoModelForImageClassification.from_pretrained(FOLDER_OR_REPOSITORY, trust_remote_code=True)

Where hftl is imported its own classes are used and the copy is not run.

Shapes: B pictures of H x W pixels, C channels, K classes. Each block halves height and width.

References: LeCun et al. 1998, doi:10.1109/5.726791 (convolutions and pooling by turns); Simonyan & Zisserman 2015, arXiv:1409.1556
(blocks of 3 x 3 convolutions); Ioffe & Szegedy 2015, arXiv:1502.03167 (batch normalisation); Lin et al. 2014, arXiv:1312.4400 (the
mean over all places in place of wide layers).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

MOST = 16
"""Blocks, and convolutions of a block."""
WIDEST = 31
"""Side of a kernel."""


class CNNConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """`channels` of each block, input first; `convolutions` of each block, with kernels of `kernel_size` x `kernel_size`."""

    model_type = "hftl_cnn"

    channels: Sequence[int] = (32, 64, 128, 256)
    convolutions: int = 1
    kernel_size: int = 3
    dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.channels = list(self.channels)  # as JSON gives it back
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if not 1 <= len(self.channels) <= MOST or not 1 <= self.convolutions <= MOST or min(self.channels) < 1:
            raise ValueError(f"channels {self.channels} and convolutions {self.convolutions}: 1 to {MOST} blocks of 1 to {MOST}")
        if not (1 <= self.kernel_size <= WIDEST and self.kernel_size % 2):
            raise ValueError(f"kernel_size {self.kernel_size}: an odd number from 1 to {WIDEST}")


class Block(nn.Sequential):
    """Convolutions that keep the size, each with batch normalisation and ReLU, and a pooling that halves it.

    (B, C, H, W) -> (B, C', H // 2, W // 2)
    """

    def __init__(self, width: int, channels: int, *, convolutions: int, kernel_size: int) -> None:
        layers: list[nn.Module] = []
        for number in range(convolutions):
            into = width if number == 0 else channels
            # The normalisation has a bias of its own.
            layers += [nn.Conv2d(into, channels, kernel_size, padding=kernel_size // 2, bias=False), nn.BatchNorm2d(channels)]
            layers.append(nn.ReLU())
        super().__init__(*layers, nn.MaxPool2d(2))


class CNNForImageClassification(PreTrainedModel):
    """The blocks, the mean over all places, and a linear layer."""

    config: CNNConfig
    config_class = CNNConfig  # beside the annotation, which is a string here
    base_model_prefix = ""
    main_input_name = "pixel_values"

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        widths = [3, *config.channels]
        self.blocks = nn.ModuleList(
            Block(into, out, convolutions=config.convolutions, kernel_size=config.kernel_size) for into, out in pairwise(widths)
        )
        self.head = nn.Sequential(
            OrderedDict(dropout=nn.Dropout(config.dropout), linear=nn.Linear(widths[-1], config.num_labels or 2))
        )
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The functions of transformers.initialization leave alone what was loaded from a file.
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            for buffer, value in ((module.running_mean, init.zeros_), (module.running_var, init.ones_)):
                if buffer is not None:
                    value(buffer)
            if module.num_batches_tracked is not None:
                init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Logits of a batch, and the loss where labels are given.

        Args:
            pixel_values: (B, 3, H, W) float32, at least 2 pixels to the power of the number of blocks on each side.
            labels: (B,) int64, or (B, K) of 0 and 1 where `problem_type` is "multi_label_classification".

        Returns:
            `logits` (B, K); `loss`, a scalar or None.
        """
        features = pixel_values
        for block in self.blocks:
            features = block(features)
        logits = self.head(features.mean(dim=(2, 3)))
        loss = None
        if labels is not None and self.config.problem_type == "multi_label_classification":
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)
