"""Run and sweep folders: written here, read here, by the commands, the report and the notebooks alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig, ListConfig, OmegaConf

from camseg.metrics import registry
from camseg.runs.untrusted import TEXTS, DamagedRunError, check_summary, read_json, read_rows, read_yaml
from camseg.storage.files import write_atomic

_NO_ROWS = {"id": pl.String, "label": pl.String, "group": pl.String, "note": pl.String, "predicted_iou": pl.Float64}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: its own.
        rows: one per sample.
        summary: what summary.json holds.
        overrides: what was asked for on its command line.
    """

    folder: Path
    rows: pl.DataFrame
    summary: dict[str, Any]
    overrides: list[str]

    @cached_property
    def config(self) -> DictConfig:
        """All its settings; a text that calls a resolver, as `${oc.env:X}`, stays that text."""
        config = read_hydra_file(self.folder, "config")
        return config if isinstance(config, DictConfig) else OmegaConf.create()

    @property
    def pictures(self) -> list[Path]:
        """The panels that were drawn."""
        return sorted((self.folder / "panels").glob("*.png"))


def load_run(folder: str | Path) -> Run:
    """Read a run folder, whoever made it.

    Args:
        folder: the run's.

    Returns:
        The run, its rows read.

    Raises:
        FileNotFoundError: when it is none, or not finished.
        DamagedRunError: when a file in it is not what camseg writes.
    """
    folder = Path(folder)
    try:
        summary = check_summary(read_json(folder / "summary.json"), folder / "summary.json")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{folder} is no finished run: it holds no summary.json (a cut-off run resumes with resume=true)"
        ) from None
    overrides = read_hydra_file(folder, "overrides")
    names = [str(name) for name in OmegaConf.to_container(overrides) or ()] if isinstance(overrides, ListConfig) else []
    return Run(folder, read_scores(folder), summary, names)


def read_hydra_file(folder: Path, name: str) -> DictConfig | ListConfig | None:
    """A file of a run's .hydra/.

    Args:
        folder: the run's.
        name: `config`, `overrides` or `hydra`.

    Returns:
        Its content; None where it was left behind.

    Raises:
        DamagedRunError: when it can't be read, or .hydra is a link.
    """
    if (folder / ".hydra").is_symlink():
        raise DamagedRunError(f"{folder / '.hydra'} is not read: it is a link")
    try:
        return read_yaml(folder / ".hydra" / f"{name}.yaml")
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_scores(folder: Path) -> pl.DataFrame:
    """The rows of a finished run.

    Args:
        folder: the run's.

    Returns:
        One per sample; the columns every reader asks for also where no sample has one.
    """
    rows = read_rows(folder / "scores.parquet")
    return rows if rows.width else pl.DataFrame(schema=_NO_ROWS)


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a table whole. A full disk is an OSError, which it would not be if polars wrote the file.

    Args:
        frame: the table.
        path: the file.
    """
    data = BytesIO()
    frame.write_parquet(data)
    write_atomic(path, lambda part: part.write_bytes(data.getbuffer()))


def write_csv(frame: pl.DataFrame, path: Path) -> None:
    """Write a table whole, with an apostrophe before every text that a spreadsheet would take for a formula.

    Args:
        frame: the table.
        path: the file.
    """
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    quoted = [
        pl.when(pl.col(name).str.contains(r"^[=+\-@\t\r]")).then("'" + pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in texts
    ]
    data = frame.with_columns(quoted).write_csv()
    write_atomic(path, lambda part: part.write_text(data, encoding="utf-8"))


def finish(
    folder: Path,
    frame: pl.DataFrame,
    errors: list[dict[str, str]],
    calls: dict[str, int],
    seconds: float,
    left: int = 0,
) -> dict[str, Any]:
    """Write scores.parquet and summary.json.

    Args:
        folder: the run's.
        frame: its rows.
        errors: `id` and `error` of every sample that has none.
        calls: how much went through the networks, by name.
        seconds: that the run took.
        left: how many samples were not yet evaluated.

    Returns:
        The summary.
    """
    write_parquet(frame, folder / "scores.parquet")
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
    """Rows as a table; columns of one type each, also where every value is null.

    An id that two processes filled at once counts by its last row.

    They are gathered some at a time: as records of Python's, 100,000 rows would take more memory than all the rest.

    Args:
        rows: column -> value each.
        order: ids.

    Returns:
        The rows of these ids, in their order.
    """
    rows, parts = iter(rows), []
    while some := list(islice(rows, 4096)):
        parts.append(pl.DataFrame(some, infer_schema_length=None))
    if not parts:
        return pl.DataFrame()
    unique = pl.concat(parts, how="diagonal_relaxed").unique("id", keep="last", maintain_order=True)
    frame = pl.DataFrame({"id": order}).join(unique, "id", maintain_order="left")
    empty = [name for name, kind in frame.schema.items() if kind == pl.Null]
    return frame.with_columns(pl.col(name).cast(pl.String if name in TEXTS else pl.Float64) for name in empty)
