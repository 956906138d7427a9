"""Run a notebook's code cells in this process, in order; with --write keep what they show: python notebooks/execute.py FILE.ipynb

A cell's last expression is shown as a notebook shows it (`_repr_html_` beside the text); an error ends it. No Jupyter is needed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any


def run_cell(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Execute a cell; what it printed and what it shows, as nbformat 4 has it."""
    body = ast.parse(source).body
    last = body[-1] if body and isinstance(body[-1], ast.Expr) else None
    body = body[:-1] if last is not None else body
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        exec(compile(ast.Module(body, []), f"<cell {number}>", "exec"), names)  # noqa: S102  # that is what it is for
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stderr", "text": text.splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_") and (shown := value._repr_html_()) is not None:
            data["text/html"] = shown.splitlines(keepends=True)
        outputs.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    return outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--write", action="store_true", help="keep what the cells show in the notebook")
    arguments = parser.parse_args()
    notebook = json.loads(arguments.notebook.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells, start=1):
        cell["outputs"], cell["execution_count"] = run_cell("".join(cell["source"]), names, number), number
    if arguments.write:
        arguments.notebook.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(cells)} cells of {arguments.notebook.name} ran")


if __name__ == "__main__":
    main()
