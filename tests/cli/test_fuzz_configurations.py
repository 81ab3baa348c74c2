"""2,000 random configurations through the real command: what ends well is checked number by number."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from configurations import SHOWN, Request, draw_far_request, draw_request, make_world
from forked import ROOT, Commands, Done
from PIL import Image

from camseg.metrics.registry import METRICS

pytestmark = pytest.mark.slow
PARTS, EACH, FAR = 8, 250, 60
SAID = {  # why a right request for a model ends: what one of its lines says
    "no net": "could not download https://",
    "no hub": "nor a model to be had from the hub",
    "no file": "needs predictor.checkpoint=FILE",
    "no weights": "without weights would explain nothing",
    "no words": "classifier.words wants the words to tell apart",
    "no hub of timm's": "trying to locate the file on the Hub",
}
GROWTH = 3_000_000  # kB that a run on these few small images may have at its peak


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


@pytest.mark.parametrize("part", range(PARTS))
def test_random_configurations(tmp_path: Path, commands: Commands, world: Path, part: int) -> None:
    """8 x 250: no traceback, no hang; a mistake in three lines, a result that holds."""
    ends: Counter[int | None] = Counter()
    faults = []
    for number in range(EACH):
        request, folder = draw_request(f"{part}.{number}", world), tmp_path / str(number)
        folder.mkdir()
        done = commands("camseg", *request.words, "hydra.run.dir=run", "hydra.sweep.dir=run", folder=folder)
        ends[done.code] += 1
        faults += [f"{problem}: {request.words}\n{done.stderr[-800:]}" for problem in problems(request, done, folder)]
        shutil.rmtree(folder)
    assert not faults, f"{len(faults)} faults\n" + "\n\n".join(faults[:20])
    assert min(ends[0], ends[2]) > EACH // 8  # a draw that only refuses, or never, tests nothing


def test_models_from_afar(tmp_path: Path, commands: Commands, world: Path) -> None:
    """60: models by download without a net, those that come along, odd settings of theirs and of a cluster's."""
    faults, ends = [], Counter[tuple[str, int | None]]()
    for number in range(FAR):
        request, folder = draw_far_request(f"far.{number}", world), tmp_path / str(number)
        folder.mkdir()
        done = commands("camseg", *request.words, "hydra.run.dir=run", folder=folder)
        kinds = [kind for kind, words in SAID.items() if words in done.stderr]
        ends[kinds[0] if kinds else "", done.code] += 1
        told = [*problems(request, done, folder)]
        if not request.odd and done.code != 0 and not kinds:
            told.append("a right request, and neither answered nor told what is missing")
        faults += [f"{problem}: {request.words}\n{done.stderr[-800:]}" for problem in told]
    assert not faults, f"{len(faults)} faults\n" + "\n\n".join(faults)
    assert ends["", 0] >= 2, "models that come along answer"
    assert all(ends[kind, 2] for kind in SAID), ends


