"""What a family is: how a network of its kind is built, saved and loaded, and what each of them hands over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from hftl.errors import RecipeError
from hftl.models.chain import Chain, begin_anew
from hftl.names import ONE_LABEL, PROBLEM_TYPES
from hftl.recipe import CosineSchedule, LinearSchedule, Recipe

if TYPE_CHECKING:
    from torch import nn
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Classifier:
    """A classifier of any family.

    `model(**batch).logits` is (B, K) float32; `config.id2label` names the K classes in their own order.
    `facts` is JSON-ready and goes into the run directory.
    """

    model: PreTrainedModel
    preprocessor: PreTrainedTokenizerBase | BaseImageProcessor
    chain: Chain
    facts: dict[str, Any]

    @property
    def kind(self) -> Literal["text", "image"]:
        """Of what it reads."""
        return "image" if self.model.main_input_name == "pixel_values" else "text"

    @property
    def target(self) -> str:
        """The kind of what it predicts, by its name in `hftl.names`."""
        problem_type = self.model.config.problem_type
        return next((kind for kind, of_kind in PROBLEM_TYPES.items() if of_kind == problem_type), ONE_LABEL)

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of several labels the probability from which on each is an answer, as `choose` has set them; None: 0.5."""
        chosen = getattr(self.model.config, "thresholds", None)
        return None if chosen is None else tuple(chosen)

    def choose(self, thresholds: tuple[float, ...] | None) -> None:
        """Let the model's configuration say from which probability on each label is an answer."""
        if thresholds is not None:
            self.model.config.thresholds = list(thresholds)

    @property
    def max_length(self) -> int | None:
        """Tokens that a text is cut to; None of pictures.

        Training stores it in the tokenizer; that of a foreign model may not know its own (a huge number then).
        """
        if self.kind == "image":
            return None
        known = (cast("PreTrainedTokenizerBase", self.preprocessor).model_max_length, self.facts.get("max_positions"), 100_000)
        return min(length for length in known if length is not None)


def reinitialize(classifier: Classifier, fresh: Callable[[], nn.Module], *, count: int, pretrained: bool) -> Classifier:
    """The classifier with the last `count` groups below its head, and the head, as `fresh` initialises them; 0: as it is.

    `facts["reinitialized"]` names the groups, and `facts["new_parameters"]` their parameters.

    Raises:
        RecipeError: there are not so many groups, or the weights are random anyway.
    """
    if not count:
        return classifier
    chain, facts = classifier.chain, classifier.facts
    if not pretrained:
        what = "without pretrained weights all of them are random; leave it out"
        raise RecipeError.single("model.reinitialize", what, source="model")
    try:
        groups = begin_anew(chain, classifier.model, fresh(), count)
    except ValueError as error:
        help = f"groups, input to output: {', '.join(chain.names)}"
        raise RecipeError.single("model.reinitialize", str(error), help, source="model") from None
    drawn = {name for group in groups for name in chain.parameters[group]}
    remark = f"{', '.join(groups)} begin with random weights (model.reinitialize={count})."
    changed = {"new_parameters": sorted({*facts["new_parameters"], *drawn}), "reinitialized": list(groups)}
    return replace(classifier, facts={**facts, **changed, "remarks": [*facts.get("remarks", ()), remark]})


def check_drop_path(model: nn.Module, drop_path: float | None) -> None:
    """Refuse a rate of stochastic depth that no layer of the model has.

    Raises:
        RecipeError: none has.
    """
    rates = [getattr(module, "drop_prob", 0) for module in model.modules() if type(module).__name__.endswith("DropPath")]
    if drop_path and not any(rates):
        raise no_drop_path(type(model).__name__)


def no_drop_path(architecture: str) -> RecipeError:
    """The refusal of stochastic depth for an architecture that has none."""
    what = f"{architecture} has no stochastic depth; leave it out, and see model.dropout"
    return RecipeError.single("model.drop_path", what, source="model")


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """How many special tokens a tokenizer puts before and after a text: (1, 1) for BERT's [CLS] and [SEP]."""
    mask = tokenizer("a", truncation=False, padding=False, return_special_tokens_mask=True)["special_tokens_mask"]
    return mask.index(0), mask[::-1].index(0)


@dataclass(frozen=True)
class Family:
    """One kind of network. A new one is a module with one of these, `FAMILY`, and a line in `hftl.models.FAMILIES`."""

    build: Callable[[Recipe, Sequence[str], Iterable[str]], Classifier]
    """The recipe's model with a head for these class names; the third are the training texts, from which a vocabulary is taken."""
    save: Callable[[Classifier, Path], None]
    load: Callable[[Path], Classifier]
    shortest_text: int = 1
    """Tokens of the shortest text that it reads. 0: a text without a word is one, and a batch of these has no columns."""
    tokens_on_cpu: int | None = None
    """Tokens that are best computed at once on a CPU, see `tokens_per_batch`; None: as many as on a GPU."""
    default_rates: Callable[[int], tuple[float, float]] | None = None
    """Learning rates of the stages "head" and "all" of `hftl.fine_tune`, by the number of parameters; None: it takes none."""
    default_schedule: type[LinearSchedule] | type[CosineSchedule] = LinearSchedule
    """Of the stage "all" there."""
    short_head_stage: bool = False
    """Whether the stage "head" has one epoch there, and its others go to "all"."""
    channels_last: bool = False
    """Whether its convolutions are faster where the channels of a pixel lie side by side."""
    logits_alone: bool = False
    """Whether its models return logits and nothing else, so that what enters the head has to be caught on its way."""
    recomputes_by_block: bool = False
    """Whether gradient checkpointing wraps the blocks of a model, see `hftl.models.recompute`; else its class has its own way."""
