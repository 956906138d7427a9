"""What is read as a source, and what is refused, as docs/data.md has it: every row of the tables is a small source that was read.

python tests/data_page.py --write   reads all of them, and writes the tables into docs/data.md
"""

from __future__ import annotations

import gzip
import html
import io
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from hftl.data.archives import ARCHIVES
from hftl.data.layout import FLAG_COLUMNS, PACKED, PHONE_PICTURES, PICTURES, SPLIT_COLUMNS, SPLIT_NAMES, TABLES
from hftl.data.source import load_splits
from hftl.errors import DataError
from hftl.recipe import ImageData, TextData

PAGE = Path(__file__).resolve().parent.parent / "docs" / "data.md"
BEGIN, END = "<!-- written by tests/data_page.py -->", "<!-- end -->"

ROWS = [{"text": f"text number {number}", "label": ("neg", "pos")[number % 2]} for number in range(8)]


def csv(rows: list[dict[str, Any]] = ROWS, separator: str = ",", **columns: Callable[[int], Any]) -> bytes:
    rows = [{**row, **{name: value(number) for name, value in columns.items()}} for number, row in enumerate(rows)]
    lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def parquet(rows: list[dict[str, Any]] = ROWS) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def png(name: str) -> bytes:
    small = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((24, 24)).save(stream, "PNG")
    return stream.getvalue()


def files(*folders: str, each: int = 4, ending: str = ".png") -> dict[str, bytes]:
    names = [f"{folder}/{number}{ending}" for folder in folders for number in range(each)]
    return {name: png(name) if ending == ".png" else f"a text, {name}".encode() for name in names}


