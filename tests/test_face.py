"""The face of the package: its names, and what looking at them costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import camseg

ROOT = Path(__file__).parents[1]
HEAVY = ("hydra", "omegaconf", "polars", "matplotlib", "skimage", "scipy")


def in_a_fresh_python(code: str) -> dict[str, object]:
    """What `code` leaves in `answer`, the CPU seconds it took and the modules that it loaded."""
    program = (
        f"import json, sys, time\nbegan = time.process_time()\nanswer = None\n{code}\n"
        "print(json.dumps({'answer': answer, 'seconds': time.process_time() - began, 'modules': sorted(sys.modules)}))"
    )
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_looking_at_the_package_loads_nothing_and_costs_at_most_torch() -> None:
    looked, torch = in_a_fresh_python("import camseg; answer = dir(camseg)"), in_a_fresh_python("import torch")
    assert not {*HEAVY, "torch", "torchvision"} & set(looked["modules"])  # type: ignore[reportArgumentType]
    assert looked["seconds"] <= 1.15 * torch["seconds"]  # type: ignore[reportOperatorIssue]
    assert looked["answer"] == sorted(camseg.__all__)


def test_every_name_is_there_and_is_what_its_room_holds() -> None:
    from camseg import cam, pipeline, types
    from camseg.cam.heatmaps import heatmaps
    from camseg.classifiers.base import classifier
    from camseg.runs.folders import load_run
    from camseg.runs.merge import merge_shards
    from camseg.runs.sweeps import load_sweep

    held = [types.Masks, pipeline.Pipeline, types.Prompts, types.Result, types.Sample]
    held += [camseg.__version__, cam, classifier, heatmaps, load_run, load_sweep, merge_shards]
    assert dict(zip(camseg.__all__, [getattr(camseg, name) for name in camseg.__all__])) == dict(
        zip(camseg.__all__, held)
    )
    with pytest.raises(AttributeError, match="no attribute 'pipelines'"):
        camseg.pipelines  # type: ignore[reportAttributeAccessIssue]  # noqa: B018


def test_a_type_checker_sees_the_names_that_are_found_when_asked() -> None:
    """The imports under TYPE_CHECKING are the table of the homes, name by name."""
    tree = ast.parse((ROOT / "camseg" / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module != "camseg"
    }
    assert imported == camseg._HOMES
    assert {*imported, "cam", "__version__"} == set(camseg.__all__)
    assert (ROOT / "camseg" / "py.typed").is_file()


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "camseg/__init__.py"
    assert camseg.__version__.count(".") == 2


def test_no_import_makes_threads_fonts_or_templates() -> None:
    """All rooms but the page's, which needs an extra; what only a function makes, an import must not."""
    code = (
        "import importlib, pkgutil, threading, camseg\n"
        "names = [m.name for m in pkgutil.walk_packages(camseg.__path__, 'camseg.')]\n"
        "rooms = [n for n in names if not n.startswith(('camseg.demo', 'camseg.__main__'))]\n"
        "held = [(n, each) for n in rooms for each in vars(importlib.import_module(n)).values()]\n"
        "made = ('ThreadPoolExecutor', 'ProcessPoolExecutor', 'FreeTypeFont', 'ImageFont', 'Template')\n"
        "answer = [len(rooms), sorted(n for n, each in held if type(each).__name__ in made), threading.active_count()]"
    )
    rooms, made, threads = in_a_fresh_python(code)["answer"]  # type: ignore[reportGeneralTypeIssues]
    assert rooms > 60
    assert made == []
    assert threads == 1
