"""The store: rows come back as they were written, a kill costs the unfinished part exclusive_lock, nothing damaged is read."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hftl.errors import RunError
from hftl.store import Builder, NoRoom, Removed, Rows, cache_folder, exclusive_lock, find, is_being_built, key_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HFTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("hftl.store.folder._not_again", {})
    return tmp_path / "cache"


def built(name: str, count: int = 4, *, size: int = 10) -> Rows:
    """An entry of `count` rows of `size` bytes; row i is full of i."""
    builder = Builder(key_of({"name": name}), lengths=count, row_shape=(size,), dtype=np.uint8)
    for index in range(count):
        builder.write(index, np.full(size, index, dtype=np.uint8))
    return builder.finish()


def no_room(nbytes: int, *, budget: float, name: str = "new") -> str | None:
    """Begin an entry of one row; None, or why there is no room for it."""
    try:
        Builder(key_of({"name": name}), lengths=1, row_shape=(nbytes,), dtype=np.uint8, budget=budget).discard()
    except NoRoom as full:
        return str(full)
    return None


def entries(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


# --- rows ---------------------------------------------------------------------------------------------------------------------


def test_rows_of_any_length_come_back_without_padding() -> None:
    lengths = np.array([3, 0, 1, 2])
    key = key_of({"weights": "a", "data": "b"})
    assert find(key) is None
    builder = Builder(
        key,
        lengths=lengths,
        row_shape=(2,),
        dtype=np.float32,
        extra={"labels": np.array([5, 6, 7, 8]), "ids": np.array(["a", "é"])},
    )
    written = [np.arange(2 * length, dtype=np.float32).reshape(length, 2) + index for index, length in enumerate(lengths)]
    for index in (2, 0, 3, 1):  # any order
        builder.write(index, written[index])
    builder.finish()
    rows = find(key)
    assert rows is not None
    assert len(rows) == 4
    assert rows.nbytes == (3 + 0 + 1 + 2) * 2 * 4
    assert all(np.array_equal(rows[index], written[index]) for index in range(4))
    assert {name: array.tolist() for name, array in rows.extra.items()} == {"labels": [5, 6, 7, 8], "ids": ["a", "é"]}
    for beyond in (4, -1):
        with pytest.raises(IndexError):
            rows[beyond]
    with pytest.raises(ValueError, match="read-only"):
        rows[0][0] = 1


def test_rows_of_one_shape_need_no_lengths() -> None:
    rows = built("pictures", 3)
    assert [row.tolist() for row in (rows[0], rows[2])] == [[0] * 10, [2] * 10]
    assert rows.nbytes == 30


def test_no_rows_at_all_are_an_entry_too() -> None:
    assert len(built("nothing", 0)) == 0
    assert Builder(key_of({}), lengths=np.array([0, 0]), row_shape=(3,), dtype=np.uint16).done == 0


def test_a_row_that_was_not_promised_is_refused() -> None:
    builder = Builder(key_of({}), lengths=np.array([2, 3]), row_shape=(4,), dtype=np.float32)
    with pytest.raises(ValueError, match=r"row 0: float32 \(3, 4\), where float32 \(2, 4\) was promised"):
        builder.write(0, np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="float64"):
        builder.write(0, np.zeros((2, 4)))


def test_a_key_depends_on_every_part_and_on_no_order() -> None:
    assert key_of({"a": 1, "b": [2.5, None]}) == key_of({"b": [2.5, None], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": "1"})
    assert re.fullmatch("[0-9a-f]{64}", key_of({}))
    with pytest.raises(TypeError):
        key_of({"a": np.zeros(2)})  # would be written as a text that leaves numbers out


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HFTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "hftl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hftl"


def anonymous_bytes() -> int:
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_reading_takes_none_of_the_processs_own_memory() -> None:
    rows = built("large", 64, size=2**20)
    before = anonymous_bytes()
    held = [rows[index] for index in range(64)]
    assert sum(int(row.max()) for row in held) == 63 * 64 // 2
    assert anonymous_bytes() - before < 8 * 2**20  # of 64
    assert sum(int(np.array(row).max()) for row in held) == 63 * 64 // 2


# --- interrupted and damaged --------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    process: subprocess.Popen[str]

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.communicate(timeout=60)


def python(code: str, *arguments: Any) -> Started:
    """Another process; it works in this one's cache."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return Started(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))


