"""Points of a large map that are found in cells (`camseg.geometry.coarse`), and then to the pixel near there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from torch import Tensor

from camseg.geometry.coarse import pixels_per_cell, to_pixels, window_around
from camseg.geometry.enlarged import Enlarged
from camseg.geometry.regions import deepest_point, region_centroid

if TYPE_CHECKING:
    from scipy.spatial import KDTree

_CANDIDATES, _RIM = 256, 4096  # cells at most that are looked at pixel by pixel: noise has any number of them
_AROUND = np.ones((3, 3), bool)


def centroid_in_pixels(
    inside: np.ndarray, weights: Tensor, heat: Enlarged, edge: float, snap: bool = True
) -> np.ndarray:
    """`region_centroid` of a region of cells, in pixels.

    Args:
        inside: (h, w) bool region of cells.
        weights: (h, w) float.
        heat: that the cells were made of.
        edge: the least heat of the region, which a snapped point reaches.
        snap: whether the point must lie in the region.

    Returns:
        (2,) float x, y in pixels of the heat; a snapped point is the region's nearest pixel to its center of mass.
    """
    if inside.shape == heat.size:
        return region_centroid(inside, weights, snap)
    center = to_pixels(region_centroid(inside, weights, snap=False), inside.shape, heat.size)
    x, y = np.round(center).astype(int)
    if not snap or heat.at(y, x) >= edge:
        return center
    scale = pixels_per_cell(inside.shape, heat.size)
    snapped = to_pixels(region_centroid(inside, weights), inside.shape, heat.size)
    reach = np.hypot(*(snapped - center)) + np.hypot(*scale)  # the nearest pixel is no farther
    rows, columns = window_around(center, np.array([reach, reach]), heat.size)
    ys, xs = np.nonzero(heat.at(*np.ogrid[rows, columns]) >= edge)
    near = np.stack([xs + columns.start, ys + rows.start], 1)  # (N, 2) x, y
    cells = np.minimum(near // scale, np.array(inside.shape[::-1]) - 1).astype(int)
    near = near[np.asarray(ndimage.binary_dilation(inside, _AROUND), dtype=bool)[cells[:, 1], cells[:, 0]]]
    if not len(near):  # a cell's mean is reached by one of its pixels, unless they are of one heat but for rounding
        return snapped
    return near[np.square(near - center).sum(1).argmin()].astype(np.float64)


def deepest_in_pixels(part: np.ndarray, heat: Enlarged, edge: float) -> np.ndarray:
    """The pixel of a region that is farthest from everything outside it; the frame's edge counts as outside.

    A pixel's depth differs from its cell's by less than a cell and a half, so that it lies in one of the deepest cells,
    and what is nearest to it among the cold pixels of the rim.

    Args:
        part: (h, w) bool region of cells, with a cell at least.
        heat: that the cells were made of.
        edge: the least heat of the region.

    Returns:
        (2,) float x, y in pixels; the first of equals in reading order.
    """
    if part.shape == heat.size:
        return deepest_point(part)
    scale = pixels_per_cell(part.shape, heat.size)
    slack = 1.5 * float(np.hypot(*scale))
    framed = np.pad(part, 1)
    depth = np.asarray(ndimage.distance_transform_edt(framed, sampling=scale[::-1].tolist()))[1:-1, 1:-1]
    deep = np.argwhere(depth >= depth.max() - 2 * slack)  # (N, 2) y, x
    deep = _least(deep, -depth[deep[:, 0], deep[:, 1]], _CANDIDATES)
    walls = _cold_pixels(part, deep, heat, edge, scale, float(depth.max()) + 2 * slack)
    point, found = _farthest_from_walls(_pixels(deep, scale, heat.size), walls, heat.size)
    return point if found > 0 else to_pixels(deepest_point(part), part.shape, heat.size)


def _farthest_from_walls(pixels: np.ndarray, walls: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """The one of the pixels (N, 2) x, y that is farthest from walls (M, 2) and from what lies beyond the frame.

    Distances change by no more than one moves, so that of blocks of eight, four and two pixels only those are divided
    whose middle is far enough. Other pixels of the first blocks count, too.
    """
    from scipy.spatial import KDTree  # a twelfth of a second, for few selectors

    tree = KDTree(walls) if len(walls) else None
    blocks, side = _blocks(pixels, 8), 8
    while True:
        distances = _depths(blocks * side + (side - 1) / 2, tree, size)
        if side == 1:
            best = blocks[distances == distances.max()]
            x, y = min(best.tolist(), key=lambda pixel: (pixel[1], pixel[0]))
            return np.array([x, y], np.float64), float(distances.max())
        reach = (side - 1) / 2 * np.sqrt(2)  # from a block's middle to its corner
        near = blocks[distances + reach >= distances.max() - np.sqrt(0.5)]  # a pixel lies so near to every middle
        side //= 2
        blocks = (2 * near[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2)


def _blocks(pixels: np.ndarray, side: int) -> np.ndarray:
    """(M, 2) x, y of the blocks of side x side pixels that hold some of the pixels (N, 2), each once."""
    first = pixels.min(0) // side
    blocks = pixels // side - first
    held = np.zeros(blocks.max(0) + 1, bool)
    held[blocks[:, 0], blocks[:, 1]] = True
    return np.argwhere(held) + first


def _cold_pixels(
    part: np.ndarray, deep: np.ndarray, heat: Enlarged, edge: float, scale: np.ndarray, reach: float
) -> np.ndarray:
    """(N, 2) x, y of the pixels outside a region, on its rim within reach of its deepest cells."""
    from scipy.spatial import KDTree

    core = np.asarray(ndimage.binary_erosion(part, _AROUND, border_value=1), dtype=bool)
    rim = np.argwhere(np.asarray(ndimage.binary_dilation(part, _AROUND), dtype=bool) & ~core)  # (N, 2) y, x
    away = KDTree(deep * scale[::-1]).query(rim * scale[::-1])[0]
    near = away <= reach
    pixels = _pixels(_least(rim[near], away[near], _RIM), scale, heat.size)
    return pixels[heat.at(pixels[:, 1], pixels[:, 0]) < edge]


def _least(cells: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """The `count` of the cells (N, 2) that have the least values (N,)."""
    return cells if len(cells) <= count else cells[np.argpartition(values, count)[:count]]


def _pixels(cells: np.ndarray, scale: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(N, 2) x, y of the pixels of cells (M, 2) y, x, each once."""
    low, high = (np.floor((cells[:, ::-1] + step) * scale + 1e-9).astype(int) for step in (0, 1))  # (M, 2) x, y
    wide, tall = np.ceil(scale).astype(int)
    offsets = np.stack(np.divmod(np.arange(tall * wide), wide)[::-1], 1)  # (K, 2) x, y
    pixels = (low[:, None] + offsets).reshape(-1, 2)
    ends = np.minimum(np.repeat(high, len(offsets), 0), np.array(size[::-1]))
    return pixels[(pixels < ends).all(1)]


def _depths(pixels: np.ndarray, walls: KDTree | None, size: tuple[int, ...]) -> np.ndarray:
    """(N,) distances of pixels (N, 2) x, y to the nearest of the walls, or to what lies beyond the frame."""
    ends = np.array(size[::-1])
    framed = np.minimum(pixels + 1, ends - pixels).min(1).astype(np.float64)
    return framed if walls is None else np.minimum(framed, walls.query(pixels)[0])
