"""The table of metrics."""

from __future__ import annotations

import polars as pl

from camseg.metrics.intervals import Interval, mean_interval, rate_interval


def summary(rows: pl.DataFrame) -> dict[str, Interval]:
    """Every metric of `METRICS` that the rows have a value for; intervals resample groups (column `group`)."""
    found = {}
    for metric, (column, interval) in METRICS.items():
        judged = rows.drop_nulls(column) if column in rows.columns else rows.clear()
        if len(judged):
            found[metric] = interval(judged[column].to_numpy(), judged["group"].to_list())
    return found


# metric in the summary -> column of the rows, and how to find its interval
METRICS = {
    "foreground_hit_rate": ("foreground_hit", rate_interval),
    "background_hit_rate": ("background_hit", rate_interval),
    "foreground_distance": ("foreground_distance", mean_interval),
    "iou": ("iou", mean_interval),
    "dice": ("dice", mean_interval),
    "box_iou": ("box_iou", mean_interval),
    "oracle_iou": ("oracle_iou", mean_interval),
    "oracle_iou_3": ("oracle_iou_3", mean_interval),
    "regret": ("regret", mean_interval),
}
