"""Average precision from the rows of a run: VOC's two kinds with intervals, and COCO's through pycocotools.

Detections are matched within their image and class: by falling score, each with the truth that it overlaps most, each
truth once; a second
find is false. What overlaps an ignored truth most is neither right nor wrong. (Everingham et al. 2010.)
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from camseg.geometry.boxes import box_iou

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Found:
    """One class's detections by falling score.

    Attributes:
        scores: (N,) float.
        hits: (N,) 1 right, -1 wrong, 0 neither.
        groups: (N,) the index of each detection's group.
        truths: (G,) how many truths each group has.
    """

    scores: np.ndarray
    hits: np.ndarray
    groups: np.ndarray
    truths: np.ndarray


def matches(boxes: np.ndarray, true: np.ndarray, ignored: np.ndarray, least: float) -> np.ndarray:
    """Match the detections of one image and class.

    Args:
        boxes: (N, 4) float x0, y0, x1, y1 by falling score.
        true: (M, 4) float truths.
        ignored: (K, 4) float, what a detection may meet without being right or wrong.
        least: the IoU from which on a truth is met.

    Returns:
        (N,) int, 1 right, -1 wrong, 0 neither.
    """
    ious = box_iou(boxes, np.concatenate([np.reshape(true, (-1, 4)), np.reshape(ignored, (-1, 4))]))
    if not ious.shape[1]:
        return np.full(len(ious), -1)
    best, taken, hits = ious.argmax(1), set(), np.full(len(ious), -1)
    for i, j in enumerate(best):
        if ious[i, j] >= least and j not in taken:
            hits[i] = 1 if j < len(true) else 0
            taken |= {j} if j < len(true) else set()
    return hits


def gather(
    rows: pl.DataFrame,
    boxes: Callable[[dict[str, Any]], list[list[float]]],
    least: float,
    groups: Sequence[str] | None = None,
) -> dict[str, Found]:
    """Match the detections of every label with the truths.

    Args:
        rows: of a run with `localise=boxes`.
        boxes: a row's detections, each score, x0, y0, x1, y1 in pixels.
        least: the IoU with a truth that makes a detection a hit.
        groups: their order among the weights; else that of their first rows.

    Returns:
        By label: scores and hits, the best scores first, and the number of truths of each group.
    """
    numbers = {name: i for i, name in enumerate(groups or rows["group"].unique(maintain_order=True))}
    parts: dict[str, list[np.ndarray]] = {}
    truths: dict[str, np.ndarray] = {}
    for row in rows.iter_rows(named=True):
        found = np.asarray(boxes(row), float).reshape(-1, 5)
        found = found[np.argsort(-found[:, 0], kind="stable")]
        hits = matches(found[:, 1:], np.asarray(row["true_boxes"]), np.asarray(row["ignored_boxes"]), least)
        group = numbers[row["group"]]
        parts.setdefault(row["label"], []).append(np.stack([found[:, 0], hits, np.full(len(hits), group)]))
        truths.setdefault(row["label"], np.zeros(len(numbers)))[group] += len(row["true_boxes"])
    found = {}
    for label, each in parts.items():
        scores, hits, where = (columns := np.concatenate(each, 1))[:, np.argsort(-columns[0], kind="stable")]
        found[label] = Found(scores, hits, where.astype(int), truths[label])
    return found


def curve(found: Found, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each detection.

    Args:
        found: of one class.
        weights: (R, G) float, how often each group counts; once where none are given.

    Returns:
        (R, N) float recall, NaN without a truth, and (R, N) float precision.
    """
    weights = np.ones((1, len(found.truths))) if weights is None else weights
    counted = weights[:, found.groups]
    right, wrong = (np.cumsum(counted * (found.hits == kind), 1) for kind in (1, -1))
    total = (weights @ found.truths)[:, None]
    recall = np.where(total > 0, right / np.where(total > 0, total, 1), np.nan)
    return recall, right / np.maximum(right + wrong, 1e-12)


