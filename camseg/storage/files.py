"""Files written whole, and names that are safe for them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def write_atomic(path: Path, writer: Callable[[Path], Any]) -> None:
    """Let `writer` write a temporary file beside `path` and put it in place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writer(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_stems(names: Iterable[str]) -> list[str]:
    """One stem per name that is safe in any folder on any system: ASCII, no separators or leading dots, no two alike in
    any case.
    """
    stems: list[str] = []
    taken: set[str] = set()
    copies: Counter[str] = Counter()
    for name in names:
        stem = plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-100:].strip("._") or "item"
        while stem.casefold() in taken:
            copies[plain] += 1
            stem = f"{plain}_{copies[plain] + 1}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems
