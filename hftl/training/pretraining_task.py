"""What `hftl pretrain` is to do, before anything is trained: the settings, the texts as rows, the network, the steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from pydantic import Field, model_validator

from hftl.data.masked_text import SPECIAL, PackedText, pack
from hftl.data.unlabelled import Texts, hold_out, read_unlabelled
from hftl.errors import DataError, RecipeError, RunError
from hftl.models import masked_lm
from hftl.models.masked_lm import MaskedLanguageModel
from hftl.recipe import Recipe, TextData, Transformer, Windows
from hftl.recipe.section import Fraction, Positive, Section
from hftl.terminal import Say
from hftl.training.checks import number_format
from hftl.training.experiment import read_data
from hftl.training.machine import make_accelerator, tokens_per_batch
from hftl.training.together import check_same, main_first, one_answer
from hftl.wording import count, listed


class PretrainSettings(Section):
    """How a model is pretrained further."""

    epochs: Annotated[float, Field(gt=0.0)] | None = None
    """Passes over the texts. None: 1, unless `tokens` says how many."""
    tokens: Positive | None = None
    """Instead of epochs: tokens that are read in all."""
    lr: Annotated[float, Field(gt=0.0)] | None = None
    """Highest learning rate. None: 1e-4 from 60 million parameters on, else 3e-4; three times that from random weights."""
    warmup: Fraction = 0.06
    """Share of the steps over which the rate rises from 0; then it falls to 0 in a line."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    mask: Annotated[float, Field(gt=0.0, le=0.5)] = 0.15
    """Share of the tokens that are masked, by whole words."""

    @classmethod
    def _title(cls, values: Any) -> str:
        return "the settings of pretraining"

    @model_validator(mode="after")
    def _one_budget(self) -> PretrainSettings:
        if self.epochs is not None and self.tokens is not None:
            raise ValueError("epochs and tokens both say how long it is trained; leave one out")
        return self


@dataclass(frozen=True)
class Task:
    """What is to be done, before anything is trained."""

    recipe: Recipe
    settings: PretrainSettings
    found: list[Texts]
    network: MaskedLanguageModel
    text: PackedText
    held_out: PackedText
    accelerator: Accelerator
    asked: dict[str, Any]

    @property
    def batch_size(self) -> int:
        """Rows of a step, over all processes."""
        return self.recipe.run.batch_size

    @property
    def steps(self) -> int:
        tokens = self.settings.tokens
        rows = (self.settings.epochs or 1) * len(self.text) if tokens is None else tokens / self.text.length
        return max(1, round(rows / self.batch_size))

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.text.length

    @property
    def tokens(self) -> int:
        """That are read in all."""
        return self.steps * self.tokens_per_step

    def ends_epoch(self, step: int) -> bool:
        """Whether the step, counted from 1, has the last row of an epoch."""
        rows = len(self.text)
        return step * self.batch_size // rows > (step - 1) * self.batch_size // rows

    @property
    def lr(self) -> float:
        facts = self.network.facts
        rate = 1e-4 if facts["parameters"] >= 60_000_000 else 3e-4
        return self.settings.lr or (rate if facts["pretrained"] else 3 * rate)

    def rows_at_once(self, rows: int) -> int:
        """Of `rows` of a step that one process has those of a micro-batch."""
        fit = tokens_per_batch(self.recipe, self.accelerator.device) // self.text.length
        return max(1, min(fit, -(-rows // self.recipe.run.gradient_accumulation)))

    def said(self) -> Iterator[str]:
        """Lines about it."""
        for some in self.found:
            yield some.said
        text, facts = self.text, self.network.facts
        yield (
            f"{count(text.texts, 'text')} in {count(len(text), 'row')} of {text.length} tokens, and"
            f" {self.held_out.texts:,} held out in {count(len(self.held_out), 'row')} to measure the loss by"
        )
        if new := facts["new_parameters"]:
            yield f"the checkpoint has no head that guesses masked tokens: {listed(new, 3)} begin at random"
        times = self.tokens / (len(text) * text.length)
        yield (
            f"{self.tokens:,} tokens, {times:.2g} times the texts: {count(self.steps, 'step')} of {count(self.batch_size, 'row')},"
            f" rate {self.lr:g}, {self.settings.mask:.0%} of the tokens masked"
        )
        if self.recipe.run.compile:
            yield "run.compile is for `hftl train` alone: nothing is compiled here"


def prepare(recipe: Recipe, settings: PretrainSettings, say: Say) -> Task:
    """Read the texts and build the network; nothing is written."""
    data, model = recipe.data, recipe.model
    if not isinstance(data, TextData):
        raise RecipeError.single("data.kind", "pictures have no words to mask", "name a recipe of texts", source=recipe.name)
    if not isinstance(model, Transformer):
        what = f"{model.family} has no head that guesses masked tokens"
        help = "word vectors are learned with `hftl vectors`; here name a recipe of a transformer"
        raise RecipeError.single("model.family", what, help, source=recipe.name)
    length = data.windows.length if isinstance(data.windows, Windows) else data.max_length
    with one_answer():
        accelerator = make_accelerator(recipe, None)
        if accelerator.is_fsdp2:
            raise RunError("FSDP: pretraining does not shard. Use recipes/accelerate/multi_gpu.yaml")
    with main_first():
        undivided = read_data(recipe)
        found = read_unlabelled(data, undivided, undivided.divided(data, seed=recipe.run.seed), say)
        set_seed(recipe.run.seed)
        network = masked_lm.build(model, length=length)
        try:
            kept, held = hold_out(found, seed=recipe.run.seed)
        except ValueError as error:
            what = f"no text to learn from: {error}, and the loss is measured on some that are not learned from"
            raise DataError.single("data.unlabelled", what, "name more texts: data.unlabelled", source=data.source) from None
    text, held_out = (pack((t for some in side for t in some.texts), network.tokenizer, length=length) for side in (kept, held))
    for side in (text, held_out):
        if not (side.kinds != SPECIAL).any():
            what = "the tokenizer finds no word in the texts, or knows none of them"
            raise DataError.single("data.source", what, "name a checkpoint for this language", source=data.source)
    parts = accelerator.num_processes * recipe.run.gradient_accumulation
    if recipe.run.batch_size < parts:
        raise RecipeError.single(
            "run.batch_size", f"fewer rows than the {parts} parts of a step (processes x run.gradient_accumulation)"
        )
    asked = {
        "settings": settings.model_dump(),
        "run": {key: getattr(recipe.run, key) for key in ("seed", "batch_size", "gradient_accumulation", "tokens_per_batch")},
        "number format": number_format(accelerator),
        "length": length,
        "texts": {some.name: some.sha256 for some in found},
        "model": {**network.facts, "dropout": model.dropout},
        "rows": [len(text), len(held_out)],
    }
    check_same(asked)
    return Task(recipe, settings, found, network, text, held_out, accelerator, asked)
