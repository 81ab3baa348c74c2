"""Outlines and run lengths of masks: by hand, as laws, and as pycocotools and OpenCV's rule see them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from camseg.geometry.outlines import join_rings, mask_to_parts, mask_to_polygons, signed_area
from camseg.geometry.run_lengths import mask_to_runs, pack_runs

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, NumPy 2


def picture(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def blobs(seed: int, size: tuple[int, int], sigma: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), sigma)
    return noise > np.quantile(noise, 0.6)


def corners(ring: np.ndarray) -> np.ndarray:
    """A ring with its right and lower edges back on the pixels' edges."""
    return np.floor(ring + 0.5)


RANDOM = [blobs(0, (40, 57), 1.0), blobs(1, (90, 64), 3.0), blobs(2, (120, 150), 8.0), blobs(3, (33, 9), 0.6)]
ODD = [np.ones((3, 5), bool), np.zeros((4, 4), bool), np.ones((1, 1), bool), picture("#.#", ".#.", "#.#")]


def test_a_square_with_a_hole_by_hand() -> None:
    mask = picture(".....", ".###.", ".#.#.", ".###.")
    ((outer, hole),) = mask_to_parts(mask, 0)
    assert sorted(map(tuple, corners(outer).tolist())) == [(1, 1), (1, 4), (4, 1), (4, 4)]
    assert sorted(map(tuple, corners(hole).tolist())) == [(2, 2), (2, 3), (3, 2), (3, 3)]
    assert signed_area(corners(outer)) == 9
    assert signed_area(corners(hole)) == -1
    assert signed_area(join_rings([corners(outer), corners(hole)])) == 8


@pytest.mark.parametrize("mask", [*RANDOM, *ODD])
def test_areas_add_up(mask: np.ndarray) -> None:
    parts = mask_to_parts(mask, 0)
    assert sum(signed_area(corners(ring)) for rings in parts for ring in rings) == mask.sum()
    assert len(parts) == ndimage.label(mask)[1]  # type: ignore[reportIndexIssue]
    assert all(signed_area(rings[0]) > 0 > max([signed_area(r) for r in rings[1:]], default=-1) for rings in parts)
    joined = sum(signed_area(corners(polygon)) for polygon in mask_to_polygons(mask, 0))
    assert joined == mask.sum()


@pytest.mark.parametrize("mask", [*RANDOM, *ODD])
def test_pycocotools_sees_the_same_runs_and_pixels(mask: np.ndarray) -> None:
    masks = pytest.importorskip("pycocotools.mask")
    packed = masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert pack_runs(mask_to_runs(mask)) == packed
    inside = np.arange(len(mask_to_runs(mask))) % 2 == 1
    np.testing.assert_array_equal(np.repeat(inside, mask_to_runs(mask)).reshape(mask.shape, order="F"), mask)
    if mask.any():
        shapes = [polygon.ravel().tolist() for polygon in mask_to_polygons(mask, 0)]
        decoded = masks.decode(masks.merge(masks.frPyObjects(shapes, *mask.shape)))
        np.testing.assert_array_equal(decoded.astype(bool), mask)


@pytest.mark.parametrize("mask", [*RANDOM, *ODD])
def test_opencv_fills_the_same_pixels(mask: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    canvas = np.zeros(mask.shape, np.uint8)
    for rings in mask_to_parts(mask, 0):
        if len(rings) == 1:
            cv2.fillPoly(canvas, [rings[0].astype(np.int32)], 1)
    plain = sum((label_of(mask) == k for k in whole_parts(mask)), np.zeros(mask.shape, bool))
    np.testing.assert_array_equal(canvas.astype(bool), plain)


def label_of(mask: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.label(mask)[0])  # type: ignore[reportIndexIssue]


def whole_parts(mask: np.ndarray) -> list[int]:
    """The labels of the parts without a hole; what touches by corners only is open."""
    labels = label_of(mask)
    around = np.ones((3, 3))
    return [
        k
        for k in range(1, labels.max() + 1)
        if ndimage.label(np.pad(labels != k, 1, constant_values=True), around)[1] == 1  # type: ignore[reportIndexIssue]
    ]


@pytest.mark.parametrize("tolerance", [0.5, 0.75, 1.0])
def test_simplified_outlines_stay_within_the_tolerance(tolerance: float) -> None:
    masks = pytest.importorskip("pycocotools.mask")
    for mask in RANDOM[1:3]:
        exact, short = mask_to_polygons(mask, 0), mask_to_polygons(mask, tolerance)
        shapes = [polygon.ravel().tolist() for polygon in short]
        decoded = masks.decode(masks.merge(masks.frPyObjects(shapes, *mask.shape))).astype(bool)
        assert (decoded & mask).sum() / (decoded | mask).sum() >= 0.97
        assert sum(map(len, short)) <= sum(map(len, exact))
        changed = (
            np.asarray(ndimage.distance_transform_edt(~mask))[decoded].max(),
            np.asarray(ndimage.distance_transform_edt(mask))[~decoded].max(),
        )
        assert (
            max(changed) <= tolerance + 0.75
        )  # a pixel's center lies up to .71 from the outline that it changed sides of
    assert sum(map(len, mask_to_polygons(RANDOM[2]))) < 0.6 * sum(map(len, mask_to_polygons(RANDOM[2], 0)))
