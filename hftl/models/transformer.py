"""Pretrained transformers with a classification head (`AutoModelForSequenceClassification`).

The chain is embeddings -> layer.0 ... layer.N-1 -> head for every architecture whose body is one list of layers: BERT and its
kin, GPT-2, Llama and its kin, and some ninety more. Encoder-decoders, other bodies, and models whose answer to a text depends on
the padding beside it are refused.

With `pooling` the head reads all tokens rather than the first: where the class has that itself by its config, else by
`hftl.models.pooling_modeling`, which travels with the model. There is also what reads long texts in windows.

Shapes: input_ids, attention_mask (B, T) -> logits (B, K): B texts of T tokens, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hftl.errors import RecipeError
from hftl.models import tokenizer_bounds
from hftl.models.answers import ANOTHER, DEPEND_ON_PADDING, attend_to_all, check_answers, depends_on_padding, max_positions
from hftl.models.chain import HEAD, Chain, ChainError, LayerGroup, below, chain_of_layers, first_calls
from hftl.models.checkpoint import (
    CONFIG,
    MALFORMED,
    Checkpoint,
    Understood,
    Written,
    find_checkpoint,
    pretraining,
    quiet_loading,
    refused,
    run_error,
)
from hftl.models.family import Classifier, Family, no_drop_path, reinitialize, special_tokens
from hftl.models.foreign import LEFT_OVER, bounded_tokenizer, check_folder, check_size
from hftl.models.pooling_modeling import (
    PooledConfig,
    PooledForSequenceClassification,
    WindowedConfig,
    WindowedForSequenceClassification,
    encoder_arguments,
    encoder_of,
)
from hftl.names import CODE_SETTINGS, ONE_LABEL, POOLED, PROBLEM_TYPES, WINDOWED
from hftl.recipe import ImageData, Recipe, Transformer, Windows
from hftl.records.data import pretrained_further
from hftl.wording import listed

# A tokenizer whose files are missing is built empty by transformers: its special tokens and up to two stray pieces.
STRAY_PIECES = 2

# What a config says of a model as a whole, and not of the encoder in it.
OF_THE_WHOLE = {
    *("id2label", "label2id", "num_labels", "problem_type", "architectures", "transformers_version"),
    *("_name_or_path", "dtype", "torch_dtype", "thresholds"),
}

AutoConfig.register(POOLED, PooledConfig, exist_ok=True)
AutoModelForSequenceClassification.register(PooledConfig, PooledForSequenceClassification, exist_ok=True)
AutoConfig.register(WINDOWED, WindowedConfig, exist_ok=True)
AutoModelForSequenceClassification.register(WindowedConfig, WindowedForSequenceClassification, exist_ok=True)
# `save_pretrained` then writes `auto_map` and a copy of pooling_modeling.py, for those who load the model without hftl.
for _config_class in (PooledConfig, WindowedConfig):
    _config_class.register_for_auto_class("AutoConfig")  # type: ignore[no-untyped-call]
for _model_class in (PooledForSequenceClassification, WindowedForSequenceClassification):
    _model_class.register_for_auto_class("AutoModelForSequenceClassification")  # type: ignore[no-untyped-call]


def build(spec: Transformer, label_names: Sequence[str], *, windows: Windows | None = None) -> Classifier:
    """A pretrained transformer with a head for `label_names`, float32, on the CPU; random weights where `spec.pretrained` is false.

    The head of a checkpoint is kept only if it names the same classes in the same order; every other head is drawn anew, and
    `facts["new_parameters"]` lists what was. With `windows` it reads long texts in these; without, also a checkpoint at once that
    was trained in windows.

    Raises:
        RecipeError: no such checkpoint, no safetensors in it, not a text classifier, backbone weights missing, a tokenizer that
            does not fit, an architecture that is no chain, or one whose answers depend on padding or on chance; windows that are
            longer than what it reads, or of which each has nothing new.
    """
    checkpoint = find_checkpoint(spec)
    with quiet_loading():
        config = _config(checkpoint, new_head=True, pooled=spec.pooling != "native")
        same_labels = config.id2label == dict(enumerate(label_names))
        if spec.dropout is not None:
            set_dropout(config, spec.dropout)
        if spec.drop_path:
            raise no_drop_path(f"a {config.model_type} model")
        tokenizer = read_tokenizer(checkpoint, config)
        encoder_config = config
        if spec.pooling != "native":
            config = _pooled(config, spec.pooling, spec.dropout)
            same_labels = False  # its head read something else
        set_labels(config, label_names)
        if spec.pretrained:
            model, missing = _load(checkpoint, config, None if config is encoder_config else encoder_config)
        else:
            _check_size(checkpoint, config, pretrained=False)
            model, missing = _make(checkpoint, config), set()
        if isinstance(model, WindowedForSequenceClassification):
            model, missing = model.network, {name.removeprefix("network.") for name in missing}
        if isinstance(model, PooledForSequenceClassification) and getattr(model.encoder, "pooler", None) is not None:
            what = f"{type(model.encoder).__name__} always computes a layer over its first token; leave model.pooling out"
            raise RecipeError.single("model.pooling", what, source="model")
        check_vocabulary(checkpoint, tokenizer, model)
        layers = chain(model)
        lost = sorted(name for name in missing if layers.group_of(name) != HEAD or _in_body(model, name))
        if lost:
            raise checkpoint.refused(f"lacks weights of the body of {type(model).__name__}", None, f"missing: {listed(lost, 5)}")
        output = output_layer(model, layers, lambda: _run(model))
        if spec.head_dropout is not None:
            set_head_dropout(model, layers, spec.head_dropout)
        remarks = [*attend_to_all(model), *check_answers(tokenizer, model, output)]
    further = pretraining(checkpoint) if spec.pretrained else None
    if further is not None:
        remarks.append(f"The checkpoint was {pretrained_further(further)}.")
    if spec.pretrained and not same_labels:
        missing |= draw_anew(model, output)
    if windows is not None:
        model = _in_windows(model, tokenizer, windows)
        layers, missing = chain(model), {f"network.{name}" for name in missing}
    facts = {
        **_facts(model, tokenizer),
        "base_model": checkpoint.base_model if spec.pretrained else None,
        "revision": checkpoint.commit,
        "pretrained": spec.pretrained,
        "new_parameters": sorted(missing),
        "remarks": remarks,
        **({} if further is None else {"pretraining": further}),
    }
    classifier = Classifier(model, tokenizer, layers, facts)

    def fresh() -> nn.Module:
        made = _make(checkpoint, config)
        made = made.network if isinstance(made, WindowedForSequenceClassification) else made
        return made if windows is None else nn.ModuleDict({"network": made})

    return reinitialize(classifier, fresh, count=spec.reinitialize, pretrained=spec.pretrained)


def save(classifier: Classifier, folder: Path) -> None:
    """Write weights (safetensors), config and preprocessor as `from_pretrained` and `pipeline` want them; no path goes with them.

    Of a model whose classes are hftl's own a copy of their modelling file goes with it, for those without hftl.
    """
    with quiet_loading(), Written():
        classifier.model.save_pretrained(folder)
        classifier.preprocessor.save_pretrained(folder)


def load(folder: Path) -> Classifier:
    """Read what `save` wrote, of texts or of pictures.

    Raises:
        RunError: there is no complete model in the folder.
    """
    from hftl.models import pictures  # which is made of parts of this module

    if pictures.is_saved_here(folder):
        return pictures.load(folder)
    try:
        with quiet_loading():
            model, tokenizer = load_saved(Checkpoint(str(folder)))
            return Classifier(model, tokenizer, chain(model), _facts(model, tokenizer))
    except RecipeError as error:
        raise run_error(folder, error) from None


def load_saved(checkpoint: Checkpoint) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A whole text classifier of any class that transformers knows or has been told of, float32, and its tokenizer.

    Raises:
        RecipeError: there is no such model, a weight of it is missing, or the tokenizer does not belong to it.
    """
    model, missing = _load(checkpoint, _config(checkpoint, new_head=False, pooled=False))
    if missing:
        raise checkpoint.refused(f"is not complete; missing: {listed(sorted(missing), 5)}")
    tokenizer = read_tokenizer(checkpoint, model.config)
    check_vocabulary(checkpoint, tokenizer, model)
    return model, tokenizer


