"""Small inputs inside the package: photos of clothes and film reviews, and for each a small pretrained network."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

CLOTHES = str(_HERE / "clothes")
"""Photos in 5 classes, 160 x 160 pixels: train (60 a class), validation (20) and test (60), a folder for each class."""

MOBILENET = str(_HERE / "mobilenetv2")
"""timm's `mobilenetv2_100` without a classifier, pretrained on ImageNet, in half precision."""

REVIEWS = str(_HERE / "reviews")
"""A folder with train.jsonl (600 reviews) and test.jsonl (580), columns `text` and `label` (negative, positive)."""

BERT_NANO = str(_HERE / "bert-nano")
"""A BERT with 3 layers, 384 wide, in half precision: cut out of MiniLM, taught by it on film reviews."""
