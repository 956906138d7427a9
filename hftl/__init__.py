"""hftl: from a pretrained model and labelled data to a classifier that can be trusted and shared.

Write a `Recipe`, look at its plan, train it: see recipes/ and docs/python.md for whole examples. Importing hftl changes nothing in
the process, and loads nothing: a name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hftl.api import (
        Run,
        Study,
        ablate,
        audit,
        baseline,
        compare,
        curve,
        features,
        features_to,
        find_lr,
        fine_tune,
        load,
        load_recipe,
        plan,
        pretrain,
        pull,
        repeat,
        runs,
        train,
        tune,
        vectors,
    )
    from hftl.cli import main
    from hftl.errors import DataError, HftlError, RecipeError, RunError
    from hftl.recipe import (
        EMA,
        SGD,
        SWA,
        Adafactor,
        Adam,
        AdamW,
        AsymmetricLoss,
        AugMix,
        BagOfEmbeddings,
        BalancedWeights,
        BiLSTM,
        Card,
        ConstantSchedule,
        CosineRestartsSchedule,
        CosineSchedule,
        CrossEntropyLoss,
        CutMix,
        EffectiveWeights,
        ExponentialSchedule,
        Extra,
        FocalLoss,
        ImageData,
        InverseSqrtSchedule,
        Lamb,
        LinearSchedule,
        Lion,
        LogitAdjustedLoss,
        Lora,
        Mixup,
        MixupOrCutMix,
        Muon,
        NAdam,
        OneCycleSchedule,
        PlateauSchedule,
        PolynomialSchedule,
        RAdam,
        RandAugment,
        RDropLoss,
        Recipe,
        RMSprop,
        RunSettings,
        SlantedTriangularSchedule,
        Soup,
        Stage,
        StepSchedule,
        TextCNN,
        TextData,
        Timm,
        Transformer,
        TrivialAugment,
        Windows,
        WSDSchedule,
        override,
    )

__version__ = "0.1.0"

__all__ = [
    "CNN",
    "EMA",
    "SGD",
    "SWA",
    "Adafactor",
    "Adam",
    "AdamW",
    "AsymmetricLoss",
    "AugMix",
    "BagOfEmbeddings",
    "BalancedWeights",
    "BiLSTM",
    "Card",
    "ConstantSchedule",
    "CosineRestartsSchedule",
    "CosineSchedule",
    "CrossEntropyLoss",
    "CutMix",
    "DataError",
    "EffectiveWeights",
    "ExponentialSchedule",
    "Extra",
    "FocalLoss",
    "HftlError",
    "ImageData",
    "InverseSqrtSchedule",
    "Lamb",
    "LinearSchedule",
    "Lion",
    "LogitAdjustedLoss",
    "Lora",
    "Mixup",
    "MixupOrCutMix",
    "Muon",
    "NAdam",
    "OneCycleSchedule",
    "PlateauSchedule",
    "PolynomialSchedule",
    "RAdam",
    "RDropLoss",
    "RMSprop",
    "RandAugment",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "RunSettings",
    "SlantedTriangularSchedule",
    "Soup",
    "Stage",
    "StepSchedule",
    "Study",
    "TextCNN",
    "TextData",
    "Timm",
    "Transformer",
    "TrivialAugment",
    "WSDSchedule",
    "Windows",
    "__version__",
    "ablate",
    "audit",
    "baseline",
    "compare",
    "curve",
    "features",
    "features_to",
    "find_lr",
    "fine_tune",
    "load",
    "load_recipe",
    "main",
    "override",
    "plan",
    "pretrain",
    "pull",
    "repeat",
    "runs",
    "train",
    "tune",
    "vectors",
]

_MODULES = {
    "hftl.api": (
        *(
            "Run",
            "Study",
            "ablate",
            "audit",
            "baseline",
            "compare",
            "curve",
            "features",
            "features_to",
            "find_lr",
            "fine_tune",
            "load",
            "load_recipe",
            "plan",
            "pretrain",
            "pull",
        ),
        *("repeat", "runs", "train", "tune", "vectors"),
    ),
    "hftl.cli": ("main",),
    "hftl.errors": ("DataError", "HftlError", "RecipeError", "RunError"),
}
"""Where a name is defined; every other one is a section of a recipe."""

if not TYPE_CHECKING:  # type checkers and editors take the names from the imports above

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module 'hftl' has no attribute {name!r}")
        module = next((module for module, names in _MODULES.items() if name in names), "hftl.recipe")
        value = globals()[name] = getattr(import_module(module), name)
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