def chain(model: PreTrainedModel) -> Chain:
    """embeddings -> layer.0 ... layer.N-1 -> head, of any model whose body is one list of layers.

    The layers are the model's only outermost `ModuleList`, lists of tables left out; or several beside each other that run in step,
    of which XLM makes its layers (attentions, ffns and their norms). What first runs after them (final norm, pooler, classifier
    and its dropout) is head; the rest is embeddings: also what the layers share, such as rotary embeddings, DeBERTa's relative
    positions and convolution, ELECTRA's projection. ALBERT, whose layers share weights, has one layer for each set of them.

    Raises:
        RecipeError: no such list, several of them (an encoder-decoder), one that no text reaches (of pictures), or its layers do
            not run in order.
    """
    return chain_of_lists(model, lambda: _run(model), reads="text", another=ANOTHER)


def chain_of_lists(model: PreTrainedModel, run: Callable[[], object], *, reads: str, another: str) -> Chain:
    """The chain of a model that one small example, by `run`, goes through; `reads` is what it is an example of.

    Raises:
        RecipeError: as of `chain`; with `another` as the way out.
    """
    name = type(model).__name__
    lists = dict(_outermost_lists(model))
    lists_found = f"found {', '.join(lists)}" if lists else "found none"
    no_chain = refused(f"{name} is not a chain of layers: it needs exactly one list of layers; {lists_found}", another)
    if not lists or model.config.is_encoder_decoder:
        raise no_chain
    began = first_calls(model, run)
    idle = [path for path in lists if not any(below(called, path) for called in began)]
    if idle and len(idle) < len(lists):
        what = f"{name} is made for more than {reads}s: no {reads} reaches {', '.join(idle)}"
        raise refused(what, f"Choose a model of {reads}s alone.")
    if len(lists) > 1 and not _in_step(lists, began):
        raise no_chain
    count = len(next(iter(lists.values())))
    if not count:
        raise refused(f"{name} has no layers at all")
    group = "stages" if all(path.endswith(".stages") for path in lists) else "layer"  # of ConvNeXt and its kin
    groups = [LayerGroup(f"{group}.{i}", tuple(f"{path}.{i}" for path in lists)) for i in range(count)]
    try:
        return chain_of_layers(model, groups, first="embeddings", run=run)
    except ChainError as error:
        raise refused(f"{name} is not a chain of layers", str(error), another) from None


