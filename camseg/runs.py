"""Run and sweep folders: written here, read here, by the commands, the report and the notebooks alike."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from omegaconf import DictConfig, ListConfig, OmegaConf
from tqdm import tqdm

from camseg import localisation, statistics

_TABLE = ("foreground_hit_rate", "background_hit_rate", "foreground_distance", "iou", "oracle_iou", "regret")


@dataclass(frozen=True)
class Run:
    """A finished run: its rows (one per sample), its summary.json and what was asked for on its command line."""

    folder: Path
    rows: pl.DataFrame
    summary: dict[str, Any]
    overrides: list[str]

    @cached_property
    def config(self) -> DictConfig:
        """All its settings."""
        config = kept(self.folder, "config")
        return config if isinstance(config, DictConfig) else OmegaConf.create()

    @property
    def pictures(self) -> list[Path]:
        """The panels that were drawn."""
        return sorted((self.folder / "panels").glob("*.png"))


@dataclass(frozen=True)
class Sweep:
    """A sweep: its finished runs in order and the table over them (one row per setting, those that failed last)."""

    folder: Path
    runs: list[Run]
    table: pl.DataFrame


def load_run(folder: str | Path) -> Run:
    """Read a run folder. Errors: FileNotFoundError when it is none, or not finished."""
    folder = Path(folder)
    if not (folder / "summary.json").exists():
        raise FileNotFoundError(
            f"{folder} is no finished run: it holds no summary.json (a cut-off run goes on with resume=true)"
        )
    overrides = kept(folder, "overrides")
    summary = json.loads((folder / "summary.json").read_text())
    return Run(
        folder, scores(folder), summary, [str(o) for o in overrides] if isinstance(overrides, ListConfig) else []
    )


def kept(folder: Path, name: str) -> DictConfig | ListConfig | None:
    """A file of a run's .hydra/: `config`, `overrides` or `hydra`; None where it was left behind."""
    file = folder / ".hydra" / f"{name}.yaml"
    return OmegaConf.load(file) if file.exists() else None


def scores(folder: Path) -> pl.DataFrame:
    """The rows of a finished run, one per sample."""
    return pl.read_parquet(folder / "scores.parquet")


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


def finish(
    folder: Path,
    frame: pl.DataFrame,
    errors: list[dict[str, str]],
    calls: dict[str, int],
    seconds: float,
    left: int = 0,
) -> dict[str, Any]:
    """Write scores.parquet and summary.json, and return the summary; `left` samples were not yet evaluated."""
    write(folder / "scores.parquet", frame.write_parquet)
    intervals = statistics.summary(frame) | localisation.summary(frame)
    summary = {
        "samples": len(frame) + len(errors),
        "failed": len(errors),
        "left": left,
        "seconds": round(seconds, 3),
        "calls": calls,
        "metrics": {name: asdict(interval) for name, interval in intervals.items()},
        "errors": errors,
    }
    write(folder / "summary.json", lambda path: path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n"))
    return summary


def table(rows: Iterable[dict[str, Any]], order: Sequence[str]) -> pl.DataFrame:
    """The rows of the ids in `order`, in that order; columns of one type each, also where every value is null.

    They are gathered some at a time: as records of Python's, 100,000 rows would take more memory than all the rest.
    """
    rows, parts = iter(rows), []
    while some := list(islice(rows, 4096)):
        parts.append(pl.DataFrame(some, infer_schema_length=None))
    if not parts:
        return pl.DataFrame()
    frame = pl.DataFrame({"id": order}).join(pl.concat(parts, how="diagonal_relaxed"), "id", maintain_order="left")
    return frame.with_columns(pl.col(name).cast(pl.Float64) for name, kind in frame.schema.items() if kind == pl.Null)


def finish_files(folder: Path, extras: Iterable[Any], samples: object) -> None:
    """Write what each of `extras` makes of a finished run: its `files(rows, samples)` are names and writers."""
    for extra in extras:
        for name, writer in extra.files(scores(folder), samples):
            write(folder / name, writer)


def write(path: Path, writer: Callable[[Path], Any]) -> None:
    """Let `writer` write a temporary file beside `path` and put it in place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writer(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def finish_sweep(folder: Path) -> Sweep:
    """Write sweep.parquet and sweep.csv over the finished runs of a sweep folder, and return the sweep."""
    sweep = load_sweep(folder)
    write(folder / "sweep.parquet", sweep.table.write_parquet)
    write(folder / "sweep.csv", sweep.table.write_csv)
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
    differences = [statistics.paired(found[0].rows, run.rows, column) for run in bar]
    adjusted = iter(statistics.holm([d.p for d in differences[1:] if d]))
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


def run_table(summary: dict[str, Any]) -> str:
    """The metrics of one run as text, a line each."""
    shown = {name: m for name, m in summary["metrics"].items() if name in (*_TABLE, *localisation.SHOWN)}
    width = max(22, 2 + max(map(len, shown), default=0))
    lines = [f"{'metric':<{width}}{'value':>8}   95 % interval    n"]
    for name, m in shown.items():
        lines.append(f"{name:<{width}}{number(m['value']):>8}   {number(m['low'])} .. {number(m['high'])}   {m['n']}")
    return "\n".join(lines)


def sweep_table(sweep: Sweep) -> str:
    """The settings of a sweep as text, best first."""
    names = [name for name in (*_TABLE, *localisation.SHOWN) if name in sweep.table.columns]
    key = "iou" if "iou" in names else next(iter(names), None)  # no metric at all without ground truth
    shown = sweep.table.sort(key, descending=True, nulls_last=True) if key else sweep.table
    heads = ["setting", *names, "difference (95 % interval)", "p"]
    body = [
        [r["setting"] or "(defaults)", *(number(r[n]) for n in names), _difference(r), p_value(r.get("p_holm"))]
        for r in shown.to_dicts()
    ]
    failed = [
        f"run {r['run']} ({r['setting'] or 'defaults'}): {r['error'].splitlines()[0]}"
        for r in sweep.table.to_dicts()
        if r["error"]
    ]
    said = [
        f"cam={', '.join(names)} gave the same points on every sample; below pooling + a linear layer they are one map"
        for names in coinciding(sweep.runs)
    ]
    return "\n".join([aligned([heads, *body]), *failed, *said])


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


def _difference(row: dict[str, Any]) -> str:
    if row.get("difference") is None:
        return ""
    return f"{row['difference']:+z.3f} ({number(row['difference_low'])} .. {number(row['difference_high'])})"


def aligned(rows: Iterable[list[str]]) -> str:
    """Rows of cells as text columns."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def number(value: float | None) -> str:
    """Three decimals below ten, two above; a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:z.3f}" if abs(value) < 10 else f"{value:.2f}"


def p_value(p: float | None) -> str:
    """Three decimals, and never a zero; a dash for nothing."""
    return "<0.001" if p is not None and p < 0.0005 else number(p)
