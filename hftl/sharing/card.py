"""The model card: everything a stranger needs to know about a run, rendered from the run directory alone.

Every number comes from a file of the run. A fact that nobody gave is written "not recorded". Paths of this machine stay here: of a
local source only the last part of its path is shown. Front matter is written by huggingface_hub's `ModelCardData`
(https://huggingface.co/docs/hub/model-cards#model-card-metadata); text that comes from users or from data is escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in the stubs
from jinja2.filters import do_mark_safe as safe

from hftl.errors import RunError
from hftl.recipe import ImageData, Recipe, TextData, Timm, Transformer
from hftl.run import RunDirectory, read_json, read_json_lines, write_text

TEMPLATE = "card.md.jinja"
NOT_RECORDED = "not recorded"
DASH = "–"  # in a table, where there is nothing to show
# Key in metrics.json -> how it is called, and its id on the Hub.
METRICS = {
    "accuracy": ("Accuracy", "accuracy"),
    "macro_f1": ("Macro F1", "f1"),
    "mcc": ("Matthews correlation", "matthews_correlation"),
    "auc": ("AUC (ROC)", "roc_auc"),
    "log_loss": ("Log loss", "log_loss"),
    "expected_calibration_error": ("Expected calibration error", "expected_calibration_error"),
}
# What a vision model's facts say about the pictures it wants.
PREPROCESSING = ("input_size", "interpolation", "crop_pct", "mean", "std")
LISTED = 20  # with more classes, the tables by class are folded


def write_card(run: RunDirectory, *, repo_id: str | None = None) -> Path:
    """Render the card of a finished run into its README.md; returns its path.

    Raises:
        RunError: the run is not finished.
    """
    write_text(run.card, render_card(run, repo_id=repo_id))
    return run.card


def render_card(run: RunDirectory, *, repo_id: str | None = None) -> str:
    """The model card of a finished run, as Markdown with front matter.

    `repo_id` is where the model can be had on the Hub; None: the card shows how to use the run directory.

    Raises:
        RunError: the run is not finished, or `repo_id` cannot be the name of a repository.
    """
    if repo_id is not None:
        _check_repo_id(repo_id)
    recipe, metrics = run.load_recipe(), read_json(run.metrics)
    plan, data, environment = (read_json(path) if path.is_file() else {} for path in (run.plan, run.data, run.environment))
    split = "test" if "test" in metrics else "validation"
    facts = {
        "recipe": recipe,
        "split": split,
        "headline": metrics[split],
        "names": _names(recipe, data),
        "results": _results(metrics, split),
        "worst": _worst_class(metrics[split]),
        "calibration": _calibration(metrics[split]),
        "by_class": metrics[split]["per_class"],
        "listed": LISTED,
        "use": _use(recipe, run, repo_id),
        "data": data,
        "splits": data.get("splits", {}),
        "length": data.get("text"),
        "preprocessing": _plain({key: value for key, value in data.get("model", {}).items() if key in PREPROCESSING}),
        "vocabulary": _vocabulary(data.get("model", {})),
        "plan": plan,
        "stages": _stage_rows(plan, recipe, run.read_history()),
        "machine": _machine(environment),
        "packages": {name: version for name, version in environment.get("packages", {}).items() if version},
        "environment": environment,
        "repeat": _repeat(recipe, data),
        "openings": list(read_json_lines(run.test_openings)),
        "figures": sorted(path.name for path in run.figures.glob("*.png")),
        "front_matter": safe(_front_matter(recipe, data, metrics[split], split, repo_id).to_yaml()),
    }
    return _environment().get_template(TEMPLATE).render(facts)


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise RunError(f'"{repo_id}" is not the name of a repository, such as me/film-reviews: {error}') from None


# --- front matter -------------------------------------------------------------------------------------------------------------


def _front_matter(
    recipe: Recipe, data: Mapping[str, Any], values: Mapping[str, Any], split: str, repo_id: str | None
) -> ModelCardData:
    task = "image-classification" if isinstance(recipe.data, ImageData) else "text-classification"
    dataset, names = _hub_dataset(recipe, data), _names(recipe, data)
    shown = recipe.card.dataset_name or names["dataset"]
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset or re.sub(r"[^\w.-]+", "-", shown).strip("-") or "local",
            dataset_name=shown,
            dataset_config=recipe.data.config if dataset == recipe.data.source else None,
            dataset_split=split,
            dataset_revision=data.get("revision") if dataset == recipe.data.source else None,
            metric_type=hub_id,
            metric_name=name if split == "test" else f"{name} (validation)",
            metric_value=values[key],
        )
        for key, (name, hub_id) in METRICS.items()
        if values.get(key) is not None
    ]
    return ModelCardData(
        language=recipe.card.language,
        license=recipe.card.license,
        library_name="timm" if isinstance(recipe.model, Timm) else "transformers",
        pipeline_tag=task,
        base_model=_hub_base_model(recipe, data),
        datasets=[dataset] if dataset else None,
        tags=list(dict.fromkeys(["hftl", *recipe.card.tags])),
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        model_name=repo_id.rpartition("/")[2] if repo_id else recipe.name,
        eval_results=results,
    )


def _hub_dataset(recipe: Recipe, data: Mapping[str, Any]) -> str | None:
    """A Hub id: what the recipe's card says, or the source when it was read from there."""
    return recipe.card.dataset or (recipe.data.source if data.get("format") == "hub" else None)


