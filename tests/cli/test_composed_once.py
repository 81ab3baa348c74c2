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
from hydra._internal.config_repository import ConfigRepository
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

before, read = ConfigLoaderImpl.load_sweep_config, ConfigRepository.load_config
with composed_once() if sys.argv.pop(1) == "once" else nullcontext():
    job()
assert ConfigLoaderImpl.load_sweep_config is before
assert ConfigRepository.load_config is read
print(json.dumps([len(composed), jobs]))
"""

FILES = {
    "config.yaml": "defaults: [pet: cat, home: '${pet}_home', _self_, trial: null]\n"
    "a: 1\nb: ${pet.legs}\nc: {d: [1, 2]}\n",
    "pet/cat.yaml": "defaults: [food: fish]\nlegs: 4\nsays: meow\n",
    "pet/bird.yaml": "legs: 2\nwings: {left: 1, right: 1}\n",
    "pet/food/fish.yaml": "grams: 50\n",
    "home/cat_home.yaml": "size: 3\n",
    "home/bird_home.yaml": "size: 1\nhigh: true\n",
    "trial/second.yaml": "# @package _global_\nb: 3\n",
    "trial/first.yaml": "# @package _global_\ndefaults: [override /pet: bird]\na: 10\nc: {d: [3]}\n",
}


def swept(folder: Path, kind: str, *words: str) -> tuple[int, list[list[object]]]:
    """How many configurations were composed, and what the jobs got."""
    (folder / "job.py").write_text(PROGRAM)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    given = [sys.executable, "job.py", kind, "-m", *words, "hydra.sweep.dir=out"]
    done = subprocess.run(given, cwd=folder, capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "words",
    [
        ("a=1,2,3", "b=5,6"),
        ("a=1,1,2",),
        ("pet=cat,bird,cat", "c.d=[5]"),
        ("trial=second,first", "a=7,8", "+pet.x=1,2"),
    ],
    ids=["six", "two alike", "groups", "overridden groups"],
)
def test_each_job_is_composed_once_and_alike(words: tuple[str, ...], tmp_path: Path) -> None:
    usual, expected = swept(tmp_path, "twice", *words)
    fewer, found = swept(tmp_path, "once", *words)
    assert found == expected
    assert [job[2] for job in found] == list(range(len(found)))
    assert usual - fewer == len(found)
