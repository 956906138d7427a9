"""A training step from what enters a layer group, beside the same step from the inputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from hftl.models.boundary import ACTIVATION, Boundary, BoundaryHooks, find_boundary
from hftl.models.chain import Chain
from hftl.training.stage import freeze, train_mode

TEXTS = {
    "input_ids": torch.tensor([[2, 5, 6, 8, 7, 3], [2, 7, 9, 3, 0, 0], [2, 6, 3, 0, 0, 0]]),
    "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]),
}


def in_training(model: PreTrainedModel, chain: Chain, first: int) -> tuple[str, ...]:
    trains = chain.names[first:]
    freeze(model, chain, trains)
    train_mode(model, chain, trains)
    return trains


def loss_and_gradients(model: nn.Module, inputs: Mapping[str, torch.Tensor], size: int) -> tuple[torch.Tensor, dict[str, Any]]:
    torch.manual_seed(7)  # the same dropout for both
    loss = F.cross_entropy(model(**inputs).logits, torch.arange(size) % 2)
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare(model: PreTrainedModel, chain: Chain, inputs: Mapping[str, torch.Tensor], first: int) -> Boundary:
    """Find the boundary before group `first` and compare a training step from its activation with one from the inputs."""
    trains = in_training(model, chain, first)
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    boundary = find_boundary(model, chain, trains, inputs)
    assert boundary.group == chain.names[first]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())  # not even BatchNorm's statistics

    live = copy.deepcopy(model)
    size = len(next(iter(inputs.values())))
    loss, gradients = loss_and_gradients(live, inputs, size)
    hooks = BoundaryHooks(model, boundary)
    activation = hooks.capture(inputs)
    assert not activation.requires_grad  # no backward pass enters the prefix, whether it is computed or stored
    if boundary.per_token:
        activation = activation.masked_fill(inputs["attention_mask"][..., None] == 0, 0.0)
    computed: list[str] = []
    for group in chain.names[1:first]:
        for name in chain.modules[group]:
            module = model.get_submodule(name)
            if name not in boundary.stub_outputs and not isinstance(
                module, nn.Embedding
            ):  # those answer; tables of words are looked up
                module.register_forward_hook(lambda *_, name=name: computed.append(name))
    stored_inputs = {**(inputs if boundary.per_token else {}), ACTIVATION: activation}
    stored_loss, stored_gradients = loss_and_gradients(model, stored_inputs, size)
    torch.testing.assert_close(stored_loss, loss, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == stored_gradients.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(stored_gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert not computed
    hooks.close()
    torch.testing.assert_close(loss_and_gradients(model, inputs, size)[0], loss, rtol=1e-5, atol=1e-6)
    return boundary
