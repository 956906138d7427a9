"""The space of a tuning study: which keys of a recipe are varied, and between which values. Plain data.

    stages.all.lr=log:1e-5..1e-3            a range whose logarithm is even
    stages.all.layer_decay=0.6..1.0         a range of numbers
    stages.head.epochs=1..5                 whole numbers, where both ends are
    model.checkpoint=a|b|c                  one of several values
    stages.top=on|off                       with the stage, or without it

What a stage without which the recipe is left says is not drawn for that trial.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hftl.errors import Problem, RecipeError, did_you_mean
from hftl.recipe import Recipe, override
from hftl.recipe.section import leaves
from hftl.recipe.text import read_yaml
from hftl.studies.arms import with_stages

ON, OFF = "on", "off"
SEEN = frozenset(
    ("max_length", "image_size", "augmentation", "augmentation_library", "augmentation_views", "random_erasing", "background")
)
"""The keys of `data` that decide how rows are seen, and not which rows there are."""

Value = float | int | str


@dataclass(frozen=True)
class Range:
    """Numbers between two, both included."""

    key: str
    text: str
    """As it was written, behind "="."""
    low: float
    high: float
    log: bool
    whole: bool
    """Only whole numbers."""


@dataclass(frozen=True)
class Choice:
    """Some values, as a recipe has them written."""

    key: str
    text: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Switch:
    """A stage that a recipe has, or has not."""

    key: str
    text: str

    @property
    def stage(self) -> str:
        return self.key.removeprefix("stages.")


Dimension = Range | Choice | Switch


@dataclass(frozen=True)
class Space:
    """What is varied."""

    dimensions: tuple[Dimension, ...]

    @property
    def words(self) -> list[str]:
        """As they were written: "stages.all.lr=log:1e-5..1e-3"."""
        return [f"{dimension.key}={dimension.text}" for dimension in self.dimensions]

    def drawn(self, switches: Mapping[str, Value]) -> Iterator[Range | Choice]:
        """The dimensions that have a say once the stages are switched: those of a stage that is off have none."""
        off = tuple(f"{key}." for key, value in switches.items() if value == OFF)
        for dimension in self.dimensions:
            if not isinstance(dimension, Switch) and not (off and dimension.key.startswith(off)):
                yield dimension

    @property
    def switches(self) -> list[Switch]:
        return [dimension for dimension in self.dimensions if isinstance(dimension, Switch)]

    def recipe(self, base: Recipe, values: Mapping[str, Value], *, source: str = "recipe") -> Recipe:
        """The base recipe with the values of a trial.

        Raises:
            RecipeError: they do not go together.
        """
        kinds = {dimension.key: dimension for dimension in self.dimensions}
        assignments = [f"{key}={_written(value)}" for key, value in values.items() if not isinstance(kinds[key], Switch)]
        recipe = override(base, sorted(assignments, key=len), source=source)  # a schedule's kind before its options
        off = {kinds[key].stage for key, value in values.items() if isinstance(kinds[key], Switch) and value == OFF}  # type: ignore[union-attr]
        return with_stages(recipe, {name: stage for name, stage in recipe.stages.items() if name not in off}) if off else recipe

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every combination once: of whole numbers and choices; of a stage that is off, nothing."""
        switched = itertools.product(*[[(switch.key, word) for word in (ON, OFF)] for switch in self.switches])
        for pairs in switched:
            switches: dict[str, Value] = dict(pairs)
            drawn = list(self.drawn(switches))
            for values in itertools.product(*[_values(dimension) for dimension in drawn]):
                yield {**switches, **{dimension.key: value for dimension, value in zip(drawn, values, strict=True)}}

    def grid_size(self) -> int:
        """How many combinations `grid` has."""
        switched = itertools.product(*[[(switch.key, word) for word in (ON, OFF)] for switch in self.switches])
        return sum(math.prod(len(_values(dimension)) for dimension in self.drawn(dict(pairs))) for pairs in switched)

    def most_epochs(self, base: Recipe) -> int:
        """The most epochs that a trial may have."""
        most = {name: stage.epochs for name, stage in base.stages.items()}
        for dimension in self.dimensions:
            _, _, rest = dimension.key.partition(".")
            name, _, field = rest.rpartition(".")
            if field == "epochs" and name in most and not isinstance(dimension, Switch):
                most[name] = int(max(float(value) for value in _values(dimension)))
        return sum(most.values())


def _values(dimension: Range | Choice) -> Sequence[Value]:
    return range(int(dimension.low), int(dimension.high) + 1) if isinstance(dimension, Range) else dimension.options


def _written(value: Value) -> str:
    return value if isinstance(value, str) else repr(value)


# --- reading ------------------------------------------------------------------------------------------------------------------


def read_space(recipe: Recipe, words: Sequence[str], *, source: str = "recipe") -> Space:
    """The space that is written as ``KEY=...``, or in YAML files of such keys; each value is held against the recipe's schema.

    Raises:
        RecipeError: no such file, an unknown key, a value that does not fit, an empty range; all in one report.
    """
    dimensions: dict[str, Dimension] = {}
    problems: list[Problem] = []
    for key, text in _pairs(words, problems):
        if key in dimensions:
            problems.append(Problem(f"--space {key}", "given twice"))
            continue
        try:
            dimensions[key] = _dimension(recipe, key, text, source)
        except RecipeError as error:
            problems += [
                Problem(f"--space {key}: {each.where}" if each.where != key else f"--space {key}", each.what, each.help)
                for each in error.problems
            ]
    switched = {each.stage for each in dimensions.values() if isinstance(each, Switch)}
    if switched and switched == set(recipe.stages):
        problems.append(Problem("--space", "every stage may be off, and one has to train; leave one of them without on|off"))
    if not dimensions and not problems:
        problems.append(Problem("--space", "nothing is varied", ("write it as stages.all.lr=log:1e-5..1e-3, or name a YAML file",)))
    if problems:
        raise RecipeError(source, list(dict.fromkeys(problems)))
    return Space(tuple(dimensions.values()))


