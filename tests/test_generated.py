"""recipes/gan_augmentation.py: what it draws is of train alone, is repeated bit for bit, and is read by `data.extra`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import noise

from hftl.data.source import load_splits
from hftl.errors import RecipeError
from hftl.files import read_json
from hftl.recipe import Extra, ImageData

SMALL = ("--side", "28", "--width", "2", "--batch", "4", "--pictures", "5")


@pytest.fixture(scope="module")
def gan() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "recipes" / "gan_augmentation.py"
    spec = importlib.util.spec_from_file_location("gan_augmentation", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gan") / "photos"
    for split, number in (("train", 6), ("validation", 3), ("test", 2)):
        for place, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for seed in range(number):
                noise(1000 * len(split) + 100 * place + seed).convert("L").save(root / split / name / f"{seed}.png")
    return root


def run(gan: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["gan_augmentation.py", *map(str, arguments)])
    gan.main()


def checkpoint(folder: Path) -> dict[str, Any]:
    return dict(torch.load(folder / "checkpoint.pt", weights_only=True))


def test_stopped_and_gone_on_from_it_draws_the_same_pictures_and_data_extra_reads_them(
    gan: ModuleType, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(gan, monkeypatch, photos, tmp_path / "whole", *SMALL, "--steps", 5)
    for steps in (2, 5):
        run(gan, monkeypatch, photos, tmp_path / "halves", *SMALL, "--steps", steps)
    whole, halves = (checkpoint(tmp_path / name) for name in ("whole", "halves"))
    for part in ("drawing", "judging", "average"):
        assert all(torch.equal(halves[part][name], tensor) for name, tensor in whole[part].items())
    pictures = tmp_path / "whole" / "pictures"
    drawn = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    assert len(drawn) == 10 and drawn[0] == "cat/00000.png"
    assert all((pictures / name).read_bytes() == (tmp_path / "halves" / "pictures" / name).read_bytes() for name in drawn)
    with Image.open(tmp_path / "whole" / "contact.png") as sheet:
        assert sheet.size == (5 * 28, 4 * 28)
    assert "12 training pictures of 2 classes, 28 x 28" in capsys.readouterr().out

    splits = load_splits(ImageData(source=photos, extra=Extra(source=pictures, name="generated", weight=0.5)), seed=0)
    [facts] = splits.facts["extra"]
    assert facts["said"] == "10 generated pictures at weight 0.5 (pictures)"
    assert facts["provenance"]["steps"] == 5 and facts["provenance"]["data_fingerprint"] == splits.facts["fingerprint"]["train"]
    assert read_json(pictures / "provenance.json")["trained_on"] == "12 of train"
    with pytest.raises(RecipeError, match="name another folder"):
        run(gan, monkeypatch, photos, tmp_path / "whole", *SMALL, "--steps", 6, "--seed", 1)


def test_one_class_alone_and_one_that_is_not_there(
    gan: ModuleType, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(gan, monkeypatch, photos, tmp_path / "dogs", *SMALL, "--steps", 1, "--classes", "dog")
    assert [path.name for path in (tmp_path / "dogs" / "pictures").iterdir() if path.is_dir()] == ["dog"]
    with pytest.raises(RecipeError, match="no class hotdog"):
        run(gan, monkeypatch, photos, tmp_path / "none", *SMALL, "--classes", "hotdog")


def test_what_the_discriminator_sees_has_a_gradient_is_shifted_and_has_a_square_cut_out(gan: ModuleType) -> None:
    pictures = torch.ones(64, 1, 32, 32, requires_grad=True)
    torch.manual_seed(0)
    seen = gan.augmented(pictures)
    seen.sum().backward()
    assert seen.shape == pictures.shape and pictures.grad is not None
    cut = (seen == 0).float().mean(dim=(1, 2, 3))
    # A square of 17 x 17 at least in part inside, and a rim of up to 4 pixels.
    assert float(cut.min()) > 0.05 and float(cut.max()) < 0.6
    assert float(pictures.grad.abs().amax(dim=(1, 2, 3)).min()) > 0


def test_the_nearest_training_picture_is_found_and_a_copy_has_no_distance(gan: ModuleType) -> None:
    train = torch.stack([torch.full((1, 2, 2), value) for value in (-1.0, 0.0, 0.5)])
    distances, places = gan.distances(torch.stack([torch.full((1, 2, 2), value) for value in (0.5, 0.2)]), train)
    assert places.tolist() == [2, 1] and distances.tolist() == pytest.approx([0, 0.2], abs=1e-6)
    assert [gan.doublings(side) for side in (28, 32, 64)] == [2, 3, 4]
    assert gan.bytes_of(torch.tensor([[[[-1.0, 1.0]]]])).tolist() == np.array([[[[0] * 3, [255] * 3]]]).tolist()
