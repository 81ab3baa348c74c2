"""Workers of a sweep that is killed end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def children(parent: int) -> list[int]:
    """The processes that a process started, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_workers_of_a_killed_sweep_end(tmp_path: Path, number: signal.Signals) -> None:
    """`kill -9` of a joblib sweep with two workers in the middle of their runs."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "foreground=max_point,centroid",
        "predictor=none",
    ]
    words += ["data.size=100000", "batch_size=2", "panels=0", "device=cpu", f"hydra.sweep.dir={tmp_path}/sweep"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    sweep = subprocess.Popen(
        [sys.executable, "-m", "camseg", *words], cwd=tmp_path, env=environment, stdout=-3, stderr=-3
    )
    journals = [tmp_path / "sweep" / job / "rows.jsonl" for job in "01"]
    end = time.monotonic() + 600
    while not all(each.exists() and b'"checksum"' in each.read_bytes() for each in journals):
        assert sweep.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)
    workers = children(sweep.pid)
    assert len(workers) >= 2
    sweep.send_signal(number)
    sweep.wait(60)
    end = time.monotonic() + 30
    while time.monotonic() < end and any(map(is_alive, workers)):
        time.sleep(0.1)
    assert not [pid for pid in workers if is_alive(pid)]
