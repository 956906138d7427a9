"""Damaged files of every kind that hftl reads: each is read, or refused with one of hftl's own errors, soon and in little memory.

Bytes are flipped, cut out, repeated, spliced with those of another file, and overwritten with numbers that a header must not be
believed with. All of it happens in a process of its own, since a defect in a decoder's C may end that; what it warns of counts as
an error. The damage is the same in every run. ``HFTL_FUZZ_SECONDS=N`` does each kind for N seconds with damage that is new every
time; a failure names the kind and the seed, and ``python tests/test_fuzz.py FOLDER KIND SEED`` repeats it and leaves the file.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import resource
import struct
import subprocess
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before anything else is imported, and after every filter that hftl or a library sets
    warnings.filterwarnings("error", append=True)

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from hftl.data.decoding import BadImage, decode, inspect, read_header
from hftl.data.source import load_splits
from hftl.data.tables import open_rows
from hftl.errors import DataError, RecipeError, printable
from hftl.models.vectors import read_vectors
from hftl.recipe import TextData

LONGER = float(os.environ.get("HFTL_FUZZ_SECONDS", "0"))
TIMES = {"picture": 600, "table": 150, "parquet": 60, "vectors": 500}

MOST_SECONDS = 60.0
"""For one small file, on a machine that has other things to do: the most pixels take 7 s on an idle core."""
MOST_MEMORY = 2 * 1024**3
"""Bytes that the process may grow by: a picture with the most pixels that are decoded, and a few copies of it."""


# --- damage -------------------------------------------------------------------------------------------------------------------

EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 9000, 30000)


def damaged(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """`content` with one to four faults in it."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        size = len(data)
        if not size:
            break
        # Headers are at the front, Parquet's and ZIP's at the end.
        at = int([rng.integers(size), rng.integers(min(size, 64)), size - 1 - rng.integers(min(size, 64))][rng.integers(3)])
        length = int(rng.integers(1, 17))
        match rng.integers(8):
            case 0:
                data[at] ^= 1 << rng.integers(8)
            case 1:
                data[at : at + length] = rng.bytes(len(data[at : at + length]))
            case 2:
                number = EDGES[rng.integers(len(EDGES))]
                kind = ["<I", ">I", "<H", ">H", "B"][rng.integers(5)]
                packed = struct.pack(kind, number % 2 ** (8 * struct.calcsize(kind)))
                data[at : at + len(packed)] = packed
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
            case 5:
                del data[at:]
            case 6:
                start = int(rng.integers(len(other)))
                data[at : at + length] = other[start : start + length]
            case 7:
                data[at:] = other[int(rng.integers(len(other))) :]
    return bytes(data)


def with_sums(png: bytes) -> bytes:
    """A PNG whose check sums are right, whatever is in it: damage behind them is reached."""
    data, at = bytearray(png), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


# --- pictures -----------------------------------------------------------------------------------------------------------------


