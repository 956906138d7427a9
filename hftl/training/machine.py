"""What this machine and its processes can do: how they meet, number formats, matrix rate, energy; and failures as messages."""

from __future__ import annotations

import atexit
import errno
import functools
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, LoggerType, parse_flag_from_env
from safetensors import SafetensorError

from hftl import cores, system
from hftl.data.batches import TOKENS_PER_BATCH
from hftl.data.loader import WorkerError
from hftl.errors import FULL_OR_LOCKED, RecipeError, RunError, did_you_mean
from hftl.models import family_of
from hftl.recipe import Recipe, RunSettings
from hftl.run import RunDirectory


def process_state(*, minutes: float = 30.0) -> PartialState:
    """Accelerate's state of this process: its rank, the number of processes, its device.

    Accelerate 1.15 sees several CPU processes only where it is told that the CPU is meant; without, each would train alone.
    After `minutes` without an answer of the others this process gives up.

    Raises:
        PeerError: not all processes have come.
        RunError: what the launcher says of them cannot be carried out.
    """
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    if os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE"):
        _name_the_network()
    atexit.unregister(_leave_group)  # registered once, however often this is asked
    atexit.register(_leave_group)
    try:
        return PartialState(cpu=cpu, timeout=timedelta(minutes=minutes))
    except ValueError as error:
        if "WORLD_SIZE" not in os.environ:
            raise
        reason = RunError(f"the processes' launcher: {error} (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the environment)")
    except RuntimeError as error:
        if not _is_of_the_network(error):
            raise
        reason = _not_joined(error, minutes=minutes)
    PartialState._reset_state()  # nobody takes what is half made for a state
    raise reason


