"""Pretrained classifiers of transformers for pictures (`AutoModelForImageClassification`): ViT, DINOv2, ConvNeXt V2, SigLIP, CLIP.

The chain is embeddings -> layer.0 ... layer.N-1 -> head, or stages.0 ... of what is made of stages, for every architecture whose
body is one list of them. Pictures are prepared by the checkpoint's own image processor.

Shapes: pixel_values (B, 3, H, W) -> logits (B, K): B pictures of H x W pixels, RGB, normalised as in pretraining; K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from hftl.errors import RecipeError
from hftl.models import transformer
from hftl.models.chain import HEAD, Chain, LayerGroup, below
from hftl.models.checkpoint import (
    CONFIG,
    MALFORMED,
    Checkpoint,
    Understood,
    find_checkpoint,
    quiet_loading,
    read_object,
    run_error,
)
from hftl.models.family import Classifier, check_drop_path, reinitialize
from hftl.models.foreign import check_size
from hftl.recipe import Transformer
from hftl.wording import listed

PROCESSOR = "preprocessor_config.json"
WITH_TEXTS = "processor_config.json"
"""Where a model of pictures and texts, such as CLIP, may have it."""
MOST_PIXELS = 2_048
"""Longest side of a picture, in pixels."""
ANOTHER = "Choose a model such as ViT, DINOv2, ConvNeXt V2, SigLIP or CLIP, or one of timm with model.family=timm."


def build(spec: Transformer, label_names: Sequence[str], *, image_size: int | None) -> Classifier:
    """A pretrained classifier of pictures with a head for `label_names`, float32, on the CPU; random weights without `pretrained`.

    The head of a checkpoint is kept only if it names the same classes in the same order. Pictures are prepared by its own
    processor; `image_size` replaces the size, in pixels.

    Raises:
        RecipeError: no such checkpoint, no safetensors in it, no picture classifier, weights missing, a processor that does not
            prepare RGB pictures of one size, or an architecture that is no chain.
    """
    checkpoint = find_checkpoint(spec)
    with quiet_loading():
        config = _config(checkpoint, new_head=True)
        same_labels = config.id2label == dict(enumerate(label_names))
        transformer.set_labels(config, label_names)
        if spec.dropout is not None:
            transformer.set_dropout(config, spec.dropout)
        if spec.drop_path is not None and hasattr(config, "drop_path_rate"):
            config.drop_path_rate = spec.drop_path
        processor = _processor(checkpoint, image_size)
        size = _input_size(checkpoint, processor)
        if spec.pretrained:
            model, missing = _load(checkpoint, config)
        else:
            _check_size(checkpoint, config, pretrained=False)
            model, missing = _make(checkpoint, config), set()
        layers = chain(model, size)
        output = transformer.output_layer(model, layers, lambda: _run(model, size))
        check_drop_path(model, spec.drop_path)
        if spec.head_dropout is not None:
            transformer.set_head_dropout(model, layers, spec.head_dropout)
        of_output = {f"{output}.{name}" for name, _ in model.get_submodule(output).named_parameters()}
        if lost := sorted(missing - of_output):
            raise checkpoint.refused(f"lacks weights of {type(model).__name__}", None, f"missing: {listed(lost, 5)}")
    if spec.pretrained and not same_labels:
        missing |= transformer.draw_anew(model, output)
    facts = {
        **facts_of(model, processor, size),
        "base_model": checkpoint.base_model if spec.pretrained else None,
        "revision": checkpoint.commit,
        "pretrained": spec.pretrained,
        "new_parameters": sorted(missing),
    }
    classifier = Classifier(model, processor, layers, facts)
    return reinitialize(classifier, lambda: _make(checkpoint, config), count=spec.reinitialize, pretrained=spec.pretrained)


def load(folder: Path, layers: Callable[[PreTrainedModel, tuple[int, int]], Chain] | None = None) -> Classifier:
    """Read what `hftl.models.transformer.save` wrote; `layers` makes the chain of a model for pictures of (H, W), None: `chain`.

    Raises:
        RunError: there is no complete model in the folder.
    """
    checkpoint = Checkpoint(str(folder))
    try:
        with quiet_loading():
            model, processor, size = load_saved(checkpoint)
            return Classifier(model, processor, (layers or chain)(model, size), facts_of(model, processor, size))
    except RecipeError as error:
        raise run_error(folder, error) from None


def load_saved(checkpoint: Checkpoint) -> tuple[PreTrainedModel, Any, tuple[int, int]]:
    """A whole classifier of pictures of any class that transformers knows or has been told of, float32, its processor, and (H, W).

    Raises:
        RecipeError: there is no such model, a weight of it is missing, or its processor does not do what is measured here.
    """
    model, missing = _load(checkpoint, _config(checkpoint, new_head=False))
    if missing:
        raise checkpoint.refused(f"is not complete; missing: {listed(sorted(missing), 5)}")
    processor = _processor(checkpoint, None)
    return model, processor, _input_size(checkpoint, processor)


def is_saved_here(folder: Path) -> bool:
    """Whether a folder holds a classifier of pictures, by the class that its config.json names.

    Raises:
        RunError: it cannot be read.
    """
    checkpoint = Checkpoint(str(folder))
    try:
        names = read_object(checkpoint, checkpoint.file(CONFIG)).get("architectures")
    except RecipeError as error:
        raise run_error(folder, error) from None
    return isinstance(names, list) and any(isinstance(name, str) and name.endswith("ForImageClassification") for name in names)


def chain(model: PreTrainedModel, size: tuple[int, int]) -> Chain:
    """embeddings -> layer.0 ... layer.N-1 -> head, as `hftl.models.transformer.chain` makes it of texts.

    What no answer depends on is no head, and goes to the embeddings.

    Raises:
        RecipeError: the body is not one list of layers or stages, or they do not run in order, or not with such a picture.
    """
    made = transformer.chain_of_lists(model, lambda: _run(model, size), reads="picture", another=ANOTHER)
    first, *layers, head = made.groups
    idle = tuple(part for part in head.prefixes if not _reaches_logits(model, part, size))
    if not idle:
        return made
    kept = tuple(part for part in head.prefixes if part not in idle)
    return Chain(model, [LayerGroup(first.name, (*first.prefixes, *idle)), *layers, LayerGroup(HEAD, kept)])


def _reaches_logits(model: PreTrainedModel, part: str, size: tuple[int, int]) -> bool:
    """Whether a part of a model has a say in its answer: CLIP's norm of the class token runs after the layers, and has none."""
    parameters = [tensor for name, tensor in model.named_parameters() if below(name, part)]
    if not parameters:
        return True
    with torch.enable_grad():
        logits = model(pixel_values=torch.zeros(1, 3, *size, device=model.device)).logits
        return any(each is not None for each in torch.autograd.grad(logits.sum(), parameters, allow_unused=True))


