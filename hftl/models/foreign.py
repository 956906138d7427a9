"""What is checked of a checkpoint before a library reads it; and no code of it is ever run.

A checkpoint, a pulled model and even a saved run may have been written by anybody. So:

- hftl never runs code of a checkpoint. `trust_remote_code` is False in every call, nothing asks for permission, and there is no
  switch. Where config.json names code (`auto_map`), the library's own class is taken, or the checkpoint is refused.
- Weights are read from safetensors only, and only if config.json describes a model of about their size: nothing large is
  allocated on the word of a text file.
- No file outside the folder is opened: paths in its JSON files, symbolic links and adapters of other models are refused.
- No template of a tokenizer is rendered, and none is given a text that it would make a hundred times as long
  (`hftl.models.tokenizer_bounds`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import psutil
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from hftl.models import tokenizer_bounds
from hftl.models.checkpoint import CONFIG, INDEX, WEIGHTS, Checkpoint, as_json, read_object, stored_sizes
from hftl.names import HEAD_AND_TAIL

ADAPTER = "adapter_config.json"
# The files from which transformers takes the arguments of a tokenizer, the second after it has replaced the paths of the first.
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")
TOKENIZER = "tokenizer.json"
LEFT_OVER = ("special_tokens_map_file", "added_tokens_file")
"""Keys of these files that older releases of transformers wrote, with a path of their author's machine, and none reads."""
TEMPLATES = "additional_chat_templates"
"""The one folder inside a checkpoint that transformers opens."""

MOST_CLASSES = 100_000
MOST_LAYERS = 256
"""Layers that a config.json may ask for where the weights do not hold as many tensors; the deepest transformers have some 130."""

SPARE_PARAMETERS = 50_000_000
"""Parameters that a model may have beyond twice what its weights hold, for a new head: 200 MB."""

# Where a repeated part is counted: num_hidden_layers, n_layer, depths, num_hidden_groups, block_sizes, num_local_experts.
COUNTS = re.compile(r"(layers?|depths?|blocks|block_sizes|groups|group_num|experts|depth_multiplier)$")
# Ways to attend that need no further code; transformers would fetch another from the Hub, if it can ("owner/kernel").
ATTENTION = (None, "eager", "sdpa")


def check_folder(checkpoint: Checkpoint, *, new_head: bool) -> dict[str, Any]:
    """What config.json says, once nothing beside it leads out of the checkpoint or asks for code.

    To be called before any library reads a checkpoint, whoever wrote it. It reads the JSON files, the tokenizer's among them, and
    the names of the others; the weights are looked at by `check_size`. With `new_head` its classes are not used, and may be
    called anything.

    Raises:
        RecipeError: a file that is no JSON object or nested without end, a path or a link that leaves the folder, an adapter, a
            class of the checkpoint's own, classes that are not names in order, a count beyond reason, a tokenizer that makes a
            text a hundred times as long.
    """
    config_file = checkpoint.file(CONFIG)
    beside = [checkpoint.file_or_none(name) for name in (*TOKENIZER_FILES, INDEX, ADAPTER)]  # of the Hub, into the same folder
    _check_entries(checkpoint, config_file.parent)
    if beside[-1] is not None:
        base = read_object(checkpoint, beside[-1]).get("base_model_name_or_path")
        what = f'is an adapter ({ADAPTER}) of another model, "base_model_name_or_path": {as_json(base)}'
        raise checkpoint.refused(what, None, "Merge it into its model (peft: merge_and_unload), save that, and name its folder.")
    config = read_object(checkpoint, config_file)
    _check_config(checkpoint, config)
    _check_classes(checkpoint, config, new_head)
    of_tokenizer = {TOKENIZER: None}  # an ordered set
    for file in beside[: len(TOKENIZER_FILES)]:
        if file is not None:
            values = read_object(checkpoint, file)
            _check_tokenizer(checkpoint, file.name, values)
            of_tokenizer |= dict.fromkeys(_named_tokenizers(values))
    for name in of_tokenizer:
        _check_growth(checkpoint, name)
    if beside[-2] is not None:
        _check_index(checkpoint, read_object(checkpoint, beside[-2]))
    return config


def check_counts(checkpoint: Checkpoint, values: Any) -> None:
    """Refuse a number of layers, blocks or experts that no model has, before a loop is run so often.

    Raises:
        RecipeError: such a number is larger than 256 and than the number of tensors in the weights.
    """
    counts = [(name, value) for name, value in _walk(values) if isinstance(value, int | float) and COUNTS.search(name)]
    if not any(value > MOST_LAYERS for _, value in counts):
        return
    tensors, _ = stored_sizes(checkpoint)
    for name, value in counts:
        if value > max(MOST_LAYERS, tensors):
            raise checkpoint.refused(f'has "{name}": {value:,} in {CONFIG}, and {tensors:,} tensors in its weights')


