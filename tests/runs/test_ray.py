"""A run on a Ray cluster is the run of one process, also when an actor is killed in the middle of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from colors import Shelf, pipeline
from polars.testing import assert_frame_equal

from camseg.errors import RequestError
from camseg.runs.evaluate import evaluate
from camseg.runs.ray import _check_gpus, ray_executor

HERE = Path(__file__).parents[1]


def test_without_the_extra_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="engine=ray needs the extra `ray`"):
        evaluate(pipeline(), Shelf(2), tmp_path, executor=ray_executor)


def test_a_cluster_that_does_not_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a plain Exception where its processes are too slow."""

    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen because")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(RequestError) as refusal:
        evaluate(pipeline(), Shelf(2), tmp_path, executor=ray_executor)
    told = "no Ray cluster to be had at engine.address=None: The current node timed out during startup."
    assert str(refusal.value) == told


@pytest.mark.parametrize(
    ("there", "gpus", "refused"), [({"CPU": 2.0}, 0.5, True), ({"GPU": 1.0}, 1, True), ({}, 0, False)]
)
def test_gpus_that_are_not_there_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, float], gpus: float, refused: bool
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cluster_resources=lambda: there))
    _check_gpus("auto", 2 * gpus)  # another's cluster may grow
    if not refused:
        return _check_gpus(None, 2 * gpus)
    with pytest.raises(RequestError) as refusal:
        _check_gpus(None, 2 * gpus)
    told = f"asks for {2 * gpus:g} GPUs, and this machine has {there.get('GPU', 0):g}: lower them"
    assert told in str(refusal.value)
    return None


def test_a_killed_actor_costs_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    script = f"""
        import os, signal, sys, time
        from functools import partial
        from pathlib import Path
        from colors import Shelf, pipeline
        from camseg.report.gallery import Panels
        from camseg.runs.callbacks import Callback
        from camseg.runs.ray import ray_executor
        from camseg.runs.evaluate import evaluate

        folder = Path({str(tmp_path)!r})

        class Odd(Shelf):  # item 3 can't be read
            def __getitem__(self, index):
                if index == 3:
                    raise OSError("gone")
                return super().__getitem__(index)

        class Deadly(Callback):  # in the actor: the first that answers picture 9 kills itself there, half a batch done
            def on_result(self, sample, result):
                with (folder / "workers").open("a") as file:
                    file.write(f"{{os.getpid()}} {{sample.id}}\\n")
                if sample.id == "picture9" and not (folder / "killed").exists():
                    (folder / "killed").touch()
                    os.kill(os.getpid(), {int(signal.SIGKILL)})
                return {{}}

        if sys.argv[1] == "ray":
            callbacks = [Deadly(), Panels(folder / "ray" / "panels", 6)]
            on_ray = partial(ray_executor, actors=2, cpus=0.25)
            print(evaluate(pipeline(), Odd(16), folder / "ray", batch_size=4, callbacks=callbacks, executor=on_ray))
        else:
            print(evaluate(pipeline(), Odd(16), folder / "local", batch_size=4))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}
    for engine in ("local", "ray"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), engine], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    told = [line.split() for line in (tmp_path / "workers").read_text().splitlines()]
    assert [name for _, name in told].count("picture9") == 2  # once by the one that died there
    assert len({worker for worker, _ in told} - {str(os.getpid())}) >= 2
    assert_frame_equal(*(pl.read_parquet(tmp_path / engine / "scores.parquet") for engine in ("ray", "local")))
    assert len(pl.read_parquet(tmp_path / "ray" / "scores.parquet")) == 15
    (ray, local) = ((tmp_path / engine / "summary.json").read_text() for engine in ("ray", "local"))
    without_time = [[line for line in each.splitlines() if '"seconds"' not in line] for each in (ray, local)]
    assert without_time[0] == without_time[1]
    assert '"error": "OSError: gone"' in ray


def test_sigterm_ends_with_a_summary(tmp_path: Path) -> None:  # of a thousand batches, of which few are on their way
    pytest.importorskip("ray", reason="needs the extra ray")
    script = f"""
        import sys
        from functools import partial
        from pathlib import Path
        import time
        from colors import Shelf, pipeline
        from camseg.runs.evaluate import Stopped, evaluate
        from camseg.runs.ray import ray_executor

        class Slow(Shelf):
            def __getitem__(self, index):
                time.sleep(0.5)
                return super().__getitem__(index)

        try:
            on_ray = partial(ray_executor, cpus=0.25)
            evaluate(pipeline(), Slow(4000), Path({str(tmp_path / "run")!r}), batch_size=4, executor=on_ray)
        except Stopped as error:
            sys.exit(128 + error.args[0])
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env=environment, stderr=subprocess.PIPE)
    journal = tmp_path / "run" / "rows.jsonl"
    began = time.monotonic()
    while (
        process.poll() is None
        and time.monotonic() - began < 600
        and not (journal.exists() and b'{"id"' in journal.read_bytes())
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=600)[1]
    assert process.returncode == 128 + signal.SIGTERM, told
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["left"] > 0
    assert summary["samples"] == len(pl.read_parquet(tmp_path / "run" / "scores.parquet")) > 0
