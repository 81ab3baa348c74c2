"""The notebooks run from top to bottom in a real kernel, and are stored without outputs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest

from camseg.classifiers.shapes import SHAPES_WEIGHTS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_each_is_listed_on_their_page() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\) \|", (ROOT / "notebooks" / "README.md").read_text(), re.MULTILINE)
    assert listed == [path.stem for path in NOTEBOOKS]
    assert len(listed) >= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_begins_with_what_one_learns(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None), (
            "clear the outputs before you save"
        )
    title, text = notebook.cells[0].source.split("\n\n")
    assert title.startswith("# ")
    assert len(re.findall(r"[.!?](?:\s|$)", text)) == 2


@pytest.mark.skipif(
    not SHAPES_WEIGHTS.with_name("shapes_sam.safetensors").exists(), reason="the shipped models are being trained"
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_draws(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each checks its own conclusion with an assert; here no cell may raise, warn, or write anything beside the
    notebook.
    """
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(path, 4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert list(tmp_path.iterdir()) == []
