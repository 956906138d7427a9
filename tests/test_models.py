"""docs/models.md against the code: a sample of its tables, or all of it with HFTL_SWEEP=1 (half an hour on two cores)."""

from __future__ import annotations

import os

import pytest
import timm
from model_sweep import DOCUMENT, TIMM, Roads, line, text_classes
from small import OLDER_TRANSFORMERS

# One of each mechanism: taken with all kept, a head before the body, lists in step, one layer for all weights, shared tables, lists
# of tables, a decoder, experts, padding on the other side; refused for two lists, pictures, hashes, padding, chance, packages.
TEXTS = (
    *(
        "bert",
        "xlm-roberta",
        "jina_embeddings_v3",
        "xlm",
        "albert",
        "deberta-v2",
        "markuplm",
        "gpt2",
        "mixtral",
        "xlnet",
        "big_bird",
    ),
    *("bart", "gemma3", "canine", "perceiver", "fnet", "convbert", "reformer", "layoutlmv2"),
)
PICTURES = ("byobnet", "convnext", "efficientnet", "maxxvit", "mobilenetv3", "resnet", "vision_transformer")
EVERYTHING = bool(os.environ.get("HFTL_SWEEP"))


@pytest.fixture(scope="module")
def roads(tmp_path_factory: pytest.TempPathFactory) -> Roads:
    return Roads(tmp_path_factory.mktemp("sweep"))


def documented() -> dict[str, str]:
    """Name -> line of the tables; a name of both libraries would be two."""
    lines = [each for each in DOCUMENT.read_text(encoding="utf-8").splitlines() if each.startswith("| ") and "`" in each]
    found = {each.split(" | ")[0].removeprefix("| "): each for each in lines}
    assert len(found) == len(lines)
    return found


def test_the_document_has_every_text_classifier_of_transformers_and_every_module_of_timm() -> None:
    assert set(timm.list_modules()) == set(TIMM)
    there = {*text_classes(), *TIMM}
    # An older transformers lacks the latest ones, and has none beside.
    assert documented().keys() > there if OLDER_TRANSFORMERS else documented().keys() == there


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(text_classes()) if EVERYTHING else TEXTS)
@pytest.mark.filterwarnings("ignore")  # the libraries' own, about models that are not hftl's to mend
def test_a_text_model_is_what_the_document_says(roads: Roads, name: str) -> None:
    assert line(roads.text(name)) == documented()[name]


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(TIMM) if EVERYTHING else PICTURES)
@pytest.mark.filterwarnings("ignore")
def test_a_picture_model_is_what_the_document_says(roads: Roads, module: str) -> None:
    assert line(roads.picture(module)) == documented()[module]
