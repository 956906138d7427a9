"""timm classifiers behind `TimmWrapperForImageClassification`.

The chain is stem -> timm's own groups -> head: each timm model says by its `group_matcher` which parts belong together, for a
ResNet stem -> layer1 -> layer2 -> layer3 -> layer4 -> head. What is saved loads in transformers and in timm alike.

Shapes: pixel_values (B, C, S, S) -> logits (B, K): B pictures of S x S pixels, RGB, grey or of C bands, normalised as in
pretraining; K classes.
timm: Wightman 2019, https://github.com/huggingface/pytorch-image-models.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from torch import nn
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification, TimmWrapperImageProcessor

from hftl.errors import RecipeError, did_you_mean
from hftl.files import write_json
from hftl.models.chain import Chain, ChainError, LayerGroup, chain_of_layers
from hftl.models.checkpoint import (
    CONFIG,
    MALFORMED,
    WEIGHTS,
    Checkpoint,
    Understood,
    find_checkpoint,
    quiet_loading,
    refused,
    run_error,
)
from hftl.models.family import Classifier, Family, check_drop_path, no_drop_path, reinitialize
from hftl.models.foreign import MOST_CLASSES, check_counts, check_folder, check_label_names, check_size, is_whole
from hftl.names import WEIGHT_PLACES, bands_in
from hftl.recipe import CosineSchedule, ImageData, Recipe, Timm

WRAPPER = "timm_model"
"""How transformers' wrapper calls the timm model in it; parameters are named `timm_model.conv1.weight`."""

# A module with what timm's models have and torch's do not: `group_matcher`, `get_classifier`, `reset_classifier`.
TimmModel: TypeAlias = Any

# Keys that describe the classes and the test-time size of the checkpoint rather than of what is built from it.
OF_TARGET = ("problem_type", "thresholds")
"""What a config says of several labels an example; transformers' own keys, and hftl's."""
REPLACED = {"num_classes", "label_names", "label_descriptions", "label_offset", "test_input_size", "test_crop_pct"}
# What `model_args` may not hold: the arguments of timm's own machinery, which load any file (`checkpoint_path`), take weights from
# elsewhere (`pretrained_cfg_overlay`), or make something other than a classifier.
RESERVED = {
    *(*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters),
    *("features_only", "out_indices", "feature_cls", "device", "dtype"),
}
BANDS = "Files hold {bands} bands (data.bands); the weights of a pretrained first layer are repeated over them, times 3 / {bands}."
GREY = "Pictures are read in grey (model.in_chans=1); the weights of a pretrained first layer are summed over its three channels."
MOST_PIXELS = 2_048
"""Longest side of a picture, in pixels; timm's own go up to 1,024."""
# A number that timm's matchers give to what runs right after a group and belongs to it.
WITH_PREVIOUS = 99999.0


@dataclass(frozen=True)
class _Source:
    """What a checkpoint's config.json, or timm's registry, says of a network."""

    architecture: str
    arguments: dict[str, Any]
    """Arguments of `timm.create_model`; `model_args` in config.json."""
    pretrained_cfg: dict[str, Any]
    classes: int = 0
    """Outputs of the head that is stored; 0: there is none."""
    label_names: Sequence[str] | None = None
    of_target: Mapping[str, Any] = field(default_factory=dict)
    """What it says of several labels an example, see `OF_TARGET`."""


