"""The chain, on networks small enough to see through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hftl.models.chain import Chain, ChainError, LayerGroup, UnknownGroup, chain_of_layers


class Tiny(nn.Module):
    """embed -> layers.0 -> layers.1 -> (norm, drop, out), with a parameter of its own and a batch norm's buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.embed = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)) for _ in range(2))
        self.norm = nn.LayerNorm(4)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x + self.token)
        for layer in self.layers:
            x = layer(x)
        return self.out(self.drop(self.norm(x)))  # type: ignore[no-any-return]


GROUPS = [
    LayerGroup("embeddings", ("token", "embed")),
    LayerGroup("layer.0", ("layers.0",)),
    LayerGroup("layer.1", ("layers.1",)),
    LayerGroup("head", ("norm", "drop", "out")),
]


@pytest.fixture
def chain() -> Chain:
    return Chain(Tiny(), GROUPS)


def test_every_parameter_and_buffer_is_in_exactly_one_group(chain: Chain) -> None:
    assert chain.parameters == {
        "embeddings": ("token", "embed.0.weight", "embed.0.bias", "embed.1.weight", "embed.1.bias"),
        "layer.0": ("layers.0.0.weight", "layers.0.0.bias"),
        "layer.1": ("layers.1.0.weight", "layers.1.0.bias"),
        "head": ("norm.weight", "norm.bias", "out.weight", "out.bias"),
    }
    buffers = ("embed.1.running_mean", "embed.1.running_var", "embed.1.num_batches_tracked")
    assert chain.buffers == {"embeddings": buffers, "layer.0": (), "layer.1": (), "head": ()}
    assert chain.group_of("embed.1.running_var") == "embeddings"
    assert len(chain) == 4


def test_modules_without_parameters_belong_to_the_group_they_lie_in(chain: Chain) -> None:
    assert chain.modules["layer.1"] == ("layers.1", "layers.1.0", "layers.1.1")
    assert "drop" in chain.modules["head"]


def test_a_container_that_spans_groups_is_in_no_group(chain: Chain) -> None:
    assert not any(name in ("", "layers") for names in chain.modules.values() for name in names)


def test_a_prefix_ends_at_a_dot() -> None:
    model = nn.ModuleDict({"layer1": nn.Linear(1, 1), "layer10": nn.Linear(1, 1), "fc": nn.Linear(1, 1)})
    chain = Chain(model, [LayerGroup("a", ("layer1",)), LayerGroup("b", ("layer10",)), LayerGroup("head", ("fc",))])
    assert chain.parameters["a"] == ("layer1.weight", "layer1.bias")


def test_the_longest_prefix_wins_inside_a_container_of_another_group() -> None:
    groups = [LayerGroup("rest", ("layers", "embed", "token")), LayerGroup("layer.1", ("layers.1",)), GROUPS[-1]]
    chain = Chain(Tiny(), groups)
    assert chain.group_of("layers.0.0.weight") == "rest"
    assert chain.group_of("layers.1.0.weight") == "layer.1"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([GROUPS[0], GROUPS[1], GROUPS[3]], '"layers.1.0.weight" is in no layer group'),
        ([*GROUPS[:2], LayerGroup("layer.1", ("layers.1", "layers.0")), GROUPS[3]], "is in two layer groups"),
        ([GROUPS[3], *GROUPS[:3]], 'end with "head"'),
        ([GROUPS[0], GROUPS[0], *GROUPS[1:]], "group names are unique"),
        ([], "group names are unique"),
        ([*GROUPS[:3], LayerGroup("head", ("norm", "drop", "out", "pooler"))], 'nothing in the model is called "pooler"'),
        ([*GROUPS[:3], LayerGroup("empty", ("drop",)), LayerGroup("head", ("norm", "out"))], "without a parameter or buffer"),
    ],
)
def test_groups_that_do_not_fit_the_model_are_refused(groups: list[LayerGroup], message: str) -> None:
    with pytest.raises(ChainError, match=message):
        Chain(Tiny(), groups)


def test_a_buffer_left_over_is_refused_like_a_parameter() -> None:
    model = Tiny()
    model.register_buffer("scale", torch.ones(1))
    with pytest.raises(ChainError, match='"scale" is in no layer group'):
        Chain(model, GROUPS)


def test_one_tensor_under_names_of_two_groups_is_refused() -> None:
    model = Tiny()
    model.layers[1][0].weight = model.layers[0][0].weight  # type: ignore[index]
    with pytest.raises(ChainError, match=r'"layers\.0\.0\.weight" and "layers\.1\.0\.weight" are one tensor in two layer groups'):
        Chain(model, GROUPS)


def test_one_tensor_under_two_names_of_one_group_is_counted_once() -> None:
    model = Tiny()
    model.out.bias = nn.Parameter(torch.zeros(2))
    model.norm.bias = model.norm.weight
    assert Chain(model, GROUPS).parameters["head"] == ("norm.weight", "out.weight", "out.bias")


