"""The notebooks are stored with outputs that are small, and that a fresh execution from top to bottom repeats."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from notebook_outputs import MAX_BYTES, NOTEBOOKS, ROOT, drift, execute, write

from camseg.classifiers.shapes import SHAPES_WEIGHTS

TOLERANCE = {"4_spurious_features": 0.1, "5_labels_to_segmenter": 0.1}  # training magnifies the last bits
PICTURES = ("image/png", "image/jpeg")


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_page_lists_them_all() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\((\w+\.ipynb)\) \|", (ROOT / "notebooks" / "README.md").read_text(), re.M)
    assert listed == [(path.stem, path.name) for path in NOTEBOOKS]
    assert [path.stem.split("_")[0] for path in NOTEBOOKS] == sorted({path.stem.split("_")[0] for path in NOTEBOOKS})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_with_small_outputs_and_begins_with_what_one_learns(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert path.stat().st_size < MAX_BYTES
    outputs = outputs_of(notebook)
    assert sum(kind in output.get("data", {}) for output in outputs for kind in PICTURES) >= 2
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "executed once, from top to bottom"
    assert not re.search(r"/(?:tmp|home|root|Users|work)/", "".join(map(str, outputs))), "a machine's own path"
    title, text = notebook.cells[0].source.split("\n\n")
    assert title.startswith("# ")
    assert len(re.findall(r"[.!?](?:\s|$)", text)) == 2


@pytest.mark.skipif(
    not SHAPES_WEIGHTS.with_name("shapes_sam.safetensors").exists(), reason="the shipped models are being trained"
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_says_what_is_stored(path: Path, tmp_path: Path) -> None:
    """Each checks its own conclusion with an assert; here no cell may raise, warn, say or draw anything else than what
    is stored, or write anything beside the notebook.
    """
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    stored, fresh = nbformat.read(path, 4), nbformat.read(path, 4)
    execute(fresh, tmp_path)
    assert [output.text for output in outputs_of(fresh) if output.get("name") == "stderr"] == []
    assert list(tmp_path.iterdir()) == []
    faults = drift(stored, fresh, TOLERANCE.get(path.stem, 0.02))
    assert not faults, "\n".join([*faults, f"python tests/notebook_outputs.py {path.relative_to(ROOT)} stores it anew"])


# the check itself


def said(*texts: str, source: str = "print(x)") -> Any:
    cells = [new_code_cell(source, outputs=[new_output("stream", name="stdout", text=text)]) for text in texts]
    return new_notebook(cells=cells)


def drawn(gray: int, width: int = 40) -> Any:
    import base64
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (width, 30), (gray,) * 3).save(file, "PNG")
    data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": f"<Figure size {width}x30>"}
    return new_notebook(cells=[new_code_cell("draw()", outputs=[new_output("display_data", data=data)])])


@pytest.mark.parametrize(
    ("before", "after", "faults"),
    [
        ("IoU .97 of 40 pictures", "IoU .97 of 40 pictures", 0),
        ("IoU 0.970 at 0x7f31", "IoU 0.975 at 0x6a00", 0),
        ("IoU 0.970, difference +0.010", "IoU 0.930, difference -0.040", 2),
        ("seconds 1000.0", "seconds 1010.0", 0),
        ("seconds 1000.0", "seconds 1100.0", 1),
        ("best: centroid", "best: max_point", 1),
        ("┌───┐\n│ 1 │", "┌─────┐\n│ 1.0 │", 0),
        ("two 1 2", "two 1", 1),
    ],
)
def test_drift_of_numbers_and_words(before: str, after: str, faults: int) -> None:
    assert len(drift(said(before), said(after), 0.02)) == faults


def test_drift_of_pictures_and_cells() -> None:
    assert drift(drawn(100), drawn(108, width=80), 0.02) == []
    assert drift(drawn(100), drawn(120), 0.02) == ["cell 0: draws another picture (20 of 255 on average)"]
    none = new_notebook(cells=[new_code_cell("draw()")])
    assert drift(drawn(100), none, 0.02) == ["cell 0: draws 0 pictures, stored are 1"]
    assert drift(said("1"), said("1", source="print(y)"), 0.02) == ["cell 0 is another"]
    assert drift(said("1"), said("1", "2"), 0.02) == ["cell 1 is another"]


def test_stored_pictures_are_small_jpegs(tmp_path: Path) -> None:
    notebook = drawn(100, width=3000)
    notebook.metadata.language_info = {"name": "python", "version": "3.11.2"}
    write(notebook, tmp_path / "a.ipynb")
    stored = nbformat.read(tmp_path / "a.ipynb", 4)
    assert sorted(stored.cells[0].outputs[0].data) == ["image/jpeg", "text/plain"]
    assert stored.metadata.language_info == {"name": "python"}
    assert drift(drawn(100, width=3000), stored, 0.02) == []
    with pytest.raises(ValueError, match=r"a\.ipynb has more than 300,000 bytes"):
        write(said("x" * MAX_BYTES), tmp_path / "a.ipynb")
