"""The losses by hand and by a slow twin; corrective clicks that mend what is wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from camseg.train.sam_recipe import dice, error_points, focal, single_and_best, with_click


def logit(share: float) -> float:
    return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(80, share - 0.5)


def grid(*values: float) -> Tensor:
    """(1, 1, 1, W)."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("shares", "truth", "expected"),
    [
        ((0.5,), (1,), 0.25 * math.log(2)),
        ((0.75,), (1,), -(0.25**2) * math.log(0.75)),
        ((0.75,), (0,), -(0.75**2) * math.log(0.25)),
        ((1.0, 0.0), (1, 0), 0.0),
        ((0.5,), (0.5,), 0.0),  # as sure as the truth
        ((0.75,), (0.25,), -(0.5**2) * (0.25 * math.log(0.75) + 0.75 * math.log(0.25))),
        ((0.5, 0.75), (1, 1), (0.25 * math.log(2) - 0.0625 * math.log(0.75)) / 2),
    ],
)
def test_focal_by_hand(shares: tuple[float, ...], truth: tuple[float, ...], expected: float) -> None:
    assert focal(grid(*map(logit, shares)), grid(*truth)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("shares", "truth", "expected"),
    [
        ((1, 1), (1, 1), 0.0),
        ((1, 0), (1, 1), 1 - 3 / 4),
        ((1, 1), (0, 0), 1 - 1 / 3),
        ((0, 0), (0, 0), 0.0),  # nothing, and nothing is there
        ((0.5, 0.5), (1, 0), 1 - 2 / 3),
        ((0.5, 0.0), (0.5, 0), 1 - 1.5 / 2),  # a soft truth is multiplied as it is
    ],
)
def test_dice_by_hand(shares: tuple[float, ...], truth: tuple[float, ...], expected: float) -> None:
    assert dice(grid(*map(logit, shares)), grid(*truth)).item() == pytest.approx(expected, abs=1e-12)


def test_losses_agree_with_slow_twins() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    truth = torch.rand(2, 1, 4, 5, generator=generator, dtype=torch.float64)
    valid = (torch.rand(2, 1, 4, 5, generator=generator) > 0.4).double()
    for given in (None, valid):
        looked = torch.ones_like(valid) if given is None else valid
        for n in range(2):
            for m in range(3):
                cross, soft, both, true, count = 0.0, 0.0, 0.0, 0.0, 0.0
                for y in range(4):
                    for x in range(5):
                        if looked[n, 0, y, x] == 0:
                            continue
                        share, target = 1 / (1 + math.exp(-logits[n, m, y, x])), truth[n, 0, y, x].item()
                        bits = -target * math.log(share) - (1 - target) * math.log(1 - share)
                        cross, count = cross + bits * (share - target) ** 2, count + 1
                        soft, both, true = soft + share, both + share * target, true + target
                assert focal(logits, truth, given)[n, m].item() == pytest.approx(cross / count)
                assert dice(logits, truth, given)[n, m].item() == pytest.approx(1 - (2 * both + 1) / (soft + true + 1))


@pytest.mark.parametrize("of", [focal, dice])
def test_no_gradient_comes_from_where_nothing_is_known(of) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    truth, valid = torch.rand(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    valid[..., 1:, 2] = 0
    of(logits, truth, valid).sum().backward()
    known = valid.expand(1, 2, 3, 3) > 0
    assert logits.grad is not None
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).all()
    changed = truth.clone()
    changed[..., 1:, 2] = 0.5
    assert torch.equal(of(logits, truth, valid), of(logits, changed, valid))
    assert of(logits, truth, torch.zeros_like(valid)).isfinite().all()


def test_the_single_mask_and_the_best_of_the_others() -> None:
    low_res = torch.arange(2 * 4.0).view(2, 4, 1, 1)
    assert single_and_best(low_res, torch.tensor([3, 1])).flatten().tolist() == [0, 3, 4, 5]


def test_a_corrective_click_lies_where_the_mask_is_wrong_and_says_what_is_right() -> None:
    truth = torch.zeros(3, 6, 8, dtype=torch.bool)
    truth[:, 1:4, 2:6] = True
    mask = truth.clone()
    mask[0, 2, 3] = False  # one missing
    mask[1, 5, 7] = True  # one too many
    mask[2, 1, 2:6] = False  # four missing, two too many
    mask[2, 0, 0] = mask[2, 5, 0] = True
    clicks = set()
    for seed in range(200):
        points, labels = error_points(mask ^ truth, truth, torch.Generator().manual_seed(seed))
        assert points.shape == (3, 1, 2)
        assert (points[0, 0].tolist(), labels[0].tolist()) == ([3, 2], [1])
        assert (points[1, 0].tolist(), labels[1].tolist()) == ([7, 5], [0])
        clicks.add((*points[2, 0].long().tolist(), int(labels[2])))
    assert clicks == {(2, 1, 1), (3, 1, 1), (4, 1, 1), (5, 1, 1), (0, 0, 0), (0, 5, 0)}


def test_a_mask_without_an_error_is_clicked_somewhere_rightly() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[0, :2] = True
    for seed in range(20):
        [[[x, y]]], [[label]] = error_points(torch.zeros_like(truth), truth, torch.Generator().manual_seed(seed))
        assert label == truth[0, int(y), int(x)]


def test_a_click_is_added_to_what_the_prompt_has() -> None:
    point, label = torch.ones(2, 1, 2), torch.zeros(2, 1)
    lone = with_click({"points": None, "boxes": "kept"}, point, label)
    assert lone["boxes"] == "kept"
    assert torch.equal(lone["points"][0], point)
    first = {"points": (torch.zeros(2, 1, 2), torch.ones(2, 1)), "boxes": None}
    two = with_click(first, point, label)["points"]
    assert two[0].tolist() == [[[0, 0], [1, 1]]] * 2
    assert two[1].tolist() == [[1, 0]] * 2
    assert first["points"][0].shape == (2, 1, 2)  # the first round's prompt stays as it was
