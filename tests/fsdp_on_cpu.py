"""The command line of hftl with FSDP over gloo:

    accelerate launch --config_file recipes/accelerate/fsdp.yaml --gpu_ids=-1,-1 tests/fsdp_on_cpu.py train ...

Accelerate 1.15 takes FSDP for a matter of GPUs and quietly makes DDP of it on a CPU. This script lets it take its processes for
those of GPUs; all that follows is what runs there, but for the device.
"""

from __future__ import annotations

from accelerate import PartialState
from accelerate.utils import DistributedType

from hftl.cli import main
from hftl.training import machine, open_run


def process_state_of_gpus(*, minutes: float = 30.0) -> PartialState:
    state = machine.process_state(minutes=minutes)
    state.distributed_type = DistributedType.MULTI_GPU
    return state


def start() -> None:
    open_run.process_state = process_state_of_gpus  # type: ignore[attr-defined]  # its import of it
    main()


if __name__ == "__main__":
    start()
