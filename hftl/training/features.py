"""Frozen features: what a recipe's model, as it came, makes of every example; computed once, and kept in the cache.

Of a text: the mean of the last hidden states over the real tokens, and the last hidden state of the first one; of a text that is
read in windows the mean of these over its windows. Of a picture: the mean of the last map over all places, and the class token of
a network that has one. A feature is float32, whatever number format computed it.

Shapes: B examples, T tokens, D features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from hftl import store
from hftl.data.loader import Samples, evaluation_batches
from hftl.models.chain import HEAD
from hftl.training.cache import key_of_frozen, loader_processes, plan_of_batches
from hftl.training.experiment import Experiment
from hftl.training.machine import evaluation_batch_size, tokens_per_batch
from hftl.training.proof import group_hashes, tensors_of

_LAYOUT = "hftl-features-1"  # part of the key: change it whenever what is stored changes
KINDS = {"mean": 0, "first token": 1}
"""Kind of features -> its place in a stored row."""


def frozen_features(
    experiment: Experiment, samples: Samples, accelerator: Accelerator, *, say: Callable[[str], object]
) -> dict[str, NDArray[np.float32]]:
    """Each kind of features of every sample, (N, D); a picture's network without a class token has the mean alone.

    The model is the experiment's, with the weights that it has now. For one process alone.

    Raises:
        HftlError: a sample cannot be read any more.
    """
    recipe, classifier = experiment.recipe, experiment.classifier
    frozen = [name for name in classifier.chain.names if name != HEAD]
    hashes = group_hashes(tensors_of(classifier.model), classifier.chain, frozen)
    key = key_of_frozen(recipe, accelerator, classifier.model, hashes, samples, {"layout": _LAYOUT})
    rows = store.find(key) if recipe.run.cache_gb else None
    found = (
        _compute(experiment, samples, accelerator, key, say) if rows is None else np.stack([rows[i] for i in range(len(samples))])
    )
    return {kind: found[:, place] for kind, place in KINDS.items() if place < found.shape[1]}


def _compute(
    experiment: Experiment, samples: Samples, accelerator: Accelerator, key: str, say: Callable[[str], object]
) -> NDArray[np.float32]:
    """(N, kinds, D), written into the cache where there is room."""
    recipe = experiment.recipe
    model = copy.deepcopy(experiment.classifier.model).to(accelerator.device).eval()
    batches = evaluation_batches(
        samples,
        batch_size=evaluation_batch_size(recipe),
        tokens_per_batch=tokens_per_batch(recipe, accelerator.device),
        workers=loader_processes(samples, recipe, accelerator),
    )
    found: NDArray[np.float32] | None = None
    for batch in batches:
        with torch.inference_mode(), accelerator.autocast():
            values = pooled(model, batch.to(accelerator.device).inputs).float().cpu().numpy()
        if found is None:
            found = np.empty((len(samples), *values.shape[1:]), dtype=np.float32)
        found[batch.index.numpy()] = values
    assert found is not None  # a split has an example
    if recipe.run.cache_gb:
        try:
            builder = store.Builder(
                key,
                lengths=len(samples),
                row_shape=found.shape[1:],
                dtype=np.float32,
                batch_plan=plan_of_batches(recipe, accelerator),
                budget=recipe.run.cache_gb * 1e9,
            )
            for row, values in enumerate(found):
                builder.write(row, values)
            builder.mark(1)
            builder.finish()
        except (store.NoRoom, store.Removed) as reason:
            say(f"frozen features are not kept: {reason}")
    return found


def pooled(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Each kind of features of a batch: (B, kinds, D); of pictures without a class token there is one kind, the mean."""
    if "pixel_values" in inputs and not hasattr(model, "timm_model"):
        last = model(**inputs, output_hidden_states=True).hidden_states[-1]
        if last.ndim == 4:  # a map
            return last.mean(dim=(2, 3))[:, None]  # type: ignore[no-any-return]
        return torch.stack([last.mean(dim=1), last[:, 0]], dim=1)
    if "pixel_values" in inputs:
        network = model.timm_model
        last = network.forward_features(inputs["pixel_values"])
        if last.ndim == 4:  # a map, channels first or last
            places = (2, 3) if last.shape[1] == network.num_features else (1, 2)
            means: torch.Tensor = last.mean(dim=places)[:, None]
            return means
        classes = getattr(network, "num_prefix_tokens", 0)
        kinds = [last[:, classes:].mean(dim=1), *([last[:, 0]] if classes else [])]
        return torch.stack(kinds, dim=1)
    if not hasattr(model, "in_windows"):
        return pooled_tokens(last_states(model, inputs), inputs["attention_mask"])
    inputs, counts = model.in_windows(inputs)
    of_windows = pooled_tokens(last_states(model.network, inputs), inputs["attention_mask"])
    of_windows = of_windows.reshape(*counts.shape, *of_windows.shape[1:]) * counts[:, :, None, None]  # (B, W, kinds, D)
    mean_of_windows: torch.Tensor = of_windows.sum(dim=1) / counts.sum(dim=1)[:, None, None]
    return mean_of_windows


def last_states(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, T, D), of a transformer that reads texts."""
    states: torch.Tensor = model(**inputs, output_hidden_states=True).hidden_states[-1]
    return states


def pooled_tokens(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of (B, T, D) the mean over the real tokens of `mask` (B, T), and the first of them: (B, 2, D)."""
    mean = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    first = states[torch.arange(len(states), device=states.device), mask.argmax(dim=1)]  # padding may come before it
    return torch.stack([mean, first], dim=1)
