from __future__ import annotations

from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from hftl.errors import RecipeError
from hftl.models.chain import Chain, LayerGroup
from hftl.recipe import Recipe, RunSettings, Stage, TextData, Transformer
from hftl.training.costs import forward_flops, step_flops
from hftl.training.plan import Plan, plan_footer, plan_table
from hftl.training.planning import CachedPrefix, build_plan
from hftl.training.resolved import resolve_stages


class Tiny(nn.Module):
    """An embedding of 7 x 4 = 28 numbers, a layer of 4 x 4 + 4 = 20, a head of 4 x 3 + 3 = 15."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(7, 4)
        self.layer = nn.ModuleList([nn.Linear(4, 4)])  # a list is never called itself, only what is in it
        self.head = nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layer[0](self.embeddings(ids)))
        return logits


MODEL = Tiny()
CHAIN = Chain(MODEL, [LayerGroup("embeddings", ("embeddings",)), LayerGroup("layer.0", ("layer",)), LayerGroup("head", ("head",))])


def recipe(**stages: Any) -> Recipe:
    given = {name: Stage(**{"lr": 1e-3, **values}) for name, values in stages.items()}
    return Recipe(
        name="x", data=TextData(source="x"), model=Transformer(checkpoint="x"), stages=given, run=RunSettings(batch_size=32)
    )


def plan_of(recipe: Recipe, **values: Any) -> Plan:
    """Its plan with 100 training examples."""
    stages = resolve_stages(recipe, MODEL, CHAIN, train_examples=100, run=lambda: MODEL(torch.arange(5)))
    return build_plan(stages, MODEL, CHAIN, train_examples=100, **{"flops_per_second": None, **values})


def test_operations_are_counted_group_by_group() -> None:
    counts = forward_flops(MODEL, CHAIN, {"ids": torch.arange(5)})
    # A linear layer costs 2 operations a weight and token: 2 * 16 * 5 tokens and 2 * 12 * 5; looking up an embedding costs none.
    assert counts == {"embeddings": 0, "layer.0": 160, "head": 120}
    assert not MODEL.embeddings._forward_hooks and MODEL.training


def test_a_step_goes_back_only_to_the_lowest_training_group() -> None:
    forward = {"a": 10, "b": 10, "c": 10}
    assert step_flops(forward, ("c",)) == 30 + 20
    assert step_flops(forward, ("b", "c")) == 30 + 40
    assert step_flops(forward, ("a", "c")) == 30 + 20 + 10 + 20
    assert step_flops(forward, ("a", "b", "c")) == 90


def test_the_plan_of_two_stages_is_worked_out_by_hand() -> None:
    two = recipe(head={"unfreeze": "head", "epochs": 2}, all={"layer_decay": 0.5, "optimizer": "sgd", "batch_size": 10})
    forward = {"embeddings": 0, "layer.0": 160, "head": 120}
    plan = plan_of(two, forward=forward, flops_per_second=1000.0)
    head, everything = plan.stages
    assert (plan.parameters, head.trainable_parameters, everything.trainable_parameters) == (63, 15, 63)
    assert head.trainable_share == pytest.approx(15 / 63)
    assert (head.steps, everything.steps) == (2 * 4, 10)  # 100 / 32 = 4 steps an epoch; 100 / 10 = 10
    assert (head.optimizer_bytes, everything.optimizer_bytes) == (4 * 2 * 15, 4 * 63)  # AdamW keeps two numbers, SGD one
    assert [group.lr for group in head.groups] == [None, None, 1e-3]
    assert [group.lr for group in everything.groups] == [2.5e-4, 5e-4, 1e-3]
    assert head.flops == 200 * (280 + 240) and everything.flops == 100 * 3 * 280
    assert head.cost_share == pytest.approx(520 / 840) and everything.cost_share == 1.0
    assert plan.at_least_minutes == pytest.approx((104_000 + 84_000) / 1000 / 60)


def test_a_stage_that_keeps_its_prefix_pays_for_it_once() -> None:
    two = recipe(head={"unfreeze": "head", "epochs": 5}, all={})
    forward = {"embeddings": 0, "layer.0": 160, "head": 120}
    cached = {"head": CachedPrefix("head", 5e6, num_views=2)}
    plan = plan_of(two, forward=forward, cached=cached, padding_share=0.042)
    head, everything = plan.stages
    # Two views of 100 pictures come to the head, at 160 each; 500 times the head goes forward (120) and back (240).
    assert head.flops == 200 * 160 + 500 * (120 + 240)
    assert (head.cached_up_to, head.cache_bytes, everything.cached_up_to, everything.cache_bytes) == ("head", 5e6, None, 0)
    assert "4.2 % of the tokens that are computed are padding" in plan_footer(plan)
    assert step_flops(forward, ("head",), start="head") == 120 + 240


def test_unknown_groups_of_all_stages_are_in_one_report() -> None:
    wrong = recipe(top={"unfreeze": ("layer.5", "head")}, all={"unfreeze": "last 9"})
    with pytest.raises(RecipeError) as caught:
        resolve_stages(wrong, MODEL, CHAIN, train_examples=100, run=lambda: MODEL(torch.arange(5)), source="recipes/x.py")
    message = str(caught.value)
    assert message.startswith("2 problems in recipes/x.py")
    assert 'stages.top.unfreeze: no layer group "layer.5". Did you mean "layer.0"?' in message
    assert "groups, input to output: embeddings, layer.0, head" in message
    assert 'stages.all.unfreeze: "last 9": write "last K" with K from 1 to 3' in message


def test_the_table_shows_every_group_and_stage() -> None:
    two = recipe(head={"unfreeze": "head"}, all={"lr": 3e-5})
    plan = plan_of(two, forward=dict.fromkeys(CHAIN.names, 1))
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(plan_table(plan))
    console.file.close()
    lines = {line.split()[0]: line.split()[1:] for line in console.export_text().splitlines() if line.strip()}
    assert lines["group"] == ["parameters", "1", "head", "2", "all"]
    assert lines["embeddings"] == ["28", "frozen", "3.0e-05"]
    assert lines["head"] == ["15", "1.0e-03", "3.0e-05"]
    assert lines["steps"] == ["8", "4", "4"]
