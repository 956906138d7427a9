"""Where weights come from: a local folder, or a model on the Hub at one commit; and what is checked before a library reads them.

A checkpoint, a pulled model and even a saved run may have been written by anybody. So:

- hftl never runs code of a checkpoint. `trust_remote_code` is False in every call, nothing asks for permission, and there is no
  switch. Where config.json names code (`auto_map`), the library's own class is taken, or the checkpoint is refused.
- Weights are read from safetensors only, and only if config.json describes a model of about their size: nothing large is
  allocated on the word of a text file.
- No file outside the folder is opened: paths in its JSON files, symbolic links and adapters of other models are refused.
- No template of a tokenizer is rendered, and none is given a text that it would make a hundred times as long
  (`hftl.models.tokenizer_bounds`).

What a library raises over values that make no sense is turned into one message by `Understood`.
"""

from __future__ import annotations

import json
import math
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import psutil
from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HFValidationError,
    HTTPError,  # of the library that the client speaks HTTP with: httpx2, before 2.0 httpx
    RevisionResolutionError,
    StrictDataclassError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, though exported lazily
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils import logging
from transformers.utils.hub import cached_file

from hftl.errors import RecipeError, RunError, printable
from hftl.models import tokenizer_bounds
from hftl.recipe import Timm, Transformer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
# The files from which transformers takes the arguments of a tokenizer, the second after it has replaced the paths of the first.
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")
TOKENIZER = "tokenizer.json"
TEMPLATES = "additional_chat_templates"
"""The one folder inside a checkpoint that transformers opens."""

MOST_BYTES = 20_000_000
"""Of a JSON file: the 21,843 class names of ImageNet-22k are 1.5 MB. A tokenizer.json may be larger; it is not read here."""
MOST_LEVELS = 30
"""Of nesting in a JSON file; configurations inside configurations have about six."""
MOST_CLASSES = 100_000
MOST_LAYERS = 256
"""Layers that a config.json may ask for where the weights do not hold as many tensors; the deepest transformers have some 130."""
SPARE_PARAMETERS = 50_000_000
"""Parameters that a model may have beyond twice what its weights hold, for a new head: 200 MB."""

# Where a repeated part is counted: num_hidden_layers, n_layer, depths, num_hidden_groups, block_sizes, num_local_experts.
COUNTS = re.compile(r"(layers?|depths?|blocks|block_sizes|groups|group_num|experts|depth_multiplier)$")
# Ways to attend that need no further code; transformers would fetch another from the Hub, if it can ("owner/kernel").
ATTENTION = (None, "eager", "sdpa")

MALFORMED: tuple[type[Exception], ...] = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError, ImportError),
    *(StrictDataclassError, SafetensorError),
)
"""What json, torch, transformers, timm and safetensors raise over values in a file that make no sense: a size of "abc" or -1."""


@dataclass(frozen=True)
class Checkpoint:
    """A local folder, or a Hub id at a revision that was resolved once, so that all files come from one commit."""

    name: str
    """As `from_pretrained` takes it: the path of a folder, or a Hub id."""
    revision: str | None = None
    """Hash of a Hub commit; a branch or None where the Hub did not resolve it, and then no file of it will be found either."""

    @property
    def local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def base_model(self) -> str:
        """How a record names it: the Hub id, or the name of the folder without its path."""
        return Path(self.name).resolve().name if self.local else self.name

    @property
    def commit(self) -> str | None:
        """Hash of the Hub commit; None for a local folder."""
        return self.revision if re.fullmatch("[0-9a-f]{40}", self.revision or "") else None

    def file(self, name: str) -> Path:
        """Path of one of the checkpoint's files, fetched from the Hub into its cache when it is not there.

        Raises:
            RecipeError: there is no such file, or the Hub cannot be reached.
        """
        what = f"has no {name}" if self.local else f"is no folder here, and the Hub gave no {name} of it"
        found = self._find(name, what)
        if found is None:
            raise self.refused(what)
        return found

    def file_or_none(self, name: str) -> Path | None:
        """Path of a file that a checkpoint need not have.

        Raises:
            RecipeError: the Hub cannot be reached.
        """
        return self._find(name, "is no folder here, and the Hub did not answer", missing=False)

    def weights(self) -> list[Path]:
        """The safetensors files, in the order of their names; empty where there are none.

        Raises:
            RecipeError: a file of the index is not there, or the Hub cannot be reached.
        """
        whole = self.file_or_none(WEIGHTS)
        if whole is not None:
            return [whole]
        index = self.file_or_none(INDEX)
        if index is None:
            return []
        return [self.file(name) for name in sorted(set(_read_object(self, index)["weight_map"].values()))]

    def _find(self, name: str, what: str, *, missing: bool = True) -> Path | None:
        try:
            found = cached_file(self.name, name, revision=self.revision, _raise_exceptions_for_missing_entries=missing)
        except OSError as error:
            raise self.refused(what, error) from None
        return None if found is None else Path(found)

    def refused(self, what: str, reason: BaseException | None = None, *help: str) -> RecipeError:
        """The error that says what is wrong with this checkpoint; `reason` is what the library found, 300 characters of it."""
        found = f"not known: {reason}" if isinstance(reason, KeyError) else str(reason)
        lines = [*([] if reason is None else [textwrap.shorten(found, 300, placeholder=" ...")]), *help]
        if not self.local and is_offline_mode():
            lines.append("The Hub is switched off here (HF_HUB_OFFLINE): a Hub id must be in the cache, or write a local folder.")
        return refused(f'"{self.name}" {what}', *lines)


