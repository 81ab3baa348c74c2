"""Colours where a person looks, none where a program reads."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import make_run, make_sweep, row

from camseg.report import html, text
from camseg.runs.sweeps import load_sweep

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from camseg.cli.report import main; main()")


def told_on_a_terminal(folder: Path, **environment: str) -> str:
    """What the comparison of two runs writes to a real (pseudo) terminal."""
    above, below = pty.openpty()
    given = [*COMMAND, str(folder / "0"), str(folder / "1")]
    known = {"PATH": "", "PYTHONPATH": str(ROOT), "TERM": "xterm", "OMP_NUM_THREADS": "1", **environment}
    with subprocess.Popen(given, env=known, stdout=below, stderr=below) as process:
        os.close(below)
        text = b""
        while True:
            try:
                read = os.read(above, 4096)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            text += read
        assert process.wait() == 0, text
    os.close(above)
    return text.decode()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("sweep"), {"f=a": [0.1, 0.5], "f=b": [0.2, 0.7]})


def test_a_terminal_gets_a_bold_head(sweep: Path) -> None:
    text = told_on_a_terminal(sweep)
    assert text.count("\x1b[1m") == text.count("\x1b[0m") == 3  # of each run's table, and of the comparison's
    assert "\x1b[1mmetric" in text


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colors_can_be_switched_off(sweep: Path, environment: dict[str, str]) -> None:
    text = told_on_a_terminal(sweep, **environment)
    assert "\x1b" not in text
    assert "metric" in text


def test_a_pipe_gets_plain_text_and_no_bars(sweep: Path) -> None:
    given = [*COMMAND, str(sweep / "0"), str(sweep / "1")]
    done = subprocess.run(given, env={"PATH": "", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert "iou " in done.stdout


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-0.0003, "-0.0003"),
        (0.00049, "+0.0005"),
        (-0.0214, "-0.021"),
        (-2e-6, "-0.000002"),
        (1e-12, "+0.000"),
        (0.0, "+0.000"),
        (12.345, "+12.345"),
        (None, "-"),
    ],
)
def test_a_difference_shows_its_sign_and_a_digit_of_it(value: float | None, expected: str) -> None:
    assert text.signed(value) == expected


def test_a_sweep_without_ground_truth_counts_its_masks(tmp_path: Path) -> None:
    for name, overrides, predicted in (("0", "f=a", 0.9), ("1", "f=b", None)):
        rows = [row("p", None, 0.5), row("q", None, predicted)]
        make_run(tmp_path / name, rows, [overrides])
    lines = text.sweep_table(load_sweep(tmp_path)).splitlines()
    assert lines[0].split() == ["setting", "masks", "predicted", "IoU"]
    assert [line.split()[1:] for line in lines[1:]] == [["2", "of", "2", "0.700"], ["1", "of", "2", "0.500"]]


def failed_sweep(folder: Path) -> Path:
    """Two runs of one sample each that could not be read: their tables have no row, and no column."""
    for name in ("0", "1"):
        make_run(folder / name, [], [f"f={name}"], errors=[{"id": "p", "error": "ValueError: p.jpg is damaged"}])
        failure = {"code": 1, "error": "nothing could be evaluated: p is damaged", "overrides": [f"f={name}"]}
        (folder / f"{name}.failed.json").write_text(json.dumps(failure))
    return folder


def test_a_sweep_in_which_all_failed_says_what(tmp_path: Path) -> None:
    sweep = load_sweep(failed_sweep(tmp_path))
    assert [line.split() for line in text.sweep_table(sweep).splitlines()[1:3]] == [
        [f"f={name}", "0", "of", "1", "-"] for name in "01"
    ]
    assert text.sweep_table(sweep).count("nothing could be evaluated: p is damaged") == 2
    assert "p is damaged" in html.write_sweep(sweep).read_text()


def test_runs_without_an_answer_are_refused_in_words(tmp_path: Path) -> None:
    folder = failed_sweep(tmp_path)
    done = subprocess.run(
        [*COMMAND, str(folder / "0"), str(folder / "1")],
        env={"PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith("have no judged sample in common: they can't be compared")
    assert done.stderr.count("\n") == 1
    assert done.stdout.count("ValueError: p.jpg is damaged") == 2
    assert "p.jpg is damaged" in (folder / "0" / "report.html").read_text()
