"""The sessions of a run, each from a start or a resume to its end: environment.json, and what it keeps of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator

from hftl.data.loader import Samples
from hftl.environment import environment_record, package_versions
from hftl.files import write_json
from hftl.recipe import Recipe
from hftl.records.environment import read_environment
from hftl.run import RunDirectory
from hftl.training.cache import where_from
from hftl.training.checks import number_format
from hftl.training.journal import Journal
from hftl.training.origin import earlier_versions
from hftl.training.watch import Watch


def record_session(run: RunDirectory, accelerator: Accelerator, *, afresh: bool, **more: Any) -> None:
    """Write environment.json anew: what computes now, what earlier sessions left, and `more`; the main process does.

    `afresh`: the run begins at its first step, so that earlier sessions have left nothing.
    """
    write_json(run.environment, _of_now(accelerator) | ({} if afresh else _carried(run)) | more)


def record_versions(run: RunDirectory) -> None:
    """Write down the libraries of a later session that trains nothing, such as that of `hftl test`."""
    if before := earlier_versions(run):
        write_json(run.environment, {**read_environment(run), "packages": package_versions(), "packages_before": before})


def count_sessions(run: RunDirectory) -> int:
    """How often the run was started or continued so far."""
    return read_environment(run)["sessions"] if run.environment.is_file() else 0


def adapt_threads(watch: Watch, run: RunDirectory, journal: Journal) -> None:
    """Another number of threads where others want the cores, or have left them: said, and written down for a resume."""
    for line in watch.threads.adapt():
        journal.threads(line)
        if journal.accelerator.is_main_process:
            write_json(run.environment, {**read_environment(run), "threads": torch.get_num_threads()})


def record_cache(
    stage: str,
    samples: Mapping[str, Samples],
    group: str,
    recipe: Recipe,
    run: RunDirectory,
    accelerator: Accelerator,
    journal: Journal,
    *,
    resumed: bool,
) -> None:
    """Write down where a stage has what enters its first training group from; in bf16 that decides how its sums round."""
    origins = where_from(samples)
    if accelerator.is_main_process:
        environment = read_environment(run)
        cached: dict[str, Any] = {**environment.get("cached", {})}
        if resumed and stage in cached:
            origins = {split: here if here == cached[stage].get(split) else "both" for split, here in origins.items()}
        write_json(run.environment, {**environment, "cached": cached | {stage: origins}})
    if number_format(accelerator) != "bf16":
        return
    if "stored" in where_from(samples).values():
        journal.say(f"  what enters {group} is stored in bf16: computed anew in every epoch, its sums would round differently")
    elif recipe.run.cache_gb:  # otherwise the recipe says so, and room has no say
        journal.say(
            f"  what enters {group} is computed anew in bf16: stored, for which there was no room, its sums would round differently"
        )


def _of_now(accelerator: Accelerator) -> dict[str, object]:
    """This process's machine and libraries, and what computes."""
    device = accelerator.device
    return {
        **environment_record(),
        "processes": accelerator.num_processes,
        "distributed": accelerator.distributed_type.value,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": number_format(accelerator),
        "threads": torch.get_num_threads(),
    }


def _carried(run: RunDirectory) -> dict[str, Any]:
    """What environment.json keeps of earlier sessions."""
    before, cached = earlier_versions(run), read_environment(run).get("cached")
    return ({"packages_before": before} if before else {}) | ({"cached": cached} if cached else {})
