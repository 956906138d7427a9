"""hftl: from a pretrained model and labelled data to a classifier that can be trusted and shared.

Write a `Recipe`, look at its plan, train it: see recipes/ for whole examples. Importing hftl registers the GloVe families with
transformers' Auto classes.
"""

from __future__ import annotations

from hftl.cli import main, train_recipe
from hftl.errors import DataError, HftlError, RecipeError, RunError
from hftl.models import glove as _glove  # noqa: F401  # registers the GloVe families with the Auto classes
from hftl.recipe import BiLSTM, Card, ImageData, Recipe, Run, Stage, TextCNN, TextData, Timm, Transformer, load_recipe, override
from hftl.run import RunDirectory

__version__ = "0.1.0"

__all__ = [
    "BiLSTM",
    "Card",
    "DataError",
    "HftlError",
    "ImageData",
    "Recipe",
    "RecipeError",
    "Run",
    "RunDirectory",
    "RunError",
    "Stage",
    "TextCNN",
    "TextData",
    "Timm",
    "Transformer",
    "load_recipe",
    "main",
    "override",
    "train_recipe",
]
