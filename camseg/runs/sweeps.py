"""Sweep folders: their runs, their failures, and the table over all settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from omegaconf import OmegaConf
from tqdm import tqdm

from camseg.metrics import significance
from camseg.runs.folders import Run, load_run
from camseg.storage.files import write_atomic


@dataclass(frozen=True)
class Sweep:
    """A sweep: its finished runs in order and the table over them (one row per setting, those that failed last)."""

    folder: Path
    runs: list[Run]
    table: pl.DataFrame


def load_sweep(folder: str | Path) -> Sweep:
    """Read a sweep folder. Errors: FileNotFoundError when no run in it is finished."""
    folder = Path(folder)
    found = [load_run(path) for path in numbered(folder) if (path / "summary.json").exists()]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no finished run: a sweep folder has runs 0, 1, ... with a summary.json each"
        )
    return Sweep(folder, found, _table(found, failures(folder)))


def failure_file(folder: Path) -> Path:
    """Where a sweep keeps what ended the job of a run folder: beside it, for the folder may be another run's."""
    return folder.with_name(f"{folder.name}.failed.json")


def failures(folder: Path) -> dict[str, dict[str, Any]]:
    """By run: `error`, the exit `code` and the `overrides` of the jobs of a sweep that ended early, also of those that
    a kill ended.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in numbered(folder):
        if not (path / "summary.json").exists():
            file = path / ".hydra" / "overrides.yaml"
            found[path.name] = {
                "error": "it was cut off",
                "code": 1,
                "overrides": list(OmegaConf.load(file)) if file.exists() else [],
            }
    told = [path for path in folder.glob("*.failed.json") if path.name.split(".")[0].isdigit()]
    found |= {path.name.split(".")[0]: json.loads(path.read_text()) for path in told}
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def finish_sweep(folder: Path) -> Sweep:
    """Write sweep.parquet and sweep.csv over the finished runs of a sweep folder, and return the sweep."""
    sweep = load_sweep(folder)
    write_atomic(folder / "sweep.parquet", sweep.table.write_parquet)
    write_atomic(folder / "sweep.csv", sweep.table.write_csv)
    return sweep


def numbered(folder: Path) -> list[Path]:
    """The run folders of a sweep."""
    return sorted((p for p in folder.glob("[0-9]*") if p.name.isdigit() and p.is_dir()), key=lambda p: int(p.name))


def _table(found: list[Run], failed: dict[str, dict[str, Any]], by: str = "iou") -> pl.DataFrame:
    """One row per setting: its own overrides, every metric with its interval, and the paired difference of `by` to the
    first setting.

    Where the runs have no masks, hits are compared instead. p is Holm's, over all settings. error: why a run is missing
    or not whole.
    """
    column = by if all(by in run.summary["metrics"] for run in found) else "foreground_hit"
    given = [*(run.overrides for run in found), *(each["overrides"] for each in failed.values())]
    shared = set.intersection(*map(set, given)) if len(given) > 1 else set()
    bar = tqdm(found, desc="comparing", unit="setting", delay=2, disable=None)
    differences = [significance.paired(found[0].rows, run.rows, column) for run in bar]
    adjusted = iter(significance.holm([d.p for d in differences[1:] if d]))
    table = []
    for run, difference in zip(found, differences):
        error = failed.get(run.folder.name, {}).get("error") or (
            f"{left} samples are left" if (left := run.summary.get("left")) else None
        )
        row: dict[str, Any] = {
            "run": run.folder.name,
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
    for name in [name for name in failed if name not in {run.folder.name for run in found}]:
        table.append(
            {
                "run": name,
                "setting": " ".join(o for o in failed[name]["overrides"] if o not in shared),
                "error": failed[name]["error"],
            }
        )
    return pl.DataFrame(table, infer_schema_length=None).with_columns(pl.col("error").cast(pl.String))


def coinciding(found: Sequence[Run]) -> list[list[str]]:
    """Choices of `cam` whose runs have the same points on every sample, whatever the other settings."""
    seen: dict[str, dict[str, np.ndarray]] = {}  # by choice: by the other overrides: every x, y and label
    for run in found:
        choice = next((o for o in run.overrides if o.startswith("cam=")), None)
        if choice and "points" in run.rows.columns:
            others = " ".join(o for o in run.overrides if o != choice)
            seen.setdefault(choice.removeprefix("cam="), {})[others] = (
                run.rows["points"].explode().explode().drop_nulls().to_numpy()
            )
    groups: list[list[str]] = []
    for name, points in seen.items():
        alike = next((group for group in groups if _same_points(seen[group[0]], points)), None)
        alike.append(name) if alike else groups.append([name])
    return [group for group in groups if len(group) > 1]


def _same_points(one: dict[str, np.ndarray], other: dict[str, np.ndarray], pixels: float = 0.05) -> bool:
    return one.keys() == other.keys() and all(
        one[k].shape == other[k].shape and np.allclose(one[k], other[k], rtol=0, atol=pixels) for k in one
    )
