"""The arrows of the architecture, as a table: what each module of hftl may import, and a few things that are nowhere allowed.

A change that fails here has either taken a wrong turn, or found that the table is wrong: then the table, README.md and the code
change together. A new module needs no line where its package has one; a new package does.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "hftl"

# --- the table ----------------------------------------------------------------------------------------------------------------

GROUND = (
    "hftl.names",
    "hftl.wording",
    "hftl.scripts",
    "hftl.errors",
    "hftl.secrets",
    "hftl.files",
    "hftl.environment",
    "hftl.recipe",
    "hftl.facts",
    "hftl.run",
    "hftl.freeze_proof",
    "hftl.records",
)
WINGS = (*GROUND, "hftl.data", "hftl.models", "hftl.evaluation")
OUTSIDE = ("hftl.signals", "hftl.terminal", "hftl.launch", "hftl.memory", "hftl.defaults")
CARD_PARTS = tuple(f"hftl.sharing.{part}" for part in ("card_results", "front_matter", "markdown", "usage"))
EVERYTHING = ("hftl",)

# Module or package -> what of hftl it may import beside its own package; the longest name that fits counts.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "hftl": EVERYTHING,  # the facade, hftl/__init__.py alone
    "hftl.names": (),
    "hftl.wording": (),
    "hftl.scripts": (),
    "hftl.errors": ("hftl.wording",),
    "hftl.secrets": (),
    "hftl.signals": (),
    "hftl.system": (),
    "hftl.terminal": ("hftl.errors",),
    "hftl.cores": (),
    # Of a recipe that is handed data in memory the name of where they are kept.
    "hftl.memory": ("hftl.errors", "hftl.files", "hftl.store"),
    "hftl.recipe": ("hftl.names", "hftl.errors", "hftl.secrets", "hftl.memory"),
    "hftl.defaults": ("hftl.names", "hftl.recipe", "hftl.models"),
    "hftl.facts": ("hftl.errors", "hftl.recipe", "hftl.records"),
    "hftl.files": ("hftl.errors", "hftl.system"),
    "hftl.environment": ("hftl.cores",),
    "hftl.run": ("hftl.errors", "hftl.system", "hftl.files", "hftl.recipe"),
    "hftl.store": ("hftl.wording", "hftl.errors", "hftl.system", "hftl.cores", "hftl.files"),
    "hftl.fonts": (),
    "hftl.freeze_proof": ("hftl.errors", "hftl.files", "hftl.run"),
    "hftl.records": ("hftl.names", "hftl.errors", "hftl.files", "hftl.run"),
    "hftl.ledger": ("hftl.errors", "hftl.files", "hftl.environment", "hftl.recipe", "hftl.run", "hftl.records"),
    # Three neighbours that never import each other: the training engine introduces them.
    "hftl.data": (*GROUND, "hftl.store", "hftl.memory", "hftl.fonts", "hftl.signals", "hftl.terminal", "hftl.system", "hftl.cores"),
    "hftl.models": GROUND,
    "hftl.evaluation": (*GROUND, "hftl.fonts", "hftl.terminal"),
    "hftl.evaluation.openings": (*GROUND, "hftl.ledger", "hftl.evaluation.intervals", "hftl.evaluation.predictions"),
    "hftl.training": (
        *WINGS,
        "hftl.store",
        "hftl.ledger",
        "hftl.signals",
        "hftl.terminal",
        "hftl.cores",
        "hftl.system",
        "hftl.memory",
    ),
    "hftl.inference": (*WINGS, "hftl.training", "hftl.memory"),
    "hftl.extraction": (*WINGS, "hftl.training", "hftl.inference"),
    "hftl.pseudo_labels": (*WINGS, "hftl.training", "hftl.inference"),
    # The publishing wing meets the training wing on disk only. The card needs less still.
    "hftl.sharing": (*GROUND, "hftl.evaluation.metrics", "hftl.evaluation.predictions", "hftl.evaluation.serving"),
    "hftl.sharing.card": (*GROUND, *CARD_PARTS),
    "hftl.sharing.card_results": (*GROUND, "hftl.sharing.markdown"),
    "hftl.sharing.front_matter": (*GROUND, "hftl.sharing.markdown"),
    "hftl.sharing.markdown": GROUND,
    "hftl.sharing.usage": GROUND,
    "hftl.sharing.forms": (*GROUND, "hftl.evaluation.report"),  # whose figures its own looks like
    # What a figure shows is checked by drawing it again.
    "hftl.sharing.verify": (
        *GROUND,
        "hftl.evaluation.gain",
        "hftl.evaluation.metrics",
        "hftl.evaluation.openings",
        "hftl.evaluation.predictions",
        "hftl.evaluation.report",
        "hftl.evaluation.seeds",
        "hftl.evaluation.views",
        "hftl.ledger",
        "hftl.sharing.card",
        *CARD_PARTS,
        "hftl.sharing.contents",
        "hftl.sharing.publication",
        "hftl.terminal",
    ),
    # A push that is stopped says what became of it.
    "hftl.sharing.hub": (*GROUND, "hftl.evaluation.openings", "hftl.sharing", "hftl.signals"),
    # What is about to be published is checked as a stranger's model is, and run.
    "hftl.sharing.parity": (
        *GROUND,
        "hftl.evaluation.metrics",
        "hftl.evaluation.predictions",
        "hftl.evaluation.serving",
        "hftl.models",
        "hftl.sharing.publication",
    ),
    "hftl.sharing.export": (*GROUND, "hftl.models", "hftl.sharing.usage", "hftl.sharing.publication", "hftl.terminal"),
    "hftl.sharing.adapter": (*GROUND, "hftl.models", "hftl.sharing.export", "hftl.sharing.front_matter", "hftl.terminal"),
    # Where the two wings meet: the model again, beside what was published.
    "hftl.reproduce": (*WINGS, "hftl.training", "hftl.sharing"),
    # The model in smaller forms, measured on the run's rows.
    "hftl.shrinking": (*WINGS, "hftl.training", "hftl.sharing", "hftl.terminal", "hftl.cores"),
    # Many fits of one recipe: they know training, and nothing of what is published.
    "hftl.studies": (*WINGS, "hftl.training", "hftl.terminal", "hftl.system", "hftl.ledger", "hftl.fonts"),
    # What helps when something else is broken or missing.
    "hftl.doctor": ("hftl.errors", "hftl.environment", "hftl.cores"),
    "hftl.samples": ("hftl.errors",),
    "hftl.launch": ("hftl.errors", "hftl.signals", "hftl.cores"),
    # The one door, and the command line, which goes through it alone.
    "hftl.api": (
        *WINGS,
        *(
            "hftl.training",
            "hftl.studies",
            "hftl.inference",
            "hftl.extraction",
            "hftl.pseudo_labels",
            "hftl.sharing",
            "hftl.reproduce",
            "hftl.shrinking",
            "hftl.ledger",
            "hftl.doctor",
        ),
        *OUTSIDE,
    ),
    "hftl.cli": ("hftl.api", "hftl.errors", "hftl.recipe", "hftl.signals", "hftl.launch", "hftl.terminal"),
    "hftl.__main__": ("hftl.cli",),
}

# Module or package -> the only libraries it may import, where that is part of its promise; the standard library is always allowed.
LIBRARIES: dict[str, frozenset[str]] = {
    "hftl": frozenset(),  # `import hftl` is fast, and works where an installation is broken
    "hftl.names": frozenset(),
    "hftl.wording": frozenset(),
    "hftl.scripts": frozenset(),
    "hftl.errors": frozenset(),
    "hftl.secrets": frozenset(),
    "hftl.signals": frozenset(),
    "hftl.system": frozenset({"filelock"}),
    "hftl.cores": frozenset(),
    "hftl.recipe": frozenset({"pydantic", "yaml"}),
    "hftl.memory": frozenset({"pyarrow", "datasets", "PIL"}),  # each where it is used
    "hftl.cli": frozenset({"typer", "rich"}),
    "hftl.facts": frozenset(),
    "hftl.files": frozenset(),
    "hftl.environment": frozenset(),
    "hftl.run": frozenset(),
    "hftl.store": frozenset({"numpy"}),
    "hftl.fonts": frozenset({"matplotlib", "packaging"}),
    "hftl.ledger": frozenset(),
    "hftl.doctor": frozenset({"packaging"}),
    "hftl.freeze_proof": frozenset(),
    "hftl.records": frozenset(),
    "hftl.sharing.card": frozenset({"jinja2", "huggingface_hub"}),
    "hftl.sharing.card_results": frozenset({"jinja2"}),
    "hftl.sharing.front_matter": frozenset({"yaml", "huggingface_hub"}),
    "hftl.sharing.markdown": frozenset({"jinja2"}),
    "hftl.sharing.usage": frozenset({"jinja2"}),
}

# Library -> the one module that may import it.
ONLY_IN = {
    "albumentations": "hftl.data.albumentations_views",
    "cv2": "hftl.data.albumentations_views",
    "IPython": "hftl.terminal",
    "onnx": "hftl.sharing.export",
    "onnx_ir": "hftl.sharing.export",
    "onnxruntime": "hftl.sharing.export",
    "trackio": "hftl.training.trackers",
    "optuna": "hftl.studies.search",
    "sqlalchemy": "hftl.studies.search",
    "openpyxl": "hftl.data.excel",
    "pi_heif": "hftl.data.decoding",
    "gensim": "hftl.models.gensim_vectors",
    "peft": "hftl.models.adapters",
    "tifffile": "hftl.data.bands",
}
# Run as files, in processes of their own, as somebody would who serves a model without hftl.
WITHOUT_HFTL = {"hftl.sharing.serve", "hftl.sharing.time_onnx"}
# In a notebook there is one, and only there is it asked for.
OF_A_NOTEBOOK = {"IPython"}
# Extra -> the one module that imports what it brings, and says so where it is missing.
EXTRA = {
    "onnx": "hftl.sharing.export",
    "trackio": "hftl.training.trackers",
    "tune": "hftl.studies.search",
    "excel": "hftl.data.excel",
    "heic": "hftl.data.decoding",
    "vectors": "hftl.models.gensim_vectors",
    "lora": "hftl.models.adapters",
    "bands": "hftl.data.bands",
}


# --- reading the code ---------------------------------------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of hftl."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path, known: frozenset[str]) -> set[str]:
    """Dotted names that a file imports, anywhere in it: at its top, inside functions, for types only, or by `import_module`.

    ``from hftl import run`` is an import of `hftl.run` where that is in `known`, otherwise one of the facade `hftl`.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            module = node.module or ""
            found.update(name if (name := f"{module}.{alias.name}") in known else module for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"} and node.args:
            found.update(str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))
    return found


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def entry(name: str, table: Iterable[str]) -> str | None:
    """The longest name in a table that a module is within; "hftl" stands for the facade alone."""
    fitting = [key for key in table if name == key or (key != "hftl" and is_within(name, key))]
    return max(fitting, key=len, default=None)


