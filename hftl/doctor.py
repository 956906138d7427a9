"""What keeps training from working on this machine, and what to do about it.

Nothing that may be broken is imported here: versions come from the installed metadata, and what only the libraries know is asked
in a process of its own, so that an installation that cannot even import torchvision still gets an answer. The Hub is judged by
its settings alone; no request is sent and no token is read.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hftl import cores

# torch -> the torchvision that is compiled against it; pip alone does not keep them together.
PAIRS = {"2.11": "0.26", "2.12": "0.27", "2.13": "0.28", "2.14": "0.29"}
INSTALL_PAIR = 'pip install "torch==2.14.*" "torchvision==0.29.*"'
NMS = "operator torchvision::nms does not exist"
OPTIONAL = {"tensorboard": 'pip install "hftl[tensorboard]"', "onnx": "pip install onnx", "onnxruntime": "pip install onnxruntime"}
GIB = 2**30

# Prints what torch knows as one line of JSON, then imports torchvision: how far it comes is the diagnosis.
PROBE = """
import json
import torch
able = torch.cpu.get_capabilities()
gpus = []
if torch.cuda.is_available():
    for place in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(place)
        with torch.cuda.device(place):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        capability = (gpu.major, gpu.minor)
        fp16 = capability == (6, 0) or capability >= (7, 0)  # as hftl.training.machine has it
        gpus.append({"name": gpu.name, "memory": gpu.total_memory, "bf16": bf16, "fp16": fp16})
facts = {
    "cpu_bf16": [name for name in ("avx512_bf16", "amx_bf16") if able.get(name)],
    "gpus": gpus,
    "mps": torch.backends.mps.is_available(),
    "cuda_build": torch.version.cuda,
}
print("torch", json.dumps(facts), flush=True)
import torchvision
print("torchvision", flush=True)
"""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `ok` None is a fact that is neither good nor bad. A failed check has `advice`."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Look at versions, number formats, devices, memory, disk and settings. Takes as long as importing torch does."""
    versions = {name: installed_version(name) for name in ("torch", "torchvision")}
    facts, broken = probe()
    return [
        python_check(sys.version_info[:2]),
        *package_checks(),
        *pair_checks(versions["torch"], versions["torchvision"]),
        *broken,
        *device_checks(facts, has_nvidia_gpu=_has_nvidia_gpu()),
        *machine_checks(),
        *hub_checks(os.environ),
        *optional_checks(),
    ]


# --- versions -----------------------------------------------------------------------------------------------------------------


def installed_version(package: str) -> str | None:
    """Version by the installed metadata; None where the package, or its metadata, is missing."""
    try:
        version: str | None = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    return version


def python_check(version: tuple[int, int]) -> Check:
    """Python itself."""
    running = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    return Check(
        "Python", version >= (3, 11), running, "hftl needs Python 3.11 or later: make clean, then make quickstart PYTHON=python3.12"
    )


def package_checks() -> list[Check]:
    """Every library that hftl requires, against the version that it requires."""
    from_checkout = "in a checkout of hftl: make quickstart, or pip install -c constraints.txt -e ."
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return [Check("packaging", False, "cannot be imported, so no version can be compared", "pip install packaging")]
    try:
        requirements = [Requirement(text) for text in metadata.requires("hftl") or []]
    except metadata.PackageNotFoundError:
        return [Check("hftl", False, "imported from a folder, not installed, so what it requires is unknown", from_checkout)]
    checks = [Check("hftl", True, installed_version("hftl") or "version not recorded")]
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed_version(requirement.name)
        # Installing one of the pair alone is what breaks the other.
        advice = INSTALL_PAIR if requirement.name in {"torch", "torchvision"} else f'pip install "{requirement}"'
        if version is None:
            checks.append(Check(requirement.name, False, f"not installed; hftl needs {requirement.specifier}", advice))
        elif not requirement.specifier.contains(version, prereleases=True):
            checks.append(Check(requirement.name, False, f"{version}; hftl needs {requirement.specifier}", advice))
        else:
            checks.append(Check(requirement.name, True, version))
    return checks


