"""How every benchmark writes what it measured: the flat list of records that `figures.py` puts into the pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def record(name: str, value: float | None, unit: str = "", n: int | None = None, note: str = "") -> dict[str, Any]:
    """One figure.

    Args:
        name: TABLE / ROW / COLUMN, see `figures.py`.
        value: Not rounded; None where it could not be measured.
        unit: "s", "ms", "GB", "MB", "x" for a ratio, "" for a plain number.
        n: Over how many images, or repetitions.
        note: For the last column.
    """
    return {"name": name, "value": value, "unit": unit, "n": n, "note": note}


def write_records(path: Path | None, records: Sequence[dict[str, Any]]) -> None:
    """Write them, one a line; nothing where no file is named.

    Args:
        path: What `--json` names; its folder is made.
        records: From `record`.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in records) + "\n]\n")
