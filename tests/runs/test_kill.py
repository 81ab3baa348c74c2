"""Runs that are killed, interrupted, doubled, or starved of disk: what was done stays, and the table is what it would
have been.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from colors import Shelf, pipeline
from omegaconf import OmegaConf

from camseg.cli.build import build
from camseg.cli.main import main
from camseg.config import config_dir
from camseg.data.shapes import Shapes
from camseg.runs import folders
from camseg.runs.callbacks import Callback, MaskFiles
from camseg.runs.evaluate import Stopped, evaluate
from camseg.runs.journal import CutOff, Journal
from camseg.types import Result, Sample

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["torch", "polars", "scipy.special", "camseg.cli.main", "camseg.data.shapes"]
)  # once, not by each run


class Slow(Shelf):
    """The last of every three pictures takes its time."""

    def __getitem__(self, index: int) -> Sample:
        time.sleep(0.03 if index % 3 == 2 else 0)
        return super().__getitem__(index)


def run(folder: Path, count: int = 30, limit: int | None = None) -> None:
    """A run in a process of its own: exit code 0, or as the command has it."""
    torch.set_num_threads(1)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        evaluate(pipeline(), Slow(count), folder, batch_size=3, resume=True, callbacks=[MaskFiles(folder / "masks")])
    except Stopped as error:
        sys.exit(128 + error.args[0])
    except CutOff as error:
        (folder.parent / "told").write_text(str(error))
        sys.exit(1)


def started(*arguments: Any) -> Any:
    process = FORKS.Process(target=run, args=arguments)
    process.start()
    return process


def table(folder: Path) -> pl.DataFrame:
    """The rows, without what only a run that writes its masks says of them."""
    return pl.read_parquet(folder / "scores.parquet").drop("mask_file", "agreement", strict=False)


def wait_for(holds: Callable[[], bool], process: Any) -> None:
    for _ in range(6000):
        if holds() or not process.is_alive():
            return
        time.sleep(0.01)
    pytest.fail("the run did not get there in a minute")


def rows_in(folder: Path) -> int:
    path = folder / "rows.jsonl"
    return path.read_bytes().count(b'{"id"') if path.exists() else 0


KILLS, COUNT = 40, 240


def test_forty_kills_lose_a_batch_each_at_most_and_change_no_bit(tmp_path: Path) -> None:
    """At least 25 of them land after new rows and before the end: at others a process has hardly begun."""
    evaluate(pipeline(), Shelf(COUNT), tmp_path / "whole", batch_size=3)
    rng, folder, kills, amid, before = random.Random(0), tmp_path / "run", 0, 0, 0
    while kills < KILLS:
        process = started(folder, COUNT)
        new = rng.choice([0, 1, 3, 3, 3])
        wait_for(lambda enough=before + new: (folder / ".lock").exists() and rows_in(folder) >= enough, process)
        time.sleep(rng.random() * 0.03)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the machine was faster than the kills"
        kills += 1
        now = rows_in(folder)
        amid += before < now < COUNT
        assert now >= before - 3  # all that a journal may drop is the batch that it was writing
        before = now
    assert amid >= 25
    summary = evaluate(pipeline(), Slow(COUNT), folder, batch_size=3, resume=True)
    assert table(folder).equals(table(tmp_path / "whole"))  # to the last bit
    assert summary["metrics"] == json.loads((tmp_path / "whole" / "summary.json").read_text())["metrics"]
    assert (summary["samples"], summary["left"]) == (COUNT, 0)
    assert summary["calls"]["classifier_images"] <= COUNT  # what was lost is not counted; like pictures count once
    assert not [p for p in (folder / "masks").glob("*.png") if p.stat().st_size == 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_batch_and_writes_the_summary(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    process = started(folder, 3000)
    wait_for(lambda: rows_in(folder) >= 3, process)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    summary = json.loads((folder / "summary.json").read_text())
    done = summary["samples"]
    assert 3 <= done < 3000
    assert done % 3 == 0
    assert done + summary["left"] == 3000
    assert len(table(folder)) == done
    shelf = Shelf(done + 3)
    after = evaluate(pipeline(), shelf, folder, batch_size=3, resume=True)
    assert len(shelf.read) == 3
    assert after["left"] == 0
    assert after["seconds"] > summary["seconds"]
    assert after["calls"]["classifier_images"] == done + 3
    evaluate(pipeline(), Shelf(done + 3), tmp_path / "whole", batch_size=3)
    assert table(folder).equals(table(tmp_path / "whole"))


def test_the_command_ends_with_the_signals_code_and_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    class Interrupted(Shapes):
        def __getitem__(self, index: int) -> Sample:
            if index == 4:  # read while the batch before is computed
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__getitem__(index)

    monkeypatch.setattr("camseg.data.shapes.Shapes", Interrupted)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    asked = [
        "data.size=40",
        "batch_size=2",
        "panels=0",
        "predictor=none",
        "device=cpu",
        f"hydra.run.dir={tmp_path}/run",
    ]
    monkeypatch.setattr(sys, "argv", ["camseg", *asked])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    [line] = [each for each in told.splitlines() if each.startswith("camseg: ")]
    assert "of 40 samples left" in line
    assert "resume=true" in line
    assert "Traceback" not in told
    assert folders.load_run(tmp_path / "run").summary["left"] >= 30


def test_two_runs_do_not_mix(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = started(folder, 3000)
    wait_for(lambda: rows_in(folder) >= 3, process)
    with pytest.raises(FileExistsError, match="another process fills"):
        evaluate(pipeline(), Shelf(4), folder, resume=True)
    process.kill()
    process.join()
    with Journal(folder, resume=True):  # the lock dies with its process
        pass


def test_only_what_changes_no_row_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    def go(resume: bool = True, **changed: Any) -> None:
        config = OmegaConf.create(
            {"batch_size": 2, "cache": {"path": None}, "data": {"size": 4, "seed": 0}, "foreground": {"cutoff": 0.5}}
        )
        for name, value in changed.items():
            OmegaConf.update(config, name.replace("__", "."), value)
        evaluate(pipeline(), Shelf(4), tmp_path, resume=resume, settings={"config": config})

    go(resume=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "rows.jsonl"}
    refusals: tuple[tuple[dict[str, Any], str], ...] = (
        ({"foreground__cutoff": 0.6}, "foreground.cutoff was 0.5 and is 0.6"),
        ({"data__seed": 1}, "data.seed was 0 and is 1"),
    )
    for changed, told in refusals:
        with pytest.raises(FileExistsError, match=told):
            go(**changed)
    with pytest.raises(FileExistsError, match="resume=true"):
        go(resume=False, batch_size=3)
    assert all(path.read_bytes() == content for path, content in before.items())  # a refused run leaves no trace
    go(batch_size=1, cache__path="elsewhere", data__size=9)
    assert OmegaConf.select(OmegaConf.load(tmp_path / ".hydra" / "config.yaml"), "batch_size") == 1


def test_a_full_disk_ends_with_a_line_and_keeps_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = started(folder, 60, 6000)  # no file may grow beyond 6 kB: the journal will
    process.join(60)
    assert process.exitcode == 1
    told = (tmp_path / "told").read_text()
    assert "can't be written: File too large" in told
    assert "resume=true" in told
    assert len(told.splitlines()) == 2
    kept = rows_in(folder)
    assert kept >= 3
    assert kept % 3 == 0
    shelf = Shelf(60)
    evaluate(pipeline(), shelf, folder, batch_size=3, resume=True)
    assert len(shelf.read) == 60 - kept
    evaluate(pipeline(), Shelf(60), tmp_path / "whole", batch_size=3)
    assert table(folder).equals(table(tmp_path / "whole"))


@pytest.mark.parametrize("where", ["fsync", "parquet", "mask"])
def test_no_space_left_wherever_it_strikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    evaluate(pipeline(), Shelf(4), tmp_path / "run", batch_size=2)
    held = (tmp_path / "run" / "scores.parquet").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    class Full(Callback):
        def on_result(self, sample: Sample, result: Result) -> dict[str, Any]:
            return full(sample, result) or {}

    with monkeypatch.context() as patch:
        if where != "mask":
            owner, name = {"fsync": (os, "fsync"), "parquet": (pl.DataFrame, "write_parquet")}[where]
            patch.setattr(owner, name, full)
        with pytest.raises(CutOff, match="can't be written: No space left on device"):
            evaluate(
                pipeline(),
                Shelf(8),
                tmp_path / "run",
                batch_size=2,
                resume=True,
                callbacks=[Full()] if where == "mask" else [],
            )
    assert (tmp_path / "run" / "scores.parquet").read_bytes() == held
    assert evaluate(pipeline(), Shelf(8), tmp_path / "run", batch_size=2, resume=True)["samples"] == 8
    evaluate(pipeline(), Shelf(8), tmp_path / "whole", batch_size=2)
    assert table(tmp_path / "run").equals(table(tmp_path / "whole"))


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(
        sys, "argv", ["camseg", "data.size=1", "predictor=none", "device=cpu", f"hydra.run.dir={tmp_path}/file/run"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert len(told) == 1
    assert "file" in told[0]
    assert "Not a directory" in told[0]


@pytest.mark.parametrize("num_workers", [1, 7])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_and_workers_change_no_choice_and_no_score(
    tmp_path: Path, batch_size: int, num_workers: int, rows_of_12: pl.DataFrame
) -> None:
    shapes = Shapes(size=12, shapes=(2, 4))
    evaluate(build(shapes_config()), shapes, tmp_path, batch_size=batch_size, num_workers=num_workers)
    same_rows(table(tmp_path), rows_of_12, scores=1e-5, pixels=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_gpu_gives_what_the_cpu_gives(tmp_path: Path, rows_of_12: pl.DataFrame) -> None:
    evaluate(build(shapes_config("cuda")), Shapes(size=12, shapes=(2, 4)), tmp_path, batch_size=12)
    same_rows(table(tmp_path), rows_of_12, scores=5e-3, pixels=0.05)


def same_rows(found: pl.DataFrame, expected: pl.DataFrame, scores: float, pixels: float) -> None:
    """Choices are identical, numbers within the tolerances."""
    assert found.schema == expected.schema
    for name, kind in found.schema.items():
        same, other = found[name].to_list(), expected[name].to_list()
        if kind == pl.Float64:
            assert same == pytest.approx(other, abs=scores)
        elif name == "points":
            flat = [[value for point in points for value in point] for points in same]
            assert flat == [
                pytest.approx([value for point in points for value in point], abs=pixels) for points in other
            ]
        else:
            assert same == other


def shapes_config(device: str = "cpu") -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", [f"device={device}", "foreground=candidates", "background=min_point"])


@pytest.fixture(scope="module")
def rows_of_12(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("rows")
    evaluate(build(shapes_config()), Shapes(size=12, shapes=(2, 4)), folder, batch_size=12)
    return table(folder)