def pair_checks(torch: str | None, torchvision: str | None) -> list[Check]:
    """Whether torchvision was compiled against this torch: ``("2.13.0+cpu", "0.29.1")`` fails."""
    if torch is None or torchvision is None:
        return []  # reported as not installed
    name, versions = "torch with torchvision", f"{torch} with {torchvision}"
    wanted = PAIRS.get(_minor(torch))
    if wanted is None:
        return [Check(name, None, f"{versions}: not a pair that hftl knows")]
    advice = f'torch {_minor(torch)} goes with torchvision {wanted}; any other one ends in "{NMS}". {INSTALL_PAIR}'
    return [Check(name, _minor(torchvision) == wanted, versions, advice)]


def optional_checks() -> list[Check]:
    """Libraries that only some of hftl's commands need."""
    versions = {name: installed_version(name) for name in OPTIONAL}
    return [Check(name, None, version or f"not installed (optional: {OPTIONAL[name]})") for name, version in versions.items()]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


# --- what only torch knows ----------------------------------------------------------------------------------------------------


def probe(*, seconds: float = 300) -> tuple[dict[str, Any] | None, list[Check]]:
    """Import torch and torchvision in a process of their own: (what torch says, whether the imports work)."""
    try:
        # -P: a file called random.py in the working folder is not part of the installation.
        done = subprocess.run([sys.executable, "-P", "-c", PROBE], capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return None, [
            Check("import torch", False, f"no answer in {seconds:.0f} s", "a slow or full disk, or too little memory: look at both")
        ]
    answers = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    facts = json.loads(answers["torch"]) if "torch" in answers else None
    if done.returncode == 0:
        return facts, [Check("import torchvision", True, "works")]
    last = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "nothing was said")
    outcome = f"ended by signal {-done.returncode}" if done.returncode < 0 else last
    if facts is None:
        return None, [Check("import torch", False, outcome, f"reinstall it with its pair: {INSTALL_PAIR} --force-reinstall")]
    advice = (
        f"torch and torchvision must be one pair, from one place (both for CUDA or both for CPU): {INSTALL_PAIR} --force-reinstall"
    )
    return facts, [Check("import torchvision", False, outcome, advice)]


def device_checks(facts: dict[str, Any] | None, *, has_nvidia_gpu: bool) -> list[Check]:
    """GPUs, and where bf16 is computed in hardware; `facts` are torch's, None where it cannot be imported."""
    if facts is None:
        return []
    kinds = facts["cpu_bf16"]
    checks = [Check("bf16 on the CPU", True if kinds else None, ", ".join(kinds) or "not in hardware: training here uses fp32")]
    if not facts["gpus"] and has_nvidia_gpu:
        build = f"built for CUDA {facts['cuda_build']}" if facts["cuda_build"] else "built without CUDA"
        advice = "update the NVIDIA driver" if facts["cuda_build"] else f"install a CUDA build: {INSTALL_PAIR} --force-reinstall"
        checks.append(Check("GPUs", False, f"nvidia-smi lists one, torch ({build}) cannot use it", advice))
    elif not facts["gpus"]:
        checks.append(
            Check(
                "GPUs",
                None,
                "an Apple GPU (MPS), on which hftl was never tested" if facts["mps"] else "none: training runs on the CPU",
            )
        )
    for place, gpu in enumerate(facts["gpus"]):
        number = "bf16" if gpu["bf16"] else f"no bf16: training here uses {'fp16' if gpu['fp16'] else 'fp32'}"
        checks.append(Check(f"GPU {place}", True, f"{gpu['name']}, {gpu['memory'] / GIB:.0f} GiB, {number}"))
    return checks


def _has_nvidia_gpu() -> bool:
    """Whether the driver's own tool lists a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


# --- the machine --------------------------------------------------------------------------------------------------------------


def machine_checks() -> list[Check]:
    """Cores, memory, and free disk where runs are written."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = Path("/sys/fs/cgroup")
    free = shutil.disk_usage(".").free
    return [
        cores_check(len(cores.affinity()), cores.quota(), os.environ.get("OMP_NUM_THREADS", "")),
        load_check(cores.allowed(), _others(), os.environ.get("OMP_NUM_THREADS", "")),
        memory_check(memory, memory_limit(limits)),
        Check(
            "free disk here",
            free >= 5 * GIB,
            f"{free / GIB:.1f} GiB",
            "a checkpoint takes 16 bytes a parameter, 1.8 GB for a BERT-base: make room, or write runs elsewhere with --run-dir",
        ),
    ]


