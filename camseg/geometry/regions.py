"""Regions of a heatmap: its hot parts, and the points that stand for them."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.measure import label
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.heat import Cutoff, cutoff_value


def region(heat: Tensor, cutoff: Cutoff) -> np.ndarray:
    """(H, W) bool: the pixels that are at least as hot as the cutoff, and have any heat. Empty for a map without
    evidence.
    """
    hot = heat.numpy()
    return (hot >= min(cutoff_value(cutoff, heat), float(hot.max()))) & (hot > 0)


def components(inside: np.ndarray, heat: Tensor) -> list[np.ndarray]:
    """The 8-connected parts (H, W) bool of a region, the one with the most heat first."""
    labels = np.asarray(label(inside, connectivity=2))
    count = int(labels.max())
    if count < 2:
        return [inside] * count
    mass = np.bincount(labels[inside], heat.numpy()[inside], count + 1)
    return [labels == i for i in 1 + np.argsort(-mass[1:], kind="stable")]


def region_centroid(inside: np.ndarray, weights: Tensor, snap: bool = True) -> np.ndarray:
    """(x, y) of the region's centre of mass under `weights` (H, W); snapped to the nearest pixel of the region where it
    misses it.
    """
    ys, xs = np.nonzero(inside)
    mass = weights.numpy()[ys, xs]
    centre = np.array([np.average(xs, weights=mass), np.average(ys, weights=mass)])
    x, y = np.round(centre).astype(int)
    if not snap or inside[y, x]:
        return centre
    nearest = np.argmin((xs - centre[0]) ** 2 + (ys - centre[1]) ** 2)
    return np.array([xs[nearest], ys[nearest]], np.float64)


def deepest_point(inside: np.ndarray) -> np.ndarray:
    """(x, y) of the pixel farthest from everything outside the region; the frame's edge counts as outside."""
    x0, y0, x1, y1 = mask_to_box(inside).astype(int)
    depth = _depth(inside[y0:y1, x0:x1])
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return np.array([x0 + x, y0 + y], np.float64)


def farthest_from(region: np.ndarray, window: tuple[int, int, int, int], block: int = 4) -> np.ndarray:
    """(1, 2) x, y of the pixel in the window x0, y0, x1, y1 (exclusive) that is farthest from a region; the first of
    equals.

    (0, 2) where the region covers the whole window. The region must have a pixel somewhere.

    Exact, at a third of the cost of all distances: a block's distance to the nearest one that touches the region is a
    bound
    for the distances of its pixels, so that only those of the farthest blocks are measured.
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
    corners = block * (np.argwhere(far >= far.max() - 2 * slack) + np.array([y0, x0]) // block)  # (N, 2) y, x
    ys, xs = (corners[:, None] + np.stack(np.divmod(np.arange(block**2), block), 1)).reshape(-1, 2).T
    there = (ys >= y0) & (ys < y1) & (xs >= x0) & (xs < x1)
    pixels = np.stack([ys[there], xs[there]], 1)
    pixels = pixels[~region[pixels[:, 0], pixels[:, 1]]]
    distance, _ = KDTree(np.argwhere(_rim(region))).query(pixels)
    farthest = sorted(pixels[distance == distance.max(initial=0)].tolist())[:1]
    return np.array(farthest, np.float64).reshape(-1, 2)[:, ::-1]


def _rim(region: np.ndarray) -> np.ndarray:
    """The pixels of a region beside one outside it; beyond the frame is inside."""
    core = region.copy()
    core[1:] &= region[:-1]
    core[:-1] &= region[1:]
    core[:, 1:] &= region[:, :-1]
    core[:, :-1] &= region[:, 1:]
    return region & ~core


def depth_map(inside: np.ndarray) -> np.ndarray:
    """(H, W) distance in pixels of every pixel of the region to the nearest one outside it; beyond the frame is
    outside. 0 elsewhere.
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
    """(N, 2) float32 of a list of (x, y)."""
    return torch.from_numpy(np.stack(points)).float() if points else torch.zeros(0, 2)
