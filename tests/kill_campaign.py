"""Kill staged runs at random moments, again and again, and see that nothing is lost.

    nice python tests/kill_campaign.py --kills 1000 --results kills.json

Four kinds of run are killed with SIGKILL, continued with --resume and killed again, to their end: texts (a small BERT, dropout,
accumulation), pictures (a ResNet, BatchNorm, augmentation, a loader's worker), focal loss (a BiLSTM on word vectors), and the texts
once more on two processes, of which one or both are killed. A checkpoint is written after every step, and each run has a cache of
its own to build. Some kills come at any time, the others within what a run does seldom: a cache build, a save, the freeze proof,
figures, the card. After every kill the newest checkpoint that verifies must be at least as new as the last save that had returned.
In the end each run must have the weights, predictions, metrics, freeze proof, plan, data and history, bit for bit, of a run that
was never stopped, a whole card that `hftl verify` confirms, and the test split opened no more often than its kills explain.

The results are added up in a file after each run, so that a campaign may be stopped and called again: it goes on to the number of
kills that was asked for. Prints a table; exit code 1 if anything was lost.

The runs are children of one process that has imported the libraries, so that a kill costs a second and not ten. With --warm that
process has also read the data and built the model, and the children begin after that: so it is in tests/test_kills.py.
"""

from __future__ import annotations

import argparse
import gc
import io
import itertools
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # a forked child must not meet the threads of its parent
os.environ["ACCELERATE_USE_CPU"] = "1"

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from small import BERT_NANO, small_vectors

from hftl import api
from hftl.errors import HftlError
from hftl.evaluation import report
from hftl.evaluation.predictions import Predictions
from hftl.files import read_json, read_json_lines, write_json
from hftl.recipe import BiLSTM, ImageData, Recipe, RunSettings, Stage, TextData, Timm, Transformer, override
from hftl.run import RunDirectory
from hftl.samples import REVIEWS
from hftl.sharing import card
from hftl.sharing.verify import verify
from hftl.training import engine, experiment, finish, open_run, planning
from hftl.training.checkpoint import newest_checkpoint
from hftl.training.finished import missing
from hftl.training.journal import Journal

BUILD, CARD, STEP, BETWEEN = "a cache build", "the card", "a step", "between two steps"
READING, SAVE = "reading the data", "a save"
DOING = {
    (engine, "prepare"): READING,
    (engine, "cached_samples"): BUILD,
    (open_run, "save_checkpoint"): SAVE,
    (engine, "predict_split"): "an evaluation",
    (engine, "prove_freeze"): "the freeze proof",
    (finish, "predict_split"): "an evaluation",
    (finish, "save_classifier"): "saving the model",
    (finish, "write_manifest"): "the manifest",
    (finish, "write_figures"): "figures",
}
"""What is told of when it begins: a function, by its module, to the words for it."""
EARLY, LATE = (BUILD, SAVE, SAVE, "the freeze proof"), ("saving the model", "the manifest", "figures", CARD)
"""What a kill is aimed at, since one at any time would hardly ever meet it: first the former, then, in a run's last sessions, the
latter."""
MOST_A_RUN, MOST_EARLY = 15, 11
DEFECT = 99
"""Exit code of a child that ended with anything but an error of hftl's own."""
PATIENCE = 120.0
"""Seconds after which a process that was left alone by the others should have ended."""


@dataclass(frozen=True)
class Case:
    """A kind of run."""

    name: str
    recipe: Recipe
    processes: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each thing takes that a run does, and under "" the whole run, as the one took that was never stopped."""


@dataclass(frozen=True)
class Kill:
    """When a session is killed, and which of its processes: so many seconds after the first word, or after that thing was begun.

    Where that does not come any more, after one of the late things.
    """

    after: str | None
    wait: float
    ranks: tuple[int, ...]
    group: bool
    """The loader's workers too, which otherwise notice after some seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=120, help="in all, those in the file of results included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a JSON file; a campaign goes on from what it holds")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after the run that is going on by then")
    parser.add_argument("--warm", action="store_true", help="read the data and build the models once for all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HFTL_LEDGER"] = str(Path(folder) / "ledger.jsonl")
        file = arguments.results or Path(folder) / "results.json"
        results: dict[str, Any] = {"kills": 0, "runs": 0, "minutes": 0.0, "hits": {}, "openings": {}, "problems": []}
        results |= read_json(file) if file.is_file() else {}
        campaign(Path(folder), arguments, results, file)
    print(table(results))
    sys.exit(1 if results["problems"] else 0)


