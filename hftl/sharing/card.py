"""The model card: everything a stranger needs to know about a run, rendered from the run directory alone.

Every number comes from a file of the run. What a person wrote (the recipe's `card` section) stands in quotation blocks or on lines
of its own, see `hand_written`; everything else can be computed again. A fact that nobody gave is written "not recorded". Paths of
this machine stay here: of a local source only its name is shown, so a published recipe ("local:NAME") gives the same card. What
comes from users or from data is escaped (`hftl.sharing.markdown`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import jinja2
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in the stubs
from jinja2.filters import do_mark_safe as safe

from hftl.errors import Problem, RecipeError, RunError
from hftl.facts import HUB, contradictions, how_known
from hftl.files import write_text
from hftl.freeze_proof import StageProof, read_freeze_proof
from hftl.names import CONFLICT, DUPLICATE, HEADLINES, METRICS, NO_LABEL, SEVERAL_LABELS
from hftl.recipe import ImageData, Pretrained, Recipe, WordVectors, local_name, override
from hftl.records.audit import AuditRecord, read_audit
from hftl.records.baseline import decisive, read_baseline
from hftl.records.data import DataRecord, SkippedRow, pretrained_further, read_data, read_other_rows
from hftl.records.environment import FinishedEnvironment, read_finished_environment
from hftl.records.history import StageEnd, read_stage_ends
from hftl.records.metrics import Metrics, kind_of, of_one_label, read_metrics, read_metrics_on_other_rows
from hftl.records.openings import LedgerRecord, read_openings, read_test_ledger
from hftl.records.plan import PlanRecord, read_plan
from hftl.records.seeds import read_seeds
from hftl.records.shrink import read_shrink
from hftl.records.teacher import read_teacher
from hftl.run import RunDirectory
from hftl.sharing.card_results import by_size, calibration, confusions, results, small_classes, worst_class, worst_label
from hftl.sharing.front_matter import dataset_said, front_matter, hub_base_model, hub_dataset
from hftl.sharing.markdown import (
    DASH,
    NOT_RECORDED,
    code,
    decimals,
    in_words,
    inline,
    interval,
    number,
    percent_or_unknown,
    plain,
    quoted,
    rate,
    share,
    short,
)
from hftl.sharing.usage import repeat, use
from hftl.wording import count, duration, listed

TEMPLATE = "card.md.jinja"
# What a vision model's facts say about the pictures it wants.
PREPROCESSING = ("input_size", "interpolation", "crop_pct", "mean", "std")
LISTED = 20  # with more classes, the tables by class are folded


VIEWS_IN_WORDS = {
    "flip": "the picture and its mirror image",
    "five_crop": "its four corners and its middle",
    "ten_crop": "its four corners and its middle, and their mirror images",
    "scales": "its middle at three sizes",
}
"""Of `hftl.names.VIEWS`."""


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
    if problems := contradictions(changed, read_data(run)):
        raise RecipeError(str(run.recipe), problems)
    run.write_recipe(changed)


def render_card(
    run: RunDirectory,
    *,
    repo_id: str | None = None,
    metrics: Metrics | None = None,
    evaluations: Metrics | None = None,
) -> str:
    """The model card of a finished run, as Markdown with front matter.

    Args:
        run: where the run's files are.
        repo_id: where the model can be had on the Hub; None: the card shows how to use the run directory.
        metrics: as in metrics.json, to render the card of numbers computed again; None: what metrics.json says.
        evaluations: the same for those on other rows, by name.

    Raises:
        RunError: the run is not finished, a file of it is missing or not as hftl writes it, or `repo_id` cannot be the name of a
            repository.
    """
    if repo_id is not None:
        check_repo_id(repo_id)
    recipe = run.load_recipe()
    metrics = read_metrics(run) if metrics is None else metrics
    return _environment().get_template(TEMPLATE).render(_facts(run, recipe, repo_id, metrics, evaluations))


def _facts(
    run: RunDirectory,
    recipe: Recipe,
    repo_id: str | None,
    metrics: Metrics,
    evaluations: Metrics | None,
) -> dict[str, Any]:
    """What the template is rendered from."""
    plan, data, audit, environment = read_plan(run), read_data(run), read_audit(run), read_finished_environment(run)
    proofs, openings, stage_ends = read_freeze_proof(run), read_openings(run), read_stage_ends(run, plan)
    split, noun = "test" if "test" in metrics else "validation", "picture" if isinstance(recipe.data, ImageData) else "text"
    values, model, ledger = metrics[split], cast("Mapping[str, Any]", data["model"]), read_test_ledger(run)
    several = kind_of(values) == SEVERAL_LABELS
    return {
        "recipe": recipe,
        "noun": noun,
        "names": _names(recipe, data),
        "parameters": data["model"]["parameters"],
        "hand": {field: safe("\n".join(lines)) for field, lines in _hand_written(recipe).items()},
        "split": split,
        "source": f"predictions/{split}.parquet",
        "headline": values,
        "baseline": _baseline(run, split),
        "teacher": _teacher(run, recipe, split),
        "shrunk": read_shrink(run),
        "results": results(metrics, split),
        "views": VIEWS_IN_WORDS.get(values["tta"]["views"], "") if "tta" in values else "",
        "by_class": values["per_class"],
        "listed": LISTED,
        "many": several,
        "right": "exact match" if several else "accuracy",
        "worst": worst_label(values) if several else worst_class(of_one_label(values)),
        "small": small_classes(values),
        "calibration": None if several else calibration(of_one_label(values)),
        "confusions": [] if several else confusions(of_one_label(values)),
        "by_size": by_size(values),
        "use": use(recipe, run, repo_id),
        "data": data,
        "splits": data["splits"],
        "unreadable": [row for row in data["skipped"] if not _is_duplicate(row) and row["kind"] != NO_LABEL],
        "unlabelled": sum(row["kind"] == NO_LABEL for row in data["skipped"]),
        "duplicates": _duplicates(data, noun),
        "near": _near_duplicates(audit),
        "seen": _seen_in_training(data, audit, split),
        "truncated": _share_truncated(audit, split),
        "length": data.get("text"),
        "pictures": data.get("image"),
        "preprocessing": plain({key: model[key] for key in PREPROCESSING if key in model}),
        "vocabulary": data["model"].get("vocabulary"),
        "plan": plan,
        "stages": _stage_rows(plan, recipe, stage_ends, proofs),
        "undone": _undone(stage_ends),
        "frozen": _frozen(plan, proofs),
        "adapters": any(stage.get("lora") for stage in plan["stages"]),
        "cost": _cost(environment),
        "sessions": environment["sessions"],
        "machine": _machine(environment),
        "packages": _packages(environment),
        "repeat": repeat(recipe, data, repo_id),
        "openings": openings,
        "ledger": ledger,
        "metric": METRICS[recipe.run.chooser].bare,
        "seeds": _seeds(run),
        "widened": _widened(ledger, HEADLINES[kind_of(values)]) if split == "test" else None,
        "sealed": split == "validation" and "test" in data["splits"],
        "unfinished": openings[-1] if split == "validation" and openings else None,
        "bootstrapped": in_words([str(metric) for key, metric in METRICS.items() if metric.bootstrapped and key in values]),
        "opened_for_results": [opening for opening in openings if opening["purpose"] != "again"],
        "opener": "hftl train" if recipe.opens_test else "hftl test",
        "evaluations": _evaluations(run, evaluations),
        "figures": sorted(path.name for path in run.figures.glob("*.png")),
        "front_matter": safe(front_matter(recipe, data, values, split, repo_id).to_yaml()),
    }


def _baseline(run: RunDirectory, split: str) -> dict[str, Any] | None:
    """What the baseline beside the run says of the model on a split: its reason, or what the model gains and whether it does."""
    record = read_baseline(run)
    if record is None:
        return None
    if "gains" not in record:
        return {"reason": record["reason"]}
    if split not in record["gains"]:  # run.baseline was "none" when test was opened
        return None
    values = record["gains"][split]
    gain, interval = decisive(values)
    low, high = interval or (gain, gain)
    said = "better" if low > 0 else "worse" if high < 0 else "open"
    return {"reason": None, "name": record["name"], "seconds": record["seconds"], "said": said, "macro_f1": None, **values}


def _teacher(run: RunDirectory, recipe: Recipe, split: str) -> dict[str, Any] | None:
    """Whose answers the model has learned from, and how both answer the split; None: it has learned from labels alone."""
    record = read_teacher(run)
    if record is None or recipe.teacher is None:
        return None
    section = recipe.teacher
    weights = {"temperature": section.temperature, "weight": section.weight, "rest": 1 - section.weight}
    return {**record, **weights, "values": record["splits"].get(split)}


def _seeds(run: RunDirectory) -> dict[str, Any] | None:
    """What other seeds came to; None: no study was asked."""
    record = read_seeds(run)
    if record is None:
        return None
    return {**record, "metric": str(METRICS[record["metric"]]), "seeds": ", ".join(map(str, record["seeds"]))}


def _widened(ledger: LedgerRecord | None, headline: str) -> dict[str, Any] | None:
    """The intervals that were widened for the recipes tested on the same rows, and how; None: there is one recipe."""
    if ledger is None or "widened" not in ledger:
        return None
    level, intervals = ledger["widened"]["level"], ledger["widened"]["intervals"]
    return {
        "recipes": ledger["recipes"],
        "percent": f"{100 * level:.6g}",
        "headline": intervals.get(headline),
        "intervals": {str(METRICS[metric]): interval for metric, interval in intervals.items()},
    }


def hand_written(recipe: Recipe) -> list[str]:
    """The lines of a rendered card that a person wrote: numbers in them are claims that nothing in the run can prove.

    They are the title, the quotation blocks, licence and authors, and the citation, each as it stands in the card; nothing for what
    the recipe leaves out. A data set's name and the names of classes also occur inside other lines.
    """
    return [line for lines in _hand_written(recipe).values() for line in lines]


# --- names --------------------------------------------------------------------------------------------------------------------


def _names(recipe: Recipe, data: DataRecord) -> dict[str, str]:
    """How the card calls things: Hub ids as they are, local things by their names; whose word a name is that nothing proves."""
    spec, model = recipe.model, data["model"]
    revision = f"revision {model['revision'] or NOT_RECORDED}"
    if isinstance(spec, Pretrained):
        base = hub_base_model(recipe, data) or local_name(spec.checkpoint)
        origin = f"fine-tuned from {base}" if spec.pretrained else "trained from random weights"
        start = f"{base}, {revision}" if spec.pretrained else f"the architecture {base}, random weights"
        if recipe.card.base_model and spec.pretrained and not model["revision"]:
            start = f"{base}, as the authors say of their local copy, {local_name(spec.checkpoint)}; nothing here proves it"
        if further := model.get("pretraining"):
            start += f", {pretrained_further(further)}"
        if anew := model.get("reinitialized"):
            start += f"; {', '.join(anew)} with random weights"
    elif not isinstance(spec, WordVectors):
        origin, start = "trained from random weights", "random weights"
    elif spec.random_dim is not None:
        origin, start = "trained from random weights", f"random word vectors of {spec.random_dim} dimensions"
    else:
        vectors = spec.vectors.removeprefix(HUB) if spec.vectors.startswith(HUB) else local_name(spec.vectors)
        origin, start = f"trained on the word vectors {vectors}", f"the word vectors {vectors}, {_learned(data) or revision}"
    card, known, here = recipe.card, how_known(recipe, data), local_name(recipe.data.source)
    dataset = hub_dataset(recipe, data) or here
    if known == "fingerprint":
        read = f"{card.dataset or card.dataset_name}, read from a copy, {here}, with the fingerprint that the recipe has for it"
    elif known == "claimed" and card.dataset:
        of = recipe.data.source if data["format"] == "hub" else here
        read = f"{of}, which the authors say is {card.dataset}; nothing here proves it"
    elif known == "claimed":
        read = f"{here}, called {card.dataset_name} by the authors"
    else:
        read = dataset
    return {
        "dataset": f"{read}, configuration {recipe.data.config}" if recipe.data.config else read,
        "dataset_said": dataset_said(recipe, data),
        "dataset_claimed": "yes" if known == "claimed" else "",
        "architecture": model["architecture"],
        "start": start,
        "origin": origin,
        "dropped": recipe.dropped,
        "augmentation": recipe.data.augmented if isinstance(recipe.data, ImageData) else "",
    }


def _learned(data: DataRecord) -> str | None:
    """How hftl learned the word vectors, in a clause; None: they are from elsewhere."""
    if (how := data["model"].get("vectors")) is None:
        return None
    settings = f"{how['dimensions']} dimensions, a window of {how['window']}, {how['epochs']} epochs"
    return (
        f"learned without labels by {how['method']} ({settings}) from {how['texts']:,} texts ({listed(how['names'])}); none of them"
        f" was in the validation or test split that was read then; SHA-256 {how['sha256'][:16]}"
    )


def _hand_written(recipe: Recipe) -> dict[str, list[str]]:
    """Field of the recipe's card -> its lines in the rendered card, in the order of the page; only what is given."""
    card = recipe.card
    lines = {
        "title": [f"# {inline(card.title)}"] if card.title else [],
        "summary": quoted(card.summary),
        "intended_use": quoted(card.intended_use),
        "limitations": quoted(card.limitations),
        "training_data": quoted(card.training_data),
        "license": [f"Licence: {inline(card.license)}."] if card.license else [],
        "authors": [f"Authors: {inline(', '.join(card.authors))}."] if card.authors else [],
        "citation": code(card.citation, "bibtex").splitlines() if card.citation and card.citation.strip() else [],
    }
    return {field: found for field, found in lines.items() if found}