def _pairs(words: Sequence[str], problems: list[Problem]) -> Iterator[tuple[str, str]]:
    for word in words:
        if Path(word).is_file():
            yield from _of_file(Path(word), problems)
        elif "=" in word:
            key, _, text = word.partition("=")
            yield key.strip(), text.strip()
        else:
            what = "no such file, and no KEY=..." if "/" in word or word.endswith((".yaml", ".yml")) else "a file, or KEY=..."
            problems.append(Problem(f"--space {word}", what, ("for example stages.all.lr=log:1e-5..1e-3",)))


def _of_file(path: Path, problems: list[Problem]) -> Iterator[tuple[str, str]]:
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(Problem(str(path), f"no YAML: {' '.join(str(error).split())}"))
        return
    if not isinstance(values, dict):
        problems.append(Problem(str(path), f"expected keys and their values, found {type(values).__name__}"))
        return
    for key, value in leaves(values):
        yield key, "|".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _dimension(recipe: Recipe, key: str, text: str, source: str) -> Dimension:
    _check_key(recipe, key)
    name = key.removeprefix("stages.")
    options = tuple(option.strip() for option in text.split("|"))
    if name != key and (name in recipe.stages or "." not in name):
        if name not in recipe.stages:
            help = f"stages: {', '.join(recipe.stages)}"
            raise RecipeError.single(key, f'no stage "{name}".{did_you_mean(name, recipe.stages)}', help, source=source)
        if sorted(options) != [OFF, ON]:
            raise RecipeError.single(key, f'"{text}": a stage is switched by on|off', source=source)
        return Switch(key, text)
    if ".." in text and len(options) == 1:
        return _range(recipe, key, text, source)
    if len(options) < 2:
        help = "a range is low..high or log:low..high, values are a|b|c, a stage is switched by on|off"
        raise RecipeError.single(key, f'"{text}": nothing to choose from', help, source=source)
    if len(set(options)) < len(options):
        raise RecipeError.single(key, f'"{text}": a value is there twice', source=source)
    problems: list[Problem] = []
    for option in options:
        problems += _problems(recipe, key, option, source)
    if problems:
        raise RecipeError(source, problems)
    return Choice(key, text, options)


def _range(recipe: Recipe, key: str, text: str, source: str) -> Range:
    log = text.startswith("log:")
    written = text.removeprefix("log:").partition("..")
    ends: list[float] = []
    problems: list[Problem] = []
    for end in (written[0].strip(), written[2].strip()):
        found = _problems(recipe, key, end, source)
        problems += found
        if found:
            continue
        value = _value(override(recipe, [f"{key}={end}"], source=source), key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            help = "its values are written a|b|c"
            problems.append(Problem(key, f'"{text}": a range is one of numbers, and this is none', (help,)))
        else:
            ends.append(value)
    if problems:
        raise RecipeError(source, list(dict.fromkeys(problems)))
    low, high = ends
    if not low < high:
        raise RecipeError.single(
            key, f'"{text}": an empty range; the lower end comes first, and lies below the other', source=source
        )
    if log and low <= 0:
        raise RecipeError.single(key, f'"{text}": a range in logarithms begins above 0', source=source)
    return Range(key, text, low, high, log, whole=all(isinstance(end, int) for end in ends))


def _problems(recipe: Recipe, key: str, option: str, source: str) -> Sequence[Problem]:
    try:
        override(recipe, [f"{key}={option}"], source=source)
    except RecipeError as error:
        return error.problems
    return ()


def _value(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key; names of stages may have dots in them."""
    place: Any = recipe.model_dump(mode="python")
    rest = key
    while isinstance(place, Mapping) and rest not in place:
        name = max((name for name in place if rest.startswith(f"{name}.")), key=len)
        place, rest = place[name], rest.removeprefix(f"{name}.")
    return place[rest]


def _check_key(recipe: Recipe, key: str) -> None:
    """Refuse what says by what trials are judged, and not what they are.

    Raises:
        RecipeError: such a key.
    """
    section, _, field = key.partition(".")
    reason = None
    if key == "run.seed":
        reason = "a seed is luck and no setting: the best of several is not better. hftl repeat shows how much luck there is"
    elif key in {"run.metric", "run.test", "run.trackers", "name"} or section == "card":
        reason = "all trials of a study have the same"
    elif section == "data" and field.partition(".")[0] not in SEEN and field in type(recipe.data).model_fields:
        reason = "it decides which rows there are, and all trials are judged by the same ones"
    if reason is not None:
        raise RecipeError.single(key, reason)


def even_values(low: float, high: float, *, log: bool, number: int = 5) -> list[float]:
    """So many values from one end to the other, to three digits: what a grid might have of a range."""
    steps = [step / (number - 1) for step in range(number)]
    exact = [low * (high / low) ** step if log else low + (high - low) * step for step in steps]
    return [float(f"{value:.3g}") if math.isfinite(value) else value for value in exact]
