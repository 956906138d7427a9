"""What the files of a published run may hold, whoever wrote them: hftl's own code and no other, places of no other model, pictures.

`hftl verify` says that a repository can be used as its card shows, and the card's lines are run by libraries that do as the files
say: transformers imports the code that config.json names, where it is allowed to; it follows an adapter to another model, and loads
kernels from elsewhere. So a file is held against what hftl writes, and what it never writes is named. Nothing here needs a model.

References: https://www.w3.org/TR/png-3/ (chunks of a picture); https://github.com/huggingface/safetensors (its header).
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hftl.errors import RunError
from hftl.names import CODE_SETTINGS, NETWORKS, WEIGHT_PLACES

CODE: Mapping[str, Path] = {
    f"{network.code}.py": Path(__file__).parent.parent / "models" / f"{network.code}.py" for network in NETWORKS.values()
}
"""The modelling files that lie beside the weights of hftl's own networks, by their names."""
KNOWN_CODE: Mapping[str, frozenset[str]] = {
    name: frozenset({hashlib.sha256(path.read_bytes()).hexdigest()}) for name, path in CODE.items()
}
"""SHA-256 of every version of them that hftl has released; so far there is one, its own."""
# What `auto_map` of such a model says, by its `model_type`; every other model has none.
_AUTO_MAP = {
    model_type: {
        "AutoConfig": f"{network.code}.{network.config}",
        f"AutoModelFor{network.model.rpartition('For')[2]}": f"{network.code}.{network.model}",
    }
    for model_type, network in NETWORKS.items()
}
SETTINGS = (
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json"),
)
"""The files of a model whose keys its libraries act on. In tokenizer.json and vocab.json the keys are words."""
INDEX = "model.safetensors.index.json"
_NAMES = {"id2label", "label2id", "label_names", "added_tokens_decoder"}  # what is in them are class names and tokens
_ELSEWHERE = {
    *("quantization_config", "fusion_config", "distributed_config", "transformers_weights", "gguf_file", "init_inputs"),
    *("base_model_name_or_path", "peft_type", "adapters", "backbone", "use_pretrained_backbone", "use_timm_backbone"),
    # timm's: where weights are loaded from, and arguments of its machinery rather than of a network.
    *(*WEIGHT_PLACES, "pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg_overlay", "pretrained_strict"),
}
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
MOST_SETTINGS = 20_000_000
"""Bytes of such a file: the 21,843 class names of ImageNet-22k are 1.5 MB."""
MOST_HEADER = 100_000_000
"""Bytes of the header of a weights file, as the library that reads it has it."""
# Endings of what people put beside a model for people, and no library loads; every other file is one that a library may.
DOCUMENTS = (".md", ".txt", ".rst", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".pdf", ".csv", ".tsv", ".cff", ".bib")
_PLAIN = {".gitattributes", ".gitignore", "LICENSE", "LICENCE", "NOTICE", "CITATION"}

MOST_PIXELS = 2_000
"""Pixels of a side of a figure; the largest that hftl draws is 1,320."""
MOST_PICTURE = 10_000_000
"""Bytes of a figure."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
DRAWN_BY = re.compile(rb"Software\0(hftl [\w.+-]+, matplotlib [\w.+-]+, \w+ \w+)")
"""The one note in a figure: what it was drawn by."""


def foreign(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What the files of a model or a publication hold that hftl never writes: (file, what), nothing where all is well.

    `names` are paths below `folder`; those of weights, settings, code and figures are looked at.
    """
    names = list(names)
    for name in names:
        path, file = folder / name, name.rpartition("/")[2]
        if file in CODE:
            if hashlib.sha256(path.read_bytes()).hexdigest() not in KNOWN_CODE[file]:
                yield name, "other code than hftl's own: read it before it runs"
        elif file in SETTINGS:
            yield from ((name, what) for what in _foreign_settings(file, path, names))
        elif file == INDEX:
            yield from ((name, what) for what in _foreign_index(path, names))
        elif name.endswith(".safetensors"):
            yield from ((name, what) for what in _damaged_weights(path))
        elif name.endswith(".png"):
            yield from ((name, what) for what in _no_figure(path))


def is_document(name: str) -> bool:
    """Whether a file that hftl did not write is one for people, or the model in another form, which no line of a card loads."""
    return name.startswith("onnx/") or PurePosixPath(name).name in _PLAIN or PurePosixPath(name).suffix.lower() in DOCUMENTS


