"""Bad input and what hftl does about it: a test for each case of docs/reliability.md, named after its number.

Most of them go through the command line on small real files: the exit code, what the message says (where, what was found, the way
out), and that nothing was written. The cases 31 to 35 and 37, which need real kills, are in tests/test_kills.py.
"""

from __future__ import annotations

import ast
import csv
import itertools
import json
import os
import pickle
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import REPOSITORY, Hftl
from datasets import ClassLabel, Features, Value
from hub_server import WRITE_TOKEN, LocalHub
from PIL import Image
from run_factory import make_run
from safetensors.torch import load_file
from small import BERT_NANO, Bomb, noise, rewrite, write_csv, write_pictures, write_recipe
from transformers import AutoTokenizer, pipeline

from hftl.cli import main
from hftl.data.source import load_splits
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json
from hftl.recipe import BiLSTM, ImageData, Recipe, RunSettings, Stage, TextCNN, TextData, Timm, Transformer, override
from hftl.run import RunDirectory
from hftl.sharing.hub import _send, check_target
from hftl.sharing.publication import prepare

TABLE = REPOSITORY / "docs" / "reliability.md"
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"  # of the right form, and of nobody
BLUE = (0, 0, 255)
SIDE = 24


# --- recipes and files ----------------------------------------------------------------------------------------------------------


def text_recipe(source: Path, **data: Any) -> Recipe:
    return Recipe(
        name="faults",
        data=TextData(source=str(source), **{"max_length": 48, "validation_fraction": 0.25, **data}),
        model=Transformer(checkpoint=BERT_NANO),
        stages={"head": Stage(unfreeze="head", lr=1e-3), "all": Stage(lr=1e-4)},
        run=RunSettings(batch_size=8, precision="fp32"),
    )


def glove_recipe(source: Path, vectors: Path, *, model: type[TextCNN] | type[BiLSTM] = TextCNN) -> Recipe:
    sizes: dict[str, Any] = {"channels": 4} if model is TextCNN else {"hidden_size": 4, "layers": 1}
    return Recipe(
        name="words",
        data=TextData(source=str(source), max_length=48, validation_fraction=0.25),
        model=model(vectors=str(vectors), min_count=1, **sizes),
        stages={"all": Stage(lr=1e-2)},
        run=RunSettings(batch_size=8, precision="fp32"),
    )


def picture_recipe(source: Path, **data: Any) -> Recipe:
    return Recipe(
        name="pictures",
        data=ImageData(source=str(source), image_size=32, **{"validation_fraction": 0.25, **data}),
        model=Timm(checkpoint="test_resnet", pretrained=False),
        stages={"all": Stage(lr=1e-3)},
        run=RunSettings(batch_size=8, precision="fp32"),
    )


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def promising_png(width: int, height: int) -> bytes:
    """A PNG that promises any size in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def truncated_jpeg(seed: int) -> bytes:
    """A JPEG without its last part, which OpenCV decodes without a word."""
    ok, encoded = cv2.imencode(".jpg", np.asarray(noise(seed, 200, 200)))
    assert ok
    content: bytes = encoded.tobytes()
    return content[: len(content) * 2 // 3]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def everything(folder: Path) -> dict[str, bytes | None]:
    """Each path below a folder, with the content where it is a file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


Refused = Callable[..., str]