def refused(what: str, *help: str) -> RecipeError:
    """An error at `model.checkpoint`."""
    return RecipeError.single("model.checkpoint", printable(what), *map(printable, help), source="model")


def find_checkpoint(spec: Transformer | Timm) -> Checkpoint:
    """The folder or the Hub model that a recipe names. What a Hub id holds is seen when its first file is asked for.

    Raises:
        RecipeError: neither a folder nor a possible Hub id, or a revision of a local folder.
    """
    name = os.path.expanduser(spec.checkpoint)
    if Path(name).is_dir():
        if spec.revision is not None:
            what = f'"{spec.revision}": a local folder has no revisions; leave model.revision out'
            raise RecipeError.single("model.revision", what, source="model")
        return Checkpoint(name)
    if Path(name).is_file():
        raise refused(f'"{spec.checkpoint}" is a file; write the folder that holds it')
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise refused(
            f'no such folder: "{spec.checkpoint}"', "A checkpoint is a local folder, or a Hub id such as name/model."
        ) from None
    # The hash rather than "main": transformers offers to convert pickled weights of a branch, which hftl refuses.
    return Checkpoint(name, _commit_of(name, spec.revision))


def _commit_of(name: str, revision: str | None) -> str | None:
    """Hash of the commit that a branch or a tag of a Hub model stands for, None for its main one; by the cache without the Hub.

    Where it cannot be told `revision` comes back: what is wrong is said when the first file is asked for.
    """
    try:
        return HfApi().resolve_revision(name, revision=revision, local_files_only=is_offline_mode()).resolved
    except (HTTPError, OSError, RevisionResolutionError):
        return revision


# --- what somebody else wrote -----------------------------------------------------------------------------------------------------


def check_folder(checkpoint: Checkpoint) -> dict[str, Any]:
    """What config.json says, once nothing beside it leads out of the checkpoint or asks for code.

    To be called before any library reads a checkpoint, whoever wrote it. It reads the JSON files, the tokenizer's among them, and
    the names of the others; the weights are looked at by `check_size`.

    Raises:
        RecipeError: a file that is no JSON object or nested without end, a path or a link that leaves the folder, an adapter, a
            class of the checkpoint's own, classes that are not names in order, a count beyond reason, a tokenizer that makes a
            text a hundred times as long.
    """
    config_file = checkpoint.file(CONFIG)
    beside = [checkpoint.file_or_none(name) for name in (*TOKENIZER_FILES, INDEX, ADAPTER)]  # of the Hub, into the same folder
    _check_entries(checkpoint, config_file.parent)
    if beside[-1] is not None:
        base = _read_object(checkpoint, beside[-1]).get("base_model_name_or_path")
        what = f'is an adapter ({ADAPTER}) of another model, "base_model_name_or_path": {_shown(base)}'
        raise checkpoint.refused(what, None, "Merge it into its model (peft: merge_and_unload), save that, and name its folder.")
    config = _read_object(checkpoint, config_file)
    _check_config(checkpoint, config)
    of_tokenizer = {TOKENIZER: None}  # an ordered set
    for file in beside[: len(TOKENIZER_FILES)]:
        if file is not None:
            values = _read_object(checkpoint, file)
            _check_tokenizer(checkpoint, file.name, values)
            of_tokenizer |= dict.fromkeys(_named_tokenizers(values))
    for name in of_tokenizer:
        _check_growth(checkpoint, name)
    if beside[-2] is not None:
        _check_index(checkpoint, _read_object(checkpoint, beside[-2]))
    return config


