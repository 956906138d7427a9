"""What README.md, docs/python.md and the notebook show in Python runs as it stands, on fewer reviews and in shorter stages."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

import hftl
from hftl import defaults, samples

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK = REPOSITORY / "notebooks" / "first_run.ipynb"


def blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (REPOSITORY / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; 80 reviews to train on and 40 to test stand for all of them, and an epoch for each stage."""
    few = tmp_path / "reviews"
    few.mkdir()
    for split, rows in (("train", 80), ("test", 40)):
        lines = Path(samples.REVIEWS, f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (few / f"{split}.jsonl").write_text("".join(lines[:rows]), encoding="utf-8")
    monkeypatch.setattr(samples, "REVIEWS", str(few))
    monkeypatch.setattr(defaults, "_epochs", lambda *_, **__: 1)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def test_readme_begins_with_the_python_that_the_page_on_python_begins_with() -> None:
    assert blocks("README.md")[0] == blocks("docs/python.md")[0]


@pytest.mark.slow
def test_the_python_of_the_documents_runs(shorter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = blocks("docs/python.md")
    assert len(page) >= 4
    names: dict[str, object] = {"__name__": "docs"}
    for block in page:
        exec(compile(block, "<a block of docs/python.md>", "exec"), names)  # noqa: S102
    assert (shorter / "runs/bert-nano-reviews/README.md").is_file()
    assert (shorter / "runs/reviews/evaluations/two-sentences/metrics.json").is_file()
    printed = capsys.readouterr().out
    assert 'Run("runs/bert-nano-reviews"): test accuracy 0.' in printed and "holds: all" in printed and "McNemar" in printed


@pytest.mark.slow
def test_the_notebook_runs(shorter: Path) -> None:
    run_cell = runpy.run_path(str(NOTEBOOK.with_name("execute.py")))["run_cell"]
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells, start=1):
        shown = run_cell("".join(cell["source"]), names, number)
        kinds = [[output["output_type"], *sorted(output.get("data", ()))] for output in shown]
        kept = [[output["output_type"], *sorted(output.get("data", ()))] for output in cell["outputs"]]
        assert kinds == kept, f"cell {number} shows something else than what is kept in the notebook"
    assert (shorter / "runs/bert-nano-reviews/evaluations/four-sentences").is_dir()


def test_the_notebook_is_kept_with_what_its_cells_show_and_no_place_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 6 and [cell["execution_count"] for cell in cells] == [1, 2, 3, 4, 5, 6]
    assert "test accuracy 0." in text and "<table>" in text and "0 of them do not hold" in text
    assert not re.search(r"/(tmp|home|root|work|Users)/", text)


def test_every_name_on_the_page_exists() -> None:
    text = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"hftl\.([A-Za-z_]+)\(", text)) <= set(hftl.__all__)
    assert set(re.findall(r"run\.([a-z_]+)\(", text)) <= set(dir(hftl.Run))
