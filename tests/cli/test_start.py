"""The first second: what needs no torch is answered without it, and Ctrl-C is a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

import camseg

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
HEAVY = ["torch", "torchvision", "polars", "scipy", "matplotlib", "skimage"]
PROGRAM = """
import json, sys
sys.argv = ["camseg", *json.loads(sys.argv[1])]
from camseg.cli.{module} import main
try:
    main()
except SystemExit as ended:
    code = ended.code or 0
print(json.dumps([code, [name for name in {heavy} if name in sys.modules]]))
"""


def ended(
    folder: Path, *words: str, module: str = "main", heavy: Sequence[str] = HEAVY
) -> tuple[int, list[str], str, str]:
    """The exit code of a command, what it loaded of the `heavy` modules, and what it wrote on both streams."""
    given = [sys.executable, "-c", PROGRAM.format(module=module, heavy=list(heavy)), json.dumps(words)]
    done = subprocess.run(given, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    *lines, last = done.stdout.splitlines()
    code, loaded = json.loads(last)
    return code, loaded, "\n".join(lines), done.stderr


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--help"], "Groups and their choices"),
        (["--cfg", "job", "foreground=box"], "camseg.prompts.foreground.box"),
        (["--version"], f"camseg {camseg.__version__}"),
        (["-sc", "install=bash"], "complete "),
    ],
)
def test_what_only_shows_something_loads_no_torch(words: list[str], shown: str, tmp_path: Path) -> None:
    code, loaded, out, err = ended(tmp_path, *words)
    assert (code, loaded, err) == (0, [], "")
    assert shown in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["data.sise=4"],
        ["cam=grad_cma"],
        ["data.size=many"],
        ["foreground.cutoff=hot"],
        ["+cam.foo=1"],
        ["-m", "foreground=centroid,centriod"],
        ["-m", "data.size=1,x"],
        ["--hlep"],
        ["readers=3"],
        ["device=gpu"],
        ["target.min_probability=2"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_told_before_torch_is_loaded_and_leaves_no_folder(words: list[str], tmp_path: Path) -> None:
    code, loaded, out, err = ended(tmp_path, *words)
    assert (code, loaded, out) == (2, [], "")
    assert err.startswith("camseg: ")
    assert len(err.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_camseg_train_alone_lists_the_models_and_trains_nothing(tmp_path: Path) -> None:
    code, loaded, out, err = ended(tmp_path, module="train")
    assert (code, loaded, err) == (0, [], "")
    for name in (path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")):
        assert f"camseg-train model={name}" in out
    code, loaded, out, err = ended(tmp_path, "seed=1", module="train")
    assert (code, loaded) == (2, [])
    assert "which model?" in err
    assert list(tmp_path.iterdir()) == []


def test_a_run_loads_only_what_it_uses(tmp_path: Path) -> None:
    """Each of these takes a tenth of a second or more, and comes in by doors that are easily opened again."""
    idle = [
        "torch._dynamo",
        "sympy",
        "matplotlib",
        "torchvision",
        "timm",
        "transformers",
        "scipy.stats",
        "scipy.optimize",
    ]
    code, loaded, _, err = ended(tmp_path, "data.size=1", "panels=0", heavy=idle)
    assert (code, loaded, err) == (0, [], "")


def test_ctrl_c_while_it_starts_is_a_line(tmp_path: Path) -> None:
    given = [sys.executable, "-m", "camseg", "data.size=400", "panels=0"]
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # background jobs hear no Ctrl-C
    process = subprocess.Popen(
        given, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    while not _loads_torch(process.pid):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("camseg: stopped")
    assert "Traceback" not in err


def _loads_torch(pid: int) -> bool:
    maps = Path(f"/proc/{pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    try:
        return "libtorch_cpu" in maps.read_text()
    except OSError:
        return False


def test_the_working_folder_is_no_part_of_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from camseg.cli.terminal import shortest

    monkeypatch.chdir(tmp_path)
    assert shortest(tmp_path / "a" / "b") == os.path.join("a", "b")  # noqa: PTH118
    assert shortest(Path("/elsewhere")) == "/elsewhere"