def stored_sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    """How many tensors the weights hold, and how many numbers in them, by the headers of the files alone.

    Raises:
        RecipeError: a file that is not safetensors.
    """
    tensors = numbers = 0
    for file in checkpoint.weights():
        with Understood(checkpoint, f"has no weights that can be read in {file.name}"), safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it has no other way to iterate
                tensors += 1
                numbers += math.prod(opened.get_slice(name).get_shape())
    return tensors, numbers


def check_counts(checkpoint: Checkpoint, values: Any) -> None:
    """Refuse a number of layers, blocks or experts that no model has, before a loop is run so often.

    Raises:
        RecipeError: such a number is larger than 256 and than the number of tensors in the weights.
    """
    found = [(name, value) for name, value in _walk(values) if isinstance(value, int | float) and COUNTS.search(name)]
    if not any(value > MOST_LAYERS for _, value in found):
        return
    tensors, _ = stored_sizes(checkpoint)
    for name, value in found:
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


@dataclass(frozen=True)
class Understood:
    """Turns what a library raises over a checkpoint into `checkpoint.refused(what, ...)`: ``with Understood(checkpoint, what):``.

    To be put around a library's call alone, so that a mistake of ours keeps its traceback.

    Raises:
        RecipeError: the library could not make sense of the checkpoint.
    """

    checkpoint: Checkpoint
    what: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # The tokenizers library has no class of its own for what it finds in a tokenizer.json: it raises `Exception` itself, and
        # where its Rust panics a class that has no name in Python.
        if kind is not None and (issubclass(kind, MALFORMED) or kind is Exception or kind.__name__ == "PanicException"):
            raise self.checkpoint.refused(self.what, error) from None


class Written:
    """Turns what the tokenizers library raises over a full disk, `Exception` itself, into an `OSError`: ``with Written():``."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is Exception and (found := re.search(r"\(os error (\d+)\)", str(error))):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def _read_object(checkpoint: Checkpoint, file: Path) -> dict[str, Any]:
    """A JSON object from a file that somebody else wrote.

    Raises:
        RecipeError: it is too large, no JSON, no object, or nested too deeply.
    """
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise checkpoint.refused(f"has a {file.name} of {size:,} bytes; {MOST_BYTES:,} are more than one needs")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(found, ensure_ascii=False).encode()  # half of a character ("\\ud83d") could be written nowhere
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of 5,000 digits; brackets in brackets
        raise checkpoint.refused(f"has a {file.name} that is not JSON", error) from None
    if not isinstance(found, dict):
        raise checkpoint.refused(f"has a {file.name} that is no JSON object; it starts with {_shown(found)}")
    level, values = 0, list(found.values())
    while values:
        level += 1
        if level > MOST_LEVELS:
            raise checkpoint.refused(f"has a {file.name} with values nested deeper than {MOST_LEVELS} levels")
        nested = [value for value in values if isinstance(value, dict | list)]
        values = [inner for value in nested for inner in (value.values() if isinstance(value, dict) else value)]
    return found


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
    """Refuse what config.json may say that no classifier needs, and classes that are not names in order."""
    for key in ("model_type", "architecture"):
        if not isinstance(config.get(key), str | None):
            raise checkpoint.refused(f'has "{key}": {_shown(config[key])} in {CONFIG}; a name was expected')
    # transformers writes every other key onto the configuration, where these choose files, formats and kernels from the Hub.
    for key in ("transformers_weights", "quantization_config", "kernel_config", "fusion_config", "distributed_config"):
        if config.get(key) is not None:
            help = f"hftl reads plain float weights from {WEIGHTS}: save the model so, and leave the key out."
            raise checkpoint.refused(f'has "{key}": {_shown(config[key])} in {CONFIG}', None, help)
    for key, value in _walk(config):
        if key.endswith(("attn_implementation", "experts_implementation")) and value not in ATTENTION:
            help = "It names code that transformers may fetch from the Hub. Leave the key out."
            raise checkpoint.refused(f'has "{key}": {_shown(value)} in {CONFIG}', None, help)
    spread = config.get("initializer_range", 0.02)  # a new head is drawn with it
    if isinstance(spread, bool) or not isinstance(spread, int | float | None) or not 0 <= (spread or 0) <= 10:
        raise checkpoint.refused(f'has "initializer_range": {_shown(spread)} in {CONFIG}; 0.02 is usual')
    _check_tokenizer_class(checkpoint, CONFIG, config)
    check_counts(checkpoint, config)
    _check_classes(checkpoint, config)


def _check_classes(checkpoint: Checkpoint, config: dict[str, Any]) -> None:
    names = config.get("id2label")
    if names is not None:
        if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))}:
            what = f'has "id2label": {_shown(names)} in {CONFIG}'
            raise checkpoint.refused(what, None, 'Class names under "0", "1", "2" and so on were expected, none left out.')
        check_label_names(checkpoint, "id2label", list(names.values()))
    for key in ("num_labels", "num_classes"):
        number = config.get(key)
        if number is None:
            continue
        if not is_whole(number, 0, MOST_CLASSES):
            raise checkpoint.refused(f'has "{key}": {_shown(number)} in {CONFIG}; 0 to {MOST_CLASSES:,} classes can be read')
        if names is not None and number != len(names):
            raise checkpoint.refused(f'has "{key}": {number} in {CONFIG}, and {len(names)} names in "id2label"')


def check_label_names(checkpoint: Checkpoint, key: str, names: Any) -> None:
    """Refuse class names that are no list of texts.

    Raises:
        RecipeError: see above.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MOST_CLASSES:
        raise checkpoint.refused(f'has "{key}": {_shown(names)} in {CONFIG}; each class needs a name, which is a text')


