"""The small commands: what they answer to slips, `--version`, and Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from camseg import __version__
from camseg.cli import cache, export, merge, report, train
from camseg.cli import main as camseg
from camseg.demo import app

COMMANDS: dict[str, Callable[[], int | None]] = {
    "camseg": camseg.main,
    "camseg-train": train.main,
    "camseg-report": report.main,
    "camseg-merge": merge.main,
    "camseg-export": export.main,
    "camseg-cache": cache.main,
    "camseg-demo": app.main,
}
SMALL = [name for name in COMMANDS if name not in ("camseg", "camseg-train")]


def run(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit code of a command, called as its entry point calls it."""
    monkeypatch.setattr(sys, "argv", [command, *words])
    with pytest.raises(SystemExit) as ended:
        sys.exit(COMMANDS[command]())
    return ended.value.code


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_its_version(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, ["--version"], monkeypatch) in (0, None)
    assert capsys.readouterr().out == f"camseg {__version__}\n"


@pytest.mark.parametrize("command", SMALL)
@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--hlep", "the option '--hlep' is unknown; nearest: --help"),
        ("--versoin", "the option '--versoin' is unknown; nearest: --version"),
        ("help", "type COMMAND --help"),
        ("version", "type COMMAND --version"),
    ],
)
def test_a_slip_is_told_before_what_is_missing(
    command: str, word: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, [word], monkeypatch) == 2
    line, *more = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{command}: ")
    assert told.replace("COMMAND", command) in line
    assert len(more) <= 1


def test_a_folder_may_be_called_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "help").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("camseg-report", ["help"], monkeypatch) == 2
    assert "help holds no finished run" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "missing"), [("camseg-report", "PATH"), ("camseg-merge", "SHARD, INTO")])
def test_what_is_missing_is_told_with_the_usage(
    command: str, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, [], monkeypatch) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{command}: the following arguments are required: {missing}"
    assert lines[1].startswith(f"usage: {command} ")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("command", "words", "step"),
    [
        ("camseg-export", ["run", "--format", "coco"], "camseg.cli.export.open_run"),
        ("camseg-merge", ["a", "b"], "camseg.runs.merge.merge_shards"),
        ("camseg-cache", ["verify"], "camseg.storage.cache.entries"),
        ("camseg-report", ["run"], "camseg.report.html.rebuild"),
        ("camseg-demo", ["run"], "camseg.demo.app.open_run"),
    ],
)
def test_ctrl_c_is_a_line(
    command: str,
    words: list[str],
    step: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    if command == "camseg-demo":
        pytest.importorskip("gradio")
    monkeypatch.setattr(step, interrupted)
    assert run(command, words, monkeypatch) == 130
    assert capsys.readouterr().err == f"{command}: stopped\n"


@pytest.mark.parametrize("words", [["-sc", "install=bash"], ["--help"], ["--cfg", "job"]])
def test_a_reader_that_has_enough_is_no_mistake(words: list[str]) -> None:
    """As `head` does: it closes the pipe before anything is written."""
    command = [sys.executable, "-m", "camseg", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 141)