def campaign(folder: Path, arguments: argparse.Namespace, results: dict[str, Any], file: Path) -> None:
    """Kill runs, one kind after the other, until there were enough kills or there is no more time."""
    started = saved = time.monotonic()
    kinds, whole = cases(folder), dict[str, RunDirectory]()
    while results["kills"] < arguments.kills and time.monotonic() - started < 60 * arguments.minutes:
        case = kinds[results["runs"] % len(kinds)]
        if arguments.warm:
            warm(case)
        if case.name not in whole:
            whole[case.name] = RunDirectory(folder / f"whole-{case.name}")
            ended = session(case, whole[case.name], None)
            if ended.phase is not None or missing(whole[case.name]):
                raise SystemExit(f"{case.name}: the run that nobody stops fails by itself")
        generator = random.Random(f"{arguments.seed}/{results['runs']}")
        run = RunDirectory(folder / f"run{results['runs']}")
        hits = Counter(results["hits"].get(case.name, {}))
        most = min(MOST_A_RUN, arguments.kills - results["kills"])
        killed, problems = kill_until_finished(case, run, generator, hits, most=most)
        problems += differences(whole[case.name], run)
        opened = len(list(read_json_lines(run.test_openings)))
        if opened > 1 + killed:
            problems.append(f"the test split was opened {opened} times in {killed + 1} sessions")
        results["hits"][case.name] = dict(hits)
        results["openings"][str(opened)] = results["openings"].get(str(opened), 0) + 1
        results["problems"] += [f"run {results['runs']} of seed {arguments.seed}, {case.name}: {problem}" for problem in problems]
        results["kills"] += killed
        results["runs"] += 1
        results["minutes"] += (time.monotonic() - saved) / 60
        saved = time.monotonic()
        write_json(file, results)
        print(f"{results['kills']} kills, {results['runs']} runs, {len(results['problems'])} problems", file=sys.stderr, flush=True)
        if not problems:
            shutil.rmtree(run.path)
        shutil.rmtree(cache_of(run), ignore_errors=True)


def table(results: dict[str, Any]) -> str:
    names = list(results["hits"])
    total = sum((Counter(hits) for hits in results["hits"].values()), Counter[str]())
    lines = [f"{results['kills']} kills over {results['runs']} runs in {results['minutes']:.0f} min", ""]
    lines += [f"| killed during | {' | '.join(names)} | all |", f"|---|{'--:|' * (len(names) + 1)}"]
    for phase, count in total.most_common():
        lines.append(f"| {phase} | {' | '.join(str(results['hits'][name].get(phase, 0)) for name in names)} | {count} |")
    opened = ", ".join(f"{count} times in {number} runs" for count, number in sorted(results["openings"].items()))
    return "\n".join([*lines, "", f"test split opened: {opened}", *(results["problems"] or ["nothing was lost"])])


# --- the runs ---------------------------------------------------------------------------------------------------------------------


