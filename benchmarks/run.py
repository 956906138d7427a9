"""Side by side: hftl and what people use today, on the same data, weights, batch sizes, epochs and machine.

    python benchmarks/run.py --minilm FOLDER --rivals ../rivals/bin/python              all jobs, small size, three repeats
    python benchmarks/run.py --minilm FOLDER --rivals ... --sizes large --repeats 1     the ratio at a second size
    python benchmarks/run.py --report                                                   docs/performance.md from what is there

Each repeat of each side is a fresh process with empty caches. Sides take turns: A B C, A B C, A B C. A result that is there
already is not measured again; a process that fails leaves its log and no result, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
from jobs import JOBS, Job, Rival
from prepare import data_key, prepare_bert_base, prepare_pictures, prepare_questions, prepare_texts
from report import write_report

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
SHARED = REPOSITORY.parent / "shared"
FAMILIES = {
    "minilm": ("text-full", 128),
    "bert-base": ("bert-base-time", 24),
    "resnet18": ("resnet-staged", 192),
    "textcnn": ("textcnn", 1500),
    "bilstm": ("bilstm", 1000),
}
"""Families of the roofline: the job whose data and batch size they train on, and how many examples of it."""
HFTL = Rival("hftl", "../ours.py", "best", "hftl")


def main() -> int:
    """Measure what is asked for and not there yet, then write the report."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process that is running is ended too
    if options.report:
        write_report(options.out.parent, REPOSITORY / "docs")
        return 0
    names = options.jobs.split(",") if options.jobs else [job.name for job in JOBS]
    if unknown := set(names) - {job.name for job in JOBS} - {"roofline"}:
        raise SystemExit(f"no job {', '.join(sorted(unknown))}; there are: {', '.join(job.name for job in JOBS)}, roofline")
    failed = []
    for size in options.sizes.split(","):
        for job in JOBS:
            if job.name not in names:
                continue
            examples = job.sizes[size] if size in job.sizes else int(size)
            for repeat in range(options.repeats):
                for side in sides_of(job, options):
                    if side.style == "users" and options.users_repeats is not None and repeat >= options.users_repeats:
                        continue
                    name = f"{job.name}-{examples}-{side.name}-{repeat}"
                    spec = make_spec(job, side, examples=examples, repeat=repeat, options=options)
                    if not measure(name, HERE / "rivals" / side.script, spec, options, own_environment=side.own_environment):
                        failed.append(name)
    if options.jobs is None or "roofline" in names:
        for family, (job_name, examples) in FAMILIES.items():
            job = next(replace(job, test=0) for job in JOBS if job.name == job_name)
            spec = make_spec(job, HFTL, examples=options.roofline_examples or examples, repeat=0, options=options)
            spec["family"] = family
            if not measure(f"roofline-{family}", HERE / "roofline.py", spec, options):
                failed.append(f"roofline-{family}")
    if not options.no_report:
        write_report(options.out.parent, REPOSITORY / "docs")
    if failed:
        print(f"{len(failed)} failed, see {options.work / 'logs'}: {', '.join(failed)}")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    """The command line; paths are made absolute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", help="names, with commas between; default: all, and roofline")
    parser.add_argument("--sizes", default="small", help="small, large, or a number of training examples; with commas between")
    parser.add_argument("--sides", help="only these sides, such as hftl,trainer; default: all of each job")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--users-repeats", type=int, help="of the rivals as users run them, the slowest; default: as many")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="where results go; default: benchmarks/results/DEVICE")
    parser.add_argument(
        "--work", type=Path, default=REPOSITORY / "build" / "benchmarks", help="data, logs and what runs leave behind"
    )
    parser.add_argument("--shared", type=Path, default=SHARED, help="the development data; default: ../shared")
    parser.add_argument(
        "--minilm", type=Path, help="the folder that ../shared/models/get_minilm.sh has made; without: no MiniLM jobs"
    )
    parser.add_argument("--rivals", type=Path, help="Python of the environment of requirements.txt; without: no fastai")
    parser.add_argument("--minutes", type=float, default=30.0, help="a process that takes longer is ended and has failed")
    parser.add_argument("--roofline-examples", type=int, help="training examples of the roofline; default: 24 to 3,000")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--no-report", action="store_true", help="write no report")
    options = parser.parse_args()
    options.out = (options.out or HERE / "results" / options.device).absolute()
    for name in ("work", "shared", "minilm", "rivals"):
        if (value := getattr(options, name)) is not None:
            setattr(options, name, value.absolute())  # not resolved: a virtual environment's Python is a link
    return options


def sides_of(job: Job, options: argparse.Namespace) -> Iterator[Rival]:
    """hftl, then its rivals in this job, as far as they are asked for and can be run."""
    for side in (HFTL, *job.rivals):
        wanted = options.sides is None or side.name in options.sides.split(",")
        if wanted and not (side.own_environment and options.rivals is None):
            yield side


def make_spec(job: Job, side: Rival, *, examples: int, repeat: int, options: argparse.Namespace) -> dict[str, Any]:
    """What a side is told; its data are made here where they are not there yet."""
    work: Path = options.work
    key = data_key(examples=examples, test=job.test)
    spec: dict[str, Any] = {
        "job": job.name,
        "side": side.name,
        "style": side.style,
        "kind": job.kind,
        "examples": examples,
        "repeat": repeat,
        "seed": repeat,
        "device": options.device,
        "stages": [asdict(stage) for stage in job.stages],
        "batch_size": job.batch_size,
        "evaluation_batch_size": 2 * job.batch_size,
        "max_length": job.max_length,
        "schedule": job.schedule,
        "weight_decay": job.weight_decay,
        "augmented": job.augmented,
        "random_bert_base": job.random_bert_base,
        "test": job.test,
        "classes": 6 if job.questions else 2,
    }
    if job.kind == "resnet":
        data = prepare_pictures(options.shared / "data/hotdog", work / f"data/hotdog-{key}", train=examples, test=job.test)
        return spec | {"data": str(data), "checkpoint": str(options.shared / "models/resnet18")}
    name, prepare = ("trec", prepare_questions) if job.questions else ("imdb", prepare_texts)
    spec["data"] = str(prepare(options.shared / "data" / name, work / f"data/{name}-{key}", train=examples, test=job.test))
    if job.kind != "transformer":
        return spec | {"vectors": str(options.shared / "vectors/glove.6B.50d.5k.txt")}
    if job.random_bert_base:
        folder = prepare_bert_base(options.shared / "models/bert-base-uncased-tokenizer", work / "data/bert-base")
        return spec | {"checkpoint": str(folder)}
    if options.minilm is None:
        raise SystemExit(f"{job.name} needs --minilm FOLDER, made by:  bash ../shared/models/get_minilm.sh FOLDER")
    return spec | {"checkpoint": str(options.minilm)}


def measure(name: str, script: Path, spec: dict[str, Any], options: argparse.Namespace, *, own_environment: bool = False) -> bool:
    """Run one side once, in a process of its own with empty caches, and keep its result; False where it has failed."""
    result = options.out / f"{name}.json"
    if result.is_file():
        return True
    log = options.work / "logs" / f"{name}.txt"
    for folder in (result.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    print(f"{time.strftime('%H:%M:%S')} {name} ", end="", flush=True)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        spec_file, answer = Path(work) / "spec.json", Path(work) / "answer.json"
        spec_file.write_text(json.dumps(spec | {"work": work}))
        command = [options.rivals if own_environment else sys.executable, script, spec_file, answer]
        with log.open("wb") as stream:
            began = time.perf_counter()
            process = psutil.Popen(
                [str(part) for part in command], env=fresh_environment(work), stdout=stream, stderr=subprocess.STDOUT, cwd=work
            )
            memory = Memory(process)
            try:
                code = process.wait(timeout=60 * options.minutes)
            except psutil.TimeoutExpired:
                end_tree(process)
                code = -9
            except (KeyboardInterrupt, SystemExit):
                end_tree(process)
                raise
            finally:
                memory.stop()
            wall = time.perf_counter() - began
        if code != 0 or not answer.is_file():
            print(f"failed after {wall:.0f} s with code {code}, see {log}", flush=True)
            return False
        found = json.loads(answer.read_text())
    kept = ("job", "side", "style", "kind", "examples", "repeat", "device", "batch_size", "family")
    record = {key: spec[key] for key in kept if key in spec} | found
    record |= {"wall_seconds": wall, "peak_rss": memory.rss, "peak_anonymous": memory.anonymous}
    record |= {"machine": machine(), "commit": commit(), "time": time.strftime("%Y-%m-%dT%H:%M:%S")}
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(result)
    print(f"{record['seconds']:.1f} s of {wall:.1f}, {memory.rss / 1e9:.2f} GB", flush=True)
    return True


def fresh_environment(work: str) -> dict[str, str]:
    """This process's environment with every cache in `work`, no Hub, and the hftl of this checkout, whose commit is recorded."""
    caches = {
        "HFTL_CACHE": "hftl",
        "HF_HOME": "huggingface",
        "XDG_CACHE_HOME": "cache",
        "TORCH_HOME": "torch",
        "FASTAI_HOME": "fastai",
    }
    offline = {"HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPATH": f"{HERE}{os.pathsep}{REPOSITORY}"}
    return {**os.environ, **offline, **{name: f"{work}/{folder}" for name, folder in caches.items()}}