def _hub_base_model(recipe: Recipe, data: Mapping[str, Any]) -> str | None:
    """A Hub id; None for random weights, and for a local checkpoint whose origin the recipe does not tell."""
    if not isinstance(recipe.model, Transformer | Timm) or not recipe.model.pretrained:
        return None
    model = data.get("model", {})
    return recipe.card.base_model or (recipe.model.checkpoint if model.get("revision") else None)


def _names(recipe: Recipe, data: Mapping[str, Any]) -> dict[str, str]:
    """How the card calls things: Hub ids as they are, local things by the last part of their path."""
    spec, model = recipe.model, data.get("model", {})
    if isinstance(spec, Transformer | Timm):
        base = _hub_base_model(recipe, data) or _checkpoint_name(spec.checkpoint)
        origin = f"fine-tuned from {base}" if spec.pretrained else "trained from random weights"
        start = (
            f"{base}, revision {model.get('revision') or NOT_RECORDED}"
            if spec.pretrained
            else f"the architecture {base}, random weights"
        )
    else:
        start = _last_part(spec.vectors)
        origin = f"trained on the word vectors {start}"
    return {
        "title": recipe.card.title or recipe.name,
        "dataset": _hub_dataset(recipe, data) or _last_part(recipe.data.source),
        "dataset_said": recipe.card.dataset_name or _hub_dataset(recipe, data) or _last_part(recipe.data.source),
        "architecture": str(model.get("architecture", NOT_RECORDED)),
        "start": start,
        "origin": origin,
    }


def _last_part(path: str) -> str:
    """The name of a file or folder without where it is: "data/photos/" is "photos"."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or path


def _checkpoint_name(path: str) -> str:
    """A run's model is always in a folder called "model", so the name of the run is shown with it: "digits/model"."""
    name = _last_part(path)
    parent = _last_part(path.rstrip("\\/").removesuffix(name))
    return f"{parent}/{name}" if name == "model" and parent else name


# --- sections -----------------------------------------------------------------------------------------------------------------


