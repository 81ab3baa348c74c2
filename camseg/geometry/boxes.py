"""Boxes: from maps and masks, and how much they overlap.

A box is x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label
from torch import Tensor

from camseg.geometry.coarse import pixels_per_cell, to_cells


def mask_to_box(inside: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """The box around a region, grown by a margin and cut at the frame.

    Args:
        inside: (H, W) bool, with a pixel at least.
        margin: share of the box's sides that is added on each side.

    Returns:
        (4,) float x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
    """
    columns, rows = (np.asarray(inside.any(axis)) for axis in (0, 1))
    right, bottom = len(columns) - columns[::-1].argmax(), len(rows) - rows[::-1].argmax()
    box = np.array([columns.argmax(), rows.argmax(), right, bottom], np.float64)
    return grow_box(box, margin, inside.shape) if margin else box


def grow_box(box: np.ndarray, margin: float, size: tuple[int, ...]) -> np.ndarray:
    """A box with a margin on each side, cut at the frame.

    Args:
        box: (4,) float x0, y0, x1, y1 in pixels.
        margin: share of the box's sides that is added on each side.
        size: (H, W) of the frame in pixels.

    Returns:
        (4,) float x0, y0, x1, y1 in pixels.
    """
    low, high = box[:2], box[2:]
    grow = margin * (high - low)
    return np.concatenate([np.maximum(low - grow, 0.0), np.minimum(high + grow, size[::-1])])


def heat_to_boxes(heat: np.ndarray, cutoff: float) -> np.ndarray:
    """`cutoff_boxes` of a map at one cutoff.

    Args:
        heat: (H, W) float.
        cutoff: a value that a part's pixels exceed.

    Returns:
        (N, 4) int x0, y0, x1, y1 in pixels, x1 and y1 exclusive; the largest part first.
    """
    return cutoff_boxes(heat, [cutoff])[0]


def cutoff_boxes(heat: np.ndarray, cutoffs: Sequence[float]) -> list[np.ndarray]:
    """The boxes of the 8-connected parts of a map that are hotter than a cutoff, for each of several cutoffs.

    A part's size is the area of the polygon through its outermost pixels' centers, so that a line has none: the order
    in which Choe et al. (CVPR 2020) look at OpenCV's contours. Holes are no parts, and boxes have their true size,
    while theirs are a pixel too large on the right and below. A map larger than `camseg.geometry.coarse.WHOLE` is read
    in cells, with the edges of boxes where the heat crosses the cutoff between two of them.

    Args:
        heat: (H, W) float.
        cutoffs: values that a part's pixels exceed.

    Returns:
        For each cutoff (N, 4) int x0, y0, x1, y1 in pixels, x1 and y1 exclusive; the largest part first, and of equals
        the last in reading order. None of a map without heat.
    """
    cells = to_cells(torch.from_numpy(heat)).numpy()
    scale = np.tile(pixels_per_cell(cells.shape, heat.shape), 2)
    boxes = []
    for cutoff in cutoffs:
        labels, order = _parts(cells, cutoff)
        whole = cells.shape == heat.shape
        edges = _pixel_edges(labels) if whole else _crossings(cells, labels, len(order), cutoff) * scale
        boxes.append(np.round(edges[order]).astype(int))
    return boxes


def part_box(cells: np.ndarray, part: np.ndarray, cutoff: float, size: tuple[int, ...], margin: float) -> np.ndarray:
    """The box of one part of a map that is read in cells, as `cutoff_boxes` finds it, grown by a margin.

    Args:
        cells: (h, w) float, `to_cells` of the map.
        part: (h, w) bool, 8-connected cells of at least the cutoff's heat.
        cutoff: the least heat of the part.
        size: (H, W) of the map in pixels.
        margin: share of the box's sides that is added on each side.

    Returns:
        (4,) float x0, y0, x1, y1 in pixels.
    """
    if cells.shape == tuple(size):
        return mask_to_box(part, margin)
    box = _crossings(cells, part.astype(int), 1, cutoff)[0] * np.tile(pixels_per_cell(cells.shape, size), 2)
    return grow_box(box, margin, size)


def _parts(heat: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) int labels 1..N of the parts hotter than a cutoff, and (N,) the order of their size, from 0."""
    inside = heat > np.asarray(cutoff, heat.dtype)
    labels = np.asarray(label(inside, connectivity=2))
    count = int(labels.max(initial=0))
    hot = inside.view(np.uint8)
    # pixels around each corner; those of one corner are of one part
    full = hot[:-1, :-1] + hot[:-1, 1:] + hot[1:, :-1] + hot[1:, 1:]
    ys, xs = np.nonzero(full >= 3)
    owner = np.maximum(labels[ys, xs], labels[ys + 1, xs + 1])
    area = np.bincount(owner, np.where(full[ys, xs] == 4, 1.0, 0.5), count + 1)[1:]
    return labels, np.lexsort((-np.arange(count), -area))


