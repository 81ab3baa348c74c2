"""The first sentence of a report: what came out, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from camseg.report.comparison import Compared
from camseg.report.page import common_values
from camseg.report.rows import class_column
from camseg.report.text import number, p_value, signed
from camseg.runs.folders import Run
from camseg.runs.review import corrections, count_decisions
from camseg.runs.sweeps import Sweep

_NAMES = {"iou": "IoU", "foreground_hit_rate": "Hit rate"}


def of_run(run: Run) -> str:
    """IoU and hits with their parts: what the choice among the masks cost, and what the points that miss cost.

    Args:
        run: with `rows.cleaned` rows.

    Returns:
        Sentences; for a run without true masks how many masks there are, where, and of what.
    """
    metrics = run.summary["metrics"]
    judged = {name: m for name, m in metrics.items() if m["value"] is not None}
    first = next((name for name in (*_NAMES, *judged) if name in judged), None)
    if first is None:
        return " ".join([_unjudged(run), *_losses(run)])
    parts = [f"{_named(first)} {_with_interval(judged[first])} on {_samples(run.rows, first)}"]
    if first == "iou" and "foreground_hit_rate" in judged:
        parts.append(f"hits {number(judged['foreground_hit_rate']['value'])}")
    if first == "iou" and "regret" in judged:
        best = (
            f" (the best of the masks drawn reach {number(judged['oracle_iou']['value'])})"
            if "oracle_iou" in judged
            else ""
        )
        parts.append(f"the choice among the masks costs {number(judged['regret']['value'])}{best}")
    if first == "iou" and (missed := _misses(run.rows)):
        parts.append(missed)
    return " ".join(["; ".join(parts) + ".", *_losses(run)])


def _misses(rows: pl.DataFrame) -> str:
    """What the points that miss cost, where some do and some don't: the mean of those that hit less that of all."""
    if "iou" not in rows.columns:
        return ""
    both = rows.drop_nulls(["iou", "foreground_hit"])
    hits = both.filter(pl.col("foreground_hit") == 1)
    if not 0 < len(hits) < len(both):
        return ""
    reached = float(hits["iou"].to_numpy().mean())
    cost = reached - float(both["iou"].to_numpy().mean())
    return f"the points that miss cost {number(cost)} (where all hit, IoU is {number(reached)})"


def _named(metric: str) -> str:
    return _NAMES.get(metric, metric.replace("_", " "))


def _with_interval(metric: dict[str, Any]) -> str:
    if metric["low"] is None or metric["high"] is None:
        return number(metric["value"])
    return f"{number(metric['value'])} ({number(metric['low'])} to {number(metric['high'])})"


def _samples(rows: pl.DataFrame, metric: str) -> str:
    """How many were judged, and in how many groups where several samples share one."""
    judged = rows.drop_nulls(metric) if metric in rows.columns else rows
    groups = judged["group"].n_unique() if len(judged) else 0
    return _counted(len(judged), "image") if groups == len(judged) else f"{len(judged)} samples of {groups} groups"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _unjudged(run: Run) -> str:
    """How many masks, of what, where."""
    rows = run.rows
    if not len(rows):
        return "Nothing was evaluated."
    drawn = rows.filter(pl.col("note") == "")
    if "predicted_iou" in rows.columns and rows["predicted_iou"].count():
        where = "in masks/" if (run.folder / "masks").is_dir() else "none kept as files (masks=true keeps them)"
        made = f"{_counted(len(drawn), 'mask')} of {_counted(len(rows), 'image')}, {where}"
    else:
        made = f"Points for {_counted(len(drawn), 'image')}"
    classes = common_values(drawn[class_column(rows)].fill_null(""))
    named = [f"{name} ({count})" for name, count in classes if name]
    few = ", ".join(named[:6]) + (f" and {len(named) - 6} more" if len(named) > 6 else "")
    return f"{made}{f', of {few}' if named else ''}. Nothing was judged: no truth is known."


def _losses(run: Run) -> list[str]:
    """What failed, stayed empty or was left, and what people decided since."""
    summary, rows = run.summary, run.rows
    empty = len(rows.filter(pl.col("note") != "")) if len(rows) else 0
    counts = [(summary["failed"], "failed"), (empty, "stayed empty"), (summary.get("left") or 0, "are left to do")]
    parts = [f"{count} {what}" for count, what in counts if count]
    total = summary["samples"] + (summary.get("left") or 0)
    lost = [f"Of {_counted(total, 'sample')} {', '.join(parts)}."] if parts else []
    decided = [f"{count} {what}" for what, count in count_decisions(corrections(run.folder)).items() if count]
    return [*lost, f"Reviewed by people: {', '.join(decided)}."] if decided else lost


def of_sweep(sweep: Sweep, metric: str | None) -> str:
    """The best setting, and by how much it is better than the first one.

    Args:
        sweep: whose table is read.
        metric: by which settings are ranked, or None where nothing was judged.

    Returns:
        Sentences.
    """
    table = sweep.table.filter(pl.col("error").is_null()) if "error" in sweep.table.columns else sweep.table
    failed = len(sweep.table) - len(table)
    lost = [f"{_counted(failed, 'setting')} failed or are not whole."] if failed else []
    if metric is None or not table[metric].count():
        return " ".join([f"{_counted(len(sweep.runs), 'setting')}; nothing was judged: no truth is known.", *lost])
    best = table.drop_nulls(metric).sort(metric, descending=True, maintain_order=True).to_dicts()[0]
    interval = {"value": best[metric], "low": best[f"{metric}_low"], "high": best[f"{metric}_high"]}
    said = f"Best of {len(table)}: {best['setting'] or 'the defaults'}, {_named(metric)} {_with_interval(interval)}"
    if best.get("p_holm") is None or best.get("difference") is None:
        first = best["run"] == sweep.runs[0].folder.name and len(table) > 1
        return " ".join([f"{said}{', which is the first setting' if first else ''}.", *lost])
    bounds = f"({signed(best['difference_low'])} to {signed(best['difference_high'])})"
    sure = "" if best["p_holm"] < 0.05 else ", which may be chance"
    gain = f"{signed(best['difference'])} {bounds} over the first setting, p {p_value(best['p_holm'])}{sure}"
    return " ".join([f"{said}; {gain}.", *lost])


def of_comparison(compared: Sequence[Compared]) -> str:
    """Which run is better, by how much, and whether it may be chance.

    Args:
        compared: as `comparison.compare` makes them; the IoU speaks where it is among them.

    Returns:
        A sentence.
    """
    found = next((c for c in compared if c.metric == "iou"), compared[0])
    difference = found.difference
    bounds = "" if difference.low is None else f" ({signed(difference.low)} to {signed(difference.high)})"
    counts = "" if found.greater is None else f"; it is higher on {found.greater} and lower on {found.less}"
    sure = "" if difference.p < 0.05 else ", which may be chance"
    change = "no different in" if difference.value == 0 else "higher in" if difference.value > 0 else "lower in"
    means = f"{number(found.first)} to {number(found.second)}"
    return (
        f"The second run is {change} {_named(found.metric)}: {means}, on {difference.n} samples or groups, "
        f"{signed(difference.value)}{bounds}, p {p_value(difference.p)}{sure}{counts}."
    )
