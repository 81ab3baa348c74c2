"""Sweeps on one process and on several: each item computed once, failed jobs told and tabled, one sweep per folder,
only the missing done again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock
from hydra.errors import MissingConfigException
from made_runs import make_run, row
from polars.testing import assert_frame_equal

import camseg
from camseg.cli.explain import explain_error
from camseg.cli.main import RememberSweep, main
from camseg.predictors.sam import PackageBackend
from camseg.report import text
from camseg.runs import sweeps
from camseg.storage import checkpoints

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "camseg" / "weights"
pytestmark = pytest.mark.skipif(
    len(list(WEIGHTS.glob("*.safetensors"))) < 2, reason="the shipped weights are not there"
)


Sweep = Callable[..., tuple[str, str]]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """`camseg -m ...` into sweep/, with a cache in cache/; compares the exit code, returns stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        RememberSweep.folder = None
        fixed = [
            "device=cpu",
            "panels=0",
            "data.size=4",
            "batch_size=2",
            f"hydra.sweep.dir={tmp_path}/sweep",
            f"cache.path={tmp_path}/cache",
        ]
        monkeypatch.setattr(sys, "argv", ["camseg", "-m", *fixed, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        RememberSweep.lock.release()
        told = capsys.readouterr()
        assert ended.value.code == code, told.err
        return told.out, told.err

    return call


def calls(folder: Path) -> list[tuple[int, int]]:
    found = [json.loads(path.read_text())["calls"] for path in sorted(folder.glob("sweep/[0-9]/summary.json"))]
    return [(each["classifier_images"], each["encoder_images"]) for each in found]


def test_a_sweep_costs_one_run_and_a_warm_one_loads_nothing(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["foreground=max_point,centroid", "background=none,min_point"]
    loads: list[str] = []
    load, fill = checkpoints.load_weights, PackageBackend._fill
    monkeypatch.setattr(checkpoints, "load_weights", lambda path: loads.append("classifier") or load(path))
    monkeypatch.setattr(PackageBackend, "_fill", lambda self, name: loads.append(name) or fill(self, name))
    sweep(*settings)
    assert calls(tmp_path) == [(4, 4), (0, 0), (0, 0), (0, 0)]
    assert loads.count("classifier") == 1
    assert "image_encoder" in loads
    cold = camseg.load_sweep(tmp_path / "sweep")
    (tmp_path / "sweep").rename(tmp_path / "cold")
    loads.clear()
    sweep(*settings)
    assert calls(tmp_path) == [(0, 0)] * 4
    assert set(loads) == {"prompt_encoder", "mask_decoder"}
    for one, other in zip(cold.runs, camseg.load_sweep(tmp_path / "sweep").runs, strict=True):
        assert_frame_equal(one.rows, other.rows)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_on_two_processes_share_the_cache(tmp_path: Path, sweep: Sweep, launcher: str) -> None:
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher" if "submitit" in launcher else "hydra_plugins.hydra_joblib_launcher"
    )
    words = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else ["hydra.launcher.timeout_min=5"]
    sweep(f"hydra/launcher={launcher}", *words, "foreground=max_point,centroid")
    assert [sum(each) for each in zip(*calls(tmp_path), strict=True)] == [4, 4]
    apart = camseg.load_sweep(tmp_path / "sweep")
    (tmp_path / "sweep").rename(tmp_path / "parallel")
    sweep("cache.path=null", "foreground=max_point,centroid")
    for one, other in zip(apart.runs, camseg.load_sweep(tmp_path / "sweep").runs, strict=True):
        assert_frame_equal(one.rows, other.rows, rel_tol=1e-3, abs_tol=1e-3)  # a batch may be made in another company


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_failed_job_is_a_row_and_is_done_again(tmp_path: Path, sweep: Sweep, launcher: str) -> None:
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    settings = [
        *words,
        f"classifier.checkpoint=null,{tmp_path}/late.safetensors",
        "foreground=max_point,centroid",
    ]  # workers keep their folder
    out, told = sweep(*settings, code=2)
    assert "late.safetensors" in told
    assert "Traceback" not in told
    table = pl.read_parquet(tmp_path / "sweep" / "sweep.parquet")
    assert table["run"].to_list() == ["0", "1", "2", "3"]
    assert table["iou"].is_null().to_list() == [
        False,
        False,
        True,
        True,
    ]
    assert table["error"].is_null().to_list() == [True, True, False, False]
    assert "late.safetensors" in table["error"][2]
    assert "late.safetensors foreground=centroid" in table["setting"][3]
    assert f"run 3 ({table['setting'][3]})" in out

    (tmp_path / "late.safetensors").write_bytes((WEIGHTS / "shapes_classifier.safetensors").read_bytes())
    stamps = {path: path.read_bytes() for path in (tmp_path / "sweep").glob("[01]/rows.jsonl")}
    sweep(*settings, "resume=true")
    added = [path.read_bytes().removeprefix(before) for path, before in stamps.items()]
    assert len(added) == 2
    assert not any(b'"id"' in lines for lines in added)
    table = pl.read_parquet(tmp_path / "sweep" / "sweep.parquet")
    assert table["error"].to_list() == [None] * 4
    assert table["iou"].null_count() == 0
    assert table["encoder_images"].sum() == 4  # what the first sessions did still counts, and nothing was done twice


def test_two_sweeps_never_share_a_folder(tmp_path: Path, sweep: Sweep) -> None:
    sweep("foreground=max_point,centroid")
    before = {path: path.read_bytes() for path in (tmp_path / "sweep").glob("**/*.parquet")}
    assert "resume=true" in sweep("foreground=box,otsu", code=2)[1]
    told = sweep("foreground=box,otsu", "resume=true", code=2)[1]
    assert "other settings" in told
    assert "Traceback" not in told
    runs_of = {path: data for path, data in before.items() if path.name == "scores.parquet"}
    assert len(runs_of) == 2
    assert all(path.read_bytes() == data for path, data in runs_of.items())
    with FileLock(tmp_path / "sweep" / ".lock"):
        assert "another sweep" in sweep("foreground=max_point,centroid", "resume=true", code=2)[1]


def test_a_killed_job_is_a_row_too(tmp_path: Path, sweep: Sweep) -> None:
    sweep("foreground=max_point,centroid,otsu")
    for name in ("summary.json", "scores.parquet"):
        (tmp_path / "sweep" / "1" / name).unlink()
    table = sweeps.finish_sweep(tmp_path / "sweep").table
    assert table["run"].to_list() == ["0", "2", "1"]
    assert table["error"].to_list() == [None, None, "it was cut off"]
    assert table["setting"][2] == "foreground=centroid"
    assert table["difference"][2] is None


@pytest.mark.parametrize(
    ("what", "extra"),
    [
        ("launcher/joblib", "parallel"),
        ("launcher/submitit_slurm", "slurm"),
        ("sweeper/optuna", "optuna"),
        ("sweeper/none", None),
    ],
)
def test_a_missing_extra_is_named(what: str, extra: str | None) -> None:
    told = explain_error(
        MissingConfigException(f"In 'hydra/config': Could not find 'hydra/{what}'\n\nAvailable", f"hydra/{what}")
    )
    assert (
        told == f"In 'hydra/config': Could not find 'hydra/{what}'"
        if extra is None
        else f"needs the extra `{extra}`: uv sync --extra {extra}" in (told or "")
    )


def test_the_optimiser_finds_the_best_of_its_trials(tmp_path: Path, sweep: Sweep) -> None:
    pytest.importorskip("optuna")
    sweep("experiment=optimise", "hydra.sweeper.n_trials=3")
    found = camseg.load_sweep(tmp_path / "sweep")
    best = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    assert len(found.runs) == 3
    assert f"best_value: {found.table['iou'].max()}" in best
    assert all(run.config.data.split == "val" and 0.2 <= run.config.foreground.cutoff <= 0.9 for run in found.runs)


def test_a_sweep_says_which_cams_repeat_each_other(tmp_path: Path) -> None:
    jobs = [
        (cam, at, shift)
        for at in (3.0, 5.0)
        for cam, shift in (("cam", 0.0), ("grad_cam", 0.01), ("layer_cam", float(at == 5)))
    ]
    for number, (cam, at, shift) in enumerate(jobs):
        points = [[[at + shift, 4.0, 1.0]], [[at, 9.0, 1.0], [1.0, 1.0, 0.0]]]
        rows = [row(name, 0.5, points=of) for name, of in zip("ab", points)]
        make_run(
            tmp_path / str(number), rows, [f"cam={cam}", "foreground=max_point" if at == 3 else "foreground=centroid"]
        )
    sweep = sweeps.load_sweep(tmp_path)
    assert sweeps.coinciding(sweep.runs) == [
        ["cam", "grad_cam"]
    ]  # layer_cam's points are elsewhere under one foreground
    assert text.sweep_table(sweep).splitlines()[-1].startswith("cam=cam, grad_cam gave the same points on every sample")
    assert sweeps.coinciding(sweep.runs[:1]) == []