def pictures() -> dict[str, bytes]:
    """Small sound pictures of every format, with what their files can hold."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(24) * 5, np.arange(32) * 4)[..., None] + np.array([0, 20, 40])
    colour = Image.fromarray((smooth + rng.integers(0, 9, smooth.shape)).astype(np.uint8))
    alpha = colour.copy()
    alpha.putalpha(Image.fromarray(rng.integers(0, 256, (24, 32), dtype=np.uint8)))
    deep = Image.fromarray(rng.integers(0, 65536, (24, 32), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x9003] = 6, "A camera", "2024:01:01 00:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    frames = [colour.rotate(angle).quantize(16) for angle in (10, 20)]
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a" * 40)
    text.add_itxt("Title", "b" * 40, zip=True)

    def saved(image: Image.Image, kind: str, **options: object) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    made = {
        "jpeg": saved(colour, "JPEG", exif=exif, icc_profile=b"p" * 200, comment=b"hello"),
        "jpeg progressive": saved(colour, "JPEG", progressive=True, quality=60, exif=exif),
        "jpeg grey restarts": saved(colour.convert("L"), "JPEG", restart_marker_blocks=2),
        "jpeg cmyk": saved(colour.convert("CMYK"), "JPEG", optimize=True),
        "mpo": saved(colour, "MPO", save_all=True, append_images=[colour.rotate(9)], exif=exif),
        "png": saved(colour, "PNG", exif=exif, pnginfo=text),
        "png alpha": saved(alpha, "PNG"),
        "png 16 bit": saved(deep, "PNG"),
        "png palette": saved(colour.quantize(8), "PNG", transparency=bytes(range(0, 160, 20))),
        "png one bit": saved(colour.convert("1"), "PNG"),
        "png grey alpha": saved(alpha.convert("LA"), "PNG"),
        "apng": saved(colour, "PNG", save_all=True, append_images=[colour.rotate(9)]),
        "png interlaced": interlaced(np.asarray(colour)),
        "gif": saved(colour.quantize(16), "GIF", transparency=3),
        "gif animated": saved(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0, comment=b"hello"),
        "webp": saved(colour, "WEBP", exif=exif),
        "webp lossless": saved(alpha, "WEBP", lossless=True),
        "webp animated": saved(colour, "WEBP", save_all=True, append_images=[colour.rotate(9)]),
        "bmp": saved(colour, "BMP"),
        "bmp palette": saved(colour.quantize(16), "BMP"),
        "tiff float": saved(Image.fromarray(rng.random((24, 32), dtype=np.float32)), "TIFF"),
        "tiff deep": saved(deep, "TIFF", compression="tiff_lzw"),
        "tiff one bit": saved(colour.convert("1"), "TIFF", compression="group4"),
        "tiff pages": saved(colour, "TIFF", save_all=True, append_images=[colour.rotate(9)], compression="packbits", exif=exif),
    }
    compressions = ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "lzma"]
    if int(PIL.__version__.partition(".")[0]) >= 12:  # before, wheels have no zstd, and the attempt to write it harms the process
        compressions.append("zstd")
    for compression in compressions:
        made[f"tiff {compression}"] = saved(colour, "TIFF", compression=compression)
    return made


def interlaced(pixels: np.ndarray) -> bytes:
    """A PNG in Adam7 order, which Pillow reads and does not write."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row for top, left, down, right in passes for row in pixels[top::down, left::right] if len(row)]
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return with_sums(
        b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(body)) + kind + body + bytes(4) for kind, body in chunks)
    )


def test_sound_pictures_are_read() -> None:
    for name, content in pictures().items():
        image, header, look = decode(content), read_header(content), inspect(content)
        assert image.mode == "RGB", name
        assert sorted((header.width, header.height)) == sorted(image.size) == [24, 32], name
        assert look.header == header
        assert look.animated == (name in {"apng", "gif animated", "webp animated", "tiff pages"}), name


# --- tables -------------------------------------------------------------------------------------------------------------------

TOKENS = (
    *(
        token.encode()
        for token in ('"', "'", ",", "\t", "\n", "\r", "\\", "{", "}", "[", "]", ":", " ", "\0", "\ufeff", "\u2028", "²", "٣")
    ),
    *(b"null", b"NaN", b"-Infinity", b"1e999", b"-1", b"true", b"\\ud800", b"\\u0000", b"\xff", b"0x1"),
    *(b"9" * 5_000, b"[" * 100_000, b'{"a":' * 5_000, b"a" * 200_000),
)


