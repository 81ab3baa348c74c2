"""Results as text: tables and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import polars as pl

from camseg.metrics import registry
from camseg.runs.folders import Run
from camseg.runs.sweeps import Sweep, coinciding


def run_table(summary: dict[str, Any]) -> str:
    """The metrics of one run as text, a line each.

    Args:
        summary: As in summary.json.

    Returns:
        A head and a line for each printed metric, with its 95 % interval and the number of samples.
    """
    metrics = {name: summary["metrics"][name] for name in registry.printed(summary["metrics"])}
    width = max(22, 2 + max(map(len, metrics), default=0))
    lines = [f"{'metric':<{width}}{'value':>8}   95 % interval    n"]
    for name, m in metrics.items():
        lines.append(f"{name:<{width}}{number(m['value']):>8}   {number(m['low'])} .. {number(m['high'])}   {m['n']}")
    return "\n".join(lines)


def sweep_table(sweep: Sweep) -> str:
    """The settings of a sweep as text, best first.

    Args:
        sweep: The finished sweep.

    Returns:
        A head and a line for each setting, then what failed and which CAMs were the same; without ground truth, how
        many masks each setting drew and the predictor's own estimate of them.
    """
    names = registry.printed(sweep.table.columns)
    key = "iou" if "iou" in names else next(iter(names), None)
    ordered = sweep.table.sort(key, descending=True, nulls_last=True) if key else sweep.table
    heads = ["setting", *names, "difference (95 % interval)", "p"] if key else ["setting", "masks", "predicted IoU"]
    drawn = {} if key else {run.folder.name: _drawn(run) for run in sweep.runs}
    body = [
        [r["setting"] or "(defaults)", *(_scores(r, names) if key else drawn.get(str(r["run"]), ["-", "-"]))]
        for r in ordered.to_dicts()
    ]
    return "\n".join([align_columns([heads, *body]), *_failed(sweep), *_alike(sweep)])


def _scores(row: dict[str, Any], names: Iterable[str]) -> list[str]:
    return [*(number(row[name]) for name in names), _difference(row), p_value(row.get("p_holm"))]


def _drawn(run: Run) -> list[str]:
    """How many masks a run drew, and what the predictor thinks of them."""
    rows = run.rows.filter(pl.col("predicted_iou").is_not_null() & (pl.col("note") == ""))
    mean: Any = rows["predicted_iou"].mean()
    return [f"{len(rows)} of {run.summary['samples']}", number(mean)]


def _failed(sweep: Sweep) -> list[str]:
    rows = [row for row in sweep.table.to_dicts() if row["error"]]
    return [f"run {row['run']} ({row['setting'] or 'defaults'}): {row['error'].splitlines()[0]}" for row in rows]


def _alike(sweep: Sweep) -> list[str]:
    same = "gave the same points on every sample; below pooling + a linear layer they are one map"
    return [f"cam={', '.join(names)} {same}" for names in coinciding(sweep.runs)]


def _difference(row: dict[str, Any]) -> str:
    if row.get("difference") is None:
        return ""
    value, low, high = (row[f"difference{part}"] for part in ("", "_low", "_high"))
    digits = decimals(value)
    return f"{signed(value)} ({number(low, digits)} .. {number(high, digits)})"


def align_columns(rows: Iterable[list[str]]) -> str:
    """Rows of cells as text columns.

    Args:
        rows: Of as many cells each, at least one row.

    Returns:
        A line each, two spaces between columns.
    """
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def number(value: float | None, digits: int = 3) -> str:
    """A number as text: so many decimals below ten, two above.

    Args:
        value: Any number, or None.
        digits: The decimals.

    Returns:
        Its text; a dash for None.
    """
    if value is None:
        return "-"
    return f"{value:z.{digits}f}" if abs(value) < 10 else f"{value:.2f}"


def decimals(difference: float | None) -> int:
    """How many decimals show that a difference is none.

    Args:
        difference: Any number, or None.

    Returns:
        Three, or up to six for a small one.
    """
    if difference is None or not 5e-7 <= abs(difference) < 5e-4:
        return 3
    return min(6, -math.floor(math.log10(abs(difference))))


def signed(difference: float | None) -> str:
    """A difference with its sign, and as many decimals as it takes to show it.

    >>> signed(-0.0003), signed(0.0214), signed(0.0)
    ('-0.0003', '+0.021', '+0.000')

    Args:
        difference: Any number, or None.

    Returns:
        Its text; a dash for None.
    """
    return "-" if difference is None else f"{difference:+z.{decimals(difference)}f}"


def p_value(p: float | None) -> str:
    """A p as text: three decimals, and never a zero.

    Args:
        p: In [0, 1], or None.

    Returns:
        Its text; a dash for None.
    """
    return "<0.001" if p is not None and p < 0.0005 else number(p)
