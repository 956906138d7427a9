"""What the model of a run is built from: recorded when the run starts, compared when it goes on.

A resume builds the model anew from the base checkpoint, or the word vectors, that the recipe names. Its configuration (activations,
dropout, layers) and its preprocessing (tokenizer, or size and normalisation of pictures) count as much at the second session as at
the first, and may have been changed in between. Its weights do not count once there is a checkpoint, which holds all of them, the
frozen ones too. What is short is recorded as it is, what is long by its hash, so that a difference can be named.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hftl.environment import package_versions
from hftl.errors import RunError, printable
from hftl.facts import with_facts
from hftl.files import PARTIAL
from hftl.models.family import Classifier
from hftl.recipe import Extra, Pretrained, Recipe
from hftl.records.data import read_data
from hftl.records.environment import read_environment
from hftl.run import RunDirectory
from hftl.training.proof import group_hashes, tensors_of

CONFIG, WEIGHTS = "config.json", "weights"
# Where files came from, which version wrote them, how the classes are called, which the data decide: no part of what is computed.
_NAMES = ("id2label", "label2id", "problem_type", "architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype")
# What a call leaves behind in a tokenizer, for the next one.
_LEFT_BEHIND = ("truncation", "padding", "version")
MOST_LETTERS = 200
"""Of a value that is recorded as it is."""
NOTHING = "nothing"
MOST_NAMED = 8
"""Differences in one message."""


def base_record(classifier: Classifier) -> dict[str, Any]:
    """What decides the model of a run that starts now, part by part: {"config.json", "tokenizer" or "preprocessing", "weights"}.

    "weights" has the hashes of each layer group of what was read from the base; a head that is drawn anew, and random weights, are
    decided by the recipe. To be taken of a classifier that was just built.
    """
    model, preprocessor, facts = classifier.model, classifier.preprocessor, classifier.facts
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NAMES}
    config["attention"] = model.config._attn_implementation
    if isinstance(preprocessor, PreTrainedTokenizerBase):
        part, prepared = "tokenizer", _tokenizer_record(preprocessor)
    elif (of_timm := getattr(preprocessor, "data_config", None)) is not None:  # its class brings torchvision
        part, prepared = "preprocessing", dict(of_timm)
    else:
        part, prepared = "preprocessing", preprocessor.to_dict()
    names = classifier.chain.names
    # Of a network on word vectors their table alone was read; of one that is not pretrained, nothing.
    groups = names[:1] if "pretrained" not in facts else names if facts["pretrained"] else ()
    drawn = facts.get("new_parameters", ())
    return {
        CONFIG: _recorded(config),
        part: _recorded(prepared),
        WEIGHTS: group_hashes(tensors_of(model), classifier.chain, groups, without=drawn),
    }


def check_same_base(record: Mapping[str, Any], run: RunDirectory) -> list[str]:
    """Refuse to continue a run on another model than it was started with; what there is to say where it goes on.

    `record` is the `base_record` of the model that was built now. Other weights are refused only where they would be used: as long
    as there is no checkpoint.

    Raises:
        RunError: the base has changed in a way that counts; the differences are named.
    """
    recorded = read_data(run)["base"]
    # Another version of a library may have other settings, with defaults of their own: the version is said, see `other_versions`.
    same_libraries = not earlier_versions(run)
    differences = [
        f"{part}: {line}"
        for part in record
        if part != WEIGHTS
        for line in _differences(recorded.get(part, {}), record[part], one_sided=same_libraries)
    ]
    then, now = recorded.get(WEIGHTS, {}), record[WEIGHTS]
    other = ", ".join(group for group in now if then.get(group) != now[group])
    goes_on = any(path.suffix != PARTIAL for path in run.checkpoints.glob("*"))
    if other and not goes_on:
        differences.append(f"{WEIGHTS}: others in {other}")
    if differences:
        more = [f"... and {len(differences) - MOST_NAMED} more"] if len(differences) > MOST_NAMED else []
        raise RunError(
            "\n".join(
                [
                    f"{run.path}: the model is not built from what this run was started with:",
                    *(f"  {printable(line)}" for line in [*differences[:MOST_NAMED], *more]),
                    "  Continue it with the base as it was, or train from the new one in another place with --run-dir",
                ]
            )
        )
    if other:
        return [f"the base has other weights than at the start ({other}): the run goes on with its own, from the checkpoint"]
    return []


def pinned(recipe: Recipe, run: RunDirectory) -> Recipe:
    """The recipe with the commits of data set and checkpoint that the run was started with, since branches of the Hub may move on;
    and with the answers of its teacher that lie beside the run."""
    if not run.data.is_file():  # it was stopped before it had started
        return recipe
    data, with_commits = read_data(run), recipe
    if recipe.teacher is not None and run.teacher.is_file():
        kept = recipe.teacher.model_copy(update={"run": str(run.teacher.parent)})
        with_commits = with_commits.model_copy(update={"teacher": kept})
    of_data, of_model = data["revision"], data["model"]["revision"]
    if recipe.data.extra:
        with_commits = with_commits.model_copy(
            update={"data": recipe.data.model_copy(update={"extra": extra_at_commits(recipe, run)})}
        )
    if of_data is not None:
        with_commits = with_commits.model_copy(update={"data": with_commits.data.model_copy(update={"revision": of_data})})
    if of_model is not None and isinstance(recipe.model, Pretrained) and not Path(recipe.model.checkpoint).expanduser().is_dir():
        with_commits = with_commits.model_copy(update={"model": recipe.model.model_copy(update={"revision": of_model})})
    return recipe if with_commits is recipe else with_facts(with_commits, card=recipe.card, name=recipe.name)


def extra_at_commits(recipe: Recipe, run: RunDirectory) -> tuple[Extra, ...]:
    """The further rows for training at the commits of the Hub that the run was started with."""
    commits = [each["revision"] for each in read_data(run).get("extra", [])]
    extra: tuple[Extra, ...] = recipe.data.extra
    if len(commits) != len(extra):
        return extra
    return tuple(
        each if commit is None else each.model_copy(update={"revision": commit})
        for each, commit in zip(extra, commits, strict=True)
    )


def other_versions(run: RunDirectory) -> list[str]:
    """A line about the libraries that are here in another version than when the run was last computed, if there are some."""
    changed = _changed_versions(run)
    if not changed:
        return []
    listed = ", ".join(f"{name} {now} instead of {then}" for name, (then, now) in changed.items())
    return [f"with {listed}: numbers may differ a little"]


def earlier_versions(run: RunDirectory) -> dict[str, list[str]]:
    """For environment.json: library -> the other versions with which the run was computed before, oldest first."""
    recorded = read_environment(run).get("packages_before", {})
    before = {name: list(versions) for name, versions in recorded.items()}
    for name, (then, _) in _changed_versions(run).items():
        before[name] = [*(version for version in before.get(name, ()) if version != then), then]
    return before


def _changed_versions(run: RunDirectory) -> dict[str, tuple[str, str]]:
    """Library -> its version when the run was last started or continued, and the one here, where they differ."""
    then, now = read_environment(run)["packages"], package_versions()
    return {name: (str(then[name]), str(now[name])) for name in now if name in then and then[name] != now[name]}


def _tokenizer_record(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Everything that makes tokens of a text, by the names of tokenizer.json, and what transformers adds to it."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    return {
        "class": type(tokenizer).__name__,
        **{name: value for name, value in backend.items() if name not in _LEFT_BEHIND},
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "model_max_length": tokenizer.model_max_length,
    }


def _recorded(value: Any) -> Any:
    """A value as data.json holds it: what is short as it is, what is long by its number of entries and its hash."""
    text = json.dumps(value, sort_keys=True, default=str)
    if len(text) <= MOST_LETTERS:
        return _finite(json.loads(text))  # as it comes back from the file: lists for tuples
    if isinstance(value, Mapping) and len(value) <= MOST_LETTERS:
        return {str(name): _recorded(inner) for name, inner in value.items()}
    return f"{len(value):,} entries, SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _finite(value: Any) -> Any:
    """Infinite numbers as their names, which JSON has none for."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


def _differences(then: Any, now: Any, *, one_sided: bool, name: str = "") -> Iterator[str]:
    """ "hidden_act: gelu -> relu" for each value that differs; with `one_sided` also for what only one of the two has."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in (*then, *(key for key in now if key not in then)):
            inner = f"{name}.{key}" if name else str(key)
            if key in then and key in now:
                yield from _differences(then[key], now[key], one_sided=one_sided, name=inner)
            elif one_sided:
                yield f"{inner}: {_shown(then.get(key, NOTHING))} -> {_shown(now.get(key, NOTHING))}"
    elif then != now:
        yield f"{name}: {_shown(then)} -> {_shown(now)}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
