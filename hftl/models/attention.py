"""Attention with dropout on its probabilities, for training on a CPU.

torch 2.14's scaled_dot_product_attention has no fused CPU kernel with dropout: it computes with float32 temporaries of all scores
and draws its masks slowly. Here the scores are computed in chunks that stay in the processor's cache, a mask takes 16 random bits a
score, and one number a score is kept for the backward pass.

Shapes: B examples, H heads, Q query and K key positions, D features of a head; N = matrices of a chunk.
Dropout on attention's probabilities: Vaswani et al. 2017, arXiv:1706.03762.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "hftl_sdpa"
"""What a working copy's config calls it. Nothing that is saved names it: transformers writes no attention into config.json."""

CHUNK = 2**20
"""Scores of a chunk: in bf16 2 MB a buffer."""

aten = torch.ops.aten


def use_fast_dropout_attention(model: PreTrainedModel) -> bool:
    """Let a model on the CPU compute its attention here where it trains with dropout; whether it can be so.

    In evaluation, and wherever something is asked for that is not written here, it computes what it did before, bit by bit. A model
    that does not use transformers' "sdpa" interface is left as it is.
    """
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa" or not model._can_set_attn_implementation():
        return False
    model.set_attn_implementation(NAME)
    return True


def dropout_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, H, Q, D)
    key: torch.Tensor,  # (B, H / groups, K, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # (B or 1, H or 1, Q, K): boolean (True: look at it), or added to the scores
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' `sdpa_attention_forward`, computed here where it would drop probabilities on a CPU."""
    elsewhere = (
        dropout == 0.0
        or query.device.type != "cpu"
        or any(kwargs.get(name) is not None for name in ("position_bias", "cache", "softcap"))
        or (attention_mask is not None and attention_mask.requires_grad)  # a learned bias
        or query.shape[0] != key.shape[0]
    )
    causal = (
        attention_mask is None and query.shape[2] > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    )
    if elsewhere or (causal and query.shape[2] != key.shape[2]):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    if torch.is_autocast_enabled("cpu"):  # as torch does to scaled_dot_product_attention
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if causal:
        attention_mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    bias = None if attention_mask is None else _bias(attention_mask, query.dtype)
    attended = _DropoutAttention.apply(query, key, value, bias, dropout, scale)
    return attended.transpose(1, 2).contiguous(), None  # (B, Q, H, D)


AttentionInterface.register(NAME, dropout_attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


def _bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores: 0 or -inf for a boolean mask. Dimensions that only repeat have size 1."""
    for dimension in range(mask.dim()):
        if mask.stride(dimension) == 0:
            mask = mask.narrow(dimension, 0, 1)
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -torch.inf)
    return mask.to(dtype)


def _chunks(batch: int, heads: int, scores: int) -> Iterator[tuple[slice, slice]]:
    """Slices of examples and of heads, together of about `CHUNK` scores: whole examples, or some heads of one example."""
    examples, some_heads = max(1, CHUNK // (heads * scores)), min(heads, max(1, CHUNK // scores))
    for i in range(0, batch, examples):
        for j in range(0, heads, some_heads):
            yield slice(i, min(i + examples, batch)), slice(j, min(j + some_heads, heads))


def _dropped(probabilities: torch.Tensor, cut: int) -> torch.Tensor:
    """The probabilities where a drawn 16-bit integer is among the `cut` largest of 65,536, and 0 elsewhere.

    One draw of 64 bits serves four scores: torch's generator on a CPU draws one after the other, whatever the number of threads.
    """
    count = probabilities.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    draws = draws.view(probabilities.shape)
    # torch's kernel "x where y > t, 0 elsewhere" is the one selection without a slow boolean tensor. It wants one type: of numbers
    # of 16 bits the bits are selected, and draws are exact in wider ones.
    if probabilities.element_size() == 2:
        bits: torch.Tensor = aten.threshold_backward(probabilities.view(torch.int16), draws, 32767 - cut)
        return bits.view(probabilities.dtype)
    dropped: torch.Tensor = aten.threshold_backward(probabilities, draws.to(probabilities.dtype), 32767 - cut)
    return dropped


class _DropoutAttention(torch.autograd.Function):
    """O = M * softmax(Q K^T s + bias) V / kept, with M of zeros and ones, and its gradients.

    P is kept for the backward pass with M as its sign: W = P where M is 1, -P where it is 0. Everything is then a function of W.
    As in transformers' own attention in bf16, scores are rounded to the inputs' precision before their softmax.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        dropout: float,
        scale: float,
    ) -> torch.Tensor:
        batch, heads, queries, _ = query.shape
        keys = key.shape[2]
        cut = min(round(dropout * 65536), 65535)
        keep = 1 - cut / 65536
        # In memory (B, Q, H, D), as what follows wants it.
        attended = query.new_empty(batch, queries, heads, value.shape[-1]).transpose(1, 2)
        signed = query.new_empty(batch, heads, queries, keys) if any(ctx.needs_input_grad) else None
        # A query that may look nowhere gets zeros, as from torch; its softmax is not a number.
        blind = None if bias is None else (bias == -torch.inf).all(-1, keepdim=True)
        blind = None if blind is None or not blind.any() else blind.expand(batch, heads, queries, 1)
        bias = None if bias is None else bias.expand(batch, heads, queries, keys)
        with torch.autocast("cpu", enabled=False):
            for chunk in _chunks(batch, heads, queries * keys):
                q, k, v = (tensor[chunk].flatten(0, 1) for tensor in (query, key, value))
                shape = (*attended[chunk].shape[:2], queries, keys)
                scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale).view(shape)
                if bias is not None:
                    scores += bias[chunk]
                p = torch.softmax(scores, -1)
                if blind is not None:
                    p.masked_fill_(blind[chunk], 0.0)
                w = torch.empty_like(p) if signed is None else signed[chunk]
                torch.sub(p, _dropped(p, cut), alpha=2, out=w)  # exact: P - 0 or P - 2 P
                d = w.clamp(min=0).flatten(0, 1)
                attended[chunk] = torch.baddbmm(q.new_empty(()), d, v, beta=0, alpha=1 / keep).view(attended[chunk].shape)
        ctx.save_for_backward(query, key, value, signed)
        ctx.scale, ctx.kept = scale, keep
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """D = P M / kept: dV = D^T dO, dP = M (dO V^T) / kept, dS = P (dP - rowsum(dP P)), dQ = dS K s, dK = dS^T Q s."""
        query, key, value, signed = ctx.saved_tensors
        batch, heads, queries, keys = signed.shape
        scale, keep = ctx.scale, ctx.kept
        grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
        with torch.autocast("cpu", enabled=False):
            for chunk in _chunks(batch, heads, queries * keys):
                q, k, v, g, w = (tensor[chunk].flatten(0, 1) for tensor in (query, key, value, gradient, signed))
                nothing = q.new_empty(())
                dv = torch.baddbmm(nothing, w.clamp(min=0).transpose(1, 2), g, beta=0, alpha=1 / keep)
                dp = torch.baddbmm(nothing, g, v.transpose(1, 2), beta=0, alpha=1 / keep)
                dp = aten.threshold_backward(dp, w, 0)
                ds = aten._softmax_backward_data(dp, w.abs(), -1, w.dtype)
                dq = torch.baddbmm(nothing, ds, k, beta=0, alpha=scale)
                dk = torch.baddbmm(nothing, ds.transpose(1, 2), q, beta=0, alpha=scale)
                for whole, part in zip(grads, (dq, dk, dv), strict=True):
                    whole[chunk] = part.view(whole[chunk].shape)
        return *grads, None, None, None
