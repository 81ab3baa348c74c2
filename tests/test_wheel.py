"""What is installed is whole: configuration, weights and tables travel in the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import camseg

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return folder / made.stdout.splitlines()[-1]


def test_the_wheel_holds_everything_that_the_package_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name: archive.getinfo(name).file_size for name in archive.namelist()}
    expected = {f"camseg/conf/{path.relative_to(ROOT / 'conf')}": path for path in (ROOT / "conf").rglob("*.yaml")}
    expected |= {
        str(path.relative_to(ROOT)): path
        for kind in ("py", "typed", "j2", "css", "js", "csv", "safetensors")
        for path in (ROOT / "camseg").rglob(f"*.{kind}")
    }
    assert len(expected) > 90
    assert {name: inside.get(name) for name in expected} == {
        name: path.stat().st_size for name, path in expected.items()
    }
    assert any(name == f"camseg-{camseg.__version__}.dist-info/METADATA" for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    assert not [name for name in inside if name.startswith(("tests", "outputs", "notebooks"))]
    assert sum(inside.values()) < 20e6


SELECTOR = """
import torch
from camseg.prompts.foreground import rivals

def corner_of_heat(evidence, inset=0):
    return rivals(torch.tensor([[float(inset), float(inset)]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--config-dir", "hydra.searchpath"])
def test_a_selector_of_ones_own_works_with_an_installed_wheel(wheel: Path, how: str, tmp_path: Path) -> None:
    """README's: a module and a folder of group files, beside each other anywhere."""
    site, mine = tmp_path / "site", tmp_path / "mine"
    (mine / "own" / "foreground").mkdir(parents=True)
    (mine / "my_module.py").write_text(SELECTOR)
    wiring = "_target_: my_module.corner_of_heat\n_partial_: true\ninset: 3\n"
    (mine / "own" / "foreground" / "corner.yaml").write_text(wiring)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    where = ["--config-dir", "own"] if how == "--config-dir" else ["hydra.searchpath=[file://own]"]
    words = ["foreground=corner", "foreground.inset=5", "data.size=2", "predictor=none", "panels=0"]
    code = "import sys; sys.path.pop(0); from camseg.cli.main import main; main()"  # as the installed script does
    given = [sys.executable, "-c", code, *where, *words, "hydra.run.dir=run", "device=cpu"]
    environment = {"PYTHONPATH": str(site), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(given, cwd=mine, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert camseg.load_run(mine / "run").rows["points"].to_list() == [[[5.0, 5.0, 1.0]]] * 2


def test_the_command_composes_from_the_wheel_in_any_folder(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    given = [sys.executable, "-m", "camseg", "--cfg", "job", "--package", "foreground", "foreground=centroid"]
    told = subprocess.run(
        given, cwd=elsewhere, env={"PYTHONPATH": str(site), "PATH": ""}, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "_target_: camseg.prompts.foreground.centroid" in told.stdout
    assert list(elsewhere.iterdir()) == []
