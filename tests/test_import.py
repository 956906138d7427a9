"""`import hftl`: the names of the API, and nothing done to the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import OLDER_TRANSFORMERS

import hftl

REPOSITORY = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "datasets", "accelerate", "timm", "psutil", "numpy", "pandas", "pydantic", "rich", "typer")


def python(code: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder)] * (folder is not None) + [str(REPOSITORY)])}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, env=environment, cwd=folder
    )


def without(folder: Path, *names: str) -> Path:
    """A folder that, first on the path, hides libraries: an import of one raises, as where it is missing or broken."""
    for name in names:
        (folder / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    return folder


def test_the_names_of_hftl_are_the_api_and_nothing_else() -> None:
    assert dir(hftl) == sorted(hftl.__all__)
    assert all(getattr(hftl, name) is not None for name in hftl.__all__)
    assert {"train", "load", "plan", "audit", "compare", "fine_tune", "Run", "Recipe", "main"} <= set(dir(hftl))
    with pytest.raises(AttributeError, match="has no attribute 'train_recipe'"):
        _ = hftl.train_recipe  # type: ignore[attr-defined]


def test_every_name_of_the_api_is_where_the_facade_says() -> None:
    named = [name for names in hftl._MODULES.values() for name in names]
    assert set(named) < set(hftl.__all__) and len(named) == len(set(named))
    of_a_recipe = [getattr(hftl, name) for name in hftl.__all__ if name not in named and name != "__version__"]
    assert all(value.__module__.startswith("hftl.recipe.") for value in of_a_recipe) and hftl.Recipe in of_a_recipe


def test_importing_hftl_changes_nothing_in_the_process_and_loads_nothing() -> None:
    code = f"""
import json, signal, sys
def state():
    handlers = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    return [str(sys.excepthook), list(map(str, sys.meta_path)), list(map(str, sys.path_hooks)), handlers]
before = state()
import hftl
same = state() == before
loaded = [name for name in {HEAVY!r} if name in sys.modules]
hftl.Recipe, hftl.train, hftl.Run, hftl.main
print(json.dumps([same, loaded, state() == before, [name for name in {HEAVY[:8]!r} if name in sys.modules]]))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, [], True, []]


def test_help_and_doctor_and_a_card_work_where_libraries_are_missing_or_broken(tmp_path: Path) -> None:
    hidden = without(tmp_path, "torch", "torchvision", "transformers", "datasets", "accelerate", "timm", "psutil", "pandas")
    command = "import sys; from hftl.cli import main; main(argv=sys.argv[1:])"
    helped = python(command, "--help", folder=hidden)
    assert helped.returncode == 0 and "fine_tune" not in helped.stdout and "doctor" in helped.stdout, helped.stderr
    examined = python(command, "doctor", folder=hidden)
    assert examined.returncode == 1 and "Traceback" not in examined.stderr, examined.stderr
    assert "torch" in examined.stdout and "no torch here" in examined.stdout
    schema = python(command, "schema", folder=hidden)
    assert json.loads(schema.stdout)["title"] == "Recipe"


def test_a_plan_loads_no_library_that_it_does_not_need_and_leaves_the_collector_as_it_was() -> None:
    code = """
import gc, json, sys
before = gc.get_freeze_count()  # Python 3.12 begins with some
import hftl.training.planning
names = ["matplotlib", "peft", "sklearn", "evaluate", "albumentations", "timm", "optuna"]
print(json.dumps([[name for name in names if name in sys.modules], gc.isenabled(), gc.get_freeze_count() - before]))
"""
    # An older transformers itself loads scikit-learn.
    assert json.loads(python(code).stdout) == [["sklearn"] if OLDER_TRANSFORMERS else [], True, 0]


def test_the_auto_classes_know_the_glove_families_once_the_models_are_imported() -> None:
    code = """
import hftl
from transformers import CONFIG_MAPPING
first = "hftl_textcnn" in CONFIG_MAPPING
import hftl.models.glove
print(first, "hftl_textcnn" in CONFIG_MAPPING)
"""
    assert python(code).stdout.split() == ["False", "True"]
