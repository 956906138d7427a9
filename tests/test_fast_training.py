"""The modules of a working copy compute what torch's compute: the same gradients, the same chance to be dropped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hftl.models import fast_training
from hftl.models.fast_training import FastDropout, RowwiseEmbedding, use_fast_training


def embeddings(monkeypatch: pytest.MonkeyPatch, **settings: object) -> tuple[nn.Embedding, nn.Embedding]:
    """torch's, and the same with rows of its own; 20 rows of 3."""
    monkeypatch.setattr(fast_training, "LARGE", 60)
    torch.manual_seed(0)
    theirs = nn.Embedding(20, 3, **settings)  # type: ignore[arg-type]
    ours = nn.Embedding(20, 3, **settings)  # type: ignore[arg-type]
    ours.load_state_dict(theirs.state_dict())
    use_fast_training(ours)
    return theirs, ours


def test_a_large_embedding_has_torchs_gradient_step_after_step_and_only_its_rows_are_cleared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, ours = embeddings(monkeypatch, padding_idx=0)
    assert isinstance(ours, RowwiseEmbedding)
    memory = None
    for ids in ([[3, 3, 0], [7, 19, 3]], [[1, 2, 0], [2, 0, 0]], [[0, 0, 0]]):
        for module in (theirs, ours):
            module.weight.grad = None
            found = module(torch.tensor(ids))
            (found * torch.arange(found.numel()).view(found.shape).cos()).sum().backward()
        assert theirs.weight.grad is not None
        assert ours.weight.grad is not None
        assert torch.equal(theirs.weight.grad, ours.weight.grad)
        assert memory in {None, ours.weight.grad.data_ptr()}
        memory = ours.weight.grad.data_ptr()


def test_several_micro_batches_add_up_and_so_does_another_use_of_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = embeddings(monkeypatch)
    for other_use in (False, True, False):
        for module in (theirs, ours):
            module.weight.grad = None
            for ids in ([1, 5], [5, 6, 6]):
                module(torch.tensor(ids)).square().sum().backward()
            if other_use:
                module.weight.square().sum().backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_an_optimizer_moves_the_weights_as_it_does_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = embeddings(monkeypatch)
    for module in (theirs, ours):
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
        for step in range(5):
            module(torch.tensor([step, step, 2 * step])).cos().sum().backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(theirs.weight, ours.weight)


def test_small_frozen_shared_and_unusual_embeddings_and_those_in_evaluation_stay_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_training, "LARGE", 60)
    frozen, tied, twin = nn.Embedding(20, 3), nn.Embedding(20, 3), nn.Embedding(20, 3)
    frozen.weight.requires_grad_(False)
    twin.weight = tied.weight
    model = nn.ModuleList([nn.Embedding(19, 3), frozen, tied, twin, nn.Embedding(20, 3, sparse=True)])
    use_fast_training(model)
    assert {type(module) for module in model} == {nn.Embedding}
    _, ours = embeddings(monkeypatch)
    with torch.no_grad():
        assert torch.equal(ours(torch.tensor([4])), ours.weight[4:5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_scales_the_rest_and_treats_the_gradient_alike(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Dropout(0.25))
    use_fast_training(model)
    assert type(model[0]) is FastDropout
    values = torch.full((401, 499), -3.0, dtype=dtype, requires_grad=True)  # not a multiple of 4
    dropped = model(values)
    dropped.backward(torch.full_like(dropped, 6.0))
    share = float((dropped == 0).double().mean())
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / values.numel()) ** 0.5  # five standard errors
    assert set(dropped.unique().tolist()) == {-4.0, 0.0}
    assert values.grad is not None
    assert torch.equal(values.grad, torch.where(dropped == 0, 0.0, 8.0).to(dtype))
    assert torch.equal(model.eval()(values), values)


def test_a_seed_gives_the_same_mask_and_the_next_draw_another_one() -> None:
    model, ones = FastDropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first, second = model(ones), model(ones)
    torch.manual_seed(3)
    assert torch.equal(model(ones), first)
    assert not torch.equal(first, second)
    assert torch.equal(FastDropout(0.0)(ones), ones)
