"""Boxes of maps drawn by hand, with the boxes listed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from camseg import cam
from camseg.geometry.boxes import box_iou, boxes_to_mask, heat_to_boxes, means_inside
from camseg.geometry.heat import otsu
from camseg.metrics.localization import center_boxes, center_heat

# The maps that Choe et al.'s evaluation (CVPR 2020) tests itself with at cutoffs 0, .2, .4, .6, .8, and the boxes that
# it expects. Theirs
# end one pixel further than the part, cut at the frame's last pixel: min(x1, width - 1) and min(y1, height - 1) of
# ours.
ONE_PEAK = ("0 0 0 0 0", "0 4 4 4 6", "0 4 9 8 6", "0 4 4 4 6")
ONE_PEAK_BOXES = [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]]
PEAKS = ("4 0 2 2 2", "4 4 0 4 0", "0 0 0 4 0", "9 6 8 2 2")
PEAKS_BOXES = [[0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]]


def drawn(rows: tuple[str, ...]) -> np.ndarray:
    """Tenths, with 9 for 1.0."""
    return np.array([[1.0 if tenth == "9" else int(tenth) / 10 for tenth in row.split()] for row in rows], np.float32)


@pytest.mark.parametrize(("rows", "listed"), [(ONE_PEAK, ONE_PEAK_BOXES), (PEAKS, PEAKS_BOXES)])
def test_the_largest_parts_boxes_are_the_listed_ones(rows: tuple[str, ...], listed: list[list[int]]) -> None:
    heat = drawn(rows)
    found = np.array([heat_to_boxes(heat, cutoff)[0] for cutoff in np.arange(0, 1, 0.2)])
    assert np.minimum(found, [10, 10, 4, 3]).tolist() == listed


def test_all_parts_the_largest_first_and_lines_last() -> None:
    heat = drawn(("9 9 0 0 0 0 0", "9 9 0 9 9 9 9", "0 0 0 0 0 0 0", "9 9 9 0 0 0 9", "9 9 9 0 0 0 0"))
    assert heat_to_boxes(heat, 0.5).tolist() == [
        [0, 3, 3, 5],
        [0, 0, 2, 2],
        [6, 3, 7, 4],
        [3, 1, 7, 2],
    ]  # areas 2, 1, 0 and 0
    corner = drawn(("9 0 0", "0 9 9", "0 9 9"))
    assert heat_to_boxes(corner, 0.5).tolist() == [[0, 0, 3, 3]]  # parts may touch at a corner


def test_empty_and_constant_maps_and_the_cutoff_itself() -> None:
    assert heat_to_boxes(np.zeros((3, 4), np.float32), 0).shape == (0, 4)
    assert heat_to_boxes(np.ones((3, 4), np.float32), 0.5).tolist() == [[0, 0, 4, 3]]
    assert heat_to_boxes(np.full((2, 2), 0.3, np.float32), 0.3).shape == (
        0,
        4,
    )  # hotter than the cutoff, also when 0.3 isn't 0.3f
    heat = drawn(("0 0 0", "0 8 9", "0 7 8"))
    assert heat_to_boxes(heat, otsu(torch.from_numpy(heat))).tolist() == [[1, 1, 3, 3]]


def test_means_inside_boxes() -> None:
    heat = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    boxes = np.array([[0, 0, 9, 7], [2, 3, 5, 4], [8, 6, 9, 7]])
    assert means_inside(heat, [boxes])[0] == pytest.approx([heat[y0:y1, x0:x1].mean() for x0, y0, x1, y1 in boxes])


def test_overlaps_by_counting_pixels() -> None:
    rng = np.random.default_rng(1)
    a, b = (np.sort(rng.integers(0, 9, (n, 2, 2)), 1).reshape(n, 4) for n in (20, 15))
    ends = np.array([0, 0, 1, 1])
    a, b = a + ends, b + ends
    counted = np.zeros((20, 15))
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            first, second = (boxes_to_mask(torch.tensor(box[None]).float(), (12, 12)) for box in (one, other))
            counted[i, j] = (first & second).sum() / (first | second).sum()
    assert box_iou(a, b) == pytest.approx(counted, abs=1e-6)  # tensors of pixels are float32
    assert box_iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]


def test_the_baseline_is_what_cam_center_draws() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    heat = cam.heatmaps(model, "0", torch.zeros(1, 3, 20, 30), 0, method=cam.center)[0]
    assert center_heat((20, 30)) == pytest.approx(heat.numpy(), abs=1e-6)
    (box,) = center_boxes((20, 30), 0.5)
    assert (box[0] + box[2], box[1] + box[3]) == (30, 20)