class Memory(threading.Thread):
    """The most memory that a process and its children held at once, in bytes, looked at four times a second.

    `rss` counts a page that two processes share twice; `anonymous` leaves out files that are mapped.
    """

    def __init__(self, process: psutil.Popen) -> None:
        super().__init__(daemon=True)
        self.rss = self.anonymous = 0
        self._process, self._over = process, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.25):
            try:
                processes = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            held = [memory_of(process.pid) for process in processes]
            self.rss = max(self.rss, sum(rss for rss, _ in held))
            self.anonymous = max(self.anonymous, sum(anonymous for _, anonymous in held))

    def stop(self) -> None:
        self._over.set()
        self.join()


def memory_of(pid: int) -> tuple[int, int]:
    """VmRSS and RssAnon in bytes; nothing for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    values = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith(("VmRSS:", "RssAnon:"))}
    return values.get("VmRSS", 0), values.get("RssAnon", 0)


def end_tree(process: psutil.Popen) -> None:
    """End a process that was started here, and its children."""
    for member in [*process.children(recursive=True), process]:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def machine() -> dict[str, Any]:
    """What it was measured on; no names of it or of people."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.machine()
    )
    gpu = None
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or None
    gigabytes = round(psutil.virtual_memory().total / 1e9)
    return {"processor": model, "cores": os.cpu_count(), "memory_gb": gigabytes, "gpu": gpu, "load_before": os.getloadavg()[0]}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def commit() -> str:
    """hftl's commit, with a + where the working tree has changed."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "not recorded"


if __name__ == "__main__":
    sys.exit(main())
