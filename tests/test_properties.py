"""What holds for every recipe, override, chain, batch plan and set of predictions, looked for by hypothesis.

The examples are the same in every run. ``HFTL_FUZZ_SECONDS=N`` draws others, and N times as many.
"""

from __future__ import annotations

import math
import os
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from torch import nn

from hftl.data.batches import plan_epoch, steps_per_epoch
from hftl.data.loader import Batch, evaluation_batches, training_batches, transfer
from hftl.errors import RecipeError, printable
from hftl.evaluation.metrics import compute_metrics, quick_metrics
from hftl.evaluation.predictions import Predictions
from hftl.models.chain import HEAD, Chain, ChainError, LayerGroup, UnknownGroup
from hftl.recipe import Recipe, Stage, difference, load_recipe, override, parse_recipe
from hftl.training.stage import freeze, group_rates, param_groups, train_mode

LONGER = float(os.environ.get("HFTL_FUZZ_SECONDS", "0"))


def tried(times: int) -> Callable[[Any], Any]:
    """Run a test on that many examples."""
    return settings(
        max_examples=int(times * max(1.0, LONGER)),
        derandomize=not LONGER,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


# --- recipes ------------------------------------------------------------------------------------------------------------------

NAMES = st.text(string.ascii_letters + string.digits, min_size=1, max_size=3) | st.sampled_from(
    ["v1.5", "null", "no", "1e3", "a-b"]
)
# What YAML 1.1 has ideas of its own about, beside plain texts.
READ_AS_OTHERS = ["no", "~", "0123", "1.10", "12:30", "1_0", "0x1F", "1e3", ".inf", "2024-01-01", "<<", "=", "!!binary aa"]
MARKS = ["a: b", "# a", "a #b", "'", '"', "- a", "&a b", "*a", "[", "{a", "%a", "@a", "`", "?", "|\n a", " a", "a "]
ODD = st.sampled_from([*READ_AS_OTHERS, *MARKS, "\u2028", "\x85", "\x00", "\ufeffx", "\n"])
TEXTS = (st.text(min_size=1, max_size=8) | ODD).filter(lambda text: text.strip() != "" or "\n" in text)
RATES = st.floats(1e-12, 1e3, exclude_min=True)
SHARES = st.floats(0.0, 1.0, exclude_max=True)
COUNTS = st.integers(1, 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES.map(lambda name: name.replace(".", "_")), inner, max_size=3),
    max_leaves=5,
)


