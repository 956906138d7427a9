from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hftl.cores import cpu_quota
from hftl.doctor import (
    GIB,
    NMS,
    Check,
    cores_check,
    device_checks,
    examine,
    hub_checks,
    memory_check,
    memory_limit,
    package_checks,
    pair_checks,
    probe,
    python_check,
)

EXAMINE = "import json; from hftl.doctor import examine; print(json.dumps([[c.name, c.ok, c.found, c.advice] for c in examine()]))"


def examine_with(folder: Path) -> dict[str, Check]:
    """What the doctor says in a process that finds the packages of `folder` first."""
    path = os.pathsep.join([str(folder), str(Path(__file__).resolve().parent.parent)])
    done = subprocess.run(
        [sys.executable, "-c", EXAMINE], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    return {check.name: check for check in (Check(*values) for values in json.loads(done.stdout))}


def write_metadata(folder: Path, name: str, version: str, *requirements: str) -> None:
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {text}" for text in requirements)]
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_the_installation_that_runs_the_tests_has_no_failed_library() -> None:
    checks = examine()
    about_libraries = [
        check for check in checks if check.name in {"torch", "transformers", "torch with torchvision", "import torchvision"}
    ]
    assert len(about_libraries) >= 2
    assert all(check.ok for check in about_libraries)
    assert all(check.advice for check in checks if check.ok is False)
    assert all(0 < len(check.name) <= 24 for check in checks)  # `hftl doctor` prints them in a column of that width


def test_a_torchvision_that_does_not_fit_torch_is_named_and_does_not_stop_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise RuntimeError('{NMS}')\n", encoding="utf-8")
    write_metadata(tmp_path, "torchvision", "0.29.1")
    write_metadata(tmp_path, "torch", "2.13.0+cpu")
    write_metadata(
        tmp_path, "hftl", "0.1.0", "torch>=2.14", "torchvision>=0.29", "no-such-library>=3", 'tensorboard; extra == "tensorboard"'
    )
    checks = examine_with(tmp_path)
    assert checks["torch"] == Check(
        "torch", False, "2.13.0+cpu; hftl needs >=2.14", 'pip install "torch==2.14.*" "torchvision==0.29.*"'
    )
    assert checks["torchvision"].ok
    assert checks["no-such-library"] == Check(
        "no-such-library", False, "not installed; hftl needs >=3", 'pip install "no-such-library>=3"'
    )
    assert checks["torch with torchvision"].ok is False
    assert checks["torch with torchvision"].found == "2.13.0+cpu with 0.29.1"
    assert "torch 2.13 goes with torchvision 0.28" in checks["torch with torchvision"].advice
    assert NMS in checks["torch with torchvision"].advice
    assert checks["import torchvision"].ok is False
    assert checks["import torchvision"].found == f"RuntimeError: {NMS}"
    assert "bf16 on the CPU" in checks  # torch itself answered


def test_a_torch_that_cannot_be_imported_leaves_the_other_checks(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libtorch_cpu.so: file too short')\n", encoding="utf-8")
    checks = examine_with(tmp_path)
    assert checks["import torch"].ok is False
    assert checks["import torch"].found == "OSError: libtorch_cpu.so: file too short"
    assert "--force-reinstall" in checks["import torch"].advice
    assert {"memory", "Hub", "free disk here"} <= set(checks)
    assert not {"GPUs", "bf16 on the CPU"} & set(checks)


def test_a_library_that_kills_the_interpreter_is_reported_by_its_signal(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", encoding="utf-8")
    assert examine_with(tmp_path)["import torch"].found == "ended by signal 11"


def test_an_import_that_never_ends_is_given_up() -> None:
    facts, checks = probe(seconds=0.01)
    assert facts is None
    assert [check.ok for check in checks] == [False]
    assert checks[0].advice


@pytest.mark.parametrize(
    ("torch", "torchvision", "ok"), [("2.14.1", "0.29.1", True), ("2.14.0+cu130", "0.29.0", True), ("2.13.0", "0.28.0", True)]
)
def test_pairs_that_were_compiled_together_pass(torch: str, torchvision: str, ok: bool) -> None:
    assert [check.ok for check in pair_checks(torch, torchvision)] == [ok]


@pytest.mark.parametrize(("torch", "torchvision"), [("2.13.0", "0.29.1"), ("2.14.1", "0.28.0"), ("2.12.1", "0.29.0")])
def test_pairs_that_were_not_compiled_together_fail(torch: str, torchvision: str) -> None:
    assert [check.ok for check in pair_checks(torch, torchvision)] == [False]


def test_an_unknown_torch_is_neither_good_nor_bad_and_a_missing_one_is_reported_elsewhere() -> None:
    assert [check.ok for check in pair_checks("3.0.0", "0.40.0")] == [None]
    assert pair_checks(None, "0.29.1") == []


def test_every_requirement_of_hftl_is_checked_once() -> None:
    names = [check.name for check in package_checks()]
    if names == ["hftl"]:
        pytest.skip("hftl is not installed here, only on the path: pip install -e .")
    assert len(names) == len(set(names))
    assert {"hftl", "torch", "transformers", "albumentations"} <= set(names)
    assert "pytest" not in names


def test_an_old_python_fails() -> None:
    assert python_check((3, 11)).ok
    assert python_check((3, 14)).ok
    assert python_check((3, 10)).ok is False


def test_a_gpu_that_torch_cannot_use_is_told_apart_from_no_gpu() -> None:
    facts = {"cpu_bf16": [], "gpus": [], "mps": False, "cuda_build": None}
    none = named(device_checks(facts, has_nvidia_gpu=False))
    assert none["GPUs"].ok is None
    assert none["bf16 on the CPU"].ok is None
    assert none["bf16 on the CPU"].found.endswith("fp32")
    cpu_build = named(device_checks(facts, has_nvidia_gpu=True))["GPUs"]
    assert cpu_build.ok is False
    assert "without CUDA" in cpu_build.found
    old_driver = named(device_checks({**facts, "cuda_build": "13.0"}, has_nvidia_gpu=True))["GPUs"]
    assert old_driver.ok is False
    assert "driver" in old_driver.advice


def test_each_gpu_is_listed_with_its_memory() -> None:
    gpu = {"name": "NVIDIA H200", "memory": 140 * GIB, "bf16": True, "fp16": True}
    gpus = [gpu, {**gpu, "bf16": False, "fp16": False}, {**gpu, "name": "Tesla T4", "memory": 15 * GIB, "bf16": False}]
    facts = {"cpu_bf16": ["avx512_bf16", "amx_bf16"], "gpus": gpus, "mps": False, "cuda_build": "13.0"}
    checks = named(device_checks(facts, has_nvidia_gpu=True))
    assert checks["GPU 0"].found == "NVIDIA H200, 140 GiB, bf16"
    assert checks["GPU 1"].found == "NVIDIA H200, 140 GiB, no bf16: training here uses fp32"
    assert checks["GPU 2"].found == "Tesla T4, 15 GiB, no bf16: training here uses fp16"
    assert checks["bf16 on the CPU"].found == "avx512_bf16, amx_bf16"


def test_a_containers_limits_are_read_from_its_control_group(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n", encoding="utf-8")
    (tmp_path / "memory.max").write_text("2147483648\n", encoding="utf-8")
    assert cpu_quota(tmp_path) == 1.5
    assert memory_limit(tmp_path) == 2 * GIB
    (tmp_path / "cpu.max").write_text("max 100000\n", encoding="utf-8")
    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) is None


def test_more_threads_than_a_container_may_run_is_a_failure_with_the_setting_that_cures_it() -> None:
    assert cores_check(8, None, "").ok
    assert cores_check(8, 8.0, "").ok
    crowded = cores_check(64, 2.5, "")
    assert crowded.ok is False
    assert crowded.found == "64, of which this container may use 2.5"
    assert crowded.advice.endswith("OMP_NUM_THREADS=2")
    assert cores_check(64, 2.5, "2").ok


def test_memory_is_the_containers_where_that_is_less() -> None:
    assert memory_check(24 * GIB, None) == Check("memory", True, "24.0 GiB", memory_check(24 * GIB, None).advice)
    assert memory_check(24 * GIB, 2 * GIB).ok is False
    assert memory_check(24 * GIB, 2 * GIB).found == "2.0 GiB (the container's limit)"
    assert memory_check(24 * GIB, 2**63 - 4096).found == "24.0 GiB"  # version 1 writes "no limit" so


def test_the_hubs_settings_are_told_without_the_token(tmp_path: Path) -> None:
    secret = "hf_" + "x" * 34
    (tmp_path / "token").write_text(secret, encoding="utf-8")
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("", encoding="utf-8")
    settings = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "https://user:password@hub.example"}
    on_disk = hub_checks(settings)
    in_environment = hub_checks({**settings, "HF_TOKEN": secret})
    assert named(on_disk)["Hub"].found.startswith("offline (HF_HUB_OFFLINE is set)")
    assert named(on_disk)["Hub address"].found == "HF_ENDPOINT is set"
    assert named(on_disk)["Hub token"].found == "present (file)"
    assert named(in_environment)["Hub token"].found == "present (environment)"
    assert "default_config.yaml" in named(on_disk)["accelerate's default"].found
    for check in [*on_disk, *in_environment]:
        assert secret not in repr(check)
        assert "password" not in repr(check)


def test_without_settings_the_hub_is_online_and_nothing_is_found(tmp_path: Path) -> None:
    checks = named(hub_checks({"XDG_CACHE_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_TOKEN": " "}))
    assert checks["Hub"].found == "online by its settings (not tried)"
    assert checks["Hub address"].found == "the default"
    assert checks["Hub token"].found.startswith("none")
    assert checks["accelerate's default"].found.startswith("none")
