"""The choices made for a machine; the energy meter reads RAPL's counters as files, and says nothing where they say nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hftl.errors import RecipeError
from hftl.recipe import BiLSTM, Recipe, RunSettings, Stage, TextData, Transformer
from hftl.training.machine import EnergyMeter, check_device, loader_workers, tokens_per_batch, tune_kernels

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def kernels() -> Iterator[Callable[[], tuple[object, ...]]]:
    """What `tune_kernels` has set, as torch's getters say it, old and new; it is put back afterwards."""

    def found() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        return (
            torch.get_float32_matmul_precision(),  # read by torch.compile; raises where old and new settings are at odds
            torch.backends.cuda.matmul.fp32_precision,
            cudnn.allow_tf32,
            cudnn.benchmark,
        )

    matmul, _, convolutions, benchmark = found()
    yield found
    torch.set_float32_matmul_precision(str(matmul))
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = bool(convolutions), bool(benchmark)


@pytest.mark.parametrize(
    ("precision", "earlier", "expected"),
    [
        ("auto", "fp32", ("high", "tf32", True, False)),
        ("bf16", "fp32", ("high", "tf32", True, False)),
        ("fp32", "auto", ("highest", "ieee", False, False)),
    ],
)
def test_what_stays_float32_on_a_gpu_is_ieee_only_where_fp32_is_asked_for(
    precision: str, earlier: str, expected: tuple[object, ...], kernels: Callable[[], tuple[object, ...]]
) -> None:
    torch.backends.cudnn.benchmark = True
    for run in (earlier, precision):  # a process may train several recipes
        tune_kernels(RunSettings.model_validate({"precision": run}), GPU)
    assert kernels() == expected


def test_on_a_cpu_no_kernel_is_chosen(kernels: Callable[[], tuple[object, ...]]) -> None:
    torch.backends.cudnn.benchmark = True
    before = kernels()
    for precision in ("auto", "fp32"):
        tune_kernels(RunSettings.model_validate({"precision": precision}), CPU)
    assert kernels() == before


def test_compiling_is_refused_on_a_cpu_and_where_it_is_not_asked_for_nothing_is() -> None:
    with pytest.raises(RecipeError, match=r"run\.compile: .* on a CPU"):
        check_device(RunSettings(compile=True), CPU)
    check_device(RunSettings(compile=True), GPU)
    check_device(RunSettings(), CPU)


@pytest.mark.parametrize(
    ("cores", "processes", "expected"), [(16, 1, 8), (16, 2, 7), (6, 1, 5), (8, 4, 1), (2, 1, 1), (1, 1, 1), (4, 8, 1)]
)
def test_pictures_for_a_gpu_get_the_cores_that_the_processes_leave(
    cores: int, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert loader_workers(None, device=GPU, pictures=True, processes_here=processes) == expected


def test_texts_and_a_cpu_get_no_workers_unless_the_recipe_asks() -> None:
    assert loader_workers(None, device=GPU, pictures=False, processes_here=1) == 0
    assert loader_workers(None, device=CPU, pictures=True, processes_here=1) == 0
    assert loader_workers(3, device=CPU, pictures=False, processes_here=1) == 3
    assert loader_workers(0, device=GPU, pictures=True, processes_here=1) == 0


def test_where_a_worker_cannot_be_forked_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.system.FORKS_WORKERS", False)  # of Linux it is true
    assert loader_workers(None, device=GPU, pictures=True, processes_here=1) == 0
    assert loader_workers(0, device=CPU, pictures=True, processes_here=1) == 0
    check_device(RunSettings(workers=0), CPU)
    with pytest.raises(RecipeError, match=r"run\.workers: 2: on macOS and Windows no process is forked"):
        check_device(RunSettings(workers=2), CPU)


def counter(powercap: Path, name: str, microjoules: int, *, range: int = 1_000_000) -> None:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{range}\n")


def test_only_a_transformer_on_a_cpu_computes_small_pieces_unless_the_recipe_asks() -> None:
    def budget(device: str, *, glove: bool = False, asked: int | None = None) -> int:
        model = BiLSTM(vectors="vectors.txt") if glove else Transformer(checkpoint="bert")
        stages = {"all": Stage(unfreeze="all", lr=1e-3)}
        recipe = Recipe(name="r", data=TextData(source="d"), model=model, stages=stages, run=RunSettings(tokens_per_batch=asked))
        return tokens_per_batch(recipe, torch.device(device))

    assert budget("cpu") == 4_096
    assert [budget("cuda"), budget("cpu", glove=True), budget("cuda", glove=True)] == [16_384] * 3
    assert budget("cpu", asked=100) == 100


def test_energy_is_summed_over_packages_and_their_parts_are_not_counted_twice(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 100_000)
    counter(tmp_path, "intel-rapl:0:0", 90_000)
    counter(tmp_path, "intel-rapl:1", 500_000)
    meter = EnergyMeter(tmp_path)
    meter.start()
    counter(tmp_path, "intel-rapl:0", 350_000)
    counter(tmp_path, "intel-rapl:1", 600_000)
    meter.update()
    assert meter.joules == 0.35  # 0.25 J and 0.1 J


def test_a_counter_that_started_again_from_zero_loses_nothing(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 900_000)
    meter = EnergyMeter(tmp_path)
    meter.start()
    for value in (200_000, 300_000):  # 0.1 J to the end of the range, 0.2 J, 0.1 J
        counter(tmp_path, "intel-rapl:0", value)
        meter.update()
    assert meter.joules is not None and round(meter.joules, 9) == 0.4


def test_without_counters_the_energy_is_not_known(tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    meter.start()
    meter.update()
    assert meter.joules is None


def test_a_counter_that_cannot_be_read_any_more_makes_the_energy_unknown(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 1)
    meter = EnergyMeter(tmp_path)
    meter.start()
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    meter.update()
    assert meter.joules is None