# --- sections -----------------------------------------------------------------------------------------------------------------


def _evaluations(run: RunDirectory, recomputed: Metrics | None) -> list[dict[str, Any]]:
    """Those on other rows: what they are called, the rows without their place on this machine, and the metrics."""
    evaluations = []
    for name in run.evaluations:
        facts = read_other_rows(run, name)
        source = facts["source"] if facts["format"] == "hub" else local_name(facts["source"])
        metrics = read_metrics_on_other_rows(run, name) if recomputed is None else recomputed[name]
        evaluations.append({"name": name, "source": source, "facts": facts, "metrics": metrics})
    return evaluations


def _stage_rows(plan: PlanRecord, recipe: Recipe, stage_ends: Sequence[StageEnd], proofs: Sequence[StageProof]) -> list[list[Any]]:
    """The stage table, a row for each layer group and then one for each setting."""
    stages, end_of = plan["stages"], {end["stage"]: end for end in stage_ends}
    rows: list[list[Any]] = [
        [inline(group["name"]), f"{group['parameters']:,}", *(rate(stage["groups"][row]["lr"]) for stage in stages)]
        for row, group in enumerate(plan["groups"])
    ]
    rows.append([safe("*trains*"), f"{plan['parameters']:,}", *(percent_or_unknown(stage["trainable_share"]) for stage in stages)])
    if any(adapters := [stage.get("lora") for stage in stages]):
        rows.append([safe("*adapters*"), "", *(inline(words or "none") for words in adapters)])
    rows += [
        [safe("*optimizer*"), "", *(inline(stage["optimizer"]) for stage in stages)],
        [safe("*schedule*"), "", *(inline(stage["schedule"]) for stage in stages)],
        [safe("*loss*"), "", *(inline(stage["loss"]) for stage in stages)],
    ]
    for title, given in (
        ("*class weights*", [stage.get("class_weights") for stage in stages]),
        ("*sampling*", [stage.get("sampling") for stage in stages]),
    ):
        if any(given):
            rows.append([safe(title), "", *(inline(value or "none") for value in given)])
    if any(stage.get("mix") for stage in stages):  # pictures, and their labels, of every step with each other
        rows.append([safe("*mix*"), "", *(inline(stage.get("mix") or "no") for stage in stages)])
    if any(stage.get("image_size") for stage in stages):
        rows.append(
            [safe("*side of the pictures, pixels*"), "", *(str(stage.get("image_size") or "as tested") for stage in stages)]
        )
    if any(averages := [stage.get("average") for stage in stages]):
        rows.append([safe("*average of weights*"), "", *("none" if average is None else inline(average) for average in averages)])
    rows.append([safe("*weight decay*"), "", *(f"{max(group['weight_decay'] for group in stage['groups']):g}" for stage in stages)])
    if any(stage.get("l1") for stage in stages):
        rows.append([safe("*l1*"), "", *(f"{stage.get('l1', 0):g}" for stage in stages)])
    rows += [
        [safe("*epochs*"), "", *(f"{stage['epochs']:,}" for stage in stages)],
        [safe("*batch size*"), "", *(f"{stage['batch_size']:,}" for stage in stages)],
        [safe("*steps*"), "", *(f"{stage['steps']:,}" for stage in stages)],
    ]
    ends = [end_of[stage["name"]] for stage in stages]
    rows.append([safe("*best epoch*"), "", *(_best_epoch(end) for end in ends)])
    metric = METRICS[recipe.run.chooser].bare
    rows.append([safe(f"*validation {metric} then*"), "", *(decimals(end["best_metric"]) for end in ends)])
    rows.append([safe("*weights kept*"), "", *("yes" if end["kept"] else "no" for end in ends)])
    proof_of = {proof.stage: proof for proof in proofs}
    rows.append([safe("*frozen unchanged*"), "", *(_unchanged(proof_of.get(stage["name"])) for stage in stages)])
    return rows


