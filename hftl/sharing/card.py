"""The model card: everything a stranger needs to know about a run, rendered from the run directory alone.

Every number comes from a file of the run. What a person wrote (the recipe's `card` section) stands in quotation blocks or on lines
of its own, see `hand_written`; everything else can be computed again. A fact that nobody gave is written "not recorded". Paths of
this machine stay here: of a local source only its name is shown, so a published recipe ("local:NAME") gives the same card. Front
matter is written by huggingface_hub's `ModelCardData` (https://huggingface.co/docs/hub/model-cards#model-card-metadata); text that
comes from users or from data is escaped.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in the stubs
from jinja2.filters import do_mark_safe as safe

from hftl.errors import Problem, RecipeError, RunError, did_you_mean
from hftl.facts import HUB, contradictions, how_known
from hftl.files import read_json, read_json_lines, write_text
from hftl.names import CONFLICT, DUPLICATE, METRICS
from hftl.recipe import LOCAL, ImageData, Pretrained, Recipe, TextData, Timm, WordVectors, override
from hftl.recipe import local_name as local_name
from hftl.run import RunDirectory
from hftl.wording import count, duration, percent

TEMPLATE = "card.md.jinja"
NOT_RECORDED = "not recorded"
DASH = "–"  # in a table, where there is nothing to show
# What a vision model's facts say about the pictures it wants.
PREPROCESSING = ("input_size", "interpolation", "crop_pct", "mean", "std")
LISTED = 20  # with more classes, the tables by class are folded
SMALL = 30  # with fewer examples, the numbers of a class are rough: half an interval is up to 0.18 wide
CONFUSIONS = 3  # so many of the most frequent ones are named
RESULTS = ("hftl train", "hftl test")  # the commands whose opening of the test split gives a run its results
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


def write_card(run: RunDirectory, *, repo_id: str | None = None) -> Path:
    """Render the card of a finished run into its README.md; returns its path.

    Raises:
        RunError: the run is not finished.
    """
    write_text(run.card, render_card(run, repo_id=repo_id))
    return run.card


def check_repo_id(repo_id: str) -> str:
    """The name of a repository, OWNER/NAME.

    Raises:
        RunError: anything else, such as a path, an address, or a name without owner.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise RunError(f'"{repo_id}" is not the name of a repository, such as me/film-reviews: {error}') from None
    if repo_id.count("/") != 1:
        raise RunError(f'"{repo_id}" names no owner; write OWNER/{repo_id}')
    return repo_id


def local_places(recipe: Recipe, data: Mapping[str, Any]) -> dict[str, str]:
    """What of a recipe lay on the machine that ran it: {dotted key: "local:NAME"}."""
    places = {}
    if data.get("format") != "hub":
        places["data.source"] = recipe.data.source
    model = recipe.model
    if isinstance(model, Pretrained):
        is_architecture = isinstance(model, Timm) and not model.pretrained and "/" not in model.checkpoint
        if not data.get("model", {}).get("revision") and not is_architecture:
            places["model.checkpoint"] = model.checkpoint
    elif not model.vectors.startswith(HUB):
        places["model.vectors"] = model.vectors
    return {key: LOCAL + local_name(path) for key, path in places.items()}


def add_facts(run: RunDirectory, facts: Sequence[str]) -> None:
    """Write hand-written facts, such as ``card.license=mit``, into the `card` section of a run's recipe.

    Raises:
        RecipeError: another key than one of `card`, a value that does not fit, or a fact that contradicts what was read.
    """
    astray = [fact for fact in facts if not fact.startswith("card.")]
    if astray:
        help = "a finished run's card section can change: card.license=..., card.summary=...; nothing else"
        raise RecipeError(str(run.recipe), [Problem(fact, "is no fact of the card", (help,)) for fact in astray])
    changed = override(run.load_recipe(), facts)
    if problems := contradictions(changed, read_json(run.data) if run.data.is_file() else {}):
        raise RecipeError(str(run.recipe), problems)
    run.write_recipe(changed)


