"""Arrays of several bands: what is read of a file, what becomes of the first layer, and that it is served as it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from small import quiet

import hftl
from hftl.data import bands
from hftl.data.audit import audit_splits
from hftl.data.bands import read_bands
from hftl.data.content import content_of
from hftl.data.decoding import BadImage
from hftl.data.source import load_splits
from hftl.errors import DataError, RecipeError
from hftl.models import load_classifier, vision
from hftl.recipe import CNN, ImageData, Recipe, RunSettings, Stage, Timm, override
from hftl.sharing import export
from hftl.sharing.contents import foreign
from hftl.sharing.parity import check_serving
from hftl.sharing.publication import prepare

FIRST = "conv1.0.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet over RGB pictures of 32 pixels."""
    folder = tmp_path_factory.mktemp("models") / "rgb"
    torch.manual_seed(1)
    vision.save(vision.build(Timm(checkpoint="test_resnet", pretrained=False), ("a", "b"), image_size=32), folder)
    return folder


def field(number: int, *, wet: bool) -> np.ndarray:
    """(28, 24, 5) uint16: five bands of a field, of which the fourth alone says whether it is wet."""
    values = np.random.default_rng(number).integers(0, 3_000, (28, 24, 5), dtype=np.uint16)
    values[:, :, 3] += 4_000 if wet else 1_000
    return values


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fields")
    for number in range(80):
        split, wet = ("train", "validation", "test")[(number >= 48) + (number >= 64)], number % 2 == 0
        file = folder / split / ("wet" if wet else "dry") / f"{number}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = field(number, wet=wet)
        np.save(file, values if number % 3 else np.moveaxis(values, 2, 0))  # every third has its bands first
    return folder


def data(source: Path, **settings: Any) -> ImageData:
    return ImageData(source=str(source), **{"bands": 5, **settings})


# --- files ----------------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_its_own_numbers_wherever_it_has_its_bands(tmp_path: Path) -> None:
    values = field(0, wet=True)
    np.save(tmp_path / "last.npy", values)
    np.save(tmp_path / "first.npy", np.moveaxis(values, 2, 0).astype(np.float64))
    np.save(tmp_path / "one.npy", values[None])
    for name in ("last", "first", "one"):
        read = read_bands(tmp_path / f"{name}.npy", 5)
        assert read.dtype == np.float32 and np.array_equal(read, values)
    four = np.random.default_rng(0).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    Image.fromarray(four).save(tmp_path / "four.png")
    assert np.array_equal(read_bands(tmp_path / "four.png", 4), four)  # also where the fourth is 0, and no alpha is composed


@pytest.mark.parametrize("first", [False, True])
def test_a_tiff_of_five_bands_is_read(first: bool, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="the extra bands is not installed")
    values = field(0, wet=True)
    given = np.moveaxis(values, 2, 0) if first else values
    planes = "separate" if first else "contig"
    tifffile.imwrite(tmp_path / "a.tif", given, photometric="minisblack", planarconfig=planes, compression="zlib")
    assert np.array_equal(read_bands(tmp_path / "a.tif", 5), values)
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:300])
    with pytest.raises(BadImage, match="cannot be decoded"):
        read_bands(tmp_path / "b.tif", 5)


def test_without_tifffile_a_tiff_is_refused_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "CAN_READ_TIFF", False)
    Image.new("L", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(BadImage, match=r"pip install 'hftl\[bands\]'"):
        read_bands(tmp_path / "a.tif", 5)


def test_files_that_are_no_such_array_say_what_they_are(tmp_path: Path) -> None:
    values = field(0, wet=True)
    for content, said in (
        (values[:, :, :4], r"has the shape \(28, 24, 4\); expected are 5 bands \(data\.bands\), first or last"),
        (values[:, :, 0], r"has the shape \(28, 24\)"),
        (values.astype(np.complex64), "holds complex64, and no numbers"),
        (np.where(values > 2_900, np.nan, values), "pixels that are not numbers .* numpy.nan_to_num"),
        (np.array([None, {}]), "cannot be decoded: Object arrays cannot be loaded"),
    ):
        np.save(tmp_path / "a.npy", content)
        with pytest.raises(BadImage, match=said):
            read_bands(tmp_path / "a.npy", 5)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:60])
    with pytest.raises(BadImage, match="cannot be decoded"):
        read_bands(tmp_path / "a.npy", 5)


