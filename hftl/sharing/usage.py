"""How whoever reads a card uses the model and repeats the run: the names, the commands and the lines of Python in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.filters import do_mark_safe as safe

from hftl.facts import HUB
from hftl.files import read_json
from hftl.names import HEAD_AND_TAIL, NETWORKS, POOLED, WINDOWED
from hftl.recipe import LOCAL, Extra, ImageData, Pretrained, Recipe, TextData, Timm, WordVectors, local_name
from hftl.records.data import DataRecord
from hftl.run import RunDirectory


def local_places(recipe: Recipe, data: DataRecord) -> dict[str, str]:
    """What of a recipe lay on the machine that ran it: {dotted key: "local:NAME"}."""
    places = {}
    if data["format"] != "hub":
        places["data.source"] = recipe.data.source
    if isinstance(recipe.data, TextData) and recipe.data.unlabelled not in (None, local_name(recipe.data.unlabelled or "")):
        places["data.unlabelled"] = str(recipe.data.unlabelled)  # a name alone is that of a split, or tells no place
    if recipe.teacher is not None:
        places["teacher.run"] = recipe.teacher.run
    model = recipe.model
    if isinstance(model, Pretrained):
        is_architecture = isinstance(model, Timm) and not model.pretrained and "/" not in model.checkpoint
        if not data["model"]["revision"] and not is_architecture:
            places["model.checkpoint"] = model.checkpoint
    elif isinstance(model, WordVectors) and not model.vectors.startswith(HUB) and model.random_dim is None:
        places["model.vectors"] = model.vectors
    return {key: LOCAL + local_name(path) for key, path in places.items()}


def local_extra(recipe: Recipe, data: DataRecord) -> dict[str, str]:
    """What of the further rows for training lay there: {source: "local:NAME"}."""
    own = zip(recipe.data.extra, data.get("extra", []), strict=True)
    return {extra.source: LOCAL + local_name(extra.source) for extra, facts in own if facts["format"] != "hub"}


def use(recipe: Recipe, run: RunDirectory, repo_id: str | None) -> dict[str, Any]:
    """What the model is called, and what else the lines of code in the card ask for."""
    config = read_json(run.model / "config.json") if (run.model / "config.json").is_file() else {}
    own = NETWORKS.get(str(config.get("model_type")))
    windowed = config.get("model_type") == WINDOWED
    network = config.get("network") or {} if windowed else config
    pooled = network.get("model_type") == POOLED
    return {
        "model": repo_id or "RUN/model",
        "run": repo_id or "RUN",
        "repo_id": repo_id,
        "architecture_module": None if own is None else own.module,
        "pooling": network.get("pooling") if pooled else None,
        "windows": config if windowed else None,
        "levels": config.get("levels") if own is not None else None,
        "remote_code": own is not None and "auto_map" in config,  # a copy of its code lies beside the weights
        "task": "image-classification" if isinstance(recipe.data, ImageData) else "text-classification",
        "max_length": recipe.data.max_length if isinstance(recipe.data, TextData) else None,
        "make_text": safe(make_text(recipe.data)) if isinstance(recipe.data, TextData) and recipe.data.joins else None,
        "pair": isinstance(recipe.data, TextData) and recipe.data.pair,
        "tokens_of": safe(tokens_of(run.model))
        if isinstance(recipe.data, TextData) and recipe.data.truncate == "head+tail"
        else None,
        "tokenized": safe(tokenized(recipe.data)) if isinstance(recipe.data, TextData) else None,
        "example": safe(example(recipe.data)) if isinstance(recipe.data, TextData) else None,
        "columns": recipe.data.text_columns if isinstance(recipe.data, TextData) and recipe.data.joins else (),
        "timm_name": (f"hf-hub:{repo_id}" if repo_id else "local-dir:RUN/model") if recipe.in_timms_format else None,
        "read_picture": safe(reading_of(recipe.data, config)) if isinstance(recipe.data, ImageData) else None,
        "grey": is_grey(config),
        "bands": recipe.data.bands if isinstance(recipe.data, ImageData) else None,
    }


def tokens_of(model: Path) -> str:
    """Lines of Python for whoever has no hftl: a function that makes the tokens of a text, of which its two ends stay."""
    head, tail = (int(part) for part in read_json(model / "tokenizer_config.json")[HEAD_AND_TAIL])
    return f"""\