def may_import(name: str, other: str) -> bool:
    """Whether the table lets module `name` import `other`, both of hftl."""
    key = entry(name, MAY_IMPORT)
    assert key is not None, f"{name} is not in the table"
    allowed = MAY_IMPORT[key]
    if allowed == EVERYTHING:
        return True
    if other == "hftl":
        return False  # the facade is above every module
    package = ".".join(name.split(".")[:2])
    own = (package,) if (PACKAGE / package.removeprefix("hftl.")).is_dir() and key == package else ()
    return any(is_within(other, part) for part in (*allowed, *own))


def files() -> list[Path]:
    """Every file of the repository that .gitignore does not leave out."""
    lines = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").split()
    ignored = [".git", *(line.strip("/") for line in lines if not line.startswith("#"))]

    def walk(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored):
                continue
            if path.is_dir() and not path.is_symlink():
                yield from walk(path)
            else:
                yield path

    return list(walk(REPOSITORY))


FILES = files()
PYTHON = [path for path in FILES if path.suffix == ".py"]


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


# --- the table holds ----------------------------------------------------------------------------------------------------------


def test_the_walk_finds_the_code_it_is_about() -> None:
    assert {"hftl.errors", "hftl.recipe", "hftl.run", "hftl.data.loader", "hftl.models.chain", "hftl.doctor"} <= set(MODULES)
    assert len(MODULES) > 15
    assert {"hftl/errors.py", "tests/test_architecture.py", "pyproject.toml", "Makefile", ".ci/run"} <= {
        relative(path) for path in FILES
    }
    assert not any(relative(path).startswith((".venv/", ".git/")) for path in FILES)


