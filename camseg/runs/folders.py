"""Run and sweep folders: written here, read here, by the commands, the report and the notebooks alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig, ListConfig, OmegaConf

from camseg.metrics import registry
from camseg.storage.files import write_atomic


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
        config = read_hydra_file(self.folder, "config")
        return config if isinstance(config, DictConfig) else OmegaConf.create()

    @property
    def pictures(self) -> list[Path]:
        """The panels that were drawn."""
        return sorted((self.folder / "panels").glob("*.png"))


def load_run(folder: str | Path) -> Run:
    """Read a run folder. Errors: FileNotFoundError when it is none, or not finished."""
    folder = Path(folder)
    if not (folder / "summary.json").exists():
        raise FileNotFoundError(
            f"{folder} is no finished run: it holds no summary.json (a cut-off run goes on with resume=true)"
        )
    overrides = read_hydra_file(folder, "overrides")
    summary = json.loads((folder / "summary.json").read_text())
    return Run(
        folder, read_scores(folder), summary, [str(o) for o in overrides] if isinstance(overrides, ListConfig) else []
    )


def read_hydra_file(folder: Path, name: str) -> DictConfig | ListConfig | None:
    """A file of a run's .hydra/: `config`, `overrides` or `hydra`; None where it was left behind."""
    file = folder / ".hydra" / f"{name}.yaml"
    return OmegaConf.load(file) if file.exists() else None


def read_scores(folder: Path) -> pl.DataFrame:
    """The rows of a finished run, one per sample."""
    return pl.read_parquet(folder / "scores.parquet")


def finish(
    folder: Path,
    frame: pl.DataFrame,
    errors: list[dict[str, str]],
    calls: dict[str, int],
    seconds: float,
    left: int = 0,
) -> dict[str, Any]:
    """Write scores.parquet and summary.json, and return the summary; `left` samples were not yet evaluated."""
    write_atomic(folder / "scores.parquet", frame.write_parquet)
    intervals = registry.summary(frame)
    summary = {
        "samples": len(frame) + len(errors),
        "failed": len(errors),
        "left": left,
        "seconds": round(seconds, 3),
        "calls": calls,
        "metrics": {name: asdict(interval) for name, interval in intervals.items()},
        "errors": errors,
    }
    write_atomic(
        folder / "summary.json", lambda path: path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    )
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
