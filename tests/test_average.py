"""Averages of weights: against numbers by hand, timm's and torch's own, and in runs that are stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from sittings import assert_same_run, signal_at
from small import BERT_NANO, nano, noisy_pictures, reviews, train
from small_models import TRANSFORMERS, small_model
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hftl.evaluation.predict import predict_logits
from hftl.files import read_json
from hftl.models import transformer
from hftl.recipe import EMA, SWA, Recipe, Soup, Stage
from hftl.sharing.card import write_card
from hftl.sharing.verify import verify
from hftl.signals import Stopped
from hftl.training import engine, finish
from hftl.training.average import WeightAverage, WeightSoup, average_bytes, share_of_step, trained_tensors
from hftl.training.step import take_step


def walk(model: nn.Module, steps: int, then: Callable[[int], None]) -> None:
    """Change every parameter and statistic at each step, as training would, and call `then` with the number of the step."""
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.data += torch.rand(tensor.shape, generator=generator)
            else:
                tensor.data += 1
        then(step)


def test_the_share_of_a_step_is_worked_out_by_hand() -> None:
    def shares(average: EMA | SWA, steps: int) -> list[float]:
        return [share_of_step(average, step, epochs=steps // 2, steps_per_epoch=2) for step in range(1, steps + 1)]

    # 1, then 8 ** (-2/3) = 1/4 at the eighth step, and never under 1 - decay.
    assert shares(EMA(), 8)[0] == 1.0 and shares(EMA(), 8)[7] == pytest.approx(0.25)
    assert shares(EMA(decay=0.5), 8)[3:] == [0.5] * 5  # 4 ** (-2/3) is 0.397
    # Four epochs of two steps, of which the last two are averaged: until the third the mean is of one.
    assert shares(SWA(share=0.5), 8) == [0, 1, 0, 1, 0, 1, 0, 1 / 2]
    assert shares(SWA(share=1), 8) == pytest.approx([0, 1, 0, 1 / 2, 0, 1 / 3, 0, 1 / 4])
    assert [SWA(share=share).first(10) for share in (0.1, 0.25, 0.3, 0.5, 1.0)] == [10, 8, 8, 6, 1]


@pytest.mark.parametrize("decay", [0.999, 0.9])
def test_ema_is_timms_bit_for_bit_with_its_statistics_of_batches(decay: float) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    tensors = [*model.parameters(), *model.buffers()]
    ours, theirs = WeightAverage(EMA(decay=decay), tensors, epochs=1, steps_per_epoch=40), ModelEmaV3(model, decay, use_warmup=True)

    def take(step: int) -> None:
        ours.after_step(step)
        theirs.update(model, step=step)

    walk(model, 40, take)
    with ours.in_place():
        averaged = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(averaged[name], tensor) for name, tensor in theirs.module.state_dict().items())
    assert any(name.endswith("running_var") for name in averaged)


def test_swa_is_torchs_mean_of_the_last_epochs() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours = WeightAverage(SWA(share=0.6), [*model.parameters(), *model.buffers()], epochs=5, steps_per_epoch=3)
    theirs = AveragedModel(model, use_buffers=True)

    def take(step: int) -> None:
        ours.after_step(step)
        if step in (9, 12, 15):  # the ends of epochs 3, 4 and 5
            theirs.update_parameters(model)

    walk(model, 15, take)
    with ours.in_place():
        for name, tensor in theirs.module.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(model.state_dict()[name], tensor)
        assert model[1].num_batches_tracked == 15  # a count is no mean


def test_evaluating_the_mean_leaves_the_weights_as_they_were() -> None:
    model = nn.Linear(2, 1)
    ours = WeightAverage(EMA(), list(model.parameters()), epochs=1, steps_per_epoch=9)
    began = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    trained = model.weight.detach().clone()
    with pytest.raises(KeyError), ours.in_place():
        assert torch.equal(model.weight, began)
        raise KeyError
    assert torch.equal(model.weight, trained)


@pytest.mark.parametrize("average", [EMA(), Soup()], ids=str)
def test_a_checkpoint_that_is_written_during_an_evaluation_holds_the_weights_and_the_mean_apart(
    tmp_path: Path, average: EMA | Soup
) -> None:
    def made() -> tuple[nn.Linear, WeightAverage | WeightSoup]:
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        tensors = list(model.parameters())
        if isinstance(average, Soup):
            return model, WeightSoup(average, tensors)
        return model, WeightAverage(average, tensors, epochs=1, steps_per_epoch=9)

    model, ours = made()
    walk(model, 3, lambda step: ours.add(step, (float(step), 0.0)) if isinstance(ours, WeightSoup) else ours.after_step(step))
    trained = model.weight.detach().clone()
    with ours.of(1, 3) if isinstance(ours, WeightSoup) else ours.in_place():
        mean = model.weight.detach().clone()
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        ours.save(tmp_path)
    other, read = made()
    other.load_state_dict(weights)
    read.load(tmp_path)
    assert torch.equal(other.weight, trained) and not torch.equal(trained, mean)
    with read.of(1, 3) if isinstance(read, WeightSoup) else read.in_place():
        assert torch.equal(other.weight, mean)


def test_only_what_trains_has_a_mean() -> None:
    model = small_model(TRANSFORMERS["bert"])
    chain = transformer.chain(model)
    tensors = trained_tensors(model, chain, ("layer.2", "head"))
    parameters = dict(model.named_parameters())
    names = [*chain.parameters["layer.2"], *chain.parameters["head"]]
    assert [id(tensor) for tensor in tensors] == [id(parameters[name]) for name in names]
    of_one = 4 * sum(parameters[name].numel() for name in names)
    assert average_bytes(EMA(), tensors, epochs=9) == average_bytes(SWA(), tensors, epochs=9) == of_one
    assert average_bytes(Soup(most=5), tensors, epochs=9) == 6 * of_one  # the five best epochs, and the mean that is tried
    assert average_bytes(Soup(most=5), tensors, epochs=3) == 4 * of_one
    assert average_bytes(None, tensors, epochs=9) == 0


def test_a_greedy_soup_is_worked_out_by_hand() -> None:
    """Epochs whose one weight is 0, 8, 2 and 6, judged by how near they are to 4.5."""
    weight = torch.zeros(1)
    soup = WeightSoup(Soup(most=3), [weight])
    tried: list[float] = []

    def judge() -> SimpleNamespace:
        tried.append(float(weight))
        return SimpleNamespace(rank=(-abs(float(weight) - 4.5), 0.0))

    for epoch, value in enumerate([0.0, 8.0, 2.0, 6.0], start=1):
        weight.fill_(value)
        soup.add(epoch, judge().rank)
    tried.clear()
    cooked = soup.cook(judge)
    assert cooked is not None
    # 6 (off by 1.5) is the best, then 2 (2.5) and 8 (3.5); 0 is not among the three best. The mean of 6 and 2 is 4 (0.5), and
    # stays; with 8 it would be 5.33 (0.83).
    assert tried == pytest.approx([4.0, 16 / 3])
    assert cooked[0] == (4, 3) and cooked[1].rank == (-0.5, 0.0)
    assert weight == 6
    with soup.of(*cooked[0]):
        assert weight == 4
    alone = WeightSoup(Soup(), [weight])
    alone.add(1, (0.0, 0.0))
    assert alone.cook(judge) is None


# --- runs -----------------------------------------------------------------------------------------------------------------------


def averaged(**changes: Any) -> Recipe:
    """40 examples / 16 a step = 3 steps an epoch: 3 and 9 steps."""
    stages = {
        "head": Stage(unfreeze="head", lr=1e-3, average="ema"),
        "top": Stage(unfreeze="last 2", lr=1e-3, epochs=3, schedule="constant", average="swa"),
    }
    return nano("averaged", reviews(40), stages, **{"log_every": 1, "keep": "last", "metric": "log_loss", **changes})


def test_what_a_run_delivers_is_the_mean_of_the_weights_that_it_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def noted(working: Any, *arguments: Any) -> Any:
        taken = take_step(working, *arguments)
        if taken is not None:
            seen.append({name: tensor.detach().clone() for name, tensor in working.bare.named_parameters()})
        return taken

    recipe = nano("ema", reviews(40), {"top": Stage(unfreeze="last 2", lr=1e-3, average="ema")})
    with monkeypatch.context() as patched:
        patched.setattr(engine, "take_step", noted)
        run = train(recipe, tmp_path / "run")
    delivered, read = load_file(run.model / "model.safetensors"), load_file(Path(BERT_NANO) / "model.safetensors")
    assert len(seen) == 3
    for name in seen[0]:
        mean = seen[0][name].lerp(seen[1][name], 2 ** (-2 / 3)).lerp(seen[2][name], 3 ** (-2 / 3))
        torch.testing.assert_close(delivered[name], mean, rtol=1e-6, atol=1e-8)
    assert all(torch.equal(delivered[name], read[name]) for name in read if ".layer.0." in name)
    assert all(stage["ok"] for stage in read_json(run.freeze_proof)["stages"])
    (stage,) = read_json(run.plan)["stages"]
    trained = sum(
        seen[0][name].numel() for name in seen[0] if ".layer.3." in name or name.startswith(("classifier", "bert.pooler"))
    )
    assert (stage["average"], stage["average_bytes"]) == ("ema", 4 * trained)


def test_averages_change_nothing_of_the_steps_and_continue_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(averaged(), tmp_path / "whole")
    plain = train(
        averaged().model_copy(
            update={"stages": {name: stage.model_copy(update={"average": None}) for name, stage in averaged().stages.items()}}
        ),
        tmp_path / "plain",
    )
    losses = [[r["loss"] for r in run.read_history() if r["event"] == "step"] for run in (whole, plain)]
    assert losses[0][:3] == losses[1][:3]  # of the first stage; the second begins with other weights
    for step in (2, 8):
        with signal_at(monkeypatch, step=step), pytest.raises(Stopped):
            train(averaged(), tmp_path / f"at-{step}")
        assert_same_run(whole, train(averaged(), tmp_path / f"at-{step}", resume=True))
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(finish, "predict_logits", stopping_in(3))  # the weights and their mean have changed places at that moment
        train(averaged(), tmp_path / "in-3")
    assert_same_run(whole, train(averaged(), tmp_path / "in-3", resume=True))


def test_a_soup_of_epochs_is_delivered_where_validation_likes_it_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A rate so high that every epoch overshoots, and their mean does not.
    stage = Stage(unfreeze="head", lr=0.5, epochs=4, optimizer="sgd", schedule="constant", weight_decay=0, average="soup")
    recipe = nano("soup", reviews(40), {"head": stage}, metric="log_loss", log_every=1)
    seen: list[dict[str, torch.Tensor]] = []
    end_epoch = engine._end_epoch

    def noted(working: Any, *arguments: Any) -> Any:
        seen.append({name: tensor.detach().clone() for name, tensor in working.bare.named_parameters()})
        return end_epoch(working, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_end_epoch", noted)
        whole = train(recipe, tmp_path / "whole")
    history = whole.read_history()
    (soup,) = [line for line in history if line["event"] == "soup"]
    (end,) = [line for line in history if line["event"] == "stage_end"]
    best_alone = min(line["validation"]["log_loss"] for line in history if line["event"] == "evaluation")
    assert soup["kept"] and len(soup["epochs"]) >= 2 and soup["validation"]["log_loss"] < best_alone
    assert end["soup"] == soup["epochs"] and end["best_metric"] == soup["validation"]["log_loss"]
    assert read_json(whole.metrics)["validation"]["log_loss"] == pytest.approx(soup["validation"]["log_loss"], rel=1e-5)
    delivered = load_file(whole.model / "model.safetensors")
    for name in seen[0]:
        mean = torch.stack([seen[epoch - 1][name] for epoch in soup["epochs"]]).mean(dim=0)
        torch.testing.assert_close(delivered[name], mean)
    assert f"| *best epoch* |  | soup of {', '.join(map(str, soup['epochs']))} |" in write_card(whole).read_text(encoding="utf-8")
    assert not verify(whole).failed
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(finish, "predict_logits", stopping_in(6))  # the second mean that is tried
        train(recipe, tmp_path / "soup")
    assert_same_run(whole, train(recipe, tmp_path / "soup", resume=True))


def stopping_in(evaluation: int) -> Callable[..., Any]:
    """`predict_logits` that sends this process a signal after the second batch of an evaluation."""
    seen = list[None]()

    def stopping(*arguments: Any, after_batch: Callable[[], None], **options: Any) -> Any:
        seen.append(None)
        batches = list[None]()

        def look() -> None:
            batches.append(None)
            if len(seen) == evaluation and len(batches) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            after_batch()

        return predict_logits(*arguments, after_batch=look, **options)

    return stopping


def test_the_statistics_of_a_frozen_batchnorm_do_not_move_under_an_average(tmp_path: Path) -> None:
    changes = ("stages.top.average=swa", "stages.top.average.share=1", "run.keep=last", "stages.head.average=ema")
    recipe = noisy_pictures(tmp_path / "data", *changes)
    whole = train(recipe, tmp_path / "whole")
    head, top = read_json(whole.freeze_proof)["stages"]
    assert head["ok"] and top["ok"]
    frozen = [group for group in top["groups"] if not group["trains"]]
    assert frozen and all(group["before"] == group["after"] for group in frozen)