def tokens_of(text):
    ids = tokenizer(text, verbose=False)["input_ids"]
    return ids if len(ids) <= {head + tail} else ids[:{head}] + ids[-{tail}:]"""


def make_text(data: TextData) -> str:
    """Lines of Python for whoever has no hftl: a function that makes one text, or a pair, of a row, as training did."""
    if data.pair:
        first, second = (json.dumps(column, ensure_ascii=False) for column in data.text_columns)
        return f'def make_text(row):\n    return {{"text": row[{first}], "text_pair": row[{second}]}}'
    parts: list[str] = []
    for letters, column in data.pieces:
        parts += [json.dumps(letters, ensure_ascii=False)] if letters else []
        parts += [f"row[{json.dumps(column, ensure_ascii=False)}]"] if column is not None else []
    return f"def make_text(row):\n    return {' + '.join(parts)}"


def example(data: TextData) -> str:
    """What stands for a text in lines of Python."""
    if not data.joins:
        return '"Put a text here."'
    row = {column: f"Put the {column} here." for column in data.text_columns}
    return f"make_text({json.dumps(row, ensure_ascii=False)})"


def tokenized(data: TextData) -> str:
    """What of a list `texts` a tokenizer is given."""
    return "texts" if not data.pair else '[row["text"] for row in texts], [row["text_pair"] for row in texts]'


def is_grey(config: Mapping[str, Any]) -> bool:
    """Whether a model, by its config.json, reads pictures of one channel."""
    return bool(config.get("pretrained_cfg", {}).get("input_size", [3])[0] == 1)


def reading_of(data: ImageData, config: Mapping[str, Any]) -> str:
    """Lines of Python for whoever has no hftl: what reads a file as training did; of bands also what prepares it."""
    return read_bands(data.bands) if data.bands is not None else read_picture(data.background, grey=is_grey(config))


def read_bands(bands: int) -> str:
    """Lines of Python: `read_picture` gives the bands of a file, each as a picture of floats; `prepare` does with them what a
    transform of timm's does with a picture."""
    return f"""\
def read_picture(file):
    if file.endswith(".npy"):
        values = np.load(file)
    else:
        import tifffile  # for TIFF

        values = tifffile.imread(file)
    values = values if values.shape[-1] == {bands} else np.moveaxis(values, 0, -1)
    return [Image.fromarray(np.ascontiguousarray(values[..., band], dtype=np.float32)) for band in range({bands})]


def prepare(transform, bands):
    *geometry, to_tensor, normalise = transform.transforms
    for step in geometry:
        bands = [step(band) for band in bands]
    return normalise(torch.cat([to_tensor(band) for band in bands]))"""


def read_picture(background: Sequence[int], *, grey: bool = False) -> str:
    """Lines of Python for whoever has no hftl: a function that reads a picture's file as training did, for 8-bit RGB upright, or
    grey.

    The orientation by EXIF is carried out, what is transparent is laid on `background` (RGB, 0 to 255), and grey of more than 8
    bits is scaled.
    """
    return f"""\
def read_picture(file):
    picture = ImageOps.exif_transpose(Image.open(file))
    if picture.mode == "F" or picture.mode.startswith("I"):  # more than 8 bits a pixel: scaled, where Pillow would clip
        values = np.asarray(picture, dtype=np.float64)
        whites = [65535.0, 4294967295.0] if picture.mode != "F" else [1.0, 255.0, 65535.0, 4294967295.0]
        black, white = min(0.0, values.min()), next((white for white in whites if values.max() <= white), values.max())
        picture = Image.fromarray(np.rint((values - black) * (255.0 / (white - black))).astype(np.uint8))
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, {(*background, 255)})
        picture = Image.alpha_composite(canvas, picture.convert("RGBA"))
    return picture.convert("RGB"){'.convert("L")' if grey else ""}"""


def repeat(recipe: Recipe, data: DataRecord, repo_id: str | None) -> dict[str, str]:
    """The commands that repeat and check the run: what was local has to be named again, what came from the Hub is pinned."""
    places = local_places(recipe, data)
    local = "data.source" in places
    source = f"PATH/TO/{_shell_word(recipe.data.source)}" if local else _shell_word(recipe.data.source, whole=True)
    words = [f"hftl train hub:{repo_id}" if repo_id else "hftl train RUN/recipe.yaml"]
    read = {key: name for key, name in places.items() if key != "data.unlabelled"}  # by training
    named = {key: f"{key}=PATH/TO/{_shell_word(name)}" for key, name in read.items()}
    revisions = {"data": data["revision"], "model": data["model"]["revision"]}
    for section, pinned in revisions.items():
        here = [word for key, word in named.items() if key.startswith(section)]
        words += here or ([f"{section}.revision={_shell_word(pinned)}"] if pinned else [])
    if lost := local_extra(recipe, data):
        words.append(f"data.extra='[{', '.join(_extra(each, lost) for each in recipe.data.extra)}]'")
    words += [word for key, word in named.items() if key == "teacher.run"]
    of = repo_id or "RUN"
    return {
        "train": " \\\n    ".join(words),
        "verify": f"hftl verify {of}\nhftl verify {of} --data {source}",
    }


def _extra(extra: Extra, local: Mapping[str, str]) -> str:
    """A section of `data.extra` in one line of YAML, with a place to fill in where it was local."""
    given = {key: _shell_word(str(value), whole=True) for key, value in extra.model_dump(exclude_defaults=True).items()}
    given["source"] = f"PATH/TO/{_shell_word(extra.source)}" if extra.source in local else given["source"]
    return "{" + ", ".join(f"{key}: {value}" for key, value in given.items()) + "}"


def _shell_word(path: str, *, whole: bool = False) -> str:
    return re.sub(r"[^\w./:-]", "_", path if whole else local_name(path))