def _best_epoch(end: StageEnd) -> str:
    return f"soup of {', '.join(map(str, end['soup']))}" if "soup" in end else str(end["best_epoch"])


def _undone(stage_ends: Sequence[StageEnd]) -> list[dict[str, Any]]:
    """The stages that improved nothing, each with the stage whose weights outlasted it."""
    undone, last_kept = [], None
    for end in stage_ends:
        if end["kept"]:
            last_kept = end["stage"]
        else:
            undone.append({"stage": end["stage"], "kept": last_kept})
    return undone


def _unchanged(proof: StageProof | None) -> str:
    frozen = [] if proof is None else [group.unchanged for group in proof.groups if group.unchanged is not None]
    return NOT_RECORDED if proof is None else DASH if not frozen else "yes" if all(frozen) else "no"


def _frozen(plan: PlanRecord, proofs: Sequence[StageProof]) -> dict[str, Any] | None:
    """What the freeze proof says of all stages together; None where it is not about the stages of the plan."""
    if [proof.stage for proof in proofs] != [stage["name"] for stage in plan["stages"]]:
        return None
    groups = [(proof.stage, group) for proof in proofs for group in proof.groups]
    return {
        "any": any(group.unchanged is not None for _, group in groups),
        "changed": [{"stage": stage, "group": group.name} for stage, group in groups if group.unchanged is False],
        "unmoved": [{"stage": stage, "group": group.name} for stage, group in groups if group.moved is False],
    }