def _run(model: PreTrainedModel, size: tuple[int, int]) -> None:
    """One grey picture.

    Raises:
        RecipeError: the model does not take it.
    """
    try:
        model(pixel_values=torch.zeros(1, 3, *size, device=model.device))
    except MALFORMED as error:
        what = f"{type(model).__name__} cannot take pictures of {size[0]} x {size[1]} pixels"
        raise RecipeError.single("data.image_size", what, " ".join(str(error).split()), source="model") from None


# --- its files ------------------------------------------------------------------------------------------------------------------


def _config(checkpoint: Checkpoint, *, new_head: bool) -> PreTrainedConfig:
    config = transformer.read_config(checkpoint, new_head=new_head)
    if config.model_type == "timm_wrapper":
        raise checkpoint.refused("is one of timm's", None, "Write model.family=timm.")
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise checkpoint.refused(
            f'is a "{config.model_type}" model, for which transformers has no picture classifier', None, ANOTHER
        )
    vision = getattr(config, "vision_config", None)
    if getattr(vision, "vision_use_head", False):
        vision.vision_use_head = False  # type: ignore[union-attr]  # SigLIP's, which no classifier reads and none would train
    return config


def _load(checkpoint: Checkpoint, config: PreTrainedConfig) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of the parameters that the checkpoint did not give (absent, or of another shape)."""
    arguments: dict[str, Any] = {"config": config, "revision": checkpoint.revision, "dtype": torch.float32}
    arguments |= {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True, "output_loading_info": True}
    _check_size(checkpoint, config, pretrained=True)
    with Understood(checkpoint, "has no weights that can be read; hftl reads safetensors only"):
        model, report = AutoModelForImageClassification.from_pretrained(checkpoint.name, **arguments)
    return model, {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}


def _check_size(checkpoint: Checkpoint, config: PreTrainedConfig, *, pretrained: bool) -> None:
    with torch.device("meta"):
        check_size(checkpoint, _make(checkpoint, config), pretrained=pretrained)


def _make(checkpoint: Checkpoint, config: PreTrainedConfig) -> PreTrainedModel:
    with Understood(checkpoint, f"has a {CONFIG} of which transformers can make no model"):
        return cast(
            PreTrainedModel,
            AutoModelForImageClassification.from_config(config, dtype=torch.float32, trust_remote_code=False),  # type: ignore[no-untyped-call]
        )


def _processor(checkpoint: Checkpoint, image_size: int | None) -> Any:
    """The checkpoint's image processor, once its sizes and numbers make sense.

    Raises:
        RecipeError: there is none, it does not do what is measured here, or its size cannot be set.
    """
    for name in (PROCESSOR, WITH_TEXTS):
        file = checkpoint.file_or_none(name)
        if file is not None and read_object(checkpoint, file).get("auto_map") is not None:
            raise checkpoint.refused(f'has an image processor with code of its own ("auto_map" in {name})', None, ANOTHER)
    with Understood(checkpoint, "has no image processor that can be read"):
        processor: Any = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            checkpoint.name, revision=checkpoint.revision, trust_remote_code=False
        )
        # "backend" is of the pipeline that will serve it: both take the library's first choice.
        if image_size is not None:
            set_size(processor, image_size)
        sides = [
            *_sides(processor.size),
            *_sides(getattr(processor, "crop_size", None)),
            *_sides(getattr(processor, "pad_size", None)),
        ]
        mean, std = processor.image_mean, processor.image_std
        scale = processor.rescale_factor if processor.do_rescale else 1.0
    if not sides or not all(1 <= side <= MOST_PIXELS for side in sides):
        raise checkpoint.refused(f"has sizes of pictures in {PROCESSOR} that are none: {sides}; at most {MOST_PIXELS:,} pixels")
    if not math.isclose(scale, 1 / 255, rel_tol=1e-3):
        raise checkpoint.refused(f"has a processor that does not bring bytes to 0 to 1 (it multiplies by {scale:g})", None, ANOTHER)
    if processor.do_normalize and not all(
        isinstance(values, list | tuple) and len(values) == 3 and all(isinstance(value, int | float) for value in values)
        for values in (mean, std)
    ):
        raise checkpoint.refused(f"has a mean and a deviation in {PROCESSOR} that are not three numbers each: {mean}, {std}")
    if processor.do_normalize and not all(1e-6 <= value <= 1e6 for value in std):
        raise checkpoint.refused(f'has "image_std": {std} in {PROCESSOR}; numbers above 0 were expected')
    return processor


def set_size(processor: Any, side: int) -> None:
    """Let a processor make pictures of side x side pixels, cut as it cuts its own."""
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", None) else None
    # 224 of 256: what is cut off stays the same share.
    share = min(_sides(processor.size)) / min(_sides(crop)) if crop else 1.0
    keys = [key for key, value in dict(processor.size).items() if value]
    processor.size = type(processor.size)(**dict.fromkeys(keys, round(side * share)))
    if crop:
        processor.crop_size = type(processor.crop_size)(height=side, width=side)


def _sides(size: Any) -> Iterator[int]:
    """The numbers in a processor's size; nothing of None."""
    if size is not None:
        yield from (value for value in dict(size).values() if isinstance(value, int))


