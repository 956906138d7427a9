"""Several views of each picture: a model answers each of them, and the mean of the probabilities is the answer (test-time
augmentation).

- "flip": the picture as evaluation sees it, and its mirror image.
- "five_crop": the four corners and the middle of the picture as the processor resizes it before it crops; "ten_crop": these five
  and their mirror images.
- "scales": the middle, at three sizes: the input is the whole of the shorter side, seven eighths, and three quarters of it.

Where the processor cuts nothing off (it brings the whole picture to the input's size, by stretching or squashing it), there is
nothing to move a crop in. For the crops it then resizes to 8/7 of the input's size, 256 for 224, and stretches as much.

V views, H x W pixels of the model's input.

References: Krizhevsky et al. 2012, doi:10.1145/3065386 (ten crops); He et al. 2016, arXiv:1512.03385 (ten crops, scales);
Shanmugam et al. 2021, arXiv:2011.11156 (when the mean over views helps, and when it does not).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from hftl.data.preparation import Preparation
from hftl.errors import DataError
from hftl.names import VIEWS, Tta
from hftl.store import key_of

if TYPE_CHECKING:
    from hftl.data.image import ImageSamples

ROOM = 7 / 8
"""Share of a resized picture's sides that a crop has, where the processor itself leaves no room for one."""
SCALES = (1.0, 7 / 8, 3 / 4)
"""Shares of the shorter side that the input is, in "scales"."""
ALIKE = 8.0
"""Of 255, the mean difference up to which two crops of a smooth picture are the same but for a pixel's place."""


class Views:
    """Pictures as `ImageSamples` has them, each of them several times: what a batch of B has is (B V, ...).

    Args:
        samples: the pictures, as evaluation sees them.
        tta: which views, one of `VIEWS`.

    Raises:
        DataError: how the processor resizes is not known well enough to cut crops from it.
    """

    def __init__(self, samples: ImageSamples, tta: Tta) -> None:
        self._samples = samples
        self._tta = tta
        if tta != "flip":
            check_resizing(samples.preparation)

    size_unit: Literal["pixels"] = "pixels"
    lengths: None = None

    @property
    def ids(self) -> Sequence[str]:
        """Those of the pictures."""
        return self._samples.ids

    @property
    def weights(self) -> np.ndarray | None:
        """Of the samples."""
        return self._samples.weights

    @property
    def targets(self) -> np.ndarray:
        """One of each picture."""
        return self._samples.targets

    @property
    def sizes(self) -> np.ndarray:
        """Pixels of each picture's file. (N,)"""
        return self._samples.sizes

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of all that the model gets."""
        return key_of({"pictures": self._samples.fingerprint, "views": self._tta})

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """Picture `index`: ``{"pixel_values": (V, H, W, 3) uint8}``; every epoch sees the same.

        Raises:
            BadImage: it cannot be read (any more).
        """
        _, index = position
        if self._tta == "flip":
            views = [self._samples.plain(index)]
        else:
            views = list(_crops(self._samples.decoded(index), self._samples.preparation, self._tta))
        if self._tta in ("flip", "ten_crop"):
            views += [view[:, ::-1] for view in views]
        assert len(views) == VIEWS[self._tta]
        return {"pixel_values": np.stack(views)}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``{"pixel_values": (B V, 3, H, W) uint8, channels last in memory}``, the V views of a picture one after the other."""
        views = [{"pixel_values": view} for sample in samples for view in sample["pixel_values"]]
        return self._samples.collate(views)

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """As `ImageSamples.to_device`."""
        return self._samples.to_device(inputs, device)


def _crops(picture: Image.Image, preparation: Preparation, tta: Tta) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8, each."""
    height, width = preparation.size
    if tta == "scales":
        yield from (middle(preparation.resized(picture, share), preparation.size) for share in SCALES)
        return
    resized = preparation.resized(picture, preparation.share if preparation.share < 1 else ROOM)
    yield resized[:height, :width]
    yield resized[:height, -width:]
    yield resized[-height:, :width]
    yield resized[-height:, -width:]
    yield middle(resized, preparation.size)


def middle(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, C) the middle of a picture, of an odd rest half a pixel further as torchvision's `center_crop` rounds it."""
    height, width = size
    top, left = round((picture.shape[0] - height) / 2), round((picture.shape[1] - width) / 2)
    return picture[top : top + height, left : left + width]


def check_resizing(preparation: Preparation) -> None:
    """Refuse a processor that does not resize a picture and then cut out its middle, the same way at every size; it is tried out.

    Raises:
        DataError: it does something else.
    """
    for wide, tall in ((96, 64), (64, 96)):
        across, down = np.meshgrid(np.linspace(0, 255, wide), np.linspace(0, 255, tall))
        picture = Image.fromarray(np.stack([across, down, across], axis=2).astype(np.uint8))
        own, whole, smallest = (
            middle(preparation.resized(picture, share), preparation.size) for share in (preparation.share, 1.0, min(SCALES))
        )
        if {own.shape, whole.shape, smallest.shape} != {(*preparation.size, 3)} or (
            np.abs(own.astype(float) - preparation.to_input(picture)).mean() > ALIKE
            # Three quarters of either side are three quarters of the way from black to white that the whole has.
            or any(abs(np.ptp(smallest[:, :, channel]) - min(SCALES) * np.ptp(whole[:, :, channel])) > ALIKE for channel in (0, 1))
        ):
            what = "this model's image processor does not resize a picture and then cut out its middle, so there are no crops of it"
            raise DataError.single("tta", what, 'write "flip", which mirrors what evaluation sees', source="the pictures")