def _duplicates(data: DataRecord, noun: str) -> dict[str, Any]:
    """What is in the source more than once, as phrases, and what was done about it."""
    duplicates = data["duplicates"]
    phrases = [f"{number(pair['pairs'])} in both {' and '.join(map(inline, pair['splits']))}" for pair in duplicates["across"]]
    phrases += [
        f"{count(n, 'row')} of {inline(split)} whose {noun} is there with another class, too"
        for split, n in duplicates["conflicting"].items()
    ]
    phrases += [
        f"{count(n, 'row')} of {inline(split)} that repeat{'s' if n == 1 else ''} an earlier one"
        for split, n in duplicates["within"].items()
    ]
    return {
        "phrases": safe("; ".join(phrases)),
        "left_out": sum(map(_is_duplicate, data["skipped"])),
        "repeated": bool(duplicates["within"]),
    }


def _near_duplicates(audit: AuditRecord) -> dict[str, Any]:
    """What nearly repeats something else in the splits that were used, as phrases."""
    near = audit["near_duplicates"]
    phrases = []
    for pair in near["across"]:
        first, second = map(inline, pair["splits"])
        phrases.append(f"{number(pair['rows'])} in {second} like one of {first}")
    phrases += [f"{number(n)} in {inline(split)} like another one there" for split, n in near["within"].items()]
    if near["conflicting"]:
        phrases.append(f"{count(near['conflicting'], 'group')} of them with more than one class")
    return {"phrases": safe("; ".join(phrases)), "threshold": f"{near['threshold']:g}"}


