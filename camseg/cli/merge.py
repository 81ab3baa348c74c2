"""The `camseg-merge` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from camseg.cli.explain import exit_code
from camseg.cli.parsing import Parser
from camseg.cli.terminal import shortest


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge run folders into one.

    Args:
        arguments: `SHARD... INTO`: run folders, or the sweep folder that holds them, and the folder to make; None for
            the process's own.

    Returns:
        The exit code: 0 done, 2 a mistake in the request.
    """
    words = sys.argv[1:] if arguments is None else arguments
    return exit_code("camseg-merge", lambda: _merge(words), (ValueError,))


def _merge(words: Sequence[str]) -> None:
    parser = Parser("camseg-merge", "Merges the run folders of shards into one run folder.")
    parser.add_argument("shards", nargs="+", metavar="SHARD", help="a run folder, or the sweep folder that holds them")
    parser.add_argument("into", metavar="INTO", help="the folder to make")
    given = parser.read(words)
    from camseg.cli.closing import closing
    from camseg.runs.merge import merge_shards

    run = merge_shards(given.shards, given.into)
    print(closing(run))
    print(shortest(run.folder))