def section(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


DATA = {"source": TEXTS}
DATA_TOO = {
    "revision": st.none() | TEXTS,
    "label_column": TEXTS,
    "test_split": st.none() | TEXTS,
    "validation_fraction": SHARES,
    "max_train_samples": st.none() | COUNTS,
    "on_duplicate": st.sampled_from(["error", "drop", "keep"]),
}
STAGE_TOO = {
    "unfreeze": TEXTS | st.lists(TEXTS, max_size=3).map(tuple),
    "epochs": COUNTS,
    "layer_decay": st.floats(0.0, 1.0, exclude_min=True),
    "optimizer": st.sampled_from(["adamw", "adam", "rmsprop", "sgd"]),
    "weight_decay": st.floats(0.0, 1e300),
    "class_weights": st.none()
    | st.sampled_from(["balanced", "effective"])
    | st.dictionaries(TEXTS, st.floats(-1e9, 1e9), max_size=3),
    "max_grad_norm": st.none() | RATES,
}
RUN = section(
    {},
    {"seed": st.integers(0, 2**32 - 1), "batch_size": COUNTS, "trackers": st.lists(TEXTS, max_size=2), "checkpoint_minutes": RATES},
)
CARD = section({}, {"title": st.none() | TEXTS, "language": st.none() | TEXTS, "tags": st.lists(TEXTS, max_size=3)})


def recipes(stages: Sequence[str], *, pictures: bool) -> st.SearchStrategy[Recipe]:
    """Recipes with the same sections."""
    if pictures:
        extra = {"augmentation": TEXTS | st.dictionaries(NAMES.filter(lambda name: "." not in name), JSON, max_size=3)}
        colour = st.integers(0, 255)
        data = section({"kind": st.just("image"), **DATA}, {**DATA_TOO, **extra, "background": st.tuples(colour, colour, colour)})
        model = section({"family": st.just("timm"), "checkpoint": TEXTS}, {"pretrained": st.booleans(), "dropout": SHARES})
    else:
        data = section({"kind": st.just("text"), **DATA}, {**DATA_TOO, "text_column": TEXTS, "max_length": COUNTS})
        widths = st.lists(COUNTS, min_size=1, max_size=3)
        model = section({"family": st.just("textcnn"), "vectors": TEXTS}, {"kernel_widths": widths, "dropout": SHARES})
    of_stage = section({"lr": RATES}, STAGE_TOO)
    whole = {"name": NAMES, "data": data, "model": model, "stages": st.fixed_dictionaries(dict.fromkeys(stages, of_stage))}
    return section(whole, {"run": RUN, "card": CARD}).map(lambda values: Recipe(**values))


SHAPES = st.tuples(st.lists(NAMES, min_size=1, max_size=3, unique=True), st.booleans())
ANY_RECIPE = SHAPES.flatmap(lambda shape: recipes(shape[0], pictures=shape[1]))
TWO_ALIKE = SHAPES.flatmap(lambda shape: st.tuples(*[recipes(shape[0], pictures=shape[1])] * 2))
SMALL = Recipe(
    **yaml.safe_load("{name: s, data: {kind: text, source: r}, model: {family: bilstm, vectors: v}, stages: {all: {lr: 0.1}}}")
)


def refused_or(read: Callable[[], Recipe]) -> Recipe | None:
    """The recipe, or None after a RecipeError that a terminal can show."""
    try:
        recipe = read()
    except RecipeError as refused:
        message = printable(str(refused))
        assert message.encode("utf-8")
        return None
    assert parse_recipe(recipe.to_yaml(), source="again") == recipe
    return recipe


@given(ANY_RECIPE)
@example(override(SMALL, ["card.title=one\x85two\x85"]))
@tried(25)
def test_a_recipe_survives_its_file(tmp_path: Path, recipe: Recipe) -> None:
    text = recipe.to_yaml()
    again = parse_recipe(text, source="x")
    assert again == recipe and again.to_yaml() == text and difference(recipe, again) == []
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    assert load_recipe(path) == recipe


@given(ANY_RECIPE, st.data())
@tried(60)
def test_a_recipe_with_a_typing_error_is_a_recipe_or_a_recipe_error(recipe: Recipe, data: st.DataObject) -> None:
    text = mutated(recipe.to_yaml(), data)
    refused_or(lambda: parse_recipe(text, source="x"))


def mutated(text: str, data: st.DataObject) -> str:
    lines = text.splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 4))):
        how = data.draw(st.sampled_from(["delete", "insert", "swap", "line twice", "no line", "indent"]))
        at = data.draw(st.integers(0, len(text)))
        if how == "delete":
            text = text[:at] + text[at + data.draw(st.integers(1, 9)) :]
        elif how == "insert":
            text = text[:at] + data.draw(ODD | st.text("{}[]:,-#&*!|>'\"%@`?~\\ \n\t0aeé\x07", min_size=1, max_size=4)) + text[at:]
        elif how == "swap":
            text = text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]
        else:
            lines = text.splitlines(keepends=True) or [""]
            line = data.draw(st.integers(0, len(lines) - 1))
            lines[line : line + 1] = {"line twice": [lines[line]] * 2, "no line": [], "indent": ["  " + lines[line]]}[how]
            text = "".join(lines)
    return text


