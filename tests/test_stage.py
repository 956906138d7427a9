from __future__ import annotations

import copy
import math
import typing
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator
from small_models import TRANSFORMERS, small_model
from torch import nn

from hftl.models import transformer
from hftl.models.chain import Chain, LayerGroup
from hftl.recipe import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    ConstantSchedule,
    CosineRestartsSchedule,
    CosineSchedule,
    ExponentialSchedule,
    InverseSqrtSchedule,
    Lamb,
    LinearSchedule,
    Lion,
    Muon,
    NAdam,
    OneCycleSchedule,
    Optimizer,
    PlateauSchedule,
    PolynomialSchedule,
    RAdam,
    RMSprop,
    Schedule,
    SlantedTriangularSchedule,
    Stage,
    StepSchedule,
    WSDSchedule,
)
from hftl.training.stage import (
    compile_layers,
    decayed_parameters,
    freeze,
    group_rates,
    layer_learning_rates,
    make_optimizer,
    make_schedule,
    optimizer_numbers,
    param_groups,
    shrink,
    slanted_triangular,
    train_mode,
)

NAMES = ("embeddings", "layer.0", "layer.1", "head")


class Tiny(nn.Module):
    """embeddings -> layer.0 -> layer.1 -> head, with what freezing has to handle: an embedding, BatchNorm, dropout, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(7, 4)
        self.layer = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)) for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embeddings(ids)
        for layer in self.layer:
            hidden = layer(hidden)
        logits: torch.Tensor = self.head(hidden)
        return logits


def tiny() -> tuple[Tiny, Chain]:
    torch.manual_seed(0)
    model = Tiny()
    return model, Chain(model, [LayerGroup(name, (name,)) for name in NAMES])


def stage(**values: Any) -> Stage:
    return Stage(**{"lr": 1e-3, **values})


def test_rates_fall_by_the_decay_from_the_head_down() -> None:
    assert layer_learning_rates(3, base_lr=1e-3, decay=0.5) == [2.5e-4, 5e-4, 1e-3]


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.01])
def test_a_decay_outside_zero_to_one_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="greater than 0 and at most 1"):
        layer_learning_rates(3, base_lr=1e-3, decay=decay)


def test_the_head_multiplier_changes_the_heads_rate_alone() -> None:
    plain = group_rates(NAMES, stage(layer_decay=0.5))
    multiplied = group_rates(NAMES, stage(layer_decay=0.5, head_lr_multiplier=10))
    assert plain == {"embeddings": 1.25e-4, "layer.0": 2.5e-4, "layer.1": 5e-4, "head": 1e-3}
    assert multiplied == {**plain, "head": 1e-2}


def test_unfreezing_a_group_keeps_the_other_learning_rates() -> None:
    model, chain = tiny()
    rates = []
    for unfreeze in ("last 2", "last 3", "all"):
        groups = param_groups(model, chain, stage(unfreeze=unfreeze, layer_decay=0.5, head_lr_multiplier=3))
        rates.append({group.name: group.lr for group in groups})
    assert rates[0] == {"layer.1": 5e-4, "head": 3e-3}
    assert rates[1] == {"layer.0": 2.5e-4, **rates[0]}
    assert rates[2] == {"embeddings": 1.25e-4, **rates[1]}


def test_weight_decay_is_off_for_biases_norms_and_embeddings() -> None:
    model, chain = tiny()
    assert decayed_parameters(model) == {"layer.0.0.weight", "layer.1.0.weight", "head.weight"}
    decays = {name: g.weight_decay for g in param_groups(model, chain, stage(weight_decay=0.1)) for name in g.parameters}
    assert {name for name, decay in decays.items() if decay == 0.1} == decayed_parameters(model)
    assert set(decays) == {name for name, _ in model.named_parameters()}


OPTIMIZERS: list[Optimizer] = [
    AdamW(),
    Adam(betas=(0.8, 0.99)),
    SGD(),
    SGD(momentum=0.0),
    SGD(nesterov=True),
    RMSprop(),
    RMSprop(momentum=0.0),
    NAdam(),
    RAdam(),
    Lion(),
    Lamb(),
    Adafactor(),
    Muon(),
]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)


def test_the_table_has_every_optimizer() -> None:
    assert {type(optimizer) for optimizer in OPTIMIZERS} == set(typing.get_args(Optimizer))


def take_steps(model: Tiny, optimizer: torch.optim.Optimizer, schedule: Any = None, *, steps: int) -> None:
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(torch.arange(6)), torch.tensor([0, 1, 2, 0, 1, 2]))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
        if schedule is not None:
            schedule.step()
        optimizer.zero_grad()


@each_optimizer
@pytest.mark.parametrize("unfreeze", ["head", "last 2", ("layer.0", "head")])
def test_frozen_groups_keep_every_weight_and_buffer_and_the_others_move(optimizer: Optimizer, unfreeze: Any) -> None:
    model, chain = tiny()
    trains = chain.select(unfreeze)
    freeze(model, chain, trains)
    train_mode(model, chain, trains)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_steps(model, make_optimizer(optimizer, model, param_groups(model, chain, stage(unfreeze=unfreeze)), lr=1e-3), steps=3)
    moved = {chain.group_of(name) for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(trains)


@each_optimizer
def test_a_group_with_half_the_rate_takes_half_the_step(optimizer: Optimizer) -> None:
    steps = []
    for decay in (1.0, 0.5):
        model, chain = tiny()
        model.double()  # a step of SGD is near what float32 rounds
        before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
        asked = stage(layer_decay=decay, head_lr_multiplier=3, weight_decay=0)
        take_steps(model.eval(), make_optimizer(optimizer, model, param_groups(model, chain, asked), lr=asked.lr), steps=1)
        steps.append({name: tensor.detach() - before[name] for name, tensor in model.named_parameters()})
    for name, share in {"embeddings": 0.125, "layer.0.0": 0.25, "layer.1.0": 0.5, "head": 1.0}.items():
        whole, part = (step[f"{name}.weight"] for step in steps)
        assert whole.abs().max() > 0
        torch.testing.assert_close(part, share * whole, rtol=1e-6, atol=0)


@each_optimizer
def test_weight_decay_alone_moves_matrices_and_nothing_else(optimizer: Optimizer) -> None:
    model, chain = tiny()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    steps = make_optimizer(optimizer, model, param_groups(model, chain, stage(weight_decay=0.1)), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    steps.step()
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == decayed_parameters(model)
    assert all(tensor.norm() < before[name].norm() for name, tensor in model.named_parameters() if name in moved)


@each_optimizer
def test_l1_takes_the_same_distance_off_matrices_and_stops_at_zero(optimizer: Optimizer) -> None:
    ends = []
    for l1 in (0.0, 20.0):  # of rates of 0.0025, 0.005 and 0.01
        model, chain = tiny()
        train_mode(model, chain, ())
        asked = stage(lr=1e-2, layer_decay=0.5, l1=l1)
        made = make_optimizer(optimizer, model, param_groups(model, chain, asked), lr=asked.lr)
        loss = nn.functional.cross_entropy(model(torch.arange(6)), torch.tensor([0, 1, 2, 0, 1, 2]))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        made.step()
        shrink(made)
        ends.append({name: tensor.detach().clone() for name, tensor in model.named_parameters()})
    plain, shrunk = ends
    for name, distance in {"layer.0.0.weight": 0.05, "layer.1.0.weight": 0.1, "head.weight": 0.2}.items():
        torch.testing.assert_close(shrunk[name], nn.functional.softshrink(plain[name], distance))
        assert (shrunk[name] == 0).any() and (shrunk[name] != 0).any()
    assert all(torch.equal(plain[name], shrunk[name]) for name in plain if name not in decayed_parameters(model))


def test_l1_is_worked_out_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[0.3, -0.1, 0.05, -0.25]]))
    shrink(torch.optim.SGD([{"params": [weight], "lr": 0.2, "l1": 0.5}]))
    torch.testing.assert_close(weight.detach(), torch.tensor([[0.2, 0.0, 0.0, -0.15]]))
    assert weight[0, 1] == 0 and weight[0, 2] == 0


def test_muon_makes_the_momentum_of_hidden_matrices_orthogonal_and_leaves_the_rest_to_adamw() -> None:
    steps = {}
    for optimizer in (Muon(betas=(0.9, 0.999)), AdamW()):
        model, chain = tiny()
        before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
        asked = stage(weight_decay=0)
        take_steps(model.eval(), make_optimizer(optimizer, model, param_groups(model, chain, asked), lr=asked.lr), steps=1)
        steps[type(optimizer)] = {name: tensor.detach() - before[name] for name, tensor in model.named_parameters()}
    ours, adams = steps[Muon], steps[AdamW]
    for name, step in ours.items():
        if name in {"layer.0.0.weight", "layer.1.0.weight"}:
            # The gradient of three classes has two singular values, which the iteration brings near to 1. Times 0.2 * sqrt(4).
            assert torch.linalg.svdvals(step / (1e-3 * 0.4))[:2].tolist() == pytest.approx([1, 1], abs=0.4)
        else:
            torch.testing.assert_close(step, adams[name], rtol=1e-2, atol=1e-5)


def test_every_optimizer_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True, step_scheduler_with_optimizer=False)

    def prepared() -> list[tuple[Tiny, torch.optim.Optimizer, Any]]:
        parts: list[Any] = []
        for optimizer in OPTIMIZERS:
            model, chain = tiny()
            train_mode(model, chain, ("head",))  # dropout is off: what is seen are the steps
            made = make_optimizer(optimizer, model, param_groups(model, chain, stage(layer_decay=0.5)), lr=1e-3)
            parts += [model, made, make_schedule(made, LinearSchedule(warmup=0.3), steps=8, steps_per_epoch=4)]
        accelerator.free_memory()
        parts = list(accelerator.prepare(*parts))
        return list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))

    def weights_after(runs: list[tuple[Tiny, torch.optim.Optimizer, Any]], *, steps: int) -> list[dict[str, torch.Tensor]]:
        for model, made, schedule in runs:
            take_steps(model, made, schedule, steps=steps)
        return [model.state_dict() for model, _, _ in runs]

    whole = weights_after(prepared(), steps=8)
    weights_after(prepared(), steps=4)
    accelerator.save_state(str(tmp_path))
    continued = prepared()
    accelerator.load_state(str(tmp_path))
    for optimizer, one, other in zip(OPTIMIZERS, whole, weights_after(continued, steps=4), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one), optimizer


@each_optimizer
def test_optimizer_memory_is_what_a_step_leaves_behind(optimizer: Optimizer) -> None:
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 5, 2), "head": nn.Linear(4, 3)})
    chain = Chain(model, [LayerGroup("conv", ("conv",)), LayerGroup("head", ("head",))])
    made = make_optimizer(optimizer, model, param_groups(model, chain, stage()), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    kept = [value for state in made.state.values() for value in state.values() if torch.is_tensor(value) and value.ndim]
    assert all(value.dtype == torch.float32 for value in kept)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    groups = param_groups(model, chain, stage())
    counted = sum(
        optimizer_numbers(optimizer, [shapes[name] for name in group.parameters], hidden=group.hidden) for group in groups
    )
    assert counted == sum(value.numel() for value in kept)


def test_optimizer_memory_is_counted_in_numbers_a_parameter() -> None:
    shape = [(3, 4)]
    counted = [optimizer_numbers(o, shape) for o in (AdamW(), Adam(), SGD(), RMSprop(), Lion(), Adafactor())]
    assert counted == [24, 24, 12, 24, 12, 7]
    assert optimizer_numbers(SGD(momentum=0), shape) == 0
    # Muon keeps one number of a hidden matrix, where both sides are 4 at least, and AdamW's two of all else.
    assert [optimizer_numbers(Muon(), [(4, 4)], hidden=hidden) for hidden in (True, False)] == [16, 32]
    assert optimizer_numbers(Muon(), [(3, 4)], hidden=True) == 24
    assert optimizer_numbers(Adafactor(), [(64, 3, 7, 7)]) == 2 * 64 * 3 * 7


def test_frozen_groups_have_dropout_off_and_training_ones_on() -> None:
    model, chain = tiny()
    train_mode(model, chain, ("layer.1", "head"))
    assert [model.get_submodule(f"layer.{i}.2").training for i in range(2)] == [False, True]
    train_mode(model, chain, chain.names)
    assert [model.get_submodule(f"layer.{i}.2").training for i in range(2)] == [True, True]


def test_frozen_parameters_have_no_gradient_and_later_stages_give_it_back() -> None:
    model, chain = tiny()
    freeze(model, chain, ("head",))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    freeze(model, chain, chain.names)
    assert all(p.requires_grad for p in model.parameters())


def rates_of(schedule: Schedule, steps: int) -> list[float]:
    """The head's rate at each step, over a base rate of 1."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD(
        [{"params": [parameter], "lr": 1.0}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5}], lr=1.0, momentum=0.9
    )
    scheduler = make_schedule(optimizer, schedule, steps=steps, steps_per_epoch=steps // 2)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.5 * rates[-1])  # ratios between groups stay
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules_follow_their_formulas() -> None:
    assert rates_of(ConstantSchedule(), 4) == [1, 1, 1, 1]
    assert rates_of(ConstantSchedule(warmup=0.5), 4) == [0, 0.5, 1, 1]
    assert rates_of(LinearSchedule(), 4) == [1, 0.75, 0.5, 0.25]
    assert rates_of(LinearSchedule(warmup=0.5), 4) == [0, 0.5, 1, 0.5]
    half = math.sqrt(0.5) / 2
    assert rates_of(CosineSchedule(), 4) == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half])
    assert rates_of(PolynomialSchedule(), 4) == pytest.approx([1, 0.5625, 0.25, 0.0625])  # the squares of 1, 0.75, 0.5 and 0.25
    assert rates_of(PolynomialSchedule(power=1, end=0.2, warmup=0.5), 4) == pytest.approx([0, 0.5, 1, 0.6])
    # Two cycles of four steps: each from 1 along a cosine.
    assert rates_of(CosineRestartsSchedule(), 8) == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half] * 2)
    assert rates_of(CosineRestartsSchedule(warmup=0.5), 8)[:5] == [0, 0.25, 0.5, 0.75, 1]
    # A warmup of two steps; then the root of 2 / 2, 2 / 3, 2 / 4, ...
    assert rates_of(InverseSqrtSchedule(warmup=0.25), 8) == pytest.approx([0, 0.5, *(math.sqrt(2 / step) for step in range(2, 8))])
    assert rates_of(InverseSqrtSchedule(warmup=0.01), 4) == pytest.approx([0, 1, math.sqrt(1 / 2), math.sqrt(1 / 3)])
    assert rates_of(WSDSchedule(warmup=0.2, decay=0.4), 10) == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert rates_of(WSDSchedule(warmup=0.6, decay=0.4), 5) == pytest.approx([0, 1 / 3, 2 / 3, 1, 0.5])
    assert rates_of(PlateauSchedule(warmup=0.5), 4) == [0, 0.5, 1, 1]
    assert rates_of(StepSchedule(gamma=0.1), 4) == pytest.approx([1, 1, 0.1, 0.1])
    assert rates_of(StepSchedule(gamma=0.5, every=2), 4) == [1, 1, 1, 1]
    assert rates_of(ExponentialSchedule(gamma=0.0625), 4) == pytest.approx([1, 0.5, 0.25, 0.125])


