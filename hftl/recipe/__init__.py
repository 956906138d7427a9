"""The recipe: one whole experiment as typed, frozen data.

A recipe is built in Python (a script under recipes/) or read from YAML, changed by dotted key (`stages.all.lr=3e-5`), checked
as a whole, and written back as YAML into the run directory. The YAML is data only: no code, no class paths.

    section                                                        what every section is; `problems`: what is wrong with one
    data, model, optimizer, schedule, loss, balance, average,      the sections
    lora, stage, settings, card
    recipe                                                         all of them together
    text, reading, overrides, places                               YAML, files and scripts, `key=value`, paths of a machine
"""

from hftl.recipe.augmentation import AugMix, Policy, RandAugment, TrivialAugment
from hftl.recipe.average import EMA, SWA, Average, Soup
from hftl.recipe.balance import BalancedWeights, ClassWeights, EffectiveWeights
from hftl.recipe.card import ABOUT, AUTHOR, Card
from hftl.recipe.data import ImageData, TextData, Windows
from hftl.recipe.extra import Extra
from hftl.recipe.lora import Lora
from hftl.recipe.loss import AsymmetricLoss, ContrastiveLoss, CrossEntropyLoss, FocalLoss, LogitAdjustedLoss, Loss, RDropLoss
from hftl.recipe.mix import CutMix, Mix, Mixup, MixupOrCutMix
from hftl.recipe.model import CNN, BagOfEmbeddings, BiLSTM, Pretrained, TextCNN, Timm, Transformer, WordVectors
from hftl.recipe.optimizer import SGD, Adafactor, Adam, AdamW, Lamb, Lion, Muon, NAdam, Optimizer, RAdam, RMSprop
from hftl.recipe.overrides import override
from hftl.recipe.places import LOCAL, check_places, local_name, without_places
from hftl.recipe.reading import load_recipe, parse_recipe
from hftl.recipe.recipe import Recipe, difference, flat, judged, moved, of_another, refuse_secrets, same_content, secrets_beside
from hftl.recipe.schedule import (
    ConstantSchedule,
    CosineRestartsSchedule,
    CosineSchedule,
    ExponentialSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    OneCycleSchedule,
    PlateauSchedule,
    PolynomialSchedule,
    Schedule,
    SlantedTriangularSchedule,
    StepSchedule,
    WSDSchedule,
)
from hftl.recipe.settings import RunSettings
from hftl.recipe.stage import Stage
from hftl.recipe.teacher import Teacher

__all__ = [
    "ABOUT",
    "AUTHOR",
    "CNN",
    "EMA",
    "LOCAL",
    "SGD",
    "SWA",
    "Adafactor",
    "Adam",
    "AdamW",
    "AsymmetricLoss",
    "AugMix",
    "Average",
    "BagOfEmbeddings",
    "BalancedWeights",
    "BiLSTM",
    "Card",
    "ClassWeights",
    "ConstantSchedule",
    "ContrastiveLoss",
    "CosineRestartsSchedule",
    "CosineSchedule",
    "CrossEntropyLoss",
    "CutMix",
    "EffectiveWeights",
    "ExponentialSchedule",
    "Extra",
    "FocalLoss",
    "ImageData",
    "InverseSqrtSchedule",
    "Lamb",
    "LinearSchedule",
    "Lion",
    "LogitAdjustedLoss",
    "Lora",
    "Loss",
    "Mix",
    "Mixup",
    "MixupOrCutMix",
    "Muon",
    "NAdam",
    "OneCycleSchedule",
    "Optimizer",
    "PlateauSchedule",
    "Policy",
    "PolynomialSchedule",
    "Pretrained",
    "RAdam",
    "RDropLoss",
    "RMSprop",
    "RandAugment",
    "Recipe",
    "RunSettings",
    "Schedule",
    "SlantedTriangularSchedule",
    "Soup",
    "Stage",
    "StepSchedule",
    "Teacher",
    "TextCNN",
    "TextData",
    "Timm",
    "Transformer",
    "TrivialAugment",
    "WSDSchedule",
    "Windows",
    "WordVectors",
    "check_places",
    "difference",
    "flat",
    "judged",
    "load_recipe",
    "local_name",
    "moved",
    "of_another",
    "override",
    "parse_recipe",
    "refuse_secrets",
    "same_content",
    "secrets_beside",
    "without_places",
]