def test_every_module_is_in_the_table_and_every_line_of_the_table_is_about_something() -> None:
    assert [name for name in MODULES if entry(name, MAY_IMPORT) is None] == []
    for name in {*MAY_IMPORT, *LIBRARIES, *ONLY_IN.values()}:
        assert any(is_within(module, name) for module in MODULES), f"{name} is in the table and not in the code"


def test_every_package_has_an_init() -> None:
    folders = {path.parent for path in MODULES.values()}
    assert [relative(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_floors_below_it(name: str) -> None:
    own = {other for other in imports(MODULES[name], frozenset(MODULES)) if is_within(other, "hftl")}
    assert sorted(other for other in own if not may_import(name, other)) == []


@pytest.mark.parametrize("name", [name for name in MODULES if entry(name, LIBRARIES)])
def test_a_module_that_promises_to_be_light_imports_only_the_libraries_it_names(name: str) -> None:
    key = entry(name, LIBRARIES)
    assert key is not None
    libraries = {other.split(".")[0] for other in imports(MODULES[name], frozenset(MODULES))} - sys.stdlib_module_names - {"hftl"}
    assert sorted(libraries - LIBRARIES[key]) == []


@pytest.mark.parametrize(("library", "only"), ONLY_IN.items())
def test_a_library_that_may_have_to_be_replaced_is_behind_one_module(library: str, only: str) -> None:
    modules = {name: path for name, path in MODULES.items() if name not in WITHOUT_HFTL}
    users = [
        name for name, path in modules.items() if any(is_within(other, library) for other in imports(path, frozenset(MODULES)))
    ]
    assert users == [only]


@pytest.mark.parametrize("module", ["hftl.doctor", "hftl.sharing.card", "hftl.recipe", "hftl.api", "hftl.cli"])
def test_what_must_work_beside_a_broken_installation_loads_no_heavy_library(module: str) -> None:
    heavy = ["torch", "torchvision", "transformers", "datasets", "timm", "accelerate", "albumentations"]
    code = f"import {module}, sys; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_table_itself_refuses_what_it_should() -> None:
    assert may_import("hftl.training.engine", "hftl.data.loader")
    assert may_import("hftl.models.vision", "hftl.models.chain")
    assert may_import("hftl.sharing.hub", "hftl.sharing.card")
    assert not may_import("hftl.recipe", "hftl.run")
    assert not may_import("hftl.data.loader", "hftl.models.chain")
    assert not may_import("hftl.evaluation.report", "hftl.data")
    assert not may_import("hftl.data.source", "hftl.training.plan")
    assert not may_import("hftl.training.engine", "hftl.sharing.card")
    assert not may_import("hftl.sharing.card", "hftl.evaluation.metrics")
    assert not may_import("hftl.sharing.hub", "hftl.evaluation.report")
    assert not may_import("hftl.errors", "hftl")
    assert may_import("hftl.api", "hftl.sharing.hub")
    assert not may_import("hftl.cli", "hftl.sharing.hub") and not may_import("hftl.cli", "hftl.run")
    assert entry("hftl.utils", MAY_IMPORT) is None


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "from typing import TYPE_CHECKING\nfrom hftl import run, Recipe\nif TYPE_CHECKING:\n    import torch.nn as nn\n"
        "def late():\n    from hftl.models import chain\n    importlib.import_module('timm.data')\n",
        encoding="utf-8",
    )
    found = imports(tmp_path / "module.py", frozenset({"hftl", "hftl.run", "hftl.models", "hftl.models.chain"}))
    assert found == {"typing", "hftl.run", "hftl", "torch.nn", "hftl.models.chain", "timm.data"}


# --- packaging ----------------------------------------------------------------------------------------------------------------


PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(*extras: str) -> list[str]:
    """What pyproject.toml asks for, such as "torch>=2.11", with these extras and those that they name."""
    found = list(PROJECT["dependencies"])
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            own = re.fullmatch(r"hftl\[(.*)\]", text)
            found += [text] if own is None else declared(*own[1].split(","))
    return found


def pins(name: str) -> dict[str, str]:
    """Library -> version of a file of constraints."""
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in found if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    return {canonical(line): line.partition("==")[2] for line in found}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", name, maxsplit=1)[0]).lower()


def test_every_library_that_hftl_imports_is_declared() -> None:
    owners = metadata.packages_distributions()
    imported = {other.split(".")[0] for path in MODULES.values() for other in imports(path, frozenset(MODULES))}
    libraries = imported - sys.stdlib_module_names - {"hftl"}
    assert {"torch", "pydantic"} <= libraries
    known = {canonical(text) for text in declared()}
    libraries -= OF_A_NOTEBOOK | {library for library, module in ONLY_IN.items() if module in EXTRA.values()}
    assert [name for name in sorted(libraries) if not known & {canonical(owner) for owner in owners.get(name, [])}] == []


def test_constraints_pin_every_declared_library_exactly_and_name_no_place() -> None:
    pinned = pins("constraints.txt")
    assert sorted({canonical(text) for text in declared("dev")} - set(pinned)) == []
    assert (pinned["torch"], pinned["torchvision"]) == ("2.14.1", "0.29.1")


def test_the_lower_bounds_are_the_versions_of_the_oldest_set() -> None:
    oldest = pins("constraints-oldest.txt")
    bounds = [re.fullmatch(r"([\w.-]+)(?:>=|==)([\w.]+)", text) for text in declared()]
    assert [text for text, bound in zip(declared(), bounds, strict=True) if bound is None] == []
    asked = {canonical(bound[1]): version(bound[2]) for bound in bounds if bound is not None}
    installed = {name: version(oldest[name]) for name in asked}
    assert {name: (asked[name], installed[name]) for name in asked if asked[name] != installed[name][: len(asked[name])]} == {}
    # What GPU images and Colab hold is inside.
    common = {"torch": "2.11", "transformers": "5.17", "accelerate": "1.15", "huggingface-hub": "1.33", "numpy": "2.0.2"}
    assert [name for name, there in common.items() if asked[name] > version(there)] == []
    assert oldest["pandas"] == "2.2.2"


def version(text: str) -> tuple[int, ...]:
    """ "4.12.0.88" as numbers, without zeros at its end."""
    numbers = [int(part) for part in text.split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


# --- nowhere allowed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_nobody_catches_every_exception(path: Path) -> None:
    caught = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ExceptHandler)]
    kinds = [(node.lineno, ast.unparse(node.type) if node.type else "everything") for node in caught]
    assert [(line, kind) for line, kind in kinds if kind == "everything" or "Exception" in re.findall(r"\w+", kind)] == []


