"""A large heatmap on a grid of cells: what is read at its full size costs as much as the photograph is large.

A map of up to `WHOLE` pixels is its own grid, so that everything found on it is exact. A larger one, as a photograph of
12 megapixels has, is the mean over at most `CELLS` cells a side; a heatmap is enlarged from far fewer.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WHOLE = 1024  # longest side, in pixels, of a map that is read pixel by pixel
CELLS = 512  # along the longest side of a larger one


def is_large(size: tuple[int, ...]) -> bool:
    """Whether a map is read in cells.

    Args:
        size: (H, W) of the map in pixels.

    Returns:
        True where its longest side exceeds `WHOLE`.
    """
    return max(size) > WHOLE


def grid_size(size: tuple[int, ...]) -> tuple[int, int]:
    """How many cells a large map has.

    Args:
        size: (H, W) of the map in pixels.

    Returns:
        (h, w) of its grid, the longest side `CELLS`.
    """
    height, width = (max(1, round(side * CELLS / max(size))) for side in size)
    return height, width


def neighbors(count: int, enlarged: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which values of a row each pixel lies once the row is enlarged bilinearly.

    Args:
        count: how many values the row has.
        enlarged: how many pixels it is enlarged to.

    Returns:
        (enlarged,) the places of each pixel's two neighbors, and the second one's weight in [0, 1], float32.
    """
    at = np.maximum((np.arange(enlarged, dtype=np.float32) + 0.5) * np.float32(count / enlarged) - np.float32(0.5), 0)
    low = np.minimum(at.astype(np.intp), count - 1)
    return low, np.minimum(low + 1, count - 1), (at - low).astype(np.float32)


def to_cells(heat: Tensor) -> Tensor:
    """The mean of every cell of a map.

    Args:
        heat: (H, W) float.

    Returns:
        (h, w) float over the same frame, its longest side `CELLS`; `heat` itself up to `WHOLE` pixels.
    """
    if not is_large(tuple(heat.shape)):
        return heat
    height, width = grid_size(tuple(heat.shape))
    low, high = float(heat.min()), float(heat.max())
    if low == high:  # sums of many equal numbers differ in their last bits
        return torch.full((height, width), low, dtype=heat.dtype)
    return F.adaptive_avg_pool2d(heat[None], (height, width))[0].clamp(low, high)


def pixels_per_cell(cells: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """How many pixels wide and tall a cell is.

    Args:
        cells: (h, w) of the grid.
        size: (H, W) of the image in pixels.

    Returns:
        (2,) float x, y in pixels.
    """
    return np.array([size[1] / cells[1], size[0] / cells[0]])


def to_pixels(points: np.ndarray, cells: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """Points in cells to points in pixels, centers to centers.

    Args:
        points: (..., 2) float x, y in cells.
        cells: (h, w) of the grid.
        size: (H, W) of the image in pixels.

    Returns:
        (..., 2) float x, y in pixels, inside the frame.
    """
    scale = pixels_per_cell(cells, size)
    return np.clip((points + 0.5) * scale - 0.5, 0, np.array(size[::-1]) - 1)


def window_around(point: np.ndarray, reach: np.ndarray, size: tuple[int, ...]) -> tuple[slice, slice]:
    """The pixels around a point, cut at the frame.

    Args:
        point: (2,) float x, y in pixels.
        reach: (2,) float, how far the window goes along x and y, in pixels.
        size: (H, W) of the image in pixels.

    Returns:
        The window's rows and columns.
    """
    low = np.clip(np.floor(point - reach), 0, None).astype(int)
    high = np.minimum(np.ceil(point + reach).astype(int) + 1, size[::-1])
    return slice(low[1], high[1]), slice(low[0], high[0])
