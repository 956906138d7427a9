"""A run that is open: its directory locked, its journal written, and this process (or all of them) ready to train.

Everything that is refused before the first step is refused while a run is opened, and until then nothing is written.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from transformers import PreTrainedModel

from hftl.data.audit import Audit
from hftl.files import write_json
from hftl.recipe import Recipe
from hftl.run import RunDirectory, remove_partial
from hftl.signals import Stopped, deferred
from hftl.terminal import progress_console
from hftl.training import trackers
from hftl.training.checkpoint import load_best_weights, load_progress, newest_checkpoint, save_checkpoint
from hftl.training.checks import (
    check_batch_sizes,
    check_pieces,
    check_run_directory,
    check_same_precision,
    check_space,
    number_format,
)
from hftl.training.experiment import Experiment, facts
from hftl.training.journal import Journal
from hftl.training.machine import disk_errors, make_accelerator, process_state
from hftl.training.origin import check_same_base, other_versions
from hftl.training.plan import Plan, plan_on_record
from hftl.training.planning import make_plan
from hftl.training.progress import Progress, Session
from hftl.training.rows_again import check_same_data
from hftl.training.sessions import adapt_threads, count_sessions, record_session
from hftl.training.threads import Threads
from hftl.training.together import check_run_directory_together, check_same, one_answer
from hftl.training.watch import Cost, Watch


@dataclass(frozen=True)
class Computer:
    """What a run computes with, from before its data are read."""

    accelerator: Accelerator
    threads: Threads
    started: float = field(default_factory=time.perf_counter)


def prepare_computer(recipe: Recipe, directory: RunDirectory, *, resume: bool = False) -> Computer:
    """Meet the other processes, and see that all of them may have the run directory. Nothing is written.

    Raises:
        RecipeError: the machine cannot do what the recipe asks for.
        RunError: the directory holds another run, or the processes differ.
    """
    process_state(minutes=recipe.run.timeout_minutes)
    check_run_directory_together(directory, recipe, resume=resume)
    with one_answer():
        accelerator = make_accelerator(recipe, directory)
    return Computer(accelerator, Threads(accelerator.device))


@dataclass
class OpenRun:
    """A run directory that is being written, and where its training stands."""

    directory: RunDirectory
    recipe: Recipe
    accelerator: Accelerator
    journal: Journal
    watch: Watch
    host: PreTrainedModel
    """On the CPU: the best weights so far."""
    progress: Progress
    checkpoint: Path | None
    """Where it goes on from; None: from the first step."""
    started: float
    light: bool = False
    """A trial of a study: the end of a stage alone is no reason for a checkpoint."""
    cost: Cost | None = None
    """Of the stage that trains."""

    def begin_cost(self) -> None:
        """Count time and energy from here on; what they were before is in `progress`."""
        self.cost = Cost(self.progress)

    def note_cost(self) -> None:
        """Bring the time and energy in `progress` up to date."""
        assert self.cost is not None  # a stage trains
        self.progress = self.cost.so_far(self.progress)

    def save(self) -> None:
        """Write a checkpoint; called by every process."""
        assert self.cost is not None
        began = time.monotonic()
        session = Session(self.journal.history_bytes(), torch.get_num_threads())
        progress = replace(self.cost.so_far(self.progress), session=session)
        save_checkpoint(self.directory.checkpoints, self.accelerator, progress, self.host.state_dict())
        self.watch.saved(progress, seconds=time.monotonic() - began)

    def stop_if_asked(self) -> None:
        """Look after the cores; and where a signal has come, save what is not saved yet, and stop. Called by every process.

        Raises:
            Stopped: a signal asked for it.
        """
        adapt_threads(self.watch, self.directory, self.journal)
        if (signal := self.watch.signal()) is not None:
            if self.watch.last_saved != self.progress.name:
                self.save()
            self.journal.stopped(list(self.recipe.stages)[self.progress.cursor.stage], step=self.progress.cursor.step)
            raise Stopped(signal, saved=True)


@contextmanager
def open_run(
    experiment: Experiment,
    directory: RunDirectory,
    *,
    resume: bool = False,
    console: Console | None = None,
    source: str = "recipe",
    computer: Computer | None = None,
    light: bool = False,
) -> Iterator[OpenRun]:
    """Open a run for `fit` and `finish`: a new one, or one that is continued; its directory is locked until the end.

    Args:
        source: what the recipe is called in errors.
        computer: from `prepare_computer`, where that was called before the data were read.
        light: write a checkpoint only where it costs little beside what it saves.

    Raises:
        RecipeError, DataError: the recipe or its data cannot be used; nothing has been written.
        RunError: the directory holds another run or is in use, no checkpoint verifies, or the disk is too small.
    """
    computer = computer or prepare_computer(experiment.asked, directory, resume=resume)
    accelerator, threads = computer.accelerator, computer.threads
    ready = _check(experiment, directory, accelerator, resume=resume, source=source)
    with (
        _locked(directory, experiment.asked, accelerator, resume=resume),
        Journal(directory, accelerator, console or progress_console()) as journal,
        disk_errors(directory),
        deferred() as noted,
        threads,
    ):
        progress, checkpoint = _begin(experiment, ready, directory, journal, threads, resume=resume)
        last_saved = None if checkpoint is None else checkpoint.name
        watch = Watch(
            accelerator, noted, threads, minutes=experiment.recipe.run.checkpoint_minutes, last_saved=last_saved, light=light
        )
        yield OpenRun(
            directory,
            experiment.recipe,
            accelerator,
            journal,
            watch,
            experiment.classifier.model,
            progress,
            checkpoint,
            computer.started,
            light,
        )


@contextmanager
def _locked(directory: RunDirectory, recipe: Recipe, accelerator: Accelerator, *, resume: bool) -> Iterator[None]:
    """Hold the run directory, for all processes of the run."""
    with ExitStack() as held:
        with one_answer():
            if accelerator.is_main_process:
                held.enter_context(directory.lock())
                check_run_directory(directory, recipe, resume=resume)  # once more: another process may have had it until now
        yield


@dataclass(frozen=True)
class _Ready:
    """What was found before anything is written."""

    plan: Plan
    facts: dict[str, Any]
    """What data.json records."""
    begun: bool
    """An earlier session has written what the run is of."""
    findings: Audit | None
    """Of the audit, which the main process makes once a run."""
    said: tuple[str, ...]
    """Lines for the opening."""


def _check(experiment: Experiment, directory: RunDirectory, accelerator: Accelerator, *, resume: bool, source: str) -> _Ready:
    """Make the plan, and compare what was read with what the run was started with and over all processes. Nothing is written."""
    recorded, base = facts(experiment, experiment.samples["train"]), experiment.base
    if accelerator.num_processes > 1:
        computes = {"device": accelerator.device.type, "number format": number_format(accelerator)}
        check_same({"data": recorded, "model": base, **computes})
    said = experiment.said_of_facts
    begun = resume and directory.environment.is_file()  # it is written last of what is written before the first step
    if begun:
        check_same_data(experiment.splits, directory)
        check_same_precision(accelerator, directory)
        said = (*said, *check_same_base(base, directory), *other_versions(directory))
    findings = None
    with one_answer():
        plan = make_plan(experiment, source=source, measure=accelerator.device)
        check_batch_sizes(experiment, experiment.samples["train"], accelerator)
        check_pieces(experiment.stages, accelerator)
        if accelerator.is_main_process:
            check_space(experiment, plan, directory)
            findings = None if directory.audit.is_file() else experiment.findings
    return _Ready(plan, recorded | {"base": base}, begun, findings, said)


def _begin(
    experiment: Experiment, ready: _Ready, directory: RunDirectory, journal: Journal, threads: Threads, *, resume: bool
) -> tuple[Progress, Path | None]:
    """Find the newest checkpoint, write down what the run is of, and say where it begins; the checkpoint is None at the start."""
    recipe, accelerator, plan, said = experiment.asked, journal.accelerator, ready.plan, ready.said
    checkpoint, passed_over = newest_checkpoint(directory.checkpoints)
    progress = Progress()
    if checkpoint is not None:
        progress = load_progress(checkpoint, processes=accelerator.num_processes)
        experiment.classifier.model.load_state_dict(load_best_weights(checkpoint))
        if ready.begun:
            plan, differs = plan_on_record(plan, directory)
            said = (*said, *differs)
    recorded = progress.session.threads
    chosen = threads.choose(recorded)
    accelerator.wait_for_everyone()  # all have read what the main process writes now
    if accelerator.is_main_process:
        remove_partial(directory)
        if checkpoint is None:  # what an earlier start has left is not of these weights
            for left in (directory.predictions("test").parent, directory.baseline.parent, directory.model):
                shutil.rmtree(left, ignore_errors=True)
        directory.write_recipe(recipe)
        if checkpoint is None or not ready.begun:  # otherwise what was recorded at the start stands: it is what the run is of
            write_json(directory.plan, plan.to_dict())
            write_json(directory.data, ready.facts)
        record_session(directory, accelerator, afresh=checkpoint is None, sessions=count_sessions(directory) + 1)
        if ready.findings is not None:
            write_json(directory.audit, ready.findings.to_dict())
    trackers.start(recipe, accelerator)
    journal.cut_history(progress.session.history_bytes)
    journal.opening(plan, [*said, *([] if ready.findings is None else ready.findings.lines())])
    for line in chosen:
        journal.threads(line)
    for reason in passed_over:
        journal.say(f"passed over the checkpoint {reason}")
    if checkpoint is not None:
        journal.continues(list(recipe.stages), progress, metric=recipe.run.chooser, checkpoint=checkpoint.name)
        if recorded is not None and recorded != torch.get_num_threads():
            journal.say(f"with {torch.get_num_threads()} threads instead of {recorded}: sums round differently")
    elif resume:
        journal.say("no checkpoint yet: starting at the first step")
    return progress, checkpoint