def test_there_is_no_room_for_things_without_a_place() -> None:
    assert [relative(path) for path in PYTHON if path.stem in {"utils", "util", "helpers", "common", "misc"}] == []


def test_no_test_file_imports_another() -> None:
    """What two of them need stands in a module beside them, such as small.py: else one cannot be changed or run alone."""
    tests = [path for path in PYTHON if path.parent == REPOSITORY / "tests"]
    names = {path.stem for path in tests if path.stem.startswith("test_")}
    assert len(names) > 50
    found = {relative(path): imports(path, frozenset()) for path in tests}
    assert {path: used for path, modules in found.items() if (used := {name.split(".")[-1] for name in modules} & names)} == {}


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    # A test may make up a home folder, to show that it does not leak into a card.
    everywhere, outside_tests = (re.compile(rf"(?<![\w.~/:}}-])/({names})\b") for names in ("work|root|tmp", "home|Users"))
    text_suffixes = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".jinja", ".cfg", ".sh", ""}
    read = [path for path in FILES if path.suffix in text_suffixes and path.stat().st_size < 1_000_000]
    assert len(read) > 20
    found = [
        f"{relative(path)}:{number}: {line.strip()[:80]}"
        for path in read
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if everywhere.search(line) or (path.parent.name != "tests" and outside_tests.search(line))
    ]
    assert found == []


