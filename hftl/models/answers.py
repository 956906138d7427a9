"""What a text classifier's answer may depend on: the text, and nothing that happens to share its batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hftl.errors import RecipeError
from hftl.models.checkpoint import MALFORMED, refused
from hftl.names import WINDOWED

SAME_ANSWER = 1e-4
"""How far two answers to one text may lie apart, as a share of the largest logit: what float32 rounds in batches of other shapes is
mostly a hundredth of it, and what lies above is looked at in float64; the least that padding was seen to do, in a Nystromformer of
random weights, is five times as much."""

ANOTHER = "Choose an encoder such as BERT, XLM-RoBERTa, DeBERTa or ModernBERT, or a decoder such as GPT-2 or Llama."


DEPEND_ON_PADDING = frozenset(("convbert", "fnet", "nystromformer", "yoso"))
"""`model_type` of those whose layers mix real tokens with padding, whatever their weights: known before a weight is fetched."""


def depends_on_padding(name: str) -> RecipeError:
    """The refusal of a class whose answer to a text is another one beside a longer text."""
    what = f"the answers of {name} depend on padding: it says something else of a text beside a longer one"
    return refused(what, "It does not keep to its attention mask, so that what is measured would not be what is served.", ANOTHER)


def attend_to_all(model: PreTrainedModel) -> list[str]:
    """Write into a BigBird's config what it does: it attends sparsely until the first text of fewer than some 700 tokens, and fully
    from then on. One of four tokens came when its chain was made; a model that is loaded again must do the same."""
    config: Any = model.base_model.config
    if getattr(config, "attention_type", None) != "block_sparse":
        return []
    config.attention_type = "original_full"
    return [f"{type(model).__name__} attends to every token: its sparse attention would depend on which text came first."]


def check_answers(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, output: str) -> list[str]:
    """Refuse a model that answers a text in one way alone and in another beside a longer text, or in a new way each time.

    Its answer would depend on what happens to share the batch: what was measured would not be what is served. Where padding on the
    other side helps (XLNet reads its answer off the last token, GPT-2 counts positions from the first), the tokenizer pads there
    from now on, which is said in the remark that is returned.

    Raises:
        RecipeError: see above, or the model cannot be run in training.
    """
    name = type(model).__name__
    width = min(16, max_positions(model) or 16)
    special = set(tokenizer.all_special_ids)
    ids = np.array(sorted(set(tokenizer.get_vocab().values()) - special))
    long = torch.from_numpy(ids[np.linspace(0, len(ids) - 1, width).astype(int)])
    short = long[: min(3, max(1, width // 3))]  # so that ConvBERT's convolution, of 9 tokens, comes to the padding

    def ask(texts: Sequence[torch.Tensor], side: str) -> torch.Tensor:
        """Logits of the first text."""
        batch = torch.full((len(texts), max(map(len, texts))), cast(int, tokenizer.pad_token_id))
        mask = torch.zeros_like(batch)
        for row, text in enumerate(texts):
            place = slice(batch.shape[1] - len(text), None) if side == "left" else slice(0, len(text))
            batch[row, place], mask[row, place] = text, 1
        return cast(torch.Tensor, model(batch, attention_mask=mask).logits[0])

    def differ(one: torch.Tensor, other: torch.Tensor) -> bool:
        return not bool((one - other).abs().max() <= SAME_ANSWER * one.abs().max())  # nan is no equality

    def unmoved(alone: torch.Tensor) -> list[str]:
        """The sides on which padding does not change the answer, the tokenizer's own first."""
        return [side for side in (own, "left" if own == "right" else "right") if not differ(alone, ask([short, long], side))]

    def in_float64() -> list[str]:
        """The sides once more where rounding is a billionth of what it was: a deep network amplifies it, and logits can be small by
        chance. None where a layer can do float32 alone."""
        network, dtype = cast(nn.Module, model), model.dtype
        try:
            network.double()
            return unmoved(ask([short], own))
        except RuntimeError:  # "expected scalar type Float but found Double"
            return []
        finally:
            network.to(dtype)

    own = str(tokenizer.padding_side)
    training, buffers = model.training, {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        # New weights of a head can be tiny, or zero: with these all that enters the last layer counts.
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _drawn_output(model, output):
            model.train()  # some can be run in evaluation alone
            ask([short, long], own)
            model.train(False)
            alone = ask([short], own)
            if not alone.isfinite().all():  # the loss will say so
                return []
            chance = differ(alone, ask([short], own))
            sides = unmoved(alone)
            if own not in sides and not chance:
                sides = in_float64() or sides
    except MALFORMED as error:
        raise refused(f"{name} cannot be trained as it is configured", " ".join(str(error).split())) from None
    finally:
        model.train(training)
        for buffer_name, buffer in model.named_buffers():  # I-BERT's ranges follow what it has seen in training
            buffer.copy_(buffers[buffer_name])
    if chance:
        raise refused(f"{name} answers the same text differently each time, so that nothing measured of it would hold", ANOTHER)
    if not sides:
        raise depends_on_padding(name)
    if own in sides:
        return []
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = sides[0]  # the second is what is saved
    return [f"Texts are padded on the {sides[0]}: on the {own}, as the tokenizer would, padding changes the answers of {name}."]


@contextmanager
def _drawn_output(model: PreTrainedModel, name: str) -> Iterator[None]:
    """With an output layer that answers 1 to an input of that size, and the old one back after."""
    output = cast(nn.Linear, model.get_submodule(name))
    weight = output.weight.data
    output.weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) / weight.shape[1] ** 0.5
    try:
        yield
    finally:
        output.weight.data = weight


def max_positions(model: PreTrainedModel) -> int | None:
    """Longest input in tokens, special tokens included; None where the architecture has no limit.

    RoBERTa and its kin count positions from the padding id on, so its table of 514 rows holds 512: 514 - 1 - 1. What is read in
    windows may be of any length.
    """
    if model.config.model_type == WINDOWED:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    longest = getattr(model.base_model.config, "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None  # XLNet, which has no limit, says -1