def _seen_in_training(data: DataRecord, audit: AuditRecord, split: str) -> dict[str, int]:
    """How much of a split training has seen: what is also in train, as the recipe asked to keep it, and what is nearly there."""
    equal, near = data["duplicates"], audit["near_duplicates"]
    in_both = equal["across"] if equal["on_duplicate"] == "keep" else []
    return {
        "equal": sum(pair["pairs"] for pair in in_both if pair["splits"] == ["train", split]),
        "near": sum(pair["rows"] for pair in near["across"] if pair["splits"] == ["train", split]),
    }


def _share_truncated(audit: AuditRecord, split: str) -> float | None:
    """Of the texts of a split; None: they are pictures, or the audit is not of this split, which is for `hftl verify` to say."""
    audited = audit["splits"].get(split)
    lengths = None if audited is None else audited.get("lengths")
    return None if lengths is None else lengths["share_truncated"]


def _is_duplicate(row: SkippedRow) -> bool:
    """Whether a row was left out for another one like it, rather than because it could not be read."""
    return row["kind"] in {DUPLICATE, CONFLICT}


def _cost(environment: FinishedEnvironment) -> dict[str, Any]:
    """Training time, and the energy of the processors: 1 Wh is 3,600 J."""
    joules = environment["cpu_energy_joules"]
    energy = None if joules is None else f"{short(joules / 1000)} kJ ({short(joules / 3600)} Wh)"
    return {"time": duration(environment["seconds"]), "energy": energy}


