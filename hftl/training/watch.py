"""What a running stage keeps an eye on: signals, the next checkpoint, the cores, time and energy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from signal import SIGTERM

import torch
from accelerate import Accelerator

from hftl.signals import SIGNALS, is_orphan
from hftl.training.checkpoint import Place
from hftl.training.machine import EnergyMeter
from hftl.training.progress import Progress
from hftl.training.threads import Threads

MIN_INTERVAL_IN_SAVES = 10
"""An epoch's checkpoint is written when at least so many times the duration of a save have passed since the last one: an epoch over
stored activations can take less time than a save."""

LIGHT = 10.0
"""Seconds of training that a trial of a study may lose for want of a checkpoint: many take less, and most are thrown away."""


class Watch:
    """What interrupts the loop, with the same answer on every process: a signal to one of them, or a checkpoint that is due."""

    def __init__(
        self,
        accelerator: Accelerator,
        noted: Callable[[], int | None],
        threads: Threads,
        *,
        minutes: float,
        last_saved: str | None,
        light: bool = False,
    ) -> None:
        self._accelerator = accelerator
        self._noted = noted
        self.threads = threads
        self._seconds = 60 * minutes
        self._saved_at, self._saving, self._light = time.monotonic(), 0.0, light
        self.last_saved = last_saved
        """Name of the last checkpoint, None before there is one."""

    def signal(self) -> int | None:
        """The signal that asked this process, or another one, to stop."""
        own = self._noted() or (SIGTERM if is_orphan() else None)
        if self._accelerator.num_processes == 1:
            return own
        flags = self._summed([float(own == number) for number in SIGNALS])
        return own if own is not None else next((number for number, flag in zip(SIGNALS, flags, strict=True) if flag), None)

    def is_due(self) -> bool:
        """Whether the last checkpoint is too long ago, by the clock of the main process."""
        return self._everywhere(time.monotonic() - self._saved_at >= self._seconds)

    def epoch_checkpoint_pays(self) -> bool:
        """Whether enough time has passed for a checkpoint of the epoch: ten times what the last one took, or one is due anyway."""
        enough = min(max(MIN_INTERVAL_IN_SAVES * self._saving, LIGHT if self._light else 0.0), self._seconds)
        first = self.last_saved is None and not self._light
        return self._everywhere(first or time.monotonic() - self._saved_at >= enough)

    def saved(self, progress: Place, *, seconds: float) -> None:
        """Note that a checkpoint was written, and how long that took."""
        self._saved_at, self._saving = time.monotonic(), seconds
        self.last_saved = progress.name

    def _everywhere(self, answer: bool) -> bool:
        """What the main process says."""
        if self._accelerator.num_processes == 1:
            return answer
        return bool(self._summed([float(answer and self._accelerator.is_main_process)])[0])

    def _summed(self, values: list[float]) -> list[float]:
        """The sum of each value over all processes; not 0 where it is not 0 on one of them."""
        summed: list[float] = self._accelerator.reduce(torch.tensor(values, device=self._accelerator.device), "sum").tolist()
        return summed


class Cost:
    """Time and energy of a stage in this session, added to what the run had cost before it."""

    def __init__(self, before: Progress) -> None:
        self._before = before
        self._began = time.perf_counter()
        self._energy = EnergyMeter()
        self._energy.start()

    def so_far(self, progress: Progress) -> Progress:
        self._energy.update()
        before, joules = self._before.spent, self._energy.joules
        seconds = before.seconds + time.perf_counter() - self._began
        energy = None if before.cpu_joules is None or joules is None else before.cpu_joules + joules
        return replace(progress, spent=replace(progress.spent, seconds=seconds, cpu_joules=energy))