def _input_size(checkpoint: Checkpoint, processor: Any) -> tuple[int, int]:
    """(H, W) that the processor makes of every picture.

    Raises:
        RecipeError: it fails, or makes other sizes of other pictures, or no bytes of three channels.
    """
    shapes = set()
    for wide in ((48, 64), (64, 48)):
        with Understood(checkpoint, "has an image processor that cannot be used"):
            prepared = processor(Image.new("RGB", wide), do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
            shapes.add((str(prepared.dtype), *prepared.shape))
    [(kind, *shape), *others] = shapes
    if others or kind != "uint8" or shape[:2] != [1, 3] or len(shape) != 4:
        what = f"has an image processor that does not bring every picture to bytes of one size: {sorted(shapes)}"
        raise checkpoint.refused(what, None, ANOTHER)
    return int(shape[2]), int(shape[3])


def facts_of(model: PreTrainedModel, processor: Any, size: tuple[int, int]) -> dict[str, Any]:
    """What data.json says of a classifier of pictures: its size, and how pictures are prepared for it."""
    share = getattr(processor, "crop_pct", None)
    if share is None and getattr(processor, "do_center_crop", None):
        share = min(size) / min(_sides(processor.size))
    return {
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "input_size": [3, *size],
        "mean": list(processor.image_mean) if processor.do_normalize else [0.0] * 3,
        "std": list(processor.image_std) if processor.do_normalize else [1.0] * 3,
        "interpolation": Image.Resampling(int(processor.resample)).name.lower(),
        "crop_pct": 1.0 if share is None else float(share),
    }
