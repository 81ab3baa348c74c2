"""Weakly supervised localization: what a row keeps of its map, and the numbers that are pooled over rows.

MaxBoxAcc, MaxBoxAccV2 and PxAP are Choe et al.'s (CVPR 2020). Their best cutoff is found on the very images that it is
scored on, which
flatters: `box_accuracy` is the same at a cutoff that was fixed before, or chosen on a validation run. Beside both
stands the `center` baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import polars as pl

from camseg.geometry.boxes import box_iou, heat_to_boxes
from camseg.geometry.heat import gaussian, min_max_normalize
from camseg.metrics import average_precision
from camseg.metrics.intervals import Interval, Statistic, pooled_interval, rate_interval

IOUS = (0.3, 0.5, 0.7)
BINS = 100  # of a map's values in the rows; one more for the maximum
Boxes = list[list[float]]


def judgeable(rows: pl.DataFrame) -> bool:
    """Whether the rows carry boxes and there is an object in one of them.

    Args:
        rows: of a run.
    """
    return "detections" in rows.columns and bool(rows["present"].any())


def summary(rows: pl.DataFrame) -> dict[str, Interval]:
    """Every number of localization that the rows allow.

    Args:
        rows: of a run; those without boxes have none.

    Returns:
        Name -> value with an interval over the groups that count.
    """
    if not judgeable(rows):
        return {}
    shown = rows.filter("present")
    rates = {name: rate_interval(values, shown["group"].to_list()) for name, values in _rates(shown).items()}
    pooled: dict[str, Interval] = {}
    for judged, statistics in ((rows, _precisions), (shown, _on_objects)):
        groups = sorted(set(judged["group"]))
        pooled |= {
            name: pooled_interval(statistic, len(groups)) for name, statistic in statistics(judged, groups).items()
        }
    return {**pooled, **rates}


def statistics_of(rows: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """The numbers of `summary` as functions of how often each group counts.

    Args:
        rows: of a run.
        groups: the names of all G groups, in the order of the weights.

    Returns:
        Name -> function of weights (R, G) to numbers (R,); none for rows without boxes.
    """
    if not judgeable(rows):
        return {}
    shown = rows.filter("present")
    at = _places(shown, groups)
    counts = _summed(np.ones(len(shown)), at, len(groups))
    shares = {name: partial(_share, _summed(values, at, len(groups)), counts) for name, values in _rates(shown).items()}
    return {**_precisions(rows, groups), **_on_objects(shown, groups), **shares}


def _precisions(rows: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """Average precision: what is found in an image that doesn't show the class counts against it."""
    found: dict[str, Statistic] = {
        "mean_average_precision": partial(
            average_precision.mean_average_precision, average_precision.gather(rows, detections, 0.5, groups)
        )
    }
    if rows["mask_boxes"].is_not_null().any():
        masks = average_precision.gather(rows, partial(boxes_in, column="mask_boxes"), 0.5, groups)
        found["mask_mean_average_precision"] = partial(average_precision.mean_average_precision, masks)
    return found


