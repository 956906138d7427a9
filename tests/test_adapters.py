"""Adapters: which modules have them, what a stage trains and leaves alone, and that what it gives back needs nothing of peft."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from peft import PeftModel
from safetensors.torch import load_file
from sittings import assert_same_run, signal_at
from small import BERT_NANO, nano, noisy_pictures, reviews, train
from small_models import TRANSFORMERS, small_model
from torch import nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, AutoTokenizer

from hftl.errors import RecipeError, RunError
from hftl.files import read_json
from hftl.models import transformer
from hftl.models.adapters import Adapters, NoAdapters, find_places, frozen_tensors, insert, merged_tensors
from hftl.models.chain import Chain, LayerGroup
from hftl.models.recompute import recompute_layers
from hftl.recipe import Lora, Recipe, RunSettings, Stage, TextData, Timm, Transformer, override
from hftl.run import RunDirectory
from hftl.samples import MOBILENET
from hftl.sharing.adapter import export_adapter
from hftl.sharing.card import write_card
from hftl.sharing.verify import verify
from hftl.signals import Stopped
from hftl.studies.arms import arms_of
from hftl.training import engine
from hftl.training.checks import check_pieces
from hftl.training.costs import kept_bytes
from hftl.training.experiment import prepare_experiment
from hftl.training.planning import build_plan, make_plan
from hftl.training.resolved import ResolvedStage, resolve_stages
from hftl.training.stage import freeze, train_mode


class Tiny(nn.Module):
    """A stem, two layers, of which the second has what can have no adapter, and a head; pictures of 3 channels, 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.shift = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Parameter(torch.zeros(4, 1, 1))
        self.first = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.second = nn.ModuleDict(
            {
                "grouped": nn.Conv2d(4, 4, 1, groups=2),
                "dilated": nn.Conv2d(4, 4, 3, padding=2, dilation=2),
                "linear": nn.Linear(4, 4),
            }
        )
        self.idle = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        entered = self.second["dilated"](self.second["grouped"](self.first(self.norm(self.stem(pixels)) + self.shift))).mean((2, 3))
        used = nn.functional.linear(entered, self.idle.weight)  # its weight is used, and the module is not called
        logits: torch.Tensor = self.head(self.second["linear"](used))
        return logits


def tiny() -> tuple[Tiny, Chain]:
    torch.manual_seed(0)
    model = Tiny()
    prefixes = {"stem": ("stem", "norm", "shift"), "first": ("first",), "second": ("second", "idle"), "head": ("head",)}
    groups = [LayerGroup(name, of_group) for name, of_group in prefixes.items()]
    return model, Chain(model, groups)


PIXELS = torch.linspace(-1, 1, 5 * 3 * 4 * 4).reshape(5, 3, 4, 4)


def places(groups: tuple[str, ...], lora: Lora, *, named: bool = False) -> Mapping[str, tuple[str, ...]]:
    model, chain = tiny()
    return find_places(model, chain, groups, lora, named=named, run=lambda: model(PIXELS))


# --- where adapters are ---------------------------------------------------------------------------------------------------------


def test_linear_layers_and_convolutions_that_are_called_have_adapters_and_no_other_module() -> None:
    every = ("stem", "first", "second", "head")
    assert places(every, Lora()) == {"stem": ("stem",), "first": ("first.0",), "second": ("second.linear",)}
    assert places(("second", "head"), Lora()) == {"second": ("second.linear",)}


def test_targets_are_the_ends_of_names_and_groups_without_one_have_none() -> None:
    assert places(("stem", "first", "second", "head"), Lora(targets=("0", "second.linear"))) == {
        "first": ("first.0",),
        "second": ("second.linear",),
    }


@pytest.mark.parametrize(
    ("groups", "lora", "what"),
    [
        (("head",), Lora(), "the stage trains the head alone, and adapters are of the layers below it"),
        (("first", "head"), Lora(targets=("linea",)), 'nothing that could have an adapter is called "linea" there'),
        (("second", "head"), Lora(targets=("linea",)), 'called "linea" there. Did you mean "linear"?'),
        (("first", "second", "head"), Lora(targets=("linear",)), "targets: linear leave first without an adapter"),
    ],
)
def test_what_can_have_no_adapter_is_refused_in_a_sentence(groups: tuple[str, ...], lora: Lora, what: str) -> None:
    with pytest.raises(NoAdapters, match=what.replace("?", r"\?")) as caught:
        places(groups, lora, named=True)
    assert caught.value.help