@given(ANY_RECIPE, JSON, st.data())
@tried(35)
def test_a_value_of_another_type_anywhere_is_a_recipe_or_a_recipe_error(recipe: Recipe, value: Any, data: st.DataObject) -> None:
    values = recipe.model_dump(mode="json")
    place, key = values, data.draw(st.sampled_from(list(values)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.integers(0, 4)):
        place, key = place[key], data.draw(st.sampled_from(list(place[key])))
    place[key] = value
    refused_or(lambda: parse_recipe(yaml.safe_dump(values, allow_unicode=True), source="x"))
    refused_or(lambda: Recipe(**values))


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.sampled_from(["", "name: ", "data: {augmentation: ["]))
@tried(60)
def test_any_file_is_a_recipe_or_a_recipe_error(tmp_path: Path, content: bytes, before: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(before.encode() + content)
    refused_or(lambda: load_recipe(path))


def fields(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value of every field, JSON-ready."""
    values = recipe.model_dump(mode="json")
    sections = {name: values[name] for name in ("data", "model", "run", "card")}
    sections |= {f"stages.{name}": stage for name, stage in values["stages"].items()}
    return {"name": recipe.name} | {f"{where}.{key}": value for where, held in sections.items() for key, value in held.items()}


def written(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool | int | float):
        return yaml.safe_dump(value).split("\n")[0]
    quoted: str = yaml.safe_dump(
        value, default_style='"' if isinstance(value, str) else None, default_flow_style=True, width=math.inf
    )
    return quoted


def assignments_between(before: Recipe, after: Recipe) -> list[str]:
    old, new = fields(before), fields(after)
    return [f"{key}={written(new[key])}" for key in new if new[key] != old[key]]


@given(TWO_ALIKE, st.randoms(use_true_random=False))
@tried(25)
def test_the_overrides_of_the_fields_that_differ_lead_from_one_recipe_to_another_in_any_order(
    pair: tuple[Recipe, Recipe], random: Any
) -> None:
    before, after = pair
    changes = assignments_between(before, after)
    random.shuffle(changes)
    assert override(before, changes) == after
    half = override(before, changes[::2])
    assert override(half, changes[1::2]) == after
    assert assignments_between(half, after) == [change for change in assignments_between(before, after) if change in changes[1::2]]


@given(TWO_ALIKE, st.data())
@tried(35)
def test_an_override_changes_its_field_alone_and_the_difference_names_it(pair: tuple[Recipe, Recipe], data: st.DataObject) -> None:
    before, after = pair
    changes = assignments_between(before, after)
    assume(changes)
    change = data.draw(st.sampled_from(changes))
    key = change.partition("=")[0]
    changed = override(before, [change])
    assert {k for k, value in fields(changed).items() if value != fields(before)[k]} == {key}
    named = difference(before, changed)
    assert named and all(line.startswith((f"{key}: ", f"{key}.")) for line in named)
    assert override(changed, assignments_between(changed, before)) == before


@given(ANY_RECIPE)
@tried(25)
def test_an_override_with_what_is_there_changes_nothing(recipe: Recipe) -> None:
    assert override(recipe, []) == recipe
    assert override(recipe, [f"{key}={written(value)}" for key, value in fields(recipe).items()]) == recipe


KEYS = st.sampled_from(sorted(fields(SMALL))) | st.builds("{}.{}".format, st.sampled_from(sorted(fields(SMALL))), TEXTS) | TEXTS


@given(
    st.lists(st.builds("{}={}".format, KEYS, st.text(max_size=20) | ODD | JSON.map(written)) | st.text(), min_size=1, max_size=3)
)
@example(["card.summary=" + 5_000 * "["])
@example(["card={1: 2}"])
@example(["card.title=\udc80"])
@example(["card.\udc80=1"])
@example(["stages=&a {b: *a}"])
@example(["stages.all.weight_decay=inf"])
@example(["stages.all.class_weights={a: nan}"])
@example(["data.max_length=" + 30 * "9"])
@example(["run.seed=" + 5_000 * "9"])
@example(["stages.all.unfreeze=last " + 5_000 * "9"])
@tried(150)
def test_any_override_gives_a_recipe_or_a_recipe_error(assignments: list[str]) -> None:
    refused_or(lambda: override(SMALL, assignments))


@given(TEXTS)
@example("0123456")
@example("1.10")
@example("12:30")
@example("no")
@example("2024-01-01")
@example("photos #1")
@tried(80)
def test_a_text_on_the_command_line_arrives_as_it_was_written(text: str) -> None:
    text = text.strip()
    assume(text.lower() not in {"", "~", "null"} and not text.startswith(("{", "[", '"', "'")))
    assert override(SMALL, [f"data.source={text}", f"card.title={text}"]).card.title == text


@given(st.from_regex(r"[0-9a-fxob][0-9a-f._:x-]{0,9}", fullmatch=True).filter(lambda text: not text.endswith(":")))
@tried(60)
def test_a_text_in_a_file_arrives_as_it_was_written_without_quotes(text: str) -> None:
    read = parse_recipe(SMALL.to_yaml().replace("revision: null", f"revision: {text}", 1), source="x")
    assert read.data.revision == text


@pytest.mark.parametrize(
    "assignment",
    [
        "stages.all.weight_decay=inf",
        "stages.all.max_grad_norm=inf",
        "stages.all.head_lr_multiplier=inf",
        "stages.all.class_weights={a: nan}",
        "run.checkpoint_minutes=inf",
        "data.max_length=9223372036854775808",
        "run.workers=9223372036854775808",
    ],
)
def test_a_number_that_no_run_can_use_is_refused(assignment: str) -> None:
    with pytest.raises(RecipeError, match=r"input should be"):
        override(SMALL, [assignment])


def test_a_colour_has_values_of_a_byte() -> None:
    values: dict[str, Any] = {"name": "s", "model": {"family": "timm", "checkpoint": "c"}, "stages": {"all": {"lr": 0.1}}}
    for wrong in (-1, 256):
        with pytest.raises(RecipeError, match=r"data\.background\.2: input should be"):
            Recipe(**{**values, "data": {"kind": "image", "source": "s", "background": (0, 255, wrong)}})


# --- the chain ----------------------------------------------------------------------------------------------------------------

CHILDREN = ("a", "b", "ab", "0", "01")
TREES = st.recursive(
    st.sampled_from([(), ("w",), ("s",), ("w", "s"), ("norm",)]),
    lambda inner: st.dictionaries(st.sampled_from(CHILDREN), inner, min_size=1, max_size=3),
    max_leaves=8,
)


def grown(tree: Any) -> nn.Module:
    """A module: a dict has children, a tuple says what a leaf holds."""
    module = nn.Module()
    if isinstance(tree, dict):
        for name, below in tree.items():
            module.add_module(name, grown(below))
    elif tree == ("norm",):
        return nn.BatchNorm1d(2)
    if "w" in tree and isinstance(tree, tuple):
        module.w = nn.Parameter(torch.zeros(2, 2))
    if "s" in tree and isinstance(tree, tuple):
        module.register_buffer("s", torch.zeros(1))
    return module


def tensors(model: nn.Module) -> list[str]:
    return [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]


def check_partition(model: nn.Module, chain: Chain) -> None:
    members = [name for group in chain.names for name in (*chain.parameters[group], *chain.buffers[group])]
    assert Counter(members) == Counter(tensors(model))
    for group in chain.names:
        assert chain.parameters[group] + chain.buffers[group]
        assert all(chain.group_of(name) == group for name in (*chain.parameters[group], *chain.buffers[group]))
        for held, of_model in ((chain.parameters, model.named_parameters()), (chain.buffers, model.named_buffers())):
            assert list(held[group]) == [name for name, _ in of_model if name in held[group]]
    modules = [name for group in chain.names for name in chain.modules[group]]
    assert len(set(modules)) == len(modules) and set(modules) <= {name for name, _ in model.named_modules()}


@given(TREES, st.data())
@tried(100)
def test_any_grouping_of_any_model_is_a_partition_or_refused(tree: Any, data: st.DataObject) -> None:
    model = grown(tree)
    places = [name for name, _ in model.named_modules() if name] + tensors(model) + ["", "nothing"]
    count = data.draw(st.integers(0, 3))
    prefixes = st.lists(st.sampled_from(places), max_size=4).map(tuple)
    groups = [LayerGroup(data.draw(st.sampled_from("xyz")), data.draw(prefixes)) for _ in range(count)]
    groups += [LayerGroup(HEAD, data.draw(prefixes))]
    try:
        chain = Chain(model, groups)
    except ChainError:
        return
    check_partition(model, chain)


@st.composite
def chains(draw: st.DrawFn) -> tuple[nn.Module, Chain, dict[str, str]]:
    """A model of a row of parts, its chain, and the group that each tensor must be in."""
    parts = draw(st.lists(TREES, min_size=1, max_size=8))
    model = nn.Module()
    for place, tree in enumerate(parts):
        model.add_module(f"part{place}", part := grown(tree))
        if not tensors(part):
            part.extra = nn.Parameter(torch.zeros(2))
    ends = sorted(draw(st.sets(st.integers(1, len(parts)), max_size=len(parts)))) or [len(parts)]
    ends[-1] = len(parts)
    names = [*(f"group.{number}" for number in range(len(ends) - 1)), HEAD]
    held = {
        name: tuple(f"part{place}" for place in range(start, end))
        for name, start, end in zip(names, [0, *ends], ends, strict=False)
    }
    owner = {tensor: name for name, inside in held.items() for tensor in tensors(model) if tensor.split(".")[0] in inside}
    # A tensor may be taken out of its part and given to another group by its full name.
    moved = draw(st.none() | st.sampled_from(tensors(model)))
    to = draw(st.sampled_from(names))
    if moved is not None and sum(group == owner[moved] for group in owner.values()) > 1:
        owner[moved] = to
        held[to] += (moved,)
    return model, Chain(model, [LayerGroup(name, inside) for name, inside in held.items()]), owner


@given(chains())
@tried(35)
def test_each_tensor_is_in_the_group_that_names_it(made: tuple[nn.Module, Chain, dict[str, str]]) -> None:
    model, chain, owner = made
    check_partition(model, chain)
    assert {name: chain.group_of(name) for name in tensors(model)} == owner


@given(chains(), st.data())
@tried(35)
def test_a_selection_is_a_part_of_the_chain_in_its_order(
    made: tuple[nn.Module, Chain, dict[str, str]], data: st.DataObject
) -> None:
    _, chain, _ = made
    wanted = data.draw(st.lists(st.sampled_from(chain.names), min_size=1, max_size=5))
    selected = chain.select(wanted)
    assert set(selected) == set(wanted) and list(selected) == sorted(set(selected), key=chain.names.index)
    assert chain.select(selected) == selected
    for count in range(1, len(chain) + 1):
        assert (*chain.names[: len(chain) - count], *chain.select(f"last {count}")) == chain.names
    assert chain.select(f"last {len(chain)}") == chain.select("all") == chain.names and chain.select("last 1") == chain.select(HEAD)


@given(
    chains(), st.text(max_size=12) | st.lists(st.text(max_size=4), max_size=3) | st.from_regex(r"\s?last\s?-?\d*", fullmatch=True)
)
@example((grown(("w",)), Chain(grown(("w",)), [LayerGroup(HEAD, ("w",))]), {}), "last " + 5_000 * "9")
@tried(35)
def test_any_selection_is_made_or_refused(made: tuple[nn.Module, Chain, dict[str, str]], unfreeze: str | list[str]) -> None:
    _, chain, _ = made
    try:
        assert chain.select(unfreeze)
    except UnknownGroup:
        return


@given(chains(), st.floats(1e-9, 1.0), st.floats(0.01, 1.0), st.floats(0.1, 100.0), st.data())
@tried(35)
def test_rates_and_weight_decay_do_not_depend_on_what_is_frozen(
    made: tuple[nn.Module, Chain, dict[str, str]], lr: float, decay: float, head: float, data: st.DataObject
) -> None:
    model, chain, _ = made
    wanted = data.draw(st.lists(st.sampled_from(chain.names), min_size=1, max_size=4))
    stage = Stage(lr=lr, layer_decay=decay, head_lr_multiplier=head, unfreeze=tuple(wanted))
    everything = Stage(lr=lr, layer_decay=decay, head_lr_multiplier=head, unfreeze="all")
    rates = group_rates(chain.names, everything)
    assert rates == group_rates(chain.names, stage)
    for place, name in enumerate(chain.names):
        assert math.isclose(rates[name], lr * decay ** (len(chain) - 1 - place) * (head if name == HEAD else 1.0))

    def of_each(stage: Stage) -> dict[str, tuple[str, float, float]]:
        groups = param_groups(model, chain, stage)
        given_out = [name for group in groups for name in group.parameters]
        assert len(given_out) == len(set(given_out))
        return {name: (g.name, g.lr, g.weight_decay) for g in groups for name in g.parameters}

    alone, together = of_each(stage), of_each(everything)
    assert set(together) == {name for name, _ in model.named_parameters()}
    assert alone == {name: facts for name, facts in together.items() if chain.group_of(name) in wanted}
    assert all(facts[1] == rates[facts[0]] for facts in together.values())


@given(chains(), st.data())
@tried(35)
def test_exactly_the_selected_groups_have_gradients_and_training_mode(
    made: tuple[nn.Module, Chain, dict[str, str]], data: st.DataObject
) -> None:
    model, chain, owner = made
    for _ in range(2):  # whatever the stage before left
        trains = chain.select(data.draw(st.lists(st.sampled_from(chain.names), min_size=1, max_size=3)))
        freeze(model, chain, trains)
        train_mode(model, chain, trains)
        assert {name: p.requires_grad for name, p in model.named_parameters()} == {
            name: owner[name] in trains for name, _ in model.named_parameters()
        }
        for group in chain.names:
            assert all(model.get_submodule(name).training == (group in trains) for name in chain.modules[group])


# --- the loader ---------------------------------------------------------------------------------------------------------------


class Numbers:
    """Samples whose only input is their own index and epoch."""

    size_unit: Literal["tokens"] = "tokens"
    fingerprint = "numbers"
    to_device = staticmethod(transfer)
    weights = None

    def __init__(self, size: int, lengths: Sequence[int] | None) -> None:
        self.ids = [f"train/{i}" for i in range(size)]
        self.targets = np.array([i % 3 for i in range(size)])
        self.lengths = lengths
        self.sizes = list(range(size))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        epoch, index = position
        return {"epoch": epoch, "index": index}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([sample[name] for sample in samples]) for name in samples[0]}


@st.composite
def samples(draw: st.DrawFn) -> Numbers:
    size = draw(st.integers(1, 40))
    return Numbers(size, draw(st.none() | st.lists(st.integers(1, 9), min_size=size, max_size=size)))


BATCH_SIZES, SEEDS, EPOCHS = st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(0, 1000)


def counted(batch: Batch) -> Iterator[tuple[int, float]]:
    """Index and weight of what is no padding."""
    return ((int(i), float(w)) for i, w in zip(batch.index, batch.weight, strict=True) if w > 0)


def steps_of(per_rank: list[list[Batch]]) -> list[list[Batch]]:
    """The micro-batches of all processes, step by step."""
    ends = [[place for place, batch in enumerate(batches, start=1) if batch.completes_step] for batches in per_rank]
    assert all(each == ends[0] for each in ends) and (not ends[0] or ends[0][-1] == len(per_rank[0]))
    return [
        [batch for batches in per_rank for batch in batches[start:end]] for start, end in zip([0, *ends[0]], ends[0], strict=False)
    ]


@given(samples(), BATCH_SIZES, SEEDS, EPOCHS, st.integers(1, 3), st.integers(1, 4))
@tried(50)
def test_an_epoch_deals_each_example_once_whatever_the_processes_and_micro_batches(
    data: Numbers, batch_size: int, seed: int, epoch: int, accumulation: int, processes: int
) -> None:
    def epoch_of(rank: int) -> list[Batch]:
        return list(
            training_batches(
                data, batch_size=batch_size, seed=seed, epoch=epoch, accumulation=accumulation, processes=processes, rank=rank
            )
        )

    per_rank = [epoch_of(rank) for rank in range(processes)]
    assert {len(batches) for batches in per_rank} == {accumulation * steps_per_epoch(len(data), batch_size)}
    steps = steps_of(per_rank)
    plan = plan_epoch(len(data), batch_size=batch_size, seed=seed, epoch=epoch, lengths=data.lengths)
    # The same examples make the same steps as on one process without micro-batches.
    assert [sorted(index for batch in step for index, _ in counted(batch)) for step in steps] == [sorted(step) for step in plan]
    assert Counter(index for step in plan for index in step) == dict.fromkeys(range(len(data)), 1)
    for step in steps:
        assert math.isclose(sum(weight for batch in step for _, weight in counted(batch)), 1.0, rel_tol=1e-5)
    for batches in per_rank:
        for batch in batches:
            assert len(batch.index) >= 1  # every process takes part in every micro-batch
            assert batch.inputs["epoch"].tolist() == [epoch] * len(batch.index)
            assert batch.targets.tolist() == data.targets[batch.index.numpy()].tolist()


@given(samples(), BATCH_SIZES, SEEDS, EPOCHS, st.integers(1, 3), st.data())
@tried(25)
def test_an_epoch_that_starts_in_the_middle_is_the_rest_of_the_whole_one(
    data: Numbers, batch_size: int, seed: int, epoch: int, accumulation: int, draw: st.DataObject
) -> None:
    def batches(start: int) -> list[list[tuple[int, float]]]:
        made = training_batches(data, batch_size=batch_size, seed=seed, epoch=epoch, start=start, accumulation=accumulation)
        return [list(counted(batch)) for batch in made]

    start = draw.draw(st.integers(0, steps_per_epoch(len(data), batch_size)))
    assert batches(start) == batches(0)[start * accumulation :]


@given(st.integers(1, 3_000), st.integers(1, 64), SEEDS, EPOCHS, st.booleans())
@tried(60)
def test_steps_are_as_large_as_the_recipe_says_and_none_has_a_single_example(
    size: int, batch_size: int, seed: int, epoch: int, grouped: bool
) -> None:
    lengths = [(i * 7919) % 50 for i in range(size)] if grouped else None
    sizes = sorted(len(step) for step in plan_epoch(size, batch_size=batch_size, seed=seed, epoch=epoch, lengths=lengths))
    assert sum(sizes) == size and len(sizes) == steps_per_epoch(size, batch_size)
    odd = [length for length in sizes if length != batch_size]
    assert len(odd) <= 1 and sizes[-1] <= batch_size + 1
    assert batch_size == 1 or size == 1 or sizes[0] > 1


@given(samples(), BATCH_SIZES, st.integers(1, 5))
@tried(50)
def test_an_evaluation_sees_each_example_once_on_any_number_of_processes(data: Numbers, batch_size: int, processes: int) -> None:
    per_rank = [list(evaluation_batches(data, batch_size=batch_size, processes=processes, rank=rank)) for rank in range(processes)]
    assert len({len(batches) for batches in per_rank}) == 1
    seen = Counter(index for batches in per_rank for batch in batches for index, _ in counted(batch))
    assert seen == dict.fromkeys(range(len(data)), 1)
    assert {weight for batches in per_rank for batch in batches for weight in batch.weight.tolist()} <= {0.0, 1.0}
    if data.lengths is not None and processes == 1:
        lengths = [data.lengths[index] for batch in per_rank[0] for index, _ in counted(batch)]
        assert lengths == sorted(lengths, reverse=True)


# --- metrics ------------------------------------------------------------------------------------------------------------------


@st.composite
def predictions(draw: st.DrawFn) -> tuple[Predictions, tuple[str, ...]]:
    """Of few and many classes, some of them absent; hopeless, good and sure models; equal probabilities."""
    classes, size = draw(st.integers(2, 5)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.integers(1, classes)), size)
    logits = rng.normal(size=(size, classes)) * draw(st.sampled_from([0.1, 1.0, 30.0]))
    logits[np.arange(size), labels] += draw(st.sampled_from([-2.0, 0.0, 1.0, 8.0]))
    if draw(st.booleans()):
        logits = np.round(logits)  # ties
    sizes = rng.integers(0, 9, size)
    made = Predictions([f"test/{i}" for i in range(size)], labels, logits.astype(np.float32), sizes=sizes, size_unit="tokens")
    return made, tuple("abcde"[:classes])


def taken(whole: Predictions, rows: Any) -> Predictions:
    assert whole.sizes is not None
    ids = [f"{whole.ids[row]} {place}" if len(rows) > len(whole) else whole.ids[row] for place, row in enumerate(rows)]
    return Predictions(ids, whole.labels[rows], whole.logits[rows], sizes=whole.sizes[rows], size_unit="tokens")


def close(found: Any, expected: Any) -> bool:
    """Equal, and floats up to rounding."""
    if isinstance(expected, dict):
        return set(found) == set(expected) and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    return bool(found == expected)


@given(predictions(), st.randoms(use_true_random=False))
@tried(12)
def test_the_order_of_the_examples_changes_no_metric(made: tuple[Predictions, tuple[str, ...]], random: Any) -> None:
    whole, names = made
    rows = list(range(len(whole)))
    random.shuffle(rows)
    before, after = compute_metrics(whole, names), compute_metrics(taken(whole, np.array(rows)), names)
    # Of equally confident errors the first of the split are shown, and which are first is what was changed.
    shown = [[error["confidence"] for error in values["errors"].pop("most_confident")] for values in (before, after)]
    assert close(shown[1], shown[0])
    # The draws that the range by chance comes from meet the examples in another order.
    by_chance = [values.pop("expected_calibration_error_by_chance") for values in (before, after)]
    assert np.allclose(by_chance[0], by_chance[1], atol=0.1)
    assert close(after, before)


@given(predictions(), st.integers(2, 4))
@tried(12)
def test_a_split_written_twice_has_the_same_metrics(made: tuple[Predictions, tuple[str, ...]], times: int) -> None:
    whole, _ = made
    assert close(quick_metrics(taken(whole, np.tile(np.arange(len(whole)), times))), quick_metrics(whole))


@given(predictions())
@tried(12)
def test_every_interval_holds_its_estimate(made: tuple[Predictions, tuple[str, ...]]) -> None:
    values = compute_metrics(*made)
    rows = [values, *values["per_class"], *values["by_size"]]
    found = [(row[name.removesuffix("_interval")], row[name], name) for row in rows for name in row if name.endswith("_interval")]
    assert len(found) >= 6
    for estimate, interval, name in found:
        assert interval is None or interval[0] <= estimate <= interval[1], name


@pytest.mark.filterwarnings("ignore:A single label was found")  # scikit-learn's, where all is one class
@given(predictions())
@tried(25)
def test_metrics_are_scikit_learns(made: tuple[Predictions, tuple[str, ...]]) -> None:
    whole, names = made
    values = quick_metrics(whole)
    y, z, p = whole.labels, whole.predicted, whole.probabilities
    present = sorted(set(y.tolist()))
    assert math.isclose(values["accuracy"], reference.accuracy_score(y, z))
    f1 = reference.f1_score(y, z, labels=present, average="macro", zero_division=0.0)
    assert math.isclose(values["macro_f1"], f1, abs_tol=1e-12)
    assert math.isclose(values["mcc"], reference.matthews_corrcoef(y, z), abs_tol=1e-12)
    if p.min() > 1e-14:  # scikit-learn clips smaller ones
        assert math.isclose(values["log_loss"], reference.log_loss(y, p, labels=range(len(names))), rel_tol=1e-9, abs_tol=1e-12)
    assert ("auc" in values) == (len(present) == len(names))
    if "auc" in values:
        of_each = [reference.roc_auc_score(y == k, p[:, k]) for k in ([1] if len(names) == 2 else present)]
        assert math.isclose(values["auc"], float(np.mean(of_each)), abs_tol=1e-12)


@given(predictions(), st.lists(st.text(min_size=1), min_size=5, max_size=5, unique=True))
@tried(8)
def test_predictions_survive_their_file(tmp_path: Path, made: tuple[Predictions, tuple[str, ...]], names: list[str]) -> None:
    whole, _ = made
    names = names[: whole.logits.shape[1]]
    whole.save(tmp_path / "test.parquet", names)
    again = Predictions.load(tmp_path / "test.parquet")
    assert again.ids == whole.ids and again.labels.tolist() == whole.labels.tolist() and again.size_unit == "tokens"
    assert np.array_equal(again.logits, whole.logits)
    assert quick_metrics(again) == quick_metrics(whole)
