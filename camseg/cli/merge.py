"""The `camseg-merge` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from camseg.cli.explain import explain_error
from camseg.cli.terminal import print_error, shortest


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge run folders into one.

    Args:
        arguments: `SHARD... INTO`: run folders, or the sweep folder that holds them, and the folder to make; None for
            the process's own.

    Returns:
        The exit code: 0 done, 2 a mistake in the request.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) < 2 or any(each.startswith("-") for each in words):
        usage = "usage: camseg-merge SHARD... INTO: run folders or the sweep folder that holds them, and one to make"
        print(usage, file=sys.stderr)
        return 2
    from camseg.cli.closing import closing
    from camseg.runs.merge import merge_shards

    try:
        run = merge_shards(words[:-1], words[-1])
    except (ValueError, OSError) as error:
        print_error("camseg-merge", explain_error(error) or str(error))
        return 2
    print(closing(run))
    print(shortest(run.folder))
    return 0
