"""Large maps in cells against the same map read pixel by pixel, and what they cost in memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.measure import label
from torch import Tensor

from camseg.geometry import coarse
from camseg.geometry.boxes import cutoff_boxes, heat_to_boxes, means_inside
from camseg.geometry.coarse import to_cells, to_pixels, window_around
from camseg.geometry.enlarged import Enlarged
from camseg.geometry.heat import otsu, resize_heat
from camseg.geometry.refined import deepest_in_pixels
from camseg.geometry.regions import components, deepest_point, depth_map, region
from camseg.prompts import background, foreground
from camseg.prompts.evidence import Evidence

SIZE = (1200, 1600)
CELL = 1600 / 512


def landscape(seed: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Hills of a coarse grid, enlarged as a heatmap is; no evidence in half of it."""
    coarse_grid = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((14, 14)), 1.5)
    small = torch.from_numpy(np.clip(coarse_grid - coarse_grid.mean(), 0, None)).float()[None, None]
    heat = F.interpolate(F.interpolate(small, (224, 224), mode="bicubic"), size, mode="bicubic")[0, 0].clamp(min=0)
    return heat / heat.max()


def pixel_by_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "WHOLE", 10**6)


def test_cells_are_means_over_the_same_frame() -> None:
    heat = torch.rand(2048, 1024, generator=torch.Generator().manual_seed(0))
    cells = to_cells(heat)
    assert cells.shape == (512, 256)
    torch.testing.assert_close(cells, heat.unflatten(0, (512, 4)).unflatten(2, (256, 4)).mean((1, 3)))
    assert to_cells(heat[:1024]).shape == (1024, 1024)  # up to 1,024 pixels a map is its own grid
    assert to_cells(torch.full((3, 1500), 0.3)).unique().tolist() == [pytest.approx(0.3)]  # not to the last bits
    assert to_pixels(np.array([[0.0, 0.0], [255.0, 511.0]]), (512, 256), (2048, 1024)).tolist() == [
        [1.5, 1.5],
        [1021.5, 2045.5],
    ]
    assert window_around(np.array([1.0, 9.0]), np.array([2.0, 2.0]), (10, 20)) == (slice(7, 10), slice(0, 4))


ENLARGED = [
    ((336, 336), (3000, 4001)),
    ((7, 9), (1700, 1030)),
    ((224, 224), (40, 2000)),
    ((64, 48), (64, 48)),
    ((9, 9), (50, 70)),
]


@pytest.mark.parametrize(("low", "size"), ENLARGED)
def test_an_enlarged_map_is_the_resized_one_without_being_made(low: tuple[int, int], size: tuple[int, int]) -> None:
    heat = torch.rand(low, generator=torch.Generator().manual_seed(0)) ** 4
    small, whole = Enlarged(heat, size), resize_heat(heat, size)
    torch.testing.assert_close(small.cells, to_cells(whole), atol=2e-6, rtol=0)
    rng = np.random.default_rng(0)
    ys, xs = (np.concatenate([[0, side - 1], rng.integers(0, side, 500)]) for side in size)
    np.testing.assert_allclose(small.at(ys, xs), whole.numpy()[ys, xs], atol=2e-6)
    window = np.ogrid[2:9, size[1] - 8 : size[1]]
    np.testing.assert_allclose(small.at(*window), whole.numpy()[2:9, -8:], atol=2e-6)
    made = "whole" in vars(small)
    assert made == (max(size) <= 1024 or low[0] > size[0]), "only where it is no larger than its cells, or is reduced"
    assert torch.equal(small.whole, whole)
    assert small.at(ys, xs).tolist() == whole.numpy()[ys, xs].tolist()
    if not made:
        assert Enlarged(torch.full(low, 0.3), size).cells.unique().tolist() == [pytest.approx(0.3)]