def test_a_plateau_lowers_every_groups_rate_after_its_patience_and_counts_as_torch_does() -> None:
    def made() -> tuple[torch.optim.Optimizer, Any]:
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.5)]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        return optimizer, make_schedule(optimizer, PlateauSchedule(factor=0.5, patience=2, warmup=0.1), steps=20, steps_per_epoch=2)

    def epoch(optimizer: torch.optim.Optimizer, schedule: Any, value: float) -> list[float]:
        rates = []
        for _ in range(2):
            rates.append(optimizer.param_groups[0]["lr"])
            assert optimizer.param_groups[1]["lr"] == 0.5 * rates[-1]
            optimizer.step()
            schedule.step()
        schedule.after_epoch(value)
        return rates

    values = [0.7, 0.8, 0.8, 0.75, 0.79, 0.9, 0.9, 0.9]  # a tie is no better
    optimizer, schedule = made()
    rates = [epoch(optimizer, schedule, value) for value in values]
    # A warmup of two steps. Two epochs after the best, the second, the rate is halved; and two after the sixth.
    assert rates == [[0, 0.5], [1, 1], [1, 1], [1, 1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    assert optimizer.param_groups[0]["lr"] == 0.25
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rule = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, mode="max", factor=0.5, patience=1, threshold=0)
    lowered = []
    for value in values:
        rule.step(value)
        lowered.append(theirs.param_groups[0]["lr"])
    assert lowered == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]

    half_way, before = made()
    for value in values[:3]:
        epoch(half_way, before, value)
    continued, after = made()
    continued.load_state_dict(half_way.state_dict())
    after.load_state_dict(before.state_dict())
    assert [epoch(continued, after, value) for value in values[3:]] == rates[3:]