def _leave_group() -> None:
    """End torch's process group before the interpreter ends.

    With torch 2.14 a process that ends inside its group is aborted by gloo's threads in one of six cases ("terminate called without
    an active exception"), after all its work is done: the launcher then reports a finished run as failed.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _not_joined(error: RuntimeError, *, minutes: float) -> RunError:
    rank, of = os.environ.get("RANK", "?"), os.environ.get("WORLD_SIZE", "?")
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    if "EADDRINUSE" in str(error):
        return RunError(f"process {rank} of {of}: another program uses the port of {place}. Choose another --main_process_port")
    return PeerError(
        f"process {rank} of {of}: the others have not joined at {place} within {minutes:g} minutes (run.timeout_minutes)."
        " Start all of them, on several machines each with its own --machine_rank, and see that process 0 can be reached there"
        f" and that each machine reaches the others (GLOO_SOCKET_IFNAME={os.environ.get('GLOO_SOCKET_IFNAME', '')}).\n"
        f"  torch says: {' '.join(str(error).split())[:300]}"
    )


def _name_the_network() -> None:
    """Tell gloo the network on which the main process is reached, where the user has not: GLOO_SOCKET_IFNAME.

    gloo takes the one that the machine's name stands for, which by many an /etc/hosts is 127.0.0.1: no other machine gets there.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or "MASTER_ADDR" not in os.environ:
        return
    try:
        family, kind, _, _, place = socket.getaddrinfo(os.environ["MASTER_ADDR"], 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # sends nothing: the system only chooses a way
            own = probe.getsockname()[0]
    except OSError:  # no such name, or no way there: said when the main process is not reached
        return
    names = [name for name, addresses in psutil.net_if_addrs().items() for each in addresses if each.address == own]
    if names:
        os.environ["GLOO_SOCKET_IFNAME"] = names[0]


def _is_of_the_network(error: RuntimeError) -> bool:
    """Whether another process, or the way to it, is the cause."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


class PeerError(RunError):
    """Another process of the run has died, or no longer answers. Every process that is left says so."""

    exit_code = 1
    everywhere = True


@contextmanager
def explain_dead_processes() -> Iterator[None]:
    """Turn what torch makes of the death of a loader's worker, or of another process of the run, into a message.

    Raises:
        RunError: a worker has died. torch notices at any moment, not only when it waits for a batch.
        PeerError: another process has died or is silent.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker"):
            what = f"a loader process died: {' '.join(str(error).split())}"
            raise WorkerError(
                f"{what} Too little memory is the usual cause; fewer workers (run.workers) need less. Continue with --resume"
            ) from error
        if not _is_of_the_network(error):
            raise
        state = PartialState()
        raise PeerError(
            f"process {state.process_index} of {state.num_processes}: another process of this run has ended or no longer answers."
            " Once there is a checkpoint, the run continues from it with --resume"
        ) from error


def has_native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run in hardware there; emulated bf16 is slower than float32 and does not count."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def has_fast_fp16(device: torch.device) -> bool:
    """Whether this is a CUDA GPU that computes float16 faster than float32.

    Those of compute capability 6.0 (P100) and from 7.0 (V100, T4) do; the Pascals between them (6.1: GTX 10, P4, P40) do it at a
    64th of the speed.
    """
    if device.type != "cuda":
        return False
    capability = torch.cuda.get_device_capability(device)
    return capability == (6, 0) or capability >= (7, 0)


def mixed_precision(run: RunSettings, device: torch.device) -> str:
    """ "bf16", "fp16" or "no", as Accelerate calls them.

    Raises:
        RecipeError: bf16 is asked for on a machine without it, or fp16 on anything but a CUDA GPU.
    """
    if run.precision == "fp16" and device.type != "cuda":
        # Accelerate 1.15 would train in float32 on a CPU, without a word.
        raise RecipeError.single("run.precision", f"fp16 is for CUDA GPUs, and this is a {device.type}; use auto or fp32")
    if run.precision == "bf16" and not has_native_bf16(device):
        raise RecipeError.single("run.precision", f"this {device.type} has no native bf16; use auto or fp32")
    if run.precision != "auto":
        return {"fp32": "no"}.get(run.precision, run.precision)
    if has_native_bf16(device):
        return "bf16"
    return "fp16" if has_fast_fp16(device) else "no"


FIRST_SCALE = 2.0**16
"""By which the gradients of a stage's first step are multiplied in fp16; torch halves it when they overflow, and doubles it after
2,000 steps in which they did not."""
LEAST_SCALE = 1.0
"""Gradients that overflow without being multiplied are too large, and no smaller scale helps."""


def begin_scaling(accelerator: Accelerator) -> None:
    """In fp16, let a stage begin with the scale that every stage begins with: nothing of another one crosses."""
    if accelerator.scaler is not None:
        state = accelerator.scaler.state_dict() | {"scale": FIRST_SCALE, "_growth_tracker": 0}
        accelerator.scaler.load_state_dict(state)


def gradient_scale(accelerator: Accelerator) -> float:
    """By how much gradients are multiplied at this moment; 1 but in fp16."""
    return 1.0 if accelerator.scaler is None else float(accelerator.scaler.get_scale())


def settle_fsdp(accelerator: Accelerator) -> None:
    """Refuse what a launcher's configuration asks of FSDP and hftl does not do; in bf16, let gradients be summed in float32.

    hftl shards by layers, with the second version. Accelerate would have gradients summed in bf16 too.

    Raises:
        RunError: FSDP is asked for in another way than recipes/accelerate/fsdp.yaml does it, or where there is none.
    """
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return
    if accelerator.distributed_type is not DistributedType.FSDP:
        raise RunError(
            f"FSDP was asked for, and Accelerate makes {accelerator.distributed_type.value} of it on this device"
            f" ({accelerator.device.type}). Without FSDP: recipes/accelerate/multi_gpu.yaml or cpu_two_processes.yaml"
        )
    from torch.distributed.fsdp import MixedPrecisionPolicy  # a second of imports that no other run needs
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    plugin = accelerator.state.fsdp_plugin
    options = {
        "fsdp_version: 1": plugin.fsdp_version != 2,
        "fsdp_cpu_ram_efficient_loading: true": plugin.cpu_ram_efficient_loading,
        "fsdp_activation_checkpointing: true": plugin.activation_checkpointing,
        "an fsdp_auto_wrap_policy that is not TRANSFORMER_BASED_WRAP": plugin.auto_wrap_policy is not transformer_auto_wrap_policy,
    }
    if refused := [what for what, is_set in options.items() if is_set]:
        raise RunError(f"FSDP: hftl does not do {', '.join(refused)}. Use recipes/accelerate/fsdp.yaml")
    if accelerator.mixed_precision == "fp16":
        raise RunError("FSDP: hftl shards in bf16 and float32, not in fp16. Use run.precision=fp32, or multi_gpu.yaml without FSDP")
    if accelerator.mixed_precision == "bf16":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def tune_kernels(run: RunSettings, device: torch.device) -> None:
    """Choose the kernels of what stays float32 on a CUDA device; a CPU is left as it is. They hold for the whole process.

    "fp32" is asked for to have IEEE float32. Otherwise products of float32 matrices, convolutions and LSTMs round their inputs to
    TF32, of 10 bits of mantissa where bf16 has 7; the weights stay float32. cuDNN does not try out its algorithms on every new
    shape: another one may be the fastest at a resume, and lengths change with every batch.
    """
    if device.type != "cuda":
        return
    # These two keep torch's old and new settings in step. With `fp32_precision` alone the old ones raise when they are read, and
    # torch.compile of torch 2.14 reads them.
    torch.set_float32_matmul_precision("highest" if run.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = run.precision != "fp32"
    torch.backends.cudnn.benchmark = False


def check_device(run: RunSettings, device: torch.device) -> None:
    """Refuse `run.compile` where there is nothing to gain, or nobody has tried, and `run.workers` where there can be none.

    Raises:
        RecipeError: compiling is asked for on a CPU, or on a GPU of Apple; or workers are where no process can be forked.
    """
    if run.workers and not system.FORKS_WORKERS:
        what = (
            f"{run.workers}: on macOS and Windows no process is forked, and what prepares the examples cannot be sent to a new one"
        )
        raise RecipeError.single("run.workers", what, "leave it out: the training process prepares them itself")
    if run.compile and device.type == "cpu":
        raise RecipeError.single("run.compile", "compiling takes a minute on a CPU and gains nothing; leave it out")
    if run.compile and device.type == "mps":
        raise RecipeError.single("run.compile", "torch's compiler for Apple's GPUs is unfinished; leave it out")


def loader_workers(requested: int | None, *, device: torch.device, pictures: bool, processes_here: int) -> int:
    """How many loader processes one training process gets; `processes_here` of them share this machine.

    What the recipe asks for (`requested`), otherwise none for texts, which are token ids by then, on a CPU, where training has the
    cores itself, and where a worker cannot be forked (macOS, Windows); pictures for a GPU get the cores that are left, at least 1
    and at most 8. 16 cores, 2 processes: 7 each.
    Cores are those that this process may run on, which in a container or a job may be fewer than the machine has.
    """
    if requested is not None:
        return requested
    if not pictures or device.type == "cpu" or not system.FORKS_WORKERS:
        return 0
    return max(1, min(8, len(cores.affinity()) // processes_here - 1))


def tokens_per_batch(recipe: Recipe, device: torch.device) -> int:
    """What the recipe asks for; otherwise 4,096 for a transformer on a CPU, 16,384 elsewhere.

    MiniLM, 64 IMDb reviews of up to 512 tokens, 32 a step, 2 Zen 5 cores: an epoch took 12 s with 2,048, 14 with 4,096, 17 with
    8,192 and 27 with 16,384; of a far smaller model, 1,000 reviews, 23, 16 and 17 s with 2,048, 4,096 and 16,384. A GPU has to be
    filled, and networks over word vectors spend more on a batch than on its tokens.
    """
    if recipe.run.tokens_per_batch is not None:
        return recipe.run.tokens_per_batch
    on_cpu = family_of(recipe.model.family).tokens_on_cpu if device.type == "cpu" else None
    return on_cpu or TOKENS_PER_BATCH


def evaluation_batch_size(recipe: Recipe) -> int:
    """Pictures of an evaluation batch of one process: what the recipe asks for, otherwise 64. Of texts it says nothing."""
    return recipe.run.evaluation_batch_size or 64


@functools.cache
def matrix_rate(device: torch.device, precision: str, *, seconds: float = 0.3) -> float:
    """FLOP/s of a square matrix product of side 1,024 here, 2 n^3 operations each, measured for about `seconds`, once a process."""
    side = 1024
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
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


@contextmanager
def disk_errors(run: RunDirectory) -> Iterator[None]:
    """Turn what a full, broken or read-only disk makes of a write into a message; other errors of files keep their traceback.

    Raises:
        RunError: something of the run could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else errno.EIO
        if number not in FULL_OR_LOCKED:
            raise
        where = getattr(error, "filename", None) or run.path
        what = getattr(error, "strerror", None) or error
        free = f"{shutil.disk_usage(run.path).free / 1e6:,.1f} MB are free"
        raise RunError(
            f"{where}: cannot be written: {what}, {free}. The last checkpoint stands; make room and continue with --resume"
        ) from error


class EnergyMeter:
    """Energy of the processors' packages since `start`, in joules, from the counters of Intel's and AMD's RAPL.

    The counters are the whole machine's and start again from 0 after some minutes, so `update` is called more often than that.
    GPUs are not in it. Where the counters cannot be read (a virtual machine, or no rights), `joules` is None.
    """

    def __init__(self, powercap: Path = Path("/sys/class/powercap")) -> None:
        # One folder a package: "intel-rapl:0"; its parts ("intel-rapl:0:0") are counted in it.
        self._packages = [path for path in sorted(powercap.glob("intel-rapl:*")) if path.name.count(":") == 1]
        self._last: list[int] | None = None
        self.joules: float | None = None

    def start(self) -> None:
        self._last = self._read()
        self.joules = None if self._last is None else 0.0

    def update(self) -> None:
        now = self._read()
        if now is None or self._last is None or self.joules is None:
            self.joules = None
            return
        for package, before, after in zip(self._packages, self._last, now, strict=True):
            turn = 0 if after >= before else int((package / "max_energy_range_uj").read_text())
            self.joules += (after - before + turn) / 1e6
        self._last = now

    def _read(self) -> list[int] | None:
        try:
            return [int((package / "energy_uj").read_text()) for package in self._packages] or None
        except OSError:  # readable by root alone on most systems
            return None


EXTRAS = ("tensorboard", "trackio", "mlflow", "wandb")
"""Trackers that hftl was run with, each an extra of its name."""


def make_accelerator(recipe: Recipe, run: RunDirectory | None) -> Accelerator:
    """Accelerate as the launcher set it up (processes, device, FSDP), with the recipe's number format and trackers.

    `run` is where trackers write; None: nothing is written.

    Raises:
        RecipeError: the machine cannot do what the recipe asks for, or a tracker is unknown or not installed.
        RunError: the launcher asks for an FSDP that hftl does not do.
    """
    state = process_state()
    precision = mixed_precision(recipe.run, state.device)
    check_device(recipe.run, state.device)
    tune_kernels(recipe.run, state.device)
    known = [tracker.value for tracker in LoggerType if tracker is not LoggerType.ALL]
    trackers = () if run is None else recipe.run.trackers
    for name in trackers:
        if name not in known:
            raise RecipeError.single(
                "run.trackers", f'no tracker "{name}".{did_you_mean(name, known)}', f"allowed: {', '.join(known)}"
            )
        if name not in {tracker.value for tracker in get_available_trackers()}:
            package = f'"hftl[{name}]"' if name in EXTRAS else name
            raise RecipeError.single("run.trackers", f'the package of tracker "{name}" is not installed', f"pip install {package}")
    AcceleratorState._reset_state()  # a process may train several recipes, each with its own number format
    accelerator = Accelerator(
        cpu=state.device.type == "cpu",
        mixed_precision=precision,
        step_scheduler_with_optimizer=False,
        log_with=list(trackers) or None,
        project_dir=None if run is None else str(run.path),
    )
    settle_fsdp(accelerator)
    if recipe.run.gradient_checkpointing and accelerator.distributed_type is DistributedType.FSDP:
        what = "layers in pieces (FSDP) are not computed again; leave it out, or set run.gradient_accumulation"
        raise RecipeError.single("run.gradient_checkpointing", what)
    return accelerator
