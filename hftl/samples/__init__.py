"""Small inputs inside the package: reviews, a small pretrained BERT, and scikit-learn's digits as pictures."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

REVIEWS = str(_HERE / "reviews")
"""A folder with train.jsonl (600 reviews) and test.jsonl (210), columns `text` and `label` (negative, positive)."""

BERT_NANO = str(_HERE / "bert-nano")
"""A BERT with 4 layers, 128 wide, pretrained on film reviews; inputs of up to 128 tokens."""