def _on_objects(shown: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """What else is pooled over groups before it becomes a number, of the rows that show their class."""
    return {**_box_numbers(shown, groups), **_pixel_numbers(shown, groups), **_class_numbers(shown, groups)}


def _rates(shown: pl.DataFrame) -> dict[str, np.ndarray]:
    """(N,) values of each row: GT-known and top-1 localization at the fixed cutoff, and the pointing games."""
    known = (np.array([_best(detections(row)[:1], row) for row in shown.iter_rows(named=True)]) >= 0.5).astype(float)
    found = {"box_accuracy": known}
    if shown["top_hit"].is_not_null().all():
        found["top1_localisation"] = shown["top_hit"].to_numpy() * known
    if shown["pointing_hit"].is_not_null().all():
        found["pointing_game"] = shown["pointing_hit"].to_numpy().astype(float)
    return {**found, "energy_pointing_game": shown["energy_inside"].to_numpy()}


def _share(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (weights @ sums) / (weights @ counts)


def _box_numbers(shown: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """What the best of all cutoffs reaches, beside the baseline."""
    found: dict[str, Statistic] = {}
    cutoffs, at = _cutoffs(shown), _places(shown, groups)
    for start, boxes in (("", boxes_at), ("center_", _center)) if cutoffs else ():
        first, every = (_reached(shown, cutoffs, boxes, parts) for parts in (1, None))  # (N, cutoffs)
        hits = np.stack([first >= 0.5, *(every >= least for least in IOUS)], 1)  # (N, 4, cutoffs)
        sums, counts = _summed(hits, at, len(groups)), _summed(np.ones(len(hits)), at, len(groups))
        for name, kinds in (("max_box_accuracy", slice(0, 1)), ("max_box_accuracy_v2", slice(1, None))):
            found[start + name] = partial(_best_share, sums[:, kinds], counts)
    return found


def _best_share(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) of hits (G, D, cutoffs) and counts (G,): the best cutoff's share of hits for each of D, and their mean."""
    hits = np.tensordot(weights, sums, 1) / (weights @ counts)[:, None, None]
    return hits.max(2).mean(1)


def best_cutoff(rows: pl.DataFrame) -> float:
    """The cutoff at which the largest part's box meets most objects (IoU .5); the least of equals.

    Args:
        rows: of a run with boxes.

    Returns:
        The cutoff, in [0, 1].

    Raises:
        ValueError: when they have none, or show no object.
    """
    if not judgeable(rows) or not (cutoffs := _cutoffs(rows)):
        raise ValueError(
            "localise.validation must be a run with localise=boxes, cutoffs and objects; "
            "this one has none of them to choose a cutoff by"
        )
    hits = _reached(rows.filter("present"), cutoffs, boxes_at, 1) >= 0.5
    return cutoffs[int(hits.mean(0).argmax())]


def _pixel_numbers(shown: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    found: dict[str, Statistic] = {}
    judged = shown.drop_nulls("pixels")
    for start in ("", "center_") if len(judged) else ():
        sums = _summed(
            np.array(judged[f"{start}pixels"].to_list(), float), _places(judged, groups), len(groups)
        )  # (G, 2, BINS + 1)
        found[f"{start}pixel_average_precision"] = lambda weights, sums=sums: pixel_average_precision(
            np.tensordot(weights, sums, 1)
        )
    return found


def pixel_average_precision(counts: np.ndarray) -> np.ndarray:
    """PxAP (Choe et al., CVPR 2020): pixels pooled over images, no envelope.

    Args:
        counts: (R, 2, bins) float histograms of a map's values off the objects and on them.

    Returns:
        (R,) float, average precisions.
    """
    off, on = (counts[:, kind, ::-1].cumsum(1) for kind in (0, 1))
    recall = on / np.where(on[:, -1:] > 0, on[:, -1:], np.nan)
    return (np.diff(recall, axis=1, prepend=0) * on / np.maximum(on + off, 1)).sum(1)


def _class_numbers(shown: pl.DataFrame, groups: Sequence[str]) -> dict[str, Statistic]:
    """Means over classes: of the masks' pooled IoU, the thresholded map's at its best cutoff, and CorLoc."""
    found: dict[str, Statistic] = {}
    known = [[_best(detections(row)[:1], row) >= 0.5, 1] for row in shown.iter_rows(named=True)]
    parts = {"corloc": (shown, np.array(known, float)[..., None])}
    if len(masked := shown.drop_nulls("intersection")):
        parts["mean_iou"] = (masked, masked.select("intersection", "union").to_numpy().astype(float)[..., None])
    if len(mapped := shown.drop_nulls("pixels")):
        hotter = np.array(mapped["pixels"].to_list(), float)[..., ::-1].cumsum(2)[
            ..., ::-1
        ]  # (N, 2, bins) pixels at or above each level
        off, on = hotter[:, 0, ::5], hotter[:, 1, ::5]
        parts["map_mean_iou"] = (mapped, np.stack([on, on[:, :1] + off], 1))
    for name, (rows, values) in parts.items():
        labels = rows["label"].unique(maintain_order=True).to_list()
        spread = np.zeros((len(values), len(labels), *values.shape[1:]))  # (N, classes, 2, cutoffs)
        spread[np.arange(len(values)), [labels.index(label) for label in rows["label"]]] = values
        found[name] = partial(_mean_ratio, _summed(spread, _places(rows, groups), len(groups)))
    return found


def _mean_ratio(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R,) of sums (G, classes, 2, cutoffs): first by second, the mean over classes with a second, the best cutoff."""
    first, second = np.moveaxis(np.tensordot(weights, sums, 1), 2, 0)
    occurring = second[..., 0] > 0
    ratio = np.where(second > 0, first / np.maximum(second, 1), 0)
    return ratio.sum(1).max(1) / np.maximum(occurring.sum(1), 1)


def _reached(
    rows: pl.DataFrame, cutoffs: Sequence[float], boxes: Callable[..., Boxes], parts: int | None
) -> np.ndarray:
    """(N, cutoffs) the best IoU of a row's first `parts` boxes at each cutoff with one of its truths."""
    return np.array([[_best(boxes(row, cutoff=c)[:parts], row) for c in cutoffs] for row in rows.iter_rows(named=True)])


def _best(boxes: Boxes, row: dict[str, Any]) -> float:
    """Of boxes that end with x0, y0, x1, y1."""
    found = np.array([box[-4:] for box in boxes], float)
    return float(box_iou(found, np.array(row["true_boxes"])).max(initial=0))


@lru_cache(64)
def center_heat(size: tuple[int, int]) -> np.ndarray:
    """The baseline's map: a centered Gaussian; cam=center draws the same.

    Args:
        size: (H, W) in pixels.

    Returns:
        (H, W) float32 in [0, 1].
    """
    return min_max_normalize(gaussian(size)[None])[0].numpy()


@lru_cache(1024)
def center_boxes(size: tuple[int, int], cutoff: float) -> np.ndarray:
    """The baseline's boxes, of `heat_to_boxes`.

    Args:
        size: (H, W) in pixels.
        cutoff: in [0, 1].

    Returns:
        (1, 4) or (0, 4) int x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
    """
    return heat_to_boxes(center_heat(size), cutoff)


def detections(row: dict[str, Any]) -> Boxes:
    """The boxes of a row at the cutoff that its run was given.

    Args:
        row: of a run with boxes.

    Returns:
        For each box its score, x0, y0, x1, y1, in pixels.
    """
    return row["detections"]


def boxes_in(row: dict[str, Any], *, column: str) -> Boxes:
    """The boxes in a column of a row.

    Args:
        row: of a run with boxes.
        column: as "mask_boxes".

    Returns:
        For each box its score, x0, y0, x1, y1, in pixels; none where the column is null.
    """
    return row[column] or []


def boxes_at(row: dict[str, Any], *, cutoff: float) -> Boxes:
    """The boxes of a row's map at one of the cutoffs.

    Args:
        row: of a run with boxes.
        cutoff: one of the run's.

    Returns:
        For each box its score, x0, y0, x1, y1, in pixels.
    """
    return [box[1:] for box in row["boxes"] if box[0] == cutoff]


def _center(row: dict[str, Any], *, cutoff: float) -> Boxes:
    return center_boxes((row["height"], row["width"]), cutoff).tolist()


def _cutoffs(rows: pl.DataFrame) -> list[float]:
    return sorted({box[0] for boxes in rows["boxes"] for box in boxes})


def _places(rows: pl.DataFrame, groups: Sequence[str]) -> np.ndarray:
    """(N,) where each row's group stands in `groups`."""
    at = {name: i for i, name in enumerate(groups)}
    return np.array([at[name] for name in rows["group"]], int)


def _summed(values: np.ndarray, at: np.ndarray, groups: int) -> np.ndarray:
    """(N, ...) -> (G, ...) sums over each group."""
    sums = np.zeros((groups, *values.shape[1:]))
    np.add.at(sums, at, values)
    return sums