# --- settings and code --------------------------------------------------------------------------------------------------------


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object in one of the `SETTINGS` of a model.

    Raises:
        RunError: the file is too large, or holds no JSON object.
    """
    # Not `hftl.files.read_json`, which limits what hftl writes itself: those of a model are nested deeper.
    if path.stat().st_size > MOST_SETTINGS:
        raise RunError(f"{path}: larger than {MOST_SETTINGS // 10**6} MB, which such a file never is")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise RunError(f"{path}: not a JSON object but {type(settings).__name__}")
    return settings


def _foreign_settings(file: str, path: Path, names: Iterable[str]) -> Iterator[str]:
    values = read_settings(path)
    code = {name.rpartition("/")[2] for name in names} & CODE.keys()
    model_type = str(values.get("model_type"))
    needed = f"{NETWORKS[model_type].code}.py" if file == "config.json" and model_type in NETWORKS else None
    own = _AUTO_MAP[model_type] if needed in code else None
    for keys, value in _entries({key: value for key, value in values.items() if key != "auto_map" or value != own}):
        where, last = ".".join(keys), keys[-1]
        if last in CODE_SETTINGS and value not in (None, False, {}, []):
            yield f"{where} names code that hftl did not write: {_shown(value)}"
        elif last in _ELSEWHERE and value not in (None, False, {}, [], ""):
            yield f"{where} leads to something that is not in this model: {_shown(value)}"
        elif last == "architecture" and not (isinstance(value, str) and re.fullmatch(r"\w+(\.\w+)?", value)):
            yield f"{where} is no network of timm, but leads to {_shown(value)}"
        elif last.endswith(_IMPLEMENTATIONS) and value not in (None, "eager", "sdpa"):
            yield f"{where} names code that may be fetched from elsewhere: {_shown(value)}"
        elif last.endswith(("_file", "_files")) and not all(map(_is_beside, value if isinstance(value, list) else [value])):
            yield f"{where} is no file of this model: {_shown(value)}"
    if file == "config.json":
        for superfluous in sorted(code - {needed}):
            yield f"model_type is {_shown(values.get('model_type'))}, which needs no {superfluous}"


def _entries(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every entry of a JSON object, those inside others too: (keys, value). Class names and tokens are no keys."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield (*keys, key), inner
            if key not in _NAMES:
                yield from _entries(inner, (*keys, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, keys)


def _is_beside(place: Any) -> bool:
    """Whether a value is nothing, or the name of a file in the same folder, on any system."""
    return place is None or (isinstance(place, str) and place == PureWindowsPath(place).name and place not in {"..", "."})


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:96]} ..."


# --- weights ------------------------------------------------------------------------------------------------------------------


def _foreign_index(path: Path, names: Iterable[str]) -> Iterator[str]:
    files = read_settings(path).get("weight_map")
    names_there = {name.rpartition("/")[2] for name in names}
    if not isinstance(files, Mapping) or not all(isinstance(file, str) and file in names_there for file in files.values()):
        yield 'its "weight_map" names files that are not beside it'


def _damaged_weights(path: Path) -> Iterator[str]:
    """safetensors: 8 bytes with the length of the header, a JSON header with the place of each tensor, the tensors; no more."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if 2 <= length <= min(MOST_HEADER, size - 8) else b""
    try:
        entries = {name: entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"}
        ends = sorted((int(begin), int(end)) for begin, end in entries.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        yield "not a safetensors file"
        return
    place = 0
    for begin, end in ends:
        if begin != place or end < begin:
            break
        place = end
    if place != size - 8 - length:
        yield "a safetensors file with bytes that belong to no tensor"


# --- figures ------------------------------------------------------------------------------------------------------------------


def drawing_note(path: Path) -> str | None:
    """What a figure says that it was drawn by, such as "hftl 0.1.0, matplotlib 3.10.7, Linux x86_64"; None: it does not say."""
    match = DRAWN_BY.search(path.read_bytes()[:1000])
    return None if match is None else match[1].decode()


def _no_figure(path: Path) -> Iterator[str]:
    """A PNG as matplotlib writes it: pixels of 4 x 8 bits, their density, what drew them; nothing besides, and nothing after."""
    size = path.stat().st_size
    if size > MOST_PICTURE:
        yield f"a picture of {size:,} bytes; a figure never has more than {MOST_PICTURE // 10**6} MB"
        return
    content = path.read_bytes()
    if not content.startswith(_SIGNATURE):
        yield "not a PNG picture"
        return
    place, seen, packed, width, height = len(_SIGNATURE), list[bytes](), b"", 0, 0
    while place < len(content) and seen[-1:] != [b"IEND"]:
        head, body = content[place : place + 8], b""
        if len(head) == 8:
            length, kind = struct.unpack(">I4s", head)
            body = content[place + 8 : place + 8 + length]
        if len(head) < 8 or content[place + 8 + length : place + 12 + length] != struct.pack(">I", zlib.crc32(kind + body)):
            yield "a damaged PNG picture"
            return
        if kind not in {b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tEXt"} or (kind == b"tEXt" and not DRAWN_BY.fullmatch(body)):
            yield f"a PNG picture with more in it than a figure has: {kind.decode('ascii', 'replace')}"
            return
        if kind == b"IHDR" and len(body) == 13:
            width, height, *form = struct.unpack(">IIBBBBB", body)
            if not (0 < width <= MOST_PIXELS and 0 < height <= MOST_PIXELS) or form != [8, 6, 0, 0, 0]:
                yield f"a PNG picture of {width:,} x {height:,} pixels in another form than a figure's"
                return
        packed += body if kind == b"IDAT" else b""
        seen.append(kind)
        place += 12 + length
    if place != len(content) or seen[:1] != [b"IHDR"] or seen[-1:] != [b"IEND"] or seen.count(b"IHDR") > 1 or not width:
        yield "a PNG picture with bytes before or after it"
        return
    unpacked, expected = zlib.decompressobj(), height * (1 + 4 * width)
    try:
        pixels = unpacked.decompress(packed, expected + 1)
    except zlib.error:
        pixels = b""
    if len(pixels) != expected or not unpacked.eof or unpacked.unused_data:
        yield "a PNG picture whose pixels are not whole, or more than a picture"
