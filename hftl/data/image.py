"""Pictures: one decoding for training and serving, the processor's own evaluation preprocessing, augmentation for training only.

A picture is decoded by `decode` and then goes one of two ways. Evaluation, and training without augmentation: the resizing and
cropping of the transformers image processor itself, so that a pipeline serves the pixels that were measured. Training with
augmentation: a policy or a pipeline (hftl.data.augmentation) on the decoded picture; what a pipeline of the user's own returns then
goes the first way, so that training sees the geometry of evaluation, unless the pipeline makes pictures of the input's size itself.
Both end in bytes, which are a quarter of the floats to carry; the processor's mean and standard deviation come last, on the device.
What sample i of epoch e looks like depends on (seed, e, i) alone.

Decoding is what pictures cost, and it is the same in every epoch: `ImageSamples.decode_once` keeps its result (see hftl.store).

N samples, B of them in a batch, H x W pixels of the model's input.

Pillow decodes (it finds truncated files; OpenCV does not).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import PIL
import pyarrow as pa
import timm
import torch
import torchvision
from datasets import Dataset, Value
from datasets import Image as ImageFeature
from datasets.table import embed_table_storage
from PIL import Image, features

from hftl import cores, store
from hftl.data.augmentation import TORCHVISION, augmentation_pipeline, erase
from hftl.data.content import MixedSteps, Reading, Scan
from hftl.data.decoding import (
    EXTREME_ASPECT,
    BadImage,
    ImageScan,
    Note,
    decode,
    decoded_pixels,
    inspect,
    read,
    read_header,
    store_scans,
)
from hftl.data.duplicates import LeftOut, no_fingerprints, picture_fingerprints
from hftl.data.folders import open_pictures
from hftl.data.inputs import Asked, OnBadImage, Say, read_pictures
from hftl.data.layout import PICTURES, Role, data_root, is_picture, list_folder
from hftl.data.loader import Samples
from hftl.data.preparation import preparation_of
from hftl.data.rows import Source, Table, picture_paths, place_of, real, row_problems
from hftl.data.targets import names_of, targets_of, weights_of
from hftl.data.views import Views
from hftl.errors import DataError, Problem
from hftl.memory import stored_picture
from hftl.names import Tta
from hftl.recipe import ImageData, Policy
from hftl.wording import count

T = TypeVar("T")

_BATCH = 128  # pictures that are decoded between two marks of progress: some 50 to 250 MB

_SIZE_BYTES = 8  # before each kept picture: its height and width, uint32

_DECODING = 1  # part of the keys of what is kept: change it whenever what `decode` gives changes

_TRIED = 20  # paths of a table that tell where they lie

_AT_ONCE = 512
"""Pictures that wait for a thread, or for their turn to be written down: each takes some kilobytes."""


class ImageSamples:
    """Pictures that a loader can index and collate.

    `how` says in words how a picture of train comes about.

    Args:
        dataset: columns `id`, `image`, `label`, as `load_splits` makes them.
        processor: the checkpoint's own; it has the size, the mean and the standard deviation.
        augmentation: a policy or an Albumentations dict, see `augmentation_pipeline`; `library` makes its views.
        erasing: share of the views of which a rectangle is erased.
        background: RGB colour under transparent pictures.
        seed: of the augmentation, together with epoch and index.
        train: False leaves the augmentation out.
        views: with K > 0, epoch e sees the augmentation of epoch e % K again; with 0 every epoch has its own.

    Raises:
        RecipeError: from `augmentation_pipeline`.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: Any,
        *,
        augmentation: str | Policy | Mapping[str, Any],
        background: tuple[int, int, int],
        seed: int,
        train: bool,
        views: int = 0,
        library: str | None = None,
        erasing: float = 0.0,
    ) -> None:
        self.ids: Sequence[str] = dataset["id"]  # a column, read from Arrow where it is asked for
        self.targets = targets_of(dataset)
        self.weights = weights_of(dataset)
        self.lengths: None = None
        self.label_names: tuple[str, ...] = names_of(dataset)
        self._pictures = dataset.select_columns("image")
        self.preparation = preparation_of(processor)
        self._background = background
        self._seed = seed
        self._views = views
        self._size = height, width = self.preparation.size
        # Once for each number in a line of pixels: three at a time they would take torch five times as long.
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32).expand(self.preparation.channels).repeat(width)
            for values in (self.preparation.mean, self.preparation.std)
        )
        self._augmentation = augmentation_pipeline(augmentation, self._size, library=library) if train else None
        self._erasing = erasing
        height_width = f"{height} x {width} pixels"
        if isinstance(augmentation, str):
            self.how = f"policy: {augmentation}{', by torchvision' if library == TORCHVISION else ''}"
        elif isinstance(augmentation, Policy):
            self.how = f"policy: {augmentation.kind}"
        elif self._augmentation is not None and self._augmentation.sized:
            self.how = f"the recipe's own pipeline, which makes pictures of {height_width} itself"
        else:
            self.how = f"the recipe's own pipeline, then resized and cropped to {height_width} as for evaluation"
        if erasing:
            self.how += f", a rectangle erased in {erasing:.0%} of the views"
        # A policy's crop has at least half of a square's side (sqrt(0.35 * 3/4)), so that of a JPEG of twice the input's size
        # nothing has to be enlarged. The user's own pipeline may count pixels and gets them all.
        self._at_least = None if isinstance(augmentation, Mapping) else 2 * max(self._size)
        self._decoded: store.Rows | None = None

    size_unit: Literal["pixels"] = "pixels"

    @cached_property
    def headers(self) -> np.recarray[Any, Any]:
        """What the files' headers say, (N,) with the fields of `Header`; nothing is decoded.

        Raises:
            BadImage: a picture cannot be opened (any more).
        """
        fields = [("width", np.int32), ("height", np.int32), ("transparent", np.bool_), ("high_bit_depth", np.bool_)]
        headers = (astuple(self._of(index, read_header)) for index in range(len(self)))
        return np.fromiter(headers, dtype=fields, count=len(self)).view(np.recarray)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Pixels of each picture's file. (N,)"""
        sizes: npt.NDArray[np.int64] = self.headers.width.astype(np.int64) * self.headers.height
        return sizes

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of every file's bytes and of all that is done with them: of all that the model gets.

        Raises:
            BadImage: a picture cannot be read (any more).
        """
        parts: dict[str, Any] = {"decoding": self._decoding, "processor": self.preparation.as_data}
        if self._augmentation is not None:
            parts |= {**self._augmentation.as_data(), "seed": self._seed, "views": self._views}
            parts |= {} if self._augmentation.sized else {"then": "as for evaluation"}
            parts |= {"erasing": self._erasing} if self._erasing else {}
        return store.key_of(parts)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """Sample `index` as epoch `epoch` sees it: ``{"pixel_values": (H, W, 3) uint8}``.

        Raises:
            BadImage: the picture cannot be read (any more).
        """
        epoch, index = position
        return {"pixel_values": self.augmented(index, epoch)}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``{"pixel_values": (B, C, H, W) uint8, channels last in memory}``, of grey pictures one channel of the three."""
        pictures = torch.from_numpy(np.stack([sample["pixel_values"][..., : self.preparation.channels] for sample in samples]))
        return {"pixel_values": pictures.permute(0, 3, 1, 2)}

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """A batch as the model takes it, on `device`: ``{"pixel_values": (B, C, H, W) float32, channels last in memory}``.

        The numbers are those of the processor.
        """
        pictures = inputs["pixel_values"].to(device, non_blocking=True).permute(0, 2, 3, 1)  # (B, H, W, C), as they lie in memory
        mean, std = self._mean.to(device, non_blocking=True), self._std.to(device, non_blocking=True)
        lines = pictures.float().flatten(2)  # (B, H, C W)
        lines.div_(255).sub_(mean).div_(std)
        return {"pixel_values": lines.view(pictures.shape).permute(0, 3, 1, 2)}

    def augmented(self, index: int, epoch: int) -> np.ndarray:
        """What epoch `epoch` makes of sample `index` before it is normalised: (H, W, 3) uint8.

        Raises:
            BadImage: the picture cannot be read (any more).
        """
        if self._augmentation is None:
            return self.plain(index)
        key = (self._seed, epoch % self._views if self._views else epoch, index)
        view = self._augmentation.view(self._picture(index), key)
        if not self._augmentation.sized or view.shape[:2] != self._size:
            view = self._to_input(Image.fromarray(view))
        return np.ascontiguousarray(erase(view, key, self._erasing))

    def plain(self, index: int) -> np.ndarray:
        """What evaluation sees of sample `index` before it is normalised: (H, W, 3) uint8."""
        if self._augmentation is None and self._decoded is not None:
            return self._decoded[index]
        return self._crop(index)

    def _picture(self, index: int) -> np.ndarray:
        """The decoded picture that the augmentation starts from: (its height, its width, 3) uint8."""
        if self._decoded is None:
            return np.asarray(self._decode(index, self._at_least))
        row = self._decoded[index]
        height, width = row[:_SIZE_BYTES].view(np.uint32).tolist()
        return row[_SIZE_BYTES:].reshape(height, width, 3)

    def _crop(self, index: int) -> np.ndarray:
        """What evaluation sees of a picture, from its file: (H, W, 3) uint8."""
        return self._to_input(self._decode(index, None))

    def _to_input(self, picture: Image.Image) -> np.ndarray:
        """The processor's own resizing and cropping: (H, W, 3) uint8."""
        picture = self._without_ends(picture)
        if self.preparation.channels == 1:  # all three are equal until `collate`
            return np.repeat(self.preparation.to_input(picture.convert("L"))[:, :, None], 3, axis=2)
        return self.preparation.to_input(picture)

    def decoded(self, index: int) -> Image.Image:
        """A picture as evaluation decodes it, RGB, before it is resized.

        Raises:
            BadImage: it cannot be read (any more).
        """
        return self._without_ends(self._decode(index, None))

    def _without_ends(self, picture: Image.Image) -> Image.Image:
        """A ribbon without what lies far from its middle."""
        width, height = picture.size
        short = min(width, height)
        if max(width, height) > EXTREME_ASPECT * short and self.preparation.crops_the_middle:
            # The processor brings the shorter side to the input's size before it crops the middle: 1 x 30,000 pixels would become
            # 256 x 7,680,000. Outside of the middle nothing is looked at, so it is cut off first (by whole pixels on both sides).
            over_x, over_y = max(0, width - EXTREME_ASPECT * short) // 2, max(0, height - EXTREME_ASPECT * short) // 2
            picture = picture.crop((over_x, over_y, width - over_x, height - over_y))
        return picture

    # --- decoded once ---

    def decode_once(self, *, budget: float, spare: int = store.SPARE, after_batch: Callable[[], None] | None = None) -> str | None:
        """Decode every picture once and keep it on disk; from then on samples are made from there, and are the same to the bit.

        For evaluation the finished crop is kept; for augmentation the picture, reduced as `decode` does. In a parallel run one
        process does this, on all cores that it may use; the others call `find_decoded` afterwards, with its `decoded_key`. What
        was interrupted is continued, what another run has decoded is found.

        Args:
            budget: bytes that the cache folder may hold.
            spare: bytes of the disk that stay free.
            after_batch: called every 128 pictures, when they are on the disk; what it raises ends the work there.

        Returns:
            None, or a sentence that says why there is no room. Then nothing was done.

        Raises:
            BadImage: a picture cannot be read (any more).
            OSError: the disk is full after all.
        """
        if self.find_decoded():
            return None
        batches = [range(start, min(start + _BATCH, len(self))) for start in range(0, len(self), _BATCH)]
        with ThreadPoolExecutor(len(cores.affinity())) as pool:  # Pillow decodes without holding Python's lock
            lengths: npt.NDArray[np.int64] | int = len(self)
            shape: tuple[int, ...] = (*self._size, 3)
            if self._augmentation is not None:
                sizes = (size for batch in batches for size in pool.map(self._row_bytes, batch))
                lengths, shape = np.fromiter(sizes, dtype=np.int64, count=len(self)), ()
            try:
                builder = store.Builder(
                    self.decoded_key,
                    lengths=lengths,
                    row_shape=shape,
                    dtype=np.uint8,
                    batch_plan=str(_BATCH),
                    budget=budget,
                    spare=spare,
                )
            except store.NoRoom as full:
                return f"pictures are decoded again in every epoch: {full}"

            def keep(index: int) -> None:
                builder.write(index, self._crop(index) if self._augmentation is None else self._row(index))

            for number, batch in enumerate(batches[builder.done :], start=builder.done + 1):
                list(pool.map(keep, batch))
                builder.mark(number)
                if after_batch is not None:
                    after_batch()
        try:
            self._decoded = builder.finish()
        except store.Removed as removed:
            return f"pictures are decoded again in every epoch: {removed}"
        return None

    def find_decoded(self, key: str | None = None) -> bool:
        """Whether these pictures have been decoded before; then samples are made from there.

        Args:
            key: `decoded_key` as another process has found it out, which saves reading every file.

        Raises:
            BadImage: a picture cannot be read (any more).
        """
        if self._decoded is None:
            self._decoded = store.find(key or self.decoded_key)
        return self._decoded is not None

    @cached_property
    def decoded_key(self) -> str:
        """Where the decoded pictures are kept; every file is read for it, once.

        Raises:
            BadImage: a picture cannot be read (any more).
        """
        if self._augmentation is not None:
            return store.key_of({"kind": "pictures", "decoding": self._decoding})
        return store.key_of({"kind": "crops", "decoding": self._decoding, "geometry": self.preparation.geometry})

    @cached_property
    def _decoding(self) -> dict[str, Any]:
        """What decides how the decoded pictures look: every file's bytes, how they are decoded and resized, and with what."""
        contents = hashlib.sha256()
        for index in range(len(self)):
            contents.update(hashlib.sha256(self._of(index, read)).digest())
        return {
            "contents": contents.hexdigest(),
            "background": self._background,
            "at_least": None if self._augmentation is None else self._at_least,
            **({"grey": True} if self.preparation.channels == 1 else {}),
            "versions": [_DECODING, PIL.__version__, features.version("jpg"), torchvision.__version__, timm.__version__],
        }

    def _row_bytes(self, index: int) -> int:
        return _SIZE_BYTES + 3 * self._of(index, lambda source: decoded_pixels(source, self._at_least))

    def _row(self, index: int) -> np.ndarray:
        """A decoded picture as it is kept: its height and width, its pixels."""
        picture = np.asarray(self._decode(index, self._at_least))
        return np.concatenate([np.array(picture.shape[:2], np.uint32).view(np.uint8), picture.ravel()])

    # --- files ---

    def original(self, index: int) -> bytes | str:
        """The picture as it came: its bytes, or the path of its file."""
        stored = self._pictures[index]["image"]
        original: bytes | str = stored["path"] if stored["bytes"] is None else stored["bytes"]
        return original

    def _decode(self, index: int, at_least: int | None) -> Image.Image:
        picture = self._of(index, lambda source: decode(source, background=self._background, at_least=at_least))
        return picture if self.preparation.channels == 3 else picture.convert("L").convert("RGB")

    def _of(self, index: int, read: Callable[[bytes | str], T]) -> T:
        """What `read` makes of a picture's file; an error names the picture."""
        try:
            return read(self.original(index))
        except BadImage as error:
            raise BadImage(f"{self.ids[index]}: {error}", kind=error.kind) from error