def test_one_cycle_rises_to_the_rate_at_three_tenths_and_falls_to_almost_nothing() -> None:
    rates = rates_of(OneCycleSchedule(), 100)
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == pytest.approx(1.0, abs=1e-3) and rates.index(max(rates)) in range(27, 33)
    assert rates[-1] < 0.01


def test_one_cycle_leaves_the_momentum_of_the_recipe_alone() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.5)
    make_schedule(optimizer, OneCycleSchedule(), steps=10, steps_per_epoch=5)
    assert optimizer.param_groups[0]["momentum"] == 0.5


def test_position_embeddings_and_class_tokens_of_a_vision_transformer_get_no_weight_decay() -> None:
    model = timm.create_model("test_vit", pretrained=False)
    decayed = decayed_parameters(nn.ModuleDict({"timm_model": model}))
    assert not {"timm_model.pos_embed", "timm_model.cls_token"} & decayed
    assert "timm_model.blocks.0.mlp.fc1.weight" in decayed


def test_a_frozen_lstm_stays_in_training_mode_so_that_gradients_can_pass_it_on_a_gpu() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(2, 2), "dropout": nn.Dropout(), "head": nn.Linear(2, 2)})
    chain = Chain(model, [LayerGroup("lstm", ("lstm", "dropout")), LayerGroup("head", ("head",))])
    train_mode(model, chain, ("head",))
    assert model["lstm"].training and not model["dropout"].training