def _results(metrics: Mapping[str, Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
    """Rows of the results table: every metric of the headline split, and what chose the weights on validation."""
    rows = [_result(metrics[split], split, key) for key in METRICS]
    if split == "test":
        rows += [_result(metrics["validation"], "validation", key) for key in ("accuracy", "macro_f1", "log_loss")]
    return rows


def _result(values: Mapping[str, Any], split: str, key: str) -> dict[str, Any]:
    return {
        "name": METRICS[key][0],
        "value": values.get(key),
        "interval": values.get(f"{key}_interval"),
        "undefined": values.get(f"{key}_undefined"),
        "split": split,
        "n": values["n"],
    }


def _worst_class(values: Mapping[str, Any]) -> dict[str, Any]:
    """The class with the lowest F1 among those with examples, and what it is most often taken for."""
    index, row = min(((i, row) for i, row in enumerate(values["per_class"]) if row["n"]), key=lambda pair: pair[1]["f1"])
    found = values["confusion"][index]
    others = [(count, other) for other, count in enumerate(found) if other != index]
    count, other = max(others, key=lambda pair: pair[0])
    return {**row, "found": found[index], "taken_for": values["per_class"][other]["label"] if count else None, "taken": count}


def _calibration(values: Mapping[str, Any]) -> str | None:
    """In words: by how much the stated confidence lies above or below the accuracy."""
    confidence = values.get("mean_confidence")
    if confidence is None:
        return None
    gap = confidence - values["accuracy"]
    side = "over" if gap > 0 else "under"
    compared = f"the mean confidence is {confidence:.3f} against an accuracy of {values['accuracy']:.3f}"
    return f"{compared}, so the model is {side}confident by {abs(gap):.3f}"


def _use(recipe: Recipe, run: RunDirectory, repo_id: str | None) -> dict[str, Any]:
    config = read_json(run.model / "config.json") if (run.model / "config.json").is_file() else {}
    glove = not isinstance(recipe.model, Transformer | Timm)
    return {
        "task": "image-classification" if isinstance(recipe.data, ImageData) else "text-classification",
        "model": repo_id or "RUN/model",
        "local": repo_id is None,
        "remote_code": glove and "auto_map" in config,
        "needs_hftl": glove and "auto_map" not in config,
        "max_length": recipe.data.max_length if isinstance(recipe.data, TextData) else None,
        "timm": isinstance(recipe.model, Timm),
        "timm_name": f"hf-hub:{repo_id}" if repo_id else "local-dir:RUN/model",
    }


def _stage_rows(plan: Mapping[str, Any], recipe: Recipe, history: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The stage table, a row for each layer group and then one for each setting; empty when there is no plan."""
    stages = plan.get("stages", [])
    if not stages:
        return []
    ends = {record["stage"]: record for record in history if record["event"] == "stage_end"}
    rows: list[list[Any]] = [
        [group["name"], f"{group['parameters']:,}", *(_rate(stage["groups"][row]["lr"]) for stage in stages)]
        for row, group in enumerate(plan["groups"])
    ]
    rows.append(["*trains*", f"{plan['parameters']:,}", *(_percent(stage["trainable_share"]) for stage in stages)])
    rows += [
        [f"*{name}*", "", *(stage[key].replace("_", " ") for stage in stages)]
        for name, key in (("optimizer", "optimizer"), ("schedule", "schedule"), ("loss", "loss"))
    ]
    rows.append(["*weight decay*", "", *(f"{max(group['weight_decay'] for group in stage['groups']):g}" for stage in stages)])
    rows += [
        [f"*{name}*", "", *(f"{stage[key]:,}" for stage in stages)]
        for name, key in (("epochs", "epochs"), ("batch size", "batch_size"), ("steps", "steps"))
    ]
    best = [ends.get(stage["name"], {}) for stage in stages]
    rows.append(["*best epoch*", "", *(end.get("best_epoch", NOT_RECORDED) for end in best)])
    rows.append(
        [f"*validation {recipe.run.metric.replace('_', ' ')} then*", "", *(_decimals(end.get("best_metric")) for end in best)]
    )
    return [[safe(row[0]) if str(row[0]).startswith("*") else _inline(row[0]), *row[1:]] for row in rows]


def _vocabulary(model: Mapping[str, Any]) -> dict[str, str]:
    """What a GloVe model knows of the training texts' words, as sentences' ends."""
    vocabulary = model.get("vocabulary")
    return _plain(vocabulary) if isinstance(vocabulary, Mapping) else {}


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
        "training time": _duration(environment.get("seconds")),
        "date": environment.get("time"),
        "git commit": environment.get("git_commit"),
        "Python": environment.get("python"),
    }
    return {name: NOT_RECORDED if value is None else str(value) for name, value in values.items()}


def _repeat(recipe: Recipe, data: Mapping[str, Any]) -> str:
    """The command that repeats the run; what was local has to be named again."""
    words = ["hftl train recipe.yaml"]
    if data.get("format") != "hub":
        words.append(f"data.source=PATH/TO/{_shell_word(recipe.data.source)}")
    if isinstance(recipe.model, Transformer | Timm):
        if not data.get("model", {}).get("revision") and recipe.model.pretrained:
            words.append(f"model.checkpoint=PATH/TO/{_shell_word(recipe.model.checkpoint)}")
    else:
        words.append(f"model.vectors=PATH/TO/{_shell_word(recipe.model.vectors)}")
    return " ".join(words)


def _shell_word(path: str) -> str:
    return re.sub(r"[^\w.:-]", "_", _last_part(path))


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
        "block": _block,
        "code": _code,
        "decimals": _decimals,
        "percent": _percent,
        "interval": _interval,
    }
    return environment


def _inline(value: Any) -> str:
    """User text inside a sentence or a table cell: one line, shown letter by letter, whatever it contains."""
    if value is None:
        return safe(NOT_RECORDED)
    text = html.escape(" ".join(str(value).split()), quote=False)
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", text)
    return safe(re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text))  # an underscore inside a word means nothing in Markdown


def _block(value: str | None) -> str:
    """A person's own paragraphs: Markdown is theirs to write, HTML is not."""
    return safe(html.escape(value.strip(), quote=False) if value and value.strip() else NOT_RECORDED)


def _code(value: str, language: str = "") -> str:
    """A fenced block that its content cannot close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", value)), default=0))
    return safe(f"{fence}{language}\n{value.strip()}\n{fence}")


def _decimals(value: float | None, digits: int = 4) -> str:
    return NOT_RECORDED if value is None else f"{value:.{digits}f}"


def _interval(value: Sequence[float] | None, digits: int = 4) -> str:
    return DASH if value is None else f"{value[0]:.{digits}f} to {value[1]:.{digits}f}"


def _percent(share: float | None) -> str:
    """One decimal; what is not nothing is not called 0 %, and what is not all is not called 100 %."""
    if share is None:
        return NOT_RECORDED
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.9995 else "100 %" if share == 1.0 else "> 99.9 %"


def _rate(rate: float | None) -> str:
    return "frozen" if rate is None else f"{rate:.1e}"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _plain(values: Mapping[str, Any]) -> dict[str, str]:
    """Facts of a family in its own words: numbers, shares, names and short lists; of a path only its last part."""
    shown = {}
    for key, value in values.items():
        items = value if isinstance(value, list | tuple) else [value]
        if 0 < len(items) <= 10 and all(isinstance(item, str | int | float) for item in items):
            shown[key.replace("_", " ")] = (" x " if key == "input_size" else ", ").join(
                _word(item, share=key.startswith("share_")) for item in items
            )
    return shown


def _word(value: str | int | float, *, share: bool) -> str:
    if isinstance(value, str):
        return _last_part(value) if re.match(r"[/\\~]|[A-Za-z]:\\", value) else value
    return _percent(value) if share else f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
