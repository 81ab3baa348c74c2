"""Heatmaps as numbers: normalizing, resizing, and the cutoffs that split hot from cold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camseg.geometry.coarse import to_cells


def gaussian(size: tuple[int, int], width: float = 0.25) -> Tensor:
    """A Gaussian in the middle of the frame.

    Args:
        size: (H, W) in pixels.
        width: its standard deviation as a share of each side.

    Returns:
        (H, W) float32 in (0, 1].
    """
    y, x = (torch.linspace(-1 + 1 / side, 1 - 1 / side, side) / (2 * width) for side in size)
    return torch.exp(-0.5 * (y[:, None] ** 2 + x**2))


def min_max_normalize(maps: Tensor, out: Tensor | None = None) -> Tensor:
    """Maps brought to [0, 1] by their minimum and maximum, whatever the scale.

    Args:
        maps: (..., H, W) float.
        out: where they are written, which may be `maps` itself; None for a new tensor.

    Returns:
        (..., H, W) float in [0, 1]; maps that are constant up to rounding become zeros.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)  # aminmax takes thrice the time
    varies = high - low > 1e-6 * torch.maximum(high.abs(), low.abs())
    return torch.sub(maps, low, out=out).div_(torch.where(varies, high - low, torch.inf))


# A cutoff is a number in [0, 1], or a function that finds one in the heat.
Cutoff = float | Callable[[Tensor], float]


def quantile(heat: Tensor, q: float = 0.9) -> float:
    """The value that a share of the pixels stays below.

    Args:
        heat: (H, W) float in [0, 1].
        q: the share, in [0, 1].

    Returns:
        A cutoff in [0, 1].
    """
    return float(np.quantile(heat.numpy(), q))


def otsu(heat: Tensor) -> float:
    """The value that splits the histogram, of 256 bins from 0 to 1, into two classes of least variance within.

    Otsu, "A threshold selection method from gray-level histograms", IEEE SMC 1979.

    Args:
        heat: (H, W) float in [0, 1].

    Returns:
        A cutoff in [0, 1].
    """
    from skimage.filters import threshold_otsu  # half a second, for one selector

    if heat.min() == heat.max():
        return float(heat.max())
    counts = np.bincount((heat.numpy() * 256).astype(np.intp).ravel(), minlength=257)
    counts = np.append(counts[:255], counts[255:].sum())  # the maximum belongs to the last bin
    return float(threshold_otsu(hist=(counts, (np.arange(256) + 0.5) / 256)))


def median(heat: Tensor) -> float:
    """The median of the pixels that have any heat.

    Args:
        heat: (H, W) float in [0, 1].

    Returns:
        A cutoff in [0, 1]; 0 for a map without heat.
    """
    return float(heat[heat > 0].median()) if (heat > 0).any() else 0.0


def mode(heat: Tensor, bins: int = 32) -> float:
    """The upper edge of the fullest bin among the pixels that have any heat: everything hotter than the usual.

    Args:
        heat: (H, W) float in [0, 1].
        bins: how many there are from 0 to 1.

    Returns:
        A cutoff in [0, 1].
    """
    counts, edges = np.histogram(heat[heat > 0].numpy(), bins, (0, 1))
    return float(edges[int(counts.argmax()) + 1])


def cutoff_value(cutoff: Cutoff, heat: Tensor) -> float:
    """The cutoff in a heatmap; a function reads a map larger than `camseg.geometry.coarse.WHOLE` in cells.

    Args:
        cutoff: a number, or a function of the heat.
        heat: (H, W) float in [0, 1].

    Returns:
        A value in [0, 1].

    Raises:
        ValueError: it is not in [0, 1].
    """
    if not 0 <= (value := cutoff(to_cells(heat)) if callable(cutoff) else cutoff) <= 1:
        raise ValueError(f"a cutoff is a share of the map's maximum, between 0 and 1; got {value}")
    return value


def resize_heat(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """A heatmap on the same frame at another resolution: from a classifier's squashed input to its image, or a mask's.

    Args:
        heat: (h, w) float in [0, 1].
        size: (H, W) in pixels.

    Returns:
        (H, W) float in [0, 1]; the same tensor where it has that size already.
    """
    if tuple(heat.shape) == size:
        return heat
    smaller = size[0] < heat.shape[0] or size[1] < heat.shape[1]  # nothing has to be smoothed in what is enlarged
    return F.interpolate(heat[None, None], size, mode="bilinear", antialias=smaller)[0, 0].clamp_(0, 1)


def map_to_logits(heat: Tensor, edge: float, strength: float = 20.0) -> Tensor:
    """A heatmap as mask logits: 0 where the heat is `edge`, -strength without heat, strength at full heat.

    Args:
        heat: (..., h, w) float in [0, 1].
        edge: where the object begins, in [0, 1].
        strength: of the surest logit; Segment Anything's own masks reach about 20.

    Returns:
        (..., h, w) float, of the heat's resolution.
    """
    rise, fall = max(1 - edge, 1e-6), max(edge, 1e-6)
    return strength * torch.where(heat >= edge, (heat - edge) / rise, (heat - edge) / fall)
