"""Grey pictures in one channel: what becomes of the first layer, what the model gets, and that it is served as it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from digits import write_digits
from PIL import Image
from safetensors.torch import load_file
from small import quiet

import hftl
from hftl.data.content import content_of
from hftl.data.source import load_splits
from hftl.errors import RecipeError
from hftl.models import load_classifier, pyramid, vision
from hftl.models.family import Classifier
from hftl.recipe import ImageData, Recipe, RunSettings, Stage, Timm, Transformer, override
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
    built = vision.build(Timm(checkpoint="test_resnet", pretrained=False), ("a", "b"), image_size=32)
    vision.save(built, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["pretrained_cfg"] |= {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def build(checkpoint: Path, **model: Any) -> Classifier:
    return vision.build(Timm(checkpoint=str(checkpoint), **model), ("a", "b", "c"), image_size=None)


def test_the_first_layer_has_the_sum_over_its_three_channels(checkpoint: Path) -> None:
    built, own = build(checkpoint, in_chans=1), load_file(checkpoint / "model.safetensors")
    network: Any = built.model.timm_model
    torch.testing.assert_close(network.state_dict()[FIRST], own[FIRST].sum(dim=1, keepdim=True))
    assert built.facts["input_size"] == [1, 32, 32]
    assert built.facts["mean"] == pytest.approx([0.5]) and built.facts["std"] == pytest.approx([0.3])
    assert built.facts["remarks"] == [vision.GREY] and "remarks" not in build(checkpoint).facts
    assert built.chain.names == build(checkpoint).chain.names


def test_what_is_saved_is_loaded_here_and_in_timm_and_stays_grey(checkpoint: Path, tmp_path: Path) -> None:
    built = build(checkpoint, in_chans=1)
    vision.save(built, tmp_path)
    assert list(foreign(tmp_path, [path.name for path in tmp_path.iterdir()])) == []
    pixels = torch.randn(2, 1, 32, 32)
    model: Any = built.model
    loaded: Any = load_classifier(tmp_path).model
    in_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    with torch.no_grad():
        expected = model.eval()(pixels).logits
        assert torch.equal(loaded.eval()(pixels).logits, expected)
        assert torch.equal(in_timm.eval()(pixels), expected)
    again = build(tmp_path)  # None is what the checkpoint has
    assert torch.equal(again.model.timm_model.state_dict()[FIRST], model.timm_model.state_dict()[FIRST])  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match=r"model\.in_chans: the checkpoint reads grey pictures"):
        build(tmp_path, in_chans=3)


def test_other_numbers_of_channels_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="in 1 channel, grey, or in 3, RGB; not in 4"):
        Timm(checkpoint="x", in_chans=4)
    with pytest.raises(RecipeError, match='unknown key "in_chans"'):
        Transformer(checkpoint="x", in_chans=1)  # type: ignore[call-arg]
    for change, message in (
        ({"input_size": [4, 32, 32]}, "4 numbers were expected"),
        ({"mean": [0.5]}, "three numbers were expected"),
    ):
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        config["pretrained_cfg"] |= change
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
        with pytest.raises(RecipeError, match=message):
            build(tmp_path)


def test_a_pyramid_reads_rgb(checkpoint: Path) -> None:
    with pytest.raises(RecipeError, match="a pyramid reads RGB pictures, and this network grey ones"):
        pyramid.build(Timm(checkpoint=str(checkpoint), in_chans=1, pooling="pyramid"), ("a", "b"), image_size=None)


def test_the_model_gets_the_grey_values_normalised_also_of_coloured_pictures(checkpoint: Path, tmp_path: Path) -> None:
    # Red is (299 * 255) / 1000 = 76.2 in grey, and 51 stays 51: (0.298 - 0.5) / 0.3 and (0.2 - 0.5) / 0.3.
    for name, picture in (("red", Image.new("RGB", (40, 32), (255, 0, 0))), ("dark", Image.new("L", (32, 40), 51))):
        for split, shade in (("train", 0), ("validation", 1)):
            (tmp_path / split / name).mkdir(parents=True)
            picture.putpixel((0, 0), (shade, 0, 0) if picture.mode == "RGB" else shade)  # or they would be equal
            picture.save(tmp_path / split / name / "0.png")
    splits = load_splits(ImageData(source=str(tmp_path)), seed=0)
    for augmentation in ("none", "standard"):
        content = content_of(ImageData(source=str(tmp_path), augmentation=augmentation))
        samples = content.samples(splits.train, build(checkpoint, in_chans=1).preprocessor, seed=0, train=True)
        batch = samples.to_device(samples.collate([samples[0, 0], samples[0, 1]]), torch.device("cpu"))["pixel_values"]
        assert batch.shape == (2, 1, 32, 32)
        if augmentation == "none":
            middle = sorted(batch[:, 0, 16, 16].tolist())
            assert middle == pytest.approx([(51 / 255 - 0.5) / 0.3, (76 / 255 - 0.5) / 0.3], abs=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> hftl.Run:
    folder = tmp_path_factory.mktemp("grey")
    data = ImageData(
        source=str(write_digits(folder / "digits", range(2), train_per_class=24)), max_test_samples=20, on_duplicate="drop"
    )
    recipe = Recipe(
        name="grey",
        data=data,
        model=Timm(checkpoint=str(checkpoint), in_chans=1),
        stages={"head": Stage(unfreeze="head", lr=1e-2, epochs=2), "all": Stage(unfreeze="all", lr=3e-3, epochs=4)},
        run=RunSettings(batch_size=8, workers=0, precision="fp32", baseline="none"),
    )
    return hftl.train(override(recipe, ["card.license=mit"]), run_dir=folder / "run", console=quiet())


def test_grey_pictures_are_learned_and_the_lines_of_the_card_answer_as_hftl_does(run: hftl.Run) -> None:
    assert run.metrics["test"]["accuracy"] > 0.8
    card = run.paths.card.read_text(encoding="utf-8")
    assert "It reads pictures in grey, of one channel." in card and "pipeline(" not in card
    file = sorted(Path(run.recipe.data.source).glob("test/1/*.png"))[0]
    code = card.split("With timm:\n\n```python\n")[1].split("```")[0]
    code = code.replace("RUN/model", str(run.path / "model")).replace("picture.jpg", str(file))
    printed: list[Any] = []
    exec(code, {"print": lambda *values: printed.append(values)})  # noqa: S102  # the lines as a reader copies them
    [answer] = run.predict(file)
    assert printed[0] == (answer.label, pytest.approx(answer.probability, abs=1e-5))
    in_memory = [Image.open(file), np.asarray(Image.open(file)), np.asarray(Image.open(file).convert("RGB"))]
    assert [each.probability for each in run.predict(in_memory)] == pytest.approx([answer.probability] * 3, abs=1e-5)


@pytest.mark.slow
def test_what_is_published_answers_as_training_did_and_so_does_the_onnx_file(run: hftl.Run, tmp_path: Path) -> None:
    assert check_serving(run.paths, prepare(run.paths, "me/grey")).samples > 4
    done = export.export_onnx(run.paths, tmp_path / "onnx")
    assert done.largest_difference < 1e-4 and '.convert("L")' in done.usage
