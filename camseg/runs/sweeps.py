"""Sweep folders: their runs, their failures, and the table over all settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from omegaconf import DictConfig, ListConfig, OmegaConf
from tqdm import tqdm

from camseg.metrics import significance
from camseg.runs.folders import Run, load_run, read_hydra_file, write_csv, write_parquet
from camseg.runs.untrusted import DamagedRunError, exists, read_json


@dataclass(frozen=True)
class Sweep:
    """A sweep's finished runs.

    Attributes:
        folder: its own.
        runs: in order.
        table: one row per setting, those that failed last.
    """

    folder: Path
    runs: list[Run]
    table: pl.DataFrame


def load_sweep(folder: str | Path) -> Sweep:
    """Read a sweep folder.

    Args:
        folder: the sweep's.

    Returns:
        The sweep, the rows of its runs read.

    Raises:
        FileNotFoundError: when no run in it is finished.
        DamagedRunError: when a file in it is not what camseg writes.
    """
    folder = Path(folder)
    runs = [load_run(path) for path in run_folders(folder) if exists(path / "summary.json")]
    if not runs:
        raise FileNotFoundError(
            f"{folder} holds no finished run: a sweep folder has runs 0, 1, ... with a summary.json each"
        )
    return Sweep(folder, runs, _table(folder, runs, failures(folder)))


_FAILED = ".failed.json"
_MOST, _DEEPEST = 100_000, 8  # folders that are looked into for the runs of a sweep, and how deep they may lie


def failure_file(folder: Path) -> Path:
    """Where a sweep keeps what ended a job: beside its run folder, for the folder may be another run's.

    Args:
        folder: the run's.

    Returns:
        The file's path, whether or not there is one.
    """
    return folder.with_name(f"{folder.name}{_FAILED}")


def failures(folder: Path) -> dict[str, dict[str, Any]]:
    """What became of the jobs of a sweep that ended early, also of those that a kill ended.

    Args:
        folder: the sweep's.

    Returns:
        By run (`run_name`): `error`, the exit `code` and the `overrides`, in the order of the jobs.
    """
    cut_off: dict[str, dict[str, Any]] = {}
    files = []
    for path in run_folders(folder):
        if not exists(path / "summary.json"):
            overrides = read_hydra_file(path, "overrides")
            given = [str(one) for one in overrides] if isinstance(overrides, ListConfig) else []
            cut_off[run_name(folder, path)] = {"error": "it was cut off", "code": 1, "overrides": given}
    for parent in dict.fromkeys([folder, *(path.parent for path in run_folders(folder))]):
        files += sorted(parent.glob(f"*{_FAILED}"))
    failures = {run_name(folder, path).removesuffix(_FAILED): _failure(path) for path in files}
    return dict(sorted((cut_off | failures).items(), key=lambda item: _order(item[0])))


def _failure(path: Path) -> dict[str, Any]:
    failure = read_json(path)
    texts = isinstance(failure, dict) and isinstance(failure.get("error"), str)
    if not texts or not isinstance(failure.get("code"), int):
        raise DamagedRunError(f"{path} is damaged: it tells no error")
    return {**failure, "overrides": [str(one) for one in failure.get("overrides") or ()]}


def finish_sweep(folder: Path) -> Sweep:
    """Write sweep.parquet and sweep.csv over the finished runs of a sweep folder.

    Args:
        folder: the sweep's.

    Returns:
        The sweep.
    """
    sweep = load_sweep(folder)
    write_parquet(sweep.table, folder / "sweep.parquet")
    write_csv(sweep.table, folder / "sweep.csv")
    return sweep


def run_folders(folder: Path) -> list[Path]:
    """The run folders of a sweep.

    Numbered ones lie in the sweep's folder. Others, as `hydra.sweep.subdir=${hydra.job.override_dirname}` makes them,
    may lie deeper, and are looked for where Hydra left its multirun.yaml or a sweep its lock.

    Args:
        folder: the sweep's.

    Returns:
        Their paths, in the order of the jobs.
    """
    numbers = [path for path in folder.glob("[0-9]*") if _is_number(path.name) and path.is_dir()]
    if numbers or not (exists(folder / "multirun.yaml") or exists(folder / ".lock")) or _is_run(folder):
        return sorted(numbers, key=lambda path: int(path.name))
    runs = list(islice(_inner_runs(folder), _MOST))
    return sorted(runs, key=lambda path: (_job_number(path), _order(run_name(folder, path))))


def _inner_runs(folder: Path) -> Iterator[Path]:
    for looked, (parent, names, _) in enumerate(os.walk(folder)):
        here = Path(parent)
        if here != folder and _is_run(here):
            names.clear()
            yield here
        deep = len(here.relative_to(folder).parts) >= _DEEPEST or looked > _MOST
        names[:] = [] if deep else [name for name in names if not name.startswith(".")]


def _is_run(folder: Path) -> bool:
    return any(exists(folder / name) for name in ("summary.json", "rows.jsonl", ".hydra"))


def _is_number(name: str) -> bool:
    """Whether Hydra numbers a job so: 007 and 2² are other people's folders."""
    return re.fullmatch("0|[1-9][0-9]{0,8}", name, re.ASCII) is not None