def _packages(environment: FinishedEnvironment) -> dict[str, str]:
    """Library -> its version, and in brackets those of earlier sessions."""
    before = environment.get("packages_before", {})
    return {
        name: f"{version} (before: {', '.join(before[name])})" if before.get(name) else version
        for name, version in environment["packages"].items()
        if version
    }


def _frozen_layers(environment: FinishedEnvironment) -> dict[str, str]:
    """Where each stage had the activations of its frozen layers from; nothing where no stage has any."""
    how = {"stored": "from the cache", "computed": "computed in every epoch", "both": "partly from the cache"}
    stages = [f"{stage}: {how[origin['train']]}" for stage, origin in environment.get("cached", {}).items()]
    return {"frozen layers": ", ".join(stages)} if stages else {}


def _machine(environment: FinishedEnvironment) -> dict[str, str]:
    memory = environment["memory_bytes"]
    values = {
        "device": environment["device"],
        "processor": environment["cpu"],
        "cores": environment["cores"],
        "memory": f"{memory / 2**30:.0f} GiB" if memory else None,
        "system": environment["platform"],
        "processes": environment["processes"],
        "precision": environment["precision"],
        "date": environment["time"],
        "git commit": environment["git_commit"],
        "Python": environment["python"],
    }
    said = {name: NOT_RECORDED if value is None else str(value) for name, value in values.items()}
    return said | _frozen_layers(environment)


# --- text ---------------------------------------------------------------------------------------------------------------------


@cache
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
        "inline": inline,
        "code": code,
        "decimals": decimals,
        "percent": percent_or_unknown,
        "interval": interval,
        "share": share,
        "number": number,
    }
    return environment