def picture_facts(samples: ImageSamples) -> dict[str, Any]:
    """What a user should know about the pictures before training: sizes, and what `transformers.pipeline` reads differently.

    `transparent` pictures are composed on the recipe's background here, those of `high_bit_depth` (more than 8 bits a
    channel) scaled; Pillow's own conversion, which the pipeline uses, drops the alpha channel and clips.
    """
    headers = samples.headers
    return {
        "examples": len(headers),
        "width_median": float(np.median(headers.width)),
        "height_median": float(np.median(headers.height)),
        "pixels_p5": float(np.percentile(samples.sizes, 5)),
        "pixels_p95": float(np.percentile(samples.sizes, 95)),
        "transparent": int(headers.transparent.sum()),
        "high_bit_depth": int(headers.high_bit_depth.sum()),
    }


class Pictures:
    """A picture an example; see `hftl.data.content`."""

    rows_at_once = 100
    stream_buffer = 1_000
    names_files = True
    thing = "picture"
    example = "picture.jpg"
    endings: Sequence[str] = PICTURES

    def __init__(self, data: ImageData) -> None:
        self.data = data

    @property
    def columns(self) -> tuple[str, ...]:
        """`data.image_column`"""
        return (self.data.image_column,)

    def open_folder(self, folder: Path) -> Source:
        """A folder of pictures, or tables of them."""
        return open_pictures(self.data, folder)

    def is_one(self, file: Path) -> bool:
        """By its ending or, where it has none, by its first bytes."""
        return is_picture(file)

    def inspect(self, source: bytes | str) -> ImageScan:
        """Read one to its end.

        Raises:
            BadImage: it cannot be read.
        """
        return inspect(source)

    def stored(self, value: Any) -> dict[str, Any]:
        """{"bytes", "path"} of one in memory.

        Raises:
            ValueError: it is none.
        """
        return stored_picture(value)

    def put_files(self, table: Table, paths: Sequence[str]) -> None:
        """The files, unopened."""
        table.content = picture_paths(paths)

    def fetch(self, batch: pa.Table) -> pa.Table:
        """Pictures that are files of the data set, for which a stream has addresses; no other address is followed."""
        column = batch.column(self.data.image_column)
        if not pa.types.is_struct(column.type):
            return batch
        own = f"hf://datasets/{self.data.source}@"
        for picture in column.to_pylist():
            if picture is not None and picture["bytes"] is None and not str(picture["path"]).split("::")[-1].startswith(own):
                what = f"a picture without bytes that is no file of the data set either: {picture['path']}"
                raise DataError(self.data.source, [Problem(f'column "{self.data.image_column}"', what)])
        return embed_table_storage(batch, local_files=False)

    def put(self, table: Table, content: Dataset | list[Any], folder: Path | None) -> None:
        """Pictures as they are stored, undecoded: bytes, or absolute paths."""
        if isinstance(content, Dataset):
            feature = content.features["image"]
            dtype = feature.dtype if isinstance(feature, Value) else None
            if dtype in ("string", "large_string"):
                content = content["image"][:]
            elif not isinstance(feature, ImageFeature | dict) and dtype not in ("binary", "large_binary"):
                what = f"the picture column holds {feature}; expected an Image, bytes, or paths"
                table.problems.append(Problem(f'split "{table.name}"', what))
                return
            else:
                stored = content.cast_column("image", ImageFeature(decode=False))
                chunks = stored.data.column("image").chunks
                has_bytes = [valid for chunk in chunks for valid in chunk.field("bytes").is_valid().to_pylist()]
                paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
                if any(has_bytes) or folder is None:
                    none = [row for row, has in enumerate(has_bytes) if not has and not (folder is None and paths[row])]
                    table.problems += row_problems(table, "no picture", none)
                    table.content = None if none else stored
                    return
                content = paths
        table.problems += row_problems(table, "no picture", [row for row, path in enumerate(content) if not path])
        strange = [row for row, path in enumerate(content) if path and not isinstance(path, str)]
        table.problems += row_problems(table, "no path but another type", strange)
        if folder is None:
            what = "the picture column holds paths, and a table on the Hub comes without their files"
            table.problems.append(Problem(f'split "{table.name}"', what))
        if table.problems:
            return
        assert folder is not None
        below, ending = self._where_paths_lie(folder, content[:_TRIED])
        if below != folder or ending:
            how = f' with "{ending}" at their ends' if ending else ""
            where = f" below {below.relative_to(folder) if below.is_relative_to(folder) else below}/" if below != folder else ""
            table.remarks.append(f"the paths of pictures in {table.name} are read{where}{how}")
        root = data_root(below if self.data.image_folder is not None else folder)
        places = [place_of(below, f"{path}{ending}") for path in content]
        turned = sum(place != below / f"{path}{ending}" for place, path in zip(places, content, strict=True))
        if turned:
            table.remarks.append(f'{count(turned, "path")} of the split "{table.name}" with "\\" between folders, read as "/"')
        full = [real(place) for place in places]
        outside = [row for row, path in enumerate(full) if path is None or not path.is_relative_to(root)]
        where = f"pictures lie below {below.absolute()}; data.image_folder=... names another folder"
        table.problems += row_problems(table, "a path that leaves the data folder", outside, where)
        if not outside:
            table.content = picture_paths(str(path) for path in full)

    def _where_paths_lie(self, folder: Path, paths: Sequence[str]) -> tuple[Path, str]:
        """The folder below which the paths of a table lie, and the ending that they lack: tried with the first of them.

        It is the table's own folder or one beside it; where no folder has all of them it is the table's own, and each is named.
        """
        own = [folder / self.data.image_folder] if self.data.image_folder is not None else [folder, *list_folder(folder)[0]]
        bare = not any(Path(path).suffix.lower() in self.endings for path in paths)
        endings = ("", *(self.endings if bare else ()))
        for ending in endings:
            for below in own:
                if all(place_of(below, f"{path}{ending}").is_file() for path in paths):
                    return below, ending
        return own[0], ""

    def scan(self, tables: Mapping[Role, Table]) -> Scan:
        """Read every picture to its end, once: what is known of it, by row its note, and by row why it cannot be used."""
        fingerprints, scans = no_fingerprints(tables), dict[Role, np.ndarray]()
        noted: dict[Role, dict[int, Note]] = {role: {} for role in tables}
        unreadable: dict[Role, dict[int, LeftOut]] = {role: {} for role in tables}

        def scans_of(role: Role, content: Dataset) -> Iterator[ImageScan | None]:
            rows = range(len(content))
            with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
                for start in rows[::_AT_ONCE]:
                    some = rows[start : start + _AT_ONCE]
                    for row, scan in zip(some, pool.map(lambda row: self._scan(content[row]["image"]), some), strict=True):
                        if isinstance(scan, BadImage):
                            unreadable[role][row] = LeftOut(scan.kind, str(scan))
                        elif scan.note is not None:
                            noted[role][row] = scan.note
                        yield None if isinstance(scan, BadImage) else scan

        for role, table in tables.items():
            scans[role] = store_scans(() if table.content is None else scans_of(role, table.content), len(table.ids))
            fingerprints[role] = picture_fingerprints(scans[role])
        problems = [] if self.data.on_bad_image == "skip" else _bad_image_problems(tables, unreadable)
        return Scan(fingerprints, scans, noted, unreadable, problems)

    def _scan(self, stored: Mapping[str, Any]) -> ImageScan | BadImage:
        try:
            return self.inspect(stored["bytes"] if stored["bytes"] is not None else stored["path"])
        except BadImage as error:
            return error

    def samples(self, dataset: Dataset, preprocessor: Any, *, seed: int, train: bool) -> ImageSamples:
        """Pictures as evaluation sees them, or as training does: augmented."""
        return ImageSamples(
            dataset,
            preprocessor,
            augmentation=self.data.augmentation,
            background=self.data.background,
            seed=seed,
            train=train,
            views=self.data.augmentation_views,
            library=self.data.augmentation_library,
            erasing=self.data.random_erasing,
        )

    def views(self, samples: ImageSamples, tta: Tta) -> Samples:
        """As `hftl.data.views.Views`."""
        return Views(samples, tta)

    def words(self, dataset: Dataset) -> Iterable[str]:
        """None."""
        return ()

    def channel_numbers(self, train: Dataset) -> tuple[list[float], list[float]] | None:
        """Nothing: those of the checkpoint are for RGB."""
        return None

    def num_views(self, *, train: bool) -> int:
        """As many as the recipe says of training pictures that are augmented; else one."""
        return self.data.augmentation_views if train and self.data.augmentation != "none" else 1

    def facts(self, samples: ImageSamples) -> dict[str, Any]:
        """Sizes of the pictures."""
        return {"image": picture_facts(samples)}

    def costs(self, samples: ImageSamples) -> Iterator[str]:
        """Nothing: all pictures have one size."""
        yield from ()

    def reading(self, splits: Mapping[Role, Dataset], samples: Mapping[Role, Samples], preprocessor: Any, *, seed: int) -> Reading:
        """Nothing: there is no tokenizer."""
        return Reading()

    def original(self, samples: ImageSamples, dataset: Dataset, place: int) -> bytes:
        """The bytes of the file."""
        original = samples.original(place)
        return Path(original).read_bytes() if isinstance(original, str) else original

    def show(
        self,
        train: Dataset,
        typical: ImageSamples,
        preprocessor: Any,
        *,
        seed: int,
        picture: Path,
        steps: Sequence[MixedSteps] = (),
    ) -> Iterator[str]:
        """A row for each of some training pictures, and in words how they come about; where they are mixed, the first step."""
        from hftl.data.grid import write_grid, write_mixed  # which show samples of this module

        samples = self.samples(train, preprocessor, seed=seed, train=True)
        write_grid(samples, picture)
        yield f"{picture}: each row is one training picture and how training will see it ({samples.how})"
        for each in steps:
            mixed = picture.with_name(f"{picture.stem}-{each.stage}{picture.suffix}")
            write_mixed(samples, mixed, mix=each.mix, batch_size=each.batch_size, seed=seed, epoch=each.first_epoch)
            yield f"{mixed}: pictures of the first step that stage {each.stage} mixes ({each.mix.kind}), and of whom each is made"

    def inputs(
        self, inputs: Sequence[Any], say: Say, *, columns: Sequence[str] | None = None, on_bad_image: OnBadImage = "error"
    ) -> Asked:
        """Pictures; of tables the column of the run, or "image", which names files or holds them."""
        return read_pictures(inputs, self, say, columns=columns, on_bad_image=on_bad_image)

    def two_examples(self, samples: ImageSamples) -> list[dict[str, Any]]:
        """The first two pictures, or the first one twice."""
        return [samples[0, index % len(samples)] for index in range(2)]


def _where(table: Table, row: int) -> str:
    """A row, and the file that was looked for where its name is another."""
    assert table.content is not None
    id, path = table.ids[row], table.content[row]["image"]["path"]
    return id if path is None or Path(path).as_posix().endswith(id) else f"{id}, {path}"


def _bad_image_problems(tables: Mapping[Role, Table], unreadable: Mapping[Role, Mapping[int, LeftOut]]) -> list[Problem]:
    problems = [Problem(_where(tables[role], row), reason.why) for role in tables for row, reason in unreadable[role].items()]
    if problems:
        last = problems[-1]
        problems[-1] = Problem(
            last.where, last.what, ("repair or remove the files, or leave them out and have them counted: data.on_bad_image=skip",)
        )
    return problems
