"""What a run was computed on: versions, machine, commit. Nothing that names a person or a place."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from hftl import cores

PACKAGES = (
    "hftl",
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "datasets",
    "accelerate",
    "evaluate",
    "albumentations",
    "tokenizers",
    "safetensors",
    "numpy",
    "scikit-learn",
)


def now() -> str:
    """UTC time as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment_record() -> dict[str, Any]:
    """What this process runs on: versions, machine, git commit. Holds no host name, user name, path or environment variable."""
    return {
        "time": now(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": len(cores.affinity()),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "git_commit": _git_commit(),
    }


def package_versions() -> dict[str, str | None]:
    """The versions of the libraries that compute here; None where one is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str | None:
    """The processor, as its maker calls it; None where the system does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _git_commit() -> str | None:
    """Commit of the working directory, with "+changes" when it differs from that commit; None outside a repository.

    The folder may be a stranger's, and the settings in its .git may name commands: a monitor of files, filters of their contents.
    git is told to run none. Filters cannot be switched off, so where there are some, nobody looks for changes: "+unknown".
    """

    def git(*words: str) -> str:
        quiet = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
        done = subprocess.run(["git", *quiet, *words], capture_output=True, text=True, timeout=10)
        if done.returncode and words[0] != "config":  # which exits with 1 when it finds nothing
            raise subprocess.CalledProcessError(done.returncode, "git")
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        if git("config", "--local", "--includes", "--name-only", "--get-regexp", r"^filter\."):
            return f"{commit}+unknown"
        return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all") else commit
    except (FileNotFoundError, subprocess.SubprocessError):
        return None
