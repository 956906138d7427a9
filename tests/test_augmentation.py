"""Policies of torchvision, random erasing, and a machine without Albumentations, whose own pipelines test_image.py has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from sittings import environment
from small import encoded, nano, noise, noisy_pictures, reviews, samples_of
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import TimmWrapperImageProcessor

import hftl.data
from hftl.data.augmentation import augmentation_pipeline, erase
from hftl.data.torchvision_views import TorchvisionViews, _Holes, _transforms
from hftl.errors import RecipeError
from hftl.recipe import AugMix, ImageData, Policy, RandAugment, Timm, TrivialAugment, override, parse_recipe
from hftl.studies.space import read_space

TORCHVISION: list[tuple[str | Policy, str | None]] = [
    ("light", "torchvision"),
    ("standard", "torchvision"),
    ("strong", "torchvision"),
    (RandAugment(), None),
    (TrivialAugment(), None),
    (AugMix(), None),
]


@pytest.fixture(scope="module")
def processor() -> TimmWrapperImageProcessor:
    config = timm.get_pretrained_cfg("resnet18.a1_in1k")
    assert config is not None
    return TimmWrapperImageProcessor(config.to_dict() | {"input_size": (3, 32, 32)})  # type: ignore[no-untyped-call]


# --- views ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "library"), TORCHVISION, ids=str)
def test_a_view_of_torchvision_has_the_inputs_size_and_depends_on_its_key_alone(policy: Any, library: str | None) -> None:
    for size in ((32, 32), (24, 40)):
        made, again = (augmentation_pipeline(policy, size, library=library) for _ in range(2))
        assert made is not None and again is not None and made.sized
        picture = np.asarray(noise(0, 60, 50))
        before = picture.copy()
        views = {key: made.view(picture, (0, 1, key)) for key in range(30)}
        assert all(view.shape == (*size, 3) and view.dtype == np.uint8 for view in views.values())
        assert len({view.tobytes() for view in views.values()}) > 25
        assert all(np.array_equal(again.view(picture, (0, 1, key)), views[key]) for key in reversed(range(30)))
        assert np.array_equal(picture, before)


@pytest.mark.parametrize(("policy", "library"), TORCHVISION, ids=str)
def test_a_policy_of_torchvision_keeps_pictures_recognisable(
    policy: Any, library: str | None, processor: TimmWrapperImageProcessor
) -> None:
    samples = samples_of([encoded(noise(0, 64, 64), "PNG")], processor, augmentation=policy, library=library)
    views = np.stack([samples.augmented(0, epoch) for epoch in range(40)]).astype(float)
    assert views.std(axis=0).mean() > 5
    assert abs(views.mean() - samples.plain(0).mean()) < 25


def test_a_view_leaves_the_generator_of_dropout_as_it_was() -> None:
    made = augmentation_pipeline(RandAugment(), 32)
    assert made is not None
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = torch.rand(1)
    made.view(np.asarray(noise(0, 40, 40)), (1, 2, 3))
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)


def test_a_greater_magnitude_and_severity_change_a_picture_more() -> None:
    picture = np.asarray(noise(0, 64, 64))

    def change(policy: Policy) -> float:
        """Between a view and the crop and flip that it begins with, on average."""
        made, begun = (TorchvisionViews(policy, (64, 64)) for _ in range(2))
        vars(begun)["_transforms"] = v2.Compose(_transforms(policy, (64, 64))[:2])
        views = [[each.view(picture, (0, 0, key)).astype(float) for each in (made, begun)] for key in range(30)]
        return float(np.mean([np.abs(view - before).mean() for view, before in views]))

    magnitudes = [change(RandAugment(magnitude=magnitude)) for magnitude in (0, 9, 30)]
    assert magnitudes == sorted(magnitudes) and magnitudes[2] > 1.5 * magnitudes[0]
    assert change(RandAugment(operations=4)) > 1.3 * change(RandAugment(operations=1))
    assert change(AugMix(severity=10)) > 1.3 * change(AugMix(severity=1))


def test_strong_makes_one_or_two_holes_of_one_colour_each() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        grey = torch.full((3, 40, 60), 128, dtype=torch.uint8)
        changed = (_Holes()(grey) != 128).any(dim=0)
        # A side of each is 0.1 to 0.3 of the picture's: of 40 x 60 pixels 4 x 6 to 12 x 18, once or twice.
        assert 4 * 6 <= changed.sum() <= 2 * 12 * 18
        assert (grey == 128).all()


def test_workers_make_the_same_views(processor: TimmWrapperImageProcessor) -> None:
    pictures = [encoded(noise(seed, 50, 40), "PNG") for seed in range(4)]
    samples = samples_of(pictures, processor, augmentation=TrivialAugment(), erasing=0.5)
    positions = [(3, index) for index in range(4)]
    loader: Any = DataLoader(samples, sampler=positions, batch_size=2, num_workers=1, collate_fn=samples.collate)  # type: ignore[arg-type]
    there = torch.cat([batch["pixel_values"] for batch in loader])
    assert torch.equal(there, samples.collate([samples[position] for position in positions])["pixel_values"])


def test_views_are_the_same_from_the_decoded_store_and_their_fingerprint_says_who_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: TimmWrapperImageProcessor
) -> None:
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "cache"))
    pictures = [encoded(noise(0, 90, 40), "PNG"), encoded(noise(1, 40, 90), "JPEG", quality=95)]
    live, kept = (samples_of(pictures, processor, augmentation=RandAugment(), views=2) for _ in range(2))
    assert kept.decode_once(budget=1e9) is None and kept.find_decoded()
    assert all(
        np.array_equal(kept.augmented(index, epoch), live.augmented(index, epoch % 2)) for index in (0, 1) for epoch in (0, 3)
    )
    settings: list[dict[str, Any]] = [
        {"augmentation": RandAugment()},
        {"augmentation": RandAugment(magnitude=10)},
        {"augmentation": "light"},
        {"augmentation": "light", "library": "torchvision"},
        {"augmentation": "light", "erasing": 0.5},
    ]
    assert len({samples_of(pictures, processor, **each).fingerprint for each in settings}) == len(settings)


# --- random erasing -------------------------------------------------------------------------------------------------------------


def test_erasing_fills_one_rectangle_with_noise_in_its_share_of_the_views() -> None:
    view = np.zeros((40, 60, 3), dtype=np.uint8)
    erased = 0
    for key in range(400):
        found = erase(view, (0, 0, key), 0.25)
        assert np.array_equal(found, erase(view, (0, 0, key), 0.25))
        if found is not view:
            erased += 1
            rows, columns = (np.flatnonzero(found.any(axis=(2, axis))) for axis in (1, 0))
            high, wide = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
            # All of the rectangle is noise (a byte in 256 is 0), between 0.02 and 0.33 of the picture but for whole pixels.
            assert (found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] != 0).mean() > 0.9
            assert 0.015 < high * wide / 2400 < 0.36
            assert 0.25 < high / wide < 4
    assert 75 < erased < 125
    assert not view.any()
    assert erase(view, (0, 0, 0), 0.0) is view


def test_erasing_is_of_the_view_that_the_model_gets(processor: TimmWrapperImageProcessor) -> None:
    own = {"__class_fullname__": "HorizontalFlip", "p": 0.0}  # which does not make the input's size by itself
    white = encoded(noise(0, 80, 50).point(lambda _: 255), "PNG")
    samples = samples_of([white], processor, augmentation=own, erasing=0.9)
    views = [samples.augmented(0, epoch) for epoch in range(20)]
    assert all(view.shape == (32, 32, 3) for view in views)
    assert 14 <= sum(bool((view != 255).any()) for view in views) <= 20
    assert "a rectangle erased in 90% of the views" in samples.how


# --- the recipe -----------------------------------------------------------------------------------------------------------------


def pictures(**data: Any) -> hftl.Recipe:
    return hftl.Recipe(
        name="pictures",
        data=ImageData(source="photos", **data),
        model=Timm(checkpoint="timm/resnet18"),
        stages={"all": hftl.Stage(lr=1e-3)},
    )


def test_a_policy_is_a_word_or_a_section_and_reads_back() -> None:
    for word, section in (("randaugment", RandAugment()), ("trivialaugment", TrivialAugment()), ("augmix", AugMix())):
        assert pictures(augmentation=word) == pictures(augmentation=section)
        recipe = pictures(augmentation=word, random_erasing=0.25, augmentation_views=2)
        assert parse_recipe(recipe.to_yaml(), source="again") == recipe
    changed = override(pictures(), ["data.augmentation=randaugment", "data.augmentation.magnitude=12"])
    assert isinstance(changed.data, ImageData) and changed.data.augmentation == RandAugment(magnitude=12)
    again = override(changed, ["data.augmentation.operations=3", "data.random_erasing=0.5"])
    assert isinstance(again.data, ImageData) and again.data.augmentation == RandAugment(magnitude=12, operations=3)
    assert override(again, ["data.augmentation=augmix"]).data.augmentation == AugMix()  # type: ignore[union-attr]
    assert override(again, ["data.augmentation=light"]).data.augmentation == "light"  # type: ignore[union-attr]
    assert hftl.RandAugment is RandAugment and hftl.TrivialAugment is TrivialAugment and hftl.AugMix is AugMix


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"augmentation": {"kind": "randaugment", "magnitude": 31}}, "augmentation.magnitude: input should be less than or"),
        ({"augmentation": {"kind": "augmix", "magnitude": 3}}, "magnitude is an option of augmentation randaugment"),
        ({"augmentation": {"kind": "trivialaugment", "power": 3}}, 'unknown key "power"'),
        ({"augmentation": {"kind": "randaugmnt"}}, 'no augmentation "randaugmnt". Did you mean "randaugment"?'),
        ({"augmentation": "none", "random_erasing": 0.5}, "random_erasing: erases a part of an augmented picture"),
        ({"augmentation": "light", "random_erasing": 1.0}, "random_erasing: input should be less than 1"),
        ({"augmentation_library": "torchvision"}, "without data.augmentation no library makes views; leave it out"),
        (
            {"augmentation": "augmix", "augmentation_library": "albumentations"},
            "views of augmix, which are torchvision's",
        ),
        ({"augmentation": {"transform": {}}, "augmentation_library": "torchvision"}, "a pipeline of Albumentations'; leave it out"),
        ({"augmentation": "light", "augmentation_library": "kornia"}, "'albumentations' or 'torchvision'"),
    ],
)
def test_an_augmentation_that_does_not_fit_is_refused(data: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        pictures(**data)
    assert why in str(caught.value)


def test_a_policy_that_is_none_is_refused_with_all_words() -> None:
    with pytest.raises(RecipeError, match="randaugment, trivialaugment, augmix, or an Albumentations dict") as caught:
        augmentation_pipeline("randaugmnt", 32)
    assert 'Did you mean "randaugment"?' in str(caught.value)


def test_texts_have_no_augmentation() -> None:
    with pytest.raises(RecipeError, match='unknown key "random_erasing"'):
        override(nano("texts", reviews(8), {"head": hftl.Stage(lr=0.1)}), ["data.random_erasing=0.5"])


def test_a_study_varies_the_strength_of_a_policy() -> None:
    space = read_space(pictures(augmentation="randaugment"), ["data.augmentation.magnitude=5..15", "data.random_erasing=0.1..0.5"])
    assert [dimension.key for dimension in space.dimensions] == ["data.augmentation.magnitude", "data.random_erasing"]


def test_the_card_names_the_policy_its_options_and_who_made_the_views() -> None:
    def said(**data: Any) -> str:
        return ImageData(source="photos", **data).augmented

    assert said() == "none"
    assert said(augmentation="standard") == "standard"
    assert said(augmentation="standard", augmentation_library="torchvision") == "standard, made by torchvision"
    assert said(augmentation="randaugment") == "randaugment of torchvision (operations 2, magnitude 9)"
    assert said(augmentation="trivialaugment", random_erasing=0.25) == (
        "trivialaugment of torchvision; random erasing in 25 % of the views"
    )
    assert said(augmentation={"transform": {}}) == "an Albumentations pipeline of its own, in recipe.yaml"


# --- without Albumentations -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_albumentations(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("albumentations", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "hftl.data.albumentations_views", raising=False)
    monkeypatch.delattr(hftl.data, "albumentations_views", raising=False)


@pytest.mark.usefixtures("no_albumentations")
def test_where_albumentations_is_missing_the_message_names_it_and_the_way_out() -> None:
    with pytest.raises(RecipeError, match="cannot be imported here") as caught:
        augmentation_pipeline("standard", 32)
    assert "pip install albumentations==2.0.8" in str(caught.value)
    assert "data.augmentation_library=torchvision" in str(caught.value)
    with pytest.raises(RecipeError, match="one of torchvision's policies, randaugment, trivialaugment, augmix"):
        augmentation_pipeline({"__class_fullname__": "HorizontalFlip", "p": 0.5}, 32)
    for policy, library in TORCHVISION:
        assert augmentation_pipeline(policy, 32, library=library) is not None
    assert augmentation_pipeline("none", 32) is None


@pytest.mark.slow
def test_pictures_are_trained_where_albumentations_cannot_be_imported(tmp_path: Path) -> None:
    own = ("model.checkpoint=test_resnet", "data.augmentation=strong", "data.augmentation_library=torchvision")
    recipe = noisy_pictures(tmp_path / "data", *own)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    hidden = "import sys; sys.modules['albumentations'] = sys.modules['cv2'] = None; from hftl.cli import main; main()"
    asked = ["train", str(tmp_path / "recipe.yaml"), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", hidden, *asked], env=environment(several=False), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert "- Augmentation, in training only: strong, made by torchvision." in (tmp_path / "run" / "README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-c", hidden, *asked[:3], str(tmp_path / "other"), "data.augmentation_library=null"],
        env=environment(several=False),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "data.augmentation_library=torchvision" in done.stderr
