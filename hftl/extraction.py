"""`hftl features`: what enters a layer group of a model, one vector for each text or picture, for another method to learn from.

At the head these are the features that `hftl baseline` probes (`hftl.training.features`), here of any inputs; at another group
what enters its first module, as the cache of a stage has it (`hftl.models.boundary`). Inputs are read and preprocessed as
`hftl predict` does, and computed in float32.

Shapes: B inputs of a batch, T tokens of the longest, F features, (C, H, W) a map.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from datasets import Dataset, disable_progress_bars
from numpy.typing import NDArray
from torch import nn

from hftl.data.content import Content, content_of
from hftl.data.inputs import Asked, Inputs, Say
from hftl.data.loader import evaluation_batches
from hftl.errors import RunError, did_you_mean
from hftl.files import written_whole
from hftl.inference import arrow_table, columns_of, told
from hftl.models import family_of, family_saved_as
from hftl.models.boundary import Boundary, BoundaryHooks, NotSeparable, find_boundary
from hftl.models.chain import HEAD
from hftl.models.family import Classifier
from hftl.recipe import Recipe, TextData
from hftl.training.features import KINDS, last_states, pooled, pooled_tokens

Pooling = Literal["mean", "first", "none"]
POOLINGS = ("mean", "first", "none")
OUTPUTS = (".parquet",)
METADATA = b"hftl.features"
"""Key of the metadata of a file's schema: JSON of the model, its revision, the layer group and the pooling."""

_KINDS = {"mean": KINDS["mean"], "first": KINDS["first token"]}
_AT_ONCE = 64
"""Texts whose tokens are in memory at once where they are not pooled: 256 tokens of 768 features each are 50 MB."""


@dataclass(frozen=True)
class Features:
    """Features of a block of inputs."""

    inputs: Inputs
    values: Sequence[NDArray[np.float32]]
    """(F,) of each input; (T, F) of its tokens where they are not pooled."""

    def __len__(self) -> int:
        return len(self.values)


def bare(recipe: Recipe) -> tuple[Classifier, Content]:
    """The model of a recipe as its checkpoint has it, and how its inputs are read; its head is new, and no use is made of it.

    A text is cut to the tokens of `data.max_length`, or to those that the model takes where these are fewer.

    Raises:
        RecipeError: no such checkpoint, or none that hftl can read.
    """
    disable_progress_bars()  # of datasets
    classifier, data = family_of(recipe.model.family).build(recipe, ["0", "1"], ()), recipe.data
    if isinstance(data, TextData):
        data = data.model_copy(update={"max_length": min(data.max_length, classifier.facts["max_positions"] or data.max_length)})
    classifier.model.to(Accelerator().device)
    return classifier, content_of(data)