def cores_check(cores: int, quota: float | None, threads: str) -> Check:
    """Cores, and whether a container may use fewer of them than torch starts threads; `threads` is OMP_NUM_THREADS."""
    if quota is None or quota >= cores:
        return Check("CPU cores", True, str(cores))
    wanted = max(1, int(quota))
    advice = f"torch starts a thread a core, and they wait for each other: export OMP_NUM_THREADS={wanted}"
    is_limited = threads.isdigit() and int(threads) <= wanted
    return Check("CPU cores", is_limited, f"{cores}, of which this container may use {quota:g}", advice)


def load_check(may_use: float, others: float | None, threads: str) -> Check:
    """What other processes leave of the cores, and how many threads a run would start with; `threads` is OMP_NUM_THREADS."""
    if others is None:
        return Check("free cores", None, "not recorded by this system: a run starts a thread a core")
    free = cores.threads_at_start(max(1, int(may_use)), may_use, others)
    setting = f"OMP_NUM_THREADS={threads}" if threads else f"{free} thread{'' if free == 1 else 's'}"
    load = f"{max(0.0, may_use - others):.1f} of {may_use:g} at this moment: a run would start with {setting}"
    advice = (
        "threads wait for each other, and more of them than there are free cores can be many times slower than one thread:"
        f" export OMP_NUM_THREADS={free}, or unset it: hftl then looks while it trains"
    )
    return Check("free cores", not threads.isdigit() or int(threads) <= free, load, advice)


def _others(*, seconds: float = 0.5) -> float | None:
    """Cores that other processes use, over some seconds."""
    before = cores.read()
    time.sleep(seconds)
    return cores.between(before, cores.read()).others


def memory_check(memory: int, limit: int | None) -> Check:
    """Memory of the machine, or of the container where that is less."""
    usable = memory if limit is None else min(memory, limit)
    memory_size = f"{usable / GIB:.1f} GiB" + (" (the container's limit)" if usable < memory else "")
    advice = "small models only: lower run.batch_size or data.max_length, or raise run.gradient_accumulation"
    return Check("memory", usable >= 4 * GIB, memory_size, advice)


def memory_limit(folder: Path) -> int | None:
    """Bytes a container may use by its control group (version 2 or 1), None without a limit."""
    text = _read(folder / "memory.max") or _read(folder / "memory" / "memory.limit_in_bytes")
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


# --- the Hub and Accelerate ---------------------------------------------------------------------------------------------------


def hub_checks(environment: Mapping[str, str]) -> list[Check]:
    """What the Hub's and Accelerate's settings say. No request is sent; a token is looked for, and never read or shown."""
    switch = "HF_HUB_OFFLINE" if environment.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    offline = environment.get(switch, "").upper() in {"1", "ON", "YES", "TRUE"}
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = _path(environment.get("HF_HOME") or f"{cache}/huggingface")
    token_file = _path(environment.get("HF_TOKEN_PATH") or str(home / "token"))
    in_environment = any(environment.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    on_disk = token_file.is_file() and token_file.stat().st_size > 0
    token = (
        "present (environment)" if in_environment else "present (file)" if on_disk else "none: needed to push, and for private data"
    )
    config = home / "accelerate" / "default_config.yaml"
    launch = f"{config}: every `accelerate launch` reads it" if config.is_file() else "none; ready ones are in recipes/accelerate"
    return [
        Check(
            "Hub",
            None,
            f"offline ({switch} is set): only what is in the cache" if offline else "online by its settings (not tried)",
        ),
        Check("Hub address", None, "HF_ENDPOINT is set" if environment.get("HF_ENDPOINT") else "the default"),
        Check("Hub token", None, token),
        Check("accelerate's default", None, launch),
    ]


def _path(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()
