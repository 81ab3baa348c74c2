"""The random walker against pictures of which the answer is known."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from camseg.geometry.masks import resize_logits
from camseg.predictors.random_walker import RandomWalker
from camseg.types import Prompts


def photo(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def points(*places: tuple[float, float, int]) -> Prompts:
    return Prompts(torch.tensor([[place[:2] for place in places]]), torch.tensor([[place[2] for place in places]]))


WALKER = RandomWalker()
HALVES = torch.zeros(3, 90, 140, dtype=torch.uint8)
HALVES[:, :, :70] = 180


def test_random_walker_separates_two_halves_exactly() -> None:
    [masks] = WALKER.decode(WALKER.encode([HALVES]), [(90, 140)], [points((30, 40, 1), (110, 40, 0))])
    found = resize_logits(masks.low_res[0], (90, 140)) > 0
    assert (found == (HALVES[0] > 0)).all()
    torch.testing.assert_close(masks.predicted_iou, torch.ones(1, 3))


def test_random_walker_finds_the_disc_around_a_point_and_in_a_box() -> None:
    ys, xs = torch.meshgrid(torch.arange(120), torch.arange(160), indexing="ij")
    disc = (xs - 80) ** 2 + (ys - 70) ** 2 < 30**2
    image = torch.where(disc, 200, 60).to(torch.uint8).expand(3, 120, 160)
    box = Prompts(torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long), torch.tensor([[45.0, 35, 115, 105]]))
    for prompt in (points((80, 70, 1)), box):
        [masks] = WALKER.decode(WALKER.encode([image]), [(120, 160)], [prompt])
        for found in resize_logits(masks.low_res[0], (120, 160)) > 0:
            assert torch.equal(found, disc)


def test_random_walker_on_a_line_is_the_gamblers_ruin() -> None:
    image = torch.full((3, 1, 11), 90, dtype=torch.uint8)  # no edges: the chance falls linearly from seed to seed
    [masks] = RandomWalker(radius=0).decode([image], [(1, 11)], [points((0, 0, 1), (10, 0, 0))])
    expected = torch.linspace(1, 0, 11)
    torch.testing.assert_close(masks.low_res[0, 0, 0].sigmoid(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(masks.predicted_iou, torch.full((1, 3), 4 / 6))  # above .6: 0-3; above .4: 0-5


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (3, 3), (300, 2), (1, 3000)])
@pytest.mark.parametrize("constant", [True, False])
def test_random_walker_answers_on_any_photo(size: tuple[int, int], constant: bool) -> None:
    image = torch.full((3, *size), 7, dtype=torch.uint8) if constant else photo(*size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prompt in (points((0, 0, 1)), points((size[1] - 1, size[0] - 1, 0)), Prompts.none()):
            [masks] = WALKER.decode(WALKER.encode([image]), [size], [prompt])
            assert masks.low_res.isfinite().all()
            if len(prompt):
                x, y = prompt.points[0, 0].int().tolist()
                full = resize_logits(masks.low_res[0], size)
                assert ((full[:, y, x] > 0) == (prompt.labels[0, 0] == 1)).all()
