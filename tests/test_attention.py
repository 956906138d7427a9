"""Attention with dropout on a CPU: torch's numbers with the same mask, torch's distribution, and nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from hftl.models import attention
from hftl.models.attention import dropout_attention_forward, use_fast_dropout_attention

B, H, Q, D = 3, 4, 8, 8
SIDES = cast(nn.Module, SimpleNamespace(is_causal=False, training=True))
"""An attention module that looks to both sides."""


def inputs(*, dtype: torch.dtype = torch.float64, keys: int = Q, key_heads: int = H) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values that take gradients. The values begin with the unit vectors, so that the output shows the mask."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(B, H, Q, D, generator=generator, dtype=torch.float64)
    key = torch.randn(B, key_heads, keys, D, generator=generator, dtype=torch.float64)
    value = torch.randn(B, key_heads, keys, D + keys, generator=generator, dtype=torch.float64)
    value[..., :keys] = torch.eye(keys)
    query, key, value = (tensor.to(dtype).requires_grad_() for tensor in (query, key, value))
    return query, key, value


def attend(
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None = None,
    *,
    dropout: float = 0.25,
    module: nn.Module = SIDES,
    **kwargs: Any,
) -> Tensor:
    torch.manual_seed(1)
    return dropout_attention_forward(module, *tensors, mask, dropout=dropout, **kwargs)[0].transpose(1, 2)  # (B, H, Q, ...)


def by_hand(tensors: tuple[Tensor, Tensor, Tensor], kept: Tensor, bias: Tensor, *, scale: float = D**-0.5) -> Tensor:
    """Written out: softmax, times the mask, over the kept share (of a dropout of 0.25), times the values."""
    query, key, value = tensors
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    blind = (bias == -torch.inf).all(-1, keepdim=True)  # their softmax is not a number, and nothing of theirs is kept
    scores = query @ key.transpose(2, 3) * scale + bias.masked_fill(blind, 0.0)
    return (torch.softmax(scores, -1) * kept / 0.75) @ value


def assert_same(ours: Tensor, reference: Tensor, tensors: tuple[Tensor, Tensor, Tensor], *, tolerance: float = 1e-12) -> None:
    """The same outputs, and the same gradients of all three inputs."""
    torch.testing.assert_close(ours, reference, atol=tolerance, rtol=tolerance)
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(ours.dtype)
    pairs = zip(torch.autograd.grad(ours, tensors, gradient), torch.autograd.grad(reference, tensors, gradient), strict=True)
    for mine, theirs in pairs:
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


LOWER = torch.ones(Q, Q, dtype=torch.bool).tril()
PADDED = torch.arange(Q) < torch.tensor([8, 5, 3])[:, None, None, None]  # (B, 1, 1, K)


@pytest.mark.parametrize(
    "mask",
    [
        None,
        PADDED,
        PADDED.expand(B, 1, Q, Q),  # as transformers makes it
        LOWER[None, None],
        LOWER.expand(1, H, Q, Q).float().log().double() - torch.arange(4.0, dtype=torch.float64)[None, :, None, None],
    ],
    ids=["none", "keys", "keys, repeated", "queries and keys", "added, one a head"],
)
@pytest.mark.parametrize("chunk", [2**20, 2 * H * Q * Q, 3 * Q * Q], ids=["one chunk", "two examples", "three heads"])
def test_outputs_and_gradients_are_those_of_the_formula_with_the_same_mask(
    mask: Tensor | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CHUNK", chunk)
    tensors = inputs()
    ours = attend(tensors, mask)
    kept = (ours[..., :Q] != 0).double()
    bias = torch.zeros(1, dtype=torch.float64) if mask is None else mask.double().log() if mask.dtype == torch.bool else mask
    visible = (bias.expand(B, H, Q, Q) == 0).sum() if mask is None or mask.dtype == torch.bool else None
    if visible is not None:
        assert 0 < kept.sum() < visible  # something was dropped
    assert_same(ours, by_hand(tensors, kept, bias), tensors)


def test_a_causal_module_sees_no_later_position_and_grouped_heads_share_their_keys() -> None:
    tensors = inputs(key_heads=2)
    module = cast(nn.Module, SimpleNamespace(is_causal=True, num_key_value_groups=2, training=True))
    ours = attend(tensors, module=module, scaling=0.3)
    kept = (ours[..., :Q] != 0).double()
    assert kept[..., ~LOWER].sum() == 0 < kept[..., LOWER].sum()
    assert_same(ours, by_hand(tensors, kept, LOWER.double().log(), scale=0.3), tensors)


def test_keys_of_another_length_than_the_queries_are_seen() -> None:
    tensors = inputs(keys=11)
    ours = attend(tensors)
    assert_same(ours, by_hand(tensors, (ours[..., :11] != 0).double(), torch.zeros(1)), tensors)


def test_a_query_that_may_look_nowhere_gets_zeros_and_no_gradient() -> None:
    tensors, mask = inputs(), PADDED.expand(B, 1, Q, Q).clone()
    mask[1, :, 2] = False
    ours = attend(tensors, mask)
    assert ours[1, :, 2].abs().max() == 0 < ours[1, :, 3].abs().max()
    assert_same(ours, by_hand(tensors, (ours[..., :Q] != 0).double(), mask.double().log()), tensors)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_every_precision_draws_the_same_mask_and_agrees_to_its_rounding(dtype: torch.dtype, tolerance: float) -> None:
    tensors, exact = inputs(dtype=dtype), inputs()
    ours, reference = attend(tensors), attend(exact)
    assert ours.dtype == dtype
    assert torch.equal(ours[..., :Q] != 0, reference[..., :Q] != 0)
    torch.testing.assert_close(ours.double(), reference, atol=tolerance, rtol=tolerance)
    gradients = zip(torch.autograd.grad(ours.sum(), tensors), torch.autograd.grad(reference.sum(), exact), strict=True)
    for mine, theirs in gradients:
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), theirs, atol=tolerance, rtol=tolerance)


def test_float32_becomes_bf16_under_autocast_as_it_does_in_torch() -> None:
    tensors = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = attend(tensors)
    assert ours.dtype == torch.bfloat16
    assert torch.autograd.grad(ours.sum(), tensors)[0].dtype == torch.float32


def uniform(keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """All scores 0: every probability is 1 / K; values are the unit vectors."""
    zeros = torch.zeros(8, 4, keys, 8)
    return zeros, zeros, torch.eye(keys).expand(8, 4, keys, keys)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept_and_its_spread_are_those_of_independent_draws(dropout: float) -> None:
    keys, n = 128, 8 * 4 * 128 * 128  # 524,288 draws
    kept = (attend(uniform(keys), dropout=dropout) != 0).double()
    # The standard error of a share is sqrt(p (1 - p) / n), under 0.0007; four of them are allowed.
    assert abs(kept.mean().item() - (1 - dropout)) < 4 * (dropout * (1 - dropout) / n) ** 0.5
    # Independent: sums over a row or a column are binomial, with a variance of K p (1 - p). A variance of 8 * 4 * 128 = 4,096 sums
    # has a relative standard error of sqrt(2 / 4,096) = 0.022.
    for dimension in (2, 3):
        assert abs(kept.sum(dimension).var().item() / (keys * dropout * (1 - dropout)) - 1) < 0.09
    # And four neighbours, of one 64-bit draw, are not alike: no correlation at distances 1, 2 and 3.
    flat = (kept - kept.mean()).flatten()
    for distance in (1, 2, 3):
        assert abs((flat[:-distance] * flat[distance:]).mean().item() / flat.var().item()) < 0.006  # four standard errors


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    out = attend(uniform(128), dropout=0.1)
    assert torch.allclose(out[out != 0], torch.tensor(1 / 128 / (1 - 6554 / 65536)), rtol=1e-6)  # 0.1 is 6,554 of 65,536
    assert abs(out.sum(-1).mean().item() - 1) < 0.002


def test_a_seed_gives_the_same_bits_whatever_the_number_of_threads_and_the_next_draw_others() -> None:
    tensors = inputs(dtype=torch.bfloat16)
    threads = torch.get_num_threads()
    try:
        masks = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            masks.append(attend(tensors)[..., :Q] != 0)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])
    torch.manual_seed(1)
    torch.rand(1)
    state = torch.get_rng_state()
    first = dropout_attention_forward(SIDES, *tensors, None, dropout=0.25)[0]
    second = dropout_attention_forward(SIDES, *tensors, None, dropout=0.25)[0]
    torch.set_rng_state(state)  # a resume
    assert torch.equal(dropout_attention_forward(SIDES, *tensors, None, dropout=0.25)[0], first)
    assert not torch.equal(first, second)


def bert(**config: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    return BertForSequenceClassification(BertConfig(**sizes, **config))


IDS = torch.arange(24).reshape(2, 12)
MASK = (torch.arange(12) < torch.tensor([12, 7])[:, None]).long()


def test_a_working_copy_evaluates_bit_for_bit_as_before_and_trains_with_dropout() -> None:
    host = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5).train(False)
    working = copy.deepcopy(host)
    assert use_fast_dropout_attention(working)
    assert host.config._attn_implementation == "sdpa"
    again = copy.deepcopy(working)
    for model in (working, again):
        for precision in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision):
                expected = host(IDS, attention_mask=MASK).logits
                assert torch.equal(model(IDS, attention_mask=MASK).logits, expected)
    working.train()
    assert not torch.equal(working(IDS, attention_mask=MASK).logits, working(IDS, attention_mask=MASK).logits)


def test_only_training_with_dropout_is_computed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Exception):
        pass

    def elsewhere(*_: Any, **__: Any) -> None:
        raise Elsewhere

    monkeypatch.setattr(attention, "sdpa_attention_forward", elsewhere)
    model, without = bert(), bert(attention_probs_dropout_prob=0.0)
    assert use_fast_dropout_attention(model) and use_fast_dropout_attention(without)
    model.train()(IDS, attention_mask=MASK).logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.bert.encoder.parameters())
    for other in (model.train(False), without.train()):
        with pytest.raises(Elsewhere):
            other(IDS, attention_mask=MASK)
    with pytest.raises(Elsewhere):
        attend(inputs(), torch.zeros(1, 1, Q, Q, requires_grad=True))  # a learned bias has a gradient


def test_what_is_saved_does_not_name_it(tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path / "before")
    assert use_fast_dropout_attention(model)
    model.save_pretrained(tmp_path / "after")
    saved = (tmp_path / "after/config.json").read_text()
    assert saved == (tmp_path / "before/config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path / "after")._attn_implementation is None
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "after")
    assert loaded.config._attn_implementation == "sdpa"
    assert torch.equal(loaded(IDS).logits, model.train(False)(IDS).logits)


def test_a_model_with_another_attention_is_left_as_it_is() -> None:
    eager = bert(attn_implementation="eager")
    deberta = DebertaV2ForSequenceClassification(
        DebertaV2Config(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    )
    for model in (eager, deberta):
        before = model.config._attn_implementation
        assert not use_fast_dropout_attention(model)
        assert model.config._attn_implementation == before


def test_a_causal_model_with_grouped_heads_and_padding_on_the_left_trains() -> None:
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(  # type: ignore[no-untyped-call]
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=64,
            attention_dropout=0.3,
            pad_token_id=0,
        )
    )
    assert use_fast_dropout_attention(model)
    model.train()
    loss = model(IDS.flip(1), attention_mask=MASK.flip(1)).logits.square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
