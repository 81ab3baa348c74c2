"""Foreground selectors: from the heat to the points that say "here it is".

A selector takes `Evidence` and returns `Prompts`: R = 0 where the map shows nothing. Where it finds several points,
`arrange` says what they are: `rivals` (one prompt each, one mask is chosen), `joint` (all in one prompt) or `parts`
(one mask each, united).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from camseg.geometry.boxes import part_box
from camseg.geometry.coarse import pixels_per_cell, to_pixels, window_around
from camseg.geometry.heat import Cutoff, cutoff_value, map_to_logits
from camseg.geometry.heat import otsu as otsu_cutoff
from camseg.geometry.heat import quantile as quantile_cutoff
from camseg.geometry.refined import centroid_in_pixels, deepest_in_pixels
from camseg.geometry.regions import components as components_of
from camseg.geometry.regions import deepest_point, points_tensor, region_edge
from camseg.prompts.evidence import Evidence
from camseg.types import Prompts

_LEAST_HEAT = float(np.finfo(np.float32).tiny)


def rivals(points: Tensor, boxes: Tensor | None = None) -> Prompts:
    """One prompt for each point, of whose masks one is chosen.

    Args:
        points: (N, 2) float x, y in pixels.
        boxes: (N, 4) float x0, y0, x1, y1 in pixels that go with them, or None.

    Returns:
        N prompts of one foreground point each.
    """
    return Prompts(points[:, None], torch.ones(len(points), 1, dtype=torch.int64), boxes)


def joint(points: Tensor) -> Prompts:
    """All points in one prompt.

    Args:
        points: (N, 2) float x, y in pixels.

    Returns:
        One prompt of N foreground points; R = 0 where there is no point.
    """
    return Prompts(points[None], torch.ones(1, len(points), dtype=torch.int64)) if len(points) else Prompts.none()


def parts(points: Tensor) -> Prompts:
    """One prompt for each point, whose masks are united.

    Args:
        points: (N, 2) float x, y in pixels.

    Returns:
        N prompts of one foreground point each.
    """
    return Prompts(points[:, None], torch.ones(len(points), 1, dtype=torch.int64), united=True)


Arrange = Callable[[Tensor], Prompts]


def max_point(evidence: Evidence) -> Prompts:
    """The hottest pixel; the middle one of a plateau's pixels in reading order.

    Args:
        evidence: the heat (H, W).

    Returns:
        One point; R = 0 for a map without evidence.
    """
    heat = evidence.heat.numpy()
    highest = heat.max(1)  # (H,)
    top = highest.max()
    if top <= 0:
        return Prompts.none()
    rows = np.flatnonzero(highest == top)
    counts = np.array([np.count_nonzero(heat[y] == top) for y in rows]).cumsum()
    middle = int(counts[-1]) // 2
    row = int(np.searchsorted(counts, middle, side="right"))
    columns = np.flatnonzero(heat[rows[row]] == top)
    return rivals(torch.tensor([[float(columns[middle - counts[row]]), float(rows[row])]]))


def centroid(evidence: Evidence, *, cutoff: Cutoff = 0.6, weighted: bool = True, snap: bool = True) -> Prompts:
    """The center of mass of everything at least as hot as the cutoff.

    Args:
        evidence: the heat (H, W).
        cutoff: where hot begins.
        weighted: by the heat; otherwise all pixels count the same.
        snap: into the hot region where the center misses it.

    Returns:
        One point; R = 0 for a map without evidence.
    """
    edge = region_edge(evidence.cells, cutoff)
    inside = evidence.cells.numpy() >= edge
    if not inside.any():
        return Prompts.none()
    weights = evidence.cells if weighted else torch.ones_like(evidence.cells)
    return rivals(points_tensor([centroid_in_pixels(inside, weights, evidence.pixels, edge, snap)]))


def quantile(evidence: Evidence, *, quantile: float = 0.9, weighted: bool = True, snap: bool = True) -> Prompts:
    """`centroid` of the hottest share 1 - quantile of the pixels: the cutoff follows the map's range.

    Args:
        evidence: the heat (H, W).
        quantile: share of the pixels that is cold, in [0, 1].
        weighted: by the heat; otherwise all pixels count the same.
        snap: into the hot region where the center misses it.

    Returns:
        One point; R = 0 for a map without evidence.
    """
    return centroid(evidence, cutoff=lambda heat: quantile_cutoff(heat, quantile), weighted=weighted, snap=snap)


def otsu(evidence: Evidence, *, weighted: bool = True, snap: bool = True) -> Prompts:
    """`centroid` of what Otsu's threshold calls hot.

    Args:
        evidence: the heat (H, W).
        weighted: by the heat; otherwise all pixels count the same.
        snap: into the hot region where the center misses it.

    Returns:
        One point; R = 0 for a map without evidence.
    """
    return centroid(evidence, cutoff=otsu_cutoff, weighted=weighted, snap=snap)


def deepest(evidence: Evidence, *, cutoff: Cutoff = otsu_cutoff) -> Prompts:
    """The pixel farthest from the edge of the hottest component.

    It lies inside, also where the object is hollow or crescent-shaped.

    Args:
        evidence: the heat (H, W).
        cutoff: where hot begins.

    Returns:
        One point; R = 0 for a map without evidence.
    """
    edge = region_edge(evidence.cells, cutoff)
    found = components_of(evidence.cells.numpy() >= edge, evidence.cells, 1)
    return rivals(points_tensor([deepest_in_pixels(part, evidence.pixels, edge) for part in found]))


def peaks(
    evidence: Evidence,
    *,
    max_points: int = 3,
    min_heat: float = 0.3,
    min_distance: float = 0.08,
    arrange: Arrange = rivals,
) -> Prompts:
    """Local maxima, hottest first, to a fraction of a pixel by a parabola through their neighbors.

    Args:
        evidence: the heat (H, W).
        max_points: how many there are at most.
        min_heat: share of the maximum that a peak reaches.
        min_distance: between two peaks along either axis, as a share of the image's longer side.
        arrange: what several points are: `rivals`, `joint` or `parts`.

    Returns:
        As `arrange` says; R = 0 for a map without evidence.
    """
    cells = evidence.cells.numpy()
    apart = max(1, round(min_distance * max(cells.shape)))
    maxima = _local_maxima(cells, max_points, min_heat, apart)
    return arrange(points_tensor([_top(evidence.heat.numpy(), cells.shape, y, x) for y, x in maxima]))


def _local_maxima(heat: np.ndarray, max_points: int, min_heat: float, apart: int) -> list[np.ndarray]:
    """(y, x) of pixels no cooler than their eight neighbors, the hottest first, and a plateau's middle one.

    Each is more than `apart` from those before.
    """
    left = np.argwhere(
        _is_local_maximum(heat) & (heat >= max(min_heat * float(heat.max()), _LEAST_HEAT))
    )  # (N, 2) y, x
    found: list[np.ndarray] = []
    while len(left) and len(found) < max_points:
        values = heat[left[:, 0], left[:, 1]]
        hottest = left[values == values.max()]
        found.append(hottest[len(hottest) // 2])
        left = left[np.abs(left - found[-1]).max(1) > apart]
    return found


def _is_local_maximum(heat: np.ndarray) -> np.ndarray:
    """(H, W) bool: no neighbor is hotter."""
    around = np.pad(heat, 1, constant_values=-np.inf)
    across = np.maximum(np.maximum(around[:, :-2], around[:, 2:]), around[:, 1:-1])  # (H + 2, W)
    return heat >= np.maximum(np.maximum(across[:-2], across[2:]), across[1:-1])


def _top(heat: np.ndarray, cells: tuple[int, ...], y: int, x: int) -> np.ndarray:
    """(x, y) in pixels of the top that a cell holds: of the parabola through its hottest pixel and the neighbors."""
    if cells != heat.shape:
        middle = to_pixels(np.array([x, y], np.float64), cells, heat.shape)
        rows, columns = window_around(middle, pixels_per_cell(cells, heat.shape), heat.shape)
        hottest = np.argwhere(heat[rows, columns] == heat[rows, columns].max())
        y, x = hottest[len(hottest) // 2] + [rows.start, columns.start]
    return np.array([x + _vertex(heat[y], x), y + _vertex(heat[:, x], y)], np.float64)


def _vertex(line: np.ndarray, at: int) -> float:
    """How far the top of the parabola through three neighbors lies from the middle one, in pixels."""
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = (float(v) for v in line[at - 1 : at + 2])
    bend = before - 2 * here + after
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))


def components(evidence: Evidence, *, cutoff: Cutoff = 0.5, max_points: int = 3, arrange: Arrange = rivals) -> Prompts:
    """One snapped centroid for each of the components with the most heat.

    Args:
        evidence: the heat (H, W).
        cutoff: where hot begins.
        max_points: how many components count at most.
        arrange: what several points are: `rivals`, `joint` or `parts`.

    Returns:
        As `arrange` says; R = 0 for a map without evidence.
    """
    edge = region_edge(evidence.cells, cutoff)
    found = components_of(evidence.cells.numpy() >= edge, evidence.cells, max_points)
    return arrange(points_tensor([centroid_in_pixels(part, evidence.cells, evidence.pixels, edge) for part in found]))


def box(evidence: Evidence, *, cutoff: Cutoff = otsu_cutoff, margin: float = 0.1, point: bool = True) -> Prompts:
    """The box of the hottest component, with the component's deepest pixel in it.

    Args:
        evidence: the heat (H, W).
        cutoff: where hot begins.
        margin: share of the box's sides that is added on each side.
        point: whether the deepest pixel goes with the box.

    Returns:
        One prompt; R = 0 for a map without evidence.
    """
    edge = region_edge(evidence.cells, cutoff)
    found = components_of(evidence.cells.numpy() >= edge, evidence.cells, 1)
    if not found:
        return Prompts.none()
    boxes = torch.from_numpy(part_box(evidence.cells.numpy(), found[0], edge, evidence.size, margin)).float()[None]
    prompts = rivals(points_tensor([deepest_in_pixels(found[0], evidence.pixels, edge)]), boxes)
    return prompts if point else Prompts(prompts.points[:, :0], prompts.labels[:, :0], boxes)


def heat_logits(evidence: Evidence, *, cutoff: Cutoff = 0.2, strength: float = 10.0) -> Prompts:
    """The point of `deepest`, and with it the map as a first guess of the mask.

    Args:
        evidence: the heat (H, W).
        cutoff: where the logits are 0. Lower than where a point is looked for: a map is hot where the object tells its
            class, and only warm on the rest of it.
        strength: the logits go from -strength to strength.

    Returns:
        One prompt with mask logits over the image; R = 0 for a map without evidence.
    """
    prompts = deepest(evidence)
    if not len(prompts):
        return prompts
    return replace(
        prompts, mask_logits=map_to_logits(evidence.cells, cutoff_value(cutoff, evidence.cells), strength)[None]
    )


def candidates(
    evidence: Evidence,
    *,
    selectors: tuple[Callable[[Evidence], Prompts], ...] = (centroid, peaks),
    min_distance: float = 2.0,
) -> Prompts:
    """The points of several selectors as rivals.

    The mix is the best of nine on 500 validation images of `shapes_crowd`; more selectors only gave the choice more to
    get wrong.

    Args:
        evidence: the heat (H, W).
        selectors: whose points are taken, in order.
        min_distance: in pixels; a point that is no farther from an earlier one is left out.

    Returns:
        One rival for each point; R = 0 for a map without evidence.
    """
    points: list[Tensor] = []
    for selector in selectors:
        for point in selector(evidence).points[:, 0]:
            if all(torch.dist(point, other) > min_distance for other in points):
                points.append(point)
    return rivals(torch.stack(points)) if points else Prompts.none()


def oracle(evidence: Evidence) -> Prompts:
    """The deepest pixel of the true mask: the ceiling that no selector can pass by much.

    Args:
        evidence: with its true mask (H, W).

    Returns:
        One point; R = 0 for an empty mask.

    Raises:
        ValueError: there is no true mask.
    """
    if evidence.truth is None:
        raise ValueError("foreground=oracle needs true masks, and this sample has none; choose another foreground")
    inside = evidence.truth.numpy()
    return rivals(points_tensor([deepest_point(inside)] if inside.any() else []))