def saved(folder: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    splits = {"train": range(8), "test": range(10, 14)}
    rows = {split: {"text": [f"t{n}" for n in ns], "label": [n % 2 for n in ns]} for split, ns in splits.items()}
    datasets.disable_progress_bars()
    DatasetDict({split: Dataset.from_dict(columns, features) for split, columns in rows.items()}).save_to_disk(folder)
    datasets.enable_progress_bars()


def zipped(folder: Path) -> None:
    write(folder / "in", files("cat", "dog"))
    shutil.make_archive(str(folder / "photos"), "zip", folder / "in")
    shutil.rmtree(folder / "in")


def zipped_splits(folder: Path) -> None:
    for split in ("train", "test"):
        write(folder / "in", files(f"{split}/cat", f"{split}/dog"))
        shutil.make_archive(str(folder / split), "zip", folder / "in", split)
        shutil.rmtree(folder / "in")


def zipped_beside(folder: Path) -> None:
    write(folder / "in", files(".", each=8))
    shutil.make_archive(str(folder / "images"), "zip", folder / "in")
    shutil.rmtree(folder / "in")
    write(folder, {"train.csv": PATHS.encode()})


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@dataclass(frozen=True)
class Example:
    """A small source."""

    title: str
    contents: Mapping[str, bytes] | Callable[[Path], None]
    kind: str = "text"
    source: str = ""
    """A file in the folder; "": the folder itself."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def data(self, folder: Path) -> TextData | ImageData:
        if callable(self.contents):
            self.contents(folder)
        else:
            write(folder, self.contents)
        section = TextData if self.kind == "text" else ImageData
        return section(source=str(folder / self.source), validation_fraction=0.25, **self.settings)

    def shown(self, folder: Path) -> str:
        """The file, or the first file of each kind in each folder."""
        if self.source:
            return f"`{self.source}`"
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        first = {(Path(name).parent, Path(name).suffix, name if "/" not in name else ""): name for name in reversed(names)}
        shown = list(first.values())[::-1]
        return ", ".join(f"`{name}`" for name in shown[:4]) + (" ..." if len(shown) > 4 else "")


METADATA = "file_name,label\n" + "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(4))
PATHS = "id,breed\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(8))
README = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: data/part-*}\n---\n"

READ = [
    Example("one table", {"reviews.csv": csv()}, source="reviews.csv"),
    Example("a table a split", {"train.csv": csv(), "dev.csv": csv([{"text": "another", "label": "pos"}]), "notes.md": b"x"}),
    Example("packed tables", {"train.jsonl.gz": gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode(), mtime=0)}),
    Example("a table in parts", {f"train-0000{n}-of-00002.parquet": parquet(ROWS[n::2]) for n in range(2)}),
    Example("a folder of tables a split", {"train/a.csv": csv(ROWS[:4]), "train/b.csv": csv(ROWS[4:])}),
    Example("a table with a column of splits", {"all.csv": csv(split=lambda n: "val" if n > 5 else "train")}, source="all.csv"),
    Example("a table with a column is_valid", {"all.csv": csv(is_valid=lambda n: n > 5)}, source="all.csv"),
    Example("semicolons, tabs or bars", {"a.csv": csv(separator=";")}, source="a.csv"),
    Example("Excel's line for itself", {"a.csv": b"sep=;\n" + csv(separator=";")}, source="a.csv"),
    Example("another separator", {"a.csv": csv(separator="~")}, source="a.csv", settings={"delimiter": "~"}),
    Example("UTF-16", {"a.csv": csv().decode().encode("utf-16")}, source="a.csv"),
    Example("another encoding", {"a.csv": csv() + "café,neg\n".encode("cp1252")}, source="a.csv", settings={"encoding": "cp1252"}),
    Example("JSON: a list of objects, objects a line, or columns", {"a.json": json.dumps(ROWS).encode()}, source="a.json"),
    Example("class folders of texts", {**files("train/neg", "train/pos", "train/unsup", "test/neg", "test/pos", ending=".txt")}),
    Example("save_to_disk", saved),
    Example("a clone of a data set of the Hub", {"README.md": README.encode(), "data/part-0.parquet": parquet()}),
    Example("class folders of pictures", files("cat", "dog"), "image"),
    Example("class folders in folders of splits", files("Train/cat", "Train/dog", "val/cat", "val/dog"), "image"),
    Example("a metadata.csv beside pictures", {**files("train"), "train/metadata.csv": METADATA.encode()}, "image"),
    Example(
        "a table of paths, also without their folder and ending",
        {**files("train_images", each=8), "train.csv": PATHS.encode()},
        "image",
        settings={"image_column": "id", "label_column": "breed"},
    ),
    Example(
        "pictures in Parquet",
        {"train.parquet": parquet([{"image": png(str(n)), "label": "ab"[n % 2]} for n in range(8)])},
        "image",
    ),
    Example("an archive", zipped, "image", source="photos.zip"),
    Example("a folder with one archive and nothing else of data", zipped, "image"),
    Example("an archive a split", zipped_splits, "image"),
    Example(
        "archives of pictures beside a table of paths",
        zipped_beside,
        "image",
        settings={"image_column": "id", "label_column": "breed"},
    ),
]

FASTTEXT = "".join(f"__label__{row['label']} {row['text']}\n" for row in ROWS)
COCO = {"images": [{"id": 1, "file_name": "0.png"}], "annotations": [{"image_id": 1, "category_id": 1}], "categories": []}

REFUSED = [
    Example("a file of another kind", {"a.ods": b"x"}, source="a.ods"),
    Example("fastText's lines", {"train.txt": FASTTEXT.encode()}, source="train.txt"),
    Example("no line of names", {"a.csv": b"".join(csv().splitlines(keepends=True)[1:])}, source="a.csv"),
    Example("a table somewhere in a JSON file", {"a.json": json.dumps({"data": {"rows": ROWS}}).encode()}, source="a.json"),
    Example("annotations of COCO", {"coco.json": json.dumps(COCO).encode()}, "image", source="coco.json"),
    Example(
        "pictures with their classes in their names",
        {f"{c}.{n}.png": png(f"{c}{n}") for c in ("cat", "dog") for n in range(2)},
        "image",
    ),
    Example("arrays of bands", {"a/1.npy": b"x", "b/1.npy": b"x"}, "image"),
    Example(
        "another name of the column",
        {"a.csv": csv([{"review": row["text"], "label": row["label"]} for row in ROWS])},
        source="a.csv",
    ),
    Example("a test split without labels", {"train.csv": csv(), "test.csv": b"id,text\n1,a\n"}),
    Example("rows without a label", {"a.csv": csv() + b"a text,\n"}, source="a.csv"),
    Example("labels of -1", {"a.csv": csv() + b"a text,-1\n"}, source="a.csv"),
    Example("a text in two splits", {"train.csv": csv(), "test.csv": csv(ROWS[:1])}),
    Example("bytes that are no UTF-8", {"a.csv": csv() + "café,neg\n".encode("cp1252")}, source="a.csv"),
    Example("two splits for one role", {"train.csv": csv(), "training.csv": csv()}),
    Example("eval: for validation or test?", {"train.csv": csv(), "eval.csv": csv([{"text": "another", "label": "pos"}])}),
    Example("one folder too high", files("photos/train/cat", "photos/test/cat"), "image"),
    Example("pictures without class folders", files("train", "test"), "image"),
    Example("archives that are no splits", {"cats.zip": b"PK", "dogs.tar.gz": b"PK"}, "image"),
    Example("a pointer of Git LFS", {"a.csv": b"version https://git-lfs.github.com/spec/v1\n"}, source="a.csv"),
    Example("broken pictures", {**files("cat", "dog"), "cat/9.png": b"\x89PNG"}, "image"),
    Example("ids that are there twice", {"a.csv": csv(id=lambda n: n // 2)}, source="a.csv", settings={"id_column": "id"}),
]


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def tables() -> str:
    """Every example read, as Markdown; the cache of datasets is left alone."""
    kept, lines = datasets.config.HF_DATASETS_CACHE, list[str]()
    with tempfile.TemporaryDirectory() as name:
        datasets.config.HF_DATASETS_CACHE = str(Path(name) / "cache")
        try:
            lines += ["| what | such as | with | as `hftl audit` says it |", "|---|---|---|---|"]
            for number, example in enumerate(READ):
                folder = Path(name) / str(number) / "data"
                folder.mkdir(parents=True)
                understood = load_splits(example.data(folder), seed=0).facts["understood"]
                given = ", ".join(f"`data.{key}={value}`" for key, value in example.settings.items())
                said = cell("\n".join(understood).replace(f"{folder}/", ""))
                lines.append(f"| {example.title} | {example.shown(folder)} | {given} | {said} |")
            lines += ["", "### What is refused, and the way out", "", "| what | such as | what is said |", "|---|---|---|"]
            for number, example in enumerate(REFUSED):
                folder = Path(name) / f"r{number}" / "data"
                folder.mkdir(parents=True)
                try:
                    load_splits(example.data(folder), seed=0)
                except DataError as error:
                    problem = error.problems[-1]
                    said = ": ".join(part for part in (problem.where, problem.what) if part)
                    said = "\n".join([said, *problem.help]).replace(f"{folder}/", "").replace(str(folder), "data")
                    lines.append(f"| {example.title} | {example.shown(folder)} | {cell(html.escape(said, quote=False))} |")
                else:
                    raise AssertionError(f"{example.title} is read")
        finally:
            datasets.config.HF_DATASETS_CACHE = kept
    return "\n".join([*names(), "", *lines])


def names() -> list[str]:
    """Endings and names, from the tables of hftl.data.layout."""
    pictures = [ending for ending in PICTURES if ending not in PHONE_PICTURES]
    return [
        f"- **Tables**: {', '.join(TABLES)} (.xlsx by the extra: `pip install 'hftl[excel]'`); those of text also packed:"
        f" {', '.join(f'.csv{ending}' for ending in PACKED)} and so on. **Archives**: {', '.join(ARCHIVES)}.",
        f"- **Pictures**: {', '.join(pictures)}; {', '.join(PHONE_PICTURES)} by the extra: `pip install 'hftl[heic]'`."
        " A file without an ending is looked into. What is left out is counted by ending.",
        *(
            f"- **{role if role != 'either' else 'validation or test, whichever is missing'}**: {', '.join(words)}"
            for role, words in SPLIT_NAMES.items()
        ),
        f"- **Columns that divide a table**: {', '.join(SPLIT_COLUMNS)}; {', '.join(FLAG_COLUMNS)}.",
    ]


def page(text: str) -> str:
    """docs/data.md with the tables as they are now."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
