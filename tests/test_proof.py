"""The freeze proof: hashes that anybody can compute again, and what a stage did, told by the bytes rather than by flags."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import BERT_NANO
from torch import nn

from hftl.errors import RunError
from hftl.files import read_json, write_json
from hftl.freeze_proof import StageRecord, write_proof
from hftl.models import build_classifier
from hftl.models.chain import Chain, LayerGroup
from hftl.recipe import AdamW, Recipe, Stage, TextData, Transformer
from hftl.run import RunDirectory
from hftl.training.proof import group_hashes, prove
from hftl.training.stage import freeze, make_optimizer, param_groups, train_mode

NOTHING = hashlib.sha256(b"").hexdigest()


class Tiny(nn.Module):
    """stem -> body -> head, with BatchNorm in the first two: its running statistics are buffers."""

    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut
        """No gradient passes to what is before the head."""
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.body(self.stem(inputs))
        logits: torch.Tensor = self.head(hidden.detach() if self.cut else hidden)
        return logits


def tiny(*, cut: bool = False) -> tuple[Tiny, Chain]:
    torch.manual_seed(0)
    model = Tiny(cut=cut)
    return model, Chain(model, [LayerGroup(name, (name,)) for name in ("stem", "body", "head")])


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def trained(model: Tiny, chain: Chain, stage: Stage, *, steps: int = 3) -> None:
    """A few steps of a stage, frozen as the engine freezes it."""
    trains = chain.select(stage.unfreeze)
    freeze(model, chain, trains)
    train_mode(model, chain, trains)
    optimizer = make_optimizer(AdamW(), model, param_groups(model, chain, stage), lr=stage.lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(16, 4)), torch.randint(3, (16,)))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def verdict(proof: StageRecord) -> dict[str, bool]:
    return {group["name"]: group["ok"] for group in proof["groups"]}


# --- hashes -------------------------------------------------------------------------------------------------------------------


def test_a_hash_is_sha256_over_name_dtype_shape_and_bytes_in_the_order_of_the_chain() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, -2.0]))
            self.register_buffer("count", torch.tensor(3))
            self.head = nn.Linear(1, 1, bias=False)

    model = Two()
    chain = Chain(model, [LayerGroup("first", ("scale", "count")), LayerGroup("head", ("head",))])
    hashes = group_hashes(tensors(model), chain)
    # IEEE 754 singles, little-endian: 1.0 is 00 00 80 3f, -2.0 is 00 00 00 c0.
    said = b"scale\0torch.float32\0(2,)\0" + bytes.fromhex("0000803f000000c0")
    assert hashes["first"]["parameters"] == hashlib.sha256(said).hexdigest()
    said = b"count\0torch.int64\0()\0" + bytes.fromhex("0300000000000000")
    assert hashes["first"]["buffers"] == hashlib.sha256(said).hexdigest()
    assert list(hashes) == ["first", "head"] and hashes["head"]["buffers"] == NOTHING


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.int8, torch.bool])
def test_every_dtype_is_hashed_by_its_bytes(dtype: torch.dtype) -> None:
    model, chain = tiny()
    plain = tensors(model)
    with_it = {**plain, "head.bias": torch.tensor([0.0, 1.0, 1.0]).to(dtype)}
    other = {**plain, "head.bias": torch.tensor([0.0, 1.0, 0.0]).to(dtype)}
    one, again, two = (group_hashes(found, chain)["head"] for found in (with_it, dict(with_it), other))
    assert one == again and one["parameters"] != two["parameters"]


def test_memory_layout_does_not_matter_and_every_bit_does() -> None:
    model, chain = tiny()
    plain = tensors(model)
    hashes = group_hashes(plain, chain)
    turned = {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in plain.items()}
    assert not turned["stem.0.weight"].is_contiguous() and group_hashes(turned, chain) == hashes
    assert group_hashes(dict(reversed(plain.items())), chain) == hashes  # the chain's order, not the mapping's
    for change in (
        plain["head.bias"].detach().nextafter(torch.tensor(9.0)),  # the next float
        plain["head.bias"].detach().double(),  # the same numbers
        plain["head.bias"].detach().reshape(3, 1),
    ):
        assert group_hashes({**plain, "head.bias": change}, chain)["head"] != hashes["head"]
    zeros = [group_hashes({**plain, "head.bias": torch.full((3,), value)}, chain) for value in (0.0, -0.0)]
    assert zeros[0]["head"] != zeros[1]["head"]


def test_a_tensor_that_is_missing_is_no_empty_one() -> None:
    model, chain = tiny()
    found = tensors(model)
    del found["stem.1.running_mean"]
    with pytest.raises(KeyError, match=r"stem\.1\.running_mean"):
        group_hashes(found, chain)


# --- the proof ----------------------------------------------------------------------------------------------------------------


def test_a_stage_that_freezes_leaves_parameters_and_statistics_as_they_were() -> None:
    model, chain = tiny()
    before = group_hashes(tensors(model), chain)
    trained(model, chain, Stage(lr=1e-2, unfreeze="last 2", weight_decay=0.1))
    after = group_hashes(tensors(model), chain)
    proof = prove("top", ("body", "head"), before, after, kept=True)
    assert proof["ok"] and verdict(proof) == {"stem": True, "body": True, "head": True}
    assert [(group["name"], group["trains"]) for group in proof["groups"]] == [("stem", False), ("body", True), ("head", True)]
    assert proof["groups"][0] == {"name": "stem", "trains": False, "before": before["stem"], "after": before["stem"], "ok": True}
    assert before["body"]["buffers"] != after["body"]["buffers"]  # a training BatchNorm counts


def test_running_statistics_that_moved_in_a_frozen_group_are_found() -> None:
    model, chain = tiny()
    before = group_hashes(tensors(model), chain)
    freeze(model, chain, ("head",))
    model.train()  # the usual mistake: no gradient, and BatchNorm goes on counting
    model(torch.randn(16, 4))
    after = group_hashes(tensors(model), chain)
    assert before["stem"]["parameters"] == after["stem"]["parameters"]
    proof = prove("head", ("head",), before, after, kept=True)
    assert not proof["ok"] and verdict(proof) == {"stem": False, "body": False, "head": False}


def test_a_parameter_that_moved_in_a_frozen_group_is_found() -> None:
    model, chain = tiny()
    before = group_hashes(tensors(model), chain)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in {"stem.0.weight", "head.bias"}:
                parameter[0].add_(1e-3)
    assert verdict(prove("head", ("head",), before, group_hashes(tensors(model), chain), kept=True)) == {
        "stem": False,
        "body": True,
        "head": True,
    }


def test_a_group_that_trains_and_does_not_move_is_found() -> None:
    model, chain = tiny(cut=True)
    before = group_hashes(tensors(model), chain)
    trained(model, chain, Stage(lr=1e-2, unfreeze="all", weight_decay=0.1))
    proof = prove("all", chain.names, before, group_hashes(tensors(model), chain), kept=True)
    assert not proof["ok"] and verdict(proof) == {"stem": False, "body": False, "head": True}
    # Its statistics moved, but statistics are not what an optimizer trains.
    assert proof["groups"][0]["before"]["buffers"] != proof["groups"][0]["after"]["buffers"]


def test_nothing_is_proven_without_hashes_from_before() -> None:
    model, chain = tiny()
    with pytest.raises(KeyError, match="stem"):
        prove("head", ("head",), {}, group_hashes(tensors(model), chain), kept=True)


def test_a_whole_transformer_is_covered() -> None:
    recipe = Recipe(
        name="trial",
        data=TextData(source="reviews"),
        model=Transformer(checkpoint=str(BERT_NANO)),
        stages={"head": Stage(lr=1e-3)},
    )
    classifier = build_classifier(recipe, ("neg", "pos"), texts=())
    hashes = group_hashes(tensors(classifier.model), classifier.chain)
    assert tuple(hashes) == classifier.chain.names
    assert len({found["parameters"] for found in hashes.values()}) == len(hashes)  # same shapes, other names and numbers
    assert NOTHING not in {found["parameters"] for found in hashes.values()}
    assert hashes["embeddings"]["buffers"] != NOTHING  # the position ids, which no file of weights holds


# --- the file -----------------------------------------------------------------------------------------------------------------


def proof_of(stage: str, word: str) -> StageRecord:
    hashes = {"head": {"parameters": word, "buffers": NOTHING}}
    return prove(stage, (), hashes, hashes, kept=True)


def test_each_stage_is_there_once_in_order(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for stage, word in (("head", "a"), ("top", "b"), ("top", "c"), ("all", "d")):
        write_proof(run, proof_of(stage, word))
    stages = read_json(run.freeze_proof)["stages"]
    assert [(proof["stage"], proof["groups"][0]["before"]["parameters"]) for proof in stages] == [
        ("head", "a"),
        ("top", "c"),
        ("all", "d"),
    ]
    assert json.loads(run.freeze_proof.read_text()) == {"stages": stages}


def test_a_stage_that_is_trained_again_leaves_no_proof_of_later_ones(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for stage, word in (("head", "a"), ("top", "b"), ("head", "c")):
        write_proof(run, proof_of(stage, word))
    assert [proof["stage"] for proof in read_json(run.freeze_proof)["stages"]] == ["head"]


@pytest.mark.parametrize("wrong", [{}, {"stages": 3}, {"stages": ["x"]}, {"stages": [{}]}])
def test_a_file_that_is_no_proof_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    run = RunDirectory(tmp_path)
    write_json(run.freeze_proof, wrong)
    with pytest.raises(RunError, match=r"freeze_proof\.json: not a freeze proof"):
        write_proof(run, proof_of("head", "a"))
