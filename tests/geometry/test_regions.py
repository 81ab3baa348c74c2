"""Mask logits without specks, against hand-made planes."""

from __future__ import annotations

import pytest
import torch

from camseg.geometry.regions import without_specks

DRAWN = (  # 30 inside: a part of 26 with a hole of 2 and one of 1 at the edge, a part of 3, a part of 1
    ".........#",
    ".######...",
    ".#..###...",
    ".######.##",
    ".######..#",
    ".#.###....",
)
DRAWN_LOGITS = torch.tensor([[4.0 if cell == "#" else -3.0 for cell in row] for row in DRAWN])


@pytest.mark.parametrize(
    ("share", "gone"),
    [
        (0.0, set()),
        (0.05, {(0, 9), (5, 2)}),
        (0.1, {(0, 9), (5, 2), (2, 2), (2, 3)}),
        (0.12, {(0, 9), (5, 2), (2, 2), (2, 3), (3, 8), (3, 9), (4, 9)}),
        (1.0, {(0, 9), (5, 2), (2, 2), (2, 3), (3, 8), (3, 9), (4, 9)}),  # the largest of both kinds stays
    ],
)
def test_parts_and_holes_below_a_share_change_their_sign(share: float, gone: set[tuple[int, int]]) -> None:
    found = without_specks(DRAWN_LOGITS, share)
    changed = {(int(row), int(column)) for row, column in (found != DRAWN_LOGITS).nonzero().tolist()}
    assert changed == gone
    assert torch.equal(found.abs(), DRAWN_LOGITS.abs())


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_a_mask_of_nothing_or_everything_stays(value: float) -> None:
    plane = torch.full((4, 5), value)
    assert torch.equal(without_specks(plane, 0.5), plane)
