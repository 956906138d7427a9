"""What is printed for people: nothing of a stranger's acts on the terminal, and a reader that goes away ends nothing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Hftl
from rich.console import Console
from small import BERT_NANO

from hftl.environment import environment_record
from hftl.launch import is_main_process
from hftl.terminal import show

REPOSITORY = Path(__file__).resolve().parent.parent


def test_a_reader_that_goes_away_ends_nothing() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        console = Console(file=file, width=80)
        assert show(console, "one")
        assert os.read(reader, 100) == b"one\n"
        os.close(reader)
        assert not show(console, "two")
        assert show(console, "three")  # into nowhere


def test_a_terminal_that_hangs_up_ends_nothing() -> None:
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w") as file:
        console = Console(file=file, width=80)
        assert show(console, "one")
        os.close(controller)
        assert not show(console, "two") and show(console, "three")


def test_an_escape_sequence_is_shown_and_not_obeyed() -> None:
    file = io.StringIO()
    show(Console(file=file, width=80), "film \x1b]0;PWNED\x07 [bold]x[/bold] \x9b31m")
    assert file.getvalue() == "film \\x1b]0;PWNED\\x07 [bold]x[/bold] \\x9b31m\n"


def test_class_names_of_a_stranger_reach_no_terminal_as_they_are(tmp_path: Path, hftl: Hftl) -> None:
    rows = "".join(f"film number {number},{'ab'[number % 2]}\x1b]0;PWNED\x07\n" for number in range(40))
    (tmp_path / "t.csv").write_text(f"text,label\n{rows}")
    (tmp_path / "recipe.yaml").write_text(
        f"name: t\ndata: {{kind: text, source: {tmp_path / 't.csv'}}}\n"
        f"model: {{family: transformer, checkpoint: {BERT_NANO}}}\nstages: {{head: {{lr: 0.001, unfreeze: head}}}}\n"
    )
    for command in ("show", "plan", "audit"):
        printed = hftl(command, tmp_path / "recipe.yaml")
        assert printed.code == 0
        assert "\x1b]0;" not in printed.out + printed.err and "\x07" not in printed.out + printed.err


def test_a_rank_without_a_world_is_left_over_from_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, world, speaks in (("1", None, True), ("0", "2", True), ("1", "2", False), (None, None, True)):
        for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert is_main_process() is speaks


@pytest.mark.parametrize(("setting", "commit"), [("core.fsmonitor", "+changes"), ("filter.x.clean", "+unknown")])
def test_the_settings_of_a_strangers_repository_run_nothing(
    setting: str, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stranger"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.email=a@b", "-c", "user.name=x", *words], check=True, capture_output=True)

    git("init")
    Path(".gitattributes").write_text("* filter=x\n")
    Path("f").write_text("1")
    git("add", ".")
    git("commit", "-m", "x")
    git("config", setting, f"touch {tmp_path / 'ran'}; false")
    Path("f").write_text("2, changed")
    assert str(environment_record()["git_commit"]).endswith(commit)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the reader goes away", "the terminal is closed"])
def test_a_run_whose_terminal_goes_away_goes_on_or_is_saved(how: str, tmp_path: Path) -> None:
    script = tmp_path / "recipe.py"
    script.write_text(
        """
import hftl
from hftl.samples import REVIEWS
recipe = hftl.Recipe(
    name="t",
    data=hftl.TextData(source=REVIEWS, max_length=32, max_train_samples=48, max_validation_samples=20, max_test_samples=20),
    model=hftl.Transformer(checkpoint="BERT_NANO"),
    stages={"head": hftl.Stage(unfreeze="head", lr=1e-3), "all": hftl.Stage(lr=1e-4, epochs=3)},
    run=hftl.RunSettings(batch_size=16),
)
if __name__ == "__main__":
    hftl.main(recipe)
""".replace("BERT_NANO", BERT_NANO)
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(script), "--run-dir", "run"]
    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # of tests that run under nohup
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    signal.signal(signal.SIGHUP, handler)
    assert run.stderr is not None
    for line in run.stderr:
        if b"stage 2 of 2" in line:
            break
    log = tmp_path / "run" / "log.txt"
    if how == "the reader goes away":
        run.stderr.close()
        assert run.wait(200) == 0
        assert "nobody reads the terminal any more" in log.read_text()
        assert (tmp_path / "run" / "README.md").is_file()
    else:
        run.send_signal(signal.SIGHUP)
        assert run.wait(200) == 129
        run.stderr.close()
        assert "saved at step" in log.read_text()
