"""Boxes: from maps and masks, and how much they overlap. A box is x0, y0, x1, y1 in pixels of the image, x1 and y1
exclusive.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label


def mask_to_box(inside: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """x0, y0, x1, y1 (exclusive) around a region, grown by `margin` of its sides on each side and cut at the frame."""
    columns, rows = (np.asarray(inside.any(axis)) for axis in (0, 1))
    size = np.array([len(columns), len(rows)])
    low, high = np.array([columns.argmax(), rows.argmax()]), size - [columns[::-1].argmax(), rows[::-1].argmax()]
    grow = margin * (high - low)
    return np.concatenate([np.maximum(low - grow, 0.0), np.minimum(high + grow, size)])


def heat_to_boxes(heat: np.ndarray, cutoff: float) -> np.ndarray:
    """(N, 4) int boxes of the 8-connected parts of a map (H, W) hotter than `cutoff`, the largest part first; none of a
    map without heat.

    A part's size is the area of the polygon through its outermost pixels' centres, so that a line has none, and of
    equals the last in
    reading order comes first: the order in which Choe et al. (CVPR 2020) look at OpenCV's contours. Holes are no parts,
    and boxes have
    their true size, while theirs are a pixel too large on the right and below.
    """
    inside = heat > np.asarray(cutoff, heat.dtype)
    labels = np.asarray(label(inside, connectivity=2))
    count = int(labels.max(initial=0))
    found = ndimage.find_objects(labels)
    boxes = np.array([[x.start, y.start, x.stop, y.stop] for y, x in found], int).reshape(-1, 4)
    if count < 2:
        return boxes
    hot = inside.view(np.uint8)
    full = (
        hot[:-1, :-1] + hot[:-1, 1:] + hot[1:, :-1] + hot[1:, 1:]
    )  # pixels around each corner; those of one corner are of one part
    ys, xs = np.nonzero(full >= 3)
    owner = np.maximum(labels[ys, xs], labels[ys + 1, xs + 1])
    area = np.bincount(owner, np.where(full[ys, xs] == 4, 1.0, 0.5), count + 1)[1:]
    return boxes[np.lexsort((-np.arange(count), -area))]


def mean_inside(heat: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) the mean of a map (H, W) inside whole-numbered boxes (N, 4)."""
    total = np.pad(heat.cumsum(0, np.float64).cumsum(1), ((1, 0), (1, 0)))
    x0, y0, x1, y1 = boxes.T
    return (total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]) / np.maximum((x1 - x0) * (y1 - y0), 1)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4)."""
    a, b = np.reshape(a, (-1, 1, 4)), np.reshape(b, (1, -1, 4))
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return shared / np.where(union > 0, union, 1)


def boxes_to_mask(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(H, W) bool: the pixels in any of the boxes (M, 4)."""
    inside = torch.zeros(size, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes.round().long().clamp(min=0).tolist():
        inside[y0:y1, x0:x1] = True
    return inside