def _check_tokenizer(checkpoint: Checkpoint, file: str, values: dict[str, Any]) -> None:
    """Refuse what the JSON file of a tokenizer may say that reaches out of the folder."""
    if values.get("auto_map") is not None:
        what = f'has a tokenizer with code of its own: "auto_map": {_shown(values["auto_map"])} in {file}'
        raise checkpoint.refused(what, None, "hftl runs no code of a checkpoint. Choose one whose tokenizer transformers knows.")
    if values.get("init_inputs"):
        what = f'has "init_inputs": {_shown(values["init_inputs"])} in {file}'
        raise checkpoint.refused(what, None, "They would be handed to the tokenizer as they are. Leave the key out.")
    for key, value in values.items():
        if not key.endswith(("_file", "_files")) or value is None:
            continue
        places = value if isinstance(value, list) else [value]
        if key == "gguf_file" or not all(isinstance(place, str) and _inside(place) for place in places):
            what = f'has "{key}": {_shown(value)} in {file}, which is not a file of this folder'
            raise checkpoint.refused(what, None, "Leave the key out: the files of a tokenizer are found by their usual names.")
    _check_tokenizer_class(checkpoint, file, values)
    longest = values.get("model_max_length")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int | float) or not longest >= 1):
        raise checkpoint.refused(f'has "model_max_length": {_shown(longest)} in {file}; a number of tokens was expected')


def _named_tokenizers(values: dict[str, Any]) -> list[str]:
    """The files that transformers may open in the place of tokenizer.json: of older formats, by the version of the library."""
    named = [values.get("tokenizer_file"), *(values.get("fast_tokenizer_files") or [])]
    return [name for name in named if isinstance(name, str)]


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
    found = tokenizer_class_from_name(name) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, PreTrainedTokenizerBase):
        what = f'has "tokenizer_class": {_shown(name)} in {file}, which is no tokenizer of transformers'
        help = "hftl runs no code of a checkpoint. With a tokenizer.json beside it, write TokenizersBackend."
        raise checkpoint.refused(what, None, help)


def _check_index(checkpoint: Checkpoint, index: dict[str, Any]) -> None:
    """Refuse an index of weights that names anything but safetensors files beside it."""
    files = index.get("weight_map")
    if not isinstance(files, dict) or not isinstance(index.get("metadata", {}), dict):
        raise checkpoint.refused(f'has an {INDEX} without a "weight_map" of names to files')
    for weight, file in files.items():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\]+\.safetensors", file):
            what = f'has "{weight}": {_shown(file)} in {INDEX}, which is no safetensors file of this folder'
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


def _shown(value: Any) -> str:
    """A value as JSON, 100 characters of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:96]} ..."


def run_error(folder: Path, error: RecipeError) -> RunError:
    """What is wrong with a saved or pulled model's folder, where no recipe is to blame."""
    lines = [line for problem in error.problems for line in (problem.what.removeprefix(f'"{folder}" '), *problem.help)]
    return RunError(f"{folder}: " + "\n      ".join(lines))


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' load report and bars, by its own switches; downloads from the Hub keep theirs.

    What the report says is checked or recorded by whoever loads.
    """

    def without_bar(make: Any, args: Any, keywords: Any) -> Any:
        return make(*args, **{**keywords, "disable": True})

    verbosity, hook = logging.get_verbosity(), logging.set_tqdm_hook(without_bar)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)
