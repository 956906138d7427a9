"""The energy meter reads RAPL's counters as files, and says nothing where they say nothing."""

from __future__ import annotations

from pathlib import Path

from hftl.training.machine import EnergyMeter


def counter(powercap: Path, name: str, microjoules: int, *, range: int = 1_000_000) -> None:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{range}\n")


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
