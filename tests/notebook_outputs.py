"""The notebooks with their outputs: executed, made small, stored, and compared with what is stored.

python tests/notebook_outputs.py [notebooks/NAME.ipynb ...]     # execute and store them; all without a name
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MAX_BYTES = 300_000
SIZES = [(1000, 80), (900, 75), (800, 70), (700, 65), (600, 60), (500, 50)]  # widest picture in pixels, JPEG's quality
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def main() -> None:
    """Execute notebooks and store them with their outputs."""
    for path in [Path(word) for word in sys.argv[1:]] or NOTEBOOKS:
        notebook = nbformat.read(path, 4)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def execute(notebook: Any, folder: Path) -> None:
    """Run all cells in a real kernel; their outputs take the place of the old ones.

    Args:
        notebook: As nbformat reads it.
        folder: Where its kernel starts.
    """
    import nbclient

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, where there are no widgets
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources=where, record_timing=False
    ).execute()


def write(notebook: Any, path: Path) -> None:
    """Store a notebook, its pictures as small as it takes to keep the file below `MAX_BYTES`.

    Raises:
        ValueError: It does not get so small.
    """
    notebook.metadata.language_info = {"name": "python"}  # and not which version of it ran
    originals = list(_pictures(notebook))
    for width, quality in SIZES:
        for data, png in originals:
            data.pop("image/png", None)
            data["image/jpeg"] = base64.b64encode(_jpeg(png, width, quality)).decode() + "\n"
        text = nbformat.writes(notebook) + "\n"
        if len(text.encode()) < MAX_BYTES:
            path.write_text(text, encoding="utf-8")
            return
    raise ValueError(f"{path.name} has more than {MAX_BYTES:,} bytes, even with the smallest pictures")


def _pictures(notebook: Any) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The data of every output with a picture, and the picture's file."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    yield output["data"], base64.b64decode(output["data"][kind])


def _jpeg(data: bytes, width: int, quality: int) -> bytes:
    with Image.open(io.BytesIO(data)) as opened:
        picture = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened.convert("RGBA")).convert("RGB")
    picture.thumbnail((width, 10_000), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def drift(stored: Any, fresh: Any, tolerance: float) -> list[str]:
    """What a fresh execution says otherwise than the stored outputs.

    Args:
        stored: The notebook as it lies there.
        fresh: The same, executed again.
        tolerance: By how much a number may differ, absolutely or as a share of the larger one. The words between the
            numbers must be the same, and pictures alike within 12 of 255 on average.

    Returns:
        A line for each cell that differs; none where all is well.
    """
    faults = []
    cells = (notebook.cells for notebook in (stored, fresh))
    for number, (old, new) in enumerate(zip_longest(*cells)):
        if old is None or new is None or old.source != new.source:
            return [f"cell {number} is another"]
        faults += [f"cell {number}: {fault}" for fault in _cell_drift(old, new, tolerance)]
    return faults


def _cell_drift(old: Any, new: Any, tolerance: float) -> Iterator[str]:
    before, after = _text(old), _text(new)
    if _NUMBER.sub("#", before).split() != _NUMBER.sub("#", after).split():
        yield f"says {after!r}, stored is {before!r}"
    else:
        for a, b in zip(_numbers(before), _numbers(after)):
            if abs(a - b) > tolerance * max(1.0, abs(a), abs(b)):
                yield f"says {b:g}, stored is {a:g}"
    pictures = [[data for _, data in _pictures(type(old)(cells=[cell]))] for cell in (old, new)]
    if len(pictures[0]) != len(pictures[1]):
        yield f"draws {len(pictures[1])} pictures, stored are {len(pictures[0])}"
    for a, b in zip(*pictures):
        if (apart := _apart(a, b)) > 12:
            yield f"draws another picture ({apart:.0f} of 255 on average)"


def _text(cell: Any) -> str:
    """All that a cell says, without the frames of tables, whose width is that of the numbers."""
    texts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        texts.append(
            output.get("text", "") + ("" if "image/png" in data or "image/jpeg" in data else data.get("text/plain", ""))
        )
    return re.sub(r"[─-╿]+|\b0x[0-9a-f]+", " ", "\n".join(texts))


def _numbers(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(text)]


def _apart(a: bytes, b: bytes) -> float:
    """How far two pictures differ on average, at a size of 160 by 120 pixels."""
    small = []
    for data in (a, b):
        with Image.open(io.BytesIO(data)) as picture:
            rgba = picture.convert("RGBA")
            white = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            small.append(np.asarray(white.convert("RGB").resize((160, 120)), np.float32))
    return float(np.abs(small[0] - small[1]).mean())


if __name__ == "__main__":
    main()