def test_no_file_is_larger_than_sixteen_megabytes_nor_the_samples_together_than_25() -> None:
    assert [relative(path) for path in FILES if path.stat().st_size > 16_000_000] == []
    samples = [path for path in FILES if path.is_relative_to(PACKAGE / "samples")]
    assert samples
    assert sum(path.stat().st_size for path in samples) <= 25_000_000


# --- what a change touches ----------------------------------------------------------------------------------------------------

# Added to prove that a change of its kind stays in its place -> the files of hftl that know it (see the table in CONTRIBUTING.md).
TOUCHED = {
    # a family
    "bag": {"__init__.py", "names.py", "recipe/__init__.py", "recipe/model.py", "models/__init__.py", "models/glove_modeling.py"},
    # another head over the networks of a family, and another format of their files
    "pyramid": {"names.py", "recipe/model.py", "models/vision.py", "models/pyramid.py", "models/pyramid_modeling.py"},
    "kappa": {"names.py", "evaluation/metrics.py"},  # a metric that may choose the weights and has an interval
    "polynomial": {"recipe/schedule.py", "recipe/__init__.py", "training/stage.py", "__init__.py"},  # a schedule
}


@pytest.mark.parametrize(("word", "files"), TOUCHED.items())
def test_a_new_family_metric_or_schedule_touches_few_files(word: str, files: set[str]) -> None:
    known = [path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".jinja"}]
    assert {path.relative_to(PACKAGE).as_posix() for path in known if word in path.read_text(encoding="utf-8").lower()} == files
