"""Models of every family behind one interface: build from a recipe, save, load again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase

from hftl.errors import RecipeError, RunError
from hftl.models import glove, transformer, vision
from hftl.models.checkpoint import CONFIG, Checkpoint, check_folder, run_error
from hftl.models.family import Classifier, Family
from hftl.recipe import Recipe, TextData

FAMILIES: tuple[Family, ...] = (glove.FAMILY, vision.FAMILY, transformer.FAMILY)


def build_classifier(recipe: Recipe, label_names: Sequence[str], *, texts: Iterable[str]) -> Classifier:
    """The recipe's model with a new head for `label_names`, its preprocessing and its chain; float32, on the CPU.

    `texts` are the training texts, from which the GloVe families take their vocabulary.

    Raises:
        RecipeError: no such checkpoint or vectors, or they do not fit the recipe.
    """
    family = next(family for family in FAMILIES if isinstance(recipe.model, family.specs))
    classifier = family.build(recipe, label_names, texts)
    data = recipe.data
    if not isinstance(data, TextData):
        return classifier
    longest = classifier.facts.get("max_positions")
    if longest is not None and data.max_length > longest:
        what = f"{data.max_length} is longer than the {longest} positions of {classifier.facts['base_model']}"
        raise RecipeError.single("data.max_length", what, f"write data.max_length={longest} or less")
    # Saved with the tokenizer, so that `pipeline(..., truncation=True)` cuts where training did.
    assert isinstance(classifier.preprocessor, PreTrainedTokenizerBase)
    classifier.preprocessor.model_max_length = data.max_length
    return classifier


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Write weights and preprocessor so that `from_pretrained` and `pipeline` load them."""
    family_of(str(classifier.model.config.model_type)).save(classifier, folder)


def load_classifier(folder: Path) -> Classifier:
    """Read what `save_classifier` wrote, here or on somebody else's machine: the folder is checked, and no code of it is run.

    Raises:
        RunError: the folder holds no model, an incomplete one, or one that asks for more than a model may (see `check_folder`).
    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: no model here (there is no {CONFIG} in it)")
    try:
        config = check_folder(Checkpoint(str(folder)))
    except RecipeError as error:
        raise run_error(folder, error) from None
    classifier = family_of(config.get("model_type") or ("timm_wrapper" if "architecture" in config else "")).load(folder)
    names = list(cast(dict[int, str], classifier.model.config.id2label).values())
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RunError(f'{folder}: two classes are called "{twice}" in {CONFIG}, so predictions could not tell them apart')
    return classifier


def family_of(model_type: str) -> Family:
    """The family of a saved model, by `model_type` in its config.json; what no other claims is for transformers to refuse."""
    return next((family for family in FAMILIES if family.model_types(model_type)), transformer.FAMILY)
