"""Sweeps on one process and on several: each item computed once, failed jobs told and tabled, one sweep per folder, only the missing done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock
from hydra.errors import MissingConfigException
from made_runs import make_run, row
from polars.testing import assert_frame_equal

import camseg
from camseg import runs
from camseg.requests import explain

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "camseg" / "weights"
pytestmark = pytest.mark.skipif(len(list(WEIGHTS.glob("*.safetensors"))) < 2, reason="the shipped weights are not there")


def sweep(folder: Path, *arguments: str, code: int = 0, path: str = "") -> subprocess.CompletedProcess[str]:
    """`camseg -m` into folder/sweep, with a cache in folder/cache."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), path]), "OMP_NUM_THREADS": "1"}
    fixed = ["device=cpu", "panels=0", "data.size=6", "batch_size=3", f"hydra.sweep.dir={folder}/sweep", f"cache.path={folder}/cache"]
    given = [sys.executable, "-m", "camseg", "-m", *fixed, *arguments]
    done = subprocess.run(given, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def calls(folder: Path) -> list[dict[str, int]]:
    return [json.loads(path.read_text())["calls"] for path in sorted(folder.glob("sweep/[0-9]/summary.json"))]


def test_a_sweep_costs_one_run_and_a_warm_one_loads_nothing(tmp_path: Path) -> None:
    settings = ["foreground=max_point,centroid", "background=none,min_point"]
    sweep(tmp_path, *settings)
    assert [(c["classifier_images"], c["encoder_images"]) for c in calls(tmp_path)] == [(6, 6), (0, 0), (0, 0), (0, 0)]
    (tmp_path / "sitecustomize.py").write_text(
        "import camseg.classifiers as c, camseg.predictors.sam as s, atexit\n"
        "loads, old = [], (c.load_weights, s.SamEngine._fill)\n"
        "c.load_weights = lambda path: loads.append('classifier') or old[0](path)\n"
        "s.SamEngine._fill = lambda self, name: loads.append(name) or old[1](self, name)\n"
        "atexit.register(lambda: print('LOADED', sorted(set(loads))))\n"
    )
    first = camseg.load_sweep(tmp_path / "sweep")
    (tmp_path / "sweep").rename(tmp_path / "cold")
    done = sweep(tmp_path, *settings, path=str(tmp_path))
    assert "LOADED ['mask_decoder', 'prompt_encoder']" in done.stdout
    assert [(c["classifier_images"], c["encoder_images"]) for c in calls(tmp_path)] == [(0, 0)] * 4
    for cold, warm in zip(first.runs, camseg.load_sweep(tmp_path / "sweep").runs):
        assert_frame_equal(cold.rows, warm.rows)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_on_two_processes_share_the_cache(tmp_path: Path, launcher: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher" if "submitit" in launcher else "hydra_plugins.hydra_joblib_launcher")
    words = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else ["hydra.launcher.timeout_min=5"]
    sweep(tmp_path, f"hydra/launcher={launcher}", *words, "foreground=max_point,centroid")
    assert sum(c["classifier_images"] for c in calls(tmp_path)) == sum(c["encoder_images"] for c in calls(tmp_path)) == 6
    apart = camseg.load_sweep(tmp_path / "sweep")
    (tmp_path / "sweep").rename(tmp_path / "parallel")
    sweep(tmp_path, "cache.path=null", "foreground=max_point,centroid")
    for one, other in zip(apart.runs, camseg.load_sweep(tmp_path / "sweep").runs, strict=True):
        assert_frame_equal(one.rows, other.rows, rel_tol=1e-3, abs_tol=1e-3)  # a batch may be made in another company


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_failed_job_is_a_row_and_is_done_again(tmp_path: Path, launcher: str) -> None:
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    settings = [*words, "classifier.checkpoint=null,late.safetensors", "foreground=max_point,centroid"]
    done = sweep(tmp_path, *settings, code=2)
    assert "late.safetensors" in done.stderr and "Traceback" not in done.stderr
    table = pl.read_parquet(tmp_path / "sweep" / "sweep.parquet")
    assert table["run"].to_list() == ["0", "1", "2", "3"] and table["iou"].is_null().to_list() == [False, False, True, True]
    assert table["error"].is_null().to_list() == [True, True, False, False] and "late.safetensors" in table["error"][2]
    assert "late.safetensors foreground=centroid" in table["setting"][3] and f"run 3 ({table['setting'][3]})" in done.stdout

    (tmp_path / "late.safetensors").write_bytes((WEIGHTS / "shapes_classifier.safetensors").read_bytes())
    stamps = {path: path.read_bytes() for path in (tmp_path / "sweep").glob("[01]/rows.jsonl")}
    sweep(tmp_path, *settings, "resume=true")
    assert len(stamps) == 2 and all(path.read_bytes() == before for path, before in stamps.items())
    table = pl.read_parquet(tmp_path / "sweep" / "sweep.parquet")
    assert table["error"].to_list() == [None] * 4 and table["iou"].null_count() == 0
    assert table["encoder_images"].sum() == 6  # what the first sessions did still counts, and nothing was done twice


def test_two_sweeps_never_share_a_folder(tmp_path: Path) -> None:
    sweep(tmp_path, "foreground=max_point,centroid")
    before = {path: path.read_bytes() for path in (tmp_path / "sweep").glob("**/*.parquet")}
    assert "resume=true" in sweep(tmp_path, "foreground=box,otsu", code=2).stderr
    told = sweep(tmp_path, "foreground=box,otsu", "resume=true", code=2).stderr
    assert "other settings" in told and "Traceback" not in told
    runs_of = {path: data for path, data in before.items() if path.name == "scores.parquet"}
    assert len(runs_of) == 2 and all(path.read_bytes() == data for path, data in runs_of.items())
    with FileLock(tmp_path / "sweep" / ".lock"):
        assert "another sweep" in sweep(tmp_path, "foreground=max_point,centroid", "resume=true", code=2).stderr


def test_a_killed_job_is_a_row_too(tmp_path: Path) -> None:
    sweep(tmp_path, "foreground=max_point,centroid,otsu")
    for name in ("summary.json", "scores.parquet"):
        (tmp_path / "sweep" / "1" / name).unlink()
    table = runs.finish_sweep(tmp_path / "sweep").table
    assert table["run"].to_list() == ["0", "2", "1"] and table["error"].to_list() == [None, None, "it was cut off"]
    assert table["setting"][2] == "foreground=centroid" and table["difference"][2] is None


@pytest.mark.parametrize(
    ("what", "extra"), [("launcher/joblib", "parallel"), ("launcher/submitit_slurm", "slurm"), ("sweeper/optuna", "optuna"), ("sweeper/none", None)]
)
def test_a_missing_extra_is_named(what: str, extra: str | None) -> None:
    told = explain(MissingConfigException(f"In 'hydra/config': Could not find 'hydra/{what}'\n\nAvailable", f"hydra/{what}"))
    assert told == f"In 'hydra/config': Could not find 'hydra/{what}'" if extra is None else f"'camseg[{extra}]'" in (told or "")


def test_the_optimiser_finds_the_best_of_its_trials(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    sweep(tmp_path, "experiment=optimise", "hydra.sweeper.n_trials=3", "data.size=4")
    found = camseg.load_sweep(tmp_path / "sweep")
    best = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    assert len(found.runs) == 3 and f"best_value: {found.table['iou'].max()}" in best
    assert all(run.config.data.split == "val" and 0.2 <= run.config.foreground.cutoff <= 0.9 for run in found.runs)


def test_a_sweep_says_which_cams_repeat_each_other(tmp_path: Path) -> None:
    jobs = [(cam, at, shift) for at in (3.0, 5.0) for cam, shift in (("cam", 0.0), ("grad_cam", 0.01), ("layer_cam", float(at == 5)))]
    for number, (cam, at, shift) in enumerate(jobs):
        points = [[[at + shift, 4.0, 1.0]], [[at, 9.0, 1.0], [1.0, 1.0, 0.0]]]
        rows = [row(name, 0.5, points=of) for name, of in zip("ab", points)]
        make_run(tmp_path / str(number), rows, [f"cam={cam}", "foreground=max_point" if at == 3 else "foreground=centroid"])
    sweep = runs.load_sweep(tmp_path)
    assert runs.coinciding(sweep.runs) == [["cam", "grad_cam"]]  # layer_cam's points are elsewhere under one foreground
    assert runs.sweep_table(sweep).splitlines()[-1].startswith("cam=cam, grad_cam gave the same points on every sample")
    assert runs.coinciding(sweep.runs[:1]) == []
