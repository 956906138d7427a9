"""The transformer of a recipe with the head of its pretraining: which token stands at a masked place.

transformers computes the head at every place; of the masked ones, 15 % of all, alone it costs as much less. The body's output is
cut to them before the network's own head sees it, wherever that head reads each place by itself, which is tried at the start.

Shapes: input_ids (B, T), places (M,) -> logits (M, V): B rows of T tokens, M masked places, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModel, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from hftl.files import fingerprint
from hftl.models import transformer
from hftl.models.answers import max_positions
from hftl.models.checkpoint import CONFIG, MALFORMED, Checkpoint, Understood, Written, find_checkpoint, quiet_loading
from hftl.models.family import no_drop_path
from hftl.models.foreign import check_size
from hftl.recipe import Transformer
from hftl.wording import listed

ANOTHER = "Choose an encoder such as BERT, RoBERTa, DeBERTa, DistilBERT or ModernBERT."


class AtPlaces(nn.Module):
    """A masked language model that is asked for the tokens at some places."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network
        self.cut = False
        """The head is computed at these places alone; else at all, and theirs are taken."""
        self._places: torch.Tensor | None = None
        network.base_model.register_forward_hook(self._cut)

    def forward(self, input_ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Logits (M, V); places count over all rows, row * T + column."""
        if not self.cut:
            return cast(torch.Tensor, self.network(input_ids=input_ids).logits.flatten(0, 1)[places])
        self._places = places
        try:
            return cast(torch.Tensor, self.network(input_ids=input_ids).logits[0])
        finally:
            self._places = None

    def _cut(self, module: nn.Module, arguments: object, output: Any) -> Any:
        if self._places is None:
            return None
        hidden = output.last_hidden_state  # (B, T, D) -> (1, M, D)
        output.last_hidden_state = hidden.flatten(0, 1)[self._places].unsqueeze(0)
        return output


@dataclass(frozen=True)
class MaskedLanguageModel:
    """A network, float32, on the CPU, and its tokenizer."""

    model: AtPlaces
    tokenizer: PreTrainedTokenizerBase
    beside: dict[str, torch.Tensor]
    """Weights of the checkpoint's body that masked language modelling has no use for, such as BERT's pooler: they are saved as
    they came."""
    facts: dict[str, Any]
    """Which checkpoint it is, and what of the network is new; for JSON."""

    def save(self, folder: Path) -> None:
        """Write it so that both `AutoModelForMaskedLM` and `AutoModelForSequenceClassification` load it."""
        network = self.model.network
        with quiet_loading(), Written():
            network.save_pretrained(folder, state_dict={**network.state_dict(), **self.beside})
            self.tokenizer.save_pretrained(folder)


def build(spec: Transformer, *, length: int) -> MaskedLanguageModel:
    """The network of a recipe as a masked language model for rows of `length` tokens; a head that the checkpoint lacks is new.

    Raises:
        RecipeError: no such checkpoint, one whose architecture does not guess masked tokens (a decoder, a model of pictures), a
            tokenizer without a mask token, weights of the body missing, or fewer positions than `length`.
    """
    checkpoint = find_checkpoint(spec)
    with quiet_loading():
        config = transformer.read_config(checkpoint, new_head=True)
        kinds = [str(config.model_type), *(name for name in ("is_encoder_decoder", "is_decoder") if getattr(config, name, False))]
        if type(config) not in MODEL_FOR_MASKED_LM_MAPPING or len(kinds) > 1:
            what = f'is a "{config.model_type}" model, which does not guess masked tokens'
            raise checkpoint.refused(what, None, "A decoder reads from left to right alone.", ANOTHER)
        if spec.dropout is not None:
            transformer.set_dropout(config, spec.dropout)
        if spec.drop_path:
            raise no_drop_path(f"a {config.model_type} model")
        tokenizer = transformer.read_tokenizer(checkpoint, config)
        if tokenizer.mask_token_id is None:
            what = "has a tokenizer without a mask token, so that it was not pretrained by masking"
            raise checkpoint.refused(
                what, None, "Name the token in tokenizer_config.json (mask_token) where there is one.", ANOTHER
            )
        network, new = _network(checkpoint, config, pretrained=spec.pretrained)
        transformer.check_vocabulary(checkpoint, tokenizer, network)
        body = [name for name in new if name.startswith(f"{network.base_model_prefix}.")]
        if body:
            raise checkpoint.refused(f"lacks weights of the body of {type(network).__name__}", None, f"missing: {listed(body, 5)}")
        longest = max_positions(network)
        if longest is not None and length > longest:
            what = f"has {longest} positions, and rows of {length} tokens are asked for"
            raise checkpoint.refused(what, None, f"write data.max_length={longest} or less")
        model = AtPlaces(network)
        _try(checkpoint, model, length)
        beside = _beside(checkpoint, network, config) if spec.pretrained else {}
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest or tokenizer.model_max_length)
    facts = {
        "checkpoint": checkpoint.base_model,
        "revision": checkpoint.commit,
        "pretrained": spec.pretrained,
        "weights": [fingerprint(file)["sha256"] for file in checkpoint.weights()] if spec.pretrained else [],
        "architecture": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "new_parameters": new,
        "head": "at masked places" if model.cut else "at every place",
    }
    return MaskedLanguageModel(model, tokenizer, beside, facts)


def _network(checkpoint: Checkpoint, config: Any, *, pretrained: bool) -> tuple[PreTrainedModel, list[str]]:
    """The network, and the names of the parameters that the checkpoint did not give; of random weights none is named."""

    def make() -> PreTrainedModel:
        with Understood(checkpoint, f"has a {CONFIG} of which transformers can make no model"):
            return cast(PreTrainedModel, AutoModelForMaskedLM.from_config(config, dtype=torch.float32, trust_remote_code=False))  # type: ignore[no-untyped-call]

    with torch.device("meta"):
        check_size(checkpoint, make(), pretrained=pretrained)
    if not pretrained:
        return make(), []
    arguments: dict[str, Any] = {"config": config, "revision": checkpoint.revision, "dtype": torch.float32}
    arguments |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with Understood(checkpoint, "has no weights that can be read; hftl reads safetensors only"):
        network, report = AutoModelForMaskedLM.from_pretrained(checkpoint.name, **arguments)
    return network, sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})


def _beside(checkpoint: Checkpoint, network: PreTrainedModel, config: Any) -> dict[str, torch.Tensor]:
    """The weights of the checkpoint's body that the network does not have."""
    with Understood(checkpoint, "has no weights that can be read; hftl reads safetensors only"):
        whole, report = AutoModel.from_pretrained(
            checkpoint.name,
            config=config,
            revision=checkpoint.revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    missing = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    known = network.base_model.state_dict().keys()
    return {
        f"{network.base_model_prefix}.{name}": tensor.clone()
        for name, tensor in whole.state_dict().items()
        if name not in known and name not in missing
    }


def _try(checkpoint: Checkpoint, model: AtPlaces, length: int) -> None:
    """See that the network runs on rows, whether its head reads each place by itself, and which parameters have no part in it.

    DDP waits for the gradient of every parameter that trains: the others do not.

    Raises:
        RecipeError: the network cannot be run.
    """
    network = model.network
    rows = torch.arange(2 * min(length, 8)).view(2, -1) % network.config.vocab_size
    places = torch.arange(1, rows.numel(), 3)
    network.eval()  # type: ignore[no-untyped-call]
    with Understood(checkpoint, f"makes a {type(network).__name__} that cannot be run on rows of tokens"):
        whole = model(rows, places)
    whole.sum().backward()
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    model.cut = True
    try:
        with torch.no_grad():
            cut = model(rows, places)
            model.cut = cut.shape == whole.shape and torch.allclose(cut, whole, atol=1e-5 * float(whole.abs().max()), rtol=0.0)
    except MALFORMED:  # a head that reads all places together, or a body that gives no hidden states by their usual name
        model.cut = False
