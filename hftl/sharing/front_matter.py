"""A card's front matter, as the Hub reads it: https://huggingface.co/docs/hub/model-cards#model-card-metadata.

It is written by huggingface_hub's `ModelCardData`, and checked again as it stands in the card.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in the stubs

from hftl.errors import did_you_mean
from hftl.names import METRICS, title_of
from hftl.recipe import Pretrained, Recipe, local_name
from hftl.records.data import DataRecord
from hftl.records.metrics import SplitMetrics, kind_of, value_of
from hftl.sharing.markdown import visible

TASKS = {"text": "text-classification", "image": "image-classification"}
# https://huggingface.co/docs/hub/repositories-licenses; huggingface_hub has no list of its own.
_LICENSES = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m
    deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gemma gfdl gpl gpl-2.0 gpl-3.0
    isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl
    ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSES.split())


def check_front_matter(card: str) -> list[str]:
    """What the Hub would refuse or not understand in a card's front matter, as sentences; empty: nothing.

    Checked are the YAML itself, licence, language, task and library, the ids of data sets and of the base model, and that the
    model-index reads back with finite values.
    """
    found = REGEX_YAML_BLOCK.match(card)
    if found is None:
        return ["The card does not begin with front matter between two lines of ---."]
    try:
        values = yaml.safe_load(found[2])
    except yaml.YAMLError as error:
        return [f"The front matter is not YAML: {' '.join(str(error).split())}."]
    if not isinstance(values, dict):
        return [f"The front matter is not a mapping but {type(values).__name__}."]
    return [
        *_license_problems(values.get("license")),
        *_language_problems(values.get("language")),
        *_choice_problems(values, "pipeline_tag", TASKS.values()),
        *_choice_problems(values, "library_name", ("transformers", "timm")),
        *_id_problems(values, "datasets"),
        *_id_problems(values, "base_model"),
        *_model_index_problems(values.get("model-index")),
    ]


def front_matter(recipe: Recipe, data: DataRecord, values: SplitMetrics, split: str, repo_id: str | None) -> ModelCardData:
    """The front matter of a run's card; `values` are the metrics of the headline's split, as in metrics.json."""
    task, kind = TASKS[recipe.data.kind], kind_of(values)
    dataset, shown = hub_dataset(recipe, data), visible(dataset_said(recipe, data))
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset or re.sub(r"[^\w.-]+", "-", shown).strip("-") or "local",
            dataset_name=shown,
            dataset_config=recipe.data.config if dataset == recipe.data.source else None,
            dataset_split=split,
            dataset_revision=data["revision"] if dataset == recipe.data.source else None,
            metric_type=metric.hub,
            metric_name=title_of(key, kind) if split == "test" else f"{title_of(key, kind)} (validation)",
            # What is left of a double's 16 digits would differ between machines.
            metric_value=round(value, 6),
        )
        for key, metric in METRICS.items()
        if (value := value_of(values, key)) is not None
    ]
    card = recipe.card
    return ModelCardData(
        language=_languages(card.language),
        license=visible(card.license) if card.license else None,
        library_name="timm" if recipe.in_timms_format else "transformers",
        pipeline_tag=task,
        base_model=hub_base_model(recipe, data),
        datasets=[dataset] if dataset else None,
        tags=list(dict.fromkeys(["hftl", *map(visible, card.tags)])),
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        model_name=repo_id.rpartition("/")[2] if repo_id else recipe.name,
        eval_results=results,
    )


def hub_dataset(recipe: Recipe, data: DataRecord) -> str | None:
    """A Hub id: what the recipe's card says, or the source when it was read from there."""
    return recipe.card.dataset or (recipe.data.source if data["format"] == "hub" else None)


def dataset_said(recipe: Recipe, data: DataRecord) -> str:
    """What the data are called: the recipe's word, else their Hub id, else the name of a file or folder."""
    return recipe.card.dataset_name or hub_dataset(recipe, data) or local_name(recipe.data.source)


def hub_base_model(recipe: Recipe, data: DataRecord) -> str | None:
    """A Hub id; None for random weights, and for a local checkpoint whose origin the recipe does not tell."""
    if not isinstance(recipe.model, Pretrained) or not recipe.model.pretrained:
        return None
    return recipe.card.base_model or (recipe.model.checkpoint if data["model"]["revision"] else None)


def _license_problems(value: Any) -> list[str]:
    if value is None:
        return [
            "There is no licence, so nobody may use the model; give one with card.license=apache-2.0, or another the Hub knows."
        ]
    if value not in LICENSES:
        guess = did_you_mean(str(value).lower(), sorted(LICENSES))
        return [f'The Hub knows no licence "{value}".{guess} Give card.license=..., which may be "other".']
    return []


def _languages(said: str | Sequence[str] | None) -> str | list[str] | None:
    """One language as it is, several as a list."""
    if not said:
        return None
    return visible(said) if isinstance(said, str) else [visible(language) for language in said]


def _language_problems(value: Any) -> list[str]:
    languages = [] if value is None else value if isinstance(value, list) else [value]
    # YAML 1.1 reads Norwegian's "no" as false; ModelCardData quotes it, a person may not.
    return [
        f"The language {language!r} is not a code of two or three small letters; {_language_way_out(language)}"
        for language in languages
        if not isinstance(language, str) or not re.fullmatch("[a-z]{2,3}|multilingual|code", language)
    ]


def _language_way_out(language: Any) -> str:
    """What can be typed instead: of "zh-CN" its language, of "en, de" a list."""
    words = re.split(r"[\s,;/]+", language.strip()) if isinstance(language, str) else []
    if len(words) > 1 and all(re.fullmatch("[a-z]{2,3}", word) for word in words):
        return f"several are a list: card.language=[{', '.join(words)}]"
    tagged = re.fullmatch("([a-zA-Z]{2,3})[-_][a-zA-Z0-9_-]+", language) if isinstance(language, str) else None
    if tagged:
        return f"the Hub takes no region or script there: card.language={tagged[1].lower()}"
    return "give card.language=en or another code, several as card.language=[en, de], or card.language=multilingual"


def _choice_problems(values: Mapping[str, Any], key: str, allowed: Sequence[str] | Any) -> list[str]:
    value = values.get(key)
    return [] if value in allowed else [f"{key} is {value!r}; it should be one of {', '.join(allowed)}."]


def _id_problems(values: Mapping[str, Any], key: str) -> list[str]:
    value = values.get(key)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    problems = []
    for name in ids:
        try:
            validate_repo_id(str(name))
        except HFValidationError:
            field = "card.dataset" if key == "datasets" else "card.base_model"
            problems.append(f'{key}: "{name}" is not an id on the Hub, such as stanfordnlp/imdb; change {field}.')
    return problems


def _model_index_problems(value: Any) -> list[str]:
    try:
        _, results = model_index_to_eval_results(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [f"The model-index cannot be read: {error!r}."]
    return [
        f"{result.metric_type} in the model-index is {result.metric_value!r}, not a finite number."
        for result in results
        if isinstance(result.metric_value, bool)
        or not isinstance(result.metric_value, int | float)
        or not math.isfinite(result.metric_value)
    ]
