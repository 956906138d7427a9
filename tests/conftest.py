"""Shared fixtures. No test reaches the network: the Hub is switched off before any library is imported."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hub_server import hub as hub

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture
def shared() -> Path:
    """Real data, vectors and weights beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("needs the development data in ../shared, which are not part of the project")
    return SHARED