def test_a_source_with_another_number_of_bands_is_refused_file_by_file_and_skipped_on_request(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        np.save(tmp_path / "ab"[number % 2] / f"{number}.npy", field(number, wet=True))
    np.save(tmp_path / "a" / "9.npy", field(9, wet=True)[:, :, :4])
    with pytest.raises(DataError, match=r"a/9\.npy: has the shape \(28, 24, 4\)") as caught:
        load_splits(data(tmp_path), seed=0)
    assert len(caught.value.problems) == 1 and "data.on_bad_image=skip" in str(caught.value)
    assert len(load_splits(data(tmp_path, on_bad_image="skip"), seed=0).train) == 7


def test_near_duplicates_of_arrays_are_found(fields: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted((fields / "train").rglob("*.npy"))[:8]):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        np.save(tmp_path / "ab"[number % 2] / f"{number}.npy", np.load(file))
    np.save(tmp_path / "a" / "again.npy", np.load(tmp_path / "a" / "0.npy") + np.uint16(3))
    near = audit_splits(load_splits(data(tmp_path), seed=0)).near_duplicates
    assert sum(near["within"].values()) + sum(both["rows"] for both in near["across"]) == 1


# --- recipes --------------------------------------------------------------------------------------------------------------------


def test_what_is_for_colours_is_refused_with_the_way_out() -> None:
    stages = {"head": Stage(unfreeze="head", lr=1e-2)}
    for settings, said in (
        ({"augmentation": "standard"}, "augmentation: of bands there are crops and flips"),
        ({"random_erasing": 0.5, "augmentation": "light"}, "random_erasing: is for pictures of colours"),
        ({"background": (0, 0, 0)}, "background: is for pictures of colours"),
        ({"bands": 3}, "three bands are RGB"),
    ):
        with pytest.raises(RecipeError, match=said):
            data(Path("x"), **settings)
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"model": CNN()}, 'data.bands: model.family "cnn" reads pictures of RGB alone; write model.family=timm'),
        ({"model": Timm(checkpoint="x", pooling="pyramid")}, "data.bands: model.pooling=pyramid reads pictures of RGB alone"),
        ({"model": Timm(checkpoint="x", in_chans=1)}, "model.in_chans: the first layer has as many channels as data.bands says"),
        ({"run": RunSettings(tta="flip")}, "run.tta: views are made of pictures of RGB"),
    )
    for changed, said in changes:
        with pytest.raises(RecipeError, match=said):
            Recipe(name="x", data=data(Path("x")), stages=stages, **{"model": Timm(checkpoint="x"), **changed})
    with pytest.raises(RecipeError, match=r"arrays of 13 bands are data\.bands=13"):
        Timm(checkpoint="x", in_chans=13)


# --- the network ----------------------------------------------------------------------------------------------------------------


def test_the_first_layer_has_the_three_channels_again_and_again_and_numbers_are_those_of_train(
    checkpoint: Path, fields: Path, tmp_path: Path
) -> None:
    spec, names = Timm(checkpoint=str(checkpoint)), ("dry", "wet")
    built = vision.build(spec, names, image_size=None, bands=5)
    own, network = load_file(checkpoint / "model.safetensors")[FIRST], built.model.timm_model
    expected = own[:, [0, 1, 2, 0, 1]] * (3 / 5)
    torch.testing.assert_close(network.state_dict()[FIRST], expected)  # type: ignore[union-attr]
    assert vision.awaits_channel_numbers(built) and built.facts["input_size"] == [5, 32, 32]
    splits = load_splits(data(fields), seed=0)
    mean, std = content_of(data(fields)).channel_numbers(splits.train) or ((), ())
    pixels = np.concatenate([field(number, wet=number % 2 == 0).reshape(-1, 5) for number in range(48)])
    assert mean == pytest.approx(pixels.mean(axis=0), rel=1e-5) and std == pytest.approx(pixels.std(axis=0), rel=1e-5)
    classifier = vision.with_channel_numbers(built, mean, std)
    assert not vision.awaits_channel_numbers(classifier) and classifier.facts["mean"] == mean
    # 28 x 24 pixels are brought to 37 x 32 and cut; one number everywhere stays what it is, and is normalised by its band.
    content = content_of(data(fields))
    flat = np.broadcast_to(np.arange(5, dtype=np.float32) * 1_000, (28, 24, 5))
    samples: Any = content.samples(splits.train, classifier.preprocessor, seed=0, train=False)
    batch = samples.to_device(samples.collate([{"pixel_values": samples._to_input(flat.copy())}]), torch.device("cpu"))
    expected = (torch.arange(5) * 1_000 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(batch["pixel_values"][0, :, 0, 31], expected.float())
    light: Any = content_of(data(fields, augmentation="light")).samples(splits.train, classifier.preprocessor, seed=0, train=True)
    views = [light[epoch, 0]["pixel_values"] for epoch in (0, 0, 1)]
    assert views[0].shape == (32, 32, 5) and np.array_equal(views[0], views[1]) and not np.array_equal(views[0], views[2])
    vision.save(classifier, tmp_path)
    assert list(foreign(tmp_path, [path.name for path in tmp_path.iterdir()])) == []
    inputs = torch.randn(2, 5, 32, 32)
    with torch.no_grad():
        expected = classifier.model.train(False)(inputs).logits
        assert torch.equal(load_classifier(tmp_path).model.train(False)(inputs).logits, expected)
        assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(inputs), expected)
    again = vision.build(Timm(checkpoint=str(tmp_path)), names, image_size=None, bands=5)
    assert again.facts["std"] == std and not vision.awaits_channel_numbers(again)  # what it was trained with stays
    for other in (None, 4):
        with pytest.raises(RecipeError, match=r"data\.bands: the checkpoint reads files of 5 bands[^w]*write data\.bands=5"):
            vision.build(Timm(checkpoint=str(tmp_path)), names, image_size=None, bands=other)


