"""Mixup and CutMix: by hand, against timm, the same for any number of processes, and in whole runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from sittings import assert_same_run, signal_at
from small import nano, noisy_pictures, reviews, train
from timm.data.mixup import Mixup as TimmMixup
from timm.data.mixup import mixup_target, rand_bbox
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from torch.nn import functional as F

import hftl
from hftl.data.loader import Batch, training_batches
from hftl.data.mixing import StepMix, partners_of, plan_mix
from hftl.errors import RecipeError
from hftl.files import read_json
from hftl.names import SEVERAL_LABELS
from hftl.recipe import (
    AsymmetricLoss,
    CrossEntropyLoss,
    CutMix,
    FocalLoss,
    Mix,
    Mixup,
    MixupOrCutMix,
    Recipe,
    Stage,
    override,
    parse_recipe,
)
from hftl.records.plan import read_plan
from hftl.sharing.card import render_card
from hftl.signals import Stopped
from hftl.training.experiment import prepare_experiment, show
from hftl.training.loss import make_loss
from hftl.training.planning import make_plan
from hftl.training.step import _losses

CPU = torch.device("cpu")
ALWAYS: list[Mix] = [Mixup(alpha=1.0), CutMix(), MixupOrCutMix(mixup_alpha=1.0)]


class Pixels:
    """Pictures of 8 x 8 pixels: each has the number of its sample, and is brighter by 100 in later epochs."""

    label_names = ("even", "odd")
    lengths = None
    size_unit = "pixels"
    weights = None
    fingerprint = ""

    def __init__(self, size: int) -> None:
        self.loaded = Counter[int]()
        self.ids = [str(index) for index in range(size)]
        self.targets = np.arange(size) % 2

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        epoch, index = position
        self.loaded[index] += 1
        return {"pixel_values": torch.full((3, 8, 8), float(index + 100 * epoch))}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}

    def to_device(self, inputs: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        return {name: tensor.to(device) for name, tensor in inputs.items()}


def mixed_batches(samples: Any, mix: Mix | None, **settings: Any) -> list[Batch]:
    settings = {"batch_size": 8, "seed": 3, "epoch": 2, **settings}
    return [batch.to(CPU) for batch in training_batches(samples, mix=mix, **settings)]


# --- by hand --------------------------------------------------------------------------------------------------------------------


def test_mixup_is_the_weighted_mean_of_two_pictures() -> None:
    # 0.75 * 8 + 0.25 * 4 = 7
    mixed, share = StepMix(0.75).mixed(torch.full((2, 3, 2, 2), 8.0), torch.full((2, 3, 2, 2), 4.0))
    assert mixed.tolist() == torch.full((2, 3, 2, 2), 7.0).tolist()
    assert share == 0.75


def test_cutmix_takes_a_rectangle_of_the_partner_and_counts_its_pixels() -> None:
    # 1 - 0.75 = a quarter: sides of a half, 4 of 8 pixels; in the middle rows and columns 2 to 5, 16 of 64 pixels.
    own, partner = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    mixed, share = StepMix(0.75, (0.5, 0.5)).mixed(own, partner)
    assert mixed[0, 0].sum(dim=0).tolist() == [0, 0, 4, 4, 4, 4, 0, 0]
    assert share == 0.75
    assert own.sum() == 0
    # At the upper left corner a quarter of the rectangle is inside: 2 x 2 of 64 pixels.
    mixed, share = StepMix(0.75, (0.0, 0.0)).mixed(own, partner)
    assert mixed[0, 0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert share == 1 - 4 / 64
    # Nothing is left of a picture whose share is 0, and nothing is cut of one whose share is 1.
    assert StepMix(0.0, (0.5, 0.5)).mixed(own, partner)[1] == 0
    assert StepMix(1.0, (0.5, 0.5)).mixed(own, partner)[1] == 1


def test_the_rectangle_is_that_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    for share in (0.1, 0.5, 0.77):
        for place in ((0.1, 0.9), (0.5, 0.3)):
            drawn = iter([int(32 * place[0]), int(20 * place[1])])
            monkeypatch.setattr(np.random, "randint", lambda *_, drawn=drawn, **__: next(drawn))
            top, bottom, left, right = cast("Any", rand_bbox)((1, 3, 32, 20), share)
            rows, columns = StepMix(share, place).rectangle(32, 20)
            assert (rows.start, columns.start) == (top, left)
            # timm cuts half of it on either side, and so a pixel less of an odd side.
            assert 0 <= rows.stop - bottom <= 1 and 0 <= columns.stop - right <= 1


def test_every_partner_is_another_picture_of_the_step() -> None:
    assert partners_of(np.array([7, 3, 5, 1])).tolist() == [5, 1, 7, 3]
    for size in range(2, 9):
        step = np.arange(size)
        assert not (partners_of(step) == step).any()
        assert sorted(partners_of(step)) == list(range(size))
    assert partners_of(np.array([4])).tolist() == [4]


def test_what_a_step_draws_depends_on_seed_epoch_and_step_alone() -> None:
    mix = MixupOrCutMix(probability=0.8)
    drawn = [plan_mix(mix, seed=seed, epoch=epoch, step=step) for seed in range(3) for epoch in range(3) for step in range(50)]
    again = [plan_mix(mix, seed=seed, epoch=epoch, step=step) for seed in range(3) for epoch in range(3) for step in range(50)]
    assert drawn == again
    found = [each for each in drawn if each is not None]
    assert len(set(found)) == len(found)
    assert 0.74 < len(found) / len(drawn) < 0.86
    assert 0.4 < sum(each.centre is not None for each in found) / len(found) < 0.6
    assert plan_mix(None, seed=0, epoch=0, step=0) is None


def test_the_shares_are_drawn_from_a_beta_distribution() -> None:
    for mix, variance in ((Mixup(alpha=1.0), 1 / 12), (Mixup(alpha=0.2), 0.25 / 1.4), (CutMix(alpha=4.0), 0.25 / 9)):
        drawn = [plan_mix(mix, seed=0, epoch=1, step=step) for step in range(4_000)]
        shares = np.array([each.share for each in drawn if each is not None])
        assert len(shares) == 4_000
        # Of Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
        assert shares.mean() == pytest.approx(0.5, abs=0.02)
        assert shares.var() == pytest.approx(variance, rel=0.06)


# --- the plan of a step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", ALWAYS, ids=lambda mix: mix.kind)
@pytest.mark.parametrize(("processes", "accumulation"), [(2, 1), (1, 3), (3, 2), (8, 1)])
def test_processes_micro_batches_and_a_later_start_mix_what_one_process_mixes(mix: Mix, processes: int, accumulation: int) -> None:
    samples = Pixels(21)

    def examples(batches: list[Batch]) -> dict[int, tuple[Any, ...]]:
        return {
            int(index): (each.partner_targets[place].item(), each.share, each.inputs["pixel_values"][place].tolist())
            for each in batches
            for place, (index, weight) in enumerate(zip(each.index, each.weight, strict=True))
            if weight and each.partner_targets is not None
        }

    alone = examples(mixed_batches(samples, mix))
    assert len(alone) == 21
    shared = [mixed_batches(samples, mix, processes=processes, rank=rank, accumulation=accumulation) for rank in range(processes)]
    assert examples([batch for batches in shared for batch in batches]) == alone
    later = examples(mixed_batches(samples, mix, start=2, workers=0))
    assert len(later) == 5
    assert later == {index: alone[index] for index in later}


def test_a_picture_is_mixed_with_its_partner_of_the_same_epoch() -> None:
    # Three steps of pictures that are as bright as their number, from 200 to 220: mixed, the mean of two of them.
    for batch in mixed_batches(Pixels(21), Mixup(alpha=1.0)):
        assert batch.partner_targets is not None
        brightness = batch.inputs["pixel_values"][:, 0, 0, 0]
        partners = torch.from_numpy(np.roll(batch.index.numpy(), -(len(batch.index) // 2)))
        assert torch.allclose(brightness, 200 + batch.share * batch.index + (1 - batch.share) * partners, atol=1e-4)
        assert batch.partner_targets.tolist() == (partners % 2).tolist()


def test_no_picture_is_loaded_twice_where_partners_are_dealt_to_one_process() -> None:
    # 16 pictures in steps of 8, over 2 processes and 2 micro-batches: every fourth picture, and half a step is 4 of them.
    samples = Pixels(16)
    for rank in range(2):
        mixed_batches(samples, Mixup(), processes=2, rank=rank, accumulation=2)
    assert set(samples.loaded.values()) == {1} and len(samples.loaded) == 16
    samples = Pixels(16)
    for rank in range(8):  # each has one picture, and loads another
        mixed_batches(samples, Mixup(), processes=8, rank=rank)
    assert set(samples.loaded.values()) == {2}


def test_of_examples_that_are_drawn_again_partners_are_those_of_their_draws() -> None:
    # 12 even examples and 3 odd ones, sampled evenly: the odd ones are drawn again and again, each time as another view.
    samples = Pixels(15)
    samples.targets = np.array([0] * 12 + [1] * 3)
    alone = mixed_batches(samples, Mixup(alpha=1.0), sampling="balanced")
    shared = [mixed_batches(samples, Mixup(alpha=1.0), sampling="balanced", processes=2, rank=rank) for rank in range(2)]

    def brightness(batches: list[Batch]) -> list[float]:
        return sorted(value for batch in batches for value in batch.inputs["pixel_values"][:, 0, 0, 0].tolist())

    assert len(brightness(alone)) == 15
    assert brightness(alone) == brightness([batch for batches in shared for batch in batches])


def test_workers_mix_the_same() -> None:
    here, there = (mixed_batches(Pixels(12), CutMix(), processes=2, rank=1, workers=workers) for workers in (0, 1))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.inputs["pixel_values"], other.inputs["pixel_values"])
        assert one.share == other.share


def test_without_a_mix_a_batch_is_what_it_was() -> None:
    for batch in mixed_batches(Pixels(9), None):
        assert batch.partners is None and batch.partner_targets is None and batch.share == 1.0


# --- the loss -------------------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.5, 3.0]])


def batch_of(targets: torch.Tensor, partners: torch.Tensor, share: float) -> Batch:
    return Batch(
        {},
        targets,
        torch.arange(len(targets)),
        torch.ones(len(targets)),
        partner_targets=partners,
        partner_weight=torch.ones(len(targets)),
        share=share,
    )


def test_the_loss_of_a_mixed_picture_is_that_of_timm() -> None:
    own, partners = torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0])
    theirs: Any = SoftTargetCrossEntropy  # timm says nothing of its types
    for smoothing in (0.0, 0.1):
        loss = make_loss(CrossEntropyLoss(label_smoothing=smoothing), None)
        found = _losses(loss, LOGITS, batch_of(own, partners, 0.7)).mean()
        soft = cast("Any", mixup_target)(own, 3, lam=0.7, smoothing=smoothing)  # the partner is that at the other end: 2, 1, 0
        assert found.item() == pytest.approx(theirs()(LOGITS, soft).item(), rel=1e-6)


def test_timm_mixes_the_pixels_as_we_do() -> None:
    pictures = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs = cast("Any", TimmMixup)(mixup_alpha=1.0, num_classes=2)
    theirs._params_per_batch = lambda: (0.3, False)
    expected, _ = theirs(pictures.clone(), torch.tensor([0, 1, 0, 1]))
    assert torch.allclose(StepMix(0.3).mixed(pictures, pictures.flip(0))[0], expected)


def test_class_weights_and_focal_loss_count_for_each_of_the_two_labels() -> None:
    weights = torch.tensor([1.0, 2.0, 4.0])
    own, partners = torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0])
    ce = F.cross_entropy(LOGITS, own, reduction="none"), F.cross_entropy(LOGITS, partners, reduction="none")
    # 0.7 of the own loss times the weight of the own class, 0.3 of the partner's times that of its class.
    expected = 0.7 * ce[0] * torch.tensor([1.0, 2.0, 4.0]) + 0.3 * ce[1] * torch.tensor([4.0, 2.0, 1.0])
    assert torch.allclose(_losses(make_loss(CrossEntropyLoss(), weights), LOGITS, batch_of(own, partners, 0.7)), expected)
    focal = make_loss(FocalLoss(gamma=2.0), weights)
    expected = 0.7 * focal(LOGITS, own) + 0.3 * focal(LOGITS, partners)
    assert torch.equal(_losses(focal, LOGITS, batch_of(own, partners, 0.7)), expected)


@pytest.mark.parametrize("loss", [CrossEntropyLoss(label_smoothing=0.1), FocalLoss(), AsymmetricLoss()], ids=lambda loss: loss.kind)
def test_of_several_labels_the_mean_of_the_losses_is_the_loss_of_the_mean_of_the_labels(loss: Any) -> None:
    own, partners = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 1]])
    of_each = make_loss(loss, torch.tensor([1.0, 3.0, 2.0]), target=SEVERAL_LABELS)
    soft = 0.7 * own + 0.3 * partners
    assert torch.allclose(_losses(of_each, LOGITS, batch_of(own, partners, 0.7)), of_each(LOGITS, soft), rtol=1e-5)


# --- the recipe -----------------------------------------------------------------------------------------------------------------


def test_a_mix_is_a_word_or_a_section_and_reads_back(tmp_path: Path) -> None:
    assert Stage(lr=0.1, mix="mixup or cutmix").mix == MixupOrCutMix()
    recipe = noisy_pictures(tmp_path / "data", "stages.top.mix=mixup", "stages.top.mix.alpha=0.4", "stages.head.mix=cutmix")
    assert [stage.mix for stage in recipe.stages.values()] == [CutMix(), Mixup(alpha=0.4)]
    assert parse_recipe(recipe.to_yaml(), source="again") == recipe
    assert override(recipe, ["stages.top.mix=null"]).stages["top"].mix is None
    assert override(recipe, ["stages.top.mix=mixup or cutmix"]).stages["top"].mix == MixupOrCutMix()
    assert hftl.Mixup is Mixup and hftl.CutMix is CutMix and hftl.MixupOrCutMix is MixupOrCutMix


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("mixupp", 'mix: no mix "mixupp". Did you mean "mixup"?'),
        ({"kind": "mixup", "alpha": 0}, "mix.alpha: input should be greater than 0"),
        ({"kind": "mixup", "probability": 1.5}, "mix.probability: input should be less than or equal to 1"),
        ({"kind": "cutmix", "cutmix_share": 0.5}, "cutmix_share is an option of mix mixup or cutmix"),
        (3, "mix: a word, or a section with a kind; found 3"),
    ],
)
def test_a_mix_that_is_none_is_refused(value: Any, why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Stage(lr=0.1, mix=value)
    assert why in str(caught.value)
    if isinstance(value, str):
        assert "allowed: mixup, cutmix, mixup or cutmix" in str(caught.value)


def test_texts_are_not_mixed_and_the_message_says_what_does_the_like() -> None:
    with pytest.raises(RecipeError, match=r"stages\.top\.mix: .* texts have none; leave it out. .*label_smoothing: 0\.1"):
        nano("texts", reviews(8), {"head": Stage(lr=0.1), "top": Stage(lr=0.1, mix="mixup")})


# --- whole runs -----------------------------------------------------------------------------------------------------------------


def augmented(recipe: Recipe) -> list[str]:
    """What the plan says beside its table, with random erasing and dropout as well."""
    changed = override(recipe, ["data.augmentation=light", "data.random_erasing=0.25", "model.dropout=0.2"])
    remarks = make_plan(prepare_experiment(changed)).remarks
    assert remarks[-1] == "Dropout, in training only: dropout 0.2."
    return list(remarks)


def test_a_run_that_mixes_continues_bit_for_bit_and_says_so_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "cache"))
    mixes = ("stages.top.mix=mixup or cutmix", "stages.head.mix=mixup", "stages.head.mix.alpha=0.5")
    recipe = noisy_pictures(tmp_path / "data", "data.augmentation_views=1", "model.checkpoint=test_resnet", *mixes)
    plan = make_plan(prepare_experiment(recipe))
    assert [stage.mix for stage in plan.stages] == ["mixup", "mixup or cutmix"]
    assert [stage.cached_up_to for stage in plan.stages] == [None, None]
    assert "every step mixes other pictures (stages.head.mix)" in plan.remarks[0]
    assert "Augmentation, in training only: light; random erasing in 25 % of the views." in augmented(recipe)
    whole = train(recipe, tmp_path / "whole")
    # 30 pictures / 8 = 4 steps an epoch: stopped in the first stage, and in the second.
    for step in (2, 3):
        with signal_at(monkeypatch, step=step), pytest.raises(Stopped):
            train(recipe, tmp_path / "run", resume=step > 2)
    assert_same_run(whole, train(recipe, tmp_path / "run", resume=True))
    # Frozen layers computed what they make of validation once, and are computed for every mixture.
    assert read_json(whole.environment)["cached"]["head"] == {"train": "computed", "validation": "stored"}
    assert [stage["mix"] for stage in read_plan(whole)["stages"]] == ["mixup", "mixup or cutmix"]
    assert "| *mix* |  | mixup | mixup or cutmix |" in render_card(whole)
    assert whole.load_recipe().stages["head"].mix == Mixup(alpha=0.5)


def test_show_draws_the_first_step_of_each_stage_that_mixes(tmp_path: Path) -> None:
    recipe = noisy_pictures(tmp_path / "data", "model.checkpoint=test_resnet", "stages.top.mix=cutmix", "data.augmentation=none")
    lines = list(show(prepare_experiment(recipe), tmp_path / "augmentation.png"))
    assert "augmentation-top.png: pictures of the first step that stage top mixes (cutmix)" in lines[1]
    with Image.open(tmp_path / "augmentation-top.png") as image:
        # 8 pictures, six a line: 2 * 24 + 6 * (168 + 6) - 6 pixels across, two lines of 168 + 46.
        assert image.size == (1086, 476)