def build(spec: Timm, label_names: Sequence[str], *, image_size: int | None, bands: int | None = None) -> Classifier:
    """A timm model with a head for `label_names`, float32, on the CPU; random weights where `spec.pretrained` is false.

    The head is always new, also where the checkpoint's has as many classes; all other weights must be in the checkpoint.
    Pictures are prepared as in pretraining (mean, std, size, crop, interpolation); `image_size` replaces the size, in pixels. Of
    `bands` that the checkpoint does not know, mean and deviation are set by `with_channel_numbers`.

    Raises:
        RecipeError: no such checkpoint or architecture, no safetensors, missing or superfluous weights, pictures of other channels
            than the checkpoint can be adapted to, no groups, or a size that the network cannot take.
    """
    checkpoint = None if _is_architecture(spec) else find_checkpoint(spec)
    source = _registered(spec.checkpoint) if checkpoint is None else _read_source(checkpoint, new_head=True)
    arguments = {**source.arguments, "drop_rate": spec.dropout}
    if image_size is not None and (source.pretrained_cfg.get("fixed_input_size") or "img_size" in arguments):
        arguments["img_size"] = image_size  # where weights depend on the size (a ViT's positions), timm resamples them
    if spec.drop_path is not None:
        arguments["drop_path_rate"] = spec.drop_path
        _check_drop_path(source.architecture, spec.drop_path)
    stored, source = source.pretrained_cfg, _in_channels(replace(source, arguments=arguments), bands or spec.in_chans)
    if checkpoint is not None and spec.pretrained:
        timm_model = _load(checkpoint, replace(source, pretrained_cfg=stored))  # by its channels timm adapts the first layer
        if stored["input_size"][0] != source.pretrained_cfg["input_size"][0]:
            _check_first_layer(checkpoint, timm_model, bands)
        timm_model.reset_classifier(len(label_names))
    else:
        if checkpoint is not None:
            _check_size(checkpoint, source, pretrained=False)
        timm_model = _create(source, num_classes=len(label_names))
    facts = {
        "base_model": checkpoint.base_model if checkpoint is not None and spec.pretrained else None,
        "revision": None if checkpoint is None else checkpoint.commit,
        "pretrained": spec.pretrained,
        "new_parameters": _classifier_parameters(timm_model) if spec.pretrained else [],
        **({"remarks": [GREY]} if spec.in_chans == 1 else {}),
        **({"remarks": [BANDS.format(bands=bands)]} if bands else {}),
    }
    classifier = _classifier(timm_model, source, label_names, image_size, facts)

    def fresh() -> nn.Module:
        return nn.ModuleDict({WRAPPER: _create(source, num_classes=len(label_names))})

    return reinitialize(classifier, fresh, count=spec.reinitialize, pretrained=spec.pretrained)


def awaits_channel_numbers(classifier: Classifier) -> bool:
    """Whether no checkpoint has said mean and deviation of the bands that a classifier reads."""
    channels = classifier.facts["input_size"][0]
    return bands_in(channels) is not None and (classifier.facts["mean"], classifier.facts["std"]) == _unknown_numbers(channels)


def with_channel_numbers(classifier: Classifier, mean: Sequence[float], std: Sequence[float]) -> Classifier:
    """The classifier with mean and deviation of each band, in the files' own numbers."""
    config: Any = classifier.model.config
    numbers = {"mean": list(mean), "std": list(std)}
    config.pretrained_cfg = {**config.pretrained_cfg, **numbers}
    processor = TimmWrapperImageProcessor(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)
    remark = f"Mean and deviation of the {len(mean)} bands are those of the training pictures."
    facts = {**classifier.facts, **numbers, "remarks": [*classifier.facts["remarks"], remark]}
    return replace(classifier, preprocessor=processor, facts=facts)


def _unknown_numbers(channels: int) -> tuple[list[float], list[float]]:
    """Mean and deviation that change nothing."""
    return [0.0] * channels, [1.0] * channels


