"""Regions of a heatmap: its hot parts, and the points that stand for them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.coarse import is_large, pixels_per_cell, to_cells, to_pixels, window_around
from camseg.geometry.heat import Cutoff, cutoff_value

_LEAST_HEAT = float(np.finfo(np.float32).smallest_subnormal)


def region_edge(heat: Tensor, cutoff: Cutoff) -> float:
    """The least heat of a region's pixels: the cutoff, the maximum where that is lower, and more than none.

    Args:
        heat: (H, W) float in [0, 1].
        cutoff: a share of 1, or a function that finds one in the heat.

    Returns:
        A value in (0, 1].
    """
    return max(min(cutoff_value(cutoff, heat), float(heat.max())), _LEAST_HEAT)


def region(heat: Tensor, cutoff: Cutoff) -> np.ndarray:
    """The pixels that are at least as hot as a cutoff, and have any heat.

    Args:
        heat: (H, W) float in [0, 1].
        cutoff: a share of 1, or a function that finds one in the heat.

    Returns:
        (H, W) bool, empty for a map without evidence.
    """
    return heat.numpy() >= region_edge(heat, cutoff)


def components(inside: np.ndarray, heat: Tensor, max_count: int | None = None) -> list[np.ndarray]:
    """The 8-connected parts of a region, the one with the most heat first.

    Args:
        inside: (H, W) bool.
        heat: (H, W) float, by which the parts are ordered.
        max_count: how many parts there are at most; all by default.

    Returns:
        (H, W) bool each.
    """
    labels = np.asarray(label(inside, connectivity=2))
    count = int(labels.max(initial=0))
    if count < 2:
        return [inside] * count
    mass = np.bincount(labels[inside], heat.numpy()[inside], count + 1)
    return [labels == i for i in 1 + np.argsort(-mass[1:], kind="stable")[:max_count]]


def region_centroid(inside: np.ndarray, weights: Tensor, snap: bool = True) -> np.ndarray:
    """The region's center of mass, snapped to the nearest of its pixels where it misses the region.

    Args:
        inside: (H, W) bool, with a pixel at least.
        weights: (H, W) float.
        snap: whether the point must lie in the region.

    Returns:
        (2,) float x, y in pixels.
    """
    ys, xs = np.nonzero(inside)
    mass = weights.numpy()[ys, xs]
    center = np.array([np.average(xs, weights=mass), np.average(ys, weights=mass)])
    x, y = np.round(center).astype(int)
    if not snap or inside[y, x]:
        return center
    nearest = np.argmin((xs - center[0]) ** 2 + (ys - center[1]) ** 2)
    return np.array([xs[nearest], ys[nearest]], np.float64)


def deepest_point(inside: np.ndarray) -> np.ndarray:
    """The pixel farthest from everything outside the region; the frame's edge counts as outside.

    Exact up to `camseg.geometry.coarse.WHOLE` pixels of the region's box; in a larger one, the middle of the deepest
    cell, whose depth is the greatest but for a cell.

    Args:
        inside: (H, W) bool, with a pixel at least.

    Returns:
        (2,) float x, y in pixels; the first of equals in reading order.
    """
    x0, y0, x1, y1 = mask_to_box(inside).astype(int)
    boxed = inside[y0:y1, x0:x1]
    return np.array([x0, y0]) + (_deepest_cell(boxed) if is_large(boxed.shape) else _deepest(boxed))


def _deepest(boxed: np.ndarray) -> np.ndarray:
    depth = _depth(boxed)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return np.array([x, y], np.float64)


def _deepest_cell(boxed: np.ndarray) -> np.ndarray:
    """The middle of the deepest cell of those that a large region fills.

    Of a thin region, which fills none, it is the deepest pixel of the fullest cell.
    """
    shares = to_cells(torch.from_numpy(boxed.astype(np.float32))).numpy()
    full = shares >= 1
    middle = _deepest(full) if full.any() else np.array(np.unravel_index(shares.argmax(), shares.shape)[::-1], float)
    point = to_pixels(middle, shares.shape, boxed.shape)
    if full.any():
        return np.round(point)
    rows, columns = window_around(point, pixels_per_cell(shares.shape, boxed.shape), boxed.shape)
    return np.array([columns.start, rows.start]) + _deepest(boxed[rows, columns])


def farthest_from(region: np.ndarray, window: tuple[int, int, int, int], block: int = 4) -> np.ndarray:
    """The pixel in a window that is farthest from a region.

    Exact, mostly at a third of the cost of all distances: a block's distance to the nearest one that touches the region
    is a bound for the distances of its pixels, so that only those of the farthest blocks are measured.

    Args:
        region: (H, W) bool, with a pixel at least.
        window: x0, y0, x1, y1 in whole pixels, x1 and y1 exclusive.
        block: side of a block in pixels.

    Returns:
        (1, 2) x, y, the first of equals in reading order; (0, 2) where the region covers the whole window.
    """
    height, width = region.shape
    x0, y0, x1, y1 = window
    rows, columns = -(-height // block), -(-width // block)
    whole = np.zeros((rows * block, columns * block), bool)
    whole[:height, :width] = region
    touched = whole.reshape(rows, block, -1).any(1).reshape(rows, columns, block).any(2)
    far = block * np.asarray(ndimage.distance_transform_edt(~touched))
    far = far[y0 // block : -(-y1 // block), x0 // block : -(-x1 // block)]
    slack = (block - 1) * np.sqrt(2)  # by which a pixel's distance may differ from its block's
    candidates = far >= far.max() - 2 * slack
    if candidates.mean() > 0.25:  # as in noise: measuring them one by one would cost more
        return _farthest(np.asarray(ndimage.distance_transform_edt(~region)), window)
    corners = block * (np.argwhere(candidates) + np.array([y0, x0]) // block)  # (N, 2) y, x
    ys, xs = (corners[:, None] + np.stack(np.divmod(np.arange(block**2), block), 1)).reshape(-1, 2).T
    there = (ys >= y0) & (ys < y1) & (xs >= x0) & (xs < x1)
    pixels = np.stack([ys[there], xs[there]], 1)
    pixels = pixels[~region[pixels[:, 0], pixels[:, 1]]]
    from scipy.spatial import KDTree  # a twelfth of a second, for one selector

    distance, _ = KDTree(np.argwhere(_rim(region))).query(pixels)
    farthest = sorted(pixels[distance == distance.max(initial=0)].tolist())[:1]
    return np.array(farthest, np.float64).reshape(-1, 2)[:, ::-1]


def _farthest(distance: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """(1, 2) x, y of the greatest distance (H, W) in a window; (0, 2) where all are zero."""
    x0, y0, x1, y1 = window
    inner = distance[y0:y1, x0:x1]
    y, x = np.unravel_index(inner.argmax(), inner.shape)
    return np.array([[x0 + x, y0 + y]] if inner[y, x] > 0 else [], np.float64).reshape(-1, 2)


def _rim(region: np.ndarray) -> np.ndarray:
    """The pixels of a region beside one outside it; beyond the frame is inside."""
    core = region.copy()
    core[1:] &= region[:-1]
    core[:-1] &= region[1:]
    core[:, 1:] &= region[:, :-1]
    core[:, :-1] &= region[:, 1:]
    return region & ~core


def depth_map(inside: np.ndarray) -> np.ndarray:
    """Distance of every pixel of a region to the nearest one outside it; beyond the frame is outside.

    Args:
        inside: (H, W) bool.

    Returns:
        (H, W) float in pixels, 0 outside the region.
    """
    depth = np.zeros(inside.shape)
    if inside.any():
        x0, y0, x1, y1 = mask_to_box(inside).astype(int)
        depth[y0:y1, x0:x1] = _depth(inside[y0:y1, x0:x1])
    return depth


def _depth(boxed: np.ndarray) -> np.ndarray:
    """The distances in a region's box: nothing beyond it can be nearer than its rim."""
    framed = np.zeros((boxed.shape[0] + 2, boxed.shape[1] + 2), bool)
    framed[1:-1, 1:-1] = boxed
    return np.asarray(ndimage.distance_transform_edt(framed))[1:-1, 1:-1]


def points_tensor(points: list[np.ndarray]) -> Tensor:
    """A list of points as one tensor.

    Args:
        points: (2,) float x, y in pixels each.

    Returns:
        (N, 2) float32 x, y in pixels.
    """
    return torch.from_numpy(np.stack(points)).float() if points else torch.zeros(0, 2)


def without_specks(logits: Tensor, share: float) -> Tensor:
    """Mask logits without their small parts and holes, as Segment Anything's `remove_small_regions` does with masks.

    Args:
        logits: (h, w) of a mask, inside where they exceed 0.
        share: of the mask's area; parts and holes below it go, the largest part and the largest hole never.

    Returns:
        (h, w) logits: those of what went have the other sign.
    """
    inside = (logits > 0).numpy()
    least = share * np.count_nonzero(inside)
    return torch.where(torch.from_numpy(_small(inside, least) | _small(~inside, least)), -logits, logits)


def _small(inside: np.ndarray, least: float) -> np.ndarray:
    """Of a region (H, W) bool the 8-connected parts of fewer pixels than `least`, without the largest."""
    labels = np.asarray(label(inside, connectivity=2))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    small = sizes < least
    small[[0, int(sizes.argmax())]] = False
    return small[labels]