@pytest.mark.parametrize(
    ("unfreeze", "expected"),
    [
        ("head", ("head",)),
        ("all", ("embeddings", "layer.0", "layer.1", "head")),
        ("last 1", ("head",)),
        ("last 3", ("layer.0", "layer.1", "head")),
        ("last 4", ("embeddings", "layer.0", "layer.1", "head")),
        ("layer.1", ("layer.1",)),
        (("head", "layer.0"), ("layer.0", "head")),  # in chain order
        (["head", "head"], ("head",)),
    ],
)
def test_a_stage_selects_groups_in_chain_order(chain: Chain, unfreeze: str | list[str], expected: tuple[str, ...]) -> None:
    assert chain.select(unfreeze) == expected


@pytest.mark.parametrize(
    ("unfreeze", "message"),
    [
        ("last 0", 'write "last K" with K from 1 to 4'),
        ("last 5", 'write "last K" with K from 1 to 4'),
        ("last", 'write "last K" with K from 1 to 4'),
        ("last -1", 'write "last K" with K from 1 to 4'),
        ("last two", 'write "last K" with K from 1 to 4'),
        ("last ²", 'write "last K" with K from 1 to 4'),  # a digit to str.isdigit, no number to int
        ("layer.5", 'no layer group "layer.5". Did you mean "layer.'),
        ("", 'no layer group ""'),
        ([], "nothing would train"),
    ],
)
def test_a_selection_that_the_chain_does_not_have_is_refused(chain: Chain, unfreeze: str | list[str], message: str) -> None:
    with pytest.raises(UnknownGroup) as caught:
        chain.select(unfreeze)
    assert message in str(caught.value)


def test_all_unknown_groups_come_in_one_report(chain: Chain) -> None:
    with pytest.raises(UnknownGroup) as caught:
        chain.select(["haed", "layer.0", "stem"])
    assert str(caught.value) == 'no layer group "haed". Did you mean "head"? no layer group "stem".'


# --- the chain of a row of layers -----------------------------------------------------------------------------------------------

LAYERS = [LayerGroup("layer.0", ("layers.0",)), LayerGroup("layer.1", ("layers.1",))]


def test_what_runs_after_the_layers_is_head_and_the_rest_is_first() -> None:
    model = Tiny()
    chain = chain_of_layers(model, LAYERS, first="embeddings", run=lambda: model(torch.zeros(2, 4)))
    assert chain.parameters == Chain(Tiny(), GROUPS).parameters
    assert "drop" in chain.modules["head"]


def test_what_is_used_between_the_layers_or_never_called_is_first() -> None:
    class Shared(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 4)  # read, never called, such as DeBERTa's relative positions
            self.between = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.between(self.layers[0](self.embed(x)) + self.table.weight[0])
            return self.out(self.norm(self.layers[1](x)))  # type: ignore[no-any-return]

    model = Shared()
    chain = chain_of_layers(model, LAYERS, first="embeddings", run=lambda: model(torch.zeros(2, 4)))
    assert chain.group_of("table.weight") == chain.group_of("between.weight") == "embeddings"
    assert chain.group_of("norm.weight") == "head"


def test_a_part_of_which_only_an_inner_module_is_called_is_still_seen() -> None:
    class Inner(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.top = nn.ModuleDict({"fc": nn.Linear(2, 2)})

        def forward(self, x: Tensor) -> Tensor:
            return self.top["fc"](super().forward(x))  # type: ignore[no-any-return]

    model = Inner()
    chain = chain_of_layers(model, LAYERS, first="embeddings", run=lambda: model(torch.zeros(2, 4)))
    assert chain.group_of("top.fc.weight") == "head"


def test_layers_that_run_in_another_order_or_not_at_all_are_refused() -> None:
    model = Tiny()
    with pytest.raises(ChainError, match="do not run in this order"):
        chain_of_layers(model, LAYERS[::-1], first="embeddings", run=lambda: model(torch.zeros(2, 4)))
    with pytest.raises(ChainError, match="do not run in this order"):
        chain_of_layers(model, LAYERS, first="embeddings", run=lambda: model.embed(torch.zeros(2, 4)))


def test_looking_at_a_model_leaves_it_as_it_was() -> None:
    model = Tiny().train()
    model.layers[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    chain_of_layers(model, LAYERS, first="embeddings", run=lambda: model(torch.randn(2, 4, generator=torch.Generator())))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # batch norm's counts too
    assert model.training
    assert not model.layers[0].training
    assert model.layers[1].training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_run_that_fails_leaves_no_hooks_and_no_changed_mode() -> None:
    model = Tiny().train()
    with pytest.raises(RuntimeError):
        chain_of_layers(model, LAYERS, first="embeddings", run=lambda: model(torch.zeros(2, 5)))
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
