"""A smaller vocabulary: the pieces that some texts are made of keep their rows of the embedding table, and the others go.

A WordPiece tokenizer takes from the front of a word the longest piece that it knows. Without the pieces that none of the texts is
made of it reads these texts as before, so that the model's logits of them stay what they were. Other texts may be read in smaller
pieces: single letters stay, so that no word becomes unknown that was none.

Of a vocabulary of words (GloVe's) nothing goes: training has taken it from the same texts. Byte-level BPE and Unigram would read
the texts otherwise.

Shapes: V pieces, of which U stay; D numbers each.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hftl.models.family import Classifier

BATCH = 1_000
"""Texts that are tokenised at once."""


def trimmed(classifier: Classifier, texts: Iterable[Any]) -> Classifier | None:
    """A copy of a classifier with the pieces of these texts alone; None: its vocabulary is none of WordPiece, or all are used.

    Args:
        classifier: of texts.
        texts: whole ones, as they are tokenised; of pairs (first, second).
    """
    if not isinstance(classifier.preprocessor, PreTrainedTokenizerBase):
        return None
    tokenizer, table = classifier.preprocessor, classifier.model.get_input_embeddings()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "WordPiece" or not isinstance(table, nn.Embedding):
        return None
    kept = sorted(_used(tokenizer, texts) | _always(tokenizer, state))
    if len(kept) == table.num_embeddings or kept[-1] >= table.num_embeddings:
        return None
    new_id = {old: new for new, old in enumerate(kept)}
    model = copy.deepcopy(classifier.model)
    rows = table.weight.detach()[kept].clone()  # (U, D)
    padding = None if table.padding_idx is None else new_id[table.padding_idx]
    smaller = nn.Embedding(len(kept), table.embedding_dim, padding_idx=padding, _weight=rows)
    model.set_input_embeddings(smaller)
    smaller.weight.requires_grad_(table.weight.requires_grad)
    # Of a pooled or windowed model each part has a configuration, and those around it hold it as JSON.
    for config in {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}.values():
        _renumber(vars(config), new_id)
    of_fewer = copy.deepcopy(tokenizer)
    of_fewer._tokenizer = Tokenizer.from_str(json.dumps(_renumbered(state, new_id)))
    return Classifier(model, of_fewer, classifier.chain, classifier.facts)


def _renumber(config: dict[str, Any], new_id: Mapping[int, int]) -> None:
    """What a configuration, and each one in it, says of the vocabulary."""
    if isinstance(config.get("vocab_size"), int):
        config["vocab_size"] = len(new_id)
    for name in ("pad", "bos", "eos", "sep", "cls", "unk", "mask"):
        if isinstance(old := config.get(f"{name}_token_id"), int):
            config[f"{name}_token_id"] = new_id.get(old)
    for name in ("encoder", "network"):
        if isinstance(config.get(name), dict):
            _renumber(config[name], new_id)


@torch.no_grad()
def _used(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Any]) -> set[int]:
    used: set[int] = set()

    def add(batch: list[Any]) -> None:
        for ids in tokenizer(batch, truncation=False, padding=False, verbose=False)["input_ids"]:
            used.update(ids)

    batch: list[Any] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            add(batch)
            batch = []
    if batch:
        add(batch)
    return used


def _always(tokenizer: PreTrainedTokenizerBase, state: Mapping[str, Any]) -> set[int]:
    """The special tokens, and every single letter, at the beginning of a word and in it."""
    prefix = str(state["model"]["continuing_subword_prefix"])
    vocabulary = cast("Mapping[str, int]", state["model"]["vocab"])
    letters = {id for piece, id in vocabulary.items() if len(piece.removeprefix(prefix)) == 1}
    return {*letters, *tokenizer.all_special_ids, *(int(token["id"]) for token in state["added_tokens"])}


def _renumbered(state: Mapping[str, Any], new_id: Mapping[int, int]) -> dict[str, Any]:
    """tokenizer.json with the pieces that stay, by their new numbers."""
    changed = copy.deepcopy(dict(state))
    vocabulary = changed["model"]["vocab"]
    changed["model"]["vocab"] = {piece: new_id[old] for piece, old in vocabulary.items() if old in new_id}
    for token in changed["added_tokens"]:
        token["id"] = new_id[token["id"]]
    if (padding := changed.get("padding")) is not None:
        padding["pad_id"] = new_id[padding["pad_id"]]
    if (processor := changed.get("post_processor")) is not None:
        for special in (processor.get("special_tokens") or {}).values():  # a template
            special["ids"] = [new_id[old] for old in special["ids"]]
        for name in ("sep", "cls"):  # BERT's own kind: ["[SEP]", 102]
            if isinstance(processor.get(name), list):
                processor[name][1] = new_id[processor[name][1]]
    return changed