WRITER = """
    import sys, time
    import numpy as np
    from hftl.store import Builder
    rank, processes, stop = map(int, sys.argv[2:])
    builder = Builder(sys.argv[1], lengths=np.arange(1, 41), row_shape=(1000,), dtype=np.int32, rank=rank, processes=processes)
    mine = range(rank, 40, processes)
    for batch, start in enumerate(range(0, len(mine), 4)):
        for index in mine[start : start + 4]:
            builder.write(index, np.full((index + 1, 1000), index, dtype=np.int32))
        if batch == stop:
            print("stopped", flush=True)
            time.sleep(60)
        builder.mark(batch + 1)
    print("written", flush=True)
"""


def continued(key: str, **settings: Any) -> Builder:
    return Builder(key, lengths=np.arange(1, 41), row_shape=(1000,), dtype=np.int32, **settings)


def test_a_build_that_was_killed_is_continued_at_the_last_mark(cache: Path) -> None:
    key = key_of({"a": 1})
    writer = python(WRITER, key, 0, 1, 6)
    assert writer.line() == "stopped"
    os.kill(writer.process.pid, signal.SIGKILL)
    writer.end()
    assert find(key) is None
    builder = continued(key)
    assert builder.done == 6  # of 10; the seventh was written and not marked
    with pytest.raises(RunError, match="16 of 40 rows were never written"):
        builder.finish()
    for index in range(24, 40):
        builder.write(index, np.full((index + 1, 1000), index, dtype=np.int32))
    rows = builder.finish()
    assert all((rows[index] == index).all() and rows[index].shape == (index + 1, 1000) for index in range(40))
    assert sorted(path.name for path in (cache / key).iterdir()) == ["digests.json", "layout.json", "rows.bin", "starts.npy"]
    assert entries(cache) == {key}


@pytest.mark.parametrize("change", ["processes", "dtype", "lengths", "extra", "batch_plan"])
def test_another_layout_starts_anew_and_clears_what_was_left(change: str, cache: Path) -> None:
    key = key_of({"a": 1})
    layout: dict[str, Any] = {"lengths": np.array([2, 3]), "row_shape": (4,), "dtype": np.int16, "processes": 1}
    first = Builder(key, **layout, extra={"labels": np.array([1])})
    first.write(0, np.zeros((2, 4), np.int16))
    first.mark(1)
    del first
    assert Builder(key, **layout, extra={"labels": np.array([1])}).done == 1
    others = {
        "processes": 2,
        "dtype": np.uint16,
        "lengths": np.array([3, 2]),
        "extra": {"labels": np.array([2])},
        "batch_plan": "by 8",
    }
    second = Builder(key, **{**layout, "extra": {"labels": np.array([1])}, change: others[change]})
    assert second.done == 0
    assert len(entries(cache)) == 1


def test_a_build_that_another_run_works_on_is_left_alone(cache: Path) -> None:
    key = key_of({"a": 1})
    alive = Builder(key, lengths=2, row_shape=(), dtype=np.uint8)
    faster = Builder(key, lengths=2, row_shape=(), dtype=np.uint8, batch_plan="otherwise")
    assert len(entries(cache)) == 2
    for builder in (faster, alive):
        for index in range(2):
            builder.write(index, np.array(7 + index, dtype=np.uint8))
    assert faster.finish()[1] == 8
    alive.mark(1)
    rows = alive.finish()  # takes what is there, and its own away
    assert [int(rows[index]) for index in range(2)] == [7, 8]
    assert entries(cache) == {key}


def test_two_runs_that_build_the_same_do_not_disturb_each_other(cache: Path) -> None:
    key = key_of({"a": 1})
    first, second = (Builder(key, lengths=2, row_shape=(), dtype=np.uint8) for _ in range(2))
    for builder in (first, second):
        for index in range(2):
            builder.write(index, np.array(index, dtype=np.uint8))
    first.finish()
    second.mark(1)
    second.write(0, np.array(0, dtype=np.uint8))
    assert len(second.finish()) == 2
    assert entries(cache) == {key}


