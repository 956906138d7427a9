"""Bombs: small files that ask for much. Each is refused by what it says of itself, before there is memory behind it."""

from __future__ import annotations

import base64
import gzip
import json
import os
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import transformers
from conftest import Hftl
from PIL import Image
from small_models import recipes_refusal, refusal
from tokenizers import Tokenizer

from hftl.data.decoding import BadImage, inspect
from hftl.data.reading import open_source
from hftl.errors import DataError, HftlError, RecipeError
from hftl.inference import Predictor
from hftl.models import glove, vectors
from hftl.models.checkpoint import Checkpoint
from hftl.models.foreign import check_folder
from hftl.models.tokenizer_bounds import Unbounded, check_loaded, check_tokenizer, read_tokenizer
from hftl.models.vectors import read_vectors
from hftl.recipe import BiLSTM, RunSettings, TextCNN, TextData


@contextmanager
def no_more_memory_than(megabytes: int) -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    assert grown < megabytes, f"{grown:.0f} MB"


# --- word vectors -----------------------------------------------------------------------------------------------------------------


def one_line(write: Callable[[bytes], object]) -> None:
    """400 MB of numbers and no line break."""
    write(b"word")
    for _ in range(400):
        write(b" 7" * 500_000)


def one_line_in_a_zip(folder: Path) -> str:
    with (
        zipfile.ZipFile(folder / "v.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("v.txt", "w", force_zip64=True) as member,
    ):
        one_line(member.write)
    return f"{folder}/v.zip:v.txt"


def one_line_in_gzip(folder: Path) -> str:
    with gzip.open(folder / "v.gz", "wb", compresslevel=1) as stream:
        one_line(stream.write)
    return f"{folder}/v.gz"


def one_line_as_it_is(folder: Path) -> str:
    with (folder / "v.txt").open("wb") as stream:
        stream.truncate(400_000_000)  # a file of holes: zeros, and no line break either
    return f"{folder}/v.txt"


@pytest.mark.parametrize("write", [one_line_in_a_zip, one_line_in_gzip, one_line_as_it_is])
def test_a_line_of_word_vectors_is_not_read_to_an_end_that_never_comes(write: Callable[[Path], str], tmp_path: Path) -> None:
    path = write(tmp_path)
    with (
        no_more_memory_than(100),
        pytest.raises(RecipeError, match=r"line 1: longer than 200,000 bytes, so no word|a binary file"),
    ):
        read_vectors(path, {"word"})


@pytest.mark.parametrize("packed", ["zip", "gz"])
def test_an_archive_of_vectors_is_read_to_a_hundred_times_its_size(
    packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_ALWAYS_READ", 10_000)
    content, path = b"the 0 0 0 0\n" * 400_000, str(tmp_path / f"v.{packed}")  # 4.8 MB, of which 300 times less stay
    if packed == "gz":
        Path(path).write_bytes(gzip.compress(content))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("v.txt", content)
    with pytest.raises(RecipeError, match=r"more than 100 times as large as its [\d,]+ compressed bytes, which no vectors are"):
        read_vectors(path, {"film"})


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_are_inflated_without_a_bound_are_refused_with_the_way_out(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "v.zip", "w", method) as file:
        file.writestr("v.txt", b"0" * 10_000_000)
    with no_more_memory_than(50), pytest.raises(RecipeError, match=rf"compressed by method {method}; .*\n.*unpack it"):
        read_vectors(f"{tmp_path}/v.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1000000000000 3\na 1 2 3\n", "the header says 1,000,000,000,000 words, the file has 1"),
        (b"1 1000000000000\na 1 2 3\n", "line 1: vectors of 1,000,000,000,000 dimensions; at most 4,096 can be read"),
        (b"1 " + b"9" * 5_000 + b"\na 1\n", "cannot be read: Exceeds the limit"),
        (b"a" + b" 1" * 5_000 + b"\n", "line 1: vectors of 5,000 dimensions"),
    ],
    ids=["rows", "dimensions", "digits", "numbers"],
)
def test_what_a_file_of_vectors_promises_is_not_believed(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_bytes(content)
    with no_more_memory_than(50), pytest.raises(RecipeError, match=message):
        read_vectors(f"{tmp_path}/v.txt")


@pytest.mark.parametrize(
    "spec",
    [
        {"family": "textcnn", "channels": 10**9},
        {"family": "textcnn", "kernel_widths": (10**10,)},
        {"family": "textcnn", "trainable_dim": 10**11},
        {"family": "bilstm", "hidden_size": 10**6, "layers": 50},
    ],
    ids=str,
)
def test_a_network_larger_than_the_memory_is_refused_by_its_arithmetic(spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("the 1 2\nfilm 3 4\n")
    make = {"textcnn": TextCNN, "bilstm": BiLSTM}[spec["family"]]
    with no_more_memory_than(50), pytest.raises(RecipeError, match=r"model: has [\d,]+ parameters: [\d,]+ GB of float32"):
        glove.build(make(vectors=f"{tmp_path}/v.txt", **spec), ["no", "yes"], texts=["the film"])


def test_numbers_of_layers_kernels_and_workers_that_nobody_has_are_refused_by_the_recipe() -> None:
    for make in (lambda: BiLSTM(vectors="v.txt", layers=10**7), lambda: TextCNN(vectors="v.txt", kernel_widths=(3,) * 65)):
        with pytest.raises(RecipeError, match=r"input should be less than or equal to 256|at most 64 items"):
            make()
    with pytest.raises(RecipeError, match="workers: input should be less than or equal to 256"):
        RunSettings(workers=100_000)


# --- tokenizers -------------------------------------------------------------------------------------------------------------------


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*members: dict[str, Any], part: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", part: list(members)}


def precompiled(longest: str) -> dict[str, Any]:
    """SentencePiece's map: a length, a tree of so many bytes, texts."""
    content = struct.pack("<I", 8) + bytes(8) + f"a\0{longest}\0".encode()
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
TEXT, CLS = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<pad>", "type_id": 0}}


def template(*single: dict[str, Any], ids: int = 1) -> dict[str, Any]:
    known = {"<pad>": {"id": "<pad>", "ids": [0] * ids, "tokens": ["<pad>"] * ids}}
    return {"type": "TemplateProcessing", "single": list(single), "pair": [*single], "special_tokens": known}


LONGER = "makes more than 100 letters of one"
BOMBS: dict[str, tuple[dict[str, Any], str]] = {
    # 40 x 40 letters of one
    "replaced twice": ({"normalizer": sequence(replace({"String": "o"}, "o" * 40), replace({"String": "o"}, "o" * 40))}, LONGER),
    "by a pattern": ({"normalizer": sequence(*[replace({"Regex": "[a-z]"}, "film")] * 8)}, LONGER),  # 4 ** 8
    "between letters": ({"normalizer": sequence(*[replace({"Regex": "q*"}, "x")] * 40)}, LONGER),  # 2 ** 40
    "as if it were another": (
        {"normalizer": {**sequence(replace({"String": "a"}, "a" * 999)), "type": "Evil"}},
        'a component "Evil"',
    ),
    "sequences in sequences": ({"normalizer": sequence(sequence(sequence(replace({"String": "e"}, "e" * 101))))}, LONGER),
    "a ligature": ({"normalizer": replace({"String": "a"}, "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 9)}, LONGER),
    "put before": ({"normalizer": sequence(*[{"type": "Prepend", "prepend": "abcdefghi"}] * 3)}, LONGER),  # 10 ** 3
    "a precompiled map": ({"normalizer": precompiled("z" * 1_000)}, LONGER),
    "bytes as letters": ({"pre_tokenizer": sequence(*[BYTES] * 30, part="pretokenizers")}, LONGER),
    "spaces": ({"pre_tokenizer": sequence(*[METASPACE] * 30, part="pretokenizers")}, LONGER),
    "a text twice": ({"post_processor": template(CLS, TEXT, TEXT)}, 'puts 2 texts into "single"'),
    "many marks": ({"post_processor": template(CLS, TEXT, ids=10**5)}, "puts 100,000 special tokens around a text"),
    "marks in a row": ({"post_processor": template(*[CLS] * 101, TEXT)}, "puts 101 special tokens around a text"),
    "padding": ({"padding": {"strategy": {"Fixed": 10**12}}}, "its padding asks for 1,000,000,000,000 tokens"),
    "decoding": ({"decoder": sequence(replace({"String": "a"}, "a" * 999), part="decoders")}, LONGER),
    "an expression": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a" * 10_001}}},
        "expression of 10,001 letters",
    ),
    "ways of one another": (
        {"normalizer": sequence(replace({"String": "%"}, "A" * 20), replace({"String": "a"}, "b" * 20))},
        LONGER,
    ),
    "added tokens": ({"added_tokens": [{"id": 9, "content": "ab" * 10**6}]}, "1 added tokens have 2,000,000 letters"),
}


@pytest.mark.parametrize(("values", "message"), BOMBS.values(), ids=BOMBS)
def test_a_tokenizer_that_makes_much_of_little_is_refused_at_every_door(
    saved: dict[str, Path], values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, **values}))
    with no_more_memory_than(100):
        said = refusal(folder)  # predict, evaluate, verify --data
        assert "has no tokenizer that can be read" in said
        assert message in said
        assert "has no tokenizer that can be read" in recipes_refusal(folder)  # plan, train
        with pytest.raises(RecipeError, match="has no tokenizer that can be read"):
            check_folder(Checkpoint(str(folder)), new_head=False)  # what push serves


def test_a_tokenizer_under_another_name_is_looked_at_too(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.1.0.0.json").write_text(json.dumps({**tokenizer, "normalizer": replace({"String": "a"}, "a" * 999)}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "fast_tokenizer_files": ["tokenizer.1.0.0.json"]}))
    assert LONGER in refusal(folder)


def test_a_key_that_is_there_twice_is_refused_since_the_library_may_read_the_other() -> None:
    with pytest.raises(Unbounded, match="a key is there twice"):
        read_tokenizer(b'{"normalizer": null, "normalizer": {"type": "NFC"}, "model": {}}')


def test_a_tokenizer_that_was_made_of_another_file_is_looked_at_before_its_first_text() -> None:
    described = json.loads(glove.make_tokenizer(["film"]).backend_tokenizer.to_str())
    check_loaded(Tokenizer.from_str(json.dumps(described)))
    bomb = {**described, "normalizer": sequence(replace({"String": "z"}, "z" * 500), replace({"String": "z"}, "z" * 500))}
    with pytest.raises(Unbounded, match=LONGER):
        check_loaded(Tokenizer.from_str(json.dumps(bomb)))


def test_the_tokenizers_that_people_train_are_far_below_the_bound() -> None:
    ours = glove.make_tokenizer(["film"])
    check_loaded(ours.backend_tokenizer)
    read_tokenizer(ours.backend_tokenizer.to_str().encode())
    names = ["Albert", "Bert", "CLIP", "DebertaV2", "GPT2", "Llama", "Qwen2", "Roberta", "T5", "XLMRoberta", "XLNet"]
    for name in names:
        check_loaded(getattr(transformers, f"{name}Tokenizer")().backend_tokenizer)
    # XLM-RoBERTa's and T5's: the longest replacement of NFKC is a ligature of 18 letters. 18 x 2 x 2 = 72.
    check_tokenizer(
        {
            "normalizer": sequence({"type": "Prepend", "prepend": "▁"}, precompiled("x" * 18), replace({"Regex": " {2,}"}, "▁")),
            "pre_tokenizer": sequence({"type": "WhitespaceSplit"}, METASPACE, part="pretokenizers"),
        }
    )


@pytest.mark.parametrize(
    "replacements",
    [
        [({"Regex": r"https?://\S+"}, "[URL]"), ({"Regex": r"@\w+"}, "@USER"), ({"Regex": r"\p{N}"}, "[NUM]")],
        [({"String": "&"}, "[AMP_ENTITY]"), ({"String": "%"}, "[PERCENT_SIGN]"), ({"String": "€"}, "[EURO]")],
        [({"String": "\N{GRINNING FACE}"}, ":grinning_face:"), ({"String": "\N{FIRE}"}, ":fire_on_fire:")] * 2,
    ],
)
def test_replacements_that_cannot_meet_do_not_multiply(replacements: list[tuple[dict[str, str], str]]) -> None:
    check_tokenizer({"normalizer": sequence(*(replace(pattern, content) for pattern, content in replacements))})


def test_an_expression_that_takes_for_ever_is_an_error_of_seconds(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    evil = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "pre_tokenizer": evil}))
    with pytest.raises(HftlError, match="its tokenizer cannot read the texts"):
        Predictor(folder).predict(["a" * 60 + "!"])


# --- files that are none ----------------------------------------------------------------------------------------------------------


def test_a_pipe_or_a_device_is_no_file_of_vectors_pictures_or_tables(tmp_path: Path, hftl: Hftl) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(RecipeError, match="not a file"):
        read_vectors(f"{tmp_path}/pipe.txt")
    with pytest.raises(RecipeError, match="not a file"):
        read_vectors("/dev/zero")
    with pytest.raises(BadImage, match="not a file"):
        inspect("/dev/zero")
    tables = tmp_path / "tables"
    tables.mkdir()
    os.mkfifo(tables / "train.csv")
    with pytest.raises(DataError, match=r"train\.csv: neither a file nor a folder, but a device, a pipe or a socket"):
        open_source(TextData(source=str(tables)))
    photos = tmp_path / "photos" / "train"
    for name in ("cat", "dog"):
        (photos / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), {"cat": "red", "dog": "blue"}[name]).save(photos / name / "1.jpg")
    os.mkfifo(photos / "dog" / "2.jpg")
    code, _, said = hftl("audit", recipe_of(photos.parent, tmp_path))
    assert code == 2
    assert "2.jpg: neither a file nor a folder" in said
    assert "Traceback" not in said


def recipe_of(photos: Path, folder: Path) -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: odd\ndata: {{kind: image, source: {photos}}}\nmodel: {{family: timm, checkpoint: test_resnet, pretrained: false}}\n"
        "stages: {all: {lr: 0.001}}\n"
    )
    return recipe
