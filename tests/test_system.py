"""What the machine does not have: room in /dev/shm, open files, space on a disk, the right to write, a terminal.

Each circumstance is real. Those that need a mount are made in a namespace of their own, where the machine allows one, by a script
that loads hftl once and forks a child for each circumstance.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Hftl
from run_factory import make_run

from hftl.errors import from_system

REPOSITORY = Path(__file__).resolve().parent.parent


def in_a_namespace(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a mount namespace; skips where the machine does not allow one."""
    # Of processes too: with the first one all of them end, whatever they are at.
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip(
            "this machine allows no mount namespace (unshare --mount --pid), so no small or read-only file system can be made"
        )
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    command = [*apart, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


# --- loader processes -------------------------------------------------------------------------------------------------------------

LOADER = """
import ctypes, logging, os, resource, signal, sys, threading, time
from pathlib import Path
import numpy as np
import torch
from hftl import signals
from hftl.data import loader
from hftl.data.loader import WorkerError, evaluation_batches
logging.basicConfig(format="%(message)s", stream=sys.stdout)

class Large:
    # Each sample is 64 kB, a batch of 8 half a megabyte.
    fingerprint, lengths, size_unit, weights = "0" * 64, None, "pixels", None
    ids, targets, sizes = [str(i) for i in range(64)], np.zeros(64, dtype=int), [1] * 64
    def __init__(self, wait=0.0): self.wait = wait
    def __len__(self): return 64
    def __getitem__(self, position):
        if position[1] == 40: time.sleep(self.wait)
        return {"index": position[1]}
    def collate(self, samples):
        index = torch.tensor([sample["index"] for sample in samples])
        return {"pixels": index[:, None].repeat(1, 8192).double()}
    def to_device(self, inputs, device): return inputs

def small(size):
    assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS: of this child alone
    assert os.system(f"mount --make-rprivate / && mount -t tmpfs -o size={size} tmpfs /dev/shm") == 0
    assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_bsize < 2e7

def sums(samples, workers, after_first=lambda: None):
    found, held = [], []  # a batch that is let go makes room for the next: whether in time is chance
    for batch in evaluation_batches(samples, batch_size=8, workers=workers):
        held.append(batch)
        found.append((batch.index.tolist(), float(batch.inputs["pixels"].sum())))
        if len(found) == 1: after_first()
    return found

def check(name, act):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            print(name, act())
        except WorkerError as error:
            print(name, "WorkerError:", error)
        except SystemExit as stopped:
            print(name, "stopped", stopped.code)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)

alone = sums(Large(), 0)
assert len(alone) == 8 and sum(total for _, total in alone) == 8192 * 63 * 32  # 0 + 1 + ... + 63

def no_room():
    small("64k")
    return sums(Large(), 2) == alone

def fills_in_between():
    small("8m")
    def fill():
        others = os.open("/dev/shm/others", os.O_WRONLY | os.O_CREAT)
        try:
            for _ in range(3000): os.write(others, bytes(4096))  # 12 MB at the most
        except OSError: pass
    return sums(Large(), 2, fill) == alone

def other_strategy():
    small("64k")
    torch.multiprocessing.set_sharing_strategy("file_system")
    return sums(Large(), 2) == alone

def few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    return sums(Large(), 4) == alone

def more_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 400))
    return sums(Large(), 4) == alone

def hangs():
    loader.POLL_SECONDS = 1
    with signals.deferred():
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return sums(Large(wait=60.0), 1)

began = time.monotonic()
for act in (no_room, fills_in_between, other_strategy, few_files, more_files, hangs): check(act.__name__, act)
print("seconds", round(time.monotonic() - began))
"""


@pytest.mark.slow
def test_workers_hand_their_batches_over_where_shared_memory_is_small_and_none_is_waited_for_without_end() -> None:
    done = in_a_namespace(LOADER)
    said = done.stdout
    assert done.returncode == 0, done.stderr
    for circumstance in ("no_room", "fills_in_between", "other_strategy"):
        assert f"{circumstance} True" in said, said + done.stderr
    assert said.count("/dev/shm has no room for what 2 loader processes load") == 3  # once a loader
    assert (
        "few_files WorkerError: 4 loader processes cannot be had here: " in said
        and "files would be open, and at most 40 may" in said
    ), said + done.stderr
    assert "run.workers=0 needs none" in said
    assert "more_files True" in said
    assert "Traceback" not in said + done.stderr
    assert "hangs stopped 143" in said, said + done.stderr
    assert int(said.rpartition("seconds ")[2]) < 40


# --- every command ----------------------------------------------------------------------------------------------------------------

COMMANDS = """
import ctypes, os, shutil, sys
from pathlib import Path
import hftl.cli, hftl.sharing.card, hftl.sharing.verify, hftl.inference
folder, model = Path(sys.argv[1]), sys.argv[2]
os.chdir(folder)

def mounted(command):
    assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS: of this child alone
    assert os.system(f"mount --make-rprivate / && {command}") == 0

def read_only():
    mounted(f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}")
    os.chdir("/"), os.chdir(folder)

def full():
    mounted(f"mkdir -p {folder}/small && mount -t tmpfs -o size=6m tmpfs {folder}/small")
    shutil.copytree("run", folder / "small/run")
    os.chdir("/"), os.chdir(folder / "small")
    others = os.open("others", os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(3000): os.write(others, bytes(4096))  # 12 MB at the most
    except OSError: pass
    assert os.statvfs(".").f_bavail == 0

def no_stdout(): os.close(1); sys.stdout = None
def no_stdin(): os.close(0); sys.stdin = None
def full_stdout(): os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

def check(circumstance, *argv):
    said = folder.parent / "said.txt"
    pid = os.fork()
    if pid == 0:
        where = os.open(said, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(where, 1), os.dup2(where, 2)
        code = 0
        try:
            circumstance()
            hftl.cli.main(argv=list(argv))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        except BaseException as error:
            os.write(2, f"Traceback of {error!r}".encode())
            code = 1
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(circumstance.__name__, argv[0], code, " ".join(said.read_text().split())[:400])

check(read_only, "card", "run", "card.title=Reviews")
check(full, "card", "run")
check(read_only, "predict", model, "a good film", "--output", "predictions.csv")
check(full, "predict", model, "a good film", "--output", "predictions.parquet")
check(full_stdout, "predict", model, "a good film")
check(full_stdout, "verify", "run")
check(read_only, "verify", "run")
check(no_stdin, "predict", model, "a good film")
check(no_stdout, "verify", "run")
"""


@pytest.mark.slow
def test_a_full_disk_a_read_only_run_and_a_closed_stdout_are_one_message_from_every_command(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    make_run(folder / "run")
    model = bert_nano(tmp_path / "model")
    done = in_a_namespace(COMMANDS, folder, model)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 9, done.stdout
    assert not [line for line in lines if "Traceback" in line]
    for line in lines:
        circumstance, command, code, said = f"{line} ".split(" ", 3)  # nothing is said without a stdout
        if circumstance == "full_stdout" or (circumstance in ("read_only", "full") and command != "verify"):
            assert (code, said.count("RunError:")) == ("2", 1), line
            assert any(word in said for word in ("Read-only file system", "No space left", "cannot be written")), line
        else:
            assert code in ("0", "1"), line  # verify: made-up numbers need not hold


def bert_nano(folder: Path) -> Path:
    """A saved model of two classes."""
    from small import BERT_NANO

    from hftl.models import save_classifier, transformer
    from hftl.recipe import Transformer

    save_classifier(transformer.build(Transformer(checkpoint=str(BERT_NANO)), ["negative", "positive"]), folder)
    return folder


def test_names_that_are_no_text_or_too_long_are_one_message(tmp_path: Path, hftl: Hftl) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(make_run(tmp_path / "made").recipe.read_text())
    for arguments, what in (
        (("train", recipe, "--run-dir", "x\udcff"), r"RunError: 'x\udcff': not UTF-8 text"),
        (("predict", "m\udcc3", "a"), "not UTF-8 text"),
        (("train", recipe, "--run-dir", "a" * 256), f"RunError: {'a' * 256}: File name too long"),
        (("card", tmp_path / ("b" * 300)), "File name too long"),
        (("pull", "me/x", "--output", tmp_path / ("c" * 256)), "RunError: "),
        (("verify", "d" * 5_000), "RunError: "),
        (("plan", tmp_path / ("e" * 256)), "File name too long"),
    ):
        code, _, said = hftl(*arguments)
        assert (code, "Traceback" in said) == (2, False), said
        assert what in said.replace("\n", " "), said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/.README.md.123.partial"),
            "runs/x/README.md: No space left on device",
        ),
        (OSError(errno.EROFS, "Read-only file system"), "something could not be written or read: Read-only file system"),
        (OSError(errno.EMFILE, "Too many open files", "a"), "a: Too many open files"),
        (OSError(errno.EBADF, "Bad file descriptor"), None),  # a defect
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (MemoryError("Unable to allocate 7.45 GiB"), "too little memory: Unable to allocate 7.45 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "too little memory: "),
    ],
    ids=str,
)
def test_what_the_system_refuses_is_told_from_a_defect(error: Exception, said: str | None) -> None:
    message = from_system(error)
    if said is None:
        assert message is None
    else:
        assert str(message).startswith(said)