def test_killed_while_it_is_prepared_nothing_is_continued(cache: Path) -> None:
    key = key_of({"a": 1})
    builder = continued(key)
    builder.mark(3)
    del builder
    (half,) = cache.glob(f"{key}.*.partial")
    (half / "layout.json").unlink()  # written last
    (half / "rows.bin").write_bytes(b"")
    assert continued(key).done == 0
    assert (half / "rows.bin").stat().st_size == 40 * 41 // 2 * 4000


def test_processes_build_together(cache: Path) -> None:
    key = key_of({"a": 1})
    others = [python(WRITER, key, rank, 3, -1) for rank in (1, 2)]
    builder = continued(key, rank=0, processes=3)
    for index in range(0, 40, 3):
        builder.write(index, np.full((index + 1, 1000), index, dtype=np.int32))
    for other in others:
        assert other.line() == "written"
        other.end()
    rows = builder.finish()
    assert all((rows[index] == index).all() for index in range(40))
    assert entries(cache) == {key}


def test_processes_that_were_interrupted_at_different_batches_go_on_together(cache: Path) -> None:
    key = key_of({"a": 1})
    # Of 4 rows each: rank 0 marks two batches and dies in the third, rank 1 marks one and dies in the second.
    for rank, stop in ((0, 2), (1, 1)):
        writer = python(WRITER, key, rank, 2, stop)
        assert writer.line() == "stopped"
        os.kill(writer.process.pid, signal.SIGKILL)
        writer.end()
    builders = [continued(key, rank=rank, processes=2) for rank in range(2)]
    assert [builder.done for builder in builders] == [2, 1]
    start = min(builder.done for builder in builders)
    for rank, builder in enumerate(builders):
        for index in range(rank, 40, 2)[4 * start :]:
            builder.write(index, np.full((index + 1, 1000), index, dtype=np.int32))
        builder.mark(5)
    rows = builders[0].finish()
    assert all((rows[index] == index).all() and rows[index].shape == (index + 1, 1000) for index in range(40))


def test_a_process_that_was_not_there_is_missed() -> None:
    builder = Builder(key_of({}), lengths=4, row_shape=(), dtype=np.uint8, processes=2)
    for index in (0, 2):
        builder.write(index, np.array(1, dtype=np.uint8))
    with pytest.raises(RunError, match="2 of 4 rows were never written"):
        builder.finish()