class Extractor:
    """Computes what enters a layer group of a model.

    Args:
        classifier: the model, where it computes.
        content: how its inputs are read.
        asked: the inputs; the model is tried on two of them.
        group: the layer group; None: the head.
        pooling: of a text's tokens "mean", "first" or "none"; None: the mean where there are tokens.

    Raises:
        RunError: no such group or pooling, or what enters the group is not one tensor that could be pooled so.
    """

    def __init__(
        self, classifier: Classifier, content: Content, asked: Asked, *, group: str | None = None, pooling: Pooling | None = None
    ) -> None:
        self.group = HEAD if group is None else group
        names = classifier.chain.names
        if self.group not in names:
            raise RunError(f'--from: no layer group "{group}".{did_you_mean(self.group, names)} There are: {", ".join(names)}')
        if self.group == names[0]:
            raise RunError(f"--from: what enters {self.group} is the input itself. Later groups: {', '.join(names[1:])}")
        if pooling is not None and pooling not in POOLINGS:
            raise RunError(f'--pooling: no "{pooling}".{did_you_mean(pooling, POOLINGS)} Allowed: {", ".join(POOLINGS)}')
        self._model: Any = classifier.model.eval()  # type: ignore[no-untyped-call]
        self._classifier, self._content, self.asked = classifier, content, asked
        inputs = self._two_examples()
        is_caught = self.group != HEAD or family_saved_as(self._model.config.model_type).logits_alone
        self._boundary = self._find_boundary(inputs) if is_caught else None
        self.pooling: Pooling | None = self._pooling_of(pooling)
        device = next(self._model.parameters()).device
        with self._hooks() as hooks, torch.inference_mode():
            values = self._compute({name: tensor.to(device) for name, tensor in inputs.items()}, hooks)
        self.width: int = values.shape[-1]
        """F"""

    def blocks(self, *, batch_size: int, say: Say) -> Iterator[Features]:
        """The features of all inputs in their order, a block at a time; on several processes each computes all of them.

        Args:
            batch_size: pictures that are computed at once.
            say: is told how far it has come, and what was left out.

        Raises:
            HftlError: an input cannot be read any more.
        """
        yield from told(self._blocks(batch_size), self.asked, "read", say)

    def _blocks(self, batch_size: int) -> Iterator[Features]:
        device = next(self._model.parameters()).device
        for whole in self.asked.blocks():
            for block in _parts(whole, _AT_ONCE) if self.pooling == "none" else (whole,):
                values: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(block.names)
                samples = self._content.samples(block.dataset, self._classifier.preprocessor, seed=0, train=False)
                for batch in evaluation_batches(samples, batch_size=batch_size):
                    batch = batch.to(device)
                    with self._hooks() as hooks, torch.inference_mode():
                        found = self._compute(batch.inputs, hooks).cpu()
                    for row, place in enumerate(batch.index.tolist()):
                        of_one = found[row]
                        if self.pooling == "none":
                            of_one = of_one[batch.inputs["attention_mask"][row].cpu() > 0]
                        values[place] = of_one.numpy()
                yield Features(block, values)

    def _two_examples(self) -> dict[str, torch.Tensor]:
        """Model inputs of the two longest texts of the first block, or of its first two pictures, on the CPU."""
        dataset = next(self.asked.blocks()).dataset
        if "text" in dataset.column_names:
            lengths = [len(text) for text in dataset["text"]]
            dataset = dataset.select(sorted(range(len(lengths)), key=lambda row: -lengths[row])[:2])
        else:
            dataset = dataset.select(range(min(2, len(dataset))))
        samples = self._content.samples(dataset, self._classifier.preprocessor, seed=0, train=False)
        return samples.to_device(samples.collate(self._content.two_examples(samples)), torch.device("cpu"))

    def _find_boundary(self, inputs: Mapping[str, torch.Tensor]) -> Boundary:
        chain, device = self._classifier.chain, next(self._model.parameters()).device
        trains = chain.names[chain.names.index(self.group) :]
        try:
            return find_boundary(self._model.cpu(), chain, trains, inputs)
        except NotSeparable as error:
            name = type(self._model).__name__
            way_out = "" if self.group == HEAD else "; leave it out: what enters the head"
            raise RunError(f"--from: of {name} nothing can be taken before {self.group}: {error}{way_out}") from None
        finally:
            self._model.to(device)

    def _pooling_of(self, asked: Pooling | None) -> Pooling | None:
        """The pooling to use; None: what enters the group is one vector an input."""
        boundary = self._boundary
        if self._classifier.kind == "image":
            if asked not in (None, "mean"):
                raise RunError(f"--pooling: {asked} is for texts; of a picture there is the mean over all places. Leave it out")
            return "mean"
        if boundary is None:
            if asked == "none" and hasattr(self._model, "in_windows"):
                raise RunError("--pooling: the model reads a text in windows, which share tokens; write mean or first")
            return asked or "mean"
        if len(boundary.shape) != 1:
            shape = ("a token" if boundary.per_token else "a text", boundary.shape)
            raise RunError(f"--from: {shape[1]} numbers {shape[0]} enter {self.group}, and no vector; name another group")
        if boundary.per_token:
            return asked or "mean"
        if asked is not None:
            raise RunError(f"--pooling: one vector a text enters {self.group}, so that there is nothing to pool; leave it out")
        return None

    @property
    def _convolved(self) -> bool:
        """Whether the first layer behind the boundary is one over maps whose channels are first."""
        assert self._boundary is not None
        entry = self._model.get_submodule(self._boundary.entry_module)
        layers = (module for module in entry.modules() if next(module.parameters(recurse=False), None) is not None)
        return isinstance(next(layers, None), nn.Conv2d | nn.BatchNorm2d)

    @contextmanager
    def _hooks(self) -> Iterator[BoundaryHooks | None]:
        if self._boundary is None:
            yield None
            return
        hooks = BoundaryHooks(self._model, self._boundary)
        try:
            yield hooks
        finally:
            hooks.close()

    def _compute(self, inputs: dict[str, torch.Tensor], hooks: BoundaryHooks | None) -> torch.Tensor:
        """(B, F), or (B, T, F) where tokens are not pooled; float32."""
        if hooks is None:
            if self.pooling == "none":
                return last_states(self._model, inputs).float()
            assert self.pooling is not None
            return pooled(self._model, inputs)[:, _KINDS[self.pooling]].float()
        entered = hooks.capture(inputs).float()
        if "pixel_values" in inputs:
            return _mean_over_places(entered, inputs["pixel_values"].shape[-2:], self.group, convolved=self._convolved)
        if self.pooling in (None, "none"):
            return entered
        return pooled_tokens(entered, inputs["attention_mask"])[:, _KINDS[self.pooling]]