def test_without_peft_adapters_are_refused_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NoAdapters, match="adapters are peft's, which is not installed") as caught:
        places(("first", "head"), Lora())
    assert caught.value.help == 'pip install "hftl[lora]"'


# --- a copy with adapters -------------------------------------------------------------------------------------------------------


def with_adapters(**options: Any) -> tuple[Tiny, Chain, Adapters]:
    model, chain = tiny()
    lora = Lora(**options)
    adapters = Adapters(lora, find_places(model, chain, chain.names, lora, named=False, run=lambda: model(PIXELS)), seed=7)
    return model, insert(model, chain, adapters), adapters


def test_the_copys_chain_has_what_trains_under_the_layers_name_and_what_is_frozen_before_it() -> None:
    model, chain, adapters = with_adapters(r=2)
    assert chain.names == ("stem base", "stem", "first base", "first", "second base", "second", "head")
    assert chain.parameters["first"] == ("first.0.lora_A.default.weight", "first.0.lora_B.default.weight")
    assert chain.parameters["first base"] == (
        "first.0.base_layer.weight",
        "first.0.base_layer.bias",
        "first.1.weight",
        "first.1.bias",
    )
    assert adapters.words == "LoRA r=2 on 3 modules"
    assert model(PIXELS).shape == (5, 2)


def test_at_first_adapters_change_nothing_and_the_seed_alone_says_what_they_are() -> None:
    plain, _ = tiny()
    (one, _, _), (other, _, _) = with_adapters(), with_adapters()
    torch.manual_seed(123)
    assert torch.equal(one.eval()(PIXELS), plain.eval()(PIXELS))
    ours, theirs = one.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_under_adapters_dropout_is_on_and_statistics_stay() -> None:
    model, chain, _ = with_adapters()
    freeze(model, chain, ("first", "second", "head"))
    train_mode(model, chain, ("first", "second", "head"))
    assert model.first[2].training and not model.first[1].training
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(PIXELS).sum().backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {*chain.parameters["first"], *chain.parameters["second"], "head.weight", "head.bias"}


def test_what_is_merged_is_worked_out_by_hand_and_answers_as_before() -> None:
    model, _, _ = with_adapters(r=2, alpha=6)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = merged_tensors(model, model.state_dict())
    a, b = (frozen[f"second.linear.lora_{part}.default.weight"] for part in "AB")
    torch.testing.assert_close(merged["second.linear.weight"], frozen["second.linear.base_layer.weight"] + 3 * b @ a)
    plain, _ = tiny()
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain.eval()(PIXELS), model.eval()(PIXELS), rtol=0, atol=1e-5)
    assert all(torch.equal(frozen[name], tensor) for name, tensor in model.state_dict().items())  # nothing was added in place
    below, first = frozen_tensors(model.state_dict()), tiny()[0].state_dict()
    assert below.keys() == first.keys() and all(torch.equal(below[name], first[name]) for name in first)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_architecture_answers_the_same_merged_as_with_adapters(name: str) -> None:
    plain = small_model(TRANSFORMERS[name])
    chain, ids = transformer.chain(plain), torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    lora = Lora(r=2)
    found = find_places(plain, chain, chain.names, lora, named=False, run=lambda: plain(**inputs))
    assert {group for group in chain.names if group.startswith("layer.")} <= set(found)
    model = small_model(TRANSFORMERS[name])
    model.load_state_dict(plain.state_dict())
    insert(model, chain, Adapters(lora, found, seed=0))
    torch.manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(parameter, std=0.1)
    answered = model(**inputs).logits
    assert not torch.allclose(answered, plain(**inputs).logits, atol=1e-4)
    plain.load_state_dict(merged_tensors(model, model.state_dict()))
    torch.testing.assert_close(plain(**inputs).logits, answered, rtol=0, atol=1e-5)