def save(classifier: Classifier, folder: Path) -> None:
    """Write weights and config so that transformers (`from_pretrained`, `pipeline`) and timm (`local-dir:FOLDER`) both load them.

    It is timm's format: names without the wrapper's prefix, the class names as `label_names`, and no `num_classes` among
    `model_args`, where transformers would meet it twice. The preprocessing is part of config.json.
    """
    timm_model: TimmModel = classifier.model.timm_model
    config = classifier.model.config
    folder.mkdir(parents=True, exist_ok=True)
    # A network trained in channels_last has weights that safetensors does not take as they lie in memory.
    weights = {name: tensor.contiguous() for name, tensor in timm_model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    description = {
        "architecture": config.architecture,
        "num_classes": timm_model.num_classes,
        "num_features": timm_model.num_features,
        "label_names": list(cast(dict[int, str], config.id2label).values()),
        "model_args": config.model_args,
        "pretrained_cfg": config.pretrained_cfg,
        **{key: getattr(config, key) for key in OF_TARGET if getattr(config, key, None) is not None},
    }
    write_json(folder / "config.json", description)


def load(folder: Path) -> Classifier:
    """Read what `save` wrote.

    Raises:
        RunError: there is no complete model in the folder.
    """
    try:
        return _load_saved(Checkpoint(str(folder)))
    except RecipeError as error:
        raise run_error(folder, error) from None


def _load_saved(checkpoint: Checkpoint) -> Classifier:
    source = _read_source(checkpoint, new_head=False)
    if source.label_names is None:
        raise checkpoint.refused("names no classes")
    check_label_names(checkpoint, "label_names", source.label_names)
    if len(source.label_names) != source.classes:
        raise checkpoint.refused(f"has {source.classes} classes and {len(source.label_names)} label_names in {CONFIG}")
    classifier = _classifier(_load(checkpoint, source), source, source.label_names, None, {})
    for key, value in source.of_target.items():
        setattr(classifier.model.config, key, value)
    return classifier


# --- where it comes from --------------------------------------------------------------------------------------------------------


def _is_architecture(spec: Timm) -> bool:
    """Whether the recipe names a bare architecture ("resnet18", "resnet18.a1_in1k"), which has no weights of its own.

    Raises:
        RecipeError: weights are asked for, or timm knows no such architecture.
    """
    name = spec.checkpoint
    if "/" in name or name.startswith(("~", ".")) or Path(name).is_dir():
        return False
    if not timm.is_model(name):
        raise refused(f'no such folder, and timm knows no architecture "{name}".{did_you_mean(name, timm.list_models())}')
    if spec.pretrained:
        pretrained = timm.get_pretrained_cfg(name)
        hub_id = f"write {pretrained.hf_hub_id} for its weights on the Hub, or " if pretrained and pretrained.hf_hub_id else ""
        raise refused(f'"{name}" is an architecture, without weights', f"{hub_id}model.pretrained=false for random ones.")
    return True


def _registered(name: str) -> _Source:
    """What timm's registry says of an architecture, with the preprocessing of its tag, or of its first."""
    try:
        pretrained = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # no such tag
        raise refused(f'timm knows no "{name}"', str(error)) from None
    pretrained_cfg = {} if pretrained is None else pretrained.to_dict()  # type: ignore[no-untyped-call]
    return _Source(name.partition(".")[0], {}, _without_places(pretrained_cfg))


def _read_source(checkpoint: Checkpoint, *, new_head: bool) -> _Source:
    """What the checkpoint's config.json, in timm's format, says."""
    config = check_folder(checkpoint, new_head=new_head)
    pretrained_cfg, arguments = config.get("pretrained_cfg"), config.get("model_args") or {}
    if not isinstance(pretrained_cfg, dict) or not isinstance(config.get("architecture"), str):
        raise checkpoint.refused('is no timm model: its config.json has no "architecture" and "pretrained_cfg"')
    architecture, pretrained_cfg = config["architecture"], _without_places(pretrained_cfg)
    if not timm.is_model(architecture):
        guess = did_you_mean(architecture, timm.list_models())
        raise checkpoint.refused(f'has the architecture "{architecture}", which timm {timm.__version__} does not know.{guess}')
    _check_arguments(checkpoint, arguments)
    _check_preprocessing(checkpoint, pretrained_cfg)
    classes = config.get("num_classes", pretrained_cfg.get("num_classes", 1000))
    if not is_whole(classes, 0, MOST_CLASSES):
        raise checkpoint.refused(f'has "num_classes": {classes!r} in {CONFIG}; 0 to {MOST_CLASSES:,} can be read')
    # timm writes the number of classes here too; where ours is another, the call would have it twice.
    arguments = {key: value for key, value in arguments.items() if key != "num_classes"}
    of_target = {key: config[key] for key in OF_TARGET if config.get(key) is not None}
    return _Source(architecture, arguments, pretrained_cfg, classes, config.get("label_names"), of_target)


def check_network(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Refuse a config.json that names no network of timm, or asks timm for more than one.

    Raises:
        RecipeError: it does.
    """
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise checkpoint.refused(f'has the architecture "{architecture}", which timm {timm.__version__} does not know')
    _check_arguments(checkpoint, config.get("model_args") or {})


def _check_arguments(checkpoint: Checkpoint, arguments: Any) -> None:
    """Refuse `model_args` that are not arguments of a network.

    Raises:
        RecipeError: no object, a key of timm's own machinery, or a number of layers beyond reason.
    """
    if not isinstance(arguments, dict):
        raise checkpoint.refused(f'has "model_args": {arguments!r} in {CONFIG}; names with values were expected')
    for key in sorted(arguments.keys() & RESERVED):
        what = f'has "{key}": {arguments[key]!r} among the model_args of {CONFIG}, which is no argument of a network'
        raise checkpoint.refused(what, None, "Leave it out.")
    check_counts(checkpoint, arguments)


def _check_preprocessing(checkpoint: Checkpoint, pretrained_cfg: dict[str, Any]) -> None:
    """Refuse sizes, means and deviations that are no such thing; the rest is tried out, as timm makes its transform of it.

    Raises:
        RecipeError: such a value.
    """
    size = pretrained_cfg["input_size"]
    if not isinstance(size, list) or len(size) != 3 or not all(is_whole(side, 1, MOST_PIXELS) for side in size):
        what = f'has "input_size": {size!r} in {CONFIG}'
        raise checkpoint.refused(what, None, f"Channels, height and width were expected, of at most {MOST_PIXELS:,} pixels.")
    for key, least in (("mean", -math.inf), ("std", 1e-6)):
        values = pretrained_cfg.get(key, [1.0] * size[0])
        many = {1: "one number was", 3: "three numbers were"}.get(size[0], f"{size[0]} numbers were")
        if not isinstance(values, list) or len(values) != size[0] or not all(_is_number(v) and v >= least for v in values):
            raise checkpoint.refused(f'has "{key}": {values!r} in {CONFIG}; {many} expected, one a channel')
    crop = pretrained_cfg.get("crop_pct", 1.0)
    if not _is_number(crop) or not 0.1 <= crop <= 2:  # pictures are first resized to the size divided by it
        raise checkpoint.refused(f'has "crop_pct": {crop!r} in {CONFIG}; a share such as 0.875 was expected')
    with Understood(checkpoint, f'has a "pretrained_cfg" in {CONFIG} of which timm can make no preprocessing'):
        TimmWrapperImageProcessor(pretrained_cfg=pretrained_cfg)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e6  # NaN is not


def _without_places(pretrained_cfg: dict[str, Any]) -> dict[str, Any]:
    return {"input_size": [3, 224, 224]} | {key: value for key, value in pretrained_cfg.items() if key not in WEIGHT_PLACES}


def _in_channels(source: _Source, channels: int | None) -> _Source:
    """The network for pictures of so many channels: timm sums the weights of its first layer over three, or repeats them.

    Raises:
        RecipeError: its checkpoint reads grey or bands, and something else is asked for.
    """
    cfg = source.pretrained_cfg
    own, height, width = cfg["input_size"]
    if bands_in(own) is not None and channels != own:
        what = f"the checkpoint reads files of {own} bands"
        raise RecipeError.single("data.bands", what, f"write data.bands={own}", source="model")
    if channels is None or channels == own:
        return source
    if channels != 1 and cfg.get("crop_mode", "center") == "border":
        what = 'the checkpoint lays pictures on a border of their mean colour ("crop_mode": "border"), and bands have none'
        raise RecipeError.single("data.bands", what, "choose another checkpoint", source="model")
    if own == 1:
        raise RecipeError.single(
            "model.in_chans", "the checkpoint reads grey pictures, of one channel", "leave it out", source="model"
        )
    if channels != 1:
        mean, std = _unknown_numbers(channels)
        of_bands = {"input_size": [channels, height, width], "mean": mean, "std": std}
        return replace(source, arguments={**source.arguments, "in_chans": channels}, pretrained_cfg={**cfg, **of_bands})
    means, deviations = cfg.get("mean", IMAGENET_DEFAULT_MEAN), cfg.get("std", IMAGENET_DEFAULT_STD)
    grey = {"input_size": [1, height, width], "mean": [sum(means) / 3], "std": [sum(deviations) / 3]}
    return replace(source, arguments={**source.arguments, "in_chans": 1}, pretrained_cfg={**cfg, **grey})


def _check_first_layer(checkpoint: Checkpoint, timm_model: TimmModel, bands: int | None) -> None:
    """Refuse a network whose first layer is no convolution: timm would draw it anew without a word."""
    first = timm_model.pretrained_cfg.get("first_conv") or ()
    layers = [timm_model.get_submodule(name) for name in ((first,) if isinstance(first, str) else first)]
    if not layers or not all(isinstance(layer, nn.Conv2d) for layer in layers):
        which = "grey pictures" if bands is None else f"{bands} bands"
        what = f"has a first layer that is no convolution, of which no weights for {which} can be made"
        way_out = "Leave model.in_chans out: grey pictures are read as RGB."
        raise checkpoint.refused(
            what, None, way_out if bands is None else "Choose one that begins with a convolution, as a ResNet."
        )


def _create(source: _Source, **arguments: Any) -> TimmModel:
    """A timm model with timm's own initialisation.

    Raises:
        RecipeError: timm cannot make it with these arguments.
    """
    try:
        return timm.create_model(source.architecture, **source.arguments, **arguments)
    except MALFORMED as error:
        raise refused(f"timm cannot make {source.architecture} with {source.arguments}", " ".join(str(error).split())) from None


def _check_drop_path(architecture: str, drop_path: float) -> None:
    """Refuse stochastic depth where the architecture has none.

    Raises:
        RecipeError: it has none.
    """
    with torch.device("meta"):
        try:
            model = timm.create_model(architecture, drop_path_rate=drop_path)
        except TypeError:  # an argument that it does not know
            raise no_drop_path(architecture) from None
    check_drop_path(model, drop_path)


def _load(checkpoint: Checkpoint, source: _Source) -> TimmModel:
    """The model as it was stored, its head included: timm then asks for every weight, and for no other."""
    weights = checkpoint.file(WEIGHTS)
    _check_size(checkpoint, source, pretrained=True)
    pretrained_cfg = source.pretrained_cfg | {"num_classes": source.classes, "file": str(weights), "custom_load": False}
    arguments = source.arguments | {"pretrained": True, "pretrained_cfg": pretrained_cfg, "num_classes": source.classes}
    with Understood(checkpoint, f"has weights that do not fit {source.architecture}"):
        return timm.create_model(source.architecture, **arguments)


def _check_size(checkpoint: Checkpoint, source: _Source, *, pretrained: bool) -> None:
    """Refuse a network that cannot be made, or is far larger than its weights, before there is memory behind it."""
    with torch.device("meta"):
        check_size(checkpoint, _create(source, num_classes=source.classes), pretrained=pretrained)


# --- what is made of it ---------------------------------------------------------------------------------------------------------


def _classifier(
    timm_model: TimmModel, source: _Source, label_names: Sequence[str], image_size: int | None, facts: dict[str, Any]
) -> Classifier:
    preprocessing = {key: value for key, value in source.pretrained_cfg.items() if key not in REPLACED}
    if image_size is not None:
        preprocessing |= {"input_size": [preprocessing["input_size"][0], image_size, image_size], "pool_size": None}
    config = TimmWrapperConfig(  # type: ignore[call-arg]  # it keeps every key it is given
        architecture=source.architecture,
        model_args=source.arguments,
        pretrained_cfg=preprocessing,
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
    )
    # The wrapper makes and initialises a model of its own; on "meta" that costs nothing, and ours takes its place.
    with quiet_loading(), torch.device("meta"):
        model = TimmWrapperForImageClassification(config)
    setattr(model, WRAPPER, timm_model.float().eval())
    processor = TimmWrapperImageProcessor(pretrained_cfg=preprocessing, architecture=source.architecture)
    used = processor.data_config
    try:
        groups = chain(model, tuple(used["input_size"]))
    except CannotRun as error:
        if image_size is None:
            raise refused(f"{source.architecture} cannot be run as it is configured", str(error)) from None
        what = f"{source.architecture} cannot take pictures of {image_size} x {image_size} pixels"
        raise RecipeError.single("data.image_size", what, str(error), source="model") from None
    known = {
        "architecture": source.architecture,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "input_size": list(used["input_size"]),
        "mean": list(used["mean"]),
        "std": list(used["std"]),
        "interpolation": used["interpolation"],
        "crop_pct": used["crop_pct"],
    }
    return Classifier(model, processor, groups, known | facts)


def _classifier_parameters(timm_model: TimmModel) -> list[str]:
    """Names of the parameters of the last layer, with the wrapper's prefix."""
    classifier = timm_model.get_classifier()
    heads = classifier if isinstance(classifier, tuple | list) else [classifier]
    new = {id(parameter) for head in heads for parameter in head.parameters()}
    return sorted(f"{WRAPPER}.{name}" for name, parameter in timm_model.named_parameters() if id(parameter) in new)


class CannotRun(Exception):
    """The network does not take the picture that shows its chain, and why."""


def chain(model: PreTrainedModel, input_size: tuple[int, int, int]) -> Chain:
    """stem -> timm's coarse groups -> head, named as timm calls their parts: layer1, stages.0, blocks.11.

    What timm numbers is a layer. What it does not number goes where it runs: before the layers to the stem, after them to the head,
    a final norm also where timm counts it to the last layer. `input_size` is (channels, height, width), in pixels.

    Raises:
        RecipeError: timm says of this architecture no groups, or they do not run one after the other.
    """
    name, timm_model = model.config.architecture, cast(TimmModel, model.timm_model)
    layers = _layers(timm_model, name)
    picture = torch.zeros(1, *input_size, device=model.device)

    def run() -> None:
        try:
            model(picture)
        except MALFORMED as error:
            raise CannotRun(" ".join(str(error).split())) from None

    try:
        layers_chain = chain_of_layers(model, layers, first="stem", run=run)
    except ChainError as error:
        raise refused(f"{name} is not a chain of layers", str(error)) from None
    astray = [
        parameter
        for parameter in _classifier_parameters(timm_model)
        if parameter not in layers_chain.parameters[layers_chain.names[-1]]
    ]
    if astray:
        raise refused(f"{name} is not a chain of layers: its classifier ({', '.join(astray)}) is not at the end")
    return layers_chain


def _layers(timm_model: TimmModel, name: str) -> list[LayerGroup]:
    """The numbered groups of timm's matcher, which maps a name to regular expressions over parameter names."""
    if not hasattr(timm_model, "group_matcher"):
        raise refused(f"{name} says nothing about its layer groups (no group_matcher in timm)")
    try:
        matcher = timm_model.group_matcher(coarse=True)
    except AssertionError as error:
        raise refused(f"{name} has no coarse layer groups in timm", str(error)) from None
    if not isinstance(matcher, dict):
        raise refused(f"{name} describes its layer groups in a way that gives them no names")
    members: dict[tuple[float, ...], dict[str, list[nn.Parameter]]] = {}
    for parameter_name, parameter in timm_model.named_parameters():
        matched = _match(parameter_name, matcher)
        if matched is not None:
            place, part = matched
            members.setdefault(place, {}).setdefault(part, []).append(parameter)
    groups: list[list[str]] = []
    for place in sorted(members):
        parts = members[place]
        if place[-1] != WITH_PREVIOUS or not groups:
            groups.append(list(parts))
        elif any(parameter.ndim > 1 for parameters in parts.values() for parameter in parameters):
            groups[-1].extend(
                parts
            )  # a convolution with its norm, such as EfficientNet's conv_head; a norm alone belongs to the head
    if not groups:
        raise refused(f"{name} has no numbered layer groups in timm")
    return [LayerGroup(parts[0], tuple(f"{WRAPPER}.{part}" for part in parts)) for parts in groups]


def _match(parameter_name: str, matcher: dict[str, Any]) -> tuple[tuple[float, ...], str] | None:
    r"""The place of a parameter among the numbered groups, and the part of the model it is in.

    "layer1.0.conv1.weight" is at (1, 1), in "layer1", by the matcher's second entry, "^layer(\d+)". None where nothing matches, or
    where the first expression that does gives no number (the stem).
    """
    for ordinal, specification in enumerate(matcher.values()):
        for expression, suffix in [(specification, None)] if isinstance(specification, str) else specification or []:
            match = re.match(expression, parameter_name)
            if match is None:
                continue
            numbers = [float(number) for number in (*match.groups(), *(suffix or ())) if number is not None]
            # The expression may end within a part: "^layer(\d+)" in "layer1.0", "^norm" in "norm_pre.weight".
            end = parameter_name.find(".", match.end())
            part = parameter_name if end < 0 else parameter_name[:end]
            return ((float(ordinal), *numbers), part) if numbers else None
    return None


def _build(recipe: Recipe, label_names: Sequence[str], texts: Iterable[str]) -> Classifier:
    assert isinstance(recipe.model, Timm) and isinstance(recipe.data, ImageData)  # the recipe checks that they go together
    if recipe.model.pooling == "pyramid":
        from hftl.models import pyramid  # which is made of parts of this module

        return pyramid.FAMILY.build(recipe, label_names, texts)
    return build(recipe.model, label_names, image_size=recipe.data.image_size, bands=recipe.data.bands)


def _default_rates(parameters: int) -> tuple[float, float]:
    return (1e-3, 1e-4) if parameters >= 60_000_000 else (3e-3, 5e-4)


FAMILY = Family(
    _build,
    save,
    load,
    default_rates=_default_rates,
    default_schedule=CosineSchedule,
    channels_last=True,
    recomputes_by_block=True,
)