def check_size(checkpoint: Checkpoint, model: nn.Module, *, pretrained: bool) -> None:
    """Refuse a `model`, made on the device "meta", that is far larger than the weights it is to be filled with.

    The weights may lack a head; they do not lack half of the model. Where they are not wanted a model may be as large as the
    machine's memory.

    Raises:
        RecipeError: more parameters than twice what the weights hold and 50 million, or than fit into memory as float32.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters()) + sum(buffer.numel() for buffer in model.buffers())
    numbers = stored_sizes(checkpoint)[1] if pretrained else 0
    if numbers and parameters > 2 * numbers + SPARE_PARAMETERS:
        what = f"has a {CONFIG} that describes {parameters:,} parameters, and weights of {numbers:,}"
        raise checkpoint.refused(what, None, "The two do not belong together.")
    if (too_large := beyond_memory(parameters)) is not None:
        raise checkpoint.refused(f"has a {CONFIG} that describes {too_large[0]}", None, too_large[1])


def beyond_memory(parameters: int) -> tuple[str, str] | None:
    """What is too large and for what, where so many parameters do not fit into the machine's memory as float32; None: they do."""
    memory = psutil.virtual_memory().total
    if 4 * parameters <= memory:
        return None
    return (
        f"{parameters:,} parameters: {4 * parameters / 1e9:,.0f} GB of float32",
        f"This machine has {memory / 1e9:,.0f} GB of memory.",
    )


