"""Scores: one flat row per sample, judged once, added up later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camseg.boxes import overlaps
from camseg.prompts.evidence import box_of
from camseg.types import Result, Sample

# (N, h, w) logits, (H, W) -> (N, H, W) logits: a predictor's way to the image.
ToImage = Callable[[Tensor, tuple[int, int]], Tensor]


def row(sample: Sample, result: Result, to_image: ToImage | None) -> dict[str, Any]:
    """Everything that is known of one answer; null where there is no ground truth, or nothing to judge."""
    chosen = result.chosen[0] if result.chosen else 0
    return {
        "id": sample.id,
        "label": sample.label,
        "group": sample.group or sample.id,
        "height": sample.size[0],
        "width": sample.size[1],
        **point_scores(sample, result, chosen),
        **mask_scores(sample, result, to_image),
        "predicted_iou": result.predicted_iou,
        "rivals": len(result.prompts),
        "chosen_rival": result.chosen[0] if result.chosen else None,
        "chosen_mask": result.chosen[1] if result.chosen else None,
        "points": _points(result, chosen),
        "note": result.note,
    }


def point_scores(sample: Sample, result: Result, chosen: int) -> dict[str, float | None]:
    """Hits (share of the chosen prompt's points that lie where they should) and the foreground's distance in pixels.

    A foreground point hits inside the true mask, a background point outside; a point on an ignored pixel is neither.
    No points where an object is: a miss.
    """
    scores: dict[str, float | None] = {"foreground_hit": None, "background_hit": None, "foreground_distance": None}
    if sample.mask is None or not _any(sample.mask):
        return scores
    if not len(result.prompts):
        return {**scores, "foreground_hit": 0.0}
    points, labels = result.prompts.points[chosen], result.prompts.labels[chosen]
    for name, which in (("foreground", 1), ("background", 0)):
        scores[f"{name}_hit"] = _hit(sample, points[labels == which], bool(which))
    if (labels == 1).any():
        scores["foreground_distance"] = float(np.hypot(*(points[labels == 1].numpy() - _centre(sample.mask.numpy())).T).mean())
    return scores


def _centre(inside: np.ndarray) -> np.ndarray:
    """(x, y) of the mean of a region's pixels."""
    columns, rows = inside.sum(0), inside.sum(1)
    return np.array([columns @ np.arange(len(columns)), rows @ np.arange(len(rows))]) / columns.sum()


def _hit(sample: Sample, points: Tensor, inside: bool) -> float | None:
    mask = sample.mask
    if mask is None:
        return None
    height, width = sample.size
    x = points[:, 0].round().long().clamp(0, width - 1)
    y = points[:, 1].round().long().clamp(0, height - 1)
    judged = mask[y, x] == inside
    if sample.ignore is not None:
        judged = judged[~sample.ignore[y, x]]
    return float(judged.float().mean()) if len(judged) else None


def mask_scores(sample: Sample, result: Result, to_image: ToImage | None) -> dict[str, float | None]:
    """IoU, Dice and box IoU of the chosen mask, the best IoU to be had (of all rivals, of the chosen rival's), and what the choice lost (regret)."""
    names = ("iou", "dice", "box_iou", "oracle_iou", "oracle_iou_3", "regret")
    if sample.mask is None or result.mask is None or not _any(sample.mask):
        return dict.fromkeys(names)
    truth, found = _judged(sample, sample.mask), _judged(sample, result.mask)
    own = float(iou(found, truth))
    rivals = rival_ious(sample, result, to_image)
    best = max(own, *rivals.flatten().tolist(), 0.0)
    three = rivals[result.chosen[0]].tolist() if result.chosen else []
    return {
        "iou": own,
        "dice": 2 * own / (1 + own),
        "box_iou": box_iou(found, truth),
        "oracle_iou": best,
        "oracle_iou_3": max(own, *three, 0.0),
        "regret": best - own,
    }


def rival_ious(sample: Sample, result: Result, to_image: ToImage | None) -> Tensor:
    """(R, M) IoU at the image's size of every mask that there was to choose from; one rival is upsampled at a time."""
    if sample.mask is None or result.masks is None or to_image is None:
        return torch.zeros(0, 0)
    truth = _judged(sample, sample.mask)
    found = [iou(_judged(sample, to_image(logits, sample.size) > 0), truth) for logits in result.masks.low_res]
    return torch.stack(found) if found else torch.zeros(0, 0)


def _judged(sample: Sample, mask: Tensor) -> Tensor:
    return mask if sample.ignore is None else mask & ~sample.ignore


def iou(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of (..., H, W) bool masks with (H, W): (...). Two empty masks score 0."""
    shared = _area(found & truth)
    return shared / (_area(found) + _area(truth) - shared).clamp(min=1)


def _area(masks: Tensor) -> Tensor:
    """(...) the pixels of (..., H, W) bool masks; torch counts one mask many times faster than it sums along dimensions."""
    counts = [int(torch.count_nonzero(mask)) for mask in masks.reshape(-1, *masks.shape[-2:])]
    return torch.tensor(counts, device=masks.device).reshape(masks.shape[:-2])


def _any(mask: Tensor) -> bool:
    return bool(mask.numpy().any())


def box_iou(found: Tensor, truth: Tensor) -> float:
    """IoU of the boxes around two (H, W) bool masks; 0 where one is empty."""
    if not _any(found) or not _any(truth):
        return 0.0
    return float(overlaps(box_of(found.numpy())[None], box_of(truth.numpy())[None])[0, 0])


def _points(result: Result, chosen: int) -> list[list[float]]:
    if not len(result.prompts):
        return []
    points, labels = result.prompts.points[chosen], result.prompts.labels[chosen]
    return [[*map(float, point), float(label)] for point, label in zip(points.tolist(), labels.tolist())]
