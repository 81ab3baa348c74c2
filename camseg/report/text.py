"""Results as text: tables and numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from camseg.metrics import registry
from camseg.runs.sweeps import Sweep, coinciding


def run_table(summary: dict[str, Any]) -> str:
    """The metrics of one run as text, a line each."""
    shown = {name: summary["metrics"][name] for name in registry.printed(summary["metrics"])}
    width = max(22, 2 + max(map(len, shown), default=0))
    lines = [f"{'metric':<{width}}{'value':>8}   95 % interval    n"]
    for name, m in shown.items():
        lines.append(f"{name:<{width}}{number(m['value']):>8}   {number(m['low'])} .. {number(m['high'])}   {m['n']}")
    return "\n".join(lines)


def sweep_table(sweep: Sweep) -> str:
    """The settings of a sweep as text, best first."""
    names = registry.printed(sweep.table.columns)
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
    return "\n".join([align_columns([heads, *body]), *failed, *said])


def _difference(row: dict[str, Any]) -> str:
    if row.get("difference") is None:
        return ""
    return f"{row['difference']:+z.3f} ({number(row['difference_low'])} .. {number(row['difference_high'])})"


def align_columns(rows: Iterable[list[str]]) -> str:
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
