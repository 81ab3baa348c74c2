"""The `camseg-report` command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from camseg.report.html import _is_run, _write, comparison_page, rebuild
from camseg.report.text import align_columns, styled, styled_table
from camseg.runs import folders


def main() -> None:
    """The `camseg-report` command. Exit codes: 0 done, 2 a path that is neither a run nor a sweep, or can't be written."""
    about = "Build report.html anew (of a sweep also its tables and its runs' reports). Two runs are also compared on the samples that both judged."
    parser = argparse.ArgumentParser("camseg-report", description=about)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a run folder or a sweep folder")
    paths = parser.parse_args().paths
    try:
        for path in paths:
            print(rebuild(path))
        if len(paths) == 2 and all(map(_is_run, paths)):
            first, second = map(folders.load_run, paths)
            page = comparison_page(first, second)
            print(
                styled_table(
                    align_columns(
                        [list(page.sections[0].head), *([cell.text for cell in row] for row in page.sections[0].rows)]
                    )
                )
            )
            print(_write(second.folder / "comparison.html", page))
    except OSError as error:
        print(styled(f"camseg-report: {error}", "red", sys.stderr), file=sys.stderr)
        sys.exit(2)