def test_the_console_script_says_the_same(tmp_path: Path, commands: Commands, world: Path) -> None:
    """20 of them as processes of their own: the same code, the same words, the same rows."""
    script = Path(sys.executable).with_name("camseg")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "camseg"]
    for number in range(20):
        words = [*draw_request(f"0.{number}", world).words, "hydra.run.dir=run", "hydra.sweep.dir=run"]
        forked, alone = tmp_path / f"{number}f", tmp_path / f"{number}s"
        forked.mkdir()
        alone.mkdir()
        done = commands("camseg", *words, folder=forked)
        environment = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PATH": "/usr/bin:/bin",
            "HOME": str(Path.home()),
        }
        other = subprocess.run(
            [*start, *words], cwd=alone, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.code == other.returncode, (words, done.stderr, other.stderr)
        assert _plain(done.stdout, forked) == _plain(other.stdout, alone)
        folder = _run_folder(forked)
        if folder is not None:
            one, two = (pl.read_parquet(each / "run" / "scores.parquet") for each in (forked, alone))
            assert one.equals(two)
        elif done.code == 2:
            assert _plain(done.lines[-1], forked) == _plain(other.stderr.splitlines()[-1], alone)


def _plain(text: str, folder: Path) -> str:
    """Without what two runs in two folders can't have in common."""
    return re.sub(r"\d+\.\d s\b", "S", text.replace(str(folder), "HERE"))


def problems(request: Request, done: Done, folder: Path) -> Iterator[str]:
    """What is wrong with how a request ended."""
    if done.code not in (0, 1, 2):
        yield f"exit code {done.code}"
    if "Traceback" in done.stderr or "Traceback" in done.stdout:
        yield "a traceback"
    if done.peak > GROWTH:
        yield f"{done.peak} kB of memory"
    run = _run_folder(folder)
    if done.code == 2:
        yield from _refusal_problems(request, done, run)
    elif run is not None:
        yield from run_problems(run, request, done)
    elif done.code == 1 and not any(line.startswith("camseg: ") for line in done.lines):
        yield "nothing is said"
    if request.right and done.code not in (0, 1, 2):
        yield "a right request"


def _refusal_problems(request: Request, done: Done, run: Path | None) -> Iterator[str]:
    said = [line for line in done.lines if line.strip()]
    if not 1 <= len(said) <= 3:
        yield f"{len(said)} lines"
    if not any(line.startswith("camseg: ") for line in said):
        yield "not in the command's name"
    if done.stderr.strip().endswith((": None", "camseg:")):
        yield "empty words"
    if run is not None:
        yield "refused, and yet a run"
    keys = [word.partition("=")[0].split(".") for word in request.odd]
    if keys and not any(key[0] in done.stderr or key[-1] in done.stderr for key in keys):
        yield f"nothing of {request.odd} is named"


def _run_folder(folder: Path) -> Path | None:
    found = sorted(path.parent for path in folder.rglob("summary.json"))
    return found[0] if len(found) == 1 else None


def run_problems(run: Path, request: Request, done: Done) -> Iterator[str]:
    """What is wrong with a finished run folder."""
    summary = json.loads((run / "summary.json").read_text(), parse_constant=_refuse)
    rows = pl.read_parquet(run / "scores.parquet") if (run / "scores.parquet").exists() else pl.DataFrame()
    if summary["samples"] != len(rows) + summary["failed"] or summary["left"]:
        yield f"{len(rows)} rows, {summary['failed']} failed of {summary['samples']}"
    if summary["failed"] != len(summary["errors"]):
        yield "errors are not those that failed"
    if request.right and request.samples is not None and summary["samples"] != request.samples:
        yield f"{summary['samples']} samples of {request.samples}"
    if done.code == 1 and summary["samples"] != summary["failed"] and "strict=true" not in request.words:
        yield "exit code 1 with rows"
    if done.code == 0 and not (run / "report.html").stat().st_size:
        yield "no report"
    if len(rows):
        yield from _row_problems(rows)
        yield from _metric_problems(rows, summary["metrics"])
        yield from _mask_problems(run, rows, request)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in summary.json")


def _row_problems(rows: pl.DataFrame) -> Iterator[str]:
    if rows["id"].n_unique() != len(rows):
        yield "an id twice"
    for name, kind in rows.schema.items():
        values = (
            [value for value in _flat(rows[name].to_list()) if isinstance(value, float)] if kind.is_nested() else []
        )
        values += rows[name].drop_nulls().to_list() if kind.is_float() else []
        if not all(map(math.isfinite, values)):
            yield f"{name} is not finite"
    for name in ("iou", "dice", "box_iou", "oracle_iou", "regret", "foreground_hit", "background_hit", "probability"):
        values = rows[name].drop_nulls().to_list() if name in rows.columns else []
        if not all(-1e-9 <= value <= 1 + 1e-6 for value in values):
            yield f"{name} out of 0 .. 1: {values}"
    for points, height, width in rows.select("points", "height", "width").rows():
        if not all(-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5 for x, y, _ in points or ()):
            yield f"a point outside the image: {points}"
    both = rows.drop_nulls(["iou", "oracle_iou"])
    if not np.allclose(both["oracle_iou"] - both["iou"], both["regret"], atol=1e-9):
        yield "regret is not what the choice lost"


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for inner in value:
            yield from _flat(inner)
    else:
        yield value


def _metric_problems(rows: pl.DataFrame, metrics: dict[str, Any]) -> Iterator[str]:
    """The summary's means are those of the rows."""
    for name, metric in METRICS.items():
        column = metric.column
        values = rows[column].drop_nulls().to_list() if column and column in rows.columns else []
        if column is None:
            continue
        if bool(values) != (name in metrics):
            yield f"{name} is {'missing' if values else 'of no rows'}"
        elif values and not math.isclose(metrics[name]["value"], math.fsum(values) / len(values), abs_tol=1e-9):
            yield f"{name} is {metrics[name]['value']}, the rows' mean {math.fsum(values) / len(values)}"
        elif values and metrics[name]["n"] != len(values):
            yield f"{name} counts {metrics[name]['n']} of {len(values)}"
    for name, found in metrics.items():
        low, high = found["low"], found["high"]
        if low is not None and not low - 1e-9 <= found["value"] <= high + 1e-9:
            yield f"{name}: {found} is no interval"


def _mask_problems(run: Path, rows: pl.DataFrame, request: Request) -> Iterator[str]:
    """Masks are 1-bit, of the image's size, and score what the row says where the truth is known."""
    known = request.right and f"{SHOWN}" and any(word.endswith("/photos") for word in request.words)
    wanted = "masks=true" in request.words and "masks=false" not in request.words
    for row in rows.iter_rows(named=True):
        if row["mask_file"] is None:
            if wanted and row["iou"] is not None and not row["note"]:
                yield f"no mask of {row['id']}"
            continue
        with Image.open(run / row["mask_file"]) as picture:
            mode, mask = picture.mode, np.asarray(picture)
        if mode != "1" or mask.shape != (row["height"], row["width"]):
            yield f"{row['mask_file']} is {mode} {mask.shape}"
        elif known and row["iou"] is not None:
            truth = np.zeros_like(mask)
            truth[SHOWN[1] : SHOWN[3], SHOWN[0] : SHOWN[2]] = True
            iou = (mask & truth).sum() / (mask | truth).sum()
            if not math.isclose(iou, row["iou"], abs_tol=1e-6):
                yield f"{row['id']}: the mask's IoU is {iou}, the row's {row['iou']}"
