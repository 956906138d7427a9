"""What this machine can do: its number format for training, and its matrix rate."""

from __future__ import annotations

import time

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from hftl.errors import RecipeError
from hftl.recipe import Run


def process_state() -> PartialState:
    """Accelerate's state of this process: its rank, the number of processes, its device.

    Accelerate 1.15 sees several CPU processes only where it is told that the CPU is meant; without, each would train alone.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def has_native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run in hardware there; emulated bf16 is slower than float32 and does not count."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def mixed_precision(run: Run, device: torch.device) -> str:
    """ "bf16" or "no", as Accelerate calls them.

    Raises:
        RecipeError: bf16 is asked for on a machine without it.
    """
    if run.precision == "fp32":
        return "no"
    if has_native_bf16(device):
        return "bf16"
    if run.precision == "bf16":
        raise RecipeError.single("run.precision", f"this {device.type} has no native bf16; use auto or fp32")
    return "no"


def matrix_rate(device: torch.device, precision: str, *, seconds: float = 0.3) -> float:
    """FLOP/s of a square matrix product of side 1,024 here, 2 n^3 operations each, measured for about `seconds`."""
    side = 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(side, side, device=device).to(dtype), torch.randn(side, side, device=device).to(dtype)

    def products(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            a @ b
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - start

    products(2)
    count = max(2, round(seconds / (products(2) / 2)))
    return count * 2 * side**3 / products(count)
