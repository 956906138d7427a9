"""Modules of a working copy that compute the same as torch's while a CPU trains them, in less time: dropout, and large embeddings.

Short texts pay for more than their matrix products: each micro-batch makes a dense gradient of the word embeddings, 47 MB of fresh
memory for MiniLM, of which all rows but some hundred are 0, and dropout's masks are drawn number by number. Parameters, their
names and what is saved stay as they are; in evaluation everything is torch's.

Shapes: V rows of an embedding, D features, N looked-up ids.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

LARGE = 2**20
"""Elements of an embedding from which a dense gradient costs more than the rows that were looked up."""

aten = torch.ops.aten


def use_fast_training(model: nn.Module) -> None:
    """Let the dropout and the large embeddings of a model on the CPU compute as they are written here; one process, no wrapper."""
    shared = Counter(id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding))
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = FastDropout
        elif (
            type(module) is nn.Embedding
            and module.weight.requires_grad
            and module.weight.dtype == torch.float32
            and module.weight.numel() >= LARGE
            and shared[id(module.weight)] == 1
            and module.max_norm is None
            and not (module.scale_grad_by_freq or module.sparse)
        ):
            module.__class__ = RowwiseEmbedding
            assert isinstance(module, RowwiseEmbedding)
            module.prepare()


# --- dropout ------------------------------------------------------------------------------------------------------------------


class FastDropout(nn.Dropout):
    """Dropout whose masks take 16 random bits an element: a probability is exact to 1 in 65,536."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        cut = min(round(self.p * 65536), 65535)
        if not self.training or cut == 0 or input.device.type != "cpu" or input.dtype not in {torch.float32, torch.bfloat16}:
            return super().forward(input)
        dropped: torch.Tensor = _Dropout.apply(input, cut)
        return dropped


class _Dropout(torch.autograd.Function):
    """y = x M / kept, with M of zeros and ones; dx = dy M / kept. What is remembered are the draws, 2 bytes an element."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, cut: int) -> torch.Tensor:
        count = values.numel()
        # One draw of 64 bits serves four elements: torch's generator draws one after the other.
        draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
        ctx.save_for_backward(draws)
        ctx.cut = cut
        return _drop(values, draws, cut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (draws,) = ctx.saved_tensors
        return _drop(gradient, draws, ctx.cut), None


def _drop(values: torch.Tensor, draws: torch.Tensor, cut: int) -> torch.Tensor:
    """Values / share kept where the draw, from -32,768 to 32,767, is not among the `cut` smallest, and 0 elsewhere."""
    values, last = values.contiguous(), cut - 32769
    draws = draws.view(values.shape)
    # torch's kernel "x where y > t, 0 elsewhere" is the one selection without a slow boolean tensor; it wants one type.
    if values.element_size() == 2:
        dropped: torch.Tensor = aten.threshold_backward(values.view(torch.int16), draws, last).view(values.dtype)
    else:
        dropped = aten.threshold_backward(values, draws.to(values.dtype), last)
    return dropped.mul_(65536 / (65536 - cut))


# --- embeddings ---------------------------------------------------------------------------------------------------------------


class RowwiseEmbedding(nn.Embedding):
    """An embedding whose gradient keeps its memory from step to step: rows that were looked up are added to, and set to 0 again.

    `weight.grad` is what torch would have made, to the last bit for one micro-batch a step; the optimizer sees no difference.
    """

    def prepare(self) -> None:
        """Be made of an `nn.Embedding` that is there already."""
        # What autograd goes backward for: the weight itself would be given a gradient of nothing, and its hook be called.
        self._anchor = torch.empty(0, requires_grad=True)
        self._gradient: torch.Tensor | None = None
        self._rows: list[torch.Tensor] | None = []
        """Rows of `_gradient` that are not 0; None: any may be."""
        self.weight.register_post_accumulate_grad_hook(self._somebody_else_added)  # type: ignore[no-untyped-call]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad and input.device.type == "cpu"):
            return super().forward(input)
        vectors: torch.Tensor = _LookUp.apply(self._anchor, self.weight.detach(), input, self)
        return vectors

    def _somebody_else_added(self, weight: torch.Tensor) -> None:
        """The weight is used in another way too, and torch has added a dense gradient."""
        self._rows = None

    @torch.no_grad()
    def add_gradient(self, ids: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add the gradient (N, D) of the rows `ids` (N,) to `weight.grad`."""
        if self.weight.grad is None:  # a new step
            if self._gradient is None or self._rows is None:
                self._gradient = torch.zeros_like(self.weight)
            elif self._rows:
                self._gradient.index_fill_(0, torch.cat(self._rows), 0.0)
            self._rows = []
            self.weight.grad = self._gradient
        if self.padding_idx is not None:
            real = ids != self.padding_idx
            ids, gradient = ids[real], gradient[real]
        self.weight.grad.index_add_(0, ids, gradient)
        if self._rows is not None:
            self._rows.append(ids)


class _LookUp(torch.autograd.Function):
    """Rows of the weight; their gradient goes to `RowwiseEmbedding.add_gradient` and not through autograd."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor, module: RowwiseEmbedding) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.module = module
        return nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.module.add_gradient(ids.flatten(), gradient.flatten(0, -2))
        return None, None, None, None
