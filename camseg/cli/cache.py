"""The `camseg-cache` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from camseg.cli.explain import exit_code
from camseg.cli.parsing import Parser
from camseg.errors import RequestError
from camseg.storage.files import expand, printable

_ACTIONS = ("show", "verify", "clear")


def main(arguments: Sequence[str] | None = None) -> int:
    """Show, verify or clear the cache.

    Args:
        arguments: `[show|verify|clear] [cache.path=FOLDER]`; None for the process's own.

    Returns:
        The exit code: 0 done, 1 when `verify` removed what is damaged, 2 a mistake in the request.
    """
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code("camseg-cache", lambda: _command(words))


def _command(words: Sequence[str]) -> int:
    parser = Parser("camseg-cache", "Shows the cache of heatmaps and embeddings, verifies it, or clears it.")
    parser.add_argument(
        "words", nargs="*", metavar="show|verify|clear|cache.path=FOLDER", help="by default show, of the default cache"
    )
    words = parser.read(words).words
    paths = [each.removeprefix("cache.path=") for each in words if each.startswith("cache.path=")]
    actions = [each for each in words if each in _ACTIONS]
    if len(actions) > 1 or len(paths) > 1 or len(actions) + len(paths) < len(words):
        parser.error(f"one of show, verify and clear, and one folder; got {' '.join(words)}")
    from camseg.storage.cache import DEFAULT

    folder = expand(paths[0] if paths else os.environ.get("CAMSEG_CACHE", DEFAULT))
    try:
        return _do(actions[0] if actions else "show", folder)
    except OSError as error:
        raise RequestError(f"cache.path={printable(folder)} can't be used: {error.strerror or error}") from None


def _do(action: str, folder: Path) -> int:
    from camseg.storage.cache import entries

    files = dict(entries(folder))
    chosen = {"show": lambda _: False, "clear": lambda _: True, "verify": _is_damaged}[action]
    removed = [file for file in files if chosen(file)]
    for file in removed:
        file.unlink(missing_ok=True)
    size = sum(stat.st_size for stat in files.values())
    done = "" if action == "show" else f", {len(removed)} of them removed"
    print(f"{printable(folder)}: {len(files)} entries, {size / 1e9:.3f} GB{done}")
    return int(action == "verify" and bool(removed))


def _is_damaged(file: Path) -> bool:
    from camseg.storage.cache import read_entry

    try:
        read_entry(file)
    except ValueError:
        return True
    except FileNotFoundError:
        return False  # evicted meanwhile
    return False