@pytest.fixture
def refused(hftl: Hftl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """What `hftl train` says when it refuses a recipe: exit code 2, one message, and not a byte was written."""

    def run(recipe: Recipe, *overrides: str) -> str:
        path = write_recipe(recipe, tmp_path)
        before = everything(tmp_path)
        monkeypatch.chdir(tmp_path)
        outcome = hftl("train", path, *overrides)
        assert outcome.code == 2, outcome.err
        assert outcome.out == "" and "Traceback" not in outcome.err
        assert everything(tmp_path) == before
        return outcome.err

    return run


@pytest.fixture
def refused_data(refused: Refused, hftl: Hftl, tmp_path: Path) -> Refused:
    """The same for data that cannot be used: `hftl audit` finds all of it too, and says it to programs."""

    def run(recipe: Recipe, *overrides: str) -> str:
        message = refused(recipe, *overrides)
        assert message.startswith("DataError: ")
        before = everything(tmp_path)
        audited = hftl("audit", tmp_path / "recipe.yaml", *overrides)
        assert audited.code == 2 and audited.err == message
        problems = json.loads(hftl("audit", tmp_path / "recipe.yaml", *overrides, "--json").out)["problems"]
        assert problems and all(f"{problem['where']}: {problem['what']}" in message for problem in problems)
        assert everything(tmp_path) == before
        return message

    return run


def trained(recipe: Recipe, folder: Path) -> RunDirectory:
    """A run by the command line."""
    with pytest.raises(SystemExit) as exited:
        main(argv=["train", str(write_recipe(recipe, folder)), "--run-dir", str(folder / "run")])
    assert exited.value.code == 0
    return RunDirectory(folder / "run")


def audit_of(hftl: Hftl, recipe: Recipe, folder: Path, *overrides: str) -> dict[str, Any]:
    outcome = hftl("audit", write_recipe(recipe, folder), *overrides, "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def predicted(hftl: Hftl, model: Path, inputs: Sequence[object], output: Path) -> list[dict[str, Any]]:
    """What `hftl predict` writes about each input."""
    output.unlink(missing_ok=True)
    outcome = hftl("predict", model, *inputs, "--output", output)
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n") if line]  # it may hold U+2028


def probabilities(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.array([[value for key, value in row.items() if key.startswith("p(")] for row in rows])


def by_id(run: RunDirectory, split: str) -> dict[str, np.ndarray]:
    stored = Predictions.load(run.predictions(split))
    return dict(zip(stored.ids, stored.probabilities, strict=True))


def hand_in(hftl: Hftl, model: Path, *inputs: object) -> str:
    """What `hftl predict` says when it refuses its inputs."""
    outcome = hftl("predict", model, *inputs)
    assert outcome.code == 2, outcome.err
    assert outcome.out == "" and "Traceback" not in outcome.err
    return outcome.err


# --- pictures -------------------------------------------------------------------------------------------------------------------

ODD = ("alpha", "animated", "bit", "cmyk", "deep", "exif", "exif_jpeg", "float", "grey", "palette", "pixel", "ribbon")
"""Pictures that are read, by case 4 to 7, 9 and 10; with the twins of some of them as plain 8-bit RGB."""


def write_odd_pictures(folder: Path) -> None:
    noise(1001).convert("CMYK").save(folder / "cmyk.jpg")
    noise(1002).quantize(16).save(folder / "palette.png")
    noise(1003).convert("L").save(folder / "grey.png")
    noise(1004).convert("1").save(folder / "bit.png")

    grey = np.asarray(noise(1005).convert("L"))  # 65,535 / 255 = 257 steps of 16 bits to one of 8
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray((grey / 255).astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(grey).convert("RGB").save(folder / "deep_twin.png")
    Image.new("RGB", (SIDE, SIDE), (255, 255, 255)).save(folder / "clipped.png")

    alpha = np.zeros((SIDE, SIDE, 4), dtype=np.uint8)  # black all over; its left half is opaque, the rest transparent
    alpha[:, : SIDE // 2, 3] = 255
    Image.fromarray(alpha).save(folder / "alpha.png")
    composed = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    composed[:, SIDE // 2 :] = BLUE
    Image.fromarray(composed).save(folder / "alpha_twin.png")

    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    noise(1006, 30, 20).save(folder / "exif.png", exif=exif)
    Image.fromarray(np.rot90(np.asarray(noise(1006, 30, 20)), k=-1).copy()).save(folder / "exif_twin.png")
    noise(1007, 30, 20).save(folder / "exif_jpeg.jpg", exif=exif)
    with Image.open(folder / "exif_jpeg.jpg") as lying:
        Image.fromarray(np.rot90(np.asarray(lying), k=-1).copy()).save(folder / "exif_jpeg_twin.png")

    red, green = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ((200, 0, 0), (0, 200, 0)))
    red.save(folder / "animated.gif", save_all=True, append_images=[green])
    red.save(folder / "animated_twin.png")

    Image.new("RGB", (1, 1), (10, 90, 160)).save(folder / "pixel.png")
    noise(1008, 640, 8).save(folder / "ribbon.png")


UNREADABLE = {
    "train/cat/empty.jpg": "empty file, 0 bytes",
    "train/dog/empty.png": "empty file, 0 bytes",
    "train/dog/words.jpg": "not a picture",
    "validation/cat/cut.jpg": "cannot be decoded: image file is truncated",
    "test/dog/cut.jpg": "cannot be decoded: image file is truncated",
    "test/dog/empty.jpg": "empty file, 0 bytes",
}
"""By id, what is said about each."""


def write_unreadable(root: Path) -> None:
    for number, (name, why) in enumerate(UNREADABLE.items()):
        content = b"" if "empty" in why else b"hot dog\n" if "not a picture" in why else truncated_jpeg(2000 + number)
        (root / name).write_bytes(content)


PLAIN = {"train/cat": 7, "train/dog": 6, "validation/cat": 3, "validation/dog": 3, "test/cat": 2, "test/dog": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good, odd and unreadable pictures; the odd ones are in test/cat, so that nothing random is done to them."""
    root = write_pictures(tmp_path_factory.mktemp("pictures") / "photos", PLAIN)
    write_odd_pictures(root / "test" / "cat")
    noise(1100).convert("CMYK").save(root / "train" / "cat" / "cmyk.jpg")
    Image.new("RGB", (1, 1), (250, 9, 16)).save(root / "train" / "dog" / "pixel.png")
    noise(1101, 9, 500).save(root / "train" / "dog" / "ribbon.png")
    write_unreadable(root)
    return root


@pytest.fixture(scope="module")
def picture_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Trained on them with the strongest augmentation, transparent pictures on blue."""
    recipe = picture_recipe(pictures, on_bad_image="skip", augmentation="strong", background=BLUE)
    return trained(recipe, tmp_path_factory.mktemp("picture_run"))


@pytest.fixture(scope="module")
def served(picture_run: RunDirectory, pictures: Path) -> dict[str, np.ndarray]:
    """Probabilities of the test split by the picture's name, as they were measured at the end of training."""
    return {Path(id).stem: row for id, row in by_id(picture_run, "test").items() if id.startswith("test/cat/")}


def assert_read_alike(hftl: Hftl, run: RunDirectory, folder: Path, names: Sequence[str], served: dict[str, np.ndarray]) -> None:
    """`hftl predict` answers about these pictures as training measured them."""
    files = [next((folder / "test" / "cat").glob(f"{name}.*")) for name in names]
    rows = predicted(hftl, run.path, files, run.path.parent / "out.jsonl")
    np.testing.assert_allclose(probabilities(rows), np.stack([served[name] for name in names]), atol=1e-6)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of good pictures, to put something else beside them."""
    return write_pictures(tmp_path / "photos", PLAIN)


WAY_OUT = "repair or remove the files, or leave them out and have them counted: data.on_bad_image=skip"


def test_fault_01_a_zero_byte_picture_is_named_and_refused(
    refused_data: Refused, hftl: Hftl, broken: Path, picture_run: RunDirectory
) -> None:
    (broken / "train" / "cat" / "empty.jpg").touch()
    (broken / "test" / "dog" / "none.png").touch()
    message = refused_data(picture_recipe(broken))
    assert "2 problems in" in message
    assert "train/cat/empty.jpg: empty file, 0 bytes" in message and "test/dog/none.png: empty file, 0 bytes" in message
    assert message.count(WAY_OUT) == 1
    said = hand_in(hftl, picture_run.path, broken / "train" / "cat" / "empty.jpg", broken / "test" / "dog" / "none.png")
    assert said.count("empty file, 0 bytes") == 2 and "2 problems" in said


def test_fault_02_a_text_named_jpg_is_named_and_refused(
    refused_data: Refused, hftl: Hftl, broken: Path, picture_run: RunDirectory
) -> None:
    (broken / "train" / "cat" / "words.jpg").write_text("hot dog\n")
    (broken / "validation" / "dog" / "page.png").write_text("<!doctype html><title>404</title>")
    message = refused_data(picture_recipe(broken))
    assert "2 problems in" in message
    for name in ("train/cat/words.jpg", "validation/dog/page.png"):
        assert f"{name}: not a picture, or of an unknown format" in message
    assert message.count(WAY_OUT) == 1
    assert "not a picture" in hand_in(hftl, picture_run.path, broken / "train" / "cat" / "words.jpg")


def test_fault_03_a_truncated_jpeg_is_refused_although_opencv_decodes_it(
    refused_data: Refused, hftl: Hftl, broken: Path, picture_run: RunDirectory
) -> None:
    for seed, name in enumerate(("train/cat/cut.jpg", "test/cat/cut.jpg")):
        (broken / name).write_bytes(truncated_jpeg(seed))
        decoded = cv2.imread(str(broken / name))
        assert decoded is not None and decoded.shape == (200, 200, 3)  # the trap: a grey tail, and no error
    message = refused_data(picture_recipe(broken))
    assert "2 problems in" in message
    for name in ("train/cat/cut.jpg", "test/cat/cut.jpg"):
        assert f"{name}: cannot be decoded: image file is truncated" in message
    assert message.count(WAY_OUT) == 1
    assert "image file is truncated" in hand_in(hftl, picture_run.path, broken / "train" / "cat" / "cut.jpg")


def test_fault_01_02_03_skipped_pictures_leave_before_the_split_and_none_takes_their_place(
    picture_run: RunDirectory, pictures: Path, tmp_path: Path
) -> None:
    data = read_json(picture_run.data)
    assert {entry["id"]: entry["why"] for entry in data["skipped"]}.keys() == UNREADABLE.keys()
    assert all(entry["why"].startswith(UNREADABLE[entry["id"]]) for entry in data["skipped"])
    # A folder that never had them is divided in the same way: same ids, same order, same counts.
    clean = Path(shutil.copytree(pictures, tmp_path / "clean"))
    for name in UNREADABLE:
        (clean / name).unlink()
    assert load_splits(ImageData(source=str(clean)), seed=0).facts["splits"] == data["splits"]
    for split in ("validation", "test"):
        stored = Predictions.load(picture_run.predictions(split))
        assert sorted(stored.ids) == sorted(
            path.relative_to(clean).as_posix() for path in (clean / split).rglob("*") if path.is_file()
        )
    merged = {name: [f"{clean}/{name}/{path.name}" for path in (clean / name).iterdir()] for name in ("train/cat", "train/dog")}
    assert data["splits"]["train"]["per_class"] == {name.removeprefix("train/"): len(files) for name, files in merged.items()}


def test_fault_01_02_03_skipped_pictures_are_removed_before_validation_is_drawn_from_train(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "photos", {"train/cat": 9, "train/dog": 11})
    clean = load_splits(ImageData(source=str(root), validation_fraction=0.25), seed=0)
    for number in range(5):
        (root / "train" / "cat" / f"{number}_broken.jpg").touch()
    skipped = load_splits(ImageData(source=str(root), validation_fraction=0.25, on_bad_image="skip"), seed=0)
    assert skipped.facts["splits"] == clean.facts["splits"]
    assert len(skipped.facts["skipped"]) == 5


def test_fault_01_02_03_skipped_pictures_are_counted_in_metrics_and_on_the_card(hftl: Hftl, picture_run: RunDirectory) -> None:
    metrics = read_json(picture_run.metrics)
    assert {split: values["skipped"] for split, values in metrics.items()} == {"validation": 1, "test": 2}
    assert metrics["validation"]["n"] == 6 and metrics["test"]["n"] == len(by_id(picture_run, "test"))
    assert "Skipped because they could not be read: 6." in picture_run.card.read_text(encoding="utf-8")
    assert hftl("verify", picture_run.path).code == 0


def test_fault_04_cmyk_palette_grey_and_1_bit_are_the_same_rgb_in_training_and_serving(
    hftl: Hftl, picture_run: RunDirectory, pictures: Path, served: dict[str, np.ndarray]
) -> None:
    names = ["cmyk", "palette", "grey", "bit"]
    files = [next((pictures / "test" / "cat").glob(f"{name}.*")) for name in names]
    for file, mode in zip(files, ["CMYK", "P", "L", "1"], strict=True):
        with Image.open(file) as image:
            assert image.mode == mode
    assert_read_alike(hftl, picture_run, pictures, names, served)
    classify = pipeline("image-classification", model=str(picture_run.model), device="cpu")
    labels = read_json(picture_run.data)["label_names"]
    for name, file in zip(names, files, strict=True):
        scores = {row["label"]: row["score"] for row in classify(str(file), top_k=2)}
        np.testing.assert_allclose([scores[label] for label in labels], served[name], atol=1e-6)


def test_fault_05_16_bit_and_float_are_scaled_and_not_clipped(
    hftl: Hftl, picture_run: RunDirectory, pictures: Path, served: dict[str, np.ndarray]
) -> None:
    assert_read_alike(hftl, picture_run, pictures, ["deep", "float"], served)
    for name in ("deep", "float"):  # read as the same grey values in 8 bits; clipped, 16 bits would be white
        np.testing.assert_allclose(served[name], served["deep_twin"], atol=1e-6)
        assert np.abs(served[name] - served["clipped"]).max() > 1e-4
    assert "scales to 8 bits" in picture_run.card.read_text(encoding="utf-8")


def test_fault_06_alpha_is_composed_on_the_declared_background(
    hftl: Hftl, picture_run: RunDirectory, pictures: Path, served: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert picture_run.load_recipe().data.background == BLUE  # type: ignore[union-attr]
    assert_read_alike(hftl, picture_run, pictures, ["alpha"], served)
    np.testing.assert_allclose(served["alpha"], served["alpha_twin"], atol=1e-6)
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "black.png")  # what is left when the alpha channel is dropped
    [black] = probabilities(predicted(hftl, picture_run.path, [tmp_path / "black.png"], tmp_path / "out.jsonl"))
    assert np.abs(served["alpha"] - black).max() > 1e-4
    assert "hftl lays a transparent picture on RGB 0, 0, 255" in picture_run.card.read_text(encoding="utf-8")


def test_fault_07_exif_orientation_is_always_applied(
    hftl: Hftl, picture_run: RunDirectory, pictures: Path, served: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert_read_alike(hftl, picture_run, pictures, ["exif", "exif_jpeg"], served)
    for name in ("exif", "exif_jpeg"):
        np.testing.assert_allclose(served[name], served[f"{name}_twin"], atol=1e-6)
    noise(1006, 30, 20).save(tmp_path / "lying.png")  # the same pixels without the note
    [lying] = probabilities(predicted(hftl, picture_run.path, [tmp_path / "lying.png"], tmp_path / "out.jsonl"))
    assert np.abs(served["exif"] - lying).max() > 1e-4


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # Pillow's own, from our limit to twice of it
def test_fault_08_a_decompression_bomb_is_refused_before_it_is_decoded(
    refused_data: Refused, hftl: Hftl, broken: Path, picture_run: RunDirectory
) -> None:
    (broken / "train" / "cat" / "bomb.png").write_bytes(promising_png(20_000, 20_000))
    (broken / "test" / "dog" / "small_bomb.png").write_bytes(promising_png(10_000, 10_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused_data(picture_recipe(broken))
    assert re.search(r"train/cat/bomb\.png: .*400,?000,?000 pixels", message)
    assert "test/dog/small_bomb.png: 100,000,000 pixels; at most 89,478,485 are decoded" in message
    assert WAY_OUT in message
    assert "pixels" in hand_in(hftl, picture_run.path, broken / "train" / "cat" / "bomb.png")
    # Decoded, the small one alone would take 300 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kilobytes


def test_fault_09_of_an_animation_the_first_frame_is_used_with_a_warning(
    hftl: Hftl,
    picture_run: RunDirectory,
    pictures: Path,
    served: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    assert_read_alike(hftl, picture_run, pictures, ["animated"], served)
    np.testing.assert_allclose(served["animated"], served["animated_twin"], atol=1e-6)
    notes = {note["id"]: note["note"] for note in read_json(picture_run.data)["notes"]}
    assert notes["test/cat/animated.gif"] == "animated or of several pages: the first one is used"
    assert "Unusual pictures, used as they are: 5." in picture_run.card.read_text(encoding="utf-8")
    found = audit_of(hftl, picture_run.load_recipe(), tmp_path)["notes"]
    assert {"note": "animated or of several pages: the first one is used", "n": 1, "example": "test/cat/animated.gif"} in found


def test_fault_10_a_single_pixel_and_a_ribbon_are_used_with_a_warning(
    hftl: Hftl, picture_run: RunDirectory, pictures: Path, served: dict[str, np.ndarray]
) -> None:
    # Two of them were trained on, with the strongest augmentation: crop, rotation, noise, holes.
    notes = {note["id"]: note["note"] for note in read_json(picture_run.data)["notes"]}
    assert notes["train/dog/pixel.png"] == notes["test/cat/pixel.png"] == "a single pixel"
    assert notes["train/dog/ribbon.png"] == "9 x 500 pixels: little of it is left in a square"
    assert notes["test/cat/ribbon.png"] == "640 x 8 pixels: little of it is left in a square"
    assert len(notes) == 5  # and the animation
    assert_read_alike(hftl, picture_run, pictures, ["pixel", "ribbon"], served)


def test_fault_11_links_that_leave_the_data_folder_are_refused(refused_data: Refused, broken: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    noise(1).save(outside / "secret.jpg")
    (broken / "train" / "cat" / "linked.jpg").symlink_to(outside / "secret.jpg")
    (broken / "train" / "dog" / "folder").symlink_to(outside)
    (broken / "test" / "cat" / "up").symlink_to("../../..")
    (broken / "test" / "dog" / "circle").symlink_to(broken / "test" / "dog")
    message = refused_data(picture_recipe(broken))
    assert "4 problems in" in message
    for name in ("train/cat/linked.jpg", "train/dog/folder", "test/cat/up"):
        assert f"{broken / name}: a link that leaves the data folder, to " in message
    assert f"{broken / 'test/dog/circle'}: a link to a folder that it lies in" in message


def test_fault_11_paths_in_a_table_that_leave_its_folder_are_refused_in_training_and_serving(
    refused_data: Refused, hftl: Hftl, tmp_path: Path, picture_run: RunDirectory
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    noise(1).save(tmp_path / "outside.png")
    noise(2).save(root / "inside.png")
    (root / "linked.png").symlink_to(tmp_path / "outside.png")
    rows = ["inside.png,cat", "../outside.png,dog", f"{tmp_path}/outside.png,cat", "linked.png,dog"]
    (root / "train.csv").write_text("image,label\n" + "\n".join(rows) + "\n")
    message = refused_data(picture_recipe(root))
    assert "3 rows with a path that leaves the data folder: train/1, train/2, train/3" in message
    assert f"pictures lie below {root}" in message
    said = hand_in(hftl, picture_run.path, root / "train.csv")
    assert said.count("a path that leaves the folder of the table") == 3
    assert f"{root / 'train.csv'}, row 1: ../outside.png: a path that leaves" in said
    # A folder to predict is held to the same.
    folder = tmp_path / "photos"
    folder.mkdir()
    noise(3).save(folder / "good.png")
    (folder / "linked.png").symlink_to(tmp_path / "outside.png")
    assert f"{folder / 'linked.png'}: a link that leaves the data folder" in hand_in(hftl, picture_run.path, folder)


def test_fault_12_the_same_bytes_in_two_classes_are_listed_and_an_option_drops_them(
    refused_data: Refused, hftl: Hftl, broken: Path, tmp_path: Path
) -> None:
    for number in range(2):
        shutil.copy(broken / "train" / "cat" / f"{number}.jpg", broken / "train" / "dog" / f"copy_{number}.jpg")
    message = refused_data(picture_recipe(broken))
    for number in range(2):
        assert f"train/cat/{number}.jpg" in message and f"train/dog/copy_{number}.jpg" in message
    assert "(cat)" in message and "(dog)" in message and "data.on_duplicate=drop" in message
    audited = audit_of(hftl, picture_recipe(broken, on_duplicate="drop"), tmp_path)
    assert sum(entry["n"] for entry in audited["skipped"]) == 4
    facts = load_splits(ImageData(source=str(broken), on_duplicate="drop"), seed=0).facts
    assert {entry["id"] for entry in facts["skipped"]} == {
        f"train/{name}.jpg" for name in ("cat/0", "cat/1", "dog/copy_0", "dog/copy_1")
    }
    assert all(entry["why"].startswith("two labels for the same picture: ") for entry in facts["skipped"])
    assert facts["splits"]["train"]["per_class"] == {"cat": 5, "dog": 6}
    assert facts["duplicates"]["conflicting"] == {"train": 4}


def test_fault_13_the_same_bytes_in_two_splits_are_listed_and_an_option_drops_them_from_train(
    refused_data: Refused, broken: Path
) -> None:
    shutil.copy(broken / "test" / "cat" / "0.jpg", broken / "train" / "cat" / "seen.jpg")
    shutil.copy(broken / "validation" / "dog" / "1.jpg", broken / "train" / "dog" / "known.jpg")
    message = refused_data(picture_recipe(broken))
    assert "train/cat/seen.jpg = test/cat/0.jpg" in message
    assert "train/dog/known.jpg = validation/dog/1.jpg" in message
    assert "scores on training rows are meaningless" in message and "data.on_duplicate=drop" in message
    facts = load_splits(ImageData(source=str(broken), on_duplicate="drop"), seed=0).facts
    assert {entry["id"]: entry["why"] for entry in facts["skipped"]} == {
        "train/cat/seen.jpg": "the same picture as test/cat/0.jpg",
        "train/dog/known.jpg": "the same picture as validation/dog/1.jpg",
    }
    assert [facts["splits"][split]["n"] for split in ("train", "validation", "test")] == [13, 6, 4]
    assert facts["duplicates"]["across"] == [
        {"splits": ["train", "validation"], "pairs": 1},
        {"splits": ["train", "test"], "pairs": 1},
    ]


def test_fault_15_a_class_only_in_validation_or_test_is_refused(refused_data: Refused, broken: Path, tmp_path: Path) -> None:
    (broken / "test" / "bird").mkdir()
    noise(5).save(broken / "test" / "bird" / "0.jpg")
    (broken / "validation" / "fish").mkdir()
    noise(6).save(broken / "validation" / "fish" / "0.jpg")
    message = refused_data(picture_recipe(broken))
    assert 'split "test": classes that train has no row of: bird' in message
    assert 'split "validation": classes that train has no row of: fish' in message
    assert "train's classes: cat, dog" in message
    write_csv(tmp_path / "reviews" / "train.csv", "ab" * 8)
    write_csv(tmp_path / "reviews" / "test.csv", "abc")
    assert 'split "test": classes that train has no row of: c' in refused_data(text_recipe(tmp_path / "reviews"))


def test_fault_16_an_empty_class_folder_is_refused(refused_data: Refused, broken: Path) -> None:
    (broken / "train" / "bird").mkdir()
    (broken / "test" / "bird").mkdir()
    (broken / "test" / "bird" / "notes.txt").write_text("no pictures yet")
    message = refused_data(picture_recipe(broken))
    for split in ("train", "test"):
        assert f"{broken / split / 'bird'}: no picture in this class folder" in message
    assert "remove the folder, or fill it" in message


def test_fault_17_one_class_overall_is_refused(refused_data: Refused, tmp_path: Path) -> None:
    message = refused_data(picture_recipe(write_pictures(tmp_path / "photos", {"cat": 6})))
    assert 'split "train": one class only, "cat": there is nothing to tell apart' in message
    message = refused_data(text_recipe(write_csv(tmp_path / "reviews.csv", ["good"] * 6)))
    assert 'split "train": one class only, "good": there is nothing to tell apart' in message


# --- texts and tables -----------------------------------------------------------------------------------------------------------

LONG = " ".join(f"word{number}" for number in range(300))
LABELS: tuple[tuple[Any, ...], ...] = (("0", 0, 0.0, "0.0"), (1, "1.0"), ("2", 2.0), (10, " 10 "))
"""How each class is written, in turn."""


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four numbered classes. Validation has one of them, test three; empty, short and long texts are in all."""
    root = tmp_path_factory.mktemp("reviews")

    def write(split: str, short: str, classes: Sequence[int]) -> None:
        texts = ["", short, f"{split} {LONG}", *(f"{split}, the film number {row}" for row in range(len(classes) - 3))]
        spelling = [itertools.cycle(written) for written in LABELS]
        rows = [{"text": text, "label": next(spelling[kind])} for text, kind in zip(texts, classes, strict=True)]
        write_jsonl(root / f"{split}.jsonl", rows)

    write("train", "fine", [0, 1, 2, 3] * 8)
    write("validation", "good", [0] * 5)
    write("test", "poor", [0, 1, 2, 0, 1, 2, 0])
    return root


@pytest.fixture(scope="module")
def text_run(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Trained while a token stood in the environment."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_TOKEN", TOKEN)
        environment.setenv("SOME_API_KEY", "correct horse battery")
        return trained(text_recipe(reviews), tmp_path_factory.mktemp("text_run"))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "small.3d.txt"
    path.write_text("good 1.0 0.5 0.25\nbad -1.0 0.5 0.75\nfilm 0.5 0.5 0.5\nthe 0.0 0.25 -0.5\n")
    return path


@pytest.fixture(scope="module")
def glove_run(vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A TextCNN with kernels 3, 4 and 5 wide, on texts of a word or two, one of them empty; classes that look like formulas."""
    folder = tmp_path_factory.mktemp("glove_run")
    rows = [{"text": f"{'good' if row % 2 else 'bad'} {row}", "label": "=POS()" if row % 2 else "@NEG"} for row in range(20)]
    write_jsonl(folder / "train.jsonl", [{"text": "", "label": "@NEG"}, {"text": "unheard", "label": "=POS()"}, *rows])
    return trained(glove_recipe(folder / "train.jsonl", vectors), folder)


def test_fault_14_a_class_only_in_train_is_kept_and_measured_with_n_0(text_run: RunDirectory) -> None:
    assert read_json(text_run.data)["label_names"] == ["0", "1", "2", "10"]
    metrics = read_json(text_run.metrics)
    assert {row["label"]: row["n"] for row in metrics["test"]["per_class"]} == {"0": 3, "1": 2, "2": 2, "10": 0}
    assert metrics["test"]["per_class"][3]["recall"] is None
    assert np.array(metrics["test"]["confusion"]).sum(axis=1).tolist() == [3, 2, 2, 0]
    card = text_run.card.read_text(encoding="utf-8")
    assert '**Classes without an example:** "10". Nothing was measured about it.' in card
    assert re.search(r"^\| 10 \| 0 \|", card, re.MULTILINE)
    assert read_json(text_run.audit)["splits"]["test"]["absent"] == ["10"]


def test_fault_18_auc_is_undefined_and_not_nan_where_validation_has_one_class(
    text_run: RunDirectory, hftl: Hftl, refused: Refused, reviews: Path
) -> None:
    metrics = text_run.metrics.read_text(encoding="utf-8")
    assert "NaN" not in metrics
    validation = json.loads(metrics)["validation"]
    assert validation["auc"] is None and validation["auc_interval"] is None
    assert validation["n"] == 5 and "1" in validation["auc_undefined"]
    shown = hftl("evaluate", text_run.path)
    assert shown.code == 0 and "nan" not in shown.out.lower()
    assert "AUC is undefined: " in text_run.card.read_text(encoding="utf-8")
    assert not any("auc" in record.get("validation", {}) for record in text_run.read_history())
    # And it cannot choose the weights.
    message = refused(text_recipe(reviews), "run.metric=auc")
    assert "run.metric: auc is undefined: the validation split has no example of 1, 2, 10" in message


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_fault_19_bytes_that_are_not_utf_8_are_named_by_file_line_and_byte(
    suffix: str, refused_data: Refused, hftl: Hftl, text_run: RunDirectory, tmp_path: Path
) -> None:
    path = tmp_path / f"reviews.{suffix}"
    rows = (
        [b"good,a", b"caf\xe9,b"] if suffix == "csv" else [b'{"text": "good", "label": "a"}', b'{"text": "caf\xe9", "label": "b"}']
    )
    path.write_bytes(b"\n".join([b"text,label", *rows, b""] if suffix == "csv" else [*rows, b""]))
    place = path.read_bytes().index(b"\xe9")
    line = 3 if suffix == "csv" else 2
    assert f"{path}, line {line}, byte {place}: not UTF-8: save the file as UTF-8" in refused_data(text_recipe(path))
    assert f"{path}, line {line}, byte {place}: not UTF-8" in hand_in(hftl, text_run.path, path)
    lines = tmp_path / "lines.txt"
    lines.write_bytes(b"one\ntwo caf\xe9\n")
    assert f"{lines}, line 2, byte 11: not UTF-8" in hand_in(hftl, text_run.path, lines)


def test_fault_19_a_byte_order_mark_is_stripped_and_a_nul_byte_is_refused(
    refused_data: Refused, hftl: Hftl, text_run: RunDirectory, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "reviews.csv", "ab" * 8)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert audit_of(hftl, text_recipe(path), tmp_path)
    assert len(predicted(hftl, text_run.path, [path], tmp_path / "out.jsonl")) == 16
    path.write_bytes(b"text,label\ngood,a\nb\0ad,b\n")
    assert f"{path}, line 3, byte 19: a NUL byte: this is no text file" in refused_data(text_recipe(path))
    lines = tmp_path / "lines.txt"
    lines.write_bytes(b"\xef\xbb\xbfgood\n")
    [row] = predicted(hftl, text_run.path, [lines], tmp_path / "out.jsonl")
    assert row["input"] == "good"
    lines.write_bytes(b"good\nb\0ad\n")
    assert f"{lines}, line 2, byte 6: a NUL byte" in hand_in(hftl, text_run.path, lines)


def test_fault_20_an_empty_text_is_two_special_tokens_or_one_unknown_word_and_is_counted(
    hftl: Hftl, text_run: RunDirectory, glove_run: RunDirectory, tmp_path: Path
) -> None:
    assert read_json(text_run.data)["text"]["empty"] == 1
    assert "Empty texts: 1." in text_run.card.read_text(encoding="utf-8")
    audited = read_json(text_run.audit)["splits"]
    assert {split: found["lengths"]["empty"] for split, found in audited.items()} == {"train": 1, "validation": 1, "test": 1}
    stored = Predictions.load(text_run.predictions("test"))
    assert stored.ids[0] == "test/0" and stored.sizes is not None
    assert stored.sizes[0] == 2  # [CLS] and [SEP]
    [row] = predicted(hftl, text_run.path, [""], tmp_path / "out.jsonl")
    np.testing.assert_allclose(probabilities([row])[0], stored.probabilities[0], atol=1e-6)
    assert AutoTokenizer.from_pretrained(text_run.model)("")["input_ids"] == AutoTokenizer.from_pretrained(
        text_run.model
    ).convert_tokens_to_ids(["[CLS]", "[SEP]"])
    # A tokenizer without special tokens gives none: the text is read as one unknown word.
    facts = read_json(glove_run.data)
    in_train = facts["splits"]["train"]["n"] == 22 or "train/0" not in Predictions.load(glove_run.predictions("validation")).ids
    assert facts["text"]["empty"] == int(in_train)
    rows = predicted(hftl, glove_run.path, ["", "zyzzyva"], tmp_path / "out.jsonl")
    empty, unknown = probabilities(rows)
    np.testing.assert_allclose(empty, unknown, atol=1e-6)


def test_fault_21_a_text_shorter_than_the_widest_kernel_is_padded_and_masked(
    hftl: Hftl, glove_run: RunDirectory, tmp_path: Path
) -> None:
    assert glove_run.load_recipe().model.kernel_widths == (3, 4, 5)  # type: ignore[union-attr]
    texts = ["good", "bad 3", "the good film"]
    alone = [probabilities(predicted(hftl, glove_run.path, [text], tmp_path / "out.jsonl"))[0] for text in texts]
    beside = probabilities(predicted(hftl, glove_run.path, [*texts, LONG.replace("word", "film ")], tmp_path / "out.jsonl"))
    np.testing.assert_allclose(beside[:3], np.stack(alone), atol=1e-6)
    assert np.abs(alone[0] - alone[2]).max() > 1e-4  # and the words are seen


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_fault_22_a_blank_or_nan_label_is_an_error_with_its_row(kind: str, refused_data: Refused, tmp_path: Path) -> None:
    path = tmp_path / f"reviews.{kind}"
    texts = [f"text {row}" for row in range(8)]
    if kind == "csv":
        labels = ["a", "b", "", "nan", "a", "  ", "NaN", "b"]
        write_csv(path, labels)
        rows = '4 rows with a blank label (column "label"): train/2, train/3, train/5, train/6'
    elif kind == "jsonl":
        write_jsonl(path, [{"text": text, "label": label} for text, label in zip(texts, "abab", strict=False)])
        path.write_text(path.read_text() + '{"text": "no label"}\n{"text": "null", "label": null}\n{"text": "n", "label": NaN}\n')
        rows = '3 rows with a blank label (column "label"): train/4, train/5, train/6'
    else:
        pq.write_table(pa.table({"text": texts, "label": [0.0, 1.0, float("nan"), 1.0, None, 0.0, 1.0, 0.0]}), path)
        rows = '2 rows with a blank label (column "label"): train/2, train/4'
    message = refused_data(text_recipe(path))
    assert rows in message and "give them a label, or leave the rows out: data.on_blank_label=skip" in message


@pytest.mark.parametrize("label", ["-1", "-100"])
def test_fault_23_a_negative_label_is_an_error_at_load(label: str, refused_data: Refused, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "reviews.csv", ["0", "1", label, "2", "0", label])
    message = refused_data(text_recipe(path))
    assert f"2 rows with a label that is no class ({label}): train/2, train/5" in message
    assert 'class numbers start at 0; -1 often stands for "unlabelled"' in message
    pq.write_table(pa.table({"text": ["a", "b", "c", "d"], "label": [0, 1, 2, int(label)]}), tmp_path / "reviews.parquet")
    path.unlink()
    assert f"1 row with a label that is no class ({label}): train/3" in refused_data(text_recipe(tmp_path / "reviews.parquet"))


def test_fault_23_a_label_outside_the_label_map_is_an_error_at_load(refused_data: Refused, tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    metadata = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    table = pa.table({"text": ["a", "b", "c", "d"], "label": pa.array([0, 1, 2, -1], pa.int64())})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "train.parquet")
    message = refused_data(text_recipe(tmp_path / "train.parquet"))
    assert "2 rows with a label that is no class (2, -1): train/2, train/3" in message
    assert "allowed are 0 to 1" in message


def test_fault_24_zero_as_text_integer_and_float_is_one_class_of_one_map_saved_with_the_model(
    hftl: Hftl, text_run: RunDirectory, tmp_path: Path
) -> None:
    data = read_json(text_run.data)
    assert data["label_names"] == ["0", "1", "2", "10"]  # as people count, not as text sorts
    assert data["splits"]["train"]["per_class"] == {"0": 8, "1": 8, "2": 8, "10": 8}
    assert read_json(text_run.model / "config.json")["id2label"] == {"0": "0", "1": "1", "2": "2", "3": "10"}
    [row] = predicted(hftl, text_run.path, ["a film"], tmp_path / "out.jsonl")
    assert [key for key in row if key.startswith("p(")] == ["p(0)", "p(1)", "p(2)", "p(10)"]
    classify = pipeline("text-classification", model=str(text_run.model), device="cpu")
    assert classify("a film")[0]["label"] == row["label"]


def test_fault_25_duplicate_rows_of_one_label_are_a_warning(hftl: Hftl, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "reviews.csv", "ab" * 10)
    path.write_text(path.read_text() + "reviews 0,a\nREVIEWS   0,a\nreviews 1,b\n")
    assert audit_of(hftl, text_recipe(path), tmp_path)["duplicates"]["within"] == {"train": 3}
    assert "rows that repeat a text of their split: train 3" in hftl("audit", tmp_path / "recipe.yaml").out
    splits = load_splits(TextData(source=str(path), validation_fraction=0.25), seed=0)
    assert splits.facts["duplicates"]["within"] == {"train": 3}
    assert splits.facts["skipped"] == []
    assert splits.facts["splits"]["train"]["n"] + splits.facts["splits"]["validation"]["n"] == 23
    # Copies are never put on two sides by our own division.
    texts = [{" ".join(text.casefold().split()) for text in split["text"]} for split in (splits.train, splits.validation)]
    assert not texts[0] & texts[1]


def test_fault_25_duplicate_rows_with_two_labels_are_listed_and_an_option_drops_them(refused_data: Refused, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "reviews.csv", "ab" * 10)
    path.write_text(path.read_text() + "Reviews 0,b\nreviews 3,a\n")
    message = refused_data(text_recipe(path))
    assert "train/0 (a)" in message and "train/20 (b)" in message and "train/3 (b)" in message and "train/21 (a)" in message
    assert "data.on_duplicate=drop" in message
    facts = load_splits(TextData(source=str(path), on_duplicate="drop"), seed=0).facts
    assert [entry["id"] for entry in facts["skipped"]] == ["train/0", "train/3", "train/20", "train/21"]
    assert facts["skipped"][0]["why"] == "two labels for the same text: train/0 (a), train/20 (b)"
    assert facts["splits"]["train"]["n"] + facts["splits"]["validation"]["n"] == 18
    kept = load_splits(TextData(source=str(path), on_duplicate="keep"), seed=0).facts
    assert kept["skipped"] == [] and kept["duplicates"]["conflicting"] == {"train": 4}


def test_fault_25_duplicate_rows_across_splits_are_listed_and_an_option_drops_them_from_train(
    refused_data: Refused, tmp_path: Path
) -> None:
    root = tmp_path / "reviews"
    train = write_csv(root / "train.csv", "ab" * 10)
    test = write_csv(root / "test.csv", "ab" * 3)
    train.write_text(train.read_text() + "test 2,a\n")
    test.write_text(test.read_text() + "Train  5,b\n")
    message = refused_data(text_recipe(root))
    assert 'split "train" and split "test": ' in message
    assert "train/20 = test/2" in message and "train/5 = test/6" in message
    assert "data.on_duplicate=drop leaves them out of train (test keeps its rows)" in message
    facts = load_splits(TextData(source=str(root), on_duplicate="drop"), seed=0).facts
    assert {entry["id"]: entry["why"] for entry in facts["skipped"]} == {
        "train/5": "the same text as test/6",
        "train/20": "the same text as test/2",
    }
    assert facts["splits"]["test"]["n"] == 7


def test_fault_26_a_ragged_csv_is_an_error_with_its_lines(
    refused_data: Refused, hftl: Hftl, text_run: RunDirectory, tmp_path: Path
) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text('text,label\n"two\nlines",a\none, two,b\nthree,a\nfour\n')
    message = refused_data(text_recipe(path))
    assert f"{path}: the header has 2 columns; line 4 has 3, line 6 has 1" in message
    assert "a field that has a comma in it is written in quotes" in message
    assert "line 4 has 3" in hand_in(hftl, text_run.path, path)


def test_fault_27_texts_longer_than_the_model_are_cut_as_declared_and_their_share_is_said_before_training(
    hftl: Hftl, refused: Refused, text_run: RunDirectory, reviews: Path, tmp_path: Path
) -> None:
    share = 1 / 32  # one of the 32 training texts has more than 48 tokens
    recipe = write_recipe(text_recipe(reviews), tmp_path)
    assert audit_of(hftl, text_recipe(reviews), tmp_path)["splits"]["train"]["lengths"]["share_truncated"] == pytest.approx(share)
    said = re.search(r"train: (3\.1 ?%) of the texts are longer than 48 tokens, and cut", hftl("audit", recipe).out)
    assert said is not None
    assert "share truncated 0.0312" in hftl("show", recipe).out
    assert read_json(text_run.data)["text"]["share_truncated"] == pytest.approx(share)
    log = text_run.log.read_text(encoding="utf-8")
    assert log.index(said[0]) < log.index("stage 1 of 2")
    assert re.search(
        r"first 48 tokens of a text only; 3\.1 ?% of the training texts and 14\.3 ?% of the test texts are longer",
        text_run.card.read_text(encoding="utf-8"),
    )
    # The tail of a text is cut, in training and in serving: what stands after the limit changes nothing.
    both = [LONG, f"{LONG} and another ending"]
    one, other = probabilities(predicted(hftl, text_run.path, both, tmp_path / "out.jsonl"))
    np.testing.assert_allclose(one, other, atol=1e-6)
    # A limit that the model does not have is refused.
    message = refused(text_recipe(reviews), "data.max_length=4096")
    assert "data.max_length: 4096 is longer than the 512 positions of bert-nano" in message
    assert "write data.max_length=512 or less" in message


WRONG_VECTORS = {
    "a wrong dimension": ("bad -1.0 0.5\n", "line 2: 2 numbers where 3 were expected"),
    "NaN": ("bad -1.0 nan 0.75\n", 'line 2: "bad" has a NaN or infinite number'),
    "infinity": ("bad -1.0 inf 0.75\n", 'line 2: "bad" has a NaN or infinite number'),
    "a word twice": ("good -1.0 0.5 0.75\n", 'line 2: "good" a second time, after line 1'),
    "no number": ("bad -1.0 half 0.75\n", 'line 2: "bad": could not convert'),
}


@pytest.mark.parametrize(("line", "what"), WRONG_VECTORS.values(), ids=WRONG_VECTORS)
@pytest.mark.parametrize("model", [TextCNN, BiLSTM])
def test_fault_28_word_vectors_that_make_no_sense_are_refused_with_their_line(
    model: type[TextCNN] | type[BiLSTM], line: str, what: str, refused: Refused, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.3d.txt"
    broken.write_text(f"good 1.0 0.5 0.25\n{line}film 0.5 0.5 0.5\nthe 0.1 0.2 0.3\n")
    rows = [{"text": f"{'good film' if row % 2 else 'the bad film'} {row}", "label": row % 2} for row in range(12)]
    recipe = glove_recipe(write_jsonl(tmp_path / "reviews.jsonl", rows), broken, model=model)
    message = refused(recipe)
    assert f"1 problem in {broken}" in message and f"model.vectors: {what}" in message


def test_fault_28_the_share_of_words_without_a_vector_is_reported(hftl: Hftl, glove_run: RunDirectory, tmp_path: Path) -> None:
    vocabulary = read_json(glove_run.data)["model"]["vocabulary"]
    # Every training text but one or two is "good 1", "bad 2" and so on: half of its words are numbers without a vector.
    assert 0.3 < vocabulary["share_in_vectors"] < 0.55
    assert vocabulary["in_vectors"] == 2 and set(vocabulary["frequent_without_vector"]) & {str(row) for row in range(20)}
    card = glove_run.card.read_text(encoding="utf-8")
    assert re.search(r"2 of them have a word vector; they are \d+(\.\d+)? ?% of all words", card)
    assert audit_of(hftl, glove_run.load_recipe(), tmp_path)["vocabulary"]["share_in_vectors"] == vocabulary["share_in_vectors"]
    assert "have no word vector" in hftl("audit", tmp_path / "recipe.yaml").out
    assert "have no word vector" in glove_run.log.read_text(encoding="utf-8")  # before training


def test_fault_29_a_tokenizer_that_counts_beyond_the_models_vocabulary_is_refused(
    refused: Refused, hftl: Hftl, text_run: RunDirectory, reviews: Path, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(BERT_NANO, tmp_path / "checkpoint"))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = read_json(checkpoint / "config.json")["vocab_size"]
    tokenizer.add_tokens([f"zyzzyva{number}" for number in range(rows + 1)])
    tokenizer.save_pretrained(checkpoint)
    message = refused(text_recipe(reviews), f"model.checkpoint={checkpoint}")
    assert "has a tokenizer and a model that do not belong together" in message
    assert re.search(rf"the tokenizer counts its tokens up to \d+, the model has {rows} embeddings, for 0 to {rows - 1}", message)
    assert str(checkpoint) in message
    saved = Path(shutil.copytree(text_run.model, tmp_path / "saved"))
    tokenizer.save_pretrained(saved)
    assert "has a tokenizer and a model that do not belong together" in hand_in(hftl, saved, "a film")


# --- runs -----------------------------------------------------------------------------------------------------------------------


def test_fault_30_a_loss_that_is_not_finite_stops_the_run_names_the_batch_and_keeps_the_last_good_checkpoint(
    hftl: Hftl, reviews: Path, tmp_path: Path
) -> None:
    explodes = ("stages.all.lr=1e38", "stages.all.optimizer=sgd", "stages.all.max_grad_norm=null", "stages.all.schedule=constant")
    recipe = override(text_recipe(reviews), explodes)
    run = RunDirectory(tmp_path / "run")
    outcome = hftl("train", write_recipe(recipe, tmp_path), "--run-dir", run.path)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    [said] = [line for line in outcome.err.splitlines() if line.startswith("RunError: ")]
    stopped = re.search(r"stage all, step (\d+): the loss is (nan|inf)\b", said)
    assert stopped is not None and int(stopped[1]) > 4  # the four steps of stage "head" were good
    named = re.findall(r"train/\d+", said)
    assert len(named) == len(set(named)) == 8 and all(int(name.removeprefix("train/")) < 32 for name in named)
    assert "The last checkpoint stands" in said
    # What was good is still there, and nothing pretends that the run was finished.
    weights = [file for file in run.checkpoints.rglob("*.safetensors") if ".partial" not in str(file)]
    assert weights
    assert all(tensor.isfinite().all() for file in weights for tensor in load_file(file).values() if tensor.is_floating_point())
    assert not run.finished and not run.test_openings.exists() and not run.model.exists()
    # The step is the same when it is taken again from there.
    again = hftl("train", run.path, "--resume")
    assert again.code == 2 and said in again.err.splitlines()


def shown_metrics(outcome: str) -> dict[str, tuple[str, str]]:
    """{metric: (now, on record)} of what `hftl evaluate` prints."""
    rows = re.findall(r"^(\w[\w ]*?) {2,}(-?\d\.\d{4}) +(-?\d\.\d{4}|not recorded)", outcome, re.MULTILINE)
    return {name: (now, on_record) for name, now, on_record in rows}


@pytest.mark.parametrize("tokens", [1, 24, 48, 4096])
def test_fault_36_an_uneven_or_tiny_last_batch_changes_no_metric(
    tokens: int, hftl: Hftl, text_run: RunDirectory, tmp_path: Path
) -> None:
    # One text of 48 tokens, and six that count for 8: one by one; 1, 3 and 3; 1 and 6; all at once, which is on record.
    run = RunDirectory(Path(shutil.copytree(text_run.path, tmp_path / "run")))
    run.recipe.write_text(override(run.load_recipe(), [f"run.tokens_per_batch={tokens}"]).to_yaml(), encoding="utf-8")
    outcome = hftl("evaluate", run.path, "--split", "test")
    assert outcome.code == 0, outcome.err
    shown = shown_metrics(outcome.out)
    assert {"Accuracy", "Macro F1", "Matthews correlation", "Log loss"} <= set(shown)
    assert all(now == on_record for now, on_record in shown.values()), shown


THREE = """
import os, sys
import hftl.sharing.card, hftl.training.engine  # once for all, which takes longest; nothing is computed before the fork
from hftl.cli import main
ranks = []
for rank in range(3):
    ranks.append(os.fork())
    if not ranks[-1]:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        try:
            main(argv=sys.argv[1:])
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)  # taking the interpreter down costs each of them two seconds
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in ranks))
"""
"""A command on three processes, with the variables that torch's launcher sets."""


def test_fault_36_three_processes_on_sets_that_they_cannot_share_evenly_give_the_metrics_of_one(
    text_run: RunDirectory, tmp_path: Path
) -> None:
    # Seven examples in batches of 1, 2, 2 and 2: the first process has two of them, the others one and padding.
    run = RunDirectory(Path(shutil.copytree(text_run.path, tmp_path / "run")))
    run.recipe.write_text(override(run.load_recipe(), ["run.tokens_per_batch=16"]).to_yaml(), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    world = {
        "WORLD_SIZE": "3",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", THREE, "evaluate", str(run.path), "--split", "test"],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, **world, "ACCELERATE_USE_CPU": "true", "COLUMNS": "120"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("n = 7") == 1  # one of them speaks
    shown = shown_metrics(done.stdout)
    assert {"Accuracy", "Macro F1", "Matthews correlation", "Log loss"} <= set(shown)
    assert all(now == on_record for now, on_record in shown.values()), shown
    assert len(run.test_openings.read_text().splitlines()) == 2  # one process wrote the opening down


# --- trust ----------------------------------------------------------------------------------------------------------------------


def test_fault_38_a_foreign_checkpoint_is_read_from_safetensors_only_and_no_pickle_is_opened(
    refused: Refused, hftl: Hftl, text_run: RunDirectory, reviews: Path, tmp_path: Path
) -> None:
    for name, source in (("built", Path(BERT_NANO)), ("saved", text_run.model)):
        folder = Path(shutil.copytree(source, tmp_path / name))
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": Bomb(tmp_path / "marker")}))
    assert "hftl reads safetensors only" in refused(text_recipe(reviews), f"model.checkpoint={tmp_path / 'built'}")
    assert "safetensors" in hand_in(hftl, tmp_path / "saved", "a film")
    assert not (tmp_path / "marker").exists()


def test_fault_38_code_of_a_foreign_checkpoint_never_runs(
    refused: Refused, hftl: Hftl, text_run: RunDirectory, reviews: Path, tmp_path: Path
) -> None:
    for name, source in (("built", Path(BERT_NANO)), ("saved", text_run.model)):
        folder = Path(shutil.copytree(source, tmp_path / name))
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nclass Config: pass\n")
        rewrite(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    no_code = 'hftl runs no code of a checkpoint ("auto_map" in config.json)'
    assert no_code in refused(text_recipe(reviews), f"model.checkpoint={tmp_path / 'built'}")
    assert no_code in hand_in(hftl, tmp_path / "saved", "a film")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("place", ["/etc/passwd", "../other/tokenizer.json"])
def test_fault_38_a_tokenizer_path_that_leaves_the_folder_is_refused(
    place: str, refused: Refused, hftl: Hftl, text_run: RunDirectory, reviews: Path, tmp_path: Path
) -> None:
    for name, source in (("built", Path(BERT_NANO)), ("saved", text_run.model)):
        rewrite(Path(shutil.copytree(source, tmp_path / name)) / "tokenizer_config.json", tokenizer_file=place)
    said = f'has "tokenizer_file": "{place}" in tokenizer_config.json, which is not a file of this folder'
    assert said in refused(text_recipe(reviews), f"model.checkpoint={tmp_path / 'built'}")
    assert said in hand_in(hftl, tmp_path / "saved", "a film")


def test_fault_39_tokens_are_stored_nowhere_and_refused_in_a_recipe(
    refused: Refused, text_run: RunDirectory, reviews: Path
) -> None:
    # HF_TOKEN and SOME_API_KEY were set while the run was trained.
    files = [path for path in text_run.path.rglob("*") if path.is_file()]
    assert len(files) > 15
    for secret in (TOKEN, "correct horse battery"):
        assert [path.name for path in files if secret.encode() in path.read_bytes()] == []
    message = refused(text_recipe(reviews), f"card.citation=made with {TOKEN}")
    assert "card.citation holds a Hugging Face token" in message and "Tokens belong into HF_TOKEN" in message
    assert TOKEN not in message


def test_fault_39_an_upload_goes_by_an_allow_list_and_a_token_in_it_stops_it(
    hftl: Hftl, text_run: RunDirectory, tmp_path: Path
) -> None:
    run = RunDirectory(Path(shutil.copytree(text_run.path, tmp_path / "run")))
    assert hftl("card", run.path, "card.license=mit", "card.language=en").code == 0
    (run.path / ".env").write_text("HF_TOKEN=x")
    (run.path / "training_args.bin").write_bytes(b"pickle")
    (run.model / "optimizer.pt").write_bytes(b"pickle")
    (run.path / "notes.md").write_text("my own")
    publication = prepare(run, "me/films")
    left_out = {".env", "training_args.bin", "model/optimizer.pt", "notes.md", "log.txt", "serving.parquet"}
    assert left_out <= set(publication.left_out)
    assert not {Path(name).name for name in left_out} & {Path(name).name for name in publication.files}
    run.append_history({"event": "note", "said": TOKEN})
    pushed = hftl("push", run.path, "me/films", "--dry-run")
    assert pushed.code == 2
    assert re.search(r"history\.jsonl, line \d+: holds a Hugging Face token", pushed.err)
    assert TOKEN not in pushed.err + pushed.out


HOSTILE = ("=HYPERLINK(1)", "<script>alert(1)</script>", 'a: b"\n---\nlicense: mit', "| cell |")


def test_fault_40_a_card_is_safe_yaml_and_shows_html_letter_by_letter(hftl: Hftl, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", label_names=HOSTILE, n=120)
    title = "x: [y]\n---\n<img src=x onerror=alert(1)> # !!python/object:os.system"
    outcome = hftl("card", run.path, f"card.title={title}", "card.license=apache-2.0", 'card.tags=["&anchor", "*alias", "- x"]')
    assert outcome.code == 0, outcome.err
    card = run.card.read_text(encoding="utf-8")
    _, front_matter, body = card.split("---\n", 2)
    values = yaml.safe_load(front_matter)
    assert values["license"] == "apache-2.0" and {"&anchor", "*alias", "- x"} <= set(values["tags"])
    assert not re.search(r"^license: mit", card, re.MULTILINE)
    assert "<script" not in body and "<img" not in body and "&lt;script" in body
    # A name with a bar in it makes no cell of its own.
    header = next(line for line in body.splitlines() if line.startswith("| class | n |"))
    rows = body[body.index(header) :].splitlines()[2:6]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {header.count("|")}


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t"])
def test_fault_40_cells_that_a_spreadsheet_would_run_get_a_quote_before_them(
    sign: str, hftl: Hftl, text_run: RunDirectory, tmp_path: Path
) -> None:
    text = f"{sign}HYPERLINK(1)"
    (tmp_path / "lines.txt").write_text(f"{text}\n")
    output = tmp_path / "out.csv"
    assert hftl("predict", text_run.path, tmp_path / "lines.txt", "--output", output).code == 0
    with output.open(encoding="utf-8", newline="") as stream:
        [row] = csv.DictReader(stream)
    assert row["input"] == f"'{text}" and row["label"] in {"0", "1", "2", "10"}


def test_fault_40_class_names_that_a_spreadsheet_would_run_get_a_quote_before_them(
    hftl: Hftl, glove_run: RunDirectory, tmp_path: Path
) -> None:
    output = tmp_path / "out.csv"
    assert hftl("predict", glove_run.path, "good film", "bad film", "the", "--output", output).code == 0
    with output.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["input", "label", "probability", "p(=POS())", "p(@NEG)"]
    assert len(rows) == 3 and {row[1] for row in rows} <= {"'=POS()", "'@NEG"}


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "-x", "", "x" * 97, "a b", "/etc"])
def test_fault_40_a_run_name_is_validated(name: str, refused: Refused, reviews: Path) -> None:
    message = refused(text_recipe(reviews), f"name={json.dumps(name)}")
    assert "  name: string should " in message


@pytest.mark.parametrize("repo_id", ["films", "../films", "me/../you", "me/a/b", "https://huggingface.co/me/x", "me/-x", "me/x y"])
def test_fault_40_a_repository_name_is_validated(repo_id: str, hftl: Hftl, text_run: RunDirectory) -> None:
    pushed = hftl("push", text_run.path, repo_id, "--dry-run")
    assert pushed.code == 2 and pushed.err.startswith("RunError: ")


@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")  # of huggingface_hub's own client
def test_fault_40_a_push_is_one_commit(
    hub: LocalHub, hftl: Hftl, text_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    run = RunDirectory(Path(shutil.copytree(text_run.path, tmp_path / "run")))
    assert hftl("card", run.path, "card.license=mit", "card.language=en").code == 0
    publication = prepare(run, "me/films")
    target = check_target(publication, private=False, revision="main")
    assert target is not None
    _send(publication, target, private=False, message="a run")
    assert len(hub.repos["me/films"].commits) == 2  # the Hub's own first one, and ours
    assert set(publication.files) <= set(hub.repos["me/films"].files)


# --- beside the forty -----------------------------------------------------------------------------------------------------------


def test_a_table_of_inputs_with_nulls_or_other_types_is_refused_with_its_rows(
    hftl: Hftl, text_run: RunDirectory, picture_run: RunDirectory, tmp_path: Path
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "good"}\n{"text": null}\n{"text": 5}\n{"other": 1}\n')
    message = hand_in(hftl, text_run.path, path)
    assert f"{path}: 3 rows without a text: 1, 2, 3" in message
    noise(1).save(tmp_path / "a.png")
    path.write_text('{"image": "a.png"}\n{"image": null}\n{"image": [1]}\n')
    message = hand_in(hftl, picture_run.path, path)
    assert f"{path}: 2 rows without the path of a picture: 1, 2" in message


def test_a_text_to_predict_ends_where_its_line_does_and_a_table_is_read_by_the_runs_own_column(
    hftl: Hftl, text_run: RunDirectory, tmp_path: Path
) -> None:
    lines = ["A fine film\u2028with a second thought", "A dull\x0cplot", "a good\x85story"]
    (tmp_path / "new.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    assert [row["input"] for row in predicted(hftl, text_run.path, [tmp_path / "new.txt"], tmp_path / "out.jsonl")] == lines
    own = Path(shutil.copytree(text_run.path, tmp_path / "own"))
    recipe = override(RunDirectory(own).load_recipe(), ["data.text_column=review"])
    (own / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    for column in ("review", "text"):
        write_jsonl(tmp_path / "new.jsonl", [{column: "good", "more": "bad"}])
        assert [row["input"] for row in predicted(hftl, own, [tmp_path / "new.jsonl"], tmp_path / "out.jsonl")] == ["good"]
    write_jsonl(tmp_path / "new.jsonl", [{"more": "bad"}])
    assert 'no column "review" or "text"; columns: more' in hand_in(hftl, own, tmp_path / "new.jsonl")
    assert 'no column "text"; columns: more' in hand_in(hftl, text_run.path, tmp_path / "new.jsonl")


def test_what_predict_leaves_out_of_a_folder_is_said_and_its_output_is_a_path(
    hftl: Hftl, text_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "texts[1]"
    (folder / "__MACOSX").mkdir(parents=True)
    for name in ("a.txt", "b.TXT", "c.docx", "__MACOSX/a.txt", ".d.txt"):
        (folder / name).write_text("a good film")
    monkeypatch.chdir(tmp_path)
    outcome = hftl("predict", text_run.path, folder, "--output", "out*.parquet")
    assert outcome.code == 0 and outcome.err.strip() == f"{folder}: left out 1 .docx"
    assert pq.read_table(pa.BufferReader((tmp_path / "out*.parquet").read_bytes())).num_rows == 2
    for name in ("a.txt", "b.TXT"):
        (folder / name).unlink()
    assert f"{folder}: no .txt in this folder, but 1 .docx" in hand_in(hftl, text_run.path, folder)


# --- the table ------------------------------------------------------------------------------------------------------------------


def test_the_table_of_the_reliability_page_has_every_case_and_names_only_tests_that_exist() -> None:
    rows = re.findall(r"^\| (\d+|–) \|(.*)\|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows if number != "–"] == list(range(1, 41))
    existing = {
        f"{file.name}::{node.name}"
        for file in (REPOSITORY / "tests").glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    for number, row in rows:
        if "<!-- lead -->" in row:
            continue
        named = re.findall(r"`(test_\w+\.py::test_\w+)`", row)
        assert named, f"case {number} names no test"
        assert [name for name in named if name not in existing] == [], f"case {number}"
        if number != "–":
            own = {name for name in existing if re.search(rf"::test_fault_(\d\d_)*{int(number):02}_", name)}
            assert own and own <= set(named), f"case {number} does not name {own - set(named)}"
