"""Gradient checkpointing: a layer keeps what enters it alone, and computes the rest again when the backward pass needs it.

It saves memory and costs about one more forward pass. What is random in a layer is drawn again from the state that the generators
had, so that the second pass is the first one; the running statistics of a batch normalisation follow the first pass alone. Layers
that are frozen keep nothing anyway, and are left as they are.

References: Chen et al. 2016, arXiv:1604.06174; torch.utils.checkpoint.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from hftl.errors import RecipeError
from hftl.models import family_saved_as
from hftl.models.chain import HEAD, Chain

ROWS = (nn.Sequential, nn.ModuleList)


def check_recomputable(model: PreTrainedModel, chain: Chain) -> None:
    """Refuse a model whose layers cannot be computed again.

    Raises:
        RecipeError: transformers does not do it for this class, or no layer of it is made of parts.
    """
    able = bool(list(_layers(model, chain))) if _by_blocks(model) else model.supports_gradient_checkpointing
    if not able:
        what = f"{type(model).__name__} has no layers that can be computed a second time; leave it out"
        raise RecipeError.single("run.gradient_checkpointing", what)


def recompute_layers(model: PreTrainedModel, chain: Chain) -> None:
    """Let every layer below the head compute its inside again in the backward pass, wherever it is in training mode.

    The model is a stage's copy: its configuration is changed, too, and is not what is saved. Classes of transformers do it
    themselves; of timm's models and of hftl's own network each block does.

    Raises:
        RecipeError: as `check_recomputable`.
    """
    check_recomputable(model, chain)
    if _by_blocks(model):
        layers = list(_layers(model, chain))
        kinds = {kind: _recomputing(kind) for kind in {type(layer) for layer in layers}}
        for layer in layers:
            layer.__class__ = kinds[type(layer)]
        return
    model.config.use_cache = False  # decoders' keys for the next word, which no classifier needs; transformers would warn of them
    # Without the hook of `gradient_checkpointing_enable`, which would send gradients through frozen embeddings as well.
    again = functools.partial(checkpoint, use_reentrant=False, context_fn=functools.partial(_contexts, model))
    model._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=again)


def _by_blocks(model: PreTrainedModel) -> bool:
    """Whether it is done here, and not by the class: timm's own way counts a batch twice in batch normalisations' statistics."""
    return family_saved_as(model.config.model_type).recomputes_by_block


def _layers(model: PreTrainedModel, chain: Chain) -> Iterator[nn.Module]:
    """The blocks of which the groups below the head are made."""
    for group in chain.groups:
        if group.name != HEAD:
            for prefix in group.prefixes:
                if prefix in chain.modules[group.name]:
                    yield from _blocks(model.get_submodule(prefix))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of a row of blocks, such as a ResNet's layer1, or of the row within a stage; otherwise the module itself.

    What has no parts, such as a convolution, keeps nothing but what enters it.
    """
    rows = [module] if isinstance(module, ROWS) else [child for child in module.children() if isinstance(child, ROWS)]
    members = [member for row in rows for member in row]
    if members and all(any(True for _ in member.children()) for member in members):
        yield from members
    elif any(True for _ in module.children()):
        yield module


def _recomputing(kind: Any) -> Any:
    """A class of modules like `kind` that computes its inside again. A class, so that a copy of a module is one of its own."""

    class Recomputing(kind):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            inside = super().forward
            if not (self.training and torch.is_grad_enabled()):
                return inside(*args, **kwargs)
            return checkpoint(inside, *args, use_reentrant=False, context_fn=functools.partial(_contexts, self), **kwargs)

    Recomputing.__name__ = kind.__name__
    return Recomputing


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first pass, and of the second."""
    return nullcontext(), _without_statistics(module)


@contextmanager
def _without_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalisations see the same batch a second time, and are not to count it twice: they count it in copies."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    counted = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, counted, strict=True):
        norm._buffers.update({name: buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, counted, strict=True):
            norm._buffers.update(buffers)