def _run(model: PreTrainedModel) -> None:
    """One small text: four tokens show the order as well as a text does.

    Raises:
        RecipeError: the model does not take it.
    """
    tokens = torch.zeros(1, 4, dtype=torch.int64, device=model.device)
    try:
        model(tokens, attention_mask=torch.ones_like(tokens))
    except MALFORMED as error:  # such as a vocabulary of no words
        what = f"{type(model).__name__} cannot be run as it is configured; it was given a text of four tokens"
        raise refused(what, " ".join(str(error).split())) from None


def _in_step(lists: dict[str, nn.ModuleList], began: dict[str, int]) -> bool:
    """Whether lists beside each other are one list of layers: the first members of all of them run before the second ones begin."""
    parents = {path.rpartition(".")[0] for path in lists}
    if len(parents) != 1 or len({len(layers) for layers in lists.values()}) != 1:
        return False
    count = len(next(iter(lists.values())))
    places = [[began.get(f"{path}.{i}", 0) for path in lists] for i in range(count)]  # 0: not called
    return all(map(all, places)) and all(max(row) < min(after) for row, after in pairwise(places))


def _outermost_lists(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            if not all(isinstance(member, nn.Embedding) for member in child) or not len(child):
                yield path + name, child
        else:
            yield from _outermost_lists(child, f"{path}{name}.")


def read_config(checkpoint: Checkpoint, *, new_head: bool) -> PreTrainedConfig:
    """What a checkpoint's config.json says, once the folder was checked; it names no code.

    Raises:
        RecipeError: it asks for what no model may, or transformers does not know the model.
    """
    values = check_folder(checkpoint, new_head=new_head)
    if values.get("auto_map") and values.get("model_type") not in CONFIG_MAPPING:
        what = f'is a "{values.get("model_type")}" model, which transformers knows only with the code that lies beside the weights'
        raise checkpoint.refused(what, None, f'hftl runs no code of a checkpoint ("auto_map" in {CONFIG}). Choose another model.')
    with Understood(checkpoint, "cannot be read as a transformer"):
        config = AutoConfig.from_pretrained(checkpoint.name, revision=checkpoint.revision, trust_remote_code=False)
    for name in {*CODE_SETTINGS, "base_model_name_or_path"} & vars(config).keys():
        delattr(config, name)  # transformers would write it into the model that comes of it, which has no such code
    return cast(PreTrainedConfig, config)


def _config(checkpoint: Checkpoint, *, new_head: bool, pooled: bool) -> PreTrainedConfig:
    config = read_config(checkpoint, new_head=new_head)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not (pooled and type(config) in MODEL_MAPPING):
        raise checkpoint.refused(f'is a "{config.model_type}" model, for which transformers has no text classifier')
    if config.model_type in DEPEND_ON_PADDING:
        architecture: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        raise depends_on_padding(architecture.__name__)
    if config.is_encoder_decoder and not pooled:
        what = f'is a "{config.model_type}" model, an encoder with a decoder, which is no chain of layers'
        raise checkpoint.refused(what, None, "Write model.pooling=mean to take its encoder alone, with a new head.", ANOTHER)
    return config


def set_labels(config: PreTrainedConfig, label_names: Sequence[str]) -> None:
    """Name the classes of a config."""
    config.id2label = dict(enumerate(label_names))  # num_labels follows
    config.label2id = {name: i for i, name in enumerate(label_names)}
    config.problem_type = PROBLEM_TYPES[ONE_LABEL]


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set every dropout rate of a config. The names differ: `hidden_dropout_prob`, `attention_dropout`, `resid_pdrop`.

    Raises:
        RecipeError: the config has none.
    """
    values = config.to_dict()
    names = [name for name, value in values.items() if _is_rate(value) and ("dropout" in name or name.endswith("pdrop"))]
    if not names:
        raise RecipeError.single("model.dropout", f'a "{config.model_type}" model has no dropout; leave it out', source="model")
    for name in names:
        setattr(config, name, dropout)


HEAD_DROPOUTS = (
    *("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout"),
    *("summary_first_dropout", "summary_last_dropout", "pooler_dropout"),
)
"""What configs call the dropouts of the head."""


def set_head_dropout(model: PreTrainedModel, layers: Chain, dropout: float) -> None:
    """Set the rate of every dropout that runs after the last layer, and what the config says of it.

    Raises:
        RecipeError: there is none.
    """
    modules = [model.get_submodule(name) for name in layers.modules[HEAD]]
    dropouts = [module for module in modules if isinstance(module, nn.Dropout)]
    if not dropouts:
        what = f"{type(model).__name__} has no dropout in its head; leave it out, and see model.dropout"
        raise RecipeError.single("model.head_dropout", what, source="model")
    for module in dropouts:
        module.p = dropout
    for name in ("dropout",) if isinstance(model, PooledForSequenceClassification) else HEAD_DROPOUTS:
        if hasattr(model.config, name):
            setattr(model.config, name, dropout)
    if model.config.model_type.startswith("deberta"):  # reads it, and does not list it among its settings
        model.config.cls_dropout = dropout


def _is_rate(value: Any) -> bool:
    """None is how BERT's `classifier_dropout` says "as in the body"."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def read_tokenizer(checkpoint: Checkpoint, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint whose folder was checked; it and the config agree on the padding token then.

    Raises:
        RecipeError: there is none that hftl reads, or the two do not belong together.
    """
    tokenizer = _tokenizer(checkpoint)
    _agree_on_padding(checkpoint, tokenizer, config)
    return tokenizer


def _tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    with Understood(checkpoint, "has no tokenizer that can be read"):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.name, revision=checkpoint.revision, trust_remote_code=False)
    for key in LEFT_OVER:
        tokenizer.init_kwargs.pop(key, None)  # or it would be saved again
    if not tokenizer.is_fast:
        what = f"has a slow tokenizer, {type(tokenizer).__name__}; hftl needs a tokenizer.json"
        raise checkpoint.refused(what, None, "Where transformers has a fast one of its kind, save that.", ANOTHER)
    with bounded_tokenizer(checkpoint):
        tokenizer_bounds.check_loaded(tokenizer.backend_tokenizer)
    with Understood(checkpoint, "has no tokenizer that can be read"):
        tokenizer("a")  # some settings that make no sense show only now
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) <= STRAY_PIECES:
        raise checkpoint.refused(
            "has no tokenizer: its vocabulary is empty", None, "Put tokenizer.json or the vocabulary beside the weights."
        )
    return tokenizer


def _agree_on_padding(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """One padding token for both. GPT-like models have none: the model's own id is taken, or the end of text."""
    expected: int | None = getattr(config, "pad_token_id", None)
    expected = None if expected == -1 else expected  # as the first Llama's were converted: there is none
    if tokenizer.pad_token_id is None:
        with Understood(checkpoint, f'has a tokenizer without the padding token that {CONFIG} names, "pad_token_id": {expected}'):
            token = tokenizer.eos_token if expected is None else tokenizer.convert_ids_to_tokens(expected)
        if token is None:
            raise checkpoint.refused("has a tokenizer with neither a padding token nor an end of text, so texts cannot be batched")
        tokenizer.pad_token = token
    if expected is not None and expected != tokenizer.pad_token_id:
        difference = f"the tokenizer pads with token {tokenizer.pad_token_id}, the model with {expected}"
        raise checkpoint.refused("has a tokenizer and a model that do not belong together", None, difference)
    config.pad_token_id = tokenizer.pad_token_id


def _pooled(config: PreTrainedConfig, pooling: str, dropout: float | None) -> PreTrainedConfig:
    """The configuration of the model that reads all tokens: the same where its class has that pooling itself.

    Raises:
        RecipeError: the checkpoint was trained in windows, and its encoder is that of a model in it.
    """
    if isinstance(config, WindowedConfig):
        what = "the checkpoint was trained in windows, and its head reads what it was trained to read; leave model.pooling out"
        raise RecipeError.single("model.pooling", what, source="model")
    if isinstance(config, PooledConfig):
        config.pooling = cast(Any, pooling)
    elif pooling == "mean" and hasattr(config, "classifier_pooling") and type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        config.classifier_pooling = "mean"  # ModernBERT's and its kin's
    else:
        own: dict[str, Any] = {"pooling": pooling, **({} if dropout is None else {"dropout": dropout})}
        encoder = {name: value for name, value in config.to_diff_dict().items() if name not in OF_THE_WHOLE}
        return PooledConfig(encoder=encoder, pad_token_id=config.pad_token_id, **own)
    return config


def _in_windows(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, windows: Windows
) -> WindowedForSequenceClassification:
    """The classifier that reads long texts in windows, each as `network` reads a text.

    Raises:
        RecipeError: a window is longer than what the network reads, or has nothing new.
    """
    longest = max_positions(network)
    if longest is not None and windows.length > longest:
        what = f"{windows.length} is longer than the {longest} positions of {type(network).__name__}"
        raise RecipeError.single("data.windows.length", what, f"write data.windows.length={longest} or less")
    before, after = special_tokens(tokenizer)
    room = windows.length - before - after
    if windows.overlap >= room:
        what = f"a window of {windows.length} tokens has {room} of the text, and {windows.overlap} of them are in the one before it"
        raise RecipeError.single("data.windows.overlap", what, f"write data.windows.overlap={room // 4}")
    config = WindowedConfig(
        network={name: value for name, value in network.config.to_diff_dict().items() if name not in OF_THE_WHOLE},
        **windows.model_dump(),
        before=before,
        after=after,
        padding_side=cast(Any, tokenizer.padding_side),
        pad_token_id=tokenizer.pad_token_id,
    )
    names: Any = network.config.id2label
    set_labels(config, list(names.values()))
    return WindowedForSequenceClassification(config, network)


def _load(
    checkpoint: Checkpoint, config: PreTrainedConfig, encoder_config: PreTrainedConfig | None = None
) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of the parameters that the checkpoint did not give (absent, or of another shape).

    With `encoder_config` the checkpoint's is an encoder, and `config` that of the classifier that is made over it.
    """
    arguments: dict[str, Any] = {"config": encoder_config or config, "revision": checkpoint.revision, "dtype": torch.float32}
    # A head for other classes has another shape. What else may be missing, the caller checks by name.
    arguments |= {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True, "output_loading_info": True}
    _check_size(checkpoint, config, pretrained=True)
    with Understood(checkpoint, "has no weights that can be read; hftl reads safetensors only"):
        if encoder_config is None:
            model, report = AutoModelForSequenceClassification.from_pretrained(checkpoint.name, **arguments)
        else:
            model, report = AutoModel.from_pretrained(checkpoint.name, **arguments, **encoder_arguments(encoder_config))
    missing = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if encoder_config is None:
        return model, missing
    encoder = encoder_of(model)
    if encoder is model:
        missing = {f"encoder.{name}" for name in missing}
    classifier = PooledForSequenceClassification(cast(PooledConfig, config), encoder)
    theirs = {name for name, _ in classifier.named_parameters() if not name.startswith("encoder.")}
    return classifier, theirs | {name for name in missing if name.startswith("encoder.")}


def _check_size(checkpoint: Checkpoint, config: PreTrainedConfig, *, pretrained: bool) -> None:
    """Refuse a model that cannot be made, or is far larger than its weights, before there is memory behind it."""
    with torch.device("meta"):
        check_size(checkpoint, _make(checkpoint, config), pretrained=pretrained)


def _make(checkpoint: Checkpoint, config: PreTrainedConfig) -> PreTrainedModel:
    """A model with random weights, by the library's own initialisation."""
    with Understood(checkpoint, f"has a {CONFIG} of which transformers can make no model"):
        return cast(
            PreTrainedModel,
            AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, trust_remote_code=False),  # type: ignore[no-untyped-call]
        )


