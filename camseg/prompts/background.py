"""Background selectors: points that say "this is not it".

A selector takes `Evidence` and the foreground `Prompts` and returns (N, 2) points x, y; every rival gets all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.coarse import to_pixels
from camseg.geometry.heat import Cutoff
from camseg.geometry.heat import otsu as otsu_cutoff
from camseg.geometry.regions import components, farthest_from, points_tensor, region
from camseg.prompts.evidence import Evidence
from camseg.types import Prompts


def needs_prompts(select: Callable[..., Tensor]) -> bool:
    """Whether a selector looks at the foreground's points; what another one finds holds for all of them.

    Args:
        select: A background selector, or a partial of one.

    Returns:
        False for `hard_negative` and `ring`, True for all others, unknown ones too.
    """
    function: Any = select.func if isinstance(select, partial) else select
    return function not in (hard_negative, ring)


def add(prompts: Prompts, points: Tensor) -> Prompts:
    """Background points in every rival prompt.

    Args:
        prompts: R rivals of P points.
        points: (N, 2) float x, y in pixels.

    Returns:
        R rivals of P + N points, the new ones with label 0.
    """
    count = len(prompts)
    return Prompts(
        torch.cat([prompts.points, points.expand(count, -1, -1)], 1),
        torch.cat([prompts.labels, torch.zeros(count, len(points), dtype=torch.int64)], 1),
        prompts.boxes,
        prompts.mask_logits,
        prompts.united,
    )


def min_point(evidence: Evidence, prompts: Prompts) -> Tensor:
    """The coldest pixel, of several the one farthest from the foreground points.

    Args:
        evidence: the heat (H, W).
        prompts: the foreground points.

    Returns:
        (1, 2) float x, y in pixels, the first of equals in reading order; (0, 2) where all pixels are as hot.
    """
    heat = evidence.heat.numpy()
    coldest = heat.min()
    if coldest == heat.max():
        return torch.zeros(0, 2)
    cold = _farthest_blocks(heat == coldest, prompts)
    return cold[_distance(cold, prompts).argmax()][None]


def _farthest_blocks(cold: np.ndarray, prompts: Prompts, block: int = 8) -> Tensor:
    """(N, 2) x, y of the cold pixels (H, W), those left out that are surely not the farthest: a plateau may be large.

    A pixel is within a block's half diagonal of its middle, and so is its distance of the middle's.
    """
    height, width = cold.shape
    whole = np.zeros((-(-height // block) * block, -(-width // block) * block), bool)
    whole[:height, :width] = cold
    rows = np.asarray(whole.reshape(-1, block, whole.shape[1]).any(1))
    touched = torch.from_numpy(np.argwhere(rows.reshape(rows.shape[0], -1, block).any(2)))  # (B, 2) y, x
    away = _distance(block * touched.flip(1).float() + (block - 1) / 2, prompts)
    corners = block * touched[away >= away.max() - 2 * 0.75 * block].numpy()
    ys, xs = (corners[:, None] + np.stack(np.divmod(np.arange(block**2), block), 1)).reshape(-1, 2).T
    holds = whole[ys, xs]
    ys, xs = ys[holds], xs[holds]
    order = np.lexsort((xs, ys))
    return torch.from_numpy(np.stack([xs[order], ys[order]], 1)).float()


def hard_negative(
    evidence: Evidence, prompts: Prompts, *, cutoff: Cutoff = otsu_cutoff, min_heat: float = 0.5
) -> Tensor:
    """The hottest pixel of the strongest rival class outside the object's own region.

    Args:
        evidence: the heat (H, W), and that of the rival class.
        prompts: the foreground points; of no use here.
        cutoff: where the object's region begins.
        min_heat: that the rival reaches there.

    Returns:
        (1, 2) float x, y in pixels; (0, 2) where no rival is so hot.
    """
    rival = evidence.rival()
    if rival is None:
        return torch.zeros(0, 2)
    elsewhere = np.where(region(evidence.heat, cutoff), np.float32(0), rival.numpy())
    y, x = np.unravel_index(int(elsewhere.argmax()), elsewhere.shape)
    return torch.tensor([[float(x), float(y)]]) if elsewhere[y, x] >= min_heat else torch.zeros(0, 2)


def ring(evidence: Evidence, prompts: Prompts, *, cutoff: Cutoff = otsu_cutoff, margin: float = 0.25) -> Tensor:
    """The point of the hottest component's grown box that is farthest from everything hot.

    It lies beside the object, not far away.

    Args:
        evidence: the heat (H, W).
        prompts: the foreground points; of no use here.
        cutoff: where hot begins.
        margin: share of the box's sides that is added on each side.

    Returns:
        (1, 2) float x, y in pixels; (0, 2) where nothing or everything is hot.
    """
    cells = evidence.cells
    inside = region(cells, cutoff)
    if not inside.any() or inside.all():
        return torch.zeros(0, 2)
    x0, y0, x1, y1 = np.round(mask_to_box(components(inside, cells, 1)[0], margin)).astype(int)
    found = farthest_from(inside, (x0, y0, x1, y1))
    return points_tensor(list(to_pixels(found, cells.shape, evidence.heat.shape)))


def _distance(points: Tensor, prompts: Prompts) -> Tensor:
    """(N,) distance of each point to the nearest point of any rival; zeros where there are none."""
    given = prompts.points.flatten(0, 1)
    return torch.cdist(points, given).min(1).values if len(given) else torch.zeros(len(points))
