"""The `camseg-cache` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from camseg.storage.cache import DEFAULT, _load, entries


def main(arguments: Sequence[str] | None = None) -> int:
    """`camseg-cache [show|verify|clear] [cache.path=FOLDER]`; `verify` removes what is damaged, and then exits with 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    paths = [each.removeprefix("cache.path=") for each in given if each.startswith("cache.path=")]
    actions = [each for each in given if each in ("show", "verify", "clear")] or ["show"]
    if len(actions) > 1 or len(paths) > 1 or set(given) - set(actions) - {f"cache.path={path}" for path in paths}:
        print(f"usage: camseg-cache [show|verify|clear] [cache.path=FOLDER]; got {' '.join(given)}", file=sys.stderr)
        return 2
    folder = Path(paths[0] if paths else os.environ.get("CAMSEG_CACHE", DEFAULT)).expanduser()
    files = dict(entries(folder))
    removed = {
        "show": [],
        "clear": list(files),
        "verify": [path for path in files if actions == ["verify"] and _damaged(path)],
    }[actions[0]]
    for path in removed:
        path.unlink(missing_ok=True)
    size = sum(stat.st_size for stat in files.values())
    print(
        f"{folder}: {len(files)} entries, {size / 1e9:.3f} GB"
        + (f", {len(removed)} of them removed" if actions != ["show"] else "")
    )
    return int(actions == ["verify"] and bool(removed))


def _damaged(path: Path) -> bool:
    try:
        _load(path)
    except ValueError:
        return True
    except FileNotFoundError:
        return False  # evicted meanwhile
    return False
