"""Test-time augmentation: which views there are of a picture, the mean of their probabilities, and where its numbers stand."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from conftest import Hftl
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from digits import write_digits
from PIL import Image
from small import bert, train
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torchvision.transforms.v2 import functional
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    SiglipImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)

import hftl
from hftl.data.content import content_of
from hftl.data.image import ImageSamples
from hftl.data.preparation import preparation_of
from hftl.data.views import Views, check_resizing
from hftl.errors import DataError, RecipeError, RunError
from hftl.evaluation.predictions import Predictions
from hftl.evaluation.targets import target_named
from hftl.evaluation.views import Answers, said_of_views
from hftl.files import read_json, write_json
from hftl.names import ONE_LABEL, SEVERAL_LABELS, VIEWS, Tta
from hftl.recipe import ImageData, Recipe, RunSettings, Stage, TextData, Timm
from hftl.reproduce import reproduce
from hftl.sharing.verify import verify
from hftl.training import finish
from hftl.training.finish import predict_split

FEATURES = Features({"id": Value("string"), "image": ImageFeature(decode=False), "label": ClassLabel(names=["left", "right"])})
SQUARE = {"height": 32, "width": 32}


def timm_processor(**changes: Any) -> TimmWrapperImageProcessor:
    """32 pixels of 40, and mean 0 and deviation 1, so that a model gets values from 0 to 1."""
    config = {"input_size": (3, 32, 32), "crop_pct": 0.8, "mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bilinear"}
    return TimmWrapperImageProcessor(pretrained_cfg={"architecture": "resnet18", **config, **changes})


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def samples_of(*pictures: Image.Image, processor: Any) -> ImageSamples:
    files = [io.BytesIO() for _ in pictures]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file, "PNG")
    rows = {
        "id": [f"{place}.png" for place in range(len(pictures))],
        "image": [{"bytes": file.getvalue(), "path": None} for file in files],
        "label": [0 for _ in pictures],
    }
    dataset = Dataset.from_dict(rows, features=FEATURES)
    return ImageSamples(dataset, processor, augmentation="none", background=(255, 255, 255), seed=0, train=False)


def views(picture: Image.Image, tta: Tta, processor: Any) -> np.ndarray:
    """(V, H, W, 3)"""
    seen: np.ndarray = Views(samples_of(picture, processor=processor), tta)[0, 0]["pixel_values"]
    return seen


# --- which views ----------------------------------------------------------------------------------------------------------------


def test_flip_is_what_evaluation_sees_and_its_mirror_image() -> None:
    processor, picture = timm_processor(), noise(60, 50)
    plain = preparation_of(processor).to_input(picture)
    assert np.array_equal(views(picture, "flip", processor), [plain, plain[:, ::-1]])


@pytest.mark.parametrize("size", [(60, 50), (50, 61), (40, 40)])
def test_crops_are_torchvisions_of_the_resized_picture_and_the_middle_one_is_what_evaluation_sees(size: tuple[int, int]) -> None:
    processor, picture = timm_processor(), noise(*size)
    resized = functional.resize(picture, [40], interpolation=functional.InterpolationMode.BILINEAR, antialias=True)
    five = [np.asarray(crop) for crop in functional.five_crop(resized, [32, 32])]
    ten = [np.asarray(crop) for crop in functional.ten_crop(resized, [32, 32])]
    assert np.array_equal(views(picture, "five_crop", processor), five)
    # torchvision cuts the mirrored ones of the mirrored picture, where left and right have changed places.
    assert {crop.tobytes() for crop in views(picture, "ten_crop", processor)} == {crop.tobytes() for crop in ten}
    assert np.array_equal(five[4], preparation_of(processor).to_input(picture))


def test_grey_pictures_have_the_same_views_and_one_channel() -> None:
    grey = timm_processor(input_size=(1, 32, 32), mean=(0.5,), std=(0.5,))
    samples = samples_of(noise(60, 50), processor=grey)
    seen = Views(samples, "five_crop")
    assert np.array_equal(seen[0, 0]["pixel_values"][4], samples.plain(0))
    assert seen.collate([seen[0, 0]])["pixel_values"].shape == (5, 1, 32, 32)


def test_scales_are_the_middle_of_the_whole_of_seven_eighths_and_of_three_quarters() -> None:
    # Grey rises from 0 to 255 along 96 columns; the input is 64 pixels wide.
    picture = Image.fromarray(np.repeat(np.tile(np.linspace(0, 255, 96).astype(np.uint8), (96, 1))[:, :, None], 3, axis=2))
    seen = views(picture, "scales", timm_processor(input_size=(3, 64, 64)))[:, 32, :, 0].astype(int)
    assert [line[-1] - line[0] for line in seen] == pytest.approx([255, 255 * 7 / 8, 255 * 3 / 4], abs=6)
    assert [line.mean() for line in seen] == pytest.approx([127.5] * 3, abs=3)


@pytest.mark.parametrize(
    ("processor", "resized"),
    [
        (BitImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE), (40, 60)),
        (CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE), (36, 54)),  # cuts nothing of a square: 32 / (7 / 8)
        (ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8), (40, 40)),
        (ViTImageProcessor(size=SQUARE), (36, 36)),  # squashes
        (SiglipImageProcessor(size=SQUARE), (36, 36)),
        (timm_processor(crop_pct=1.0, crop_mode="squash"), (36, 36)),
    ],
)
def test_crops_are_of_what_each_processor_makes_before_it_crops(processor: Any, resized: tuple[int, int]) -> None:
    preparation, picture = preparation_of(processor), noise(90, 60)
    check_resizing(preparation)
    share = preparation.share if preparation.share < 1 else 7 / 8
    whole = preparation.resized(picture, share)
    assert whole.shape == (*resized, 3)
    crops = views(picture, "five_crop", processor)
    assert crops.shape == (5, 32, 32, 3)
    assert np.array_equal(crops[0], whole[:32, :32]) and np.array_equal(crops[3], whole[-32:, -32:])


def test_a_processor_that_pads_has_mirror_images_and_no_crops() -> None:
    processor = timm_processor(crop_pct=1.0, crop_mode="border")
    assert len(views(noise(60, 40), "flip", processor)) == 2
    with pytest.raises(DataError, match=r'does not resize a picture and then cut out its middle.*\n.*write "flip"'):
        views(noise(60, 40), "five_crop", processor)


# --- the mean of probabilities ---------------------------------------------------------------------------------------------------


def test_the_mean_is_of_probabilities_and_its_logits_give_it_back() -> None:
    # Softmax of (0, log 3) is 1/4, 3/4, of (0, 0) a half each: on average 3/8, 5/8. The mean of the logits would give 0.366, 0.634.
    one = target_named(ONE_LABEL)
    fused = one.fused(np.array([[[0.0, np.log(3)], [0.0, 0.0]]], dtype=np.float32))
    assert one.probabilities(fused)[0] == pytest.approx([3 / 8, 5 / 8], abs=1e-7)
    # The sigmoid of log 3 is 3/4, of 0 a half, of -log 3 a quarter.
    several = target_named(SEVERAL_LABELS)
    fused = several.fused(np.array([[[np.log(3), -np.log(3)], [0.0, 0.0]]], dtype=np.float32))
    assert several.probabilities(fused)[0] == pytest.approx([5 / 8, 3 / 8], abs=1e-7)


@pytest.mark.parametrize("kind", [ONE_LABEL, SEVERAL_LABELS])
def test_views_that_are_sure_stay_finite_and_equal_views_change_nothing(kind: str) -> None:
    target = target_named(kind)
    sure = np.array([[[-300.0, 300.0], [-300.0, 300.0]]], dtype=np.float32)
    assert np.isfinite(target.fused(sure)).all()
    logits = np.random.default_rng(0).normal(size=(7, 1, 3)).astype(np.float32)
    assert target.probabilities(target.fused(logits.repeat(4, axis=1))) == pytest.approx(
        target.probabilities(logits[:, 0]), abs=1e-7
    )


class LeftOrRight(torch.nn.Module):
    """Knows how bright the left half is, and how bright the right one; and counts what it is given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once: list[int] = []

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        self.at_once.append(len(pixel_values))
        half = pixel_values.shape[3] // 2
        return SimpleNamespace(
            logits=torch.stack([pixel_values[..., :half].mean((1, 2, 3)), pixel_values[..., half:].mean((1, 2, 3))], 1)
        )


def answers(tta: Tta, *pictures: Image.Image, at_once: int = 64) -> tuple[np.ndarray, list[int]]:
    """(N, K) probabilities, and how many views were given to the model at once."""
    recipe = Recipe(
        name="views",
        data=ImageData(source="pictures"),
        model=Timm(checkpoint="test_resnet", pretrained=False),
        stages={"all": Stage(lr=1e-3)},
        run=RunSettings(evaluation_batch_size=at_once, workers=0),
    )
    model = LeftOrRight()
    samples = samples_of(*pictures, processor=timm_processor())
    return predict_split(model, samples, recipe, Accelerator(cpu=True), tta=tta).probabilities, model.at_once


def half_white(*, left: bool) -> Image.Image:
    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[:, :20] = 255 if left else 0
    pixels[:, 20:] = 0 if left else 255
    return Image.fromarray(pixels)


def test_a_model_that_tells_left_from_right_cannot_after_a_flip_and_a_symmetric_picture_stays_as_it_was() -> None:
    pictures = half_white(left=True), half_white(left=False), Image.new("RGB", (40, 40), (255, 255, 255))
    p = float(np.e / (np.e + 1))  # logits 1 and 0
    alone, _ = answers("none", *pictures)
    assert alone == pytest.approx(np.array([[p, 1 - p], [1 - p, p], [0.5, 0.5]]), abs=1e-6)
    assert answers("flip", *pictures)[0] == pytest.approx(np.full((3, 2), 0.5), abs=1e-6)
    symmetric = Image.fromarray(np.concatenate([(half := np.asarray(noise(20, 40))), half[:, ::-1]], axis=1))
    assert answers("flip", symmetric)[0] == pytest.approx(answers("none", symmetric)[0], abs=1e-7)
    # Of 40 columns the left crops see 20 of 32 white, the right ones 12, the middle one 16.
    logits = np.array([[1.0, 4 / 16], [12 / 16, 0.0], [1.0, 4 / 16], [12 / 16, 0.0], [1.0, 0.0]])
    expected = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).mean(axis=0)
    assert answers("five_crop", half_white(left=True))[0][0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tta", VIEWS)
def test_as_many_views_as_pictures_otherwise_are_in_memory_at_once(tta: Tta) -> None:
    _, at_once = answers(tta, *(noise(45, 40, seed) for seed in range(7)), at_once=12)
    assert sum(at_once) == 7 * VIEWS[tta] and max(at_once) <= 12


# --- a run ------------------------------------------------------------------------------------------------------------------------


def recipe_of(folder: Path, *, epochs: int = 1, **settings: Any) -> Recipe:
    source = write_digits(folder / "digits", range(3), train_per_class=12)
    return Recipe(
        name="views",
        data=ImageData(source=str(source), image_size=32, validation_fraction=0.25, max_test_samples=20),
        model=Timm(checkpoint="test_resnet", pretrained=False),
        stages={"all": Stage(lr=3e-3, epochs=epochs)},
        run=RunSettings(batch_size=9, precision="fp32", workers=0, baseline="none", **settings),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The folder of a run with `run.tta=flip`, and the pictures that it was trained on."""
    folder = tmp_path_factory.mktemp("views")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HFTL_LEDGER", str(folder / "ledger.jsonl"))
        train(recipe_of(folder, epochs=6, tta="flip"), folder / "run")
        yield folder / "run", folder / "digits"


@pytest.fixture
def run(finished: tuple[Path, Path], tmp_path: Path) -> hftl.Run:
    shutil.copytree(finished[0], tmp_path / "run")
    return hftl.load(tmp_path / "run")


def by_hand(run: hftl.Run, split: str, source: Path) -> np.ndarray:
    """(N, K) the mean of the softmaxes of each picture and its mirror image, as transformers and timm give them."""
    model: Any = timm.create_model(f"local-dir:{run.paths.model}", pretrained=True).eval()
    prepare: Any = create_transform(**resolve_model_data_config(model))  # type: ignore[no-untyped-call]
    found = []
    for name in Predictions.load(run.paths.predictions(split)).ids:
        with Image.open(source / name) as picture, torch.no_grad():
            pixels = prepare(picture.convert("RGB"))[None]
            found.append((model(pixels).softmax(1) + model(pixels.flip(3)).softmax(1))[0].numpy() / 2)
    return np.array(found)


def test_validation_and_test_are_predicted_by_views_too_in_one_opening_and_stand_beside_the_plain_numbers(
    run: hftl.Run, finished: tuple[Path, Path]
) -> None:
    for split in ("validation", "test"):
        viewed, plain = (Predictions.load(path) for path in (run.paths.viewed_predictions(split), run.paths.predictions(split)))
        assert viewed.views == "flip" and plain.views is None and viewed.ids == plain.ids
        np.testing.assert_allclose(viewed.probabilities, by_hand(run, split, finished[1]), atol=1e-5)
        values = run.metrics[split]
        right, also = viewed.right.mean(), plain.right.mean()
        assert values["accuracy"] == pytest.approx(also)
        assert values["tta"]["accuracy"] == pytest.approx(right) and values["tta"]["gain"] == pytest.approx(right - also)
        assert (values["tta"]["views"], values["tta"]["passes"]) == ("flip", 2)
    assert len(run.paths.test_openings.read_text().splitlines()) == 1
    assert "(run.tta=flip), which takes 2 times as long" in read_json(run.paths.plan)["remarks"][-1]
    assert "tta: flip" in run.paths.recipe.read_text()


def test_the_card_has_a_row_of_its_own_and_says_what_it_costs(run: hftl.Run) -> None:
    values = run.metrics["test"]
    card = str(run.card())
    [row] = [line for line in card.splitlines() if line.startswith("| Accuracy, over 2 views |")]
    assert f"| {values['tta']['accuracy']:.3f} |" in row and "`predictions/test_views.parquet`" in row
    assert "**Test-time augmentation:** averaged over 2 views of each picture (the picture and its mirror image), the prob" in card
    assert "at 2 times the forward passes" in card and "photos/ --tta flip`" in card
    assert f"**Accuracy on the test split: {values['accuracy']:.3f}**" in card
    assert f"<td>Accuracy, over 2 views</td><td>{run.metrics['validation']['tta']['accuracy']:.4f} [" in run._repr_html_()
    said, _ = said_of_views({"test": values, "validation": values})
    assert said.startswith("  test, mean over 2 views of each picture (flip, 2 times the forward passes): accuracy ")


def test_verify_computes_it_again_and_finds_what_was_changed(run: hftl.Run, finished: tuple[Path, Path]) -> None:
    assert verify(run.paths, figures=False).failed == ()
    claims = {claim.where: claim.holds for claim in reproduce(run.paths, str(finished[1]))}
    assert claims["test.tta.accuracy"] and claims["validation.tta.logits"] and all(claims.values())
    values = read_json(run.paths.metrics)
    values["test"]["tta"]["accuracy"] = 0.999
    write_json(run.paths.metrics, values)
    assert ("metrics.json", "test.tta.accuracy") in [(claim.kind, claim.where) for claim in verify(run.paths, figures=False).failed]
    values["test"]["tta"]["gain"] = "much"
    write_json(run.paths.metrics, values)
    with pytest.raises(RunError, match=r'"test\.tta\.gain" is "much", and should be a number'):
        verify(run.paths)
    run.paths.viewed_predictions("test").unlink()
    del values["test"]["tta"]
    write_json(run.paths.metrics, values)
    assert any("test_views.parquet" in claim.where for claim in verify(run.paths, figures=False).failed)  # it was sealed


def test_a_sealed_test_split_is_opened_once_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "write_figures", lambda *_: [])  # they take most of the time, and show the plain numbers
    run = hftl.Run(train(recipe_of(tmp_path, tta="five_crop", test="sealed"), tmp_path / "run"))
    assert "test" not in run.metrics and run.metrics["validation"]["tta"]["passes"] == 5
    run.test(say=print)
    assert run.metrics["test"]["tta"]["views"] == "five_crop" and verify(run.paths, figures=False).failed == ()
    assert len(run.paths.test_openings.read_text().splitlines()) == 1


def test_other_rows_are_evaluated_by_views_beside_the_plain_numbers(run: hftl.Run, finished: tuple[Path, Path]) -> None:
    other = run.path.parent / "may"
    shutil.copytree(finished[1] / "train", other)
    evaluated = run.evaluate(data=str(other), name="may", tta="ten_crop", say=print)
    assert evaluated.metrics["tta"]["passes"] == 10 and "(ten_crop, 10 times the forward passes)" in repr(evaluated)
    assert Predictions.load(run.paths.evaluation("may") / "views.parquet").views == "ten_crop"
    assert (
        "Averaged over 10 views of each picture (ten_crop), at 10 times the forward passes: accuracy " in run.paths.card.read_text()
    )
    assert verify(run.paths, figures=False).failed == ()
    again = run.evaluate("validation", tta="flip")
    assert again.metrics["tta"]["log_loss"] == pytest.approx(run.metrics["validation"]["tta"]["log_loss"], abs=1e-6)


def test_predict_answers_by_the_mean_from_python_and_the_command_line(
    run: hftl.Run, finished: tuple[Path, Path], hftl: Hftl, tmp_path: Path
) -> None:
    names = Predictions.load(run.paths.predictions("test")).ids[:3]
    files = [str(finished[1] / name) for name in names]
    expected = by_hand(run, "test", finished[1])[:3]
    found = run.predict(files, tta="flip")
    np.testing.assert_allclose([list(one.probabilities.values()) for one in found], expected, atol=1e-5)
    done = hftl("predict", run.path, *files, "--tta", "flip", "--output", tmp_path / "out.csv")
    assert done.code == 0
    written = [line.split(",")[2] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert [float(value) for value in written] == pytest.approx(expected.max(axis=1), abs=1e-5)
    with pytest.raises(RunError, match=r'tta: "flipp" names no views\. Did you mean "flip"'):
        run.predict(files, tta="flipp")  # type: ignore[arg-type]


# --- what there is not --------------------------------------------------------------------------------------------------------


def test_texts_have_no_views() -> None:
    with pytest.raises(RecipeError, match=r"run\.tta: views are flips and crops of pictures, and a text has none"):
        bert("run.tta=flip")
    with pytest.raises(RecipeError, match=r"run\.tta: input should be 'none', 'flip'.*found 'flop'"):
        bert("run.tta=flop")
    with pytest.raises(DataError, match="tta: views are flips and crops of pictures, and a text has none"):
        content_of(TextData(source="texts")).views(None, "flip")


def test_predictions_by_views_of_other_rows_or_without_their_views_are_refused() -> None:
    ids, labels, logits = ["a", "b"], np.array([0, 1]), np.zeros((2, 2), dtype=np.float32)
    plain = Predictions(ids, labels, logits)
    with pytest.raises(RunError, match="by several views of each picture were expected"):
        Answers(plain, Predictions(ids, labels, logits)).metrics(["x", "y"])
    with pytest.raises(RunError, match="of other rows"):
        Answers(plain, Predictions(ids[::-1], labels, logits, views="flip")).metrics(["x", "y"])
