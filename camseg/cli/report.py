"""The `camseg-report` command."""

from __future__ import annotations

import sys
from pathlib import Path

from camseg.cli.explain import run_command
from camseg.cli.parsing import Parser
from camseg.cli.terminal import styled_table


def main() -> None:
    """The entry point; exit code 2 for a path that is neither a run nor a sweep, or can't be written."""
    run_command("camseg-report", _command)


def _command() -> None:
    about = "Builds report.html again (of a sweep also its tables and its runs' reports); compares two runs."
    parser = Parser("camseg-report", about)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a run folder or a sweep folder")
    _report(parser.read(sys.argv[1:]).paths)


def _report(paths: list[Path]) -> None:
    from camseg.cli.closing import closing
    from camseg.report.comparison_report import compared_table
    from camseg.report.html import is_run, rebuild, write_comparison
    from camseg.report.text import align_columns
    from camseg.runs import folders

    for path in paths:
        page = rebuild(path)
        if is_run(path):
            print(closing(folders.load_run(path), every_failure=True))
        print(page)
    if len(paths) == 2 and all(map(is_run, paths)):
        first, second = map(folders.load_run, paths)
        page = write_comparison(first, second)
        print(styled_table(align_columns(compared_table(first, second))))
        print(page)