def flip_a_bit(file: Path) -> None:
    """Of the last byte, which no check of sizes or forms sees."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["rows.bin", "starts.npy", "extra-lengths.npy", "digests.json"])
def test_a_bit_that_flips_is_noticed_said_and_the_entry_removed(name: str, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = key_of({"a": 1})
    builder = Builder(key, lengths=np.array([2, 3]), row_shape=(4,), dtype=np.float32, extra={"lengths": np.ones(3, np.float32)})
    for index, length in enumerate((2, 3)):
        builder.write(index, np.ones((length, 4), np.float32))
    builder.finish()
    assert find(key) is not None and not caplog.records
    flip_a_bit(cache / key / name)
    assert find(key) is None
    if name != "starts.npy":  # its numbers no longer ascend, which is seen before anything is read
        assert f"{name} was changed on the disk: its SHA-256 is another" in caplog.text
        assert not (cache / key).exists()


@pytest.mark.parametrize(
    "layout",
    [
        {"dtype": "|O"},
        {"dtype": "|S8"},
        {"dtype": "<U4"},
        {"dtype": "<M8[s]"},
        {"dtype": [["a", "<f4"]]},
        {"rows": -1},
        {"rows": 2.0},
        {"rows": True},
        {"row_shape": [-4]},
        {"row_shape": ["4"]},
        {"row_shape": 4},
        {"row_shape": [2**62, 2**62]},
        {"extra": ["../../secret"]},
        {"ragged": "yes"},
    ],
)
def test_a_layout_that_hftl_does_not_write_is_no_entry(layout: dict[str, Any], cache: Path) -> None:
    built("a")
    file = cache / key_of({"name": "a"}) / "layout.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | layout))
    (file.parent / "rows.bin").write_bytes(b"A" * 320)  # as many as four objects of ten would take
    assert find(key_of({"name": "a"})) is None


def test_objects_in_an_array_of_an_entry_are_never_looked_at(cache: Path) -> None:
    key = key_of({"a": 1})
    Builder(key, lengths=0, row_shape=(), dtype=np.uint8, extra={"x": np.ones(2)}).finish()
    np.save(cache / key / "extra-x.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    assert find(key) is None


# --- others -------------------------------------------------------------------------------------------------------------------


def test_nobody_else_may_read_or_write_what_is_made(cache: Path) -> None:
    before = os.umask(0)
    try:
        built("a")
    finally:
        os.umask(before)
    assert cache.stat().st_mode & 0o777 == 0o700 and (cache / ".lock").stat().st_mode & 0o777 == 0o600
    modes = {path.name: path.stat().st_mode & 0o777 for path in (cache / key_of({"name": "a"})).iterdir()}
    assert modes == dict.fromkeys(("rows.bin", "layout.json", "digests.json"), 0o600)


@pytest.mark.parametrize("file", ["rows.bin", "layout.json", "digests.json"])
def test_what_others_may_have_written_is_not_believed(file: str, cache: Path) -> None:
    built("a")
    path = cache / key_of({"name": "a"}) / file
    path.chmod(0o660)
    assert find(key_of({"name": "a"})) is None


def test_a_link_in_an_entry_is_not_followed(cache: Path, tmp_path: Path) -> None:
    built("a")
    rows = cache / key_of({"name": "a"}) / "rows.bin"
    shutil.copy(rows, tmp_path / "elsewhere")
    rows.unlink()
    rows.symlink_to(tmp_path / "elsewhere")
    assert find(key_of({"name": "a"})) is None


def test_entries_of_another_user_are_neither_believed_nor_counted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built("a", size=1000)
    owner = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    assert cache_folder() == cache / f"user-{owner + 1}"  # the folder is another user's: each has one of their own in it
    monkeypatch.undo()
    if owner:
        pytest.skip("only root can give files to another user")
    monkeypatch.setenv("HFTL_CACHE", str(cache))
    entry = cache / key_of({"name": "a"})
    for path in (entry, *entry.iterdir()):
        os.chown(path, 4321, 4321)
    assert find(key_of({"name": "a"})) is None
    assert no_room(9000, budget=10_000) is None and entry.exists()


def test_a_lock_that_is_held_for_ever_costs_one_wait(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built("a")
    monkeypatch.setattr("hftl.store.folder.LOCK_SECONDS", 0.3)
    with (cache / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        assert find(key_of({"name": "a"})) is None
        assert find(key_of({"name": "a"})) is None and not is_being_built(key_of({"name": "a"}))
        said = no_room(10, budget=1e6)
        assert 0.3 <= time.monotonic() - began < 3
    assert said == f"the cache folder {cache} (HFTL_CACHE) cannot be used: another process has held its lock for too long"
    assert find(key_of({"name": "a"})) is not None  # free again


def test_a_cache_that_is_removed_during_a_build_is_said_and_can_be_built_again(cache: Path) -> None:
    key = key_of({"a": 1})
    for moment in ("before a mark", "before the end"):
        builder = Builder(key, lengths=2, row_shape=(3,), dtype=np.uint8)
        builder.write(0, np.ones(3, np.uint8))
        if moment == "before a mark":
            shutil.rmtree(cache)
        builder.mark(1)
        builder.write(1, np.ones(3, np.uint8))
        builder.mark(2)
        if moment == "before the end":
            shutil.rmtree(cache)
        with pytest.raises(Removed):
            builder.finish()
        builder.close()
    assert len(built("a")) == 4


def test_an_entry_that_is_removed_stays_readable_for_those_who_have_it(cache: Path) -> None:
    rows = built("a")
    shutil.rmtree(cache)
    assert rows[3].tolist() == [3] * 10


@pytest.mark.parametrize("damage", ["rows", "long", "layout", "foreign", "no layout", "starts", "another version"])
def test_a_damaged_entry_is_absent_and_built_anew(damage: str, cache: Path) -> None:
    key = key_of({"a": 1})
    for _ in range(2):
        builder = Builder(key, lengths=np.array([2, 3]), row_shape=(4,), dtype=np.int16)
        builder.write(0, np.ones((2, 4), np.int16))
        builder.write(1, np.ones((3, 4), np.int16))
        assert len(builder.finish()) == 2
        if find(key) is not None:
            folder = cache / key
            layout = json.loads((folder / "layout.json").read_text())
            match damage:
                case "rows":
                    os.truncate(folder / "rows.bin", 39)
                case "long":
                    os.truncate(folder / "rows.bin", 41)
                case "layout":
                    (folder / "layout.json").write_text('{"rows": 2')
                case "foreign":
                    (folder / "layout.json").write_text("[1, 2]")
                case "no layout":
                    (folder / "layout.json").unlink()
                case "starts":
                    (folder / "starts.npy").write_bytes(b"\x93NUMPY")
                case "another version":
                    (folder / "layout.json").write_text(json.dumps(layout | {"format": 0}))
            assert find(key) is None


# --- room ---------------------------------------------------------------------------------------------------------------------


def test_room_is_made_by_removing_the_least_recently_used(cache: Path) -> None:
    names = ["first", "second", "third"]
    for age, name in enumerate(names):
        built(name, 10, size=1000)
        os.utime(cache / key_of({"name": name}), (age, age))
    keys = {name: key_of({"name": name}) for name in names}
    assert find(keys["first"]) is not None  # and so it is the last used now
    # 3 x 10,000 bytes and three small layouts; 45,000 hold one more without any loss, 35,000 after the loss of one.
    assert no_room(10_000, budget=45_000) is None
    assert entries(cache) == set(keys.values())
    assert no_room(10_000, budget=35_000) is None
    assert entries(cache) == {keys["first"], keys["third"]}


def test_what_is_in_use_stays(cache: Path) -> None:
    held, idle = built("held", 10, size=1000), built("idle", 10, size=1000)
    os.utime(cache / key_of({"name": "held"}), (1, 1))
    del idle
    reader = python(
        "import sys, time; from hftl.store import find; r = find(sys.argv[1]); print(len(r), flush=True); time.sleep(60)",
        key_of({"name": "held"}),
    )
    assert no_room(10_000, budget=21_000) is None
    assert entries(cache) == {key_of({"name": "held"})}
    assert int(held[9][0]) == 9
    del held
    assert reader.line() == "10"
    why = no_room(15_000_000, budget=15_005_000)
    assert why == "15.0 MB do not fit into the cache's 15.0 MB, of which 10.2 kB are in use"
    reader.process.kill()
    reader.end()
    assert no_room(15_000_000, budget=15_005_000) is None
    assert entries(cache) == set()


def test_nothing_is_removed_for_what_would_not_fit_anyway(cache: Path) -> None:
    built("small", 10, size=1000)
    assert no_room(2 * 10**9, budget=10**9) == "2.0 GB do not fit into the cache's 1.0 GB"
    free = shutil.disk_usage(cache).free
    why = no_room(free, budget=1e18)
    assert why is not None and "do not fit on the disk" in why
    assert entries(cache) == {key_of({"name": "small"})}


def test_what_an_interrupted_build_has_taken_is_not_counted_twice(cache: Path) -> None:
    key = key_of({"a": 1})
    builder = Builder(key, lengths=10, row_shape=(1000,), dtype=np.uint8)
    builder.mark(1)
    del builder
    assert Builder(key, lengths=10, row_shape=(1000,), dtype=np.uint8, budget=12_000).done == 1
    assert no_room(10_000, budget=12_000) is None  # for another entry it is removed
    assert entries(cache) == set()


def test_what_another_run_builds_of_the_same_entry_at_this_moment_counts(cache: Path) -> None:
    key = key_of({"a": 1})
    alive = Builder(key, lengths=10, row_shape=(1000,), dtype=np.uint8)
    with pytest.raises(NoRoom, match=r"do not fit into the cache's 15.0 kB, of which 10.1 kB are in use"):
        Builder(key, lengths=10, row_shape=(1000,), dtype=np.uint8, batch_plan="beside", budget=15_000)
    assert Builder(key, lengths=10, row_shape=(1000,), dtype=np.uint8, batch_plan="beside", budget=25_000).done == 0
    alive.close()


def test_a_cache_folder_that_cannot_be_written_has_no_entries(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = key_of({"name": "there"})
    built("there")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fcntl.flock", refused)  # root, who runs some tests, may write anywhere
    assert (cache / key).is_dir() and find(key) is None


def test_files_of_others_in_the_cache_folder_are_left_alone(cache: Path) -> None:
    (cache / "notes").mkdir(parents=True)
    (cache / "notes" / "a.txt").write_text("a" * 10_000)
    assert no_room(1000, budget=2000) is None
    assert (cache / "notes" / "a.txt").exists()


def test_a_full_disk_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)  # a file system of a few bytes needs root to make
    with pytest.raises(OSError, match="No space left"):
        built("large")
    assert entries(cache) == set()
    assert no_room(10, budget=1e6) == f"the cache folder {cache} (HFTL_CACHE) cannot be used: No space left on device"
    assert entries(cache) == set()


def test_of_two_runs_that_ask_for_the_last_room_one_gets_it(cache: Path) -> None:
    code = """
        import sys
        import numpy as np
        from hftl.store import Builder, NoRoom, exclusive_lock, cache_folder, key_of
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            builder = Builder(key_of({"name": sys.argv[1]}), lengths=1, row_shape=(10_000,), dtype=np.uint8, budget=15_000)
            print("room", flush=True)
        except NoRoom as full:
            print(full, flush=True)
        sys.stdin.readline()
    """
    runs = [python(code, name) for name in ("first", "second")]
    assert [run.line() for run in runs] == ["ready", "ready"]
    for run in runs:
        run.go_on()
    refused, room = sorted(run.line() for run in runs)
    assert re.fullmatch(r"10\.\d kB do not fit into the cache's 15\.0 kB, of which 10\.\d kB are in use", refused)
    assert room == "room"
    for run in runs:
        run.end()


def test_what_goes_is_removed_while_others_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built("old", 10, size=1000)
    built("used", 10, size=1000)
    os.utime(cache / key_of({"name": "old"}), (1, 1))
    removed: list[str] = []

    def slowly(folder: Path, **settings: Any) -> None:
        removed.append(folder.name[:64])
        with (cache / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error, if it were still held
        assert find(key_of({"name": "old"})) is None
        assert find(key_of({"name": "used"})) is not None
        remove(folder, **settings)

    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", slowly)
    assert no_room(10_000, budget=25_000) is None
    assert removed == [key_of({"name": "old"}), key_of({"name": "new"})]  # `no_room` discards what it began


def test_what_a_kill_left_half_removed_goes_with_the_next_build(cache: Path) -> None:
    key = key_of({"name": "old"})
    built("old")
    (cache / key).rename(cache / f"{key}.{'0' * 32}.gone")
    (cache / f"{key}.{'0' * 32}.gone" / "layout.json").unlink()
    (cache / "a user's.gone").mkdir()
    built("new")
    assert entries(cache) == {key_of({"name": "new"}), "a user's.gone"}


def test_a_lock_is_one_processs_at_a_time_and_goes_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = """
        import sys, time
        from pathlib import Path
        from hftl.store import exclusive_lock
        with exclusive_lock(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(60)
    """
    holder = python(code, lock)
    assert holder.line() == "held"
    waiting = python(code, lock)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.process.wait(0.5)
    holder.process.kill()
    assert waiting.line() == "held"
    for each in (holder, waiting):
        each.process.kill()
        each.end()
    with exclusive_lock(lock):
        pass
