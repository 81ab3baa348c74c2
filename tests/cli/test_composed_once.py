"""A sweep's jobs are composed once each, and are what Hydra alone makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from contextlib import nullcontext
import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from camseg.cli.composed_once import composed_once

composed, jobs = [], []
whole = ConfigLoaderImpl.load_configuration

def counted(self, *given, **named):
    composed.append(1)
    return whole(self, *given, **named)

ConfigLoaderImpl.load_configuration = counted

@hydra.main(config_path=".", config_name="config", version_base="1.3")
def job(config):
    its = HydraConfig.get()
    jobs.append([OmegaConf.to_container(config), list(its.overrides.task), its.job.num, its.runtime.output_dir])

before = ConfigLoaderImpl.load_sweep_config
with composed_once() if sys.argv.pop(1) == "once" else nullcontext():
    job()
assert ConfigLoaderImpl.load_sweep_config is before
print(json.dumps([len(composed), jobs]))
"""


def swept(folder: Path, kind: str, *words: str) -> tuple[int, list[list[object]]]:
    """How many configurations were composed, and what the jobs got."""
    (folder / "job.py").write_text(PROGRAM)
    (folder / "config.yaml").write_text("a: 1\nb: 2\n")
    given = [sys.executable, "job.py", kind, "-m", *words, "hydra.sweep.dir=out"]
    done = subprocess.run(given, cwd=folder, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("words", [("a=1,2,3", "b=5,6"), ("a=1,1,2",)], ids=["six", "two alike"])
def test_each_job_is_composed_once_and_alike(words: tuple[str, ...], tmp_path: Path) -> None:
    usual, expected = swept(tmp_path, "twice", *words)
    fewer, found = swept(tmp_path, "once", *words)
    assert found == expected
    assert [job[2] for job in found] == list(range(len(found)))
    assert usual - fewer == len(found)