def test_layers_with_adapters_compute_their_inside_again_to_the_same_gradients() -> None:
    plain = small_model(TRANSFORMERS["bert"])
    chain, ids = transformer.chain(plain), torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3]])
    inputs, trains = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ("layer.1", "layer.2", "head")
    adapters = Adapters(Lora(r=2), {f"layer.{n}": (f"bert.encoder.layer.{n}.output.dense",) for n in (1, 2)}, seed=0)
    gradients, kept = [], []
    for recompute in (False, True):
        model = copy.deepcopy(plain)
        of_copy = insert(model, chain, adapters)
        kept.append(kept_bytes(model, of_copy, trains, inputs, recompute=recompute))
        freeze(model, of_copy, trains)
        if recompute:
            recompute_layers(model, chain)
        train_mode(model, of_copy, trains)
        torch.manual_seed(3)
        model(**inputs).logits[:, 0].sum().backward()
        gradients.append({name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None})
    assert kept[1] < 0.7 * kept[0]
    assert gradients[0].keys() == gradients[1].keys() == {name for group in trains for name in of_copy.parameters[group]}
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


# --- what a stage with adapters is ----------------------------------------------------------------------------------------------


def resolved(**options: Any) -> tuple[ResolvedStage, Tiny, Chain]:
    model, chain = tiny()
    recipe = Recipe(
        name="x",
        data=TextData(source="x"),
        model=Transformer(checkpoint="x"),
        stages={"all": Stage(**{"lr": 1e-2, **options})},
        run=RunSettings(batch_size=10),
    )
    (stage,) = resolve_stages(recipe, model, chain, train_examples=100, run=lambda: model(PIXELS))
    return stage, model, chain


def test_an_adapter_has_the_rate_of_its_layer_and_a_layer_without_one_is_frozen() -> None:
    stage, _, _ = resolved(lora=Lora(r=2, targets=("first.0", "stem")), layer_decay=0.5, head_lr_multiplier=3)
    assert stage.trains == ("stem", "first", "head")
    assert stage.rates == {"stem": 1.25e-3, "first": 2.5e-3, "head": 3e-2}
    assert [(group.name, group.lr, len(group.parameters)) for group in stage.param_groups] == [
        ("stem", 1.25e-3, 2),
        ("first", 2.5e-3, 2),
        ("head", 3e-2, 1),
        ("head", 3e-2, 1),
    ]


def test_the_plan_counts_what_adapters_train_keep_and_compute() -> None:
    stage, model, chain = resolved(lora=Lora(r=2), average="ema")
    forward = {"stem": 1000, "first": 100, "second": 100, "head": 10}
    plan = build_plan(
        [stage],
        model,
        chain,
        train_examples=100,
        forward=forward,
        adapters_of={"all": {"stem": 20, "first": 4, "second": 1}},
        flops_per_second=None,
    )
    (column,) = plan.stages
    # Stem: A 2 x 3 x 3 x 3, B 4 x 2. First: A 2 x 4, B 4 x 2. Second: the same. Head: 4 x 2 + 2.
    trains = (54 + 8) + (8 + 8) + (8 + 8) + 10
    assert (column.lora, column.trainable_parameters) == ("LoRA r=2 on 3 modules", trains)
    assert column.trainable_share == trains / plan.parameters
    assert column.optimizer_bytes == 4 * 2 * trains and column.average_bytes == 4 * trains
    # Forward 1210 + 25; backward, without gradients of frozen weights, 1000 + 100 + 100 + 2 * 10 and 2 * 25.
    assert column.flops == 100 * (1210 + 25 + 1220 + 50)


