"""What a notebook shows of hftl: by IPython's own shell, with its cells, displays and errors, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hftl.terminal import Markdown

REPOSITORY = Path(__file__).resolve().parent.parent
CARD = "---\nlicense: mit\n---\n\n# Reviews\n\n![curves](figures/learning_curves.png)\n\nAccuracy 0.7.\n"
# The shell of a kernel has this name, by which rich knows a notebook; its displays are taken down here instead of being sent.
SHELL = """
import json, sys
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

class ZMQInteractiveShell(InteractiveShell):
    display_pub_class = CapturingDisplayPublisher
    told = []
    def _showtraceback(self, kind, value, lines):
        self.told.append(lines)

shell = ZMQInteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
cells = []
for source in json.loads(sys.argv[1]):
    shell.told.clear()
    shell.run_cell(source, store_history=True)
    cells.append({"displays": list(shell.display_pub.outputs), "errors": list(shell.told)})
    shell.display_pub.outputs.clear()
sys.stdout.write(json.dumps(cells, default=str))
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "card.md").write_text(CARD)
    sources = [
        "from hftl.terminal import Markdown, progress_console, show, tell\nfrom pathlib import Path\n"
        "show(progress_console(), 'stage 1 of 2: <head>')\ntell('  epoch 1/2')\nshow(progress_console(), '  epoch 2/2')",
        "tell('another cell')",
        "import hftl\nhftl.load('nowhere')",
        "hftl.Stage(lr=0, epochz=1)",
        "1 / 0",
        "display(Markdown(Path('card.md').read_text()))",
    ]
    environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython")}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SHELL, json.dumps(sources)], capture_output=True, text=True, timeout=120, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # what is displayed is not printed too
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_progress_of_a_cell_is_one_display_that_grows(cells: list[dict[str, Any]]) -> None:
    displays = cells[0]["displays"]
    assert [output["update"] for output in displays] == [False, True, True]
    assert len({output["transient"]["display_id"] for output in displays}) == 1
    assert [line.rstrip() for line in displays[-1]["data"]["text/plain"].splitlines()] == [
        "stage 1 of 2: <head>",
        "  epoch 1/2",
        "  epoch 2/2",
    ]
    assert "stage 1 of 2: &lt;head&gt;" in displays[-1]["data"]["text/html"]


def test_another_cell_has_a_display_of_its_own(cells: list[dict[str, Any]]) -> None:
    (display,) = cells[1]["displays"]
    assert not display["update"] and display["data"]["text/plain"] == "another cell\n"
    assert display["transient"] != cells[0]["displays"][0]["transient"]


def test_a_mistake_shows_its_message_and_no_traceback(cells: list[dict[str, Any]]) -> None:
    assert cells[2]["errors"] == [["RunError: nowhere: no such folder; a published run is written OWNER/NAME"]]
    (lines,) = cells[3]["errors"]
    assert lines[0] == "RecipeError: 2 problems in hftl.Stage(...)"
    assert any("0.0 does not freeze a group" in line for line in lines) and any('Did you mean "epochs"?' in line for line in lines)


def test_a_defect_keeps_its_traceback(cells: list[dict[str, Any]]) -> None:
    (lines,) = cells[4]["errors"]
    assert "Traceback (most recent call last)" in "\n".join(lines) and "ZeroDivisionError" in lines[-1]


def test_a_card_is_rendered_without_its_front_matter_and_without_pictures_that_a_notebook_does_not_find(
    cells: list[dict[str, Any]],
) -> None:
    (display,) = cells[5]["displays"]
    assert display["data"]["text/markdown"] == "# Reviews\n\n\nAccuracy 0.7."
    assert str(Markdown(CARD)) == CARD == Markdown(CARD)
