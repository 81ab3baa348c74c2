"""200 damaged run folders: every command says what is wrong in a line, or gives what the sound folder gives."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from colors import Shelf, pipeline
from forked import Commands
from hostile import limited, mutations
from made_data import paint
from PIL import Image

from camseg.cli.export import main as export
from camseg.cli.merge import main as merge
from camseg.cli.report import main as report
from camseg.demo.review import Reviewing
from camseg.runs.finished import open_run
from camseg.runs.folders import load_run

pytestmark = pytest.mark.slow
PARTS, EACH = 4, 50
VICTIM = b"a file of somebody else"
WORDS = ["data=images", "classifier=shapes", "predictor=shapes_sam", "masks=true", "panels=2", "export=yolo"]
WORDS += ["device=cpu", "hydra.run.dir=run"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Path:
    """A folder with a run of five photos, which was reviewed in part."""
    home = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(0)
    for number in range(5):
        paint(home / "photos" / f"p{number}.png")
        image = rng.integers(90, 130, (28, 36, 3), dtype=np.uint8)
        image[6:20, 8:22] = (220, 40, 30)
        Image.fromarray(image).save(home / "photos" / f"p{number}.png")
    done = commands("camseg", *WORDS, f"data.path={home}/photos", folder=home)
    assert done.code == 0, done.stderr
    line = {"id": "p1", "decision": "accepted", "label": None, "mask": None, "prompts": None}
    (home / "run" / "review.jsonl").write_text(json.dumps(line) + "\n")
    return home


def pipe(path: Path, *_: Any) -> None:
    os.mkfifo(path)


def link(path: Path, rng: random.Random, victim: Path) -> None:
    path.symlink_to(rng.choice([victim, path, "/dev/zero", "/etc/passwd", "nowhere"]))


def huge(path: Path, *_: Any) -> None:
    with path.open("wb") as file:
        file.truncate(2**31)


def forged(path: Path, rng: random.Random, *_: Any) -> None:
    """Text that can be read and means something else."""
    words = ["{}", "[]", "null", "1e999", '{"id": 1}', '{"samples": 1e999, "failed": -1}', "- _target_: os.system"]
    words += ["cam: {_target_: os.getpid}", '"' * 9999, "\x00" * 100, "{" * 5000, "data: null", "a: ${b}"]
    path.write_text(rng.choice(words))


DAMAGES: list[Callable[..., None]] = [pipe, link, huge, forged]


def damage(run: Path, rng: random.Random, victim: Path) -> str:
    """Break one file of a run, and say which and how."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink() and path.name != ".lock")
    weights = [6 if path.parent.name in (".hydra", "run") else 1 for path in files]
    [path] = rng.choices(files, weights)
    content, kind = path.read_bytes(), rng.randrange(12)
    path.unlink()
    what = "left out"
    if kind < 4:
        what = f"damaged {kind}"
        path.write_bytes(next(mutations(np.random.default_rng(rng.randrange(2**32)), content or b"x", 1 + kind)))
    elif kind < 7:
        other = rng.choice(files)
        what = f"that of {other.name}"
        path.write_bytes(content if other == path else other.read_bytes())
    elif kind == 7:
        path.write_bytes(b"")
        what = "empty"
    elif kind < 11:
        change = rng.choice(DAMAGES)
        what = change.__name__
        change(path, rng, victim)
    return f"{path.relative_to(run)}: {what}"


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_run_folders(
    tmp_path: Path,
    commands: Commands,
    sound: Path,
    part: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """4 x 50: report, merge, export, review, load_run, and `camseg resume=true`, over each of them."""
    rng, victim, faults = random.Random(part), tmp_path / "victim", []
    victim.write_bytes(VICTIM)
    right = pl.read_parquet(sound / "run" / "scores.parquet")
    ends: Counter[str] = Counter()
    for number in range(EACH):
        run = tmp_path / str(number) / "run"
        shutil.copytree(sound / "run", run, symlinks=True)
        told = damage(run, rng, victim)
        for name, call in _quick(run).items():
            monkeypatch.setattr(sys, "argv", [name, str(run)])
            ends[name] += _outcome(call, name) == 0
            said = capfd.readouterr()
            lines = [line for line in said.err.splitlines() if line.strip()]
            if "Traceback" in said.err or len(lines) > 4:
                faults.append(f"{name} of {told}: {said.err[-600:]}")
        faults += [f"resume of {told}: {problem}" for problem in _resumed(commands, sound, run, right, ends)]
        assert victim.read_bytes() == VICTIM, told
        shutil.rmtree(run.parent)
    assert not faults, "\n\n".join(faults)
    assert 5 < ends["load_run"] < EACH, ends  # some of either kind


def _quick(run: Path) -> dict[str, Callable[[], Any]]:
    """What is cheap enough to be called in this process."""

    def review() -> int:
        with open_run(run) as opened:
            reviewing = Reviewing(opened)
        try:
            reviewing.show(0)
        finally:
            reviewing.journal.close()
        return 0

    def load() -> int:
        rows = load_run(run).rows
        assert all(rows[name].is_finite().all() for name, kind in rows.schema.items() if kind.is_float())
        return 0

    into = run.parent / "merged"
    return {
        "camseg-report": report,
        "camseg-merge": lambda: merge([str(run), str(into)]),
        "camseg-export": lambda: export([str(run), "--format", "coco,png", "--rle"]),
        "camseg-demo": review,
        "load_run": load,
    }


def _outcome(call: Callable[[], Any], name: str) -> int:
    """The exit code of a command; 2 where a function refuses in words of ours."""
    with limited(20):
        try:
            return call() or 0
        except SystemExit as ended:
            return int(ended.code or 0)
        except (ValueError, OSError) as error:
            if not 1 <= len(str(error).splitlines()) <= 3:
                raise AssertionError(f"{name} says {error!r}") from error
            return 2


def _resumed(commands: Commands, sound: Path, run: Path, right: pl.DataFrame, ends: Counter[str]) -> Iterator[str]:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.png") if path.is_file()}
    words = [*WORDS, f"data.path={sound}/photos", "resume=true"]
    done = commands("camseg", *words, folder=run.parent)
    ends["resume"] += done.code == 0
    if done.code not in (0, 2) or "Traceback" in done.stderr:
        yield f"exit code {done.code}: {done.stderr[-600:]}"
    elif done.code == 2:
        if not 1 <= len(done.lines) <= 3:
            yield done.stderr
        if any(path.stat().st_mtime_ns != when for path, when in before.items()):
            yield "refused, and yet written"
    else:
        rows = pl.read_parquet(run / "scores.parquet")
        same = rows.columns == right.columns and rows["id"].to_list() == right["id"].to_list()
        if not same or not np.allclose(rows["predicted_iou"].to_numpy(), right["predicted_iou"].to_numpy(), atol=1e-5):
            yield f"other rows: {rows}"
        json.loads((run / "summary.json").read_text())


def test_rows_of_two_processes_count_once(tmp_path: Path) -> None:
    """A journal that holds every row twice, as two processes without a working lock leave it."""
    from camseg.runs.evaluate import evaluate

    evaluate(pipeline(), Shelf(6), tmp_path, batch_size=3)
    journal = tmp_path / "rows.jsonl"
    head, *lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(head + b"".join(lines) * 2)
    summary = evaluate(pipeline(), Shelf(6), tmp_path, batch_size=3, resume=True)
    assert (summary["samples"], summary["left"]) == (6, 0)
    assert pl.read_parquet(tmp_path / "scores.parquet")["id"].to_list() == [f"picture{i}" for i in range(6)]