def check_vocabulary(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Refuse a tokenizer that counts beyond the rows of the model's table of tokens.

    Raises:
        RecipeError: it does, or there is no such table.
    """
    try:
        table: Any = model.get_input_embeddings()
    except NotImplementedError:  # CANINE, which reads characters by their hashes
        table = None
    if not isinstance(table, nn.Module):  # or one for what it remembers, of Perceiver
        what = f"makes a {type(model).__name__}, which has no table with a row for each token of a tokenizer"
        raise checkpoint.refused(what, None, ANOTHER)
    rows = cast(torch.Tensor, table.weight).shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        sizes = f"the tokenizer counts its tokens up to {largest}, the model has {rows} embeddings, for 0 to {rows - 1}"
        raise checkpoint.refused("has a tokenizer and a model that do not belong together", None, sizes)


def _in_body(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter of the head comes with the pretrained body. A final norm does; BERT's pooler often does not."""
    body = model.base_model_prefix
    return name.startswith(f"{body}.") and not name.startswith(f"{body}.pooler.")


def output_layer(model: PreTrainedModel, layers: Chain, run: Callable[[], object]) -> str:
    """Name of the layer that gives the logits: what runs last of all that has weights, wherever the class keeps it.

    Raises:
        RecipeError: it is not a linear layer with one output a class.
    """
    began = first_calls(model, run)
    called = [name for name in layers.modules[HEAD] if name in began and [*model.get_submodule(name).parameters(recurse=False)]]
    last = max(called, key=began.__getitem__, default="")
    output = model.get_submodule(last)
    if not isinstance(output, nn.Linear) or output.out_features != model.config.num_labels:
        what = f"{type(model).__name__} does not end in a linear layer with one output a class"
        raise refused(what, f"last runs {last or 'nothing with weights'}: {output}" if last else "", ANOTHER)
    return last


def draw_anew(model: PreTrainedModel, name: str) -> set[str]:
    """Draw the weights of a linear layer anew; the names of its parameters."""
    output = cast(nn.Linear, model.get_submodule(name))
    nn.init.normal_(output.weight, std=getattr(model.config, "initializer_range", None) or 0.02)
    if output.bias is not None:
        nn.init.zeros_(output.bias)
    return {f"{name}.{parameter}" for parameter, _ in output.named_parameters()}


def _facts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary_size": len(tokenizer),
        "max_positions": max_positions(model),
    }