def test_a_band_that_says_nothing_is_refused(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        values = field(number, wet=True)
        values[:, :, 2] = 7
        np.save(tmp_path / "ab"[number % 2] / f"{number}.npy", values)
    splits = load_splits(data(tmp_path), seed=0)
    with pytest.raises(DataError, match=r"band 2 \(counted from 0\) is 7 in every pixel"):
        content_of(data(tmp_path)).channel_numbers(splits.train)


# --- a run ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, fields: Path) -> hftl.Run:
    recipe = Recipe(
        name="fields",
        data=data(fields, augmentation="light"),
        model=Timm(checkpoint=str(checkpoint)),
        stages={"head": Stage(unfreeze="head", lr=1e-2), "all": Stage(unfreeze="all", lr=3e-3, epochs=4)},
        run=RunSettings(batch_size=8, workers=0, precision="fp32"),
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    return hftl.train(override(recipe, ["card.license=mit"]), run_dir=folder, console=quiet())


def test_bands_are_learned_and_the_lines_of_the_card_answer_as_hftl_does(run: hftl.Run, fields: Path) -> None:
    assert run.metrics["test"]["accuracy"] > 0.8
    plan = json.loads(run.paths.plan.read_text(encoding="utf-8"))
    assert "Mean and deviation of the 5 bands are those of the training pictures." in plan["remarks"]
    card = run.paths.card.read_text(encoding="utf-8")
    assert "It reads arrays of 5 numbers a pixel" in card and "pipeline(" not in card and "Transparent" not in card
    code = card.split("With timm:\n\n```python\n")[1].split("```")[0].replace("RUN/model", str(run.path / "model"))
    files = [fields / "test" / name for name in ("wet/66.npy", "dry/65.npy")]
    answers = run.predict(files)
    for file, answer in zip(files, answers, strict=True):  # of 66 the bands are first
        printed: list[Any] = []
        lines = code.replace("picture.npy", str(file)).replace("print(", "printed.append((").replace("max()))", "max())))")
        exec(lines, {"printed": printed})  # noqa: S102  # the lines as a reader copies them
        assert printed[0] == (answer.label, pytest.approx(answer.probability, abs=1e-5))
    [in_memory] = run.predict([np.load(files[1])])
    assert in_memory.probability == pytest.approx(answers[1].probability, abs=1e-6)
    with pytest.raises(DataError, match=r"input 0: has the shape \(28, 24, 4\); expected are 5 bands"):
        run.predict([np.zeros((28, 24, 4))])
    assert len(run.predict(fields / "test")) == 16
    baseline = json.loads(run.paths.baseline.read_text(encoding="utf-8"))
    assert "5 bands and no colours" in baseline["reason"] and "run.baseline=none" in baseline["reason"]


@pytest.mark.slow
def test_what_is_published_of_bands_answers_as_training_did_and_so_does_the_onnx_file(run: hftl.Run, tmp_path: Path) -> None:
    assert check_serving(run.paths, prepare(run.paths, "me/fields")).samples > 4
    done = export.export_onnx(run.paths, tmp_path / "onnx")
    assert done.largest_difference < 1e-4 and "prepare(processor.val_transforms" in done.usage