def test_a_number_is_the_rank_and_dotted_keys_change_an_option() -> None:
    plain = nano("x", reviews(8), {"all": Stage(lr=1e-3)})
    assert override(plain, ["stages.all.lora=4"]).stages["all"].lora == Lora(r=4)
    assert override(plain, ["stages.all.lora.dropout=0.1"]).stages["all"].lora == Lora(dropout=0.1)
    assert Stage(lr=1e-3, lora=2).lora == Lora(r=2)
    changed = override(plain, ["stages.all.lora={r: 2, targets: query}"])
    assert changed.stages["all"].lora == Lora(r=2, targets=("query",))
    assert override(changed, ["stages.all.lora.r=3"]).stages["all"].lora == Lora(r=3, targets=("query",))
    assert override(changed, ["stages.all.lora=null"]) == plain


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (["stages.all.lora=0"], "lora.r"),
        (["stages.all.lora=-1"], "lora.r"),
        (["stages.all.lora.r=2", "run.compile=true"], "layers with adapters are not compiled; leave run.compile out"),
        (["stages.all.lora.alpha=0"], "lora.alpha"),
        (["stages.all.lora.rank=2"], "lora.rank"),
    ],
)
def test_adapters_that_cannot_be_are_refused_with_the_recipe(changes: list[str], what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        override(nano("x", reviews(8), {"all": Stage(lr=1e-3)}), changes)


def test_the_arms_of_an_ablation_that_train_no_pretrained_layer_have_no_adapters() -> None:
    recipe = nano("x", reviews(8), {"all": Stage(lr=1e-3, epochs=2, lora=4)})
    wide = "wide=stages.all.lora.r=8,stages.all.lora.targets=[query,value],stages.all.lr=1e-2"
    arms = arms_of(recipe, ["staged", "head", "scratch", wide])
    assert {name: next(iter(arm.stages.values())).lora for name, arm in arms.items()} == {
        "staged": Lora(r=4),
        "head": None,
        "scratch": None,
        "wide": Lora(r=8, targets=("query", "value")),
    }


def test_networks_without_pretrained_layers_have_no_adapters() -> None:
    words = nano("x", reviews(8), {"all": Stage(lr=1e-3)})
    with pytest.raises(RecipeError, match=r'model\.family "textcnn" has none; leave them out, or take a transformer'):
        override(words, ["model.family=textcnn", "model.vectors=x", "stages.all.lora=2"])


def test_a_model_in_pieces_has_no_adapters() -> None:
    stage, _, _ = resolved(lora=Lora(r=2))
    pieces: Any = SimpleNamespace(is_fsdp2=True)
    with pytest.raises(RecipeError, match=r"stages\.all\.lora: no adapters are trained of a model that FSDP keeps in pieces"):
        check_pieces([stage], pieces)


# --- runs -----------------------------------------------------------------------------------------------------------------------


def adapted(*changes: str) -> Recipe:
    """24 examples / 8 a step = 3 steps an epoch: 3, 6 and 3 of the head, adapters of two layers, and one of these whole."""
    stages = {
        "head": Stage(unfreeze="head", lr=1e-3),
        "lora": Stage(unfreeze="last 3", lr=1e-2, epochs=2, layer_decay=0.5, lora=Lora(r=2, dropout=0.1), average="ema"),
        "full": Stage(unfreeze="last 2", lr=1e-4),
    }
    data = reviews(24, 12, 10, max_length=16)
    return override(nano("adapted", data, stages, log_every=1, keep="last", batch_size=8), changes)


PARTS = (
    *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    *("intermediate.dense", "output.dense"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(adapted(), tmp_path_factory.mktemp("adapters") / "run")


def test_random_weights_have_no_adapters_beside_them() -> None:
    recipe = override(adapted().model_copy(update={"stages": {"lora": adapted().stages["lora"]}}), ["model.pretrained=false"])
    with pytest.raises(RecipeError, match=r"stages\.lora\.lora: adapters go beside weights that are random"):
        make_plan(prepare_experiment(recipe))


def test_the_weights_under_adapters_keep_their_bytes_and_the_next_stage_begins_with_the_merged_ones(run: RunDirectory) -> None:
    head, lora, full = read_json(run.freeze_proof)["stages"]
    assert head["ok"] and lora["ok"] and full["ok"]
    of = {group["name"]: group for group in lora["groups"]}
    assert [name for name, group in of.items() if group["trains"]] == ["layer.2", "layer.3", "head"]
    for name in ("layer.2", "layer.3"):
        assert of[name]["under_adapters"] == of[name]["before"] != of[name]["after"]
    assert [name for name, group in of.items() if "under_adapters" in group] == ["layer.2", "layer.3"]
    frozen = [place for place, group in enumerate(full["groups"]) if not group["trains"]]
    for place in frozen[:-1]:  # layer.2 is given back as the mean over the steps, and hashed as it was trained
        assert full["groups"][place]["before"] == lora["groups"][place]["after"]


def test_a_run_that_is_stopped_between_adapters_steps_continues_bit_for_bit(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signal_at(monkeypatch, step=8), pytest.raises(Stopped):  # 3 of the head, and 5 of adapters and their mean
        train(adapted(), tmp_path / "run")
    assert_same_run(run, train(adapted(), tmp_path / "run", resume=True))


def test_plan_card_and_verify_know_what_was_adapted(run: RunDirectory) -> None:
    words = "LoRA r=2 on 12 modules"
    assert [stage["lora"] for stage in read_json(run.plan)["stages"]] == [None, words, None]
    assert [stage["cached_up_to"] for stage in read_json(run.plan)["stages"]] == ["head", "layer.2", "layer.3"]
    assert read_json(run.environment)["cached"]["lora"] == {"train": "stored", "validation": "stored"}
    assert f"| *adapters* |  | none | {words} | none |" in write_card(run).read_text(encoding="utf-8")
    assert not verify(run).failed


def noting(monkeypatch: pytest.MonkeyPatch, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The logits of a stage's copy at the end of each epoch, its adapters in it."""
    seen: list[torch.Tensor] = []
    end_epoch = engine._end_epoch

    def noted(working: Any, *arguments: Any) -> Any:
        ended = end_epoch(working, *arguments)
        with torch.no_grad():
            seen.append(working.bare.eval()(**inputs).logits)
        return ended

    monkeypatch.setattr(engine, "_end_epoch", noted)
    return seen


# peft 0.21 asks transformers for it by its old name.
PEFTS_NOISE = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@PEFTS_NOISE
def test_a_model_that_was_adapted_answers_the_same_merged_reloaded_and_as_an_adapter_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By transformers, and by transformers and peft, without hftl: the head is there each time."""
    inputs = AutoTokenizer.from_pretrained(BERT_NANO)(["a good film", "so bad that it hurts"], padding=True, return_tensors="pt")
    seen = noting(monkeypatch, inputs)
    stage = adapted().stages["lora"].model_copy(update={"epochs": 1, "average": None})
    run = train(adapted().model_copy(update={"stages": {"lora": stage}}), tmp_path / "run")
    loaded = AutoModelForSequenceClassification.from_pretrained(run.model)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, seen[0], rtol=0, atol=1e-5)
    delivered, read = (load_file(Path(place) / "model.safetensors") for place in (run.model, BERT_NANO))
    read = {name: tensor.float() for name, tensor in read.items()}
    assert not any("lora" in name or "base_layer" in name for name in delivered)
    changed = [name for name in read if ".layer." in name and not torch.equal(delivered[name], read[name])]
    assert sorted(changed) == sorted(f"bert.encoder.layer.{layer}.{part}.weight" for layer in (2, 3) for part in PARTS)
    for name in changed:
        values = torch.linalg.svdvals((delivered[name] - read[name]).double())
        assert values[1] > 1e-6 and values[2] < 1e-3 * values[1]

    done = export_adapter(run, run.path / "adapter")
    assert (done.r, done.modules, done.base_model) == (2, 12, None)
    assert sorted(path.name for path in done.folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert BERT_NANO not in (done.folder / "adapter_config.json").read_text()
    base = AutoModelForSequenceClassification.from_pretrained(BERT_NANO, num_labels=2, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(PeftModel.from_pretrained(base, done.folder).eval()(**inputs).logits, seen[0], rtol=0, atol=1e-5)
    with pytest.raises(RunError, match="nothing is written over"):
        export_adapter(run, done.folder)


def test_layers_that_were_trained_themselves_are_no_adapter(run: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"was trained itself(?s:.*); push the whole model"):
        export_adapter(run, run.path / "adapter")
    assert not (run.path / "adapter").exists()


@PEFTS_NOISE
def test_a_network_of_timm_is_adapted_beside_its_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)}
    seen = noting(monkeypatch, pixels)
    recipe = noisy_pictures(tmp_path / "data", "data.augmentation=none", "run.gradient_accumulation=1")
    stages = {"lora": Stage(lr=1e-2, unfreeze="last 3", lora=Lora(r=2))}
    recipe = recipe.model_copy(update={"model": Timm(checkpoint=MOBILENET), "stages": stages})
    run = train(recipe, tmp_path / "run")
    (stage,) = read_json(run.freeze_proof)["stages"]
    assert stage["ok"] and [group["before"]["buffers"] for group in stage["groups"]] == [
        group["after"]["buffers"] for group in stage["groups"]
    ]
    with torch.no_grad():
        loaded = timm.create_model(f"local-dir:{run.model}", pretrained=True).eval()
        torch.testing.assert_close(loaded(pixels["pixel_values"]), seen[0], rtol=0, atol=1e-5)
        done = export_adapter(run, tmp_path / "adapter")
        options = {"num_labels": 2, "ignore_mismatched_sizes": True, "dtype": torch.float32}
        base = AutoModelForImageClassification.from_pretrained(MOBILENET, **options)
        model = PeftModel.from_pretrained(base, done.folder).eval()
        torch.testing.assert_close(model(**pixels).logits, seen[0], rtol=0, atol=1e-5)