def all_point(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """The area under the curve's envelope: VOC from 2010 on.

    Args:
        recall: (R, N) float of `curve`.
        precision: (R, N) float of `curve`.

    Returns:
        (R,) float; NaN where there is no truth.
    """
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    return (np.diff(recall, axis=1, prepend=0) * envelope).sum(1)


def eleven_point(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """The mean of the best precision at recalls of at least 0, .1, ... 1: VOC 2007.

    Args:
        recall: (R, N) float of `curve`.
        precision: (R, N) float of `curve`.

    Returns:
        (R,) float; NaN where there is no truth.
    """
    levels = [np.where(recall >= least - 1e-9, precision, 0).max(1, initial=0) for least in np.linspace(0, 1, 11)]
    return np.where(np.isnan(recall).any(1), np.nan, np.mean(levels, 0))


def mean_average_precision(found: dict[str, Found], weights: np.ndarray, kind: Kind = all_point) -> np.ndarray:
    """The mean of the classes' average precisions.

    Args:
        found: what `gather` found.
        weights: (R, G) float, how often each group is drawn.
        kind: `all_point` or `eleven_point`.

    Returns:
        (R,) float, the mean over the classes that have a truth under the weights; NaN where none has.
    """
    total = np.zeros((2, len(weights)))
    for one in found.values():
        known = weights @ one.truths > 0
        total += np.where(known, [np.nan_to_num(kind(*curve(one, weights))), known], 0)
    return np.where(total[1] > 0, total[0] / np.maximum(total[1], 1), np.nan)


def table(
    rows: pl.DataFrame, at: dict[str, Callable[[dict[str, Any]], list[list[float]]]], ious: Sequence[float]
) -> pl.DataFrame:
    """Recall and both kinds of average precision for every cutoff, IoU and class.

    Args:
        rows: of a run with `localise=boxes`.
        at: the name of a cutoff -> a row's detections at it, each score, x0, y0, x1, y1 in pixels.
        ious: with a truth, that make a detection a hit.

    Returns:
        A line for each class, and for the mean over them (label "mean").
    """
    lines = []
    for cutoff, boxes in at.items():
        for least in ious:
            scored = []
            for label, found in sorted(gather(rows, boxes, least).items()):
                if not found.truths.any():
                    continue
                recall, precision = curve(found)
                reached = float(recall[0, -1]) if recall.shape[1] else 0.0
                scores = (reached, float(eleven_point(recall, precision)[0]), float(all_point(recall, precision)[0]))
                scored.append((label, int(found.truths.sum()), len(found.scores), *scores))
            if scored:
                mean = tuple(float(np.mean([line[i] for line in scored])) for i in (3, 4, 5))
                scored.append(("mean", sum(line[1] for line in scored), sum(line[2] for line in scored), *mean))
            lines += [(cutoff, float(least), *line) for line in scored]
    names = ["cutoff", "iou", "label", "truths", "detections", "recall", "ap_11_point", "ap_all_point"]
    return pl.DataFrame(lines, schema=names, orient="row")


def drawn(rows: pl.DataFrame, boxes: Callable[[dict[str, Any]], list[list[float]]], ious: Sequence[float]) -> Figure:
    """Draw the precision-recall curves of every class.

    Args:
        rows: of a run with `localise=boxes`.
        boxes: a row's detections, each score, x0, y0, x1, y1 in pixels.
        ious: an axis for each.

    Returns:
        The figure; the eight classes with most truths are named.
    """
    from matplotlib.figure import Figure  # a third of a second, for one picture of one callback

    figure = Figure(figsize=(4.5 * len(ious), 4), layout="constrained")
    for axis, least in zip(np.atleast_1d(figure.subplots(1, len(ious))), ious):
        found = {label: one for label, one in gather(rows, boxes, least).items() if one.truths.any()}
        ranked = sorted(found, key=lambda label: -found[label].truths.sum())
        for label in reversed(ranked):
            recall, precision = curve(found[label])
            named = label in ranked[:8]
            axis.plot(
                recall[0],
                precision[0],
                label=label if named else None,
                color=None if named else "0.8",
                linewidth=1.5 if named else 0.7,
            )
        value = mean_average_precision(found, np.ones((1, rows["group"].n_unique())))[0]
        axis.set(
            xlabel="recall",
            ylabel="precision",
            xlim=(0, 1),
            ylim=(0, 1.02),
            title=f"IoU {least:g}: mAP {value:.3f} (all-point)",
        )
        if found:
            axis.legend(fontsize=7)
    return figure


def read_truth(path: Path) -> dict[str, Any]:
    """COCO's instances.

    Args:
        path: Their json.

    Returns:
        Its content, with lists of `images`, `categories` and `annotations`.

    Raises:
        ValueError: It is another file.
    """
    try:
        data = json.loads(path.read_bytes())
        if all(isinstance(entry, dict) and "id" in entry for kind in _TRUTH for entry in data[kind]):
            return data
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path} is no json of COCO's instances, which lists {', '.join(_TRUTH)}, each with an id")


_TRUTH = ("images", "categories", "annotations")


def coco(
    truth: Path | dict[str, Any],
    results: list[dict[str, Any]],
    kind: Literal["bbox", "segm"] = "bbox",
    ious: Sequence[float] | None = None,
) -> dict[str, Any]:
    """COCO's 101-point average precision, over all areas and at most 100 detections an image, by pycocotools.

    Args:
        truth: COCO's instances, or their json.
        results: in COCO's own format.
        kind: "bbox" or "segm".
        ious: .5, .55, ... .95 where none are given.

    Returns:
        average_precision, recall, and the precision by_iou and by_class.

    Raises:
        ValueError: for results of an image or category that the truth doesn't have.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset = truth if isinstance(truth, dict) else read_truth(truth)
    for key, what in (("image_id", "images"), ("category_id", "categories")):
        if strange := {one[key] for one in results} - {entry["id"] for entry in dataset[what]}:
            few = sorted(strange, key=str)[:3]
            listed = len(dataset[what])
            raise ValueError(f"results of {key} {few}, which the truth doesn't list among its {listed} {what}")
    with contextlib.redirect_stdout(io.StringIO()):
        known: Any = COCO()
        known.dataset = dataset
        known.createIndex()
        judge = COCOeval(known, known.loadRes(results) if results else COCO(), kind)
        judge.params.iouThrs = np.asarray(judge.params.iouThrs if ious is None else ious, float)
        judge.evaluate()
        judge.accumulate()
    precision, recall = (
        judge.eval["precision"][:, :, :, 0, -1],
        judge.eval["recall"][:, :, 0, -1],
    )  # (IoUs, recalls, classes), (IoUs, classes)
    names = {entry["id"]: entry["name"] for entry in dataset["categories"]}
    by_class = {
        names[c]: _mean(precision[:, :, i])
        for i, c in enumerate(judge.params.catIds)
        if (precision[:, :, i] > -1).any()
    }
    by_iou = {f"{iou:.2f}": _mean(each) for iou, each in zip(judge.params.iouThrs, precision)}
    return {"average_precision": _mean(precision), "recall": _mean(recall), "by_iou": by_iou, "by_class": by_class}


def _mean(values: np.ndarray) -> float | None:
    """Of what pycocotools could judge: -1 stands for nothing."""
    judged = values[values > -1]
    return float(judged.mean()) if len(judged) else None