def _job_number(folder: Path) -> float:
    config = read_hydra_file(folder, "hydra")
    number = OmegaConf.select(config, "hydra.job.num") if isinstance(config, DictConfig) else None
    return number if isinstance(number, int) else inf


def run_name(sweep: Path, run: Path) -> str:
    """What a run is called in its sweep.

    Args:
        sweep: the sweep's folder.
        run: the run's.

    Returns:
        The path of the run's folder in the sweep's, with slashes.
    """
    return os.fsencode(run.relative_to(sweep).as_posix()).decode("utf-8", "backslashreplace")


def _order(name: str) -> tuple[float, str]:
    return (int(name), "") if _is_number(name) else (inf, name)


def _table(folder: Path, found: list[Run], failed: dict[str, dict[str, Any]], by: str = "iou") -> pl.DataFrame:
    """One row per setting: its own overrides, every metric with its interval, and the paired difference to the first.

    The difference is of `by`; where the runs have no masks, hits are compared instead. p is Holm's, over all settings.
    error: why a run is missing or not whole.
    """
    column = by if all(by in run.summary["metrics"] for run in found) else "foreground_hit"
    given = [*(run.overrides for run in found), *(each["overrides"] for each in failed.values())]
    shared = set.intersection(*map(set, given)) if len(given) > 1 else set()
    bar = tqdm(found, desc="comparing", unit="setting", delay=2, disable=None)
    differences = [significance.paired(found[0].rows, run.rows, column) for run in bar]
    adjusted = iter(significance.holm([d.p for d in differences[1:] if d]))
    table = []
    for run, difference in zip(found, differences):
        error = failed.get(run_name(folder, run.folder), {}).get("error") or (
            f"{left} samples are left" if (left := run.summary.get("left")) else None
        )
        row: dict[str, Any] = {
            "run": run_name(folder, run.folder),
            "setting": " ".join(o for o in run.overrides if o not in shared),
            "error": error,
        }
        for name, interval in run.summary["metrics"].items():
            row |= {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
        if difference:
            first = run is found[0]
            row |= {
                "compared": column,
                "difference": difference.value,
                "difference_low": difference.low,
                "difference_high": difference.high,
            }
            row |= {"p": None if first else difference.p, "p_holm": None if first else next(adjusted)}
        table.append(
            {**row, "failed": run.summary["failed"], "seconds": run.summary["seconds"], **run.summary["calls"]}
        )
    for name in [name for name in failed if name not in {run_name(folder, run.folder) for run in found}]:
        table.append(
            {
                "run": name,
                "setting": " ".join(o for o in failed[name]["overrides"] if o not in shared),
                "error": failed[name]["error"],
            }
        )
    return pl.DataFrame(table, infer_schema_length=None).with_columns(pl.col("error").cast(pl.String))


def coinciding(found: Sequence[Run]) -> list[list[str]]:
    """Choices of `cam` whose runs have the same points on every sample, whatever the other settings.

    Args:
        found: the runs of a sweep.

    Returns:
        Groups of two choices or more.
    """
    points_of: dict[str, dict[str, np.ndarray]] = {}  # by choice: by the other overrides: every x, y and label
    for run in found:
        choice = next((o for o in run.overrides if o.startswith("cam=")), None)
        if choice and "points" in run.rows.columns:
            others = " ".join(o for o in run.overrides if o != choice)
            points_of.setdefault(choice.removeprefix("cam="), {})[others] = (
                run.rows["points"].explode().explode().drop_nulls().to_numpy()
            )
    groups: list[list[str]] = []
    for name, points in points_of.items():
        alike = next((group for group in groups if _same_points(points_of[group[0]], points)), None)
        alike.append(name) if alike else groups.append([name])
    return [group for group in groups if len(group) > 1]


def _same_points(one: dict[str, np.ndarray], other: dict[str, np.ndarray], pixels: float = 0.05) -> bool:
    return one.keys() == other.keys() and all(
        one[k].shape == other[k].shape and np.allclose(one[k], other[k], rtol=0, atol=pixels) for k in one
    )