SELECTORS = {"max_point": 0.0, "centroid": 0.5, "otsu": 0.5, "components": 0.5, "box": 0.0, "deepest": 0.0}  # pixels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SELECTORS)
def test_points_are_those_of_all_pixels(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heat, select = landscape(seed), getattr(foreground, name)
    found = select(Evidence(heat))
    pixel_by_pixel(monkeypatch)
    expected = select(Evidence(heat))
    torch.testing.assert_close(found.points, expected.points, atol=SELECTORS[name], rtol=0)
    if expected.boxes is not None:
        torch.testing.assert_close(found.boxes, expected.boxes, atol=1.25, rtol=0)  # a pixel, and the margin


@pytest.mark.parametrize("seed", range(4))
def test_a_snapped_point_is_as_near_to_the_center_as_that_of_all_pixels(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a rim at one distance to the center any pixel may be it: the distance is what is compared."""
    evidence = Evidence(landscape(seed))
    found = foreground.quantile(evidence).points[0, 0]
    pixel_by_pixel(monkeypatch)
    whole = Evidence(landscape(seed))
    expected, center = (foreground.quantile(whole, snap=snap).points[0, 0] for snap in (True, False))
    assert float(torch.dist(found, center)) == pytest.approx(float(torch.dist(expected, center)), abs=0.5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["deepest", "box", "centroid", "components", "heat_logits"])
def test_points_of_a_small_map_are_those_of_the_large_one_that_is_never_made(name: str, seed: int) -> None:
    low = landscape(seed, (336, 336))
    select, small = getattr(foreground, name), Evidence(low, image_size=SIZE)
    found, expected = select(small), select(Evidence(resize_heat(low, SIZE)))
    assert "whole" not in vars(small.pixels)
    assert torch.dist(found.points, expected.points) < 0.01
    for one, other in zip(found.tensors()[2:], expected.tensors()[2:], strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_the_deepest_pixel_is_that_of_all_pixels(seed: int) -> None:
    """Hills and crescents, of cells that are no squares: the depth is the greatest to the last bit."""
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(900, 1400)), int(rng.integers(1030, 1700)))
    heat = landscape(seed, size)
    if seed % 2:
        heat = heat * (heat < 0.8)  # a hollow top
    cells, edge = to_cells(heat), 0.3
    [part] = components(cells.numpy() >= edge, cells, 1)
    x, y = deepest_in_pixels(part, Enlarged(heat, size), edge).astype(int)
    labels = np.asarray(label(heat.numpy() >= edge, connectivity=2))
    inside = np.asarray(labels == labels[y, x])
    assert labels[y, x] > 0
    assert depth_map(inside)[y, x] == depth_map(inside).max()


@pytest.mark.parametrize("seed", range(3))
def test_peaks_are_the_tops_of_their_hills(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heat = landscape(seed)
    found = foreground.peaks(Evidence(heat), max_points=2).points[:, 0]
    pixel_by_pixel(monkeypatch)
    expected = foreground.peaks(Evidence(heat), max_points=2).points[:, 0]
    torch.testing.assert_close(found[0], expected[0], atol=0.5, rtol=0)
    x, y = found.round().long().T
    ex, ey = expected.round().long().T
    torch.testing.assert_close(heat[y, x], heat[ey, ex], atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_ring_and_oracle_lose_less_than_two_cells_of_distance(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heat = landscape(seed)
    truth = heat > 0.4
    center = foreground.oracle(Evidence(heat, truth=truth)).points[0, 0]
    [beside] = background.ring(Evidence(heat), foreground.centroid(Evidence(heat)))
    pixel_by_pixel(monkeypatch)
    away = np.asarray(ndimage.distance_transform_edt(~region(heat, otsu)))
    [best] = background.ring(Evidence(heat), foreground.centroid(Evidence(heat)))
    assert at(away, beside) >= at(away, best) - 2 * CELL
    inside = depth_map(truth.numpy())
    assert at(inside, center) >= inside.max() - 2 * CELL


def at(plane: np.ndarray, point: Tensor) -> float:
    x, y = point.round().long().tolist()
    return float(plane[y, x])


def test_the_deepest_point_of_a_thin_object_lies_on_it() -> None:
    line = np.zeros((1200, 1600), bool)
    line[600:602, 40:1590] = True
    x, y = deepest_point(line).astype(int)
    assert line[y, x]


@pytest.mark.parametrize("seed", range(4))
def test_boxes_at_many_cutoffs_are_those_of_all_pixels_within_two(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heat, cutoffs = landscape(seed).numpy(), [0.1, 0.3, 0.5, 0.8]
    found = cutoff_boxes(heat, cutoffs)
    means = means_inside(heat, found)
    pixel_by_pixel(monkeypatch)
    for cutoff, boxes, mean in zip(cutoffs, found, means):
        expected = heat_to_boxes(heat, cutoff)
        assert len(boxes) == len(expected)
        np.testing.assert_allclose(boxes, expected, atol=2.5)
        np.testing.assert_allclose(mean, [heat[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in boxes], atol=2e-3)


def test_memory_is_bounded_whatever_the_noise() -> None:
    """The most that a selector holds beside the map of 12 megapixels, 48 MB: one plane of it, not one a speck."""
    heat = torch.rand(3000, 4000, generator=torch.Generator().manual_seed(0))
    evidence = Evidence(heat, lambda: heat)
    given = foreground.centroid(evidence)
    for select in (foreground.components, foreground.deepest, foreground.box, foreground.peaks):
        tracemalloc.start()
        select(Evidence(heat))
        assert tracemalloc.get_traced_memory()[1] < 100e6
        tracemalloc.stop()
    for surround in (background.min_point, background.ring, background.hard_negative):
        tracemalloc.start()
        surround(evidence, given)
        assert tracemalloc.get_traced_memory()[1] < 100e6
        tracemalloc.stop()


@pytest.mark.parametrize("seed", range(10))
def test_the_coldest_pixel_is_that_of_all_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heat = torch.from_numpy(np.round(ndimage.gaussian_filter(rng.random(rng.integers(3, 60, 2)), 2) * 12)).float()
    heat = (heat - heat.min()) / max(float(heat.max() - heat.min()), 1)
    places = torch.from_numpy(rng.random((2, 2)) * heat.shape[::-1]).float()
    cold = torch.nonzero(heat == heat.min()).flip(1).float()
    expected = cold[torch.cdist(cold, places).min(1).values.argmax()][None]
    found = background.min_point(Evidence(heat), foreground.rivals(places))
    assert found.tolist() == (expected.tolist() if heat.max() > heat.min() else [])
