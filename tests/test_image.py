"""Pictures: every kind of file decoded, the pixels that are served, augmentation that only (seed, epoch, index) decides."""

from __future__ import annotations

import gc
import io
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import albumentations as A
import cv2
import numpy as np
import pytest
import timm
import torch
from datasets import ClassLabel, Dataset, Features
from PIL import Image, ImageDraw
from small import FEATURES, WHITE, encoded, samples_of
from torch.utils.data import DataLoader, Sampler
from transformers import TimmWrapperImageProcessor
from transformers.image_utils import load_image

from hftl import fonts, store
from hftl.data.albumentations_views import AlbumentationsViews
from hftl.data.augmentation import POLICIES, augmentation_pipeline
from hftl.data.decoding import BadImage, decode, inspect
from hftl.data.grid import _drawn, write_grid
from hftl.data.image import ImageSamples
from hftl.errors import RecipeError


def noted(content: bytes) -> str:
    """What is odd about a picture."""
    note = inspect(content).note
    assert note is not None
    return note.text


def noise(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """A smooth random picture: JPEG keeps it, and no two places look alike."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def processor() -> TimmWrapperImageProcessor:
    # As pretrained, but 32 pixels wide: bicubic, crop 0.95, mean and deviation of ImageNet.
    config = timm.get_pretrained_cfg("resnet18.a1_in1k")
    assert config is not None
    return TimmWrapperImageProcessor(config.to_dict() | {"input_size": (3, 32, 32)})  # type: ignore[no-untyped-call]


def model_inputs(samples: ImageSamples, *positions: tuple[int, int]) -> torch.Tensor:
    """(B, 3, H, W) float32, as the model gets them."""
    return samples.to_device(samples.collate([samples[position] for position in positions]), torch.device("cpu"))["pixel_values"]


# --- decoding -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["CMYK", "P", "L", "1", "RGB"])
def test_every_colour_mode_is_served_as_it_was_trained(mode: str, tmp_path: Path) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"picture.{suffix}"
    noise(40, 30).convert(mode).save(path)
    assert np.array_equal(np.asarray(decode(path)), np.asarray(load_image(str(path))))
    assert decode(path).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    image = noise(40, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, "JPEG", exif=exif, quality=95)
    upright = load_image(Image.open(io.BytesIO(content)))
    assert decode(content).size == ((40, 30) if orientation < 5 else (30, 40))
    assert np.array_equal(np.asarray(decode(content)), np.asarray(upright))


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    # 65,535 / 255 = 257 steps of the file to one of ours.
    values = np.array([[0, 257, 514, 32_896, 65_535]], dtype=np.uint16)
    assert np.asarray(decode(encoded(Image.fromarray(values), "PNG")))[0, :, 0].tolist() == [0, 1, 2, 128, 255]


def test_float_pictures_are_scaled_by_the_white_that_holds_them() -> None:
    unit = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert np.asarray(decode(encoded(Image.fromarray(unit), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]
    bytes_ = np.array([[0.0, 17.0, 255.0]], dtype=np.float32)
    assert np.asarray(decode(encoded(Image.fromarray(bytes_), "TIFF")))[0, :, 0].tolist() == [0, 17, 255]
    with pytest.raises(BadImage, match="not numbers"):
        decode(encoded(Image.fromarray(np.array([[np.nan]], dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_alpha_is_composed_on_the_background(kind: str) -> None:
    # Left pixel opaque black, right pixel transparent (its hidden colour is black too).
    rgba = Image.fromarray(np.array([[[0, 0, 0, 255], [0, 0, 0, 0]]], dtype=np.uint8))
    image = rgba.convert("LA") if kind == "LA" else rgba
    content = encoded(rgba.convert("P"), "PNG", transparency=bytes([255])) if kind == "palette" else encoded(image, "PNG")
    if kind == "palette":
        palette = Image.new("P", (2, 1))
        palette.putpalette([0, 0, 0, 9, 9, 9])
        palette.putpixel((1, 0), 1)
        content = encoded(palette, "PNG", transparency=1)
    assert np.asarray(decode(content, background=(10, 200, 30))).tolist() == [[[0, 0, 0], [10, 200, 30]]]


def test_half_transparent_white_on_black_is_grey() -> None:
    content = encoded(Image.new("RGBA", (1, 1), (255, 255, 255, 128)), "PNG")
    assert decode(content, background=(0, 0, 0)).getpixel((0, 0)) == (128, 128, 128)


def test_an_animation_gives_its_first_frame_and_is_noted() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content).getpixel((4, 4)) == (200, 0, 0)
    assert noted(content) == "animated or of several pages: the first one is used"


def promising_png(width: int, height: int) -> bytes:
    """A PNG that promises any size in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 20_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    # From our limit on Pillow warns, from twice of it on it raises by itself.
    with pytest.raises(BadImage, match=r"pixels"):
        decode(promising_png(side, side))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty file, 0 bytes"),
        (b"hot dog\n", "not a picture"),
        (encoded(noise(64, 64), "JPEG")[:-200], "truncated"),
        (encoded(noise(64, 64), "PNG")[:200], "truncated|broken|cannot be decoded"),
        (encoded(noise(64, 64), "WEBP")[:100], "cannot be decoded|not a picture"),
        (encoded(noise(64, 64), "BMP")[:400], "truncated"),
        (encoded(noise(64, 64), "TIFF")[:400], "cannot be decoded|not a picture"),
        (encoded(noise(64, 64), "GIF")[:1000], "truncated|cannot be decoded"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of broken TIFF metadata before it raises
def test_broken_files_are_refused_by_decoding_and_by_the_scan(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    for read in (decode, inspect):
        with pytest.raises(BadImage, match=why):
            read(content)
        with pytest.raises(BadImage, match=why):
            read(path)
    with pytest.raises(BadImage, match="No such file"):
        decode(tmp_path / "absent.jpg")


def test_the_scan_finds_a_jpeg_cut_anywhere_although_it_decodes_an_eighth() -> None:
    whole = encoded(noise(300, 200), "JPEG", quality=90)
    assert inspect(whole).note is None
    for share in np.linspace(0.1, 0.98, 30):
        with pytest.raises(BadImage):
            inspect(whole[: int(share * len(whole))])


def test_a_single_pixel_and_a_ribbon_are_noted_and_used(processor: TimmWrapperImageProcessor) -> None:
    pictures = [encoded(noise(1, 1), "PNG"), encoded(noise(1, 4000), "PNG"), encoded(noise(4000, 2), "PNG")]
    assert noted(pictures[0]) == "a single pixel"
    assert noted(pictures[1]) == "1 x 4000 pixels: little of it is left in a square"
    for policy in POLICIES:
        samples = samples_of(pictures, processor, augmentation=policy)
        assert {samples[0, index]["pixel_values"].shape for index in range(3)} == {(32, 32, 3)}


def test_a_ribbon_cut_before_resizing_gives_the_processors_pixels(processor: TimmWrapperImageProcessor) -> None:
    ribbon = noise(900, 6)  # 150 : 1
    pixels = model_inputs(samples_of([encoded(ribbon, "PNG")], processor), (0, 0))
    assert torch.allclose(pixels[0], processor(ribbon)["pixel_values"][0], atol=0.02)  # one step of 255 is 0.017


def test_a_large_jpeg_is_decoded_smaller_for_training_but_never_below_what_is_asked() -> None:
    content = encoded(noise(1600, 1200), "JPEG")
    assert decode(content, at_least=256).size == (400, 300)  # an eighth would be 200 x 150
    assert decode(content, at_least=1000).size == (1600, 1200)
    assert decode(content).size == (1600, 1200)


# --- samples ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(50, 40), (20, 90), (32, 32)])
@pytest.mark.parametrize("train", [False, True])
def test_without_augmentation_the_pixels_are_exactly_the_processors(
    size: tuple[int, int], train: bool, processor: TimmWrapperImageProcessor, tmp_path: Path
) -> None:
    path = tmp_path / "picture.jpg"
    noise(*size).save(path)
    samples = samples_of([path.read_bytes()], processor, train=train, augmentation="none" if train else "strong")
    served = processor(load_image(str(path)))["pixel_values"][0]
    assert torch.equal(model_inputs(samples, (3, 0))[0], served)
    assert np.array_equal(samples.plain(0), samples[3, 0]["pixel_values"])


@pytest.mark.parametrize(
    "change", [{"crop_mode": "squash"}, {"crop_mode": "border"}, {"input_size": (3, 24, 40)}, {"mean": (0.1,) * 3}]
)
def test_every_processor_is_followed_exactly(change: dict[str, Any], processor: TimmWrapperImageProcessor) -> None:
    other = TimmWrapperImageProcessor({**processor.data_config, **change})
    pictures = [noise(50, 40), noise(20, 90, seed=1), noise(7, 7, seed=2)]
    samples = samples_of([encoded(picture, "PNG") for picture in pictures], other)
    inputs = model_inputs(samples, (0, 0), (0, 1), (0, 2))
    assert torch.equal(inputs, other(pictures)["pixel_values"])
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_an_augmented_sample_is_its_view_normalised(processor: TimmWrapperImageProcessor) -> None:
    samples = samples_of([encoded(noise(60, 50), "PNG")], processor, augmentation="strong")
    view = samples.augmented(0, 5)
    assert view.shape == (32, 32, 3)
    assert view.dtype == np.uint8
    mean, std = (np.array(processor.data_config[key], dtype=np.float32) for key in ("mean", "std"))
    expected = ((view / 255 - mean) / std).transpose(2, 0, 1)
    assert np.array_equal(samples[5, 0]["pixel_values"], view)
    assert np.allclose(model_inputs(samples, (5, 0))[0], expected, atol=1e-5)


def test_seed_epoch_and_index_each_change_the_view_and_nothing_else_does(processor: TimmWrapperImageProcessor) -> None:
    pictures = [encoded(noise(60, 50), "PNG")] * 2  # the same picture twice: only the index differs
    samples = samples_of(pictures, processor, augmentation="standard", seed=1)
    view = samples.augmented(0, 0)
    samples.augmented(1, 7)
    assert np.array_equal(samples.augmented(0, 0), view)
    assert not np.array_equal(samples.augmented(0, 1), view)
    assert not np.array_equal(samples.augmented(1, 0), view)
    assert not np.array_equal(samples_of(pictures, processor, augmentation="standard", seed=2).augmented(0, 0), view)


def test_with_views_the_epochs_take_turns(processor: TimmWrapperImageProcessor) -> None:
    pictures = [encoded(noise(60, 50), "PNG")]
    every, three = (samples_of(pictures, processor, augmentation="standard", views=views) for views in (0, 3))
    for epoch in range(7):
        assert np.array_equal(three[epoch, 0]["pixel_values"], every[epoch % 3, 0]["pixel_values"])
    assert not np.array_equal(every[3, 0]["pixel_values"], every[0, 0]["pixel_values"])


class Pairs(Sampler[tuple[int, int]]):
    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        self.pairs = pairs

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.pairs)


@pytest.mark.parametrize("reverse", [False, True])
def test_workers_and_order_change_no_pixel(reverse: bool, processor: TimmWrapperImageProcessor) -> None:
    pictures = [encoded(noise(60, 50, seed=seed), "PNG") for seed in range(6)]
    samples = samples_of(pictures, processor, augmentation="strong")
    pairs = [(epoch, index) for epoch in range(2) for index in range(6)]
    seen: dict[int, dict[tuple[int, int], torch.Tensor]] = {}
    for workers in (0, 2):
        order = pairs[::-1] if reverse and workers else pairs
        # The loader asks a data set for __len__ and __getitem__ alone; the sampler says with what.
        data = cast("torch.utils.data.Dataset[Any]", samples)
        fork = "fork" if workers else None  # as hftl's loader has it, from Python 3.14 on too
        loader = DataLoader(
            data, batch_size=3, sampler=Pairs(order), num_workers=workers, collate_fn=samples.collate, multiprocessing_context=fork
        )
        pixels = torch.cat([batch["pixel_values"] for batch in loader])
        seen[workers] = dict(zip(order, pixels, strict=True))
    assert len(seen[0]) == 12
    assert all(torch.equal(seen[0][pair], seen[2][pair]) for pair in pairs)


def test_a_batch_has_the_names_of_the_models_inputs(processor: TimmWrapperImageProcessor) -> None:
    samples = samples_of([encoded(noise(40, 40, seed=seed), "PNG") for seed in range(3)], processor)
    batch = samples.collate([samples[0, 2], samples[0, 1]])
    assert set(batch) == {"pixel_values"}
    assert (batch["pixel_values"].shape, batch["pixel_values"].dtype) == ((2, 3, 32, 32), torch.uint8)
    assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert (samples.targets.tolist(), samples.lengths) == ([0, 1, 0], None)


def test_a_picture_more_costs_a_few_bytes_of_memory(processor: TimmWrapperImageProcessor) -> None:
    content = encoded(Image.new("RGB", (2, 2)), "PNG")

    def taken(rows: int) -> int:
        data = {"id": [f"train/a long name {row}" for row in range(rows)], "image": [{"bytes": content, "path": None}] * rows}
        dataset = Dataset.from_dict({**data, "label": [0, 1] * (rows // 2)}, features=FEATURES)
        tracemalloc.start()
        samples = ImageSamples(dataset, processor, augmentation="light", background=WHITE, seed=0, train=True)
        assert samples.sizes.sum() == 4 * rows
        assert samples.ids[rows - 1] == f"train/a long name {rows - 1}"
        gc.collect()  # Pillow's pictures refer to themselves
        now = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return now

    taken(10)  # what is made once
    # The label has 8 bytes and the header 10; a list of names alone would be more than 80.
    assert taken(3000) - taken(1000) < 40 * 2000


def test_a_picture_that_became_unreadable_is_named(processor: TimmWrapperImageProcessor) -> None:
    with pytest.raises(BadImage, match="train/0: empty file"):
        samples_of([b""], processor)[0, 0]


# --- decoded once -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files_of(folder: Path, pictures: list[bytes]) -> Dataset:
    """Picture files, whose content can change."""
    folder.mkdir()
    paths = [folder / f"{row}.jpg" for row in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(picture)
    rows = {
        "id": [path.name for path in paths],
        "image": [{"bytes": None, "path": str(path)} for path in paths],
        "label": [row % 2 for row in range(len(paths))],
    }
    return Dataset.from_dict(rows, features=FEATURES)


def turned(image: Image.Image) -> bytes:
    """A JPEG whose EXIF turns it on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


PICTURES = [
    encoded(noise(60, 50), "PNG"),
    encoded(noise(400, 300, seed=1), "JPEG"),  # is decoded at 100 x 75 for an input of 32 pixels
    turned(noise(400, 320, seed=2)),
    encoded(noise(40, 90, seed=3).convert("RGBA"), "PNG"),
    encoded(noise(64, 64, seed=4), "ICO", sizes=[(16, 16), (48, 48)]),
    encoded(noise(1, 700, seed=5), "PNG"),
    encoded(noise(33, 70, seed=6), "WEBP"),
]


@pytest.mark.parametrize(("augmentation", "train"), [("none", True), ("strong", False), ("strong", True), ("own", True)])
def test_samples_are_the_same_from_the_cache(
    augmentation: str, train: bool, cache: Path, tmp_path: Path, processor: TimmWrapperImageProcessor
) -> None:
    own = A.to_dict(A.Compose([A.HorizontalFlip(p=0.5)]))
    settings: dict[str, Any] = {"augmentation": own if augmentation == "own" else augmentation, "train": train}
    settings |= {"background": WHITE, "seed": 3}
    dataset = files_of(tmp_path / "pictures", PICTURES)
    live = ImageSamples(dataset, processor, **settings)
    places = [(epoch, index) for epoch in range(3) for index in range(len(PICTURES))]
    expected, plain = [live[place]["pixel_values"] for place in places], [live.plain(index) for index in range(len(live))]
    first, later = (ImageSamples(dataset, processor, **settings) for _ in range(2))
    assert not first.find_decoded()
    assert first.decode_once(budget=1e9) is None
    assert later.find_decoded()
    for path in (tmp_path / "pictures").iterdir():
        path.write_bytes(b"no picture any more")
    told = ImageSamples(dataset, processor, **settings)  # by another process, and so no file is read
    assert told.find_decoded(first.decoded_key)
    for samples in (first, later, told):
        assert all(np.array_equal(samples[place]["pixel_values"], then) for place, then in zip(places, expected, strict=True))
        assert samples.ids[1] == "1.jpg"
    if not train or augmentation == "none":
        assert all(np.array_equal(later.plain(index), then) for index, then in enumerate(plain))


def test_a_big_photo_is_kept_as_small_as_training_needs_it(cache: Path, processor: TimmWrapperImageProcessor) -> None:
    samples = samples_of([encoded(noise(1600, 1200), "JPEG")], processor, augmentation="light")
    assert samples.decode_once(budget=1e9) is None
    # An eighth, the least that JPEG offers: 200 x 150; the model's input of 32 would do with 64.
    assert [path.stat().st_size for path in cache.rglob("rows.bin")] == [8 + 200 * 150 * 3]


def test_decoding_that_was_interrupted_goes_on(
    cache: Path, tmp_path: Path, processor: TimmWrapperImageProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hftl.data.image._BATCH", 2)
    pictures = [encoded(noise(40, 40, seed=seed), "PNG") for seed in range(7)]
    batches = iter([None, None])
    samples = samples_of(pictures, processor)
    with pytest.raises(StopIteration):
        samples.decode_once(budget=1e9, after_batch=lambda: next(batches))
    assert not samples.find_decoded()
    again = samples_of(pictures, processor)
    assert not again.find_decoded()  # has read all files for their content
    decoded: list[int] = []
    read = again.original

    def original(index: int) -> bytes | str:
        decoded.append(index)
        return read(index)

    monkeypatch.setattr(again, "original", original)
    assert again.decode_once(budget=1e9) is None
    assert decoded == [6]  # of the batches (0, 1), (2, 3), (4, 5) and (6) three were marked
    live = samples_of(pictures, processor)
    assert all(np.array_equal(again[0, index]["pixel_values"], live[0, index]["pixel_values"]) for index in range(7))


def test_what_does_not_fit_is_decoded_live(cache: Path, processor: TimmWrapperImageProcessor) -> None:
    samples = samples_of(PICTURES, processor)
    why = samples.decode_once(budget=1000)
    # 7 crops of 32 x 32 x 3 bytes
    assert why == "pictures are decoded again in every epoch: 21.5 kB do not fit into the cache's 1.0 kB"
    assert not list(cache.rglob("rows.bin"))
    assert samples[0, 0]["pixel_values"].shape == (32, 32, 3)


def test_a_picture_that_cannot_be_decoded_is_named_and_nothing_is_kept(cache: Path, processor: TimmWrapperImageProcessor) -> None:
    for policy in ("none", "light"):
        samples = samples_of([PICTURES[0], PICTURES[1][:-200]], processor, augmentation=policy)
        with pytest.raises(BadImage, match="train/1: cannot be decoded"):
            samples.decode_once(budget=1e9)
        assert not samples.find_decoded()


def test_the_fingerprint_follows_everything_that_decides_the_pixels(tmp_path: Path, processor: TimmWrapperImageProcessor) -> None:
    dataset = files_of(tmp_path / "pictures", PICTURES[:2])
    darker = TimmWrapperImageProcessor({**processor.data_config, "std": (0.5,) * 3})

    def fingerprint(processor: TimmWrapperImageProcessor = processor, **settings: Any) -> str:
        defaults: dict[str, Any] = {"augmentation": "strong", "background": WHITE, "seed": 0, "train": True}
        return ImageSamples(dataset, processor, **defaults | settings).fingerprint

    own = A.to_dict(A.Compose([A.HorizontalFlip(p=0.25)]))
    changes: list[dict[str, Any]] = [
        {},
        {"augmentation": "light"},
        {"augmentation": own},
        {"background": (0, 0, 0)},
        {"seed": 1},
        {"views": 2},
        {"train": False},
        {"processor": darker},
    ]
    found = [fingerprint(**change) for change in changes]
    assert len(set(found)) == len(changes)
    assert [fingerprint(**change) for change in changes] == found
    # Evaluation draws nothing: what decides the augmentation does not decide it.
    assert fingerprint(train=False) == fingerprint(train=False, augmentation="light", seed=5, views=3)
    (tmp_path / "pictures" / "1.jpg").write_bytes(PICTURES[2])
    assert fingerprint() not in found


# --- augmentation -------------------------------------------------------------------------------------------------------------


def test_two_transforms_of_one_pipeline_are_drawn_independently(processor: TimmWrapperImageProcessor) -> None:
    # Seeded through Compose.set_random_seed both flips would always come together: two kinds of view instead of four.
    flips = A.to_dict(A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]))
    corners = Image.fromarray(np.array([[0, 80], [160, 240]], dtype=np.uint8)).resize((32, 32), Image.Resampling.NEAREST)
    samples = samples_of([encoded(corners, "PNG")], processor, augmentation=flips)
    views = [int(samples.augmented(0, epoch)[0, 0, 0]) for epoch in range(100)]
    assert {value: views.count(value) > 10 for value in (0, 80, 160, 240)} == dict.fromkeys((0, 80, 160, 240), True)


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_a_policy_changes_pictures_and_keeps_them_recognisable(policy: str, processor: TimmWrapperImageProcessor) -> None:
    samples = samples_of([encoded(noise(64, 64), "PNG")], processor, augmentation=policy)
    views = np.stack([samples.augmented(0, epoch) for epoch in range(40)]).astype(float)
    assert views.std(axis=0).mean() > 5
    means = views.mean(axis=(1, 2, 3))
    assert abs(means.mean() - samples.plain(0).mean()) < 30
    assert means.min() > 30
    assert means.max() < 230


def test_an_own_pipeline_sees_the_whole_picture_and_is_resized_to_the_input(processor: TimmWrapperImageProcessor) -> None:
    left_half = A.to_dict(A.Compose([A.Crop(0, 0, 40, 80, p=1.0)]))
    picture = Image.new("RGB", (80, 80), (250, 0, 0))
    picture.paste((0, 0, 250), (40, 0, 80, 80))
    for augmentation in (left_half, left_half["transform"]):
        samples = samples_of([encoded(picture, "PNG")], processor, augmentation=augmentation)
        view = samples.augmented(0, 0)
        assert view.shape == (32, 32, 3)
        assert (view == (250, 0, 0)).all()


def own(*transforms: A.BasicTransform) -> dict[str, Any]:
    found: dict[str, Any] = A.to_dict(A.Compose(list(transforms)))
    return found


def like(processor: TimmWrapperImageProcessor, **changes: Any) -> TimmWrapperImageProcessor:
    return TimmWrapperImageProcessor({**processor.data_config, **changes})


GEOMETRIES: list[dict[str, Any]] = [
    {"crop_pct": 0.875},
    {"crop_pct": 1.0},
    {"crop_pct": 0.875, "crop_mode": "squash"},
    {"crop_pct": 0.9, "crop_mode": "border"},
    {"input_size": (3, 24, 40)},
]


@pytest.mark.parametrize(
    "size", [(90, 40), (40, 90), (64, 64), (32, 32), (600, 12)], ids=["wide", "tall", "square", "input", "ribbon"]
)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_an_own_pipeline_that_changes_nothing_gives_the_pixels_of_evaluation(
    geometry: dict[str, Any], size: tuple[int, int], processor: TimmWrapperImageProcessor
) -> None:
    never = own(A.HorizontalFlip(p=0.0))
    samples = samples_of([encoded(noise(*size), "JPEG", quality=95)], like(processor, **geometry), augmentation=never)
    assert np.array_equal(samples[3, 0]["pixel_values"], samples.plain(0))
    assert "then resized and cropped to" in samples.how


def disc(width: int, height: int) -> Image.Image:
    """A white disc in the middle of black, half as wide as the picture is on its shorter side."""
    canvas = Image.new("RGB", (width, height))
    radius, x, y = min(width, height) / 4, width / 2, height / 2
    ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255))
    return canvas


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("size", [(240, 120), (120, 240)], ids=["wide", "tall"])
def test_under_an_own_pipeline_a_disc_stays_a_disc_of_the_size_that_evaluation_sees(
    size: tuple[int, int], crop_pct: float, processor: TimmWrapperImageProcessor
) -> None:
    flips = own(A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5))
    samples = samples_of([encoded(disc(*size), "PNG")], like(processor, crop_pct=crop_pct), augmentation=flips)
    for view in (samples.plain(0), samples.augmented(0, 0), samples.augmented(0, 1)):
        lit = view[:, :, 0] > 127
        across, down = lit.any(axis=0).sum(), lit.any(axis=1).sum()
        # Half of the 32 / crop_pct pixels that the shorter side becomes: 16 and 18. It used to be 8 x 16 and 16 x 8.
        assert (across, down) == (pytest.approx(16 / crop_pct, abs=1), pytest.approx(16 / crop_pct, abs=1))


def test_under_an_own_pipeline_the_sides_of_a_wide_picture_are_cut_off_as_in_evaluation(
    processor: TimmWrapperImageProcessor,
) -> None:
    picture = Image.new("RGB", (120, 40), (0, 200, 0))
    picture.paste((200, 0, 0), (0, 0, 35, 40))
    picture.paste((0, 0, 200), (85, 0, 120, 40))
    for crop_pct in (0.875, 1.0):
        flip = samples_of([encoded(picture, "PNG")], like(processor, crop_pct=crop_pct), augmentation=own(A.HorizontalFlip(p=1.0)))
        view, plain = flip.augmented(0, 0), flip.plain(0)
        # The middle 40 x 40 (or 35 x 35) of 120 x 40: red up to 35 ends left of it, blue from 85 begins right of it.
        assert (plain == (0, 200, 0)).all() and (view == (0, 200, 0)).all()


def test_an_own_pipeline_that_makes_the_input_itself_is_used_as_it_is(processor: TimmWrapperImageProcessor) -> None:
    left = own(A.Crop(0, 0, 40, 40, p=1.0), A.Resize(32, 32, p=1.0))
    picture = noise(80, 60)
    samples = samples_of([encoded(picture, "PNG")], like(processor, crop_pct=0.5), augmentation=left)
    expected = A.Resize(32, 32, p=1.0)(image=np.asarray(picture)[:40, :40])["image"]
    assert np.array_equal(samples.augmented(0, 0), expected)
    assert samples.how == "the recipe's own pipeline, which makes pictures of 32 x 32 pixels itself"
    for crop in (A.RandomResizedCrop((32, 32), p=1.0), A.RandomCrop(32, 32, p=1.0)):
        assert "itself" in samples_of([encoded(picture, "PNG")], processor, augmentation=own(crop)).how


def test_a_picture_of_the_inputs_size_is_cropped_under_an_own_pipeline_as_in_evaluation(
    processor: TimmWrapperImageProcessor,
) -> None:
    # 32 x 32 already, and still evaluation looks at its middle 16 x 16 alone, enlarged: training must not see the whole.
    samples = samples_of([encoded(disc(32, 32), "PNG")], like(processor, crop_pct=0.5), augmentation=own(A.VerticalFlip(p=1.0)))
    assert (samples.augmented(0, 0)[:, :, 0] > 127).mean() > 0.7  # a disc of diameter 32 in 32 x 32 pixels covers 79 %


@pytest.mark.parametrize("transform", [A.RandomResizedCrop((48, 48), p=1.0), A.Resize(64, 48, p=1.0), A.RandomCrop(30, 40, p=1.0)])
def test_a_pipeline_that_makes_another_size_is_brought_to_the_input_without_stretching_it(
    transform: A.BasicTransform, processor: TimmWrapperImageProcessor
) -> None:
    samples = samples_of([encoded(noise(80, 60), "PNG")], like(processor, crop_pct=1.0), augmentation=own(transform))
    again = samples_of([encoded(noise(80, 60), "PNG")], like(processor, crop_pct=1.0), augmentation=own(transform))
    assert samples.augmented(0, 0).shape == (32, 32, 3)
    assert np.array_equal(samples.augmented(0, 0), again.augmented(0, 0))
    assert "then resized and cropped to 32 x 32 pixels as for evaluation" in samples.how


def test_an_own_pipeline_is_the_same_from_the_decoded_cache_and_takes_turns_over_its_views(
    cache: Path, processor: TimmWrapperImageProcessor
) -> None:
    pictures = [encoded(noise(90, 40), "PNG"), encoded(noise(40, 90, seed=1), "JPEG", quality=95)]
    settings: dict[str, Any] = {"augmentation": own(A.Rotate((-20, 20), p=0.5), A.HorizontalFlip(p=0.5)), "views": 2}
    live, kept = (samples_of(pictures, like(processor, crop_pct=0.875), **settings) for _ in range(2))
    assert kept.decode_once(budget=1e9) is None and kept.find_decoded()
    for epoch in range(5):
        for index in range(2):
            assert np.array_equal(kept.augmented(index, epoch), live.augmented(index, epoch % 2))
        assert np.array_equal(kept.plain(0), live.plain(0))


def test_what_was_kept_of_an_own_pipeline_under_its_old_geometry_is_not_taken_for_the_new(
    processor: TimmWrapperImageProcessor,
) -> None:
    # Activations are found by this fingerprint. Pipelines that make the input themselves are as they were, and keep theirs.
    def fingerprint(augmentation: dict[str, Any], **geometry: Any) -> str:
        return samples_of([encoded(noise(40, 40), "PNG")], like(processor, **geometry), augmentation=augmentation).fingerprint

    unsized, sized = own(A.HorizontalFlip(p=0.5)), own(A.Resize(32, 32, p=1.0))
    assert fingerprint(unsized, crop_pct=0.9) != fingerprint(unsized, crop_pct=1.0)
    samples = samples_of([encoded(noise(40, 40), "PNG")], processor, augmentation=unsized)
    parts = {"decoding": samples._decoding, "processor": processor.data_config, "seed": 0, "views": 0, "opencv": cv2.__version__}
    for augmentation, same in ((unsized, False), (sized, True)):
        made = samples_of([encoded(noise(40, 40), "PNG")], processor, augmentation=augmentation)
        assert isinstance(made._augmentation, AlbumentationsViews)
        old = store.key_of(parts | {"pipeline": A.to_dict(made._augmentation.pipeline)})
        assert (made.fingerprint == old) is same


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_a_policy_makes_the_input_itself(policy: str, processor: TimmWrapperImageProcessor) -> None:
    for size in ((32, 32), (24, 40)):
        made = augmentation_pipeline(policy, size)
        assert isinstance(made, AlbumentationsViews) and made.sized
        assert made.pipeline(image=np.asarray(noise(90, 50)))["image"].shape == (*size, 3)


@pytest.mark.parametrize(
    ("augmentation", "why"),
    [
        ("strng", 'no policy "strng". Did you mean "strong"?'),
        ({"transforms": []}, 'no "__class_fullname__" in it'),
        (
            {"__class_fullname__": "HorizontalFlop", "p": 0.5},
            'no transform "HorizontalFlop" in albumentations. Did you mean "HorizontalFlip"?',
        ),
        ({"__class_fullname__": "os.system", "command": "true"}, 'no transform "os.system"'),
        ({"__class_fullname__": "Lambda", "__name__": "f", "p": 1.0}, 'no transform "Lambda"'),
        ({"__class_fullname__": "HorizontalFlip", "p": 0.5, "strength": 2}, "strength"),
        ({"__class_fullname__": "HorizontalFlip"}, "no 'p' parameter"),
        ({"__class_fullname__": "GaussianBlur", "p": 1.0, "blur_limit": "much"}, "blur_limit"),
        ({"__class_fullname__": "Normalize", "p": 0.5}, "leave out Normalize"),
        ({"__class_fullname__": "Normalize", "p": 0.0001}, "leave out Normalize: hftl normalises, after the augmentation"),
        ({"__class_fullname__": "ToTensorV2", "p": 1.0}, "leave out ToTensorV2"),
        ({"__class_fullname__": "FDA", "p": 1.0, "reference_images": ["/etc/passwd"]}, '"reference_images" reads files'),
        (
            {"__class_fullname__": "Compose", "p": 1.0, "transforms": [{"__class_fullname__": "a.B", "p": 1.0}]},
            'no transform "a.B"',
        ),
    ],
)
def test_an_augmentation_that_is_not_plain_and_working_data_is_refused(augmentation: Any, why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        augmentation_pipeline(augmentation, 32)
    assert caught.value.problems[0].where == "data.augmentation"
    assert why in str(caught.value)


def test_a_pipeline_that_fails_on_one_picture_says_on_which_size(processor: TimmWrapperImageProcessor) -> None:
    crop = {"__class_fullname__": "RandomCrop", "height": 300, "width": 300, "p": 1.0}
    samples = samples_of([encoded(noise(80, 60), "PNG")], processor, augmentation=crop)
    with pytest.raises(RecipeError, match="80 x 60 pixels"):
        samples.augmented(0, 0)


# --- the grid -----------------------------------------------------------------------------------------------------------------


def test_the_grid_shows_each_class_as_evaluation_and_as_training_see_it(
    processor: TimmWrapperImageProcessor, tmp_path: Path
) -> None:
    colours = [(200, 30, 30), (30, 30, 200)]
    pictures = [encoded(Image.new("RGB", (50, 50), colours[row % 2]), "PNG") for row in range(6)]
    path = tmp_path / "figures" / "augmentation.png"
    write_grid(samples_of(pictures, processor, augmentation="light"), path, rows=2, views=3)
    with Image.open(path) as image:
        grid = np.asarray(image)
    # 168 x 168 pixels a cell: 4 of each class's colour (one original, three views).
    for colour in colours:
        assert (grid == colour).all(axis=2).sum() == 4 * 168 * 168
    again = tmp_path / "again.png"
    write_grid(samples_of(pictures, processor, augmentation="light"), again, rows=2, views=3)
    assert again.read_bytes() == path.read_bytes()


def test_fewer_samples_than_rows_give_a_smaller_grid(processor: TimmWrapperImageProcessor, tmp_path: Path) -> None:
    write_grid(samples_of([encoded(noise(40, 40), "PNG")], processor), tmp_path / "grid.png", rows=4, views=1)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.height < 300


def test_real_photos_pass_the_scan_and_every_policy(shared: Path, processor: TimmWrapperImageProcessor) -> None:
    paths = sorted((shared / "data" / "hymenoptera" / "train").rglob("*.jpg"))[::20]
    assert len(paths) > 10
    assert [inspect(path).note for path in paths] == [None] * len(paths)
    samples = samples_of([path.read_bytes() for path in paths], processor, augmentation="strong")
    assert all(samples[0, index]["pixel_values"].std() > 5 for index in range(len(samples)))


def test_the_grid_writes_names_of_every_script_or_a_number(processor: TimmWrapperImageProcessor, tmp_path: Path) -> None:
    names = ["إيجابي", "\U00013000"]  # Arabic, which DejaVu Sans has, and a hieroglyph
    features = Features({**FEATURES, "label": ClassLabel(names=names)})
    rows = {
        "id": ["train/إيجابي/1.png", "train/\U00013000/2.png"],
        "image": [{"bytes": encoded(noise(40, 40, seed=seed), "PNG"), "path": None} for seed in range(2)],
        "label": [0, 1],
    }
    settings: dict[str, Any] = {"augmentation": "light", "background": WHITE, "seed": 0, "train": True}
    samples = ImageSamples(Dataset.from_dict(rows, features=features), processor, **settings)
    write_grid(samples, tmp_path / "grid.png", rows=2, views=1)
    if fonts.find_face("\U00013000") is None:
        assert _drawn(names[1], 16, otherwise="class 2")[0] == "class 2"
    assert _drawn(names[0], 16, otherwise="class 1")[0] == f"\u2068{names[0]}\u2069"
    assert _drawn(f"train/{names[0]}/0.png", 13, otherwise="picture 1")[0] == f"train/\u2068{names[0]}\u2069/0.png"
    assert _drawn("cat", 16, otherwise="class 1")[0] == "cat"
    assert _drawn("a\x1bb", 16, otherwise="class 1")[0] == "class 1"
