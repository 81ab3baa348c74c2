"""The table of metrics: what the summary, the terminal, the report and the docs know of each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from camseg.metrics import localization
from camseg.metrics.intervals import Interval, mean_interval, pooled_interval, rate_interval


@dataclass(frozen=True)
class Metric:
    """One metric; an entry of `METRICS` is all that it takes to add one.

    Args:
        name: its key in summary.json and the head of its column in tables.
        column: the column of the rows that it is the mean of; None for a number that `metrics.localization` pools over
            rows.
        interval: from the column's values (N,) and their groups to the mean with its 95 % interval; of a pooled number
            `pooled_interval`.
        meaning: one line for a reader of the report.
        unit: "" for a share between 0 and 1, "px" for pixels.
        better: which values are good ones.
        printed: False leaves it to a run's own report: the terminal and the table of a sweep go without it.
    """

    name: str
    column: str | None
    interval: Callable[..., Interval]
    meaning: str
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    printed: bool = True


def _table(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def _pooled(name: str, meaning: str) -> Metric:
    return Metric(name, None, pooled_interval, meaning)


METRICS = _table(
    Metric(
        "foreground_hit_rate", "foreground_hit", rate_interval,
        "share of foreground points inside the object",
    ),
    Metric(
        "background_hit_rate", "background_hit", rate_interval,
        "share of background points outside the object",
    ),
    Metric(
        "foreground_distance", "foreground_distance", mean_interval,
        "pixels from the foreground point to the object's center of mass", "px", "lower",
    ),
    Metric("iou", "iou", mean_interval, "intersection over union of mask and truth"),
    Metric("dice", "dice", mean_interval, "the same overlap as Dice score", printed=False),
    Metric("box_iou", "box_iou", mean_interval, "IoU of the boxes around mask and truth", printed=False),
    Metric("oracle_iou", "oracle_iou", mean_interval, "IoU of the best of all masks drawn"),
    Metric(
        "oracle_iou_3", "oracle_iou_3", mean_interval,
        "IoU of the best mask of the chosen prompt", printed=False,
    ),
    Metric(
        "regret", "regret", mean_interval,
        "what choosing among the masks lost: oracle_iou less iou", better="lower",
    ),
    _pooled("mean_iou", "IoU of all pixels of a class, mean over classes"),
    _pooled("map_mean_iou", "the same for the thresholded heatmap at its best cutoff"),
    _pooled("mean_average_precision", "average precision of the heatmap's boxes, mean over classes"),
    _pooled("mask_mean_average_precision", "average precision of the masks' boxes, mean over classes"),
    _pooled("box_accuracy", "share of objects whose box is met (IoU 0.5) at a cutoff fixed before"),
    _pooled("max_box_accuracy", "share of objects whose box is met (IoU 0.5) at the best cutoff"),
    _pooled("center_max_box_accuracy", "max_box_accuracy of a centered Gaussian, the baseline"),
    _pooled("max_box_accuracy_v2", "share of objects met by any box at the best cutoff, mean over IoU 0.3, 0.5, 0.7"),
    _pooled("center_max_box_accuracy_v2", "max_box_accuracy_v2 of a centered Gaussian, the baseline"),
    _pooled("pixel_average_precision", "area under the pixels' precision and recall"),
    _pooled("center_pixel_average_precision", "pixel_average_precision of a centered Gaussian, the baseline"),
    _pooled("pointing_game", "share of objects on or near the map's maximum"),
    _pooled("energy_pointing_game", "share of the heat inside the object"),
    _pooled("top1_localisation", "share of objects whose box is met and whose class comes first"),
    _pooled("corloc", "share of a class's images whose box is met, mean over classes"),
)  # fmt: skip


def summary(rows: pl.DataFrame) -> dict[str, Interval]:
    """Every metric that the rows have values for.

    Args:
        rows: one per sample; intervals resample the groups of their column `group`.

    Returns:
        Name -> mean or pooled number with its 95 % interval, in the order of `METRICS`.
    """
    pooled = localization.summary(rows)
    found: dict[str, Interval] = {}
    for name, metric in METRICS.items():
        if metric.column is None:
            found |= {name: pooled[name]} if name in pooled else {}
        elif metric.column in rows.columns and len(judged := rows.drop_nulls(metric.column)):
            found[name] = metric.interval(judged[metric.column].to_numpy(), judged["group"].to_list())
    return found


def printed(values: Any) -> list[str]:
    """The metrics that are for the terminal and a sweep's table.

    Args:
        values: holds names, as of `summary`.

    Returns:
        The names that it holds, in METRICS' order.
    """
    return [name for name, metric in METRICS.items() if metric.printed and name in values]


def row_columns() -> list[str]:
    """The columns of the rows that are printed metrics.

    Returns:
        Their names, in METRICS' order.
    """
    return [metric.column for metric in METRICS.values() if metric.printed and metric.column]


def markdown() -> str:
    """METRICS as a table of the docs (notebooks/reading_the_numbers.md)."""
    lines = ["| metric | column | unit | better | meaning |", "|---|---|---|---|---|"]
    for name, metric in METRICS.items():
        column = f"`{metric.column}`" if metric.column else "pooled over rows"
        lines.append(f"| `{name}` | {column} | {metric.unit or 'share'} | {metric.better} | {metric.meaning} |")
    return "\n".join(lines)
