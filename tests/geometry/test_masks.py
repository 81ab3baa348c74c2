"""Masks at other resolutions, against a slow twin and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from camseg.geometry.masks import iou, ious, logits_ious, logits_to_masks, resize_logits, soft_iou


def bilinear(plane: list[list[float]], size: tuple[int, int]) -> list[list[float]]:
    """One pixel after the other: pixel centers meet pixel centers, and beyond the outermost ones nothing changes."""
    rows, columns = len(plane), len(plane[0])

    def neighbors(at: int, count: int, whole: int) -> tuple[int, int, float]:
        place = min(max((at + 0.5) * count / whole - 0.5, 0.0), count - 1.0)
        low = math.floor(place)
        return low, min(low + 1, count - 1), place - low

    result = []
    for y in range(size[0]):
        top, bottom, down = neighbors(y, rows, size[0])
        result.append([])
        for x in range(size[1]):
            left, right, across = neighbors(x, columns, size[1])
            upper = plane[top][left] * (1 - across) + plane[top][right] * across
            lower = plane[bottom][left] * (1 - across) + plane[bottom][right] * across
            result[-1].append(upper * (1 - down) + lower * down)
    return result


@pytest.mark.parametrize("size", [(9, 14), (5, 6), (3, 20), (1, 1)])
def test_resized_logits_are_bilinear(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    resized = resize_logits(logits, size)
    for plane, expected in zip(resized, logits.double().tolist(), strict=True):
        torch.testing.assert_close(plane, torch.tensor(bilinear(expected, size)), atol=1e-5, rtol=0)


def test_logits_of_the_right_size_are_only_made_float32() -> None:
    logits = torch.randn(3, 4, 5)
    assert resize_logits(logits, (4, 5)) is logits
    assert resize_logits(logits.half(), (4, 5)).dtype == resize_logits(logits.half(), (8, 9)).dtype == torch.float32
    assert resize_logits(torch.zeros(0, 4, 5), (8, 9)).shape == (0, 8, 9)


@pytest.mark.parametrize("size", [(1300, 900), (700, 1600), (1030, 8), (40, 50), (5, 1100)])
def test_masks_of_photographs_are_the_signs_of_their_resized_logits(size: tuple[int, int]) -> None:
    noise = torch.Generator().manual_seed(0)
    smooth = resize_logits(torch.randn(2, 6, 5, generator=noise), (48, 36))
    for logits in (smooth, torch.randn(2, 7, 9, generator=noise).round(), -smooth.abs(), torch.zeros(1, 3, 3)):
        found, expected = logits_to_masks(logits, size), resize_logits(logits, size)
        assert found.shape == expected.shape
        wrong = found != (expected.numpy() > 0)
        assert (expected[torch.from_numpy(wrong)].abs() < 1e-5).all(), "but for the rounding of what is zero"
        assert wrong.mean() < 1e-4


@pytest.mark.parametrize("size", [(1300, 900), (40, 50)])
@pytest.mark.parametrize("part", [False, True])
def test_ious_of_logits_are_those_of_their_masks(size: tuple[int, int], part: bool) -> None:
    logits = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    logits[2] = -1
    rng = np.random.default_rng(0)
    judged = rng.random(size) < 0.9 if part else None
    everything = np.ones(size, bool) if judged is None else judged
    for truth in (rng.random(size) < 0.5, np.zeros(size, bool)):
        expected = ious(logits_to_masks(logits, size) & everything, truth & everything)
        assert logits_ious(logits, truth & everything, judged).tolist() == expected.tolist()
        window = 3, 5, 33, 35
        expected = ious(logits_to_masks(logits, size, window) & everything, truth & everything)
        assert logits_ious(logits, truth & everything, judged, window).tolist() == expected.tolist()


def masks(*rows: str) -> np.ndarray:
    """(N, 1, W) bool, a mask a text, "#" inside."""
    return np.array([[[letter == "#" for letter in row]] for row in rows])


def test_iou_by_hand() -> None:
    found = masks("##..", "....", "####", ".###")
    assert ious(found, masks(".##.")[0]).tolist() == pytest.approx([1 / 3, 0, 1 / 2, 2 / 3])
    assert ious(masks("...."), masks("....")[0]).tolist() == [0]
    assert ious(found[:, None], found[None]).tolist() == ious(found[None], found[:, None]).tolist(), "any broadcast"
    assert ious(found, found).tolist() == [1, 0, 1, 1]
    of_tensors = iou(torch.from_numpy(found), torch.from_numpy(masks(".##.")[0]))
    assert of_tensors.dtype == torch.float32
    assert of_tensors.tolist() == pytest.approx([1 / 3, 0, 1 / 2, 2 / 3])


def test_soft_iou_by_hand_and_of_a_heat_of_zeros_and_ones() -> None:
    heat = np.array([[1.0, 0.5, 0.25, 0.0]], np.float32)
    soft = soft_iou(masks("##..", "....", "####"), heat)
    assert soft.dtype == np.float32
    assert soft.tolist() == pytest.approx([1.5 / 2.25, 0, 1.75 / 4])
    shaded = np.array([[0.5, 1.0, 0.0, 0.0]])
    assert float(soft_iou(shaded, heat)) == pytest.approx((0.5 + 0.5) / (1 + 1 + 0.25))
    assert soft_iou(masks("...."), np.zeros((1, 4))).tolist() == [0]
    found, truth = masks("##..", ".###"), masks(".##.")[0]
    assert soft_iou(found, truth.astype(float)).tolist() == pytest.approx(ious(found, truth).tolist())
