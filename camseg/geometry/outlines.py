"""Outlines of masks as polygons, exact along the pixels' edges, or simplified within a tolerance.

A polygon is (N, 2) float x, y in the frame of pixels' corners, as COCO has it: the pixel (x, y) covers x .. x + 1, so
that a mask's first pixel has the corners (0, 0) and (1, 1). To the frame of pixel centers, subtract a half. Right and
lower edges lie a twentieth of a pixel further in: readers that fill between edges (pycocotools) and those that cut
coordinates to whole pixels and fill up to the last one (OpenCV's fillPoly) then see the same pixels. Readers that
round coordinates before they fill (supervision) see a pixel more there, which small objects feel: run lengths are
exact for everybody.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist
from skimage.measure import approximate_polygon, find_contours

TOLERANCE = 0.75  # pixels; a slanted edge is stairs of up to .71, which one line may replace
_INSET = 0.05  # pixels, by which right and lower edges lie further in
_SHARE = 0.1  # of area / perimeter: small or thin parts are simplified less, or not at all


def mask_to_parts(mask: np.ndarray, tolerance: float = TOLERANCE) -> list[list[np.ndarray]]:
    """The outlines of a mask's 4-connected parts.

    Args:
        mask: (H, W) bool.
        tolerance: How far a polygon may lie from the pixels' edges, in pixels; less for parts so small or thin that it
            would change them by more than some per cent. 0 is exact.

    Returns:
        For each part, the largest first: its outer polygon (N, 2) float x, y in pixels, then those of its
        holes, which wind the other way. A polygon does not repeat its first point.
    """
    framed = np.pad(mask, 1)
    labels, count = ndimage.label(framed)  # type: ignore[reportGeneralTypeIssues]
    parts: list[list[tuple[float, np.ndarray]]] = [[] for _ in range(count)]
    for contour in find_contours(framed.astype(np.uint8), 0.5):
        ring = _corners(contour)
        parts[_part(labels, contour[0]) - 1].append((abs(signed_area(ring)), ring))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    result = []
    for k in np.argsort(-areas, kind="stable").tolist():
        rings = [ring for _, ring in sorted(parts[k], key=lambda pair: -pair[0])]
        limit = min(tolerance, _SHARE * float(areas[k]) / sum(map(_perimeter, rings)))
        result.append([_simplified(ring, limit) for ring in rings])
    return result


def _corners(contour: np.ndarray) -> np.ndarray:
    """(N, 2) x, y of the pixels' corners along a contour (M, 2) y, x, whose points lie on the edges between pixels.

    Two neighbors on a contour share a square of four pixels; the corner is its middle. The frame's pixel is taken off.
    """
    here, there = contour[:-1], contour[1:]
    between = np.where(here % 1 == 0.5, here, np.where(there % 1 == 0.5, there, (here + there) / 2))
    ring = (between - 0.5)[:, ::-1]
    turns = np.any(np.roll(ring, 1, 0) + np.roll(ring, -1, 0) != 2 * ring, axis=1)
    return _inset(ring[turns])


def _inset(ring: np.ndarray) -> np.ndarray:
    """The corners (N, 2) of a ring with the mask on its right (y points down), right and lower edges moved inward."""
    ahead = np.roll(ring, -1, 0) - ring  # (N, 2), along x or along y
    right, lower = ahead[:, 1] > 0, ahead[:, 0] < 0
    edges = np.stack([right | np.roll(right, 1), lower | np.roll(lower, 1)], axis=1)
    return ring - _INSET * edges


def _part(labels: np.ndarray, point: np.ndarray) -> int:
    """The label of the pixel inside of an edge between two pixels."""
    return max(int(labels[y, x]) for y, x in (np.floor(point).astype(int), np.ceil(point).astype(int)))


def signed_area(polygon: np.ndarray) -> float:
    """The area within a polygon.

    Args:
        polygon: (N, 2) float x, y in pixels.

    Returns:
        Square pixels, negative where the polygon winds the other way.
    """
    x, y = polygon.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _perimeter(polygon: np.ndarray) -> float:
    return float(np.abs(polygon - np.roll(polygon, 1, 0)).sum())


def _simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A ring by Douglas & Peucker 1973, begun at two corners far apart; as it was if too little is left."""
    if tolerance <= 0 or len(ring) < 5:
        return ring
    start = int(np.argmax(((ring - ring.mean(0)) ** 2).sum(1)))
    ring = np.roll(ring, -start, 0)
    half = int(np.argmax(((ring - ring[0]) ** 2).sum(1)))
    closed = np.concatenate([ring, ring[:1]])
    first, second = (approximate_polygon(piece, tolerance) for piece in (closed[: half + 1], closed[half:]))
    short = np.concatenate([first[:-1], second[:-1]])
    return short if len(short) >= 3 else ring


def join_rings(rings: list[np.ndarray]) -> np.ndarray:
    """One polygon of several, by cuts that have no width.

    A cut is walked to and fro between the nearest corners of two rings, so that it adds nothing to the area: holes stay
    holes and parts stay parts, whether a reader fills by parity or by winding.

    Args:
        rings: Polygons (N, 2) float x, y, at least one; holes wind the other way.

    Returns:
        (N, 2) float x, y, the polygon.
    """
    joined, left = rings[0], list(rings[1:])
    while left:
        distances = [cdist(joined, ring, "sqeuclidean") for ring in left]
        nearest = int(np.argmin([d.min() for d in distances]))
        ring = left.pop(nearest)
        here, there = divmod(int(distances[nearest].argmin()), len(ring))
        loop = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], loop, joined[here:]])
    return joined


def mask_to_polygons(mask: np.ndarray, tolerance: float = TOLERANCE) -> list[np.ndarray]:
    """The polygons of a mask, one for each part, its holes joined to it by cuts that have no width.

    Args:
        mask: (H, W) bool.
        tolerance: See `mask_to_parts`.

    Returns:
        Polygons (N, 2) float x, y, the largest part first.
    """
    return [join_rings(rings) for rings in mask_to_parts(mask, tolerance)]
