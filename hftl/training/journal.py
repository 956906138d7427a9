"""What a run says while it runs: history.jsonl for programs, log.txt and the terminal for people, Accelerate's trackers.

Only the main process speaks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hftl.environment import now
from hftl.files import flush
from hftl.names import as_rank
from hftl.run import RunDirectory
from hftl.terminal import show
from hftl.training.plan import Plan, plan_footer, plan_table
from hftl.training.progress import Best
from hftl.training.progress import Progress as RunProgress


class Journal:
    """Writes and prints the course of one run; a context manager that owns the progress bar."""

    def __init__(self, run: RunDirectory, accelerator: Accelerator, console: Console) -> None:
        self.run = run
        self.accelerator = accelerator
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (accelerator.is_main_process and console.is_terminal),
            transient=True,
        )
        self._task: TaskID | None = None
        self._note = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
        if self.accelerator.trackers:
            self.accelerator.end_training()

    def say(self, text: str) -> None:
        """One line, on the terminal and in log.txt."""
        if self.accelerator.is_main_process:
            is_read = show(self.console, text, soft_wrap=True)
            note = "" if is_read else f"{now()} nobody reads the terminal any more: the run goes on, and this file has the rest\n"
            with self.run.log.open("a", encoding="utf-8") as stream:
                stream.write(f"{note}{now()} {text}\n")

    def record(self, event: str, **values: Any) -> None:
        """One line of history.jsonl."""
        if self.accelerator.is_main_process:
            self.run.append_history({"event": event, "time": now(), **values})

    def history_bytes(self) -> int:
        """The length of history.jsonl, once all of it is on the disk."""
        if not (self.accelerator.is_main_process and self.run.history.is_file()):
            return 0
        flush(self.run.history)
        return self.run.history.stat().st_size

    def cut_history(self, length: int) -> None:
        """Forget what a stopped run wrote after its last checkpoint; its steps are taken, and written down, once more."""
        if self.accelerator.is_main_process and self.run.history.is_file() and self.run.history.stat().st_size > length:
            os.truncate(self.run.history, length)

    def opening(self, plan: Plan, lines: Iterable[str]) -> None:
        """The plan, on the terminal, and what has to be said before the first step."""
        if self.accelerator.is_main_process:
            show(self.console, plan_table(plan), "", plan_footer(plan), "", sep="\n")
        self.say(f"run directory: {self.run.path}")
        for line in lines:
            self.say(line)

    def continues(self, stages: Sequence[str], progress: RunProgress, *, metric: str, checkpoint: str) -> None:
        stage, step, best = stages[progress.cursor.stage], progress.cursor.step, progress.run_best
        self.record("continued", stage=stage, step=step)
        self.say(
            f'continuing at stage "{stage}", step {step:,} (checkpoint {checkpoint}):'
            " same data order, same augmentations, same generators"
        )
        if best is not None:
            self.say(
                f"  best so far: stage {stages[best.stage]}, {of_epochs(best)},"
                f" validation {metric} {as_rank(metric, best.rank[0]):.4f}"
            )

    def stopped(self, stage: str, *, step: int) -> None:
        """The farewell of a run that a signal has stopped; its checkpoint is written and verified."""
        several, command = self.accelerator.num_processes, f"hftl train {self.run.path} --resume"
        if self.run.is_trial:
            self.say(f'saved at step {step:,}, in stage "{stage}" (checkpoint verified). The same command goes on with the study')
            return
        here = int(os.environ.get("LOCAL_WORLD_SIZE", several))
        if here < several or self.accelerator.distributed_type is DistributedType.FSDP:
            command = f"-m {command}   (launched as before, as {several} processes)"
        elif several > 1:
            cpu = " --cpu" if self.accelerator.device.type == "cpu" else ""
            command = f"accelerate launch{cpu} --num_processes {several} -m {command}"
        self.say(f'saved at step {step:,}, in stage "{stage}" (checkpoint verified). Continue with:  {command}')

    def threads(self, line: str) -> None:
        """Another number of threads, from here on."""
        self.record("threads", threads=torch.get_num_threads())
        self.say(f"  {line}")

    def stage_start(
        self, name: str, *, number: int, stages: int, step: int, done: int, steps: int, trains: tuple[str, ...], resumed: bool
    ) -> None:
        if not resumed:
            self.record("stage_start", stage=name, step=step, steps=steps, trains=list(trains))
        self.say(f"stage {number} of {stages}: {name} (trains {', '.join(trains)}; {steps:,} steps)")
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._note = ""
        self._task = self._bar.add_task(f"stage {number} of {stages}  {name}", total=steps, completed=done, note="")

    def soup(self, stage: str, epochs: Sequence[int], *, validation: Mapping[str, float], metric: str, kept: bool) -> None:
        """What the mean of these epochs of a stage is like."""
        self.record("soup", stage=stage, epochs=list(epochs), validation=dict(validation), kept=kept)
        self.say(
            f"  soup of epochs {', '.join(map(str, epochs))}  validation {metric} {validation[metric]:.4f}"
            f"  log loss {validation['log_loss']:.3f}{'  best' if kept else ''}"
        )

    def advance(self) -> None:
        if self._task is not None:
            self._bar.advance(self._task)

    def step(self, stage: str, *, epoch: int, step: int, loss: float, grad_norm: float | None, lr: Mapping[str, float]) -> None:
        self.record("step", stage=stage, epoch=epoch, step=step, loss=loss, grad_norm=grad_norm, lr=dict(lr))
        if self._task is not None:
            self._bar.update(self._task, note=f"loss {loss:.3f}{self._note}")
        if self.accelerator.trackers:
            rates = {f"lr/{group}": rate for group, rate in lr.items()}
            self.accelerator.log({"train/loss": loss, **rates}, step=step)

    def skipped(self, stage: str, *, epoch: int, step: int, scale: float) -> None:
        """A step in which no weight was changed: its gradients, multiplied by the scale before this one, overflowed fp16."""
        self.record("skipped_step", stage=stage, epoch=epoch, step=step, scale=scale)
        self.say(f"  step {step} changed nothing: its gradients overflowed fp16; from here on they are multiplied by {scale:g}")

    def stage_end(self, stages: Sequence[str], progress: RunProgress, *, metric: str, stopped_early: bool) -> None:
        """The end of the stage where `progress` stands, one of all `stages`; said aloud where it leaves no weights."""
        own, best, kept = progress.stage_best, progress.run_best, progress.leaves_weights
        assert own is not None and best is not None  # a stage has an epoch
        stage, value = stages[own.stage], as_rank(metric, own.rank[0])
        soup = {"soup": list(own.soup)} if own.soup else {}
        self.record(
            "stage_end", stage=stage, best_epoch=own.epoch, best_metric=value, kept=kept, stopped_early=stopped_early, **soup
        )
        if not kept:
            how = how_it_compares(own.rank, best.rank, metric)
            self.say(f"stage {stage} did not improve on {stages[best.stage]} ({how}): its weights were not kept")

    def evaluation(
        self,
        stage: str,
        *,
        epoch: int,
        epochs: int,
        step: int,
        train_loss: float,
        validation: Mapping[str, float],
        metric: str,
        kept: bool,
        seconds: float,
    ) -> None:
        self.record(
            "evaluation",
            stage=stage,
            epoch=epoch,
            step=step,
            train_loss=train_loss,
            validation=dict(validation),
            kept=kept,
            seconds=round(seconds, 2),
        )
        self._note = f" · validation {metric} {validation[metric]:.3f}"
        self.say(
            f"  epoch {epoch}/{epochs}  train loss {train_loss:.3f}  validation {metric} {validation[metric]:.4f}"
            f"  log loss {validation['log_loss']:.3f}  {seconds:.0f} s{'  best' if kept else ''}"
        )
        if self.accelerator.trackers:
            self.accelerator.log({f"validation/{name}": value for name, value in validation.items()}, step=step)


def of_epochs(best: Best) -> str:
    """What weights are of, in words."""
    return f"soup of epochs {', '.join(map(str, best.soup))}" if best.soup else f"epoch {best.epoch}"


def how_it_compares(rank: tuple[float, float], kept: tuple[float, float], metric: str) -> str:
    """Two ranks in words: the metric of both, and the log loss where that decides."""
    if rank[0] == kept[0]:
        return f"validation {metric} {as_rank(metric, rank[0]):.4f} for both, log loss {-rank[1]:.4f} against {-kept[1]:.4f}"
    return f"validation {metric} {as_rank(metric, rank[0]):.4f} against {as_rank(metric, kept[0]):.4f}"
