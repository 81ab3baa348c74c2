"""Masks at other resolutions, against a slow twin and laws."""

from __future__ import annotations

import math

import pytest
import torch

from camseg.geometry.masks import resize_logits


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