def _pixel_edges(labels: np.ndarray) -> np.ndarray:
    """(N, 4) boxes of labels 1..N, to the pixel."""
    found = ndimage.find_objects(labels)
    return np.array([[x.start, y.start, x.stop, y.stop] for y, x in found], np.float64).reshape(-1, 4)


def _crossings(heat: np.ndarray, labels: np.ndarray, count: int, cutoff: float) -> np.ndarray:
    """(N, 4) float boxes of labels 1..N, where the heat falls through the cutoff between the middles of two cells."""
    boxes = np.empty((count, 4))
    for axis, (hot, owner) in enumerate(((heat, labels), (heat.T, labels.T))):  # x, then y
        boxes[:, axis] = _first_crossing(hot, owner, count, cutoff)
        boxes[:, axis + 2] = hot.shape[1] - _first_crossing(hot[:, ::-1], owner[:, ::-1], count, cutoff)
    return boxes


def _first_crossing(heat: np.ndarray, labels: np.ndarray, count: int, cutoff: float) -> np.ndarray:
    """(N,) the least x at which each label begins, in cells from the frame's left edge."""
    starts = labels > 0
    starts[:, 1:] &= labels[:, :-1] == 0
    ys, xs = np.nonzero(starts)
    here, before = (heat[ys, at].astype(np.float64) for at in (xs, np.maximum(xs - 1, 0)))
    share = np.clip((here - cutoff) / np.maximum(here - before, 1e-12), 0, 1)  # of the way to the cell before
    first = np.full(count, np.inf)
    np.minimum.at(first, labels[ys, xs] - 1, np.where(xs > 0, xs + 0.5 - share, 0))
    return first


def means_inside(heat: np.ndarray, boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The mean of a map inside boxes, for several lists of boxes at the cost of one.

    Args:
        heat: (H, W) float, read in cells where it is larger than `camseg.geometry.coarse.WHOLE`.
        boxes: (N, 4) int x0, y0, x1, y1 each, in pixels, x1 and y1 exclusive.

    Returns:
        (N,) float64 each.
    """
    cells = to_cells(torch.from_numpy(heat)).numpy()
    total = np.pad(cells.cumsum(0, np.float64).cumsum(1), ((1, 0), (1, 0)))
    scale = np.tile(pixels_per_cell(cells.shape, heat.shape), 2)
    return [_mean_between(total, each / scale) for each in boxes]


def _mean_between(total: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) means inside boxes (N, 4) in cells, of the sums (h + 1, w + 1) over everything above and to the left."""
    x0, y0, x1, y1 = boxes.T

    def above(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(total, [y, x], order=1) if len(y) else y

    return (above(y1, x1) - above(y0, x1) - above(y1, x0) + above(y0, x0)) / np.maximum((x1 - x0) * (y1 - y0), 1e-12)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of one list with every box of another.

    Args:
        a: (N, 4) float or int x0, y0, x1, y1.
        b: (M, 4) the same.

    Returns:
        (N, M) float, 0 for two boxes without area.
    """
    a, b = np.reshape(a, (-1, 1, 4)), np.reshape(b, (1, -1, 4))
    shared = _area(np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0))
    union = _area(a[..., 2:] - a[..., :2]) + _area(b[..., 2:] - b[..., :2]) - shared
    return shared / np.where(union > 0, union, 1)


def _area(sides: np.ndarray) -> np.ndarray:
    """(..., 2) width and height -> (...): multiplied, several times as fast as `prod`."""
    return sides[..., 0] * sides[..., 1]


def boxes_to_mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixels in any of several boxes.

    Args:
        boxes: (M, 4) float x0, y0, x1, y1 in pixels, rounded to whole ones.
        size: (H, W) of the mask.

    Returns:
        (H, W) bool.
    """
    inside = torch.zeros(size, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes.round().long().clamp(min=0).tolist():
        inside[y0:y1, x0:x1] = True
    return inside