def _check_entries(checkpoint: Checkpoint, folder: Path) -> None:
    """Refuse links that leave the folder, and the shards of a distributed checkpoint, for which transformers has another reader."""
    real = Path(os.path.realpath(folder))
    allowed, repository = [real], real.parent.parent
    if real.parent.name == "snapshots" and repository.name.startswith("models--"):
        # The Hub's cache: a snapshot is made of links into the blobs of its repository, and those may lie in a store for all.
        allowed += [repository, repository.parent / "blobs"]
    for place in (folder, folder / TEMPLATES):
        for entry in sorted(place.iterdir()) if place.is_dir() else ():
            name = entry.relative_to(folder)
            target = Path(os.path.realpath(entry))
            if entry.is_symlink() and not any(target.is_relative_to(root) for root in allowed):
                what = f"has a link that leaves the folder: {name} -> {os.readlink(entry)}"
                raise checkpoint.refused(what, None, "Put a copy of the file in its place.")
            if re.fullmatch(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors", entry.name):
                what = f"holds a distributed checkpoint ({name})"
                raise checkpoint.refused(what, None, f"Load it with transformers and save it again, as {WEIGHTS}.")


def _check_config(checkpoint: Checkpoint, config: dict[str, Any]) -> None:
    """Refuse what config.json may say that no classifier needs."""
    for key in ("model_type", "architecture"):
        if not isinstance(config.get(key), str | None):
            raise checkpoint.refused(f'has "{key}": {as_json(config[key])} in {CONFIG}; a name was expected')
    # transformers writes every other key onto the configuration, where these choose files, formats and kernels from the Hub.
    for key in ("transformers_weights", "quantization_config", "kernel_config", "fusion_config", "distributed_config"):
        if config.get(key) is not None:
            help = f"hftl reads plain float weights from {WEIGHTS}: save the model so, and leave the key out."
            raise checkpoint.refused(f'has "{key}": {as_json(config[key])} in {CONFIG}', None, help)
    for key, value in _walk(config):
        if key.endswith(("attn_implementation", "experts_implementation")) and value not in ATTENTION:
            help = "It names code that transformers may fetch from the Hub. Leave the key out."
            raise checkpoint.refused(f'has "{key}": {as_json(value)} in {CONFIG}', None, help)
    spread = config.get("initializer_range", 0.02)  # a new head is drawn with it
    if isinstance(spread, bool) or not isinstance(spread, int | float | None) or not 0 <= (spread or 0) <= 10:
        raise checkpoint.refused(f'has "initializer_range": {as_json(spread)} in {CONFIG}; 0.02 is usual')
    _check_tokenizer_class(checkpoint, CONFIG, config)
    check_counts(checkpoint, config)


def _check_classes(checkpoint: Checkpoint, config: dict[str, Any], new_head: bool) -> None:
    """Refuse classes that are not names in order; with a new head only what could not be read at all."""
    names = config.get("id2label")
    if names is not None:
        if not isinstance(names, dict) or not (
            all(key.isdecimal() for key in names) if new_head else set(names) == {str(i) for i in range(len(names))}
        ):
            what = f'has "id2label": {as_json(names)} in {CONFIG}'
            raise checkpoint.refused(what, None, 'Class names under "0", "1", "2" and so on were expected, none left out.')
        if not new_head:
            check_label_names(checkpoint, "id2label", list(names.values()))
    for key in ("num_labels", "num_classes"):
        number = config.get(key)
        if number is None:
            continue
        if not is_whole(number, 0, MOST_CLASSES):
            raise checkpoint.refused(f'has "{key}": {as_json(number)} in {CONFIG}; 0 to {MOST_CLASSES:,} classes can be read')
        if names is not None and number != len(names) and not new_head:
            raise checkpoint.refused(f'has "{key}": {number} in {CONFIG}, and {len(names)} names in "id2label"')


def check_label_names(checkpoint: Checkpoint, key: str, names: Any) -> None:
    """Refuse class names that are no list of texts.

    Raises:
        RecipeError: see above.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MOST_CLASSES:
        raise checkpoint.refused(f'has "{key}": {as_json(names)} in {CONFIG}; each class needs a name, which is a text')


def _check_tokenizer(checkpoint: Checkpoint, file: str, values: dict[str, Any]) -> None:
    """Refuse what the JSON file of a tokenizer may say that reaches out of the folder."""
    if values.get("auto_map") is not None:
        what = f'has a tokenizer with code of its own: "auto_map": {as_json(values["auto_map"])} in {file}'
        raise checkpoint.refused(what, None, "hftl runs no code of a checkpoint. Choose one whose tokenizer transformers knows.")
    if values.get("init_inputs"):
        what = f'has "init_inputs": {as_json(values["init_inputs"])} in {file}'
        raise checkpoint.refused(what, None, "They would be handed to the tokenizer as they are. Leave the key out.")
    for key, value in values.items():
        if not key.endswith(("_file", "_files")) or value is None or key in LEFT_OVER:
            continue
        places = value if isinstance(value, list) else [value]
        if key == "gguf_file" or not all(isinstance(place, str) and _inside(place) for place in places):
            what = f'has "{key}": {as_json(value)} in {file}, which is not a file of this folder'
            raise checkpoint.refused(what, None, "Leave the key out: the files of a tokenizer are found by their usual names.")
    _check_tokenizer_class(checkpoint, file, values)
    parts, longest = values.get(HEAD_AND_TAIL), values.get("model_max_length")
    numbers = isinstance(parts, list) and len(parts) == 2 and all(type(part) is int and part > 0 for part in parts)
    if parts is not None and not (numbers and sum(parts) == longest):
        what = f'has "{HEAD_AND_TAIL}": {as_json(parts)} in {file}; two numbers of tokens were expected, together model_max_length'
        raise checkpoint.refused(what)
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1):
        raise checkpoint.refused(f'has "model_max_length": {as_json(longest)} in {file}; a number of tokens was expected')


def _named_tokenizers(values: dict[str, Any]) -> list[str]:
    """The files that transformers may open in the place of tokenizer.json: of older formats, by the version of the library."""
    named = [values.get("tokenizer_file"), *(values.get("fast_tokenizer_files") or [])]
    return [name for name in named if isinstance(name, str) and _inside(name)]


def _check_growth(checkpoint: Checkpoint, name: str) -> None:
    file = checkpoint.file_or_none(name)
    if file is None:
        return
    size = file.stat().st_size
    if size > tokenizer_bounds.MOST_BYTES:
        raise checkpoint.refused(f"has a {name} of {size:,} bytes; {tokenizer_bounds.MOST_BYTES:,} are more than one needs")
    with bounded_tokenizer(checkpoint):
        tokenizer_bounds.read_tokenizer(file.read_bytes())


@contextmanager
def bounded_tokenizer(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what `hftl.models.tokenizer_bounds` finds into a message.

    Raises:
        RecipeError: a tokenizer that no text may be given to.
    """
    try:
        yield
    except tokenizer_bounds.Unbounded as error:
        raise checkpoint.refused("has no tokenizer that can be read", error) from None


def _check_tokenizer_class(checkpoint: Checkpoint, file: str, values: dict[str, Any]) -> None:
    name = values.get("tokenizer_class")
    if name is None:
        return
    tokenizer_class = tokenizer_class_from_name(name) if isinstance(name, str) else None
    if not isinstance(tokenizer_class, type) or not issubclass(tokenizer_class, PreTrainedTokenizerBase):
        what = f'has "tokenizer_class": {as_json(name)} in {file}, which is no tokenizer of transformers'
        help = "hftl runs no code of a checkpoint. With a tokenizer.json beside it, write TokenizersBackend."
        raise checkpoint.refused(what, None, help)


def _check_index(checkpoint: Checkpoint, index: dict[str, Any]) -> None:
    """Refuse an index of weights that names anything but safetensors files beside it."""
    files = index.get("weight_map")
    if not isinstance(files, dict) or not isinstance(index.get("metadata", {}), dict):
        raise checkpoint.refused(f'has an {INDEX} without a "weight_map" of names to files')
    for weight, file in files.items():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\]+\.safetensors", file):
            what = f'has "{weight}": {as_json(file)} in {INDEX}, which is no safetensors file of this folder'
            raise checkpoint.refused(what, None, f"Save the model again, as {WEIGHTS}.")


def is_whole(value: Any, low: int, high: int) -> bool:
    """Whether a value from JSON is a whole number, and no truth value, from `low` to `high`, both included."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _inside(place: str) -> bool:
    """Whether a path stays below the folder it is read from, on any system."""
    windows = PureWindowsPath(place)
    absolute = PurePosixPath(place).is_absolute() or bool(windows.drive or windows.root)
    return not absolute and ".." not in windows.parts and "://" not in place and not place.startswith("~")


def _walk(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each value in nested JSON, objects and lists included, with the key that it stands under; a list's have the list's key."""
    if key:
        yield key, values
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _walk(value, name)
    elif isinstance(values, list):
        for value in values:
            yield from _walk(value, key)