def render_card(
    run: RunDirectory,
    *,
    repo_id: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    evaluations: Mapping[str, Any] | None = None,
) -> str:
    """The model card of a finished run, as Markdown with front matter.

    Args:
        run: where the run's files are.
        repo_id: where the model can be had on the Hub; None: the card shows how to use the run directory.
        metrics: as in metrics.json, to render the card of numbers computed again; None: what metrics.json says.
        evaluations: the same for those on other rows, by name.

    Raises:
        RunError: the run is not finished, or `repo_id` cannot be the name of a repository.
    """
    if repo_id is not None:
        check_repo_id(repo_id)
    recipe = run.load_recipe()
    metrics = read_json(run.metrics) if metrics is None else metrics
    try:
        return _environment().get_template(TEMPLATE).render(_facts(run, recipe, repo_id, metrics, evaluations))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, jinja2.UndefinedError) as error:
        # Files that a stranger wrote, or that were damaged; hftl's own always have what the template asks for.
        what = f"its files are not those of a run that hftl wrote ({type(error).__name__}: {error})"
        raise RunError(f"{run.path}: {what}") from error


def _facts(
    run: RunDirectory,
    recipe: Recipe,
    repo_id: str | None,
    metrics: Mapping[str, Any],
    evaluations: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the template is rendered from."""
    files = (run.plan, run.data, run.environment, run.audit)
    plan, data, environment, audit = (read_json(path) if path.is_file() else {} for path in files)
    proofs, openings = read_freeze_proof(run), list(read_json_lines(run.test_openings))
    split, noun = "test" if "test" in metrics else "validation", "picture" if isinstance(recipe.data, ImageData) else "text"
    values, history = metrics[split], run.read_history()
    return {
        "recipe": recipe,
        "noun": noun,
        "names": _names(recipe, data),
        "parameters": data.get("model", {}).get("parameters"),
        "hand": {field: safe("\n".join(lines)) for field, lines in _hand_written(recipe).items()},
        "split": split,
        "source": f"predictions/{split}.parquet",
        "headline": values,
        "results": _results(metrics, split),
        "by_class": values["per_class"],
        "listed": LISTED,
        "worst": _worst_class(values),
        "small": _small_classes(values),
        "calibration": _calibration(values),
        "confusions": _confusions(values),
        "by_size": _by_size(values),
        "use": _use(recipe, run, repo_id),
        "data": data,
        "splits": data.get("splits", {}),
        "unreadable": [entry for entry in data.get("skipped", []) if not _is_duplicate(entry)],
        "duplicates": _duplicates(data, noun),
        "near": _near_duplicates(audit, noun),
        "seen": _seen_in_training(data, audit, split),
        "truncated": audit.get("splits", {}).get(split, {}).get("lengths", {}).get("share_truncated"),
        "length": data.get("text"),
        "pictures": data.get("image"),
        "preprocessing": _plain({key: data["model"][key] for key in PREPROCESSING if key in data.get("model", {})}),
        "vocabulary": data.get("model", {}).get("vocabulary"),
        "plan": plan,
        "stages": _stage_rows(plan, recipe, history, proofs),
        "undone": _undone(history),
        "frozen": _frozen(plan, proofs),
        "cost": _cost(environment),
        "sessions": environment.get("sessions", 0),
        "machine": _machine(environment),
        "packages": _packages(environment),
        "repeat": _repeat(recipe, data, repo_id),
        "openings": openings,
        "ledger": read_json(run.test_ledger) if run.test_ledger.is_file() else None,
        "sealed": split == "validation" and "test" in data.get("splits", {}),
        "unfinished": openings[-1] if split == "validation" and openings else None,
        "bootstrapped": _in_words([str(metric) for metric in METRICS.values() if metric.bootstrapped]),
        "opened_for_results": [opening for opening in openings if str(opening["by"]).startswith(RESULTS)],
        "opener": "hftl train" if recipe.opens_test else "hftl test",
        "evaluations": _evaluations(run, evaluations),
        "figures": sorted(path.name for path in run.figures.glob("*.png")),
        "front_matter": safe(_front_matter(recipe, data, values, split, repo_id).to_yaml()),
    }


def hand_written(recipe: Recipe) -> list[str]:
    """The lines of a rendered card that a person wrote: numbers in them are claims that nothing in the run can prove.

    They are the title, the quotation blocks, licence and authors, and the citation, each as it stands in the card; nothing for what
    the recipe leaves out. A data set's name and the names of classes also occur inside other lines.
    """
    return [line for lines in _hand_written(recipe).values() for line in lines]


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


# --- front matter -------------------------------------------------------------------------------------------------------------


def _front_matter(
    recipe: Recipe, data: Mapping[str, Any], values: Mapping[str, Any], split: str, repo_id: str | None
) -> ModelCardData:
    task = TASKS[recipe.data.kind]
    dataset, names = _hub_dataset(recipe, data), _names(recipe, data)
    shown = _visible(names["dataset_said"])
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset or re.sub(r"[^\w.-]+", "-", shown).strip("-") or "local",
            dataset_name=shown,
            dataset_config=recipe.data.config if dataset == recipe.data.source else None,
            dataset_split=split,
            dataset_revision=data.get("revision") if dataset == recipe.data.source else None,
            metric_type=metric.hub,
            metric_name=metric.title if split == "test" else f"{metric.title} (validation)",
            # What is left of a double's 16 digits would differ between machines.
            metric_value=round(values[key], 6),
        )
        for key, metric in METRICS.items()
        if values.get(key) is not None
    ]
    card = recipe.card
    return ModelCardData(
        language=_visible(card.language) if card.language else None,
        license=_visible(card.license) if card.license else None,
        library_name="timm" if isinstance(recipe.model, Timm) else "transformers",
        pipeline_tag=task,
        base_model=_hub_base_model(recipe, data),
        datasets=[dataset] if dataset else None,
        tags=list(dict.fromkeys(["hftl", *map(_visible, card.tags)])),
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        model_name=repo_id.rpartition("/")[2] if repo_id else recipe.name,
        eval_results=results,
    )


def _hub_dataset(recipe: Recipe, data: Mapping[str, Any]) -> str | None:
    """A Hub id: what the recipe's card says, or the source when it was read from there."""
    return recipe.card.dataset or (recipe.data.source if data.get("format") == "hub" else None)


def _hub_base_model(recipe: Recipe, data: Mapping[str, Any]) -> str | None:
    """A Hub id; None for random weights, and for a local checkpoint whose origin the recipe does not tell."""
    if not isinstance(recipe.model, Pretrained) or not recipe.model.pretrained:
        return None
    model = data.get("model", {})
    return recipe.card.base_model or (recipe.model.checkpoint if model.get("revision") else None)


def _license_problems(value: Any) -> list[str]:
    if value is None:
        return [
            "There is no licence, so nobody may use the model; give one with card.license=apache-2.0, or another the Hub knows."
        ]
    if value not in LICENSES:
        guess = did_you_mean(str(value).lower(), sorted(LICENSES))
        return [f'The Hub knows no licence "{value}".{guess} Give card.license=..., which may be "other".']
    return []


def _language_problems(value: Any) -> list[str]:
    languages = [] if value is None else value if isinstance(value, list) else [value]
    # YAML 1.1 reads Norwegian's "no" as false; ModelCardData quotes it, a person may not.
    return [
        f'The language {language!r} is not a code of two or three small letters, such as "en"; give card.language=...'
        for language in languages
        if not isinstance(language, str) or not re.fullmatch("[a-z]{2,3}", language)
    ]


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


# --- the freeze proof ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupProof:
    """A layer group before and after a stage: SHA-256 of its parameters, and of its buffers."""

    name: str
    trains: bool
    before: tuple[str, str]
    after: tuple[str, str]
    stated: bool
    """What the file says of it."""

    @property
    def ok(self) -> bool:
        """What the hashes say: a frozen group has not changed, and the parameters of one that trains have."""
        return self.before[0] != self.after[0] if self.trains else self.before == self.after


@dataclass(frozen=True)
class StageProof:
    """The groups of one stage, input first."""

    stage: str
    kept: bool
    """Whether the run took weights from the stage; otherwise the next stage begins where this one began."""
    groups: tuple[GroupProof, ...]
    stated: bool


def read_freeze_proof(run: RunDirectory) -> list[StageProof]:
    """The stages of freeze_proof.json, in the order of training; none where a run of an older version has no such file.

    Raises:
        RunError: the file is no freeze proof.
    """
    if not run.freeze_proof.is_file():
        return []
    try:
        return [
            StageProof(
                _a(str, stage["stage"]),
                _a(bool, stage.get("kept", True)),
                tuple(map(_group_proof, _a(list, stage["groups"]))),
                _a(bool, stage["ok"]),
            )
            for stage in _a(list, read_json(run.freeze_proof)["stages"])
        ]
    except (KeyError, TypeError) as error:
        raise RunError(f"{run.freeze_proof}: not a freeze proof ({type(error).__name__}: {error})") from None


def _group_proof(group: Mapping[str, Any]) -> GroupProof:
    before, after = ((_hash(group[when]["parameters"]), _hash(group[when]["buffers"])) for when in ("before", "after"))
    return GroupProof(_a(str, group["name"]), _a(bool, group["trains"]), before, after, _a(bool, group["ok"]))


def _hash(value: Any) -> str:
    if not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise TypeError(f"{value!a:.80} is no SHA-256")
    return value


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!a:.80} is not a {kind.__name__}")
    return value


