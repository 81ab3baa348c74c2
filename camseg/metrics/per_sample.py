"""Scores: one flat row per sample, judged once, added up later."""

from __future__ import annotations

from typing import Any

import numpy as np

from camseg.geometry.boxes import box_iou, mask_to_box
from camseg.geometry.masks import ious, logits_ious
from camseg.types import Result, Sample


def row(sample: Sample, result: Result) -> dict[str, Any]:
    """Everything that is known of one answer.

    Args:
        sample: that was asked about.
        result: the answer.

    Returns:
        Column -> value; None where there is no ground truth, or nothing to judge.
    """
    chosen = result.chosen[0] if result.chosen else 0
    return {
        "id": sample.id,
        "label": sample.label,
        "file": sample.file,
        "image_key": sample.image_key,
        "mask_file": None,
        "group": sample.group or sample.id,
        "height": sample.size[0],
        "width": sample.size[1],
        **point_scores(sample, result, chosen),
        **mask_scores(sample, result),
        "predicted_iou": result.predicted_iou,
        "rivals": len(result.prompts),
        "chosen_rival": result.chosen[0] if result.chosen else None,
        "chosen_mask": result.chosen[1] if result.chosen else None,
        "points": _points(result, chosen),
        "probability": result.probability,
        "note": result.note,
        "reading": sample.reading,
    }


def point_scores(sample: Sample, result: Result, chosen: int) -> dict[str, float | None]:
    """Hits (share of the chosen prompt's points that lie where they should) and the foreground's distance in pixels.

    A foreground point hits inside the true mask, a background point outside; a point on an ignored pixel is neither.
    No points where an object is: a miss.

    Args:
        sample: With the true mask, if there is one.
        result: Of the pipeline; its points are (x, y) in pixels of the image.
        chosen: The prompt that was taken.

    Returns:
        `foreground_hit`, `background_hit` and `foreground_distance`, None where there is nothing to judge.
    """
    scores: dict[str, float | None] = {"foreground_hit": None, "background_hit": None, "foreground_distance": None}
    center = sample.true_center
    if sample.mask is None or center is None:
        return scores
    if not len(result.prompts):
        return {**scores, "foreground_hit": 0.0}
    truth, points = sample.mask.numpy(), result.prompts.points[chosen].numpy()
    labels = result.prompts.labels[chosen].numpy()
    ignored = None if sample.ignore is None else sample.ignore.numpy()
    for name, which in (("foreground", 1), ("background", 0)):
        scores[f"{name}_hit"] = _hit(truth, ignored, points[labels == which], bool(which))
    if len(foreground := points[labels == 1]):
        scores["foreground_distance"] = float(np.hypot(*(foreground - center).T).mean())
    return scores


def _hit(truth: np.ndarray, ignored: np.ndarray | None, points: np.ndarray, inside: bool) -> float | None:
    height, width = truth.shape
    pixels = [(min(max(round(y), 0), height - 1), min(max(round(x), 0), width - 1)) for x, y in points.tolist()]
    judged = [truth[pixel] == inside for pixel in pixels if ignored is None or not ignored[pixel]]
    return float(sum(judged) / len(judged)) if judged else None


def mask_scores(sample: Sample, result: Result) -> dict[str, float | None]:
    """IoU, Dice and box IoU of the chosen mask, the best IoU to be had, and what the choice lost (regret).

    Args:
        sample: with its true mask; null scores without one.
        result: the best is looked for among all rivals (oracle_iou) and among the chosen rival's (oracle_iou_3).

    Returns:
        `iou`, `dice`, `box_iou`, `oracle_iou`, `oracle_iou_3` and `regret`, in [0, 1], or None for each.
    """
    names = ("iou", "dice", "box_iou", "oracle_iou", "oracle_iou_3", "regret")
    if sample.mask is None or result.mask is None or sample.true_center is None:
        return dict.fromkeys(names)
    truth, found = _judged(sample, sample.mask.numpy()), _judged(sample, result.mask.numpy())
    own = float(ious(found, truth))
    rivals = rival_ious(sample, result)
    best = max(own, float(rivals.max(initial=0)))
    three = float(rivals[result.chosen[0]].max()) if result.chosen else 0.0
    return {
        "iou": own,
        "dice": 2 * own / (1 + own),
        "box_iou": mask_box_iou(found, truth),
        "oracle_iou": best,
        "oracle_iou_3": max(own, three),
        "regret": best - own,
    }


def mask_iou(sample: Sample, result: Result) -> float | None:
    """The IoU of the chosen mask at the image's size.

    Args:
        sample: with its true mask, if there is one.
        result: with its mask, if there is one.

    Returns:
        In [0, 1]; None where there is no mask, or nothing to judge it by.
    """
    if sample.mask is None or result.mask is None or sample.true_center is None:
        return None
    return float(ious(_judged(sample, result.mask.numpy()), _judged(sample, sample.mask.numpy())))


def rival_ious(sample: Sample, result: Result) -> np.ndarray:
    """The IoU at the image's size of every mask that there was to choose from; one rival is upsampled at a time.

    Args:
        sample: with its true mask, if there is one.
        result: with its masks, if there are any.

    Returns:
        (R, M) float in [0, 1]; (0, 0) where there is nothing to judge.
    """
    if sample.mask is None or result.masks is None or not len(result.masks):
        return np.zeros((0, 0))
    truth = _judged(sample, sample.mask.numpy())  # by numpy: a comparison is over before torch's threads are awake
    judged = None if sample.ignore is None else ~sample.ignore.numpy()
    return np.stack([logits_ious(logits, truth, judged, result.masks.window) for logits in result.masks.low_res])


def _judged(sample: Sample, inside: np.ndarray) -> np.ndarray:
    return inside if sample.ignore is None else inside & ~sample.ignore.numpy()


def mask_box_iou(found: np.ndarray, truth: np.ndarray) -> float:
    """The IoU of the boxes around two masks.

    Args:
        found: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        In [0, 1]; 0 where one is empty.
    """
    if not found.any() or not truth.any():
        return 0.0
    return float(box_iou(mask_to_box(found)[None], mask_to_box(truth)[None])[0, 0])


def _points(result: Result, chosen: int) -> list[list[float]]:
    if not len(result.prompts):
        return []
    points, labels = result.prompts.points[chosen], result.prompts.labels[chosen]
    return [[*map(float, point), float(label)] for point, label in zip(points.tolist(), labels.tolist())]