def _parts(block: Inputs, size: int) -> Iterator[Inputs]:
    for start in range(0, len(block.names), size):
        part = slice(start, start + size)
        dataset: Dataset = block.dataset.select(range(start, min(start + size, len(block.names))))
        yield Inputs(block.names[part], dataset, block.rows[part])


def _mean_over_places(entered: torch.Tensor, picture: Sequence[int], group: str, *, convolved: bool = False) -> torch.Tensor:
    """(B, F) of vectors (B, F), of patches (B, P, F), or of maps, whose channels are first or last: the places lie as the picture.

    Where both fit, as of 32 channels of 32 by 32, they are first of what is `convolved`.

    Raises:
        RunError: which of them are the channels cannot be told.
    """
    if entered.ndim == 2:
        return entered
    if entered.ndim == 3:
        return entered.mean(dim=1)
    height, width = picture
    if entered.ndim == 4:
        first = entered.shape[2] * width == entered.shape[3] * height
        last = entered.shape[1] * width == entered.shape[2] * height
        if convolved or first != last:
            return entered.mean(dim=(2, 3) if convolved or first else (1, 2))
    raise RunError(
        f"--from: {tuple(entered.shape[1:])} enters {group}: its channels cannot be told from places; name another group"
    )


@contextmanager
def writing(path: Path, extractor: Extractor, source: Mapping[str, str | None]) -> Iterator[Callable[[Features], None]]:
    """A function that writes features into a Parquet file, a row group for each block.

    A row has `input` and the columns of the table that it comes from, as predictions have them, then `features`: a list of F
    float32, or a list of these for the tokens. The file appears when all is written, or not at all.

    Args:
        path: the new file.
        extractor: what computes them.
        source: of the metadata, "model" and "revision".
    """
    vector = pa.list_(pa.float32(), extractor.width)
    kind = pa.list_(vector) if extractor.pooling == "none" else vector
    fields, called = columns_of(extractor.asked, {"features": kind})
    beside = {name: of for name, of in fields.items() if name != called["features"]}
    about = json.dumps({**source, "boundary": extractor.group, "pooling": extractor.pooling})
    schema = pa.schema(list(fields.items()), metadata={METADATA: about.encode()})

    def table(block: Features) -> pa.Table:
        rows = [{"input": name, **(row or {})} for name, row in zip(block.inputs.names, block.inputs.rows, strict=True)]
        others = arrow_table([{name: row.get(name) for name in beside} for row in rows], beside)
        flat = np.concatenate([value.reshape(-1) for value in block.values])
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat), extractor.width)
        if extractor.pooling == "none":
            ends = np.cumsum([0, *map(len, block.values)]).astype(np.int32)
            column = pa.ListArray.from_arrays(pa.array(ends), column)
        columns = [others[name] if name in beside else column.cast(kind) for name in fields]
        return pa.table(columns, schema=schema)

    with written_whole(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        yield lambda block: writer.write_table(table(block))