def cases(folder: Path) -> list[Case]:
    """The kinds of run; what they read is written into the folder."""
    reads = TextData(source=REVIEWS, max_length=40, max_train_samples=32, max_validation_samples=20, max_test_samples=20)
    often = RunSettings(batch_size=16, precision="fp32", log_every=1, checkpoint_minutes=0)
    texts = Recipe(
        name="texts",
        data=reads,
        model=Transformer(checkpoint=BERT_NANO),
        stages={
            "head": Stage(unfreeze="head", lr=1e-3),
            "top": Stage(unfreeze="last 2", lr=1e-3, layer_decay=0.5, epochs=2, schedule="cosine"),
            "all": Stage(unfreeze="all", lr=5e-4, schedule="one_cycle"),
        },
        run=often.model_copy(update={"gradient_accumulation": 2}),
    )
    pictures = Recipe(
        name="pictures",
        data=ImageData(
            source=str(noise(folder / "pictures")),
            image_size=32,
            augmentation="strong",
            augmentation_views=2,
            validation_fraction=0.25,
        ),
        model=Timm(checkpoint="test_resnet", pretrained=False, dropout=0.3),
        stages={
            "head": Stage(unfreeze="head", lr=1e-2, optimizer="sgd"),
            "top": Stage(unfreeze="last 3", lr=1e-3, optimizer="rmsprop", epochs=2),
            "all": Stage(unfreeze="all", lr=1e-3),
        },
        run=often.model_copy(update={"batch_size": 8, "gradient_accumulation": 2, "evaluation_batch_size": 8, "workers": 1}),
    )
    focal = Recipe(
        name="focal",
        data=reads,
        model=BiLSTM(vectors=str(small_vectors(folder / "vectors.txt")), hidden_size=8, word_dropout=0.2, trainable_dim=4),
        stages={
            "head": Stage(unfreeze="head", lr=1e-2, loss="focal"),
            "all": Stage(unfreeze="all", lr=1e-3, epochs=2, loss="focal", class_weights="balanced"),
        },
        run=often.model_copy(update={"gradient_accumulation": 4}),
    )
    two = override(texts, ["name=two", "run.gradient_accumulation=1"])
    return [Case("texts", texts), Case("pictures", pictures), Case("focal", focal), Case("two processes", two, processes=2)]


