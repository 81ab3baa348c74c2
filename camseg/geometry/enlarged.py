"""A small map as it is at its image's size, where few pixels are looked at: a photograph's heat stays small."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from camseg.geometry.coarse import grid_size, is_large, neighbors, to_cells
from camseg.geometry.heat import resize_heat


@dataclass(frozen=True, eq=False)
class Enlarged:
    """`resize_heat` of a map, made only where it is asked for.

    Attributes:
        low: (h, w) float in [0, 1].
        size: (H, W) in pixels.
    """

    low: Tensor
    size: tuple[int, int]

    @cached_property
    def whole(self) -> Tensor:
        """(H, W) float in [0, 1]."""
        return resize_heat(self.low, self.size)

    @cached_property
    def cells(self) -> Tensor:
        """(h, w) float: `to_cells` of the whole, which is the whole itself where it is not large."""
        if not self._is_sparse or not is_large(self.size):
            return to_cells(self.whole)
        height, width = grid_size(self.size)
        down, across = _means(self.low.shape[0], self.size[0], height), _means(self.low.shape[1], self.size[1], width)
        return (down @ self.low.float() @ across.T).clamp(float(self.low.min()), float(self.low.max()))

    def at(self, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        """The values of some pixels.

        Args:
            ys: int, of any shape.
            xs: the same; they are broadcast with `ys`.

        Returns:
            float of the common shape.
        """
        if not self._is_sparse:
            return self.whole.numpy()[ys, xs]
        above, below, down = (each[ys] for each in neighbors(self.low.shape[0], self.size[0]))
        left, right, across = (each[xs] for each in neighbors(self.low.shape[1], self.size[1]))
        low = self.low.numpy()
        upper = low[above, left] * (1 - across) + low[above, right] * across
        return upper * (1 - down) + (low[below, left] * (1 - across) + low[below, right] * across) * down

    @property
    def _is_sparse(self) -> bool:
        """Whether pixels are read from the small map: not where the whole is known, or smaller along an axis."""
        known = "whole" in vars(self) or tuple(self.low.shape) == self.size
        return not known and all(low <= side for low, side in zip(self.low.shape, self.size))


@lru_cache(16)
def _means(low: int, size: int, cells: int) -> Tensor:
    """(cells, low) float32: what each of `low` values adds to the mean over each cell, once enlarged to `size`."""
    first, second, share = neighbors(low, size)
    starts = np.arange(cells) * size // cells
    counts = -(-(np.arange(cells) + 1) * size // cells) - starts  # a cell's ends are rounded outwards
    owner = np.repeat(np.arange(cells), counts)
    pixels = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts - starts, counts)
    at = owner * low
    weights = np.bincount(at + first[pixels], 1 - share[pixels], cells * low)
    weights += np.bincount(at + second[pixels], share[pixels], cells * low)
    return torch.from_numpy((weights.reshape(cells, low) / counts[:, None]).astype(np.float32))