def _build(recipe: Recipe, label_names: Sequence[str], texts: object) -> Classifier:
    assert isinstance(recipe.model, Transformer)
    if isinstance(recipe.data, ImageData):
        from hftl.models import pictures  # which is made of parts of this module

        return pictures.build(recipe.model, label_names, image_size=recipe.data.image_size)
    assert not isinstance(recipe.data.windows, str)  # it keeps the section
    classifier = build(recipe.model, label_names, windows=recipe.data.windows)
    if recipe.data.pair:
        _check_pairs(classifier)
    return classifier


def _check_pairs(classifier: Classifier) -> None:
    """Refuse a model that cannot be run on what its own tokenizer makes of a pair, such as one without a second token type."""
    model, tokenizer = classifier.model, classifier.preprocessor
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    try:
        with torch.no_grad():
            model(**tokenizer("a", "a", return_tensors="pt"))
    except MALFORMED as error:
        what = f"{type(model).__name__} cannot be run on two texts, as its tokenizer gives them: {' '.join(str(error).split())}"
        raise RecipeError.single("data.pair", what, "leave data.pair out: the columns are then one text, a line each") from None


def _default_rates(parameters: int) -> tuple[float, float]:
    if parameters >= 20_000_000:
        return 1e-3, 3e-5 if parameters >= 60_000_000 else 1e-4
    return 5e-3, 5e-4


FAMILY = Family(_build, save, load, tokens_on_cpu=4_096, default_rates=_default_rates, short_head_stage=True)
