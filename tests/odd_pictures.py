"""Pictures that are read wrongly unless somebody thought of them: turned by EXIF, transparent, of 16 bits."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hftl.data.decoding import decode

ORIENTATION = 0x0112


def odd_pictures(folder: Path) -> list[str]:
    """Files of a plain JPEG, one that EXIF turns by 90 degrees, a transparent PNG, and a PNG of 16 bits."""
    rows, columns = np.mgrid[0:48, 0:48]
    grey = np.where(columns < 24, 30, 220) + rows // 4  # dark on the left, so that a turned one looks otherwise
    colours = np.stack([grey, 255 - grey, rows * 5], axis=-1).astype(np.uint8)
    plain = Image.fromarray(colours)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    alpha = np.where(rows < 24, 0, 255).astype(np.uint8)
    sixteen = (rows * 800 + columns * 500 + 300).astype(np.uint16)
    files = [str(folder / name) for name in ("plain.jpg", "turned.jpg", "transparent.png", "sixteen.png")]
    plain.save(files[0], quality=95)
    plain.save(files[1], quality=95, exif=exif)
    Image.fromarray(np.dstack([colours, alpha])).save(files[2])
    Image.fromarray(sixteen).save(files[3])
    return files


def read_differently(code: str, files: Sequence[str], *, background: tuple[int, int, int]) -> list[str]:
    """The files of which the function `read_picture` in some lines of Python makes other pixels than hftl."""
    [function] = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    assert function.name == "read_picture"
    script = Path(files[0]).with_name("read_picture.py")
    script.write_text(f"import numpy as np\nfrom PIL import Image, ImageOps\n\n{ast.unparse(function)}\n", encoding="utf-8")
    read_picture = runpy.run_path(str(script))["read_picture"]
    read = {file: np.asarray(read_picture(file)) for file in files}
    return [file for file in files if not np.array_equal(read[file], np.asarray(decode(file, background=background)))]