def noise(folder: Path) -> Path:
    """Red and blue pictures of noise: 16 of each to train on, 5 to test."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 5)):
        for name, colour in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(generator.normal(colour, 50, (40, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def warm(case: Case) -> None:
    """Read the data and build the model here, for every child that is forked from now on: they find it in their memory."""
    ready = experiment.prepare_experiment(case.recipe)
    plan = planning.make_plan(ready)
    setattr(engine, "prepare", lambda recipe, **options: ready)  # noqa: B010  # mypy minds the assignment
    setattr(open_run, "make_plan", lambda experiment, **options: plan)  # noqa: B010
    gc.freeze()  # what is here already is not touched, and so not copied, by every child
    report.STYLE["figure.dpi"] = 30  # figures cost most of a run's end


# --- kills ------------------------------------------------------------------------------------------------------------------------


def kill_until_finished(
    case: Case, run: RunDirectory, generator: random.Random, hits: Counter[str], *, most: int
) -> tuple[int, list[str]]:
    """Train `run` to its end in as many sessions as the kills leave it; counts in `hits` where they came.

    Returns:
        How many kills there were, and what was lost by them.
    """
    killed, last = 0, ""
    problems: list[str] = []
    while True:
        kill = choose(case, generator, killed) if killed < most else None
        if kill is not None and kill.after == BUILD:
            shutil.rmtree(cache_of(run), ignore_errors=True)  # so that there is something to build
        ended = session(case, run, kill)
        problems += ended.problems
        if ended.phase is None or ended.problems:
            return killed, problems
        killed += 1
        hits[ended.phase] += 1
        if run.finished:  # then there are no checkpoints any more
            if missing(run):
                continue
            return killed, problems  # all of it is written: one of two processes was killed at its farewell
        found, passed_over = newest_checkpoint(run.checkpoints)
        name = found.name if found is not None else ""
        if name < max(ended.saved, last) or passed_over:
            problems.append(f"saved {ended.saved or last}, found {name or 'nothing'}, passed over {passed_over}")
        last = name


def choose(case: Case, generator: random.Random, killed: int) -> Kill:
    """At any time of a run, or within one of the things that it does seldom; the first one in a cache build.

    A session that is killed too late has ended its run, so that waits are shorter than what they are aimed at.
    """
    ranks = generator.choice([(0,), (1,), (0, 1)]) if case.processes == 2 else (0,)
    group, anytime = generator.random() < 0.95, generator.random() < 0.25
    after = generator.choice(EARLY if killed < MOST_EARLY else LATE)
    if anytime and killed:
        return Kill(None, generator.uniform(0.0, 0.6 * case.seconds[""]), ranks, group)
    after = after if killed else BUILD
    return Kill(after, generator.uniform(0.0, 0.6 * case.seconds.get(after, 0.0)), ranks, group)


@dataclass
class Ended:
    """How a session ended."""

    phase: str | None = None
    """What it was doing when it was killed; None: it was not."""
    saved: str = ""
    """The last checkpoint whose save had returned."""
    problems: list[str] = field(default_factory=list)


def session(case: Case, run: RunDirectory, kill: Kill | None) -> Ended:
    """Start or continue the run in children of this process; one that nobody kills tells how long things take."""
    read, write = os.pipe()
    children = start(case, run, write)
    os.close(write)
    os.set_blocking(read, False)
    told: list[tuple[float, str]] = []
    rest = b""
    statuses: dict[int, int] = {}
    killed: float | None = None
    problems: list[str] = []
    while len(statuses) < len(children):
        rest = listen(read, rest, told)
        for rank, child in enumerate(children):
            if rank not in statuses and (ended := os.waitpid(child, os.WNOHANG))[0]:
                statuses[rank] = ended[1]
        begun = next((moment for moment, word in told if kill is None or kill.after in {None, word} or word in LATE), None)
        if kill is not None and killed is None and begun is not None and time.monotonic() >= begun + kill.wait:
            killed = time.monotonic()
            for rank in set(kill.ranks) - set(statuses):
                (os.killpg if kill.group else os.kill)(children[rank], signal.SIGKILL)
        if killed is not None and time.monotonic() > killed + PATIENCE:
            problems += ["a process that was left alone did not end"]
            for rank in set(range(len(children))) - set(statuses):
                os.killpg(children[rank], signal.SIGKILL)
            killed = time.monotonic()
        time.sleep(0.002)
    listen(read, rest, told)
    os.close(read)
    saved = [word.removeprefix("saved ") for _, word in told if word.startswith("saved ")]
    if any(os.waitstatus_to_exitcode(status) == DEFECT for status in statuses.values()):
        problems += [errors_of(run).read_text(encoding="utf-8")]
    if not any(map(os.WIFSIGNALED, statuses.values())):
        if any(statuses.values()) and not problems:
            problems += ["it failed by itself: " + errors_of(run).read_text(encoding="utf-8")]
        if kill is None and not case.seconds:
            note_seconds(case, told)
        return Ended(None, "", problems)
    words = [word for moment, word in told if killed is None or moment <= killed]
    doing = words[-1] if words else READING
    return Ended(BETWEEN if doing.startswith("saved ") else doing, saved[-1] if saved else "", problems)


def listen(read: int, rest: bytes, told: list[tuple[float, str]]) -> bytes:
    """Take down what the children say; gives what is not a whole line yet."""
    try:
        *lines, rest = (rest + os.read(read, 1 << 16)).split(b"\n")
    except BlockingIOError:
        return rest
    told += [(time.monotonic(), line.decode()) for line in lines]
    return rest


def note_seconds(case: Case, told: list[tuple[float, str]]) -> None:
    """How long each thing took that a whole run did, until the next one was begun, in the mean; and all of it."""
    lengths: dict[str, list[float]] = {}
    for (began, word), (ended, _) in itertools.pairwise(told):
        lengths.setdefault(word, []).append(ended - began)
    case.seconds.update({word: sum(each) / len(each) for word, each in lengths.items()})
    case.seconds[""] = told[-1][0] - told[0][0]


def start(case: Case, run: RunDirectory, write: int) -> list[int]:
    """Fork the processes of a session; the first one tells what it does."""
    resume = run.recipe.is_file()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    children = []
    for rank in range(case.processes):
        child = os.fork()
        if child == 0:
            os.setsid()  # so that its workers can be killed with it
            os.environ["HFTL_CACHE"] = str(cache_of(run))
            if case.processes > 1:
                world = {"WORLD_SIZE": case.processes, "LOCAL_WORLD_SIZE": case.processes, "RANK": rank, "LOCAL_RANK": rank}
                os.environ |= {name: str(value) for name, value in world.items()}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os._exit(train(case, run, resume, (lambda word: os.write(write, f"{word}\n".encode())) if rank == 0 else _nobody))
        children.append(child)
    return children


def _nobody(word: str) -> None:
    """To be told what another process tells already."""


def train(case: Case, run: RunDirectory, resume: bool, tell: Callable[[str], Any]) -> int:
    """The run, telling what it does: these are wrappers and change nothing. The exit code."""
    for (module, name), phase in DOING.items():
        setattr(module, name, telling(getattr(module, name), phase, tell))
    setattr(card, "write_card", telling(card.write_card, CARD, tell))  # noqa: B010
    setattr(Journal, "advance", telling(Journal.advance, STEP, tell))  # noqa: B010
    setattr(experiment, "matrix_rate", lambda *_: 1e11)  # noqa: B010  # so that plans can be compared, and for the time
    try:
        api.train(case.recipe, run_dir=run.path, resume=resume, console=Console(file=io.StringIO()))
    except HftlError as error:
        errors_of(run).write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        return error.exit_code
    except BaseException:  # noqa: BLE001  # a defect: the campaign says so
        errors_of(run).write_text(traceback.format_exc(), encoding="utf-8")
        return DEFECT
    return 0


def telling(function: Callable[..., Any], phase: str, tell: Callable[[str], Any]) -> Callable[..., Any]:
    def told(*arguments: Any, **options: Any) -> Any:
        tell(phase)
        result = function(*arguments, **options)
        tell(f"saved {result.name}" if phase == SAVE else BETWEEN)
        return result

    return told


def cache_of(run: RunDirectory) -> Path:
    return run.path.with_suffix(".cache")


def errors_of(run: RunDirectory) -> Path:
    return run.path.with_suffix(".errors")


# --- what must be equal -----------------------------------------------------------------------------------------------------------


def differences(whole: RunDirectory, run: RunDirectory) -> list[str]:
    """What is not as in the run that was never stopped."""
    if not run.finished:
        return ["it did not finish"]
    found = [f"{name} is missing" for name in missing(run)]
    ours, theirs = load_file(run.model / "model.safetensors"), load_file(whole.model / "model.safetensors")
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        found.append("other weights")
    predictions = [[Predictions.load(each.predictions(split)).logits for split in ("validation", "test")] for each in (run, whole)]
    if not all(map(np.array_equal, *predictions)):
        found.append("other predictions")
    files = ("metrics", "freeze_proof", "data", "plan", "manifest", "audit")
    found += [f"another {name}.json" for name in files if read_json(getattr(run, name)) != read_json(getattr(whole, name))]
    if course(run) != course(whole):
        found.append("another history")
    if run.checkpoints.exists():
        found.append("checkpoints that nobody needs")
    if not found:
        found += [f"{claim.where}: {claim.claimed}, recomputed {claim.recomputed}" for claim in verify(run).failed]
    return found


def course(run: RunDirectory) -> list[dict[str, Any]]:
    """The history but for times and for what tells of the sessions."""
    times, sessions = {"time", "seconds", "training_seconds"}, {"continued", "threads", "finished"}
    return [{key: value for key, value in r.items() if key not in times} for r in run.read_history() if r["event"] not in sessions]


if __name__ == "__main__":
    main()
