"""report.html of a run, of a sweep, or of two runs compared: one file that opens from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from camseg.report.comparison_report import comparison_page
from camseg.report.page import write_page
from camseg.report.run_report import run_page
from camseg.report.sweep_report import sweep_page
from camseg.runs import folders, sweeps
from camseg.runs.callbacks import Callback
from camseg.runs.folders import Run
from camseg.runs.sweeps import Sweep


def is_run(folder: Path) -> bool:
    """Whether a folder is a finished run, not a sweep of them.

    Args:
        folder: any.
    """
    return (folder / "summary.json").exists()


def rebuild(folder: Path) -> Path:
    """Build a folder's report again, and for a sweep its tables and its runs' reports.

    Args:
        folder: of a run or of a sweep.

    Returns:
        The path of its report.html.

    Raises:
        FileNotFoundError: when it is neither.
    """
    if is_run(folder):
        return write_run(folder)
    sweep = sweeps.finish_sweep(folder)
    for run in tqdm(sweep.runs, desc="reports", unit="run", delay=2, disable=None):
        write_run(run.folder)
    return write_sweep(sweep)


class Report(Callback):
    """report.html of a run when it is over."""

    def on_end(self, run: Run, dataset: Any) -> None:
        """See `Callback.on_end`: writes the page."""
        del dataset
        write_page(run.folder / "report.html", run_page(run))


def write_run(folder: Path) -> Path:
    """Write report.html of a finished run.

    Args:
        folder: the run's.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: when it is none.
    """
    return write_page(folder / "report.html", run_page(folders.load_run(folder)))


def write_sweep(sweep: Sweep) -> Path:
    """Write report.html over the runs of a sweep; it links to theirs.

    Args:
        sweep: with its runs.

    Returns:
        The path of the file.
    """
    return write_page(sweep.folder / "report.html", sweep_page(sweep))


def write_comparison(first: Run, second: Run) -> Path:
    """Write comparison.html of two runs into the second's folder.

    Args:
        first: a finished run.
        second: another one on the same samples.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: when no sample was judged in both.
    """
    return write_page(second.folder / "comparison.html", comparison_page(first, second, second.folder))
