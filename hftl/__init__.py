"""hftl: from a pretrained model and labelled data to a classifier that can be trusted and shared.

Write a `Recipe`, look at its plan, train it: see recipes/ for whole examples. With hftl imported, transformers' Auto classes know
the GloVe families; torch is not loaded for that, so the command line answers at once and `hftl doctor` works where torch does not.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, TracebackType

from hftl.cli import is_main_process, main, train_recipe
from hftl.errors import DataError, HftlError, RecipeError, RunError
from hftl.recipe import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    BagOfEmbeddings,
    BiLSTM,
    Card,
    ConstantSchedule,
    CosineSchedule,
    CrossEntropyLoss,
    ExponentialSchedule,
    FocalLoss,
    ImageData,
    Lamb,
    LinearSchedule,
    Lion,
    NAdam,
    OneCycleSchedule,
    PolynomialSchedule,
    RAdam,
    Recipe,
    RMSprop,
    RunSettings,
    SlantedTriangularSchedule,
    Stage,
    StepSchedule,
    TextCNN,
    TextData,
    Timm,
    Transformer,
    load_recipe,
    override,
)
from hftl.run import RunDirectory

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "BagOfEmbeddings",
    "BiLSTM",
    "Card",
    "ConstantSchedule",
    "CosineSchedule",
    "CrossEntropyLoss",
    "DataError",
    "ExponentialSchedule",
    "FocalLoss",
    "HftlError",
    "ImageData",
    "Lamb",
    "LinearSchedule",
    "Lion",
    "NAdam",
    "OneCycleSchedule",
    "PolynomialSchedule",
    "RAdam",
    "RMSprop",
    "Recipe",
    "RecipeError",
    "RunDirectory",
    "RunError",
    "RunSettings",
    "SlantedTriangularSchedule",
    "Stage",
    "StepSchedule",
    "TextCNN",
    "TextData",
    "Timm",
    "Transformer",
    "load_recipe",
    "main",
    "override",
    "train_recipe",
]


def _say_recipe_errors(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A mistake in a recipe script is found while the script is read, before `main` can catch it: one message, exit code 2."""
    if not isinstance(error, RecipeError):
        sys.__excepthook__(kind, error, trace)
        return
    if is_main_process():
        print(f"RecipeError: {error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(error.exit_code)


sys.excepthook = _say_recipe_errors

_AUTO_CLASSES = "transformers.models.auto.modeling_auto"


class _AfterAutoClasses(MetaPathFinder):
    """Registers the GloVe families the moment transformers' Auto classes have been imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _AUTO_CLASSES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            importlib.import_module("hftl.models.glove")

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if _AUTO_CLASSES in sys.modules:
    importlib.import_module("hftl.models.glove")
else:
    sys.meta_path.insert(0, _AfterAutoClasses())
