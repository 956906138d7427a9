"""Models of every family behind one interface: build from a recipe, save, load again."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase

from hftl.errors import RecipeError, RunError
from hftl.models.checkpoint import CONFIG, Checkpoint, run_error
from hftl.models.family import Classifier, Family, special_tokens
from hftl.models.foreign import check_folder
from hftl.names import HEAD_AND_TAIL, NETWORKS, ONE_LABEL, PROBLEM_TYPES
from hftl.recipe import Recipe, TextData

FAMILIES: Mapping[str, str] = {
    "transformer": "hftl.models.transformer",
    "timm": "hftl.models.vision",
    "textcnn": "hftl.models.glove",
    "bilstm": "hftl.models.glove",
    "bag": "hftl.models.glove",
    "cnn": "hftl.models.cnn",
}
"""`model.family` of a recipe -> the module that has it as `FAMILY`. It is imported when it is asked for: timm takes seconds."""


def build_classifier(recipe: Recipe, label_names: Sequence[str], *, texts: Iterable[str], target: str = ONE_LABEL) -> Classifier:
    """The recipe's model with a new head for `label_names`, its preprocessing and its chain; float32, on the CPU.

    `texts` are the training texts, from which the GloVe families take their vocabulary; `target` is the kind of what is predicted.

    Raises:
        RecipeError: no such checkpoint or vectors, or they do not fit the recipe.
    """
    classifier = family_of(recipe.model.family).build(recipe, label_names, texts)
    if hasattr(classifier.model.config, "thresholds"):  # of what the checkpoint was trained for
        del classifier.model.config.thresholds
    if target != ONE_LABEL:
        classifier.model.config.problem_type = PROBLEM_TYPES[target]
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
    _save_truncation(classifier.preprocessor, data)
    return classifier


def _save_truncation(tokenizer: PreTrainedTokenizerBase, data: TextData) -> None:
    """Let the tokenizer know, and its files, what stays of a text that is too long."""
    tokenizer.truncation_side = "left" if data.truncate == "tail" else "right"
    tokenizer.init_kwargs.pop(HEAD_AND_TAIL, None)  # of a checkpoint that was trained so
    if data.truncate == "head+tail":
        before, after = special_tokens(tokenizer)
        room = data.max_length - before - after
        if room < 2:
            what = (
                f"{data.max_length} leaves no room for a beginning and an end: {before + after} of every input are special tokens"
            )
            raise RecipeError.single("data.max_length", what)
        head = before + max(1, round(room * 128 / 510))  # 510 tokens are BERT's room
        tokenizer.init_kwargs[HEAD_AND_TAIL] = [head, data.max_length - head]


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Write weights and preprocessor so that `from_pretrained` and `pipeline` load them."""
    family_saved_as(str(classifier.model.config.model_type)).save(classifier, folder)


def load_classifier(folder: Path) -> Classifier:
    """Read what `save_classifier` wrote, here or on somebody else's machine: the folder is checked, and no code of it is run.

    Raises:
        RunError: the folder holds no model, an incomplete one, or one that asks for more than a model may (see `check_folder`).
    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: no model here (there is no {CONFIG} in it)")
    try:
        config = check_folder(Checkpoint(str(folder)), new_head=False)
    except RecipeError as error:
        raise run_error(folder, error) from None
    classifier = family_saved_as(config.get("model_type") or ("timm_wrapper" if "architecture" in config else "")).load(folder)
    names = list(cast(dict[int, str], classifier.model.config.id2label).values())
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RunError(f'{folder}: two classes are called "{twice}" in {CONFIG}, so predictions could not tell them apart')
    if (thresholds := config.get("thresholds")) is not None and not _are_thresholds(thresholds, len(names)):
        raise RunError(f'{folder}: "thresholds" in {CONFIG} are not {len(names)} numbers from 0 to 1, one for each label')
    return classifier


def _are_thresholds(found: object, classes: int) -> bool:
    return isinstance(found, list) and len(found) == classes and all(type(v) in (int, float) and 0 <= v <= 1 for v in found)


def family_of(name: str) -> Family:
    """The family of a recipe, by its `model.family`."""
    family: Family = importlib.import_module(FAMILIES[name]).FAMILY
    return family


def family_saved_as(model_type: str) -> Family:
    """The family of a saved model, by `model_type` in its config.json; what no other claims is for transformers to refuse."""
    if model_type in NETWORKS:
        own: Family = importlib.import_module(NETWORKS[model_type].module).FAMILY
        return own
    return family_of("timm" if model_type == "timm_wrapper" else "transformer")