# --- names --------------------------------------------------------------------------------------------------------------------


def _names(recipe: Recipe, data: Mapping[str, Any]) -> dict[str, str]:
    """How the card calls things: Hub ids as they are, local things by their names; whose word a name is that nothing proves."""
    spec, model = recipe.model, data.get("model", {})
    revision = f"revision {model.get('revision') or NOT_RECORDED}"
    if isinstance(spec, Pretrained):
        base = _hub_base_model(recipe, data) or local_name(spec.checkpoint)
        origin = f"fine-tuned from {base}" if spec.pretrained else "trained from random weights"
        start = f"{base}, {revision}" if spec.pretrained else f"the architecture {base}, random weights"
        if recipe.card.base_model and spec.pretrained and not model.get("revision"):
            start = f"{base}, as the authors say of their local copy, {local_name(spec.checkpoint)}; nothing here proves it"
    else:
        vectors = spec.vectors.removeprefix(HUB) if spec.vectors.startswith(HUB) else local_name(spec.vectors)
        origin, start = f"trained on the word vectors {vectors}", f"the word vectors {vectors}, {revision}"
    card, known, here = recipe.card, how_known(recipe, data), local_name(recipe.data.source)
    dataset = _hub_dataset(recipe, data) or here
    if known == "fingerprint":
        read = f"{card.dataset or card.dataset_name}, read from a copy, {here}, with the fingerprint that the recipe has for it"
    elif known == "claimed" and card.dataset:
        of = recipe.data.source if data.get("format") == "hub" else here
        read = f"{of}, which the authors say is {card.dataset}; nothing here proves it"
    elif known == "claimed":
        read = f"{here}, called {card.dataset_name} by the authors"
    else:
        read = dataset
    return {
        "dataset": f"{read}, configuration {recipe.data.config}" if recipe.data.config else read,
        "dataset_said": card.dataset_name or dataset,
        "dataset_claimed": "yes" if known == "claimed" else "",
        "architecture": str(model.get("architecture", NOT_RECORDED)),
        "start": start,
        "origin": origin,
    }