def tables() -> dict[str, bytes]:
    """Small sound tables, by file name."""
    rows = [
        {"text": f"review {number}, {'très ' * (number % 3)}good", "label": ["neg", "pos", "10"][number % 3]}
        for number in range(18)
    ]
    numbered = [{"label": number % 2, "text": row["text"], "more": {"a": [number]}} for number, row in enumerate(rows)]
    return {
        "a.csv": ("text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in rows)).encode(),
        "b.tsv": ("\ufefflabel\ttext\r\n" + "".join(f"{row['label']}\t{row['text']}\r\n" for row in rows)).encode(),
        "c.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
        "d.jsonl": "".join(json.dumps(row) + "\n" for row in numbered).encode(),
        "e.json": json.dumps(rows, indent=1).encode(),
    }


def with_tokens(content: bytes, rng: np.random.Generator) -> bytes:
    """Words put where they do not belong, or in place of another."""
    for _ in range(rng.integers(0, 4)):
        at, token = int(rng.integers(len(content) + 1)), TOKENS[rng.integers(len(TOKENS))]
        content = content[:at] + token + content[at + int(rng.integers(2)) * int(rng.integers(12)) :]
    return content


def parquets() -> dict[str, bytes]:
    """Small sound Parquet files, as pyarrow and the datasets library write them."""
    texts = [f"review {number} {'good ' * (number % 4)}" for number in range(40)]
    plain = pa.table({"text": texts, "label": [number % 2 for number in range(40)], "more": [[number] for number in range(40)]})
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    described = plain.drop_columns(["more"]).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    named = plain.set_column(1, "label", pa.array([["neg", "pos"][number % 2] for number in range(40)]).dictionary_encode())

    def saved(table: pa.Table, **options: object) -> bytes:
        out = pa.BufferOutputStream()
        pq.write_table(table, out, **options)
        return bytes(out.getvalue())

    return {
        "snappy": saved(plain, row_group_size=10),
        "zstd": saved(described, compression="zstd", version="1.0"),
        "plain": saved(named, compression="none", use_dictionary=False, write_page_checksum=True),
        "pages": saved(named, compression="gzip", data_page_version="2.0", data_page_size=64, write_page_index=True),
    }


# --- word vectors -------------------------------------------------------------------------------------------------------------


def vectors() -> dict[str, bytes]:
    """Small sound files of word vectors, by name."""
    words = ["the", "a", ". . .", "naïve", "10", "<unk>", "né", "at home@example.org"]
    text = "".join(f"{word} {' '.join(f'{0.125 * (place - 3 * at):.3f}' for at in range(4))}\n" for place, word in enumerate(words))

    def zipped(members: Mapping[str, str], compression: int) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", compression) as file:
            for name, content in members.items():
                file.writestr(zipfile.ZipInfo(name), content, compression)
        return out.getvalue()

    return {
        "a.txt": text.encode(),
        "b.vec": f"{len(words)} 4\n{text}".encode(),
        "c.txt.gz": gzip.compress(text.encode(), mtime=0),
        "d.zip": zipped({"d.txt": text}, zipfile.ZIP_DEFLATED),
        "e.zip": zipped({"é.txt": text}, zipfile.ZIP_STORED),
        "g.zip": zipped({"one.txt": text, "two.txt": text}, zipfile.ZIP_DEFLATED),
    }


def test_sound_tables_and_vectors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, content in {**tables(), **{f"{name}.parquet": content for name, content in parquets().items()}}.items():
        (tmp_path / name).write_bytes(content)
        splits = load_splits(TextData(source=str(tmp_path / name)), seed=0)
        assert len(splits.train) + len(splits.validation) == (40 if name.endswith("parquet") else 18), name
    for name, content in vectors().items():
        (tmp_path / name).write_bytes(content)
        words, values = read_vectors(str(tmp_path / name) + (":two.txt" if name == "g.zip" else ""))
        assert words[2] == ". . ." and values.shape == (8, 4), name


# --- the process --------------------------------------------------------------------------------------------------------------

SOUND: Mapping[str, Callable[[], dict[str, bytes]]] = {
    "picture": pictures,
    "table": tables,
    "parquet": parquets,
    "vectors": vectors,
}


def try_one(kind: str, name: str, bad: bytes, folder: Path, rng: np.random.Generator) -> list[str]:
    """Read a damaged file in every way there is: "read" or "refused", or what else happened, with its traceback."""
    # It stays there if anything else happens. By a name that says the format to those who read it off the name.
    path = folder / {"picture": "a", "parquet": "a.parquet"}.get(kind, name)
    path.write_bytes(bad)
    reads: list[Callable[[], object]]
    match kind:
        case "picture":
            refusal: type[Exception] = BadImage
            reads = [lambda: decode(bad), lambda: decode(path, at_least=4), lambda: inspect(bad), lambda: read_header(path)]
        case "vectors":
            refusal, source = RecipeError, f"{path}:two.txt" if name == "g.zip" and rng.random() < 0.8 else str(path)
            reads = [lambda: read_vectors(source), lambda: read_vectors(source, {"the", "né", "10"})]
        case _:
            refusal = DataError
            data = TextData(source=str(path), on_duplicate="keep" if rng.random() < 0.5 else "drop", validation_fraction=0.2)
            reads = [lambda: load_splits(data, seed=0), lambda: list(open_rows(path, [("text",)], data, at_once=10).blocks())]
    outcomes = []
    for read in reads:
        try:
            read()
            outcomes.append("read")
        except refusal as refused:
            message = printable(str(refused)).strip()
            outcomes.append(
                "refused" if 0 < len(message) < 30_000 else f"a message of {len(message):,} characters: {message[:200]}"
            )
        except BaseException:  # noqa: BLE001  # what it is, is the finding
            outcomes.append(traceback.format_exc())
    if set(outcomes) <= {"read", "refused"}:
        path.unlink()
    return outcomes


def try_many(kind: str, folder: Path, seeds: Iterator[int]) -> None:
    """Two lines a case, one before and one after it, so that whoever waits knows in which case a process ended."""
    sound = list(SOUND[kind]().items())
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        (name, bad), (_, other) = sound[rng.integers(len(sound))], sound[rng.integers(len(sound))]
        if kind == "table" or name in {"a.txt", "b.vec"}:
            bad = with_tokens(bad, rng)
        if kind in {"picture", "parquet"} or rng.random() < 0.6:
            bad = damaged(bad, other, rng)
        if kind == "picture" and rng.random() < 0.7:
            bad = with_sums(bad)
        print(f"{kind} {seed} ({name})", flush=True)
        start, before = time.monotonic(), memory()
        outcomes = try_one(kind, name, bad, folder, rng)
        print(json.dumps({"outcomes": outcomes, "seconds": time.monotonic() - start, "grown": memory() - before}), flush=True)


def memory() -> int:
    """Most bytes that this process has had at once."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


Cases = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """ "kind seed (name)" -> how the case went."""
    folder = tmp_path_factory.mktemp("fuzz")
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    ended = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True, env=environment, check=False)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, f"exit {ended.returncode} at {lines[-1:]}\n{ended.stderr[-3000:]}"
    return dict(zip(lines[::2], map(json.loads, lines[1::2]), strict=True))


def too_much(how: Mapping[str, Any]) -> bool:
    return bool(how["seconds"] > MOST_SECONDS or how["grown"] > MOST_MEMORY)


@pytest.mark.timeout(300 + 6 * LONGER)
@pytest.mark.parametrize("kind", SOUND)
def test_a_damaged_file_is_read_or_refused(cases: Cases, kind: str) -> None:
    of_kind = {case: how for case, how in cases.items() if case.split()[0] == kind}
    assert len(of_kind) >= (TIMES[kind] if not LONGER else 1)
    unexpected = [
        f"{case}: {outcome}" for case, how in of_kind.items() for outcome in how["outcomes"] if outcome not in {"read", "refused"}
    ]
    assert not unexpected, "\n".join(unexpected[:3])
    costs = [f"{case}: {how['seconds']:.1f} s, {how['grown'] / 1024**2:,.0f} MB" for case, how in of_kind.items() if too_much(how)]
    assert costs == []
    outcomes = Counter(outcome for how in of_kind.values() for outcome in how["outcomes"])
    assert min(outcomes["read"], outcomes["refused"]) > len(of_kind) / 50, outcomes


def main(folder: str, *one: str) -> None:
    if one:
        kind, seed = one
        try_many(kind, Path(folder), iter([int(seed)]))
        return
    for kind, times in TIMES.items():
        seeds: Iterator[int] = iter(range(times))
        if LONGER:
            end = time.monotonic() + LONGER
            seeds = itertools.takewhile(lambda _: time.monotonic() < end, itertools.count(time.time_ns() % 2**40))  # noqa: B023
        try_many(kind, Path(folder) / kind, seeds)


if __name__ == "__main__":
    main(*sys.argv[1:])