def test_slanted_triangular_rises_over_a_tenth_and_falls_to_a_thirty_second() -> None:
    assert slanted_triangular(0, 100) == pytest.approx(1 / 32)
    assert slanted_triangular(10, 100) == 1.0
    assert slanted_triangular(55, 100) == pytest.approx((1 + 0.5 * 31) / 32)  # half way down
    assert slanted_triangular(100, 100) == pytest.approx(1 / 32)
    assert rates_of(SlantedTriangularSchedule(), 100) == [slanted_triangular(step, 100) for step in range(100)]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # of torch.compile itself
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # too
def test_compiled_layers_give_the_gradients_of_plain_ones_at_every_length() -> None:
    model = small_model(TRANSFORMERS["bert"])
    chain = transformer.chain(model)
    plain = copy.deepcopy(model)
    compile_layers(model, chain, ("layer.1", "layer.2", "head"), entry_module="bert.encoder.layer.1", backend="eager")
    compiled = [name for name, module in model.named_modules() if module._compiled_call_impl is not None]
    assert compiled == ["bert.encoder.layer.2"]
    assert list(model.state_dict()) == list(plain.state_dict())
    for length in (8, 16, 24):
        tokens = torch.arange(2 * length).reshape(2, length) % 10
        for each in (model, plain):
            each.zero_grad()
            each(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.sum().backward()
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
