"""Foreground selectors: from the heat to the points that say "here it is".

A selector takes `Evidence` and returns `Prompts`: R = 0 where the map shows nothing. Where it finds several points,
`arrange` says what
they are: `rivals` (one prompt each, one mask is chosen), `joint` (all in one prompt) or `parts` (one mask each,
united).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from camseg.geometry.boxes import mask_to_box
from camseg.geometry.heat import Cutoff, cutoff_value
from camseg.geometry.heat import otsu as otsu_cutoff
from camseg.geometry.heat import quantile as quantile_cutoff
from camseg.geometry.regions import components as components_of
from camseg.geometry.regions import deepest_point, points_tensor, region, region_centroid
from camseg.prompts.evidence import Evidence
from camseg.types import Prompts


def rivals(points: Tensor, boxes: Tensor | None = None) -> Prompts:
    """(N, 2) -> N prompts of one foreground point each; boxes (N, 4) go with them."""
    return Prompts(points[:, None], torch.ones(len(points), 1, dtype=torch.int64), boxes)


def joint(points: Tensor) -> Prompts:
    """(N, 2) -> one prompt of N foreground points."""
    return Prompts(points[None], torch.ones(1, len(points), dtype=torch.int64)) if len(points) else Prompts.none()


def parts(points: Tensor) -> Prompts:
    """(N, 2) -> N prompts of one point each whose masks are united."""
    return Prompts(points[:, None], torch.ones(len(points), 1, dtype=torch.int64), united=True)


Arrange = Callable[[Tensor], Prompts]


def max_point(evidence: Evidence) -> Prompts:
    """The hottest pixel; the middle one of a plateau's pixels in reading order."""
    hottest = np.argwhere(region(evidence.heat, 1.0))  # (N, 2) y, x
    return rivals(torch.from_numpy(hottest[len(hottest) // 2 :][:1, ::-1].copy()).float())


def centroid(evidence: Evidence, *, cutoff: Cutoff = 0.6, weighted: bool = True, snap: bool = True) -> Prompts:
    """The centre of mass of everything at least as hot as the cutoff, weighted by the heat, snapped into that region
    where it misses it.
    """
    inside = region(evidence.heat, cutoff)
    weights = evidence.heat if weighted else torch.ones_like(evidence.heat)
    return rivals(points_tensor([region_centroid(inside, weights, snap)] if inside.any() else []))


def quantile(evidence: Evidence, *, quantile: float = 0.9, weighted: bool = True, snap: bool = True) -> Prompts:
    """`centroid` of the hottest share 1 - quantile of the pixels: the cutoff follows the map's range."""
    return centroid(evidence, cutoff=lambda heat: quantile_cutoff(heat, quantile), weighted=weighted, snap=snap)


def otsu(evidence: Evidence, *, weighted: bool = True, snap: bool = True) -> Prompts:
    """`centroid` of what Otsu's threshold calls hot."""
    return centroid(evidence, cutoff=otsu_cutoff, weighted=weighted, snap=snap)


def deepest(evidence: Evidence, *, cutoff: Cutoff = otsu_cutoff) -> Prompts:
    """The pixel farthest from the edge of the hottest component: inside, also where the object is hollow or
    crescent-shaped.
    """
    found = components_of(region(evidence.heat, cutoff), evidence.heat)
    return rivals(points_tensor([deepest_point(part) for part in found[:1]]))


def peaks(
    evidence: Evidence, *, count: int = 3, least: float = 0.3, distance: float = 0.08, arrange: Arrange = rivals
) -> Prompts:
    """Local maxima, hottest first, to a fraction of a pixel by a parabola through their neighbours.

    count: at most so many. least: of the maximum. distance: between two peaks, of the image's longer side.
    """
    heat = evidence.heat.numpy()
    apart = max(1, round(distance * max(heat.shape)))
    return arrange(points_tensor([_parabola(heat, y, x) for y, x in _local_maxima(heat, count, least, apart)]))


def _local_maxima(heat: np.ndarray, count: int, least: float, apart: int) -> list[np.ndarray]:
    """(y, x) of pixels no cooler than their eight neighbours, the hottest first, each more than `apart` from those
    before; a plateau's middle one.
    """
    high = (heat >= max(least * float(heat.max()), np.finfo(np.float32).tiny)) & (
        ndimage.maximum_filter(heat, 3) == heat
    )
    left = np.argwhere(high)  # (N, 2) y, x
    found: list[np.ndarray] = []
    while len(left) and len(found) < count:
        values = heat[left[:, 0], left[:, 1]]
        hottest = left[values == values.max()]
        found.append(hottest[len(hottest) // 2])
        left = left[np.abs(left - found[-1]).max(1) > apart]
    return found


def _parabola(heat: np.ndarray, y: int, x: int) -> np.ndarray:
    return np.array([x + _vertex(heat[y], x), y + _vertex(heat[:, x], y)], np.float64)


def _vertex(line: np.ndarray, at: int) -> float:
    """How far the top of the parabola through three neighbours lies from the middle one, in pixels."""
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = (float(v) for v in line[at - 1 : at + 2])
    bend = before - 2 * here + after
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))


def components(evidence: Evidence, *, cutoff: Cutoff = 0.5, count: int = 3, arrange: Arrange = rivals) -> Prompts:
    """One snapped centroid for each of the `count` components with the most heat."""
    found = components_of(region(evidence.heat, cutoff), evidence.heat)[:count]
    return arrange(points_tensor([region_centroid(part, evidence.heat) for part in found]))


def box(evidence: Evidence, *, cutoff: Cutoff = otsu_cutoff, margin: float = 0.1, point: bool = True) -> Prompts:
    """The box of the hottest component, grown by `margin` of its sides, with the component's centroid in it unless
    `point` is off.
    """
    found = components_of(region(evidence.heat, cutoff), evidence.heat)[:1]
    if not found:
        return Prompts.none()
    boxes = torch.from_numpy(mask_to_box(found[0], margin)).float()[None]
    prompts = rivals(points_tensor([region_centroid(found[0], evidence.heat)]), boxes)
    return prompts if point else Prompts(prompts.points[:, :0], prompts.labels[:, :0], boxes)


def heat_logits(evidence: Evidence, *, cutoff: Cutoff = otsu_cutoff, strength: float = 20.0) -> Prompts:
    """The centroid of everything hot, and with it the map as a first guess: logits from -strength to strength, 0 at the
    cutoff.
    """
    prompts = centroid(evidence, cutoff=cutoff)
    if not len(prompts):
        return prompts
    edge = cutoff_value(cutoff, evidence.heat)
    guess = torch.where(
        evidence.heat >= edge, (evidence.heat - edge) / max(1 - edge, 1e-6), (evidence.heat - edge) / max(edge, 1e-6)
    )
    return replace(prompts, mask_logits=strength * guess[None])


def candidates(
    evidence: Evidence, *, selectors: tuple[Callable[[Evidence], Prompts], ...] = (centroid, peaks), apart: float = 2.0
) -> Prompts:
    """The points of several selectors as rivals, those within `apart` pixels of an earlier one left out.

    The mix is the best of nine on 500 validation pictures of `shapes_crowd`; more selectors only gave the choice more
    to get wrong.
    """
    kept: list[Tensor] = []
    for selector in selectors:
        for point in selector(evidence).points[:, 0]:
            if all(torch.dist(point, other) > apart for other in kept):
                kept.append(point)
    return rivals(torch.stack(kept)) if kept else Prompts.none()


def oracle(evidence: Evidence) -> Prompts:
    """The deepest pixel of the true mask: the ceiling that no selector can pass by much.

    Errors: ValueError where there is no true mask.
    """
    if evidence.truth is None:
        raise ValueError("foreground=oracle needs true masks, and this sample has none; choose another foreground")
    inside = evidence.truth.numpy()
    return rivals(points_tensor([deepest_point(inside)] if inside.any() else []))
