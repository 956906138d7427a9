"""The mean of a stage's weights over its steps or its epochs, which is evaluated and kept in place of the weights themselves.

The stage trains its weights as it would without. Beside them lie as many tensors again, of the layer groups that train alone: a
frozen group is its own mean, and keeps its bytes. BatchNorm's statistics are averaged as weights are; whole numbers are copied.

To evaluate, the two change places: the model, its wrapper and its hooks stay the same objects, and nothing of them is copied.
EMA: Polyak & Juditsky 1992. SWA: Izmailov et al. 2018, arXiv:1803.05407. Greedy soup: Wortsman et al. 2022, arXiv:2203.05482.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hftl.models.chain import Chain
from hftl.recipe import EMA, SWA, Average, Soup

FILE = "average.safetensors"
"""In a checkpoint; not a pickle, which would run what somebody has put into it."""
FACTS = "facts"


class _Mean:
    """Tensors that are trained in place, and their mean beside them.

    Args:
        trained: the parameters and buffers that a stage changes. They stay where they are.
    """

    def __init__(self, trained: Sequence[torch.Tensor]) -> None:
        self._trained = [tensor.detach() for tensor in trained]
        self._mean = [tensor.clone() for tensor in self._trained]
        self._in_place = False

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model has the mean as its weights; after it, its own weights again."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for mean, tensor in zip(self._mean, self._trained, strict=True):
            weights = tensor.clone()
            tensor.copy_(mean)
            mean.copy_(weights)
        self._in_place = not self._in_place

    def save(self, folder: Path) -> None:
        """Write the mean into a checkpoint, and whether mean and weights have changed places, as they have during an evaluation."""
        tensors, facts = self._state()
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, folder / FILE, metadata={FACTS: json.dumps({"in_place": self._in_place, **facts})})

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, after the weights of the same checkpoint were read."""
        with safe_open(folder / FILE, "pt") as stream:
            names, facts = list(stream.keys()), json.loads(stream.metadata()[FACTS])
            self._put_back({name: stream.get_tensor(name) for name in names}, facts)

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {f"mean.{place}": mean for place, mean in enumerate(self._mean)}, {}

    def _put_back(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        for place, mean in enumerate(self._mean):
            mean.copy_(tensors[f"mean.{place}"])
        if facts["in_place"]:
            self._exchange()
            self._in_place = False


class WeightAverage(_Mean):
    """A mean that follows the weights, step by step or epoch by epoch."""

    def __init__(self, average: EMA | SWA, trained: Sequence[torch.Tensor], *, epochs: int, steps_per_epoch: int) -> None:
        super().__init__(trained)
        self._average = average
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Take the weights of a step into the mean; `step` is counted over the stage, from 1."""
        share = share_of_step(self._average, step, epochs=self._epochs, steps_per_epoch=self._steps_per_epoch)
        if not share:
            return
        pairs = list(zip(self._mean, self._trained, strict=True))
        averaged = [(mean, tensor) for mean, tensor in pairs if mean.is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in averaged], [tensor for _, tensor in averaged], share)
        for mean, tensor in pairs:
            if not mean.is_floating_point():
                mean.copy_(tensor)


def share_of_step(average: EMA | SWA, step: int, *, epochs: int, steps_per_epoch: int) -> float:
    """The share of a step's weights in the mean; `step` is counted over the stage, from 1. 0: the mean stays as it is.

    EMA's is timm's (`ModelEmaV3` with `use_warmup`): the first step replaces the weights that the stage began with, and the second
    has ``2 ** (-2 / 3)``, or 0.63. SWA, of the last 2 of 4 epochs: 1 at the ends of the first three, then 1/2.
    """
    match average:
        case EMA(decay=decay):
            return float(max(1 - decay, step ** (-2 / 3)))
        case SWA():
            epoch, rest = divmod(step, steps_per_epoch)
            return 0.0 if rest else 1 / max(1, epoch - average.first(epochs) + 1)


Rank = tuple[float, float]
"""How good weights are on the validation split, higher is better."""


class Ranked(Protocol):
    """The result of an evaluation."""

    @property
    def rank(self) -> Rank: ...


Judged = TypeVar("Judged", bound=Ranked)


class WeightSoup(_Mean):
    """The best epochs of a stage, on the CPU; at the stage's end the mean of those whose mean is best on validation is made."""

    def __init__(self, soup: Soup, trained: Sequence[torch.Tensor]) -> None:
        super().__init__(trained)
        self._most = soup.most
        self._epochs: dict[int, tuple[Rank, list[torch.Tensor]]] = {}

    def add(self, epoch: int, rank: Rank) -> None:
        """Take a copy of the weights of an epoch, from 1, and of all epochs keep the best."""
        self._epochs[epoch] = (rank, [tensor.to("cpu", copy=True) for tensor in self._trained])
        self._epochs = {epoch: self._epochs[epoch] for epoch in self._best_first()[: self._most]}

    def _best_first(self) -> list[int]:
        return sorted(self._epochs, key=lambda epoch: (self._epochs[epoch][0], -epoch), reverse=True)

    def cook(self, judge: Callable[[], Judged]) -> tuple[tuple[int, ...], Judged] | None:
        """The greedy soup: its epochs, and the result of `judge` for their mean; None: it has one epoch alone.

        It begins with the best epoch. The others are tried one by one, the better before the worse; an epoch joins where the mean
        with it is no worse than without. `judge` is called while the model has the mean to be tried as its weights.
        """
        best, *others = self._best_first()
        chosen: tuple[int, ...] = (best,)
        rank, judged = self._epochs[best][0], None
        for epoch in others:
            with self.of(*chosen, epoch):
                tried = judge()
            if tried.rank >= rank:
                chosen, rank, judged = (*chosen, epoch), tried.rank, tried
        return None if judged is None else (chosen, judged)

    @contextmanager
    def of(self, *epochs: int) -> Iterator[None]:
        """Within it the model has the mean of these epochs as its weights."""
        for place, mean in enumerate(self._mean):
            stacked = torch.stack([self._epochs[epoch][1][place] for epoch in epochs])
            mean.copy_(stacked.mean(dim=0) if mean.is_floating_point() else stacked[0])
        with self.in_place():
            yield

    def _state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, _ = super()._state()
        for epoch, (_, weights) in self._epochs.items():
            tensors |= {f"epoch.{epoch}.{place}": tensor for place, tensor in enumerate(weights)}
        return tensors, {"ranks": {epoch: rank for epoch, (rank, _) in self._epochs.items()}}

    def _put_back(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        super()._put_back(tensors, facts)
        places = range(len(self._mean))
        self._epochs = {
            int(epoch): (tuple(rank), [tensors[f"epoch.{epoch}.{place}"] for place in places])
            for epoch, rank in facts["ranks"].items()
        }


def trained_tensors(model: nn.Module, chain: Chain, trains: Sequence[str]) -> list[torch.Tensor]:
    """The parameters and buffers of the layer groups that train, input first."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return [tensors[name] for group in trains for name in (*chain.parameters[group], *chain.buffers[group])]


def average_bytes(average: Average | None, tensors: Sequence[torch.Tensor], *, epochs: int) -> int:
    """Bytes of the mean of these tensors, in memory and again in each checkpoint; of a soup also of its epochs."""
    copies = 0 if average is None else 1 + min(average.most, epochs) if isinstance(average, Soup) else 1
    return copies * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
