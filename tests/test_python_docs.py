"""What README.md, docs/python.md and the notebook show in Python runs as it stands, but for shorter default stages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hftl import defaults

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK = REPOSITORY / "notebooks" / "first_run.ipynb"


def blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (REPOSITORY / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_python_of_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(defaults, "_epochs", lambda *_, **__: 1)
    first, page = blocks("README.md")[0], blocks("docs/python.md")
    assert first and len(page) >= 4
    names: dict[str, object] = {"__name__": "docs"}
    for block in dict.fromkeys([*page, first]):  # README begins with the page's first
        exec(compile(block, "<a block of the documents>", "exec"), names)  # noqa: S102
    assert (tmp_path / "runs/bert-nano-reviews/README.md").is_file() and (tmp_path / "runs/reviews/evaluations").is_dir()


@pytest.mark.slow
def test_the_notebook_runs_in_a_fresh_process(tmp_path: Path) -> None:
    script = str(NOTEBOOK.with_name("execute.py"))
    code = "from hftl import defaults; defaults._epochs = lambda *_, **__: 1; import runpy, sys; "
    code += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, script, str(NOTEBOOK)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6 cells of first_run.ipynb ran\n"


def test_the_notebook_is_kept_with_what_its_cells_show_and_no_place_of_a_machine() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 6 and all(cell["outputs"] for cell in cells)
    assert [cell["execution_count"] for cell in cells] == [1, 2, 3, 4, 5, 6]
    shown = NOTEBOOK.read_text(encoding="utf-8")
    assert "test accuracy 0." in shown and "<table>" in shown and "0 of them do not hold" in shown
    assert not re.search(r"/(tmp|home|root|work|Users)/", shown)


def test_each_command_has_its_row_and_each_name_of_the_page_exists() -> None:
    import hftl

    text = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"hftl\.([A-Za-z_]+)\(", text)) <= set(hftl.__all__)
    assert set(re.findall(r"run\.([a-z_]+)\(", text)) <= set(dir(hftl.Run))