def _hand_written(recipe: Recipe) -> dict[str, list[str]]:
    """Field of the recipe's card -> its lines in the rendered card, in the order of the page; only what is given."""
    card = recipe.card
    lines = {
        "title": [f"# {_inline(card.title)}"] if card.title else [],
        "summary": _quoted(card.summary),
        "intended_use": _quoted(card.intended_use),
        "limitations": _quoted(card.limitations),
        "training_data": _quoted(card.training_data),
        "license": [f"Licence: {_inline(card.license)}."] if card.license else [],
        "authors": [f"Authors: {_inline(', '.join(card.authors))}."] if card.authors else [],
        "citation": _code(card.citation, "bibtex").splitlines() if card.citation and card.citation.strip() else [],
    }
    return {field: found for field, found in lines.items() if found}


# --- sections -----------------------------------------------------------------------------------------------------------------


def _results(metrics: Mapping[str, Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
    """Rows of the results table: every metric of the headline split with its baseline, and what chose the weights on validation."""
    rows = [_result(metrics[split], split, key) for key in METRICS if key in metrics[split]]
    baseline = {
        **_result(metrics[split], split, "majority_accuracy"),
        "name": safe(f'Baseline: accuracy of always "{_inline(metrics[split]["majority_label"])}"'),
    }
    rows.insert(1, baseline)
    if split == "test":
        rows += [_result(metrics["validation"], "validation", key) for key in ("accuracy", "macro_f1", "log_loss")]
    return rows


def _evaluations(run: RunDirectory, recomputed: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Those on other rows: what they are called, the rows without their place on this machine, and the metrics."""
    found = []
    for name in run.evaluations:
        folder = run.evaluation(name)
        facts = read_json(folder / "data.json")
        source = str(facts["source"]) if facts["format"] == "hub" else local_name(str(facts["source"]))
        metrics = read_json(folder / "metrics.json") if recomputed is None else recomputed[name]
        found.append({"name": name, "source": source, "facts": facts, "metrics": metrics})
    return found


def _result(values: Mapping[str, Any], split: str, key: str) -> dict[str, Any]:
    name = METRICS[key].title if key in METRICS else ""
    return {"name": name, "value": values.get(key), "interval": values.get(f"{key}_interval"), "split": split, "n": values["n"]}


def _worst_class(values: Mapping[str, Any]) -> dict[str, Any]:
    """The class with the lowest F1 among those with examples; `apart`: whether an interval of it lies below another class's.

    `apart` is None where there is nothing to compare.
    """
    rows = [row for row in values["per_class"] if row["n"]]
    worst = min(rows, key=lambda row: row["f1"])
    intervals = [(worst.get(key), row.get(key)) for row in rows for key in ("precision_interval", "recall_interval")]
    comparable = [(mine, theirs) for mine, theirs in intervals if mine and theirs]
    apart = any(mine[1] < theirs[0] for mine, theirs in comparable) if comparable and len(rows) > 1 else None
    index = values["per_class"].index(worst)
    return {**worst, "found": values["confusion"][index][index], "apart": apart}


def _small_classes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Classes with few examples in the split, and those with none."""
    few = [row for row in values["per_class"] if 0 < row["n"] < SMALL]
    wide = max((row for row in few if row.get("recall_interval")), key=lambda row: _width(row["recall_interval"]), default=None)
    return {"few": few, "none": [row for row in values["per_class"] if row["n"] == 0], "widest": wide, "limit": SMALL}


def _width(interval: Sequence[float]) -> float:
    return interval[1] - interval[0]


def _calibration(values: Mapping[str, Any]) -> dict[str, Any]:
    """The calibration error against what chance gives, and on which side of the accuracy the mean confidence lies."""
    error, chance = values["expected_calibration_error"], values.get("expected_calibration_error_by_chance")
    confidence, (low, high) = values.get("mean_confidence"), values["accuracy_interval"]
    lean = None if confidence is None or low <= confidence <= high else "over" if confidence > high else "under"
    beyond = chance is not None and error > chance[1]
    return {"error": error, "chance": chance, "confidence": confidence, "lean": lean, "beyond": beyond}


def _confusions(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The most frequent confusions, the most frequent first."""
    names = [row["label"] for row in values["per_class"]]
    cells = [
        {"label": names[i], "prediction": names[j], "count": count, "n": sum(row)}
        for i, row in enumerate(values["confusion"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(cells, key=lambda cell: -cell["count"])[:CONFUSIONS]


def _by_size(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Accuracy by length or picture size, the least accurate bin, and whether any two intervals are apart."""
    rows = values.get("by_size")
    if not rows:
        return None
    lows, highs = zip(*(row["accuracy_interval"] for row in rows), strict=True)
    worst = min(rows, key=lambda row: row["accuracy"])
    return {"rows": rows, "unit": values["size_unit"], "worst": worst, "apart": max(lows) > min(highs)}


def _use(recipe: Recipe, run: RunDirectory, repo_id: str | None) -> dict[str, Any]:
    config = read_json(run.model / "config.json") if (run.model / "config.json").is_file() else {}
    glove = isinstance(recipe.model, WordVectors)
    return {
        "model": repo_id or "RUN/model",
        "run": repo_id or "RUN",
        "repo_id": repo_id,
        "glove": glove,
        "remote_code": glove and "auto_map" in config,
        "max_length": recipe.data.max_length if isinstance(recipe.data, TextData) else None,
        "timm_name": f"hf-hub:{repo_id}" if repo_id else "local-dir:RUN/model",
        "read_picture": safe(read_picture(recipe.data.background)) if isinstance(recipe.data, ImageData) else None,
    }


def read_picture(background: Sequence[int]) -> str:
    """Lines of Python for whoever has no hftl: a function that reads a picture's file as training did, for 8-bit RGB upright.

    The orientation by EXIF is carried out, what is transparent is laid on `background` (RGB, 0 to 255), and grey of more than 8
    bits is scaled.
    """
    return f"""\
def read_picture(file):
    picture = ImageOps.exif_transpose(Image.open(file))
    if picture.mode == "F" or picture.mode.startswith("I"):  # more than 8 bits a pixel: scaled, where Pillow would clip
        values = np.asarray(picture, dtype=np.float64)
        whites = [65535.0, 4294967295.0] if picture.mode != "F" else [1.0, 255.0, 65535.0, 4294967295.0]
        black, white = min(0.0, values.min()), next((white for white in whites if values.max() <= white), values.max())
        picture = Image.fromarray(np.rint((values - black) * (255.0 / (white - black))).astype(np.uint8))
    if picture.has_transparency_data:
        canvas = Image.new("RGBA", picture.size, {(*background, 255)})
        picture = Image.alpha_composite(canvas, picture.convert("RGBA"))
    return picture.convert("RGB")"""


def _stage_rows(
    plan: Mapping[str, Any], recipe: Recipe, history: Sequence[Mapping[str, Any]], proofs: Sequence[StageProof]
) -> list[list[Any]]:
    """The stage table, a row for each layer group and then one for each setting; empty when there is no plan."""
    stages = plan.get("stages", [])
    if not stages:
        return []
    ends = {record["stage"]: record for record in history if record["event"] == "stage_end"}
    rows: list[list[Any]] = [
        [_inline(group["name"]), f"{group['parameters']:,}", *(_rate(stage["groups"][row]["lr"]) for stage in stages)]
        for row, group in enumerate(plan["groups"])
    ]
    rows.append([safe("*trains*"), f"{plan['parameters']:,}", *(_percent(stage["trainable_share"]) for stage in stages)])
    rows += [
        [safe(f"*{name}*"), "", *(_inline(stage[key].replace("_", " ")) for stage in stages)]
        for name, key in (("optimizer", "optimizer"), ("schedule", "schedule"), ("loss", "loss"))
    ]
    rows.append([safe("*weight decay*"), "", *(f"{max(group['weight_decay'] for group in stage['groups']):g}" for stage in stages)])
    rows += [
        [safe(f"*{name}*"), "", *(f"{stage[key]:,}" for stage in stages)]
        for name, key in (("epochs", "epochs"), ("batch size", "batch_size"), ("steps", "steps"))
    ]
    best = [ends.get(stage["name"], {}) for stage in stages]
    rows.append([safe("*best epoch*"), "", *(end.get("best_epoch", NOT_RECORDED) for end in best)])
    metric = recipe.run.metric.replace("_", " ")
    rows.append([safe(f"*validation {metric} then*"), "", *(_decimals(end.get("best_metric")) for end in best)])
    rows.append(
        [safe("*weights kept*"), "", *(NOT_RECORDED if "kept" not in end else "yes" if end["kept"] else "no" for end in best)]
    )
    if proofs:
        by_stage = {proof.stage: proof for proof in proofs}
        rows.append([safe("*frozen unchanged*"), "", *(_unchanged(by_stage.get(stage["name"])) for stage in stages)])
    return rows


def _undone(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stages that improved nothing, each with the stage whose weights outlasted it."""
    undone, kept = [], None
    for end in (record for record in history if record["event"] == "stage_end"):
        if end.get("kept", True):  # once, every stage left its best weights
            kept = end["stage"]
        else:
            undone.append({"stage": end["stage"], "kept": kept})
    return undone


def _unchanged(proof: StageProof | None) -> str:
    frozen = [] if proof is None else [group.ok for group in proof.groups if not group.trains]
    return NOT_RECORDED if proof is None else DASH if not frozen else "yes" if all(frozen) else "no"


def _frozen(plan: Mapping[str, Any], proofs: Sequence[StageProof]) -> dict[str, Any] | None:
    """What the freeze proof says of all stages together; None where there is none, or not of every stage."""
    if not proofs or [proof.stage for proof in proofs] != [stage["name"] for stage in plan.get("stages", [])]:
        return None
    wrong = [(proof.stage, group) for proof in proofs for group in proof.groups if not group.ok]
    return {
        "any": any(not group.trains for proof in proofs for group in proof.groups),
        "changed": [{"stage": stage, "group": group.name} for stage, group in wrong if not group.trains],
        "unmoved": [{"stage": stage, "group": group.name} for stage, group in wrong if group.trains],
    }


def _duplicates(data: Mapping[str, Any], noun: str) -> dict[str, Any] | None:
    """What is in the source more than once, as phrases, and what was done about it; None where it is not on record."""
    found = data.get("duplicates")
    if found is None:
        return None
    phrases = [f"{_number(pair['pairs'])} in both {' and '.join(map(_inline, pair['splits']))}" for pair in found["across"]]
    phrases += [
        f"{count(n, 'row')} of {_inline(split)} whose {noun} is there with another class, too"
        for split, n in found["conflicting"].items()
    ]
    phrases += [
        f"{count(n, 'row')} of {_inline(split)} that repeat{'s' if n == 1 else ''} an earlier one"
        for split, n in found["within"].items()
    ]
    return {
        "phrases": safe("; ".join(phrases)),
        "left_out": sum(map(_is_duplicate, data.get("skipped", []))),
        "repeated": bool(found["within"]),
    }


def _near_duplicates(audit: Mapping[str, Any], noun: str) -> dict[str, Any] | None:
    """What nearly repeats something else in the splits that were used, as phrases; None where it is not on record."""
    found = audit.get("near_duplicates")
    if found is None:
        return None
    phrases = []
    for pair in found["across"]:
        first, second = map(_inline, pair["splits"])
        phrases.append(f"{_number(pair['rows'])} in {second} like one of {first}")
    phrases += [f"{_number(n)} in {_inline(split)} like another one there" for split, n in found["within"].items()]
    if found["conflicting"]:
        phrases.append(f"{count(found['conflicting'], 'group')} of them with more than one class")
    return {"phrases": safe("; ".join(phrases)), "threshold": f"{found['threshold']:g}"}


def _seen_in_training(data: Mapping[str, Any], audit: Mapping[str, Any], split: str) -> dict[str, int]:
    """How much of a split training has seen: what is also in train, as the recipe asked to keep it, and what is nearly there."""
    equal, near = data.get("duplicates", {}), audit.get("near_duplicates", {})
    kept = equal.get("across", []) if equal.get("on_duplicate") == "keep" else []
    return {
        "equal": sum(pair["pairs"] for pair in kept if pair["splits"] == ["train", split]),
        "near": sum(pair["rows"] for pair in near.get("across", []) if pair["splits"] == ["train", split]),
    }


def _is_duplicate(skipped: Mapping[str, Any]) -> bool:
    """Whether a row was left out for another one like it, rather than because it could not be read."""
    return skipped["kind"] in {DUPLICATE, CONFLICT}


def _cost(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Training time, and the energy of the processors: 1 Wh is 3,600 J."""
    seconds, joules = environment.get("seconds"), environment.get("cpu_energy_joules")
    energy = None if joules is None else f"{_short(joules / 1000)} kJ ({_short(joules / 3600)} Wh)"
    return {"time": None if seconds is None else duration(seconds), "energy": energy}


def _packages(environment: Mapping[str, Any]) -> dict[str, str]:
    """Library -> its version, and in brackets those of earlier sessions."""
    before = environment.get("packages_before", {})
    found = {name: str(version) for name, version in environment.get("packages", {}).items() if version}
    return {
        name: f"{version} (before: {', '.join(map(str, before[name]))})" if before.get(name) else version
        for name, version in found.items()
    }


def _frozen_layers(environment: Mapping[str, Any]) -> dict[str, str]:
    """Where each stage had the activations of its frozen layers from, as environment.json has it; older runs say nothing."""
    how = {"stored": "from the cache", "computed": "computed in every epoch", "both": "partly from the cache"}
    stages = {stage: how.get(str(splits["train"]), NOT_RECORDED) for stage, splits in environment.get("cached", {}).items()}
    return {"frozen layers": ", ".join(f"{stage}: {found}" for stage, found in stages.items())} if stages else {}


def _machine(environment: Mapping[str, Any]) -> dict[str, str]:
    memory = environment.get("memory_bytes")
    values = {
        "device": environment.get("device"),
        "processor": environment.get("cpu"),
        "cores": environment.get("cores"),
        "memory": f"{memory / 2**30:.0f} GiB" if memory else None,
        "system": environment.get("platform"),
        "processes": environment.get("processes"),
        "precision": environment.get("precision"),
        "date": environment.get("time"),
        "git commit": environment.get("git_commit"),
        "Python": environment.get("python"),
    }
    said = {name: NOT_RECORDED if value is None else str(value) for name, value in values.items()}
    return said | _frozen_layers(environment)


def _repeat(recipe: Recipe, data: Mapping[str, Any], repo_id: str | None) -> dict[str, str]:
    """The commands that repeat and check the run: what was local has to be named again, what came from the Hub is pinned."""
    places, model = local_places(recipe, data), data.get("model", {})
    local = "data.source" in places
    source = f"PATH/TO/{_shell_word(recipe.data.source)}" if local else _shell_word(recipe.data.source, whole=True)
    words = [f"hftl train hub:{repo_id}" if repo_id else "hftl train RUN/recipe.yaml"]
    named = {key: f"{key}=PATH/TO/{_shell_word(name)}" for key, name in places.items()}
    revisions = {"data": data.get("revision"), "model": model.get("revision")}
    for section, pinned in revisions.items():
        here = [word for key, word in named.items() if key.startswith(section)]
        words += here or ([f"{section}.revision={_shell_word(pinned)}"] if pinned else [])
    of = repo_id or "RUN"
    return {
        "train": " \\\n    ".join(words),
        "verify": f"hftl verify {of}\nhftl verify {of} --data {source}",
    }


def _shell_word(path: str, *, whole: bool = False) -> str:
    return re.sub(r"[^\w./:-]", "_", path if whole else local_name(path))


# --- text ---------------------------------------------------------------------------------------------------------------------


def _environment() -> jinja2.Environment:
    """Templates in which everything is escaped as HTML unless a filter here has made it safe for its place in Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "inline": _inline,
        "code": _code,
        "decimals": _decimals,
        "percent": _percent,
        "interval": _interval,
        "share": _share,
        "number": _number,
    }
    return environment


def _visible(text: str) -> str:
    """Characters that are not seen, or that turn others round, by their numbers; line breaks and tabs stay.

    Controls and format characters (bidi overrides, zero-width spaces and joiners), surrogates, private and unassigned ones.
    """
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else f"⟨U+{ord(c):04X}⟩" for c in text)


def _inline(value: Any) -> str:
    """User text inside a sentence or a table cell: one line, shown letter by letter, whatever it contains."""
    if value is None:
        return safe(NOT_RECORDED)
    text = html.escape(_visible(" ".join(str(value).split())), quote=False)
    # The Hub reads \\( and $$ as mathematics, and a backslash before another one would make the first.
    text = text.replace("\\", "&#92;").replace("$", "&#36;")
    text = re.sub(r"([`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<!&)#", r"\\#", text)
    return safe(re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text))  # an underscore inside a word means nothing in Markdown


def _quoted(value: str | None) -> list[str]:
    """A person's own paragraphs as the lines of a quotation block: Markdown is theirs to write, HTML is not.

    The block also holds what they begin and do not end, such as a code fence.
    """
    if not value or not value.strip():
        return []
    lines = html.escape(_visible(value.strip()), quote=False).splitlines()
    return [f"> {line}".rstrip() for line in lines]


def _code(value: str, language: str = "") -> str:
    """A fenced block that its content cannot close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", value)), default=0))
    return safe(f"{fence}{language}\n{_visible(value.strip())}\n{fence}")


def _decimals(value: float | None, digits: int = 3) -> str:
    """Three decimals; what is not nothing is not called 0.000, and what is not quite 1 is not called 1.000."""
    if value is None:
        return NOT_RECORDED
    text, least = f"{value:.{digits}f}", 10**-digits
    if value != 0 and float(text) == 0:
        return safe(f"< {least:.{digits}f}" if value > 0 else f"> -{least:.{digits}f}")
    return safe(f"> {1 - least:.{digits}f}") if value < 1 and float(text) == 1 else text


def _interval(value: Sequence[float] | None) -> str:
    return DASH if value is None else safe(f"{_decimals(value[0])} to {_decimals(value[1])}")


def _share(row: Mapping[str, Any], key: str) -> str:
    """A number with its interval in one cell."""
    if row[key] is None:
        return DASH
    interval = row.get(f"{key}_interval")
    return safe(f"{_decimals(row[key])} ({_interval(interval)})") if interval else _decimals(row[key])


def _in_words(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _number(value: int | float) -> str:
    return f"{value:,.0f}"


def _short(value: float) -> str:
    """Three significant digits: 5.4, 12.3, 1,230."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return NOT_RECORDED if share is None else percent(share)


def _rate(rate: float | None) -> str:
    return "frozen" if rate is None else f"{rate:.1e}"


def _plain(values: Mapping[str, Any]) -> dict[str, str]:
    """Facts of a family in its own words: numbers, names and short lists; of a path only its last part."""
    shown = {}
    for key, value in values.items():
        items = value if isinstance(value, list | tuple) else [value]
        if 0 < len(items) <= 10 and all(isinstance(item, str | int | float) for item in items):
            shown[key.replace("_", " ")] = (" x " if key == "input_size" else ", ").join(map(_word, items))
    return shown


def _word(value: str | int | float) -> str:
    if isinstance(value, str):
        return local_name(value) if re.match(r"[/\\~]|[A-Za-z]:\\", value) else value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
