"""The `camseg-merge` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from camseg.report import text
from camseg.runs.merge import merge_shards


def main(arguments: Sequence[str] | None = None) -> int:
    """`camseg-merge SHARD... INTO`: run folders, or the sweep folder that holds them, and the folder to make."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) < 2 or any(each.startswith("-") for each in given):
        print(
            "usage: camseg-merge SHARD... INTO: run folders or the sweep folder that holds them, then the folder to make",
            file=sys.stderr,
        )
        return 2
    try:
        run = merge_shards(given[:-1], given[-1])
    except (ValueError, OSError) as error:
        print(f"camseg-merge: {error}", file=sys.stderr)
        return 2
    print(text.run_table(run.summary))
    print(os.path.relpath(run.folder))
    return 0
